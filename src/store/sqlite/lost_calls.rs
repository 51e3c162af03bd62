//! Calls to language models whose end nobody will tell: they count as having cost the most they could.

use std::collections::HashMap;

use sqlx::SqliteConnection;

use crate::domain::{CallId, TaskKey};
use crate::store::StoreError;

use super::codec::{Columns, from_text, id_text};
use super::ledger_rows::call_columns;
use super::script::Script;

macro_rules! lost {
    () => {
        "(SELECT call_id FROM task_calls WHERE task IN (SELECT value FROM json_each(?)))"
    };
}

/// Each over a list of tasks, in this order: the calls that these left open become rows of the ledger, their
/// reservations are charged and go, and they are open no more.
///
/// The rows have no span of their own; the id of one is never all zero, and the call's is as good as chance.
pub(super) const LOST: [&str; 4] = [
    concat!(
        "INSERT INTO llm_calls (",
        call_columns!(),
        ") SELECT call_id, 1 + COALESCE((SELECT MAX(attempt) FROM llm_calls l WHERE l.call_id = c.call_id), 0), \
         trace_id, substr(call_id, 5, 16), tenant, purpose, session_id, key_id, provider, model, NULL, prompt_name, \
         prompt_version, prompt_hash, opened_at, 0, NULL, 'unknown', NULL, NULL, 0, 'miss', input_tokens, 0, \
         output_tokens, 'worst_case', cost_nanousd, NULL, NULL FROM task_calls c \
         WHERE task IN (SELECT value FROM json_each(?))"
    ),
    concat!(
        "INSERT INTO budget_spending (account, period, since, cost_nanousd, tokens, calls) \
         SELECT account, period, since, cost_nanousd, tokens, calls FROM budget_reservations WHERE call_id IN ",
        lost!(),
        " ON CONFLICT (account, period, since) DO UPDATE SET \
         cost_nanousd = MIN(cost_nanousd, 9223372036854775807 - excluded.cost_nanousd) + excluded.cost_nanousd, \
         tokens = MIN(tokens, 9223372036854775807 - excluded.tokens) + excluded.tokens, \
         calls = MIN(calls, 9223372036854775807 - excluded.calls) + excluded.calls"
    ),
    concat!("DELETE FROM budget_reservations WHERE call_id IN ", lost!()),
    "DELETE FROM task_calls WHERE task IN (SELECT value FROM json_each(?))",
];

/// Counts the calls that these tasks left open.
pub(super) async fn count(connection: &mut SqliteConnection, tasks: &[TaskKey]) -> Result<(), StoreError> {
    let mut script = Script::new(connection);
    for sql in LOST {
        script.list(sql, tasks, |key| key.0.to_string());
    }
    script.flush().await
}

/// The statement of [`attempts`].
pub(super) const ATTEMPTS: &str = "SELECT value, (SELECT MAX(attempt) FROM llm_calls WHERE call_id = value) \
    FROM json_each(?)";

/// The newest attempt of each call that the ledger knows.
pub(super) async fn attempts(
    connection: &mut SqliteConnection,
    calls: impl Iterator<Item = &CallId>,
) -> Result<HashMap<CallId, u32>, StoreError> {
    let calls: Vec<String> = calls.map(|call| format!("\"{}\"", id_text("cal_", &call.0))).collect();
    if calls.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query(ATTEMPTS).bind(format!("[{}]", calls.join(","))).fetch_all(&mut *connection).await?;
    let mut attempts = HashMap::with_capacity(rows.len());
    for row in &rows {
        let mut columns = Columns::of(row);
        let call = from_text("llm_calls.call_id", columns.take()?)?;
        if let Some(attempt) = columns.take::<Option<i64>>()? {
            attempts.insert(call, u32::try_from(attempt).unwrap_or(u32::MAX));
        }
    }
    Ok(attempts)
}
