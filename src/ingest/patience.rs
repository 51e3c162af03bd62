//! Waiting for a place in a full queue: pauses that grow, and a bound.

use std::time::{Duration, Instant};

const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// A place may come free at any time, so nobody sleeps longer than this.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// How long a caller has waited and may wait.
pub(super) struct Patience {
    since: Instant,
    longest: Duration,
    pause: Duration,
}

impl Patience {
    pub(super) fn new(longest_ms: u64) -> Self {
        Self { since: Instant::now(), longest: Duration::from_millis(longest_ms), pause: FIRST_PAUSE }
    }

    /// Waits a little; `Err` with the milliseconds waited once patience has run out.
    pub(super) async fn pause(&mut self) -> Result<(), u64> {
        let waited = self.since.elapsed();
        if waited >= self.longest {
            return Err(u64::try_from(waited.as_millis()).unwrap_or(u64::MAX));
        }
        tokio::time::sleep(self.pause.min(self.longest - waited)).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}
