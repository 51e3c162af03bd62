//! What the handlers need of the rooms below, as small contracts.

use std::time::Instant;

use async_trait::async_trait;
use futures::stream::BoxStream;

use crate::domain::{
    Answer, Budget, CallId, Citation, Claim, CollectionName, DocumentId, ErrorKind, GenerationId, Hit, Nanousd, Query,
    SearchResult, Sequence, TenantScope, Timestamp, TraceId,
};
use crate::eval::{EvalError, GenerationReport};
pub use crate::gateway::{AccountState, BudgetSource, BudgetState};
use crate::ingest::{IncomingDocument, IncomingItem, IngestError, IngestOutcome, StreamReport};
use crate::jobs::{DeskError, Force, GenerationView, PlanPatch, Transition};
use crate::search::{InvalidQuery, QueryOverrides, SearchError};

use super::problem::FieldError;

/// Why an answer, or a change of what may be spent, failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub kind: ErrorKind,
    /// Set where clients can tell the failure from others of its kind.
    pub refusal: Option<Refusal>,
    /// A sentence that is safe to show; `None`: one chosen by kind.
    pub detail: Option<String>,
    /// Faults of fields, with pointers into the request.
    pub fields: Vec<FieldError>,
    pub retry_after: Option<std::time::Duration>,
}

/// Why no language model may be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    BudgetExceeded,
    KillSwitch,
}

impl Failure {
    /// A failure of which nothing but its kind is told.
    pub fn new(kind: ErrorKind) -> Self {
        Self { kind, refusal: None, detail: None, fields: Vec::new(), retry_after: None }
    }

    /// A budget is used up; `detail` is shown. `retry_after`: until its period ends; `None`: it does not end.
    pub fn budget_exceeded(detail: String, retry_after: Option<std::time::Duration>) -> Self {
        let refusal = Some(Refusal::BudgetExceeded);
        Self { refusal, detail: Some(detail), retry_after, ..Self::new(ErrorKind::RateLimited) }
    }

    /// The kill switch is on.
    pub fn kill_switch() -> Self {
        Self { refusal: Some(Refusal::KillSwitch), ..Self::new(ErrorKind::Unavailable) }
    }
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

/// Whether calls to language models are refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KillState {
    pub is_on: bool,
    /// What was said when it was last switched.
    pub reason: Option<String>,
    /// When it was last switched; `None`: never since the start.
    pub since: Option<Timestamp>,
}

/// A wish for the kill switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    On,
    Off,
}

/// What may be spent on language models, and whether they may be called at all.
///
/// Every implementation keeps these promises:
///
/// - A change that was answered `Ok` holds for every call that begins afterwards.
/// - Budgets, accounts and reservations of other tenants are neither shown, nor changed, nor counted. Of a budget that
///   concerns several tenants, only accounts are shown to which the caller's tenant alone contributes.
/// - No detail of a [`Failure`] names another tenant.
#[async_trait]
pub trait ControlPort: Send + Sync {
    /// The switch, which is one for the whole server.
    async fn kill_switch(&self) -> KillState;

    /// Switches; `reason` may be empty. Calls that run are cut when it goes on. Survives a restart once it is `Ok`.
    async fn set_kill_switch(&self, wanted: Switch, reason: String) -> Result<KillState, Failure>;

    /// Every budget that concerns calls of the caller's tenant, by scope and period.
    async fn budgets(&self, scope: &TenantScope) -> Result<Vec<BudgetState>, Failure>;

    /// Sets a budget that survives a restart; one with the same scope and period is replaced.
    ///
    /// The budget names the caller's tenant and at least one limit; a caller that does not see to this gets
    /// `ErrorKind::Unprocessable`. What was spent before stays spent. `ErrorKind::Conflict` if the settings have a
    /// budget of this scope and period.
    async fn put_budget(&self, scope: &TenantScope, budget: Budget) -> Result<BudgetState, Failure>;

    /// Says what a call cost whose process did not live to say it; its reservation goes, `cost` is spent instead.
    ///
    /// `ErrorKind::NotFound` if the caller's tenant has no such reservation, `ErrorKind::Conflict` if the call is still
    /// under way.
    async fn resolve(&self, scope: &TenantScope, call: CallId, cost: Nanousd) -> Result<(), Failure>;
}

/// How collections change the way in which their text becomes searchable.
#[async_trait]
pub trait GenerationPort: Send + Sync {
    /// Of one collection or all, oldest first.
    async fn list(
        &self,
        scope: &TenantScope,
        collection: Option<&CollectionName>,
    ) -> Result<Vec<GenerationView>, DeskError>;

    async fn one(&self, scope: &TenantScope, id: GenerationId) -> Result<GenerationView, DeskError>;

    async fn plan(&self, scope: &TenantScope, id: GenerationId, patch: PlanPatch) -> Result<GenerationView, DeskError>;

    async fn promote(&self, scope: &TenantScope, id: GenerationId, force: Force) -> Result<Transition, DeskError>;

    async fn rollback(&self, scope: &TenantScope, id: GenerationId) -> Result<Transition, DeskError>;

    async fn retire(&self, scope: &TenantScope, id: GenerationId) -> Result<Transition, DeskError>;
}

/// How good a generation is beside the one that it would replace.
#[async_trait]
pub trait ReportPort: Send + Sync {
    /// `None`: there is no such generation.
    async fn report(&self, scope: &TenantScope, id: GenerationId) -> Result<Option<GenerationReport>, EvalError>;
}
