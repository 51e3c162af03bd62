//! What the wire formats have in common: token counts, names, arguments of tools, and JSON that may be wrong.
//!
//! What a server sends is never believed: a count that cannot be is no count, a name is one short line, and an error
//! about JSON says where it is wrong but not what stood there.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::domain::Usage;

use super::contract::{FinishReason, Tool, ToolCall};

/// Longest name or message of a server that is kept, in characters.
const LINE_MAX_CHARS: usize = 200;

/// Most tool calls in one reply: what OpenAI takes at most, and a bound for the search by index.
pub const TOOL_CALLS_MAX: usize = 128;

/// Whether the reply comes whole or in pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    Whole,
    Streamed,
}

/// A tool as OpenAI and Ollama write it.
#[derive(Debug, Serialize)]
pub struct FunctionTool<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    function: Function<'a>,
}

#[derive(Debug, Serialize)]
struct Function<'a> {
    name: &'a str,
    description: &'a str,
    parameters: &'a Value,
}

impl<'a> FunctionTool<'a> {
    pub fn all(tools: &'a [Tool]) -> Vec<Self> {
        let function = |tool: &'a Tool| Function {
            name: &tool.name,
            description: &tool.description,
            parameters: &tool.parameters,
        };
        tools.iter().map(|tool| Self { kind: "function", function: function(tool) }).collect()
    }
}

/// Tokens as a server counts them; `None` where one of the counts is absent or cannot be.
///
/// `cached` is a part of `input` and 0 where it is absent.
pub fn usage(input: Option<&Value>, cached: Option<&Value>, output: Option<&Value>) -> Option<Usage> {
    let cached_input_tokens = match cached {
        None | Some(Value::Null) => 0,
        Some(count) => tokens(Some(count))?,
    };
    let usage = Usage { input_tokens: tokens(input)?, cached_input_tokens, output_tokens: tokens(output)? };
    (usage.cached_input_tokens <= usage.input_tokens).then_some(usage)
}

/// A count of tokens; `None` if it is absent, negative, no whole number or above what any model could use.
pub fn tokens(count: Option<&Value>) -> Option<u64> {
    count?.as_u64().filter(|count| u32::try_from(*count).is_ok())
}

/// At most 200 characters of `text`, line ends and other control characters as spaces.
pub fn one_line(text: &str) -> String {
    let breaks = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    text.chars().take(LINE_MAX_CHARS).map(|c| if breaks(c) { ' ' } else { c }).collect()
}

/// The name that the server gives its model, or what was asked for where it gives none.
pub fn model_name(named: Option<&str>, asked_for: &str) -> String {
    one_line(named.filter(|name| !name.is_empty()).unwrap_or(asked_for))
}

/// `finish` in view of the tools asked for: some servers say `stop` although tools are wanted.
pub fn finish_with(finish: FinishReason, calls: usize) -> FinishReason {
    match finish {
        FinishReason::Stop | FinishReason::Other if calls > 0 => FinishReason::ToolCalls,
        finish => finish,
    }
}

/// A call as a server names it. A missing id is made up from `position`, so that results can refer to it.
pub fn tool_call(id: Option<String>, name: String, arguments: String, position: usize) -> ToolCall {
    let id = id.filter(|id| !id.is_empty()).unwrap_or_else(|| format!("call_{position}"));
    ToolCall { id, name, arguments }
}

/// Arguments for the wire formats that want an object and not text.
pub fn arguments_object(text: &str) -> Cow<'_, RawValue> {
    let text = if text.trim().is_empty() { "{}" } else { text };
    match serde_json::from_str::<&RawValue>(text) {
        Ok(value) if value.get().starts_with('{') => Cow::Borrowed(value),
        // What the model wrote is no object: it gets its own words back, marked, in one.
        _ => {
            let object = serde_json::json!({ "not_an_object": text });
            Cow::Owned(serde_json::value::to_raw_value(&object).expect("a map with text keys"))
        }
    }
}

/// Where JSON is wrong. What stands there is left out: it may hold what people wrote.
pub fn json_fault(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Data => "JSON of another shape",
        serde_json::error::Category::Eof => "JSON that ends too early",
        serde_json::error::Category::Syntax | serde_json::error::Category::Io => "something that is not JSON",
    };
    format!("{what} at line {} column {}", error.line(), error.column())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_count_that_cannot_be_is_no_count() {
        let counted = |input: Value, cached: Value, output: Value| usage(Some(&input), Some(&cached), Some(&output));
        let expected = Usage { input_tokens: 9, cached_input_tokens: 4, output_tokens: 2 };

        assert_eq!(counted(json!(9), json!(4), json!(2)), Some(expected));
        assert_eq!(counted(json!(9), Value::Null, json!(2)).unwrap().cached_input_tokens, 0);
        assert_eq!(usage(Some(&json!(9)), None, None), None);
        for wrong in [json!(-1), json!("9"), json!(1.5), json!(1_u64 << 32), json!(f64::MAX), json!([]), Value::Null] {
            assert_eq!(counted(wrong.clone(), json!(0), json!(2)), None, "{wrong}");
            assert_eq!(counted(json!(9), json!(0), wrong.clone()), None, "{wrong}");
        }
        assert_eq!(counted(json!(9), json!(10), json!(2)), None);
    }

    #[test]
    fn a_name_is_one_short_line() {
        assert_eq!(one_line("a\nb\u{2028}c\u{0}"), "a b c ");
        assert_eq!(model_name(Some(&"é".repeat(900)), "m").chars().count(), 200);
        assert_eq!(model_name(Some(""), "m"), "m");
    }

    #[test]
    fn arguments_that_are_no_object_are_wrapped_and_not_lost() {
        assert_eq!(arguments_object(r#" {"a": 1}"#).get(), r#"{"a": 1}"#);
        assert_eq!(arguments_object("").get(), "{}");
        assert_eq!(arguments_object("[1").get(), r#"{"not_an_object":"[1"}"#);
    }
}
