//! What happened under one trace id.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    CollectionName, GenerationId, LlmCall, Mode, SpanId, StageTimings, StepName, TaskFailure, TaskId, TaskKind,
    TenantId, Timestamp, TraceId,
};

/// A finished piece of work inside a trace.
#[derive(Debug, Clone, PartialEq)]
pub struct SpanRecord {
    pub trace_id: TraceId,
    pub span_id: SpanId,
    pub parent: Option<SpanId>,
    /// A constant of the code (`search.lexical`).
    pub name: String,
    pub started_at: Timestamp,
    pub duration_us: u64,
    pub is_error: bool,
    /// Numbers, words and ids; never text of documents, questions or prompts.
    pub attributes: BTreeMap<String, Value>,
}

/// A request or task as a whole.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceRecord {
    pub trace_id: TraceId,
    /// `None`: refused before the caller was known.
    pub tenant: Option<TenantId>,
    /// Method and route (`POST /search`), or the kind of task.
    pub name: String,
    pub started_at: Timestamp,
    pub duration_us: u64,
    /// HTTP status; 499 if the client left.
    pub status: u16,
    /// Why it was kept: `error`, `slow`, `model_call` or `sampled`.
    pub kept: String,
    pub spans: Vec<SpanRecord>,
}

/// A search in numbers: no query, no text.
#[derive(Debug, Clone, PartialEq)]
pub struct SearchRecord {
    pub trace_id: TraceId,
    pub tenant: TenantId,
    pub collection: CollectionName,
    pub mode: Mode,
    pub generation: Option<GenerationId>,
    pub top_k: usize,
    pub hits: usize,
    pub started_at: Timestamp,
    pub took_us: u64,
    pub timings: StageTimings,
    /// `stage:reason`, as the response said.
    pub degraded: Vec<String>,
}

/// Everything that is known of one trace, each list by start.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TraceStory {
    /// More than one where a client sent several requests under one id.
    pub requests: Vec<TraceRecord>,
    pub searches: Vec<SearchRecord>,
    pub calls: Vec<LlmCall>,
    pub steps: Vec<TraceStep>,
    pub failures: Vec<TaskFailure>,
}

/// A finished item of a task's step.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceStep {
    pub task_id: TaskId,
    pub run: u32,
    pub kind: TaskKind,
    pub step: StepName,
    pub item: u32,
    pub of: u32,
    pub attempt: u32,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
}
