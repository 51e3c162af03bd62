//! Live searches that are also put to a generation in shadow: what both found, and how long each took.
//!
//! A search never waits for this and never fails by it: it leaves a note where there is room and goes on. One worker
//! takes the notes, one after the other, and rests after each as long as it worked. No query is stored.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use metrics::counter;
use tokio::sync::mpsc;
use tokio::time::timeout_at;

use crate::domain::{
    Context, DocumentId, Generation, Query, SearchResult, TenantScope, Timestamp, TraceId, hash_parts,
};
use crate::store::{CaseStore, ShadowSearch};

use super::Searcher;

/// Most searches that wait for the worker; further ones are dropped and counted. 16: a burst of a second on a small
/// machine, and some kilobytes.
const MAX_WAITING: usize = 16;
/// Results are written together, up to so many of one tenant. 32: one write instead of 32.
const MAX_UNWRITTEN: usize = 32;
/// Longest time that a result waits to be written. 2 s: a report may ask for it then.
const WRITTEN_WITHIN: Duration = Duration::from_secs(2);
/// Longest rest after a search. 1 s: a search that ran into its deadline must not stop the work for as long again.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// Where live searches leave what is to be put to a generation in shadow.
pub struct ShadowQueue {
    jobs: mpsc::Sender<ShadowJob>,
    /// Names the trace that a search runs in.
    trace_of: fn() -> TraceId,
    offered: AtomicU64,
}

/// The other end of a [`ShadowQueue`], for [`run_shadow_searches`].
pub struct ShadowJobs(mpsc::Receiver<ShadowJob>);

/// A live search that has been answered.
struct ShadowJob {
    scope: TenantScope,
    query: Query,
    generation: Generation,
    trace_id: TraceId,
    found: Vec<DocumentId>,
    live_us: u64,
}

/// A queue and its other end; `trace_of` is called while a live search runs.
pub fn shadow_queue(trace_of: fn() -> TraceId) -> (ShadowQueue, ShadowJobs) {
    let (jobs, taken) = mpsc::channel(MAX_WAITING);
    (ShadowQueue { jobs, trace_of, offered: AtomicU64::new(0) }, ShadowJobs(taken))
}

impl ShadowQueue {
    /// Leaves a search that was answered by `live`, by lot for this share of them; never waits.
    pub(super) fn offer(
        &self,
        (scope, query): (&TenantScope, &Query),
        result: &SearchResult,
        (live, shadow, share): (&Generation, &Generation, f64),
    ) {
        if lot(self.offered.fetch_add(1, Ordering::Relaxed)) >= share {
            return;
        }
        // A caller's vector means nothing to another embedder.
        if query.vector.is_some() && live.profile.embedder != shadow.profile.embedder {
            return;
        }
        let Ok(place) = self.jobs.try_reserve() else {
            counter!("plumb_shadow_searches_total", "outcome" => "dropped").increment(1);
            return;
        };
        // The bare search: what surrounds hits is neither compared nor timed alike.
        let mut query = Query { min_sequence: None, context: Context::default(), explain: false, ..query.clone() };
        // By the same reranker, or the comparison would be one of rerankers.
        query.rerank.model = result.reranked_by.clone().or(query.rerank.model);
        place.send(ShadowJob {
            scope: scope.clone(),
            query,
            generation: shadow.clone(),
            trace_id: (self.trace_of)(),
            found: result.hits.iter().map(|hit| hit.document_id.clone()).collect(),
            live_us: (result.took_ms * 1e3).round() as u64,
        });
    }
}

/// The lot of the `n`th search, from 0 to below 1.
fn lot(n: u64) -> f64 {
    let hash = u128::from_le_bytes(hash_parts(&[b"shadow", &n.to_le_bytes()]));
    // The upper 53 bits: as many as an f64 tells apart.
    (hash >> 75) as f64 / (1_u64 << 53) as f64
}

/// Runs what waits, one search at a time, and keeps what came of it; ends when nobody can leave anything any more. What
/// was not written yet when it is dropped is lost, which harms nobody.
pub async fn run_shadow_searches(searcher: Arc<Searcher>, cases: Arc<dyn CaseStore>, ShadowJobs(mut jobs): ShadowJobs) {
    let mut unwritten: Vec<(TenantScope, ShadowSearch)> = Vec::new();
    let mut write_at = Instant::now();
    loop {
        let next = if unwritten.is_empty() {
            jobs.recv().await
        } else {
            let due = unwritten.len() >= MAX_UNWRITTEN || Instant::now() >= write_at;
            let waited = if due { None } else { timeout_at(write_at.into(), jobs.recv()).await.ok() };
            match waited {
                Some(next) => next,
                None => {
                    write(cases.as_ref(), &mut unwritten).await;
                    continue;
                }
            }
        };
        let Some(job) = next else { return write(cases.as_ref(), &mut unwritten).await };
        let start = Instant::now();
        if let Some(compared) = compare(&searcher, &job).await {
            if unwritten.is_empty() {
                write_at = Instant::now() + WRITTEN_WITHIN;
            }
            unwritten.push((job.scope, compared));
        }
        tokio::time::sleep(start.elapsed().min(LONGEST_REST)).await;
    }
}

async fn compare(searcher: &Searcher, job: &ShadowJob) -> Option<ShadowSearch> {
    let taken_at = Instant::now();
    let found = match searcher.search_in(&job.scope, &job.query, &job.generation, taken_at).await {
        Ok(found) => found,
        Err(error) => {
            counter!("plumb_shadow_searches_total", "outcome" => "failed").increment(1);
            tracing::debug!(%error, generation = %job.generation.id, "a shadow search failed");
            return None;
        }
    };
    counter!("plumb_shadow_searches_total", "outcome" => "run").increment(1);
    Some(ShadowSearch {
        generation: job.generation.id,
        trace_id: job.trace_id,
        mode: job.query.mode,
        top_k: job.query.top_k,
        overlap: overlap(&job.found, found.hits.iter().map(|hit| &hit.document_id)),
        live_us: job.live_us,
        shadow_us: (found.took_ms * 1e3).round() as u64,
        at: Timestamp(jiff::Timestamp::now().as_microsecond()),
    })
}

/// Share of the documents that either list names which both name; 1 if both are empty.
pub fn overlap<'a>(one: &[DocumentId], other: impl IntoIterator<Item = &'a DocumentId>) -> f64 {
    let one: HashSet<&DocumentId> = one.iter().collect();
    let other: HashSet<&DocumentId> = other.into_iter().collect();
    let either = one.union(&other).count();
    if either == 0 { 1.0 } else { one.intersection(&other).count() as f64 / either as f64 }
}

async fn write(cases: &dyn CaseStore, unwritten: &mut Vec<(TenantScope, ShadowSearch)>) {
    while let Some((scope, _)) = unwritten.first() {
        let scope = scope.clone();
        let is_own = |(of, _): &mut (TenantScope, ShadowSearch)| of.tenant == scope.tenant;
        let own: Vec<ShadowSearch> = unwritten.extract_if(.., is_own).map(|(_, search)| search).collect();
        if let Err(error) = cases.record_shadow(&scope, own).await {
            tracing::warn!(%error, "shadow searches cannot be kept");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(names: &[&str]) -> Vec<DocumentId> {
        names.iter().map(|name| DocumentId::new(name).unwrap()).collect()
    }

    #[test]
    fn the_overlap_is_that_of_documents_not_of_chunks() {
        let overlap = |one: &[&str], other: &[&str]| overlap(&ids(one), &ids(other));

        assert_eq!(overlap(&["a", "a", "b"], &["b", "c"]), 1.0 / 3.0);
        assert_eq!(overlap(&["a", "b"], &["b", "a", "a"]), 1.0);
        assert_eq!(overlap(&[], &["a"]), 0.0);
        assert_eq!(overlap(&[], &[]), 1.0);
    }

    #[test]
    fn lots_fall_evenly_and_the_same_each_time() {
        let below = (0..10_000).filter(|n| lot(*n) < 0.1).count();

        assert!((900..1_100).contains(&below), "{below}");
        assert_eq!(lot(7), lot(7));
        assert!((0..1_000).all(|n| (0.0..1.0).contains(&lot(n))));
    }
}
