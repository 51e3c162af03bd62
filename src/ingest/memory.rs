//! A bound on what documents take up between their arrival and their place in the store.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::IncomingItem;

/// Copies of a document's text that are in memory at once at most: as it came, as text, in chunks, as they are embedded,
/// in the statement that stores it.
const COPIES: usize = 5;

/// Memory for documents, in KiB. Whoever has a part of it needs nothing more to finish, so waiting always ends.
pub(super) struct Memory {
    places: Arc<Semaphore>,
    kib: u32,
}

impl Memory {
    pub(super) fn new(mib: u32) -> Self {
        let kib = mib.max(1).saturating_mul(1024);
        Self { places: Arc::new(Semaphore::new(kib as usize)), kib }
    }

    /// Waits for what these items take up; more than everything counts as everything.
    pub(super) async fn room_for(&self, items: &[IncomingItem]) -> OwnedSemaphorePermit {
        let bytes: usize = items.iter().flatten().map(super::IncomingDocument::size_bytes).sum();
        let wanted = u32::try_from(bytes.saturating_mul(COPIES) / 1024).unwrap_or(u32::MAX).min(self.kib);
        let places = Arc::clone(&self.places);
        places.acquire_many_owned(wanted).await.expect("the semaphore is never closed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{CollectionName, Metadata};
    use crate::ingest::{IncomingBody, IncomingDocument};

    fn item(bytes: usize) -> IncomingItem {
        Ok(IncomingDocument {
            id: None,
            collection: CollectionName::new("default").unwrap(),
            title: None,
            source_uri: None,
            media_type: None,
            body: IncomingBody::Text("a".repeat(bytes)),
            metadata: Metadata::new(),
            acl: None,
        })
    }

    #[tokio::test]
    async fn large_documents_take_turns_and_none_is_too_large_to_ever_pass() {
        let memory = Memory::new(1);
        let huge = memory.room_for(&[item(4 << 20)]).await;

        let small = [item(1024)];
        let mut next = std::pin::pin!(memory.room_for(&small));
        assert!(futures::poll!(next.as_mut()).is_pending());
        drop(huge);

        drop(next.await);
    }
}
