//! Random lives of a few tasks, against what a plain list would hold.

use proptest::prelude::*;

use crate::domain::{TaskStatus, Wish};
use crate::store::{Lease, StoreError, TaskEnd};

use super::fixture::{Subject, scope};
use super::task_fixture::{NOW, new_task, output, problem, record, runner, task_id};

const TASKS: u64 = 3;

/// Something that happens to a task.
#[derive(Debug, Clone)]
pub(crate) enum Deed {
    Submit(u64),
    Claim(u64, u64),
    /// The number is added to the epoch: 0 is the present lease.
    Checkpoint(u64, u32, u64),
    End(u64, u8),
    Wish(u64, Wish),
    TakeBack(u64),
    Promote,
}

pub(crate) fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let task = || 0..TASKS;
    let wish = prop_oneof![Just(Wish::Cancel), Just(Wish::Pause), Just(Wish::Resume)];
    let deed = prop_oneof![
        2 => task().prop_map(Deed::Submit),
        4 => (task(), 1..3_u64).prop_map(|(task, by)| Deed::Claim(task, by)),
        4 => (task(), 0..4_u32, 0..2_u64).prop_map(|(task, item, ahead)| Deed::Checkpoint(task, item, ahead)),
        2 => (task(), 0..6_u8).prop_map(|(task, end)| Deed::End(task, end)),
        2 => (task(), wish).prop_map(|(task, wish)| Deed::Wish(task, wish)),
        1 => (1..3_u64).prop_map(Deed::TakeBack),
        2 => Just(Deed::Promote),
    ];
    prop::collection::vec(deed, 1..40)
}

#[derive(Debug, Clone, Default)]
struct Model {
    /// `None`: not submitted yet.
    status: Option<TaskStatus>,
    epoch: u64,
    tries: u32,
    holder: u64,
    wish: Option<Wish>,
    items: std::collections::BTreeSet<u32>,
    items_at_claim: usize,
}

impl Model {
    fn let_go(&mut self, status: TaskStatus) {
        self.status = Some(match self.wish.take() {
            Some(Wish::Cancel) if !status.is_ended() => TaskStatus::Cancelled,
            Some(Wish::Pause) if !status.is_ended() => TaskStatus::Paused,
            _ => status,
        });
    }

    fn grant(&mut self, wish: Wish) {
        use TaskStatus::{Cancelled, Paused, Queued, Running, Waiting};
        match (wish, self.status) {
            (Wish::Cancel, Some(Queued | Waiting | Paused)) => self.status = Some(Cancelled),
            (Wish::Pause, Some(Queued | Waiting)) => self.status = Some(Paused),
            (Wish::Resume, Some(Paused)) => self.status = Some(Queued),
            (Wish::Cancel, Some(Running)) => self.wish = Some(wish),
            (Wish::Pause, Some(Running)) => self.wish = self.wish.or(Some(wish)),
            _ => {}
        }
    }

    fn is_running(&self) -> bool {
        self.status == Some(TaskStatus::Running)
    }
}

/// Lets it all happen, and compares after each deed.
pub(crate) async fn live(store: Subject<'_>, deeds: &[Deed]) {
    let owner = scope("acme");
    let mut models = vec![Model::default(); TASKS as usize];
    for deed in deeds {
        apply(store, deed, &mut models).await;
        for (model, number) in models.iter().zip(0..) {
            let task = store.tasks.task(&owner, task_id(number), None).await.unwrap();
            let found = task.map(|task| (task.status, task.epoch, task.tries, task.wish, task.done));
            let expected =
                model.status.map(|status| (status, model.epoch, model.tries, model.wish, model.items.len() as u64));
            assert_eq!(found, expected, "task {number} after {deed:?}");
        }
    }
    let open = models.iter().filter(|model| model.status.is_some_and(|status| !status.is_ended())).count();
    let counted: u64 = store.queue.counts().await.unwrap().iter().map(|(_, _, number)| number).sum();
    assert_eq!(counted, open as u64);
}

async fn apply(store: Subject<'_>, deed: &Deed, models: &mut [Model]) {
    let owner = scope("acme");
    match deed {
        Deed::Submit(number) => {
            let submitted = store.tasks.submit(&owner, new_task(*number)).await.unwrap();
            let model = &mut models[*number as usize];
            assert_eq!(submitted.is_new, model.status.is_none());
            model.status = model.status.or(Some(TaskStatus::Queued));
        }
        Deed::Claim(number, by) => claim(store, (*number, *by), &mut models[*number as usize]).await,
        Deed::Checkpoint(number, item, ahead) => {
            let model = &mut models[*number as usize];
            let Some(lease) = lease_of(store, *number, model, *ahead).await else { return };
            let written = store.queue.checkpoint(lease, record(*item, 4), Vec::new()).await;
            if model.is_running() && *ahead == 0 {
                written.unwrap();
                model.items.insert(*item);
            } else {
                assert!(matches!(written, Err(StoreError::LeaseLost { .. })), "{written:?}");
            }
        }
        Deed::End(number, way) => end(store, (*number, *way), &mut models[*number as usize]).await,
        Deed::Wish(number, wish) => {
            store.tasks.wish(&owner, task_id(*number), *wish).await.unwrap();
            models[*number as usize].grant(*wish);
        }
        Deed::TakeBack(by) => {
            let taken = store.queue.take_back(runner(*by), 0).await.unwrap();
            let held = models.iter_mut().filter(|model| model.is_running() && model.holder == *by);
            let count = held.map(|model| model.let_go(TaskStatus::Queued)).count();
            assert_eq!(taken, count as u64);
        }
        Deed::Promote => {
            store.queue.promote_ready(crate::domain::Timestamp(i64::MAX)).await.unwrap();
            for model in models.iter_mut().filter(|model| model.status == Some(TaskStatus::Waiting)) {
                model.status = Some(TaskStatus::Queued);
            }
        }
    }
}

async fn lease_of(store: Subject<'_>, number: u64, model: &Model, ahead: u64) -> Option<Lease> {
    model.status?;
    let task = store.now(&scope("acme"), number).await;
    Some(Lease { key: task.key, runner: runner(model.holder), epoch: model.epoch + ahead })
}

async fn claim(store: Subject<'_>, (number, by): (u64, u64), model: &mut Model) {
    if model.status.is_none() {
        return;
    }
    let key = store.now(&scope("acme"), number).await.key;
    let wish = super::task_fixture::without_limits(key);
    let claimed = store.queue.claim(runner(by), vec![wish], NOW).await.unwrap().remove(0);
    assert_eq!(claimed.is_some(), model.status == Some(TaskStatus::Queued));
    if claimed.is_some() {
        model.status = Some(TaskStatus::Running);
        model.epoch += 1;
        model.holder = by;
        model.tries = if model.items.len() > model.items_at_claim { 1 } else { model.tries + 1 };
        model.items_at_claim = model.items.len();
    }
}

async fn end(store: Subject<'_>, (number, way): (u64, u8), model: &mut Model) {
    let (end, status) = match way {
        0 => (output(), TaskStatus::Succeeded),
        1 => (TaskEnd::Failed { problem: problem("no") }, TaskStatus::Failed),
        2 => (TaskEnd::Retry { problem: problem("later"), wait_us: 9 }, TaskStatus::Waiting),
        3 => (TaskEnd::Cancelled, TaskStatus::Cancelled),
        4 => (TaskEnd::Paused, TaskStatus::Paused),
        _ => (TaskEnd::Released, TaskStatus::Queued),
    };
    let Some(lease) = lease_of(store, number, model, 0).await else { return };
    let ended = store.queue.end(lease, end, None, Vec::new()).await;
    assert_eq!(ended.is_ok(), model.is_running(), "{ended:?}");
    if model.is_running() {
        model.let_go(status);
        model.tries -= u32::from(way > 4);
    }
}
