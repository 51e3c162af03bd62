//! The JSON of `POST /chat/completions` as OpenAI documents it and compatible servers speak it.
//!
//! Only what is needed is read; everything else a server sends is ignored.

use serde::{Deserialize, Serialize};

use crate::domain::Usage;

use super::contract::{ChatRequest, FinishReason, Role};
use super::settings::TokenLimitField;

#[derive(Debug, Serialize)]
pub struct RequestBody<'a> {
    model: &'a str,
    messages: Vec<Message<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f32>,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
}

#[derive(Debug, Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
}

#[derive(Debug, Serialize)]
struct StreamOptions {
    include_usage: bool,
}

/// Whether the reply comes whole or in pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    Whole,
    Streamed,
}

impl<'a> RequestBody<'a> {
    pub fn new(request: &'a ChatRequest, default_model: &'a str, limit: TokenLimitField, delivery: Delivery) -> Self {
        let streamed = delivery == Delivery::Streamed;
        let max_tokens = Some(request.max_tokens);
        Self {
            model: request.model.as_deref().unwrap_or(default_model),
            messages: request.messages.iter().map(|m| Message { role: role(m.role), content: &m.content }).collect(),
            max_tokens: max_tokens.filter(|_| limit == TokenLimitField::MaxTokens),
            max_completion_tokens: max_tokens.filter(|_| limit == TokenLimitField::MaxCompletionTokens),
            temperature: request.temperature,
            stream: streamed,
            // Without this the last chunk carries no token counts, and a call could not be accounted for.
            stream_options: streamed.then_some(StreamOptions { include_usage: true }),
        }
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
    }
}

#[derive(Debug, Deserialize)]
pub struct ResponseBody {
    #[serde(default)]
    pub model: Option<String>,
    pub choices: Vec<Choice>,
    #[serde(default)]
    pub usage: Option<WireUsage>,
}

#[derive(Debug, Deserialize)]
pub struct Choice {
    pub message: ReplyMessage,
    #[serde(default)]
    pub finish_reason: Option<String>,
}

#[derive(Default, Debug, Deserialize)]
pub struct ReplyMessage {
    #[serde(default)]
    pub content: Option<String>,
}

/// One `data` of a stream. `choices` is empty in the chunk that carries the usage.
#[derive(Debug, Deserialize)]
pub struct StreamChunk {
    #[serde(default)]
    pub model: Option<String>,
    #[serde(default)]
    pub choices: Vec<StreamChoice>,
    #[serde(default)]
    pub usage: Option<WireUsage>,
    /// Some servers report a failure inside a stream that began with status 200.
    #[serde(default)]
    pub error: Option<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
pub struct StreamChoice {
    #[serde(default)]
    pub delta: ReplyMessage,
    #[serde(default)]
    pub finish_reason: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub struct WireUsage {
    pub prompt_tokens: u64,
    /// Absent where nothing was written.
    #[serde(default)]
    pub completion_tokens: u64,
}

impl From<WireUsage> for Usage {
    fn from(wire: WireUsage) -> Self {
        Self { input_tokens: wire.prompt_tokens, cached_input_tokens: 0, output_tokens: wire.completion_tokens }
    }
}

/// The documented reasons; servers invent others.
pub fn finish_reason(word: Option<&str>) -> FinishReason {
    match word {
        Some("stop") => FinishReason::Stop,
        Some("length") => FinishReason::Length,
        Some("content_filter") => FinishReason::ContentFilter,
        _ => FinishReason::Other,
    }
}

/// Longest piece of a server's error message that is kept, in characters.
const DETAIL_MAX_CHARS: usize = 200;

/// What an error body says, shortened to one line, or how many bytes it had if it says nothing known.
pub fn error_detail(body: &[u8]) -> String {
    let message = serde_json::from_slice::<serde_json::Value>(body).ok().and_then(|value| error_message(&value));
    message.unwrap_or_else(|| format!("a body of {} bytes without a known error message", body.len()))
}

/// The message in `{"error": {"message"}}`, `{"error": "…"}` or `{"message"}`, without control characters.
pub fn error_message(value: &serde_json::Value) -> Option<String> {
    let error = value.get("error").unwrap_or(value);
    let message = error.get("message").unwrap_or(error).as_str()?;
    Some(one_line(message))
}

/// At most [`DETAIL_MAX_CHARS`] characters of `text`, control characters as spaces.
pub fn one_line(text: &str) -> String {
    text.chars().take(DETAIL_MAX_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::contract::ChatMessage;
    use super::*;

    #[test]
    fn a_streamed_request_asks_for_usage_and_a_whole_one_does_not() {
        let request = ChatRequest {
            messages: vec![ChatMessage::new(Role::User, "hi")],
            model: None,
            max_tokens: 7,
            temperature: None,
        };
        let json = |limit, delivery| {
            serde_json::to_value(RequestBody::new(&request, "m", limit, delivery)).expect("plain data")
        };

        assert_eq!(
            json(TokenLimitField::MaxTokens, Delivery::Streamed),
            serde_json::json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 7,
                "stream": true, "stream_options": {"include_usage": true}})
        );
        assert_eq!(
            json(TokenLimitField::MaxCompletionTokens, Delivery::Whole),
            serde_json::json!({"model": "m", "messages": [{"role": "user", "content": "hi"}],
                "max_completion_tokens": 7, "stream": false})
        );
    }

    #[test]
    fn error_messages_are_found_wherever_servers_put_them() {
        assert_eq!(error_detail(br#"{"error": {"message": "no\nsuch model", "code": 4}}"#), "no such model");
        assert_eq!(error_detail(br#"{"error": "down"}"#), "down");
        assert_eq!(error_detail(br#"{"message": "later"}"#), "later");
        assert_eq!(error_detail(b"<html>"), "a body of 6 bytes without a known error message");
    }
}
