//! Labelled queries and shadow searches as their callers see them.

use async_trait::async_trait;

use crate::domain::{CollectionName, GenerationId, TenantScope};
use crate::store::{CaseStore, EvalCase, Page, ShadowSearch, StoreError};

use super::case_rows;
use super::generation_requests::{GenerationAnswer, GenerationDeed};
use super::generation_store::out_of_place;
use super::store::SqliteStore;

impl SqliteStore {
    async fn count_cases(&self, scope: &TenantScope, deed: GenerationDeed) -> Result<u64, StoreError> {
        match self.ask_generations(&scope.tenant, deed).await? {
            GenerationAnswer::Cases(count) => Ok(count),
            _ => Err(out_of_place()),
        }
    }
}

#[async_trait]
impl CaseStore for SqliteStore {
    async fn put_cases(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        cases: &[EvalCase],
    ) -> Result<u64, StoreError> {
        let (collection, cases) = (collection.clone(), cases.to_vec());
        self.count_cases(scope, GenerationDeed::PutCases { collection, cases }).await
    }

    async fn cases(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        page: (Option<&str>, usize),
    ) -> Result<Page<EvalCase>, StoreError> {
        case_rows::cases(self.lend().await?.connection(), (&scope.tenant, collection), page).await
    }

    async fn delete_case(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        name: &str,
    ) -> Result<bool, StoreError> {
        let (collection, name) = (collection.clone(), name.to_owned());
        Ok(self.count_cases(scope, GenerationDeed::DeleteCase { collection, name }).await? > 0)
    }

    async fn record_shadow(&self, scope: &TenantScope, searches: Vec<ShadowSearch>) -> Result<(), StoreError> {
        if searches.is_empty() {
            return Ok(());
        }
        self.ask_generations(&scope.tenant, GenerationDeed::RecordShadow(searches)).await.map(drop)
    }

    async fn shadow_searches(
        &self,
        scope: &TenantScope,
        generation: GenerationId,
        limit: usize,
    ) -> Result<Vec<ShadowSearch>, StoreError> {
        case_rows::shadow_searches(self.lend().await?.connection(), &scope.tenant, generation, limit).await
    }
}
