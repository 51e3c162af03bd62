//! Random histories against a map: what searches see, and what a restart finds.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use half::f16;
use proptest::prelude::*;

use crate::domain::{ChunkId, Sequence};
use crate::index::contract::{VectorChange, VectorIndex, VectorSearch};

use super::flat::FlatIndex;
use super::segmented::SegmentedIndex;
use super::settings::{Engine, VectorSettings};
use super::test_data::{Random, id, stored};

const DIMENSIONS: usize = 12;
const IDS: usize = 120;

/// Thresholds so small that a short history meets seals, merges, graphs and their growth.
fn open(dir: &Path, engine: Engine) -> SegmentedIndex {
    let settings = VectorSettings {
        engine,
        exact_threshold: 24,
        m: 4,
        ef_construction: 16,
        ef_search: 8,
        rescore_factor: 1,
        seal_rows: 20,
        merge_factor: 2,
        build_threads: 2,
        ..Default::default()
    };
    SegmentedIndex::open(dir, DIMENSIONS, settings).unwrap()
}

#[derive(Debug, Clone)]
enum Step {
    /// Puts for even, removes for odd numbers.
    Apply(Vec<(usize, u64)>),
    Flush,
    Maintain,
    /// Everything that was not flushed is lost and replayed from this many changes before the watermark.
    Restart {
        overlap: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => proptest::collection::vec((0..IDS, 0_u64..12), 1..25).prop_map(Step::Apply),
        2 => Just(Step::Flush),
        3 => Just(Step::Maintain),
        1 => (0_usize..6).prop_map(|overlap| Step::Restart { overlap }),
    ]
}

fn changes(drawn: &[(usize, u64)]) -> Vec<VectorChange> {
    let change = |&(n, seed): &(usize, u64)| match seed % 3 {
        0 => VectorChange::Remove(id(n)),
        _ => VectorChange::Put { id: id(n), vector: stored(&Random::new(seed * 1_000 + n as u64).point(DIMENSIONS)) },
    };
    drawn.iter().map(change).collect()
}

/// What the index should hold after these batches.
fn model(history: &[Vec<VectorChange>]) -> BTreeMap<ChunkId, Vec<f16>> {
    let mut model = BTreeMap::new();
    for change in history.iter().flatten() {
        match change {
            VectorChange::Put { id, vector } => model.insert(*id, vector.clone()),
            VectorChange::Remove(id) => model.remove(id),
        };
    }
    model
}

fn assert_holds(index: &SegmentedIndex, model: &BTreeMap<ChunkId, Vec<f16>>, seed: u64) {
    let oracle = FlatIndex::new(DIMENSIONS);
    let puts = model.iter().map(|(id, vector)| VectorChange::Put { id: *id, vector: vector.clone() });
    oracle.apply(puts.collect(), Sequence(1)).unwrap();
    let query = Random::new(seed).point(DIMENSIONS);
    let allowed: HashSet<ChunkId> = (0..IDS).step_by(2).map(id).collect();

    assert_eq!(index.live_vectors(), model.len() as u64);
    for (depth, allowed) in [(IDS, None), (5, None), (5, Some(&allowed)), (IDS, Some(&allowed))] {
        let search = VectorSearch { depth, exact: true, allowed };
        let all = oracle.search(&query, VectorSearch { depth: IDS, ..search }).unwrap();
        assert_eq!(index.search(&query, search).unwrap(), all[..depth.min(all.len())]);

        let near = index.search(&query, VectorSearch { exact: false, ..search }).unwrap();
        assert!(near.len() <= depth && near.iter().all(|hit| all.contains(hit)), "{near:?}");
        let distinct: HashSet<ChunkId> = near.iter().map(|hit| hit.id).collect();
        assert_eq!(distinct.len(), near.len());
    }
}

fn run(engine: Engine, steps: &[Step]) {
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(dir.path(), engine);
    let mut history: Vec<Vec<VectorChange>> = Vec::new();
    let mut flushed = 0;
    for (n, step) in steps.iter().enumerate() {
        match step {
            Step::Apply(drawn) => {
                history.push(changes(drawn));
                index.apply(changes(drawn), Sequence(history.len() as u64)).unwrap();
            }
            Step::Flush => {
                index.flush().unwrap();
                flushed = history.len();
                assert_eq!(index.watermark(), Sequence(flushed as u64));
            }
            Step::Maintain => {
                index.maintain().unwrap();
            }
            Step::Restart { overlap } => {
                drop(index);
                index = open(dir.path(), engine);
                assert_eq!(index.damage(), [""; 0]);
                let watermark = index.watermark().0 as usize;
                assert!(watermark >= flushed && watermark <= history.len());
                assert_holds(&index, &model(&history[..watermark]), n as u64);
                for (at, batch) in history.iter().enumerate().skip(watermark.saturating_sub(*overlap)) {
                    index.apply(batch.clone(), Sequence(at as u64 + 1)).unwrap();
                }
            }
        }
        assert_holds(&index, &model(&history), n as u64);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn any_history_with_usearch(steps in proptest::collection::vec(step(), 1..30)) {
        run(Engine::Usearch, &steps);
    }

    #[test]
    fn any_history_with_hnsw_rs(steps in proptest::collection::vec(step(), 1..30)) {
        run(Engine::HnswRs, &steps);
    }
}

#[test]
fn removed_chunks_stay_away_while_segments_are_merged_and_graphs_built() {
    for engine in [Engine::Usearch, Engine::HnswRs] {
        let dir = tempfile::tempdir().unwrap();
        let index = open(dir.path(), engine);
        let mut random = Random::new(3);
        let count = 400;
        let vectors: Vec<_> = (0..count).map(|_| random.point(DIMENSIONS)).collect();
        let put = |n: usize| VectorChange::Put { id: id(n), vector: stored(&vectors[n]) };
        index.apply((0..count).map(put).collect(), Sequence(1)).unwrap();
        let removed = AtomicUsize::new(0);
        let ids: Vec<ChunkId> = (0..count).map(id).collect();

        std::thread::scope(|scope| {
            scope.spawn(|| {
                while removed.load(Ordering::Acquire) < count - 100 {
                    index.flush().unwrap();
                    index.maintain().unwrap();
                }
            });
            scope.spawn(|| {
                let mut n = 0;
                while removed.load(Ordering::Acquire) < count - 100 {
                    let gone: HashSet<&ChunkId> = ids[..removed.load(Ordering::Acquire)].iter().collect();
                    n = (n + 7) % count;
                    let search = VectorSearch { depth: 20, exact: n % 2 == 0, allowed: None };
                    let hits = index.search(&vectors[n], search).unwrap();
                    assert!(hits.iter().all(|hit| !gone.contains(&hit.id)), "a removed chunk was returned");
                    assert!(!hits.is_empty());
                }
            });
            for n in 0..count - 100 {
                let late = VectorChange::Put { id: id(count + n), vector: stored(&vectors[n]) };
                index.apply(vec![VectorChange::Remove(ids[n]), late], Sequence(n as u64 + 2)).unwrap();
                removed.store(n + 1, Ordering::Release);
            }
        });

        assert_eq!(index.live_vectors(), count as u64);
    }
}

#[test]
fn replaying_what_is_there_already_kills_no_row() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(dir.path(), Engine::Usearch);
    let puts: Vec<_> = (0..100)
        .map(|n| VectorChange::Put { id: id(n), vector: stored(&Random::new(n as u64).point(DIMENSIONS)) })
        .collect();
    index.apply(puts.clone(), Sequence(1)).unwrap();
    index.flush().unwrap();
    while index.maintain().unwrap() {}
    assert_eq!(index.segments(), (1, 1));

    index.apply(puts, Sequence(1)).unwrap();
    index.flush().unwrap();

    assert_eq!(index.segments(), (1, 1));
    assert!(!index.maintain().unwrap());
}

#[test]
fn told_to_stop_it_leaves_everything_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(dir.path(), Engine::Usearch);
    let put = |n: usize| VectorChange::Put { id: id(n), vector: stored(&Random::new(n as u64).point(DIMENSIONS)) };
    index.apply((0..5_000).map(put).collect(), Sequence(1)).unwrap();
    index.flush().unwrap();
    let files = || std::fs::read_dir(dir.path()).unwrap().count();
    let before = files();

    // Whenever it comes, in the middle of a build or before it.
    std::thread::scope(|scope| {
        let work = scope.spawn(|| index.maintain().unwrap());
        while files() == before && !work.is_finished() {
            std::thread::yield_now();
        }
        index.stop();
        if !work.join().unwrap() {
            assert_eq!((index.segments().1, files()), (0, before));
        }
    });

    assert!(!index.maintain().unwrap());
    assert_eq!(index.live_vectors(), 5_000);
    drop(index);
    assert_eq!(open(dir.path(), Engine::Usearch).live_vectors(), 5_000);
}
