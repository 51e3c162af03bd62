//! Passages in: over HTTP, and through the embedder alone for comparison.

use std::fmt;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Instant;

use flate2::read::GzDecoder;
use futures::StreamExt;
use plumb::config::Config;
use plumb::inference::{Embedder, InputKind, Models};
use serde_json::{Value, json};

use super::server::Server;

/// Lines in one request: long enough that requests do not count, short enough to see progress.
const LINES_PER_REQUEST: usize = 5_000;
/// Passages that the embedder alone is given.
const EMBEDDED_ALONE: usize = 2_000;
/// Texts in one call to the embedder, and calls at once: as ingest does it.
const CALL_TEXTS: usize = 32;
const CALLS_AT_ONCE: usize = 4;
/// Words of a question.
const QUERY_WORDS: usize = 9;

/// Passages of the collection, in its own order.
pub fn read(file: &Path, wanted: usize) -> anyhow::Result<Vec<Value>> {
    let lines = BufReader::new(GzDecoder::new(std::fs::File::open(file)?)).lines();
    lines.take(wanted).map(|line| Ok(serde_json::from_str(&line?)?)).collect()
}

/// Questions in the words of the passages themselves: nine words in a row, from places spread over the collection.
pub fn queries(passages: &[Value]) -> Vec<String> {
    let step = (passages.len() / 1_000).max(1);
    let words = |passage: &Value| {
        let text = passage["text"].as_str().unwrap_or_default();
        text.split_whitespace().skip(5).take(QUERY_WORDS).collect::<Vec<_>>().join(" ")
    };
    passages.iter().step_by(step).map(words).filter(|query| !query.is_empty()).collect()
}

/// What ingest achieved.
pub struct Ingested {
    documents: usize,
    accepted: u64,
    seconds: f64,
    alone_per_second: f64,
}

/// Sends all passages; those that are in already are skipped by the server.
pub async fn ingest(server: &Server, passages: &[Value]) -> anyhow::Result<Ingested> {
    let start = Instant::now();
    let mut accepted = 0;
    for lines in passages.chunks(LINES_PER_REQUEST) {
        let body: String = lines.iter().map(|passage| line(passage) + "\n").collect();
        let answer = server.post("/documents", "application/x-ndjson", body).await?;
        anyhow::ensure!(answer["failed"] == 0, "{answer}");
        accepted += answer["accepted"].as_u64().unwrap_or_default();
    }
    let seconds = start.elapsed().as_secs_f64();
    let alone_per_second = alone(passages).await?;
    Ok(Ingested { documents: passages.len(), accepted, seconds, alone_per_second })
}

fn line(passage: &Value) -> String {
    let metadata = &passage["metadata"];
    json!({"id": passage["_id"], "title": passage["title"], "text": passage["text"], "metadata": metadata}).to_string()
}

/// Passages a second through the embedder of this process, the same texts as the server embeds.
async fn alone(passages: &[Value]) -> anyhow::Result<f64> {
    let config = Config::for_tests()?;
    let models: Models = plumb::app::models(&config)?;
    let embedder = models.load_embedder(&models.load_runtime()?, &config.inference)?;
    let texts: Vec<String> = passages
        .iter()
        .take(EMBEDDED_ALONE)
        .map(|passage| {
            let [title, text] = ["title", "text"].map(|key| passage[key].as_str().unwrap_or_default());
            plumb::text::embedding_input(Some(title).filter(|title| !title.is_empty()), &[], text)
        })
        .collect();
    let start = Instant::now();
    let calls: Vec<Vec<String>> = texts.chunks(CALL_TEXTS).map(<[String]>::to_vec).collect();
    let mut running = futures::stream::iter(calls)
        .map(|call| embedder.embed(call, InputKind::Passage))
        .buffer_unordered(CALLS_AT_ONCE);
    while let Some(vectors) = running.next().await {
        vectors?;
    }
    Ok(texts.len() as f64 / start.elapsed().as_secs_f64())
}

/// Processor time of embedding one query in this process, milliseconds.
pub async fn query_embedding_cpu_ms(queries: &[String]) -> anyhow::Result<f64> {
    let config = Config::for_tests()?;
    let models: Models = plumb::app::models(&config)?;
    let embedder = models.load_embedder(&models.load_runtime()?, &config.inference)?;
    let count = queries.len().min(500);
    let before = plumb::telemetry::cpu_time();
    for query in &queries[..count] {
        embedder.embed(vec![query.clone()], InputKind::Query).await?;
    }
    Ok((plumb::telemetry::cpu_time() - before).as_secs_f64() * 1e3 / count as f64)
}

impl Ingested {
    fn per_second(&self) -> f64 {
        self.accepted as f64 / self.seconds
    }

    pub fn as_json(&self) -> Value {
        json!({"documents_per_second": self.per_second(), "embedder_alone_per_second": self.alone_per_second})
    }
}

impl fmt::Display for Ingested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.accepted == 0 {
            return write!(f, "{} passages were there already", self.documents);
        }
        let rate = self.per_second();
        let ratio = rate / self.alone_per_second;
        write!(f, "{} passages, {} new: {rate:.0}/s; ", self.documents, self.accepted)?;
        write!(f, "the embedder alone {:.0}/s; ratio {ratio:.2}", self.alone_per_second)
    }
}
