//! Query to hits: plan, retrieve, fuse, read back from the truth, rerank, present.

mod error;
mod fields;
mod fusion;
mod legs;
mod overrides;
mod plan;
mod present;
mod report;
mod rerank;
mod rollout;
mod searcher;
mod settings;
mod shadow;
mod survivors;
mod tiers;

pub use error::SearchError;
pub use fusion::{ConvexFloor, Fused, fuse, min_max};
pub use overrides::{DEFAULT_COLLECTION, FieldError, InvalidQuery, QueryOverrides, SearchDefaults};
pub use searcher::{SearchParts, Searcher};
pub use settings::{FusionSettings, RerankSettings, SearchLimits, SearchSettings};
pub use shadow::{ShadowJobs, ShadowQueue, overlap, run_shadow_searches, shadow_queue};
