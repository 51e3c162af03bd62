//! `plumb models list` and `plumb models verify`.

use std::io::Write;
use std::path::Path;

use anyhow::Context;

use crate::inference::{InferenceError, ModelEntry, Models, check_file};

use super::progress::megabytes;

/// Writes a table: name, role, revision, licence, state, size. Looks at names and sizes only.
pub fn list(models: &Models, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut rows = vec![["NAME", "ROLE", "REVISION", "LICENCE", "STATE", "SIZE"].map(str::to_owned)];
    for entry in models.manifest().models() {
        let (state, bytes) = glance(entry, models.dir());
        let role = serde_json::to_value(entry.role)?.as_str().unwrap_or_default().to_owned();
        let size = if bytes == 0 { "-".to_owned() } else { megabytes(bytes) };
        rows.push([entry.name.clone(), role, entry.revision.clone(), entry.licence.clone(), state, size]);
    }
    let widths: [usize; 6] = std::array::from_fn(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0));
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    writeln!(out, "in {}", models.dir().display()).context("cannot write the table")
}

/// Hashes every file of every model and writes a line for each; true if all are there and right. Blocks.
pub fn verify(models: &Models, out: &mut dyn Write) -> anyhow::Result<bool> {
    let mut all_right = true;
    for entry in models.manifest().models() {
        for expected in entry.expected_files() {
            let path = entry.dir(models.dir()).join(expected.name);
            let told = match check_file(&entry.name, &path, &expected) {
                Ok(()) => "ok".to_owned(),
                Err(error) => {
                    all_right = false;
                    error.to_string()
                }
            };
            writeln!(out, "{}/{}: {told}", entry.name, expected.name)?;
        }
        let local = entry.local.iter().flat_map(|local| [&local.onnx, &local.tokenizer, &local.library]).flatten();
        for path in local {
            // The user's own files have no hash to hold them to.
            let told = if path.is_file() { "there" } else { "missing" };
            all_right &= path.is_file();
            writeln!(out, "{}: {} is {told}", entry.name, path.display())?;
        }
        if entry.is_bundled() {
            writeln!(out, "{}: inside the program, checked when it is loaded", entry.name)?;
        } else if entry.local.is_none() && entry.package_here().is_none() {
            let detail = "the manifest has no package for this machine".to_owned();
            writeln!(out, "{}", InferenceError::Missing { model: entry.name.clone(), detail })?;
            all_right = false;
        }
    }
    Ok(all_right)
}

fn glance(entry: &ModelEntry, models_dir: &Path) -> (String, u64) {
    let size = |path: &Path| path.metadata().map_or(0, |metadata| metadata.len());
    if let Some(local) = &entry.local {
        let paths = [&local.onnx, &local.tokenizer, &local.library];
        let missing = paths.into_iter().flatten().any(|path| !path.is_file());
        let state = if missing { "local, missing" } else { "local" };
        return (state.to_owned(), paths.into_iter().flatten().map(|path| size(path)).sum());
    }
    if entry.is_bundled() {
        return ("built in".to_owned(), entry.bundled.iter().map(|file| file.bytes).sum());
    }
    if entry.package_here().is_none() {
        return ("not for this machine".to_owned(), 0);
    }
    let files = entry.expected_files();
    let dir = entry.dir(models_dir);
    let there = files.iter().filter(|file| size(&dir.join(file.name)) == file.bytes).count();
    let state = match there {
        0 => "not fetched",
        _ if there == files.len() => "present",
        _ => "incomplete",
    };
    (state.to_owned(), files.iter().map(|file| size(&dir.join(file.name))).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::ModelsSettings;

    fn models(dir: &Path) -> Models {
        Models::open(&ModelsSettings::default(), dir).unwrap()
    }

    fn written(write: impl FnOnce(&mut dyn Write)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_list_names_every_model_with_its_state() {
        let dir = tempfile::tempdir().unwrap();
        let models = models(dir.path());
        let entry = models.manifest().named("splade-tiny-msmarco").unwrap();
        std::fs::create_dir_all(entry.dir(dir.path())).unwrap();
        let config = entry.expected_files().into_iter().find(|file| file.name == "config.json").unwrap();
        std::fs::write(entry.dir(dir.path()).join("config.json"), vec![0; config.bytes as usize]).unwrap();

        let table = written(|out| list(&models, out).unwrap());

        let line = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        assert!(line("splade-tiny-msmarco").contains("incomplete"), "{table}");
        assert!(line("all-minilm-l6-v2").contains("not fetched"), "{table}");
    }

    #[test]
    fn verify_names_what_is_wrong_and_says_no() {
        let dir = tempfile::tempdir().unwrap();
        let models = models(dir.path());
        let entry = models.manifest().named("splade-tiny-msmarco").unwrap();
        std::fs::create_dir_all(entry.dir(dir.path())).unwrap();
        std::fs::write(entry.dir(dir.path()).join("config.json"), "{}").unwrap();
        let mut right = true;

        let told = written(|out| right = verify(&models, out).unwrap());

        assert!(!right);
        assert!(told.contains("splade-tiny-msmarco/config.json: config.json of model"), "{told}");
        assert!(
            told.contains("splade-tiny-msmarco/tokenizer.json: model splade-tiny-msmarco is not at hand"),
            "{told}"
        );
        let kept = entry.dir(dir.path()).join("config.json");
        assert!(kept.exists(), "verify changes nothing");
    }
}
