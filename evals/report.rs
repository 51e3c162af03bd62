//! The table: quality and cost of each mode side by side.

use plumb::eval::{Bootstrap, Metric, Qrels};

use crate::asked::{Asked, AskedMode, CROSS_ENCODED, MODES};
use crate::collections::Collection;

/// Prints one collection's rows.
pub fn print(collection: &Collection, asked: &Asked) {
    let published = collection.published_bm25.map(|value| format!(", published BM25 {value:.4}")).unwrap_or_default();
    println!("{} test queries{published}", asked.qrels.len());
    println!(
        "{:<15} {:>8} {:>17} {:>10} {:>8} {:>9} {:>9} {:>13}",
        "mode", "nDCG@10", "95 % interval", "Recall@100", "MRR@10", "p50 ms", "p95 ms", "CPU ms/query"
    );
    print_rows(asked, &MODES, &asked.qrels);
    let few = asked.cross_encoded();
    if !few.is_empty() {
        println!("the first {} of them", few.len());
        print_rows(asked, &CROSS_ENCODED, &few);
        print_gains(asked, &few);
    }
}

/// What each reranker gains over the hybrid on the same queries.
fn print_gains(asked: &Asked, qrels: &Qrels) {
    let of = |mode: &str| -> Vec<f64> {
        let scores = Metric::Ndcg(10).per_query(asked.run(mode), qrels);
        scores.values().copied().collect()
    };
    let hybrid = of("hybrid_convex");
    println!("{:<15} {:>8.4}", "hybrid_convex", plumb::eval::mean(hybrid.iter()));
    for mode in MODES.iter().chain(&CROSS_ENCODED).filter(|mode| mode.is_reranked()) {
        let found = of(mode.name);
        let gain = Bootstrap::default().paired_difference(&found, &hybrid).expect("a collection has queries");
        let (mean, low, high) = (gain.mean, gain.low, gain.high);
        let ndcg = plumb::eval::mean(found.iter());
        println!("{:<15} {ndcg:>8.4} to the hybrid {mean:+.4} [{low:+.4}, {high:+.4}]", mode.name);
    }
}

fn print_rows(asked: &Asked, modes: &[AskedMode], qrels: &Qrels) {
    for mode in modes {
        let scores = Metric::Ndcg(10).per_query(asked.run(mode.name), qrels);
        let values: Vec<f64> = scores.values().copied().collect();
        let ndcg = Bootstrap::default().mean(&values).expect("a collection has queries");
        let mean = |metric: Metric| plumb::eval::mean(metric.per_query(asked.run(mode.name), qrels).values());
        let cost = asked.cost(mode.name);
        println!(
            "{:<15} {:>8.4} [{:>6.4}, {:>6.4}] {:>10.4} {:>8.4} {:>9.2} {:>9.2} {:>13.2}",
            mode.name,
            ndcg.mean,
            ndcg.low,
            ndcg.high,
            mean(Metric::Recall(100)),
            mean(Metric::Mrr(10)),
            cost.p50_ms,
            cost.p95_ms,
            cost.cpu_ms
        );
    }
}
