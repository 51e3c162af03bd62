//! Settings of traces: what is kept, how much of it, and for how long.

use serde::{Deserialize, Serialize};

/// Which finished traces are kept. Errors, slow ones and those that called a model always are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TraceSettings {
    /// A request or task from this time on is slow, in milliseconds. 1,000: what a person notices as waiting.
    pub slow_ms: u64,
    /// Most other traces that are kept in one second. 20: somebody alone at the server always finds their trace, and a
    /// server under load writes some 60 kB of traces a second, whatever is asked of it.
    pub max_per_second: u32,
    /// Most spans of one trace; those beyond are counted in the attribute `spans_left_out`. 500: a search has about 10,
    /// a batch of documents about 8.
    pub max_spans: usize,
    /// Days after which traces are removed. 30: a month's bill can be asked about. 0: never.
    pub keep_days: u32,
    /// Where kept traces are also sent, as OTLP over HTTP in JSON (`http://127.0.0.1:4318`; `/v1/traces` is added).
    /// Default none: nothing leaves the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp_endpoint: Option<String>,
}

impl Default for TraceSettings {
    fn default() -> Self {
        Self { slow_ms: 1_000, max_per_second: 20, max_spans: 500, keep_days: 30, otlp_endpoint: None }
    }
}

impl TraceSettings {
    /// What cannot be meant like this, one sentence each.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.max_spans == 0 {
            problems.push("max_spans must be above 0: a trace has at least its request".to_owned());
        }
        let is_address = |endpoint: &String| {
            url::Url::parse(endpoint).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        };
        if let Some(endpoint) = self.otlp_endpoint.as_ref().filter(|endpoint| !is_address(endpoint)) {
            problems.push(format!("otlp_endpoint {endpoint:?} is not an address such as \"http://127.0.0.1:4318\""));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_an_address_and_a_trace_has_room() {
        let with = |endpoint: &str| TraceSettings { otlp_endpoint: Some(endpoint.to_owned()), ..Default::default() };

        assert!(TraceSettings::default().problems().is_empty());
        assert!(with("http://127.0.0.1:4318").problems().is_empty());
        for wrong in ["", "127.0.0.1:4318", "file:///tmp/traces", "grpc://collector:4317"] {
            assert_eq!(with(wrong).problems().len(), 1, "{wrong}");
        }
        assert_eq!(TraceSettings { max_spans: 0, ..Default::default() }.problems().len(), 1);
    }
}
