//! How good a generation is, as callers see it.

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::TraceId;
use crate::eval::{GenerationReport, Interval, LatencyReport, MetricReport, ShadowReport, SizeReport};

/// A generation beside the one that it would replace.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct ReportBody {
    pub trace_id: String,
    pub collection: String,
    #[schema(example = "gen_00112233445566778899aabbccddeeff")]
    pub generation: String,
    /// What it is compared with: the live one, or for the live one the one before it.
    pub beside: String,
    /// `better`, `worse`, `undecided` or `no_cases`, by the interval of the difference in nDCG@10.
    #[schema(example = "better")]
    pub verdict: &'static str,
    /// False if the verdict rests on too few cases, on searches in which something was skipped, or on a generation that
    /// is not built yet.
    pub is_conclusive: bool,
    /// Eval cases of the collection that were put to both.
    pub cases: usize,
    /// Cases none of whose documents is in the sample.
    pub cases_outside_sample: usize,
    /// Cases that the limit of cases or of time did not reach; more than one only tells that there are more.
    pub cases_not_reached: usize,
    /// True if documents beyond the generation's sample were left out on both sides.
    pub restricted_to_sample: bool,
    /// `ndcg_at_10`, `recall_at_10`, `recall_at_100` and `mrr_at_10`, means over the cases; empty without cases.
    pub metrics: Vec<MetricBody>,
    /// Mean share of the documents among either's first ten that are among both.
    pub overlap_at_10: Option<f64>,
    /// Of searches for the cases, the two taking turns.
    pub latency_ms: Option<LatencyBody>,
    pub size: SizesBody,
    /// What calls for the generation's contexts have cost; absent if it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_cost_usd: Option<f64>,
    pub shadow: ShadowBody,
    /// What was skipped or cut short in these searches.
    pub degraded: Vec<String>,
}

/// A metric of both, and by how much they differ.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct MetricBody {
    #[schema(example = "ndcg_at_10")]
    pub name: String,
    pub beside: f64,
    pub generation: f64,
    /// Generation minus beside, paired by case.
    pub difference: f64,
    /// 95 % interval of the difference, by paired bootstrap.
    #[schema(example = json!([0.002, 0.031]))]
    pub interval: [f64; 2],
}

/// Latencies of both.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct LatencyBody {
    pub beside_p50: f64,
    pub beside_p95: f64,
    pub generation_p50: f64,
    pub generation_p95: f64,
}

/// What both take.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct SizesBody {
    pub beside: SizeBody,
    pub generation: SizeBody,
}

/// What a generation takes.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct SizeBody {
    pub documents: u64,
    pub chunks: u64,
    pub vectors: u64,
    /// Of the vectors in the database; the index holds as much again at most.
    pub vector_bytes: u64,
}

/// Live searches that were put to the generation as well.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct ShadowBody {
    pub searches: usize,
    /// Mean share of the documents found by either that both found.
    pub mean_overlap: Option<f64>,
    /// The generation's time over the live one's.
    pub latency_ratio: Option<f64>,
}

impl ReportBody {
    pub(in crate::http) fn new(trace: TraceId, report: GenerationReport) -> Self {
        Self {
            trace_id: trace.to_string(),
            collection: report.collection.to_string(),
            generation: report.generation.to_string(),
            beside: report.beside.to_string(),
            verdict: report.verdict.as_str(),
            is_conclusive: report.is_conclusive,
            cases: report.cases.scored,
            cases_outside_sample: report.cases.outside_sample,
            cases_not_reached: report.cases.not_reached,
            restricted_to_sample: report.restricted_to_sample,
            metrics: report.metrics.into_iter().map(Into::into).collect(),
            overlap_at_10: report.overlap_at_10,
            latency_ms: report.latency.map(Into::into),
            size: SizesBody { beside: report.cost.beside.into(), generation: report.cost.generation.into() },
            context_cost_usd: report.cost.contexts.map(|cost| cost.usd()),
            shadow: report.shadow.into(),
            degraded: report.degraded.into_iter().collect(),
        }
    }
}

impl From<MetricReport> for MetricBody {
    fn from(report: MetricReport) -> Self {
        let MetricReport { name, beside, generation, difference: Interval { mean, low, high } } = report;
        Self { name, beside, generation, difference: mean, interval: [low, high] }
    }
}

impl From<LatencyReport> for LatencyBody {
    fn from(report: LatencyReport) -> Self {
        let LatencyReport { beside, generation } = report;
        Self {
            beside_p50: beside.p50_ms,
            beside_p95: beside.p95_ms,
            generation_p50: generation.p50_ms,
            generation_p95: generation.p95_ms,
        }
    }
}

impl From<SizeReport> for SizeBody {
    fn from(report: SizeReport) -> Self {
        let counts = report.counts;
        let (documents, chunks, vectors) = (counts.built, counts.chunks, counts.vectors);
        Self { documents, chunks, vectors, vector_bytes: report.vector_bytes }
    }
}

impl From<ShadowReport> for ShadowBody {
    fn from(report: ShadowReport) -> Self {
        let ShadowReport { searches, mean_overlap, latency_ratio } = report;
        Self { searches, mean_overlap, latency_ratio }
    }
}
