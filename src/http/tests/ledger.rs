//! A ledger in memory: what is recorded can be read back, as far as the wire asks for it.

use std::collections::BTreeMap;

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::domain::{
    Account, Amount, Budget, LlmCall, Nanousd, Reservation, TenantScope, Timestamp, TraceId, TraceStory, UsageSource,
};
use crate::store::{Ledger, LedgerEntry, StoreError, StoredBudget, UsageBy, UsageRow};

#[derive(Default)]
pub struct MemoryLedger(Mutex<Vec<LedgerEntry>>);

#[async_trait]
impl Ledger for MemoryLedger {
    async fn record(&self, entries: Vec<LedgerEntry>) -> Result<(), StoreError> {
        self.0.lock().extend(entries);
        Ok(())
    }

    async fn trace(&self, scope: &TenantScope, trace: TraceId) -> Result<Option<TraceStory>, StoreError> {
        let mut story = TraceStory::default();
        for entry in self.0.lock().iter() {
            match entry {
                LedgerEntry::Trace(one) if one.trace_id == trace && one.tenant.as_ref() == Some(&scope.tenant) => {
                    story.requests.push((**one).clone());
                }
                LedgerEntry::Search(one) if one.trace_id == trace && one.tenant == scope.tenant => {
                    story.searches.push((**one).clone());
                }
                LedgerEntry::Call(one) if one.trace_id == trace && one.tenant == scope.tenant => {
                    story.calls.push((**one).clone());
                }
                _ => {}
            }
        }
        Ok((story != TraceStory::default()).then_some(story))
    }

    async fn usage(
        &self,
        scope: &TenantScope,
        by: UsageBy,
        since: Timestamp,
        limit: usize,
    ) -> Result<Vec<UsageRow>, StoreError> {
        let mut groups: BTreeMap<Option<String>, UsageRow> = BTreeMap::new();
        for entry in self.0.lock().iter() {
            match entry {
                LedgerEntry::Call(call) if call.tenant == scope.tenant && call.started_at >= since => {
                    add(groups.entry(group(call, by)).or_insert_with(|| empty(group(call, by))), call);
                }
                _ => {}
            }
        }
        let mut rows: Vec<UsageRow> = groups.into_values().collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.cost));
        rows.truncate(limit);
        Ok(rows)
    }

    async fn spent(&self, _: Timestamp) -> Result<Vec<(Account, Amount)>, StoreError> {
        unreachable!("the wire does not ask for accounts")
    }

    async fn reservations(&self) -> Result<Vec<Reservation>, StoreError> {
        unreachable!("the wire does not ask for reservations")
    }

    async fn budgets(&self) -> Result<Vec<StoredBudget>, StoreError> {
        unreachable!("the wire does not ask for budgets")
    }

    async fn put_budget(&self, _: Budget) -> Result<(), StoreError> {
        unreachable!("the wire sets no budgets")
    }

    async fn forget_traces(&self, _: Timestamp) -> Result<u64, StoreError> {
        unreachable!("the wire forgets nothing")
    }
}

fn group(call: &LlmCall, by: UsageBy) -> Option<String> {
    match by {
        UsageBy::Tenant => Some(call.tenant.to_string()),
        UsageBy::Task => Some(call.task.clone()),
        UsageBy::Model => Some(call.model.clone()),
        UsageBy::Session => call.session_id.clone(),
        UsageBy::Day => Some(crate::http::wire::time(call.started_at)[..10].to_owned()),
        UsageBy::PromptVersion => call.prompt.as_ref().map(|prompt| format!("{}@{}", prompt.name, prompt.version)),
    }
}

fn empty(group: Option<String>) -> UsageRow {
    let nothing = Nanousd::default();
    UsageRow {
        group,
        attempts: 0,
        failed: 0,
        input_tokens: 0,
        output_tokens: 0,
        cost: nothing,
        estimated_cost: nothing,
    }
}

fn add(row: &mut UsageRow, call: &LlmCall) {
    row.attempts += 1;
    row.failed += u64::from(call.outcome != "ok");
    row.input_tokens += call.usage.input_tokens;
    row.output_tokens += call.usage.output_tokens;
    row.cost = row.cost + call.cost;
    if call.usage_source != UsageSource::Reported {
        row.estimated_cost = row.estimated_cost + call.cost;
    }
}
