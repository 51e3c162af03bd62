//! Settings of the gateway: which server is asked, and how long and how often.

use std::collections::BTreeMap;

use secrecy::SecretString;
use serde::{Deserialize, Serialize, Serializer};

/// The wire format of the configured server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProviderKind {
    /// `POST {base_url}/chat/completions` as OpenAI and most local servers speak it.
    OpenaiCompatible,
    /// Replays `script`: demonstrations and tests without a model.
    Scripted,
}

/// The request field that carries the limit on written tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenLimitField {
    /// Understood by nearly every compatible server.
    MaxTokens,
    /// Demanded by OpenAI's reasoning models.
    MaxCompletionTokens,
}

/// How the gateway reaches a language model.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GatewaySettings {
    /// Which server is asked. Default none: answers are then made of quoted sentences.
    pub provider: Option<ProviderKind>,
    /// Name of the provider in answers, logs and metrics. Default `openai`.
    pub name: String,
    /// Where the server's API begins, without a slash at the end. Default `https://api.openai.com/v1`, the
    /// address that the wire format comes from.
    pub base_url: String,
    /// The model that is asked. Default empty: there is no model that every server has, so it must be named.
    pub model: String,
    /// Further models that a request may name. Default none: a request must not choose what the operator pays.
    pub allowed_models: Vec<String>,
    /// Sent as `Authorization: Bearer`. Default none: local servers need no key.
    #[serde(serialize_with = "masked")]
    pub api_key: Option<SecretString>,
    /// Headers added to every call; their values are masked when settings are shown, since some carry keys.
    #[serde(serialize_with = "masked_values")]
    pub extra_headers: BTreeMap<String, SecretString>,
    /// Proxy that calls go through. Default none; the environment's proxy variables are not read.
    pub proxy_url: Option<String>,
    /// Which field carries the limit on written tokens. Default `max_tokens`.
    pub token_limit_field: TokenLimitField,
    /// Longest wait for a connection, ms. Default 5,000: a server that takes longer is as good as down.
    pub connect_timeout_ms: u64,
    /// Longest single attempt, ms. Default 60,000: about 1,000 tokens of a slow local model.
    pub request_timeout_ms: u64,
    /// Longest silence inside a reply, ms. Default 20,000: models may pause, dead connections do not recover.
    pub idle_timeout_ms: u64,
    /// Longest whole call with all its attempts and waits, ms. Default 90,000: one slow attempt and one retry.
    pub call_timeout_ms: u64,
    /// Most bytes read of one reply. Default 4 MiB: a hundred times the longest useful answer.
    pub max_response_bytes: usize,
    /// Most attempts of one call. Default 3: more would wait longer than people do.
    pub max_attempts: u32,
    /// Upper end of the first wait between attempts, ms; doubles with each. Default 250.
    pub backoff_base_ms: u64,
    /// Upper end of any wait between attempts, ms. Default 8,000. A longer `Retry-After` is kept nevertheless.
    pub backoff_max_ms: u64,
    /// Most calls at once. Default 16: enough for a hosted model, and a local one queues by itself.
    pub max_concurrent_calls: usize,
    /// Most calls that wait for a place. Default 64: beyond that a quick refusal is kinder than a late answer.
    pub max_waiting_calls: usize,
    /// Replies of the scripted provider, in order and then again from the first. Default none.
    pub script: Vec<String>,
}

impl Default for GatewaySettings {
    fn default() -> Self {
        Self {
            provider: None,
            name: "openai".to_owned(),
            base_url: "https://api.openai.com/v1".to_owned(),
            model: String::new(),
            allowed_models: Vec::new(),
            api_key: None,
            extra_headers: BTreeMap::new(),
            proxy_url: None,
            token_limit_field: TokenLimitField::MaxTokens,
            connect_timeout_ms: 5_000,
            request_timeout_ms: 60_000,
            idle_timeout_ms: 20_000,
            call_timeout_ms: 90_000,
            max_response_bytes: 4 << 20,
            max_attempts: 3,
            backoff_base_ms: 250,
            backoff_max_ms: 8_000,
            max_concurrent_calls: 16,
            max_waiting_calls: 64,
            script: Vec::new(),
        }
    }
}

impl GatewaySettings {
    /// What is wrong with these settings, one sentence each, naming the field; empty if nothing is.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let positive = [
            ("connect_timeout_ms", self.connect_timeout_ms),
            ("request_timeout_ms", self.request_timeout_ms),
            ("idle_timeout_ms", self.idle_timeout_ms),
            ("call_timeout_ms", self.call_timeout_ms),
            ("max_response_bytes", self.max_response_bytes as u64),
            ("max_attempts", u64::from(self.max_attempts)),
            ("max_concurrent_calls", self.max_concurrent_calls as u64),
        ];
        problems.extend(
            positive.iter().filter(|(_, value)| *value == 0).map(|(name, _)| format!("{name} must be above 0")),
        );
        match self.provider {
            Some(ProviderKind::OpenaiCompatible) if self.model.is_empty() => {
                problems.push("model must be named when a provider is configured".to_owned());
            }
            Some(ProviderKind::Scripted) if self.script.is_empty() => {
                problems.push("script must hold at least one reply for the scripted provider".to_owned());
            }
            _ => {}
        }
        problems
    }
}

const MASK: &str = "***";

fn masked<S: Serializer>(secret: &Option<SecretString>, serializer: S) -> Result<S::Ok, S::Error> {
    match secret {
        Some(_) => serializer.serialize_some(MASK),
        None => serializer.serialize_none(),
    }
}

fn masked_values<S: Serializer>(headers: &BTreeMap<String, SecretString>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(headers.keys().map(|name| (name, MASK)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_settings_hold_no_secret() {
        let json = r#"{"api_key": "sk-hidden-1", "extra_headers": {"x-team-key": "hidden-2"}}"#;
        let settings: GatewaySettings = serde_json::from_str(json).unwrap();

        let shown = serde_json::to_string(&settings).unwrap() + &format!("{settings:?}");

        assert!(!shown.contains("hidden"), "{shown}");
        assert!(shown.contains("x-team-key"));
    }

    #[test]
    fn the_defaults_are_valid_and_a_provider_without_a_model_is_not() {
        assert_eq!(GatewaySettings::default().problems(), Vec::<String>::new());

        let settings = GatewaySettings {
            provider: Some(ProviderKind::OpenaiCompatible),
            max_attempts: 0,
            ..GatewaySettings::default()
        };
        assert_eq!(settings.problems().len(), 2, "{:?}", settings.problems());
    }

    #[test]
    fn an_unknown_key_is_refused() {
        assert!(serde_json::from_str::<GatewaySettings>(r#"{"base_ulr": "x"}"#).is_err());
    }
}
