//! Learned sparse encoders (SPLADE: Formal et al., SIGIR 2021): a text becomes weights over the vocabulary.
//!
//! Only the query's terms count in a product, so a passage need not be taken through the whole vocabulary: the
//! shipped model's passage graph stops before it (1 ms for 150 tokens where the whole vocabulary takes 9 to 16), the
//! token states are kept, and the logits of the query's few terms are computed from them.

use std::sync::Arc;

use crate::domain::{Fingerprint, hash_parts};

use super::embedder::tokenize;
use super::export::WeightFile;
use super::files::{ModelFiles, read_pinned};
use super::languages::Languages;
use super::manifest::{ModelEntry, PassageGraph, Precision, SparseFacts};
use super::pooling::{Extract, extract};
use super::queue::{Lane, ModelQueue, QueueLimits};
use super::scripts::Scripts;
use super::session::{OnnxSession, Row};
use super::sparse_vector::SparseVector;
use super::token_states::TokenStates;
use super::tokenizer::TextTokenizer;
use super::{InferenceError, Runtime};

/// A sparse encoder in this process.
pub(super) struct SparseEncoder {
    pub scripts: Scripts,
    pub languages: Languages,
    /// Name and revision.
    pub name: String,
    /// Changes whenever a passage's kept form changes.
    pub fingerprint: Fingerprint,
    pub model: String,
    tokenizer: Arc<TextTokenizer>,
    whole: ModelQueue,
    passage: Option<PassageSide>,
}

struct PassageSide {
    queue: ModelQueue,
    vocabulary: Vocabulary,
}

/// The last layer of the encoder: a token's logit for a term is `state · embedding + bias`.
struct Vocabulary {
    embeddings: Vec<f32>,
    bias: Vec<f32>,
    hidden: usize,
}

/// A query ready to be compared with passages.
pub(super) struct SparseQuery {
    vector: SparseVector,
    /// Embeddings of its terms, one after the other, and their biases; empty for whole-vocabulary models.
    embeddings: Vec<f32>,
    bias: Vec<f32>,
}

/// What is kept of a passage.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum SparsePassage {
    Vector(SparseVector),
    States(TokenStates),
}

impl SparseEncoder {
    /// Loads the graphs. Blocks.
    pub fn load(
        runtime: &Runtime,
        (entry, models_dir): (&ModelEntry, &std::path::Path),
        files: &ModelFiles,
        (precision, intra_threads, limits): (Precision, usize, QueueLimits),
    ) -> Result<Self, InferenceError> {
        let unusable = |detail: &str| InferenceError::Unusable { model: entry.name.clone(), detail: detail.to_owned() };
        let facts = entry.sparse.clone().ok_or_else(|| unusable("it is no sparse encoder"))?;
        let tokenizer = TextTokenizer::load(&entry.name, &files.tokenizer.bytes, entry.max_tokens)?;
        let options = (entry.output.as_deref(), intra_threads);
        let mut session = OnnxSession::load(runtime, &entry.name, &files.onnx.bytes, options)?;
        let row = tokenizer.encode("a")?;
        let weights = session.run(&[&row], |output| extract(&output, &[&row], Extract::Sparse))?;
        if weights[0].len() != facts.terms {
            return Err(unusable(&format!("it gives {} weights, the manifest says {}", weights[0].len(), facts.terms)));
        }
        let whole = ModelQueue::start(&entry.name, vec![session], limits)?;
        let mut hashed = vec![files.onnx.sha256.clone(), files.tokenizer.sha256.clone(), entry.max_tokens.to_string()];
        let passage = match &facts.passage {
            None => None,
            Some(graph) => {
                let file =
                    graph.onnx.get(&precision).ok_or_else(|| unusable("it has no passage graph of this precision"))?;
                let onnx = read_pinned(entry, models_dir, file)?;
                let session = OnnxSession::load(runtime, &entry.name, &onnx.bytes, (None, intra_threads))?;
                hashed.push(onnx.sha256);
                let queue = ModelQueue::start(&entry.name, vec![session], limits)?;
                Some(PassageSide { queue, vocabulary: Vocabulary::read(entry, models_dir, (&facts, graph))? })
            }
        };
        let parts: Vec<&[u8]> = hashed.iter().map(String::as_bytes).collect();
        Ok(Self {
            scripts: Scripts::named(&entry.scripts).map_err(|detail| unusable(&detail))?,
            languages: Languages::named(&entry.languages).map_err(|detail| unusable(&detail))?,
            name: format!("{}@{}+{}", entry.name, entry.revision, files.variant),
            fingerprint: Fingerprint(hash_parts(&parts)),
            model: entry.name.clone(),
            tokenizer: Arc::new(tokenizer),
            whole,
            passage,
        })
    }

    /// The query's terms with what passages need of them.
    pub async fn query(&self, text: &str) -> Result<SparseQuery, InferenceError> {
        let rows = self.rows(vec![text.to_owned()]).await?;
        let weights = self.whole.run(rows, Extract::Sparse, Lane::Interactive).await?;
        let vector = SparseVector::of(&weights[0]);
        let vocabulary = self.passage.as_ref().map(|side| &side.vocabulary);
        let (embeddings, bias) = vocabulary.map_or((Vec::new(), Vec::new()), |vocabulary| vocabulary.of(&vector.terms));
        Ok(SparseQuery { vector, embeddings, bias })
    }

    /// What is to be kept of each passage, in order.
    pub async fn passages(&self, texts: Vec<String>) -> Result<Vec<SparsePassage>, InferenceError> {
        let rows = self.rows(texts).await?;
        let Some(side) = &self.passage else {
            let weights = self.whole.run(rows, Extract::Sparse, Lane::Interactive).await?;
            return Ok(weights.iter().map(|weights| SparsePassage::Vector(SparseVector::of(weights))).collect());
        };
        let states = side.queue.run(rows, Extract::States, Lane::Interactive).await?;
        let hidden = side.vocabulary.hidden;
        Ok(states.iter().map(|states| SparsePassage::States(TokenStates::quantize(states, hidden))).collect())
    }

    /// A passage from the bytes that [`SparsePassage::to_bytes`] gave.
    pub fn passage_from_bytes(&self, bytes: &[u8]) -> Option<SparsePassage> {
        if self.passage.is_some() {
            TokenStates::from_bytes(bytes).map(SparsePassage::States)
        } else {
            SparseVector::from_bytes(bytes).map(SparsePassage::Vector)
        }
    }

    async fn rows(&self, texts: Vec<String>) -> Result<Vec<Row>, InferenceError> {
        let tokenizer = Arc::clone(&self.tokenizer);
        let bytes = texts.iter().map(String::len).sum();
        tokenize(&self.model, bytes, move || texts.iter().map(|text| tokenizer.encode(text)).collect()).await
    }
}

impl SparseQuery {
    /// Product of the query's and the passage's weights.
    pub fn score(&self, passage: &SparsePassage) -> f32 {
        match passage {
            SparsePassage::Vector(vector) => self.vector.dot(vector),
            SparsePassage::States(states) => {
                let largest = states.largest_products(&self.embeddings);
                let logits = largest.iter().zip(&self.bias).map(|(product, bias)| product + bias);
                let weights = logits.map(|logit| logit.max(0.0).ln_1p());
                weights.zip(&self.vector.weights).map(|(weight, own)| weight * own).sum()
            }
        }
    }
}

impl SparsePassage {
    /// What the cache keeps.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Vector(vector) => vector.to_bytes(),
            Self::States(states) => states.to_bytes(),
        }
    }
}

impl Vocabulary {
    fn read(
        entry: &ModelEntry,
        models_dir: &std::path::Path,
        (facts, graph): (&SparseFacts, &PassageGraph),
    ) -> Result<Self, InferenceError> {
        let unusable = |detail: String| InferenceError::Unusable { model: entry.name.clone(), detail };
        let checked = read_pinned(entry, models_dir, &graph.weights)?;
        let weights = WeightFile::from_bytes(&graph.weights, checked.bytes.into_owned());
        let (terms, hidden) = (facts.terms, graph.hidden);
        let read = |name: &str, dims: &[usize]| weights.floats(name, dims).map_err(|error| unusable(error.to_string()));
        Ok(Self { embeddings: read(&graph.embeddings, &[terms, hidden])?, bias: read(&graph.bias, &[terms])?, hidden })
    }

    fn of(&self, terms: &[u32]) -> (Vec<f32>, Vec<f32>) {
        let row = |term: &u32| &self.embeddings[*term as usize * self.hidden..][..self.hidden];
        let embeddings = terms.iter().flat_map(row).copied().collect();
        (embeddings, terms.iter().map(|term| self.bias[*term as usize]).collect())
    }
}
