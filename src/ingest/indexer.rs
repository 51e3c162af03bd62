//! The indexer: follows the operation log and keeps the indexes of every generation at its end.
//!
//! One task per process. A generation that fails is set aside, retried with growing waits, and holds up nobody
//! else; what was searchable stays searchable. Nothing is lost by any failure here: the log is replayed.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::domain::{CollectionName, ErrorKind, GenerationId, Sequence, TenantId};
use crate::index::{ComputePool, Generations, IndexProgress, Lagging};
use crate::store::OperationLog;

use super::IndexerSettings;
use super::follower::Tools;
use super::maintenance::{Applied, Maintenance};
use super::march::March;

/// What an [`Indexer`] is made of.
pub struct IndexerParts {
    pub log: Arc<dyn OperationLog>,
    pub indexes: Arc<Generations>,
    pub compute: Arc<ComputePool>,
    pub progress: Arc<IndexProgress>,
    pub settings: IndexerSettings,
}

/// How the indexer is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IndexerHealth {
    /// False until every generation has been opened and has caught up once.
    pub caught_up: bool,
    /// Generations that do not come along now.
    pub damaged: Vec<IndexDamage>,
    /// Why the log itself cannot be read, if it cannot.
    pub log_error: Option<String>,
    /// What was found damaged and has been rebuilt since the start.
    pub repaired: Vec<String>,
}

/// A generation whose indexes do not come along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexDamage {
    pub tenant: TenantId,
    pub collection: CollectionName,
    pub generation: GenerationId,
    /// The operation that its searches see.
    pub reached: Sequence,
    pub attempts: u32,
    pub kind: ErrorKind,
    /// For the log and the operator.
    pub detail: String,
}

/// The running indexer; [`Indexer::shutdown`] ends it in order, dropping it stops it where it stands.
pub struct Indexer {
    progress: Arc<IndexProgress>,
    health: watch::Receiver<IndexerHealth>,
    indexes: Arc<Generations>,
    stop: CancellationToken,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Indexer {
    /// Starts following the log. Returns at once; [`Indexer::health`] tells when the indexes have caught up.
    pub fn start(parts: IndexerParts) -> Self {
        let IndexerParts { log, indexes, compute, progress, settings } = parts;
        let stop = CancellationToken::new();
        let applied = Arc::<Applied>::default();
        let maintenance = Maintenance::new(Arc::clone(&indexes), Arc::clone(&applied), settings, stop.clone());
        let upkeep = Arc::clone(&indexes);
        let tools = Tools { log, indexes, compute, settings, stop: stop.clone(), applied };
        let (health_sender, health) = watch::channel(IndexerHealth::default());
        let march = March::new(tools, Arc::clone(&progress), health_sender);
        Self {
            progress,
            health,
            indexes: upkeep,
            tasks: Mutex::new(vec![tokio::spawn(march.run()), tokio::spawn(maintenance.run())]),
            stop,
        }
    }

    /// The sequence that every search sees.
    pub fn visible(&self) -> Sequence {
        self.progress.visible()
    }

    /// Waits until every search sees `sequence`, at most until `until`; makes the indexer commit at once.
    pub async fn wait_indexed(&self, sequence: Sequence, until: Instant) -> Result<Sequence, Lagging> {
        self.progress.wait(None, sequence, until).await
    }

    /// Waits until everything of before the start has been followed up, at most until `until`; false if it has not been.
    pub async fn wait_caught_up(&self, until: Instant) -> bool {
        self.progress.wait_caught_up(until).await
    }

    /// As [`Indexer::wait_indexed`] for the searches of one tenant: another tenant's damaged index keeps nobody waiting.
    pub async fn wait_indexed_for(
        &self,
        tenant: &TenantId,
        sequence: Sequence,
        until: Instant,
    ) -> Result<Sequence, Lagging> {
        let health = self.health.clone();
        let of_others = move |generation: GenerationId| {
            health.borrow().damaged.iter().any(|damage| damage.generation == generation && damage.tenant != *tenant)
        };
        self.progress.wait_for_those(|generation| !of_others(generation), sequence, until).await
    }

    /// How it is doing now.
    pub fn health(&self) -> IndexerHealth {
        self.health.borrow().clone()
    }

    /// Waits until `healthy` holds for the health, at most until `until`; false if it did not come to that.
    pub async fn wait_health(&self, until: Instant, healthy: impl FnMut(&IndexerHealth) -> bool) -> bool {
        let mut health = self.health.clone();
        let waiting = health.wait_for(healthy);
        tokio::time::timeout_at(until.into(), waiting).await.is_ok_and(|seen| seen.is_ok())
    }

    /// Finishes what is being applied, commits, makes the vectors durable and ends. A second call returns at once.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.indexes.stop();
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            if let Err(error) = task.await {
                tracing::error!(error = &error as &dyn std::error::Error, "a task of the indexer ended badly");
            }
        }
    }
}

impl Drop for Indexer {
    fn drop(&mut self) {
        self.stop.cancel();
        self.tasks.lock().iter().for_each(JoinHandle::abort);
    }
}
