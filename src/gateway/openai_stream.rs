//! A streamed chat completion as events.

use std::collections::VecDeque;

use crate::domain::Usage;

use super::contract::{ChatEnd, ChatEvent, FinishReason, ToolCall};
use super::openai_wire::{StreamChunk, ToolCallPiece, finish_reason};
use super::reply_stream::{Assembler, Fault};
use super::wire::{TOOL_CALLS_MAX, finish_with, json_fault, model_name, tool_call};

/// Puts the chunks of one reply together.
pub struct OpenAiAssembler {
    model: String,
    finish: Option<FinishReason>,
    /// Some of the text says why the model does not do as it was asked.
    refused: bool,
    usage: Option<Usage>,
    calls: Vec<PartialCall>,
    /// How many calls have been given.
    given: usize,
}

/// A call of a tool of which more may come.
struct PartialCall {
    index: Option<u64>,
    call: ToolCall,
}

impl OpenAiAssembler {
    /// An assembler for a reply of `model`, as long as the server names no other.
    pub fn new(model: &str) -> Self {
        Self { model: model_name(None, model), finish: None, refused: false, usage: None, calls: Vec::new(), given: 0 }
    }

    fn take_chunk(&mut self, chunk: StreamChunk, events: &mut VecDeque<ChatEvent>) -> Result<(), Fault> {
        if let Some(model) = chunk.model.filter(|model| !model.is_empty()) {
            self.model = model_name(Some(&model), "");
        }
        if let Some(usage) = chunk.usage {
            self.usage = usage.tokens();
        }
        let Some(choice) = chunk.choices.into_iter().next() else { return Ok(()) };
        let delta = choice.delta.unwrap_or_default();
        self.refused |= delta.refuses();
        for piece in delta.tool_calls.into_iter().flatten() {
            self.take_call(piece)?;
        }
        events.extend(
            [delta.content, delta.refusal].into_iter().flatten().filter(|t| !t.is_empty()).map(ChatEvent::Delta),
        );
        if let Some(reason) = &choice.finish_reason {
            self.finish = Some(finish_reason(Some(reason)));
            self.give_calls(events)?;
        }
        Ok(())
    }

    /// Pieces of a call share its index. Servers without indexes send each call whole, with an id of its own.
    fn take_call(&mut self, piece: ToolCallPiece) -> Result<(), Fault> {
        let is_new_id = |known: &str| piece.id.as_deref().is_some_and(|id| !id.is_empty() && id != known);
        let known = match piece.index {
            Some(_) => self.calls.iter().rposition(|partial| partial.index == piece.index),
            None => self.calls.len().checked_sub(1).filter(|last| !is_new_id(&self.calls[*last].call.id)),
        };
        let function = piece.function.unwrap_or_default();
        let arguments = function.arguments.unwrap_or_default();
        match known {
            Some(at) => {
                let call = &mut self.calls[at].call;
                call.arguments.push_str(&arguments);
                if call.name.is_empty() {
                    call.name = function.name.unwrap_or_default();
                }
            }
            None if self.calls.len() >= TOOL_CALLS_MAX => {
                return Err(Fault::Malformed(format!("more than {TOOL_CALLS_MAX} tool calls")));
            }
            None => {
                let call = tool_call(piece.id, function.name.unwrap_or_default(), arguments, self.calls.len());
                self.calls.push(PartialCall { index: piece.index, call });
            }
        }
        Ok(())
    }

    fn give_calls(&mut self, events: &mut VecDeque<ChatEvent>) -> Result<(), Fault> {
        for partial in &self.calls[self.given..] {
            if partial.call.name.is_empty() {
                return Err(Fault::Malformed("a tool call without a name".to_owned()));
            }
            events.push_back(ChatEvent::ToolCall(partial.call.clone()));
        }
        self.given = self.calls.len();
        Ok(())
    }

    fn end(&self) -> ChatEvent {
        // A refusal in words ends with `stop` and is a refusal nevertheless.
        let said = if self.refused { FinishReason::ContentFilter } else { self.finish.unwrap_or(FinishReason::Other) };
        let finish = finish_with(said, self.calls.len());
        ChatEvent::Done(ChatEnd { model: self.model.clone(), finish, usage: self.usage })
    }
}

impl Assembler for OpenAiAssembler {
    fn take(&mut self, frame: &str, events: &mut VecDeque<ChatEvent>) -> Result<(), Fault> {
        if frame == "[DONE]" {
            self.give_calls(events)?;
            events.push_back(self.end());
            return Ok(());
        }
        let chunk: StreamChunk = serde_json::from_str(frame).map_err(|error| Fault::Malformed(json_fault(&error)))?;
        match chunk.error {
            Some(error) => Err(Fault::Said(error)),
            None => self.take_chunk(chunk, events),
        }
    }

    /// Some servers close after the finish reason without `[DONE]`; before it the reply is cut.
    fn close(&mut self, events: &mut VecDeque<ChatEvent>) {
        if self.finish.is_some() && self.given == self.calls.len() {
            events.push_back(self.end());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn calls(deltas: &[serde_json::Value]) -> Result<Vec<ToolCall>, Fault> {
        let (mut assembler, mut events) = (OpenAiAssembler::new("m"), VecDeque::new());
        for delta in deltas {
            let chunk = json!({"choices": [{"delta": {"tool_calls": delta}}]});
            assembler.take(&chunk.to_string(), &mut events)?;
        }
        assert!(events.is_empty(), "a call is given before it is whole: {events:?}");
        assembler.take("[DONE]", &mut events)?;
        let only_calls = |event| match event {
            ChatEvent::ToolCall(call) => Some(call),
            _ => None,
        };
        Ok(events.into_iter().filter_map(only_calls).collect())
    }

    fn call(id: &str, name: &str, arguments: &str) -> ToolCall {
        ToolCall { id: id.to_owned(), name: name.to_owned(), arguments: arguments.to_owned() }
    }

    #[test]
    fn pieces_of_tool_calls_are_put_together_by_index() {
        let found = calls(&[
            json!([{"index": 0, "id": "a", "function": {"name": "find", "arguments": ""}}]),
            json!([{"index": 1, "id": "b", "function": {"name": "open", "arguments": "{"}}]),
            json!([{"index": 0, "function": {"arguments": "{\"q\":"}}, {"index": 1, "function": {"arguments": "}"}}]),
            json!([{"index": 0, "id": null, "function": {"name": null, "arguments": "1}"}}]),
        ]);

        assert_eq!(found.unwrap(), [call("a", "find", "{\"q\":1}"), call("b", "open", "{}")]);
    }

    #[test]
    fn tool_calls_without_an_index_are_told_apart_by_id() {
        let found = calls(&[
            json!([{"id": "a", "function": {"name": "find", "arguments": "{}"}}]),
            json!([{"id": "b", "function": {"name": "find", "arguments": "{"}}]),
            json!([{"function": {"arguments": "}"}}]),
        ]);

        assert_eq!(found.unwrap(), [call("a", "find", "{}"), call("b", "find", "{}")]);
    }

    #[test]
    fn tool_calls_without_a_name_or_without_end_are_malformed() {
        assert!(matches!(calls(&[json!([{"index": 0, "id": "a"}])]), Err(Fault::Malformed(_))));
        let many: Vec<_> =
            (0..=TOOL_CALLS_MAX).map(|index| json!([{"index": index, "function": {"name": "f"}}])).collect();
        assert!(matches!(calls(&many), Err(Fault::Malformed(_))));
        assert_eq!(calls(&many[1..]).unwrap().len(), TOOL_CALLS_MAX);
    }
}
