//! Limits and patience of the HTTP surface.
//!
//! Everything here is shown by `GET /limits`, so a client can know each bound before it runs into it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Bounds on requests, waits and connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpSettings {
    /// Largest JSON body of a search or a question, in bytes. 1 MiB: a batch of 64 queries with 384-d vectors fits.
    pub max_query_body_bytes: usize,
    /// Largest JSON body that carries documents, in bytes. 32 MiB: a batch of a thousand ordinary documents fits;
    /// more is what the NDJSON stream is for.
    pub max_json_body_bytes: usize,
    /// Largest raw body, file of a form or line of NDJSON, in bytes. 32 MiB, as much as a document may have; a limit of
    /// its own, since this much of each upload is held in memory.
    pub max_document_body_bytes: usize,
    /// Most documents in one JSON batch. 1,000: their outcomes still fit one readable response.
    pub max_batch_documents: usize,
    /// Most queries in one search batch. 64: one batch cannot hold the compute pool for long.
    pub max_batch_queries: usize,
    /// Most files in one form. 1,000, as with JSON batches.
    pub max_form_files: usize,
    /// Documents of a listing when none is asked for. 50.
    pub default_page_size: usize,
    /// Most documents of one listing. 1,000.
    pub max_page_size: usize,
    /// Longest time until a request's head is complete, in milliseconds. 10 s: honest clients send it at once.
    pub header_read_timeout_ms: u64,
    /// Largest request head, in bytes. 32 KiB: twice what common proxies allow.
    pub max_header_bytes: usize,
    /// Longest pause inside a request body, in milliseconds. 15 s: mobile links stall for seconds, not longer.
    pub body_idle_timeout_ms: u64,
    /// Longest time for a request that is not a stream, in milliseconds. 30 s: beyond it clients have given up.
    pub request_timeout_ms: u64,
    /// Longest time for an answer, in milliseconds. 120 s: a slow local model needs a minute.
    pub answer_timeout_ms: u64,
    /// Longest wait of `wait=indexed`, in milliseconds. 20 s, below the request timeout; then the answer is 202.
    pub wait_indexed_timeout_ms: u64,
    /// Longest time that a client may leave a response unread, in milliseconds. 30 s: until then it is held in memory.
    pub write_idle_timeout_ms: u64,
    /// A connection without a request in flight is closed after this, in milliseconds. 75 s, as common proxies do.
    pub connection_idle_timeout_ms: u64,
    /// Most open connections; further ones wait in the kernel's backlog. 1,024: a common limit of open files.
    pub max_connections: usize,
    /// Most requests worked on at once, answers and uploads not counted. 64: more only adds waiting inside.
    pub max_concurrent_requests: usize,
    /// Most requests that wait for their turn; further ones get 503. 256: four times what is worked on.
    pub max_queued_requests: usize,
    /// Most answers worked on at once. 16: each mostly waits for a model, and providers limit their callers too.
    pub max_concurrent_answers: usize,
    /// Most answers that wait for their turn; further ones get 503. 64.
    pub max_queued_answers: usize,
    /// Most uploads worked on at once. 8: they share one embedder and one writer, and each may hold a document.
    pub max_concurrent_uploads: usize,
    /// Most uploads that wait for their turn; further ones get 503. 32.
    pub max_queued_uploads: usize,
    /// Most streams of task events, and requests that wait for their task, at once. 64: each looks at its task
    /// twice a second while anything changes, and all looks together must leave the database to searches.
    pub max_concurrent_watches: usize,
    /// Most of these that wait for their turn; further ones get 503. 64.
    pub max_queued_watches: usize,
    /// Longest `wait_ms` of a task, in milliseconds. 20 s, below the request timeout; then the task is shown as it is.
    pub wait_task_timeout_ms: u64,
    /// Longest `delay_s` of a task, in seconds. 30 days, as long as ended tasks are kept.
    pub max_task_delay_s: u64,
    /// Longest wait for a turn, in milliseconds. 2 s; then 503.
    pub queue_timeout_ms: u64,
    /// How long requests in flight may go on after the server was told to stop, in milliseconds. 20 s, below the
    /// 30 s after which service managers kill.
    pub shutdown_grace_ms: u64,
    /// Host names, beside the loopback ones, under which a server without keys may be addressed. None: a page on the
    /// web must not reach it through a name that it controls (DNS rebinding).
    pub allowed_hosts: Vec<String>,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            max_query_body_bytes: 1 << 20,
            max_json_body_bytes: 32 << 20,
            max_document_body_bytes: 32 << 20,
            max_batch_documents: 1_000,
            max_batch_queries: 64,
            max_form_files: 1_000,
            default_page_size: 50,
            max_page_size: 1_000,
            header_read_timeout_ms: 10_000,
            max_header_bytes: 32 << 10,
            body_idle_timeout_ms: 15_000,
            request_timeout_ms: 30_000,
            answer_timeout_ms: 120_000,
            wait_indexed_timeout_ms: 20_000,
            write_idle_timeout_ms: 30_000,
            connection_idle_timeout_ms: 75_000,
            max_connections: 1_024,
            max_concurrent_requests: 64,
            max_queued_requests: 256,
            max_concurrent_answers: 16,
            max_queued_answers: 64,
            max_concurrent_uploads: 8,
            max_queued_uploads: 32,
            max_concurrent_watches: 64,
            max_queued_watches: 64,
            wait_task_timeout_ms: 20_000,
            max_task_delay_s: 2_592_000,
            queue_timeout_ms: 2_000,
            shutdown_grace_ms: 20_000,
            allowed_hosts: Vec::new(),
        }
    }
}

impl HttpSettings {
    /// The numbers of `GET /limits`, by name, in declaration order.
    pub fn limits(&self) -> Vec<(&'static str, u64)> {
        let bytes = |value: usize| value as u64;
        vec![
            ("max_query_body_bytes", bytes(self.max_query_body_bytes)),
            ("max_json_body_bytes", bytes(self.max_json_body_bytes)),
            ("max_document_body_bytes", bytes(self.max_document_body_bytes)),
            ("max_batch_documents", bytes(self.max_batch_documents)),
            ("max_batch_queries", bytes(self.max_batch_queries)),
            ("max_form_files", bytes(self.max_form_files)),
            ("default_page_size", bytes(self.default_page_size)),
            ("max_page_size", bytes(self.max_page_size)),
            ("header_read_timeout_ms", self.header_read_timeout_ms),
            ("max_header_bytes", bytes(self.max_header_bytes)),
            ("body_idle_timeout_ms", self.body_idle_timeout_ms),
            ("request_timeout_ms", self.request_timeout_ms),
            ("answer_timeout_ms", self.answer_timeout_ms),
            ("wait_indexed_timeout_ms", self.wait_indexed_timeout_ms),
            ("write_idle_timeout_ms", self.write_idle_timeout_ms),
            ("connection_idle_timeout_ms", self.connection_idle_timeout_ms),
            ("max_connections", bytes(self.max_connections)),
            ("max_concurrent_requests", bytes(self.max_concurrent_requests)),
            ("max_queued_requests", bytes(self.max_queued_requests)),
            ("max_concurrent_answers", bytes(self.max_concurrent_answers)),
            ("max_queued_answers", bytes(self.max_queued_answers)),
            ("max_concurrent_uploads", bytes(self.max_concurrent_uploads)),
            ("max_queued_uploads", bytes(self.max_queued_uploads)),
            ("max_concurrent_watches", bytes(self.max_concurrent_watches)),
            ("max_queued_watches", bytes(self.max_queued_watches)),
            ("wait_task_timeout_ms", self.wait_task_timeout_ms),
            ("max_task_delay_s", self.max_task_delay_s),
            ("queue_timeout_ms", self.queue_timeout_ms),
            ("shutdown_grace_ms", self.shutdown_grace_ms),
        ]
    }

    /// Why these settings cannot be served with, as one sentence; `None` if they can.
    pub fn fault(&self) -> Option<String> {
        if let Some((name, _)) = self.limits().into_iter().find(|(name, value)| *value == 0 && !may_be_zero(name)) {
            return Some(format!("http.{name} must be at least 1"));
        }
        if self.default_page_size > self.max_page_size {
            return Some("http.default_page_size must not be above http.max_page_size".to_owned());
        }
        // hyper refuses smaller buffers with a panic.
        if self.max_header_bytes < MIN_HEADER_BYTES {
            return Some(format!("http.max_header_bytes must be at least {MIN_HEADER_BYTES}"));
        }
        None
    }

    pub(super) fn body_idle_timeout(&self) -> Duration {
        Duration::from_millis(self.body_idle_timeout_ms)
    }
}

const MIN_HEADER_BYTES: usize = 8 << 10;

// Without a queue the answer is 503 at once; without grace the stop is at once; without delay tasks begin when they can:
// all are reasonable wishes.
fn may_be_zero(name: &str) -> bool {
    let queues = ["max_queued_requests", "max_queued_uploads", "max_queued_watches"];
    queues.contains(&name) || matches!(name, "shutdown_grace_ms" | "max_task_delay_s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_hold_and_every_number_is_listed() {
        let settings = HttpSettings::default();

        assert_eq!(settings.fault(), None);
        let serde_json::Value::Object(fields) = serde_json::to_value(&settings).unwrap() else { panic!() };
        let numbers: Vec<_> = fields.iter().filter(|(_, value)| value.is_u64()).map(|(name, _)| name).collect();
        assert_eq!(numbers.len(), settings.limits().len());
    }

    #[test]
    fn a_limit_of_zero_is_refused_by_name() {
        let settings = HttpSettings { max_connections: 0, ..HttpSettings::default() };

        assert_eq!(settings.fault().unwrap(), "http.max_connections must be at least 1");
    }
}
