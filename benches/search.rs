//! Latency over HTTP and ingest rate, on real passages: `cargo bench --bench search`.
//!
//! The server runs as its own process, so its processor time and memory are its own. Passages go in as NDJSON; the same
//! number of passages is then embedded without a server, for the ratio. Queries are asked in every mode at 1 and 8
//! clients, each client one query after the other. `PLUMB_BENCH_PASSAGES` sets how many passages (default 5,000; the
//! collection has 100,000). Results go to `target/bench/search-<passages>.json`; a run prints the ratio to the one before.
#![expect(clippy::print_stdout, reason = "a report on standard output is the purpose of this target")]

#[path = "search/ask.rs"]
mod ask;
#[path = "search/feed.rs"]
mod feed;
#[path = "search/server.rs"]
mod server;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context;
use serde_json::{Value, json};

/// Ways to search that are timed; the shipped defaults decide the rest.
const MODES: [(&str, &str, bool); 4] = [
    ("lexical", "lexical", false),
    ("vector", "vector", false),
    ("hybrid", "hybrid", false),
    ("rerank", "hybrid", true),
];
const CLIENTS: [usize; 2] = [1, 8];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let corpora = variable("PLUMB_CORPORA")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data"), PathBuf::from);
    let file = corpora.join("load/passages-100k.jsonl.gz");
    if !file.exists() {
        println!("did not run: there is no {}", file.display());
        return Ok(());
    }
    let wanted = variable("PLUMB_BENCH_PASSAGES").map_or(Ok(5_000), |text| text.parse())?;
    let passages = feed::read(&file, wanted)?;
    let queries = feed::queries(&passages);
    let folder = build_folder()?;

    let empty_mib = resident_when_empty().await?;
    let server = server::Server::start(&folder.join(format!("bench/data-{wanted}")))?;
    let mut results = BTreeMap::new();
    let ingest = feed::ingest(&server, &passages).await?;
    println!("{ingest}");
    results.insert("ingest".to_owned(), ingest.as_json());
    server.settle().await?;
    println!(
        "{:<18} {:>8} {:>8} {:>8} {:>9} {:>13} {:>10}",
        "mode, clients", "p50 ms", "p95 ms", "p99 ms", "queries/s", "CPU ms/query", "over parts"
    );
    for (name, mode, reranks) in MODES {
        for clients in CLIENTS {
            let body = json!({"mode": mode, "rerank": {"enabled": reranks}, "top_k": 10});
            let count = if reranks { 200 } else { 1_000 };
            let timed = ask::ask(&server, &queries, &body, (clients, count)).await?;
            let name = format!("{name}, {clients}");
            println!("{name:<18} {timed}");
            results.insert(name, timed.as_json());
        }
    }
    let resident_mib = server.resident_mib()?;
    let beside_mib = resident_mib - empty_mib;
    println!("resident memory: {resident_mib:.0} MiB, {beside_mib:.0} MiB more than without documents");
    results.insert("resident_mib".to_owned(), json!(resident_mib));
    results.insert("resident_beside_models_mib".to_owned(), json!(beside_mib));
    let recall = ask::recall_at_10(&server, &queries, 300).await?;
    println!("recall@10 of the vector leg against its exact search: {recall:.4} over 300 queries");
    results.insert("recall_at_10".to_owned(), json!(recall));
    let embed_cpu_ms = feed::query_embedding_cpu_ms(&queries).await?;
    println!("CPU of embedding one query: {embed_cpu_ms:.2} ms");
    results.insert("query_embedding_cpu_ms".to_owned(), json!(embed_cpu_ms));
    server.stop().await?;
    compare_and_keep(&folder.join(format!("bench/search-{wanted}.json")), &json!(results))
}

/// Resident memory of a server with its models and no documents.
async fn resident_when_empty() -> anyhow::Result<f64> {
    let folder = tempfile::tempdir()?;
    let server = server::Server::start(&folder.path().join("data"))?;
    let resident_mib = server.resident_mib()?;
    server.stop().await?;
    Ok(resident_mib)
}

/// Prints the ratio of every number to the run before, then keeps this run.
fn compare_and_keep(path: &std::path::Path, results: &Value) -> anyhow::Result<()> {
    if let Ok(before) = std::fs::read(path) {
        let before: Value = serde_json::from_slice(&before).context("the results of the run before")?;
        for (name, now) in results.as_object().into_iter().flatten() {
            let ratio = |key: &str| Some(now[key].as_f64()? / before[name][key].as_f64()?);
            if let (Some(p50), Some(p95), Some(cpu)) = (ratio("p50_ms"), ratio("p95_ms"), ratio("cpu_ms")) {
                println!("{name:<18} against the run before: p50 ×{p50:.2}, p95 ×{p95:.2}, CPU ×{cpu:.2}");
            }
        }
    }
    std::fs::write(path, serde_json::to_vec_pretty(results)?)?;
    println!("kept in {}", path.display());
    Ok(())
}

/// The build's own folder: what is kept there lives and dies with the build cache.
fn build_folder() -> anyhow::Result<PathBuf> {
    let executable = std::env::current_exe()?;
    let folder = executable.ancestors().nth(3).context("a bench lies in target/<profile>/deps")?.to_owned();
    std::fs::create_dir_all(folder.join("bench"))?;
    Ok(folder)
}

#[expect(clippy::disallowed_methods, reason = "a bench target has no config.rs; these switches concern it alone")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
