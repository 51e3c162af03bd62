//! Every kind of file, damaged in every way: opening never panics, never serves what is wrong, and says what it found.

use std::fs;
use std::path::{Path, PathBuf};

use crate::domain::{ScoredChunk, Sequence};
use crate::index::contract::{VectorChange, VectorIndex, VectorSearch};

use super::segmented::SegmentedIndex;
use super::settings::VectorSettings;
use super::test_data::{Random, id, stored};

const DIMENSIONS: usize = 16;
const ROWS: usize = 300;

fn settings() -> VectorSettings {
    VectorSettings { exact_threshold: 100, m: 4, build_threads: 1, ..Default::default() }
}

fn open(dir: &Path) -> SegmentedIndex {
    SegmentedIndex::open(dir, DIMENSIONS, settings()).unwrap()
}

fn changes() -> Vec<VectorChange> {
    let put = |n| VectorChange::Put { id: id(n), vector: stored(&Random::new(n as u64).point(DIMENSIONS)) };
    (0..ROWS).map(put).collect()
}

/// A directory with a graph, a segment beside it, and tombstones.
fn fill(dir: &Path) {
    let index = open(dir);
    index.apply(changes(), Sequence(1)).unwrap();
    index.flush().unwrap();
    while index.maintain().unwrap() {}
    let late = VectorChange::Put { id: id(ROWS), vector: stored(&[1.0; DIMENSIONS]) };
    index.apply(vec![VectorChange::Remove(id(3)), late], Sequence(2)).unwrap();
    index.flush().unwrap();
    assert_eq!(index.segments(), (2, 1));
}

fn top(index: &SegmentedIndex) -> Vec<ScoredChunk> {
    index.search(&[1.0; DIMENSIONS], VectorSearch { depth: 50, exact: true, allowed: None }).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for name in names(from) {
        fs::copy(from.join(&name), to.path().join(&name)).unwrap();
    }
    to
}

/// Opens a damaged copy and checks what must hold whatever happened to `name`.
fn assert_survives(dir: &Path, name: &str, what: &str, whole: &[ScoredChunk]) {
    let index = open(dir);
    let graph_only = name.ends_with(".nodes") || name.ends_with(".rows");
    if graph_only {
        assert_eq!(index.watermark(), Sequence(2), "{name} {what}");
        assert_eq!(top(&index), whole, "{name} {what}");
    } else {
        assert_eq!(index.watermark(), Sequence(0), "{name} {what}");
        assert_eq!(top(&index), [], "{name} {what}");
    }
    assert!(index.damage().iter().any(|damage| damage.contains(name)), "{name} {what}: {:?}", index.damage());

    index.apply(changes(), Sequence(1)).unwrap();
    let late = VectorChange::Put { id: id(ROWS), vector: stored(&[1.0; DIMENSIONS]) };
    index.apply(vec![VectorChange::Remove(id(3)), late], Sequence(2)).unwrap();
    index.flush().unwrap();
    while index.maintain().unwrap() {}
    drop(index);
    let healed = open(dir);
    assert_eq!(healed.damage(), [""; 0], "{name} {what}");
    assert_eq!(top(&healed), whole, "{name} {what}");
}

#[test]
fn a_damaged_file_is_named_set_aside_and_rebuilt() {
    let original = tempfile::tempdir().unwrap();
    fill(original.path());
    let whole = top(&open(original.path()));
    let files = names(original.path());
    assert_eq!(files.len(), 6, "{files:?}");

    for name in &files {
        let bytes = fs::read(original.path().join(name)).unwrap();
        let flip = |at: usize| {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x40;
            bytes
        };
        let mut damaged: Vec<(String, Vec<u8>)> =
            (0..8).map(|n| n * (bytes.len() - 1) / 7).map(|at| (format!("flipped at {at}"), flip(at))).collect();
        for length in [0, 1, bytes.len() / 2, bytes.len() - 1] {
            damaged.push((format!("cut to {length}"), bytes[..length].to_vec()));
        }
        damaged.push(("longer".to_owned(), [bytes.as_slice(), b"x"].concat()));
        for (what, damaged) in damaged {
            let dir = copy(original.path());
            fs::write(dir.path().join(name), damaged).unwrap();
            assert_survives(dir.path(), name, &what, &whole);
            assert!(names(dir.path()).iter().any(|aside| aside.starts_with(&format!("{name}.damaged-"))));
        }
        let dir = copy(original.path());
        fs::remove_file(dir.path().join(name)).unwrap();
        assert_survives(dir.path(), name, "deleted", &whole);
    }
}

#[test]
fn what_a_crash_leaves_behind_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let before = names(dir.path());
    for name in
        ["00000099.vectors", "00000099.vectors.tmp", "MANIFEST.tmp", "00000098.nodes.tmp", "00000097.tombstones"]
    {
        fs::write(dir.path().join(name), b"half a file").unwrap();
    }

    let index = open(dir.path());

    assert_eq!(index.damage(), [""; 0]);
    assert_eq!(index.live_vectors(), ROWS as u64);
    assert_eq!(names(dir.path()), before);
}

#[test]
fn a_merge_leaves_no_file_behind() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let index = open(dir.path());
    index.apply((0..ROWS / 2).map(|n| VectorChange::Remove(id(n))).collect(), Sequence(3)).unwrap();
    while index.maintain().unwrap() {}

    assert_eq!(index.segments(), (1, 1));
    assert_eq!(names(dir.path()).len(), 4, "{:?}", names(dir.path()));
}

#[test]
fn other_dimensions_than_expected_are_damage() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());

    let index = SegmentedIndex::open(dir.path(), DIMENSIONS + 1, settings()).unwrap();

    assert_eq!((index.live_vectors(), index.watermark()), (0, Sequence(0)));
    assert_eq!(index.damage().len(), 1);
}

#[test]
fn a_graph_of_other_settings_is_not_used_but_built_again() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let whole = top(&open(dir.path()));

    let index = SegmentedIndex::open(dir.path(), DIMENSIONS, VectorSettings { m: 8, ..settings() }).unwrap();

    assert_eq!((index.segments(), index.damage()), ((2, 0), [].as_slice()));
    assert_eq!(top(&index), whole);
    while index.maintain().unwrap() {}
    assert_eq!(index.segments(), (1, 1));
}

#[test]
fn an_unwritable_directory_is_an_error_and_not_a_loss() {
    let dir = tempfile::tempdir().unwrap();
    let file: PathBuf = dir.path().join("not a directory");
    fs::write(&file, b"").unwrap();

    assert!(SegmentedIndex::open(&file, DIMENSIONS, settings()).is_err());
    assert!(file.exists());
}
