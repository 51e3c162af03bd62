//! What can go wrong with an evaluation.

use std::path::PathBuf;

use crate::domain::{ErrorKind, GenerationId};
use crate::search::SearchError;
use crate::store::StoreError;

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
    #[error("there is nothing that {generation} could be compared with")]
    NothingBeside { generation: GenerationId },
    #[error("case {name} cannot be searched for: {detail}")]
    Case { name: String, detail: String },
    #[error("the scoring panicked: {detail}")]
    Panicked { detail: String },
    #[error("the truth cannot be read")]
    Store(#[from] StoreError),
    #[error("a case cannot be searched for")]
    Search(#[from] SearchError),
}

impl EvalError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Missing { .. } | Self::NotInBaseline { .. } => ErrorKind::NotFound,
            Self::Line { .. } | Self::Baseline { .. } => ErrorKind::Corrupt,
            Self::OtherQueries { .. } | Self::NothingBeside { .. } => ErrorKind::Conflict,
            Self::Case { .. } => ErrorKind::Unprocessable,
            Self::Io { .. } | Self::Panicked { .. } => ErrorKind::Internal,
            Self::Store(source) => source.kind(),
            Self::Search(source) => source.kind(),
        }
    }
}
