//! The kinds of steps as the caller writes them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::domain::{CollectionName, Mode};
use crate::search::QueryOverrides;

/// What a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepType {
    Search,
    Answer,
    Extract,
}

impl StepType {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Search => "search",
            Self::Answer => "answer",
            Self::Extract => "extract",
        }
    }

    /// Fields that must be there.
    pub fn required(self) -> &'static [&'static str] {
        match self {
            Self::Search => &["query"],
            Self::Answer => &["question"],
            Self::Extract => &["from", "schema"],
        }
    }
}

/// A search for passages.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SearchStep {
    pub query: Option<String>,
    pub collection: Option<CollectionName>,
    pub mode: Option<Mode>,
    pub top_k: Option<usize>,
    pub filter: Option<Value>,
}

/// An answer to a question.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AnswerStep {
    pub question: Option<String>,
    pub collection: Option<CollectionName>,
    pub model: Option<String>,
    pub max_tokens: Option<u32>,
    pub session_id: Option<String>,
}

/// Values read out of a text under a schema.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExtractStep {
    /// A text, or any JSON.
    pub from: Option<Value>,
    pub schema: Option<Value>,
    pub instructions: Option<String>,
    pub model: Option<String>,
    pub max_tokens: Option<u32>,
}

impl SearchStep {
    /// The query's text, and what is said beside it.
    pub fn into_query(self) -> (Option<String>, QueryOverrides) {
        let Self { query, collection, mode, top_k, filter } = self;
        (query, QueryOverrides { collection, mode, top_k, filter, ..QueryOverrides::default() })
    }
}
