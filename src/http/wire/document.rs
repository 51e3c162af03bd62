//! Stored documents, versions and chunks.

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::domain::{ChunkId, Document, DocumentId, Provenance, TraceId, VersionSummary};
use crate::store::{Page, StoredChunk};

use super::{ProvenanceBody, time};

/// A stored document, without its text.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct DocumentBody {
    /// Absent inside a listing, which has its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    #[schema(example = "handbook/backup.md")]
    pub id: String,
    pub collection: String,
    pub title: Option<String>,
    pub source_uri: Option<String>,
    #[schema(example = "text/markdown")]
    pub media_type: String,
    pub metadata: Map<String, Value>,
    /// `null`: everyone in the tenant.
    pub acl: Option<Vec<String>>,
    /// Grows by one with each content, from 1.
    pub version: u64,
    pub content_hash: String,
    pub created_at: String,
    pub updated_at: String,
    /// `null`: not searchable yet.
    pub indexed_at: Option<String>,
    pub chunk_count: u64,
    pub generation: String,
}

/// A page of documents, ordered by id.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct DocumentsBody {
    pub trace_id: String,
    pub documents: Vec<DocumentBody>,
    /// The `cursor` of the next page; `null`: this was the last one.
    pub next_cursor: Option<String>,
}

/// The versions of a document, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct VersionsBody {
    pub trace_id: String,
    pub versions: Vec<VersionBody>,
}

/// One content of a document.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct VersionBody {
    pub version: u64,
    pub content_hash: String,
    pub created_at: String,
    pub chunk_count: u64,
}

/// The chunks of one version, in order of position.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct ChunksBody {
    pub trace_id: String,
    pub chunks: Vec<ListedChunkBody>,
}

/// A chunk inside a listing.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct ListedChunkBody {
    pub chunk_id: String,
    pub text: String,
    pub provenance: ProvenanceBody,
}

/// A chunk with the ids of its neighbours.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct ChunkBody {
    pub trace_id: String,
    pub chunk_id: String,
    pub document_id: String,
    pub text: String,
    pub provenance: ProvenanceBody,
    /// The chunk before it; `null` for the first.
    pub previous: Option<String>,
    /// The chunk after it; `null` for the last.
    pub next: Option<String>,
}

impl DocumentBody {
    /// With `trace`, it stands alone.
    pub(in crate::http) fn new(trace: Option<TraceId>, document: Document) -> Self {
        let head = document.head;
        Self {
            trace_id: trace.map(|trace| trace.to_string()),
            id: head.id.into(),
            collection: head.collection.into(),
            title: head.title,
            source_uri: head.source_uri,
            media_type: head.media_type,
            metadata: head.metadata,
            acl: head.acl.map(|acl| acl.into_iter().map(Into::into).collect()),
            version: document.version,
            content_hash: document.content_hash.to_string(),
            created_at: time(document.created_at),
            updated_at: time(document.updated_at),
            indexed_at: document.indexed_at.map(time),
            chunk_count: document.chunk_count,
            generation: document.generation.to_string(),
        }
    }
}

impl DocumentsBody {
    pub(in crate::http) fn new(trace: TraceId, page: Page<Document>) -> Self {
        Self {
            trace_id: trace.to_string(),
            documents: page.items.into_iter().map(|document| DocumentBody::new(None, document)).collect(),
            next_cursor: page.next,
        }
    }
}

impl VersionsBody {
    pub(in crate::http) fn new(trace: TraceId, versions: Vec<VersionSummary>) -> Self {
        Self { trace_id: trace.to_string(), versions: versions.into_iter().map(Into::into).collect() }
    }
}

impl From<VersionSummary> for VersionBody {
    fn from(version: VersionSummary) -> Self {
        Self {
            version: version.version,
            content_hash: version.content_hash.to_string(),
            created_at: time(version.created_at),
            chunk_count: version.chunk_count,
        }
    }
}

impl ChunksBody {
    pub(in crate::http) fn new(trace: TraceId, chunks: Vec<StoredChunk>) -> Self {
        let listed = |stored: StoredChunk| ListedChunkBody {
            chunk_id: stored.chunk.id.to_string(),
            text: stored.chunk.text,
            provenance: stored.provenance.into(),
        };
        Self { trace_id: trace.to_string(), chunks: chunks.into_iter().map(listed).collect() }
    }
}

impl ChunkBody {
    pub(in crate::http) fn new(trace: TraceId, stored: StoredChunk) -> Self {
        let document: DocumentId = stored.provenance.document_id.clone();
        Self {
            trace_id: trace.to_string(),
            chunk_id: stored.chunk.id.to_string(),
            document_id: document.into(),
            text: stored.chunk.text,
            provenance: Provenance::into(stored.provenance),
            previous: stored.previous.as_ref().map(ChunkId::to_string),
            next: stored.next.as_ref().map(ChunkId::to_string),
        }
    }
}
