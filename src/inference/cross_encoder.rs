//! Cross-encoders: query and passage go through the model together (Nogueira and Cho, 2019).

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;

use crate::domain::TenantScope;

use super::contract::{RerankPassage, RerankQuery, Reranker};
use super::embedder::tokenize;
use super::files::ModelFiles;
use super::languages::{Languages, PassageSample};
use super::manifest::{Activation, LogitHead, ModelEntry, RerankerFacts};
use super::pooling::Extract;
use super::queue::{Lane, ModelQueue, QueueLimits};
use super::scripts::Scripts;
use super::session::OnnxSession;
use super::tokenizer::TextTokenizer;
use super::{InferenceError, Runtime};

/// Words of the passage whose time is taken when a model is loaded: a chunk of common length.
const COMMON_WORDS: usize = 128;
/// Such passages in the run that is timed.
const TIMED_ROWS: u32 = 2;

/// Any ONNX cross-encoder that the manifest describes. A passage's score does not depend on the others.
pub struct OnnxCrossEncoder {
    name: String,
    model: String,
    facts: RerankerFacts,
    tokenizer: Arc<TextTokenizer>,
    scripts: Scripts,
    languages: Languages,
    pace: Duration,
    queue: ModelQueue,
}

impl OnnxCrossEncoder {
    /// Loads the graph and tries it on one pair. Blocks.
    pub(super) fn load(
        runtime: &Runtime,
        entry: &ModelEntry,
        files: &ModelFiles,
        (owners, intra_threads, limits): (usize, usize, QueueLimits),
    ) -> Result<Self, InferenceError> {
        let unusable = |detail: String| InferenceError::Unusable { model: entry.name.clone(), detail };
        let facts = entry.reranker.clone().ok_or_else(|| unusable("it is no cross-encoder".to_owned()))?;
        let tokenizer = TextTokenizer::load(&entry.name, &files.tokenizer.bytes, entry.max_tokens)?;
        let options = (entry.output.as_deref(), intra_threads);
        let mut session = OnnxSession::load(runtime, &entry.name, &files.onnx.bytes, options)?;
        let row = tokenizer.encode_pair("a", "a")?;
        let logits = session.run(&[&row], |output| super::pooling::extract(&output, &[&row], Extract::Plain))?;
        facts.score(&logits[0]).map_err(unusable)?;
        let pace = time(&mut session, &tokenizer)?;
        let mut sessions = vec![session];
        while sessions.len() < owners.max(1) {
            sessions.push(OnnxSession::load(runtime, &entry.name, &files.onnx.bytes, options)?);
        }
        let queue = ModelQueue::start(&entry.name, sessions, limits)?;
        let scripts = Scripts::named(&entry.scripts).map_err(unusable)?;
        let languages = Languages::named(&entry.languages).map_err(unusable)?;
        let name = format!("{}@{}+{}", entry.name, entry.revision, files.variant);
        Ok(Self {
            name,
            model: entry.name.clone(),
            facts,
            tokenizer: Arc::new(tokenizer),
            scripts,
            languages,
            pace,
            queue,
        })
    }

    async fn scores(&self, query: &str, passages: &[RerankPassage]) -> Result<Vec<f32>, InferenceError> {
        let tokenizer = Arc::clone(&self.tokenizer);
        let query = query.to_owned();
        let texts: Vec<String> = passages.iter().map(|passage| passage.text.clone()).collect();
        let bytes = texts.iter().map(|text| text.len() + query.len()).sum();
        let rows = tokenize(&self.model, bytes, move || tokenizer.encode_pairs(&query, &texts));
        let logits = self.queue.run(rows.await?, Extract::Plain, Lane::Interactive).await?;
        let failed = |detail| InferenceError::Failed { model: self.model.clone(), detail };
        logits.iter().map(|logits| self.facts.score(logits).map_err(failed)).collect()
    }
}

#[async_trait]
impl Reranker for OnnxCrossEncoder {
    fn name(&self) -> &str {
        &self.name
    }

    fn reads(&self, text: &str) -> bool {
        self.scripts.read(text)
    }

    fn judges(&self, passages: &PassageSample) -> bool {
        self.languages.read(passages)
    }

    fn expected_pace(&self) -> Option<Duration> {
        Some(self.pace)
    }

    async fn rerank(
        &self,
        _scope: &TenantScope,
        query: &RerankQuery,
        passages: &[RerankPassage],
        deadline: Option<Instant>,
    ) -> Result<Vec<f32>, InferenceError> {
        before(deadline, &self.model, self.scores(&query.text, passages)).await
    }
}

/// How long a passage of common length takes; the first run of such a length is not counted.
fn time(session: &mut OnnxSession, tokenizer: &TextTokenizer) -> Result<Duration, InferenceError> {
    let row = tokenizer.encode_pair("a", &"a ".repeat(COMMON_WORDS))?;
    let rows = [&row; TIMED_ROWS as usize];
    let mut took = Duration::ZERO;
    for _ in 0..2 {
        let start = Instant::now();
        session.run(&rows, |output| super::pooling::extract(&output, &rows, Extract::Plain))?;
        took = start.elapsed();
    }
    Ok(took / TIMED_ROWS)
}

impl RerankerFacts {
    /// The score from one pair's logits.
    fn score(&self, logits: &[f32]) -> Result<f32, String> {
        let logit = match (self.head, logits) {
            (LogitHead::One, [logit]) => *logit,
            (LogitHead::Two, [irrelevant, relevant]) => relevant - irrelevant,
            (head, logits) => return Err(format!("it gives {} logits, the manifest says {head:?}", logits.len())),
        };
        Ok(match self.activation {
            Activation::None => logit,
            // Of two logits this is the softmax of the second.
            Activation::Sigmoid => 1.0 / (1.0 + (-logit).exp()),
        })
    }
}

/// Waits for `work` until `deadline`. Dropping the work takes its rows out of the queue, so the model stops after
/// the batch under way.
pub(super) async fn before<T>(
    deadline: Option<Instant>,
    model: &str,
    work: impl Future<Output = Result<T, InferenceError>>,
) -> Result<T, InferenceError> {
    let Some(deadline) = deadline else {
        return work.await;
    };
    let late = || InferenceError::Deadline { model: model.to_owned() };
    if Instant::now() >= deadline {
        return Err(late());
    }
    tokio::time::timeout_at(deadline.into(), work).await.unwrap_or_else(|_| Err(late()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_as_the_manifest_says() {
        let score = |head, activation, logits: &[f32]| RerankerFacts { head, activation, reads: None }.score(logits);

        assert_eq!(score(LogitHead::One, Activation::None, &[1.5]), Ok(1.5));
        assert_eq!(score(LogitHead::Two, Activation::None, &[1.0, 3.0]), Ok(2.0));
        assert_eq!(score(LogitHead::One, Activation::Sigmoid, &[0.0]), Ok(0.5));
        // softmax([1, 1 + ln 3]) = [1/4, 3/4].
        let even = score(LogitHead::Two, Activation::Sigmoid, &[1.0, 1.0 + 3.0_f32.ln()]).unwrap();
        assert!((even - 0.75).abs() < 1e-6);
        assert!(score(LogitHead::One, Activation::None, &[1.0, 2.0]).is_err());
        assert!(score(LogitHead::Two, Activation::None, &[1.0]).is_err());
    }

    #[tokio::test]
    async fn nothing_starts_after_the_deadline() {
        let outcome = before(Some(Instant::now()), "m", async { Ok(1) }).await;

        assert!(matches!(outcome, Err(InferenceError::Deadline { .. })));
    }

    #[tokio::test]
    async fn waiting_ends_at_the_deadline() {
        let deadline = Instant::now() + std::time::Duration::from_millis(20);

        let outcome: Result<(), _> = before(Some(deadline), "m", std::future::pending()).await;

        assert!(matches!(outcome, Err(InferenceError::Deadline { .. })));
    }
}
