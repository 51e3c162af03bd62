//! Questions in SQL: what is answered, and that nothing can be written.

use std::time::Duration;

use crate::store::conformance::{Ingest, call, scope};
use crate::store::{Cell, Console, ConsoleError, Cut, Ledger as _, LedgerEntry, QueryLimits, Table};

use super::fixture::{Fresh, fresh};

const LIMITS: QueryLimits = QueryLimits { rows: 100, bytes: 1 << 20, time: Duration::from_secs(60) };

async fn ask(fresh: &Fresh, sql: &str) -> Result<Table, ConsoleError> {
    ask_within(fresh, sql, LIMITS).await
}

async fn ask_within(fresh: &Fresh, sql: &str, limits: QueryLimits) -> Result<Table, ConsoleError> {
    let mut console = Console::open(&fresh.path()).await.unwrap();
    let answer = console.query(sql, limits).await;
    console.close().await.unwrap();
    answer
}

#[tokio::test]
async fn a_question_is_answered_while_the_store_is_open() {
    let fresh = fresh().await;
    fresh.subject().put(&scope("acme"), &Ingest::new("c", "d", &[1])).await;
    fresh.store.record(vec![LedgerEntry::Call(Box::new(call("acme", 7)))]).await.unwrap();

    let table = ask(&fresh, "SELECT tenant, cost_nanousd, status FROM llm_calls;").await.unwrap();

    assert_eq!(table.columns, ["tenant", "cost_nanousd", "status"]);
    assert_eq!(table.rows, [vec![Cell::Text("acme".into()), Cell::Integer(7), Cell::Null]]);
    assert_eq!(table.cut, None);
}

#[tokio::test]
async fn a_question_is_answered_once_the_store_is_closed_and_the_store_opens_again() {
    let fresh = fresh().await;
    fresh.subject().put(&scope("acme"), &Ingest::new("c", "d", &[1])).await;
    fresh.store.close().await.unwrap();

    let table = ask(&fresh, "SELECT name FROM documents").await.unwrap();

    assert_eq!(table.rows, [vec![Cell::Text("d".into())]]);
    // A reader cannot remove the log that it made; one with something in it would look like a crash.
    let log = std::fs::metadata(fresh.directory.path().join("plumb.db-wal")).map_or(0, |file| file.len());
    assert_eq!(log, 0);
    let fresh = fresh.reopen().await;
    fresh.subject().put(&scope("acme"), &Ingest::new("c", "e", &[1])).await;
}

#[tokio::test]
async fn every_kind_of_value_is_told() {
    let fresh = fresh().await;

    let table = ask(&fresh, "VALUES (1.5, x'00ff', NULL, 'é', CAST(x'ff41' AS TEXT), x'', '')").await.unwrap();

    let text = |text: &str| Cell::Text(text.into());
    let blob = |bytes: &[u8]| Cell::Blob(bytes.into());
    let expected = [Cell::Real(1.5), blob(&[0, 255]), Cell::Null, text("é"), text("\u{fffd}A"), blob(&[]), text("")];
    assert_eq!(table.rows, [expected]);
}

#[tokio::test]
async fn columns_are_named_even_without_rows() {
    let fresh = fresh().await;

    let table = ask(&fresh, "SELECT account, tokens FROM budget_spending").await.unwrap();

    assert_eq!((table.columns, table.rows.len()), (vec!["account".to_owned(), "tokens".to_owned()], 0));
}

#[tokio::test]
async fn nothing_can_be_written() {
    let fresh = fresh().await;
    fresh.store.record(vec![LedgerEntry::Call(Box::new(call("acme", 7)))]).await.unwrap();

    for (sql, sentence) in [
        ("DELETE FROM llm_calls", "DELETE is refused"),
        ("VACUUM INTO 'copy.db'", "VACUUM is refused"),
        ("ATTACH 'other.db' AS other", "ATTACH is refused"),
        ("PRAGMA query_only = 0", "PRAGMA is refused"),
        ("WITH x AS (SELECT 1) DELETE FROM llm_calls", "the statement writes"),
        ("SELECT 1; DELETE FROM llm_calls", "more than one statement"),
        ("SELECT * FROM nowhere", "no such table: nowhere"),
    ] {
        let refused = ask(&fresh, sql).await.unwrap_err();
        assert!(refused.to_string().contains(sentence), "{sql}: {refused}");
    }
    let count = ask(&fresh, "SELECT COUNT(*) FROM llm_calls").await.unwrap();
    assert_eq!(count.rows, [vec![Cell::Integer(1)]]);
}

#[tokio::test]
async fn a_long_answer_is_cut_and_says_so() {
    const SERIES: &str = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i, 'abcd' FROM n";
    let fresh = fresh().await;

    let by_rows = ask_within(&fresh, SERIES, QueryLimits { rows: 3, ..LIMITS }).await.unwrap();
    let by_bytes = ask_within(&fresh, SERIES, QueryLimits { bytes: 30, ..LIMITS }).await.unwrap();
    let exact = ask_within(&fresh, "VALUES (1), (2)", QueryLimits { rows: 2, ..LIMITS }).await.unwrap();

    assert_eq!((by_rows.rows.len(), by_rows.cut), (3, Some(Cut::Rows)));
    assert_eq!((by_bytes.rows.len(), by_bytes.cut), (3, Some(Cut::Bytes)));
    assert_eq!((exact.rows.len(), exact.cut), (2, None));
}

#[tokio::test]
async fn a_question_that_takes_too_long_is_broken_off() {
    const ENDLESS: &str = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT SUM(i) FROM n";
    let fresh = fresh().await;

    let limits = QueryLimits { time: Duration::from_millis(50), ..LIMITS };
    let refused = ask_within(&fresh, ENDLESS, limits).await.unwrap_err();

    assert!(matches!(refused, ConsoleError::TooLong { .. }), "{refused:?}");
    assert_eq!(refused.to_string(), "the statement took longer than 50ms");
}

#[tokio::test]
async fn the_tables_are_listed_with_their_columns() {
    let fresh = fresh().await;
    let mut console = Console::open(&fresh.path()).await.unwrap();

    let table = console.tables(QueryLimits { rows: 1_000, ..LIMITS }).await.unwrap();

    assert_eq!(table.columns, ["table", "column", "type"]);
    let row = ["llm_calls", "cost_nanousd", "INTEGER"].map(|text| Cell::Text(text.into()));
    assert!(table.rows.contains(&row.to_vec()));
    assert!(!table.rows.iter().any(|row| row[0] == Cell::Text("_sqlx_migrations".into())));
}

#[tokio::test]
async fn a_database_that_is_not_there_is_named_and_not_made() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("plumb.db");

    let missing = Console::open(&path).await.unwrap_err();

    assert!(matches!(missing, ConsoleError::Missing { .. }), "{missing:?}");
    assert!(!path.exists());
}
