//! The JSON of the wire: twins of the domain's types, converted by hand so that neither shapes the other.

mod answer;
mod collection;
mod document;
mod ingest;
mod provenance;
mod search;
mod status;

pub(super) use answer::{
    AnswerBody, AnswerRequestBody, CitationBody, ClaimBody, DeltaBody, MessageBody, RoleBody, SourcesBody,
};
pub(super) use collection::CollectionsBody;
pub(super) use document::{ChunkBody, ChunksBody, DeletedBody, DocumentBody, DocumentsBody, VersionsBody};
pub(super) use ingest::{DocumentInput, DocumentsInput, IngestBody, IngestedBody, ItemStatus, metadata_of};
pub(super) use provenance::{ProvenanceBody, time};
pub(super) use search::{
    BatchItemBody, HitBody, ModeBody, SearchBatchBody, SearchBatchRequestBody, SearchBody, SearchRequestBody, rounded,
};
pub(super) use status::{LimitsBody, ReadyBody, VersionInfoBody};
