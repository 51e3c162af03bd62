//! What a reranked head of 20 passages costs with each cross-encoder: `cargo bench --bench reranker`.
//!
//! CPU time and wall time of a call, beside ONNX Runtime running the same 20 pairs as one plain batch, padded to the
//! longest, on one thread. Passages of 128 and 256 tokens, and of lengths in between as chunks have them.
#![expect(clippy::print_stdout, reason = "a bench reports on standard output")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::Tensor;
use plumb::domain::{ChunkId, TenantId, TenantScope};
use plumb::inference::{
    EmbeddedBy, InferenceSettings, Models, ModelsSettings, RerankPassage, RerankQuery, Reranker, RescorerParts,
    Runtime, default_models_dir,
};

const TIERS: [&str; 2] = ["plumb-reranker-l3", "plumb-reranker-l6"];
const PASSAGES: usize = 20;
/// Repetitions of each timed call; the least is reported.
const REPETITIONS: usize = 10;
/// A word that is one token, and its id in the uncased vocabulary.
const WORD: (&str, i64) = ("water", 2300);
const QUERY_WORDS: usize = 8;
const CLS: i64 = 101;
const SEP: i64 = 102;
/// Special tokens of a pair.
const AROUND: usize = 3;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let dir = models_dir().context("a home directory")?;
    let models = Models::open(&ModelsSettings::default(), &dir)?;
    let runtime = models.load_runtime().context("run `plumb models fetch` first")?;
    println!("{PASSAGES} passages, least of {REPETITIONS} calls");
    println!(
        "{:<18} {:>10} {:>9} {:>9} {:>14} {:>9}",
        "model", "tokens", "CPU ms", "wall ms", "plain CPU ms", "of plain"
    );
    for tier in TIERS {
        let settings = InferenceSettings { reranker: Some(tier.to_owned()), ..InferenceSettings::default() };
        let loaded = models.load_reranker(&runtime, &settings, RescorerParts::default())?;
        let reranker = loaded.context("a reranker")?;
        let mut plain = plain_session(&runtime, tier)?;
        for (name, lengths) in [("128", lengths(128, 128)), ("256", lengths(256, 256)), ("24 to 256", lengths(24, 256))]
        {
            let (cpu, wall) = ours(&reranker, &lengths).await?;
            let theirs = least(|| run_plain(&mut plain, &lengths))?;
            println!("{tier:<18} {name:>10} {cpu:>9.1} {wall:>9.1} {theirs:>14.1} {:>9.2}", cpu / theirs);
        }
    }
    Ok(())
}

/// Tokens of each pair, evenly from `shortest` to `longest`, in an order that is not sorted.
fn lengths(shortest: usize, longest: usize) -> Vec<usize> {
    let at = |place: usize| shortest + (longest - shortest) * (place * 7 % PASSAGES) / (PASSAGES - 1);
    (0..PASSAGES).map(at).collect()
}

/// Least CPU and wall milliseconds of a call.
async fn ours(reranker: &Arc<dyn Reranker>, lengths: &[usize]) -> anyhow::Result<(f64, f64)> {
    let scope = TenantScope::everything(TenantId::new("bench")?);
    let words = |count: usize| vec![WORD.0; count].join(" ");
    let query =
        RerankQuery { text: words(QUERY_WORDS), vector: None, embedded_by: EmbeddedBy::Nobody, shown: usize::MAX };
    let passage = |tokens: &usize| {
        let text = words(tokens - AROUND - QUERY_WORDS);
        RerankPassage { id: ChunkId([0; 16]), text, embedding: None }
    };
    let passages: Vec<RerankPassage> = lengths.iter().map(passage).collect();
    let (mut cpu, mut wall) = (f64::MAX, f64::MAX);
    for _ in 0..REPETITIONS {
        let (cpu_before, start) = (cpu_ms(), Instant::now());
        reranker.rerank(&scope, &query, &passages, None).await?;
        cpu = cpu.min(cpu_ms() - cpu_before);
        wall = wall.min(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok((cpu, wall))
}

fn plain_session(runtime: &Runtime, tier: &str) -> anyhow::Result<Session> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(tier).join("int8.onnx");
    let failed = |error: &dyn std::fmt::Display| anyhow::anyhow!("{}: {error}", path.display());
    let builder = Session::builder(runtime.environment()).map_err(|error| failed(&error))?;
    let builder = builder.with_intra_threads(1).map_err(|error| failed(&error))?;
    let mut builder =
        builder.with_optimization_level(GraphOptimizationLevel::Level3).map_err(|error| failed(&error))?;
    builder.commit_from_memory(&std::fs::read(&path)?).map_err(|error| failed(&error))
}

/// One batch, as wide as its longest pair.
fn run_plain(session: &mut Session, lengths: &[usize]) -> anyhow::Result<()> {
    let width = lengths.iter().max().copied().unwrap_or_default();
    let tensor = |cell: &dyn Fn(usize, usize) -> i64| {
        let cells = lengths.iter().flat_map(|length| (0..width).map(move |at| (*length, at)));
        let cells: Vec<i64> = cells.map(|(length, at)| if at < length { cell(length, at) } else { 0 }).collect();
        Tensor::from_array(([lengths.len(), width], cells))
    };
    let passage_from = QUERY_WORDS + 2;
    let id = |length: usize, at: usize| match at {
        0 => CLS,
        at if at + 1 == passage_from || at + 1 == length => SEP,
        _ => WORD.1,
    };
    let inputs = ort::inputs![
        "input_ids" => tensor(&id)?,
        "attention_mask" => tensor(&|_, _| 1)?,
        "token_type_ids" => tensor(&|_, at| i64::from(at >= passage_from))?,
    ];
    session.run(inputs)?;
    Ok(())
}

/// Least CPU milliseconds of `work`.
fn least(mut work: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let mut least = f64::MAX;
    for _ in 0..REPETITIONS {
        let before = cpu_ms();
        work()?;
        least = least.min(cpu_ms() - before);
    }
    Ok(least)
}

fn cpu_ms() -> f64 {
    plumb::telemetry::cpu_time().as_secs_f64() * 1e3
}

#[expect(clippy::disallowed_methods, reason = "a bench has no configuration to ask")]
fn models_dir() -> Option<PathBuf> {
    let path = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let default = || default_models_dir(path("XDG_CACHE_HOME").as_deref(), path("HOME").as_deref());
    path("PLUMB_MODELS_DIR").or_else(default)
}
