//! Which languages a model can judge: one that has only read English orders Romanian passages with confidence, and wrongly.

use std::sync::OnceLock;

use whatlang::{Lang, detect};

/// Trigrams of fewer letters say nothing reliable.
const MIN_LETTERS: usize = 120;
/// Below it the guess does not count.
const MIN_CONFIDENCE: f64 = 0.5;

/// Text of passages, enough to tell their language by; told once, however many models ask.
#[derive(Debug)]
pub struct PassageSample {
    text: String,
    told: OnceLock<Option<Lang>>,
}

impl PassageSample {
    pub fn new(text: String) -> Self {
        Self { text, told: OnceLock::new() }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// `None` where the text does not tell it clearly.
    fn language(&self) -> Option<Lang> {
        *self.told.get_or_init(|| {
            self.text.chars().filter(|c| c.is_alphabetic()).nth(MIN_LETTERS - 1)?;
            detect(&self.text).filter(|found| found.confidence() >= MIN_CONFIDENCE).map(|found| found.lang())
        })
    }
}

/// Languages that a model was trained on; none given stands for all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Languages(Vec<Lang>);

impl Languages {
    /// By their ISO 639-3 codes, such as `eng`; the error lists what there is.
    pub fn named(codes: &[String]) -> Result<Self, String> {
        let known = |code: &String| {
            Lang::from_code(code.as_str()).filter(|_| code.len() == 3).ok_or_else(|| {
                let all: Vec<&str> = Lang::all().iter().map(|lang| lang.code()).collect();
                format!("`languages` has {code:?}; there are {}", all.join(", "))
            })
        };
        codes.iter().map(known).collect::<Result<_, _>>().map(Self)
    }

    /// False if the passages are clearly written in a language that is not among these.
    pub fn read(&self, passages: &PassageSample) -> bool {
        self.0.is_empty() || passages.language().is_none_or(|language| self.0.contains(&language))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENGLISH: &str = "High water comes twice a day, and the harbour master writes its time on the board beside the \
                           gate, so that everybody who wants to leave with the tide knows when to be on board.";
    const ROMANIAN: &str = "Apa este foarte rece dimineața, iar pescarii așteaptă pe mal până când soarele se ridică deasupra \
                            dealurilor și vântul se oprește, ca să poată ieși cu bărcile pe lac fără primejdie.";

    fn sample(text: &str) -> PassageSample {
        PassageSample::new(text.to_owned())
    }

    #[test]
    fn a_text_that_is_clearly_in_another_language_is_not_read() {
        let english = Languages::named(&["eng".to_owned()]).unwrap();
        let (here, away) = (sample(ENGLISH), sample(ROMANIAN));
        assert!(english.read(&here) && !english.read(&away));
        assert!(Languages::default().read(&away));
        assert!(Languages::named(&["eng".to_owned(), "ron".to_owned()]).unwrap().read(&away));
    }

    #[test]
    fn too_little_text_is_read_whatever_it_looks_like() {
        let english = Languages::named(&["eng".to_owned()]).unwrap();
        // The guess alone would be sure of it.
        let short = ROMANIAN.get(..100).unwrap();
        assert!(detect(short).unwrap().confidence() >= MIN_CONFIDENCE);
        for text in ["", short, "E4012 0x8007 --force"] {
            assert!(english.read(&sample(text)), "{text}");
        }
    }

    #[test]
    fn an_unsure_guess_does_not_count() {
        let english = Languages::named(&["eng".to_owned()]).unwrap();
        let names = "Alvarez, Bennett, Castellano, Dubois, Eriksson, Fontaine, Giordano, Hoffmann, Ivanova, Jansen, Kowalski, \
                     Lindqvist, Moreau, Novak, Oliveira, Petrov, Quinn, Rossi, Schneider, Tanaka";
        let guess = detect(names).unwrap();
        assert!(guess.lang() != Lang::Eng && guess.confidence() < MIN_CONFIDENCE, "{guess:?}");
        assert!(english.read(&sample(names)));
    }

    #[test]
    fn an_unknown_code_is_an_error_that_lists_the_known_ones() {
        assert!(Languages::named(&["english".to_owned()]).unwrap_err().contains("eng, "));
    }
}
