//! JSON bodies: strict, and with all faults of the fields at once.
//!
//! The fast path reads straight into the wire twin. Only when that fails is the body read again as a tree, and each
//! fault found is cut out so that the next one shows.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::error::Category;
use serde_path_to_error::{Path, Segment};

use super::problem::{FieldError, Problem, ProblemKind};

/// Most faults that are reported for one body.
const MAX_FIELD_ERRORS: usize = 32;
/// Longest description of one fault, in characters: it may quote the body.
const MAX_DETAIL_CHARS: usize = 300;

/// Why a text is not what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum JsonFault {
    /// It is not JSON; the sentence names line and column.
    Malformed(String),
    /// It is JSON, but these fields are not acceptable; never empty.
    Fields(Vec<FieldError>),
}

impl From<JsonFault> for Problem {
    fn from(fault: JsonFault) -> Self {
        match fault {
            JsonFault::Malformed(detail) => Self::new(ProblemKind::Malformed, detail),
            JsonFault::Fields(errors) => Self::fields(errors),
        }
    }
}

/// Reads a JSON object. Unknown fields, wrong types and arrays in place of objects are faults.
pub(super) fn read_object<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, JsonFault> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| JsonFault::Malformed(format!("the text is not UTF-8 at byte {}", error.valid_up_to())))?;
    if text.trim_ascii().is_empty() {
        return Err(JsonFault::Malformed("the body is empty; a JSON object is expected".to_owned()));
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    let outcome = serde_path_to_error::deserialize::<_, Object<T>>(&mut reader)
        .map_err(|error| (pointer(error.path()), error.into_inner()))
        .and_then(|object| reader.end().map(|()| object.0).map_err(|error| (String::new(), error)));
    outcome.map_err(|(pointer, error)| match error.classify() {
        Category::Data => all_faults::<T>(text, FieldError::new(pointer, without_position(&error))),
        Category::Syntax | Category::Eof | Category::Io => malformed(&error),
    })
}

fn malformed(error: &serde_json::Error) -> JsonFault {
    JsonFault::Malformed(format!("not valid JSON: {error}"))
}

fn all_faults<T: DeserializeOwned>(text: &str, first: FieldError) -> JsonFault {
    // What follows a fault was not read yet, and may not even be JSON.
    let mut tree = match serde_json::from_str::<Value>(text) {
        Ok(tree) => tree,
        Err(error) => return malformed(&error),
    };
    let mut faults = Vec::new();
    let mut removed: Vec<String> = Vec::new();
    while faults.len() < MAX_FIELD_ERRORS {
        let Err(error) = serde_path_to_error::deserialize::<_, Object<T>>(&tree) else { break };
        let at = pointer(error.path());
        let message = error.into_inner().to_string();
        // serde names a missing field in the message and points to the object that lacks it: that has to go then.
        let fault = match missing_field(&message) {
            Some(field) => FieldError::new(format!("{at}/{}", escape(field)), "is required"),
            None => FieldError::new(at.clone(), shorten(&message)),
        };
        // What was cut out is missing; that is not the caller's fault.
        if !removed.contains(&fault.pointer) {
            faults.push(fault);
        }
        match cut(&mut tree, &at) {
            Some(pointer) => removed.push(pointer),
            None => break,
        }
    }
    // A doubled key is a fault of the text that its tree does not show.
    if faults.is_empty() {
        faults.push(first);
    }
    JsonFault::Fields(faults)
}

fn missing_field(message: &str) -> Option<&str> {
    message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next())
}

// Cuts the value out of its object and returns the pointer of what was cut. Inside an array the whole array goes:
// without one of its elements the pointers of the later ones would be wrong.
fn cut(tree: &mut Value, pointer: &str) -> Option<String> {
    let tokens: Vec<String> = pointer.split('/').skip(1).map(unescape).collect();
    let (mut here, mut path) = (tree, String::new());
    for (depth, token) in tokens.iter().enumerate() {
        let Value::Object(entries) = here else { return None };
        path = format!("{path}/{}", escape(token));
        let is_last = depth + 1 == tokens.len();
        if is_last || entries.get(token).is_some_and(Value::is_array) {
            return entries.remove(token).map(|_| path);
        }
        here = entries.get_mut(token)?;
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

fn unescape(token: &str) -> String {
    token.replace("~1", "/").replace("~0", "~")
}

fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    shorten(text.strip_suffix(&position).unwrap_or(&text))
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(MAX_DETAIL_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A value that must be written as a JSON object; serde alone would take an array of the fields in order.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(entries)).map(Object)
    }
}

/// For `#[serde(deserialize_with)]` on optional fields that hold an object; `null` is absent.
pub(super) fn optional_object<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::<Object<T>>::deserialize(deserializer)?.map(|object| object.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        query: String,
        #[serde(default)]
        top_k: Option<u64>,
        #[serde(default)]
        acl: Vec<String>,
        #[serde(default, deserialize_with = "optional_object")]
        inner: Option<Inner>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        depth: u32,
    }

    fn faults(text: &str) -> Vec<(String, String)> {
        match read_object::<Outer>(text.as_bytes()) {
            Err(JsonFault::Fields(errors)) => errors.into_iter().map(|one| (one.pointer, one.detail)).collect(),
            other => panic!("expected faults, got {other:?}"),
        }
    }

    fn malformed(bytes: &[u8]) -> String {
        match read_object::<Outer>(bytes) {
            Err(JsonFault::Malformed(detail)) => detail,
            other => panic!("expected malformed, got {other:?}"),
        }
    }

    #[test]
    fn all_faults_are_named_with_their_places() {
        let found = faults(r#"{"top_k": -1, "quer/y": 1, "acl": ["a", 2], "inner": {"depth": "x", "dep": 1}}"#);

        let pointers: Vec<_> = found.iter().map(|(pointer, _)| pointer.as_str()).collect();
        for expected in ["/top_k", "/quer~1y", "/acl/1", "/inner/depth", "/inner/dep", "/query"] {
            assert!(pointers.contains(&expected), "{expected} is missing in {found:?}");
        }
        assert_eq!(found.len(), 6);
        assert!(found.iter().any(|(_, detail)| detail.starts_with("unknown field `quer/y`, expected")));
    }

    #[test]
    fn objects_are_not_arrays() {
        assert_eq!(faults(r#"["whale"]"#)[0].0, "");
        assert_eq!(faults(r#"{"query": "a", "inner": [3]}"#)[0].0, "/inner");
    }

    #[test]
    fn a_doubled_key_is_a_fault() {
        assert!(faults(r#"{"query": "a", "query": "b"}"#)[0].1.contains("duplicate field"));
    }

    #[test]
    fn what_is_not_json_is_named_by_line_and_column() {
        assert!(malformed(b"{\n  \"query\": NaN}").contains("line 2 column"));
        assert!(malformed(b"{\"query\": \"a\"} x").contains("trailing characters"));
        assert!(malformed(b"{\"query\": \"a").contains("EOF"));
        assert!(malformed(b" \n ").contains("empty"));
        assert!(malformed(b"{\"query\": \"\xff\"}").contains("UTF-8 at byte 11"));
        assert!(malformed(b"{\"unknown\": 1, }").contains("trailing comma"));
    }

    #[test]
    fn deep_nesting_is_refused_and_harms_nobody() {
        for text in ["[".repeat(100_000), format!("{{\"x\": {}", "{\"a\":".repeat(100_000))] {
            let _ = read_object::<Outer>(text.as_bytes()).unwrap_err();
        }
        assert!(malformed(format!("{{\"x\": {}", "[".repeat(100_000)).as_bytes()).contains("recursion limit"));
    }

    #[test]
    fn a_quoted_value_is_cut_short() {
        let text = format!(r#"{{"query": "a", "top_k": "{}"}}"#, "x".repeat(1 << 20));

        assert!(faults(&text)[0].1.len() < 1_000);
    }
}
