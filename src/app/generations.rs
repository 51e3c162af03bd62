//! What builds and tends generations, and the writer of what stands before chunks.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::gateway::Clock;
use crate::index::{Generations, IndexProgress};
use crate::ingest::{Contexts, IndexPurger, Ingestor, Tender, TenderParts};
use crate::jobs::{GatewayContexts, GenerationDesk, GenerationDeskParts};
use crate::store::{GenerationStore, OperationLog, SqliteStore};

use super::gateway::RunningGateway;

/// Asks the gateway, and keeps what it says in the truth.
pub(super) fn contexts(config: &Config, store: &Arc<SqliteStore>, running: &RunningGateway) -> Contexts {
    let writer = GatewayContexts {
        gateway: running.gateway.clone(),
        prompts: running.prompts.clone(),
        timeout: Duration::from_millis(config.jobs.call_timeout_ms),
    };
    Contexts {
        store: store.clone() as Arc<dyn GenerationStore>,
        writer: Arc::new(writer),
        at_once: config.generations.contexts_at_once,
        max_bytes: config.generations.context_bytes,
    }
}

/// Where promotions and the like are asked for.
pub(super) fn desk(store: &Arc<SqliteStore>, tender: &Arc<Tender>) -> Arc<GenerationDesk> {
    let store = store.clone() as Arc<dyn GenerationStore>;
    Arc::new(GenerationDesk::new(GenerationDeskParts { store, tender: Arc::clone(tender) }))
}

/// Writes index files anew without what was erased.
pub(super) fn purger(
    store: &Arc<SqliteStore>,
    indexes: &Arc<Generations>,
    progress: Arc<IndexProgress>,
) -> IndexPurger {
    IndexPurger {
        log: store.clone() as Arc<dyn OperationLog>,
        indexes: Arc::clone(indexes),
        progress,
        generations: store.clone() as Arc<dyn GenerationStore>,
    }
}

/// Looks after all generations.
pub(super) fn tender(
    config: &Config,
    store: &Arc<SqliteStore>,
    (ingestor, indexes): (&Arc<Ingestor>, &Arc<Generations>),
    clock: Clock,
) -> Arc<Tender> {
    Arc::new(Tender::new(TenderParts {
        ingestor: Arc::clone(ingestor),
        generations: store.clone() as Arc<dyn GenerationStore>,
        log: store.clone() as Arc<dyn OperationLog>,
        indexes: Arc::clone(indexes),
        settings: config.generations.clone(),
        clock,
    }))
}
