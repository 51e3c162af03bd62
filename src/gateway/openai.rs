//! A provider that speaks OpenAI's chat completions over HTTP.
//!
//! Nothing is trusted to end by itself: connecting, each read, each attempt and the whole size are bounded. Redirects
//! are not followed and the environment's proxies are not used, so the key goes to the configured host only.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::timeout_at;

use super::GatewayError;
use super::contract::{ChatEnd, ChatRequest, ChatResponse, ChatStream, Provider};
use super::openai_stream;
use super::openai_wire::{self, Delivery, RequestBody, ResponseBody};
use super::settings::{GatewaySettings, TokenLimitField};

/// Most bytes read of an error body: enough for its message.
const ERROR_BODY_MAX_BYTES: usize = 16 << 10;

/// Makes ring the process's TLS implementation; called once at start, before the first provider is built.
/// A later call changes nothing.
pub fn install_tls() {
    // `Err` only says that one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A server that speaks `POST {base_url}/chat/completions`.
pub struct OpenAiCompatible {
    client: Client,
    endpoint: Url,
    model: String,
    api_key: Option<SecretString>,
    token_limit_field: TokenLimitField,
    limits: ReplyLimits,
}

/// What one reply may take.
#[derive(Debug, Clone)]
pub struct ReplyLimits {
    pub provider: String,
    pub request_timeout: Duration,
    pub idle: Duration,
    pub max_bytes: usize,
}

impl OpenAiCompatible {
    /// A provider as configured. Connects to nothing yet; [`install_tls`] must have been called.
    pub fn new(settings: &GatewaySettings) -> Result<Self, GatewayError> {
        let endpoint = endpoint(&settings.base_url)?;
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            return Err(invalid("no TLS implementation is installed yet"));
        }
        Ok(Self {
            client: client(settings, &endpoint)?,
            endpoint,
            model: settings.model.clone(),
            api_key: settings.api_key.clone(),
            token_limit_field: settings.token_limit_field,
            limits: ReplyLimits {
                provider: settings.name.clone(),
                request_timeout: Duration::from_millis(settings.request_timeout_ms),
                idle: Duration::from_millis(settings.idle_timeout_ms),
                max_bytes: settings.max_response_bytes,
            },
        })
    }

    /// Sends the request and returns once a successful status and the right content type have arrived.
    async fn send(&self, request: &ChatRequest, delivery: Delivery, by: Instant) -> Result<Response, GatewayError> {
        let expected = match delivery {
            Delivery::Whole => "application/json",
            Delivery::Streamed => "text/event-stream",
        };
        let body = RequestBody::new(request, &self.model, self.token_limit_field, delivery);
        let mut call = self.client.post(self.endpoint.clone()).header(ACCEPT, expected).json(&body);
        if let Some(key) = &self.api_key {
            call = call.bearer_auth(key.expose_secret());
        }
        let response = match timeout_at(by.into(), call.send()).await {
            Err(_) => return Err(self.limits.deadline()),
            Ok(Err(error)) if error.is_connect() => {
                return Err(GatewayError::Unreachable {
                    provider: self.limits.provider.clone(),
                    source: error.without_url(),
                });
            }
            Ok(Err(error)) => return Err(self.limits.broken_off(Some(error))),
            Ok(Ok(response)) => response,
        };
        if response.status() != StatusCode::OK {
            return Err(self.refusal(response, by).await);
        }
        self.limits.check_content_type(&response, expected)?;
        Ok(response)
    }

    async fn refusal(&self, response: Response, by: Instant) -> GatewayError {
        let status = response.status().as_u16();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(retry_after);
        let limits = ReplyLimits { max_bytes: ERROR_BODY_MAX_BYTES, ..self.limits.clone() };
        // The status says enough to go on: a body that cannot be read only leaves the message out.
        let detail = match limits.read(response, by).await {
            Ok(body) => self.without_key(openai_wire::error_detail(&body)),
            Err(error) => format!("its body could not be read ({})", error.outcome()),
        };
        GatewayError::Status { provider: self.limits.provider.clone(), status, retry_after, detail }
    }

    /// Servers quote the key they refuse; it must not reach a log.
    fn without_key(&self, detail: String) -> String {
        match self.api_key.as_ref().map(ExposeSecret::expose_secret).filter(|key| !key.is_empty()) {
            Some(key) => detail.replace(key, "***"),
            None => detail,
        }
    }
}

#[async_trait]
impl Provider for OpenAiCompatible {
    fn name(&self) -> &str {
        &self.limits.provider
    }

    fn model(&self) -> &str {
        &self.model
    }

    async fn chat(&self, request: &ChatRequest, deadline: Instant) -> Result<ChatResponse, GatewayError> {
        let by = self.limits.end_of_attempt(deadline);
        let response = self.send(request, Delivery::Whole, by).await?;
        let body = self.limits.read(response, by).await?;
        let body: ResponseBody =
            serde_json::from_slice(&body).map_err(|error| self.limits.malformed(error.to_string()))?;
        let choice = body.choices.into_iter().next().ok_or_else(|| self.limits.malformed("no choice".to_owned()))?;
        let text = choice.message.content.ok_or_else(|| self.limits.malformed("no text".to_owned()))?;
        let end = ChatEnd {
            model: openai_wire::one_line(body.model.as_deref().unwrap_or(&self.model)),
            finish: openai_wire::finish_reason(choice.finish_reason.as_deref()),
            usage: body.usage.map(Into::into),
        };
        Ok(ChatResponse { text, end })
    }

    async fn chat_stream(&self, request: &ChatRequest, deadline: Instant) -> Result<ChatStream, GatewayError> {
        let by = self.limits.end_of_attempt(deadline);
        let response = self.send(request, Delivery::Streamed, by).await?;
        let model = request.model.clone().unwrap_or_else(|| self.model.clone());
        Ok(openai_stream::events(response, self.limits.clone(), model, by))
    }
}

impl ReplyLimits {
    fn end_of_attempt(&self, deadline: Instant) -> Instant {
        deadline.min(Instant::now() + self.request_timeout)
    }

    /// The next bytes of the body; `None` at its end.
    pub async fn next_bytes(&self, response: &mut Response, by: Instant) -> Result<Option<bytes::Bytes>, GatewayError> {
        let idle_until = Instant::now() + self.idle;
        match timeout_at(by.min(idle_until).into(), response.chunk()).await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(error)) => Err(self.broken_off(Some(error))),
            Err(_) if by <= idle_until => Err(self.deadline()),
            Err(_) => {
                Err(GatewayError::Idle { provider: self.provider.clone(), idle_ms: self.idle.as_millis() as u64 })
            }
        }
    }

    async fn read(&self, mut response: Response, by: Instant) -> Result<Vec<u8>, GatewayError> {
        let mut body = Vec::new();
        while let Some(bytes) = self.next_bytes(&mut response, by).await? {
            if body.len() + bytes.len() > self.max_bytes {
                return Err(self.too_large());
            }
            body.extend_from_slice(&bytes);
        }
        Ok(body)
    }

    fn check_content_type(&self, response: &Response, expected: &'static str) -> Result<(), GatewayError> {
        let found = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media_type = found.split(';').next().unwrap_or_default().trim();
        if media_type.eq_ignore_ascii_case(expected) {
            return Ok(());
        }
        let found = openai_wire::one_line(found);
        Err(GatewayError::ContentType { provider: self.provider.clone(), found, expected })
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

    fn deadline(&self) -> GatewayError {
        GatewayError::Deadline { provider: self.provider.clone() }
    }
}

fn endpoint(base_url: &str) -> Result<Url, GatewayError> {
    let endpoint = format!("{}/chat/completions", base_url.trim_end_matches('/'));
    let endpoint = Url::parse(&endpoint).map_err(|error| invalid(&format!("base_url: {error}")))?;
    match endpoint.scheme() {
        "http" | "https" => Ok(endpoint),
        other => Err(invalid(&format!("base_url must begin with http or https, not {other}"))),
    }
}

fn client(settings: &GatewaySettings, endpoint: &Url) -> Result<Client, GatewayError> {
    let mut headers = HeaderMap::new();
    for (name, value) in &settings.extra_headers {
        let name = HeaderName::try_from(name).map_err(|_| invalid(&format!("extra_headers: {name:?} is no name")))?;
        let mut value = HeaderValue::try_from(value.expose_secret())
            .map_err(|_| invalid(&format!("extra_headers: the value of {name} is not valid")))?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    let mut builder = Client::builder()
        .default_headers(headers)
        .user_agent(concat!("plumb/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_millis(settings.connect_timeout_ms))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy();
    if let Some(proxy) = &settings.proxy_url {
        builder = builder.proxy(reqwest::Proxy::all(proxy).map_err(|_| invalid("proxy_url is not a URL"))?);
    }
    if endpoint.scheme() == "http" {
        // No certificate is ever checked, so a machine without any can still reach a local server.
        builder = builder.tls_certs_only([]);
    }
    builder.build().map_err(|error| invalid(&format!("the HTTP client: {error}")))
}

fn invalid(detail: &str) -> GatewayError {
    GatewayError::Settings { detail: detail.to_owned() }
}

/// Seconds or an HTTP date (RFC 9110 §10.2.3); what is neither counts as not said.
fn retry_after(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    // A date in the past means "now".
    Some(Duration::try_from(at.duration_since(jiff::Timestamp::now())).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let parse = |text: &'static str| retry_after(&HeaderValue::from_static(text));

        assert_eq!(parse("7"), Some(Duration::from_secs(7)));
        assert_eq!(parse("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert!(parse("Wed, 21 Oct 2099 07:28:00 GMT") > Some(Duration::from_secs(86_400)));
        assert_eq!(parse("soon"), None);
        assert_eq!(parse("-1"), None);
    }

    #[test]
    fn a_base_url_with_or_without_a_slash_names_the_same_endpoint() {
        assert_eq!(endpoint("http://h:1/v1").unwrap(), endpoint("http://h:1/v1/").unwrap());
        assert_eq!(endpoint("http://h:1/v1").unwrap().as_str(), "http://h:1/v1/chat/completions");
        assert!(endpoint("file:///etc").is_err());
        assert!(endpoint("not a url").is_err());
    }
}
