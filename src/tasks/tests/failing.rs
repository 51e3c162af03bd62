//! What fails is tried again, given up, and written down; nobody else notices.

use serde_json::json as value;

use crate::domain::{ErrorKind, TaskStatus};
use crate::tasks::{TaskError, TaskSettings};

use super::world::{Diary, Handler, World, json, kind, quick};

fn fine() -> Handler {
    kind("fine", |_| Box::pin(async { json("done") }))
}

/// One step of three items, of which the second fails like this as often as said.
fn failing(diary: &Diary, error_kind: ErrorKind, times: usize) -> Handler {
    let diary = diary.clone();
    kind("failing", move |work| {
        let diary = diary.clone();
        Box::pin(async move {
            let inputs = ["a", "b", "c"].map(str::to_owned);
            let done = work.fan_out("work", &inputs, |input: String, _| {
                let diary = diary.clone();
                async move {
                    diary.write(&input);
                    let is_broken = input == "b" && diary.count("b") <= times;
                    if is_broken { Err(TaskError::failed(error_kind, "the server is down")) } else { Ok(input) }
                }
            });
            json(done.await?.into_iter().map(|one| one.map_err(|problem| problem.detail)).collect::<Vec<_>>())
        })
    })
}

#[tokio::test]
async fn only_the_item_that_failed_is_tried_again() {
    let diary = Diary::default();
    let world = World::new(vec![failing(&diary, ErrorKind::Upstream, 2)]).await;

    let task = world.run_to("failing", value!({}), TaskStatus::Succeeded).await;

    assert_eq!([diary.count("a"), diary.count("b"), diary.count("c")], [1, 3, 1]);
    let rows: Vec<_> =
        world.failures(&task).await.into_iter().map(|row| (row.item, row.attempt, row.is_final)).collect();
    assert_eq!(rows, [(Some(1), 1, false), (Some(1), 2, false)]);
    assert_eq!(world.desk.steps(&task).await.unwrap()[0].attempts, 5);
}

#[tokio::test]
async fn a_task_that_is_never_brought_further_fails_after_its_attempts_with_a_row_for_each() {
    let world = World::with(
        vec![kind("down", |work| {
            Box::pin(async move {
                let down = || async { Err(TaskError::failed(ErrorKind::Upstream, "the server is down")) };
                json(work.step::<u32, u32, _, _>("call", &0, |_, _| down()).await?)
            })
        })],
        TaskSettings { max_attempts: 3, ..quick() },
    )
    .await;

    let task = world.run_to("down", value!({}), TaskStatus::Failed).await;

    assert_eq!(task.tries, 3);
    assert_eq!(task.problem.as_ref().unwrap().kind, ErrorKind::Upstream);
    let rows: Vec<_> = world.failures(&task).await.into_iter().map(|row| (row.attempt, row.is_final)).collect();
    assert_eq!(rows, [(1, false), (2, false), (3, true)]);
}

#[tokio::test]
async fn an_attempt_that_brought_the_task_further_is_none_in_vain() {
    let diary = Diary::default();
    let lines = diary.clone();
    // One item gets through in each attempt.
    let slow = kind("slow", move |work| {
        let (lines, allowed) = (lines.clone(), std::sync::atomic::AtomicBool::new(true));
        Box::pin(async move {
            let allowed = &allowed;
            let done = work.fan_out("work", &[1, 2, 3, 4, 5], |input: u32, _| {
                lines.write(input);
                async move {
                    let is_let_through = allowed.swap(false, std::sync::atomic::Ordering::SeqCst);
                    if is_let_through { Ok(input) } else { Err(TaskError::failed(ErrorKind::RateLimited, "slow down")) }
                }
            });
            json(done.await?.len())
        })
    });
    let settings = TaskSettings { max_attempts: 1, max_items_at_once: 1, ..quick() };
    let world = World::with(vec![slow], settings).await;

    let task = world.run_to("slow", value!({}), TaskStatus::Succeeded).await;

    assert_eq!((task.done, task.tries), (5, 1));
    assert!(world.failures(&task).await.iter().all(|row| !row.is_final));
}

#[tokio::test]
async fn an_item_that_cannot_succeed_stands_in_its_place_and_the_rest_is_done() {
    let diary = Diary::default();
    let world = World::new(vec![failing(&diary, ErrorKind::Unprocessable, 1)]).await;

    let task = world.run_to("failing", value!({}), TaskStatus::Succeeded).await;

    assert_eq!(task.output.as_ref().unwrap().as_str(), r#"[{"Ok":"a"},{"Err":"the server is down"},{"Ok":"c"}]"#);
    let rows = world.failures(&task).await;
    assert_eq!((rows.len(), rows[0].is_final), (1, true));
}

#[tokio::test]
async fn work_that_panics_fails_and_the_runner_goes_on() {
    let world = World::new(vec![kind("bad", |_| Box::pin(async { panic!("on purpose") })), fine()]).await;
    let runner = world.runner();

    let bad = world.submit("bad", value!({})).await;
    let bad = world.until(bad.id, TaskStatus::Failed).await;

    let good = world.submit("fine", value!({})).await;
    world.until(good.id, TaskStatus::Succeeded).await;
    assert_eq!((bad.tries, bad.problem.as_ref().unwrap().kind), (1, ErrorKind::Internal));
    assert!(!bad.problem.as_ref().unwrap().detail.contains("on purpose"));
    assert_eq!(world.failures(&bad).await.len(), 1);
    runner.shutdown().await;
}

#[tokio::test]
async fn poisoned_tasks_keep_no_place_from_the_others() {
    let poison = kind("poison", |_| Box::pin(async { Err(TaskError::failed(ErrorKind::Upstream, "never")) }));
    let settings = TaskSettings { max_running: 2, max_attempts: 3, ..quick() };
    let world = World::with(vec![poison, fine()], settings).await;
    let mut tasks = Vec::new();
    for number in 0..20 {
        tasks.push((world.submit("poison", value!(number)).await.id, TaskStatus::Failed));
        tasks.push((world.submit("fine", value!(number)).await.id, TaskStatus::Succeeded));
    }

    let runner = world.runner();

    for (id, status) in tasks {
        world.until(id, status).await;
    }
    runner.shutdown().await;
}

#[tokio::test]
async fn a_failure_outside_the_steps_has_a_row_too_and_one_of_a_step_only_one() {
    let world = World::new(vec![
        kind("outside", |_| Box::pin(async { Err(TaskError::failed(ErrorKind::NotFound, "no such collection")) })),
        kind("inside", |work| {
            Box::pin(async move {
                let lost = || async { Err(TaskError::failed(ErrorKind::NotFound, "no such document")) };
                json(work.step::<u32, u32, _, _>("read", &0, |_, _| lost()).await?)
            })
        }),
    ])
    .await;

    let outside = world.run_to("outside", value!({}), TaskStatus::Failed).await;
    let inside = world.run_to("inside", value!({}), TaskStatus::Failed).await;

    for (task, step) in [(outside, None), (inside, Some("read"))] {
        let rows = world.failures(&task).await;
        assert_eq!(rows.len(), 1, "{rows:?}");
        assert!(rows[0].is_final);
        assert_eq!(rows[0].step.as_ref().map(|step| step.as_str()), step);
    }
}

#[tokio::test]
async fn a_name_for_two_steps_and_a_step_that_is_too_large_are_refused() {
    let twice = kind("twice", |work| {
        Box::pin(async move {
            let _: u32 = work.step("same", &0, async |input: u32, _| Ok(input)).await?;
            json(work.step("same", &1, async |input: u32, _| Ok(input)).await?)
        })
    });
    let large = kind("large", |work| {
        Box::pin(async move {
            let done = work.fan_out("many", &[0; 4], async |input: u32, _| Ok(input)).await?;
            json(done.len())
        })
    });
    let world = World::with(vec![twice, large], TaskSettings { max_items: 3, ..quick() }).await;

    let twice = world.run_to("twice", value!({}), TaskStatus::Failed).await;
    let large = world.run_to("large", value!({}), TaskStatus::Failed).await;

    assert_eq!(twice.problem.unwrap().kind, ErrorKind::Internal);
    let problem = large.problem.unwrap();
    assert_eq!(problem.kind, ErrorKind::Unprocessable);
    assert!(problem.detail.contains("tasks.max_items"), "{}", problem.detail);
}
