//! Queries by several clients, each one after the other.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::server::Server;

/// What a round of queries took.
pub struct Timed {
    /// Microseconds.
    latencies: Histogram<u64>,
    seconds: f64,
    cpu_ms: f64,
}

/// Asks `count` queries from `clients` clients; anything degraded is an error.
pub async fn ask(
    server: &Server,
    queries: &[String],
    body: &Value,
    (clients, count): (usize, usize),
) -> anyhow::Result<Timed> {
    for query in queries.iter().take(20) {
        one(server, query, body).await?;
    }
    let next = AtomicUsize::new(20);
    let cpu_before_ms = server.cpu_ms()?;
    let start = Instant::now();
    let client = async || -> anyhow::Result<Histogram<u64>> {
        let mut latencies = Histogram::new(3)?;
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= 20 + count {
                return Ok(latencies);
            }
            let asked = Instant::now();
            one(server, &queries[index % queries.len()], body).await?;
            latencies.record(asked.elapsed().as_micros() as u64)?;
        }
    };
    let all = futures::future::try_join_all((0..clients).map(|_| client())).await?;
    let mut latencies = Histogram::new(3)?;
    for histogram in all {
        latencies.add(histogram)?;
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(Timed { latencies, seconds, cpu_ms: (server.cpu_ms()? - cpu_before_ms) / count as f64 })
}

async fn one(server: &Server, query: &str, body: &Value) -> anyhow::Result<()> {
    let mut body = body.clone();
    body["query"] = json!(query);
    let response = server.post("/search", "application/json", body.to_string()).await?;
    anyhow::ensure!(response["degraded"] == json!([]), "degraded: {}", response["degraded"]);
    Ok(())
}

impl Timed {
    fn at_ms(&self, quantile: f64) -> f64 {
        self.latencies.value_at_quantile(quantile) as f64 / 1e3
    }

    pub fn as_json(&self) -> Value {
        json!({
            "p50_ms": self.at_ms(0.5), "p95_ms": self.at_ms(0.95), "p99_ms": self.at_ms(0.99),
            "queries_per_second": self.latencies.len() as f64 / self.seconds, "cpu_ms": self.cpu_ms,
        })
    }
}

impl fmt::Display for Timed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.latencies.len() as f64 / self.seconds;
        let [p50, p95, p99] = [0.5, 0.95, 0.99].map(|quantile| self.at_ms(quantile));
        write!(f, "{p50:>8.2} {p95:>8.2} {p99:>8.2} {rate:>9.0} {:>13.2}", self.cpu_ms)
    }
}
