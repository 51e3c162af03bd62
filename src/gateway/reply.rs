//! A reply over HTTP that has begun, read within its bounds.
//!
//! Nothing is trusted to end by itself: each read, the whole attempt and the sum of all bytes are bounded.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::Response;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::timeout_at;

use super::GatewayError;
use super::http_provider::HttpProvider;
use super::refusal::{Refusal, RefusedCall};
use super::wire::{json_fault, one_line};

/// What one reply may take.
#[derive(Debug, Clone)]
pub struct ReplyLimits {
    pub provider: String,
    pub request_timeout: Duration,
    pub idle: Duration,
    pub max_bytes: usize,
}

impl ReplyLimits {
    /// The end of an attempt that begins now.
    pub fn end_of_attempt(&self, deadline: Instant) -> Instant {
        deadline.min(Instant::now() + self.request_timeout)
    }

    /// Refuses a reply of another type than the first of `expected` or one of the others, or with an encoding:
    /// none is ever asked for, and a few compressed bytes could unpack to any size.
    pub fn check_content_type(
        &self,
        response: &Response,
        expected: &'static [&'static str],
    ) -> Result<(), GatewayError> {
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (found, encoding) = (header(CONTENT_TYPE), header(CONTENT_ENCODING));
        let media_type = found.split(';').next().unwrap_or_default().trim();
        let is_expected = expected.iter().any(|expected| media_type.eq_ignore_ascii_case(expected));
        let is_plain = encoding.is_empty() || encoding.eq_ignore_ascii_case("identity");
        if is_expected && is_plain {
            return Ok(());
        }
        let found = if is_plain { one_line(found) } else { one_line(&format!("{media_type} as {encoding}")) };
        Err(GatewayError::ContentType { provider: self.provider.clone(), found, expected: expected[0] })
    }

    pub fn too_large(&self) -> GatewayError {
        GatewayError::TooLarge { provider: self.provider.clone(), limit_bytes: self.max_bytes }
    }

    pub fn broken_off(&self, source: Option<reqwest::Error>) -> GatewayError {
        let source = source.map(reqwest::Error::without_url);
        GatewayError::BrokenOff { provider: self.provider.clone(), source }
    }

    pub fn malformed(&self, detail: String) -> GatewayError {
        GatewayError::Malformed { provider: self.provider.clone(), detail }
    }

    pub fn deadline(&self) -> GatewayError {
        GatewayError::Deadline { provider: self.provider.clone() }
    }
}

/// A reply with what is needed to read it to its end. Dropping it closes the connection.
pub struct HttpReply {
    pub server: Arc<HttpProvider>,
    pub response: Response,
    /// The body of the request, for the check that no error repeats it.
    pub sent: Bytes,
    /// The end of the attempt.
    pub by: Instant,
    /// Most bytes that are read.
    pub max_bytes: usize,
    read_bytes: usize,
}

impl HttpReply {
    /// A reply whose head has arrived, read until `by`.
    pub fn new(server: Arc<HttpProvider>, response: Response, sent: Bytes, by: Instant) -> Self {
        let max_bytes = server.limits.max_bytes;
        Self { server, response, sent, by, max_bytes, read_bytes: 0 }
    }

    /// The next bytes of the body; `None` at its end.
    pub async fn next_bytes(&mut self) -> Result<Option<Bytes>, GatewayError> {
        let limits = &self.server.limits;
        let idle_until = Instant::now() + limits.idle;
        let bytes = match timeout_at(self.by.min(idle_until).into(), self.response.chunk()).await {
            Ok(Ok(Some(bytes))) => bytes,
            Ok(Ok(None)) => return Ok(None),
            Ok(Err(error)) => return Err(limits.broken_off(Some(error))),
            Err(_) if self.by <= idle_until => return Err(limits.deadline()),
            Err(_) => {
                let idle_ms = limits.idle.as_millis() as u64;
                return Err(GatewayError::Idle { provider: limits.provider.clone(), idle_ms });
            }
        };
        self.read_bytes += bytes.len();
        if self.read_bytes > self.max_bytes {
            return Err(limits.too_large());
        }
        Ok(Some(bytes))
    }

    /// The whole body.
    pub async fn read(&mut self) -> Result<Vec<u8>, GatewayError> {
        let announced = self.response.content_length().unwrap_or(0);
        if announced > self.max_bytes as u64 {
            return Err(self.server.limits.too_large());
        }
        let mut body = Vec::with_capacity(announced as usize);
        while let Some(bytes) = self.next_bytes().await? {
            body.extend_from_slice(&bytes);
        }
        Ok(body)
    }

    /// The whole body as JSON; an error where it is not of that shape.
    pub async fn json<T: DeserializeOwned>(&mut self) -> Result<T, GatewayError> {
        let body = self.read().await?;
        serde_json::from_slice(&body).map_err(|error| self.server.limits.malformed(json_fault(&error)))
    }

    /// What an error object inside a reply that began with success means.
    pub fn said(&self, error: &Value) -> GatewayError {
        let call =
            RefusedCall { provider: &self.server.limits.provider, status: None, retry_after: None, sent: &self.sent };
        Refusal::of_value(error).into_error(&call, &self.server.secrets)
    }
}
