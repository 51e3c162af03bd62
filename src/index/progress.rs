//! How far the indexes have come: what a writer announces, a waiter wants, and the indexer reaches.
//!
//! One per process. Whoever follows the operation log publishes here; whoever searches or waits reads here, so
//! neither has to know the other.

use std::collections::BTreeMap;
use std::time::Instant;

use tokio::sync::watch;

use crate::domain::{GenerationId, Sequence};

/// The sequences that searches see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reached {
    /// False until the operations of before the start have been followed up once.
    pub caught_up: bool,
    /// Every generation that is not in `lagging` holds all operations up to here.
    pub all: Sequence,
    /// Generations that have fallen behind, for instance because their index is damaged, with what they reached.
    pub lagging: BTreeMap<GenerationId, Sequence>,
}

impl Reached {
    /// What one generation has reached.
    pub fn of(&self, generation: GenerationId) -> Sequence {
        self.lagging.get(&generation).copied().unwrap_or(self.all)
    }

    /// What every generation has reached.
    pub fn lowest(&self) -> Sequence {
        self.lagging.values().copied().fold(self.all, Sequence::min)
    }
}

/// A wait that ended before the index was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the index has reached sequence {reached}, not yet {wanted}")]
pub struct Lagging {
    pub wanted: Sequence,
    pub reached: Sequence,
}

/// The meeting point of writers, waiters and the indexer.
#[derive(Debug, Default)]
pub struct IndexProgress {
    written: watch::Sender<Sequence>,
    wanted: watch::Sender<Sequence>,
    reached: watch::Sender<Reached>,
}

impl IndexProgress {
    /// Tells that the truth holds everything up to `sequence`. Announcing less than before changes nothing.
    pub fn announce(&self, sequence: Sequence) {
        raise(&self.written, sequence);
    }

    /// Publishes what searches see from now on.
    pub fn publish(&self, reached: Reached) {
        self.reached.send_replace(reached);
    }

    /// The sequence that searches in every generation see.
    pub fn visible(&self) -> Sequence {
        self.reached.borrow().lowest()
    }

    /// The sequence that searches in one generation see.
    pub fn visible_in(&self, generation: GenerationId) -> Sequence {
        self.reached.borrow().of(generation)
    }

    /// True while a generation lacks operations of long ago: after the start, or while its damaged index is rebuilt.
    pub fn is_behind(&self, generation: GenerationId) -> bool {
        let reached = self.reached.borrow();
        !reached.caught_up || reached.lagging.contains_key(&generation)
    }

    /// The newest sequence that the truth is known to hold.
    pub fn newest(&self) -> Sequence {
        *self.written.borrow()
    }

    /// Waits until searches see `sequence`, at most until `until`, and asks the indexer to hurry.
    /// With a generation, only that one has to be there.
    pub async fn wait(
        &self,
        generation: Option<GenerationId>,
        sequence: Sequence,
        until: Instant,
    ) -> Result<Sequence, Lagging> {
        let seen = |reached: &Reached| generation.map_or_else(|| reached.lowest(), |one| reached.of(one));
        self.wait_for(seen, sequence, until).await
    }

    /// As [`IndexProgress::wait`] for every generation but those fallen behind that `concerns` says no to.
    pub async fn wait_for_those(
        &self,
        concerns: impl Fn(GenerationId) -> bool,
        sequence: Sequence,
        until: Instant,
    ) -> Result<Sequence, Lagging> {
        let seen = |reached: &Reached| {
            let lagging = reached.lagging.iter().filter(|(id, _)| concerns(**id)).map(|(_, reached)| *reached);
            lagging.fold(reached.all, Sequence::min)
        };
        self.wait_for(seen, sequence, until).await
    }

    /// Waits until the operations of before the start have been followed up once, at most until `until`; false if they
    /// have not been. An empty log too is behind until then, which no sequence says.
    pub async fn wait_caught_up(&self, until: Instant) -> bool {
        let mut reached = self.reached.subscribe();
        let arrival = reached.wait_for(|reached| reached.caught_up);
        tokio::time::timeout_at(until.into(), arrival).await.is_ok_and(|waited| waited.is_ok())
    }

    async fn wait_for(
        &self,
        seen: impl Fn(&Reached) -> Sequence,
        sequence: Sequence,
        until: Instant,
    ) -> Result<Sequence, Lagging> {
        let mut reached = self.reached.subscribe();
        if seen(&reached.borrow_and_update()) < sequence {
            // Nobody can hurry towards what was never written, so a sequence from nowhere must not hide real waits.
            raise(&self.wanted, sequence.min(*self.written.borrow()));
        }
        let arrival = reached.wait_for(|reached| seen(reached) >= sequence);
        // The sender lives in `self`, so a closed channel cannot be seen here; it counts as not arrived.
        let arrived = tokio::time::timeout_at(until.into(), arrival).await.is_ok_and(|waited| waited.is_ok());
        let reached = seen(&self.reached.borrow());
        if arrived { Ok(reached) } else { Err(Lagging { wanted: sequence, reached }) }
    }

    /// For the indexer: the newest announced sequence, and a way to wait for a newer one.
    pub fn written(&self) -> watch::Receiver<Sequence> {
        self.written.subscribe()
    }

    /// For the indexer: the highest sequence that somebody waits or waited for.
    pub fn wanted(&self) -> watch::Receiver<Sequence> {
        self.wanted.subscribe()
    }
}

fn raise(sender: &watch::Sender<Sequence>, sequence: Sequence) {
    sender.send_if_modified(|current| {
        let higher = sequence > *current;
        *current = sequence.max(*current);
        higher
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn reached(all: u64) -> Reached {
        Reached { caught_up: true, all: Sequence(all), lagging: BTreeMap::new() }
    }

    #[tokio::test]
    async fn a_wait_ends_when_the_sequence_is_visible() {
        let progress = IndexProgress::default();
        progress.announce(Sequence(5));
        let far = Instant::now() + Duration::from_secs(60);

        let (waited, ()) = tokio::join!(progress.wait(None, Sequence(5), far), async {
            assert_eq!(*progress.wanted().borrow(), Sequence(5));
            progress.publish(reached(4));
            progress.publish(reached(7));
        });

        assert_eq!(waited, Ok(Sequence(7)));
    }

    #[tokio::test]
    async fn a_wait_for_what_never_comes_is_bounded_and_hurries_nobody_beyond_what_was_written() {
        let progress = IndexProgress::default();
        progress.announce(Sequence(3));
        progress.publish(reached(2));

        let waited = progress.wait(None, Sequence(u64::MAX), Instant::now()).await;

        assert_eq!(waited, Err(Lagging { wanted: Sequence(u64::MAX), reached: Sequence(2) }));
        assert_eq!(*progress.wanted().borrow(), Sequence(3));
    }

    #[tokio::test]
    async fn a_damaged_generation_holds_up_only_its_own_waiters() {
        let progress = IndexProgress::default();
        let (damaged, healthy) = (GenerationId([1; 16]), GenerationId([2; 16]));
        progress.publish(Reached { caught_up: true, all: Sequence(9), lagging: [(damaged, Sequence(4))].into() });

        assert_eq!(progress.wait(Some(healthy), Sequence(9), Instant::now()).await, Ok(Sequence(9)));
        assert!(progress.wait(Some(damaged), Sequence(9), Instant::now()).await.is_err());
        assert_eq!(progress.visible(), Sequence(4));
        assert!(progress.is_behind(damaged) && !progress.is_behind(healthy));
    }

    #[tokio::test]
    async fn an_empty_log_too_is_waited_for_until_it_has_been_looked_at() {
        let progress = IndexProgress::default();
        let far = Instant::now() + Duration::from_secs(60);
        assert_eq!(progress.wait(None, Sequence(0), far).await, Ok(Sequence(0)));
        assert!(!progress.wait_caught_up(Instant::now()).await);

        let (waited, ()) = tokio::join!(progress.wait_caught_up(far), async { progress.publish(reached(0)) });

        assert!(waited);
    }

    #[test]
    fn before_the_first_look_at_the_log_everything_is_behind() {
        let progress = IndexProgress::default();
        let generation = GenerationId([1; 16]);
        assert!(progress.is_behind(generation));

        progress.publish(reached(0));
        assert!(!progress.is_behind(generation));
    }
}
