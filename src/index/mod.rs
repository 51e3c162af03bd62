//! What can be rebuilt from the truth: lexical and vector indexes of each generation.

mod compute;
mod contract;
mod error;

pub use compute::{ComputeError, ComputePool};
pub use contract::{
    LexicalChange, LexicalChunk, LexicalDocument, LexicalIndex, Narrowing, VectorChange, VectorIndex, VectorSearch,
};
pub use error::IndexError;
