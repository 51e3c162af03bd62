//! After a purge no file holds a vector that was removed.

use std::fs;
use std::path::Path;

use crate::domain::Sequence;
use crate::index::contract::{VectorChange, VectorIndex};

use super::segmented::SegmentedIndex;
use super::settings::VectorSettings;
use super::test_data::{Random, id, stored};

const DIMENSIONS: usize = 16;

fn open(dir: &Path, exact_threshold: usize) -> SegmentedIndex {
    let settings = VectorSettings { exact_threshold, m: 4, build_threads: 1, ..Default::default() };
    SegmentedIndex::open(dir, DIMENSIONS, settings).unwrap()
}

/// How many files hold the id of this row.
fn holders(dir: &Path, row: usize) -> usize {
    let wanted = id(row).0;
    let holds = |bytes: Vec<u8>| bytes.windows(wanted.len()).any(|window| window == wanted);
    fs::read_dir(dir).unwrap().filter(|entry| holds(fs::read(entry.as_ref().unwrap().path()).unwrap())).count()
}

fn assert_purges(exact_threshold: usize, graphs: usize) {
    let dir = tempfile::tempdir().unwrap();
    let index = open(dir.path(), exact_threshold);
    let put = |n| VectorChange::Put { id: id(n), vector: stored(&Random::new(n as u64).point(DIMENSIONS)) };
    index.apply((0..300).map(put).collect(), Sequence(1)).unwrap();
    index.flush().unwrap();
    while index.maintain().unwrap() {}
    index.apply(vec![VectorChange::Remove(id(3)), put(300)], Sequence(2)).unwrap();
    index.flush().unwrap();
    while index.maintain().unwrap() {}
    index.apply(vec![VectorChange::Remove(id(300))], Sequence(3)).unwrap();
    assert_eq!(index.segments().1, graphs);
    assert!(holders(dir.path(), 3) > 0 && holders(dir.path(), 300) > 0, "a removal alone leaves the bytes");

    assert!(index.purge().unwrap());

    assert_eq!((holders(dir.path(), 3), holders(dir.path(), 300)), (0, 0));
    assert_eq!((index.live_vectors(), index.watermark(), index.segments().1), (299, Sequence(3), graphs));
    drop(index);
    let again = open(dir.path(), exact_threshold);
    assert_eq!((again.live_vectors(), again.damage().len()), (299, 0));
    again.stop();
    assert!(!again.purge().unwrap(), "told to stop, it does not say that it is done");
}

#[test]
fn a_purge_leaves_no_removed_vector_in_a_segment() {
    assert_purges(1_000, 0);
}

#[test]
fn a_purge_leaves_no_removed_vector_in_a_graph() {
    assert_purges(100, 1);
}
