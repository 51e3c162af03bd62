//! What a caller asks, and its way to a checked question with a complete search.
//!
//! Every fault is reported at once, each with the JSON pointer of its place in the request.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::domain::{Query, TraceId};
use crate::gateway::{ChatMessage, Gateway, PromptBook, PromptTemplate, Role, StepJournal};
use crate::search::{FieldError, InvalidQuery, QueryOverrides, SearchDefaults};
use crate::text::content_words;

use super::AnswerError;
use super::compose::TASK;
use super::prompt::ANSWER_PROMPT;
use super::settings::AnswerSettings;

/// A follow-up with fewer content words than this is searched together with the question before it.
const SELF_CONTAINED_WORDS: usize = 3;

/// Longest session id, in bytes: it goes into every log line of the call.
const SESSION_ID_MAX_BYTES: usize = 256;

/// A question, alone or at the end of a conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerRequest {
    /// Exactly one of `question` and `messages` is given.
    pub question: Option<String>,
    /// Oldest first; the last one is the user's question.
    pub messages: Option<Vec<ChatMessage>>,
    pub search: QueryOverrides,
    /// One of the models that the gateway allows; `None`: its default.
    pub model: Option<String>,
    /// `None`: the one that the split gives this session, else the newest.
    pub prompt_version: Option<String>,
    pub max_tokens: Option<u32>,
    pub session_id: Option<String>,
    pub trace_id: TraceId,
    /// Of the step that asks, if one does.
    pub journal: Option<StepJournal>,
}

impl AnswerRequest {
    /// A lone question with the server's defaults.
    pub fn question(text: impl Into<String>, trace_id: TraceId) -> Self {
        Self {
            question: Some(text.into()),
            messages: None,
            search: QueryOverrides::default(),
            model: None,
            prompt_version: None,
            max_tokens: None,
            session_id: None,
            trace_id,
            journal: None,
        }
    }
}

/// A checked request.
#[derive(Debug, Clone)]
pub struct Ask {
    pub question: String,
    /// The turns before the question, oldest first.
    pub history: Vec<ChatMessage>,
    pub model: Option<String>,
    pub max_tokens: u32,
    pub prompt: Arc<PromptTemplate>,
    pub session_id: Option<String>,
    pub trace_id: TraceId,
    pub deadline: Instant,
    pub journal: Option<StepJournal>,
}

/// What requests are checked against.
pub struct RequestRules<'a> {
    pub settings: &'a AnswerSettings,
    pub defaults: &'a SearchDefaults,
    pub gateway: &'a Gateway,
    pub prompts: &'a PromptBook,
}

impl RequestRules<'_> {
    /// The checked request with its search. The deadline counts from `taken_at`.
    pub fn check(&self, request: AnswerRequest, taken_at: Instant) -> Result<(Ask, Query), AnswerError> {
        let mut faults = Vec::new();
        let prompt = self.prompt(&request);
        let (question, history) = self.conversation(request.question, request.messages, &mut faults);
        let max_tokens = request.max_tokens.unwrap_or(self.settings.max_tokens);
        let limit = self.settings.max_tokens_limit;
        if max_tokens == 0 || max_tokens > limit {
            faults.push(fault("/max_tokens", format!("is {max_tokens}, from 1 to {limit} are allowed")));
        }
        if let Some(model) = request.model.as_deref().filter(|model| !self.gateway.allows(TASK, model)) {
            faults.push(fault("/model", format!("{model:?} is not a model that this server offers")));
        }
        let prompt = prompt.map_err(|fault| faults.push(fault)).ok();
        if request
            .session_id
            .as_deref()
            .is_some_and(|id| id.len() > SESSION_ID_MAX_BYTES || id.contains(char::is_control))
        {
            faults.push(fault("/session_id", format!("must be plain text of at most {SESSION_ID_MAX_BYTES} bytes")));
        }
        let query = self.query(&question, &history, request.search, &mut faults);
        match (query, prompt) {
            (Some(query), Some(prompt)) if faults.is_empty() => {
                let ask = Ask {
                    question,
                    history,
                    model: request.model,
                    max_tokens,
                    prompt,
                    session_id: request.session_id,
                    trace_id: request.trace_id,
                    deadline: taken_at + Duration::from_millis(self.settings.timeout_ms),
                    journal: request.journal,
                };
                Ok((ask, query))
            }
            _ => Err(AnswerError::Invalid(faults)),
        }
    }

    /// Calls of one session get the same version, calls without a session each their own.
    fn prompt(&self, request: &AnswerRequest) -> Result<Arc<PromptTemplate>, FieldError> {
        let unit = request.session_id.as_ref().map_or(&request.trace_id.0[..], |session| session.as_bytes());
        self.prompts.pick(ANSWER_PROMPT, request.prompt_version.as_deref(), unit).ok_or_else(|| {
            let versions = self.prompts.versions(ANSWER_PROMPT).iter();
            let known: Vec<&str> = versions.map(|one| one.template.version.version.as_str()).collect();
            let detail = format!("is not a version of the prompt {ANSWER_PROMPT:?}; there are {}", known.join(", "));
            fault("/prompt_version", detail)
        })
    }

    fn conversation(
        &self,
        question: Option<String>,
        messages: Option<Vec<ChatMessage>>,
        faults: &mut Vec<FieldError>,
    ) -> (String, Vec<ChatMessage>) {
        let (question, history, pointer) = match (question, messages) {
            (Some(question), None) => (question, Vec::new(), "/question".to_owned()),
            (None, Some(mut messages)) => {
                let pointer = format!("/messages/{}", messages.len().saturating_sub(1));
                match messages.pop() {
                    Some(last) if last.role == Role::User => (last.content, messages, format!("{pointer}/content")),
                    Some(_) => {
                        faults.push(fault(format!("{pointer}/role"), "the last message must be the user's question"));
                        return Default::default();
                    }
                    None => {
                        faults.push(fault("/messages", "must hold at least one message"));
                        return Default::default();
                    }
                }
            }
            _ => {
                faults.push(fault("/question", "exactly one of question and messages must be given"));
                return Default::default();
            }
        };
        if question.trim().is_empty() {
            faults.push(fault(&pointer, "must not be empty"));
        }
        if history.len() >= self.settings.max_messages {
            let (found, limit) = (history.len() + 1, self.settings.max_messages);
            faults.push(fault("/messages", format!("has {found} messages, at most {limit} are allowed")));
        }
        let bytes = question.len() + history.iter().map(|message| message.content.len()).sum::<usize>();
        let limit = self.settings.max_conversation_bytes;
        if bytes > limit {
            faults
                .push(fault(pointer, format!("with what came before has {bytes} bytes, at most {limit} are allowed")));
        }
        (question, history)
    }

    fn query(
        &self,
        question: &str,
        history: &[ChatMessage],
        mut overrides: QueryOverrides,
        faults: &mut Vec<FieldError>,
    ) -> Option<Query> {
        if question.trim().is_empty() {
            return None;
        }
        // Some hits are left out again: repeated texts, and too many of one document.
        overrides.top_k.get_or_insert(2 * self.settings.max_passages);
        let text = search_text(question, history, self.defaults.settings().limits.max_query_bytes);
        match self.defaults.query(Some(text), overrides) {
            Ok(query) => Some(query),
            Err(InvalidQuery(found)) => {
                let moved = found.into_iter().map(|one| match one.pointer.as_str() {
                    "/query" => fault("/question", one.detail),
                    pointer => fault(format!("/search{pointer}"), one.detail),
                });
                faults.extend(moved);
                None
            }
        }
    }
}

/// What is searched for: the question, and before it the last question of the user if it is too short to stand alone.
fn search_text(question: &str, history: &[ChatMessage], max_bytes: usize) -> String {
    let before = history.iter().rev().find(|message| message.role == Role::User);
    match before {
        Some(before) if content_words(question).len() < SELF_CONTAINED_WORDS => {
            let joined = format!("{}\n{question}", before.content);
            if joined.len() <= max_bytes { joined } else { question.to_owned() }
        }
        _ => question.to_owned(),
    }
}

fn fault(pointer: impl Into<String>, detail: impl Into<String>) -> FieldError {
    FieldError { pointer: pointer.into(), detail: detail.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::prompt::PROMPTS;
    use crate::gateway::PromptSplit;
    use crate::search::SearchSettings;

    fn check(request: AnswerRequest) -> Result<(Ask, Query), Vec<String>> {
        let faults = check_with(&PromptBook::new(PROMPTS).unwrap(), request);
        faults.map_err(|faults| faults.into_iter().map(|fault| fault.pointer).collect())
    }

    fn check_with(prompts: &PromptBook, request: AnswerRequest) -> Result<(Ask, Query), Vec<FieldError>> {
        let settings = AnswerSettings::default();
        let defaults = SearchDefaults::new(SearchSettings::default());
        let gateway = crate::gateway::test_gateway::none();
        let rules = RequestRules { settings: &settings, defaults: &defaults, gateway: &gateway, prompts };
        rules.check(request, Instant::now()).map_err(|error| match error {
            AnswerError::Invalid(faults) => faults,
            other => panic!("{other}"),
        })
    }

    fn ask(text: &str) -> AnswerRequest {
        AnswerRequest::question(text, TraceId([0; 16]))
    }

    fn conversation(messages: &[(Role, &str)]) -> AnswerRequest {
        let messages = messages.iter().map(|(role, text)| ChatMessage::new(*role, *text)).collect();
        AnswerRequest { question: None, messages: Some(messages), ..ask("") }
    }

    #[test]
    fn a_question_becomes_a_search_for_it() {
        let (ask, query) = check(ask("How long is the timeout?")).unwrap();

        assert_eq!(query.text, "How long is the timeout?");
        assert_eq!((query.top_k, ask.max_tokens, ask.history.len()), (16, 512, 0));
    }

    #[test]
    fn a_short_follow_up_is_searched_with_the_question_before_it() {
        let turns = [(Role::User, "How long is the client timeout?"), (Role::Assistant, "30 s."), (Role::User, "Why?")];
        let (ask, query) = check(conversation(&turns)).unwrap();

        assert_eq!(query.text, "How long is the client timeout?\nWhy?");
        assert_eq!((ask.question.as_str(), ask.history.len()), ("Why?", 2));
        let own = [turns[0], turns[1], (Role::User, "How do I rotate signing keys?")];
        assert_eq!(check(conversation(&own)).unwrap().1.text, "How do I rotate signing keys?");
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let request = AnswerRequest {
            model: Some("gpt-9".to_owned()),
            prompt_version: Some("99".to_owned()),
            max_tokens: Some(0),
            session_id: Some("a\nb".to_owned()),
            search: QueryOverrides { top_k: Some(0), ..QueryOverrides::default() },
            ..ask("x")
        };

        assert_eq!(
            check(request).unwrap_err(),
            ["/max_tokens", "/model", "/prompt_version", "/session_id", "/search/top_k"]
        );
    }

    /// Version 1 as shipped, and a version 2 that takes half of the sessions.
    fn two_versions() -> PromptBook {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("answer.v2.txt"), PROMPTS[0].replace("version: 1", "version: 2")).unwrap();
        let halves = [("1".to_owned(), 1), ("2".to_owned(), 1)].into();
        PromptBook::load(PROMPTS, Some(folder.path()), &PromptSplit::from([(ANSWER_PROMPT.to_owned(), halves)]))
            .unwrap()
    }

    #[test]
    fn a_session_keeps_its_version_of_the_prompt_unless_a_request_pins_another() {
        let book = two_versions();
        let version = |session: &str, trace: u8, pinned: Option<&str>| {
            let request = AnswerRequest {
                session_id: Some(session.to_owned()),
                prompt_version: pinned.map(str::to_owned),
                ..AnswerRequest::question("How long?", TraceId([trace; 16]))
            };
            check_with(&book, request).unwrap().0.prompt.version.version.clone()
        };

        let sessions: Vec<String> = (0..40).map(|session| format!("s-{session}")).collect();
        let given: Vec<String> = sessions.iter().map(|session| version(session, 1, None)).collect();

        assert!(given.contains(&"1".to_owned()) && given.contains(&"2".to_owned()), "{given:?}");
        for (session, given) in sessions.iter().zip(&given) {
            assert_eq!(version(session, 2, None), *given);
            assert_eq!(version(session, 1, Some("1")), "1");
            assert_eq!(version(session, 1, Some("2")), "2");
        }
    }

    #[test]
    fn an_unknown_version_is_refused_with_those_there_are() {
        let request = AnswerRequest { prompt_version: Some("3".to_owned()), ..ask("How long?") };

        let faults = check_with(&two_versions(), request).unwrap_err();

        assert_eq!(faults.len(), 1);
        assert_eq!(faults[0].pointer, "/prompt_version");
        assert!(faults[0].detail.ends_with("there are 1, 2"), "{}", faults[0].detail);
    }

    #[test]
    fn a_conversation_must_end_with_a_question_and_both_forms_exclude_each_other() {
        let refused = |request| check(request).unwrap_err();

        assert_eq!(refused(conversation(&[])), ["/messages"]);
        assert_eq!(refused(conversation(&[(Role::User, "a"), (Role::Assistant, "b")])), ["/messages/1/role"]);
        assert_eq!(refused(conversation(&[(Role::User, " ")])), ["/messages/0/content"]);
        assert_eq!(refused(AnswerRequest { messages: Some(Vec::new()), ..ask("x") }), ["/question"]);
        assert_eq!(refused(AnswerRequest { question: None, ..ask("") }), ["/question"]);
        assert_eq!(refused(ask(&"long ".repeat(10_000))), ["/question", "/question"]);
        assert_eq!(refused(conversation(&[(Role::User, "again and again"); 40])), ["/messages"]);
    }
}
