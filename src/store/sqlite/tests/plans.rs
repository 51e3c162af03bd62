//! Statements find their rows by key, however large the tables are.

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Row as _, SqliteConnection};

use crate::store::UsageBy;
use crate::store::sqlite::budgets::SPENT;
use crate::store::sqlite::erase::{CHECKED, UNCHECKED};
use crate::store::sqlite::ledger::REMOVALS;
use crate::store::sqlite::ledger_reads::{TRACE_READS, usage_sql};
use crate::store::sqlite::rows::UPDATES;
use crate::store::sqlite::standby_rows::STANDBY_UPDATES;
use crate::store::sqlite::{
    case_rows, chunks, generation_reads, generation_rows, generation_writes, ledger_reads, lost_calls, queue_reads,
    removal, task_claims, task_reads, task_rows, task_submits, task_writes,
};

use super::fixture::{Fresh, fresh};

async fn connect(fresh: &Fresh) -> SqliteConnection {
    SqliteConnectOptions::new().filename(fresh.path()).connect().await.unwrap()
}

async fn plan(connection: &mut SqliteConnection, statement: &str) -> Vec<String> {
    let sql = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
    sqlx::query(sql).fetch_all(connection).await.unwrap().iter().map(|row| row.get("detail")).collect()
}

async fn assert_none_walks(statements: &[&str]) {
    let fresh = fresh().await;
    assert_none_walks_over(&mut connect(&fresh).await, statements).await;
}

async fn assert_none_walks_over(connection: &mut SqliteConnection, statements: &[&str]) {
    for statement in statements {
        let plan = plan(connection, statement).await;

        // A list that was bound, or rows that were found before, are no table.
        let no_tables = ["VIRTUAL TABLE", "(subquery", "CONSTANT ROW"];
        let walks =
            |step: &&String| step.starts_with("SCAN") && !no_tables.iter().any(|no_table| step.contains(no_table));
        assert_eq!(plan.iter().find(walks), None, "{statement}: {plan:?}");
    }
}

#[tokio::test]
async fn no_update_walks_a_table() {
    assert_none_walks(&UPDATES).await;
}

#[tokio::test]
async fn no_statement_about_generations_walks_a_table() {
    let statuses = [generation_rows::STATUS, generation_rows::STATUSES, generation_rows::ALL_STATUSES];
    let statements = [
        &STANDBY_UPDATES[..],
        &statuses,
        &generation_writes::WRITES,
        &generation_reads::READS,
        &case_rows::CASE_STATEMENTS,
        &removal::REMOVALS,
        &chunks::hydrations(),
    ];

    assert_none_walks(&statements.concat()).await;
}

#[tokio::test]
async fn no_removal_for_good_walks_a_table() {
    let fresh = fresh().await;
    let options = SqliteConnectOptions::new().filename(fresh.path()).foreign_keys(false);

    assert_none_walks_over(&mut options.connect().await.unwrap(), &UNCHECKED).await;
    assert_none_walks(&CHECKED).await;
}

#[tokio::test]
async fn no_removal_of_the_ledger_walks_a_table() {
    assert_none_walks(&REMOVALS).await;
}

#[tokio::test]
async fn no_read_of_the_ledger_walks_a_table() {
    let usage =
        [UsageBy::Tenant, UsageBy::Task, UsageBy::Model, UsageBy::Session, UsageBy::Day, UsageBy::PromptVersion];

    let statements: Vec<&str> = usage.map(usage_sql).into_iter().chain(TRACE_READS).chain([SPENT]).collect();

    assert_none_walks(&statements).await;
}

#[tokio::test]
async fn no_read_of_tasks_walks_a_table() {
    let others = [ledger_reads::COST, task_rows::TASK, task_submits::NEWEST, lost_calls::ATTEMPTS, task_writes::HELD];

    let statements: Vec<&str> = task_reads::READS.into_iter().chain(queue_reads::READS).chain(others).collect();

    assert_none_walks(&statements).await;
}

#[tokio::test]
async fn no_write_to_tasks_walks_a_table() {
    use {task_claims as claims, task_submits as submits, task_writes as writes};
    let of_submits = [
        submits::OPEN_COUNT,
        submits::INSERT,
        submits::TAKE_OVER,
        submits::RETIRE,
        submits::INSERT_RERUN,
        submits::COPY_INPUTS,
        submits::FORGET_STEPS,
        submits::FORGET_RUNS,
    ];
    let of_leases = [writes::CLOSE_ITEMS, writes::CLOSE_CALLS, writes::EXPECT, writes::FINISH, writes::LET_GO];
    let of_claims = [
        claims::PROMOTE,
        claims::CLAIM,
        claims::CLAIMED,
        claims::WISH,
        claims::BEAT_OF,
        claims::HELD_BY,
        claims::HELD_BY_ALL,
        claims::TAKE_BACK,
        claims::SHORTEN_WAITS,
    ];

    let statements = [&of_submits[..], &of_leases, &of_claims, &lost_calls::LOST].concat();

    assert_none_walks(&statements).await;
}

/// However many tasks are behind the first of a line, they are not read: the index has the line's order.
#[tokio::test]
async fn a_line_is_read_from_its_head() {
    let fresh = fresh().await;
    let plan = plan(&mut connect(&fresh).await, queue_reads::HEADS).await;

    let line = plan.iter().position(|step| step.contains("tasks_queued (tenant=? AND kind=?)"));
    let sorts = plan.iter().filter(|step| step.contains("TEMP B-TREE")).count();
    assert!(line.is_some(), "{plan:?}");
    assert!(plan.iter().any(|step| step.contains("c USING PRIMARY KEY (status=?)")), "{plan:?}");
    assert!(sorts <= 1, "only what was found is sorted: {plan:?}");
}
