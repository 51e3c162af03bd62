//! Statements find their rows by key, however large the tables are.

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Row as _};

use crate::store::UsageBy;
use crate::store::sqlite::budgets::SPENT;
use crate::store::sqlite::ledger::REMOVALS;
use crate::store::sqlite::ledger_reads::{TRACE_READS, usage_sql};
use crate::store::sqlite::rows::UPDATES;

use super::fixture::fresh;

async fn assert_none_walks(statements: &[&str]) {
    let fresh = fresh().await;
    let mut connection = SqliteConnectOptions::new().filename(fresh.path()).connect().await.unwrap();
    for statement in statements {
        let sql = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
        let plan: Vec<String> =
            sqlx::query(sql).fetch_all(&mut connection).await.unwrap().iter().map(|row| row.get("detail")).collect();

        let walks = |step: &&String| step.starts_with("SCAN") && !step.contains("VIRTUAL TABLE");
        assert_eq!(plan.iter().find(walks), None, "{statement}: {plan:?}");
    }
}

#[tokio::test]
async fn no_update_walks_a_table() {
    assert_none_walks(&UPDATES).await;
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
