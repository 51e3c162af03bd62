//! What the server says about itself.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use crate::http::ports::{Severity, Shortfall};

/// Every limit by name; sizes in bytes (`_bytes`), times in milliseconds (`_ms`), the rest are counts.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct LimitsBody {
    pub trace_id: String,
    #[schema(value_type = std::collections::HashMap<String, u64>, example = json!({"max_top_k": 1000}))]
    pub limits: BTreeMap<&'static str, u64>,
}

/// Whether the server can serve, and what is missing.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct ReadyBody {
    pub trace_id: String,
    /// `ready`, `degraded` (serves, with less than it could) or `unready` (with status 503).
    #[schema(example = "degraded")]
    pub status: &'static str,
    pub missing: Vec<ShortfallBody>,
}

/// Something that is missing or damaged.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct ShortfallBody {
    #[schema(example = "embedder")]
    pub part: String,
    #[schema(example = "model all-MiniLM-L6-v2 is not at hand; run `plumb models fetch`")]
    pub detail: String,
    /// True if the server is unready because of it.
    pub blocks: bool,
}

/// Which program this is.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct VersionInfoBody {
    pub trace_id: String,
    #[schema(example = "plumb")]
    pub name: &'static str,
    #[schema(example = "0.1.0")]
    pub version: &'static str,
}

impl From<Shortfall> for ShortfallBody {
    fn from(shortfall: Shortfall) -> Self {
        let blocks = shortfall.severity == Severity::Blocking;
        Self { part: shortfall.part.to_owned(), detail: shortfall.detail, blocks }
    }
}
