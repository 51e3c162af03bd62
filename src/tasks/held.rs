//! The tasks that a runner holds, and what each of them has been told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::domain::TaskKey;
use crate::store::Lease;

/// What a task under way has been told. Later ones weigh more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Signal {
    Go,
    /// Begin nothing more: somebody wants it to pause.
    Pause,
    /// Begin nothing more: the process stops.
    Drain,
    /// Stop where you are: the process stops, or the lease may be lost.
    Release,
    /// Stop where you are: somebody does not want it any more.
    Cancel,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Held {
    tasks: Mutex<BTreeMap<(TaskKey, u64), watch::Sender<Signal>>>,
    /// There was one since somebody asked.
    any: AtomicBool,
}

impl Held {
    /// Counts a task as held for as long as the answer lives.
    pub(super) fn hold(self: &Arc<Self>, lease: Lease) -> Hold {
        let (sender, signal) = watch::channel(Signal::Go);
        let place = (lease.key, lease.epoch);
        self.tasks.lock().insert(place, sender);
        self.any.store(true, Ordering::Release);
        Hold { held: Arc::clone(self), place, signal }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tasks.lock().is_empty()
    }

    /// True if any task was held since this was asked last, however briefly.
    pub(super) fn was_any(&self) -> bool {
        self.any.swap(false, Ordering::AcqRel) || !self.is_empty()
    }

    /// Tells all of them.
    pub(super) fn tell_all(&self, signal: Signal) {
        self.tasks.lock().values().for_each(|sender| tell(sender, signal));
    }

    /// Tells one of them, if it is held.
    pub(super) fn tell(&self, task: TaskKey, signal: Signal) {
        let tasks = self.tasks.lock();
        tasks.range((task, 0)..=(task, u64::MAX)).for_each(|(_, sender)| tell(sender, signal));
    }
}

fn tell(sender: &watch::Sender<Signal>, signal: Signal) {
    sender.send_if_modified(|told| std::mem::replace(told, signal.max(*told)) < signal);
}

/// A task that is held.
#[derive(Debug)]
pub(super) struct Hold {
    held: Arc<Held>,
    place: (TaskKey, u64),
    signal: watch::Receiver<Signal>,
}

impl Hold {
    pub(super) fn told(&self) -> Signal {
        *self.signal.borrow()
    }

    /// Returns when the task must stop where it is.
    pub(super) async fn told_to_stop(&self) {
        let mut signal = self.signal.clone();
        // The sender lives as long as this does.
        let _ = signal.wait_for(|told| *told >= Signal::Release).await;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.held.tasks.lock().remove(&self.place);
    }
}
