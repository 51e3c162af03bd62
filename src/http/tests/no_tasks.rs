//! A desk that knows no kind of work, for worlds that are about something else.

use std::sync::Arc;

use async_trait::async_trait;

use crate::domain::{
    FailureDay, Sequence, StepName, StepRecord, StepSummary, Task, TaskFailure, TaskId, TenantScope, Timestamp, Wish,
};
use crate::store::{EarlierWrote, NewTask, Page, Rerun, StoreError, Submitted, TaskCost, TaskFilter, TaskStore};
use crate::tasks::{Bell, TaskDesk, TaskDeskParts, TaskSettings};

pub fn desk() -> Arc<TaskDesk> {
    Arc::new(TaskDesk::new(TaskDeskParts {
        store: Arc::new(NoTasks),
        handlers: vec![],
        bell: Arc::new(Bell::default()),
        settings: TaskSettings::default(),
    }))
}

struct NoTasks;

#[async_trait]
impl TaskStore for NoTasks {
    async fn submit(&self, _: &TenantScope, _: NewTask) -> Result<Submitted, StoreError> {
        unreachable!("without kinds nothing is put in line")
    }

    async fn rerun(&self, _: &TenantScope, _: TaskId, _: Rerun) -> Result<Option<Task>, StoreError> {
        Ok(None)
    }

    async fn task(&self, _: &TenantScope, _: TaskId, _: Option<u32>) -> Result<Option<Task>, StoreError> {
        Ok(None)
    }

    async fn tasks(
        &self,
        _: &TenantScope,
        _: &TaskFilter,
        _: Option<&str>,
        _: usize,
    ) -> Result<Page<Task>, StoreError> {
        Ok(Page { items: vec![], next: None })
    }

    async fn steps(&self, _: &Task) -> Result<Vec<StepSummary>, StoreError> {
        Ok(vec![])
    }

    async fn items(&self, _: &Task, _: &StepName, _: u32, _: usize) -> Result<Vec<StepRecord>, StoreError> {
        Ok(vec![])
    }

    async fn earlier_wrote(&self, _: &Task, _: Sequence) -> Result<EarlierWrote, StoreError> {
        Ok(EarlierWrote::No)
    }

    async fn cost(&self, _: &Task) -> Result<TaskCost, StoreError> {
        Ok(TaskCost::default())
    }

    async fn failures(&self, _: &Task, _: usize) -> Result<Vec<TaskFailure>, StoreError> {
        Ok(vec![])
    }

    async fn failure_days(&self, _: &TenantScope, _: Timestamp) -> Result<Vec<FailureDay>, StoreError> {
        Ok(vec![])
    }

    async fn wish(&self, _: &TenantScope, _: TaskId, _: Wish) -> Result<Option<Task>, StoreError> {
        Ok(None)
    }

    async fn forget_tasks(&self, _: Timestamp) -> Result<u64, StoreError> {
        Ok(0)
    }
}
