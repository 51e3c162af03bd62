//! The one writer: takes calls from a queue and commits as many as are waiting with one fsync.
//!
//! No caller is answered before `COMMIT` has returned. Whatever fails in an fsync ends writing for good.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::{mpsc, oneshot, watch};

use crate::domain::{Budget, GenerationId, Sequence, Task, TenantId, Timestamp};
use crate::store::{LedgerEntry, StoreError, Submitted, WriteOutcome};

use super::catalog::{self, NewCollection};
use super::codec::Columns;
use super::erase::{self, Removal};
use super::failure::{Severity, Stage, severity, share, was_rolled_back_already};
use super::generation_requests::{self, GenerationAnswer, GenerationRequest};
use super::group::{Item, apply_wave, waves};
use super::plan::Ids;
use super::prepare::Change;
use super::task_requests::{LeasedWrite, Reply, TaskRequest};
use super::{ledger, task_requests, task_writes};

/// How often the length of the write-ahead log is looked up, in commits.
const COMMITS_BETWEEN_LOOKS: u64 = 16;
/// So many entries of the ledger take about the time of one document.
const ENTRIES_LIKE_A_WRITE: usize = 16;

/// Something to be committed, with the one who waits for it.
#[derive(Debug)]
pub(super) struct Call {
    pub request: Request,
    /// A caller that has gone is no reason not to write.
    pub answer: oneshot::Sender<Result<Answer, StoreError>>,
}

#[derive(Debug)]
pub(super) enum Request {
    Write {
        tenant: TenantId,
        changes: Vec<Change>,
    },
    OpenCollection(NewCollection),
    MarkIndexed {
        generation: GenerationId,
        through: Sequence,
    },
    Ledger(LedgerRequest),
    Tasks(TaskRequest),
    Generations(GenerationRequest),
    /// Those of one transaction are applied together.
    Leased(LeasedWrite),
    /// In a transaction of its own, behind the others.
    Remove(Removal),
}

#[derive(Debug)]
pub(super) enum LedgerRequest {
    Record(Vec<LedgerEntry>),
    PutBudget(Budget),
    /// A part of them, if they are many.
    ForgetTraces {
        before: Timestamp,
    },
}

/// What the caller of a request that is durable now is told.
#[derive(Debug)]
pub(super) enum Answer {
    /// One for each change.
    Outcomes(Vec<WriteOutcome>),
    Done,
    /// How many rows went.
    Removed(u64),
    Submitted(Box<Submitted>),
    Task(Option<Box<Task>>),
    /// One for each wish.
    Claimed(Vec<Option<Task>>),
    Generations(GenerationAnswer),
    /// How many attempts of the call are known.
    Attempts(u32),
    /// How many tasks changed their state.
    Changed(u64),
    /// How many runs went, and whether none is left that should go.
    Forgotten {
        runs: u64,
        is_all: bool,
    },
}

/// What the writer lets others see.
#[derive(Debug)]
pub(super) struct Signals {
    /// The newest sequence that is durable.
    pub committed: watch::Sender<Sequence>,
    pub poisoned: watch::Sender<bool>,
    /// Transactions that were committed, each with one fsync.
    pub commits: AtomicU64,
    /// How often generations have been changed as a whole since opening; grows after the change is durable.
    pub generation_changes: AtomicU64,
}

/// Bounds of a transaction and of the write-ahead log.
#[derive(Debug, Clone, Copy)]
pub(super) struct WriterLimits {
    pub group_writes: usize,
    pub group_bytes: usize,
    pub checkpoint_pages: i64,
}

pub(super) struct Writer {
    pub connection: SqliteConnection,
    pub calls: mpsc::Receiver<Call>,
    pub limits: WriterLimits,
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    pub signals: Arc<Signals>,
    pub ids: Ids,
}

/// Whether writes are applied together or each for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Isolation {
    Together,
    /// Slower, by a savepoint and some statements for each: when one of them fails, its neighbours stay.
    Apart,
}

/// One for each call. An error is the call's own: its neighbours are committed.
type Answers = Vec<Reply>;

/// What is applied as one: in a savepoint of its own where writes are applied apart.
enum Kept<'a> {
    Ledger(&'a LedgerRequest),
    Task(&'a TaskRequest),
    Generation(&'a GenerationRequest),
    Leased(&'a [&'a LeasedWrite]),
}

pub(super) struct Failure {
    pub error: StoreError,
    pub stage: Stage,
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self { error, stage: Stage::Statement }
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        StoreError::from(error).into()
    }
}

impl Writer {
    /// Works until the queue is closed and empty, then moves the log into the database file and closes it.
    pub(super) async fn run(mut self) -> Result<(), StoreError> {
        while let Some(first) = self.calls.recv().await {
            let group = self.gather(first);
            if self.is_poisoned() {
                answer_all(group, || StoreError::Poisoned);
            } else {
                self.commit_group(group).await;
                self.tend_log().await;
            }
        }
        let closed = if self.is_poisoned() { Ok(()) } else { self.checkpoint("PRAGMA wal_checkpoint(TRUNCATE)").await };
        self.connection.close().await?;
        closed
    }

    // Nobody is waited for: while a group is on its way to the disk, the next one gathers in the queue.
    fn gather(&mut self, first: Call) -> Vec<Call> {
        let (mut writes, mut bytes) = first.size();
        let mut group = vec![first];
        while writes < self.limits.group_writes && bytes < self.limits.group_bytes {
            let Ok(call) = self.calls.try_recv() else { break };
            let (more_writes, more_bytes) = call.size();
            writes += more_writes;
            bytes += more_bytes;
            group.push(call);
        }
        group
    }

    async fn commit_group(&mut self, group: Vec<Call>) {
        let (removals, group): (Vec<Call>, Vec<Call>) =
            group.into_iter().partition(|call| matches!(call.request, Request::Remove(_)));
        if !group.is_empty() {
            self.commit_together(group).await;
        }
        for call in removals {
            self.commit_removal(call).await;
        }
    }

    async fn commit_removal(&mut self, call: Call) {
        let Request::Remove(removal) = &call.request else { return };
        if self.is_poisoned() {
            return answer_all(vec![call], || StoreError::Poisoned);
        }
        let answer = match erase::remove(&mut self.connection, removal).await {
            Ok(answer) => {
                self.signals.commits.fetch_add(1, Ordering::Relaxed);
                Ok(answer)
            }
            Err(failure) => Err(self.give_up(failure, self.ids).await),
        };
        // The caller may have gone.
        let _ = call.answer.send(answer);
    }

    async fn commit_together(&mut self, group: Vec<Call>) {
        let ids = self.ids;
        let mut result = self.attempt(&group, Isolation::Together).await;
        if let Err(failure) = &result
            && severity(&failure.error, failure.stage) == Severity::Constraint
        {
            self.roll_back(ids).await;
            result = self.attempt(&group, Isolation::Apart).await;
        }
        match result {
            Ok(answers) => {
                self.signals.commits.fetch_add(1, Ordering::Relaxed);
                if group.iter().any(Call::changes_collections) {
                    self.signals.generation_changes.fetch_add(1, Ordering::Release);
                }
                self.signals.committed.send_replace(Sequence(self.ids.sequence as u64));
                for (call, answer) in group.into_iter().zip(answers) {
                    // The caller may have gone.
                    let _ = call.answer.send(answer);
                }
            }
            Err(failure) => {
                let error = self.give_up(failure, ids).await;
                answer_all(group, share(error));
            }
        }
    }

    /// Undoes what was begun, and returns what the callers are told.
    async fn give_up(&mut self, Failure { error, stage }: Failure, ids: Ids) -> StoreError {
        self.roll_back(ids).await;
        if severity(&error, stage) == Severity::Fatal {
            self.poison(&error);
            return StoreError::Poisoned;
        }
        error
    }

    async fn attempt(&mut self, group: &[Call], isolation: Isolation) -> Result<Answers, Failure> {
        let now = (self.clock)();
        sqlx::query("BEGIN IMMEDIATE").execute(&mut self.connection).await?;
        for call in group {
            if let Request::OpenCollection(new) = &call.request {
                catalog::create(&mut self.connection, new, now).await?;
            }
        }
        let mut items = Vec::new();
        for call in group {
            if let Request::Write { tenant, changes } = &call.request {
                items.extend(changes.iter().map(|change| Item { tenant, change }));
            }
        }
        let mut outcomes = self.apply(&items, isolation, now).await?.into_iter();
        let mut leased = self.write_under_leases(group, isolation, now).await?.into_iter();
        let mut answers = Vec::with_capacity(group.len());
        for call in group {
            answers.push(match &call.request {
                Request::OpenCollection(_) => Ok(Answer::Done),
                Request::Write { changes, .. } => Ok(Answer::Outcomes(outcomes.by_ref().take(changes.len()).collect())),
                Request::MarkIndexed { generation, through } => {
                    catalog::mark_indexed(&mut self.connection, *generation, *through, now).await?;
                    Ok(Answer::Done)
                }
                Request::Leased(_) => leased.next().expect("each write under a lease is answered"),
                Request::Ledger(request) => self.keep(Kept::Ledger(request), isolation, now).await?.remove(0),
                Request::Tasks(request) => self.keep(Kept::Task(request), isolation, now).await?.remove(0),
                Request::Generations(request) => self.keep(Kept::Generation(request), isolation, now).await?.remove(0),
                Request::Remove(_) => Ok(Answer::Done),
            });
        }
        let committed = sqlx::query("COMMIT").execute(&mut self.connection).await;
        committed.map_err(|error| Failure { error: error.into(), stage: Stage::Sync })?;
        Ok(answers)
    }

    // Before all other requests about tasks: a caller that left a write behind and lets go of its task has written first.
    async fn write_under_leases(
        &mut self,
        group: &[Call],
        isolation: Isolation,
        now: Timestamp,
    ) -> Result<Answers, StoreError> {
        let leased = group.iter().filter_map(|call| match &call.request {
            Request::Leased(write) => Some(write),
            _ => None,
        });
        let writes: Vec<&LeasedWrite> = leased.collect();
        if isolation == Isolation::Together {
            return self.keep(Kept::Leased(&writes), isolation, now).await;
        }
        let mut answers = Vec::with_capacity(writes.len());
        for write in writes {
            answers.extend(self.keep(Kept::Leased(&[write]), isolation, now).await?);
        }
        Ok(answers)
    }

    // In the order of the calls: of two budgets with the same scope the later one holds.
    async fn keep(&mut self, kept: Kept<'_>, isolation: Isolation, now: Timestamp) -> Result<Answers, StoreError> {
        match isolation {
            Isolation::Together => self.keep_plainly(kept, now).await,
            Isolation::Apart => {
                let ids = self.ids;
                sqlx::query("SAVEPOINT item").execute(&mut self.connection).await?;
                let answers = match self.keep_plainly(kept, now).await {
                    Err(error) if severity(&error, Stage::Statement) == Severity::Constraint => {
                        sqlx::query("ROLLBACK TO item").execute(&mut self.connection).await?;
                        self.ids = ids;
                        vec![Err(error)]
                    }
                    other => other?,
                };
                sqlx::query("RELEASE item").execute(&mut self.connection).await?;
                Ok(answers)
            }
        }
    }

    async fn keep_plainly(&mut self, kept: Kept<'_>, now: Timestamp) -> Result<Answers, StoreError> {
        match kept {
            Kept::Ledger(request) => {
                Ok(vec![Ok(ledger::apply(&mut self.connection, &mut self.ids, request, now).await?)])
            }
            Kept::Task(request) => Ok(vec![task_requests::apply(&mut self.connection, request, now).await?]),
            Kept::Generation(request) => {
                Ok(vec![generation_requests::apply(&mut self.connection, request, now).await?])
            }
            Kept::Leased(writes) => task_writes::apply(&mut self.connection, &mut self.ids, writes, now).await,
        }
    }

    async fn apply(
        &mut self,
        items: &[Item<'_>],
        isolation: Isolation,
        now: Timestamp,
    ) -> Result<Vec<WriteOutcome>, StoreError> {
        let mut outcomes: Vec<Option<WriteOutcome>> = items.iter().map(|_| None).collect();
        for wave in waves(items) {
            let members: Vec<Item<'_>> = wave.iter().map(|index| items[*index]).collect();
            let results = match isolation {
                Isolation::Together => apply_wave(&mut self.connection, &mut self.ids, now, &members).await?,
                Isolation::Apart => self.apply_apart(&members, now).await?,
            };
            for (index, outcome) in wave.into_iter().zip(results) {
                outcomes[index] = Some(outcome);
            }
        }
        Ok(outcomes.into_iter().map(|outcome| outcome.expect("each item is in one wave")).collect())
    }

    async fn apply_apart(&mut self, items: &[Item<'_>], now: Timestamp) -> Result<Vec<WriteOutcome>, StoreError> {
        let mut outcomes = Vec::with_capacity(items.len());
        for item in items {
            let ids = self.ids;
            sqlx::query("SAVEPOINT item").execute(&mut self.connection).await?;
            match apply_wave(&mut self.connection, &mut self.ids, now, std::slice::from_ref(item)).await {
                Ok(outcome) => outcomes.extend(outcome),
                Err(error) if severity(&error, Stage::Statement) == Severity::Constraint => {
                    sqlx::query("ROLLBACK TO item").execute(&mut self.connection).await?;
                    self.ids = ids;
                    outcomes.push(WriteOutcome::Failed(error));
                }
                Err(error) => return Err(error),
            }
            sqlx::query("RELEASE item").execute(&mut self.connection).await?;
        }
        Ok(outcomes)
    }

    async fn roll_back(&mut self, ids: Ids) {
        self.ids = ids;
        match sqlx::query("ROLLBACK").execute(&mut self.connection).await {
            Ok(_) => {}
            Err(error) if was_rolled_back_already(&error) => {}
            Err(error) => self.poison(&error.into()),
        }
    }

    // SQLite's own checkpoints ignore their errors, so they are off: a failed fsync must not be tried again.
    async fn tend_log(&mut self) {
        let commits = self.signals.commits.load(Ordering::Relaxed);
        if self.is_poisoned() || !commits.is_multiple_of(COMMITS_BETWEEN_LOOKS) {
            return;
        }
        if let Err(error) = self.shorten_log().await
            && severity(&error, Stage::Sync) == Severity::Fatal
        {
            self.poison(&error);
        }
    }

    async fn shorten_log(&mut self) -> Result<(), StoreError> {
        if log_pages(&mut self.connection).await? > self.limits.checkpoint_pages {
            self.checkpoint("PRAGMA wal_checkpoint(PASSIVE)").await?;
        }
        Ok(())
    }

    async fn checkpoint(&mut self, pragma: &'static str) -> Result<(), StoreError> {
        sqlx::query(pragma).fetch_one(&mut self.connection).await?;
        Ok(())
    }

    fn is_poisoned(&self) -> bool {
        *self.signals.poisoned.borrow()
    }

    fn poison(&self, error: &StoreError) {
        let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
        tracing::error!(%error, cause, "a write could not be made durable; writing stops");
        self.signals.poisoned.send_replace(true);
    }
}

impl Call {
    fn changes_collections(&self) -> bool {
        matches!(&self.request, Request::Generations(request) if request.changes_collections())
    }

    // Rows that are about as much work as a document, and bytes.
    fn size(&self) -> (usize, usize) {
        match &self.request {
            Request::Write { changes, .. } => (changes.len(), changes.iter().map(|change| change.bytes).sum()),
            Request::Ledger(LedgerRequest::Record(entries)) => {
                (entries.len() / ENTRIES_LIKE_A_WRITE, entries.iter().map(LedgerEntry::bytes).sum())
            }
            Request::Leased(write) => (write.ledger.len() / ENTRIES_LIKE_A_WRITE, write.bytes()),
            Request::Tasks(request) => (0, request.bytes()),
            Request::Generations(request) => (0, request.bytes()),
            Request::OpenCollection(_) | Request::MarkIndexed { .. } | Request::Ledger(_) | Request::Remove(_) => {
                (0, 0)
            }
        }
    }
}

// How many pages the write-ahead log holds, whether or not they are in the database file already.
async fn log_pages(connection: &mut SqliteConnection) -> Result<i64, StoreError> {
    let row = sqlx::query("PRAGMA wal_checkpoint(NOOP)").fetch_one(&mut *connection).await?;
    let mut columns = Columns::of(&row);
    columns.skip(1);
    columns.take()
}

fn answer_all(group: Vec<Call>, error: impl Fn() -> StoreError) {
    for call in group {
        // The caller may have gone.
        let _ = call.answer.send(Err(error()));
    }
}
