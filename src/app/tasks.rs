//! Durable work with everything around it: the kinds, the desk where it is asked for, and the runner.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::answer::Answerer;
use crate::config::{Config, ConfigError};
use crate::domain::TaskKind;
use crate::gateway::{Clock, Gateway};
use crate::ingest::Ingestor;
use crate::jobs::{JobParts, Keep, handlers};
use crate::search::{SearchDefaults, Searcher};
use crate::store::{CorpusStore, Ledger, OperationLog, SqliteStore, TaskQueue, TaskStore};
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
    pub ingestor: Arc<Ingestor>,
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
            ledger: store.clone() as Arc<dyn Ledger>,
            tasks: store.clone() as Arc<dyn TaskStore>,
            keep: Keep { traces: days(config.trace.keep_days), tasks: days(config.tasks.keep_days) },
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

/// `None`: for ever.
fn days(days: u32) -> Option<Duration> {
    (days > 0).then(|| Duration::from_secs(u64::from(days) * 86_400))
}
