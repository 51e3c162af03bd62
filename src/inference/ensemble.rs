//! A cross-encoder over another reranker: two opinions about the same list, each z-normalised, in a weighted mean.
//!
//! The cheap one is asked first, about all. The cross-encoder then reads in the order of its scores and stops where
//! the rest can hardly change the places that count (what the cascade of Wang, Lin and Metzler, SIGIR 2011, decides
//! by stage is decided by passage here). A score depends on the list, as that of the rescorer does: it orders this
//! list and means nothing beside another.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;

use crate::domain::TenantScope;

use super::InferenceError;
use super::contract::{RerankPassage, RerankQuery, Reranker};
use super::languages::PassageSample;
use super::rescorer::{mean_and_deviation, z_scores};

/// Passages that the cross-encoder reads between two looks at whether the rest matters.
const A_FEW: usize = 4;

/// The two and how they are mixed.
pub struct RerankEnsemble {
    name: String,
    cross: Arc<dyn Reranker>,
    base: Arc<dyn Reranker>,
    mixing: Mixing,
}

/// How much the cross-encoder reads and counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mixing {
    /// Weight of the cross-encoder, from 0 to 1; the other has the rest.
    pub share: f32,
    /// Places of the list that it has to get right.
    pub places: usize,
    /// Most passages of a list that it reads.
    pub most: usize,
}

impl RerankEnsemble {
    pub(super) fn new(cross: Arc<dyn Reranker>, base: Arc<dyn Reranker>, mixing: Mixing) -> Self {
        Self { name: format!("{}+{}", cross.name(), base.name()), cross, base, mixing }
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

    fn judges(&self, passages: &PassageSample) -> bool {
        self.cross.judges(passages) && self.base.judges(passages)
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
        let base = self.base.rerank(scope, query, passages, deadline).await?;
        let mut list = List::new(&base, Mixing { places: self.mixing.places.min(query.shown), ..self.mixing });
        while let Some(next) = list.next() {
            let texts: Vec<RerankPassage> = next.iter().map(|at| without_embedding(&passages[*at])).collect();
            list.take(&self.cross.rerank(scope, query, &texts, deadline).await?);
        }
        Ok(list.mixed())
    }
}

fn without_embedding(passage: &RerankPassage) -> RerankPassage {
    RerankPassage { id: passage.id, text: passage.text.clone(), embedding: None }
}

/// A list under way: the opinion of the base about all, that of the cross-encoder about the first in its order.
struct List {
    mixing: Mixing,
    base: Vec<f32>,
    /// Places in the list, best by the base first.
    order: Vec<usize>,
    /// Scores of the first in `order`.
    cross: Vec<f32>,
    /// How many of `cross` came last.
    newest: usize,
}

impl List {
    fn new(base: &[f32], mixing: Mixing) -> Self {
        let base = z(base);
        let mut order: Vec<usize> = (0..base.len()).collect();
        order.sort_by(|&a, &b| base[b].total_cmp(&base[a]));
        Self { mixing, base, order, cross: Vec::new(), newest: 0 }
    }

    /// What the cross-encoder has to read next; `None` once the rest can hardly matter.
    fn next(&self) -> Option<&[usize]> {
        let read = self.cross.len();
        let unread = &self.order[read..self.order.len().min(self.mixing.most.max(read))];
        let few = if read == 0 { self.mixing.places.max(A_FEW) } else { A_FEW };
        let next = &unread[..unread.len().min(few)];
        let is_worth_it = !next.is_empty() && (read == 0 || self.could_enter(next[0]));
        is_worth_it.then_some(next)
    }

    fn take(&mut self, scores: &[f32]) {
        self.cross.extend_from_slice(scores);
        self.newest = scores.len();
    }

    /// True if a passage would come among the places that count, were it liked as much as the best of those that
    /// were read last.
    fn could_enter(&self, at: usize) -> bool {
        let cross = self.cross_on_scale_of_base();
        let liked = cross[cross.len() - self.newest..].iter().copied().fold(f32::MIN, f32::max);
        let mut mixed: Vec<f32> = cross.iter().zip(&self.order).map(|(cross, at)| self.mix(*cross, *at)).collect();
        mixed.sort_by(|a, b| b.total_cmp(a));
        let last = mixed[self.mixing.places.clamp(1, mixed.len()) - 1];
        self.mix(liked, at) > last
    }

    fn mix(&self, cross: f32, at: usize) -> f32 {
        self.mixing.share * cross + (1.0 - self.mixing.share) * self.base[at]
    }

    /// The cross-encoder's scores with mean and deviation of the base's of the same passages.
    fn cross_on_scale_of_base(&self) -> Vec<f32> {
        let base = self.order.iter().take(self.cross.len()).map(|at| self.base[*at]);
        let (mean, deviation) = mean_and_deviation(base);
        z(&self.cross).into_iter().map(|cross| (mean + deviation * f64::from(cross)) as f32).collect()
    }

    /// The score of each passage; where the cross-encoder has none, the base's opinion stands for its own.
    fn mixed(&self) -> Vec<f32> {
        let mut mixed = self.base.clone();
        for (cross, at) in self.cross_on_scale_of_base().into_iter().zip(&self.order) {
            mixed[*at] = self.mix(cross, *at);
        }
        mixed
    }
}

fn z(scores: &[f32]) -> Vec<f32> {
    z_scores(&scores.iter().copied().map(Some).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: Mixing = Mixing { share: 0.5, places: usize::MAX, most: usize::MAX };

    /// Reads the list to its end; how much was read, and the mixed scores.
    fn read(cross: &[f32], base: &[f32], mixing: Mixing) -> (usize, Vec<f32>) {
        let mut list = List::new(base, mixing);
        while let Some(next) = list.next() {
            let scores: Vec<f32> = next.iter().map(|at| cross[*at]).collect();
            list.take(&scores);
        }
        (list.cross.len(), list.mixed())
    }

    #[test]
    fn two_opinions_by_hand() {
        // Mean 4, deviation 2; mean 3, deviation 1.
        let mixed = |share| read(&[2.0, 6.0], &[4.0, 2.0], Mixing { share, ..ALL }).1;

        assert_eq!(mixed(0.75), [-0.5, 0.5]);
        assert_eq!(mixed(0.0), [1.0, -1.0]);
        assert_eq!(read(&[], &[], ALL), (0, vec![]));
    }

    #[test]
    fn what_cannot_come_among_the_places_that_count_is_not_read() {
        let base: Vec<f32> = (0..20).map(|at| 20.0 - at as f32).collect();
        let agreeing = base.clone();
        let mixing = Mixing { places: 2, ..ALL };

        assert_eq!(read(&agreeing, &base, mixing).0, 4);
        assert_eq!(read(&agreeing, &base, ALL).0, 20);
        assert_eq!(read(&agreeing, &base, Mixing { most: 6, ..ALL }).0, 6);

        // The later, the better: each few gives a reason to read on.
        let contrary: Vec<f32> = base.iter().map(|score| -score).collect();
        let eager = Mixing { share: 0.9, ..mixing };
        assert_eq!(read(&contrary, &base, eager).0, 20);
    }

    #[test]
    fn those_that_were_read_are_measured_on_the_base_and_the_others_keep_its_opinion() {
        let base = [6.0, 4.0, 2.0, 0.0, -2.0];
        let (count, mixed) = read(&[0.0, 1.0, 0.0, 1.0, 9.0], &base, Mixing { share: 1.0, places: 4, most: 4 });

        // z(base) is the distance from 2 in root 8; of the first four the mean is 3 and the deviation root 5.
        let expected = [3.0 - 5.0_f32.sqrt(), 3.0 + 5.0_f32.sqrt()].map(|score| (score - 2.0) / 8.0_f32.sqrt());
        assert_eq!(count, 4);
        for (at, score) in [(0, expected[0]), (1, expected[1]), (2, expected[0]), (3, expected[1])] {
            assert!((mixed[at] - score).abs() < 1e-5, "{mixed:?}");
        }
        assert!((mixed[4] - -4.0 / 8.0_f32.sqrt()).abs() < 1e-5);
    }

    proptest! {
        #[test]
        fn every_passage_has_a_score_and_no_more_are_read_than_allowed(
            scores in prop::collection::vec((-9i8..9, -9i8..9), 0..30), places in 0usize..12, most in 0usize..40,
        ) {
            let (cross, base): (Vec<f32>, Vec<f32>) =
                scores.iter().map(|(cross, base)| (f32::from(*cross), f32::from(*base))).unzip();
            let (count, mixed) = read(&cross, &base, Mixing { share: 0.3, places, most });

            prop_assert_eq!(mixed.len(), scores.len());
            prop_assert!(mixed.iter().all(|score| score.is_finite()));
            prop_assert!(count <= most.min(scores.len()));
            prop_assert!(count >= most.min(scores.len()).min(places));
        }
    }
}
