//! The JSON of `POST /chat/completions` as OpenAI documents it and compatible servers speak it.
//!
//! Only what is needed is read; everything else a server sends is ignored.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::domain::Usage;

use super::contract::{ChatEnd, ChatMessage, ChatRequest, ChatResponse, FinishReason, ReplySchema, Role};
use super::provider_settings::TokenLimitField;
use super::wire::{Delivery, FunctionTool, TOOL_CALLS_MAX, finish_with, model_name, tool_call, usage};

#[derive(Debug, Serialize)]
pub struct RequestBody<'a> {
    /// First in every wire format, see [`super::http_provider::HttpProvider::send`].
    model: &'a str,
    messages: Vec<Message<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<FunctionTool<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_format: Option<ResponseFormat<'a>>,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
}

#[derive(Debug, Serialize)]
struct Message<'a> {
    role: &'static str,
    /// `null` where an assistant only asks for tools.
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<SentCall<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct SentCall<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    function: SentFunction<'a>,
}

#[derive(Debug, Serialize)]
struct SentFunction<'a> {
    name: &'a str,
    arguments: &'a str,
}

#[derive(Debug, Serialize)]
struct ResponseFormat<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    json_schema: JsonSchema<'a>,
}

#[derive(Debug, Serialize)]
struct JsonSchema<'a> {
    name: &'a str,
    schema: &'a Value,
    strict: bool,
}

#[derive(Debug, Serialize)]
struct StreamOptions {
    include_usage: bool,
}

impl<'a> RequestBody<'a> {
    pub fn new(request: &'a ChatRequest, limit: TokenLimitField, delivery: Delivery) -> Self {
        let streamed = delivery == Delivery::Streamed;
        let max_tokens = Some(request.max_tokens);
        Self {
            model: &request.model,
            messages: request.messages.iter().map(Message::new).collect(),
            max_tokens: max_tokens.filter(|_| limit == TokenLimitField::MaxTokens),
            max_completion_tokens: max_tokens.filter(|_| limit == TokenLimitField::MaxCompletionTokens),
            temperature: request.temperature,
            tools: FunctionTool::all(&request.tools),
            response_format: request.schema.as_ref().map(ResponseFormat::new),
            stream: streamed,
            // Without this the last chunk carries no token counts, and a call could not be accounted for.
            stream_options: streamed.then_some(StreamOptions { include_usage: true }),
        }
    }
}

impl<'a> Message<'a> {
    fn new(message: &'a ChatMessage) -> Self {
        let calls = message.tool_calls.iter().map(|call| SentCall {
            id: &call.id,
            kind: "function",
            function: SentFunction { name: &call.name, arguments: &call.arguments },
        });
        let is_silent = message.content.is_empty() && !message.tool_calls.is_empty();
        Self {
            role: message.role.as_str(),
            content: (!is_silent).then_some(&message.content),
            tool_calls: calls.collect(),
            tool_call_id: message.tool_call_id.as_deref().filter(|_| message.role == Role::Tool),
        }
    }
}

impl<'a> ResponseFormat<'a> {
    fn new(reply: &'a ReplySchema) -> Self {
        let json_schema = JsonSchema { name: &reply.name, schema: &reply.schema, strict: true };
        Self { kind: "json_schema", json_schema }
    }
}

#[derive(Debug, Deserialize)]
pub struct ResponseBody {
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<WireUsage>,
    /// Routers report a failure of the server behind them with status 200.
    #[serde(default)]
    pub error: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    message: ReplyMessage,
    #[serde(default)]
    finish_reason: Option<String>,
}

/// A reply's message, or the piece of one that a chunk carries.
#[derive(Debug, Default, Deserialize)]
pub struct ReplyMessage {
    #[serde(default)]
    pub content: Option<String>,
    /// Why the model does not follow a schema, in its own words and instead of a content.
    #[serde(default)]
    pub refusal: Option<String>,
    #[serde(default)]
    pub tool_calls: Option<Vec<ToolCallPiece>>,
}

impl ReplyMessage {
    pub fn refuses(&self) -> bool {
        self.refusal.as_ref().is_some_and(|words| !words.is_empty())
    }
}

/// A call of a tool, or the piece of one that a chunk carries.
#[derive(Debug, Deserialize)]
pub struct ToolCallPiece {
    #[serde(default)]
    pub index: Option<u64>,
    #[serde(default)]
    pub id: Option<String>,
    #[serde(default)]
    pub function: Option<FunctionPiece>,
}

#[derive(Debug, Default, Deserialize)]
pub struct FunctionPiece {
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub arguments: Option<String>,
}

impl ResponseBody {
    /// The reply that this is; what is wrong with it if it is none.
    pub fn into_response(self, asked_for: &str) -> Result<ChatResponse, String> {
        let choice = self.choices.into_iter().next().ok_or("no choice")?;
        let finish = match choice.message.refuses() {
            true => FinishReason::ContentFilter,
            false => finish_reason(choice.finish_reason.as_deref()),
        };
        let mut tool_calls = Vec::new();
        for piece in choice.message.tool_calls.into_iter().flatten().take(TOOL_CALLS_MAX + 1) {
            let function = piece.function.unwrap_or_default();
            let name = function.name.filter(|name| !name.is_empty()).ok_or("a tool call without a name")?;
            tool_calls.push(tool_call(piece.id, name, function.arguments.unwrap_or_default(), tool_calls.len()));
        }
        if tool_calls.len() > TOOL_CALLS_MAX {
            return Err(format!("more than {TOOL_CALLS_MAX} tool calls"));
        }
        let end = ChatEnd {
            model: model_name(self.model.as_deref(), asked_for),
            finish: finish_with(finish, tool_calls.len()),
            usage: self.usage.and_then(|usage| usage.tokens()),
        };
        // Content and refusal are given one after the other, as in a stream.
        let text = choice.message.content.unwrap_or_default() + &choice.message.refusal.unwrap_or_default();
        Ok(ChatResponse { text, tool_calls, end })
    }
}

/// One `data` of a stream. `choices` is empty in the chunk that carries the usage.
#[derive(Debug, Deserialize)]
pub struct StreamChunk {
    #[serde(default)]
    pub model: Option<String>,
    #[serde(default)]
    pub choices: Vec<StreamChoice>,
    #[serde(default)]
    pub usage: Option<WireUsage>,
    /// Some servers report a failure inside a stream that began with status 200.
    #[serde(default)]
    pub error: Option<Value>,
}

#[derive(Debug, Deserialize)]
pub struct StreamChoice {
    #[serde(default)]
    pub delta: Option<ReplyMessage>,
    #[serde(default)]
    pub finish_reason: Option<String>,
}

/// Counts of tokens, not yet believed.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub struct WireUsage(Value);

impl WireUsage {
    pub fn tokens(&self) -> Option<Usage> {
        let cached = self.0.get("prompt_tokens_details").and_then(|details| details.get("cached_tokens"));
        usage(self.0.get("prompt_tokens"), cached, self.0.get("completion_tokens"))
    }
}

/// The documented reasons; servers invent others.
pub fn finish_reason(word: Option<&str>) -> FinishReason {
    match word {
        Some("stop") => FinishReason::Stop,
        Some("length") => FinishReason::Length,
        Some("content_filter") => FinishReason::ContentFilter,
        Some("tool_calls" | "function_call") => FinishReason::ToolCalls,
        _ => FinishReason::Other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::contract::{Tool, ToolCall};
    use super::*;
    use crate::domain::CallId;

    fn request() -> ChatRequest {
        ChatRequest {
            call_id: CallId([0; 16]),
            messages: vec![ChatMessage::new(Role::User, "hi")],
            model: "m".to_owned(),
            max_tokens: 7,
            temperature: None,
            tools: Vec::new(),
            schema: None,
        }
    }

    fn sent(request: &ChatRequest, limit: TokenLimitField, delivery: Delivery) -> Value {
        serde_json::to_value(RequestBody::new(request, limit, delivery)).unwrap()
    }

    fn read(body: Value) -> Result<ChatResponse, String> {
        serde_json::from_value::<ResponseBody>(body).unwrap().into_response("asked-for")
    }

    #[test]
    fn a_streamed_request_asks_for_usage_and_a_whole_one_does_not() {
        assert_eq!(
            sent(&request(), TokenLimitField::MaxTokens, Delivery::Streamed),
            json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 7,
                "stream": true, "stream_options": {"include_usage": true}})
        );
        assert_eq!(
            sent(&request(), TokenLimitField::MaxCompletionTokens, Delivery::Whole),
            json!({"model": "m", "messages": [{"role": "user", "content": "hi"}],
                "max_completion_tokens": 7, "stream": false})
        );
    }

    #[test]
    fn tools_their_results_and_a_schema_are_sent_as_documented() {
        let call = ToolCall { id: "c1".to_owned(), name: "find".to_owned(), arguments: "{}".to_owned() };
        let mut asks = ChatMessage::new(Role::Assistant, "");
        asks.tool_calls.push(call);
        let mut result = ChatMessage::new(Role::Tool, "42");
        result.tool_call_id = Some("c1".to_owned());
        let tool =
            Tool { name: "find".to_owned(), description: "finds".to_owned(), parameters: json!({"type": "object"}) };
        let schema = ReplySchema { name: "out".to_owned(), schema: json!({"type": "object"}) };
        let request =
            ChatRequest { messages: vec![asks, result], tools: vec![tool], schema: Some(schema), ..request() };

        let sent = sent(&request, TokenLimitField::MaxTokens, Delivery::Whole);

        assert_eq!(
            sent["messages"],
            json!([
                {"role": "assistant", "content": null,
                    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "find", "arguments": "{}"}}]},
                {"role": "tool", "content": "42", "tool_call_id": "c1"}
            ])
        );
        assert_eq!(
            sent["tools"],
            json!([{"type": "function",
                "function": {"name": "find", "description": "finds", "parameters": {"type": "object"}}}])
        );
        assert_eq!(
            sent["response_format"],
            json!({"type": "json_schema", "json_schema": {"name": "out", "schema": {"type": "object"}, "strict": true}})
        );
    }

    #[test]
    fn a_reply_may_have_no_content() {
        let silent = read(json!({"choices": [{"message": {"content": null}, "finish_reason": "stop"}]})).unwrap();
        let asks = read(json!({"choices": [{"finish_reason": "stop", "message": {"content": null,
            "tool_calls": [{"id": null, "function": {"name": "find", "arguments": "{\"q\": 1}"}}]}}]}));

        assert_eq!((silent.text.as_str(), silent.end.finish, silent.end.usage), ("", FinishReason::Stop, None));
        assert_eq!(silent.end.model, "asked-for");
        let asks = asks.unwrap();
        assert_eq!(asks.tool_calls[0].arguments, "{\"q\": 1}");
        assert_eq!((asks.tool_calls[0].id.as_str(), asks.end.finish), ("call_0", FinishReason::ToolCalls));
    }

    #[test]
    fn a_refusal_in_words_counts_as_filtered() {
        let reply =
            json!({"choices": [{"message": {"content": null, "refusal": "I won't."}, "finish_reason": "stop"}]});
        let reply = read(reply).unwrap();

        assert_eq!((reply.text.as_str(), reply.end.finish), ("I won't.", FinishReason::ContentFilter));
    }

    #[test]
    fn cached_tokens_are_a_part_of_the_input() {
        let reply = read(json!({"model": "m-2", "choices": [{"message": {"content": "x"}}], "usage": {
            "prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}}));

        let end = reply.unwrap().end;
        assert_eq!(end.usage, Some(Usage { input_tokens: 9, cached_input_tokens: 4, output_tokens: 2 }));
        assert_eq!(end.model, "m-2");
    }
}
