//! How text becomes terms: folded, stemmed, cut into pairs where a script has no spaces.
//!
//! Documents are stemmed in one language, their own. A query is stemmed in every language that the index holds, and
//! all forms of a word count as that word: no query is too short to be understood, and a wrong guess about a
//! document costs inflections but never the word itself. What changes terms changes [`ANALYZER_VERSION`].

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

use crate::domain::AnalyzerSpec;

use super::identifier::{Identifier, for_each_identifier};
use super::language::Language;
use super::words::{WordKind, for_each_word, is_apostrophe, is_invisible, ngrams};

/// Grows with every change of the terms that a text gives.
const ANALYZER_VERSION: u32 = 1;
/// Longest word in bytes; the rest of a longer one is not indexed (an engine drops terms over 65,530 silently).
const MAX_WORD_BYTES: usize = 96;
/// Most identifiers of one query.
const MAX_IDENTIFIERS: usize = 64;
/// Words whose stems are remembered while a batch is indexed.
const STEM_CACHE_WORDS: usize = 20_000;

/// The specification of this analyzer for a language: an ISO 639-1 code, or `auto` for detection per document.
pub fn analyzer_spec(language: &str) -> AnalyzerSpec {
    AnalyzerSpec { name: "words".to_owned(), version: ANALYZER_VERSION, language: language.to_owned() }
}

/// A word of a query with all forms under which the index may hold it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct QueryWord {
    pub forms: Vec<String>,
    /// How often the query says it.
    pub count: f32,
}

/// An identifier of a query.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct QueryIdentifier {
    pub folded: String,
    /// Which of the query's words it falls apart into.
    pub parts: Vec<usize>,
}

/// A query, read.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct QueryTerms {
    pub words: Vec<QueryWord>,
    pub identifiers: Vec<QueryIdentifier>,
}

/// Turns documents and queries of one index into terms.
#[derive(Debug, Clone)]
pub(super) struct Analyzer {
    /// `None`: detect per document.
    fixed: Option<Language>,
}

impl Analyzer {
    pub(super) fn new(spec: &AnalyzerSpec) -> Self {
        Self { fixed: (spec.language != "auto").then(|| Language::of(&spec.language)) }
    }

    /// The language a document with this text is stemmed in.
    pub(super) fn language_of(&self, text: &str) -> Language {
        self.fixed.or_else(|| Language::detect(text)).unwrap_or(Language::UNKNOWN)
    }

    /// Reads a query for an index whose documents have these languages. Stop words are left out unless nothing
    /// else is there.
    pub(super) fn query(&self, text: &str, present: &[Language]) -> QueryTerms {
        let stop_language = self.fixed.or_else(|| Language::likeliest(text, present));
        let said = said_words(text, present, stop_language);
        let all_stop = said.iter().all(|word| word.stop);
        let mut terms = QueryTerms::default();
        let mut places = HashMap::new();
        let mut at = Vec::new();
        for word in said.into_iter().filter(|word| all_stop || !word.stop) {
            let place = *places.entry(word.forms.clone()).or_insert_with(|| {
                terms.words.push(QueryWord { forms: word.forms, count: 0.0 });
                terms.words.len() - 1
            });
            terms.words[place].count += 1.0;
            at.push((word.range, place));
        }
        for_each_identifier(text, |Identifier { range, folded }| {
            let is_known = terms.identifiers.iter().any(|known| known.folded == folded);
            if terms.identifiers.len() < MAX_IDENTIFIERS && !is_known {
                let inside = |word: &Range<usize>| word.start >= range.start && word.end <= range.end;
                let mut parts: Vec<_> = at.iter().filter(|(word, _)| inside(word)).map(|(_, place)| *place).collect();
                parts.sort_unstable();
                parts.dedup();
                terms.identifiers.push(QueryIdentifier { folded, parts });
            }
        });
        terms
    }
}

/// A word as the query says it.
struct Said {
    range: Range<usize>,
    forms: Vec<String>,
    stop: bool,
}

fn said_words(text: &str, present: &[Language], stop_language: Option<Language>) -> Vec<Said> {
    let mut said = Vec::new();
    for_each_token(text, |token| {
        let mut forms = Vec::with_capacity(1);
        match token.kind {
            TokenKind::Pair => forms.push(token.folded.to_owned()),
            TokenKind::Word => {
                let languages = if present.is_empty() { &[Language::UNKNOWN][..] } else { present };
                for language in languages {
                    let form = stem(*language, token.folded);
                    if !forms.iter().any(|known| *known == form) {
                        forms.push(form.into_owned());
                    }
                }
            }
        }
        let stop = token.kind == TokenKind::Word && stop_language.is_some_and(|it| it.is_stop_word(token.folded));
        said.push(Said { range: token.range, forms, stop });
    });
    said
}

/// A word or pair, folded but not stemmed.
pub(super) struct Token<'a> {
    /// Of the whole word in the text, also where several tokens come from it.
    pub range: Range<usize>,
    pub folded: &'a str,
    pub kind: TokenKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// To be stemmed.
    Word,
    /// Of a script without spaces; a term as it is.
    Pair,
}

/// Calls `each` with every token of `text`, in order.
pub(super) fn for_each_token(text: &str, mut each: impl FnMut(Token<'_>)) {
    let mut folded = String::new();
    for_each_word(text, |word| match word.kind {
        WordKind::Unspaced => ngrams(&text[word.range.clone()], word.range.start, |range| {
            fold_into(&text[range.clone()], &mut folded);
            each(Token { range, folded: &folded, kind: TokenKind::Pair });
        }),
        WordKind::Spaced => {
            for piece in pieces(&text[word.range.clone()]) {
                fold_into(&piece, &mut folded);
                if !folded.is_empty() {
                    each(Token { range: word.range.clone(), folded: &folded, kind: TokenKind::Word });
                }
            }
        }
    });
}

/// The term of a folded word in a language.
pub(super) fn stem(language: Language, folded: &str) -> Cow<'_, str> {
    let stem = match language.stem(folded) {
        // Of a word that is all marks some stemmers leave nothing.
        stem if stem.is_empty() => Cow::Borrowed(folded),
        stem => stem,
    };
    if stem.is_ascii() { stem } else { Cow::Owned(without_accents(&stem)) }
}

/// Remembers stems while many texts of one language are indexed.
#[derive(Debug, Default)]
pub(super) struct StemCache {
    language: Option<Language>,
    stems: HashMap<String, String>,
}

impl StemCache {
    /// Calls `each` with every term of `text`.
    pub(super) fn for_each_term(&mut self, text: &str, language: Language, mut each: impl FnMut(&str)) {
        if self.language != Some(language) || self.stems.len() >= STEM_CACHE_WORDS {
            self.stems.clear();
            self.language = Some(language);
        }
        for_each_token(text, |token| {
            if token.kind == TokenKind::Pair {
                each(token.folded);
            } else if let Some(stem) = self.stems.get(token.folded) {
                each(stem);
            } else {
                let stem = stem(language, token.folded);
                each(&stem);
                self.stems.insert(token.folded.to_owned(), stem.into_owned());
            }
        });
    }
}

// A word at its apostrophes: a possessive loses its ending, an English contraction is one word (`dont`), everything
// else is two (`l'homme`, `O'Neill`).
fn pieces(word: &str) -> Vec<Cow<'_, str>> {
    if word.is_ascii() && !word.contains('\'') {
        return vec![Cow::Borrowed(word)];
    }
    let mut pieces: Vec<Cow<'_, str>> = word.split(is_apostrophe).map(Cow::Borrowed).collect();
    if pieces.len() > 1
        && let Some(tail) = pieces.pop()
    {
        match tail.to_ascii_lowercase().as_str() {
            "s" => {}
            "t" | "re" | "ll" | "ve" | "d" | "m" => {
                let head = pieces.pop().unwrap_or_default();
                pieces.push(Cow::Owned(format!("{head}{tail}")));
            }
            _ => pieces.push(tail),
        }
    }
    pieces
}

fn fold_into(word: &str, folded: &mut String) {
    folded.clear();
    let word = &word[..word.floor_char_boundary(MAX_WORD_BYTES)];
    if word.is_ascii() {
        folded.push_str(word);
        folded.make_ascii_lowercase();
    } else {
        let composed: String = word.nfkc().filter(|c| !is_invisible(*c)).collect();
        // A dot above is what small letters leave of the Turkish capital.
        folded.extend(composed.to_lowercase().chars().filter(|c| *c != '\u{307}'));
        // One character can become eighteen.
        folded.truncate(folded.floor_char_boundary(MAX_WORD_BYTES));
    }
}

// Takes accents from Latin letters only: in other scripts marks tell words apart.
fn without_accents(word: &str) -> String {
    let mut latin = false;
    let keep = |c: &char| {
        if is_combining_mark(*c) {
            return !latin;
        }
        latin = c.is_ascii_alphabetic();
        true
    };
    word.nfd().filter(keep).nfc().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn terms(text: &str, language: &str) -> Vec<String> {
        let mut terms = Vec::new();
        StemCache::default().for_each_term(text, Language::of(language), |term| terms.push(term.to_owned()));
        terms
    }

    fn english(text: &str) -> QueryTerms {
        Analyzer::new(&analyzer_spec("en")).query(text, &[Language::ENGLISH])
    }

    fn forms(query: &QueryTerms) -> Vec<&str> {
        query.words.iter().flat_map(|word| &word.forms).map(String::as_str).collect()
    }

    #[test]
    fn words_are_folded_and_stemmed() {
        assert_eq!(terms("The Running dogs' owner's CAFÉS", "en"), ["the", "run", "dog", "owner", "cafe"]);
        assert_eq!(terms("don't O\u{2019}Neill l'homme", "en"), ["dont", "o", "neill", "l", "homm"]);
        assert_eq!(terms("İstanbul'da", "tr"), ["istanbul", "da"]);
        assert_eq!(terms("日本 ＡＢＣ", "en"), ["日", "日本", "本", "abc"]);
        assert_eq!(terms("Ёлка й", "und"), ["ёлка", "й"]);
    }

    #[test]
    fn a_word_is_neither_stemmed_to_nothing_nor_folded_without_bound() {
        assert_eq!(terms("\u{fe71}", "ar").len(), 1);
        let ligatures = terms(&"\u{fdfa}".repeat(40), "ar");
        assert!(ligatures.iter().all(|term| !term.is_empty() && term.len() <= MAX_WORD_BYTES), "{ligatures:?}");
    }

    #[test]
    fn stop_words_leave_a_query_unless_it_has_nothing_else() {
        assert_eq!(forms(&english("How do I open the window?")), ["open", "window"]);
        assert_eq!(forms(&english("to be or not to be")), ["to", "be", "or", "not"]);
        assert_eq!(english("to be or not to be").words[0].count, 2.0);
        assert_eq!(english(""), QueryTerms::default());
    }

    #[test]
    fn a_query_is_stemmed_in_every_language_of_the_index() {
        let auto = Analyzer::new(&analyzer_spec("auto"));

        let query = auto.query("running", &[Language::UNKNOWN, Language::ENGLISH]);

        assert_eq!(query.words, [QueryWord { forms: vec!["running".to_owned(), "run".to_owned()], count: 1.0 }]);
    }

    #[test]
    fn an_identifier_knows_its_parts() {
        let query = english("fix ERR_CONN_4012 now");

        assert_eq!(query.identifiers, [QueryIdentifier { folded: "err_conn_4012".to_owned(), parts: vec![1, 2, 3] }]);
    }

    proptest! {
        #[test]
        fn terms_are_never_empty_or_too_long(text in "\\PC{0,200}", language in "en|de|tr|ar|el|hi|und") {
            for term in terms(&text, &language) {
                prop_assert!(!term.is_empty() && term.len() <= 4 * MAX_WORD_BYTES);
            }
        }
    }
}
