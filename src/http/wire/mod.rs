//! The JSON of the wire: twins of the domain's types, converted by hand so that neither shapes the other.

mod answer;
mod budget;
mod cases;
mod collection;
mod document;
mod erasure;
mod generation;
mod generation_report;
mod ingest;
mod kill_switch;
mod provenance;
mod search;
mod status;
mod task;
mod task_orders;
mod task_records;
mod trace;
mod usage;

pub(super) use answer::{
    AnswerBody, AnswerRequestBody, CitationBody, ClaimBody, DeltaBody, MessageBody, PromptBody, RoleBody, SourcesBody,
};
pub(super) use budget::{BudgetBody, BudgetInput, BudgetsBody, ResolveInput, own_scope};
pub(super) use cases::{
    CasesBody, CasesInput, CasesStoredBody, MAX_CASE_ID_BYTES, MAX_CASES_AT_ONCE, MAX_GRADE, MAX_RELEVANT_DOCUMENTS,
    case_id_fault,
};
pub(super) use collection::CollectionsBody;
pub(super) use document::{ChunkBody, ChunksBody, DocumentBody, DocumentsBody, VersionsBody};
pub(super) use erasure::DeletedBody;
pub(super) use generation::{
    GenerationInput, GenerationsBody, OneGenerationBody, PlanInput, StartedBody, TransitionBody,
};
pub(super) use generation_report::ReportBody;
pub(super) use ingest::{DocumentInput, DocumentsInput, IngestBody, IngestedBody, ItemStatus, metadata_of};
pub(super) use kill_switch::{KillSwitchBody, KillSwitchInput};
pub(super) use provenance::{ProvenanceBody, time};
pub(super) use search::{
    BatchItemBody, HitBody, ModeBody, SearchBatchBody, SearchBatchRequestBody, SearchBody, SearchRequestBody, rounded,
};
pub(super) use status::{LimitsBody, ReadyBody, VersionInfoBody};
pub(super) use task::{TaskBody, TaskErrorBody, TasksBody, ToldTask};
pub(super) use task_orders::{ForkInput, NoInput, RedriveInput, TaskInput, step_name};
pub(super) use task_records::{FailureDaysBody, TaskFailuresBody, TaskItemsBody, TaskResultBody};
pub(super) use trace::TraceBody;
pub(super) use usage::{GroupBy, UsageBody, days_before, month_start, since};
