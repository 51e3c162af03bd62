//! Durable work: what is asked, how far it has come, what went wrong.
//!
//! A task's id is a hash over everything that may change its result, so the same work asked for twice is one task.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::ledger::words;
use super::{
    ContentHash, ErrorKind, PromptVersion, StepName, TaskId, TaskKind, TenantScope, Timestamp, TraceId, Visibility,
    hash_parts,
};

/// A JSON value as text, keys sorted, without spaces: equal values have equal texts and hashes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct JsonText(Arc<str>);

impl JsonText {
    /// The text of anything that JSON can say; maps need keys that are strings.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Result<Self, serde_json::Error> {
        Ok(Self::of_value(&serde_json::to_value(value)?))
    }

    pub fn of_value(value: &Value) -> Self {
        let mut text = String::new();
        write_sorted(value, &mut text);
        Self(text.into())
    }

    /// Text that came from [`Self::as_str`] earlier.
    pub fn from_stored(text: String) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn read<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.0)
    }

    pub fn hash(&self) -> ContentHash {
        ContentHash::of(self.0.as_bytes())
    }
}

impl fmt::Display for JsonText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// By hand, since whether a map of `serde_json` is sorted depends on what other crates ask of it.
fn write_sorted(value: &Value, text: &mut String) {
    match value {
        Value::Object(fields) => {
            let sorted: BTreeMap<&String, &Value> = fields.iter().collect();
            text.push('{');
            for (index, (key, value)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                text.push_str(&Value::String(key.clone()).to_string());
                text.push(':');
                write_sorted(value, text);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write_sorted(item, text);
            }
            text.push(']');
        }
        plain => text.push_str(&plain.to_string()),
    }
}

/// Where a run of a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TaskStatus {
    /// In line.
    Queued,
    /// Not before its time: delayed by whoever asked, or between two attempts.
    Waiting,
    Running,
    /// Somebody stopped it; it goes on where it was when it is resumed.
    Paused,
    Succeeded,
    /// Given up; its steps are kept, so that it can be driven again.
    Failed,
    Cancelled,
}

words!(TaskStatus: Queued = "queued", Waiting = "waiting", Running = "running", Paused = "paused",
    Succeeded = "succeeded", Failed = "failed", Cancelled = "cancelled");

impl TaskStatus {
    /// True if nothing will happen to this run any more.
    pub fn is_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// What somebody wants of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wish {
    /// Stops at once, also in the middle of a call.
    Cancel,
    /// Stops after the items that are under way.
    Pause,
    /// Puts a paused task back in line. Never waits for a runner.
    Resume,
}

words!(Wish: Cancel = "cancel", Pause = "pause", Resume = "resume");

/// One run of a task, by its number in this database. Never shown to a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskKey(pub i64);

/// What went wrong, safe to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskProblem {
    pub kind: ErrorKind,
    /// A sentence; never text of documents or prompts.
    pub detail: String,
}

/// One run of a task.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    pub key: TaskKey,
    pub id: TaskId,
    /// From 1; a task that is forced or driven again gets another.
    pub run: u32,
    pub kind: TaskKind,
    /// On whose behalf: a task sees what its submitter could see.
    pub scope: TenantScope,
    pub status: TaskStatus,
    pub input: JsonText,
    pub prompt: Option<PromptVersion>,
    pub model: Option<String>,
    /// Inputs of steps that a fork changed.
    pub overrides: BTreeMap<StepName, JsonText>,
    /// The task and step from which it was forked.
    pub forked_from: Option<TaskId>,
    /// Higher ones of a tenant go first.
    pub priority: i32,
    /// Claims since the last one that brought the task further.
    pub tries: u32,
    /// Grows with each claim.
    pub epoch: u64,
    /// Set while it runs and somebody wants it to stop.
    pub wish: Option<Wish>,
    /// `Some` once it has succeeded.
    pub output: Option<JsonText>,
    /// Why it failed, or why it waits for its next attempt.
    pub problem: Option<TaskProblem>,
    /// Items that are recorded.
    pub done: u64,
    /// Items in all, as far as it is known.
    pub total: Option<u64>,
    pub session_id: Option<String>,
    /// The task's own trace: its calls and their costs stand under it.
    pub trace_id: TraceId,
    pub created_at: Timestamp,
    /// It does not start before.
    pub ready_at: Timestamp,
    /// When it was claimed first.
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
}

/// Everything that may change a task's result.
#[derive(Debug, Clone)]
pub struct TaskIdentity<'a> {
    pub scope: &'a TenantScope,
    pub kind: &'a TaskKind,
    pub input: &'a JsonText,
    pub prompt: Option<&'a PromptVersion>,
    pub model: Option<&'a str>,
    /// Over what the task will read: document versions, the state of a collection.
    pub context: ContentHash,
    /// Of a fork: the task it was forked from, with its changed inputs.
    pub fork: Option<(TaskId, &'a BTreeMap<StepName, JsonText>)>,
}

impl TaskId {
    /// The id of this work. Equal identities are the same work; the caller's visibility is part of it, since two
    /// callers who see different documents must not share a result.
    pub fn derive(identity: &TaskIdentity<'_>) -> Self {
        let prompt = identity.prompt.map(|prompt| format!("{}\n{}\n{}", prompt.name, prompt.version, prompt.hash));
        let fork = identity.fork.as_ref().map(|(parent, overrides)| {
            let inputs: String =
                overrides.iter().map(|(step, input)| format!("\n{}\n{}", step.as_str(), input.hash())).collect();
            format!("{parent}{inputs}")
        });
        Self(hash_parts(&[
            b"task",
            identity.scope.tenant.as_str().as_bytes(),
            visibility_text(&identity.scope.visibility).unwrap_or_default().as_bytes(),
            identity.kind.as_str().as_bytes(),
            identity.input.as_str().as_bytes(),
            prompt.unwrap_or_default().as_bytes(),
            identity.model.unwrap_or_default().as_bytes(),
            &identity.context.0,
            fork.unwrap_or_default().as_bytes(),
        ]))
    }
}

/// A JSON array of the principals, sorted; `None`: all documents of the tenant.
pub fn visibility_text(visibility: &Visibility) -> Option<String> {
    match visibility {
        Visibility::All => None,
        Visibility::Principals(principals) => {
            let names: Vec<&str> = principals.iter().map(super::Principal::as_str).collect();
            Some(serde_json::json!(names).to_string())
        }
    }
}

/// A finished item of a step, with everything to do it again.
#[derive(Debug, Clone, PartialEq)]
pub struct StepRecord {
    pub step: StepName,
    /// From 0; the only one of a step that is no fan-out is 0.
    pub item: u32,
    /// How many items the step has.
    pub of: u32,
    /// Place of the step in the task, from 0.
    pub position: u32,
    pub input_hash: ContentHash,
    pub input: JsonText,
    pub output: JsonText,
    /// The attempt that succeeded, from 1.
    pub attempt: u32,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
}

/// A step, added up over its items.
#[derive(Debug, Clone, PartialEq)]
pub struct StepSummary {
    pub step: StepName,
    pub position: u32,
    /// Items that are recorded.
    pub done: u32,
    pub of: u32,
    /// Attempts of all items, failed ones included.
    pub attempts: u32,
    /// Over the inputs of its recorded items, in order; of a step with one item that item's.
    pub input_hash: Option<ContentHash>,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    /// Of the last failure, if it came after the last success of that item.
    pub problem: Option<TaskProblem>,
}

/// One failed attempt of an item, or of a task outside its steps.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskFailure {
    pub task_id: TaskId,
    pub run: u32,
    pub kind: TaskKind,
    pub step: Option<StepName>,
    pub item: Option<u32>,
    pub input_hash: Option<ContentHash>,
    pub problem: TaskProblem,
    pub model: Option<String>,
    pub prompt_version: Option<String>,
    pub trace_id: TraceId,
    /// Of the item, from 1.
    pub attempt: u32,
    /// True if nothing tries it again by itself.
    pub is_final: bool,
    pub at: Timestamp,
}

/// Tasks of one kind that ended on one day, and attempts that failed on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailureDay {
    /// `2026-11-23`, UTC.
    pub day: String,
    pub kind: TaskKind,
    pub succeeded: u64,
    pub failed: u64,
    /// Attempts.
    pub failures: u64,
}

impl FailureDay {
    /// Failed among those that ended by themselves; 0 if none did.
    pub fn failure_rate(&self) -> f64 {
        let ended = self.succeeded + self.failed;
        if ended == 0 { 0.0 } else { self.failed as f64 / ended as f64 }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::domain::{Principal, TenantId};

    fn id(scope: &TenantScope, input: &str) -> TaskId {
        let kind = TaskKind::new("map").unwrap();
        let input = JsonText::of_value(&serde_json::from_str(input).unwrap());
        let context = ContentHash([0; 32]);
        TaskId::derive(&TaskIdentity {
            scope,
            kind: &kind,
            input: &input,
            prompt: None,
            model: None,
            context,
            fork: None,
        })
    }

    #[test]
    fn equal_values_have_equal_texts_whatever_the_order_of_their_keys() {
        let text = |json: &str| JsonText::of_value(&serde_json::from_str(json).unwrap());

        assert_eq!(
            text(r#"{"b": [1, {"y":2,"x":"é\""}], "a": null}"#),
            text(r#"{"a":null,"b":[1,{"x":"é\"","y":2}]}"#)
        );
        assert_eq!(text(r#"{"b":1,"a":[]}"#).as_str(), r#"{"a":[],"b":1}"#);
    }

    #[test]
    fn the_same_work_of_callers_who_see_different_documents_is_not_the_same_task() {
        let all = TenantScope::everything(TenantId::new("acme").unwrap());
        let some = TenantScope {
            visibility: Visibility::Principals(BTreeSet::from([Principal::new("user:ann").unwrap()])),
            ..all.clone()
        };

        assert_eq!(id(&all, r#"{"a":1,"b":2}"#), id(&all, r#"{"b":2,"a":1}"#));
        assert_ne!(id(&all, r#"{"a":1}"#), id(&all, r#"{"a":2}"#));
        assert_ne!(id(&all, r#"{"a":1}"#), id(&some, r#"{"a":1}"#));
    }
}
