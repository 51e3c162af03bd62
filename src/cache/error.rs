//! Why there is no cache. A cache that is open never fails: what it cannot read is absent.

use crate::domain::ErrorKind;

/// An error on opening the cache. The caller can go on without one.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    #[error("the cache {path} is in use by another process")]
    Locked { path: String },
    #[error("the cache {path} cannot be opened: {detail}")]
    Unusable { path: String, detail: String },
    #[error("cannot use {path}")]
    Io {
        path: String,
        #[source]
        source: std::io::Error,
    },
}

impl CacheError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Locked { .. } => ErrorKind::Unavailable,
            Self::Unusable { .. } | Self::Io { .. } => ErrorKind::Internal,
        }
    }
}
