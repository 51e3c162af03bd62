//! Versioned prompts: a file with a header, two sections and fixed placeholders. No expressions, no conditions.
//!
//! Values are put in once and never looked at again, so `{{question}}` inside a passage stays what it is.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use crate::domain::PromptVersion;
use crate::gateway::{ChatMessage, Role};

/// Every prompt that answers can be made with, newest last; the last is the default.
static ANSWER_PROMPTS: LazyLock<Vec<PromptTemplate>> = LazyLock::new(|| {
    let parse = |source| PromptTemplate::parse(source).expect("built-in prompts are tested");
    vec![parse(include_str!("prompts/answer.v1.txt"))]
});

/// The prompt of this version, or the newest; `None` if there is no such version.
pub fn answer_prompt(version: Option<&str>) -> Option<&'static PromptTemplate> {
    match version {
        None => ANSWER_PROMPTS.last(),
        Some(wanted) => ANSWER_PROMPTS.iter().find(|prompt| prompt.version.version == wanted),
    }
}

/// A parsed prompt file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptTemplate {
    /// The hash is BLAKE3 over the whole file.
    pub version: PromptVersion,
    sections: Vec<(Role, Vec<Piece>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Variable(String),
}

/// Why a file is not a prompt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPrompt {
    #[error("the header has no {0}")]
    MissingHeader(&'static str),
    #[error("{{{{{0}}}}} is not declared in the header")]
    Undeclared(String),
    #[error("the declared variable {0} is not used")]
    Unused(String),
    #[error("a placeholder is not closed")]
    Unclosed,
    #[error("the section {0:?} is not one of system, user")]
    UnknownSection(String),
}

impl PromptTemplate {
    /// Reads a prompt file; every placeholder must be declared and every declared variable used.
    pub fn parse(source: &str) -> Result<Self, InvalidPrompt> {
        let mut parts = source.split("\n--- ");
        let header: BTreeMap<&str, &str> =
            parts.next().unwrap_or_default().lines().filter_map(|line| line.split_once(": ")).collect();
        let field = |name: &'static str| header.get(name).copied().ok_or(InvalidPrompt::MissingHeader(name));
        let declared: Vec<&str> = field("variables")?.split(',').map(str::trim).collect();
        let sections = parts.map(|part| section(part, &declared)).collect::<Result<Vec<_>, _>>()?;
        let used = |name: &str| {
            let pieces = sections.iter().flat_map(|(_, pieces)| pieces);
            pieces.clone().any(|piece| matches!(piece, Piece::Variable(variable) if variable == name))
        };
        if let Some(unused) = declared.iter().find(|name| !used(name)) {
            return Err(InvalidPrompt::Unused((*unused).to_owned()));
        }
        let version = PromptVersion {
            name: field("name")?.to_owned(),
            version: field("version")?.to_owned(),
            hash: blake3::hash(source.as_bytes()).to_hex().to_string(),
        };
        Ok(Self { version, sections })
    }

    /// The messages with every placeholder replaced. `value` is asked for declared variables only.
    pub fn fill<'v>(&self, value: impl Fn(&str) -> &'v str) -> Vec<ChatMessage> {
        let fill = |pieces: &[Piece]| -> String {
            let text = pieces.iter().map(|piece| match piece {
                Piece::Text(text) => text.as_str(),
                Piece::Variable(name) => value(name),
            });
            text.collect()
        };
        self.sections.iter().map(|(role, pieces)| ChatMessage::new(*role, fill(pieces))).collect()
    }
}

fn section(part: &str, declared: &[&str]) -> Result<(Role, Vec<Piece>), InvalidPrompt> {
    let (title, text) = part.split_once('\n').unwrap_or((part, ""));
    let role = match title.trim() {
        "system" => Role::System,
        "user" => Role::User,
        other => return Err(InvalidPrompt::UnknownSection(other.to_owned())),
    };
    let mut pieces = Vec::new();
    let mut rest = text.trim_end();
    while let Some((before, tail)) = rest.split_once("{{") {
        let (name, after) = tail.split_once("}}").ok_or(InvalidPrompt::Unclosed)?;
        if !declared.contains(&name) {
            return Err(InvalidPrompt::Undeclared(name.to_owned()));
        }
        pieces.push(Piece::Text(before.to_owned()));
        pieces.push(Piece::Variable(name.to_owned()));
        rest = after;
    }
    pieces.push(Piece::Text(rest.to_owned()));
    Ok((role, pieces))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "name: t\nversion: 7\nvariables: a, b\n--- system\nBe {{a}}.\n--- user\n{{b}} or {{a}}?\n";

    #[test]
    fn the_built_in_prompt_is_well_formed_and_found_by_version() {
        let newest = answer_prompt(None).unwrap();

        assert_eq!((newest.version.name.as_str(), newest.version.version.as_str()), ("answer", "1"));
        assert_eq!(answer_prompt(Some("1")), Some(newest));
        assert_eq!(answer_prompt(Some("0")), None);
    }

    #[test]
    fn values_are_put_in_once_and_never_read_again() {
        let prompt = PromptTemplate::parse(SMALL).unwrap();

        let messages = prompt.fill(|name| if name == "a" { "{{b}}" } else { "{{7*7}} %s ${x}" });

        assert_eq!(messages[0], ChatMessage::new(Role::System, "Be {{b}}."));
        assert_eq!(messages[1], ChatMessage::new(Role::User, "{{7*7}} %s ${x} or {{b}}?"));
    }

    #[test]
    fn any_change_of_the_file_changes_the_hash() {
        let other = SMALL.replace("Be {{a}}.", "Be {{a}}!");

        let hash = |source: &str| PromptTemplate::parse(source).unwrap().version.hash;
        assert_ne!(hash(SMALL), hash(&other));
        assert_eq!(hash(SMALL).len(), 64);
    }

    #[test]
    fn a_prompt_with_a_fault_is_refused() {
        let parse = |from: &str, to: &str| PromptTemplate::parse(&SMALL.replace(from, to)).unwrap_err();

        assert_eq!(parse("{{b}}", "{{c}}"), InvalidPrompt::Undeclared("c".to_owned()));
        assert_eq!(parse("{{b}}", "b"), InvalidPrompt::Unused("b".to_owned()));
        assert_eq!(parse("{{b}} or", "{{b or"), InvalidPrompt::Undeclared("b or {{a".to_owned()));
        assert_eq!(parse("{{a}}?", "{{a"), InvalidPrompt::Unclosed);
        assert_eq!(parse("version: 7\n", ""), InvalidPrompt::MissingHeader("version"));
        assert_eq!(parse("--- user", "--- tool"), InvalidPrompt::UnknownSection("tool".to_owned()));
    }
}
