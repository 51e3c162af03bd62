//! Searches that go on whatever else happens, with what is wrong about them.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::server::Server;

const CLIENTS: usize = 2;

/// Clients that search one query after the other until they are stopped.
pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

struct Shared {
    server: Arc<Server>,
    queries: Vec<String>,
    next: AtomicUsize,
    is_over: AtomicBool,
    now: Mutex<Phase>,
    all: Mutex<Report>,
}

/// Searches in one phase.
pub struct Phase {
    /// Microseconds.
    latencies: Histogram<u64>,
    failed: usize,
}

/// What was wrong in all phases together.
#[derive(Default)]
pub struct Report {
    searches: usize,
    failed: usize,
    /// Answers in which a document had hits from two generations.
    mixed: usize,
    first_failure: Option<String>,
}

impl Phase {
    fn new() -> Self {
        // 1 us to 1 min, three digits.
        Self { latencies: Histogram::new_with_bounds(1, 60_000_000, 3).expect("valid bounds"), failed: 0 }
    }

    fn ms(&self, quantile: f64) -> f64 {
        self.latencies.value_at_quantile(quantile) as f64 / 1e3
    }

    /// Its numbers beside those of `before`.
    pub fn row(&self, before: &Self) -> String {
        let [p50, p95, p99] = [0.5, 0.95, 0.99].map(|quantile| self.ms(quantile));
        let ratio = p95 / before.ms(0.95);
        format!("{:>8} {p50:>9.2} {p95:>9.2} {p99:>9.2} {ratio:>9.2} {:>7}", self.latencies.len(), self.failed)
    }
}

impl Load {
    pub fn start(server: Arc<Server>, queries: Vec<String>) -> Self {
        let shared = Arc::new(Shared {
            server,
            queries,
            next: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
            now: Mutex::new(Phase::new()),
            all: Mutex::default(),
        });
        let clients = (0..CLIENTS).map(|_| tokio::spawn(search(Arc::clone(&shared)))).collect();
        Self { shared, clients }
    }

    /// The searches while `work` is done.
    pub async fn phase(&self, work: impl Future<Output = ()>) -> Phase {
        *self.shared.now.lock() = Phase::new();
        work.await;
        std::mem::replace(&mut *self.shared.now.lock(), Phase::new())
    }

    pub async fn stop(self) -> anyhow::Result<Report> {
        self.shared.is_over.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await?;
        }
        Ok(std::mem::take(&mut *self.shared.all.lock()))
    }
}

async fn search(shared: Arc<Shared>) {
    while !shared.is_over.load(Ordering::Relaxed) {
        let query = &shared.queries[shared.next.fetch_add(1, Ordering::Relaxed) % shared.queries.len()];
        let body = json!({"query": query, "rerank": {"enabled": false}, "top_k": 10}).to_string();
        let asked = Instant::now();
        let answer = shared.server.post("/search", "application/json", body).await;
        let took_us = asked.elapsed().as_micros() as u64;
        let mut all = shared.all.lock();
        all.searches += 1;
        match answer {
            Ok(found) => {
                shared.now.lock().latencies.saturating_record(took_us);
                all.mixed += usize::from(is_mixed(&found));
            }
            Err(error) => {
                shared.now.lock().failed += 1;
                all.failed += 1;
                all.first_failure.get_or_insert_with(|| error.to_string());
            }
        }
    }
}

/// True if a document has hits from two generations.
fn is_mixed(found: &Value) -> bool {
    let mut generations: HashMap<&str, &str> = HashMap::new();
    found["hits"].as_array().into_iter().flatten().any(|hit| {
        let document = hit["document_id"].as_str().unwrap_or_default();
        let generation = hit["provenance"]["generation"].as_str().unwrap_or_default();
        *generations.entry(document).or_insert(generation) != generation
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { searches, failed, mixed, first_failure } = self;
        write!(f, "{searches} searches in all, {failed} failed, {mixed} with a document from two generations")?;
        first_failure.iter().try_for_each(|failure| write!(f, "; the first failure: {failure}"))
    }
}
