//! What must hold whatever the baselines say.

use plumb::eval::{Metric, mean};

use crate::Outcome;
use crate::asked::Asked;
use crate::collections::Collection;

/// How far BM25 may stay behind its published figure, and hybrid behind its better leg, in nDCG@10.
const TOLERANCE: f64 = 0.005;
/// The collections large enough to compare legs on; the others are smoke tests.
const COMPARED: [&str; 4] = ["tiny", "scifact", "feedbackqa", "squad-mid"];
/// Share of queries that must find something relevant in each language.
const LANGUAGE_RECALL: f64 = 0.5;

/// Checks every floor that the collections at hand allow.
pub fn check(results: &[(Collection, Asked)], outcome: &mut Outcome) {
    let mut gains = Vec::new();
    for (collection, asked) in results {
        let ndcg = |mode: &str| mean(Metric::Ndcg(10).per_query(asked.run(mode), &asked.qrels).values());
        if let Some(published) = collection.published_bm25 {
            let ours = ndcg("lexical");
            let missed = ours < published - TOLERANCE;
            let name = &collection.name;
            outcome.check(missed.then(|| format!("{name}: BM25 {ours:.4}, published {published:.4}")));
        }
        if collection.language.is_some() {
            let recall = mean(Metric::Recall(100).per_query(asked.run("hybrid_convex"), &asked.qrels).values());
            let name = &collection.name;
            outcome.check((recall < LANGUAGE_RECALL).then(|| format!("{name}: hybrid Recall@100 is {recall:.4}")));
        }
        if COMPARED.contains(&collection.name.as_str()) {
            let better_leg = ndcg("lexical").max(ndcg("vector"));
            let hybrid = ndcg("hybrid_convex");
            gains.push(hybrid - better_leg);
            let missed = hybrid < better_leg - TOLERANCE;
            let name = &collection.name;
            outcome.check(missed.then(|| format!("{name}: hybrid {hybrid:.4}, better leg {better_leg:.4}")));
        }
    }
    if !gains.is_empty() {
        let gain = mean(gains.iter());
        outcome.check((gain <= 0.0).then(|| format!("hybrid is not above its better leg on average: {gain:+.4}")));
        println!("\nhybrid minus its better leg, mean over {} collections: {gain:+.4}", gains.len());
    }
}
