//! Clustered vectors from a fixed seed: embeddings lie in clumps, and uniform noise is no test of a graph.

use half::f16;

use crate::domain::{ChunkId, hash_parts};

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// Near enough to normal: a sum of four uniform numbers.
    fn normal(&mut self) -> f32 {
        let mut uniform = || (self.next() >> 40) as f32 / (1 << 24) as f32 - 0.5;
        (uniform() + uniform() + uniform() + uniform()) * 1.732
    }

    pub(super) fn point(&mut self, dimensions: usize) -> Vec<f32> {
        (0..dimensions).map(|_| self.normal()).collect()
    }

    /// A point of some clump.
    pub(super) fn near(&mut self, centres: &[Vec<f32>], spread: f32) -> Vec<f32> {
        let centre = &centres[self.below(centres.len())];
        centre.iter().map(|value| value + spread * self.normal()).collect()
    }
}

/// The id of the `n`-th chunk: spread evenly, as ids in life are.
pub(super) fn id(n: usize) -> ChunkId {
    ChunkId(hash_parts(&[b"test chunk", &n.to_le_bytes()]))
}

/// Scales to unit length and rounds, as the store does.
pub(super) fn stored(vector: &[f32]) -> Vec<f16> {
    let norm = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
    vector.iter().map(|v| f16::from_f32(v / norm)).collect()
}
