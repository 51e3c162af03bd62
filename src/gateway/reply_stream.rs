//! A streamed reply over HTTP as events, whatever its wire format.
//!
//! The stream owns the connection: dropping it is how a call is cancelled.

use std::collections::VecDeque;

use futures::StreamExt;
use serde_json::Value;

use super::GatewayError;
use super::contract::{ChatEvent, ChatStream};
use super::lines::LineDecoder;
use super::reply::HttpReply;
use super::sse::SseDecoder;

/// What a frame of a stream can be instead of a piece of a reply.
#[derive(Debug)]
pub enum Fault {
    /// It cannot be understood; the words hold nothing of it.
    Malformed(String),
    /// It is an error object of the server.
    Said(Value),
}

/// Makes events of the frames of one wire format.
///
/// A reply is over with the first [`ChatEvent::Done`]; no frame is given after it.
pub trait Assembler: Send {
    /// Takes a frame and adds what it holds to `events`.
    fn take(&mut self, frame: &str, events: &mut VecDeque<ChatEvent>) -> Result<(), Fault>;

    /// Takes the end of the connection: the last events if the reply had said why it ends, or nothing if it was cut.
    fn close(&mut self, events: &mut VecDeque<ChatEvent>);
}

/// How a stream is cut into frames.
#[derive(Debug)]
pub enum Frames {
    Events(SseDecoder),
    Lines(LineDecoder),
}

impl Frames {
    fn push(&mut self, bytes: &[u8]) {
        match self {
            Self::Events(decoder) => decoder.push(bytes),
            Self::Lines(decoder) => decoder.push(bytes),
        }
    }

    fn next(&mut self) -> Result<Option<String>, std::str::Utf8Error> {
        match self {
            Self::Events(decoder) => decoder.next_event(),
            Self::Lines(decoder) => loop {
                match decoder.next_line().map(std::str::from_utf8).transpose()? {
                    // An empty line keeps a connection alive.
                    Some("") => {}
                    line => return Ok(line.map(str::to_owned)),
                }
            },
        }
    }
}

/// The events of `reply`.
pub fn events(reply: HttpReply, frames: Frames, assembler: impl Assembler + 'static) -> ChatStream {
    let stream = ReplyStream { reply, frames, assembler, ready: VecDeque::new(), over: false };
    futures::stream::unfold(stream, |mut stream| async move {
        let event = stream.next().await?;
        stream.over = matches!(event, Ok(ChatEvent::Done(_)) | Err(_));
        Some((event, stream))
    })
    .boxed()
}

struct ReplyStream<A> {
    reply: HttpReply,
    frames: Frames,
    assembler: A,
    /// Events that have arrived and were not given yet.
    ready: VecDeque<ChatEvent>,
    /// The last event has been given.
    over: bool,
}

impl<A: Assembler> ReplyStream<A> {
    async fn next(&mut self) -> Option<Result<ChatEvent, GatewayError>> {
        if self.over {
            return None;
        }
        Some(self.read_event().await)
    }

    async fn read_event(&mut self) -> Result<ChatEvent, GatewayError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            match self.frames.next() {
                Ok(Some(frame)) => {
                    self.assembler.take(&frame, &mut self.ready).map_err(|fault| self.error(fault))?;
                    continue;
                }
                Ok(None) => {}
                Err(_) => return Err(self.error(Fault::Malformed("what is not UTF-8".to_owned()))),
            }
            match self.reply.next_bytes().await? {
                Some(bytes) => self.frames.push(&bytes),
                None => {
                    self.assembler.close(&mut self.ready);
                    if self.ready.is_empty() {
                        return Err(self.reply.server.limits.broken_off(None));
                    }
                }
            }
        }
    }

    fn error(&self, fault: Fault) -> GatewayError {
        match fault {
            Fault::Malformed(detail) => self.reply.server.limits.malformed(detail),
            Fault::Said(error) => self.reply.said(&error),
        }
    }
}
