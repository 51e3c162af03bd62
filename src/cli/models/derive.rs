//! Makes the ONNX files that are derived from fetched weights.

use anyhow::Context;

use crate::inference::export::{BertConfig, WeightFile, export_bert};
use crate::inference::{Derived, ExpectedFile, ModelEntry, check_file};

use super::place::Workshop;
use super::progress::Progress;

/// Makes the derived files among `missing`. Their hashes are in the manifest: a different result is an error.
pub(super) fn derive_missing(
    entry: &ModelEntry,
    missing: &[String],
    workshop: &Workshop,
    progress: &Progress,
) -> anyhow::Result<()> {
    let wanted: Vec<&Derived> = entry.derived.iter().filter(|derived| missing.contains(&derived.file)).collect();
    let bytes = wanted.iter().map(|derived| derived.bytes).sum();
    if !wanted.is_empty() {
        progress.start(&format!("making the graphs of {}", entry.name), bytes);
    }
    for derived in wanted {
        for source in [&derived.weights, &derived.config] {
            let expected = entry.expected_files().into_iter().find(|file| file.name == source);
            let expected = expected.with_context(|| format!("the manifest does not say where {source} comes from"))?;
            check_file(&entry.name, &workshop.target.join(source), &expected)?;
        }
        let weights = WeightFile::read(&workshop.target.join(&derived.weights))?;
        let config = BertConfig::read(&workshop.target.join(&derived.config))?;
        let made = workshop.scratch.join(&derived.file);
        std::fs::write(&made, export_bert(&weights, &config, &derived.recipe)?)?;
        let expected = ExpectedFile { name: &derived.file, sha256: &derived.sha256, bytes: derived.bytes };
        workshop.install(&made, &expected)?;
        progress.advance(derived.bytes);
    }
    Ok(())
}
