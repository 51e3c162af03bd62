//! Bytes to searchable versions, and the indexer that follows the operation log.

mod backfill;
mod changes;
mod draft;
mod embed;
mod error;
mod follower;
mod incoming;
mod indexer;
mod ingestor;
mod maintenance;
mod march;
mod memory;
mod outcome;
mod patience;
mod prepare;
mod recipe;
mod settings;
mod stream;

pub use error::{IngestError, ItemError};
pub use follower::IndexerError;
pub use incoming::{DEFAULT_MEDIA_TYPE, IncomingBody, IncomingChunk, IncomingDocument};
pub use indexer::{IndexDamage, Indexer, IndexerHealth, IndexerParts};
pub use ingestor::{IngestParts, Ingestor};
pub use outcome::{IncomingItem, IngestOutcome, IngestStatus, RejectedItem};
pub use settings::{CallerVectors, IndexerSettings, IngestLimits, IngestSettings};
pub use stream::{StreamFailure, StreamReport};
