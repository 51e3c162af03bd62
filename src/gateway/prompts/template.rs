//! A prompt file: a header, sections and fixed placeholders. No expressions, no conditions.
//!
//! Values are put in once and never looked at again, so `{{question}}` inside a passage stays what it is.

use std::collections::BTreeMap;

use crate::domain::PromptVersion;
use crate::gateway::{ChatMessage, Role};

use super::error::{InvalidPrompt, PromptFault};

/// Longest name, version or variable, in bytes: they stand in ledger rows and labels.
pub(super) const WORD_MAX_BYTES: usize = 64;

const FIELDS: [&str; 4] = ["name", "version", "variables", "description"];
/// Most characters of a file that an error quotes.
const QUOTE_MAX_CHARS: usize = 60;

/// A parsed prompt file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptTemplate {
    /// The hash is BLAKE3 over the whole file.
    pub version: PromptVersion,
    /// What people should know about this version.
    pub description: Option<String>,
    /// In the order of the header.
    pub variables: Vec<String>,
    /// The whole file.
    pub source: String,
    sections: Vec<(Role, Vec<Piece>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Variable(String),
}

impl PromptTemplate {
    /// Reads a prompt file; every placeholder must be declared and every declared variable used.
    pub fn parse(source: &str) -> Result<Self, InvalidPrompt> {
        let (head, sections) = cut(source);
        let header = Header::read(head)?;
        let (name, version) = (header.word("name")?, header.word("version")?);
        let variables = header.variables()?;
        let sections =
            sections.into_iter().map(|(line, part)| section(line, part, &variables)).collect::<Result<Vec<_>, _>>()?;
        let used = |name: &String| {
            let mut pieces = sections.iter().flat_map(|(_, pieces)| pieces);
            pieces.any(|piece| matches!(piece, Piece::Variable(variable) if variable == name))
        };
        if let Some(unused) = variables.iter().find(|name| !used(name)) {
            return Err(header.fault("variables", PromptFault::Unused(unused.clone())));
        }
        if !sections.iter().any(|(role, _)| *role == Role::User) {
            return Err(InvalidPrompt { line: 1, fault: PromptFault::NoUser });
        }
        Ok(Self {
            version: PromptVersion {
                name: name.to_owned(),
                version: version.to_owned(),
                hash: blake3::hash(source.as_bytes()).to_hex().to_string(),
            },
            description: header.text("description").map(str::to_owned),
            variables,
            source: source.to_owned(),
            sections,
        })
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

    /// This fault at the line that declares the variables.
    pub(super) fn fault_of_variables(&self, fault: PromptFault) -> InvalidPrompt {
        match Header::read(cut(&self.source).0) {
            Ok(header) => header.fault("variables", fault),
            Err(earlier) => earlier,
        }
    }
}

/// The header, and each section from its title on, with the line of that title.
fn cut(source: &str) -> (&str, Vec<(usize, &str)>) {
    let mut parts = source.split("\n--- ");
    let head = parts.next().unwrap_or_default();
    let mut last = 1 + head.matches('\n').count();
    let place = |part| {
        let title = last + 1;
        last = title + str::matches(part, '\n').count();
        (title, part)
    };
    (head, parts.map(place).collect())
}

/// The fields before the first section, each with its line.
struct Header<'s> {
    fields: BTreeMap<&'s str, (usize, &'s str)>,
}

impl<'s> Header<'s> {
    fn read(head: &'s str) -> Result<Self, InvalidPrompt> {
        let mut fields = BTreeMap::new();
        let lines = head.lines().enumerate().filter(|(_, text)| !text.trim().is_empty());
        for (index, text) in lines {
            let line = index + 1;
            let (name, value) = text.split_once(':').unwrap_or((text, ""));
            if !FIELDS.contains(&name) {
                return Err(InvalidPrompt { line, fault: PromptFault::UnknownField(quoted(name)) });
            }
            if fields.insert(name, (line, value.trim())).is_some() {
                return Err(InvalidPrompt { line, fault: PromptFault::Twice(name.to_owned()) });
            }
        }
        Ok(Self { fields })
    }

    fn text(&self, field: &str) -> Option<&'s str> {
        self.fields.get(field).map(|(_, text)| *text)
    }

    fn required(&self, field: &'static str) -> Result<&'s str, InvalidPrompt> {
        self.text(field).ok_or(InvalidPrompt { line: 1, fault: PromptFault::MissingField(field) })
    }

    fn word(&self, field: &'static str) -> Result<&'s str, InvalidPrompt> {
        let text = self.required(field)?;
        if is_word(text) { Ok(text) } else { Err(self.fault(field, not_a_word(field, text))) }
    }

    fn variables(&self) -> Result<Vec<String>, InvalidPrompt> {
        let declared = self.required("variables")?;
        let mut variables: Vec<String> = Vec::new();
        if declared.is_empty() {
            return Ok(variables);
        }
        for name in declared.split(',').map(str::trim) {
            if !is_word(name) {
                return Err(self.fault("variables", not_a_word("variables", name)));
            }
            if variables.iter().any(|known| known == name) {
                return Err(self.fault("variables", PromptFault::Twice(name.to_owned())));
            }
            variables.push(name.to_owned());
        }
        Ok(variables)
    }

    /// This fault at the line of this field.
    fn fault(&self, field: &str, fault: PromptFault) -> InvalidPrompt {
        InvalidPrompt { line: self.fields.get(field).map_or(1, |(line, _)| *line), fault }
    }
}

fn section(title_line: usize, part: &str, declared: &[String]) -> Result<(Role, Vec<Piece>), InvalidPrompt> {
    let (title, text) = part.split_once('\n').unwrap_or((part, ""));
    let role = match title.trim() {
        "system" => Role::System,
        "user" => Role::User,
        other => {
            return Err(InvalidPrompt { line: title_line, fault: PromptFault::UnknownSection(quoted(other)) });
        }
    };
    let text = text.trim_end();
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, tail)) = rest.split_once("{{") {
        let read = text.len() - tail.len();
        let fault = |fault| InvalidPrompt { line: title_line + 1 + text[..read].matches('\n').count(), fault };
        let (name, after) = tail.split_once("}}").ok_or_else(|| fault(PromptFault::Unclosed))?;
        if !declared.iter().any(|known| known == name) {
            return Err(fault(PromptFault::Undeclared(quoted(name))));
        }
        pieces.push(Piece::Text(before.to_owned()));
        pieces.push(Piece::Variable(name.to_owned()));
        rest = after;
    }
    pieces.push(Piece::Text(rest.to_owned()));
    Ok((role, pieces))
}

fn is_word(text: &str) -> bool {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-' | '.');
    (1..=WORD_MAX_BYTES).contains(&text.len()) && text.chars().all(plain)
}

fn not_a_word(field: &'static str, found: &str) -> PromptFault {
    PromptFault::NotAWord { field, found: quoted(found) }
}

fn quoted(text: &str) -> String {
    text.chars().take(QUOTE_MAX_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "name: t\nversion: 7\nvariables: a, b\n--- system\nBe {{a}}.\n--- user\n{{b}} or {{a}}?\n";

    #[test]
    fn values_are_put_in_once_and_never_read_again() {
        let prompt = PromptTemplate::parse(SMALL).unwrap();

        let messages = prompt.fill(|name| if name == "a" { "{{b}} {{question}}" } else { "{% x %} {{7*7}} %s ${x}" });

        assert_eq!(messages[0], ChatMessage::new(Role::System, "Be {{b}} {{question}}."));
        assert_eq!(messages[1], ChatMessage::new(Role::User, "{% x %} {{7*7}} %s ${x} or {{b}} {{question}}?"));
    }

    #[test]
    fn what_looks_like_another_template_language_is_text() {
        let source = SMALL.replace("Be {{a}}.", "{% if a %} ${a} {a} %s <%= a %>");

        let messages = PromptTemplate::parse(&source).unwrap().fill(|_| "!");

        assert_eq!(messages[0], ChatMessage::new(Role::System, "{% if a %} ${a} {a} %s <%= a %>"));
    }

    #[test]
    fn any_change_of_the_file_changes_the_hash() {
        let other = SMALL.replace("Be {{a}}.", "Be {{a}}!");

        let hash = |source: &str| PromptTemplate::parse(source).unwrap().version.hash;
        assert_ne!(hash(SMALL), hash(&other));
        assert_eq!(hash(SMALL), blake3::hash(SMALL.as_bytes()).to_hex().to_string());
    }

    #[test]
    fn the_header_tells_name_version_variables_and_what_it_is_for() {
        let source = SMALL.replace("version: 7\n", "version: 7\ndescription: shorter: half the words\n");

        let prompt = PromptTemplate::parse(&source).unwrap();

        assert_eq!((prompt.version.name.as_str(), prompt.version.version.as_str()), ("t", "7"));
        assert_eq!(prompt.description.as_deref(), Some("shorter: half the words"));
        assert_eq!(prompt.variables, ["a", "b"]);
        assert_eq!(prompt.source, source);
    }

    #[test]
    fn a_prompt_with_a_fault_is_refused_with_its_line() {
        let parse = |from: &str, to: &str| {
            assert!(SMALL.contains(from), "{from}");
            let InvalidPrompt { line, fault } = PromptTemplate::parse(&SMALL.replace(from, to)).unwrap_err();
            (line, fault)
        };
        let word = |field, found: &str| PromptFault::NotAWord { field, found: found.to_owned() };

        assert_eq!(parse("{{b}}", "{{c}}"), (7, PromptFault::Undeclared("c".to_owned())));
        assert_eq!(parse("Be {{a}}", "Be\n\n{{ a }}"), (7, PromptFault::Undeclared(" a ".to_owned())));
        assert_eq!(parse("{{b}}", "b"), (3, PromptFault::Unused("b".to_owned())));
        assert_eq!(parse("{{b}} or", "{{b or"), (7, PromptFault::Undeclared("b or {{a".to_owned())));
        assert_eq!(parse("{{a}}?", "{{a"), (7, PromptFault::Unclosed));
        assert_eq!(parse("version: 7\n", ""), (1, PromptFault::MissingField("version")));
        assert_eq!(parse("version: 7", "verison: 7"), (2, PromptFault::UnknownField("verison".to_owned())));
        assert_eq!(parse("version: 7", "version: 7\nversion: 8"), (3, PromptFault::Twice("version".to_owned())));
        assert_eq!(parse("version: 7", "version: a b"), (2, word("version", "a b")));
        assert_eq!(parse("name: t", "name:"), (1, word("name", "")));
        assert_eq!(parse("a, b", "a, b, b"), (3, PromptFault::Twice("b".to_owned())));
        assert_eq!(parse("a, b", "a,, b"), (3, word("variables", "")));
        assert_eq!(parse("--- user", "--- tool"), (6, PromptFault::UnknownSection("tool".to_owned())));
        assert_eq!(parse("--- user", "--- system"), (1, PromptFault::NoUser));
    }

    #[test]
    fn a_prompt_may_do_without_variables() {
        let prompt = PromptTemplate::parse("name: t\nversion: 1\nvariables:\n--- user\nHello.\n").unwrap();

        assert_eq!(prompt.fill(|_| "!"), [ChatMessage::new(Role::User, "Hello.")]);
    }
}
