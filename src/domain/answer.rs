//! An answer, its sentences, and their evidence.

use super::{ByteSpan, ChunkId, Degraded, DocumentId, ErrorKind, Hit, Nanousd, Provenance};

/// How an answer came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerStatus {
    /// A model wrote it from the sources.
    Answered,
    /// The sources do not support an answer.
    Abstained,
    /// No model may or can be called: quoted sentences instead.
    Fallback,
}

/// What the check of a sentence against its passages found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Supported,
    Partial,
    Unsupported,
}

/// A sentence of the answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    pub text: String,
    /// Where it stands in the answer, in bytes.
    pub span: ByteSpan,
    /// Markers of the citations that follow it.
    pub citations: Vec<u32>,
    /// From 0 to 1: the share of the sentence's content words that its cited passages hold.
    pub support: f64,
    pub verdict: Verdict,
}

/// Evidence: a quote equals the document's content at its span.
#[derive(Debug, Clone, PartialEq)]
pub struct Citation {
    /// From 1, as it stands in the answer (`[1]`).
    pub marker: u32,
    pub chunk_id: ChunkId,
    pub document_id: DocumentId,
    pub quote: String,
    /// Bytes of the document's content.
    pub span: ByteSpan,
    pub provenance: Provenance,
}

/// Tokens of one or more model calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// All of them, those that the server had cached included.
    pub input_tokens: u64,
    /// Those of `input_tokens` that the server had cached; priced for themselves.
    pub cached_input_tokens: u64,
    pub output_tokens: u64,
}

/// One call to a model server, successful or not.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    pub provider: String,
    pub model: String,
    /// `ok`, or the kind of failure.
    pub outcome: String,
    pub latency_ms: f64,
}

/// Why no model was, or could be, asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelProblem {
    pub kind: ErrorKind,
    /// One stable word, as in `degraded`.
    pub reason: &'static str,
    /// A sentence that is safe to show; names the budget where one refused.
    pub detail: String,
}

/// The prompt that was used; the hash is computed from the template, so it cannot be forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptVersion {
    pub name: String,
    pub version: String,
    pub hash: String,
}

/// An answer with everything needed to check it.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub status: AnswerStatus,
    /// Sentences with markers (`[1]`) after them.
    pub text: String,
    pub claims: Vec<Claim>,
    pub citations: Vec<Citation>,
    /// The hits that were at hand when the answer was made.
    pub sources: Vec<Hit>,
    pub model: Option<String>,
    pub provider: Option<String>,
    pub prompt: Option<PromptVersion>,
    pub usage: Usage,
    pub attempts: Vec<Attempt>,
    /// Of all attempts together.
    pub cost: Nanousd,
    /// The reply of an earlier or simultaneous call that was the same.
    pub is_cached: bool,
    /// Why no model wrote the answer, where one should have.
    pub model_problem: Option<ModelProblem>,
    pub search_ms: f64,
    pub model_ms: f64,
    pub degraded: Vec<Degraded>,
}
