//! Deletion lists that no commit names: what a process left that died between writing one and naming it.
//!
//! The engine names such a file after the segment and the number of the operation. A replay of the same changes comes
//! to the same number, finds the name taken, and fails, again and again.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tantivy::index::{Index, SegmentComponent};

use crate::index::IndexError;

/// Extension of the engine's deletion lists.
const DELETIONS: &str = "del";

/// Removes them. There must be no writer.
pub(super) fn remove_orphaned_deletions(index: &Index, directory: &Path) -> Result<(), IndexError> {
    let meta = index.load_metas().map_err(IndexError::Lexical)?;
    let named: HashSet<PathBuf> =
        meta.segments.iter().map(|segment| segment.relative_path(SegmentComponent::Delete)).collect();
    let failed = |source: io::Error| IndexError::Io { path: directory.display().to_string(), source };
    for entry in fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let is_list = path.extension().is_some_and(|extension| extension == DELETIONS);
        if is_list && !path.file_name().is_some_and(|name| named.contains(Path::new(name))) {
            tracing::debug!(file = %path.display(), "a deletion list that no commit names is removed");
            fs::remove_file(&path).map_err(failed)?;
        }
    }
    Ok(())
}
