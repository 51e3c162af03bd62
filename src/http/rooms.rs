//! The ports, filled by the rooms themselves.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use futures::stream::BoxStream;

use crate::domain::{CollectionName, DocumentId, GenerationId, Query, SearchResult, Sequence, TenantScope};
use crate::eval::{EvalError, GenerationReport, GenerationScorer};
use crate::ingest::{
    IncomingDocument, IncomingItem, Indexer, IngestError, IngestLimits, IngestOutcome, Ingestor, StreamReport,
};
use crate::jobs::{DeskError, Force, GenerationDesk, GenerationView, PlanPatch, Transition};
use crate::search::{InvalidQuery, QueryOverrides, SearchDefaults, SearchError, Searcher};

use super::ports::{GenerationPort, IngestPort, ReportPort, SearchPort};

/// Searching, as the server speaks for it.
pub struct SearchRoom {
    pub searcher: Arc<Searcher>,
    pub defaults: SearchDefaults,
}

#[async_trait]
impl SearchPort for SearchRoom {
    fn query(&self, text: Option<String>, overrides: QueryOverrides) -> Result<Query, InvalidQuery> {
        self.defaults.query(text, overrides)
    }

    async fn search(&self, scope: &TenantScope, query: &Query, taken_at: Instant) -> Result<SearchResult, SearchError> {
        self.searcher.search(scope, query, taken_at).await
    }

    fn limits(&self) -> Vec<(&'static str, u64)> {
        let limits = &self.defaults.settings().limits;
        vec![
            ("max_top_k", limits.max_top_k as u64),
            ("max_candidate_depth", limits.max_candidate_depth as u64),
            ("max_rerank_depth", limits.max_rerank_depth as u64),
            ("max_query_bytes", limits.max_query_bytes as u64),
            ("max_vector_dimensions", limits.max_vector_dimensions as u64),
            ("max_context", u64::from(limits.max_context)),
            ("max_deadline_ms", limits.max_deadline_ms),
            ("max_index_wait_ms", limits.max_index_wait_ms),
            ("max_filter_depth", crate::domain::FILTER_MAX_DEPTH as u64),
            ("max_filter_terms", crate::domain::FILTER_MAX_TERMS as u64),
        ]
    }
}

/// Ingesting, as the server speaks for it.
pub struct IngestRoom {
    pub ingestor: Arc<Ingestor>,
    pub indexer: Arc<Indexer>,
    pub limits: IngestLimits,
}

/// What the parsers read; JSON as a raw body is not among them, since `application/json` is the envelope.
const MEDIA_TYPES: [&str; 6] =
    ["text/plain", "text/markdown", "text/html", "text/x-markdown", "application/xhtml+xml", "text/json"];

#[async_trait]
impl IngestPort for IngestRoom {
    async fn put(&self, scope: &TenantScope, document: IncomingDocument) -> Result<IngestOutcome, IngestError> {
        let mut outcomes = self.ingestor.put(scope, vec![document]).await?;
        Ok(outcomes.pop().expect("one document has one outcome"))
    }

    async fn put_stream(
        &self,
        scope: &TenantScope,
        items: BoxStream<'_, IncomingItem>,
        told: &mut (dyn for<'o> FnMut(u64, &'o IngestOutcome) + Send),
    ) -> StreamReport {
        self.ingestor.put_stream(scope, items, told).await
    }

    async fn delete(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        document: &DocumentId,
    ) -> Result<Option<Sequence>, IngestError> {
        self.ingestor.delete(scope, collection, document).await
    }

    async fn wait_indexed(&self, scope: &TenantScope, sequence: Sequence, until: Instant) -> bool {
        self.indexer.wait_indexed_for(&scope.tenant, sequence, until).await.is_ok()
    }

    fn media_types(&self) -> &'static [&'static str] {
        &MEDIA_TYPES
    }

    fn limits(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("max_document_bytes", self.limits.max_document_bytes as u64),
            ("max_chunks_per_document", self.limits.max_chunks_per_document as u64),
            ("max_title_bytes", self.limits.max_title_bytes as u64),
            ("max_source_uri_bytes", self.limits.max_source_uri_bytes as u64),
            ("max_metadata_bytes", self.limits.max_metadata_bytes as u64),
            ("max_acl_principals", self.limits.max_acl_principals as u64),
        ]
    }
}

/// The desk of generations as it stands.
#[async_trait]
impl GenerationPort for GenerationDesk {
    async fn list(
        &self,
        scope: &TenantScope,
        collection: Option<&CollectionName>,
    ) -> Result<Vec<GenerationView>, DeskError> {
        self.list(scope, collection).await
    }

    async fn one(&self, scope: &TenantScope, id: GenerationId) -> Result<GenerationView, DeskError> {
        self.one(scope, id).await
    }

    async fn plan(&self, scope: &TenantScope, id: GenerationId, patch: PlanPatch) -> Result<GenerationView, DeskError> {
        self.plan(scope, id, patch).await
    }

    async fn promote(&self, scope: &TenantScope, id: GenerationId, force: Force) -> Result<Transition, DeskError> {
        self.promote(scope, id, force).await
    }

    async fn rollback(&self, scope: &TenantScope, id: GenerationId) -> Result<Transition, DeskError> {
        self.rollback(scope, id).await
    }

    async fn retire(&self, scope: &TenantScope, id: GenerationId) -> Result<Transition, DeskError> {
        self.retire(scope, id).await
    }
}

#[async_trait]
impl ReportPort for GenerationScorer {
    async fn report(&self, scope: &TenantScope, id: GenerationId) -> Result<Option<GenerationReport>, EvalError> {
        self.report(scope, id).await
    }
}
