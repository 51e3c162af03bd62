//! The state that work will read, as a hash: the same input over another state is other work.

use std::sync::Arc;

use crate::domain::{CollectionName, ContentHash, Sequence, TenantScope};
use crate::store::{CorpusStore, OperationLog, StoreError};

/// Tells the state of collections.
#[derive(Clone)]
pub(super) struct States {
    pub store: Arc<dyn CorpusStore>,
    pub log: Arc<dyn OperationLog>,
}

impl States {
    /// The newest write to a collection, so that a search can wait until the index has it; `None` if there is none.
    pub async fn newest(&self, scope: &TenantScope, name: &CollectionName) -> Result<Option<Sequence>, StoreError> {
        let Some(found) = self.store.collection(scope, name).await? else { return Ok(None) };
        let newest = self.log.last_sequence_of(found.live.id).await?;
        Ok((newest > Sequence::default()).then_some(newest))
    }

    /// Changes with every write to one of these collections.
    pub async fn of(&self, scope: &TenantScope, names: &[CollectionName]) -> Result<ContentHash, StoreError> {
        let mut parts = Vec::new();
        for name in names {
            let Some(found) = self.store.collection(scope, name).await? else {
                parts.push(format!("{name} none"));
                continue;
            };
            let sequence = self.log.last_sequence_of(found.live.id).await?;
            // The profile, not the generation's own name: the same documents in another directory are the same state.
            parts.push(format!("{name} {} {sequence}", found.live.profile.fingerprint()));
        }
        Ok(ContentHash::of(parts.join("\n").as_bytes()))
    }
}
