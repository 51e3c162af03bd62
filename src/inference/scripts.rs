//! Which writing a model can read: a model that has never seen Greek has an opinion on Greek all the same, and it is noise.

use whatlang::{Script, detect_script};

/// Scripts that a model was trained on; none given stands for all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Scripts(Vec<Script>);

impl Scripts {
    /// By their names, such as `Latin` and `Cyrillic`; the error lists what there is.
    pub fn named(names: &[String]) -> Result<Self, String> {
        let known = |name: &String| {
            Script::all().iter().copied().find(|script| script.name() == name).ok_or_else(|| {
                let all: Vec<&str> = Script::all().iter().map(|script| script.name()).collect();
                format!("`scripts` has {name:?}; there are {}", all.join(", "))
            })
        };
        names.iter().map(known).collect::<Result<_, _>>().map(Self)
    }

    /// False if most of `text` is written in a script that is not among these. Text without letters is everybody's.
    pub fn read(&self, text: &str) -> bool {
        self.0.is_empty() || detect_script(text).is_none_or(|script| self.0.contains(&script))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_most_of_a_text_is_written_in_decides() {
        let latin = Scripts::named(&["Latin".to_owned()]).unwrap();
        assert!(latin.read("how do I") && latin.read("wie groß ist Zürich") && latin.read("42 %") && latin.read(""));
        assert!(latin.read("ERR_CONN_4012 ошибка"));
        assert!(!latin.read("πόσα σημεία") && !latin.read("какая команда") && !latin.read("第六位"));
        assert!(Scripts::default().read("πόσα σημεία"));
        assert!(Scripts::named(&["Klingon".to_owned()]).unwrap_err().contains("Cyrillic"));
    }
}
