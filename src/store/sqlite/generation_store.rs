//! Generations as their callers see them: reads on the readers' connections, writes through the one writer.

use std::collections::HashMap;

use async_trait::async_trait;

use crate::domain::{
    CollectionName, ContentHash, DocumentHead, DocumentId, GenerationId, GenerationPlan, GenerationStatus, Profile,
    Standing, TaskId, TenantId, TenantScope,
};
use crate::store::{DocumentSource, GenerationChange, GenerationStore, Page, Remains, StoreError};

use super::generation_requests::{GenerationAnswer, GenerationDeed, GenerationRequest};
use super::removal::UnusedVectors;
use super::store::SqliteStore;
use super::writer::{Answer, Request};
use super::{generation_reads, generation_rows, removal};

impl SqliteStore {
    pub(super) async fn ask_generations(
        &self,
        tenant: &TenantId,
        deed: GenerationDeed,
    ) -> Result<GenerationAnswer, StoreError> {
        let request = GenerationRequest { tenant: tenant.clone(), deed };
        match self.send(Request::Generations(request)).await? {
            Answer::Generations(answer) => Ok(answer),
            _ => Err(out_of_place()),
        }
    }

    async fn change(&self, scope: &TenantScope, deed: GenerationDeed) -> Result<Option<GenerationStatus>, StoreError> {
        match self.ask_generations(&scope.tenant, deed).await? {
            GenerationAnswer::Status(status) => Ok(status.map(|status| *status)),
            _ => Err(out_of_place()),
        }
    }

    // Read by read, so that searches find a connection in between.
    async fn unused_vectors(
        &self,
        tenant: &TenantId,
        id: GenerationId,
        limit: usize,
    ) -> Result<Option<UnusedVectors>, StoreError> {
        // They are known once all chunks are gone; until then each part takes those of its own chunks along.
        if !removal::holds_no_chunks(self.lend().await?.connection(), tenant, id).await? {
            return Ok(None);
        }
        let (mut unused, mut after) = (UnusedVectors::default(), Some(0));
        while let Some(row) = after {
            let mut reader = self.lend().await?;
            after = removal::unused_vectors(reader.connection(), (tenant, id), row, (limit, &mut unused)).await?;
        }
        Ok(Some(unused))
    }
}

pub(super) fn out_of_place() -> StoreError {
    StoreError::Sql(sqlx::Error::Protocol("the writer gave the answer of another request".to_owned()))
}

#[async_trait]
impl GenerationStore for SqliteStore {
    async fn begin_generation(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        profile: &Profile,
        plan: &GenerationPlan,
    ) -> Result<GenerationStatus, StoreError> {
        let (profile, plan) = (Box::new(profile.clone()), Box::new(plan.clone()));
        let begun = self.change(scope, GenerationDeed::Begin { collection: collection.clone(), profile, plan }).await?;
        begun.ok_or_else(out_of_place)
    }

    async fn generation_statuses(
        &self,
        scope: &TenantScope,
        collection: Option<&CollectionName>,
    ) -> Result<Vec<GenerationStatus>, StoreError> {
        generation_rows::statuses(self.lend().await?.connection(), &scope.tenant, collection).await
    }

    async fn generation_status(
        &self,
        scope: &TenantScope,
        id: GenerationId,
    ) -> Result<Option<GenerationStatus>, StoreError> {
        generation_rows::status(self.lend().await?.connection(), &scope.tenant, id).await
    }

    async fn plan_generation(
        &self,
        scope: &TenantScope,
        id: GenerationId,
        plan: &GenerationPlan,
    ) -> Result<Option<GenerationStatus>, StoreError> {
        self.change(scope, GenerationDeed::Plan(id, Box::new(plan.clone()))).await
    }

    async fn assign_generation(&self, scope: &TenantScope, id: GenerationId, task: TaskId) -> Result<(), StoreError> {
        self.ask_generations(&scope.tenant, GenerationDeed::Assign(id, task)).await.map(drop)
    }

    async fn change_generation(
        &self,
        scope: &TenantScope,
        id: GenerationId,
        change: GenerationChange,
    ) -> Result<Option<GenerationStatus>, StoreError> {
        self.change(scope, GenerationDeed::Change(id, change)).await
    }

    async fn placements(
        &self,
        scope: &TenantScope,
        id: GenerationId,
        standing: Standing,
        page: (Option<&str>, usize),
    ) -> Result<Page<DocumentHead>, StoreError> {
        generation_reads::placements(self.lend().await?.connection(), &scope.tenant, (id, standing), page).await
    }

    async fn sources(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        documents: &[DocumentId],
    ) -> Result<Vec<Option<DocumentSource>>, StoreError> {
        generation_reads::sources(self.lend().await?.connection(), scope, collection, documents).await
    }

    async fn remove_generation(
        &self,
        scope: &TenantScope,
        id: GenerationId,
        limit: usize,
    ) -> Result<Remains, StoreError> {
        loop {
            let unused = self.unused_vectors(&scope.tenant, id, limit).await?;
            let has_looked = unused.is_some();
            let deed = GenerationDeed::Remove { id, limit, unused };
            match self.ask_generations(&scope.tenant, deed).await? {
                // Its last chunks went just now: nothing is told to be gone that was not looked for.
                GenerationAnswer::Remains(remains) if remains == Remains::default() && !has_looked => {}
                GenerationAnswer::Remains(remains) => return Ok(remains),
                _ => return Err(out_of_place()),
            }
        }
    }

    async fn contexts(
        &self,
        scope: &TenantScope,
        inputs: &[ContentHash],
    ) -> Result<HashMap<ContentHash, String>, StoreError> {
        generation_reads::contexts(self.lend().await?.connection(), &scope.tenant, inputs).await
    }

    async fn keep_contexts(&self, scope: &TenantScope, texts: Vec<(ContentHash, String)>) -> Result<(), StoreError> {
        self.ask_generations(&scope.tenant, GenerationDeed::KeepContexts(texts)).await.map(drop)
    }
}
