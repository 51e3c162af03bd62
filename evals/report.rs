//! The table: quality and cost of each mode side by side.

use plumb::eval::{Bootstrap, Metric};

use crate::asked::{Asked, MODES};
use crate::collections::Collection;

/// Prints one collection's rows.
pub fn print(collection: &Collection, asked: &Asked) {
    let published = collection.published_bm25.map(|value| format!(", published BM25 {value:.4}")).unwrap_or_default();
    println!("{} test queries{published}", asked.qrels.len());
    println!(
        "{:<14} {:>8} {:>17} {:>10} {:>8} {:>9} {:>9} {:>13}",
        "mode", "nDCG@10", "95 % interval", "Recall@100", "MRR@10", "p50 ms", "p95 ms", "CPU ms/query"
    );
    for mode in &MODES {
        let scores = Metric::Ndcg(10).per_query(asked.run(mode.name), &asked.qrels);
        let values: Vec<f64> = scores.values().copied().collect();
        let ndcg = Bootstrap::default().mean(&values).expect("a collection has queries");
        let mean = |metric: Metric| plumb::eval::mean(metric.per_query(asked.run(mode.name), &asked.qrels).values());
        let cost = asked.cost(mode.name);
        println!(
            "{:<14} {:>8.4} [{:>6.4}, {:>6.4}] {:>10.4} {:>8.4} {:>9.2} {:>9.2} {:>13.2}",
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
