//! A document that is gone, and the receipt of one that was erased.

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::TraceId;
use crate::jobs::{Receipt, ReceiptPlace};

/// A document that is gone.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct DeletedBody {
    pub trace_id: String,
    /// The task that erases it; `null`: it was only to be deleted.
    pub task_id: Option<String>,
    /// `null`: it was out of sight before, or the task has not come to it yet.
    pub sequence: Option<u64>,
    /// With `erase=true`, once the task has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receipt: Option<ReceiptBody>,
}

/// What was removed, and what is left.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct ReceiptBody {
    pub document_id: String,
    pub collection: String,
    pub erased_at: String,
    pub places: Vec<ReceiptPlaceBody>,
    /// By what was searched.
    pub searched: String,
    /// What may hold it still, outside of this program.
    pub backups: String,
}

/// A place that was cleared.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct ReceiptPlaceBody {
    /// `versions`, `chunks`, `embeddings`, `contexts` and `cache` (of the whole tenant), `judgements`, `eval_cases`,
    /// `tasks`, `call_texts`, `traces`, `indexes` (those written anew) or `files` (what was left in any file between the rows).
    #[schema(example = "versions")]
    pub place: String,
    pub removed: u64,
    /// Counted afterwards.
    #[schema(example = 0)]
    pub left: u64,
}

impl DeletedBody {
    pub(in crate::http) fn new(trace: TraceId) -> Self {
        Self { trace_id: trace.to_string(), task_id: None, sequence: None, receipt: None }
    }
}

impl From<Receipt> for ReceiptBody {
    fn from(receipt: Receipt) -> Self {
        Self {
            document_id: receipt.document_id.to_string(),
            collection: receipt.collection.to_string(),
            erased_at: receipt.erased_at,
            places: receipt.places.into_iter().map(Into::into).collect(),
            searched: receipt.searched,
            backups: receipt.backups,
        }
    }
}

impl From<ReceiptPlace> for ReceiptPlaceBody {
    fn from(ReceiptPlace { place, removed, left }: ReceiptPlace) -> Self {
        Self { place, removed, left }
    }
}
