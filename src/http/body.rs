//! Request bodies: bounded in size, and they must make progress.
//!
//! Nothing here runs before the caller is known and has a permit.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use serde::de::DeserializeOwned;

use super::json::read_object;
use super::problem::{Problem, ProblemKind};

/// The bound on a body, and what to call the body when it is exceeded.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyBound {
    pub what: &'static str,
    pub max_bytes: usize,
    pub idle: Duration,
}

/// The whole body. A declared length above the bound is refused before a byte is read.
pub(super) async fn read_body(headers: &HeaderMap, body: Body, bound: BodyBound) -> Result<Bytes, Problem> {
    refuse_encoding(headers)?;
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if declared.is_some_and(|length| length > bound.max_bytes) {
        return Err(Problem::too_large(bound.what, bound.max_bytes));
    }
    let mut frames = std::pin::pin!(frames(body, bound.idle));
    let mut read = BytesMut::new();
    while let Some(frame) = frames.next().await {
        let frame = frame?;
        if read.len() + frame.len() > bound.max_bytes {
            return Err(Problem::too_large(bound.what, bound.max_bytes));
        }
        read.extend_from_slice(&frame);
    }
    Ok(read.freeze())
}

/// A JSON object of at most the bound, whose media type must say so.
pub(super) async fn read_json<T: DeserializeOwned + Send + 'static>(
    headers: &HeaderMap,
    body: Body,
    bound: BodyBound,
) -> Result<T, Problem> {
    let found = media_type(headers);
    if found.as_deref() != Some(JSON) {
        return Err(unsupported(found.as_deref(), &[JSON]));
    }
    read_object_of(read_body(headers, body, bound).await?).await
}

/// As [`read_json`]; a request without a body asks for the defaults.
pub(super) async fn read_optional_json<T: DeserializeOwned + Default + Send + 'static>(
    headers: &HeaderMap,
    body: Body,
    bound: BodyBound,
) -> Result<T, Problem> {
    let found = media_type(headers);
    if found.as_deref().is_some_and(|found| found != JSON) {
        return Err(unsupported(found.as_deref(), &[JSON]));
    }
    let bytes = read_body(headers, body, bound).await?;
    match found {
        _ if bytes.is_empty() => Ok(T::default()),
        Some(_) => read_object_of(bytes).await,
        None => Err(unsupported(None, &[JSON])),
    }
}

/// Bodies above this are read by a thread that nobody waits on, in bytes: serde reads about 300 MB a second.
const READ_ELSEWHERE_BYTES: usize = 128 << 10;

/// A JSON object, read where it does not keep others waiting.
pub(super) async fn read_object_of<T: DeserializeOwned + Send + 'static>(bytes: Bytes) -> Result<T, Problem> {
    if bytes.len() <= READ_ELSEWHERE_BYTES {
        return Ok(read_object(&bytes)?);
    }
    let failed = |_| Problem::new(ProblemKind::Internal, "the body could not be read");
    Ok(tokio::task::spawn_blocking(move || read_object(&bytes)).await.map_err(failed)??)
}

/// The frames of a body; one that does not come within `idle` ends it with an error.
pub(super) fn frames(body: Body, idle: Duration) -> impl Stream<Item = Result<Bytes, Problem>> + Send {
    futures::stream::unfold(Some(body.into_data_stream()), move |state| async move {
        let mut stream = state?;
        match tokio::time::timeout(idle, stream.next()).await {
            Ok(Some(Ok(frame))) => Some((Ok(frame), Some(stream))),
            Ok(None) => None,
            Ok(Some(Err(_))) => {
                let problem = Problem::new(ProblemKind::Malformed, "the body ended before it was complete");
                Some((Err(problem), None))
            }
            Err(_) => {
                let detail = format!("the body made no progress for {} ms", idle.as_millis());
                Some((Err(Problem::new(ProblemKind::RequestTimeout, detail)), None))
            }
        }
    })
}

/// A packed body would be taken for its bytes, and what it unpacks to has no declared size.
pub(super) fn refuse_encoding(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(encoding) = headers.get(header::CONTENT_ENCODING) else { return Ok(()) };
    if encoding.as_bytes().eq_ignore_ascii_case(b"identity") {
        return Ok(());
    }
    let detail = format!("Content-Encoding {encoding:?} is not supported; send the body as it is");
    Err(Problem::new(ProblemKind::UnsupportedMediaType, detail))
}

/// `application/json`.
pub(super) const JSON: &str = "application/json";

/// The media type of the body, in lower case and without parameters.
pub(super) fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let essence = value.split(';').next()?.trim().to_ascii_lowercase();
    (!essence.is_empty()).then_some(essence)
}

/// The media type for whoever reads the body: with its charset, unless that is UTF-8 anyway.
pub(super) fn declared_type(headers: &HeaderMap) -> Option<String> {
    let essence = media_type(headers)?;
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let charset = value.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"').to_ascii_lowercase())
    });
    match charset.as_deref() {
        None | Some("utf-8" | "utf8") => Some(essence),
        Some(charset) => Some(format!("{essence}; charset={charset}")),
    }
}

/// 415 with what is supported.
pub(super) fn unsupported(found: Option<&str>, supported: &[&str]) -> Problem {
    let found = found.map_or_else(|| "a body needs a Content-Type".to_owned(), |found| format!("not {found}"));
    Problem::new(ProblemKind::UnsupportedMediaType, format!("{found}; supported here: {}", supported.join(", ")))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const BOUND: BodyBound = BodyBound { what: "the body", max_bytes: 10, idle: Duration::from_secs(5) };

    fn counted(frames: Vec<&'static [u8]>) -> (Body, Arc<AtomicUsize>) {
        let polled = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&polled);
        let stream = futures::stream::iter(frames).map(move |frame| {
            counter.fetch_add(1, Ordering::Relaxed);
            Ok::<_, std::io::Error>(Bytes::from_static(frame))
        });
        (Body::from_stream(stream), polled)
    }

    #[tokio::test]
    async fn a_declared_length_above_the_bound_is_refused_unread() {
        let (body, polled) = counted(vec![b"0123456789ab"]);
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_LENGTH, "12".parse().unwrap());

        let problem = read_body(&headers, body, BOUND).await.unwrap_err();

        assert_eq!(problem.kind, ProblemKind::TooLarge);
        assert!(problem.detail.contains("10 bytes"));
        assert_eq!(polled.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn an_undeclared_body_is_read_up_to_the_bound_and_no_further() {
        let (body, polled) = counted(vec![b"01234", b"56789", b"a", b"b", b"c"]);

        let problem = read_body(&HeaderMap::new(), body, BOUND).await.unwrap_err();

        assert_eq!(problem.kind, ProblemKind::TooLarge);
        assert_eq!(polled.load(Ordering::Relaxed), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stalls_is_given_up() {
        let body = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());

        let problem = read_body(&HeaderMap::new(), body, BOUND).await.unwrap_err();

        assert_eq!(problem.kind, ProblemKind::RequestTimeout);
    }
}
