//! The gateway: every call to a language model goes through here.
//!
//! It decides how often a call is tried, how long it may take and how many run at once. A streamed call is tried
//! again only until its first piece has arrived: what a reader has seen cannot be taken back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout_at};
use tracing::{info, warn};

use crate::domain::{Attempt, TenantScope, TraceId};

use super::GatewayError;
use super::contract::{ChatEvent, ChatRequest, ChatResponse, ChatStream, Provider};
use super::retry::RetryPolicy;
use super::settings::GatewaySettings;

/// On whose behalf and for what a model is called.
#[derive(Debug, Clone, Copy)]
pub struct CallContext<'a> {
    pub scope: &'a TenantScope,
    pub trace_id: TraceId,
    /// What the call is for (`answer`); a constant, since it becomes a label.
    pub purpose: &'static str,
    /// The caller's own name for a series of calls.
    pub session_id: Option<&'a str>,
    /// The caller's own limit; the gateway's applies beside it.
    pub deadline: Instant,
}

/// A reply with the attempts it took, the successful one last.
#[derive(Debug)]
pub struct CallSuccess {
    pub provider: String,
    pub response: ChatResponse,
    pub attempts: Vec<Attempt>,
}

/// The last error with all attempts; none if the call was refused before the first.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct CallFailure {
    #[source]
    pub error: GatewayError,
    pub attempts: Vec<Attempt>,
}

/// Calls to the configured provider, bounded in number and time.
pub struct Gateway {
    provider: Option<Arc<dyn Provider>>,
    allowed_models: Vec<String>,
    retry: RetryPolicy,
    call_timeout: Duration,
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    max_waiting: usize,
}

impl Gateway {
    /// A gateway to `provider`.
    pub fn new(provider: Arc<dyn Provider>, settings: &GatewaySettings) -> Self {
        Self { provider: Some(provider), ..Self::without_provider(settings) }
    }

    /// A gateway that refuses every call with [`GatewayError::NotConfigured`].
    pub fn none() -> Self {
        Self::without_provider(&GatewaySettings::default())
    }

    fn without_provider(settings: &GatewaySettings) -> Self {
        Self {
            provider: None,
            allowed_models: settings.allowed_models.clone(),
            retry: RetryPolicy::new(settings),
            call_timeout: Duration::from_millis(settings.call_timeout_ms),
            places: Arc::new(Semaphore::new(settings.max_concurrent_calls)),
            waiting: AtomicUsize::new(0),
            max_waiting: settings.max_waiting_calls,
        }
    }

    /// True if calls can be made at all.
    pub fn is_configured(&self) -> bool {
        self.provider.is_some()
    }

    /// True if a request may name this model.
    pub fn allows(&self, model: &str) -> bool {
        self.provider.as_ref().is_some_and(|provider| provider.model() == model)
            || self.allowed_models.iter().any(|allowed| allowed == model)
    }

    /// Asks for a whole reply.
    pub async fn call(&self, request: &ChatRequest, context: &CallContext<'_>) -> Result<CallSuccess, CallFailure> {
        let mut run = self.begin(context).await?;
        loop {
            let started = Instant::now();
            match run.provider.chat(request, run.deadline).await {
                Ok(response) => {
                    run.record(&response.end.model, "ok", started);
                    let provider = run.provider.name().to_owned();
                    return Ok(CallSuccess { provider, response, attempts: run.attempts });
                }
                Err(error) => run.fail(request, error, started).await?,
            }
        }
    }

    /// Asks for a streamed reply; returns when its first piece has arrived.
    pub async fn call_stream(
        &self,
        request: &ChatRequest,
        context: &CallContext<'_>,
    ) -> Result<GatewayStream, CallFailure> {
        let mut run = self.begin(context).await?;
        loop {
            let started = Instant::now();
            match first_piece(run.provider.as_ref(), request, run.deadline).await {
                Ok((first, events)) => {
                    let model = run.model(request).to_owned();
                    run.record(&model, "streaming", started);
                    let provider = run.provider.name().to_owned();
                    return Ok(GatewayStream {
                        provider,
                        first: Some(first),
                        events,
                        attempts: run.attempts,
                        started,
                        _place: run.place,
                    });
                }
                Err(error) => run.fail(request, error, started).await?,
            }
        }
    }

    async fn begin<'a>(&self, context: &'a CallContext<'a>) -> Result<Run<'a>, CallFailure> {
        let refused = |error| CallFailure { error, attempts: Vec::new() };
        let provider = self.provider.clone().ok_or_else(|| refused(GatewayError::NotConfigured))?;
        let deadline = context.deadline.min(Instant::now() + self.call_timeout);
        let place = self.take_place(provider.name(), deadline).await.map_err(refused)?;
        Ok(Run { provider, deadline, place, attempts: Vec::new(), context, retry: self.retry })
    }

    async fn take_place(&self, provider: &str, deadline: Instant) -> Result<OwnedSemaphorePermit, GatewayError> {
        let places = Arc::clone(&self.places);
        if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            return Ok(place);
        }
        let waiting = Waiting::enter(&self.waiting);
        if waiting.before >= self.max_waiting {
            return Err(GatewayError::Overloaded { waiting: waiting.before });
        }
        match timeout_at(deadline.into(), places.acquire_owned()).await {
            Ok(place) => Ok(place.expect("the gateway never closes its semaphore")),
            Err(_) => Err(GatewayError::Deadline { provider: provider.to_owned() }),
        }
    }
}

/// The first event, with the rest of the stream.
async fn first_piece(
    provider: &dyn Provider,
    request: &ChatRequest,
    deadline: Instant,
) -> Result<(ChatEvent, ChatStream), GatewayError> {
    let mut events = provider.chat_stream(request, deadline).await?;
    let broken_off = || GatewayError::BrokenOff { provider: provider.name().to_owned(), source: None };
    let first = events.next().await.ok_or_else(broken_off)??;
    Ok((first, events))
}

/// One call with its attempts so far.
struct Run<'a> {
    provider: Arc<dyn Provider>,
    deadline: Instant,
    place: OwnedSemaphorePermit,
    attempts: Vec<Attempt>,
    context: &'a CallContext<'a>,
    retry: RetryPolicy,
}

impl Run<'_> {
    fn model<'r>(&'r self, request: &'r ChatRequest) -> &'r str {
        request.model.as_deref().unwrap_or(self.provider.model())
    }

    fn record(&mut self, model: &str, outcome: &'static str, started: Instant) {
        let latency_ms = milliseconds(started);
        info!(
            trace_id = %self.context.trace_id,
            tenant = %self.context.scope.tenant,
            purpose = self.context.purpose,
            session_id = self.context.session_id,
            provider = self.provider.name(),
            model,
            attempt = self.attempts.len() + 1,
            outcome,
            latency_ms,
            "model called"
        );
        self.attempts.push(Attempt {
            provider: self.provider.name().to_owned(),
            model: model.to_owned(),
            outcome: outcome.to_owned(),
            latency_ms,
        });
    }

    /// Records a failed attempt and waits for the next, or gives up.
    async fn fail(&mut self, request: &ChatRequest, error: GatewayError, started: Instant) -> Result<(), CallFailure> {
        let model = self.model(request).to_owned();
        self.record(&model, error.outcome(), started);
        let left = self.deadline.saturating_duration_since(Instant::now());
        match self.retry.wait(&error, self.attempts.len() as u32, left, rand::random()) {
            Some(wait) => {
                sleep(wait).await;
                Ok(())
            }
            None => {
                let chain = with_sources(&error);
                warn!(trace_id = %self.context.trace_id, attempts = self.attempts.len(), error = chain, "model call failed");
                Err(CallFailure { error, attempts: std::mem::take(&mut self.attempts) })
            }
        }
    }
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

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// A caller in the queue, counted until dropped.
struct Waiting<'a> {
    count: &'a AtomicUsize,
    before: usize,
}

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicUsize) -> Self {
        Self { count, before: count.fetch_add(1, Ordering::AcqRel) }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A streamed reply that keeps its place among the running calls until dropped. Dropping it stops the server.
pub struct GatewayStream {
    provider: String,
    first: Option<ChatEvent>,
    events: ChatStream,
    attempts: Vec<Attempt>,
    started: Instant,
    _place: OwnedSemaphorePermit,
}

impl GatewayStream {
    /// Name of the provider that answers.
    pub fn provider(&self) -> &str {
        &self.provider
    }

    /// All attempts; the last one is `streaming` until the stream has ended.
    pub fn attempts(&self) -> &[Attempt] {
        &self.attempts
    }

    /// The next event; `None` after [`ChatEvent::Done`] or an error.
    pub async fn next(&mut self) -> Option<Result<ChatEvent, GatewayError>> {
        let event = match self.first.take() {
            Some(event) => Ok(event),
            None => self.events.next().await?,
        };
        let outcome = match &event {
            Ok(ChatEvent::Delta(_)) => return Some(event),
            Ok(ChatEvent::Done(_)) => "ok",
            Err(error) => error.outcome(),
        };
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.outcome = outcome.to_owned();
            attempt.latency_ms = milliseconds(self.started);
        }
        Some(event)
    }
}
