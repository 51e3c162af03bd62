//! A store in a directory of its own, with a desk and as many runners as a test starts.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::Notify;

use crate::domain::{
    ContentHash, JsonText, Task, TaskFailure, TaskId, TaskKind, TaskStatus, TenantId, TenantScope, Timestamp, TraceId,
};
use crate::store::{SqliteStore, StoreSettings, TaskQueue};
use crate::tasks::{
    Again, Bell, Clock, JobHandler, Prepared, Runner, RunnerParts, TaskDesk, TaskDeskParts, TaskError, TaskOrder,
    TaskSettings, Work,
};

/// Longest that a test waits for anything. Far more than it takes: only a broken promise reaches it.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) type Handler = Arc<dyn JobHandler>;

pub(super) struct World {
    _directory: TempDir,
    pub store: Arc<SqliteStore>,
    pub desk: Arc<TaskDesk>,
    pub scope: TenantScope,
    handlers: Vec<Handler>,
    bell: Arc<Bell>,
    pub settings: TaskSettings,
    clock: Clock,
}

/// Settings under which nothing waits long.
pub(super) fn quick() -> TaskSettings {
    TaskSettings { poll_every_ms: 20, backoff_base_ms: 1, backoff_max_ms: 5, ..TaskSettings::default() }
}

impl World {
    pub(super) async fn new(handlers: Vec<Handler>) -> Self {
        Self::with(handlers, quick()).await
    }

    pub(super) async fn with(handlers: Vec<Handler>, settings: TaskSettings) -> Self {
        let clock = || Timestamp(jiff::Timestamp::now().as_microsecond());
        Self::with_clock(handlers, settings, Arc::new(clock)).await
    }

    pub(super) async fn with_clock(handlers: Vec<Handler>, settings: TaskSettings, clock: Clock) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("plumb.db");
        let opened = SqliteStore::open_with_clock(&path, StoreSettings::default(), Arc::clone(&clock)).await;
        let (store, bell) = (Arc::new(opened.unwrap()), Arc::new(Bell::default()));
        let desk = Arc::new(TaskDesk::new(TaskDeskParts {
            store: store.clone(),
            handlers: handlers.clone(),
            bell: Arc::clone(&bell),
            settings: settings.clone(),
        }));
        let scope = tenant("acme");
        Self { _directory: directory, store, desk, scope, handlers, bell, settings, clock }
    }

    pub(super) fn runner(&self) -> Runner {
        self.runner_with(self.settings.clone())
    }

    pub(super) fn runner_with(&self, settings: TaskSettings) -> Runner {
        self.runner_on(self.store.clone(), settings)
    }

    pub(super) fn runner_on(&self, queue: Arc<dyn TaskQueue>, settings: TaskSettings) -> Runner {
        Runner::start(RunnerParts {
            queue,
            ledger: self.store.clone(),
            desk: Arc::clone(&self.desk),
            handlers: self.handlers.clone(),
            bell: Arc::clone(&self.bell),
            settings,
            clock: Arc::clone(&self.clock),
        })
    }

    /// Stops a runner where it is, and does what the next process does first.
    pub(super) async fn crash(&self, runner: Runner) {
        drop(runner);
        self.store.take_back_all((self.clock)()).await.unwrap();
    }

    pub(super) async fn submit(&self, kind: &str, input: Value) -> Task {
        self.submit_as(&self.scope, kind, input).await
    }

    pub(super) async fn submit_as(&self, scope: &TenantScope, kind: &str, input: Value) -> Task {
        self.desk.submit(scope, order(kind, input)).await.unwrap().task
    }

    pub(super) async fn force(&self, kind: &str, input: Value) -> Task {
        let order = TaskOrder { again: Again::Force, ..order(kind, input) };
        self.desk.submit(&self.scope, order).await.unwrap().task
    }

    pub(super) async fn task(&self, id: TaskId) -> Task {
        self.desk.task(&self.scope, id, None).await.unwrap().unwrap()
    }

    pub(super) async fn failures(&self, task: &Task) -> Vec<TaskFailure> {
        self.desk.failures(task, 100).await.unwrap()
    }

    /// The newest run once it has this status.
    pub(super) async fn until(&self, id: TaskId, status: TaskStatus) -> Task {
        self.until_as(&self.scope, id, status).await
    }

    pub(super) async fn until_as(&self, scope: &TenantScope, id: TaskId, status: TaskStatus) -> Task {
        let (mut changes, began) = (self.desk.watch(), Instant::now());
        loop {
            let task = self.desk.task(scope, id, None).await.unwrap().unwrap();
            if task.status == status {
                return task;
            }
            assert!(began.elapsed() < PATIENCE, "the task is not {status:?} but {task:?}");
            let _ = tokio::time::timeout(Duration::from_millis(20), changes.changed()).await;
        }
    }

    /// Does a task from its submission to this status, with a runner of its own.
    pub(super) async fn run_to(&self, kind: &str, input: Value, status: TaskStatus) -> Task {
        let runner = self.runner();
        let task = self.submit(kind, input).await;
        let task = self.until(task.id, status).await;
        runner.shutdown().await;
        task
    }
}

pub(super) fn tenant(name: &str) -> TenantScope {
    TenantScope::everything(TenantId::new(name).unwrap())
}

pub(super) fn order(kind: &str, input: Value) -> TaskOrder {
    TaskOrder {
        kind: kind.to_owned(),
        input,
        model: None,
        priority: 0,
        delay: Duration::ZERO,
        again: Again::No,
        session_id: None,
        trace_id: TraceId([7; 16]),
        slot: None,
    }
}

pub(super) fn json<T: serde::Serialize>(value: T) -> Result<JsonText, TaskError> {
    Ok(JsonText::of(&value).unwrap())
}

/// Waits for what another task of the runtime will bring about.
pub(super) async fn becomes_true(mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "what was waited for did not happen");
        tokio::task::yield_now().await;
    }
}

/// As [`becomes_true`], for what must be asked for.
pub(super) async fn becomes<T, Fut: Future<Output = T>>(
    mut ask: impl FnMut() -> Fut,
    is_right: impl Fn(&T) -> bool,
) -> T {
    let began = Instant::now();
    loop {
        let answer = ask().await;
        if is_right(&answer) {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "what was waited for did not happen");
        tokio::task::yield_now().await;
    }
}

/// A door that is shut until somebody opens it for good.
#[derive(Default)]
pub(super) struct Gate {
    is_open: AtomicBool,
    opened: Notify,
    came: AtomicUsize,
}

impl Gate {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(super) async fn pass(&self) {
        self.came.fetch_add(1, Ordering::SeqCst);
        let opened = self.opened.notified();
        if !self.is_open.load(Ordering::SeqCst) {
            opened.await;
        }
    }

    pub(super) fn open(&self) {
        self.is_open.store(true, Ordering::SeqCst);
        self.opened.notify_waiters();
    }

    /// Returns once so many have come to it.
    pub(super) async fn reached(&self, times: usize) {
        becomes_true(|| self.came.load(Ordering::SeqCst) >= times).await;
    }
}

/// What was done, in order.
#[derive(Clone, Default)]
pub(super) struct Diary(Arc<Mutex<Vec<String>>>);

impl Diary {
    pub(super) fn write(&self, line: impl ToString) {
        self.0.lock().push(line.to_string());
    }

    pub(super) fn read(&self) -> Vec<String> {
        self.0.lock().clone()
    }

    pub(super) fn count(&self, line: &str) -> usize {
        self.0.lock().iter().filter(|own| *own == line).count()
    }
}

type Run = dyn for<'a> Fn(&'a Work) -> BoxFuture<'a, Result<JsonText, TaskError>> + Send + Sync;

struct Scripted {
    kind: TaskKind,
    run: Box<Run>,
}

/// A kind of work that does what the test says.
pub(super) fn kind<F>(name: &str, run: F) -> Handler
where
    F: for<'a> Fn(&'a Work) -> BoxFuture<'a, Result<JsonText, TaskError>> + Send + Sync + 'static,
{
    Arc::new(Scripted { kind: TaskKind::new(name).unwrap(), run: Box::new(run) })
}

#[async_trait]
impl JobHandler for Scripted {
    fn kind(&self) -> TaskKind {
        self.kind.clone()
    }

    fn permission(&self) -> crate::domain::Permission {
        crate::domain::Permission::Search
    }

    async fn prepare(
        &self,
        _scope: &TenantScope,
        input: JsonText,
        model: Option<String>,
    ) -> Result<Prepared, TaskError> {
        Ok(Prepared { input, context: ContentHash([0; 32]), prompt: None, model, total: None })
    }

    async fn run(&self, work: &Work) -> Result<JsonText, TaskError> {
        (self.run)(work).await
    }
}
