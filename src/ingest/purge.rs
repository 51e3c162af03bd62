//! Takes what was removed out of the index files: searches let go of it at once, the files only when they are merged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::domain::{CollectionName, GenerationState, TenantId, TenantScope};
use crate::index::{GenerationIndex, Generations, IndexError, IndexProgress, Lagging};
use crate::store::{GenerationStore, OperationLog, OwnedGeneration, StoreError};

/// Times that files are tried to be deleted. With the pause below half a minute: longer than any search reads them.
const TRIES: u32 = 300;
const PAUSE: Duration = Duration::from_millis(100);

/// Why something that was removed may still be in a file.
#[derive(Debug, thiserror::Error)]
pub enum PurgeError {
    #[error("the operation log cannot be read")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Lagging(#[from] Lagging),
    #[error("an index could not be written anew")]
    Index(#[from] IndexError),
    #[error("old files of an index are still being read")]
    Busy,
}

/// Purges index files. Cheap to clone.
#[derive(Clone)]
pub struct IndexPurger {
    pub log: Arc<dyn OperationLog>,
    pub indexes: Arc<Generations>,
    pub progress: Arc<IndexProgress>,
    pub generations: Arc<dyn GenerationStore>,
}

impl IndexPurger {
    /// Waits, at most until `until`, until the indexes of a collection have followed everything that is written now,
    /// and writes them anew without what was removed. Returns how many there are.
    pub async fn purge(
        &self,
        tenant: &TenantId,
        collection: &CollectionName,
        until: Instant,
    ) -> Result<u64, PurgeError> {
        let mut owned = self.log.generations().await?;
        owned.retain(|one| one.tenant == *tenant && one.collection == *collection);
        for generation in &owned {
            let id = generation.generation.id;
            let newest = self.log.last_sequence_of(id).await?;
            self.progress.wait(Some(id), newest, until).await?;
            self.purge_one(generation).await?;
        }
        Ok(owned.len() as u64 + self.remove_retired(tenant, collection).await?)
    }

    /// Files of generations that nobody asks any more, and whose rows wait to be removed.
    async fn remove_retired(&self, tenant: &TenantId, collection: &CollectionName) -> Result<u64, PurgeError> {
        let scope = TenantScope::everything(tenant.clone());
        let mut removed = 0;
        for status in self.generations.generation_statuses(&scope, Some(collection)).await? {
            if status.generation.state == GenerationState::Retired && status.removed_at.is_none() {
                let (indexes, id) = (Arc::clone(&self.indexes), status.generation.id);
                tokio::task::spawn_blocking(move || indexes.remove(id)).await.unwrap_or(Ok(()))?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    async fn purge_one(&self, owned: &OwnedGeneration) -> Result<(), PurgeError> {
        for _ in 0..TRIES {
            let (indexes, generation) = (Arc::clone(&self.indexes), owned.generation.clone());
            let work = move || -> Result<bool, IndexError> {
                let index = indexes.get(generation.id, &generation.profile)?;
                indexes.remove_damaged(generation.id)?;
                purge(&index)
            };
            // A panic in there has been told to the log; trying again is all that can be done about it.
            if tokio::task::spawn_blocking(work).await.unwrap_or(Ok(false))? {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(PurgeError::Busy)
    }
}

fn purge(index: &GenerationIndex) -> Result<bool, IndexError> {
    let words = index.lexical.purge()?;
    let directions = index.vector.as_ref().map_or(Ok(true), |vector| vector.purge())?;
    Ok(words && directions)
}
