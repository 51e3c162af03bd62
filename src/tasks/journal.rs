//! The calls to language models of a task under way, until the step that made them is recorded.
//!
//! Nothing noted is lost: what no step takes along goes with the end of the task. What comes later still is not needed: a
//! call that is open at the end of its task is charged at its worst case by the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::domain::{CallId, TaskId, hash_parts};
use crate::store::{CallJournal, Lease, LedgerEntry, NotDurable, OpenCall, StoreError, TaskQueue};

/// A step's place in its task, and an item of it.
pub(super) type ItemPlace = (u32, u32);

/// What was noted for one task.
pub(super) struct Book {
    pub queue: Arc<dyn TaskQueue>,
    pub lease: Lease,
    pub task: TaskId,
    pub run: u32,
    /// `None` once the task has been let go.
    noted: Mutex<Option<Vec<(ItemPlace, LedgerEntry)>>>,
}

impl Book {
    pub(super) fn new(queue: Arc<dyn TaskQueue>, lease: Lease, (task, run): (TaskId, u32)) -> Self {
        Self { queue, lease, task, run, noted: Mutex::new(Some(Vec::new())) }
    }

    /// Takes out what was noted for an item.
    pub(super) fn take(&self, place: ItemPlace) -> Vec<LedgerEntry> {
        let mut noted = self.noted.lock();
        let Some(noted) = noted.as_mut() else { return Vec::new() };
        noted.extract_if(.., |(of, _)| *of == place).map(|(_, entry)| entry).collect()
    }

    /// Takes entries in, or back.
    pub(super) fn note(&self, place: ItemPlace, entries: Vec<LedgerEntry>) {
        if let Some(noted) = self.noted.lock().as_mut() {
            noted.extend(entries.into_iter().map(|entry| (place, entry)));
        }
    }

    /// Takes entries back unless a write brought them along; one that came too late for its lease has no use for them.
    pub(super) fn keep_unwritten(&self, written: &Result<(), StoreError>, place: ItemPlace, entries: Vec<LedgerEntry>) {
        if !matches!(written, Ok(()) | Err(StoreError::LeaseLost { .. })) {
            self.note(place, entries);
        }
    }

    /// Takes everything out for the last time.
    pub(super) fn close(&self) -> Vec<LedgerEntry> {
        self.noted.lock().take().unwrap_or_default().into_iter().map(|(_, entry)| entry).collect()
    }
}

/// The page of one attempt of one item.
pub(super) struct Journal {
    book: Arc<Book>,
    place: ItemPlace,
    /// Of the item, from 1. A crash leaves it as it was, a failure that was recorded does not: a call that the crash cut
    /// off keeps its id, one whose reply was of no use gets another, or a server would answer it with that reply again.
    attempt: u32,
    calls: AtomicU32,
}

impl Journal {
    pub(super) fn new(book: Arc<Book>, place: ItemPlace, attempt: u32) -> Self {
        Self { book, place, attempt, calls: AtomicU32::new(0) }
    }
}

#[async_trait]
impl CallJournal for Journal {
    fn next_call_id(&self) -> CallId {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let numbers = [self.book.run, self.place.0, self.place.1, self.attempt, call];
        let numbers: Vec<u8> = numbers.into_iter().flat_map(u32::to_le_bytes).collect();
        CallId(hash_parts(&[b"call", &self.book.task.0, &numbers]))
    }

    async fn open(&self, call: OpenCall) -> Result<u32, NotDurable> {
        let opened = self.book.queue.open_call(self.book.lease, self.place, call).await;
        opened.map_err(|error| NotDurable::Failed(Arc::new(error)))
    }

    fn note(&self, entries: Vec<LedgerEntry>) {
        self.book.note(self.place, entries);
    }
}
