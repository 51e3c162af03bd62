//! From manifest and settings to running models. Nothing here panics or downloads: a server without models starts,
//! serves what it can, and says what is missing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::warn;

use crate::domain::EmbedderSpec;

use super::batch::BatchLimits;
use super::contract::{NamedReranker, Reranker, RerankerKind};
use super::cross_encoder::OnnxCrossEncoder;
use super::embedder::{EmbedderThreads, FileHashes, OnnxEmbedder, spec};
use super::ensemble::{Mixing, RerankEnsemble};
use super::files::{read_model, runtime_library};
use super::queue::QueueLimits;
use super::rescorer::{RescorerParts, SparseDenseRescorer};
use super::sparse::SparseEncoder;
use super::{InferenceError, InferenceSettings, Manifest, ModelsSettings, Precision, Role, Runtime};

/// Rows in one run of a sparse encoder: its graph with the whole vocabulary gives 120 kB a row and token.
const SPARSE_BATCH_ROWS: usize = 4;

/// The models that are known and where they lie.
#[derive(Debug, Clone)]
pub struct Models {
    manifest: Manifest,
    dir: PathBuf,
}

impl Models {
    /// Reads the manifests. `default_dir` is used when the settings name no directory. Blocks.
    pub fn open(settings: &ModelsSettings, default_dir: &Path) -> Result<Self, InferenceError> {
        let manifest = match &settings.manifest {
            Some(path) => Manifest::with_user_file(path)?,
            None => Manifest::built_in()?,
        };
        let dir = settings.dir.clone().unwrap_or_else(|| default_dir.to_path_buf());
        Ok(Self { manifest, dir })
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The directory that holds `<name>/<revision>/<file>` of each fetched model.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Checks and loads the ONNX Runtime library, once a process. Blocks.
    pub fn load_runtime(&self) -> Result<Runtime, InferenceError> {
        Runtime::load(&runtime_library(&self.manifest, &self.dir)?)
    }

    /// Checks and loads the embedder that the settings name and starts its threads. Blocks.
    pub fn load_embedder(
        &self,
        runtime: &Runtime,
        settings: &InferenceSettings,
    ) -> Result<Arc<OnnxEmbedder>, InferenceError> {
        self.load_embedder_as(runtime, settings, (&settings.embedder, settings.precision))
    }

    /// As [`Models::load_embedder`] of any model and precision. Blocks.
    pub fn load_embedder_as(
        &self,
        runtime: &Runtime,
        settings: &InferenceSettings,
        (name, precision): (&str, Precision),
    ) -> Result<Arc<OnnxEmbedder>, InferenceError> {
        let entry = self.manifest.model(name, Role::Embedder)?;
        let files = read_model(entry, &self.dir, precision)?;
        warn_of_saturation(&entry.name, files.variant);
        let threads = EmbedderThreads {
            owners: settings.embedder_threads,
            intra: settings.intra_threads.max(1),
            limits: limits(settings),
        };
        OnnxEmbedder::load(runtime, entry, &files, &threads).map(Arc::new)
    }

    /// What the embedder that the settings name will be once its files are there, so that collections made without
    /// them get their vectors later. Fails for a local model, which nothing but its files describes.
    pub fn embedder_spec(&self, settings: &InferenceSettings) -> Result<EmbedderSpec, InferenceError> {
        let entry = self.manifest.model(&settings.embedder, Role::Embedder)?;
        let undescribed =
            |detail: &str| InferenceError::Missing { model: entry.name.clone(), detail: detail.to_owned() };
        let facts = entry.embedder.as_ref().ok_or_else(|| undescribed("the manifest does not describe it"))?;
        let expected = entry.expected_files();
        let hash = |name: Option<&String>| {
            let file = expected.iter().find(|file| Some(file.name) == name.map(String::as_str));
            file.map(|file| file.sha256).ok_or_else(|| undescribed("the manifest does not pin its files"))
        };
        let variant = settings.precision.as_str();
        let onnx = hash(entry.onnx.get(&settings.precision))?;
        let tokenizer = hash(entry.tokenizer.as_ref())?;
        Ok(spec(entry, facts, &FileHashes { onnx, tokenizer, variant }))
    }

    /// Checks and loads the reranker that the settings name; `None` if they name none. A sparse encoder becomes the
    /// rescorer, which uses `parts` as well. Blocks.
    pub fn load_reranker(
        &self,
        runtime: &Runtime,
        settings: &InferenceSettings,
        parts: RescorerParts,
    ) -> Result<Option<Arc<dyn Reranker>>, InferenceError> {
        let Some(name) = &settings.reranker else {
            return Ok(None);
        };
        let entry = self.manifest.named(name)?;
        let (intra, mut limits) = (settings.intra_threads.max(1), limits(settings));
        match entry.role {
            Role::Reranker => {
                let files = read_model(entry, &self.dir, settings.precision)?;
                warn_of_saturation(&entry.name, files.variant);
                let encoder =
                    OnnxCrossEncoder::load(runtime, entry, &files, (settings.embedder_threads, intra, limits))?;
                Ok(Some(Arc::new(encoder)))
            }
            Role::Sparse => {
                let files = read_model(entry, &self.dir, settings.precision)?;
                limits.batch.rows = limits.batch.rows.min(SPARSE_BATCH_ROWS);
                let options = (settings.precision, intra, limits);
                let sparse = SparseEncoder::load(runtime, (entry, &self.dir), &files, options)?;
                Ok(Some(Arc::new(SparseDenseRescorer::new(sparse, parts, settings.rescorer))))
            }
            Role::Runtime | Role::Embedder => {
                let detail = "it is neither a reranker nor a sparse encoder".to_owned();
                Err(InferenceError::Unusable { model: name.clone(), detail })
            }
        }
    }
}

/// What could be loaded, best first, and why the others could not.
pub type LoadedRerankers = (Vec<NamedReranker>, Vec<InferenceError>);

impl Models {
    /// Everything that may rerank, best and slowest first: each cross-encoder together with the reranker that the
    /// settings name, and that one alone. Blocks.
    pub fn load_rerankers(
        &self,
        runtime: &Runtime,
        settings: &InferenceSettings,
        parts: RescorerParts,
    ) -> LoadedRerankers {
        let Some(base_name) = &settings.reranker else { return (Vec::new(), Vec::new()) };
        let (mut loaded, mut failed) = (Vec::new(), Vec::new());
        let base = self.load_reranker(runtime, settings, parts).unwrap_or_else(|error| {
            failed.push(error);
            None
        });
        let is_sparse = self.is_sparse(base_name);
        for name in settings.cross_encoders.iter().filter(|_| is_sparse) {
            let alone = InferenceSettings { reranker: Some(name.clone()), ..settings.clone() };
            let is_cross_encoder = self.manifest.model(name, Role::Reranker);
            match is_cross_encoder.and_then(|_| self.load_reranker(runtime, &alone, RescorerParts::default())) {
                Ok(None) => {}
                Ok(Some(cross)) => {
                    let mixing = self.mixing(name, settings);
                    let reranker = match &base {
                        Some(base) => Arc::new(RerankEnsemble::new(cross, Arc::clone(base), mixing)),
                        None => cross,
                    };
                    let kind = RerankerKind::CrossEncoder;
                    loaded.push(NamedReranker { name: name.clone(), kind, reranker });
                }
                Err(error) => failed.push(error),
            }
        }
        let kind = if is_sparse { RerankerKind::Rescorer } else { RerankerKind::CrossEncoder };
        loaded.extend(base.map(|reranker| NamedReranker { name: base_name.clone(), kind, reranker }));
        (loaded, failed)
    }
}

impl Models {
    /// Names of all that the settings have rerank, best first, whether they can be loaded or not.
    pub fn reranker_names(&self, settings: &InferenceSettings) -> Vec<String> {
        let Some(base_name) = &settings.reranker else { return Vec::new() };
        let mixed = settings.cross_encoders.iter().filter(|_| self.is_sparse(base_name));
        mixed.chain([base_name]).cloned().collect()
    }

    // Only the rescorer is mixed with cross-encoders; any other reranker stands alone.
    fn is_sparse(&self, name: &str) -> bool {
        self.manifest.named(name).is_ok_and(|entry| entry.role == Role::Sparse)
    }

    fn mixing(&self, cross_encoder: &str, settings: &InferenceSettings) -> Mixing {
        let facts = self.manifest.named(cross_encoder).ok().and_then(|entry| entry.reranker.as_ref());
        let most = facts.and_then(|facts| facts.reads).unwrap_or(usize::MAX);
        Mixing { share: settings.cross_encoder_share, places: settings.cross_encoder_places, most }
    }
}

fn limits(settings: &InferenceSettings) -> QueueLimits {
    let batch = BatchLimits { tokens: settings.batch_tokens, rows: settings.batch_rows.max(1) };
    QueueLimits { queue_tokens: settings.queue_tokens, batch }
}

// Without VNNI, x86 adds pairs of products in 16 bits, which can overflow: vectors get worse and nothing tells.
fn warn_of_saturation(model: &str, variant: &str) {
    #[cfg(target_arch = "x86_64")]
    if variant == Precision::Int8.as_str()
        && !std::arch::is_x86_feature_detected!("avx512vnni")
        && !std::arch::is_x86_feature_detected!("avxvnni")
    {
        warn!(model, "this CPU has no VNNI: int8 loses accuracy here, set `inference.precision` to \"fp32\"");
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (model, variant, Precision::Int8);
}
