//! The contract of what a collection's generations are judged by: labelled queries, and live ones put to both.

use std::collections::BTreeMap;

use async_trait::async_trait;

use crate::domain::{CollectionName, DocumentId, GenerationId, Mode, TenantScope, Timestamp, TraceId};

use super::{Page, StoreError};

/// A query with the documents that answer it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvalCase {
    /// The caller's own, unique in the collection.
    pub name: String,
    pub query: String,
    /// Grades from 1; never empty.
    pub relevant: BTreeMap<DocumentId, u32>,
}

/// A live search that was put to a generation in shadow as well.
#[derive(Debug, Clone, PartialEq)]
pub struct ShadowSearch {
    pub generation: GenerationId,
    pub trace_id: TraceId,
    pub mode: Mode,
    pub top_k: usize,
    /// Share of the documents found by either that both found; 1 if neither found any.
    pub overlap: f64,
    pub live_us: u64,
    pub shadow_us: u64,
    pub at: Timestamp,
}

/// Labelled queries and shadow searches of tenants.
#[async_trait]
pub trait CaseStore: Send + Sync {
    /// Adds cases, replacing those of the same name; returns how many the collection has then.
    async fn put_cases(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        cases: &[EvalCase],
    ) -> Result<u64, StoreError>;

    /// Cases by name, at most `limit`, after `cursor` (a `next` of an earlier page).
    async fn cases(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        (cursor, limit): (Option<&str>, usize),
    ) -> Result<Page<EvalCase>, StoreError>;

    /// False: there was none.
    async fn delete_case(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        name: &str,
    ) -> Result<bool, StoreError>;

    /// Keeps shadow searches; of each generation the newest so many stay.
    async fn record_shadow(&self, scope: &TenantScope, searches: Vec<ShadowSearch>) -> Result<(), StoreError>;

    /// The newest `limit` shadow searches of a generation, newest first.
    async fn shadow_searches(
        &self,
        scope: &TenantScope,
        generation: GenerationId,
        limit: usize,
    ) -> Result<Vec<ShadowSearch>, StoreError>;
}
