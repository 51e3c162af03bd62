//! From survivors to hits: one for each group, with highlights and neighbours.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use futures::future::try_join_all;
use tokio::time::timeout_at;
use tracing::{Instrument, debug_span};

use crate::domain::{ByteSpan, Chunk, GroupBy, Hit, Neighbour, ScoreBreakdown, StageScore};
use crate::store::HydratedChunk;

use super::SearchError;
use super::fields::{merged_metadata, metadata_value};
use super::report::Report;
use super::searcher::{Request, Searcher};
use super::survivors::Survivor;

/// Up to so many bytes of hits are marked where the request runs: some 100 µs, less than waiting for a turn elsewhere.
const MARKED_AT_ONCE_BYTES: usize = 16 << 10;

/// Lets the first survivor of each group pass.
pub(super) struct Groups<'a> {
    by: Option<&'a GroupBy>,
    seen: HashSet<String>,
}

impl<'a> Groups<'a> {
    pub(super) fn new(by: Option<&'a GroupBy>) -> Self {
        Self { by, seen: HashSet::new() }
    }

    /// True unless a survivor of the same group has passed already; one without a group stands alone.
    pub(super) fn admit(&mut self, hydrated: &HydratedChunk) -> bool {
        let group = match self.by {
            None => None,
            Some(GroupBy::Document) => Some(hydrated.head.id.to_string()),
            // JSON text keeps the number 1 apart from the text "1".
            Some(GroupBy::Metadata(key)) => metadata_value(hydrated, key).map(ToString::to_string),
        };
        group.is_none_or(|group| self.seen.insert(group))
    }
}

/// The chunks around a hit.
type Around = (Vec<Chunk>, Vec<Chunk>);

impl Searcher {
    /// The hits as they leave, in the order of `survivors`.
    pub(super) async fn present(
        &self,
        request: &Request<'_>,
        survivors: Vec<Survivor>,
        report: &mut Report,
    ) -> Result<Vec<Hit>, SearchError> {
        let (highlights, around) =
            tokio::join!(self.highlights(request, &survivors), self.neighbours(request, &survivors));
        let highlights = highlights.unwrap_or_else(|reason| {
            report.degrade("highlight", reason);
            Vec::new()
        });
        let mut highlights = highlights.into_iter();
        let mut around = around?.into_iter();
        let is_fused = request.is_fused;
        let hits = survivors.into_iter().enumerate().map(|(index, survivor)| {
            let highlights = highlights.next().unwrap_or_default();
            let (before, after) = around.next().unwrap_or_default();
            let fusion = is_fused.then_some(StageScore { rank: survivor.fused_rank, score: survivor.fused.score });
            hit(survivor, Decoration { rank: index + 1, fusion, highlights, before, after })
        });
        Ok(hits.collect())
    }

    async fn highlights(
        &self,
        request: &Request<'_>,
        survivors: &[Survivor],
    ) -> Result<Vec<Vec<ByteSpan>>, &'static str> {
        if survivors.is_empty() || request.live().text.trim().is_empty() {
            return Ok(Vec::new());
        }
        if Instant::now() >= request.plan.until {
            return Err("deadline");
        }
        let bytes: usize = survivors.iter().map(|survivor| survivor.hydrated.chunk.text.len()).sum();
        let marked = if bytes <= MARKED_AT_ONCE_BYTES {
            let texts: Vec<&str> = survivors.iter().map(|survivor| survivor.hydrated.chunk.text.as_str()).collect();
            request.live().index.lexical.highlights(&request.live().text, &texts)
        } else {
            self.highlights_on_pool(request, survivors).await?
        };
        let spans =
            |ranges: Vec<Range<usize>>| ranges.into_iter().map(|range| ByteSpan::new(range.start, range.end)).collect();
        Ok(marked.into_iter().map(spans).collect())
    }

    async fn highlights_on_pool(
        &self,
        request: &Request<'_>,
        survivors: &[Survivor],
    ) -> Result<Vec<Vec<Range<usize>>>, &'static str> {
        // The pool's work may outlive this request, so it gets texts of its own.
        let texts: Vec<String> = survivors.iter().map(|survivor| survivor.hydrated.chunk.text.clone()).collect();
        let input = Arc::clone(request.live());
        let marking = self.compute.run(move || {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            input.index.lexical.highlights(&input.text, &texts)
        });
        match timeout_at(request.plan.until.into(), marking).await {
            Err(_) => Err("deadline"),
            Ok(Err(_)) => Err("overloaded"),
            Ok(Ok(marked)) => Ok(marked),
        }
    }

    async fn neighbours(&self, request: &Request<'_>, survivors: &[Survivor]) -> Result<Vec<Around>, SearchError> {
        let context = request.query.context;
        if context.before == 0 && context.after == 0 {
            return Ok(Vec::new());
        }
        let (scope, store) = (request.scope, &self.store);
        let around = survivors.iter().map(|one| store.neighbours(scope, one.fused.id, context.before, context.after));
        let span = debug_span!("store.neighbours", hits = survivors.len());
        Ok(try_join_all(around).instrument(span).await?)
    }
}

/// What a hit gets besides its survivor.
struct Decoration {
    rank: usize,
    fusion: Option<StageScore>,
    highlights: Vec<ByteSpan>,
    before: Vec<Chunk>,
    after: Vec<Chunk>,
}

fn hit(survivor: Survivor, decoration: Decoration) -> Hit {
    let Survivor { hydrated: HydratedChunk { chunk, provenance, head, .. }, fused, reranked, score, .. } = survivor;
    let neighbour = |chunk: Chunk| Neighbour { id: chunk.id, text: chunk.text };
    Hit {
        rank: decoration.rank,
        score,
        chunk_id: chunk.id,
        document_id: head.id,
        title: head.title,
        text: chunk.text,
        highlights: decoration.highlights,
        before: decoration.before.into_iter().map(neighbour).collect(),
        after: decoration.after.into_iter().map(neighbour).collect(),
        metadata: merged_metadata(head.metadata, chunk.metadata),
        provenance,
        breakdown: ScoreBreakdown {
            lexical: fused.lexical,
            vector: fused.vector,
            fusion: decoration.fusion,
            rerank: reranked,
        },
    }
}
