//! The contract of a model server, whatever its wire format.

use std::time::Instant;

use async_trait::async_trait;
use futures::stream::BoxStream;

use crate::domain::Usage;

use super::GatewayError;

/// Who speaks in a [`ChatMessage`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    System,
    User,
    Assistant,
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatMessage {
    pub role: Role,
    pub content: String,
}

impl ChatMessage {
    /// A turn of `role` that says `content`.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }
}

/// What a model is asked. There are no tools and no attachments: text goes in, text comes out.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatRequest {
    /// Oldest first.
    pub messages: Vec<ChatMessage>,
    /// `None`: the provider's own model.
    pub model: Option<String>,
    /// Most tokens the model may write.
    pub max_tokens: u32,
    /// From 0 (most probable) to 2; `None` leaves it to the server, which some models demand.
    pub temperature: Option<f32>,
}

/// Why a model stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    Stop,
    /// `max_tokens` was reached, so the text may end in the middle of a sentence.
    Length,
    /// The server withheld or cut the text.
    ContentFilter,
    Other,
}

/// How a call ended: everything but the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatEnd {
    /// As the server names it; may be more exact than what was asked for.
    pub model: String,
    pub finish: FinishReason,
    /// `None`: the server did not say.
    pub usage: Option<Usage>,
}

/// A whole reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatResponse {
    pub text: String,
    pub end: ChatEnd,
}

/// A piece of a streamed reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChatEvent {
    /// The next piece of text, never empty.
    Delta(String),
    Done(ChatEnd),
}

/// A streamed reply. Dropping it closes the connection to the server.
pub type ChatStream = BoxStream<'static, Result<ChatEvent, GatewayError>>;

/// A server that runs language models.
///
/// Every implementation keeps these promises, and `gateway::conformance` tests them:
///
/// - One call is one attempt: retries belong to [`super::Gateway`].
/// - A call ends at `deadline` at the latest, with [`GatewayError::Deadline`].
/// - Dropping the future or the stream closes the connection, so that the server can stop working.
/// - A stream is any number of [`ChatEvent::Delta`], then exactly one [`ChatEvent::Done`] or one error, then nothing.
///   A stream that breaks off is an error, never a shorter answer.
/// - Memory is bounded whatever the server sends: at most the configured size of a response is read.
/// - Errors hold no secret and nothing of the request.
#[async_trait]
pub trait Provider: Send + Sync {
    /// Short name for logs, ledger and answers.
    fn name(&self) -> &str;

    /// The model that is asked when the request names none.
    fn model(&self) -> &str;

    /// Asks for a whole reply.
    async fn chat(&self, request: &ChatRequest, deadline: Instant) -> Result<ChatResponse, GatewayError>;

    /// Asks for a streamed reply; returns when the server has begun to answer.
    async fn chat_stream(&self, request: &ChatRequest, deadline: Instant) -> Result<ChatStream, GatewayError>;
}
