//! Promises to those who ask for work.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;

use crate::domain::{
    ContentHash, FailureDay, PromptVersion, StepRecord, Task, TaskFailure, TaskStatus, Timestamp, Wish,
};
use crate::store::{Fork, NewTask, Rerun, StoreError, TaskEnd, TaskFilter};

use super::fixture::{Subject, reader, scope};
use super::ledger::trace_id;
use super::task_fixture::{
    NOW, failure, json, kind, lease, new_task, output, problem, record, record_of, runner, step, task_id,
};

const DAY: i64 = 86_400_000_000;

pub(crate) async fn a_hundred_concurrent_submissions_are_one_task(store: Subject<'_>) {
    let owner = scope("acme");

    let submitted = join_all((0..100).map(|_| store.tasks.submit(&owner, new_task(1)))).await;

    let submitted: Vec<_> = submitted.into_iter().map(Result::unwrap).collect();
    let keys: BTreeSet<_> = submitted.iter().map(|submitted| submitted.task.key).collect();
    assert_eq!(keys.len(), 1);
    assert_eq!(submitted.iter().filter(|submitted| submitted.is_new).count(), 1);
    assert_eq!(store.queue.counts().await.unwrap(), [(kind("map"), TaskStatus::Queued, 1)]);
}

pub(crate) async fn a_task_is_read_back_whole(store: Subject<'_>) {
    let owner = reader("acme", &["user:ann", "group:\"é\""]);
    let owner = crate::domain::TenantScope { key_id: Some("key-1".into()), ..owner };
    let of = store.submit(&owner, new_task(1)).await;
    let overrides = BTreeMap::from([(step("read"), json("[0.1,1e300,12345678901234567890,\"é\"]"))]);
    let new = NewTask {
        prompt: Some(PromptVersion { name: "map".into(), version: "3".into(), hash: "ab".repeat(32) }),
        model: Some("small".into()),
        priority: -3,
        total: Some(40),
        session_id: Some("s ' \" \u{1} 🦀".into()),
        fork: Some(Fork { of: of.key, of_id: of.id, before: 0, overrides: overrides.clone() }),
        ..new_task(2)
    };

    let submitted = store.tasks.submit(&owner, new.clone()).await.unwrap();

    let task = submitted.task;
    assert!(submitted.is_new);
    assert_eq!(store.tasks.task(&owner, new.id, None).await.unwrap(), Some(task.clone()));
    assert_eq!(store.tasks.task(&owner, new.id, Some(1)).await.unwrap(), Some(task.clone()));
    assert_eq!(store.tasks.task(&owner, new.id, Some(2)).await.unwrap(), None);
    let expected = Task {
        key: task.key,
        id: new.id,
        run: 1,
        kind: new.kind,
        scope: owner,
        status: TaskStatus::Queued,
        input: new.input,
        prompt: new.prompt,
        model: new.model,
        overrides,
        forked_from: Some(of.id),
        priority: -3,
        tries: 0,
        epoch: 0,
        wish: None,
        output: None,
        problem: None,
        done: 0,
        total: Some(40),
        session_id: new.session_id,
        trace_id: new.trace_id,
        created_at: task.created_at,
        ready_at: task.created_at,
        started_at: None,
        finished_at: None,
    };
    assert_eq!(task, expected);
}

pub(crate) async fn a_task_that_is_there_is_returned_as_it_is(store: Subject<'_>) {
    let owner = scope("acme");
    let (_, lease) = store.held(&owner, new_task(1)).await;
    store.end(lease, output()).await;

    let again = store.tasks.submit(&owner, NewTask { max_open: 0, ..new_task(1) }).await.unwrap();

    assert!(!again.is_new);
    assert_eq!((again.task.status, again.task.output), (TaskStatus::Succeeded, Some(json("{\"ok\":true}"))));
}

pub(crate) async fn a_tenant_with_too_many_unfinished_tasks_gets_no_more(store: Subject<'_>) {
    let owner = scope("acme");
    let of_three = |number: u64| NewTask { max_open: 3, ..new_task(number) };
    store.submit(&owner, of_three(1)).await;
    store.submit(&owner, NewTask { wait_us: 9_000_000, ..of_three(2) }).await;
    let (_, lease) = store.held(&owner, of_three(3)).await;

    let refused = store.tasks.submit(&owner, of_three(4)).await;
    let other = store.tasks.submit(&scope("other"), of_three(4)).await;
    store.tasks.wish(&owner, task_id(1), Wish::Pause).await.unwrap();
    let fourth = store.tasks.submit(&owner, of_three(4)).await;
    let fifth = store.tasks.submit(&owner, of_three(5)).await;
    store.end(lease, TaskEnd::Cancelled).await;
    let sixth = store.tasks.submit(&owner, of_three(6)).await;

    assert!(matches!(refused, Err(StoreError::TooManyTasks { limit: 3 })), "{refused:?}");
    assert!(other.is_ok() && fourth.is_ok() && sixth.is_ok(), "{other:?} {fourth:?} {sixth:?}");
    assert!(matches!(fifth, Err(StoreError::TooManyTasks { limit: 3 })), "{fifth:?}");
}

pub(crate) async fn a_fork_takes_over_the_steps_before_its_place(store: Subject<'_>) {
    let owner = scope("acme");
    let (of, lease) = store.held(&owner, new_task(1)).await;
    for (name, position) in [("read", 0), ("map", 1), ("reduce", 2)] {
        store.record(lease, record_of(name, position)).await;
    }
    store.end(lease, output()).await;
    let fork = |before: u32| Some(Fork { of: of.key, of_id: of.id, before, overrides: BTreeMap::new() });

    let forked = store.submit(&owner, NewTask { fork: fork(2), ..new_task(2) }).await;
    let stolen = store.submit(&scope("other"), NewTask { fork: fork(2), ..new_task(3) }).await;

    assert_eq!(forked.done, 2);
    assert_eq!(store.queue.recorded(forked.key).await.unwrap(), [record_of("read", 0), record_of("map", 1)]);
    assert_eq!(store.queue.recorded(stolen.key).await.unwrap(), [], "another tenant's steps are not there");
}

pub(crate) async fn a_rerun_keeps_the_steps_that_it_is_told_to_keep(store: Subject<'_>) {
    let owner = scope("acme");
    let (first, lease) = store.held(&owner, NewTask { priority: 4, ..new_task(1) }).await;
    store.record(lease, record_of("read", 0)).await;
    store.record(lease, record_of("map", 1)).await;
    store.end(lease, TaskEnd::Failed { problem: problem("no") }).await;
    let rerun = |before: Option<u32>, number: u64| Rerun { before, trace_id: trace_id(number), max_open: 1_000 };

    let whole = store.tasks.rerun(&owner, task_id(1), rerun(None, 50)).await.unwrap().unwrap();
    store.tasks.wish(&owner, task_id(1), Wish::Cancel).await.unwrap();
    let part = store.tasks.rerun(&owner, task_id(1), rerun(Some(1), 51)).await.unwrap().unwrap();

    assert_eq!((whole.run, whole.status, whole.done, whole.problem.clone()), (2, TaskStatus::Queued, 2, None));
    assert_eq!((part.run, part.status, part.done, part.trace_id), (3, TaskStatus::Queued, 1, trace_id(51)));
    assert_eq!((&part.input, part.priority, part.finished_at), (&first.input, 4, None));
    assert_eq!(store.queue.recorded(part.key).await.unwrap(), [record_of("read", 0)]);
    assert_eq!(store.now(&owner, 1).await, part, "the newest run is the task");
    let old = store.tasks.task(&owner, task_id(1), Some(1)).await.unwrap().unwrap();
    assert_eq!((old.status, old.problem, old.done), (TaskStatus::Failed, Some(problem("no")), 2));
}

pub(crate) async fn only_a_task_that_has_ended_runs_again(store: Subject<'_>) {
    let owner = scope("acme");
    let rerun = || Rerun { before: None, trace_id: trace_id(50), max_open: 1_000 };
    store.submit(&owner, new_task(1)).await;

    let queued = store.tasks.rerun(&owner, task_id(1), rerun()).await;
    let unknown = store.tasks.rerun(&owner, task_id(2), rerun()).await.unwrap();

    assert!(matches!(queued, Err(StoreError::NotEnded { task }) if task == task_id(1)), "{queued:?}");
    assert_eq!(unknown, None);
}

pub(crate) async fn tasks_are_listed_in_pages_newest_first(store: Subject<'_>) {
    let owner = scope("acme");
    for number in 1..=7 {
        let name = if number % 2 == 0 { "even" } else { "odd" };
        store.submit(&owner, NewTask { kind: kind(name), ..new_task(number) }).await;
    }
    store.tasks.wish(&owner, task_id(5), Wish::Cancel).await.unwrap();
    store.tasks.wish(&owner, task_id(6), Wish::Cancel).await.unwrap();
    let pages = async |status: Option<TaskStatus>, name: Option<&str>| {
        let filter = TaskFilter { status, kind: name.map(kind) };
        let (mut ids, mut cursor) = (Vec::new(), None);
        loop {
            let page = store.tasks.tasks(&owner, &filter, cursor.as_deref(), 2).await.unwrap();
            assert!(page.items.len() <= 2);
            ids.extend(page.items.into_iter().map(|task| task.id));
            cursor = page.next;
            if cursor.is_none() {
                return ids;
            }
        }
    };

    let cancelled = Some(TaskStatus::Cancelled);
    assert_eq!(pages(None, None).await, [7, 6, 5, 4, 3, 2, 1].map(task_id));
    assert_eq!(pages(None, Some("odd")).await, [7, 5, 3, 1].map(task_id));
    assert_eq!(pages(cancelled, None).await, [6, 5].map(task_id));
    assert_eq!(pages(cancelled, Some("odd")).await, [5].map(task_id));
    let all = store.tasks.tasks(&owner, &TaskFilter::default(), None, 2).await.unwrap();
    assert_eq!((all.items[0].input.as_str(), &all.items[0].output), ("null", &None));
    let other = TaskFilter { kind: Some(kind("odd")), ..TaskFilter::default() };
    let refused = store.tasks.tasks(&owner, &other, all.next.as_deref(), 2).await;
    assert!(matches!(refused, Err(StoreError::InvalidCursor { .. })), "{refused:?}");
}

pub(crate) async fn steps_are_summed_up_over_their_items(store: Subject<'_>) {
    let owner = scope("acme");
    let (task, lease) = store.held(&owner, new_task(1)).await;
    let fail = async |place: (&str, u32), attempt: u32| {
        store.queue.note_failure(lease, failure(&task, Some(place), attempt), Vec::new()).await.unwrap();
    };
    store.record(lease, record_of("plan", 0)).await;
    fail(("read", 1), 1).await;
    store.record(lease, StepRecord { position: 1, attempt: 2, ..record(1, 3) }).await;
    store.record(lease, StepRecord { position: 1, ..record(0, 3) }).await;
    fail(("read", 2), 1).await;
    fail(("read", 2), 2).await;
    fail(("write", 0), 1).await;

    let steps = store.tasks.steps(&task).await.unwrap();

    let told = steps.iter().map(|step| (step.step.as_str(), step.position, step.done, step.of, step.attempts));
    assert_eq!(told.collect::<Vec<_>>(), [("plan", 0, 1, 1, 1), ("read", 1, 2, 3, 5), ("write", 2, 0, 1, 1)]);
    let hashes = [record(0, 3).input_hash.0, record(1, 3).input_hash.0].concat();
    assert_eq!(steps[0].input_hash, Some(record(0, 1).input_hash));
    assert_eq!(steps[1].input_hash, Some(ContentHash::of(&hashes)));
    let times = |at: usize| (steps[at].started_at, steps[at].finished_at);
    assert_eq!(times(0), (Some(NOW), Some(Timestamp(NOW.0 + 7))));
    assert_eq!(times(1), (Some(NOW), None), "an item is missing");
    assert_eq!(times(2), (None, None));
    let problems = steps.iter().map(|step| step.problem.as_ref().map(|problem| problem.detail.as_str()));
    assert_eq!(problems.collect::<Vec<_>>(), [None, Some("attempt 2"), Some("attempt 1")]);
}

pub(crate) async fn items_of_a_step_are_read_from_a_number_on(store: Subject<'_>) {
    let owner = scope("acme");
    let (task, lease) = store.held(&owner, new_task(1)).await;
    for item in [3, 0, 2, 1, 4] {
        store.record(lease, record(item, 5)).await;
    }

    let items = store.tasks.items(&task, &step("read"), 2, 2).await.unwrap();
    let others = store.tasks.items(&task, &step("write"), 0, 9).await.unwrap();

    assert_eq!(items, [record(2, 5), record(3, 5)]);
    assert_eq!(others, []);
}

pub(crate) async fn the_last_failures_are_told_oldest_first(store: Subject<'_>) {
    let owner = scope("acme");
    let (task, lease) = store.held(&owner, new_task(1)).await;
    for attempt in 1..=3 {
        store.queue.note_failure(lease, failure(&task, Some(("read", 4)), attempt), Vec::new()).await.unwrap();
    }
    let last = TaskFailure { is_final: true, ..failure(&task, None, 1) };
    let end = TaskEnd::Failed { problem: problem("no") };
    store.queue.end(lease, end, Some(last.clone()), Vec::new()).await.unwrap();

    let failures = store.tasks.failures(&task, 2).await.unwrap();

    assert_eq!(failures, [failure(&task, Some(("read", 4)), 3), last]);
    assert_eq!(store.queue.failed_attempts(task.key).await.unwrap(), [(step("read"), 4, 3)]);
}

/// Ends three of five tasks well and one badly, with two failed attempts today and one on 1 January 1970.
pub(crate) async fn failure_days_equal_a_hand_count(store: Subject<'_>) {
    let owner = scope("acme");
    for number in 1..=5 {
        let (task, lease) = store.held(&owner, new_task(number)).await;
        let at = |day: i64| TaskFailure { at: Timestamp(day * DAY + 5), ..failure(&task, None, 1) };
        match number {
            1..=3 => store.end(lease, output()).await,
            4 => {
                store.queue.note_failure(lease, at(0), Vec::new()).await.unwrap();
                store.queue.note_failure(lease, at(1), Vec::new()).await.unwrap();
                let end = TaskEnd::Failed { problem: problem("no") };
                store.queue.end(lease, end, Some(at(1)), Vec::new()).await.unwrap();
            }
            _ => store.end(lease, TaskEnd::Cancelled).await,
        }
    }
    store.held(&scope("other"), NewTask { kind: kind("ingest"), ..new_task(9) }).await;
    let day = |day: &str, counts: [u64; 3]| FailureDay {
        day: day.to_owned(),
        kind: kind("map"),
        succeeded: counts[0],
        failed: counts[1],
        failures: counts[2],
    };

    let days = store.tasks.failure_days(&owner, Timestamp(0)).await.unwrap();

    let today = &days[0];
    assert_eq!(*today, day(&today.day, [3, 1, 0]));
    assert_eq!(today.failure_rate(), 0.25);
    assert_eq!(days[1..], [day("1970-01-02", [0, 0, 2]), day("1970-01-01", [0, 0, 1])]);
    assert_eq!(store.queue.failure_days_of_all(Timestamp(0)).await.unwrap(), days);
    assert_eq!(store.tasks.failure_days(&owner, Timestamp(DAY + 9)).await.unwrap(), days[..2], "whole days");
    assert_eq!(store.tasks.failure_days(&scope("other"), Timestamp(0)).await.unwrap(), []);
}

pub(crate) async fn a_wish_is_granted_at_once_where_nobody_works(store: Subject<'_>) {
    use TaskStatus::{Cancelled, Paused, Queued, Succeeded, Waiting};
    let owner = scope("acme");
    let cases = [
        (Queued, Wish::Cancel, Cancelled),
        (Queued, Wish::Pause, Paused),
        (Queued, Wish::Resume, Queued),
        (Waiting, Wish::Cancel, Cancelled),
        (Waiting, Wish::Pause, Paused),
        (Waiting, Wish::Resume, Waiting),
        (Paused, Wish::Cancel, Cancelled),
        (Paused, Wish::Pause, Paused),
        (Paused, Wish::Resume, Queued),
        (Cancelled, Wish::Resume, Cancelled),
        (Succeeded, Wish::Cancel, Succeeded),
    ];
    for ((from, wish, to), number) in cases.into_iter().zip(1..) {
        match from {
            Waiting => drop(store.submit(&owner, NewTask { wait_us: 1_000, ..new_task(number) }).await),
            Succeeded => {
                let (_, lease) = store.held(&owner, new_task(number)).await;
                store.end(lease, output()).await;
            }
            _ => drop(store.submit(&owner, new_task(number)).await),
        }
        let first = if from == Cancelled { Wish::Cancel } else { Wish::Pause };
        if matches!(from, Cancelled | Paused) {
            store.tasks.wish(&owner, task_id(number), first).await.unwrap();
        }
        let before = store.now(&owner, number).await;
        assert_eq!(before.status, from, "{from:?} {wish:?}");

        let after = store.tasks.wish(&owner, task_id(number), wish).await.unwrap().unwrap();

        assert_eq!(after, store.now(&owner, number).await);
        assert_eq!((after.status, after.wish), (to, None), "{from:?} {wish:?}");
        assert_eq!(after.finished_at.is_some(), to.is_ended(), "{from:?} {wish:?}");
        assert!(from != to || after == before, "{from:?} {wish:?}");
    }
    assert_eq!(store.tasks.wish(&owner, task_id(99), Wish::Cancel).await.unwrap(), None);
}

pub(crate) async fn a_wish_for_a_running_task_is_told_its_runner(store: Subject<'_>) {
    let owner = scope("acme");
    let (task, lease) = store.held(&owner, new_task(1)).await;
    let (other, _) = store.held(&owner, new_task(2)).await;
    store.held(&owner, new_task(3)).await;
    let wish = async |number: u64, wish: Wish| store.tasks.wish(&owner, task_id(number), wish).await.unwrap().unwrap();

    let resumed = wish(1, Wish::Resume).await;
    let paused = wish(1, Wish::Pause).await;
    wish(2, Wish::Cancel).await;
    wish(2, Wish::Pause).await;

    assert_eq!((resumed.status, resumed.wish), (TaskStatus::Running, None));
    assert_eq!((paused.status, paused.wish), (TaskStatus::Running, Some(Wish::Pause)));
    let expected = [(task.key, Wish::Pause), (other.key, Wish::Cancel)];
    assert_eq!(store.queue.wishes(runner(1)).await.unwrap(), expected, "a pause does not undo a cancellation");
    assert_eq!(store.queue.wishes(runner(2)).await.unwrap(), []);
    store.end(lease, TaskEnd::Paused).await;
    assert_eq!((store.now(&owner, 1).await.status, store.now(&owner, 1).await.wish), (TaskStatus::Paused, None));
}

pub(crate) async fn a_wish_that_its_runner_did_not_live_to_see_holds(store: Subject<'_>) {
    let owner = scope("acme");
    let (_, released) = store.held(&owner, new_task(1)).await;
    let (_, retried) = store.held(&owner, new_task(2)).await;
    store.held(&owner, new_task(3)).await;
    for (number, wish) in [(1, Wish::Cancel), (2, Wish::Pause), (3, Wish::Cancel)] {
        store.tasks.wish(&owner, task_id(number), wish).await.unwrap();
    }

    store.end(released, TaskEnd::Released).await;
    store.end(retried, TaskEnd::Retry { problem: problem("later"), wait_us: 5 }).await;
    store.queue.take_back(runner(1), 0).await.unwrap();

    for (number, expected) in [(1, TaskStatus::Cancelled), (2, TaskStatus::Paused), (3, TaskStatus::Cancelled)] {
        let task = store.now(&owner, number).await;
        assert_eq!((task.status, task.finished_at.is_some()), (expected, expected.is_ended()), "{number}");
    }
}

pub(crate) async fn tenants_and_principals_do_not_meet_in_tasks(store: Subject<'_>) {
    let (all, ann, bob) = (scope("acme"), reader("acme", &["user:ann"]), reader("acme", &["user:bob"]));
    let ann_and_more = reader("acme", &["user:ann", "group:eng"]);
    store.submit(&all, new_task(1)).await;
    store.submit(&ann, new_task(2)).await;
    // The same id again: tenants never share one, but if they did, neither would see the other's.
    store.submit(&scope("other"), NewTask { priority: 9, ..new_task(1) }).await;

    let listed = async |who| {
        let page = store.tasks.tasks(who, &TaskFilter::default(), None, 9).await.unwrap();
        page.items.into_iter().map(|task| task.id).collect::<Vec<_>>()
    };
    assert_eq!(listed(&all).await, [task_id(2), task_id(1)]);
    assert_eq!(listed(&ann).await, [task_id(2)]);
    assert_eq!(listed(&bob).await, []);
    assert_eq!(listed(&ann_and_more).await, [], "who sees more is somebody else");
    assert_eq!(listed(&scope("other")).await, [task_id(1)]);
    assert_eq!(store.now(&all, 1).await.priority, 0);
    for hidden in [1, 2] {
        let rerun = Rerun { before: None, trace_id: trace_id(50), max_open: 1_000 };
        assert_eq!(store.tasks.task(&bob, task_id(hidden), None).await.unwrap(), None);
        assert_eq!(store.tasks.task(&bob, task_id(hidden), Some(1)).await.unwrap(), None);
        assert_eq!(store.tasks.wish(&bob, task_id(hidden), Wish::Cancel).await.unwrap(), None);
        assert_eq!(store.tasks.rerun(&bob, task_id(hidden), rerun).await.unwrap(), None);
    }
    assert_eq!(store.now(&all, 2).await.status, TaskStatus::Queued);
}

pub(crate) async fn forgetting_tasks_leaves_nothing_of_them(store: Subject<'_>) {
    let owner = scope("acme");
    let (old, lease_of_old) = store.held(&owner, new_task(1)).await;
    for item in 0..30 {
        store.record(lease_of_old, record(item, 30)).await;
    }
    store.queue.note_failure(lease_of_old, failure(&old, Some(("read", 1)), 1), Vec::new()).await.unwrap();
    store.end(lease_of_old, output()).await;
    let (open, lease_of_open) = store.held(&owner, new_task(2)).await;
    store.record(lease_of_open, record(0, 1)).await;
    let ended = store.now(&owner, 1).await.finished_at.unwrap();

    let too_early = store.tasks.forget_tasks(ended).await.unwrap();
    let forgotten = store.tasks.forget_tasks(Timestamp(ended.0 + 1)).await.unwrap();

    assert_eq!((too_early, forgotten), (0, 1));
    assert_eq!(store.tasks.task(&owner, old.id, None).await.unwrap(), None);
    assert_eq!(store.queue.recorded(old.key).await.unwrap(), []);
    assert_eq!(store.tasks.failures(&old, 9).await.unwrap(), []);
    assert_eq!(store.queue.recorded(open.key).await.unwrap(), [record(0, 1)]);
    let again = store.tasks.submit(&owner, new_task(1)).await.unwrap();
    assert!(again.is_new && again.task.key > open.key, "a key is never used twice");
    let claimed = store.claim(runner(2), again.task.key).await.unwrap();
    store.end(lease_of_open, TaskEnd::Released).await;
    store.end(lease(&claimed, runner(2)), output()).await;
    assert_eq!(store.queue.counts().await.unwrap(), [(kind("map"), TaskStatus::Queued, 1)]);
}
