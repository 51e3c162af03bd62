//! A provider that replays what it was told to say or what was recorded: demonstrations without a model, and tests.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::time::sleep_until;

use crate::domain::Usage;

use super::GatewayError;
use super::contract::{ChatEnd, ChatEvent, ChatRequest, ChatResponse, ChatStream, FinishReason, Provider, ToolCall};
use super::provider_settings::ProviderSettings;
use super::recording::{Exchange, Recording, RequestKey};

/// What the provider does on one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Says this.
    Text(String),
    /// Asks for these tools.
    Calls(Vec<ToolCall>),
    /// Refuses with an HTTP status.
    Status { status: u16, retry_after: Option<Duration> },
    /// Refuses because the call does not fit into the model.
    ContextTooLong,
    /// Refuses by its content filter.
    ContentFiltered,
    /// Says this and then breaks off.
    Cut(String),
    /// Says nothing until the deadline.
    Silence,
}

/// Replays its replies in order, then again from the first; or what was recorded.
pub struct Scripted {
    name: String,
    source: Source,
    calls: AtomicUsize,
    last: Mutex<Option<ChatRequest>>,
}

enum Source {
    Script(Vec<Reply>),
    Recording {
        recording: Arc<Recording>,
        /// Asked for what is not recorded yet.
        original: Option<Arc<dyn Provider>>,
    },
}

impl Scripted {
    /// A provider with at least one reply.
    pub fn new(name: &str, replies: Vec<Reply>) -> Result<Self, GatewayError> {
        if replies.is_empty() {
            return Err(invalid("a scripted provider needs a reply"));
        }
        Ok(Self::with_source(name, Source::Script(replies)))
    }

    /// A provider that says the lines of `settings.script`, or replays `settings.recording` and asks `record_from` for
    /// what is not in it. Reads the recording, and so blocks.
    pub fn from_settings(
        name: &str,
        settings: &ProviderSettings,
        record_from: Option<Arc<dyn Provider>>,
    ) -> Result<Self, GatewayError> {
        match (&settings.recording, record_from) {
            (Some(_), _) if !settings.script.is_empty() => Err(invalid("script and recording exclude each other")),
            (Some(path), original) => Self::recorded(name, path, original),
            (None, Some(_)) => Err(invalid("record_from needs recording, the file to write to")),
            (None, None) => Self::new(name, settings.script.iter().cloned().map(Reply::Text).collect()),
        }
    }

    fn recorded(name: &str, path: &Path, original: Option<Arc<dyn Provider>>) -> Result<Self, GatewayError> {
        let recording = match original {
            Some(_) => Recording::open(path)?,
            None => Recording::read(path)?,
        };
        Ok(Self::with_source(name, Source::Recording { recording: Arc::new(recording), original }))
    }

    fn with_source(name: &str, source: Source) -> Self {
        Self { name: name.to_owned(), source, calls: AtomicUsize::new(0), last: Mutex::default() }
    }

    /// How many calls were made.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Acquire)
    }

    /// What was asked last.
    pub fn last_request(&self) -> Option<ChatRequest> {
        self.last.lock().clone()
    }

    /// Notes a call and gives its number, from 0.
    fn count(&self, request: &ChatRequest) -> usize {
        *self.last.lock() = Some(request.clone());
        self.calls.fetch_add(1, Ordering::AcqRel)
    }

    /// What is said to a call, and whether it breaks off after that.
    async fn play(&self, reply: Reply, request: &ChatRequest, deadline: Instant) -> Result<Played, GatewayError> {
        match reply {
            Reply::Text(text) => Ok(Played { exchange: said(request, text, Vec::new()), is_cut: false }),
            Reply::Calls(calls) => Ok(Played { exchange: said(request, String::new(), calls), is_cut: false }),
            Reply::Cut(text) => Ok(Played { exchange: said(request, text, Vec::new()), is_cut: true }),
            Reply::Status { status, retry_after } => Err(self.status(status, retry_after, "scripted")),
            Reply::ContextTooLong => {
                let detail = "scripted".to_owned();
                Err(GatewayError::ContextTooLong { provider: self.name.clone(), status: 400, detail })
            }
            Reply::ContentFiltered => {
                let detail = "scripted".to_owned();
                Err(GatewayError::ContentFiltered { provider: self.name.clone(), status: 400, detail })
            }
            Reply::Silence => {
                sleep_until(deadline.into()).await;
                Err(GatewayError::Deadline { provider: self.name.clone() })
            }
        }
    }

    fn status(&self, status: u16, retry_after: Option<Duration>, detail: &str) -> GatewayError {
        GatewayError::Status { provider: self.name.clone(), status, retry_after, detail: detail.to_owned() }
    }

    fn not_recorded(&self) -> GatewayError {
        self.status(404, None, "not recorded")
    }

    fn broken_off(&self) -> GatewayError {
        GatewayError::BrokenOff { provider: self.name.clone(), source: None }
    }
}

/// What is said on one call of a script.
struct Played {
    exchange: Exchange,
    is_cut: bool,
}

/// A scripted exchange. Words stand in for tokens: a script has no tokenizer.
fn said(request: &ChatRequest, text: String, tool_calls: Vec<ToolCall>) -> Exchange {
    let words = |text: &str| text.split_whitespace().count() as u64;
    let input_tokens = request.messages.iter().map(|message| words(&message.content)).sum();
    let usage = Usage { input_tokens, cached_input_tokens: 0, output_tokens: words(&text) };
    let finish = if tool_calls.is_empty() { FinishReason::Stop } else { FinishReason::ToolCalls };
    let end = ChatEnd { model: request.model.clone(), finish, usage: Some(usage) };
    Exchange { response: ChatResponse { text, tool_calls, end }, pieces: None }
}

/// The events of an exchange before its end.
fn events(exchange: &Exchange) -> Vec<Result<ChatEvent, GatewayError>> {
    let words = || exchange.response.text.split_inclusive(' ').map(str::to_owned).collect();
    let pieces = exchange.pieces.clone().unwrap_or_else(words);
    let deltas = pieces.into_iter().filter(|piece| !piece.is_empty()).map(ChatEvent::Delta);
    let calls = exchange.response.tool_calls.iter().cloned().map(ChatEvent::ToolCall);
    deltas.chain(calls).map(Ok).collect()
}

fn stream(exchange: &Exchange, last: Result<ChatEvent, GatewayError>) -> ChatStream {
    futures::stream::iter(events(exchange).into_iter().chain([last])).boxed()
}

/// Passes a stream on and records it once it has ended as it should; what broke off is not kept.
fn recorded(original: ChatStream, recording: Arc<Recording>, key: RequestKey) -> ChatStream {
    let taken = (Vec::new(), Vec::new());
    futures::stream::unfold((original, recording, taken), move |(mut original, recording, mut taken)| async move {
        let event = original.next().await?;
        match &event {
            Ok(ChatEvent::Delta(piece)) => taken.0.push(piece.clone()),
            Ok(ChatEvent::ToolCall(call)) => taken.1.push(call.clone()),
            Ok(ChatEvent::Done(end)) => {
                let (pieces, tool_calls) = std::mem::take(&mut taken);
                let response = ChatResponse { text: pieces.concat(), tool_calls, end: end.clone() };
                recording.add(key, Exchange { response, pieces: Some(pieces) }).await;
            }
            Ok(ChatEvent::Usage(_)) | Err(_) => {}
        }
        Some((event, (original, recording, taken)))
    })
    .boxed()
}

fn invalid(detail: &str) -> GatewayError {
    GatewayError::Settings { detail: detail.to_owned() }
}

#[async_trait]
impl Provider for Scripted {
    fn name(&self) -> &str {
        &self.name
    }

    async fn chat(&self, request: &ChatRequest, deadline: Instant) -> Result<ChatResponse, GatewayError> {
        let call = self.count(request);
        match &self.source {
            Source::Script(replies) => {
                let played = self.play(replies[call % replies.len()].clone(), request, deadline).await?;
                if played.is_cut { Err(self.broken_off()) } else { Ok(played.exchange.response) }
            }
            Source::Recording { recording, original } => {
                let key = RequestKey::of(request);
                if let Some(exchange) = recording.find(key) {
                    return Ok(exchange.response.clone());
                }
                let original = original.as_ref().ok_or_else(|| self.not_recorded())?;
                let response = original.chat(request, deadline).await?;
                recording.add(key, Exchange { response: response.clone(), pieces: None }).await;
                Ok(response)
            }
        }
    }

    async fn chat_stream(&self, request: &ChatRequest, deadline: Instant) -> Result<ChatStream, GatewayError> {
        let call = self.count(request);
        match &self.source {
            Source::Script(replies) => {
                let played = self.play(replies[call % replies.len()].clone(), request, deadline).await?;
                let done = ChatEvent::Done(played.exchange.response.end.clone());
                Ok(stream(&played.exchange, if played.is_cut { Err(self.broken_off()) } else { Ok(done) }))
            }
            Source::Recording { recording, original } => {
                let key = RequestKey::of(request);
                if let Some(exchange) = recording.find(key) {
                    return Ok(stream(&exchange, Ok(ChatEvent::Done(exchange.response.end.clone()))));
                }
                let original = original.as_ref().ok_or_else(|| self.not_recorded())?;
                let events = original.chat_stream(request, deadline).await?;
                Ok(recorded(events, Arc::clone(recording), key))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::contract::{ChatMessage, Role};
    use super::*;
    use crate::domain::CallId;

    fn request(content: &str) -> ChatRequest {
        ChatRequest {
            call_id: CallId([0; 16]),
            messages: vec![ChatMessage::new(Role::User, content)],
            model: "m".to_owned(),
            max_tokens: 7,
            temperature: None,
            tools: Vec::new(),
            schema: None,
        }
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    fn original(replies: &[&str]) -> Arc<Scripted> {
        let replies = replies.iter().map(|text| Reply::Text((*text).to_owned())).collect();
        Arc::new(Scripted::new("original", replies).unwrap())
    }

    fn replaying(path: &Path, original: Option<Arc<Scripted>>) -> Result<Scripted, GatewayError> {
        let settings = ProviderSettings { recording: Some(path.to_owned()), ..ProviderSettings::default() };
        Scripted::from_settings("replay", &settings, original.map(|original| original as Arc<dyn Provider>))
    }

    async fn collect(provider: &Scripted, request: &ChatRequest) -> Vec<ChatEvent> {
        let stream = provider.chat_stream(request, later()).await.unwrap();
        stream.map(Result::unwrap).collect().await
    }

    #[tokio::test]
    async fn the_original_is_asked_once_and_never_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.jsonl");
        let original = original(&["first words", "second words"]);
        let recorder = replaying(&path, Some(Arc::clone(&original))).unwrap();

        let whole = recorder.chat(&request("a"), later()).await.unwrap();
        let streamed = collect(&recorder, &request("b")).await;
        let replay = replaying(&path, None).unwrap();

        assert_eq!(recorder.chat(&request("a"), later()).await.unwrap(), whole);
        assert_eq!(replay.chat(&request("a"), later()).await.unwrap(), whole);
        assert_eq!(collect(&replay, &request("b")).await, streamed);
        assert_eq!(streamed.len(), 3);
        assert_eq!(original.calls(), 2);
    }

    #[tokio::test]
    async fn what_is_not_recorded_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.jsonl");
        std::fs::write(&path, "").unwrap();
        let replay = replaying(&path, None).unwrap();

        let whole = replay.chat(&request("a"), later()).await.unwrap_err();
        let streamed = replay.chat_stream(&request("a"), later()).await.map(|_| ()).unwrap_err();

        for error in [whole, streamed] {
            assert_eq!(error.to_string(), "replay answered with status 404: not recorded");
        }
    }

    #[tokio::test]
    async fn a_reply_that_broke_off_is_not_recorded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.jsonl");
        let original = Arc::new(Scripted::new("original", vec![Reply::Cut("half of".to_owned())]).unwrap());
        let recorder = replaying(&path, Some(original)).unwrap();

        let events: Vec<_> = recorder.chat_stream(&request("a"), later()).await.unwrap().collect().await;

        assert_eq!(events.last().unwrap().as_ref().unwrap_err().outcome(), "broken_off");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        let script = ProviderSettings { script: vec!["hi".to_owned()], ..ProviderSettings::default() };
        let both = ProviderSettings { recording: Some("r.jsonl".into()), ..script.clone() };
        let refused = |settings: &ProviderSettings, original| {
            Scripted::from_settings("s", settings, original).map(|_| ()).unwrap_err().outcome()
        };

        assert_eq!(refused(&both, None), "misconfigured");
        assert_eq!(refused(&script, Some(original(&["x"]) as Arc<dyn Provider>)), "misconfigured");
        assert_eq!(refused(&ProviderSettings::default(), None), "misconfigured");
    }
}
