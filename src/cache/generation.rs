//! One generation of the cache: a file of values and, in sled, where each of them lies.
//!
//! Values are kept out of sled because its page cache only looks at its bound after 64 accesses in each of 256
//! shards: with values of 20 kB it held 220 MB for a bound of 8.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::warn;

use super::entry::{seal, unseal};

/// A file of values that only grows, and the index into it.
pub(super) struct Generation {
    pub number: u64,
    index: sled::Tree,
    values: File,
    path: PathBuf,
    /// Where the next value goes.
    end: AtomicU64,
}

/// Where a value lies: offset and length, as they are kept in the index.
struct Place {
    offset: u64,
    len: u32,
}

impl Generation {
    /// Opens or makes the generation of this number.
    pub fn open(db: &sled::Db, dir: &Path, number: u64) -> sled::Result<Self> {
        let path = values_path(dir, number);
        let values = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        let end = AtomicU64::new(values.metadata()?.len());
        Ok(Self { number, index: db.open_tree(tree_name(number))?, values, path, end })
    }

    /// Bytes of values, forgotten and replaced ones counted.
    pub fn bytes(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// The value under `key`, if it is there and whole.
    pub fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        let place = self.place(key)?;
        let mut sealed = vec![0; place.len as usize];
        // A place behind the end of the file is a value that a crash has lost.
        if let Err(error) = self.values.read_exact_at(&mut sealed, place.offset) {
            warn!(%error, "cache value could not be read, treated as absent");
            return None;
        }
        let payload = unseal(key, &sealed).map(<[u8]>::to_vec);
        if payload.is_none() {
            warn!("cache value is damaged, treated as absent");
        }
        payload
    }

    pub fn put(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let sealed = seal(key, value);
        let offset = self.end.fetch_add(sealed.len() as u64, Ordering::AcqRel);
        self.values.write_all_at(&sealed, offset)?;
        self.index.insert(key, &Place { offset, len: sealed.len() as u32 }.to_bytes())?;
        Ok(())
    }

    /// Forgets one value and overwrites its bytes; true if there was one.
    pub fn remove(&self, key: &[u8]) -> io::Result<bool> {
        let Some(place) = self.index.remove(key)?.and_then(|bytes| Place::from_bytes(&bytes)) else {
            return Ok(false);
        };
        if place.offset + u64::from(place.len) <= self.bytes() {
            self.values.write_all_at(&vec![0; place.len as usize], place.offset)?;
        }
        Ok(true)
    }

    /// Forgets what is kept under keys that begin with `prefix`; returns how many there were.
    pub fn clear(&self, prefix: &[u8]) -> io::Result<usize> {
        let mut cleared = 0;
        for key in self.index.scan_prefix(prefix).keys() {
            cleared += usize::from(self.remove(&key?)?);
        }
        Ok(cleared)
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        self.place(key).is_some()
    }

    /// All keys that can be read.
    pub fn keys(&self) -> impl Iterator<Item = sled::IVec> {
        self.index.iter().keys().flatten()
    }

    /// Deletes the generation.
    pub fn delete(self, db: &sled::Db) -> io::Result<()> {
        let name = self.index.name();
        drop(self.index);
        db.drop_tree(name)?;
        std::fs::remove_file(&self.path)
    }

    fn place(&self, key: &[u8]) -> Option<Place> {
        match self.index.get(key) {
            Ok(found) => Place::from_bytes(&found?),
            Err(error) => {
                warn!(%error, "cache index could not be read, entry treated as absent");
                None
            }
        }
    }
}

/// Deletes what belongs to no generation from `oldest` on: a crash between two steps of a turn leaves such things.
pub(super) fn delete_strays(db: &sled::Db, dir: &Path, (oldest, youngest): (u64, u64)) -> sled::Result<()> {
    let known: Vec<u64> = (oldest..=youngest).collect();
    for name in db.tree_names() {
        let is_ours = known.iter().any(|number| tree_name(*number).as_bytes() == name.as_ref());
        if !is_ours && name.as_ref() != b"__sled__default" {
            db.drop_tree(name)?;
        }
    }
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let is_values = path.extension().is_some_and(|extension| extension == VALUES_EXTENSION);
        if is_values && !known.iter().any(|number| values_path(dir, *number) == path) {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

const VALUES_EXTENSION: &str = "values";

fn tree_name(number: u64) -> String {
    format!("generation-{number}")
}

fn values_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("generation-{number}")).with_extension(VALUES_EXTENSION)
}

impl Place {
    fn to_bytes(&self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[8..].copy_from_slice(&self.len.to_le_bytes());
        bytes
    }

    // A length beyond any value is damage; it must not become an allocation.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (offset, len) = bytes.split_first_chunk()?;
        let len = u32::from_le_bytes(len.try_into().ok()?);
        let most = (super::disk::MAX_VALUE_BYTES + super::entry::CHECKSUM_BYTES) as u32;
        (len <= most).then_some(Self { offset: u64::from_le_bytes(*offset), len })
    }
}
