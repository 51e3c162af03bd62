//! Checking what a model wrote: every marker resolved to a passage, every sentence compared with what it cites.
//!
//! The check is by words: a sentence counts as supported by the share of its content words that its cited passages
//! hold. That finds invented names and topics, not a twisted relation between true words. A sentence with a number
//! that stands in no cited passage is never more than partly supported.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};

use crate::domain::{ByteSpan, Citation, Claim, Verdict};
use crate::text::sentences;

use super::evidence::{Evidence, Passage};
use super::settings::SupportSettings;
use super::terms::stem_set;

/// A finished sentence with the citations that it is the first to use.
#[derive(Debug, Clone, PartialEq)]
pub struct Grounded {
    pub new_citations: Vec<Citation>,
    pub claim: Claim,
}

/// Follows an answer as it is written. Its text holds only markers that name a passage.
pub struct Grounder<'e> {
    evidence: &'e Evidence,
    support: SupportSettings,
    text: String,
    /// Where the first unfinished sentence starts.
    open: usize,
    claims: Vec<Claim>,
    citations: BTreeMap<u32, Citation>,
}

impl<'e> Grounder<'e> {
    pub fn new(evidence: &'e Evidence, support: SupportSettings) -> Self {
        let (claims, citations) = (Vec::new(), BTreeMap::new());
        Self { evidence, support, text: String::new(), open: 0, claims, citations }
    }

    /// Takes the next piece of the answer; gives the sentences that are finished by it.
    pub fn push(&mut self, piece: &str) -> Vec<Grounded> {
        self.text.push_str(piece);
        let mut parts = marked_sentences(&self.text, self.open);
        // The last one may go on, and more markers may follow it.
        match parts.pop() {
            Some(last) => self.open = last.start,
            None => return Vec::new(),
        }
        parts.into_iter().filter_map(|part| self.ground(part)).collect()
    }

    /// Gives the last sentences.
    pub fn finish(&mut self) -> Vec<Grounded> {
        let parts = marked_sentences(&self.text, self.open);
        self.open = self.text.len();
        parts.into_iter().filter_map(|part| self.ground(part)).collect()
    }

    /// The text, its sentences in order and the citations by marker.
    pub fn into_parts(self) -> (String, Vec<Claim>, Vec<Citation>) {
        (self.text, self.claims, self.citations.into_values().collect())
    }

    /// `None` for what claims nothing, such as a lone list mark.
    fn ground(&mut self, part: Marked) -> Option<Grounded> {
        let stems = stem_set(&without_markers(&self.text[part.span.start..part.span.end]));
        if stems.is_empty() {
            return None;
        }
        let cited: Vec<(u32, &Passage)> =
            part.markers.iter().filter_map(|marker| Some((*marker, self.evidence.passage(*marker)?))).collect();
        let (support, verdict) = self.judge(&stems, &cited);
        let mut new_citations = Vec::new();
        for (marker, passage) in cited {
            if let Entry::Vacant(place) = self.citations.entry(marker) {
                let citation = passage.cite(marker, best_sentence(passage, &stems));
                place.insert(citation.clone());
                new_citations.push(citation);
            }
        }
        let text = self.text[part.span.start..part.span.end].to_owned();
        let claim = Claim { text, span: part.span, citations: part.markers, support, verdict };
        self.claims.push(claim.clone());
        Some(Grounded { new_citations, claim })
    }

    fn judge(&self, stems: &HashSet<String>, cited: &[(u32, &Passage)]) -> (f64, Verdict) {
        let mut held: HashSet<String> = HashSet::new();
        for (_, passage) in cited {
            held.extend(stem_set(passage.text()));
            held.extend(stem_set(&passage.heading()));
        }
        let found = stems.iter().filter(|stem| held.contains(*stem)).count();
        let support = found as f64 / stems.len() as f64;
        let is_number = |stem: &&String| stem.bytes().any(|byte| byte.is_ascii_digit());
        let numbers_hold = stems.iter().filter(is_number).all(|stem| held.contains(stem));
        let verdict = if support >= self.support.supported && numbers_hold {
            Verdict::Supported
        } else if support >= self.support.partial {
            Verdict::Partial
        } else {
            Verdict::Unsupported
        };
        (support, verdict)
    }
}

/// The sentence of a passage most like a claim, by the share of common words (Dice 1945); the first if none is.
fn best_sentence(passage: &Passage, claim: &HashSet<String>) -> ByteSpan {
    let text = passage.text();
    let mut best = (0.0, None);
    for span in sentences(text) {
        let stems = stem_set(&text[span.start..span.end]);
        let common = stems.intersection(claim).count();
        let likeness = 2.0 * common as f64 / (stems.len() + claim.len()).max(1) as f64;
        if best.1.is_none() || likeness > best.0 {
            best = (likeness, Some(span));
        }
    }
    best.1.unwrap_or(ByteSpan::new(0, text.len()))
}

/// A sentence without the markers at its end, and the markers in it and behind it.
struct Marked {
    /// Where it begins, with markers that stand before the first sentence.
    start: usize,
    span: ByteSpan,
    /// Distinct, in the order of their first use.
    markers: Vec<u32>,
}

/// Sentences of `text` from `from` on. Markers belong to the sentence before them.
fn marked_sentences(text: &str, from: usize) -> Vec<Marked> {
    let bare = without_markers(&text[from..]);
    let spans = sentences(&bare);
    let starts: Vec<usize> = spans.iter().map(|span| span.start).collect();
    let bounds = |index: usize| {
        let start = if index == 0 { 0 } else { starts[index] };
        (from + start, from + starts.get(index + 1).copied().unwrap_or(bare.len()))
    };
    let marked = spans.iter().enumerate().map(|(index, span)| {
        let (start, end) = bounds(index);
        let span = ByteSpan::new(from + span.start, from + span.end);
        Marked { start, span, markers: markers_in(&text[start..end]) }
    });
    marked.collect()
}

/// A marker at the start of `text`: its number and its bytes.
fn marker_at(text: &str) -> Option<(u32, usize)> {
    let inside = text.strip_prefix('[')?;
    let digits = inside.bytes().take_while(u8::is_ascii_digit).count();
    let number = inside[..digits].parse().ok()?;
    inside[digits..].starts_with(']').then_some((number, digits + 2))
}

/// Distinct markers in the order of their first use.
fn markers_in(text: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices('[') {
        if let Some((number, _)) = marker_at(&text[at..])
            && !found.contains(&number)
        {
            found.push(number);
        }
    }
    found
}

/// A quote with `(2)` for what would read as the marker `[2]`: only the answer itself may cite.
pub(super) fn without_forged_markers(quote: &str) -> String {
    let mut clean = String::with_capacity(quote.len());
    let mut rest = quote;
    while let Some(open) = rest.find('[') {
        clean.push_str(&rest[..open]);
        rest = &rest[open..];
        match marker_at(rest) {
            Some((number, bytes)) => {
                clean.push_str(&format!("({number})"));
                rest = &rest[bytes..];
            }
            None => {
                clean.push('[');
                rest = &rest[1..];
            }
        }
    }
    clean.push_str(rest);
    clean
}

/// `text` with spaces where its markers stand, so that every other byte keeps its place.
fn without_markers(text: &str) -> String {
    let mut bare = String::with_capacity(text.len());
    while let Some(open) = text[bare.len()..].find('[').map(|offset| bare.len() + offset) {
        bare.push_str(&text[bare.len()..open]);
        match marker_at(&text[open..]) {
            Some((_, bytes)) => bare.extend(std::iter::repeat_n(' ', bytes)),
            None => bare.push('['),
        }
    }
    bare.push_str(&text[bare.len()..]);
    bare
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::evidence::tests::hit;
    use super::super::settings::AnswerSettings;
    use super::*;

    #[test]
    fn a_quote_cannot_cite() {
        assert_eq!(
            without_forged_markers("It is [2]. See [a], [12 and [3] [4]!"),
            "It is (2). See [a], [12 and (3) (4)!"
        );
        assert_eq!(without_forged_markers("plain"), "plain");
    }

    const CONTENT: &str = "Intro. The cache keeps 64 entries. Old entries are evicted first.";

    fn evidence() -> Evidence {
        let settings = AnswerSettings::default();
        let other = "Whales sing at night in the northern sea.";
        Evidence::choose(vec![hit("cache", "Intro. ", &CONTENT[7..]), hit("whales", "", other)], &settings)
    }

    fn grounded(answer: &str) -> (Vec<Claim>, Vec<Citation>) {
        let evidence = evidence();
        let mut grounder = Grounder::new(&evidence, SupportSettings::default());
        grounder.push(answer);
        grounder.finish();
        let (text, claims, citations) = grounder.into_parts();
        for claim in &claims {
            assert_eq!(claim.span.slice(&text), Some(claim.text.as_str()));
        }
        (claims, citations)
    }

    #[test]
    fn a_citation_quotes_the_sentence_that_carries_the_claim() {
        let (claims, citations) = grounded("The oldest entries are evicted first [1].");

        assert_eq!(citations.len(), 1);
        assert_eq!(citations[0].quote, "Old entries are evicted first.");
        assert_eq!(citations[0].span.slice(CONTENT), Some(citations[0].quote.as_str()));
        assert_eq!((claims[0].citations.as_slice(), claims[0].verdict), (&[1][..], Verdict::Supported));
    }

    #[test]
    fn markers_belong_to_the_sentence_before_them() {
        let (claims, _) = grounded("The cache keeps 64 entries. [1][2] Whales sing [2]. Nobody knows why.");

        let markers: Vec<_> = claims.iter().map(|claim| claim.citations.clone()).collect();
        assert_eq!(markers, [vec![1, 2], vec![2], vec![]]);
        assert_eq!(claims[0].text, "The cache keeps 64 entries.");
    }

    #[test]
    fn invented_words_and_numbers_cost_the_verdict() {
        let verdicts = |answer| grounded(answer).0.iter().map(|claim| claim.verdict).collect::<Vec<_>>();

        assert_eq!(verdicts("The cache keeps 64 entries [1]."), [Verdict::Supported]);
        assert_eq!(verdicts("The cache keeps 128 entries [1]."), [Verdict::Partial]);
        assert_eq!(verdicts("The cache keeps entries, says Alice Smith [1]."), [Verdict::Partial]);
        assert_eq!(verdicts("The moon is made of cheese [1]."), [Verdict::Unsupported]);
        assert_eq!(verdicts("The cache keeps 64 entries."), [Verdict::Unsupported]);
        assert_eq!(verdicts("The cache keeps 64 entries [2]."), [Verdict::Unsupported]);
    }

    #[test]
    fn sentences_come_out_as_they_are_finished() {
        let evidence = evidence();
        let mut grounder = Grounder::new(&evidence, SupportSettings::default());

        assert!(grounder.push("The cache keeps 64 entries").is_empty());
        assert!(grounder.push(" [1].").is_empty());
        let first = grounder.push(" Whales ");
        assert_eq!(first[0].claim.text, "The cache keeps 64 entries [1].");
        assert_eq!(first[0].new_citations[0].marker, 1);
        assert!(grounder.push("sing [2][1]").is_empty());
        let last = grounder.finish();
        assert_eq!(last[0].claim.citations, [2, 1]);
        assert_eq!(last[0].new_citations.iter().map(|c| c.marker).collect::<Vec<_>>(), [2]);
    }

    proptest! {
        #[test]
        fn every_citation_quotes_the_content_and_every_marker_has_one(
            words in proptest::collection::vec("[a-z]{1,6}|\\[[12]\\]|\\.|cache|whales|64", 0..30),
            cut in 0_usize..60,
        ) {
            let answer = words.join(" ");
            let cut = answer.floor_char_boundary(cut.min(answer.len()));
            let evidence = evidence();
            let mut grounder = Grounder::new(&evidence, SupportSettings::default());
            grounder.push(&answer[..cut]);
            grounder.push(&answer[cut..]);
            grounder.finish();
            let (text, claims, citations) = grounder.into_parts();

            let known: Vec<u32> = citations.iter().map(|citation| citation.marker).collect();
            for claim in &claims {
                prop_assert_eq!(claim.span.slice(&text), Some(claim.text.as_str()));
                prop_assert!((0.0..=1.0).contains(&claim.support));
                prop_assert!(claim.citations.iter().all(|marker| known.contains(marker)));
            }
            for citation in &citations {
                let passage = evidence.passage(citation.marker).unwrap();
                let start = citation.span.start - passage.hit.provenance.span.start;
                prop_assert_eq!(&passage.hit.text[start..start + citation.quote.len()], citation.quote.as_str());
            }
        }
    }
}
