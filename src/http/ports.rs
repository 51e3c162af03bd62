//! What the handlers need of the rooms below, as small contracts.

use std::time::Instant;

use async_trait::async_trait;
use futures::stream::BoxStream;

use crate::domain::{
    Answer, Citation, Claim, CollectionName, DocumentId, ErrorKind, Hit, Query, SearchResult, Sequence, TenantScope,
    TraceId,
};
use crate::ingest::{IncomingDocument, IncomingItem, IngestError, IngestOutcome, StreamReport};
use crate::search::{InvalidQuery, QueryOverrides, SearchError};

use super::problem::FieldError;

/// Why an answer failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub kind: ErrorKind,
    /// A sentence that is safe to show; `None`: one chosen by kind.
    pub detail: Option<String>,
    /// Faults of fields, with pointers into the request.
    pub fields: Vec<FieldError>,
    pub retry_after: Option<std::time::Duration>,
}

/// Searching.
#[async_trait]
pub trait SearchPort: Send + Sync {
    /// Fills in defaults and checks limits; every fault at once, with pointers into a search request.
    fn query(&self, text: Option<String>, overrides: QueryOverrides) -> Result<Query, InvalidQuery>;

    /// Runs a query; its deadline counts from `taken_at`.
    async fn search(&self, scope: &TenantScope, query: &Query, taken_at: Instant) -> Result<SearchResult, SearchError>;

    /// The limits in force, by name, for `GET /limits`.
    fn limits(&self) -> Vec<(&'static str, u64)>;
}

/// Documents in and out of the truth.
#[async_trait]
pub trait IngestPort: Send + Sync {
    /// Takes one document; it is durable on return unless the outcome says otherwise.
    async fn put(&self, scope: &TenantScope, document: IncomingDocument) -> Result<IngestOutcome, IngestError>;

    /// Takes every item of a stream. `told` hears of each in order, once it is durable or has failed; the item's place
    /// counts from 0. The report says why the stream was not read to its end, if it was not.
    async fn put_stream(
        &self,
        scope: &TenantScope,
        items: BoxStream<'_, IncomingItem>,
        told: &mut (dyn for<'o> FnMut(u64, &'o IngestOutcome) + Send),
    ) -> StreamReport;

    /// Removes a document from the next response on; `None` if there is none.
    async fn delete(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        document: &DocumentId,
    ) -> Result<Option<Sequence>, IngestError>;

    /// Waits until every search of the caller's tenant sees `sequence`; false if `until` came first.
    async fn wait_indexed(&self, scope: &TenantScope, sequence: Sequence, until: Instant) -> bool;

    /// Media types that raw bodies may have, those to be shown first.
    fn media_types(&self) -> &'static [&'static str];

    /// The limits in force, by name, for `GET /limits`.
    fn limits(&self) -> Vec<(&'static str, u64)>;
}

/// A question with everything that may be said about it.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerRequest {
    pub question: String,
    /// Earlier turns of the conversation, oldest first; the question itself is not among them.
    pub history: Vec<Turn>,
    pub search: QueryOverrides,
    pub model: Option<String>,
    pub prompt_version: Option<String>,
    pub max_tokens: Option<u32>,
    pub session_id: Option<String>,
    pub trace_id: TraceId,
    pub taken_at: Instant,
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    pub role: Role,
    pub content: String,
}

/// Who said it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    User,
    Assistant,
}

/// A piece of an answer in the making; the last one is `Done` or `Failed`.
#[derive(Debug, Clone, PartialEq)]
pub enum AnswerEvent {
    Sources(Vec<Hit>),
    Delta(String),
    Citation(Box<Citation>),
    Claim(Claim),
    Done(Box<Answer>),
    Failed(Failure),
}

/// Answering.
#[async_trait]
pub trait AnswerPort: Send + Sync {
    async fn answer(&self, scope: &TenantScope, request: AnswerRequest) -> Result<Answer, Failure>;

    /// The same as a stream of events; dropping it stops the work and the spending.
    async fn stream(
        &self,
        scope: &TenantScope,
        request: AnswerRequest,
    ) -> Result<BoxStream<'static, AnswerEvent>, Failure>;
}

/// Something that is missing or damaged, for `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortfall {
    /// `embedder`, `reranker`, `store`, `index`, …
    pub part: &'static str,
    /// What is missing and what to do; safe to show.
    pub detail: String,
    pub severity: Severity,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The server serves, with less than it could.
    Degraded,
    /// The server cannot serve what it is there for.
    Blocking,
}

/// The state of the process.
#[async_trait]
pub trait StatusPort: Send + Sync {
    /// Everything that is missing or damaged now; empty if all is well.
    async fn shortfalls(&self) -> Vec<Shortfall>;

    /// All metrics in the text format of Prometheus.
    fn metrics(&self) -> String;
}
