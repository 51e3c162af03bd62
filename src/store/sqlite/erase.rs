//! Removals for good, inside the one writer: each in a transaction of its own, a bounded part at a time.
//!
//! `PRAGMA secure_delete` is on, so the bytes of a removed row are zeros when its page is written next. What is left of
//! rows that moved between pages only a rewrite of the file takes away.

use sqlx::SqliteConnection;

use crate::store::StoreError;

use super::codec::{Columns, to_json};
use super::failure::Stage;
use super::writer::{Answer, Failure};

/// Most rows that one transaction removes: some ten milliseconds in which others wait.
pub(super) const REMOVE_AT_ONCE: i64 = 1_000;

/// What is to be removed; answered with the number of rows that went. 0: none is left.
#[derive(Debug)]
pub(super) enum Removal {
    /// A part of these versions with all that belongs to them. One that serves stays, with its rows.
    Versions(Vec<i64>),
    /// Vectors of a tenant that no chunk has, among the next [`REMOVE_AT_ONCE`] rows after this one.
    Embeddings { tenant: i64, after: i64 },
    /// What a deleted document is called beside its id, and what it was.
    Head(i64),
    /// The name of a document that has no version; its place stays.
    Document(i64),
    /// The chunk ids in rows of the operation log.
    LogIds(Vec<i64>),
    /// A part of these runs with their records.
    Runs(Vec<i64>),
    /// A part of the texts that models wrote about chunks of a tenant.
    Contexts { tenant: i64 },
    /// A document out of what eval cases of its collection name as relevant; cases that name nothing else go.
    Judgements { collection: i64, document: String },
    /// Eval cases.
    Cases(Vec<i64>),
    /// The texts of calls.
    Bodies(Vec<i64>),
    /// Traces with their spans.
    Traces(Vec<i64>),
    /// Answered with 1 if a reader is in the way.
    Log,
    /// What is left between rows.
    Slack,
}

/// Carries a removal out. After an error a transaction may be open.
pub(super) async fn remove(connection: &mut SqliteConnection, removal: &Removal) -> Result<Answer, Failure> {
    match removal {
        Removal::Log => return Ok(Answer::Removed(u64::from(empty_log(connection).await.map_err(at_sync)? > 0))),
        Removal::Slack => {
            sqlx::query("VACUUM").execute(&mut *connection).await.map_err(|error| at_sync(error.into()))?;
            return Ok(Answer::Done);
        }
        _ => {}
    }
    // The versions' rows go before what they refer to, and SQLite would look for others by walking whole tables.
    let is_unchecked = matches!(removal, Removal::Versions(_));
    if is_unchecked {
        sqlx::query("PRAGMA foreign_keys = OFF").execute(&mut *connection).await?;
    }
    let removed = in_transaction(connection, removal).await;
    if is_unchecked {
        if removed.is_err() {
            // The pragma has no effect inside a transaction. Whether there is one depends on what failed.
            let _ = sqlx::query("ROLLBACK").execute(&mut *connection).await;
        }
        let checked = sqlx::query("PRAGMA foreign_keys = ON").execute(&mut *connection).await;
        // Without it nothing more may be written.
        checked.map_err(|error| at_sync(error.into()))?;
    }
    removed.map(Answer::Removed)
}

fn at_sync(error: StoreError) -> Failure {
    Failure { error, stage: Stage::Sync }
}

async fn in_transaction(connection: &mut SqliteConnection, removal: &Removal) -> Result<u64, Failure> {
    sqlx::query("BEGIN IMMEDIATE").execute(&mut *connection).await?;
    let removed = match removal {
        Removal::Versions(versions) => versions_part(connection, versions).await?,
        Removal::Embeddings { tenant, after } => {
            let query = sqlx::query(UNUSED_EMBEDDINGS).bind(after).bind(after + REMOVE_AT_ONCE).bind(tenant);
            query.execute(&mut *connection).await?.rows_affected()
        }
        Removal::Head(document) => sqlx::query(BEHEAD).bind(document).execute(&mut *connection).await?.rows_affected(),
        Removal::Document(document) => {
            sqlx::query(UNNAME).bind(document).execute(&mut *connection).await?.rows_affected()
        }
        Removal::LogIds(rows) => listed(connection, LOG_IDS, rows).await?,
        Removal::Runs(runs) => runs_part(connection, runs).await?,
        Removal::Contexts { tenant } => {
            let query = sqlx::query(CONTEXTS).bind(tenant).bind(REMOVE_AT_ONCE);
            query.execute(&mut *connection).await?.rows_affected()
        }
        Removal::Judgements { collection, document } => {
            judgements(connection, (*collection, document.as_str())).await?
        }
        Removal::Cases(cases) => listed(connection, CASES, cases).await?,
        Removal::Bodies(calls) => listed(connection, BODIES, calls).await?,
        Removal::Traces(requests) => {
            listed(connection, SPANS, requests).await?;
            listed(connection, TRACES, requests).await?
        }
        Removal::Log | Removal::Slack => 0,
    };
    sqlx::query("COMMIT").execute(&mut *connection).await.map_err(|error| at_sync(error.into()))?;
    Ok(removed)
}

// Chunks first and the version last: what is cut off in between is found again by its version.
async fn versions_part(connection: &mut SqliteConnection, versions: &[i64]) -> Result<u64, StoreError> {
    let serving: Vec<i64> = sqlx::query_scalar(SERVING).bind(to_json(versions)).fetch_all(&mut *connection).await?;
    let versions: Vec<i64> = versions.iter().copied().filter(|version| !serving.contains(version)).collect();
    for sql in [CHUNKS, SEGMENTS] {
        let query = sqlx::query(sql).bind(to_json(&versions)).bind(REMOVE_AT_ONCE);
        let removed = query.execute(&mut *connection).await?.rows_affected();
        if removed > 0 {
            return Ok(removed);
        }
    }
    Ok(listed(connection, CHUNKINGS, &versions).await? + listed(connection, VERSIONS, &versions).await?)
}

async fn runs_part(connection: &mut SqliteConnection, runs: &[i64]) -> Result<u64, StoreError> {
    let query = sqlx::query(STEPS).bind(to_json(runs)).bind(REMOVE_AT_ONCE);
    let steps = query.execute(&mut *connection).await?.rows_affected();
    // The rest goes with the runs.
    if steps > 0 { Ok(steps) } else { listed(connection, RUNS, runs).await }
}

async fn judgements(connection: &mut SqliteConnection, (collection, document): (i64, &str)) -> Result<u64, StoreError> {
    let mut changed = 0;
    for sql in [ONLY_JUDGEMENTS, JUDGEMENTS] {
        let query = sqlx::query(sql).bind(collection).bind(document);
        changed += query.execute(&mut *connection).await?.rows_affected();
    }
    Ok(changed)
}

async fn listed(connection: &mut SqliteConnection, sql: &'static str, rows: &[i64]) -> Result<u64, StoreError> {
    Ok(sqlx::query(sql).bind(to_json(rows)).execute(&mut *connection).await?.rows_affected())
}

/// 0 if the whole log is in the database and the file is empty.
async fn empty_log(connection: &mut SqliteConnection) -> Result<i64, StoreError> {
    let row = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&mut *connection).await?;
    Columns::of(&row).take()
}

const SERVING: &str = "SELECT d.version_id FROM json_each($1) j CROSS JOIN versions v ON v.id = j.value \
    CROSS JOIN documents d ON d.id = v.document_id AND d.version_id = v.id AND d.chunking_id IS NOT NULL";
const CHUNKS: &str = "DELETE FROM chunks WHERE id IN (SELECT c.id FROM json_each($1) j \
    CROSS JOIN chunkings g ON g.version_id = j.value \
    CROSS JOIN chunks c ON c.id BETWEEN g.first_chunk AND g.first_chunk + g.chunk_count - 1 LIMIT $2)";
const SEGMENTS: &str = "DELETE FROM segments WHERE id IN (SELECT s.id FROM json_each($1) j \
    CROSS JOIN versions v ON v.id = j.value \
    CROSS JOIN segments s ON s.id BETWEEN v.first_segment AND v.first_segment + v.segment_count - 1 LIMIT $2)";
const CHUNKINGS: &str = "DELETE FROM chunkings WHERE version_id IN (SELECT value FROM json_each($1))";
const VERSIONS: &str = "DELETE FROM versions WHERE id IN (SELECT value FROM json_each($1))";
const UNUSED_EMBEDDINGS: &str = "DELETE FROM embeddings WHERE id > $1 AND id <= $2 AND tenant_id = $3 \
    AND NOT EXISTS (SELECT 1 FROM chunks c WHERE c.embedding_id = embeddings.id)";
// The row stays, since rows of the log refer to it. Nobody can ask for a name that nobody can guess.
const BEHEAD: &str = "UPDATE documents SET title = NULL, source_uri = NULL, media_type = '', metadata = '{}', \
    acl = NULL, head_hash = zeroblob(32), content_hash = zeroblob(32), version_id = 0, first_chunk = 0, chunk_count = 0 \
    WHERE id = $1 AND chunking_id IS NULL";
const UNNAME: &str = "UPDATE documents SET name = 'erased-' || lower(hex(randomblob(16))) WHERE id = $1 AND chunking_id IS NULL AND NOT EXISTS (SELECT 1 FROM versions v WHERE v.document_id = documents.id)";
const CONTEXTS: &str = "DELETE FROM contexts WHERE (tenant_id, input_hash) IN \
    (SELECT tenant_id, input_hash FROM contexts WHERE tenant_id = $1 LIMIT $2)";
const ONLY_JUDGEMENTS: &str = "DELETE FROM eval_cases WHERE collection_id = $1 \
    AND EXISTS (SELECT 1 FROM json_each(relevant) WHERE key = $2) \
    AND NOT EXISTS (SELECT 1 FROM json_each(relevant) WHERE key <> $2)";
const JUDGEMENTS: &str = "UPDATE eval_cases SET relevant = \
    (SELECT json_group_object(key, value) FROM json_each(eval_cases.relevant) WHERE key <> $2) \
    WHERE collection_id = $1 AND EXISTS (SELECT 1 FROM json_each(eval_cases.relevant) WHERE key = $2)";
const CASES: &str = "DELETE FROM eval_cases WHERE id IN (SELECT value FROM json_each($1))";
const LOG_IDS: &str = "UPDATE oplog SET added = x'', removed = x'' WHERE seq IN (SELECT value FROM json_each($1))";
const STEPS: &str = "DELETE FROM task_steps WHERE id IN (SELECT s.id FROM json_each($1) j \
    CROSS JOIN task_steps s ON s.task = j.value LIMIT $2)";
const RUNS: &str = "DELETE FROM tasks WHERE id IN (SELECT value FROM json_each($1))";
const BODIES: &str = "UPDATE llm_calls SET request_body = NULL, response_body = NULL \
    WHERE id IN (SELECT value FROM json_each($1))";
const SPANS: &str = "DELETE FROM spans WHERE request_id IN (SELECT value FROM json_each($1))";
const TRACES: &str = "DELETE FROM traces WHERE id IN (SELECT value FROM json_each($1))";

/// The statements that run without a check of foreign keys.
#[cfg(test)]
pub(super) const UNCHECKED: [&str; 5] = [SERVING, CHUNKS, SEGMENTS, CHUNKINGS, VERSIONS];
/// The others, but for those that look for chunks by their embedding.
#[cfg(test)]
pub(super) const CHECKED: [&str; 10] = [BEHEAD, UNNAME, LOG_IDS, STEPS, RUNS, BODIES, SPANS, TRACES, CONTEXTS, CASES];
