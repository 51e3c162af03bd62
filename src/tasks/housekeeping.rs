//! What a runner does beside the tasks: counts them for those who watch, and forgets old ones.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{counter, gauge};

use crate::domain::{FailureDay, TaskFailure, Timestamp};
use crate::store::StoreError;

use super::runner::Shared;

/// Between two counts of everything.
const COUNT_EVERY: Duration = Duration::from_secs(15);
/// Between two clearances of ended tasks.
const FORGET_EVERY: Duration = Duration::from_secs(3_600);
const DAY_US: i64 = 86_400_000_000;

/// Gauges that were set, as kind and status: one that nothing is counted for any more goes to 0.
type Shown = BTreeMap<(String, &'static str), f64>;

/// Keeps house until the runner stops.
pub(super) async fn keep_house(shared: Arc<Shared>) {
    let mut forgot_at: Option<Instant> = None;
    let mut shown = Shown::new();
    loop {
        if let Err(error) = show_counts(&shared, &mut shown).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "tasks cannot be counted");
        }
        if forgot_at.is_none_or(|forgot_at| forgot_at.elapsed() >= FORGET_EVERY) {
            forgot_at = Some(Instant::now());
            match forget(&shared).await {
                Ok(0) => {}
                Ok(runs) => tracing::info!(runs, "ended tasks are forgotten"),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "ended tasks cannot be forgotten");
                }
            }
        }
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = tokio::time::sleep(COUNT_EVERY) => {}
        }
    }
}

/// Counts a failed attempt whose row is about to be written.
pub(super) fn count_failure(failure: &TaskFailure) {
    let (kind, error_kind) = (failure.kind.as_str().to_owned(), failure.problem.kind.as_str());
    counter!("plumb_task_failures_total", "kind" => kind, "error_kind" => error_kind).increment(1);
}

async fn show_counts(shared: &Shared, shown: &mut Shown) -> Result<(), StoreError> {
    shown.values_mut().for_each(|count| *count = 0.0);
    for (kind, status, count) in shared.parts.queue.counts().await? {
        shown.insert((kind.as_str().to_owned(), status.as_str()), count as f64);
    }
    for ((kind, status), count) in &*shown {
        gauge!("plumb_tasks", "kind" => kind.clone(), "status" => *status).set(*count);
    }
    let today = Timestamp((shared.parts.clock)().0.div_euclid(DAY_US) * DAY_US);
    let days = shared.parts.queue.failure_days_of_all(today).await?;
    for kind in shared.parts.handlers.iter().map(|handler| handler.kind()) {
        let rate = days.iter().find(|day| day.kind == kind).map_or(0.0, FailureDay::failure_rate);
        gauge!("plumb_task_failure_rate", "kind" => kind.as_str().to_owned()).set(rate);
    }
    Ok(())
}

async fn forget(shared: &Shared) -> Result<u64, StoreError> {
    let days = i64::from(shared.parts.settings.keep_days);
    if days == 0 {
        return Ok(0);
    }
    shared.parts.desk.forget_tasks(Timestamp((shared.parts.clock)().0.saturating_sub(days * DAY_US))).await
}
