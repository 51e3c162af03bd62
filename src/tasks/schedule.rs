//! Work that begins by the clock.
//!
//! The minute for which it is due enters the task's id, so any number of processes that notice make one task.

use std::sync::Arc;
use std::time::Duration;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Zoned};

use crate::domain::{TenantId, TenantScope, Timestamp, TraceId};

use super::desk::{Again, TaskOrder};
use super::runner::Shared;
use super::settings::ScheduleSettings;

/// What was missed longer ago is left out.
const CATCH_UP: SignedDuration = SignedDuration::from_hours(1);
/// Longest wait for the next minute that is due: the clock may be set meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Five fields, UTC.
pub(super) fn read(cron: &str) -> Result<Cron, String> {
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    parser.parse(cron).map_err(|error| error.to_string())
}

/// Submits what is due until the runner stops.
pub(super) async fn keep_time(shared: Arc<Shared>) {
    let schedules = &shared.parts.settings.schedules;
    // Settings that are not valid are refused before a runner is made of them.
    let mut lines: Vec<Line<'_>> = schedules.iter().filter_map(Line::of).collect();
    while !lines.is_empty() {
        let now = utc((shared.parts.clock)());
        for line in &mut lines {
            line.submit_due(&shared, &now).await;
        }
        let next = lines.iter().filter_map(|line| line.cron.find_next_occurrence(&now, false).ok()).min();
        let wait = next.and_then(|next| Duration::try_from(now.duration_until(&next)).ok()).unwrap_or(LOOK_EVERY);
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = tokio::time::sleep(wait.min(LOOK_EVERY)) => {}
        }
    }
}

struct Line<'a> {
    settings: &'a ScheduleSettings,
    cron: Cron,
    scope: TenantScope,
    /// The minute that was submitted last.
    submitted: Option<Zoned>,
}

impl<'a> Line<'a> {
    fn of(settings: &'a ScheduleSettings) -> Option<Self> {
        let scope = TenantScope::everything(TenantId::new(&settings.tenant).ok()?);
        Some(Self { settings, cron: read(&settings.cron).ok()?, scope, submitted: None })
    }

    /// The latest minute for which it was due, unless that is long ago.
    fn slot(&self, now: &Zoned) -> Option<Zoned> {
        let slot = self.cron.find_previous_occurrence(now, true).ok()?;
        (slot.duration_until(now) <= CATCH_UP).then_some(slot)
    }

    async fn submit_due(&mut self, shared: &Shared, now: &Zoned) {
        let Some(slot) = self.slot(now).filter(|slot| self.submitted.as_ref() != Some(slot)) else { return };
        let (schedule, minute) = (&self.settings.name, slot.strftime("%Y-%m-%dT%H:%MZ").to_string());
        let order = TaskOrder {
            kind: self.settings.kind.clone(),
            input: serde_json::to_value(&self.settings.input).unwrap_or_default(),
            model: None,
            priority: 0,
            delay: Duration::ZERO,
            again: Again::No,
            session_id: None,
            trace_id: TraceId(rand::random()),
            slot: Some(minute.clone()),
        };
        match shared.parts.desk.submit_own(&self.scope, order).await {
            Ok(submitted) => {
                let (task, is_new) = (submitted.task.id, submitted.is_new);
                tracing::info!(schedule, minute, task.id = %task, is_new, "scheduled work is in line");
                self.submitted = Some(slot);
            }
            Err(error) => {
                tracing::warn!(
                    schedule,
                    minute,
                    error = &error as &dyn std::error::Error,
                    "scheduled work was not taken"
                );
            }
        }
    }
}

fn utc(now: Timestamp) -> Zoned {
    jiff::Timestamp::from_microsecond(now.0).unwrap_or_default().to_zoned(TimeZone::UTC)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(settings: &ScheduleSettings) -> Line<'_> {
        Line::of(settings).unwrap()
    }

    #[test]
    fn the_latest_missed_minute_of_the_last_hour_is_due() {
        let settings = ScheduleSettings {
            name: "nightly".to_owned(),
            cron: "30 2 * * *".to_owned(),
            kind: "count".to_owned(),
            tenant: "default".to_owned(),
            input: toml::Table::new(),
        };
        let slot = |now: &str| {
            let now = now.parse::<jiff::Timestamp>().unwrap().to_zoned(TimeZone::UTC);
            line(&settings).slot(&now).map(|slot| slot.timestamp().to_string())
        };

        assert_eq!(slot("2026-11-23T02:29:59Z"), None);
        assert_eq!(slot("2026-11-23T02:30:00Z").as_deref(), Some("2026-11-23T02:30:00Z"));
        assert_eq!(slot("2026-11-23T03:29:59Z").as_deref(), Some("2026-11-23T02:30:00Z"));
        assert_eq!(slot("2026-11-23T04:00:00Z"), None);
    }

    #[test]
    fn a_schedule_has_five_fields() {
        assert!(read("*/5 8-18 * * MON-FRI").is_ok());
        for wrong in ["", "* * * *", "0 * * * * *", "61 * * * *", "daily"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
