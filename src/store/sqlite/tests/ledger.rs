//! The ledger in SQLite: what survives, what is one transaction, and who waits for whom.

use std::sync::Arc;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

use crate::domain::{Budget, BudgetPeriod, LlmCall, Nanousd, Timestamp};
use crate::store::conformance::{Ingest, account, amount, call, request, reservation, scope};
use crate::store::{Ledger as _, LedgerEntry, LedgerQueue, StoreError, StoreSettings, UsageBy, WriteOutcome};

use super::fixture::{Fresh, fresh, fresh_with};

fn entry(call: LlmCall) -> LedgerEntry {
    LedgerEntry::Call(Box::new(call))
}

fn budget(alert_at: f64) -> Budget {
    Budget {
        scope: "everything".parse().unwrap(),
        period: BudgetPeriod::Day,
        limit: Some(Nanousd(9)),
        limit_tokens: None,
        limit_calls: None,
        alert_at,
    }
}

/// Lets the schema refuse calls for the task `forbidden`.
async fn forbid_a_task(fresh: &Fresh) {
    const SQL: &str = "CREATE TRIGGER forbidden BEFORE INSERT ON llm_calls WHEN NEW.task = 'forbidden' \
        BEGIN SELECT RAISE(ABORT, 'forbidden'); END";
    let mut connection = SqliteConnectOptions::new().filename(fresh.path()).connect().await.unwrap();
    sqlx::raw_sql(SQL).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

fn forbidden(number: u64) -> LedgerEntry {
    entry(LlmCall { task: "forbidden".into(), ..call("acme", number) })
}

async fn attempts(fresh: &Fresh) -> u64 {
    let rows = fresh.store.usage(&scope("acme"), UsageBy::Tenant, Timestamp(0), 9).await.unwrap();
    rows.iter().map(|row| row.attempts).sum()
}

#[tokio::test]
async fn what_the_ledger_was_told_is_there_after_reopening() {
    let fresh = fresh().await;
    let reserved = reservation(2, &[account("everything"), account("tenant:acme")], amount(50));
    let entries = vec![
        entry(call("acme", 1)),
        LedgerEntry::Trace(Box::new(request(Some("acme"), 1))),
        LedgerEntry::Reserve(reserved.clone()),
        LedgerEntry::Settle { call_id: call("acme", 1).call_id, charges: vec![(account("everything"), amount(3))] },
    ];
    fresh.store.record(entries).await.unwrap();
    fresh.store.put_budget(budget(0.5)).await.unwrap();

    let fresh = fresh.reopen().await;

    // Rows of traces are numbered on from where they were.
    fresh.store.record(vec![LedgerEntry::Trace(Box::new(request(Some("acme"), 1)))]).await.unwrap();
    let story = fresh.store.trace(&scope("acme"), call("acme", 1).trace_id).await.unwrap().unwrap();
    assert_eq!(story.calls, [call("acme", 1)]);
    assert_eq!(story.requests, [request(Some("acme"), 1), request(Some("acme"), 1)]);
    assert_eq!(fresh.store.reservations().await.unwrap(), [reserved]);
    assert_eq!(fresh.store.spent(Timestamp(0)).await.unwrap(), [(account("everything"), amount(3))]);
    assert_eq!(fresh.store.budgets().await.unwrap()[0].budget, budget(0.5));
}

#[tokio::test]
async fn a_record_is_one_transaction_and_an_empty_one_is_none() {
    let fresh = fresh().await;
    let before = fresh.store.commit_count();

    fresh.store.record((1..600).map(|number| entry(call("acme", number))).collect()).await.unwrap();
    fresh.store.record(Vec::new()).await.unwrap();

    assert_eq!(fresh.store.commit_count() - before, 1);
}

#[tokio::test]
async fn a_record_that_breaks_a_rule_leaves_nothing_behind_and_harms_no_neighbour() {
    let fresh = fresh().await;
    forbid_a_task(&fresh).await;
    let owner = scope("acme");
    let subject = fresh.subject();
    subject.open(&owner, "c").await;
    let settled = LedgerEntry::Settle { call_id: call("acme", 1).call_id, charges: vec![(account("x"), amount(1))] };
    let trace = LedgerEntry::Trace(Box::new(request(Some("acme"), 900)));

    let document = Ingest::new("c", "d", &[1]);
    let (put, bad, good, refused, replaced) = tokio::join!(
        subject.put(&owner, &document),
        fresh.store.record(vec![settled, trace, entry(call("acme", 1)), forbidden(2)]),
        fresh.store.record(vec![entry(call("acme", 3)), LedgerEntry::Trace(Box::new(request(Some("acme"), 3)))]),
        fresh.store.put_budget(budget(f64::NAN)),
        fresh.store.put_budget(budget(0.5)),
    );

    assert!(matches!(put, WriteOutcome::Written { .. }), "{put:?}");
    assert!(matches!(bad, Err(StoreError::Sql(_))), "{bad:?}");
    assert!(matches!(refused, Err(StoreError::Sql(_))), "{refused:?}");
    assert!(good.is_ok() && replaced.is_ok(), "{good:?} {replaced:?}");
    assert_eq!(attempts(&fresh).await, 1);
    assert_eq!(fresh.store.spent(Timestamp(0)).await.unwrap(), []);
    assert_eq!(fresh.store.trace(&owner, request(None, 900).trace_id).await.unwrap(), None);
    let kept = fresh.store.trace(&owner, call("acme", 3).trace_id).await.unwrap().unwrap();
    assert_eq!(kept.requests, [request(Some("acme"), 3)]);
    assert_eq!(fresh.store.budgets().await.unwrap()[0].budget, budget(0.5));
}

#[tokio::test]
async fn the_ledger_waits_where_documents_are_refused() {
    let fresh = fresh_with(StoreSettings { write_queue_limit: 1, ..StoreSettings::default() }).await;

    let record = |number: u64| fresh.store.record(vec![entry(call("acme", number))]);
    let told = futures::future::join_all((1..=50).map(record)).await;

    assert!(told.iter().all(Result::is_ok), "{told:?}");
    assert_eq!(attempts(&fresh).await, 50);
}

#[tokio::test]
async fn a_closed_store_takes_no_records() {
    let fresh = fresh().await;
    fresh.store.close().await.unwrap();

    let refused = fresh.store.record(vec![entry(call("acme", 1))]).await;

    assert!(matches!(refused, Err(StoreError::Closed)), "{refused:?}");
}

#[tokio::test]
async fn what_went_through_the_queue_is_in_the_database_once_its_task_has_ended() {
    let Fresh { directory: _directory, store } = fresh().await;
    let store = Arc::new(store);
    let (queue, task) = LedgerQueue::start(store.clone());
    for number in 1..=2_000 {
        queue.submit(vec![entry(call("acme", number))]).await;
    }

    drop(queue);
    task.await.unwrap();

    let rows = store.usage(&scope("acme"), UsageBy::Tenant, Timestamp(0), 9).await.unwrap();
    assert_eq!(rows[0].attempts, 2_000);
}
