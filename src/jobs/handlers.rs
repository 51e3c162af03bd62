//! All kinds of work with what they need.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::answer::Answerer;
use crate::gateway::{Gateway, PromptBook};
use crate::ingest::{IndexPurger, Ingestor, Tender};
use crate::search::{SearchDefaults, Searcher};
use crate::store::{CorpusStore, Erasure, GenerationStore, Ledger, OperationLog, TaskStore};
use crate::tasks::JobHandler;

use super::embed::EmbedJob;
use super::erase::EraseJob;
use super::ingest::IngestJob;
use super::map::MapJob;
use super::pipeline::PipelineJob;
use super::reindex::ReindexJob;
use super::retention::{Keep, RetentionJob};
use super::settings::JobSettings;
use super::state::States;

/// What the kinds of work need.
pub struct JobParts {
    pub store: Arc<dyn CorpusStore>,
    pub log: Arc<dyn OperationLog>,
    pub searcher: Arc<Searcher>,
    pub defaults: SearchDefaults,
    pub answerer: Arc<Answerer>,
    pub gateway: Gateway,
    pub ingestor: Arc<Ingestor>,
    pub generations: Arc<dyn GenerationStore>,
    pub tender: Arc<Tender>,
    pub prompts: Arc<ArcSwap<PromptBook>>,
    pub ledger: Arc<dyn Ledger>,
    pub tasks: Arc<dyn TaskStore>,
    pub erasure: Arc<dyn Erasure>,
    pub indexes: IndexPurger,
    /// Where all files lie.
    pub data_dir: PathBuf,
    /// For `retention`.
    pub keep: Keep,
    pub settings: JobSettings,
}

/// One handler for each kind.
pub fn handlers(parts: JobParts) -> Vec<Arc<dyn JobHandler>> {
    let settings = Arc::new(parts.settings);
    let states = States { store: Arc::clone(&parts.store), log: parts.log };
    vec![
        Arc::new(MapJob {
            store: Arc::clone(&parts.store),
            gateway: parts.gateway.clone(),
            settings: Arc::clone(&settings),
        }),
        Arc::new(ReindexJob {
            store: Arc::clone(&parts.store),
            generations: parts.generations,
            ingestor: Arc::clone(&parts.ingestor),
            tender: parts.tender,
            gateway: parts.gateway.clone(),
            prompts: parts.prompts,
        }),
        Arc::new(PipelineJob {
            states,
            searcher: parts.searcher,
            defaults: parts.defaults,
            answerer: parts.answerer,
            gateway: parts.gateway.clone(),
            settings: Arc::clone(&settings),
        }),
        Arc::new(EraseJob {
            erasure: Arc::clone(&parts.erasure),
            ingestor: Arc::clone(&parts.ingestor),
            indexes: parts.indexes,
            gateway: parts.gateway,
            data_dir: parts.data_dir,
        }),
        Arc::new(IngestJob { ingestor: Arc::clone(&parts.ingestor), tasks: Arc::clone(&parts.tasks), settings }),
        Arc::new(EmbedJob { ingestor: parts.ingestor, store: parts.store }),
        Arc::new(RetentionJob { ledger: parts.ledger, tasks: parts.tasks, erasure: parts.erasure, keep: parts.keep }),
    ]
}
