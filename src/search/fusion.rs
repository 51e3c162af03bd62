//! Fusion of the two legs' lists into one: pure functions, nothing else.
//!
//! Two ways: reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009), where only ranks enter, and the
//! convex combination of normalized scores (Bruch, Gai and Ingber, TOIS 2023). BM25 scores and cosines have
//! different scales and must never be added as they are.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::domain::{ChunkId, Fusion, FusionMethod, ScoredChunk, StageScore};

/// The lowest BM25 score there is: a chunk that matches nothing.
const LEXICAL_MINIMUM: f64 = 0.0;
/// The lowest cosine there is.
const VECTOR_MINIMUM: f64 = -1.0;

/// What counts as 0 when a list's scores are normalized; the list's highest score counts as 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConvexFloor {
    /// The lowest score there can be (0 for BM25, -1 for a cosine): "TMM" in Bruch et al., section 4.
    Theoretical,
    /// The lowest score in the list: min-max normalization.
    Observed,
    /// 0 for BM25, the lowest score in the list for cosines: no chunk matches less than nothing, while cosines of
    /// one model crowd together far above their theoretical minimum.
    LexicalZero,
}

/// A candidate with its place in each list; absent means "not retrieved there".
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fused {
    pub id: ChunkId,
    pub score: f64,
    pub lexical: Option<StageScore>,
    pub vector: Option<StageScore>,
    /// Which of the generations that were searched it comes from, counted from 0; equal ids of two generations are two
    /// candidates.
    pub source: usize,
}

#[derive(Clone, Copy)]
enum Leg {
    Lexical,
    Vector,
}

/// One chunk's share from one list.
struct Share {
    id: ChunkId,
    leg: Leg,
    place: StageScore,
    share: f64,
}

/// Fuses two best-first lists into one, best first; equal scores are ordered by [`ChunkId`].
///
/// RRF: a chunk scores the sum over lists of `weight / (rrf_k + rank)`, rank from 1. Convex: the sum over lists of
/// `weight / sum of weights * normalized score`. Either way a list that does not name the chunk adds 0, which is
/// the lower end. Each list must name a chunk at most once, with finite scores.
pub fn fuse(lexical: &[ScoredChunk], vector: &[ScoredChunk], fusion: &Fusion, floor: ConvexFloor) -> Vec<Fused> {
    let mut shares = Vec::with_capacity(lexical.len() + vector.len());
    match fusion.method {
        FusionMethod::Rrf => {
            let rrf_k = f64::from(fusion.rrf_k);
            let share = |weight: f64| move |place: StageScore| weight / (rrf_k + place.rank as f64);
            push_shares(&mut shares, Leg::Lexical, lexical, share(fusion.lexical_weight));
            push_shares(&mut shares, Leg::Vector, vector, share(fusion.vector_weight));
        }
        FusionMethod::Convex => {
            let total = fusion.lexical_weight + fusion.vector_weight;
            let share = |list, leg, weight: f64| {
                let scale = Scale::of(list, leg, floor);
                move |place: StageScore| weight / total * scale.normalize(place.score)
            };
            push_shares(&mut shares, Leg::Lexical, lexical, share(lexical, Leg::Lexical, fusion.lexical_weight));
            push_shares(&mut shares, Leg::Vector, vector, share(vector, Leg::Vector, fusion.vector_weight));
        }
    }
    sum_by_chunk(shares)
}

/// One leg's list as the result of a search in which no other leg takes part: its scores stay as they are.
pub fn single(lexical: &[ScoredChunk], vector: &[ScoredChunk]) -> Vec<Fused> {
    debug_assert!(lexical.is_empty() || vector.is_empty(), "two lists need a fusion");
    let mut shares = Vec::with_capacity(lexical.len() + vector.len());
    push_shares(&mut shares, Leg::Lexical, lexical, |place| place.score);
    push_shares(&mut shares, Leg::Vector, vector, |place| place.score);
    sum_by_chunk(shares)
}

/// Maps values onto 0 to 1 by their lowest and highest; all equal gives 1 for each, since none is worse.
pub fn min_max(values: &[f64]) -> Vec<f64> {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let scale = Scale { low, high };
    values.iter().map(|value| scale.normalize(*value)).collect()
}

fn push_shares(shares: &mut Vec<Share>, leg: Leg, list: &[ScoredChunk], share: impl Fn(StageScore) -> f64) {
    for (index, chunk) in list.iter().enumerate() {
        debug_assert!(chunk.score.is_finite(), "an index returned a score that is not finite");
        let place = StageScore { rank: index + 1, score: f64::from(chunk.score) };
        shares.push(Share { id: chunk.id, leg, place, share: share(place) });
    }
}

// Sorting 200 shares takes some ten microseconds, less than hashing them, and gives the order by id for free.
fn sum_by_chunk(mut shares: Vec<Share>) -> Vec<Fused> {
    shares.sort_unstable_by(|a, b| a.id.cmp(&b.id).then(a.place.rank.cmp(&b.place.rank)));
    let mut fused: Vec<Fused> = Vec::with_capacity(shares.len());
    for share in shares {
        if fused.last().is_none_or(|last| last.id != share.id) {
            fused.push(Fused { id: share.id, score: 0.0, lexical: None, vector: None, source: 0 });
        }
        let last = fused.last_mut().expect("an entry was pushed if there was none");
        last.score += share.share;
        match share.leg {
            Leg::Lexical => last.lexical = Some(share.place),
            Leg::Vector => last.vector = Some(share.place),
        }
    }
    fused.sort_unstable_by(better_first);
    fused
}

/// The order of candidates: by score, ties by id.
pub(super) fn better_first(a: &Fused, b: &Fused) -> Ordering {
    b.score.total_cmp(&a.score).then(a.id.cmp(&b.id))
}

/// A range of scores that is mapped onto 0 to 1.
#[derive(Clone, Copy)]
struct Scale {
    low: f64,
    high: f64,
}

impl Scale {
    fn of(list: &[ScoredChunk], leg: Leg, floor: ConvexFloor) -> Self {
        let minimum = match leg {
            Leg::Lexical => LEXICAL_MINIMUM,
            Leg::Vector => VECTOR_MINIMUM,
        };
        let first = list.first().map_or(minimum, |chunk| f64::from(chunk.score));
        let last = list.last().map_or(minimum, |chunk| f64::from(chunk.score));
        let low = match (floor, leg) {
            (ConvexFloor::Theoretical, _) | (ConvexFloor::LexicalZero, Leg::Lexical) => minimum,
            (ConvexFloor::Observed, _) | (ConvexFloor::LexicalZero, Leg::Vector) => last,
        };
        Self { low, high: first }
    }

    fn normalize(self, score: f64) -> f64 {
        let width = self.high - self.low;
        if width > 0.0 { (score - self.low) / width } else { 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(n: u8) -> ChunkId {
        ChunkId([n; 16])
    }

    fn list(scores: &[(u8, f32)]) -> Vec<ScoredChunk> {
        scores.iter().map(|&(n, score)| ScoredChunk { id: id(n), score }).collect()
    }

    fn rrf() -> Fusion {
        Fusion { method: FusionMethod::Rrf, rrf_k: 60, lexical_weight: 1.0, vector_weight: 1.0 }
    }

    fn convex(lexical_weight: f64, vector_weight: f64) -> Fusion {
        Fusion { method: FusionMethod::Convex, rrf_k: 60, lexical_weight, vector_weight }
    }

    fn scores(fused: &[Fused]) -> Vec<(u8, f64)> {
        fused.iter().map(|one| (one.id.0[0], (one.score * 1e9).round() / 1e9)).collect()
    }

    #[test]
    fn reciprocal_ranks_add_up_as_worked_by_hand() {
        let lexical = list(&[(1, 9.0), (2, 5.0)]);
        let vector = list(&[(2, 0.9), (3, 0.2)]);

        let fused = fuse(&lexical, &vector, &rrf(), ConvexFloor::Theoretical);

        // 2: 1/62 + 1/61, 1: 1/61, 3: 1/62.
        assert_eq!(scores(&fused), [(2, 0.032522475), (1, 0.016393443), (3, 0.016129032)]);
        assert_eq!(fused[0].lexical, Some(StageScore { rank: 2, score: 5.0 }));
        assert_eq!(fused[0].vector.map(|place| place.rank), Some(1));
        assert_eq!(fused[1].vector, None);
    }

    #[test]
    fn a_convex_combination_adds_up_as_worked_by_hand() {
        let lexical = list(&[(1, 8.0), (2, 4.0)]);
        let vector = list(&[(2, 0.5), (3, 0.25)]);

        let theoretical = fuse(&lexical, &vector, &convex(1.0, 3.0), ConvexFloor::Theoretical);
        let observed = fuse(&lexical, &vector, &convex(1.0, 3.0), ConvexFloor::Observed);

        // Theoretical: 2: 1/4 * 4/8 + 3/4 * 1.5/1.5, 3: 3/4 * 1.25/1.5, 1: 1/4 * 8/8.
        assert_eq!(scores(&theoretical), [(2, 0.875), (3, 0.625), (1, 0.25)]);
        // Observed: 2: 1/4 * 0 + 3/4 * 1, 1: 1/4 * 1, 3: 3/4 * 0.
        assert_eq!(scores(&observed), [(2, 0.75), (1, 0.25), (3, 0.0)]);
    }

    #[test]
    fn a_list_of_one_score_counts_as_its_best() {
        let lexical = list(&[(1, 3.0), (2, 3.0)]);

        let fused = fuse(&lexical, &[], &convex(1.0, 1.0), ConvexFloor::Observed);

        assert_eq!(scores(&fused), [(1, 0.5), (2, 0.5)]);
    }

    #[test]
    fn equal_scores_are_ordered_by_chunk_id() {
        let fused = fuse(&list(&[(9, 1.0)]), &list(&[(4, 1.0)]), &rrf(), ConvexFloor::Theoretical);

        assert_eq!(fused.iter().map(|one| one.id).collect::<Vec<_>>(), [id(4), id(9)]);
    }

    #[test]
    fn a_single_leg_keeps_its_order_and_its_scores() {
        let vector = list(&[(3, 0.9), (1, 0.5), (2, 0.5)]);

        assert_eq!(scores(&single(&[], &vector)), [(3, 0.899999976), (1, 0.5), (2, 0.5)]);
    }

    #[test]
    fn min_max_spans_zero_to_one() {
        assert_eq!(min_max(&[2.0, 6.0, 4.0]), [0.0, 1.0, 0.5]);
        assert_eq!(min_max(&[5.0, 5.0]), [1.0, 1.0]);
        assert!(min_max(&[]).is_empty());
    }

    fn any_list() -> impl Strategy<Value = Vec<ScoredChunk>> {
        proptest::collection::btree_map(0u8..60, 0.0f32..30.0, 0..40).prop_map(|scores| {
            let mut list = list(&scores.into_iter().collect::<Vec<_>>());
            list.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.id.cmp(&b.id)));
            list
        })
    }

    fn any_fusion() -> impl Strategy<Value = Fusion> {
        let method = prop_oneof![Just(FusionMethod::Rrf), Just(FusionMethod::Convex)];
        (method, 1u32..200, 0.01f64..10.0, 0.01f64..10.0).prop_map(|(method, rrf_k, lexical_weight, vector_weight)| {
            Fusion { method, rrf_k, lexical_weight, vector_weight }
        })
    }

    fn any_floor() -> impl Strategy<Value = ConvexFloor> {
        prop_oneof![Just(ConvexFloor::Theoretical), Just(ConvexFloor::Observed)]
    }

    proptest! {
        #[test]
        fn every_candidate_comes_out_once_in_order(
            lexical in any_list(), vector in any_list(), fusion in any_fusion(), floor in any_floor(),
        ) {
            let fused = fuse(&lexical, &vector, &fusion, floor);

            let mut expected: Vec<ChunkId> = lexical.iter().chain(&vector).map(|chunk| chunk.id).collect();
            expected.sort();
            expected.dedup();
            let mut found: Vec<ChunkId> = fused.iter().map(|one| one.id).collect();
            prop_assert!(fused.windows(2).all(|pair| better_first(&pair[0], &pair[1]) == Ordering::Less));
            prop_assert!(fused.iter().all(|one| one.lexical.is_some() || one.vector.is_some()));
            found.sort();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn swapping_legs_and_weights_changes_nothing_under_rrf(
            lexical in any_list(), vector in any_list(), fusion in any_fusion(),
        ) {
            let fusion = Fusion { method: FusionMethod::Rrf, ..fusion };
            let swapped = Fusion {
                lexical_weight: fusion.vector_weight, vector_weight: fusion.lexical_weight, ..fusion
            };

            let order = |fused: Vec<Fused>| fused.into_iter().map(|one| one.id).collect::<Vec<_>>();
            prop_assert_eq!(
                order(fuse(&lexical, &vector, &fusion, ConvexFloor::Theoretical)),
                order(fuse(&vector, &lexical, &swapped, ConvexFloor::Theoretical))
            );
        }

        #[test]
        fn being_ahead_in_both_legs_is_being_ahead(
            lexical in any_list(), vector in any_list(), fusion in any_fusion(), floor in any_floor(),
        ) {
            let fused = fuse(&lexical, &vector, &fusion, floor);

            let rank = |place: Option<StageScore>| place.map_or(usize::MAX, |place| place.rank);
            for a in &fused {
                for b in &fused {
                    if rank(a.lexical) <= rank(b.lexical) && rank(a.vector) <= rank(b.vector) {
                        prop_assert!(a.score >= b.score);
                    }
                }
            }
        }

        #[test]
        fn scaling_both_weights_keeps_the_convex_scores(
            lexical in any_list(), vector in any_list(), fusion in any_fusion(), floor in any_floor(),
        ) {
            let fusion = Fusion { method: FusionMethod::Convex, ..fusion };
            let doubled = Fusion {
                lexical_weight: 2.0 * fusion.lexical_weight, vector_weight: 2.0 * fusion.vector_weight, ..fusion
            };

            let fused = fuse(&lexical, &vector, &fusion, floor);
            let scaled = fuse(&lexical, &vector, &doubled, floor);

            prop_assert!(fused.iter().all(|one| (0.0..=1.0 + 1e-9).contains(&one.score)));
            for (a, b) in fused.iter().zip(&scaled) {
                prop_assert!((a.score - b.score).abs() < 1e-12);
            }
        }
    }
}
