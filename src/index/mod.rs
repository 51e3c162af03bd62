//! What can be rebuilt from the truth: lexical and vector indexes of each generation.

mod compute;
mod contract;
mod error;
mod generations;
mod lexical;
mod manifest;
mod progress;
mod vector;

pub use compute::{ComputeError, ComputePool};
pub use contract::{
    LexicalChange, LexicalChunk, LexicalDocument, LexicalIndex, Narrowing, VectorChange, VectorIndex, VectorSearch,
};
pub use error::IndexError;
pub use generations::{GenerationIndex, Generations, OpenLexical};
pub use lexical::{LexicalSettings, TantivyIndex, analyzer_spec};
pub use progress::{IndexProgress, Lagging, Reached};
pub use vector::{FlatIndex, SegmentedIndex, VectorEngine, VectorSettings};
