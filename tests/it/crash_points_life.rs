//! The life that is cut off at every point: what one server is asked for, in order, and what it owes at each point.
//!
//! Short, and with settings that make everything happen that a long life has: the database's log is moved into the
//! database a dozen times, lexical segments are merged, vectors are sealed in segments and built into a graph, tasks
//! call a model and keep its replies, and the server is closed and started again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bed::PATIENCE;
use crate::io_record::{Operation, Recorded};
use crate::io_record_disk::Disk;

/// Collection and id.
pub type Name = (&'static str, String);
pub const PLAIN: &str = "default";
/// Its vectors are brought by the caller.
pub const WITH_VECTORS: &str = "vectors";

/// How long maintenance is waited for, at most.
const LONGEST_REST: Duration = Duration::from_secs(2);

/// A document's content, as the caller knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub text: String,
    /// Stands in the metadata.
    pub revision: u64,
}

#[derive(Debug, Clone)]
enum Event {
    Attempted(Name, Option<Written>),
    Acknowledged(Name, Option<Written>),
    /// The latest operation that was acknowledged.
    Reached(u64),
    TaskTaken(String),
}

/// What must hold at one point.
#[derive(Debug, Clone, Default)]
pub struct Owed {
    /// What may be there: one thing once it is acknowledged; beside it what was attempted since.
    pub documents: BTreeMap<Name, Vec<Option<Written>>>,
    pub tasks: BTreeSet<String>,
    pub sequence: u64,
    /// Writes and deletes that were acknowledged, also those that later ones replaced.
    pub acknowledged: usize,
}

/// What a server has done, and what it was asked for meanwhile.
pub struct Life {
    /// Where it was.
    pub root: PathBuf,
    pub operations: Vec<Operation>,
    /// With the number of operations before it.
    events: Vec<(usize, Event)>,
}

impl Life {
    /// What is owed once `made` operations were made.
    pub fn owed(&self, made: usize) -> Owed {
        let mut owed = Owed::default();
        for (_, event) in self.events.iter().take_while(|(at, _)| *at <= made) {
            match event.clone() {
                Event::Attempted(name, written) => {
                    owed.documents.entry(name).or_insert_with(|| vec![None]).push(written);
                }
                Event::Acknowledged(name, written) => {
                    owed.documents.insert(name, vec![written]);
                    owed.acknowledged += 1;
                }
                Event::Reached(sequence) => owed.sequence = owed.sequence.max(sequence),
                Event::TaskTaken(task) => drop(owed.tasks.insert(task)),
            }
        }
        owed
    }

    /// How many events there are up to there: where it is the same, the same is owed.
    pub fn events_until(&self, made: usize) -> usize {
        self.events.partition_point(|(at, _)| *at <= made)
    }
}

/// The settings of a life and of whoever looks at what it left.
pub fn settings(model_server: &str) -> String {
    format!(
        "[store]\ncheckpoint_mib = 0\nreaders = 1\n\
         [cache]\nflush_every_ms = 50\n\
         [ingest.caller_vectors.{WITH_VECTORS}]\nname = \"own\"\ndimensions = 4\n\
         [index.follow]\nflush_operations = 4\nflush_interval_ms = 300\nmaintain_interval_ms = 50\nquiet_ms = 200\n\
         commit_interval_ms = 1000\n\
         [index.lexical]\nmerge_factor = 3\n\
         [index.vector]\nexact_threshold = 8\nseal_rows = 4\nmerge_factor = 2\n\
         [compute]\nthreads = 1\n\
         [tasks]\nmax_items_at_once = 1\nmax_attempts = 1000\n\
         [gateway.providers.echo]\nbase_url = \"{model_server}\"\n\
         [gateway.models.m]\nprovider = \"echo\"\nmodel = \"m-1\"\n\
         [gateway.routes.default]\nmodels = [\"m\"]\n\
         [[gateway.prices]]\nprovider = \"echo\"\nmodel = \"m-1\"\nfrom = \"2020-01-01\"\n\
         input_usd_per_mtok = 1.0\noutput_usd_per_mtok = 10.0\n\
         [[gateway.budgets]]\nscope = \"tenant:*\"\nperiod = \"total\"\nlimit_usd = 1000000.0\n"
    )
}

/// Where the server of a directory keeps its data: not in the directory itself, so that it makes its own.
pub fn data_below(root: &Path) -> PathBuf {
    root.join("data")
}

fn plumb(root: &Path, config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plumb"));
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(data_below(root))
        .arg("--config")
        .arg(config)
        .env("PLUMB_MODELS_DIR", root.join("no-models"))
        .env("PLUMB_LOG__LOG_FILTER", "error");
    command
}

/// A server that is recorded, and a client for it.
pub struct Served {
    recorded: Recorded,
    url: String,
    http: reqwest::Client,
    /// Operations of earlier processes.
    before: usize,
    events: Vec<(usize, Event)>,
}

impl Served {
    /// Starts on what `disk` holds, which lies in `root`. An error where processes cannot be traced.
    pub fn start(root: &Path, config: &Path, disk: &Disk) -> Result<Self, String> {
        plumb::gateway::install_tls();
        let recorded = Recorded::start(plumb(root, config), root, disk.numbers())?;
        let line = recorded.line().expect("the server starts");
        let url = line.split_whitespace().find(|word| word.starts_with("http://")).expect("it says where");
        let url = url.trim_end_matches(|c: char| !c.is_ascii_digit()).to_owned();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Ok(Self { recorded, url, http, before: 0, events: Vec::new() })
    }

    fn note(&mut self, event: Event) {
        self.events.push((self.before + self.recorded.position(), event));
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> (u16, Value) {
        let response = request.header("content-type", "application/json").send().await.unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap())
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.send(self.http.get(format!("{}{path}", self.url))).await
    }

    /// Puts documents in one request.
    async fn put(&mut self, collection: &'static str, documents: &[(String, Written)], query: &str) {
        let name = |id: &String| (collection, id.clone());
        for (id, written) in documents {
            self.note(Event::Attempted(name(id), Some(written.clone())));
        }
        let bodies: Vec<Value> = documents.iter().map(|(id, written)| body(collection, id, written)).collect();
        let request = self.http.post(format!("{}/documents{query}", self.url));
        let (status, answer) = self.send(request.body(json!({"documents": bodies}).to_string())).await;
        assert!(matches!(status, 200 | 202) && answer["accepted"] == documents.len(), "{status} {answer}");
        for (id, written) in documents {
            self.note(Event::Acknowledged(name(id), Some(written.clone())));
        }
        self.note(Event::Reached(answer["sequence"].as_u64().unwrap()));
    }

    async fn delete(&mut self, collection: &'static str, id: &str) {
        self.note(Event::Attempted((collection, id.to_owned()), None));
        let request = self.http.delete(format!("{}/documents/{id}?collection={collection}", self.url));
        let (status, answer) = self.send(request).await;
        assert!(matches!(status, 200 | 202), "{status} {answer}");
        self.note(Event::Acknowledged((collection, id.to_owned()), None));
        self.note(Event::Reached(answer["sequence"].as_u64().unwrap()));
    }

    /// Hands in a task that brings these documents, and waits for its end.
    async fn run_task(&mut self, task: Value, brings: &[(String, Written)]) {
        for (id, written) in brings {
            self.note(Event::Attempted((PLAIN, id.clone()), Some(written.clone())));
        }
        let request = self.http.post(format!("{}/tasks", self.url)).body(task.to_string());
        let (status, answer) = self.send(request).await;
        assert_eq!(status, 202, "{answer}");
        let id = answer["id"].as_str().unwrap().to_owned();
        self.note(Event::TaskTaken(id.clone()));
        // It ends some time, so what it brings is owed.
        for (id, written) in brings {
            self.note(Event::Acknowledged((PLAIN, id.clone()), Some(written.clone())));
        }
        let begun = Instant::now();
        loop {
            let (_, task) = self.get(&format!("/tasks/{id}")).await;
            match task["status"].as_str() {
                Some("succeeded") => return,
                Some("queued" | "waiting" | "running") => assert!(begun.elapsed() < PATIENCE, "{task}"),
                _ => panic!("{task}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits for maintenance: until nothing has been written for so long.
    pub async fn rest(&self, quiet: Duration) {
        let mut last = (self.recorded.position(), Instant::now());
        let begun = Instant::now();
        while last.1.elapsed() < quiet && begun.elapsed() < LONGEST_REST {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let position = self.recorded.position();
            last = if position == last.0 { last } else { (position, Instant::now()) };
        }
    }

    /// Ends it by a signal.
    pub fn end(self, signal: i32) -> Vec<Operation> {
        self.recorded.signal(signal);
        self.recorded.ended()
    }
}

fn body(collection: &str, id: &str, written: &Written) -> Value {
    let metadata = json!({"revision": written.revision});
    if collection == WITH_VECTORS {
        let chunk = json!({"text": written.text, "vector": direction(written)});
        return json!({"id": id, "collection": collection, "metadata": metadata, "chunks": [chunk]});
    }
    json!({"id": id, "collection": collection, "title": "Plate", "text": written.text, "metadata": metadata})
}

fn direction(written: &Written) -> [f64; 4] {
    let n = written.text.len() as f64;
    [1.0, n.sin(), n.cos(), written.revision as f64 / 10.0]
}

/// Every text has the word `plate`.
fn numbered(range: std::ops::Range<usize>, revision: u64) -> Vec<(String, Written)> {
    let text = |n: usize| {
        let say = format!("The plate of unit{n} was made in hall {}, revision {revision}.", n % 7);
        format!("{say}{}", " It was never moved from there, nor was it cleaned.".repeat(n % 5 * 8))
    };
    range.map(|n| (format!("doc-{n}"), Written { text: text(n), revision })).collect()
}

/// Lives through everything once. An error where processes cannot be traced.
pub async fn live(root: &Path, config: &Path) -> Result<Life, String> {
    let mut disk = Disk::of(root);
    let mut first = Served::start(root, config, &disk)?;
    write_and_change(&mut first).await;
    first.rest(Duration::from_millis(600)).await;
    let mut events = std::mem::take(&mut first.events);
    let mut operations = first.end(libc::SIGTERM);
    replay(&mut disk, &operations, root);

    let mut second = Served::start(root, config, &disk)?;
    second.before = operations.len();
    go_on(&mut second).await;
    events.append(&mut second.events);
    let later = second.end(libc::SIGTERM);
    replay(&mut disk, &later, root);
    operations.extend(later);
    Ok(Life { root: root.to_owned(), operations, events })
}

/// Brings `disk` to where the process has left it, and makes sure that nothing has escaped the record.
fn replay(disk: &mut Disk, operations: &[Operation], root: &Path) {
    operations.iter().for_each(|operation| disk.apply(operation));
    assert_eq!(disk.killed().differences(&Disk::of(root).killed()), [""; 0], "the record is not complete");
}

async fn write_and_change(server: &mut Served) {
    for document in numbered(0..2, 1) {
        server.put(PLAIN, &[document], "").await;
    }
    server.put(PLAIN, &numbered(2..9, 1), "?wait=indexed").await;
    server.put(WITH_VECTORS, &numbered(0..6, 1), "").await;
    server.put(PLAIN, &numbered(1..2, 2), "").await;
    server.delete(PLAIN, "doc-4").await;
    server.delete(WITH_VECTORS, "doc-2").await;
    let brings = numbered(20..23, 1);
    let documents: Vec<Value> = brings
        .iter()
        .map(|(id, written)| json!({"id": id, "text": written.text, "metadata": {"revision": 1}}))
        .collect();
    let ingest = json!({"kind": "ingest", "input": {"collection": PLAIN, "documents": documents}});
    server.run_task(ingest, &brings).await;
    server.put(WITH_VECTORS, &numbered(6..14, 1), "?wait=indexed").await;
    let map = json!({"kind": "map", "input": {
        "documents": ["doc-0", "doc-5"], "over": "chunks", "max_tokens": 20, "prompt": "Shorter:\n{{text}}",
    }});
    server.run_task(map, &[]).await;
    server.put(WITH_VECTORS, &numbered(3..5, 2), "").await;
    server.put(PLAIN, &numbered(6..8, 2), "").await;
    server.delete(PLAIN, "doc-20").await;
    server.put(PLAIN, &numbered(4..5, 3), "").await;
}

async fn go_on(server: &mut Served) {
    server.put(PLAIN, &numbered(30..32, 1), "").await;
    server.put(PLAIN, &numbered(0..1, 2), "?wait=indexed").await;
    server.delete(WITH_VECTORS, "doc-7").await;
    server.delete(PLAIN, "doc-30").await;
    server.put(WITH_VECTORS, &numbered(20..22, 1), "").await;
}
