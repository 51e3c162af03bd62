//! Candidates read back from the truth: those that may leave survive, the others are passed over.
//!
//! Read in portions and only as far as needed: a page of ten needs ten chunks, not two hundred.

use tracing::{Instrument, debug_span};

use crate::domain::{Filter, StageScore};
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
}

impl Candidates {
    pub(super) fn new(fused: Vec<Fused>) -> Self {
        Self { fused, read: 0 }
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
            let ids: Vec<_> = self.fused[self.read..end].iter().map(|fused| fused.id).collect();
            let (scope, collection) = (request.scope, &request.query.collection);
            let span = debug_span!("store.hydrate", chunks = ids.len());
            let hydrated = searcher.store.hydrate(scope, collection, &ids, portion.embeddings).instrument(span).await?;
            self.admit(hydrated, end, request.query.filter.as_ref(), &mut survivors);
            // Whatever thinned out this portion will thin out the next one too.
            window = window.saturating_mul(2).min(MOST_READ);
        }
        report.timings.hydrate_ms += ms_since(start);
        Ok(survivors)
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
            // The index may have narrowed by metadata that has changed since.
            if filter.is_none_or(|filter| filter.matches(&ChunkFields(&hydrated))) {
                let fused = self.fused[at];
                survivors.push(Survivor { hydrated, fused, fused_rank: at + 1, reranked: None, score: fused.score });
            }
        }
        self.read = end;
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
