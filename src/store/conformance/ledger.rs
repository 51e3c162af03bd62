//! Promises about the ledger.

use std::collections::BTreeMap;

use serde_json::json;

use crate::domain::{
    Account, Amount, Budget, BudgetAction, BudgetEvent, BudgetPeriod, CacheUse, CallId, GenerationId, LlmCall, Mode,
    Nanousd, PromptVersion, Reservation, SearchRecord, SpanId, SpanRecord, StageTimings, TenantId, Timestamp, TraceId,
    TraceRecord, Usage, UsageSource,
};
use crate::store::{LedgerEntry, UsageBy, UsageRow};

use super::fixture::{Subject, collection_name, scope};

/// Microseconds of a day.
const DAY: i64 = 86_400_000_000;

pub(super) fn call_id(number: u64) -> CallId {
    CallId((u128::from(number) << 8 | 0xa5).to_be_bytes())
}

pub(super) fn trace_id(number: u64) -> TraceId {
    TraceId((u128::from(number) << 9 | 0x5a).to_be_bytes())
}

/// A call that cost `number` billionths of a dollar, in a trace of its own.
pub(crate) fn call(tenant: &str, number: u64) -> LlmCall {
    LlmCall {
        call_id: call_id(number),
        attempt: 1,
        trace_id: trace_id(number),
        span_id: SpanId(number.to_be_bytes()),
        tenant: TenantId::new(tenant).unwrap(),
        task: "answer".into(),
        session_id: None,
        key_id: None,
        provider: "mock".into(),
        model: "small".into(),
        answered_model: None,
        prompt: None,
        started_at: Timestamp(number as i64),
        latency_us: 7,
        first_token_us: None,
        outcome: "ok".into(),
        status: None,
        finish: None,
        is_streamed: false,
        cache: CacheUse::Miss,
        usage: Usage { input_tokens: 10, cached_input_tokens: 4, output_tokens: 3 },
        usage_source: UsageSource::Reported,
        cost: Nanousd(number),
        request_body: None,
        response_body: None,
    }
}

/// A request that took a second, in the trace of [`call`] with this number, with two spans.
pub(crate) fn request(tenant: Option<&str>, number: u64) -> TraceRecord {
    let span = |span: u64, parent: Option<u64>| SpanRecord {
        trace_id: trace_id(number),
        span_id: SpanId(span.to_be_bytes()),
        parent: parent.map(|parent| SpanId(parent.to_be_bytes())),
        name: "search.lexical".into(),
        started_at: Timestamp(number as i64 + span as i64),
        duration_us: 5,
        is_error: parent.is_none(),
        attributes: BTreeMap::from([("hits".into(), json!(3)), ("mode".into(), json!("hybrid \"é\""))]),
    };
    TraceRecord {
        trace_id: trace_id(number),
        tenant: tenant.map(|tenant| TenantId::new(tenant).unwrap()),
        name: "POST /search".into(),
        started_at: Timestamp(number as i64),
        duration_us: 1_000_000,
        status: 200,
        kept: "sampled".into(),
        spans: vec![span(2, Some(1)), span(1, None)],
    }
}

fn search(tenant: &str, number: u64) -> SearchRecord {
    SearchRecord {
        trace_id: trace_id(number),
        tenant: TenantId::new(tenant).unwrap(),
        collection: collection_name("c"),
        mode: Mode::Hybrid,
        generation: Some(GenerationId([7; 16])),
        top_k: 10,
        hits: 9,
        started_at: Timestamp(number as i64),
        took_us: 1234,
        timings: StageTimings {
            embed_ms: 1.5,
            lexical_ms: 0.25,
            vector_ms: 0.0,
            fusion_ms: 0.001,
            rerank_ms: 30.0,
            hydrate_ms: 2.0,
        },
        degraded: vec!["rerank:deadline".into()],
    }
}

pub(crate) fn account(name: &str) -> Account {
    Account { name: name.into(), period: BudgetPeriod::Day, since: Timestamp(DAY) }
}

pub(crate) fn amount(cost: u64) -> Amount {
    Amount { cost: Nanousd(cost), tokens: 2 * cost, calls: 1 }
}

pub(crate) fn reservation(number: u64, accounts: &[Account], amount: Amount) -> Reservation {
    Reservation {
        call_id: call_id(number),
        tenant: TenantId::new("acme").unwrap(),
        accounts: accounts.to_vec(),
        amount,
        made_at: Timestamp(number as i64),
    }
}

fn settle(number: u64, charges: &[(Account, Amount)]) -> LedgerEntry {
    LedgerEntry::Settle { call_id: call_id(number), charges: charges.to_vec() }
}

fn event(at: i64) -> LedgerEntry {
    LedgerEntry::BudgetEvent(BudgetEvent {
        at: Timestamp(at),
        tenant: TenantId::new("acme").unwrap(),
        account: account("everything"),
        action: BudgetAction::Refused,
        call_id: Some(call_id(1)),
        detail: "nothing is left".into(),
    })
}

impl Subject<'_> {
    async fn record_calls(&self, calls: &[LlmCall]) {
        let entries = calls.iter().map(|call| LedgerEntry::Call(Box::new(call.clone()))).collect();
        self.ledger.record(entries).await.unwrap();
    }

    async fn usage(&self, tenant: &str, by: UsageBy) -> Vec<UsageRow> {
        self.ledger.usage(&scope(tenant), by, Timestamp(0), 100).await.unwrap()
    }

    pub(super) async fn spent_since(&self, since: i64) -> BTreeMap<Account, Amount> {
        self.ledger.spent(Timestamp(since)).await.unwrap().into_iter().collect()
    }
}

pub(crate) async fn a_call_is_read_back_whole(store: Subject<'_>) {
    let full = LlmCall {
        session_id: Some(format!("{} ' \" \\ % + \u{1} \u{0} 🦀", "s".repeat(100_000))),
        key_id: Some("key-1".into()),
        answered_model: Some("small-2026".into()),
        prompt: Some(PromptVersion { name: "answer".into(), version: "3".into(), hash: "ab".repeat(32) }),
        first_token_us: Some(3),
        outcome: "timeout".into(),
        status: Some(503),
        finish: Some("stop".into()),
        is_streamed: true,
        cache: CacheUse::Coalesced,
        usage_source: UsageSource::WorstCase,
        request_body: Some("{\"q\": \"é\"}".into()),
        response_body: Some(String::new()),
        started_at: Timestamp(-5),
        ..call("acme", 1)
    };
    let bare = call("acme", 1);
    let bare = LlmCall { attempt: 2, ..bare };

    store.record_calls(&[bare.clone(), full.clone()]).await;

    let story = store.ledger.trace(&scope("acme"), full.trace_id).await.unwrap().unwrap();
    assert_eq!(story.calls, [full, bare]);
    assert_eq!((story.requests, story.searches), (vec![], vec![]));
}

pub(crate) async fn an_attempt_is_kept_once(store: Subject<'_>) {
    let first = call("acme", 1);
    let other = LlmCall { attempt: 2, ..first.clone() };
    let again = LlmCall { cost: Nanousd(99), outcome: "timeout".into(), ..first.clone() };

    store.record_calls(&[first.clone(), again.clone()]).await;
    store.record_calls(&[again, other.clone()]).await;

    let story = store.ledger.trace(&scope("acme"), first.trace_id).await.unwrap().unwrap();
    assert_eq!(story.calls, [first, other]);
}

pub(crate) async fn a_record_of_any_size_is_kept_whole(store: Subject<'_>) {
    let sizes = [1, 2, 3, 4, 7, 8, 9, 31, 32, 33, 63, 64, 65, 600];
    let mut total = 0;
    for size in sizes {
        let calls: Vec<LlmCall> = (total..total + size).map(|number| call("acme", number + 1)).collect();
        store.record_calls(&calls).await;
        total += size;
    }

    let rows = store.usage("acme", UsageBy::Tenant).await;

    assert_eq!((rows[0].attempts, rows[0].cost), (total, Nanousd(total * (total + 1) / 2)));
}

pub(crate) async fn an_empty_record_changes_nothing(store: Subject<'_>) {
    store.ledger.record(Vec::new()).await.unwrap();

    assert_eq!(store.usage("acme", UsageBy::Tenant).await, []);
    assert_eq!(store.ledger.trace(&scope("acme"), trace_id(1)).await.unwrap(), None);
    assert_eq!(store.ledger.spent(Timestamp(0)).await.unwrap(), []);
    assert_eq!(store.ledger.reservations().await.unwrap(), []);
    assert_eq!(store.ledger.budgets().await.unwrap(), []);
    assert_eq!(store.ledger.forget_traces(Timestamp(i64::MAX)).await.unwrap(), 0);
}

// Whatever the order of recording: a clock may also have been set back in between.
pub(crate) async fn a_trace_is_told_in_order_with_its_spans(store: Subject<'_>) {
    let late = TraceRecord { started_at: Timestamp(50), status: 499, ..request(Some("acme"), 1) };
    let early = TraceRecord { spans: vec![], ..request(Some("acme"), 1) };
    let (first, second) = (search("acme", 1), SearchRecord { started_at: Timestamp(9), ..search("acme", 1) });
    let retried = LlmCall { attempt: 2, started_at: Timestamp(0), ..call("acme", 1) };

    let entries = vec![
        LedgerEntry::Trace(Box::new(late.clone())),
        LedgerEntry::Search(Box::new(second.clone())),
        LedgerEntry::Call(Box::new(call("acme", 1))),
        LedgerEntry::Trace(Box::new(early.clone())),
    ];
    store.ledger.record(entries).await.unwrap();
    store.ledger.record(vec![LedgerEntry::Search(Box::new(first.clone()))]).await.unwrap();
    store.record_calls(&[retried.clone(), call("acme", 2)]).await;

    let story = store.ledger.trace(&scope("acme"), trace_id(1)).await.unwrap().unwrap();
    assert_eq!(story.requests, [early, late]);
    assert_eq!(story.searches, [first, second]);
    assert_eq!(story.calls, [retried, call("acme", 1)]);
}

pub(crate) async fn tenants_do_not_meet_in_the_ledger(store: Subject<'_>) {
    let entries = vec![
        LedgerEntry::Trace(Box::new(request(Some("acme"), 1))),
        LedgerEntry::Trace(Box::new(request(None, 1))),
        LedgerEntry::Search(Box::new(search("acme", 1))),
        LedgerEntry::Call(Box::new(call("acme", 1))),
        LedgerEntry::Call(Box::new(LlmCall { trace_id: trace_id(1), ..call("evil", 2) })),
        LedgerEntry::Trace(Box::new(request(None, 3))),
    ];

    store.ledger.record(entries).await.unwrap();

    let ours = store.ledger.trace(&scope("acme"), trace_id(1)).await.unwrap().unwrap();
    assert_eq!((ours.requests, ours.searches), (vec![request(Some("acme"), 1)], vec![search("acme", 1)]));
    assert_eq!(ours.calls, [call("acme", 1)]);
    let theirs = store.ledger.trace(&scope("evil"), trace_id(1)).await.unwrap().unwrap();
    assert_eq!((theirs.requests.len(), theirs.searches.len(), theirs.calls.len()), (0, 0, 1));
    assert_eq!(store.ledger.trace(&scope("other"), trace_id(1)).await.unwrap(), None);
    assert_eq!(store.ledger.trace(&scope("acme"), trace_id(3)).await.unwrap(), None, "nobody's");
    let usage = store.usage("acme", UsageBy::Tenant).await;
    assert_eq!(usage.len(), 1);
    assert_eq!((usage[0].group.as_deref(), usage[0].attempts, usage[0].cost), (Some("acme"), 1, Nanousd(1)));
    assert_eq!(store.usage("other", UsageBy::Model).await, []);
}

pub(crate) async fn usage_is_added_up_by_group(store: Subject<'_>) {
    let prompt = PromptVersion { name: "answer".into(), version: "3".into(), hash: "ff".into() };
    let calls = [
        LlmCall { prompt: Some(prompt), session_id: Some("s-1".into()), ..call("acme", 100) },
        LlmCall { outcome: "timeout".into(), usage_source: UsageSource::Estimated, ..call("acme", 20) },
        LlmCall { task: "judge".into(), started_at: Timestamp(3 * DAY + 1), ..call("acme", 30) },
        LlmCall { model: "large".into(), usage_source: UsageSource::WorstCase, ..call("acme", 1_000) },
    ];

    store.record_calls(&calls).await;

    let groups = |rows: Vec<UsageRow>| -> Vec<(Option<String>, u64)> {
        rows.into_iter().map(|row| (row.group, row.cost.0)).collect()
    };
    let some = |group: &str, cost: u64| (Some(group.to_owned()), cost);
    let tenant = UsageRow {
        group: Some("acme".into()),
        attempts: 4,
        failed: 1,
        input_tokens: 40,
        output_tokens: 12,
        cost: Nanousd(1_150),
        estimated_cost: Nanousd(1_020),
    };
    assert_eq!(store.usage("acme", UsageBy::Tenant).await, [tenant]);
    assert_eq!(groups(store.usage("acme", UsageBy::Task).await), [some("answer", 1_120), some("judge", 30)]);
    assert_eq!(groups(store.usage("acme", UsageBy::Model).await), [some("large", 1_000), some("small", 150)]);
    assert_eq!(groups(store.usage("acme", UsageBy::Session).await), [(None, 1_050), some("s-1", 100)]);
    let days = [some("1970-01-01", 1_120), some("1970-01-04", 30)];
    assert_eq!(groups(store.usage("acme", UsageBy::Day).await), days);
    assert_eq!(groups(store.usage("acme", UsageBy::PromptVersion).await), [(None, 1_050), some("answer@3", 100)]);
    let later = store.ledger.usage(&scope("acme"), UsageBy::Day, Timestamp(3 * DAY + 1), 9).await.unwrap();
    assert_eq!(groups(later), days[1..]);
    let few = store.ledger.usage(&scope("acme"), UsageBy::Model, Timestamp(0), 1).await.unwrap();
    assert_eq!(groups(few), [some("large", 1_000)]);
}

pub(crate) async fn money_sums_exactly(store: Subject<'_>) {
    // Each is beyond what a float of 64 bits tells apart.
    let cost = |number: u64| Nanousd((1 << 53) + number);
    let calls: Vec<LlmCall> = (0..500).map(|number| LlmCall { cost: cost(number), ..call("acme", number) }).collect();

    store.record_calls(&calls).await;

    let expected: Nanousd = (0..500).map(cost).sum();
    assert_eq!(store.usage("acme", UsageBy::Tenant).await[0].cost, expected);
    assert_ne!(expected.0 as f64 as u64, expected.0);
}

pub(crate) async fn numbers_beyond_the_database_stay_at_its_largest(store: Subject<'_>) {
    let huge = Amount { cost: Nanousd(u64::MAX), tokens: u64::MAX, calls: u64::MAX };
    let usage = Usage { input_tokens: u64::MAX, cached_input_tokens: 0, output_tokens: 1 };
    let calls = [1, 2, 3].map(|number| LlmCall { cost: Nanousd(u64::MAX), usage, ..call("acme", number) });
    let all = [account("everything")];

    store.record_calls(&calls).await;
    store.ledger.record(vec![settle(1, &[(account("everything"), huge)])]).await.unwrap();
    store.ledger.record(vec![settle(2, &[(account("everything"), huge)])]).await.unwrap();
    store.ledger.record(vec![LedgerEntry::Reserve(reservation(3, &all, huge))]).await.unwrap();

    let largest = i64::MAX as u64;
    let row = store.usage("acme", UsageBy::Tenant).await.remove(0);
    assert_eq!((row.cost, row.input_tokens, row.output_tokens), (Nanousd(u64::MAX), u64::MAX, 3));
    let whole = Amount { cost: Nanousd(largest), tokens: largest, calls: largest };
    assert_eq!(store.spent_since(0).await, BTreeMap::from([(account("everything"), whole)]));
    assert_eq!(store.ledger.reservations().await.unwrap(), [reservation(3, &all, whole)]);
}

pub(crate) async fn spending_adds_up(store: Subject<'_>) {
    let (one, other) = (account("tenant:acme"), account("session:a%2Bb ' \" \\ é"));
    let total = Account { period: BudgetPeriod::Total, since: Timestamp(0), ..one.clone() };
    let tomorrow = Account { since: Timestamp(2 * DAY), ..one.clone() };
    let charge = |account: &Account, cost: u64| (account.clone(), amount(cost));

    let both = vec![settle(1, &[charge(&one, 5), charge(&total, 5)]), settle(2, &[charge(&one, 7)])];
    store.ledger.record(both).await.unwrap();
    store.ledger.record(vec![settle(3, &[charge(&one, 1), charge(&other, 2)])]).await.unwrap();
    // The next day, and then, with the clock set back, once more the day before.
    store.ledger.record(vec![settle(4, &[charge(&tomorrow, 9)])]).await.unwrap();
    store.ledger.record(vec![settle(5, &[charge(&one, 100)])]).await.unwrap();

    let sum = |cost: u64, calls: u64| Amount { calls, ..amount(cost) };
    let expected = [(one, sum(113, 4)), (other, sum(2, 1)), (total, sum(5, 1)), (tomorrow, sum(9, 1))];
    assert_eq!(store.spent_since(0).await, BTreeMap::from(expected));
}

pub(crate) async fn only_open_periods_are_told(store: Subject<'_>) {
    let day = |since: i64| Account { since: Timestamp(since), ..account("everything") };
    let month = Account { period: BudgetPeriod::Month, ..day(31 * DAY) };
    let total = Account { period: BudgetPeriod::Total, ..day(0) };
    let charges = [day(DAY), day(40 * DAY), month.clone(), total.clone()].map(|account| (account, amount(1)));

    store.ledger.record(vec![settle(1, &charges)]).await.unwrap();

    let told = |since| async move { store.spent_since(since).await.into_keys().collect::<Vec<_>>() };
    assert_eq!(told(31 * DAY).await, [day(40 * DAY), month, total.clone()]);
    assert_eq!(told(40 * DAY).await, [day(40 * DAY), total.clone()]);
    assert_eq!(told(i64::MAX).await, [total]);
}

pub(crate) async fn a_reservation_goes_with_its_settlement(store: Subject<'_>) {
    let accounts = [account("everything"), account("tenant:acme")];
    let (first, second) = (reservation(1, &accounts, amount(50)), reservation(2, &accounts[..1], amount(60)));
    let reserve = |reservation: &Reservation| LedgerEntry::Reserve(reservation.clone());
    store.ledger.record(vec![reserve(&first), reserve(&second)]).await.unwrap();
    assert_eq!(store.ledger.reservations().await.unwrap(), [first.clone(), second.clone()]);

    store.ledger.record(vec![settle(1, &[(account("everything"), amount(8))])]).await.unwrap();

    assert_eq!(store.ledger.reservations().await.unwrap(), std::slice::from_ref(&second));
    // The same account twice is one account; a later reservation of a call replaces the earlier.
    let twice = [accounts[1].clone(), accounts[1].clone()];
    store.ledger.record(vec![reserve(&reservation(2, &twice, amount(70)))]).await.unwrap();
    assert_eq!(store.ledger.reservations().await.unwrap(), [reservation(2, &accounts[1..], amount(70))]);
    // Within one record the order counts.
    let third = reservation(3, &accounts, amount(1));
    let entries = vec![settle(3, &[]), reserve(&third), reserve(&second), settle(2, &[])];
    store.ledger.record(entries).await.unwrap();
    assert_eq!(store.ledger.reservations().await.unwrap(), [third]);
    // A call that was never reserved is charged all the same.
    store.ledger.record(vec![settle(9, &[(account("everything"), amount(2))])]).await.unwrap();
    let spent = Amount { calls: 2, ..amount(10) };
    assert_eq!(store.spent_since(0).await, BTreeMap::from([(account("everything"), spent)]));
}

pub(crate) async fn a_budget_is_replaced_by_one_of_its_scope_and_period(store: Subject<'_>) {
    let budget = |scope: &str, limit: u64| Budget {
        scope: scope.parse().unwrap(),
        period: BudgetPeriod::Day,
        limit: Some(Nanousd(limit)),
        limit_tokens: None,
        limit_calls: None,
        alert_at: 0.8,
    };
    let strict = Budget { limit: None, limit_calls: Some(3), limit_tokens: Some(9), ..budget("session:*", 0) };
    let total = Budget { period: BudgetPeriod::Total, ..budget("everything", 7) };

    for one in [&budget("session:*", 1), &total, &budget("tenant:a%2Bb+session:*", 5), &strict] {
        store.ledger.put_budget(one.clone()).await.unwrap();
    }

    let stored: Vec<Budget> = store.ledger.budgets().await.unwrap().into_iter().map(|stored| stored.budget).collect();
    assert_eq!(stored, [total, strict, budget("tenant:a%2Bb+session:*", 5)]);
}

pub(crate) async fn forgetting_traces_keeps_calls_and_spending(store: Subject<'_>) {
    let old = |number: u64| LedgerEntry::Trace(Box::new(request(Some("acme"), number)));
    let long = TraceRecord { duration_us: u64::MAX, ..request(Some("acme"), 1) };
    let mut entries: Vec<LedgerEntry> = (0..1_500).map(|_| old(1)).collect();
    entries.extend([
        LedgerEntry::Trace(Box::new(long)),
        old(5_000_000),
        LedgerEntry::Search(Box::new(search("acme", 1))),
        LedgerEntry::Search(Box::new(search("acme", 5_000_000))),
        LedgerEntry::Call(Box::new(call("acme", 1))),
        settle(1, &[(account("everything"), amount(1))]),
        LedgerEntry::Reserve(reservation(2, &[account("everything")], amount(1))),
        event(1),
        event(5_000_000),
    ]);
    store.ledger.record(entries).await.unwrap();

    let removed = store.ledger.forget_traces(Timestamp(2_000_000)).await.unwrap();

    assert_eq!(removed, 3 * 1_500 + 2, "with two spans each, a search and an event");
    assert_eq!(store.ledger.forget_traces(Timestamp(2_000_000)).await.unwrap(), 0);
    let story = store.ledger.trace(&scope("acme"), trace_id(1)).await.unwrap().unwrap();
    assert_eq!((story.requests.len(), story.searches.len(), story.calls.len()), (1, 0, 1));
    assert_eq!(story.requests[0].spans.len(), 2, "what has not ended stays whole");
    let young = store.ledger.trace(&scope("acme"), trace_id(5_000_000)).await.unwrap().unwrap();
    assert_eq!((young.requests.len(), young.requests[0].spans.len(), young.searches.len()), (1, 2, 1));
    assert_eq!(store.spent_since(0).await.len(), 1);
    assert_eq!(store.ledger.reservations().await.unwrap().len(), 1);
    assert_eq!(store.ledger.forget_traces(Timestamp(i64::MAX)).await.unwrap(), 3 + 1 + 1);
}
