//! References inside an input: `{{input.x}}` and `{{step.path.0.to.field}}`.
//!
//! A string that is one reference alone becomes the value itself; inside a longer string the value becomes text. What
//! was put in is never looked at again.

use serde_json::{Map, Value};

use crate::jobs::template::Template;

/// The name under which the caller's own values are known.
pub const INPUT: &str = "input";

/// A reference as it stands between the braces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference<'a> {
    /// `input`, or the name of a step.
    pub root: &'a str,
    path: Vec<&'a str>,
}

impl<'a> Reference<'a> {
    /// `None` if it names nothing.
    pub fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split('.');
        let root = parts.next().filter(|root| !root.is_empty())?;
        let path: Vec<&str> = parts.collect();
        path.iter().all(|part| !part.is_empty()).then_some(Self { root, path })
    }

    /// The value at its path; `None` if there is none.
    pub fn resolve<'v>(&self, known: &'v Map<String, Value>) -> Option<&'v Value> {
        let mut here = known.get(self.root)?;
        for part in &self.path {
            here = match here {
                Value::Object(fields) => fields.get(*part)?,
                Value::Array(items) => items.get(part.parse::<usize>().ok()?)?,
                _ => return None,
            };
        }
        Some(here)
    }
}

/// Calls `found` with the place and text of each string in a value that is not a plain one.
pub fn each_template(value: &Value, at: &str, found: &mut dyn FnMut(&str, Result<Template, String>)) {
    match value {
        Value::String(text) if text.contains("{{") => found(at, Template::parse(text)),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                each_template(item, &format!("{at}/{index}"), found);
            }
        }
        Value::Object(fields) => {
            for (key, field) in fields {
                each_template(field, &format!("{at}/{}", crate::jobs::input::escape(key)), found);
            }
        }
        _ => {}
    }
}

/// True if anything in a value refers to something else than `input`.
pub fn refers_to_steps(value: &Value) -> bool {
    let mut refers = false;
    each_template(value, "", &mut |_, template| {
        let roots = template.iter().flat_map(Template::holes).map(|hole| hole.split('.').next());
        refers |= roots.into_iter().any(|root| root != Some(INPUT));
    });
    refers
}

/// Most bytes that references may put into one step: a short text may name a long one again and again.
const MAX_FILLED_BYTES: usize = 4 << 20;

/// The value with every reference replaced; the error is a sentence about one that leads nowhere, or about too much.
pub fn filled(value: &Value, known: &Map<String, Value>) -> Result<Value, String> {
    fill(value, known, &mut MAX_FILLED_BYTES.clone())
}

fn fill(value: &Value, known: &Map<String, Value>, room: &mut usize) -> Result<Value, String> {
    match value {
        Value::String(text) if text.contains("{{") => filled_text(&Template::parse(text)?, known, room),
        Value::Array(items) => items.iter().map(|item| fill(item, known, room)).collect(),
        Value::Object(fields) => {
            let filled = fields.iter().map(|(key, field)| Ok::<_, String>((key.clone(), fill(field, known, room)?)));
            Ok(Value::Object(filled.collect::<Result<_, _>>()?))
        }
        plain => Ok(plain.clone()),
    }
}

fn filled_text(template: &Template, known: &Map<String, Value>, room: &mut usize) -> Result<Value, String> {
    let mut find = |hole: &str| {
        let found = Reference::parse(hole).and_then(|reference| reference.resolve(known));
        let found = found.ok_or_else(|| format!("{{{{{hole}}}}} leads to nothing"))?;
        let bytes = match found {
            Value::String(text) => text.len(),
            other => other.to_string().len(),
        };
        *room = room.checked_sub(bytes).ok_or_else(|| {
            format!("references put in more than {MAX_FILLED_BYTES} bytes, the last of them {{{{{hole}}}}}")
        })?;
        Ok::<&Value, String>(found)
    };
    if let Some(hole) = template.lone() {
        return find(hole).cloned();
    }
    let text = template.fill(|hole| {
        Ok::<_, String>(match find(hole)? {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
    });
    text.map(Value::String)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn known() -> Map<String, Value> {
        let Value::Object(known) = json!({
            "input": {"who": "Ahab", "top_k": 3},
            "find": {"hits": [{"text": "Call me {{input.who}}."}, {"text": "second"}]}
        }) else {
            unreachable!("an object was written")
        };
        known
    }

    #[test]
    fn a_reference_alone_is_the_value_and_inside_a_text_its_words() {
        let value = json!({"a": "{{ input.top_k }}", "b": ["Who is {{input.who}} ({{input.top_k}})?"], "c": 1,
            "d": "{{find.hits.1}}"});

        let filled = filled(&value, &known()).unwrap();

        assert_eq!(filled, json!({"a": 3, "b": ["Who is Ahab (3)?"], "c": 1, "d": {"text": "second"}}));
    }

    #[test]
    fn what_was_put_in_is_not_looked_at_again() {
        assert_eq!(filled(&json!("> {{find.hits.0.text}}"), &known()).unwrap(), "> Call me {{input.who}}.");
    }

    #[test]
    fn a_reference_that_leads_nowhere_is_named() {
        for (text, lost) in [
            ("{{find.hits.7.text}}", "find.hits.7.text"),
            ("a {{x}}", "x"),
            ("{{input..who}}", "input..who"),
            ("{{}}", ""),
        ] {
            assert_eq!(filled(&json!(text), &known()).unwrap_err(), format!("{{{{{lost}}}}} leads to nothing"));
        }
    }

    #[test]
    fn a_short_text_that_names_a_long_one_again_and_again_is_refused() {
        let known = Map::from_iter([("input".to_owned(), json!({"x": "y".repeat(MAX_FILLED_BYTES / 8)}))]);
        let many = |holes: usize| json!("{{input.x}} ".repeat(holes));

        assert!(filled(&many(7), &known).is_ok());
        assert!(filled(&many(9), &known).unwrap_err().contains("put in more than"));
        assert!(filled(&many(100), &known).unwrap_err().contains("placeholders"));
        assert!(filled(&json!(vec!["{{input.x}}"; 9]), &known).unwrap_err().contains("put in more than"));
    }

    #[test]
    fn references_to_steps_are_told_from_those_to_the_input() {
        assert!(refers_to_steps(&json!({"a": ["x {{find.hits}}"]})));
        assert!(!refers_to_steps(&json!({"a": ["x {{input.who}}"], "b": "{ {"})));
    }
}
