//! What becomes of finished traces: rows of the ledger, spans for a collector if one is named, and an end.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::domain::Timestamp;
use crate::store::{Ledger, LedgerEntry, LedgerQueue};
use crate::telemetry::{FinishedTrace, TelemetryError, TraceExporter, TraceSettings, finished_traces, trace_dropped};

/// Time between two looks for traces that are too old. 1 h: what is removed at once stays small.
const FORGET_EVERY: Duration = Duration::from_secs(3_600);
/// Traces that may wait for the collector; later ones stay in the ledger alone. 256: as many as wait for the ledger.
const EXPORT_ROOM: usize = 256;
/// Longest wait for the collector when the process ends.
const EXPORT_GRACE: Duration = Duration::from_secs(5);

/// The tasks that keep traces; they end with the instance.
pub(super) struct TraceKeeper {
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    exporting: Option<JoinHandle<()>>,
}

impl TraceKeeper {
    /// Takes the process's finished traces, if they have no taker yet.
    pub(super) fn start(
        ledger: Arc<dyn Ledger>,
        queue: LedgerQueue,
        settings: &TraceSettings,
    ) -> Result<Self, TelemetryError> {
        let stop = CancellationToken::new();
        let mut tasks = Vec::new();
        let mut exporting = None;
        if let Some(finished) = finished_traces() {
            let mut collector = None;
            if let Some(endpoint) = &settings.otlp_endpoint {
                let (sender, receiver) = mpsc::channel(EXPORT_ROOM);
                collector = Some(sender);
                exporting = Some(tokio::spawn(TraceExporter::new(endpoint)?.run(receiver)));
            }
            tasks.push(tokio::spawn(keep_traces(finished, queue, collector, stop.clone())));
        }
        if settings.keep_days > 0 {
            tasks.push(tokio::spawn(forget_old(ledger, settings.keep_days, stop.clone())));
        }
        Ok(Self { stop, tasks, exporting })
    }

    /// Hands on what has ended so far. Call it before the ledger's queue is flushed for the last time.
    pub(super) async fn shutdown(self) {
        self.stop.cancel();
        for task in self.tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task that keeps traces ended badly");
            }
        }
        if let Some(mut exporting) = self.exporting
            && timeout(EXPORT_GRACE, &mut exporting).await.is_err()
        {
            tracing::warn!("the collector of traces does not answer; the last ones are not sent");
            exporting.abort();
        }
    }
}

/// Writes finished traces down until `stop`; those that had ended before it are written down all the same.
///
/// Waits for the ledger's queue. `collector` is never waited for.
pub(super) async fn keep_traces(
    mut finished: mpsc::Receiver<FinishedTrace>,
    queue: LedgerQueue,
    collector: Option<mpsc::Sender<FinishedTrace>>,
    stop: CancellationToken,
) {
    while let Some(Some(one)) = stop.run_until_cancelled(finished.recv()).await {
        keep(one, &queue, collector.as_ref()).await;
    }
    finished.close();
    while let Some(one) = finished.recv().await {
        keep(one, &queue, collector.as_ref()).await;
    }
}

async fn keep(one: FinishedTrace, queue: &LedgerQueue, collector: Option<&mpsc::Sender<FinishedTrace>>) {
    if let Some(collector) = collector
        && collector.try_send(one.clone()).is_err()
    {
        trace_dropped("collector_behind", 1);
    }
    let searches = one.searches.into_iter().map(|search| LedgerEntry::Search(Box::new(search)));
    let entries = std::iter::once(LedgerEntry::Trace(Box::new(one.trace))).chain(searches).collect();
    queue.submit(entries).await;
}

/// Removes traces that are too old, now and from time to time.
async fn forget_old(ledger: Arc<dyn Ledger>, keep_days: u32, stop: CancellationToken) {
    let days_us = i64::from(keep_days) * 86_400_000_000;
    let forgetting = async {
        loop {
            let before = Timestamp(jiff::Timestamp::now().as_microsecond() - days_us);
            match ledger.forget_traces(before).await {
                Ok(0) => {}
                Ok(rows) => tracing::info!(rows, keep_days, "old traces removed"),
                Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "old traces cannot be removed"),
            }
            sleep(FORGET_EVERY).await;
        }
    };
    let _: Option<()> = stop.run_until_cancelled(forgetting).await;
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use parking_lot::Mutex;

    use super::*;
    use crate::domain::{
        Account, Amount, Budget, CollectionName, Mode, Reservation, SearchRecord, StageTimings, TenantId, TenantScope,
        TraceId, TraceRecord, TraceStory,
    };
    use crate::store::{StoreError, StoredBudget, UsageBy, UsageRow};

    /// Remembers what it was told.
    #[derive(Default)]
    struct MemoryLedger {
        entries: Mutex<Vec<LedgerEntry>>,
        forgotten_before: Mutex<Vec<Timestamp>>,
    }

    #[async_trait]
    impl Ledger for MemoryLedger {
        async fn record(&self, entries: Vec<LedgerEntry>) -> Result<(), StoreError> {
            self.entries.lock().extend(entries);
            Ok(())
        }

        async fn forget_traces(&self, before: Timestamp) -> Result<u64, StoreError> {
            self.forgotten_before.lock().push(before);
            Ok(0)
        }

        async fn trace(&self, _: &TenantScope, _: TraceId) -> Result<Option<TraceStory>, StoreError> {
            unreachable!("nothing here reads traces")
        }

        async fn usage(
            &self,
            _: &TenantScope,
            _: UsageBy,
            _: Timestamp,
            _: usize,
        ) -> Result<Vec<UsageRow>, StoreError> {
            unreachable!("nothing here reads usage")
        }

        async fn spent(&self, _: Timestamp) -> Result<Vec<(Account, Amount)>, StoreError> {
            unreachable!("nothing here reads accounts")
        }

        async fn reservations(&self) -> Result<Vec<Reservation>, StoreError> {
            unreachable!("nothing here reads reservations")
        }

        async fn budgets(&self) -> Result<Vec<StoredBudget>, StoreError> {
            unreachable!("nothing here reads budgets")
        }

        async fn put_budget(&self, _: Budget) -> Result<(), StoreError> {
            unreachable!("nothing here sets budgets")
        }
    }

    fn finished(id: u8) -> FinishedTrace {
        let (trace_id, tenant) = (TraceId([id; 16]), TenantId::new("acme").unwrap());
        let trace = TraceRecord {
            trace_id,
            tenant: Some(tenant.clone()),
            name: "POST /search".to_owned(),
            started_at: Timestamp(1),
            duration_us: 2,
            status: 200,
            kept: "sampled".to_owned(),
            spans: Vec::new(),
        };
        let search = SearchRecord {
            trace_id,
            tenant,
            collection: CollectionName::new("default").unwrap(),
            mode: Mode::Lexical,
            generation: None,
            top_k: 10,
            hits: 1,
            started_at: Timestamp(1),
            took_us: 2,
            timings: StageTimings::default(),
            degraded: Vec::new(),
        };
        FinishedTrace { trace, searches: vec![search] }
    }

    #[tokio::test]
    async fn what_has_ended_is_written_down_also_at_the_end() {
        let ledger = Arc::new(MemoryLedger::default());
        let (queue, writing) = LedgerQueue::start(ledger.clone());
        let (sender, receiver) = mpsc::channel(4);
        let stop = CancellationToken::new();
        sender.send(finished(1)).await.unwrap();
        sender.send(finished(2)).await.unwrap();

        stop.cancel();
        keep_traces(receiver, queue, None, stop).await;
        writing.await.unwrap();

        let wanted: Vec<LedgerEntry> = [finished(1), finished(2)]
            .into_iter()
            .flat_map(|one| {
                let searches = one.searches.into_iter().map(|search| LedgerEntry::Search(Box::new(search)));
                std::iter::once(LedgerEntry::Trace(Box::new(one.trace))).chain(searches)
            })
            .collect();
        assert_eq!(*ledger.entries.lock(), wanted);
        assert!(sender.send(finished(3)).await.is_err());
    }

    #[tokio::test]
    async fn a_collector_that_takes_nothing_delays_no_row() {
        let ledger = Arc::new(MemoryLedger::default());
        let (queue, writing) = LedgerQueue::start(ledger.clone());
        let (sender, receiver) = mpsc::channel(4);
        let (collector, mut collected) = mpsc::channel(1);
        for id in 1..=3 {
            sender.send(finished(id)).await.unwrap();
        }
        drop(sender);

        keep_traces(receiver, queue, Some(collector), CancellationToken::new()).await;
        writing.await.unwrap();

        assert_eq!(ledger.entries.lock().len(), 6);
        assert_eq!(collected.recv().await, Some(finished(1)));
        assert_eq!(collected.recv().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn old_traces_are_removed_at_the_start_and_every_hour() {
        let ledger = Arc::new(MemoryLedger::default());
        let stop = CancellationToken::new();
        let now = jiff::Timestamp::now().as_microsecond();

        let forgetting = tokio::spawn(forget_old(ledger.clone(), 30, stop.clone()));
        sleep(FORGET_EVERY + Duration::from_secs(1)).await;
        stop.cancel();
        forgetting.await.unwrap();

        let before = ledger.forgotten_before.lock().clone();
        assert_eq!(before.len(), 2);
        let age_days = (now - before[0].0) as f64 / 86_400e6;
        assert!((29.9..=30.0).contains(&age_days), "{age_days}");
    }
}
