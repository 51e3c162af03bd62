//! Amounts of money.

use std::fmt;
use std::iter::Sum;
use std::ops::Add;

use serde::{Deserialize, Serialize};

/// US dollars in billionths: whole numbers, so that a sum of ten thousand calls is exact.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Nanousd(pub u64);

impl Nanousd {
    /// The nearest amount; `None` for what is not a number from 0 to about 18 thousand million dollars.
    pub fn from_usd(usd: f64) -> Option<Self> {
        let nano = (usd * 1e9).round();
        (nano >= 0.0 && nano < u64::MAX as f64).then_some(Self(nano as u64))
    }

    /// Dollars, for people and for JSON.
    pub fn usd(self) -> f64 {
        self.0 as f64 / 1e9
    }

    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

/// Saturates: a sum that large is over any budget either way.
impl Add for Nanousd {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sum for Nanousd {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self(0), Add::add)
    }
}

impl fmt::Display for Nanousd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} USD", self.usd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dollars_are_rounded_to_the_nearest_billionth_and_nonsense_is_refused() {
        assert_eq!(Nanousd::from_usd(0.000_000_001_4), Some(Nanousd(1)));
        assert_eq!(Nanousd::from_usd(2.5), Some(Nanousd(2_500_000_000)));
        assert_eq!(Nanousd::from_usd(-0.1), None);
        assert_eq!(Nanousd::from_usd(f64::NAN), None);
        assert_eq!(Nanousd::from_usd(f64::INFINITY), None);
    }
}
