//! The JSON of `POST /messages` as Anthropic documents it (version 2023-06-01).
//!
//! There is no field for a schema of the reply: the model is made to use a tool whose input has that schema, and the
//! input is the reply's text. Other text beside it is left out, since the caller expects one JSON value.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::domain::Usage;

use super::contract::{ChatEnd, ChatMessage, ChatRequest, ChatResponse, FinishReason, Role};
use super::wire::{Delivery, TOOL_CALLS_MAX, arguments_object, finish_with, model_name, tool_call, usage};

/// Highest temperature that the API takes.
const TEMPERATURE_MAX: f32 = 1.0;

/// What the model is told about the tool that stands for a schema.
const SCHEMA_TOOL: &str = "Gives the reply. Its input is the whole reply.";

#[derive(Debug, Serialize)]
pub struct RequestBody<'a> {
    /// First in every wire format, see [`super::http_provider::HttpProvider::send`].
    model: &'a str,
    max_tokens: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    system: Option<String>,
    messages: Vec<Turn<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<SentTool<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<ToolChoice<'a>>,
    stream: bool,
}

#[derive(Debug, Serialize)]
struct Turn<'a> {
    role: &'static str,
    content: Vec<SentBlock<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum SentBlock<'a> {
    Text { text: &'a str },
    ToolUse { id: &'a str, name: &'a str, input: Cow<'a, RawValue> },
    ToolResult { tool_use_id: &'a str, content: &'a str },
}

#[derive(Debug, Serialize)]
struct SentTool<'a> {
    name: &'a str,
    description: &'a str,
    input_schema: &'a Value,
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ToolChoice<'a> {
    Any,
    Tool { name: &'a str, disable_parallel_tool_use: bool },
}

impl<'a> RequestBody<'a> {
    pub fn new(request: &'a ChatRequest, delivery: Delivery) -> Self {
        let tools = request.tools.iter().map(|tool| SentTool {
            name: &tool.name,
            description: &tool.description,
            input_schema: &tool.parameters,
        });
        let schema_tool = request.schema.as_ref().map(|reply| SentTool {
            name: &reply.name,
            description: SCHEMA_TOOL,
            input_schema: &reply.schema,
        });
        // With other tools at hand the model must use one of them or give its reply; without, it must give its reply.
        let tool_choice = request.schema.as_ref().map(|reply| match request.tools.is_empty() {
            true => ToolChoice::Tool { name: &reply.name, disable_parallel_tool_use: true },
            false => ToolChoice::Any,
        });
        Self {
            model: &request.model,
            max_tokens: request.max_tokens,
            system: system(&request.messages),
            messages: turns(&request.messages),
            temperature: request.temperature.map(|temperature| temperature.min(TEMPERATURE_MAX)),
            tools: tools.chain(schema_tool).collect(),
            tool_choice,
            stream: delivery == Delivery::Streamed,
        }
    }
}

/// The system's texts, which stand apart from the conversation.
fn system(messages: &[ChatMessage]) -> Option<String> {
    let texts = messages.iter().filter(|message| message.role == Role::System && !message.content.is_empty());
    let texts: Vec<&str> = texts.map(|message| message.content.as_str()).collect();
    (!texts.is_empty()).then(|| texts.join("\n\n"))
}

/// The conversation. User and assistant must alternate, so neighbours of one role become one turn; results of tools
/// are the user's. Empty texts, which the API refuses, are left out.
fn turns(messages: &[ChatMessage]) -> Vec<Turn<'_>> {
    let mut turns: Vec<Turn<'_>> = Vec::new();
    for message in messages.iter().filter(|message| message.role != Role::System) {
        let role = if message.role == Role::Assistant { "assistant" } else { "user" };
        let blocks = blocks(message);
        match turns.last_mut().filter(|turn| turn.role == role) {
            Some(turn) => turn.content.extend(blocks),
            None if blocks.is_empty() => {}
            None => turns.push(Turn { role, content: blocks }),
        }
    }
    turns
}

fn blocks(message: &ChatMessage) -> Vec<SentBlock<'_>> {
    if let (Role::Tool, Some(id)) = (message.role, &message.tool_call_id) {
        return vec![SentBlock::ToolResult { tool_use_id: id, content: &message.content }];
    }
    let text = Some(message.content.as_str()).filter(|text| !text.is_empty()).map(|text| SentBlock::Text { text });
    let calls = message.tool_calls.iter().map(|call| SentBlock::ToolUse {
        id: &call.id,
        name: &call.name,
        input: arguments_object(&call.arguments),
    });
    text.into_iter().chain(calls).collect()
}

#[derive(Debug, Deserialize)]
pub struct ResponseBody {
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    content: Option<Vec<Block>>,
    #[serde(default)]
    stop_reason: Option<String>,
    #[serde(default)]
    usage: Option<WireUsage>,
    #[serde(default)]
    pub error: Option<Value>,
}

/// A block of a reply; what is neither text nor a tool's use (thinking) is ignored.
#[derive(Debug, Deserialize)]
pub struct Block {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub text: Option<String>,
    #[serde(default)]
    pub id: Option<String>,
    #[serde(default)]
    pub name: Option<String>,
    /// As the model wrote it: parsed and written again it would no longer be what a stream says.
    #[serde(default)]
    pub input: Option<Box<RawValue>>,
}

impl ResponseBody {
    /// The reply that this is; what is wrong with it if it is none.
    pub fn into_response(self, request: &ChatRequest) -> Result<ChatResponse, String> {
        let schema = request.schema.as_ref().map(|reply| reply.name.as_str());
        let (mut text, mut tool_calls) = (String::new(), Vec::new());
        for block in self.content.ok_or("no content")? {
            match block.kind.as_str() {
                "text" if schema.is_none() => text.push_str(&block.text.unwrap_or_default()),
                "tool_use" => {
                    let name = block.name.filter(|name| !name.is_empty()).ok_or("a tool call without a name")?;
                    let input = block.input.map_or_else(|| "{}".to_owned(), |input| input.get().to_owned());
                    match schema == Some(name.as_str()) {
                        true => text.push_str(&input),
                        false => tool_calls.push(tool_call(block.id, name, input, tool_calls.len())),
                    }
                }
                _ => {}
            }
            if tool_calls.len() > TOOL_CALLS_MAX {
                return Err(format!("more than {TOOL_CALLS_MAX} tool calls"));
            }
        }
        let end = ChatEnd {
            model: model_name(self.model.as_deref(), &request.model),
            finish: finish_reason(self.stop_reason.as_deref(), tool_calls.len()),
            usage: self.usage.and_then(|usage| usage.tokens()),
        };
        Ok(ChatResponse { text, tool_calls, end })
    }
}

/// The documented reasons. `tool_use` without a call that is given on was the tool that stands for a schema.
pub fn finish_reason(word: Option<&str>, calls: usize) -> FinishReason {
    let finish = match word {
        Some("end_turn" | "stop_sequence" | "tool_use") => FinishReason::Stop,
        Some("max_tokens" | "model_context_window_exceeded") => FinishReason::Length,
        Some("refusal") => FinishReason::ContentFilter,
        _ => FinishReason::Other,
    };
    finish_with(finish, calls)
}

/// Counts of tokens, not yet believed. A later one of a stream says only what has changed.
#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
pub struct WireUsage(BTreeMap<String, Value>);

impl WireUsage {
    /// Takes over what `later` says.
    pub fn update(&mut self, later: Self) {
        self.0.extend(later.0.into_iter().filter(|(_, count)| !count.is_null()));
    }

    /// Input is counted in three parts: new, written to the server's cache, and read from it.
    pub fn tokens(&self) -> Option<Usage> {
        let part = |name: &str| self.0.get(name).filter(|count| !count.is_null());
        let cached = part("cache_read_input_tokens");
        let new = usage(part("input_tokens"), None, part("output_tokens"))?;
        let more = |count: Option<&Value>| count.map_or(Some(0), |count| super::wire::tokens(Some(count)));
        let (read, written) = (more(cached)?, more(part("cache_creation_input_tokens"))?);
        let input_tokens = new.input_tokens + read + written;
        usage(Some(&Value::from(input_tokens)), cached, part("output_tokens"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::contract::{ReplySchema, Tool, ToolCall};
    use super::*;
    use crate::domain::CallId;

    fn request(messages: Vec<ChatMessage>) -> ChatRequest {
        ChatRequest {
            call_id: CallId([0; 16]),
            messages,
            model: "m".to_owned(),
            max_tokens: 7,
            temperature: Some(1.5),
            tools: Vec::new(),
            schema: None,
        }
    }

    fn sent(request: &ChatRequest) -> Value {
        serde_json::from_str(&serde_json::to_string(&RequestBody::new(request, Delivery::Whole)).unwrap()).unwrap()
    }

    fn schema() -> ReplySchema {
        ReplySchema { name: "out".to_owned(), schema: json!({"type": "object"}) }
    }

    fn tool() -> Tool {
        Tool { name: "find".to_owned(), description: "finds".to_owned(), parameters: json!({"type": "object"}) }
    }

    #[test]
    fn the_systems_text_stands_apart_and_neighbours_become_one_turn() {
        let turn = ChatMessage::new;
        let sent = sent(&request(vec![
            turn(Role::System, "be brief"),
            turn(Role::User, "one"),
            turn(Role::User, "two"),
            turn(Role::Assistant, ""),
            turn(Role::System, "be kind"),
            turn(Role::User, "three"),
            turn(Role::Assistant, "four"),
        ]));

        let text = |text: &str| json!({"type": "text", "text": text});
        assert_eq!(
            sent,
            json!({"model": "m", "max_tokens": 7, "system": "be brief\n\nbe kind", "temperature": 1.0, "stream": false,
            "messages": [
                {"role": "user", "content": [text("one"), text("two"), text("three")]},
                {"role": "assistant", "content": [text("four")]},
            ]})
        );
    }

    #[test]
    fn tools_are_sent_as_blocks_and_their_results_as_the_users() {
        let mut asks = ChatMessage::new(Role::Assistant, "let me see");
        for id in ["c1", "c2"] {
            let arguments = r#"{"q":  1}"#.to_owned();
            asks.tool_calls.push(ToolCall { id: id.to_owned(), name: "find".to_owned(), arguments });
        }
        let result = |id: &str| ChatMessage { tool_call_id: Some(id.to_owned()), ..ChatMessage::new(Role::Tool, "42") };
        let request = ChatRequest { tools: vec![tool()], ..request(vec![asks, result("c1"), result("c2")]) };

        let sent = sent(&request);

        let used = |id: &str| json!({"type": "tool_use", "id": id, "name": "find", "input": {"q": 1}});
        let result = |id: &str| json!({"type": "tool_result", "tool_use_id": id, "content": "42"});
        assert_eq!(
            sent["messages"],
            json!([
                {"role": "assistant", "content": [{"type": "text", "text": "let me see"}, used("c1"), used("c2")]},
                {"role": "user", "content": [result("c1"), result("c2")]},
            ])
        );
        assert_eq!(
            sent["tools"],
            json!([{"name": "find", "description": "finds", "input_schema": {"type": "object"}}])
        );
        assert_eq!(sent.get("tool_choice"), None);
    }

    #[test]
    fn a_schema_is_a_tool_that_must_be_used() {
        let alone = sent(&ChatRequest { schema: Some(schema()), ..request(Vec::new()) });
        let beside = sent(&ChatRequest { schema: Some(schema()), tools: vec![tool()], ..request(Vec::new()) });

        assert_eq!(alone["tool_choice"], json!({"type": "tool", "name": "out", "disable_parallel_tool_use": true}));
        assert_eq!(alone["tools"][0]["input_schema"], json!({"type": "object"}));
        assert_eq!(beside["tool_choice"], json!({"type": "any"}));
        assert_eq!(beside["tools"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn the_input_of_the_schemas_tool_is_the_text_as_it_was_written() {
        let request = ChatRequest { schema: Some(schema()), ..request(Vec::new()) };
        let body = r#"{"model": "m-2", "stop_reason": "tool_use", "content": [{"type": "text", "text": "Here:"},
            {"type": "tool_use", "id": "t", "name": "out", "input": {"b":  1, "a": 2}}]}"#;

        let reply = serde_json::from_str::<ResponseBody>(body).unwrap().into_response(&request).unwrap();

        assert_eq!(reply.text, r#"{"b":  1, "a": 2}"#);
        assert!(reply.tool_calls.is_empty());
        assert_eq!((reply.end.finish, reply.end.model.as_str()), (FinishReason::Stop, "m-2"));
    }

    #[test]
    fn every_stop_reason_has_a_meaning() {
        let finish = |word| finish_reason(Some(word), 0);

        assert_eq!(finish("end_turn"), FinishReason::Stop);
        assert_eq!(finish("stop_sequence"), FinishReason::Stop);
        assert_eq!(finish("max_tokens"), FinishReason::Length);
        assert_eq!(finish("refusal"), FinishReason::ContentFilter);
        assert_eq!(finish("pause_turn"), FinishReason::Other);
        assert_eq!(finish_reason(Some("tool_use"), 1), FinishReason::ToolCalls);
        assert_eq!(finish_reason(Some("max_tokens"), 1), FinishReason::Length);
    }

    #[test]
    fn input_is_the_sum_of_its_three_parts() {
        let read = |usage: Value| serde_json::from_value::<WireUsage>(usage).unwrap().tokens();
        let three = json!({"input_tokens": 1, "cache_read_input_tokens": 10, "cache_creation_input_tokens": 100,
            "output_tokens": 5, "service_tier": "standard"});

        assert_eq!(read(three), Some(Usage { input_tokens: 111, cached_input_tokens: 10, output_tokens: 5 }));
        assert_eq!(
            read(json!({"input_tokens": 1, "cache_read_input_tokens": null, "output_tokens": 5})),
            Some(Usage { input_tokens: 1, cached_input_tokens: 0, output_tokens: 5 })
        );
        assert_eq!(read(json!({"input_tokens": 1})), None);
        assert_eq!(read(json!({"input_tokens": 1, "output_tokens": 5, "cache_creation_input_tokens": -1})), None);
    }
}
