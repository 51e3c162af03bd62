//! Every call to a language model: provider, retries, bounds.

mod call;
#[cfg(test)]
mod conformance;
mod contract;
mod error;
#[cfg(test)]
pub(crate) mod mock_server;
mod openai;
mod openai_stream;
mod openai_wire;
mod retry;
mod scripted;
mod settings;
mod sse;

pub use call::{CallContext, CallFailure, CallSuccess, Gateway, GatewayStream};
pub use contract::{
    ChatEnd, ChatEvent, ChatMessage, ChatRequest, ChatResponse, ChatStream, FinishReason, Provider, Role,
};
pub use error::GatewayError;
pub use openai::{OpenAiCompatible, install_tls};
pub use scripted::{Reply, Scripted};
pub use settings::{GatewaySettings, ProviderKind, TokenLimitField};
