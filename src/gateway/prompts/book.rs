//! All prompts that calls can be made with, each with all its versions.
//!
//! A book never changes once it is made; a reload makes another one. No version is ever dropped, so that a request can
//! pin any of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{InvalidPrompt, PromptBookError, PromptFault};
use super::order::by_version;
use super::split::choose;
use super::template::PromptTemplate;

/// Longest prompt file, in bytes. 256 KiB: more than the context of most models holds.
pub(super) const PROMPT_MAX_BYTES: u64 = 256 << 10;

/// Weights of versions by prompt, then by version.
pub type PromptSplit = BTreeMap<String, BTreeMap<String, u32>>;

/// Where a prompt was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PromptOrigin {
    BuiltIn,
    File(PathBuf),
}

impl fmt::Display for PromptOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("the program"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// One version of a prompt.
#[derive(Debug, Clone)]
pub struct PromptEdition {
    pub template: Arc<PromptTemplate>,
    pub origin: PromptOrigin,
    /// Of the calls that pin no version, from 0 to 1.
    pub share: f64,
    weight: u32,
}

/// Every version of every prompt.
#[derive(Debug, Clone)]
pub struct PromptBook {
    /// By name; the versions of each, oldest first, at least one.
    prompts: BTreeMap<String, Vec<PromptEdition>>,
}

impl PromptBook {
    /// A book of built-in files alone; the newest version of each prompt takes all calls.
    pub fn new(built_in: &[&str]) -> Result<Self, PromptBookError> {
        let editions = built_in.iter().map(|source| Edition::parse(PromptOrigin::BuiltIn, source));
        let mut book = Self::of(editions.collect::<Result<_, _>>()?)?;
        book.share_out(&PromptSplit::new())?;
        Ok(book)
    }

    /// A book of built-in files and those of a folder (`*.txt`, hidden ones and subfolders left out). Blocks.
    ///
    /// A prompt that the split does not name goes to its newest version. A file of the folder may use those variables
    /// alone that the built-in versions of its prompt use, since no others have a value.
    pub fn load(built_in: &[&str], folder: Option<&Path>, split: &PromptSplit) -> Result<Self, PromptBookError> {
        let own = built_in.iter().map(|source| Edition::parse(PromptOrigin::BuiltIn, source));
        let mut editions: Vec<Edition> = own.collect::<Result<_, _>>()?;
        for path in folder.map(prompt_files).transpose()?.unwrap_or_default() {
            editions.push(read(path)?);
        }
        let mut book = Self::of(editions)?;
        book.share_out(split)?;
        Ok(book)
    }

    /// The version for one call: the pinned one; else the one that the split gives this unit; else the newest.
    ///
    /// The same unit (a session, or a trace without one) gets the same version for as long as the split stays the same.
    /// `None` if there is no such prompt or version.
    pub fn pick(&self, name: &str, pinned: Option<&str>, unit: &[u8]) -> Option<Arc<PromptTemplate>> {
        let versions = self.prompts.get(name)?;
        let picked = match pinned {
            Some(pinned) => versions.iter().find(|one| one.version() == pinned)?,
            None => &versions[choose(name, unit, versions.iter().map(|one| (one.version(), one.weight)))?],
        };
        Some(Arc::clone(&picked.template))
    }

    /// The names of all prompts, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.prompts.keys().map(String::as_str)
    }

    /// All versions of a prompt, oldest first; empty if there is no such prompt.
    pub fn versions(&self, name: &str) -> &[PromptEdition] {
        self.prompts.get(name).map_or(&[], Vec::as_slice)
    }

    fn of(editions: Vec<Edition>) -> Result<Self, PromptBookError> {
        let offered = offered(&editions);
        let mut prompts: BTreeMap<String, Vec<PromptEdition>> = BTreeMap::new();
        for Edition { origin, template } in editions {
            if let Some(offered) = offered.get(&template.version.name) {
                check_variables(&template, offered).map_err(|invalid| invalid.at(origin.clone()))?;
            }
            let versions = prompts.entry(template.version.name.clone()).or_default();
            match versions.iter().find(|known| known.template.version.version == template.version.version) {
                Some(known) if known.template.version.hash == template.version.hash => {}
                Some(known) => {
                    return Err(PromptBookError::TwoTexts {
                        name: template.version.name,
                        version: template.version.version,
                        first: known.origin.clone(),
                        second: origin,
                    });
                }
                None => versions.push(PromptEdition { template: Arc::new(template), origin, share: 0.0, weight: 0 }),
            }
        }
        for versions in prompts.values_mut() {
            versions.sort_by(|a, b| by_version(a.version(), b.version()));
        }
        Ok(Self { prompts })
    }

    fn share_out(&mut self, split: &PromptSplit) -> Result<(), PromptBookError> {
        if let Some(name) = split.keys().find(|name| !self.prompts.contains_key(*name)) {
            let known = listed(self.names());
            return Err(PromptBookError::UnknownPrompt { name: name.clone(), known });
        }
        for (name, versions) in &mut self.prompts {
            match split.get(name) {
                Some(weights) => weigh(name, versions, weights)?,
                None => {
                    if let Some(newest) = versions.last_mut() {
                        newest.weight = 1;
                    }
                }
            }
            let total: u64 = versions.iter().map(|one| u64::from(one.weight)).sum();
            for one in versions {
                one.share = f64::from(one.weight) / total as f64;
            }
        }
        Ok(())
    }
}

impl PromptEdition {
    fn version(&self) -> &str {
        &self.template.version.version
    }
}

/// A prompt that has no place in a book yet.
struct Edition {
    origin: PromptOrigin,
    template: PromptTemplate,
}

impl Edition {
    fn parse(origin: PromptOrigin, source: &str) -> Result<Self, PromptBookError> {
        match PromptTemplate::parse(source) {
            Ok(template) => Ok(Self { origin, template }),
            Err(invalid) => Err(invalid.at(origin)),
        }
    }
}

/// The files of a folder that hold prompts, by name.
fn prompt_files(folder: &Path) -> Result<Vec<PathBuf>, PromptBookError> {
    let unreadable = |source| PromptBookError::Unreadable { path: folder.to_owned(), source };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|extension| extension == "txt") && !path.is_dir() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn read(path: PathBuf) -> Result<Edition, PromptBookError> {
    let unreadable = |source| PromptBookError::Unreadable { path: path.clone(), source };
    let bytes = std::fs::metadata(&path).map_err(unreadable)?.len();
    if bytes > PROMPT_MAX_BYTES {
        return Err(PromptBookError::TooLong { path, bytes });
    }
    let bytes = std::fs::read(&path).map_err(unreadable)?;
    match String::from_utf8(bytes) {
        Ok(source) => Edition::parse(PromptOrigin::File(path), &source),
        Err(error) => {
            let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = 1 + valid.iter().filter(|byte| **byte == b'\n').count();
            Err(InvalidPrompt { line, fault: PromptFault::NotUtf8 }.at(PromptOrigin::File(path)))
        }
    }
}

/// The variables of the built-in versions, by prompt: the program has a value for each of these.
fn offered(editions: &[Edition]) -> BTreeMap<String, BTreeSet<String>> {
    let mut offered: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for edition in editions.iter().filter(|edition| edition.origin == PromptOrigin::BuiltIn) {
        let template = &edition.template;
        offered.entry(template.version.name.clone()).or_default().extend(template.variables.iter().cloned());
    }
    offered
}

fn check_variables(template: &PromptTemplate, offered: &BTreeSet<String>) -> Result<(), InvalidPrompt> {
    match template.variables.iter().find(|name| !offered.contains(*name)) {
        None => Ok(()),
        Some(name) => {
            let fault = PromptFault::NotOffered(name.clone(), listed(offered.iter().map(String::as_str)));
            Err(template.fault_of_variables(fault))
        }
    }
}

fn weigh(name: &str, versions: &mut [PromptEdition], weights: &BTreeMap<String, u32>) -> Result<(), PromptBookError> {
    for (version, weight) in weights {
        match versions.iter_mut().find(|one| one.version() == version) {
            Some(one) => one.weight = *weight,
            None => {
                let known = listed(versions.iter().map(PromptEdition::version));
                return Err(PromptBookError::UnknownVersion { name: name.to_owned(), version: version.clone(), known });
            }
        }
    }
    if versions.iter().all(|one| one.weight == 0) {
        return Err(PromptBookError::NoWeight { name: name.to_owned() });
    }
    Ok(())
}

fn listed<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let names: Vec<&str> = names.collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const FIRST: &str = "name: answer\nversion: 1\nvariables: question, mark\n--- user\n{{mark}} {{question}}\n";

    fn version(version: &str, text: &str) -> String {
        format!("name: answer\nversion: {version}\nvariables: question\n--- user\n{text} {{{{question}}}}\n")
    }

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    fn split(weights: &[(&str, u32)]) -> PromptSplit {
        let weights = weights.iter().map(|(version, weight)| ((*version).to_owned(), *weight)).collect();
        [("answer".to_owned(), weights)].into()
    }

    fn load(files: &[(&str, &str)], split: &PromptSplit) -> Result<PromptBook, PromptBookError> {
        PromptBook::load(&[FIRST], Some(folder(files).path()), split)
    }

    fn versions(book: &PromptBook) -> Vec<&str> {
        book.versions("answer").iter().map(PromptEdition::version).collect()
    }

    fn picked(book: &PromptBook, pinned: Option<&str>, unit: &str) -> Option<String> {
        book.pick("answer", pinned, unit.as_bytes()).map(|template| template.version.version.clone())
    }

    /// The error with its causes, free of the folder's name.
    fn refused(files: &[(&str, &str)], split: &PromptSplit) -> String {
        let folder = folder(files);
        let error = PromptBook::load(&[FIRST], Some(folder.path()), split).unwrap_err();
        format!("{:#}", anyhow::Error::from(error)).replace(&format!("{}/", folder.path().display()), "")
    }

    #[test]
    fn the_newest_version_is_the_default_and_all_others_stay() {
        let (second, tenth) = (version("2", "b"), version("10", "c"));

        let book = load(&[("a.txt", &tenth), ("b.txt", &second)], &PromptSplit::new()).unwrap();

        assert_eq!(versions(&book), ["1", "2", "10"]);
        assert_eq!(picked(&book, None, "s").as_deref(), Some("10"));
        for known in ["1", "2", "10"] {
            assert_eq!(picked(&book, Some(known), "s").as_deref(), Some(known));
        }
        assert_eq!(picked(&book, Some("3"), "s"), None);
        assert!(book.pick("summary", None, b"s").is_none());
        assert_eq!(book.names().collect::<Vec<_>>(), ["answer"]);
        assert_eq!(book.versions("answer")[2].share, 1.0);
    }

    #[test]
    fn a_split_gives_each_unit_one_version_and_each_version_units() {
        let second = version("2", "b");
        let book = load(&[("b.txt", &second)], &split(&[("1", 75), ("2", 25)])).unwrap();

        let units: Vec<String> = (0..400).map(|unit| format!("session-{unit}")).collect();
        let first = units.iter().filter(|unit| picked(&book, None, unit).as_deref() == Some("1")).count();

        assert!((260..340).contains(&first), "{first} of 400");
        assert!(units.iter().all(|unit| picked(&book, None, unit) == picked(&book, None, unit)));
        assert_eq!(picked(&book, Some("2"), &units[0]).as_deref(), Some("2"));
        let shares: Vec<f64> = book.versions("answer").iter().map(|one| one.share).collect();
        assert_eq!(shares, [0.75, 0.25]);
    }

    #[test]
    fn a_version_outside_the_split_can_only_be_pinned() {
        let second = version("2", "b");
        let book = load(&[("b.txt", &second)], &split(&[("1", 1)])).unwrap();

        assert!((0..50).all(|unit| picked(&book, None, &unit.to_string()).as_deref() == Some("1")));
        assert_eq!(picked(&book, Some("2"), "s").as_deref(), Some("2"));
    }

    #[test]
    fn the_same_version_twice_is_fine_with_the_same_text_only() {
        let other = FIRST.replace("{{mark}} ", "{{mark}}: ");

        assert_eq!(versions(&load(&[("a.txt", FIRST)], &PromptSplit::new()).unwrap()), ["1"]);
        assert_eq!(
            refused(&[("a.txt", &other)], &PromptSplit::new()),
            "version 1 of the prompt answer has one text in the program and another in a.txt"
        );
    }

    #[test]
    fn a_wrong_file_is_named_with_its_line() {
        let unclosed = version("2", "\n{{b");
        let unknown = version("2", "b").replace("question", "qestion");
        let latin: &[u8] = b"name: answer\nversion: 2\nvariables: caf\xe9\n";
        let broken = folder(&[]);
        fs::write(broken.path().join("x.txt"), latin).unwrap();

        assert_eq!(
            refused(&[("x.txt", &unclosed)], &PromptSplit::new()),
            "the prompt in x.txt is not valid at line 6: {{b {{question}} is not declared in the header"
        );
        assert_eq!(
            refused(&[("x.txt", &unknown)], &PromptSplit::new()),
            "the prompt in x.txt is not valid at line 3: the variable qestion has no value in this prompt; \
             those that have one are mark, question"
        );
        let error = PromptBook::load(&[FIRST], Some(broken.path()), &PromptSplit::new()).unwrap_err();
        assert!(matches!(error, PromptBookError::Invalid { line: 3, fault: PromptFault::NotUtf8, .. }), "{error:?}");
    }

    #[test]
    fn what_cannot_be_read_or_is_no_prompt_file_is_told_apart() {
        let missing = PromptBook::load(&[FIRST], Some(Path::new("/no/such/folder")), &PromptSplit::new());
        assert!(matches!(missing, Err(PromptBookError::Unreadable { .. })));
        let huge = "x".repeat(PROMPT_MAX_BYTES as usize + 1);
        assert!(refused(&[("x.txt", &huge)], &PromptSplit::new()).contains("262145 bytes"));
        #[cfg(unix)]
        {
            let folder = folder(&[]);
            std::os::unix::fs::symlink("nowhere", folder.path().join("x.txt")).unwrap();
            let dangling = PromptBook::load(&[FIRST], Some(folder.path()), &PromptSplit::new());
            assert!(matches!(dangling, Err(PromptBookError::Unreadable { .. })));
        }

        let others = folder(&[("notes.md", "#"), (".a.txt", "?")]);
        fs::create_dir(others.path().join("old.txt")).unwrap();
        let book = PromptBook::load(&[FIRST], Some(others.path()), &PromptSplit::new()).unwrap();
        assert_eq!(versions(&book), ["1"]);
    }

    #[test]
    fn a_split_that_leads_nowhere_is_refused() {
        let other: PromptSplit = [("summary".to_owned(), [("1".to_owned(), 1)].into())].into();

        assert_eq!(refused(&[], &other), "the split names the prompt \"summary\"; there are answer");
        assert_eq!(
            refused(&[], &split(&[("1", 1), ("3", 1)])),
            "the split of the prompt answer names version \"3\"; there are 1"
        );
        let weightless = "the split of the prompt answer gives every version the weight 0";
        assert_eq!(refused(&[], &split(&[("1", 0)])), weightless);
        assert_eq!(refused(&[], &split(&[])), weightless);
    }
}
