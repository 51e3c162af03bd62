//! Collections that have been looked up: every search asks for one, and this program is the only writer.

use std::collections::HashMap;

use parking_lot::RwLock;

use crate::domain::{Collection, CollectionName, TenantId};

/// Collections remembered at most; at more, all are forgotten. A profile takes about a kilobyte.
const MOST_KNOWN: usize = 4096;

/// What has been looked up. A collection that is there stays as it is, so nothing here ever becomes wrong; whoever
/// changes which generation is live has to forget it.
#[derive(Debug, Default)]
pub(super) struct KnownCollections(RwLock<HashMap<TenantId, HashMap<CollectionName, Collection>>>);

impl KnownCollections {
    pub(super) fn get(&self, tenant: &TenantId, name: &CollectionName) -> Option<Collection> {
        self.0.read().get(tenant)?.get(name).cloned()
    }

    /// For when another generation goes live.
    #[cfg(test)]
    pub(super) fn forget(&self) {
        self.0.write().clear();
    }

    pub(super) fn remember(&self, tenant: &TenantId, collection: &Collection) {
        let mut known = self.0.write();
        if known.values().map(HashMap::len).sum::<usize>() >= MOST_KNOWN {
            known.clear();
        }
        known.entry(tenant.clone()).or_default().insert(collection.name.clone(), collection.clone());
    }
}
