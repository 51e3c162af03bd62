//! The rows of the ledger, as they are bound and as they are read back.
//!
//! Each table has one list of columns for both ways; binding and reading go through it from left to right.

use std::sync::LazyLock;

use sqlx::sqlite::SqliteRow;

use crate::domain::{
    BudgetEvent, CacheUse, LlmCall, Mode, Nanousd, PromptVersion, SearchRecord, SpanRecord, StageTimings, Timestamp,
    TraceId, TraceRecord, Usage, UsageSource,
};
use crate::store::StoreError;

use super::codec::{Columns, damaged, from_json, from_text, id_text, to_json};
use super::script::{Insert, Parameters};

macro_rules! call_columns {
    () => {
        "call_id, attempt, trace_id, span_id, tenant, task, session_id, key_id, provider, model, answered_model, \
         prompt_name, prompt_version, prompt_hash, started_at, latency_us, first_token_us, outcome, status, finish, \
         is_streamed, cache, input_tokens, cached_input_tokens, output_tokens, usage_source, cost_nanousd, \
         request_body, response_body"
    };
}
macro_rules! request_columns {
    () => {
        "id, trace_id, tenant, name, started_at, duration_us, status, kept"
    };
}
macro_rules! span_columns {
    () => {
        "request_id, ordinal, span_id, parent_span_id, name, started_at, duration_us, is_error, attributes"
    };
}
macro_rules! search_columns {
    () => {
        "trace_id, tenant, collection, mode, generation, top_k, hits, started_at, took_us, embed_us, lexical_us, \
         vector_us, fusion_us, rerank_us, hydrate_us, degraded"
    };
}
pub(super) use {call_columns, request_columns, search_columns, span_columns};

pub(super) static CALLS: LazyLock<Insert> =
    LazyLock::new(|| Insert::steady("llm_calls", call_columns!(), "ON CONFLICT (call_id, attempt) DO NOTHING"));
pub(super) static REQUESTS: LazyLock<Insert> = LazyLock::new(|| Insert::steady("traces", request_columns!(), ""));
pub(super) static SPANS: LazyLock<Insert> = LazyLock::new(|| Insert::steady("spans", span_columns!(), ""));
pub(super) static SEARCHES: LazyLock<Insert> = LazyLock::new(|| Insert::steady("searches", search_columns!(), ""));
pub(super) static EVENTS: LazyLock<Insert> = LazyLock::new(|| {
    Insert::steady("budget_events", "at, tenant, account, period, since, action, call_id, detail", "")
});

pub(super) fn bind_call(call: &LlmCall, to: &mut Parameters) {
    to.add(id_text("cal_", &call.call_id.0)).add(i64::from(call.attempt));
    to.add(id_text("", &call.trace_id.0)).add(id_text("", &call.span_id.0));
    to.add(call.tenant.as_str()).add(call.task.as_str());
    to.add(call.session_id.as_deref()).add(call.key_id.as_deref());
    to.add(call.provider.as_str()).add(call.model.as_str()).add(call.answered_model.as_deref());
    bind_prompt(call.prompt.as_ref(), to);
    to.add(call.started_at.0).add_saturated(call.latency_us);
    to.add(call.first_token_us.map(saturated)).add(call.outcome.as_str());
    to.add(call.status.map(i64::from)).add(call.finish.as_deref()).add(i64::from(call.is_streamed));
    to.add(call.cache.as_str()).add_saturated(call.usage.input_tokens);
    to.add_saturated(call.usage.cached_input_tokens).add_saturated(call.usage.output_tokens);
    to.add(call.usage_source.as_str()).add_saturated(call.cost.0);
    to.add(call.request_body.as_deref()).add(call.response_body.as_deref());
}

pub(super) fn read_call(row: &SqliteRow) -> Result<LlmCall, StoreError> {
    let mut columns = Columns::of(row);
    Ok(LlmCall {
        call_id: from_text("llm_calls.call_id", columns.take()?)?,
        attempt: u32::try_from(columns.unsigned()?).unwrap_or(u32::MAX),
        trace_id: from_text("llm_calls.trace_id", columns.take()?)?,
        span_id: from_text("llm_calls.span_id", columns.take()?)?,
        tenant: from_text("llm_calls.tenant", columns.take()?)?,
        task: columns.take()?,
        session_id: columns.take()?,
        key_id: columns.take()?,
        provider: columns.take()?,
        model: columns.take()?,
        answered_model: columns.take()?,
        prompt: take_prompt(&mut columns)?,
        started_at: Timestamp(columns.take()?),
        latency_us: columns.unsigned()?,
        first_token_us: columns.take::<Option<i64>>()?.map(i64::unsigned_abs),
        outcome: columns.take()?,
        status: columns.take()?,
        finish: columns.take()?,
        is_streamed: columns.take()?,
        cache: word(CacheUse::from_word, "llm_calls.cache", columns.take()?)?,
        usage: Usage {
            input_tokens: columns.unsigned()?,
            cached_input_tokens: columns.unsigned()?,
            output_tokens: columns.unsigned()?,
        },
        usage_source: word(UsageSource::from_word, "llm_calls.usage_source", columns.take()?)?,
        cost: Nanousd(columns.unsigned()?),
        request_body: columns.take()?,
        response_body: columns.take()?,
    })
}

/// Name, version and hash.
pub(super) fn bind_prompt(prompt: Option<&PromptVersion>, to: &mut Parameters) {
    to.add(prompt.map(|prompt| prompt.name.as_str()));
    to.add(prompt.map(|prompt| prompt.version.as_str()));
    to.add(prompt.map(|prompt| prompt.hash.as_str()));
}

/// Name, version and hash; none of them or all.
pub(super) fn take_prompt(columns: &mut Columns<'_>) -> Result<Option<PromptVersion>, StoreError> {
    let (name, version, hash): (Option<String>, Option<String>, Option<String>) =
        (columns.take()?, columns.take()?, columns.take()?);
    let whole = name.zip(version).zip(hash);
    Ok(whole.map(|((name, version), hash)| PromptVersion { name, version, hash }))
}

pub(super) fn bind_request((id, request): &(i64, &TraceRecord), to: &mut Parameters) {
    to.add(*id).add(id_text("", &request.trace_id.0)).add(request.tenant.as_ref().map(|tenant| tenant.as_str()));
    to.add(request.name.as_str()).add(request.started_at.0).add_saturated(request.duration_us);
    to.add(i64::from(request.status)).add(request.kept.as_str());
}

/// The request's row, and the request without its spans.
pub(super) fn read_request(row: &SqliteRow) -> Result<(i64, TraceRecord), StoreError> {
    let mut columns = Columns::of(row);
    let id = columns.take()?;
    let trace_id = from_text("traces.trace_id", columns.take()?)?;
    let tenant: Option<&str> = columns.take()?;
    let request = TraceRecord {
        trace_id,
        tenant: tenant.map(|tenant| from_text("traces.tenant", tenant)).transpose()?,
        name: columns.take()?,
        started_at: Timestamp(columns.take()?),
        duration_us: columns.unsigned()?,
        status: columns.take()?,
        kept: columns.take()?,
        spans: Vec::new(),
    };
    Ok((id, request))
}

/// A span of a request that has its row.
pub(super) struct SpanRow<'a> {
    pub request: i64,
    pub ordinal: i64,
    pub span: &'a SpanRecord,
}

impl SpanRow<'_> {
    pub(super) fn bind(&self, to: &mut Parameters) {
        let span = self.span;
        to.add(self.request).add(self.ordinal).add(id_text("", &span.span_id.0));
        to.add(span.parent.map(|parent| id_text("", &parent.0))).add(span.name.as_str());
        to.add(span.started_at.0).add_saturated(span.duration_us).add(i64::from(span.is_error));
        to.add(to_json(&span.attributes));
    }
}

/// The row of the request that the span belongs to, and the span.
pub(super) fn read_span(row: &SqliteRow, trace_id: TraceId) -> Result<(i64, SpanRecord), StoreError> {
    let mut columns = Columns::of(row);
    let request = columns.take()?;
    columns.skip(1);
    let span_id = from_text("spans.span_id", columns.take()?)?;
    let parent: Option<&str> = columns.take()?;
    let span = SpanRecord {
        trace_id,
        span_id,
        parent: parent.map(|parent| from_text("spans.parent_span_id", parent)).transpose()?,
        name: columns.take()?,
        started_at: Timestamp(columns.take()?),
        duration_us: columns.unsigned()?,
        is_error: columns.take()?,
        attributes: from_json("spans.attributes", columns.take()?)?,
    };
    Ok((request, span))
}

pub(super) fn bind_search(search: &SearchRecord, to: &mut Parameters) {
    to.add(id_text("", &search.trace_id.0)).add(search.tenant.as_str()).add(search.collection.as_str());
    to.add(mode_word(search.mode)).add(search.generation.map(|generation| id_text("gen_", &generation.0)));
    to.add_saturated(search.top_k as u64).add_saturated(search.hits as u64);
    to.add(search.started_at.0).add_saturated(search.took_us);
    let times = &search.timings;
    for ms in [times.embed_ms, times.lexical_ms, times.vector_ms, times.fusion_ms, times.rerank_ms, times.hydrate_ms] {
        // A cast saturates, and makes 0 of what is not a number.
        to.add((ms * 1e3).round().max(0.0) as i64);
    }
    to.add(to_json(&search.degraded));
}

pub(super) fn read_search(row: &SqliteRow) -> Result<SearchRecord, StoreError> {
    let mut columns = Columns::of(row);
    let trace_id = from_text("searches.trace_id", columns.take()?)?;
    let tenant = from_text("searches.tenant", columns.take()?)?;
    let collection = from_text("searches.collection", columns.take()?)?;
    let mode = word(mode_from_word, "searches.mode", columns.take()?)?;
    let generation: Option<&str> = columns.take()?;
    Ok(SearchRecord {
        trace_id,
        tenant,
        collection,
        mode,
        generation: generation.map(|text| from_text("searches.generation", text)).transpose()?,
        top_k: columns.index()?,
        hits: columns.index()?,
        started_at: Timestamp(columns.take()?),
        took_us: columns.unsigned()?,
        timings: StageTimings {
            embed_ms: take_ms(&mut columns)?,
            lexical_ms: take_ms(&mut columns)?,
            vector_ms: take_ms(&mut columns)?,
            fusion_ms: take_ms(&mut columns)?,
            rerank_ms: take_ms(&mut columns)?,
            hydrate_ms: take_ms(&mut columns)?,
        },
        degraded: from_json("searches.degraded", columns.take()?)?,
    })
}

fn take_ms(columns: &mut Columns<'_>) -> Result<f64, StoreError> {
    Ok(columns.unsigned()? as f64 / 1e3)
}

fn mode_word(mode: Mode) -> &'static str {
    match mode {
        Mode::Hybrid => "hybrid",
        Mode::Lexical => "lexical",
        Mode::Vector => "vector",
    }
}

fn mode_from_word(word: &str) -> Option<Mode> {
    [Mode::Hybrid, Mode::Lexical, Mode::Vector].into_iter().find(|mode| mode_word(*mode) == word)
}

pub(super) fn bind_event(event: &BudgetEvent, to: &mut Parameters) {
    to.add(event.at.0).add(event.tenant.as_str());
    to.add(event.account.name.as_str()).add(event.account.period.as_str()).add(event.account.since.0);
    to.add(event.action.as_str()).add(event.call_id.map(|call_id| id_text("cal_", &call_id.0)));
    to.add(event.detail.as_str());
}

/// A value that is stored as a word.
pub(super) fn word<T>(
    from_word: impl Fn(&str) -> Option<T>,
    column: &'static str,
    word: &str,
) -> Result<T, StoreError> {
    from_word(word).ok_or_else(|| damaged(column, word))
}

/// As far as SQLite can count.
pub(super) fn saturated(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
