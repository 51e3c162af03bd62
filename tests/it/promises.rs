//! What a server was asked for and what it has promised, and which of the promises it does not keep.
//!
//! Each document is written by one at a time. While an answer is awaited either content may be there, the one before or
//! the one asked for, whole; from the answer on only the one.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use parking_lot::Mutex;
use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::bed::PATIENCE;
use crate::process::Server;

/// Documents that one query names.
const SOUGHT_AT_ONCE: usize = 20;
const ASKED_AT_ONCE: usize = 8;

/// The text of a document; `None` where there is none.
pub type Content = Option<String>;

/// What was asked for, and what was promised.
#[derive(Default)]
struct Promises {
    /// What may be there, by document number: one thing once it is acknowledged, two while an answer is awaited.
    documents: BTreeMap<usize, Vec<Content>>,
    /// Documents that were written since they were last looked at.
    touched: BTreeSet<usize>,
    /// Tasks that were acknowledged; as they ended, once somebody has seen that.
    tasks: BTreeMap<String, Option<Value>>,
    /// Documents that come with a task.
    brought: BTreeMap<String, Vec<usize>>,
    /// The latest operation that was acknowledged.
    sequence: u64,
    /// Whether answers promise nothing, because the power was cut before they came.
    is_dead: bool,
    kept: Kept,
}

/// What was acknowledged and found again, and what nobody was promised.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kept {
    pub writes: usize,
    pub deletes: usize,
    pub tasks: usize,
    /// Documents whose answer a cut prevented, and those of them that are there.
    pub in_flight: usize,
    pub in_flight_there: usize,
    /// Answers that came after a cut.
    pub late: usize,
}

/// The promises, shared by all who speak to the server.
pub struct Notes {
    promises: Mutex<Promises>,
    /// Answers since the server was started.
    pub answers: watch::Sender<usize>,
}

impl Notes {
    pub fn new() -> Self {
        Self { promises: Mutex::default(), answers: watch::Sender::new(0) }
    }

    pub fn kept(&self) -> Kept {
        self.promises.lock().kept
    }

    pub fn attempt(&self, document: usize, content: Content) {
        let mut promises = self.promises.lock();
        promises.documents.entry(document).or_insert_with(|| vec![None]).push(content);
        promises.touched.insert(document);
    }

    pub fn acknowledge(&self, document: usize, content: Content, answer: &Value) {
        let mut promises = self.promises.lock();
        if promises.is_dead {
            promises.kept.late += 1;
            return;
        }
        match content {
            Some(_) => promises.kept.writes += 1,
            None => promises.kept.deletes += 1,
        }
        promises.documents.insert(document, vec![content]);
        promises.sequence = promises.sequence.max(answer["sequence"].as_u64().unwrap());
    }

    pub fn acknowledge_task(&self, id: &str, brings: Vec<usize>) {
        let mut promises = self.promises.lock();
        if promises.is_dead {
            promises.kept.late += 1;
            return;
        }
        promises.kept.tasks += 1;
        promises.tasks.insert(id.to_owned(), None);
        promises.brought.insert(id.to_owned(), brings);
    }

    /// Keeps how a task has ended, the first time that it is seen.
    pub fn see_ended(&self, task: &Value) {
        let mut promises = self.promises.lock();
        if promises.is_dead {
            return;
        }
        if let Some(seen) = promises.tasks.get_mut(&text_of(&task["id"])) {
            seen.get_or_insert_with(|| end_of(task));
        }
    }

    /// From now on answers promise nothing.
    pub fn power_goes(&self) {
        self.promises.lock().is_dead = true;
    }

    /// A server is started: answers count from none again.
    pub fn power_comes(&self) {
        self.promises.lock().is_dead = false;
        self.answers.send_replace(0);
    }

    pub fn count_answer(&self) {
        self.answers.send_modify(|answers| *answers += 1);
    }

    /// All documents that were written since they were last looked at, and so many of the others.
    pub fn suspects(&self, sample: usize, random: &mut StdRng) -> Vec<usize> {
        let promises = self.promises.lock();
        let mut all: Vec<usize> = promises.documents.keys().copied().collect();
        let mut suspects = promises.touched.clone();
        for _ in 0..sample.min(all.len()) {
            suspects.insert(all.swap_remove(random.random_range(0..all.len())));
        }
        suspects.into_iter().collect()
    }

    /// Documents that are certain to be there, out of `range`.
    pub fn present(&self, range: Range<usize>) -> Vec<usize> {
        let promises = self.promises.lock();
        let is_present = |may_be: &Vec<Content>| matches!(may_be.as_slice(), [Some(_)]);
        promises.documents.range(range).filter(|(_, may_be)| is_present(may_be)).map(|(n, _)| *n).collect()
    }
}

/// Asks one server; `None` once it is gone.
#[derive(Clone)]
pub struct Caller {
    url: String,
    http: reqwest::Client,
}

impl Caller {
    pub fn of(server: &Server) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { url: format!("http://{}", server.address()), http }
    }

    pub async fn put(&self, n: usize, text: &str) -> Option<(u16, Value)> {
        let body = json!({"title": format!("Unit {n}"), "text": text}).to_string();
        let request = self.http.put(format!("{}/documents/doc-{n}", self.url)).body(body);
        answered(request.header("content-type", "application/json")).await
    }

    pub async fn delete(&self, n: usize) -> Option<(u16, Value)> {
        answered(self.http.delete(format!("{}/documents/doc-{n}", self.url))).await
    }

    pub async fn post(&self, path: &str, media_type: &str, body: String) -> Option<(u16, Value)> {
        let request = self.http.post(format!("{}{path}", self.url)).body(body);
        answered(request.header("content-type", media_type)).await
    }

    pub async fn get(&self, path: &str) -> Option<(u16, Value)> {
        answered(self.http.get(format!("{}{path}", self.url))).await
    }

    async fn content(&self, n: usize) -> Content {
        let request = self.http.get(format!("{}/documents/doc-{n}/content", self.url));
        let response = request.send().await.unwrap();
        match response.status().as_u16() {
            200 => Some(response.text().await.unwrap()),
            404 => None,
            status => panic!("doc-{n}: {status} {}", response.text().await.unwrap()),
        }
    }

    /// Ids of the documents that a search for the names of `documents` finds, once the index has got to `sequence`.
    async fn found(&self, documents: &[usize], sequence: u64) -> BTreeSet<String> {
        let query: Vec<String> = documents.iter().map(|n| format!("unit{n}")).collect();
        let body = json!({
            "query": query.join(" "), "mode": "lexical", "top_k": SOUGHT_AT_ONCE, "min_sequence": sequence,
        });
        let asked = Instant::now();
        loop {
            let (status, found) = self.post("/search", "application/json", body.to_string()).await.unwrap();
            if status == 503 && asked.elapsed() < PATIENCE {
                continue;
            }
            assert_eq!(status, 200, "{found}");
            return found["hits"].as_array().unwrap().iter().map(|hit| text_of(&hit["document_id"])).collect();
        }
    }
}

async fn answered(request: reqwest::RequestBuilder) -> Option<(u16, Value)> {
    let response = request.send().await.ok()?;
    let status = response.status().as_u16();
    Some((status, serde_json::from_slice(&response.bytes().await.ok()?).ok()?))
}

pub fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

pub fn text(n: usize, revision: usize) -> String {
    let say = format!("The plate of unit{n} says it was made in hall {}, revision {revision}.", n % 17);
    format!("{say}{}", " It was never moved.".repeat(n % 23))
}

/// Numbers of documents that one round gives out: a range for each writer.
pub fn numbers(round: usize, writer: usize) -> Range<usize> {
    let first = round * 100_000 + writer * 20_000;
    first..first + 20_000
}

fn is_of_a_task(n: usize) -> bool {
    n % 100_000 / 20_000 == TASKS
}

/// A document beside those that are counted.
const PROBE: usize = 99_999;
pub const BATCHES: usize = 0;
pub const SINGLES: usize = 1;
pub const TASKS: usize = 2;

/// What of the promises does not hold, a line for each. Documents in question are settled by what is there, but for
/// those of tasks, which may yet come.
pub async fn broken(caller: &Caller, notes: &Notes, documents: &[usize]) -> Vec<String> {
    let contents: Vec<(usize, Content)> = futures::stream::iter(documents.to_vec())
        .map(|n| async move { (n, caller.content(n).await) })
        .buffer_unordered(ASKED_AT_ONCE)
        .collect()
        .await;
    let mut broken = Vec::new();
    let mut in_question = BTreeSet::new();
    {
        let mut promises = notes.promises.lock();
        for (n, content) in &contents {
            let may_be = promises.documents.get_mut(n).unwrap();
            if !may_be.contains(content) {
                broken.push(format!("doc-{n} is {content:?} and not one of {may_be:?}"));
            }
            match may_be.len() {
                1 => {}
                _ if is_of_a_task(*n) => drop(in_question.insert(*n)),
                _ => {
                    let is_new = may_be.last() == Some(content);
                    *may_be = vec![content.clone()];
                    promises.kept.in_flight += 1;
                    promises.kept.in_flight_there += usize::from(is_new);
                }
            }
        }
        promises.touched.clear();
    }
    broken.extend(broken_tasks(caller, notes).await);
    // An index waits for an operation that is lost for as long as one lets it.
    if !broken.is_empty() {
        return broken;
    }
    let sequence = newest(caller, notes).await;
    for some in contents.chunks(SOUGHT_AT_ONCE) {
        let sought: Vec<usize> = some.iter().map(|(n, _)| *n).collect();
        let found = caller.found(&sought, sequence).await;
        let is_wrong = |(n, content): &&(usize, Content)| match content {
            Some(_) => !found.contains(&format!("doc-{n}")),
            None => found.contains(&format!("doc-{n}")) && !in_question.contains(n),
        };
        broken.extend(some.iter().filter(is_wrong).map(|wrong| format!("a search is wrong about {wrong:?}")));
    }
    broken
}

/// Tasks that are not there, or ended once more.
async fn broken_tasks(caller: &Caller, notes: &Notes) -> Vec<String> {
    let tasks = notes.promises.lock().tasks.clone();
    let mut broken = Vec::new();
    for (id, ended) in tasks {
        let (status, task) = caller.get(&format!("/tasks/{id}")).await.unwrap();
        if status != 200 || ended.as_ref().is_some_and(|ended| *ended != end_of(&task)) {
            broken.push(format!("task {id} had ended as {ended:?} and is {status} {task}"));
        }
    }
    broken
}

/// An operation later than all that can be seen: one more write, which also shows that writes are taken again.
async fn newest(caller: &Caller, notes: &Notes) -> u64 {
    let acknowledged = notes.promises.lock().sequence;
    let probe = format!("The probe unit{PROBE} comes after {acknowledged}.");
    notes.attempt(PROBE, Some(probe.clone()));
    let (status, answer) = caller.put(PROBE, &probe).await.unwrap();
    assert_eq!(status, 202, "{answer}");
    notes.acknowledge(PROBE, Some(probe), &answer);
    let sequence = answer["sequence"].as_u64().unwrap();
    assert!(sequence > acknowledged, "{acknowledged} was acknowledged, and the next operation is {sequence}");
    sequence
}

/// Waits until every task has ended, and holds their results against what was ordered.
pub async fn finish(caller: &Caller, notes: &Notes) {
    let begun = Instant::now();
    let (tasks, brought) = {
        let promises = notes.promises.lock();
        (promises.tasks.clone(), promises.brought.clone())
    };
    for id in tasks.keys() {
        let ended = loop {
            match caller.get(&format!("/tasks/{id}/result")).await.unwrap() {
                (200, ended) => break ended,
                (409, early) => assert!(begun.elapsed() < PATIENCE, "{id} does not end: {early}"),
                (status, refusal) => panic!("{id}: {status} {refusal}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!((&ended["status"], &ended["run"]), (&json!("succeeded"), &json!(1)), "{ended}");
        for n in &brought[id] {
            assert_eq!(caller.content(*n).await, Some(text(*n, 0)), "doc-{n} of {id}");
        }
    }
}

/// What never changes once a task has ended.
fn end_of(task: &Value) -> Value {
    json!([task["status"], task["run"], task["attempts"], task["finished_at"]])
}
