//! `embed`: embeddings for what was stored while no embedder was at hand.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::domain::{CollectionName, ContentHash, JsonText, Permission, TaskKind, TenantScope};
use crate::ingest::Ingestor;
use crate::store::CorpusStore;
use crate::tasks::{JobHandler, Prepared, TaskError, Work};

use super::fault::{not_json, of_ingest, permit};
use super::input::read;

const KIND: &str = "embed";

/// See the module. For the process itself: it works on all documents of a tenant.
pub(super) struct EmbedJob {
    pub ingestor: Arc<Ingestor>,
    pub store: Arc<dyn CorpusStore>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct EmbedInput {
    /// `None`: every collection of the tenant.
    collection: Option<CollectionName>,
}

#[async_trait]
impl JobHandler for EmbedJob {
    fn kind(&self) -> TaskKind {
        TaskKind::new(KIND).expect("a plain word is a valid name")
    }

    fn permission(&self) -> Permission {
        Permission::Admin
    }

    fn is_public(&self) -> bool {
        false
    }

    async fn prepare(&self, scope: &TenantScope, input: JsonText, _: Option<String>) -> Result<Prepared, TaskError> {
        permit(scope, Permission::Write, KIND)?;
        let input: EmbedInput = read(&input)?;
        let context = ContentHash::of(KIND.as_bytes());
        let input = JsonText::of(&input).map_err(not_json)?;
        Ok(Prepared { input, context, prompt: None, model: None, total: None })
    }

    async fn run(&self, work: &Work) -> Result<JsonText, TaskError> {
        let input: EmbedInput = work.input()?;
        let collections = match input.collection {
            Some(one) => vec![one],
            None => work.step("collections", &(), |(), _| self.collections(&work.task().scope)).await?,
        };
        let scope = &work.task().scope;
        let fill =
            |name: CollectionName, _| async move { self.ingestor.backfill(scope, &name).await.map_err(of_ingest) };
        let filled = work.fan_out("embed", &collections, fill).await?;
        let (mut chunks, mut failed) = (0, Vec::new());
        for (name, outcome) in collections.iter().zip(filled) {
            match outcome {
                Ok(filled) => chunks += filled,
                Err(problem) => failed.push(json!({"collection": name, "detail": problem.detail})),
            }
        }
        Ok(JsonText::of_value(&json!({"chunks": chunks, "failed": failed})))
    }
}

impl EmbedJob {
    async fn collections(&self, scope: &TenantScope) -> Result<Vec<CollectionName>, TaskError> {
        Ok(self.store.collections(scope).await?.into_iter().map(|found| found.name).collect())
    }
}
