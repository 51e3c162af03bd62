//! Events of a stream (`text/event-stream`), read as they come.

use std::collections::VecDeque;

use anyhow::Context;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{BoxStream, unfold};
use serde_json::Value;

/// Longest event that is read, in bytes: far above what a server sends, and a bound on what is kept.
const EVENT_MAX_BYTES: usize = 16 << 20;

/// A named event with its JSON.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub name: String,
    pub body: Value,
}

/// Cuts a body into its events. Ends with an error if an event cannot be read, or if the body breaks off.
pub fn events(frames: BoxStream<'static, anyhow::Result<Bytes>>) -> BoxStream<'static, anyhow::Result<Event>> {
    let reading = Reading { frames, partial: Vec::new(), ready: VecDeque::new() };
    unfold(Some(reading), |state| async move {
        let mut reading = state?;
        match reading.next().await {
            Ok(Some(event)) => Some((Ok(event), Some(reading))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed()
}

struct Reading {
    frames: BoxStream<'static, anyhow::Result<Bytes>>,
    /// The begin of an event whose end has not come yet.
    partial: Vec<u8>,
    ready: VecDeque<Event>,
}

impl Reading {
    async fn next(&mut self) -> anyhow::Result<Option<Event>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            let Some(frame) = self.frames.next().await else { return Ok(None) };
            self.partial.extend_from_slice(&frame.context("the stream broke off")?);
            self.cut()?;
            anyhow::ensure!(self.partial.len() <= EVENT_MAX_BYTES, "an event is longer than {EVENT_MAX_BYTES} bytes");
        }
    }

    /// An event ends with an empty line.
    fn cut(&mut self) -> anyhow::Result<()> {
        while let Some(end) = self.partial.windows(2).position(|pair| pair == b"\n\n") {
            let block: Vec<u8> = self.partial.drain(..end + 2).collect();
            self.ready.extend(event(std::str::from_utf8(&block).context("an event is not UTF-8")?)?);
        }
        Ok(())
    }
}

/// `None`: a block of comments, which keep the connection.
fn event(block: &str) -> anyhow::Result<Option<Event>> {
    let field = |name: &str| {
        let of = |line: &str| line.strip_prefix(name)?.strip_prefix(':').map(|value| value.trim_start().to_owned());
        block.lines().filter_map(of).collect::<Vec<_>>()
    };
    let data = field("data");
    if data.is_empty() {
        return Ok(None);
    }
    let body = serde_json::from_str(&data.join("\n")).context("an event is not JSON")?;
    Ok(Some(Event { name: field("event").pop().unwrap_or_default(), body }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const TEXT: &str =
        ": hello\n\nevent: task\ndata: {\"a\":\"\u{e9}\"}\n\n:\n\nevent: done\ndata: {\ndata: \"b\": 1}\n\n";

    fn read(frames: Vec<&[u8]>) -> Vec<Event> {
        let frames: Vec<_> = frames.into_iter().map(|frame| Ok(Bytes::copy_from_slice(frame))).collect();
        let all = events(futures::stream::iter(frames).boxed()).map(Result::unwrap).collect();
        futures::executor::block_on(all)
    }

    #[test]
    fn events_are_read_and_comments_are_not() {
        let event = |name: &str, body| Event { name: name.to_owned(), body };

        assert_eq!(read(vec![TEXT.as_bytes()]), [event("task", json!({"a": "é"})), event("done", json!({"b": 1}))]);
    }

    #[test]
    fn a_body_that_breaks_off_ends_with_an_error() {
        let frames = vec![Ok(Bytes::from_static(b"data: 1\n\n")), Err(anyhow::anyhow!("gone"))];

        let read: Vec<_> = futures::executor::block_on(events(futures::stream::iter(frames).boxed()).collect());

        assert_eq!(read.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false]);
    }

    proptest! {
        #[test]
        fn frame_borders_change_nothing(cuts in prop::collection::vec(0..TEXT.len(), 0..6)) {
            let mut borders = cuts;
            borders.extend([0, TEXT.len()]);
            borders.sort_unstable();
            let frames = borders.windows(2).map(|pair| &TEXT.as_bytes()[pair[0]..pair[1]]).collect();

            prop_assert_eq!(read(frames), read(vec![TEXT.as_bytes()]));
        }
    }
}
