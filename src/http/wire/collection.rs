//! Collections.

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::{Collection, TraceId};

use super::provenance::{ChunkerBody, EmbedderBody};
use super::time;

/// All collections of the tenant, by name.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct CollectionsBody {
    pub trace_id: String,
    pub collections: Vec<CollectionBody>,
}

/// A named set of documents and the recipe it is searched by.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct CollectionBody {
    #[schema(example = "default")]
    pub name: String,
    /// The generation that takes writes and serves searches.
    pub generation: String,
    pub created_at: String,
    pub chunker: ChunkerBody,
    /// `null`: a collection without vectors.
    pub embedder: Option<EmbedderBody>,
    /// Length of the collection's vectors; `null` without vectors.
    pub dimensions: Option<usize>,
    pub analyzer: AnalyzerBody,
}

/// How text becomes terms.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct AnalyzerBody {
    pub name: String,
    pub version: u32,
    /// ISO 639-1 code, or `auto` for detection per document.
    pub language: String,
}

impl CollectionsBody {
    pub(in crate::http) fn new(trace: TraceId, collections: Vec<Collection>) -> Self {
        Self { trace_id: trace.to_string(), collections: collections.into_iter().map(Into::into).collect() }
    }
}

impl From<Collection> for CollectionBody {
    fn from(collection: Collection) -> Self {
        let profile = collection.live.profile;
        Self {
            name: collection.name.into(),
            generation: collection.live.id.to_string(),
            created_at: time(collection.created_at),
            chunker: profile.chunker.into(),
            dimensions: profile.embedder.as_ref().map(|embedder| embedder.dimensions),
            embedder: profile.embedder.map(Into::into),
            analyzer: AnalyzerBody {
                name: profile.analyzer.name,
                version: profile.analyzer.version,
                language: profile.analyzer.language,
            },
        }
    }
}
