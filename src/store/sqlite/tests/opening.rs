//! Opening: what is checked before a store may serve.

use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use sqlx::sqlite::{SqliteConnectOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};

use crate::domain::{Sequence, Timestamp};
use crate::store::conformance::{Ingest, call, collection_name, new_task, scope};
use crate::store::sqlite::open::{Durability, check_durability, read_durability};
use crate::store::sqlite::{catalog, failure};
use crate::store::{
    CorpusStore as _, GenerationStore as _, IntegrityCheck, Ledger as _, LedgerEntry, OperationLog as _, SqliteStore,
    StoreError, StoreSettings, TaskStore as _, View, WithEmbeddings, WriteOutcome, check_truth,
};

use super::fixture::{Fresh, fresh};

async fn open_error(path: &Path) -> StoreError {
    SqliteStore::open(path, StoreSettings::default()).await.err().expect("opening must fail")
}

async fn run(path: &Path, sql: &str) {
    let mut connection = SqliteConnectOptions::new().filename(path).create_if_missing(true).connect().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

async fn closed_with_documents() -> Fresh {
    let fresh = fresh().await;
    for number in 0..200 {
        fresh.subject().put(&scope("acme"), &Ingest::new("c", &format!("d{number}"), &[number])).await;
    }
    fresh.store.close().await.unwrap();
    fresh
}

#[tokio::test]
async fn the_writer_syncs_every_commit() {
    let fresh = fresh().await;

    let expected = Durability { journal_mode: "wal".into(), synchronous: 2, foreign_keys: 1 };
    assert_eq!(fresh.store.durability, expected);
}

/// Killed while it made its database, a server refused to start ever after: the list of migrations was there, and the
/// mark of the first migration was not. Found by the test of all crash points.
#[tokio::test]
async fn a_first_start_that_was_cut_off_before_its_first_migration_is_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("plumb.db");
    run(
        &path,
        "CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL, \
        installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, success BOOLEAN NOT NULL, checksum BLOB NOT NULL, \
        execution_time BIGINT NOT NULL)",
    )
    .await;

    let store = SqliteStore::open(&path, StoreSettings::default()).await.unwrap();

    assert_eq!(store.last_sequence().await.unwrap(), Sequence(0));
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_connection_that_does_not_sync_every_commit_is_refused() {
    let fresh = fresh().await;
    let options = SqliteConnectOptions::new().filename(fresh.path()).synchronous(SqliteSynchronous::Normal);
    let mut connection = options.connect().await.unwrap();

    let found = read_durability(&mut connection).await.unwrap();

    assert_eq!(found.synchronous, 1);
    assert!(check_durability(&fresh.path(), &found).is_err());
}

#[tokio::test]
async fn everything_is_there_after_reopening() {
    let fresh = fresh().await;
    let owner = scope("acme");
    let ingest = Ingest::new("c", "d", &[1, 2]);
    fresh.subject().put(&owner, &ingest).await;
    fresh.subject().put(&owner, &Ingest::new("c", "e", &[3])).await;
    let before = fresh.store.document(&owner, &ingest.collection, &ingest.document).await.unwrap();

    let fresh = fresh.reopen().await;

    assert_eq!(fresh.store.document(&owner, &ingest.collection, &ingest.document).await.unwrap(), before);
    assert_eq!(fresh.store.last_sequence().await.unwrap(), Sequence(2));
    fresh.subject().delete(&owner, "c", "d").await;
    assert_eq!(fresh.store.last_sequence().await.unwrap(), Sequence(3), "numbers go on where they were");
}

#[tokio::test]
async fn closing_leaves_one_file_for_its_owner_alone() {
    let fresh = closed_with_documents().await;

    let files: Vec<_> =
        std::fs::read_dir(fresh.directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();

    assert_eq!(files, ["plumb.db"]);
    assert_eq!(std::fs::metadata(fresh.path()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_newer_database_is_refused_and_stays_as_it_is() {
    let fresh = closed_with_documents().await;
    run(&fresh.path(), "PRAGMA user_version = 99").await;
    let before = std::fs::read(fresh.path()).unwrap();

    let refused = open_error(&fresh.path()).await;

    assert!(matches!(refused, StoreError::TooNew { found: 99, .. }), "{refused:?}");
    assert!(std::fs::read(fresh.path()).unwrap() == before);
}

#[tokio::test]
async fn a_database_from_before_the_ledger_is_migrated_and_keeps_its_documents() {
    let fresh = closed_with_documents().await;
    undo_generations(&fresh.path()).await;
    undo_tasks(&fresh.path()).await;
    drop_all(&fresh.path(), &LEDGER_TABLES).await;
    run(&fresh.path(), "DELETE FROM _sqlx_migrations WHERE version = 2; PRAGMA user_version = 1;").await;
    let owner = scope("acme");
    let call = call("acme", 1);

    let fresh = fresh.reopen().await;

    fresh.store.record(vec![LedgerEntry::Call(Box::new(call.clone()))]).await.unwrap();
    assert!(fresh.store.trace(&owner, call.trace_id).await.unwrap().is_some());
    let documents = fresh.store.documents(&owner, &collection_name("c"), None, 500).await.unwrap();
    assert_eq!(documents.items.len(), 200);
    assert_eq!(fresh.store.last_sequence().await.unwrap(), Sequence(200));
}

#[tokio::test]
async fn a_database_from_before_tasks_is_migrated_and_keeps_its_ledger() {
    let fresh = closed_with_documents().await;
    let (owner, call) = (scope("acme"), call("acme", 1));
    let fresh = fresh.reopen().await;
    fresh.store.record(vec![LedgerEntry::Call(Box::new(call.clone()))]).await.unwrap();
    fresh.store.close().await.unwrap();
    undo_generations(&fresh.path()).await;
    undo_tasks(&fresh.path()).await;

    let fresh = fresh.reopen().await;

    let task = fresh.store.submit(&owner, new_task(1)).await.unwrap().task;
    assert_eq!(fresh.store.task(&owner, task.id, None).await.unwrap(), Some(task));
    assert_eq!(fresh.store.trace(&owner, call.trace_id).await.unwrap().unwrap().calls, [call]);
    let documents = fresh.store.documents(&owner, &collection_name("c"), None, 500).await.unwrap();
    assert_eq!(documents.items.len(), 200);
}

#[tokio::test]
async fn a_database_from_before_generations_is_migrated_and_its_documents_serve() {
    let fresh = closed_with_documents().await;
    undo_generations(&fresh.path()).await;
    let owner = scope("acme");

    let fresh = fresh.reopen().await;

    let status = fresh.store.generation_statuses(&owner, None).await.unwrap().remove(0);
    assert_eq!((status.counts.documents, status.counts.built, status.counts.serving), (200, 200, 200));
    assert_eq!((status.previous, status.changed_at), (None, status.generation.created_at));
    let ingest = Ingest::new("c", "d7", &[7]);
    let ids = ingest.chunk_ids(&owner.tenant);
    let hits =
        fresh.store.hydrate(&owner, (&ingest.collection, View::Serving), &ids, WithEmbeddings::Yes).await.unwrap();
    assert_eq!((hits.len(), hits[0].chunk.context.clone()), (1, None));
    assert!(matches!(fresh.subject().put(&owner, &ingest).await, WriteOutcome::Unchanged { version: 1, .. }));
    let retitled = ingest.title("new");
    assert!(matches!(fresh.subject().put(&owner, &retitled).await, WriteOutcome::Written { version: 1, .. }));
    fresh.store.close().await.unwrap();
    assert_eq!(check_truth(&fresh.path()).await.unwrap().findings, [""; 0]);
}

/// Makes format 3 of format 4.
async fn undo_generations(path: &Path) {
    drop_all(path, &["standbys", "contexts", "eval_cases", "shadow_searches"]).await;
    let indexes = [
        "chunks_standby",
        "chunks_of_embedding",
        "chunks_of_chunking",
        "documents_of_generation",
        "chunkings_of_generation",
    ];
    let columns = [
        ("generations", "serving_documents"),
        ("generations", "plan"),
        ("generations", "changed_at"),
        ("generations", "previous_id"),
        ("generations", "task_id"),
        ("generations", "removed_at"),
        ("generations", "promoted_at"),
        ("documents", "placed_by"),
        ("chunks", "standby_of"),
        ("chunks", "context"),
    ];
    let drop_indexes: String = indexes.iter().map(|index| format!("DROP INDEX {index};")).collect();
    let drop_columns: String =
        columns.iter().map(|(table, column)| format!("ALTER TABLE {table} DROP COLUMN {column};")).collect();
    run(path, &drop_indexes).await;
    run(path, &drop_columns).await;
    run(path, "DELETE FROM _sqlx_migrations WHERE version = 4; PRAGMA user_version = 3;").await;
}

/// Makes format 2 of format 3.
async fn undo_tasks(path: &Path) {
    run(path, "DROP VIEW task_days").await;
    drop_all(path, &TASK_TABLES).await;
    run(path, "DELETE FROM _sqlx_migrations WHERE version = 3; PRAGMA user_version = 2;").await;
}

async fn drop_all(path: &Path, tables: &[&str]) {
    let drop_tables: String = tables.iter().map(|table| format!("DROP TABLE {table};")).collect();
    run(path, &drop_tables).await;
}

/// What migration 3 makes, children first.
const TASK_TABLES: [&str; 8] =
    ["task_calls", "task_failures", "task_steps", "task_outputs", "task_inputs", "tasks", "task_counts", "runners"];

/// What migration 2 makes, children first.
const LEDGER_TABLES: [&str; 8] =
    ["spans", "traces", "searches", "llm_calls", "budgets", "budget_spending", "budget_reservations", "budget_events"];

#[tokio::test]
async fn a_database_of_somebody_else_is_refused_and_stays_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("plumb.db");
    run(&path, "CREATE TABLE theirs (x)").await;
    let before = std::fs::read(&path).unwrap();

    let refused = open_error(&path).await;

    assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused:?}");
    assert!(std::fs::read(&path).unwrap() == before);
}

#[tokio::test]
async fn a_damaged_header_is_refused_with_a_way_out() {
    let fresh = closed_with_documents().await;
    let mut file = std::fs::OpenOptions::new().write(true).open(fresh.path()).unwrap();
    file.write_all(b"garbage").unwrap();

    let refused = open_error(&fresh.path()).await;

    assert!(
        matches!(&refused, StoreError::Corrupt { detail } if detail.contains(failure::RESTORE_HINT)),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_file_that_lost_its_end_is_refused() {
    let fresh = closed_with_documents().await;
    let file = std::fs::OpenOptions::new().write(true).open(fresh.path()).unwrap();
    file.set_len(file.metadata().unwrap().len() - 3 * 8192).unwrap();

    let refused = open_error(&fresh.path()).await;

    assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused:?}");
}

#[tokio::test]
async fn the_full_check_finds_a_damaged_page() {
    let fresh = closed_with_documents().await;
    let mut file = std::fs::OpenOptions::new().write(true).open(fresh.path()).unwrap();
    file.seek(SeekFrom::Start(20 * 8192)).unwrap();
    file.write_all(&[0x5a; 8192]).unwrap();

    let settings = StoreSettings { integrity_check: IntegrityCheck::Always, ..StoreSettings::default() };
    let refused = SqliteStore::open(&fresh.path(), settings).await.err().expect("opening must fail");

    assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused:?}");
}

#[tokio::test]
async fn a_place_that_cannot_be_written_is_named() {
    let refused = open_error(Path::new("/nowhere/plumb.db")).await;

    let StoreError::Io { path, source } = refused else { panic!("{refused:?}") };
    assert_eq!((path.as_str(), source.kind()), ("/nowhere/plumb.db", std::io::ErrorKind::NotFound));
}

#[tokio::test]
async fn watermarks_stay_few_and_never_tell_too_early_a_time() {
    let fresh = fresh().await;
    let owner = scope("acme");
    let ingest = Ingest::new("c", "d", &[1]);
    fresh.subject().put(&owner, &ingest).await;
    let generation = fresh.subject().open(&owner, "c").await.live.id;
    let mut connection = SqliteConnectOptions::new().filename(fresh.path()).connect().await.unwrap();
    sqlx::query("BEGIN").execute(&mut connection).await.unwrap();
    for mark in 1..=10_000 {
        catalog::mark_indexed(&mut connection, generation, Sequence(mark), Timestamp(mark as i64)).await.unwrap();
    }
    sqlx::query("COMMIT").execute(&mut connection).await.unwrap();

    let (kept, early): (i64, i64) =
        sqlx::query_as("SELECT COUNT(*), SUM(at < sequence) FROM watermarks").fetch_one(&mut connection).await.unwrap();
    let chunk = fresh.store.chunk(&owner, ingest.chunk_ids(&owner.tenant)[0]).await.unwrap().unwrap();

    assert!(kept <= 4096, "{kept}");
    assert_eq!(early, 0);
    assert!(chunk.provenance.indexed_at >= Some(Timestamp(1)));
}
