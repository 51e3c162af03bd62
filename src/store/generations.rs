//! The contract of generations: one build of a profile beside another, until one is left.
//!
//! Promises beyond those of [`super::CorpusStore`], tested by `store::conformance`:
//!
//! - A document is served from exactly one generation at any moment; a write of the document is served from the
//!   collection's live one and leaves it ready in no other.
//! - Whatever a generation holds of a document was made from the content and head that the document has now.
//! - Chunks of equal id in two generations are two chunks, each with its own embedding.

use std::collections::HashMap;

use async_trait::async_trait;

use crate::domain::{
    Chunk, ChunkerSpec, CollectionName, ContentHash, DocumentHead, DocumentId, GenerationId, GenerationPlan,
    GenerationStatus, Outline, Profile, Sequence, Standing, TaskId, TenantScope,
};

use super::{Page, StoreError};

/// What is done with a generation as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GenerationChange {
    /// building → shadow: every document of the plan's sample is built.
    Shadow,
    /// shadow → live: takes writes from now on. The one that was live goes into shadow and is named as `previous`;
    /// its documents move one by one.
    Promote,
    /// building or shadow → retired: serves nobody and is followed no longer. Refused with
    /// [`StoreError::StillServing`] while a document is served from it.
    Retire,
}

/// What a document is made of, for building it in another generation.
#[derive(Debug, Clone, PartialEq)]
pub struct DocumentSource {
    pub head: DocumentHead,
    /// The operation that brought it into this state.
    pub seen: Sequence,
    pub text: String,
    pub outline: Outline,
    /// Of the chunks that serve, where that is not their generation's.
    pub chunker: Option<ChunkerSpec>,
    /// The chunks that serve, where the caller made them.
    pub caller_chunks: Option<Vec<Chunk>>,
}

/// What a step of a removal has left of a retired generation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Remains {
    pub documents: u64,
    pub chunkings: u64,
    pub chunks: u64,
    /// Vectors of its embedder that no chunk uses any more.
    pub vectors: u64,
}

/// Generations of tenants.
#[async_trait]
pub trait GenerationStore: Send + Sync {
    /// Begins a generation of the profile in `building`; if the collection has one of this profile that is building or
    /// in shadow, that one gets the plan and is returned. [`StoreError::AlreadyLive`] if the live one has the profile,
    /// [`StoreError::AlreadyBuilding`] if another one is building or in shadow and has not been live before.
    async fn begin_generation(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        profile: &Profile,
        plan: &GenerationPlan,
    ) -> Result<GenerationStatus, StoreError>;

    /// Of one collection or all, oldest first, retired ones too.
    async fn generation_statuses(
        &self,
        scope: &TenantScope,
        collection: Option<&CollectionName>,
    ) -> Result<Vec<GenerationStatus>, StoreError>;

    async fn generation_status(
        &self,
        scope: &TenantScope,
        id: GenerationId,
    ) -> Result<Option<GenerationStatus>, StoreError>;

    /// Replaces the plan. `None`: no such generation.
    async fn plan_generation(
        &self,
        scope: &TenantScope,
        id: GenerationId,
        plan: &GenerationPlan,
    ) -> Result<Option<GenerationStatus>, StoreError>;

    /// Notes which task builds it.
    async fn assign_generation(&self, scope: &TenantScope, id: GenerationId, task: TaskId) -> Result<(), StoreError>;

    /// Changes the state; a state that the change does not start from is [`StoreError::WrongState`], but for the one
    /// that it leads to, where nothing is left to do.
    async fn change_generation(
        &self,
        scope: &TenantScope,
        id: GenerationId,
        change: GenerationChange,
    ) -> Result<Option<GenerationStatus>, StoreError>;

    /// Live documents of the generation's collection that stand so in it, in a stable order, at most `limit`, after
    /// `cursor` (a `next` of an earlier page). Bounded work also where few stand so: a page may be short and have a next.
    async fn placements(
        &self,
        scope: &TenantScope,
        id: GenerationId,
        standing: Standing,
        (cursor, limit): (Option<&str>, usize),
    ) -> Result<Page<DocumentHead>, StoreError>;

    /// What these documents are made of, in the order asked; `None` where one is unknown or deleted.
    async fn sources(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        documents: &[DocumentId],
    ) -> Result<Vec<Option<DocumentSource>>, StoreError>;

    /// Removes up to so many rows of a retired generation and tells what is left; all zero: nothing is, which is
    /// recorded. Chunks of past versions that it made go too; texts of versions stay.
    async fn remove_generation(
        &self,
        scope: &TenantScope,
        id: GenerationId,
        limit: usize,
    ) -> Result<Remains, StoreError>;

    /// Texts that models wrote about chunks, by the hash of what they were written from; absent ones are left out.
    async fn contexts(
        &self,
        scope: &TenantScope,
        inputs: &[ContentHash],
    ) -> Result<HashMap<ContentHash, String>, StoreError>;

    /// Keeps such texts; one that is there stays.
    async fn keep_contexts(&self, scope: &TenantScope, texts: Vec<(ContentHash, String)>) -> Result<(), StoreError>;
}
