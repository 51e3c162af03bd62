//! Settings of the truth.

use serde::{Deserialize, Serialize};

/// When the whole database file is read and checked on opening. The header, the schema and the file's length are
/// always checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntegrityCheck {
    Never,
    /// Only if the last process did not close the database.
    AfterCrash,
    Always,
}

/// Settings of the SQLite store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreSettings {
    /// Connections that read. Default 4: two cores and as many waiting for the disk.
    pub readers: usize,
    /// Page cache of each connection in KiB. Default 8192: the ids of 200,000 chunks and what leads to the rest.
    pub cache_kib: u32,
    /// How much of the file is mapped into memory, in MiB. Default 0: a failing disk then gives an error where a
    /// mapping would give a signal, and resident memory stays bounded. A mapping as large as the file takes a third
    /// off the time that hydration takes.
    pub mmap_mib: u32,
    /// Calls that may wait for the writer; further ones are refused. Default 256: a few seconds of work.
    pub write_queue_limit: usize,
    /// Document writes in one transaction. Default 512: beyond this the fsync is no longer what costs.
    pub group_writes: usize,
    /// Text and vectors in one transaction, in MiB. Default 8: bounds memory and the wait of the small for the big.
    pub group_mib: usize,
    /// Most collections of one tenant; documents for further ones are refused. Default 256: each has indexes of its own,
    /// with files and, while it is written to, threads.
    pub max_collections_per_tenant: usize,
    /// How long a statement waits for a lock, in milliseconds. Default 5000; only a backup tool can make it wait.
    pub busy_timeout_ms: u64,
    /// Size of the write-ahead log at which it is moved into the database file, in MiB. Default 16.
    pub checkpoint_mib: u64,
    /// Largest size of the database file in MiB; at it, writes fail as on a full disk. Default `None`: the disk's.
    pub max_size_mib: Option<u64>,
    /// Default `never`: reading gigabytes at each start would cost minutes.
    pub integrity_check: IntegrityCheck,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            readers: 4,
            cache_kib: 8192,
            mmap_mib: 0,
            write_queue_limit: 256,
            group_writes: 512,
            group_mib: 8,
            max_collections_per_tenant: 256,
            busy_timeout_ms: 5_000,
            checkpoint_mib: 16,
            max_size_mib: None,
            integrity_check: IntegrityCheck::Never,
        }
    }
}
