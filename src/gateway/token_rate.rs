//! Tokens a minute: a bucket that fills steadily and may be emptied at once.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A rate limit in tokens. Times are arguments, so that tests need not wait.
#[derive(Debug)]
pub struct TokenRate {
    per_minute: u32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// May be negative: a call's true count is known only afterwards.
    left: f64,
    at: Instant,
}

impl TokenRate {
    /// A full bucket.
    pub fn new(per_minute: u32, now: Instant) -> Self {
        Self { per_minute, state: Mutex::new(State { left: f64::from(per_minute), at: now }) }
    }

    pub fn per_minute(&self) -> u32 {
        self.per_minute
    }

    /// Takes the tokens that a call is expected to use; if there are not enough, how long until there are. A call that
    /// is larger than the whole bucket passes when the bucket is full.
    pub fn take(&self, tokens: u64, now: Instant) -> Result<(), Duration> {
        let mut state = self.state.lock();
        self.fill(&mut state, now);
        let needed = (tokens as f64).min(f64::from(self.per_minute));
        if state.left + 1e-6 >= needed {
            state.left -= tokens as f64;
            return Ok(());
        }
        Err(Duration::from_secs_f64((needed - state.left) * 60.0 / f64::from(self.per_minute)))
    }

    /// Corrects what was taken once the true count is known.
    pub fn correct(&self, taken: u64, used: u64, now: Instant) {
        let mut state = self.state.lock();
        self.fill(&mut state, now);
        state.left = (state.left + taken as f64 - used as f64).min(f64::from(self.per_minute));
    }

    fn fill(&self, state: &mut State, now: Instant) {
        let passed = now.saturating_duration_since(state.at).as_secs_f64();
        state.left = (state.left + passed * f64::from(self.per_minute) / 60.0).min(f64::from(self.per_minute));
        state.at = now.max(state.at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_steadily_and_a_correction_gives_back_what_was_not_used() {
        let start = Instant::now();
        let rate = TokenRate::new(600, start);

        assert_eq!(rate.take(600, start), Ok(()));
        let wait = rate.take(100, start).unwrap_err();
        assert!((wait.as_secs_f64() - 10.0).abs() < 1e-6);
        assert_eq!(rate.take(100, start + wait), Ok(()));
        rate.correct(600, 400, start + wait);
        assert_eq!(rate.take(200, start + wait), Ok(()));
    }

    #[test]
    fn a_call_larger_than_the_bucket_passes_when_it_is_full_and_is_paid_for_afterwards() {
        let start = Instant::now();
        let rate = TokenRate::new(60, start);

        assert_eq!(rate.take(120, start), Ok(()));
        assert!((rate.take(60, start).unwrap_err().as_secs_f64() - 120.0).abs() < 1e-6);
        assert!(rate.take(1, start - Duration::from_secs(5)).is_err(), "a clock that goes back fills nothing");
    }
}
