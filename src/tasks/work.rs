//! A task under way, as its handler sees it.
//!
//! A step is recorded in one transaction with its calls, and only then returned: what was recorded is never done again.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use metrics::histogram;
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::task::TaskTracker;
use tracing::field::Empty;
use tracing::{Instrument, info_span};

use crate::domain::{ContentHash, ErrorKind, JsonText, StepName, StepRecord, Task, TaskFailure, TaskProblem};
use crate::store::{CallJournal, Lease, StoreError};

use super::contract::{TaskError, TaskFault};
use super::held::{Hold, Signal};
use super::housekeeping::count_failure;
use super::journal::{Book, ItemPlace, Journal};
use super::runner::Shared;

/// A task under way.
pub struct Work {
    pub(super) task: Task,
    pub(super) book: Arc<Book>,
    pub(super) hold: Hold,
    /// Writes that have begun: they end, and are waited for, also where whoever asked for them has gone.
    pub(super) writes: TaskTracker,
    shared: Arc<Shared>,
    /// How often each item has failed.
    failed: HashMap<(StepName, u32), u32>,
    steps: Mutex<Steps>,
    /// It has recorded something since it was claimed.
    pub(super) progressed: AtomicBool,
    /// A step was told to stop.
    pub(super) stopped: AtomicBool,
    /// Failures that steps returned; each has its row.
    returned: Mutex<Vec<TaskFault>>,
}

/// What is known of the task's steps.
#[derive(Default)]
struct Steps {
    named: HashSet<StepName>,
    /// Items that were recorded before, of steps that were not named yet.
    recorded: HashMap<StepName, Recorded>,
    /// Items of the steps that were named.
    items: u64,
    /// Items in all, as the store knows it.
    total: Option<u64>,
}

/// Hash of the input, and the output, of each recorded item.
type Recorded = HashMap<u32, (ContentHash, JsonText)>;

/// A step that the handler has named.
struct Step {
    name: StepName,
    position: u32,
    of: u32,
    recorded: Recorded,
}

impl Step {
    /// The recorded output of an item, if it was done with this input. One that this program cannot read is done again.
    fn output<T: DeserializeOwned>(&self, number: u32, input: ContentHash) -> Option<T> {
        let (_, output) = self.recorded.get(&number).filter(|(of, _)| *of == input)?;
        output.read().ok()
    }
}

/// An item of a step under way.
pub struct Item {
    /// From 0.
    pub number: u32,
    /// From 1.
    pub attempt: u32,
    journal: Arc<dyn CallJournal>,
}

impl Item {
    /// Where the item's calls to language models are kept; goes into their context.
    pub fn journal(&self) -> Arc<dyn CallJournal> {
        Arc::clone(&self.journal)
    }
}

/// Items that fail in a row, not by their own fault, after which a step tries no more.
const GIVE_UP_AFTER: u32 = 10;

/// True for failures that say something about the item, nothing about the next.
fn is_items_own(kind: ErrorKind) -> bool {
    match kind {
        ErrorKind::InvalidInput
        | ErrorKind::Unprocessable
        | ErrorKind::NotFound
        | ErrorKind::Conflict
        | ErrorKind::TooLarge
        | ErrorKind::UnsupportedMediaType => true,
        ErrorKind::Unauthenticated
        | ErrorKind::Forbidden
        | ErrorKind::RateLimited
        | ErrorKind::Unavailable
        | ErrorKind::DeadlineExceeded
        | ErrorKind::StorageFull
        | ErrorKind::Corrupt
        | ErrorKind::Upstream
        | ErrorKind::Internal => false,
    }
}

impl Work {
    pub(super) fn new(shared: Arc<Shared>, task: Task, hold: Hold) -> Self {
        let lease = Lease { key: task.key, runner: shared.id, epoch: task.epoch };
        let book = Book::new(Arc::clone(&shared.parts.queue), lease, (task.id, task.run));
        let steps = Steps { total: task.total, ..Steps::default() };
        Self {
            task,
            book: Arc::new(book),
            hold,
            writes: TaskTracker::new(),
            shared,
            failed: HashMap::new(),
            steps: Mutex::new(steps),
            progressed: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            returned: Mutex::default(),
        }
    }

    /// Reads what earlier attempts have left.
    pub(super) async fn load(&mut self) -> Result<(), StoreError> {
        for (step, item, times) in self.shared.parts.queue.failed_attempts(self.task.key).await? {
            self.failed.insert((step, item), times);
        }
        let steps = self.steps.get_mut();
        for record in self.shared.parts.queue.recorded(self.task.key).await? {
            let items = steps.recorded.entry(record.step).or_default();
            items.insert(record.item, (record.input_hash, record.output));
        }
        Ok(())
    }

    /// The run with its input.
    pub fn task(&self) -> &Task {
        &self.task
    }

    /// The task's input; an error means that another program wrote it.
    pub fn input<T: DeserializeOwned>(&self) -> Result<T, TaskError> {
        let unreadable = |error| unprocessable(format!("the input cannot be read: {error}"));
        self.task.input.read().map_err(unreadable)
    }

    /// Does a step once: returns its recorded output if it was done with this input, else works and records.
    ///
    /// `name` is unique in the task. `work` is given the input back, which a fork may have changed. A failure is
    /// recorded and returned; the runner decides whether the task is tried again.
    pub async fn step<I, T, F, Fut>(&self, name: &str, input: &I, work: F) -> Result<T, TaskError>
    where
        I: Serialize + DeserializeOwned + Sync,
        T: Serialize + DeserializeOwned + Send,
        F: FnOnce(I, Item) -> Fut + Send,
        Fut: Future<Output = Result<T, TaskError>> + Send,
    {
        let step = self.enter(name, 1).await?;
        let input = match self.task.overrides.get(&step.name) {
            Some(changed) => changed.clone(),
            None => json(input)?,
        };
        let done = self.item(&step, 0, input, work).await;
        self.remember(&done);
        done
    }

    /// Does a step for each of its inputs, some at once, each recorded when it is done; outputs in the order of inputs.
    ///
    /// An item that fails keeps no other from being done, unless so many fail one after the other, for reasons that are not
    /// their own, that the rest would too: a key that is refused is not tried ten thousand times. Where trying again may help, the failure is returned as the
    /// step's once all others are done, and the next attempt does only what is missing. A failure that is final stands
    /// in the item's place, for the handler to decide what it means.
    pub async fn fan_out<I, T, F, Fut>(
        &self,
        name: &str,
        inputs: &[I],
        work: F,
    ) -> Result<Vec<Result<T, TaskProblem>>, TaskError>
    where
        I: Serialize + DeserializeOwned + Sync,
        T: Serialize + DeserializeOwned + Send,
        F: Fn(I, Item) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, TaskError>> + Send,
    {
        let step = &self.enter(name, inputs.len()).await?;
        let given = self.task.overrides.get(&step.name);
        if given.is_some() && inputs.len() != 1 {
            return Err(unprocessable(format!(
                "step {name} has many inputs; only that of a single step can be changed"
            )));
        }
        let mut outputs: Vec<Option<Result<T, TaskProblem>>> =
            std::iter::repeat_with(|| None).take(inputs.len()).collect();
        let mut worst: Option<TaskError> = None;
        let mut waiting = (0_u32..).zip(inputs);
        let mut under_way = FuturesUnordered::new();
        let (mut in_vain, mut last) = (0, None);
        loop {
            while under_way.len() < self.shared.parts.settings.max_items_at_once.max(1)
                && !matches!(worst, Some(TaskError::Stopped | TaskError::Store(_)))
                && in_vain < GIVE_UP_AFTER
                && let Some((number, input)) = waiting.next()
            {
                let work = &work;
                let input = match given {
                    Some(given) => given.clone(),
                    None => json(input)?,
                };
                under_way.push(async move { (number, self.item(step, number, input, work).await) });
            }
            let Some((number, done)) = under_way.next().await else { break };
            // One that succeeds shows that it is not what all of them need that is missing.
            in_vain = match &done {
                Ok(_) => 0,
                Err(TaskError::Failed(fault)) if !is_items_own(fault.kind) => in_vain + 1,
                Err(_) => in_vain,
            };
            match done {
                Ok(output) => outputs[number as usize] = Some(Ok(output)),
                Err(TaskError::Failed(fault)) if !fault.kind.is_retryable() => {
                    let problem = TaskProblem { kind: fault.kind, detail: fault.detail };
                    last = Some(problem.clone());
                    outputs[number as usize] = Some(Err(problem));
                }
                Err(error) => worst = Some(worse(worst, error)),
            }
        }
        let done = match worst {
            Some(error) => Err(error),
            None => {
                let not_tried = || Err(last.clone().expect("items are left out after failures alone"));
                Ok(outputs.into_iter().map(|output| output.unwrap_or_else(not_tried)).collect())
            }
        };
        self.remember(&done);
        done
    }

    /// Gives a step its place.
    async fn enter(&self, name: &str, of: usize) -> Result<Step, TaskError> {
        let most = self.shared.parts.settings.max_items;
        if of > most {
            return Err(unprocessable(format!("step {name} has {of} items, tasks.max_items allows {most}")));
        }
        let name = StepName::new(name).map_err(|error| TaskError::internal(error.to_string()))?;
        let of = u32::try_from(of).map_err(|_| TaskError::internal(format!("step {name} has {of} items")))?;
        let (step, expected) = {
            let mut steps = self.steps.lock();
            let position = u32::try_from(steps.named.len()).expect("a task has few steps");
            if !steps.named.insert(name.clone()) {
                return Err(TaskError::internal(format!("step {name} was named twice")));
            }
            steps.items += u64::from(of);
            let recorded = steps.recorded.remove(&name).unwrap_or_default();
            (Step { name, position, of, recorded }, steps.expected(of))
        };
        if let Some(total) = expected {
            self.hear(self.shared.parts.queue.expect(self.book.lease, total).await)?;
        }
        Ok(step)
    }

    /// Answers an item from its record, or works on it and records how that ended.
    async fn item<I, T, F, Fut>(&self, step: &Step, number: u32, input: JsonText, work: F) -> Result<T, TaskError>
    where
        I: DeserializeOwned,
        T: Serialize + DeserializeOwned + Send,
        F: FnOnce(I, Item) -> Fut + Send,
        Fut: Future<Output = Result<T, TaskError>> + Send,
    {
        let input_hash = input.hash();
        if let Some(output) = step.output(number, input_hash) {
            // Thousands of them must not keep the thread from everybody else.
            tokio::task::coop::consume_budget().await;
            return Ok(output);
        }
        if self.hold.told() != Signal::Go {
            return Err(self.stop());
        }
        let attempt = 1 + self.failed.get(&(step.name.clone(), number)).copied().unwrap_or_default();
        let place = (step.position, number);
        let journal = Arc::new(Journal::new(Arc::clone(&self.book), place, attempt));
        let span = info_span!("task.step", step = %step.name, item = number, attempt, error = Empty);
        let (started_at, began) = ((self.shared.parts.clock)(), Instant::now());
        let under_way = match input.read() {
            Ok(given) => Ok(work(given, Item { number, attempt, journal })),
            // What the parser says may quote the input.
            Err(_) => Err(unprocessable(format!("the input of step {} does not fit it", step.name))),
        };
        let done = match under_way {
            Ok(under_way) => under_way.instrument(span.clone()).await,
            Err(error) => Err(error),
        };
        let kind = self.task.kind.as_str().to_owned();
        histogram!("plumb_task_step_seconds", "kind" => kind).record(began.elapsed().as_secs_f64());
        match done.and_then(|output| Ok((json(&output)?, output))) {
            Ok((text, output)) => {
                let record = StepRecord {
                    step: step.name.clone(),
                    item: number,
                    of: step.of,
                    position: step.position,
                    input_hash,
                    input,
                    output: text,
                    attempt,
                    started_at,
                    finished_at: (self.shared.parts.clock)(),
                };
                self.record(place, Ok(record)).instrument(span).await?;
                Ok(output)
            }
            Err(TaskError::Failed(fault)) => {
                span.record("error", fault.kind.as_str());
                let failure = TaskFailure {
                    step: Some(step.name.clone()),
                    item: Some(number),
                    input_hash: Some(input_hash),
                    ..self.failure(&fault, attempt)
                };
                self.record(place, Err(failure)).instrument(span).await?;
                Err(TaskError::Failed(fault))
            }
            Err(error) => Err(error),
        }
    }

    /// Writes down how an item ended, with its calls; to the end, also if nobody waits for it any more.
    async fn record(&self, place: ItemPlace, ended: Result<StepRecord, TaskFailure>) -> Result<(), TaskError> {
        let is_done = ended.is_ok();
        let book = Arc::clone(&self.book);
        let writing = async move {
            let ledger = book.take(place);
            let written = match ended {
                Ok(record) => book.queue.checkpoint(book.lease, record, ledger.clone()).await,
                Err(failure) => {
                    count_failure(&failure);
                    book.queue.note_failure(book.lease, failure, ledger.clone()).await
                }
            };
            book.keep_unwritten(&written, place, ledger);
            written
        };
        let written = self.writes.spawn(writing.in_current_span()).await;
        self.hear(written.map_err(|_| TaskError::internal("a write broke off"))?)?;
        self.progressed.fetch_or(is_done, Ordering::AcqRel);
        self.shared.parts.bell.changed();
        Ok(())
    }

    /// A lost lease is no error: the task is somebody else's now.
    fn hear(&self, written: Result<(), StoreError>) -> Result<(), TaskError> {
        match written {
            Err(StoreError::LeaseLost { .. }) => Err(self.stop()),
            written => written.map_err(TaskError::from),
        }
    }

    /// A failed attempt, outside the steps.
    pub(super) fn failure(&self, fault: &TaskFault, attempt: u32) -> TaskFailure {
        TaskFailure {
            task_id: self.task.id,
            run: self.task.run,
            kind: self.task.kind.clone(),
            step: None,
            item: None,
            input_hash: None,
            problem: TaskProblem { kind: fault.kind, detail: fault.detail.clone() },
            model: fault.model.clone(),
            prompt_version: fault.prompt_version.clone(),
            trace_id: self.task.trace_id,
            attempt,
            is_final: !fault.kind.is_retryable() || self.is_last_attempt(),
            at: (self.shared.parts.clock)(),
        }
    }

    /// True if trying again would be one attempt too many: so many have brought the task no further.
    pub(super) fn is_last_attempt(&self) -> bool {
        self.task.tries >= self.shared.parts.settings.max_attempts && !self.progressed.load(Ordering::Acquire)
    }

    /// True if a step has returned this failure: it has its row then.
    pub(super) fn has_returned(&self, fault: &TaskFault) -> bool {
        self.returned.lock().contains(fault)
    }

    fn stop(&self) -> TaskError {
        self.stopped.store(true, Ordering::Release);
        TaskError::Stopped
    }

    fn remember<T>(&self, done: &Result<T, TaskError>) {
        if let Err(TaskError::Failed(fault)) = done {
            self.returned.lock().push((**fault).clone());
        }
    }
}

impl Steps {
    /// How many items there are in all, if that is more than the store knows. A single step is no news.
    fn expected(&mut self, of: u32) -> Option<u64> {
        let is_news = self.total.map_or(of > 1, |total| self.items > total);
        self.total = if is_news { Some(self.items) } else { self.total };
        is_news.then_some(self.items)
    }
}

/// What a step with both failures returns: the truth cannot be written, the task is stopped, the longer wait.
fn worse(one: Option<TaskError>, other: TaskError) -> TaskError {
    let weight = |error: &TaskError| match error {
        TaskError::Failed(fault) => (0, fault.retry_after),
        TaskError::Stopped => (1, None),
        TaskError::Store(_) => (2, None),
    };
    match one {
        Some(one) if weight(&one) >= weight(&other) => one,
        _ => other,
    }
}

fn json<T: Serialize>(value: &T) -> Result<JsonText, TaskError> {
    JsonText::of(value).map_err(|error| TaskError::internal(format!("a value cannot be written as JSON: {error}")))
}

fn unprocessable(detail: String) -> TaskError {
    TaskError::failed(ErrorKind::Unprocessable, detail)
}
