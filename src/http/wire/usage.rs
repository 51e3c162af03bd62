//! What calls to language models used and cost.

use std::str::FromStr;

use jiff::civil::{Date, Time};
use jiff::tz::Offset;
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::{Nanousd, Timestamp, TraceId};
use crate::store::{UsageBy, UsageRow};

use super::time;

/// What calls used and cost, added up by group, the most expensive first.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "group_by": "task",
    "since": "2026-11-01T00:00:00Z", "rows": [{"group": "answer", "attempts": 812, "failed": 9,
    "input_tokens": 1_603_211, "output_tokens": 98_734, "cost_usd": 0.299721, "estimated_cost_usd": 0.0042}],
    "total_cost_usd": 0.299721}))]
pub(in crate::http) struct UsageBody {
    pub trace_id: String,
    pub group_by: &'static str,
    /// The first moment that counts.
    pub since: String,
    pub rows: Vec<UsageRowBody>,
    /// Of all groups, also of those beyond `limit`.
    pub total_cost_usd: f64,
}

/// Calls of one group.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct UsageRowBody {
    /// `null`: calls without one, such as those outside of sessions.
    pub group: Option<String>,
    /// Attempts, failed ones included.
    pub attempts: u64,
    pub failed: u64,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub cost_usd: f64,
    /// The part of `cost_usd` that was counted here because no server reported it.
    pub estimated_cost_usd: f64,
}

/// By what usage is added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) struct GroupBy(pub UsageBy);

const WORDS: [(&str, UsageBy); 6] = [
    ("tenant", UsageBy::Tenant),
    ("task", UsageBy::Task),
    ("model", UsageBy::Model),
    ("session", UsageBy::Session),
    ("day", UsageBy::Day),
    ("prompt_version", UsageBy::PromptVersion),
];

impl FromStr for GroupBy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = WORDS.iter().find(|(word, _)| *word == text);
        let known = WORDS.map(|(word, _)| word).join(", ");
        found.map(|(_, by)| Self(*by)).ok_or_else(|| format!("must be one of {known}"))
    }
}

impl GroupBy {
    fn as_str(self) -> &'static str {
        match self.0 {
            UsageBy::Tenant => "tenant",
            UsageBy::Task => "task",
            UsageBy::Model => "model",
            UsageBy::Session => "session",
            UsageBy::Day => "day",
            UsageBy::PromptVersion => "prompt_version",
        }
    }
}

/// A day (its start in UTC) or an RFC 3339 time.
pub(in crate::http) fn since(text: &str) -> Result<Timestamp, &'static str> {
    let moment = text.parse::<jiff::Timestamp>().ok().or_else(|| day(text));
    let fault = "must be a day (2026-11-01) or an RFC 3339 time (2026-11-01T08:00:00Z; a + is %2B in a query)";
    moment.map(|moment| Timestamp(moment.as_microsecond())).ok_or(fault)
}

fn day(text: &str) -> Option<jiff::Timestamp> {
    // The parser takes a time of day along and drops it.
    let day: Date = text.parse().ok().filter(|_| text.len() == "2026-11-01".len())?;
    Offset::UTC.to_timestamp(day.to_datetime(Time::midnight())).ok()
}

/// The start of the month that `now` lies in, in UTC.
pub(in crate::http) fn month_start(now: jiff::Timestamp) -> Timestamp {
    let first = Offset::UTC.to_datetime(now).date().first_of_month().to_datetime(Time::midnight());
    Timestamp(Offset::UTC.to_timestamp(first).unwrap_or(now).as_microsecond())
}

/// The start of the day, in UTC, that lies so many days before `now`.
pub(in crate::http) fn days_before(now: jiff::Timestamp, days: i64) -> Timestamp {
    let start = now.as_second().saturating_sub(days * 86_400);
    Timestamp(start.div_euclid(86_400) * 86_400 * 1_000_000)
}

impl UsageBody {
    pub(in crate::http) fn new(
        trace: TraceId,
        by: GroupBy,
        since: Timestamp,
        (rows, total): (Vec<UsageRow>, Nanousd),
    ) -> Self {
        Self {
            trace_id: trace.to_string(),
            group_by: by.as_str(),
            since: time(since),
            rows: rows.into_iter().map(Into::into).collect(),
            total_cost_usd: total.usd(),
        }
    }
}

impl From<UsageRow> for UsageRowBody {
    fn from(row: UsageRow) -> Self {
        Self {
            group: row.group,
            attempts: row.attempts,
            failed: row.failed,
            input_tokens: row.input_tokens,
            output_tokens: row.output_tokens,
            cost_usd: row.cost.usd(),
            estimated_cost_usd: row.estimated_cost.usd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_begins_at_midnight_in_utc_and_a_time_needs_its_offset() {
        let shown = |text: &str| since(text).map(time);

        assert_eq!(shown("2026-11-01").as_deref(), Ok("2026-11-01T00:00:00Z"));
        assert_eq!(shown("2026-11-01T02:00:00+02:00").as_deref(), Ok("2026-11-01T00:00:00Z"));
        assert_eq!(shown("2026-11-01T08:00:00.5Z").as_deref(), Ok("2026-11-01T08:00:00.5Z"));
        for wrong in ["", "yesterday", "2026-13-01", "2026-11-31", "2026-11-01T08:00:00", "2026-11", "1700000000"] {
            assert!(since(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_month_begins_on_its_first_day_in_utc() {
        let start = |now: &str| time(month_start(now.parse().unwrap()));

        assert_eq!(start("2026-11-23T11:39:00Z"), "2026-11-01T00:00:00Z");
        assert_eq!(start("2026-12-01T00:00:00Z"), "2026-12-01T00:00:00Z");
        assert_eq!(start("2026-12-01T00:30:00+02:00"), "2026-11-01T00:00:00Z");
    }

    #[test]
    fn days_are_counted_back_to_a_midnight_in_utc() {
        let start = |now: &str, days| time(days_before(now.parse().unwrap(), days));

        assert_eq!(start("2026-11-23T11:39:00Z", 0), "2026-11-23T00:00:00Z");
        assert_eq!(start("2026-12-01T00:30:00+02:00", 30), "2026-10-31T00:00:00Z");
        assert_eq!(start("1969-12-31T23:00:00Z", 0), "1969-12-31T00:00:00Z");
    }

    #[test]
    fn every_grouping_is_read_as_it_is_written() {
        for (word, by) in WORDS {
            assert_eq!(word.parse(), Ok(GroupBy(by)));
            assert_eq!(GroupBy(by).as_str(), word);
        }
        assert!("tenants".parse::<GroupBy>().unwrap_err().contains("prompt_version"));
    }
}
