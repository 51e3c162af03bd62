//! A graph over the codes of one sealed segment (HNSW: Malkov and Yashunin, TPAMI 2020).
//!
//! It only finds candidates: what it returns is scored again from the f16 vectors, so an engine's own idea of
//! distance decides nothing. Once made it is never changed; the two engines share this and nothing else.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};

use crate::index::IndexError;
use crate::index::manifest::FileRecord;

use super::hnsw_rs::HnswRsGraph;
use super::image::Image;
use super::quantize::Query;
use super::settings::{Engine, VectorSettings};
use super::usearch::UsearchGraph;

/// Inserts between two looks at the stop flag and the shared counter.
const CLAIM: usize = 64;
/// The niceness of threads that build graphs: searches go first.
#[cfg(target_os = "linux")]
const BUILD_NICENESS: i32 = 10;

/// Says whether a row may be returned. Must not panic: it is called from foreign code.
pub(super) type Accept<'a> = &'a (dyn Fn(u32) -> bool + Sync);

/// A finished graph.
pub(super) trait Graph: Send + Sync {
    /// Up to `wanted` accepted rows near `query`: ordinal and estimated cosine, in no order, each once.
    ///
    /// `None` if the graph cannot find enough accepted rows at a sensible price; scan instead.
    fn nearest(
        &self,
        query: &Query,
        wanted: usize,
        accept: Option<Accept<'_>>,
    ) -> Result<Option<Vec<(u32, f32)>>, IndexError>;

    /// Nodes that lead nowhere any more because their rows have been merged away.
    fn gone(&self) -> u64;

    /// The sealed files, for an engine that has any.
    fn record(&self) -> Option<&GraphRecord>;
}

/// A stored graph as the manifest names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GraphRecord {
    pub m: usize,
    pub ef_construction: usize,
    pub nodes: FileRecord,
    /// For each node the ordinal of its row.
    pub rows: FileRecord,
}

/// An older graph that the new one may grow from.
pub(super) struct Stem<'a> {
    pub record: &'a GraphRecord,
    /// For each ordinal of the older segment the ordinal in the new one, [`GONE`] for none.
    pub moved: Vec<u32>,
}

/// Instead of an ordinal: the row is not there any more.
pub(super) const GONE: u32 = u32::MAX;

/// Where and how to build.
pub(super) struct Site<'a> {
    pub dir: &'a Path,
    /// Stem of the file names, unique for this graph.
    pub name: String,
    pub settings: &'a VectorSettings,
    pub stop: &'a AtomicBool,
}

/// Builds a graph over all rows of `image`; `None` if it was told to stop.
pub(super) fn build(
    site: &Site<'_>,
    image: &Arc<Image>,
    stem: Option<&Stem<'_>>,
) -> Result<Option<Arc<dyn Graph>>, IndexError> {
    Ok(match site.settings.engine {
        Engine::Usearch => UsearchGraph::build(site, image, stem)?.map(|graph| Arc::new(graph) as _),
        Engine::HnswRs => HnswRsGraph::build(site, image)?.map(|graph| Arc::new(graph) as _),
    })
}

/// Opens a stored graph over `image`; the files have been verified.
pub(super) fn open(
    dir: &Path,
    settings: &VectorSettings,
    record: GraphRecord,
    image: &Image,
) -> Result<Arc<dyn Graph>, IndexError> {
    UsearchGraph::open(dir, settings, record, image).map(|graph| Arc::new(graph) as _)
}

/// Calls `insert` for every number below `count`, on `site.settings.build_threads` threads; false if told to stop.
///
/// The threads are its own and of low priority: in the pool that searches run in, a search could end up waiting for
/// an insert.
pub(super) fn insert_all(
    site: &Site<'_>,
    count: usize,
    insert: &(dyn Fn(usize) -> Result<(), IndexError> + Sync),
) -> Result<bool, IndexError> {
    let next = AtomicUsize::new(0);
    let work = || {
        lower_priority();
        loop {
            let first = next.fetch_add(CLAIM, Ordering::Relaxed);
            if first >= count {
                return Ok(true);
            }
            if site.stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            (first..count.min(first + CLAIM)).try_for_each(insert)?;
        }
    };
    let threads = site.settings.build_threads();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut finished = true;
        for worker in workers {
            finished &= worker
                .join()
                .map_err(|_| IndexError::Engine { detail: "a thread that built a graph panicked".to_owned() })??;
        }
        Ok(finished)
    })
}

fn lower_priority() {
    #[cfg(target_os = "linux")]
    // SAFETY: takes and returns plain numbers; on Linux 0 means the calling thread. Failing changes nothing but speed.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, BUILD_NICENESS);
    }
}
