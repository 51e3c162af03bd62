//! How settings do on the tuning halves: where the shipped defaults of fusion and rerank come from.
//!
//! The legs and the reranker are asked once; fusions and blends are then computed from their lists.

use std::collections::HashMap;
use std::time::Instant;

use plumb::domain::{ChunkId, Fusion, FusionMethod, Hit, Mode, ScoredChunk};
use plumb::eval::{CorpusQuery, Grades, documents_of_chunks, ndcg_at_k};
use plumb::search::{ConvexFloor, QueryOverrides, fuse, min_max};

use crate::collections::Collection;
use crate::prepare::Prepared;

/// Candidates from each leg, as shipped.
const LEG_DEPTH: usize = 100;
/// Queries whose rerank is looked at: reranking is what costs.
const RERANKED_QUERIES: usize = 400;
/// Deepest rerank by the rescorer that is looked at.
const RESCORED_DEPTH: usize = 50;
/// How many the cross-encoders get, as shipped.
const CROSS_ENCODED_DEPTH: usize = 20;
/// Best last.
const CROSS_ENCODERS: [&str; 2] = ["plumb-reranker-l3", "plumb-reranker-l6"];
/// Long enough for any of them.
const DEADLINE_MS: u64 = 20_000;

struct Asked {
    id: String,
    grades: Grades,
    lexical: Vec<ScoredChunk>,
    vector: Vec<ScoredChunk>,
}

/// What a reranker made of a query's head: fused and reranked score of each candidate, in fused order.
struct Reranked<'a> {
    grades: &'a Grades,
    head: Vec<(ChunkId, f64, f64)>,
}

/// Prints nDCG@10 of every setting that is looked at.
pub async fn explore(collection: &Collection, prepared: &Prepared) -> anyhow::Result<()> {
    let Some(qrels) = collection.tuning_qrels()? else { return Ok(()) };
    let queries = collection.open()?.queries()?;
    let mut documents = HashMap::new();
    let mut asked = Vec::new();
    for (id, grades) in qrels {
        let text = &queries[&id].text;
        let lexical = leg(prepared, text, Mode::Lexical, &mut documents).await?;
        let vector = leg(prepared, text, Mode::Vector, &mut documents).await?;
        asked.push(Asked { id, grades, lexical, vector });
    }
    println!("{}: nDCG@10 on {} tuning queries", collection.name, asked.len());
    print_fusions(&asked, &documents);

    let few = asked.iter().take(RERANKED_QUERIES);
    let rescored =
        rerank(prepared, ("splade-tiny-msmarco", RESCORED_DEPTH), few.map(|one| (one, &queries[&one.id]))).await?;
    print_blends("rescorer", &rescored, &[10, 20, RESCORED_DEPTH], &documents);
    for model in CROSS_ENCODERS {
        let kept = asked.iter().filter(|one| is_kept_from_training(&one.id)).take(RERANKED_QUERIES);
        let kept = kept.map(|one| (one, &queries[&one.id]));
        let reranked = rerank(prepared, (model, CROSS_ENCODED_DEPTH), kept).await?;
        print_blends(model, &reranked, &[CROSS_ENCODED_DEPTH], &documents);
    }
    Ok(())
}

/// True if our cross-encoders have not learned from the query: `is_dev` of `models/train/halves.py`.
fn is_kept_from_training(query_id: &str) -> bool {
    blake3::hash(query_id.as_bytes()).as_bytes()[1] < 64
}

async fn rerank<'a>(
    prepared: &Prepared,
    (model, depth): (&str, usize),
    asked: impl Iterator<Item = (&'a Asked, &'a CorpusQuery)>,
) -> anyhow::Result<Vec<Reranked<'a>>> {
    let mut reranked = Vec::new();
    for (one, query) in asked {
        reranked.push(Reranked { grades: &one.grades, head: head(prepared, &query.text, (model, depth)).await? });
    }
    Ok(reranked)
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

async fn head(
    prepared: &Prepared,
    text: &str,
    (model, depth): (&str, usize),
) -> anyhow::Result<Vec<(ChunkId, f64, f64)>> {
    let overrides = QueryOverrides {
        mode: Some(Mode::Hybrid),
        top_k: Some(depth),
        rerank_enabled: Some(true),
        rerank_model: Some(model.to_owned()),
        rerank_depth: Some(depth),
        deadline_ms: Some(DEADLINE_MS),
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
    let result = prepared.app.searcher.search(&prepared.scope, &query, Instant::now()).await?;
    anyhow::ensure!(result.degraded.is_empty(), "a search to tune by was degraded: {:?}", result.degraded);
    Ok(result.hits)
}

fn print_fusions(asked: &[Asked], documents: &HashMap<ChunkId, String>) {
    let single = |leg: fn(&Asked) -> &Vec<ScoredChunk>| {
        mean_ndcg(asked.iter().map(|one| (&one.grades, leg(one).iter().map(|chunk| chunk.id).collect())), documents)
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

fn print_blends(reranker: &str, reranked: &[Reranked<'_>], depths: &[usize], documents: &HashMap<ChunkId, String>) {
    for &depth in depths {
        print!("  {reranker}, depth {depth}, blend:");
        for tenth in 0..=10 {
            let blend = f64::from(tenth) / 10.0;
            let lists = reranked.iter().map(|one| (one.grades, blended(&one.head, depth, blend)));
            print!("  {blend} {:.4}", mean_ndcg(lists, documents));
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
    let ranking = |one: &Asked| fuse(&one.lexical, &one.vector, fusion, floor).iter().map(|fused| fused.id).collect();
    mean_ndcg(asked.iter().map(|one| (&one.grades, ranking(one))), documents)
}

fn mean_ndcg<'a>(lists: impl Iterator<Item = (&'a Grades, Vec<ChunkId>)>, documents: &HashMap<ChunkId, String>) -> f64 {
    let of = |(grades, chunks): (&Grades, Vec<ChunkId>)| {
        let named = documents_of_chunks(chunks.iter().filter_map(|id| documents.get(id)).map(String::as_str));
        ndcg_at_k(&named, grades, 10)
    };
    let values: Vec<f64> = lists.map(of).collect();
    plumb::eval::mean(values.iter())
}
