//! How long to wait before the next attempt: exponential backoff with full jitter (Brooker, "Exponential Backoff
//! And Jitter", AWS Architecture Blog, 2015).
//!
//! Full jitter spreads callers that failed together over the whole interval; without it they come back together.

use std::time::Duration;

use super::{GatewayError, GatewaySettings};

/// Bounds of the waits between attempts.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    pub max_attempts: u32,
    pub base: Duration,
    pub max: Duration,
}

impl RetryPolicy {
    pub fn new(settings: &GatewaySettings) -> Self {
        Self {
            max_attempts: settings.max_attempts,
            base: Duration::from_millis(settings.backoff_base_ms),
            max: Duration::from_millis(settings.backoff_max_ms),
        }
    }

    /// The wait after the `failed`-th failed attempt (from 1), or `None` if another attempt is pointless: the kind
    /// is not retryable, the attempts are used up, or the wait would not end within `left`.
    ///
    /// `unit` is the jitter, from 0 to 1. A `Retry-After` of the server is never undercut.
    pub fn wait(&self, error: &GatewayError, failed: u32, left: Duration, unit: f64) -> Option<Duration> {
        if failed >= self.max_attempts || !error.kind().is_retryable() {
            return None;
        }
        let ceiling = self.base.saturating_mul(1_u32.checked_shl(failed - 1).unwrap_or(u32::MAX)).min(self.max);
        let wait = ceiling.mul_f64(unit.clamp(0.0, 1.0)).max(error.retry_after().unwrap_or_default());
        (wait < left).then_some(wait)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: RetryPolicy =
        RetryPolicy { max_attempts: 4, base: Duration::from_millis(100), max: Duration::from_millis(300) };
    const HOUR: Duration = Duration::from_secs(3600);

    fn status(status: u16, retry_after: Option<Duration>) -> GatewayError {
        GatewayError::Status { provider: "p".into(), status, retry_after, detail: String::new() }
    }

    #[test]
    fn waits_double_up_to_the_ceiling_and_end_with_the_attempts() {
        let error = status(503, None);
        let waits: Vec<_> = (1..=4).map(|failed| POLICY.wait(&error, failed, HOUR, 1.0)).collect();

        let ms = |ms| Some(Duration::from_millis(ms));
        assert_eq!(waits, [ms(100), ms(200), ms(300), None]);
    }

    #[test]
    fn what_cannot_succeed_later_is_not_tried_again() {
        assert_eq!(POLICY.wait(&status(401, None), 1, HOUR, 0.5), None);
        assert_eq!(POLICY.wait(&status(400, None), 1, HOUR, 0.5), None);
        assert!(POLICY.wait(&status(429, None), 1, HOUR, 0.5).is_some());
        assert!(POLICY.wait(&status(529, None), 1, HOUR, 0.5).is_some());
    }

    #[test]
    fn a_wait_beyond_the_deadline_is_not_begun() {
        let error = status(429, Some(Duration::from_secs(30)));

        assert_eq!(POLICY.wait(&error, 1, Duration::from_secs(29), 0.0), None);
        assert_eq!(POLICY.wait(&error, 1, Duration::from_secs(31), 0.0), Some(Duration::from_secs(30)));
    }

    proptest! {
        #[test]
        fn a_wait_lies_between_retry_after_and_the_larger_of_it_and_the_ceiling(
            failed in 1_u32..40, unit in 0.0..=1.0_f64, asked_ms in proptest::option::of(0_u64..1_000),
        ) {
            let policy = RetryPolicy { max_attempts: 50, ..POLICY };
            let asked = asked_ms.map(Duration::from_millis);
            let wait = policy.wait(&status(503, asked), failed, HOUR, unit).unwrap();

            prop_assert!(wait >= asked.unwrap_or_default());
            prop_assert!(wait <= policy.max.max(asked.unwrap_or_default()));
        }
    }
}
