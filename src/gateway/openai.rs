//! A provider that speaks OpenAI's chat completions over HTTP.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;

use super::GatewayError;
use super::contract::{ChatRequest, ChatResponse, ChatStream, Provider};
use super::http_provider::{Door, HttpProvider, KeyHeader};
use super::openai_stream::OpenAiAssembler;
use super::openai_wire::{RequestBody, ResponseBody};
use super::provider_settings::{ProviderSettings, TokenLimitField};
use super::reply_stream::{Frames, events};
use super::sse::SseDecoder;
use super::wire::Delivery;

const DOOR: Door = Door { path: "/chat/completions", key: KeyHeader::Bearer, headers: &[] };

/// A server that speaks `POST {base_url}/chat/completions`.
pub struct OpenAiCompatible {
    server: Arc<HttpProvider>,
    token_limit_field: TokenLimitField,
}

impl OpenAiCompatible {
    /// A provider as configured. Connects to nothing yet; [`super::install_tls`] must have been called.
    pub fn new(name: &str, settings: &ProviderSettings) -> Result<Self, GatewayError> {
        let server = HttpProvider::new(name, settings, &DOOR)?;
        Ok(Self { server, token_limit_field: settings.token_limit_field })
    }
}

#[async_trait]
impl Provider for OpenAiCompatible {
    fn name(&self) -> &str {
        &self.server.limits.provider
    }

    async fn chat(&self, request: &ChatRequest, deadline: Instant) -> Result<ChatResponse, GatewayError> {
        let body = RequestBody::new(request, self.token_limit_field, Delivery::Whole);
        let mut reply = self.server.send(&body, &["application/json"], deadline, request.call_id).await?;
        let body: ResponseBody = reply.json().await?;
        if let Some(error) = &body.error {
            return Err(reply.said(error));
        }
        body.into_response(&request.model).map_err(|detail| self.server.limits.malformed(detail))
    }

    async fn chat_stream(&self, request: &ChatRequest, deadline: Instant) -> Result<ChatStream, GatewayError> {
        let body = RequestBody::new(request, self.token_limit_field, Delivery::Streamed);
        let reply = self.server.send(&body, &["text/event-stream"], deadline, request.call_id).await?;
        Ok(events(reply, Frames::Events(SseDecoder::default()), OpenAiAssembler::new(&request.model)))
    }
}
