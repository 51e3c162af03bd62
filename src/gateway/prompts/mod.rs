//! Prompts as code: versioned files, told apart by their hash, shared out over calls by weight.

mod book;
mod error;
mod order;
mod split;
mod template;

pub use book::{PromptBook, PromptEdition, PromptOrigin, PromptSplit};
pub use error::{InvalidPrompt, PromptBookError, PromptFault};
pub use template::PromptTemplate;
