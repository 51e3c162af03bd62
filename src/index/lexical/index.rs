//! The lexical index over tantivy: a directory, a writer that comes and goes, and the snapshot that searches see.

use std::collections::HashSet;
use std::fs;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tantivy::ReloadPolicy;
use tantivy::directory::MmapDirectory;
use tantivy::index::Index;

use crate::domain::{AnalyzerSpec, ChunkId, ScoredChunk, Sequence};
use crate::index::{IndexError, LexicalChange, LexicalIndex, Narrowing};

use super::analyzer::Analyzer;
use super::bm25::norms;
use super::highlight::Marker;
use super::narrow::narrow;
use super::payload::Payload;
use super::plan::Plan;
use super::scan::Scan;
use super::schema::{Fields, schema};
use super::settings::LexicalSettings;
use super::snapshot::Snapshot;
use super::terms::{TERMS, TermSplitter};
use super::top::TopChunks;
use super::writer::Writer;

/// The file that makes a directory an index of the engine.
const META: &str = "meta.json";

/// BM25 in a directory of its own.
pub struct TantivyIndex {
    settings: LexicalSettings,
    analyzer: Analyzer,
    fields: Fields,
    reader: tantivy::IndexReader,
    snapshot: ArcSwap<Snapshot>,
    writer: Mutex<Writer>,
}

impl TantivyIndex {
    /// Opens the index in `directory`, or makes an empty one there.
    ///
    /// All files are read and their checksums compared. What cannot be read, was made by another format or
    /// analyzer, or holds another number of chunks than its last commit said is [`IndexError::Corrupt`].
    pub fn open(directory: &Path, settings: &LexicalSettings, analyzer: &AnalyzerSpec) -> Result<Self, IndexError> {
        let path = || directory.display().to_string();
        fs::create_dir_all(directory).map_err(|source| IndexError::Io { path: path(), source })?;
        let opened = catch_unwind(AssertUnwindSafe(|| Self::open_or_create(directory, settings, analyzer)));
        // The engine panics over some damage.
        opened
            .unwrap_or_else(|_| Err("the engine panicked over it".to_owned()))
            .map_err(|detail| IndexError::Corrupt { path: path(), detail })
    }

    fn open_or_create(directory: &Path, settings: &LexicalSettings, spec: &AnalyzerSpec) -> Result<Self, String> {
        let (schema, fields) = schema();
        let files = MmapDirectory::open(directory).map_err(|error| error.to_string())?;
        let is_new = !directory.join(META).exists();
        if is_new && holds_segments(directory)? {
            return Err(format!("{META} is missing"));
        }
        let index = if is_new { Index::create(files, schema.clone(), Default::default()) } else { Index::open(files) };
        let index = index.map_err(|error| error.to_string())?;
        if index.schema() != schema {
            return Err("the index has another schema".to_owned());
        }
        index.tokenizers().register(TERMS, TermSplitter::default());
        let damaged = index.validate_checksum().map_err(|error| error.to_string())?;
        if let Some(file) = damaged.iter().next() {
            return Err(format!("{} of its files are damaged, such as {}", damaged.len(), file.display()));
        }
        let reader = index.reader_builder().reload_policy(ReloadPolicy::Manual).try_into();
        let reader: tantivy::IndexReader = reader.map_err(|error: tantivy::TantivyError| error.to_string())?;
        let snapshot = verified(&index, &reader, fields, spec)?;
        let writer = Writer::new(index, reader.clone(), directory.to_owned(), fields, (*settings, spec.clone()));
        Ok(Self {
            settings: *settings,
            analyzer: Analyzer::new(spec),
            fields,
            reader,
            snapshot: ArcSwap::from_pointee(snapshot),
            writer: Mutex::new(writer),
        })
    }

    /// Gives the writer's memory and threads back once there is nothing to write; the next change brings it back.
    /// Waits for running merges. Does nothing while changes are buffered.
    pub fn release_writer(&self) -> Result<(), IndexError> {
        let mut writer = self.writer.lock();
        if writer.has_buffered() {
            return Ok(());
        }
        writer.release()?;
        self.refresh()
    }

    /// Merges all segments into one, as after a first load, and releases the writer: searches become cheaper.
    /// Does nothing while changes are buffered. Takes seconds for a hundred thousand chunks.
    pub fn compact(&self) -> Result<(), IndexError> {
        let mut writer = self.writer.lock();
        if writer.has_buffered() {
            return Ok(());
        }
        writer.merge_all()?;
        self.refresh()
    }

    /// See [`LexicalIndex::purge`].
    pub fn purge(&self) -> Result<bool, IndexError> {
        let mut writer = self.writer.lock();
        if writer.has_buffered() {
            return Ok(false);
        }
        writer.merge_removed()?;
        self.refresh()?;
        let seen = self.snapshot.load();
        let is_merged = seen.total == seen.live;
        drop(seen);
        Ok(is_merged && writer.delete_unused_files()?)
    }

    /// How many segments searches go through.
    pub fn segments(&self) -> usize {
        self.snapshot.load().segments.len()
    }

    /// Lets the engine forget what it buffered, as a broken one has been seen to do.
    #[cfg(test)]
    pub(super) fn lose_what_is_buffered(&self) {
        self.writer.lock().lose_what_is_buffered();
    }

    // The writer must be locked, or a commit could be undone in the eyes of searches.
    fn refresh(&self) -> Result<(), IndexError> {
        let before = self.snapshot.load();
        let after = Snapshot::open(&self.reader.searcher(), self.fields, before.sequence, Some(&before));
        self.snapshot.store(Arc::new(after.map_err(IndexError::Lexical)?));
        Ok(())
    }

    fn plan(&self, snapshot: &Snapshot, text: &str) -> Result<Plan, IndexError> {
        let terms = self.analyzer.query(text, &snapshot.languages);
        Plan::new(snapshot, &terms, &self.settings).map_err(IndexError::Lexical)
    }
}

impl LexicalIndex for TantivyIndex {
    fn apply(&self, changes: Vec<LexicalChange>) -> Result<(), IndexError> {
        self.writer.lock().apply(changes)
    }

    fn commit(&self, through: Sequence) -> Result<(), IndexError> {
        let mut writer = self.writer.lock();
        let snapshot = writer.commit(through, &self.snapshot.load())?;
        self.snapshot.store(Arc::new(snapshot));
        Ok(())
    }

    fn watermark(&self) -> Sequence {
        self.snapshot.load().sequence
    }

    fn live_chunks(&self) -> u64 {
        self.snapshot.load().live
    }

    fn search(&self, text: &str, narrowing: Narrowing<'_>, depth: usize) -> Result<Vec<ScoredChunk>, IndexError> {
        let snapshot = self.snapshot.load_full();
        let plan = self.plan(&snapshot, text)?;
        let narrowed = narrow(&snapshot, narrowing, self.settings.narrowing_cache).map_err(IndexError::Lexical)?;
        let norms = norms(&self.settings, snapshot.mean_lengths);
        let scan = Scan { plan: &plan, norms: &norms, k1: self.settings.k1 };
        let mut top = TopChunks::new(depth);
        for (ordinal, segment) in snapshot.segments.iter().enumerate() {
            let passing = narrowed.as_ref().map(|narrowed| &narrowed.docs[ordinal]);
            scan.segment(ordinal, segment, passing, &mut top).map_err(IndexError::Lexical)?;
        }
        Ok(top.into_best())
    }

    fn matching(&self, narrowing: Narrowing<'_>) -> Result<Option<HashSet<ChunkId>>, IndexError> {
        Ok(self.matching_shared(narrowing)?.map(Arc::unwrap_or_clone))
    }

    fn matching_shared(&self, narrowing: Narrowing<'_>) -> Result<Option<Arc<HashSet<ChunkId>>>, IndexError> {
        let snapshot = self.snapshot.load_full();
        let narrowed = narrow(&snapshot, narrowing, self.settings.narrowing_cache).map_err(IndexError::Lexical)?;
        Ok(narrowed.map(|narrowed| narrowed.ids(&snapshot)))
    }

    fn highlights(&self, text: &str, passages: &[&str]) -> Vec<Vec<Range<usize>>> {
        let snapshot = self.snapshot.load_full();
        let query = self.analyzer.query(text, &snapshot.common_languages);
        let marker = Marker::new(&query, &snapshot.common_languages);
        passages.iter().map(|passage| marker.mark(passage)).collect()
    }

    fn score_ceiling(&self, text: &str) -> Result<f32, IndexError> {
        Ok(self.plan(&self.snapshot.load_full(), text)?.ceiling())
    }

    fn segments(&self) -> usize {
        self.segments()
    }

    fn release_writer(&self) -> Result<(), IndexError> {
        self.release_writer()
    }

    fn compact(&self) -> Result<(), IndexError> {
        self.compact()
    }

    fn purge(&self) -> Result<bool, IndexError> {
        self.purge()
    }
}

fn holds_segments(directory: &Path) -> Result<bool, String> {
    let entries = fs::read_dir(directory).map_err(|error| error.to_string())?;
    // The engine's own lock and list of files begin with a dot.
    Ok(entries.flatten().any(|entry| !entry.file_name().to_string_lossy().starts_with('.')))
}

// A snapshot of what is on disk, if it is what the last commit meant.
fn verified(
    index: &Index,
    reader: &tantivy::IndexReader,
    fields: Fields,
    spec: &AnalyzerSpec,
) -> Result<Snapshot, String> {
    let meta = index.load_metas().map_err(|error| error.to_string())?;
    let payload = match meta.payload {
        Some(text) => Payload::decode(&text)?,
        None if meta.segments.is_empty() => Payload::new(Sequence::default(), 0, spec),
        None => return Err("the last commit says nothing about itself".to_owned()),
    };
    if payload.analyzer != *spec {
        return Err(format!("the index was made by analyzer {:?}", payload.analyzer));
    }
    let snapshot =
        Snapshot::open(&reader.searcher(), fields, payload.sequence, None).map_err(|error| error.to_string())?;
    if snapshot.live != payload.live {
        return Err(format!("the last commit had {} live chunks, the index has {}", payload.live, snapshot.live));
    }
    Ok(snapshot)
}
