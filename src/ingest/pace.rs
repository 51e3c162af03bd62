//! How fast a building comes along, measured where it is done.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::domain::GenerationId;

/// How far back the rate looks. 5 min: long enough for uneven documents, short enough to follow the load.
const WINDOW: Duration = Duration::from_secs(300);
/// Measurements kept of one building.
const MARKS: usize = 64;

/// Rates of all buildings of this process.
#[derive(Debug, Default)]
pub(super) struct Paces(Mutex<HashMap<GenerationId, Vec<Mark>>>);

#[derive(Debug, Clone, Copy)]
struct Mark {
    at: Instant,
    built: u64,
}

impl Paces {
    /// So many documents of a generation have been built since the last time.
    pub(super) fn add(&self, generation: GenerationId, built: u64, now: Instant) {
        let mut paces = self.0.lock();
        let marks = paces.entry(generation).or_default();
        let before = marks.last().map_or(0, |mark| mark.built);
        marks.retain(|mark| now.saturating_duration_since(mark.at) <= WINDOW);
        if marks.len() >= MARKS {
            // The oldest stays, for a long view; of the others every second one does.
            let kept: Vec<Mark> = marks.iter().copied().step_by(2).collect();
            *marks = kept;
        }
        marks.push(Mark { at: now, built: before + built });
    }

    /// How long so many more take at the rate of late; `None` while there is none.
    pub(super) fn eta(&self, generation: GenerationId, left: u64, now: Instant) -> Option<Duration> {
        if left == 0 {
            return Some(Duration::ZERO);
        }
        let paces = self.0.lock();
        let marks = paces.get(&generation)?;
        let first = marks.iter().find(|mark| now.saturating_duration_since(mark.at) <= WINDOW)?;
        let last = marks.last()?;
        let (built, took) = (last.built - first.built, last.at.saturating_duration_since(first.at));
        (built > 0).then(|| took.mul_f64(left as f64 / built as f64))
    }

    pub(super) fn forget(&self, generation: GenerationId) {
        self.0.lock().remove(&generation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: GenerationId = GenerationId([1; 16]);

    #[test]
    fn what_is_left_takes_as_long_as_what_was_done_lately() {
        let (paces, start) = (Paces::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);

        paces.add(ID, 10, at(0));
        assert_eq!(paces.eta(ID, 100, at(0)), None, "one measurement is no rate");
        for second in 1..=100 {
            paces.add(ID, 10, at(second));
        }

        assert_eq!(paces.eta(ID, 500, at(100)), Some(Duration::from_secs(50)));
        assert_eq!(paces.eta(ID, 0, at(100)), Some(Duration::ZERO));
        assert_eq!(paces.eta(ID, 500, at(1_000)), None, "a building that rests has no rate");
    }
}
