//! Collections that have been looked up: every search asks for one, and this program is the only writer.

use std::collections::HashMap;

use parking_lot::RwLock;

use crate::domain::{Collection, CollectionName, TenantId};

/// Collections remembered at most; at more, all are forgotten. A profile takes about a kilobyte.
const MOST_KNOWN: usize = 4096;

/// Collections that have one generation and no other beside it: these stay as they are until a generation changes. The
/// others change with every document that moves, and are looked up each time.
#[derive(Debug, Default)]
pub(super) struct KnownCollections(RwLock<Known>);

#[derive(Debug, Default)]
struct Known {
    /// How many changes of generations there had been before what is here was looked up.
    as_of: u64,
    by_tenant: HashMap<TenantId, HashMap<CollectionName, Collection>>,
}

impl KnownCollections {
    /// What was looked up when there had been `as_of` changes of generations; nothing older.
    pub(super) fn get(&self, as_of: u64, tenant: &TenantId, name: &CollectionName) -> Option<Collection> {
        let known = self.0.read();
        if known.as_of != as_of {
            return None;
        }
        known.by_tenant.get(tenant)?.get(name).cloned()
    }

    /// For when the database was changed behind the writer's back.
    #[cfg(test)]
    pub(super) fn forget(&self) {
        self.0.write().by_tenant.clear();
    }

    /// `as_of` was read before the collection was looked up.
    pub(super) fn remember(&self, as_of: u64, tenant: &TenantId, collection: &Collection) {
        let mut known = self.0.write();
        if as_of < known.as_of {
            return;
        }
        if as_of > known.as_of || known.by_tenant.values().map(HashMap::len).sum::<usize>() >= MOST_KNOWN {
            known.by_tenant.clear();
            known.as_of = as_of;
        }
        known.by_tenant.entry(tenant.clone()).or_default().insert(collection.name.clone(), collection.clone());
    }
}

#[cfg(test)]
mod tests {
    use crate::store::conformance::{collection_name, profile, scope};

    use super::*;
    use crate::domain::{Generation, GenerationId, GenerationState, Timestamp};

    #[test]
    fn what_was_looked_up_before_a_change_is_not_known_after_it() {
        let (known, tenant, name) = (KnownCollections::default(), scope("acme").tenant, collection_name("c"));
        let collection = |number| Collection {
            name: name.clone(),
            live: Generation {
                id: GenerationId([number; 16]),
                profile: profile(),
                state: GenerationState::Live,
                created_at: Timestamp(0),
            },
            also_serving: Vec::new(),
            shadow: None,
            created_at: Timestamp(0),
        };

        known.remember(7, &tenant, &collection(1));
        assert_eq!(known.get(7, &tenant, &name), Some(collection(1)));
        assert_eq!(known.get(8, &tenant, &name), None);
        known.remember(8, &tenant, &collection(2));
        // A look-up that began before the change ends after it.
        known.remember(7, &tenant, &collection(1));

        assert_eq!(known.get(8, &tenant, &name), Some(collection(2)));
        assert_eq!(known.get(7, &tenant, &name), None);
    }
}
