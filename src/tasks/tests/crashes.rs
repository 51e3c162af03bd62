//! What a crash, a lost lease or a clock may not change.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use serde_json::json as value;

use crate::domain::{ContentHash, JsonText, RunnerId, StepName, StepRecord, TaskStatus, Timestamp};
use crate::store::{ClaimWish, Lease, StoreError, TaskEnd, TaskQueue};
use crate::tasks::{Again, TaskOrder, TaskSettings};

use super::world::{Diary, Gate, Handler, World, becomes, json, kind, order, quick};

/// Two steps; the second waits at the gate.
fn two_steps(diary: &Diary, gate: &Arc<Gate>) -> Handler {
    let (diary, gate) = (diary.clone(), Arc::clone(gate));
    kind("two", move |work| {
        let (first, second, gate) = (diary.clone(), diary.clone(), Arc::clone(&gate));
        Box::pin(async move {
            let one: u32 = work.step("one", &1, async |input: u32, _| Ok(first.note("one", input + 1))).await?;
            let two = work.step("two", &one, async move |input: u32, _| {
                second.write("two");
                gate.pass().await;
                Ok(input * 10)
            });
            json(two.await?)
        })
    })
}

impl Diary {
    fn note<T>(&self, line: &str, value: T) -> T {
        self.write(line);
        value
    }
}

#[tokio::test]
async fn a_step_that_is_recorded_is_not_done_again_after_a_crash() {
    let (diary, gate) = (Diary::default(), Gate::new());
    let world = World::new(vec![two_steps(&diary, &gate)]).await;
    let runner = world.runner();
    let task = world.submit("two", value!({})).await;
    gate.reached(1).await;

    world.crash(runner).await;
    gate.open();
    let next = world.runner();
    let task = world.until(task.id, TaskStatus::Succeeded).await;

    assert_eq!(diary.read(), ["one", "two", "two"]);
    assert_eq!(task.output.unwrap().as_str(), "20");
    next.shutdown().await;
}

#[tokio::test]
async fn a_task_that_crashed_after_27_of_40_items_goes_on_with_the_28th() {
    let (diary, gate) = (Diary::default(), Gate::new());
    let (lines, door) = (diary.clone(), Arc::clone(&gate));
    let map = kind("map", move |work| {
        let (lines, door) = (lines.clone(), Arc::clone(&door));
        Box::pin(async move {
            let inputs: Vec<u32> = (1..=40).collect();
            let doubled = work.fan_out("double", &inputs, |input: u32, _| {
                let (lines, door) = (lines.clone(), Arc::clone(&door));
                async move {
                    lines.write(input);
                    if input == 28 {
                        door.pass().await;
                    }
                    Ok(input * 2)
                }
            });
            json(doubled.await?.into_iter().map(Result::unwrap).collect::<Vec<_>>())
        })
    });
    let world = World::with(vec![map], TaskSettings { max_items_at_once: 1, ..quick() }).await;
    let runner = world.runner();
    let task = world.submit("map", value!({})).await;
    gate.reached(1).await;
    world.crash(runner).await;
    assert_eq!(world.task(task.id).await.done, 27);

    gate.open();
    let next = world.runner();
    let task = world.until(task.id, TaskStatus::Succeeded).await;

    let expected: Vec<String> = (1..=28).chain(28..=40).map(|number| number.to_string()).collect();
    assert_eq!(diary.read(), expected);
    assert_eq!((task.done, task.total), (40, Some(40)));
    assert_eq!(task.output.unwrap().read::<Vec<u32>>().unwrap(), (1..=40).map(|n| n * 2).collect::<Vec<_>>());
    next.shutdown().await;
}

#[tokio::test]
async fn a_task_that_ends_its_process_again_and_again_is_given_up_without_being_run() {
    let (diary, gate) = (Diary::default(), Gate::new());
    let lines = diary.clone();
    let door = Arc::clone(&gate);
    let deadly = kind("deadly", move |_| {
        let (lines, door) = (lines.clone(), Arc::clone(&door));
        Box::pin(async move {
            lines.write("run");
            door.pass().await;
            json(0)
        })
    });
    let world = World::with(vec![deadly], TaskSettings { max_attempts: 2, ..quick() }).await;
    let task = world.submit("deadly", value!({})).await;
    for times in 1..=2 {
        let runner = world.runner();
        gate.reached(times).await;
        world.crash(runner).await;
    }

    let runner = world.runner();
    let task = world.until(task.id, TaskStatus::Failed).await;

    assert_eq!(diary.count("run"), 2);
    assert_eq!(task.problem.as_ref().unwrap().detail, "the task was interrupted 2 times without getting further");
    let failures = world.failures(&task).await;
    assert_eq!(failures.len(), 1);
    assert!(failures[0].is_final && failures[0].step.is_none());
    runner.shutdown().await;
}

#[tokio::test]
async fn a_runner_that_gives_no_sign_of_life_loses_its_tasks_and_cannot_write_any_more() {
    let (diary, gate) = (Diary::default(), Gate::new());
    gate.open();
    let world = World::with(vec![two_steps(&diary, &gate)], TaskSettings { lease_ms: 300, ..quick() }).await;
    let task = world.submit("two", value!({})).await;
    let (dead, now) = (RunnerId([1; 16]), Timestamp(0));
    let wish = ClaimWish { key: task.key, kind_limit: 9, tenant_limit: 9 };
    let claimed = world.store.claim(dead, vec![wish], now).await.unwrap().remove(0).unwrap();

    let runner = world.runner();
    let done = world.until(task.id, TaskStatus::Succeeded).await;

    let lease = Lease { key: claimed.key, runner: dead, epoch: claimed.epoch };
    let input = JsonText::of_value(&value!(1));
    let record = StepRecord {
        step: StepName::new("one").unwrap(),
        item: 0,
        of: 1,
        position: 0,
        input_hash: ContentHash::of(b""),
        input: input.clone(),
        output: input,
        attempt: 1,
        started_at: now,
        finished_at: now,
    };
    let written = world.store.checkpoint(lease, record, Vec::new()).await;
    assert!(matches!(written, Err(StoreError::LeaseLost { .. })), "{written:?}");
    let ended = world.store.end(lease, TaskEnd::Cancelled, None, Vec::new()).await;
    assert!(matches!(ended, Err(StoreError::LeaseLost { .. })), "{ended:?}");
    assert_eq!(world.task(task.id).await, done);
    runner.shutdown().await;
}

#[tokio::test]
async fn a_clock_that_jumps_by_400_days_changes_no_order_and_no_lease() {
    const JUMP_US: i64 = 400 * 86_400_000_000;
    let (diary, gate) = (Diary::default(), Gate::new());
    let (lines, door) = (diary.clone(), Arc::clone(&gate));
    let line = kind("line", move |work| {
        let (lines, door) = (lines.clone(), Arc::clone(&door));
        Box::pin(async move {
            lines.write(work.task().input.as_str());
            door.pass().await;
            json(0)
        })
    });
    let offset = Arc::new(AtomicI64::new(0));
    let seen = Arc::clone(&offset);
    let clock = move || Timestamp(jiff::Timestamp::now().as_microsecond() + seen.load(Ordering::SeqCst));
    let settings = TaskSettings { max_running: 1, max_running_per_tenant: 1, lease_ms: 300, ..quick() };
    let world = World::with_clock(vec![line], settings, Arc::new(clock)).await;
    let (holder, other) = (world.runner(), world.runner());
    let mut tasks = Vec::new();
    for (number, days) in [(0, 1), (1, -1), (2, 0), (3, 1)] {
        tasks.push(world.submit("line", value!(number)).await.id);
        offset.store(days * JUMP_US, Ordering::SeqCst);
    }
    gate.reached(1).await;

    // The other one looks all the while, for several leases.
    let beats = || async { world.store.holders().await.unwrap().first().map_or(0, |(_, beat)| *beat) };
    let before = beats().await;
    for (more, days) in [(4, -1), (8, 1), (12, 0)] {
        becomes(beats, |beat| *beat >= before + more).await;
        offset.store(days * JUMP_US, Ordering::SeqCst);
    }

    let held = world.task(tasks[0]).await;
    assert_eq!((held.status, held.epoch), (TaskStatus::Running, 1));
    gate.open();
    for id in &tasks {
        world.until(*id, TaskStatus::Succeeded).await;
    }
    assert_eq!(diary.read(), ["0", "1", "2", "3"]);
    holder.shutdown().await;
    other.shutdown().await;
}

#[tokio::test]
async fn what_was_asked_for_with_force_goes_on_after_a_crash_from_its_own_record() {
    let (diary, gate) = (Diary::default(), Gate::new());
    gate.open();
    let world = World::new(vec![two_steps(&diary, &gate)]).await;
    world.run_to("two", value!({}), TaskStatus::Succeeded).await;

    let again = TaskOrder { again: Again::Force, ..order("two", value!({})) };
    let task = world.desk.submit(&world.scope, again).await.unwrap().task;
    let runner = world.runner();
    let task = world.until(task.id, TaskStatus::Succeeded).await;

    assert_eq!(task.run, 2);
    assert_eq!(diary.read(), ["one", "two", "one", "two"]);
    runner.shutdown().await;
}
