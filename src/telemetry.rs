//! Log lines, metrics and trace ids of the process.
//!
//! Every log line carries a trace id: that of the request or task it belongs to, or else that of the process itself.
//! The fields of a line are what the code names; bodies, keys and texts of documents are never among them.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io::IsTerminal;
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt as tracing_fmt};

use crate::domain::TraceId;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Text where standard error is a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// One JSON object a line.
    Json,
    /// For eyes.
    Text,
}

/// Settings of logging.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetrySettings {
    /// `auto`: people read terminals, programs read the rest.
    pub log_format: LogFormat,
    /// Level, or levels by module (`info,plumb::search=debug`). `info`; tantivy logs every commit there, so it
    /// starts at `warn`.
    pub log_filter: String,
}

impl Default for TelemetrySettings {
    fn default() -> Self {
        Self { log_format: LogFormat::Auto, log_filter: "info,tantivy=error,sqlx=warn,ort=warn".to_owned() }
    }
}

/// Why telemetry cannot start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("log_filter {filter:?} is not a filter such as \"info,plumb::search=debug\"")]
    Filter {
        filter: String,
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    #[error("logging was started twice")]
    Twice,
    #[error("the metrics registry cannot be built: {detail}")]
    Metrics { detail: String },
}

/// Sends log lines to standard error, and panics to the log. Once per process.
pub fn start_logging(settings: &TelemetrySettings) -> Result<(), TelemetryError> {
    let filter = EnvFilter::from_str(&settings.log_filter)
        .map_err(|source| TelemetryError::Filter { filter: settings.log_filter.clone(), source })?;
    let json = match settings.log_format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Json => true,
        LogFormat::Text => false,
    };
    let lines = tracing_fmt::layer().with_writer(std::io::stderr).event_format(Lines { json, process: new_trace_id() });
    let registry = tracing_subscriber::registry().with(filter).with(TraceOfSpan).with(lines);
    registry.try_init().map_err(|_| TelemetryError::Twice)?;
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(place, message, "panic");
    }));
    Ok(())
}

/// A new random trace id (W3C Trace Context §3.2.2.3: not all zero).
pub fn new_trace_id() -> TraceId {
    loop {
        let bytes = random_bytes::<16>();
        if bytes != [0; 16] {
            return TraceId(bytes);
        }
    }
}

/// The trace id of a W3C `traceparent` header; `None` if the header is not valid and a new trace must start.
///
/// Later versions than 00 may append fields after a dash (Trace Context §4.3).
pub fn parse_traceparent(header: &str) -> Option<TraceId> {
    let fixed = header.get(..55)?;
    let mut parts = fixed.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex =
        |part: &str, length| part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let rest_fits = match &header[55..] {
        "" => true,
        rest => version != "00" && rest.starts_with('-'),
    };
    let fits = is_hex(version, 2) && is_hex(trace, 32) && is_hex(parent, 16) && is_hex(flags, 2) && version != "ff";
    let zero = |part: &str| part.bytes().all(|byte| byte == b'0');
    if !fits || !rest_fits || zero(trace) || zero(parent) {
        return None;
    }
    trace.parse().ok()
}

/// Bytes from the operating system's random generator.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

/// The process's counters, gauges and histograms.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// The registry of the process, made on first use; the `metrics` macros of every room lead to it.
    pub fn start() -> Result<Self, TelemetryError> {
        static REGISTRY: OnceLock<Result<Metrics, String>> = OnceLock::new();
        let made = REGISTRY.get_or_init(|| install().map(Metrics));
        made.clone().map_err(|detail| TelemetryError::Metrics { detail })
    }

    /// Everything in the text format of Prometheus, with the process's own gauges read now.
    pub fn render(&self) -> String {
        if let Some(bytes) = resident_bytes() {
            metrics::gauge!("process_resident_memory_bytes").set(bytes as f64);
        }
        metrics::gauge!("process_cpu_seconds_total").set(cpu_time().as_secs_f64());
        self.0.render()
    }

    /// Folds recorded samples into the histograms; call it every few seconds, or they take memory until the next
    /// [`Metrics::render`].
    pub fn fold(&self) {
        self.0.run_upkeep();
    }
}

fn install() -> Result<PrometheusHandle, String> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(|error| error.to_string())?;
    metrics::gauge!("plumb_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    for (name, help) in GAUGES {
        metrics::describe_gauge!(name, help);
    }
    for (name, help) in COUNTERS {
        metrics::describe_counter!(name, help);
    }
    for (name, help) in HISTOGRAMS {
        metrics::describe_histogram!(name, metrics::Unit::Seconds, help);
    }
    Ok(handle)
}

const GAUGES: [(&str, &str); 5] = [
    ("plumb_build_info", "Always 1; the version is a label"),
    ("plumb_http_requests_in_flight", "Requests being worked on"),
    ("plumb_index_visible_sequence", "Operation up to which every search sees the truth"),
    ("process_cpu_seconds_total", "CPU time used by the process, user and system"),
    ("process_resident_memory_bytes", "Memory held by the process"),
];
const COUNTERS: [(&str, &str); 7] = [
    ("plumb_http_requests_total", "Requests by route, method and status"),
    ("plumb_index_failures_total", "Times that an index could not follow the truth"),
    ("plumb_index_operations_total", "Operations handed to the indexes"),
    ("plumb_ingest_documents_total", "Documents by what became of them"),
    ("plumb_ingest_embeddings_made_total", "Vectors that were computed"),
    ("plumb_ingest_embeddings_reused_total", "Vectors that an equal text had already"),
    ("plumb_search_degraded_total", "Searches that left a stage out, by stage and reason"),
];
const HISTOGRAMS: [(&str, &str); 4] = [
    ("plumb_http_request_duration_seconds", "From the head of a request to its response"),
    ("plumb_index_commit_seconds", "Making what was indexed searchable"),
    ("plumb_search_seconds", "A whole search, by mode"),
    ("plumb_search_stage_seconds", "One stage of a search"),
];

// From a lexical search (under a millisecond) to an answer of a slow model.
const SECONDS: [f64; 16] =
    [0.0005, 0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.125, 0.25, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0];

/// Memory of the process in bytes; `None` where the system does not tell.
pub fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// CPU time of the process so far, user and system, over all threads.
pub fn cpu_time() -> Duration {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `usage` is a valid place for one `rusage`, and a zeroed one is a valid value should the call fail.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    let of = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec.unsigned_abs()) + Duration::from_micros(time.tv_usec.unsigned_abs())
    };
    of(usage.ru_utime) + of(usage.ru_stime)
}

/// Remembers the `trace_id` field of a span, so that every line below the span can show it.
struct TraceOfSpan;

struct SpanTrace(String);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for TraceOfSpan {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let (Some(span), Some(Value::String(trace))) = (context.span(id), fields.0.remove("trace_id")) {
            span.extensions_mut().insert(SpanTrace(trace));
        }
    }
}

/// Writes one event as one line.
struct Lines {
    json: bool,
    process: TraceId,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let trace = context.event_scope().and_then(|mut spans| {
            spans.find_map(|span| span.extensions().get::<SpanTrace>().map(|trace| trace.0.clone()))
        });
        let line = Line {
            time: jiff::Timestamp::now(),
            level: *event.metadata().level(),
            target: event.metadata().target(),
            trace: trace.unwrap_or_else(|| self.process.to_string()),
            fields: fields.0,
        };
        if self.json { line.write_json(&mut writer) } else { line.write_text(&mut writer) }
    }
}

struct Line<'a> {
    time: jiff::Timestamp,
    level: Level,
    target: &'a str,
    trace: String,
    fields: BTreeMap<&'static str, Value>,
}

impl Line<'_> {
    fn write_json(mut self, writer: &mut Writer<'_>) -> fmt::Result {
        let message = self.fields.remove("message").unwrap_or(Value::Null);
        self.fields.remove("trace_id");
        let mut entries = serde_json::Map::new();
        entries.insert("time".to_owned(), Value::String(format!("{:.6}", self.time)));
        entries.insert("level".to_owned(), Value::String(self.level.as_str().to_ascii_lowercase()));
        entries.insert("target".to_owned(), Value::String(self.target.to_owned()));
        entries.insert("trace_id".to_owned(), Value::String(self.trace));
        entries.insert("message".to_owned(), message);
        // The line's own entries stand; a field that is called like one of them moves aside.
        for (name, value) in self.fields {
            let name = if entries.contains_key(name) { format!("field.{name}") } else { name.to_owned() };
            entries.insert(name, value);
        }
        writeln!(writer, "{}", Value::Object(entries))
    }

    fn write_text(mut self, writer: &mut Writer<'_>) -> fmt::Result {
        let message = self.fields.remove("message").unwrap_or(Value::Null);
        self.fields.remove("trace_id");
        let mut line = format!("{:.3} {:>5} {}", self.time, self.level.as_str(), plain(&message));
        for (name, value) in &self.fields {
            write!(line, "  {name}={}", plain(value))?;
        }
        // Enough of the trace to find the others by eye; the whole of it is in the response.
        writeln!(writer, "{line}  trace={}", &self.trace[..self.trace.len().min(8)])
    }
}

/// A value for eyes; control characters cannot forge a second line or move the cursor.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => {
            text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
        }
        other => other.to_string(),
    }
}

#[derive(Default)]
struct Fields(BTreeMap<&'static str, Value>);

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name(), value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}").into());
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[expect(clippy::fn_params_excessive_bools, reason = "a test shows both formats")]
    fn logged(json: bool, work: impl FnOnce()) -> String {
        let sink = Sink::default();
        let made = sink.clone();
        let process = TraceId([7; 16]);
        let lines = tracing_fmt::layer().with_writer(move || made.clone()).event_format(Lines { json, process });
        let subscriber = tracing_subscriber::registry().with(TraceOfSpan).with(lines);
        tracing::subscriber::with_default(subscriber, work);
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn every_line_carries_the_trace_of_its_request_or_of_the_process() {
        let text = logged(true, || {
            tracing::info!("outside");
            let request = tracing::info_span!("request", trace_id = %TraceId([1; 16]));
            request.in_scope(|| {
                tracing::info_span!("inner", step = 1).in_scope(|| tracing::warn!(count = 3, "inside"));
            });
        });

        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0]["trace_id"], TraceId([7; 16]).to_string());
        assert_eq!(lines[1]["trace_id"], TraceId([1; 16]).to_string());
        assert_eq!(lines[1]["message"], "inside");
        assert_eq!(lines[1]["count"], 3);
        assert_eq!(lines[1]["level"], "warn");
    }

    #[test]
    fn a_value_cannot_forge_a_second_line() {
        let evil = "x\n{\"level\":\"error\"}\u{1b}[2J";

        for json in [true, false] {
            let text = logged(json, || tracing::info!(evil, level = "fake", "said"));
            assert_eq!(text.lines().count(), 1, "{text:?}");
            assert!(!text.contains('\u{1b}'));
            if json {
                let line: Value = serde_json::from_str(&text).unwrap();
                assert_eq!((&line["level"], &line["field.level"]), (&"info".into(), &"fake".into()));
            }
        }
    }

    #[test]
    fn traceparent_is_continued_only_if_it_is_valid() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let continued = |header: &str| parse_traceparent(header).map(|trace| trace.to_string());

        let valid = format!("00-{trace}-00f067aa0ba902b7-01");
        assert_eq!(continued(&valid).as_deref(), Some(trace));
        assert_eq!(continued(&format!("01-{trace}-00f067aa0ba902b7-01-later")).as_deref(), Some(trace));
        for invalid in [
            String::new(),
            valid[..54].to_owned(),
            format!("{valid}-more"),
            format!("{valid}0"),
            format!("ff-{trace}-00f067aa0ba902b7-01"),
            format!("00-{}-00f067aa0ba902b7-01", trace.to_uppercase()),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{trace}-0000000000000000-01"),
            format!("00_{trace}_00f067aa0ba902b7_01"),
            format!("00-{trace}-00f067aa0ba902b7-ü1"),
        ] {
            assert_eq!(continued(&invalid), None, "{invalid}");
        }
    }

    #[test]
    fn the_process_tells_its_memory_and_time() {
        let text = Metrics::start().unwrap().render();

        assert!(text.contains("process_cpu_seconds_total"));
        assert!(text.contains("plumb_build_info{version="));
        assert!(cpu_time() > Duration::ZERO);
        #[cfg(target_os = "linux")]
        assert!(resident_bytes().unwrap() > 1 << 20);
    }
}
