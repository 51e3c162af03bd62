//! Sentence borders with spans: where a passage may be cut and what may be quoted.
//!
//! Follows the outline of Unicode Standard Annex 29 (terminators, closing marks, a lower-case letter behind forbids a
//! border) with rules of its own for abbreviations, initials, list numbers and hard-wrapped lines. One pass, linear:
//! the common implementation of the annex looks ahead anew from every closing mark or space, which is quadratic on
//! a long run of them. Versions and numbers (`v2.13.1`, `3.14`) hold no border because no space follows their dots.

use crate::domain::ByteSpan;

use super::line::{LineKind, line_kind};

/// Sentences of `text` in order, trimmed; together they cover everything but whitespace.
///
/// Line ends are borders too, except where a paragraph is visibly wrapped at a fixed width.
pub fn sentences(text: &str) -> Vec<ByteSpan> {
    let mut found = Vec::new();
    let mut start = 0;
    let mut at = 0;
    let mut wrap = Wrap::default();
    while let Some(c) = text[at..].chars().next() {
        let mut border = None;
        let mut next = at + c.len_utf8();
        if c == '\n' {
            border = (!wrap.continues(text, at)).then_some(next);
        } else if is_terminator(c) {
            next = end_of_closing(text, at);
            border = ends_sentence(text, start, at, next).then_some(next);
        }
        if let Some(border) = border {
            push_trimmed(&mut found, text, start, border);
            start = border;
        }
        at = next;
    }
    push_trimmed(&mut found, text, start, text.len());
    found
}

fn push_trimmed(found: &mut Vec<ByteSpan>, text: &str, start: usize, end: usize) {
    let slice = &text[start..end];
    let trimmed = slice.trim_start();
    let start = start + (slice.len() - trimmed.len());
    let trimmed = trimmed.trim_end();
    if !trimmed.is_empty() {
        found.push(ByteSpan::new(start, start + trimmed.len()));
    }
}

/// Ends a sentence wherever it stands; no space needs to follow.
pub(super) fn is_wide_terminator(c: char) -> bool {
    // Ideographic, half-width, Devanagari, Myanmar, Ethiopic and Khmer full stops, and wide marks.
    matches!(c, '。' | '！' | '？' | '｡' | '।' | '॥' | '\u{104B}' | '\u{1362}' | '\u{17D4}')
}

fn is_terminator(c: char) -> bool {
    matches!(c, '.' | '!' | '?' | '…' | '؟' | '۔' | '։') || is_wide_terminator(c)
}

fn is_closing(c: char) -> bool {
    matches!(c, ')' | ']' | '}' | '"' | '\'' | '”' | '’' | '»' | '›' | '」' | '』' | '）' | '】' | '》' | '*' | '_')
}

/// Behind the terminators at `at`, the closing marks after them, and a citation mark such as `[3]`.
fn end_of_closing(text: &str, at: usize) -> usize {
    let rest = &text[at..];
    let terminators = rest.find(|c| !is_terminator(c)).unwrap_or(rest.len());
    let tail = &rest[terminators..];
    let closing = tail.find(|c| !is_closing(c)).unwrap_or(tail.len());
    let end = at + terminators + closing;
    end + marker_bytes(&text[end..])
}

/// Length of ` [1]`, `[2, 3]` and the like at the start of `rest`, 0 if there is none.
fn marker_bytes(rest: &str) -> usize {
    const MARKER_MAX_BYTES: usize = 24;
    let open = if rest.starts_with(" [") { 2 } else { 1 };
    if open == 1 && !rest.starts_with('[') {
        return 0;
    }
    let inside = rest.as_bytes()[open..].iter().take(MARKER_MAX_BYTES);
    let digits = inside.take_while(|byte| byte.is_ascii_digit() || matches!(byte, b',' | b' ')).count();
    if digits > 0 && rest.as_bytes().get(open + digits) == Some(&b']') { open + digits + 1 } else { 0 }
}

fn ends_sentence(text: &str, start: usize, mark: usize, end: usize) -> bool {
    if text[mark..end].chars().any(is_wide_terminator) {
        return true;
    }
    let rest = &text[end..];
    let Some(behind) = rest.chars().next() else {
        return true;
    };
    if !behind.is_whitespace() {
        return false;
    }
    // Only this line and the next: a blank line ends the sentence by itself.
    let following = rest.trim_start();
    let Some(first) = following.chars().next() else {
        return true;
    };
    if first.is_lowercase() {
        return false;
    }
    let single_dot = text[mark..end].starts_with('.') && !text[mark + 1..end].starts_with('.');
    !single_dot || dot_ends_sentence(&text[start..mark], following)
}

/// Whether a single dot behind `before`, followed by something that is not lower case, ends the sentence.
fn dot_ends_sentence(before: &str, following: &str) -> bool {
    let before = before.trim_start();
    let word = last_word(before);
    let lone = word.len() == before.len();
    if lone && (word.len() <= 3 && word.bytes().all(|byte| byte.is_ascii_digit())) {
        return false;
    }
    let mut letters = word.chars();
    let is_initial = letters.next().is_some_and(char::is_alphabetic) && letters.next().is_none();
    let has_dots = word.contains('.') && word.split('.').all(|part| part.chars().count() == 1);
    let lower = word.to_lowercase();
    if NEVER_LAST.contains(&lower.as_str()) {
        return false;
    }
    if BEFORE_A_NUMBER.contains(&lower.as_str()) {
        return !following.starts_with(|c: char| c.is_ascii_digit());
    }
    if is_initial || has_dots || SOMETIMES_LAST.contains(&lower.as_str()) {
        let next = following.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        return STARTERS.contains(&next);
    }
    true
}

/// The letters, digits and inner dots directly before a dot; longer words are never abbreviations.
fn last_word(before: &str) -> &str {
    const WORD_MAX_BYTES: usize = 24;
    let from = before.ceil_char_boundary(before.len().saturating_sub(WORD_MAX_BYTES));
    let near = &before[from..];
    let start = near
        .rfind(|c: char| !c.is_alphanumeric() && c != '.')
        .map_or(0, |at| near[at..].chars().next().map_or(0, char::len_utf8) + at);
    &near[start..]
}

const NEVER_LAST: &[&str] = &[
    "dr", "mr", "mrs", "ms", "prof", "gen", "sen", "rep", "gov", "capt", "lt", "col", "sgt", "rev", "hon", "st", "mt",
    "e.g", "i.e", "eg", "ie", "vs", "cf", "viz", "approx", "ca", "resp", "bzw", "z.b", "d.h", "u.a", "ggf", "mme",
    "mlle", "sr", "sra", "dña", "incl", "excl",
];

const BEFORE_A_NUMBER: &[&str] = &[
    "no", "nos", "nr", "fig", "figs", "eq", "eqs", "sec", "ch", "vol", "p", "pp", "art", "para", "ver", "v", "ref",
    "tab", "jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec",
];

const SOMETIMES_LAST: &[&str] = &[
    "inc", "ltd", "co", "corp", "llc", "jr", "etc", "al", "dept", "est", "ave", "blvd", "rd", "univ", "ed", "eds",
    "usw", "u.s.w", "env", "min", "max", "bros", "ph.d",
];

/// Words that open a sentence far more often than they follow an abbreviation inside one.
const STARTERS: &[&str] = &[
    "A", "After", "Although", "An", "And", "As", "At", "Because", "Before", "But", "By", "During", "For", "From", "He",
    "Her", "His", "How", "However", "I", "If", "In", "It", "Its", "Many", "My", "No", "Not", "On", "Our", "She",
    "Since", "So", "Some", "That", "The", "Their", "There", "These", "They", "This", "Those", "To", "Today", "We",
    "What", "When", "Where", "While", "Who", "Why", "With", "You", "Your", "Der", "Die", "Das", "Es", "Le", "La",
    "Les", "Il", "El", "Los",
];

/// Knows how wide the paragraph under the scanner is wrapped, if it is.
#[derive(Default)]
struct Wrap {
    paragraph_end: usize,
    line_start: usize,
    width_chars: usize,
}

impl Wrap {
    const MIN_CHARS: usize = 40;
    const MAX_CHARS: usize = 200;

    /// True if the line that ends at `newline` goes on in the next one. Must be asked at every line end in order.
    fn continues(&mut self, text: &str, newline: usize) -> bool {
        if newline >= self.paragraph_end {
            self.enter_paragraph(text, newline);
        }
        let line = &text[self.line_start..newline];
        self.line_start = newline + 1;
        let next = text[newline + 1..].split('\n').next().unwrap_or_default();
        if line_kind(next) != LineKind::Text || !matches!(line_kind(line), LineKind::Text | LineKind::Item) {
            return false;
        }
        let line_chars = line.trim_end().chars().count();
        let wide = (Self::MIN_CHARS..=Self::MAX_CHARS).contains(&line_chars);
        let next = next.trim_start();
        if !wide || line.trim_end().ends_with(':') {
            return false;
        }
        // A wrapped line is full: the next line's first word would not have fitted.
        let next_word_chars = next.split_whitespace().next().unwrap_or_default().chars().count();
        next.starts_with(char::is_lowercase) || line_chars + 1 + next_word_chars > self.width_chars
    }

    fn enter_paragraph(&mut self, text: &str, newline: usize) {
        self.width_chars = 0;
        let mut end = self.line_start;
        for line in text[self.line_start..].split_inclusive('\n') {
            if line.trim().is_empty() && end > newline {
                break;
            }
            end += line.len();
            self.width_chars = self.width_chars.max(line.trim_end().chars().count());
        }
        self.paragraph_end = end;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(text: &str) -> Vec<&str> {
        sentences(text).into_iter().map(|span| span.slice(text).unwrap()).collect()
    }

    #[test]
    fn abbreviations_versions_and_initials_hold_no_border() {
        assert_eq!(
            split("Dr. Smith upgraded to v2.13.1. It works, e.g. On Linux. See Fig. 3 and example.com. Done!"),
            ["Dr. Smith upgraded to v2.13.1.", "It works, e.g. On Linux.", "See Fig. 3 and example.com.", "Done!"]
        );
        assert_eq!(
            split("He left the U.S. Army in 1990. She moved to the U.S. In 1991 he followed."),
            ["He left the U.S. Army in 1990.", "She moved to the U.S.", "In 1991 he followed."]
        );
        assert_eq!(
            split("J. R. R. Tolkien wrote it. Is it good? \"Yes!\" he said. The answer is no. Really."),
            ["J. R. R. Tolkien wrote it.", "Is it good?", "\"Yes!\" he said.", "The answer is no.", "Really."]
        );
    }

    #[test]
    fn citation_marks_stay_with_their_sentence() {
        assert_eq!(
            split("Paris is the capital. [1] It is large.[2, 3] Really [4]. End."),
            ["Paris is the capital. [1]", "It is large.[2, 3]", "Really [4].", "End."]
        );
    }

    #[test]
    fn scripts_without_spaces_have_sentences_too() {
        assert_eq!(split("我喜欢读书。你呢？「好。」他说"), ["我喜欢读书。", "你呢？", "「好。」", "他说"]);
    }

    #[test]
    fn lines_and_list_items_are_borders() {
        assert_eq!(
            split("Title\n- first item\n- second item\n1. one\n2. two"),
            ["Title", "- first item", "- second item", "1. one", "2. two"]
        );
        assert_eq!(split("apples\nbananas\n\ncherries"), ["apples", "bananas", "cherries"]);
    }

    #[test]
    fn wrapped_prose_is_read_across_line_ends() {
        let text = "The server keeps every acknowledged write through a crash of the\n\
                    process and through a loss of power. It was tested in the city of\n\
                    London with many machines.\n\
                    A short line that ends no\n\
                    Paragraph";

        assert_eq!(
            split(text),
            [
                "The server keeps every acknowledged write through a crash of the\nprocess and through a loss of power.",
                "It was tested in the city of\nLondon with many machines.",
                "A short line that ends no",
                "Paragraph"
            ]
        );
    }

    #[test]
    fn long_runs_of_marks_and_spaces_are_linear() {
        for filler in [")", " ", ".", "\n", "!)", "a.\n", "\n- ", "[1"] {
            let text = format!("A.{}b", filler.repeat(1_000_000));

            assert!(!sentences(&text).is_empty());
        }
    }

    proptest! {
        #[test]
        fn sentences_cover_all_but_whitespace_in_order(text in "([A-Za-z0-9 .!?\n)\\]\"'-]|\\PC|。){0,200}") {
            let spans = sentences(&text);

            let mut covered = 0;
            for span in spans {
                prop_assert!(span.start >= covered);
                prop_assert!(text[covered..span.start].trim().is_empty());
                let slice = span.slice(&text).unwrap();
                prop_assert_eq!(slice.trim(), slice);
                prop_assert!(!slice.is_empty());
                covered = span.end;
            }
            prop_assert!(text[covered..].trim().is_empty());
        }
    }
}
