//! Small tasks, and those who work on them.

use crate::domain::{
    ContentHash, ErrorKind, JsonText, RunnerId, StepName, StepRecord, Task, TaskFailure, TaskId, TaskKey, TaskKind,
    TaskProblem, TenantScope, Timestamp, TraceId,
};
use crate::store::{ClaimWish, Lease, NewTask, TaskEnd};

use super::fixture::Subject;

/// When everything happens that the store does not date itself.
pub(super) const NOW: Timestamp = Timestamp(1_000_000_000_000_000);

pub(super) fn kind(name: &str) -> TaskKind {
    TaskKind::new(name).unwrap()
}

pub(crate) fn step(name: &str) -> StepName {
    StepName::new(name).unwrap()
}

pub(super) fn task_id(number: u64) -> TaskId {
    TaskId((u128::from(number) << 8 | 0x7a).to_be_bytes())
}

pub(super) fn json(text: &str) -> JsonText {
    JsonText::of_value(&serde_json::from_str(text).unwrap())
}

pub(crate) fn runner(number: u64) -> RunnerId {
    RunnerId((u128::from(number) << 8 | 0x52).to_be_bytes())
}

pub(crate) fn problem(detail: &str) -> TaskProblem {
    TaskProblem { kind: ErrorKind::Upstream, detail: detail.to_owned() }
}

/// A task of the kind `map` with a trace of its own.
pub(crate) fn new_task(number: u64) -> NewTask {
    NewTask {
        id: task_id(number),
        kind: kind("map"),
        input: json(&format!("{{\"number\":{number}}}")),
        prompt: None,
        model: None,
        priority: 0,
        total: None,
        wait_us: 0,
        session_id: None,
        trace_id: TraceId((u128::from(number) << 9 | 0x5a).to_be_bytes()),
        fork: None,
        max_open: 10_000,
    }
}

/// An item of the step `read` at place 0, if not told otherwise.
pub(crate) fn record(item: u32, of: u32) -> StepRecord {
    let input = json(&format!("{{\"item\":{item}}}"));
    StepRecord {
        step: step("read"),
        item,
        of,
        position: 0,
        input_hash: input.hash(),
        input,
        output: json(&format!("\"output of {item} é\"")),
        attempt: 1,
        started_at: Timestamp(NOW.0 + i64::from(item)),
        finished_at: Timestamp(NOW.0 + i64::from(item) + 7),
    }
}

/// The same for a step with one item.
pub(super) fn record_of(name: &str, position: u32) -> StepRecord {
    StepRecord { step: step(name), position, ..record(0, 1) }
}

pub(crate) fn failure(task: &Task, place: Option<(&str, u32)>, attempt: u32) -> TaskFailure {
    TaskFailure {
        task_id: task.id,
        run: task.run,
        kind: task.kind.clone(),
        step: place.map(|(name, _)| step(name)),
        item: place.map(|(_, item)| item),
        input_hash: place.map(|_| ContentHash::of(b"input")),
        problem: problem(&format!("attempt {attempt}")),
        model: Some("small".into()),
        prompt_version: Some("3".into()),
        trace_id: task.trace_id,
        attempt,
        is_final: false,
        at: Timestamp(NOW.0 + i64::from(attempt)),
    }
}

/// The right to write that came with a claim.
pub(crate) fn lease(task: &Task, runner: RunnerId) -> Lease {
    Lease { key: task.key, runner, epoch: task.epoch }
}

pub(super) fn without_limits(key: TaskKey) -> ClaimWish {
    ClaimWish { key, kind_limit: u64::MAX, tenant_limit: u64::MAX }
}

pub(super) fn output() -> TaskEnd {
    TaskEnd::Succeeded { output: json("{\"ok\":true}") }
}

impl Subject<'_> {
    /// Submits and returns the task.
    pub(super) async fn submit(&self, scope: &TenantScope, new: NewTask) -> Task {
        self.tasks.submit(scope, new).await.unwrap().task
    }

    pub(super) async fn claim(&self, by: RunnerId, key: TaskKey) -> Option<Task> {
        self.queue.claim(by, vec![without_limits(key)], NOW).await.unwrap().remove(0)
    }

    /// A task that the first runner holds, with its lease.
    pub(super) async fn held(&self, scope: &TenantScope, new: NewTask) -> (Task, Lease) {
        let task = self.submit(scope, new).await;
        let task = self.claim(runner(1), task.key).await.unwrap();
        let lease = lease(&task, runner(1));
        (task, lease)
    }

    pub(super) async fn record(&self, lease: Lease, record: StepRecord) {
        self.queue.checkpoint(lease, record, Vec::new()).await.unwrap();
    }

    pub(super) async fn end(&self, lease: Lease, end: TaskEnd) {
        self.queue.end(lease, end, None, Vec::new()).await.unwrap();
    }

    /// The newest run as it is now.
    pub(super) async fn now(&self, scope: &TenantScope, number: u64) -> Task {
        self.tasks.task(scope, task_id(number), None).await.unwrap().unwrap()
    }
}
