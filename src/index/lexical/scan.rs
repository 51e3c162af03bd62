//! Scores documents term by term, a window of documents at a time.
//!
//! A window's scores fit the first-level cache, postings are decoded in blocks, and a document is looked at once,
//! when all words have added to it. In collections of the intended size this beats skipping ahead by block maxima,
//! which pays for each skip, and it scores with whatever parameters the settings ask for.

use std::ops::Range;

use tantivy::TantivyError;
use tantivy::postings::BlockSegmentPostings;

use crate::domain::ScoredChunk;

use super::bits::Bits;
use super::bm25::{Norms, saturation};
use super::plan::Plan;
use super::snapshot::{Segment, TEXT_FIELD_COUNT};
use super::top::TopChunks;

/// Documents of a window: two arrays of this many `f32` stay in a 32 KiB cache.
const WINDOW: u32 = 4096;
/// Scores that are compared with the threshold at once.
const LANES: usize = 32;

/// What is the same for all segments of one query.
pub(super) struct Scan<'a> {
    pub plan: &'a Plan,
    pub norms: &'a [Norms; TEXT_FIELD_COUNT],
    pub k1: f32,
}

impl Scan<'_> {
    /// Offers all documents of segment number `ordinal` that match and are in `passing` (`None`: all live ones).
    pub(super) fn segment(
        &self,
        ordinal: usize,
        segment: &Segment,
        passing: Option<&Bits>,
        top: &mut TopChunks,
    ) -> Result<(), TantivyError> {
        let mut words = self.words(ordinal, segment)?;
        let mut identifiers = self.identifiers(ordinal, segment)?;
        if words.is_empty() && identifiers.is_empty() {
            return Ok(());
        }
        let mut window = Window::new();
        let max_doc = segment.reader.max_doc();
        loop {
            // Windows begin where there is something to score.
            let next_words = words.iter().filter_map(WordCursor::next);
            let next_identifiers = identifiers.iter().filter_map(|(postings, _)| postings.next());
            let Some(from) = next_words.chain(next_identifiers).min() else { return Ok(()) };
            (window.from, window.to) = (from, from.saturating_add(WINDOW).min(max_doc));
            for word in &mut words {
                word.add_to(&mut window, self.k1);
            }
            for (postings, weight) in &mut identifiers {
                postings.docs_before(window.to, |docs| {
                    for doc in docs {
                        window.scores[(doc - window.from) as usize] += *weight;
                    }
                });
            }
            window.offer(segment, passing, top);
        }
    }

    fn words<'b>(&'b self, ordinal: usize, segment: &'b Segment) -> Result<Vec<WordCursor<'b>>, TantivyError> {
        let mut words = Vec::with_capacity(self.plan.words.len());
        for word in &self.plan.words {
            let mut lists = Vec::with_capacity(word.postings[ordinal].len());
            for (field, info) in &word.postings[ordinal] {
                let text = &segment.texts[*field];
                lists.push(FieldCursor {
                    postings: Cursor::new(text.postings(info)?),
                    lengths: text.norms.as_slice(),
                    norms: &self.norms[*field],
                });
            }
            if let Some(longest) = lists.pop() {
                words.push(WordCursor { weight: word.weight, others: lists, longest, seen: Vec::new() });
            }
        }
        Ok(words)
    }

    fn identifiers(&self, ordinal: usize, segment: &Segment) -> Result<Vec<(Cursor, f32)>, TantivyError> {
        let mut cursors = Vec::new();
        for identifier in &self.plan.identifiers {
            if let Some(info) = &identifier.postings[ordinal] {
                cursors.push((Cursor::new(segment.exact_postings(info)?), identifier.weight));
            }
        }
        Ok(cursors)
    }
}

/// Scores of the documents `from..to`.
struct Window {
    from: u32,
    to: u32,
    scores: Box<[f32; WINDOW as usize]>,
    /// Weighted frequencies of one word in all but its longest list; zero between words.
    frequencies: Box<[f32; WINDOW as usize]>,
}

impl Window {
    fn new() -> Self {
        let zeros = || Box::new([0.0; WINDOW as usize]);
        Self { from: 0, to: 0, scores: zeros(), frequencies: zeros() }
    }

    fn offer(&mut self, segment: &Segment, passing: Option<&Bits>, top: &mut TopChunks) {
        let scores = &mut self.scores[..(self.to - self.from) as usize];
        for (start, chunk) in (self.from..).step_by(LANES).zip(scores.chunks(LANES)) {
            let best = chunk.iter().fold(0.0, |best, score| if *score > best { *score } else { best });
            if best >= top.threshold() {
                for (doc, score) in (start..).zip(chunk) {
                    offer_one(segment, passing, top, (doc, *score));
                }
            }
        }
        scores.fill(0.0);
    }
}

fn offer_one(segment: &Segment, passing: Option<&Bits>, top: &mut TopChunks, (doc, score): (u32, f32)) {
    if score < top.threshold() {
        return;
    }
    let passes = match passing {
        Some(passing) => passing.contains(doc),
        None => !segment.reader.is_deleted(doc),
    };
    if passes {
        top.offer(ScoredChunk { id: segment.chunk(doc), score });
    }
}

/// One word in all fields and forms.
struct WordCursor<'a> {
    weight: f32,
    others: Vec<FieldCursor<'a>>,
    longest: FieldCursor<'a>,
    /// Documents of the window that are in `others`.
    seen: Vec<u32>,
}

struct FieldCursor<'a> {
    postings: Cursor,
    lengths: &'a [u8],
    norms: &'a Norms,
}

impl WordCursor<'_> {
    fn next(&self) -> Option<u32> {
        self.others.iter().chain([&self.longest]).filter_map(|field| field.postings.next()).min()
    }

    fn add_to(&mut self, window: &mut Window, k1: f32) {
        let Window { from, to, scores, frequencies } = window;
        let (from, to, weight) = (*from, *to, self.weight);
        for FieldCursor { postings, lengths, norms } in &mut self.others {
            postings.for_each_before(to, |docs, counts| {
                for (doc, count) in docs.iter().zip(counts) {
                    let norm = norms[usize::from(lengths[*doc as usize])];
                    frequencies[(doc - from) as usize] += *count as f32 * norm;
                }
                self.seen.extend_from_slice(docs);
            });
        }
        let FieldCursor { postings, lengths, norms } = &mut self.longest;
        if self.seen.is_empty() {
            postings.for_each_before(to, |docs, counts| {
                for (doc, count) in docs.iter().zip(counts) {
                    let norm = norms[usize::from(lengths[*doc as usize])];
                    scores[(doc - from) as usize] += weight * saturation(*count as f32 * norm, k1);
                }
            });
            return;
        }
        postings.for_each_before(to, |docs, counts| {
            for (doc, count) in docs.iter().zip(counts) {
                let norm = norms[usize::from(lengths[*doc as usize])];
                let elsewhere = std::mem::take(&mut frequencies[(doc - from) as usize]);
                scores[(doc - from) as usize] += weight * saturation(*count as f32 * norm + elsewhere, k1);
            }
        });
        // What the longest list does not hold is still waiting.
        for doc in self.seen.drain(..) {
            let frequency = std::mem::take(&mut frequencies[(doc - from) as usize]);
            scores[(doc - from) as usize] += weight * saturation(frequency, k1);
        }
    }
}

/// A place in a posting list.
struct Cursor {
    postings: BlockSegmentPostings,
    /// How much of the current block is behind.
    behind: usize,
}

impl Cursor {
    fn new(postings: BlockSegmentPostings) -> Self {
        Self { postings, behind: 0 }
    }

    /// The next document, or `None` at the end.
    fn next(&self) -> Option<u32> {
        self.postings.docs().get(self.behind).copied()
    }

    /// Calls `each` with the documents before `end` that were not seen yet, block by block, and how often the term
    /// occurs in each.
    fn for_each_before(&mut self, end: u32, mut each: impl FnMut(&[u32], &[u32])) {
        while let Some(ahead) = self.next_before(end) {
            each(&self.postings.docs()[ahead.clone()], &self.postings.freqs()[ahead.clone()]);
            self.pass(ahead.end);
        }
    }

    /// The same for postings that hold no counts.
    fn docs_before(&mut self, end: u32, mut each: impl FnMut(&[u32])) {
        while let Some(ahead) = self.next_before(end) {
            each(&self.postings.docs()[ahead.clone()]);
            self.pass(ahead.end);
        }
    }

    // The stretch of the current block that lies before `end`; `None` if there is nothing.
    fn next_before(&self, end: u32) -> Option<Range<usize>> {
        let docs = self.postings.docs();
        let length = match docs.last() {
            Some(last) if *last < end => docs.len(),
            Some(_) => self.behind + docs[self.behind..].partition_point(|doc| *doc < end),
            None => 0,
        };
        (self.behind < length).then_some(self.behind..length)
    }

    fn pass(&mut self, to: usize) {
        if to == self.postings.block_len() {
            self.postings.advance();
            self.behind = 0;
        } else {
            self.behind = to;
        }
    }
}
