//! What the ledger says about calls to language models: one row for each attempt, failed ones included.

use serde::{Deserialize, Serialize};

use super::{CallId, Nanousd, PromptVersion, SpanId, TenantId, Timestamp, TraceId, Usage};

/// Where the token counts of an attempt come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UsageSource {
    /// The server did no work: refused, not reached, or answered from here.
    None,
    /// The server said so.
    Reported,
    /// Counted here from what was sent and received.
    Estimated,
    /// Nobody knows how much the server did, so it counts as all it was allowed to do.
    WorstCase,
}

/// Whether an answer was there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheUse {
    /// A server was asked.
    Miss,
    /// The same question was answered before.
    Exact,
    /// Another wording of the question was answered before.
    Semantic,
    /// The same question was under way; its answer served both.
    Coalesced,
}

/// One attempt of a call, whatever became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct LlmCall {
    pub call_id: CallId,
    /// From 1, over all models of the call.
    pub attempt: u32,
    pub trace_id: TraceId,
    pub span_id: SpanId,
    pub tenant: TenantId,
    /// What the call is for (`answer`).
    pub task: String,
    pub session_id: Option<String>,
    /// Id of the API key that asked.
    pub key_id: Option<String>,
    pub provider: String,
    /// The model that was asked, by the provider's name for it.
    pub model: String,
    /// The model that says it answered.
    pub answered_model: Option<String>,
    pub prompt: Option<PromptVersion>,
    pub started_at: Timestamp,
    pub latency_us: u64,
    /// From the start to the first piece of a streamed reply.
    pub first_token_us: Option<u64>,
    /// `ok`, or one stable word for the failure.
    pub outcome: String,
    /// The HTTP status, if the server answered with one.
    pub status: Option<u16>,
    /// Why the model stopped: `stop`, `length`, `content_filter`, `tool_calls`, `other`.
    pub finish: Option<String>,
    pub is_streamed: bool,
    pub cache: CacheUse,
    pub usage: Usage,
    pub usage_source: UsageSource,
    pub cost: Nanousd,
    /// What was sent and received; only where the settings ask for it, and redacted.
    pub request_body: Option<String>,
    pub response_body: Option<String>,
}

/// Names of an enum's values in the database.
macro_rules! words {
    ($name:ident: $($variant:ident = $word:literal),+ $(,)?) => {
        impl $name {
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// `None` for a word that is none of these.
            pub fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}
pub(super) use words;

words!(UsageSource: None = "none", Reported = "reported", Estimated = "estimated", WorstCase = "worst_case");
words!(CacheUse: Miss = "miss", Exact = "exact", Semantic = "semantic", Coalesced = "coalesced");
