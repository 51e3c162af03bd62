//! Settings of answering: how much evidence, how long, and when a sentence counts as supported.

use serde::{Deserialize, Serialize};

/// How answers are made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AnswerSettings {
    /// Most tokens of passages in a prompt, estimated. Default 2,000: eight passages of 250, which fit a context of
    /// 4,096 together with question and answer.
    pub evidence_tokens: usize,
    /// Most passages in a prompt. Default 8: later ones rarely hold an answer that the first do not.
    pub max_passages: usize,
    /// Most passages of one document. Default 3: a single source cannot fill the prompt by itself.
    pub max_passages_per_document: usize,
    /// Most tokens a model may write where the request does not say. Default 512.
    pub max_tokens: u32,
    /// Most tokens a request may ask for. Default 4,096.
    pub max_tokens_limit: u32,
    /// Sampling temperature. Default 0: the same question should get the same answer. None leaves it to the server,
    /// which reasoning models demand.
    pub temperature: Option<f32>,
    /// Longest whole answer, search included, ms. Default 90,000: one slow model call and one retry.
    pub timeout_ms: u64,
    /// Most turns of a conversation. Default 32.
    pub max_messages: usize,
    /// Most bytes of question and conversation together. Default 32,768: as much as the evidence may take.
    pub max_conversation_bytes: usize,
    pub support: SupportSettings,
    pub extract: ExtractSettings,
}

/// From which share of a sentence's content words found in its cited passages it counts as supported.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SupportSettings {
    /// From here on a sentence is supported. Default 0.75: the best balance on the 4,749 labelled answers of BEGIN,
    /// where it keeps 91 % of the attributable ones and catches 81 % of the others (0.7: 93 and 78, 0.8: 84 and 87).
    /// On summaries of news, where wrong sentences reuse the article's words, it catches few (QAGS: 7 and 29 %).
    pub supported: f64,
    /// From here on it is partly supported; below it is not. Default 0.5: under 1 % of BEGIN's attributable answers
    /// lie below.
    pub partial: f64,
}

/// How quoted sentences are chosen when no model writes the answer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExtractSettings {
    /// Most sentences. Default 3.
    pub max_sentences: usize,
    /// A further sentence must score at least this share of the best. Default 0.5: quotes then hold the answer of
    /// .778 (SQuAD) and .770 (NQ) of the questions with 2.0 and 2.4 sentences; always three would reach .796 and .797,
    /// always one .662 and .555.
    pub relative_score: f64,
    /// The best sentence must hold at least this share of the question's content, weighted by rarity; below, the
    /// answer is "not found". Default 0.23: refuses 2 % of the answerable questions of SQuAD and NQ, and 24 and 17 %
    /// of those whose article was taken away. Words alone tell little more: 0.3 would refuse 6 %, and 39 and 33 %.
    pub min_coverage: f64,
    /// Share of the embedder's similarity in a sentence's score, from 0 to 1; 0 never calls the embedder. Default 0.3:
    /// finds the answer of 1 % more questions with the first sentence and of 2 % more with three (600 questions each of
    /// SQuAD and NQ; 0.2 and 0.4 the same within the noise, 0.8 loses again), and meets questions in other words.
    pub similarity_weight: f64,
    /// Most sentences that are embedded for one answer. Default 10, about 300 tokens: 40 found nothing more.
    pub max_embedded_sentences: usize,
}

impl Default for AnswerSettings {
    fn default() -> Self {
        Self {
            evidence_tokens: 2_000,
            max_passages: 8,
            max_passages_per_document: 3,
            max_tokens: 512,
            max_tokens_limit: 4_096,
            temperature: Some(0.0),
            timeout_ms: 90_000,
            max_messages: 32,
            max_conversation_bytes: 32 << 10,
            support: SupportSettings::default(),
            extract: ExtractSettings::default(),
        }
    }
}

impl Default for SupportSettings {
    fn default() -> Self {
        Self { supported: 0.75, partial: 0.5 }
    }
}

impl Default for ExtractSettings {
    fn default() -> Self {
        Self {
            max_sentences: 3,
            relative_score: 0.5,
            min_coverage: 0.23,
            similarity_weight: 0.3,
            max_embedded_sentences: 10,
        }
    }
}

impl AnswerSettings {
    /// What is wrong with these settings, one sentence each, naming the field; empty if nothing is.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let positive = [
            ("evidence_tokens", self.evidence_tokens as u64),
            ("max_passages", self.max_passages as u64),
            ("max_passages_per_document", self.max_passages_per_document as u64),
            ("max_tokens", u64::from(self.max_tokens)),
            ("timeout_ms", self.timeout_ms),
            ("max_messages", self.max_messages as u64),
            ("extract.max_sentences", self.extract.max_sentences as u64),
        ];
        problems.extend(
            positive.iter().filter(|(_, value)| *value == 0).map(|(name, _)| format!("{name} must be above 0")),
        );
        let shares = [
            ("support.supported", self.support.supported),
            ("support.partial", self.support.partial),
            ("extract.relative_score", self.extract.relative_score),
            ("extract.min_coverage", self.extract.min_coverage),
            ("extract.similarity_weight", self.extract.similarity_weight),
        ];
        let outside = shares.iter().filter(|(_, value)| !(0.0..=1.0).contains(value));
        problems.extend(outside.map(|(name, _)| format!("{name} must lie between 0 and 1")));
        if self.support.partial > self.support.supported {
            problems.push("support.partial must not be above support.supported".to_owned());
        }
        if self.max_tokens > self.max_tokens_limit {
            problems.push("max_tokens must not be above max_tokens_limit".to_owned());
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_contradictions_are_named() {
        assert_eq!(AnswerSettings::default().problems(), Vec::<String>::new());

        let support = SupportSettings { supported: 0.3, partial: 1.4 };
        let settings = AnswerSettings { max_tokens: 9_000, support, ..AnswerSettings::default() };
        assert_eq!(settings.problems().len(), 3, "{:?}", settings.problems());
    }
}
