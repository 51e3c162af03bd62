//! Merging segments and building graphs beside the running index.
//!
//! The work is done over a snapshot while searches and changes go on; under the lock only the rows that died meanwhile
//! are marked in the new segment and the parts are swapped. Told to stop, it leaves the index as it was.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use roaring::RoaringBitmap;
use tracing::info;

use crate::index::IndexError;
use crate::index::manifest;

use super::graph::{self, GONE, Graph, Site, Stem};
use super::image::{self, Image, RowRef};
use super::part::{Part, live_rows};
use super::plan::{self, GraphWork, Plan, Shape};
use super::segmented::{SegmentedIndex, Writer};

impl SegmentedIndex {
    /// Does one piece of work; false if there was none, somebody else is at it, or it was told to stop.
    pub(super) fn do_next_work(&self) -> Result<bool, IndexError> {
        let Some(_alone) = self.maintenance.try_lock() else { return Ok(false) };
        if self.stop.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let snapshot = self.snapshot.load_full();
        let sealed: Vec<&Part> = snapshot.parts.iter().filter(|part| part.file.is_some()).collect();
        let shapes: Vec<Shape> = sealed.iter().map(|part| shape(part)).collect();
        match plan::next(&shapes, &self.settings) {
            None => Ok(false),
            Some(Plan::Graph(n)) => self.add_graph(sealed[n]),
            Some(Plan::Merge { inputs, graph }) => {
                let parts: Vec<&Part> = inputs.iter().map(|&n| sealed[n]).collect();
                let base = match graph {
                    GraphWork::Grow(n) => inputs.iter().position(|&input| input == n),
                    GraphWork::None | GraphWork::Build => None,
                };
                self.merge(&parts, graph, base)
            }
        }
    }

    /// Writes everything that holds removed vectors anew, one segment after the other; false if told to stop.
    pub(super) fn rewrite_removed(&self) -> Result<bool, IndexError> {
        let _alone = self.maintenance.lock();
        self.persist(&mut self.writer.lock())?;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let snapshot = self.snapshot.load_full();
            let wasted = |part: &&Part| shape(part).rows > part.live() || shape(part).gone.is_some_and(|gone| gone > 0);
            let Some(part) = snapshot.parts.iter().filter(|part| part.file.is_some()).find(wasted) else {
                return Ok(true);
            };
            let graph = if part.graph.is_some() { GraphWork::Build } else { GraphWork::None };
            if !self.merge(&[part], graph, None)? {
                return Ok(false);
            }
        }
    }

    fn add_graph(&self, part: &Part) -> Result<bool, IndexError> {
        let Some(graph) = self.build(&part.image, None)? else { return Ok(false) };
        let mut writer = self.writer.lock();
        let mut parts = self.snapshot.load().parts.clone();
        for current in parts.iter_mut().filter(|current| Arc::ptr_eq(&current.image, &part.image)) {
            current.graph = Some(Arc::clone(&graph));
        }
        self.publish(parts);
        writer.unsaved.parts = true;
        self.persist(&mut writer)?;
        Ok(true)
    }

    /// Replaces `inputs` by one segment; `base` is the input whose graph grows.
    fn merge(&self, inputs: &[&Part], work: GraphWork, base: Option<usize>) -> Result<bool, IndexError> {
        let rows = live_rows(inputs);
        let merged = if rows.is_empty() { None } else { self.write_merged(inputs, &rows)? };
        if merged.is_none() && !rows.is_empty() {
            return Ok(false);
        }
        let merged = match (merged, work) {
            (Some(part), GraphWork::Build | GraphWork::Grow(_)) => {
                let stem = base.and_then(|base| stem(inputs[base], base, &rows));
                match self.build(&part.image, stem.as_ref())? {
                    Some(graph) => Some(Part { graph: Some(graph), ..part }),
                    None => {
                        file_names(&part).iter().for_each(|name| self.discard(name));
                        return Ok(false);
                    }
                }
            }
            (merged, _) => merged,
        };
        info!(segments = inputs.len(), rows = rows.len(), graph = ?work, "vector segments merged");
        self.swap(&mut self.writer.lock(), inputs, merged)?;
        Ok(true)
    }

    /// Writes the new segment; `None` if told to stop.
    fn write_merged(&self, inputs: &[&Part], rows: &[RowRef]) -> Result<Option<Part>, IndexError> {
        let (number, reached) = {
            let mut writer = self.writer.lock();
            (writer.new_file(), writer.applied())
        };
        let name = format!("{number:08}.vectors");
        let sources: Vec<&Image> = inputs.iter().map(|part| part.image.as_ref()).collect();
        let sealed = manifest::seal(&self.dir, &name, |file| {
            image::write_rows(&mut Stoppable { out: file, stop: &self.stop }, &sources, rows, reached)
        });
        match sealed {
            Err(_) if self.stop.load(Ordering::Relaxed) => Ok(None),
            Err(error) => Err(error),
            Ok(record) => Ok(Some(Part {
                image: Arc::new(Image::map(&self.dir.join(&name))?),
                dead: Arc::default(),
                file: Some(Arc::new(record)),
                graph: None,
            })),
        }
    }

    /// Deletes a file that nothing names. Best effort: what stays is removed at the next open.
    pub(super) fn discard(&self, name: &str) {
        let _ = std::fs::remove_file(self.dir.join(name));
    }

    fn build(&self, image: &Arc<Image>, stem: Option<&Stem<'_>>) -> Result<Option<Arc<dyn Graph>>, IndexError> {
        let name = format!("{:08}", self.writer.lock().new_file());
        let site = Site { dir: &self.dir, name, settings: &self.settings, stop: &self.stop };
        graph::build(&site, image, stem)
    }

    /// Puts `merged` in the place of `inputs`, with what died since they were looked at.
    fn swap(&self, writer: &mut Writer, inputs: &[&Part], merged: Option<Part>) -> Result<(), IndexError> {
        let current = self.snapshot.load_full();
        let mut dead = RoaringBitmap::new();
        let mut parts = Vec::new();
        for part in &current.parts {
            let Some(input) = inputs.iter().find(|input| Arc::ptr_eq(&input.image, &part.image)) else {
                parts.push(part.clone());
                continue;
            };
            if let Some(merged) = &merged {
                let died = part.dead.as_ref() - input.dead.as_ref();
                dead.extend(died.iter().filter_map(|ordinal| merged.image.find(&part.image.id(ordinal))));
            }
            writer.obsolete.extend(file_names(part));
        }
        parts.extend(merged.map(|merged| Part { dead: Arc::new(dead), ..merged }));
        // Sealed parts come before those in memory: only the newest of the latter are merged with each other.
        parts.sort_by_key(|part| part.file.is_none());
        self.publish(parts);
        writer.unsaved.parts = true;
        writer.unsaved.dead = true;
        self.persist(writer)
    }
}

fn shape(part: &Part) -> Shape {
    Shape { rows: part.image.rows().into(), live: part.live(), gone: part.graph.as_ref().map(|graph| graph.gone()) }
}

/// The graph of `base`, if it is stored, and where its rows have gone.
fn stem<'a>(base: &'a Part, source: usize, rows: &[RowRef]) -> Option<Stem<'a>> {
    let record = base.graph.as_ref()?.record()?;
    let mut moved = vec![GONE; base.image.rows() as usize];
    for (ordinal, row) in (0..).zip(rows).filter(|(_, row)| row.source as usize == source) {
        moved[row.ordinal as usize] = ordinal;
    }
    Some(Stem { record, moved })
}

fn file_names(part: &Part) -> Vec<String> {
    let graph = part.graph.as_ref().and_then(|graph| graph.record());
    let graph = graph.into_iter().flat_map(|record| [&record.nodes, &record.rows]);
    part.file.as_deref().into_iter().chain(graph).map(|record| record.name.clone()).collect()
}

/// Fails once it is told to stop.
struct Stoppable<'a, W> {
    out: &'a mut W,
    stop: &'a AtomicBool,
}

impl<W: Write> Write for Stoppable<'_, W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("told to stop"));
        }
        self.out.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
