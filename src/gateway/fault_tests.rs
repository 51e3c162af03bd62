//! The faults of real servers, each with the outcome that every provider over HTTP must report.
//!
//! Every error is also searched for the key and for what was asked: servers quote both.

use std::time::{Duration, Instant};

use secrecy::SecretString;
use serde_json::{Value, json};

use crate::domain::ErrorKind;

use super::conformance::collect;
use super::mock_replies::{FORMATS, Said, frame, provider, says, stream_of, stream_type, streams_without_end, whole};
use super::mock_server::{Act, MockServer, Then, sse};
use super::*;

const LONG: Duration = Duration::from_secs(30);
const KEY: &str = "sk-never-shown-0123456789";
const ASKED: &str = "the combination of the safe behind the picture";

/// Bounds that a test can wait for.
const SOON_MS: u64 = 60;
const MAX_BYTES: usize = 64 << 10;

fn request() -> ChatRequest {
    ChatRequest { messages: vec![ChatMessage::new(Role::User, ASKED)], ..super::conformance::request() }
}

/// How one call ended.
#[derive(Debug)]
enum Ended {
    Well(ChatEnd),
    Badly(GatewayError),
}

impl Ended {
    fn word(&self) -> &'static str {
        match self {
            Self::Well(_) => "ok",
            Self::Badly(error) => error.outcome(),
        }
    }

    fn error(self) -> GatewayError {
        match self {
            Self::Well(end) => panic!("no error: {end:?}"),
            Self::Badly(error) => error,
        }
    }

    /// Fails if the error repeats what it must not.
    fn keeps_secrets(&self) {
        let Self::Badly(error) = self else { return };
        let mut texts = format!("{error} {error:?}");
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            texts.push_str(&format!(" {cause} {cause:?}"));
            source = cause.source();
        }
        assert!(!texts.contains("never-shown") && !texts.contains("combination"), "{texts}");
    }
}

/// A whole call.
async fn chat(kind: ProviderKind, settings: &ProviderSettings) -> Ended {
    let called = provider(kind, settings).chat(&request(), Instant::now() + LONG).await;
    let ended = called.map_or_else(Ended::Badly, |response| Ended::Well(response.end));
    ended.keeps_secrets();
    ended
}

/// A streamed call, read to its end.
async fn chat_stream(kind: ProviderKind, settings: &ProviderSettings) -> Ended {
    use futures::StreamExt;
    let ended = match provider(kind, settings).chat_stream(&request(), Instant::now() + LONG).await {
        Err(error) => Ended::Badly(error),
        Ok(stream) => match stream.collect::<Vec<_>>().await.pop() {
            Some(Ok(ChatEvent::Done(end))) => Ended::Well(end),
            Some(Err(error)) => Ended::Badly(error),
            other => panic!("a stream that ends with {other:?}"),
        },
    };
    ended.keeps_secrets();
    ended
}

/// Settings with a key and bounds that a test can wait for.
fn impatient(settings: ProviderSettings) -> ProviderSettings {
    ProviderSettings {
        api_key: Some(SecretString::from(KEY)),
        connect_timeout_ms: SOON_MS,
        idle_timeout_ms: SOON_MS,
        max_response_bytes: MAX_BYTES,
        ..settings
    }
}

async fn whole_call(kind: ProviderKind, act: Act) -> Ended {
    let server = MockServer::start(vec![act]).await;
    chat(kind, &impatient(server.settings())).await
}

async fn streamed_call(kind: ProviderKind, act: Act) -> Ended {
    let server = MockServer::start(vec![act]).await;
    chat_stream(kind, &impatient(server.settings())).await
}

/// An error body as servers write it, with the key and the call in it.
fn error_body(code: &str, message: &str) -> String {
    let message = format!("{message} (key {KEY}, asked {ASKED:?})");
    json!({"type": "error", "error": {"message": message, "type": code, "code": code}}).to_string()
}

#[tokio::test]
async fn a_refusal_keeps_its_status_and_how_long_to_wait() {
    let later = "retry-after: Wed, 21 Oct 2099 07:28:00 GMT\r\n";
    let seconds = Duration::from_secs;
    // Status, further headers, outcome, whether the same call may do later, shortest and longest wait.
    type Row = (&'static str, &'static str, &'static str, bool, Option<[Duration; 2]>);
    let rows: [Row; 12] = [
        ("302 Found", "location: http://127.0.0.1:1/\r\n", "refused", false, None),
        ("400 Bad Request", "", "refused", false, None),
        ("401 Unauthorized", "", "refused", false, None),
        ("404 Not Found", "", "refused", false, None),
        ("408 Request Timeout", "", "refused", true, None),
        ("413 Content Too Large", "", "refused", false, None),
        ("429 Too Many Requests", "", "rate_limited", true, None),
        ("429 Too Many Requests", "retry-after: 7\r\n", "rate_limited", true, Some([seconds(7), seconds(7)])),
        ("429 Too Many Requests", later, "rate_limited", true, Some([seconds(86_400), seconds(400 * 86_400)])),
        ("500 Internal Server Error", "", "server_error", true, None),
        ("503 Service Unavailable", "retry-after: 0\r\n", "server_error", true, Some([seconds(0), seconds(0)])),
        ("529 Overloaded", "", "server_error", true, None),
    ];
    for kind in FORMATS {
        for (status, headers, outcome, is_retryable, wait) in rows {
            let act = Act::json(status, headers, &error_body("some_error", "no"));
            for ended in [whole_call(kind, act.clone()).await, streamed_call(kind, act).await] {
                let error = ended.error();
                assert_eq!(error.outcome(), outcome, "{kind:?} {status}");
                assert_eq!(error.status(), status[..3].parse().ok(), "{kind:?} {status}");
                assert_eq!(error.kind().is_retryable(), is_retryable, "{kind:?} {status}");
                let found = error.retry_after();
                let fits = wait.map_or(found.is_none(), |[from, to]| found.is_some_and(|at| from <= at && at <= to));
                assert!(fits, "{kind:?} {status} {headers}: {found:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_refusal_that_means_more_than_its_status_says_so() {
    let too_long = "This model's maximum context length is 8 tokens";
    let rows = [
        ("400 Bad Request", error_body("context_length_exceeded", "no"), "context_too_long"),
        ("400 Bad Request", error_body("exceed_context_size_error", "no"), "context_too_long"),
        (
            "400 Bad Request",
            error_body("invalid_request_error", "prompt is too long: 9 tokens > 8"),
            "context_too_long",
        ),
        ("413 Content Too Large", error_body("BadRequestError", too_long), "context_too_long"),
        ("500 Internal Server Error", error_body("BadRequestError", too_long), "server_error"),
        ("400 Bad Request", error_body("content_filter", "no"), "content_filter"),
        ("400 Bad Request", error_body("content_policy_violation", "no"), "content_filter"),
    ];
    for kind in FORMATS {
        for (status, body, outcome) in &rows {
            let act = Act::json(status, "", body);
            assert_eq!(whole_call(kind, act.clone()).await.word(), *outcome, "{kind:?} {body}");
            assert_eq!(streamed_call(kind, act).await.word(), *outcome, "{kind:?} {body}");
        }
    }
}

#[tokio::test]
async fn an_error_body_that_cannot_be_read_leaves_the_status() {
    let head = "HTTP/1.1 500 Internal Server Error\r\nconnection: close\r\n\r\n";
    let endless = Act { writes: vec![head.into(), vec![b'x'; 4096]], ..Act::raw("").then(Then::Endless) };
    let compressed = Act::json("500 Internal Server Error", "content-encoding: gzip\r\n", "\u{1f}\u{8b}");
    let rows = [
        ("endless", endless),
        ("silent", Act::raw(head).then(Then::Stall)),
        ("cut", Act::raw("HTTP/1.1 500 Internal Server Error\r\ncontent-length: 99\r\n\r\n{")),
        ("reset", Act::raw(head).then(Then::Reset)),
        ("compressed", compressed),
        ("another type", Act::raw(format!("{head}<html>"))),
    ];
    for kind in FORMATS {
        for (name, act) in rows.clone() {
            let word = whole_call(kind, act).await.word();
            // A reset may overtake the head that was sent before it.
            assert!(word == "server_error" || (name == "reset" && word == "broken_off"), "{kind:?} {name}: {word}");
        }
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unreachable() {
    // Bound and closed again: nobody listens there.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for kind in FORMATS {
        for base_url in [format!("http://{closed}"), "http://does-not-exist.invalid".to_owned()] {
            let settings = impatient(ProviderSettings { base_url: Some(base_url.clone()), ..Default::default() });
            assert_eq!(chat(kind, &settings).await.word(), "unreachable", "{kind:?} {base_url}");
            assert_eq!(chat_stream(kind, &settings).await.word(), "unreachable", "{kind:?} {base_url}");
        }
    }
}

#[tokio::test]
async fn a_server_that_takes_no_connection_is_unreachable() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    // Fill its queue until the system answers no further attempt.
    let mut waiting = Vec::new();
    let attempt = || tokio::time::timeout(Duration::from_millis(SOON_MS), tokio::net::TcpStream::connect(address));
    while let Ok(connection) = attempt().await {
        waiting.push(connection);
    }

    let settings = ProviderSettings { base_url: Some(format!("http://{address}")), ..Default::default() };
    for kind in FORMATS {
        assert_eq!(chat(kind, &impatient(settings.clone())).await.word(), "unreachable", "{kind:?}");
    }
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_head_breaks_off() {
    let rows = [
        ("closed", Act::raw("")),
        ("reset", Act::raw("").then(Then::Reset)),
        ("cut inside the head", Act::raw("HTTP/1.1 200 OK\r\ncontent-ty")),
        ("reset inside the head", Act::raw("HTTP/1.1 200 OK\r\ncontent-ty").then(Then::Reset)),
        ("another protocol", Act::raw("SSH-2.0-OpenSSH\r\n")),
        ("too many headers", Act::raw(format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(100_000)))),
        (
            "endless head",
            Act { writes: vec!["HTTP/1.1 200 OK\r\na: ".into(), vec![b'x'; 4096]], ..Act::raw("") }.then(Then::Endless),
        ),
    ];
    for kind in FORMATS {
        for (name, act) in rows.clone() {
            assert_eq!(whole_call(kind, act.clone()).await.word(), "broken_off", "{kind:?} {name}");
            assert_eq!(streamed_call(kind, act).await.word(), "broken_off", "{kind:?} {name}");
        }
    }
}

#[tokio::test]
async fn a_server_that_is_too_slow_is_left_when_the_attempt_ends() {
    let slow = Duration::from_millis(5);
    for kind in FORMATS {
        let said = Said::text(&["a reply of some length, byte by byte"]);
        let streamed = says(kind, &said).1;
        let whole = Act::body_of("application/json", [whole(kind, &said).to_string().into_bytes()]);
        let rows = [
            ("half-open", Act::raw("").then(Then::Stall), Act::raw("").then(Then::Stall)),
            ("slow head", whole.clone().byte_by_byte(0, slow), streamed.clone().byte_by_byte(0, slow)),
            ("slow body", whole.byte_by_byte(1, slow), streamed.byte_by_byte(1, slow)),
        ];
        for (name, whole, streamed) in rows {
            let server = MockServer::start(vec![whole, streamed]).await;
            let settings = ProviderSettings { request_timeout_ms: SOON_MS, ..impatient(server.settings()) };
            let patient = ProviderSettings { idle_timeout_ms: 10_000, ..settings };
            assert_eq!(chat(kind, &patient).await.word(), "deadline", "{kind:?} {name}");
            assert_eq!(chat_stream(kind, &patient).await.word(), "deadline", "{kind:?} {name}");
        }
    }
}

#[tokio::test]
async fn silence_inside_a_reply_ends_it() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{";
    for kind in FORMATS {
        let streamed = streams_without_end(kind, &["one"]).then(Then::Stall);
        assert_eq!(whole_call(kind, Act::raw(head).then(Then::Stall)).await.word(), "idle", "{kind:?}");
        assert_eq!(streamed_call(kind, streamed).await.word(), "idle", "{kind:?}");
    }
}

#[tokio::test]
async fn a_whole_reply_that_is_wrong_is_a_typed_error() {
    let typed = |headers: &str| Act::raw(format!("HTTP/1.1 200 OK\r\n{headers}content-length: 2\r\n\r\n{{}}"));
    let json = |body: &str| Act::json("200 OK", "", body);
    let declared = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{";
    let endless = Act::body_of("application/json", [vec![b' '; 4096]]).then(Then::Endless);
    let announced = format!("content-type: application/json\r\ncontent-length: {}\r\n", MAX_BYTES + 1);
    let rows = [
        ("empty", json(""), "malformed"),
        ("cut JSON", json("{"), "malformed"),
        ("another shape", json("[1]"), "malformed"),
        ("nothing in it", json("{}"), "malformed"),
        ("no choice, content or message", json(r#"{"choices": [], "done": true}"#), "malformed"),
        ("quotes the call", json(&json!({"choices": ASKED, "content": ASKED, "done": ASKED}).to_string()), "malformed"),
        (
            "not UTF-8",
            Act::raw(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n\"\xff\"".as_slice()),
            "malformed",
        ),
        ("cut body", Act::raw(declared), "broken_off"),
        ("reset body", Act::raw(declared).then(Then::Reset), "broken_off"),
        ("no type", typed(""), "wrong_content_type"),
        ("HTML", typed("content-type: text/html\r\n"), "wrong_content_type"),
        ("gzip", typed("content-type: application/json\r\ncontent-encoding: gzip\r\n"), "wrong_content_type"),
        ("endless", endless, "too_large"),
        ("announced too large", Act::raw(format!("HTTP/1.1 200 OK\r\n{announced}\r\n")), "too_large"),
        ("an error", json(&error_body("some_error", "no")), "malformed"),
        ("an error with a meaning", json(&error_body("content_filter", "no")), "content_filter"),
    ];
    for kind in FORMATS {
        for (name, act, outcome) in rows.clone() {
            assert_eq!(whole_call(kind, act).await.word(), outcome, "{kind:?} {name}");
        }
    }
}

#[tokio::test]
async fn a_stream_that_is_wrong_is_a_typed_error() {
    for kind in FORMATS {
        let raw = |data: &[u8]| Act::body_of(stream_type(kind), [data.to_vec()]);
        let framed = |data: &str| Act::body_of(stream_type(kind), [frame(kind, data)]);
        let begun = || streams_without_end(kind, &["one ", "two"]);
        let mut half_a_frame = begun();
        half_a_frame.writes.push(br#"data: {"done": tr"#.to_vec());
        if kind == ProviderKind::Ollama {
            half_a_frame.writes.last_mut().unwrap().drain(..6);
        }
        let compressed = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: br\r\n\r\n";
        let mut endless = begun();
        endless.then = Then::Endless;
        let rows = [
            ("empty", raw(b""), "broken_off"),
            ("cut", begun(), "broken_off"),
            ("half a frame", half_a_frame, "broken_off"),
            ("reset", begun().then(Then::Reset), "broken_off"),
            ("not JSON", framed("{nonsense"), "malformed"),
            ("another shape", framed("[1]"), "malformed"),
            ("quotes the call", framed(&json!({"type": 1, "choices": ASKED, "done": ASKED}).to_string()), "malformed"),
            ("not UTF-8", raw(b"data: \xff\n\n"), "malformed"),
            ("HTML", Act::body_of("text/html", [b"<html>".to_vec()]), "wrong_content_type"),
            ("compressed", Act::raw(compressed), "wrong_content_type"),
            ("endless", endless, "too_large"),
            ("huge line", raw(&vec![b'x'; 2 * MAX_BYTES]), "too_large"),
            ("endless line", raw(&[b'x'; 4096]).then(Then::Endless), "too_large"),
            ("an error", framed(&error_body("some_error", "no")), "malformed"),
            ("an overload", framed(&error_body("overloaded_error", "Overloaded")), "server_error"),
            ("too long", framed(&error_body("invalid_request_error", "prompt is too long")), "context_too_long"),
            ("filtered", framed(&error_body("content_filter", "no")), "content_filter"),
        ];
        for (name, act, outcome) in rows {
            assert_eq!(streamed_call(kind, act).await.word(), outcome, "{kind:?} {name}");
        }
    }
}

#[tokio::test]
async fn an_overload_inside_a_stream_has_the_status_529() {
    let kind = ProviderKind::Anthropic;
    let mut act = streams_without_end(kind, &["one"]);
    act.writes.push(sse(r#"{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}"#));

    let error = streamed_call(kind, act).await.error();

    assert_eq!((error.status(), error.kind()), (Some(529), ErrorKind::Upstream));
    assert_eq!(error.to_string(), "mock answered with status 529: Overloaded");
}

#[tokio::test]
async fn a_line_of_ollama_may_be_an_error_or_have_another_type() {
    let kind = ProviderKind::Ollama;
    let mut act = streams_without_end(kind, &["one"]);
    act.writes.push(frame(kind, r#"{"error": "model runner has unexpectedly stopped"}"#));
    let error = streamed_call(kind, act).await.error();
    let lines = super::mock_replies::frames(kind, &Said::text(&["one"]));
    let renamed = Act::body_of("application/json", lines.iter().map(|line| frame(kind, &line.to_string())));

    assert_eq!(
        error.to_string(),
        "mock sent what cannot be understood: an error inside the reply: model runner has unexpectedly stopped"
    );
    assert_eq!(streamed_call(kind, renamed).await.word(), "ok");
}

#[tokio::test]
async fn an_endless_reply_is_left_at_the_limit() {
    for kind in FORMATS {
        let whole = Act::body_of("application/json", [vec![b' '; 4096]]).then(Then::Endless);
        let streamed = streams_without_end(kind, &["one", "again"]).then(Then::Endless);
        let server = MockServer::start(vec![whole, streamed]).await;
        let settings = impatient(server.settings());

        let provider = provider(kind, &settings);
        let called = provider.chat(&request(), Instant::now() + LONG).await;
        let collected = collect(provider.chat_stream(&request(), Instant::now() + LONG).await.unwrap()).await;

        assert_eq!(called.unwrap_err().outcome(), "too_large");
        assert_eq!(collected.ends, [Err("too_large")]);
        assert!(collected.text.len() <= MAX_BYTES, "{} bytes of text", collected.text.len());
        server.until_closed(2).await;
    }
}

#[tokio::test]
async fn a_count_that_cannot_be_is_left_out_and_the_call_goes_on() {
    let rows = [
        [json!(-1), json!(7)],
        [json!(11), json!(-7)],
        [json!(11), Value::Null],
        [Value::Null, json!(7)],
        [json!("11"), json!(7)],
        [json!(11.5), json!(7)],
        [json!(11), json!(1_u64 << 40)],
        [json!({"tokens": 11}), json!(7)],
    ];
    for kind in FORMATS {
        for tokens in rows.clone() {
            let (whole, streamed) = says(kind, &Said { tokens: tokens.clone(), ..Said::text(&["yes"]) });
            let ends = [whole_call(kind, whole).await, streamed_call(kind, streamed).await];
            // Where a stream's last count is `null`, Anthropic's format keeps the one that was said before.
            let is_known_before = kind == ProviderKind::Anthropic && tokens[1].is_null();
            for (ended, is_streamed) in ends.into_iter().zip([false, true]) {
                let Ended::Well(end) = ended else { panic!("{kind:?} {tokens:?}: {ended:?}") };
                assert_eq!(end.usage.is_some(), is_streamed && is_known_before, "{kind:?} {tokens:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_reply_without_counts_has_none() {
    for kind in FORMATS {
        let mut body = whole(kind, &Said::text(&["yes"]));
        for name in ["usage", "prompt_eval_count", "eval_count"] {
            body.as_object_mut().unwrap().remove(name);
        }

        let Ended::Well(end) = whole_call(kind, Act::json("200 OK", "", &body.to_string())).await else {
            panic!("{kind:?} fails without counts")
        };

        assert_eq!(end.usage, None, "{kind:?}");
    }
}

#[tokio::test]
async fn another_models_name_is_kept_on_one_short_line() {
    for kind in FORMATS {
        let name = format!("other\nmodel{}", "x".repeat(300));
        let mut body = whole(kind, &Said::text(&["yes"]));
        body["model"] = json!(name);
        let mut lines = super::mock_replies::frames(kind, &Said::text(&["yes"]));
        for line in &mut lines {
            let place = if kind == ProviderKind::Anthropic { line.get_mut("message") } else { Some(line) };
            if let Some(place) = place {
                place["model"] = json!(name);
            }
        }

        let whole = whole_call(kind, Act::json("200 OK", "", &body.to_string())).await;
        let streamed = streamed_call(kind, stream_of(kind, &lines)).await;

        for ended in [whole, streamed] {
            let Ended::Well(end) = ended else { panic!("{kind:?}: {ended:?}") };
            assert!(end.model.starts_with("other modelxxx"), "{kind:?} {}", end.model);
            assert_eq!(end.model.chars().count(), 200, "{kind:?}");
        }
    }
}

#[tokio::test]
async fn every_reason_to_finish_is_kept() {
    for kind in FORMATS {
        let mut reasons = vec![FinishReason::Stop, FinishReason::Length];
        if kind != ProviderKind::Ollama {
            reasons.push(FinishReason::ContentFilter);
        }
        for finish in reasons {
            let (whole, streamed) = says(kind, &Said { finish, ..Said::text(&["yes"]) });
            for ended in [whole_call(kind, whole).await, streamed_call(kind, streamed).await] {
                let Ended::Well(end) = ended else { panic!("{kind:?}: {ended:?}") };
                assert_eq!((end.finish, end.usage), (finish, Some(Said::usage())), "{kind:?}");
            }
        }
    }
}
