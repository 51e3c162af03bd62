//! The indexer's task: reads the log, hands rows to the generations' followers, commits, publishes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{counter, gauge, histogram};
use tokio::sync::watch;
use tracing::{Instrument, debug_span};

use crate::domain::{GenerationId, Sequence};
use crate::index::{IndexProgress, Reached};
use crate::store::{LogEntry, OwnedGeneration, StoreError};

use super::follower::{Follower, IndexerError, Tools};
use super::indexer::{IndexDamage, IndexerHealth};

/// While rows keep coming, commits take at most a fourth of the time: this many times as long as the last one lasted
/// lies between two of them.
const COMMIT_SHARE: u32 = 4;

/// Time between two looks for generations that have been retired. Well below `generations.remove_after_ms`: what is
/// removed is held by nobody then.
const FORGET_EVERY: Duration = Duration::from_secs(3);

/// A generation that does not come along.
struct Troubled {
    owned: OwnedGeneration,
    /// `None`: its indexes could not even be opened.
    follower: Option<Follower>,
    error: IndexerError,
    attempts: u32,
    retry_at: Instant,
    /// True once its indexes were built anew.
    rebuilt: bool,
}

impl Troubled {
    /// What its searches see.
    fn reached(&self) -> Sequence {
        self.follower.as_ref().map_or(Sequence(0), |follower| follower.committed)
    }
}

/// The state of the indexer's task.
pub(super) struct March {
    tools: Tools,
    progress: Arc<IndexProgress>,
    health: watch::Sender<IndexerHealth>,
    /// Those that come along.
    healthy: BTreeMap<GenerationId, Follower>,
    troubled: BTreeMap<GenerationId, Troubled>,
    /// Rows up to here have been handed to every healthy follower.
    position: Sequence,
    /// Rows up to here are searchable in every healthy generation.
    mark: Sequence,
    committed_at: Instant,
    commit_took: Duration,
    log_failures: u32,
    log_error: Option<String>,
    caught_up: bool,
    /// When retired generations were last looked for.
    forgot_at: Instant,
    /// What was found damaged and is whole again, since the start.
    repaired: Vec<String>,
}

impl March {
    pub(super) fn new(tools: Tools, progress: Arc<IndexProgress>, health: watch::Sender<IndexerHealth>) -> Self {
        Self {
            tools,
            progress,
            health,
            healthy: BTreeMap::new(),
            troubled: BTreeMap::new(),
            position: Sequence::default(),
            mark: Sequence::default(),
            committed_at: Instant::now(),
            commit_took: Duration::ZERO,
            log_failures: 0,
            log_error: None,
            caught_up: false,
            forgot_at: Instant::now(),
            repaired: Vec::new(),
        }
    }

    /// Runs until it is stopped, then leaves everything durable behind.
    pub(super) async fn run(mut self) {
        let stop = self.tools.stop.clone();
        let mut written = self.progress.written();
        let mut wanted = self.progress.wanted();
        while !stop.is_cancelled() {
            let worked = self.step().instrument(debug_span!("indexer.step")).await;
            if worked {
                continue;
            }
            let wake_at = self.wake_at();
            tokio::select! {
                () = stop.cancelled() => {}
                // The senders live in `progress`, which this task holds: neither can be closed.
                _ = written.changed() => {}
                _ = wanted.changed() => {}
                () = tokio::time::sleep_until(wake_at.into()) => {}
            }
        }
        self.finish().await;
    }

    /// Does what there is to do; false if nothing came of it and it is time to wait.
    async fn step(&mut self) -> bool {
        let advanced = match self.advance().await {
            Ok(advanced) => {
                (self.log_failures, self.log_error) = (0, None);
                advanced
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "the operation log cannot be followed");
                self.log_failures += 1;
                self.log_error = Some(error.to_string());
                false
            }
        };
        self.forget_retired().await;
        self.find_lost().await;
        self.retry_troubled().await;
        if self.commit_is_due() {
            self.commit_all().await;
        }
        self.flush_all().await;
        self.publish();
        advanced
    }

    /// Opens what is new and applies the next rows; false if there were none.
    async fn advance(&mut self) -> Result<bool, StoreError> {
        if !self.caught_up {
            self.caught_up = self.begin().await?;
            return Ok(self.caught_up);
        }
        let rows = self.tools.log.entries(None, self.position, self.tools.settings.read_rows).await?;
        let Some(last) = rows.last().map(|row| row.sequence) else { return Ok(false) };
        if rows.iter().any(|row| !self.knows(row.generation)) {
            self.discover().await?;
        }
        let count = rows.len();
        for (generation, rows) in by_generation(rows) {
            let Some(follower) = self.healthy.get_mut(&generation) else { continue };
            if let Err(error) = follower.apply(&self.tools, &rows).await {
                self.set_aside(generation, error).await;
            }
        }
        self.position = last;
        counter!("plumb_index_operations_total").increment(count as u64);
        Ok(true)
    }

    /// Opens every generation and lets each catch up on its own; false if it was stopped on the way.
    async fn begin(&mut self) -> Result<bool, StoreError> {
        let newest = self.tools.log.last_sequence().await?;
        self.discover().await?;
        let generations: Vec<GenerationId> = self.healthy.keys().copied().collect();
        for generation in generations {
            let Some(follower) = self.healthy.get_mut(&generation) else { continue };
            let result = follower.catch_up_and_verify(&self.tools, newest).await;
            if self.tools.stop.is_cancelled() {
                return Ok(false);
            }
            match result {
                Ok(healed) => self.repaired.extend(healed),
                Err(error) => self.set_aside(generation, error).await,
            }
        }
        self.position = newest;
        Ok(true)
    }

    fn knows(&self, generation: GenerationId) -> bool {
        self.healthy.contains_key(&generation) || self.troubled.contains_key(&generation)
    }

    /// Opens generations that are not known yet.
    async fn discover(&mut self) -> Result<(), StoreError> {
        for owned in self.tools.log.generations().await? {
            let id = owned.generation.id;
            if self.knows(id) {
                continue;
            }
            match Follower::open(&self.tools, owned.clone()).await {
                Ok(follower) => {
                    self.healthy.insert(id, follower);
                }
                Err(error) => self.trouble(owned, None, error),
            }
        }
        Ok(())
    }

    /// Takes a generation out of the march after a failure.
    async fn set_aside(&mut self, generation: GenerationId, error: IndexerError) {
        let Some(follower) = self.healthy.remove(&generation) else { return };
        self.back_off(follower, error).await;
    }

    /// Takes a follower back to where its indexes stand, until its next attempt.
    async fn back_off(&mut self, mut follower: Follower, error: IndexerError) {
        let asked = error.asks_for_rebuild();
        let recovered = follower.recover(&self.tools, &error).await;
        let rebuilds = asked && recovered.is_ok();
        let error = recovered.err().unwrap_or(error);
        let id = follower.id();
        self.trouble(follower.owned.clone(), Some(follower), error);
        if let Some(troubled) = self.troubled.get_mut(&id) {
            troubled.rebuilt |= rebuilds;
        }
    }

    fn trouble(&mut self, owned: OwnedGeneration, follower: Option<Follower>, error: IndexerError) {
        let id = owned.generation.id;
        tracing::error!(
            generation = %id,
            collection = %owned.collection,
            error = &error as &dyn std::error::Error,
            "an index does not come along; what it holds is still served"
        );
        counter!("plumb_index_failures_total").increment(1);
        let before = self.troubled.get(&id);
        let attempts = before.map_or(1, |troubled| troubled.attempts + 1);
        let rebuilt = before.is_some_and(|troubled| troubled.rebuilt);
        let retry_at = Instant::now() + self.backoff(attempts);
        self.troubled.insert(id, Troubled { owned, follower, error, attempts, retry_at, rebuilt });
    }

    fn backoff(&self, attempts: u32) -> Duration {
        let settings = &self.tools.settings;
        let doubled = settings.retry_first_ms.saturating_mul(1_u64 << attempts.saturating_sub(1).min(20));
        Duration::from_millis(doubled.min(settings.retry_longest_ms))
    }

    /// Lets go of generations that have been retired: nobody searches them, and their files are about to be removed.
    async fn forget_retired(&mut self) {
        if self.forgot_at.elapsed() < FORGET_EVERY {
            return;
        }
        self.forgot_at = Instant::now();
        // Asked for again with the next look; whether the log can be read is told elsewhere.
        let Ok(followed) = self.tools.log.generations().await else { return };
        let followed: BTreeSet<GenerationId> = followed.iter().map(|owned| owned.generation.id).collect();
        self.healthy.retain(|id, _| followed.contains(id));
        self.troubled.retain(|id, _| followed.contains(id));
    }

    /// Sets aside generations whose indexes were closed while idle and came back with less than they held: without a
    /// write to them nobody else would notice.
    async fn find_lost(&mut self) {
        for (id, index) in self.tools.indexes.opened() {
            let Some(follower) = self.healthy.get(&id) else { continue };
            let (left_at, found_at) = (follower.committed, index.visible());
            if found_at < left_at {
                self.set_aside(id, IndexerError::Lost { left_at, found_at }).await;
            }
        }
    }

    /// Lets troubled generations catch up whose wait is over; those that do join the march again.
    async fn retry_troubled(&mut self) {
        let now = Instant::now();
        let due: Vec<GenerationId> =
            self.troubled.iter().filter(|(_, troubled)| troubled.retry_at <= now).map(|(id, _)| *id).collect();
        for id in due {
            let Some(troubled) = self.troubled.get_mut(&id) else { continue };
            let (owned, rebuilt) = (troubled.owned.clone(), troubled.rebuilt);
            let opened = match troubled.follower.take() {
                Some(follower) => Ok(follower),
                None => Follower::open(&self.tools, owned.clone()).await,
            };
            let mut follower = match opened {
                Ok(follower) => follower,
                Err(error) => {
                    self.trouble(owned, None, error);
                    continue;
                }
            };
            let result = follower.catch_up_and_verify(&self.tools, self.position).await;
            if self.tools.stop.is_cancelled() {
                return;
            }
            match result {
                Ok(healed) => self.repaired.extend(healed),
                // An index that was built anew and is still counted differently will not get better.
                Err(error @ IndexerError::Miscounted { .. }) if rebuilt => {
                    tracing::error!(generation = %id, error = &error as &dyn std::error::Error, "it is served as it is");
                }
                Err(error) => {
                    self.back_off(follower, error).await;
                    continue;
                }
            }
            tracing::info!(generation = %id, "an index has caught up again");
            self.troubled.remove(&id);
            self.healthy.insert(id, follower);
        }
    }

    fn is_dirty(&self) -> bool {
        self.healthy.values().any(Follower::is_dirty)
    }

    /// When the next commit may happen if nobody waits for one.
    fn commit_at(&self) -> Instant {
        let interval = Duration::from_millis(self.tools.settings.commit_interval_ms);
        self.committed_at + interval.max(self.commit_took * COMMIT_SHARE)
    }

    fn commit_is_due(&self) -> bool {
        let wanted = *self.progress.wanted().borrow();
        let somebody_waits = wanted > self.mark && wanted <= self.position;
        self.is_dirty() && (somebody_waits || Instant::now() >= self.commit_at())
    }

    async fn commit_all(&mut self) {
        let start = Instant::now();
        let dirty: Vec<GenerationId> =
            self.healthy.iter().filter(|(_, follower)| follower.is_dirty()).map(|(id, _)| *id).collect();
        for id in dirty {
            let Some(follower) = self.healthy.get_mut(&id) else { continue };
            if let Err(error) = follower.commit(&self.tools).await {
                self.set_aside(id, error).await;
            }
        }
        self.committed_at = Instant::now();
        self.commit_took = start.elapsed();
        histogram!("plumb_index_commit_seconds").record(self.commit_took.as_secs_f64());
    }

    async fn flush_all(&mut self) {
        let generations: Vec<GenerationId> = self.healthy.keys().copied().collect();
        for id in generations {
            let Some(follower) = self.healthy.get_mut(&id) else { continue };
            if let Err(error) = follower.flush_if_due(&self.tools).await {
                self.set_aside(id, error).await;
            }
        }
    }

    /// Tells what searches see and how things are.
    fn publish(&mut self) {
        if self.caught_up {
            // With rows that are not committed yet the mark stays where all were.
            if !self.is_dirty() {
                self.mark = self.position;
            }
            let lagging = self.troubled.iter().map(|(id, troubled)| (*id, troubled.reached())).collect();
            let published = Reached { caught_up: true, all: self.mark, lagging };
            gauge!("plumb_index_visible_sequence").set(published.lowest().0 as f64);
            self.progress.publish(published);
        }
        self.publish_health();
    }

    fn publish_health(&self) {
        let damage = |(id, troubled): (&GenerationId, &Troubled)| IndexDamage {
            tenant: troubled.owned.tenant.clone(),
            collection: troubled.owned.collection.clone(),
            generation: *id,
            reached: troubled.reached(),
            attempts: troubled.attempts,
            kind: troubled.error.kind(),
            detail: troubled.error.to_string(),
        };
        let health = IndexerHealth {
            caught_up: self.caught_up,
            damaged: self.troubled.iter().map(damage).collect(),
            log_error: self.log_error.clone(),
            repaired: self.repaired.clone(),
        };
        self.health.send_if_modified(|current| {
            let changed = *current != health;
            *current = health;
            changed
        });
    }

    fn wake_at(&self) -> Instant {
        let now = Instant::now();
        let settings = &self.tools.settings;
        let poll = if self.log_failures > 0 {
            self.backoff(self.log_failures)
        } else {
            Duration::from_millis(settings.poll_interval_ms)
        };
        let retry = self.troubled.values().map(|troubled| troubled.retry_at).min();
        let commit = self.is_dirty().then(|| self.commit_at());
        [retry, commit].into_iter().flatten().fold(now + poll, Instant::min)
    }

    /// Leaves everything durable behind.
    async fn finish(mut self) {
        self.commit_all().await;
        for (id, follower) in &mut self.healthy {
            if let Err(error) = follower.flush().await {
                tracing::error!(
                    generation = %id,
                    error = &error as &dyn std::error::Error,
                    "vectors could not be made durable at shutdown; the next start replays them"
                );
            }
        }
        self.publish();
    }
}

fn by_generation(rows: Vec<LogEntry>) -> BTreeMap<GenerationId, Vec<LogEntry>> {
    let mut groups: BTreeMap<GenerationId, Vec<LogEntry>> = BTreeMap::new();
    for row in rows {
        groups.entry(row.generation).or_default().push(row);
    }
    groups
}
