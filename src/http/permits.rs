//! How much is worked on at once: a bounded number of places, and a bounded queue before them.
//!
//! A permit is taken after the caller is known and before the body is read, and is kept until the response is sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use futures::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::Problem;
use super::settings::HttpSettings;
use super::trace::is_streamed;

/// Places for requests, answers, uploads and those who watch tasks. They are apart, so that neither slow models nor long
/// uploads nor patient watchers ever keep searches waiting.
pub(super) struct Permits {
    pub requests: Gate,
    pub answers: Gate,
    pub uploads: Gate,
    pub watches: Gate,
}

impl Permits {
    pub(super) fn new(settings: &HttpSettings) -> Self {
        let patience = Duration::from_millis(settings.queue_timeout_ms);
        Self {
            requests: Gate::new(settings.max_concurrent_requests, settings.max_queued_requests, patience),
            answers: Gate::new(settings.max_concurrent_answers, settings.max_queued_answers, patience),
            uploads: Gate::new(settings.max_concurrent_uploads, settings.max_queued_uploads, patience),
            watches: Gate::new(settings.max_concurrent_watches, settings.max_queued_watches, patience),
        }
    }
}

/// A number of places with a bounded queue.
pub(super) struct Gate {
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    max_waiting: usize,
    patience: Duration,
}

impl Gate {
    fn new(places: usize, max_waiting: usize, patience: Duration) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), waiting: AtomicUsize::new(0), max_waiting, patience }
    }

    /// A place; 503 if the queue is full or the wait too long. Waiters are served in order.
    pub(super) async fn enter(&self) -> Result<OwnedSemaphorePermit, Problem> {
        if let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(permit);
        }
        let _queued = Queued::join(self)?;
        match tokio::time::timeout(self.patience, Arc::clone(&self.places).acquire_owned()).await {
            Ok(permit) => Ok(permit.expect("the semaphore is never closed")),
            Err(_) => Err(busy()),
        }
    }
}

/// A place in the queue, given back when dropped: also when the client goes away.
struct Queued<'a>(&'a Gate);

impl<'a> Queued<'a> {
    fn join(gate: &'a Gate) -> Result<Self, Problem> {
        if gate.waiting.fetch_add(1, Ordering::AcqRel) >= gate.max_waiting {
            gate.waiting.fetch_sub(1, Ordering::AcqRel);
            return Err(busy());
        }
        Ok(Self(gate))
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

fn busy() -> Problem {
    Problem::unavailable("too many requests are waiting; try again", Duration::from_secs(1))
}

/// Keeps the permit for as long as the response is being made.
pub(super) fn keep(permit: OwnedSemaphorePermit, response: Response) -> Response {
    if !is_streamed(&response) {
        return response;
    }
    response.map(|body| {
        Body::from_stream(body.into_data_stream().map(move |frame| {
            let _held = &permit;
            frame
        }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::problem::ProblemKind;

    #[tokio::test(start_paused = true)]
    async fn beyond_places_and_queue_the_answer_is_503_with_a_time() {
        let gate = Gate::new(1, 1, Duration::from_secs(2));
        let first = gate.enter().await.unwrap();

        let (second, third) = tokio::join!(gate.enter(), gate.enter());

        let third = third.unwrap_err();
        assert_eq!(third.kind, ProblemKind::Unavailable);
        assert!(third.retry_after.is_some());
        assert_eq!(second.unwrap_err().kind, ProblemKind::Unavailable);
        drop(first);
        assert!(gate.enter().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_becomes_free_is_given_to_the_queue() {
        let gate = Gate::new(1, 1, Duration::from_secs(2));
        let first = gate.enter().await.unwrap();

        let (second, ()) = tokio::join!(gate.enter(), async {
            tokio::task::yield_now().await;
            drop(first);
        });

        assert!(second.is_ok());
    }
}
