//! Token counts where no server has said any.
//!
//! Two different questions: how many could it be at most (before a call, for budgets), and how many will it have been
//! (after one, for the ledger; such rows are marked).

use super::contract::ChatRequest;

/// What a message costs beside its text, at most: role and separators.
const TOKENS_PER_MESSAGE: u64 = 16;
/// What a request costs beside its messages, at most.
const TOKENS_PER_REQUEST: u64 = 64;
/// English text holds about four bytes a token in the tokenizers of OpenAI, Anthropic and Llama.
const BYTES_PER_TOKEN: u64 = 4;

/// No tokenizer makes more tokens of the input than this: none makes more than one of a byte.
pub fn most_input_tokens(request: &ChatRequest) -> u64 {
    input_bytes(request) + TOKENS_PER_MESSAGE * request.messages.len() as u64 + TOKENS_PER_REQUEST
}

/// About how many tokens the input has.
pub fn likely_input_tokens(request: &ChatRequest) -> u64 {
    input_bytes(request).div_ceil(BYTES_PER_TOKEN)
}

/// About how many tokens so many bytes of a reply have.
pub fn likely_output_tokens(bytes: usize) -> u64 {
    (bytes as u64).div_ceil(BYTES_PER_TOKEN)
}

fn input_bytes(request: &ChatRequest) -> u64 {
    let of_message = |message: &super::contract::ChatMessage| {
        let calls = message.tool_calls.iter().map(|call| call.id.len() + call.name.len() + call.arguments.len());
        message.content.len() + calls.sum::<usize>() + message.tool_call_id.as_ref().map_or(0, String::len)
    };
    let messages: usize = request.messages.iter().map(of_message).sum();
    let of_tool =
        |tool: &super::contract::Tool| tool.name.len() + tool.description.len() + tool.parameters.to_string().len();
    let tools: usize = request.tools.iter().map(of_tool).sum();
    let schema = request.schema.as_ref().map_or(0, |schema| schema.name.len() + schema.schema.to_string().len());
    (messages + tools + schema) as u64
}

#[cfg(test)]
mod tests {
    use super::super::contract::{ChatMessage, Role};
    use super::*;

    #[test]
    fn the_most_is_never_less_than_the_likely() {
        let messages =
            vec![ChatMessage::new(Role::System, "be brief"), ChatMessage::new(Role::User, "why? ".repeat(9))];
        let request = ChatRequest {
            call_id: crate::domain::CallId([0; 16]),
            messages,
            model: "m".to_owned(),
            max_tokens: 5,
            temperature: None,
            tools: Vec::new(),
            schema: None,
        };

        assert_eq!(likely_input_tokens(&request), 14);
        assert_eq!(most_input_tokens(&request), 53 + 32 + 64);
        assert_eq!(likely_output_tokens(0), 0);
        assert_eq!(likely_output_tokens(5), 2);
    }
}
