//! Opens the database: recovers, checks, migrates, and proves that it will keep what it acknowledges.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, SqlSafeStr as _, SqliteConnection};

use crate::store::{IntegrityCheck, StoreError, StoreSettings};

use super::codec::{Columns, damaged};
use super::failure::RESTORE_HINT;
use super::plan::Ids;

/// "PLUM": stands in the header of every plumb database.
const APPLICATION_ID: i64 = 0x504c_554d;
/// The number of the newest migration.
const FORMAT: i64 = 4;
/// A row with a chunk's text or vector fills a page of 4 KiB so badly that a quarter is lost; of 8 KiB a tenth.
pub(super) const PAGE_BYTES: u32 = 8192;
/// What is left of the write-ahead log's file once a large transaction is through.
const LOG_FILE_BYTES: u64 = 64 << 20;
/// Prepared scripts of the writer: a handful of shapes covers all but the odd document write, and the ledger's differ by
/// which of its eight lists have something in them, some dozens of ways; with the lists of tasks twice as many.
const WRITER_STATEMENTS: usize = 256;
const SYNCHRONOUS_FULL: i64 = 2;

/// How the process before this one ended: closing removes the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LastProcess {
    Closed,
    Crashed,
}

/// Everything the store is built from.
pub(super) struct Opened {
    pub writer: SqliteConnection,
    pub readers: Vec<SqliteConnection>,
    pub ids: Ids,
    pub durability: Durability,
}

/// What the writer's connection says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Durability {
    pub journal_mode: String,
    /// 2 is FULL: an fsync of the log for each commit.
    pub synchronous: i64,
    pub foreign_keys: i64,
}

/// Opens or creates the database in the file `path`.
pub(super) async fn open(path: &Path, settings: &StoreSettings) -> Result<Opened, StoreError> {
    let last = if file_len(&log_path(path)) > 0 { LastProcess::Crashed } else { LastProcess::Closed };
    create_file(path).map_err(|source| StoreError::Io { path: path.display().to_string(), source })?;
    let mut writer = writer_options(path, settings).connect().await?;
    refuse_foreign(&mut writer).await?;
    set_durability(&mut writer).await?;
    let durability = read_durability(&mut writer).await?;
    check_durability(path, &durability)?;
    check_length(&mut writer, path).await?;
    check_integrity(&mut writer, settings.integrity_check, last).await?;
    migrator().run(&mut writer).await.map_err(migration_failed)?;
    let ids = load_ids(&mut writer).await?;
    let mut readers = Vec::new();
    for _ in 0..settings.readers.max(1) {
        readers.push(base_options(path, settings).read_only(true).connect().await?);
    }
    Ok(Opened { writer, readers, ids, durability })
}

// By hand rather than by SQLite: the owner alone may read it, and a failure names its reason.
fn create_file(path: &Path) -> std::io::Result<()> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

fn base_options(path: &Path, settings: &StoreSettings) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .foreign_keys(true)
        .busy_timeout(Duration::from_millis(settings.busy_timeout_ms))
        .pragma("temp_store", "MEMORY")
        .pragma("cache_size", format!("-{}", settings.cache_kib))
        .pragma("mmap_size", (u64::from(settings.mmap_mib) << 20).to_string())
        .disable_statement_logging()
}

fn writer_options(path: &Path, settings: &StoreSettings) -> SqliteConnectOptions {
    let options = base_options(path, settings)
        .page_size(PAGE_BYTES)
        .statement_cache_capacity(WRITER_STATEMENTS)
        // The writer makes checkpoints itself, because SQLite would swallow their errors.
        .pragma("wal_autocheckpoint", "0")
        // What is removed is overwritten. An ingest of documents that change, which hardly frees a page, takes a
        // twentieth more of the processor with it; removals as long as without, whose time goes into reading pages.
        .pragma("secure_delete", "ON")
        .pragma("journal_size_limit", LOG_FILE_BYTES.to_string());
    match settings.max_size_mib {
        None => options,
        Some(mib) => options.pragma("max_page_count", ((mib << 20) / u64::from(PAGE_BYTES)).max(1).to_string()),
    }
}

// Before anything is written: a database of somebody else, or of a newer plumb, stays as it is.
async fn refuse_foreign(writer: &mut SqliteConnection) -> Result<(), StoreError> {
    let application = pragma(writer, "PRAGMA application_id").await?;
    let found = pragma(writer, "PRAGMA user_version").await?;
    // A first start that was cut off may have got as far as the list of migrations, before the first one has marked the
    // file as ours.
    let tables = pragma(writer, "SELECT COUNT(*) FROM sqlite_schema WHERE tbl_name <> '_sqlx_migrations'").await?;
    if application != APPLICATION_ID && (application != 0 || tables > 0) {
        return Err(StoreError::Corrupt { detail: "the file is not a plumb database".to_owned() });
    }
    if found > FORMAT {
        return Err(StoreError::TooNew { found, known: FORMAT });
    }
    Ok(())
}

/// The format of a database; refuses what is no plumb database, or a newer one.
pub(super) async fn known_format(reader: &mut SqliteConnection) -> Result<i64, StoreError> {
    refuse_foreign(reader).await?;
    let application = pragma(reader, "PRAGMA application_id").await?;
    if application != APPLICATION_ID {
        return Err(StoreError::Corrupt { detail: "the file is not a plumb database".to_owned() });
    }
    pragma(reader, "PRAGMA user_version").await
}

/// As [`known_format`], and refuses an older one.
pub(super) async fn must_be_current(reader: &mut SqliteConnection) -> Result<(), StoreError> {
    let found = known_format(reader).await?;
    if found == FORMAT {
        return Ok(());
    }
    let detail = format!("the database has format {found}, this reads {FORMAT}; `plumb serve` brings it up to date");
    Err(StoreError::Corrupt { detail })
}

/// Every page and index entry.
pub(super) async fn check_pages(reader: &mut SqliteConnection) -> Result<(), StoreError> {
    let verdict: String = sqlx::query_scalar("PRAGMA integrity_check(1)").fetch_one(&mut *reader).await?;
    if verdict == "ok" { Ok(()) } else { Err(StoreError::Corrupt { detail: format!("{verdict}; {RESTORE_HINT}") }) }
}

async fn set_durability(writer: &mut SqliteConnection) -> Result<(), StoreError> {
    sqlx::query("PRAGMA journal_mode = WAL").fetch_one(&mut *writer).await?;
    sqlx::query("PRAGMA synchronous = FULL").execute(&mut *writer).await?;
    Ok(())
}

pub(super) async fn read_durability(writer: &mut SqliteConnection) -> Result<Durability, StoreError> {
    let journal_mode = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *writer).await?;
    let synchronous = pragma(writer, "PRAGMA synchronous").await?;
    let foreign_keys = pragma(writer, "PRAGMA foreign_keys").await?;
    Ok(Durability { journal_mode, synchronous, foreign_keys })
}

/// Refuses a connection that would acknowledge what a power cut can take.
pub(super) fn check_durability(path: &Path, found: &Durability) -> Result<(), StoreError> {
    if found.journal_mode == "wal" && found.synchronous == SYNCHRONOUS_FULL && found.foreign_keys == 1 {
        return Ok(());
    }
    let source = std::io::Error::other(format!("the database cannot be made durable here: {found:?}"));
    Err(StoreError::Io { path: path.display().to_string(), source })
}

// With the log moved into it, the file must be exactly as long as its header says.
async fn check_length(writer: &mut SqliteConnection, path: &Path) -> Result<(), StoreError> {
    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&mut *writer).await?;
    let pages = pragma(writer, "PRAGMA page_count").await?;
    let bytes = pragma(writer, "PRAGMA page_size").await?;
    let (expected, found) = (pages * bytes, file_len(path) as i64);
    if expected == found {
        return Ok(());
    }
    let detail = format!("the file has {found} bytes and should have {expected}; {RESTORE_HINT}");
    Err(StoreError::Corrupt { detail })
}

async fn check_integrity(
    writer: &mut SqliteConnection,
    check: IntegrityCheck,
    last: LastProcess,
) -> Result<(), StoreError> {
    match (check, last) {
        (IntegrityCheck::Never, _) | (IntegrityCheck::AfterCrash, LastProcess::Closed) => return Ok(()),
        (IntegrityCheck::AfterCrash, LastProcess::Crashed) | (IntegrityCheck::Always, _) => {}
    }
    let verdict: String = sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(&mut *writer).await?;
    if verdict == "ok" {
        return Ok(());
    }
    Err(StoreError::Corrupt { detail: format!("{verdict}; {RESTORE_HINT}") })
}

fn migrator() -> Migrator {
    let corpus = include_str!("../../../migrations/sqlite/0001_corpus.sql");
    let ledger = include_str!("../../../migrations/sqlite/0002_ledger.sql");
    let tasks = include_str!("../../../migrations/sqlite/0003_tasks.sql");
    let generations = include_str!("../../../migrations/sqlite/0004_generations.sql");
    let migrations =
        [(1, "corpus", corpus), (2, "ledger", ledger), (3, "tasks", tasks), (4, "generations", generations)];
    let migrations = migrations.map(|(number, name, sql)| migration(number, name, sql));
    Migrator::with_migrations(migrations.into())
}

fn migration(number: i64, name: &'static str, sql: &'static str) -> Migration {
    Migration::new(number, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
}

fn migration_failed(error: MigrateError) -> StoreError {
    match error {
        MigrateError::VersionMissing(found) => StoreError::TooNew { found, known: FORMAT },
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error.into(),
        other => damaged("migrations", &other.to_string()),
    }
}

async fn load_ids(writer: &mut SqliteConnection) -> Result<Ids, StoreError> {
    // The log's numbers are never used twice, even once its oldest rows are gone; SQLite keeps the last for us.
    const SQL: &str = "SELECT (SELECT COALESCE(MAX(id), 0) FROM documents), \
        (SELECT COALESCE(MAX(id), 0) FROM versions), (SELECT COALESCE(MAX(id), 0) FROM segments), \
        (SELECT COALESCE(MAX(id), 0) FROM chunkings), (SELECT COALESCE(MAX(id), 0) FROM chunks), \
        (SELECT COALESCE(MAX(id), 0) FROM embeddings), \
        COALESCE((SELECT seq FROM sqlite_sequence WHERE name = 'oplog'), 0), \
        (SELECT COALESCE(MAX(id), 0) FROM traces)";
    let row = sqlx::query(SQL).fetch_one(&mut *writer).await?;
    let mut columns = Columns::of(&row);
    Ok(Ids {
        document: columns.take()?,
        version: columns.take()?,
        segment: columns.take()?,
        chunking: columns.take()?,
        chunk: columns.take()?,
        embedding: columns.take()?,
        sequence: columns.take()?,
        request: columns.take()?,
    })
}

async fn pragma(writer: &mut SqliteConnection, sql: &'static str) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar(sql).fetch_one(&mut *writer).await?)
}

fn log_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    PathBuf::from(name)
}

fn file_len(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |file| file.len())
}
