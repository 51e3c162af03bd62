//! A streamed message of Anthropic's API as events.
//!
//! Counts of tokens come twice and the later ones are cumulative: they replace, and are never added.

use std::collections::VecDeque;

use serde::Deserialize;
use serde_json::Value;

use super::anthropic_wire::{Block, WireUsage, finish_reason};
use super::contract::{ChatEnd, ChatEvent, ChatRequest};
use super::reply_stream::{Assembler, Fault};
use super::wire::{TOOL_CALLS_MAX, json_fault, model_name, tool_call};

/// Puts the events of one message together.
pub struct AnthropicAssembler {
    model: String,
    /// Name of the tool whose input is the text.
    schema: Option<String>,
    block: OpenBlock,
    stop_reason: Option<String>,
    usage: WireUsage,
    /// How many calls have been given.
    calls: usize,
}

/// The block that is being written; one follows the other.
enum OpenBlock {
    Text,
    /// The tool that stands for a schema; its input is the text. A server that does not cut it gives it at the start.
    Reply {
        at_once: String,
        in_pieces: bool,
    },
    Call {
        id: Option<String>,
        name: String,
        at_once: String,
        pieces: String,
    },
    /// No block, or one that is nothing to us: thinking, or text beside a reply that has a schema.
    Ignored,
}

/// One `data` of the stream; which fields it has depends on its type.
#[derive(Debug, Deserialize)]
struct StreamEvent {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    message: Option<StartedMessage>,
    #[serde(default)]
    content_block: Option<Block>,
    #[serde(default)]
    delta: Option<Delta>,
    #[serde(default)]
    usage: Option<WireUsage>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct StartedMessage {
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    usage: Option<WireUsage>,
}

/// A piece of a block, or what changed of the message.
#[derive(Debug, Default, Deserialize)]
struct Delta {
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    partial_json: Option<String>,
    #[serde(default)]
    stop_reason: Option<String>,
}

impl AnthropicAssembler {
    /// An assembler for the reply to `request`.
    pub fn new(request: &ChatRequest) -> Self {
        Self {
            model: model_name(None, &request.model),
            schema: request.schema.as_ref().map(|reply| reply.name.clone()),
            block: OpenBlock::Ignored,
            stop_reason: None,
            usage: WireUsage::default(),
            calls: 0,
        }
    }

    fn start_message(&mut self, message: StartedMessage, events: &mut VecDeque<ChatEvent>) {
        self.model = model_name(message.model.as_deref(), &self.model);
        self.usage.update(message.usage.unwrap_or_default());
        events.extend(self.usage.tokens().map(ChatEvent::Usage));
    }

    fn start_block(&mut self, block: Block, events: &mut VecDeque<ChatEvent>) -> Result<(), Fault> {
        self.block = match (block.kind.as_str(), block.name) {
            ("text", _) if self.schema.is_none() => {
                give_text(block.text, events);
                OpenBlock::Text
            }
            ("tool_use", Some(name)) if !name.is_empty() => {
                let at_once = block.input.map_or_else(|| "{}".to_owned(), |input| input.get().to_owned());
                match self.schema.as_deref() == Some(name.as_str()) {
                    true => OpenBlock::Reply { at_once, in_pieces: false },
                    false => OpenBlock::Call { id: block.id, name, at_once, pieces: String::new() },
                }
            }
            ("tool_use", _) => return Err(Fault::Malformed("a tool call without a name".to_owned())),
            _ => OpenBlock::Ignored,
        };
        Ok(())
    }

    fn take_delta(&mut self, delta: Delta, events: &mut VecDeque<ChatEvent>) {
        let json = delta.partial_json.unwrap_or_default();
        match &mut self.block {
            OpenBlock::Text => give_text(delta.text, events),
            OpenBlock::Reply { in_pieces, .. } => {
                *in_pieces |= !json.is_empty();
                give_text(Some(json), events);
            }
            OpenBlock::Call { pieces, .. } => pieces.push_str(&json),
            OpenBlock::Ignored => {}
        }
    }

    fn stop_block(&mut self, events: &mut VecDeque<ChatEvent>) -> Result<(), Fault> {
        match std::mem::replace(&mut self.block, OpenBlock::Ignored) {
            OpenBlock::Reply { at_once, in_pieces: false } => give_text(Some(at_once), events),
            OpenBlock::Call { .. } if self.calls >= TOOL_CALLS_MAX => {
                return Err(Fault::Malformed(format!("more than {TOOL_CALLS_MAX} tool calls")));
            }
            OpenBlock::Call { id, name, at_once, pieces } => {
                let input = if pieces.is_empty() { at_once } else { pieces };
                events.push_back(ChatEvent::ToolCall(tool_call(id, name, input, self.calls)));
                self.calls += 1;
            }
            OpenBlock::Text | OpenBlock::Reply { .. } | OpenBlock::Ignored => {}
        }
        Ok(())
    }

    fn change_message(&mut self, delta: Delta, usage: Option<WireUsage>) {
        self.usage.update(usage.unwrap_or_default());
        self.stop_reason = delta.stop_reason.or(self.stop_reason.take());
    }

    fn end(&self) -> ChatEvent {
        let finish = finish_reason(self.stop_reason.as_deref(), self.calls);
        ChatEvent::Done(ChatEnd { model: self.model.clone(), finish, usage: self.usage.tokens() })
    }
}

fn give_text(text: Option<String>, events: &mut VecDeque<ChatEvent>) {
    events.extend(text.filter(|text| !text.is_empty()).map(ChatEvent::Delta));
}

impl Assembler for AnthropicAssembler {
    /// Types that are not known here are ignored, as the documentation of the API demands.
    fn take(&mut self, frame: &str, events: &mut VecDeque<ChatEvent>) -> Result<(), Fault> {
        let event: StreamEvent = serde_json::from_str(frame).map_err(|error| Fault::Malformed(json_fault(&error)))?;
        if let Some(error) = event.error {
            return Err(Fault::Said(error));
        }
        let missing = || Fault::Malformed("an event without what its type promises".to_owned());
        match event.kind.as_str() {
            "message_start" => self.start_message(event.message.ok_or_else(missing)?, events),
            "content_block_start" => self.start_block(event.content_block.ok_or_else(missing)?, events)?,
            "content_block_delta" => self.take_delta(event.delta.ok_or_else(missing)?, events),
            "content_block_stop" => self.stop_block(events)?,
            "message_delta" => self.change_message(event.delta.unwrap_or_default(), event.usage),
            "message_stop" => events.push_back(self.end()),
            "error" => return Err(missing()),
            _ => {}
        }
        Ok(())
    }

    /// After a stop reason nothing but `message_stop` is missing; before it the reply is cut.
    fn close(&mut self, events: &mut VecDeque<ChatEvent>) {
        if self.stop_reason.is_some() {
            events.push_back(self.end());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::domain::Usage;

    use super::super::contract::{FinishReason, ReplySchema};
    use super::*;

    fn request(schema: Option<ReplySchema>) -> ChatRequest {
        ChatRequest {
            call_id: crate::domain::CallId([0; 16]),
            messages: Vec::new(),
            model: "asked-for".to_owned(),
            max_tokens: 7,
            temperature: None,
            tools: Vec::new(),
            schema,
        }
    }

    fn read(schema: Option<ReplySchema>, frames: &[Value]) -> Vec<ChatEvent> {
        let (mut assembler, mut events) = (AnthropicAssembler::new(&request(schema)), VecDeque::new());
        for frame in frames {
            assembler.take(&frame.to_string(), &mut events).unwrap();
        }
        events.into()
    }

    fn start() -> Value {
        json!({"type": "message_start", "message": {"model": "m-2", "usage": {"input_tokens": 9, "output_tokens": 1}}})
    }

    fn piece(delta: Value) -> Value {
        json!({"type": "content_block_delta", "index": 0, "delta": delta})
    }

    fn tool(name: &str) -> Value {
        json!({"type": "content_block_start", "index": 0,
            "content_block": {"type": "tool_use", "id": "t", "name": name, "input": {}}})
    }

    fn stop() -> Value {
        json!({"type": "content_block_stop", "index": 0})
    }

    #[test]
    fn counts_replace_earlier_ones_and_thinking_is_not_text() {
        let events = read(
            None,
            &[
                start(),
                json!({"type": "ping"}),
                json!({"type": "content_block_start", "content_block": {"type": "thinking", "thinking": ""}}),
                piece(json!({"type": "thinking_delta", "thinking": "hm", "text": "hm"})),
                stop(),
                json!({"type": "content_block_start", "content_block": {"type": "text", "text": ""}}),
                piece(json!({"type": "text_delta", "text": "Yes."})),
                stop(),
                json!({"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {"output_tokens": 4}}),
                json!({"type": "message_stop"}),
            ],
        );

        let usage = |output_tokens| Usage { input_tokens: 9, cached_input_tokens: 0, output_tokens };
        let end = ChatEnd { model: "m-2".to_owned(), finish: FinishReason::Length, usage: Some(usage(4)) };
        assert_eq!(events, [ChatEvent::Usage(usage(1)), ChatEvent::Delta("Yes.".to_owned()), ChatEvent::Done(end)]);
    }

    #[test]
    fn a_call_is_given_when_its_block_ends() {
        let json = |text: &str| piece(json!({"type": "input_json_delta", "partial_json": text}));
        let events = read(None, &[tool("find"), json(""), json("{\"q\":"), json("1}"), stop(), tool("open"), stop()]);

        let call = |name: &str, arguments: &str| {
            ChatEvent::ToolCall(tool_call(Some("t".to_owned()), name.to_owned(), arguments.to_owned(), 0))
        };
        assert_eq!(events, [call("find", "{\"q\":1}"), call("open", "{}")]);
    }

    #[test]
    fn the_input_of_the_schemas_tool_is_text_in_pieces() {
        let schema = ReplySchema { name: "out".to_owned(), schema: json!({}) };
        let json = |text: &str| piece(json!({"type": "input_json_delta", "partial_json": text}));
        let end = json!({"type": "message_delta", "delta": {"stop_reason": "tool_use"}});
        let frames = [tool("out"), json(""), json("{\"a\":"), json("1}"), stop(), end, json!({"type": "message_stop"})];

        let events = read(Some(schema), &frames);

        let end = ChatEnd { model: "asked-for".to_owned(), finish: FinishReason::Stop, usage: None };
        let delta = |text: &str| ChatEvent::Delta(text.to_owned());
        assert_eq!(events, [delta("{\"a\":"), delta("1}"), ChatEvent::Done(end)]);
    }
}
