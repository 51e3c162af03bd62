//! The contract of a model server, whatever its wire format.

use std::time::Instant;

use async_trait::async_trait;
use futures::stream::BoxStream;
use serde_json::Value;

use crate::domain::{CallId, Usage};

use super::GatewayError;

/// Who speaks in a [`ChatMessage`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    System,
    User,
    Assistant,
    /// The result of a tool that the model asked for.
    Tool,
}

impl Role {
    /// The word that most wire formats use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatMessage {
    pub role: Role,
    pub content: String,
    /// What an assistant asked for, where it asked for tools.
    pub tool_calls: Vec<ToolCall>,
    /// Which of those calls a [`Role::Tool`] message answers.
    pub tool_call_id: Option<String>,
}

impl ChatMessage {
    /// A turn of `role` that says `content`.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into(), tool_calls: Vec::new(), tool_call_id: None }
    }
}

/// A tool that the model wants to be used. It is passed through; nothing here executes tools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    pub id: String,
    pub name: String,
    /// JSON text as the model wrote it; may not be valid.
    pub arguments: String,
}

/// A tool that the model may ask for.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    pub name: String,
    pub description: String,
    /// JSON schema of the arguments.
    pub parameters: Value,
}

/// What the reply must look like.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplySchema {
    /// Letters, digits, `_` and `-`.
    pub name: String,
    /// JSON schema; the reply's text is then a JSON value that follows it.
    pub schema: Value,
}

/// What a model is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatRequest {
    /// The same for every attempt of a call, so that a server that knows it can tell that it has done the work already.
    pub call_id: CallId,
    /// Oldest first.
    pub messages: Vec<ChatMessage>,
    /// The provider's own name for the model.
    pub model: String,
    /// Most tokens the model may write.
    pub max_tokens: u32,
    /// From 0 (most probable) to 2; `None` leaves it to the server, which some models demand.
    pub temperature: Option<f32>,
    pub tools: Vec<Tool>,
    pub schema: Option<ReplySchema>,
}

/// Why a model stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    Stop,
    /// `max_tokens` was reached, so the text may end in the middle of a sentence.
    Length,
    /// The server withheld or cut the text.
    ContentFilter,
    /// The model wants tools to be used.
    ToolCalls,
    Other,
}

impl FinishReason {
    /// One stable word, for the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ContentFilter => "content_filter",
            Self::ToolCalls => "tool_calls",
            Self::Other => "other",
        }
    }
}

/// How a call ended: everything but the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatEnd {
    /// As the server names it; may be more exact than what was asked for.
    pub model: String,
    pub finish: FinishReason,
    /// `None`: the server did not say, or said what cannot be (a negative count).
    pub usage: Option<Usage>,
}

/// A whole reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatResponse {
    /// Empty where the model only asks for tools.
    pub text: String,
    pub tool_calls: Vec<ToolCall>,
    pub end: ChatEnd,
}

/// A piece of a streamed reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChatEvent {
    /// The next piece of text, never empty.
    Delta(String),
    /// A call of a tool, once all of it has arrived.
    ToolCall(ToolCall),
    /// What the server counts so far; the last one before the end holds. Servers that say it only at the end say it
    /// in [`ChatEvent::Done`] alone.
    Usage(Usage),
    Done(ChatEnd),
}

/// A streamed reply. Dropping it closes the connection to the server.
pub type ChatStream = BoxStream<'static, Result<ChatEvent, GatewayError>>;

/// A server that runs language models.
///
/// Every implementation keeps these promises, and `gateway::conformance` tests them:
///
/// - One call is one attempt: retries belong to [`super::Gateway`].
/// - Over HTTP the id of the call goes along as `Idempotency-Key`.
/// - A call ends at `deadline` at the latest, with [`GatewayError::Deadline`].
/// - Dropping the future or the stream closes the connection, so that the server can stop working.
/// - A stream is any number of pieces, then exactly one [`ChatEvent::Done`] or one error, then nothing.
///   A stream that breaks off is an error, never a shorter answer.
/// - Memory is bounded whatever the server sends: at most the configured size of a response is read.
/// - Errors hold no secret and nothing of the request.
/// - A reply without text and without tool calls is an answer; whether it is useful is the caller's business.
#[async_trait]
pub trait Provider: Send + Sync {
    /// Its name in the configuration: for logs, ledger and answers.
    fn name(&self) -> &str;

    /// Asks for a whole reply.
    async fn chat(&self, request: &ChatRequest, deadline: Instant) -> Result<ChatResponse, GatewayError>;

    /// Asks for a streamed reply; returns when the server has begun to answer.
    async fn chat_stream(&self, request: &ChatRequest, deadline: Instant) -> Result<ChatStream, GatewayError>;
}
