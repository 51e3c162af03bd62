//! Recorded exchanges with models: a JSON object a line, found by the hash of the request.
//!
//! What differs from run to run must not enter the hash, or nothing recorded would ever be found again: ids of tool
//! calls are numbered, and the random marks around quoted passages (`#` and 16 hexadecimal digits) are one mark.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::domain::Usage;

use super::GatewayError;
use super::contract::{ChatEnd, ChatRequest, ChatResponse, FinishReason, ToolCall};

/// Length of a mark in hexadecimal digits.
const MARK_DIGITS: usize = 16;

const FINISH_REASONS: [FinishReason; 5] = [
    FinishReason::Stop,
    FinishReason::Length,
    FinishReason::ContentFilter,
    FinishReason::ToolCalls,
    FinishReason::Other,
];

/// Names a request; BLAKE3 of its canonical JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestKey(blake3::Hash);

impl RequestKey {
    /// The name of `request`: the same for every request that asks the same.
    pub fn of(request: &ChatRequest) -> Self {
        let canonical = sorted(canonical(request)).to_string();
        Self(blake3::hash(canonical.as_bytes()))
    }
}

/// What a model said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    pub response: ChatResponse,
    /// How the text came, where it came as a stream; together they are the text.
    pub pieces: Option<Vec<String>>,
}

/// A file of exchanges, held in memory as a whole.
pub struct Recording {
    path: PathBuf,
    exchanges: Mutex<HashMap<RequestKey, Arc<Exchange>>>,
    /// `None`: nothing is added.
    file: Option<Mutex<File>>,
}

impl Recording {
    /// Reads a recording that nothing is added to. Blocks; a line that cannot be read is an error that names it.
    pub fn read(path: &Path) -> Result<Self, GatewayError> {
        let text = std::fs::read_to_string(path).map_err(|error| broken(path, &error.to_string()))?;
        Ok(Self { path: path.to_owned(), exchanges: Mutex::new(parse(path, &text)?), file: None })
    }

    /// Reads a recording that exchanges are added to; makes the file where there is none. Blocks.
    pub fn open(path: &Path) -> Result<Self, GatewayError> {
        let broken = |error: std::io::Error| broken(path, &error.to_string());
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(path).map_err(broken)?;
        let text = std::fs::read_to_string(path).map_err(broken)?;
        let exchanges = parse(path, &text)?;
        if !text.is_empty() && !text.ends_with('\n') {
            // Whoever edited the file by hand left its last line open.
            file.write_all(b"\n").map_err(broken)?;
        }
        Ok(Self { path: path.to_owned(), exchanges: Mutex::new(exchanges), file: Some(Mutex::new(file)) })
    }

    /// What was said to the request, the last time if it was recorded more than once.
    pub fn find(&self, key: RequestKey) -> Option<Arc<Exchange>> {
        self.exchanges.lock().get(&key).cloned()
    }

    /// Adds an exchange, whole lines only. That it could not be written is logged and no error: what the model said
    /// has been paid for and is still an answer.
    pub async fn add(self: &Arc<Self>, key: RequestKey, exchange: Exchange) {
        let line = Line::new(key, &exchange);
        self.exchanges.lock().insert(key, Arc::new(exchange));
        let recording = Arc::clone(self);
        let written = tokio::task::spawn_blocking(move || recording.append(&line)).await;
        let written = written.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        if let Err(error) = written {
            tracing::error!(path = %self.path.display(), %error, "an exchange was not recorded");
        }
    }

    fn append(&self, line: &Line) -> std::io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        let mut file = file.lock();
        // One write: lines of two calls never mix.
        file.write_all(&bytes)?;
        file.flush()
    }
}

fn broken(path: &Path, detail: &str) -> GatewayError {
    GatewayError::Settings { detail: format!("recording {}: {detail}", path.display()) }
}

fn parse(path: &Path, text: &str) -> Result<HashMap<RequestKey, Arc<Exchange>>, GatewayError> {
    let mut exchanges = HashMap::new();
    for (line, number) in text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty()) {
        let (key, exchange) = serde_json::from_str::<Line>(line)
            .map_err(|error| error.to_string())
            .and_then(Line::into_exchange)
            .map_err(|detail| broken(path, &format!("line {number}: {detail}")))?;
        exchanges.insert(key, Arc::new(exchange));
    }
    Ok(exchanges)
}

/// An exchange in the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    key: String,
    model: String,
    text: String,
    #[serde(default)]
    tool_calls: Vec<RecordedCall>,
    finish: String,
    usage: Option<RecordedUsage>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pieces: Option<Vec<String>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordedCall {
    id: String,
    name: String,
    arguments: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordedUsage {
    input_tokens: u64,
    cached_input_tokens: u64,
    output_tokens: u64,
}

impl Line {
    fn new(key: RequestKey, exchange: &Exchange) -> Self {
        let ChatResponse { text, tool_calls, end } = exchange.response.clone();
        let call = |ToolCall { id, name, arguments }| RecordedCall { id, name, arguments };
        let usage = |usage: Usage| RecordedUsage {
            input_tokens: usage.input_tokens,
            cached_input_tokens: usage.cached_input_tokens,
            output_tokens: usage.output_tokens,
        };
        Self {
            key: key.0.to_hex().to_string(),
            model: end.model,
            text,
            tool_calls: tool_calls.into_iter().map(call).collect(),
            finish: end.finish.as_str().to_owned(),
            usage: end.usage.map(usage),
            pieces: exchange.pieces.clone(),
        }
    }

    fn into_exchange(self) -> Result<(RequestKey, Exchange), String> {
        let key = blake3::Hash::from_hex(&self.key).map_err(|error| format!("key: {error}"))?;
        let finish = FINISH_REASONS.into_iter().find(|reason| reason.as_str() == self.finish);
        let finish = finish.ok_or_else(|| format!("finish: {:?} is no reason to finish", self.finish))?;
        if self.pieces.as_ref().is_some_and(|pieces| pieces.concat() != self.text) {
            return Err("pieces: together they are not the text".to_owned());
        }
        let call = |RecordedCall { id, name, arguments }| ToolCall { id, name, arguments };
        let usage = |usage: RecordedUsage| Usage {
            input_tokens: usage.input_tokens,
            cached_input_tokens: usage.cached_input_tokens,
            output_tokens: usage.output_tokens,
        };
        let end = ChatEnd { model: self.model, finish, usage: self.usage.map(usage) };
        let tool_calls = self.tool_calls.into_iter().map(call).collect();
        let response = ChatResponse { text: self.text, tool_calls, end };
        Ok((RequestKey(key), Exchange { response, pieces: self.pieces }))
    }
}

/// The request as JSON without what differs from run to run.
fn canonical(request: &ChatRequest) -> Value {
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    for call in request.messages.iter().flat_map(|message| &message.tool_calls) {
        let next = numbers.len();
        numbers.entry(&call.id).or_insert(next);
    }
    let calls = |calls: &[ToolCall]| -> Vec<Value> {
        let call = |call: &ToolCall| json!([numbers[call.id.as_str()], call.name, call.arguments]);
        calls.iter().map(call).collect()
    };
    let message = |message: &super::ChatMessage| {
        json!({
            "role": message.role.as_str(),
            "content": without_marks(&message.content),
            "tool_calls": calls(&message.tool_calls),
            "tool_call": message.tool_call_id.as_deref().and_then(|id| numbers.get(id)),
        })
    };
    let tool = |tool: &super::Tool| json!([tool.name, tool.description, tool.parameters]);
    json!({
        "messages": request.messages.iter().map(message).collect::<Vec<_>>(),
        "model": request.model,
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "tools": request.tools.iter().map(tool).collect::<Vec<_>>(),
        "schema": request.schema.as_ref().map(|reply| json!([reply.name, reply.schema])),
    })
}

/// `text` with every mark reduced to its `#`.
fn without_marks(text: &str) -> String {
    let mut pieces = text.split('#');
    let mut kept = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let digits = piece.bytes().take_while(is_digit).count();
        kept.push('#');
        kept.push_str(if digits == MARK_DIGITS { &piece[MARK_DIGITS..] } else { piece });
    }
    kept
}

/// The same JSON with the keys of all objects in order.
fn sorted(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(sorted).collect(),
        Value::Object(fields) => {
            let fields: BTreeMap<String, Value> = fields.into_iter().collect();
            fields.into_iter().map(|(name, value)| (name, sorted(value))).collect()
        }
        plain => plain,
    }
}

#[cfg(test)]
mod tests {
    use super::super::contract::{ChatMessage, ReplySchema, Role};
    use super::*;
    use crate::domain::CallId;

    fn request(content: &str) -> ChatRequest {
        ChatRequest {
            call_id: CallId([0; 16]),
            messages: vec![ChatMessage::new(Role::User, content)],
            model: "m".to_owned(),
            max_tokens: 7,
            temperature: Some(0.1),
            tools: Vec::new(),
            schema: None,
        }
    }

    fn exchange(pieces: Option<&[&str]>) -> Exchange {
        let usage = Usage { input_tokens: 9, cached_input_tokens: 4, output_tokens: 2 };
        let call = ToolCall { id: "c".to_owned(), name: "find".to_owned(), arguments: "{}".to_owned() };
        let end = ChatEnd { model: "m-2".to_owned(), finish: FinishReason::Length, usage: Some(usage) };
        let response = ChatResponse { text: "one\ntwo".to_owned(), tool_calls: vec![call], end };
        Exchange { response, pieces: pieces.map(|pieces| pieces.iter().map(ToString::to_string).collect()) }
    }

    fn key(request: &ChatRequest) -> RequestKey {
        RequestKey::of(request)
    }

    #[test]
    fn what_differs_from_run_to_run_does_not_change_the_key() {
        let marked = |mark: &str| request(&format!("{mark} passage 1\n{mark} #1 #issue"));
        let schema = |text: &str| {
            let schema = serde_json::from_str(text).unwrap();
            ChatRequest { schema: Some(ReplySchema { name: "out".to_owned(), schema }), ..request("x") }
        };
        let answered = |id: &str| {
            let mut asks = ChatMessage::new(Role::Assistant, "");
            asks.tool_calls.push(ToolCall { id: id.to_owned(), name: "find".to_owned(), arguments: "{}".to_owned() });
            let result = ChatMessage { tool_call_id: Some(id.to_owned()), ..ChatMessage::new(Role::Tool, "42") };
            ChatRequest { messages: vec![asks, result], ..request("x") }
        };

        assert_eq!(key(&marked("#0123456789abcdef")), key(&marked("#fedcba9876543210")));
        assert_eq!(
            key(&schema(r#"{"a": {"b": 1, "c": 2}, "d": 3}"#)),
            key(&schema(r#"{"d": 3, "a": {"c": 2, "b": 1}}"#))
        );
        assert_eq!(key(&answered("call_x")), key(&answered("call_y")));
    }

    #[test]
    fn whatever_is_asked_changes_the_key() {
        let base = request("x");
        let others = [
            request("y"),
            ChatRequest { model: "n".to_owned(), ..base.clone() },
            ChatRequest { max_tokens: 8, ..base.clone() },
            ChatRequest { temperature: None, ..base.clone() },
            ChatRequest { messages: vec![ChatMessage::new(Role::System, "x")], ..base.clone() },
            ChatRequest { schema: Some(ReplySchema { name: "s".to_owned(), schema: json!({}) }), ..base.clone() },
            request("x #0123456789abcde"),
        ];

        for other in others {
            assert_ne!(key(&other), key(&base), "{other:?}");
        }
        assert_eq!(key(&base), key(&base.clone()));
    }

    #[tokio::test]
    async fn what_was_recorded_is_found_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("exchanges.jsonl");
        let recording = Arc::new(Recording::open(&path).unwrap());
        let (whole, streamed) = (exchange(None), exchange(Some(&["one\n", "two"])));
        recording.add(key(&request("a")), whole.clone()).await;
        recording.add(key(&request("b")), streamed.clone()).await;

        let reread = Recording::read(&path).unwrap();

        assert_eq!(reread.find(key(&request("a"))).as_deref(), Some(&whole));
        assert_eq!(reread.find(key(&request("b"))).as_deref(), Some(&streamed));
        assert_eq!(reread.find(key(&request("c"))), None);
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 2);
    }

    #[tokio::test]
    async fn a_last_line_left_open_by_hand_is_closed_before_another_is_added() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("exchanges.jsonl");
        let first = Line::new(key(&request("a")), &exchange(None));
        std::fs::write(&path, serde_json::to_string(&first).unwrap()).unwrap();

        Arc::new(Recording::open(&path).unwrap()).add(key(&request("b")), exchange(None)).await;

        assert_eq!(Recording::read(&path).unwrap().exchanges.lock().len(), 2);
    }

    #[test]
    fn a_broken_line_is_named_with_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("exchanges.jsonl");
        let whole = serde_json::to_value(Line::new(key(&request("a")), &exchange(None))).unwrap();
        let changed = |name: &str, value: Value| {
            let mut line = whole.clone();
            line[name] = value;
            line.to_string()
        };

        for broken in [
            whole.to_string()[..20].to_owned(),
            changed("key", json!("12")),
            changed("finish", json!("done")),
            changed("pieces", json!(["one"])),
            changed("extra", json!(1)),
        ] {
            std::fs::write(&path, format!("{whole}\n\n{broken}\n")).unwrap();
            let error = Recording::read(&path).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains("exchanges.jsonl: line 3: "), "{error}");
        }
        assert!(Recording::read(&folder.path().join("none.jsonl")).is_err());
    }
}
