//! The promises of [`Provider`], kept by every implementation over its real wire format.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use secrecy::SecretString;
use serde_json::json;

use super::mock_replies::{FORMATS, Said, provider, says, stream_of, streams_without_end};
use super::mock_server::{Act, MockServer, Then};
use super::*;

const LONG: Duration = Duration::from_secs(30);

pub(super) fn request() -> ChatRequest {
    ChatRequest {
        call_id: crate::domain::CallId([0; 16]),
        messages: vec![ChatMessage::new(Role::System, "be brief"), ChatMessage::new(Role::User, "why?")],
        model: "asked-for".to_owned(),
        max_tokens: 50,
        temperature: Some(0.0),
        tools: Vec::new(),
        schema: None,
    }
}

/// How the provider under test is to behave.
#[derive(Debug, Clone)]
enum Behaviour {
    Says([&'static str; 2]),
    Calls(Vec<ToolCall>),
    CutsAfter(&'static str),
    IsSilent,
}

/// A provider, and whatever must live as long as it does.
struct Subject {
    kind: ProviderKind,
    provider: Arc<dyn Provider>,
    server: Option<MockServer>,
}

async fn subjects(behaviour: Behaviour) -> Vec<Subject> {
    let reply = match behaviour.clone() {
        Behaviour::Says(pieces) => Reply::Text(pieces.concat()),
        Behaviour::Calls(calls) => Reply::Calls(calls),
        Behaviour::CutsAfter(text) => Reply::Cut(text.to_owned()),
        Behaviour::IsSilent => Reply::Silence,
    };
    let scripted = Arc::new(Scripted::new("scripted", vec![reply]).unwrap());
    let mut subjects = vec![Subject { kind: ProviderKind::Scripted, provider: scripted, server: None }];
    for kind in FORMATS {
        let (whole, streamed) = match behaviour.clone() {
            Behaviour::Says(pieces) => says(kind, &Said::text(&pieces)),
            Behaviour::Calls(calls) => says(kind, &Said::calls(calls)),
            Behaviour::CutsAfter(text) => {
                let cut = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{";
                (Act::raw(cut), streams_without_end(kind, &[text]))
            }
            Behaviour::IsSilent => (Act::raw("").then(Then::Stall), Act::raw("").then(Then::Stall)),
        };
        // Each check makes one whole and then one streamed call.
        let server = MockServer::start(vec![whole, streamed]).await;
        subjects.push(Subject { kind, provider: provider(kind, &server.settings()), server: Some(server) });
    }
    subjects
}

/// What a stream gave, in the order of the contract.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Collected {
    pub text: String,
    pub calls: Vec<ToolCall>,
    pub usage: Option<crate::domain::Usage>,
    pub ends: Vec<Result<ChatEnd, &'static str>>,
}

pub(super) async fn collect(mut stream: ChatStream) -> Collected {
    let mut collected = Collected::default();
    while let Some(event) = stream.next().await {
        assert!(collected.ends.is_empty(), "an event after the end: {event:?}");
        match event {
            Ok(ChatEvent::Delta(piece)) => {
                assert!(!piece.is_empty(), "an empty piece");
                collected.text.push_str(&piece);
            }
            Ok(ChatEvent::ToolCall(call)) => collected.calls.push(call),
            Ok(ChatEvent::Usage(usage)) => collected.usage = Some(usage),
            Ok(ChatEvent::Done(end)) => collected.ends.push(Ok(end)),
            Err(error) => collected.ends.push(Err(error.outcome())),
        }
    }
    collected
}

async fn whole(subject: &Subject) -> Result<ChatResponse, GatewayError> {
    subject.provider.chat(&request(), Instant::now() + LONG).await
}

async fn streamed(subject: &Subject) -> Collected {
    collect(subject.provider.chat_stream(&request(), Instant::now() + LONG).await.unwrap()).await
}

#[tokio::test]
async fn a_streamed_reply_says_the_same_as_a_whole_one() {
    for subject in subjects(Behaviour::Says(["Since", " it was so."])).await {
        let whole = whole(&subject).await.unwrap();
        let streamed = streamed(&subject).await;

        assert_eq!(whole.text, "Since it was so.", "{:?}", subject.kind);
        assert_eq!(streamed.text, whole.text, "{:?}", subject.kind);
        assert_eq!(whole.end.finish, FinishReason::Stop);
        assert!(whole.end.usage.is_some_and(|usage| usage.output_tokens > 0));
        assert_eq!(streamed.ends, [Ok(whole.end)], "{:?}", subject.kind);
    }
}

#[tokio::test]
async fn tool_calls_are_the_same_whole_and_streamed() {
    let call = |id: &str, name: &str, arguments: &str| ToolCall {
        id: id.to_owned(),
        name: name.to_owned(),
        arguments: arguments.to_owned(),
    };
    // The ids that are made up where a wire format has none.
    let calls = vec![call("call_0", "find", r#"{"query":"whale"}"#), call("call_1", "open", "{}")];
    for subject in subjects(Behaviour::Calls(calls.clone())).await {
        let whole = whole(&subject).await.unwrap();
        let streamed = streamed(&subject).await;

        assert_eq!(whole.tool_calls, calls, "{:?}", subject.kind);
        assert_eq!((whole.text.as_str(), whole.end.finish), ("", FinishReason::ToolCalls));
        assert_eq!(streamed.calls, calls, "{:?}", subject.kind);
        assert_eq!(streamed.ends, [Ok(whole.end)], "{:?}", subject.kind);
    }
}

#[tokio::test]
async fn a_reply_without_text_is_an_answer() {
    for subject in subjects(Behaviour::Says(["", ""])).await {
        let whole = whole(&subject).await.unwrap();
        let streamed = streamed(&subject).await;

        assert_eq!((whole.text.as_str(), whole.end.finish), ("", FinishReason::Stop), "{:?}", subject.kind);
        assert_eq!((streamed.text.as_str(), streamed.ends), ("", vec![Ok(whole.end)]), "{:?}", subject.kind);
    }
}

#[tokio::test]
async fn a_reply_that_breaks_off_is_an_error_and_not_a_shorter_answer() {
    for subject in subjects(Behaviour::CutsAfter("Half of ")).await {
        let whole = whole(&subject).await;
        let streamed = streamed(&subject).await;

        assert_eq!(whole.unwrap_err().outcome(), "broken_off", "{:?}", subject.kind);
        assert_eq!(streamed.text, "Half of ");
        assert_eq!(streamed.ends, [Err("broken_off")], "{:?}", subject.kind);
    }
}

#[tokio::test]
async fn a_silent_server_is_left_at_the_deadline_and_its_connection_closed() {
    for subject in subjects(Behaviour::IsSilent).await {
        let soon = Duration::from_millis(30);
        let whole = subject.provider.chat(&request(), Instant::now() + soon).await;
        let stream = subject.provider.chat_stream(&request(), Instant::now() + soon).await;

        assert_eq!(whole.unwrap_err().outcome(), "deadline", "{:?}", subject.kind);
        assert_eq!(stream.map(|_| ()).unwrap_err().outcome(), "deadline");
        if let Some(server) = subject.server {
            server.until_closed(2).await;
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_stops_the_server() {
    for kind in FORMATS {
        let stalled = streams_without_end(kind, &["first ", "second"]).then(Then::Stall);
        let server = MockServer::start(vec![Act::raw("").then(Then::Stall), stalled]).await;
        let provider = provider(kind, &server.settings());

        let asked = request();
        let call = provider.chat(&asked, Instant::now() + LONG);
        tokio::select! {
            _ = call => panic!("the server never answers"),
            () = async { while server.requests().is_empty() { tokio::task::yield_now().await } } => {}
        }
        server.until_closed(1).await;

        let mut stream = provider.chat_stream(&request(), Instant::now() + LONG).await.unwrap();
        while stream.next().await.unwrap().unwrap() != ChatEvent::Delta("first ".to_owned()) {}
        drop(stream);
        server.until_closed(2).await;
    }
}

#[tokio::test]
async fn the_request_carries_model_key_and_limits() {
    let doors = ["/v1/chat/completions", "/v1/messages", "/v1/api/chat"];
    let keys = ["authorization: Bearer sk-1", "x-api-key: sk-1", "authorization: Bearer sk-1"];
    let limits = [r#""max_tokens":50"#, r#""max_tokens":50"#, r#""num_predict":50"#];
    for (at, kind) in FORMATS.into_iter().enumerate() {
        let server = MockServer::start(vec![says(kind, &Said::text(&["yes"])).0]).await;
        let mut settings = server.settings();
        settings.api_key = Some(SecretString::from("sk-1"));
        settings.extra_headers.insert("x-team".to_owned(), SecretString::from("blue"));

        provider(kind, &settings).chat(&request(), Instant::now() + LONG).await.unwrap();

        let sent = &server.requests()[0];
        assert!(sent.starts_with(&format!("POST {} HTTP/1.1\r\n", doors[at])), "{sent}");
        for part in [keys[at], "x-team: blue", "accept-encoding: identity", limits[at]] {
            assert!(sent.contains(part), "{part} is missing: {sent}");
        }
        // Errors may name the model, so what is compared with them begins behind it.
        assert!(sent.contains("\r\n\r\n{\"model\":\"asked-for\","), "{sent}");
        assert_eq!(sent.contains("anthropic-version: 2023-06-01"), kind == ProviderKind::Anthropic);
    }
}

#[tokio::test]
async fn a_reply_with_a_schema_is_json_text_in_every_format() {
    for kind in FORMATS {
        let value = r#"{"yes":true}"#;
        let call = ToolCall { id: "t".to_owned(), name: "out".to_owned(), arguments: value.to_owned() };
        // Only Anthropic's format carries it as the input of a tool.
        let said = match kind {
            ProviderKind::Anthropic => Said::calls(vec![call]),
            _ => Said::text(&[r#"{"yes""#, ":true}"]),
        };
        let (whole, streamed) = says(kind, &said);
        let server = MockServer::start(vec![whole, streamed]).await;
        let provider = provider(kind, &server.settings());
        let schema = Some(ReplySchema { name: "out".to_owned(), schema: json!({"type": "object"}) });
        let request = ChatRequest { schema, ..request() };

        let whole = provider.chat(&request, Instant::now() + LONG).await.unwrap();
        let streamed = collect(provider.chat_stream(&request, Instant::now() + LONG).await.unwrap()).await;

        assert_eq!((whole.text.as_str(), whole.end.finish), (value, FinishReason::Stop), "{kind:?}");
        assert_eq!((streamed.text.as_str(), streamed.ends), (value, vec![Ok(whole.end)]), "{kind:?}");
        assert!(whole.tool_calls.is_empty() && streamed.calls.is_empty());
    }
}

#[tokio::test]
async fn what_is_counted_before_the_end_is_said_before_the_end() {
    let kind = ProviderKind::Anthropic;
    let frames = super::mock_replies::frames(kind, &Said::text(&["one"]));
    let server = MockServer::start(vec![stream_of(kind, &frames[..3])]).await;

    let stream = provider(kind, &server.settings()).chat_stream(&request(), Instant::now() + LONG).await.unwrap();
    let collected = collect(stream).await;

    assert_eq!(collected.usage, Some(crate::domain::Usage { output_tokens: 1, ..Said::usage() }));
    assert_eq!(collected.ends, [Err("broken_off")]);
}

#[tokio::test]
async fn a_connection_is_used_again_and_one_that_was_closed_meanwhile_breaks_off() {
    for kind in FORMATS {
        let (whole, _) = says(kind, &Said::text(&["yes"]));
        let server = MockServer::start(vec![whole.clone().then(Then::ResetNext), whole]).await;
        let provider = provider(kind, &server.settings());
        let ask = async || provider.chat(&request(), Instant::now() + LONG).await;

        let first = ask().await;
        let second = ask().await;
        let third = ask().await;

        assert_eq!(first.unwrap().text, "yes");
        assert_eq!(second.unwrap_err().outcome(), "broken_off", "{kind:?}");
        assert_eq!(third.unwrap().text, "yes");
    }
}

#[tokio::test]
async fn a_mocked_bill_is_read_as_it_was_written() {
    let usage = crate::domain::Usage { input_tokens: 900, cached_input_tokens: 300, output_tokens: 40 };
    for (acts, usage) in [
        (vec![Act::bills("yes", usage), Act::streams_bill(&["yes"], usage)], usage),
        (vec![Act::says("yes"), Act::streams(&["yes"])], Said::usage()),
    ] {
        let server = MockServer::start(acts).await;
        let provider = provider(ProviderKind::OpenaiCompatible, &server.settings());

        let whole = provider.chat(&request(), Instant::now() + LONG).await.unwrap();
        let streamed = collect(provider.chat_stream(&request(), Instant::now() + LONG).await.unwrap()).await;

        assert_eq!(whole.end.usage, Some(usage));
        assert_eq!(streamed.ends, [Ok(whole.end)]);
    }
}
