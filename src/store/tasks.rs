//! The contract of durable work, split by who asks: callers have a scope, runners have a lease.
//!
//! Every implementation keeps these promises, and `store::conformance` tests them:
//!
//! - What was answered `Ok` survives `kill -9` and a power cut.
//! - The same id submitted any number of times at once is one task.
//! - An item's output, the rows of its calls and their settlement are one transaction.
//! - A write under a lease whose epoch is not the task's any more fails with [`StoreError::LeaseLost`] and changes
//!   nothing, nor are its ledger entries written: the calls that its step had open are charged at their worst case, as
//!   `unknown`, when the lease is taken.
//! - Of several runners that claim one task at once, one gets it; limits hold whoever claims.
//! - No order and no lease depends on a clock.
//! - Callers see runs of their own tenant, and only those that were submitted under the visibility they have; whoever
//!   sees all documents sees all of the tenant's tasks.

use std::collections::BTreeMap;

use async_trait::async_trait;

use crate::domain::{
    FailureDay, JsonText, PromptVersion, RunnerId, Sequence, StepName, StepRecord, StepSummary, Task, TaskFailure,
    TaskId, TaskKey, TaskKind, TaskProblem, TaskStatus, TenantId, TenantScope, Timestamp, TraceId, Wish,
};

use super::{LedgerEntry, OpenCall, Page, StoreError};

/// Work to be done.
#[derive(Debug, Clone, PartialEq)]
pub struct NewTask {
    pub id: TaskId,
    pub kind: TaskKind,
    pub input: JsonText,
    pub prompt: Option<PromptVersion>,
    pub model: Option<String>,
    pub priority: i32,
    /// Items in all, where that is known before the start.
    pub total: Option<u64>,
    /// Not before so long from now.
    pub wait_us: u64,
    pub session_id: Option<String>,
    pub trace_id: TraceId,
    /// `Some`: its first steps are taken from another task.
    pub fork: Option<Fork>,
    /// Most tasks of the tenant that may be neither ended nor paused; more are refused.
    pub max_open: usize,
}

/// What a task takes over from another.
#[derive(Debug, Clone, PartialEq)]
pub struct Fork {
    pub of: TaskKey,
    pub of_id: TaskId,
    /// Steps at a place before this one are taken over with their outputs.
    pub before: u32,
    /// Inputs that replace those which the task would compute.
    pub overrides: BTreeMap<StepName, JsonText>,
}

/// What became of a submission.
#[derive(Debug, Clone, PartialEq)]
pub struct Submitted {
    pub task: Task,
    /// False: it was there already, in whichever state `task` says.
    pub is_new: bool,
}

/// How a task begins again.
#[derive(Debug, Clone, PartialEq)]
pub struct Rerun {
    /// Recorded steps at a place before this one stay; `None`: all that are recorded stay, and the rest is done.
    pub before: Option<u32>,
    pub trace_id: TraceId,
    /// As [`NewTask::max_open`].
    pub max_open: usize,
}

/// Calls to language models added up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TaskCost {
    /// Attempts, failed and unknown ones included.
    pub calls: u64,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub cost: crate::domain::Nanousd,
}

/// See [`TaskStore::earlier_wrote`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarlierWrote {
    Yes,
    /// One is running and may not have recorded it yet.
    Perhaps,
    No,
}

/// Which tasks a listing shows; `None` is any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskFilter {
    pub status: Option<TaskStatus>,
    pub kind: Option<TaskKind>,
}

/// Tasks, as those who ask for work see them.
#[async_trait]
pub trait TaskStore: Send + Sync {
    /// Puts a task in line, unless one with this id is there: then that one is returned as it is.
    ///
    /// [`StoreError::TooManyTasks`] if the tenant has too many.
    async fn submit(&self, scope: &TenantScope, new: NewTask) -> Result<Submitted, StoreError>;

    /// Makes another run of a task whose newest run has ended, and puts it in line. `None`: no such task;
    /// [`StoreError::NotEnded`] if it has not ended.
    async fn rerun(&self, scope: &TenantScope, id: TaskId, rerun: Rerun) -> Result<Option<Task>, StoreError>;

    /// A run of a task; the newest if `run` is `None`.
    async fn task(&self, scope: &TenantScope, id: TaskId, run: Option<u32>) -> Result<Option<Task>, StoreError>;

    /// Newest runs, newest task first, at most `limit` after `cursor`. Their `input` and `output` are left empty (`null`,
    /// `None`).
    async fn tasks(
        &self,
        scope: &TenantScope,
        filter: &TaskFilter,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<Task>, StoreError>;

    /// Steps of a run by place; those of which something is recorded or has failed. One of which nothing is recorded has no
    /// known place and number of items: it comes behind the others, with as many items as have failed.
    async fn steps(&self, task: &Task) -> Result<Vec<StepSummary>, StoreError>;

    /// Recorded items of one step of a run by number, at most `limit`, from item `from` on.
    async fn items(&self, task: &Task, step: &StepName, from: u32, limit: usize)
    -> Result<Vec<StepRecord>, StoreError>;

    /// What the calls of a run have cost so far.
    async fn cost(&self, task: &Task) -> Result<TaskCost, StoreError>;

    /// Failed attempts of a run, oldest first, the last `limit` of them.
    async fn failures(&self, task: &Task, limit: usize) -> Result<Vec<TaskFailure>, StoreError>;

    /// Whether an item of an earlier task of the same tenant and kind says in its output (`sequence`) that it made this
    /// operation.
    async fn earlier_wrote(&self, task: &Task, sequence: Sequence) -> Result<EarlierWrote, StoreError>;

    /// Days from `since` on, newest first, then by kind. What the view `task_days` says of the tenant.
    async fn failure_days(&self, scope: &TenantScope, since: Timestamp) -> Result<Vec<FailureDay>, StoreError>;

    /// Cancels, pauses or resumes the newest run, at once unless it runs: then the wish is noted for its runner.
    /// Returns the task as it is now, `None` if there is none. A wish that does not fit the status changes nothing.
    async fn wish(&self, scope: &TenantScope, id: TaskId, wish: Wish) -> Result<Option<Task>, StoreError>;

    /// Removes runs that ended before `before` with their steps and failures. Returns how many runs went.
    async fn forget_tasks(&self, before: Timestamp) -> Result<u64, StoreError>;
}

/// The first of those that are in line for one tenant and kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueHead {
    pub key: TaskKey,
    pub tenant: TenantId,
    pub kind: TaskKind,
    pub priority: i32,
}

/// What a runner needs to choose.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueueView {
    /// For each tenant and kind the first few: highest priority first, then oldest.
    pub heads: Vec<QueueHead>,
    /// Running tasks by tenant and kind, of all runners.
    pub running: Vec<(TenantId, TaskKind, u64)>,
    /// How long until the first waiting task is ready, in microseconds; `None` if none waits.
    pub next_ready_us: Option<u64>,
}

/// A wish to hold a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimWish {
    pub key: TaskKey,
    /// Refused if so many of its kind, or of its tenant, run already.
    pub kind_limit: u64,
    pub tenant_limit: u64,
}

/// The right to write to a running task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    pub key: TaskKey,
    pub runner: RunnerId,
    pub epoch: u64,
}

/// How a runner lets go of a task.
#[derive(Debug, Clone, PartialEq)]
pub enum TaskEnd {
    Succeeded {
        output: JsonText,
    },
    Failed {
        problem: TaskProblem,
    },
    /// Once more, after a wait.
    Retry {
        problem: TaskProblem,
        wait_us: u64,
    },
    Cancelled,
    Paused,
    /// Back in line as if it had not been claimed: the process stops.
    Released,
}

/// Tasks, as runners see them. For the process itself; no request reaches it.
#[async_trait]
pub trait TaskQueue: Send + Sync {
    /// Puts waiting tasks whose time has come in line. Returns how many.
    async fn promote_ready(&self, now: Timestamp) -> Result<u64, StoreError>;

    /// What is in line and what runs; of each tenant and kind the first `per_line`.
    async fn queue(&self, now: Timestamp, per_line: usize) -> Result<QueueView, StoreError>;

    /// Takes tasks that are in line; one answer each, `None` where somebody else was faster or a limit is reached.
    /// The task is running then, its epoch has grown, `tries` is 1 if the claim before this one brought it further and
    /// one more than before otherwise, and calls that its last holder left open are counted as `unknown`.
    async fn claim(
        &self,
        runner: RunnerId,
        wishes: Vec<ClaimWish>,
        now: Timestamp,
    ) -> Result<Vec<Option<Task>>, StoreError>;

    /// Every recorded item of a run, by place and item.
    async fn recorded(&self, key: TaskKey) -> Result<Vec<StepRecord>, StoreError>;

    /// How often each item of each step of a run has failed.
    async fn failed_attempts(&self, key: TaskKey) -> Result<Vec<(StepName, u32, u32)>, StoreError>;

    /// Writes down that a step is about to make a call, with its reservation; returns how many attempts of the call are
    /// in the ledger already. `place` is the step's place and the item.
    async fn open_call(&self, lease: Lease, place: (u32, u32), call: OpenCall) -> Result<u32, StoreError>;

    /// Records a finished item with the ledger entries of its calls, and forgets that calls of this item, and those that
    /// the entries name, were open. An item that is recorded already is replaced; a step's name and the number tell which.
    async fn checkpoint(&self, lease: Lease, record: StepRecord, ledger: Vec<LedgerEntry>) -> Result<(), StoreError>;

    /// Records a failed attempt of an item, and forgets that the calls which the entries name were open; the task goes on.
    async fn note_failure(
        &self,
        lease: Lease,
        failure: TaskFailure,
        ledger: Vec<LedgerEntry>,
    ) -> Result<(), StoreError>;

    /// Sets how many items there are in all.
    async fn expect(&self, lease: Lease, total: u64) -> Result<(), StoreError>;

    /// Lets go of a task. `failure`: an attempt that failed outside the steps. Entries of calls that no item will record
    /// come along; calls that are still open are counted as `unknown`. A wish that the runner has not seen holds: what would
    /// wait or go back in line is cancelled or paused.
    async fn end(
        &self,
        lease: Lease,
        end: TaskEnd,
        failure: Option<TaskFailure>,
        ledger: Vec<LedgerEntry>,
    ) -> Result<(), StoreError>;

    /// Wishes for the tasks that a runner holds.
    async fn wishes(&self, runner: RunnerId) -> Result<Vec<(TaskKey, Wish)>, StoreError>;

    /// A sign of life.
    async fn beat(&self, runner: RunnerId) -> Result<(), StoreError>;

    /// Runners that hold tasks, with how often each has given a sign of life.
    async fn holders(&self) -> Result<Vec<(RunnerId, u64)>, StoreError>;

    /// Takes all tasks from a runner that has given no sign of life since `beat`, and puts them back in line, or where a
    /// wish for them says. Returns how many; 0 if it has given one meanwhile.
    async fn take_back(&self, runner: RunnerId, beat: u64) -> Result<u64, StoreError>;

    /// Takes all tasks from all runners: for a process that has the database to itself and has just opened it. Also
    /// shortens waits that a clock set back has made longer than they were meant.
    async fn take_back_all(&self, now: Timestamp) -> Result<u64, StoreError>;

    /// As [`TaskStore::failure_days`], over all tenants.
    async fn failure_days_of_all(&self, since: Timestamp) -> Result<Vec<FailureDay>, StoreError>;

    /// How many tasks of all tenants are in each state that is not an end.
    async fn counts(&self) -> Result<Vec<(TaskKind, TaskStatus, u64)>, StoreError>;
}
