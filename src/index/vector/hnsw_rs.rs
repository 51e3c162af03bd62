//! Graphs by hnsw_rs, in memory only.
//!
//! Its dump files are read with panics and `exit` on anything unexpected and the loaded graph borrows from its loader,
//! so none is written: after a restart the segment is scanned until maintenance has built the graph again. Its filter
//! can panic on an empty result heap, so filtering is done here by fetching more.
//!
//! The nodes hold ordinals; distances are taken from the codes of the segment, which are in memory once already.

use std::sync::Arc;

use ::hnsw_rs::prelude::{Distance, Hnsw};

use crate::index::IndexError;

use super::graph::{Accept, Graph, GraphRecord, Site, insert_all};
use super::image::Image;
use super::quantize::{self, Query};

const LAYERS_MAX: usize = 16;
/// A payload begins with an ordinal or a scale, both of this length.
const HEAD_BYTES: usize = 4;
/// A filtered walk gives up for a scan once it would have to fetch this share of all nodes.
const FETCH_MAX_SHARE: usize = 4;

pub(super) struct HnswRsGraph {
    graph: Hnsw<'static, u8, RowDistance>,
    rows: usize,
    ef_search: usize,
}

impl HnswRsGraph {
    /// Builds over all rows of `image`; `None` if told to stop.
    pub(super) fn build(site: &Site<'_>, image: &Arc<Image>) -> Result<Option<Self>, IndexError> {
        let settings = site.settings;
        let rows = image.rows() as usize;
        let distance = RowDistance { image: Arc::clone(image) };
        let graph = Hnsw::new(settings.m, rows, LAYERS_MAX, settings.ef_construction, distance);
        let finished = insert_all(site, rows, &|ordinal| {
            graph.insert((&(ordinal as u32).to_le_bytes(), ordinal));
            Ok(())
        })?;
        Ok(finished.then_some(Self { graph, rows, ef_search: settings.ef_search }))
    }

    fn walk(&self, payload: &[u8], wanted: usize) -> Vec<(u32, f32)> {
        let found = self.graph.search(payload, wanted, self.ef_search);
        found.iter().map(|neighbour| (neighbour.d_id as u32, 1.0 - neighbour.distance)).collect()
    }
}

impl Graph for HnswRsGraph {
    fn nearest(
        &self,
        query: &Query,
        wanted: usize,
        accept: Option<Accept<'_>>,
    ) -> Result<Option<Vec<(u32, f32)>>, IndexError> {
        let payload = payload(query);
        let Some(accept) = accept else { return Ok(Some(self.walk(&payload, wanted))) };
        let mut fetch = wanted.max(self.ef_search);
        while fetch * FETCH_MAX_SHARE <= self.rows {
            let mut found = self.walk(&payload, fetch);
            found.retain(|&(ordinal, _)| accept(ordinal));
            if found.len() >= wanted {
                return Ok(Some(found));
            }
            // At least doubled; further if the share that passed says so.
            fetch = (fetch * 2).max(fetch * wanted / found.len().max(1) / 2);
        }
        Ok(None)
    }

    fn gone(&self) -> u64 {
        0
    }

    fn record(&self) -> Option<&GraphRecord> {
        None
    }
}

/// The query as the distance expects it: scale, then codes.
fn payload(query: &Query) -> Vec<u8> {
    let mut payload = query.scale().to_le_bytes().to_vec();
    payload.extend_from_slice(&query.codes);
    payload
}

/// 1 − cosine by the codes. A slice of four bytes is an ordinal; a longer one is a query.
struct RowDistance {
    image: Arc<Image>,
}

impl RowDistance {
    fn row<'a>(&'a self, payload: &'a [u8]) -> (&'a [u8], f32) {
        let (head, codes) = payload.split_at(HEAD_BYTES);
        let head = [head[0], head[1], head[2], head[3]];
        if codes.is_empty() {
            let ordinal = u32::from_le_bytes(head);
            (self.image.codes(ordinal, ordinal + 1), self.image.quantized(ordinal).scale)
        } else {
            (codes, f32::from_le_bytes(head))
        }
    }
}

impl Distance<u8> for RowDistance {
    fn eval(&self, a: &[u8], b: &[u8]) -> f32 {
        // The library asserts that no distance is negative.
        (1.0 - quantize::between(self.row(a), self.row(b))).max(0.0)
    }
}
