//! A streamed reply on its way through the gateway.
//!
//! A task of its own reads it, so that deadline, switch and budget hold also while the reader does not read.

use std::sync::Arc;

use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::sleep_until;

use crate::domain::{Attempt, Nanousd};

use super::GatewayError;
use super::attempt::End;
use super::contract::{ChatEvent, ChatStream};
use super::settings::LedgerBodies;
use super::walk::Walk;

/// Events that may wait for the reader; beyond them the server is read no faster than the reader reads.
const ROOM: usize = 8;

/// A streamed reply that keeps its place and its reservation until it has ended. Dropping it stops the server.
pub struct GatewayStream {
    provider: String,
    events: mpsc::Receiver<Result<ChatEvent, GatewayError>>,
    story: Arc<Mutex<Story>>,
    is_over: bool,
}

/// What has become of the call so far.
#[derive(Default)]
struct Story {
    attempts: Vec<Attempt>,
    cost: Nanousd,
    /// Why it ended while the reader did not read.
    cut: Option<GatewayError>,
}

impl GatewayStream {
    pub(super) fn new(walk: Walk, first: ChatEvent, events: ChatStream) -> Self {
        let provider = walk.model().provider.clone();
        let story = Arc::new(Mutex::new(Story { attempts: walk.attempts.clone(), cost: walk.cost, cut: None }));
        let (sender, receiver) = mpsc::channel(ROOM);
        let pump = Pump { walk, events, sender, story: Arc::clone(&story) };
        // Its owner is the reader: it ends when that drops the receiver, or at the call's deadline.
        tokio::spawn(pump.run(first));
        Self { provider, events: receiver, story, is_over: false }
    }

    /// Name of the provider that answers.
    pub fn provider(&self) -> &str {
        &self.provider
    }

    /// The attempts that have ended; the present one is among them once the stream has ended.
    pub fn attempts(&self) -> Vec<Attempt> {
        self.story.lock().attempts.clone()
    }

    /// What the attempts that have ended cost.
    pub fn cost(&self) -> Nanousd {
        self.story.lock().cost
    }

    /// The next event; `None` after [`ChatEvent::Done`] or an error.
    pub async fn next(&mut self) -> Option<Result<ChatEvent, GatewayError>> {
        if self.is_over {
            return None;
        }
        let broken_off = || GatewayError::BrokenOff { provider: self.provider.clone(), source: None };
        let event = match self.events.recv().await {
            Some(event) => event,
            None => Err(self.story.lock().cut.take().unwrap_or_else(broken_off)),
        };
        self.is_over = matches!(event, Ok(ChatEvent::Done(_)) | Err(_));
        Some(event)
    }
}

/// Reads the server and hands on what it says.
struct Pump {
    walk: Walk,
    events: ChatStream,
    sender: mpsc::Sender<Result<ChatEvent, GatewayError>>,
    story: Arc<Mutex<Story>>,
}

/// Whether more follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    On,
    Over,
}

impl Pump {
    async fn run(mut self, first: ChatEvent) {
        let mut event = Ok(first);
        loop {
            let course = self.note(&event);
            if self.hand_on(event).await == Course::Over || course == Course::Over {
                return;
            }
            event = match self.read().await {
                Some(event) => event,
                None => return,
            };
        }
    }

    /// The next event; `None` once the reader has gone.
    async fn read(&mut self) -> Option<Result<ChatEvent, GatewayError>> {
        let Self { walk, events, sender, .. } = self;
        tokio::select! {
            biased;
            () = sender.closed() => None,
            error = walk.cut() => Some(Err(error)),
            event = events.next() => {
                let broken_off = || GatewayError::BrokenOff { provider: walk.model().provider.clone(), source: None };
                Some(event.unwrap_or_else(|| Err(broken_off())))
            }
        }
    }

    /// Waits for room, as long as the call may go on.
    async fn hand_on(&mut self, event: Result<ChatEvent, GatewayError>) -> Course {
        let error = tokio::select! {
            biased;
            sent = self.sender.send(event) => return if sent.is_ok() { Course::On } else { Course::Over },
            error = self.walk.cut() => error,
            () = sleep_until(self.walk.deadline().into()) => {
                GatewayError::Deadline { provider: self.walk.model().provider.clone() }
            }
        };
        let cut = Err(error);
        self.note(&cut);
        self.story.lock().cut = cut.err();
        Course::Over
    }

    fn note(&mut self, event: &Result<ChatEvent, GatewayError>) -> Course {
        let keeps_bodies = self.walk.plan.bodies != LedgerBodies::None;
        let Some(open) = self.walk.open() else { return Course::Over };
        let end = match event {
            Ok(ChatEvent::Delta(text)) => {
                open.received(text.len());
                if keeps_bodies {
                    open.keep(text);
                }
                return Course::On;
            }
            Ok(ChatEvent::ToolCall(call)) => {
                open.received(call.name.len() + call.arguments.len());
                return Course::On;
            }
            Ok(ChatEvent::Usage(usage)) => {
                open.reported(*usage);
                return Course::On;
            }
            Ok(ChatEvent::Done(end)) => End::Reply { end, whole: None },
            Err(error) => End::Failed(error),
        };
        self.walk.close(end);
        self.walk.settle();
        *self.story.lock() = Story { attempts: self.walk.attempts.clone(), cost: self.walk.cost, cut: None };
        Course::Over
    }
}
