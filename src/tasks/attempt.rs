//! One attempt of one task: from its claim to the moment the runner lets it go.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::FutureExt;
use metrics::counter;
use tracing::field::Empty;
use tracing::{Instrument, Span, info_span};

use crate::domain::{ErrorKind, JsonText, Task, TaskFailure, TaskProblem};
use crate::store::{StoreError, TaskEnd};

use super::backoff;
use super::contract::{TaskError, TaskFault};
use super::held::{Hold, Signal};
use super::runner::{Shared, is_gone};
use super::work::Work;

/// Runs a claimed task and lets it go, whatever happens.
pub(super) async fn attempt(shared: Arc<Shared>, task: Task, hold: Hold) {
    let span = info_span!(
        parent: None,
        "task",
        trace_id = %task.trace_id,
        tenant = task.scope.tenant.as_str(),
        task.id = %task.id,
        kind = task.kind.as_str(),
        run = task.run,
        attempt = task.tries,
        error = Empty,
    );
    async {
        let began = Instant::now();
        let mut work = Work::new(Arc::clone(&shared), task, hold);
        let done = work_on(&shared, &mut work).await;
        // A write that has begun may still bring the task further, or take entries along.
        work.writes.close();
        work.writes.wait().await;
        if let Some((end, failure)) = shared.verdict(&work, done) {
            shared.let_go(&work, end, failure, began).await;
        }
        drop(work);
        // A place has become free, perhaps one that others wait for.
        shared.parts.bell.ring();
    }
    .instrument(span)
    .await;
}

/// The handler's result. [`TaskError::Stopped`] where it was cut short.
async fn work_on(shared: &Shared, work: &mut Work) -> Result<JsonText, TaskError> {
    if work.task.tries > shared.parts.settings.max_attempts {
        let times = work.task.tries - 1;
        return Err(TaskError::internal(format!("the task was interrupted {times} times without getting further")));
    }
    let Some(handler) = shared.parts.handlers.iter().find(|handler| handler.kind() == work.task.kind) else {
        return Err(TaskError::internal(format!("this program knows no kind of task {:?}", work.task.kind.as_str())));
    };
    work.load().await?;
    let work = &*work;
    tokio::select! {
        biased;
        () = work.hold.told_to_stop() => Err(TaskError::Stopped),
        done = AssertUnwindSafe(handler.run(work)).catch_unwind() => {
            // The panic itself is in the log already, with its place.
            done.unwrap_or_else(|_| Err(TaskError::internal("the work panicked; the log has the cause under this trace id")))
        }
    }
}

impl Shared {
    /// How the task ends, with the failure that has no row yet. `None`: the store is gone, and with it this runner's work.
    fn verdict(&self, work: &Work, done: Result<JsonText, TaskError>) -> Option<(TaskEnd, Option<TaskFailure>)> {
        let fault = match done {
            Ok(output) => return Some((TaskEnd::Succeeded { output }, None)),
            Err(TaskError::Stopped) => match work.hold.told() {
                Signal::Cancel => return Some((TaskEnd::Cancelled, None)),
                Signal::Pause => return Some((TaskEnd::Paused, None)),
                Signal::Release | Signal::Drain => return Some((TaskEnd::Released, None)),
                // The lease is lost.
                Signal::Go if work.stopped.load(Ordering::Acquire) => return Some((TaskEnd::Released, None)),
                Signal::Go => TaskFault::new(ErrorKind::Internal, "the work stopped although nobody had asked it to"),
            },
            Err(TaskError::Store(error)) if is_gone(&error) => {
                self.stop.cancel();
                return None;
            }
            Err(TaskError::Store(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a task's state could not be written");
                TaskFault::new(error.kind(), "the task's state could not be written")
            }
            Err(TaskError::Failed(fault)) => *fault,
        };
        let failure = (!work.has_returned(&fault)).then(|| work.failure(&fault, work.task.tries));
        let problem = TaskProblem { kind: fault.kind, detail: fault.detail };
        let end = match work.hold.told() {
            _ if !fault.kind.is_retryable() || work.is_last_attempt() => TaskEnd::Failed { problem },
            Signal::Pause => TaskEnd::Paused,
            _ => TaskEnd::Retry { problem, wait_us: self.wait_us(work, fault.retry_after) },
        };
        Some((end, failure))
    }

    fn wait_us(&self, work: &Work, retry_after: Option<Duration>) -> u64 {
        let tries = if work.progressed.load(Ordering::Acquire) { 1 } else { work.task.tries };
        let wait = backoff::wait(&self.parts.settings, tries, retry_after, rand::random());
        u64::try_from(wait.as_micros()).unwrap_or(u64::MAX)
    }

    /// Writes the end down. Where that fails it is tried again until the process stops: a task must not be held by a
    /// runner that does nothing for it.
    async fn let_go(&self, work: &Work, end: TaskEnd, failure: Option<TaskFailure>, began: Instant) {
        let entries = work.book.close();
        let lease = work.book.lease;
        loop {
            match self.parts.queue.end(lease, end.clone(), failure.clone(), entries.clone()).await {
                Ok(()) => break,
                Err(StoreError::LeaseLost { .. }) => {
                    return tracing::warn!(task.id = %work.task.id, "somebody else holds the task now");
                }
                Err(error) if is_gone(&error) => return self.stop.cancel(),
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "a task's end could not be written");
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(self.poll_every()) => {}
            }
        }
        if let Some(failure) = &failure {
            super::housekeeping::count_failure(failure);
        }
        let (status, problem) = told(&end);
        if let Some(problem) = problem {
            Span::current().record("error", problem.kind.as_str());
        }
        let (task, detail) = (&work.task, problem.map(|problem| problem.detail.as_str()));
        counter!("plumb_task_ends_total", "kind" => task.kind.as_str().to_owned(), "status" => status).increment(1);
        let duration_ms = began.elapsed().as_millis() as u64;
        tracing::info!(task.id = %task.id, kind = %task.kind, run = task.run, status, duration_ms, detail, "task let go");
    }
}

/// A word for the end, and why it came to it.
fn told(end: &TaskEnd) -> (&'static str, Option<&TaskProblem>) {
    match end {
        TaskEnd::Succeeded { .. } => ("succeeded", None),
        TaskEnd::Failed { problem } => ("failed", Some(problem)),
        TaskEnd::Retry { problem, .. } => ("retry", Some(problem)),
        TaskEnd::Cancelled => ("cancelled", None),
        TaskEnd::Paused => ("paused", None),
        TaskEnd::Released => ("released", None),
    }
}
