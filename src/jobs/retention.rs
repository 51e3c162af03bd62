//! `retention`: forgets traces and ended tasks once they are old enough.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::domain::{ContentHash, JsonText, Permission, TaskKind, TenantScope, Timestamp};
use crate::store::{Ledger, TaskStore};
use crate::tasks::{JobHandler, Prepared, TaskError, Work};

use super::fault::{not_json, permit};
use super::input::read;

const KIND: &str = "retention";

/// How long the past is kept; `None`: for ever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keep {
    pub traces: Option<Duration>,
    pub tasks: Option<Duration>,
}

/// See the module. For the process itself: it reaches over all tenants.
pub(super) struct RetentionJob {
    pub ledger: Arc<dyn Ledger>,
    pub tasks: Arc<dyn TaskStore>,
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
        let (mut traces, mut tasks) = (0, 0);
        if let Some(before) = self.keep.traces.map(|keep| earlier(from, keep)) {
            traces =
                work.step("traces", &before, async |before, _| Ok(self.ledger.forget_traces(before).await?)).await?;
        }
        if let Some(before) = self.keep.tasks.map(|keep| earlier(from, keep)) {
            tasks = work.step("tasks", &before, async |before, _| Ok(self.tasks.forget_tasks(before).await?)).await?;
        }
        Ok(JsonText::of_value(&json!({"traces": traces, "tasks": tasks})))
    }
}

fn earlier(from: Timestamp, keep: Duration) -> Timestamp {
    Timestamp(from.0.saturating_sub_unsigned(u64::try_from(keep.as_micros()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_before_the_beginning_of_time_is_the_beginning() {
        assert_eq!(earlier(Timestamp(5_000_000), Duration::from_secs(2)), Timestamp(3_000_000));
        assert_eq!(earlier(Timestamp(0), Duration::MAX), Timestamp(i64::MIN));
    }
}
