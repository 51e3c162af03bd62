//! Reads of the ledger: the story of a trace, and calls added up.

use std::collections::HashMap;

use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

use crate::domain::{
    LlmCall, Nanousd, SearchRecord, SpanRecord, TenantId, Timestamp, TraceId, TraceRecord, TraceStory,
};
use crate::store::{StoreError, TRACE_MAX_ROWS, UsageBy, UsageRow};

use super::codec::Columns;
use super::ledger_rows::{
    call_columns, read_call, read_request, read_search, read_span, request_columns, search_columns, span_columns,
};

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

/// The statements that tell a trace.
#[cfg(test)]
pub(super) const TRACE_READS: [&str; 4] = [REQUESTS, SPANS, SEARCHES, CALLS];

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
    if requests.is_empty() && searches.is_empty() && calls.is_empty() {
        return Ok(None);
    }
    Ok(Some(TraceStory { requests, searches, calls }))
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

// A sum over 64 bits is an error in SQLite. Halves of 32 bits can be added two thousand million times.
macro_rules! halves {
    ($value:literal) => {
        concat!("SUM((", $value, ") >> 32), SUM((", $value, ") & 4294967295)")
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

/// What `halves!` selects; at most what 64 bits hold.
fn take_sum(columns: &mut Columns<'_>) -> Result<u64, StoreError> {
    let sum = (u128::from(columns.unsigned()?) << 32) + u128::from(columns.unsigned()?);
    Ok(u64::try_from(sum).unwrap_or(u64::MAX))
}
