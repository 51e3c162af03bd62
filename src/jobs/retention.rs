//! `retention`: forgets traces, ended tasks and versions that no document serves any more, once they are old enough.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::domain::{ContentHash, JsonText, Permission, TaskKind, TenantScope, Timestamp};
use crate::store::{Erasure, KeepVersions, Ledger, TaskStore};
use crate::tasks::{JobHandler, Prepared, TaskError, Work};

use super::fault::{not_json, permit};
use super::input::read;

const KIND: &str = "retention";

/// How long the past is kept; `None`: for ever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keep {
    pub traces: Option<Duration>,
    pub tasks: Option<Duration>,
    /// The newest so many versions of a document; `None`: all.
    pub versions: Option<u32>,
    /// Versions, after they were replaced.
    pub replaced: Option<Duration>,
    /// Versions, after they were deleted with their document.
    pub deleted: Option<Duration>,
}

impl Keep {
    /// Which versions stay at the time `now`; `None`: all of them.
    pub fn versions_at(&self, now: Timestamp) -> Option<KeepVersions> {
        let keep = KeepVersions {
            newest: self.versions,
            replaced_since: self.replaced.map(|keep| earlier(now, keep)),
            deleted_since: self.deleted.map(|keep| earlier(now, keep)),
        };
        (keep != KeepVersions::default()).then_some(keep)
    }
}

/// See the module. For the process itself: it reaches over all tenants.
pub(super) struct RetentionJob {
    pub ledger: Arc<dyn Ledger>,
    pub tasks: Arc<dyn TaskStore>,
    pub erasure: Arc<dyn Erasure>,
    pub keep: Keep,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RetentionInput {}

#[async_trait]
impl JobHandler for RetentionJob {
    fn kind(&self) -> TaskKind {
        TaskKind::new(KIND).expect("a plain word is a valid name")
    }

    fn permission(&self) -> Permission {
        Permission::Admin
    }

    fn is_public(&self) -> bool {
        false
    }

    async fn prepare(&self, scope: &TenantScope, input: JsonText, _: Option<String>) -> Result<Prepared, TaskError> {
        permit(scope, Permission::Admin, KIND)?;
        let input: RetentionInput = read(&input)?;
        let context = ContentHash::of(KIND.as_bytes());
        let input = JsonText::of(&input).map_err(not_json)?;
        Ok(Prepared { input, context, prompt: None, model: None, total: None })
    }

    async fn run(&self, work: &Work) -> Result<JsonText, TaskError> {
        // Counted from the task's birth, so that a step that is done again does the same.
        let from = work.task().created_at;
        let (mut traces, mut tasks, mut versions) = (0, 0, 0);
        if let Some(before) = self.keep.traces.map(|keep| earlier(from, keep)) {
            traces =
                work.step("traces", &before, async |before, _| Ok(self.ledger.forget_traces(before).await?)).await?;
        }
        if let Some(before) = self.keep.tasks.map(|keep| earlier(from, keep)) {
            tasks = work.step("tasks", &before, async |before, _| Ok(self.tasks.forget_tasks(before).await?)).await?;
        }
        if let Some(keep) = self.keep.versions_at(from) {
            versions = work.step("versions", &(), async |(), _| Ok(self.erasure.forget_versions(keep).await?)).await?;
        }
        Ok(JsonText::of_value(&json!({"traces": traces, "tasks": tasks, "versions": versions})))
    }
}

fn earlier(from: Timestamp, keep: Duration) -> Timestamp {
    Timestamp(from.0.saturating_sub_unsigned(u64::try_from(keep.as_micros()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_kept_for_ever_unless_a_setting_says_otherwise() {
        let (now, day) = (Timestamp(100_000_000_000), Duration::from_secs(86_400));

        assert_eq!(Keep::default().versions_at(now), None);
        let keep = Keep { versions: Some(3), deleted: Some(day), ..Keep::default() }.versions_at(now).unwrap();
        assert_eq!((keep.newest, keep.replaced_since), (Some(3), None));
        assert_eq!(keep.deleted_since, Some(Timestamp(13_600_000_000)));
    }

    #[test]
    fn a_time_before_the_beginning_of_time_is_the_beginning() {
        assert_eq!(earlier(Timestamp(5_000_000), Duration::from_secs(2)), Timestamp(3_000_000));
        assert_eq!(earlier(Timestamp(0), Duration::MAX), Timestamp(i64::MIN));
    }
}
