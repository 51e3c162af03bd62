//! The best chunks seen so far, ties by chunk id.

use std::cmp::Ordering;

use crate::domain::ScoredChunk;

/// Keeps the best `depth` of all that are offered.
pub(super) struct TopChunks {
    depth: usize,
    /// Unordered; at most twice the depth.
    kept: Vec<ScoredChunk>,
    /// What a chunk must reach to have a place; equal is enough, as its id may go before.
    threshold: f32,
}

impl TopChunks {
    pub(super) fn new(depth: usize) -> Self {
        let threshold = if depth == 0 { f32::INFINITY } else { f32::MIN_POSITIVE };
        Self { depth, kept: Vec::new(), threshold }
    }

    /// Scores below this need not be offered; always above 0.
    pub(super) fn threshold(&self) -> f32 {
        self.threshold
    }

    pub(super) fn offer(&mut self, chunk: ScoredChunk) {
        if chunk.score < self.threshold {
            return;
        }
        self.kept.push(chunk);
        if self.kept.len() >= self.depth.saturating_mul(2) {
            self.cut();
        }
    }

    /// Best first.
    pub(super) fn into_best(mut self) -> Vec<ScoredChunk> {
        self.kept.sort_unstable_by(best_first);
        self.kept.truncate(self.depth);
        self.kept
    }

    fn cut(&mut self) {
        if self.kept.len() > self.depth && self.depth > 0 {
            let (_, worst, _) = self.kept.select_nth_unstable_by(self.depth - 1, best_first);
            self.threshold = worst.score;
            self.kept.truncate(self.depth);
        }
    }
}

fn best_first(a: &ScoredChunk, b: &ScoredChunk) -> Ordering {
    b.score.total_cmp(&a.score).then(a.id.cmp(&b.id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ChunkId;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_best_are_kept_and_ties_go_by_id(
            scores in proptest::collection::vec((1_u8..5, any::<u16>()), 0..200),
            depth in 0_usize..20,
        ) {
            let mut all: Vec<_> = scores
                .into_iter()
                .map(|(score, id)| {
                    let mut bytes = [0; 16];
                    bytes[..2].copy_from_slice(&id.to_be_bytes());
                    ScoredChunk { id: ChunkId(bytes), score: f32::from(score) }
                })
                .collect();
            let mut top = TopChunks::new(depth);

            all.iter().for_each(|chunk| top.offer(*chunk));

            all.sort_by(best_first);
            all.truncate(depth);
            prop_assert_eq!(top.into_best(), all);
        }
    }
}
