//! What an index has on disk: the manifest's content, and the tombstones beside it.
//!
//! The tombstones are one file for all segments, written anew when they have changed: for each segment in the
//! manifest's order the length of its bitmap and the bitmap.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};

use crate::domain::Sequence;
use crate::index::IndexError;
use crate::index::manifest::{self, FileRecord, corrupt, io_error};

use super::graph::GraphRecord;
use super::part::Part;

/// Changes when an older program could not read what a newer one has written, or the other way round.
pub(super) const FORMAT: u32 = 1;

/// The content of the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Catalog {
    pub format: u32,
    pub dimensions: usize,
    /// Everything up to here is in the files named below.
    pub reached: Sequence,
    /// No file named with this number or a larger one is in use.
    pub next_file: u64,
    pub segments: Vec<SegmentRecord>,
    pub tombstones: Option<FileRecord>,
}

/// A segment as the manifest names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SegmentRecord {
    pub file: FileRecord,
    pub graph: Option<GraphRecord>,
}

impl Catalog {
    pub(super) fn empty(dimensions: usize) -> Self {
        Self { format: FORMAT, dimensions, reached: Sequence(0), next_file: 1, segments: Vec::new(), tombstones: None }
    }

    /// Names of all files in use, the manifest's own among them.
    pub(super) fn files(&self) -> impl Iterator<Item = &str> {
        let segments = self.segments.iter().flat_map(|segment| {
            let graph = segment.graph.iter().flat_map(|graph| [&graph.nodes, &graph.rows]);
            std::iter::once(&segment.file).chain(graph)
        });
        let records = segments.chain(&self.tombstones).map(|record| record.name.as_str());
        records.chain(std::iter::once(manifest::MANIFEST))
    }
}

/// The records of the sealed parts, in their order.
pub(super) fn records(parts: &[Part]) -> Vec<SegmentRecord> {
    let record = |part: &Part| {
        let file = part.file.as_deref()?.clone();
        let graph = part.graph.as_ref().and_then(|graph| graph.record()).cloned();
        Some(SegmentRecord { file, graph })
    };
    parts.iter().filter_map(record).collect()
}

/// Seals the tombstones of the sealed parts; `None` if nothing is dead.
pub(super) fn seal_tombstones(dir: &Path, name: &str, parts: &[Part]) -> Result<Option<FileRecord>, IndexError> {
    let sealed = || parts.iter().filter(|part| part.file.is_some());
    if sealed().all(|part| part.dead.is_empty()) {
        return Ok(None);
    }
    let write = |file: &mut manifest::SealingWriter| {
        sealed().try_for_each(|part| {
            file.write_all(&(part.dead.serialized_size() as u64).to_le_bytes())?;
            part.dead.serialize_into(&mut *file)
        })
    };
    manifest::seal(dir, name, write).map(Some)
}

/// Reads tombstones, which have been verified, into the parts.
pub(super) fn read_tombstones(dir: &Path, record: &FileRecord, parts: &mut [Part]) -> Result<(), IndexError> {
    let path = dir.join(&record.name);
    let bytes = std::fs::read(&path).map_err(|source| io_error(&path, source))?;
    let wrong = |detail: &str| corrupt(&path, detail.to_owned());
    let mut rest = bytes.as_slice();
    for part in parts {
        // Segments sealed since the tombstones were written come last and have none.
        if rest.is_empty() {
            break;
        }
        let (length, after) = rest.split_first_chunk::<8>().ok_or_else(|| wrong("ends early"))?;
        let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| wrong("is too large"))?;
        let (bitmap, after) = after.split_at_checked(length).ok_or_else(|| wrong("ends early"))?;
        let dead = RoaringBitmap::deserialize_from(bitmap).map_err(|error| wrong(&error.to_string()))?;
        if dead.max().is_some_and(|ordinal| ordinal >= part.image.rows()) {
            return Err(wrong("names rows that the segment does not have"));
        }
        part.dead = Arc::new(dead);
        rest = after;
    }
    if rest.is_empty() { Ok(()) } else { Err(wrong("goes on after its end")) }
}
