//! Calls that no process lived to tell of.

use crate::domain::{
    BudgetScope, CacheUse, LlmCall, Nanousd, Reservation, Selector, SpanId, TraceId, Usage, UsageSource,
};

/// The attempt number of rows that were written by hand, after those of any attempts that were written in time.
const LOST_ATTEMPT: u32 = 1_000;

/// The row of a call whose process did not live to write it: what the names of its accounts still tell.
pub fn lost_call(reservation: &Reservation, cost: Nanousd) -> LlmCall {
    let scopes = reservation.accounts.iter().filter_map(|account| account.name.parse::<BudgetScope>().ok());
    let named = |of: fn(BudgetScope) -> Option<Selector>| {
        let values = scopes.clone().filter_map(of).filter_map(|selector| match selector {
            Selector::One(value) => Some(value),
            Selector::Each => None,
        });
        values.into_iter().next()
    };
    const UNKNOWN: &str = "unknown";
    LlmCall {
        call_id: reservation.call_id,
        attempt: LOST_ATTEMPT,
        trace_id: TraceId([0; 16]),
        span_id: SpanId([0; 8]),
        tenant: reservation.tenant.clone(),
        task: named(|scope| scope.task).unwrap_or_else(|| UNKNOWN.to_owned()),
        session_id: named(|scope| scope.session),
        key_id: named(|scope| scope.key),
        provider: UNKNOWN.to_owned(),
        model: UNKNOWN.to_owned(),
        answered_model: None,
        prompt: None,
        started_at: reservation.made_at,
        latency_us: 0,
        first_token_us: None,
        outcome: "crashed".to_owned(),
        status: None,
        finish: None,
        is_streamed: false,
        cache: CacheUse::Miss,
        usage: Usage::default(),
        usage_source: UsageSource::Estimated,
        cost,
        request_body: None,
        response_body: None,
    }
}
