//! Starts on what a crash has left and says what of the promises does not hold.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use plumb::app::App;
use plumb::config::Config;
use plumb::http::LocalDoor;
use plumb::store::{DataDirectory, OperationLog as _, check_truth};
use serde_json::{Value, json};

use crate::bed::PATIENCE;
use crate::crash_points_life::{Name, Owed, PLAIN, WITH_VECTORS, Written, data_below};

/// Whether something of the indexes may have to be built again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Indexes {
    /// They are as the process left them.
    Whole,
    /// What they had not made durable may be gone or torn.
    Damaged,
}

/// What must hold.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    pub owed: &'a Owed,
    pub indexes: Indexes,
    /// Whether a further write is tried.
    pub writable: bool,
}

/// The first promise that does not hold, in words.
pub async fn check(root: &Path, config: &Config, wanted: Wanted<'_>) -> Result<(), String> {
    let mut config = config.clone();
    config.server.data_dir = data_below(root);
    let app = App::start(config).await.map_err(|error| format!("it does not start: {}", told(&error)))?;
    let checked = check_app(&app, wanted).await;
    app.shutdown().await.map_err(|error| format!("it does not close: {}", told(&error)))?;
    checked?;
    let truth = check_truth(&DataDirectory::database_in(&data_below(root))).await.map_err(|error| told(&error))?;
    if truth.findings.is_empty() { Ok(()) } else { Err(format!("the truth is damaged: {:?}", truth.findings)) }
}

/// An error and its causes.
pub fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |told, cause| format!("{told}: {cause}"))
}

async fn check_app(app: &App, wanted: Wanted<'_>) -> Result<(), String> {
    let Wanted { owed, indexes, writable } = wanted;
    let door = app.local_door().map_err(|error| told(&error))?;
    finish_tasks(app, &door, &owed.tasks).await?;
    app.catch_up(PATIENCE).await.map_err(|error| told(&error))?;
    let mut live = BTreeMap::new();
    for collection in [PLAIN, WITH_VECTORS] {
        live.extend(documents(&door, collection).await?);
    }
    compare(&live, owed)?;
    for collection in [PLAIN, WITH_VECTORS] {
        let ids = live.keys().filter(|name| name.0 == collection).map(|name| name.1.clone()).collect();
        check_search(&door, collection, &ids).await?;
    }
    check_counts(app).await?;
    let damage = app.indexes.damage();
    if indexes == Indexes::Whole && !damage.is_empty() {
        return Err(format!("a kill alone has damaged an index: {damage:?}"));
    }
    if writable { check_writable(&door, owed.sequence).await } else { Ok(()) }
}

/// Every task that was taken is there, and ends well.
async fn finish_tasks(app: &App, door: &LocalDoor, owed: &BTreeSet<String>) -> Result<(), String> {
    let tasks = array(&get(door, "/tasks?limit=100").await?, "tasks")?;
    let ids: BTreeSet<String> = tasks.iter().map(|task| text_of(&task["id"])).collect();
    if !owed.is_subset(&ids) {
        return Err(format!("of the tasks {owed:?} only {ids:?} are there"));
    }
    let is_open = |task: &&Value| task["status"] != "succeeded";
    let open: Vec<String> = tasks.iter().filter(is_open).map(|task| text_of(&task["id"])).collect();
    if open.is_empty() {
        return Ok(());
    }
    app.work_on_tasks();
    let begun = Instant::now();
    for id in open {
        loop {
            let task = get(door, &format!("/tasks/{id}")).await?;
            match task["status"].as_str() {
                Some("succeeded") => break,
                Some("queued" | "waiting" | "running") if begun.elapsed() < PATIENCE => {}
                _ => return Err(format!("a task does not end well: {task}")),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    Ok(())
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn array(answer: &Value, field: &str) -> Result<Vec<Value>, String> {
    answer[field].as_array().cloned().ok_or_else(|| format!("no {field} in {answer}"))
}

async fn get(door: &LocalDoor, path: &str) -> Result<Value, String> {
    match door.get(path).await {
        (200, body) => serde_json::from_slice(&body).map_err(|error| error.to_string()),
        (status, body) => Err(format!("{path}: {status} {}", String::from_utf8_lossy(&body))),
    }
}

/// What is there; nothing where the collection is not.
async fn documents(door: &LocalDoor, collection: &'static str) -> Result<Vec<(Name, Written)>, String> {
    let path = format!("/documents?collection={collection}&limit=100");
    let (status, body) = door.get(&path).await;
    if status == 404 {
        return Ok(Vec::new());
    }
    let listed: Value = serde_json::from_slice(&body).map_err(|error| format!("{path}: {status} {error}"))?;
    let mut found = Vec::new();
    for document in array(&listed, "documents")? {
        let id = text_of(&document["id"]);
        let revision = document["metadata"]["revision"].as_u64().unwrap_or_default();
        let (status, text) = door.get(&format!("/documents/{id}/content?collection={collection}")).await;
        let text = String::from_utf8_lossy(&text).into_owned();
        if status != 200 {
            return Err(format!("the text of {id}: {status} {text}"));
        }
        found.push(((collection, id), Written { text, revision }));
    }
    Ok(found)
}

fn compare(live: &BTreeMap<Name, Written>, owed: &Owed) -> Result<(), String> {
    if let Some(stranger) = live.keys().find(|name| !owed.documents.contains_key(*name)) {
        return Err(format!("{stranger:?} is there, which nobody has sent"));
    }
    for (name, may_be) in &owed.documents {
        let is = live.get(name).cloned();
        if !may_be.contains(&is) {
            return Err(format!("{name:?} is {is:?} and not one of {may_be:?}"));
        }
    }
    Ok(())
}

/// Both legs find exactly what is there.
async fn check_search(door: &LocalDoor, collection: &str, ids: &BTreeSet<String>) -> Result<(), String> {
    let lexical = json!({"query": "plate", "collection": collection, "mode": "lexical", "top_k": 100, "rerank": {"enabled": false}});
    let vector = json!({
        "query": "plate", "vector": [1.0, 0.1, 0.1, 0.1], "collection": collection, "mode": "vector", "top_k": 100,
        "rerank": {"enabled": false},
    });
    let queries = if collection == WITH_VECTORS { vec![lexical, vector] } else { vec![lexical] };
    for query in queries {
        let (status, body) = door.post("/search", query.to_string().into_bytes()).await;
        if status == 404 && ids.is_empty() {
            continue;
        }
        let answer: Value = serde_json::from_slice(&body).map_err(|error| format!("{status} {error}"))?;
        let hits = array(&answer, "hits")?;
        let found: BTreeSet<String> = hits.iter().map(|hit| text_of(&hit["document_id"])).collect();
        if found != *ids || !answer["degraded"].as_array().is_some_and(Vec::is_empty) {
            return Err(format!("{query} finds {found:?} instead of {ids:?}, degraded: {}", answer["degraded"]));
        }
    }
    Ok(())
}

async fn check_counts(app: &App) -> Result<(), String> {
    for owned in app.store.generations().await.map_err(|error| told(&error))? {
        let generation = owned.generation;
        let held = app.store.live_counts(generation.id).await.map_err(|error| told(&error))?;
        let index = app.indexes.get(generation.id, &generation.profile).map_err(|error| told(&error))?;
        let vectors = index.vector.as_ref().map_or(held.vectors, |vector| vector.live_vectors());
        let seen = (index.lexical.live_chunks(), vectors);
        if seen != (held.chunks, held.vectors) {
            return Err(format!("the indexes of {} hold {seen:?} and the truth {held:?}", owned.collection));
        }
    }
    Ok(())
}

/// A further write is taken, and its number is later than all that were told.
async fn check_writable(door: &LocalDoor, sequence: u64) -> Result<(), String> {
    let body = json!({"documents": [{"id": "probe", "text": "The probe."}]}).to_string();
    let (status, answer) = door.post("/documents", body.into_bytes()).await;
    let answer: Value = serde_json::from_slice(&answer).map_err(|error| error.to_string())?;
    match answer["sequence"].as_u64() {
        Some(next) if status == 202 && next > sequence => Ok(()),
        _ => Err(format!("after {sequence} a write was answered with {status} {answer}")),
    }
}
