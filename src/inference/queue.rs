//! The owner threads of a model and the queue in front of them.
//!
//! Only the owners touch the sessions. Two lanes, each bounded in tokens: what somebody waits for goes first, so
//! an ingest of a million passages delays a query by one run and no more. Rows of callers that have gone are
//! thrown away before they run.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::InferenceError;
use super::batch::{BatchLimits, batch_len};
use super::pooling::{Extract, extract};
use super::session::{OnnxSession, Row};

/// How urgent a call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Somebody waits for the answer.
    Interactive,
    /// Ingest.
    Bulk,
}

/// Bounds of the queue and of each run.
#[derive(Debug, Clone, Copy)]
pub(super) struct QueueLimits {
    /// Most tokens waiting in each lane.
    pub queue_tokens: usize,
    pub batch: BatchLimits,
}

/// One vector for each row, in order.
type Reply = Result<Vec<Vec<f32>>, InferenceError>;

/// Something that runs batches; a session, or a stand-in in tests.
pub(super) trait Runner: Send + 'static {
    fn run(&mut self, rows: &[&Row], wanted: Extract) -> Result<Vec<Vec<f32>>, InferenceError>;
}

impl Runner for OnnxSession {
    fn run(&mut self, rows: &[&Row], wanted: Extract) -> Result<Vec<Vec<f32>>, InferenceError> {
        self.run(rows, |output| extract(&output, rows, wanted))
    }
}

/// A model's owner threads. Dropping it stops them after the run under way.
pub(super) struct ModelQueue {
    shared: Arc<Shared>,
    owners: Vec<JoinHandle<()>>,
}

struct Shared {
    model: String,
    limits: QueueLimits,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    interactive: Waiting,
    bulk: Waiting,
    stopped: bool,
}

#[derive(Default)]
struct Waiting {
    rows: VecDeque<WaitingRow>,
    tokens: usize,
}

struct WaitingRow {
    row: Row,
    /// Position in the caller's list.
    at: usize,
    call: Arc<Call>,
}

/// One caller's rows.
struct Call {
    wanted: Extract,
    progress: Mutex<Progress>,
}

struct Progress {
    results: Vec<Vec<f32>>,
    left: usize,
    reply: Option<oneshot::Sender<Reply>>,
}

impl ModelQueue {
    /// Starts one owner thread for each runner.
    pub fn start<R: Runner>(model: &str, runners: Vec<R>, limits: QueueLimits) -> Result<Self, InferenceError> {
        let shared =
            Arc::new(Shared { model: model.to_owned(), limits, state: Mutex::default(), wake: Condvar::new() });
        // Owners that were started before a failure end when the queue is dropped.
        let mut queue = Self { shared: Arc::clone(&shared), owners: Vec::with_capacity(runners.len()) };
        for (index, mut runner) in runners.into_iter().enumerate() {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name(format!("{model}-{index}"));
            let owner = thread.spawn(move || while shared.run_next(&mut runner) {});
            let failed = |error: std::io::Error| InferenceError::Unusable {
                model: model.to_owned(),
                detail: format!("its thread did not start: {error}"),
            };
            queue.owners.push(owner.map_err(failed)?);
        }
        Ok(queue)
    }

    /// Runs `rows` and waits for all results, in order. Fails at once with [`InferenceError::Overloaded`] when the
    /// lane is full; a call larger than the whole lane is taken only when nothing waits. Dropping the future takes
    /// the rows out of the queue.
    pub async fn run(&self, rows: Vec<Row>, wanted: Extract, lane: Lane) -> Reply {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let (sender, receiver) = oneshot::channel();
        self.shared.push(rows, wanted, (lane, sender))?;
        receiver.await.unwrap_or_else(|_| {
            let detail = "its owner thread has stopped".to_owned();
            Err(InferenceError::Failed { model: self.shared.model.clone(), detail })
        })
    }
}

impl Drop for ModelQueue {
    fn drop(&mut self) {
        self.shared.state.lock().stopped = true;
        self.shared.wake.notify_all();
        for owner in self.owners.drain(..) {
            // A panic of an owner was reported when it happened.
            let _ = owner.join();
        }
    }
}

impl Shared {
    fn push(
        &self,
        rows: Vec<Row>,
        wanted: Extract,
        (lane, reply): (Lane, oneshot::Sender<Reply>),
    ) -> Result<(), InferenceError> {
        let progress = Progress { results: vec![Vec::new(); rows.len()], left: rows.len(), reply: Some(reply) };
        let call = Arc::new(Call { wanted, progress: Mutex::new(progress) });
        let tokens: usize = rows.iter().map(|row| row.ids.len()).sum();
        let mut waiting: Vec<WaitingRow> =
            rows.into_iter().enumerate().map(|(at, row)| WaitingRow { row, at, call: Arc::clone(&call) }).collect();
        // Neighbours of like length form batches with little padding.
        waiting.sort_by_key(|waiting| std::cmp::Reverse(waiting.row.ids.len()));
        let mut state = self.state.lock();
        let lane = match lane {
            Lane::Interactive => &mut state.interactive,
            Lane::Bulk => &mut state.bulk,
        };
        if lane.tokens > 0 && lane.tokens + tokens > self.limits.queue_tokens {
            lane.drop_abandoned();
            if lane.tokens > 0 && lane.tokens + tokens > self.limits.queue_tokens {
                let limit_tokens = self.limits.queue_tokens;
                return Err(InferenceError::Overloaded { model: self.model.clone(), limit_tokens });
            }
        }
        lane.tokens += tokens;
        lane.rows.extend(waiting);
        drop(state);
        self.wake.notify_all();
        Ok(())
    }

    /// Waits for rows and runs one batch; false when the model is to stop.
    fn run_next<R: Runner>(&self, runner: &mut R) -> bool {
        let mut state = self.state.lock();
        let batch = loop {
            if state.stopped {
                return false;
            }
            let State { interactive, bulk, .. } = &mut *state;
            let batch = interactive.take(self.limits.batch).or_else(|| bulk.take(self.limits.batch));
            match batch {
                Some(batch) => break batch,
                None => self.wake.wait(&mut state),
            }
        };
        drop(state);
        let rows: Vec<&Row> = batch.iter().map(|waiting| &waiting.row).collect();
        match run_guarded(runner, &rows, batch[0].call.wanted) {
            Ok(results) => {
                batch.iter().zip(results).for_each(|(waiting, result)| waiting.call.give(waiting.at, result));
            }
            Err(detail) => {
                for waiting in &batch {
                    waiting.call.fail(InferenceError::Failed { model: self.model.clone(), detail: detail.clone() });
                }
            }
        }
        true
    }
}

/// A run that answers for every row, whatever happens: callers wait for their answers without a bound of their own.
fn run_guarded<R: Runner>(runner: &mut R, rows: &[&Row], wanted: Extract) -> Result<Vec<Vec<f32>>, String> {
    let outcome = catch_unwind(AssertUnwindSafe(|| runner.run(rows, wanted)));
    match outcome {
        Ok(Ok(results)) if results.len() == rows.len() => Ok(results),
        Ok(Ok(results)) => Err(format!("it gave {} results for {} rows", results.len(), rows.len())),
        // The caller's error names the model already.
        Ok(Err(InferenceError::Failed { detail, .. })) => Err(detail),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("it panicked".to_owned()),
    }
}

impl Waiting {
    /// The next batch; rows of callers that have gone are dropped on the way.
    fn take(&mut self, limits: BatchLimits) -> Option<Vec<WaitingRow>> {
        while self.rows.front()?.call.is_abandoned() {
            let dropped = self.rows.pop_front()?;
            self.tokens -= dropped.row.ids.len();
        }
        let wanted = self.rows.front()?.call.wanted;
        let alike = self.rows.iter().take_while(|waiting| waiting.call.wanted == wanted);
        let rows = batch_len(alike.map(|waiting| waiting.row.ids.len()), limits);
        let batch: Vec<WaitingRow> = self.rows.drain(..rows).collect();
        self.tokens -= batch.iter().map(|waiting| waiting.row.ids.len()).sum::<usize>();
        Some(batch)
    }

    fn drop_abandoned(&mut self) {
        self.rows.retain(|waiting| !waiting.call.is_abandoned());
        self.tokens = self.rows.iter().map(|waiting| waiting.row.ids.len()).sum();
    }
}

impl Call {
    fn is_abandoned(&self) -> bool {
        self.progress.lock().reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    fn give(&self, at: usize, result: Vec<f32>) {
        let mut progress = self.progress.lock();
        progress.results[at] = result;
        progress.left -= 1;
        if progress.left == 0
            && let Some(reply) = progress.reply.take()
        {
            // The caller may have gone meanwhile; then nobody wants the result.
            let _ = reply.send(Ok(std::mem::take(&mut progress.results)));
        }
    }

    fn fail(&self, error: InferenceError) {
        if let Some(reply) = self.progress.lock().reply.take() {
            let _ = reply.send(Err(error));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// First ids of rows that make a run go wrong.
    const POISON: u32 = 666;
    const PANIC: u32 = 667;
    const LOSS: u32 = 668;

    /// Answers each row with its length and the number of rows it ran with; waits for a signal before each run.
    struct Gated {
        gate: mpsc::Receiver<()>,
        ran: mpsc::Sender<Vec<usize>>,
    }

    impl Runner for Gated {
        fn run(&mut self, rows: &[&Row], _: Extract) -> Result<Vec<Vec<f32>>, InferenceError> {
            self.ran.send(rows.iter().map(|row| row.ids.len()).collect()).unwrap();
            self.gate.recv().unwrap();
            match rows[0].ids[0] {
                POISON => return Err(InferenceError::Failed { model: "m".into(), detail: "poison".into() }),
                PANIC => panic!("a bug"),
                LOSS => return Ok(Vec::new()),
                _ => {}
            }
            Ok(rows.iter().map(|row| vec![row.ids.len() as f32]).collect())
        }
    }

    /// The gate goes first: an owner that waits for it would keep the queue from stopping.
    struct Bench {
        open: mpsc::Sender<()>,
        ran: mpsc::Receiver<Vec<usize>>,
        queue: Arc<ModelQueue>,
    }

    fn bench(queue_tokens: usize) -> Bench {
        let ((open, gate), (ran, seen)) = (mpsc::channel(), mpsc::channel());
        let limits = QueueLimits { queue_tokens, batch: BatchLimits { tokens: 100, rows: 4 } };
        let queue = ModelQueue::start("m", vec![Gated { gate, ran }], limits).unwrap();
        Bench { queue: Arc::new(queue), open, ran: seen }
    }

    fn row(tokens: usize) -> Row {
        Row { ids: vec![1; tokens], type_ids: vec![0; tokens] }
    }

    impl Bench {
        fn call(&self, rows: Vec<Row>, lane: Lane) -> tokio::task::JoinHandle<Reply> {
            let queue = Arc::clone(&self.queue);
            tokio::spawn(async move { queue.run(rows, Extract::Plain, lane).await })
        }

        /// Lengths of the run that is now under way.
        async fn running(&self) -> Vec<usize> {
            loop {
                match self.ran.try_recv() {
                    Ok(lengths) => return lengths,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        }

        async fn waiting(&self, rows: usize) {
            let count = || {
                let state = self.queue.shared.state.lock();
                state.interactive.rows.len() + state.bulk.rows.len()
            };
            while count() != rows {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn results_come_in_the_callers_order() {
        let bench = bench(1_000);
        let call = bench.call(vec![row(3), row(50), row(4), row(49)], Lane::Bulk);
        (0..4).for_each(|_| bench.open.send(()).unwrap());

        assert_eq!(call.await.unwrap().unwrap(), [[3.0], [50.0], [4.0], [49.0]]);
        assert_eq!(bench.running().await, [50, 49], "rows of like length run together");
    }

    #[tokio::test]
    async fn a_query_overtakes_waiting_passages() {
        let bench = bench(1_000);
        let first = bench.call(vec![row(90)], Lane::Bulk);
        assert_eq!(bench.running().await, [90]);
        let passages = bench.call(vec![row(80), row(80)], Lane::Bulk);
        bench.waiting(2).await;
        let query = bench.call(vec![row(7)], Lane::Interactive);
        bench.waiting(3).await;

        bench.open.send(()).unwrap();
        assert_eq!(bench.running().await, [7]);
        (0..3).for_each(|_| bench.open.send(()).unwrap());

        assert_eq!(query.await.unwrap().unwrap(), [[7.0]]);
        assert!(first.await.unwrap().is_ok() && passages.await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn rows_of_a_caller_that_has_gone_do_not_run() {
        let bench = bench(1_000);
        let first = bench.call(vec![row(90)], Lane::Bulk);
        assert_eq!(bench.running().await, [90]);
        let gone = bench.call(vec![row(80), row(81)], Lane::Bulk);
        bench.waiting(2).await;
        gone.abort();
        assert!(gone.await.unwrap_err().is_cancelled());
        let last = bench.call(vec![row(5)], Lane::Bulk);
        bench.waiting(3).await;

        bench.open.send(()).unwrap();

        assert_eq!(bench.running().await, [5]);
        bench.open.send(()).unwrap();
        assert!(first.await.unwrap().is_ok() && last.await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_full_lane_refuses_and_the_other_lane_does_not() {
        let bench = bench(100);
        let first = bench.call(vec![row(90)], Lane::Bulk);
        assert_eq!(bench.running().await, [90]);
        let large = bench.call(vec![row(500)], Lane::Bulk);
        bench.waiting(1).await;

        let refused = bench.queue.run(vec![row(1)], Extract::Plain, Lane::Bulk).await;
        let query = bench.call(vec![row(1)], Lane::Interactive);
        bench.waiting(2).await;

        assert!(matches!(refused, Err(InferenceError::Overloaded { limit_tokens: 100, .. })));
        (0..3).for_each(|_| bench.open.send(()).unwrap());
        for call in [first, large, query] {
            assert!(call.await.unwrap().is_ok());
        }
    }

    #[tokio::test]
    async fn a_failed_run_fails_its_callers_and_no_others() {
        let bench = bench(1_000);
        (0..4).for_each(|_| bench.open.send(()).unwrap());

        for id in [POISON, PANIC, LOSS] {
            let wrong = Row { ids: vec![id], type_ids: vec![0] };
            let failed = bench.queue.run(vec![wrong], Extract::Plain, Lane::Bulk).await;
            assert!(matches!(failed, Err(InferenceError::Failed { .. })), "{id}");
        }
        let fine = bench.queue.run(vec![row(20)], Extract::Plain, Lane::Bulk).await;

        assert!(fine.is_ok());
    }
}
