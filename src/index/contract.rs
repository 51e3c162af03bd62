//! The contracts of what can be rebuilt: a lexical and a vector index over one generation.
//!
//! A generation belongs to one collection of one tenant, so an index holds nothing of anybody else. An index may
//! be stale and may lose recall; whether a hit leaves is decided by the truth. Applying a change twice is the same
//! as applying it once, so a replay from an old watermark is harmless.

use std::collections::HashSet;
use std::sync::Arc;

use half::f16;

use crate::domain::{ChunkId, DocumentId, Filter, Metadata, ScoredChunk, Sequence, Timestamp, Visibility};

use super::IndexError;

/// A chunk as the lexical index stores it.
#[derive(Debug, Clone, PartialEq)]
pub struct LexicalChunk {
    pub id: ChunkId,
    pub text: String,
    pub heading_path: Vec<String>,
    /// The document's metadata with the chunk's own laid over it.
    pub metadata: Metadata,
}

/// A document as the lexical index stores it; replaces whatever was there under the id.
#[derive(Debug, Clone, PartialEq)]
pub struct LexicalDocument {
    pub id: DocumentId,
    pub title: Option<String>,
    pub source_uri: Option<String>,
    pub media_type: String,
    pub acl: Option<Vec<String>>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub chunks: Vec<LexicalChunk>,
}

/// A change of the lexical index.
#[derive(Debug, Clone, PartialEq)]
pub enum LexicalChange {
    Put(Box<LexicalDocument>),
    Remove(DocumentId),
}

/// A change of the vector index. Vectors have unit length.
#[derive(Debug, Clone, PartialEq)]
pub enum VectorChange {
    Put { id: ChunkId, vector: Vec<f16> },
    Remove(ChunkId),
}

/// What narrows retrieval: the filter of a query and what the caller may see.
#[derive(Debug, Clone, Copy)]
pub struct Narrowing<'a> {
    pub filter: Option<&'a Filter>,
    pub visibility: &'a Visibility,
}

/// BM25 over chunks.
///
/// Blocking: callers run it on the compute pool. Lists are best first, ties by [`ChunkId`]; a chunk that matches
/// no term is not in the list.
pub trait LexicalIndex: Send + Sync {
    /// Buffers changes, in order; they are not searchable before [`LexicalIndex::commit`].
    fn apply(&self, changes: Vec<LexicalChange>) -> Result<(), IndexError>;

    /// Makes buffered changes durable and searchable and records `through` as the watermark, then reads both the
    /// watermark and the live count back. On a mismatch the buffered changes are dropped and
    /// [`IndexError::CommitNotHeld`] is returned: the caller replays from [`LexicalIndex::watermark`].
    fn commit(&self, through: Sequence) -> Result<(), IndexError>;

    /// The sequence that searches see.
    fn watermark(&self) -> Sequence;

    /// How many chunks searches see.
    fn live_chunks(&self) -> u64;

    /// The best `depth` chunks for `text`. The text is never read as a query language.
    fn search(&self, text: &str, narrowing: Narrowing<'_>, depth: usize) -> Result<Vec<ScoredChunk>, IndexError>;

    /// Every chunk that passes, for the vector leg; `None` if nothing is narrowed.
    fn matching(&self, narrowing: Narrowing<'_>) -> Result<Option<HashSet<ChunkId>>, IndexError>;

    /// As [`LexicalIndex::matching`], but an implementation may hand out an answer it remembers: callers with a
    /// visibility of their own ask with every query.
    fn matching_shared(&self, narrowing: Narrowing<'_>) -> Result<Option<Arc<HashSet<ChunkId>>>, IndexError> {
        Ok(self.matching(narrowing)?.map(Arc::new))
    }

    /// For each passage the byte ranges whose term occurs in `text`, ascending, not overlapping.
    fn highlights(&self, text: &str, passages: &[&str]) -> Vec<Vec<std::ops::Range<usize>>>;

    /// The highest score that `text` could reach at most: the upper end for score normalization.
    fn score_ceiling(&self, text: &str) -> Result<f32, IndexError>;

    /// How many segments a search goes through; each one more makes it a little dearer.
    fn segments(&self) -> usize {
        1
    }

    /// Gives back the memory that only writing needs; the next change takes it again. Blocking.
    fn release_writer(&self) -> Result<(), IndexError> {
        Ok(())
    }

    /// Merges everything into one segment and forgets removed chunks for good. Changes wait while it lasts, which is
    /// in proportion to the index. Does nothing while changes are buffered.
    fn compact(&self) -> Result<(), IndexError> {
        Ok(())
    }

    /// As [`LexicalIndex::compact`], whatever the number of segments: on return no file holds a word of a chunk that was
    /// removed before. False: changes are buffered, or a search still reads the old files; ask again. Blocking.
    fn purge(&self) -> Result<bool, IndexError>;
}

/// How the vector index is to be searched.
#[derive(Debug, Clone, Copy)]
pub struct VectorSearch<'a> {
    pub depth: usize,
    /// Scan everything instead of walking a graph.
    pub exact: bool,
    /// Only these may be returned; `None` allows all.
    pub allowed: Option<&'a HashSet<ChunkId>>,
}

/// Cosine similarity over chunk vectors of one dimension.
///
/// Blocking: callers run it on the compute pool. Lists are best first, ties by [`ChunkId`]; scores are cosines
/// computed from the f16 vectors, whatever was used to find them. A removed chunk is never returned. With
/// `exact`, the list is the true nearest `depth`; without, recall is below 1 only where a graph is used.
pub trait VectorIndex: Send + Sync {
    fn dimensions(&self) -> usize;

    /// Applies changes in order; they are searchable on return and durable after [`VectorIndex::flush`].
    fn apply(&self, changes: Vec<VectorChange>, through: Sequence) -> Result<(), IndexError>;

    /// Makes everything applied durable and records the watermark.
    fn flush(&self) -> Result<(), IndexError>;

    /// The sequence a restart would begin to replay from.
    fn watermark(&self) -> Sequence;

    /// How many vectors searches see.
    fn live_vectors(&self) -> u64;

    /// The nearest `depth` vectors. `query` need not have unit length but must be finite and not zero.
    fn search(&self, query: &[f32], search: VectorSearch<'_>) -> Result<Vec<ScoredChunk>, IndexError>;

    /// Merges segments and builds graphs where the settings ask for it; true if there was something to do.
    /// Searches and changes go on meanwhile.
    fn maintain(&self) -> Result<bool, IndexError>;

    /// Makes everything durable and writes segments with removed vectors anew, and the graphs over them: on return no
    /// file holds a vector that was removed before. False if it was told to stop. Blocking, perhaps for minutes.
    fn purge(&self) -> Result<bool, IndexError>;
}
