//! Languages: stemmer, stop words and detection for each.
//!
//! Stemmers are Snowball's (Porter, "Snowball: A language for stemming algorithms", 2001). A language without a
//! stemmer is [`Language::UNKNOWN`]: its words are compared as they are written.

use std::borrow::Cow;
use std::sync::OnceLock;

use frostem::{Algorithm, Stemmer};
use tantivy::tokenizer::{Language as StopLanguage, StopWordFilter, TextAnalyzer, WhitespaceTokenizer};
use whatlang::{Detector, Lang, Script};

use super::stopwords::ENGLISH;

/// A language, by its place in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Language(u8);

struct Row {
    /// ISO 639-1; `und` (ISO 639-2, undetermined) where words are not stemmed.
    code: &'static str,
    lang: Option<Lang>,
    algorithm: Option<Algorithm>,
    stop_words: Option<StopLanguage>,
}

const fn row(code: &'static str, lang: Lang, algorithm: Algorithm, stop_words: Option<StopLanguage>) -> Row {
    Row { code, lang: Some(lang), algorithm: Some(algorithm), stop_words }
}

static TABLE: [Row; 26] = [
    Row { code: "und", lang: None, algorithm: None, stop_words: None },
    row("en", Lang::Eng, Algorithm::English, Some(StopLanguage::English)),
    row("ar", Lang::Ara, Algorithm::Arabic, None),
    row("ca", Lang::Cat, Algorithm::Catalan, None),
    row("cs", Lang::Ces, Algorithm::Czech, None),
    row("da", Lang::Dan, Algorithm::Danish, Some(StopLanguage::Danish)),
    row("de", Lang::Deu, Algorithm::German, Some(StopLanguage::German)),
    row("el", Lang::Ell, Algorithm::Greek, None),
    row("es", Lang::Spa, Algorithm::Spanish, Some(StopLanguage::Spanish)),
    row("et", Lang::Est, Algorithm::Estonian, None),
    row("fi", Lang::Fin, Algorithm::Finnish, Some(StopLanguage::Finnish)),
    row("fr", Lang::Fra, Algorithm::French, Some(StopLanguage::French)),
    row("hi", Lang::Hin, Algorithm::Hindi, None),
    row("hu", Lang::Hun, Algorithm::Hungarian, Some(StopLanguage::Hungarian)),
    row("id", Lang::Ind, Algorithm::Indonesian, None),
    row("it", Lang::Ita, Algorithm::Italian, Some(StopLanguage::Italian)),
    row("lt", Lang::Lit, Algorithm::Lithuanian, None),
    row("nl", Lang::Nld, Algorithm::Dutch, Some(StopLanguage::Dutch)),
    row("no", Lang::Nob, Algorithm::Norwegian, Some(StopLanguage::Norwegian)),
    row("pl", Lang::Pol, Algorithm::Polish, None),
    row("pt", Lang::Por, Algorithm::Portuguese, Some(StopLanguage::Portuguese)),
    row("ro", Lang::Ron, Algorithm::Romanian, None),
    row("ru", Lang::Rus, Algorithm::Russian, Some(StopLanguage::Russian)),
    row("sv", Lang::Swe, Algorithm::Swedish, Some(StopLanguage::Swedish)),
    row("ta", Lang::Tam, Algorithm::Tamil, None),
    row("tr", Lang::Tur, Algorithm::Turkish, None),
];

/// How much text detection reads, in bytes; more changes nothing and costs time.
const DETECTION_BYTES: usize = 1000;

impl Language {
    pub(super) const UNKNOWN: Self = Self(0);
    pub(super) const ENGLISH: Self = Self(1);

    /// By ISO 639-1 code; [`Language::UNKNOWN`] for one that has no stemmer here.
    pub(super) fn of(code: &str) -> Self {
        let code = if code == "nb" || code == "nn" { "no" } else { code };
        Self::known().find(|language| language.code() == code).unwrap_or(Self::UNKNOWN)
    }

    pub(super) fn code(self) -> &'static str {
        self.row().code
    }

    /// The stem of a word in small letters.
    pub(super) fn stem(self, word: &str) -> Cow<'_, str> {
        match self.row().algorithm {
            Some(algorithm) => Stemmer::new(algorithm).stem(word),
            None => Cow::Borrowed(word),
        }
    }

    /// True if the stemmer takes prefixes off, so that a stem may begin otherwise than its word.
    pub(super) fn strips_prefixes(self) -> bool {
        matches!(self.row().algorithm, Some(Algorithm::Arabic | Algorithm::Indonesian))
    }

    /// True for a word in small letters that says nothing about the topic.
    pub(super) fn is_stop_word(self, word: &str) -> bool {
        if self == Self::ENGLISH {
            return ENGLISH.binary_search(&word).is_ok();
        }
        let Some(filter) = self.stop_word_filter() else { return false };
        !filter.clone().token_stream(word).advance()
    }

    /// The language a text is written in, if it has a stemmer and the detector is sure. Of a script other than Latin
    /// the likeliest language that has a stemmer will do: there are few, and being consistent is what counts.
    pub(super) fn detect(text: &str) -> Option<Self> {
        let info = Detector::new().detect(head(text))?;
        if info.is_reliable() {
            return Self::with_lang(info.lang());
        }
        let script = info.script();
        if script == Script::Latin {
            return None;
        }
        let stemmed: Vec<Lang> =
            script.langs().iter().copied().filter(|lang| Self::with_lang(*lang).is_some()).collect();
        match stemmed[..] {
            [] => None,
            [only] => Self::with_lang(only),
            _ => Detector::with_allowlist(stemmed).detect(head(text)).and_then(|info| Self::with_lang(info.lang())),
        }
    }

    /// The likeliest of a few languages for a short text, such as a query; `None` if there is nothing to choose by.
    pub(super) fn likeliest(text: &str, among: &[Self]) -> Option<Self> {
        match among {
            [only] => Some(*only),
            _ => {
                let langs: Vec<Lang> = among.iter().filter_map(|language| language.row().lang).collect();
                if langs.is_empty() {
                    return None;
                }
                Detector::with_allowlist(langs).detect(head(text)).and_then(|info| Self::with_lang(info.lang()))
            }
        }
    }

    fn known() -> impl Iterator<Item = Self> {
        (0..TABLE.len()).map(|index| Self(u8::try_from(index).expect("the table is short")))
    }

    fn with_lang(lang: Lang) -> Option<Self> {
        Self::known().find(|language| language.row().lang == Some(lang))
    }

    fn row(self) -> &'static Row {
        &TABLE[usize::from(self.0)]
    }

    fn stop_word_filter(self) -> Option<&'static TextAnalyzer> {
        static FILTERS: OnceLock<Vec<Option<TextAnalyzer>>> = OnceLock::new();
        let filters = FILTERS.get_or_init(|| {
            let filter = |row: &Row| row.stop_words.and_then(StopWordFilter::new);
            let analyzer = |filter| TextAnalyzer::builder(WhitespaceTokenizer::default()).filter(filter).build();
            TABLE.iter().map(|row| filter(row).map(analyzer)).collect()
        });
        filters[usize::from(self.0)].as_ref()
    }
}

fn head(text: &str) -> &str {
    &text[..text.floor_char_boundary(DETECTION_BYTES)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_leads_to_its_row_and_an_unknown_one_to_no_stemmer() {
        for language in Language::known() {
            assert_eq!(Language::of(language.code()), language);
        }
        assert_eq!(Language::of("tlh"), Language::UNKNOWN);
        assert_eq!(Language::UNKNOWN.stem("running"), "running");
        assert_eq!(Language::ENGLISH.stem("running"), "run");
        assert_eq!(Language::of("de").stem("häuser"), "haus");
    }

    #[test]
    fn stop_words_belong_to_their_language() {
        assert!(Language::ENGLISH.is_stop_word("the"));
        assert!(!Language::ENGLISH.is_stop_word("die"));
        assert!(Language::of("de").is_stop_word("die"));
        assert!(!Language::of("de").is_stop_word("the"));
        assert!(!Language::UNKNOWN.is_stop_word("the"));
        assert!(ENGLISH.is_sorted());
    }

    #[test]
    fn a_paragraph_is_detected_and_a_word_is_not() {
        let german = "Die Panthers-Abwehr gab nur 308 Punkte ab und belegte damit den sechsten Platz in der Liga, \
                      während sie auch die NFL bei den Interceptions anführte.";

        assert_eq!(Language::detect(german), Some(Language::of("de")));
        assert_eq!(Language::detect("ok"), None);
        assert_eq!(Language::detect("Защита команды пропустила всего 308 очков."), Some(Language::of("ru")));
        assert_eq!(Language::detect("第六位"), None);
        assert_eq!(
            Language::likeliest("wie viele Punkte gab die Abwehr ab", &[Language::ENGLISH, Language::of("de")]),
            Some(Language::of("de"))
        );
    }
}
