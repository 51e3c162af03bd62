//! Tasks in SQLite: what survives, what shares an fsync, what a clock can do, and what the tables say to people.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

use crate::domain::{RunnerId, StepRecord, Task, TaskStatus, Timestamp, Wish};
use crate::store::conformance::{call, failure, lease, new_task, problem, record, runner, scope};
use crate::store::{
    Cell, ClaimWish, Console, Lease, Ledger as _, LedgerEntry, NewTask, QueryLimits, SqliteStore, StoreError,
    StoreSettings, TaskEnd, TaskQueue as _, TaskStore as _,
};

use super::fixture::{Fresh, fresh, fresh_with};

const DAY: i64 = 86_400_000_000;

async fn claim(store: &SqliteStore, by: RunnerId, task: &Task) -> Task {
    let wish = ClaimWish { key: task.key, kind_limit: 100, tenant_limit: 100 };
    store.claim(by, vec![wish], Timestamp(5)).await.unwrap().remove(0).unwrap()
}

async fn held(store: &SqliteStore, number: u64) -> (Task, Lease) {
    let task = store.submit(&scope("acme"), new_task(number)).await.unwrap().task;
    let task = claim(store, runner(1), &task).await;
    let lease = lease(&task, runner(1));
    (task, lease)
}

#[tokio::test]
async fn what_was_recorded_is_there_after_reopening() {
    let fresh = fresh().await;
    let (task, lease) = held(&fresh.store, 1).await;
    let entry = LedgerEntry::Call(Box::new(call("acme", 1)));
    fresh.store.checkpoint(lease, record(0, 2), vec![entry]).await.unwrap();
    fresh.store.note_failure(lease, failure(&task, Some(("read", 1)), 1), Vec::new()).await.unwrap();
    let before = fresh.store.task(&scope("acme"), task.id, None).await.unwrap();

    let fresh = fresh.reopen().await;

    assert_eq!(fresh.store.task(&scope("acme"), task.id, None).await.unwrap(), before);
    assert_eq!(fresh.store.recorded(task.key).await.unwrap(), [record(0, 2)]);
    assert_eq!(fresh.store.failures(&task, 9).await.unwrap(), [failure(&task, Some(("read", 1)), 1)]);
    assert_eq!(fresh.store.cost(&task).await.unwrap().calls, 1);
    // The lease outlives the store: whoever may take it must say so.
    fresh.store.checkpoint(lease, record(1, 2), Vec::new()).await.unwrap();
}

#[tokio::test]
async fn concurrent_checkpoints_share_their_fsyncs() {
    let fresh = fresh().await;
    let (task, lease) = held(&fresh.store, 1).await;
    let before = fresh.store.commit_count();

    let written = join_all((0..256).map(|item| fresh.store.checkpoint(lease, record(item, 256), Vec::new()))).await;

    assert!(written.iter().all(Result::is_ok));
    let commits = fresh.store.commit_count() - before;
    assert!(commits <= 32, "256 checkpoints took {commits} commits");
    assert_eq!(fresh.store.recorded(task.key).await.unwrap().len(), 256);
}

#[tokio::test]
async fn a_checkpoint_that_breaks_a_rule_leaves_nothing_behind_and_harms_no_neighbour() {
    let fresh = fresh().await;
    let (task, lease) = held(&fresh.store, 1).await;
    const SQL: &str = "CREATE TRIGGER forbidden BEFORE INSERT ON task_steps WHEN NEW.item = 3 \
        BEGIN SELECT RAISE(ABORT, 'forbidden'); END";
    let mut connection = SqliteConnectOptions::new().filename(fresh.path()).connect().await.unwrap();
    sqlx::raw_sql(SQL).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();

    let write = |item: u32| {
        let entry = LedgerEntry::Call(Box::new(call("acme", u64::from(item))));
        fresh.store.checkpoint(lease, record(item, 9), vec![entry])
    };
    let owner = scope("acme");
    let submit = |number: u64| fresh.store.submit(&owner, new_task(number));
    let (written, submitted) = tokio::join!(join_all((0..9).map(write)), join_all((2..5).map(submit)),);

    for (item, written) in (0..).zip(&written) {
        assert_eq!(written.is_ok(), item != 3, "{item}: {written:?}");
        let story = fresh.store.trace(&scope("acme"), call("acme", item).trace_id).await.unwrap();
        let calls = story.map(|story| story.calls.len()).unwrap_or_default();
        assert_eq!(calls, usize::from(item != 3), "{item}");
    }
    assert!(submitted.iter().all(Result::is_ok), "{submitted:?}");
    assert_eq!(fresh.store.recorded(task.key).await.unwrap().len(), 8);
}

#[tokio::test]
async fn runners_wait_where_callers_are_refused() {
    let fresh = fresh_with(StoreSettings { write_queue_limit: 2, ..StoreSettings::default() }).await;
    let (_, lease) = held(&fresh.store, 1).await;

    let written = join_all((0..50).map(|item| fresh.store.checkpoint(lease, record(item, 50), Vec::new()))).await;
    let owner = scope("acme");
    let submit = |number: u64| fresh.store.submit(&owner, new_task(number));
    let submitted = join_all((2..50).map(submit)).await;

    assert!(written.iter().all(Result::is_ok), "{written:?}");
    let refused = submitted.iter().filter(|answer| matches!(answer, Err(StoreError::Overloaded { limit: 2 })));
    assert_eq!(refused.count(), 46);
}

/// A clock that goes where it is told.
async fn with_clock(fresh: &Fresh) -> (SqliteStore, Arc<AtomicI64>) {
    let clock = Arc::new(AtomicI64::new(500 * DAY));
    let read = Arc::clone(&clock);
    let now = Arc::new(move || Timestamp(read.load(Ordering::SeqCst)));
    let path = fresh.directory.path().join("clocked.db");
    (SqliteStore::open_with_clock(&path, StoreSettings::default(), now).await.unwrap(), clock)
}

#[tokio::test]
async fn a_clock_that_went_back_makes_no_wait_longer_than_it_was_meant() {
    let fresh = fresh().await;
    let (store, clock) = with_clock(&fresh).await;
    let (task, lease) = held(&store, 1).await;
    store.end(lease, TaskEnd::Retry { problem: problem("later"), wait_us: 7_000_000 }, None, Vec::new()).await.unwrap();
    let due = NewTask { wait_us: 3_000_000, ..new_task(2) };
    let due = store.submit(&scope("acme"), due).await.unwrap().task;
    let now = Timestamp(100 * DAY);
    clock.store(now.0, Ordering::SeqCst);
    let far = store.queue(now, 9).await.unwrap().next_ready_us.unwrap();

    store.take_back_all(now).await.unwrap();

    assert!(far > 399 * DAY as u64, "{far}");
    assert_eq!(store.queue(now, 9).await.unwrap().next_ready_us, Some(3_000_000));
    let ready = async |task: &Task| store.task(&scope("acme"), task.id, None).await.unwrap().unwrap().ready_at;
    assert_eq!(ready(&task).await, Timestamp(now.0 + 7_000_000));
    assert_eq!(ready(&due).await, Timestamp(now.0 + 3_000_000));
    store.take_back_all(Timestamp(now.0 + 1)).await.unwrap();
    assert_eq!(ready(&due).await, Timestamp(now.0 + 3_000_000), "it is never made longer");
    store.close().await.unwrap();
}

#[tokio::test]
async fn the_order_of_tasks_does_not_follow_a_clock_that_went_back() {
    let fresh = fresh().await;
    let (store, clock) = with_clock(&fresh).await;
    let first = store.submit(&scope("acme"), new_task(1)).await.unwrap().task;
    clock.store(DAY, Ordering::SeqCst);
    let second = store.submit(&scope("acme"), new_task(2)).await.unwrap().task;

    let view = store.queue(Timestamp(DAY), 9).await.unwrap();

    assert!(second.created_at < first.created_at);
    assert_eq!(view.heads.iter().map(|head| head.key).collect::<Vec<_>>(), [first.key, second.key]);
    store.close().await.unwrap();
}

#[tokio::test]
async fn the_view_says_what_failure_days_say_and_the_console_reads_all_tables() {
    let fresh = fresh().await;
    for number in 1..=3 {
        let (task, lease) = held(&fresh.store, number).await;
        let end = match number {
            1 => TaskEnd::Failed { problem: problem("no") },
            _ => TaskEnd::Succeeded { output: new_task(1).input },
        };
        let failed = (number == 1).then(|| failure(&task, None, 1));
        fresh.store.end(lease, end, failed, Vec::new()).await.unwrap();
    }
    let mut console = Console::open(&fresh.path()).await.unwrap();
    let limits = QueryLimits { rows: 99, bytes: 99_999, time: Duration::from_secs(60) };

    let sql = "SELECT day, kind, succeeded, failed, failures FROM task_days WHERE tenant = 'acme' ORDER BY day DESC";
    let viewed = console.query(sql, limits).await.unwrap().rows;

    let days = fresh.store.failure_days(&scope("acme"), Timestamp(0)).await.unwrap();
    let number = |number: u64| Cell::Integer(number as i64);
    let told = days.iter().map(|day| {
        let (name, kind) = (Cell::Text(day.day.clone()), Cell::Text(day.kind.to_string()));
        vec![name, kind, number(day.succeeded), number(day.failed), number(day.failures)]
    });
    assert_eq!(viewed, told.collect::<Vec<_>>());
    assert_eq!(viewed.len(), 2);
    for table in ["tasks", "task_inputs", "task_outputs", "task_steps", "task_failures", "task_calls", "runners"] {
        console.query(&format!("SELECT * FROM {table}"), limits).await.unwrap();
    }
    console.close().await.unwrap();
}

#[tokio::test]
async fn a_task_with_many_items_is_forgotten_in_parts() {
    let fresh = fresh().await;
    let (task, lease) = held(&fresh.store, 1).await;
    let records: Vec<StepRecord> = (0..2_500).map(|item| record(item, 2_500)).collect();
    join_all(records.into_iter().map(|record| fresh.store.checkpoint(lease, record, Vec::new()))).await;
    fresh.store.end(lease, TaskEnd::Cancelled, None, Vec::new()).await.unwrap();
    assert_eq!(fresh.store.recorded(task.key).await.unwrap().len(), 2_500);
    let before = fresh.store.commit_count();

    let forgotten = fresh.store.forget_tasks(Timestamp(i64::MAX)).await.unwrap();

    assert_eq!(forgotten, 1);
    assert_eq!(fresh.store.commit_count() - before, 3);
    let mut connection = SqliteConnectOptions::new().filename(fresh.path()).connect().await.unwrap();
    for table in ["tasks", "task_inputs", "task_outputs", "task_steps", "task_failures", "task_calls", "task_counts"] {
        let sql = sqlx::AssertSqlSafe(format!("SELECT COUNT(*) FROM {table}"));
        let rows: i64 = sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap();
        assert_eq!(rows, 0, "{table}");
    }
}

#[tokio::test]
async fn a_closed_store_has_no_tasks() {
    let fresh = fresh().await;
    let owner = scope("acme");
    let (task, lease) = held(&fresh.store, 1).await;
    fresh.store.close().await.unwrap();

    let refused = [
        fresh.store.submit(&owner, new_task(2)).await.err(),
        fresh.store.task(&owner, task.id, None).await.err(),
        fresh.store.wish(&owner, task.id, Wish::Cancel).await.err(),
        fresh.store.checkpoint(lease, record(0, 1), Vec::new()).await.err(),
        fresh.store.claim(runner(1), Vec::from([wish_for(&task)]), Timestamp(0)).await.err(),
        fresh.store.queue(Timestamp(0), 1).await.err(),
        fresh.store.beat(runner(1)).await.err(),
        fresh.store.forget_tasks(Timestamp(0)).await.err(),
    ];

    for refused in refused {
        assert!(matches!(refused, Some(StoreError::Closed)), "{refused:?}");
    }
}

fn wish_for(task: &Task) -> ClaimWish {
    ClaimWish { key: task.key, kind_limit: 1, tenant_limit: 1 }
}

#[tokio::test]
async fn a_full_disk_refuses_a_checkpoint_and_keeps_the_lease() {
    let fresh = fresh_with(StoreSettings { max_size_mib: Some(1), ..StoreSettings::default() }).await;
    let (task, lease) = held(&fresh.store, 1).await;
    let big = crate::domain::JsonText::of_value(&"x".repeat(2 << 20).into());
    let big = StepRecord { output: big, ..record(0, 2) };

    let refused = fresh.store.checkpoint(lease, big, Vec::new()).await;

    assert!(matches!(refused, Err(StoreError::Full(_))), "{refused:?}");
    fresh.store.checkpoint(lease, record(1, 2), Vec::new()).await.unwrap();
    assert_eq!(fresh.store.recorded(task.key).await.unwrap(), [record(1, 2)]);
    let status = fresh.store.task(&scope("acme"), task.id, None).await.unwrap().unwrap().status;
    assert_eq!(status, TaskStatus::Running);
}
