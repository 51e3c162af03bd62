//! A provider that speaks Ollama's own API over HTTP.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;

use super::GatewayError;
use super::contract::{ChatRequest, ChatResponse, ChatStream, Provider};
use super::http_provider::{Door, HttpProvider, KeyHeader};
use super::lines::LineDecoder;
use super::ollama_stream::OllamaAssembler;
use super::ollama_wire::{ReplyObject, RequestBody};
use super::provider_settings::ProviderSettings;
use super::reply_stream::{Frames, events};
use super::wire::Delivery;

const DOOR: Door = Door { path: "/api/chat", key: KeyHeader::Bearer, headers: &[] };

/// A server that speaks `POST {base_url}/api/chat`.
pub struct Ollama {
    server: Arc<HttpProvider>,
}

impl Ollama {
    /// A provider as configured. Connects to nothing yet; [`super::install_tls`] must have been called.
    pub fn new(name: &str, settings: &ProviderSettings) -> Result<Self, GatewayError> {
        Ok(Self { server: HttpProvider::new(name, settings, &DOOR)? })
    }
}

#[async_trait]
impl Provider for Ollama {
    fn name(&self) -> &str {
        &self.server.limits.provider
    }

    async fn chat(&self, request: &ChatRequest, deadline: Instant) -> Result<ChatResponse, GatewayError> {
        let body = RequestBody::new(request, Delivery::Whole);
        let mut reply = self.server.send(&body, &["application/json"], deadline, request.call_id).await?;
        let object: ReplyObject = reply.json().await?;
        if let Some(error) = &object.error {
            return Err(reply.said(error));
        }
        object.into_response(&request.model).map_err(|detail| self.server.limits.malformed(detail))
    }

    async fn chat_stream(&self, request: &ChatRequest, deadline: Instant) -> Result<ChatStream, GatewayError> {
        let body = RequestBody::new(request, Delivery::Streamed);
        // Servers between here and there are known to rename the type of newline-delimited JSON.
        let reply =
            self.server.send(&body, &["application/x-ndjson", "application/json"], deadline, request.call_id).await?;
        Ok(events(reply, Frames::Lines(LineDecoder::default()), OllamaAssembler::new(&request.model)))
    }
}
