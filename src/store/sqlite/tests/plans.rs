//! Statements find their rows by key, however large the tables are.

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Row as _};

use crate::store::sqlite::rows::UPDATES;

use super::fixture::fresh;

#[tokio::test]
async fn no_update_walks_a_table() {
    let fresh = fresh().await;
    let mut connection = SqliteConnectOptions::new().filename(fresh.path()).connect().await.unwrap();

    for update in UPDATES {
        let sql = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {update}"));
        let plan: Vec<String> =
            sqlx::query(sql).fetch_all(&mut connection).await.unwrap().iter().map(|row| row.get("detail")).collect();

        let walks = |step: &&String| step.starts_with("SCAN") && !step.contains("VIRTUAL TABLE");
        assert_eq!(plan.iter().find(walks), None, "{update}: {plan:?}");
    }
}
