//! What becomes of a generation: how much of it is built, whom it serves, and by what it may take over.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{CollectionName, DocumentId, Generation, GenerationId, TaskId, Timestamp};

/// Who is served from a generation before it is promoted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rollout {
    /// Share of the documents, 0 to 1, by lot; see [`lot`].
    pub share: f64,
    /// Only documents that pass, as [`super::Filter::parse`] reads it; `None`: all.
    pub filter: Option<Value>,
}

impl Default for Rollout {
    fn default() -> Self {
        Self { share: 0.0, filter: None }
    }
}

/// Who decides that a generation takes over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Promotion {
    #[default]
    Manual,
    /// Promoted once the interval of its gain in nDCG@10 lies above zero; retired once it lies below.
    Automatic,
}

/// What is meant to become of a generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GenerationPlan {
    /// Share of the documents that are built, 0 to 1, by lot. One that is not whole can be judged, not promoted.
    pub sample: f64,
    pub rollout: Rollout,
    /// Share of live searches that are also put to it while it is in shadow, 0 to 1.
    pub shadow_share: f64,
    pub promotion: Promotion,
    /// When a generation that was replaced is removed; until then it can be gone back to.
    pub retire_at: Option<Timestamp>,
}

impl Default for GenerationPlan {
    fn default() -> Self {
        let rollout = Rollout::default();
        Self { sample: 1.0, rollout, shadow_share: 0.0, promotion: Promotion::Manual, retire_at: None }
    }
}

/// A generation with how far it has come.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationStatus {
    pub generation: Generation,
    pub collection: CollectionName,
    pub plan: GenerationPlan,
    pub counts: GenerationCounts,
    /// When it entered its state.
    pub changed_at: Timestamp,
    /// The one that it replaced and that can be gone back to.
    pub previous: Option<GenerationId>,
    /// What builds it.
    pub task: Option<TaskId>,
    /// When all that belonged to it was found gone.
    pub removed_at: Option<Timestamp>,
}

/// How much of a collection a generation holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GenerationCounts {
    /// Documents of the collection.
    pub documents: u64,
    /// Those of them that it holds, serving or standing ready.
    pub built: u64,
    /// Those of them that are served from it.
    pub serving: u64,
    pub chunks: u64,
    pub vectors: u64,
}

/// How a document stands in a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Not there, or not as it is now.
    Absent,
    /// There, and served from another one.
    Standby,
    Serving,
}

/// The lot of a document in a generation, from 0 to below 1: the same each time, and another one in each generation.
pub fn lot(generation: GenerationId, document: &DocumentId) -> f64 {
    let hash = u128::from_le_bytes(super::hash_parts(&[b"lot", &generation.0, document.as_str().as_bytes()]));
    // The upper 53 bits: as many as an f64 tells apart.
    (hash >> 75) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lots_are_even_and_differ_by_generation() {
        let documents: Vec<DocumentId> = (0..4_000).map(|n| DocumentId::new(&format!("d{n}")).unwrap()).collect();
        let share = |generation| documents.iter().filter(|id| lot(GenerationId(generation), id) < 0.25).count();

        assert!((900..1_100).contains(&share([1; 16])), "{}", share([1; 16]));
        assert_ne!(lot(GenerationId([1; 16]), &documents[0]), lot(GenerationId([2; 16]), &documents[0]));
    }

    #[test]
    fn a_plan_that_says_nothing_is_whole_silent_and_manual() {
        let plan: GenerationPlan = serde_json::from_str("{}").unwrap();

        assert_eq!(plan, GenerationPlan::default());
        assert_eq!((plan.sample, plan.rollout.share, plan.shadow_share), (1.0, 0.0, 0.0));
    }
}
