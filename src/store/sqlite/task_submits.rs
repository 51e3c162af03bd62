//! How tasks come into being, and how they go.

use sqlx::SqliteConnection;

use crate::domain::{Task, TaskId, TaskKey, TenantScope, Timestamp, visibility_text};
use crate::store::{Fork, NewTask, Rerun, StoreError, Submitted};

use super::codec::{id_text, to_json};
use super::script::Script;
use super::task_requests::Reply;
use super::task_rows::{TASK, overrides_to_text, read_whole_task, task_columns, whole_task};
use super::task_writes::ready_after;
use super::writer::Answer;

/// Most tasks, or rows of their steps, that one transaction removes: some ten milliseconds in which others wait.
const FORGET_AT_ONCE: i64 = 1_000;

/// The newest run of a task that the caller sees.
pub(super) const NEWEST: &str =
    whole_task!("t.tenant = $1 AND t.task_id = $2 AND t.is_latest = 1 AND ($3 IS NULL OR t.principals IS $3)");
pub(super) const OPEN_COUNT: &str = "SELECT COALESCE(SUM(number), 0) FROM task_counts \
    WHERE status IN ('queued', 'waiting', 'running') AND tenant = $1";
// The number goes on where runs of a task are left whose newest has been removed.
pub(super) const INSERT: &str = "INSERT INTO tasks (task_id, run, is_latest, tenant, kind, status, principals, \
    permissions, key_id, priority, tries, done_at_claim, epoch, total, prompt_name, prompt_version, prompt_hash, model, \
    forked_from, session_id, trace_id, created_at, ready_at, wait_us) VALUES ($1, 1 + COALESCE((SELECT MAX(run) \
    FROM tasks WHERE tenant = $2 AND task_id = $1), 0), 1, $2, $3, $4, $5, $6, $7, $8, 0, 0, 0, $9, $10, $11, $12, \
    $13, $14, $15, $16, $17, $18, $19) RETURNING id";
const INSERT_INPUTS: &str = "INSERT INTO task_inputs (task, overrides, input) VALUES (?, ?, ?)";
/// Steps of another task, if it is the same tenant's.
pub(super) const TAKE_OVER: &str = "INSERT INTO task_steps (task, position, step, item, items, attempt, is_copy, \
    started_at, finished_at, input_hash, input, output) SELECT ?, position, step, item, items, attempt, 1, started_at, \
    finished_at, input_hash, input, output FROM task_steps s WHERE s.task = ? AND s.position < ? \
    AND EXISTS (SELECT 1 FROM tasks t WHERE t.id = s.task AND t.tenant = ?)";
pub(super) const RETIRE: &str = "UPDATE tasks SET is_latest = 0 WHERE id = $1";
pub(super) const INSERT_RERUN: &str = "INSERT INTO tasks (task_id, run, is_latest, tenant, kind, status, principals, \
    permissions, key_id, priority, tries, done_at_claim, epoch, total, prompt_name, prompt_version, prompt_hash, model, \
    forked_from, session_id, trace_id, created_at, ready_at, wait_us) SELECT task_id, run + 1, 1, tenant, kind, \
    'queued', principals, permissions, key_id, priority, 0, 0, 0, total, prompt_name, prompt_version, prompt_hash, \
    model, forked_from, session_id, $2, $3, $3, 0 FROM tasks WHERE id = $1 RETURNING id";
pub(super) const COPY_INPUTS: &str =
    "INSERT INTO task_inputs (task, overrides, input) SELECT ?, overrides, input FROM task_inputs WHERE task = ?";

/// Puts a task in line unless it is there.
pub(super) async fn submit(
    connection: &mut SqliteConnection,
    scope: &TenantScope,
    new: &NewTask,
    now: Timestamp,
) -> Result<Reply, StoreError> {
    if let Some(task) = newest(connection, scope, new.id).await? {
        return Ok(Ok(Answer::Submitted(Box::new(Submitted { task, is_new: false }))));
    }
    if is_full(connection, scope, new.max_open).await? {
        return Ok(Err(StoreError::TooManyTasks { limit: new.max_open }));
    }
    let key = insert(connection, scope, new, now).await?;
    let task = by_key(connection, key).await?;
    Ok(Ok(Answer::Submitted(Box::new(Submitted { task, is_new: true }))))
}

async fn insert(
    connection: &mut SqliteConnection,
    scope: &TenantScope,
    new: &NewTask,
    now: Timestamp,
) -> Result<TaskKey, StoreError> {
    let (ready_at, wait_us) = ready_after(now, new.wait_us);
    let prompt = new.prompt.as_ref();
    let id: i64 = sqlx::query_scalar(INSERT)
        .bind(new.id.to_string())
        .bind(scope.tenant.as_str())
        .bind(new.kind.as_str())
        .bind(if wait_us > 0 { "waiting" } else { "queued" })
        .bind(visibility_text(&scope.visibility))
        .bind(to_json(&scope.permissions))
        .bind(scope.key_id.as_deref())
        .bind(new.priority)
        .bind(new.total.map(|total| i64::try_from(total).unwrap_or(i64::MAX)))
        .bind(prompt.map(|prompt| prompt.name.as_str()))
        .bind(prompt.map(|prompt| prompt.version.as_str()))
        .bind(prompt.map(|prompt| prompt.hash.as_str()))
        .bind(new.model.as_deref())
        .bind(new.fork.as_ref().map(|fork| fork.of_id.to_string()))
        .bind(new.session_id.as_deref())
        .bind(id_text("", &new.trace_id.0))
        .bind(now.0)
        .bind(ready_at.0)
        .bind(wait_us)
        .fetch_one(&mut *connection)
        .await?;
    let mut script = Script::new(connection);
    script.add(INSERT_INPUTS, |to| {
        let overrides = new.fork.as_ref().map(|fork| overrides_to_text(&fork.overrides));
        to.add(id).add(overrides.unwrap_or_else(|| "{}".to_owned())).add(new.input.as_str());
    });
    if let Some(Fork { of, before, .. }) = &new.fork {
        add_take_over(&mut script, (TaskKey(id), *of), Some(*before), scope);
    }
    script.flush().await?;
    Ok(TaskKey(id))
}

async fn is_full(connection: &mut SqliteConnection, scope: &TenantScope, max_open: usize) -> Result<bool, StoreError> {
    let open: i64 = sqlx::query_scalar(OPEN_COUNT).bind(scope.tenant.as_str()).fetch_one(&mut *connection).await?;
    Ok(usize::try_from(open).is_ok_and(|open| open >= max_open))
}

fn add_take_over(script: &mut Script<'_>, (key, of): (TaskKey, TaskKey), before: Option<u32>, scope: &TenantScope) {
    script.add(TAKE_OVER, |to| {
        to.add(key.0).add(of.0).add(before.map_or(i64::MAX, i64::from)).add(scope.tenant.as_str());
    });
}

/// Makes another run of a task whose newest has ended.
pub(super) async fn rerun(
    connection: &mut SqliteConnection,
    scope: &TenantScope,
    (id, rerun): (TaskId, &Rerun),
    now: Timestamp,
) -> Result<Reply, StoreError> {
    let Some(old) = newest(connection, scope, id).await? else { return Ok(Ok(Answer::Task(None))) };
    if !old.status.is_ended() {
        return Ok(Err(StoreError::NotEnded { task: id }));
    }
    if is_full(connection, scope, rerun.max_open).await? {
        return Ok(Err(StoreError::TooManyTasks { limit: rerun.max_open }));
    }
    sqlx::query(RETIRE).bind(old.key.0).execute(&mut *connection).await?;
    let trace_id = id_text("", &rerun.trace_id.0);
    let inserted = sqlx::query_scalar(INSERT_RERUN).bind(old.key.0).bind(trace_id).bind(now.0);
    let key = TaskKey(inserted.fetch_one(&mut *connection).await?);
    let mut script = Script::new(connection);
    script.add(COPY_INPUTS, |to| {
        to.add(key.0).add(old.key.0);
    });
    add_take_over(&mut script, (key, old.key), rerun.before, scope);
    script.flush().await?;
    Ok(Ok(Answer::Task(Some(Box::new(by_key(connection, key).await?)))))
}

/// The newest run, if the caller sees it.
pub(super) async fn newest(
    connection: &mut SqliteConnection,
    scope: &TenantScope,
    id: TaskId,
) -> Result<Option<Task>, StoreError> {
    let query = sqlx::query(NEWEST).bind(scope.tenant.as_str()).bind(id.to_string());
    let row = query.bind(visibility_text(&scope.visibility)).fetch_optional(&mut *connection).await?;
    row.as_ref().map(read_whole_task).transpose()
}

/// A run that is there.
pub(super) async fn by_key(connection: &mut SqliteConnection, key: TaskKey) -> Result<Task, StoreError> {
    read_whole_task(&sqlx::query(TASK).bind(key.0).fetch_one(&mut *connection).await?)
}

// The same choice of runs each time, since nothing else writes in between.
macro_rules! ended_runs {
    () => {
        "(SELECT id FROM tasks WHERE finished_at < $1 ORDER BY finished_at LIMIT $2)"
    };
}
pub(super) const FORGET_STEPS: &str = concat!(
    "DELETE FROM task_steps WHERE id IN (SELECT id FROM task_steps WHERE task IN ",
    ended_runs!(),
    " LIMIT $2)"
);
pub(super) const FORGET_RUNS: &str = concat!("DELETE FROM tasks WHERE id IN ", ended_runs!());

/// Removes a part of the runs that ended before `before`; their steps first, since one run may have ten thousand.
pub(super) async fn forget(connection: &mut SqliteConnection, before: Timestamp) -> Result<Answer, StoreError> {
    let mut removed = [0; 2];
    for (sql, removed) in [FORGET_STEPS, FORGET_RUNS].into_iter().zip(&mut removed) {
        let done = sqlx::query(sql).bind(before.0).bind(FORGET_AT_ONCE).execute(&mut *connection).await?;
        *removed = done.rows_affected();
        if *removed >= FORGET_AT_ONCE as u64 {
            break;
        }
    }
    let [steps, runs] = removed;
    Ok(Answer::Forgotten { runs, is_all: steps.max(runs) < FORGET_AT_ONCE as u64 })
}
