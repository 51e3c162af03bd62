//! What is recorded of a task: its result, the items of its steps, its failures, and failures by day.

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::domain::{FailureDay, StepName, StepRecord, Task, TaskFailure, Timestamp, TraceId};

use super::task::raw;
use super::{TaskErrorBody, time};

/// How a task has ended.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct TaskResultBody {
    pub trace_id: String,
    pub id: String,
    pub run: u32,
    /// `succeeded`, `failed` or `cancelled`.
    #[schema(example = "succeeded")]
    pub status: &'static str,
    /// What its kind says; `null`: it did not succeed.
    #[schema(value_type = Option<Value>)]
    pub result: Option<Box<RawValue>>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<TaskErrorBody>,
}

/// Recorded items of a step, by number.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct TaskItemsBody {
    pub trace_id: String,
    pub id: String,
    pub run: u32,
    pub step: String,
    pub items: Vec<TaskItemBody>,
    /// The `from` of the next page; `null`: this was the last one.
    pub next_from: Option<u32>,
}

/// A finished item, with everything to do it again.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct TaskItemBody {
    /// From 0.
    pub item: u32,
    /// How many items the step has.
    pub items: u32,
    #[schema(value_type = Value)]
    pub input: Option<Box<RawValue>>,
    pub input_hash: String,
    #[schema(value_type = Value)]
    pub output: Option<Box<RawValue>>,
    /// The attempt that succeeded, from 1.
    pub attempt: u32,
    pub started_at: String,
    pub finished_at: String,
}

/// Failed attempts of a run, oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct TaskFailuresBody {
    pub trace_id: String,
    pub id: String,
    pub run: u32,
    pub failures: Vec<TaskFailureBody>,
}

/// A failed attempt.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct TaskFailureBody {
    /// `null`: outside of the steps.
    pub step: Option<String>,
    /// From 0.
    pub item: Option<u32>,
    /// Of the item, from 1.
    pub attempt: u32,
    pub error: TaskErrorBody,
    /// True if nothing tries it again by itself.
    #[serde(rename = "final")]
    pub is_final: bool,
    pub input_hash: Option<String>,
    pub model: Option<String>,
    pub prompt_version: Option<String>,
    pub task_trace_id: String,
    pub at: String,
}

/// How many tasks failed, by day and kind; the newest day first.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "since": "2026-11-01T00:00:00Z", "days": [
    {"day": "2026-11-23", "kind": "map", "succeeded": 97, "failed": 3, "failures": 11, "failure_rate": 0.03}]}))]
pub(in crate::http) struct FailureDaysBody {
    pub trace_id: String,
    pub since: String,
    pub days: Vec<FailureDayBody>,
}

/// Tasks of one kind on one day (UTC).
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct FailureDayBody {
    pub day: String,
    pub kind: String,
    /// Tasks that ended on that day.
    pub succeeded: u64,
    pub failed: u64,
    /// Attempts that failed on that day, also of tasks that succeeded after all.
    pub failures: u64,
    /// `failed` among those that ended by themselves; 0 if none did.
    pub failure_rate: f64,
}

impl TaskResultBody {
    pub(in crate::http) fn new(trace: TraceId, task: &Task) -> Self {
        Self {
            trace_id: trace.to_string(),
            id: task.id.to_string(),
            run: task.run,
            status: task.status.as_str(),
            result: task.output.as_ref().and_then(raw),
            error: task.problem.as_ref().map(Into::into),
        }
    }
}

impl TaskItemsBody {
    /// `limit`: how many were asked for.
    pub(in crate::http) fn new(trace: TraceId, task: &Task, step: &StepName, page: (&[StepRecord], usize)) -> Self {
        let (records, limit) = page;
        // A page that is not full was the last one; so was one that ends with the step's last item.
        let last = records.last().filter(|last| records.len() == limit && last.item + 1 < last.of);
        Self {
            trace_id: trace.to_string(),
            id: task.id.to_string(),
            run: task.run,
            step: step.to_string(),
            items: records.iter().map(Into::into).collect(),
            next_from: last.map(|last| last.item + 1),
        }
    }
}

impl From<&StepRecord> for TaskItemBody {
    fn from(record: &StepRecord) -> Self {
        Self {
            item: record.item,
            items: record.of,
            input: raw(&record.input),
            input_hash: record.input_hash.to_string(),
            output: raw(&record.output),
            attempt: record.attempt,
            started_at: time(record.started_at),
            finished_at: time(record.finished_at),
        }
    }
}

impl TaskFailuresBody {
    pub(in crate::http) fn new(trace: TraceId, task: &Task, failures: &[TaskFailure]) -> Self {
        let failures = failures.iter().map(Into::into).collect();
        Self { trace_id: trace.to_string(), id: task.id.to_string(), run: task.run, failures }
    }
}

impl From<&TaskFailure> for TaskFailureBody {
    fn from(failure: &TaskFailure) -> Self {
        Self {
            step: failure.step.as_ref().map(StepName::to_string),
            item: failure.item,
            attempt: failure.attempt,
            error: (&failure.problem).into(),
            is_final: failure.is_final,
            input_hash: failure.input_hash.map(|hash| hash.to_string()),
            model: failure.model.clone(),
            prompt_version: failure.prompt_version.clone(),
            task_trace_id: failure.trace_id.to_string(),
            at: time(failure.at),
        }
    }
}

impl FailureDaysBody {
    pub(in crate::http) fn new(trace: TraceId, since: Timestamp, days: Vec<FailureDay>) -> Self {
        let days = days.into_iter().map(Into::into).collect();
        Self { trace_id: trace.to_string(), since: time(since), days }
    }
}

impl From<FailureDay> for FailureDayBody {
    fn from(day: FailureDay) -> Self {
        let failure_rate = day.failure_rate();
        let FailureDay { day, kind, succeeded, failed, failures } = day;
        Self { day, kind: kind.to_string(), succeeded, failed, failures, failure_rate }
    }
}
