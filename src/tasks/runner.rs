//! The runner: looks who is next, claims, and sees each task to its end.
//!
//! Several may share a store, in one process or many. What keeps them apart is the claim and the lease of the store; what is
//! kept here is only which tasks this runner holds.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::domain::{RunnerId, Timestamp};
use crate::store::{Lease, Ledger, StoreError, TaskQueue};

use super::attempt::attempt;
use super::bell::Bell;
use super::choose::Turns;
use super::contract::JobHandler;
use super::desk::TaskDesk;
use super::held::{Held, Signal};
use super::settings::TaskSettings;
use super::{housekeeping, lease, schedule};

/// Tells the time for what is shown and for schedules; no order and no lease depends on it.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// After a claim in which others were faster in all: a busy queue must not wait for the next look.
const CLAIM_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// Shortest wait between two looks that nobody rang for.
const LOOK_PAUSE: Duration = Duration::from_millis(1);

/// What a [`Runner`] is made of.
pub struct RunnerParts {
    pub queue: Arc<dyn TaskQueue>,
    pub ledger: Arc<dyn Ledger>,
    pub desk: Arc<TaskDesk>,
    pub handlers: Vec<Arc<dyn JobHandler>>,
    pub bell: Arc<Bell>,
    pub settings: TaskSettings,
    pub clock: Clock,
}

/// Works on tasks until it is shut down. Dropped without that, it stops where it is, as in a crash.
pub struct Runner {
    pub(super) stop: CancellationToken,
    looking: AbortOnDropHandle<()>,
}

impl Runner {
    /// Needs a tokio runtime around it.
    pub fn start(parts: RunnerParts) -> Self {
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared { id: RunnerId(rand::random()), parts, held: Arc::default(), stop: stop.clone() });
        Self { stop, looking: AbortOnDropHandle::new(tokio::spawn(run(shared))) }
    }

    /// Claims nothing more, gives items under way their time to be recorded, and puts what is left back in line.
    pub async fn shutdown(self) {
        self.stop.cancel();
        if let Err(error) = self.looking.await {
            tracing::error!(error = &error as &dyn std::error::Error, "the task runner panicked");
        }
    }
}

/// What the parts of a runner share.
pub(super) struct Shared {
    pub id: RunnerId,
    pub parts: RunnerParts,
    pub held: Arc<Held>,
    /// Cancelled at shutdown, and where the store is gone.
    pub stop: CancellationToken,
}

impl Shared {
    pub(super) fn poll_every(&self) -> Duration {
        Duration::from_millis(self.parts.settings.poll_every_ms.max(1))
    }
}

/// True if the store will take no more writes in this process.
pub(super) fn is_gone(error: &StoreError) -> bool {
    matches!(error, StoreError::Poisoned | StoreError::Closed)
}

async fn run(shared: Arc<Shared>) {
    let mut beside = JoinSet::new();
    beside.spawn(schedule::keep_time(Arc::clone(&shared)));
    beside.spawn(housekeeping::keep_house(Arc::clone(&shared)));
    let mut lookout = Lookout {
        rung: shared.parts.bell.listen(),
        turns: Turns::default(),
        attempts: JoinSet::new(),
        shared: Arc::clone(&shared),
    };
    // Until the last task is let go: a task that drains must not be taken for a dead one's.
    let keeping = lease::keep(&shared);
    let looking = async {
        lookout.look_until_stopped().await;
        lookout.drain().await;
    };
    tokio::select! {
        () = looking => {}
        () = keeping => unreachable!("leases are kept until the runner stops"),
    }
    end_of_all(&mut beside).await;
}

/// Where tasks are claimed.
struct Lookout {
    shared: Arc<Shared>,
    rung: watch::Receiver<u64>,
    turns: Turns,
    attempts: JoinSet<()>,
}

impl Lookout {
    async fn look_until_stopped(&mut self) {
        let stop = self.shared.stop.clone();
        while !stop.is_cancelled() {
            self.rung.mark_unchanged();
            let wait = match self.claim().await {
                Ok(wait) => wait,
                Err(error) if is_gone(&error) => return stop.cancel(),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "the queue of tasks cannot be read");
                    self.shared.poll_every()
                }
            };
            let has_room = self.places() > 0;
            tokio::select! {
                () = stop.cancelled() => {}
                _ = self.rung.changed(), if has_room => {}
                Some(ended) = self.attempts.join_next(), if !self.attempts.is_empty() => report(ended),
                () = tokio::time::sleep(wait) => {}
            }
            while let Some(ended) = self.attempts.try_join_next() {
                report(ended);
            }
        }
    }

    fn places(&self) -> usize {
        self.shared.parts.settings.max_running.saturating_sub(self.attempts.len())
    }

    /// Claims what may run and starts it. Returns how long there will be nothing to do, unless somebody rings.
    async fn claim(&mut self) -> Result<Duration, StoreError> {
        let (shared, places) = (Arc::clone(&self.shared), self.places());
        if places == 0 {
            return Ok(shared.poll_every());
        }
        shared.parts.queue.promote_ready((shared.parts.clock)()).await?;
        let view = shared.parts.queue.queue((shared.parts.clock)(), places).await?;
        let wishes = self.turns.choose(&view, places, &shared.parts.settings);
        let wished = wishes.len();
        let claimed = if wished == 0 {
            Vec::new()
        } else {
            shared.parts.queue.claim(shared.id, wishes, (shared.parts.clock)()).await?
        };
        let is_in_vain = wished > 0 && claimed.iter().all(Option::is_none);
        for task in claimed.into_iter().flatten() {
            let lease = Lease { key: task.key, runner: shared.id, epoch: task.epoch };
            self.attempts.spawn(attempt(Arc::clone(&shared), task, shared.held.hold(lease)));
        }
        let again = if is_in_vain { CLAIM_AGAIN_AFTER } else { shared.poll_every() };
        let next_ready = view.next_ready_us.map_or(again, Duration::from_micros);
        Ok(next_ready.clamp(LOOK_PAUSE, again))
    }

    /// Sees the tasks under way to their end, or cuts them short.
    async fn drain(&mut self) {
        let grace = Duration::from_millis(self.shared.parts.settings.shutdown_grace_ms);
        self.shared.held.tell_all(Signal::Drain);
        if tokio::time::timeout(grace, end_of_all(&mut self.attempts)).await.is_err() {
            self.shared.held.tell_all(Signal::Release);
            end_of_all(&mut self.attempts).await;
        }
    }
}

async fn end_of_all(parts: &mut JoinSet<()>) {
    while let Some(ended) = parts.join_next().await {
        report(ended);
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(error = &error as &dyn std::error::Error, "a part of the task runner panicked");
    }
}
