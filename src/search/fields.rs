//! The fields of a hit that filters and groups look at: metadata and the reserved fields of its document.

use serde_json::Value;

use crate::domain::{Fields, Metadata, Timestamp};
use crate::store::HydratedChunk;

/// A hydrated chunk as a filter sees it. A reserved name always means the document's own field, so metadata cannot
/// pose as it.
pub(super) struct ChunkFields<'a>(pub &'a HydratedChunk);

impl Fields for ChunkFields<'_> {
    fn field(&self, name: &str) -> Option<Value> {
        let Self(hydrated) = self;
        let head = &hydrated.head;
        match name {
            "document_id" => Some(head.id.as_str().into()),
            "source_uri" => head.source_uri.as_deref().map(Value::from),
            "title" => head.title.as_deref().map(Value::from),
            "media_type" => Some(head.media_type.as_str().into()),
            "created_at" => rfc3339(hydrated.created_at),
            "updated_at" => rfc3339(hydrated.updated_at),
            _ => metadata_value(hydrated, name).cloned(),
        }
    }
}

/// The chunk's own value of a key, else the document's.
pub(super) fn metadata_value<'a>(hydrated: &'a HydratedChunk, key: &str) -> Option<&'a Value> {
    let own = hydrated.chunk.metadata.as_ref().and_then(|metadata| metadata.get(key));
    own.or_else(|| hydrated.head.metadata.get(key))
}

/// The document's metadata with the chunk's own laid over it.
pub(super) fn merged_metadata(document: Metadata, own: Option<Metadata>) -> Metadata {
    let mut merged = document;
    merged.extend(own.into_iter().flatten());
    merged
}

// Text of this form sorts as time does, to the second.
fn rfc3339(time: Timestamp) -> Option<Value> {
    jiff::Timestamp::from_microsecond(time.0).ok().map(|time| Value::from(time.to_string()))
}
