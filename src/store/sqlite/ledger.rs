//! Writes of the ledger, inside the one writer's transaction.
//!
//! The entries of a record are sorted into one list for each table. That keeps their meaning: what is added up does
//! not depend on its order, and of a call's reservations and settlements the last one decides.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::SqliteConnection;

use crate::domain::{Account, Amount, BudgetEvent, CallId, LlmCall, Reservation, SearchRecord, Timestamp, TraceRecord};
use crate::store::{LedgerEntry, StoreError};

use super::budgets::{self, RESERVATIONS, ReservationRow, SPENDING, bind_spent};
use super::codec::id_text;
use super::ledger_rows::{
    CALLS, EVENTS, REQUESTS, SEARCHES, SPANS, SpanRow, bind_call, bind_event, bind_request, bind_search,
};
use super::plan::Ids;
use super::script::Script;
use super::writer::{Answer, LedgerRequest};

/// Most rows of a kind that one transaction removes: some ten milliseconds in which others wait.
const FORGET_AT_ONCE: i64 = 1_000;

/// Applies one request of the ledger.
pub(super) async fn apply(
    connection: &mut SqliteConnection,
    ids: &mut Ids,
    request: &LedgerRequest,
    now: Timestamp,
) -> Result<Answer, StoreError> {
    match request {
        LedgerRequest::Record(entries) => {
            let mut script = Script::new(connection);
            Lists::of(entries, ids).add_to(&mut script).await?;
            script.flush().await?;
            Ok(Answer::Done)
        }
        LedgerRequest::PutBudget(budget) => {
            budgets::put(connection, budget, now).await?;
            Ok(Answer::Done)
        }
        LedgerRequest::ForgetTraces { before } => Ok(Answer::Removed(forget(connection, *before).await?)),
    }
}

/// What entries add and remove, by table.
#[derive(Default)]
pub(super) struct Lists<'a> {
    calls: Vec<&'a LlmCall>,
    requests: Vec<(i64, &'a TraceRecord)>,
    spans: Vec<SpanRow<'a>>,
    searches: Vec<&'a SearchRecord>,
    events: Vec<&'a BudgetEvent>,
    /// Calls whose earlier reservations go.
    settled: BTreeSet<CallId>,
    /// Those that stay; a later one of the same call replaces an earlier one.
    reserved: BTreeMap<CallId, &'a Reservation>,
    spent: BTreeMap<&'a Account, Amount>,
}

impl<'a> Lists<'a> {
    pub(super) fn of(entries: impl IntoIterator<Item = &'a LedgerEntry>, ids: &mut Ids) -> Self {
        let mut lists = Self::default();
        for entry in entries {
            match entry {
                LedgerEntry::Call(call) => lists.calls.push(call),
                LedgerEntry::Reserve(reservation) => {
                    lists.settled.insert(reservation.call_id);
                    lists.reserved.insert(reservation.call_id, reservation);
                }
                LedgerEntry::Settle { call_id, charges } => {
                    lists.settled.insert(*call_id);
                    lists.reserved.remove(call_id);
                    for (account, amount) in charges {
                        let spent = lists.spent.entry(account).or_default();
                        *spent = *spent + *amount;
                    }
                }
                LedgerEntry::BudgetEvent(event) => lists.events.push(event),
                LedgerEntry::Trace(request) => {
                    ids.request += 1;
                    lists.requests.push((ids.request, request));
                    let spans = (0..).zip(&request.spans);
                    lists.spans.extend(spans.map(|(ordinal, span)| SpanRow { request: ids.request, ordinal, span }));
                }
                LedgerEntry::Search(search) => lists.searches.push(search),
            }
        }
        lists
    }

    /// Adds the statements to a script.
    pub(super) async fn add_to(self, script: &mut Script<'_>) -> Result<(), StoreError> {
        let settled: Vec<CallId> = self.settled.into_iter().collect();
        let mut reserved = Vec::with_capacity(self.reserved.len());
        for reservation in self.reserved.into_values() {
            reserved.extend(reservation.accounts.iter().map(|account| ReservationRow { reservation, account }));
        }
        let spent: Vec<(&Account, Amount)> = self.spent.into_iter().collect();
        script.list(UNRESERVE, &settled, |call_id| format!("\"{}\"", id_text("cal_", &call_id.0)));
        script.insert(&RESERVATIONS, &reserved, ReservationRow::bind).await?;
        script.insert(&SPENDING, &spent, bind_spent).await?;
        script.insert(&CALLS, &self.calls, |call, to| bind_call(call, to)).await?;
        script.insert(&REQUESTS, &self.requests, bind_request).await?;
        script.insert(&SPANS, &self.spans, SpanRow::bind).await?;
        script.insert(&SEARCHES, &self.searches, |search, to| bind_search(search, to)).await?;
        script.insert(&EVENTS, &self.events, |event, to| bind_event(event, to)).await
    }
}

const UNRESERVE: &str = "DELETE FROM budget_reservations WHERE call_id IN (SELECT value FROM json_each(?))";

// Spans go before their requests, by the same choice of requests: removed with them, they would not be counted.
macro_rules! ended_requests {
    () => {
        "(SELECT id FROM traces WHERE started_at < $1 AND started_at + duration_us < $1 ORDER BY started_at, id LIMIT $2)"
    };
}
const FORGET: [&str; 4] = [
    concat!("DELETE FROM spans WHERE request_id IN ", ended_requests!()),
    concat!("DELETE FROM traces WHERE id IN ", ended_requests!()),
    "DELETE FROM searches WHERE id IN (SELECT id FROM searches WHERE started_at < $1 AND started_at + took_us < $1 \
        ORDER BY started_at, id LIMIT $2)",
    "DELETE FROM budget_events WHERE id IN (SELECT id FROM budget_events WHERE at < $1 ORDER BY at, id LIMIT $2)",
];

/// The statements that remove rows.
#[cfg(test)]
pub(super) const REMOVALS: [&str; 5] = [UNRESERVE, FORGET[0], FORGET[1], FORGET[2], FORGET[3]];

async fn forget(connection: &mut SqliteConnection, before: Timestamp) -> Result<u64, StoreError> {
    let mut removed = 0;
    for sql in FORGET {
        let done = sqlx::query(sql).bind(before.0).bind(FORGET_AT_ONCE).execute(&mut *connection).await?;
        removed += done.rows_affected();
    }
    Ok(removed)
}
