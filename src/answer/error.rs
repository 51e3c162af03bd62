//! What can go wrong with an answer. A model that fails is no error: the answer is then made of quotes.

use crate::domain::ErrorKind;
use crate::gateway::GatewayError;
use crate::search::{FieldError, SearchError};

/// An error of answering.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// Every fault of the request at once; never empty.
    #[error("the answer request has {} invalid fields, the first is {}: {}", .0.len(), .0[0].pointer, .0[0].detail)]
    Invalid(Vec<FieldError>),
    #[error("the search for passages failed")]
    Search(#[from] SearchError),
    /// The model's reply broke off after part of it had been shown.
    #[error("the model's reply broke off")]
    Gateway(#[from] GatewayError),
}

impl AnswerError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid(_) => ErrorKind::Unprocessable,
            Self::Search(source) => source.kind(),
            Self::Gateway(source) => source.kind(),
        }
    }

    /// When another attempt makes sense; `None` where the error says nothing about it.
    pub fn retry_after_ms(&self) -> Option<u64> {
        match self {
            Self::Invalid(_) => None,
            Self::Search(source) => source.retry_after_ms(),
            Self::Gateway(source) => source.retry_after().map(|wait| wait.as_millis() as u64),
        }
    }
}
