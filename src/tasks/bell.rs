//! Wakes those who wait for work, and tells those who watch that something changed.
//!
//! Only a hint inside one process: runners and watchers also look by themselves, since another process may have the news.

use tokio::sync::watch;

/// See the module.
#[derive(Debug)]
pub struct Bell {
    work: watch::Sender<u64>,
    changes: watch::Sender<u64>,
}

impl Default for Bell {
    fn default() -> Self {
        Self { work: watch::Sender::new(0), changes: watch::Sender::new(0) }
    }
}

impl Bell {
    /// There may be work, or a wish.
    pub fn ring(&self) {
        self.work.send_modify(|count| *count = count.wrapping_add(1));
        self.changed();
    }

    /// A task is not as it was.
    pub fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Hears each [`Self::ring`] from now on.
    pub(super) fn listen(&self) -> watch::Receiver<u64> {
        self.work.subscribe()
    }

    /// Sees each change from now on.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
