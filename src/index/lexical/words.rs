//! Text to words: byte ranges of what counts as one word, in any script.
//!
//! A word is a run of letters, digits and their combining marks; anything else separates, also `_` and `-`.
//! Scripts written without spaces come as runs that [`ngrams`] cuts into overlapping pairs. Ranges are into the
//! text as it was given, so highlights can use them.

use std::ops::Range;

use unicode_normalization::char::is_combining_mark;

/// A word or a run of a script without spaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    pub range: Range<usize>,
    pub kind: WordKind,
}

/// How a word is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WordKind {
    /// Letters and digits, perhaps with apostrophes inside.
    Spaced,
    /// Han, kana, Hangul, Thai, Lao, Khmer or Burmese: [`ngrams`] makes terms of it.
    Unspaced,
}

/// Calls `each` with every word of `text`, in order.
pub(super) fn for_each_word(text: &str, mut each: impl FnMut(Word)) {
    let mut open: Option<(usize, WordKind)> = None;
    let mut end = 0;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let class = match Class::of(c) {
            // An apostrophe joins only where letters touch it on both sides.
            Class::Apostrophe if open.is_some_and(|(_, kind)| kind == WordKind::Spaced) => {
                match chars.peek().map(|&(_, next)| Class::of(next)) {
                    Some(Class::Letter) => continue,
                    _ => Class::Other,
                }
            }
            class => class,
        };
        let kind = match (class, open) {
            (Class::Letter, _) => Some(WordKind::Spaced),
            (Class::Unspaced, _) => Some(WordKind::Unspaced),
            (Class::Mark, Some((_, kind))) => Some(kind),
            (Class::Mark | Class::Apostrophe | Class::Other, _) => None,
        };
        if let Some((start, was)) = open
            && kind != Some(was)
        {
            each(Word { range: start..end, kind: was });
            open = None;
        }
        if let Some(kind) = kind {
            open = Some((open.map_or(at, |(start, _)| start), kind));
            end = at + c.len_utf8();
        }
    }
    if let Some((start, kind)) = open {
        each(Word { range: start..end, kind });
    }
}

/// Calls `each` with the byte ranges of the terms of an unspaced run that starts at byte `start`: every pair of
/// neighbouring characters, and in Han every single character too, which is often a word of its own. A character
/// takes its combining marks along.
pub(super) fn ngrams(run: &str, start: usize, mut each: impl FnMut(Range<usize>)) {
    let mut previous: Option<Range<usize>> = None;
    let mut clusters = 0;
    let mut flush = |cluster: Range<usize>, previous: &mut Option<Range<usize>>| {
        if let Some(previous) = previous {
            each(previous.start..cluster.end);
        }
        if run[cluster.start - start..].chars().next().is_some_and(is_han) {
            each(cluster.clone());
        }
        *previous = Some(cluster);
    };
    let mut open: Option<usize> = None;
    for (at, c) in run.char_indices() {
        if is_combining_mark(c) && open.is_some() {
            continue;
        }
        if let Some(begun) = open.replace(at) {
            flush(start + begun..start + at, &mut previous);
            clusters += 1;
        }
    }
    if let Some(begun) = open {
        flush(start + begun..start + run.len(), &mut previous);
        clusters += 1;
    }
    if clusters == 1
        && let Some(only) = previous
        && !run.chars().next().is_some_and(is_han)
    {
        each(only);
    }
}

/// True for the typewriter's apostrophe and the characters that stand for it.
pub(super) fn is_apostrophe(c: char) -> bool {
    matches!(c, '\'' | '\u{2019}' | '\u{02BC}' | '\u{FF07}' | '\u{2018}')
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    Unspaced,
    /// Belongs to the character before it; also joiners and soft hyphens, which are not seen.
    Mark,
    Apostrophe,
    Other,
}

impl Class {
    fn of(c: char) -> Self {
        if c.is_ascii() {
            return match c {
                'a'..='z' | 'A'..='Z' | '0'..='9' => Self::Letter,
                '\'' => Self::Apostrophe,
                _ => Self::Other,
            };
        }
        if is_apostrophe(c) {
            Self::Apostrophe
        } else if is_unspaced(c) {
            Self::Unspaced
        } else if is_combining_mark(c) || is_invisible(c) {
            Self::Mark
        } else if c.is_alphanumeric() {
            Self::Letter
        } else {
            Self::Other
        }
    }
}

/// Zero-width joiners, variation selectors and the soft hyphen: inside a word, but not part of its spelling.
pub(super) fn is_invisible(c: char) -> bool {
    matches!(c, '\u{00AD}' | '\u{200B}'..='\u{200D}' | '\u{2060}' | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}')
}

fn is_han(c: char) -> bool {
    matches!(c, '\u{3005}'..='\u{3007}' | '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}'
        | '\u{F900}'..='\u{FAFF}' | '\u{20000}'..='\u{323AF}')
}

// Block ranges of the Unicode Standard; punctuation inside the blocks is left out by `is_alphanumeric`.
fn is_unspaced(c: char) -> bool {
    let block = matches!(c, '\u{0E00}'..='\u{0EFF}' // Thai, Lao
        | '\u{1000}'..='\u{109F}' | '\u{1780}'..='\u{17FF}' // Burmese, Khmer
        | '\u{3040}'..='\u{30FF}' | '\u{31F0}'..='\u{31FF}' | '\u{FF66}'..='\u{FF9F}' // kana
        | '\u{3130}'..='\u{318F}' | '\u{AC00}'..='\u{D7AF}'); // Hangul
    (block && c.is_alphanumeric() && !c.is_numeric() && !is_combining_mark(c)) || is_han(c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(text: &str) -> Vec<&str> {
        let mut words = Vec::new();
        for_each_word(text, |word| words.push(&text[word.range]));
        words
    }

    fn terms(run: &str) -> Vec<&str> {
        let mut terms = Vec::new();
        ngrams(run, 0, |range| terms.push(&run[range]));
        terms
    }

    #[test]
    fn words_are_letters_digits_and_marks() {
        assert_eq!(
            words("The ERR_CONN-4012, don't! O\u{2019}Neill's 'quoted'"),
            ["The", "ERR", "CONN", "4012", "don't", "O\u{2019}Neill's", "quoted"]
        );
        assert_eq!(words("हिन्दी भाषा"), ["हिन्दी", "भाषा"]);
        assert_eq!(words("cafe\u{301} naïve"), ["cafe\u{301}", "naïve"]);
        assert_eq!(words(""), Vec::<&str>::new());
        assert_eq!(words("'' -- _"), Vec::<&str>::new());
    }

    #[test]
    fn scripts_without_spaces_part_from_their_neighbours() {
        assert_eq!(words("iPhone手机 2024年"), ["iPhone", "手机", "2024", "年"]);
        assert_eq!(words("ภาษาไทย ok"), ["ภาษาไทย", "ok"]);
    }

    #[test]
    fn a_run_becomes_pairs_and_han_characters() {
        assert_eq!(terms("水"), ["水"]);
        assert_eq!(terms("日本語"), ["日", "日本", "本", "本語", "語"]);
        assert_eq!(terms("한국어"), ["한국", "국어"]);
        assert_eq!(terms("ア"), ["ア"]);
        assert_eq!(terms("ที่นี่"), ["ที่นี่"]);
    }

    proptest! {
        #[test]
        fn ranges_ascend_and_lie_on_character_borders(text in "\\PC{0,40}") {
            let mut last = 0;
            for_each_word(&text, |word| {
                assert!(word.range.start >= last && word.range.start < word.range.end);
                assert!(text.get(word.range.clone()).is_some());
                last = word.range.end;
                if word.kind == WordKind::Unspaced {
                    ngrams(&text[word.range.clone()], word.range.start, |range| {
                        assert!(text.get(range.clone()).is_some_and(|term| !term.is_empty()));
                        assert!(range.start >= word.range.start && range.end <= word.range.end);
                    });
                }
            });
        }
    }
}
