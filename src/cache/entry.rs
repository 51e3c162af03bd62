//! How an entry is laid out: the key carries tenant, producer and content; the value carries its own checksum.

use twox_hash::XxHash3_64;

use crate::domain::{ContentHash, Fingerprint, TenantScope, hash_parts};

/// Bytes in front of each value: xxh3 over key and payload.
pub(super) const CHECKSUM_BYTES: usize = 8;

/// Which derived bytes are meant: what kind, made by which producer, from which content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CacheKey {
    /// Kind of value (`token-states`). Values of different namespaces never meet.
    pub namespace: &'static str,
    /// The model or code that made the value; a new revision has a new fingerprint and finds nothing old.
    pub producer: Fingerprint,
    /// Hash of the input.
    pub content: ContentHash,
}

/// The key's bytes: tenant first, so that one tenant's entries lie together.
pub(super) fn key_bytes(scope: &TenantScope, key: &CacheKey) -> [u8; 80] {
    let mut bytes = [0; 80];
    bytes[..16].copy_from_slice(&tenant_prefix(scope));
    bytes[16..32].copy_from_slice(&hash_parts(&[key.namespace.as_bytes()]));
    bytes[32..48].copy_from_slice(&key.producer.0);
    bytes[48..].copy_from_slice(&key.content.0);
    bytes
}

/// What all keys of one tenant begin with.
pub(super) fn tenant_prefix(scope: &TenantScope) -> [u8; 16] {
    hash_parts(&[b"tenant", scope.tenant.as_str().as_bytes()])
}

/// `payload` with its checksum in front.
pub(super) fn seal(key: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(CHECKSUM_BYTES + payload.len());
    sealed.extend_from_slice(&checksum(key, payload).to_le_bytes());
    sealed.extend_from_slice(payload);
    sealed
}

/// The payload, if it is what was sealed under this key.
pub(super) fn unseal<'a>(key: &[u8], sealed: &'a [u8]) -> Option<&'a [u8]> {
    let (head, payload) = sealed.split_at_checked(CHECKSUM_BYTES)?;
    (head == checksum(key, payload).to_le_bytes()).then_some(payload)
}

// The key enters, so that a value found under another's key is refused as well.
fn checksum(key: &[u8], payload: &[u8]) -> u64 {
    XxHash3_64::oneshot_with_seed(XxHash3_64::oneshot(key), payload)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_value_with_any_byte_changed_is_refused(payload in prop::collection::vec(any::<u8>(), 0..64), at: prop::sample::Index, flip in 1u8..) {
            let mut sealed = seal(b"key", &payload);
            prop_assert_eq!(unseal(b"key", &sealed), Some(payload.as_slice()));
            prop_assert_eq!(unseal(b"other", &sealed), None);

            let at = at.index(sealed.len());
            sealed[at] ^= flip;

            prop_assert_eq!(unseal(b"key", &sealed), None);
        }
    }
}
