//! The cache on disk: content-addressed, keyed by tenant, bounded by generations.
//!
//! The *young* generation takes every write; when it holds half the bound it becomes the *old* one and the former
//! old one is deleted whole. A hit in old is copied to young. So what was used lately stays (within a factor of two
//! of LRU) and eviction costs nothing per entry.
//!
//! Never put here what cannot be made again: nothing is written through to the disk, and sled's flush does not
//! survive a power cut.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use tracing::warn;

use crate::domain::TenantScope;

use super::entry::{key_bytes, tenant_prefix};
use super::generation::{Generation, delete_strays};
use super::{CacheError, CacheKey, CacheSettings};

/// Directories moved aside before no further name is tried.
const MAX_ASIDE: u32 = 1_000;
/// Where the number of the young generation is kept.
const GENERATION_KEY: &[u8] = b"generation";
/// Longest value taken; one that is longer would push out too many others.
pub(super) const MAX_VALUE_BYTES: usize = 4 << 20;

/// A disk cache. Every call may read or write the disk: call it from threads that may block, never from a tokio
/// thread. Dropping it flushes.
pub struct Cache {
    dir: PathBuf,
    db: sled::Db,
    generations: RwLock<Generations>,
    /// Held by whoever turns the generations.
    turning: Mutex<()>,
    half: u64,
}

struct Generations {
    young: Generation,
    old: Generation,
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
        guarded(|| self.find(&key)).flatten()
    }

    /// Keeps `value` under `key`, for as long as there is room. Failures are logged: the value is made again.
    /// Blocks.
    pub fn put(&self, scope: &TenantScope, key: &CacheKey, value: &[u8]) {
        if value.len() <= MAX_VALUE_BYTES {
            guarded(|| self.insert(&key_bytes(scope, key), value));
        }
    }

    /// Forgets the value under `key` and overwrites its bytes. Blocks.
    pub fn remove(&self, scope: &TenantScope, key: &CacheKey) {
        let key = key_bytes(scope, key);
        let generations = self.generations.read();
        for generation in [&generations.young, &generations.old] {
            if let Err(error) = generation.remove(&key) {
                warn!(%error, "cache entry could not be removed");
            }
        }
    }

    /// Forgets everything of one tenant, overwrites its bytes, and returns how many entries that were. Blocks.
    pub fn clear(&self, scope: &TenantScope) -> usize {
        let generations = self.generations.read();
        let clear = |generation: &Generation| match generation.clear(&tenant_prefix(scope)) {
            Ok(cleared) => cleared,
            Err(error) => {
                warn!(%error, "cache entries could not be removed");
                0
            }
        };
        clear(&generations.young) + clear(&generations.old)
    }

    /// As [`Self::clear`], and no file holds a byte of what the tenant ever kept: values that were replaced or lost by a
    /// crash are in no index, so the values of the others move to a new file and the old files are deleted, as are
    /// caches that were moved aside. The engine's own log may name entries for a while, by hashes. Blocks, and everybody
    /// else with it, for as long as the copy takes.
    pub fn erase(&self, scope: &TenantScope) -> Result<usize, CacheError> {
        let failed = |source: io::Error| CacheError::Io { path: self.dir.display().to_string(), source };
        let _turn = self.turning.lock();
        let erased = guarded(|| self.move_others(&tenant_prefix(scope)));
        let broken = || CacheError::Unusable {
            path: self.dir.display().to_string(),
            detail: "the storage engine panicked".to_owned(),
        };
        let erased = erased.ok_or_else(broken)?.map_err(failed)?;
        for aside in asides(&self.dir).filter(|aside| aside.exists()) {
            std::fs::remove_dir_all(&aside).map_err(failed)?;
        }
        Ok(erased)
    }

    /// How many entries a tenant has. Reads their keys. Blocks.
    pub fn entries_of(&self, scope: &TenantScope) -> usize {
        let generations = self.generations.read();
        let prefix = tenant_prefix(scope);
        let count = |generation: &Generation| generation.keys().filter(|key| key.starts_with(&prefix)).count();
        count(&generations.young) + count(&generations.old)
    }

    /// Number of entries. Reads every key; for tests and status pages. Blocks.
    pub fn entries(&self) -> usize {
        let Generations { young, old } = &*self.generations.read();
        young.keys().count() + old.keys().filter(|key| !young.contains(key)).count()
    }

    /// Hands what is pending to the operating system. Blocks.
    pub fn flush(&self) {
        if let Err(error) = self.db.flush() {
            warn!(%error, "cache could not be flushed");
        }
    }

    fn find(&self, key: &[u8]) -> Option<Vec<u8>> {
        let generations = self.generations.read();
        if let Some(found) = generations.young.get(key) {
            return Some(found);
        }
        let found = generations.old.get(key)?;
        drop(generations);
        self.insert(key, &found);
        Some(found)
    }

    fn insert(&self, key: &[u8], value: &[u8]) {
        let generations = self.generations.read();
        let written = generations.young.put(key, value);
        let is_full = generations.young.bytes() > self.half;
        drop(generations);
        if let Err(error) = written {
            return warn!(%error, "cache entry could not be written");
        }
        if is_full
            && let Some(_turn) = self.turning.try_lock()
            && let Err(error) = self.turn()
        {
            warn!(%error, "cache could not evict");
        }
    }

    /// Everything but what is kept under `prefix`, in a new generation; returns how many entries stayed behind.
    fn move_others(&self, prefix: &[u8]) -> io::Result<usize> {
        let mut generations = self.generations.write();
        let number = generations.young.number + 2;
        let young = Generation::open(&self.db, &self.dir, number)?;
        let old = Generation::open(&self.db, &self.dir, number - 1)?;
        let mut erased = 0;
        // The younger value of a key last: it replaces the older one.
        for generation in [&generations.old, &generations.young] {
            for key in generation.keys() {
                if key.starts_with(prefix) {
                    erased += 1;
                } else if let Some(value) = generation.get(&key) {
                    young.put(&key, &value)?;
                }
            }
        }
        self.db.insert(GENERATION_KEY, &number.to_le_bytes())?;
        let former = std::mem::replace(&mut *generations, Generations { young, old });
        drop(generations);
        former.young.delete(&self.db)?;
        former.old.delete(&self.db)?;
        self.db.flush()?;
        Ok(erased)
    }

    /// The young generation becomes the old one, the old one is deleted.
    fn turn(&self) -> io::Result<()> {
        let mut generations = self.generations.write();
        // Somebody else may have turned between the look at the size and the lock.
        if generations.young.bytes() <= self.half {
            return Ok(());
        }
        let number = generations.young.number + 1;
        let young = Generation::open(&self.db, &self.dir, number)?;
        self.db.insert(GENERATION_KEY, &number.to_le_bytes())?;
        let former_young = std::mem::replace(&mut generations.young, young);
        let former_old = std::mem::replace(&mut generations.old, former_young);
        drop(generations);
        former_old.delete(&self.db)
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.flush();
    }
}

/// How long to wait for the engine's own lock. The data directory belongs to this process already, so whoever has it is a
/// thread of an engine that was closed a moment ago and has not noticed yet.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

#[expect(clippy::disallowed_methods, reason = "opening blocks anyway, happens once, and the wait has a bound")]
fn try_open(dir: &Path, settings: &CacheSettings) -> Result<Cache, CacheError> {
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match try_open_now(dir, settings) {
            Err(CacheError::Locked { .. }) if Instant::now() < until => std::thread::sleep(LOCK_PAUSE),
            opened => return opened,
        }
    }
}

fn try_open_now(dir: &Path, settings: &CacheSettings) -> Result<Cache, CacheError> {
    let path = dir.display().to_string();
    std::fs::create_dir_all(dir).map_err(|source| CacheError::Io { path: path.clone(), source })?;
    let config = sled::Config::new()
        .path(dir.join("index"))
        .cache_capacity(settings.page_cache_bytes)
        .mode(sled::Mode::LowSpace)
        .flush_every_ms(Some(settings.flush_every_ms));
    match guarded(|| over(dir, config.open()?, settings)) {
        Some(Ok(cache)) => Ok(cache),
        // The engine has no variant for this; its words are the only sign.
        Some(Err(sled::Error::Io(error))) if error.to_string().contains("could not acquire lock") => {
            Err(CacheError::Locked { path })
        }
        Some(Err(error)) => Err(CacheError::Unusable { path, detail: error.to_string() }),
        None => Err(CacheError::Unusable { path, detail: "the storage engine panicked".to_owned() }),
    }
}

/// sled answers some damage, at opening and at reading, with a panic instead of an error: then `None`.
fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    let outcome = catch_unwind(AssertUnwindSafe(work));
    if outcome.is_err() {
        warn!("the storage engine of the cache panicked");
    }
    outcome.ok()
}

fn over(dir: &Path, db: sled::Db, settings: &CacheSettings) -> sled::Result<Cache> {
    let number = db.get(GENERATION_KEY)?.and_then(|bytes| bytes.as_ref().try_into().ok().map(u64::from_le_bytes));
    let number = number.unwrap_or(1).max(1);
    delete_strays(&db, dir, (number - 1, number))?;
    let young = Generation::open(&db, dir, number)?;
    let old = Generation::open(&db, dir, number - 1)?;
    let generations = RwLock::new(Generations { young, old });
    Ok(Cache { dir: dir.to_path_buf(), db, generations, turning: Mutex::new(()), half: settings.max_bytes / 2 })
}

/// Where caches that did not open are moved, in order.
fn asides(dir: &Path) -> impl Iterator<Item = PathBuf> {
    (1..MAX_ASIDE).map(|n| dir.with_extension(format!("broken-{n}")))
}

fn move_aside(dir: &Path) -> Result<PathBuf, CacheError> {
    let io = |source| CacheError::Io { path: dir.display().to_string(), source };
    let taken = asides(dir).find(|aside| !aside.exists());
    let aside = taken.ok_or_else(|| io(io::ErrorKind::AlreadyExists.into()))?;
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
            std::fs::write(dir.join("index").join(file), [0xA5; 4096]).unwrap();
        }

        let cache = Cache::open(&dir, &CacheSettings::default()).unwrap();

        assert_eq!(cache.get(&scope("a"), &key(1)), None);
        cache.put(&scope("a"), &key(1), b"y");
        assert_eq!(cache.get(&scope("a"), &key(1)).as_deref(), Some(&b"y"[..]));
        assert!(home.path().join("cache.broken-1/index/db").exists());
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
        for (file, step) in [("generation-1.values", 70_001), ("index/db", 9_973)] {
            let mut bytes = std::fs::read(dir.join(file)).unwrap();
            (1_000..bytes.len()).step_by(step).for_each(|at| bytes[at] ^= 0xFF);
            std::fs::write(dir.join(file), bytes).unwrap();
        }

        let cache = Cache::open(&dir, &CacheSettings::default()).unwrap();

        for n in 0..200 {
            if let Some(found) = cache.get(&scope("a"), &key(n)) {
                assert_eq!(found, [n as u8; 3_000]);
            }
        }
    }

    #[test]
    fn what_a_tenant_ever_kept_is_in_no_file_once_it_is_erased_and_others_keep_theirs() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("cache");
        let cache = Cache::open(&dir, &CacheSettings::default()).unwrap();
        let on_disk = |needle: &[u8]| {
            let files = std::fs::read_dir(&dir).unwrap().flatten().filter(|entry| entry.path().is_file());
            let holds = |bytes: Vec<u8>| bytes.windows(needle.len()).any(|window| window == needle);
            files.map(|entry| std::fs::read(entry.path()).unwrap()).any(holds)
        };
        cache.put(&scope("a"), &key(1), b"replaced secret");
        cache.put(&scope("a"), &key(1), b"newest secret");
        cache.put(&scope("b"), &key(1), b"another's");
        cache.clear(&scope("a"));
        assert!(on_disk(b"replaced secret"), "clearing alone leaves what was replaced");
        cache.put(&scope("a"), &key(1), b"newest secret");

        assert_eq!(cache.erase(&scope("a")).unwrap(), 1);

        assert!(!on_disk(b"replaced secret") && !on_disk(b"newest secret"));
        assert_eq!((cache.entries_of(&scope("a")), cache.entries_of(&scope("b"))), (0, 1));
        drop(cache);
        let cache = Cache::open(&dir, &CacheSettings::default()).unwrap();
        assert_eq!(cache.get(&scope("b"), &key(1)).as_deref(), Some(&b"another's"[..]));
        assert_eq!(cache.get(&scope("a"), &key(1)), None);
    }

    #[test]
    fn what_is_forgotten_is_gone_from_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), &CacheSettings::default()).unwrap();
        let on_disk = |needle: &[u8]| {
            let bytes = std::fs::read(dir.path().join("generation-1.values")).unwrap();
            bytes.windows(needle.len()).any(|window| window == needle)
        };
        cache.put(&scope("a"), &key(1), b"first secret");
        cache.put(&scope("a"), &key(2), b"second secret");
        assert!(on_disk(b"first secret") && on_disk(b"second secret"));

        cache.remove(&scope("a"), &key(1));
        assert!(!on_disk(b"first secret") && on_disk(b"second secret"));

        cache.clear(&scope("a"));
        assert!(!on_disk(b"second secret"));
    }
}
