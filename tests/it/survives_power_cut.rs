//! The power is cut again and again while the binary takes documents in, removes them and works on tasks: everything
//! it has acknowledged is there when it comes back.
//!
//! How a cut is made, and where it is harsher or milder than a real one, stands in [`crate::cut_disk`]. Answers count
//! whenever they come: one that is given after the cut promises as much as one before it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::bed::PATIENCE;
use crate::cut_disk::{Cut, CutDisk};
use crate::echo_server::EchoServer;
use crate::process::Server;

const SEED: u64 = 20_261_124;
/// Data directories, each begun anew, and cuts that each goes through. Seven, so that each begins with another kind.
const LIVES: usize = 3;
const CUTS: usize = 7;
const DISK_MIB: u64 = 160;
/// A cut comes after so many answers at most, and so long after the last of them.
const MOST_ANSWERS: usize = 50;
const LONGEST_DELAY_US: u64 = 8_000;
/// How long the server lives on a dead disk, at most, and how often that is. What it says then is no fault of the test.
const LONGEST_AGONY_US: u64 = 20_000;
const AGONIES: f64 = 0.25;
const LINES: usize = 25;
const TASKS_A_ROUND: usize = 4;
/// Documents of earlier rounds that are looked at after a cut; after the last cut it is all of them.
const SAMPLE: usize = 40;
/// Broken promises that a failure names.
const TOLD: usize = 10;
/// Documents that one query names.
const SOUGHT_AT_ONCE: usize = 20;
const ASKED_AT_ONCE: usize = 8;
const MODEL_LATENCY: Duration = Duration::from_millis(3);

fn settings(model_server: &str) -> String {
    format!(
        "[tasks]\nmax_items_at_once = 1\nmax_attempts = 1000\n\
         [gateway.providers.echo]\nbase_url = \"{model_server}\"\n\
         [gateway.models.m]\nprovider = \"echo\"\nmodel = \"m-1\"\n\
         [gateway.routes.default]\nmodels = [\"m\"]\n\
         [[gateway.prices]]\nprovider = \"echo\"\nmodel = \"m-1\"\nfrom = \"2020-01-01\"\n\
         input_usd_per_mtok = 1.0\noutput_usd_per_mtok = 10.0\n\
         [[gateway.budgets]]\nscope = \"tenant:*\"\nperiod = \"total\"\nlimit_usd = 1000000.0\n"
    )
}

/// The text of a document; `None` where there is none.
type Content = Option<String>;

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
    kept: Kept,
}

/// What was acknowledged and found again, and what nobody was promised.
#[derive(Debug, Clone, Copy, Default)]
struct Kept {
    writes: usize,
    deletes: usize,
    tasks: usize,
    /// Documents whose answer a cut prevented, and those of them that are there.
    in_flight: usize,
    in_flight_there: usize,
}

/// The promises, shared by all who speak to the server.
struct Notes {
    promises: Mutex<Promises>,
    /// Answers since the server was started.
    answers: watch::Sender<usize>,
}

impl Notes {
    fn attempt(&self, document: usize, content: Content) {
        let mut promises = self.promises.lock();
        promises.documents.entry(document).or_insert_with(|| vec![None]).push(content);
        promises.touched.insert(document);
    }

    fn acknowledge(&self, document: usize, content: Content, answer: &Value) {
        let mut promises = self.promises.lock();
        match content {
            Some(_) => promises.kept.writes += 1,
            None => promises.kept.deletes += 1,
        }
        promises.documents.insert(document, vec![content]);
        promises.sequence = promises.sequence.max(answer["sequence"].as_u64().unwrap_or(0));
    }

    fn acknowledge_task(&self, id: &str, brings: Vec<usize>) {
        let mut promises = self.promises.lock();
        promises.kept.tasks += 1;
        promises.tasks.insert(id.to_owned(), None);
        promises.brought.insert(id.to_owned(), brings);
    }

    fn count_answer(&self) {
        self.answers.send_modify(|answers| *answers += 1);
    }

    /// Documents that are certain to be there, out of `range`.
    fn present(&self, range: std::ops::Range<usize>) -> Vec<usize> {
        let promises = self.promises.lock();
        let is_present = |may_be: &Vec<Content>| matches!(may_be.as_slice(), [Some(_)]);
        promises.documents.range(range).filter(|(_, may_be)| is_present(may_be)).map(|(n, _)| *n).collect()
    }
}

/// Asks one server; `None` once it is gone.
#[derive(Clone)]
struct Caller {
    url: String,
    http: reqwest::Client,
}

impl Caller {
    fn of(server: &Server) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { url: format!("http://{}", server.address()), http }
    }

    async fn put(&self, n: usize, text: &str) -> Option<(u16, Value)> {
        let body = json!({"title": format!("Unit {n}"), "text": text}).to_string();
        let request = self.http.put(format!("{}/documents/doc-{n}", self.url)).body(body);
        answered(request.header("content-type", "application/json")).await
    }

    async fn delete(&self, n: usize) -> Option<(u16, Value)> {
        answered(self.http.delete(format!("{}/documents/doc-{n}", self.url))).await
    }

    async fn post(&self, path: &str, media_type: &str, body: String) -> Option<(u16, Value)> {
        let request = self.http.post(format!("{}{path}", self.url)).body(body);
        answered(request.header("content-type", media_type)).await
    }

    async fn get(&self, path: &str) -> Option<(u16, Value)> {
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

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

fn text(n: usize, revision: usize) -> String {
    let say = format!("The plate of unit{n} says it was made in hall {}, revision {revision}.", n % 17);
    format!("{say}{}", " It was never moved.".repeat(n % 23))
}

/// Numbers of documents that one round gives out: a range for each writer.
fn numbers(round: usize, writer: usize) -> std::ops::Range<usize> {
    let first = round * 100_000 + writer * 20_000;
    first..first + 20_000
}

fn is_of_a_task(n: usize) -> bool {
    n % 100_000 / 20_000 == TASKS
}

/// A document beside those that are counted.
const PROBE: usize = 99_999;
const BATCHES: usize = 0;
const SINGLES: usize = 1;
const TASKS: usize = 2;

/// Sends batches until the server refuses or is gone.
async fn write_batches(caller: Caller, notes: Arc<Notes>, round: usize) {
    let all: Vec<usize> = numbers(round, BATCHES).collect();
    for batch in all.chunks(LINES) {
        let line = |n: &usize| json!({"id": format!("doc-{n}"), "text": text(*n, 0)}).to_string() + "\n";
        batch.iter().for_each(|n| notes.attempt(*n, Some(text(*n, 0))));
        let lines: String = batch.iter().map(line).collect();
        let Some((202, answer)) = caller.post("/documents", "application/x-ndjson", lines).await else { return };
        for (n, document) in batch.iter().zip(answer["documents"].as_array().unwrap()) {
            match document["status"].as_str() {
                Some("accepted") => notes.acknowledge(*n, Some(text(*n, 0)), &answer),
                _ => return,
            }
        }
        notes.count_answer();
    }
}

/// Puts, changes and deletes one document at a time, also those of earlier rounds, until the server refuses or is gone.
async fn write_singles(caller: Caller, notes: Arc<Notes>, round: usize) {
    let mut random = StdRng::seed_from_u64(SEED + round as u64);
    let first = round - round % CUTS;
    let mut own: Vec<usize> = (first..round).flat_map(|earlier| notes.present(numbers(earlier, SINGLES))).collect();
    for (revision, new) in numbers(round, SINGLES).enumerate() {
        let old = random.random_range(0..own.len().max(1));
        let (n, content) = match random.random_range(0..3) {
            0 if !own.is_empty() => (own.swap_remove(old), None),
            1 if !own.is_empty() => (own[old], Some(text(own[old], round * 1_000 + revision))),
            _ => (new, Some(text(new, 0))),
        };
        notes.attempt(n, content.clone());
        let answer = match &content {
            Some(text) => caller.put(n, text).await,
            None => caller.delete(n).await,
        };
        let Some((200 | 202, answer)) = answer else { return };
        notes.acknowledge(n, content, &answer);
        notes.count_answer();
        if n == new {
            own.push(n);
        }
    }
}

/// Submits tasks and looks for those that have ended, until the server refuses or is gone.
async fn submit_tasks(caller: Caller, notes: Arc<Notes>, round: usize) {
    let mut new = numbers(round, TASKS);
    for at in 0.. {
        if at < TASKS_A_ROUND {
            let (order, brings) = order(&notes, round, &mut new);
            brings.iter().for_each(|n| notes.attempt(*n, Some(text(*n, 0))));
            let answer = caller.post("/tasks", "application/json", order.to_string()).await;
            let Some((202, task)) = answer else { return };
            notes.acknowledge_task(&text_of(&task["id"]), brings);
            notes.count_answer();
        }
        let Some((200, ended)) = caller.get("/tasks?status=succeeded&limit=1000").await else { return };
        for task in ended["tasks"].as_array().unwrap() {
            if let Some(seen) = notes.promises.lock().tasks.get_mut(&text_of(&task["id"])) {
                seen.get_or_insert_with(|| end_of(task));
            }
        }
        tokio::time::sleep(MODEL_LATENCY).await;
    }
}

/// A task, and the documents that it brings: a prompt over documents where there are some, else new documents.
fn order(notes: &Notes, round: usize, new: &mut std::ops::Range<usize>) -> (Value, Vec<usize>) {
    let there: Vec<usize> = notes.present(numbers(round, BATCHES)).into_iter().rev().take(5).collect();
    if there.len() == 5 && new.start % 2 == 1 {
        let n = new.next().unwrap();
        let documents: Vec<String> = there.iter().map(|n| format!("doc-{n}")).collect();
        let prompt = format!("Order {n}: say it shorter.\n{{{{text}}}}");
        let input = json!({"documents": documents, "over": "chunks", "max_tokens": 20, "prompt": prompt});
        return (json!({"kind": "map", "input": input}), Vec::new());
    }
    let brings: Vec<usize> = new.take(3).collect();
    let document = |n: &usize| json!({"id": format!("doc-{n}"), "text": text(*n, 0)});
    let documents: Vec<Value> = brings.iter().map(document).collect();
    (json!({"kind": "ingest", "input": {"collection": "default", "documents": documents}}), brings)
}

/// What never changes once a task has ended.
fn end_of(task: &Value) -> Value {
    json!([task["status"], task["run"], task["attempts"], task["finished_at"]])
}

/// What of the promises does not hold, a line for each. Documents in question are settled by what is there, but for
/// those of tasks, which may yet come.
async fn broken(caller: &Caller, notes: &Notes, documents: &[usize]) -> Vec<String> {
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
    let (status, answer) = caller.put(PROBE, &format!("Probe after {acknowledged}.")).await.unwrap();
    assert_eq!(status, 202, "{answer}");
    let sequence = answer["sequence"].as_u64().unwrap();
    assert!(sequence > acknowledged, "{acknowledged} was acknowledged, and the next operation is {sequence}");
    sequence
}

/// Waits until every task has ended, and holds their results against what was ordered.
async fn finish(caller: &Caller, notes: &Notes) {
    let begun = Instant::now();
    let (tasks, brought) = {
        let promises = notes.promises.lock();
        (promises.tasks.clone(), promises.brought.clone())
    };
    for id in tasks.keys() {
        let ended = loop {
            let (_, task) = caller.get(&format!("/tasks/{id}/result")).await.unwrap();
            match task["status"].as_str() {
                Some("queued" | "waiting" | "running") => assert!(begun.elapsed() < PATIENCE, "{id} does not end"),
                _ => break task,
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!((&ended["status"], &ended["run"]), (&json!("succeeded"), &json!(1)), "{ended}");
        for n in &brought[id] {
            assert_eq!(caller.content(*n).await, Some(text(*n, 0)), "doc-{n} of {id}");
        }
    }
}

fn plumb(data: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_plumb"))
        .args(arguments)
        .arg("--data-dir")
        .arg(data)
        .env("PLUMB_MODELS_DIR", data.join("no-models"))
        .env("PLUMB_LOG__LOG_FILTER", "error")
        .output()
        .unwrap()
}

fn assert_whole(data: &Path) {
    let check = plumb(data, &["check"]);
    let said = [&check.stdout, &check.stderr].map(|said| String::from_utf8_lossy(said).into_owned()).concat();
    assert!(check.status.success() && said.contains("database: ok"), "{}: {said}", check.status);
}

/// Every call that reached the model is in the ledger, succeeded once, and holds no money back.
fn assert_accounted(data: &Path, model: &EchoServer, before: &BTreeSet<String>) {
    let rows = |query: &str| -> Vec<String> {
        let output = plumb(data, &["sql", "--format", "csv", query]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().skip(1).map(|line| line.trim().to_owned()).collect()
    };
    let ok: BTreeSet<String> =
        rows("SELECT call_id FROM llm_calls GROUP BY call_id HAVING SUM(outcome = 'ok') = 1").into_iter().collect();
    let asked: BTreeSet<String> = model.asked().into_keys().filter(|key| !before.contains(key)).collect();
    assert_eq!(ok, asked, "each call that was made has succeeded once");
    assert_eq!(rows("SELECT COUNT(*) FROM budget_reservations"), ["0"]);
    assert_eq!(rows("SELECT COUNT(*) FROM task_calls"), ["0"]);
}

/// What a life needs beside its disk.
struct World {
    arguments: [String; 2],
    notes: Arc<Notes>,
    random: StdRng,
}

impl World {
    fn start(&self, data: &Path) -> Server {
        self.notes.answers.send_replace(0);
        Server::start_with(data, &self.arguments.each_ref().map(String::as_str))
    }

    fn kind_of_cut(&mut self, round: usize) -> Cut {
        match round % 3 {
            0 => Cut::Flushed,
            1 => Cut::Torn { seed: self.random.random() },
            _ => Cut::Issued,
        }
    }

    /// Lets all write at once, and cuts the power in the middle of it. The first cut comes early, when hardly more than
    /// the data directory is there.
    async fn write_until_cut(&mut self, disk: &CutDisk, mut server: Server, round: usize) -> Cut {
        let caller = Caller::of(&server);
        let writers = [
            tokio::spawn(write_batches(caller.clone(), self.notes.clone(), round)),
            tokio::spawn(write_singles(caller.clone(), self.notes.clone(), round)),
            tokio::spawn(submit_tasks(caller, self.notes.clone(), round)),
        ];
        let most = if round.is_multiple_of(CUTS) { 3 } else { MOST_ANSWERS };
        let answers = self.random.random_range(1..=most);
        let mut seen = self.notes.answers.subscribe();
        let reached = tokio::time::timeout(PATIENCE, seen.wait_for(|so_far| *so_far >= answers)).await;
        reached.expect("the server answers").unwrap();
        tokio::time::sleep(Duration::from_micros(self.random.random_range(0..LONGEST_DELAY_US))).await;
        let gone = writers.iter().filter(|writer| writer.is_finished()).count();
        assert_eq!(gone, 0, "a writer was refused before the cut");

        let cut = self.kind_of_cut(round);
        tokio::task::block_in_place(|| disk.cut(cut));
        if self.random.random_bool(AGONIES) {
            tokio::time::sleep(Duration::from_micros(self.random.random_range(0..LONGEST_AGONY_US))).await;
        }
        server.kill();
        for writer in writers {
            writer.await.unwrap();
        }
        tokio::task::block_in_place(|| disk.power_on());
        cut
    }

    /// What to look at after a cut: all that was written since the last, and some of what was written before.
    fn suspects(&mut self, sample: usize) -> Vec<usize> {
        let promises = self.notes.promises.lock();
        let mut all: Vec<usize> = promises.documents.keys().copied().collect();
        let mut suspects = promises.touched.clone();
        for _ in 0..sample.min(all.len()) {
            suspects.insert(all.swap_remove(self.random.random_range(0..all.len())));
        }
        suspects.into_iter().collect()
    }
}

/// One data directory from its first start through all its cuts.
async fn live(disk: &CutDisk, life: usize, world: &mut World) {
    let data = disk.root().join(format!("life-{life}/data"));
    let mut server = world.start(&data);
    for round in life * CUTS..(life + 1) * CUTS {
        let cut = world.write_until_cut(disk, server, round).await;
        if world.random.random_bool(0.2) {
            assert_whole(&data);
        }
        server = world.start(&data);
        let is_last = (round + 1).is_multiple_of(CUTS);
        let suspects = world.suspects(if is_last { usize::MAX } else { SAMPLE });
        let broken = broken(&Caller::of(&server), &world.notes, &suspects).await;
        let told = broken.iter().take(TOLD).cloned().collect::<Vec<_>>().join("\n");
        assert!(broken.is_empty(), "seed {SEED}, round {round}, {cut:?}: {} broken promises:\n{told}", broken.len());
        assert_whole(&data);
    }
    finish(&Caller::of(&server), &world.notes).await;
    assert!(server.terminate().success());
    assert_whole(&data);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_outlives_power_cuts_in_the_middle_of_everything() {
    let Some(disk) = CutDisk::switched_on(DISK_MIB) else { return };
    let begun = Instant::now();
    let config = tempfile::NamedTempFile::new().unwrap();
    let model = EchoServer::start(MODEL_LATENCY).await;
    std::fs::write(config.path(), settings(&model.base_url())).unwrap();
    let mut random = StdRng::seed_from_u64(SEED);
    let mut kept = Kept::default();

    for life in 0..LIVES {
        let before = model.asked().into_keys().collect();
        let mut world = World {
            arguments: ["--config".to_owned(), config.path().to_str().unwrap().to_owned()],
            notes: Arc::new(Notes { promises: Mutex::default(), answers: watch::Sender::new(0) }),
            random: StdRng::seed_from_u64(random.random()),
        };
        live(&disk, life, &mut world).await;
        assert_accounted(&disk.root().join(format!("life-{life}/data")), &model, &before);
        let of_life = world.notes.promises.lock().kept;
        kept.writes += of_life.writes;
        kept.deletes += of_life.deletes;
        kept.tasks += of_life.tasks;
        kept.in_flight += of_life.in_flight;
        kept.in_flight_there += of_life.in_flight_there;
    }

    println!(
        "seed {SEED}: {} cuts in {} s; acknowledged: {} writes, {} deletes, {} tasks; lost 0; in flight {}, of them there {}",
        LIVES * CUTS,
        begun.elapsed().as_secs(),
        kept.writes,
        kept.deletes,
        kept.tasks,
        kept.in_flight,
        kept.in_flight_there,
    );
    let least = kept.deletes.min(kept.tasks).min(kept.in_flight);
    assert!(least >= LIVES, "too little was at stake: {kept:?}");
}
