//! The embedder: any ONNX text encoder that the manifest describes.

use std::sync::Arc;

use async_trait::async_trait;

use crate::domain::{EmbedderSpec, hash_parts};

use super::contract::{Embedder, InputKind, TokenCounter};
use super::files::ModelFiles;
use super::manifest::{EmbedderFacts, ModelEntry};
use super::pooling::{Extract, normalize};
use super::queue::{Lane, ModelQueue, QueueLimits};
use super::scripts::Scripts;
use super::session::{OnnxSession, Row};
use super::tokenizer::{ModelTokenCounter, TextTokenizer};
use super::{InferenceError, Runtime};

/// Text up to this size is tokenized where it is: a twentieth of a millisecond. More goes to a blocking thread.
const INLINE_BYTES: usize = 1 << 10;

/// An embedder in this process.
pub struct OnnxEmbedder {
    spec: EmbedderSpec,
    facts: EmbedderFacts,
    tokenizer: Arc<TextTokenizer>,
    max_tokens: usize,
    scripts: Scripts,
    queue: ModelQueue,
}

/// What the embedder may take of the machine.
pub(super) struct EmbedderThreads {
    pub owners: usize,
    pub intra: usize,
    pub limits: QueueLimits,
}

impl OnnxEmbedder {
    /// Loads the graph once for each owner thread and tries it on one word. Blocks.
    pub(super) fn load(
        runtime: &Runtime,
        entry: &ModelEntry,
        files: &ModelFiles,
        threads: &EmbedderThreads,
    ) -> Result<Self, InferenceError> {
        let unusable = |detail: String| InferenceError::Unusable { model: entry.name.clone(), detail };
        let facts = entry.embedder.clone().ok_or_else(|| unusable("it is no embedder".to_owned()))?;
        let tokenizer = TextTokenizer::load(&entry.name, &files.tokenizer.bytes, entry.max_tokens)?;
        let prefix = tokenizer.count(&facts.query_prefix).max(tokenizer.count(&facts.passage_prefix));
        let max_tokens = tokenizer.text_tokens() - prefix;
        if max_tokens == 0 {
            return Err(unusable("its prefix leaves no room for text".to_owned()));
        }
        let mut sessions = Vec::with_capacity(threads.owners.max(1));
        for _ in 0..threads.owners.max(1) {
            let options = (entry.output.as_deref(), threads.intra);
            sessions.push(OnnxSession::load(runtime, &entry.name, &files.onnx.bytes, options)?);
        }
        try_out(&mut sessions[0], &tokenizer.encode("a")?, &facts).map_err(unusable)?;
        let hashes =
            FileHashes { onnx: &files.onnx.sha256, tokenizer: &files.tokenizer.sha256, variant: files.variant };
        let spec = spec(entry, &facts, &hashes);
        let queue = ModelQueue::start(&entry.name, sessions, threads.limits)?;
        let scripts = Scripts::named(&entry.scripts).map_err(unusable)?;
        Ok(Self { spec, facts, tokenizer: Arc::new(tokenizer), max_tokens, scripts, queue })
    }

    /// Counts tokens as this embedder does.
    pub fn token_counter(&self) -> Arc<dyn TokenCounter> {
        let name = format!("{}@{}", self.spec.name, self.spec.revision);
        Arc::new(ModelTokenCounter { name, tokenizer: Arc::clone(&self.tokenizer) })
    }

    /// The vectors of all tokens of each text, special tokens included, one after the other; not normalised.
    /// Fails for graphs that pool by themselves.
    pub(super) async fn token_vectors(
        &self,
        inputs: Vec<String>,
        kind: InputKind,
    ) -> Result<Vec<Vec<f32>>, InferenceError> {
        let rows = self.rows(inputs, kind).await?;
        self.queue.run(rows, Extract::States, Lane::Interactive).await
    }

    async fn rows(&self, inputs: Vec<String>, kind: InputKind) -> Result<Vec<Row>, InferenceError> {
        let prefix = match kind {
            InputKind::Query => self.facts.query_prefix.clone(),
            InputKind::Passage => self.facts.passage_prefix.clone(),
        };
        let tokenizer = Arc::clone(&self.tokenizer);
        let bytes = inputs.iter().map(String::len).sum();
        tokenize(&self.spec.name, bytes, move || {
            inputs.iter().map(|text| tokenizer.encode(&format!("{prefix}{text}"))).collect()
        })
        .await
    }
}

#[async_trait]
impl Embedder for OnnxEmbedder {
    fn spec(&self) -> &EmbedderSpec {
        &self.spec
    }

    fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    fn reads(&self, text: &str) -> bool {
        self.scripts.read(text)
    }

    async fn embed(&self, inputs: Vec<String>, kind: InputKind) -> Result<Vec<Vec<f32>>, InferenceError> {
        let rows = self.rows(inputs, kind).await?;
        let lane = match kind {
            InputKind::Query => Lane::Interactive,
            InputKind::Passage => Lane::Bulk,
        };
        let mut vectors = self.queue.run(rows, Extract::Pooled(self.facts.pooling), lane).await?;
        if self.facts.normalize {
            vectors.iter_mut().for_each(|vector| normalize(vector));
        }
        Ok(vectors)
    }
}

/// Runs `work` here if the text is short, else on a thread that may block.
pub(super) async fn tokenize<T: Send + 'static>(
    model: &str,
    bytes: usize,
    work: impl FnOnce() -> Result<T, InferenceError> + Send + 'static,
) -> Result<T, InferenceError> {
    if bytes <= INLINE_BYTES {
        return work();
    }
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(work)).await.unwrap_or_else(|error| {
        Err(InferenceError::Failed { model: model.to_owned(), detail: format!("its tokenizer: {error}") })
    })
}

fn try_out(session: &mut OnnxSession, row: &Row, facts: &EmbedderFacts) -> Result<(), String> {
    let wanted = Extract::Pooled(facts.pooling);
    let vectors = session.run(&[row], |output| super::pooling::extract(&output, &[row], wanted));
    let vectors = vectors.map_err(|error| error.to_string())?;
    let dimensions = vectors.first().map_or(0, Vec::len);
    if dimensions == facts.dimensions {
        return Ok(());
    }
    Err(format!("its vectors have {dimensions} dimensions, the manifest says {}", facts.dimensions))
}

/// What a model's files are to its specification.
pub(super) struct FileHashes<'a> {
    pub onnx: &'a str,
    pub tokenizer: &'a str,
    /// `int8`, `fp32` or `local`.
    pub variant: &'a str,
}

/// The specification of an embedder made of these files. Whatever changes a vector enters the revision: vectors of
/// different revisions are never compared.
pub(super) fn spec(entry: &ModelEntry, facts: &EmbedderFacts, files: &FileHashes<'_>) -> EmbedderSpec {
    let hash = hash_parts(&[
        files.onnx.as_bytes(),
        files.tokenizer.as_bytes(),
        format!("{facts:?}").as_bytes(),
        &(entry.max_tokens as u64).to_le_bytes(),
        entry.output.as_deref().unwrap_or_default().as_bytes(),
    ]);
    let short: String = hash[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    EmbedderSpec {
        name: entry.name.clone(),
        revision: format!("{}+{}+{short}", entry.revision, files.variant),
        dimensions: facts.dimensions,
    }
}
