//! A part of an index: an image, the rows of it that are dead, and perhaps a graph over it.
//!
//! A snapshot is a list of parts and never changes; whoever searches holds one and nobody waits for anybody. An id
//! is alive in at most one part.

use std::sync::Arc;

use roaring::RoaringBitmap;

use crate::domain::ChunkId;
use crate::index::manifest::FileRecord;

use super::graph::Graph;
use super::image::{Image, RowRef};

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Part {
    pub image: Arc<Image>,
    /// Ordinals of rows that were removed or replaced.
    pub dead: Arc<RoaringBitmap>,
    /// The sealed file; `None` while the part is only in memory.
    pub file: Option<Arc<FileRecord>>,
    pub graph: Option<Arc<dyn Graph>>,
}

impl Part {
    /// A part that is only in memory.
    pub(super) fn in_memory(image: Image) -> Self {
        Self { image: Arc::new(image), dead: Arc::default(), file: None, graph: None }
    }

    /// How many rows are alive.
    pub(super) fn live(&self) -> u64 {
        u64::from(self.image.rows()) - self.dead.len()
    }

    /// The ordinal under which `id` is alive here.
    pub(super) fn find_live(&self, id: &ChunkId) -> Option<u32> {
        self.image.find(id).filter(|&ordinal| !self.dead.contains(ordinal))
    }

    /// Marks a row dead in this copy of the part; other copies keep what they knew.
    pub(super) fn kill(&mut self, ordinal: u32) {
        Arc::make_mut(&mut self.dead).insert(ordinal);
    }
}

/// What searches see.
#[derive(Default)]
pub(super) struct Snapshot {
    pub parts: Vec<Part>,
    pub live: u64,
}

impl Snapshot {
    pub(super) fn new(parts: Vec<Part>) -> Self {
        let live = parts.iter().map(Part::live).sum();
        Self { parts, live }
    }
}

/// The live rows of `parts`, ascending by id.
pub(super) fn live_rows(parts: &[&Part]) -> Vec<RowRef> {
    let mut rows = Vec::new();
    for (source, part) in (0..).zip(parts) {
        let alive = (0..part.image.rows()).filter(|&ordinal| !part.dead.contains(ordinal));
        rows.extend(alive.map(|ordinal| (part.image.id(ordinal), RowRef { source, ordinal })));
    }
    // Each part is ascending already, which a stable sort turns into a merge.
    rows.sort_by_key(|(id, _)| *id);
    rows.into_iter().map(|(_, row)| row).collect()
}
