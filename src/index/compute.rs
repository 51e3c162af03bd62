//! The one bounded pool for work that computes: index scans, graph walks, parsing, chunking.
//!
//! Nothing over half a millisecond runs on a tokio thread; it comes here. The bound on waiting work is a setting,
//! so overload is an answer to one caller and not a slow death for all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::oneshot;

/// Why work was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ComputeError {
    #[error("the compute queue is full ({limit} waiting)")]
    Full { limit: usize },
    #[error("the work panicked")]
    Panicked,
}

/// A rayon pool with a bound on what waits for it.
pub struct ComputePool {
    pool: rayon::ThreadPool,
    waiting: Arc<AtomicUsize>,
    limit: usize,
}

impl ComputePool {
    /// A pool of `threads` that lets at most `limit` pieces of work wait or run.
    pub fn new(threads: usize, limit: usize) -> Result<Self, rayon::ThreadPoolBuildError> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("compute-{index}"))
            .build()?;
        Ok(Self { pool, waiting: Arc::default(), limit })
    }

    /// Runs `work` on the pool. Work whose caller has gone before it started is not done.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, ComputeError> {
        let place = Place::take(&self.waiting, self.limit)?;
        let (sender, receiver) = oneshot::channel();
        let span = tracing::Span::current();
        self.pool.spawn(move || {
            let _place = place;
            if sender.is_closed() {
                return;
            }
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| span.in_scope(work)));
            // The receiver may have gone meanwhile; then nobody wants the result.
            let _ = sender.send(outcome);
        });
        match receiver.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(_)) | Err(_) => Err(ComputeError::Panicked),
        }
    }
}

/// A place in the queue, given back when dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(waiting: &Arc<AtomicUsize>, limit: usize) -> Result<Self, ComputeError> {
        if waiting.fetch_add(1, Ordering::AcqRel) >= limit {
            waiting.fetch_sub(1, Ordering::AcqRel);
            return Err(ComputeError::Full { limit });
        }
        Ok(Self(Arc::clone(waiting)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_beyond_the_bound_is_refused_and_a_panic_harms_nobody() {
        let pool = Arc::new(ComputePool::new(1, 1).unwrap());
        let (release, gate) = std::sync::mpsc::channel::<()>();
        let busy = tokio::spawn({
            let pool = Arc::clone(&pool);
            async move { pool.run(move || gate.recv().is_ok()).await }
        });
        while pool.waiting.load(Ordering::Acquire) == 0 {
            tokio::task::yield_now().await;
        }

        assert_eq!(pool.run(|| 1).await, Err(ComputeError::Full { limit: 1 }));
        release.send(()).unwrap();
        assert_eq!(busy.await.unwrap(), Ok(true));
        while pool.waiting.load(Ordering::Acquire) != 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(pool.run(|| -> u8 { panic!("a bug") }).await, Err(ComputeError::Panicked));
    }
}
