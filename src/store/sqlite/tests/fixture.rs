//! A store in a directory of its own.

use std::path::PathBuf;

use tempfile::TempDir;

use crate::store::conformance::Subject;
use crate::store::{SqliteStore, StoreSettings};

pub(super) struct Fresh {
    pub directory: TempDir,
    pub store: SqliteStore,
}

impl Fresh {
    pub(super) fn subject(&self) -> Subject<'_> {
        subject(&self.store)
    }

    pub(super) fn path(&self) -> PathBuf {
        self.directory.path().join("plumb.db")
    }

    /// Closes the store and opens it again.
    pub(super) async fn reopen(self) -> Self {
        self.store.close().await.unwrap();
        let path = self.path();
        Self { store: SqliteStore::open(&path, StoreSettings::default()).await.unwrap(), ..self }
    }
}

/// The store as every promise sees it.
pub(super) fn subject(store: &SqliteStore) -> Subject<'_> {
    Subject {
        corpus: store,
        log: store,
        ledger: store,
        tasks: store,
        queue: store,
        generations: store,
        cases: store,
        erasure: store,
    }
}

pub(super) async fn fresh() -> Fresh {
    fresh_with(StoreSettings::default()).await
}

pub(super) async fn fresh_with(settings: StoreSettings) -> Fresh {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&directory.path().join("plumb.db"), settings).await.unwrap();
    Fresh { directory, store }
}
