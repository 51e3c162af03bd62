//! What callers and runners ask of the writer about tasks.

use sqlx::SqliteConnection;

use crate::domain::{CallId, RunnerId, StepRecord, TaskFailure, TaskId, TenantScope, Timestamp, Wish};
use crate::store::{ClaimWish, Lease, LedgerEntry, NewTask, OpenCall, Rerun, StoreError, TaskEnd};

use super::writer::Answer;
use super::{task_claims, task_submits};

#[derive(Debug)]
pub(super) enum TaskRequest {
    Submit {
        scope: TenantScope,
        new: Box<NewTask>,
    },
    Rerun {
        scope: TenantScope,
        id: TaskId,
        rerun: Rerun,
    },
    Wish {
        scope: TenantScope,
        id: TaskId,
        wish: Wish,
    },
    /// A part of them, if they are many.
    Forget {
        before: Timestamp,
    },
    /// A part of them, if they are many.
    Promote {
        now: Timestamp,
    },
    Claim {
        runner: RunnerId,
        wishes: Vec<ClaimWish>,
        now: Timestamp,
    },
    Beat {
        runner: RunnerId,
    },
    TakeBack {
        runner: RunnerId,
        beat: u64,
    },
    TakeBackAll {
        now: Timestamp,
    },
}

/// A write to a task by whoever holds it.
#[derive(Debug)]
pub(super) struct LeasedWrite {
    pub lease: Lease,
    pub deed: Deed,
    pub ledger: Vec<LedgerEntry>,
}

#[derive(Debug)]
pub(super) enum Deed {
    /// A finished item.
    Record(Box<StepRecord>),
    /// A failed attempt; the task goes on.
    Failure(Box<TaskFailure>),
    /// `place` is the step's place and the item.
    Open {
        place: (u32, u32),
        call: Box<OpenCall>,
    },
    Expect(u64),
    End(Box<TaskEnd>, Option<Box<TaskFailure>>),
}

impl TaskRequest {
    /// About how much text it carries.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Submit { new, .. } => new.input.as_str().len(),
            _ => 0,
        }
    }
}

impl Deed {
    fn bytes(&self) -> usize {
        match self {
            Self::Record(record) => record.input.as_str().len() + record.output.as_str().len(),
            Self::End(end, _) => match &**end {
                TaskEnd::Succeeded { output } => output.as_str().len(),
                _ => 0,
            },
            Self::Failure(_) | Self::Open { .. } | Self::Expect(_) => 0,
        }
    }
}

impl LeasedWrite {
    /// About how much text it carries.
    pub(super) fn bytes(&self) -> usize {
        self.deed.bytes() + self.ledger.iter().map(LedgerEntry::bytes).sum::<usize>()
    }

    /// Calls whose end its entries tell.
    pub(super) fn ended_calls(&self) -> impl Iterator<Item = CallId> {
        self.ledger.iter().filter_map(|entry| match entry {
            LedgerEntry::Call(call) => Some(call.call_id),
            LedgerEntry::Settle { call_id, .. } => Some(*call_id),
            _ => None,
        })
    }
}

/// What one request is told: an error that is its own leaves its neighbours alone.
pub(super) type Reply = Result<Answer, StoreError>;

/// Applies one request. The outer error is the transaction's.
pub(super) async fn apply(
    connection: &mut SqliteConnection,
    request: &TaskRequest,
    now: Timestamp,
) -> Result<Reply, StoreError> {
    match request {
        TaskRequest::Submit { scope, new } => task_submits::submit(connection, scope, new, now).await,
        TaskRequest::Rerun { scope, id, rerun } => task_submits::rerun(connection, scope, (*id, rerun), now).await,
        TaskRequest::Wish { scope, id, wish } => {
            let task = task_claims::wish(connection, scope, (*id, *wish), now).await?;
            Ok(Ok(Answer::Task(task.map(Box::new))))
        }
        TaskRequest::Forget { before } => Ok(Ok(task_submits::forget(connection, *before).await?)),
        TaskRequest::Promote { now } => Ok(Ok(Answer::Changed(task_claims::promote(connection, *now).await?))),
        TaskRequest::Claim { runner, wishes, now } => {
            Ok(Ok(Answer::Claimed(task_claims::claim(connection, *runner, wishes, *now).await?)))
        }
        TaskRequest::Beat { runner } => {
            task_claims::beat(connection, *runner).await?;
            Ok(Ok(Answer::Done))
        }
        TaskRequest::TakeBack { runner, beat } => {
            Ok(Ok(Answer::Changed(task_claims::take_back(connection, (*runner, *beat), now).await?)))
        }
        TaskRequest::TakeBackAll { now } => {
            Ok(Ok(Answer::Changed(task_claims::take_back_all(connection, *now).await?)))
        }
    }
}
