//! What can go wrong with one document, and with a whole call.

use crate::domain::{DocumentId, ErrorKind, InvalidId};
use crate::index::IndexError;
use crate::parse::ParseError;
use crate::store::StoreError;

use super::ContextError;

/// Why one document was not taken in; its neighbours are unharmed. `Display` is a sentence for its caller.
#[derive(Debug, thiserror::Error)]
pub enum ItemError {
    /// Refused before it got here, by whoever decoded it.
    #[error("{detail}")]
    Rejected { kind: ErrorKind, detail: String },
    #[error("{0}")]
    InvalidId(#[from] InvalidId),
    #[error("{field} has {found} bytes, at most {limit} are allowed")]
    TooLong { field: &'static str, found: usize, limit: usize },
    #[error("acl names {found} principals, at most {limit} are allowed")]
    TooManyPrincipals { found: usize, limit: usize },
    #[error("the document comes to {found} chunks, at most {limit} are allowed; split it")]
    TooManyChunks { found: usize, limit: usize },
    #[error("the document holds no text")]
    NoText,
    #[error("chunk {ordinal} holds no text")]
    EmptyChunk { ordinal: usize },
    #[error("{0}")]
    Parse(#[source] ParseError),
    #[error(
        "chunk {ordinal} brings a vector, but collection \"{collection}\" is not configured for a caller's vectors"
    )]
    VectorsNotConfigured { collection: String, ordinal: usize },
    #[error("chunk {ordinal} brings no vector, but others of the document do")]
    VectorMissing { ordinal: usize },
    #[error("the vector of chunk {ordinal} has {found} dimensions, the collection takes {expected}")]
    VectorDimensions { ordinal: usize, found: usize, expected: usize },
    #[error("the vector of chunk {ordinal} must hold finite numbers, not all of them 0")]
    NotAVector { ordinal: usize },
    #[error("the way of chunking that collection \"{collection}\" uses is not at hand: {detail}")]
    ChunkerUnavailable { collection: String, detail: String },
    #[error("the model of the generation is not at hand")]
    EmbedderUnavailable,
    #[error("the embedder could not read this document")]
    Embedding { detail: String },
    #[error("the {queue} has been full for {waited_ms} ms; send the document again later")]
    Busy { queue: &'static str, waited_ms: u64 },
    #[error("collection \"{collection}\" would be new, and no more than {limit} are allowed; use one that is there")]
    TooManyCollections { collection: String, limit: usize },
    #[error("the document was changed or removed after this content was sent; what is there now stays")]
    Superseded,
    #[error("the document could not be stored")]
    Store(#[source] StoreError),
    #[error("the program failed while it worked on this document")]
    Panicked,
}

impl ItemError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Rejected { kind, .. } => *kind,
            Self::InvalidId(_)
            | Self::TooManyPrincipals { .. }
            | Self::NoText
            | Self::EmptyChunk { .. }
            | Self::VectorsNotConfigured { .. }
            | Self::VectorMissing { .. }
            | Self::VectorDimensions { .. }
            | Self::NotAVector { .. }
            | Self::TooManyCollections { .. } => ErrorKind::Unprocessable,
            Self::TooLong { .. } | Self::TooManyChunks { .. } => ErrorKind::TooLarge,
            Self::Superseded => ErrorKind::Conflict,
            Self::Parse(source) => source.kind(),
            Self::ChunkerUnavailable { .. } | Self::EmbedderUnavailable | Self::Busy { .. } => ErrorKind::Unavailable,
            Self::Store(source) => source.kind(),
            Self::Embedding { .. } | Self::Panicked => ErrorKind::Internal,
        }
    }
}

/// Why a whole call failed; none of its documents is known to be durable.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    #[error("the truth cannot be read or written")]
    Store(#[from] StoreError),
    #[error("an index cannot be removed")]
    Index(#[from] IndexError),
    #[error("no text could be written to stand before a chunk: {0}")]
    Context(#[from] ContextError),
    #[error("document {:?} cannot be built now: {source}", document.as_str())]
    NotBuilt {
        document: DocumentId,
        #[source]
        source: Box<ItemError>,
    },
    #[error("the program failed while it prepared a batch")]
    Panicked,
}

impl IngestError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Store(source) => source.kind(),
            Self::Index(source) => source.kind(),
            Self::Context(source) => source.kind,
            Self::NotBuilt { source, .. } => source.kind(),
            Self::Panicked => ErrorKind::Internal,
        }
    }
}
