//! A task as callers see it: how far it has come, step by step, and what it has cost.

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::domain::{JsonText, StepSummary, Task, TaskProblem, TaskStatus, Timestamp, TraceId, Wish};
use crate::store::{Page, TaskCost};

use super::{PromptBody, time};

/// Everything that is known of a run of a task.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::http) struct ToldTask {
    pub task: Task,
    pub steps: Vec<StepSummary>,
    pub cost: TaskCost,
}

/// A run of a task.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct TaskBody {
    /// Of this response.
    pub trace_id: String,
    #[serde(flatten)]
    pub task: TaskHeadBody,
    /// As it was completed with defaults; absent from events.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub input: Option<Box<RawValue>>,
    /// In order; those of which something is recorded or has failed.
    pub steps: Vec<StepBody>,
    pub usage: TaskUsageBody,
    /// Of all calls to language models so far, US dollars.
    #[schema(example = 0.000_42)]
    pub cost_usd: f64,
}

/// Tasks, the newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct TasksBody {
    pub trace_id: String,
    pub tasks: Vec<TaskHeadBody>,
    /// The `cursor` of the next page; `null`: this was the last one.
    pub next_cursor: Option<String>,
}

/// A run of a task without its input, steps and costs.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct TaskHeadBody {
    #[schema(example = "tsk_00112233445566778899aabbccddeeff")]
    pub id: String,
    /// From 1; a task that is forced or driven again gets another.
    pub run: u32,
    #[schema(example = "map")]
    pub kind: String,
    /// `queued`, `waiting` (for its time, or between two attempts), `running`, `paused`, `succeeded`, `failed` or
    /// `cancelled`.
    #[schema(example = "running")]
    pub status: &'static str,
    /// Higher ones of the tenant go first.
    pub priority: i32,
    /// Starts since the last one that brought the task further.
    pub attempts: u32,
    pub progress: ProgressBody,
    /// Why it failed, or why it waits for its next attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<TaskErrorBody>,
    pub model: Option<String>,
    pub prompt: Option<PromptBody>,
    pub session_id: Option<String>,
    /// The task whose first steps this one took over.
    pub forked_from: Option<String>,
    /// The task's own trace: its calls stand under it.
    pub task_trace_id: String,
    pub created_at: String,
    /// It does not begin before.
    pub ready_at: String,
    pub started_at: Option<String>,
    pub finished_at: Option<String>,
    /// What somebody wants of a running task and has not come to pass yet: `cancel` or `pause`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wish: Option<&'static str>,
}

/// How far a task has come, in items of its steps.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct ProgressBody {
    pub done: u64,
    /// `null`: not known yet.
    pub total: Option<u64>,
    /// Milliseconds until all is done at the pace of the present step; absent while there is none to measure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_ms: Option<u64>,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct TaskErrorBody {
    #[schema(example = "upstream")]
    pub kind: &'static str,
    pub detail: String,
}

/// A step, added up over its items.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct StepBody {
    pub name: String,
    /// `queued`, `running`, `succeeded`, `failed` or `cancelled`.
    #[schema(example = "succeeded")]
    pub status: &'static str,
    /// Items that are recorded.
    pub done: u32,
    pub items: u32,
    /// Of all items, failed ones included.
    pub attempts: u32,
    pub started_at: Option<String>,
    pub finished_at: Option<String>,
    /// Over the inputs of the recorded items.
    pub input_hash: Option<String>,
    /// The last failure, unless its item was done after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<TaskErrorBody>,
}

/// Calls to language models.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct TaskUsageBody {
    /// Attempts, failed ones included.
    pub calls: u64,
    pub input_tokens: u64,
    pub output_tokens: u64,
}

impl TaskBody {
    pub(in crate::http) fn new(trace: TraceId, told: &ToldTask, now: Timestamp) -> Self {
        Self { input: raw(&told.task.input), ..Self::without_input(trace, told, now) }
    }

    /// For events: an input may be large and never changes.
    pub(in crate::http) fn without_input(trace: TraceId, told: &ToldTask, now: Timestamp) -> Self {
        let ToldTask { task, steps, cost } = told;
        let mut head = TaskHeadBody::from(task);
        head.progress.eta_ms = eta_of(task, steps, now);
        // The steps were read a moment after the task: what they add up to is shown, so that the two agree.
        head.progress.done = steps.iter().map(|step| u64::from(step.done)).sum();
        Self {
            trace_id: trace.to_string(),
            task: head,
            input: None,
            steps: steps.iter().map(|step| StepBody::new(step, task.status)).collect(),
            usage: TaskUsageBody {
                calls: cost.calls,
                input_tokens: cost.input_tokens,
                output_tokens: cost.output_tokens,
            },
            cost_usd: cost.cost.usd(),
        }
    }
}

impl TasksBody {
    pub(in crate::http) fn new(trace: TraceId, page: &Page<Task>) -> Self {
        let tasks = page.items.iter().map(Into::into).collect();
        Self { trace_id: trace.to_string(), tasks, next_cursor: page.next.clone() }
    }
}

impl From<&Task> for TaskHeadBody {
    fn from(task: &Task) -> Self {
        Self {
            id: task.id.to_string(),
            run: task.run,
            kind: task.kind.to_string(),
            status: task.status.as_str(),
            priority: task.priority,
            attempts: task.tries,
            progress: ProgressBody { done: task.done, total: task.total, eta_ms: None },
            error: task.problem.as_ref().map(Into::into),
            model: task.model.clone(),
            prompt: task.prompt.clone().map(Into::into),
            session_id: task.session_id.clone(),
            forked_from: task.forked_from.map(|id| id.to_string()),
            task_trace_id: task.trace_id.to_string(),
            created_at: time(task.created_at),
            ready_at: time(task.ready_at),
            started_at: task.started_at.map(time),
            finished_at: task.finished_at.map(time),
            wish: task.wish.map(Wish::as_str),
        }
    }
}

impl From<&TaskProblem> for TaskErrorBody {
    fn from(problem: &TaskProblem) -> Self {
        Self { kind: problem.kind.as_str(), detail: problem.detail.clone() }
    }
}

impl StepBody {
    fn new(step: &StepSummary, task: TaskStatus) -> Self {
        Self {
            name: step.step.to_string(),
            status: step_status(step, task),
            done: step.done,
            items: step.of,
            attempts: step.attempts,
            started_at: step.started_at.map(time),
            finished_at: step.finished_at.map(time),
            input_hash: step.input_hash.map(|hash| hash.to_string()),
            error: step.problem.as_ref().map(Into::into),
        }
    }
}

/// Where a step stands, from its items and from the task around it.
fn step_status(step: &StepSummary, task: TaskStatus) -> &'static str {
    let is_over = task.is_ended() || task == TaskStatus::Waiting;
    match task {
        _ if step.done == step.of => "succeeded",
        _ if step.problem.is_some() && is_over => "failed",
        TaskStatus::Running => "running",
        TaskStatus::Queued | TaskStatus::Waiting | TaskStatus::Paused => "queued",
        // Cut off by the end of the task without a failure of its own.
        TaskStatus::Succeeded | TaskStatus::Failed | TaskStatus::Cancelled => "cancelled",
    }
}

fn eta_of(task: &Task, steps: &[StepSummary], now: Timestamp) -> Option<u64> {
    if task.status != TaskStatus::Running {
        return None;
    }
    let current = steps.iter().rev().find(|step| step.done < step.of)?;
    let missing = task.total.map_or(u64::from(current.of - current.done), |total| total.saturating_sub(task.done));
    eta_ms(current, missing, now)
}

/// How long `missing` items take at the pace of the finished items of `step`; `None` with fewer than two of them.
///
/// The pace is the time since the step's start over the items: it holds whether they are done one after the other or
/// several at once, and a step that stands still is seen to take longer. A pause inside the step counts as work.
fn eta_ms(step: &StepSummary, missing: u64, now: Timestamp) -> Option<u64> {
    let started_at = step.started_at.filter(|_| step.done >= 2)?;
    // A clock that was set back in between measures nothing.
    let took_us = u64::try_from(now.0 - started_at.0).ok()?;
    let eta_us = u128::from(took_us) * u128::from(missing) / u128::from(step.done);
    u64::try_from(eta_us / 1_000).ok()
}

/// JSON that was stored as text, as it is.
pub(super) fn raw(text: &JsonText) -> Option<Box<RawValue>> {
    RawValue::from_string(text.as_str().to_owned()).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{ErrorKind, StepName};

    const BEGIN: i64 = 5_000_000;

    fn step(done: u32, of: u32) -> StepSummary {
        StepSummary {
            step: StepName::new("map").unwrap(),
            position: 0,
            done,
            of,
            attempts: done,
            input_hash: None,
            started_at: Some(Timestamp(BEGIN)),
            finished_at: None,
            problem: None,
        }
    }

    #[test]
    fn what_is_missing_takes_as_long_as_what_was_done() {
        let eta =
            |step: &StepSummary, missing, after_ms: i64| eta_ms(step, missing, Timestamp(BEGIN + after_ms * 1_000));

        assert_eq!(eta(&step(4, 10), 6, 2_000), Some(3_000));
        assert_eq!(eta(&step(4, 10), 0, 2_000), Some(0));
        assert_eq!(eta(&step(0, 10), 10, 500), None);
        assert_eq!(eta(&step(1, 10), 9, 500), None, "one item is no pace");
        assert_eq!(eta(&step(2, 10), 8, -1), None, "the clock was set back");
        assert_eq!(eta(&StepSummary { started_at: None, ..step(2, 10) }, 8, 500), None);
    }

    proptest! {
        #[test]
        fn more_missing_items_never_take_less_time(done in 2_u32.., took in 0_i64..1 << 40, a: u32, b: u32) {
            let (less, more) = (u64::from(a.min(b)), u64::from(a.max(b)));
            let (step, now) = (step(done, u32::MAX), Timestamp(BEGIN + took));

            prop_assert!(eta_ms(&step, less, now) <= eta_ms(&step, more, now));
        }
    }

    #[test]
    fn a_step_stands_where_its_items_and_its_task_stand() {
        let problem = Some(TaskProblem { kind: ErrorKind::Upstream, detail: "refused".to_owned() });
        let (whole, half, bad) = (step(3, 3), step(1, 3), StepSummary { problem, ..step(1, 3) });

        assert_eq!(step_status(&whole, TaskStatus::Failed), "succeeded");
        assert_eq!(step_status(&half, TaskStatus::Running), "running");
        assert_eq!(step_status(&half, TaskStatus::Paused), "queued");
        assert_eq!(step_status(&half, TaskStatus::Cancelled), "cancelled");
        assert_eq!(step_status(&bad, TaskStatus::Running), "running");
        assert_eq!(step_status(&bad, TaskStatus::Waiting), "failed");
        assert_eq!(step_status(&bad, TaskStatus::Failed), "failed");
    }
}
