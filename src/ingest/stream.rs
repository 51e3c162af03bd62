//! A stream of documents of any length at constant memory.
//!
//! Batches are prepared (parsed, chunked, embedded) side by side and written one after the other in the order of
//! the stream, so the embedder always has work at hand and a later document never overtakes an earlier one. A batch
//! that names a document of a batch still on its way waits for it: whether content is unchanged is only known then.

use std::collections::HashSet;
use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use crate::domain::{CollectionName, DocumentId, ErrorKind, Sequence, TenantScope};

use super::ingestor::Prepared;
use super::{IncomingItem, IngestError, IngestOutcome, IngestStatus, Ingestor};

/// What became of a stream.
#[derive(Debug, Default)]
pub struct StreamReport {
    pub accepted: u64,
    pub unchanged: u64,
    pub failed: u64,
    /// The newest operation of the stream; `None` if nothing was accepted.
    pub sequence: Option<Sequence>,
    /// The first failed items, as many as `failures_listed` says.
    pub failures: Vec<StreamFailure>,
    /// Why the stream was not read to its end. Everything counted above is durable all the same.
    pub stopped: Option<IngestError>,
}

/// A failed item of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamFailure {
    /// Place in the stream, from 0.
    pub index: u64,
    pub id: Option<String>,
    pub kind: ErrorKind,
    /// A sentence for the caller.
    pub detail: String,
}

type Key = (CollectionName, DocumentId);

/// Items that wait to become a batch.
#[derive(Default)]
struct Forming {
    items: Vec<IncomingItem>,
    keys: HashSet<Key>,
    bytes: usize,
    /// When the first item came.
    since: Option<Instant>,
}

/// A batch that is being prepared.
struct InFlight {
    keys: HashSet<Key>,
    prepared: AbortOnDropHandle<Result<Prepared, IngestError>>,
}

impl Ingestor {
    /// Takes in every item of a stream. `on_outcome` hears of each one in order, once it is durable or has failed.
    ///
    /// Holds at most `batches_in_flight + 1` batches in memory. An error of the truth ends the stream early and is
    /// told in the report; dropping the future leaves what was written and drops the rest.
    pub async fn put_stream(
        self: &Arc<Self>,
        scope: &TenantScope,
        items: impl Stream<Item = IncomingItem> + Send,
        mut on_outcome: impl FnMut(u64, &IngestOutcome) + Send,
    ) -> StreamReport {
        let mut report = StreamReport::default();
        let mut items = pin!(items.fuse());
        let mut forming = Forming::default();
        let mut in_flight: VecDeque<InFlight> = VecDeque::new();
        let mut ended = false;
        loop {
            if self.may_launch(&forming, &in_flight, ended) {
                in_flight.push_back(self.launch(scope, std::mem::take(&mut forming)));
            }
            if ended && forming.items.is_empty() && in_flight.is_empty() {
                return report;
            }
            let idle = in_flight.is_empty();
            tokio::select! {
                biased;
                slots = oldest(&mut in_flight), if !idle => {
                    in_flight.pop_front();
                    if let Err(error) = self.settle(scope, slots, &mut report, &mut on_outcome).await {
                        report.stopped = Some(error);
                        return report;
                    }
                }
                item = items.next(), if !ended && !self.is_full(&forming) => match item {
                    Some(item) => forming.add(item),
                    None => ended = true,
                },
                // A slow stream: what is here goes on its way instead of waiting for company.
                () = tokio::time::sleep_until(self.leaves_at(&forming)), if idle && !forming.items.is_empty() => {
                    in_flight.push_back(self.launch(scope, std::mem::take(&mut forming)));
                }
            }
        }
    }

    fn is_full(&self, forming: &Forming) -> bool {
        forming.items.len() >= self.settings.batch_documents || forming.bytes >= self.settings.batch_bytes
    }

    #[expect(clippy::fn_params_excessive_bools, reason = "the state of the stream, not a choice of behaviour")]
    fn may_launch(&self, forming: &Forming, in_flight: &VecDeque<InFlight>, ended: bool) -> bool {
        let complete = self.is_full(forming) || (ended && !forming.items.is_empty());
        complete
            && in_flight.len() < self.settings.batches_in_flight.max(1)
            && in_flight.iter().all(|batch| batch.keys.is_disjoint(&forming.keys))
    }

    fn leaves_at(&self, forming: &Forming) -> Instant {
        forming.since.unwrap_or_else(Instant::now) + Duration::from_millis(self.settings.batch_linger_ms)
    }

    fn launch(self: &Arc<Self>, scope: &TenantScope, forming: Forming) -> InFlight {
        let (ingestor, scope) = (Arc::clone(self), scope.clone());
        let preparing = async move { ingestor.prepare(&scope, forming.items).await }.in_current_span();
        InFlight { keys: forming.keys, prepared: AbortOnDropHandle::new(tokio::spawn(preparing)) }
    }

    async fn settle(
        &self,
        scope: &TenantScope,
        prepared: Result<Prepared, IngestError>,
        report: &mut StreamReport,
        on_outcome: &mut (impl FnMut(u64, &IngestOutcome) + Send),
    ) -> Result<(), IngestError> {
        for outcome in self.commit(scope, prepared?).await? {
            on_outcome(report.total(), &outcome);
            report.add(outcome, self.settings.failures_listed);
        }
        Ok(())
    }
}

// Pending forever while there is none, which `select!` never asks for.
async fn oldest(in_flight: &mut VecDeque<InFlight>) -> Result<Prepared, IngestError> {
    match in_flight.front_mut() {
        Some(batch) => (&mut batch.prepared).await.unwrap_or(Err(IngestError::Panicked)),
        None => std::future::pending().await,
    }
}

impl Forming {
    fn add(&mut self, item: IncomingItem) {
        if let Ok(document) = &item {
            self.bytes += document.size_bytes();
            self.keys.insert((document.collection.clone(), document.document_id()));
        }
        self.since.get_or_insert_with(Instant::now);
        self.items.push(item);
    }
}

impl StreamReport {
    /// Items told of so far.
    pub fn total(&self) -> u64 {
        self.accepted + self.unchanged + self.failed
    }

    fn add(&mut self, outcome: IngestOutcome, failures_listed: usize) {
        self.sequence = self.sequence.max(outcome.sequence);
        match (outcome.status, outcome.error) {
            (IngestStatus::Accepted, _) => self.accepted += 1,
            (IngestStatus::Unchanged, _) => self.unchanged += 1,
            (IngestStatus::Failed, error) => {
                if self.failures.len() < failures_listed
                    && let Some(error) = error
                {
                    let (index, kind, detail) = (self.total(), error.kind(), error.to_string());
                    self.failures.push(StreamFailure { index, id: outcome.id, kind, detail });
                }
                self.failed += 1;
            }
        }
    }
}
