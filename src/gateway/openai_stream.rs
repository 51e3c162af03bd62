//! A streamed chat completion as events.
//!
//! The stream owns the connection: dropping it is how an upstream call is cancelled.

use std::time::Instant;

use futures::StreamExt;
use reqwest::Response;

use crate::domain::Usage;

use super::GatewayError;
use super::contract::{ChatEnd, ChatEvent, ChatStream, FinishReason};
use super::openai::ReplyLimits;
use super::openai_wire::{self, StreamChunk};
use super::sse::SseDecoder;

/// The events of `response`, read until `by`; `model` is what was asked for.
pub fn events(response: Response, limits: ReplyLimits, model: String, by: Instant) -> ChatStream {
    let reply = Reply {
        response,
        limits,
        by,
        decoder: SseDecoder::default(),
        read_bytes: 0,
        model,
        finish: None,
        usage: None,
        over: false,
    };
    futures::stream::unfold(reply, |mut reply| async move {
        let event = reply.next().await?;
        reply.over = !matches!(event, Ok(ChatEvent::Delta(_)));
        Some((event, reply))
    })
    .boxed()
}

struct Reply {
    response: Response,
    limits: ReplyLimits,
    by: Instant,
    decoder: SseDecoder,
    read_bytes: usize,
    model: String,
    finish: Option<FinishReason>,
    usage: Option<Usage>,
    /// The last event has been given.
    over: bool,
}

impl Reply {
    async fn next(&mut self) -> Option<Result<ChatEvent, GatewayError>> {
        if self.over {
            return None;
        }
        Some(self.read_event().await)
    }

    async fn read_event(&mut self) -> Result<ChatEvent, GatewayError> {
        loop {
            while let Some(data) = self.next_data()? {
                if data == "[DONE]" {
                    return Ok(ChatEvent::Done(self.end()));
                }
                if let Some(text) = self.take_chunk(&data)? {
                    return Ok(ChatEvent::Delta(text));
                }
            }
            match self.limits.next_bytes(&mut self.response, self.by).await? {
                Some(bytes) => {
                    self.read_bytes += bytes.len();
                    if self.read_bytes > self.limits.max_bytes {
                        return Err(self.limits.too_large());
                    }
                    self.decoder.push(&bytes);
                }
                // Some servers close after the finish reason without `[DONE]`; before it the reply is cut.
                None if self.finish.is_some() => return Ok(ChatEvent::Done(self.end())),
                None => return Err(self.limits.broken_off(None)),
            }
        }
    }

    fn next_data(&mut self) -> Result<Option<String>, GatewayError> {
        self.decoder.next_event().map_err(|error| self.limits.malformed(error.to_string()))
    }

    /// Takes what a chunk says; its text if it has some.
    fn take_chunk(&mut self, data: &str) -> Result<Option<String>, GatewayError> {
        let chunk: StreamChunk =
            serde_json::from_str(data).map_err(|error| self.limits.malformed(error.to_string()))?;
        if let Some(error) = chunk.error {
            let message = openai_wire::error_message(&error).unwrap_or_else(|| "an error without a message".to_owned());
            return Err(self.limits.malformed(format!("an error inside the stream: {message}")));
        }
        if let Some(model) = chunk.model.filter(|model| !model.is_empty()) {
            self.model = openai_wire::one_line(&model);
        }
        if let Some(usage) = chunk.usage {
            self.usage = Some(usage.into());
        }
        let Some(choice) = chunk.choices.into_iter().next() else { return Ok(None) };
        if let Some(reason) = &choice.finish_reason {
            self.finish = Some(openai_wire::finish_reason(Some(reason)));
        }
        Ok(choice.delta.content.filter(|text| !text.is_empty()))
    }

    fn end(&self) -> ChatEnd {
        let finish = self.finish.unwrap_or(FinishReason::Other);
        ChatEnd { model: self.model.clone(), finish, usage: self.usage }
    }
}
