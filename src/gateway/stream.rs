//! A streamed reply on its way through the gateway.

use std::collections::VecDeque;

use futures::StreamExt;

use crate::domain::{Attempt, Nanousd};

use super::GatewayError;
use super::attempt::End;
use super::contract::{ChatEvent, ChatStream};
use super::settings::LedgerBodies;
use super::walk::Walk;

/// A streamed reply that keeps its place and its reservation until it has ended. Dropping it stops the server.
pub struct GatewayStream {
    walk: Walk,
    provider: String,
    ahead: VecDeque<ChatEvent>,
    events: ChatStream,
    is_over: bool,
}

impl GatewayStream {
    pub(super) fn new(walk: Walk, first: ChatEvent, events: ChatStream) -> Self {
        let provider = walk.model().provider.clone();
        Self { walk, provider, ahead: [first].into(), events, is_over: false }
    }

    /// Name of the provider that answers.
    pub fn provider(&self) -> &str {
        &self.provider
    }

    /// The attempts that have ended; the present one is among them once the stream has ended.
    pub fn attempts(&self) -> &[Attempt] {
        &self.walk.attempts
    }

    /// What the attempts that have ended cost.
    pub fn cost(&self) -> Nanousd {
        self.walk.cost
    }

    /// The next event; `None` after [`ChatEvent::Done`] or an error.
    pub async fn next(&mut self) -> Option<Result<ChatEvent, GatewayError>> {
        if self.is_over {
            return None;
        }
        let event = match self.ahead.pop_front() {
            Some(event) => Ok(event),
            None => self.read().await,
        };
        self.note(&event);
        Some(event)
    }

    async fn read(&mut self) -> Result<ChatEvent, GatewayError> {
        let Self { walk, events, provider, .. } = self;
        tokio::select! {
            biased;
            error = walk.cut() => Err(error),
            event = events.next() => {
                event.unwrap_or_else(|| Err(GatewayError::BrokenOff { provider: provider.clone(), source: None }))
            }
        }
    }

    fn note(&mut self, event: &Result<ChatEvent, GatewayError>) {
        let keeps_bodies = self.walk.plan.bodies != LedgerBodies::None;
        let Some(open) = self.walk.open() else { return };
        let end = match event {
            Ok(ChatEvent::Delta(text)) => {
                open.received(text.len());
                if keeps_bodies {
                    open.keep(text);
                }
                return;
            }
            Ok(ChatEvent::ToolCall(call)) => return open.received(call.name.len() + call.arguments.len()),
            Ok(ChatEvent::Usage(usage)) => return open.reported(*usage),
            Ok(ChatEvent::Done(end)) => End::Reply { end, whole: None },
            Err(error) => End::Failed(error),
        };
        self.is_over = true;
        self.walk.close(end);
        self.walk.settle();
        // The connection goes back, or is closed, before the caller asks again.
        self.events = futures::stream::empty().boxed();
    }
}
