//! A model server on loopback that speaks OpenAI's chat completions and keeps a bill of its own.
//!
//! What it does is written in the last message of each request, as [`Order`] in JSON. It charges what it reports; where
//! it reports nothing it charges by the rule that the ledger's documentation gives for such calls, computed here from
//! the bytes on the wire: a token for four bytes of the messages and of what was written, and where nothing arrived of a
//! reply, a token for each byte with what surrounds the messages, and all the tokens that were allowed.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What the server is to do with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    Answer,
    AnswerWithoutUsage,
    AnswerWithNegativeUsage,
    /// Nothing until the client closes.
    Stall,
    MalformedBody,
    Unavailable,
    TooManyRequests,
    /// Pieces and the end, or, whole, as [`Act::Answer`].
    Stream,
    /// As [`Act::Stream`], with [`LONG_PIECES`] pieces.
    StreamLong,
    /// Pieces, then nothing until the client closes.
    StreamStalls,
    StreamMalformed,
    StreamTruncated,
}

/// A request as the server understands it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    pub id: u64,
    /// One for each attempt; the last one again and again.
    pub acts: Vec<Act>,
    pub input_tokens: u64,
    pub output_tokens: u64,
}

/// Price of a token in nano-dollars.
#[derive(Debug, Clone, Copy)]
pub struct Tariff {
    pub input: u64,
    pub output: u64,
}

/// Bytes of one streamed piece: whole tokens by the rule.
pub const PIECE: &str = "word of it. ";
/// Pieces of each stream.
pub const PIECES: usize = 3;

/// Pieces of a long stream.
pub const LONG_PIECES: usize = 500;

/// See the head of this file. Stops when dropped.
pub struct ModelServer {
    address: SocketAddr,
    books: Arc<Books>,
    accepting: JoinHandle<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Temper {
    Ordered,
    Obliging,
}

struct Books {
    tariff: Tariff,
    temper: Temper,
    /// Attempts seen, by order.
    seen: Mutex<HashMap<u64, usize>>,
    requests: AtomicU64,
    bill_nanousd: AtomicU64,
}

impl ModelServer {
    /// Does what the orders say, attempt by attempt.
    pub async fn start(tariff: Tariff) -> Self {
        Self::with(tariff, Temper::Ordered).await
    }

    /// Does what the last act of each order says.
    pub async fn start_obliging(tariff: Tariff) -> Self {
        Self::with(tariff, Temper::Obliging).await
    }

    async fn with(tariff: Tariff, temper: Temper) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, requests, bill_nanousd) = Default::default();
        let books = Arc::new(Books { tariff, temper, seen, requests, bill_nanousd });
        let shared = Arc::clone(&books);
        let accepting = tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let _ = connection.set_nodelay(true);
                tokio::spawn(serve(connection, Arc::clone(&shared)));
            }
        });
        Self { address, books, accepting }
    }

    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// What it would invoice.
    pub fn bill_nanousd(&self) -> u64 {
        self.books.bill_nanousd.load(Ordering::Acquire)
    }

    /// Requests that reached it.
    pub fn requests(&self) -> u64 {
        self.books.requests.load(Ordering::Acquire)
    }
}

impl Drop for ModelServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Books {
    fn charge(&self, input_tokens: u64, output_tokens: u64) {
        let nano = input_tokens * self.tariff.input + output_tokens * self.tariff.output;
        self.bill_nanousd.fetch_add(nano, Ordering::AcqRel);
    }
}

async fn serve(mut connection: TcpStream, books: Arc<Books>) {
    let mut buffer = Vec::new();
    while let Some(body) = read_request(&mut connection, &mut buffer).await {
        let request: Value = serde_json::from_slice(&body).unwrap();
        books.requests.fetch_add(1, Ordering::AcqRel);
        let messages = request["messages"].as_array().unwrap();
        let text_of = |message: &Value| message["content"].as_str().unwrap_or_default().to_owned();
        let likely_input: usize = messages.iter().map(|message| text_of(message).len()).sum();
        let asked = Asked {
            order: serde_json::from_str(&text_of(messages.last().unwrap())).unwrap(),
            likely_input: (likely_input as u64).div_ceil(4),
            most_input: likely_input as u64 + 16 * messages.len() as u64 + 64,
            max_tokens: request["max_tokens"].as_u64().unwrap(),
            streamed: request["stream"].as_bool().unwrap_or(false),
        };
        if !act(&mut connection, &books, &asked).await {
            return;
        }
    }
}

struct Asked {
    order: Order,
    likely_input: u64,
    most_input: u64,
    max_tokens: u64,
    streamed: bool,
}

/// True if the connection can take another request.
async fn act(connection: &mut TcpStream, books: &Books, asked: &Asked) -> bool {
    let Asked { order, likely_input, most_input, max_tokens, streamed } = asked;
    let attempt = {
        let mut seen = books.seen.lock();
        let count = seen.entry(order.id).or_default();
        *count += 1;
        if books.temper == Temper::Obliging { order.acts.len() - 1 } else { *count - 1 }
    };
    let usage = json!({"prompt_tokens": order.input_tokens, "completion_tokens": order.output_tokens});
    let likely_pieces = ((PIECES * PIECE.len()) as u64).div_ceil(4);
    match order.acts[attempt.min(order.acts.len() - 1)] {
        Act::Answer | Act::Stream if !streamed => {
            books.charge(order.input_tokens, order.output_tokens);
            respond(connection, "200 OK", &completion("an answer", Some(usage))).await
        }
        Act::AnswerWithoutUsage => {
            books.charge(*likely_input, 3);
            respond(connection, "200 OK", &completion("an answer!!", None)).await
        }
        Act::AnswerWithNegativeUsage => {
            books.charge(*likely_input, 3);
            let usage = json!({"prompt_tokens": -5, "completion_tokens": 7});
            respond(connection, "200 OK", &completion("an answer!!", Some(usage))).await
        }
        Act::MalformedBody => {
            books.charge(*most_input, *max_tokens);
            respond(connection, "200 OK", "{\"choices\": [").await
        }
        Act::Unavailable => respond(connection, "503 Service Unavailable", "{\"error\":{\"message\":\"busy\"}}").await,
        Act::TooManyRequests => {
            let body = "{\"error\":{\"message\":\"slow down\"}}";
            let head = format!(
                "HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/json\r\nretry-after: 0\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            connection.write_all((head + body).as_bytes()).await.is_ok()
        }
        Act::Stall => {
            books.charge(*most_input, *max_tokens);
            until_closed(connection).await
        }
        act @ (Act::Answer | Act::Stream | Act::StreamLong) => {
            books.charge(order.input_tokens, order.output_tokens);
            let end = format!(
                "data: {{\"choices\":[{{\"delta\":{{}},\"finish_reason\":\"stop\"}}]}}\n\ndata: {}\n\ndata: [DONE]\n\n",
                json!({"choices": [], "usage": usage})
            );
            let pieces = if act == Act::StreamLong { LONG_PIECES } else { PIECES };
            stream(connection, pieces, &end).await
        }
        Act::StreamStalls => {
            books.charge(*likely_input, likely_pieces);
            stream(connection, PIECES, "").await;
            until_closed(connection).await
        }
        Act::StreamMalformed => {
            books.charge(*likely_input, likely_pieces);
            stream(connection, PIECES, "data: {oops\n\n").await
        }
        Act::StreamTruncated => {
            books.charge(*likely_input, likely_pieces);
            stream(connection, PIECES, "").await
        }
    }
}

fn completion(text: &str, usage: Option<Value>) -> String {
    let mut body = json!({
        "model": "mock-1",
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
    });
    if let Some(usage) = usage {
        body["usage"] = usage;
    }
    body.to_string()
}

async fn respond(connection: &mut TcpStream, status: &str, body: &str) -> bool {
    let head = format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    connection.write_all((head + body).as_bytes()).await.is_ok()
}

/// Always the last on its connection: the end of the stream is the end of the connection.
async fn stream(connection: &mut TcpStream, pieces: usize, end: &str) -> bool {
    let mut bytes = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n".to_owned();
    for _ in 0..pieces {
        let piece = json!({"model": "mock-1", "choices": [{"delta": {"content": PIECE}}]});
        bytes.push_str(&format!("data: {piece}\n\n"));
    }
    bytes.push_str(end);
    let _ = connection.write_all(bytes.as_bytes()).await;
    false
}

async fn until_closed(connection: &mut TcpStream) -> bool {
    let closed = async { while matches!(connection.read(&mut [0; 64]).await, Ok(1..)) {} };
    // A client that never closes is a bug of the test; it must not hang.
    let _ = tokio::time::timeout(Duration::from_secs(30), closed).await;
    false
}

async fn read_request(connection: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    loop {
        if let Some(head) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            let end = head + 4 + length.unwrap_or(0);
            if buffer.len() >= end {
                let body = buffer[head + 4..end].to_vec();
                buffer.drain(..end);
                return Some(body);
            }
        }
        if connection.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}
