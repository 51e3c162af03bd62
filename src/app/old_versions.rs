//! Forgets versions that the settings do not keep, now and from time to time.

use std::sync::Arc;
use std::time::Duration;

use crate::gateway::Clock;
use crate::jobs::Keep;
use crate::store::{Erasure, SqliteStore};

/// Time between two looks. 1 h, as for traces and tasks: a look reads the list of all versions.
const FORGET_EVERY: Duration = Duration::from_secs(3_600);

/// Works until it is dropped; what is removed goes in parts, so it may be cut anywhere.
pub(super) async fn forget_old_versions(store: Arc<SqliteStore>, keep: Keep, clock: Clock) {
    while let Some(wanted) = keep.versions_at(clock()) {
        match store.forget_versions(wanted).await {
            Ok(0) => {}
            Ok(versions) => tracing::info!(versions, "old versions are forgotten"),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "old versions cannot be forgotten");
            }
        }
        tokio::time::sleep(FORGET_EVERY).await;
    }
}
