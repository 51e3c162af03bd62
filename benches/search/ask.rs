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
    /// Of each query: the whole over the sum of its parts, which are embedding and the slower leg.
    over_parts: Vec<f64>,
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
    let client = async || -> anyhow::Result<(Histogram<u64>, Vec<f64>)> {
        let (mut latencies, mut over_parts) = (Histogram::new(3)?, Vec::new());
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= 20 + count {
                return Ok((latencies, over_parts));
            }
            let asked = Instant::now();
            let response = one(server, &queries[index % queries.len()], body).await?;
            let took_us = asked.elapsed().as_micros() as u64;
            latencies.record(took_us)?;
            over_parts.extend(over_its_parts(took_us as f64 / 1e3, &response["timings_ms"]));
        }
    };
    let all = futures::future::try_join_all((0..clients).map(|_| client())).await?;
    let (mut latencies, mut over_parts) = (Histogram::new(3)?, Vec::new());
    for (histogram, ratios) in all {
        latencies.add(histogram)?;
        over_parts.extend(ratios);
    }
    over_parts.sort_unstable_by(f64::total_cmp);
    let seconds = start.elapsed().as_secs_f64();
    Ok(Timed { latencies, seconds, cpu_ms: (server.cpu_ms()? - cpu_before_ms) / count as f64, over_parts })
}

/// Share of the true ten nearest that the index returns, over `count` queries: its own exact search is the measure.
pub async fn recall_at_10(server: &Server, queries: &[String], count: usize) -> anyhow::Result<f64> {
    let mut found = 0;
    let mut wanted = 0;
    for query in queries.iter().take(count) {
        let body = |exact: bool| json!({"mode": "vector", "rerank": {"enabled": false}, "top_k": 10, "exact": exact});
        let ids = |response: &Value| -> Vec<String> {
            let hits = response["hits"].as_array().map(Vec::as_slice).unwrap_or_default();
            hits.iter().filter_map(|hit| hit["chunk_id"].as_str().map(str::to_owned)).collect()
        };
        let near = ids(&one(server, query, &body(false)).await?);
        let nearest = ids(&one(server, query, &body(true)).await?);
        wanted += nearest.len();
        found += nearest.iter().filter(|id| near.contains(id)).count();
    }
    Ok(found as f64 / wanted.max(1) as f64)
}

fn over_its_parts(took_ms: f64, timings: &Value) -> Option<f64> {
    let [embed, lexical, vector] = ["embed", "lexical", "vector"].map(|stage| timings[stage].as_f64().unwrap_or(0.0));
    // The vector leg's time begins where the embedding ends, the lexical leg's with the query.
    let parts = embed + lexical.max(vector);
    (parts > 0.0).then_some(took_ms / parts)
}

async fn one(server: &Server, query: &str, body: &Value) -> anyhow::Result<Value> {
    let mut body = body.clone();
    body["query"] = json!(query);
    let response = server.post("/search", "application/json", body.to_string()).await?;
    let degraded = response["degraded"].as_array().map(Vec::as_slice).unwrap_or_default();
    // A few passages are in scripts that the models do not read.
    let unexpected = degraded.iter().any(|stage| !stage.as_str().is_some_and(|stage| stage.ends_with(":script")));
    anyhow::ensure!(!unexpected, "degraded: {}", response["degraded"]);
    Ok(response)
}

impl Timed {
    fn at_ms(&self, quantile: f64) -> f64 {
        self.latencies.value_at_quantile(quantile) as f64 / 1e3
    }

    fn median_over_parts(&self) -> f64 {
        self.over_parts.get(self.over_parts.len() / 2).copied().unwrap_or(0.0)
    }

    pub fn as_json(&self) -> Value {
        json!({
            "p50_ms": self.at_ms(0.5), "p95_ms": self.at_ms(0.95), "p99_ms": self.at_ms(0.99),
            "queries_per_second": self.latencies.len() as f64 / self.seconds, "cpu_ms": self.cpu_ms,
            "over_parts": self.median_over_parts(),
        })
    }
}

impl fmt::Display for Timed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.latencies.len() as f64 / self.seconds;
        let [p50, p95, p99] = [0.5, 0.95, 0.99].map(|quantile| self.at_ms(quantile));
        write!(
            f,
            "{p50:>8.2} {p95:>8.2} {p99:>8.2} {rate:>9.0} {:>13.2} {:>10.2}",
            self.cpu_ms,
            self.median_over_parts()
        )
    }
}
