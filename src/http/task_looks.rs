//! When to look at a task again: after a change in this process, and once in a while, since another may do the work.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::tasks::TaskDesk;

/// Longest time between two looks. 1 s: as fresh as a person needs it, and cheap enough for every watcher.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The moments for looks. The bell rings for every task, so a busy server would have watchers look without end.
pub(super) struct Looks {
    changes: watch::Receiver<u64>,
    last: Instant,
    gap: Duration,
}

impl Looks {
    /// Counts changes from now on: look once after this, then after each [`Self::next`]. Looks are at least `gap` apart.
    pub(super) fn new(desk: &TaskDesk, gap: Duration) -> Self {
        Self { changes: desk.watch(), last: Instant::now(), gap }
    }

    /// Returns when it is time to look again.
    pub(super) async fn next(&mut self) {
        // Neither outcome matters: after a change, after the longest time and without a bell, somebody should look.
        let _ = timeout_at(self.last + LOOK_EVERY, self.changes.changed()).await;
        sleep_until(self.last + self.gap).await;
        // What changed meanwhile is seen by the look that follows.
        self.changes.mark_unchanged();
        self.last = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks() -> (watch::Sender<u64>, Looks) {
        let (sender, changes) = watch::channel(0);
        (sender, Looks { changes, last: Instant::now(), gap: Duration::from_millis(200) })
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_changes_are_five_looks_a_second() {
        let (sender, mut looks) = looks();
        let begin = Instant::now();
        let ringing = async {
            loop {
                sender.send_modify(|count| *count += 1);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };

        let looking = async {
            for _ in 0..5 {
                looks.next().await;
            }
        };
        tokio::select! { () = looking => {}, () = ringing => {} }

        assert_eq!(begin.elapsed().as_millis(), 1_000);
    }

    #[tokio::test(start_paused = true)]
    async fn without_changes_there_is_a_look_a_second() {
        let (_sender, mut looks) = looks();
        let begin = Instant::now();

        looks.next().await;
        looks.next().await;

        assert_eq!(begin.elapsed().as_millis(), 2_000);
    }
}
