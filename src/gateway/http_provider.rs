//! What every provider over HTTP does, whatever its wire format: build the client, send a call, judge its status.
//!
//! Redirects are not followed and the environment's proxies are not used, so the key goes to the configured host only.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
};
use reqwest::{Client, Response, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use tokio::time::timeout_at;

use crate::domain::CallId;

use super::GatewayError;
use super::provider_settings::ProviderSettings;
use super::refusal::{Refusal, RefusedCall, Secrets};
use super::reply::{HttpReply, ReplyLimits};

/// Most bytes read of an error body: enough for its message.
const ERROR_BODY_MAX_BYTES: usize = 16 << 10;

/// Longest wait for an error body: the status alone says enough to go on.
const ERROR_BODY_MAX_WAIT: Duration = Duration::from_secs(2);

/// Longest `Retry-After` that is believed: as good as for ever, and small enough to be added to any clock.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(365 * 86_400);

/// Names a call, whichever attempt it is (draft-ietf-httpapi-idempotency-key-header).
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Shortest value of an extra header that is taken for a secret; shorter ones are words that messages may hold.
const SECRET_MIN_BYTES: usize = 8;

/// Makes ring the process's TLS implementation; called once at start, before the first provider is built.
/// A later call changes nothing.
pub fn install_tls() {
    // `Err` only says that one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Where a wire format is spoken, and with which headers.
#[derive(Debug, Clone, Copy)]
pub struct Door {
    /// Behind the base URL.
    pub path: &'static str,
    pub key: KeyHeader,
    /// Sent with every call.
    pub headers: &'static [(&'static str, &'static str)],
}

/// The header that carries the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyHeader {
    /// `authorization: Bearer …`
    Bearer,
    /// `x-api-key: …`
    ApiKey,
}

/// A server that is reached over HTTP.
pub struct HttpProvider {
    client: Client,
    endpoint: Url,
    pub limits: ReplyLimits,
    pub secrets: Secrets,
}

impl HttpProvider {
    /// A server as configured. Connects to nothing yet; [`install_tls`] must have been called.
    pub fn new(name: &str, settings: &ProviderSettings, door: &Door) -> Result<Arc<Self>, GatewayError> {
        let endpoint = endpoint(settings.base_url(), door.path)?;
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            return Err(invalid("no TLS implementation is installed yet"));
        }
        Ok(Arc::new(Self {
            client: client(settings, &endpoint, headers(settings, door)?)?,
            secrets: secrets(settings, &endpoint),
            endpoint,
            limits: ReplyLimits {
                provider: name.to_owned(),
                request_timeout: Duration::from_millis(settings.request_timeout_ms),
                idle: Duration::from_millis(settings.idle_timeout_ms),
                max_bytes: settings.max_response_bytes,
            },
        }))
    }

    /// Sends `body` and returns once a successful status and one of the `expected` content types have arrived.
    ///
    /// Every body begins with its model.
    pub async fn send(
        self: &Arc<Self>,
        body: &impl Serialize,
        expected: &'static [&'static str],
        deadline: Instant,
        call_id: CallId,
    ) -> Result<HttpReply, GatewayError> {
        let by = self.limits.end_of_attempt(deadline);
        let sent = Bytes::from(serde_json::to_vec(body).expect("requests are structs and maps with text keys"));
        let call = self.client.post(self.endpoint.clone()).header(ACCEPT, expected[0]);
        let call = call.header(IDEMPOTENCY_KEY, call_id.to_string()).body(sent.clone());
        let response = match timeout_at(by.into(), call.send()).await {
            Err(_) => return Err(self.limits.deadline()),
            Ok(Err(error)) if error.is_connect() => {
                let provider = self.limits.provider.clone();
                return Err(GatewayError::Unreachable { provider, source: error.without_url() });
            }
            // The connection broke before the head was there; a kept one may have been closed by the server meanwhile.
            Ok(Err(error)) => return Err(self.limits.broken_off(Some(error))),
            Ok(Ok(response)) => response,
        };
        if response.status() != StatusCode::OK {
            return Err(self.refusal(response, sent, by).await);
        }
        self.limits.check_content_type(&response, expected)?;
        Ok(HttpReply::new(Arc::clone(self), response, sent, by))
    }

    async fn refusal(self: &Arc<Self>, response: Response, sent: Bytes, by: Instant) -> GatewayError {
        let status = Some(response.status().as_u16());
        let retry_after = response.headers().get(RETRY_AFTER).and_then(retry_after);
        let by = by.min(Instant::now() + ERROR_BODY_MAX_WAIT);
        let mut reply = HttpReply::new(Arc::clone(self), response, sent, by);
        reply.max_bytes = ERROR_BODY_MAX_BYTES.min(self.limits.max_bytes);
        // A body that cannot be read only leaves the message out.
        let refusal = match reply.read().await {
            Ok(body) => Refusal::of_body(&body),
            Err(error) => Refusal::without_words(format!("its body could not be read ({})", error.outcome())),
        };
        let call = RefusedCall { provider: &self.limits.provider, status, retry_after, sent: &reply.sent };
        refusal.into_error(&call, &self.secrets)
    }
}

fn endpoint(base_url: &str, path: &str) -> Result<Url, GatewayError> {
    let endpoint = Url::parse(&format!("{base_url}{path}")).map_err(|error| invalid(&format!("base_url: {error}")))?;
    match endpoint.scheme() {
        "http" | "https" => Ok(endpoint),
        other => Err(invalid(&format!("base_url must begin with http or https, not {other}"))),
    }
}

fn headers(settings: &ProviderSettings, door: &Door) -> Result<HeaderMap, GatewayError> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    for (name, value) in door.headers {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    if let Some(key) = &settings.api_key {
        let (name, value) = match door.key {
            KeyHeader::Bearer => (AUTHORIZATION, format!("Bearer {}", key.expose_secret())),
            KeyHeader::ApiKey => (HeaderName::from_static("x-api-key"), key.expose_secret().to_owned()),
        };
        let value = HeaderValue::try_from(value).map_err(|_| invalid("api_key holds what no header can carry"))?;
        headers.insert(name, sensitive(value));
    }
    // Last, so that they can replace the others.
    for (name, value) in &settings.extra_headers {
        let name = HeaderName::try_from(name).map_err(|_| invalid(&format!("extra_headers: {name:?} is no name")))?;
        let value = HeaderValue::try_from(value.expose_secret())
            .map_err(|_| invalid(&format!("extra_headers: the value of {name} is not valid")))?;
        headers.insert(name, sensitive(value));
    }
    Ok(headers)
}

fn sensitive(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}

fn secrets(settings: &ProviderSettings, endpoint: &Url) -> Secrets {
    let headers = settings.extra_headers.values().filter(|value| value.expose_secret().len() >= SECRET_MIN_BYTES);
    let password = endpoint.password().map(SecretString::from);
    Secrets::new(settings.api_key.iter().chain(headers).cloned().chain(password))
}

fn client(settings: &ProviderSettings, endpoint: &Url, headers: HeaderMap) -> Result<Client, GatewayError> {
    let mut builder = Client::builder()
        .default_headers(headers)
        .user_agent(concat!("plumb/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_millis(settings.connect_timeout_ms))
        .tcp_nodelay(true)
        .pool_max_idle_per_host(settings.max_concurrent_calls)
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
        return Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
    }
    let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    // A date in the past means "now".
    let wait = Duration::try_from(at.duration_since(jiff::Timestamp::now())).unwrap_or_default();
    Some(wait.min(RETRY_AFTER_MAX))
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
        assert_eq!(parse("18446744073709551615"), Some(RETRY_AFTER_MAX));
        assert_eq!(parse("soon"), None);
        assert_eq!(parse("-1"), None);
    }

    #[test]
    fn a_base_url_names_the_endpoint_with_or_without_a_slash() {
        let of = |url: &str| {
            let settings = ProviderSettings { base_url: Some(url.to_owned()), ..ProviderSettings::default() };
            endpoint(settings.base_url(), "/chat/completions").map(|url| url.to_string())
        };

        assert_eq!(of("http://h:1/v1").unwrap(), "http://h:1/v1/chat/completions");
        assert_eq!(of("http://h:1/v1/").unwrap(), "http://h:1/v1/chat/completions");
        assert!(of("file:///etc").is_err());
        assert!(of("not a url").is_err());
    }

    #[test]
    fn a_key_that_no_header_can_carry_is_refused_at_start() {
        install_tls();
        let settings = ProviderSettings { api_key: Some("sk\nx".into()), ..ProviderSettings::default() };
        let door = Door { path: "", key: KeyHeader::Bearer, headers: &[] };

        let error = HttpProvider::new("p", &settings, &door).map(|_| ()).unwrap_err();

        assert_eq!(error.to_string(), "the gateway settings are not valid: api_key holds what no header can carry");
    }
}
