//! How much the cache may take.

use serde::{Deserialize, Serialize};

/// Bounds of the disk cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CacheSettings {
    /// Bytes of values kept. Default 256 MiB: about 13,000 passages' token states at 150 tokens each. The directory
    /// takes hardly more.
    pub max_bytes: u64,
    /// Bytes of index pages kept in memory. Default 8 MiB: the index of a full cache is smaller than that; values
    /// are cached by the operating system and not a second time here.
    pub page_cache_bytes: u64,
    /// Milliseconds between writes to disk. Default 1,000: what is lost in a crash is only computed again.
    pub flush_every_ms: u64,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self { max_bytes: 256 << 20, page_cache_bytes: 8 << 20, flush_every_ms: 1_000 }
    }
}
