//! What can go wrong with a model in this process.

use crate::domain::ErrorKind;

/// An error of inference.
#[derive(Debug, thiserror::Error)]
pub enum InferenceError {
    #[error("model {model} is not at hand: {detail}")]
    Missing { model: String, detail: String },
    #[error("{file} of model {model} has hash {found}, the manifest says {expected}")]
    WrongHash { model: String, file: String, found: String, expected: String },
    #[error("model {model} cannot be used: {detail}")]
    Unusable { model: String, detail: String },
    #[error("the queue of model {model} is full ({limit_tokens} tokens)")]
    Overloaded { model: String, limit_tokens: usize },
    #[error("the deadline passed before model {model} was done")]
    Deadline { model: String },
    #[error("model {model} failed: {detail}")]
    Failed { model: String, detail: String },
    #[error("the model manifest {path} is not valid: {detail}")]
    Manifest { path: String, detail: String },
    #[error("cannot use {path}")]
    Io {
        path: String,
        #[source]
        source: std::io::Error,
    },
}

impl InferenceError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Missing { .. } | Self::Overloaded { .. } => ErrorKind::Unavailable,
            Self::Deadline { .. } => ErrorKind::DeadlineExceeded,
            Self::WrongHash { .. } => ErrorKind::Corrupt,
            Self::Unusable { .. } | Self::Failed { .. } | Self::Manifest { .. } | Self::Io { .. } => {
                ErrorKind::Internal
            }
        }
    }
}
