//! The house rules as a test: who imports whom, how long a file may be, which paths the map names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Longest file without its tests, in lines.
const FILE_MAX_LINES: usize = 500;

/// What each room may import beside itself. A room without a row fails the test.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("text", &["domain"]),
    ("parse", &["domain", "text"]),
    ("store", &["domain"]),
    ("cache", &["domain"]),
    ("index", &["domain"]),
    ("inference", &["domain", "cache"]),
    ("gateway", &["domain", "store", "cache"]),
    ("tasks", &["domain", "store"]),
    ("ingest", &["domain", "text", "parse", "store", "index", "inference"]),
    ("search", &["domain", "store", "index", "inference"]),
    ("answer", &["domain", "text", "search", "gateway", "inference"]),
    ("eval", &["domain", "store", "gateway", "ingest", "search", "answer"]),
    // What a kind of work does is said by other rooms; it only strings their calls together.
    ("jobs", &["domain", "text", "store", "tasks", "ingest", "search", "answer", "gateway", "eval", "inference"]),
    // The wire hands documents to `ingest` itself, unless the caller wants a task for them.
    ("http", &["domain", "store", "search", "answer", "gateway", "tasks", "jobs", "eval", "ingest", "telemetry"]),
    ("telemetry", &["domain"]),
];

/// Files that put the rooms together and may import all of them.
const MAY_IMPORT_ALL: &[&str] = &["app", "config", "cli", "lib", "main"];

/// Words that belong to one room alone; everywhere else they are a leak.
const LIBRARIES: &[(&str, &[&str])] = &[
    ("tantivy", &["index"]),
    ("usearch", &["index"]),
    ("hnsw_rs", &["index"]),
    ("sqlx", &["store"]),
    ("sled", &["cache"]),
    ("ort", &["inference"]),
    ("tokenizers", &["inference"]),
    ("axum", &["http"]),
    ("reqwest", &["gateway", "cli", "telemetry"]),
];

struct SourceFile {
    path: PathBuf,
    room: String,
    text: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn sources() -> Vec<SourceFile> {
    let src = root().join("src");
    let mut paths = Vec::new();
    rust_files(&src, &mut paths);
    paths.sort();
    let read = |path: PathBuf| {
        let inside = path.strip_prefix(&src).unwrap();
        let first = inside.iter().next().unwrap().to_str().unwrap();
        let room = first.trim_end_matches(".rs").to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        SourceFile { path, room, text }
    };
    paths.into_iter().filter(|path| !is_test(path)).map(read).collect()
}

/// Files that only tests are made of: whole, they are what the other files have below their first test module.
fn is_test(path: &Path) -> bool {
    let is_test_name = |name: &str| name == "tests" || name == "conformance" || name.ends_with("_tests");
    path.iter().filter_map(|part| part.to_str()).any(|part| is_test_name(part.trim_end_matches(".rs")))
}

/// True if `library::` stands in `code` as a path of its own, not as the end of a longer name or path.
fn names(code: &str, library: &str) -> bool {
    let path = format!("{library}::");
    let starts_here = |(at, _): (usize, &str)| {
        !code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == ':')
    };
    code.match_indices(&path).any(starts_here)
}

/// The code without its line comments and without what follows the first test module.
fn code(text: &str) -> String {
    let own = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or(text);
    own.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Rooms named after `crate::`, also inside `use crate::{a, b::c}`.
fn imported_rooms(code: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(group) => rooms.extend(first_names(group)),
            None => rooms.extend(first_name(rest)),
        }
    }
    rooms
}

fn first_name(path: &str) -> Option<String> {
    let name: String = path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!name.is_empty()).then_some(name)
}

fn first_names(group: &str) -> Vec<String> {
    let (mut depth, mut names, mut at_start) = (0, Vec::new(), true);
    for (index, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_start = true,
            _ if at_start && !letter.is_whitespace() => {
                names.extend(first_name(&group[index..]));
                at_start = false;
            }
            _ => {}
        }
    }
    names
}

#[test]
fn a_room_imports_only_what_the_table_allows() {
    let table: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    let rooms: BTreeSet<String> = sources().into_iter().map(|file| file.room).collect();
    let mut wrong = Vec::new();

    for file in sources() {
        if MAY_IMPORT_ALL.contains(&file.room.as_str()) {
            continue;
        }
        let Some(allowed) = table.get(file.room.as_str()) else {
            wrong.push(format!("{} has no row in the import table", file.path.display()));
            continue;
        };
        for target in imported_rooms(&code(&file.text)) {
            let is_room = rooms.contains(&target);
            if is_room && target != file.room && !allowed.contains(&target.as_str()) {
                wrong.push(format!("{}: {} may not import {target}", file.path.display(), file.room));
            }
        }
    }

    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_librarys_words_stay_in_the_room_that_wraps_it() {
    let mut leaks = Vec::new();
    for file in sources() {
        let code = code(&file.text);
        for (library, rooms) in LIBRARIES {
            if names(&code, library) && !rooms.contains(&file.room.as_str()) && file.room != "main" {
                leaks.push(format!("{} names {library}", file.path.display()));
            }
        }
    }

    assert!(leaks.is_empty(), "{}", leaks.join("\n"));
}

/// Words that name a model server, or the key to one.
const PROVIDER_WORDS: [&str; 5] = ["openai", "anthropic", "ollama", "x-api-key", "chat/completions"];

#[test]
fn only_the_gateway_names_a_provider_a_key_or_a_model_host() {
    let mut leaks = Vec::new();
    for file in sources() {
        // The one place outside that chooses a provider by its kind.
        let may = file.room == "gateway" || file.path.ends_with("src/app/gateway.rs");
        let code = code(&file.text).to_lowercase();
        let named = PROVIDER_WORDS.iter().filter(|word| !may && code.contains(**word));
        leaks.extend(named.map(|word| format!("{} names {word}", file.path.display())));
    }

    assert!(leaks.is_empty(), "{}", leaks.join("\n"));
}

#[test]
fn files_stay_short_enough_to_be_read() {
    let too_long: Vec<String> = sources()
        .iter()
        .map(|file| (file, file.text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or("").lines().count()))
        .filter(|(_, lines)| *lines > FILE_MAX_LINES)
        .map(|(file, lines)| format!("{}: {lines} lines", file.path.display()))
        .collect();

    assert!(too_long.is_empty(), "over {FILE_MAX_LINES} lines without tests:\n{}", too_long.join("\n"));
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent: Vec<String> = sources()
        .iter()
        .filter(|file| !file.text.starts_with("//!"))
        .map(|file| file.path.display().to_string())
        .collect();

    assert!(silent.is_empty(), "without a header:\n{}", silent.join("\n"));
}

#[test]
fn a_door_plate_has_no_code() {
    let allowed = ["mod ", "pub mod ", "pub use ", "use ", "#[", "//", "}", "pub(super) ", "pub(crate) "];
    for file in sources().iter().filter(|file| file.path.ends_with("mod.rs") && file.text.contains("//!")) {
        for line in file.text.lines().filter(|line| !line.starts_with(' ') && !line.is_empty()) {
            assert!(
                allowed.iter().any(|start| line.starts_with(start)),
                "{} has more on its door plate than names: {line}",
                file.path.display()
            );
        }
    }
}

#[test]
fn only_config_reads_the_environment() {
    for file in sources().iter().filter(|file| file.room != "config") {
        let code = code(&file.text);
        for call in ["env::var(", "env::var_os(", "env::vars("] {
            assert!(!code.contains(call), "{} reads the environment", file.path.display());
        }
    }
}

#[test]
fn every_path_that_the_map_names_exists() {
    let map = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let quoted = map.split('`').skip(1).step_by(2);
    let paths: Vec<&str> = quoted.filter(|text| is_path(text)).collect();
    let missing: Vec<&&str> = paths.iter().filter(|path| !root().join(path).exists()).collect();

    assert!(paths.len() > 20, "the map names only {} paths", paths.len());
    assert!(missing.is_empty(), "ARCHITECTURE.md names paths that do not exist: {missing:?}");
}

fn is_path(text: &str) -> bool {
    let starts = ["src/", "tests/", "evals/", "benches/", "models/", "corpora/", "migrations/", ".ci/"];
    starts.iter().any(|start| text.starts_with(start)) && !text.contains(['<', '*', ' '])
}
