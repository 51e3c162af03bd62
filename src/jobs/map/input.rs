//! What a `map` is asked, and what is stored of it: with versions and spans, so that a later edit of a document changes
//! nothing of a task that runs.

use serde::{Deserialize, Serialize};

use crate::domain::{ChunkId, CollectionName, ContentHash, DocumentId};
use crate::gateway::Gateway;
use crate::jobs::input::Faults;
use crate::jobs::settings::JobSettings;
use crate::jobs::template::Template;
use crate::search::DEFAULT_COLLECTION;

/// What the ledger and the routes call these calls.
pub const TASK: &str = "map";

/// Placeholders of the prompt; the first must be there.
const PROMPT_HOLES: [&str; 5] = ["text", "title", "heading", "item", "items"];
const REDUCE_HOLES: [&str; 1] = ["outputs"];

/// The input as the caller writes it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MapRequest {
    pub collection: Option<CollectionName>,
    pub documents: Vec<DocumentId>,
    pub chunks: Vec<ChunkId>,
    pub over: Over,
    pub window_tokens: Option<u32>,
    pub prompt: String,
    pub system: Option<String>,
    pub max_tokens: Option<u32>,
    pub temperature: Option<f32>,
    pub model: Option<String>,
    pub reduce: Option<ReduceRequest>,
    pub on_item_error: OnItemError,
}

/// What one call reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Over {
    /// One chunk.
    Chunks,
    /// Consecutive chunks of one document, up to so many tokens.
    #[default]
    Windows,
}

/// What an item that fails for good means to the task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnItemError {
    #[default]
    Fail,
    /// The others count; the task fails only if all of them do.
    Skip,
}

/// How the outputs become one text.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReduceRequest {
    pub prompt: String,
    pub max_tokens: Option<u32>,
}

/// The input as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MapInput {
    pub collection: CollectionName,
    pub prompt: String,
    pub system: Option<String>,
    pub max_tokens: u32,
    pub temperature: Option<f32>,
    pub reduce: Option<Reduce>,
    pub on_item_error: OnItemError,
    pub documents: Vec<PinnedDocument>,
    pub items: Vec<Part>,
}

/// See [`ReduceRequest`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reduce {
    pub prompt: String,
    pub max_tokens: u32,
}

/// A document as it was when the task was submitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PinnedDocument {
    pub id: DocumentId,
    pub version: u64,
    pub content_hash: ContentHash,
    pub title: Option<String>,
}

/// A part of a document that one call reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Place among the documents.
    pub document: usize,
    pub chunk_ids: Vec<ChunkId>,
    /// Of the version's content.
    pub byte_range: [usize; 2],
    /// Headings above its first chunk.
    pub heading: String,
    pub text_hash: ContentHash,
}

impl MapRequest {
    pub fn collection(&self) -> CollectionName {
        let default = || CollectionName::new(DEFAULT_COLLECTION).expect("a plain word is a valid name");
        self.collection.clone().unwrap_or_else(default)
    }

    /// Everything that can be told without reading documents.
    pub fn check(&self, settings: &JobSettings, gateway: &Gateway, faults: &mut Faults) {
        if self.documents.is_empty() && self.chunks.is_empty() {
            faults.add("/documents", "documents or chunks must be given");
        }
        check_list(faults, "/documents", &self.documents, settings.max_map_documents);
        check_list(faults, "/chunks", &self.chunks, settings.max_map_chunks);
        if let Some(tokens) = self.window_tokens {
            faults.check_range("/window_tokens", tokens.into(), settings.max_window_tokens.into());
        }
        check_prompt(faults, "/prompt", (&self.prompt, settings.max_prompt_bytes), &PROMPT_HOLES);
        if let Some(system) = &self.system {
            faults.check_text("/system", system, settings.max_prompt_bytes);
        }
        faults.check_temperature(self.temperature);
        let limit = u64::from(settings.max_tokens_limit);
        if let Some(tokens) = self.max_tokens {
            faults.check_range("/max_tokens", tokens.into(), limit);
        }
        if let Some(reduce) = &self.reduce {
            check_prompt(faults, "/reduce/prompt", (&reduce.prompt, settings.max_prompt_bytes), &REDUCE_HOLES);
            if let Some(tokens) = reduce.max_tokens {
                faults.check_range("/reduce/max_tokens", tokens.into(), limit);
            }
        }
        if let Some(model) = self.model.as_deref().filter(|model| !gateway.allows(TASK, model)) {
            faults.add("/model", format!("{model:?} is not a model that this server offers"));
        }
    }

    /// What is stored: everything that was left to defaults is written out.
    pub fn complete(self, settings: &JobSettings, documents: Vec<PinnedDocument>, items: Vec<Part>) -> MapInput {
        MapInput {
            collection: self.collection(),
            prompt: self.prompt,
            system: self.system,
            max_tokens: self.max_tokens.unwrap_or(settings.max_tokens),
            temperature: self.temperature.or(settings.temperature),
            reduce: self.reduce.map(|reduce| Reduce {
                prompt: reduce.prompt,
                max_tokens: reduce.max_tokens.unwrap_or(settings.max_tokens),
            }),
            on_item_error: self.on_item_error,
            documents,
            items,
        }
    }
}

fn check_list<T: PartialEq + Ord>(faults: &mut Faults, pointer: &str, names: &[T], limit: usize) {
    if names.len() > limit {
        faults.add(pointer, format!("names {}, at most {limit} are allowed", names.len()));
        return;
    }
    let mut seen = std::collections::BTreeSet::new();
    for (index, name) in names.iter().enumerate() {
        if !seen.insert(name) {
            faults.add(format!("{pointer}/{index}"), "is named twice");
        }
    }
}

fn check_prompt(faults: &mut Faults, pointer: &str, (prompt, max_bytes): (&str, usize), holes: &[&str]) {
    faults.check_text(pointer, prompt, max_bytes);
    let fault = match Template::parse(prompt) {
        Ok(template) => template.fault(holes, holes[0]),
        Err(fault) => Some(fault),
    };
    if let Some(fault) = fault.filter(|_| !prompt.trim().is_empty()) {
        faults.add(pointer, fault);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::JsonText;
    use crate::gateway::test_gateway;
    use crate::jobs::input::read;

    fn faults(json: serde_json::Value) -> Vec<String> {
        let request: MapRequest = read(&JsonText::of_value(&json)).unwrap();
        let mut faults = Faults::default();
        request.check(&JobSettings::default(), &test_gateway::none(), &mut faults);
        faults.0.into_iter().map(|(pointer, _)| pointer).collect()
    }

    #[test]
    fn all_faults_of_a_map_are_told_at_once() {
        assert_eq!(faults(serde_json::json!({"documents": ["a"], "prompt": "Sum up: {{text}}"})), Vec::<String>::new());
        assert_eq!(
            faults(serde_json::json!({
                "documents": ["a", "b", "a"], "window_tokens": 0, "prompt": "Sum up.", "system": " ", "max_tokens": 5000,
                "temperature": 3, "model": "gpt", "reduce": {"prompt": "Join {{output}}", "max_tokens": 0}
            })),
            [
                "/documents/2",
                "/window_tokens",
                "/prompt",
                "/system",
                "/temperature",
                "/max_tokens",
                "/reduce/prompt",
                "/reduce/max_tokens",
                "/model"
            ]
        );
        assert_eq!(faults(serde_json::json!({})), ["/documents", "/prompt"]);
    }
}
