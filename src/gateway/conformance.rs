//! The promises of [`Provider`], kept by every implementation, and the faults of real servers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use secrecy::SecretString;

use crate::domain::{TenantId, TenantScope, TraceId};

use super::mock_server::{Act, MockServer, Then, sse};
use super::*;

const LONG: Duration = Duration::from_secs(30);

fn request() -> ChatRequest {
    ChatRequest {
        messages: vec![ChatMessage::new(Role::System, "be brief"), ChatMessage::new(Role::User, "why?")],
        model: None,
        max_tokens: 50,
        temperature: Some(0.0),
    }
}

/// How the provider under test is to behave.
#[derive(Debug, Clone, Copy)]
enum Behaviour {
    Says(&'static str),
    CutsAfter(&'static str),
    IsSilent,
}

/// A provider, and whatever must live as long as it does.
struct Subject {
    provider: Arc<dyn Provider>,
    server: Option<MockServer>,
}

async fn subjects(behaviour: Behaviour) -> Vec<Subject> {
    let reply = match behaviour {
        Behaviour::Says(text) => Reply::Text(text.to_owned()),
        Behaviour::CutsAfter(text) => Reply::Cut(text.to_owned()),
        Behaviour::IsSilent => Reply::Silence,
    };
    let scripted = Arc::new(Scripted::new("scripted", "script-1", vec![reply]).unwrap());
    let (whole, streamed) = match behaviour {
        Behaviour::Says(text) => (Act::says(text), Act::streams(&[&text[..4], &text[4..]])),
        Behaviour::CutsAfter(text) => {
            let cut = Act::raw("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{");
            (cut, Act::streams_without_end(&[text]))
        }
        Behaviour::IsSilent => (Act::raw("").then(Then::Stall), Act::raw("").then(Then::Stall)),
    };
    // Each check makes one whole and then one streamed call.
    let server = MockServer::start(vec![whole, streamed]).await;
    let openai = Arc::new(openai(&server.settings()));
    vec![Subject { provider: scripted, server: None }, Subject { provider: openai, server: Some(server) }]
}

fn openai(settings: &GatewaySettings) -> OpenAiCompatible {
    install_tls();
    OpenAiCompatible::new(settings).unwrap()
}

async fn collect(mut stream: ChatStream) -> (String, Vec<Result<ChatEnd, &'static str>>) {
    let (mut text, mut ends) = (String::new(), Vec::new());
    while let Some(event) = stream.next().await {
        match event {
            Ok(ChatEvent::Delta(piece)) => {
                assert!(ends.is_empty(), "text after the end");
                text.push_str(&piece);
            }
            Ok(ChatEvent::Done(end)) => ends.push(Ok(end)),
            Err(error) => ends.push(Err(error.outcome())),
        }
    }
    (text, ends)
}

#[tokio::test]
async fn a_streamed_reply_says_the_same_as_a_whole_one() {
    for subject in subjects(Behaviour::Says("Since it was so.")).await {
        let whole = subject.provider.chat(&request(), Instant::now() + LONG).await.unwrap();
        let stream = subject.provider.chat_stream(&request(), Instant::now() + LONG).await.unwrap();
        let (text, ends) = collect(stream).await;

        assert_eq!(whole.text, "Since it was so.");
        assert_eq!(text, whole.text);
        assert_eq!(ends, [Ok(whole.end)], "{}", subject.provider.name());
    }
}

#[tokio::test]
async fn a_reply_that_breaks_off_is_an_error_and_not_a_shorter_answer() {
    for subject in subjects(Behaviour::CutsAfter("Half of ")).await {
        let whole = subject.provider.chat(&request(), Instant::now() + LONG).await;
        let stream = subject.provider.chat_stream(&request(), Instant::now() + LONG).await.unwrap();
        let (text, ends) = collect(stream).await;

        assert_eq!(whole.unwrap_err().outcome(), "broken_off", "{}", subject.provider.name());
        assert_eq!(text, "Half of ");
        assert_eq!(ends, [Err("broken_off")]);
    }
}

#[tokio::test]
async fn a_silent_server_is_left_at_the_deadline_and_its_connection_closed() {
    for subject in subjects(Behaviour::IsSilent).await {
        let soon = Duration::from_millis(30);
        let whole = subject.provider.chat(&request(), Instant::now() + soon).await;
        let stream = subject.provider.chat_stream(&request(), Instant::now() + soon).await;

        assert_eq!(whole.unwrap_err().outcome(), "deadline", "{}", subject.provider.name());
        assert_eq!(stream.map(|_| ()).unwrap_err().outcome(), "deadline");
        if let Some(server) = subject.server {
            server.until_closed(2).await;
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_stops_the_server() {
    let server = MockServer::start(vec![
        Act::raw("").then(Then::Stall),
        Act::streams_without_end(&["first ", "second"]).then(Then::Stall),
    ])
    .await;
    let provider = openai(&server.settings());

    let asked = request();
    let call = provider.chat(&asked, Instant::now() + LONG);
    tokio::select! {
        _ = call => panic!("the server never answers"),
        () = async { while server.requests().is_empty() { tokio::task::yield_now().await } } => {}
    }
    server.until_closed(1).await;

    let mut stream = provider.chat_stream(&request(), Instant::now() + LONG).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), ChatEvent::Delta("first ".to_owned()));
    drop(stream);
    server.until_closed(2).await;
}

#[tokio::test]
async fn the_request_carries_model_key_and_limits() {
    let server = MockServer::start(vec![Act::says("yes")]).await;
    let mut settings = server.settings();
    settings.api_key = Some(SecretString::from("sk-1"));
    settings.extra_headers.insert("x-team".to_owned(), SecretString::from("blue"));
    let provider = openai(&settings);

    provider.chat(&request(), Instant::now() + LONG).await.unwrap();

    let sent = &server.requests()[0];
    assert!(sent.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{sent}");
    assert!(sent.contains("authorization: Bearer sk-1\r\n"));
    assert!(sent.contains("x-team: blue\r\n"));
    assert!(sent.contains(r#""model":"asked-for""#) && sent.contains(r#""max_tokens":50"#));
}

/// What a server does wrong, and the outcome both kinds of call must report.
async fn outcome_of(act: Act, adjust: impl FnOnce(&mut GatewaySettings)) -> (&'static str, &'static str) {
    let server = MockServer::start(vec![act]).await;
    let mut settings = server.settings();
    adjust(&mut settings);
    let provider = openai(&settings);
    let whole = match provider.chat(&request(), Instant::now() + LONG).await {
        Ok(_) => "ok",
        Err(error) => error.outcome(),
    };
    let streamed = match provider.chat_stream(&request(), Instant::now() + LONG).await {
        Ok(stream) => collect(stream).await.1.pop().unwrap().map_or_else(|outcome| outcome, |_| "ok"),
        Err(error) => error.outcome(),
    };
    (whole, streamed)
}

#[tokio::test]
async fn what_a_broken_server_sends_becomes_a_typed_error() {
    let json = |body: &str| Act::json("200 OK", "", body);
    let stream = |data: &str| {
        let mut act = Act::streams_without_end(&[]);
        act.writes.push(sse(data));
        act
    };

    for body in ["", "{", "[]", r#"{"choices": []}"#, r#"{"choices": [{"message": {"content": null}}]}"#] {
        assert_eq!(outcome_of(json(body), |_| ()).await, ("malformed", "wrong_content_type"), "{body}");
    }
    let negative = r#"{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": -1}}"#;
    assert_eq!(outcome_of(json(negative), |_| ()).await.0, "malformed");
    for data in ["{", "[1", r#"{"error": {"message": "out of memory"}}"#, r#"{"choices": 4}"#] {
        assert_eq!(outcome_of(stream(data), |_| ()).await, ("wrong_content_type", "malformed"), "{data}");
    }
    let html = Act::raw("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 2\r\n\r\nhi");
    assert_eq!(outcome_of(html, |_| ()).await, ("wrong_content_type", "wrong_content_type"));
    assert_eq!(outcome_of(Act::raw("SSH-2.0-OpenSSH\r\n"), |_| ()).await, ("broken_off", "broken_off"));
    let many_headers = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(100_000));
    assert_eq!(outcome_of(Act::raw(many_headers), |_| ()).await, ("broken_off", "broken_off"));
    let elsewhere = Act::raw("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(outcome_of(elsewhere, |_| ()).await, ("refused", "refused"));
}

#[tokio::test]
async fn no_more_than_the_configured_size_is_read() {
    let long = "x".repeat(5_000);
    let small = |settings: &mut GatewaySettings| settings.max_response_bytes = 2_000;

    assert_eq!(outcome_of(Act::says(&long), small).await.0, "too_large");
    assert_eq!(outcome_of(Act::streams(&[long.as_str()]), small).await.1, "too_large");
    let mut one_line = Act::streams_without_end(&[]);
    one_line.writes.push(long.into_bytes());
    assert_eq!(outcome_of(one_line, small).await.1, "too_large");
}

#[tokio::test]
async fn silence_inside_a_reply_ends_it() {
    let impatient = |settings: &mut GatewaySettings| settings.idle_timeout_ms = 30;
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{";

    assert_eq!(outcome_of(Act::raw(head).then(Then::Stall), impatient).await.0, "idle");
    assert_eq!(outcome_of(Act::streams_without_end(&["one"]).then(Then::Stall), impatient).await.1, "idle");
}

#[tokio::test]
async fn an_error_never_holds_the_key_or_the_address() {
    let body = r#"{"error": {"message": "key sk-secret-9 is not known"}}"#;
    let server = MockServer::start(vec![Act::json("401 Unauthorized", "", body)]).await;
    let mut settings = server.settings();
    settings.api_key = Some(SecretString::from("sk-secret-9"));
    let refused = openai(&settings).chat(&request(), Instant::now() + LONG).await.unwrap_err();
    settings.base_url = "http://user:sk-secret-9@127.0.0.1:1/v1".to_owned();
    let unreachable = openai(&settings).chat(&request(), Instant::now() + LONG).await.unwrap_err();

    assert_eq!(refused.to_string(), "mock answered with status 401: key *** is not known");
    assert_eq!(unreachable.outcome(), "unreachable");
    for error in [refused, unreachable] {
        assert!(!format!("{error:?}").contains("secret"), "{error:?}");
    }
}

fn scope() -> TenantScope {
    TenantScope::everything(TenantId::new("acme").unwrap())
}

fn context(scope: &TenantScope) -> CallContext<'_> {
    CallContext {
        scope,
        trace_id: TraceId([7; 16]),
        purpose: "test",
        session_id: None,
        deadline: Instant::now() + LONG,
    }
}

fn outcomes(attempts: &[crate::domain::Attempt]) -> Vec<&str> {
    attempts.iter().map(|attempt| attempt.outcome.as_str()).collect()
}

#[tokio::test]
async fn a_call_is_tried_again_after_a_refusal_that_passes() {
    let busy = Act::json("429 Too Many Requests", "retry-after: 0\r\n", "{}");
    let down = Act::json("503 Service Unavailable", "", "{}");
    let server = MockServer::start(vec![busy, down, Act::says("at last")]).await;
    let gateway = Gateway::new(Arc::new(openai(&server.settings())), &server.settings());
    let scope = scope();

    let called = gateway.call(&request(), &context(&scope)).await.unwrap();

    assert_eq!(called.response.text, "at last");
    assert_eq!(outcomes(&called.attempts), ["rate_limited", "server_error", "ok"]);
    assert_eq!(called.attempts[2].model, "mock-1");
}

#[tokio::test]
async fn a_stream_is_tried_again_only_before_its_first_piece() {
    let server = MockServer::start(vec![
        Act::json("500 Internal Server Error", "", "{}"),
        Act::streams_without_end(&[]),
        Act::streams_without_end(&["begun "]),
    ])
    .await;
    let gateway = Gateway::new(Arc::new(openai(&server.settings())), &server.settings());
    let scope = scope();

    let mut stream = gateway.call_stream(&request(), &context(&scope)).await.unwrap();

    assert_eq!(stream.next().await.unwrap().unwrap(), ChatEvent::Delta("begun ".to_owned()));
    assert_eq!(stream.next().await.unwrap().unwrap_err().outcome(), "broken_off");
    assert!(stream.next().await.is_none());
    assert_eq!(outcomes(stream.attempts()), ["server_error", "broken_off", "broken_off"]);
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn attempts_end_and_hopeless_calls_are_not_repeated() {
    let settings = GatewaySettings { backoff_base_ms: 1, ..GatewaySettings::default() };
    let scope = scope();
    for (status, expected) in [(500, 3), (401, 1)] {
        let provider = Arc::new(Scripted::new("s", "m", vec![Reply::Status { status, retry_after: None }]).unwrap());
        let gateway = Gateway::new(Arc::clone(&provider) as Arc<dyn Provider>, &settings);

        let failure = gateway.call(&request(), &context(&scope)).await.unwrap_err();

        assert_eq!(failure.attempts.len(), expected);
        assert_eq!(provider.calls(), expected);
    }
}

#[tokio::test]
async fn a_wait_that_would_pass_the_deadline_is_not_begun() {
    let later = Reply::Status { status: 429, retry_after: Some(Duration::from_secs(3600)) };
    let provider = Arc::new(Scripted::new("s", "m", vec![later]).unwrap());
    let gateway = Gateway::new(Arc::clone(&provider) as Arc<dyn Provider>, &GatewaySettings::default());
    let scope = scope();

    let failure = gateway.call(&request(), &context(&scope)).await.unwrap_err();

    assert_eq!(failure.error.outcome(), "rate_limited");
    assert_eq!(provider.calls(), 1);
}

#[tokio::test]
async fn calls_beyond_the_queue_are_refused_at_once_and_places_come_back() {
    let settings = GatewaySettings { max_concurrent_calls: 1, max_waiting_calls: 0, ..GatewaySettings::default() };
    let provider = Arc::new(Scripted::new("s", "m", vec![Reply::Text("one two".to_owned())]).unwrap());
    let gateway = Gateway::new(provider, &settings);
    let scope = scope();

    let running = gateway.call_stream(&request(), &context(&scope)).await.unwrap();
    let refused = gateway.call(&request(), &context(&scope)).await.unwrap_err();
    drop(running);
    let called = gateway.call(&request(), &context(&scope)).await.unwrap();

    assert_eq!(refused.error.outcome(), "overloaded");
    assert!(refused.attempts.is_empty());
    assert_eq!(called.response.text, "one two");
}

#[tokio::test]
async fn without_a_provider_every_call_says_so() {
    let scope = scope();
    let failure = Gateway::none().call(&request(), &context(&scope)).await.unwrap_err();

    assert_eq!(failure.error.outcome(), "not_configured");
    assert!(failure.attempts.is_empty());
}
