//! What is missing or damaged now.

use std::sync::Arc;

use async_trait::async_trait;

use crate::gateway::Gateway;
use crate::http::{Severity, Shortfall, StatusPort};
use crate::index::Generations;
use crate::ingest::Indexer;
use crate::store::{LedgerQueue, SqliteStore};
use crate::telemetry::Metrics;

use super::gateway::Reload;

/// The state of the process, as `/readyz` and `/metrics` tell it.
pub(super) struct Status {
    pub store: Arc<SqliteStore>,
    pub indexer: Arc<Indexer>,
    pub indexes: Arc<Generations>,
    pub missing: Vec<String>,
    pub metrics: Metrics,
    pub gateway: Gateway,
    pub reload: Arc<Reload>,
    pub ledger: LedgerQueue,
}

#[async_trait]
impl StatusPort for Status {
    async fn shortfalls(&self) -> Vec<Shortfall> {
        let degraded = |part, detail| Shortfall { part, detail, severity: Severity::Degraded };
        let mut shortfalls = Vec::new();
        if self.store.is_poisoned() {
            let detail = "a write could not be made durable: writing has stopped; check the disk, then restart";
            let severity = Severity::Blocking;
            shortfalls.push(Shortfall { part: "store", detail: detail.to_owned(), severity });
        }
        let health = self.indexer.health();
        if !health.caught_up {
            let detail = "the indexes are catching up with the database".to_owned();
            shortfalls.push(Shortfall { part: "index", detail, severity: Severity::Blocking });
        }
        if health.log_error.is_some() {
            shortfalls.push(degraded("index", "the operation log cannot be read; see the log".to_owned()));
        }
        for damage in health.damaged {
            let detail = format!("generation {} does not come along; it is tried again", damage.generation);
            shortfalls.push(degraded("index", detail));
        }
        if !self.indexes.damage().is_empty() {
            let detail = "damaged index files were moved aside and are being rebuilt; see the log".to_owned();
            shortfalls.push(degraded("index", detail));
        }
        if let Some(killed) = self.gateway.kill_switch().killed() {
            let detail = format!("the kill switch is on: {}; answers are made of quotes", killed.reason);
            shortfalls.push(degraded("kill_switch", detail));
        }
        let (calls, held) = self.gateway.budgets().unresolved();
        if calls > 0 {
            let detail = format!(
                "{calls} calls were under way when the last process ended; {held} stay reserved until \
                 POST /budgets/reservations/{{call_id}}/resolve"
            );
            shortfalls.push(degraded("budgets", detail));
        }
        for provider in self.gateway.broken_providers() {
            let detail = format!("the provider {provider} failed too often and is left alone for a while");
            shortfalls.push(degraded("gateway", detail));
        }
        if self.reload.problem().is_some() {
            let detail = "the settings file has changed and is not acceptable, the settings before hold; see the log";
            shortfalls.push(degraded("settings", detail.to_owned()));
        }
        if self.ledger.lost() > 0 {
            let detail = format!("{} rows of the ledger could not be written; see the log", self.ledger.lost());
            shortfalls.push(degraded("ledger", detail));
        }
        shortfalls.extend(self.missing.iter().map(|detail| degraded("models", detail.clone())));
        shortfalls
    }

    fn metrics(&self) -> String {
        self.metrics.render()
    }
}
