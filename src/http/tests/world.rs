//! A router over test rooms, and words to talk with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::domain::{Permission, TenantId};
use crate::http::router::router;
use crate::http::{AuthSettings, HttpSettings, Services, new_key};
use crate::tasks::TaskDesk;

use super::rooms::{Asked, TestRooms};

pub struct World {
    pub rooms: Arc<TestRooms>,
    router: Router,
    /// Cancelled as when the server is told to stop.
    pub stopping: CancellationToken,
}

/// A response, read to its end.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl World {
    /// Without keys.
    pub fn open() -> Self {
        Self::with(HttpSettings::default(), AuthSettings::default())
    }

    pub fn with(settings: HttpSettings, auth: AuthSettings) -> Self {
        Self::with_desk(settings, auth, super::no_tasks::desk())
    }

    pub fn with_desk(settings: HttpSettings, auth: AuthSettings, tasks: Arc<TaskDesk>) -> Self {
        let rooms = Arc::new(TestRooms::new());
        let services = Services { tasks, ..services(&rooms) };
        let stopping = CancellationToken::new();
        let router = router(services, settings, &auth, stopping.clone()).unwrap();
        Self { rooms, router, stopping }
    }

    pub fn asked(&self) -> &Asked {
        &self.rooms.asked
    }

    /// A response whose body has not been read.
    pub async fn begin(&self, request: Request<Body>) -> Response {
        self.router.clone().oneshot(request).await.unwrap()
    }

    pub async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.begin(request).await;
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        Reply { status: parts.status, headers: parts.headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send(request("GET", path, &[], Body::empty())).await
    }

    pub async fn post(&self, path: &str, body: impl Into<Body>) -> Reply {
        self.send(request("POST", path, &[("content-type", "application/json")], body)).await
    }

    pub async fn put(&self, path: &str, body: impl Into<Body>) -> Reply {
        self.send(request("PUT", path, &[("content-type", "application/json")], body)).await
    }

    pub async fn ndjson(&self, path: &str, body: impl Into<Body>) -> Reply {
        self.send(request("POST", path, &[("content-type", "application/x-ndjson")], body)).await
    }
}

pub fn services(rooms: &Arc<TestRooms>) -> Services {
    Services {
        store: rooms.clone(),
        ledger: rooms.ledger.clone(),
        cases: Arc::new(super::cases::MemoryCases::default()),
        search: rooms.clone(),
        ingest: rooms.clone(),
        answer: rooms.clone(),
        status: rooms.clone(),
        control: rooms.clone(),
        tasks: super::no_tasks::desk(),
        generations: rooms.generations.clone(),
        reports: rooms.generations.clone(),
    }
}

pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Request<Body> {
    let made = Request::builder().method(method).uri(path);
    headers.iter().fold(made, |made, (name, value)| made.header(*name, *value)).body(body.into()).unwrap()
}

/// Settings with one key, and the key.
pub fn keyed(tenant: &str, permissions: &[Permission]) -> (String, AuthSettings) {
    let (plain, key) = new_key(TenantId::new(tenant).unwrap(), permissions.iter().copied().collect());
    (plain, AuthSettings { keys: vec![key] })
}

/// A body that counts how many of its frames were read.
pub fn counted(frames: Vec<Bytes>) -> (Body, Arc<AtomicUsize>) {
    let read = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&read);
    let stream = futures::stream::iter(frames).map(move |frame| {
        counter.fetch_add(1, Ordering::SeqCst);
        Ok::<_, std::io::Error>(frame)
    });
    (Body::from_stream(stream), read)
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error} in {}", self.text))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Checks the shape that every problem has, and returns it.
    #[track_caller]
    pub fn problem(&self, status: u16, slug: &str) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        assert_eq!(self.header(header::CONTENT_TYPE.as_str()), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["type"], format!("urn:plumb:problem:{slug}"));
        assert_eq!(problem["status"], status);
        assert!(problem["title"].as_str().is_some_and(|title| !title.is_empty()));
        assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
        assert_eq!(problem["trace_id"], self.header("x-trace-id"));
        problem
    }

    /// The pointers of a problem's field errors.
    #[track_caller]
    pub fn pointers(&self) -> Vec<String> {
        let problem = self.problem(422, "unprocessable-request");
        let errors = problem["errors"].as_array().unwrap_or_else(|| panic!("no errors in {problem}"));
        errors.iter().map(|error| error["pointer"].as_str().unwrap().to_owned()).collect()
    }
}
