//! What a runner does while its store fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use serde_json::json as value;

use crate::domain::{
    ErrorKind, FailureDay, RunnerId, StepName, StepRecord, Task, TaskFailure, TaskKey, TaskKind, TaskStatus, Timestamp,
    Wish,
};
use crate::store::{ClaimWish, Lease, LedgerEntry, OpenCall, QueueView, SqliteStore, StoreError, TaskEnd, TaskQueue};
use crate::tasks::TaskSettings;

use super::world::{Diary, Gate, World, json, kind, quick};

/// A store whose signs of life and records fail so many times.
struct Faulty {
    store: Arc<SqliteStore>,
    beats: AtomicUsize,
    checkpoints: AtomicUsize,
    ends: AtomicUsize,
}

impl Faulty {
    fn new(world: &World, beats: usize, checkpoints: usize, ends: usize) -> Arc<Self> {
        let [beats, checkpoints, ends] = [beats, checkpoints, ends].map(AtomicUsize::new);
        Arc::new(Self { store: Arc::clone(&world.store), beats, checkpoints, ends })
    }
}

/// Fails as long as there are failures left.
fn use_up(left: &AtomicUsize) -> Result<(), StoreError> {
    let taken = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
    taken.map_or(Ok(()), |_| Err(StoreError::Overloaded { limit: 1 }))
}

type Answer<T> = Result<T, StoreError>;

#[async_trait]
impl TaskQueue for Faulty {
    async fn promote_ready(&self, now: Timestamp) -> Answer<u64> {
        self.store.promote_ready(now).await
    }
    async fn queue(&self, now: Timestamp, per_line: usize) -> Answer<QueueView> {
        self.store.queue(now, per_line).await
    }
    async fn claim(&self, runner: RunnerId, wishes: Vec<ClaimWish>, now: Timestamp) -> Answer<Vec<Option<Task>>> {
        self.store.claim(runner, wishes, now).await
    }
    async fn recorded(&self, key: TaskKey) -> Answer<Vec<StepRecord>> {
        self.store.recorded(key).await
    }
    async fn failed_attempts(&self, key: TaskKey) -> Answer<Vec<(StepName, u32, u32)>> {
        self.store.failed_attempts(key).await
    }
    async fn open_call(&self, lease: Lease, place: (u32, u32), call: OpenCall) -> Answer<u32> {
        self.store.open_call(lease, place, call).await
    }
    async fn checkpoint(&self, lease: Lease, record: StepRecord, ledger: Vec<LedgerEntry>) -> Answer<()> {
        use_up(&self.checkpoints)?;
        self.store.checkpoint(lease, record, ledger).await
    }
    async fn note_failure(&self, lease: Lease, failure: TaskFailure, ledger: Vec<LedgerEntry>) -> Answer<()> {
        self.store.note_failure(lease, failure, ledger).await
    }
    async fn expect(&self, lease: Lease, total: u64) -> Answer<()> {
        self.store.expect(lease, total).await
    }
    async fn end(
        &self,
        lease: Lease,
        end: TaskEnd,
        failure: Option<TaskFailure>,
        ledger: Vec<LedgerEntry>,
    ) -> Answer<()> {
        use_up(&self.ends)?;
        self.store.end(lease, end, failure, ledger).await
    }
    async fn wishes(&self, runner: RunnerId) -> Answer<Vec<(TaskKey, Wish)>> {
        self.store.wishes(runner).await
    }
    async fn beat(&self, runner: RunnerId) -> Answer<()> {
        use_up(&self.beats)?;
        self.store.beat(runner).await
    }
    async fn holders(&self) -> Answer<Vec<(RunnerId, u64)>> {
        self.store.holders().await
    }
    async fn take_back(&self, runner: RunnerId, beat: u64) -> Answer<u64> {
        self.store.take_back(runner, beat).await
    }
    async fn take_back_all(&self, now: Timestamp) -> Answer<u64> {
        self.store.take_back_all(now).await
    }
    async fn failure_days_of_all(&self, since: Timestamp) -> Answer<Vec<FailureDay>> {
        self.store.failure_days_of_all(since).await
    }
    async fn counts(&self) -> Answer<Vec<(TaskKind, TaskStatus, u64)>> {
        self.store.counts().await
    }
}

/// One step, which waits at the gate.
async fn world(diary: &Diary, gate: &Arc<Gate>, settings: TaskSettings) -> World {
    let (diary, gate) = (diary.clone(), Arc::clone(gate));
    let handler = kind("gated", move |work| {
        let (diary, gate) = (diary.clone(), Arc::clone(&gate));
        Box::pin(async move {
            let done = work.step("step", &0, async move |input: u32, _| {
                diary.write("step");
                gate.pass().await;
                Ok(input)
            });
            json(done.await?)
        })
    });
    World::with(vec![handler], settings).await
}

#[tokio::test]
async fn a_runner_that_cannot_give_a_sign_of_life_for_a_whole_lease_drops_its_work() {
    let (diary, gate) = (Diary::default(), Gate::new());
    let world = world(&diary, &gate, TaskSettings { lease_ms: 150, ..quick() }).await;
    let runner = world.runner_on(Faulty::new(&world, 5, 0, 0), world.settings.clone());
    let task = world.submit("gated", value!({})).await;

    // Dropped in the middle of its step, put back in line and begun again.
    gate.reached(2).await;
    gate.open();
    let task = world.until(task.id, TaskStatus::Succeeded).await;

    assert!(task.epoch >= 2, "{task:?}");
    assert_eq!(world.failures(&task).await, []);
    runner.shutdown().await;
}

#[tokio::test]
async fn a_step_that_could_not_be_recorded_is_done_again() {
    let (diary, gate) = (Diary::default(), Gate::new());
    gate.open();
    let world = world(&diary, &gate, quick()).await;
    let runner = world.runner_on(Faulty::new(&world, 0, 1, 0), world.settings.clone());

    let task = world.submit("gated", value!({})).await;
    let task = world.until(task.id, TaskStatus::Succeeded).await;

    assert_eq!(diary.read(), ["step", "step"]);
    let rows = world.failures(&task).await;
    assert_eq!((rows.len(), rows[0].problem.kind, rows[0].is_final), (1, ErrorKind::Unavailable, false));
    runner.shutdown().await;
}

#[tokio::test]
async fn an_end_that_could_not_be_written_is_written_later() {
    let (diary, gate) = (Diary::default(), Gate::new());
    gate.open();
    let world = world(&diary, &gate, quick()).await;
    let runner = world.runner_on(Faulty::new(&world, 0, 0, 3), world.settings.clone());

    let task = world.submit("gated", value!({})).await;
    let task = world.until(task.id, TaskStatus::Succeeded).await;

    assert_eq!((diary.count("step"), task.epoch), (1, 1));
    runner.shutdown().await;
}

#[tokio::test]
async fn a_runner_whose_store_is_closed_stops_and_leaves_its_tasks_to_the_next_process() {
    let (diary, gate) = (Diary::default(), Gate::new());
    let world = world(&diary, &gate, TaskSettings { shutdown_grace_ms: 20, ..quick() }).await;
    let runner = world.runner();
    world.submit("gated", value!({})).await;
    gate.reached(1).await;

    world.store.close().await.unwrap();

    // Without being told: its look at the queue tells it.
    super::world::becomes_true(|| runner.stop.is_cancelled()).await;
    runner.shutdown().await;
    assert_eq!(diary.count("step"), 1);
}
