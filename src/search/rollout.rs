//! One list of candidates over all generations that serve a collection.
//!
//! Only ranks enter: BM25 scores of two indexes and cosines of two embedders have different scales. Ranks compare,
//! since each generation's indexes hold all of the collection's documents that are built in it, whoever serves them.

use crate::domain::{Fusion, FusionMethod, Mode, Query};

use super::ConvexFloor;
use super::fusion::{Fused, better_first, fuse};
use super::legs::Retrieved;

/// Candidates of all generations, best first; equal scores are ordered by chunk, then by generation.
///
/// Each generation's lists are fused by reciprocal ranks with the query's `rrf_k` and weights; where only one leg was
/// asked for, the score is `1 / (rrf_k + rank)` in that leg. A generation in which a leg is missing that another one has
/// is weighed up, so that its documents do not all fall behind.
pub(super) fn merge(found: &[Retrieved], query: &Query) -> Vec<Fused> {
    let fusion = by_rank(query);
    let weight_run = |one: &Retrieved| {
        one.lexical.as_ref().map_or(0.0, |_| fusion.lexical_weight)
            + one.vector.as_ref().map_or(0.0, |_| fusion.vector_weight)
    };
    let most = found.iter().map(weight_run).fold(0.0, f64::max);
    let mut merged = Vec::new();
    for (source, one) in found.iter().enumerate() {
        let run = weight_run(one);
        let factor = if run > 0.0 { most / run } else { 1.0 };
        let fused = fuse(one.lexical(), one.vector(), &fusion, ConvexFloor::Theoretical);
        merged.extend(fused.into_iter().map(|fused| Fused { source, score: factor * fused.score, ..fused }));
    }
    merged.sort_unstable_by(|a, b| better_first(a, b).then(a.source.cmp(&b.source)));
    merged
}

// A leg that was asked for by itself counts whatever its weight beside another one would be.
fn by_rank(query: &Query) -> Fusion {
    let (lexical_weight, vector_weight) = match query.mode {
        Mode::Hybrid => (query.fusion.lexical_weight, query.fusion.vector_weight),
        Mode::Lexical | Mode::Vector => (1.0, 1.0),
    };
    Fusion { method: FusionMethod::Rrf, rrf_k: query.fusion.rrf_k, lexical_weight, vector_weight }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{ChunkId, ScoredChunk};
    use crate::search::{QueryOverrides, SearchDefaults, SearchSettings};

    fn query(mode: Mode) -> Query {
        let defaults = SearchDefaults::new(SearchSettings::default());
        let fusion_method = Some(FusionMethod::Rrf);
        let (lexical_weight, vector_weight) = (Some(1.0), Some(1.0));
        let overrides =
            QueryOverrides { mode: Some(mode), fusion_method, lexical_weight, vector_weight, ..Default::default() };
        defaults.query(Some("whale".to_owned()), overrides).unwrap()
    }

    fn list(ids: &[u8], scale: f32) -> Vec<ScoredChunk> {
        let scored = |(at, n): (usize, &u8)| ScoredChunk { id: ChunkId([*n; 16]), score: scale / (at + 1) as f32 };
        ids.iter().enumerate().map(scored).collect()
    }

    fn order(merged: &[Fused]) -> Vec<(u8, usize)> {
        merged.iter().map(|one| (one.id.0[0], one.source)).collect()
    }

    #[test]
    fn a_higher_scale_of_scores_in_one_generation_changes_nothing() {
        let one = Retrieved { lexical: Some(list(&[1, 2], 9.0)), vector: Some(list(&[2, 1], 0.5)) };
        let other = |scale| Retrieved { lexical: Some(list(&[3, 4], scale)), vector: Some(list(&[3], scale)) };

        let low = merge(&[one, other(0.1)], &query(Mode::Hybrid));
        let one = Retrieved { lexical: Some(list(&[1, 2], 9.0)), vector: Some(list(&[2, 1], 0.5)) };
        let high = merge(&[one, other(1_000.0)], &query(Mode::Hybrid));

        // 3: 1/61 + 1/61 in its own lists; 1 and 2: 1/61 + 1/62; 4: 1/62.
        assert_eq!(order(&low), [(3, 1), (1, 0), (2, 0), (4, 1)]);
        assert_eq!(order(&high), order(&low));
        assert_eq!(low[0].score, 2.0 / 61.0);
    }

    #[test]
    fn one_leg_alone_is_merged_by_its_ranks_whatever_its_weight() {
        let mut query = query(Mode::Lexical);
        query.fusion.lexical_weight = 0.0;
        let found =
            [list(&[5, 6], 30.0), list(&[7, 8], 2.0)].map(|list| Retrieved { lexical: Some(list), vector: None });

        let merged = merge(&found, &query);

        assert_eq!(order(&merged), [(5, 0), (7, 1), (6, 0), (8, 1)]);
        assert_eq!((merged[0].score, merged[2].score), (1.0 / 61.0, 1.0 / 62.0));
    }

    #[test]
    fn a_generation_that_lacks_a_leg_does_not_fall_behind_as_a_whole() {
        let both = Retrieved { lexical: Some(list(&[1, 2], 9.0)), vector: Some(list(&[1, 2], 0.5)) };
        let lexical_only = Retrieved { lexical: Some(list(&[3, 4], 9.0)), vector: None };

        assert_eq!(order(&merge(&[both, lexical_only], &query(Mode::Hybrid))), [(1, 0), (3, 1), (2, 0), (4, 1)]);
    }

    proptest! {
        #[test]
        fn two_generations_of_equal_lists_leave_the_order_of_one(
            lexical in Just((1_u8..40).collect::<Vec<_>>()).prop_shuffle(),
            vector in Just((1_u8..40).collect::<Vec<_>>()).prop_shuffle(),
            placed in proptest::collection::vec(0_usize..2, 40),
        ) {
            let query = query(Mode::Hybrid);
            let retrieved = || Retrieved { lexical: Some(list(&lexical, 9.0)), vector: Some(list(&vector, 1.0)) };
            let plain = fuse(&list(&lexical, 9.0), &list(&vector, 1.0), &query.fusion, ConvexFloor::Theoretical);

            let merged = merge(&[retrieved(), retrieved()], &query);

            prop_assert!(merged.windows(2).all(|pair| pair[0].score >= pair[1].score));
            // Each chunk is served by one of them; what the other one names falls away.
            let served = merged.iter().filter(|one| placed[usize::from(one.id.0[0])] == one.source);
            let served: Vec<_> = served.map(|one| (one.id, one.score)).collect();
            prop_assert_eq!(served, plain.iter().map(|one| (one.id, one.score)).collect::<Vec<_>>());
        }
    }
}
