//! Writes of runners to the tasks they hold: all of a transaction together.
//!
//! One read finds out who holds what, one script writes everything. A write whose lease is lost leaves nothing, its
//! entries of the ledger included: what it had open was charged as `unknown` when the lease was taken, and to write the
//! rows of those calls as well would charge them twice.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use sqlx::SqliteConnection;

use crate::domain::{CallId, JsonText, StepRecord, TaskKey, TaskProblem, Timestamp};
use crate::store::{Lease, OpenCall, StoreError, TaskEnd};

use super::codec::{from_json, id_text};
use super::ledger::Lists;
use super::lost_calls::{self, LOST};
use super::plan::Ids;
use super::script::{Parameters, Script};
use super::task_requests::{Deed, LeasedWrite, Reply};
use super::task_rows::{FAILURES, FailureRow, OPEN_CALLS, OpenCallRow, STEPS, bind_step, runner_text};
use super::writer::Answer;

/// The tasks of a list that run, as one text: a row for each would cost more than its columns are worth.
pub(super) const HELD: &str = "SELECT json_group_array(json_array(id, runner, epoch, tenant, trace_id, session_id, \
    key_id)) FROM tasks WHERE id IN (SELECT value FROM json_each(?)) AND status = 'running'";
pub(super) const CLOSE_ITEMS: &str = "DELETE FROM task_calls WHERE (task, position, item) IN \
    (SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?))";
pub(super) const CLOSE_CALLS: &str = "DELETE FROM task_calls WHERE call_id IN (SELECT value FROM json_each(?))";
pub(super) const EXPECT: &str =
    "UPDATE tasks SET total = j.value ->> 1 FROM json_each(?) j WHERE tasks.id = j.value ->> 0";
pub(super) const OUTPUT: &str = "INSERT INTO task_outputs (task, output) VALUES (?, ?) \
    ON CONFLICT (task) DO UPDATE SET output = excluded.output";
pub(super) const FINISH: &str = "UPDATE tasks SET status = ?, finished_at = ?, error_kind = ?, error = ?, \
    runner = NULL, wish = NULL WHERE id = ?";
/// A wish that came too late for its runner holds all the same.
pub(super) const LET_GO: &str = "UPDATE tasks SET \
    status = CASE wish WHEN 'cancel' THEN 'cancelled' WHEN 'pause' THEN 'paused' ELSE ? END, \
    finished_at = CASE wish WHEN 'cancel' THEN ? END, error_kind = ?, error = ?, ready_at = COALESCE(?, ready_at), \
    wait_us = COALESCE(?, wait_us), tries = MAX(tries - ?, 0), runner = NULL, wish = NULL WHERE id = ?";

/// A running task and who holds it.
#[derive(Debug, Deserialize)]
struct Held {
    key: i64,
    runner: String,
    epoch: u64,
    tenant: String,
    trace_id: String,
    session_id: Option<String>,
    key_id: Option<String>,
}

impl Held {
    fn is_by(&self, lease: &Lease) -> bool {
        self.epoch == lease.epoch && self.runner == runner_text(lease.runner)
    }
}

/// Applies writes in their order; the replies are in the same order. The outer error is the transaction's.
pub(super) async fn apply(
    connection: &mut SqliteConnection,
    ids: &mut Ids,
    writes: &[&LeasedWrite],
    now: Timestamp,
) -> Result<Vec<Reply>, StoreError> {
    if writes.is_empty() {
        return Ok(Vec::new());
    }
    let held = load_held(connection, writes).await?;
    let batch = Batch::of(writes, &held, now);
    let attempts = lost_calls::attempts(connection, batch.opened.keys()).await?;
    let lists = Lists::of(batch.entries.iter().flat_map(|write| &write.ledger), ids);
    let mut script = Script::new(connection);
    batch.add_to(&mut script, lists).await?;
    script.flush().await?;
    let reply = |outcome: &Outcome| match outcome {
        Outcome::Done => Ok(Answer::Done),
        Outcome::Opened(call) => Ok(Answer::Attempts(attempts.get(call).copied().unwrap_or(0))),
        Outcome::Lost(task) => Err(StoreError::LeaseLost { task: *task }),
    };
    Ok(batch.outcomes.iter().map(reply).collect())
}

async fn load_held(
    connection: &mut SqliteConnection,
    writes: &[&LeasedWrite],
) -> Result<HashMap<i64, Held>, StoreError> {
    let keys: Vec<String> = writes.iter().map(|write| write.lease.key.0.to_string()).collect();
    let json: String =
        sqlx::query_scalar(HELD).bind(format!("[{}]", keys.join(","))).fetch_one(&mut *connection).await?;
    let held: Vec<Held> = from_json("tasks", &json)?;
    Ok(held.into_iter().map(|held| (held.key, held)).collect())
}

/// What became of one write.
enum Outcome {
    Done,
    Opened(CallId),
    Lost(i64),
}

/// What all writes add and change.
#[derive(Default)]
struct Batch<'a> {
    outcomes: Vec<Outcome>,
    /// Those whose entries go into the ledger.
    entries: Vec<&'a LeasedWrite>,
    records: Vec<(TaskKey, &'a StepRecord)>,
    ended_calls: Vec<CallId>,
    opened: BTreeMap<CallId, OpenCallRow<'a>>,
    failures: Vec<FailureRow<'a>>,
    totals: BTreeMap<TaskKey, u64>,
    ends: BTreeMap<TaskKey, &'a TaskEnd>,
    now: Timestamp,
}

impl<'a> Batch<'a> {
    fn of(writes: &[&'a LeasedWrite], held: &'a HashMap<i64, Held>, now: Timestamp) -> Self {
        let mut batch = Self { now, ..Self::default() };
        for write in writes {
            let key = write.lease.key;
            let holder = held.get(&key.0).filter(|held| held.is_by(&write.lease) && !batch.ends.contains_key(&key));
            match holder {
                Some(held) => batch.take(write, held),
                None => batch.refuse(write),
            }
        }
        batch
    }

    fn refuse(&mut self, write: &LeasedWrite) {
        self.outcomes.push(Outcome::Lost(write.lease.key.0));
    }

    fn take(&mut self, write: &'a LeasedWrite, held: &'a Held) {
        let key = write.lease.key;
        self.entries.push(write);
        for call in write.ended_calls() {
            self.opened.remove(&call);
            self.ended_calls.push(call);
        }
        let mut outcome = Outcome::Done;
        match &write.deed {
            Deed::Record(record) => {
                self.opened.retain(|_, open| (open.key, open.place) != (key, (record.position, record.item)));
                self.records.push((key, record));
            }
            Deed::Failure(failure) => self.failures.push(FailureRow { key, tenant: &held.tenant, failure }),
            Deed::Open { place, call } => {
                outcome = Outcome::Opened(call.call_id);
                self.opened.insert(call.call_id, open_row(held, *place, call, self.now));
            }
            Deed::Expect(total) => drop(self.totals.insert(key, *total)),
            Deed::End(end, failure) => {
                let row = |failure| FailureRow { key, tenant: &held.tenant, failure };
                self.failures.extend(failure.as_deref().map(row));
                self.ends.insert(key, end);
            }
        }
        self.outcomes.push(outcome);
    }

    async fn add_to(&self, script: &mut Script<'_>, lists: Lists<'_>) -> Result<(), StoreError> {
        let closed: Vec<CallId> = self.ended_calls.iter().chain(self.opened.keys()).copied().collect();
        let opened: Vec<&OpenCallRow<'_>> = self.opened.values().collect();
        script.insert(&STEPS, &self.records, bind_step).await?;
        script.list(CLOSE_ITEMS, &self.records, |(key, record)| {
            format!("[{},{},{}]", key.0, record.position, record.item)
        });
        script.list(CLOSE_CALLS, &closed, |call| format!("\"{}\"", id_text("cal_", &call.0)));
        script.insert(&OPEN_CALLS, &opened, |row, to| row.bind(to)).await?;
        script.insert(&FAILURES, &self.failures, FailureRow::bind).await?;
        lists.add_to(script).await?;
        let totals: Vec<(&TaskKey, &u64)> = self.totals.iter().collect();
        script.list(EXPECT, &totals, |(key, total)| format!("[{},{}]", key.0, (**total).min(i64::MAX as u64)));
        let ended: Vec<TaskKey> = self.ends.keys().copied().collect();
        for sql in LOST {
            script.list(sql, &ended, |key| key.0.to_string());
        }
        for (key, end) in &self.ends {
            // Several leave one by one: a script for each number of them would not stay prepared.
            if self.ends.len() > 1 {
                script.flush().await?;
            }
            add_end(script, *key, end, self.now);
        }
        Ok(())
    }
}

fn open_row<'a>(held: &'a Held, place: (u32, u32), call: &'a OpenCall, opened_at: Timestamp) -> OpenCallRow<'a> {
    OpenCallRow {
        call,
        key: TaskKey(held.key),
        place,
        tenant: &held.tenant,
        trace_id: &held.trace_id,
        session_id: held.session_id.as_deref(),
        key_id: held.key_id.as_deref(),
        opened_at,
    }
}

fn add_end(script: &mut Script<'_>, key: TaskKey, end: &TaskEnd, now: Timestamp) {
    match end {
        TaskEnd::Succeeded { output } => {
            add_output(script, key, output);
            add_finish(script, key, ("succeeded", None), now);
        }
        TaskEnd::Failed { problem } => add_finish(script, key, ("failed", Some(problem)), now),
        TaskEnd::Cancelled => add_finish(script, key, ("cancelled", None), now),
        TaskEnd::Retry { problem, wait_us } => {
            let (ready_at, wait_us) = ready_after(now, *wait_us);
            script.add(LET_GO, |to| {
                to.add("waiting").add(now.0);
                bind_problem(Some(problem), to);
                to.add(ready_at.0).add(wait_us).add(0).add(key.0);
            });
        }
        TaskEnd::Paused => add_let_go(script, key, ("paused", 0), now),
        TaskEnd::Released => add_let_go(script, key, ("queued", 1), now),
    }
}

fn add_output(script: &mut Script<'_>, key: TaskKey, output: &JsonText) {
    script.add(OUTPUT, |to| {
        to.add(key.0).add(output.as_str());
    });
}

fn add_finish(script: &mut Script<'_>, key: TaskKey, (status, problem): (&str, Option<&TaskProblem>), now: Timestamp) {
    script.add(FINISH, |to| {
        to.add(status).add(now.0);
        bind_problem(problem, to);
        to.add(key.0);
    });
}

// `untried`: how many claims do not count.
fn add_let_go(script: &mut Script<'_>, key: TaskKey, (status, untried): (&str, i64), now: Timestamp) {
    script.add(LET_GO, |to| {
        to.add(status).add(now.0);
        bind_problem(None, to);
        to.add(None::<i64>).add(None::<i64>).add(untried).add(key.0);
    });
}

fn bind_problem(problem: Option<&TaskProblem>, to: &mut Parameters) {
    to.add(problem.map(|problem| problem.kind.as_str())).add(problem.map(|problem| problem.detail.as_str()));
}

/// When a wait ends, and how long it is.
pub(super) fn ready_after(now: Timestamp, wait_us: u64) -> (Timestamp, i64) {
    let wait_us = i64::try_from(wait_us).unwrap_or(i64::MAX);
    (Timestamp(now.0.saturating_add(wait_us)), wait_us)
}
