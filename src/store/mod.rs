//! The truth: what must never be lost.

mod contract;
mod error;

pub use contract::{
    CorpusStore, DocumentState, DocumentWrite, HydratedChunk, IndexableChunk, IndexableDocument, LiveCounts, LogEntry,
    Operation, OperationLog, OwnedGeneration, Page, PutDocument, StoredChunk, WithEmbeddings, WriteOutcome,
};
pub use error::StoreError;
