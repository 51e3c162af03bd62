//! The rows of tasks, as they are bound and as they are read back.
//!
//! Each table has one list of columns for both ways; binding and reading go through it from left to right.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use sqlx::sqlite::SqliteRow;

use crate::domain::{
    ErrorKind, JsonText, Permission, Principal, RunnerId, StepName, StepRecord, Task, TaskFailure, TaskKey,
    TaskProblem, TaskStatus, TenantScope, Timestamp, Visibility, Wish,
};
use crate::store::{OpenCall, StoreError};

use super::codec::{Columns, damaged, from_json, from_text, id_text, to_json};
use super::ledger_rows::{bind_prompt, take_prompt, word};
use super::script::{Insert, Parameters};

// What `read_task` reads, from `tasks t` with its `task_inputs i`.
macro_rules! task_columns {
    () => {
        "t.id, t.task_id, t.run, t.kind, t.tenant, t.principals, t.permissions, t.key_id, t.status, t.prompt_name, \
         t.prompt_version, t.prompt_hash, t.model, t.forked_from, t.priority, t.tries, t.epoch, t.wish, t.error_kind, \
         t.error, (SELECT COUNT(*) FROM task_steps s WHERE s.task = t.id), t.total, t.session_id, t.trace_id, \
         t.created_at, t.ready_at, t.started_at, t.finished_at, i.overrides"
    };
}
// Tasks with everything; `$which` is a condition.
macro_rules! whole_task {
    ($which:literal) => {
        concat!(
            "SELECT ",
            task_columns!(),
            ", i.input, o.output FROM tasks t JOIN task_inputs i ON i.task = t.id \
             LEFT JOIN task_outputs o ON o.task = t.id WHERE ",
            $which
        )
    };
}
macro_rules! step_columns {
    () => {
        "position, step, item, items, attempt, started_at, finished_at, input_hash, input, output"
    };
}
macro_rules! failure_columns {
    () => {
        "task_id, run, kind, step, item, input_hash, error_kind, error, model, prompt_version, trace_id, attempt, \
         is_final, at"
    };
}
pub(super) use {failure_columns, step_columns, task_columns, whole_task};

/// A task with everything, by its row.
pub(super) const TASK: &str = whole_task!("t.id = $1");

/// What [`whole_task!`] selects.
pub(super) fn read_whole_task(row: &SqliteRow) -> Result<Task, StoreError> {
    let mut columns = Columns::of(row);
    let mut task = take_task(&mut columns)?;
    task.input = JsonText::from_stored(columns.take()?);
    task.output = columns.take::<Option<String>>()?.map(JsonText::from_stored);
    Ok(task)
}

/// What [`task_columns!`] selects: input and output are left empty.
pub(super) fn read_task(row: &SqliteRow) -> Result<Task, StoreError> {
    take_task(&mut Columns::of(row))
}

fn take_task(columns: &mut Columns<'_>) -> Result<Task, StoreError> {
    Ok(Task {
        key: TaskKey(columns.take()?),
        id: from_text("tasks.task_id", columns.take()?)?,
        run: take_number(columns)?,
        kind: from_text("tasks.kind", columns.take()?)?,
        scope: take_scope(columns)?,
        status: word(TaskStatus::from_word, "tasks.status", columns.take()?)?,
        input: JsonText::of_value(&serde_json::Value::Null),
        prompt: take_prompt(columns)?,
        model: columns.take()?,
        forked_from: columns.take::<Option<&str>>()?.map(|text| from_text("tasks.forked_from", text)).transpose()?,
        priority: columns.take()?,
        tries: take_number(columns)?,
        epoch: columns.unsigned()?,
        wish: columns.take::<Option<&str>>()?.map(|text| word(Wish::from_word, "tasks.wish", text)).transpose()?,
        output: None,
        problem: take_problem(columns)?,
        done: columns.unsigned()?,
        total: columns.take::<Option<i64>>()?.map(i64::unsigned_abs),
        session_id: columns.take()?,
        trace_id: from_text("tasks.trace_id", columns.take()?)?,
        created_at: Timestamp(columns.take()?),
        ready_at: Timestamp(columns.take()?),
        started_at: columns.take::<Option<i64>>()?.map(Timestamp),
        finished_at: columns.take::<Option<i64>>()?.map(Timestamp),
        overrides: overrides_from_text(columns.take()?)?,
    })
}

fn take_scope(columns: &mut Columns<'_>) -> Result<TenantScope, StoreError> {
    let tenant = from_text("tasks.tenant", columns.take()?)?;
    let principals: Option<&str> = columns.take()?;
    let visibility = match principals {
        None => Visibility::All,
        Some(json) => Visibility::Principals(from_json::<BTreeSet<Principal>>("tasks.principals", json)?),
    };
    let permissions: BTreeSet<Permission> = from_json("tasks.permissions", columns.take()?)?;
    Ok(TenantScope { tenant, visibility, permissions, key_id: columns.take::<Option<String>>()?.map(Arc::from) })
}

/// The kind of an error and its sentence; both or none.
pub(super) fn take_problem(columns: &mut Columns<'_>) -> Result<Option<TaskProblem>, StoreError> {
    let (kind, detail): (Option<&str>, Option<String>) = (columns.take()?, columns.take()?);
    let kind = kind.map(|kind| word(ErrorKind::from_word, "tasks.error_kind", kind)).transpose()?;
    Ok(kind.zip(detail).map(|(kind, detail)| TaskProblem { kind, detail }))
}

/// A number from a counter of 32 bits.
pub(super) fn take_number(columns: &mut Columns<'_>) -> Result<u32, StoreError> {
    u32::try_from(columns.unsigned()?).map_err(|_| damaged("a number", "it has more than 32 bits"))
}

// Each input as text inside the text: read back as a value, its numbers might differ in their last digit.
pub(super) fn overrides_to_text(overrides: &BTreeMap<StepName, JsonText>) -> String {
    to_json(&overrides.iter().map(|(step, input)| (step.as_str(), input.as_str())).collect::<BTreeMap<_, _>>())
}

fn overrides_from_text(json: &str) -> Result<BTreeMap<StepName, JsonText>, StoreError> {
    let inputs: BTreeMap<StepName, String> = from_json("task_inputs.overrides", json)?;
    Ok(inputs.into_iter().map(|(step, input)| (step, JsonText::from_stored(input))).collect())
}

/// A runner's name in the database.
pub(super) fn runner_text(runner: RunnerId) -> String {
    id_text("run_", &runner.0)
}

/// An item that is recorded again stands in place of what it was.
pub(super) static STEPS: LazyLock<Insert> = LazyLock::new(|| {
    let set = step_columns!().split(", ").map(|column| format!("{column} = excluded.{column}, ")).collect::<String>();
    let conflict = format!("ON CONFLICT (task, step, item) DO UPDATE SET {set}is_copy = 0");
    Insert::steady("task_steps", concat!("task, ", step_columns!()), &conflict)
});
pub(super) static FAILURES: LazyLock<Insert> =
    LazyLock::new(|| Insert::steady("task_failures", concat!("task, tenant, ", failure_columns!()), ""));
pub(super) static OPEN_CALLS: LazyLock<Insert> = LazyLock::new(|| {
    let columns = "call_id, task, position, item, tenant, trace_id, session_id, key_id, purpose, provider, model, \
         prompt_name, prompt_version, prompt_hash, opened_at, input_tokens, output_tokens, cost_nanousd";
    Insert::steady("task_calls", columns, "ON CONFLICT (call_id) DO NOTHING")
});

pub(super) fn bind_step((key, record): &(TaskKey, &StepRecord), to: &mut Parameters) {
    to.add(key.0).add(i64::from(record.position)).add(record.step.as_str()).add(i64::from(record.item));
    to.add(i64::from(record.of)).add(i64::from(record.attempt));
    to.add(record.started_at.0).add(record.finished_at.0).add(id_text("", &record.input_hash.0));
    to.add(record.input.as_str()).add(record.output.as_str());
}

/// What [`step_columns!`] selects.
pub(super) fn read_step(row: &SqliteRow) -> Result<StepRecord, StoreError> {
    let mut columns = Columns::of(row);
    Ok(StepRecord {
        position: take_number(&mut columns)?,
        step: from_text("task_steps.step", columns.take()?)?,
        item: take_number(&mut columns)?,
        of: take_number(&mut columns)?,
        attempt: take_number(&mut columns)?,
        started_at: Timestamp(columns.take()?),
        finished_at: Timestamp(columns.take()?),
        input_hash: from_text("task_steps.input_hash", columns.take()?)?,
        input: JsonText::from_stored(columns.take()?),
        output: JsonText::from_stored(columns.take()?),
    })
}

/// A failure of a task that is held.
pub(super) struct FailureRow<'a> {
    pub key: TaskKey,
    pub tenant: &'a str,
    pub failure: &'a TaskFailure,
}

impl FailureRow<'_> {
    pub(super) fn bind(&self, to: &mut Parameters) {
        let failure = self.failure;
        to.add(self.key.0).add(self.tenant).add(id_text("tsk_", &failure.task_id.0)).add(i64::from(failure.run));
        to.add(failure.kind.as_str()).add(failure.step.as_ref().map(StepName::as_str));
        to.add(failure.item.map(i64::from)).add(failure.input_hash.map(|hash| id_text("", &hash.0)));
        to.add(failure.problem.kind.as_str()).add(failure.problem.detail.as_str());
        to.add(failure.model.as_deref()).add(failure.prompt_version.as_deref());
        to.add(id_text("", &failure.trace_id.0)).add(i64::from(failure.attempt));
        to.add(i64::from(failure.is_final)).add(failure.at.0);
    }
}

/// What [`failure_columns!`] selects.
pub(super) fn read_failure(row: &SqliteRow) -> Result<TaskFailure, StoreError> {
    let mut columns = Columns::of(row);
    let columns = &mut columns;
    let task_id = from_text("task_failures.task_id", columns.take()?)?;
    let run = take_number(columns)?;
    let kind = from_text("task_failures.kind", columns.take()?)?;
    let step: Option<&str> = columns.take()?;
    let item: Option<u32> = columns.take()?;
    let input_hash: Option<&str> = columns.take()?;
    let problem = take_problem(columns)?.ok_or_else(|| damaged("task_failures.error", "it is missing"))?;
    Ok(TaskFailure {
        task_id,
        run,
        kind,
        step: step.map(|step| from_text("task_failures.step", step)).transpose()?,
        item,
        input_hash: input_hash.map(|hash| from_text("task_failures.input_hash", hash)).transpose()?,
        problem,
        model: columns.take()?,
        prompt_version: columns.take()?,
        trace_id: from_text("task_failures.trace_id", columns.take()?)?,
        attempt: take_number(columns)?,
        is_final: columns.take()?,
        at: Timestamp(columns.take()?),
    })
}

/// A call that is about to be made, with what its task says about it.
pub(super) struct OpenCallRow<'a> {
    pub call: &'a OpenCall,
    pub key: TaskKey,
    /// Of the step, and the item.
    pub place: (u32, u32),
    pub tenant: &'a str,
    pub trace_id: &'a str,
    pub session_id: Option<&'a str>,
    pub key_id: Option<&'a str>,
    pub opened_at: Timestamp,
}

impl OpenCallRow<'_> {
    pub(super) fn bind(&self, to: &mut Parameters) {
        let call = self.call;
        to.add(id_text("cal_", &call.call_id.0)).add(self.key.0);
        to.add(i64::from(self.place.0)).add(i64::from(self.place.1));
        to.add(self.tenant).add(self.trace_id).add(self.session_id).add(self.key_id);
        to.add(call.task.as_str()).add(call.provider.as_str()).add(call.model.as_str());
        bind_prompt(call.prompt.as_ref(), to);
        to.add(self.opened_at.0).add_saturated(call.input_tokens).add_saturated(call.output_tokens);
        to.add_saturated(call.worst_case.cost.0);
    }
}
