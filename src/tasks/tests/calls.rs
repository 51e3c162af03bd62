//! Calls to language models belong to the steps that made them.

use std::sync::Arc;

use serde_json::json as value;

use crate::domain::{Amount, CacheUse, CallId, LlmCall, Nanousd, SpanId, Task, TaskStatus, Usage, UsageSource, Wish};
use crate::store::{CallJournal, LedgerEntry, OpenCall, TaskStore};
use crate::tasks::{TaskError, Work};

use super::world::{Diary, Gate, Handler, World, json, kind};

/// Two items; each makes a call, and the second then waits at the gate.
fn calling(diary: &Diary, gate: &Arc<Gate>) -> Handler {
    let (diary, gate) = (diary.clone(), Arc::clone(gate));
    kind("calling", move |work| {
        let (diary, gate) = (diary.clone(), Arc::clone(&gate));
        Box::pin(async move {
            let asked = work.fan_out("ask", &[1, 2], |input: u32, item| {
                let (diary, gate) = (diary.clone(), Arc::clone(&gate));
                async move {
                    let id = call(work, item.journal().as_ref(), input).await?;
                    diary.write(format!("{input} {id}"));
                    if input == 2 {
                        gate.pass().await;
                    }
                    Ok(input)
                }
            });
            json(asked.await?.len())
        })
    })
}

/// Does what the gateway does for a call of `cost` nano-dollars.
async fn call(work: &Work, journal: &dyn CallJournal, cost: u32) -> Result<CallId, TaskError> {
    let call_id = journal.next_call_id();
    let open = OpenCall {
        call_id,
        task: "ask".to_owned(),
        provider: "local".to_owned(),
        model: "small".to_owned(),
        prompt: None,
        input_tokens: 5,
        output_tokens: 5,
        worst_case: Amount { cost: Nanousd(1_000), tokens: 10, calls: 1 },
        reservation: None,
    };
    let attempts = journal.open(open).await.unwrap();
    journal.note(spent(work.task(), call_id, attempts + 1, cost));
    Ok(call_id)
}

/// What the gateway notes at the end of a call.
fn spent(task: &Task, call_id: CallId, attempt: u32, cost: u32) -> Vec<LedgerEntry> {
    let call = LlmCall {
        call_id,
        attempt,
        trace_id: task.trace_id,
        span_id: SpanId([1; 8]),
        tenant: task.scope.tenant.clone(),
        task: "ask".to_owned(),
        session_id: None,
        key_id: None,
        provider: "local".to_owned(),
        model: "small".to_owned(),
        answered_model: None,
        prompt: None,
        started_at: task.created_at,
        latency_us: 1,
        first_token_us: None,
        outcome: "ok".to_owned(),
        status: Some(200),
        finish: Some("stop".to_owned()),
        is_streamed: false,
        cache: CacheUse::Miss,
        usage: Usage { input_tokens: 3, output_tokens: 2, ..Usage::default() },
        usage_source: UsageSource::Reported,
        cost: Nanousd(u64::from(cost)),
        request_body: None,
        response_body: None,
    };
    vec![LedgerEntry::Call(Box::new(call)), LedgerEntry::Settle { call_id, charges: Vec::new() }]
}

#[tokio::test]
async fn a_call_that_a_crash_interrupted_is_made_again_under_the_same_id() {
    let (diary, gate) = (Diary::default(), Gate::new());
    let world = World::new(vec![calling(&diary, &gate)]).await;
    let runner = world.runner();
    let task = world.submit("calling", value!({})).await;
    gate.reached(1).await;
    super::world::becomes(|| world.task(task.id), |task| task.done == 1).await;
    world.crash(runner).await;

    gate.open();
    let next = world.runner();
    let task = world.until(task.id, TaskStatus::Succeeded).await;

    let lines = diary.read();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert_eq!(lines[1], lines[2]);
    // The first, the one that the crash took along at its worst case, and the one that replaced it.
    let cost = world.store.cost(&task).await.unwrap();
    assert_eq!((cost.calls, cost.cost), (3, Nanousd(1 + 1_000 + 2)));
    next.shutdown().await;
}

#[tokio::test]
async fn what_a_cancelled_item_has_spent_is_written_down() {
    let (diary, gate) = (Diary::default(), Gate::new());
    let world = World::new(vec![calling(&diary, &gate)]).await;
    let runner = world.runner();
    let task = world.submit("calling", value!({})).await;
    gate.reached(1).await;

    world.desk.wish(&world.scope, task.id, Wish::Cancel).await.unwrap();
    let task = world.until(task.id, TaskStatus::Cancelled).await;

    let cost = world.store.cost(&task).await.unwrap();
    assert_eq!((cost.calls, cost.cost), (2, Nanousd(3)));
    runner.shutdown().await;
}
