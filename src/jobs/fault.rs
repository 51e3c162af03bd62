//! Failures of the rooms below as failures of a step.
//!
//! What is told is safe to show: our own limits in full, of servers only the kind of failure.

use std::time::Duration;

use crate::answer::AnswerError;
use crate::domain::{ErrorKind, Permission, TenantScope};
use crate::gateway::CallFailure;
use crate::ingest::IngestError;
use crate::search::{FieldError, SearchError};
use crate::tasks::{TaskError, TaskFault};

/// An error unless the caller may do this.
pub(super) fn permit(scope: &TenantScope, permission: Permission, what: &str) -> Result<(), TaskError> {
    if scope.may(permission) {
        return Ok(());
    }
    let word = match permission {
        Permission::Search => "search",
        Permission::Answer => "answer",
        Permission::Write => "write",
        Permission::Admin => "admin",
    };
    Err(TaskError::failed(ErrorKind::Forbidden, format!("{what} needs a key with the scope {word:?}")))
}

/// A call to a model that failed. `model` is the one that was asked for, where no server was asked.
pub(super) fn of_call(failure: &CallFailure, model: Option<&str>, prompt_version: &str) -> TaskError {
    let asked = failure.attempts.last().map(|attempt| attempt.model.clone());
    TaskError::Failed(Box::new(TaskFault {
        retry_after: failure.error.retry_after(),
        model: asked.or_else(|| model.map(str::to_owned)),
        prompt_version: Some(prompt_version.to_owned()),
        ..TaskFault::new(failure.error.kind(), failure.error.told())
    }))
}

/// A search that failed.
pub(super) fn of_search(error: &SearchError) -> TaskError {
    let detail = match error {
        SearchError::Store(_) | SearchError::Index(_) | SearchError::Inference(_) | SearchError::Panicked => {
            "the search failed".to_owned()
        }
        told => told.to_string(),
    };
    after(error.kind(), detail, error.retry_after_ms())
}

/// An answer that failed. `at` is the place of its step in the input.
pub(super) fn of_answer(error: AnswerError, at: &str) -> TaskError {
    match error {
        AnswerError::Invalid(faults) => of_fields(faults, at),
        AnswerError::Search(error) => of_search(&error),
        AnswerError::Gateway(error) => {
            after(error.kind(), error.told(), error.retry_after().map(|wait| wait.as_millis() as u64))
        }
    }
}

/// Faults of a request, moved to their place in the input.
pub(super) fn of_fields(faults: Vec<FieldError>, at: &str) -> TaskError {
    TaskError::invalid(faults.into_iter().map(|one| (format!("{at}{}", one.pointer), one.detail)).collect())
}

/// A batch of documents that failed as a whole.
pub(super) fn of_ingest(error: IngestError) -> TaskError {
    match error {
        IngestError::Store(error) => error.into(),
        IngestError::Context(error) => TaskError::Failed(Box::new(TaskFault {
            retry_after: error.retry_after,
            ..TaskFault::new(error.kind, format!("no text could be written to stand before a chunk: {}", error.detail))
        })),
        error @ IngestError::NotBuilt { .. } => TaskError::failed(error.kind(), error.to_string()),
        IngestError::Index(error) => TaskError::failed(error.kind(), "an index could not be removed"),
        IngestError::Panicked => TaskError::failed(ErrorKind::Internal, "the program failed while it prepared a batch"),
    }
}

/// What cannot be: a value of our own that JSON cannot say.
pub(super) fn not_json(error: serde_json::Error) -> TaskError {
    TaskError::failed(ErrorKind::Internal, format!("a value cannot be written as JSON: {error}"))
}

fn after(kind: ErrorKind, detail: String, retry_after_ms: Option<u64>) -> TaskError {
    let retry_after = retry_after_ms.map(Duration::from_millis);
    TaskError::Failed(Box::new(TaskFault { retry_after, ..TaskFault::new(kind, detail) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Attempt, Nanousd, TenantId};
    use crate::gateway::GatewayError;

    fn fault(error: GatewayError) -> TaskFault {
        let attempt =
            Attempt { provider: "p".to_owned(), model: "m".to_owned(), outcome: "x".to_owned(), latency_ms: 1.0 };
        let failure = CallFailure { error, attempts: vec![attempt], cost: Nanousd(0) };
        match of_call(&failure, None, "map@1") {
            TaskError::Failed(fault) => *fault,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn limits_of_ours_are_told_in_full_and_a_server_s_words_never() {
        let wait = Some(Duration::from_secs(60));
        let budget = fault(GatewayError::BudgetExceeded {
            budget: "tenant:* per day".to_owned(),
            detail: "0.1 of 1 USD".to_owned(),
            retry_after: wait,
        });
        let server = fault(GatewayError::Status {
            provider: "p".to_owned(),
            status: 503,
            retry_after: wait,
            detail: "cannot read 'the secret report'".to_owned(),
        });
        let killed = fault(GatewayError::Killed { reason: "drill".to_owned() });

        assert_eq!((budget.kind, budget.retry_after), (ErrorKind::RateLimited, wait));
        assert!(budget.detail.contains("tenant:* per day") && budget.kind.is_retryable());
        assert_eq!((server.kind, server.retry_after, server.model.as_deref()), (ErrorKind::Upstream, wait, Some("m")));
        assert_eq!(server.detail, "p answered 503");
        assert!(killed.kind.is_retryable() && killed.detail.contains("drill"));
        assert_eq!(server.prompt_version.as_deref(), Some("map@1"));
    }

    #[test]
    fn a_key_that_may_not_is_told_which_scope_it_lacks() {
        let tenant = TenantId::new("acme").unwrap();
        let reader = TenantScope { permissions: [Permission::Search].into(), ..TenantScope::everything(tenant) };

        let error = permit(&reader, Permission::Write, "ingest").unwrap_err();

        assert_eq!(error.to_string(), "ingest needs a key with the scope \"write\"");
        assert!(permit(&reader, Permission::Search, "x").is_ok());
    }
}
