//! The command line as people use it: against a data directory, with files good and bad.

use std::path::Path;
use std::process::{Command, Output};

use tempfile::tempdir;

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
