//! Search requests and results.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::domain::{
    CollectionName, Context, Degraded, Fusion, FusionMethod, GroupBy, Hit, Mode, Neighbour, Principal, Query,
    ScoreBreakdown, SearchResult, Sequence, StageScore, StageTimings, TraceId,
};
use crate::http::json::optional_object;
use crate::search::QueryOverrides;

use super::ProvenanceBody;

/// A search. Only `query` (or `vector`) is required; everything else has the server's default, see `GET /limits`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"query": "how do I restore a backup?", "top_k": 5, "explain": true}))]
pub(in crate::http) struct SearchRequestBody {
    /// Plain text; never read as a query language.
    pub query: Option<String>,
    /// The caller's own query vector, instead of embedding `query`. Finite and not all zero.
    pub vector: Option<Vec<f32>>,
    /// `default` if left out.
    #[schema(value_type = Option<String>)]
    pub collection: Option<CollectionName>,
    pub mode: Option<ModeBody>,
    pub top_k: Option<usize>,
    /// Conditions over metadata and the reserved fields `document_id`, `source_uri`, `title`, `media_type`,
    /// `created_at`, `updated_at`, with `$eq $ne $in $nin $gt $gte $lt $lte $exists $and $or $not`.
    #[schema(value_type = Option<Object>, example = json!({"year": {"$gte": 2020}, "lang": {"$in": ["en"]}}))]
    pub filter: Option<Value>,
    /// As whom to search. A key that may write sees everything without this, and what these see with it; any other
    /// key sees what its own principals and these see.
    #[schema(value_type = Option<Vec<String>>, example = json!(["group:eng"]))]
    pub principals: Option<Vec<Principal>>,
    /// Candidates that each leg retrieves.
    pub candidate_depth: Option<usize>,
    #[serde(default, deserialize_with = "optional_object")]
    pub fusion: Option<FusionBody>,
    #[serde(default, deserialize_with = "optional_object")]
    pub rerank: Option<RerankBody>,
    /// At most one hit for each value: `document_id`, or a key of the metadata.
    #[schema(example = "document_id")]
    pub group_by: Option<String>,
    #[serde(default, deserialize_with = "optional_object")]
    pub context: Option<ContextBody>,
    /// From the moment the request is taken. Stages that no longer fit are skipped and named in `degraded`.
    pub deadline_ms: Option<u64>,
    /// The `sequence` of an earlier write that the index must have reached (read your writes).
    pub min_sequence: Option<u64>,
    /// Scan all vectors instead of walking the graph.
    pub exact: Option<bool>,
    /// Rank and score of every stage with each hit.
    pub explain: Option<bool>,
}

/// Which legs retrieve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum ModeBody {
    Hybrid,
    Lexical,
    Vector,
}

/// How the two ranked lists become one.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct FusionBody {
    pub method: Option<FusionMethodBody>,
    /// The constant of reciprocal rank fusion.
    pub rrf_k: Option<u32>,
    #[serde(default, deserialize_with = "optional_object")]
    pub weights: Option<WeightsBody>,
}

/// `rrf`: reciprocal ranks (Cormack et al. 2009); `convex`: normalized scores (Bruch et al. 2023).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum FusionMethodBody {
    Rrf,
    Convex,
}

/// Relative weights, 0 or more, at least one above 0.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct WeightsBody {
    pub lexical: Option<f64>,
    pub vector: Option<f64>,
}

/// Whether and how deep the reranker looks.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct RerankBody {
    pub enabled: Option<bool>,
    pub depth: Option<usize>,
    /// Name of one reranker, to compare them; left out: the best that time allows.
    #[schema(example = "plumb-reranker-l3")]
    pub model: Option<String>,
}

/// How many neighbouring chunks of the same document come with a hit.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct ContextBody {
    #[serde(default)]
    pub before: u32,
    #[serde(default)]
    pub after: u32,
}

/// Several searches under one trace.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct SearchBatchRequestBody {
    // Raw, so that a fault in one query is reported beside the faults of the others.
    #[schema(value_type = Vec<SearchRequestBody>)]
    pub queries: Vec<Box<RawValue>>,
}

/// The ranked passages.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct SearchBody {
    pub trace_id: String,
    pub took_ms: f64,
    pub timings_ms: TimingsBody,
    pub mode: ModeBody,
    /// `null`: the collection does not exist yet, so nothing was searched.
    pub generation: Option<String>,
    /// The write that the index had reached.
    pub sequence: u64,
    /// Every stage that was skipped or cut short, and why, as `stage:reason`.
    #[schema(example = json!(["rerank:deadline"]))]
    pub degraded: Vec<String>,
    /// Name of the reranker that ordered the first hits; `null`: none did.
    pub reranked_by: Option<String>,
    pub hits: Vec<HitBody>,
}

/// Milliseconds of each stage; the legs run side by side.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct TimingsBody {
    pub embed: f64,
    pub lexical: f64,
    pub vector: f64,
    pub fusion: f64,
    pub rerank: f64,
    pub hydrate: f64,
}

/// A passage that answers the query.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct HitBody {
    /// From 1.
    pub rank: usize,
    /// Of the last stage that ran.
    pub score: f64,
    pub chunk_id: String,
    pub document_id: String,
    pub title: Option<String>,
    pub text: String,
    /// Byte ranges of `text` that match a term of the query.
    #[schema(example = json!([[0, 5]]))]
    pub highlights: Vec<[usize; 2]>,
    /// Preceding chunks, nearest last; only if asked for by `context`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<NeighbourBody>,
    /// Following chunks, nearest first; only if asked for by `context`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<NeighbourBody>,
    pub metadata: Map<String, Value>,
    pub provenance: ProvenanceBody,
    /// Only if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explain: Option<ExplainBody>,
}

/// A neighbouring chunk.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct NeighbourBody {
    pub chunk_id: String,
    pub text: String,
}

/// Where the score came from; a stage is absent where the passage was not retrieved there.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct ExplainBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lexical: Option<StageBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vector: Option<StageBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fusion: Option<FusionStageBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rerank: Option<StageBody>,
}

/// Place (from 1) and score in one stage.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct StageBody {
    pub rank: usize,
    pub score: f64,
}

/// Place and score after fusion.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct FusionStageBody {
    pub method: FusionMethodBody,
    pub rank: usize,
    pub score: f64,
}

/// One search of a batch: a result or a problem, in the order asked.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(in crate::http) enum BatchItemBody {
    Result(Box<SearchBody>),
    Problem(Box<crate::http::problem::ProblemBody>),
}

/// The results of a batch, in the order of its queries.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct SearchBatchBody {
    pub trace_id: String,
    pub took_ms: f64,
    pub results: Vec<BatchItemBody>,
}

impl SearchRequestBody {
    /// Text, principals, and the rest as the search room takes it.
    pub(in crate::http) fn into_parts(self) -> (Option<String>, Option<Vec<Principal>>, QueryOverrides) {
        let fusion = self.fusion.unwrap_or_default();
        let weights = fusion.weights.unwrap_or_default();
        let rerank = self.rerank.unwrap_or_default();
        let overrides = QueryOverrides {
            collection: self.collection,
            vector: self.vector,
            mode: self.mode.map(Into::into),
            top_k: self.top_k,
            filter: self.filter,
            candidate_depth: self.candidate_depth,
            fusion_method: fusion.method.map(Into::into),
            rrf_k: fusion.rrf_k,
            lexical_weight: weights.lexical,
            vector_weight: weights.vector,
            rerank_enabled: rerank.enabled,
            rerank_depth: rerank.depth,
            rerank_model: rerank.model,
            group_by: self.group_by.map(|field| match field.as_str() {
                "document_id" => GroupBy::Document,
                _ => GroupBy::Metadata(field),
            }),
            context: self.context.map(|context| Context { before: context.before, after: context.after }),
            deadline_ms: self.deadline_ms,
            min_sequence: self.min_sequence.map(Sequence),
            exact: self.exact,
            explain: self.explain,
        };
        (self.query, self.principals, overrides)
    }
}

impl SearchBody {
    /// The result of `query`, whose wishes decide what is shown.
    pub(in crate::http) fn new(trace: TraceId, query: &Query, result: SearchResult) -> Self {
        let fusion = query.explain.then_some(query.fusion);
        Self {
            trace_id: trace.to_string(),
            took_ms: rounded(result.took_ms),
            timings_ms: result.timings.into(),
            mode: result.mode.into(),
            generation: result.generation.map(|generation| generation.to_string()),
            sequence: result.sequence.0,
            reranked_by: result.reranked_by,
            degraded: result.degraded.iter().map(Degraded::to_string).collect(),
            hits: result.hits.into_iter().map(|hit| HitBody::new(hit, fusion)).collect(),
        }
    }
}

impl HitBody {
    /// `fusion` is given where each stage is to be shown.
    pub(in crate::http) fn new(hit: Hit, fusion: Option<Fusion>) -> Self {
        Self {
            rank: hit.rank,
            score: hit.score,
            chunk_id: hit.chunk_id.to_string(),
            document_id: hit.document_id.into(),
            title: hit.title,
            text: hit.text,
            highlights: hit.highlights.into_iter().map(|span| [span.start, span.end]).collect(),
            before: hit.before.into_iter().map(Into::into).collect(),
            after: hit.after.into_iter().map(Into::into).collect(),
            metadata: hit.metadata,
            provenance: hit.provenance.into(),
            explain: fusion.map(|fusion| ExplainBody::new(hit.breakdown, fusion)),
        }
    }
}

impl ExplainBody {
    fn new(breakdown: ScoreBreakdown, fusion: Fusion) -> Self {
        Self {
            lexical: breakdown.lexical.map(Into::into),
            vector: breakdown.vector.map(Into::into),
            fusion: breakdown.fusion.map(|stage| FusionStageBody {
                method: fusion.method.into(),
                rank: stage.rank,
                score: stage.score,
            }),
            rerank: breakdown.rerank.map(Into::into),
        }
    }
}

impl From<StageScore> for StageBody {
    fn from(stage: StageScore) -> Self {
        Self { rank: stage.rank, score: stage.score }
    }
}

impl From<Neighbour> for NeighbourBody {
    fn from(neighbour: Neighbour) -> Self {
        Self { chunk_id: neighbour.id.to_string(), text: neighbour.text }
    }
}

impl From<StageTimings> for TimingsBody {
    fn from(timings: StageTimings) -> Self {
        Self {
            embed: rounded(timings.embed_ms),
            lexical: rounded(timings.lexical_ms),
            vector: rounded(timings.vector_ms),
            fusion: rounded(timings.fusion_ms),
            rerank: rounded(timings.rerank_ms),
            hydrate: rounded(timings.hydrate_ms),
        }
    }
}

// Microseconds are the clock's worth.
pub(in crate::http) fn rounded(milliseconds: f64) -> f64 {
    (milliseconds * 1000.0).round() / 1000.0
}

impl From<Mode> for ModeBody {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Hybrid => Self::Hybrid,
            Mode::Lexical => Self::Lexical,
            Mode::Vector => Self::Vector,
        }
    }
}

impl From<ModeBody> for Mode {
    fn from(mode: ModeBody) -> Self {
        match mode {
            ModeBody::Hybrid => Self::Hybrid,
            ModeBody::Lexical => Self::Lexical,
            ModeBody::Vector => Self::Vector,
        }
    }
}

impl From<FusionMethod> for FusionMethodBody {
    fn from(method: FusionMethod) -> Self {
        match method {
            FusionMethod::Rrf => Self::Rrf,
            FusionMethod::Convex => Self::Convex,
        }
    }
}

impl From<FusionMethodBody> for FusionMethod {
    fn from(method: FusionMethodBody) -> Self {
        match method {
            FusionMethodBody::Rrf => Self::Rrf,
            FusionMethodBody::Convex => Self::Convex,
        }
    }
}
