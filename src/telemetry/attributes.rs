//! Fields of spans as attributes: numbers, words and ids, never long texts.

use std::fmt::{self, Write as _};

use serde_json::Value;
use tracing::field::{Field, Visit};

/// Most bytes of a word; longer ones are cut. 200: an id, a model's name, a list of degraded stages; no passage.
pub(super) const WORD_MAX_BYTES: usize = 200;

/// Name and value of each field that was recorded, in the order of their first recording.
pub(super) type Pairs = Vec<(&'static str, Value)>;

/// Takes recorded fields in; one that is recorded again replaces its value.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    pub pairs: Pairs,
    /// A field `error` was among them.
    pub has_error: bool,
}

impl Attributes {
    /// Takes the value of a field out.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        let at = self.pairs.iter().position(|(own, _)| *own == name)?;
        Some(self.pairs.swap_remove(at).1)
    }

    fn put(&mut self, field: &Field, value: Value) {
        let name = field.name();
        self.has_error |= name == "error";
        match self.pairs.iter_mut().find(|(own, _)| *own == name) {
            Some(pair) => pair.1 = value,
            None => self.pairs.push((name, value)),
        }
    }
}

impl Visit for Attributes {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value[..value.floor_char_boundary(WORD_MAX_BYTES)].into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut word = Word(String::new());
        // An error means that the word is full, and then it is long enough.
        let _ = write!(word, "{value:?}");
        self.put(field, word.0.into());
    }
}

/// A text that takes no more than [`WORD_MAX_BYTES`].
struct Word(String);

impl fmt::Write for Word {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        let room = WORD_MAX_BYTES - self.0.len();
        self.0.push_str(&piece[..piece.floor_char_boundary(room)]);
        if piece.len() <= room { Ok(()) } else { Err(fmt::Error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_cut_between_letters() {
        let mut word = Word(String::new());

        assert!(word.write_str(&"x".repeat(199)).is_ok());
        assert!(word.write_str("ää").is_err());

        assert_eq!(word.0.len(), 199);
    }
}
