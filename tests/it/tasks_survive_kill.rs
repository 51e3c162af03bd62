//! The binary is killed again and again while it works on tasks: each ends once, with the result it would have had
//! undisturbed, and what was spent is known.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::bed::PATIENCE;
use crate::echo_server::{EchoServer, INPUT_TOKENS, OUTPUT_TOKENS};
use crate::process::{Client, Server};

const KILLS: usize = 500;
const SEED: u64 = 20_261_123;
/// Tasks of one load, and the share of each kind.
const MAPS: usize = 120;
const PIPELINES: usize = 40;
const INGESTS: usize = 40;
const CHUNKS: usize = 10;
/// Tasks at once; items one after the other, so that a kill can repeat one item for each.
const RUNNING: usize = 4;
const LATENCY: Duration = Duration::from_millis(20);
/// Longest life of a process, counted from its start or from when it serves.
const LIFE_MS: u64 = 60;
/// A dollar for a million tokens in, ten for a million out: in nano-dollars a token.
const INPUT_NANOUSD: u64 = 1_000;
const OUTPUT_NANOUSD: u64 = 10_000;

fn settings(model_server: &str) -> String {
    format!(
        "[tasks]\nmax_running = {RUNNING}\nmax_running_per_tenant = {RUNNING}\nmax_items_at_once = 1\n\
         max_attempts = 1000\nmax_running_per_kind = {{}}\n\
         [gateway.providers.echo]\nbase_url = \"{model_server}\"\n\
         [gateway.models.m]\nprovider = \"echo\"\nmodel = \"m-1\"\n\
         [gateway.routes.default]\nmodels = [\"m\"]\n\
         [[gateway.prices]]\nprovider = \"echo\"\nmodel = \"m-1\"\nfrom = \"2020-01-01\"\n\
         input_usd_per_mtok = 1.0\noutput_usd_per_mtok = 10.0\n\
         [[gateway.budgets]]\nscope = \"tenant:*\"\nperiod = \"total\"\nlimit_usd = 1000000.0\n"
    )
}

fn chunk(document: usize, n: usize) -> Value {
    json!({"text": format!("Plate {document}-{n} was made in hall {} by shift {}.", n % 17, document % 3)})
}

async fn fill(client: &Client) {
    let document = |n: usize| {
        let chunks: Vec<Value> = (0..CHUNKS).map(|at| chunk(n, at)).collect();
        json!({"id": format!("doc-{n}"), "title": format!("Unit {n}"), "chunks": chunks}).to_string() + "\n"
    };
    let lines: String = (0..MAPS).map(document).collect();
    let answer = client.post_ndjson(lines, "?wait=indexed").await.unwrap();
    assert_eq!(answer["accepted"], MAPS, "{answer}");
}

/// The tasks of one load, the same for the same round.
fn orders(round: usize) -> Vec<Value> {
    let map = |n: usize| {
        json!({"kind": "map", "input": {
            "documents": [format!("doc-{n}")], "over": "chunks", "max_tokens": 20,
            "prompt": format!("Round {round}: say it shorter.\n{{{{text}}}}"),
        }})
    };
    let pipeline = |n: usize| {
        json!({"kind": "pipeline", "input": {"input": {"unit": format!("{n}"), "round": round}, "steps": [
            {"name": "find", "type": "search", "query": "plate {{input.unit}}", "mode": "lexical", "top_k": 3},
            {"name": "say", "type": "answer", "question": "Which hall made plate {{input.unit}}?"},
            {"name": "tell", "type": "extract", "from": "{{find.hits.0.text}} {{input.round}}",
             "schema": {"type": "object", "properties": {"echo": {"type": "string"}}}},
        ]}})
    };
    let ingest = |n: usize| {
        let document = |at: usize| json!({"id": format!("new-{n}-{at}"), "text": format!("Round {round}, note {at}.")});
        json!({"kind": "ingest", "input": {
            "collection": format!("in-{round}-{n}"), "documents": (0..5).map(document).collect::<Vec<_>>(),
        }})
    };
    (0..MAPS).map(map).chain((0..PIPELINES).map(pipeline)).chain((0..INGESTS).map(ingest)).collect()
}

/// Submits a load; ids in the order of the orders.
async fn submit(client: &Client, round: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for order in orders(round) {
        let (status, task) = client.post_json("/tasks", order.to_string()).await;
        assert!(status == 202 || status == 200, "{status} {task}");
        ids.push(task["id"].as_str().unwrap().to_owned());
    }
    ids
}

async fn unfinished(client: &Client) -> u64 {
    let mut left = 0;
    for status in ["queued", "waiting", "running"] {
        let (_, listed) = client.get(&format!("/tasks?status={status}&limit=1000")).await;
        left += listed["tasks"].as_array().unwrap().len() as u64;
    }
    left
}

async fn finish(client: &Client) {
    let begun = Instant::now();
    while unfinished(client).await > 0 {
        assert!(begun.elapsed() < PATIENCE * 4, "the tasks do not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Models are kept away, and a search says so; what else it left out depends on how long the process has run. Sequences
/// count all writes of the server. A document that was written before a kill is found unchanged after it.
fn leave_out_what_time_decides(result: &mut Value) {
    for step in result["outputs"].as_object_mut().into_iter().flat_map(serde_json::Map::values_mut) {
        step.as_object_mut().and_then(|step| step.remove("degraded"));
    }
    let Some(ingested) = result.as_object_mut().filter(|result| result.contains_key("accepted")) else { return };
    ingested.remove("sequence");
    let counts =
        ["accepted", "unchanged"].map(|count| ingested.remove(count).and_then(|count| count.as_u64()).unwrap());
    ingested.insert("taken".to_owned(), json!(counts[0] + counts[1]));
    for document in ingested["documents"].as_array_mut().unwrap() {
        let document = document.as_object_mut().unwrap();
        document.remove("degraded");
        let status = document.remove("status").unwrap();
        assert!(status == "accepted" || status == "unchanged", "{status}");
    }
}

/// What each task came to.
async fn results(client: &Client, ids: &[String]) -> BTreeMap<String, Value> {
    let mut results = BTreeMap::new();
    for id in ids {
        let (status, result) = client.get(&format!("/tasks/{id}/result")).await;
        assert_eq!(status, 200, "{result}");
        assert_eq!((&result["status"], &result["run"]), (&json!("succeeded"), &json!(1)), "{result}");
        let mut result = result["result"].clone();
        leave_out_what_time_decides(&mut result);
        results.insert(id.clone(), result);
    }
    results
}

fn spawn(data: &Path, config: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_plumb"))
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(data)
        .arg("--config")
        .arg(config)
        .env("PLUMB_MODELS_DIR", data.join("no-models"))
        .env("PLUMB_LOG__LOG_FILTER", "error")
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn sql(data: &Path, query: &str) -> Vec<Vec<String>> {
    let output = Command::new(env!("CARGO_BIN_EXE_plumb"))
        .args(["sql", "--format", "csv", query, "--data-dir"])
        .arg(data)
        .env("PLUMB_MODELS_DIR", data.join("no-models"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().skip(1).map(|line| line.trim().split(',').map(str::to_owned).collect()).collect()
}

/// One process that is killed at a random point of its life: while it opens what the one before it left, or at work.
async fn live_and_die(data: &Path, config: &Path, random: &mut StdRng) {
    if random.random_bool(0.2) {
        let mut child = spawn(data, config);
        tokio::time::sleep(Duration::from_micros(random.random_range(0..LIFE_MS * 2_000))).await;
        child.kill().unwrap();
        child.wait().unwrap();
        return;
    }
    let arguments = ["--config", config.to_str().unwrap()];
    let mut server = Server::start_with(data, &arguments);
    tokio::time::sleep(Duration::from_micros(random.random_range(0..LIFE_MS * 1_000))).await;
    server.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_task_ends_once_with_its_own_result_whatever_500_kills_interrupt() {
    let dir = tempdir().unwrap();
    let model = EchoServer::start(LATENCY).await;
    let config = dir.path().join("plumb.toml");
    std::fs::write(&config, settings(&model.base_url())).unwrap();
    let arguments = ["--config", config.to_str().unwrap()];
    let data = dir.path().join("disturbed");
    let mut random = StdRng::seed_from_u64(SEED);
    let mut ids: Vec<Vec<String>> = Vec::new();
    let mut kills = 0;

    let begun = Instant::now();
    while kills < KILLS {
        let mut server = Server::start_with(&data, &arguments);
        if ids.is_empty() {
            fill(&server.client()).await;
        }
        if unfinished(&server.client()).await == 0 {
            ids.push(submit(&server.client(), ids.len()).await);
        }
        server.kill();
        kills += 1;
        for _ in 0..24 {
            live_and_die(&data, &config, &mut random).await;
            kills += 1;
        }
    }
    let server = Server::start_with(&data, &arguments);
    finish(&server.client()).await;
    let all: Vec<String> = ids.iter().flatten().cloned().collect();
    let disturbed = results(&server.client(), &all).await;
    assert!(server.terminate().success());
    let asked = model.asked();
    println!(
        "seed {SEED}: {kills} kills in {} s over {} tasks; {} calls, {} of them repeated",
        begun.elapsed().as_secs(),
        all.len(),
        model.requests(),
        model.requests() - asked.len() as u64,
    );

    // A kill repeats one item of each running step at most.
    assert!(model.requests() - asked.len() as u64 <= (kills * RUNNING) as u64);
    assert!(asked.values().all(|times| *times < 100), "{asked:?}");
    accounts_for_all(&data, &asked);

    let quiet_model = EchoServer::start(Duration::ZERO).await;
    std::fs::write(&config, settings(&quiet_model.base_url())).unwrap();
    let quiet = dir.path().join("undisturbed");
    let server = Server::start_with(&quiet, &arguments);
    fill(&server.client()).await;
    for (round, before) in ids.iter().enumerate() {
        assert_eq!(submit(&server.client(), round).await, *before, "the same work has the same id");
    }
    finish(&server.client()).await;
    let undisturbed = results(&server.client(), &all).await;
    assert!(server.terminate().success());

    for (id, result) in &undisturbed {
        assert_eq!(&disturbed[id], result, "{id}");
    }
    let quiet_asked = quiet_model.asked();
    assert!(quiet_asked.values().all(|times| *times == 1), "nothing is done twice without a kill");
    let mut keys: Vec<_> = quiet_asked.keys().collect();
    let mut disturbed_keys: Vec<_> = asked.keys().collect();
    keys.sort();
    disturbed_keys.sort();
    assert_eq!(keys, disturbed_keys, "a call that is made again is made under its own id");
}

/// The ledger has a row for each request that reached the server, and charges no less than its bill.
fn accounts_for_all(data: &Path, asked: &HashMap<String, u64>) {
    let rows =
        sql(data, "SELECT call_id, COUNT(*), SUM(outcome = 'ok'), SUM(cost_nanousd) FROM llm_calls GROUP BY call_id");
    let ledger: HashMap<&str, (u64, u64, u64)> = rows
        .iter()
        .map(|row| (row[0].as_str(), (row[1].parse().unwrap(), row[2].parse().unwrap(), row[3].parse().unwrap())))
        .collect();
    let price = INPUT_TOKENS * INPUT_NANOUSD + OUTPUT_TOKENS * OUTPUT_NANOUSD;
    for (key, times) in asked {
        let (attempts, ok, cost) = ledger.get(key.as_str()).unwrap_or_else(|| panic!("{key} is not in the ledger"));
        assert!(attempts >= times, "{key} was made {times} times, the ledger knows {attempts}");
        assert_eq!(*ok, 1, "{key}");
        assert!(*cost >= times * price, "{key}: {cost} for {times} calls");
    }
    let spent = sql(data, "SELECT SUM(cost_nanousd) FROM budget_spending");
    let charged = sql(data, "SELECT SUM(cost_nanousd) FROM llm_calls");
    assert_eq!(spent, charged, "what was charged to the budget is what the rows say");
    assert_eq!(sql(data, "SELECT COUNT(*) FROM budget_reservations")[0][0], "0");
    assert_eq!(sql(data, "SELECT COUNT(*) FROM task_calls")[0][0], "0");
}
