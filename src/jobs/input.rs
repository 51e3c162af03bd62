//! Reading what a task is asked: strict, and with all faults at once, each with its place.

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::{Path, Segment};

use crate::domain::JsonText;
use crate::tasks::TaskError;

/// Most faults that are told of one input.
const MAX_FAULTS: usize = 32;
/// Most characters of one fault: it may quote the input.
const MAX_DETAIL_CHARS: usize = 300;

/// Faults of an input, each with a JSON pointer into it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Faults(pub Vec<(String, String)>);

impl Faults {
    pub fn add(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        if self.0.len() < MAX_FAULTS {
            self.0.push((pointer.into(), detail.into()));
        }
    }

    /// An error if there is any fault.
    pub fn check(self) -> Result<(), TaskError> {
        if self.0.is_empty() { Ok(()) } else { Err(TaskError::invalid(self.0)) }
    }

    /// A length or number that must lie between 1 and `limit`.
    pub fn check_range(&mut self, pointer: &str, value: u64, limit: u64) {
        if value == 0 || value > limit {
            self.add(pointer, format!("is {value}, from 1 to {limit} are allowed"));
        }
    }

    /// A text that must hold something and at most `limit` bytes.
    pub fn check_text(&mut self, pointer: &str, text: &str, limit: usize) {
        if text.trim().is_empty() {
            self.add(pointer, "must not be empty");
        } else if text.len() > limit {
            self.add(pointer, format!("has {} bytes, at most {limit} are allowed", text.len()));
        }
    }

    pub fn check_temperature(&mut self, temperature: Option<f32>) {
        if temperature.is_some_and(|temperature| !(0.0..=2.0).contains(&temperature)) {
            self.add("/temperature", "must lie between 0 and 2");
        }
    }
}

/// An input as a struct whose fields may all be left out: unknown fields and wrong types are told together.
pub(super) fn read<T: DeserializeOwned>(input: &JsonText) -> Result<T, TaskError> {
    let value: Value = input.read().map_err(|error| TaskError::invalid(vec![(String::new(), error.to_string())]))?;
    let mut faults = Faults::default();
    let read = read_value(value, "", &mut faults);
    faults.check()?;
    read.ok_or_else(|| TaskError::invalid(vec![(String::new(), "must be an object".to_owned())]))
}

/// As [`read`], of a value at `at`; `None` only with a fault.
pub(super) fn read_value<T: DeserializeOwned>(mut value: Value, at: &str, faults: &mut Faults) -> Option<T> {
    if !value.is_object() {
        faults.add(at, "must be an object");
        return None;
    }
    let mut is_whole = true;
    // Each fault that is found is cut out, so that the next one shows.
    for _ in 0..MAX_FAULTS {
        let error = match serde_path_to_error::deserialize::<_, T>(&value) {
            Ok(read) => return is_whole.then_some(read),
            Err(error) => error,
        };
        is_whole = false;
        let pointer = pointer(error.path());
        let detail: String = error.inner().to_string().chars().take(MAX_DETAIL_CHARS).collect();
        faults.add(format!("{at}{pointer}"), detail);
        let field = pointer.split('/').nth(1).map(|field| field.replace("~1", "/").replace("~0", "~"));
        value.as_object_mut()?.remove(&field?)?;
    }
    None
}

fn pointer(path: &Path) -> String {
    let mut text = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => text.push_str(&format!("/{index}")),
            Segment::Map { key } => text.push_str(&format!("/{}", escape(key))),
            Segment::Enum { variant } => text.push_str(&format!("/{}", escape(variant))),
            Segment::Unknown => {}
        }
    }
    text
}

/// One token of a JSON pointer (RFC 6901 §3).
pub(super) fn escape(token: &str) -> String {
    token.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
pub(super) mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::domain::DocumentId;

    /// The pointers of an error's faults.
    pub fn pointers(error: &TaskError) -> Vec<String> {
        match error {
            TaskError::Failed(fault) => fault.fields.iter().map(|(pointer, _)| pointer.clone()).collect(),
            other => panic!("{other}"),
        }
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields, default)]
    #[derive(Default)]
    struct Asked {
        count: Option<u32>,
        ids: Vec<DocumentId>,
        name: Option<String>,
    }

    #[test]
    fn every_fault_of_an_input_is_told_with_its_place() {
        let of = |json: &str| read::<Asked>(&JsonText::from_stored(json.to_owned()));

        let error = of(r#"{"count": -1, "ids": ["a", ""], "nmae": "x", "name": "n"}"#).unwrap_err();
        let mut found = pointers(&error);
        found.sort();

        assert_eq!(found, ["/count", "/ids/1", "/nmae"]);
        assert_eq!(pointers(&of("[1]").unwrap_err()), [""]);
        assert_eq!(of(r#"{"count": 2}"#).unwrap().count, Some(2));
    }
}
