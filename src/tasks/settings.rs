//! Settings of the task runner.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::{TaskKind, TenantId};

use super::schedule;

/// How many tasks run, how long they are held, how often they are tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TaskSettings {
    /// Tasks that this process runs at once. Default 16: most wait for a model server, not for this machine.
    pub max_running: usize,
    /// Tasks of one tenant that run at once, over all processes. Default 8: half of the places, so that no tenant takes
    /// them all.
    pub max_running_per_tenant: u64,
    /// Tasks of one kind that run at once, over all processes; of kinds that are not named, `max_running`. Default
    /// `ingest = 2`: it needs the processor, not a model server.
    pub max_running_per_kind: BTreeMap<String, u64>,
    /// Items of one step that are worked on at once. Default 4.
    pub max_items_at_once: usize,
    /// Items that one step may have. Default 10,000: their outputs are held in memory when the step ends.
    pub max_items: usize,
    /// Most bytes of one task's input. Default 4 MiB: a thousand pages; inputs are read whole at every claim.
    pub max_input_bytes: usize,
    /// Tasks of one tenant that may be in line, waiting or running. Default 100,000; more are refused with 429.
    pub max_open_per_tenant: usize,
    /// Attempts that bring a task no further before it has failed. Default 12: with the waits below about ten minutes, so
    /// that a model server may be started again meanwhile.
    pub max_attempts: u32,
    /// First wait between attempts; it doubles with each, and a random part of it is waited. Default 1,000.
    pub backoff_base_ms: u64,
    /// Longest wait between attempts. Default 300,000: five minutes.
    pub backoff_max_ms: u64,
    /// A runner that gives no sign of life for so long loses its tasks to the others. Default 15,000.
    pub lease_ms: u64,
    /// How often runners look for work and wishes of other processes. Default 500: a cancellation must take effect
    /// within a second.
    pub poll_every_ms: u64,
    /// How long a stopping process waits for items under way. Default 5,000; they are done again after the start if it is
    /// too short.
    pub shutdown_grace_ms: u64,
    /// Days that ended tasks are kept. Default 30; 0: for ever.
    pub keep_days: u32,
    /// Work that begins by the clock.
    pub schedules: Vec<ScheduleSettings>,
}

/// Work that begins by the clock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleSettings {
    /// For logs; unique.
    pub name: String,
    /// Five fields: minute, hour, day of month, month, day of week; UTC.
    pub cron: String,
    pub kind: String,
    /// Tenant for which it runs. Default `default`.
    #[serde(default = "default_tenant")]
    pub tenant: String,
    /// The task's input. Default `{}`.
    #[serde(default)]
    pub input: toml::Table,
}

fn default_tenant() -> String {
    "default".to_owned()
}

impl Default for TaskSettings {
    fn default() -> Self {
        Self {
            max_running: 16,
            max_running_per_tenant: 8,
            max_running_per_kind: [("ingest".to_owned(), 2)].into(),
            max_items_at_once: 4,
            max_items: 10_000,
            max_input_bytes: 4 << 20,
            max_open_per_tenant: 100_000,
            max_attempts: 12,
            backoff_base_ms: 1_000,
            backoff_max_ms: 300_000,
            lease_ms: 15_000,
            poll_every_ms: 500,
            shutdown_grace_ms: 5_000,
            keep_days: 30,
            schedules: Vec::new(),
        }
    }
}

impl TaskSettings {
    /// Most tasks of a kind that run at once.
    pub fn kind_limit(&self, kind: &TaskKind) -> u64 {
        self.max_running_per_kind.get(kind.as_str()).copied().unwrap_or(self.max_running as u64)
    }

    /// What cannot be meant like this, one sentence each, naming the field.
    pub fn problems(&self) -> Vec<String> {
        let positive = [
            ("max_running", self.max_running as u64),
            ("max_running_per_tenant", self.max_running_per_tenant),
            ("max_items_at_once", self.max_items_at_once as u64),
            ("max_items", self.max_items as u64),
            ("max_input_bytes", self.max_input_bytes as u64),
            ("max_open_per_tenant", self.max_open_per_tenant as u64),
            ("max_attempts", u64::from(self.max_attempts)),
            ("poll_every_ms", self.poll_every_ms),
        ];
        let zeros = positive.iter().filter(|(_, value)| *value == 0);
        let mut problems: Vec<String> = zeros.map(|(name, _)| format!("{name} must be above 0")).collect();
        if self.lease_ms < MIN_LEASE_MS {
            problems.push(format!("lease_ms must be {MIN_LEASE_MS} or above: a busy disk alone takes a second"));
        }
        for (index, schedule) in self.schedules.iter().enumerate() {
            let name = &schedule.name;
            problems.extend(schedule.problems().into_iter().map(|problem| format!("schedules: {name:?}: {problem}")));
            if self.schedules[..index].iter().any(|earlier| earlier.name == *name) {
                problems.push(format!("schedules: {name:?} is there twice"));
            }
        }
        problems
    }

    /// Schedules of kinds that are none of `kinds`, one sentence each.
    pub fn unknown_kinds(&self, kinds: &[&str]) -> Vec<String> {
        let unknown = self.schedules.iter().filter(|schedule| !kinds.contains(&schedule.kind.as_str()));
        unknown.map(|one| format!("schedules: {:?}: there is no kind of task {:?}", one.name, one.kind)).collect()
    }
}

/// Shortest lease that does not take a slow disk for a dead process.
const MIN_LEASE_MS: u64 = 3_000;

impl ScheduleSettings {
    fn problems(&self) -> Vec<String> {
        let cron = schedule::read(&self.cron).err().map(|error| format!("cron {:?}: {error}", self.cron));
        let kind = TaskKind::new(&self.kind).err().map(|error| error.to_string());
        let tenant = TenantId::new(&self.tenant).err().map(|error| error.to_string());
        [cron, kind, tenant].into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(name: &str, cron: &str) -> ScheduleSettings {
        let (name, cron, kind) = (name.to_owned(), cron.to_owned(), "digest".to_owned());
        ScheduleSettings { name, cron, kind, tenant: default_tenant(), input: toml::Table::new() }
    }

    #[test]
    fn the_defaults_are_sound_and_nonsense_is_named() {
        let schedules = vec![schedule("a", "0 3 * * *"), schedule("a", "0 25 * * *")];
        let wrong = TaskSettings { max_running: 0, lease_ms: 1, schedules, ..TaskSettings::default() };

        assert_eq!(TaskSettings::default().problems(), Vec::<String>::new());
        assert_eq!(wrong.problems().len(), 4, "{:?}", wrong.problems());
        assert_eq!(wrong.unknown_kinds(&["digest"]), Vec::<String>::new());
        assert_eq!(wrong.unknown_kinds(&["map"]).len(), 2);
    }
}
