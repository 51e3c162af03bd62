//! What a call through the gateway costs beside the same call made directly: the ledger on, a model server on loopback.
//!
//! `cargo bench --bench gateway [-- --seconds 5 --rounds 5 --rate 1000]`. Rounds of direct calls and of calls through
//! the gateway take turns in one process, at the same rate, so that whatever else the machine does meets both.
#![expect(clippy::print_stdout, reason = "a bench prints its table")]
#![expect(clippy::unwrap_used, reason = "a bench that cannot go on fails where it stands")]

#[path = "../tests/it/model_server.rs"]
#[expect(dead_code, reason = "the bench needs a part of what the tests need")]
mod model_server;

use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use plumb::domain::{Budget, BudgetPeriod, Nanousd, TenantId, TenantScope, Timestamp, TraceId};
use plumb::gateway::{
    Alerts, Budgets, CallContext, ChatCall, ChatMessage, Clock, Gateway, GatewayParts, GatewaySettings, KillSwitch,
    ModelSettings, OnBySettings, OpenAiCompatible, Provider, ProviderSettings, Role, UnknownPrice, install_tls,
};
use plumb::store::{LedgerQueue, SqliteStore, StoreSettings};
use tokio::task::JoinSet;

use model_server::{Act, ModelServer, Order, Tariff};

struct Options {
    seconds: u64,
    rounds: u32,
    rate: u64,
}

impl Options {
    fn from_arguments() -> Self {
        let arguments: Vec<String> = std::env::args().collect();
        let value = |name: &str, default: u64| {
            let at = arguments.iter().position(|argument| argument == name);
            at.and_then(|at| arguments.get(at + 1)).map_or(default, |value| value.parse().unwrap())
        };
        Self { seconds: value("--seconds", 5), rounds: value("--rounds", 5) as u32, rate: value("--rate", 1_000) }
    }
}

/// Ways to ask the same server.
#[derive(Clone)]
enum Way {
    Direct(reqwest::Client, String),
    Gateway(Gateway),
}

fn main() {
    let options = Options::from_arguments();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run(&options));
}

async fn run(options: &Options) {
    install_tls();
    let server = ModelServer::start(Tariff { input: 150, output: 600 }).await;
    let directory = tempfile::tempdir().unwrap();
    let store =
        Arc::new(SqliteStore::open(&directory.path().join("plumb.db"), StoreSettings::default()).await.unwrap());
    let direct = Way::Direct(reqwest::Client::builder().no_proxy().build().unwrap(), server.base_url());
    let plain = Way::Gateway(gateway(&server, &store, Vec::new()).await);
    let budget = Budget {
        scope: "tenant:*".parse().unwrap(),
        period: BudgetPeriod::Day,
        limit: Some(Nanousd(u64::MAX / 4)),
        limit_tokens: None,
        limit_calls: None,
        alert_at: 1.0,
    };
    let budgeted = Way::Gateway(gateway(&server, &store, vec![budget]).await);
    println!(
        "{} calls a second, {} rounds of {} s each, ledger durable in SQLite",
        options.rate, options.rounds, options.seconds
    );
    println!("{:<28} {:>9} {:>9} {:>9} {:>9}", "", "p50 us", "p95 us", "p99 us", "calls");
    let names = ["direct", "gateway", "gateway with a budget"];
    let mut all: Vec<Histogram<u64>> = names.iter().map(|_| histogram()).collect();
    let mut over: Vec<Vec<[f64; 2]>> = vec![Vec::new(), Vec::new()];
    for round in 0..=options.rounds {
        let mut quantiles = Vec::new();
        for (at, way) in [&direct, &plain, &budgeted].into_iter().enumerate() {
            let times = load(way, options).await;
            quantiles.push([times.value_at_quantile(0.5) as f64, times.value_at_quantile(0.99) as f64]);
            // The first round warms up connections and caches.
            if round > 0 {
                all[at].add(&times).unwrap();
            }
        }
        if round > 0 {
            for (at, over) in over.iter_mut().enumerate() {
                over.push([quantiles[at + 1][0] - quantiles[0][0], quantiles[at + 1][1] - quantiles[0][1]]);
            }
        }
    }
    for (name, times) in names.iter().zip(&all) {
        let at = |quantile| times.value_at_quantile(quantile);
        println!("{name:<28} {:>9} {:>9} {:>9} {:>9}", at(0.5), at(0.95), at(0.99), times.len());
    }
    for (name, over) in names[1..].iter().zip(&over) {
        let median = |part: usize| {
            let mut values: Vec<f64> = over.iter().map(|one| one[part]).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        println!("{name} above direct, median of rounds: p50 {:.0} us, p99 {:.0} us", median(0), median(1));
    }
    streamed(&server, &plain).await;
    store.close().await.unwrap();
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).unwrap()
}

async fn gateway(server: &ModelServer, store: &Arc<SqliteStore>, budgets: Vec<Budget>) -> Gateway {
    let provider = ProviderSettings {
        base_url: Some(server.base_url()),
        max_concurrent_calls: 256,
        max_waiting_calls: 1_024,
        ..ProviderSettings::default()
    };
    let model = ModelSettings { provider: "mock".to_owned(), model: "mock-1".to_owned(), context_tokens: None };
    let settings = GatewaySettings {
        providers: [("mock".to_owned(), provider)].into(),
        models: [("mock".to_owned(), model)].into(),
        unknown_price: UnknownPrice::Free,
        tenant_max_concurrent_calls: 256,
        ..GatewaySettings::default()
    };
    let (queue, _) = LedgerQueue::start(store.clone());
    let clock: Clock = Arc::new(|| Timestamp(jiff::Timestamp::now().as_microsecond()));
    let budgets = Budgets::load(budgets, store.clone(), queue.clone(), Alerts::none(), clock.clone()).await.unwrap();
    let build = |name: &str, settings: &ProviderSettings, _: Option<Arc<dyn Provider>>| {
        Ok(Arc::new(OpenAiCompatible::new(name, settings)?) as Arc<dyn Provider>)
    };
    let parts = GatewayParts {
        settings,
        build: Box::new(build),
        ledger: Some(queue),
        budgets: Arc::new(budgets),
        kill: Arc::new(KillSwitch::new(None, OnBySettings::No)),
        cache: None,
        clock,
    };
    Gateway::new(parts).unwrap()
}

/// Calls at a steady rate, whether or not those before have ended; times in microseconds.
async fn load(way: &Way, options: &Options) -> Histogram<u64> {
    let times = Arc::new(Mutex::new(histogram()));
    let mut calls = JoinSet::new();
    let mut ticks = tokio::time::interval(Duration::from_nanos(1_000_000_000 / options.rate));
    for id in 0..options.rate * options.seconds {
        ticks.tick().await;
        let (way, times) = (way.clone(), Arc::clone(&times));
        calls.spawn(async move {
            let begun = Instant::now();
            ask(&way, id, Act::Answer).await;
            times.lock().saturating_record(begun.elapsed().as_micros() as u64);
        });
    }
    calls.join_all().await;
    Arc::into_inner(times).unwrap().into_inner()
}

fn order(id: u64, act: Act) -> String {
    serde_json::to_string(&Order { id, acts: vec![act], input_tokens: 900, output_tokens: 120 }).unwrap()
}

async fn ask(way: &Way, id: u64, act: Act) {
    match way {
        Way::Direct(client, base) => {
            let body = serde_json::json!({
                "model": "mock-1", "max_tokens": 200, "stream": false,
                "messages": [{"role": "user", "content": order(id, act)}],
            });
            let sent = client.post(format!("{base}/chat/completions")).json(&body).send().await.unwrap();
            let reply: serde_json::Value = sent.json().await.unwrap();
            assert!(reply["choices"][0]["message"]["content"].is_string());
        }
        Way::Gateway(gateway) => {
            gateway.call(call(order(id, act)), context()).await.unwrap();
        }
    }
}

fn call(text: String) -> ChatCall {
    ChatCall { messages: vec![ChatMessage::new(Role::User, text)], max_tokens: 200, ..ChatCall::default() }
}

fn context() -> CallContext {
    CallContext {
        scope: TenantScope::everything(TenantId::new("bench").unwrap()),
        trace_id: TraceId([9; 16]),
        task: "bench",
        session_id: None,
        deadline: Instant::now() + Duration::from_secs(30),
        journal: None,
    }
}

/// Streams one after the other; the difference to reading the same bytes is what an event costs.
async fn streamed(server: &ModelServer, through: &Way) {
    const STREAMS: u64 = 300;
    let Way::Gateway(gateway) = through else { return };
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let (mut direct, mut gated, mut events) = (Duration::ZERO, Duration::ZERO, 0_u32);
    for id in 0..STREAMS {
        let body = serde_json::json!({
            "model": "mock-1", "max_tokens": 200, "stream": true,
            "messages": [{"role": "user", "content": order(1_000_000 + id, Act::StreamLong)}],
        });
        let begun = Instant::now();
        let sent = client.post(format!("{}/chat/completions", server.base_url())).json(&body).send().await.unwrap();
        assert!(!sent.bytes().await.unwrap().is_empty());
        direct += begun.elapsed();

        let begun = Instant::now();
        let mut stream = gateway.call_stream(call(order(2_000_000 + id, Act::StreamLong)), context()).await.unwrap();
        while let Some(event) = stream.next().await {
            event.unwrap();
            events += 1;
        }
        gated += begun.elapsed();
    }
    let per_event = gated.saturating_sub(direct).as_secs_f64() * 1e6 / f64::from(events);
    println!("streamed: {events} events, {per_event:.1} us an event above reading the bytes");
}
