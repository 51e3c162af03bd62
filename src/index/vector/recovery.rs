//! Opening what is on disk, whatever state it is in.
//!
//! A damaged graph costs only the graph. Anything else damaged costs the index: it starts empty at sequence 0 and is
//! replayed from the truth, which calls no model. Only errors of the machine (permissions, handles) are returned.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use tracing::warn;

use crate::index::IndexError;
use crate::index::manifest::{self, FileRecord, corrupt, io_error};

use super::catalog::{self, Catalog, FORMAT, SegmentRecord};
use super::graph::{self, Graph, GraphRecord};
use super::image::Image;
use super::part::Part;
use super::settings::{Engine, VectorSettings};

/// What was found.
pub(super) struct Recovered {
    pub catalog: Catalog,
    pub parts: Vec<Part>,
    /// What was damaged, in words for an operator.
    pub damage: Vec<String>,
}

/// Opens the index in `dir`, which is created if it is missing.
pub(super) fn recover(dir: &Path, dimensions: usize, settings: &VectorSettings) -> Result<Recovered, IndexError> {
    fs::create_dir_all(dir).map_err(|source| io_error(dir, source))?;
    let mut opening = Opening { dir, settings, damage: Vec::new() };
    let (catalog, parts) = match opening.whole(dimensions) {
        Ok(found) => found,
        Err(error) if is_damage(&error) => {
            opening.damaged(&error);
            let catalog = Catalog::empty(dimensions);
            manifest::replace(dir, &catalog)?;
            (catalog, Vec::new())
        }
        Err(error) => return Err(error),
    };
    manifest::remove_orphans(dir, &catalog.files().collect::<HashSet<_>>())?;
    Ok(Recovered { catalog, parts, damage: opening.damage })
}

struct Opening<'a> {
    dir: &'a Path,
    settings: &'a VectorSettings,
    damage: Vec<String>,
}

impl Opening<'_> {
    fn whole(&mut self, dimensions: usize) -> Result<(Catalog, Vec<Part>), IndexError> {
        let Some(mut catalog) = self.catalog()? else {
            let catalog = Catalog::empty(dimensions);
            manifest::replace(self.dir, &catalog)?;
            return Ok((catalog, Vec::new()));
        };
        if catalog.format != FORMAT || catalog.dimensions != dimensions {
            let detail = format!(
                "has format {} and {} dimensions, expected {FORMAT} and {dimensions}",
                catalog.format, catalog.dimensions
            );
            manifest::set_aside(self.dir, manifest::MANIFEST)?;
            return Err(corrupt(&self.dir.join(manifest::MANIFEST), detail));
        }
        let named = catalog.clone();
        let mut parts = Vec::new();
        for segment in &mut catalog.segments {
            parts.push(self.part(segment, dimensions)?);
        }
        if let Some(record) = &catalog.tombstones {
            self.verified(record, |record| catalog::read_tombstones(self.dir, record, &mut parts))?;
        }
        if catalog != named {
            // Without the graphs that were not taken over: their files are about to go.
            manifest::replace(self.dir, &catalog)?;
        }
        Ok((catalog, parts))
    }

    /// The manifest; `None` if this is a fresh directory.
    fn catalog(&self) -> Result<Option<Catalog>, IndexError> {
        match manifest::read(self.dir) {
            Ok(Some(catalog)) => Ok(Some(catalog)),
            // A directory gets its manifest before anything else, so files without one mean that it was lost.
            Ok(None) if holds_files(self.dir)? => {
                Err(corrupt(&self.dir.join(manifest::MANIFEST), "is missing".to_owned()))
            }
            Ok(None) => Ok(None),
            Err(error) => {
                if is_damage(&error) {
                    manifest::set_aside(self.dir, manifest::MANIFEST)?;
                }
                Err(error)
            }
        }
    }

    fn part(&mut self, segment: &mut SegmentRecord, dimensions: usize) -> Result<Part, IndexError> {
        let image = self.verified(&segment.file, |record| {
            let path = self.dir.join(&record.name);
            let image = Image::map(&path)?;
            let found = image.layout().dimensions;
            if found == dimensions { Ok(image) } else { Err(corrupt(&path, format!("has {found} dimensions"))) }
        })?;
        let graph = segment.graph.take().and_then(|record| self.graph(record, &image).transpose()).transpose()?;
        segment.graph = graph.as_ref().and_then(|graph| graph.record()).cloned();
        Ok(Part { image: Arc::new(image), dead: Arc::default(), file: Some(Arc::new(segment.file.clone())), graph })
    }

    /// The stored graph, unless it was built with other settings or is damaged; then it will be built again.
    fn graph(&mut self, record: GraphRecord, image: &Image) -> Result<Option<Arc<dyn Graph>>, IndexError> {
        let settings = self.settings;
        let fits = settings.engine == Engine::Usearch
            && (record.m, record.ef_construction) == (settings.m, settings.ef_construction);
        if !fits {
            return Ok(None);
        }
        let opened = self
            .verified(&record.nodes, |_| Ok(()))
            .and_then(|()| self.verified(&record.rows, |_| graph::open(self.dir, settings, record.clone(), image)));
        match opened {
            Ok(graph) => Ok(Some(graph)),
            Err(error) if is_damage(&error) => {
                self.damaged(&error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Opens a file after verifying it; a damaged one is set aside.
    fn verified<T>(
        &self,
        record: &FileRecord,
        open: impl FnOnce(&FileRecord) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        let opened = manifest::verify(self.dir, record).and_then(|()| open(record));
        if opened.as_ref().is_err_and(is_damage) {
            manifest::set_aside(self.dir, &record.name)?;
        }
        opened
    }

    fn damaged(&mut self, error: &IndexError) {
        let what = match error {
            IndexError::Io { path, source } => format!("{path}: {source}"),
            other => other.to_string(),
        };
        warn!(damage = what, "a damaged index file was set aside; what it held will be rebuilt");
        self.damage.push(what);
    }
}

fn is_damage(error: &IndexError) -> bool {
    match error {
        IndexError::Corrupt { .. } => true,
        IndexError::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}

/// True if there is anything but damaged and temporary files.
fn holds_files(dir: &Path) -> Result<bool, IndexError> {
    let mut entries = fs::read_dir(dir).map_err(|source| io_error(dir, source))?;
    Ok(entries.any(|entry| entry.is_ok_and(|entry| manifest::is_sealed_name(&entry.file_name()))))
}
