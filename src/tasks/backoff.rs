//! How long a task waits for its next attempt: exponential backoff with full jitter (Brooker, "Exponential Backoff And
//! Jitter", AWS Architecture Blog, 2015).
//!
//! Full jitter spreads tasks that failed together over the whole interval; without it they come back together.

use std::time::Duration;

use super::settings::TaskSettings;

/// The wait after the `tries`-th attempt in vain (from 1), never under `retry_after`. `unit` is the jitter, from 0 to 1.
pub(super) fn wait(settings: &TaskSettings, tries: u32, retry_after: Option<Duration>, unit: f64) -> Duration {
    let doubled = 1_u64.checked_shl(tries.saturating_sub(1)).unwrap_or(u64::MAX);
    let ceiling_ms = settings.backoff_base_ms.saturating_mul(doubled).min(settings.backoff_max_ms);
    Duration::from_millis(ceiling_ms).mul_f64(unit.clamp(0.0, 1.0)).max(retry_after.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn waits_double_up_to_the_ceiling() {
        let settings = TaskSettings::default();

        let waits = [1, 2, 3, 9, 10, 40, 99].map(|tries| wait(&settings, tries, None, 1.0).as_secs());

        assert_eq!(waits, [1, 2, 4, 256, 300, 300, 300]);
    }

    proptest! {
        #[test]
        fn a_wait_lies_between_retry_after_and_the_larger_of_it_and_the_ceiling(
            tries in 0_u32..100, unit in 0.0..=1.0_f64, asked_s in proptest::option::of(0_u64..1_000),
        ) {
            let asked = asked_s.map(Duration::from_secs);
            let wait = wait(&TaskSettings::default(), tries, asked, unit);

            prop_assert!(wait >= asked.unwrap_or_default());
            prop_assert!(wait <= Duration::from_secs(300).max(asked.unwrap_or_default()));
        }
    }
}
