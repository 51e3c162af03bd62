//! Facts: what is true of a chunk, as hashes that conditions are looked up by.
//!
//! A fact is 16 bytes of BLAKE3 over kind, field and value, so values of any type and length become terms of one
//! size. What cannot be said exactly is marked as unsure, and unsure chunks pass every condition on that field:
//! the truth checks each hit again, so an index may let too much through, never too little.

use std::collections::BTreeMap;

use serde_json::Value;
use tantivy::schema::OwnedValue;

use crate::domain::{Metadata, Scalar, hash_parts};
use crate::index::LexicalDocument;

/// Most metadata keys of a chunk that can be filtered by exactly; chunks with more pass every condition.
pub(super) const MAX_KEYS: usize = 64;
/// Most elements of one array that can be filtered by exactly.
pub(super) const MAX_ELEMENTS: usize = 256;
/// How much of a text takes part in range conditions, in bytes.
pub(super) const MAX_RANGE_BYTES: usize = 128;

/// Fields of the document that a filter can name beside the metadata.
pub(super) const TEXT_FIELDS: [&str; 4] = ["document_id", "source_uri", "title", "media_type"];
pub(super) const TIME_FIELDS: [&str; 2] = ["created_at", "updated_at"];

/// One fact.
pub(super) type Fact = [u8; 16];

/// All facts of a chunk, and its values by field for range conditions.
pub(super) struct Facts {
    pub terms: Vec<Fact>,
    pub ranges: BTreeMap<String, OwnedValue>,
}

/// The field has this value, or an element that is this value.
pub(super) fn equals(field: &str, value: &Scalar) -> Fact {
    match value {
        Scalar::Null => fact("null", field, &[]),
        Scalar::Bool(value) => fact("bool", field, &[u8::from(*value)]),
        // Adding zero makes one of the two zeros.
        Scalar::Number(value) => fact("number", field, &(value + 0.0).to_bits().to_be_bytes()),
        Scalar::Text(value) => fact("text", field, value.as_bytes()),
    }
}

/// The field is there, whatever its value.
pub(super) fn exists(field: &str) -> Fact {
    fact("exists", field, &[])
}

/// Conditions on this field cannot be decided here.
pub(super) fn unsure(field: &str) -> Fact {
    fact("unsure", field, &[])
}

/// Conditions on no field can be decided here.
pub(super) fn unsure_of_all() -> Fact {
    fact("unsure of all", "", &[])
}

/// Range conditions on this field cannot be decided here.
pub(super) fn unsure_range(field: &str) -> Fact {
    fact("unsure range", field, &[])
}

/// The document has no ACL.
pub(super) fn open_to_all() -> Fact {
    fact("open", "", &[])
}

/// The ACL names this principal.
pub(super) fn open_to(principal: &str) -> Fact {
    fact("acl", "", principal.as_bytes())
}

/// The name of the column that holds a field's values: hashed, so that no key can be a path.
pub(super) fn column(field: &str) -> String {
    let hash = fact("column", field, &[]);
    hash[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The facts of a chunk of `document` with this metadata.
pub(super) fn facts_of(document: &LexicalDocument, metadata: &Metadata) -> Facts {
    let mut facts = Facts { terms: Vec::new(), ranges: BTreeMap::new() };
    match &document.acl {
        None => facts.terms.push(open_to_all()),
        Some(acl) => facts.terms.extend(acl.iter().map(|principal| open_to(principal))),
    }
    let reserved = [
        Some(document.id.as_str()),
        document.source_uri.as_deref(),
        document.title.as_deref(),
        Some(document.media_type.as_str()),
    ];
    for (field, value) in TEXT_FIELDS.iter().zip(reserved) {
        if let Some(value) = value {
            facts.add(field, &Value::String(value.to_owned()));
        }
    }
    for (key, value) in metadata.iter().take(MAX_KEYS) {
        // Which of the two a filter means is the truth's to say.
        if TEXT_FIELDS.contains(&key.as_str()) || TIME_FIELDS.contains(&key.as_str()) {
            facts.terms.push(unsure(key));
        } else {
            facts.add(key, value);
        }
    }
    if metadata.len() > MAX_KEYS {
        facts.terms.push(unsure_of_all());
    }
    facts.terms.sort_unstable();
    facts.terms.dedup();
    facts
}

impl Facts {
    fn add(&mut self, field: &str, value: &Value) {
        self.terms.push(exists(field));
        let elements = match value {
            Value::Array(elements) => elements.as_slice(),
            one => std::slice::from_ref(one),
        };
        if elements.len() > MAX_ELEMENTS {
            self.terms.push(unsure(field));
        }
        let mut ordered = Vec::new();
        for element in elements.iter().take(MAX_ELEMENTS) {
            let scalar = match element {
                Value::Null => Scalar::Null,
                Value::Bool(value) => Scalar::Bool(*value),
                Value::Number(number) => match number.as_f64() {
                    Some(value) => Scalar::Number(value),
                    None => continue,
                },
                Value::String(text) => Scalar::Text(text.clone()),
                Value::Array(_) | Value::Object(_) => continue,
            };
            self.terms.push(equals(field, &scalar));
            match scalar {
                Scalar::Number(value) => ordered.push(OwnedValue::F64(value)),
                Scalar::Text(text) => ordered.push(self.range_text(field, text)),
                Scalar::Null | Scalar::Bool(_) => {}
            }
        }
        if !ordered.is_empty() {
            self.ranges.insert(column(field), OwnedValue::Array(ordered));
        }
    }

    fn range_text(&mut self, field: &str, mut text: String) -> OwnedValue {
        if text.len() > MAX_RANGE_BYTES {
            self.terms.push(unsure_range(field));
            text.truncate(text.floor_char_boundary(MAX_RANGE_BYTES));
        }
        OwnedValue::Str(text)
    }
}

fn fact(kind: &str, field: &str, value: &[u8]) -> Fact {
    hash_parts(&[kind.as_bytes(), field.as_bytes(), value])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_differ_by_kind_field_type_and_value() {
        let text = |text: &str| Scalar::Text(text.to_owned());
        let all = [
            equals("a", &text("1")),
            equals("a", &Scalar::Number(1.0)),
            equals("a", &Scalar::Bool(true)),
            equals("a", &Scalar::Null),
            equals("b", &text("1")),
            exists("a"),
            unsure("a"),
            unsure_range("a"),
            unsure_of_all(),
            open_to_all(),
            open_to("a"),
        ];

        for (index, fact) in all.iter().enumerate() {
            assert!(!all[..index].contains(fact), "{index}");
        }
        assert_eq!(equals("a", &Scalar::Number(0.0)), equals("a", &Scalar::Number(-0.0)));
    }
}
