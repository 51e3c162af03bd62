//! Texts with placeholders in double braces, and the mark that keeps quoted data apart from instructions.
//!
//! Values are put in once and never looked at again, so a placeholder inside a document stays what it is.

use crate::answer::visible;
use crate::domain::hash_parts;

/// Longest placeholder that an error quotes, in characters.
const QUOTE_MAX_CHARS: usize = 60;

/// Most placeholders of one text: each is filled with something long.
const MAX_HOLES: usize = 64;

/// A text with placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// What stands between the braces, without spaces around it.
    Hole(String),
}

impl Template {
    /// Reads a text; the error is a sentence about it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut pieces, mut holes) = (Vec::new(), 0);
        let mut rest = text;
        while let Some((before, tail)) = rest.split_once("{{") {
            let Some((name, after)) = tail.split_once("}}") else {
                return Err(format!("the placeholder {{{{{} is not closed with }}}}", quoted(tail)));
            };
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            pieces.push(Piece::Hole(name.trim().to_owned()));
            holes += 1;
            if holes > MAX_HOLES {
                return Err(format!("has more than {MAX_HOLES} placeholders"));
            }
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Self { pieces })
    }

    /// The names of its placeholders, in order.
    pub fn holes(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Text(_) => None,
            Piece::Hole(name) => Some(name.as_str()),
        })
    }

    /// The name of the placeholder that is the whole text.
    pub fn lone(&self) -> Option<&str> {
        match self.pieces.as_slice() {
            [Piece::Hole(name)] => Some(name),
            _ => None,
        }
    }

    /// The text with every placeholder replaced.
    pub fn fill<E>(&self, mut value: impl FnMut(&str) -> Result<String, E>) -> Result<String, E> {
        let mut text = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(piece) => text.push_str(piece),
                Piece::Hole(name) => text.push_str(&value(name)?),
            }
        }
        Ok(text)
    }

    /// What is wrong with its placeholders: one that is unknown, or the needed one missing.
    pub fn fault(&self, known: &[&str], needed: &str) -> Option<String> {
        if let Some(unknown) = self.holes().find(|name| !known.contains(name)) {
            let known: Vec<String> = known.iter().map(|name| format!("{{{{{name}}}}}")).collect();
            return Some(format!("{{{{{}}}}} has no value here; there are {}", quoted(unknown), known.join(", ")));
        }
        let is_there = self.holes().any(|name| name == needed);
        (!is_there).then(|| format!("must hold {{{{{needed}}}}}"))
    }
}

/// A mark that stands in none of these texts: the same for the same texts and seed, so that a call that is made again
/// says the same.
pub(super) fn mark_for(seed: &[u8], texts: &[&str]) -> String {
    let parts: Vec<&[u8]> =
        [b"mark".as_slice(), seed].into_iter().chain(texts.iter().map(|text| text.as_bytes())).collect();
    let base = hash_parts(&parts);
    let mut round = 0u64;
    loop {
        let hash = hash_parts(&[&base, &round.to_le_bytes()]);
        let number = hash.iter().take(8).fold(0u64, |number, byte| number << 8 | u64::from(*byte));
        let mark = format!("#{number:016x}");
        if texts.iter().all(|text| !text.contains(&mark)) {
            return mark;
        }
        round += 1;
    }
}

/// A text of documents between marks, without what people cannot see.
pub(super) fn quoted_data(mark: &str, text: &str) -> String {
    format!("{mark}\n{}\n{mark}", visible(text))
}

/// As [`quoted_data`], on one line.
pub(super) fn quoted_line(mark: &str, text: &str) -> String {
    format!("{mark} {} {mark}", visible(text).replace(['\n', '\t'], " "))
}

fn quoted(text: &str) -> String {
    text.chars().take(QUOTE_MAX_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(template: &str, text: &str) -> String {
        let value = |name: &str| Ok::<_, String>(if name == "text" { text.to_owned() } else { format!("<{name}>") });
        Template::parse(template).unwrap().fill(value).unwrap()
    }

    #[test]
    fn values_are_put_in_once_and_never_read_again() {
        assert_eq!(filled("a {{ text }} b {{item}}", "{{item}} }} {{"), "a {{item}} }} {{ b <item>");
        assert_eq!(filled("no placeholder", "x"), "no placeholder");
        assert_eq!(filled("", "x"), "");
    }

    #[test]
    fn wrong_placeholders_are_named() {
        let fault =
            |text: &str| Template::parse(text).and_then(|one| one.fault(&["text", "item"], "text").map_or(Ok(()), Err));

        assert_eq!(fault("{{text}} {{item}}"), Ok(()));
        assert_eq!(
            fault("sum up {{texts}}"),
            Err("{{texts}} has no value here; there are {{text}}, {{item}}".to_owned())
        );
        assert_eq!(fault("sum up {{item}}"), Err("must hold {{text}}".to_owned()));
        assert_eq!(fault("sum up {{text"), Err("the placeholder {{text is not closed with }}".to_owned()));
    }

    #[test]
    fn one_placeholder_alone_is_told_apart_from_one_in_a_text() {
        assert_eq!(Template::parse("{{a.b}}").unwrap().lone(), Some("a.b"));
        assert_eq!(Template::parse(" {{a.b}}").unwrap().lone(), None);
        assert_eq!(Template::parse("{{a}}{{b}}").unwrap().lone(), None);
    }

    #[test]
    fn a_mark_is_the_same_for_the_same_text_and_stands_in_none() {
        let first = mark_for(b"seed", &["some text"]);

        assert_eq!(first, mark_for(b"seed", &["some text"]));
        assert_ne!(first, mark_for(b"seed", &["some other text"]));
        assert_ne!(first, mark_for(b"other", &["some text"]));
        assert_eq!(first.len(), 17);
        assert_eq!(quoted_line(&first, "a\nb\u{202E}"), format!("{first} a b {first}"));
    }
}
