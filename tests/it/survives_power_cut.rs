//! The power is cut again and again while the binary takes documents in, removes them and works on tasks: everything
//! it has acknowledged is there when it comes back.
//!
//! How a cut is made, and where it is harsher or milder than a real one, stands in [`crate::cut_disk`]. An answer counts
//! when it came before the cut. One that comes after it, from a process that without power would not be there, leaves
//! its write in question.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::bed::PATIENCE;
use crate::cut_disk::{Cut, CutDisk};
use crate::echo_server::EchoServer;
use crate::process::Server;
use crate::promises::{BATCHES, Caller, Kept, Notes, SINGLES, TASKS, broken, finish, numbers, text, text_of};

const SEED: u64 = 20_261_124;
/// Data directories, each begun anew, and cuts that each goes through. Seven, so that each begins with another kind.
const LIVES: usize = 3;
const CUTS: usize = 7;
const DISK_MIB: u64 = 160;
/// A cut comes after so many answers at most, and so long after the last of them.
const MOST_ANSWERS: usize = 40;
const LONGEST_DELAY_US: u64 = 8_000;
/// How long the server lives on a dead disk, at most, and how often that is. What it says then is no fault of the test.
const LONGEST_AGONY_US: u64 = 20_000;
const AGONIES: f64 = 0.25;
/// How often a second cut hits the server while it opens what the first has left, and how far into that at most.
const SECOND_CUTS: f64 = 0.3;
const LONGEST_OPENING_US: u64 = 250_000;
const LINES: usize = 25;
const TASKS_A_ROUND: usize = 4;
/// How often `plumb check` opens what a cut has left, before a server does.
const CHECKS_FIRST: f64 = 0.2;
/// Documents of earlier rounds that are looked at after a cut; after the last cut it is all of them.
const SAMPLE: usize = 40;
/// Broken promises that a failure names.
const TOLD: usize = 10;
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
            notes.see_ended(task);
        }
        tokio::time::sleep(MODEL_LATENCY).await;
    }
}

/// A task, and the documents that it brings: a prompt over documents where there are some, else new documents.
fn order(notes: &Notes, round: usize, new: &mut Range<usize>) -> (Value, Vec<usize>) {
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
    second_cuts: usize,
}

impl World {
    fn start(&self, data: &Path) -> Server {
        self.notes.power_comes();
        Server::start_with(data, &self.arguments.each_ref().map(String::as_str))
    }

    /// Cuts the power while a server opens what the cut before has left.
    async fn cut_while_it_opens(&mut self, disk: &CutDisk, data: &Path, round: usize) {
        let mut opening = Command::new(env!("CARGO_BIN_EXE_plumb"))
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data)
            .args(&self.arguments)
            .env("PLUMB_MODELS_DIR", data.join("no-models"))
            .env("PLUMB_LOG__LOG_FILTER", "error")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_micros(self.random.random_range(0..LONGEST_OPENING_US))).await;
        let cut = self.kind_of_cut(round);
        tokio::task::block_in_place(|| disk.cut(cut, || {}));
        opening.kill().unwrap();
        opening.wait().unwrap();
        tokio::task::block_in_place(|| disk.power_on());
        self.second_cuts += 1;
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
        tokio::task::block_in_place(|| disk.cut(cut, || self.notes.power_goes()));
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
}

/// One data directory from its first start through all its cuts.
async fn live(disk: &CutDisk, life: usize, world: &mut World) {
    let data = disk.root().join(format!("life-{life}/data"));
    let mut server = world.start(&data);
    for round in life * CUTS..(life + 1) * CUTS {
        let cut = world.write_until_cut(disk, server, round).await;
        if world.random.random_bool(SECOND_CUTS) {
            // Another kind than the first.
            world.cut_while_it_opens(disk, &data, round + 1).await;
        }
        if world.random.random_bool(CHECKS_FIRST) {
            assert_whole(&data);
        }
        server = world.start(&data);
        let is_last = (round + 1).is_multiple_of(CUTS);
        let sample = if is_last { usize::MAX } else { SAMPLE };
        let suspects = world.notes.suspects(sample, &mut world.random);
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
    let mut cuts = LIVES * CUTS;

    for life in 0..LIVES {
        let before = model.asked().into_keys().collect();
        let mut world = World {
            arguments: ["--config".to_owned(), config.path().to_str().unwrap().to_owned()],
            notes: Arc::new(Notes::new()),
            random: StdRng::seed_from_u64(random.random()),
            second_cuts: 0,
        };
        live(&disk, life, &mut world).await;
        assert_accounted(&disk.root().join(format!("life-{life}/data")), &model, &before);
        cuts += world.second_cuts;
        let of_life = world.notes.kept();
        kept.writes += of_life.writes;
        kept.deletes += of_life.deletes;
        kept.tasks += of_life.tasks;
        kept.in_flight += of_life.in_flight;
        kept.in_flight_there += of_life.in_flight_there;
        kept.late += of_life.late;
    }

    println!(
        "seed {SEED}: {} cuts in {} s; acknowledged: {} writes, {} deletes, {} tasks; lost 0; in flight {}, of them there {}; \
         answered after the cut {}",
        cuts,
        begun.elapsed().as_secs(),
        kept.writes,
        kept.deletes,
        kept.tasks,
        kept.in_flight,
        kept.in_flight_there,
        kept.late,
    );
    let least = kept.deletes.min(kept.tasks).min(kept.in_flight);
    assert!(least >= LIVES, "too little was at stake: {kept:?}");
}
