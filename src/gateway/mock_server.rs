//! A model server on loopback for tests: raw TCP, so that it can also break off, stall and send nonsense.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::domain::Usage;

use super::provider_settings::ProviderSettings;

/// What the mock counts where the test does not care.
const USAGE: Usage = Usage { input_tokens: 11, cached_input_tokens: 0, output_tokens: 7 };

/// What follows the bytes of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    Close,
    /// Keeps the connection open without a word until the client closes it.
    Stall,
    /// Drops the connection without a farewell.
    Reset,
    /// Writes the last bytes again and again until the client closes the connection.
    Endless,
    /// Keeps the connection for another request and drops it when that has come.
    ResetNext,
}

/// One answer: bytes as they go over the wire, in separate writes.
#[derive(Debug, Clone)]
pub struct Act {
    pub writes: Vec<Vec<u8>>,
    pub then: Then,
    /// Waited before each write but the first.
    pub pause: Duration,
}

impl Act {
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self { writes: vec![bytes.into()], then: Then::Close, pause: Duration::ZERO }
    }

    /// A whole response with a JSON body.
    pub fn json(status: &str, headers: &str, body: &str) -> Self {
        Self::raw(format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n{body}",
            body.len()
        ))
    }

    /// The head of a response of that type without a length, then the writes.
    pub fn body_of(content_type: &str, writes: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\nconnection: close\r\n\r\n");
        Self { writes: std::iter::once(head.into_bytes()).chain(writes).collect(), ..Self::raw("") }
    }

    /// A chat completion that says `text`.
    pub fn says(text: &str) -> Self {
        Self::bills(text, USAGE)
    }

    /// A chat completion that says `text` and counts these tokens.
    pub fn bills(text: &str, usage: Usage) -> Self {
        let body = serde_json::json!({
            "model": "mock-1", "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": wire_usage(usage)
        });
        Self::json("200 OK", "", &body.to_string())
    }

    /// A stream that says the pieces and ends as it should.
    pub fn streams(pieces: &[&str]) -> Self {
        Self::streams_bill(pieces, USAGE)
    }

    /// A stream that says the pieces, ends as it should and counts these tokens.
    pub fn streams_bill(pieces: &[&str], usage: Usage) -> Self {
        let mut act = Self::streams_without_end(pieces);
        act.writes.push(sse(r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#));
        act.writes.push(sse(&serde_json::json!({"choices": [], "usage": wire_usage(usage)}).to_string()));
        act.writes.push(sse("[DONE]"));
        act
    }

    /// A stream that says the pieces and then closes without having ended.
    pub fn streams_without_end(pieces: &[&str]) -> Self {
        let delta = |piece: &&str| {
            sse(&serde_json::json!({"model": "mock-1", "choices": [{"delta": {"content": piece}}]}).to_string())
        };
        Self::body_of("text/event-stream; charset=utf-8", pieces.iter().map(delta))
    }

    pub fn then(self, then: Then) -> Self {
        Self { then, ..self }
    }

    /// The same bytes, after the first `at_once` writes one by one.
    pub fn byte_by_byte(mut self, at_once: usize, pause: Duration) -> Self {
        let slow = self.writes.split_off(at_once).concat();
        self.writes.extend(slow.into_iter().map(|byte| vec![byte]));
        Self { pause, ..self }
    }
}

fn wire_usage(usage: Usage) -> serde_json::Value {
    serde_json::json!({
        "prompt_tokens": usage.input_tokens, "completion_tokens": usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens}
    })
}

pub fn sse(data: &str) -> Vec<u8> {
    format!("data: {data}\n\n").into_bytes()
}

/// Plays its acts in order, one a request; the last one again and again.
pub struct MockServer {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    /// How many stalled or endless connections the client has closed.
    closed: watch::Receiver<usize>,
    accepting: JoinHandle<()>,
}

impl MockServer {
    pub async fn start(acts: Vec<Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (sender, closed) = watch::channel(0);
        let seen = Arc::clone(&requests);
        let accepting = tokio::spawn(async move {
            let next = AtomicUsize::new(0);
            while let Ok((connection, _)) = listener.accept().await {
                let act = acts[next.fetch_add(1, Ordering::Relaxed).min(acts.len() - 1)].clone();
                tokio::spawn(play(connection, act, Arc::clone(&seen), sender.clone()));
            }
        });
        Self { address, requests, closed, accepting }
    }

    /// Settings of a provider that calls this server; the tests name it `mock`.
    pub fn settings(&self) -> ProviderSettings {
        ProviderSettings { base_url: Some(format!("http://{}/v1", self.address)), ..ProviderSettings::default() }
    }

    /// Requests so far, head and body.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().clone()
    }

    /// Waits until the client has closed `count` stalled or endless connections.
    pub async fn until_closed(&self, count: usize) {
        self.closed.clone().wait_for(|closed| *closed >= count).await.unwrap();
    }
}

impl Drop for MockServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn play(mut connection: TcpStream, act: Act, seen: Arc<Mutex<Vec<String>>>, closed: watch::Sender<usize>) {
    let Some(request) = read_request(&mut connection).await else { return };
    seen.lock().push(request);
    for (bytes, place) in act.writes.iter().zip(0..) {
        if place > 0 && !act.pause.is_zero() {
            tokio::time::sleep(act.pause).await;
        }
        if connection.write_all(bytes).await.is_err() {
            break;
        }
    }
    match act.then {
        Then::Close => {
            // The client may have closed first.
            let _ = connection.shutdown().await;
        }
        Then::Stall => {
            // Zero bytes or an error: the client has gone.
            while matches!(connection.read(&mut [0; 64]).await, Ok(1..)) {}
            closed.send_modify(|count| *count += 1);
        }
        Then::Reset => connection.set_zero_linger().unwrap(),
        Then::Endless => {
            let bytes = act.writes.last().unwrap();
            while connection.write_all(bytes).await.is_ok() {}
            closed.send_modify(|count| *count += 1);
        }
        Then::ResetNext => {
            let Some(request) = read_request(&mut connection).await else { return };
            seen.lock().push(request);
            connection.set_zero_linger().unwrap();
        }
    }
}

async fn read_request(connection: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return Some(text.into_owned());
            }
        }
        let mut buffer = [0; 4096];
        match connection.read(&mut buffer).await {
            Ok(0) | Err(_) => return None,
            Ok(read) => bytes.extend_from_slice(&buffer[..read]),
        }
    }
}
