//! The contract of a vector index, run against every implementation. The oracle is the flat index.

use std::collections::HashSet;
use std::path::Path;

use half::f16;
use tempfile::TempDir;

use crate::domain::{ChunkId, ScoredChunk, Sequence};
use crate::index::IndexError;
use crate::index::contract::{VectorChange, VectorIndex, VectorSearch};

use super::flat::FlatIndex;
use super::segmented::SegmentedIndex;
use super::settings::{Engine, VectorSettings};
use super::test_data::{Random, id, stored};

const DIMENSIONS: usize = 48;
const ROWS: usize = 2_500;
const QUERIES: usize = 60;

type Open = fn(&Path) -> Box<dyn VectorIndex>;

fn segmented(dir: &Path, engine: Engine, exact_threshold: usize) -> Box<dyn VectorIndex> {
    let settings = VectorSettings { engine, exact_threshold, seal_rows: 700, ..Default::default() };
    Box::new(SegmentedIndex::open(dir, DIMENSIONS, settings).unwrap())
}

/// An index with the oracle beside it; both are given the same.
struct Pair {
    dir: TempDir,
    open: Open,
    index: Box<dyn VectorIndex>,
    oracle: FlatIndex,
    sequence: u64,
    queries: Vec<Vec<f32>>,
}

impl Pair {
    fn empty(open: Open) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let index = open(dir.path());
        Self { dir, open, index, oracle: FlatIndex::new(DIMENSIONS), sequence: 0, queries: Vec::new() }
    }

    /// Loaded in batches, with flushes and maintenance between, and at rest.
    fn loaded(open: Open) -> Self {
        let mut pair = Self::empty(open);
        let mut random = Random::new(7);
        let centres: Vec<_> = (0..40).map(|_| random.point(DIMENSIONS)).collect();
        pair.queries = (0..QUERIES).map(|_| random.near(&centres, 0.6)).collect();
        let rows: Vec<_> = (0..ROWS).map(|n| put(n, &random.near(&centres, 0.6))).collect();
        for batch in rows.chunks(300) {
            pair.apply(batch.to_vec());
            pair.index.flush().unwrap();
            pair.index.maintain().unwrap();
        }
        pair.settle();
        pair
    }

    fn apply(&mut self, changes: Vec<VectorChange>) {
        self.sequence += 1;
        self.index.apply(changes.clone(), Sequence(self.sequence)).unwrap();
        self.oracle.apply(changes, Sequence(self.sequence)).unwrap();
    }

    fn settle(&self) {
        for _ in 0..100 {
            if !self.index.maintain().unwrap() {
                return;
            }
        }
        panic!("maintenance does not come to rest");
    }

    fn reopen(&mut self) {
        self.index = Box::new(FlatIndex::new(1));
        self.index = (self.open)(self.dir.path());
    }

    /// Exact search must give what the oracle gives, scores and order included.
    fn assert_exact(&self, allowed: Option<&HashSet<ChunkId>>) {
        for query in &self.queries {
            for depth in [1, 10, 100] {
                let search = VectorSearch { depth, exact: true, allowed };
                assert_eq!(self.index.search(query, search).unwrap(), self.oracle.search(query, search).unwrap());
            }
        }
        assert_eq!(self.index.live_vectors(), self.oracle.live_vectors());
    }

    /// Recall@10 of the search that may use a graph; every hit must have its true score, in order.
    fn recall(&self, allowed: Option<&HashSet<ChunkId>>) -> f64 {
        let (mut found, mut wanted) = (0, 0);
        for query in &self.queries {
            let search = VectorSearch { depth: 10, exact: false, allowed };
            let expected = self.oracle.search(query, VectorSearch { depth: ROWS, ..search }).unwrap();
            let hits = self.index.search(query, search).unwrap();
            assert!(hits.iter().all(|hit| expected.contains(hit)), "a hit is dead, not allowed or wrongly scored");
            assert!(hits.is_sorted_by(|a, b| (b.score, a.id) <= (a.score, b.id)), "not in order");
            let best: Vec<_> = expected.iter().take(10).collect();
            wanted += best.len();
            found += best.iter().filter(|hit| hits.contains(hit)).count();
        }
        found as f64 / wanted as f64
    }
}

fn put(n: usize, vector: &[f32]) -> VectorChange {
    VectorChange::Put { id: id(n), vector: stored(vector) }
}

fn every(step: usize) -> HashSet<ChunkId> {
    (0..ROWS).step_by(step).map(id).collect()
}

fn an_exact_search_is_exact_and_any_other_nearly(open: Open) {
    let pair = Pair::loaded(open);

    pair.assert_exact(None);
    assert!(pair.recall(None) >= 0.98, "recall {}", pair.recall(None));
}

fn only_what_is_allowed_is_returned(open: Open) {
    let pair = Pair::loaded(open);

    for step in [2, 10, 100, ROWS] {
        let allowed = every(step);
        pair.assert_exact(Some(&allowed));
        let recall = pair.recall(Some(&allowed));
        assert!(recall >= 0.98, "recall {recall} with one in {step} allowed");
    }
    let stranger = HashSet::from([ChunkId([9; 16])]);
    let search = VectorSearch { depth: 10, exact: false, allowed: Some(&stranger) };
    assert_eq!(pair.index.search(&pair.queries[0], search).unwrap(), []);
    let nothing = HashSet::new();
    let search = VectorSearch { allowed: Some(&nothing), ..search };
    assert_eq!(pair.index.search(&pair.queries[0], search).unwrap(), []);
}

fn what_is_removed_or_replaced_is_gone_at_once(open: Open) {
    let mut pair = Pair::loaded(open);

    pair.apply((0..ROWS).step_by(3).map(|n| VectorChange::Remove(id(n))).collect());
    pair.assert_exact(None);
    assert!(pair.recall(None) >= 0.98);

    let mut random = Random::new(8);
    pair.apply((1..ROWS).step_by(5).map(|n| put(n, &random.point(DIMENSIONS))).collect());
    pair.assert_exact(None);
    assert!(pair.recall(None) >= 0.98);

    pair.index.flush().unwrap();
    pair.settle();
    pair.assert_exact(None);
    assert!(pair.recall(None) >= 0.98);
}

fn applying_twice_is_applying_once(open: Open) {
    let mut pair = Pair::loaded(open);
    let mut random = Random::new(9);
    let vector = random.point(DIMENSIONS);
    let changes = vec![
        put(1, &random.point(DIMENSIONS)),
        VectorChange::Remove(id(2)),
        put(2, &vector),
        put(3, &vector),
        VectorChange::Remove(id(3)),
        VectorChange::Remove(ChunkId([7; 16])),
    ];

    for _ in 0..3 {
        pair.apply(changes.clone());
        pair.assert_exact(None);
        pair.index.flush().unwrap();
    }
    let live = pair.index.live_vectors();
    assert_eq!(live, ROWS as u64 - 1);
}

fn what_was_flushed_is_there_after_a_restart(open: Open) {
    let mut pair = Pair::loaded(open);
    pair.apply((0..ROWS).step_by(7).map(|n| VectorChange::Remove(id(n))).collect());
    let mut random = Random::new(10);
    pair.apply((0..50).map(|n| put(ROWS + n, &random.point(DIMENSIONS))).collect());
    pair.index.flush().unwrap();
    assert_eq!(pair.index.watermark(), Sequence(pair.sequence));

    pair.reopen();
    assert_eq!(pair.index.watermark(), Sequence(pair.sequence));
    pair.assert_exact(None);
    pair.settle();
    assert!(pair.recall(None) >= 0.98);
}

fn what_was_not_flushed_is_not_claimed(open: Open) {
    let mut pair = Pair::empty(open);
    pair.apply(vec![put(1, &[1.0; DIMENSIONS])]);
    pair.index.flush().unwrap();
    pair.index.apply(vec![put(2, &[1.0; DIMENSIONS])], Sequence(99)).unwrap();
    assert_eq!(pair.index.watermark(), Sequence(1));

    pair.reopen();

    assert_eq!(pair.index.watermark(), Sequence(1));
    assert_eq!(pair.index.live_vectors(), 1);
}

fn ties_are_ordered_by_id(open: Open) {
    let mut pair = Pair::empty(open);
    let changes: Vec<_> = (0..40).map(|n| put(n, &[1.0; DIMENSIONS])).collect();
    for batch in changes.chunks(7) {
        pair.apply(batch.to_vec());
    }

    let search = VectorSearch { depth: 15, exact: true, allowed: None };
    let hits = pair.index.search(&[2.0; DIMENSIONS], search).unwrap();

    let mut ids: Vec<ChunkId> = (0..40).map(id).collect();
    ids.sort_unstable();
    assert_eq!(hits.iter().map(|hit| hit.id).collect::<Vec<_>>(), ids[..15]);
    assert!(hits.iter().all(|hit| hit.score == hits[0].score && hit.score > 0.999));
}

fn what_is_no_vector_is_refused_and_changes_nothing(open: Open) {
    let mut pair = Pair::empty(open);
    pair.apply(vec![put(1, &[1.0; DIMENSIONS])]);
    let search = VectorSearch { depth: 10, exact: false, allowed: None };
    let index = &pair.index;

    assert!(matches!(index.search(&[1.0; 3], search), Err(IndexError::Dimensions { found: 3, expected: DIMENSIONS })));
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut query = [1.0; DIMENSIONS];
        query[5] = bad;
        assert!(matches!(index.search(&query, search), Err(IndexError::NotAVector)));
        let vector = query.map(f16::from_f32).to_vec();
        let changes = vec![VectorChange::Remove(id(1)), VectorChange::Put { id: id(2), vector }];
        assert!(matches!(index.apply(changes, Sequence(5)), Err(IndexError::NotAVector)));
    }
    assert!(matches!(index.search(&[0.0; DIMENSIONS], search), Err(IndexError::NotAVector)));
    let short = vec![VectorChange::Put { id: id(2), vector: vec![f16::ONE] }];
    assert!(matches!(index.apply(short, Sequence(5)), Err(IndexError::Dimensions { .. })));

    let hits = index.search(&[1.0; DIMENSIONS], search).unwrap();
    assert_eq!(hits.iter().map(|hit| hit.id).collect::<Vec<_>>(), [id(1)]);
    assert_eq!(index.dimensions(), DIMENSIONS);
}

fn any_depth_and_an_empty_index_are_fine(open: Open) {
    let mut pair = Pair::empty(open);
    let search = |depth| VectorSearch { depth, exact: false, allowed: None };
    assert_eq!(pair.index.search(&[1.0; DIMENSIONS], search(10)).unwrap(), []);
    assert!(!pair.index.maintain().unwrap());

    pair.apply(vec![put(1, &[1.0; DIMENSIONS]), put(2, &[-1.0; DIMENSIONS])]);

    assert_eq!(pair.index.search(&[1.0; DIMENSIONS], search(0)).unwrap(), []);
    let hits: Vec<ScoredChunk> = pair.index.search(&[1.0; DIMENSIONS], search(usize::MAX)).unwrap();
    assert_eq!(hits.iter().map(|hit| hit.id).collect::<Vec<_>>(), [id(1), id(2)]);
    assert!(hits[0].score > 0.999 && hits[1].score < -0.999);
}

macro_rules! conformance {
    ($implementation:ident, $open:expr, [$($promise:ident),* $(,)?]) => {
        mod $implementation {
            use super::*;

            $(
                #[test]
                fn $promise() {
                    super::$promise($open);
                }
            )*
        }
    };
    ($implementation:ident, $open:expr) => {
        conformance!($implementation, $open, [
            an_exact_search_is_exact_and_any_other_nearly,
            only_what_is_allowed_is_returned,
            what_is_removed_or_replaced_is_gone_at_once,
            applying_twice_is_applying_once,
            what_was_flushed_is_there_after_a_restart,
            what_was_not_flushed_is_not_claimed,
            ties_are_ordered_by_id,
            what_is_no_vector_is_refused_and_changes_nothing,
            any_depth_and_an_empty_index_are_fine,
        ]);
    };
}

// The oracle lives in memory: the promises about restarts are not its.
conformance!(
    flat,
    |_| Box::new(FlatIndex::new(DIMENSIONS)),
    [
        only_what_is_allowed_is_returned,
        what_is_removed_or_replaced_is_gone_at_once,
        applying_twice_is_applying_once,
        ties_are_ordered_by_id,
        what_is_no_vector_is_refused_and_changes_nothing,
        any_depth_and_an_empty_index_are_fine,
    ]
);
conformance!(below_the_threshold, |dir| segmented(dir, Engine::Usearch, usize::MAX));
conformance!(with_usearch, |dir| segmented(dir, Engine::Usearch, 600));
conformance!(with_hnsw_rs, |dir| segmented(dir, Engine::HnswRs, 600));
