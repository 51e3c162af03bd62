//! Settings of one provider: where it is, how it is spoken to, and what it may take.

use std::collections::BTreeMap;
use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};

/// The wire format of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProviderKind {
    /// `POST {base_url}/chat/completions` as OpenAI and most servers speak it (vLLM, llama.cpp, LM Studio, …).
    OpenaiCompatible,
    /// `POST {base_url}/messages` as Anthropic speaks it.
    Anthropic,
    /// `POST {base_url}/api/chat` as Ollama speaks it.
    Ollama,
    /// Says what `script` says, or replays `recording`: demonstrations and tests without a model.
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

/// One provider, under its name in `gateway.providers`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProviderSettings {
    /// How it is spoken to. Default `openai_compatible`.
    pub kind: ProviderKind,
    /// Where the server's API begins. Default: the address that the wire format comes from
    /// (`https://api.openai.com/v1`, `https://api.anthropic.com/v1`, `http://127.0.0.1:11434`).
    pub base_url: Option<String>,
    /// Default none: local servers need no key.
    #[serde(serialize_with = "masked")]
    pub api_key: Option<SecretString>,
    /// Headers added to every call; their values are masked when settings are shown, since some carry keys.
    #[serde(serialize_with = "masked_values")]
    pub extra_headers: BTreeMap<String, SecretString>,
    /// Proxy that calls go through. Default none; the environment's proxy variables are not read.
    pub proxy_url: Option<String>,
    /// Which field carries the limit on written tokens (OpenAI-compatible servers). Default `max_tokens`.
    pub token_limit_field: TokenLimitField,
    /// Longest wait for a connection, ms. Default 5,000: a server that takes longer is as good as down.
    pub connect_timeout_ms: u64,
    /// Longest single attempt, ms. Default 60,000: about 1,000 tokens of a slow local model.
    pub request_timeout_ms: u64,
    /// Longest silence inside a reply, ms. Default 20,000: models may pause, dead connections do not recover.
    pub idle_timeout_ms: u64,
    /// Most bytes read of one reply. Default 4 MiB: a hundred times the longest useful answer.
    pub max_response_bytes: usize,
    /// Most calls at once. Default 16: enough for a hosted model, and a local one queues by itself.
    pub max_concurrent_calls: usize,
    /// Most calls that wait for a place. Default 64: beyond that the next model of the route is better than a wait.
    pub max_waiting_calls: usize,
    /// Most input and output tokens a minute over all tenants. Default none.
    pub tokens_per_minute: Option<u32>,
    /// Failures in a row after which calls are refused for a while. Default 5; 0 never refuses.
    pub breaker_failures: u32,
    /// How long calls are refused then; after it a single call tries whether the server is back, ms. Default 10,000.
    pub breaker_cooldown_ms: u64,
    /// Replies of a scripted provider, in order and then again from the first.
    pub script: Vec<String>,
    /// File with recorded exchanges, one JSON object a line. A scripted provider without `record_from` replays it: an
    /// exchange is found by the hash of its request.
    pub recording: Option<PathBuf>,
    /// Name of the provider that a scripted one asks when `recording` does not hold the request; what it says is added
    /// to the file.
    pub record_from: Option<String>,
}

impl Default for ProviderSettings {
    fn default() -> Self {
        Self {
            kind: ProviderKind::OpenaiCompatible,
            base_url: None,
            api_key: None,
            extra_headers: BTreeMap::new(),
            proxy_url: None,
            token_limit_field: TokenLimitField::MaxTokens,
            connect_timeout_ms: 5_000,
            request_timeout_ms: 60_000,
            idle_timeout_ms: 20_000,
            max_response_bytes: 4 << 20,
            max_concurrent_calls: 16,
            max_waiting_calls: 64,
            tokens_per_minute: None,
            breaker_failures: 5,
            breaker_cooldown_ms: 10_000,
            script: Vec::new(),
            recording: None,
            record_from: None,
        }
    }
}

impl ProviderSettings {
    /// What is wrong, one sentence each, naming the field; empty if nothing is.
    pub fn problems(&self) -> Vec<String> {
        let positive = [
            ("connect_timeout_ms", self.connect_timeout_ms),
            ("request_timeout_ms", self.request_timeout_ms),
            ("idle_timeout_ms", self.idle_timeout_ms),
            ("max_response_bytes", self.max_response_bytes as u64),
            ("max_concurrent_calls", self.max_concurrent_calls as u64),
            ("tokens_per_minute", self.tokens_per_minute.map_or(1, u64::from)),
        ];
        let zero = positive.iter().filter(|(_, value)| *value == 0);
        let mut problems: Vec<String> = zero.map(|(name, _)| format!("{name} must be above 0")).collect();
        let is_scripted = self.kind == ProviderKind::Scripted;
        if is_scripted && self.script.is_empty() && self.recording.is_none() {
            problems.push("a scripted provider needs script or recording".to_owned());
        }
        if !is_scripted && (!self.script.is_empty() || self.recording.is_some() || self.record_from.is_some()) {
            problems.push("script, recording and record_from belong to providers of kind scripted".to_owned());
        }
        let is_hosted = matches!(self.kind, ProviderKind::OpenaiCompatible | ProviderKind::Anthropic);
        if is_hosted && self.base_url.is_none() && self.api_key.is_none() {
            // A forgotten line must not send documents to somebody else's server.
            problems.push("base_url or api_key must be given".to_owned());
        }
        if self.record_from.is_some() && self.recording.is_none() {
            problems.push("record_from needs recording, the file to write to".to_owned());
        }
        problems
    }

    /// Where the API begins, without a slash at the end.
    pub fn base_url(&self) -> &str {
        let default = match self.kind {
            ProviderKind::OpenaiCompatible => "https://api.openai.com/v1",
            ProviderKind::Anthropic => "https://api.anthropic.com/v1",
            ProviderKind::Ollama => "http://127.0.0.1:11434",
            ProviderKind::Scripted => "",
        };
        self.base_url.as_deref().unwrap_or(default).trim_end_matches('/')
    }

    /// A hash that changes with any setting, secrets included: tells whether a provider must be built anew.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        // Secrets are masked in JSON, so they are added by themselves, each with its length.
        hasher.update(&serde_json::to_vec(self).expect("settings are maps with text keys"));
        let secrets = self.api_key.iter().chain(self.extra_headers.values());
        for secret in secrets.map(ExposeSecret::expose_secret) {
            hasher.update(&(secret.len() as u64).to_le_bytes());
            hasher.update(secret.as_bytes());
        }
        *hasher.finalize().as_bytes()
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
    fn a_changed_key_changes_the_fingerprint_but_is_never_shown() {
        let with_key = |key: &str| ProviderSettings { api_key: Some(key.into()), ..ProviderSettings::default() };

        assert_ne!(with_key("sk-one").fingerprint(), with_key("sk-two").fingerprint());
        assert_eq!(with_key("sk-one").fingerprint(), with_key("sk-one").fingerprint());
        assert!(!toml::to_string(&with_key("sk-one")).unwrap().contains("sk-one"));
        assert!(!format!("{:?}", with_key("sk-one")).contains("sk-one"));
    }

    #[test]
    fn a_script_belongs_to_a_scripted_provider() {
        let scripted = ProviderSettings { kind: ProviderKind::Scripted, ..ProviderSettings::default() };
        let local = ProviderSettings { base_url: Some("http://127.0.0.1:1/v1".to_owned()), ..Default::default() };
        let other = ProviderSettings { script: vec!["hello".to_owned()], ..local.clone() };

        assert_eq!(scripted.problems().len(), 1);
        assert_eq!(other.problems().len(), 1);
        assert!(local.problems().is_empty());
        assert_eq!(ProviderSettings::default().problems(), ["base_url or api_key must be given"]);
    }
}
