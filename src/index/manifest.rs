//! Sealed files and the manifest that names them.
//!
//! A file is written beside its place, synced, renamed, and never changed again; the manifest holds its length and
//! xxh3 and is replaced the same way. The order is the promise: files, then their directory, then the manifest, then
//! the directory again. No reader may look into a file before [`verify`] has passed it.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::hash::Hasher;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use super::IndexError;

/// The name of the manifest in its directory.
pub(super) const MANIFEST: &str = "MANIFEST";

const TEMPORARY: &str = ".tmp";
const DAMAGED: &str = ".damaged-";
/// How many damaged files a directory keeps for inspection; a disk that rots must not also fill up.
const KEPT_DAMAGED: usize = 8;
const COPY_BUFFER_BYTES: usize = 1 << 18;

/// A sealed file as the manifest names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileRecord {
    pub name: String,
    pub bytes: u64,
    pub xxh3: u64,
}

/// A buffered writer that hashes what passes through.
pub(super) struct SealingWriter {
    file: BufWriter<File>,
    hash: XxHash3_64,
    bytes: u64,
}

impl Write for SealingWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.file.write(buffer)?;
        self.hash.write(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Writes the file `name` in `dir`: whole and on disk under that name, or not there at all.
///
/// The name itself is durable only after [`sync_directory`] or [`replace`].
pub(super) fn seal(
    dir: &Path,
    name: &str,
    write: impl FnOnce(&mut SealingWriter) -> io::Result<()>,
) -> Result<FileRecord, IndexError> {
    let temporary = dir.join(format!("{name}{TEMPORARY}"));
    let sealed = (|| {
        let file = BufWriter::with_capacity(COPY_BUFFER_BYTES, File::create(&temporary)?);
        let mut writer = SealingWriter { file, hash: XxHash3_64::new(), bytes: 0 };
        write(&mut writer)?;
        writer.flush()?;
        writer.file.get_ref().sync_data()?;
        fs::rename(&temporary, dir.join(name))?;
        Ok(FileRecord { name: name.to_owned(), bytes: writer.bytes, xxh3: writer.hash.finish() })
    })();
    sealed.map_err(|source| {
        // Best effort: an orphan is removed at the next open.
        let _ = fs::remove_file(&temporary);
        io_error(&dir.join(name), source)
    })
}

/// Seals a file that a library has written to `temporary` in `dir`, under `name`.
pub(super) fn adopt(dir: &Path, temporary: &str, name: &str) -> Result<FileRecord, IndexError> {
    let from = dir.join(temporary);
    let adopted = (|| {
        File::open(&from)?.sync_data()?;
        let (bytes, xxh3) = fingerprint(&from)?;
        fs::rename(&from, dir.join(name))?;
        Ok(FileRecord { name: name.to_owned(), bytes, xxh3 })
    })();
    adopted.map_err(|source| io_error(&from, source))
}

/// The name under which a library may write what [`adopt`] will seal.
pub(super) fn temporary_name(name: &str) -> String {
    format!("{name}{TEMPORARY}")
}

/// Reads the whole file and compares length and checksum.
///
/// Reads rather than maps, so the pages it passes do not count as resident.
pub(super) fn verify(dir: &Path, record: &FileRecord) -> Result<(), IndexError> {
    let path = dir.join(&record.name);
    let length = fs::metadata(&path).map_err(|source| io_error(&path, source))?.len();
    if length != record.bytes {
        return Err(corrupt(&path, format!("has {length} bytes, expected {}", record.bytes)));
    }
    let (_, xxh3) = fingerprint(&path).map_err(|source| io_error(&path, source))?;
    if xxh3 == record.xxh3 { Ok(()) } else { Err(corrupt(&path, "the checksum does not match".to_owned())) }
}

fn fingerprint(path: &Path) -> io::Result<(u64, u64)> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; COPY_BUFFER_BYTES];
    let (mut hash, mut bytes) = (XxHash3_64::new(), 0);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((bytes, hash.finish()));
        }
        hash.write(&buffer[..read]);
        bytes += read as u64;
    }
}

/// Replaces the manifest of `dir`. After this, what `manifest` names is what the next open finds.
pub(super) fn replace<T: Serialize>(dir: &Path, manifest: &T) -> Result<(), IndexError> {
    sync_directory(dir)?;
    let body = serde_json::to_string(manifest).map_err(|error| corrupt(&dir.join(MANIFEST), error.to_string()))?;
    let checksum = XxHash3_64::oneshot(body.as_bytes());
    seal(dir, MANIFEST, |file| writeln!(file, "{body}\n{checksum:016x}"))?;
    sync_directory(dir)
}

/// The manifest of `dir`; `None` if there is none.
pub(super) fn read<T: DeserializeOwned>(dir: &Path) -> Result<Option<T>, IndexError> {
    let path = dir.join(MANIFEST);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(corrupt(&path, "is not text".to_owned()));
        }
        Err(source) => return Err(io_error(&path, source)),
    };
    let (body, checksum) = text
        .strip_suffix('\n')
        .and_then(|text| text.rsplit_once('\n'))
        .ok_or_else(|| corrupt(&path, "is cut short".to_owned()))?;
    if checksum != format!("{:016x}", XxHash3_64::oneshot(body.as_bytes())) {
        return Err(corrupt(&path, "the checksum does not match".to_owned()));
    }
    serde_json::from_str(body).map(Some).map_err(|error| corrupt(&path, error.to_string()))
}

/// Makes the names in `dir` durable.
pub(super) fn sync_directory(dir: &Path) -> Result<(), IndexError> {
    File::open(dir).and_then(|handle| handle.sync_all()).map_err(|source| io_error(dir, source))
}

/// Renames a damaged file or directory so that it can be looked at but is never read again. Nothing there: no matter.
pub(super) fn set_aside(dir: &Path, name: &str) -> Result<(), IndexError> {
    let path = dir.join(name);
    let free = (1..=KEPT_DAMAGED).map(|n| dir.join(format!("{name}{DAMAGED}{n}"))).find(|aside| !aside.exists());
    let done = match free {
        Some(aside) => fs::rename(&path, aside),
        None if path.is_dir() => fs::remove_dir_all(&path),
        None => fs::remove_file(&path),
    };
    match done {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(&path, error)),
        _ => Ok(()),
    }
}

/// Deletes everything in `dir` that was set aside; no directory is as good as an empty one.
pub(super) fn remove_set_aside(dir: &Path) -> Result<(), IndexError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|source| io_error(dir, source))?,
    };
    for entry in entries {
        let path = entry.map_err(|source| io_error(dir, source))?.path();
        if path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.contains(DAMAGED)) {
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(|source| io_error(&path, source))?;
        }
    }
    Ok(())
}

/// False for temporary and damaged files.
pub(super) fn is_sealed_name(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| !name.ends_with(TEMPORARY) && !name.contains(DAMAGED))
}

/// Removes the files of `dir` that nothing names: left over from a crash or from a merge. Damaged ones stay.
pub(super) fn remove_orphans(dir: &Path, named: &HashSet<&str>) -> Result<(), IndexError> {
    for entry in fs::read_dir(dir).map_err(|source| io_error(dir, source))? {
        let entry = entry.map_err(|source| io_error(dir, source))?;
        let name = entry.file_name();
        let kept = name.to_str().is_none_or(|name| named.contains(name) || name.contains(DAMAGED));
        if !kept && entry.path().is_file() {
            fs::remove_file(entry.path()).map_err(|source| io_error(&entry.path(), source))?;
        }
    }
    Ok(())
}

/// An I/O error at `path`.
pub(super) fn io_error(path: &Path, source: io::Error) -> IndexError {
    IndexError::Io { path: path.display().to_string(), source }
}

/// A file that is not what it should be.
pub(super) fn corrupt(path: &Path, detail: String) -> IndexError {
    IndexError::Corrupt { path: path.display().to_string(), detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_read_back_whole_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read::<Vec<u32>>(dir.path()).unwrap().is_none());
        replace(dir.path(), &vec![1_u32, 2, 3]).unwrap();
        assert_eq!(read::<Vec<u32>>(dir.path()).unwrap(), Some(vec![1, 2, 3]));

        let path = dir.path().join(MANIFEST);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x11;
            fs::write(&path, &flipped).unwrap();
            assert!(read::<Vec<u32>>(dir.path()).is_err(), "byte {at}");
            fs::write(&path, &whole[..at]).unwrap();
            assert!(read::<Vec<u32>>(dir.path()).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_sealed_file_is_verified_by_length_and_checksum() {
        let dir = tempfile::tempdir().unwrap();
        let record = seal(dir.path(), "a", |file| file.write_all(b"some bytes")).unwrap();
        assert!(verify(dir.path(), &record).is_ok());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing temporary is left");

        fs::write(dir.path().join("a"), b"some bytez").unwrap();
        assert!(verify(dir.path(), &record).is_err());
        fs::write(dir.path().join("a"), b"some byte").unwrap();
        assert!(verify(dir.path(), &record).is_err());
        fs::remove_file(dir.path().join("a")).unwrap();
        assert!(verify(dir.path(), &record).is_err());
    }

    #[test]
    fn a_failed_write_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();

        let failed = seal(dir.path(), "a", |_| Err(io::Error::other("no")));

        assert!(failed.is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn orphans_go_and_damaged_files_stay_up_to_a_bound() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..KEPT_DAMAGED + 3 {
            fs::write(dir.path().join("bad"), b"x").unwrap();
            set_aside(dir.path(), "bad").unwrap();
        }
        fs::write(dir.path().join("kept"), b"x").unwrap();
        fs::write(dir.path().join("orphan.tmp"), b"x").unwrap();

        remove_orphans(dir.path(), &HashSet::from(["kept"])).unwrap();

        assert!(dir.path().join("kept").exists());
        assert!(!dir.path().join("orphan.tmp").exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), KEPT_DAMAGED + 1);
        assert!(set_aside(dir.path(), "never was").is_ok());
    }
}
