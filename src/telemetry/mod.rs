//! Log lines, metrics and traces of the process.
//!
//! Every log line carries a trace id: that of the request or task it belongs to, or else that of the process itself.
//! The fields of a line are what the code names; bodies, keys and texts of documents are never among them.

mod attributes;
mod error;
mod finished;
mod log;
mod metrics;
mod otlp;
mod process;
mod recorder;
#[cfg(test)]
mod recorder_tests;
mod sampling;
mod trace_ids;
mod trace_settings;

pub use error::TelemetryError;
pub use finished::FinishedTrace;
pub use log::{LogFormat, TelemetrySettings, start_logging};
pub use metrics::Metrics;
pub use otlp::TraceExporter;
pub use process::{cpu_time, resident_bytes};
pub use recorder::{current_span, finished_traces, recording, trace_dropped};
pub use trace_ids::{TraceParent, new_trace_id, parse_traceparent, random_bytes};
pub use trace_settings::TraceSettings;
