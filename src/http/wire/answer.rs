//! Questions, answers and the events of an answer in the making.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::{
    Answer, AnswerStatus, Attempt, Citation, Claim, CollectionName, Degraded, Hit, ModelProblem, PromptVersion,
    TraceId, Verdict,
};
use crate::http::json::optional_object;

use super::search::rounded;
use super::{HitBody, ProvenanceBody, SearchRequestBody};

/// A question. Exactly one of `question` and `messages` is required.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"question": "How often should I run a backup?"}))]
pub(in crate::http) struct AnswerRequestBody {
    pub question: Option<String>,
    /// A conversation, oldest first; the last message is the question and comes from the user.
    pub messages: Option<Vec<MessageBody>>,
    /// `default` if left out.
    #[schema(value_type = Option<String>)]
    pub collection: Option<CollectionName>,
    /// How to search for sources: any option of a search but `query`, which is the question unless given here.
    #[serde(default, deserialize_with = "optional_object")]
    pub search: Option<SearchRequestBody>,
    pub model: Option<String>,
    pub prompt_version: Option<String>,
    /// Of the answer.
    pub max_tokens: Option<u32>,
    /// Server-sent events instead of one JSON object.
    #[serde(default)]
    pub stream: bool,
    pub session_id: Option<String>,
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct MessageBody {
    pub role: RoleBody,
    pub content: String,
}

/// Who said it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum RoleBody {
    User,
    Assistant,
}

/// An answer with everything needed to check it.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct AnswerBody {
    pub trace_id: String,
    #[schema(example = "ans_4bf92f3577b34da6a3ce929d0e0e4736")]
    pub answer_id: String,
    pub status: AnswerStatusBody,
    /// Sentences with markers (`[1]`) after them.
    pub answer: String,
    pub claims: Vec<ClaimBody>,
    pub citations: Vec<CitationBody>,
    /// The hits that were at hand when the answer was made.
    pub sources: Vec<HitBody>,
    /// `null`: no model wrote it.
    pub model: Option<String>,
    pub provider: Option<String>,
    pub prompt: Option<PromptBody>,
    pub usage: UsageBody,
    /// US dollars, over all attempts; 0 where no model was called.
    pub cost_usd: f64,
    /// The reply of an earlier or simultaneous call that was the same.
    pub cached: bool,
    /// Why no model wrote the answer, where one should have; names the budget that refused.
    pub model_problem: Option<ModelProblemBody>,
    /// Calls to model servers, in order, failed ones included.
    pub attempts: Vec<AttemptBody>,
    /// Milliseconds by part: `search`, `model`.
    #[schema(value_type = std::collections::HashMap<String, f64>)]
    pub timings_ms: BTreeMap<&'static str, f64>,
    /// Every stage that was skipped or cut short, and why, as `stage:reason`.
    pub degraded: Vec<String>,
}

/// `answered`: written by a model from the sources. `abstained`: the sources do not support an answer. `fallback`: no
/// model may or can be called, so the answer is made of quoted sentences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum AnswerStatusBody {
    Answered,
    Abstained,
    Fallback,
}

/// A sentence of the answer, checked against the passages it cites.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct ClaimBody {
    pub text: String,
    /// First byte of the sentence in the answer.
    pub start: usize,
    /// The byte after its last one.
    pub end: usize,
    /// Markers of the citations that follow it.
    pub citations: Vec<u32>,
    /// From 0 to 1: the share of the sentence's content words that its cited passages hold.
    pub support: f64,
    pub verdict: VerdictBody,
}

/// What the check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum VerdictBody {
    Supported,
    Partial,
    Unsupported,
}

/// Evidence. The document's content at `byte_range` is the quote, always.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct CitationBody {
    /// As it stands in the answer: 1 for `[1]`.
    pub marker: u32,
    pub chunk_id: String,
    pub document_id: String,
    pub quote: String,
    pub byte_range: [usize; 2],
    pub provenance: ProvenanceBody,
}

/// The prompt that was used.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct PromptBody {
    pub name: String,
    pub version: String,
    /// Computed from the template.
    pub hash: String,
}

/// Tokens of all calls together.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct UsageBody {
    pub input_tokens: u64,
    pub output_tokens: u64,
}

/// Why no model was asked, or none could answer.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct ModelProblemBody {
    /// As in `degraded`: `budget_exceeded`, `kill_switch`, `not_configured`, …
    pub reason: &'static str,
    pub detail: String,
}

impl From<ModelProblem> for ModelProblemBody {
    fn from(problem: ModelProblem) -> Self {
        Self { reason: problem.reason, detail: problem.detail }
    }
}

/// One call to a model server.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct AttemptBody {
    pub provider: String,
    pub model: String,
    /// `ok`, or the kind of failure.
    pub outcome: String,
    pub ms: f64,
}

/// The event `sources`.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct SourcesBody {
    pub trace_id: String,
    pub sources: Vec<HitBody>,
}

/// The event `delta`.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct DeltaBody {
    pub text: String,
}

impl AnswerBody {
    pub(in crate::http) fn new(trace: TraceId, answer: Answer) -> Self {
        Self {
            trace_id: trace.to_string(),
            answer_id: format!("ans_{trace}"),
            status: answer.status.into(),
            answer: answer.text,
            claims: answer.claims.into_iter().map(Into::into).collect(),
            citations: answer.citations.into_iter().map(Into::into).collect(),
            sources: sources(answer.sources),
            model: answer.model,
            provider: answer.provider,
            prompt: answer.prompt.map(Into::into),
            usage: UsageBody { input_tokens: answer.usage.input_tokens, output_tokens: answer.usage.output_tokens },
            cost_usd: answer.cost.usd(),
            cached: answer.is_cached,
            model_problem: answer.model_problem.map(Into::into),
            attempts: answer.attempts.into_iter().map(Into::into).collect(),
            timings_ms: [("search", rounded(answer.search_ms)), ("model", rounded(answer.model_ms))].into(),
            degraded: answer.degraded.iter().map(Degraded::to_string).collect(),
        }
    }
}

impl SourcesBody {
    pub(in crate::http) fn new(trace: TraceId, hits: Vec<Hit>) -> Self {
        Self { trace_id: trace.to_string(), sources: sources(hits) }
    }
}

fn sources(hits: Vec<Hit>) -> Vec<HitBody> {
    hits.into_iter().map(|hit| HitBody::new(hit, None)).collect()
}

impl From<Claim> for ClaimBody {
    fn from(claim: Claim) -> Self {
        Self {
            text: claim.text,
            start: claim.span.start,
            end: claim.span.end,
            citations: claim.citations,
            support: claim.support,
            verdict: match claim.verdict {
                Verdict::Supported => VerdictBody::Supported,
                Verdict::Partial => VerdictBody::Partial,
                Verdict::Unsupported => VerdictBody::Unsupported,
            },
        }
    }
}

impl From<Citation> for CitationBody {
    fn from(citation: Citation) -> Self {
        Self {
            marker: citation.marker,
            chunk_id: citation.chunk_id.to_string(),
            document_id: citation.document_id.into(),
            quote: citation.quote,
            byte_range: [citation.span.start, citation.span.end],
            provenance: citation.provenance.into(),
        }
    }
}

impl From<PromptVersion> for PromptBody {
    fn from(prompt: PromptVersion) -> Self {
        Self { name: prompt.name, version: prompt.version, hash: prompt.hash }
    }
}

impl From<Attempt> for AttemptBody {
    fn from(attempt: Attempt) -> Self {
        Self {
            provider: attempt.provider,
            model: attempt.model,
            outcome: attempt.outcome,
            ms: rounded(attempt.latency_ms),
        }
    }
}

impl From<AnswerStatus> for AnswerStatusBody {
    fn from(status: AnswerStatus) -> Self {
        match status {
            AnswerStatus::Answered => Self::Answered,
            AnswerStatus::Abstained => Self::Abstained,
            AnswerStatus::Fallback => Self::Fallback,
        }
    }
}
