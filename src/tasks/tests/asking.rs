//! Asking for work: once, again, from a step on, with another input.

use std::sync::Arc;

use serde_json::json as value;

use crate::domain::{ErrorKind, Permission, StepName, TaskStatus, TenantScope, TraceId, Wish};
use crate::tasks::{DeskError, TaskError, TaskSettings};

use super::world::{Diary, Handler, World, json, kind, order, quick};

/// Adds one to its input, then multiplies by ten.
fn sums(diary: &Diary) -> Handler {
    let diary = diary.clone();
    kind("sums", move |work| {
        let (first, second) = (diary.clone(), diary.clone());
        Box::pin(async move {
            let input: u32 = work.input()?;
            let added = work.step("add", &input, async move |input: u32, _| {
                first.write("add");
                Ok(input + 1)
            });
            let added: u32 = added.await?;
            let multiplied = work.step("multiply", &added, async move |input: u32, _| {
                second.write("multiply");
                Ok(input * 10)
            });
            json(multiplied.await?)
        })
    })
}

#[tokio::test]
async fn the_same_work_asked_for_a_hundred_times_is_done_once() {
    let diary = Diary::default();
    let world = Arc::new(World::new(vec![sums(&diary)]).await);
    let runner = world.runner();

    let asked = (0..100).map(|_| {
        let world = Arc::clone(&world);
        tokio::spawn(async move { world.submit("sums", value!(1)).await.id })
    });
    let ids: Vec<_> = futures::future::join_all(asked).await.into_iter().map(Result::unwrap).collect();
    let task = world.until(ids[0], TaskStatus::Succeeded).await;

    assert!(ids.iter().all(|id| *id == task.id));
    assert_eq!(diary.read(), ["add", "multiply"]);
    assert_eq!(world.submit("sums", value!(1)).await.output.unwrap().as_str(), "20");
    runner.shutdown().await;
}

#[tokio::test]
async fn force_does_it_anew_in_another_run() {
    let diary = Diary::default();
    let world = World::new(vec![sums(&diary)]).await;
    let runner = world.runner();
    let first = world.submit("sums", value!(1)).await;
    world.until(first.id, TaskStatus::Succeeded).await;

    let second = world.force("sums", value!(1)).await;
    let second = world.until(second.id, TaskStatus::Succeeded).await;

    assert_eq!((second.id, second.run), (first.id, 2));
    assert_eq!(diary.read(), ["add", "multiply", "add", "multiply"]);
    runner.shutdown().await;
}

#[tokio::test]
async fn a_task_driven_again_from_a_step_keeps_the_steps_before_it() {
    let diary = Diary::default();
    let world = World::new(vec![sums(&diary)]).await;
    let runner = world.runner();
    let task = world.submit("sums", value!(1)).await;
    world.until(task.id, TaskStatus::Succeeded).await;

    let step = StepName::new("multiply").unwrap();
    let again = world.desk.redrive(&world.scope, task.id, Some(&step), TraceId([8; 16])).await.unwrap().unwrap();
    let again = world.until(again.id, TaskStatus::Succeeded).await;

    assert_eq!((again.run, again.output.unwrap().as_str()), (2, "20"));
    assert_eq!(diary.read(), ["add", "multiply", "multiply"]);
    runner.shutdown().await;
}

#[tokio::test]
async fn a_fork_takes_over_what_came_before_and_gives_the_step_its_new_input() {
    let diary = Diary::default();
    let world = World::new(vec![sums(&diary)]).await;
    let runner = world.runner();
    let task = world.submit("sums", value!(1)).await;
    let original = world.until(task.id, TaskStatus::Succeeded).await;

    let step = StepName::new("multiply").unwrap();
    let forked = world.desk.fork(&world.scope, task.id, (&step, value!(100)), TraceId([8; 16])).await.unwrap().unwrap();
    let forked = world.until(forked.task.id, TaskStatus::Succeeded).await;

    assert_ne!(forked.id, original.id);
    assert_eq!(forked.forked_from, Some(original.id));
    assert_eq!(forked.output.unwrap().as_str(), "1000");
    assert_eq!(diary.read(), ["add", "multiply", "multiply"]);
    assert_eq!(world.task(original.id).await, original);
    runner.shutdown().await;
}

#[tokio::test]
async fn a_fork_whose_input_does_not_fit_the_step_fails_and_says_so_without_quoting_it() {
    let world = World::new(vec![sums(&Diary::default())]).await;
    let runner = world.runner();
    let task = world.submit("sums", value!(1)).await;
    world.until(task.id, TaskStatus::Succeeded).await;

    let step = StepName::new("multiply").unwrap();
    let input = value!("a secret");
    let forked = world.desk.fork(&world.scope, task.id, (&step, input), TraceId([8; 16])).await.unwrap().unwrap();
    let forked = world.until(forked.task.id, TaskStatus::Failed).await;

    assert_eq!(forked.problem.unwrap().detail, "the input of step multiply does not fit it");
    runner.shutdown().await;
}

#[tokio::test]
async fn work_that_nobody_knows_and_inputs_that_are_too_large_are_refused() {
    let settings = TaskSettings { max_input_bytes: 10, ..quick() };
    let world = World::with(vec![sums(&Diary::default())], settings).await;

    let unknown = world.desk.submit(&world.scope, order("sum", value!(1))).await.unwrap_err();
    let large = world.desk.submit(&world.scope, order("sums", value!("more than ten bytes"))).await.unwrap_err();

    assert!(matches!(unknown, DeskError::UnknownKind { .. }), "{unknown}");
    assert!(matches!(&large, DeskError::Task(TaskError::Failed(_))), "{large}");
    assert!(large.to_string().contains("tasks.max_input_bytes"), "{large}");
}

#[tokio::test]
async fn a_key_that_may_not_ask_for_a_kind_can_neither_stop_nor_repeat_nor_change_its_tasks() {
    let world = World::new(vec![sums(&Diary::default())]).await;
    let runner = world.runner();
    let task = world.run_to("sums", value!(1), TaskStatus::Succeeded).await;
    let writer = TenantScope { permissions: [Permission::Write].into(), ..world.scope.clone() };
    let (step, trace) = (StepName::new("add").unwrap(), TraceId([7; 16]));

    let refused = [
        world.desk.wish(&writer, task.id, Wish::Cancel).await.map(drop),
        world.desk.redrive(&writer, task.id, Some(&step), trace).await.map(drop),
        world.desk.fork(&writer, task.id, (&step, value!(2)), trace).await.map(drop),
    ];

    for refused in refused {
        let Err(DeskError::Task(TaskError::Failed(fault))) = refused else { panic!("{refused:?}") };
        assert_eq!(fault.kind, ErrorKind::Forbidden);
    }
    assert!(world.desk.redrive(&world.scope, task.id, Some(&step), trace).await.unwrap().is_some());
    runner.shutdown().await;
}

#[tokio::test]
async fn a_task_of_which_nothing_is_missing_is_not_copied_again_and_again() {
    let world = World::new(vec![sums(&Diary::default())]).await;
    let runner = world.runner();
    let task = world.run_to("sums", value!(1), TaskStatus::Succeeded).await;

    let refused = world.desk.redrive(&world.scope, task.id, None, TraceId([7; 16])).await;

    assert!(matches!(refused, Err(DeskError::Task(TaskError::Failed(fault))) if fault.kind == ErrorKind::Conflict));
    runner.shutdown().await;
}
