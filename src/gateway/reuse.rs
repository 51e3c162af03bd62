//! One answer for calls that are the same: while it is made, and, where the settings say so, for a while after.
//!
//! Two calls are the same only inside one tenant, with the same sight of its documents, the same prompt version and
//! the same identity. Whoever shares an answer gets a row of its own in the ledger, which costs nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::timeout_at;

use crate::cache::{Cache, CacheError, CacheKey};
use crate::domain::{
    Amount, Attempt, CacheUse, CallId, ContentHash, Fingerprint, LlmCall, Nanousd, SpanId, TenantScope, Timestamp,
    Usage, UsageSource, Visibility, hash_parts,
};
use crate::store::LedgerEntry;

use super::GatewayError;
use super::call::{CallContext, CallFailure, CallSuccess, ChatCall, Core, Gateway, new_call_id, payer, route_of};
use super::contract::{ChatEnd, ChatResponse, FinishReason};
use super::plan::Plan;
use super::settings::Reuse;
use super::walk::Walk;

/// Names in the cache's key space.
const CACHE_KIND: &str = "reply";
/// Changes with the layout of [`Kept`].
const FORMAT: &[u8] = b"reply.1";
/// Calls under way beyond which those nobody waits for any more are swept out.
const SWEEP_AT: usize = 1_024;

type Outcome = Result<Arc<CallSuccess>, Arc<CallFailure>>;
type Making = Shared<BoxFuture<'static, Outcome>>;

/// Replies that are being made, by what makes them the same.
#[derive(Default)]
pub struct UnderWay(Mutex<HashMap<[u8; 32], WeakShared<BoxFuture<'static, Outcome>>>>);

/// A call that may share its reply.
pub struct Reused<'a> {
    pub core: &'a Arc<Core>,
    pub plan: Arc<Plan>,
    /// The caller's own; see [`ChatCall::identity`].
    pub identity: [u8; 32],
}

/// A reply as the cache keeps it.
#[derive(Serialize, Deserialize)]
struct Kept {
    provider: String,
    model: String,
    text: String,
    /// Seconds since 1970.
    made_at_s: i64,
}

impl Reused<'_> {
    /// The reply, made or shared.
    pub async fn call(self, call: ChatCall, context: CallContext) -> Result<CallSuccess, CallFailure> {
        let key = self.key(&call, &context);
        let asked = Asked { started: Instant::now(), call: call.clone(), context: context.clone() };
        if let Some(kept) = self.kept(key, &context.scope).await {
            return self.share(&asked, &kept, CacheUse::Exact).await;
        }
        let (making, is_leader) = self.core.under_way.join(key, || self.make(key, call, context));
        let outcome = match timeout_at(asked.context.deadline.into(), making).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let provider = "the gateway".to_owned();
                return Err(CallFailure::refused(GatewayError::Deadline { provider }));
            }
        };
        match (outcome, is_leader) {
            (Ok(success), true) => Ok(CallSuccess::clone(&success)),
            (Ok(success), false) => self.share(&asked, &success, CacheUse::Coalesced).await,
            (Err(failure), true) => {
                let (attempts, cost) = (failure.attempts.clone(), failure.cost);
                Err(CallFailure { error: GatewayError::Shared(failure), attempts, cost })
            }
            // What was refused to the one who began it, its money or its time, need not be refused to this one.
            (Err(failure), false) if is_its_own(failure.error.root()) => {
                let walk = Walk::begin(Arc::clone(self.core), Arc::clone(&self.plan), asked.call, asked.context);
                walk.await?.whole().await
            }
            (Err(failure), false) => Err(CallFailure::refused(GatewayError::Shared(failure))),
        }
    }

    fn make(&self, key: [u8; 32], call: ChatCall, context: CallContext) -> BoxFuture<'static, Outcome> {
        let (core, plan) = (Arc::clone(self.core), Arc::clone(&self.plan));
        let scope = context.scope.clone();
        let making = async move {
            let made = async {
                let walk = Walk::begin(Arc::clone(&core), Arc::clone(&plan), call, context).await?;
                walk.whole().await
            };
            let outcome = made.await.map(Arc::new).map_err(Arc::new);
            if let (Ok(success), Reuse::Exact) = (&outcome, plan.reuse) {
                keep(&core, key, scope, success).await;
            }
            core.under_way.done(key);
            outcome
        };
        making.boxed()
    }

    fn key(&self, call: &ChatCall, context: &CallContext) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        let mut part = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        part(context.scope.tenant.as_str().as_bytes());
        match &context.scope.visibility {
            Visibility::All => part(b"all"),
            Visibility::Principals(principals) => {
                part(b"principals");
                part(&(principals.len() as u64).to_le_bytes());
                principals.iter().for_each(|principal| part(principal.as_str().as_bytes()));
            }
        }
        part(b"|");
        part(context.task.as_bytes());
        part(call.model.as_deref().unwrap_or_default().as_bytes());
        part(call.prompt.as_ref().map_or("", |prompt| prompt.hash.as_str()).as_bytes());
        part(&call.max_tokens.to_le_bytes());
        part(&call.temperature.map_or(u32::MAX, f32::to_bits).to_le_bytes());
        part(&self.identity);
        *hasher.finalize().as_bytes()
    }

    async fn kept(&self, key: [u8; 32], scope: &TenantScope) -> Option<CallSuccess> {
        let cache = self.core.cache.clone().filter(|_| self.plan.reuse >= Reuse::Exact)?;
        let (scope, ttl) = (scope.clone(), self.plan.cache_ttl);
        let read = tokio::task::spawn_blocking(move || cache.get(&scope, &cache_key(key)));
        let kept: Kept = serde_json::from_slice(&read.await.ok()??).ok()?;
        let age_s = jiff::Timestamp::now().as_second().checked_sub(kept.made_at_s)?;
        if !(0..=i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX)).contains(&age_s) {
            return None;
        }
        let end = ChatEnd { model: kept.model, finish: FinishReason::Stop, usage: Some(Usage::default()) };
        let response = ChatResponse { text: kept.text, tool_calls: Vec::new(), end };
        let (attempts, cost) = (Vec::new(), Nanousd(0));
        Some(CallSuccess { provider: kept.provider, response, attempts, cost, cache: CacheUse::Exact })
    }

    /// The reply of another call, with a row that says so. It costs nothing, but it is one of the calls that a budget may
    /// count.
    async fn share(&self, asked: &Asked, made: &CallSuccess, cache: CacheUse) -> Result<CallSuccess, CallFailure> {
        let (call_id, one) = (new_call_id((self.core.clock)()), Amount { calls: 1, ..Amount::default() });
        let payer = payer(&asked.context);
        let reserved = self.core.budgets.reserve(call_id, &asked.context.scope.tenant, &payer, one).await;
        let held = reserved.map_err(CallFailure::refused)?;
        let elapsed = asked.started.elapsed();
        // What was asked for; the reply may come from another model of the route.
        let route = route_of(&self.plan, &asked.call, asked.context.task).ok();
        let asked_model = route.and_then(|route| route.models.first().map(|model| model.model.clone()));
        let model = asked_model.unwrap_or_else(|| made.response.end.model.clone());
        let latency_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        let row = asked.row(made, (model.clone(), latency_us), cache, (call_id, (self.core.clock)()));
        metrics::counter!("plumb_llm_reused_total", "task" => asked.context.task, "how" => cache.as_str()).increment(1);
        if let Some(ledger) = &self.core.ledger {
            let settled = held.iter().flat_map(|held| self.core.budgets.settle(held, one));
            ledger.try_submit(settled.chain([LedgerEntry::Call(Box::new(row))]).collect());
        }
        let attempt = Attempt {
            provider: made.provider.clone(),
            model,
            outcome: format!("ok ({})", cache.as_str()),
            latency_ms: elapsed.as_secs_f64() * 1e3,
        };
        let mut response = made.response.clone();
        // Nothing was used for this caller.
        response.end.usage = Some(Usage::default());
        let (provider, attempts) = (made.provider.clone(), vec![attempt]);
        Ok(CallSuccess { provider, response, attempts, cost: Nanousd(0), cache })
    }
}

struct Asked {
    started: Instant,
    call: ChatCall,
    context: CallContext,
}

impl Asked {
    fn row(
        &self,
        made: &CallSuccess,
        (model, latency_us): (String, u64),
        cache: CacheUse,
        (call_id, now): (CallId, Timestamp),
    ) -> LlmCall {
        let started_at = Timestamp(now.0.saturating_sub_unsigned(latency_us));
        LlmCall {
            call_id,
            attempt: 1,
            trace_id: self.context.trace_id,
            span_id: SpanId(rand::random::<u64>().max(1).to_be_bytes()),
            tenant: self.context.scope.tenant.clone(),
            task: self.context.task.to_owned(),
            session_id: self.context.session_id.clone(),
            key_id: self.context.scope.key_id.as_deref().map(str::to_owned),
            provider: made.provider.clone(),
            model,
            answered_model: Some(made.response.end.model.clone()),
            prompt: self.call.prompt.clone(),
            started_at,
            latency_us,
            first_token_us: None,
            outcome: "ok".to_owned(),
            status: None,
            finish: Some(made.response.end.finish.as_str().to_owned()),
            is_streamed: false,
            cache,
            usage: Usage::default(),
            usage_source: UsageSource::None,
            cost: Nanousd(0),
            request_body: None,
            response_body: None,
        }
    }
}

impl UnderWay {
    /// The reply that is being made under this key, or the one that `make` begins; true if it was begun here.
    fn join(&self, key: [u8; 32], make: impl FnOnce() -> BoxFuture<'static, Outcome>) -> (Making, bool) {
        let mut under_way = self.0.lock();
        if let Some(making) = under_way.get(&key).and_then(WeakShared::upgrade) {
            return (making, false);
        }
        if under_way.len() >= SWEEP_AT {
            under_way.retain(|_, making| making.upgrade().is_some());
        }
        let making = make().shared();
        under_way.extend(making.downgrade().map(|weak| (key, weak)));
        (making, true)
    }

    fn done(&self, key: [u8; 32]) {
        self.0.lock().remove(&key);
    }
}

/// True for failures that say more about the caller than about the call.
fn is_its_own(error: &GatewayError) -> bool {
    matches!(
        error,
        GatewayError::BudgetExceeded { .. }
            | GatewayError::BudgetCut
            | GatewayError::TokenRate { .. }
            | GatewayError::Overloaded { .. }
            | GatewayError::Deadline { .. }
    )
}

fn cache_key(key: [u8; 32]) -> CacheKey {
    CacheKey { namespace: CACHE_KIND, producer: Fingerprint(hash_parts(&[FORMAT])), content: ContentHash(key) }
}

impl Gateway {
    /// Erases everything that the cache keeps of a tenant: which replies were made of which text nobody can tell.
    /// Returns how many entries went, and how many there are now.
    pub async fn erase_kept(&self, scope: &TenantScope) -> Result<(u64, u64), CacheError> {
        let Some(cache) = self.0.cache.clone() else { return Ok((0, 0)) };
        let scope = scope.clone();
        let erase = move || Ok((cache.erase(&scope)? as u64, cache.entries_of(&scope) as u64));
        tokio::task::spawn_blocking(erase).await.unwrap_or_else(|_| {
            Err(CacheError::Unusable { path: "cache".to_owned(), detail: "erasing it panicked".to_owned() })
        })
    }
}

/// Keeps a reply that is complete and asks for nothing.
async fn keep(core: &Core, key: [u8; 32], scope: TenantScope, success: &CallSuccess) {
    let response = &success.response;
    let is_complete = response.end.finish == FinishReason::Stop && response.tool_calls.is_empty();
    let Some(cache) = core.cache.clone().filter(|_| is_complete && !response.text.is_empty()) else { return };
    let kept = Kept {
        provider: success.provider.clone(),
        model: response.end.model.clone(),
        text: response.text.clone(),
        made_at_s: jiff::Timestamp::now().as_second(),
    };
    let value = serde_json::to_vec(&kept).expect("text and numbers are JSON");
    let write = move |cache: Arc<Cache>| cache.put(&scope, &cache_key(key), &value);
    // A cache that cannot be written is no reason to lose the reply.
    let _ = tokio::task::spawn_blocking(move || write(cache)).await;
}
