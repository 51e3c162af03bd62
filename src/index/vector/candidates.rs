//! Which rows deserve a second look, and that look.
//!
//! A candidate's true cosine lies within `estimate ± bound`. A row whose upper end is below the `wanted`-th best lower
//! end cannot be among the best `wanted`; everything else is kept and scored from its f16 vector.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use crate::domain::{ChunkId, ScoredChunk};
use crate::index::IndexError;

use super::kernel;
use super::part::Part;
use super::quantize::Query;

/// Candidates kept before those that have fallen behind are thrown out.
const FIRST_SWEEP: usize = 1_024;

/// A row with what its codes say about its cosine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    pub estimate: f32,
    pub bound: f32,
    /// Index of the part in the snapshot.
    pub part: u32,
    pub ordinal: u32,
}

impl Candidate {
    fn upper(&self) -> f32 {
        self.estimate + self.bound
    }

    fn lower(&self) -> f32 {
        self.estimate - self.bound
    }
}

/// A float with a total order.
#[derive(Debug, Clone, Copy)]
struct Ordered(f32);

impl PartialEq for Ordered {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Ordered {}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// What a search has gathered so far.
#[derive(Debug)]
pub(super) struct Candidates {
    wanted: usize,
    /// The best `wanted` lower ends, worst on top.
    lowers: BinaryHeap<Reverse<Ordered>>,
    kept: Vec<Candidate>,
    sweep_at: usize,
}

impl Candidates {
    pub(super) fn new(wanted: usize) -> Self {
        Self { wanted, lowers: BinaryHeap::new(), kept: Vec::new(), sweep_at: FIRST_SWEEP }
    }

    /// An empty one that wants as many.
    pub(super) fn fork(&self) -> Self {
        Self::new(self.wanted)
    }

    /// An upper end below this is of no use any more.
    pub(super) fn floor(&self) -> f32 {
        match self.lowers.peek() {
            Some(Reverse(worst)) if self.lowers.len() >= self.wanted => worst.0,
            _ => f32::NEG_INFINITY,
        }
    }

    /// Takes a candidate; each row at most once.
    pub(super) fn push(&mut self, candidate: Candidate) {
        let floor = self.floor();
        if candidate.upper() < floor || self.wanted == 0 {
            return;
        }
        if candidate.lower() > floor {
            if self.lowers.len() >= self.wanted {
                self.lowers.pop();
            }
            self.lowers.push(Reverse(Ordered(candidate.lower())));
        }
        self.kept.push(candidate);
        if self.kept.len() >= self.sweep_at {
            let floor = self.floor();
            self.kept.retain(|candidate| candidate.upper() >= floor);
            self.sweep_at = FIRST_SWEEP.max(2 * self.kept.len());
        }
    }

    /// Takes all of another's.
    pub(super) fn absorb(&mut self, other: Self) {
        other.kept.into_iter().for_each(|candidate| self.push(candidate));
    }

    /// Scores what may be among the best and returns these, best first, ties by id.
    pub(super) fn rescore(mut self, query: &Query, parts: &[Part]) -> Result<Vec<ScoredChunk>, IndexError> {
        self.kept.sort_unstable_by(|a, b| b.upper().total_cmp(&a.upper()));
        let mut best = Best::new(self.wanted);
        let mut buffer = Vec::new();
        for candidate in &self.kept {
            if best.worst().is_some_and(|worst| candidate.upper() < worst) {
                break;
            }
            let image = &parts[candidate.part as usize].image;
            let score = kernel::cosine(&query.unit, image.vector(candidate.ordinal, &mut buffer)?);
            best.push(ScoredChunk { id: image.id(candidate.ordinal), score });
        }
        Ok(best.into_sorted())
    }
}

/// The best of what is pushed: by score, ties by id.
#[derive(Debug)]
pub(super) struct Best {
    wanted: usize,
    heap: BinaryHeap<(Reverse<Ordered>, ChunkId)>,
}

impl Best {
    pub(super) fn new(wanted: usize) -> Self {
        Self { wanted, heap: BinaryHeap::new() }
    }

    /// The score to beat once there are enough.
    fn worst(&self) -> Option<f32> {
        if self.heap.len() < self.wanted { None } else { self.heap.peek().map(|(Reverse(score), _)| score.0) }
    }

    pub(super) fn push(&mut self, hit: ScoredChunk) {
        self.heap.push((Reverse(Ordered(hit.score)), hit.id));
        if self.heap.len() > self.wanted {
            self.heap.pop();
        }
    }

    pub(super) fn into_sorted(self) -> Vec<ScoredChunk> {
        let sorted = self.heap.into_sorted_vec();
        sorted.into_iter().map(|(Reverse(score), id)| ScoredChunk { id, score: score.0 }).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_that_could_be_among_the_best_is_dropped(
            rows in proptest::collection::vec((-1.0_f32..1.0, 0.0_f32..0.3), 0..3_000),
            wanted in 0_usize..40,
            split in 0_usize..3_000,
        ) {
            let candidate = |(ordinal, &(estimate, bound)): (usize, &(f32, f32))| {
                Candidate { estimate, bound, part: 0, ordinal: ordinal as u32 }
            };
            let all: Vec<Candidate> = rows.iter().enumerate().map(candidate).collect();
            let (left, right) = all.split_at(split.min(all.len()));
            let mut candidates = Candidates::new(wanted);
            let mut other = Candidates::new(wanted);
            left.iter().for_each(|&candidate| candidates.push(candidate));
            right.iter().for_each(|&candidate| other.push(candidate));
            candidates.absorb(other);

            let mut lowers: Vec<f32> = all.iter().map(Candidate::lower).collect();
            lowers.sort_unstable_by(|a, b| b.total_cmp(a));
            let floor = match wanted {
                0 => f32::INFINITY,
                n => lowers.get(n - 1).copied().unwrap_or(f32::NEG_INFINITY),
            };
            for candidate in all.iter().filter(|candidate| candidate.upper() >= floor) {
                prop_assert!(candidates.kept.contains(candidate));
            }
        }
    }

    #[test]
    fn equal_scores_are_ordered_by_id_and_cut_by_it() {
        let mut best = Best::new(3);
        for (id, score) in [(9, 0.5), (3, 0.5), (5, 0.9), (1, 0.1), (4, 0.5)] {
            best.push(ScoredChunk { id: ChunkId([id; 16]), score });
        }

        let order: Vec<u8> = best.into_sorted().iter().map(|hit| hit.id.0[0]).collect();
        assert_eq!(order, [5, 3, 4]);
    }
}
