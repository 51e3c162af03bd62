//! Models that run in this process: embedder and reranker.

mod batch;
mod bundled;
mod contract;
mod cross_encoder;
mod embedder;
mod embedders;
mod embedding_cache;
mod ensemble;
mod error;
pub mod export;
mod files;
mod languages;
mod loader;
mod manifest;
mod pooling;
mod queue;
mod rescorer;
mod runtime;
mod scripts;
mod session;
mod settings;
mod sparse;
mod sparse_vector;
mod token_states;
mod tokenizer;
mod word_counter;

#[cfg(test)]
mod manifest_tests;
#[cfg(test)]
mod model_tests;

pub use contract::{
    EmbeddedBy, Embedder, InputKind, NamedReranker, RerankPassage, RerankQuery, Reranker, RerankerKind, TokenCounter,
};
pub use cross_encoder::OnnxCrossEncoder;
pub use embedder::OnnxEmbedder;
pub use embedders::Embedders;
pub use embedding_cache::EmbeddingCache;
pub use ensemble::RerankEnsemble;
pub use error::InferenceError;
pub use files::{check_file, default_models_dir, no_runtime_hint, sha256_of};
pub use languages::PassageSample;
pub use loader::Models;
pub use manifest::{
    Activation, Bundled, Derived, EmbedderFacts, ExpectedFile, LocalFiles, LogitHead, Manifest, ModelEntry, Package,
    PackageFile, PassageGraph, Platform, Pooling, Precision, RerankerFacts, Role, SparseFacts,
};
pub use rescorer::{RescorerParts, SparseDenseRescorer};
pub use runtime::Runtime;
pub use settings::{AlsoEmbedder, InferenceSettings, ModelsSettings, RescorerSettings};
pub use word_counter::WordCounter;
