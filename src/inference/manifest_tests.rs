//! What a manifest may say, and how its mistakes are told.

use std::path::Path;

use super::InferenceError;
use super::manifest::*;

fn user_manifest(text: &str) -> Result<Manifest, InferenceError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mine.toml");
    std::fs::write(&path, text).unwrap();
    Manifest::with_user_file(&path)
}

#[test]
fn the_manifest_that_ships_is_valid_and_names_every_hash() {
    let manifest = Manifest::built_in().unwrap();

    for entry in manifest.models() {
        let files = entry.package.iter().flat_map(|package| &package.files).map(|file| &file.sha256);
        let wheels = entry.package.iter().map(|package| &package.wheel_sha256);
        let bundled = entry.bundled.iter().map(|file| &file.sha256);
        for hash in files.chain(wheels).chain(bundled).chain(entry.derived.iter().map(|file| &file.sha256)) {
            assert!(hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()), "{}: {hash}", entry.name);
        }
        let fetched = entry.expected_files().into_iter().map(|file| file.name.to_owned());
        let known: Vec<_> = fetched.chain(entry.bundled.iter().map(|file| file.file.clone())).collect();
        for file in entry.onnx.values().chain(&entry.tokenizer) {
            assert!(known.contains(file), "{}: {file} is in no package and not derived", entry.name);
        }
    }
}

#[test]
fn a_users_model_lies_beside_its_manifest_and_wins_by_name() {
    let manifest = user_manifest(
        r#"
        format = 1
        [[model]]
        name = "all-minilm-l6-v2"
        role = "embedder"
        revision = "mine"
        licence = "MIT"
        max_tokens = 512
        local = { onnx = "m/model.onnx", tokenizer = "/abs/tokenizer.json" }
        embedder = { dimensions = 8, pooling = "cls", normalize = true, query_prefix = "query: " }
        "#,
    )
    .unwrap();

    let mine = manifest.model("all-minilm-l6-v2", Role::Embedder).unwrap();

    assert_eq!(mine.revision, "mine");
    let local = mine.local.as_ref().unwrap();
    assert!(local.onnx.as_ref().unwrap().is_absolute() && local.onnx.as_ref().unwrap().ends_with("m/model.onnx"));
    assert_eq!(local.tokenizer.as_deref(), Some(Path::new("/abs/tokenizer.json")));
    assert!(manifest.models().any(|entry| entry.role == Role::Runtime), "the shipped ones are still there");
}

#[test]
fn mistakes_are_told_by_name() {
    let entry =
        |body: &str| format!("format = 1\n[[model]]\nname = \"x\"\nrevision = \"1\"\nlicence = \"MIT\"\n{body}");
    let local = "local = { onnx = \"a\", tokenizer = \"b\" }\n";
    let facts = "embedder = { dimensions = 8, pooling = \"cls\", normalize = true }";
    for (body, told) in [
        (format!("role = \"embedder\"\nmax_tokens = 4\n{local}"), "`embedder` is missing"),
        (format!("role = \"reranker\"\n{local}reranker = {{ head = \"one\" }}"), "`max_tokens` is missing"),
        (
            "role = \"reranker\"\nmax_tokens = 4\nreranker = { head = \"one\" }".to_owned(),
            "neither `package` nor `local`",
        ),
        (
            format!("role = \"embedder\"\nmax_tokens = 4\nlanguages = [\"eng\"]\n{local}{facts}"),
            "`languages` is for rerankers",
        ),
        (
            format!("role = \"reranker\"\nmax_tokens = 4\n{local}reranker = {{ head = \"one\", reads = 0 }}"),
            "at least 1",
        ),
        ("role = \"runtime\"\nlocal = { onnx = \"a\" }".to_owned(), "needs `library`"),
        ("role = \"runtime\"\nflavour = 1".to_owned(), "flavour"),
    ] {
        let error = user_manifest(&entry(&body)).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
    let error = user_manifest("format = 2").unwrap_err().to_string();
    assert!(error.contains("format 2"), "{error}");
}

#[test]
fn names_cannot_leave_the_models_directory() {
    let text = "format = 1\n[[model]]\nname = \"..\"\nrole = \"runtime\"\nrevision = \"1\"\nlicence = \"MIT\"\nlocal = { library = \"a\" }";

    assert!(user_manifest(text).is_err());
}
