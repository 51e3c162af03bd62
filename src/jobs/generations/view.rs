//! A generation as it is told: how far it has come, and how long the rest takes.

use std::time::Duration;

use crate::domain::{GenerationState, GenerationStatus};
use crate::ingest::Tender;

/// A generation's status with what follows from it.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationView {
    pub status: GenerationStatus,
    /// Documents that its plan wants built and that are not; of a sample about so many.
    pub to_build: u64,
    /// How long building them takes at the rate of the last minutes; `None` while nothing is built.
    pub eta: Option<Duration>,
}

impl GenerationView {
    pub(super) fn of(status: GenerationStatus, tender: &Tender) -> Self {
        let to_build = to_build(&status);
        let is_built = status.generation.state != GenerationState::Retired;
        let eta = is_built.then(|| tender.eta(status.generation.id, to_build)).flatten();
        Self { status, to_build, eta }
    }
}

/// How many documents a generation lacks by its plan.
pub(super) fn to_build(status: &GenerationStatus) -> u64 {
    if status.generation.state == GenerationState::Retired {
        return 0;
    }
    target(status).saturating_sub(status.counts.built)
}

/// How many documents a generation holds once its sample is whole; about so many, since the sample is drawn by lot.
pub fn target(status: &GenerationStatus) -> u64 {
    (status.counts.documents as f64 * status.plan.sample.clamp(0.0, 1.0)).round() as u64
}
