//! The oracle: every vector in memory, every query against every vector, nothing clever.
//!
//! It shares with the real index only the cosine of two vectors; what the two disagree about is a bug of the other.

use std::collections::BTreeMap;

use half::f16;
use parking_lot::RwLock;

use crate::domain::{ChunkId, ScoredChunk, Sequence};
use crate::index::IndexError;
use crate::index::contract::{VectorChange, VectorIndex, VectorSearch};

use super::kernel;
use super::quantize::{self, Query};

/// An exact index in memory; nothing is kept beyond its life.
pub struct FlatIndex {
    dimensions: usize,
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    rows: BTreeMap<ChunkId, Vec<u8>>,
    applied: Sequence,
    flushed: Sequence,
}

impl FlatIndex {
    pub fn new(dimensions: usize) -> Self {
        Self { dimensions, state: RwLock::default() }
    }
}

impl VectorIndex for FlatIndex {
    fn dimensions(&self) -> usize {
        self.dimensions
    }

    fn apply(&self, changes: Vec<VectorChange>, through: Sequence) -> Result<(), IndexError> {
        for change in &changes {
            if let VectorChange::Put { vector, .. } = change {
                quantize::check(vector, self.dimensions)?;
            }
        }
        let mut state = self.state.write();
        for change in changes {
            match change {
                VectorChange::Put { id, vector } => {
                    state.rows.insert(id, vector.into_iter().flat_map(f16::to_le_bytes).collect());
                }
                VectorChange::Remove(id) => {
                    state.rows.remove(&id);
                }
            }
        }
        state.applied = state.applied.max(through);
        Ok(())
    }

    fn flush(&self) -> Result<(), IndexError> {
        let mut state = self.state.write();
        state.flushed = state.applied;
        Ok(())
    }

    fn watermark(&self) -> Sequence {
        self.state.read().flushed
    }

    fn live_vectors(&self) -> u64 {
        self.state.read().rows.len() as u64
    }

    fn search(&self, query: &[f32], search: VectorSearch<'_>) -> Result<Vec<ScoredChunk>, IndexError> {
        let query = Query::new(query, self.dimensions)?;
        let state = self.state.read();
        let allowed = |id: &ChunkId| search.allowed.is_none_or(|allowed| allowed.contains(id));
        let mut hits: Vec<ScoredChunk> = state
            .rows
            .iter()
            .filter(|(id, _)| allowed(id))
            .map(|(id, row)| ScoredChunk { id: *id, score: kernel::cosine(&query.unit, row) })
            .collect();
        // Rows come by id and the sort is stable, so equal scores stay in that order.
        hits.sort_by(|a, b| b.score.total_cmp(&a.score));
        hits.truncate(search.depth);
        Ok(hits)
    }

    fn maintain(&self) -> Result<bool, IndexError> {
        Ok(false)
    }

    fn purge(&self) -> Result<bool, IndexError> {
        Ok(true)
    }
}
