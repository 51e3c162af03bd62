//! Settings of searching: defaults of a query, and its limits.

use serde::{Deserialize, Serialize};

use crate::domain::{Fusion, FusionMethod, Mode};

use super::ConvexFloor;

/// What a query gets where its caller says nothing, and how far a caller may go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SearchSettings {
    /// Hybrid: neither leg finds everything the other does.
    pub mode: Mode,
    /// Hits. 10: what a page shows and what the published measures look at.
    pub top_k: usize,
    /// Candidates from each leg. 100: the depth at which fusion results are published; deeper costs more than it
    /// finds.
    pub candidate_depth: usize,
    pub fusion: FusionSettings,
    pub rerank: RerankSettings,
    pub limits: SearchLimits,
    /// Time kept back for reading hits from the truth when a deadline is split, in milliseconds. 5: ten times what
    /// reading ten hits takes on a busy machine. At most a quarter of the deadline is kept.
    pub hydrate_reserve_ms: u64,
    /// When a refused caller may come again, in milliseconds. 1000: `Retry-After` counts in seconds.
    pub retry_after_ms: u64,
}

/// Defaults of [`Fusion`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FusionSettings {
    /// Convex: ahead of RRF in and out of domain (Bruch et al. 2023).
    pub method: FusionMethod,
    /// 60: the value of Cormack et al. 2009, flat around its best.
    pub rrf_k: u32,
    /// Relative to `vector_weight`.
    pub lexical_weight: f64,
    /// Relative to `lexical_weight`. 0.3 of both: with the floor at BM25's own 0 this had the highest sum of nDCG@10
    /// over the tuning halves of SciFact (.7295), FeedbackQA (.6607) and SQuAD (.8794) among three floors and eight
    /// weights; 0.5 gave .7319, .6518 and .8491, RRF .7204, .6360 and .8230 (`PLUMB_EVALS_TUNE=1`).
    pub vector_weight: f64,
    /// What counts as 0 in a convex combination. BM25's own 0: the last of a hundred candidates is no zero.
    pub convex_floor: ConvexFloor,
}

/// Defaults of [`crate::domain::Rerank`], and how its scores are used.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RerankSettings {
    pub enabled: bool,
    /// Candidates that are reranked. 20: quality falls again with depth, cost only grows.
    pub depth: usize,
    /// Share of the reranker's score in the final one, from 0 to 1; the fused score has the rest. Both are mapped
    /// onto 0 to 1 over the head first. Below 1, since a reranker alone loses on collections it was not made for.
    pub blend: f64,
    /// The same where a cross-encoder reranks. 0.7: chosen together with `inference.cross_encoder_share`, see there.
    pub cross_encoder_blend: f64,
    /// Longest time for the cross-encoders of one search in milliseconds; the next smaller reranker takes over where that
    /// is not enough, and the answer says so (`rerank:smaller_model`). 400: a reranked search stays below half a second.
    /// One that is named in the query, or that has none behind it, is bounded by the deadline alone.
    pub budget_ms: u64,
}

/// How far a caller may go; beyond it a request is refused, never silently cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SearchLimits {
    /// Hits. 1000: a page of hits is read whole into memory.
    pub max_top_k: usize,
    /// Candidates from each leg. 10 000: some ten milliseconds of work.
    pub max_candidate_depth: usize,
    /// Reranked candidates. 200: seconds of work on two cores.
    pub max_rerank_depth: usize,
    /// Bytes of a query's text. 8192: a long passage used as a query passes, ten thousand terms do not.
    pub max_query_bytes: usize,
    /// Dimensions of a caller's query vector. 8192: twice the widest model in common use.
    pub max_vector_dimensions: usize,
    /// Neighbouring chunks on each side of a hit. 10: more than that is reading the document.
    pub max_context: u32,
    /// Milliseconds for a search, also where the caller names no deadline. 30 000: clients have gone by then.
    pub max_deadline_ms: u64,
    /// Milliseconds that `min_sequence` may wait for the index. 5000: twenty-five commit intervals.
    pub max_index_wait_ms: u64,
}

impl RerankSettings {
    /// A sentence for each value that cannot be.
    pub fn problems(&self) -> Vec<String> {
        let shares = [("blend", self.blend), ("cross_encoder_blend", self.cross_encoder_blend)];
        let outside = shares.into_iter().filter(|(_, share)| !(0.0..=1.0).contains(share));
        outside.map(|(name, share)| format!("{name} is {share}, from 0 to 1 are possible")).collect()
    }
}

impl Default for SearchSettings {
    fn default() -> Self {
        Self {
            mode: Mode::Hybrid,
            top_k: 10,
            candidate_depth: 100,
            fusion: FusionSettings::default(),
            rerank: RerankSettings::default(),
            limits: SearchLimits::default(),
            hydrate_reserve_ms: 5,
            retry_after_ms: 1000,
        }
    }
}

impl Default for FusionSettings {
    fn default() -> Self {
        Self {
            method: FusionMethod::Convex,
            rrf_k: 60,
            lexical_weight: 0.7,
            vector_weight: 0.3,
            convex_floor: ConvexFloor::LexicalZero,
        }
    }
}

impl Default for RerankSettings {
    fn default() -> Self {
        Self { enabled: true, depth: 20, blend: 0.4, cross_encoder_blend: 0.7, budget_ms: 400 }
    }
}

impl Default for SearchLimits {
    fn default() -> Self {
        Self {
            max_top_k: 1000,
            max_candidate_depth: 10_000,
            max_rerank_depth: 200,
            max_query_bytes: 8192,
            max_vector_dimensions: 8192,
            max_context: 10,
            max_deadline_ms: 30_000,
            max_index_wait_ms: 5000,
        }
    }
}

impl From<FusionSettings> for Fusion {
    fn from(settings: FusionSettings) -> Self {
        Self {
            method: settings.method,
            rrf_k: settings.rrf_k,
            lexical_weight: settings.lexical_weight,
            vector_weight: settings.vector_weight,
        }
    }
}
