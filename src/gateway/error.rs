//! What can go wrong between here and a model server.

use std::time::Duration;

use crate::domain::ErrorKind;

/// An error of the gateway. Holds no secret and nothing of the request.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    #[error("no model is configured for this task")]
    NotConfigured,
    #[error("the gateway settings are not valid: {detail}")]
    Settings { detail: String },
    #[error("the kill switch is on: {reason}")]
    Killed { reason: String },
    /// A budget has nothing left for the worst case of this call.
    #[error("the budget {budget} has too little left for this call: {detail}")]
    BudgetExceeded {
        /// Scope and period, as `GET /budgets` shows them.
        budget: String,
        detail: String,
        /// Until its period ends; `None`: it does not end.
        retry_after: Option<Duration>,
    },
    /// A call under way was stopped because its budget has nothing left.
    #[error("the call was cut: its budget has nothing left")]
    BudgetCut,
    #[error("{waiting} calls wait for {place} already, more are not taken")]
    Overloaded { place: String, waiting: usize },
    /// A rate of tokens that is set here, not the server's.
    #[error("{whose} may use {tokens_per_minute} tokens a minute, which are used up")]
    TokenRate { whose: String, tokens_per_minute: u32, retry_after: Duration },
    #[error("{provider} failed {failures} times in a row and is left alone for a while")]
    BreakerOpen { provider: String, failures: u32, retry_after: Duration },
    #[error("the call could not be written down beforehand, so it was not made")]
    Ledger(#[source] crate::store::NotDurable),
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
    /// The server says that the call does not fit into the model.
    #[error("{provider} cannot take a call that long: {detail}")]
    ContextTooLong { provider: String, status: u16, detail: String },
    /// The server's content filter refuses the call or withholds the reply.
    #[error("the content filter of {provider} refused: {detail}")]
    ContentFiltered { provider: String, status: u16, detail: String },
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
    /// The call that this one shares its reply with.
    #[error("{0}")]
    Shared(#[source] std::sync::Arc<super::CallFailure>),
}

/// Whether a server may have worked, and so may charge, for a call that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// It said no, or was not asked.
    None,
    /// It may have done anything up to all it was allowed to.
    Unknown,
}

/// How long to wait before a call that the kill switch forbids is worth another try.
const KILLED_RETRY: Duration = Duration::from_secs(60);

impl GatewayError {
    /// The error itself, where it is shared.
    pub fn root(&self) -> &Self {
        match self {
            Self::Shared(failure) => failure.error.root(),
            error => error,
        }
    }

    /// The shared kind: retry policy and HTTP status read nothing else.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotConfigured | Self::Overloaded { .. } | Self::Killed { .. } | Self::BreakerOpen { .. } => {
                ErrorKind::Unavailable
            }
            Self::Ledger(_) => ErrorKind::Unavailable,
            Self::BudgetExceeded { .. } | Self::BudgetCut | Self::TokenRate { .. } => ErrorKind::RateLimited,
            Self::Deadline { .. } => ErrorKind::DeadlineExceeded,
            Self::Status { status: 429, .. } => ErrorKind::RateLimited,
            // 408, 425 and every 5xx (529 is "overloaded" at some vendors): the same call may do later.
            Self::Status { status: 408 | 425 | 500.., .. } => ErrorKind::Upstream,
            // The server refuses this call or this key: asking again changes nothing.
            Self::Status { .. } | Self::Settings { .. } => ErrorKind::Internal,
            Self::ContextTooLong { .. } | Self::ContentFiltered { .. } => ErrorKind::Unprocessable,
            // A server that sends the wrong type or too much does so again.
            Self::ContentType { .. } | Self::TooLarge { .. } => ErrorKind::Internal,
            Self::Unreachable { .. } | Self::Idle { .. } | Self::BrokenOff { .. } | Self::Malformed { .. } => {
                ErrorKind::Upstream
            }
            Self::Shared(failure) => failure.error.kind(),
        }
    }

    /// What a client may know of it: our own limits in full, of servers the kind of failure.
    pub fn told(&self) -> String {
        match self.root() {
            own @ (Self::NotConfigured
            | Self::Killed { .. }
            | Self::BudgetExceeded { .. }
            | Self::BudgetCut
            | Self::Overloaded { .. }
            | Self::TokenRate { .. }
            | Self::BreakerOpen { .. }) => own.to_string(),
            Self::Status { provider, status, .. } => format!("{provider} answered {status}"),
            Self::Unreachable { provider, .. } => format!("{provider} cannot be reached"),
            other => format!("the model could not be asked ({})", other.outcome()),
        }
    }

    /// One stable word for attempts, metrics and `degraded`.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::NotConfigured => "not_configured",
            Self::Settings { .. } => "misconfigured",
            Self::Killed { .. } => "kill_switch",
            Self::BudgetExceeded { .. } => "budget_exceeded",
            Self::BudgetCut => "budget_cut",
            Self::Overloaded { .. } => "overloaded",
            Self::TokenRate { .. } => "token_rate",
            Self::BreakerOpen { .. } => "breaker_open",
            Self::Ledger(_) => "ledger_unavailable",
            Self::Unreachable { .. } => "unreachable",
            Self::Status { status: 429, .. } => "rate_limited",
            Self::Status { status: 500.., .. } => "server_error",
            Self::Status { .. } => "refused",
            Self::ContextTooLong { .. } => "context_too_long",
            Self::ContentFiltered { .. } => "content_filter",
            Self::ContentType { .. } => "wrong_content_type",
            Self::TooLarge { .. } => "too_large",
            Self::Idle { .. } => "idle",
            Self::BrokenOff { .. } => "broken_off",
            Self::Malformed { .. } => "malformed",
            Self::Deadline { .. } => "deadline",
            Self::Shared(failure) => failure.error.outcome(),
        }
    }

    /// How long to leave the server, or us, alone; `None` where nobody said.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } | Self::BudgetExceeded { retry_after, .. } => *retry_after,
            Self::TokenRate { retry_after, .. } | Self::BreakerOpen { retry_after, .. } => Some(*retry_after),
            Self::Shared(failure) => failure.error.retry_after(),
            // People turn it off, and they are not quick.
            Self::Killed { .. } => Some(KILLED_RETRY),
            _ => None,
        }
    }

    /// The HTTP status that the server answered with; `None` if it did not get that far.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. }
            | Self::ContextTooLong { status, .. }
            | Self::ContentFiltered { status, .. } => Some(*status),
            Self::ContentType { .. } | Self::TooLarge { .. } | Self::Malformed { .. } => Some(200),
            _ => None,
        }
    }

    /// Whether the server may charge for the call.
    pub fn work(&self) -> Work {
        match self {
            Self::NotConfigured
            | Self::Settings { .. }
            | Self::BudgetExceeded { .. }
            | Self::Overloaded { .. }
            | Self::TokenRate { .. }
            | Self::BreakerOpen { .. }
            | Self::Ledger(_)
            | Self::Unreachable { .. }
            | Self::Status { .. }
            | Self::ContextTooLong { .. }
            | Self::ContentFiltered { .. }
            | Self::Shared(_) => Work::None,
            Self::Killed { .. }
            | Self::BudgetCut
            | Self::ContentType { .. }
            | Self::TooLarge { .. }
            | Self::Idle { .. }
            | Self::BrokenOff { .. }
            | Self::Malformed { .. }
            | Self::Deadline { .. } => Work::Unknown,
        }
    }
}
