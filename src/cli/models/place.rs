//! Where files are made and where they end up.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::inference::{ExpectedFile, InferenceError, ModelEntry, check_file, sha256_of};

use super::progress::Progress;

/// A directory beside the models in which files are made; gone when dropped.
pub(super) struct Workshop {
    /// Scratch space.
    pub scratch: PathBuf,
    /// Where finished files belong.
    pub target: PathBuf,
    pub model: String,
}

impl Workshop {
    /// Makes an empty workshop. The caller holds the lock, so one that is found was left by a fetch that died.
    pub fn open(entry: &ModelEntry, models_dir: &Path) -> anyhow::Result<Self> {
        // The same file system as the target: a rename across two would not be atomic.
        let scratch = models_dir.join(format!(".making-{}", entry.name));
        let target = entry.dir(models_dir);
        match std::fs::remove_dir_all(&scratch) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot empty {}", scratch.display()));
            }
            _ => {}
        }
        for dir in [&scratch, &target] {
            std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        Ok(Self { scratch, target, model: entry.name.clone() })
    }

    /// Puts a file of the scratch space in its place, if it is what the manifest says.
    pub fn install(&self, made: &Path, expected: &ExpectedFile<'_>) -> anyhow::Result<()> {
        check_file(&self.model, made, expected)?;
        let target = self.target.join(expected.name);
        let renamed =
            std::fs::File::open(made).and_then(|file| file.sync_all()).and_then(|()| std::fs::rename(made, &target));
        renamed.with_context(|| format!("cannot put {} in place", target.display()))
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        // What stays is removed by the next fetch.
        let _ = std::fs::remove_dir_all(&self.scratch);
    }
}

/// Removes files that are not what the manifest says, and returns the names of all that are missing then.
pub(super) fn drop_wrong_files(
    entry: &ModelEntry,
    models_dir: &Path,
    progress: &Progress,
) -> anyhow::Result<Vec<String>> {
    let dir = entry.dir(models_dir);
    let mut missing = Vec::new();
    for expected in entry.expected_files() {
        let path = dir.join(expected.name);
        match check_file(&entry.name, &path, &expected) {
            Ok(()) => {}
            Err(InferenceError::Missing { .. }) => missing.push(expected.name.to_owned()),
            Err(error @ InferenceError::WrongHash { .. }) => {
                progress.note(&format!("{error}; it is removed"));
                std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
                missing.push(expected.name.to_owned());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(missing)
}

/// Fails unless the file has this hash, naming it.
pub(super) fn check_wheel(path: &Path, expected: &str) -> anyhow::Result<()> {
    let found = sha256_of(path).with_context(|| format!("cannot read {}", path.display()))?;
    if found != expected {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        bail!("{name} has sha256 {found}, the manifest says {expected}; it was not used");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::Manifest;

    fn sparse_model() -> ModelEntry {
        Manifest::built_in().unwrap().named("splade-tiny-msmarco").unwrap().clone()
    }

    #[test]
    fn a_file_with_a_wrong_hash_is_named_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (progress, written) = Progress::recorded();
        let entry = sparse_model();
        let path = entry.dir(dir.path()).join("config.json");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "{}").unwrap();

        let missing = drop_wrong_files(&entry, dir.path(), &progress).unwrap();

        assert!(missing.contains(&"config.json".to_owned()));
        assert!(!path.exists());
        assert!(written.text().contains("config.json of model splade-tiny-msmarco has hash"), "{}", written.text());
    }

    #[test]
    fn a_file_that_was_made_wrong_is_not_installed() {
        let dir = tempfile::tempdir().unwrap();
        let workshop = Workshop::open(&sparse_model(), dir.path()).unwrap();
        let made = workshop.scratch.join("x");
        std::fs::write(&made, "wrong").unwrap();
        let expected = ExpectedFile { name: "x", sha256: &"0".repeat(64), bytes: 5 };

        assert!(workshop.install(&made, &expected).is_err());

        assert!(!workshop.target.join("x").exists());
        let scratch = workshop.scratch.clone();
        drop(workshop);
        assert!(!scratch.exists());
    }
}
