//! A search request, complete: every default is filled in before a [`Query`] exists.

use serde::{Deserialize, Serialize};

use super::{CollectionName, Filter, Sequence};

/// Which legs retrieve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    Hybrid,
    Lexical,
    Vector,
}

/// How two ranked lists become one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FusionMethod {
    /// Reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009).
    Rrf,
    /// Convex combination of normalized scores (Bruch, Gai and Ingber, TOIS 2023).
    Convex,
}

/// Fusion with its parameters; weights are relative, at least one is above 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Fusion {
    pub method: FusionMethod,
    pub rrf_k: u32,
    pub lexical_weight: f64,
    pub vector_weight: f64,
}

/// Whether and how deep the reranker looks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rerank {
    pub enabled: bool,
    pub depth: usize,
    /// This reranker and no other; `None`: the best that time allows.
    pub model: Option<String>,
}

/// At most one hit for each value of this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupBy {
    Document,
    /// A key of the metadata; hits without it stand alone.
    Metadata(String),
}

/// How many neighbouring chunks of the same version come with a hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Context {
    pub before: u32,
    pub after: u32,
}

/// A complete search request. The tenant is not in it: it comes from the credential, never from the body.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    pub collection: CollectionName,
    pub text: String,
    /// The caller's own query vector, used instead of embedding `text`.
    pub vector: Option<Vec<f32>>,
    pub mode: Mode,
    pub top_k: usize,
    pub filter: Option<Filter>,
    pub candidate_depth: usize,
    pub fusion: Fusion,
    pub rerank: Rerank,
    pub group_by: Option<GroupBy>,
    pub context: Context,
    /// From the moment the request is taken; `None`: the server's own limit alone.
    pub deadline_ms: Option<u64>,
    /// The index must have reached this before the search starts.
    pub min_sequence: Option<Sequence>,
    /// Scan all vectors instead of walking the graph.
    pub exact: bool,
    pub explain: bool,
}
