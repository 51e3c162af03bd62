//! Why a wish about a generation is not fulfilled.

use crate::domain::{ErrorKind, GenerationId};
use crate::ingest::IngestError;
use crate::store::StoreError;

/// `Display` is a sentence for the caller, but for the last two.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    #[error("there is no such generation")]
    Unknown,
    #[error("the generation is {state}; {wish} is for one that is {wanted}")]
    WrongState { state: &'static str, wanted: &'static str, wish: &'static str },
    #[error("it holds a sample of {sample} of the documents and is only good to be judged; build one with sample 1")]
    OnlyASample { sample: f64 },
    #[error("{absent} of {documents} documents are not built in it yet; wait for them, or force it")]
    NotWhole { absent: u64, documents: u64 },
    #[error("there is no generation to go back to: {other}")]
    NothingBefore { other: &'static str },
    #[error("{documents} documents are still served from it and stand ready in no other; try again in a while")]
    StillServing { documents: u64 },
    #[error("another generation of the collection, {other}, is under way; promote or retire it first")]
    AlreadyBuilding { other: GenerationId },
    /// JSON pointer and what is wrong there, of each fault.
    #[error("{}", .0.first().map_or("the plan is not valid", |(_, detail)| detail.as_str()))]
    Invalid(Vec<(String, String)>),
    #[error("the truth cannot be read or written")]
    Store(#[source] StoreError),
    #[error("documents cannot be moved")]
    Ingest(#[from] IngestError),
}

impl DeskError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unknown => ErrorKind::NotFound,
            Self::WrongState { .. }
            | Self::OnlyASample { .. }
            | Self::NotWhole { .. }
            | Self::NothingBefore { .. }
            | Self::StillServing { .. }
            | Self::AlreadyBuilding { .. } => ErrorKind::Conflict,
            Self::Invalid(_) => ErrorKind::Unprocessable,
            Self::Store(source) => source.kind(),
            Self::Ingest(source) => source.kind(),
        }
    }
}

impl From<StoreError> for DeskError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::WrongState { state } => {
                Self::WrongState { state, wanted: "in another state", wish: "what was asked" }
            }
            StoreError::StillServing { documents } => Self::StillServing { documents },
            StoreError::AlreadyBuilding { other } => Self::AlreadyBuilding { other },
            error => Self::Store(error),
        }
    }
}
