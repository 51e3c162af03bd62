//! What runners read about tasks.

use sqlx::SqliteConnection;

use crate::domain::{RunnerId, StepName, StepRecord, TaskKey, TaskKind, TaskStatus, TenantId, Timestamp, Wish};
use crate::store::{QueueHead, QueueView, StoreError};

use super::codec::{Columns, from_text};
use super::ledger_rows::word;
use super::task_rows::{read_step, runner_text, step_columns, take_number};

// From the few rows that say where something is in line to the first few of each: what is behind them is never read.
pub(super) const HEADS: &str = "SELECT t.id, t.tenant, t.kind, t.priority FROM task_counts c CROSS JOIN tasks t ON t.id IN \
    (SELECT id FROM tasks q WHERE q.status = 'queued' AND q.tenant = c.tenant AND q.kind = c.kind \
        ORDER BY q.priority DESC, q.id LIMIT $1) \
    WHERE c.status = 'queued' ORDER BY c.tenant, c.kind, t.priority DESC, t.id";
const RUNNING: &str = "SELECT tenant, kind, number FROM task_counts WHERE status = 'running' ORDER BY tenant, kind";
const NEXT_READY: &str = "SELECT MIN(ready_at) FROM tasks WHERE status = 'waiting'";
const DUE: &str = "SELECT EXISTS (SELECT 1 FROM tasks WHERE status = 'waiting' AND ready_at <= $1)";
const RECORDED: &str =
    concat!("SELECT ", step_columns!(), " FROM task_steps WHERE task = $1 ORDER BY position, step, item");
const FAILED_ATTEMPTS: &str = "SELECT step, COALESCE(item, 0), COUNT(*) FROM task_failures \
    WHERE task = $1 AND step IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2";
const WISHES: &str =
    "SELECT id, wish FROM tasks WHERE status = 'running' AND runner = $1 AND wish IS NOT NULL ORDER BY id";
const HOLDERS: &str = "SELECT DISTINCT t.runner, COALESCE(r.beat, 0) FROM tasks t \
    LEFT JOIN runners r ON r.runner = t.runner WHERE t.status = 'running' AND t.runner > '' ORDER BY t.runner";
const COUNTS: &str = "SELECT kind, status, SUM(number) FROM task_counts \
    WHERE status IN ('queued', 'waiting', 'running', 'paused') GROUP BY kind, status ORDER BY kind, status";

/// The statements of this file.
#[cfg(test)]
pub(super) const READS: [&str; 9] =
    [HEADS, RUNNING, NEXT_READY, DUE, RECORDED, FAILED_ATTEMPTS, WISHES, HOLDERS, COUNTS];

/// What is in line and what runs.
pub(super) async fn queue(
    connection: &mut SqliteConnection,
    now: Timestamp,
    per_line: usize,
) -> Result<QueueView, StoreError> {
    let mut view = QueueView::default();
    let per_line = i64::try_from(per_line).unwrap_or(i64::MAX);
    for row in &sqlx::query(HEADS).bind(per_line).fetch_all(&mut *connection).await? {
        let mut columns = Columns::of(row);
        view.heads.push(QueueHead {
            key: TaskKey(columns.take()?),
            tenant: from_text("tasks.tenant", columns.take()?)?,
            kind: from_text("tasks.kind", columns.take()?)?,
            priority: columns.take()?,
        });
    }
    for row in &sqlx::query(RUNNING).fetch_all(&mut *connection).await? {
        let mut columns = Columns::of(row);
        let tenant: TenantId = from_text("task_counts.tenant", columns.take()?)?;
        view.running.push((tenant, from_text("task_counts.kind", columns.take()?)?, columns.unsigned()?));
    }
    let first: Option<i64> = sqlx::query_scalar(NEXT_READY).fetch_one(&mut *connection).await?;
    view.next_ready_us = first.map(|first| u64::try_from(first.saturating_sub(now.0)).unwrap_or(0));
    Ok(view)
}

/// True if a waiting task's time has come.
pub(super) async fn is_due(connection: &mut SqliteConnection, now: Timestamp) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar(DUE).bind(now.0).fetch_one(&mut *connection).await?)
}

/// Every recorded item of a run, by place and item.
pub(super) async fn recorded(connection: &mut SqliteConnection, key: TaskKey) -> Result<Vec<StepRecord>, StoreError> {
    let rows = sqlx::query(RECORDED).bind(key.0).fetch_all(&mut *connection).await?;
    rows.iter().map(read_step).collect()
}

/// How often each item of each step has failed.
pub(super) async fn failed_attempts(
    connection: &mut SqliteConnection,
    key: TaskKey,
) -> Result<Vec<(StepName, u32, u32)>, StoreError> {
    let rows = sqlx::query(FAILED_ATTEMPTS).bind(key.0).fetch_all(&mut *connection).await?;
    let mut failed = Vec::with_capacity(rows.len());
    for row in &rows {
        let mut columns = Columns::of(row);
        let step = from_text("task_failures.step", columns.take()?)?;
        failed.push((step, take_number(&mut columns)?, take_number(&mut columns)?));
    }
    Ok(failed)
}

/// Wishes for the tasks that a runner holds.
pub(super) async fn wishes(
    connection: &mut SqliteConnection,
    runner: RunnerId,
) -> Result<Vec<(TaskKey, Wish)>, StoreError> {
    let rows = sqlx::query(WISHES).bind(runner_text(runner)).fetch_all(&mut *connection).await?;
    let mut wishes = Vec::with_capacity(rows.len());
    for row in &rows {
        let mut columns = Columns::of(row);
        wishes.push((TaskKey(columns.take()?), word(Wish::from_word, "tasks.wish", columns.take()?)?));
    }
    Ok(wishes)
}

/// Runners that hold tasks, with their beats.
pub(super) async fn holders(connection: &mut SqliteConnection) -> Result<Vec<(RunnerId, u64)>, StoreError> {
    let rows = sqlx::query(HOLDERS).fetch_all(&mut *connection).await?;
    let mut holders = Vec::with_capacity(rows.len());
    for row in &rows {
        let mut columns = Columns::of(row);
        holders.push((from_text("tasks.runner", columns.take()?)?, columns.unsigned()?));
    }
    Ok(holders)
}

/// How many tasks are in each state that is not an end.
pub(super) async fn counts(connection: &mut SqliteConnection) -> Result<Vec<(TaskKind, TaskStatus, u64)>, StoreError> {
    let rows = sqlx::query(COUNTS).fetch_all(&mut *connection).await?;
    let mut counts = Vec::with_capacity(rows.len());
    for row in &rows {
        let mut columns = Columns::of(row);
        let kind = from_text("task_counts.kind", columns.take()?)?;
        let status = word(TaskStatus::from_word, "task_counts.status", columns.take()?)?;
        counts.push((kind, status, columns.unsigned()?));
    }
    Ok(counts)
}
