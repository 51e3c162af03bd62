//! What is read about tasks on behalf of those who asked for them.

use std::collections::HashMap;

use sqlx::SqliteConnection;

use crate::domain::{
    ContentHash, FailureDay, Sequence, StepName, StepRecord, StepSummary, Task, TaskFailure, TaskId, TaskKey, TaskKind,
    TaskProblem, TaskStatus, TenantId, TenantScope, Timestamp, visibility_text,
};
use crate::store::{EarlierWrote, Page, StoreError, TaskFilter};

use super::codec::{Columns, bytes_from_hex, damaged, from_text};
use super::cursor;
use super::task_rows::{
    failure_columns, read_failure, read_step, read_task, read_whole_task, step_columns, take_number, take_problem,
    task_columns, whole_task,
};
use super::task_submits;

const DAY_US: i64 = 86_400_000_000;

const RUN: &str = whole_task!("t.tenant = $1 AND t.task_id = $2 AND t.run = $4 AND ($3 IS NULL OR t.principals IS $3)");

macro_rules! listing {
    ($which:literal) => {
        concat!(
            "SELECT ",
            task_columns!(),
            " FROM tasks t JOIN task_inputs i ON i.task = t.id WHERE t.is_latest = 1 AND t.tenant = $1 AND t.id < $2 \
             AND ($3 IS NULL OR t.principals IS $3) AND ",
            $which,
            " ORDER BY t.id DESC LIMIT $6"
        )
    };
}
// One for each index.
const LIST: &str = listing!("$4 IS NULL AND $5 IS NULL");
const LIST_OF_KIND: &str = listing!("$4 IS NULL AND t.kind = $5");
const LIST_OF_STATUS: &str = listing!("t.status = $4 AND ($5 IS NULL OR t.kind = $5)");

const STEPS: &str = "SELECT step, MIN(position), COUNT(*), MAX(items), SUM(attempt), MIN(started_at), \
    MAX(finished_at), group_concat(input_hash, '' ORDER BY item) FROM task_steps WHERE task = $1 GROUP BY step";
// Of a failed item that was recorded since, the record's number is the higher one. What stands beside the one MAX is
// SQLite's: from the row with the maximum.
const STANDING_FAILURES: &str = "SELECT f.step, f.error_kind, f.error, COUNT(*), COUNT(DISTINCT f.item), MAX(f.id) \
    FROM task_failures f LEFT JOIN task_steps s ON s.task = f.task AND s.step = f.step AND s.item = f.item \
    WHERE f.task = $1 AND f.step IS NOT NULL AND (s.id IS NULL OR s.is_copy = 1 OR f.attempt >= s.attempt) \
    GROUP BY f.step ORDER BY 6";
const ITEMS: &str = concat!(
    "SELECT ",
    step_columns!(),
    " FROM task_steps WHERE task = $1 AND step = $2 AND item >= $3 ORDER BY item LIMIT $4"
);
const FAILURES: &str =
    concat!("SELECT ", failure_columns!(), " FROM task_failures WHERE task = $1 ORDER BY id DESC LIMIT $2");
const DAYS: &str = "SELECT day, kind, SUM(succeeded), SUM(failed), SUM(failures) FROM (\
    SELECT date(finished_at / 1000000, 'unixepoch') AS day, kind, status = 'succeeded' AS succeeded, \
        status = 'failed' AS failed, 0 AS failures FROM tasks \
        WHERE finished_at >= $1 AND status IN ('succeeded', 'failed') AND ($2 IS NULL OR tenant = $2) \
    UNION ALL SELECT date(at / 1000000, 'unixepoch'), kind, 0, 0, 1 FROM task_failures \
        WHERE at >= $1 AND ($2 IS NULL OR tenant = $2)\
    ) GROUP BY day, kind ORDER BY day DESC, kind";

// Those that had ended before this one was put in line wrote what it saw then.
const EARLIER_WROTE: &str = "SELECT EXISTS (SELECT 1 FROM tasks t JOIN task_steps s ON s.task = t.id \
    WHERE t.is_latest = 1 AND t.tenant = $1 AND t.kind = $2 AND t.id < $3 \
    AND (t.finished_at IS NULL OR t.finished_at >= $4) AND s.output ->> 'sequence' = $5)";
const EARLIER_RUNS: &str = "SELECT EXISTS (SELECT 1 FROM tasks \
    WHERE is_latest = 1 AND tenant = $1 AND kind = $2 AND id < $3 AND status = 'running')";

/// The statements of this file.
#[cfg(test)]
pub(super) const READS: [&str; 11] = [
    EARLIER_WROTE,
    EARLIER_RUNS,
    RUN,
    LIST,
    LIST_OF_KIND,
    LIST_OF_STATUS,
    STEPS,
    STANDING_FAILURES,
    ITEMS,
    FAILURES,
    DAYS,
];

/// See [`crate::store::TaskStore::earlier_wrote`].
pub(super) async fn earlier_wrote(
    connection: &mut SqliteConnection,
    task: &Task,
    sequence: Sequence,
) -> Result<EarlierWrote, StoreError> {
    let of = |sql: &'static str| {
        sqlx::query_scalar::<_, bool>(sql).bind(task.scope.tenant.as_str()).bind(task.kind.as_str()).bind(task.key.0)
    };
    // Asked first: what it records between the two questions is then seen by the second.
    let runs = of(EARLIER_RUNS).fetch_one(&mut *connection).await?;
    let wrote = of(EARLIER_WROTE).bind(task.created_at.0).bind(i64::try_from(sequence.0).unwrap_or(i64::MAX));
    Ok(match (wrote.fetch_one(&mut *connection).await?, runs) {
        (true, _) => EarlierWrote::Yes,
        (false, true) => EarlierWrote::Perhaps,
        (false, false) => EarlierWrote::No,
    })
}

/// A run, the newest if no number is given.
pub(super) async fn task(
    connection: &mut SqliteConnection,
    scope: &TenantScope,
    (id, run): (TaskId, Option<u32>),
) -> Result<Option<Task>, StoreError> {
    let Some(run) = run else { return task_submits::newest(connection, scope, id).await };
    let query = sqlx::query(RUN).bind(scope.tenant.as_str()).bind(id.to_string());
    let row = query.bind(visibility_text(&scope.visibility)).bind(run).fetch_optional(&mut *connection).await?;
    row.as_ref().map(read_whole_task).transpose()
}

/// A page of newest runs, newest first.
pub(super) async fn tasks(
    connection: &mut SqliteConnection,
    scope: &TenantScope,
    filter: &TaskFilter,
    (cursor, limit): (Option<&str>, usize),
) -> Result<Page<Task>, StoreError> {
    let (status, kind) = (filter.status.map(TaskStatus::as_str), filter.kind.as_ref().map(TaskKind::as_str));
    // No collection has a space in its name.
    let listing = format!("tasks {} {}", status.unwrap_or("*"), kind.unwrap_or("*"));
    let before = match cursor {
        None => i64::MAX,
        Some(cursor) => from_text("a cursor", &cursor::decode(&scope.tenant, &listing, cursor)?)?,
    };
    let sql = match (status, kind) {
        (Some(_), _) => LIST_OF_STATUS,
        (None, Some(_)) => LIST_OF_KIND,
        (None, None) => LIST,
    };
    // One more than asked for tells whether there is another page.
    let rows = sqlx::query(sql)
        .bind(scope.tenant.as_str())
        .bind(before)
        .bind(visibility_text(&scope.visibility))
        .bind(status)
        .bind(kind)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1))
        .fetch_all(&mut *connection)
        .await?;
    let items: Vec<Task> = rows.iter().take(limit).map(read_task).collect::<Result<_, _>>()?;
    let last = items.last().filter(|_| rows.len() > limit);
    let next = last.map(|last| cursor::encode(&scope.tenant, &listing, &last.key.0.to_string()));
    Ok(Page { items, next })
}

/// Steps of which something is recorded or has failed, by place.
///
/// Where a step of which nothing is recorded stands is not known: it comes behind the others.
pub(super) async fn steps(connection: &mut SqliteConnection, key: TaskKey) -> Result<Vec<StepSummary>, StoreError> {
    let mut steps = Vec::new();
    for row in &sqlx::query(STEPS).bind(key.0).fetch_all(&mut *connection).await? {
        steps.push(take_step(&mut Columns::of(row))?);
    }
    steps.sort_by_key(|step: &StepSummary| step.position);
    let places: HashMap<StepName, usize> = (0..).zip(&steps).map(|(at, step)| (step.step.clone(), at)).collect();
    for row in &sqlx::query(STANDING_FAILURES).bind(key.0).fetch_all(&mut *connection).await? {
        let failed = take_failed(&mut Columns::of(row))?;
        match places.get(&failed.step) {
            Some(at) => {
                steps[*at].attempts = steps[*at].attempts.saturating_add(failed.attempts);
                steps[*at].problem = Some(failed.problem);
            }
            None => steps.push(StepSummary {
                step: failed.step,
                position: steps.last().map_or(0, |last| last.position.saturating_add(1)),
                done: 0,
                of: failed.items,
                attempts: failed.attempts,
                input_hash: None,
                started_at: None,
                finished_at: None,
                problem: Some(failed.problem),
            }),
        }
    }
    Ok(steps)
}

fn take_step(columns: &mut Columns<'_>) -> Result<StepSummary, StoreError> {
    let step = from_text("task_steps.step", columns.take()?)?;
    let position = take_number(columns)?;
    let (done, of) = (take_number(columns)?, take_number(columns)?);
    let attempts = u32::try_from(columns.unsigned()?).unwrap_or(u32::MAX);
    let (started_at, finished_at) = (Timestamp(columns.take()?), Timestamp(columns.take()?));
    let hashes = bytes_from_hex(columns.take()?).ok_or_else(|| damaged("task_steps.input_hash", "it is no hash"))?;
    let of_one: Option<[u8; 32]> = hashes.as_slice().try_into().ok().filter(|_| of == 1);
    Ok(StepSummary {
        step,
        position,
        done,
        of,
        attempts,
        input_hash: Some(of_one.map_or_else(|| ContentHash::of(&hashes), ContentHash)),
        started_at: Some(started_at),
        finished_at: (done >= of).then_some(finished_at),
        problem: None,
    })
}

/// Failures of a step that no record has made good.
struct Failed {
    step: StepName,
    problem: TaskProblem,
    attempts: u32,
    items: u32,
}

fn take_failed(columns: &mut Columns<'_>) -> Result<Failed, StoreError> {
    let step = from_text("task_failures.step", columns.take()?)?;
    let problem = take_problem(columns)?.ok_or_else(|| damaged("task_failures.error", "it is missing"))?;
    Ok(Failed { step, problem, attempts: take_number(columns)?, items: take_number(columns)?.max(1) })
}

/// Recorded items of a step, from an item on.
pub(super) async fn items(
    connection: &mut SqliteConnection,
    key: TaskKey,
    step: &StepName,
    (from, limit): (u32, usize),
) -> Result<Vec<StepRecord>, StoreError> {
    let query = sqlx::query(ITEMS).bind(key.0).bind(step.as_str()).bind(from);
    let rows = query.bind(i64::try_from(limit).unwrap_or(i64::MAX)).fetch_all(&mut *connection).await?;
    rows.iter().map(read_step).collect()
}

/// The last failed attempts of a run, oldest first.
pub(super) async fn failures(
    connection: &mut SqliteConnection,
    key: TaskKey,
    limit: usize,
) -> Result<Vec<TaskFailure>, StoreError> {
    let query = sqlx::query(FAILURES).bind(key.0).bind(i64::try_from(limit).unwrap_or(i64::MAX));
    let rows = query.fetch_all(&mut *connection).await?;
    rows.iter().rev().map(read_failure).collect()
}

/// Days from that of `since` on, newest first, of one tenant or of all: what the view `task_days` says, but by an index.
pub(super) async fn failure_days(
    connection: &mut SqliteConnection,
    tenant: Option<&TenantId>,
    since: Timestamp,
) -> Result<Vec<FailureDay>, StoreError> {
    let midnight = since.0.div_euclid(DAY_US).saturating_mul(DAY_US);
    let query = sqlx::query(DAYS).bind(midnight).bind(tenant.map(TenantId::as_str));
    let rows = query.fetch_all(&mut *connection).await?;
    let mut days = Vec::with_capacity(rows.len());
    for row in &rows {
        let mut columns = Columns::of(row);
        days.push(FailureDay {
            day: columns.take()?,
            kind: from_text("tasks.kind", columns.take()?)?,
            succeeded: columns.unsigned()?,
            failed: columns.unsigned()?,
            failures: columns.unsigned()?,
        });
    }
    Ok(days)
}
