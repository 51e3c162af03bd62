//! Several runners, several tenants, several kinds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json as value;
use tokio::sync::Barrier;

use crate::domain::{TaskStatus, Timestamp};
use crate::store::TaskFilter;
use crate::tasks::{ScheduleSettings, TaskSettings};

use super::world::{Diary, Handler, World, json, kind, quick, tenant};

#[tokio::test]
async fn two_runners_share_a_queue_and_no_task_runs_twice() {
    let diary = Diary::default();
    let (lines, both) = (diary.clone(), Arc::new(Barrier::new(4)));
    // Four at once are more than one runner takes.
    let shared = kind("shared", move |work| {
        let (lines, both) = (lines.clone(), Arc::clone(&both));
        Box::pin(async move {
            lines.write(work.task().input.as_str());
            both.wait().await;
            json(0)
        })
    });
    let world = World::with(vec![shared], TaskSettings { max_running: 2, ..quick() }).await;
    let mut tasks = Vec::new();
    for number in 0..40 {
        tasks.push(world.submit("shared", value!(number)).await.id);
    }

    // The limit for all of them is the four that the two take together.
    let settings = TaskSettings { max_running_per_kind: [("shared".to_owned(), 4)].into(), ..world.settings.clone() };
    let runners = [world.runner_with(settings.clone()), world.runner_with(settings)];

    for id in tasks {
        world.until(id, TaskStatus::Succeeded).await;
    }
    let mut done = diary.read();
    done.sort_by_key(|line| line.parse::<u32>().unwrap());
    assert_eq!(done, (0..40).map(|number| number.to_string()).collect::<Vec<_>>());
    for runner in runners {
        runner.shutdown().await;
    }
}

/// Counts how many of its tasks run at once, at most.
fn counting(name: &str, most: &Arc<AtomicUsize>) -> Handler {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::clone(most));
    kind(name, move |work| {
        let (now, most) = (Arc::clone(&now), Arc::clone(&most));
        Box::pin(async move {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            // A write: others are claimed meanwhile, if they may be.
            let _: u32 = work.step("step", &0, async |input: u32, _| Ok(input)).await?;
            now.fetch_sub(1, Ordering::SeqCst);
            json(0)
        })
    })
}

#[tokio::test]
async fn kinds_and_tenants_stay_under_their_limits() {
    let (narrow, wide) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let settings = TaskSettings {
        max_running: 9,
        max_running_per_tenant: 3,
        max_running_per_kind: [("narrow".to_owned(), 1)].into(),
        ..quick()
    };
    let world = World::with(vec![counting("narrow", &narrow), counting("wide", &wide)], settings).await;
    let mut tasks = Vec::new();
    for number in 0..12 {
        tasks.push(world.submit("narrow", value!(number)).await.id);
        tasks.push(world.submit("wide", value!(number)).await.id);
    }

    let runners = [world.runner(), world.runner()];

    for id in tasks {
        world.until(id, TaskStatus::Succeeded).await;
    }
    assert_eq!(narrow.load(Ordering::SeqCst), 1);
    assert!(wide.load(Ordering::SeqCst) <= 3, "{wide:?}");
    for runner in runners {
        runner.shutdown().await;
    }
}

#[tokio::test]
async fn a_tenant_with_little_to_do_does_not_wait_behind_one_with_much() {
    let diary = Diary::default();
    let lines = diary.clone();
    let fair = kind("fair", move |work| {
        let (lines, tenant) = (lines.clone(), work.task().scope.tenant.clone());
        Box::pin(async move {
            lines.write(tenant);
            json(0)
        })
    });
    let world = World::with(vec![fair], TaskSettings { max_running: 1, ..quick() }).await;
    let (big, small) = (tenant("big"), tenant("small"));
    for number in 0..20 {
        world.submit_as(&big, "fair", value!(number)).await;
    }
    let mut last = None;
    for number in 0..3 {
        last = Some(world.submit_as(&small, "fair", value!(number)).await.id);
    }

    let runner = world.runner();
    world.until_as(&small, last.unwrap(), TaskStatus::Succeeded).await;

    let big_before = diary.read().iter().rposition(|line| line == "small").unwrap() - 2;
    assert!(big_before <= 3, "{:?}", diary.read());
    runner.shutdown().await;
}

#[tokio::test]
async fn a_schedule_makes_one_task_however_many_runners_notice() {
    let diary = Diary::default();
    let lines = diary.clone();
    let digest = kind("digest", move |_| {
        let lines = lines.clone();
        Box::pin(async move {
            lines.write("digest");
            json(0)
        })
    });
    let schedule = ScheduleSettings {
        name: "hourly".to_owned(),
        cron: "0 * * * *".to_owned(),
        kind: "digest".to_owned(),
        tenant: "acme".to_owned(),
        input: toml::Table::new(),
    };
    // 2026-11-23T10:20:00Z: the last minute that is due was 20 minutes ago.
    let clock = || Timestamp(1_795_429_200_000_000);
    let settings = TaskSettings { schedules: vec![schedule], ..quick() };
    let world = World::with_clock(vec![digest], settings, Arc::new(clock)).await;

    let runners = [world.runner(), world.runner()];

    let listed = || async { world.desk.tasks(&world.scope, &TaskFilter::default(), None, 10).await.unwrap().items };
    let tasks = super::world::becomes(listed, |tasks| tasks.iter().any(|task| task.status.is_ended())).await;
    for runner in runners {
        runner.shutdown().await;
    }
    assert_eq!(tasks.len(), 1);
    assert_eq!(listed().await.len(), 1);
    assert_eq!(diary.count("digest"), 1);
}
