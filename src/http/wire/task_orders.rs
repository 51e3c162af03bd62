//! What callers say about tasks: an order, a fork, a new run.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::domain::{StepName, TraceId};
use crate::http::problem::FieldError;
use crate::tasks::{Again, TaskOrder};

/// Lowest and highest priority: enough to sort by, too few to race.
const PRIORITIES: std::ops::RangeInclusive<i32> = -100..=100;
/// Longest session id and model name, in bytes: both stand in rows and log lines.
const NAME_MAX_BYTES: usize = 256;

/// Work to be done.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"kind": "map", "input": {"items": ["a", "b"]}, "priority": 10}))]
pub(in crate::http) struct TaskInput {
    /// One of the kinds of the server; an unknown one is answered with their names.
    pub kind: String,
    /// What the kind asks for.
    pub input: Value,
    /// The language model that is wished for; the kind's own if left out.
    pub model: Option<String>,
    /// Higher ones of the tenant go first.
    #[serde(default)]
    #[schema(minimum = -100, maximum = 100)]
    pub priority: i32,
    /// Seconds before which it does not begin.
    #[serde(default)]
    pub delay_s: u64,
    /// `true`: done anew even if it was done before. One that has not ended goes on as it is.
    #[serde(default)]
    pub force: bool,
    /// Calls of the task count for this session, in budgets too.
    pub session_id: Option<String>,
}

/// Where an ended task goes on.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"from_step": "summarize"}))]
pub(in crate::http) struct RedriveInput {
    /// This step and all after it are done again; without it, what is recorded stays and the rest is done.
    pub from_step: Option<String>,
}

/// Another task, made of this one.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"step": "summarize", "input": {"style": "short"}}))]
pub(in crate::http) struct ForkInput {
    /// The steps before this one are taken over.
    pub step: String,
    /// What this step gets in place of its recorded input.
    pub input: Value,
}

/// For requests that say everything by their path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct NoInput {}

impl TaskInput {
    /// The order under a trace of its own, or everything that is wrong with it.
    pub(in crate::http) fn into_order(self, trace_id: TraceId, max_delay_s: u64) -> Result<TaskOrder, Vec<FieldError>> {
        let mut faults = Vec::new();
        if !PRIORITIES.contains(&self.priority) {
            let (least, most) = (PRIORITIES.start(), PRIORITIES.end());
            faults.push(FieldError::new("/priority", format!("must be between {least} and {most}")));
        }
        if self.delay_s > max_delay_s {
            faults.push(FieldError::new("/delay_s", format!("must be at most {max_delay_s}")));
        }
        for (pointer, name) in [("/model", &self.model), ("/session_id", &self.session_id)] {
            let is_bad =
                |name: &String| name.is_empty() || name.len() > NAME_MAX_BYTES || name.contains(char::is_control);
            if name.as_ref().is_some_and(is_bad) {
                let detail = format!("must be plain text of 1 to {NAME_MAX_BYTES} bytes");
                faults.push(FieldError::new(pointer, detail));
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(TaskOrder {
            kind: self.kind,
            input: self.input,
            model: self.model,
            priority: self.priority,
            delay: Duration::from_secs(self.delay_s),
            again: if self.force { Again::Force } else { Again::No },
            session_id: self.session_id,
            trace_id,
            slot: None,
        })
    }
}

/// A step by its name; a fault of the field at `pointer` if nothing can have that name.
pub(in crate::http) fn step_name(text: &str, pointer: &'static str) -> Result<StepName, FieldError> {
    StepName::new(text).map_err(|error| FieldError::new(pointer, error.to_string()))
}
