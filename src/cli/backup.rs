//! `plumb backup`, `plumb restore` and `plumb check`: the truth copied, brought back, and verified.

use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;

use crate::app::{AppError, IndexCheck, check_indexes};
use crate::config::Config;
use crate::store::{self, BackupReport, DataDirectory, TruthReport};

use super::output::say;

/// Copies the database; a server may be writing to it.
pub async fn backup(data_dir: &Path, to: &Path) -> anyhow::Result<()> {
    let report = store::back_up(&database(data_dir)?, to).await?;
    say(&format!("{}\n", told(to, &report)))
}

/// Puts a backup into a data directory without a database.
pub async fn restore(data_dir: &Path, from: &Path) -> anyhow::Result<()> {
    let directory = DataDirectory::open(data_dir)?;
    let report = store::restore(from, &directory).await?;
    say(&format!(
        "{}\nrestored into {}; its indexes are built at the next start\n",
        told(from, &report),
        data_dir.display()
    ))
}

fn told(file: &Path, report: &BackupReport) -> String {
    format!(
        "{}: {} documents, all writes up to sequence {}, {:.1} MiB, BLAKE3 {}",
        file.display(),
        report.documents,
        report.sequence,
        report.bytes as f64 / f64::from(1 << 20),
        report.checksum
    )
}

/// Verifies everything; success if all is well or has been built again.
pub async fn check(config: Config) -> anyhow::Result<ExitCode> {
    let truth = store::check_truth(&database(&config.server.data_dir)?).await?;
    say(&truth_text(&truth))?;
    if !truth.findings.is_empty() {
        say("the database is damaged: stop writing to it and restore a backup; indexes were not looked at\n")?;
        return Ok(ExitCode::FAILURE);
    }
    match check_indexes(config).await {
        Ok(checks) => {
            checks.iter().try_for_each(|check| say(&index_text(check)))?;
            let is_whole = checks.iter().all(IndexCheck::is_whole);
            Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Err(AppError::InUse { holder, .. }) => {
            say(&format!(
                "indexes: not looked at, {holder} holds the directory and verifies them itself at its start\n"
            ))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Err(error.into()),
    }
}

fn database(data_dir: &Path) -> anyhow::Result<std::path::PathBuf> {
    let database = DataDirectory::database_in(data_dir);
    if !database.is_file() {
        bail!("there is no database in {}; name another data directory", data_dir.display());
    }
    Ok(database)
}

fn truth_text(report: &TruthReport) -> String {
    let TruthReport { documents, versions, chunks, embeddings, findings } = report;
    let verdict = if findings.is_empty() { "ok" } else { "DAMAGED" };
    let mut text = format!(
        "database: {verdict}; {documents} documents in {versions} versions, {chunks} chunks each found at its place in \
         its text, {embeddings} embeddings\n"
    );
    findings.iter().for_each(|finding| text.push_str(&format!("  {finding}\n")));
    text
}

fn index_text(check: &IndexCheck) -> String {
    let state = match (check.is_whole(), check.damaged.is_empty()) {
        (true, true) => "ok",
        (true, false) => "was damaged, built again",
        (false, _) => "NOT WHOLE",
    };
    let mut text = format!(
        "index of {}/{} ({}): {state}; {} of {} chunks",
        check.tenant, check.collection, check.generation, check.chunks.0, check.chunks.1
    );
    if let Some((seen, held)) = check.vectors {
        text.push_str(&format!(", {seen} of {held} vectors"));
    }
    text.push('\n');
    check.damaged.iter().for_each(|damage| text.push_str(&format!("  {damage}\n")));
    text
}
