//! How good is it, and is it better than before: metrics, intervals, labelled collections, baselines.

mod baseline;
mod bootstrap;
mod collection;
mod error;
mod generations;
mod generations_report;
mod metrics;

pub use baseline::{Baseline, Change, Comparison, QueryScores, RecordedScores};
pub use bootstrap::{Bootstrap, Interval};
pub use collection::{CorpusDocument, CorpusQuery, Half, LabelledCollection};
pub use error::EvalError;
pub use generations::{GenerationScorer, ReportSettings};
pub use generations_report::{
    CaseCounts, CostReport, Decision, GenerationReport, Latency, LatencyReport, MetricReport, ShadowReport, SizeReport,
    Verdict, judge,
};
pub use metrics::{Grades, Metric, Qrels, Run, documents_of_chunks, mean, mrr_at_k, ndcg_at_k, ranked, recall_at_k};
