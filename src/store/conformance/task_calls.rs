//! Promises about the calls to language models that steps make.

use crate::domain::{Amount, LlmCall, Nanousd, PromptVersion, StepRecord, TraceStep, UsageSource};
use crate::store::{Lease, LedgerEntry, NewTask, OpenCall, StoreError, TaskCost, TaskEnd};

use super::fixture::{Subject, scope};
use super::ledger::{account, amount, call, call_id, reservation};
use super::task_fixture::{failure, lease, new_task, output, problem, record, record_of, runner, step, task_id};

/// A call that may cost 500 and has reserved that much in two accounts.
fn open(number: u64) -> OpenCall {
    OpenCall {
        call_id: call_id(number),
        task: "answer".into(),
        provider: "mock".into(),
        model: "small".into(),
        prompt: Some(PromptVersion { name: "map".into(), version: "3".into(), hash: "ab".repeat(32) }),
        input_tokens: 700,
        output_tokens: 300,
        worst_case: amount(500),
        reservation: Some(reservation(number, &[account("everything"), account("tenant:acme")], amount(500))),
    }
}

/// What the call truly cost: its number, in the trace of the task with this number.
fn ended(number: u64, task: u64) -> Vec<LedgerEntry> {
    let charges = ["everything", "tenant:acme"].map(|name| (account(name), amount(number)));
    let row = LlmCall { trace_id: new_task(task).trace_id, ..call("acme", number) };
    let settle = LedgerEntry::Settle { call_id: call_id(number), charges: charges.into() };
    vec![LedgerEntry::Call(Box::new(row)), settle]
}

impl Subject<'_> {
    async fn open_call(&self, lease: Lease, item: u32, call: OpenCall) -> u32 {
        self.queue.open_call(lease, (0, item), call).await.unwrap()
    }

    /// The calls of the task with this number.
    async fn calls(&self, task: u64) -> Vec<LlmCall> {
        let story = self.ledger.trace(&scope("acme"), new_task(task).trace_id).await.unwrap();
        story.map(|story| story.calls).unwrap_or_default()
    }

    async fn spent(&self) -> Vec<Amount> {
        self.spent_since(0).await.into_values().collect()
    }
}

pub(crate) async fn an_item_its_calls_and_their_settlement_are_written_together(store: Subject<'_>) {
    let owner = scope("acme");
    let (task, lease) = store.held(&owner, new_task(1)).await;

    let attempts = store.open_call(lease, 0, open(7)).await;
    let reserved = store.ledger.reservations().await.unwrap();
    store.queue.checkpoint(lease, record(0, 1), ended(7, 1)).await.unwrap();
    store.end(lease, output()).await;

    assert_eq!((attempts, reserved), (0, vec![open(7).reservation.unwrap()]));
    assert_eq!(store.ledger.reservations().await.unwrap(), []);
    assert_eq!(store.spent().await, [amount(7); 2]);
    assert_eq!(store.calls(1).await.len(), 1, "a call whose end is known is not counted as unknown");
    assert_eq!(store.queue.recorded(task.key).await.unwrap(), [record(0, 1)]);
}

pub(crate) async fn a_failed_attempt_takes_its_calls_along(store: Subject<'_>) {
    let owner = scope("acme");
    let (task, lease) = store.held(&owner, new_task(1)).await;
    store.open_call(lease, 0, open(7)).await;

    store.queue.note_failure(lease, failure(&task, Some(("read", 0)), 1), ended(7, 1)).await.unwrap();
    store.end(lease, TaskEnd::Failed { problem: problem("no") }).await;

    assert_eq!(store.calls(1).await.len(), 1);
    assert_eq!(store.spent().await, [amount(7); 2]);
}

pub(crate) async fn attempts_of_a_call_go_on_where_they_were(store: Subject<'_>) {
    let owner = scope("acme");
    let (task, lease) = store.held(&owner, new_task(1)).await;
    let first = store.open_call(lease, 0, open(7)).await;
    let entries = [ended(7, 1), vec![LedgerEntry::Call(Box::new(LlmCall { attempt: 4, ..call("acme", 7) }))]].concat();
    store.queue.note_failure(lease, failure(&task, Some(("read", 0)), 1), entries).await.unwrap();

    let second = store.open_call(lease, 0, open(7)).await;
    let again = store.open_call(lease, 0, open(7)).await;

    assert_eq!((first, second, again), (0, 4, 4));
    assert_eq!(store.ledger.reservations().await.unwrap().len(), 1);
}

/// Leaves two calls open, lets go of the task in one of four ways, and claims it again.
pub(crate) async fn a_call_that_nobody_ended_is_counted_once_at_its_worst(store: Subject<'_>) {
    let owner = scope("acme");
    for (way, number) in ["end", "retry", "take_back", "take_back_all"].into_iter().zip(1..) {
        let session_id = Some(format!("{way} ' \" \\ \u{1} \u{0} 🦀"));
        let new = NewTask { session_id: session_id.clone(), ..new_task(number) };
        let (task, lease_of_task) = store.held(&owner, new).await;
        let (with, without) = (100 * number, 100 * number + 1);
        store.open_call(lease_of_task, 0, open(with)).await;
        store.open_call(lease_of_task, 1, OpenCall { reservation: None, ..open(without) }).await;
        let spent = store.spent().await.first().copied().unwrap_or_default();

        match way {
            "end" => store.end(lease_of_task, TaskEnd::Released).await,
            "retry" => store.end(lease_of_task, TaskEnd::Retry { problem: problem("later"), wait_us: 0 }).await,
            "take_back" => drop(store.queue.take_back(runner(1), 0).await.unwrap()),
            _ => drop(store.queue.take_back_all(super::task_fixture::NOW).await.unwrap()),
        }
        store.queue.promote_ready(crate::domain::Timestamp(i64::MAX)).await.unwrap();
        let task = store.claim(runner(2), task.key).await.unwrap();

        let calls = store.calls(number).await;
        assert_eq!(calls.iter().map(|call| call.call_id).collect::<Vec<_>>(), [with, without].map(call_id), "{way}");
        for call in calls {
            assert_eq!(
                (call.outcome.as_str(), call.usage_source, call.attempt),
                ("unknown", UsageSource::WorstCase, 1)
            );
            assert_eq!((call.usage.input_tokens, call.usage.output_tokens, call.cost), (700, 300, Nanousd(500)));
            assert_eq!((call.task.as_str(), &call.prompt), ("answer", &open(with).prompt));
            assert_eq!(call.session_id, session_id);
        }
        assert_eq!(store.ledger.reservations().await.unwrap(), [], "{way}");
        assert_eq!(store.spent().await, [spent + amount(500); 2], "{way}");
        assert_eq!(store.open_call(lease(&task, runner(2)), 0, open(with)).await, 1, "{way}");
        store.queue.checkpoint(lease(&task, runner(2)), record(0, 1), ended_again(with, number)).await.unwrap();
        store.end(lease(&task, runner(2)), output()).await;
        assert_eq!(store.calls(number).await.len(), 3, "{way}");
    }
}

/// As [`ended`], with the second attempt and nothing to charge.
fn ended_again(number: u64, task: u64) -> Vec<LedgerEntry> {
    let row = LlmCall { attempt: 2, trace_id: new_task(task).trace_id, ..call("acme", number) };
    let settle = LedgerEntry::Settle { call_id: call_id(number), charges: Vec::new() };
    vec![LedgerEntry::Call(Box::new(row)), settle]
}

pub(crate) async fn a_call_under_a_lost_lease_is_not_opened(store: Subject<'_>) {
    let owner = scope("acme");
    let (_, lease) = store.held(&owner, new_task(1)).await;
    let lost = Lease { epoch: lease.epoch + 1, ..lease };

    let refused = store.queue.open_call(lost, (0, 0), open(7)).await;
    store.end(lease, output()).await;

    assert!(matches!(refused, Err(StoreError::LeaseLost { .. })), "{refused:?}");
    assert_eq!(store.ledger.reservations().await.unwrap(), [], "nothing is spent by a call that is not made");
    assert_eq!(store.calls(1).await, []);
}

pub(crate) async fn what_a_task_has_cost_is_the_sum_over_its_calls(store: Subject<'_>) {
    let owner = scope("acme");
    let (task, lease) = store.held(&owner, new_task(1)).await;
    assert_eq!(store.tasks.cost(&task).await.unwrap(), TaskCost::default());
    store.queue.checkpoint(lease, record(0, 2), ended(7, 1)).await.unwrap();
    store.open_call(lease, 1, open(8)).await;
    let other = LlmCall { trace_id: task.trace_id, ..call("other", 9) };
    store.ledger.record(vec![LedgerEntry::Call(Box::new(other))]).await.unwrap();

    store.end(lease, output()).await;

    let cost = TaskCost { calls: 2, input_tokens: 710, output_tokens: 303, cost: Nanousd(507) };
    assert_eq!(store.tasks.cost(&task).await.unwrap(), cost);
}

pub(crate) async fn a_trace_tells_steps_and_failures(store: Subject<'_>) {
    let owner = scope("acme");
    let (task, lease) = store.held(&owner, NewTask { total: Some(3), ..new_task(1) }).await;
    let second = StepRecord { attempt: 2, ..record(1, 2) };
    store.record(lease, second.clone()).await;
    store.record(lease, record(0, 2)).await;
    store.queue.note_failure(lease, failure(&task, Some(("read", 1)), 1), Vec::new()).await.unwrap();
    store.end(lease, output()).await;
    let rerun = crate::store::Rerun { before: None, trace_id: new_task(2).trace_id, max_open: 1_000 };
    let again = store.tasks.rerun(&owner, task_id(1), rerun).await.unwrap().unwrap();
    let again = store.claim(runner(1), again.key).await.unwrap();
    store.record(super::lease(&again, runner(1)), record_of("map", 1)).await;

    let story = store.ledger.trace(&owner, task.trace_id).await.unwrap().unwrap();
    let of_rerun = store.ledger.trace(&owner, again.trace_id).await.unwrap().unwrap();

    let told = |record: &StepRecord, run: u32| TraceStep {
        task_id: task.id,
        run,
        kind: task.kind.clone(),
        step: record.step.clone(),
        item: record.item,
        of: record.of,
        attempt: record.attempt,
        started_at: record.started_at,
        finished_at: record.finished_at,
    };
    assert_eq!(story.steps, [told(&record(0, 2), 1), told(&second, 1)]);
    assert_eq!(story.failures, [failure(&task, Some(("read", 1)), 1)]);
    assert_eq!(of_rerun.steps, [told(&record_of("map", 1), 2)], "steps that were taken over were done before");
    assert_eq!(store.ledger.trace(&scope("other"), task.trace_id).await.unwrap(), None);
    assert_eq!(store.tasks.steps(&again).await.unwrap()[0].step, step("read"));
}
