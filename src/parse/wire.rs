//! What parent and parser process say to each other: frames of a JSON head and a body of bytes.
//!
//! A frame is the head's length (4 bytes, little-endian), the head, and the body whose length the head names. The
//! parent believes no length from a child beyond its own limit.

use serde::{Deserialize, Serialize};

use crate::domain::{Outline, ParsedText};
use crate::text::InvalidText;

use super::ParseError;

/// The first thing a worker says. Anything before it is skipped, so that a program may greet its user first.
pub(super) const GREETING: &[u8] = b"\nplumb-parse-worker 1\n";

/// Asks for one document to be parsed; the document follows.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct RequestHead {
    pub charset: Option<String>,
    pub limit_bytes: usize,
    pub body_bytes: usize,
}

/// Answers a request; the text follows.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ResponseHead {
    pub outcome: Outcome,
    pub body_bytes: usize,
    /// By the process so far.
    pub cpu_ms: u64,
    /// Most the process ever held.
    pub resident_bytes: u64,
}

/// How a document fared.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Outcome {
    Parsed { title: Option<String>, outline: Outline },
    Refused(Refusal),
}

/// The errors that a document can cause inside a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Refusal {
    NotUtf8 { offset: usize },
    NotInCharset { charset: String },
    UnknownCharset { charset: String },
    TooDeep { limit: usize },
    TextTooLarge { limit_bytes: usize },
    Panicked,
}

impl Outcome {
    /// The outcome's head and body.
    pub fn of(result: Result<ParsedText, ParseError>) -> (Self, String) {
        match result {
            Ok(parsed) => (Self::Parsed { title: parsed.title, outline: parsed.outline }, parsed.text),
            Err(error) => (Self::Refused(Refusal::of(error)), String::new()),
        }
    }

    /// The result that the worker meant; a text that is not UTF-8 means that it is not sane.
    pub fn into_result(self, body: Vec<u8>) -> Result<ParsedText, ParseError> {
        match self {
            Self::Refused(refusal) => Err(refusal.into_error()),
            Self::Parsed { title, outline } => match String::from_utf8(body) {
                Ok(text) => Ok(ParsedText { text, outline, title }),
                Err(_) => Err(ParseError::WorkerDied { detail: "its answer was no text".to_owned() }),
            },
        }
    }
}

impl Refusal {
    fn of(error: ParseError) -> Self {
        match error {
            ParseError::NotText(InvalidText::NotUtf8 { offset }) => Self::NotUtf8 { offset },
            ParseError::NotText(InvalidText::NotInCharset { charset }) => Self::NotInCharset { charset },
            ParseError::UnknownCharset { charset } => Self::UnknownCharset { charset },
            ParseError::TooDeep { limit } => Self::TooDeep { limit },
            ParseError::TextTooLarge { limit_bytes } => Self::TextTooLarge { limit_bytes },
            // No parser in a worker gives any of these.
            ParseError::UnsupportedMediaType { .. }
            | ParseError::Json { .. }
            | ParseError::TooLarge { .. }
            | ParseError::Timeout { .. }
            | ParseError::WorkerDied { .. }
            | ParseError::Busy { .. }
            | ParseError::CannotStart { .. }
            | ParseError::Panicked => Self::Panicked,
        }
    }

    fn into_error(self) -> ParseError {
        match self {
            Self::NotUtf8 { offset } => InvalidText::NotUtf8 { offset }.into(),
            Self::NotInCharset { charset } => InvalidText::NotInCharset { charset }.into(),
            Self::UnknownCharset { charset } => ParseError::UnknownCharset { charset },
            Self::TooDeep { limit } => ParseError::TooDeep { limit },
            Self::TextTooLarge { limit_bytes } => ParseError::TextTooLarge { limit_bytes },
            Self::Panicked => ParseError::Panicked,
        }
    }
}
