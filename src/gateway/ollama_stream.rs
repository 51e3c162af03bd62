//! A streamed reply of Ollama's API as events: an object a line, the last one with `done`.

use std::collections::VecDeque;

use super::contract::ChatEvent;
use super::ollama_wire::ReplyObject;
use super::reply_stream::{Assembler, Fault};
use super::wire::{json_fault, model_name};

/// Puts the lines of one reply together.
pub struct OllamaAssembler {
    model: String,
    /// How many calls have been given.
    calls: usize,
}

impl OllamaAssembler {
    /// An assembler for a reply of `model`, as long as the server names no other.
    pub fn new(model: &str) -> Self {
        Self { model: model_name(None, model), calls: 0 }
    }
}

impl Assembler for OllamaAssembler {
    fn take(&mut self, frame: &str, events: &mut VecDeque<ChatEvent>) -> Result<(), Fault> {
        let object: ReplyObject = serde_json::from_str(frame).map_err(|error| Fault::Malformed(json_fault(&error)))?;
        if let Some(error) = object.error {
            return Err(Fault::Said(error));
        }
        self.model = model_name(object.model.as_deref(), &self.model);
        let message = object.message.as_ref();
        let text = message.and_then(|message| message.content.clone()).filter(|text| !text.is_empty());
        events.extend(text.map(ChatEvent::Delta));
        let calls = object.tool_calls(self.calls).map_err(Fault::Malformed)?;
        self.calls += calls.len();
        events.extend(calls.into_iter().map(ChatEvent::ToolCall));
        if object.done {
            events.push_back(ChatEvent::Done(object.end(&self.model, self.calls)));
        }
        Ok(())
    }

    /// Every reply ends with a line that says so: without it the reply is cut.
    fn close(&mut self, _events: &mut VecDeque<ChatEvent>) {}
}
