//! Graphs by usearch over int8 codes, in mapped files.
//!
//! The library trusts its caller: adding without reserved room corrupts memory, as does changing an index that is
//! searched, and each thread inside needs a reserved place. So a graph is built alone, written to a temporary file,
//! sealed, and from then on only viewed; a counter keeps more threads than there are places outside. Saving
//! overwrites in place without a sync, which is why the name it gets is never one that anybody reads.
//!
//! Nodes keep their number when a graph grows; a table beside them says which row each stands for.

use std::fs;
use std::io::Write;
use std::path::Path;

use ::usearch::{Index, IndexOptions, MetricKind, ScalarKind};
use parking_lot::{Condvar, Mutex};

use crate::index::IndexError;
use crate::index::manifest::{adopt, corrupt, io_error, seal, temporary_name, verify};

use super::graph::{Accept, GONE, Graph, GraphRecord, Site, Stem, insert_all};
use super::image::Image;
use super::quantize::Query;
use super::settings::VectorSettings;

/// Places for threads that search one graph at once, at least; more wait their turn.
const PLACES_MIN: usize = 4;

pub(super) struct UsearchGraph {
    index: Index,
    places: Places,
    /// For each node the ordinal of its row, or [`GONE`].
    rows: Vec<u32>,
    gone: u64,
    dimensions: usize,
    record: GraphRecord,
}

impl UsearchGraph {
    /// Builds over all rows of `image`, growing from `stem` if there is one; `None` if told to stop.
    pub(super) fn build(
        site: &Site<'_>,
        image: &std::sync::Arc<Image>,
        stem: Option<&Stem<'_>>,
    ) -> Result<Option<Self>, IndexError> {
        let dimensions = image.layout().dimensions;
        let index = new_index(site.settings, dimensions)?;
        let mut rows = match stem {
            Some(stem) => load_stem(&index, site.dir, stem)?,
            None => Vec::new(),
        };
        let old = rows.len();
        rows.extend(missing_rows(&rows, image.rows()));
        // Never more threads inside than places, or memory is corrupted.
        index.reserve_capacity_and_threads(rows.len(), site.settings.build_threads()).map_err(|e| failed(&e))?;
        let finished = insert_all(site, rows.len() - old, &|added| {
            let node = old + added;
            let codes = signed(&image.codes(rows[node], rows[node] + 1)[..dimensions]);
            index.add(node as u64, &codes).map_err(|e| failed(&e))
        })?;
        if !finished {
            return Ok(None);
        }
        let record = store(site, &index, &rows)?;
        drop(index);
        Self::open(site.dir, site.settings, record, image).map(Some)
    }

    /// Views stored files, which have been verified.
    pub(super) fn open(
        dir: &Path,
        settings: &VectorSettings,
        record: GraphRecord,
        image: &Image,
    ) -> Result<Self, IndexError> {
        let dimensions = image.layout().dimensions;
        let rows = read_rows(&dir.join(&record.rows.name), image.rows())?;
        let path = dir.join(&record.nodes.name);
        let index = new_index(settings, dimensions)?;
        index.view(path_text(&path)?).map_err(|e| corrupt(&path, e.to_string()))?;
        let whole = missing_rows(&rows, image.rows()).is_empty();
        if !whole || index.size() != rows.len() || index.dimensions() != dimensions {
            return Err(corrupt(&path, "does not belong to its table of rows".to_owned()));
        }
        let places = std::thread::available_parallelism().map_or(PLACES_MIN, usize::from).max(PLACES_MIN);
        index.reserve_capacity_and_threads(rows.len(), places).map_err(|e| failed(&e))?;
        index.change_expansion_search(settings.ef_search);
        let gone = rows.iter().filter(|&&row| row == GONE).count() as u64;
        Ok(Self { index, places: Places::new(places), rows, gone, dimensions, record })
    }
}

impl Graph for UsearchGraph {
    fn nearest(
        &self,
        query: &Query,
        wanted: usize,
        accept: Option<Accept<'_>>,
    ) -> Result<Option<Vec<(u32, f32)>>, IndexError> {
        let codes = signed(&query.codes[..self.dimensions]);
        let row = |node: u64| self.rows.get(node as usize).copied().filter(|&row| row != GONE);
        let place = self.places.take();
        let matches = if accept.is_none() && self.gone == 0 {
            self.index.search(&codes, wanted)
        } else {
            let passes = |node| row(node).is_some_and(|row| accept.is_none_or(|accept| accept(row)));
            self.index.filtered_search(&codes, wanted, passes)
        };
        drop(place);
        let matches = matches.map_err(|e| failed(&e))?;
        let pairs = matches.keys.iter().zip(&matches.distances);
        Ok(Some(pairs.filter_map(|(&node, &distance)| Some((row(node)?, 1.0 - distance))).collect()))
    }

    fn gone(&self) -> u64 {
        self.gone
    }

    fn record(&self) -> Option<&GraphRecord> {
        Some(&self.record)
    }
}

fn new_index(settings: &VectorSettings, dimensions: usize) -> Result<Index, IndexError> {
    let options = IndexOptions {
        dimensions,
        metric: MetricKind::Cos,
        quantization: ScalarKind::I8,
        connectivity: settings.m,
        expansion_add: settings.ef_construction,
        expansion_search: settings.ef_search,
        multi: false,
    };
    Index::new(&options).map_err(|e| failed(&e))
}

/// Loads the older graph into `index` and returns its table, translated to the ordinals of the new segment.
fn load_stem(index: &Index, dir: &Path, stem: &Stem<'_>) -> Result<Vec<u32>, IndexError> {
    let old_rows = u32::try_from(stem.moved.len()).expect("the layout has at most u32::MAX rows");
    verify(dir, &stem.record.rows)?;
    verify(dir, &stem.record.nodes)?;
    let rows = read_rows(&dir.join(&stem.record.rows.name), old_rows)?;
    let path = dir.join(&stem.record.nodes.name);
    index.load(path_text(&path)?).map_err(|e| corrupt(&path, e.to_string()))?;
    if index.size() != rows.len() {
        return Err(corrupt(&path, "does not belong to its table of rows".to_owned()));
    }
    Ok(rows.into_iter().map(|row| if row == GONE { GONE } else { stem.moved[row as usize] }).collect())
}

/// The ordinals below `count` that no node stands for yet.
fn missing_rows(rows: &[u32], count: u32) -> Vec<u32> {
    let mut present = vec![false; count as usize];
    rows.iter().filter(|&&row| row != GONE).for_each(|&row| present[row as usize] = true);
    (0..count).filter(|&row| !present[row as usize]).collect()
}

fn store(site: &Site<'_>, index: &Index, rows: &[u32]) -> Result<GraphRecord, IndexError> {
    let nodes_name = format!("{}.nodes", site.name);
    let temporary = temporary_name(&nodes_name);
    let path = site.dir.join(&temporary);
    index.save(path_text(&path)?).map_err(|e| failed(&e))?;
    // The library does not look whether closing the file worked; a full disk shows in the length.
    let written = fs::metadata(&path).map_err(|source| io_error(&path, source))?.len();
    if written != index.serialized_length() as u64 {
        let _ = fs::remove_file(&path);
        return Err(IndexError::Engine { detail: format!("a graph was cut short at {written} bytes") });
    }
    let nodes = adopt(site.dir, &temporary, &nodes_name)?;
    let table: Vec<u8> = rows.iter().flat_map(|row| row.to_le_bytes()).collect();
    let rows = seal(site.dir, &format!("{}.rows", site.name), |file| file.write_all(&table))?;
    Ok(GraphRecord { m: site.settings.m, ef_construction: site.settings.ef_construction, nodes, rows })
}

fn read_rows(path: &Path, count: u32) -> Result<Vec<u32>, IndexError> {
    let bytes = fs::read(path).map_err(|source| io_error(path, source))?;
    let rows: Vec<u32> =
        bytes.chunks_exact(4).map(|row| u32::from_le_bytes([row[0], row[1], row[2], row[3]])).collect();
    if bytes.len() % 4 == 0 && rows.iter().all(|&row| row < count || row == GONE) {
        Ok(rows)
    } else {
        Err(corrupt(path, "names rows that the segment does not have".to_owned()))
    }
}

fn signed(codes: &[u8]) -> Vec<i8> {
    codes.iter().map(|code| code.cast_signed()).collect()
}

fn path_text(path: &Path) -> Result<&str, IndexError> {
    path.to_str().ok_or_else(|| IndexError::Engine { detail: format!("{} is not UTF-8", path.display()) })
}

fn failed(error: &dyn std::fmt::Display) -> IndexError {
    IndexError::Engine { detail: error.to_string() }
}

/// Counts the threads inside a graph.
struct Places {
    free: Mutex<usize>,
    freed: Condvar,
}

/// A place, given back when dropped.
struct Place<'a>(&'a Places);

impl Places {
    fn new(count: usize) -> Self {
        Self { free: Mutex::new(count), freed: Condvar::new() }
    }

    /// Waits for a place. Whoever has one is inside a search, so the wait is as short as that.
    fn take(&self) -> Place<'_> {
        let mut free = self.free.lock();
        while *free == 0 {
            self.freed.wait(&mut free);
        }
        *free -= 1;
        Place(self)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *self.0.free.lock() += 1;
        self.0.freed.notify_one();
    }
}
