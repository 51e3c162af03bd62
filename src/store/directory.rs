//! The data directory: one process at a time, readable by its owner only.
//!
//! The lock is the kernel's (`flock`), so it ends with its process, however that ends. What stands in the file only
//! tells a second process whom it has met.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::StoreError;

const LOCK_FILE: &str = "LOCK";
const DATABASE_FILE: &str = "plumb.db";

/// The directory with everything the process keeps, locked for as long as this value lives.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    lock: File,
}

impl DataDirectory {
    /// Creates the directory (mode 0700) if need be and locks it.
    ///
    /// [`StoreError::Locked`] names the process that holds it. Touches the disk; call it before serving.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Io { path: path.display().to_string(), source };
        if !path.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
            sync_parent(path).map_err(failed)?;
        }
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join(LOCK_FILE))
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Locked { path: path.display().to_string(), holder: read_holder(&mut lock) });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let directory = Self { path: path.to_owned(), lock };
        directory.describe(&format!("process {}", std::process::id())).map_err(failed)?;
        Ok(directory)
    }

    /// Adds the address under which the process listens to what a second one is told.
    pub fn set_address(&self, address: &str) -> Result<(), StoreError> {
        self.describe(&format!("process {}, listening on {address}", std::process::id()))
            .map_err(|source| StoreError::Io { path: self.path.join(LOCK_FILE).display().to_string(), source })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the database file is.
    pub fn database(&self) -> PathBuf {
        Self::database_in(&self.path)
    }

    /// Where the database file of the data directory `path` is, for those who only read and hold no lock.
    pub fn database_in(path: &Path) -> PathBuf {
        path.join(DATABASE_FILE)
    }

    // Not synced: after a power cut nobody holds the lock.
    fn describe(&self, holder: &str) -> std::io::Result<()> {
        let mut file = &self.lock;
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(holder.as_bytes())
    }
}

fn read_holder(lock: &mut File) -> String {
    let mut holder = String::new();
    let read = lock.take(1024).read_to_string(&mut holder);
    if read.is_err() || holder.is_empty() { "another process".to_owned() } else { holder }
}

// Without this the entry of a new directory may be gone after a power cut, with all that is in it.
fn sync_parent(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_second_opener_is_told_who_holds_the_directory() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("deep/data");
        let first = DataDirectory::open(&path).unwrap();
        first.set_address("127.0.0.1:8080").unwrap();

        let refused = DataDirectory::open(&path).unwrap_err();

        let StoreError::Locked { holder, .. } = refused else { panic!("{refused:?}") };
        assert_eq!(holder, format!("process {}, listening on 127.0.0.1:8080", std::process::id()));
    }

    #[test]
    fn a_lock_whose_holder_is_gone_does_not_lock() {
        let parent = tempfile::tempdir().unwrap();
        std::fs::write(parent.path().join(LOCK_FILE), "process 999999").unwrap();

        let directory = DataDirectory::open(parent.path()).unwrap();

        let told = std::fs::read_to_string(directory.path().join(LOCK_FILE)).unwrap();
        assert_eq!(told, format!("process {}", std::process::id()));
    }

    #[test]
    fn only_the_owner_can_look_into_a_new_directory() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");

        let _directory = DataDirectory::open(&path).unwrap();

        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_file_in_the_directorys_place_is_named() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        std::fs::write(&path, "x").unwrap();

        let refused = DataDirectory::open(&path).unwrap_err();

        assert!(refused.to_string().contains("data"), "{refused}");
        assert!(matches!(refused, StoreError::Io { .. }));
    }
}
