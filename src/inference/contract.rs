//! The contracts of models that run in this process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use half::f16;

use crate::domain::{ChunkId, EmbedderSpec, TenantScope};

use super::InferenceError;
use super::languages::PassageSample;

/// What a text is to the embedder: models may put different prefixes in front.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InputKind {
    Query,
    Passage,
}

/// Turns text into vectors of unit length.
///
/// Equal text gives equal vectors, whatever else is in the batch (to 1e-5 in f32). Text beyond the model's
/// maximum is cut off at the end. Calls wait for a place in a bounded queue and fail with
/// [`InferenceError::Overloaded`] when there is none.
#[async_trait]
pub trait Embedder: Send + Sync {
    fn spec(&self) -> &EmbedderSpec;

    /// Longest input in tokens, special tokens not counted.
    fn max_tokens(&self) -> usize;

    /// False if the text is written in a script that the model does not know: its vector would be noise.
    fn reads(&self, _text: &str) -> bool {
        true
    }

    /// One vector for each input, in order. A caller that drops the future takes its inputs out of the queue.
    async fn embed(&self, inputs: Vec<String>, kind: InputKind) -> Result<Vec<Vec<f32>>, InferenceError>;
}

/// Counts tokens as the embedder does.
pub trait TokenCounter: Send + Sync {
    /// Name and version of the way of counting: enters the chunker's fingerprint.
    fn name(&self) -> &str;

    /// Byte offset at which each token of `text` starts, ascending; special tokens not counted.
    fn token_starts(&self, text: &str) -> Vec<usize>;
}

/// A passage to be scored against a query.
#[derive(Debug, Clone)]
pub struct RerankPassage {
    pub id: ChunkId,
    /// Title, heading path and text, as the reranker should read them.
    pub text: String,
    /// The chunk's stored embedding, where there is one.
    pub embedding: Option<Vec<f16>>,
}

/// A query as a reranker wants it.
#[derive(Debug, Clone)]
pub struct RerankQuery {
    pub text: String,
    /// The embedded query, where there is one.
    pub vector: Option<Vec<f32>>,
    pub embedded_by: EmbeddedBy,
    /// How many of the list will be shown: the order behind them need not be exact.
    pub shown: usize,
}

/// Whose vectors those of a query and of the passages that come with it are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EmbeddedBy {
    /// There are none.
    Nobody,
    One(EmbedderSpec),
    /// Different ones: no cosine of one can be put beside that of another, so none counts.
    Several,
}

/// How a reranker judges, and so how far it is to be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RerankerKind {
    /// Reads query and passage together.
    CrossEncoder,
    /// Compares what was made of each alone.
    Rescorer,
}

/// A reranker by the name that settings and requests know it by.
#[derive(Clone)]
pub struct NamedReranker {
    pub name: String,
    pub kind: RerankerKind,
    pub reranker: Arc<dyn Reranker>,
}

/// Scores passages against a query; more is better, scores of different queries are not comparable.
///
/// A passage's score does not depend on the others (to 1e-5 in f32) unless the implementation says so.
#[async_trait]
pub trait Reranker: Send + Sync {
    /// Name and revision, as shown in explanations.
    fn name(&self) -> &str;

    /// False if the text is written in a script that the model does not know: its scores would be noise.
    fn reads(&self, _text: &str) -> bool {
        true
    }

    /// False if the passages are clearly written in a language that the model does not know.
    fn judges(&self, _passages: &PassageSample) -> bool {
        true
    }

    /// Time for one passage of common length, as measured when the model was loaded; `None`: not worth a measurement.
    fn expected_pace(&self) -> Option<Duration> {
        None
    }

    /// One score for each passage, in order. Past `deadline` it gives up with [`InferenceError::Deadline`].
    async fn rerank(
        &self,
        scope: &TenantScope,
        query: &RerankQuery,
        passages: &[RerankPassage],
        deadline: Option<Instant>,
    ) -> Result<Vec<f32>, InferenceError>;
}
