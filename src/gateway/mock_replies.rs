//! Replies for tests in every wire format that is spoken over HTTP.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::domain::Usage;

use super::contract::{FinishReason, Provider, ToolCall};
use super::mock_server::{Act, sse};
use super::provider_settings::{ProviderKind, ProviderSettings};
use super::{Anthropic, Ollama, OpenAiCompatible, install_tls};

/// What a mocked model says.
#[derive(Debug, Clone)]
pub struct Said {
    pub pieces: Vec<&'static str>,
    pub calls: Vec<ToolCall>,
    pub finish: FinishReason,
    /// As the server counts; need not make sense.
    pub tokens: [Value; 2],
}

impl Said {
    /// A reply that says the pieces and stops.
    pub fn text(pieces: &[&'static str]) -> Self {
        let tokens = [json!(11), json!(7)];
        Self { pieces: pieces.to_vec(), calls: Vec::new(), finish: FinishReason::Stop, tokens }
    }

    /// A reply that only asks for tools.
    pub fn calls(calls: Vec<ToolCall>) -> Self {
        Self { calls, finish: FinishReason::ToolCalls, ..Self::text(&[]) }
    }

    /// What [`Said::text`] counts.
    pub fn usage() -> Usage {
        Usage { input_tokens: 11, cached_input_tokens: 0, output_tokens: 7 }
    }
}

/// The wire formats under test.
pub const FORMATS: [ProviderKind; 3] = [ProviderKind::OpenaiCompatible, ProviderKind::Anthropic, ProviderKind::Ollama];

/// A provider of that kind, named `mock`.
pub fn provider(kind: ProviderKind, settings: &ProviderSettings) -> Arc<dyn Provider> {
    install_tls();
    match kind {
        ProviderKind::OpenaiCompatible => Arc::new(OpenAiCompatible::new("mock", settings).unwrap()),
        ProviderKind::Anthropic => Arc::new(Anthropic::new("mock", settings).unwrap()),
        ProviderKind::Ollama => Arc::new(Ollama::new("mock", settings).unwrap()),
        ProviderKind::Scripted => panic!("a scripted provider has no wire format"),
    }
}

/// The content type of a stream.
pub fn stream_type(kind: ProviderKind) -> &'static str {
    if kind == ProviderKind::Ollama { "application/x-ndjson" } else { "text/event-stream" }
}

/// A frame of a stream.
pub fn frame(kind: ProviderKind, data: &str) -> Vec<u8> {
    if kind == ProviderKind::Ollama { format!("{data}\n").into_bytes() } else { sse(data) }
}

/// A stream of these frames.
pub fn stream_of(kind: ProviderKind, frames: &[Value]) -> Act {
    Act::body_of(stream_type(kind), frames.iter().map(|data| frame(kind, &data.to_string())))
}

/// The body of a whole reply.
pub fn whole(kind: ProviderKind, said: &Said) -> Value {
    let text = said.pieces.concat();
    let [input, output] = &said.tokens;
    match kind {
        ProviderKind::Anthropic => {
            let texts = Some(&text).filter(|text| !text.is_empty()).map(|text| json!({"type": "text", "text": text}));
            let calls = said
                .calls
                .iter()
                .map(|call| json!({"type": "tool_use", "id": call.id, "name": call.name, "input": arguments(call)}));
            json!({"type": "message", "role": "assistant", "model": "mock-1", "stop_reason": stop_reason(said.finish),
                "content": texts.into_iter().chain(calls).collect::<Vec<_>>(),
                "usage": {"input_tokens": input, "output_tokens": output}})
        }
        ProviderKind::Ollama => {
            json!({"model": "mock-1", "done": true, "done_reason": done_reason(said.finish),
                "message": {"role": "assistant", "content": text, "tool_calls": ollama_calls(said)},
                "prompt_eval_count": input, "eval_count": output})
        }
        ProviderKind::OpenaiCompatible | ProviderKind::Scripted => {
            let content = if said.calls.is_empty() { json!(text) } else { Value::Null };
            json!({"model": "mock-1", "usage": {"prompt_tokens": input, "completion_tokens": output},
                "choices": [{"finish_reason": said.finish.as_str(), "message": {"role": "assistant",
                    "content": content, "tool_calls": openai_calls(said)}}]})
        }
    }
}

/// The frames of a streamed reply, without the mark that ends OpenAI's.
pub fn frames(kind: ProviderKind, said: &Said) -> Vec<Value> {
    match kind {
        ProviderKind::Anthropic => anthropic_frames(said),
        ProviderKind::Ollama => {
            let line = |message: Value| json!({"model": "mock-1", "message": message, "done": false});
            let texts = said.pieces.iter().map(|piece| line(json!({"role": "assistant", "content": piece})));
            let calls = ollama_calls(said).into_iter().map(|call| line(json!({"content": "", "tool_calls": [call]})));
            let end = json!({"model": "mock-1", "message": {"role": "assistant", "content": ""}, "done": true,
                "done_reason": done_reason(said.finish),
                "prompt_eval_count": said.tokens[0], "eval_count": said.tokens[1]});
            texts.chain(calls).chain([end]).collect()
        }
        ProviderKind::OpenaiCompatible | ProviderKind::Scripted => {
            let chunk = |delta: Value| json!({"model": "mock-1", "choices": [{"delta": delta}]});
            let texts = said.pieces.iter().map(|piece| chunk(json!({"content": piece})));
            let calls = openai_calls(said).into_iter().map(|call| chunk(json!({"tool_calls": [call]})));
            let end = json!({"choices": [{"delta": {}, "finish_reason": said.finish.as_str()}]});
            let usage = json!({"choices": [],
                "usage": {"prompt_tokens": said.tokens[0], "completion_tokens": said.tokens[1]}});
            texts.chain(calls).chain([end, usage]).collect()
        }
    }
}

/// A whole and a streamed reply.
pub fn says(kind: ProviderKind, said: &Said) -> (Act, Act) {
    let mut streamed = stream_of(kind, &frames(kind, said));
    if kind == ProviderKind::OpenaiCompatible {
        streamed.writes.push(sse("[DONE]"));
    }
    (Act::json("200 OK", "", &whole(kind, said).to_string()), streamed)
}

/// A stream that says the pieces and then ends without having finished.
pub fn streams_without_end(kind: ProviderKind, pieces: &[&'static str]) -> Act {
    let frames = frames(kind, &Said::text(pieces));
    // Anthropic's first piece comes after the starts of message and block.
    let begun = if kind == ProviderKind::Anthropic { 2 } else { 0 };
    stream_of(kind, &frames[..begun + pieces.len()])
}

fn anthropic_frames(said: &Said) -> Vec<Value> {
    let start = json!({"type": "message_start", "message": {"model": "mock-1", "content": [],
        "usage": {"input_tokens": said.tokens[0], "output_tokens": 1}}});
    let mut frames = vec![start];
    if !said.pieces.is_empty() {
        frames.push(json!({"type": "content_block_start", "content_block": {"type": "text", "text": ""}}));
        let delta =
            |piece: &&str| json!({"type": "content_block_delta", "delta": {"type": "text_delta", "text": piece}});
        frames.extend(said.pieces.iter().map(delta));
        frames.push(json!({"type": "content_block_stop"}));
    }
    for call in &said.calls {
        frames.push(json!({"type": "content_block_start",
            "content_block": {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}}));
        let (head, tail) = call.arguments.split_at(call.arguments.len() / 2);
        frames.extend([head, tail].map(
            |json| json!({"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": json}}),
        ));
        frames.push(json!({"type": "content_block_stop"}));
    }
    frames.push(json!({"type": "message_delta", "delta": {"stop_reason": stop_reason(said.finish)},
        "usage": {"output_tokens": said.tokens[1]}}));
    frames.push(json!({"type": "message_stop"}));
    frames
}

fn openai_calls(said: &Said) -> Vec<Value> {
    let call = |(index, call): (usize, &ToolCall)| {
        json!({"index": index, "id": call.id, "type": "function",
            "function": {"name": call.name, "arguments": call.arguments}})
    };
    said.calls.iter().enumerate().map(call).collect()
}

fn ollama_calls(said: &Said) -> Vec<Value> {
    let call = |call: &ToolCall| json!({"function": {"name": call.name, "arguments": arguments(call)}});
    said.calls.iter().map(call).collect()
}

fn arguments(call: &ToolCall) -> Value {
    serde_json::from_str(&call.arguments).unwrap()
}

fn stop_reason(finish: FinishReason) -> &'static str {
    match finish {
        FinishReason::Stop => "end_turn",
        FinishReason::Length => "max_tokens",
        FinishReason::ContentFilter => "refusal",
        FinishReason::ToolCalls => "tool_use",
        FinishReason::Other => "pause_turn",
    }
}

fn done_reason(finish: FinishReason) -> &'static str {
    match finish {
        FinishReason::Length => "length",
        // Also where tools are wanted, as the real server says it.
        _ => "stop",
    }
}
