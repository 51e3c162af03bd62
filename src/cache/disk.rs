//! The cache on disk, in sled: content-addressed, keyed by tenant, bounded by generations.
//!
//! Two trees: *young* takes every write; when it holds half the bound it becomes *old* and the former old one is
//! dropped whole. A hit in old is copied to young. So what was used lately stays (within a factor of two of LRU)
//! and eviction costs nothing per entry.
//!
//! Never put here what cannot be made again: sled's flush does not survive a power cut.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use tracing::warn;

use crate::domain::TenantScope;

use super::entry::{key_bytes, seal, tenant_prefix, unseal};
use super::{CacheError, CacheKey, CacheSettings};

/// Generations that a directory may hold before a new name is tried for one that was moved aside.
const MAX_ASIDE: u32 = 1_000;
/// Where the number of the young generation is kept.
const GENERATION_KEY: &[u8] = b"generation";
/// Longest value taken: larger ones would fill whole segments of the storage engine.
const MAX_VALUE_BYTES: usize = 4 << 20;

/// A disk cache. Every call may read or write the disk: call it from threads that may block, never from a tokio
/// thread. Dropping it flushes.
pub struct Cache {
    db: sled::Db,
    trees: RwLock<Trees>,
    /// Keys and values in the young tree, in bytes.
    young_bytes: AtomicU64,
    /// Held by whoever turns the generations.
    turning: Mutex<()>,
    half: u64,
}

struct Trees {
    number: u64,
    young: sled::Tree,
    old: sled::Tree,
}

impl Cache {
    /// Opens or makes the cache in `dir`. A directory that does not open is moved aside with a warning and a
    /// fresh one is made; one that another process holds is [`CacheError::Locked`]. Blocks.
    pub fn open(dir: &Path, settings: &CacheSettings) -> Result<Self, CacheError> {
        match try_open(dir, settings) {
            Err(CacheError::Unusable { detail, .. }) if dir.exists() => {
                let aside = move_aside(dir)?;
                warn!(cache = %dir.display(), aside = %aside.display(), detail, "cache moved aside, starting afresh");
                try_open(dir, settings)
            }
            outcome => outcome,
        }
    }

    /// The value under `key`, if there is one and it is whole. Blocks.
    pub fn get(&self, scope: &TenantScope, key: &CacheKey) -> Option<Vec<u8>> {
        let key = key_bytes(scope, key);
        let trees = self.trees.read();
        if let Some(found) = read(&trees.young, &key) {
            return Some(found);
        }
        let found = read(&trees.old, &key)?;
        drop(trees);
        self.insert(&key, &found);
        Some(found)
    }

    /// Keeps `value` under `key`, for as long as there is room. Failures are logged: the value is made again.
    /// Blocks.
    pub fn put(&self, scope: &TenantScope, key: &CacheKey, value: &[u8]) {
        if value.len() <= MAX_VALUE_BYTES {
            self.insert(&key_bytes(scope, key), value);
        }
    }

    /// Forgets the value under `key`. Blocks.
    pub fn remove(&self, scope: &TenantScope, key: &CacheKey) {
        let key = key_bytes(scope, key);
        let trees = self.trees.read();
        for tree in [&trees.young, &trees.old] {
            if let Err(error) = tree.remove(key) {
                warn!(%error, "cache entry could not be removed");
            }
        }
    }

    /// Forgets everything of one tenant and returns how many entries that were. Blocks.
    pub fn clear(&self, scope: &TenantScope) -> usize {
        let trees = self.trees.read();
        let mut cleared = 0;
        for tree in [&trees.young, &trees.old] {
            for key in tree.scan_prefix(tenant_prefix(scope)).keys().filter_map(Result::ok) {
                cleared += usize::from(matches!(tree.remove(key), Ok(Some(_))));
            }
        }
        cleared
    }

    /// Number of entries. Reads every key; for tests and status pages. Blocks.
    pub fn entries(&self) -> usize {
        let trees = self.trees.read();
        trees.young.len()
            + trees.old.iter().keys().flatten().filter(|key| !matches!(trees.young.contains_key(key), Ok(true))).count()
    }

    /// Writes what is pending. Blocks.
    pub fn flush(&self) {
        if let Err(error) = self.db.flush() {
            warn!(%error, "cache could not be flushed");
        }
    }

    fn insert(&self, key: &[u8], value: &[u8]) {
        let sealed = seal(key, value);
        let bytes = (key.len() + sealed.len()) as u64;
        let replaced = self.trees.read().young.insert(key, sealed);
        match replaced {
            Ok(Some(former)) => {
                self.young_bytes.fetch_sub((key.len() + former.len()) as u64, Ordering::AcqRel);
            }
            Ok(None) => {}
            Err(error) => return warn!(%error, "cache entry could not be written"),
        }
        if self.young_bytes.fetch_add(bytes, Ordering::AcqRel) + bytes > self.half
            && let Some(_turn) = self.turning.try_lock()
            && self.young_bytes.load(Ordering::Acquire) > self.half
            && let Err(error) = self.turn()
        {
            warn!(%error, "cache could not evict");
        }
    }

    /// The young generation becomes the old one, the old one is dropped.
    fn turn(&self) -> sled::Result<()> {
        let mut trees = self.trees.write();
        let number = trees.number + 1;
        let young = self.db.open_tree(tree_name(number))?;
        self.db.insert(GENERATION_KEY, &number.to_le_bytes())?;
        let former_young = std::mem::replace(&mut trees.young, young);
        let dropped = std::mem::replace(&mut trees.old, former_young);
        trees.number = number;
        self.young_bytes.store(0, Ordering::Release);
        drop(trees);
        let name = dropped.name();
        drop(dropped);
        self.db.drop_tree(name).map(|_| ())
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.flush();
    }
}

fn read(tree: &sled::Tree, key: &[u8]) -> Option<Vec<u8>> {
    match tree.get(key) {
        Ok(Some(sealed)) => {
            let payload = unseal(key, &sealed).map(<[u8]>::to_vec);
            if payload.is_none() {
                warn!("cache entry is damaged, treated as absent");
            }
            payload
        }
        Ok(None) => None,
        Err(error) => {
            warn!(%error, "cache entry could not be read, treated as absent");
            None
        }
    }
}

fn try_open(dir: &Path, settings: &CacheSettings) -> Result<Cache, CacheError> {
    let path = dir.display().to_string();
    std::fs::create_dir_all(dir).map_err(|source| CacheError::Io { path: path.clone(), source })?;
    let config = sled::Config::new()
        .path(dir)
        .cache_capacity(settings.page_cache_bytes)
        .mode(sled::Mode::LowSpace)
        .flush_every_ms(Some(settings.flush_every_ms));
    // sled answers some damage with a panic instead of an error.
    let opened = catch_unwind(AssertUnwindSafe(|| -> sled::Result<Cache> { Cache::over(config.open()?, settings) }));
    match opened {
        Ok(Ok(cache)) => Ok(cache),
        // The engine has no variant for this; its words are the only sign.
        Ok(Err(sled::Error::Io(error))) if error.to_string().contains("could not acquire lock") => {
            Err(CacheError::Locked { path })
        }
        Ok(Err(error)) => Err(CacheError::Unusable { path, detail: error.to_string() }),
        Err(_) => Err(CacheError::Unusable { path, detail: "the storage engine panicked".to_owned() }),
    }
}

impl Cache {
    fn over(db: sled::Db, settings: &CacheSettings) -> sled::Result<Self> {
        let number = db.get(GENERATION_KEY)?.and_then(|bytes| bytes.as_ref().try_into().ok().map(u64::from_le_bytes));
        let number = number.unwrap_or(1);
        let young = db.open_tree(tree_name(number))?;
        let old = db.open_tree(tree_name(number - 1))?;
        // A crash between two steps of a turn can leave a generation that nobody reads.
        for name in db.tree_names() {
            let known = [young.name(), old.name(), sled::IVec::from(&b"__sled__default"[..])].contains(&name);
            if !known {
                db.drop_tree(name)?;
            }
        }
        let mut young_bytes = 0;
        for entry in young.iter() {
            let (key, value) = entry?;
            young_bytes += (key.len() + value.len()) as u64;
        }
        Ok(Self {
            db,
            trees: RwLock::new(Trees { number, young, old }),
            young_bytes: AtomicU64::new(young_bytes),
            turning: Mutex::new(()),
            half: settings.max_bytes / 2,
        })
    }
}

fn tree_name(number: u64) -> String {
    format!("generation-{number}")
}

fn move_aside(dir: &Path) -> Result<PathBuf, CacheError> {
    let io = |source| CacheError::Io { path: dir.display().to_string(), source };
    let taken = (1..MAX_ASIDE).map(|n| dir.with_extension(format!("broken-{n}"))).find(|aside| !aside.exists());
    let aside = taken.ok_or_else(|| io(std::io::ErrorKind::AlreadyExists.into()))?;
    std::fs::rename(dir, &aside).map_err(io)?;
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ContentHash, Fingerprint, TenantId};

    fn scope(name: &str) -> TenantScope {
        TenantScope::everything(TenantId::new(name).unwrap())
    }

    fn key(n: u32) -> CacheKey {
        CacheKey { namespace: "test", producer: Fingerprint([1; 16]), content: ContentHash::of(&n.to_le_bytes()) }
    }

    #[test]
    fn a_tenant_never_sees_what_another_put() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), &CacheSettings::default()).unwrap();
        cache.put(&scope("a"), &key(1), b"secret");

        assert_eq!(cache.get(&scope("a"), &key(1)).as_deref(), Some(&b"secret"[..]));
        assert_eq!(cache.get(&scope("b"), &key(1)), None);

        assert_eq!(cache.clear(&scope("b")), 0);
        assert_eq!(cache.clear(&scope("a")), 1);
        assert_eq!(cache.get(&scope("a"), &key(1)), None);
    }

    #[test]
    fn namespaces_and_producers_do_not_meet() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), &CacheSettings::default()).unwrap();
        cache.put(&scope("a"), &key(1), b"x");

        assert_eq!(cache.get(&scope("a"), &CacheKey { namespace: "other", ..key(1) }), None);
        assert_eq!(cache.get(&scope("a"), &CacheKey { producer: Fingerprint([2; 16]), ..key(1) }), None);
    }

    #[test]
    fn the_bound_holds_and_what_is_used_stays() {
        let dir = tempfile::tempdir().unwrap();
        let settings = CacheSettings { max_bytes: 200_000, ..CacheSettings::default() };
        let cache = Cache::open(dir.path(), &settings).unwrap();

        for n in 0..2_000 {
            cache.put(&scope("a"), &key(n), &[7; 1_000]);
            assert!(cache.get(&scope("a"), &key(0)).is_some(), "lost the entry in use after {n}");
        }

        assert!(cache.entries() <= 200_000 / 1_000, "{} entries", cache.entries());
        assert_eq!(cache.get(&scope("a"), &key(1)), None);
        assert!(cache.get(&scope("a"), &key(1_999)).is_some());
    }

    #[test]
    fn entries_and_their_count_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let settings = CacheSettings { max_bytes: 100_000, ..CacheSettings::default() };
        for round in 0..20 {
            let cache = Cache::open(dir.path(), &settings).unwrap();
            for n in 0..20 {
                cache.put(&scope("a"), &key(round * 20 + n), &[7; 1_000]);
            }
        }

        let cache = Cache::open(dir.path(), &settings).unwrap();

        assert!(cache.get(&scope("a"), &key(399)).is_some());
        assert!(cache.entries() <= 100, "{} entries", cache.entries());
    }

    #[test]
    fn a_directory_that_does_not_open_is_moved_aside() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("cache");
        Cache::open(&dir, &CacheSettings::default()).unwrap().put(&scope("a"), &key(1), b"x");
        for file in ["conf", "db"] {
            std::fs::write(dir.join(file), [0xA5; 4096]).unwrap();
        }

        let cache = Cache::open(&dir, &CacheSettings::default()).unwrap();

        assert_eq!(cache.get(&scope("a"), &key(1)), None);
        cache.put(&scope("a"), &key(1), b"y");
        assert_eq!(cache.get(&scope("a"), &key(1)).as_deref(), Some(&b"y"[..]));
        assert!(home.path().join("cache.broken-1").join("db").exists());
    }

    #[test]
    fn a_cache_in_use_is_not_moved_aside() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("cache");
        let first = Cache::open(&dir, &CacheSettings::default()).unwrap();
        first.put(&scope("a"), &key(1), b"x");

        assert!(matches!(Cache::open(&dir, &CacheSettings::default()), Err(CacheError::Locked { .. })));
        assert!(first.get(&scope("a"), &key(1)).is_some());
    }

    #[test]
    fn damaged_data_files_cost_entries_and_nothing_else() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("cache");
        {
            let cache = Cache::open(&dir, &CacheSettings::default()).unwrap();
            (0..200).for_each(|n| cache.put(&scope("a"), &key(n), &[n as u8; 3_000]));
        }
        let mut bytes = std::fs::read(dir.join("db")).unwrap();
        for at in (1_000..bytes.len()).step_by(70_001) {
            bytes[at] ^= 0xFF;
        }
        std::fs::write(dir.join("db"), bytes).unwrap();

        let cache = Cache::open(&dir, &CacheSettings::default()).unwrap();

        for n in 0..200 {
            if let Some(found) = cache.get(&scope("a"), &key(n)) {
                assert_eq!(found, [n as u8; 3_000]);
            }
        }
    }
}
