//! The fetched files: where they lie, and that they are what the manifest says.
//!
//! No byte reaches a parser, the runtime or the loader of shared libraries before its hash was checked.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::bundled::bundled;
use super::manifest::{Bundled, ExpectedFile, ModelEntry, Precision, Role};
use super::{InferenceError, Manifest};

/// Bytes hashed at a time.
const BLOCK_BYTES: usize = 1 << 20;
/// What to say when a fetched file is not there.
const FETCH_HINT: &str = "run `plumb models fetch`";

/// The directory of models when no setting names one: `$XDG_CACHE_HOME/plumb/models`, or `~/.cache/plumb/models`.
/// The two places are arguments because only the configuration reads the environment.
pub fn default_models_dir(xdg_cache_home: Option<&Path>, home: Option<&Path>) -> Option<PathBuf> {
    let cache = xdg_cache_home.filter(|path| path.is_absolute()).map(Path::to_path_buf);
    cache.or_else(|| Some(home?.join(".cache"))).map(|cache| cache.join("plumb/models"))
}

/// Hexadecimal SHA-256 of a file. Blocks; about 1.5 GB a second.
pub fn sha256_of(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        match file.read(&mut block)? {
            0 => return Ok(hex(&hasher.finalize())),
            read => hasher.update(&block[..read]),
        }
    }
}

/// Checks a file's size and hash against the manifest. Blocks.
pub fn check_file(model: &str, path: &Path, expected: &ExpectedFile<'_>) -> Result<(), InferenceError> {
    let io = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => missing(model, path),
        _ => InferenceError::Io { path: path.display().to_string(), source },
    };
    let found = sha256_of(path).map_err(io)?;
    if found == expected.sha256 { Ok(()) } else { Err(wrong_hash(model, expected, found)) }
}

/// A model's graph or tokenizer, with the bytes already checked.
pub(super) struct CheckedFile {
    pub bytes: Cow<'static, [u8]>,
    /// SHA-256 in hexadecimal digits.
    pub sha256: String,
}

/// The files of one model for one precision.
pub(super) struct ModelFiles {
    pub onnx: CheckedFile,
    pub tokenizer: CheckedFile,
    /// `int8`, `fp32`, or `local` for the user's own graph.
    pub variant: &'static str,
}

/// Reads and checks the graph and tokenizer of a model. Blocks.
pub(super) fn read_model(
    entry: &ModelEntry,
    models_dir: &Path,
    precision: Precision,
) -> Result<ModelFiles, InferenceError> {
    if let Some(local) = &entry.local {
        let read = |path: &Option<PathBuf>| match path {
            Some(path) => read_unpinned(&entry.name, path),
            None => Err(unusable(entry, "its local files are not named")),
        };
        let (onnx, tokenizer) = (read(&local.onnx)?, read(&local.tokenizer)?);
        return Ok(ModelFiles { onnx, tokenizer, variant: "local" });
    }
    // What ships inside the program comes in one precision; it runs in that whatever the others run in.
    let only = entry.onnx.iter().next().filter(|_| entry.is_bundled() && entry.onnx.len() == 1);
    let (precision, onnx) = entry
        .onnx
        .get_key_value(&precision)
        .or(only)
        .ok_or_else(|| unusable(entry, &format!("it has no {} graph", precision.as_str())))?;
    let tokenizer = entry.tokenizer.as_ref().ok_or_else(|| unusable(entry, "it has no tokenizer"))?;
    Ok(ModelFiles {
        onnx: read_pinned(entry, models_dir, onnx)?,
        tokenizer: read_pinned(entry, models_dir, tokenizer)?,
        variant: precision.as_str(),
    })
}

/// Reads a file of a package, or takes one that lies inside the program, and checks it. Blocks.
pub(super) fn read_pinned(entry: &ModelEntry, models_dir: &Path, file: &str) -> Result<CheckedFile, InferenceError> {
    if let Some(expected) = entry.bundled.iter().find(|bundled| bundled.file == file) {
        return read_bundled(entry, expected);
    }
    let expected = entry.expected_files().into_iter().find(|expected| expected.name == file);
    let expected =
        expected.ok_or_else(|| unusable(entry, &format!("the manifest does not say where {file} comes from")))?;
    let read = read_unpinned(&entry.name, &entry.dir(models_dir).join(file))?;
    if read.sha256 == expected.sha256 { Ok(read) } else { Err(wrong_hash(&entry.name, &expected, read.sha256)) }
}

fn read_bundled(entry: &ModelEntry, expected: &Bundled) -> Result<CheckedFile, InferenceError> {
    let bytes = bundled(&entry.name, &expected.file);
    let bytes =
        bytes.ok_or_else(|| unusable(entry, &format!("no {} of it lies inside this program", expected.file)))?;
    let sha256 = hex(&Sha256::digest(bytes));
    let wanted = ExpectedFile { name: &expected.file, sha256: &expected.sha256, bytes: expected.bytes };
    if sha256 != expected.sha256 {
        return Err(wrong_hash(&entry.name, &wanted, sha256));
    }
    Ok(CheckedFile { bytes: Cow::Borrowed(bytes), sha256 })
}

/// The runtime's library, checked. Blocks.
pub(super) fn runtime_library(manifest: &Manifest, models_dir: &Path) -> Result<PathBuf, InferenceError> {
    let entry = manifest.models().find(|entry| entry.role == Role::Runtime);
    let absent = |detail: &str| InferenceError::Missing { model: "onnxruntime".to_owned(), detail: detail.to_owned() };
    let entry = entry.ok_or_else(|| absent("no manifest names a runtime"))?;
    if let Some(library) = entry.local.as_ref().and_then(|local| local.library.as_ref()) {
        return if library.is_file() { Ok(library.clone()) } else { Err(missing(&entry.name, library)) };
    }
    let library = entry.expected_files().into_iter().find(|file| file.name.starts_with("libonnxruntime"));
    let Some(library) = library else {
        return Err(absent(&no_runtime_hint(entry)));
    };
    let path = entry.dir(models_dir).join(library.name);
    check_file(&entry.name, &path, &library)?;
    Ok(path)
}

/// What to do on a machine for which the manifest has no runtime.
pub fn no_runtime_hint(entry: &ModelEntry) -> String {
    format!(
        "the manifest has no {} for {} on {}: install ONNX Runtime 1.24 or newer and name its library in a manifest \
         of your own (setting `models.manifest`): [[model]] name = \"{}\", role = \"runtime\", revision = \"local\", \
         licence = \"MIT\", local = {{ library = \"/path/to/libonnxruntime\" }}",
        entry.name,
        std::env::consts::OS,
        std::env::consts::ARCH,
        entry.name,
    )
}

fn read_unpinned(model: &str, path: &Path) -> Result<CheckedFile, InferenceError> {
    let bytes = std::fs::read(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => missing(model, path),
        _ => InferenceError::Io { path: path.display().to_string(), source },
    })?;
    let sha256 = hex(&Sha256::digest(&bytes));
    Ok(CheckedFile { bytes: Cow::Owned(bytes), sha256 })
}

fn missing(model: &str, path: &Path) -> InferenceError {
    // Whoever asks the server how it is sees this: the name says enough, the place is in the log.
    tracing::debug!(model, path = %path.display(), "a file of a model is missing");
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    InferenceError::Missing { model: model.to_owned(), detail: format!("its {file} is missing; {FETCH_HINT}") }
}

fn wrong_hash(model: &str, expected: &ExpectedFile<'_>, found: String) -> InferenceError {
    InferenceError::WrongHash {
        model: model.to_owned(),
        file: expected.name.to_owned(),
        found,
        expected: expected.sha256.to_owned(),
    }
}

fn unusable(entry: &ModelEntry, detail: &str) -> InferenceError {
    InferenceError::Unusable { model: entry.name.clone(), detail: detail.to_owned() }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_that_of_the_standard() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "abc").unwrap();

        // FIPS 180-2, appendix B.1.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256_of(file.path()).unwrap(), expected);
    }

    #[test]
    fn a_changed_or_absent_file_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.onnx");
        let expected = ExpectedFile { name: "model.onnx", sha256: &"0".repeat(64), bytes: 1 };
        assert!(matches!(check_file("m", &path, &expected), Err(InferenceError::Missing { .. })));

        std::fs::write(&path, "x").unwrap();
        let refused = check_file("m", &path, &expected).unwrap_err();

        assert!(matches!(&refused, InferenceError::WrongHash { file, .. } if file == "model.onnx"), "{refused}");
    }

    #[test]
    fn the_cache_directory_of_the_user_is_the_default() {
        let dir = |xdg: Option<&str>, home: Option<&str>| default_models_dir(xdg.map(Path::new), home.map(Path::new));

        assert_eq!(dir(Some("/x"), Some("/h")), Some("/x/plumb/models".into()));
        assert_eq!(dir(Some("relative"), Some("/h")), Some("/h/.cache/plumb/models".into()));
        assert_eq!(dir(None, Some("/h")), Some("/h/.cache/plumb/models".into()));
        assert_eq!(dir(None, None), None);
    }
}
