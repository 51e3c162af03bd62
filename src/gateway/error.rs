//! What can go wrong between here and a model server.

use std::time::Duration;

use crate::domain::ErrorKind;

/// An error of the gateway. Holds no secret and nothing of the request.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    #[error("no model provider is configured")]
    NotConfigured,
    #[error("the gateway settings are not valid: {detail}")]
    Settings { detail: String },
    #[error("{waiting} calls wait for a model already, more are not taken")]
    Overloaded { waiting: usize },
    #[error("cannot reach {provider}")]
    Unreachable {
        provider: String,
        #[source]
        source: reqwest::Error,
    },
    /// The server answered with something other than success.
    #[error("{provider} answered with status {status}: {detail}")]
    Status {
        provider: String,
        status: u16,
        /// How long the server asks to be left alone.
        retry_after: Option<Duration>,
        /// The server's own words, shortened.
        detail: String,
    },
    #[error("{provider} answered with content type {found:?}, expected {expected}")]
    ContentType { provider: String, found: String, expected: &'static str },
    #[error("{provider} sent more than {limit_bytes} bytes")]
    TooLarge { provider: String, limit_bytes: usize },
    #[error("{provider} sent nothing for {idle_ms} ms")]
    Idle { provider: String, idle_ms: u64 },
    /// The connection broke or the stream ended before the reply did.
    #[error("the reply of {provider} broke off")]
    BrokenOff {
        provider: String,
        #[source]
        source: Option<reqwest::Error>,
    },
    #[error("{provider} sent what cannot be understood: {detail}")]
    Malformed { provider: String, detail: String },
    #[error("the deadline passed before {provider} was done")]
    Deadline { provider: String },
}

impl GatewayError {
    /// The shared kind: retry policy and HTTP status read nothing else.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotConfigured | Self::Overloaded { .. } => ErrorKind::Unavailable,
            Self::Deadline { .. } => ErrorKind::DeadlineExceeded,
            Self::Status { status: 429, .. } => ErrorKind::RateLimited,
            // 408, 425 and every 5xx (529 is "overloaded" at some vendors): the same call may do later.
            Self::Status { status: 408 | 425 | 500.., .. } => ErrorKind::Upstream,
            // The server refuses this call or this key: asking again changes nothing.
            Self::Status { .. } | Self::Settings { .. } => ErrorKind::Internal,
            // A server that sends the wrong type or too much does so again.
            Self::ContentType { .. } | Self::TooLarge { .. } => ErrorKind::Internal,
            Self::Unreachable { .. } | Self::Idle { .. } | Self::BrokenOff { .. } | Self::Malformed { .. } => {
                ErrorKind::Upstream
            }
        }
    }

    /// One stable word for attempts, metrics and `degraded`.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::NotConfigured => "not_configured",
            Self::Settings { .. } => "misconfigured",
            Self::Overloaded { .. } => "overloaded",
            Self::Unreachable { .. } => "unreachable",
            Self::Status { status: 429, .. } => "rate_limited",
            Self::Status { status: 500.., .. } => "server_error",
            Self::Status { .. } => "refused",
            Self::ContentType { .. } => "wrong_content_type",
            Self::TooLarge { .. } => "too_large",
            Self::Idle { .. } => "idle",
            Self::BrokenOff { .. } => "broken_off",
            Self::Malformed { .. } => "malformed",
            Self::Deadline { .. } => "deadline",
        }
    }

    /// How long the server asked to be left alone; `None` where it did not say.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}
