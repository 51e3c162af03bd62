//! From hits to an answer: a model's, checked; or quoted sentences; or a refusal.
//!
//! The order of the ways out: nothing found refuses; a model answers if one can be called; a model that cannot be
//! called or fails is replaced by quotes; quotes that do not meet the question refuse.

use std::sync::Arc;

use crate::domain::{Answer, CacheUse, ModelProblem, SearchResult, TenantScope, hash_parts};
use crate::gateway::{CallContext, ChatCall, ChatMessage, Gateway, GatewayError, Role};
use crate::inference::Embedder;

use super::draft::{AnswerParts, Draft, Writer};
use super::evidence::Evidence;
use super::extract::{candidates, choose};
use super::ground::Grounder;
use super::output_filter::OutputFilter;
use super::request::Ask;
use super::settings::AnswerSettings;
use super::similarity::{Skipped, blend};

/// The word with which a model refuses; the prompt names it.
pub const NO_ANSWER: &str = "NO_ANSWER";

/// Makes answers from hits.
pub struct Composer {
    pub gateway: Gateway,
    /// For choosing quotes by similarity, where the settings ask for it; `None`: words alone decide.
    pub embedder: Option<Arc<dyn Embedder>>,
    pub settings: AnswerSettings,
}

impl Composer {
    /// The whole answer.
    pub async fn compose(&self, scope: &TenantScope, ask: &Ask, found: SearchResult) -> Answer {
        let mut draft = Draft::new(found, &self.settings);
        if draft.evidence.passages.is_empty() {
            return draft.abstain(None);
        }
        let call = self.chat_call(ask, &draft);
        let called = match self.gateway.call(call, call_context(scope, ask)).await {
            Ok(called) => called,
            Err(failure) => {
                (draft.attempts, draft.cost) = (failure.attempts, failure.cost);
                return self.quote_after(ask, draft, &failure.error).await;
            }
        };
        (draft.attempts, draft.cost) = (called.attempts, called.cost);
        draft.is_cached = called.cache != CacheUse::Miss;
        let writer = Writer { provider: called.provider, end: called.response.end, prompt: ask.prompt.version.clone() };
        if is_refusal(&called.response.text) {
            return draft.abstain(Some(writer));
        }
        let mut filter = OutputFilter::new(draft.evidence.count());
        let mut grounder = Grounder::new(&draft.evidence, self.settings.support);
        grounder.push(&filter.push(&called.response.text));
        grounder.push(&filter.finish());
        grounder.finish();
        let parts = AnswerParts::of(grounder, &filter);
        if parts.is_empty() {
            return self.quote(ask, draft, "empty_reply").await;
        }
        draft.write(parts, writer)
    }

    /// Quoted sentences instead of the answer of a model that could not be called.
    pub async fn quote_after(&self, ask: &Ask, mut draft: Draft, error: &GatewayError) -> Answer {
        draft.model_problem = Some(ModelProblem { kind: error.kind(), reason: error.outcome(), detail: error.told() });
        self.quote(ask, draft, error.outcome()).await
    }

    /// Quoted sentences instead of a model's answer; `reason` says why no model wrote it.
    pub async fn quote(&self, ask: &Ask, mut draft: Draft, reason: &'static str) -> Answer {
        draft.degrade("gateway", reason);
        let mut candidates = candidates(&ask.question, &draft.evidence);
        if let Some(embedder) = self.embedder.as_deref().filter(|_| self.settings.extract.similarity_weight > 0.0) {
            let settings = &self.settings.extract;
            let blended = blend(embedder, &ask.question, &draft.evidence, &mut candidates, settings).await;
            if let Err(Skipped(reason)) = blended {
                draft.degrade("extract", reason);
            }
        }
        let chosen = choose(candidates, &self.settings.extract);
        draft.quote(&chosen)
    }

    /// What the model is asked: the prompt, the conversation so far, then passages and question.
    pub fn chat_call(&self, ask: &Ask, draft: &Draft) -> ChatCall {
        let mark = mark(ask, &draft.evidence);
        let passages = draft.evidence.for_prompt(&mark);
        let prompt = ask.prompt.fill(|name| match name {
            "mark" => &mark,
            "passages" => &passages,
            "question" => &ask.question,
            _ => "",
        });
        let (system, rest): (Vec<ChatMessage>, Vec<ChatMessage>) =
            prompt.into_iter().partition(|message| message.role == Role::System);
        let messages = system.into_iter().chain(ask.history.iter().cloned()).chain(rest).collect();
        ChatCall {
            messages,
            model: ask.model.clone(),
            max_tokens: ask.max_tokens,
            temperature: self.settings.temperature,
            prompt: Some(ask.prompt.version.clone()),
            identity: Some(identity(ask, &draft.evidence)),
            ..ChatCall::default()
        }
    }
}

/// What stands around the passages; nobody who wrote one of them can know it. A step that is done again says the same
/// again, so that a server can tell that it is the same call.
fn mark(ask: &Ask, evidence: &Evidence) -> String {
    let number = match &ask.journal {
        None => rand::random(),
        Some(_) => {
            let hash = hash_parts(&[b"mark", &ask.trace_id.0, &identity(ask, evidence)]);
            hash.iter().take(8).fold(0, |number: u64, byte| number << 8 | u64::from(*byte))
        }
    };
    format!("#{number:016x}")
}

/// What makes two questions the same: their words, what was said before, and the passages with their generation. The
/// messages themselves differ each time by the mark around the passages.
fn identity(ask: &Ask, evidence: &Evidence) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    part(ask.question.as_bytes());
    for turn in &ask.history {
        part(turn.role.as_str().as_bytes());
        part(turn.content.as_bytes());
    }
    part(evidence.for_prompt("").as_bytes());
    for passage in &evidence.passages {
        part(&passage.hit.chunk_id.0);
        part(&passage.hit.provenance.generation.0);
        part(&passage.hit.provenance.content_hash.0);
    }
    *hasher.finalize().as_bytes()
}

pub const TASK: &str = "answer";

pub fn call_context(scope: &TenantScope, ask: &Ask) -> CallContext {
    CallContext {
        scope: scope.clone(),
        trace_id: ask.trace_id,
        task: TASK,
        session_id: ask.session_id.clone(),
        deadline: ask.deadline,
        journal: ask.journal.clone(),
    }
}

/// True if a reply is the agreed refusal, perhaps dressed up with quotes or a full stop.
pub fn is_refusal(reply: &str) -> bool {
    let word = reply.trim().trim_matches(|c: char| !c.is_ascii_alphanumeric());
    word.eq_ignore_ascii_case(NO_ANSWER)
}
