//! Leaves a server alone that fails again and again (Nygard, "Release It!", 2nd ed. 2018, §5.2).
//!
//! Closed: calls pass. After so many failures in a row: open, calls are refused at once. After the cooldown: one call
//! tries; its success closes the breaker, its failure opens it again.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// What a breaker says about a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    /// For so long no call passes.
    Refused {
        failures: u32,
        wait: Duration,
    },
}

/// One server's breaker. Times are arguments, so that tests need not wait.
#[derive(Debug)]
pub struct Breaker {
    max_failures: u32,
    cooldown: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// Set while open; the probe moves it on, so that no second one follows until the first has ended or is overdue.
    closed_until: Option<Instant>,
}

impl Breaker {
    /// Opens after `max_failures` failures in a row; never if that is 0.
    pub fn new(max_failures: u32, cooldown: Duration) -> Self {
        Self { max_failures, cooldown, state: Mutex::default() }
    }

    /// Whether a call may be made now. Each call that passes must be followed by [`Self::succeeded`] or
    /// [`Self::failed`], or by neither if it says nothing about the server (the caller left).
    pub fn ask(&self, now: Instant) -> Verdict {
        let mut state = self.state.lock();
        match state.closed_until {
            Some(until) if now < until => Verdict::Refused { failures: state.failures, wait: until - now },
            Some(_) => {
                state.closed_until = Some(now + self.cooldown);
                Verdict::Pass
            }
            None => Verdict::Pass,
        }
    }

    /// The server answered, if only to say no.
    pub fn succeeded(&self) {
        *self.state.lock() = State::default();
    }

    /// The server could not answer.
    pub fn failed(&self, now: Instant) {
        let mut state = self.state.lock();
        state.failures = state.failures.saturating_add(1);
        if self.max_failures > 0 && state.failures >= self.max_failures {
            state.closed_until = Some(now + self.cooldown);
        }
    }

    /// True while calls are refused.
    pub fn is_open(&self, now: Instant) -> bool {
        self.state.lock().closed_until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOLDOWN: Duration = Duration::from_secs(10);

    #[test]
    fn failures_in_a_row_open_it_and_one_probe_closes_it() {
        let (breaker, start) = (Breaker::new(2, COOLDOWN), Instant::now());
        breaker.failed(start);
        assert_eq!(breaker.ask(start), Verdict::Pass);
        breaker.failed(start);

        assert_eq!(breaker.ask(start), Verdict::Refused { failures: 2, wait: COOLDOWN });
        assert_eq!(breaker.ask(start + COOLDOWN), Verdict::Pass);
        assert!(matches!(breaker.ask(start + COOLDOWN), Verdict::Refused { .. }), "one probe at a time");
        breaker.succeeded();
        assert_eq!(breaker.ask(start + COOLDOWN), Verdict::Pass);
    }

    #[test]
    fn a_probe_that_fails_or_never_ends_opens_it_for_another_cooldown() {
        let (breaker, start) = (Breaker::new(1, COOLDOWN), Instant::now());
        breaker.failed(start);
        assert_eq!(breaker.ask(start + COOLDOWN), Verdict::Pass);
        breaker.failed(start + COOLDOWN);

        assert!(breaker.is_open(start + COOLDOWN + COOLDOWN / 2));
        assert_eq!(breaker.ask(start + 2 * COOLDOWN), Verdict::Pass);
        assert_eq!(breaker.ask(start + 3 * COOLDOWN), Verdict::Pass, "the probe before never came back");
    }

    #[test]
    fn successes_between_failures_keep_it_closed_and_zero_never_opens() {
        let (breaker, start) = (Breaker::new(2, COOLDOWN), Instant::now());
        let never = Breaker::new(0, COOLDOWN);
        for _ in 0..10 {
            breaker.failed(start);
            breaker.succeeded();
            never.failed(start);
        }

        assert!(!breaker.is_open(start));
        assert!(!never.is_open(start));
    }
}
