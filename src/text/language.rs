//! Which language a text is written in, by trigrams and script (whatlang).
//!
//! A wrong language stems wrongly, which is worse than not stemming: when in doubt the answer is `None`.

use whatlang::{Lang, Script};

/// Trigrams of fewer letters say nothing reliable.
const MIN_LETTERS: usize = 24;
/// Texts at least this long are judged by their whole trigram profile; shorter ones need certainty.
const LONG_LETTERS: usize = 120;
const MIN_CONFIDENCE_SHORT: f64 = 0.9;
const MIN_CONFIDENCE_LONG: f64 = 0.5;
/// Only this much of a long text is looked at.
const SAMPLE_BYTES: usize = 8 * 1024;

/// ISO 639-1 code of the text's language (`en`, `de`, …), or `None` when unsure.
///
/// A script that one language alone uses (Hangul, Thai, Greek, kana …) settles it after two letters; otherwise at
/// least 24 letters are needed, and between 24 and 120 a confidence of 0.9.
pub fn detect_language(text: &str) -> Option<&'static str> {
    let sample = &text[..text.floor_char_boundary(SAMPLE_BYTES)];
    let letters = sample.chars().filter(|c| c.is_alphabetic()).take(LONG_LETTERS).count();
    if letters < 2 {
        return None;
    }
    let info = whatlang::detect(sample)?;
    let settled = is_script_of_one_language(info.script())
        || (letters >= LONG_LETTERS && info.confidence() >= MIN_CONFIDENCE_LONG)
        || (letters >= MIN_LETTERS && info.confidence() >= MIN_CONFIDENCE_SHORT);
    if settled { two_letter_code(info.lang()) } else { None }
}

fn is_script_of_one_language(script: Script) -> bool {
    use Script::{
        Armenian, Bengali, Georgian, Greek, Gujarati, Gurmukhi, Hangul, Hiragana, Kannada, Katakana, Khmer, Malayalam,
        Mandarin, Myanmar, Oriya, Sinhala, Tamil, Telugu, Thai,
    };
    matches!(
        script,
        Armenian
            | Bengali
            | Georgian
            | Greek
            | Gujarati
            | Gurmukhi
            | Hangul
            | Hiragana
            | Kannada
            | Katakana
            | Khmer
            | Malayalam
            | Mandarin
            | Myanmar
            | Oriya
            | Sinhala
            | Tamil
            | Telugu
            | Thai
    )
}

#[rustfmt::skip]
const TWO_LETTER_CODES: &[(&str, &str)] = &[
    ("afr", "af"), ("aka", "ak"), ("amh", "am"), ("ara", "ar"), ("aze", "az"), ("bel", "be"), ("ben", "bn"),
    ("bul", "bg"), ("cat", "ca"), ("ces", "cs"), ("cmn", "zh"), ("cym", "cy"), ("dan", "da"), ("deu", "de"),
    ("ell", "el"), ("eng", "en"), ("epo", "eo"), ("est", "et"), ("fin", "fi"), ("fra", "fr"), ("guj", "gu"),
    ("heb", "he"), ("hin", "hi"), ("hrv", "hr"), ("hun", "hu"), ("hye", "hy"), ("ind", "id"), ("ita", "it"),
    ("jav", "jv"), ("jpn", "ja"), ("kan", "kn"), ("kat", "ka"), ("khm", "km"), ("kor", "ko"), ("lat", "la"),
    ("lav", "lv"), ("lit", "lt"), ("mal", "ml"), ("mar", "mr"), ("mkd", "mk"), ("mya", "my"), ("nep", "ne"),
    ("nld", "nl"), ("nob", "nb"), ("ori", "or"), ("pan", "pa"), ("pes", "fa"), ("pol", "pl"), ("por", "pt"),
    ("ron", "ro"), ("rus", "ru"), ("sin", "si"), ("slk", "sk"), ("slv", "sl"), ("sna", "sn"), ("spa", "es"),
    ("srp", "sr"), ("swe", "sv"), ("tam", "ta"), ("tel", "te"), ("tgl", "tl"), ("tha", "th"), ("tuk", "tk"),
    ("tur", "tr"), ("ukr", "uk"), ("urd", "ur"), ("uzb", "uz"), ("vie", "vi"), ("yid", "yi"), ("zul", "zu"),
];

fn two_letter_code(lang: Lang) -> Option<&'static str> {
    let found = TWO_LETTER_CODES.binary_search_by_key(&lang.code(), |&(three, _)| three).ok()?;
    Some(TWO_LETTER_CODES[found].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_language_has_a_two_letter_code() {
        assert!(TWO_LETTER_CODES.is_sorted());
        for lang in Lang::all() {
            assert!(two_letter_code(*lang).is_some(), "{lang}");
        }
    }

    #[test]
    fn clear_texts_are_recognised() {
        let cases = [
            ("The server answers every question with passages that can be checked by the reader.", "en"),
            ("Der Server beantwortet jede Frage mit Stellen, die der Leser selbst nachprüfen kann.", "de"),
            ("Le serveur répond à chaque question avec des passages que le lecteur peut vérifier lui-même.", "fr"),
            ("Сервер отвечает на каждый вопрос отрывками, которые читатель может проверить сам.", "ru"),
            ("서버는 질문에 답한다", "ko"),
            ("サーバーは答える", "ja"),
            ("เซิร์ฟเวอร์", "th"),
            ("服务器回答问题", "zh"),
        ];
        for (text, code) in cases {
            assert_eq!(detect_language(text), Some(code), "{text}");
        }
    }

    #[test]
    fn doubt_is_admitted() {
        for text in ["", "42", "ERR_CONN_4012", "hotel", "whale song", "v2.13.1 v2.13.2 v2.13.3", "?!"] {
            assert_eq!(detect_language(text), None, "{text}");
        }
    }
}
