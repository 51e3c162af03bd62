//! How good is it, and is it better than before: metrics, intervals, labelled collections, baselines.

mod baseline;
mod bootstrap;
mod collection;
mod error;
mod metrics;

pub use baseline::{Baseline, Change, Comparison, QueryScores, RecordedScores};
pub use bootstrap::{Bootstrap, Interval};
pub use collection::{CorpusDocument, CorpusQuery, Half, LabelledCollection};
pub use error::EvalError;
pub use metrics::{Grades, Metric, Qrels, Run, documents_of_chunks, mean, mrr_at_k, ndcg_at_k, ranked, recall_at_k};
