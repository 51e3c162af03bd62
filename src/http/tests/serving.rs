//! Connections, over real sockets on loopback.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::http::{HttpServer, HttpSettings, ServeError};

use super::rooms::{BATCH, TestRooms};
use super::world::services;

struct Served {
    rooms: Arc<TestRooms>,
    address: std::net::SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<Result<(), ServeError>>,
}

/// Longer than anything that is expected to happen.
const PATIENCE: Duration = Duration::from_secs(20);

impl Served {
    async fn start(settings: HttpSettings) -> Self {
        let rooms = Arc::new(TestRooms::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let server = HttpServer::new(services(&rooms), settings, Default::default()).unwrap();
        let task = tokio::spawn(server.serve(listener, stop.clone()));
        Self { rooms, address, stop, task }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn send(&self, text: &str) -> TcpStream {
        let mut stream = self.connect().await;
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }
}

async fn read_to_end(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset after the last byte is an end, too.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the connection ends");
    String::from_utf8_lossy(&bytes).into_owned()
}

fn post(path: &str, body: &str, more: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{more}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn requests_are_served_over_http_1_and_2() {
    let served = Served::start(HttpSettings::default()).await;

    let text =
        read_to_end(served.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await).await;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");

    let mut second = served.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    second.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    let mut frame = [0; 9];
    timeout(PATIENCE, second.read_exact(&mut frame)).await.unwrap().unwrap();
    assert_eq!(frame[3], 4, "an HTTP/2 server begins with its settings");
}

#[tokio::test]
async fn silent_and_slow_connections_are_closed() {
    let settings =
        HttpSettings { header_read_timeout_ms: 100, connection_idle_timeout_ms: 60_000, ..HttpSettings::default() };
    let served = Served::start(settings).await;

    for beginning in ["", "P", "PRI * HTTP/2.0\r\n", "GET /healthz HTTP/1.1\r\nHost: localh"] {
        let stream = served.send(beginning).await;
        let text = read_to_end(stream).await;
        assert!(!text.contains(" 200 "), "{beginning:?}: {text}");
    }
}

#[tokio::test]
async fn a_head_beyond_the_limit_is_refused() {
    let served = Served::start(HttpSettings::default()).await;

    let long = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: {}\r\n\r\n", "a".repeat(64 << 10));
    let mut stream = served.connect().await;
    let _ = stream.write_all(long.as_bytes()).await;

    let text = read_to_end(stream).await;
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 431"), "{text}");
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_their_turn() {
    let served = Served::start(HttpSettings { max_connections: 1, ..HttpSettings::default() }).await;
    let ask = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let mut first = served.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let mut byte = [0; 1];
    timeout(PATIENCE, first.read_exact(&mut byte)).await.unwrap().unwrap();
    let mut second = served.send(ask).await;

    assert!(timeout(Duration::from_millis(100), second.read_exact(&mut byte)).await.is_err(), "it must wait");
    drop(first);

    assert!(read_to_end(second).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn stopping_lets_requests_in_flight_finish_and_takes_no_new_ones() {
    let served = Served::start(HttpSettings::default()).await;
    let mut idle = served.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let mut byte = [0; 1];
    timeout(PATIENCE, idle.read_exact(&mut byte)).await.unwrap().unwrap();
    let mut upload = served.connect().await;
    let head = "PUT /documents/a HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n\
        Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n";
    upload.write_all(head.as_bytes()).await.unwrap();
    let mut interim = [0; 25];
    timeout(PATIENCE, upload.read_exact(&mut interim)).await.unwrap().unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");

    served.stop.cancel();
    assert!(read_to_end(idle).await.starts_with("TTP/1.1 200"), "an idle connection ends");
    assert!(TcpStream::connect(served.address).await.is_err(), "nobody listens any more");
    upload.write_all(b"5\r\nwords\r\n0\r\n\r\n").await.unwrap();

    let text = read_to_end(upload).await;
    assert!(text.starts_with("HTTP/1.1 202"), "{text}");
    timeout(PATIENCE, served.task).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_stream_without_end_is_answered_for_what_was_taken_when_the_server_stops() {
    let served = Served::start(HttpSettings::default()).await;
    let lines = "{\"text\":\"x\"}\n".repeat(BATCH);
    let head = "POST /documents HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n\
        Transfer-Encoding: chunked\r\n\r\n";
    let upload = served.send(&format!("{head}{:x}\r\n{lines}\r\n", lines.len())).await;
    let taken = async {
        while served.rooms.asked.ingest.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, taken).await.unwrap();

    served.stop.cancel();

    let text = read_to_end(upload).await;
    assert!(text.starts_with("HTTP/1.1 503") && text.contains(&format!("\"accepted\":{BATCH}")), "{text}");
    timeout(PATIENCE, served.task).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn after_the_grace_time_what_is_left_is_cut() {
    let served = Served::start(HttpSettings { shutdown_grace_ms: 50, ..HttpSettings::default() }).await;
    let body = json!({"question": "endless", "stream": true}).to_string();
    let mut stream = served.send(&post("/answer", &body, "")).await;
    let mut byte = [0; 1];
    timeout(PATIENCE, stream.read_exact(&mut byte)).await.unwrap().unwrap();

    served.stop.cancel();

    timeout(PATIENCE, served.task).await.unwrap().unwrap().unwrap();
    assert!(served.rooms.asked.dropped.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_client_that_goes_away_stops_the_answer() {
    let served = Served::start(HttpSettings::default()).await;
    let body = json!({"question": "endless", "stream": true}).to_string();
    let mut stream = served.send(&post("/answer", &body, "")).await;
    let mut byte = [0; 1];
    timeout(PATIENCE, stream.read_exact(&mut byte)).await.unwrap().unwrap();

    drop(stream);

    let dropped = async {
        while !served.rooms.asked.dropped.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, dropped).await.unwrap();
}

#[tokio::test]
async fn a_refused_upload_is_never_asked_to_continue() {
    let served = Served::start(HttpSettings::default()).await;
    let head = "PUT /documents/a HTTP/1.1\r\nHost: evil.example\r\nContent-Type: text/plain\r\n\
        Expect: 100-continue\r\nContent-Length: 1000000\r\nConnection: close\r\n\r\n";

    let text = read_to_end(served.send(head).await).await;

    assert!(text.starts_with("HTTP/1.1 421"), "{text}");
}

#[tokio::test]
async fn a_server_without_keys_refuses_addresses_of_others() {
    let rooms = Arc::new(TestRooms::new());
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let server = HttpServer::new(services(&rooms), HttpSettings::default(), Default::default()).unwrap();

    let error = server.serve(listener, CancellationToken::new()).await.unwrap_err();

    assert!(error.to_string().contains("no keys are configured"), "{error}");
}
