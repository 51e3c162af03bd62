//! A call to a model on behalf of a step.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::domain::{Nanousd, PromptVersion, Task, Usage};
use crate::gateway::{CallContext, ChatCall, Gateway};
use crate::tasks::{Item, TaskError};

use super::fault;

/// Most digits of a prompt's hash that stand for its version.
const VERSION_DIGITS: usize = 12;

/// Calls for one task.
pub(super) struct ModelCalls<'a> {
    pub gateway: &'a Gateway,
    pub task: &'a Task,
    /// What the calls are for, in the ledger.
    pub label: &'static str,
    pub timeout: Duration,
}

/// What a model said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Said {
    pub text: String,
    pub model: String,
    /// Why the model stopped: `length` means that the text may end in the middle of a sentence.
    pub finish: String,
    pub usage: TokenUsage,
    pub cost_usd: f64,
}

/// Tokens of one call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TokenUsage {
    pub input_tokens: u64,
    pub output_tokens: u64,
}

impl ModelCalls<'_> {
    /// Asks, with everything written into the step's journal.
    pub async fn ask(&self, call: ChatCall, item: &Item) -> Result<Said, TaskError> {
        let version = call.prompt.as_ref().map(|prompt| format!("{}@{}", prompt.name, prompt.version));
        let model = call.model.clone();
        let context = CallContext {
            scope: self.task.scope.clone(),
            trace_id: self.task.trace_id,
            task: self.label,
            session_id: self.task.session_id.clone(),
            deadline: Instant::now() + self.timeout,
            journal: Some(item.journal().into()),
        };
        match self.gateway.call(call, context).await {
            Ok(reply) => Ok(said(reply.response, reply.cost)),
            Err(failure) => Err(fault::of_call(&failure, model.as_deref(), &version.unwrap_or_default())),
        }
    }
}

fn said(response: crate::gateway::ChatResponse, cost: Nanousd) -> Said {
    let Usage { input_tokens, output_tokens, .. } = response.end.usage.unwrap_or_default();
    Said {
        text: response.text,
        model: response.end.model,
        finish: response.end.finish.as_str().to_owned(),
        usage: TokenUsage { input_tokens, output_tokens },
        cost_usd: cost.usd(),
    }
}

/// The version of a prompt that a caller wrote: the first digits of its hash, over the frame and every part of it.
pub(super) fn caller_prompt(name: &str, frame: &PromptVersion, parts: &[&str]) -> PromptVersion {
    let mut hasher = blake3::Hasher::new();
    for part in [frame.hash.as_str()].iter().chain(parts) {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    let hash = hasher.finalize().to_hex().to_string();
    PromptVersion { name: name.to_owned(), version: hash.chars().take(VERSION_DIGITS).collect(), hash }
}
