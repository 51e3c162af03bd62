//! Every call to a language model: providers, routes, retries, prices, budgets, the kill switch, the ledger's rows.

mod alerts;
mod anthropic;
mod anthropic_stream;
mod anthropic_wire;
mod attempt;
mod bodies;
mod breaker;
mod budgets;
mod call;
#[cfg(test)]
mod conformance;
mod contract;
mod error;
mod estimate;
#[cfg(test)]
mod fault_tests;
mod http_provider;
mod journal;
#[cfg(test)]
mod journal_tests;
mod kill;
mod limits;
mod lines;
mod lost;
#[cfg(test)]
mod mock_replies;
#[cfg(test)]
pub(crate) mod mock_server;
mod ollama;
mod ollama_stream;
mod ollama_wire;
mod openai;
mod openai_stream;
mod openai_wire;
mod plan;
mod price;
mod prompts;
mod provider_settings;
mod recording;
mod refusal;
mod reply;
mod reply_stream;
mod retry;
mod reuse;
mod scripted;
mod settings;
mod sse;
mod stream;
#[cfg(test)]
pub(crate) mod test_gateway;
mod token_rate;
mod undo;
mod upstream;
mod walk;
#[cfg(test)]
mod walk_tests;
mod wire;

pub use alerts::Alerts;
pub use anthropic::Anthropic;
pub use budgets::{AccountState, BudgetSource, BudgetState, Budgets, Clock, Resolution};
pub use call::{CallContext, CallFailure, CallSuccess, ChatCall, Gateway, GatewayParts};
pub use contract::{
    ChatEnd, ChatEvent, ChatMessage, ChatRequest, ChatResponse, ChatStream, FinishReason, Provider, ReplySchema, Role,
    Tool, ToolCall,
};
pub use error::{GatewayError, Work};
pub use http_provider::install_tls;
pub use journal::StepJournal;
pub use kill::{KillSwitch, Killed, OnBySettings};
pub use ollama::Ollama;
pub use openai::OpenAiCompatible;
pub use plan::BuildProvider;
pub use prompts::{
    InvalidPrompt, PromptBook, PromptBookError, PromptEdition, PromptFault, PromptOrigin, PromptSplit, PromptTemplate,
};
pub use provider_settings::{ProviderKind, ProviderSettings, TokenLimitField};
pub use scripted::{Reply, Scripted};
pub use settings::{
    BudgetSettings, GatewaySettings, LedgerBodies, ModelSettings, PriceSettings, Reuse, RouteSettings, UnknownPrice,
};
pub use stream::GatewayStream;
