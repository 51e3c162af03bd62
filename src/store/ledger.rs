//! The contract of the ledger: what was called, what it cost, what may still be spent, and what happened when.
//!
//! Every implementation keeps these promises, and `store::conformance` tests them:
//!
//! - What was answered `Ok` survives `kill -9` and a power cut.
//! - The entries of one [`Ledger::record`] are one transaction: a settled call has its rows, its charge and no
//!   reservation any more, or none of that.
//! - An attempt is kept once: the same `(call_id, attempt)` again changes nothing.
//! - Reads that take a scope see that tenant only.

use async_trait::async_trait;

use crate::domain::{
    Account, Amount, Budget, BudgetEvent, CallId, LlmCall, Reservation, SearchRecord, TenantScope, Timestamp, TraceId,
    TraceRecord, TraceStory,
};

use super::StoreError;

/// Something to be written down.
#[derive(Debug, Clone, PartialEq)]
pub enum LedgerEntry {
    /// One attempt.
    Call(Box<LlmCall>),
    /// Before a call that budgets count.
    Reserve(Reservation),
    /// After it: the reservation goes, the true amount is added to each account.
    Settle {
        call_id: CallId,
        charges: Vec<(Account, Amount)>,
    },
    BudgetEvent(BudgetEvent),
    Trace(Box<TraceRecord>),
    Search(Box<SearchRecord>),
}

impl LedgerEntry {
    /// About how much text it carries beside names and numbers.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Call(call) => [&call.request_body, &call.response_body].into_iter().flatten().map(String::len).sum(),
            _ => 0,
        }
    }
}

/// Most requests, spans, searches and calls of one trace that are read back, each: a client may send any number of
/// requests under one id.
pub const TRACE_MAX_ROWS: usize = 10_000;

/// By what usage is summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsageBy {
    Tenant,
    Task,
    Model,
    Session,
    /// UTC.
    Day,
    /// As `name@version`.
    PromptVersion,
}

/// Calls of one group added up.
#[derive(Debug, Clone, PartialEq)]
pub struct UsageRow {
    /// The tenant, task, model, … or `2026-11-23`; `None` for calls without one.
    pub group: Option<String>,
    /// Attempts, failed ones included.
    pub attempts: u64,
    /// Those whose outcome was not `ok`.
    pub failed: u64,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub cost: crate::domain::Nanousd,
    /// The part of `cost` that no server reported.
    pub estimated_cost: crate::domain::Nanousd,
}

/// A budget that somebody set at run time. Those of the configuration are not stored.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredBudget {
    pub budget: Budget,
    pub updated_at: Timestamp,
}

/// Calls, costs, budgets and traces.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Writes the entries in their order, as one transaction; durable on return.
    async fn record(&self, entries: Vec<LedgerEntry>) -> Result<(), StoreError>;

    /// Everything about one trace that the tenant may see, the earliest [`TRACE_MAX_ROWS`] of each kind; `None` if
    /// there is nothing.
    async fn trace(&self, scope: &TenantScope, trace: TraceId) -> Result<Option<TraceStory>, StoreError>;

    /// The tenant's calls from `since` on, added up; groups by cost, most first, at most `limit`.
    async fn usage(
        &self,
        scope: &TenantScope,
        by: UsageBy,
        since: Timestamp,
        limit: usize,
    ) -> Result<Vec<UsageRow>, StoreError>;

    /// What was spent from each account, for accounts whose period is [`BudgetPeriod::Total`] or began at `since`
    /// or later.
    ///
    /// [`BudgetPeriod::Total`]: crate::domain::BudgetPeriod::Total
    async fn spent(&self, since: Timestamp) -> Result<Vec<(Account, Amount)>, StoreError>;

    /// Reservations that were never settled.
    async fn reservations(&self) -> Result<Vec<Reservation>, StoreError>;

    /// All budgets that were set at run time.
    async fn budgets(&self) -> Result<Vec<StoredBudget>, StoreError>;

    /// Sets a budget; one with the same scope and period is replaced.
    async fn put_budget(&self, budget: Budget) -> Result<(), StoreError>;

    /// Removes what ended before `before`: traces with their spans, searches, budget events. Calls and what was
    /// spent stay. Returns how many rows went.
    async fn forget_traces(&self, before: Timestamp) -> Result<u64, StoreError>;
}
