//! Why a document could not be turned into text.

use crate::domain::ErrorKind;
use crate::text::InvalidText;

use super::media_type::SUPPORTED_MEDIA_TYPES;

/// An error of parsing; it concerns the one document alone.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    #[error("media type {media_type:?} is not supported; supported are {SUPPORTED_MEDIA_TYPES}")]
    UnsupportedMediaType { media_type: String },
    #[error("charset {charset:?} is not known")]
    UnknownCharset { charset: String },
    #[error("the document is {0}")]
    NotText(#[from] InvalidText),
    #[error("not valid JSON at line {line}, column {column}: {detail}")]
    Json { line: usize, column: usize, detail: String },
    #[error("the document nests more than {limit} deep")]
    TooDeep { limit: usize },
    #[error("the document has {bytes} bytes, at most {limit_bytes} are allowed")]
    TooLarge { bytes: usize, limit_bytes: usize },
    #[error("the document's text has more than {limit_bytes} bytes")]
    TextTooLarge { limit_bytes: usize },
    #[error("parsing was given up after {limit_ms} ms")]
    Timeout { limit_ms: u64 },
    #[error("the parser stopped at this document ({detail})")]
    WorkerDied { detail: String },
    #[error("{limit} documents wait for a parser already")]
    Busy { limit: usize },
    #[error("the parser process cannot be started")]
    CannotStart {
        #[source]
        source: std::io::Error,
    },
    #[error("the parser panicked at this document")]
    Panicked,
}

impl ParseError {
    /// The kind that decides on retry and HTTP status.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::UnsupportedMediaType { .. } => ErrorKind::UnsupportedMediaType,
            Self::TooLarge { .. } | Self::TextTooLarge { .. } => ErrorKind::TooLarge,
            // The document did it: the same document would do it again.
            Self::UnknownCharset { .. }
            | Self::NotText(_)
            | Self::Json { .. }
            | Self::TooDeep { .. }
            | Self::Timeout { .. }
            | Self::WorkerDied { .. }
            | Self::Panicked => ErrorKind::Unprocessable,
            Self::Busy { .. } => ErrorKind::Unavailable,
            Self::CannotStart { .. } => ErrorKind::Internal,
        }
    }
}
