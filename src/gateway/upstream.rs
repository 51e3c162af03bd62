//! A provider with what guards it: places, a rate of tokens, a breaker. Outlives a change of other settings.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout_at;

use super::GatewayError;
use super::breaker::{Breaker, Verdict};
use super::contract::Provider;
use super::provider_settings::ProviderSettings;
use super::token_rate::TokenRate;

/// A provider and its guards.
pub struct Upstream {
    pub provider: Arc<dyn Provider>,
    pub fingerprint: [u8; 32],
    places: Places,
    breaker: Breaker,
    rate: Option<TokenRate>,
}

/// A call that may go out now.
pub struct Admission {
    upstream: Arc<Upstream>,
    expected_tokens: u64,
    _place: OwnedSemaphorePermit,
}

impl Upstream {
    /// A provider that is guarded as the settings say.
    pub fn new(provider: Arc<dyn Provider>, settings: &ProviderSettings) -> Self {
        let cooldown = Duration::from_millis(settings.breaker_cooldown_ms);
        Self {
            provider,
            fingerprint: settings.fingerprint(),
            places: Places::new(settings.max_concurrent_calls, settings.max_waiting_calls),
            breaker: Breaker::new(settings.breaker_failures, cooldown),
            rate: settings.tokens_per_minute.map(|rate| TokenRate::new(rate, Instant::now())),
        }
    }

    /// Waits for a place, at most until `deadline`. Refused at once while the breaker is open, the tokens of this
    /// minute are used up, or too many wait already.
    pub async fn admit(self: &Arc<Self>, expected_tokens: u64, deadline: Instant) -> Result<Admission, GatewayError> {
        let provider = self.provider.name();
        // Looked at twice: a wait for a place must not end in a call to a server that has failed meanwhile.
        if self.breaker.is_open(Instant::now()) {
            self.ask_breaker()?;
        }
        let place = self.places.take(provider, deadline).await?;
        if let Some(rate) = &self.rate {
            rate.take(expected_tokens, Instant::now()).map_err(|retry_after| GatewayError::TokenRate {
                whose: provider.to_owned(),
                tokens_per_minute: rate.per_minute(),
                retry_after,
            })?;
        }
        // Last, since asking an open breaker may use up its one probe.
        if let Err(error) = self.ask_breaker() {
            if let Some(rate) = &self.rate {
                rate.correct(expected_tokens, 0, Instant::now());
            }
            return Err(error);
        }
        Ok(Admission { upstream: Arc::clone(self), expected_tokens, _place: place })
    }

    /// True while calls are refused because the server failed too often.
    pub fn is_broken(&self) -> bool {
        self.breaker.is_open(Instant::now())
    }

    fn ask_breaker(&self) -> Result<(), GatewayError> {
        match self.breaker.ask(Instant::now()) {
            Verdict::Pass => Ok(()),
            Verdict::Refused { failures, wait } => Err(GatewayError::BreakerOpen {
                provider: self.provider.name().to_owned(),
                failures,
                retry_after: wait,
            }),
        }
    }
}

impl Admission {
    /// The server answered, if only to say no.
    pub fn succeeded(&self) {
        self.upstream.breaker.succeeded();
    }

    /// The server did not answer as a server should.
    pub fn failed(&self) {
        self.upstream.breaker.failed(Instant::now());
    }

    /// What the call used after all.
    pub fn used(&self, tokens: u64) {
        if let Some(rate) = &self.upstream.rate {
            rate.correct(self.expected_tokens, tokens, Instant::now());
        }
    }
}

/// A bounded number of places with a bounded queue.
pub struct Places {
    semaphore: Arc<Semaphore>,
    waiting: AtomicUsize,
    max_waiting: usize,
}

impl Places {
    pub fn new(places: usize, max_waiting: usize) -> Self {
        Self { semaphore: Arc::new(Semaphore::new(places)), waiting: AtomicUsize::new(0), max_waiting }
    }

    /// A place, first come first served; `whose` names them in errors.
    pub async fn take(&self, whose: &str, deadline: Instant) -> Result<OwnedSemaphorePermit, GatewayError> {
        let semaphore = Arc::clone(&self.semaphore);
        if let Ok(place) = Arc::clone(&semaphore).try_acquire_owned() {
            return Ok(place);
        }
        let waiting = Waiting::enter(&self.waiting);
        if waiting.before >= self.max_waiting {
            return Err(GatewayError::Overloaded { place: whose.to_owned(), waiting: waiting.before });
        }
        match timeout_at(deadline.into(), semaphore.acquire_owned()).await {
            Ok(place) => Ok(place.expect("the gateway never closes its semaphores")),
            Err(_) => Err(GatewayError::Deadline { provider: whose.to_owned() }),
        }
    }
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
