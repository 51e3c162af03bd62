//! One attempt of a call: what was measured, what it cost, and the row that says so.

use std::time::{Duration, Instant};

use metrics::{counter, histogram};

use crate::domain::{CacheUse, LlmCall, Nanousd, SpanId, Timestamp, Usage, UsageSource};

use super::GatewayError;
use super::bodies;
use super::contract::{ChatEnd, ChatResponse};
use super::error::Work;
use super::estimate::{likely_input_tokens, likely_output_tokens, most_input_tokens};
use super::price::Price;
use super::settings::LedgerBodies;
use super::upstream::Admission;
use super::walk::Walk;

/// Whether the reply comes whole or in pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    Whole,
    Streamed,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy)]
pub enum End<'a> {
    Reply {
        end: &'a ChatEnd,
        /// The reply, where it came whole.
        whole: Option<&'a ChatResponse>,
    },
    Failed(&'a GatewayError),
    /// The caller left.
    Cancelled,
}

/// An attempt under way.
pub struct OpenAttempt {
    number: u32,
    started_at: Timestamp,
    started: Instant,
    price: Price,
    delivery: Delivery,
    /// `None` while it waits for a place.
    pub admission: Option<Admission>,
    pub span: tracing::Span,
    span_id: SpanId,
    first_token: Option<Duration>,
    received_bytes: usize,
    /// Of a streamed reply, where the ledger keeps it.
    text: String,
    /// What the server has said so far.
    reported: Option<Usage>,
}

/// A finished attempt.
pub struct ClosedAttempt {
    pub row: LlmCall,
    pub tokens: u64,
}

impl OpenAttempt {
    pub fn new(number: u32, started_at: Timestamp, price: Price, delivery: Delivery) -> Self {
        let span_id = SpanId(rand::random::<u64>().max(1).to_be_bytes());
        let span = tracing::info_span!(
            "gateway.attempt",
            span_id = %span_id,
            attempt = number,
            task = tracing::field::Empty,
            provider = tracing::field::Empty,
            model = tracing::field::Empty,
            answered_model = tracing::field::Empty,
            outcome = tracing::field::Empty,
            input_tokens = tracing::field::Empty,
            output_tokens = tracing::field::Empty,
            cost_nanousd = tracing::field::Empty,
            error = tracing::field::Empty,
        );
        Self {
            number,
            started_at,
            started: Instant::now(),
            price,
            delivery,
            admission: None,
            span,
            span_id,
            first_token: None,
            received_bytes: 0,
            text: String::new(),
            reported: None,
        }
    }

    /// A piece of a streamed reply arrived.
    pub fn received(&mut self, bytes: usize) {
        self.first_token.get_or_insert_with(|| self.started.elapsed());
        self.received_bytes += bytes;
    }

    /// Keeps a piece of a streamed reply for the ledger.
    pub fn keep(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// The server said what it counts so far.
    pub fn reported(&mut self, usage: Usage) {
        self.reported = Some(usage);
    }

    /// The row of the attempt. Tells breaker and token rate how it ended.
    pub fn close(mut self, walk: &Walk, end: End<'_>) -> ClosedAttempt {
        if let End::Reply { whole: Some(response), .. } = end {
            let calls = response.tool_calls.iter().map(|call| call.name.len() + call.arguments.len());
            self.received_bytes = response.text.len() + calls.sum::<usize>();
        }
        let (usage, usage_source) = self.usage(walk, end);
        let tokens = usage.input_tokens.saturating_add(usage.output_tokens);
        let cost = self.price.of(usage);
        self.tell_guards(end, tokens);
        let row = self.row(walk, end, (usage, usage_source, cost));
        self.publish(&row);
        ClosedAttempt { row, tokens }
    }

    /// What the server counted, or what it must be taken to have counted. Where it is not known, an attempt is charged
    /// with all it may have done: money must not leak where a server works on after a timeout.
    fn usage(&self, walk: &Walk, end: End<'_>) -> (Usage, UsageSource) {
        let said = match end {
            End::Reply { end, .. } => end.usage.or(self.reported),
            End::Failed(_) | End::Cancelled => None,
        };
        if let Some(usage) = said {
            return (usage, UsageSource::Reported);
        }
        let worked = match end {
            End::Reply { .. } => true,
            // A refusal inside a stream that had begun comes after work.
            End::Failed(error) => self.admission.is_some() && (error.work() == Work::Unknown || self.has_begun()),
            End::Cancelled => self.admission.is_some(),
        };
        if !worked {
            return (Usage::default(), UsageSource::None);
        }
        let request = walk.request();
        let usage = |input_tokens, output_tokens| Usage { input_tokens, cached_input_tokens: 0, output_tokens };
        let input_tokens = self.reported.map(|usage| usage.input_tokens);
        // A model may think for long before its first piece, so silence tells nothing of what it did.
        if matches!(end, End::Reply { .. }) || self.first_token.is_some() {
            let written = self.reported.map_or(0, |usage| usage.output_tokens);
            let output_tokens = written.max(likely_output_tokens(self.received_bytes));
            let input_tokens = input_tokens.unwrap_or_else(|| likely_input_tokens(request));
            return (usage(input_tokens, output_tokens), UsageSource::Estimated);
        }
        let input_tokens = input_tokens.unwrap_or_else(|| most_input_tokens(request));
        (usage(input_tokens, u64::from(request.max_tokens)), UsageSource::WorstCase)
    }

    fn has_begun(&self) -> bool {
        self.first_token.is_some() || self.reported.is_some()
    }

    fn tell_guards(&self, end: End<'_>, tokens: u64) {
        let Some(admission) = &self.admission else { return };
        admission.used(tokens);
        match end {
            End::Reply { .. } => admission.succeeded(),
            End::Cancelled => {}
            End::Failed(error) => match error {
                // The server is well enough to say no; of its own limits it says when to come back.
                GatewayError::Status { status: 429, .. } => {}
                GatewayError::Status { status: 408 | 500.., .. } => admission.failed(),
                GatewayError::Status { .. }
                | GatewayError::ContextTooLong { .. }
                | GatewayError::ContentFiltered { .. } => admission.succeeded(),
                GatewayError::Unreachable { .. }
                | GatewayError::ContentType { .. }
                | GatewayError::TooLarge { .. }
                | GatewayError::Idle { .. }
                | GatewayError::BrokenOff { .. }
                | GatewayError::Malformed { .. }
                | GatewayError::Deadline { .. } => admission.failed(),
                // Ours, not the server's.
                _ => {}
            },
        }
    }

    fn row(&self, walk: &Walk, end: End<'_>, (usage, usage_source, cost): (Usage, UsageSource, Nanousd)) -> LlmCall {
        let model = walk.model();
        let (outcome, status) = match end {
            End::Reply { .. } => ("ok", Some(200)),
            End::Failed(error) => (error.outcome(), error.status()),
            End::Cancelled => ("cancelled", None),
        };
        let reply = match end {
            End::Reply { end, .. } => Some(end),
            End::Failed(_) | End::Cancelled => None,
        };
        let (request_body, response_body) = self.bodies(walk, end);
        LlmCall {
            call_id: walk.call_id,
            attempt: self.number,
            trace_id: walk.context.trace_id,
            span_id: self.span_id,
            tenant: walk.context.scope.tenant.clone(),
            task: walk.context.task.to_owned(),
            session_id: walk.context.session_id.clone(),
            key_id: walk.context.scope.key_id.as_deref().map(str::to_owned),
            provider: model.provider.clone(),
            model: model.model.clone(),
            answered_model: reply.map(|end| end.model.clone()),
            prompt: walk.prompt.clone(),
            started_at: self.started_at,
            latency_us: microseconds(self.started.elapsed()),
            first_token_us: self.first_token.map(microseconds),
            outcome: outcome.to_owned(),
            status,
            finish: reply.map(|end| end.finish.as_str().to_owned()),
            is_streamed: self.delivery == Delivery::Streamed,
            cache: CacheUse::Miss,
            usage,
            usage_source,
            cost,
            request_body,
            response_body,
        }
    }

    fn bodies(&self, walk: &Walk, end: End<'_>) -> (Option<String>, Option<String>) {
        if walk.plan.bodies == LedgerBodies::None || self.admission.is_none() {
            return (None, None);
        }
        let text = match end {
            End::Reply { whole: Some(response), .. } => response.text.as_str(),
            _ => self.text.as_str(),
        };
        let reply = (!text.is_empty()).then(|| bodies::of_reply(text));
        (Some(bodies::of_request(walk.request())), reply)
    }

    fn publish(&self, row: &LlmCall) {
        self.span.record("outcome", row.outcome.as_str());
        if row.outcome != "ok" && row.outcome != "cancelled" {
            self.span.record("error", row.outcome.as_str());
        }
        self.span.record("input_tokens", row.usage.input_tokens);
        self.span.record("output_tokens", row.usage.output_tokens);
        self.span.record("cost_nanousd", row.cost.0);
        if let Some(model) = &row.answered_model {
            self.span.record("answered_model", model.as_str());
        }
        let labels = [
            ("task", row.task.clone()),
            ("provider", row.provider.clone()),
            ("model", row.model.clone()),
            ("outcome", row.outcome.clone()),
        ];
        counter!("plumb_llm_calls_total", &labels).increment(1);
        counter!("plumb_llm_cost_nanousd_total", &labels[..3]).increment(row.cost.0);
        counter!("plumb_llm_input_tokens_total", &labels[..3]).increment(row.usage.input_tokens);
        counter!("plumb_llm_output_tokens_total", &labels[..3]).increment(row.usage.output_tokens);
        histogram!("plumb_llm_call_seconds", &labels[1..3]).record(row.latency_us as f64 / 1e6);
        tracing::info!(
            trace_id = %row.trace_id,
            tenant = %row.tenant,
            task = row.task,
            session_id = row.session_id,
            provider = row.provider,
            model = row.model,
            prompt_version = row.prompt.as_ref().map(|prompt| prompt.version.as_str()),
            attempt = row.attempt,
            outcome = row.outcome,
            latency_ms = row.latency_us as f64 / 1e3,
            input_tokens = row.usage.input_tokens,
            output_tokens = row.usage.output_tokens,
            cost_nanousd = row.cost.0,
            "model called"
        );
    }
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
