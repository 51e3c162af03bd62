//! Promises of calls that belong to a step: their rows go to the step, durable work knows of them beforehand, and a server
//! can tell a repeated call from a new one.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::future::join_all;

use crate::domain::{BudgetPeriod, CallId, Nanousd, TenantId, TenantScope, TraceId};
use crate::store::{CallJournal, LedgerEntry};

use super::mock_server::{Act, MockServer};
use super::test_gateway::{Kept, MemoryJournal, quick_settings, single, with};
use super::*;

fn context(journal: &Arc<MemoryJournal>) -> CallContext {
    CallContext {
        scope: TenantScope::everything(TenantId::new("acme").unwrap()),
        trace_id: TraceId([7; 16]),
        task: "map",
        session_id: None,
        deadline: Instant::now() + Duration::from_secs(20),
        journal: Some(StepJournal::new(Arc::clone(journal) as Arc<dyn CallJournal>)),
    }
}

fn call() -> ChatCall {
    let messages = vec![ChatMessage::new(Role::User, "why?")];
    ChatCall { messages, max_tokens: 10, ..ChatCall::default() }
}

fn provider(name: &str, replies: Vec<Reply>) -> Arc<dyn Provider> {
    Arc::new(Scripted::new(name, replies).unwrap())
}

fn down() -> Reply {
    Reply::Status { status: 503, retry_after: None }
}

/// 1,000 nano-dollars a token, and a budget for everything.
fn capped(mut settings: GatewaySettings) -> GatewaySettings {
    settings.prices = vec![PriceSettings {
        provider: "*".to_owned(),
        model: "asked-for".to_owned(),
        from: "2020-01-01".parse().unwrap(),
        input_usd_per_mtok: 1.0,
        cached_input_usd_per_mtok: None,
        output_usd_per_mtok: 1.0,
    }];
    settings.budgets = vec![BudgetSettings {
        scope: "everything".to_owned(),
        period: BudgetPeriod::Day,
        limit_usd: Some(1.0),
        limit_tokens: None,
        limit_calls: None,
        alert_at: 0.5,
    }];
    settings
}

#[tokio::test]
async fn the_rows_and_the_settlement_of_a_step_s_call_go_to_the_step_and_nowhere_else() {
    let journal = Arc::new(MemoryJournal { attempts_before: 2, ..MemoryJournal::default() });
    let says = Reply::Text("because it is".to_owned());
    let kept = Kept::new(capped(quick_settings(&["a"])), vec![provider("a", vec![down(), says])]).await;

    let reply = kept.gateway.call(call(), context(&journal)).await.unwrap();

    let rows = journal.rows();
    assert_eq!(rows.iter().map(|row| row.outcome.as_str()).collect::<Vec<_>>(), ["server_error", "ok"]);
    assert_eq!(rows.iter().map(|row| row.attempt).collect::<Vec<_>>(), [3, 4], "numbers go on");
    assert!(rows.iter().all(|row| row.call_id == CallId([1; 16]) && row.task == "map"));
    let settled = journal.settled();
    assert_eq!((settled.len(), settled[0].0), (1, CallId([1; 16])));
    assert_eq!(settled[0].1[0].1.cost, reply.cost);
    kept.flush().await;
    assert!(kept.ledger.calls().is_empty() && kept.ledger.reservations_now().is_empty());
}

#[tokio::test]
async fn a_step_s_call_is_written_down_with_its_reservation_before_it_is_made() {
    let journal = Arc::new(MemoryJournal::default());
    let kept = Kept::new(capped(quick_settings(&["a"])), vec![provider("a", vec![Reply::Text("so".to_owned())])]).await;

    kept.gateway.call(call(), context(&journal)).await.unwrap();

    let opened = journal.opened.lock();
    assert_eq!(opened.len(), 1);
    let (open, reservation) = (&opened[0], opened[0].reservation.as_ref().unwrap());
    assert_eq!((open.task.as_str(), open.provider.as_str(), open.model.as_str()), ("map", "a", "asked-for"));
    // "why?" is 4 bytes and a message; three attempts of 4 + 16 + 64 + 10 tokens.
    assert_eq!((open.input_tokens, open.output_tokens, open.worst_case.cost), (84, 10, Nanousd(282_000)));
    assert_eq!((reservation.call_id, reservation.amount), (open.call_id, open.worst_case));
    assert_eq!(kept.gateway.budgets().states()[0].accounts[0].reserved.cost, Nanousd(0));
}

#[tokio::test]
async fn a_call_that_its_step_cannot_write_down_is_not_made() {
    let journal = Arc::new(MemoryJournal::default());
    journal.is_broken.store(true, Ordering::Release);
    let scripted = Arc::new(Scripted::new("a", vec![Reply::Text("so".to_owned())]).unwrap());
    let kept = Kept::new(capped(quick_settings(&["a"])), vec![Arc::clone(&scripted) as Arc<dyn Provider>]).await;

    let failure = kept.gateway.call(call(), context(&journal)).await.unwrap_err();

    assert_eq!(failure.error.outcome(), "ledger_unavailable");
    assert_eq!((scripted.calls(), journal.rows().len()), (0, 0));
    assert_eq!(kept.gateway.budgets().states()[0].accounts[0].reserved.cost, Nanousd(0));
    assert_eq!(journal.settled(), [(CallId([1; 16]), Vec::new())], "it may have been written after all");
}

#[tokio::test]
async fn a_step_s_call_that_is_dropped_in_the_middle_is_noted_at_once_as_cancelled() {
    let journal = Arc::new(MemoryJournal::default());
    let kept = Kept::new(capped(quick_settings(&["a"])), vec![provider("a", vec![Reply::Silence])]).await;

    tokio::select! {
        _ = kept.gateway.call(call(), context(&journal)) => panic!("the server never answers"),
        () = async { while journal.opened.lock().is_empty() { tokio::task::yield_now().await } } => {}
    }

    assert_eq!(journal.rows().len(), 1);
    assert_eq!(journal.rows()[0].outcome, "cancelled");
    assert_eq!(journal.settled().len(), 1);
}

#[tokio::test]
async fn steps_share_no_reply_with_each_other() {
    let scripted = Arc::new(Scripted::new("a", vec![Reply::Text("so".to_owned())]).unwrap());
    let gateway = with(quick_settings(&["a"]), vec![Arc::clone(&scripted) as Arc<dyn Provider>]);
    let journals: Vec<Arc<MemoryJournal>> = (0..3).map(|_| Arc::default()).collect();
    let same = || ChatCall { identity: Some([9; 32]), ..call() };

    join_all(journals.iter().map(|journal| gateway.call(same(), context(journal)))).await;

    assert_eq!(scripted.calls(), 3);
    assert!(journals.iter().all(|journal| journal.rows().len() == 1), "also where no ledger is kept");
}

#[tokio::test]
async fn a_streamed_call_notes_its_rows_before_its_last_event() {
    let journal = Arc::new(MemoryJournal::default());
    let gateway = with(quick_settings(&["a"]), vec![provider("a", vec![Reply::Text("one two".to_owned())])]);

    let mut stream = gateway.call_stream(call(), context(&journal)).await.unwrap();
    while !matches!(stream.next().await, Some(Ok(ChatEvent::Done(_)))) {}

    let rows = journal.rows();
    assert_eq!((rows.len(), rows[0].call_id, rows[0].is_streamed), (1, CallId([1; 16]), true));
}

#[tokio::test]
async fn what_a_crash_left_reserved_is_counted_as_spent_once_its_call_is_made_again() {
    let settings = capped(quick_settings(&["a"]));
    let first = Kept::new(settings.clone(), vec![provider("a", vec![Reply::Silence])]).await;
    let journal = Arc::new(MemoryJournal::default());
    let mut asked = Box::pin(first.gateway.call(call(), context(&journal)));
    while journal.opened.lock().is_empty() {
        assert!(futures::poll!(&mut asked).is_pending());
    }
    let left = journal.opened.lock()[0].reservation.clone().unwrap();
    let amount = left.amount;
    let ledger = Arc::new(super::test_gateway::MemoryLedger::default());
    crate::store::Ledger::record(ledger.as_ref(), vec![LedgerEntry::Reserve(left)]).await.unwrap();

    let second = Kept::over(ledger, settings, vec![provider("a", vec![Reply::Text("so".to_owned())])]).await;
    let again = Arc::new(MemoryJournal::default());
    let reply = second.gateway.call(call(), context(&again)).await.unwrap();

    let account = &second.gateway.budgets().states()[0].accounts[0];
    assert_eq!((account.reserved.cost, account.spent.cost), (Nanousd(0), amount.cost + reply.cost));
    assert_eq!(second.gateway.budgets().unresolved().0, 0);
}

/// The keys that a server was sent.
fn keys(server: &MockServer) -> Vec<String> {
    let key = |request: String| {
        let line = request.lines().find_map(|line| line.strip_prefix("idempotency-key: ").map(str::to_owned));
        line.unwrap_or_default()
    };
    server.requests().into_iter().map(key).collect()
}

#[tokio::test]
async fn every_attempt_of_a_call_carries_the_call_s_id_over_every_wire() {
    install_tls();
    let journal = Arc::new(MemoryJournal::default());
    let refused = || vec![Act::json("500 Internal Server Error", "", "{}")];
    let servers =
        [MockServer::start(refused()).await, MockServer::start(refused()).await, MockServer::start(refused()).await];
    let providers: [Arc<dyn Provider>; 3] = [
        Arc::new(OpenAiCompatible::new("mock", &servers[0].settings()).unwrap()),
        Arc::new(Anthropic::new("mock", &servers[1].settings()).unwrap()),
        Arc::new(Ollama::new("mock", &servers[2].settings()).unwrap()),
    ];

    for provider in providers {
        let gateway = single(provider);
        gateway.call(call(), context(&journal)).await.unwrap_err();
        // One that belongs to no step has an id of its own.
        let loose = CallContext { journal: None, ..context(&journal) };
        assert!(gateway.call_stream(call(), loose).await.is_err());
    }

    for (server, id) in servers.iter().zip(1..) {
        let keys = keys(server);
        assert_eq!(keys.len(), 6);
        assert!(keys[..3].iter().all(|key| *key == CallId([id; 16]).to_string()), "{keys:?}");
        assert!(keys[3].starts_with("cal_") && keys[3..].iter().all(|key| *key == keys[3]) && keys[3] != keys[0]);
    }
}
