//! A model server on loopback whose reply follows from the request's idempotency key alone, and that counts what each
//! key was asked: the same call made again is the same key, so nothing done twice goes unseen.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use axum::{Json, Router};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// What each reply says it used.
pub const INPUT_TOKENS: u64 = 100;
pub const OUTPUT_TOKENS: u64 = 10;

/// See the head of this file. Stops when dropped.
pub struct EchoServer {
    address: SocketAddr,
    books: Arc<Books>,
    serving: JoinHandle<()>,
}

struct Books {
    latency: Duration,
    /// The request, by its number from 1, that is never answered.
    stalled: Option<u64>,
    answered: AtomicU64,
    /// Requests begun, by key.
    asked: Mutex<HashMap<String, u64>>,
}

impl EchoServer {
    /// Each reply takes `latency`.
    pub async fn start(latency: Duration) -> Self {
        Self::with(latency, None).await
    }

    /// As [`Self::start`], but the `stalled`-th request waits until its client has gone.
    pub async fn start_stalling(stalled: u64) -> Self {
        Self::with(Duration::ZERO, Some(stalled)).await
    }

    async fn with(latency: Duration, stalled: Option<u64>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let books = Arc::new(Books { latency, stalled, answered: AtomicU64::new(0), asked: Mutex::default() });
        let router = Router::new().route("/v1/chat/completions", post(reply)).with_state(Arc::clone(&books));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, books, serving }
    }

    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// How often each call was made.
    pub fn asked(&self) -> HashMap<String, u64> {
        self.books.asked.lock().clone()
    }

    /// Replies that were sent.
    pub fn answered(&self) -> u64 {
        self.books.answered.load(Ordering::Acquire)
    }

    /// Requests in all.
    pub fn requests(&self) -> u64 {
        self.books.asked.lock().values().sum()
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn reply(State(books): State<Arc<Books>>, headers: HeaderMap, Json(request): Json<Value>) -> Json<Value> {
    let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok()).unwrap_or("none").to_owned();
    let number = {
        let mut asked = books.asked.lock();
        *asked.entry(key.clone()).or_default() += 1;
        asked.values().sum::<u64>()
    };
    if books.stalled == Some(number) {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(books.latency).await;
    let content = match request["response_format"].is_object() {
        true => json!({"echo": key}).to_string(),
        false => format!("echo of {key} [1]"),
    };
    books.answered.fetch_add(1, Ordering::AcqRel);
    Json(json!({
        "id": key,
        "model": request["model"],
        "choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": INPUT_TOKENS, "completion_tokens": OUTPUT_TOKENS},
    }))
}
