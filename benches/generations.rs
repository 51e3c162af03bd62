//! What a change of chunking costs while it happens: `cargo bench --bench generations`.
//!
//! A server of its own process takes real passages in, is searched by two clients all the time, and is told to chunk
//! the collection anew: beside what serves, then document by document in its place, then back. Reported are the latency
//! of searches in each phase over that before, failed searches (none), documents with hits from two generations in one
//! answer (none), what was embedded of what could have been, what an edit of a hundredth costs, and the time from an
//! acknowledged write to a search that finds it. `PLUMB_BENCH_PASSAGES` sets how many passages (default 20,000).
#![expect(clippy::print_stdout, reason = "a report on standard output is the purpose of this target")]

#[path = "search/feed.rs"]
#[expect(dead_code, reason = "shared with the bench of searches, which uses more of it")]
mod feed;
#[path = "generations/load.rs"]
mod load;
#[path = "search/server.rs"]
#[expect(dead_code, reason = "shared with the bench of searches, which uses more of it")]
mod server;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use load::{Load, Phase};
use server::Server;

/// Length of the phases in which nothing but searching happens.
const QUIET: Duration = Duration::from_secs(20);
/// Longest wait for a build or a move.
const PATIENCE: Duration = Duration::from_secs(3_600);
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);
/// Writes whose way into searches is timed.
const WRITES: usize = 200;
/// Every so many-th document is edited.
const EDIT_EVERY: usize = 100;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let corpora = variable("PLUMB_CORPORA")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data"), PathBuf::from);
    let file = corpora.join("load/passages-100k.jsonl.gz");
    if !file.exists() {
        println!("did not run: there is no {}", file.display());
        return Ok(());
    }
    let wanted = variable("PLUMB_BENCH_PASSAGES").map_or(Ok(20_000), |text| text.parse())?;
    let passages = feed::read(&file, wanted)?;
    let queries = feed::queries(&passages);
    let folder = tempfile::tempdir()?;
    let server = Arc::new(Server::start(&folder.path().join("data"))?);
    println!("{}", feed::ingest(&server, &passages).await?);
    server.settle().await?;
    time_writes(&server).await?;
    edit(&server, &passages).await?;
    change(&server, queries).await?;
    Arc::into_inner(server).context("the load has ended")?.stop().await
}

/// From the answer to a write to the first search that sees it, on an idle server.
async fn time_writes(server: &Server) -> anyhow::Result<()> {
    let mut times = Histogram::<u64>::new(3)?;
    for n in 0..WRITES {
        let line = json!({"id": format!("probe-{n}"), "text": format!("The probe number{n} was written last.")});
        let answer = server.post("/documents", "application/x-ndjson", format!("{line}\n")).await?;
        let acknowledged = Instant::now();
        let body = json!({
            "query": format!("number{n}"), "mode": "lexical", "top_k": 1, "min_sequence": answer["sequence"],
            "deadline_ms": 30_000,
        });
        let found = server.post("/search", "application/json", body.to_string()).await?;
        times.record(acknowledged.elapsed().as_micros() as u64)?;
        let id = &found["hits"][0]["document_id"];
        anyhow::ensure!(*id == json!(format!("probe-{n}")), "the write is not found: {found}");
    }
    let ms = |quantile| times.value_at_quantile(quantile) as f64 / 1e3;
    println!("searchable after an acknowledged write: p50 {:.0} ms, p99 {:.0} ms over {WRITES}", ms(0.5), ms(0.99));
    Ok(())
}

/// Edits every hundredth document and tells what was embedded for it.
async fn edit(server: &Server, passages: &[Value]) -> anyhow::Result<()> {
    let full = embedded(server).await?;
    let edited: Vec<&Value> = passages.iter().step_by(EDIT_EVERY).collect();
    let line = |passage: &&Value| {
        let text = format!("{} One sentence more.", passage["text"].as_str().unwrap_or_default());
        json!({"id": passage["_id"], "title": passage["title"], "text": text, "metadata": passage["metadata"]})
            .to_string()
    };
    let body: String = edited.iter().map(|passage| line(passage) + "\n").collect();
    let answer = server.post("/documents", "application/x-ndjson", body).await?;
    anyhow::ensure!(answer["failed"] == 0, "{answer}");
    let made = embedded(server).await? - full;
    println!(
        "an edit of {:.2} % of the documents: {made:.0} of {full:.0} embeddings, {:.2} %",
        100.0 * edited.len() as f64 / passages.len() as f64,
        100.0 * made / full
    );
    Ok(())
}

/// The whole change, under load.
async fn change(server: &Arc<Server>, queries: Vec<String>) -> anyhow::Result<()> {
    let load = Load::start(Arc::clone(server), queries);
    let before = load.phase(tokio::time::sleep(QUIET)).await;
    println!(
        "{:<34} {:>8} {:>9} {:>9} {:>9} {:>9} {:>7}",
        "while", "searches", "p50 ms", "p95 ms", "p99 ms", "p95 ratio", "failed"
    );
    let tell = |name: &str, phase: &Phase| println!("{name:<34} {}", phase.row(&before));
    tell("nothing else", &before);

    let made_before = embedded(server).await?;
    // Nothing that is embedded stays as it is, and there is no more of it than before.
    let chunker = json!({"strategy": "window", "target_tokens": 160, "max_tokens": 192, "overlap_tokens": 0});
    let profile = json!({"profile": {"chunker": chunker}});
    let started = server.post("/generations", "application/json", profile.to_string()).await?;
    let task = started["task_id"].as_str().context("a task")?.to_owned();
    let mut built = Ok(Value::Null);
    let building = load.phase(async { built = until_built(server, &task).await }).await;
    tell("it is built beside", &building);
    let generation = built?["generation"].as_str().context("a generation")?.to_owned();
    let state = get(server, &format!("/generations/{generation}")).await?;
    let made = embedded(server).await? - made_before;
    println!("{} chunks, {made:.0} of them embedded anew", state["chunks"]);

    let mut moved = Ok(());
    let moving = load.phase(async { moved = roll_out(server, &generation).await }).await;
    moved?;
    tell("documents move, a tenth at a time", &moving);
    let shared = load.phase(tokio::time::sleep(QUIET)).await;
    tell("half are served from each", &shared);
    let mut promoted = Ok(Value::Null);
    let promoting =
        load.phase(async { promoted = post(server, &format!("/generations/{generation}/promote")).await }).await;
    tell("it is promoted", &promoting);
    let promoted = promoted?;
    println!("promotion moved {}, left {}", promoted["moved"], promoted["remaining"]);
    let after = load.phase(tokio::time::sleep(QUIET)).await;
    tell("it serves alone", &after);
    let at = Instant::now();
    let back = post(server, &format!("/generations/{generation}/rollback")).await?;
    println!("rolled back in {:.1} s: {} moved, {} left", at.elapsed().as_secs_f64(), back["moved"], back["remaining"]);
    let report = load.stop().await?;
    println!("{report}");
    Ok(())
}

/// In tenths up to all, then back to a half.
async fn roll_out(server: &Server, generation: &str) -> anyhow::Result<()> {
    for tenths in (1..=10).chain([5]) {
        let share = f64::from(tenths) / 10.0;
        let plan = json!({"rollout": {"share": share}}).to_string();
        let path = format!("{}/generations/{generation}/plan", server.url);
        let request = server.client.put(path).header("content-type", "application/json").body(plan);
        request.send().await?.error_for_status()?;
        let begun = Instant::now();
        loop {
            let state = get(server, &format!("/generations/{generation}")).await?;
            let count = |key: &str| state[key].as_f64().unwrap_or_default();
            // By lot, so about that share.
            if (count("serving") / count("documents") - share).abs() < 0.02 {
                break;
            }
            anyhow::ensure!(begun.elapsed() < PATIENCE, "documents do not move: {state}");
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }
    Ok(())
}

async fn until_built(server: &Server, task: &str) -> anyhow::Result<Value> {
    let begun = Instant::now();
    loop {
        let state = get(server, &format!("/tasks/{task}")).await?;
        match state["status"].as_str() {
            Some("succeeded") => break,
            Some("failed" | "cancelled") => anyhow::bail!("{state}"),
            _ => anyhow::ensure!(begun.elapsed() < PATIENCE, "{state}"),
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
    println!("built in {:.0} s", begun.elapsed().as_secs_f64());
    Ok(get(server, &format!("/tasks/{task}/result")).await?["result"].clone())
}

/// Inputs that the embedder has made vectors of so far, passages only.
async fn embedded(server: &Server) -> anyhow::Result<f64> {
    let text = server.client.get(format!("{}/metrics", server.url)).send().await?.error_for_status()?.text().await?;
    let line = text.lines().find(|line| line.starts_with("plumb_ingest_embeddings_made_total"));
    let value = line.and_then(|line| line.rsplit(' ').next()).context("the counter of embeddings")?;
    Ok(value.parse()?)
}

async fn get(server: &Server, path: &str) -> anyhow::Result<Value> {
    let response = server.client.get(format!("{}{path}", server.url)).send().await?.error_for_status()?;
    Ok(serde_json::from_slice(&response.bytes().await?)?)
}

async fn post(server: &Server, path: &str) -> anyhow::Result<Value> {
    server.post(path, "application/json", "{}".to_owned()).await
}

#[expect(clippy::disallowed_methods, reason = "a bench target has no config.rs; these switches concern it alone")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
