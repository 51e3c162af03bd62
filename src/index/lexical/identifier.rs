//! Identifiers: tokens such as `ERR_CONN_4012`, `v2.13.1`, `C++`, `O'Neill` that must be found as they are written.
//!
//! Words fall apart at punctuation and lose their endings to the stemmer; an identifier is kept whole, case folded,
//! in a field of its own. Index and query use the same function, so a token that counts here counts there. Only
//! tokens that the words would not keep whole are identifiers: `sha256` is one word already.

use std::ops::Range;

use unicode_normalization::UnicodeNormalization;

use super::words::is_apostrophe;

/// Longest identifier in bytes; what is longer is data, not a name.
const MAX_BYTES: usize = 128;

/// An identifier in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identifier {
    /// Without the punctuation around it.
    pub range: Range<usize>,
    /// Folded: lower case, one kind of apostrophe.
    pub folded: String,
}

/// Calls `each` with every identifier of `text`, in order. Where one is put together by `/`, `:`, `@` or `=`, its
/// parts that are identifiers themselves follow it: `foo::Bar_x` and `Bar_x`, `192.168.0.1:80` and `192.168.0.1`.
pub(super) fn for_each_identifier(text: &str, mut each: impl FnMut(Identifier)) {
    for chunk in chunks(text) {
        let Some(range) = trim(text, chunk) else { continue };
        let whole = &text[range.clone()];
        // Most tokens are plain words; they leave here.
        if whole.bytes().all(|byte| byte.is_ascii_lowercase()) {
            continue;
        }
        if is_identifier(whole) {
            each(Identifier { range: range.clone(), folded: fold(whole) });
        }
        if whole.contains(COMPOUND) {
            for part in split(whole, range.start) {
                let part = trim(text, part).filter(|part| *part != range);
                if let Some(part) = part.filter(|part| is_identifier(&text[part.clone()])) {
                    each(Identifier { folded: fold(&text[part.clone()]), range: part });
                }
            }
        }
    }
}

/// True for a token, freed of the punctuation around it, that is more than a word: with an underscore, a dot, `::`,
/// a backslash, `@` or `&` between its characters, a path of three parts, capitals and digits with hyphens
/// (`RFC-9457`), a date (`2024-05-01`), two capitalised words written as one (`IndexWriter`), a name with an apostrophe,
/// `C++`, `C#`, `--flag`. False for what prose is made of: words, numbers, hyphenations (`7-day-old`, `p53-dependent`),
/// alternatives (`and/or`), ratios, contractions.
pub(super) fn is_identifier(token: &str) -> bool {
    if token.len() > MAX_BYTES || !token.chars().any(char::is_alphanumeric) {
        return false;
    }
    token.starts_with(['-', '.', '@', '$'])
        || token.ends_with(['+', '#'])
        || is_joined_by_code_marks(token)
        || is_hyphenated_code(token)
        || is_camel_case(token)
        || is_name(token)
}

/// Between the parts of a compound: paths, addresses, `key=value`, `user@host`.
const COMPOUND: [char; 5] = ['/', ':', '@', '=', '\\'];

fn is_joined_by_code_marks(token: &str) -> bool {
    let inner = token.trim_matches(|c: char| !c.is_alphanumeric());
    let digits = |part: &str| part.chars().all(|c| c.is_ascii_digit());
    inner.contains(['_', '.', '@', '&', '\\'])
        || inner.contains("::")
        || inner.matches('/').count() > 1
        || inner.split_once(':').is_some_and(|(host, port)| !digits(host) && digits(port))
}

// Digits between hyphens, and no word in small letters beside them.
fn is_hyphenated_code(token: &str) -> bool {
    let parts: Vec<&str> = token.split(is_hyphen).collect();
    let digits = |part: &&str| part.chars().all(|c| c.is_ascii_digit());
    let small = |part: &&str| part.chars().all(char::is_lowercase);
    if parts.len() < 2 || !token.chars().any(|c| c.is_ascii_digit()) {
        return false;
    }
    if parts.iter().all(digits) {
        return parts.len() > 2;
    }
    let is_prose = |part: &&str| small(part) && part.chars().count() > 3;
    let is_measure = digits(&parts[0]) && parts[1..].iter().all(small);
    !is_measure && !parts.iter().any(is_prose)
}

// Two humps of a capital and two small letters, or small letters before such a hump: `IndexWriter`, `getValue`.
fn is_camel_case(token: &str) -> bool {
    let chars: Vec<char> = token.chars().collect();
    let small = |at: usize| chars.get(at).is_some_and(|c| c.is_lowercase());
    let is_hump = |at: usize| chars[at].is_uppercase() && small(at + 1) && small(at + 2);
    let inner = (1..chars.len()).filter(|at| is_hump(*at) && small(*at - 1)).count();
    let first = chars.len() > 2 && small(1) && small(2) && (chars[0].is_uppercase() || small(0));
    first && inner > 0 && chars.iter().all(|c| c.is_alphanumeric())
}

// `O'Neill`, `d'Artagnan`: a capital after the apostrophe, or the Irish `o'` in small letters. Contractions and
// elisions (`don't`, `l'homme`) are words.
fn is_name(token: &str) -> bool {
    let Some((head, tail)) = token.split_once(is_apostrophe) else { return false };
    let mut tail_chars = tail.chars();
    let capital =
        tail_chars.next().is_some_and(char::is_uppercase) && tail_chars.next().is_some_and(char::is_lowercase);
    !head.is_empty() && (capital || (head.eq_ignore_ascii_case("o") && tail.chars().count() > 2))
}

fn is_hyphen(c: char) -> bool {
    matches!(c, '-' | '\u{2010}' | '\u{2011}')
}

fn fold(token: &str) -> String {
    if token.is_ascii() {
        return token.to_ascii_lowercase();
    }
    let plain = |c: char| match c {
        _ if is_apostrophe(c) => '\'',
        _ if is_hyphen(c) => '-',
        _ => c,
    };
    token.nfkc().map(plain).flat_map(char::to_lowercase).collect()
}

// Runs of characters that can be inside an identifier.
fn chunks(text: &str) -> impl Iterator<Item = Range<usize>> {
    let inside = |c: char| {
        c.is_alphanumeric()
            || is_apostrophe(c)
            || matches!(c, '_' | '-' | '.' | ':' | '/' | '\\' | '+' | '#' | '@' | '&' | '=' | '$' | '~' | '%' | '*')
            || matches!(c, '\u{2010}' | '\u{2011}')
            || unicode_normalization::char::is_combining_mark(c)
    };
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + text[at..].find(inside)?;
        at = text[start..].find(|c| !inside(c)).map_or(text.len(), |length| start + length);
        Some(start..at)
    })
}

fn split(whole: &str, start: usize) -> impl Iterator<Item = Range<usize>> {
    let mut at = start;
    whole.split(COMPOUND).map(move |part| {
        let range = at..at + part.len();
        // Every separator is one byte long.
        at = range.end + 1;
        range
    })
}

// Takes away what belongs to the sentence: quotes, bullets, full stops. `--flag`, `.gitignore`, `@name`, `$HOME`,
// `C++` and `C#` keep their marks.
fn trim(text: &str, range: Range<usize>) -> Option<Range<usize>> {
    let token = &text[range.clone()];
    let end = without_marks(without_possessive(without_marks(token)));
    let bare = end.trim_end_matches(['+', '#']);
    let marks = &end[bare.len()..];
    // `C++`, `C#`: the marks count after a letter or a digit, and not after more than a short name.
    let kept = matches!(marks, "" | "+" | "++" | "#")
        && bare.ends_with(char::is_alphanumeric)
        && bare.contains(char::is_alphabetic);
    let end = if kept { end } else { bare.trim_end_matches(['.', ':', '-', '/', '_']) };
    let leading = end.len() - end.trim_start_matches(|c: char| !c.is_alphanumeric() && !unicode_mark(c)).len();
    let marks = &end[..leading];
    let next_is_letter = end[leading..].starts_with(char::is_alphabetic);
    let keep = match marks {
        _ if !next_is_letter => 0,
        _ if marks.ends_with("--") => 2,
        _ if marks.ends_with("..") => 0,
        _ if marks.ends_with(['.', '@', '$']) => 1,
        _ => marks.len() - marks.trim_end_matches('_').len(),
    };
    let start = leading - keep;
    (start < end.len()).then(|| range.start + start..range.start + end.len())
}

fn without_marks(token: &str) -> &str {
    token.trim_end_matches(|c: char| {
        is_apostrophe(c) || matches!(c, '.' | ':' | '-' | '/' | '\\' | '&' | '%' | '=' | '~' | '*' | '_' | '@' | '$')
    })
}

fn without_possessive(token: &str) -> &str {
    token.strip_suffix(['s', 'S']).and_then(|head| head.strip_suffix(is_apostrophe)).unwrap_or(token)
}

fn unicode_mark(c: char) -> bool {
    !c.is_ascii() && unicode_normalization::char::is_combining_mark(c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn identifiers(text: &str) -> Vec<String> {
        let mut found = Vec::new();
        for_each_identifier(text, |identifier| found.push(identifier.folded));
        found
    }

    #[test]
    fn codes_versions_and_names_are_identifiers() {
        for (text, expected) in [
            ("Fix ERR_CONN_4012.", "err_conn_4012"),
            ("since v2.13.1,", "v2.13.1"),
            ("(O\u{2019}Neill)", "o'neill"),
            ("o'neill", "o'neill"),
            ("in C++?", "c++"),
            ("\"C#\"", "c#"),
            ("Node.js!", "node.js"),
            ("RFC-9457", "rfc-9457"),
            ("192.168.0.1", "192.168.0.1"),
            ("foo::bar()", "foo::bar"),
            ("--max-old-space-size", "--max-old-space-size"),
            ("`IndexWriter`", "indexwriter"),
            (".gitignore", ".gitignore"),
            ("AT&T's", "at&t"),
            ("on 2024-05-01,", "2024-05-01"),
            ("SARS-CoV-2", "sars-cov-2"),
            ("getElementById", "getelementbyid"),
            ("/usr/local/bin", "usr/local/bin"),
            ("O'Neill's.", "o'neill"),
        ] {
            assert_eq!(identifiers(text), [expected], "{text}");
        }
    }

    #[test]
    fn words_numbers_hyphenations_and_contractions_are_not() {
        for text in [
            "Plain words, Capitalised Words and NASA.",
            "state-of-the-art X-ray Wi-Fi",
            "don't it's we'll you're l'homme d'accord",
            "in 1984; 42 sha256 p53 mRNAs iPSC McDonald",
            "7-day-old 0-dimensional p53-dependent interleukin-2 2010-11",
            "and/or health/care 5mmol/L 10/66 3:1 note:this",
            "# Heading -- dash - bullet ... 'quoted' * star *",
            "x = y / z",
        ] {
            assert_eq!(identifiers(text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn compounds_give_their_parts_too() {
        assert_eq!(identifiers("192.168.0.1:8080"), ["192.168.0.1:8080", "192.168.0.1"]);
        assert_eq!(identifiers("https://example.com/a"), ["https://example.com/a", "example.com"]);
        assert_eq!(identifiers("--size=MAX_SIZE"), ["--size=max_size", "--size", "max_size"]);
    }

    proptest! {
        #[test]
        fn ranges_lie_on_character_borders_and_hold_the_token(text in "\\PC{0,40}") {
            for_each_identifier(&text, |identifier| {
                let token = text.get(identifier.range.clone()).expect("a border");
                assert_eq!(fold(token), identifier.folded);
                assert!(identifier.folded.len() <= 4 * MAX_BYTES);
            });
        }
    }
}
