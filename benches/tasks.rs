//! What durability costs a task: a checkpoint beside a bare `fdatasync`, many tasks beside one, a claim beside a long line.
//!
//! `cargo bench --bench tasks [-- --seconds 3 --rounds 5 --queued 10000]`. Whatever is compared takes turns in one
//! process, so that what else the machine does meets both sides.
#![expect(clippy::print_stdout, reason = "a bench prints its table")]
#![expect(clippy::unwrap_used, reason = "a bench that cannot go on fails where it stands")]

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use plumb::domain::{
    JsonText, RunnerId, StepName, StepRecord, Task, TaskId, TaskKind, TenantId, TenantScope, Timestamp, TraceId,
};
use plumb::store::{ClaimWish, Lease, NewTask, SqliteStore, StoreSettings, TaskEnd, TaskQueue, TaskStore};
use serde_json::json;
use tokio::task::JoinSet;

/// What the bare write is compared with: about a page, as the table of a checkpoint grows by one row.
const RAW_BYTES: usize = 4096;
const AT_ONCE: usize = 64;
const RUNNER: RunnerId = RunnerId([7; 16]);

struct Options {
    seconds: u64,
    rounds: u32,
    queued: usize,
}

impl Options {
    fn from_arguments() -> Self {
        let arguments: Vec<String> = std::env::args().collect();
        let value = |name: &str, default: u64| {
            let at = arguments.iter().position(|argument| argument == name);
            at.and_then(|at| arguments.get(at + 1)).map_or(default, |value| value.parse().unwrap())
        };
        let (rounds, queued) = (value("--rounds", 5) as u32, value("--queued", 10_000) as usize);
        Self { seconds: value("--seconds", 3), rounds, queued }
    }
}

fn main() {
    let options = Options::from_arguments();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run(&options));
}

async fn run(options: &Options) {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&directory.path().join("plumb.db"), StoreSettings::default()).await.unwrap();
    let store = Arc::new(store);
    compare_checkpoints(options, &store, directory.path()).await;
    claim_from_a_long_line(options, &store).await;
    store.close().await.unwrap();
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).unwrap()
}

fn row(name: &str, all: &Histogram<u64>) {
    let us = |quantile: f64| all.value_at_quantile(quantile) as f64 / 1e3;
    println!("{name:<34} {:>9.0} {:>9.0} {:>9.0} {:>9}", us(0.5), us(0.95), us(0.99), all.len());
}

async fn compare_checkpoints(options: &Options, store: &Arc<SqliteStore>, directory: &Path) {
    let mut raw_file = File::create(directory.join("raw")).unwrap();
    let task = claimed(store, "checkpoints").await;
    let mut together = Vec::new();
    for n in 0..AT_ONCE {
        together.push(claimed(store, &format!("together-{n}")).await);
    }
    let (mut raw, mut one, mut many) = (histogram(), histogram(), histogram());
    let (mut one_rate, mut many_rate) = (Vec::new(), Vec::new());
    let mut item = 0;
    let turn = Duration::from_secs(options.seconds);
    for _ in 0..options.rounds {
        let begun = Instant::now();
        while begun.elapsed() < turn {
            for _ in 0..16 {
                raw.saturating_record(append(&mut raw_file).as_nanos() as u64);
                let at = Instant::now();
                store.checkpoint(lease(&task), record(item), Vec::new()).await.unwrap();
                one.saturating_record(at.elapsed().as_nanos() as u64);
                item += 1;
            }
        }
        let begun = Instant::now();
        let mut steps = 0;
        while begun.elapsed() < turn {
            store.checkpoint(lease(&task), record(item), Vec::new()).await.unwrap();
            (item, steps) = (item + 1, steps + 1);
        }
        one_rate.push(f64::from(steps) / begun.elapsed().as_secs_f64());
        let begun = Instant::now();
        let all = all_at_once(store, &together, item, turn).await;
        item += 1_000_000;
        many_rate.push(all.len() as f64 / begun.elapsed().as_secs_f64());
        many.add(all).unwrap();
    }
    println!("{:<34} {:>9} {:>9} {:>9} {:>9}", "", "p50 us", "p95 us", "p99 us", "writes");
    row("append 4 KiB + fdatasync", &raw);
    row("checkpoint, one task", &one);
    row(&format!("checkpoint, {AT_ONCE} tasks at once"), &many);
    let ratio = one.value_at_quantile(0.5) as f64 / raw.value_at_quantile(0.5) as f64;
    println!("a checkpoint costs {ratio:.2} x an append with fdatasync at p50");
    let (one, many) = (median(one_rate), median(many_rate));
    println!("steps a second: {one:.0} by one task, {many:.0} by {AT_ONCE} tasks: {:.1} x", many / one);
}

fn append(file: &mut File) -> Duration {
    let at = Instant::now();
    file.write_all(&[7; RAW_BYTES]).unwrap();
    file.sync_data().unwrap();
    at.elapsed()
}

async fn all_at_once(store: &Arc<SqliteStore>, tasks: &[Task], first: u32, turn: Duration) -> Histogram<u64> {
    let mut running = JoinSet::new();
    for task in tasks {
        let (store, lease) = (Arc::clone(store), lease(task));
        running.spawn(async move {
            let (begun, mut item, mut times) = (Instant::now(), first, histogram());
            while begun.elapsed() < turn {
                let at = Instant::now();
                store.checkpoint(lease, record(item), Vec::new()).await.unwrap();
                times.saturating_record(at.elapsed().as_nanos() as u64);
                item += 1;
            }
            times
        });
    }
    let mut all = histogram();
    while let Some(times) = running.join_next().await {
        all.add(times.unwrap()).unwrap();
    }
    all
}

/// A runner's way from "there is a place" to "the task is mine", while a long line waits.
async fn claim_from_a_long_line(options: &Options, store: &Arc<SqliteStore>) {
    let mut submitting = JoinSet::new();
    for part in 0..AT_ONCE {
        let store = Arc::clone(store);
        let share = options.queued / AT_ONCE;
        submitting.spawn(async move {
            for n in 0..share {
                let tenant = format!("tenant-{}", n % 10);
                store.submit(&scope(&tenant), new(&format!("line-{part}-{n}"))).await.unwrap();
            }
        });
    }
    while submitting.join_next().await.is_some() {}
    let before = resident_kib();
    let mut times = histogram();
    let mut claimed = 0;
    while claimed < 1_000 {
        let at = Instant::now();
        let now = now();
        store.promote_ready(now).await.unwrap();
        let view = store.queue(now, 1).await.unwrap();
        let head = &view.heads[claimed % view.heads.len()];
        let wish = ClaimWish { key: head.key, kind_limit: u64::MAX >> 1, tenant_limit: u64::MAX >> 1 };
        let task = store.claim(RUNNER, vec![wish], now).await.unwrap().pop().unwrap().unwrap();
        times.saturating_record(at.elapsed().as_nanos() as u64);
        let end = TaskEnd::Succeeded { output: JsonText::of_value(&json!(null)) };
        store.end(lease(&task), end, None, Vec::new()).await.unwrap();
        claimed += 1;
    }
    println!("{:<34} {:>9} {:>9} {:>9} {:>9}", "", "p50 us", "p95 us", "p99 us", "claims");
    row(&format!("claim, {} queued", options.queued), &times);
    println!("resident memory {:+} KiB over {claimed} claims", resident_kib() - before);
}

fn scope(tenant: &str) -> TenantScope {
    TenantScope::everything(TenantId::new(tenant).unwrap())
}

fn new(name: &str) -> NewTask {
    let mut id = [0; 16];
    id.copy_from_slice(&plumb::domain::ContentHash::of(name.as_bytes()).0[..16]);
    NewTask {
        id: TaskId(id),
        kind: TaskKind::new("bench").unwrap(),
        input: JsonText::of_value(&json!({"name": name})),
        prompt: None,
        model: None,
        priority: 0,
        total: None,
        wait_us: 0,
        session_id: None,
        trace_id: TraceId([1; 16]),
        fork: None,
        max_open: usize::MAX >> 1,
    }
}

async fn claimed(store: &Arc<SqliteStore>, name: &str) -> Task {
    let task = store.submit(&scope("bench"), new(name)).await.unwrap().task;
    let wish = ClaimWish { key: task.key, kind_limit: u64::MAX >> 1, tenant_limit: u64::MAX >> 1 };
    store.claim(RUNNER, vec![wish], now()).await.unwrap().pop().unwrap().unwrap()
}

fn lease(task: &Task) -> Lease {
    Lease { key: task.key, runner: RUNNER, epoch: task.epoch }
}

/// An item as `map` records it: a few names in, some sentences out.
fn record(item: u32) -> StepRecord {
    let input = JsonText::of_value(&json!({"document": "doc-1", "version": 1, "ordinal": item}));
    StepRecord {
        step: StepName::new("items").unwrap(),
        item,
        of: u32::MAX,
        position: 0,
        input_hash: input.hash(),
        input,
        output: JsonText::of_value(&json!({"text": "x".repeat(300)})),
        attempt: 1,
        started_at: now(),
        finished_at: now(),
    }
}

fn now() -> Timestamp {
    Timestamp(jiff::Timestamp::now().as_microsecond())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn resident_kib() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
