//! Log lines: one event, one line, with the trace id of the request or task that it belongs to.
//!
//! A value can neither forge a second line nor one of the line's own entries.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io::IsTerminal;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt as tracing_fmt};

use crate::domain::TraceId;

use super::error::TelemetryError;
use super::recorder::recorder;
use super::trace_ids::new_trace_id;
use super::trace_settings::TraceSettings;

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

/// Sends log lines to standard error and panics to the log, and records traces. Once per process.
pub fn start_logging(settings: &TelemetrySettings, traces: &TraceSettings) -> Result<(), TelemetryError> {
    let filter = EnvFilter::from_str(&settings.log_filter)
        .map_err(|source| TelemetryError::Filter { filter: settings.log_filter.clone(), source })?;
    let json = match settings.log_format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Json => true,
        LogFormat::Text => false,
    };
    let lines = tracing_fmt::layer().with_writer(std::io::stderr).event_format(Lines { json, process: new_trace_id() });
    // The spans that carry a trace id are seen whatever is shown, so that a quiet log has it too.
    let shown = filter.or(filter_fn(|metadata| metadata.is_span() && metadata.fields().field("trace_id").is_some()));
    let logging = TraceOfSpan.and_then(lines).with_filter(shown);
    let registry = tracing_subscriber::registry().with(logging).with(recorder(traces));
    registry.try_init().map_err(|_| TelemetryError::Twice)?;
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(place, message, "panic");
    }));
    Ok(())
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

    /// With its sources: the reason is seldom in the first sentence.
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut chain = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            let said = cause.to_string();
            // Some errors show their source as their own.
            if !chain.ends_with(&said) {
                chain.push_str(": ");
                chain.push_str(&said);
            }
            source = cause.source();
        }
        self.0.insert(field.name(), chain.into());
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
    fn an_error_is_told_with_its_sources() {
        let source = std::io::Error::new(std::io::ErrorKind::NotFound, "no such file");
        let error = crate::store::StoreError::Io { path: "plumb.db".to_owned(), source };

        let text = logged(true, || tracing::error!(error = &error as &dyn std::error::Error, "stopped"));

        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["error"], "cannot use plumb.db: no such file");
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
}
