//! One call on its way through models and attempts, from its reservation to its settlement.
//!
//! Whatever ends it, also a caller that leaves, each attempt gets its row and the reservation is settled: the end of a
//! [`Walk`] that nobody waited for is its `Drop`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout_at;
use tracing::Instrument;

use crate::domain::{Amount, Attempt, CacheUse, CallId, Nanousd, PromptVersion, Timestamp};
use crate::store::LedgerEntry;

use super::GatewayError;
use super::attempt::{End, OpenAttempt};
use super::budgets::Held;
use super::call::{CallContext, CallFailure, CallSuccess, ChatCall, Core, Tenant, new_call_id, route_of, worst_case};
use super::contract::{ChatEvent, ChatRequest, ChatResponse, ChatStream, FinishReason};
use super::estimate::likely_input_tokens;
use super::journal::{CallAhead, Rows, write_ahead};
use super::plan::{Model, Plan, Route};
use super::stream::GatewayStream;
use super::upstream::Admission;

/// The day (UTC) of a time, for prices.
pub fn day(at: Timestamp) -> jiff::civil::Date {
    let timestamp = jiff::Timestamp::from_microsecond(at.0).unwrap_or_default();
    timestamp.to_zoned(jiff::tz::TimeZone::UTC).date()
}

/// A call under way.
pub struct Walk {
    pub core: Arc<Core>,
    pub plan: Arc<Plan>,
    pub context: CallContext,
    pub prompt: Option<PromptVersion>,
    pub call_id: CallId,
    pub attempts: Vec<Attempt>,
    pub cost: Nanousd,
    tokens: u64,
    request: ChatRequest,
    route: Route,
    /// Models still to be asked, the next one last.
    left: Vec<Arc<Model>>,
    model: Arc<Model>,
    /// Attempts of the present model.
    tries: u32,
    deadline: Instant,
    expected_tokens: u64,
    tenant: Arc<Tenant>,
    _tenant_place: OwnedSemaphorePermit,
    held: Option<Held>,
    open: Option<OpenAttempt>,
    /// Attempts that earlier walks of the same call have made.
    attempts_before: u32,
    rows: Vec<LedgerEntry>,
    rows_go_to: Rows,
    is_settled: bool,
    span: tracing::Span,
}

/// What follows a failed attempt.
enum Next {
    Again(Duration),
    Other,
    Stop,
}

impl Walk {
    /// A call with its place among the tenant's and its money reserved. Waits neither beyond the call's deadline nor
    /// once the kill switch is on.
    pub async fn begin(
        core: Arc<Core>,
        plan: Arc<Plan>,
        call: ChatCall,
        context: CallContext,
    ) -> Result<Self, CallFailure> {
        let (kill, until) = (Arc::clone(&core.kill), context.deadline);
        let begun = timeout_at(until.into(), Self::enter(core, plan, call, context));
        tokio::select! {
            biased;
            error = kill.until_on() => Err(CallFailure::refused(error)),
            begun = begun => begun.unwrap_or_else(|_| {
                Err(CallFailure::refused(GatewayError::Deadline { provider: "the gateway".to_owned() }))
            }),
        }
    }

    async fn enter(
        core: Arc<Core>,
        plan: Arc<Plan>,
        call: ChatCall,
        context: CallContext,
    ) -> Result<Self, CallFailure> {
        let route = route_of(&plan, &call, context.task).map_err(CallFailure::refused)?;
        let deadline = context.deadline.min(Instant::now() + plan.call_timeout);
        let call_id = match &context.journal {
            Some(journal) => journal.next_call_id(),
            None => new_call_id((core.clock)()),
        };
        let request = ChatRequest {
            call_id,
            messages: call.messages,
            model: String::new(),
            max_tokens: call.max_tokens,
            temperature: call.temperature,
            tools: call.tools,
            schema: call.schema,
        };
        let amount = worst_case(&plan, &route, &request, &core.clock);
        let expected_tokens = likely_input_tokens(&request) + u64::from(request.max_tokens);
        let tenant = core.tenant(&context.scope.tenant);
        let name = context.scope.tenant.as_str();
        let place = tenant.places.take(name, deadline).await.map_err(CallFailure::refused)?;
        take_rate(&tenant, name, expected_tokens).map_err(CallFailure::refused)?;
        let mut left: Vec<Arc<Model>> = route.models.iter().rev().cloned().collect();
        let model = left.pop().expect("a route names at least one model");
        let ahead = CallAhead { request: &request, model: &model, prompt: call.prompt.as_ref(), amount };
        let (held, attempts_before) = match write_ahead(&core, &context, ahead).await {
            Ok(written) => written,
            Err(error) => {
                if let Some(rate) = &tenant.rate {
                    rate.correct(expected_tokens, 0, Instant::now());
                }
                return Err(CallFailure::refused(error));
            }
        };
        let rows_go_to = Rows::of(context.journal.as_ref(), core.ledger.as_ref());
        let span = tracing::info_span!("gateway.call", task = context.task, call_id = %call_id);
        Ok(Self {
            core,
            plan,
            prompt: call.prompt,
            call_id,
            attempts: Vec::new(),
            cost: Nanousd(0),
            tokens: 0,
            request,
            route,
            left,
            model,
            tries: 0,
            deadline,
            expected_tokens,
            tenant,
            _tenant_place: place,
            held,
            open: None,
            attempts_before,
            rows: Vec::new(),
            rows_go_to,
            is_settled: false,
            span,
            context,
        })
    }

    /// A whole reply.
    pub async fn whole(self) -> Result<CallSuccess, CallFailure> {
        let span = self.span.clone();
        self.whole_in_span().instrument(span).await
    }

    async fn whole_in_span(mut self) -> Result<CallSuccess, CallFailure> {
        loop {
            let tried = self.try_whole().await;
            match tried {
                Ok(response) => {
                    let is_filtered = response.end.finish == FinishReason::ContentFilter;
                    self.close(End::Reply { end: &response.end, whole: Some(&response) });
                    if is_filtered && self.take_filter_route() {
                        continue;
                    }
                    self.settle();
                    return Ok(CallSuccess {
                        provider: self.model.provider.clone(),
                        response,
                        attempts: std::mem::take(&mut self.attempts),
                        cost: self.cost,
                        cache: CacheUse::Miss,
                    });
                }
                Err(error) => self.fail(error).await?,
            }
        }
    }

    /// A streamed reply, once its first piece is there.
    pub async fn streamed(self) -> Result<GatewayStream, CallFailure> {
        let span = self.span.clone();
        self.streamed_in_span().instrument(span).await
    }

    async fn streamed_in_span(mut self) -> Result<GatewayStream, CallFailure> {
        loop {
            match self.try_stream().await {
                Ok((first, events)) => return Ok(GatewayStream::new(self, first, events)),
                Err(error) => self.fail(error).await?,
            }
        }
    }

    async fn try_whole(&mut self) -> Result<ChatResponse, GatewayError> {
        self.open_attempt(super::attempt::Delivery::Whole).await?;
        let provider = Arc::clone(&self.model.upstream.provider);
        let span = self.attempt_span();
        let asked = provider.chat(&self.request, self.deadline).instrument(span);
        tokio::select! {
            biased;
            error = self.cut() => Err(error),
            reply = asked => reply,
        }
    }

    async fn try_stream(&mut self) -> Result<(ChatEvent, ChatStream), GatewayError> {
        self.open_attempt(super::attempt::Delivery::Streamed).await?;
        let provider = Arc::clone(&self.model.upstream.provider);
        let span = self.attempt_span();
        let mut reported = None;
        let first = async {
            let mut events = provider.chat_stream(&self.request, self.deadline).await?;
            loop {
                let broken_off = || GatewayError::BrokenOff { provider: provider.name().to_owned(), source: None };
                match events.next().await.ok_or_else(broken_off)?? {
                    // A count is nothing that a reader has seen, so a failure after it may still be tried again.
                    ChatEvent::Usage(usage) => reported = Some(usage),
                    first => return Ok((first, events)),
                }
            }
        };
        let first = tokio::select! {
            biased;
            error = self.cut() => Err(error),
            first = first.instrument(span) => first,
        };
        if let (Some(usage), Some(open)) = (reported, &mut self.open) {
            open.reported(usage);
        }
        first
    }

    /// Returns when the call must stop now: the kill switch, or a budget that has nothing left.
    pub async fn cut(&self) -> GatewayError {
        let budget = async {
            match &self.held {
                Some(held) => held.cut.cancelled().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            error = self.core.kill.until_on() => error,
            () = budget => GatewayError::BudgetCut,
        }
    }

    /// Waits for a place at the model's provider and begins an attempt.
    async fn open_attempt(&mut self, delivery: super::attempt::Delivery) -> Result<(), GatewayError> {
        self.core.kill.check()?;
        self.request.model.clone_from(&self.model.model);
        self.request.call_id = self.key_of_model();
        self.tries += 1;
        let upstream = Arc::clone(&self.model.upstream);
        let admitted = tokio::select! {
            biased;
            error = self.cut() => Err(error),
            admitted = upstream.admit(self.expected_tokens, self.deadline) => admitted,
        };
        let number = self.attempts_before + self.attempts.len() as u32 + 1;
        let started_at = (self.core.clock)();
        let price = self.plan.prices.price(&self.model.provider, &self.model.model, day(started_at));
        self.open = Some(OpenAttempt::new(number, started_at, price.unwrap_or_default(), delivery));
        let admission: Admission = admitted?;
        // What stops the call before it is sent must leave it unsent: then it costs nothing.
        self.core.kill.check()?;
        if self.held.as_ref().is_some_and(|held| held.cut.is_cancelled()) {
            return Err(GatewayError::BudgetCut);
        }
        if let Some(open) = &mut self.open {
            open.admission = Some(admission);
        }
        Ok(())
    }

    /// The call's own id for the first model; for the others one that follows from it: another body under the same key
    /// is refused by servers that look.
    fn key_of_model(&self) -> CallId {
        let is_first = self.route.models.first().is_some_and(|first| Arc::ptr_eq(first, &self.model));
        if is_first {
            return self.call_id;
        }
        let model = (self.model.provider.as_bytes(), self.model.model.as_bytes());
        CallId(crate::domain::hash_parts(&[b"fallback", &self.call_id.0, model.0, model.1]))
    }

    fn attempt_span(&self) -> tracing::Span {
        self.open.as_ref().map_or_else(tracing::Span::none, |open| {
            let span = open.span.clone();
            span.record("provider", self.model.provider.as_str());
            span.record("model", self.model.model.as_str());
            span.record("task", self.context.task);
            span
        })
    }

    pub fn model(&self) -> &Model {
        &self.model
    }

    /// When the call ends at the latest.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    pub fn request(&self) -> &ChatRequest {
        &self.request
    }

    /// The attempt under way, for the stream that goes on with it.
    pub fn open(&mut self) -> Option<&mut OpenAttempt> {
        self.open.as_mut()
    }

    /// Ends the attempt under way with a row.
    pub fn close(&mut self, end: End<'_>) {
        let Some(open) = self.open.take() else { return };
        let closed = open.close(self, end);
        self.tokens = self.tokens.saturating_add(closed.tokens);
        self.cost = self.cost + closed.row.cost;
        self.attempts.push(Attempt {
            provider: closed.row.provider.clone(),
            model: closed.row.model.clone(),
            outcome: closed.row.outcome.clone(),
            latency_ms: closed.row.latency_us as f64 / 1e3,
        });
        self.rows.push(LedgerEntry::Call(Box::new(closed.row)));
    }

    /// Ends a failed attempt; waits for the next or gives up.
    async fn fail(&mut self, error: GatewayError) -> Result<(), CallFailure> {
        self.close(End::Failed(&error));
        match self.next_after(&error) {
            Next::Again(wait) => {
                self.write_down();
                tokio::select! {
                    biased;
                    killed = self.core.kill.until_on() => return Err(self.give_up(killed)),
                    () = tokio::time::sleep(wait) => {}
                }
                Ok(())
            }
            Next::Other => {
                self.write_down();
                Ok(())
            }
            Next::Stop => Err(self.give_up(error)),
        }
    }

    fn give_up(&mut self, error: GatewayError) -> CallFailure {
        self.settle();
        let chain = with_sources(&error);
        tracing::warn!(attempts = self.attempts.len(), error = chain, "model call failed");
        CallFailure { error, attempts: std::mem::take(&mut self.attempts), cost: self.cost }
    }

    fn next_after(&mut self, error: &GatewayError) -> Next {
        match error {
            GatewayError::Killed { .. }
            | GatewayError::BudgetExceeded { .. }
            | GatewayError::BudgetCut
            | GatewayError::Ledger(_)
            | GatewayError::NotConfigured
            | GatewayError::Settings { .. }
            | GatewayError::Shared(_) => return Next::Stop,
            GatewayError::ContextTooLong { .. } => {
                self.take_longer_route();
                return self.other();
            }
            GatewayError::ContentFiltered { .. } => {
                return if self.take_filter_route() { Next::Other } else { Next::Stop };
            }
            GatewayError::Overloaded { .. } | GatewayError::TokenRate { .. } | GatewayError::BreakerOpen { .. } => {
                return self.other();
            }
            _ => {}
        }
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Next::Stop;
        }
        // A server that wants to be left alone for long is worth less than the next one now.
        let asks_for_long = error.retry_after().is_some_and(|wait| wait > self.plan.retry.max);
        match self.plan.retry.wait(error, self.tries, left, rand::random()) {
            Some(wait) if !asks_for_long || self.left.is_empty() => Next::Again(wait),
            _ => self.other(),
        }
    }

    /// Goes on with the next model, if there is one.
    fn other(&mut self) -> Next {
        match self.left.pop() {
            Some(model) => {
                self.model = model;
                self.tries = 0;
                Next::Other
            }
            None => Next::Stop,
        }
    }

    /// From now on only models that hold more: those the route names for this, else those of the route that say so.
    fn take_longer_route(&mut self) {
        if self.route.on_context_too_long.is_empty() {
            let held = self.model.context_tokens;
            self.left.retain(|model| match (model.context_tokens, held) {
                (Some(other), Some(held)) => other > held,
                _ => true,
            });
        } else {
            self.left = std::mem::take(&mut self.route.on_context_too_long).into_iter().rev().collect();
        }
    }

    /// Goes on with the models for filtered calls; false if there are none.
    fn take_filter_route(&mut self) -> bool {
        self.left = std::mem::take(&mut self.route.on_content_filter).into_iter().rev().collect();
        matches!(self.other(), Next::Other)
    }

    /// Hands the rows so far on, so that a crash in a long wait loses none that go to the ledger's queue.
    fn write_down(&mut self) {
        self.rows_go_to.put(std::mem::take(&mut self.rows));
    }

    /// Ends the call: settles its reservation together with the rows that are left.
    pub fn settle(&mut self) {
        if std::mem::replace(&mut self.is_settled, true) {
            return;
        }
        if let Some(rate) = &self.tenant.rate {
            rate.correct(self.expected_tokens, self.tokens, Instant::now());
        }
        if let Some(held) = self.held.take() {
            let used = Amount { cost: self.cost, tokens: self.tokens, calls: 1 };
            self.rows.extend(self.core.budgets.settle(&held, used));
        }
        self.write_down();
    }
}

/// The caller left: the attempt under way is stopped by its own drop, and this writes it down.
impl Drop for Walk {
    fn drop(&mut self) {
        self.close(End::Cancelled);
        self.settle();
    }
}

fn take_rate(tenant: &Tenant, name: &str, tokens: u64) -> Result<(), GatewayError> {
    let Some(rate) = &tenant.rate else { return Ok(()) };
    rate.take(tokens, Instant::now()).map_err(|retry_after| GatewayError::TokenRate {
        whose: name.to_owned(),
        tokens_per_minute: rate.per_minute(),
        retry_after,
    })
}

/// An error with its sources on one line.
fn with_sources(error: &GatewayError) -> String {
    let mut line = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        source = cause.source();
    }
    line
}
