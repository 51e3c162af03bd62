//! How a collection wants its documents: by which chunker, and where its vectors come from.
//!
//! A collection keeps the profile that it was made with. Settings that have changed since wait for a new
//! generation; mixing two chunkers or two embedders in one would make its scores meaningless.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::domain::{ChunkerSpec, ContextSpec, EmbedderSpec, Fingerprint, Generation};
use crate::inference::{Embedders, TokenCounter};
use crate::text::{ChunkingSettings, TokenPositions, chunking_of};

use super::ItemError;
use super::settings::CALLER_REVISION;

/// Where the vectors of a collection come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum VectorSource {
    /// An embedder of this process.
    Embedder,
    /// The caller, for each chunk.
    Caller { dimensions: usize },
    /// A model that is not at hand now: chunks are stored without vectors, and embedded when it is back.
    Absent,
    /// The collection has no vectors.
    None,
}

/// What preparing a document for one collection needs to know.
#[derive(Debug, Clone)]
pub(super) struct Recipe {
    pub generation: Generation,
    pub vectors: VectorSource,
}

impl Recipe {
    pub(super) fn of(generation: Generation, embedders: &Embedders) -> Self {
        let vectors = match &generation.profile.embedder {
            None => VectorSource::None,
            Some(spec) if spec.revision == CALLER_REVISION => VectorSource::Caller { dimensions: spec.dimensions },
            Some(spec) if embedders.of(spec).is_some() => VectorSource::Embedder,
            Some(_) => VectorSource::Absent,
        };
        Self { generation, vectors }
    }

    /// What stands before a chunk's text.
    pub(super) fn context(&self) -> &ContextSpec {
        &self.generation.profile.context
    }

    /// The model behind the collection's vectors, at hand or not; `None` where the caller brings them or none are.
    pub(super) fn embedder(&self) -> Option<Fingerprint> {
        match self.vectors {
            VectorSource::Embedder | VectorSource::Absent => {
                self.generation.profile.embedder.as_ref().map(EmbedderSpec::fingerprint)
            }
            VectorSource::Caller { .. } | VectorSource::None => None,
        }
    }

    /// The chunker of the profile, if one of `counters` counts as it wants.
    pub(super) fn chunker(&self, collection: &str, counters: &[Arc<dyn TokenCounter>]) -> Result<Chunker, ItemError> {
        let spec = &self.generation.profile.chunker;
        let wanted = spec.params.get("counter").map_or(spec.name.as_str(), String::as_str);
        let counter = counters.iter().find(|counter| counter.name() == wanted);
        let (Some(settings), Some(counter)) = (chunking_of(spec), counter) else {
            let at_hand: Vec<&str> = counters.iter().map(|counter| counter.name()).collect();
            let detail = format!("it counts by {wanted}, this program by {}", at_hand.join(" or "));
            return Err(ItemError::ChunkerUnavailable { collection: collection.to_owned(), detail });
        };
        Ok(Chunker { settings, counter: Arc::clone(counter), fingerprint: spec.fingerprint() })
    }
}

/// A chunker ready to run.
#[derive(Clone)]
pub(super) struct Chunker {
    pub settings: ChunkingSettings,
    pub counter: Arc<dyn TokenCounter>,
    pub fingerprint: Fingerprint,
}

/// Lets the text room count as the embedder does.
pub(super) struct Counting<'a>(pub &'a dyn TokenCounter);

impl TokenPositions for Counting<'_> {
    fn token_starts(&self, text: &str) -> Vec<usize> {
        self.0.token_starts(text)
    }
}

/// The chunker of chunks that the caller made.
pub(super) fn caller_chunker() -> ChunkerSpec {
    ChunkerSpec { name: "caller".to_owned(), version: 1, params: BTreeMap::new() }
}
