//! A JSON document as readable text: one `path: value` line for each scalar.
//!
//! Top-level scalars come first; each top-level object or array follows under its key as a heading. Numbers keep
//! their written form (`1.10` stays `1.10`). `null` and empty values have no text. Nesting is bounded, and the
//! scanner below never recurses into what it skips, so depth costs no stack.

use std::fmt::Write;

use serde::de::{Deserializer as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::domain::ParsedText;

use super::{
    ParseError,
    writer::{Gap, TextWriter},
};

/// Deepest nesting of objects and arrays. Each level is scanned anew, so this also bounds the work per byte.
const MAX_DEPTH: usize = 64;
/// Strings longer than this, or of several lines, stand as paragraphs under their path.
const LINE_MAX_BYTES: usize = 200;

/// Reads one JSON value; the text's title is a top-level `title` or `name`.
pub(super) fn parse_json(text: &str, limit_bytes: usize) -> Result<ParsedText, ParseError> {
    let text = text.trim_start_matches('\u{FEFF}');
    let root: &RawValue = serde_json::from_str(text).map_err(|error| refusal(&error))?;
    let mut writer = TextWriter::new(limit_bytes);
    let mut title = None;
    match Node::read(root, 0)? {
        Node::Scalar(value) => write_line(&mut writer, "", &value),
        Node::Empty => {}
        Node::Children(children) => {
            let mut sections = Vec::new();
            for (key, child) in children {
                match Node::read(child, 1)? {
                    Node::Scalar(value) => {
                        if title.is_none() && matches!(key.as_str(), "title" | "name") {
                            title = Some(value.clone());
                        }
                        write_line(&mut writer, &key, &value);
                    }
                    Node::Children(children) => sections.push((key, children)),
                    Node::Empty => {}
                }
            }
            for (key, children) in sections {
                writer.verbatim(&key);
                writer.end_heading(1);
                write_children(&mut writer, "", children, 1)?;
            }
        }
    }
    writer.finish(title)
}

type Children<'a> = Vec<(String, &'a RawValue)>;

enum Node<'a> {
    Empty,
    Scalar(String),
    Children(Children<'a>),
}

impl<'a> Node<'a> {
    /// Takes a value apart by one level.
    fn read(value: &'a RawValue, depth: usize) -> Result<Self, ParseError> {
        let text = value.get();
        let is_nested = text.starts_with(['{', '[']);
        if is_nested && depth >= MAX_DEPTH {
            return Err(ParseError::TooDeep { limit: MAX_DEPTH });
        }
        if is_nested {
            let mut reader = serde_json::Deserializer::from_str(text);
            let children = reader.deserialize_any(Level).map_err(|error| refusal(&error))?;
            return Ok(if children.is_empty() { Self::Empty } else { Self::Children(children) });
        }
        let scalar = match text.as_bytes().first() {
            Some(b'"') => serde_json::from_str(text).map_err(|error| refusal(&error))?,
            Some(b'n') => String::new(),
            _ => text.to_owned(),
        };
        Ok(if scalar.trim().is_empty() { Self::Empty } else { Self::Scalar(scalar) })
    }
}

/// Reads the keys or indices of one level and leaves the values as they are written.
struct Level;

impl<'de> Visitor<'de> for Level {
    type Value = Children<'de>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut children = Vec::new();
        while let Some(entry) = map.next_entry()? {
            children.push(entry);
        }
        Ok(children)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut children = Vec::new();
        while let Some(item) = seq.next_element()? {
            children.push((format!("[{}]", children.len()), item));
        }
        Ok(children)
    }
}

/// Depth is at most [`MAX_DEPTH`], so the recursion is too.
fn write_children(writer: &mut TextWriter, path: &str, children: Children<'_>, depth: usize) -> Result<(), ParseError> {
    for (key, child) in children {
        let path = join(path, &key);
        match Node::read(child, depth + 1)? {
            Node::Scalar(value) => write_line(writer, &path, &value),
            Node::Children(children) => write_children(writer, &path, children, depth + 1)?,
            Node::Empty => {}
        }
        if writer.is_full() {
            break;
        }
    }
    Ok(())
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() || key.starts_with('[') { format!("{path}{key}") } else { format!("{path}.{key}") }
}

fn write_line(writer: &mut TextWriter, path: &str, value: &str) {
    let is_long = value.len() > LINE_MAX_BYTES || value.trim().contains('\n');
    let mut line = String::new();
    if !path.is_empty() {
        write!(line, "{path}:{}", if is_long { "\n" } else { " " }).expect("a string takes every write");
    }
    line.push_str(value);
    writer.verbatim(&line);
    writer.end_block(if is_long { Gap::Paragraph } else { Gap::Line });
}

fn refusal(error: &serde_json::Error) -> ParseError {
    // The message ends with the place, which has fields of its own.
    let message = error.to_string();
    let detail = message.split(" at line ").next().unwrap_or_default().to_owned();
    ParseError::Json { line: error.line(), column: error.column(), detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ParsedText, ParseError> {
        parse_json(text, 1_000_000)
    }

    #[test]
    fn values_stand_under_their_paths_and_top_keys_are_headings() {
        let parsed = parse(
            r#"{"spec": {"ports": [80, {"name": "https", "port": 443}], "empty": [], "none": null},
                "name": "Gateway", "version": 1.10, "huge": 123456789012345678901234567890, "on": true}"#,
        )
        .unwrap();

        assert_eq!(
            parsed.text,
            "name: Gateway\nversion: 1.10\nhuge: 123456789012345678901234567890\non: true\n\n\
             spec\n\nports[0]: 80\nports[1].name: https\nports[1].port: 443"
        );
        assert_eq!(parsed.title.as_deref(), Some("Gateway"));
        let heading = &parsed.outline.headings[0];
        assert_eq!((heading.title.as_str(), heading.span.slice(&parsed.text)), ("spec", Some("spec")));
    }

    #[test]
    fn long_strings_are_paragraphs() {
        let parsed = parse(r#"{"a": "x", "body": "First line.\nSecond line.", "z": "y"}"#).unwrap();

        assert_eq!(parsed.text, "a: x\nbody:\nFirst line.\nSecond line.\n\nz: y");
    }

    #[test]
    fn scalars_and_arrays_are_documents_too() {
        assert_eq!(parse("\"just text\"").unwrap().text, "just text");
        assert_eq!(parse("[1, [2, 3]]").unwrap().text, "[0]: 1\n\n[1]\n\n[0]: 2\n[1]: 3");
        assert_eq!(parse("null").unwrap().text, "");
    }

    #[test]
    fn malformed_json_is_refused_with_its_place() {
        let error = parse("{\"a\": 1,\n \"b\" 2}").unwrap_err();

        assert_eq!(error.to_string(), "not valid JSON at line 2, column 6: expected `:`");
        for bad in ["", "{", "[1,]", "{\"a\":NaN}", "01", "{\"a\":1}}", "\"\\ud800\"", "'a'", "[1e]", "\u{7}"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn deep_nesting_is_refused_without_using_the_stack() {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let fits = format!("{}1{}", open.repeat(MAX_DEPTH), close.repeat(MAX_DEPTH));
            let deep = format!("{}1{}", open.repeat(500_000), close.repeat(500_000));
            let torn = open.repeat(1_000_000);

            assert!(parse(&fits).is_ok());
            assert!(matches!(parse(&deep), Err(ParseError::TooDeep { limit: MAX_DEPTH })));
            assert!(parse(&torn).is_err());
        }
    }

    #[test]
    fn text_over_the_limit_is_refused() {
        let long = format!("{{\"{}\": [{}]}}", "k".repeat(1_000), "{\"a\": 1},".repeat(1_000) + "0");

        assert!(matches!(parse_json(&long, 1_000), Err(ParseError::TextTooLarge { limit_bytes: 1_000 })));
    }
}
