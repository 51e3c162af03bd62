//! A bounded number of documents at work and a bounded number that wait for a place.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::ParseError;

/// Lets at most `places` through at once and refuses whoever would wait as one too many.
pub(super) struct Gate {
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    queue_limit: usize,
}

impl Gate {
    pub fn new(places: usize, queue_limit: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(places.max(1))), waiting: AtomicUsize::new(0), queue_limit }
    }

    /// Waits for a place; it is free again once the permit is dropped.
    pub async fn enter(&self) -> Result<OwnedSemaphorePermit, ParseError> {
        if let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(permit);
        }
        let _waiting = Waiting::join(self)?;
        let permit = Arc::clone(&self.places).acquire_owned().await;
        Ok(permit.expect("the semaphore is never closed"))
    }
}

/// Leaves the queue when dropped, also if the caller gave up.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn join(gate: &'a Gate) -> Result<Self, ParseError> {
        let waiting = Waiting(&gate.waiting);
        if gate.waiting.fetch_add(1, Ordering::AcqRel) >= gate.queue_limit {
            return Err(ParseError::Busy { limit: gate.queue_limit });
        }
        Ok(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_too_many_is_refused_and_places_come_back() {
        let gate = Arc::new(Gate::new(1, 1));
        let first = gate.enter().await.unwrap();
        let second = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.enter().await.map(drop) }
        });
        while gate.waiting.load(Ordering::Acquire) == 0 {
            tokio::task::yield_now().await;
        }

        assert!(matches!(gate.enter().await, Err(ParseError::Busy { limit: 1 })));
        drop(first);
        assert!(second.await.unwrap().is_ok());
        assert!(gate.enter().await.is_ok());
        assert_eq!(gate.waiting.load(Ordering::Acquire), 0);
    }
}
