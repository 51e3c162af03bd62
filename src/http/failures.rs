//! Failures of the rooms below, as problems.
//!
//! A sentence is passed on only where its room wrote it for the caller; anything else is logged with its causes and
//! answered by kind.

use std::time::Duration;

use crate::domain::ErrorKind;
use crate::eval::EvalError;
use crate::ingest::{IngestError, ItemError};
use crate::search::{InvalidQuery, SearchError};
use crate::store::StoreError;
use crate::tasks::{DeskError, TaskError};

use super::ports::{Failure, Refusal};
use super::problem::{FieldError, Problem, ProblemKind, chain, safe_sentence};

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Self::from(&error)
    }
}

impl From<&StoreError> for Problem {
    fn from(error: &StoreError) -> Self {
        match error {
            StoreError::InvalidCursor { .. } => {
                Self::fields(vec![FieldError::new("/cursor", "is not a cursor of an earlier page")])
            }
            StoreError::NotEnded { .. } => {
                Self::new(ProblemKind::TaskNotFinished, "the task has not ended; cancel it first, or wait for its end")
            }
            StoreError::TooManyTasks { .. } => told(error.kind(), error.to_string()),
            _ => Self::from_failure(error.kind(), error),
        }
    }
}

impl From<DeskError> for Problem {
    fn from(error: DeskError) -> Self {
        match error {
            DeskError::UnknownKind { .. } => Self::fields(vec![FieldError::new("/kind", error.to_string())]),
            DeskError::UnknownStep { .. } => Self::fields(vec![FieldError::new("/step", error.to_string())]),
            DeskError::Task(error) => error.into(),
            DeskError::Store(error) => error.into(),
        }
    }
}

impl From<crate::jobs::DeskError> for Problem {
    fn from(error: crate::jobs::DeskError) -> Self {
        use crate::jobs::DeskError;
        match error {
            DeskError::Unknown => Self::not_found("generation"),
            DeskError::Invalid(faults) => {
                Self::fields(faults.into_iter().map(|(pointer, detail)| FieldError::new(pointer, detail)).collect())
            }
            DeskError::Store(error) => error.into(),
            DeskError::Ingest(error) => error.into(),
            DeskError::WrongState { .. }
            | DeskError::OnlyASample { .. }
            | DeskError::NotWhole { .. }
            | DeskError::NothingBefore { .. }
            | DeskError::StillServing { .. }
            | DeskError::AlreadyBuilding { .. } => told(error.kind(), error.to_string()),
        }
    }
}

impl From<EvalError> for Problem {
    fn from(error: EvalError) -> Self {
        match error {
            EvalError::NothingBeside { .. } | EvalError::Case { .. } => told(error.kind(), error.to_string()),
            EvalError::Store(error) => error.into(),
            EvalError::Search(error) => error.into(),
            error => Self::from_failure(error.kind(), &error),
        }
    }
}

impl From<TaskError> for Problem {
    fn from(error: TaskError) -> Self {
        match error {
            TaskError::Failed(fault) if !fault.fields.is_empty() => {
                let fields = fault.fields.into_iter().map(|(pointer, detail)| FieldError::new(pointer, detail));
                Self::fields(fields.collect()).inside("/input")
            }
            TaskError::Failed(fault) => {
                if matches!(fault.kind, ErrorKind::Internal | ErrorKind::Corrupt) {
                    tracing::error!(error = %fault, "a task was not taken");
                }
                let problem = told(fault.kind, fault.detail.clone());
                Self { retry_after: fault.retry_after.or(problem.retry_after), ..problem }
            }
            TaskError::Stopped => Self::from_failure(ErrorKind::Internal, &error),
            TaskError::Store(error) => error.as_ref().into(),
        }
    }
}

impl From<InvalidQuery> for Problem {
    fn from(invalid: InvalidQuery) -> Self {
        Self::fields(invalid.0.into_iter().map(Into::into).collect())
    }
}

impl From<crate::search::FieldError> for FieldError {
    fn from(fault: crate::search::FieldError) -> Self {
        Self { pointer: fault.pointer, detail: fault.detail }
    }
}

impl From<SearchError> for Problem {
    fn from(error: SearchError) -> Self {
        let retry_after = error.retry_after_ms().map(Duration::from_millis);
        let mut problem = match &error {
            SearchError::EmptyQuery => Self::fields(vec![FieldError::new("/query", error.to_string())]),
            SearchError::VectorDimensions { .. } | SearchError::NotAVector => {
                Self::fields(vec![FieldError::new("/vector", error.to_string())])
            }
            SearchError::NoVectors { .. } | SearchError::UnreadScript => {
                Self::fields(vec![FieldError::new("/mode", error.to_string())])
            }
            SearchError::UnknownReranker { .. } => {
                Self::fields(vec![FieldError::new("/rerank/model", error.to_string())])
            }
            SearchError::UnknownCollection { .. }
            | SearchError::IndexLagging { .. }
            | SearchError::Opening { .. }
            | SearchError::EmbedderUnavailable { .. }
            | SearchError::Overloaded { .. } => told(error.kind(), error.to_string()),
            SearchError::Panicked | SearchError::Store(_) | SearchError::Index(_) | SearchError::Inference(_) => {
                Self::from_failure(error.kind(), &error)
            }
        };
        problem.retry_after = retry_after.or(problem.retry_after);
        problem
    }
}

impl From<&ItemError> for Problem {
    fn from(error: &ItemError) -> Self {
        if matches!(error.kind(), ErrorKind::Internal | ErrorKind::Corrupt) {
            tracing::error!(error = %chain(error), "a document failed");
        }
        told(error.kind(), error.to_string())
    }
}

impl From<IngestError> for Problem {
    fn from(error: IngestError) -> Self {
        Self::from_failure(error.kind(), &error)
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let mut problem = match failure.refusal {
            Some(refusal) => refused(refusal),
            None if failure.fields.is_empty() => told(failure.kind, safe_sentence(failure.kind).to_owned()),
            None => Self::fields(failure.fields),
        };
        if let Some(detail) = failure.detail {
            problem.detail = detail;
        }
        problem.retry_after = failure.retry_after.or(problem.retry_after);
        problem
    }
}

// Without a time to come again: neither a budget nor a switch changes within a known second.
fn refused(refusal: Refusal) -> Problem {
    match refusal {
        Refusal::BudgetExceeded => {
            Problem::new(ProblemKind::BudgetExceeded, "a budget for language models is used up; see GET /budgets")
        }
        Refusal::KillSwitch => {
            Problem::new(ProblemKind::KillSwitch, "calls to language models are switched off by an operator")
        }
    }
}

fn told(kind: ErrorKind, sentence: String) -> Problem {
    Problem { retry_after: Problem::default_retry(kind), ..Problem::new(kind.into(), sentence) }
}
