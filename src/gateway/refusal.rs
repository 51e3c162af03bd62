//! What a server says went wrong: its meaning where that is known, and its words where they are safe to show.
//!
//! Servers quote the key and the call that they refuse. Neither may reach a log, so their words are checked first.

use std::collections::HashMap;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::GatewayError;
use super::wire::one_line;

/// Codes that mean that a call does not fit (OpenAI and vLLM; llama.cpp).
const TOO_LONG_CODES: [&str; 2] = ["context_length_exceeded", "exceed_context_size_error"];

/// The same in the words of Anthropic (both), vLLM and Ollama, and llama.cpp before it had a code.
const TOO_LONG_WORDS: [&str; 5] = [
    "context_length_exceeded",
    "prompt is too long",
    "exceed context limit",
    "maximum context length",
    "exceeds the available context size",
];

/// Codes of content filters (Azure; OpenAI).
const FILTER_CODES: [&str; 2] = ["content_filter", "content_policy_violation"];

/// Statuses that stand for the error types of Anthropic and OpenAI inside a stream that began with status 200.
const STATUS_OF_TYPE: [(&str, u16); 12] = [
    ("invalid_request_error", 400),
    ("authentication_error", 401),
    ("billing_error", 402),
    ("permission_error", 403),
    ("not_found_error", 404),
    ("request_too_large", 413),
    ("rate_limit_error", 429),
    ("rate_limit_exceeded", 429),
    ("api_error", 500),
    ("server_error", 500),
    ("timeout_error", 504),
    ("overloaded_error", 529),
];

/// Shortest run of bytes that counts as a quotation of the call: longer than any word of the protocols, shorter than
/// a sentence.
const QUOTATION_MIN_BYTES: usize = 24;

/// Bytes compared at once while looking for a quotation.
const BLOCK_BYTES: usize = 8;

/// An error object of a server.
#[derive(Debug)]
pub struct Refusal {
    /// Code and type, where they are words.
    codes: Vec<String>,
    /// Code, where it is a number.
    number: Option<u16>,
    message: Option<String>,
    /// What is said where there is no message.
    otherwise: String,
}

/// Where and on which call a refusal came.
#[derive(Debug)]
pub struct RefusedCall<'a> {
    pub provider: &'a str,
    /// `None` inside a reply that began with success.
    pub status: Option<u16>,
    pub retry_after: Option<Duration>,
    /// The body of the request.
    pub sent: &'a [u8],
}

impl Refusal {
    /// What an error body says.
    pub fn of_body(body: &[u8]) -> Self {
        match serde_json::from_slice::<Value>(body) {
            Ok(value) => Self::of_value(&value),
            Err(_) => Self::without_words(format!("a body of {} bytes without a known error message", body.len())),
        }
    }

    /// What `{"error": {"message", "code", "type"}}`, `{"error": "…"}`, the bare object or `{"detail": "…"}` says.
    pub fn of_value(value: &Value) -> Self {
        let error = value.get("error").unwrap_or(value);
        let words = ["code", "type"].into_iter().filter_map(|name| error.get(name)?.as_str());
        let number = error.get("code").and_then(|code| match code {
            Value::String(text) => text.parse().ok(),
            code => code.as_u64().and_then(|code| u16::try_from(code).ok()),
        });
        let message = error.get("message").or_else(|| error.get("detail")).unwrap_or(error).as_str();
        Self {
            codes: words.map(str::to_owned).collect(),
            number,
            message: message.map(str::to_owned),
            otherwise: "no known error message".to_owned(),
        }
    }

    /// A refusal of which nothing but `otherwise` is known.
    pub fn without_words(otherwise: String) -> Self {
        Self { codes: Vec::new(), number: None, message: None, otherwise }
    }

    /// The error that this is, by its meaning.
    pub fn into_error(self, call: &RefusedCall<'_>, secrets: &Secrets) -> GatewayError {
        let status = call.status.or_else(|| self.own_status());
        let detail = match &self.message {
            Some(message) => secrets.safe_words(message, call.sent),
            None => self.otherwise.clone(),
        };
        let provider = call.provider.to_owned();
        // Inside a stream there is no status to judge by, only the words.
        if matches!(status, None | Some(400..=499)) && self.has_code(&FILTER_CODES) {
            return GatewayError::ContentFiltered { provider, status: status.unwrap_or(200), detail };
        }
        if matches!(status, None | Some(400 | 413)) && self.says_too_long() {
            return GatewayError::ContextTooLong { provider, status: status.unwrap_or(200), detail };
        }
        match status {
            Some(status) => GatewayError::Status { provider, status, retry_after: call.retry_after, detail },
            None => GatewayError::Malformed { provider, detail: format!("an error inside the reply: {detail}") },
        }
    }

    /// The status that the error object itself names.
    fn own_status(&self) -> Option<u16> {
        let by_type = || STATUS_OF_TYPE.iter().find(|(name, _)| self.has_code(&[name])).map(|(_, status)| *status);
        self.number.filter(|number| (400..600).contains(number)).or_else(by_type)
    }

    fn has_code(&self, codes: &[&str]) -> bool {
        self.codes.iter().any(|code| codes.contains(&code.as_str()))
    }

    fn says_too_long(&self) -> bool {
        let message = self.message.as_deref().unwrap_or_default().to_ascii_lowercase();
        self.has_code(&TOO_LONG_CODES) || TOO_LONG_WORDS.iter().any(|words| message.contains(words))
    }
}

/// What must not be seen in an error.
#[derive(Debug, Default)]
pub struct Secrets(Vec<SecretString>);

impl Secrets {
    /// Empty ones are left out.
    pub fn new(secrets: impl IntoIterator<Item = SecretString>) -> Self {
        Self(secrets.into_iter().filter(|secret| !secret.expose_secret().is_empty()).collect())
    }

    /// A server's words on one short line, without secrets and without what it quotes of the call.
    fn safe_words(&self, words: &str, sent: &[u8]) -> String {
        // Secrets go first: once shortened, the words could end within one.
        let hidden = self.0.iter().fold(words.to_owned(), |text, secret| text.replace(secret.expose_secret(), "***"));
        let line = one_line(&hidden);
        match quotes(line.as_bytes(), without_model(sent)) {
            true => "a message that quotes the call, left out".to_owned(),
            false => line,
        }
    }
}

/// The body behind its first field, which is the model in every wire format: errors may name it.
fn without_model(sent: &[u8]) -> &[u8] {
    let end = sent.windows(3).position(|window| window == b"\",\"");
    &sent[end.unwrap_or(0)..]
}

/// True if `text` and `sent` share [`QUOTATION_MIN_BYTES`] bytes in a row.
fn quotes(text: &[u8], sent: &[u8]) -> bool {
    let mut places: HashMap<&[u8], Vec<usize>> = HashMap::new();
    for (place, window) in text.windows(BLOCK_BYTES).enumerate() {
        places.entry(window).or_default().push(place);
    }
    // A run that long holds at least one whole block, so every eighth place is enough.
    sent.chunks_exact(BLOCK_BYTES).zip((0..).step_by(BLOCK_BYTES)).any(|(block, at)| {
        let places = places.get(block).into_iter().flatten();
        places.into_iter().any(|place| shared_run(text, *place, sent, at) >= QUOTATION_MIN_BYTES)
    })
}

/// Length of the run that the two share around `place` and `at`.
fn shared_run(text: &[u8], place: usize, sent: &[u8], at: usize) -> usize {
    let after = text[place..].iter().zip(&sent[at..]).take_while(|(a, b)| a == b).count();
    let before = text[..place].iter().rev().zip(sent[..at].iter().rev()).take_while(|(a, b)| a == b).count();
    before + after
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: &[u8] = br#"{"model":"meta-llama/Llama-3.3-70B-Instruct","messages":[{"role":"user","content":"my mother's maiden name is Rosenzweig"}]}"#;

    fn refused(status: Option<u16>, body: &str) -> GatewayError {
        let call = RefusedCall { provider: "p", status, retry_after: None, sent: SENT };
        Refusal::of_body(body.as_bytes()).into_error(&call, &Secrets::new([SecretString::from("sk-secret")]))
    }

    fn detail(body: &str) -> String {
        refused(Some(500), body).to_string().split_once(": ").unwrap().1.to_owned()
    }

    #[test]
    fn error_messages_are_found_wherever_servers_put_them() {
        assert_eq!(detail(r#"{"error": {"message": "no\nsuch model", "code": 4}}"#), "no such model");
        assert_eq!(detail(r#"{"error": "down"}"#), "down");
        assert_eq!(detail(r#"{"message": "later"}"#), "later");
        assert_eq!(detail(r#"{"detail": "not found"}"#), "not found");
        assert_eq!(detail("[]"), "no known error message");
        assert_eq!(detail("<html>"), "a body of 6 bytes without a known error message");
    }

    #[test]
    fn a_call_that_is_too_long_is_known_by_code_or_words() {
        for body in [
            r#"{"error": {"code": "context_length_exceeded", "message": "x"}}"#,
            r#"{"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long: 9 > 8"}}"#,
            r#"{"error": {"code": 400, "type": "exceed_context_size_error", "message": "x"}}"#,
            r#"{"object": "error", "code": 400, "message": "This model's maximum context length is 8 tokens."}"#,
        ] {
            for status in [None, Some(400), Some(413)] {
                assert_eq!(refused(status, body).outcome(), "context_too_long", "{status:?} {body}");
            }
            assert_eq!(refused(Some(500), body).outcome(), "server_error", "{body}");
        }
        assert_eq!(refused(Some(400), r#"{"error": "max_tokens is too long"}"#).outcome(), "refused");
    }

    #[test]
    fn a_content_filter_is_known_by_its_code_alone() {
        for code in FILTER_CODES {
            let body = format!(r#"{{"error": {{"code": "{code}", "message": "no"}}}}"#);
            assert_eq!(refused(Some(400), &body).outcome(), "content_filter");
            assert_eq!(refused(Some(500), &body).outcome(), "server_error");
        }
        assert_eq!(refused(Some(400), r#"{"error": "set content_filter"}"#).outcome(), "refused");
    }

    #[test]
    fn an_error_inside_a_reply_keeps_the_status_that_it_names() {
        assert_eq!(refused(None, r#"{"error": {"type": "overloaded_error"}}"#).status(), Some(529));
        assert_eq!(refused(None, r#"{"error": {"code": 502, "message": "gone"}}"#).status(), Some(502));
        assert_eq!(refused(None, r#"{"error": {"code": "429", "message": "slow"}}"#).status(), Some(429));
        assert_eq!(refused(None, r#"{"error": {"code": 7, "message": "?"}}"#).outcome(), "malformed");
    }

    #[test]
    fn words_that_quote_the_key_or_the_call_are_not_repeated() {
        assert_eq!(detail(r#"{"error": "key sk-secret is not known"}"#), "key *** is not known");
        let cut_within_the_key = format!(r#"{{"error": "{} sk-secret"}}"#, "x".repeat(195));
        assert!(!detail(&cut_within_the_key).contains("sk"));
        assert_eq!(
            detail(r#"{"error": "cannot parse: my mother's maiden name is Rosenzweig"}"#),
            "a message that quotes the call, left out"
        );
        assert_eq!(
            detail(r#"{"error": "no model meta-llama/Llama-3.3-70B-Instruct"}"#),
            "no model meta-llama/Llama-3.3-70B-Instruct"
        );
    }

    #[test]
    fn a_quotation_is_found_wherever_it_stands() {
        let sent: Vec<u8> = (0..=250).collect();

        for start in 0..200 {
            let run = &sent[start..start + QUOTATION_MIN_BYTES];
            assert!(quotes(&[b"\xff", run, b"\xff"].concat(), &sent), "from {start}");
            assert!(!quotes(&[b"\xff", &run[1..], b"\xff"].concat(), &sent), "from {start}");
        }
    }
}
