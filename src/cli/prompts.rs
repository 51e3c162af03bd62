//! `plumb prompts`: which prompts there are, what they say, and what changed between two versions.

use anyhow::{Context, bail};
use similar::TextDiff;

use crate::gateway::{PromptBook, PromptEdition, PromptOrigin};

/// Digits of the hash in the list: enough to tell versions apart at a glance.
const HASH_SHOWN: usize = 12;

/// A table: name, version, start of the hash, variables, source, share of the calls that pin no version.
pub fn list(book: &PromptBook) -> String {
    let mut rows = vec![["NAME", "VERSION", "HASH", "VARIABLES", "SOURCE", "SHARE"].map(str::to_owned)];
    for edition in book.names().flat_map(|name| book.versions(name)) {
        let prompt = &edition.template;
        rows.push([
            prompt.version.name.clone(),
            prompt.version.version.clone(),
            prompt.version.hash.chars().take(HASH_SHOWN).collect(),
            if prompt.variables.is_empty() { "-".to_owned() } else { prompt.variables.join(",") },
            source(&edition.origin),
            percent(edition.share),
        ]);
    }
    let widths: [usize; 6] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    let line = |row: &[String; 6]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// The file of a version, the newest if none is named, word for word.
pub fn show<'b>(book: &'b PromptBook, name: &str, version: Option<&str>) -> anyhow::Result<&'b str> {
    Ok(&wanted(book, name, version)?.template.source)
}

/// The unified diff from one version to another, the newest if none is named; `None` if they do not differ.
pub fn diff(book: &PromptBook, name: &str, from: &str, to: Option<&str>) -> anyhow::Result<Option<String>> {
    let (old, new) = (wanted(book, name, Some(from))?, wanted(book, name, to)?);
    let (old, new) = (&old.template, &new.template);
    if old.source == new.source {
        return Ok(None);
    }
    let changes = TextDiff::from_lines(&old.source, &new.source);
    let title = |version: &str| format!("{name} {version}");
    let (from, to) = (title(&old.version.version), title(&new.version.version));
    Ok(Some(changes.unified_diff().header(&from, &to).to_string()))
}

fn wanted<'b>(book: &'b PromptBook, name: &str, version: Option<&str>) -> anyhow::Result<&'b PromptEdition> {
    let versions = book.versions(name);
    let Some(newest) = versions.last() else {
        bail!("there is no prompt {name:?}; there are {}", book.names().collect::<Vec<_>>().join(", "));
    };
    let Some(version) = version else { return Ok(newest) };
    let found = versions.iter().find(|one| one.template.version.version == version);
    found.with_context(|| {
        let known: Vec<&str> = versions.iter().map(|one| one.template.version.version.as_str()).collect();
        format!("the prompt {name} has no version {version:?}; there are {}", known.join(", "))
    })
}

fn source(origin: &PromptOrigin) -> String {
    match origin {
        PromptOrigin::BuiltIn => "built in".to_owned(),
        PromptOrigin::File(path) => path.display().to_string(),
    }
}

// One decimal, and none where it is 0: weights are small whole numbers.
fn percent(share: f64) -> String {
    let rounded = (share * 1_000.0).round() / 10.0;
    format!("{rounded} %")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::PROMPTS;
    use crate::gateway::PromptSplit;

    /// Version 1 of the answers as shipped, and versions 2 and 10 from a folder.
    fn book(folder: &std::path::Path) -> PromptBook {
        for version in ["2", "10"] {
            let text = PROMPTS[0].replace("version: 1", &format!("version: {version}")).replace("Be brief: ", "");
            std::fs::write(folder.join(format!("answer.v{version}.txt")), text).unwrap();
        }
        let weights = [("1".to_owned(), 2), ("10".to_owned(), 1)].into();
        PromptBook::load(PROMPTS, Some(folder), &PromptSplit::from([("answer".to_owned(), weights)])).unwrap()
    }

    #[test]
    fn the_list_tells_versions_apart_and_who_gets_them() {
        let folder = tempfile::tempdir().unwrap();

        let table = list(&book(folder.path()));

        let hash = &blake3::hash(PROMPTS[0].as_bytes()).to_hex()[..HASH_SHOWN];
        let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split("  ").collect()).collect();
        let cells = |row: &[&str]| -> Vec<String> {
            row.iter().map(|cell| cell.trim().to_owned()).filter(|cell| !cell.is_empty()).collect()
        };
        assert_eq!(cells(&rows[0]), ["NAME", "VERSION", "HASH", "VARIABLES", "SOURCE", "SHARE"]);
        assert_eq!(cells(&rows[1]), ["answer", "1", hash, "mark,passages,question", "built in", "66.7 %"]);
        let second = folder.path().join("answer.v2.txt").display().to_string();
        assert_eq!(cells(&rows[2])[4..], [second, "0 %".to_owned()]);
        assert_eq!((cells(&rows[3])[1].as_str(), cells(&rows[3])[5].as_str()), ("10", "33.3 %"));
    }

    #[test]
    fn a_prompt_is_shown_word_for_word_the_newest_where_none_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let book = book(folder.path());

        assert_eq!(show(&book, "answer", Some("1")).unwrap(), PROMPTS[0]);
        assert!(show(&book, "answer", None).unwrap().contains("version: 10\n"));
    }

    #[test]
    fn a_diff_names_both_versions_and_what_changed_and_is_nothing_between_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let book = book(folder.path());

        let changes = diff(&book, "answer", "1", None).unwrap().unwrap();

        assert!(changes.starts_with("--- answer 1\n+++ answer 10\n@@ "), "{changes}");
        assert!(changes.contains("\n-version: 1\n+version: 10\n"), "{changes}");
        assert!(
            changes.lines().any(|line| line.starts_with("-- Answer first") && line.contains("Be brief")),
            "{changes}"
        );
        assert_eq!(diff(&book, "answer", "2", Some("2")).unwrap(), None);
    }

    #[test]
    fn names_and_versions_that_do_not_exist_are_answered_with_those_that_do() {
        let folder = tempfile::tempdir().unwrap();
        let book = book(folder.path());

        let unknown = show(&book, "anwser", None).unwrap_err().to_string();
        assert_eq!(unknown, "there is no prompt \"anwser\"; there are answer");
        for error in [show(&book, "answer", Some("3")).unwrap_err(), diff(&book, "answer", "1", Some("3")).unwrap_err()]
        {
            assert_eq!(error.to_string(), "the prompt answer has no version \"3\"; there are 1, 2, 10");
        }
    }
}
