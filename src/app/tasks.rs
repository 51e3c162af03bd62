//! Durable work with everything around it: the kinds, the desk where it is asked for, and the runner.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::answer::Answerer;
use crate::config::{Config, ConfigError};
use crate::domain::TaskKind;
use crate::gateway::{Clock, Gateway, PromptBook};
use crate::ingest::{IndexPurger, Ingestor, Tender};
use crate::jobs::{JobParts, Keep, handlers};
use crate::search::{SearchDefaults, Searcher};
use crate::store::{CorpusStore, Erasure, GenerationStore, Ledger, OperationLog, SqliteStore, TaskQueue, TaskStore};
use crate::tasks::{Bell, JobHandler, Runner, RunnerParts, TaskDesk, TaskDeskParts};

/// The desk, and the runner once work is to be done here.
pub(super) struct TaskFloor {
    pub desk: Arc<TaskDesk>,
    handlers: Vec<Arc<dyn JobHandler>>,
    bell: Arc<Bell>,
    clock: Clock,
    store: Arc<SqliteStore>,
    runner: Mutex<Option<Runner>>,
}

/// What the kinds of work use.
pub(super) struct WorkRooms {
    pub store: Arc<SqliteStore>,
    pub searcher: Arc<Searcher>,
    pub defaults: SearchDefaults,
    pub answerer: Arc<Answerer>,
    pub gateway: Gateway,
    pub prompts: Arc<ArcSwap<PromptBook>>,
    pub ingestor: Arc<Ingestor>,
    pub tender: Arc<Tender>,
    pub indexes: IndexPurger,
    pub data_dir: PathBuf,
}

impl TaskFloor {
    /// Fails if a schedule names a kind of work that is not there.
    pub(super) fn new(rooms: WorkRooms, config: &Config, clock: Clock) -> Result<Self, ConfigError> {
        let store = rooms.store.clone();
        let handlers = handlers(JobParts {
            store: store.clone() as Arc<dyn CorpusStore>,
            log: store.clone() as Arc<dyn OperationLog>,
            searcher: rooms.searcher,
            defaults: rooms.defaults,
            answerer: rooms.answerer,
            gateway: rooms.gateway,
            ingestor: rooms.ingestor,
            generations: store.clone() as Arc<dyn GenerationStore>,
            tender: rooms.tender,
            prompts: rooms.prompts,
            ledger: store.clone() as Arc<dyn Ledger>,
            tasks: store.clone() as Arc<dyn TaskStore>,
            erasure: store.clone() as Arc<dyn Erasure>,
            indexes: rooms.indexes,
            data_dir: rooms.data_dir,
            keep: keep(config),
            settings: config.jobs.clone(),
        });
        let kinds: Vec<TaskKind> = handlers.iter().map(|handler| handler.kind()).collect();
        let unknown = config.tasks.unknown_kinds(&kinds.iter().map(TaskKind::as_str).collect::<Vec<_>>());
        if !unknown.is_empty() {
            return Err(ConfigError::Unacceptable(unknown.iter().map(|one| format!("tasks: {one}")).collect()));
        }
        let bell = Arc::new(Bell::default());
        let desk = Arc::new(TaskDesk::new(TaskDeskParts {
            store: store.clone() as Arc<dyn TaskStore>,
            handlers: handlers.clone(),
            bell: Arc::clone(&bell),
            settings: config.tasks.clone(),
        }));
        Ok(Self { desk, handlers, bell, clock, store, runner: Mutex::default() })
    }

    /// Begins to work on what is in line. A second call changes nothing.
    pub(super) fn open(&self) {
        self.runner.lock().get_or_insert_with(|| {
            Runner::start(RunnerParts {
                queue: self.store.clone() as Arc<dyn TaskQueue>,
                ledger: self.store.clone() as Arc<dyn Ledger>,
                desk: Arc::clone(&self.desk),
                handlers: self.handlers.clone(),
                bell: Arc::clone(&self.bell),
                settings: self.desk.settings().clone(),
                clock: Arc::clone(&self.clock),
            })
        });
    }

    /// Finishes or puts back what is under way.
    pub(super) async fn close(&self) {
        let runner = self.runner.lock().take();
        if let Some(runner) = runner {
            runner.shutdown().await;
        }
    }
}

/// How long the past is kept.
pub(super) fn keep(config: &Config) -> Keep {
    let ingest = &config.ingest;
    Keep {
        traces: days(config.trace.keep_days),
        tasks: days(config.tasks.keep_days),
        versions: (ingest.keep_versions > 0).then_some(ingest.keep_versions),
        replaced: days(ingest.keep_versions_days),
        deleted: days(ingest.keep_deleted_days),
    }
}

/// `None`: for ever.
fn days(days: u32) -> Option<Duration> {
    (days > 0).then(|| Duration::from_secs(u64::from(days) * 86_400))
}
