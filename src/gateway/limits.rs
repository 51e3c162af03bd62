//! The arithmetic of budgets: pure functions of limits, amounts and times.

use std::time::Duration;

use jiff::tz::TimeZone;

use crate::domain::{Amount, Budget, BudgetPeriod, Timestamp};

/// Start of the period (UTC) that `now` lies in.
pub fn period_start(period: BudgetPeriod, now: Timestamp) -> Timestamp {
    let date = date(now);
    let first = match period {
        BudgetPeriod::Total => return Timestamp(0),
        BudgetPeriod::Day => date,
        BudgetPeriod::Month => date.first_of_month(),
    };
    Timestamp(microseconds(first))
}

/// From `now` to the end of its period; `None` if it does not end.
pub fn period_end(period: BudgetPeriod, now: Timestamp) -> Option<Duration> {
    let date = date(now);
    let next = match period {
        BudgetPeriod::Total => return None,
        BudgetPeriod::Day => date.tomorrow().ok()?,
        BudgetPeriod::Month => date.last_of_month().tomorrow().ok()?,
    };
    let left = u64::try_from(microseconds(next) - now.0).ok()?;
    Some(Duration::from_micros(left))
}

fn date(now: Timestamp) -> jiff::civil::Date {
    let timestamp = jiff::Timestamp::from_microsecond(now.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    timestamp.to_zoned(TimeZone::UTC).date()
}

fn microseconds(date: jiff::civil::Date) -> i64 {
    date.to_zoned(TimeZone::UTC).map_or(0, |start| start.timestamp().as_microsecond())
}

/// Which limit `more` would break on top of `used`, for people; `None` if none.
pub fn over(budget: &Budget, used: Amount, more: Amount) -> Option<String> {
    let sum = used + more;
    if let Some(limit) = budget.limit.filter(|limit| sum.cost > *limit) {
        return Some(format!(
            "{} of {} are spent or reserved, the call may cost {} (a smaller max_tokens lowers that)",
            used.cost, limit, more.cost
        ));
    }
    if let Some(limit) = budget.limit_tokens.filter(|limit| sum.tokens > *limit) {
        let (used, more) = (used.tokens, more.tokens);
        return Some(format!("{used} of {limit} tokens are used or reserved, the call may use {more}"));
    }
    let limit = budget.limit_calls.filter(|limit| sum.calls > *limit)?;
    Some(format!("{} of {limit} calls are made", used.calls))
}

/// True if nothing is left to spend.
pub fn limit_reached(budget: &Budget, spent: Amount) -> bool {
    budget.limit.is_some_and(|limit| spent.cost > limit || (spent.cost == limit && limit.0 > 0))
        || budget.limit_tokens.is_some_and(|limit| spent.tokens >= limit)
        || budget.limit_calls.is_some_and(|limit| spent.calls >= limit)
}

/// What to tell people once the alert share of a limit is spent; `None` before.
pub fn alert_reached(budget: &Budget, spent: Amount) -> Option<String> {
    let reached = |spent: u64, limit: u64| spent as f64 >= budget.alert_at * limit as f64;
    let percent = budget.alert_at * 100.0;
    if let Some(limit) = budget.limit.filter(|limit| reached(spent.cost.0, limit.0)) {
        return Some(format!("{} of {limit} are spent, {percent} % or more", spent.cost));
    }
    if let Some(limit) = budget.limit_tokens.filter(|limit| reached(spent.tokens, *limit)) {
        return Some(format!("{} of {limit} tokens are used, {percent} % or more", spent.tokens));
    }
    let limit = budget.limit_calls.filter(|limit| reached(spent.calls, *limit))?;
    Some(format!("{} of {limit} calls are made, {percent} % or more", spent.calls))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Nanousd;

    fn at(text: &str) -> Timestamp {
        Timestamp(text.parse::<jiff::Timestamp>().unwrap().as_microsecond())
    }

    fn amount(cost: u64, tokens: u64, calls: u64) -> Amount {
        Amount { cost: Nanousd(cost), tokens, calls }
    }

    fn budget() -> Budget {
        Budget {
            scope: "everything".parse().unwrap(),
            period: BudgetPeriod::Day,
            limit: Some(Nanousd(100)),
            limit_tokens: Some(1_000),
            limit_calls: Some(10),
            alert_at: 0.5,
        }
    }

    #[test]
    fn periods_begin_and_end_at_midnight_utc() {
        let now = at("2026-02-28T23:30:00Z");

        assert_eq!(period_start(BudgetPeriod::Day, now), at("2026-02-28T00:00:00Z"));
        assert_eq!(period_start(BudgetPeriod::Month, now), at("2026-02-01T00:00:00Z"));
        assert_eq!(period_start(BudgetPeriod::Total, now), Timestamp(0));
        assert_eq!(period_end(BudgetPeriod::Day, now), Some(Duration::from_secs(1_800)));
        assert_eq!(period_end(BudgetPeriod::Month, now), Some(Duration::from_secs(1_800)));
        assert_eq!(period_end(BudgetPeriod::Total, now), None);
    }

    #[test]
    fn a_call_may_reach_each_limit_and_not_pass_it() {
        assert_eq!(over(&budget(), amount(60, 0, 0), amount(40, 1_000, 10)), None);
        assert!(over(&budget(), amount(61, 0, 0), amount(40, 0, 0)).unwrap().contains("USD"));
        assert!(over(&budget(), amount(0, 1, 0), amount(0, 1_000, 0)).unwrap().contains("tokens"));
        assert!(over(&budget(), amount(0, 0, 10), amount(0, 0, 1)).unwrap().contains("calls"));
    }

    #[test]
    fn the_alert_comes_at_its_share_of_any_limit() {
        assert_eq!(alert_reached(&budget(), amount(49, 499, 4)), None);
        assert!(alert_reached(&budget(), amount(50, 0, 0)).is_some());
        assert!(alert_reached(&budget(), amount(0, 500, 0)).is_some());
        assert!(alert_reached(&budget(), amount(0, 0, 5)).is_some());
        assert!(!limit_reached(&budget(), amount(99, 999, 9)));
        assert!(limit_reached(&budget(), amount(100, 0, 0)));
    }
}
