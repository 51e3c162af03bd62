//! Which languages a model can judge: one that has only read English orders Romanian passages with confidence, and wrongly.

use whatlang::{Lang, detect};

/// Trigrams of fewer letters say nothing reliable.
const MIN_LETTERS: usize = 120;
/// Below it the guess does not count.
const MIN_CONFIDENCE: f64 = 0.5;

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

    /// False if `text` is clearly written in a language that is not among these.
    pub fn read(&self, text: &str) -> bool {
        let is_long = || text.chars().filter(|c| c.is_alphabetic()).nth(MIN_LETTERS - 1).is_some();
        if self.0.is_empty() || !is_long() {
            return true;
        }
        detect(text).is_none_or(|found| found.confidence() < MIN_CONFIDENCE || self.0.contains(&found.lang()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENGLISH: &str = "High water comes twice a day, and the harbour master writes its time on the board beside the \
                           gate, so that everybody who wants to leave with the tide knows when to be on board.";
    const ROMANIAN: &str = "Apa este foarte rece dimineața, iar pescarii așteaptă pe mal până când soarele se ridică deasupra \
                            dealurilor și vântul se oprește, ca să poată ieși cu bărcile pe lac fără primejdie.";

    #[test]
    fn a_text_that_is_clearly_in_another_language_is_not_read() {
        let english = Languages::named(&["eng".to_owned()]).unwrap();
        assert!(english.read(ENGLISH) && !english.read(ROMANIAN));
        assert!(Languages::default().read(ROMANIAN));
        assert!(Languages::named(&["eng".to_owned(), "ron".to_owned()]).unwrap().read(ROMANIAN));
    }

    #[test]
    fn too_little_text_is_read_whatever_it_looks_like() {
        let english = Languages::named(&["eng".to_owned()]).unwrap();
        assert!(english.read("") && english.read("Apa este rece") && english.read("E4012 0x8007 --force"));
    }

    #[test]
    fn an_unknown_code_is_an_error_that_lists_the_known_ones() {
        assert!(Languages::named(&["english".to_owned()]).unwrap_err().contains("eng, "));
    }
}
