//! From hits to an answer: a model's, checked; or quoted sentences; or a refusal.
//!
//! The order of the ways out: nothing found refuses; a model answers if one can be called; a model that cannot be
//! called or fails is replaced by quotes; quotes that do not meet the question refuse.

use std::sync::Arc;

use crate::domain::{Answer, SearchResult, TenantScope};
use crate::gateway::{CallContext, ChatMessage, ChatRequest, Gateway, Role};
use crate::inference::Embedder;

use super::draft::{AnswerParts, Draft, Writer};
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
    pub gateway: Arc<Gateway>,
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
        let request = self.chat_request(ask, &draft);
        let called = match self.gateway.call(&request, &call_context(scope, ask)).await {
            Ok(called) => called,
            Err(failure) => {
                draft.attempts = failure.attempts;
                return self.quote(ask, draft, failure.error.outcome()).await;
            }
        };
        draft.attempts = called.attempts;
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
    pub fn chat_request(&self, ask: &Ask, draft: &Draft) -> ChatRequest {
        let mark = format!("#{:016x}", rand::random::<u64>());
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
        ChatRequest {
            messages,
            model: ask.model.clone(),
            max_tokens: ask.max_tokens,
            temperature: self.settings.temperature,
        }
    }
}

pub fn call_context<'a>(scope: &'a TenantScope, ask: &'a Ask) -> CallContext<'a> {
    let session_id = ask.session_id.as_deref();
    CallContext { scope, trace_id: ask.trace_id, purpose: "answer", session_id, deadline: ask.deadline }
}

/// True if a reply is the agreed refusal, perhaps dressed up with quotes or a full stop.
pub fn is_refusal(reply: &str) -> bool {
    let word = reply.trim().trim_matches(|c: char| !c.is_ascii_alphanumeric());
    word.eq_ignore_ascii_case(NO_ANSWER)
}
