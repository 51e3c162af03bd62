//! What can go wrong with an evaluation.

use std::path::PathBuf;

use crate::domain::ErrorKind;

/// An error of the eval room.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    #[error("{path} is not there; a collection holds corpus.jsonl, queries.jsonl and qrels/<split>.tsv")]
    Missing { path: PathBuf },
    #[error("cannot use {path}")]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// `line` counts from 1.
    #[error("{path}, line {line}: {detail}")]
    Line { path: PathBuf, line: usize, detail: String },
    #[error("{path} is not a baseline: {detail}")]
    Baseline { path: PathBuf, detail: String },
    #[error("the baseline of {collection} was made on {baseline} queries, this run has {run}, or they differ")]
    OtherQueries { collection: String, baseline: usize, run: usize },
    #[error("the baseline of {collection} has no {metric} for {mode}")]
    NotInBaseline { collection: String, mode: String, metric: String },
}

impl EvalError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Missing { .. } | Self::NotInBaseline { .. } => ErrorKind::NotFound,
            Self::Line { .. } | Self::Baseline { .. } => ErrorKind::Corrupt,
            Self::OtherQueries { .. } => ErrorKind::Conflict,
            Self::Io { .. } => ErrorKind::Internal,
        }
    }
}
