//! Budgets that were set at run time, what was spent from each account, and what is reserved.

use std::sync::LazyLock;

use sqlx::SqliteConnection;

use crate::domain::{Account, Amount, Budget, BudgetPeriod, Nanousd, Reservation, Timestamp};
use crate::store::{StoreError, StoredBudget};

use super::codec::{Columns, from_text, id_text};
use super::ledger_rows::word;
use super::script::{Insert, Parameters};

/// Adds to what was spent; at the largest number that SQLite knows it stays there.
pub(super) static SPENDING: LazyLock<Insert> = LazyLock::new(|| {
    let add = |column: &str| {
        format!("{column} = MIN({column}, {max} - excluded.{column}) + excluded.{column}", max = i64::MAX)
    };
    let sums = ["cost_nanousd", "tokens", "calls"].map(add).join(", ");
    let conflict = format!("ON CONFLICT (account, period, since) DO UPDATE SET {sums}");
    Insert::steady("budget_spending", "account, period, since, cost_nanousd, tokens, calls", &conflict)
});
/// Two budgets may count a call in the same account, which is one row then.
pub(super) static RESERVATIONS: LazyLock<Insert> = LazyLock::new(|| {
    let columns = "call_id, tenant, account, period, since, cost_nanousd, tokens, calls, made_at";
    Insert::steady("budget_reservations", columns, "ON CONFLICT (call_id, account, period) DO NOTHING")
});

pub(super) fn bind_spent((account, amount): &(&Account, Amount), to: &mut Parameters) {
    bind_account(account, to);
    bind_amount(amount, to);
}

/// A reservation in one of its accounts.
pub(super) struct ReservationRow<'a> {
    pub reservation: &'a Reservation,
    pub account: &'a Account,
}

impl ReservationRow<'_> {
    pub(super) fn bind(&self, to: &mut Parameters) {
        let reservation = self.reservation;
        to.add(id_text("cal_", &reservation.call_id.0)).add(reservation.tenant.as_str());
        bind_account(self.account, to);
        bind_amount(&reservation.amount, to);
        to.add(reservation.made_at.0);
    }
}

fn bind_account(account: &Account, to: &mut Parameters) {
    to.add(account.name.as_str()).add(account.period.as_str()).add(account.since.0);
}

fn bind_amount(amount: &Amount, to: &mut Parameters) {
    to.add_saturated(amount.cost.0).add_saturated(amount.tokens).add_saturated(amount.calls);
}

/// Sets a budget in place of the one with the same scope and period.
pub(super) async fn put(connection: &mut SqliteConnection, budget: &Budget, now: Timestamp) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO budgets \
        (scope, period, limit_nanousd, limit_tokens, limit_calls, alert_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?) \
        ON CONFLICT (scope, period) DO UPDATE SET limit_nanousd = excluded.limit_nanousd, \
        limit_tokens = excluded.limit_tokens, limit_calls = excluded.limit_calls, alert_at = excluded.alert_at, \
        updated_at = excluded.updated_at";
    let limit = |limit: Option<u64>| limit.map(|limit| i64::try_from(limit).unwrap_or(i64::MAX));
    sqlx::query(SQL)
        .bind(budget.scope.to_string())
        .bind(budget.period.as_str())
        .bind(limit(budget.limit.map(|limit| limit.0)))
        .bind(limit(budget.limit_tokens))
        .bind(limit(budget.limit_calls))
        .bind(budget.alert_at)
        .bind(now.0)
        .execute(&mut *connection)
        .await?;
    Ok(())
}

/// All of them, by scope.
pub(super) async fn budgets(connection: &mut SqliteConnection) -> Result<Vec<StoredBudget>, StoreError> {
    const SQL: &str = "SELECT scope, period, limit_nanousd, limit_tokens, limit_calls, alert_at, updated_at \
        FROM budgets ORDER BY scope, period";
    let rows = sqlx::query(SQL).fetch_all(&mut *connection).await?;
    let mut budgets = Vec::with_capacity(rows.len());
    for row in &rows {
        let mut columns = Columns::of(row);
        let budget = Budget {
            scope: from_text("budgets.scope", columns.take()?)?,
            period: word(BudgetPeriod::from_word, "budgets.period", columns.take()?)?,
            limit: take_limit(&mut columns)?.map(Nanousd),
            limit_tokens: take_limit(&mut columns)?,
            limit_calls: take_limit(&mut columns)?,
            alert_at: columns.take()?,
        };
        budgets.push(StoredBudget { budget, updated_at: Timestamp(columns.take()?) });
    }
    Ok(budgets)
}

fn take_limit(columns: &mut Columns<'_>) -> Result<Option<u64>, StoreError> {
    let limit: Option<i64> = columns.take()?;
    Ok(limit.map(i64::unsigned_abs))
}

/// The statement of [`spent`].
pub(super) const SPENT: &str = "SELECT account, period, since, cost_nanousd, tokens, calls FROM budget_spending \
    WHERE period = 'total' UNION ALL SELECT account, period, since, cost_nanousd, tokens, calls FROM budget_spending \
    WHERE period IN ('day', 'month') AND since >= $1";

/// Accounts without end, and those that began at `since` or later.
pub(super) async fn spent(
    connection: &mut SqliteConnection,
    since: Timestamp,
) -> Result<Vec<(Account, Amount)>, StoreError> {
    let rows = sqlx::query(SPENT).bind(since.0).fetch_all(&mut *connection).await?;
    let mut spent = Vec::with_capacity(rows.len());
    for row in &rows {
        let mut columns = Columns::of(row);
        spent.push((take_account(&mut columns)?, take_amount(&mut columns)?));
    }
    Ok(spent)
}

/// All of them, by call.
pub(super) async fn reservations(connection: &mut SqliteConnection) -> Result<Vec<Reservation>, StoreError> {
    const SQL: &str = "SELECT call_id, tenant, made_at, cost_nanousd, tokens, calls, account, period, since \
        FROM budget_reservations ORDER BY call_id, account, period";
    let rows = sqlx::query(SQL).fetch_all(&mut *connection).await?;
    let mut reservations: Vec<Reservation> = Vec::new();
    for row in &rows {
        let mut columns = Columns::of(row);
        let call_id = from_text("budget_reservations.call_id", columns.take()?)?;
        let tenant = from_text("budget_reservations.tenant", columns.take()?)?;
        let made_at = Timestamp(columns.take()?);
        let amount = take_amount(&mut columns)?;
        let account = take_account(&mut columns)?;
        match reservations.last_mut() {
            Some(last) if last.call_id == call_id => last.accounts.push(account),
            _ => reservations.push(Reservation { call_id, tenant, accounts: vec![account], amount, made_at }),
        }
    }
    Ok(reservations)
}

fn take_account(columns: &mut Columns<'_>) -> Result<Account, StoreError> {
    let name = columns.take()?;
    let period = word(BudgetPeriod::from_word, "budget_spending.period", columns.take()?)?;
    Ok(Account { name, period, since: Timestamp(columns.take()?) })
}

fn take_amount(columns: &mut Columns<'_>) -> Result<Amount, StoreError> {
    Ok(Amount { cost: Nanousd(columns.unsigned()?), tokens: columns.unsigned()?, calls: columns.unsigned()? })
}
