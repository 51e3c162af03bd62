//! Upkeep of the indexes (merging, building graphs, giving memory back), beside the indexer and never in its way.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::domain::GenerationId;
use crate::index::{GenerationIndex, Generations, IndexError};

use super::IndexerSettings;

/// How many documents were handed to each generation's indexes: the indexer counts, upkeep reads.
#[derive(Debug, Default)]
pub(super) struct Applied(Mutex<HashMap<GenerationId, u64>>);

impl Applied {
    pub(super) fn add(&self, generation: GenerationId, documents: usize) {
        *self.0.lock().entry(generation).or_default() += documents as u64;
    }

    fn of(&self, generation: GenerationId) -> u64 {
        self.0.lock().get(&generation).copied().unwrap_or_default()
    }
}

/// Since when a generation has not changed, and what was done about it.
#[derive(Clone, Copy)]
struct Quiet {
    applied: u64,
    since: Instant,
    released: bool,
    /// Documents applied at the last merge into one; `None`: there was none in this process.
    compacted_at: Option<u64>,
}

/// The upkeep of all indexes that are open.
pub(super) struct Maintenance {
    indexes: Arc<Generations>,
    applied: Arc<Applied>,
    settings: IndexerSettings,
    stop: CancellationToken,
    quiet: HashMap<GenerationId, Quiet>,
    closed_at: Instant,
}

impl Maintenance {
    pub(super) fn new(
        indexes: Arc<Generations>,
        applied: Arc<Applied>,
        settings: IndexerSettings,
        stop: CancellationToken,
    ) -> Self {
        Self { indexes, applied, settings, stop, quiet: HashMap::new(), closed_at: Instant::now() }
    }

    /// Maintains every open index in turn, one at a time, until it is stopped.
    ///
    /// On a thread of its own instead of the compute pool: building a graph takes seconds, and the pool's few threads
    /// belong to searches. A round that runs at shutdown is told to stop, given a moment and then left to end with
    /// the process; it replaces files whole, so it may be cut anywhere.
    pub(super) async fn run(mut self) {
        let pause = Duration::from_millis(self.settings.maintain_interval_ms);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            for (id, index) in self.indexes.opened() {
                if self.stop.is_cancelled() || !self.maintain(id, index).await {
                    return;
                }
            }
            if self.closed_at.elapsed() >= Duration::from_millis(self.settings.close_idle_ms) {
                self.closed_at = Instant::now();
                let indexes = Arc::clone(&self.indexes);
                self.guarded(move || indexes.release_idle().map(|_| ())).await;
            }
        }
    }

    /// False if it was left behind at shutdown.
    async fn maintain(&mut self, id: GenerationId, index: Arc<GenerationIndex>) -> bool {
        let rest = self.rest(id, &index);
        let applied = self.applied.of(id);
        let done = self.guarded(move || {
            // One piece a round, so that a busy index does not starve the others.
            index.maintain()?;
            match rest {
                Rest::None => Ok(()),
                Rest::Release => index.lexical.release_writer(),
                Rest::Compact => index.lexical.compact(),
            }
        });
        let done = done.await;
        if done && let Some(quiet) = self.quiet.get_mut(&id) {
            quiet.released |= rest != Rest::None;
            if rest == Rest::Compact {
                quiet.compacted_at = Some(applied);
            }
        }
        done
    }

    /// What a generation that has come to rest is due.
    fn rest(&mut self, id: GenerationId, index: &GenerationIndex) -> Rest {
        let applied = self.applied.of(id);
        let fresh = Quiet { applied, since: Instant::now(), released: false, compacted_at: None };
        let quiet = self.quiet.entry(id).or_insert(fresh);
        if quiet.applied != applied {
            *quiet = Quiet { compacted_at: quiet.compacted_at, ..fresh };
        }
        if quiet.since.elapsed() < Duration::from_millis(self.settings.quiet_ms) || quiet.released {
            return Rest::None;
        }
        let quiet = *quiet;
        if self.compaction_pays(quiet, index) { Rest::Compact } else { Rest::Release }
    }

    /// Merging everything costs in proportion to the whole, so a good part of it must have changed.
    fn compaction_pays(&self, quiet: Quiet, index: &GenerationIndex) -> bool {
        // What an earlier process left is not known, so once is enough.
        let changed = quiet.compacted_at.map_or(u64::MAX, |compacted_at| quiet.applied - compacted_at);
        let (live, settings) = (index.lexical.live_chunks(), &self.settings);
        index.lexical.segments() > settings.compact_segments
            && live <= settings.compact_max_chunks
            && changed.saturating_mul(100) >= live.saturating_mul(settings.compact_changed_percent)
    }

    /// Runs blocking work; false if it was left behind at shutdown.
    async fn guarded(&self, work: impl FnOnce() -> Result<(), IndexError> + Send + 'static) -> bool {
        let round = tokio::task::spawn_blocking(work);
        let left_behind = async {
            self.stop.cancelled().await;
            tokio::time::sleep(Duration::from_millis(self.settings.maintain_grace_ms)).await;
        };
        tokio::select! {
            done = round => match done {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "maintenance of an index failed");
                }
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "maintenance of an index panicked");
                }
            },
            () = left_behind => {
                tracing::warn!("maintenance of an index is left unfinished; it starts again next time");
                return false;
            }
        }
        true
    }
}

/// What an index that nobody writes to is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    None,
    Release,
    /// Includes the release.
    Compact,
}
