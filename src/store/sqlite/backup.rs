//! A copy of the truth while it is written to, and the way back.
//!
//! `VACUUM INTO` copies one committed state, whatever a server writes meanwhile. A backup is a database file with its
//! BLAKE3 beside it, in the form that `b3sum --check` reads; neither has its name before all of it is on disk.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};

use crate::store::{DataDirectory, StoreError};

use super::codec::Columns;
use super::open::{check_pages, known_format};

/// Longest wait for a lock; a server that writes does not hold readers up.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const COPY_BUFFER_BYTES: usize = 1 << 20;

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupReport {
    pub bytes: u64,
    /// BLAKE3 of the file in hexadecimal.
    pub checksum: String,
    /// The newest operation in it: everything acknowledged with this sequence or a lower one is there.
    pub sequence: u64,
    /// Documents that are not deleted, of all tenants.
    pub documents: u64,
}

/// Why a backup was not made or not taken back.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("there is no file {path}")]
    Missing { path: String },
    #[error("{path} is there already; a backup never replaces a file")]
    Exists { path: String },
    #[error("{path} holds a database already; restore into a new directory, then move that into place")]
    NotEmpty { path: String },
    #[error("{path} is not what was written: its checksum is {found}, expected {expected}")]
    Altered { path: String, found: String, expected: String },
    #[error("{path}")]
    Io {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("the database cannot be used")]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for BackupError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Copies the database of a data directory to `target`, verifies the copy, and makes it durable. Another process may
/// hold the directory and write to it. Blocks a thread for as long as the copy takes.
pub async fn back_up(database: &Path, target: &Path) -> Result<BackupReport, BackupError> {
    must_exist(database)?;
    // A checksum alone was left by a backup that was interrupted.
    if target.exists() {
        return Err(BackupError::Exists { path: target.display().to_string() });
    }
    let part = with_suffix(target, ".part");
    // Left by a backup that was interrupted.
    remove_if_there(&part)?;
    let mut source = reader(database).await?;
    let name = part.to_str().ok_or_else(|| failed(&part, io::Error::other("the path is not UTF-8")))?;
    sqlx::query("VACUUM INTO $1").bind(name).execute(&mut source).await?;
    source.close().await?;
    let mut report = verify(&part).await?;
    report.checksum = checksum(&part)?;
    let line = format!("{}  {}\n", report.checksum, file_name(target));
    let checksum_file = checksum_path(target);
    write_durably(&checksum_file, &line)?;
    publish(&part, target)?;
    Ok(report)
}

/// Puts a backup into a data directory that has no database yet. Its indexes are built from it at the next start.
pub async fn restore(backup: &Path, directory: &DataDirectory) -> Result<BackupReport, BackupError> {
    must_exist(backup)?;
    let database = directory.database();
    if database.exists() || directory.path().join("index").exists() {
        return Err(BackupError::NotEmpty { path: directory.path().display().to_string() });
    }
    let found = checksum(backup)?;
    let checksum_file = checksum_path(backup);
    if checksum_file.exists() {
        let text = fs::read_to_string(&checksum_file).map_err(|source| failed(&checksum_file, source))?;
        let expected = text.split_whitespace().next().unwrap_or_default().to_owned();
        if expected != found {
            return Err(BackupError::Altered { path: backup.display().to_string(), found, expected });
        }
    }
    let part = with_suffix(&database, ".part");
    remove_if_there(&part)?;
    fs::copy(backup, &part).map_err(|source| failed(&part, source))?;
    let mut report = verify(&part).await?;
    report.checksum = found;
    publish(&part, &database)?;
    Ok(report)
}

fn must_exist(path: &Path) -> Result<(), BackupError> {
    if path.is_file() { Ok(()) } else { Err(BackupError::Missing { path: path.display().to_string() }) }
}

fn remove_if_there(path: &Path) -> Result<(), BackupError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(path, error)),
        _ => Ok(()),
    }
}

/// A connection that reads the database in the file `path`.
pub(super) async fn reader(path: &Path) -> Result<SqliteConnection, StoreError> {
    let options = SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(BUSY_TIMEOUT);
    Ok(options.disable_statement_logging().connect().await?)
}

/// Every page, every index entry, and what is in it.
async fn verify(path: &Path) -> Result<BackupReport, BackupError> {
    let mut copy = reader(path).await?;
    known_format(&mut copy).await?;
    check_pages(&mut copy).await?;
    const SQL: &str = "SELECT COALESCE((SELECT seq FROM sqlite_sequence WHERE name = 'oplog'), 0), \
        (SELECT COUNT(*) FROM documents WHERE chunking_id IS NOT NULL)";
    let row = sqlx::query(SQL).fetch_one(&mut copy).await?;
    let mut columns = Columns::of(&row);
    let (sequence, documents) = (columns.unsigned()?, columns.unsigned()?);
    copy.close().await?;
    let bytes = fs::metadata(path).map_err(|source| failed(path, source))?.len();
    Ok(BackupReport { bytes, checksum: String::new(), sequence, documents })
}

fn checksum(path: &Path) -> Result<String, BackupError> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; COPY_BUFFER_BYTES];
    let mut file = File::open(path).map_err(|source| failed(path, source))?;
    loop {
        let read = file.read(&mut buffer).map_err(|source| failed(path, source))?;
        if read == 0 {
            return Ok(hasher.finalize().to_hex().to_string());
        }
        hasher.update(&buffer[..read]);
    }
}

fn write_durably(path: &Path, text: &str) -> Result<(), BackupError> {
    let written = fs::write(path, text).and_then(|()| File::open(path)?.sync_all());
    written.map_err(|source| failed(path, source))
}

/// Gives a file that is whole its name; both are on disk on return.
fn publish(part: &Path, path: &Path) -> Result<(), BackupError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let published = (|| {
        // Whatever the file it was copied from allowed: the database is its owner's alone.
        fs::set_permissions(part, fs::Permissions::from_mode(0o600))?;
        File::open(part)?.sync_all()?;
        fs::rename(part, path)?;
        File::open(parent)?.sync_all()
    })();
    published.map_err(|source| failed(path, source))
}

fn checksum_path(target: &Path) -> PathBuf {
    with_suffix(target, ".b3")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn failed(path: &Path, source: io::Error) -> BackupError {
    BackupError::Io { path: path.display().to_string(), source }
}
