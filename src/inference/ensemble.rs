//! A cross-encoder over another reranker: two opinions about the same list, each z-normalised, in a weighted mean.
//!
//! A score depends on the list, as that of the rescorer does: it orders this list and means nothing beside another.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;

use crate::domain::TenantScope;

use super::InferenceError;
use super::contract::{RerankPassage, RerankQuery, Reranker};
use super::rescorer::z_scores;

/// The two and how they are mixed.
pub struct RerankEnsemble {
    name: String,
    cross: Arc<dyn Reranker>,
    base: Arc<dyn Reranker>,
    /// Weight of the cross-encoder, from 0 to 1; the other has the rest.
    share: f32,
}

impl RerankEnsemble {
    pub(super) fn new(cross: Arc<dyn Reranker>, base: Arc<dyn Reranker>, share: f32) -> Self {
        Self { name: format!("{}+{}", cross.name(), base.name()), cross, base, share: share.clamp(0.0, 1.0) }
    }
}

#[async_trait]
impl Reranker for RerankEnsemble {
    fn name(&self) -> &str {
        &self.name
    }

    fn reads(&self, text: &str) -> bool {
        self.cross.reads(text) && self.base.reads(text)
    }

    fn expected_pace(&self) -> Option<Duration> {
        self.cross.expected_pace()
    }

    async fn rerank(
        &self,
        scope: &TenantScope,
        query: &RerankQuery,
        passages: &[RerankPassage],
        deadline: Option<Instant>,
    ) -> Result<Vec<f32>, InferenceError> {
        let (cross, base) = tokio::try_join!(
            self.cross.rerank(scope, query, passages, deadline),
            self.base.rerank(scope, query, passages, deadline)
        )?;
        Ok(mean(&cross, &base, self.share))
    }
}

/// `share · z(cross) + (1 - share) · z(base)`.
fn mean(cross: &[f32], base: &[f32], share: f32) -> Vec<f32> {
    let z = |scores: &[f32]| z_scores(&scores.iter().copied().map(Some).collect::<Vec<_>>());
    z(cross).into_iter().zip(z(base)).map(|(cross, base)| share * cross + (1.0 - share) * base).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_opinions_by_hand() {
        // Mean 4, deviation 2; mean 3, deviation 1.
        assert_eq!(mean(&[2.0, 6.0], &[4.0, 2.0], 0.75), [-0.5, 0.5]);
        assert_eq!(mean(&[2.0, 6.0], &[4.0, 2.0], 0.0), [1.0, -1.0]);
        assert_eq!(mean(&[], &[], 0.5), [0.0; 0]);
    }
}
