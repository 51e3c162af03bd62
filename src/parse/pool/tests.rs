//! The pool against workers that die, hang, lie and grow.

use super::*;
use crate::domain::ErrorKind;
use crate::parse::worker_main;

/// An argument that tells the test below that it is the worker: the test program is its own parser process.
const MARK: &str = "as-parse-worker";

#[test]
fn worker_entry() {
    if std::env::args().any(|argument| argument == MARK) {
        worker_main().unwrap();
    }
}

fn pool(settings: ParseSettings) -> ParserPool {
    let args = ["parse::pool::tests::worker_entry", "--exact", "--nocapture", "--test-threads=1", "--skip", MARK];
    let program = std::env::current_exe().unwrap();
    ParserPool::new(WorkerCommand { program, args: args.map(str::to_owned).to_vec() }, settings)
}

/// A worker that greets and then runs `script` with its first request on standard input.
fn scripted(script: &str, timeout_ms: u64) -> ParserPool {
    let script = format!("printf '\\nplumb-parse-worker 1\\n'; {script}");
    let command = WorkerCommand { program: "/bin/sh".into(), args: vec!["-c".to_owned(), script] };
    ParserPool::new(command, ParseSettings { timeout_ms, ..ParseSettings::default() })
}

const PAGE: &[u8] =
    b"<html><head><title>A page</title></head><body><nav>Home</nav><h1>Greeting</h1><p>Hello, world.</p>";

#[tokio::test]
async fn documents_are_parsed_one_after_the_other_in_the_same_process() {
    let pool = pool(ParseSettings::default());

    for _ in 0..20 {
        let parsed = pool.parse(None, PAGE).await.unwrap();
        assert_eq!(parsed.title.as_deref(), Some("A page"));
        assert!(parsed.text.contains("Hello, world.") && !parsed.text.contains("Home"));
    }

    assert_eq!(pool.started.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn many_at_once_share_the_workers() {
    let pool = pool(ParseSettings::default());

    let results = futures::future::join_all((0..50).map(|_| pool.parse(None, PAGE))).await;

    assert!(results.iter().all(Result::is_ok));
    assert!(pool.started.load(Ordering::Relaxed) <= 2);
}

#[tokio::test]
async fn a_million_open_tags_are_refused_and_harm_nobody() {
    let pool = pool(ParseSettings::default());

    for tag in ["<div>", "<b>", "<table><tr><td>", "<svg>", "<ul><li>"] {
        let error = pool.parse(None, tag.repeat(1_000_000).as_bytes()).await.unwrap_err();
        assert!(matches!(error, ParseError::TooDeep { .. }), "{tag}: {error}");
    }

    assert!(pool.parse(None, PAGE).await.is_ok());
    assert_eq!(pool.started.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn errors_come_back_as_what_they_are() {
    let pool = pool(ParseSettings { max_text_bytes: 1_000, ..ParseSettings::default() });

    assert_eq!(
        pool.parse(None, b"<p>\xFF").await.unwrap_err().to_string(),
        "the document is not valid UTF-8 at byte 3"
    );
    assert!(matches!(pool.parse(Some("x-none"), PAGE).await, Err(ParseError::UnknownCharset { .. })));
    let long = format!("<p>{}", "word ".repeat(10_000));
    assert!(matches!(pool.parse(None, long.as_bytes()).await, Err(ParseError::TextTooLarge { limit_bytes: 1_000 })));
    assert!(pool.parse(None, PAGE).await.is_ok());
}

#[tokio::test]
async fn a_document_that_takes_too_much_memory_dies_alone() {
    // The test program itself takes some of it.
    let pool = pool(ParseSettings { memory_limit_mib: 400, ..ParseSettings::default() });
    let bomb = "<p>x".repeat(5_000_000);

    let error = pool.parse(None, bomb.as_bytes()).await.unwrap_err();

    assert!(matches!(error, ParseError::WorkerDied { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::Unprocessable);
    assert!(pool.parse(None, PAGE).await.is_ok());
    assert_eq!(pool.started.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_worker_that_hangs_is_killed_in_time() {
    let error = scripted("cat > /dev/null", 50).parse(None, PAGE).await.unwrap_err();

    assert!(matches!(error, ParseError::Timeout { limit_ms: 50 }));
}

#[tokio::test]
async fn a_worker_that_dies_says_how() {
    let killed = scripted("head -c 10 > /dev/null; kill -9 $$", 10_000).parse(None, PAGE).await.unwrap_err();
    let ended = scripted("head -c 10 > /dev/null; exit 3", 10_000).parse(None, PAGE).await.unwrap_err();

    assert_eq!(killed.to_string(), "the parser stopped at this document (signal 9)");
    assert_eq!(ended.to_string(), "the parser stopped at this document (exit code 3)");
}

#[tokio::test]
async fn a_worker_that_lies_about_lengths_is_not_believed() {
    let error = scripted("printf '\\377\\377\\377\\377'; cat > /dev/null", 10_000).parse(None, PAGE).await.unwrap_err();

    assert!(matches!(error, ParseError::WorkerDied { .. }));
}

#[tokio::test]
async fn a_program_that_is_no_worker_is_refused() {
    let command = |script: &str| WorkerCommand { program: "/bin/sh".into(), args: vec!["-c".into(), script.into()] };

    for script in ["exit 0", "yes"] {
        let pool = ParserPool::new(command(script), ParseSettings::default());
        assert!(matches!(pool.parse(None, PAGE).await, Err(ParseError::CannotStart { .. })));
    }
}

#[tokio::test]
async fn a_worker_is_replaced_after_its_share_of_documents() {
    let pool = pool(ParseSettings { documents_per_worker: 2, ..ParseSettings::default() });

    for _ in 0..6 {
        pool.parse(None, PAGE).await.unwrap();
    }

    assert_eq!(pool.started.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_worker_killed_while_idle_is_replaced_without_an_error() {
    let pool = pool(ParseSettings::default());
    pool.parse(None, PAGE).await.unwrap();
    let mut idle = pool.idle.lock().pop().unwrap();
    idle.child.kill().await.unwrap();
    pool.idle.lock().push(idle);

    assert!(pool.parse(None, PAGE).await.is_ok());
    assert_eq!(pool.started.load(Ordering::Relaxed), 2);
}
