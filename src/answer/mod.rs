//! Question to answer: cited, checked, or an honest refusal.

mod answerer;
mod compose;
mod draft;
mod error;
mod evidence;
mod expectation;
mod extract;
mod ground;
mod output_filter;
mod prompt;
mod request;
mod settings;
mod similarity;
mod stream;
mod terms;
#[cfg(test)]
mod walk_tests;
mod visible;

pub use answerer::{Answerer, AnswererParts};
pub use error::AnswerError;
pub use evidence::estimated_tokens;
pub use prompt::{ANSWER_PROMPT, PROMPTS};
pub use request::AnswerRequest;
pub use settings::{AnswerSettings, ExtractSettings, SupportSettings};
pub use stream::AnswerEvent;
pub use visible::visible;
