//! NDJSON streams of documents, of any length, at constant memory.
//!
//! No more of the body is read than the room below has place for: that is the backpressure. A line that cannot be read
//! fails alone, by its number.

use std::collections::VecDeque;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::future::ready;
use futures::stream::{BoxStream, once, unfold};
use futures::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;

use crate::domain::CollectionName;

use super::body::{frames, read_object_of};
use super::intake::{Item, Refused};
use super::lines::{Line, LineCutter};
use super::problem::Problem;
use super::settings::HttpSettings;
use super::wire::DocumentInput;

/// The documents of a body, one a line. `Err` ends the stream: the body broke off.
pub(super) fn documents(
    body: Body,
    settings: &HttpSettings,
    collection: CollectionName,
    stopping: CancellationToken,
) -> impl Stream<Item = Result<Item, Problem>> + Send + use<> {
    let max_bytes = settings.max_document_body_bytes;
    let reading = Reading {
        frames: Some(until_stopped(frames(body, settings.body_idle_timeout()), stopping).boxed()),
        cutter: LineCutter::new(max_bytes),
        lines: VecDeque::new(),
    };
    unfold(reading, move |mut reading| {
        let collection = collection.clone();
        async move {
            let item = match reading.next_line().await? {
                Ok(line) => Ok(document(line, &collection, max_bytes).await),
                Err(problem) => Err(problem),
            };
            Some((item, reading))
        }
    })
}

/// A stream may go on for hours; a server that was told to stop answers for what it has taken instead.
fn until_stopped(
    frames: impl Stream<Item = Result<Bytes, Problem>> + Send,
    stopping: CancellationToken,
) -> impl Stream<Item = Result<Bytes, Problem>> + Send {
    let told = stopping.clone();
    let last = once(async move {
        let detail = "the server is stopping; send the lines that were not taken again";
        told.is_cancelled().then(|| Err(Problem::unavailable(detail, Duration::from_secs(1))))
    });
    frames.take_until(stopping.cancelled_owned()).chain(last.filter_map(ready))
}

struct Reading {
    /// `None` after the end.
    frames: Option<BoxStream<'static, Result<Bytes, Problem>>>,
    cutter: LineCutter,
    /// The complete lines of the last frame that were not given out yet.
    lines: VecDeque<Line>,
}

impl Reading {
    async fn next_line(&mut self) -> Option<Result<Line, Problem>> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(Ok(line));
            }
            match self.frames.as_mut()?.next().await {
                Some(Ok(frame)) => self.cutter.cut(frame, &mut self.lines),
                Some(Err(problem)) => {
                    self.frames = None;
                    return Some(Err(problem));
                }
                None => {
                    self.frames = None;
                    self.lines.extend(self.cutter.finish());
                }
            }
        }
    }
}

async fn document(line: Line, collection: &CollectionName, max_bytes: usize) -> Item {
    let number = Some(line.number);
    let refused = |id, problem| Item { line: number, document: Err(Refused { id, problem }) };
    let Some(text) = line.text else {
        return refused(None, Problem::too_large("a line", max_bytes));
    };
    let input: DocumentInput = match read_object_of(text).await {
        Ok(input) => input,
        Err(problem) => return refused(None, problem),
    };
    let id = input.id.clone();
    match input.into_incoming(collection, "") {
        Ok(document) => Item { line: number, document: Ok(document) },
        Err(problem) => refused(id, problem),
    }
}
