//! What the recorder promises.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::mpsc::Receiver;
use tracing::field::Empty;
use tracing::subscriber::DefaultGuard;
use tracing::{debug, debug_span, error, info_span, trace_span};

use super::*;
use crate::domain::{Mode, SpanId, SpanRecord, TraceId};

const TRACE: TraceId = TraceId([0x4b; 16]);

fn record(settings: &TraceSettings) -> (DefaultGuard, Receiver<FinishedTrace>) {
    let guard = tracing::subscriber::set_default(recording(settings));
    (guard, finished_traces().unwrap())
}

fn request() -> tracing::Span {
    info_span!(
        "request",
        trace_id = %TRACE,
        parent_span_id = Empty,
        method = "POST",
        route = "/search",
        status = Empty,
        tenant = "acme"
    )
}

fn named<'a>(finished: &'a FinishedTrace, name: &str) -> &'a SpanRecord {
    finished.trace.spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no {name} in {finished:?}"))
}

#[test]
fn a_trace_is_its_root_and_the_spans_below_it() {
    let (_guard, mut traces) = record(&TraceSettings::default());

    request().in_scope(|| {
        tracing::Span::current().record("status", 200);
        tracing::Span::current().record("parent_span_id", "00f067aa0ba902b7");
        debug_span!("search", top_k = 3).in_scope(|| {
            debug_span!("search.lexical", hits = 7, share = 0.5).in_scope(|| debug!("not recorded"));
        });
    });

    let finished = traces.try_recv().unwrap();
    let trace = &finished.trace;
    assert_eq!((trace.trace_id, trace.name.as_str(), trace.status), (TRACE, "POST /search", 200));
    assert_eq!((trace.tenant.as_ref().unwrap().as_str(), trace.kept.as_str()), ("acme", "sampled"));
    let (root, search, lexical) =
        (named(&finished, "request"), named(&finished, "search"), named(&finished, "search.lexical"));
    assert_eq!(root.parent, Some(SpanId([0x00, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7])));
    assert_eq!((search.parent, lexical.parent), (Some(root.span_id), Some(search.span_id)));
    assert_eq!(json!(lexical.attributes), json!({"hits": 7, "share": 0.5}));
    assert_eq!((trace.spans[0].name.as_str(), trace.spans.len()), ("request", 3));
    assert!(root.attributes.is_empty(), "{:?}", root.attributes);
    assert!(lexical.duration_us <= search.duration_us && search.duration_us <= trace.duration_us);
}

#[test]
fn what_has_no_root_or_is_not_ours_is_not_recorded() {
    let (_guard, mut traces) = record(&TraceSettings::default());

    debug_span!("search").in_scope(|| error!("of nobody"));
    request().in_scope(|| {
        trace_span!("too fine").in_scope(|| {
            debug_span!(target: "tantivy", "foreign").in_scope(|| debug_span!("own").in_scope(|| ()));
        });
    });

    let finished = traces.try_recv().unwrap();
    let names: Vec<&str> = finished.trace.spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["request", "own"]);
    assert_eq!(named(&finished, "own").parent, Some(named(&finished, "request").span_id));
    assert!(traces.try_recv().is_err());
}

#[test]
fn a_failure_marks_its_span_and_keeps_the_trace() {
    let (_guard, mut traces) = record(&TraceSettings { max_per_second: 0, ..TraceSettings::default() });

    request().in_scope(|| debug_span!("quiet").in_scope(|| ()));
    request().in_scope(|| debug_span!("loud").in_scope(|| error!("broken")));
    request().in_scope(|| drop(debug_span!("told", error = "failed")));

    let (loud, told) = (traces.try_recv().unwrap(), traces.try_recv().unwrap());
    assert!(traces.try_recv().is_err());
    assert_eq!((loud.trace.kept.as_str(), loud.trace.status), ("error", 500));
    assert!(named(&loud, "loud").is_error && !named(&loud, "request").is_error);
    assert!(named(&told, "told").is_error);
}

#[test]
fn a_trace_has_a_bound_and_says_what_it_left_out() {
    let (_guard, mut traces) = record(&TraceSettings { max_spans: 3, ..TraceSettings::default() });

    request().in_scope(|| {
        for _ in 0..4 {
            debug_span!("outer").in_scope(|| debug_span!("inner").in_scope(|| ()));
        }
        debug_span!("last").in_scope(|| error!("counts all the same"));
    });

    let finished = traces.try_recv().unwrap();
    assert_eq!(finished.trace.spans.len(), 3);
    assert_eq!(json!(named(&finished, "request").attributes), json!({"spans_left_out": 7}));
    assert_eq!(finished.trace.kept, "error");
}

#[test]
fn a_full_queue_loses_traces_and_nothing_else() {
    let (_guard, mut traces) = record(&TraceSettings { max_per_second: u32::MAX, ..TraceSettings::default() });

    for _ in 0..300 {
        request().in_scope(|| ());
    }

    let mut waiting = 0;
    while traces.try_recv().is_ok() {
        waiting += 1;
    }
    assert_eq!(waiting, 256);
    request().in_scope(|| ());
    assert!(traces.try_recv().is_ok());
}

#[test]
fn long_words_are_cut() {
    let (_guard, mut traces) = record(&TraceSettings::default());
    let long = "ä".repeat(1_000);

    request().in_scope(|| drop(debug_span!("span", plain = long, debug = ?long, shown = %long)));

    let finished = traces.try_recv().unwrap();
    let lengths: Vec<usize> =
        named(&finished, "span").attributes.values().map(|value| value.as_str().unwrap().len()).collect();
    assert!(lengths.iter().all(|length| (190..=200).contains(length)), "{lengths:?}");
}

#[test]
fn a_search_is_told_in_numbers_too() {
    let (_guard, mut traces) = record(&TraceSettings::default());
    let generation = crate::domain::GenerationId([1; 16]);

    request().in_scope(|| {
        debug_span!("search", collection = "default", mode = "hybrid", error = "failed").in_scope(|| ());
        let span = debug_span!(
            "search",
            collection = "default",
            mode = "hybrid",
            generation = %generation,
            top_k = 10,
            hits = 4,
            took_us = 2_500,
            lexical_us = 1_200,
            degraded = "rerank:deadline,vector:overloaded"
        );
        span.in_scope(|| ());
    });

    let finished = traces.try_recv().unwrap();
    let [search] = &finished.searches[..] else { panic!("{:?}", finished.searches) };
    assert_eq!((search.trace_id, search.tenant.as_str(), search.collection.as_str()), (TRACE, "acme", "default"));
    assert_eq!((search.mode, search.generation, search.top_k, search.hits), (Mode::Hybrid, Some(generation), 10, 4));
    assert_eq!((search.took_us, search.timings.lexical_ms), (2_500, 1.2));
    assert_eq!(search.degraded, ["rerank:deadline", "vector:overloaded"]);
}

#[test]
fn code_learns_which_span_it_runs_in() {
    let (_guard, mut traces) = record(&TraceSettings::default());

    assert_eq!(current_span(), None);
    let inside = request().in_scope(|| {
        // What is not recorded stands between: the span above it counts.
        debug_span!("gateway.call").in_scope(|| trace_span!("fine").in_scope(current_span))
    });

    let finished = traces.try_recv().unwrap();
    assert_eq!(inside, Some((TRACE, named(&finished, "gateway.call").span_id)));
    assert_eq!(finished.trace.kept, "model_call");
    assert!(finished_traces().is_none(), "there is one taker");
}

#[test]
fn recording_costs_little() {
    let (_guard, mut traces) = record(&TraceSettings { max_per_second: u32::MAX, ..TraceSettings::default() });
    const SPANS: u32 = 20;
    let mut best = Duration::MAX;

    for _ in 0..200 {
        let start = Instant::now();
        request().in_scope(|| {
            for hits in 1..SPANS {
                debug_span!("search.lexical", hits).in_scope(|| ());
            }
        });
        best = best.min(start.elapsed() / SPANS);
        assert!(traces.try_recv().is_ok());
    }

    // A twentieth of a millisecond for a whole search, also where nothing is optimized; optimized it is a tenth of that.
    assert!(best < Duration::from_micros(50), "{best:?} a span");
}
