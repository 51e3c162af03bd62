//! What can go wrong with a search.

use crate::domain::{ErrorKind, Sequence};
use crate::index::{ComputeError, IndexError};
use crate::inference::InferenceError;
use crate::store::StoreError;

/// An error of a search. A stage that fails while another one can still answer is no error: it is named in
/// `degraded`.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    #[error("a search needs a query text or a query vector")]
    EmptyQuery,
    #[error("unknown collection \"{collection}\"")]
    UnknownCollection { collection: String },
    #[error("unknown reranker \"{reranker}\"; here are: {known}")]
    UnknownReranker { reranker: String, known: String },
    #[error("the index has reached sequence {reached}, not yet {wanted}")]
    IndexLagging { wanted: Sequence, reached: Sequence, retry_after_ms: u64 },
    #[error("the index of the collection is being opened")]
    Opening { retry_after_ms: u64 },
    #[error("the query vector has {found} dimensions, the vectors of the collection have {expected}")]
    VectorDimensions { found: usize, expected: usize },
    #[error("a query vector must be finite and not zero")]
    NotAVector,
    #[error("collection \"{collection}\" has no vectors to search")]
    NoVectors { collection: String },
    #[error("no embedder is at hand that made the vectors of collection \"{collection}\"; give a query vector")]
    EmbedderUnavailable { collection: String },
    #[error("the embedder cannot read the script that the query is written in")]
    UnreadScript,
    #[error("the compute queue is full ({limit} waiting)")]
    Overloaded { limit: usize, retry_after_ms: u64 },
    #[error("a search panicked")]
    Panicked,
    #[error("the truth cannot be read")]
    Store(#[from] StoreError),
    #[error("the index cannot be searched")]
    Index(#[from] IndexError),
    #[error("the query cannot be embedded")]
    Inference(#[from] InferenceError),
}

impl SearchError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::EmptyQuery
            | Self::VectorDimensions { .. }
            | Self::NotAVector
            | Self::UnknownReranker { .. }
            | Self::NoVectors { .. }
            | Self::UnreadScript => ErrorKind::Unprocessable,
            Self::UnknownCollection { .. } => ErrorKind::NotFound,
            Self::IndexLagging { .. }
            | Self::Opening { .. }
            | Self::EmbedderUnavailable { .. }
            | Self::Overloaded { .. } => ErrorKind::Unavailable,
            Self::Panicked => ErrorKind::Internal,
            Self::Store(source) => source.kind(),
            Self::Index(source) => source.kind(),
            Self::Inference(source) => source.kind(),
        }
    }

    /// When another attempt makes sense; `None` where the error says nothing about it.
    pub fn retry_after_ms(&self) -> Option<u64> {
        match self {
            Self::IndexLagging { retry_after_ms, .. }
            | Self::Opening { retry_after_ms }
            | Self::Overloaded { retry_after_ms, .. } => Some(*retry_after_ms),
            // The embedder's queue moves by the second, as `Retry-After` counts.
            Self::Inference(InferenceError::Overloaded { .. }) => Some(1000),
            _ => None,
        }
    }

    /// The word for this in `degraded`.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::EmptyQuery => "no_text",
            Self::NoVectors { .. } => "no_vectors",
            Self::UnreadScript => "script",
            Self::EmbedderUnavailable { .. } => "embedder_unavailable",
            Self::Overloaded { .. } => "overloaded",
            Self::Inference(InferenceError::Overloaded { .. }) => "overloaded",
            Self::Inference(InferenceError::Deadline { .. }) => "deadline",
            Self::Inference(InferenceError::Missing { .. }) => "embedder_unavailable",
            Self::Index(IndexError::Corrupt { .. }) => "index_corrupt",
            _ => "failed",
        }
    }

    pub(super) fn compute(error: ComputeError, retry_after_ms: u64) -> Self {
        match error {
            ComputeError::Full { limit } => Self::Overloaded { limit, retry_after_ms },
            ComputeError::Panicked => Self::Panicked,
        }
    }
}
