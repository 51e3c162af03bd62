//! Cancelling, pausing, shutting down.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json as value;

use crate::domain::{TaskStatus, Wish};
use crate::tasks::TaskSettings;
use crate::tasks::held::Signal;

use super::world::{Diary, Gate, Handler, World, becomes_true, json, kind, quick};

/// Writes down when it is dropped.
struct Watched(Diary);

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.write("dropped");
    }
}

/// Three items, each of which waits at the gate.
fn gated(diary: &Diary, gate: &Arc<Gate>) -> Handler {
    let (diary, gate) = (diary.clone(), Arc::clone(gate));
    kind("gated", move |work| {
        let (diary, gate) = (diary.clone(), Arc::clone(&gate));
        Box::pin(async move {
            let items = work.fan_out("item", &[1, 2, 3], |input: u32, _| {
                let (diary, gate) = (diary.clone(), Arc::clone(&gate));
                async move {
                    diary.write(input);
                    let _watched = Watched(diary);
                    gate.pass().await;
                    Ok(input)
                }
            });
            json(items.await?.len())
        })
    })
}

fn one_by_one() -> TaskSettings {
    TaskSettings { max_items_at_once: 1, ..quick() }
}

#[tokio::test]
async fn a_cancelled_task_stops_in_the_middle_of_an_item_within_a_second() {
    let (diary, gate) = (Diary::default(), Gate::new());
    // With the pace of the defaults: that is the promise.
    let world =
        World::with(vec![gated(&diary, &gate)], TaskSettings { max_items_at_once: 1, ..TaskSettings::default() }).await;
    let runner = world.runner();
    let task = world.submit("gated", value!({})).await;
    gate.reached(1).await;

    let asked = Instant::now();
    world.desk.wish(&world.scope, task.id, Wish::Cancel).await.unwrap();
    world.until(task.id, TaskStatus::Cancelled).await;

    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    assert_eq!(diary.read(), ["1", "dropped"]);
    runner.shutdown().await;
}

/// Three items; the second opens the gate and ends once its task has been told this.
fn waiting_for(signal: Signal, diary: &Diary, gate: &Arc<Gate>) -> Handler {
    let (diary, gate) = (diary.clone(), Arc::clone(gate));
    kind("waiting", move |work| {
        let (diary, gate) = (diary.clone(), Arc::clone(&gate));
        Box::pin(async move {
            let items = work.fan_out("item", &[1, 2, 3], |input: u32, _| {
                let (diary, gate) = (diary.clone(), Arc::clone(&gate));
                async move {
                    diary.write(input);
                    if input == 2 && diary.count("2") == 1 {
                        gate.open();
                        gate.pass().await;
                        becomes_true(|| work.hold.told() == signal).await;
                    }
                    Ok(input)
                }
            });
            json(items.await?.len())
        })
    })
}

#[tokio::test]
async fn a_paused_task_finishes_what_is_under_way_and_goes_on_behind_it_when_it_is_resumed() {
    let (diary, gate) = (Diary::default(), Gate::new());
    let world = World::with(vec![waiting_for(Signal::Pause, &diary, &gate)], one_by_one()).await;
    let runner = world.runner();
    let task = world.submit("waiting", value!({})).await;
    gate.reached(1).await;

    world.desk.wish(&world.scope, task.id, Wish::Pause).await.unwrap();
    let paused = world.until(task.id, TaskStatus::Paused).await;

    assert_eq!(paused.done, 2);
    assert_eq!(diary.read(), ["1", "2"]);
    world.desk.wish(&world.scope, task.id, Wish::Resume).await.unwrap();
    world.until(task.id, TaskStatus::Succeeded).await;
    assert_eq!(diary.read(), ["1", "2", "3"]);
    runner.shutdown().await;
}

#[tokio::test]
async fn shutdown_puts_back_in_line_what_does_not_end_in_time() {
    let (diary, gate) = (Diary::default(), Gate::new());
    let settings = TaskSettings { shutdown_grace_ms: 20, ..one_by_one() };
    let world = World::with(vec![gated(&diary, &gate)], settings).await;
    let runner = world.runner();
    let task = world.submit("gated", value!({})).await;
    gate.reached(1).await;

    runner.shutdown().await;

    let task = world.task(task.id).await;
    assert_eq!((task.status, task.done, task.tries), (TaskStatus::Queued, 0, 0));
    assert_eq!(diary.read(), ["1", "dropped"]);
    assert_eq!(world.failures(&task).await, []);
    gate.open();
    let next = world.runner();
    world.until(task.id, TaskStatus::Succeeded).await;
    next.shutdown().await;
}

#[tokio::test]
async fn shutdown_records_the_items_that_end_in_time_and_begins_no_other() {
    let (diary, gate) = (Diary::default(), Gate::new());
    let world = World::with(vec![waiting_for(Signal::Drain, &diary, &gate)], one_by_one()).await;
    let runner = world.runner();
    let task = world.submit("waiting", value!({})).await;
    gate.reached(1).await;

    runner.shutdown().await;

    let task = world.task(task.id).await;
    assert_eq!((task.status, task.done), (TaskStatus::Queued, 2));
    assert_eq!(diary.read(), ["1", "2"]);
}
