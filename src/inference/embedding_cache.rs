//! Query embeddings that were computed before, in memory.
//!
//! A vector holds nothing of a tenant, but the time of an answer would tell one tenant what another has asked; so
//! the tenant enters the key.

use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use crate::domain::{Fingerprint, TenantScope, hash_parts};

/// A bounded cache of query embeddings: the least recently used entry goes first.
pub struct EmbeddingCache {
    embedder: Fingerprint,
    entries: Mutex<LruCache<[u8; 16], Arc<[f32]>>>,
}

impl EmbeddingCache {
    /// A cache of at most `entries` vectors (at least 1) of the embedder with this fingerprint.
    pub fn new(embedder: Fingerprint, entries: usize) -> Self {
        let entries = NonZeroUsize::new(entries).unwrap_or(NonZeroUsize::MIN);
        Self { embedder, entries: Mutex::new(LruCache::new(entries)) }
    }

    /// Whose vectors these are.
    pub fn embedder(&self) -> Fingerprint {
        self.embedder
    }

    /// The vector of a query that this tenant has asked before.
    pub fn get(&self, scope: &TenantScope, text: &str) -> Option<Arc<[f32]>> {
        self.entries.lock().get(&self.key(scope, text)).cloned()
    }

    /// Keeps a query's vector.
    pub fn put(&self, scope: &TenantScope, text: &str, vector: Arc<[f32]>) {
        self.entries.lock().put(self.key(scope, text), vector);
    }

    /// Forgets everything, of all tenants.
    pub fn clear(&self) {
        self.entries.lock().clear();
    }

    fn key(&self, scope: &TenantScope, text: &str) -> [u8; 16] {
        hash_parts(&[scope.tenant.as_str().as_bytes(), &self.embedder.0, text.as_bytes()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::TenantId;

    #[test]
    fn a_tenant_finds_its_own_queries_and_the_oldest_go_first() {
        let scope = |name: &str| TenantScope::everything(TenantId::new(name).unwrap());
        let cache = EmbeddingCache::new(Fingerprint([0; 16]), 2);
        cache.put(&scope("a"), "one", Arc::new([1.0]));
        cache.put(&scope("a"), "two", Arc::new([2.0]));

        assert_eq!(cache.get(&scope("a"), "one").as_deref(), Some(&[1.0][..]));
        assert_eq!(cache.get(&scope("b"), "one"), None);

        cache.put(&scope("a"), "three", Arc::new([3.0]));
        assert_eq!(cache.get(&scope("a"), "two"), None);
        assert!(cache.get(&scope("a"), "one").is_some());
    }
}
