//! The vector index: parts in memory, sealed segments, and graphs over the large ones.
//!
//! Searches hold a snapshot and wait for nobody. Changes, flushes and the end of a merge take the writer's lock, one
//! at a time. What a crash leaves is what the last manifest named; everything after it is replayed by the caller.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use half::f16;
use parking_lot::Mutex;

use crate::domain::{ChunkId, ScoredChunk, Sequence};
use crate::index::IndexError;
use crate::index::contract::{VectorChange, VectorIndex, VectorSearch};
use crate::index::manifest::{self, FileRecord};

use super::catalog::{self, Catalog, FORMAT};
use super::image::{self, Image};
use super::part::{Part, Snapshot, live_rows};
use super::quantize::{self, DIMENSIONS_MAX, Query};
use super::recovery::recover;
use super::search;
use super::settings::VectorSettings;

/// A vector index in a directory of its own.
pub struct SegmentedIndex {
    pub(super) dir: PathBuf,
    dimensions: usize,
    pub(super) settings: VectorSettings,
    pub(super) snapshot: ArcSwap<Snapshot>,
    pub(super) writer: Mutex<Writer>,
    /// Held by whoever merges or builds.
    pub(super) maintenance: Mutex<()>,
    pub(super) stop: AtomicBool,
    damage: Vec<String>,
}

/// What only one at a time may touch.
pub(super) struct Writer {
    applied: Sequence,
    flushed: Sequence,
    next_file: u64,
    /// The tombstone file that the manifest names.
    tombstones: Option<FileRecord>,
    pub(super) unsaved: Unsaved,
    /// Files that the next manifest will no longer name.
    pub(super) obsolete: Vec<String>,
}

/// What the manifest does not know yet.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Unsaved {
    pub parts: bool,
    pub dead: bool,
}

impl Writer {
    pub(super) fn applied(&self) -> Sequence {
        self.applied
    }

    /// A number that no file has yet.
    pub(super) fn new_file(&mut self) -> u64 {
        self.next_file += 1;
        self.next_file - 1
    }
}

impl SegmentedIndex {
    /// Opens or creates the index in `dir`. What is damaged is set aside and named by [`SegmentedIndex::damage`];
    /// the index then starts empty at sequence 0, and the caller replays.
    pub fn open(dir: &Path, dimensions: usize, settings: VectorSettings) -> Result<Self, IndexError> {
        settings.check()?;
        if !(1..=DIMENSIONS_MAX).contains(&dimensions) {
            return Err(IndexError::Engine {
                detail: format!("{dimensions} dimensions, must be 1 to {DIMENSIONS_MAX}"),
            });
        }
        let recovered = recover(dir, dimensions, &settings)?;
        let writer = Writer {
            applied: recovered.catalog.reached,
            flushed: recovered.catalog.reached,
            next_file: recovered.catalog.next_file,
            tombstones: recovered.catalog.tombstones,
            unsaved: Unsaved::default(),
            obsolete: Vec::new(),
        };
        Ok(Self {
            dir: dir.to_owned(),
            dimensions,
            settings,
            snapshot: ArcSwap::from_pointee(Snapshot::new(recovered.parts)),
            writer: Mutex::new(writer),
            maintenance: Mutex::new(()),
            stop: AtomicBool::new(false),
            damage: recovered.damage,
        })
    }

    /// What was found damaged when the index was opened, for an operator to read.
    pub fn damage(&self) -> &[String] {
        &self.damage
    }

    /// The last sequence applied: what searches see.
    pub fn applied(&self) -> Sequence {
        self.writer.lock().applied
    }

    /// How many sealed segments there are, and how many of them have a graph.
    pub fn segments(&self) -> (usize, usize) {
        let snapshot = self.snapshot.load();
        let sealed = snapshot.parts.iter().filter(|part| part.file.is_some());
        (sealed.clone().count(), sealed.filter(|part| part.graph.is_some()).count())
    }

    /// Ends maintenance soon, now and for good; searches and changes go on.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Lets searches see `parts`.
    pub(super) fn publish(&self, parts: Vec<Part>) {
        self.snapshot.store(Arc::new(Snapshot::new(parts)));
    }

    /// Writes everything that is not on disk yet and then the manifest.
    pub(super) fn persist(&self, writer: &mut Writer) -> Result<(), IndexError> {
        self.seal_tail(writer)?;
        let parts = &self.snapshot.load().parts;
        if writer.unsaved.dead {
            let name = format!("{:08}.tombstones", writer.new_file());
            let old = writer.tombstones.take();
            writer.obsolete.extend(old.map(|record| record.name));
            writer.tombstones = catalog::seal_tombstones(&self.dir, &name, parts)?;
        }
        let catalog = Catalog {
            format: FORMAT,
            dimensions: self.dimensions,
            reached: writer.applied,
            next_file: writer.next_file,
            segments: catalog::records(parts),
            tombstones: writer.tombstones.clone(),
        };
        manifest::replace(&self.dir, &catalog)?;
        writer.flushed = writer.applied;
        writer.unsaved = Unsaved::default();
        writer.obsolete.drain(..).for_each(|name| self.discard(&name));
        Ok(())
    }

    /// Turns what is only in memory into one sealed segment.
    fn seal_tail(&self, writer: &mut Writer) -> Result<(), IndexError> {
        let snapshot = self.snapshot.load_full();
        let (tail, mut parts): (Vec<Part>, Vec<Part>) =
            snapshot.parts.iter().cloned().partition(|part| part.file.is_none());
        if tail.is_empty() {
            return Ok(());
        }
        let tail: Vec<&Part> = tail.iter().collect();
        let rows = live_rows(&tail);
        if !rows.is_empty() {
            let sources: Vec<&Image> = tail.iter().map(|part| part.image.as_ref()).collect();
            let name = format!("{:08}.vectors", writer.new_file());
            let reached = writer.applied;
            let record = manifest::seal(&self.dir, &name, |file| image::write_rows(file, &sources, &rows, reached))?;
            parts.push(Part {
                image: Arc::new(Image::map(&self.dir.join(&name))?),
                dead: Arc::default(),
                file: Some(Arc::new(record)),
                graph: None,
            });
        }
        writer.unsaved.parts = true;
        self.publish(parts);
        Ok(())
    }

    /// Lays `changes` over the parts; the last change of an id wins.
    fn change(&self, parts: &mut Vec<Part>, changes: Vec<VectorChange>) -> Result<Unsaved, IndexError> {
        let mut latest: BTreeMap<ChunkId, Option<Vec<f16>>> = BTreeMap::new();
        for change in changes {
            match change {
                VectorChange::Put { id, vector } => latest.insert(id, Some(vector)),
                VectorChange::Remove(id) => latest.insert(id, None),
            };
        }
        let mut unsaved = Unsaved::default();
        let mut fresh = Vec::new();
        for (id, vector) in latest {
            let present = parts.iter().enumerate().find_map(|(n, part)| Some((n, part.find_live(&id)?)));
            if let Some((n, ordinal)) = present {
                // A replay puts again what is there already; it must not turn a graph into tombstones.
                if let Some(vector) = &vector
                    && holds(&parts[n].image, ordinal, vector)?
                {
                    continue;
                }
                parts[n].kill(ordinal);
                unsaved.dead |= parts[n].file.is_some();
            }
            fresh.extend(vector.map(|vector| (id, vector)));
        }
        if !fresh.is_empty() {
            parts.push(Part::in_memory(Image::from_vectors(self.dimensions, Sequence(0), &fresh)?));
            unsaved.parts = true;
        }
        compact_tail(parts)?;
        Ok(unsaved)
    }
}

/// Whether a row holds exactly this vector.
fn holds(image: &Image, ordinal: u32, vector: &[f16]) -> Result<bool, IndexError> {
    let mut buffer = Vec::new();
    let stored = image.vector(ordinal, &mut buffer)?;
    Ok(stored.chunks_exact(2).zip(vector).all(|(bytes, value)| *bytes == value.to_le_bytes()))
}

/// Merges the newest parts in memory until each is more than twice as large as the next: a logarithm of parts, and
/// each vector copied a logarithm of times.
fn compact_tail(parts: &mut Vec<Part>) -> Result<(), IndexError> {
    parts.retain(|part| part.file.is_some() || part.live() > 0);
    while let [.., older, newer] = parts.as_slice() {
        if older.file.is_some() || older.live() > 2 * newer.live() {
            break;
        }
        let rows = live_rows(&[older, newer]);
        let merged = Image::from_rows(&[&older.image, &newer.image], &rows, Sequence(0))?;
        parts.truncate(parts.len() - 2);
        parts.push(Part::in_memory(merged));
    }
    Ok(())
}

impl VectorIndex for SegmentedIndex {
    fn dimensions(&self) -> usize {
        self.dimensions
    }

    fn apply(&self, changes: Vec<VectorChange>, through: Sequence) -> Result<(), IndexError> {
        for change in &changes {
            if let VectorChange::Put { vector, .. } = change {
                quantize::check(vector, self.dimensions)?;
            }
        }
        let mut writer = self.writer.lock();
        if !changes.is_empty() {
            let mut parts = self.snapshot.load().parts.clone();
            let unsaved = self.change(&mut parts, changes)?;
            writer.unsaved.parts |= unsaved.parts;
            writer.unsaved.dead |= unsaved.dead;
            self.publish(parts);
        }
        writer.applied = writer.applied.max(through);
        let snapshot = self.snapshot.load();
        let tail: u64 = snapshot.parts.iter().filter(|part| part.file.is_none()).map(Part::live).sum();
        if tail >= self.settings.seal_rows as u64 { self.seal_tail(&mut writer) } else { Ok(()) }
    }

    fn flush(&self) -> Result<(), IndexError> {
        let mut writer = self.writer.lock();
        let Unsaved { parts, dead } = writer.unsaved;
        if parts || dead || writer.applied != writer.flushed { self.persist(&mut writer) } else { Ok(()) }
    }

    fn watermark(&self) -> Sequence {
        self.writer.lock().flushed
    }

    fn live_vectors(&self) -> u64 {
        self.snapshot.load().live
    }

    fn search(&self, query: &[f32], search: VectorSearch<'_>) -> Result<Vec<ScoredChunk>, IndexError> {
        let query = Query::new(query, self.dimensions)?;
        search::nearest(&self.snapshot.load_full(), &self.settings, &query, search)
    }

    fn maintain(&self) -> Result<bool, IndexError> {
        self.do_next_work()
    }

    fn purge(&self) -> Result<bool, IndexError> {
        self.rewrite_removed()
    }
}
