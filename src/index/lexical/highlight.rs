//! Which words of a passage answer to a query.

use std::collections::HashSet;
use std::ops::Range;

use super::analyzer::{QueryTerms, TokenKind, for_each_token, stem};
use super::identifier::for_each_identifier;
use super::language::Language;

/// Byte ranges of the words and identifiers of `passage` that the query names, ascending; what touches or overlaps
/// is one range.
pub(super) fn highlights(query: &QueryTerms, passage: &str, languages: &[Language]) -> Vec<Range<usize>> {
    let forms: HashSet<&str> = query.words.iter().flat_map(|word| &word.forms).map(String::as_str).collect();
    let mut ranges = Vec::new();
    for_each_token(passage, |token| {
        let named = match token.kind {
            TokenKind::Pair => forms.contains(token.folded),
            TokenKind::Word => languages.iter().any(|language| forms.contains(stem(*language, token.folded).as_ref())),
        };
        if named {
            ranges.push(token.range);
        }
    });
    if !query.identifiers.is_empty() {
        for_each_identifier(passage, |found| {
            if query.identifiers.iter().any(|asked| asked.folded == found.folded) {
                ranges.push(found.range);
            }
        });
    }
    joined(ranges)
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
        highlights(&query, passage, &languages).into_iter().map(|range| &passage[range]).collect()
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
            for range in highlights(&query, &passage, &languages) {
                prop_assert!(range.start >= last && range.start < range.end);
                prop_assert!(passage.get(range.clone()).is_some());
                last = range.end + 1;
            }
        }
    }
}
