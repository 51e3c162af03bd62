//! Gathers the spans below each request and task, and hands on what is worth keeping.
//!
//! A root is a span with the field `trace_id`; spans without such an ancestor are not recorded. The recorder has a filter
//! of its own, so a quiet log changes nothing. A span lasts until it was last left: work that goes on without anybody
//! waiting for it does not make a request look slow. Nothing here may log: it would come back here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use metrics::counter;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tracing::span::{Attributes as NewSpan, Id, Record};
use tracing::{Dispatch, Event, Level, Metadata, Subscriber, dispatcher};
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry, SpanRef};

use crate::domain::{SpanId, Timestamp, TraceId};

use super::attributes::Attributes;
use super::finished::{Ended, FinishedTrace, Gathered};
use super::sampling::Sampler;
use super::trace_settings::TraceSettings;

/// Traces that may be open at once; later ones are not recorded. 4,096: more requests than the server takes in.
const MAX_OPEN: usize = 4_096;
/// Finished traces that may wait to be written down; later ones are dropped. 256: some ten seconds of what is sampled.
const ROOM: usize = 256;
/// The span of a call to a language model.
const MODEL_CALL: &str = "gateway.call";
/// The field that makes a span a root.
const TRACE: &str = "trace_id";

/// See the file's header.
pub(super) struct Recorder {
    finished: mpsc::Sender<FinishedTrace>,
    /// Until somebody takes it.
    receiver: Mutex<Option<mpsc::Receiver<FinishedTrace>>>,
    sampler: Mutex<Sampler>,
    max_spans: usize,
    open: Arc<AtomicUsize>,
}

/// A layer that records, to be put onto a [`Registry`].
pub(super) fn recorder<S: Subscriber + for<'a> LookupSpan<'a>>(settings: &TraceSettings) -> impl Layer<S> + use<S> {
    let (finished, receiver) = mpsc::channel(ROOM);
    let recorder = Recorder {
        finished,
        receiver: Mutex::new(Some(receiver)),
        sampler: Mutex::new(Sampler::new(settings)),
        max_spans: settings.max_spans,
        open: Arc::default(),
    };
    recorder.with_filter(filter_fn(is_recorded).with_max_level_hint(LevelFilter::DEBUG))
}

/// A subscriber that records and shows nothing: for tests and measurements.
pub fn recording(settings: &TraceSettings) -> impl Subscriber + use<> {
    tracing_subscriber::registry().with(recorder(settings))
}

/// Our own spans; of events only errors, which mark the span that they happened in.
fn is_recorded(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    let is_own = target == "plumb" || target.starts_with("plumb::");
    if metadata.is_span() { is_own && *metadata.level() <= Level::DEBUG } else { *metadata.level() == Level::ERROR }
}

/// What the recorder of this process keeps, in the order in which it ends; for one taker.
///
/// `None` where nothing is recorded, or where the traces have a taker already.
pub fn finished_traces() -> Option<mpsc::Receiver<FinishedTrace>> {
    dispatcher::get_default(|dispatch| dispatch.downcast_ref::<Recorder>()?.receiver.lock().take())
}

/// The trace that this code runs in, and the innermost recorded span of it.
pub fn current_span() -> Option<(TraceId, SpanId)> {
    dispatcher::get_default(|dispatch: &Dispatch| {
        let registry = dispatch.downcast_ref::<Registry>()?;
        let current = dispatch.current_span();
        registry.span(current.id()?)?.scope().find_map(|span| {
            let extensions = span.extensions();
            let own = extensions.get::<Open>()?;
            Some((own.trace.trace_id, own.span_id?))
        })
    })
}

/// A trace whose root has not ended. Kept by every span below it.
struct OpenTrace {
    trace_id: TraceId,
    /// Both at the same moment: spans are timed by the one, told by the other.
    started: Instant,
    started_at: Timestamp,
    begun: AtomicUsize,
    has_error: AtomicBool,
    has_model_call: AtomicBool,
    ended: Mutex<Vec<Ended>>,
    /// Open traces of the recorder, this one included.
    open: Arc<AtomicUsize>,
}

impl Drop for OpenTrace {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A span that has not ended.
struct Open {
    trace: Arc<OpenTrace>,
    /// `None`: the trace is full; only its failure would still count.
    span_id: Option<SpanId>,
    parent: Option<SpanId>,
    is_root: bool,
    began: Instant,
    left: Option<Instant>,
    is_error: bool,
    attributes: Attributes,
}

impl Recorder {
    /// `None`: too many traces are open.
    fn open_trace(&self, trace_id: TraceId, started: Instant) -> Option<Arc<OpenTrace>> {
        if self.open.fetch_add(1, Ordering::AcqRel) >= MAX_OPEN {
            self.open.fetch_sub(1, Ordering::AcqRel);
            trace_dropped("too_many_open", 1);
            return None;
        }
        Some(Arc::new(OpenTrace {
            trace_id,
            started,
            started_at: Timestamp(jiff::Timestamp::now().as_microsecond()),
            begun: AtomicUsize::new(1),
            has_error: AtomicBool::new(false),
            has_model_call: AtomicBool::new(false),
            ended: Mutex::default(),
            open: Arc::clone(&self.open),
        }))
    }

    fn root(&self, mut attributes: Attributes) -> Option<Open> {
        let began = Instant::now();
        let trace_id: TraceId = attributes.take(TRACE)?.as_str()?.parse().ok()?;
        let trace = self.open_trace(trace_id, began)?;
        let (span_id, is_error) = (Some(new_span_id()), attributes.has_error);
        Some(Open { trace, span_id, parent: None, is_root: true, began, left: None, is_error, attributes })
    }

    fn child(&self, (trace, parent): (Arc<OpenTrace>, Option<SpanId>), new: &NewSpan<'_>) -> Open {
        let is_kept = trace.begun.fetch_add(1, Ordering::AcqRel) < self.max_spans;
        if new.metadata().name() == MODEL_CALL {
            trace.has_model_call.store(true, Ordering::Release);
        }
        let mut attributes = Attributes::default();
        if is_kept {
            new.record(&mut attributes);
            attributes.take(TRACE);
        }
        let is_error = attributes.has_error;
        let span_id = is_kept.then(new_span_id);
        Open { trace, span_id, parent, is_root: false, began: Instant::now(), left: None, is_error, attributes }
    }

    fn hand_on(&self, gathered: Gathered) {
        let now = Timestamp(jiff::Timestamp::now().as_microsecond());
        let kept = self.sampler.lock().keep(gathered.outline(), now);
        let Some(kept) = kept else {
            return counter!(ENDED, "kept" => "no").increment(1);
        };
        counter!(ENDED, "kept" => kept.as_str()).increment(1);
        // Whoever writes traces down is never waited for: a request must not be slow because it is traced.
        match self.finished.try_send(gathered.finish(kept)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => trace_dropped("queue_full", 1),
            Err(TrySendError::Closed(_)) => trace_dropped("stopping", 1),
        }
    }
}

const ENDED: &str = "plumb_traces_total";

/// Counts traces that should have been kept or sent and were not.
pub fn trace_dropped(reason: &'static str, count: usize) {
    counter!("plumb_traces_dropped_total", "reason" => reason).increment(count as u64);
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Recorder {
    fn on_new_span(&self, new: &NewSpan<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let above = span.parent().and_then(|parent| belongs_to(&parent));
        let open = match above {
            Some(above) => Some(self.child(above, new)),
            None if new.metadata().fields().field(TRACE).is_some() => {
                let mut attributes = Attributes::default();
                new.record(&mut attributes);
                self.root(attributes)
            }
            None => None,
        };
        if let Some(open) = open {
            span.extensions_mut().insert(open);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(open) = span.extensions_mut().get_mut::<Open>() {
            let mut fresh = Attributes::default();
            let attributes = if open.span_id.is_some() { &mut open.attributes } else { &mut fresh };
            values.record(attributes);
            open.is_error |= attributes.has_error;
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        // The filter lets errors through only.
        let Some(span) = context.event_span(event) else { return };
        if let Some(open) = span.extensions_mut().get_mut::<Open>() {
            open.is_error = true;
        }
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(open) = span.extensions_mut().get_mut::<Open>() {
            open.left = Some(Instant::now());
        }
    }

    // A parent closes after its children: the registry holds it for them. So a root closes last of all.
    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let Some(open) = span.extensions_mut().remove::<Open>() else { return };
        let Open { trace, span_id, parent, is_root, began, left, is_error, attributes } = open;
        if is_error {
            trace.has_error.store(true, Ordering::Release);
        }
        let Some(span_id) = span_id else { return };
        let ended = Ended {
            name: span.metadata().name(),
            span_id,
            parent,
            started_at: Timestamp(trace.started_at.0.saturating_add_unsigned(micros(trace.started, began))),
            duration_us: micros(began, left.unwrap_or_else(Instant::now)),
            is_error,
            attributes,
        };
        if !is_root {
            return trace.ended.lock().push(ended);
        }
        self.hand_on(Gathered {
            trace_id: trace.trace_id,
            root: ended,
            spans: std::mem::take(&mut *trace.ended.lock()),
            left_out: trace.begun.load(Ordering::Acquire).saturating_sub(self.max_spans),
            has_error: trace.has_error.load(Ordering::Acquire),
            has_model_call: trace.has_model_call.load(Ordering::Acquire),
        });
    }
}

/// The trace of a span that is recorded, and the nearest span of it that has a place.
fn belongs_to<'a, S: LookupSpan<'a>>(span: &SpanRef<'a, S>) -> Option<(Arc<OpenTrace>, Option<SpanId>)> {
    let extensions = span.extensions();
    let open = extensions.get::<Open>()?;
    Some((Arc::clone(&open.trace), open.span_id.or(open.parent)))
}

fn new_span_id() -> SpanId {
    // All zero means "none" (W3C Trace Context §3.2.2.4).
    SpanId(rand::random_range(1..=u64::MAX).to_be_bytes())
}

fn micros(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.saturating_duration_since(from).as_micros()).unwrap_or(u64::MAX)
}
