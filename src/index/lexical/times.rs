//! Times in filters: RFC 3339 or the beginning of it, to microseconds.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;

/// How far text order and time order may disagree within one second, in microseconds.
const SLACK_MICROS: i64 = 1_000_000;

/// The stretch of time, both ends included, that a text may mean; microseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Uncertain {
    pub from: i64,
    pub to: i64,
}

/// Reads `2024`, `2024-05`, `2024-05-01`, `2024-05-01T10:00:00` and full RFC 3339; a beginning means its first
/// instant. With an offset other than zero, time as written and time as meant are both inside.
pub(super) fn instant(text: &str) -> Option<Uncertain> {
    let written = civil(text)?;
    let written = written.to_zoned(TimeZone::UTC).ok()?.timestamp().as_microsecond();
    let meant = text.parse::<jiff::Timestamp>().map_or(written, jiff::Timestamp::as_microsecond);
    Some(Uncertain {
        from: written.min(meant).saturating_sub(SLACK_MICROS),
        to: written.max(meant).saturating_add(SLACK_MICROS),
    })
}

fn civil(text: &str) -> Option<DateTime> {
    let digits_and = |mark: char, text: &str| text.chars().all(|c| c.is_ascii_digit() || c == mark);
    match text.len() {
        4 if digits_and('0', text) => Date::new(text.parse().ok()?, 1, 1).ok().map(DateTime::from),
        7 if digits_and('-', text) => {
            let (year, month) = text.split_once('-')?;
            Date::new(year.parse().ok()?, month.parse().ok()?, 1).ok().map(DateTime::from)
        }
        // The text order of anything else, say with a blank for the `T`, is not the order of times.
        10.. if text.as_bytes()[4] == b'-' && matches!(text.as_bytes().get(10), None | Some(b'T')) => {
            text.get(..19).unwrap_or(text).parse().ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_and_its_beginnings_are_read() {
        const MAY_FIRST: i64 = 1_714_521_600_000_000;

        for (text, micros) in [
            ("2024-05-01", MAY_FIRST),
            ("2024-05", MAY_FIRST),
            ("2024-05-01T00:00:00Z", MAY_FIRST),
            ("2024-05-01T00:00:00.000001Z", MAY_FIRST),
            ("2024", 1_704_067_200_000_000),
        ] {
            let Uncertain { from, to } = instant(text).unwrap();
            assert!(from < micros && micros < to && to - from <= 2 * SLACK_MICROS + 1, "{text}");
        }
        let offset = instant("2024-05-01T02:00:00+02:00").unwrap();
        assert!(offset.from < MAY_FIRST && offset.to > MAY_FIRST + 2 * 3_600_000_000);
        for text in ["", "yesterday", "20240501", "12345-01-01", "é024-05-01xx", "2024-05-01 10:00:00"] {
            assert_eq!(instant(text), None, "{text}");
        }
    }
}
