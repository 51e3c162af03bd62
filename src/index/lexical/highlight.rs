//! Which words of a passage answer to a query.

use std::collections::HashSet;
use std::ops::Range;

use super::analyzer::{QueryTerms, TokenKind, for_each_token, stem};
use super::identifier::for_each_identifier;
use super::language::Language;

/// A query, ready to be found in many passages.
pub(super) struct Marker<'a> {
    forms: HashSet<&'a str>,
    /// Beginnings of the forms: few words of a passage have to be stemmed to know that they are none of them.
    beginnings: HashSet<[u8; 2]>,
    identifiers: HashSet<&'a str>,
    languages: &'a [Language],
    /// True if stems may begin otherwise than their words.
    strips_prefixes: bool,
}

impl<'a> Marker<'a> {
    /// For passages in these languages; none stands for not knowing.
    pub(super) fn new(query: &'a QueryTerms, languages: &'a [Language]) -> Self {
        let forms: HashSet<&str> = query.words.iter().flat_map(|word| &word.forms).map(String::as_str).collect();
        Self {
            beginnings: forms.iter().map(|form| beginning(form)).collect(),
            forms,
            identifiers: query.identifiers.iter().map(|identifier| identifier.folded.as_str()).collect(),
            strips_prefixes: languages.iter().any(|language| language.strips_prefixes()),
            languages: if languages.is_empty() { &[Language::UNKNOWN] } else { languages },
        }
    }

    /// Byte ranges of the words and identifiers of `passage` that the query names, ascending; what touches or
    /// overlaps is one range.
    pub(super) fn mark(&self, passage: &str) -> Vec<Range<usize>> {
        let mut ranges = Vec::new();
        for_each_token(passage, |token| {
            let named = match token.kind {
                TokenKind::Pair => self.forms.contains(token.folded),
                TokenKind::Word => self.names(token.folded),
            };
            if named {
                ranges.push(token.range);
            }
        });
        if !self.identifiers.is_empty() {
            for_each_identifier(passage, |found| {
                if self.identifiers.contains(found.folded.as_str()) {
                    ranges.push(found.range);
                }
            });
        }
        joined(ranges)
    }

    fn names(&self, folded: &str) -> bool {
        // Accents are taken off after stemming, and short words change from the front (dying, die): of longer plain
        // ones the stem begins as the word does.
        let is_plain = folded.len() > SHORT_BYTES && folded.is_ascii() && !self.strips_prefixes;
        let near = !is_plain || self.beginnings.contains(&beginning(folded));
        near && self.languages.iter().any(|language| self.forms.contains(stem(*language, folded).as_ref()))
    }
}

/// Words up to this length are always stemmed.
const SHORT_BYTES: usize = 5;

fn beginning(word: &str) -> [u8; 2] {
    let bytes = word.as_bytes();
    [0, 1].map(|at| bytes.get(at).copied().unwrap_or(0))
}

fn joined(mut ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    ranges.sort_unstable_by_key(|range| (range.start, range.end));
    let mut joined: Vec<Range<usize>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::lexical::analyzer::{Analyzer, analyzer_spec};
    use proptest::prelude::*;

    fn marked<'a>(query: &str, passage: &'a str) -> Vec<&'a str> {
        let languages = [Language::ENGLISH];
        let query = Analyzer::new(&analyzer_spec("en")).query(query, &languages);
        Marker::new(&query, &languages).mark(passage).into_iter().map(|range| &passage[range]).collect()
    }

    #[test]
    fn inflections_identifiers_and_pairs_are_marked() {
        assert_eq!(marked("how do I run it", "Running the runner; it ran. Runs!"), ["Running", "Runs"]);
        assert_eq!(marked("ERR_CONN_4012", "see ERR_CONN_4012 (err)"), ["ERR_CONN_4012", "err"]);
        assert_eq!(marked("O'Neill", "Mr O\u{2019}Neill came"), ["O\u{2019}Neill"]);
        assert_eq!(marked("東京都", "私は東京都に住む"), ["東京都"]);
        assert_eq!(marked("", "text"), Vec::<&str>::new());
    }

    proptest! {
        #[test]
        fn ranges_ascend_do_not_overlap_and_can_be_sliced(query in "\\PC{0,30}", passage in "\\PC{0,120}") {
            let languages = [Language::ENGLISH];
            let query = Analyzer::new(&analyzer_spec("en")).query(&query, &languages);
            let mut last = 0;
            for range in Marker::new(&query, &languages).mark(&passage) {
                prop_assert!(range.start >= last && range.start < range.end);
                prop_assert!(passage.get(range.clone()).is_some());
                last = range.end + 1;
            }
        }
    }
}
