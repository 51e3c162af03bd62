//! Promises to those who work on tasks: claims, leases, ends, lines.

use futures::future::join_all;

use crate::domain::{StepRecord, TaskKey, TaskStatus, Timestamp, Wish};
use crate::store::{ClaimWish, Lease, LedgerEntry, NewTask, QueueHead, StoreError, TaskEnd};

use super::fixture::{Subject, scope};
use super::ledger::call;
use super::task_fixture::{
    NOW, failure, json, kind, lease, new_task, output, problem, record, record_of, runner, task_id, without_limits,
};

pub(crate) async fn one_of_eight_runners_gets_a_task(store: Subject<'_>) {
    let owner = scope("acme");
    let task = store.submit(&owner, new_task(1)).await;

    let claims = join_all((1..=8).map(|number| store.claim(runner(number), task.key))).await;

    let taken: Vec<_> = claims.into_iter().flatten().collect();
    assert_eq!(taken.len(), 1);
    assert_eq!((taken[0].status, taken[0].epoch, taken[0].tries), (TaskStatus::Running, 1, 1));
    assert_eq!((taken[0].started_at, &taken[0].input), (Some(NOW), &task.input));
    assert_eq!(store.now(&owner, 1).await, taken[0]);
}

pub(crate) async fn limits_hold_whoever_claims(store: Subject<'_>) {
    let (acme, other) = (scope("acme"), scope("other"));
    let mut keys = Vec::new();
    for number in 0..12 {
        let (owner, name) = (if number < 8 { &acme } else { &other }, if number % 2 == 0 { "map" } else { "ingest" });
        keys.push(store.submit(owner, NewTask { kind: kind(name), ..new_task(number) }).await.key);
    }
    let wish = |key: &TaskKey| ClaimWish { key: *key, kind_limit: 4, tenant_limit: 5 };

    let claim = async |number: u64| {
        let claimed = store.queue.claim(runner(number), keys.iter().map(wish).collect(), NOW).await.unwrap();
        claimed.into_iter().flatten().map(|task| (number, task)).collect::<Vec<_>>()
    };
    let taken = join_all((1..=4).map(claim)).await.concat();

    let of_kind = |name: &str| taken.iter().filter(|(_, task)| task.kind == kind(name)).count();
    let of_acme = taken.iter().filter(|(_, task)| task.scope.tenant == acme.tenant).count();
    assert_eq!((of_kind("map"), of_kind("ingest"), of_acme), (4, 4, 5));
    let (holder, first) = &taken[0];
    store.end(lease(first, runner(*holder)), output()).await;
    assert_eq!(claim(5).await.len(), 1, "a place that is free is given away");
}

pub(crate) async fn a_claim_is_told_for_each_wish_in_its_order(store: Subject<'_>) {
    let owner = scope("acme");
    let first = store.submit(&owner, new_task(1)).await;
    let second = store.submit(&owner, new_task(2)).await;
    let wishes = [second.key, TaskKey(999), first.key, second.key].map(without_limits);

    let claims = store.queue.claim(runner(1), wishes.into(), NOW).await.unwrap();

    let keys: Vec<_> = claims.into_iter().map(|task| task.map(|task| task.key)).collect();
    assert_eq!(keys[..3], [Some(second.key), None, Some(first.key)]);
    assert_eq!(keys[3], None, "what was asked for twice is given once");
}

pub(crate) async fn tries_count_claims_that_brought_a_task_no_further(store: Subject<'_>) {
    let owner = scope("acme");
    let task = store.submit(&owner, new_task(1)).await;
    let retry = || TaskEnd::Retry { problem: problem("later"), wait_us: 0 };
    let claim = async || {
        store.queue.promote_ready(Timestamp(i64::MAX)).await.unwrap();
        let task = store.claim(runner(1), task.key).await.unwrap();
        (task.tries, task.epoch, lease(&task, runner(1)))
    };

    let (tries, epoch, lease) = claim().await;
    assert_eq!((tries, epoch), (1, 1));
    store.end(lease, retry()).await;
    let (tries, epoch, lease) = claim().await;
    assert_eq!((tries, epoch), (2, 2));
    store.record(lease, record(0, 2)).await;
    store.end(lease, retry()).await;
    let (tries, _, lease) = claim().await;
    assert_eq!(tries, 1, "an item was recorded");
    store.record(lease, record(0, 2)).await;
    store.end(lease, TaskEnd::Released).await;
    assert_eq!(store.now(&owner, 1).await.tries, 0);
    let (tries, _, lease) = claim().await;
    assert_eq!(tries, 1, "a claim that was given back does not count");
    store.end(lease, retry()).await;
    let (tries, epoch, _) = claim().await;
    assert_eq!((tries, epoch), (2, 5), "an item that is recorded once more brings it no further");
    assert_eq!(store.now(&owner, 1).await.started_at, Some(NOW), "it began with its first claim");
}

pub(crate) async fn a_lost_lease_writes_nothing_but_what_was_spent(store: Subject<'_>) {
    let owner = scope("acme");
    let (task, old) = store.held(&owner, new_task(1)).await;
    store.record(old, record(0, 2)).await;
    store.queue.take_back(runner(1), 0).await.unwrap();
    let entry = |number: u64| vec![LedgerEntry::Call(Box::new(call("acme", number)))];
    let taken = store.now(&owner, 1).await;

    let write = async |lease: Lease, number: u64| {
        let refused = [
            store.queue.checkpoint(lease, record(1, 2), entry(number)).await,
            store.queue.note_failure(lease, failure(&task, None, 1), entry(number + 1)).await,
            store.queue.expect(lease, 77).await,
            store.queue.end(lease, output(), Some(failure(&task, None, 2)), entry(number + 2)).await,
        ];
        for refused in refused {
            assert!(matches!(refused, Err(StoreError::LeaseLost { task: key }) if key == task.key.0), "{refused:?}");
        }
    };
    write(old, 10).await;
    assert_eq!(store.now(&owner, 1).await, taken);
    let claimed = store.claim(runner(2), task.key).await.unwrap();
    write(old, 20).await;
    write(Lease { runner: runner(3), epoch: claimed.epoch, ..old }, 30).await;

    assert_eq!(store.now(&owner, 1).await, claimed);
    assert_eq!(store.queue.recorded(task.key).await.unwrap(), [record(0, 2)]);
    assert_eq!(store.tasks.failures(&task, 9).await.unwrap(), []);
    for number in [10, 11, 12, 20, 21, 22, 30, 31, 32] {
        let story = store.ledger.trace(&owner, call("acme", number).trace_id).await.unwrap();
        assert_eq!(story, None, "{number}");
    }
}

pub(crate) async fn a_lost_lease_among_others_harms_no_neighbour(store: Subject<'_>) {
    let owner = scope("acme");
    let (task, lease) = store.held(&owner, new_task(1)).await;
    let lost = Lease { epoch: lease.epoch + 1, ..lease };

    let write = |item: u32| {
        store.queue.checkpoint(if item.is_multiple_of(2) { lease } else { lost }, record(item, 200), Vec::new())
    };
    let written = join_all((0..200).map(write)).await;

    for (item, written) in written.iter().enumerate() {
        assert_eq!(written.is_ok(), item % 2 == 0, "{item}: {written:?}");
    }
    let recorded = store.queue.recorded(task.key).await.unwrap();
    assert_eq!(recorded, (0..100).map(|half| record(2 * half, 200)).collect::<Vec<_>>());
    assert_eq!(store.now(&owner, 1).await.done, 100);
}

pub(crate) async fn an_item_that_is_recorded_again_is_replaced(store: Subject<'_>) {
    let owner = scope("acme");
    let (task, lease) = store.held(&owner, new_task(1)).await;
    let again = StepRecord { output: json("2"), attempt: 2, of: 3, position: 4, ..record(0, 2) };

    store.record(lease, record(0, 2)).await;
    store.record(lease, again.clone()).await;
    store.record(lease, record_of("map", 1)).await;

    assert_eq!(store.queue.recorded(task.key).await.unwrap(), [record_of("map", 1), again]);
}

pub(crate) async fn each_end_leads_to_its_state(store: Subject<'_>) {
    use TaskStatus::{Cancelled, Failed, Paused, Queued, Succeeded, Waiting};
    let owner = scope("acme");
    let retry = TaskEnd::Retry { problem: problem("later"), wait_us: 5_000_000 };
    let ends = [
        (output(), Succeeded, None),
        (TaskEnd::Failed { problem: problem("no") }, Failed, Some("no")),
        (retry, Waiting, Some("later")),
        (TaskEnd::Cancelled, Cancelled, None),
        (TaskEnd::Paused, Paused, None),
        (TaskEnd::Released, Queued, None),
    ];
    for ((end, status, detail), number) in ends.into_iter().zip(1..) {
        let (_, lease) = store.held(&owner, new_task(number)).await;
        store.queue.expect(lease, 12).await.unwrap();

        store.end(lease, end).await;

        let task = store.now(&owner, number).await;
        assert_eq!((task.status, task.problem), (status, detail.map(problem)));
        assert_eq!(task.finished_at.is_some(), status.is_ended(), "{status:?}");
        assert_eq!(task.output, (status == Succeeded).then(|| json("{\"ok\":true}")));
        assert_eq!(task.ready_at.0 - task.created_at.0 >= 5_000_000, status == Waiting, "{status:?}");
        assert_eq!((task.total, task.tries), (Some(12), u32::from(status != Queued)));
        let again = store.queue.end(lease, output(), None, Vec::new()).await;
        assert!(matches!(again, Err(StoreError::LeaseLost { .. })), "{status:?}: {again:?}");
    }
    assert_eq!(store.queue.holders().await.unwrap(), []);
}

pub(crate) async fn ends_at_the_same_time_keep_to_their_tasks(store: Subject<'_>) {
    use TaskStatus::{Failed, Queued, Succeeded, Waiting};
    let owner = scope("acme");
    let mut held = Vec::new();
    for number in 0..40 {
        held.push((number, store.held(&owner, new_task(number)).await.1));
    }
    let all = join_all(held.iter().map(|(number, lease)| store.queue.expect(*lease, 100 + number))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");

    let end = |number: u64| match number % 4 {
        0 => (output(), Succeeded),
        1 => (TaskEnd::Failed { problem: problem(&number.to_string()) }, Failed),
        2 => (TaskEnd::Retry { problem: problem(&number.to_string()), wait_us: number }, Waiting),
        _ => (TaskEnd::Released, Queued),
    };
    let ends = held.iter().map(|(number, lease)| store.queue.end(*lease, end(*number).0, None, Vec::new()));
    let ended = join_all(ends).await;

    assert!(ended.iter().all(Result::is_ok), "{ended:?}");
    for number in 0..40 {
        let task = store.now(&owner, number).await;
        let status = end(number).1;
        let detail = task.problem.map(|problem| problem.detail);
        assert_eq!((task.status, task.total), (status, Some(100 + number)));
        assert_eq!(detail, matches!(status, Failed | Waiting).then(|| number.to_string()));
        assert_eq!(task.output.is_some(), status == Succeeded, "{number}");
    }
}

pub(crate) async fn the_queue_tells_the_first_of_each_line(store: Subject<'_>) {
    let (acme, other) = (scope("acme"), scope("other"));
    for (number, priority) in [(1, 0), (2, 5), (3, 0), (4, 5), (5, -1)] {
        store.submit(&acme, NewTask { priority, ..new_task(number) }).await;
    }
    store.submit(&acme, NewTask { kind: kind("ingest"), ..new_task(6) }).await;
    store.submit(&other, new_task(7)).await;
    store.held(&other, new_task(8)).await;
    store.held(&other, new_task(9)).await;
    let waiting = store.submit(&acme, NewTask { wait_us: 9_000_000, ..new_task(10) }).await;

    let view = store.queue.queue(Timestamp(waiting.ready_at.0 - 4), 3).await.unwrap();

    let mut expected = Vec::new();
    for (number, owner) in [(6, &acme), (2, &acme), (4, &acme), (1, &acme), (7, &other)] {
        let task = store.now(owner, number).await;
        let tenant = owner.tenant.clone();
        expected.push(QueueHead { key: task.key, tenant, kind: task.kind, priority: task.priority });
    }
    assert_eq!(view.heads, expected);
    assert_eq!(view.running, [(other.tenant, kind("map"), 2)]);
    assert_eq!(view.next_ready_us, Some(4));
    let late = store.queue.queue(Timestamp(waiting.ready_at.0 + 4), 3).await.unwrap();
    assert_eq!(late.next_ready_us, Some(0));
}

pub(crate) async fn a_waiting_task_is_in_line_once_its_time_has_come(store: Subject<'_>) {
    let owner = scope("acme");
    let soon = store.submit(&owner, NewTask { wait_us: 1_000_000, ..new_task(1) }).await;
    let later = store.submit(&owner, NewTask { wait_us: 3_600_000_000, ..new_task(2) }).await;
    assert_eq!((soon.status, soon.ready_at.0 - soon.created_at.0), (TaskStatus::Waiting, 1_000_000));

    let early = store.queue.promote_ready(Timestamp(soon.ready_at.0 - 1)).await.unwrap();
    let unready = store.claim(runner(1), soon.key).await;
    let due = store.queue.promote_ready(soon.ready_at).await.unwrap();

    assert_eq!((early, unready, due), (0, None, 1));
    assert!(store.claim(runner(1), soon.key).await.is_some());
    assert_eq!(store.now(&owner, 2).await, later);
}

pub(crate) async fn only_a_silent_runner_loses_its_tasks(store: Subject<'_>) {
    let owner = scope("acme");
    for (number, by) in [(1, 1), (2, 1), (3, 2)] {
        let task = store.submit(&owner, new_task(number)).await;
        store.claim(runner(by), task.key).await.unwrap();
    }
    store.queue.beat(runner(1)).await.unwrap();
    store.queue.beat(runner(1)).await.unwrap();
    let holders = store.queue.holders().await.unwrap();

    store.queue.beat(runner(1)).await.unwrap();
    let moved = store.queue.take_back(runner(1), 2).await.unwrap();
    let silent = store.queue.take_back(runner(1), 3).await.unwrap();

    assert_eq!(holders, [(runner(1), 2), (runner(2), 0)]);
    assert_eq!((moved, silent), (0, 2));
    assert_eq!(store.queue.holders().await.unwrap(), [(runner(2), 0)]);
    for (number, expected) in [(1, TaskStatus::Queued), (2, TaskStatus::Queued), (3, TaskStatus::Running)] {
        let task = store.now(&owner, number).await;
        assert_eq!((task.status, task.tries, task.epoch), (expected, 1, 1), "{number}");
    }
}

pub(crate) async fn a_process_that_has_just_started_takes_everything_back(store: Subject<'_>) {
    let owner = scope("acme");
    let (first, lease) = store.held(&owner, new_task(1)).await;
    let second = store.submit(&owner, new_task(2)).await;
    store.claim(runner(2), second.key).await.unwrap();
    store.queue.beat(runner(2)).await.unwrap();
    store.record(lease, record(0, 2)).await;

    let taken = store.queue.take_back_all(NOW).await.unwrap();

    assert_eq!((taken, store.queue.take_back_all(NOW).await.unwrap()), (2, 0));
    assert_eq!(store.queue.holders().await.unwrap(), []);
    assert_eq!(store.queue.recorded(first.key).await.unwrap(), [record(0, 2)]);
    let again = store.claim(runner(3), first.key).await.unwrap();
    assert_eq!((again.epoch, again.tries, again.done), (2, 1, 1));
}

pub(crate) async fn counts_follow_every_change(store: Subject<'_>) {
    use TaskStatus::{Paused, Queued, Running, Waiting};
    let owner = scope("acme");
    for number in 1..=6 {
        store.submit(&owner, new_task(number)).await;
    }
    store.submit(&scope("other"), new_task(7)).await;
    store.submit(&owner, NewTask { kind: kind("ingest"), wait_us: 1, ..new_task(8) }).await;
    let first = store.now(&owner, 1).await;
    let first = store.claim(runner(1), first.key).await.unwrap();
    store.tasks.wish(&owner, task_id(2), Wish::Pause).await.unwrap();
    store.tasks.wish(&owner, task_id(3), Wish::Cancel).await.unwrap();

    let counts = store.queue.counts().await.unwrap();

    let map = kind("map");
    let expected =
        [(kind("ingest"), Waiting, 1), (map.clone(), Paused, 1), (map.clone(), Queued, 4), (map.clone(), Running, 1)];
    assert_eq!(counts, expected);
    store.end(lease(&first, runner(1)), output()).await;
    assert_eq!(store.queue.counts().await.unwrap().iter().filter(|(_, status, _)| *status == Running).count(), 0);
}
