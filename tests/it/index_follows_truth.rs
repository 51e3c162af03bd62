//! The indexes can be lost, left behind or taken from elsewhere: the truth brings them back.

use std::path::Path;
use std::time::{Duration, Instant};

use plumb::domain::{ChunkId, Mode};
use plumb::search::QueryOverrides;
use plumb::store::OperationLog;
use tempfile::tempdir;

use crate::bed::{Bed, Making, PATIENCE, name, text};

const WORDS: [&str; 8] = ["whale", "shark", "walrus", "turtle", "ocean", "reef", "panel", "pump"];

fn body(n: usize) -> String {
    let word = |shift: usize| WORDS[(n / (shift + 1) + shift * 3) % WORDS.len()];
    format!("Here number{n} tells of {} and {} and then of {} for a while.", word(0), word(1), word(2))
}

/// A history with edits and deletions, so that the log says more than what is there now.
async fn live_a_little(bed: &Bed) {
    for start in [0, 20, 40] {
        bed.put_indexed((start..start + 20).map(|n| text(&format!("doc {n}"), &body(n))).collect()).await;
    }
    bed.put_indexed((0..10).map(|n| text(&format!("doc {n}"), &body(n + 100))).collect()).await;
    // The first one goes and comes back as it was.
    for n in [0, 11, 12, 13] {
        let id = plumb::domain::DocumentId::new(&format!("doc {n}")).unwrap();
        bed.ingestor.delete(&bed.scope, &name("default"), &id).await.unwrap();
    }
    bed.put_indexed(vec![text("doc 0", &body(100))]).await;
}

/// Every hit with its score, for many questions in every mode.
///
/// Word statistics count removed chunks until segments are merged, so that comes first.
async fn answers(bed: &Bed) -> Answers {
    for (_, index) in bed.indexes.opened() {
        index.lexical.compact().unwrap();
    }
    let mut answers = Vec::new();
    for word in WORDS {
        for mode in [Mode::Hybrid, Mode::Lexical, Mode::Vector] {
            let overrides = QueryOverrides { mode: Some(mode), top_k: Some(50), ..QueryOverrides::default() };
            let result = bed.search(word, overrides).await.unwrap();
            answers.extend(result.hits.iter().map(|hit| (hit.chunk_id, hit.score.to_bits())));
        }
    }
    Answers(answers)
}

/// Compared as a whole, but shown only where two begin to differ.
#[derive(PartialEq)]
struct Answers(Vec<(ChunkId, u64)>);

#[track_caller]
fn assert_same(left: &Answers, right: &Answers) {
    let differ = left.0.iter().zip(&right.0).position(|(left, right)| left != right);
    let at = |answers: &Answers| differ.and_then(|at| answers.0.get(at).copied());
    assert!(
        left == right,
        "{} and {} hits, at {differ:?}: {:?} and {:?}",
        left.0.len(),
        right.0.len(),
        at(left),
        at(right)
    );
}

async fn caught_up(bed: &Bed) {
    let indexer = bed.indexer.as_ref().unwrap();
    assert!(
        indexer.wait_health(Instant::now() + PATIENCE, |health| health.caught_up && health.damaged.is_empty()).await
    );
}

fn copy_database(from: &Path, to: &Path) {
    std::fs::copy(from.join("plumb.db"), to.join("plumb.db")).unwrap();
}

#[tokio::test]
async fn an_index_rebuilt_from_the_truth_answers_as_the_one_that_grew_and_needs_no_model() {
    let dir = tempdir().unwrap();
    let bed = Bed::open(dir.path()).await;
    live_a_little(&bed).await;
    let grown = answers(&bed).await;
    bed.close().await;
    std::fs::remove_dir_all(dir.path().join("index")).unwrap();

    let bed = Bed::open(dir.path()).await;
    caught_up(&bed).await;

    assert!(grown.0.len() > 200);
    assert_same(&answers(&bed).await, &grown);
    assert_eq!(bed.embedder.as_ref().unwrap().taken(), 0);
    bed.close().await;
}

#[tokio::test]
async fn an_indexer_that_was_killed_goes_on_where_its_indexes_stand() {
    let dir = tempdir().unwrap();
    let mut bed = Bed::open(dir.path()).await;
    live_a_little(&bed).await;
    // Dropped, not shut down: nothing is committed or flushed on the way out.
    drop(bed.indexer.take());
    bed.put((60..80).map(|n| text(&format!("doc {n}"), &body(n))).collect()).await;
    bed.close().await;

    let bed = Bed::open(dir.path()).await;
    caught_up(&bed).await;

    assert_eq!(bed.found("number79").await[0], "doc 79");
    let recovered = answers(&bed).await;
    bed.close().await;
    std::fs::remove_dir_all(dir.path().join("index")).unwrap();
    let bed = Bed::open(dir.path()).await;
    caught_up(&bed).await;
    assert_same(&answers(&bed).await, &recovered);
    bed.close().await;
}

#[tokio::test]
async fn an_index_that_is_ahead_of_a_restored_truth_is_built_anew() {
    let (dir, backup) = (tempdir().unwrap(), tempdir().unwrap());
    let bed = Bed::open(dir.path()).await;
    live_a_little(&bed).await;
    let then = answers(&bed).await;
    bed.close().await;
    copy_database(dir.path(), backup.path());
    let bed = Bed::open(dir.path()).await;
    bed.put_indexed((200..230).map(|n| text(&format!("doc {n}"), &body(n))).collect()).await;
    bed.close().await;
    copy_database(backup.path(), dir.path());

    let bed = Bed::open(dir.path()).await;
    caught_up(&bed).await;

    assert_same(&answers(&bed).await, &then);
    bed.close().await;
}

#[tokio::test]
async fn a_damaged_index_is_rebuilt_and_named() {
    let dir = tempdir().unwrap();
    let bed = Bed::open(dir.path()).await;
    live_a_little(&bed).await;
    let before = answers(&bed).await;
    bed.close().await;
    let mut files = Vec::new();
    collect(&dir.path().join("index"), &mut files);
    for file in files {
        let mut bytes = std::fs::read(&file).unwrap();
        if let Some(middle) = bytes.len().checked_div(2).filter(|middle| *middle < bytes.len()) {
            bytes[middle] ^= 0x55;
            std::fs::write(&file, bytes).unwrap();
        }
    }

    let bed = Bed::open(dir.path()).await;
    caught_up(&bed).await;

    assert!(!bed.indexer.as_ref().unwrap().health().repaired.is_empty());
    assert!(bed.indexes.damage().is_empty());
    assert_same(&answers(&bed).await, &before);
    bed.close().await;
}

fn collect(dir: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { collect(&path, files) } else { files.push(path) }
    }
}

#[tokio::test]
async fn a_write_is_searchable_soon_though_nobody_waits_for_it() {
    let dir = tempdir().unwrap();
    let bed = Bed::with(dir.path(), Making::default()).await;
    let sequence = bed.put(vec![text("a", "A walrus.")]).await[0].sequence.unwrap();

    let until = Instant::now() + PATIENCE;
    while bed.progress.visible() < sequence {
        assert!(Instant::now() < until, "the index never came along");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    assert_eq!(bed.found("walrus").await, ["a"]);
    bed.close().await;
}

#[tokio::test]
async fn collections_are_followed_side_by_side() {
    let dir = tempdir().unwrap();
    let bed = Bed::open(dir.path()).await;
    let in_collection = |collection: &str, id: &str, body: &str| {
        let mut document = text(id, body);
        document.collection = name(collection);
        document
    };

    bed.put_indexed(vec![in_collection("one", "a", "A walrus."), in_collection("two", "a", "A turtle.")]).await;
    bed.put_indexed(vec![in_collection("three", "a", "A walrus and a turtle.")]).await;

    for (collection, word, expected) in [("one", "walrus", 1), ("two", "walrus", 0), ("three", "turtle", 1)] {
        let overrides = QueryOverrides {
            collection: Some(name(collection)),
            mode: Some(Mode::Lexical),
            ..QueryOverrides::default()
        };
        assert_eq!(bed.search(word, overrides).await.unwrap().hits.len(), expected, "{collection} {word}");
    }
    bed.close().await;
}

#[tokio::test]
async fn while_the_index_is_behind_every_answer_says_so() {
    let dir = tempdir().unwrap();
    let bed = Bed::open(dir.path()).await;
    live_a_little(&bed).await;
    bed.close().await;
    let mut bed = Bed::open(dir.path()).await;
    bed.stop_indexer().await;
    let generation = bed.store.generations().await.unwrap()[0].generation.id;
    let behind = bed.search("whale", QueryOverrides::default()).await.unwrap();
    assert!(behind.degraded.is_empty());

    let lagging = [(generation, plumb::domain::Sequence(1))].into();
    bed.progress.publish(plumb::index::Reached { caught_up: true, all: behind.sequence, lagging });
    let behind = bed.search("whale", QueryOverrides::default()).await.unwrap();

    assert_eq!(crate::bed::degraded(&behind), ["index:catching_up"]);
    bed.close().await;
}

#[tokio::test]
async fn a_sequence_that_nobody_wrote_is_refused_at_once() {
    let dir = tempdir().unwrap();
    let bed = Bed::open(dir.path()).await;
    bed.put_indexed(vec![text("a", &body(1))]).await;
    let overrides =
        QueryOverrides { min_sequence: Some(plumb::domain::Sequence(u64::MAX)), ..QueryOverrides::default() };
    let asked = Instant::now();

    let refused = bed.search("whale", overrides).await;

    assert!(matches!(refused, Err(plumb::search::SearchError::IndexLagging { .. })), "{refused:?}");
    assert!(asked.elapsed() < Duration::from_millis(plumb::search::SearchSettings::default().limits.max_index_wait_ms));
    bed.close().await;
}
