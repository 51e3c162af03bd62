//! Backups made while the store is written to, the way back, and what a check finds.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::{ConnectOptions as _, Connection as _};

use crate::store::conformance::{Ingest, scope};
use crate::store::{
    BackupError, DataDirectory, SqliteStore, StoreSettings, WriteOutcome, back_up, check_truth, restore,
};

use super::fixture::{Fresh, fresh};

async fn filled(documents: usize) -> Fresh {
    let fresh = fresh().await;
    let owner = scope("acme");
    fresh.subject().open(&owner, "c").await;
    for number in 0..documents {
        let outcome = fresh.subject().put(&owner, &Ingest::new("c", &format!("d{number}"), &[number, 1, 1])).await;
        assert!(matches!(outcome, WriteOutcome::Written { .. }), "{outcome:?}");
    }
    fresh
}

/// Changes the database behind the store's back.
async fn tamper(fresh: &Fresh, sql: &'static str) {
    fresh.store.close().await.unwrap();
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(fresh.path()).foreign_keys(false);
    let mut connection = options.connect().await.unwrap();
    assert!(sqlx::query(sql).execute(&mut connection).await.unwrap().rows_affected() > 0, "{sql}");
    connection.close().await.unwrap();
}

#[tokio::test]
async fn a_backup_made_while_documents_arrive_holds_all_that_was_acknowledged_before_it() {
    let fresh = filled(20).await;
    let owner = scope("acme");
    let (stop, target) = (AtomicBool::new(false), fresh.directory.path().join("copy.db"));
    let writing = async {
        let mut number = 1_000;
        while !stop.load(Ordering::SeqCst) {
            fresh.subject().put(&owner, &Ingest::new("c", &format!("late{number}"), &[number])).await;
            number += 1;
        }
    };
    let copying = async {
        let report = back_up(&fresh.path(), &target).await;
        stop.store(true, Ordering::SeqCst);
        report.unwrap()
    };

    let (report, ()) = tokio::join!(copying, writing);

    assert!(report.documents >= 20 && report.sequence >= 20, "{report:?}");
    let data = DataDirectory::open(&fresh.directory.path().join("restored")).unwrap();
    assert_eq!(restore(&target, &data).await.unwrap(), report);
    let truth = check_truth(&data.database()).await.unwrap();
    assert_eq!((truth.documents, truth.findings), (report.documents, Vec::new()));
    let store = SqliteStore::open(&data.database(), StoreSettings::default()).await.unwrap();
    store.close().await.unwrap();
}

#[tokio::test]
async fn nothing_is_ever_replaced_by_a_backup_or_by_its_return() {
    let fresh = filled(1).await;
    let target = fresh.directory.path().join("copy.db");
    back_up(&fresh.path(), &target).await.unwrap();

    assert!(matches!(back_up(&fresh.path(), &target).await, Err(BackupError::Exists { .. })));
    let own = DataDirectory::open(fresh.directory.path()).unwrap();
    assert!(matches!(restore(&target, &own).await, Err(BackupError::NotEmpty { .. })));
    let missing = fresh.directory.path().join("none.db");
    assert!(matches!(back_up(&missing, &fresh.directory.path().join("x.db")).await, Err(BackupError::Missing { .. })));
}

#[tokio::test]
async fn a_backup_of_which_a_byte_was_changed_is_refused() {
    let fresh = filled(3).await;
    let target = fresh.directory.path().join("copy.db");
    back_up(&fresh.path(), &target).await.unwrap();
    let whole = fs::read(&target).unwrap();

    for at in (0..whole.len()).step_by(whole.len() / 7) {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x40;
        fs::write(&target, &flipped).unwrap();
        let data = DataDirectory::open(&fresh.directory.path().join(format!("restored-{at}"))).unwrap();
        assert!(matches!(restore(&target, &data).await, Err(BackupError::Altered { .. })), "byte {at}");
        assert!(!data.database().exists());
    }
}

#[tokio::test]
async fn a_store_as_it_was_written_passes_the_check() {
    let fresh = filled(70).await;
    let owner = scope("acme");
    fresh.subject().put(&owner, &Ingest::new("c", "d3", &[8, 1])).await;
    fresh.subject().delete(&owner, "c", "d4").await;

    let report = check_truth(&fresh.path()).await.unwrap();

    assert_eq!(report.findings, Vec::<String>::new());
    assert_eq!((report.documents, report.versions, report.chunks), (70, 71, 70 * 3 + 2));
}

#[tokio::test]
async fn a_check_names_a_text_a_place_a_vector_and_a_count_that_are_not_what_was_stored() {
    let cases = [
        ("UPDATE segments SET text = replace(text, 'Paragraph', 'paragraph') WHERE id = 1", "the text is not the one"),
        ("UPDATE chunks SET span_start = span_start + 1 WHERE id = 2", "is not made from bytes"),
        ("UPDATE chunks SET span_end = 1000000 WHERE id = 2", "are not in the text"),
        ("UPDATE embeddings SET vector = x'0001' WHERE id = 1", "embedding 1 has 2 bytes"),
        (
            "UPDATE generations SET live_chunks = live_chunks + 1",
            "collection c: a generation says that it has 7 chunks, and has 6",
        ),
        ("DELETE FROM chunks WHERE id = 2", "3 chunks were stored, 2 are there"),
        ("INSERT INTO task_counts VALUES ('queued', 'acme', 'map', 3)", "3 are counted as queued, and 0 are"),
        ("DELETE FROM tenants", "names a row of tenants that is not there"),
    ];
    for (sql, expected) in cases {
        let fresh = filled(2).await;
        tamper(&fresh, sql).await;

        let report = check_truth(&fresh.path()).await.unwrap();

        assert!(report.findings.iter().any(|finding| finding.contains(expected)), "{sql}: {:?}", report.findings);
    }
}
