//! A collection and the generations that serve it.

use serde::{Deserialize, Serialize};

use super::{CollectionName, GenerationId, Profile, Timestamp};

/// A life stage of a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GenerationState {
    Building,
    Shadow,
    Live,
    Retired,
}

/// One build of a profile for a collection. Each document is served from exactly one generation at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    pub id: GenerationId,
    pub profile: Profile,
    pub state: GenerationState,
    pub created_at: Timestamp,
}

/// A named set of documents of one tenant.
#[derive(Debug, Clone, PartialEq)]
pub struct Collection {
    pub name: CollectionName,
    /// The generation that takes writes.
    pub live: Generation,
    /// Others that documents are served from, during a rollout; empty at other times.
    pub also_serving: Vec<Generation>,
    /// The one in shadow with the share of searches that it wants to be asked too, if it wants any.
    pub shadow: Option<(Generation, f64)>,
    pub created_at: Timestamp,
}
