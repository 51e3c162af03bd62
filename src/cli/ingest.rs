//! `plumb ingest`: walks files and folders and sends what can be read.
//!
//! Resumable without a journal: a file's id is its path below the working directory (elsewhere its whole path), and the
//! server recognises content it already has.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::door::{Door, problem};

/// Files are sent together up to this many …
const BATCH_FILES: usize = 64;
/// … or this many bytes.
const BATCH_BYTES: u64 = 8 << 20;
/// Problems that are printed one by one; the rest are counted.
const PROBLEMS_SHOWN: usize = 20;

/// What became of the files.
#[derive(Debug, Default)]
pub struct Tally {
    pub accepted: u64,
    pub unchanged: u64,
    pub failed: u64,
    pub problems: Vec<String>,
    pub skipped: BTreeMap<String, u64>,
    pub last_sequence: u64,
}

/// A file that can be read, with the id it gets.
#[derive(Debug)]
struct Found {
    path: PathBuf,
    id: String,
    media_type: &'static str,
    bytes: u64,
}

/// The media type of a file by its ending; `None` if plumb cannot read such files.
pub fn media_type_of(path: &Path) -> Option<&'static str> {
    let ending = path.extension()?.to_str()?.to_ascii_lowercase();
    Some(match ending.as_str() {
        "md" | "markdown" => "text/markdown",
        "html" | "htm" | "xhtml" => "text/html",
        "json" => "application/json",
        "txt" | "text" | "log" | "rst" | "adoc" | "csv" | "tsv" => "text/plain",
        _ => return None,
    })
}

/// Sends everything under `paths` into `collection`, with ids relative to `base`, and waits until it is searchable.
pub async fn ingest(door: &Door, paths: &[PathBuf], base: &Path, collection: &str) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    let base = std::fs::canonicalize(base).with_context(|| format!("cannot read {}", base.display()))?;
    let mut found = Vec::new();
    for path in paths {
        // What is named on the command line is meant, also through a link.
        let path = std::fs::canonicalize(path).with_context(|| format!("cannot read {}", path.display()))?;
        walk(&base, &path, &mut found, &mut tally)?;
    }
    found.sort_by(|a, b| a.id.cmp(&b.id));
    found.dedup_by(|a, b| a.path == b.path);
    let progress = progress_bar(found.iter().map(|file| file.bytes).sum());
    let mut last_accepted = None;
    for batch in batches(&found) {
        if let Some(accepted) = send(door, batch, collection, &mut tally).await? {
            last_accepted = Some(accepted);
        }
        progress.inc(batch.iter().map(|file| file.bytes).sum());
        progress.set_message(format!("{} new, {} unchanged", tally.accepted, tally.unchanged));
    }
    progress.finish_and_clear();
    if let Some(last) = last_accepted.and_then(|file| read(file, collection).ok()) {
        // It is there already, so this only waits for the index; whoever searches next finds everything.
        door.post_any("/documents?wait=indexed", &json!({ "documents": [last] })).await?;
    }
    Ok(tally)
}

/// The outcome in words, one line or more.
pub fn summary(tally: &Tally) -> String {
    let mut text = format!("{} accepted, {} unchanged, {} failed\n", tally.accepted, tally.unchanged, tally.failed);
    for problem in tally.problems.iter().take(PROBLEMS_SHOWN) {
        text.push_str(&format!("  {problem}\n"));
    }
    let more = tally.problems.len().saturating_sub(PROBLEMS_SHOWN);
    if more > 0 {
        text.push_str(&format!("  and {more} more\n"));
    }
    for (ending, count) in &tally.skipped {
        text.push_str(&format!("  skipped {count} {ending}: plumb reads .md .html .json .txt .csv and the like\n"));
    }
    text
}

fn walk(base: &Path, path: &Path, found: &mut Vec<Found>, tally: &mut Tally) -> anyhow::Result<()> {
    let metadata = std::fs::symlink_metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))? {
            let entry = entry?;
            // Hidden files are a tool's own.
            if !entry.file_name().to_string_lossy().starts_with('.') {
                walk(base, &entry.path(), found, tally)?;
            }
        }
        return Ok(());
    }
    if !metadata.is_file() {
        // They may lead in circles, out of the folder, or to a pipe that never ends.
        *tally.skipped.entry("links and special files".to_owned()).or_default() += 1;
        return Ok(());
    }
    match media_type_of(path) {
        Some(media_type) => {
            found.push(Found { path: path.to_owned(), id: id_of(base, path), media_type, bytes: metadata.len() });
        }
        None => {
            let ending = path.extension().map_or_else(
                || "files without an ending".to_owned(),
                |ending| format!("files ending in .{}", ending.to_string_lossy()),
            );
            *tally.skipped.entry(ending).or_default() += 1;
        }
    }
    Ok(())
}

fn id_of(base: &Path, path: &Path) -> String {
    let id = path.strip_prefix(base).unwrap_or(path).to_string_lossy().replace('\\', "/");
    id.trim_start_matches('/').to_owned()
}

fn batches(found: &[Found]) -> Vec<&[Found]> {
    let (mut batches, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (index, file) in found.iter().enumerate() {
        let is_full = index - start == BATCH_FILES || bytes + file.bytes > BATCH_BYTES;
        if is_full && index > start {
            batches.push(&found[start..index]);
            (start, bytes) = (index, 0);
        }
        bytes += file.bytes;
    }
    if start < found.len() {
        batches.push(&found[start..]);
    }
    batches
}

/// Sends a batch; returns the last file of it that was new. A file that is refused harms no other.
async fn send<'a>(
    door: &Door,
    batch: &'a [Found],
    collection: &str,
    tally: &mut Tally,
) -> anyhow::Result<Option<&'a Found>> {
    let mut documents = Vec::with_capacity(batch.len());
    for file in batch {
        match read(file, collection) {
            Ok(document) => documents.push(document),
            Err(problem) => tally.fail(&file.id, &problem),
        }
    }
    if documents.is_empty() {
        return Ok(None);
    }
    let (status, response) = door.post_any("/documents", &json!({ "documents": documents })).await?;
    match status {
        0..400 => {}
        // Every single one of them was refused, each with its reason.
        400..500 if response["documents"].is_array() => {}
        400 | 413 | 415 | 422 => return send_apart(door, batch, (status, &response), collection, tally).await,
        _ => bail!("{}", problem(&response, status)),
    }
    let count = |key: &str| response[key].as_u64().unwrap_or_default();
    tally.accepted += count("accepted");
    tally.unchanged += count("unchanged");
    tally.last_sequence = tally.last_sequence.max(count("sequence"));
    let mut accepted = None;
    for document in response["documents"].as_array().into_iter().flatten() {
        let id = document["id"].as_str().unwrap_or_default();
        match document["status"].as_str() {
            Some("failed") => {
                let error = &document["error"];
                tally.fail(id, error["detail"].as_str().or(error.as_str()).unwrap_or("refused"));
            }
            Some("accepted") => accepted = batch.iter().find(|file| file.id == id),
            _ => {}
        }
    }
    Ok(accepted)
}

/// A batch that was refused as a whole is sent again file by file; a file of its own has failed.
async fn send_apart<'a>(
    door: &Door,
    batch: &'a [Found],
    (status, response): (u16, &Value),
    collection: &str,
    tally: &mut Tally,
) -> anyhow::Result<Option<&'a Found>> {
    if let [file] = batch {
        tally.fail(&file.id, &problem(response, status));
        return Ok(None);
    }
    let mut accepted = None;
    for file in batch.chunks(1) {
        accepted = Box::pin(send(door, file, collection, tally)).await?.or(accepted);
    }
    Ok(accepted)
}

impl Tally {
    fn fail(&mut self, id: &str, problem: &str) {
        self.failed += 1;
        self.problems.push(format!("{id}: {problem}"));
    }
}

fn read(file: &Found, collection: &str) -> Result<Value, String> {
    let bytes = std::fs::read(&file.path).map_err(|error| error.to_string())?;
    let text = String::from_utf8(bytes)
        .map_err(|error| format!("is not UTF-8 from byte {}", error.utf8_error().valid_up_to()))?;
    Ok(json!({
        "id": file.id,
        "text": text,
        "media_type": file.media_type,
        "source_uri": format!("file:{}", file.id),
        "collection": collection,
    }))
}

fn progress_bar(bytes: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {eta} left  {msg}")
        .expect("the template is fixed and valid");
    ProgressBar::new(bytes).with_style(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_walked_without_hidden_and_unreadable_files() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.md", ".hidden.md", "photo.png", "sub/b.txt"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "text").unwrap();
        }
        let (mut found, mut tally) = (Vec::new(), Tally::default());

        walk(folder.path(), folder.path(), &mut found, &mut tally).unwrap();

        let mut ids: Vec<&str> = found.iter().map(|file| file.id.as_str()).collect();
        ids.sort_unstable();
        assert_eq!(ids, ["a.md", "sub/b.txt"]);
        assert_eq!(tally.skipped.into_iter().collect::<Vec<_>>(), [("files ending in .png".to_owned(), 1)]);
    }

    #[test]
    fn batches_hold_every_file_once_within_their_bounds() {
        let file = |bytes| Found { path: PathBuf::new(), id: String::new(), media_type: "text/plain", bytes };
        let found: Vec<Found> = (0..200).map(|index| file(if index == 70 { BATCH_BYTES * 2 } else { 1 })).collect();

        let batches = batches(&found);

        assert_eq!(batches.iter().map(|batch| batch.len()).sum::<usize>(), 200);
        assert!(batches.iter().all(|batch| batch.len() <= BATCH_FILES));
        assert!(batches.iter().any(|batch| batch.len() == 1 && batch[0].bytes > BATCH_BYTES));
    }
}
