//! Looks for what is left of a text in the files of the data directory, byte by byte.
//!
//! What a file keeps compressed is not found so: of lexical indexes the engine's own count of removed chunks decides.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::domain::Needles;

/// Bytes that are read at once.
const PORTION_BYTES: usize = 1 << 20;

/// Blocks of the text by the file in which they were found.
pub(super) type FoundBytes = BTreeMap<PathBuf, HashSet<Vec<u8>>>;

/// Searches every file under `dir`. Blocks for as long as reading them takes.
pub(super) fn search(dir: &Path, needles: &Needles) -> io::Result<FoundBytes> {
    let mut found = FoundBytes::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                let blocks = match search_file(&entry.path(), needles) {
                    // Files of indexes and caches come and go.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    blocks => blocks?,
                };
                if !blocks.is_empty() {
                    found.insert(entry.path(), blocks);
                }
            }
        }
    }
    Ok(found)
}

fn search_file(path: &Path, needles: &Needles) -> io::Result<HashSet<Vec<u8>>> {
    let mut file = File::open(path)?;
    let mut found = HashSet::new();
    let mut buffer = vec![0; PORTION_BYTES];
    let mut kept = 0;
    loop {
        let read = file.read(&mut buffer[kept..])?;
        if read == 0 {
            return Ok(found);
        }
        let filled = kept + read;
        needles.find_blocks(&buffer[..filled], &mut found);
        kept = filled.min(Needles::OVERLAP_BYTES);
        buffer.copy_within(filled - kept..filled, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_across_the_border_of_two_portions_and_deep_in_folders() {
        let dir = tempfile::tempdir().unwrap();
        let text = b"nobody opens gate seven before d";
        let mut bytes = vec![0; PORTION_BYTES - 5];
        bytes.extend_from_slice(text);
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/file"), bytes).unwrap();
        fs::write(dir.path().join("other"), b"something else, and nothing of that text").unwrap();
        let mut needles = Needles::default();
        needles.add_text(std::str::from_utf8(text).unwrap());

        let found = search(dir.path(), &needles).unwrap();

        let files: Vec<&PathBuf> = found.keys().collect();
        assert_eq!(files, [&dir.path().join("a/b/file")]);
    }
}
