//! The nouns: plain data with public fields. No I/O, no async, no clock, no knowledge of storage or HTTP.

mod answer;
mod budget;
mod chunk;
mod collection;
mod document;
mod error_kind;
mod filter;
mod generation;
mod hit;
mod ids;
mod ledger;
mod money;
mod needles;
mod profile;
mod query;
mod scope;
mod task;
mod trace;

pub use answer::{Answer, AnswerStatus, Attempt, Citation, Claim, ModelProblem, PromptVersion, Usage, Verdict};
pub use budget::{
    Account, Amount, Budget, BudgetAction, BudgetEvent, BudgetPeriod, BudgetScope, InvalidScope, Payer, Reservation,
    Selector,
};
pub use chunk::{Chunk, EmbeddedChunk, Provenance};
pub use collection::{Collection, Generation, GenerationState};
pub use document::{ByteSpan, Document, DocumentHead, Heading, Metadata, Outline, ParsedText, VersionSummary};
pub use error_kind::ErrorKind;
pub use filter::{FILTER_MAX_DEPTH, FILTER_MAX_TERMS, Fields, Filter, InvalidFilter, Scalar, Test};
pub use generation::{GenerationCounts, GenerationPlan, GenerationStatus, Promotion, Rollout, Standing, lot};
pub use hit::{Degraded, Hit, Neighbour, ScoreBreakdown, ScoredChunk, SearchResult, StageScore, StageTimings};
pub use ids::{
    CallId, ChunkId, ChunkOwner, CollectionName, ContentHash, DocumentId, Fingerprint, GenerationId, InvalidId,
    NAME_MAX_BYTES, Principal, RunnerId, Sequence, SpanId, StepName, TaskId, TaskKind, TenantId, Timestamp, TraceId,
    hash_parts,
};
pub use ledger::{CacheUse, LlmCall, UsageSource};
pub use money::Nanousd;
pub use needles::Needles;
pub use profile::{AnalyzerSpec, ChunkerSpec, ContextSpec, EmbedderSpec, Profile};
pub use query::{Context, Fusion, FusionMethod, GroupBy, Mode, Query, Rerank};
pub use scope::{Permission, TenantScope, Visibility};
pub use task::{
    FailureDay, JsonText, StepRecord, StepSummary, Task, TaskFailure, TaskIdentity, TaskKey, TaskProblem, TaskStatus,
    Wish, visibility_text,
};
pub use trace::{SearchRecord, SpanRecord, TraceRecord, TraceStep, TraceStory};
