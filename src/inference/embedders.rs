//! The embedders at hand, by what they are.

use std::sync::Arc;

use crate::domain::EmbedderSpec;

use super::Embedder;

/// All embedders of this process; the first one is for new collections. Cheap to share.
#[derive(Clone, Default)]
pub struct Embedders(Vec<Arc<dyn Embedder>>);

impl Embedders {
    pub fn new(embedders: Vec<Arc<dyn Embedder>>) -> Self {
        Self(embedders)
    }

    /// The one for new collections.
    pub fn first(&self) -> Option<&Arc<dyn Embedder>> {
        self.0.first()
    }

    /// The one whose vectors can be compared with those of `spec`.
    pub fn of(&self, spec: &EmbedderSpec) -> Option<&Arc<dyn Embedder>> {
        self.0.iter().find(|embedder| embedder.spec() == spec)
    }

    /// The newest in order of preference that has this name.
    pub fn named(&self, name: &str) -> Option<&Arc<dyn Embedder>> {
        self.0.iter().find(|embedder| embedder.spec().name == name)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn Embedder>> {
        self.0.iter()
    }
}
