//! The writer: group commit, bounds, and what it does when the disk does not do its part.

use std::time::Duration;

use futures::FutureExt as _;

use crate::domain::Sequence;
use crate::store::conformance::{Ingest, lease, new_task, record, runner, scope};
use crate::store::{
    CorpusStore as _, DocumentWrite, OperationLog as _, StoreError, StoreSettings, TaskQueue as _, TaskStore as _,
    WriteOutcome,
};

use super::child;
use super::fixture::{fresh, fresh_with};

/// Longest wait for something that must happen.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn concurrent_calls_share_their_fsyncs() {
    let fresh = fresh().await;
    let owner = scope("acme");
    fresh.subject().open(&owner, "c").await;
    let before = fresh.store.commit_count();

    let put = |number: usize| {
        let (subject, owner) = (fresh.subject(), &owner);
        async move { subject.put(owner, &Ingest::new("c", &format!("d{number}"), &[number])).await }
    };
    let outcomes = futures::future::join_all((0..64).map(put)).await;

    assert!(outcomes.iter().all(|outcome| matches!(outcome, WriteOutcome::Written { .. })));
    let commits = fresh.store.commit_count() - before;
    assert!(commits <= 16, "64 calls took {commits} commits");
}

#[tokio::test]
async fn a_failing_write_in_a_group_fails_alone() {
    let fresh = fresh().await;
    let owner = scope("acme");
    let collection = fresh.subject().open(&owner, "c").await;
    let call = |number: usize| {
        let mut put = Ingest::new("c", &format!("d{number}"), &[1, 2]).put(&owner, &collection);
        if number % 2 == 1 {
            put.chunks[1].chunk.id = put.chunks[0].chunk.id;
        }
        fresh.store.write(&owner, vec![DocumentWrite::Put(Box::new(put))])
    };

    let answers = futures::future::join_all((0..10).map(call)).await;

    for (number, answer) in answers.into_iter().enumerate() {
        let outcome = answer.unwrap().remove(0);
        assert_eq!(number % 2 == 0, matches!(outcome, WriteOutcome::Written { .. }), "{number}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_full_queue_refuses_and_recovers() {
    let settings = StoreSettings { write_queue_limit: 2, ..StoreSettings::default() };
    let fresh = fresh_with(settings).await;
    let owner = scope("acme");
    let collection = fresh.subject().open(&owner, "c").await;
    let call = |number: usize| {
        let put = Ingest::new("c", &format!("d{number}"), &[number]).put(&owner, &collection);
        fresh.store.write(&owner, vec![DocumentWrite::Put(Box::new(put))])
    };

    let answers = futures::future::join_all((0..10).map(call)).await;

    let refused = answers.iter().filter(|answer| matches!(answer, Err(StoreError::Overloaded { limit: 2 }))).count();
    let taken = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!((taken, refused), (2, 8));
    assert!(call(99).await.is_ok());
}

#[tokio::test]
async fn a_caller_that_leaves_does_no_harm() {
    let fresh = fresh().await;
    let owner = scope("acme");
    let collection = fresh.subject().open(&owner, "c").await;
    let ingest = Ingest::new("c", "d", &[1]);
    let put = DocumentWrite::Put(Box::new(ingest.put(&owner, &collection)));

    let mut leaving = fresh.store.write(&owner, vec![put]);
    assert!((&mut leaving).now_or_never().is_none());
    drop(leaving);
    // Whether this is done at once or left in the middle is up to the connection's thread.
    let _ = fresh.store.documents(&owner, &collection.name, None, 9).now_or_never();

    let newest = tokio::time::timeout(PATIENCE, fresh.store.committed_after(Sequence(0))).await.unwrap();
    assert_eq!(newest, Sequence(1));
    for _ in 0..10 {
        let content = fresh.store.content(&owner, &ingest.collection, &ingest.document, None).await.unwrap();
        assert_eq!(content, Some(ingest.text()));
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_nothing_else() {
    let fresh = fresh_with(StoreSettings { max_size_mib: Some(1), ..StoreSettings::default() }).await;
    let owner = scope("acme");
    let small = Ingest::new("c", "small", &[1]);
    fresh.subject().put(&owner, &small).await;
    let collection = fresh.subject().open(&owner, "c").await;
    let mut big = Ingest::new("c", "big", &[]);
    big.paragraphs = vec!["x".repeat(2 << 20)];

    let refused = fresh.store.write(&owner, vec![DocumentWrite::Put(Box::new(big.put(&owner, &collection)))]).await;

    assert!(matches!(refused, Err(StoreError::Full(_))), "{refused:?}");
    assert!(!fresh.store.is_poisoned());
    assert!(fresh.store.content(&owner, &small.collection, &small.document, None).await.unwrap().is_some());
    assert!(matches!(fresh.subject().delete(&owner, "c", "small").await, WriteOutcome::Deleted { .. }));
    assert_eq!(fresh.store.last_sequence().await.unwrap(), Sequence(2), "what failed took no number");
}

#[tokio::test]
async fn a_long_log_is_moved_into_the_file_while_serving() {
    let fresh = fresh_with(StoreSettings { checkpoint_mib: 1, ..StoreSettings::default() }).await;
    let owner = scope("acme");
    let collection = fresh.subject().open(&owner, "c").await;

    for number in 0..96 {
        let mut ingest = Ingest::new("c", &format!("d{number}"), &[]);
        ingest.paragraphs = vec![format!("{number} {}", "x".repeat(100_000))];
        fresh.store.write(&owner, vec![DocumentWrite::Put(Box::new(ingest.put(&owner, &collection)))]).await.unwrap();
    }

    let file = std::fs::metadata(fresh.path()).unwrap().len();
    let log = std::fs::metadata(fresh.directory.path().join("plumb.db-wal")).unwrap().len();
    assert!(file > 5 << 20, "{file}");
    assert!(log < 6 << 20, "{log}");
}

#[tokio::test]
async fn a_closed_store_refuses_everything() {
    let fresh = fresh().await;
    let owner = scope("acme");
    let collection = fresh.subject().open(&owner, "c").await;
    let put = DocumentWrite::Put(Box::new(Ingest::new("c", "d", &[1]).put(&owner, &collection)));

    fresh.store.close().await.unwrap();
    fresh.store.close().await.unwrap();

    assert!(matches!(fresh.store.write(&owner, vec![put]).await, Err(StoreError::Closed)));
    assert!(matches!(fresh.store.collections(&owner).await, Err(StoreError::Closed)));
}

/// Lets the disk fail in the middle of a commit, by a limit on the size of files.
#[tokio::test]
async fn child_writes_until_the_disk_fails() {
    let Some(_) = child::argument() else { return };
    let fresh = fresh().await;
    let owner = scope("acme");
    let kept = Ingest::new("c", "kept", &[1]);
    fresh.subject().put(&owner, &kept).await;
    let collection = fresh.subject().open(&owner, "c").await;
    let task = fresh.store.submit(&owner, new_task(1)).await.unwrap().task;
    limit_file_size(1 << 20);
    let mut big = Ingest::new("c", "big", &[]);
    big.paragraphs = vec!["x".repeat(4 << 20)];
    let big = || vec![DocumentWrite::Put(Box::new(big.put(&owner, &collection)))];

    let failed = fresh.store.write(&owner, big()).await;

    assert!(matches!(failed, Err(StoreError::Poisoned)), "{failed:?}");
    assert!(fresh.store.is_poisoned());
    tokio::time::timeout(PATIENCE, fresh.store.poisoned()).await.unwrap();
    let small = DocumentWrite::Delete { collection: kept.collection.clone(), document: kept.document.clone() };
    let refused = fresh.store.write(&owner, vec![small]).await;
    assert!(matches!(refused, Err(StoreError::Poisoned)), "{refused:?}");
    let content = fresh.store.content(&owner, &kept.collection, &kept.document, None).await.unwrap();
    assert_eq!(content, Some(kept.text()), "reads go on");
    let refused = fresh.store.checkpoint(lease(&task, runner(1)), record(0, 1), Vec::new()).await;
    assert!(matches!(refused, Err(StoreError::Poisoned)), "{refused:?}");
    assert!(matches!(fresh.store.submit(&owner, new_task(2)).await, Err(StoreError::Poisoned)));
    assert_eq!(fresh.store.task(&owner, task.id, None).await.unwrap(), Some(task));
    println!("POISONED AS PROMISED");
}

fn limit_file_size(bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: both calls take plain values or a pointer to a local that outlives them, and change only this process.
    let refused = unsafe {
        // Without this the process would be killed where the write should fail.
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        libc::setrlimit(libc::RLIMIT_FSIZE, &limit)
    };
    assert_eq!(refused, 0);
}

#[test]
fn a_commit_that_fails_stops_writing_and_leaves_reading() {
    let output = child::command("writing::child_writes_until_the_disk_fails", "yes").output().unwrap();

    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("POISONED AS PROMISED"), "{said}");
}
