//! The writing half: buffers changes, commits them, and believes nothing that it has not read back.
//!
//! The engine has been seen to answer Ok to a commit that lost documents, so each commit is opened and counted. A
//! writer that failed in any way is dropped, never rolled back; what it had buffered is replayed by the caller
//! from the watermark.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use tantivy::index::Index;
use tantivy::indexer::{IndexWriterOptions, LogMergePolicy};
use tantivy::{IndexReader, IndexWriter, Term};

use crate::domain::{AnalyzerSpec, DocumentId, Sequence};
use crate::index::{IndexError, LexicalChange, LexicalDocument};

use super::analyzer::{Analyzer, StemCache};
use super::orphans::remove_orphaned_deletions;
use super::payload::Payload;
use super::schema::{Composer, Fields};
use super::settings::LexicalSettings;
use super::snapshot::Snapshot;

/// Segments below this many chunks are of one size to the merge policy.
const SMALL_SEGMENT_CHUNKS: u32 = 2_000;
/// The engine refuses to write with less.
const LEAST_HEAP_BYTES: usize = 15_000_000;
/// A segment with more than this part of its chunks removed is rewritten.
const MAX_REMOVED_RATIO: f32 = 0.3;

/// The one writer of an index directory.
pub(super) struct Writer {
    index: Index,
    reader: IndexReader,
    directory: PathBuf,
    fields: Fields,
    settings: LexicalSettings,
    spec: AnalyzerSpec,
    analyzer: Analyzer,
    engine: Option<IndexWriter>,
    stems: StemCache,
    /// How many chunks each document touched since the last commit will have.
    touched: HashMap<DocumentId, u64>,
}

impl Writer {
    pub(super) fn new(
        index: Index,
        reader: IndexReader,
        directory: PathBuf,
        fields: Fields,
        (settings, spec): (LexicalSettings, AnalyzerSpec),
    ) -> Self {
        let analyzer = Analyzer::new(&spec);
        let (engine, stems, touched) = (None, StemCache::default(), HashMap::new());
        Self { index, reader, directory, fields, settings, spec, analyzer, engine, stems, touched }
    }

    /// Buffers changes. After an error everything since the last commit is gone from the buffer.
    pub(super) fn apply(&mut self, changes: Vec<LexicalChange>) -> Result<(), IndexError> {
        let outcome = self.guarded(|writer| {
            writer.engine()?;
            changes.into_iter().try_for_each(|change| writer.apply_one(change))
        });
        if outcome.is_err() {
            self.discard();
        }
        outcome
    }

    /// Commits, makes the directory durable and returns what searches see from now on.
    pub(super) fn commit(&mut self, through: Sequence, before: &Snapshot) -> Result<Snapshot, IndexError> {
        let outcome = self.guarded(|writer| writer.commit_and_verify(through, before));
        if outcome.is_err() {
            self.discard();
        }
        outcome
    }

    /// Waits for merges and gives the writer's memory and threads back; what is buffered is committed first or lost.
    pub(super) fn release(&mut self) -> Result<(), IndexError> {
        self.touched.clear();
        self.stems = StemCache::default();
        match self.engine.take() {
            Some(engine) => self.guarded(|writer| {
                engine.wait_merging_threads().map_err(IndexError::Lexical)?;
                writer.sync_directory()?;
                writer.reader.reload().map_err(IndexError::Lexical)
            }),
            None => Ok(()),
        }
    }

    /// True if changes are buffered that no commit holds yet.
    pub(super) fn has_buffered(&self) -> bool {
        !self.touched.is_empty()
    }

    /// Merges all segments into one and waits for it; for an index that will rest.
    pub(super) fn merge_all(&mut self) -> Result<(), IndexError> {
        // Segments that a running merge holds cannot be merged again.
        self.release()?;
        self.guarded(|writer| {
            let segments = writer.index.searchable_segment_ids().map_err(IndexError::Lexical)?;
            if segments.len() > 1 {
                writer.engine()?.merge(&segments).wait().map_err(IndexError::Lexical)?;
            }
            Ok(())
        })?;
        self.release()
    }

    /// Writes each segment with removed chunks anew and waits for it.
    pub(super) fn merge_removed(&mut self) -> Result<(), IndexError> {
        self.release()?;
        self.guarded(|writer| {
            for segment in writer.index.searchable_segment_metas().map_err(IndexError::Lexical)? {
                if segment.num_deleted_docs() > 0 {
                    writer.engine()?.merge(&[segment.id()]).wait().map_err(IndexError::Lexical)?;
                }
            }
            Ok(())
        })?;
        self.release()
    }

    /// Deletes the files that no segment has; false if somebody still reads some of them.
    pub(super) fn delete_unused_files(&mut self) -> Result<bool, IndexError> {
        let is_clean = self.guarded(|writer| {
            let deleted = writer.engine()?.garbage_collect_files().wait().map_err(IndexError::Lexical)?;
            let metas = writer.index.searchable_segment_metas().map_err(IndexError::Lexical)?;
            let used: HashSet<String> = metas.iter().map(|segment| segment.id().uuid_string()).collect();
            let is_used = |file: &String| segment_of(file).is_none_or(|segment| used.contains(segment));
            Ok(deleted.failed_to_delete_files.is_empty() && writer.files()?.iter().all(is_used))
        })?;
        self.release()?;
        Ok(is_clean)
    }

    fn files(&self) -> Result<Vec<String>, IndexError> {
        let failed = |source| IndexError::Io { path: self.directory.display().to_string(), source };
        let entries = std::fs::read_dir(&self.directory).map_err(failed)?;
        entries.map(|entry| Ok(entry.map_err(failed)?.file_name().to_string_lossy().into_owned())).collect()
    }

    #[cfg(test)]
    pub(super) fn lose_what_is_buffered(&mut self) {
        self.engine = None;
    }

    fn apply_one(&mut self, change: LexicalChange) -> Result<(), IndexError> {
        match change {
            LexicalChange::Put(document) => {
                self.remove(&document.id)?;
                self.add(&document)
            }
            LexicalChange::Remove(id) => self.remove(&id),
        }
    }

    fn remove(&mut self, id: &DocumentId) -> Result<(), IndexError> {
        let term = Term::from_field_text(self.fields.document, id.as_str());
        self.engine()?.delete_term(term);
        self.touched.insert(id.clone(), 0);
        Ok(())
    }

    fn add(&mut self, document: &LexicalDocument) -> Result<(), IndexError> {
        let language = self.analyzer.language_of(&sample(document));
        let mut stems = std::mem::take(&mut self.stems);
        let mut composer = Composer::new(self.fields, document, language, &mut stems);
        for chunk in &document.chunks {
            let composed = composer.compose(chunk);
            self.engine()?.add_document(composed).map_err(IndexError::Lexical)?;
        }
        self.stems = stems;
        self.touched.insert(document.id.clone(), document.chunks.len() as u64);
        Ok(())
    }

    fn commit_and_verify(&mut self, through: Sequence, before: &Snapshot) -> Result<Snapshot, IndexError> {
        let mut live = before.live;
        for (document, chunks) in &self.touched {
            let removed = before.chunks_of(document.as_str()).map_err(IndexError::Lexical)?;
            live = (live + chunks).saturating_sub(removed);
        }
        let meant = Payload::new(through, live, &self.spec);
        let mut prepared = self.engine()?.prepare_commit().map_err(IndexError::Lexical)?;
        prepared.set_payload(&meant.encode());
        prepared.commit().map_err(IndexError::Lexical)?;
        self.sync_directory()?;
        self.reader.reload().map_err(IndexError::Lexical)?;
        let found = self.payload()?;
        let snapshot = Snapshot::open(&self.reader.searcher(), self.fields, through, Some(before));
        let snapshot = snapshot.map_err(IndexError::Lexical)?;
        if found.as_ref() != Some(&meant) || snapshot.live != live {
            return Err(IndexError::CommitNotHeld {
                meant: through,
                found: found.map_or(Sequence::default(), |payload| payload.sequence),
                meant_live: live,
                found_live: snapshot.live,
            });
        }
        self.touched.clear();
        Ok(snapshot)
    }

    fn payload(&self) -> Result<Option<Payload>, IndexError> {
        let meta = self.index.load_metas().map_err(IndexError::Lexical)?;
        Ok(meta.payload.and_then(|text| Payload::decode(&text).ok()))
    }

    // The engine syncs its files and the directory before it renames the new metadata into place, not after.
    fn sync_directory(&self) -> Result<(), IndexError> {
        let sync = File::open(&self.directory).and_then(|directory| directory.sync_all());
        sync.map_err(|source| IndexError::Io { path: self.directory.display().to_string(), source })
    }

    fn engine(&mut self) -> Result<&mut IndexWriter, IndexError> {
        if self.engine.is_none() {
            remove_orphaned_deletions(&self.index, &self.directory)?;
            let options = IndexWriterOptions::builder()
                .num_worker_threads(1)
                .num_merge_threads(1)
                .memory_budget_per_thread(self.settings.writer_heap_bytes.max(LEAST_HEAP_BYTES))
                .build();
            let engine: IndexWriter = self.index.writer_with_options(options).map_err(IndexError::Lexical)?;
            let mut policy = LogMergePolicy::default();
            policy.set_min_num_segments(self.settings.merge_factor.max(2));
            policy.set_min_layer_size(SMALL_SEGMENT_CHUNKS);
            policy.set_del_docs_ratio_before_merge(MAX_REMOVED_RATIO);
            engine.set_merge_policy(Box::new(policy));
            self.engine = Some(engine);
        }
        Ok(self.engine.as_mut().expect("it was just made"))
    }

    fn discard(&mut self) {
        self.touched.clear();
        self.stems = StemCache::default();
        // Dropping joins threads that may have panicked; that must not take the caller along.
        let engine = self.engine.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(engine)));
    }

    fn guarded<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, IndexError>) -> Result<T, IndexError> {
        catch_unwind(AssertUnwindSafe(|| work(self)))
            .unwrap_or_else(|_| Err(IndexError::Engine { detail: "the lexical writer panicked".to_owned() }))
    }
}

/// The segment that a file belongs to: its name begins with the segment's 32 digits.
fn segment_of(file: &str) -> Option<&str> {
    let stem = file.split('.').next()?;
    (stem.len() == 32 && stem.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(stem)
}

/// Enough of a document's text to tell its language by.
fn sample(document: &LexicalDocument) -> String {
    const ENOUGH_BYTES: usize = 1_000;
    let mut sample = String::new();
    for chunk in &document.chunks {
        sample.push_str(&chunk.text);
        sample.push('\n');
        if sample.len() >= ENOUGH_BYTES {
            break;
        }
    }
    sample
}
