//! Candidates read back from the truth: those that may leave survive, the others are passed over.
//!
//! Read in portions and only as far as needed: a page of ten needs ten chunks, not two hundred.

use std::collections::{HashMap, HashSet};

use tracing::{Instrument, debug_span};

use crate::domain::{ChunkId, DocumentId, Filter, GenerationId, StageScore};
use crate::store::{HydratedChunk, WithEmbeddings};

use super::fields::ChunkFields;
use super::fusion::Fused;
use super::searcher::{Request, Searcher};
use super::{SearchError, report::Report, report::ms_since};

/// Most chunks read at once, however many have been passed over: they are in memory together.
pub(super) const MOST_READ: usize = 512;

/// A candidate that may leave.
#[derive(Debug)]
pub(super) struct Survivor {
    pub hydrated: HydratedChunk,
    pub fused: Fused,
    /// Among all candidates, from 1.
    pub fused_rank: usize,
    pub reranked: Option<StageScore>,
    /// Of the last stage that ran.
    pub score: f64,
}

/// The candidates of a search, best first, and how far they have been read.
pub(super) struct Candidates {
    fused: Vec<Fused>,
    read: usize,
    /// From where each document was found to be served; empty unless several generations were searched. One that moves
    /// between two portions stays where it was for the rest of this search.
    served_from: HashMap<DocumentId, GenerationId>,
}

impl Candidates {
    pub(super) fn new(fused: Vec<Fused>) -> Self {
        Self { fused, read: 0, served_from: HashMap::new() }
    }

    pub(super) fn is_exhausted(&self) -> bool {
        self.read >= self.fused.len()
    }

    /// Reads on until at least `wanted` survive or there are no more; the order stays.
    pub(super) async fn take(
        &mut self,
        searcher: &Searcher,
        request: &Request<'_>,
        report: &mut Report,
        portion: Portion,
    ) -> Result<Vec<Survivor>, SearchError> {
        let start = std::time::Instant::now();
        let mut survivors = Vec::with_capacity(portion.wanted);
        let mut window = portion.read;
        while survivors.len() < portion.wanted && !self.is_exhausted() {
            let end = self.read.saturating_add(window).min(self.fused.len());
            let ids = self.ids(end, request);
            let (scope, collection) = (request.scope, &request.query.collection);
            let span = debug_span!("store.hydrate", chunks = ids.len());
            let hydrated = searcher
                .store
                .hydrate(scope, (collection, request.view), &ids, portion.embeddings)
                .instrument(span)
                .await?;
            if request.inputs.len() == 1 {
                self.admit(hydrated, end, request.query.filter.as_ref(), &mut survivors);
            } else {
                self.admit_serving(hydrated, end, request, &mut survivors);
            }
            // Whatever thinned out this portion will thin out the next one too.
            window = window.saturating_mul(2).min(MOST_READ);
        }
        report.timings.hydrate_ms += ms_since(start);
        Ok(survivors)
    }

    // Generations of one chunker name equal ids, and each is read once.
    fn ids(&self, end: usize, request: &Request<'_>) -> Vec<ChunkId> {
        let ids = self.fused[self.read..end].iter().map(|fused| fused.id);
        if request.inputs.len() == 1 {
            return ids.collect();
        }
        let mut seen = HashSet::new();
        ids.filter(|id| seen.insert(*id)).collect()
    }

    // `hydrated` is in candidate order with gaps, so one walk finds each one's place.
    fn admit(
        &mut self,
        hydrated: Vec<HydratedChunk>,
        end: usize,
        filter: Option<&Filter>,
        survivors: &mut Vec<Survivor>,
    ) {
        let mut at = self.read;
        for hydrated in hydrated {
            while at < end && self.fused[at].id != hydrated.chunk.id {
                at += 1;
            }
            debug_assert!(at < end, "the truth returned a chunk that was not asked for, or out of order");
            if at == end {
                break;
            }
            self.survive(hydrated, at, filter, survivors);
        }
        self.read = end;
    }

    /// As [`Candidates::admit`] over several generations: a candidate survives if its own generation is the one that
    /// serves its document, so each chunk leaves at most once.
    fn admit_serving(
        &mut self,
        hydrated: Vec<HydratedChunk>,
        end: usize,
        request: &Request<'_>,
        survivors: &mut Vec<Survivor>,
    ) {
        let mut by_id: HashMap<ChunkId, HydratedChunk> =
            hydrated.into_iter().map(|hydrated| (hydrated.chunk.id, hydrated)).collect();
        for at in self.read..end {
            let Fused { id, source, .. } = self.fused[at];
            let own = request.inputs[source].generation.id;
            if by_id.get(&id).is_none_or(|hydrated| hydrated.provenance.generation != own) {
                continue;
            }
            let hydrated = by_id.remove(&id).expect("it was there a line ago");
            let served_from = self.served_from.entry(hydrated.head.id.clone()).or_insert(own);
            if *served_from == own {
                self.survive(hydrated, at, request.query.filter.as_ref(), survivors);
            }
        }
        self.read = end;
    }

    fn survive(&self, hydrated: HydratedChunk, at: usize, filter: Option<&Filter>, survivors: &mut Vec<Survivor>) {
        // The index may have narrowed by metadata that has changed since.
        if filter.is_none_or(|filter| filter.matches(&ChunkFields(&hydrated))) {
            let fused = self.fused[at];
            survivors.push(Survivor { hydrated, fused, fused_rank: at + 1, reranked: None, score: fused.score });
        }
    }
}

/// How much to read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Portion {
    /// How many must survive.
    pub wanted: usize,
    /// How many to read for that at first.
    pub read: usize,
    pub embeddings: WithEmbeddings,
}
