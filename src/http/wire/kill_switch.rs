//! The switch that stops every call to a language model.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::TraceId;
use crate::http::ports::{KillState, Switch};
use crate::http::problem::FieldError;

use super::time;

/// Longest reason, in bytes: it stands in log lines and in `/readyz`.
const REASON_MAX_BYTES: usize = 200;

/// A wish for the kill switch.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"on": true, "reason": "the provider charges twice"}))]
pub(in crate::http) struct KillSwitchInput {
    /// `true`: no language model is called any more, and calls that run are cut.
    pub on: bool,
    /// For those who find it switched.
    pub reason: Option<String>,
}

/// The kill switch, which is one for the whole server.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "on": true,
    "reason": "the provider charges twice", "since": "2026-11-23T09:30:00Z"}))]
pub(in crate::http) struct KillSwitchBody {
    pub trace_id: String,
    pub on: bool,
    /// What was said when it was last switched.
    pub reason: Option<String>,
    /// When it was last switched; `null`: never since the start.
    pub since: Option<String>,
}

impl KillSwitchInput {
    /// The wish with its reason, which may be empty.
    pub(in crate::http) fn into_parts(self) -> Result<(Switch, String), FieldError> {
        let reason = self.reason.unwrap_or_default();
        if reason.len() > REASON_MAX_BYTES || reason.chars().any(char::is_control) {
            let detail = format!("must be plain text of at most {REASON_MAX_BYTES} bytes");
            return Err(FieldError::new("/reason", detail));
        }
        Ok((if self.on { Switch::On } else { Switch::Off }, reason))
    }
}

impl KillSwitchBody {
    pub(in crate::http) fn new(trace: TraceId, state: KillState) -> Self {
        let KillState { is_on, reason, since } = state;
        Self { trace_id: trace.to_string(), on: is_on, reason, since: since.map(time) }
    }
}
