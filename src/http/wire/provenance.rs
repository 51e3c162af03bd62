//! Where a passage comes from, the same object everywhere.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::{ChunkerSpec, EmbedderSpec, Provenance, Timestamp};

/// Where a passage comes from. The document's content at `byte_range` is the passage's text, always.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct ProvenanceBody {
    #[schema(example = "handbook/backup.md")]
    pub document_id: String,
    /// Grows by one with each content, from 1.
    #[schema(example = 1)]
    pub document_version: u64,
    /// Over text and headings as they were read (BLAKE3, hexadecimal): equal content has equal hashes, in whatever
    /// document it stands.
    pub content_hash: String,
    pub source_uri: Option<String>,
    /// Start (included) and end (excluded), in bytes of the document's content in UTF-8.
    #[schema(example = json!([120, 480]))]
    pub byte_range: [usize; 2],
    /// From 1; absent where the format has no pages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page: Option<u32>,
    /// Titles of the headings above the passage, outermost first.
    #[schema(example = json!(["Operations", "Backup"]))]
    pub heading_path: Vec<String>,
    /// Position among the chunks of the version, from 0.
    pub ordinal: u32,
    pub chunker: ChunkerBody,
    /// `null`: made without an embedder.
    pub embedder: Option<EmbedderBody>,
    #[schema(example = "gen_00112233445566778899aabbccddeeff")]
    pub generation: String,
    /// RFC 3339 in UTC; `null`: not searchable yet.
    #[schema(example = "2026-01-31T12:00:00.123456Z")]
    pub indexed_at: Option<String>,
}

/// The way the text was cut.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct ChunkerBody {
    #[schema(example = "structure")]
    pub name: String,
    pub version: u32,
    pub params: BTreeMap<String, String>,
}

/// The model that embedded the text.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct EmbedderBody {
    #[schema(example = "all-MiniLM-L6-v2")]
    pub name: String,
    pub revision: String,
}

impl From<Provenance> for ProvenanceBody {
    fn from(provenance: Provenance) -> Self {
        Self {
            document_id: provenance.document_id.into(),
            document_version: provenance.document_version,
            content_hash: provenance.content_hash.to_string(),
            source_uri: provenance.source_uri,
            byte_range: [provenance.span.start, provenance.span.end],
            page: provenance.page,
            heading_path: provenance.heading_path,
            ordinal: provenance.ordinal,
            chunker: provenance.chunker.into(),
            embedder: provenance.embedder.map(Into::into),
            generation: provenance.generation.to_string(),
            indexed_at: provenance.indexed_at.map(time),
        }
    }
}

impl From<ChunkerSpec> for ChunkerBody {
    fn from(spec: ChunkerSpec) -> Self {
        Self { name: spec.name, version: spec.version, params: spec.params }
    }
}

impl From<EmbedderSpec> for EmbedderBody {
    fn from(spec: EmbedderSpec) -> Self {
        Self { name: spec.name, revision: spec.revision }
    }
}

/// A time as RFC 3339 in UTC. Times outside of the years -9999 to 9999 are shown as the nearest one inside.
pub(in crate::http) fn time(time: Timestamp) -> String {
    let nearest = if time.0 < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX };
    jiff::Timestamp::from_microsecond(time.0).unwrap_or(nearest).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_in_utc() {
        assert_eq!(time(Timestamp(0)), "1970-01-01T00:00:00Z");
        assert_eq!(time(Timestamp(1_767_225_600_123_456)), "2026-01-01T00:00:00.123456Z");
        assert!(time(Timestamp(i64::MAX)).starts_with("9999-"));
    }
}
