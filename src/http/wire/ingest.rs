//! Documents on their way in, and what became of them.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::domain::{CollectionName, Degraded, DocumentId, Principal, TraceId};
use crate::http::problem::{FieldError, Problem};
use crate::ingest::{IncomingBody, IncomingChunk, IncomingDocument, IngestOutcome, IngestStatus};

/// A document. Exactly one of `text` and `chunks` is required.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"id": "handbook/backup.md", "title": "Backup", "media_type": "text/markdown",
    "text": "# Backup\n\nRun `plumb backup` daily.", "metadata": {"year": 2026}}))]
pub(in crate::http) struct DocumentInput {
    /// Unique inside the collection. Left out: derived from `source_uri`, else from the content. With `PUT` the id
    /// is in the path.
    #[schema(value_type = Option<String>)]
    pub id: Option<DocumentId>,
    /// The document's own title is used where this is left out.
    pub title: Option<String>,
    pub text: Option<String>,
    /// The caller's own chunks, in order, instead of `text`.
    pub chunks: Option<Vec<CallerChunkBody>>,
    pub source_uri: Option<String>,
    /// How to read `text`; `text/plain` if left out.
    #[schema(example = "text/markdown")]
    pub media_type: Option<String>,
    /// Anything; filters look into it.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Map<String, Value>>,
    /// Principals that may see it; left out: everyone in the tenant.
    #[schema(value_type = Option<Vec<String>>)]
    pub acl: Option<Vec<Principal>>,
    /// `default` if left out; created on first write.
    #[schema(value_type = Option<String>)]
    pub collection: Option<CollectionName>,
}

/// A chunk that the caller made.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct CallerChunkBody {
    pub text: String,
    /// The caller's own embedding, of the collection's dimensions.
    #[serde(default)]
    pub vector: Option<Vec<f32>>,
    /// Goes before the document's metadata under the same key.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Map<String, Value>>,
}

/// Several documents. One that is not acceptable does not harm the others.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct DocumentsInput {
    // Raw, so that each is read and refused on its own.
    #[schema(value_type = Vec<DocumentInput>)]
    pub documents: Vec<Box<RawValue>>,
}

/// What became of the documents.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(in crate::http) struct IngestBody {
    pub trace_id: String,
    /// `null`: the work was done within the request; there is no task to follow.
    pub task_id: Option<String>,
    /// The newest write behind these documents, for `min_sequence` of a search; `null` if none was taken.
    pub sequence: Option<u64>,
    pub accepted: u64,
    pub unchanged: u64,
    pub failed: u64,
    /// In the order given. After more than 1,000 lines of NDJSON: the failed ones only, and of those the first
    /// 10,000.
    pub documents: Vec<IngestedBody>,
}

/// What became of one document.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(in crate::http) struct IngestedBody {
    /// `null` where it failed before its id was known.
    pub id: Option<String>,
    pub status: ItemStatus,
    pub version: Option<u64>,
    pub content_hash: Option<String>,
    /// What was left out and will be made up for, as `stage:reason`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(example = json!(["embed:embedder_unavailable"]))]
    pub degraded: Vec<String>,
    /// The line of an NDJSON stream, from 1; only with failed ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ItemErrorBody>,
}

/// `accepted`: durable. `unchanged`: the same content and description were there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum ItemStatus {
    Accepted,
    Unchanged,
    Failed,
}

/// Why one document failed.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(in crate::http) struct ItemErrorBody {
    /// As in a problem document.
    #[serde(rename = "type")]
    #[schema(example = "urn:plumb:problem:unprocessable-request")]
    pub type_uri: String,
    pub detail: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

impl DocumentInput {
    /// The document, or every fault of it; `at` is the pointer of the object inside the body.
    pub(in crate::http) fn into_incoming(
        self,
        fallback: &CollectionName,
        at: &str,
    ) -> Result<IncomingDocument, Problem> {
        let body = match (self.text, self.chunks) {
            (Some(text), None) => IncomingBody::Text(text),
            (None, Some(chunks)) => IncomingBody::Chunks(checked_chunks(chunks, at)?),
            (Some(_), Some(_)) => return Err(fault(at, "chunks", "give either text or chunks, not both")),
            (None, None) => return Err(fault(at, "text", "is required (or chunks)")),
        };
        Ok(IncomingDocument {
            id: self.id,
            collection: self.collection.unwrap_or_else(|| fallback.clone()),
            title: self.title,
            source_uri: self.source_uri,
            media_type: self.media_type,
            metadata: self.metadata.unwrap_or_default(),
            acl: self.acl,
            body,
        })
    }
}

fn checked_chunks(chunks: Vec<CallerChunkBody>, at: &str) -> Result<Vec<IncomingChunk>, Problem> {
    let not_finite = |chunk: &CallerChunkBody| chunk.vector.iter().flatten().any(|value| !value.is_finite());
    let faults: Vec<_> = (0..chunks.len())
        .filter(|index| not_finite(&chunks[*index]))
        .map(|index| FieldError::new(format!("{at}/chunks/{index}/vector"), "must hold finite numbers"))
        .collect();
    if !faults.is_empty() {
        return Err(Problem::fields(faults));
    }
    let convert =
        |chunk: CallerChunkBody| IncomingChunk { text: chunk.text, vector: chunk.vector, metadata: chunk.metadata };
    Ok(chunks.into_iter().map(convert).collect())
}

fn fault(at: &str, field: &str, detail: &str) -> Problem {
    Problem::fields(vec![FieldError::new(format!("{at}/{field}"), detail)])
}

/// Metadata that comes as JSON in a parameter.
pub(in crate::http) fn metadata_of(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("must be a JSON object: {error}"))
}

impl IngestBody {
    pub(in crate::http) fn new(trace: TraceId) -> Self {
        Self { trace_id: trace.to_string(), ..Self::default() }
    }

    /// Adds to the counts, and notes the newest sequence.
    pub(in crate::http) fn count(&mut self, outcome: &IngestOutcome) {
        match outcome.status {
            IngestStatus::Accepted => self.accepted += 1,
            IngestStatus::Unchanged => self.unchanged += 1,
            IngestStatus::Failed => self.failed += 1,
        }
        self.sequence = self.sequence.max(outcome.sequence.map(|sequence| sequence.0));
    }
}

impl IngestedBody {
    /// What became of an item; `refused` is the problem of one that could not be decoded.
    pub(in crate::http) fn new(outcome: &IngestOutcome, refused: Option<Problem>) -> Self {
        let problem = refused.or_else(|| outcome.error.as_ref().map(Problem::from));
        Self {
            id: outcome.id.clone(),
            status: outcome.status.into(),
            version: outcome.version,
            content_hash: outcome.content_hash.map(|hash| hash.to_string()),
            degraded: outcome.degraded.iter().map(Degraded::to_string).collect(),
            line: None,
            error: problem.map(Into::into),
        }
    }
}

impl From<Problem> for ItemErrorBody {
    fn from(problem: Problem) -> Self {
        Self { type_uri: problem.kind.type_uri(), detail: problem.detail, errors: problem.errors }
    }
}

impl From<IngestStatus> for ItemStatus {
    fn from(status: IngestStatus) -> Self {
        match status {
            IngestStatus::Accepted => Self::Accepted,
            IngestStatus::Unchanged => Self::Unchanged,
            IngestStatus::Failed => Self::Failed,
        }
    }
}
