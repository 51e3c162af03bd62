//! What became of a document that was sent.

use crate::domain::{ContentHash, Degraded, ErrorKind, Sequence};

use super::{IncomingDocument, ItemError};

/// A document on its way in, or why it could not even be read (a line that is not JSON, a field too many).
pub type IncomingItem = Result<IncomingDocument, RejectedItem>;

/// An item that its decoder refused; it takes its place among the outcomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedItem {
    /// As far as it could be read.
    pub id: Option<String>,
    pub kind: ErrorKind,
    /// A sentence for the caller.
    pub detail: String,
}

/// What became of one item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IngestStatus {
    /// Durable.
    Accepted,
    /// Content and head were there already; nothing was embedded or written.
    Unchanged,
    /// Nothing of it was stored.
    Failed,
}

/// The fate of one item, in the order in which they were sent.
#[derive(Debug)]
pub struct IngestOutcome {
    /// The caller's id or the derived one; `None` for an item that could not be read that far.
    pub id: Option<String>,
    pub status: IngestStatus,
    /// `None` if failed.
    pub version: Option<u64>,
    /// `None` if failed.
    pub content_hash: Option<ContentHash>,
    /// The operation that brought what is stored now, also where that was before this item; `None` if failed.
    pub sequence: Option<Sequence>,
    /// `Some` if and only if failed.
    pub error: Option<ItemError>,
    /// Stages that were left out and will be made up for, such as `embed:embedder_unavailable`.
    pub degraded: Vec<Degraded>,
}

impl IngestOutcome {
    pub(super) fn failed(id: Option<String>, error: ItemError) -> Self {
        Self {
            id,
            status: IngestStatus::Failed,
            version: None,
            content_hash: None,
            sequence: None,
            error: Some(error),
            degraded: Vec::new(),
        }
    }
}
