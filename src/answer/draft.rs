//! An answer in the making: what is known of it whichever way it ends.

use std::time::Instant;

use crate::domain::{
    Answer, AnswerStatus, Attempt, ByteSpan, Claim, Degraded, ModelProblem, Nanousd, PromptVersion, SearchResult,
    Usage, Verdict,
};
use crate::gateway::{ChatEnd, FinishReason};

use super::evidence::Evidence;
use super::extract::{Candidate, with_what_follows};
use super::ground::{Grounder, without_forged_markers};
use super::output_filter::OutputFilter;
use super::settings::AnswerSettings;

const NOTHING_FOUND: &str = "No passage was found that could answer this question.";
const NO_QUOTE: &str = "No model could be asked, and no sentence of the passages answers the question by itself.";
const NOT_IN_SOURCES: &str = "The passages that were found do not hold an answer to this question.";

/// What is known once the search is done.
#[derive(Debug)]
pub struct Draft {
    pub evidence: Evidence,
    pub degraded: Vec<Degraded>,
    pub attempts: Vec<Attempt>,
    /// Of all attempts together.
    pub cost: Nanousd,
    pub is_cached: bool,
    pub model_problem: Option<ModelProblem>,
    search_ms: f64,
    started: Instant,
}

/// Who wrote an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Writer {
    pub provider: String,
    pub end: ChatEnd,
    pub prompt: PromptVersion,
}

/// A finished text with what its checks found.
#[derive(Debug, Default)]
struct Written {
    text: String,
    claims: Vec<Claim>,
    citations: Vec<crate::domain::Citation>,
}

impl Draft {
    pub fn new(found: SearchResult, settings: &AnswerSettings) -> Self {
        Self {
            evidence: Evidence::choose(found.hits, settings),
            degraded: found.degraded,
            attempts: Vec::new(),
            cost: Nanousd(0),
            is_cached: false,
            model_problem: None,
            search_ms: found.took_ms,
            started: Instant::now(),
        }
    }

    pub fn degrade(&mut self, stage: &'static str, reason: &'static str) {
        self.degraded.push(Degraded { stage, reason });
    }

    /// An honest refusal; `writer` where a model refused.
    pub fn abstain(self, writer: Option<Writer>) -> Answer {
        let text = match (self.evidence.passages.is_empty(), &self.model_problem) {
            (true, _) => NOTHING_FOUND,
            (false, None) => NOT_IN_SOURCES,
            (false, Some(_)) => NO_QUOTE,
        };
        let written = Written { text: text.to_owned(), ..Written::default() };
        self.finish(AnswerStatus::Abstained, written, writer)
    }

    /// The chosen sentences word for word, each with a marker of its own; a refusal if there are none.
    pub fn quote(self, chosen: &[Candidate]) -> Answer {
        let mut written = Written::default();
        let mut taken: Vec<(usize, ByteSpan)> = Vec::new();
        for candidate in chosen {
            let passage = &self.evidence.passages[candidate.passage];
            let span = with_what_follows(passage.text(), candidate.span);
            // A lead-in may have taken this sentence along already.
            if taken.iter().any(|(of, other)| *of == candidate.passage && span.start < other.end) {
                continue;
            }
            taken.push((candidate.passage, span));
            let marker = taken.len() as u32;
            let citation = passage.cite(marker, span);
            if !written.text.is_empty() {
                written.text.push_str(if written.text.contains('\n') { "\n" } else { " " });
            }
            let start = written.text.len();
            let claim = without_forged_markers(&citation.quote);
            written.text.push_str(&claim);
            written.claims.push(Claim {
                text: claim,
                span: ByteSpan::new(start, written.text.len()),
                citations: vec![marker],
                support: 1.0,
                verdict: Verdict::Supported,
            });
            written.text.push_str(&format!(" [{marker}]"));
            written.citations.push(citation);
        }
        if written.citations.is_empty() {
            return self.abstain(None);
        }
        self.finish(AnswerStatus::Fallback, written, None)
    }

    /// What a model wrote, as it went through filter and check.
    pub fn write(mut self, parts: AnswerParts, writer: Writer) -> Answer {
        match writer.end.finish {
            FinishReason::Length => self.degrade("answer", "cut_at_max_tokens"),
            FinishReason::ContentFilter => self.degrade("answer", "content_filter"),
            FinishReason::Stop | FinishReason::ToolCalls | FinishReason::Other => {}
        }
        if parts.unknown_markers > 0 {
            self.degrade("answer", "unknown_citation");
        }
        if parts.removed > 0 {
            self.degrade("answer", "links_removed");
        }
        if parts.citations.is_empty() {
            self.degrade("answer", "uncited");
        }
        let written = Written { text: parts.text, claims: parts.claims, citations: parts.citations };
        self.finish(AnswerStatus::Answered, written, Some(writer))
    }

    fn finish(self, status: AnswerStatus, written: Written, writer: Option<Writer>) -> Answer {
        let (provider, model, prompt, usage) = match writer {
            Some(writer) => {
                let usage = writer.end.usage.unwrap_or_default();
                (Some(writer.provider), Some(writer.end.model), Some(writer.prompt), usage)
            }
            None => (None, None, None, Usage::default()),
        };
        Answer {
            status,
            text: written.text,
            claims: written.claims,
            citations: written.citations,
            sources: self.evidence.into_hits(),
            model,
            provider,
            prompt,
            usage,
            attempts: self.attempts,
            cost: self.cost,
            is_cached: self.is_cached,
            model_problem: self.model_problem,
            search_ms: self.search_ms,
            model_ms: self.started.elapsed().as_secs_f64() * 1e3,
            degraded: self.degraded,
        }
    }
}

/// A model's text after filter and check, free of borrows.
#[derive(Debug)]
pub struct AnswerParts {
    text: String,
    claims: Vec<Claim>,
    citations: Vec<crate::domain::Citation>,
    unknown_markers: usize,
    removed: usize,
}

impl AnswerParts {
    pub fn of(grounder: Grounder<'_>, filter: &OutputFilter) -> Self {
        let (text, claims, citations) = grounder.into_parts();
        let (unknown_markers, removed) = (filter.unknown_markers(), filter.removed());
        Self { text, claims, citations, unknown_markers, removed }
    }

    /// True if nothing was left to show.
    pub fn is_empty(&self) -> bool {
        self.text.trim().is_empty()
    }
}
