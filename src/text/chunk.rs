//! The chunkers: a text and its outline become spans of bounded length.
//!
//! Whichever cuts, chunks are exact slices, none is over the limit, and together they cover all but whitespace. Name,
//! version and settings enter every chunk's id, so a change of behaviour needs a new version of that chunker.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::{ByteSpan, ChunkerSpec, Outline};

use super::{
    atom::{Atom, Border, atoms},
    outline::{HeadingTree, page_at},
    pack::{Limits, pack},
    tokens::TokenPositions,
    window::{sentence_windows, word_atoms, word_windows},
};

/// Where a text is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChunkingStrategy {
    /// At headings first, then at paragraphs, items and sentences; between words only where a sentence is over the limit.
    #[default]
    Structure,
    /// Windows of `max_tokens`, each beginning `overlap_tokens` before the last one's end, between words wherever those
    /// are: what most collections were first built with, to be compared with. An edit moves every border after it.
    Window,
    /// Windows of `window_sentences` whole sentences inside a section, each repeating the last `overlap_sentences` of
    /// the one before: small, exact passages, to be read with `context` around them.
    Sentences,
}

impl ChunkingStrategy {
    /// Its name in a chunker's specification.
    fn name(self) -> &'static str {
        match self {
            Self::Structure => "structure",
            Self::Window => "window",
            Self::Sentences => "sentences",
        }
    }

    /// Grows whenever the same text and settings would give other chunks.
    fn version(self) -> u32 {
        match self {
            Self::Structure | Self::Window | Self::Sentences => 1,
        }
    }
}

/// How long chunks are, in tokens of the embedder, special tokens not counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChunkingSettings {
    /// Default `structure`.
    pub strategy: ChunkingStrategy,
    /// Length that chunks aim at. Default 160: about a paragraph, and room up to the maximum for a better border. Of
    /// 790 annotated excerpts in five long documents 94 % lie whole in one chunk, 73 % with windows of equal length.
    pub target_tokens: usize,
    /// Length that no chunk exceeds. Default 200: with title and headings in front it fits an embedder of 256.
    pub max_tokens: usize,
    /// Sections and last pieces shorter than this join a neighbour. Default 24: about one sentence.
    pub min_tokens: usize,
    /// Whole sentences up to this length are repeated from the chunk before. Default 0: headings in front of the
    /// text give the context that overlap would give, at no cost in size.
    pub overlap_tokens: usize,
    /// Of strategy `sentences`: sentences in a chunk. Default 3: one with its neighbours.
    pub window_sentences: usize,
    /// Of strategy `sentences`: how many of them the next chunk repeats. Default 1.
    pub overlap_sentences: usize,
}

impl Default for ChunkingSettings {
    fn default() -> Self {
        Self {
            strategy: ChunkingStrategy::Structure,
            target_tokens: 160,
            max_tokens: 200,
            min_tokens: 24,
            overlap_tokens: 0,
            window_sentences: 3,
            overlap_sentences: 1,
        }
    }
}

/// Why chunking settings are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidChunking {
    #[error("max_tokens is {max_tokens}, at least {CHUNK_MIN_TOKENS} are needed")]
    MaxTooSmall { max_tokens: usize },
    #[error("target_tokens is {target_tokens}, it must lie between 1 and max_tokens ({max_tokens})")]
    TargetOutOfRange { target_tokens: usize, max_tokens: usize },
    #[error("min_tokens is {min_tokens}, at most half of target_tokens ({target_tokens}) is possible")]
    MinTooLarge { min_tokens: usize, target_tokens: usize },
    #[error("overlap_tokens is {overlap_tokens}, at most half of target_tokens ({target_tokens}) is possible")]
    OverlapTooLarge { overlap_tokens: usize, target_tokens: usize },
    #[error("overlap_tokens is {overlap_tokens}, at most half of max_tokens ({max_tokens}) is possible for windows")]
    WindowOverlapTooLarge { overlap_tokens: usize, max_tokens: usize },
    #[error("window_sentences is {window_sentences}, it must be above overlap_sentences ({overlap_sentences})")]
    SentencesOutOfRange { window_sentences: usize, overlap_sentences: usize },
}

/// Smallest `max_tokens` that still leaves room for a sentence.
const CHUNK_MIN_TOKENS: usize = 16;

impl ChunkingSettings {
    /// Refuses settings whose values contradict each other.
    pub fn check(&self) -> Result<(), InvalidChunking> {
        let Self { target_tokens, max_tokens, min_tokens, overlap_tokens, window_sentences, overlap_sentences, .. } =
            *self;
        if max_tokens < CHUNK_MIN_TOKENS {
            return Err(InvalidChunking::MaxTooSmall { max_tokens });
        }
        match self.strategy {
            ChunkingStrategy::Structure => {}
            ChunkingStrategy::Window if overlap_tokens > max_tokens / 2 => {
                return Err(InvalidChunking::WindowOverlapTooLarge { overlap_tokens, max_tokens });
            }
            ChunkingStrategy::Sentences if window_sentences <= overlap_sentences => {
                return Err(InvalidChunking::SentencesOutOfRange { window_sentences, overlap_sentences });
            }
            ChunkingStrategy::Window | ChunkingStrategy::Sentences => return Ok(()),
        }
        if target_tokens == 0 || target_tokens > max_tokens {
            return Err(InvalidChunking::TargetOutOfRange { target_tokens, max_tokens });
        }
        if min_tokens > target_tokens / 2 {
            return Err(InvalidChunking::MinTooLarge { min_tokens, target_tokens });
        }
        if overlap_tokens > target_tokens / 2 {
            return Err(InvalidChunking::OverlapTooLarge { overlap_tokens, target_tokens });
        }
        Ok(())
    }
}

/// The specification that enters chunk ids; `counter_name` names the way tokens are counted. What a strategy does not
/// look at is not part of it.
pub fn chunker_spec(settings: &ChunkingSettings, counter_name: &str) -> ChunkerSpec {
    let numbers: &[(&str, usize)] = match settings.strategy {
        ChunkingStrategy::Structure => &[
            ("max_tokens", settings.max_tokens),
            ("min_tokens", settings.min_tokens),
            ("overlap_tokens", settings.overlap_tokens),
            ("target_tokens", settings.target_tokens),
        ],
        ChunkingStrategy::Window => &[("max_tokens", settings.max_tokens), ("overlap_tokens", settings.overlap_tokens)],
        ChunkingStrategy::Sentences => &[
            ("max_tokens", settings.max_tokens),
            ("overlap_sentences", settings.overlap_sentences),
            ("window_sentences", settings.window_sentences),
        ],
    };
    let numbers = numbers.iter().map(|(key, value)| ((*key).to_owned(), value.to_string()));
    let params: BTreeMap<_, _> = numbers.chain([("counter".to_owned(), counter_name.to_owned())]).collect();
    ChunkerSpec { name: settings.strategy.name().to_owned(), version: settings.strategy.version(), params }
}

/// The settings that a specification was made from; `None` for one that this program does not know completely.
pub fn chunking_of(spec: &ChunkerSpec) -> Option<ChunkingSettings> {
    let known = [ChunkingStrategy::Structure, ChunkingStrategy::Window, ChunkingStrategy::Sentences];
    let strategy = known.into_iter().find(|strategy| strategy.name() == spec.name)?;
    let defaults = ChunkingSettings::default();
    let number = |key: &str, default: usize| match spec.params.get(key) {
        None => Some(default),
        Some(text) => text.parse().ok(),
    };
    let settings = ChunkingSettings {
        strategy,
        target_tokens: number("target_tokens", defaults.target_tokens)?,
        max_tokens: number("max_tokens", defaults.max_tokens)?,
        min_tokens: number("min_tokens", defaults.min_tokens)?,
        overlap_tokens: number("overlap_tokens", defaults.overlap_tokens)?,
        window_sentences: number("window_sentences", defaults.window_sentences)?,
        overlap_sentences: number("overlap_sentences", defaults.overlap_sentences)?,
    };
    let is_whole = chunker_spec(&settings, spec.params.get("counter")?) == *spec;
    (is_whole && settings.check().is_ok()).then_some(settings)
}

/// A span of the text with what is known about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextChunk {
    pub span: ByteSpan,
    /// Headings that stand above all of the chunk's body, outermost first.
    pub heading_path: Vec<String>,
    /// Tokens as counted by the caller's counter.
    pub token_count: u32,
    /// From 1, of the chunk's first byte; `None` where the format has no pages.
    pub page: Option<u32>,
}

/// Cuts `text` into chunks, in order; none for a text of whitespace.
///
/// Linear in the text's length beside the counting of tokens. Settings must have passed [`ChunkingSettings::check`].
pub fn chunk(
    text: &str,
    outline: &Outline,
    settings: &ChunkingSettings,
    tokens: &dyn TokenPositions,
) -> Vec<TextChunk> {
    debug_assert_eq!(settings.check(), Ok(()));
    let describer = Describer { text, outline, tree: HeadingTree::new(outline), tokens };
    let max = settings.max_tokens as u64;
    match settings.strategy {
        ChunkingStrategy::Structure => {
            let atoms = atoms(text, outline, settings.max_tokens - settings.overlap_tokens, tokens);
            let limits = Limits {
                target: settings.target_tokens as u64,
                max,
                min: settings.min_tokens as u64,
                overlap: settings.overlap_tokens as u64,
            };
            pack(&atoms, &limits).iter().map(|packed| describer.describe(&atoms[packed.atoms.clone()])).collect()
        }
        ChunkingStrategy::Window => {
            let atoms = word_atoms(text, outline, settings.max_tokens, tokens);
            let windows = word_windows(&atoms, max, settings.overlap_tokens as u64);
            windows.into_iter().map(|window| describer.describe(&atoms[window])).collect()
        }
        ChunkingStrategy::Sentences => {
            let atoms = atoms(text, outline, settings.max_tokens, tokens);
            let windows = sentence_windows(&atoms, max, settings.window_sentences, settings.overlap_sentences);
            windows.into_iter().map(|window| describer.describe(&atoms[window])).collect()
        }
    }
}

struct Describer<'a> {
    text: &'a str,
    outline: &'a Outline,
    tree: HeadingTree,
    tokens: &'a dyn TokenPositions,
}

impl Describer<'_> {
    fn describe(&self, atoms: &[Atom]) -> TextChunk {
        let span = ByteSpan::new(atoms[0].span.start, atoms[atoms.len() - 1].span.end);
        TextChunk {
            span,
            heading_path: self.tree.path(self.outline, heading_of(atoms, &self.tree)),
            token_count: self.token_count(span, atoms),
            page: page_at(self.outline, span.start),
        }
    }

    fn token_count(&self, span: ByteSpan, atoms: &[Atom]) -> u32 {
        if atoms.iter().all(|atom| atom.before != Border::InsideWord) {
            return atoms.iter().map(|atom| atom.tokens).sum();
        }
        // Pieces of one word have fewer tokens together than one by one.
        let count = self.tokens.token_starts(&self.text[span.start..span.end]).len();
        u32::try_from(count).unwrap_or(u32::MAX)
    }
}

/// The innermost heading above all of the body; of a chunk of headings alone, above all of them.
fn heading_of(atoms: &[Atom], tree: &HeadingTree) -> Option<usize> {
    let has_body = atoms.iter().any(|atom| !atom.is_heading);
    let mut above = atoms.iter().filter(|atom| !atom.is_heading || !has_body).map(|atom| atom.heading);
    let first = above.next()?;
    above.fold(first, |common, next| if common == next { common } else { tree.common(common, next) })
}

#[cfg(test)]
mod tests;
