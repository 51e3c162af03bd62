//! Many small entries on their way to the ledger, committed together.
//!
//! Entries that nobody waits for are committed at most [`FLUSH_EVERY`] after they were submitted: a crash can lose
//! those last rows, never money, since what budgets count is reserved durably before a call. An entry that somebody
//! waits for takes all that came before it along at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::StoreError;
use super::ledger::{Ledger, LedgerEntry};

/// Longest time that an entry nobody waits for stays in memory. 20 ms: 50 commits a second at most.
const FLUSH_EVERY: Duration = Duration::from_millis(20);
/// Most submissions in one transaction.
const GROUP: usize = 512;
/// Submissions that may wait; beyond it callers wait for room.
const ROOM: usize = 8_192;
/// Attempts to write a group, the first wait between them doubling: 0.75 s in all, after which a reservation is refused
/// and rows are lost, which `/readyz` says.
const ATTEMPTS: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_millis(50);

struct Item {
    entries: Vec<LedgerEntry>,
    durable: Option<oneshot::Sender<Result<(), Arc<StoreError>>>>,
}

/// Hands entries to a [`Ledger`] in groups. Clones share one queue.
#[derive(Clone)]
pub struct LedgerQueue {
    sender: mpsc::Sender<Item>,
    lost: Arc<AtomicU64>,
}

/// Why an entry did not become durable.
#[derive(Debug, thiserror::Error)]
pub enum NotDurable {
    #[error("the ledger could not be written")]
    Failed(#[source] Arc<StoreError>),
    #[error("the ledger is closed")]
    Closed,
}

impl LedgerQueue {
    /// A queue and the task that empties it; the task ends once every clone of the queue is gone and all is written.
    pub fn start(ledger: Arc<dyn Ledger>) -> (Self, JoinHandle<()>) {
        let (sender, receiver) = mpsc::channel(ROOM);
        let lost = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(empty(ledger, receiver, Arc::clone(&lost)));
        (Self { sender, lost }, task)
    }

    /// Submits entries that belong together; returns once they are in the queue.
    pub async fn submit(&self, entries: Vec<LedgerEntry>) {
        let count = entries.len() as u64;
        if self.sender.send(Item { entries, durable: None }).await.is_err() {
            self.lost.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// As [`Self::submit`] where nobody can wait (a dropped call); false if the queue is closed.
    pub fn try_submit(&self, entries: Vec<LedgerEntry>) -> bool {
        let count = entries.len() as u64;
        let lost = || {
            self.lost.fetch_add(count, Ordering::Relaxed);
            false
        };
        match self.sender.try_send(Item { entries, durable: None }) {
            Ok(()) => true,
            Err(TrySendError::Closed(_)) => lost(),
            // A call that was made must be told: it waits for room on its own, one task for each call that has ended.
            Err(TrySendError::Full(item)) => match tokio::runtime::Handle::try_current() {
                Ok(runtime) => {
                    let queue = self.clone();
                    runtime.spawn(async move { queue.submit(item.entries).await });
                    true
                }
                Err(_) => lost(),
            },
        }
    }

    /// Submits entries and waits until they, and all before them, are durable.
    pub async fn submit_durable(&self, entries: Vec<LedgerEntry>) -> Result<(), NotDurable> {
        let (durable, outcome) = oneshot::channel();
        let item = Item { entries, durable: Some(durable) };
        self.sender.send(item).await.map_err(|_| NotDurable::Closed)?;
        outcome.await.map_err(|_| NotDurable::Closed)?.map_err(NotDurable::Failed)
    }

    /// Entries that nobody waited for and that could not be taken, and all that could not be written, since the start.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

async fn empty(ledger: Arc<dyn Ledger>, mut receiver: mpsc::Receiver<Item>, lost: Arc<AtomicU64>) {
    let mut group = Vec::new();
    while let Some(first) = receiver.recv().await {
        group.push(first);
        gather(&mut receiver, &mut group).await;
        let mut waiting = Vec::new();
        let mut entries = Vec::new();
        for item in &mut group {
            entries.extend(item.entries.iter().cloned());
            waiting.extend(item.durable.take());
        }
        let mut written = record_patiently(ledger.as_ref(), entries).await;
        if written.is_err() && group.len() > 1 {
            // One submission that cannot be written must not take the others with it.
            written = Ok(());
            for item in &group {
                let alone = record_patiently(ledger.as_ref(), item.entries.clone()).await;
                if alone.is_err() {
                    lost.fetch_add(item.entries.len() as u64, Ordering::Relaxed);
                    written = alone;
                }
            }
        } else if written.is_err() {
            lost.fetch_add(group.iter().map(|item| item.entries.len() as u64).sum(), Ordering::Relaxed);
        }
        group.clear();
        let written = written.map_err(Arc::new);
        for durable in waiting {
            // Whoever waited may have gone. If anything of the group was lost, they are told so, even if theirs was not.
            let _ = durable.send(written.clone());
        }
    }
}

/// Writes the entries; a failure that may pass, such as a full disk, is waited out for a while.
async fn record_patiently(ledger: &dyn Ledger, entries: Vec<LedgerEntry>) -> Result<(), StoreError> {
    let mut wait = FIRST_WAIT;
    for _ in 1..ATTEMPTS {
        match ledger.record(entries.clone()).await {
            Err(error) if may_pass(&error) => {
                tracing::warn!(%error, entries = entries.len(), "ledger entries could not be written; trying again");
            }
            outcome => return outcome,
        }
        tokio::time::sleep(wait).await;
        wait *= 2;
    }
    let count = entries.len();
    ledger.record(entries).await.inspect_err(|error| {
        tracing::error!(%error, entries = count, "ledger entries could not be written");
    })
}

fn may_pass(error: &StoreError) -> bool {
    error.kind().is_retryable() && !matches!(error, StoreError::Poisoned | StoreError::Closed)
}

/// Takes what comes until somebody waits, the group is full, or the first has waited long enough.
async fn gather(receiver: &mut mpsc::Receiver<Item>, group: &mut Vec<Item>) {
    let until = Instant::now() + FLUSH_EVERY;
    while group.len() < GROUP {
        if group.iter().any(|item| item.durable.is_some()) {
            // At once, but with those who came meanwhile.
            while group.len() < GROUP
                && let Ok(item) = receiver.try_recv()
            {
                group.push(item);
            }
            return;
        }
        match timeout_at(until, receiver.recv()).await {
            Ok(Some(item)) => group.push(item),
            Ok(None) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use parking_lot::Mutex;

    use crate::domain::{Account, Amount, Budget, CallId, Reservation, TenantScope, Timestamp, TraceId, TraceStory};
    use crate::store::{StoredBudget, UsageBy, UsageRow};

    use super::*;

    /// Keeps in memory which calls were settled in which record.
    #[derive(Default)]
    struct InMemory {
        records: Mutex<Vec<Vec<u8>>>,
        is_full: bool,
    }

    #[async_trait]
    impl Ledger for InMemory {
        async fn record(&self, entries: Vec<LedgerEntry>) -> Result<(), StoreError> {
            if self.is_full {
                return Err(StoreError::Poisoned);
            }
            let number = |entry: &LedgerEntry| match entry {
                LedgerEntry::Settle { call_id, .. } => call_id.0[0],
                _ => unreachable!("these tests only settle"),
            };
            self.records.lock().push(entries.iter().map(number).collect());
            Ok(())
        }

        async fn trace(&self, _: &TenantScope, _: TraceId) -> Result<Option<TraceStory>, StoreError> {
            Ok(None)
        }

        async fn usage(
            &self,
            _: &TenantScope,
            _: UsageBy,
            _: Timestamp,
            _: usize,
        ) -> Result<Vec<UsageRow>, StoreError> {
            Ok(Vec::new())
        }

        async fn spent(&self, _: Timestamp) -> Result<Vec<(Account, Amount)>, StoreError> {
            Ok(Vec::new())
        }

        async fn reservations(&self) -> Result<Vec<Reservation>, StoreError> {
            Ok(Vec::new())
        }

        async fn budgets(&self) -> Result<Vec<StoredBudget>, StoreError> {
            Ok(Vec::new())
        }

        async fn put_budget(&self, _: Budget) -> Result<(), StoreError> {
            Ok(())
        }

        async fn forget_traces(&self, _: Timestamp) -> Result<u64, StoreError> {
            Ok(0)
        }
    }

    fn entry(number: u8) -> Vec<LedgerEntry> {
        vec![LedgerEntry::Settle { call_id: CallId([number; 16]), charges: Vec::new() }]
    }

    #[tokio::test(start_paused = true)]
    async fn a_submission_that_somebody_waits_for_takes_the_earlier_ones_along_at_once() {
        let ledger = Arc::new(InMemory::default());
        let (queue, _task) = LedgerQueue::start(Arc::clone(&ledger) as Arc<dyn Ledger>);
        let start = Instant::now();
        queue.submit(entry(1)).await;
        queue.submit(entry(2)).await;

        queue.submit_durable(entry(3)).await.unwrap();

        assert_eq!(*ledger.records.lock(), [vec![1, 2, 3]]);
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_waits_for_is_written_together_and_soon() {
        let ledger = Arc::new(InMemory::default());
        let (queue, _task) = LedgerQueue::start(Arc::clone(&ledger) as Arc<dyn Ledger>);
        queue.submit(entry(1)).await;
        tokio::time::sleep(FLUSH_EVERY / 2).await;
        assert!(queue.try_submit(entry(2)));
        assert!(ledger.records.lock().is_empty());

        tokio::time::sleep(FLUSH_EVERY).await;

        assert_eq!(*ledger.records.lock(), [vec![1, 2]]);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_lost_when_the_queue_is_dropped() {
        let ledger = Arc::new(InMemory::default());
        let (queue, task) = LedgerQueue::start(Arc::clone(&ledger) as Arc<dyn Ledger>);
        for number in 0..GROUP * 2 + 7 {
            queue.submit(entry(number as u8)).await;
        }

        drop(queue);
        task.await.unwrap();

        let records = ledger.records.lock();
        let written: Vec<u8> = records.iter().flatten().copied().collect();
        assert_eq!(written, (0..GROUP * 2 + 7).map(|number| number as u8).collect::<Vec<_>>());
        assert!(records.iter().all(|record| record.len() <= GROUP));
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_written_is_counted_and_told_to_those_who_wait() {
        let ledger = Arc::new(InMemory { is_full: true, ..InMemory::default() });
        let (queue, _task) = LedgerQueue::start(ledger);
        queue.submit([entry(1), entry(2)].concat()).await;

        let told = queue.submit_durable(entry(3)).await;

        assert!(matches!(&told, Err(NotDurable::Failed(error)) if matches!(**error, StoreError::Poisoned)), "{told:?}");
        assert_eq!(queue.lost(), 3);
    }
}
