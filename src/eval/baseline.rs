//! Recorded results of a collection, and the comparison of a new run with them.
//!
//! Scores are kept per query so that runs can be compared in pairs. They are kept, and compared, in ten-thousandths:
//! comparing exact values with rounded ones would find a difference in the rounding itself.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::EvalError;
use super::bootstrap::{Bootstrap, Interval};
use super::metrics::Metric;

/// Scores by query id, in the order of the ids.
pub type QueryScores = BTreeMap<String, f64>;

/// The recorded results of one collection; one file each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    pub collection: String,
    pub queries: usize,
    /// BLAKE3 over the query ids in order: other queries cannot be compared pair by pair.
    pub queries_hash: String,
    /// What made the scores (models, settings), for people to read.
    #[serde(default)]
    pub made_with: BTreeMap<String, String>,
    /// By mode (`lexical`, `hybrid_rrf`, …), then by metric name.
    pub modes: BTreeMap<String, BTreeMap<String, RecordedScores>>,
}

/// One metric of one mode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedScores {
    /// Rounded to five decimals, for people to read; comparisons use `per_query`.
    pub mean: f64,
    /// Ten-thousandths in the order of the query ids, separated by spaces: one line in a diff.
    per_query: String,
}

/// What a comparison found. Only an interval that excludes zero counts as a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Better,
    Unclear,
    Worse,
}

/// A run beside its baseline.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    pub baseline_mean: f64,
    pub mean: f64,
    /// Of run minus baseline.
    pub difference: Interval,
    pub change: Change,
}

impl Baseline {
    /// An empty baseline for the queries of `scores`.
    pub fn new(collection: &str, scores: &QueryScores) -> Self {
        Self {
            collection: collection.to_owned(),
            queries: scores.len(),
            queries_hash: queries_hash(scores),
            made_with: BTreeMap::new(),
            modes: BTreeMap::new(),
        }
    }

    /// Reads a baseline; `None` if the file is not there yet.
    pub fn load(path: &Path) -> Result<Option<Self>, EvalError> {
        match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| EvalError::Baseline { path: path.to_owned(), detail: error.to_string() }),
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(EvalError::Io { path: path.to_owned(), source }),
        }
    }

    /// Writes the baseline, keys in order, so that equal results give equal files.
    pub fn write(&self, path: &Path) -> Result<(), EvalError> {
        let io = |source| EvalError::Io { path: path.to_owned(), source };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(io)?;
        }
        let json = serde_json::to_string_pretty(self).expect("a baseline holds only strings and finite numbers");
        std::fs::write(path, json + "\n").map_err(io)
    }

    /// Records the scores of one mode, replacing what was there; they must be of the baseline's queries.
    pub fn record(&mut self, mode: &str, metric: Metric, scores: &QueryScores) -> Result<(), EvalError> {
        self.check_queries(scores)?;
        let per_query: Vec<i32> = scores.values().copied().map(ten_thousandths).collect();
        let recorded = RecordedScores {
            mean: (super::metrics::mean(scores.values()) * 1e5).round() / 1e5,
            per_query: per_query.iter().map(i32::to_string).collect::<Vec<_>>().join(" "),
        };
        self.modes.entry(mode.to_owned()).or_default().insert(metric.name(), recorded);
        Ok(())
    }

    /// Compares a run with what is recorded, query by query.
    pub fn compare(
        &self,
        mode: &str,
        metric: Metric,
        scores: &QueryScores,
        bootstrap: &Bootstrap,
    ) -> Result<Comparison, EvalError> {
        self.check_queries(scores)?;
        let recorded = self.modes.get(mode).and_then(|metrics| metrics.get(&metric.name()));
        let recorded = recorded.and_then(RecordedScores::values).filter(|values| values.len() == scores.len());
        let Some(theirs) = recorded else {
            return Err(EvalError::NotInBaseline {
                collection: self.collection.clone(),
                mode: mode.to_owned(),
                metric: metric.name(),
            });
        };
        let ours: Vec<f64> = scores.values().map(|score| f64::from(ten_thousandths(*score)) / 1e4).collect();
        let none = Interval { mean: 0.0, low: 0.0, high: 0.0 };
        let difference = bootstrap.paired_difference(&ours, &theirs).unwrap_or(none);
        Ok(Comparison {
            baseline_mean: super::metrics::mean(&theirs),
            mean: super::metrics::mean(&ours),
            difference,
            change: Change::of(difference),
        })
    }

    fn check_queries(&self, scores: &QueryScores) -> Result<(), EvalError> {
        if self.queries == scores.len() && self.queries_hash == queries_hash(scores) {
            return Ok(());
        }
        let collection = self.collection.clone();
        Err(EvalError::OtherQueries { collection, baseline: self.queries, run: scores.len() })
    }
}

impl RecordedScores {
    fn values(&self) -> Option<Vec<f64>> {
        let parse = |word: &str| word.parse::<i32>().ok().map(|score| f64::from(score) / 1e4);
        self.per_query.split_whitespace().map(parse).collect()
    }
}

impl Change {
    /// Which side of zero the whole interval lies on.
    pub fn of(difference: Interval) -> Self {
        if difference.high < 0.0 {
            Self::Worse
        } else if difference.low > 0.0 {
            Self::Better
        } else {
            Self::Unclear
        }
    }
}

fn ten_thousandths(score: f64) -> i32 {
    (score * 1e4).round() as i32
}

fn queries_hash(scores: &QueryScores) -> String {
    let mut hasher = blake3::Hasher::new();
    for query in scores.keys() {
        hasher.update(&(query.len() as u64).to_le_bytes());
        hasher.update(query.as_bytes());
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NDCG: Metric = Metric::Ndcg(10);

    fn scores(value: impl Fn(usize) -> f64) -> QueryScores {
        (0..60).map(|id| (format!("q{id:02}"), value(id))).collect()
    }

    fn change(before: &QueryScores, after: &QueryScores) -> Change {
        let mut baseline = Baseline::new("tiny", before);
        baseline.record("hybrid", NDCG, before).unwrap();
        baseline.compare("hybrid", NDCG, after, &Bootstrap::default()).unwrap().change
    }

    #[test]
    fn only_a_difference_that_excludes_zero_is_a_change() {
        let before = scores(|id| (id % 7) as f64 / 7.0);

        assert_eq!(change(&before, &before), Change::Unclear);
        assert_eq!(change(&before, &scores(|id| (id % 7) as f64 / 7.0 - 0.05)), Change::Worse);
        assert_eq!(change(&before, &scores(|id| (id % 7) as f64 / 7.0 + 0.05)), Change::Better);
        // One query falls from 6/7 to 0 and all else stays: a worse mean, but no evidence.
        let one_worse = scores(|id| if id == 6 { 0.0 } else { (id % 7) as f64 / 7.0 });
        assert_eq!(change(&before, &one_worse), Change::Unclear);
    }

    #[test]
    fn rounding_is_not_a_difference() {
        // 0.38685… is recorded as 0.3869; an exact comparison would call every query worse.
        let before = scores(|_| 1.0 / 6.0_f64.log2());

        assert_eq!(change(&before, &before), Change::Unclear);
    }

    #[test]
    fn a_file_gives_back_what_was_written_and_stays_small() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("baselines/tiny.json");
        let before = scores(|id| (id % 7) as f64 / 7.0);
        let mut baseline = Baseline::new("tiny", &before);
        baseline.record("hybrid", NDCG, &before).unwrap();

        assert_eq!(Baseline::load(&path).unwrap(), None);
        baseline.write(&path).unwrap();

        assert_eq!(Baseline::load(&path).unwrap(), Some(baseline));
        assert!(std::fs::read_to_string(&path).unwrap().lines().count() < 20);
        std::fs::write(&path, "{}").unwrap();
        assert!(Baseline::load(&path).is_err());
    }

    #[test]
    fn other_queries_and_unrecorded_modes_are_errors() {
        let before = scores(|_| 0.5);
        let mut baseline = Baseline::new("tiny", &before);
        baseline.record("hybrid", NDCG, &before).unwrap();
        let mut other = before.clone();
        other.remove("q00");
        other.insert("q99".to_owned(), 0.5);

        let compare = |mode, scores| baseline.compare(mode, NDCG, scores, &Bootstrap::default());
        assert!(matches!(compare("hybrid", &other), Err(EvalError::OtherQueries { .. })));
        assert!(matches!(compare("lexical", &before), Err(EvalError::NotInBaseline { .. })));
    }
}
