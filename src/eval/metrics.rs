//! Ranking metrics as `trec_eval` and BEIR define them.
//!
//! nDCG is Järvelin and Kekäläinen (TOIS 2002) in `trec_eval`'s form: linear gain, discount `log2(rank + 1)`, the
//! ideal made from all judged documents. A query that found nothing counts as 0; leaving it out would reward silence.

use std::collections::{BTreeMap, HashSet};

/// Grades of the judged documents of one query; relevant means above 0.
pub type Grades = BTreeMap<String, i32>;

/// Grades by query id.
pub type Qrels = BTreeMap<String, Grades>;

/// Document ids by query id, best first, each at most once.
pub type Run = BTreeMap<String, Vec<String>>;

/// A metric with its cutoff.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Metric {
    Ndcg(usize),
    Recall(usize),
    Mrr(usize),
}

impl Metric {
    /// The three that every table shows.
    pub const STANDARD: [Self; 3] = [Self::Ndcg(10), Self::Recall(100), Self::Mrr(10)];

    /// `ndcg_at_10` and the like.
    pub fn name(self) -> String {
        match self {
            Self::Ndcg(cutoff) => format!("ndcg_at_{cutoff}"),
            Self::Recall(cutoff) => format!("recall_at_{cutoff}"),
            Self::Mrr(cutoff) => format!("mrr_at_{cutoff}"),
        }
    }

    /// The value for one query, from 0 to 1.
    pub fn of<S: AsRef<str>>(self, ranking: &[S], grades: &Grades) -> f64 {
        match self {
            Self::Ndcg(cutoff) => ndcg_at_k(ranking, grades, cutoff),
            Self::Recall(cutoff) => recall_at_k(ranking, grades, cutoff),
            Self::Mrr(cutoff) => mrr_at_k(ranking, grades, cutoff),
        }
    }

    /// The value for every query of `qrels`, in the order of their ids; queries that `run` lacks count as 0 and
    /// queries that `qrels` lacks are left out.
    pub fn per_query(self, run: &Run, qrels: &Qrels) -> BTreeMap<String, f64> {
        let value = |query: &String, grades| run.get(query).map_or(0.0, |ranking| self.of(ranking, grades));
        qrels.iter().map(|(query, grades)| (query.clone(), value(query, grades))).collect()
    }
}

/// Normalized discounted cumulative gain of the first `k` documents; 0 if none is relevant.
pub fn ndcg_at_k<S: AsRef<str>>(ranking: &[S], grades: &Grades, k: usize) -> f64 {
    let mut ideal: Vec<i32> = grades.values().copied().filter(|grade| *grade > 0).collect();
    ideal.sort_unstable_by(|a, b| b.cmp(a));
    let best = dcg(ideal.into_iter().take(k));
    if best == 0.0 {
        return 0.0;
    }
    dcg(ranking.iter().take(k).map(|document| grade(document, grades))) / best
}

/// Share of the relevant documents that are among the first `k`; 0 if none is relevant.
pub fn recall_at_k<S: AsRef<str>>(ranking: &[S], grades: &Grades, k: usize) -> f64 {
    let relevant = grades.values().filter(|grade| **grade > 0).count();
    if relevant == 0 {
        return 0.0;
    }
    let found = ranking.iter().take(k).filter(|document| grade(document, grades) > 0).count();
    found as f64 / relevant as f64
}

/// One over the rank of the first relevant document among the first `k`, else 0.
pub fn mrr_at_k<S: AsRef<str>>(ranking: &[S], grades: &Grades, k: usize) -> f64 {
    let first = ranking.iter().take(k).position(|document| grade(document, grades) > 0);
    first.map_or(0.0, |place| 1.0 / (place + 1) as f64)
}

/// The documents of a chunk ranking: a document stands where its best chunk stands.
pub fn documents_of_chunks<'a>(documents: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut seen = HashSet::new();
    documents.into_iter().filter(|document| seen.insert(*document)).map(str::to_owned).collect()
}

/// Documents by their scores, best first, ties by id, so that equal scores always give equal metrics.
pub fn ranked(scores: impl IntoIterator<Item = (String, f64)>) -> Vec<String> {
    let mut scores: Vec<_> = scores.into_iter().collect();
    scores.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    documents_of_chunks(scores.iter().map(|(document, _)| document.as_str()))
}

/// Mean over queries; 0 for none.
pub fn mean<'a>(values: impl IntoIterator<Item = &'a f64>) -> f64 {
    let (count, sum) = values.into_iter().fold((0_usize, 0.0), |(count, sum), value| (count + 1, sum + value));
    if count == 0 { 0.0 } else { sum / count as f64 }
}

fn grade<S: AsRef<str>>(document: &S, grades: &Grades) -> i32 {
    grades.get(document.as_ref()).copied().unwrap_or(0).max(0)
}

fn dcg(gains: impl Iterator<Item = i32>) -> f64 {
    gains.enumerate().map(|(place, gain)| f64::from(gain) / ((place + 2) as f64).log2()).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn grades(pairs: &[(&str, i32)]) -> Grades {
        pairs.iter().map(|(document, grade)| ((*document).to_owned(), *grade)).collect()
    }

    #[test]
    fn ndcg_of_a_graded_case_worked_by_hand() {
        let grades = grades(&[("a", 3), ("b", 2), ("c", 1), ("d", 0)]);
        let ranking = ["b", "x", "a", "d", "c"];

        // DCG = 2/log2(2) + 0 + 3/log2(4) + 0 + 1/log2(6) = 2 + 1.5 + 0.38685 = 3.88685
        // ideal = 3/log2(2) + 2/log2(3) + 1/log2(4) = 3 + 1.26186 + 0.5 = 4.76186
        assert!((ndcg_at_k(&ranking, &grades, 10) - 3.886_853 / 4.761_860).abs() < 1e-6);
        // At 2: DCG = 2, ideal = 4.26186.
        assert!((ndcg_at_k(&ranking, &grades, 2) - 2.0 / 4.261_860).abs() < 1e-6);
        assert_eq!(recall_at_k(&ranking, &grades, 3), 2.0 / 3.0);
        assert_eq!(mrr_at_k(&["x", "d", "c"], &grades, 10), 1.0 / 3.0);
        assert_eq!(mrr_at_k(&["x", "d", "c"], &grades, 2), 0.0);
    }

    #[test]
    fn the_ideal_counts_judged_documents_that_were_not_found() {
        let grades = grades(&[("a", 1), ("b", 1)]);

        // 1 / (1 + 1/log2(3))
        assert!((ndcg_at_k(&["a"], &grades, 10) - 1.0 / 1.630_930).abs() < 1e-6);
    }

    #[test]
    fn a_query_without_results_or_without_relevant_documents_counts_as_zero() {
        let qrels: Qrels = [("q1", &[("a", 1)][..]), ("q2", &[("a", 1)]), ("q3", &[("a", 0), ("b", -1)])]
            .into_iter()
            .map(|(query, pairs)| (query.to_owned(), grades(pairs)))
            .collect();
        let run: Run = ["q1", "q3", "unjudged"].map(|query| (query.to_owned(), vec!["a".to_owned()])).into();

        for metric in Metric::STANDARD {
            let values = metric.per_query(&run, &qrels);
            assert_eq!(values.into_values().collect::<Vec<_>>(), [1.0, 0.0, 0.0], "{}", metric.name());
        }
    }

    #[test]
    fn the_best_chunk_of_a_document_decides_and_ties_go_by_id() {
        assert_eq!(documents_of_chunks(["b", "a", "b", "c", "a"]), ["b", "a", "c"]);
        let scores = [("b", 0.5), ("c", 0.9), ("a", 0.5), ("b", 0.1)].map(|(id, score)| (id.to_owned(), score));
        assert_eq!(ranked(scores), ["c", "a", "b"]);
    }

    proptest! {
        #[test]
        fn every_metric_lies_between_0_and_1_and_the_ideal_ranking_reaches_1(
            pairs in proptest::collection::btree_map("[a-h]", -1_i32..4, 1..8),
            order in Just(["a", "b", "c", "d", "e", "f", "g", "h"]).prop_shuffle(),
            k in 1_usize..10,
        ) {
            for metric in [Metric::Ndcg(k), Metric::Recall(k), Metric::Mrr(k)] {
                let value = metric.of(&order, &pairs);
                prop_assert!((0.0..=1.0 + 1e-12).contains(&value), "{} = {}", metric.name(), value);
            }
            let ideal = ranked(pairs.iter().map(|(id, grade)| (id.clone(), f64::from(*grade))));
            if pairs.values().any(|grade| *grade > 0) {
                prop_assert!((ndcg_at_k(&ideal, &pairs, k) - 1.0).abs() < 1e-12);
                prop_assert_eq!(mrr_at_k(&ideal, &pairs, k), 1.0);
            }
        }

        #[test]
        fn moving_a_relevant_document_up_never_lowers_ndcg(
            pairs in proptest::collection::btree_map("[a-h]", 0_i32..4, 1..8),
            order in Just(vec!["a", "b", "c", "d", "e", "f", "g", "h"]).prop_shuffle(),
            place in 1_usize..8,
        ) {
            let before = ndcg_at_k(&order, &pairs, 10);
            let mut better = order.clone();
            if grade(&order[place], &pairs) > grade(&order[place - 1], &pairs) {
                better.swap(place, place - 1);
            }
            prop_assert!(ndcg_at_k(&better, &pairs, 10) >= before);
        }
    }
}
