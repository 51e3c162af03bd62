//! From the spans of a finished trace to what is written down of it.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::domain::{
    CollectionName, Mode, SearchRecord, SpanId, SpanRecord, StageTimings, TenantId, Timestamp, TraceId, TraceRecord,
};

use super::attributes::Attributes;
use super::sampling::{Kept, Outline};

/// The span of a whole search; its fields become a [`SearchRecord`].
const SEARCH: &str = "search";
/// Statuses of what has none of its own, such as a task.
const DONE: u16 = 200;
const FAILED: u16 = 500;

/// A trace that is whole and kept, on its way to whoever writes it down.
#[derive(Debug, Clone, PartialEq)]
pub struct FinishedTrace {
    pub trace: TraceRecord,
    pub searches: Vec<SearchRecord>,
}

/// One span that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub name: &'static str,
    pub span_id: SpanId,
    pub parent: Option<SpanId>,
    pub started_at: Timestamp,
    pub duration_us: u64,
    pub is_error: bool,
    pub attributes: Attributes,
}

/// All that was recorded below one root.
#[derive(Debug)]
pub(super) struct Gathered {
    pub trace_id: TraceId,
    pub root: Ended,
    /// The spans below it, in the order in which they ended.
    pub spans: Vec<Ended>,
    pub left_out: usize,
    pub has_error: bool,
    pub has_model_call: bool,
}

impl Gathered {
    pub(super) fn outline(&self) -> Outline {
        let has_error = self.has_error || self.root.is_error;
        let recorded =
            |name: &str| self.root.attributes.pairs.iter().find(|(own, _)| *own == name).map(|(_, value)| value);
        let status = recorded("status").and_then(Value::as_u64).and_then(|status| u16::try_from(status).ok());
        Outline {
            status: status.unwrap_or(if has_error { FAILED } else { DONE }),
            duration_us: self.root.duration_us,
            has_error,
            has_model_call: self.has_model_call,
            has_tenant: recorded("tenant").is_some(),
        }
    }

    /// The records, spans by start; `kept` says why it is kept.
    pub(super) fn finish(mut self, kept: Kept) -> FinishedTrace {
        let status = self.outline().status;
        let root = &mut self.root.attributes;
        let tenant: Option<TenantId> = taken(root, "tenant");
        let (method, route) = (taken::<String>(root, "method"), taken::<String>(root, "route"));
        self.root.parent = taken(root, "parent_span_id");
        root.take("status");
        if self.left_out > 0 {
            root.pairs.push(("spans_left_out", self.left_out.into()));
        }
        let name = match (method, route) {
            (Some(method), Some(route)) => format!("{method} {route}"),
            _ => taken(root, "kind").unwrap_or_else(|| self.root.name.to_owned()),
        };
        let (started_at, duration_us) = (self.root.started_at, self.root.duration_us);
        let searches = match &tenant {
            Some(tenant) => self.spans.iter().filter_map(|span| search(self.trace_id, tenant, span)).collect(),
            None => Vec::new(),
        };
        // The root stays before children of the same microsecond.
        self.spans.sort_by_key(|span| span.started_at);
        let spans = std::iter::once(self.root).chain(self.spans).map(|span| record(self.trace_id, span)).collect();
        let kept = kept.as_str().to_owned();
        let trace = TraceRecord { trace_id: self.trace_id, tenant, name, started_at, duration_us, status, kept, spans };
        FinishedTrace { trace, searches }
    }
}

fn record(trace_id: TraceId, ended: Ended) -> SpanRecord {
    let mut attributes: BTreeMap<String, Value> =
        ended.attributes.pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    // Work that is written down elsewhere as well, such as an attempt of a model call, names its id itself.
    let own_id = attributes.remove("span_id").as_ref().and_then(read::<SpanId>);
    SpanRecord {
        trace_id,
        span_id: own_id.unwrap_or(ended.span_id),
        parent: ended.parent,
        name: ended.name.to_owned(),
        started_at: ended.started_at,
        duration_us: ended.duration_us,
        is_error: ended.is_error,
        attributes,
    }
}

/// The search in numbers; `None` for other spans and for searches that failed.
fn search(trace_id: TraceId, tenant: &TenantId, span: &Ended) -> Option<SearchRecord> {
    if span.name != SEARCH {
        return None;
    }
    let value = |name: &str| span.attributes.pairs.iter().find(|(own, _)| *own == name).map(|(_, value)| value);
    let number = |name: &str| value(name)?.as_u64();
    let size = |name: &str| usize::try_from(number(name)?).ok();
    let stage_ms = |name: &str| number(name).unwrap_or(0) as f64 / 1e3;
    let degraded = value("degraded").and_then(Value::as_str).unwrap_or_default();
    Some(SearchRecord {
        trace_id,
        tenant: tenant.clone(),
        collection: value("collection").and_then(read::<CollectionName>)?,
        mode: value("mode").and_then(read::<Mode>)?,
        generation: value("generation").and_then(read),
        top_k: size("top_k")?,
        hits: size("hits")?,
        started_at: span.started_at,
        took_us: number("took_us")?,
        timings: StageTimings {
            embed_ms: stage_ms("embed_us"),
            lexical_ms: stage_ms("lexical_us"),
            vector_ms: stage_ms("vector_us"),
            fusion_ms: stage_ms("fusion_us"),
            rerank_ms: stage_ms("rerank_us"),
            hydrate_ms: stage_ms("hydrate_us"),
        },
        degraded: degraded.split(',').filter(|one| !one.is_empty()).map(str::to_owned).collect(),
    })
}

fn taken<T: DeserializeOwned>(attributes: &mut Attributes, name: &str) -> Option<T> {
    serde_json::from_value(attributes.take(name)?).ok()
}

fn read<T: DeserializeOwned>(value: &Value) -> Option<T> {
    T::deserialize(value).ok()
}
