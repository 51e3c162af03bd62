//! Looks through what was written down beside the corpus for records that tell something of a text.
//!
//! Reads whole tables, row by row, on a connection that only reads; comparing is left to threads that may block.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::TryStreamExt as _;
use serde_json::Value;
use sqlx::SqliteConnection;

use crate::domain::{DocumentId, Needles, TaskId, TaskKind, TenantId};
use crate::store::StoreError;

use super::codec::{Columns, from_text, to_json};

/// Text that is compared at once.
const BATCH_BYTES: usize = 1 << 20;

/// Rows in which something is told.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// All runs of the ended tasks.
    pub runs: Vec<i64>,
    pub open_tasks: Vec<TaskId>,
    pub calls: Vec<i64>,
    pub traces: Vec<i64>,
    pub cases: Vec<i64>,
}

/// What records are compared with.
#[derive(Clone)]
pub(super) struct Wanted<'a> {
    pub tenant: &'a TenantId,
    pub document: &'a DocumentId,
    pub needles: Arc<Needles>,
    pub spared: &'a TaskKind,
}

// Each yields the row that goes, and its texts.
const INPUTS: &str = "SELECT t.id, i.input, i.overrides FROM tasks t JOIN task_inputs i ON i.task = t.id \
    WHERE t.tenant = $1 AND t.kind <> $2";
const OUTPUTS: &str = "SELECT t.id, o.output, t.error FROM tasks t LEFT JOIN task_outputs o ON o.task = t.id \
    WHERE t.tenant = $1 AND t.kind <> $2";
const STEPS: &str = "SELECT t.id, s.input, s.output FROM task_steps s JOIN tasks t ON t.id = s.task \
    WHERE t.tenant = $1 AND t.kind <> $2";
const FAILURES: &str = "SELECT task, error, NULL FROM task_failures WHERE tenant = $1 AND kind <> $2";
const CALLS: &str = "SELECT id, request_body, response_body FROM llm_calls \
    WHERE tenant = $1 AND $2 <> '' AND (request_body IS NOT NULL OR response_body IS NOT NULL)";
const SPANS: &str = "SELECT t.id, p.attributes, NULL FROM spans p JOIN traces t ON t.id = p.request_id \
    WHERE t.tenant = $1 AND $2 <> ''";

const CASES: &str = "SELECT e.id, e.query, NULL FROM tenants t JOIN eval_cases e ON e.tenant_id = t.id \
    WHERE t.name = $1 AND $2 <> ''";

/// How the text of a row is judged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Judged {
    /// By what it tells.
    Text,
    /// Also by the names in it: a task may be about a document without telling of its text yet.
    Names,
    /// Also by its end: what was cut off cannot be judged.
    Cut,
}

/// What the ledger puts behind a text that it has cut.
const CUT: &str = "[cut]";

pub(super) async fn find(connection: &mut SqliteConnection, wanted: &Wanted<'_>) -> Result<Found, StoreError> {
    let mut tasks = BTreeSet::new();
    for (sql, judged) in
        [(INPUTS, Judged::Names), (OUTPUTS, Judged::Text), (STEPS, Judged::Text), (FAILURES, Judged::Text)]
    {
        tasks.extend(walk(connection, wanted, (sql, judged)).await?);
    }
    let (runs, open_tasks) = whole_tasks(connection, &tasks).await?;
    let calls = walk(connection, wanted, (CALLS, Judged::Cut)).await?;
    let calls = calls_around(connection, (&calls, &tasks)).await?;
    let traces = walk(connection, wanted, (SPANS, Judged::Text)).await?.into_iter().collect();
    let cases = walk(connection, wanted, (CASES, Judged::Text)).await?.into_iter().collect();
    Ok(Found { runs, open_tasks, calls, traces, cases })
}

/// A row with its texts.
type Row = (i64, [Option<String>; 2]);

async fn walk(
    connection: &mut SqliteConnection,
    wanted: &Wanted<'_>,
    (sql, judged): (&'static str, Judged),
) -> Result<BTreeSet<i64>, StoreError> {
    let mut found = BTreeSet::new();
    let mut rows = sqlx::query(sql).bind(wanted.tenant.as_str()).bind(wanted.spared.as_str()).fetch(&mut *connection);
    let (mut batch, mut bytes): (Vec<Row>, usize) = (Vec::new(), 0);
    loop {
        let row = rows.try_next().await?;
        let is_last = row.is_none();
        if let Some(row) = row {
            let mut columns = Columns::of(&row);
            let (id, texts): (i64, [Option<String>; 2]) = (columns.take()?, [columns.take()?, columns.take()?]);
            bytes += texts.iter().flatten().map(String::len).sum::<usize>();
            if !found.contains(&id) {
                batch.push((id, texts));
            }
        }
        if is_last || bytes >= BATCH_BYTES {
            let (needles, document) = (Arc::clone(&wanted.needles), wanted.document.clone());
            let judge = move |batch: Vec<Row>| {
                let told =
                    |(_, texts): &Row| texts.iter().flatten().any(|text| tells(&needles, &document, judged, text));
                batch.iter().filter(|row| told(row)).map(|(id, _)| *id).collect::<Vec<i64>>()
            };
            let whole = std::mem::take(&mut batch);
            // Fails only if the runtime is shutting down.
            let told = tokio::task::spawn_blocking(move || judge(whole)).await.map_err(|_| StoreError::Closed)?;
            found.extend(told);
            bytes = 0;
        }
        if is_last {
            return Ok(found);
        }
    }
}

fn tells(needles: &Needles, document: &DocumentId, judged: Judged, text: &str) -> bool {
    match judged {
        Judged::Names if names(text, document) => true,
        Judged::Cut if text.ends_with(CUT) => true,
        _ => needles.are_told_by(text),
    }
}

/// True if a text anywhere in the JSON is the document's id.
fn names(json: &str, document: &DocumentId) -> bool {
    fn has(value: &Value, id: &str) -> bool {
        match value {
            Value::String(text) => text == id,
            Value::Array(items) => items.iter().any(|item| has(item, id)),
            Value::Object(fields) => fields.values().any(|field| has(field, id)),
            _ => false,
        }
    }
    serde_json::from_str::<Value>(json).is_ok_and(|value| has(&value, document.as_str()))
}

/// All runs of these tasks if they have ended, else the tasks.
async fn whole_tasks(
    connection: &mut SqliteConnection,
    tasks: &BTreeSet<i64>,
) -> Result<(Vec<i64>, Vec<TaskId>), StoreError> {
    const SQL: &str = "SELECT DISTINCT r.id, r.task_id, EXISTS (SELECT 1 FROM tasks o WHERE o.tenant = r.tenant \
        AND o.task_id = r.task_id AND o.status NOT IN ('succeeded', 'failed', 'cancelled')) \
        FROM json_each($1) j CROSS JOIN tasks t ON t.id = j.value \
        CROSS JOIN tasks r ON r.tenant = t.tenant AND r.task_id = t.task_id ORDER BY r.id";
    let (mut runs, mut open) = (Vec::new(), BTreeSet::new());
    for row in &sqlx::query(SQL).bind(to_json(tasks)).fetch_all(&mut *connection).await? {
        let mut columns = Columns::of(row);
        let (run, task, is_open): (i64, &str, bool) = (columns.take()?, columns.take()?, columns.take()?);
        if is_open {
            open.insert(from_text::<TaskId>("tasks.task_id", task)?);
        } else {
            runs.push(run);
        }
    }
    Ok((runs, open.into_iter().collect()))
}

/// These calls, and others whose texts were made of theirs: of the same trace, or of one of these tasks.
async fn calls_around(
    connection: &mut SqliteConnection,
    (calls, tasks): (&BTreeSet<i64>, &BTreeSet<i64>),
) -> Result<Vec<i64>, StoreError> {
    const SQL: &str = "SELECT DISTINCT c.id FROM (SELECT k.trace_id AS trace FROM json_each($1) j \
        CROSS JOIN llm_calls k ON k.id = j.value UNION SELECT t.trace_id FROM json_each($2) j \
        CROSS JOIN tasks t ON t.id = j.value) f CROSS JOIN llm_calls c ON c.trace_id = f.trace \
        WHERE c.request_body IS NOT NULL OR c.response_body IS NOT NULL";
    let query = sqlx::query_scalar(SQL).bind(to_json(calls)).bind(to_json(tasks));
    Ok(query.fetch_all(&mut *connection).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_names_a_document_by_a_whole_text_and_not_by_a_word() {
        let tides = DocumentId::new("tides").unwrap();

        assert!(names(r#"{"documents": [{"id": "tides"}]}"#, &tides));
        assert!(!names(r#"{"query": "spring tides", "tides": 1}"#, &tides));
        assert!(!names("tides", &tides));
    }
}
