//! Streams of events (`text/event-stream`), each with a name and a JSON object.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use serde::Serialize;

/// A comment line is sent after this long without an event, so that proxies keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The response that sends these events as they come.
pub(super) fn event_stream(events: impl Stream<Item = Result<Event, Infallible>> + Send + 'static) -> Response {
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

/// One event.
pub(super) fn event(name: &str, body: &impl Serialize) -> Event {
    Event::default().event(name).json_data(body).expect("wire twins hold only what JSON can say")
}
