//! A trace on the wire: everything that is known of it on one timeline.
//!
//! A search stands there once, though the ledger knows it as a row and as a span; so does a request.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::domain::{
    LlmCall, Nanousd, SearchRecord, SpanId, SpanRecord, StageTimings, TaskFailure, Timestamp, TraceId, TraceRecord,
    TraceStep, TraceStory,
};

use super::{rounded, time};

/// Everything that happened under one trace id.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct TraceBody {
    /// The trace that is told, not that of this response.
    #[schema(example = "4bf92f3577b34da6a3ce929d0e0e4736")]
    pub trace_id: String,
    /// By start; more than one where a client sent several requests under one id.
    pub requests: Vec<TracedRequestBody>,
    /// By start.
    pub timeline: Vec<MomentBody>,
    /// Of all calls to language models, US dollars.
    #[schema(example = 0.000_42)]
    pub cost_usd: f64,
    /// Attempts to call a language model, failed ones included.
    pub llm_calls: usize,
}

/// One request or task.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct TracedRequestBody {
    /// Method and route, or the kind of task.
    #[schema(example = "POST /search")]
    pub name: String,
    /// RFC 3339 in UTC.
    pub started_at: String,
    pub duration_ms: f64,
    /// HTTP status; 499 if the client left.
    #[schema(example = 200)]
    pub status: u16,
    /// Why it was kept: `error`, `slow`, `model_call` or `sampled`.
    #[schema(example = "sampled")]
    pub kept: String,
}

/// What an entry of the timeline is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum MomentKind {
    Request,
    Span,
    Search,
    LlmCall,
    /// A finished item of a task's step.
    TaskStep,
    /// A failed attempt of one, or of a task outside its steps.
    TaskFailure,
}

/// One piece of work. Its numbers follow under names of their own.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct MomentBody {
    /// From the first start of the trace.
    pub at_ms: f64,
    pub duration_ms: f64,
    pub kind: MomentKind,
    #[schema(example = "search.lexical")]
    pub name: String,
    /// 16 hexadecimal digits; `null`: known by its numbers alone. An `llm_call` has the id of the span that made it.
    pub span_id: Option<String>,
    /// `null`: nothing above it, or nothing that is known.
    pub parent_span_id: Option<String>,
    pub is_error: bool,
    #[serde(flatten)]
    #[schema(value_type = std::collections::HashMap<String, Value>)]
    pub numbers: Map<String, Value>,
}

/// Names that are every entry's own.
const OWN: [&str; 7] = ["at_ms", "duration_ms", "kind", "name", "span_id", "parent_span_id", "is_error"];

impl TraceBody {
    pub(in crate::http) fn new(trace: TraceId, story: TraceStory) -> Self {
        let begin = begin(&story);
        let TraceStory { requests, searches, calls, steps, failures } = story;
        let cost: Nanousd = calls.iter().map(|call| call.cost).sum();
        let llm_calls = calls.len();
        let parents: BTreeMap<SpanId, Option<SpanId>> =
            requests.iter().flat_map(|request| &request.spans).map(|span| (span.span_id, span.parent)).collect();
        let mut moments = Moments { begin, told: Vec::new(), searches };
        let heads = requests.iter().map(Into::into).collect();
        for request in requests {
            moments.request(request);
        }
        for step in &steps {
            moments.step(step);
        }
        for search in std::mem::take(&mut moments.searches) {
            moments.search(&search, None);
        }
        for call in &calls {
            moments.call(call, parents.get(&call.span_id).copied().flatten());
        }
        for failure in &failures {
            moments.failure(failure);
        }
        // The sort is stable: of what began in the same microsecond the outer comes first, as it was taken in.
        moments.told.sort_by_key(|(started_at, _)| *started_at);
        let timeline = moments.told.into_iter().map(|(_, moment)| moment).collect();
        Self { trace_id: trace.to_string(), requests: heads, timeline, cost_usd: cost.usd(), llm_calls }
    }
}

fn begin(story: &TraceStory) -> Timestamp {
    let requests = story.requests.iter().map(|one| one.started_at);
    let searches = story.searches.iter().map(|one| one.started_at);
    let calls = story.calls.iter().map(|one| one.started_at);
    let steps = story.steps.iter().map(|one| one.started_at);
    let failures = story.failures.iter().map(|one| one.at);
    requests.chain(searches).chain(calls).chain(steps).chain(failures).min().unwrap_or_default()
}

struct Moments {
    begin: Timestamp,
    told: Vec<(Timestamp, MomentBody)>,
    /// Those whose span has not come yet.
    searches: Vec<SearchRecord>,
}

impl Moments {
    fn request(&mut self, request: TraceRecord) {
        let own: Vec<SpanId> = request.spans.iter().map(|span| span.span_id).collect();
        // The root is the one span whose parent is not among them.
        let is_root = |span: &SpanRecord| span.parent.is_none_or(|parent| !own.contains(&parent));
        let root = request.spans.iter().position(is_root);
        let mut numbers = Map::new();
        numbers.insert("status".to_owned(), request.status.into());
        numbers.insert("kept".to_owned(), request.kept.into());
        let head = root.map(|at| &request.spans[at]);
        numbers.extend(head.into_iter().flat_map(|span| beside_own(span.attributes.clone())));
        let moment = MomentBody {
            at_ms: self.offset_ms(request.started_at),
            duration_ms: ms(request.duration_us),
            kind: MomentKind::Request,
            name: request.name,
            span_id: head.map(|span| span.span_id.to_string()),
            parent_span_id: head.and_then(|span| span.parent).map(|parent| parent.to_string()),
            is_error: request.status >= 500 || head.is_some_and(|span| span.is_error),
            numbers,
        };
        self.told.push((request.started_at, moment));
        for (at, span) in request.spans.into_iter().enumerate() {
            if Some(at) != root {
                self.span(span);
            }
        }
    }

    fn span(&mut self, span: SpanRecord) {
        let is_same = |search: &SearchRecord| {
            span.name == "search" && search.started_at == span.started_at && search.trace_id == span.trace_id
        };
        if let Some(at) = self.searches.iter().position(is_same) {
            let search = self.searches.remove(at);
            return self.search(&search, Some(span));
        }
        let moment = MomentBody {
            at_ms: self.offset_ms(span.started_at),
            duration_ms: ms(span.duration_us),
            kind: MomentKind::Span,
            name: span.name,
            span_id: Some(span.span_id.to_string()),
            parent_span_id: span.parent.map(|parent| parent.to_string()),
            is_error: span.is_error,
            numbers: beside_own(span.attributes),
        };
        self.told.push((span.started_at, moment));
    }

    fn search(&mut self, search: &SearchRecord, span: Option<SpanRecord>) {
        let StageTimings { embed_ms, lexical_ms, vector_ms, fusion_ms, rerank_ms, hydrate_ms } = search.timings;
        let numbers = object(json!({
            "collection": search.collection,
            "mode": search.mode,
            "generation": search.generation,
            "top_k": search.top_k,
            "hits": search.hits,
            "timings_ms": {
                "embed": rounded(embed_ms),
                "lexical": rounded(lexical_ms),
                "vector": rounded(vector_ms),
                "fusion": rounded(fusion_ms),
                "rerank": rounded(rerank_ms),
                "hydrate": rounded(hydrate_ms),
            },
            "degraded": search.degraded,
        }));
        let moment = MomentBody {
            at_ms: self.offset_ms(search.started_at),
            duration_ms: ms(search.took_us),
            kind: MomentKind::Search,
            name: "search".to_owned(),
            span_id: span.as_ref().map(|span| span.span_id.to_string()),
            parent_span_id: span.as_ref().and_then(|span| span.parent).map(|parent| parent.to_string()),
            is_error: span.is_some_and(|span| span.is_error),
            numbers,
        };
        self.told.push((search.started_at, moment));
    }

    fn call(&mut self, call: &LlmCall, parent: Option<SpanId>) {
        let numbers = object(json!({
            "call_id": call.call_id,
            "attempt": call.attempt,
            "provider": call.provider,
            "model": call.model,
            "answered_model": call.answered_model,
            "prompt": call.prompt.as_ref().map(|prompt| format!("{}@{}", prompt.name, prompt.version)),
            "session_id": call.session_id,
            "outcome": call.outcome,
            "status": call.status,
            "finish": call.finish,
            "is_streamed": call.is_streamed,
            "first_token_ms": call.first_token_us.map(ms),
            "cache": call.cache,
            "input_tokens": call.usage.input_tokens,
            "output_tokens": call.usage.output_tokens,
            "usage_source": call.usage_source,
            "cost_usd": call.cost.usd(),
        }));
        let moment = MomentBody {
            at_ms: self.offset_ms(call.started_at),
            duration_ms: ms(call.latency_us),
            kind: MomentKind::LlmCall,
            name: call.task.clone(),
            span_id: Some(call.span_id.to_string()),
            parent_span_id: parent.map(|parent| parent.to_string()),
            is_error: call.outcome != "ok",
            numbers,
        };
        self.told.push((call.started_at, moment));
    }

    fn step(&mut self, step: &TraceStep) {
        let numbers = object(json!({
            "task_id": step.task_id,
            "run": step.run,
            "task_kind": step.kind,
            "item": step.item,
            "items": step.of,
            "attempt": step.attempt,
        }));
        let moment = MomentBody {
            at_ms: self.offset_ms(step.started_at),
            // A clock may have been set back in between.
            duration_ms: (step.finished_at.0 - step.started_at.0).max(0) as f64 / 1e3,
            kind: MomentKind::TaskStep,
            name: step.step.to_string(),
            span_id: None,
            parent_span_id: None,
            is_error: false,
            numbers,
        };
        self.told.push((step.started_at, moment));
    }

    fn failure(&mut self, failure: &TaskFailure) {
        let numbers = object(json!({
            "task_id": failure.task_id,
            "run": failure.run,
            "task_kind": failure.kind,
            "item": failure.item,
            "attempt": failure.attempt,
            "error": { "kind": failure.problem.kind.as_str(), "detail": failure.problem.detail },
            "final": failure.is_final,
            "model": failure.model,
            "prompt_version": failure.prompt_version,
        }));
        let moment = MomentBody {
            at_ms: self.offset_ms(failure.at),
            duration_ms: 0.0,
            kind: MomentKind::TaskFailure,
            name: failure.step.as_ref().map_or_else(|| failure.kind.to_string(), ToString::to_string),
            span_id: None,
            parent_span_id: None,
            is_error: true,
            numbers,
        };
        self.told.push((failure.at, moment));
    }

    fn offset_ms(&self, started_at: Timestamp) -> f64 {
        (started_at.0 - self.begin.0) as f64 / 1e3
    }
}

impl From<&TraceRecord> for TracedRequestBody {
    fn from(request: &TraceRecord) -> Self {
        Self {
            name: request.name.clone(),
            started_at: time(request.started_at),
            duration_ms: ms(request.duration_us),
            status: request.status,
            kept: request.kept.clone(),
        }
    }
}

fn ms(micros: u64) -> f64 {
    micros as f64 / 1e3
}

/// Attributes beside an entry's own names; one that is called like them moves aside.
fn beside_own(attributes: BTreeMap<String, Value>) -> Map<String, Value> {
    let aside = |name: String| if OWN.contains(&name.as_str()) { format!("field.{name}") } else { name };
    attributes.into_iter().map(|(name, value)| (aside(name), value)).collect()
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(entries) => entries,
        _ => Map::new(),
    }
}
