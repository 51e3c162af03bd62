//! Tasks as their callers and runners see them: reads on the readers' connections, writes through the one writer.

use async_trait::async_trait;

use crate::domain::{
    FailureDay, RunnerId, Sequence, StepName, StepRecord, StepSummary, Task, TaskFailure, TaskId, TaskKey, TaskKind,
    TaskStatus, TenantScope, Timestamp, Wish,
};
use crate::store::{
    ClaimWish, EarlierWrote, Lease, LedgerEntry, NewTask, OpenCall, Page, QueueView, Rerun, StoreError, Submitted,
    TaskCost, TaskEnd, TaskFilter, TaskQueue, TaskStore,
};

use super::store::SqliteStore;
use super::task_requests::{Deed, LeasedWrite, TaskRequest};
use super::writer::{Answer, Request};
use super::{ledger_reads, queue_reads, task_reads};

impl SqliteStore {
    // What runners have done has happened, and what callers stop is stopped: neither is refused for want of room.
    async fn ask(&self, request: TaskRequest) -> Result<Answer, StoreError> {
        self.send_patiently(Request::Tasks(request)).await
    }

    async fn under_lease(&self, lease: Lease, deed: Deed, ledger: Vec<LedgerEntry>) -> Result<Answer, StoreError> {
        self.send_patiently(Request::Leased(LeasedWrite { lease, deed, ledger })).await
    }
}

fn out_of_place() -> StoreError {
    StoreError::Sql(sqlx::Error::Protocol("the writer gave the answer of another request".to_owned()))
}

fn task_of(answer: Answer) -> Result<Option<Task>, StoreError> {
    match answer {
        Answer::Task(task) => Ok(task.map(|task| *task)),
        _ => Err(out_of_place()),
    }
}

fn changed_of(answer: Answer) -> Result<u64, StoreError> {
    match answer {
        Answer::Changed(tasks) => Ok(tasks),
        _ => Err(out_of_place()),
    }
}

#[async_trait]
impl TaskStore for SqliteStore {
    async fn submit(&self, scope: &TenantScope, new: NewTask) -> Result<Submitted, StoreError> {
        let request = TaskRequest::Submit { scope: scope.clone(), new: Box::new(new) };
        match self.send(Request::Tasks(request)).await? {
            Answer::Submitted(submitted) => Ok(*submitted),
            _ => Err(out_of_place()),
        }
    }

    async fn rerun(&self, scope: &TenantScope, id: TaskId, rerun: Rerun) -> Result<Option<Task>, StoreError> {
        task_of(self.send(Request::Tasks(TaskRequest::Rerun { scope: scope.clone(), id, rerun })).await?)
    }

    async fn task(&self, scope: &TenantScope, id: TaskId, run: Option<u32>) -> Result<Option<Task>, StoreError> {
        task_reads::task(self.lend().await?.connection(), scope, (id, run)).await
    }

    async fn tasks(
        &self,
        scope: &TenantScope,
        filter: &TaskFilter,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<Task>, StoreError> {
        task_reads::tasks(self.lend().await?.connection(), scope, filter, (cursor, limit)).await
    }

    async fn steps(&self, task: &Task) -> Result<Vec<StepSummary>, StoreError> {
        task_reads::steps(self.lend().await?.connection(), task.key).await
    }

    async fn items(
        &self,
        task: &Task,
        step: &StepName,
        from: u32,
        limit: usize,
    ) -> Result<Vec<StepRecord>, StoreError> {
        task_reads::items(self.lend().await?.connection(), task.key, step, (from, limit)).await
    }

    async fn cost(&self, task: &Task) -> Result<TaskCost, StoreError> {
        ledger_reads::cost(self.lend().await?.connection(), &task.scope.tenant, task.trace_id).await
    }

    async fn failures(&self, task: &Task, limit: usize) -> Result<Vec<TaskFailure>, StoreError> {
        task_reads::failures(self.lend().await?.connection(), task.key, limit).await
    }

    async fn earlier_wrote(&self, task: &Task, sequence: Sequence) -> Result<EarlierWrote, StoreError> {
        task_reads::earlier_wrote(self.lend().await?.connection(), task, sequence).await
    }

    async fn failure_days(&self, scope: &TenantScope, since: Timestamp) -> Result<Vec<FailureDay>, StoreError> {
        task_reads::failure_days(self.lend().await?.connection(), Some(&scope.tenant), since).await
    }

    async fn wish(&self, scope: &TenantScope, id: TaskId, wish: Wish) -> Result<Option<Task>, StoreError> {
        task_of(self.ask(TaskRequest::Wish { scope: scope.clone(), id, wish }).await?)
    }

    async fn forget_tasks(&self, before: Timestamp) -> Result<u64, StoreError> {
        let mut forgotten = 0;
        loop {
            // In parts, so that others may write in between.
            let Answer::Forgotten { runs, is_all } = self.ask(TaskRequest::Forget { before }).await? else {
                return Err(out_of_place());
            };
            forgotten += runs;
            if is_all {
                return Ok(forgotten);
            }
        }
    }
}

#[async_trait]
impl TaskQueue for SqliteStore {
    async fn promote_ready(&self, now: Timestamp) -> Result<u64, StoreError> {
        let mut promoted = 0;
        // Asked of a reader, since mostly nothing is due; in parts, so that others may write in between.
        while queue_reads::is_due(self.lend().await?.connection(), now).await? {
            promoted += changed_of(self.ask(TaskRequest::Promote { now }).await?)?;
        }
        Ok(promoted)
    }

    async fn queue(&self, now: Timestamp, per_line: usize) -> Result<QueueView, StoreError> {
        queue_reads::queue(self.lend().await?.connection(), now, per_line).await
    }

    async fn claim(
        &self,
        runner: RunnerId,
        wishes: Vec<ClaimWish>,
        now: Timestamp,
    ) -> Result<Vec<Option<Task>>, StoreError> {
        if wishes.is_empty() {
            return Ok(Vec::new());
        }
        match self.ask(TaskRequest::Claim { runner, wishes, now }).await? {
            Answer::Claimed(tasks) => Ok(tasks),
            _ => Err(out_of_place()),
        }
    }

    async fn recorded(&self, key: TaskKey) -> Result<Vec<StepRecord>, StoreError> {
        queue_reads::recorded(self.lend().await?.connection(), key).await
    }

    async fn failed_attempts(&self, key: TaskKey) -> Result<Vec<(StepName, u32, u32)>, StoreError> {
        queue_reads::failed_attempts(self.lend().await?.connection(), key).await
    }

    async fn open_call(&self, lease: Lease, place: (u32, u32), call: OpenCall) -> Result<u32, StoreError> {
        let ledger = call.reservation.clone().map(LedgerEntry::Reserve).into_iter().collect();
        match self.under_lease(lease, Deed::Open { place, call: Box::new(call) }, ledger).await? {
            Answer::Attempts(attempts) => Ok(attempts),
            _ => Err(out_of_place()),
        }
    }

    async fn checkpoint(&self, lease: Lease, record: StepRecord, ledger: Vec<LedgerEntry>) -> Result<(), StoreError> {
        self.under_lease(lease, Deed::Record(Box::new(record)), ledger).await.map(drop)
    }

    async fn note_failure(
        &self,
        lease: Lease,
        failure: TaskFailure,
        ledger: Vec<LedgerEntry>,
    ) -> Result<(), StoreError> {
        self.under_lease(lease, Deed::Failure(Box::new(failure)), ledger).await.map(drop)
    }

    async fn expect(&self, lease: Lease, total: u64) -> Result<(), StoreError> {
        self.under_lease(lease, Deed::Expect(total), Vec::new()).await.map(drop)
    }

    async fn end(
        &self,
        lease: Lease,
        end: TaskEnd,
        failure: Option<TaskFailure>,
        ledger: Vec<LedgerEntry>,
    ) -> Result<(), StoreError> {
        self.under_lease(lease, Deed::End(Box::new(end), failure.map(Box::new)), ledger).await.map(drop)
    }

    async fn wishes(&self, runner: RunnerId) -> Result<Vec<(TaskKey, Wish)>, StoreError> {
        queue_reads::wishes(self.lend().await?.connection(), runner).await
    }

    async fn beat(&self, runner: RunnerId) -> Result<(), StoreError> {
        self.ask(TaskRequest::Beat { runner }).await.map(drop)
    }

    async fn holders(&self) -> Result<Vec<(RunnerId, u64)>, StoreError> {
        queue_reads::holders(self.lend().await?.connection()).await
    }

    async fn take_back(&self, runner: RunnerId, beat: u64) -> Result<u64, StoreError> {
        changed_of(self.ask(TaskRequest::TakeBack { runner, beat }).await?)
    }

    async fn take_back_all(&self, now: Timestamp) -> Result<u64, StoreError> {
        changed_of(self.ask(TaskRequest::TakeBackAll { now }).await?)
    }

    async fn failure_days_of_all(&self, since: Timestamp) -> Result<Vec<FailureDay>, StoreError> {
        task_reads::failure_days(self.lend().await?.connection(), None, since).await
    }

    async fn counts(&self) -> Result<Vec<(TaskKind, TaskStatus, u64)>, StoreError> {
        queue_reads::counts(self.lend().await?.connection()).await
    }
}
