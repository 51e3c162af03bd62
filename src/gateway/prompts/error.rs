//! Why prompts cannot be used.

use std::path::PathBuf;

use super::book::PromptOrigin;

/// What is wrong with a prompt file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PromptFault {
    #[error("the header has no {0}")]
    MissingField(&'static str),
    #[error("{0:?} is no field of the header; those are name, version, variables and description")]
    UnknownField(String),
    #[error("{0} is there twice")]
    Twice(String),
    #[error("{field} {found:?} must be 1 to {max} letters, digits, '_', '-' and '.'", max = super::template::WORD_MAX_BYTES)]
    NotAWord { field: &'static str, found: String },
    #[error("{{{{{0}}}}} is not declared in the header")]
    Undeclared(String),
    #[error("the declared variable {0} is not used")]
    Unused(String),
    #[error("the variable {0} has no value in this prompt; those that have one are {1}")]
    NotOffered(String, String),
    #[error("a placeholder is not closed")]
    Unclosed,
    #[error("the section {0:?} is not one of system, user")]
    UnknownSection(String),
    #[error("there is no section user")]
    NoUser,
    #[error("the text is not UTF-8")]
    NotUtf8,
}

/// A fault with its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {fault}")]
pub struct InvalidPrompt {
    /// From 1.
    pub line: usize,
    pub fault: PromptFault,
}

impl InvalidPrompt {
    /// The same, once it is known where the text came from.
    pub(super) fn at(self, origin: PromptOrigin) -> PromptBookError {
        PromptBookError::Invalid { origin, line: self.line, fault: self.fault }
    }
}

/// Why prompts do not make a book.
#[derive(Debug, thiserror::Error)]
pub enum PromptBookError {
    #[error("cannot read {path}")]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} has {bytes} bytes, a prompt at most {max}", max = super::book::PROMPT_MAX_BYTES)]
    TooLong { path: PathBuf, bytes: u64 },
    #[error("the prompt in {origin} is not valid at line {line}")]
    Invalid {
        origin: PromptOrigin,
        line: usize,
        #[source]
        fault: PromptFault,
    },
    #[error("version {version} of the prompt {name} has one text in {first} and another in {second}")]
    TwoTexts { name: String, version: String, first: PromptOrigin, second: PromptOrigin },
    #[error("the split names the prompt {name:?}; there are {known}")]
    UnknownPrompt { name: String, known: String },
    #[error("the split of the prompt {name} names version {version:?}; there are {known}")]
    UnknownVersion { name: String, version: String, known: String },
    #[error("the split of the prompt {name} gives every version the weight 0")]
    NoWeight { name: String },
}
