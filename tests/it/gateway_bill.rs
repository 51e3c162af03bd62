//! Money: what the ledger says was spent is what the server would invoice, to the nano-dollar.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use plumb::domain::{Nanousd, TenantId, TenantScope, Timestamp, TraceId};
use plumb::gateway::{
    Alerts, Budgets, CallContext, ChatCall, ChatEvent, ChatMessage, Clock, Gateway, GatewayParts, GatewaySettings,
    KillSwitch, ModelSettings, OnBySettings, OpenAiCompatible, PriceSettings, Provider, ProviderSettings, Role,
    RouteSettings, install_tls,
};
use plumb::store::{Ledger, LedgerQueue, SqliteStore, StoreSettings, UsageBy};

use crate::model_server::{Act, ModelServer, Order, PIECES, Tariff};

const CALLS: u64 = 10_000;
const AT_ONCE: usize = 48;

fn provider(server: &ModelServer) -> ProviderSettings {
    ProviderSettings {
        base_url: Some(server.base_url()),
        request_timeout_ms: 2_000,
        idle_timeout_ms: 400,
        max_concurrent_calls: 64,
        breaker_failures: 0,
        ..ProviderSettings::default()
    }
}

fn price(provider: &str, tariff: Tariff) -> PriceSettings {
    PriceSettings {
        provider: provider.to_owned(),
        model: "m".to_owned(),
        from: "2020-01-01".parse().unwrap(),
        // A nano-dollar a token is a thousandth of a dollar for a million.
        input_usd_per_mtok: tariff.input as f64 / 1_000.0,
        cached_input_usd_per_mtok: None,
        output_usd_per_mtok: tariff.output as f64 / 1_000.0,
    }
}

fn settings(first: (&ModelServer, Tariff), second: (&ModelServer, Tariff)) -> GatewaySettings {
    let model =
        |provider: &str| ModelSettings { provider: provider.to_owned(), model: "m".to_owned(), context_tokens: None };
    let route = RouteSettings { models: vec!["first".to_owned(), "second".to_owned()], ..RouteSettings::default() };
    GatewaySettings {
        providers: [("first".to_owned(), provider(first.0)), ("second".to_owned(), provider(second.0))].into(),
        models: [("first".to_owned(), model("first")), ("second".to_owned(), model("second"))].into(),
        routes: [("default".to_owned(), route)].into(),
        prices: vec![price("first", first.1), price("second", second.1)],
        tenant_max_concurrent_calls: 64,
        backoff_base_ms: 1,
        backoff_max_ms: 2,
        ..GatewaySettings::default()
    }
}

fn build(
    name: &str,
    settings: &ProviderSettings,
    _: Option<Arc<dyn Provider>>,
) -> Result<Arc<dyn Provider>, plumb::gateway::GatewayError> {
    Ok(Arc::new(OpenAiCompatible::new(name, settings)?))
}

fn context() -> CallContext {
    CallContext {
        scope: TenantScope::everything(TenantId::new("acme").unwrap()),
        trace_id: TraceId([3; 16]),
        task: "bill",
        session_id: None,
        deadline: Instant::now() + Duration::from_secs(60),
        journal: None,
    }
}

/// The `id`-th call: which of the kinds it is follows from its number alone.
fn order(id: u64) -> Order {
    use Act::{
        Answer, AnswerWithNegativeUsage, AnswerWithoutUsage, MalformedBody, Stall, Stream, StreamMalformed,
        StreamStalls, StreamTruncated, TooManyRequests, Unavailable,
    };
    let acts = match id % 50 {
        0 => vec![Unavailable, Answer],
        1 => vec![TooManyRequests, TooManyRequests, Answer],
        // All three attempts of the first model fail; the second one answers.
        2 => vec![Unavailable, Unavailable, Unavailable, Answer],
        3 => vec![MalformedBody, Answer],
        4 => vec![AnswerWithoutUsage],
        5 => vec![AnswerWithNegativeUsage],
        6 if id.is_multiple_of(400) => vec![Stall],
        7..=10 => vec![StreamStalls],
        11 => vec![StreamMalformed],
        12 => vec![StreamTruncated],
        13..=20 => vec![Stream],
        _ => vec![Answer],
    };
    Order { id, acts, input_tokens: 50 + id % 977, output_tokens: 1 + id % 83 }
}

async fn make(gateway: &Gateway, id: u64) {
    let order = order(id);
    let messages = vec![ChatMessage::new(Role::User, serde_json::to_string(&order).unwrap())];
    let call = ChatCall { messages, max_tokens: 90, ..ChatCall::default() };
    match order.acts[0] {
        // The caller leaves once it has heard everything that was said.
        Act::StreamStalls => {
            let mut stream = gateway.call_stream(call, context()).await.unwrap();
            for _ in 0..PIECES {
                assert!(matches!(stream.next().await, Some(Ok(ChatEvent::Delta(_)))));
            }
        }
        Act::Stream | Act::StreamMalformed | Act::StreamTruncated => {
            let mut stream = gateway.call_stream(call, context()).await.unwrap();
            while stream.next().await.is_some() {}
        }
        // The caller leaves while nothing has come yet.
        Act::Stall => {
            let left = tokio::time::timeout(Duration::from_millis(300), gateway.call(call, context())).await;
            assert!(left.is_err());
        }
        _ => {
            // Every other call is made a second time, which its identity answers from what is under way or not at all.
            let call = ChatCall { identity: Some(*blake3::hash(&id.to_le_bytes()).as_bytes()), ..call };
            let (one, two) = tokio::join!(gateway.call(call.clone(), context()), gateway.call(call, context()));
            one.unwrap();
            two.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_bill_is_the_ledgers_to_the_nano_dollar() {
    install_tls();
    let (cheap, dear) = (Tariff { input: 150, output: 600 }, Tariff { input: 2_500, output: 10_000 });
    let (first, second) = (ModelServer::start(cheap).await, ModelServer::start_obliging(dear).await);
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&directory.path().join("plumb.db"), StoreSettings::default()).await.unwrap();
    let store = Arc::new(store);
    let (queue, _) = LedgerQueue::start(store.clone());
    let clock: Clock = Arc::new(|| Timestamp(jiff::Timestamp::now().as_microsecond()));
    let capped = plumb::domain::Budget {
        scope: "tenant:*".parse().unwrap(),
        period: plumb::domain::BudgetPeriod::Total,
        limit: Some(Nanousd(u64::MAX / 4)),
        limit_tokens: None,
        limit_calls: None,
        alert_at: 1.0,
    };
    let budgets = Budgets::load(vec![capped], store.clone(), queue.clone(), Alerts::none(), clock.clone()).await;
    let budgets = Arc::new(budgets.unwrap());
    let gateway = Gateway::new(GatewayParts {
        settings: settings((&first, cheap), (&second, dear)),
        build: Box::new(build),
        ledger: Some(queue.clone()),
        budgets: budgets.clone(),
        kill: Arc::new(KillSwitch::new(None, OnBySettings::No)),
        cache: None,
        clock,
    })
    .unwrap();

    futures::stream::iter(0..CALLS).for_each_concurrent(AT_ONCE, |id| make(&gateway, id)).await;
    // A stream that was left is settled by the task that read it.
    while budgets.states()[0].accounts[0].reserved.calls > 0 {
        tokio::task::yield_now().await;
    }
    queue.submit_durable(Vec::new()).await.unwrap();

    let scope = context().scope;
    let usage = store.usage(&scope, UsageBy::Task, Timestamp(0), 10).await.unwrap();
    let state = &budgets.states()[0].accounts[0];
    let billed = first.bill_nanousd() + second.bill_nanousd();
    assert_eq!(usage.len(), 1);
    assert!(billed > 0);
    assert_eq!(usage[0].cost, Nanousd(billed), "ledger and bill");
    assert_eq!(state.spent.cost, Nanousd(billed), "budget and bill");
    assert_eq!(state.reserved.cost, Nanousd(0), "nothing stays reserved");
    assert!(store.reservations().await.unwrap().is_empty());
    let spent = store.spent(Timestamp(0)).await.unwrap();
    assert_eq!(spent[0].1.cost, Nanousd(billed), "the budget's account in the ledger");
    assert!(usage[0].attempts > first.requests() + second.requests(), "shared replies have rows, too");
    store.close().await.unwrap();
}
