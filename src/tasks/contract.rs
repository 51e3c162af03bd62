//! What a kind of work must be able to do.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::domain::{ContentHash, ErrorKind, JsonText, Permission, PromptVersion, TaskKind, TenantScope};
use crate::store::StoreError;

use super::work::Work;

/// A kind of work.
///
/// An implementation keeps these promises:
///
/// - [`Self::run`] may be called any number of times for one task, each time from the beginning: whatever must not be
///   done twice stands in a step of [`Work`], which answers from its record once it has been done.
/// - What a step does depends on its input alone, and the steps and their inputs depend on the task's input and the
///   outputs of the steps before them: no clock, no chance, no state outside.
/// - A step waits for the calls that it makes: what a call says after its step was recorded is not written down.
/// - Its futures may be dropped wherever they wait: at a cancellation, at the loss of the lease, at shutdown.
/// - Errors are safe to show: no text of documents or prompts, no secrets, nothing of other tenants.
///
/// `src/tasks/tests/example.rs` is a whole one in forty lines.
#[async_trait]
pub trait JobHandler: Send + Sync {
    fn kind(&self) -> TaskKind;

    /// What a key must be allowed to ask for it, and to stop it, do it again or change it.
    fn permission(&self) -> Permission;

    /// True if callers may ask for it; false: only this process does.
    fn is_public(&self) -> bool {
        true
    }

    /// Checks an input before anything is stored, and completes it: what is left to defaults is written out, so that the
    /// same work has the same id. `model`: the caller's wish.
    async fn prepare(&self, scope: &TenantScope, input: JsonText, model: Option<String>)
    -> Result<Prepared, TaskError>;

    /// Does the work and returns the result.
    async fn run(&self, work: &Work) -> Result<JsonText, TaskError>;
}

/// A checked input.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    pub input: JsonText,
    /// Over the state that the work will read: the same input over other documents is other work.
    pub context: ContentHash,
    pub prompt: Option<PromptVersion>,
    pub model: Option<String>,
    /// Items of all steps together, where that is known.
    pub total: Option<u64>,
}

/// Why work did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TaskError {
    #[error("{0}")]
    Failed(Box<TaskFault>),
    /// Nothing is wrong: the task is cancelled, paused or somebody else's now. Handlers hand it on as it is.
    #[error("the task was stopped")]
    Stopped,
    #[error("the task's state could not be written")]
    Store(#[source] Arc<StoreError>),
}

/// What went wrong in a step or around it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct TaskFault {
    /// Decides whether it is tried again.
    pub kind: ErrorKind,
    /// A sentence that is safe to show.
    pub detail: String,
    /// Faults of the input, each with a JSON pointer into it.
    pub fields: Vec<(String, String)>,
    /// Not again before.
    pub retry_after: Option<Duration>,
    pub model: Option<String>,
    pub prompt_version: Option<String>,
}

impl TaskFault {
    /// A fault without particulars.
    pub fn new(kind: ErrorKind, detail: impl Into<String>) -> Self {
        let (detail, fields) = (detail.into(), Vec::new());
        Self { kind, detail, fields, retry_after: None, model: None, prompt_version: None }
    }
}

impl TaskError {
    /// A failure of this kind.
    pub fn failed(kind: ErrorKind, detail: impl Into<String>) -> Self {
        Self::Failed(Box::new(TaskFault::new(kind, detail)))
    }

    /// A bug, here or in a handler.
    pub(super) fn internal(detail: impl Into<String>) -> Self {
        Self::failed(ErrorKind::Internal, detail)
    }

    /// Faults of the input: JSON pointer and what is wrong there.
    pub fn invalid(fields: Vec<(String, String)>) -> Self {
        let detail =
            fields.first().map_or_else(|| "the input is not valid".to_owned(), |(at, why)| format!("{at}: {why}"));
        Self::Failed(Box::new(TaskFault { fields, ..TaskFault::new(ErrorKind::Unprocessable, detail) }))
    }
}

impl From<StoreError> for TaskError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::LeaseLost { .. } => Self::Stopped,
            error => Self::Store(Arc::new(error)),
        }
    }
}
