//! A provider that replays what it was told to say: demonstrations without a model, and tests.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::time::sleep_until;

use crate::domain::Usage;

use super::GatewayError;
use super::contract::{ChatEnd, ChatEvent, ChatRequest, ChatResponse, ChatStream, FinishReason, Provider};
use super::settings::GatewaySettings;

/// What the provider does on one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Says this.
    Text(String),
    /// Refuses with an HTTP status.
    Status { status: u16, retry_after: Option<Duration> },
    /// Says this and then breaks off.
    Cut(String),
    /// Says nothing until the deadline.
    Silence,
}

/// Replays its replies in order, then again from the first.
pub struct Scripted {
    name: String,
    model: String,
    replies: Vec<Reply>,
    calls: AtomicUsize,
    last: Mutex<Option<ChatRequest>>,
}

impl Scripted {
    /// A provider with at least one reply.
    pub fn new(name: &str, model: &str, replies: Vec<Reply>) -> Result<Self, GatewayError> {
        if replies.is_empty() {
            return Err(GatewayError::Settings { detail: "a scripted provider needs a reply".to_owned() });
        }
        let (name, model) = (name.to_owned(), model.to_owned());
        Ok(Self { name, model, replies, calls: AtomicUsize::new(0), last: Mutex::default() })
    }

    /// A provider that says the lines of `settings.script`.
    pub fn from_settings(settings: &GatewaySettings) -> Result<Self, GatewayError> {
        let replies = settings.script.iter().cloned().map(Reply::Text).collect();
        Self::new(&settings.name, &settings.model, replies)
    }

    /// How many calls were made.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Acquire)
    }

    /// What was asked last.
    pub fn last_request(&self) -> Option<ChatRequest> {
        self.last.lock().clone()
    }

    async fn reply(&self, request: &ChatRequest, deadline: Instant) -> Result<Reply, GatewayError> {
        let call = self.calls.fetch_add(1, Ordering::AcqRel);
        *self.last.lock() = Some(request.clone());
        match self.replies[call % self.replies.len()].clone() {
            Reply::Status { status, retry_after } => Err(GatewayError::Status {
                provider: self.name.clone(),
                status,
                retry_after,
                detail: "scripted".to_owned(),
            }),
            Reply::Silence => {
                sleep_until(deadline.into()).await;
                Err(GatewayError::Deadline { provider: self.name.clone() })
            }
            reply @ (Reply::Text(_) | Reply::Cut(_)) => Ok(reply),
        }
    }

    fn end(&self, request: &ChatRequest, text: &str) -> ChatEnd {
        let model = request.model.clone().unwrap_or_else(|| self.model.clone());
        // Words stand in for tokens: a script has no tokenizer.
        let words = |text: &str| text.split_whitespace().count() as u64;
        let input_tokens = request.messages.iter().map(|message| words(&message.content)).sum();
        let usage = Usage { input_tokens, cached_input_tokens: 0, output_tokens: words(text) };
        ChatEnd { model, finish: FinishReason::Stop, usage: Some(usage) }
    }

    fn broken_off(&self) -> GatewayError {
        GatewayError::BrokenOff { provider: self.name.clone(), source: None }
    }
}

#[async_trait]
impl Provider for Scripted {
    fn name(&self) -> &str {
        &self.name
    }

    fn model(&self) -> &str {
        &self.model
    }

    async fn chat(&self, request: &ChatRequest, deadline: Instant) -> Result<ChatResponse, GatewayError> {
        match self.reply(request, deadline).await? {
            Reply::Text(text) => Ok(ChatResponse { end: self.end(request, &text), text }),
            _ => Err(self.broken_off()),
        }
    }

    async fn chat_stream(&self, request: &ChatRequest, deadline: Instant) -> Result<ChatStream, GatewayError> {
        let (text, last) = match self.reply(request, deadline).await? {
            Reply::Text(text) => {
                let end = self.end(request, &text);
                (text, Ok(ChatEvent::Done(end)))
            }
            Reply::Cut(text) => (text, Err(self.broken_off())),
            Reply::Status { .. } | Reply::Silence => return Err(self.broken_off()),
        };
        let deltas: Vec<_> = text.split_inclusive(' ').map(|word| Ok(ChatEvent::Delta(word.to_owned()))).collect();
        Ok(futures::stream::iter(deltas.into_iter().chain([last])).boxed())
    }
}
