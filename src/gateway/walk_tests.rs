//! Promises of the gateway as a whole: who is asked when, what it costs, and what is written down.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::future::join_all;

use crate::domain::{BudgetAction, BudgetPeriod, CacheUse, Nanousd, TenantId, TenantScope, TraceId, UsageSource};

use super::test_gateway::{Kept, MemoryLedger, quick_settings, with};
use super::*;

fn context() -> CallContext {
    CallContext {
        scope: TenantScope::everything(TenantId::new("acme").unwrap()),
        trace_id: TraceId([7; 16]),
        task: "answer",
        session_id: Some("s-1".to_owned()),
        deadline: Instant::now() + Duration::from_secs(20),
        journal: None,
    }
}

fn call(text: &str) -> ChatCall {
    let messages = vec![ChatMessage::new(Role::User, text)];
    ChatCall { messages, max_tokens: 10, ..ChatCall::default() }
}

fn provider(name: &str, replies: Vec<Reply>) -> Arc<dyn Provider> {
    Arc::new(Scripted::new(name, replies).unwrap())
}

fn says(name: &str, text: &str) -> Arc<dyn Provider> {
    provider(name, vec![Reply::Text(text.to_owned())])
}

/// Answers after a moment, as servers do.
struct Slow(Arc<Scripted>);

#[async_trait::async_trait]
impl Provider for Slow {
    fn name(&self) -> &str {
        self.0.name()
    }

    async fn chat(&self, request: &ChatRequest, deadline: Instant) -> Result<ChatResponse, GatewayError> {
        tokio::time::sleep(Duration::from_millis(30)).await;
        self.0.chat(request, deadline).await
    }

    async fn chat_stream(&self, request: &ChatRequest, deadline: Instant) -> Result<ChatStream, GatewayError> {
        self.0.chat_stream(request, deadline).await
    }
}

fn status(status: u16) -> Reply {
    Reply::Status { status, retry_after: None }
}

/// A dollar for a million tokens of either kind: 1,000 nano-dollars a token.
fn priced(mut settings: GatewaySettings) -> GatewaySettings {
    settings.prices = vec![PriceSettings {
        provider: "*".to_owned(),
        model: "asked-for".to_owned(),
        from: "2020-01-01".parse().unwrap(),
        input_usd_per_mtok: 1.0,
        cached_input_usd_per_mtok: None,
        output_usd_per_mtok: 1.0,
    }];
    settings
}

fn capped(settings: GatewaySettings, scope: &str, limit_usd: f64) -> GatewaySettings {
    let budget = BudgetSettings {
        scope: scope.to_owned(),
        period: BudgetPeriod::Day,
        limit_usd: Some(limit_usd),
        limit_tokens: None,
        limit_calls: None,
        alert_at: 0.5,
    };
    GatewaySettings { budgets: vec![budget], ..settings }
}

#[tokio::test]
async fn when_one_provider_dies_the_next_answers_and_every_attempt_is_written_down() {
    let providers = vec![provider("a", vec![status(503)]), says("b", "from b")];
    let kept = Kept::new(quick_settings(&["a", "b"]), providers).await;

    let reply = kept.gateway.call(call("why?"), context()).await.unwrap();

    assert_eq!(reply.response.text, "from b");
    assert_eq!(reply.attempts.len(), 4);
    assert_eq!(kept.outcomes().await, ["a server_error", "a server_error", "a server_error", "b ok"]);
    let calls = kept.ledger.calls();
    assert!(calls.iter().all(|row| row.call_id == calls[0].call_id && row.trace_id == TraceId([7; 16])));
    assert_eq!(calls.iter().map(|row| row.attempt).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!((calls[0].status, calls[3].status), (Some(503), Some(200)));
}

#[tokio::test]
async fn when_all_providers_die_the_failure_names_every_attempt_and_costs_nothing() {
    let providers = vec![provider("a", vec![status(401)]), provider("b", vec![status(404)])];
    let kept = Kept::new(priced(quick_settings(&["a", "b"])), providers).await;

    let failure = kept.gateway.call(call("why?"), context()).await.unwrap_err();

    assert_eq!(failure.error.outcome(), "refused");
    assert_eq!(kept.outcomes().await, ["a refused", "b refused"]);
    assert_eq!(failure.cost, Nanousd(0));
    assert!(kept.ledger.calls().iter().all(|row| row.usage_source == UsageSource::None));
}

#[tokio::test]
async fn a_server_that_wants_to_be_left_alone_for_long_is_left_for_the_next() {
    let wait = Reply::Status { status: 429, retry_after: Some(Duration::from_secs(30)) };
    let kept = Kept::new(quick_settings(&["a", "b"]), vec![provider("a", vec![wait]), says("b", "at once")]).await;

    let reply = kept.gateway.call(call("why?"), context()).await.unwrap();

    assert_eq!(reply.response.text, "at once");
    assert_eq!(kept.outcomes().await, ["a rate_limited", "b ok"]);
}

#[tokio::test]
async fn a_call_that_is_too_long_goes_to_the_model_named_for_that() {
    let mut settings = quick_settings(&["a", "b", "c"]);
    let route = settings.routes.get_mut("default").unwrap();
    (route.models, route.on_context_too_long) = (vec!["a".to_owned(), "b".to_owned()], vec!["c".to_owned()]);
    let too_long = Reply::ContextTooLong;
    let providers = vec![provider("a", vec![too_long]), says("b", "no"), says("c", "it fits")];
    let kept = Kept::new(settings, providers).await;

    assert_eq!(kept.gateway.call(call("why?"), context()).await.unwrap().response.text, "it fits");
    assert_eq!(kept.outcomes().await, ["a context_too_long", "c ok"]);
}

#[tokio::test]
async fn a_filtered_call_stands_unless_the_route_names_another_model() {
    let mut settings = quick_settings(&["a", "b"]);
    settings.routes.get_mut("default").unwrap().models = vec!["a".to_owned()];
    let providers = || vec![provider("a", vec![Reply::ContentFiltered]), says("b", "from b")];
    let refused = Kept::new(settings.clone(), providers()).await;
    settings.routes.get_mut("default").unwrap().on_content_filter = vec!["b".to_owned()];
    let routed = Kept::new(settings, providers()).await;

    assert_eq!(refused.gateway.call(call("x"), context()).await.unwrap_err().error.outcome(), "content_filter");
    assert_eq!(routed.gateway.call(call("x"), context()).await.unwrap().response.text, "from b");
}

#[tokio::test]
async fn a_provider_that_fails_again_and_again_is_left_alone_and_said_so() {
    let mut settings = quick_settings(&["a"]);
    settings.providers.get_mut("a").unwrap().breaker_failures = 3;
    let kept = Kept::new(settings, vec![provider("a", vec![status(500)])]).await;

    kept.gateway.call(call("1"), context()).await.unwrap_err();
    let failure = kept.gateway.call(call("2"), context()).await.unwrap_err();

    assert_eq!(failure.error.outcome(), "breaker_open");
    assert!(failure.error.retry_after().is_some());
    assert_eq!(kept.gateway.broken_providers(), ["a"]);
    assert_eq!(kept.outcomes().await.len(), 4);
}

#[tokio::test]
async fn two_hundred_calls_at_once_never_spend_more_than_the_cap() {
    // 3 words in and 2 out: 5,000 nano-dollars; the worst case of a call is 3 × (11 + 80 + 10) tokens.
    let settings = capped(priced(quick_settings(&["a"])), "tenant:*", 0.002);
    let kept = Kept::new(settings, vec![says("a", "all right")]).await;
    let ask = |n: usize| kept.gateway.call(call(&format!("is it {n:05}")), context());

    let outcomes = join_all((0..200).map(ask)).await;

    kept.flush().await;
    let spent: Nanousd = kept.ledger.calls().iter().map(|row| row.cost).sum();
    let refused = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
    assert!(refused.clone().count() > 0 && refused.clone().count() < 200);
    assert!(refused.clone().all(|failure| failure.error.outcome() == "budget_exceeded"));
    assert!(refused.clone().all(|failure| failure.error.to_string().contains("tenant:* per day")));
    assert!(spent <= Nanousd(2_000_000), "{spent}");
    let state = &kept.gateway.budgets().states()[0].accounts[0];
    assert_eq!((state.spent.cost, state.reserved.cost), (spent, Nanousd(0)));
}

#[tokio::test]
async fn half_of_a_budget_gives_one_alert_and_all_of_it_refuses_until_it_is_raised() {
    let settings = capped(priced(quick_settings(&["a"])), "session:*", 0.000_320);
    let kept = Kept::new(settings, vec![says("a", &"word ".repeat(96))]).await;
    let generous = || ChatCall { max_tokens: 1, ..call("say a lot") };

    // Each reply costs 99 tokens, however few were allowed: more than was reserved for the output.
    kept.gateway.call(generous(), context()).await.unwrap();
    kept.gateway.call(generous(), context()).await.unwrap_err();
    kept.flush().await;
    let other = CallContext { session_id: Some("s-2".to_owned()), ..context() };
    assert!(kept.gateway.call(generous(), other).await.is_ok(), "each session has an account of its own");
    let budget = kept.gateway.budgets().states()[0].budget.clone();
    let raised = crate::domain::Budget { limit: Some(Nanousd(100_000_000)), ..budget };
    kept.gateway.budgets().configure(vec![raised]);

    assert!(kept.gateway.call(generous(), context()).await.is_ok());
    let actions: Vec<_> = kept.ledger.events().iter().map(|event| event.action).collect();
    assert_eq!(actions, [BudgetAction::Refused], "99 of 320 is under half");
}

#[tokio::test]
async fn an_alert_comes_once() {
    let settings = capped(priced(quick_settings(&["a"])), "everything", 0.001);
    let kept = Kept::new(settings, vec![says("a", &"word ".repeat(297))]).await;

    for _ in 0..3 {
        // The third is refused.
        let _ = kept.gateway.call(call("say a lot"), context()).await;
    }

    kept.flush().await;
    let alerts = kept.ledger.events().into_iter().filter(|event| event.action == BudgetAction::Alert);
    assert_eq!(alerts.count(), 1);
}

#[tokio::test]
async fn what_a_crash_left_reserved_stays_counted_until_it_is_resolved() {
    let settings = capped(priced(quick_settings(&["a"])), "tenant:acme", 0.000_4);
    let ledger = Arc::new(MemoryLedger::default());
    let first = Kept::over(ledger.clone(), settings.clone(), vec![provider("a", vec![Reply::Silence])]).await;
    let asked = tokio::spawn({
        let gateway = first.gateway.clone();
        async move { gateway.call(call("why?"), context()).await }
    });
    while ledger.reservations_now().is_empty() {
        tokio::task::yield_now().await;
    }
    // The process is gone: what it would still write is never written.
    ledger.is_broken.store(true, Ordering::Release);
    asked.abort();
    let _ = asked.await;
    first.flush().await;
    ledger.is_broken.store(false, Ordering::Release);

    let second = Kept::over(ledger.clone(), settings, vec![says("a", "well")]).await;
    let refused = second.gateway.call(call("why?"), context()).await.unwrap_err();
    let left = second.gateway.budgets().states()[0].accounts[0].unresolved.clone();
    let tenant = TenantId::new("acme").unwrap();
    let used = Nanousd(1_000);
    let stranger = TenantId::new("other").unwrap();

    assert_eq!(refused.error.outcome(), "budget_exceeded");
    assert_eq!(left.len(), 1);
    let resolve = |tenant, cost| second.gateway.budgets().resolve(tenant, left[0].call_id, cost);
    assert_eq!(resolve(&stranger, used).await.unwrap(), Resolution::Unknown);
    assert_eq!(resolve(&tenant, Nanousd(u64::MAX)).await.unwrap(), Resolution::TooMuch(left[0].amount.cost));
    assert_eq!(second.gateway.budgets().unresolved().0, 1);
    assert_eq!(resolve(&tenant, used).await.unwrap(), Resolution::Done);
    assert_eq!(second.gateway.budgets().unresolved().0, 0);
    let row = ledger.calls().pop().unwrap();
    assert_eq!((row.outcome.as_str(), row.cost, row.tenant), ("crashed", used, tenant));
    assert!(second.gateway.call(call("why?"), context()).await.is_ok());
}

#[tokio::test]
async fn a_call_that_its_budget_cuts_is_charged_with_all_it_may_have_done() {
    let settings = capped(priced(quick_settings(&["a"])), "everything", 1.0);
    let kept = Kept::new(settings, vec![provider("a", vec![Reply::Silence])]).await;
    let asked = tokio::spawn({
        let gateway = kept.gateway.clone();
        async move { gateway.call(call("why?"), context()).await }
    });
    while kept.ledger.reservations_now().is_empty() {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(20)).await;

    let budget = kept.gateway.budgets().states()[0].budget.clone();
    kept.gateway.budgets().configure(vec![crate::domain::Budget { limit_tokens: Some(0), ..budget }]);
    let failure = asked.await.unwrap().unwrap_err();

    assert_eq!(failure.error.outcome(), "budget_cut");
    // "why?" is 4 bytes and a message, and 10 tokens were allowed: 4 + 16 + 64 + 10.
    assert_eq!(failure.cost, Nanousd(94_000));
    kept.flush().await;
    assert_eq!(kept.ledger.calls()[0].usage_source, UsageSource::WorstCase);
}

#[tokio::test]
async fn shared_replies_cost_nothing_but_count_as_turns() {
    let mut settings = capped(priced(quick_settings(&["a"])), "session:*", 1.0);
    settings.budgets[0].limit_calls = Some(3);
    let provider = Arc::new(Scripted::new("a", vec![Reply::Text("once".to_owned())]).unwrap());
    let kept = Kept::new(settings, vec![Arc::new(Slow(Arc::clone(&provider)))]).await;
    let same = || ChatCall { identity: Some([3; 32]), ..call("why?") };

    let replies = join_all((0..5).map(|_| kept.gateway.call(same(), context()))).await;

    assert_eq!(replies.iter().filter(|reply| reply.is_ok()).count(), 3);
    assert_eq!(provider.calls(), 1);
    let state = &kept.gateway.budgets().states()[0].accounts[0];
    assert_eq!((state.spent.calls, state.reserved.calls), (3, 0));
}

#[tokio::test]
async fn one_who_shares_a_call_is_not_refused_by_the_budget_of_the_one_who_began_it() {
    let mut settings = capped(priced(quick_settings(&["a"])), "session:*", 1.0);
    settings.budgets[0].limit_calls = Some(1);
    let kept = Kept::new(settings, vec![says("a", "well")]).await;
    let same = || ChatCall { identity: Some([4; 32]), ..call("why?") };
    kept.gateway.call(call("first turn"), context()).await.unwrap();
    let other = CallContext { session_id: Some("s-2".to_owned()), ..context() };

    let (refused, answered) = tokio::join!(kept.gateway.call(same(), context()), kept.gateway.call(same(), other));

    assert_eq!(refused.unwrap_err().error.outcome(), "budget_exceeded");
    assert_eq!(answered.unwrap().response.text, "well");
}

#[tokio::test]
async fn a_call_that_cannot_be_reserved_durably_is_not_made() {
    let settings = capped(priced(quick_settings(&["a"])), "everything", 1.0);
    let kept = Kept::new(settings, vec![says("a", "well")]).await;
    kept.ledger.is_broken.store(true, Ordering::Release);

    let failure = kept.gateway.call(call("why?"), context()).await.unwrap_err();

    assert_eq!(failure.error.outcome(), "ledger_unavailable");
    assert_eq!(kept.gateway.budgets().states()[0].accounts[0].reserved.cost, Nanousd(0));
}

#[tokio::test]
async fn the_kill_switch_cuts_calls_and_streams_within_a_second_and_refuses_new_ones() {
    let kept = Kept::new(quick_settings(&["a"]), vec![provider("a", vec![Reply::Silence])]).await;
    let speaking = Kept::new(quick_settings(&["a"]), vec![says("a", &"one two three ".repeat(20))]).await;
    let mut stream = speaking.gateway.call_stream(call("speak"), context()).await.unwrap();
    let whole = tokio::spawn({
        let gateway = kept.gateway.clone();
        async move { gateway.call(call("why?"), context()).await }
    });
    tokio::task::yield_now().await;

    let before = Instant::now();
    kept.gateway.kill_switch().turn_on("drill").unwrap();
    speaking.gateway.kill_switch().turn_on("drill").unwrap();
    let failure = whole.await.unwrap().unwrap_err();
    let first = stream.next().await;
    let mut cut = stream.next().await;
    while matches!(cut, Some(Ok(_))) {
        cut = stream.next().await;
    }

    assert!(before.elapsed() < Duration::from_secs(1));
    assert_eq!(failure.error.outcome(), "kill_switch");
    assert!(matches!(first, Some(Ok(_))), "what has arrived is given");
    assert_eq!(cut.unwrap().unwrap_err().outcome(), "kill_switch");
    assert!(stream.next().await.is_none());
    assert_eq!(kept.gateway.call(call("x"), context()).await.unwrap_err().error.outcome(), "kill_switch");
    assert_eq!(speaking.outcomes().await, ["a kill_switch"]);
}

#[tokio::test]
async fn a_caller_that_leaves_is_written_down_and_charged_with_what_arrived() {
    let kept = Kept::new(priced(quick_settings(&["a"])), vec![says("a", &"four byte ".repeat(50))]).await;

    let mut stream = kept.gateway.call_stream(call("speak now"), context()).await.unwrap();
    stream.next().await.unwrap().unwrap();
    stream.next().await.unwrap().unwrap();
    drop(stream);

    while kept.outcomes().await.is_empty() {
        tokio::task::yield_now().await;
    }
    let row = &kept.ledger.calls()[0];
    assert_eq!(row.outcome, "cancelled");
    assert_eq!(row.usage_source, UsageSource::Estimated);
    // "speak now" is 9 bytes and "four byte " 10, at four bytes a token; some more had arrived when the reader left.
    assert_eq!(row.usage.input_tokens, 3);
    assert!((3..125).contains(&row.usage.output_tokens), "{:?}", row.usage);
    assert_eq!(row.cost, Nanousd(1_000 * (3 + row.usage.output_tokens)));
    assert!(row.is_streamed && row.first_token_us.is_some());
}

#[tokio::test]
async fn equal_calls_at_once_are_made_once_and_each_has_its_row() {
    let provider = Arc::new(Scripted::new("a", vec![Reply::Text("once".to_owned())]).unwrap());
    let kept = Kept::new(priced(quick_settings(&["a"])), vec![Arc::new(Slow(Arc::clone(&provider)))]).await;
    let same = || ChatCall { identity: Some([1; 32]), ..call("why?") };
    let other_tenant = CallContext { scope: TenantScope::everything(TenantId::new("other").unwrap()), ..context() };

    let replies = join_all((0..100).map(|_| kept.gateway.call(same(), context()))).await;
    kept.gateway.call(same(), other_tenant).await.unwrap();

    assert_eq!(provider.calls(), 2, "one for each tenant");
    assert_eq!(replies.iter().filter(|reply| reply.as_ref().unwrap().cache == CacheUse::Coalesced).count(), 99);
    kept.flush().await;
    let calls = kept.ledger.calls();
    assert_eq!(calls.len(), 101);
    assert_eq!(calls.iter().filter(|row| row.cost > Nanousd(0)).count(), 2);
}

#[tokio::test]
async fn a_shared_call_goes_on_when_the_one_who_began_it_leaves() {
    let provider = Arc::new(Scripted::new("a", vec![Reply::Text("well".to_owned())]).unwrap());
    let kept = Kept::new(quick_settings(&["a"]), vec![Arc::new(Slow(Arc::clone(&provider)))]).await;
    let same = || ChatCall { identity: Some([2; 32]), ..call("why?") };
    let mut leader = Box::pin(kept.gateway.call(same(), context()));
    let _ = futures::poll!(&mut leader);
    let follower = kept.gateway.call(same(), context());

    let mut follower = Box::pin(follower);
    assert!(futures::poll!(&mut follower).is_pending());
    drop(leader);

    assert_eq!(follower.await.unwrap().response.text, "well");
    assert_eq!(provider.calls(), 1);
}

#[tokio::test]
async fn new_settings_hold_for_new_calls_and_lose_none_under_way() {
    let slow = provider("a", vec![Reply::Text("old".to_owned())]);
    let gateway = with(quick_settings(&["a", "b"]), vec![slow, says("b", "new")]);
    let mut stream = gateway.call_stream(call("x"), context()).await.unwrap();
    let mut settings = quick_settings(&["a", "b"]);
    settings.routes.get_mut("default").unwrap().models = vec!["b".to_owned()];

    gateway.configure(settings).unwrap();
    let rejected = gateway.configure(GatewaySettings { call_timeout_ms: 0, ..quick_settings(&["a", "b"]) });

    assert_eq!(gateway.call(call("x"), context()).await.unwrap().response.text, "new");
    let first = stream.next().await.unwrap().unwrap();
    assert_eq!(first, ChatEvent::Delta("old".to_owned()));
    assert!(matches!(rejected, Err(GatewayError::Settings { .. })));
}

#[tokio::test]
async fn a_tenant_that_uses_its_tokens_waits_and_its_neighbour_does_not() {
    let settings = GatewaySettings { tenant_tokens_per_minute: Some(15), ..quick_settings(&["a"]) };
    let gateway = with(settings, vec![says("a", "one two three four")]);
    let neighbour = CallContext { scope: TenantScope::everything(TenantId::new("other").unwrap()), ..context() };

    gateway.call(call("x"), context()).await.unwrap();
    let refused = gateway.call(call("x"), context()).await.unwrap_err();

    assert_eq!(refused.error.outcome(), "token_rate");
    assert!(refused.error.retry_after().unwrap() <= Duration::from_secs(60));
    assert!(gateway.call(call("x"), neighbour).await.is_ok());
}

#[tokio::test]
async fn a_model_without_a_price_is_refused_before_anything_is_called() {
    let settings = GatewaySettings { unknown_price: UnknownPrice::Refuse, ..quick_settings(&["a"]) };

    let problems = settings.problems();

    assert_eq!(problems.len(), 1);
    assert!(problems[0].contains("no price is known for \"asked-for\""), "{}", problems[0]);
}
