//! The front desk: where work is asked for, looked at and stopped.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;

use crate::domain::{
    ContentHash, ErrorKind, FailureDay, JsonText, Permission, StepName, StepRecord, StepSummary, Task, TaskFailure,
    TaskId, TaskIdentity, TaskKind, TaskStatus, TenantScope, Timestamp, TraceId, Wish,
};
use crate::store::{Fork, NewTask, Page, Rerun, StoreError, Submitted, TaskCost, TaskFilter, TaskStore};

use super::bell::Bell;
use super::contract::{JobHandler, TaskError};
use super::settings::TaskSettings;

/// What a [`TaskDesk`] is made of.
pub struct TaskDeskParts {
    pub store: Arc<dyn TaskStore>,
    pub handlers: Vec<Arc<dyn JobHandler>>,
    pub bell: Arc<Bell>,
    pub settings: TaskSettings,
}

/// Takes orders. Cheap to share.
pub struct TaskDesk {
    store: Arc<dyn TaskStore>,
    handlers: BTreeMap<TaskKind, Arc<dyn JobHandler>>,
    bell: Arc<Bell>,
    settings: TaskSettings,
}

/// Work that somebody asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskOrder {
    pub kind: String,
    pub input: Value,
    pub model: Option<String>,
    pub priority: i32,
    /// Not before so long from now.
    pub delay: Duration,
    pub again: Again,
    pub session_id: Option<String>,
    pub trace_id: TraceId,
    /// The minute for which it is due, of work that begins by the clock: the same work at another time is other work.
    pub slot: Option<String>,
}

/// What happens to work that was done, or given up, before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// Its record answers.
    No,
    /// It is done anew, from its first step. One that has not ended goes on as it is.
    Force,
}

/// Why an order was not taken.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    #[error("there is no kind of task {asked:?}; there are {known}")]
    UnknownKind { asked: String, known: String },
    #[error("the task has no step {asked:?} that is recorded")]
    UnknownStep { asked: String },
    #[error(transparent)]
    Task(#[from] TaskError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl TaskDesk {
    pub fn new(parts: TaskDeskParts) -> Self {
        let handlers = parts.handlers.into_iter().map(|handler| (handler.kind(), handler)).collect();
        Self { store: parts.store, handlers, bell: parts.bell, settings: parts.settings }
    }

    /// Kinds that callers may ask for, by name.
    pub fn kinds(&self) -> Vec<&TaskKind> {
        self.handlers.iter().filter(|(_, handler)| handler.is_public()).map(|(kind, _)| kind).collect()
    }

    pub fn settings(&self) -> &TaskSettings {
        &self.settings
    }

    /// Puts work in line; durable on return. The same work again is the same task.
    pub async fn submit(&self, scope: &TenantScope, order: TaskOrder) -> Result<Submitted, DeskError> {
        let handler = self.handlers.iter().find(|(kind, handler)| handler.is_public() && kind.as_str() == order.kind);
        let (kind, handler) = handler.ok_or_else(|| self.unknown_kind(&order.kind))?;
        self.submit_to(scope, kind, handler.as_ref(), order).await
    }

    /// As [`Self::submit`], for the process itself: any kind.
    pub async fn submit_own(&self, scope: &TenantScope, order: TaskOrder) -> Result<Submitted, DeskError> {
        let handler = self.handlers.iter().find(|(kind, _)| kind.as_str() == order.kind);
        let (kind, handler) = handler.ok_or_else(|| self.unknown_kind(&order.kind))?;
        self.submit_to(scope, kind, handler.as_ref(), order).await
    }

    fn unknown_kind(&self, asked: &str) -> DeskError {
        let known: Vec<&str> = self.kinds().into_iter().map(TaskKind::as_str).collect();
        DeskError::UnknownKind { asked: asked.to_owned(), known: known.join(", ") }
    }

    fn too_large(&self, bytes: usize) -> DeskError {
        let limit = self.settings.max_input_bytes;
        let detail = format!("the input has {bytes} bytes, tasks.max_input_bytes allows {limit}");
        TaskError::failed(ErrorKind::TooLarge, detail).into()
    }

    async fn submit_to(
        &self,
        scope: &TenantScope,
        kind: &TaskKind,
        handler: &dyn JobHandler,
        order: TaskOrder,
    ) -> Result<Submitted, DeskError> {
        let input = JsonText::of_value(&order.input);
        if input.as_str().len() > self.settings.max_input_bytes {
            return Err(self.too_large(input.as_str().len()));
        }
        let prepared = handler.prepare(scope, input, order.model).await?;
        let context = match &order.slot {
            None => prepared.context,
            Some(slot) => ContentHash::of(&[&prepared.context.0[..], slot.as_bytes()].concat()),
        };
        let id = TaskId::derive(&TaskIdentity {
            scope,
            kind,
            input: &prepared.input,
            prompt: prepared.prompt.as_ref(),
            model: prepared.model.as_deref(),
            context,
            fork: None,
        });
        let new = NewTask {
            id,
            kind: kind.clone(),
            input: prepared.input,
            prompt: prepared.prompt,
            model: prepared.model,
            priority: order.priority,
            total: prepared.total,
            wait_us: microseconds(order.delay),
            session_id: order.session_id,
            trace_id: order.trace_id,
            fork: None,
            max_open: self.settings.max_open_per_tenant,
        };
        let mut submitted = self.store.submit(scope, new).await?;
        if order.again == Again::Force && !submitted.is_new && submitted.task.status.is_ended() {
            let max_open = self.settings.max_open_per_tenant;
            let rerun = Rerun { before: Some(0), trace_id: order.trace_id, max_open };
            match self.store.rerun(scope, id, rerun).await {
                Ok(Some(task)) => submitted = Submitted { task, is_new: true },
                // Somebody else was faster to begin it again: that run serves both.
                Ok(None) | Err(StoreError::NotEnded { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.bell.ring();
        Ok(submitted)
    }

    /// A run of a task, the newest if `run` is `None`.
    pub async fn task(&self, scope: &TenantScope, id: TaskId, run: Option<u32>) -> Result<Option<Task>, StoreError> {
        self.store.task(scope, id, run).await
    }

    /// See [`TaskStore::tasks`].
    pub async fn tasks(
        &self,
        scope: &TenantScope,
        filter: &TaskFilter,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<Task>, StoreError> {
        self.store.tasks(scope, filter, cursor, limit).await
    }

    /// See [`TaskStore::steps`].
    pub async fn steps(&self, task: &Task) -> Result<Vec<StepSummary>, StoreError> {
        self.store.steps(task).await
    }

    /// See [`TaskStore::items`].
    pub async fn items(
        &self,
        task: &Task,
        step: &StepName,
        from: u32,
        limit: usize,
    ) -> Result<Vec<StepRecord>, StoreError> {
        self.store.items(task, step, from, limit).await
    }

    /// See [`TaskStore::cost`].
    pub async fn cost(&self, task: &Task) -> Result<TaskCost, StoreError> {
        self.store.cost(task).await
    }

    /// See [`TaskStore::failures`].
    pub async fn failures(&self, task: &Task, limit: usize) -> Result<Vec<TaskFailure>, StoreError> {
        self.store.failures(task, limit).await
    }

    /// See [`TaskStore::forget_tasks`].
    pub(super) async fn forget_tasks(&self, before: Timestamp) -> Result<u64, StoreError> {
        self.store.forget_tasks(before).await
    }

    /// See [`TaskStore::failure_days`].
    pub async fn failure_days(&self, scope: &TenantScope, since: Timestamp) -> Result<Vec<FailureDay>, StoreError> {
        self.store.failure_days(scope, since).await
    }

    /// Cancels, pauses or resumes; the task as it is then. A running one stops within a second.
    pub async fn wish(&self, scope: &TenantScope, id: TaskId, wish: Wish) -> Result<Option<Task>, DeskError> {
        if self.controlled(scope, id).await?.is_none() {
            return Ok(None);
        }
        let task = self.store.wish(scope, id, wish).await?;
        self.bell.ring();
        Ok(task)
    }

    /// Does an ended task again from a step on, in another run; `None` as `from` keeps all that is recorded and does the
    /// rest. `Ok(None)`: no such task.
    pub async fn redrive(
        &self,
        scope: &TenantScope,
        id: TaskId,
        from: Option<&StepName>,
        trace_id: TraceId,
    ) -> Result<Option<Task>, DeskError> {
        let Some(task) = self.controlled(scope, id).await? else { return Ok(None) };
        let before = match from {
            None if task.status == TaskStatus::Succeeded => {
                let detail =
                    "nothing of the task is missing; name the step to begin with, or ask for the task with force";
                return Err(TaskError::failed(ErrorKind::Conflict, detail).into());
            }
            None => None,
            Some(step) => Some(self.summary_of(&task, step).await?.position),
        };
        let max_open = self.settings.max_open_per_tenant;
        let rerun = self.store.rerun(scope, id, Rerun { before, trace_id, max_open }).await?;
        self.bell.ring();
        Ok(rerun)
    }

    /// Another task that takes over the steps before `step`, and gives that step `input` in place of its recorded one.
    /// The original stays as it is. `Ok(None)`: no such task.
    pub async fn fork(
        &self,
        scope: &TenantScope,
        id: TaskId,
        (step, input): (&StepName, Value),
        trace_id: TraceId,
    ) -> Result<Option<Submitted>, DeskError> {
        let Some(task) = self.controlled(scope, id).await? else { return Ok(None) };
        if !self.handlers.get(&task.kind).is_some_and(|handler| handler.is_public()) {
            return Err(
                TaskError::failed(ErrorKind::Forbidden, "tasks of this kind are made by the server alone").into()
            );
        }
        let summary = self.summary_of(&task, step).await?;
        if summary.of != 1 {
            let detail = format!("step {step} has {} inputs; only that of a single one can be changed", summary.of);
            return Err(TaskError::failed(ErrorKind::Unprocessable, detail).into());
        }
        // A fork of a fork keeps the changes to the steps before.
        let mut overrides = task.overrides.clone();
        overrides.insert(step.clone(), JsonText::of_value(&input));
        let new_id = TaskId::derive(&TaskIdentity {
            scope,
            kind: &task.kind,
            input: &task.input,
            prompt: task.prompt.as_ref(),
            model: task.model.as_deref(),
            context: task.input.hash(),
            fork: Some((task.id, &overrides)),
        });
        let new = NewTask {
            id: new_id,
            kind: task.kind.clone(),
            input: task.input.clone(),
            prompt: task.prompt.clone(),
            model: task.model.clone(),
            priority: task.priority,
            total: task.total,
            wait_us: 0,
            session_id: task.session_id.clone(),
            trace_id,
            fork: Some(Fork { of: task.key, of_id: task.id, before: summary.position, overrides }),
            max_open: self.settings.max_open_per_tenant,
        };
        let submitted = self.store.submit(scope, new).await?;
        self.bell.ring();
        Ok(Some(submitted))
    }

    /// The newest run of a task that the caller sees and may ask for. A kind that is gone can still be stopped by an admin.
    async fn controlled(&self, scope: &TenantScope, id: TaskId) -> Result<Option<Task>, DeskError> {
        let Some(task) = self.store.task(scope, id, None).await? else { return Ok(None) };
        let needed = self.handlers.get(&task.kind).map_or(Permission::Admin, |handler| handler.permission());
        if scope.may(needed) {
            return Ok(Some(task));
        }
        let detail = format!("tasks of kind {} need a key with {}", task.kind, needed.as_str());
        Err(TaskError::failed(ErrorKind::Forbidden, detail).into())
    }

    async fn summary_of(&self, task: &Task, step: &StepName) -> Result<StepSummary, DeskError> {
        let steps = self.store.steps(task).await?;
        let found = steps.into_iter().find(|summary| summary.step == *step);
        found.ok_or_else(|| DeskError::UnknownStep { asked: step.as_str().to_owned() })
    }

    /// Sees each change of any task in this process; what changed must be read.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.bell.watch()
    }
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
