//! What is known about each model: `models/manifest.toml`, and a file of the same form for the user's own.
//!
//! Everything that differs between models is data here. Names, revisions and file names become paths, so they are
//! held to letters, digits, `.`, `_` and `-`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::InferenceError;
use super::export::ExportRecipe;
use super::languages::Languages;
use super::scripts::Scripts;

/// The manifest that ships with the program.
const BUILT_IN: &str = include_str!("../../models/manifest.toml");
/// The only format this program knows.
const FORMAT: u32 = 1;

/// All models that are known, by name.
#[derive(Debug, Clone)]
pub struct Manifest {
    models: BTreeMap<String, ModelEntry>,
}

/// What a model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The ONNX Runtime library itself.
    Runtime,
    Embedder,
    /// A cross-encoder.
    Reranker,
    /// A learned sparse encoder.
    Sparse,
}

/// Numbers in which a model computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    Int8,
    Fp32,
}

/// How token vectors become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pooling {
    /// Average over the tokens.
    Mean,
    /// The first token's vector.
    Cls,
    /// The graph has done it.
    Pooled,
}

/// What a vector's length is made to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// The logit itself, or the difference of the two.
    #[default]
    None,
    /// Its logistic function: between 0 and 1.
    Sigmoid,
}

/// What a cross-encoder's graph gives for a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogitHead {
    /// One logit: relevant.
    One,
    /// Two logits: not relevant, relevant.
    Two,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelEntry {
    pub name: String,
    pub role: Role,
    pub revision: String,
    /// SPDX identifier.
    pub licence: String,
    /// Where the weights were first published, for people.
    #[serde(default)]
    pub origin: String,
    /// Registry packages that carry the files; of several with a platform, the one for this machine counts.
    #[serde(default)]
    pub package: Vec<Package>,
    /// Files that are made here from those of the package.
    #[serde(default)]
    pub derived: Vec<Derived>,
    /// Files that lie inside the program.
    #[serde(default)]
    pub bundled: Vec<Bundled>,
    /// The user's own files instead of a package.
    pub local: Option<LocalFiles>,
    /// Name of the `tokenizer.json`.
    pub tokenizer: Option<String>,
    /// Name of the graph for each precision.
    #[serde(default)]
    pub onnx: BTreeMap<Precision, String>,
    /// Longest input in tokens, special tokens counted.
    #[serde(default)]
    pub max_tokens: usize,
    /// Scripts that the model was trained on, such as `Latin`; left out: all. Hybrid searches leave a model out that
    /// cannot read the query, and say so.
    #[serde(default)]
    pub scripts: Vec<String>,
    /// Languages of passages that a reranker was trained on, by ISO 639-3 code, such as `eng`; left out: all. Searches
    /// are not reranked by a model that cannot judge what they found, and say so.
    #[serde(default)]
    pub languages: Vec<String>,
    /// Name of the graph's output to read; without it the usual names are tried, then the first is taken.
    pub output: Option<String>,
    pub embedder: Option<EmbedderFacts>,
    pub reranker: Option<RerankerFacts>,
    pub sparse: Option<SparseFacts>,
}

/// A wheel in a Python package registry.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    pub pip: String,
    pub version: String,
    pub wheel: String,
    pub wheel_sha256: String,
    pub wheel_bytes: u64,
    /// `None`: for every machine.
    pub platform: Option<Platform>,
    pub files: Vec<PackageFile>,
}

/// The machine that a wheel is for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Platform {
    /// As in `std::env::consts::OS`.
    pub os: String,
    /// As in `std::env::consts::ARCH`.
    pub arch: String,
    /// The platform tag of the wheel.
    pub tag: String,
}

/// A file taken from a wheel.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackageFile {
    /// Path inside the wheel.
    pub member: String,
    /// Name it gets here.
    pub file: String,
    pub sha256: String,
    pub bytes: u64,
}

/// A file made from others of the same model.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Derived {
    pub file: String,
    pub sha256: String,
    pub bytes: u64,
    pub weights: String,
    pub config: String,
    pub recipe: ExportRecipe,
}

/// A file that ships inside the program.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundled {
    pub file: String,
    pub sha256: String,
    pub bytes: u64,
}

/// Files that the user brings. Relative paths are relative to the manifest.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalFiles {
    /// For models: the graph.
    pub onnx: Option<PathBuf>,
    /// For models: the `tokenizer.json`.
    pub tokenizer: Option<PathBuf>,
    /// For the runtime: the shared library, 1.24 or newer.
    pub library: Option<PathBuf>,
}

/// How an embedder's output is read and its input written.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbedderFacts {
    pub dimensions: usize,
    pub pooling: Pooling,
    /// True if vectors are to be scaled to unit length here.
    pub normalize: bool,
    #[serde(default)]
    pub query_prefix: String,
    #[serde(default)]
    pub passage_prefix: String,
}

/// How a cross-encoder's output is read.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RerankerFacts {
    pub head: LogitHead,
    #[serde(default)]
    pub activation: Activation,
    /// Most passages of a list that it reads where it reranks together with another model; `None`: any number.
    #[serde(default)]
    pub reads: Option<usize>,
}

/// How a sparse encoder is run.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SparseFacts {
    /// Size of the vocabulary.
    pub terms: usize,
    /// A graph that stops before the vocabulary, for passages: only the query's terms are then computed.
    pub passage: Option<PassageGraph>,
}

/// The parts of a sparse encoder that stops before the vocabulary.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PassageGraph {
    /// Name of the graph for each precision.
    pub onnx: BTreeMap<Precision, String>,
    /// The safetensors file with the two tensors below.
    pub weights: String,
    /// Tensor `[terms, hidden]`.
    pub embeddings: String,
    /// Tensor `[terms]`.
    pub bias: String,
    pub hidden: usize,
}

/// A file that ought to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpectedFile<'a> {
    pub name: &'a str,
    pub sha256: &'a str,
    pub bytes: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ManifestFile {
    format: u32,
    #[serde(default)]
    model: Vec<ModelEntry>,
}

impl Manifest {
    /// The manifest that ships with the program.
    pub fn built_in() -> Result<Self, InferenceError> {
        let mut manifest = Self { models: BTreeMap::new() };
        manifest.add(BUILT_IN, Path::new("models/manifest.toml"))?;
        Ok(manifest)
    }

    /// The built-in models and those of the user's file; the user's win by name. Blocks.
    pub fn with_user_file(path: &Path) -> Result<Self, InferenceError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| InferenceError::Io { path: path.display().to_string(), source })?;
        let mut manifest = Self::built_in()?;
        manifest.add(&text, path)?;
        Ok(manifest)
    }

    /// All models, by name.
    pub fn models(&self) -> impl Iterator<Item = &ModelEntry> {
        self.models.values()
    }

    /// The model of this name and role.
    pub fn model(&self, name: &str, role: Role) -> Result<&ModelEntry, InferenceError> {
        let entry = self.named(name)?;
        if entry.role == role {
            return Ok(entry);
        }
        let detail = format!("its role is {:?}, wanted is {role:?}", entry.role).to_lowercase();
        Err(InferenceError::Unusable { model: name.to_owned(), detail })
    }

    /// The model of this name, whatever its role.
    pub fn named(&self, name: &str) -> Result<&ModelEntry, InferenceError> {
        let missing = || InferenceError::Missing {
            model: name.to_owned(),
            detail: format!("no manifest names it; known are {}", self.names()),
        };
        self.models.get(name).ok_or_else(missing)
    }

    fn names(&self) -> String {
        self.models.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
    }

    fn add(&mut self, text: &str, path: &Path) -> Result<(), InferenceError> {
        let invalid = |detail: String| InferenceError::Manifest { path: path.display().to_string(), detail };
        let file: ManifestFile = toml::from_str(text).map_err(|error| invalid(error.to_string()))?;
        if file.format != FORMAT {
            return Err(invalid(format!("format {} is not known, only {FORMAT} is", file.format)));
        }
        for mut entry in file.model {
            entry.check().map_err(|detail| invalid(format!("model {}: {detail}", entry.name)))?;
            entry.anchor(path.parent().unwrap_or(Path::new("")));
            self.models.insert(entry.name.clone(), entry);
        }
        Ok(())
    }
}

impl ModelEntry {
    /// The package for this machine.
    pub fn package_here(&self) -> Option<&Package> {
        self.package.iter().find(|package| package.platform.as_ref().is_none_or(Platform::is_here))
    }

    /// Where the model's files lie below the models directory.
    pub fn dir(&self, models_dir: &Path) -> PathBuf {
        models_dir.join(&self.name).join(&self.revision)
    }

    /// True if all its files lie inside the program, so that nothing is to be fetched.
    pub fn is_bundled(&self) -> bool {
        self.local.is_none() && !self.bundled.is_empty()
    }

    /// Every file that ought to be there on this machine, those of the package first.
    pub fn expected_files(&self) -> Vec<ExpectedFile<'_>> {
        let packaged = self.package_here().into_iter().flat_map(|package| &package.files);
        let packaged = packaged.map(|file| ExpectedFile { name: &file.file, sha256: &file.sha256, bytes: file.bytes });
        let derived = self.derived.iter();
        let derived = derived.map(|file| ExpectedFile { name: &file.file, sha256: &file.sha256, bytes: file.bytes });
        packaged.chain(derived).collect()
    }

    fn check(&self) -> Result<(), String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let names = [self.name.as_str(), self.revision.as_str()];
        let files = self.package.iter().flat_map(|package| &package.files).map(|file| file.file.as_str());
        let derived = self.derived.iter().map(|file| file.file.as_str());
        let bundled = self.bundled.iter().map(|file| file.file.as_str());
        for name in names.into_iter().chain(files).chain(derived).chain(bundled) {
            if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
                return Err(format!("{name:?} must consist of letters, digits, '.', '_' and '-'"));
            }
        }
        let (facts, missing) = match self.role {
            Role::Runtime => (true, ""),
            Role::Embedder => (self.embedder.is_some(), "embedder"),
            Role::Reranker => (self.reranker.is_some(), "reranker"),
            Role::Sparse => (self.sparse.is_some(), "sparse"),
        };
        if !facts {
            return Err(format!("the table `{missing}` is missing"));
        }
        Scripts::named(&self.scripts)?;
        Languages::named(&self.languages)?;
        if !self.languages.is_empty() && !matches!(self.role, Role::Reranker | Role::Sparse) {
            return Err("`languages` is for rerankers and sparse encoders".to_owned());
        }
        if self.reranker.as_ref().is_some_and(|facts| facts.reads == Some(0)) {
            return Err("`reranker.reads` must be at least 1".to_owned());
        }
        if self.role != Role::Runtime && self.max_tokens == 0 {
            return Err("`max_tokens` is missing".to_owned());
        }
        self.check_files()
    }

    fn check_files(&self) -> Result<(), String> {
        let Some(local) = &self.local else {
            let nowhere = self.package.is_empty() && self.bundled.is_empty();
            return if nowhere { Err("neither `package` nor `local` is given".to_owned()) } else { Ok(()) };
        };
        match self.role {
            Role::Runtime if local.library.is_none() => Err("`local` needs `library`".to_owned()),
            Role::Runtime => Ok(()),
            _ if local.onnx.is_none() || local.tokenizer.is_none() => {
                Err("`local` needs `onnx` and `tokenizer`".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn anchor(&mut self, base: &Path) {
        if let Some(local) = &mut self.local {
            for path in [&mut local.onnx, &mut local.tokenizer, &mut local.library].into_iter().flatten() {
                *path = base.join(&*path);
            }
        }
    }
}

impl Platform {
    fn is_here(&self) -> bool {
        self.os == std::env::consts::OS && self.arch == std::env::consts::ARCH
    }
}

impl Precision {
    /// As it stands in manifests and revisions.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::Fp32 => "fp32",
        }
    }
}
