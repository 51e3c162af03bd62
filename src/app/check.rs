//! Are the indexes what the truth says they should be? What is damaged is moved aside and built again.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::domain::{CollectionName, GenerationId, TenantId};
use crate::index::IndexError;
use crate::store::{DataDirectory, OperationLog, OwnedGeneration, SqliteStore};

use super::{App, AppError, open_failed, open_indexes};

/// Longest wait for indexes that are built again.
const REBUILD_LIMIT: Duration = Duration::from_secs(3_600);

/// One generation's indexes after a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexCheck {
    pub tenant: TenantId,
    pub collection: CollectionName,
    pub generation: GenerationId,
    /// What was damaged and has been built again; empty if all was well.
    pub damaged: Vec<String>,
    /// Chunks that lexical searches see, and that they should see.
    pub chunks: (u64, u64),
    /// The same of vectors; `None` without vectors.
    pub vectors: Option<(u64, u64)>,
}

impl IndexCheck {
    /// True if searches see what the truth holds.
    pub fn is_whole(&self) -> bool {
        self.chunks.0 == self.chunks.1 && self.vectors.is_none_or(|(seen, held)| seen == held)
    }
}

/// Verifies every index file of the data directory, builds what is damaged again from the truth, and compares the
/// counts. Takes the directory for itself; [`AppError::InUse`] if another process holds it.
pub async fn check_indexes(config: Config) -> Result<Vec<IndexCheck>, AppError> {
    let owned = generations(&config).await?;
    let damage = damage(&config, &owned).await?;
    let app = App::start(config).await?;
    app.catch_up(REBUILD_LIMIT).await?;
    let mut checks = Vec::with_capacity(owned.len());
    for (one, damaged) in owned.into_iter().zip(damage) {
        checks.push(app.check_index(one, damaged).await?);
    }
    app.shutdown().await?;
    Ok(checks)
}

async fn generations(config: &Config) -> Result<Vec<OwnedGeneration>, AppError> {
    let directory = DataDirectory::open(&config.server.data_dir).map_err(open_failed)?;
    let store = SqliteStore::open(&directory.database(), config.store.clone()).await.map_err(AppError::Store)?;
    let owned = store.generations().await.map_err(AppError::Store)?;
    store.close().await.map_err(AppError::Store)?;
    Ok(owned)
}

/// For each generation what does not open, which is moved aside by that.
async fn damage(config: &Config, owned: &[OwnedGeneration]) -> Result<Vec<Vec<String>>, AppError> {
    let directory = DataDirectory::open(&config.server.data_dir).map_err(open_failed)?;
    let (settings, dir) = (config.index.clone(), directory.path().join("index"));
    let wanted: Vec<_> = owned.iter().map(|owned| (owned.generation.id, owned.generation.profile.clone())).collect();
    let opened = tokio::task::spawn_blocking(move || {
        let indexes = open_indexes(&dir, &settings)?;
        wanted
            .iter()
            .map(|(id, profile)| Ok(indexes.get(*id, profile)?.damage()))
            .collect::<Result<Vec<_>, IndexError>>()
    });
    opened.await?.map_err(AppError::Index)
}

impl App {
    async fn check_index(&self, owned: OwnedGeneration, damaged: Vec<String>) -> Result<IndexCheck, AppError> {
        let held = self.store.live_counts(owned.generation.id).await.map_err(AppError::Store)?;
        let (indexes, id) = (Arc::clone(&self.indexes), owned.generation.id);
        let profile = owned.generation.profile.clone();
        let seen = tokio::task::spawn_blocking(move || {
            let index = indexes.get(id, &profile)?;
            Ok((index.lexical.live_chunks(), index.vector.as_ref().map(|vector| vector.live_vectors())))
        });
        let (chunks, vectors) = seen.await?.map_err(AppError::Index)?;
        Ok(IndexCheck {
            tenant: owned.tenant,
            collection: owned.collection,
            generation: id,
            damaged,
            chunks: (chunks, held.chunks),
            vectors: vectors.map(|vectors| (vectors, held.vectors)),
        })
    }
}
