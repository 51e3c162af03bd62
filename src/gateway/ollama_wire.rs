//! The JSON of Ollama's `POST /api/chat`.
//!
//! Arguments of tools are objects here and not text, and calls have no ids: results name the tool that they are of.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::contract::{ChatEnd, ChatMessage, ChatRequest, ChatResponse, FinishReason, Role, ToolCall};
use super::wire::{
    Delivery, FunctionTool, TOOL_CALLS_MAX, arguments_object, finish_with, model_name, tool_call, usage,
};

#[derive(Debug, Serialize)]
pub struct RequestBody<'a> {
    /// First in every wire format, see [`super::http_provider::HttpProvider::send`].
    model: &'a str,
    messages: Vec<Message<'a>>,
    stream: bool,
    options: Options,
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<&'a Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<FunctionTool<'a>>,
}

#[derive(Debug, Serialize)]
struct Options {
    num_predict: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f32>,
}

#[derive(Debug, Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<SentCall<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_name: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct SentCall<'a> {
    function: SentFunction<'a>,
}

#[derive(Debug, Serialize)]
struct SentFunction<'a> {
    name: &'a str,
    arguments: Cow<'a, RawValue>,
}

impl<'a> RequestBody<'a> {
    pub fn new(request: &'a ChatRequest, delivery: Delivery) -> Self {
        Self {
            model: &request.model,
            messages: request.messages.iter().map(|message| Message::new(message, &request.messages)).collect(),
            stream: delivery == Delivery::Streamed,
            options: Options { num_predict: request.max_tokens, temperature: request.temperature },
            format: request.schema.as_ref().map(|reply| &reply.schema),
            tools: FunctionTool::all(&request.tools),
        }
    }
}

impl<'a> Message<'a> {
    fn new(message: &'a ChatMessage, conversation: &'a [ChatMessage]) -> Self {
        let calls = message.tool_calls.iter().map(|call| SentCall {
            function: SentFunction { name: &call.name, arguments: arguments_object(&call.arguments) },
        });
        let answered = message.tool_call_id.as_deref().filter(|_| message.role == Role::Tool);
        Self {
            role: message.role.as_str(),
            content: &message.content,
            tool_calls: calls.collect(),
            tool_name: answered.and_then(|id| tool_name(id, conversation)),
        }
    }
}

/// The tool of the call `id`; the last one where ids repeat.
fn tool_name<'a>(id: &str, conversation: &'a [ChatMessage]) -> Option<&'a str> {
    let mut calls = conversation.iter().rev().flat_map(|message| &message.tool_calls);
    calls.find(|call| call.id == id).map(|call| call.name.as_str())
}

/// A whole reply, or a line of a streamed one.
#[derive(Debug, Deserialize)]
pub struct ReplyObject {
    #[serde(default)]
    pub model: Option<String>,
    #[serde(default)]
    pub message: Option<ReplyMessage>,
    #[serde(default)]
    pub done: bool,
    #[serde(default)]
    done_reason: Option<String>,
    #[serde(default)]
    prompt_eval_count: Option<Value>,
    #[serde(default)]
    eval_count: Option<Value>,
    #[serde(default)]
    pub error: Option<Value>,
}

#[derive(Debug, Deserialize)]
pub struct ReplyMessage {
    #[serde(default)]
    pub content: Option<String>,
    #[serde(default)]
    tool_calls: Option<Vec<WireCall>>,
}

#[derive(Debug, Deserialize)]
struct WireCall {
    function: WireFunction,
}

#[derive(Debug, Deserialize)]
struct WireFunction {
    name: String,
    #[serde(default)]
    arguments: Option<Value>,
}

impl ReplyObject {
    /// The reply that this is; what is wrong with it if it is none.
    pub fn into_response(self, asked_for: &str) -> Result<ChatResponse, String> {
        if !self.done {
            return Err("a reply that is not done".to_owned());
        }
        let tool_calls = self.tool_calls(0)?;
        let end = self.end(asked_for, tool_calls.len());
        let message = self.message.ok_or("no message")?;
        Ok(ChatResponse { text: message.content.unwrap_or_default(), tool_calls, end })
    }

    /// The tools asked for, after `before` others.
    pub fn tool_calls(&self, before: usize) -> Result<Vec<ToolCall>, String> {
        let calls = self.message.as_ref().and_then(|message| message.tool_calls.as_deref()).unwrap_or_default();
        if before + calls.len() > TOOL_CALLS_MAX {
            return Err(format!("more than {TOOL_CALLS_MAX} tool calls"));
        }
        let named = |(call, position): (&WireCall, usize)| {
            let arguments = call.function.arguments.as_ref().map_or_else(|| "{}".to_owned(), Value::to_string);
            match call.function.name.is_empty() {
                true => Err("a tool call without a name".to_owned()),
                false => Ok(tool_call(None, call.function.name.clone(), arguments, position)),
            }
        };
        calls.iter().zip(before..).map(named).collect()
    }

    /// How the reply ended, after `calls` calls of tools.
    pub fn end(&self, asked_for: &str, calls: usize) -> ChatEnd {
        let finish = match self.done_reason.as_deref() {
            Some("stop") => FinishReason::Stop,
            Some("length") => FinishReason::Length,
            _ => FinishReason::Other,
        };
        ChatEnd {
            model: model_name(self.model.as_deref(), asked_for),
            finish: finish_with(finish, calls),
            usage: usage(self.prompt_eval_count.as_ref(), None, self.eval_count.as_ref()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::domain::{CallId, Usage};

    use super::super::contract::{ReplySchema, Tool};
    use super::*;

    fn read(body: &Value) -> Result<ChatResponse, String> {
        serde_json::from_str::<ReplyObject>(&body.to_string()).unwrap().into_response("asked-for")
    }

    #[test]
    fn a_request_is_sent_as_documented() {
        let mut asks = ChatMessage::new(Role::Assistant, "");
        let arguments = r#"{"q": 1}"#.to_owned();
        asks.tool_calls.push(ToolCall { id: "c1".to_owned(), name: "find".to_owned(), arguments });
        let result = ChatMessage { tool_call_id: Some("c1".to_owned()), ..ChatMessage::new(Role::Tool, "42") };
        let parameters = json!({"type": "object"});
        let request = ChatRequest {
            call_id: CallId([0; 16]),
            messages: vec![ChatMessage::new(Role::User, "hi"), asks, result],
            model: "m".to_owned(),
            max_tokens: 7,
            temperature: Some(0.5),
            tools: vec![Tool { name: "find".to_owned(), description: "finds".to_owned(), parameters }],
            schema: Some(ReplySchema { name: "out".to_owned(), schema: json!({"type": "array"}) }),
        };

        let sent = serde_json::to_string(&RequestBody::new(&request, Delivery::Streamed)).unwrap();

        assert_eq!(
            serde_json::from_str::<Value>(&sent).unwrap(),
            json!({"model": "m", "stream": true, "options": {"num_predict": 7, "temperature": 0.5},
                "format": {"type": "array"},
                "messages": [
                    {"role": "user", "content": "hi"},
                    {"role": "assistant", "content": "",
                        "tool_calls": [{"function": {"name": "find", "arguments": {"q": 1}}}]},
                    {"role": "tool", "content": "42", "tool_name": "find"},
                ],
                "tools": [{"type": "function",
                    "function": {"name": "find", "description": "finds", "parameters": {"type": "object"}}}]})
        );
    }

    #[test]
    fn a_reply_says_why_it_ended_and_what_it_took() {
        let reply = read(&json!({"model": "m:7b", "message": {"role": "assistant", "content": "Yes."}, "done": true,
            "done_reason": "length", "prompt_eval_count": 9, "eval_count": 2}));
        let silent = read(&json!({"message": {"content": null}, "done": true, "done_reason": "load"}));

        let reply = reply.unwrap();
        let usage = Usage { input_tokens: 9, cached_input_tokens: 0, output_tokens: 2 };
        assert_eq!(
            (reply.text.as_str(), reply.end.finish, reply.end.usage),
            ("Yes.", FinishReason::Length, Some(usage))
        );
        assert_eq!(reply.end.model, "m:7b");
        let silent = silent.unwrap();
        assert_eq!((silent.text.as_str(), silent.end.finish, silent.end.usage), ("", FinishReason::Other, None));
        assert!(read(&json!({"message": {"content": "half"}, "done": false})).is_err());
        assert!(read(&json!({"done": true})).is_err());
    }

    #[test]
    fn calls_get_ids_and_their_arguments_become_text() {
        let call = json!({"function": {"name": "find", "arguments": {"q": 1}}});
        let reply =
            read(&json!({"done": true, "done_reason": "stop", "message": {"tool_calls": [call, call]}})).unwrap();

        let expected = |id: &str| tool_call(Some(id.to_owned()), "find".to_owned(), r#"{"q":1}"#.to_owned(), 0);
        assert_eq!(reply.tool_calls, [expected("call_0"), expected("call_1")]);
        assert_eq!(reply.end.finish, FinishReason::ToolCalls);
    }
}
