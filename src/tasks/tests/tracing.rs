//! A task's spans stand under its own trace.

use std::time::Duration;

use serde_json::json as value;

use crate::domain::TaskStatus;
use crate::telemetry::{TraceSettings, finished_traces, recording};

use super::world::{World, json, kind};

#[tokio::test]
async fn the_spans_of_a_task_are_kept_under_its_trace_id_with_its_steps() {
    // While a process knows one subscriber only, what other threads reach first is switched off for all of them.
    let _other = tracing::Dispatch::new(recording(&TraceSettings::default()));
    let _guard = tracing::subscriber::set_default(recording(&TraceSettings::default()));
    let mut traces = finished_traces().unwrap();
    let one = kind("one", |work| {
        Box::pin(async move {
            let done = work.step("only", &0, async |input: u32, _| {
                tracing::info_span!("inside").in_scope(|| ());
                Ok(input)
            });
            json(done.await?)
        })
    });
    let world = World::new(vec![one]).await;

    let task = world.run_to("one", value!({}), TaskStatus::Succeeded).await;

    let trace = tokio::time::timeout(Duration::from_secs(30), traces.recv()).await.unwrap().unwrap().trace;
    assert_eq!((trace.trace_id, trace.tenant.as_ref()), (task.trace_id, Some(&task.scope.tenant)));
    assert_eq!(trace.name, "one");
    let names: Vec<&str> = trace.spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["task", "task.step", "inside"]);
    assert_eq!(value!(trace.spans[0].attributes), value!({"task.id": task.id.to_string(), "run": 1, "attempt": 1}));
    assert_eq!(value!(trace.spans[1].attributes), value!({"step": "only", "item": 0, "attempt": 1}));
}
