//! What can go wrong with what can be rebuilt.

use crate::domain::{ErrorKind, Sequence};

/// An error of an index. None of them loses anything: the truth can rebuild the index.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    #[error("{path}: {detail}")]
    Corrupt { path: String, detail: String },
    #[error(
        "the index meant to reach sequence {meant} with {meant_live} live chunks, but holds {found} with {found_live}"
    )]
    CommitNotHeld { meant: Sequence, found: Sequence, meant_live: u64, found_live: u64 },
    #[error("a vector has {found} dimensions, the index has {expected}")]
    Dimensions { found: usize, expected: usize },
    #[error("a query vector must be finite and not zero")]
    NotAVector,
    #[error("the lexical engine failed")]
    Lexical(#[source] tantivy::TantivyError),
    #[error("the vector engine failed: {detail}")]
    Engine { detail: String },
    #[error("cannot use {path}")]
    Io {
        path: String,
        #[source]
        source: std::io::Error,
    },
}

impl IndexError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Corrupt { .. } => ErrorKind::Corrupt,
            Self::Dimensions { .. } | Self::NotAVector => ErrorKind::Unprocessable,
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => ErrorKind::StorageFull,
            Self::CommitNotHeld { .. } | Self::Lexical(_) | Self::Engine { .. } | Self::Io { .. } => {
                ErrorKind::Internal
            }
        }
    }
}
