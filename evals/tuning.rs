//! How settings do on the tuning halves: where the shipped defaults of fusion and rerank come from.
//!
//! The legs and the reranker are asked once; fusions and blends are then computed from their lists.

use std::collections::HashMap;
use std::time::Instant;

use plumb::domain::{ChunkId, Fusion, FusionMethod, Hit, Mode, ScoredChunk};
use plumb::eval::{Grades, documents_of_chunks, ndcg_at_k};
use plumb::search::{ConvexFloor, QueryOverrides, fuse, min_max};

use crate::collections::Collection;
use crate::prepare::Prepared;

/// Candidates from each leg, as shipped.
const LEG_DEPTH: usize = 100;
/// Deepest rerank that is looked at.
const RERANK_DEPTH: usize = 50;
/// Queries whose rerank is looked at: reranking is what costs.
const RERANKED_QUERIES: usize = 400;

struct Asked {
    grades: Grades,
    lexical: Vec<ScoredChunk>,
    vector: Vec<ScoredChunk>,
    /// Fused and reranked score of each candidate of the head, in fused order.
    head: Vec<(ChunkId, f64, f64)>,
}

/// Prints nDCG@10 of every setting that is looked at.
pub async fn explore(collection: &Collection, prepared: &Prepared) -> anyhow::Result<()> {
    let Some(qrels) = collection.tuning_qrels()? else { return Ok(()) };
    let queries = collection.open()?.queries()?;
    let mut documents = HashMap::new();
    let mut asked = Vec::new();
    for (index, (id, grades)) in qrels.into_iter().enumerate() {
        let text = &queries[&id].text;
        let lexical = leg(prepared, text, Mode::Lexical, &mut documents).await?;
        let vector = leg(prepared, text, Mode::Vector, &mut documents).await?;
        let head = if index < RERANKED_QUERIES { head(prepared, text).await? } else { Vec::new() };
        asked.push(Asked { grades, lexical, vector, head });
    }
    println!("{}: nDCG@10 on {} tuning queries", collection.name, asked.len());
    print_fusions(&asked, &documents);
    print_blends(&asked, &documents);
    Ok(())
}

async fn leg(
    prepared: &Prepared,
    text: &str,
    mode: Mode,
    documents: &mut HashMap<ChunkId, String>,
) -> anyhow::Result<Vec<ScoredChunk>> {
    let overrides = QueryOverrides {
        mode: Some(mode),
        top_k: Some(LEG_DEPTH),
        rerank_enabled: Some(false),
        ..QueryOverrides::default()
    };
    let hits = search(prepared, text, overrides).await?;
    documents.extend(hits.iter().map(|hit| (hit.chunk_id, hit.document_id.to_string())));
    Ok(hits.iter().map(|hit| ScoredChunk { id: hit.chunk_id, score: hit.score as f32 }).collect())
}

async fn head(prepared: &Prepared, text: &str) -> anyhow::Result<Vec<(ChunkId, f64, f64)>> {
    let overrides = QueryOverrides {
        mode: Some(Mode::Hybrid),
        top_k: Some(RERANK_DEPTH),
        rerank_enabled: Some(true),
        rerank_depth: Some(RERANK_DEPTH),
        explain: Some(true),
        ..QueryOverrides::default()
    };
    let scores = |hit: &Hit| Some((hit.chunk_id, hit.breakdown.fusion?.score, hit.breakdown.rerank?.score));
    let mut head: Vec<_> = search(prepared, text, overrides).await?.iter().filter_map(scores).collect();
    head.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    Ok(head)
}

async fn search(prepared: &Prepared, text: &str, overrides: QueryOverrides) -> anyhow::Result<Vec<Hit>> {
    let query = prepared.app.defaults.query(Some(text.to_owned()), overrides)?;
    Ok(prepared.app.searcher.search(&prepared.scope, &query, Instant::now()).await?.hits)
}

fn print_fusions(asked: &[Asked], documents: &HashMap<ChunkId, String>) {
    let single = |leg: fn(&Asked) -> &Vec<ScoredChunk>| {
        mean_ndcg(asked, documents, |one| leg(one).iter().map(|chunk| chunk.id).collect())
    };
    println!("  lexical {:.4}  vector {:.4}", single(|one| &one.lexical), single(|one| &one.vector));
    for rrf_k in [10, 20, 60] {
        let row = |vector_weight: f64| {
            let fusion = fusion(FusionMethod::Rrf, rrf_k, 1.0, vector_weight);
            fused_ndcg(asked, documents, &fusion, ConvexFloor::Observed)
        };
        println!("  rrf_k {rrf_k:>2}, vector weight 0.5 {:.4}  1 {:.4}  2 {:.4}", row(0.5), row(1.0), row(2.0));
    }
    for floor in [ConvexFloor::Theoretical, ConvexFloor::Observed, ConvexFloor::LexicalZero] {
        print!("  convex, floor {floor:?}:");
        for tenth in 2..=9 {
            let vector_weight = f64::from(tenth) / 10.0;
            let fusion = fusion(FusionMethod::Convex, 60, 1.0 - vector_weight, vector_weight);
            print!("  {vector_weight} {:.4}", fused_ndcg(asked, documents, &fusion, floor));
        }
        println!();
    }
}

fn print_blends(asked: &[Asked], documents: &HashMap<ChunkId, String>) {
    let reranked: Vec<&Asked> = asked.iter().filter(|one| !one.head.is_empty()).collect();
    for depth in [10, 20, 50] {
        print!("  rerank depth {depth}, blend:");
        for tenth in 0..=10 {
            let blend = f64::from(tenth) / 10.0;
            let ndcg = mean_ndcg(reranked.iter().copied(), documents, |one| blended(&one.head, depth, blend));
            print!("  {blend} {ndcg:.4}");
        }
        println!("  ({} queries)", reranked.len());
    }
}

fn blended(head: &[(ChunkId, f64, f64)], depth: usize, blend: f64) -> Vec<ChunkId> {
    let (first, rest) = head.split_at(depth.min(head.len()));
    let fused = min_max(&first.iter().map(|one| one.1).collect::<Vec<_>>());
    let reranked = min_max(&first.iter().map(|one| one.2).collect::<Vec<_>>());
    let mut scored: Vec<(ChunkId, f64)> = first
        .iter()
        .zip(fused.iter().zip(&reranked))
        .map(|(one, (fused, reranked))| (one.0, blend * reranked + (1.0 - blend) * fused))
        .collect();
    scored.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    scored.iter().map(|one| one.0).chain(rest.iter().map(|one| one.0)).collect()
}

fn fusion(method: FusionMethod, rrf_k: u32, lexical_weight: f64, vector_weight: f64) -> Fusion {
    Fusion { method, rrf_k, lexical_weight, vector_weight }
}

fn fused_ndcg(asked: &[Asked], documents: &HashMap<ChunkId, String>, fusion: &Fusion, floor: ConvexFloor) -> f64 {
    mean_ndcg(asked, documents, |one| {
        fuse(&one.lexical, &one.vector, fusion, floor).iter().map(|fused| fused.id).collect()
    })
}

fn mean_ndcg<'a>(
    asked: impl IntoIterator<Item = &'a Asked>,
    documents: &HashMap<ChunkId, String>,
    ranking: impl Fn(&Asked) -> Vec<ChunkId>,
) -> f64 {
    let of = |one: &Asked| {
        let chunks = ranking(one);
        let named = documents_of_chunks(chunks.iter().filter_map(|id| documents.get(id)).map(String::as_str));
        ndcg_at_k(&named, &one.grades, 10)
    };
    let values: Vec<f64> = asked.into_iter().map(of).collect();
    plumb::eval::mean(values.iter())
}
