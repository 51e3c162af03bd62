//! Many small entries on their way to the ledger, committed together.
//!
//! Entries that nobody waits for are committed at most [`FLUSH_EVERY`] after they were submitted: a crash can lose
//! those last rows, never money, since what budgets count is reserved durably before a call. An entry that somebody
//! waits for takes all that came before it along at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::ledger::{Ledger, LedgerEntry};
use super::StoreError;

/// Longest time that an entry nobody waits for stays in memory. 20 ms: 50 commits a second at most.
const FLUSH_EVERY: Duration = Duration::from_millis(20);
/// Most entries in one transaction.
const GROUP: usize = 512;
/// Entries that may wait; beyond it callers wait for room.
const ROOM: usize = 8_192;

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
        if self.sender.send(Item { entries, durable: None }).await.is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// As [`Self::submit`] where nobody can wait (a dropped call); false if the queue is full or closed.
    pub fn try_submit(&self, entries: Vec<LedgerEntry>) -> bool {
        let taken = self.sender.try_send(Item { entries, durable: None }).is_ok();
        if !taken {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    /// Submits entries and waits until they, and all before them, are durable.
    pub async fn submit_durable(&self, entries: Vec<LedgerEntry>) -> Result<(), NotDurable> {
        let (durable, outcome) = oneshot::channel();
        let item = Item { entries, durable: Some(durable) };
        self.sender.send(item).await.map_err(|_| NotDurable::Closed)?;
        outcome.await.map_err(|_| NotDurable::Closed)?.map_err(NotDurable::Failed)
    }

    /// Entries that could not be written, since the start.
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
        for item in group.drain(..) {
            entries.extend(item.entries);
            waiting.extend(item.durable);
        }
        let count = entries.len() as u64;
        let written = ledger.record(entries).await.map_err(Arc::new);
        if let Err(error) = &written {
            lost.fetch_add(count, Ordering::Relaxed);
            tracing::error!(%error, entries = count, "ledger entries could not be written");
        }
        for durable in waiting {
            // Whoever waited may have gone.
            let _ = durable.send(written.clone());
        }
    }
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
