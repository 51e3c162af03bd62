//! Choosing quotes by meaning beside words: the cosine of question and sentence enters the score.

use std::time::Duration;

use tokio::time::timeout;

use crate::domain::ByteSpan;
use crate::inference::{Embedder, InputKind};

use super::evidence::Evidence;
use super::extract::Candidate;
use super::settings::ExtractSettings;

/// Longest wait for the embedder. An answer of quotes is due at once; without similarity it is only a little worse.
const PATIENCE: Duration = Duration::from_millis(500);

/// Why similarity did not enter, as a reason for `degraded`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Skipped(pub &'static str);

/// Puts the similarity of question and sentence into score and coverage of the best candidates, by words, up to the
/// settings' bound; the others lose the similarity's share of their score.
pub async fn blend(
    embedder: &dyn Embedder,
    question: &str,
    evidence: &Evidence,
    candidates: &mut [Candidate],
    settings: &ExtractSettings,
) -> Result<(), Skipped> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by(|a, b| candidates[*b].score.total_cmp(&candidates[*a].score));
    order.truncate(settings.max_embedded_sentences);
    let sentence = |passage: usize, span: ByteSpan| evidence.passages[passage].text()[span.start..span.end].to_owned();
    let texts = order.iter().map(|index| sentence(candidates[*index].passage, candidates[*index].span)).collect();
    let similarities = timeout(PATIENCE, similarities(embedder, question, texts)).await;
    let similarities = similarities.map_err(|_| Skipped("embedder_slow"))?.ok_or(Skipped("embedder_failed"))?;
    let weight = settings.similarity_weight;
    for candidate in candidates.iter_mut() {
        candidate.score *= 1.0 - weight;
    }
    for (index, similarity) in order.into_iter().zip(similarities) {
        candidates[index].add_similarity(similarity.clamp(0.0, 1.0), weight);
    }
    Ok(())
}

/// The cosine of each text and the question; `None` if the embedder cannot say.
async fn similarities(embedder: &dyn Embedder, question: &str, texts: Vec<String>) -> Option<Vec<f64>> {
    let asked = embedder.embed(vec![question.to_owned()], InputKind::Query).await.ok()?.pop()?;
    let vectors = embedder.embed(texts, InputKind::Passage).await.ok()?;
    Some(vectors.iter().map(|vector| cosine(&asked, vector)).collect())
}

/// Vectors of an embedder have unit length, so the dot product is the cosine.
fn cosine(one: &[f32], other: &[f32]) -> f64 {
    one.iter().zip(other).map(|(a, b)| f64::from(a * b)).sum()
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use crate::domain::EmbedderSpec;
    use crate::inference::InferenceError;

    use super::super::evidence::tests::hit;
    use super::super::extract::{candidates, choose};
    use super::super::settings::AnswerSettings;
    use super::*;

    /// Knows one likeness: what speaks of speed.
    struct SpeedEmbedder {
        spec: EmbedderSpec,
        works: bool,
    }

    #[async_trait]
    impl Embedder for SpeedEmbedder {
        fn spec(&self) -> &EmbedderSpec {
            &self.spec
        }

        fn max_tokens(&self) -> usize {
            256
        }

        async fn embed(&self, inputs: Vec<String>, _: InputKind) -> Result<Vec<Vec<f32>>, InferenceError> {
            if !self.works {
                return Err(InferenceError::Overloaded { model: "speed".to_owned(), limit_tokens: 0 });
            }
            let is_speed = |text: &String| text.contains("fast") || text.contains("throughput");
            Ok(inputs.iter().map(|text| if is_speed(text) { vec![1.0, 0.0] } else { vec![0.0, 1.0] }).collect())
        }
    }

    #[expect(clippy::fn_params_excessive_bools, reason = "a test shows both outcomes")]
    async fn quoted(works: bool) -> (Result<(), Skipped>, Vec<String>) {
        let spec = EmbedderSpec { name: "speed".to_owned(), revision: "1".to_owned(), dimensions: 2 };
        let text = "Whales sing at night. Batching doubles the throughput of ingestion.";
        let evidence = Evidence::choose(vec![hit("guide", "", text)], &AnswerSettings::default());
        let question = "How do I make it fast?";
        let mut all = candidates(question, &evidence);
        let settings = ExtractSettings::default();
        let blended = blend(&SpeedEmbedder { spec, works }, question, &evidence, &mut all, &settings).await;
        let quotes = choose(all, &settings);
        (blended, quotes.iter().map(|quote| text[quote.span.start..quote.span.end].to_owned()).collect())
    }

    #[tokio::test]
    async fn a_sentence_that_says_it_in_other_words_is_quoted() {
        let (blended, quotes) = quoted(true).await;

        assert_eq!(blended, Ok(()));
        assert_eq!(quotes, ["Batching doubles the throughput of ingestion."]);
    }

    #[tokio::test]
    async fn an_embedder_that_fails_is_named_and_words_alone_decide() {
        let (blended, quotes) = quoted(false).await;

        assert_eq!(blended, Err(Skipped("embedder_failed")));
        assert!(quotes.is_empty());
    }
}
