//! Which finished traces are kept.
//!
//! The decision falls when the trace is whole, so nothing that went wrong is ever left out by chance. Pure: the clock is
//! an argument.

use crate::domain::Timestamp;

use super::trace_settings::TraceSettings;

/// Why a trace is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// A status of 500 or above, or a span that failed.
    Error,
    Slow,
    /// It may have cost money.
    ModelCall,
    /// There was room.
    Sampled,
}

impl Kept {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Slow => "slow",
            Self::ModelCall => "model_call",
            Self::Sampled => "sampled",
        }
    }
}

/// What the decision depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Outline {
    pub status: u16,
    pub duration_us: u64,
    pub has_error: bool,
    pub has_model_call: bool,
    /// It belongs to a tenant, who can ask for it.
    pub has_tenant: bool,
}

/// Decides, and remembers how many were kept in the present second.
#[derive(Debug)]
pub(super) struct Sampler {
    slow_us: u64,
    max_per_second: u32,
    /// Seconds since 1970.
    second: i64,
    taken: u32,
}

impl Sampler {
    pub(super) fn new(settings: &TraceSettings) -> Self {
        let slow_us = settings.slow_ms.saturating_mul(1_000);
        Self { slow_us, max_per_second: settings.max_per_second, second: i64::MIN, taken: 0 }
    }

    /// Why this trace is kept; `None`: it is not.
    ///
    /// What went well for nobody in particular is not kept: probes of `/healthz` would fill the database. Only
    /// [`Kept::Sampled`] ones take from the second's room, so a storm of errors leaves the ordinary ones visible beside it.
    pub(super) fn keep(&mut self, outline: Outline, now: Timestamp) -> Option<Kept> {
        if outline.status >= 500 || outline.has_error {
            return Some(Kept::Error);
        }
        if outline.duration_us >= self.slow_us {
            return Some(Kept::Slow);
        }
        if outline.has_model_call {
            return Some(Kept::ModelCall);
        }
        if !outline.has_tenant {
            return None;
        }
        let second = now.0.div_euclid(1_000_000);
        if second != self.second {
            (self.second, self.taken) = (second, 0);
        }
        if self.taken >= self.max_per_second {
            return None;
        }
        self.taken += 1;
        Some(Kept::Sampled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Outline =
        Outline { status: 200, duration_us: 3_000, has_error: false, has_model_call: false, has_tenant: true };

    fn sampler(max_per_second: u32) -> Sampler {
        Sampler::new(&TraceSettings { max_per_second, ..TraceSettings::default() })
    }

    #[test]
    fn what_went_wrong_was_slow_or_cost_money_is_kept_without_room() {
        let mut full = sampler(0);
        let mut keep = |outline| full.keep(outline, Timestamp(0));

        assert_eq!(keep(QUICK), None);
        assert_eq!(keep(Outline { status: 499, ..QUICK }), None);
        assert_eq!(keep(Outline { status: 500, ..QUICK }), Some(Kept::Error));
        assert_eq!(keep(Outline { has_error: true, has_model_call: true, ..QUICK }), Some(Kept::Error));
        assert_eq!(keep(Outline { duration_us: 999_999, ..QUICK }), None);
        assert_eq!(keep(Outline { duration_us: 1_000_000, ..QUICK }), Some(Kept::Slow));
        assert_eq!(keep(Outline { has_model_call: true, ..QUICK }), Some(Kept::ModelCall));
    }

    #[test]
    fn a_second_has_room_for_so_many_others() {
        let mut sampler = sampler(2);
        let mut kept = |micros: i64| sampler.keep(QUICK, Timestamp(micros)).is_some();

        assert_eq!([kept(0), kept(1), kept(999_999)], [true, true, false]);
        assert_eq!([kept(1_000_000), kept(1_000_001), kept(1_999_999)], [true, true, false]);
    }

    #[test]
    fn what_belongs_to_nobody_is_kept_only_if_something_went_wrong() {
        let mut sampler = sampler(9);
        let probe = Outline { has_tenant: false, ..QUICK };

        assert_eq!(sampler.keep(probe, Timestamp(0)), None);
        assert_eq!(sampler.keep(Outline { status: 503, ..probe }, Timestamp(0)), Some(Kept::Error));
    }

    #[test]
    fn errors_take_no_room_from_the_others() {
        let mut sampler = sampler(1);

        for _ in 0..5 {
            assert_eq!(sampler.keep(Outline { status: 503, ..QUICK }, Timestamp(7)), Some(Kept::Error));
        }

        assert_eq!(sampler.keep(QUICK, Timestamp(8)), Some(Kept::Sampled));
    }
}
