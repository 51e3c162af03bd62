//! Reads of the ledger: the story of a trace, and calls added up.

use std::collections::HashMap;

use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

use crate::domain::{
    LlmCall, Nanousd, SearchRecord, SpanRecord, TaskFailure, TenantId, Timestamp, TraceId, TraceRecord, TraceStep,
    TraceStory,
};
use crate::store::{StoreError, TRACE_MAX_ROWS, TaskCost, UsageBy, UsageRow};

use super::codec::{Columns, from_text};
use super::ledger_rows::{
    call_columns, read_call, read_request, read_search, read_span, request_columns, search_columns, span_columns,
};
use super::task_rows::{failure_columns, read_failure, take_number};

const REQUESTS: &str = concat!(
    "SELECT ",
    request_columns!(),
    " FROM traces WHERE trace_id = $1 AND tenant = $2 ORDER BY started_at, id LIMIT $3"
);
const SPANS: &str = concat!(
    "SELECT ",
    span_columns!(),
    " FROM spans WHERE request_id IN (SELECT id FROM traces WHERE trace_id = $1 AND tenant = $2 \
      ORDER BY started_at, id LIMIT $3) ORDER BY request_id, ordinal LIMIT $3"
);
const SEARCHES: &str = concat!(
    "SELECT ",
    search_columns!(),
    " FROM searches WHERE trace_id = $1 AND tenant = $2 ORDER BY started_at, id LIMIT $3"
);
const CALLS: &str = concat!(
    "SELECT ",
    call_columns!(),
    " FROM llm_calls WHERE trace_id = $1 AND tenant = $2 ORDER BY started_at, call_id, attempt LIMIT $3"
);
// Steps that were taken over were done under another trace.
const STEPS: &str = "SELECT t.task_id, t.run, t.kind, s.step, s.item, s.items, s.attempt, s.started_at, s.finished_at \
    FROM tasks t JOIN task_steps s ON s.task = t.id WHERE t.trace_id = $1 AND t.tenant = $2 AND s.is_copy = 0 \
    ORDER BY s.started_at, s.position, s.item LIMIT $3";
const FAILURES: &str = concat!(
    "SELECT ",
    failure_columns!(),
    " FROM task_failures WHERE task IN (SELECT id FROM tasks WHERE trace_id = $1 AND tenant = $2) \
      ORDER BY at, id LIMIT $3"
);

/// The statements that tell a trace.
#[cfg(test)]
pub(super) const TRACE_READS: [&str; 6] = [REQUESTS, SPANS, SEARCHES, CALLS, STEPS, FAILURES];

/// What the tenant did under this trace id; `None` if that is nothing.
pub(super) async fn trace(
    connection: &mut SqliteConnection,
    tenant: &TenantId,
    trace: TraceId,
) -> Result<Option<TraceStory>, StoreError> {
    let mut told = Told { connection, tenant, trace };
    let requests = told.requests().await?;
    let searches: Vec<SearchRecord> = told.rows(SEARCHES).await?.iter().map(read_search).collect::<Result<_, _>>()?;
    let calls: Vec<LlmCall> = told.rows(CALLS).await?.iter().map(read_call).collect::<Result<_, _>>()?;
    let steps: Vec<TraceStep> = told.rows(STEPS).await?.iter().map(read_trace_step).collect::<Result<_, _>>()?;
    let failures: Vec<TaskFailure> = told.rows(FAILURES).await?.iter().map(read_failure).collect::<Result<_, _>>()?;
    let story = TraceStory { requests, searches, calls, steps, failures };
    Ok((story != TraceStory::default()).then_some(story))
}

struct Told<'a> {
    connection: &'a mut SqliteConnection,
    tenant: &'a TenantId,
    trace: TraceId,
}

impl Told<'_> {
    async fn rows(&mut self, sql: &'static str) -> Result<Vec<SqliteRow>, StoreError> {
        let query = sqlx::query(sql).bind(self.trace.to_string()).bind(self.tenant.as_str());
        Ok(query.bind(TRACE_MAX_ROWS as i64).fetch_all(&mut *self.connection).await?)
    }

    async fn requests(&mut self) -> Result<Vec<TraceRecord>, StoreError> {
        let rows = self.rows(REQUESTS).await?;
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let mut spans: HashMap<i64, Vec<SpanRecord>> = HashMap::new();
        for row in &self.rows(SPANS).await? {
            let (request, span) = read_span(row, self.trace)?;
            spans.entry(request).or_default().push(span);
        }
        let mut requests = Vec::with_capacity(rows.len());
        for row in &rows {
            let (id, request) = read_request(row)?;
            requests.push(TraceRecord { spans: spans.remove(&id).unwrap_or_default(), ..request });
        }
        Ok(requests)
    }
}

fn read_trace_step(row: &SqliteRow) -> Result<TraceStep, StoreError> {
    let mut columns = Columns::of(row);
    Ok(TraceStep {
        task_id: from_text("tasks.task_id", columns.take()?)?,
        run: take_number(&mut columns)?,
        kind: from_text("tasks.kind", columns.take()?)?,
        step: from_text("task_steps.step", columns.take()?)?,
        item: take_number(&mut columns)?,
        of: take_number(&mut columns)?,
        attempt: take_number(&mut columns)?,
        started_at: Timestamp(columns.take()?),
        finished_at: Timestamp(columns.take()?),
    })
}

// A sum over 64 bits is an error in SQLite. Halves of 32 bits can be added two thousand million times.
macro_rules! halves {
    ($value:literal) => {
        concat!("SUM((", $value, ") >> 32), SUM((", $value, ") & 4294967295)")
    };
}
// The same over rows that may be none.
macro_rules! coalesced_halves {
    ($value:literal) => {
        concat!("COALESCE(SUM((", $value, ") >> 32), 0), COALESCE(SUM((", $value, ") & 4294967295), 0)")
    };
}
macro_rules! usage_by {
    ($group:literal) => {
        concat!(
            "SELECT ",
            $group,
            " AS label, COUNT(*), SUM(outcome <> 'ok'), ",
            halves!("input_tokens"),
            ", ",
            halves!("output_tokens"),
            ", ",
            halves!("cost_nanousd"),
            ", ",
            halves!("CASE usage_source WHEN 'reported' THEN 0 ELSE cost_nanousd END"),
            " FROM llm_calls WHERE tenant = $1 AND started_at >= $2 GROUP BY label ORDER BY \
              SUM(cost_nanousd >> 32) + (SUM(cost_nanousd & 4294967295) >> 32) DESC, \
              SUM(cost_nanousd & 4294967295) & 4294967295 DESC, label LIMIT $3"
        )
    };
}

/// The statement that adds up by this.
pub(super) fn usage_sql(by: UsageBy) -> &'static str {
    match by {
        UsageBy::Tenant => usage_by!("tenant"),
        UsageBy::Task => usage_by!("task"),
        UsageBy::Model => usage_by!("model"),
        UsageBy::Session => usage_by!("session_id"),
        UsageBy::Day => usage_by!("date(started_at / 1000000, 'unixepoch')"),
        UsageBy::PromptVersion => usage_by!("prompt_name || '@' || prompt_version"),
    }
}

/// The tenant's calls from `since` on, added up; the groups that cost most come first.
pub(super) async fn usage(
    connection: &mut SqliteConnection,
    tenant: &TenantId,
    by: UsageBy,
    (since, limit): (Timestamp, usize),
) -> Result<Vec<UsageRow>, StoreError> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let query = sqlx::query(usage_sql(by)).bind(tenant.as_str()).bind(since.0).bind(limit);
    let rows = query.fetch_all(&mut *connection).await?;
    let mut usage = Vec::with_capacity(rows.len());
    for row in &rows {
        let mut columns = Columns::of(row);
        usage.push(UsageRow {
            group: columns.take()?,
            attempts: columns.unsigned()?,
            failed: columns.unsigned()?,
            input_tokens: take_sum(&mut columns)?,
            output_tokens: take_sum(&mut columns)?,
            cost: Nanousd(take_sum(&mut columns)?),
            estimated_cost: Nanousd(take_sum(&mut columns)?),
        });
    }
    Ok(usage)
}

/// The statement of [`cost`].
pub(super) const COST: &str = concat!(
    "SELECT COUNT(*), ",
    coalesced_halves!("input_tokens"),
    ", ",
    coalesced_halves!("output_tokens"),
    ", ",
    coalesced_halves!("cost_nanousd"),
    " FROM llm_calls WHERE trace_id = $1 AND tenant = $2"
);

/// The tenant's calls under a trace id, added up.
pub(super) async fn cost(
    connection: &mut SqliteConnection,
    tenant: &TenantId,
    trace: TraceId,
) -> Result<TaskCost, StoreError> {
    let query = sqlx::query(COST).bind(trace.to_string()).bind(tenant.as_str());
    let row = query.fetch_one(&mut *connection).await?;
    let mut columns = Columns::of(&row);
    Ok(TaskCost {
        calls: columns.unsigned()?,
        input_tokens: take_sum(&mut columns)?,
        output_tokens: take_sum(&mut columns)?,
        cost: Nanousd(take_sum(&mut columns)?),
    })
}

/// What `halves!` selects; at most what 64 bits hold.
fn take_sum(columns: &mut Columns<'_>) -> Result<u64, StoreError> {
    let sum = (u128::from(columns.unsigned()?) << 32) + u128::from(columns.unsigned()?);
    Ok(u64::try_from(sum).unwrap_or(u64::MAX))
}
