//! Cutting a text into atoms: the smallest pieces that a chunk may begin or end with.
//!
//! An atom is a heading, a line of a list, table or code, or a sentence. Only a sentence over the limit is cut
//! between words, and only a word over the limit inside the word: at word-like borders (UAX 29), else between
//! graphemes, else between characters. Atoms are trimmed and cover everything but whitespace.

use unicode_segmentation::UnicodeSegmentation;

use crate::domain::{ByteSpan, Outline};

use super::{
    line::{LineKind, line_kind},
    sentence::sentences,
    tokens::{TokenMap, TokenPositions},
};

/// What lies in front of an atom; greater is a better place to cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Border {
    InsideWord,
    Word,
    Sentence,
    Item,
    Paragraph,
    Heading,
}

/// A piece that packing never divides.
#[derive(Debug, Clone, Copy)]
pub(super) struct Atom {
    pub span: ByteSpan,
    pub tokens: u32,
    /// What counts against the limit: tokens, or bytes by [`BYTES_PER_TOKEN`] where a token is absurdly long.
    pub weight: u32,
    pub before: Border,
    /// Index of the innermost heading above it; a heading stands above its own line.
    pub heading: Option<usize>,
    pub is_heading: bool,
    /// Ends in a colon: what follows belongs to it.
    pub leads_on: bool,
}

/// A tokenizer may make one "unknown" token of megabytes; so many bytes count as a token at least.
pub(super) const BYTES_PER_TOKEN: usize = 32;

/// What an atom is where nothing is over the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grain {
    /// A heading, a line of a list, table or code, or a sentence.
    Sentence,
    /// A word.
    Word,
}

/// Cuts `text`; every atom weighs at most `max_weight`, except a single character that weighs more.
pub(super) fn atoms(text: &str, outline: &Outline, max_weight: usize, tokens: &dyn TokenPositions) -> Vec<Atom> {
    cut(text, outline, (max_weight, Grain::Sentence), tokens)
}

/// As [`atoms`], with atoms of this grain.
pub(super) fn cut(
    text: &str,
    outline: &Outline,
    (max_weight, grain): (usize, Grain),
    tokens: &dyn TokenPositions,
) -> Vec<Atom> {
    let mut cutter = Cutter { text, tokens, map: TokenMap::new(text, tokens), max_weight, grain, atoms: Vec::new() };
    for block in blocks(text, outline) {
        cutter.cut_block(&block);
    }
    cutter.atoms
}

/// Lines that belong together: a heading, a paragraph, an item, a row.
struct Block {
    span: ByteSpan,
    before: Border,
    heading: Option<usize>,
    is_heading: bool,
}

fn blocks(text: &str, outline: &Outline) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut headings = outline.headings.iter().enumerate().peekable();
    let (mut heading, mut heading_end) = (None, 0);
    let (mut before, mut in_fence) = (Border::Paragraph, false);
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let span = ByteSpan::new(start, start + line.len());
        start = span.end;
        let mut opens_heading = false;
        while let Some((index, next)) = headings.next_if(|(_, next)| next.span.start < span.end) {
            (heading, heading_end, opens_heading) = (Some(index), next.span.end, true);
        }
        let kind = line_kind(line);
        let is_heading = opens_heading || (span.start < heading_end && kind != LineKind::Blank);
        if opens_heading {
            (before, in_fence) = (Border::Heading, false);
        } else if kind == LineKind::Blank {
            before = before.max(if in_fence { Border::Item } else { Border::Paragraph });
            continue;
        }
        let stands_alone =
            in_fence || matches!(kind, LineKind::Item | LineKind::Row | LineKind::Fence | LineKind::Marked);
        if stands_alone && !is_heading {
            before = before.max(Border::Item);
        }
        match blocks.last_mut() {
            Some(last) if before < Border::Item && last.is_heading == is_heading => last.span.end = span.end,
            _ => blocks.push(Block { span, before: before.max(Border::Item), heading, is_heading }),
        }
        in_fence ^= kind == LineKind::Fence;
        // A row or a line of code ends with its line; an item may go on in the next.
        let is_closed = in_fence || is_heading || matches!(kind, LineKind::Row | LineKind::Fence);
        before = if is_closed { Border::Item } else { Border::Sentence };
        if is_heading && span.end < heading_end {
            before = Border::Sentence;
        }
    }
    blocks
}

struct Cutter<'a> {
    text: &'a str,
    tokens: &'a dyn TokenPositions,
    map: TokenMap,
    max_weight: usize,
    grain: Grain,
    atoms: Vec<Atom>,
}

impl Cutter<'_> {
    fn cut_block(&mut self, block: &Block) {
        let text = &self.text[block.span.start..block.span.end];
        let spans = if block.is_heading { whole(text) } else { sentences(text) };
        let mut before = block.before;
        for span in spans {
            let span = ByteSpan::new(block.span.start + span.start, block.span.start + span.end);
            let count = self.map.count(span);
            if self.grain == Grain::Sentence && weight(count, span) <= self.max_weight {
                self.push(block, span, count, before);
            } else {
                self.cut_words(block, span, before);
            }
            before = Border::Sentence;
        }
    }

    /// A sentence over the limit: runs of words, each at most an eighth of the limit so that packing has a choice.
    fn cut_words(&mut self, block: &Block, sentence: ByteSpan, mut before: Border) {
        let run_weight = match self.grain {
            Grain::Sentence => (self.max_weight / 8).max(1),
            Grain::Word => 1,
        };
        let mut run: Option<ByteSpan> = None;
        for word in words(self.text, sentence) {
            let longer = run.map_or(word, |run| ByteSpan::new(run.start, word.end));
            if weight(self.map.count(longer), longer) <= run_weight {
                run = Some(longer);
                continue;
            }
            if let Some(run) = run.take() {
                self.push(block, run, self.map.count(run), before);
                before = Border::Word;
            }
            if weight(self.map.count(word), word) <= self.max_weight {
                run = Some(word);
            } else {
                self.cut_inside(block, word, before);
                before = Border::Word;
            }
        }
        if let Some(run) = run {
            self.push(block, run, self.map.count(run), before);
        }
    }

    /// A word over the limit, such as a line of Thai or a blob: pieces as long as the limit allows.
    fn cut_inside(&mut self, block: &Block, word: ByteSpan, mut before: Border) {
        let mut piece = ByteSpan::new(word.start, word.start);
        for end in inner_ends(self.text, word, self.max_weight * BYTES_PER_TOKEN) {
            let longer = ByteSpan::new(piece.start, end);
            if !piece.is_empty() && weight(self.map.count_cut(longer), longer) > self.max_weight {
                self.push_recounted(block, piece, before);
                before = Border::InsideWord;
                piece = ByteSpan::new(piece.end, end);
            } else {
                piece = longer;
            }
        }
        self.push_recounted(block, piece, before);
    }

    /// Tokens differ once a word is cut, so they are counted anew; what turns out too long is halved.
    fn push_recounted(&mut self, block: &Block, piece: ByteSpan, mut before: Border) {
        let mut waiting = vec![piece];
        while let Some(piece) = waiting.pop() {
            let text = &self.text[piece.start..piece.end];
            let count = self.tokens.token_starts(text).len();
            let middle = text.ceil_char_boundary(text.len() / 2);
            let cut = text.grapheme_indices(true).map(|(at, _)| at).find(|&at| at >= middle).unwrap_or(middle);
            if weight(count, piece) <= self.max_weight || cut == 0 || cut == text.len() {
                self.push(block, piece, count, before);
                before = Border::InsideWord;
            } else {
                waiting.push(ByteSpan::new(piece.start + cut, piece.end));
                waiting.push(ByteSpan::new(piece.start, piece.start + cut));
            }
        }
    }

    fn push(&mut self, block: &Block, span: ByteSpan, tokens: usize, before: Border) {
        let text = &self.text[span.start..span.end];
        self.atoms.push(Atom {
            span,
            tokens: u32::try_from(tokens).unwrap_or(u32::MAX),
            weight: u32::try_from(weight(tokens, span)).unwrap_or(u32::MAX),
            before,
            heading: block.heading,
            is_heading: block.is_heading,
            leads_on: !block.is_heading && text.ends_with(':'),
        });
    }
}

fn weight(tokens: usize, span: ByteSpan) -> usize {
    tokens.max(span.len().div_ceil(BYTES_PER_TOKEN)).max(1)
}

fn whole(text: &str) -> Vec<ByteSpan> {
    let start = text.len() - text.trim_start().len();
    let end = text.trim_end().len();
    if start < end { vec![ByteSpan::new(start, end)] } else { Vec::new() }
}

fn words(text: &str, span: ByteSpan) -> impl Iterator<Item = ByteSpan> {
    let slice = &text[span.start..span.end];
    slice.split_whitespace().map(move |word| {
        let start = span.start + (word.as_ptr() as usize - slice.as_ptr() as usize);
        ByteSpan::new(start, start + word.len())
    })
}

/// Ends of the smallest pieces of a word: word-like runs; of a run over `max_bytes` its graphemes; of such a
/// grapheme its characters.
fn inner_ends(text: &str, word: ByteSpan, max_bytes: usize) -> impl Iterator<Item = usize> {
    // A word-like run of more bytes than this may hold too many tokens for one piece.
    const RUN_MAX_BYTES: usize = 64;
    let run_max_bytes = RUN_MAX_BYTES.min(max_bytes);
    let runs = text[word.start..word.end].split_word_bounds();
    let graphemes = runs.flat_map(move |run| {
        let fine = run.len() > run_max_bytes;
        let whole = (!fine).then_some(run);
        whole.into_iter().chain(if fine { run } else { "" }.graphemes(true))
    });
    let pieces = graphemes.flat_map(move |grapheme| {
        let fine = grapheme.len() > max_bytes;
        let whole = (!fine).then_some(grapheme.len());
        whole.into_iter().chain(if fine { grapheme } else { "" }.chars().map(char::len_utf8))
    });
    pieces.scan(word.start, |end, bytes| {
        *end += bytes;
        Some(*end)
    })
}
