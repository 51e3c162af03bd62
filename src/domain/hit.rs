//! What a search returns, and where each score came from.

use super::{ChunkId, DocumentId, GenerationId, Metadata, Mode, Provenance, Sequence};

/// A chunk with a score, as an index or a fusion returns it; lists are best first, ties by [`ChunkId`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScoredChunk {
    pub id: ChunkId,
    /// More is better: BM25 or cosine similarity.
    pub score: f32,
}

/// Place and score in one stage; `rank` from 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StageScore {
    pub rank: usize,
    pub score: f64,
}

/// Where each score came from; absent means "not retrieved there", never 0.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ScoreBreakdown {
    pub lexical: Option<StageScore>,
    pub vector: Option<StageScore>,
    pub fusion: Option<StageScore>,
    pub rerank: Option<StageScore>,
}

/// A neighbouring chunk that came along as context.
#[derive(Debug, Clone, PartialEq)]
pub struct Neighbour {
    pub id: ChunkId,
    pub text: String,
}

/// A passage that answers the query.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    /// From 1.
    pub rank: usize,
    /// Score of the last stage that ran.
    pub score: f64,
    pub chunk_id: ChunkId,
    pub document_id: DocumentId,
    pub title: Option<String>,
    pub text: String,
    /// Byte ranges of `text` that match a query term, in order, not overlapping.
    pub highlights: Vec<super::ByteSpan>,
    pub before: Vec<Neighbour>,
    pub after: Vec<Neighbour>,
    pub metadata: Metadata,
    pub provenance: Provenance,
    pub breakdown: ScoreBreakdown,
}

/// A stage that was skipped or cut short, and why; shown as `stage:reason`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Degraded {
    pub stage: &'static str,
    pub reason: &'static str,
}

impl std::fmt::Display for Degraded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.stage, self.reason)
    }
}

/// Milliseconds spent in each stage of one search; the legs run side by side.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StageTimings {
    pub embed_ms: f64,
    pub lexical_ms: f64,
    pub vector_ms: f64,
    pub fusion_ms: f64,
    pub rerank_ms: f64,
    pub hydrate_ms: f64,
}

/// The outcome of one search.
#[derive(Debug, Clone, PartialEq)]
pub struct SearchResult {
    pub mode: Mode,
    /// `None`: the collection does not exist yet, so nothing was searched.
    pub generation: Option<GenerationId>,
    /// The operation that the indexes had reached.
    pub sequence: Sequence,
    pub hits: Vec<Hit>,
    pub degraded: Vec<Degraded>,
    /// Name of the reranker that ordered the head, if one did.
    pub reranked_by: Option<String>,
    pub timings: StageTimings,
    pub took_ms: f64,
}
