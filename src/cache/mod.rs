//! What may be lost: derived bytes kept on disk, keyed by tenant and content, bounded in size.

mod disk;
mod entry;
mod error;
mod generation;
mod settings;

pub use disk::Cache;
pub use entry::CacheKey;
pub use error::CacheError;
pub use settings::CacheSettings;
