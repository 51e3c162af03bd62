//! The command line as people use it: against a data directory, with files good and bad.

use std::path::Path;
use std::process::{Command, Output};

use tempfile::tempdir;

use crate::process::Server;

fn plumb(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_plumb"))
        .args(arguments)
        .args(["--data-dir", "data"])
        .env("PLUMB_MODELS_DIR", dir.join("no-models"))
        .current_dir(dir)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn write(path: &Path, text: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

#[test]
fn files_that_are_refused_are_named_and_harm_no_other() {
    let dir = tempdir().unwrap();
    // A whole batch of them, so that nothing of it is taken.
    for n in 0..64 {
        write(&dir.path().join(format!("docs/a{n:02}.md")), b"");
    }
    write(&dir.path().join("docs/huge.txt"), &b"word ".repeat(7 << 20));
    write(&dir.path().join("docs/latin.txt"), b"caf\xe9");
    for n in 0..5 {
        write(&dir.path().join(format!("docs/good{n}.md")), format!("# Good\n\nThe quokka{n} sleeps.").as_bytes());
    }

    let output = plumb(dir.path(), &["ingest", "docs"]);

    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("5 accepted, 0 unchanged, 66 failed"), "{said}");
    assert!(said.contains("docs/a00.md: ") && said.contains("more"), "{said}");
    let found = plumb(dir.path(), &["search", "quokka3"]);
    assert!(String::from_utf8_lossy(&found.stdout).contains("docs/good3.md"), "{found:?}");
}

#[test]
fn files_of_one_name_in_two_folders_are_two_documents_and_a_link_is_followed_where_it_is_named() {
    let dir = tempdir().unwrap();
    write(&dir.path().join("p/README.md"), b"about apples");
    write(&dir.path().join("q/README.md"), b"about quinces");
    std::os::unix::fs::symlink("q", dir.path().join("link")).unwrap();

    let first = plumb(dir.path(), &["ingest", "p", "q"]);
    let second = plumb(dir.path(), &["ingest", "link", "p/README.md"]);

    assert!(said(&first).contains("2 accepted, 0 unchanged, 0 failed"), "{}", said(&first));
    assert!(said(&second).contains("0 accepted, 2 unchanged, 0 failed"), "{}", said(&second));
    for (word, id) in [("apples", "p/README.md"), ("quinces", "q/README.md")] {
        let found = plumb(dir.path(), &["search", word]);
        assert!(said(&found).contains(id), "{}", said(&found));
    }
}

#[test]
fn what_only_reads_makes_no_data_directory() {
    let dir = tempdir().unwrap();

    let output = plumb(dir.path(), &["search", "anything"]);

    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("there is no data directory data"), "{}", said(&output));
    assert!(!dir.path().join("data").exists());
}

fn plumb_in(data: &Path, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_plumb"))
        .args(arguments)
        .arg("--data-dir")
        .arg(data)
        .env("PLUMB_MODELS_DIR", data.join("no-models"))
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

#[tokio::test]
async fn a_backup_taken_while_serving_is_restored_and_a_damaged_index_is_built_again() {
    let dir = tempfile::tempdir().unwrap();
    let (data, back, copy) = (dir.path().join("data"), dir.path().join("back"), dir.path().join("copy.db"));
    let server = Server::start(&data);
    let lines: String =
        (0..50).map(|n| format!("{{\"id\": \"d{n}\", \"text\": \"Plate unit{n} of hall 7.\"}}\n")).collect();
    server.client().post_ndjson(lines, "?wait=indexed").await.unwrap();

    let (made, said) = plumb_in(&data, &["backup", copy.to_str().unwrap()]);
    assert!(made && said.contains("50 documents, all writes up to sequence 50"), "{said}");
    let (checked, said) = plumb_in(&data, &["check"]);
    assert!(checked && said.contains("database: ok; 50 documents") && said.contains("holds the directory"), "{said}");
    assert!(server.terminate().success());

    let (restored, said) = plumb_in(&back, &["restore", copy.to_str().unwrap()]);
    assert!(restored, "{said}");
    let (checked, said) = plumb_in(&back, &["check"]);
    assert!(checked && said.contains("ok; 50 of 50 chunks"), "{said}");

    let generation = std::fs::read_dir(data.join("index")).unwrap().next().unwrap().unwrap().path();
    let files = std::fs::read_dir(generation.join("lexical")).unwrap().map(|entry| entry.unwrap().path());
    let store = files.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "store")).unwrap();
    let mut bytes = std::fs::read(&store).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(&store, bytes).unwrap();
    let (checked, said) = plumb_in(&data, &["check"]);
    assert!(checked && said.contains("was damaged, built again; 50 of 50 chunks"), "{said}");
    let (checked, said) = plumb_in(&data, &["check"]);
    assert!(checked && said.contains(": ok; 50 of 50 chunks"), "{said}");
}

#[test]
fn what_is_wrong_with_a_command_about_tasks_is_said_before_anything_is_made() {
    let dir = tempdir().unwrap();
    let refused = [
        (vec!["tasks", "list"], "there is no data directory data"),
        (vec!["tasks", "submit", "--kind", "map", "--input", "{"], "--input is not JSON"),
        (vec!["tasks", "submit", "--kind", "map", "--input-file", "nowhere.json"], "cannot read nowhere.json"),
        (vec!["tasks", "submit", "--kind", "map"], "required"),
        (vec!["tasks", "submit", "--kind", "map", "--input", "1", "-"], "cannot be used with"),
    ];

    for (arguments, expected) in refused {
        let output = plumb(dir.path(), &arguments);
        assert!(!output.status.success(), "{arguments:?}");
        assert!(said(&output).contains(expected), "{arguments:?}: {}", said(&output));
    }
    assert!(!dir.path().join("data").exists());
}

#[test]
fn tasks_are_asked_for_and_looked_up_in_a_data_directory() {
    let dir = tempdir().unwrap();

    let unknown = plumb(dir.path(), &["tasks", "submit", "--kind", "no-such-kind", "--input", "{}"]);

    assert_eq!(unknown.status.code(), Some(1));
    assert!(said(&unknown).contains("/kind there is no kind of task \"no-such-kind\""), "{}", said(&unknown));
    let listed = plumb(dir.path(), &["tasks", "list"]);
    assert_eq!(String::from_utf8_lossy(&listed.stdout), "no tasks\n", "{listed:?}");
    let json = plumb(dir.path(), &["tasks", "list", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["tasks"], serde_json::json!([]));
    for (id, expected) in [("abc", "no id of a task"), ("0a0b0c", "there is no task tsk_0a0b0c…")] {
        let shown = plumb(dir.path(), &["tasks", "show", id]);
        assert!(!shown.status.success() && said(&shown).contains(expected), "{}", said(&shown));
    }
    let watched = plumb(dir.path(), &["tasks", "watch"]);
    assert_eq!(watched.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&watched.stdout), "every task has ended\n");
}
