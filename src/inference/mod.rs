//! Models that run in this process: embedder and reranker.

mod contract;
mod error;

pub use contract::{Embedder, InputKind, RerankPassage, RerankQuery, Reranker, TokenCounter};
pub use error::InferenceError;
