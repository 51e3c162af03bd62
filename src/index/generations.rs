//! The index directories of all generations, opened when somebody asks and closed when nobody does.
//!
//! `<root>/<generation>/lexical` and `<root>/<generation>/vector` hold what can be rebuilt from the truth: one that
//! does not open is set aside, starts empty at sequence 0 and is replayed. A generation nobody has asked for costs a
//! directory entry; one that was released costs a place in a table.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tantivy::TantivyError;
use tantivy::directory::error::OpenReadError;
use tracing::warn;

use crate::domain::{GenerationId, Profile, Sequence};

use super::manifest::{io_error, remove_set_aside, set_aside};
use super::{IndexError, LexicalIndex, SegmentedIndex, VectorIndex, VectorSettings};

const LEXICAL: &str = "lexical";
const VECTOR: &str = "vector";
/// What a removed generation is called until its files are gone.
const REMOVED: &str = ".removed";

/// Opens or creates a lexical index in a directory of its own; blocking.
pub type OpenLexical = Box<dyn Fn(&Path, &Profile) -> Result<Arc<dyn LexicalIndex>, IndexError> + Send + Sync>;

/// The indexes of one generation.
pub struct GenerationIndex {
    pub lexical: Arc<dyn LexicalIndex>,
    /// `None`: a collection without vectors.
    pub vector: Option<Arc<dyn VectorIndex>>,
    segmented: Option<Arc<SegmentedIndex>>,
    damage: Mutex<Vec<String>>,
}

impl GenerationIndex {
    /// The sequence a restart would begin to replay from: what both legs have on disk.
    ///
    /// After damage one leg may be far behind the other. A replay from here is harmless to both, but the leg ahead
    /// shows older states until the replay has passed them: give it only what is after [`Self::applied_vectors`].
    pub fn watermark(&self) -> Sequence {
        let lexical = self.lexical.watermark();
        self.vector.as_ref().map_or(lexical, |vector| vector.watermark().min(lexical))
    }

    /// The sequence that searches see in both legs.
    pub fn visible(&self) -> Sequence {
        let lexical = self.lexical.watermark();
        self.applied_vectors().map_or(lexical, |vector| vector.min(lexical))
    }

    /// The sequence that vector searches see; `None` without vectors.
    pub fn applied_vectors(&self) -> Option<Sequence> {
        self.segmented.as_ref().map(|vector| vector.applied())
    }

    /// What was found damaged when this generation was opened, until [`Self::healed`].
    pub fn damage(&self) -> Vec<String> {
        self.damage.lock().clone()
    }

    /// Forgets the damage: the caller has replayed everything that was lost.
    pub fn healed(&self) {
        self.damage.lock().clear();
    }

    /// One piece of upkeep of the vector leg; true if there was something to do.
    ///
    /// May take minutes and runs threads of its own: call it from a blocking thread, not from the compute pool.
    pub fn maintain(&self) -> Result<bool, IndexError> {
        self.vector.as_ref().map_or(Ok(false), |vector| vector.maintain())
    }
}

/// All generations under one root directory, which belongs to this process alone.
pub struct Generations {
    root: PathBuf,
    settings: VectorSettings,
    open_lexical: OpenLexical,
    slots: Mutex<HashMap<GenerationId, Arc<Slot>>>,
    stopped: AtomicBool,
}

/// The place of one generation; its lock is held while it is opened or closed, so that happens once at a time.
#[derive(Default)]
struct Slot(Mutex<Option<Opened>>);

struct Opened {
    index: Arc<GenerationIndex>,
    /// Asked for since the last [`Generations::release_idle`].
    used: bool,
}

impl Generations {
    /// Takes over `root`, created if it is missing. Opens no index.
    pub fn open(root: &Path, settings: VectorSettings, open_lexical: OpenLexical) -> Result<Self, IndexError> {
        settings.check()?;
        fs::create_dir_all(root).map_err(|source| io_error(root, source))?;
        for entry in fs::read_dir(root).map_err(|source| io_error(root, source))? {
            let path = entry.map_err(|source| io_error(root, source))?.path();
            // A crash came between the rename and the end of the removal.
            if path.to_str().is_some_and(|path| path.ends_with(REMOVED)) {
                fs::remove_dir_all(&path).map_err(|source| io_error(&path, source))?;
            }
        }
        let slots = Mutex::default();
        Ok(Self { root: root.to_owned(), settings, open_lexical, slots, stopped: AtomicBool::new(false) })
    }

    /// The indexes of a generation, opened or created if need be. Blocks while they are opened, which happens once
    /// however many ask.
    pub fn get(&self, id: GenerationId, profile: &Profile) -> Result<Arc<GenerationIndex>, IndexError> {
        let slot = self.slot(id);
        let mut opened = slot.0.lock();
        if let Some(opened) = opened.as_mut() {
            opened.used = true;
            return Ok(Arc::clone(&opened.index));
        }
        let index = Arc::new(self.open_generation(id, profile)?);
        *opened = Some(Opened { index: Arc::clone(&index), used: true });
        Ok(index)
    }

    /// The indexes of a generation if they are open and nobody is opening or closing them; never blocks.
    pub fn opened_one(&self, id: GenerationId) -> Option<Arc<GenerationIndex>> {
        let slot = self.slots.lock().get(&id).map(Arc::clone)?;
        let mut opened = slot.0.try_lock()?;
        let opened = opened.as_mut()?;
        opened.used = true;
        Some(Arc::clone(&opened.index))
    }

    /// Every generation that is open now, for upkeep.
    pub fn opened(&self) -> Vec<(GenerationId, Arc<GenerationIndex>)> {
        let slots: Vec<_> = self.slots.lock().iter().map(|(id, slot)| (*id, Arc::clone(slot))).collect();
        // A slot that is being opened or closed is passed over rather than waited for.
        let index = |slot: &Slot| slot.0.try_lock()?.as_ref().map(|opened| Arc::clone(&opened.index));
        slots.iter().filter_map(|(id, slot)| Some((*id, index(slot)?))).collect()
    }

    /// What is damaged, each line with its generation.
    pub fn damage(&self) -> Vec<String> {
        let opened = self.opened();
        let lines = opened.iter().flat_map(|(id, index)| index.damage().into_iter().map(move |line| (id, line)));
        lines.map(|(id, line)| format!("{id}: {line}")).collect()
    }

    /// Flushes and closes what nobody holds and nobody has asked for since the last call; returns how many.
    ///
    /// Called every few minutes, it keeps what is in use open without looking at a clock.
    pub fn release_idle(&self) -> Result<usize, IndexError> {
        let slots: Vec<_> = self.slots.lock().values().map(Arc::clone).collect();
        let mut released = 0;
        for slot in slots {
            let Some(mut place) = slot.0.try_lock() else { continue };
            let Some(opened) = place.as_mut() else { continue };
            let idle = !std::mem::take(&mut opened.used) && Arc::strong_count(&opened.index) == 1;
            if idle {
                flush(&opened.index)?;
                *place = None;
                released += 1;
            }
        }
        Ok(released)
    }

    /// Makes all applied vectors durable. Lexical changes become so by [`LexicalIndex::commit`] alone.
    pub fn flush(&self) -> Result<(), IndexError> {
        self.opened().iter().try_for_each(|(_, index)| flush(index))
    }

    /// Ends all upkeep soon and for good; for shutdown, before [`Generations::flush`].
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        for (_, index) in self.opened() {
            index.segmented.iter().for_each(|vector| vector.stop());
        }
    }

    /// Closes a generation and deletes its files. Whoever still holds it sees it as it was.
    pub fn remove(&self, id: GenerationId) -> Result<(), IndexError> {
        let slot = self.slot(id);
        let mut opened = slot.0.lock();
        if let Some(opened) = opened.take() {
            opened.index.segmented.iter().for_each(|vector| vector.stop());
        }
        let (path, removed) = (self.path(id), self.root.join(format!("{id}{REMOVED}")));
        match fs::rename(&path, &removed) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(io_error(&path, error)),
            Ok(()) => fs::remove_dir_all(&removed).map_err(|source| io_error(&removed, source)),
        }
    }

    /// Deletes what was set aside of a generation because it was damaged: copies of files that are gone otherwise.
    pub fn remove_damaged(&self, id: GenerationId) -> Result<(), IndexError> {
        let dir = self.path(id);
        remove_set_aside(&dir)?;
        remove_set_aside(&dir.join(VECTOR))
    }

    fn slot(&self, id: GenerationId) -> Arc<Slot> {
        Arc::clone(self.slots.lock().entry(id).or_default())
    }

    fn path(&self, id: GenerationId) -> PathBuf {
        self.root.join(id.to_string())
    }

    fn open_generation(&self, id: GenerationId, profile: &Profile) -> Result<GenerationIndex, IndexError> {
        let dir = self.path(id);
        let mut damage = Vec::new();
        let lexical = self.open_lexical(&dir, profile, &mut damage)?;
        let segmented = profile.embedder.as_ref().map(|embedder| {
            SegmentedIndex::open(&dir.join(VECTOR), embedder.dimensions, self.settings.clone()).map(Arc::new)
        });
        let segmented = segmented.transpose()?;
        if let Some(vector) = &segmented {
            damage.extend_from_slice(vector.damage());
            if self.stopped.load(Ordering::Acquire) {
                vector.stop();
            }
        }
        let vector = segmented.clone().map(|vector| vector as Arc<dyn VectorIndex>);
        Ok(GenerationIndex { lexical, vector, segmented, damage: Mutex::new(damage) })
    }

    /// Opens the lexical leg; if it is damaged, sets it aside and opens an empty one.
    fn open_lexical(
        &self,
        dir: &Path,
        profile: &Profile,
        damage: &mut Vec<String>,
    ) -> Result<Arc<dyn LexicalIndex>, IndexError> {
        let path = dir.join(LEXICAL);
        let open = || {
            fs::create_dir_all(&path).map_err(|source| io_error(&path, source))?;
            (self.open_lexical)(&path, profile)
        };
        match open() {
            Err(error) if is_damage(&error) => {
                let what = match &error {
                    IndexError::Lexical(source) => format!("{}: {source}", path.display()),
                    other => other.to_string(),
                };
                warn!(damage = what, "a damaged lexical index was set aside; it will be rebuilt");
                damage.push(what);
                set_aside(dir, LEXICAL)?;
                open()
            }
            opened => opened,
        }
    }
}

fn flush(index: &GenerationIndex) -> Result<(), IndexError> {
    index.vector.as_ref().map_or(Ok(()), |vector| vector.flush())
}

/// True if what is on disk is wrong, false if the machine only refused to show it.
fn is_damage(error: &IndexError) -> bool {
    match error {
        IndexError::Corrupt { .. } => true,
        IndexError::Lexical(error) => matches!(
            error,
            TantivyError::DataCorruption(_)
                | TantivyError::SchemaError(_)
                | TantivyError::IncompatibleIndex(_)
                | TantivyError::DeserializeError(_)
                | TantivyError::OpenReadError(OpenReadError::FileDoesNotExist(_) | OpenReadError::IncompatibleIndex(_))
        ),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};
    use std::ops::Range;
    use std::sync::atomic::AtomicUsize;

    use half::f16;

    use crate::domain::{AnalyzerSpec, ChunkId, ChunkerSpec, ContextSpec, EmbedderSpec, ScoredChunk};
    use crate::index::{LexicalChange, Narrowing, VectorChange};

    use super::*;

    /// A lexical index that remembers only how far it has come: one number in a file.
    struct Counter {
        path: PathBuf,
    }

    impl LexicalIndex for Counter {
        fn apply(&self, _: Vec<LexicalChange>) -> Result<(), IndexError> {
            Ok(())
        }
        fn commit(&self, through: Sequence) -> Result<(), IndexError> {
            fs::write(&self.path, through.to_string()).map_err(|source| io_error(&self.path, source))
        }
        fn watermark(&self) -> Sequence {
            Sequence(fs::read_to_string(&self.path).unwrap_or_default().parse().unwrap_or(0))
        }
        fn live_chunks(&self) -> u64 {
            0
        }
        fn search(&self, _: &str, _: Narrowing<'_>, _: usize) -> Result<Vec<ScoredChunk>, IndexError> {
            Ok(Vec::new())
        }
        fn matching(&self, _: Narrowing<'_>) -> Result<Option<HashSet<ChunkId>>, IndexError> {
            Ok(None)
        }
        fn highlights(&self, _: &str, passages: &[&str]) -> Vec<Vec<Range<usize>>> {
            vec![Vec::new(); passages.len()]
        }
        fn score_ceiling(&self, _: &str) -> Result<f32, IndexError> {
            Ok(0.0)
        }
        fn purge(&self) -> Result<bool, IndexError> {
            Ok(true)
        }
    }

    fn generations(root: &Path, opens: &Arc<AtomicUsize>) -> Generations {
        let opens = Arc::clone(opens);
        let open = move |dir: &Path, _: &Profile| -> Result<Arc<dyn LexicalIndex>, IndexError> {
            opens.fetch_add(1, Ordering::SeqCst);
            let path = dir.join("reached");
            match fs::read_to_string(&path) {
                Ok(text) if text.parse::<u64>().is_err() => {
                    Err(IndexError::Corrupt { path: path.display().to_string(), detail: "no number".to_owned() })
                }
                _ => Ok(Arc::new(Counter { path })),
            }
        };
        Generations::open(root, VectorSettings::default(), Box::new(open)).unwrap()
    }

    fn profile(dimensions: Option<usize>) -> Profile {
        let embedder =
            dimensions.map(|dimensions| EmbedderSpec { name: "test".to_owned(), revision: "1".to_owned(), dimensions });
        Profile {
            chunker: ChunkerSpec { name: "test".to_owned(), version: 1, params: BTreeMap::new() },
            embedder,
            analyzer: AnalyzerSpec { name: "test".to_owned(), version: 1, language: "en".to_owned() },
            context: ContextSpec::default(),
        }
    }

    fn put(index: &GenerationIndex, through: u64) {
        let change = VectorChange::Put { id: ChunkId([through as u8; 16]), vector: vec![f16::ONE; 4] };
        index.vector.as_ref().unwrap().apply(vec![change], Sequence(through)).unwrap();
    }

    const ID: GenerationId = GenerationId([5; 16]);

    #[test]
    fn a_generation_is_opened_once_however_many_ask() {
        let (root, opens) = (tempfile::tempdir().unwrap(), Arc::default());
        let generations = generations(root.path(), &opens);

        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| generations.get(ID, &profile(Some(4))).unwrap());
            }
        });

        assert_eq!(opens.load(Ordering::SeqCst), 1);
        assert_eq!(generations.opened().len(), 1);
    }

    #[test]
    fn the_watermark_is_that_of_the_leg_behind() {
        let (root, opens) = (tempfile::tempdir().unwrap(), Arc::default());
        let generations = generations(root.path(), &opens);
        let index = generations.get(ID, &profile(Some(4))).unwrap();

        put(&index, 7);
        index.lexical.commit(Sequence(9)).unwrap();
        assert_eq!((index.watermark(), index.visible()), (Sequence(0), Sequence(7)));
        generations.flush().unwrap();
        assert_eq!((index.watermark(), index.visible()), (Sequence(7), Sequence(7)));

        let without = generations.get(GenerationId([6; 16]), &profile(None)).unwrap();
        without.lexical.commit(Sequence(3)).unwrap();
        assert!(without.vector.is_none());
        assert_eq!((without.watermark(), without.visible()), (Sequence(3), Sequence(3)));
    }

    #[test]
    fn what_is_idle_is_flushed_and_closed_and_what_is_held_is_not() {
        let (root, opens) = (tempfile::tempdir().unwrap(), Arc::default());
        let generations = generations(root.path(), &opens);
        let held = generations.get(ID, &profile(Some(4))).unwrap();
        put(&generations.get(GenerationId([6; 16]), &profile(Some(4))).unwrap(), 4);

        assert_eq!(generations.release_idle().unwrap(), 0, "both were just asked for");
        assert_eq!(generations.release_idle().unwrap(), 1);
        assert_eq!(generations.opened().len(), 1);
        drop(held);
        assert_eq!(generations.release_idle().unwrap(), 1);
        assert!(generations.opened().is_empty());

        let again = generations.get(GenerationId([6; 16]), &profile(Some(4))).unwrap();
        assert_eq!(again.vector.as_ref().unwrap().watermark(), Sequence(4));
        assert_eq!(opens.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn a_damaged_leg_is_set_aside_and_named_until_it_is_healed() {
        let (root, opens) = (tempfile::tempdir().unwrap(), Arc::default());
        {
            let generations = generations(root.path(), &opens);
            let index = generations.get(ID, &profile(Some(4))).unwrap();
            put(&index, 2);
            index.lexical.commit(Sequence(2)).unwrap();
            generations.flush().unwrap();
        }
        let dir = root.path().join(ID.to_string());
        fs::write(dir.join(LEXICAL).join("reached"), "rubbish").unwrap();

        let generations = generations(root.path(), &opens);
        let index = generations.get(ID, &profile(Some(4))).unwrap();

        assert_eq!(index.lexical.watermark(), Sequence(0));
        assert_eq!((index.watermark(), index.applied_vectors()), (Sequence(0), Some(Sequence(2))));
        assert!(dir.join("lexical.damaged-1").join("reached").exists());
        let damage = generations.damage();
        assert!(damage.len() == 1 && damage[0].contains("reached") && damage[0].starts_with("gen_"), "{damage:?}");
        index.healed();
        assert!(generations.damage().is_empty());
    }

    #[test]
    fn a_lock_or_a_missing_permission_is_not_damage() {
        let locked = TantivyError::LockFailure(tantivy::directory::error::LockError::LockBusy, None);
        assert!(!is_damage(&IndexError::Lexical(locked)));
        assert!(!is_damage(&io_error(Path::new("x"), io::ErrorKind::PermissionDenied.into())));
        assert!(is_damage(&IndexError::Lexical(TantivyError::SchemaError("other".to_owned()))));
    }

    #[test]
    fn a_removed_generation_is_gone_even_if_a_crash_came_between() {
        let (root, opens) = (tempfile::tempdir().unwrap(), Arc::default());
        let generations = generations(root.path(), &opens);
        let index = generations.get(ID, &profile(Some(4))).unwrap();
        put(&index, 1);

        generations.remove(ID).unwrap();
        assert!(fs::read_dir(root.path()).unwrap().next().is_none());
        assert!(generations.opened().is_empty());
        generations.remove(ID).unwrap();

        fs::create_dir_all(root.path().join(format!("{ID}{REMOVED}")).join(VECTOR)).unwrap();
        drop(self::generations(root.path(), &opens));
        assert!(fs::read_dir(root.path()).unwrap().next().is_none());
    }
}
