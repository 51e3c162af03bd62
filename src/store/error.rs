//! What can go wrong with the truth.

use crate::domain::ErrorKind;

/// An error of the store. `Display` is for the log; clients see a sentence chosen by kind.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the data directory {path} is in use by {holder}")]
    Locked { path: String, holder: String },
    #[error("the database has format {found}, this program knows up to {known}; use a newer plumb")]
    TooNew { found: i64, known: i64 },
    #[error("the database failed its integrity check: {detail}")]
    Corrupt { detail: String },
    #[error("no space left on the device that holds the database")]
    Full(#[source] sqlx::Error),
    #[error("an earlier write could not be made durable, so writing has stopped; restart after the disk is healthy")]
    Poisoned,
    #[error("the write queue is full ({limit} waiting)")]
    Overloaded { limit: usize },
    #[error("a chunk's span does not match its text in document {document}")]
    SpanMismatch { document: String },
    #[error("the generation of document {document} is not live in its collection")]
    NotLive { document: String },
    #[error("an embedding of document {document} has {found} dimensions, its generation has {expected}")]
    DimensionMismatch { document: String, found: usize, expected: usize },
    #[error("the tenant has {limit} collections already, no more are allowed")]
    TooManyCollections { limit: usize },
    #[error("task {task} is held by another runner now")]
    LeaseLost { task: i64 },
    #[error("the tenant has {limit} unfinished tasks already, no more are allowed")]
    TooManyTasks { limit: usize },
    #[error("task {task} has not ended")]
    NotEnded { task: crate::domain::TaskId },
    #[error("there is no collection {name}")]
    NoCollection { name: String },
    #[error("the collection's live generation has this profile already")]
    AlreadyLive,
    #[error("the collection has generation {other} under way already; promote or retire it first")]
    AlreadyBuilding { other: crate::domain::GenerationId },
    #[error("the generation is {state}")]
    WrongState { state: &'static str },
    #[error("{documents} documents are served from the generation")]
    StillServing { documents: u64 },
    #[error("the store is closed")]
    Closed,
    #[error("{what} is not a valid page cursor")]
    InvalidCursor { what: String },
    #[error("the database refused a statement")]
    Sql(#[source] sqlx::Error),
    #[error("cannot use {path}")]
    Io {
        path: String,
        #[source]
        source: std::io::Error,
    },
}

impl StoreError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Full(_) => ErrorKind::StorageFull,
            // Another generation has become live since it was prepared: sent again it is prepared for that one.
            Self::NotLive { .. } | Self::Poisoned | Self::Closed | Self::Overloaded { .. } | Self::Locked { .. } => {
                ErrorKind::Unavailable
            }
            Self::Corrupt { .. } => ErrorKind::Corrupt,
            Self::LeaseLost { .. }
            | Self::NotEnded { .. }
            | Self::AlreadyLive
            | Self::AlreadyBuilding { .. }
            | Self::WrongState { .. }
            | Self::StillServing { .. } => ErrorKind::Conflict,
            Self::NoCollection { .. } => ErrorKind::NotFound,
            Self::TooManyTasks { .. } => ErrorKind::RateLimited,
            Self::InvalidCursor { .. } | Self::TooManyCollections { .. } => ErrorKind::Unprocessable,
            Self::TooNew { .. }
            | Self::SpanMismatch { .. }
            | Self::DimensionMismatch { .. }
            | Self::Sql(_)
            | Self::Io { .. } => ErrorKind::Internal,
        }
    }
}
