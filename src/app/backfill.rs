//! Vectors for chunks that were stored while no embedder was at hand.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::TenantScope;
use crate::ingest::Ingestor;
use crate::store::{OperationLog, SqliteStore};

/// Time between two looks for chunks without vectors. 5 min: a look costs a query for each collection.
const BACKFILL_EVERY: Duration = Duration::from_secs(300);

/// Embeds what was stored without vectors, now and from time to time: the embedder may be busy today and free tomorrow.
pub(super) async fn backfill(store: Arc<SqliteStore>, ingestor: Arc<Ingestor>) {
    loop {
        backfill_once(&store, &ingestor).await;
        tokio::time::sleep(BACKFILL_EVERY).await;
    }
}

/// One collection after the other.
async fn backfill_once(store: &SqliteStore, ingestor: &Ingestor) {
    let owned = match store.generations().await {
        Ok(owned) => owned,
        Err(error) => return tracing::warn!(%error, "cannot look for missing embeddings"),
    };
    for generation in owned {
        let scope = TenantScope::everything(generation.tenant);
        match ingestor.backfill(&scope, &generation.collection).await {
            Ok(0) => {}
            Ok(chunks) => tracing::info!(chunks, collection = %generation.collection, "missing embeddings filled in"),
            Err(error) => tracing::warn!(%error, collection = %generation.collection, "embeddings are still missing"),
        }
    }
}
