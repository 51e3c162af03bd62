//! An answer as it is written.
//!
//! Dropping the stream drops the call to the model: nobody pays for what nobody reads.

use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tracing::{Instrument, Span, debug_span};

use crate::domain::{Answer, Citation, Claim, Hit, SearchResult, TenantScope};
use crate::gateway::{ChatEnd, ChatEvent, GatewayError, GatewayStream};

use super::AnswerError;
use super::answerer::record;
use super::compose::{Composer, NO_ANSWER, call_context, is_refusal};
use super::draft::{AnswerParts, Draft, Writer};
use super::ground::{Grounded, Grounder};
use super::output_filter::OutputFilter;
use super::request::Ask;

/// A piece of a streamed answer.
#[derive(Debug)]
pub enum AnswerEvent {
    /// The passages that may be cited; always first.
    Sources(Vec<Hit>),
    /// The next piece of text. All of them together are the answer's text.
    Delta(String),
    /// Before the first claim that uses it.
    Citation(Box<Citation>),
    Claim(Claim),
    /// The whole answer; always last.
    Done(Box<Answer>),
    /// The answer broke off; always last.
    Error(AnswerError),
}

/// The answer as a stream; works only while it is polled. Its work belongs to the span that is current now.
pub fn stream(
    composer: Arc<Composer>,
    scope: TenantScope,
    ask: Ask,
    found: SearchResult,
) -> BoxStream<'static, AnswerEvent> {
    // One event of room: the model is read no faster than the client reads.
    let (sender, receiver) = mpsc::channel(1);
    let answer = Span::current();
    let compose = debug_span!("answer.compose", passages = found.hits.len());
    let events = Events { sender, answer: answer.clone() };
    let writing = async move {
        // `Err` means that the reader has gone, and then there is nothing left to do.
        let _ = write(&composer, &scope, &ask, found, &events).await;
    };
    let silent = writing.instrument(compose).instrument(answer).into_stream().filter_map(|()| async { None });
    futures::stream::select(ReceiverStream::new(receiver), silent).boxed()
}

/// The reader has gone.
struct Gone;

struct Events {
    sender: mpsc::Sender<AnswerEvent>,
    /// The span of the whole answer.
    answer: Span,
}

impl Events {
    async fn send(&self, event: AnswerEvent) -> Result<(), Gone> {
        match &event {
            AnswerEvent::Done(answer) => record(&self.answer, answer),
            AnswerEvent::Error(_) => {
                self.answer.record("error", "broken_off");
            }
            _ => {}
        }
        self.sender.send(event).await.map_err(|_| Gone)
    }

    async fn delta(&self, text: String) -> Result<(), Gone> {
        if text.is_empty() { Ok(()) } else { self.send(AnswerEvent::Delta(text)).await }
    }

    async fn grounded(&self, found: Vec<Grounded>) -> Result<(), Gone> {
        for Grounded { new_citations, claim } in found {
            for citation in new_citations {
                self.send(AnswerEvent::Citation(Box::new(citation))).await?;
            }
            self.send(AnswerEvent::Claim(claim)).await?;
        }
        Ok(())
    }

    /// An answer that was not written piece by piece.
    async fn whole(&self, answer: Answer) -> Result<(), Gone> {
        self.delta(answer.text.clone()).await?;
        for citation in answer.citations.clone() {
            self.send(AnswerEvent::Citation(Box::new(citation))).await?;
        }
        for claim in answer.claims.clone() {
            self.send(AnswerEvent::Claim(claim)).await?;
        }
        self.send(AnswerEvent::Done(Box::new(answer))).await
    }
}

async fn write(
    composer: &Composer,
    scope: &TenantScope,
    ask: &Ask,
    found: SearchResult,
    events: &Events,
) -> Result<(), Gone> {
    let mut draft = Draft::new(found, &composer.settings);
    let sources = draft.evidence.passages.iter().map(|passage| passage.hit.clone()).collect();
    events.send(AnswerEvent::Sources(sources)).await?;
    if draft.evidence.passages.is_empty() {
        return events.whole(draft.abstain(None)).await;
    }
    let call = composer.chat_call(ask, &draft);
    let mut reply = match composer.gateway.call_stream(call, call_context(scope, ask)).await {
        Ok(reply) => reply,
        Err(failure) => {
            (draft.attempts, draft.cost) = (failure.attempts, failure.cost);
            return events.whole(composer.quote_after(ask, draft, &failure.error).await).await;
        }
    };
    let outcome = follow(composer, &draft, &mut reply, events).await?;
    (draft.attempts, draft.cost) = (reply.attempts(), reply.cost());
    let provider = reply.provider().to_owned();
    // The call is over: its place is free before the reader has taken the rest.
    drop(reply);
    let writer = |end| Writer { provider, end, prompt: ask.prompt.version.clone() };
    match outcome {
        Outcome::Written(parts, end) => {
            let answer = draft.write(parts, writer(end));
            events.send(AnswerEvent::Done(Box::new(answer))).await
        }
        Outcome::Refused(end) => events.whole(draft.abstain(Some(writer(end)))).await,
        Outcome::Nothing(reason) => events.whole(composer.quote(ask, draft, reason).await).await,
        Outcome::BrokeOff(error) => events.send(AnswerEvent::Error(error.into())).await,
    }
}

enum Outcome {
    Written(AnswerParts, ChatEnd),
    Refused(ChatEnd),
    /// The reply ended or broke off before anything of it was shown.
    Nothing(&'static str),
    /// The reply broke off after something of it was shown.
    BrokeOff(GatewayError),
}

async fn follow(
    composer: &Composer,
    draft: &Draft,
    reply: &mut GatewayStream,
    events: &Events,
) -> Result<Outcome, Gone> {
    let mut filter = OutputFilter::new(draft.evidence.count());
    let mut grounder = Grounder::new(&draft.evidence, composer.settings.support);
    let mut opening = Some(String::new());
    let mut shown = false;
    let end = loop {
        match reply.next().await {
            Some(Ok(ChatEvent::Delta(piece))) => {
                let piece = match opening.take() {
                    Some(held) => held + &piece,
                    None => piece,
                };
                if !shown && may_be_refusal(&piece) {
                    opening = Some(piece);
                    continue;
                }
                let text = filter.push(&piece);
                shown = true;
                let found = grounder.push(&text);
                events.delta(text).await?;
                events.grounded(found).await?;
            }
            // Nothing here offers tools, and what is counted is the gateway's business.
            Some(Ok(ChatEvent::ToolCall(_) | ChatEvent::Usage(_))) => {}
            Some(Ok(ChatEvent::Done(end))) => break end,
            Some(Err(error)) if !shown => return Ok(Outcome::Nothing(error.outcome())),
            Some(Err(error)) => return Ok(Outcome::BrokeOff(error)),
            None if !shown => return Ok(Outcome::Nothing("broken_off")),
            None => {
                let provider = reply.provider().to_owned();
                return Ok(Outcome::BrokeOff(GatewayError::BrokenOff { provider, source: None }));
            }
        }
    };
    let held = opening.unwrap_or_default();
    if is_refusal(&held) {
        return Ok(Outcome::Refused(end));
    }
    let text = filter.push(&held) + &filter.finish();
    let mut found = grounder.push(&text);
    found.extend(grounder.finish());
    let parts = AnswerParts::of(grounder, &filter);
    if parts.is_empty() {
        return Ok(Outcome::Nothing("empty_reply"));
    }
    events.delta(text).await?;
    events.grounded(found).await?;
    Ok(Outcome::Written(parts, end))
}

/// True while a reply could still turn out to be the agreed refusal.
fn may_be_refusal(begun: &str) -> bool {
    let word = begun.trim_start_matches(|c: char| !c.is_ascii_alphanumeric()).trim_end();
    let head = word.as_bytes().iter().take(NO_ANSWER.len());
    let is_prefix = head.zip(NO_ANSWER.as_bytes()).all(|(a, b)| a.eq_ignore_ascii_case(b));
    is_prefix && (word.len() < NO_ANSWER.len() || is_refusal(word)) && begun.len() < 4 * NO_ANSWER.len()
}
