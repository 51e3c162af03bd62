//! Who works on what: tasks change hands here.

use std::collections::HashMap;

use sqlx::SqliteConnection;

use crate::domain::{RunnerId, Task, TaskId, TaskKey, TaskStatus, TenantScope, Timestamp, Wish};
use crate::store::{ClaimWish, StoreError};

use super::lost_calls;
use super::task_rows::{read_whole_task, runner_text, task_columns, whole_task};
use super::task_submits::{by_key, newest};

/// Most tasks that change their state in one transaction: some ten milliseconds in which others wait.
pub(super) const CHANGE_AT_ONCE: i64 = 1_000;

pub(super) const PROMOTE: &str = "UPDATE tasks SET status = 'queued' WHERE id IN \
    (SELECT id FROM tasks WHERE status = 'waiting' AND ready_at <= $1 ORDER BY ready_at LIMIT $2)";
// Limits count what runs in this very transaction, whoever holds it.
pub(super) const CLAIM: &str = "UPDATE tasks SET status = 'running', runner = $2, epoch = epoch + 1, wish = NULL, \
    error_kind = NULL, error = NULL, started_at = COALESCE(started_at, $3), \
    tries = CASE WHEN (SELECT COUNT(*) FROM task_steps s WHERE s.task = tasks.id) > done_at_claim THEN 1 \
        ELSE tries + 1 END, \
    done_at_claim = (SELECT COUNT(*) FROM task_steps s WHERE s.task = tasks.id) \
    WHERE id = $1 AND status = 'queued' \
    AND COALESCE((SELECT SUM(number) FROM task_counts c WHERE c.status = 'running' AND c.kind = tasks.kind), 0) < $4 \
    AND COALESCE((SELECT SUM(number) FROM task_counts c WHERE c.status = 'running' AND c.tenant = tasks.tenant), 0) < $5";
pub(super) const CLAIMED: &str = whole_task!("t.id IN (SELECT value FROM json_each($1))");
pub(super) const WISH: &str = "UPDATE tasks SET status = $2, finished_at = $3, wish = $4 WHERE id = $1";
pub(super) const BEAT: &str = "INSERT INTO runners (runner, beat) VALUES ($1, 1) \
    ON CONFLICT (runner) DO UPDATE SET beat = beat + 1";
pub(super) const BEAT_OF: &str = "SELECT COALESCE((SELECT beat FROM runners WHERE runner = $1), 0)";
pub(super) const HELD_BY: &str = "SELECT id FROM tasks WHERE status = 'running' AND runner = $1";
pub(super) const HELD_BY_ALL: &str = "SELECT id FROM tasks WHERE status = 'running' AND runner > ''";
/// A wish that its runner did not live to see holds.
pub(super) const TAKE_BACK: &str = "UPDATE tasks SET \
    status = CASE wish WHEN 'cancel' THEN 'cancelled' WHEN 'pause' THEN 'paused' ELSE 'queued' END, \
    finished_at = CASE wish WHEN 'cancel' THEN $2 END, runner = NULL, wish = NULL \
    WHERE id IN (SELECT value FROM json_each($1))";
pub(super) const SHORTEN_WAITS: &str = "UPDATE tasks SET ready_at = $1 + wait_us \
    WHERE status = 'waiting' AND ready_at > $1 AND ready_at > $1 + wait_us";

/// Puts a part of the waiting tasks whose time has come in line. Returns how many.
pub(super) async fn promote(connection: &mut SqliteConnection, now: Timestamp) -> Result<u64, StoreError> {
    let promoted = sqlx::query(PROMOTE).bind(now.0).bind(CHANGE_AT_ONCE).execute(&mut *connection).await?;
    Ok(promoted.rows_affected())
}

/// Takes those tasks that are in line; one answer for each wish.
pub(super) async fn claim(
    connection: &mut SqliteConnection,
    runner: RunnerId,
    wishes: &[ClaimWish],
    now: Timestamp,
) -> Result<Vec<Option<Task>>, StoreError> {
    let limit = |limit: u64| i64::try_from(limit).unwrap_or(i64::MAX);
    let mut taken = Vec::new();
    for wish in wishes {
        let claim = sqlx::query(CLAIM).bind(wish.key.0).bind(runner_text(runner)).bind(now.0);
        let claim = claim.bind(limit(wish.kind_limit)).bind(limit(wish.tenant_limit));
        if claim.execute(&mut *connection).await?.rows_affected() == 1 {
            taken.push(wish.key);
        }
    }
    if taken.is_empty() {
        return Ok(wishes.iter().map(|_| None).collect());
    }
    lost_calls::count(connection, &taken).await?;
    let rows = sqlx::query(CLAIMED).bind(key_list(&taken)).fetch_all(&mut *connection).await?;
    let mut tasks: HashMap<TaskKey, Task> = HashMap::with_capacity(rows.len());
    for row in &rows {
        let task = read_whole_task(row)?;
        tasks.insert(task.key, task);
    }
    Ok(wishes.iter().map(|wish| tasks.remove(&wish.key)).collect())
}

fn key_list(keys: &[TaskKey]) -> String {
    let keys: Vec<String> = keys.iter().map(|key| key.0.to_string()).collect();
    format!("[{}]", keys.join(","))
}

/// What a wish makes of a task: its state, whether it ends by it, and what its runner is told. `None`: nothing.
fn granted(wish: Wish, task: &Task, now: Timestamp) -> Option<(TaskStatus, Option<Wish>)> {
    use TaskStatus::{Cancelled, Paused, Queued, Running, Waiting};
    match (wish, task.status) {
        (Wish::Cancel, Queued | Waiting | Paused) => Some((Cancelled, None)),
        (Wish::Cancel, Running) => Some((Running, Some(Wish::Cancel))),
        (Wish::Pause, Queued | Waiting) => Some((Paused, None)),
        // Whoever cancelled it before wanted more.
        (Wish::Pause, Running) if task.wish.is_none() => Some((Running, Some(Wish::Pause))),
        (Wish::Resume, Paused) if task.ready_at > now => Some((Waiting, None)),
        (Wish::Resume, Paused) => Some((Queued, None)),
        _ => None,
    }
}

/// Grants a wish, or notes it for the runner. Returns the newest run as it is then.
pub(super) async fn wish(
    connection: &mut SqliteConnection,
    scope: &TenantScope,
    (id, wish): (TaskId, Wish),
    now: Timestamp,
) -> Result<Option<Task>, StoreError> {
    let Some(task) = newest(connection, scope, id).await? else { return Ok(None) };
    let Some((status, noted)) = granted(wish, &task, now) else { return Ok(Some(task)) };
    let query = sqlx::query(WISH).bind(task.key.0).bind(status.as_str());
    let query = query.bind(status.is_ended().then_some(now.0)).bind(noted.map(Wish::as_str));
    query.execute(&mut *connection).await?;
    by_key(connection, task.key).await.map(Some)
}

/// A sign of life.
pub(super) async fn beat(connection: &mut SqliteConnection, runner: RunnerId) -> Result<(), StoreError> {
    sqlx::query(BEAT).bind(runner_text(runner)).execute(&mut *connection).await?;
    Ok(())
}

/// Takes everything from a runner that has not moved since this beat. Returns how many tasks.
pub(super) async fn take_back(
    connection: &mut SqliteConnection,
    (runner, seen): (RunnerId, u64),
    now: Timestamp,
) -> Result<u64, StoreError> {
    let runner = runner_text(runner);
    let beat: i64 = sqlx::query_scalar(BEAT_OF).bind(&runner).fetch_one(&mut *connection).await?;
    if u64::try_from(beat) != Ok(seen) {
        return Ok(0);
    }
    let keys: Vec<i64> = sqlx::query_scalar(HELD_BY).bind(&runner).fetch_all(&mut *connection).await?;
    sqlx::query("DELETE FROM runners WHERE runner = $1").bind(&runner).execute(&mut *connection).await?;
    put_back(connection, keys, now).await
}

/// Takes everything from all runners, and bounds waits by what they were meant to be.
pub(super) async fn take_back_all(connection: &mut SqliteConnection, now: Timestamp) -> Result<u64, StoreError> {
    let keys: Vec<i64> = sqlx::query_scalar(HELD_BY_ALL).fetch_all(&mut *connection).await?;
    sqlx::query("DELETE FROM runners").execute(&mut *connection).await?;
    sqlx::query(SHORTEN_WAITS).bind(now.0).execute(&mut *connection).await?;
    put_back(connection, keys, now).await
}

async fn put_back(connection: &mut SqliteConnection, keys: Vec<i64>, now: Timestamp) -> Result<u64, StoreError> {
    let keys: Vec<TaskKey> = keys.into_iter().map(TaskKey).collect();
    lost_calls::count(connection, &keys).await?;
    let taken = sqlx::query(TAKE_BACK).bind(key_list(&keys)).bind(now.0).execute(&mut *connection).await?;
    Ok(taken.rows_affected())
}
