//! How a collection's text becomes searchable: chunker, embedder, analyzer, each with a fingerprint.
//!
//! Vectors of different embedder fingerprints are never compared.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Fingerprint, ids::hash_parts};

/// A chunking strategy with its parameters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ChunkerSpec {
    pub name: String,
    pub version: u32,
    pub params: BTreeMap<String, String>,
}

/// An embedding model at one revision, as it is run (precision, pooling and prefixes enter the revision).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EmbedderSpec {
    pub name: String,
    pub revision: String,
    pub dimensions: usize,
}

/// How text becomes terms.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AnalyzerSpec {
    pub name: String,
    pub version: u32,
    /// ISO 639-1 code, or `auto` for detection per document.
    pub language: String,
}

/// What stands before a chunk's text where it is embedded, and beside it where words are looked up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContextSpec {
    /// Nothing.
    None,
    /// The document's title and the headings above the chunk.
    #[default]
    Headings,
    /// These, and a sentence or two that a language model has written about the chunk's place in its document.
    Written { prompt: String, version: String, route: String },
}

/// The recipe of a generation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Profile {
    pub chunker: ChunkerSpec,
    /// `None`: a collection without vectors.
    pub embedder: Option<EmbedderSpec>,
    pub analyzer: AnalyzerSpec,
    /// Left out of the fingerprint where it is the headings, as it was before there was a choice.
    #[serde(default, skip_serializing_if = "ContextSpec::is_default")]
    pub context: ContextSpec,
}

impl ContextSpec {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl ChunkerSpec {
    pub fn fingerprint(&self) -> Fingerprint {
        fingerprint("chunker", self)
    }
}

impl EmbedderSpec {
    pub fn fingerprint(&self) -> Fingerprint {
        fingerprint("embedder", self)
    }
}

impl Profile {
    pub fn fingerprint(&self) -> Fingerprint {
        fingerprint("profile", self)
    }
}

// Maps are ordered (`BTreeMap`) and fields are written in declaration order, so equal values give equal JSON.
fn fingerprint<T: Serialize>(kind: &str, value: &T) -> Fingerprint {
    let json = serde_json::to_vec(value).expect("specifications hold only strings and numbers");
    Fingerprint(hash_parts(&[kind.as_bytes(), &json]))
}
