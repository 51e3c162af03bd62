//! The models of this process: which could be loaded, and why the others could not.

use std::sync::Arc;

use crate::cache::Cache;
use crate::config::Config;
use crate::domain::EmbedderSpec;
use crate::inference::{
    Embedder, Embedders, EmbeddingCache, InferenceError, Models, NamedReranker, OnnxEmbedder, RescorerParts,
    TokenCounter, WordCounter,
};

use super::AppError;

/// The models that could be loaded, and why the others could not.
#[derive(Default)]
pub(super) struct LoadedModels {
    pub embedder: Option<Arc<OnnxEmbedder>>,
    /// Those beside it.
    pub also: Vec<Arc<OnnxEmbedder>>,
    /// Best first.
    pub rerankers: Vec<NamedReranker>,
    /// Names of those that the settings ask for, also while their files are missing.
    pub reranker_names: Vec<String>,
    /// What the profile of new collections names, also while the files are missing.
    pub spec: Option<EmbedderSpec>,
    /// One sentence for each model that is not at hand.
    pub missing: Vec<String>,
}

/// The models that are known and where they lie. Blocks for a moment.
pub fn models(config: &Config) -> Result<Models, InferenceError> {
    // `Config` has resolved the directory, or it would not have been accepted.
    Models::open(&config.models, &config.models.dir.clone().unwrap_or_default())
}

pub(super) async fn load_models(config: &Config, cache: Option<Arc<Cache>>) -> Result<LoadedModels, AppError> {
    let models = models(config)?;
    let inference = config.inference.clone();
    let loaded = tokio::task::spawn_blocking(move || {
        let mut loaded = LoadedModels {
            spec: models.embedder_spec(&inference).ok(),
            reranker_names: models.reranker_names(&inference),
            ..LoadedModels::default()
        };
        let runtime = match models.load_runtime() {
            Ok(runtime) => runtime,
            Err(error) => {
                loaded.note(&error);
                return loaded;
            }
        };
        match models.load_embedder(&runtime, &inference) {
            Ok(embedder) => {
                loaded.spec = Some(embedder.spec().clone());
                loaded.embedder = Some(embedder);
            }
            Err(error) => loaded.note(&error),
        }
        for which in inference.embedders().into_iter().skip(1) {
            match models.load_embedder_as(&runtime, &inference, which) {
                Ok(embedder) => loaded.also.push(embedder),
                Err(error) => loaded.note(&error),
            }
        }
        let parts = RescorerParts { embedder: loaded.embedder.clone(), cache };
        let (rerankers, failed) = models.load_rerankers(&runtime, &inference, parts);
        loaded.rerankers = rerankers;
        failed.iter().for_each(|error| loaded.note(error));
        loaded
    });
    Ok(loaded.await?)
}

/// Room for query embeddings of each embedder, unless the settings say none.
pub(super) fn query_caches(models: &LoadedModels, config: &Config) -> Vec<Arc<EmbeddingCache>> {
    let entries = config.inference.query_cache_entries;
    let embedders = models.embedders();
    let wanted = embedders.iter().filter(|_| entries > 0);
    wanted.map(|embedder| Arc::new(EmbeddingCache::new(embedder.spec().fingerprint(), entries))).collect()
}

impl LoadedModels {
    pub fn embedder(&self) -> Option<Arc<dyn Embedder>> {
        self.embedder.clone().map(|embedder| embedder as Arc<dyn Embedder>)
    }

    /// All that could be loaded, in the order of the settings.
    pub fn embedders(&self) -> Embedders {
        let all = self.embedder.iter().chain(&self.also);
        Embedders::new(all.map(|embedder| Arc::clone(embedder) as Arc<dyn Embedder>).collect())
    }

    fn note(&mut self, error: &InferenceError) {
        tracing::warn!(%error, "a model is not at hand");
        self.missing.push(error.to_string());
    }

    /// Every way of counting tokens; the first is for new collections.
    pub fn counters(&self) -> Vec<Arc<dyn TokenCounter>> {
        // Collections made while no model was at hand count by words; they must stay writable afterwards.
        let words: Arc<dyn TokenCounter> = Arc::new(WordCounter);
        let of_models = self.embedder.iter().chain(&self.also).map(|embedder| embedder.token_counter());
        match &self.embedder {
            Some(_) => of_models.chain([words]).collect(),
            // The first is for new collections: another model's would count for one that is only away.
            None => [words].into_iter().chain(of_models).collect(),
        }
    }
}
