//! The queries of a collection, asked in every mode: rankings for quality, times for cost.

use std::collections::BTreeMap;
use std::time::Instant;

use plumb::domain::{FusionMethod, GroupBy, Mode};
use plumb::eval::{Qrels, Run, documents_of_chunks};
use plumb::search::QueryOverrides;

use crate::collections::Collection;
use crate::prepare::Prepared;

/// Documents in a ranking: what Recall@100 looks at.
const RANKING_DEPTH: usize = 100;
/// Queries that are timed in each mode, the first by id.
const TIMED_QUERIES: usize = 200;

/// Queries that the cross-encoders are asked, the first by id: a fifth of a second each.
const CROSS_ENCODED_QUERIES: usize = 300;

/// A way to search that has a row in the table.
pub struct AskedMode {
    pub name: &'static str,
    mode: Mode,
    /// `None`: the shipped default.
    fusion: Option<FusionMethod>,
    /// Name of the reranker; `None`: not reranked.
    reranker: Option<&'static str>,
}

impl AskedMode {
    pub fn is_reranked(&self) -> bool {
        self.reranker.is_some()
    }
}

/// The rows of the table, in order.
pub const MODES: [AskedMode; 5] = [
    AskedMode { name: "lexical", mode: Mode::Lexical, fusion: None, reranker: None },
    AskedMode { name: "vector", mode: Mode::Vector, fusion: None, reranker: None },
    AskedMode { name: "hybrid_rrf", mode: Mode::Hybrid, fusion: Some(FusionMethod::Rrf), reranker: None },
    AskedMode { name: "hybrid_convex", mode: Mode::Hybrid, fusion: Some(FusionMethod::Convex), reranker: None },
    AskedMode { name: "hybrid_rescored", mode: Mode::Hybrid, fusion: None, reranker: Some("splade-tiny-msmarco") },
];

/// Rows of fewer queries: by the cross-encoders, the last one as shipped where time allows.
pub const CROSS_ENCODED: [AskedMode; 2] = [
    AskedMode { name: "rerank_l3", mode: Mode::Hybrid, fusion: None, reranker: Some("plumb-reranker-l3") },
    AskedMode { name: "rerank_l6", mode: Mode::Hybrid, fusion: None, reranker: Some("plumb-reranker-l6") },
];

/// Times of one mode, one client, one query after the other.
pub struct Cost {
    pub p50_ms: f64,
    pub p95_ms: f64,
    /// Processor time of the whole process for a query, all threads.
    pub cpu_ms: f64,
}

/// Everything that was measured on one collection.
pub struct Asked {
    pub qrels: Qrels,
    runs: BTreeMap<&'static str, Run>,
    costs: BTreeMap<&'static str, Cost>,
    pub made_with: BTreeMap<String, String>,
}

impl Asked {
    pub fn run(&self, mode: &str) -> &Run {
        &self.runs[mode]
    }

    /// The judgements of the queries that the cross-encoders were asked; empty if they were not.
    pub fn cross_encoded(&self) -> Qrels {
        let asked = self.runs.get(CROSS_ENCODED[0].name);
        let is_asked = |id: &String| asked.is_some_and(|run| run.contains_key(id));
        self.qrels.iter().filter(|(id, _)| is_asked(id)).map(|(id, grades)| (id.clone(), grades.clone())).collect()
    }

    pub fn cost(&self, mode: &str) -> &Cost {
        &self.costs[mode]
    }
}

/// Asks every reported query in every mode.
pub async fn ask(collection: &Collection, prepared: &Prepared) -> anyhow::Result<Asked> {
    let qrels = collection.test_qrels()?;
    let queries = collection.open()?.queries()?;
    let texts: Vec<(&String, &str)> = qrels.keys().map(|id| (id, queries[id].text.as_str())).collect();
    let (mut runs, mut costs) = (BTreeMap::new(), BTreeMap::new());
    let few = &texts[..texts.len().min(CROSS_ENCODED_QUERIES)];
    // The languages are a smoke test of everything else.
    let reads = collection.language.is_none() || crate::flag("PLUMB_EVALS_ALL");
    let rows = MODES.iter().map(|mode| (mode, texts.as_slice()));
    for (mode, texts) in rows.chain(CROSS_ENCODED.iter().filter(|_| reads).map(|mode| (mode, few))) {
        costs.insert(mode.name, time(mode, prepared, texts).await?);
        runs.insert(mode.name, rank(mode, prepared, texts).await?);
    }
    Ok(Asked { qrels, runs, costs, made_with: prepared.app.made_with() })
}

async fn time(mode: &AskedMode, prepared: &Prepared, texts: &[(&String, &str)]) -> anyhow::Result<Cost> {
    let timed = &texts[..texts.len().min(TIMED_QUERIES)];
    let mut times_ms = Vec::with_capacity(timed.len());
    let cpu_before_ms = cpu_ms();
    for (_, text) in timed {
        let start = Instant::now();
        search(mode, prepared, text, overrides(mode)).await?;
        times_ms.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let cpu_ms = (cpu_ms() - cpu_before_ms) / timed.len().max(1) as f64;
    times_ms.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| times_ms[((times_ms.len() - 1) as f64 * share).round() as usize];
    Ok(Cost { p50_ms: at(0.5), p95_ms: at(0.95), cpu_ms })
}

async fn rank(mode: &AskedMode, prepared: &Prepared, texts: &[(&String, &str)]) -> anyhow::Result<Run> {
    let mut run = Run::new();
    for (id, text) in texts {
        let wide = QueryOverrides { top_k: Some(RANKING_DEPTH), group_by: Some(GroupBy::Document), ..overrides(mode) };
        let hits = search(mode, prepared, text, wide).await?;
        run.insert((*id).clone(), documents_of_chunks(hits.iter().map(String::as_str)));
    }
    Ok(run)
}

/// Document ids, best first. Anything degraded is an error: a number must not come from half a search.
async fn search(
    mode: &AskedMode,
    prepared: &Prepared,
    text: &str,
    overrides: QueryOverrides,
) -> anyhow::Result<Vec<String>> {
    let query = prepared.app.defaults.query(Some(text.to_owned()), overrides)?;
    let result = prepared.app.searcher.search(&prepared.scope, &query, Instant::now()).await?;
    // A model that cannot read the query's script or the hits' language is left out by design; English all of them read.
    let reads_all = prepared.language.is_none_or(|language| language == "en");
    let unexpected =
        result.degraded.iter().any(|degraded| reads_all || !matches!(degraded.reason, "script" | "language"));
    anyhow::ensure!(!unexpected, "{} was degraded: {:?}", mode.name, result.degraded);
    Ok(result.hits.into_iter().map(|hit| hit.document_id.to_string()).collect())
}

fn overrides(mode: &AskedMode) -> QueryOverrides {
    QueryOverrides {
        mode: Some(mode.mode),
        fusion_method: mode.fusion,
        rerank_enabled: Some(mode.reranker.is_some()),
        rerank_model: mode.reranker.map(str::to_owned),
        ..QueryOverrides::default()
    }
}

/// Processor time of this process so far, all threads.
fn cpu_ms() -> f64 {
    plumb::telemetry::cpu_time().as_secs_f64() * 1e3
}
