//! A provider that speaks Anthropic's Messages API over HTTP.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;

use super::GatewayError;
use super::anthropic_stream::AnthropicAssembler;
use super::anthropic_wire::{RequestBody, ResponseBody};
use super::contract::{ChatRequest, ChatResponse, ChatStream, Provider};
use super::http_provider::{Door, HttpProvider, KeyHeader};
use super::provider_settings::ProviderSettings;
use super::reply_stream::{Frames, events};
use super::sse::SseDecoder;
use super::wire::Delivery;

const DOOR: Door = Door { path: "/messages", key: KeyHeader::ApiKey, headers: &[("anthropic-version", "2023-06-01")] };

/// A server that speaks `POST {base_url}/messages`.
pub struct Anthropic {
    server: Arc<HttpProvider>,
}

impl Anthropic {
    /// A provider as configured. Connects to nothing yet; [`super::install_tls`] must have been called.
    pub fn new(name: &str, settings: &ProviderSettings) -> Result<Self, GatewayError> {
        Ok(Self { server: HttpProvider::new(name, settings, &DOOR)? })
    }
}

#[async_trait]
impl Provider for Anthropic {
    fn name(&self) -> &str {
        &self.server.limits.provider
    }

    async fn chat(&self, request: &ChatRequest, deadline: Instant) -> Result<ChatResponse, GatewayError> {
        let body = RequestBody::new(request, Delivery::Whole);
        let mut reply = self.server.send(&body, &["application/json"], deadline, request.call_id).await?;
        let body: ResponseBody = reply.json().await?;
        if let Some(error) = &body.error {
            return Err(reply.said(error));
        }
        body.into_response(request).map_err(|detail| self.server.limits.malformed(detail))
    }

    async fn chat_stream(&self, request: &ChatRequest, deadline: Instant) -> Result<ChatStream, GatewayError> {
        let body = RequestBody::new(request, Delivery::Streamed);
        let reply = self.server.send(&body, &["text/event-stream"], deadline, request.call_id).await?;
        Ok(events(reply, Frames::Events(SseDecoder::default()), AnthropicAssembler::new(request)))
    }
}
