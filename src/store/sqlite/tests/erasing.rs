//! What is forgotten is gone from the file, byte by byte.

use std::path::Path;

use crate::domain::Timestamp;
use crate::store::conformance::{Ingest, collection_name, scope};
use crate::store::{Erased, Erasure, KeepVersions, check_truth};

use super::fixture::{Fresh, fresh};

const MARK: &str = "zanzibarquux";

/// How often the mark stands in the database file and in its log.
fn marks(fresh: &Fresh) -> usize {
    let log = fresh.path().with_extension("db-wal");
    let count = |path: &Path| {
        let bytes = std::fs::read(path).unwrap_or_default();
        bytes.windows(MARK.len()).filter(|window| *window == MARK.as_bytes()).count()
    };
    count(&fresh.path()) + count(&log)
}

fn marked(document: &str, version: usize) -> Ingest {
    let mut ingest = Ingest::new("c", document, &[]).title(&format!("{MARK} in the title {version}"));
    // More than a page holds, so that some of it lies in pages of its own.
    ingest.paragraphs = (0..40).map(|n| format!("Paragraph {n} of {version}: {}. ", MARK.repeat(1 + n * 7))).collect();
    ingest
}

async fn settle(fresh: &Fresh) {
    assert!(fresh.store.empty_log().await.unwrap(), "nobody reads");
}

#[tokio::test]
async fn no_byte_of_an_erased_document_is_left_in_the_database_or_its_log() {
    let fresh = fresh().await;
    let (acme, subject) = (scope("acme"), fresh.subject());
    for version in 1..=3 {
        for neighbour in 0..20 {
            subject.put(&acme, &Ingest::new("c", &format!("n{neighbour}"), &[version, neighbour])).await;
        }
        subject.put(&acme, &marked("secret", version)).await;
    }
    subject.delete(&acme, "c", "secret").await;
    let before = marks(&fresh);

    let erased = fresh.store.erase_document(&acme, &collection_name("c"), &"secret".parse().unwrap()).await.unwrap();
    assert!(fresh.store.free_id(&acme, &collection_name("c"), &"secret".parse().unwrap()).await.unwrap());
    settle(&fresh).await;
    if marks(&fresh) > 0 {
        // Rows that moved between pages while neighbours grew leave copies, which a rewrite takes away.
        fresh.store.rewrite().await.unwrap();
        settle(&fresh).await;
    }

    assert!(matches!(erased, Erased::Gone { removed, .. } if removed.versions == 3), "{erased:?}");
    assert!(before > 1_000, "{before}");
    assert_eq!(marks(&fresh), 0);
    let checked = check_truth(&fresh.path()).await.unwrap();
    assert_eq!(checked.findings, Vec::<String>::new());
    assert_eq!(checked.versions, 60);
}

#[tokio::test]
async fn what_is_removed_is_overwritten_without_a_rewrite_where_nothing_moved() {
    let fresh = fresh().await;
    let (acme, subject) = (scope("acme"), fresh.subject());
    subject.put(&acme, &marked("secret", 1)).await;
    subject.delete(&acme, "c", "secret").await;

    fresh.store.erase_document(&acme, &collection_name("c"), &"secret".parse().unwrap()).await.unwrap();
    assert!(fresh.store.free_id(&acme, &collection_name("c"), &"secret".parse().unwrap()).await.unwrap());
    settle(&fresh).await;

    assert_eq!(marks(&fresh), 0);
}

#[tokio::test]
async fn forgotten_versions_leave_a_sound_database_across_a_restart() {
    let fresh = fresh().await;
    let (acme, subject) = (scope("acme"), fresh.subject());
    for version in 1..=4 {
        subject.put(&acme, &marked("book", version)).await;
        subject.put(&acme, &Ingest::new("c", &format!("gone{version}"), &[version])).await;
        subject.delete(&acme, "c", &format!("gone{version}")).await;
    }

    let keep = KeepVersions { newest: Some(1), deleted_since: Some(Timestamp(i64::MAX)), replaced_since: None };
    assert_eq!(fresh.store.forget_versions(keep).await.unwrap(), 7);
    let fresh = fresh.reopen().await;
    // Rows that are made now get the numbers of rows that are gone.
    let version = fresh.subject().put(&acme, &Ingest::new("c", "gone4", &[1])).await;
    fresh.subject().put(&acme, &marked("book", 5)).await;

    assert!(matches!(version, crate::store::WriteOutcome::Written { version: 2, .. }), "{version:?}");
    let checked = check_truth(&fresh.path()).await.unwrap();
    assert_eq!(checked.findings, Vec::<String>::new());
    assert_eq!(checked.versions, 3);
}
