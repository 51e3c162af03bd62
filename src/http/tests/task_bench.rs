//! A world with a real store of tasks, and a hand that works as a runner would.

use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::domain::{
    ContentHash, ErrorKind, JsonText, Permission, RunnerId, StepName, StepRecord, Task, TaskFailure, TaskKind,
    TaskProblem, TenantId, TenantScope, Timestamp,
};
use crate::http::{AuthSettings, HttpSettings};
use crate::store::{ClaimWish, Lease, LedgerEntry, SqliteStore, StoreSettings, TaskEnd, TaskQueue, TaskStore};
use crate::tasks::{Bell, JobHandler, Prepared, TaskDesk, TaskDeskParts, TaskError, TaskSettings, Work};

use super::world::{Reply, World, keyed, request};

const RUNNER: RunnerId = RunnerId([5; 16]);

/// Two tenants at one desk; `acme` and `other` are their keys.
pub struct Bench {
    pub world: World,
    pub acme: String,
    pub other: String,
    pub store: Arc<SqliteStore>,
    pub bell: Arc<Bell>,
    _dir: TempDir,
}

impl Bench {
    pub async fn new() -> Self {
        Self::with(HttpSettings::default(), &[Permission::Admin]).await
    }

    pub async fn with(settings: HttpSettings, permissions: &[Permission]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&dir.path().join("plumb.db"), StoreSettings::default()).await.unwrap();
        let (store, bell) = (Arc::new(store), Arc::new(Bell::default()));
        let limits = TaskSettings { max_input_bytes: 4_096, max_open_per_tenant: 10, ..TaskSettings::default() };
        let desk = TaskDesk::new(TaskDeskParts {
            store: store.clone() as Arc<dyn TaskStore>,
            handlers: vec![Arc::new(Copying), Arc::new(Inward)],
            bell: bell.clone(),
            settings: limits,
        });
        let (acme, mut auth) = keyed("acme", permissions);
        let (other, theirs) = keyed("other", permissions);
        auth.keys.extend(theirs.keys);
        let world = World::with_desk(settings, AuthSettings { keys: auth.keys }, Arc::new(desk));
        Self { world, acme, other, store, bell, _dir: dir }
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send(&self.acme, "GET", path, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Reply {
        self.send(&self.acme, "POST", path, Some(body)).await
    }

    pub async fn send(&self, key: &str, method: &str, path: &str, body: Option<Value>) -> Reply {
        self.world.send(asked(key, method, path, body)).await
    }

    /// Puts a task in line and returns its id.
    pub async fn submit(&self, items: Value) -> String {
        let reply = self.post("/tasks", json!({"kind": "copy", "input": {"items": items}})).await;
        assert_eq!(reply.status, 202, "{}", reply.text);
        reply.json()["id"].as_str().unwrap().to_owned()
    }

    /// Takes the first task in line.
    pub async fn claim(&self) -> Task {
        let head = self.store.queue(now(), 1).await.unwrap().heads.remove(0);
        let wish = ClaimWish { key: head.key, kind_limit: 100, tenant_limit: 100 };
        let mut claimed = self.store.claim(RUNNER, vec![wish], now()).await.unwrap();
        self.bell.changed();
        claimed.remove(0).unwrap()
    }

    /// Records an item of the step `copy`.
    pub async fn record(&self, task: &Task, (item, of): (u32, u32), output: Value) {
        let input = JsonText::of_value(&json!({ "item": item }));
        let record = StepRecord {
            step: StepName::new("copy").unwrap(),
            item,
            of,
            position: 0,
            input_hash: input.hash(),
            input,
            output: JsonText::of_value(&output),
            attempt: 1,
            started_at: Timestamp(1_000_000),
            finished_at: Timestamp(1_000_000 + 500_000 * i64::from(item + 1)),
        };
        self.store.checkpoint(lease(task), record, no_entries()).await.unwrap();
        self.bell.changed();
    }

    /// Writes down that an item of the step `copy` failed.
    pub async fn fail_item(&self, task: &Task, item: u32) {
        let failure = TaskFailure {
            task_id: task.id,
            run: task.run,
            kind: task.kind.clone(),
            step: Some(StepName::new("copy").unwrap()),
            item: Some(item),
            input_hash: None,
            problem: refused(),
            model: Some("small".to_owned()),
            prompt_version: None,
            trace_id: task.trace_id,
            attempt: 1,
            is_final: false,
            at: now(),
        };
        self.store.note_failure(lease(task), failure, no_entries()).await.unwrap();
        self.bell.changed();
    }

    pub async fn end(&self, task: &Task, end: TaskEnd) {
        self.store.end(lease(task), end, None, no_entries()).await.unwrap();
        self.bell.changed();
    }

    /// A task that has succeeded with one recorded item.
    pub async fn ended(&self, items: Value) -> String {
        let id = self.submit(items).await;
        let task = self.claim().await;
        self.record(&task, (0, 1), json!("first")).await;
        self.end(&task, succeeded(json!({"copied": 1}))).await;
        id
    }
}

pub fn asked(key: &str, method: &str, path: &str, body: Option<Value>) -> axum::http::Request<Body> {
    let bearer = format!("Bearer {key}");
    let typed = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    match body {
        Some(body) => request(method, path, &typed, body.to_string()),
        None => request(method, path, &typed[..1], Body::empty()),
    }
}

pub fn now() -> Timestamp {
    Timestamp(jiff::Timestamp::now().as_microsecond())
}

pub fn succeeded(output: Value) -> TaskEnd {
    TaskEnd::Succeeded { output: JsonText::of_value(&output) }
}

pub fn refused() -> TaskProblem {
    TaskProblem { kind: ErrorKind::Upstream, detail: "the model server refused".to_owned() }
}

fn lease(task: &Task) -> Lease {
    Lease { key: task.key, runner: RUNNER, epoch: task.epoch }
}

fn no_entries() -> Vec<LedgerEntry> {
    Vec::new()
}

/// Wants a list of items, and a key that may write.
struct Copying;

#[async_trait]
impl JobHandler for Copying {
    fn kind(&self) -> TaskKind {
        TaskKind::new("copy").unwrap()
    }

    fn permission(&self) -> crate::domain::Permission {
        crate::domain::Permission::Search
    }

    async fn prepare(
        &self,
        scope: &TenantScope,
        input: JsonText,
        model: Option<String>,
    ) -> Result<Prepared, TaskError> {
        if !scope.may(Permission::Write) {
            return Err(TaskError::failed(ErrorKind::Forbidden, "the key lacks the permission write"));
        }
        let value: Value = input.read().unwrap();
        let Some(items) = value["items"].as_array() else {
            return Err(TaskError::invalid(vec![("/items".to_owned(), "must be an array".to_owned())]));
        };
        let total = Some(items.len() as u64);
        Ok(Prepared { input, context: ContentHash([0; 32]), prompt: None, model, total })
    }

    async fn run(&self, _: &Work) -> Result<JsonText, TaskError> {
        unreachable!("nothing runs here but the bench")
    }
}

/// Only the process itself may ask for it.
struct Inward;

#[async_trait]
impl JobHandler for Inward {
    fn kind(&self) -> TaskKind {
        TaskKind::new("inward").unwrap()
    }

    fn permission(&self) -> crate::domain::Permission {
        crate::domain::Permission::Search
    }

    fn is_public(&self) -> bool {
        false
    }

    async fn prepare(&self, _: &TenantScope, _: JsonText, _: Option<String>) -> Result<Prepared, TaskError> {
        unreachable!("no caller reaches it")
    }

    async fn run(&self, _: &Work) -> Result<JsonText, TaskError> {
        unreachable!("nothing runs here but the bench")
    }
}

/// All that a tenant has.
pub fn scope(tenant: &str) -> TenantScope {
    TenantScope::everything(TenantId::new(tenant).unwrap())
}
