//! Gateways for tests: one model, no ledger, no waits worth mentioning.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use crate::domain::{
    Account, Amount, Budget, BudgetEvent, CallId, LlmCall, Reservation, TenantScope, Timestamp, TraceId, TraceStory,
};
use crate::store::{
    CallJournal, Ledger, LedgerEntry, LedgerQueue, NotDurable, OpenCall, StoreError, StoredBudget, UsageBy, UsageRow,
};

use super::alerts::Alerts;
use super::budgets::{Budgets, Clock};
use super::call::{Gateway, GatewayParts};
use super::contract::Provider;
use super::kill::{KillSwitch, OnBySettings};
use super::settings::{GatewaySettings, ModelSettings, UnknownPrice};
use super::{ProviderKind, ProviderSettings};

/// A clock that follows the system's.
pub fn clock() -> Clock {
    Arc::new(|| crate::domain::Timestamp(jiff::Timestamp::now().as_microsecond()))
}

/// A gateway without models.
pub fn none() -> Gateway {
    with(GatewaySettings::default(), Vec::new())
}

/// A gateway whose only model is `asked-for` of this provider, free of charge.
pub fn single(provider: Arc<dyn Provider>) -> Gateway {
    with(quick_settings(&["mock"]), vec![provider])
}

/// Settings with a provider and a model of each name, all in the default route, which wait only a moment to try again.
pub fn quick_settings(names: &[&str]) -> GatewaySettings {
    // The providers themselves are given; these settings only have to be acceptable.
    let provider = ProviderSettings {
        kind: ProviderKind::Scripted,
        script: vec!["unused".to_owned()],
        breaker_failures: 0,
        ..ProviderSettings::default()
    };
    let model =
        |name: &str| ModelSettings { provider: name.to_owned(), model: "asked-for".to_owned(), context_tokens: None };
    let route = super::RouteSettings {
        models: names.iter().map(|name| (*name).to_owned()).collect(),
        ..super::RouteSettings::default()
    };
    let routes = if names.is_empty() { Default::default() } else { [("default".to_owned(), route)].into() };
    GatewaySettings {
        providers: names.iter().map(|name| ((*name).to_owned(), provider.clone())).collect(),
        models: names.iter().map(|name| ((*name).to_owned(), model(name))).collect(),
        routes,
        unknown_price: UnknownPrice::Free,
        backoff_base_ms: 1,
        backoff_max_ms: 2,
        ..GatewaySettings::default()
    }
}

/// A gateway over these providers, in the order of the settings' names.
pub fn with(settings: GatewaySettings, providers: Vec<Arc<dyn Provider>>) -> Gateway {
    let budgets = Budgets::in_memory(settings.configured_budgets().unwrap(), clock());
    Gateway::new(parts(settings, providers, budgets)).unwrap()
}

/// What such a gateway is made of; a provider's place in the list is that of its name in the settings.
pub fn parts(settings: GatewaySettings, providers: Vec<Arc<dyn Provider>>, budgets: Budgets) -> GatewayParts {
    let names: Vec<String> = settings.providers.keys().cloned().collect();
    let build = move |name: &str, _: &ProviderSettings, _: Option<Arc<dyn Provider>>| {
        let at = names.iter().position(|known| known == name).expect("the settings name it");
        Ok(Arc::clone(&providers[at]))
    };
    GatewayParts {
        settings,
        build: Box::new(build),
        ledger: None,
        budgets: Arc::new(budgets),
        kill: Arc::new(KillSwitch::new(None, OnBySettings::No)),
        cache: None,
        clock: clock(),
    }
}

/// A ledger in memory.
#[derive(Default)]
pub struct MemoryLedger {
    entries: parking_lot::Mutex<Vec<LedgerEntry>>,
    /// Set: every write fails.
    pub is_broken: std::sync::atomic::AtomicBool,
}

impl MemoryLedger {
    /// The rows of attempts, in the order in which they were written.
    pub fn calls(&self) -> Vec<LlmCall> {
        let call = |entry: &LedgerEntry| match entry {
            LedgerEntry::Call(call) => Some(LlmCall::clone(call)),
            _ => None,
        };
        self.entries.lock().iter().filter_map(call).collect()
    }

    /// Reservations that were never settled.
    pub fn reservations_now(&self) -> Vec<Reservation> {
        let entries = self.entries.lock();
        let settled = |id: CallId| {
            entries.iter().any(|entry| matches!(entry, LedgerEntry::Settle { call_id, .. } if *call_id == id))
        };
        let open = entries.iter().filter_map(|entry| match entry {
            LedgerEntry::Reserve(reservation) if !settled(reservation.call_id) => Some(reservation.clone()),
            _ => None,
        });
        open.collect()
    }

    pub fn events(&self) -> Vec<BudgetEvent> {
        let event = |entry: &LedgerEntry| match entry {
            LedgerEntry::BudgetEvent(event) => Some(event.clone()),
            _ => None,
        };
        self.entries.lock().iter().filter_map(event).collect()
    }
}

#[async_trait]
impl Ledger for MemoryLedger {
    async fn record(&self, entries: Vec<LedgerEntry>) -> Result<(), StoreError> {
        if self.is_broken.load(std::sync::atomic::Ordering::Acquire) {
            return Err(StoreError::Poisoned);
        }
        self.entries.lock().extend(entries);
        Ok(())
    }

    async fn trace(&self, _: &TenantScope, _: TraceId) -> Result<Option<TraceStory>, StoreError> {
        Ok(None)
    }

    async fn usage(&self, _: &TenantScope, _: UsageBy, _: Timestamp, _: usize) -> Result<Vec<UsageRow>, StoreError> {
        Ok(Vec::new())
    }

    async fn spent(&self, _: Timestamp) -> Result<Vec<(Account, Amount)>, StoreError> {
        let mut spent: BTreeMap<Account, Amount> = BTreeMap::new();
        for entry in self.entries.lock().iter() {
            if let LedgerEntry::Settle { charges, .. } = entry {
                for (account, amount) in charges {
                    let sum = spent.entry(account.clone()).or_default();
                    *sum = *sum + *amount;
                }
            }
        }
        Ok(spent.into_iter().collect())
    }

    async fn reservations(&self) -> Result<Vec<Reservation>, StoreError> {
        Ok(self.reservations_now())
    }

    async fn budgets(&self) -> Result<Vec<StoredBudget>, StoreError> {
        Ok(Vec::new())
    }

    async fn put_budget(&self, _: Budget) -> Result<(), StoreError> {
        Ok(())
    }

    async fn forget_traces(&self, _: Timestamp) -> Result<u64, StoreError> {
        Ok(0)
    }
}

/// A gateway that writes into a ledger in memory.
pub struct Kept {
    pub gateway: Gateway,
    pub ledger: Arc<MemoryLedger>,
    queue: LedgerQueue,
}

impl Kept {
    /// A gateway over these providers, in the order of the settings' names.
    pub async fn new(settings: GatewaySettings, providers: Vec<Arc<dyn Provider>>) -> Self {
        Self::over(Arc::default(), settings, providers).await
    }

    /// As [`Self::new`], with what another one left in the ledger.
    pub async fn over(ledger: Arc<MemoryLedger>, settings: GatewaySettings, providers: Vec<Arc<dyn Provider>>) -> Self {
        let (queue, _) = LedgerQueue::start(ledger.clone());
        let configured = settings.configured_budgets().unwrap();
        let budgets = Budgets::load(configured, ledger.clone(), queue.clone(), Alerts::none(), clock()).await.unwrap();
        let parts = GatewayParts { ledger: Some(queue.clone()), ..parts(settings, providers, budgets) };
        Self { gateway: Gateway::new(parts).unwrap(), ledger, queue }
    }

    /// Waits until everything that was submitted is in the ledger.
    pub async fn flush(&self) {
        // A ledger that is broken on purpose says so.
        let _ = self.queue.submit_durable(Vec::new()).await;
    }

    /// The outcomes of all attempts, once they are in the ledger.
    pub async fn outcomes(&self) -> Vec<String> {
        self.flush().await;
        self.ledger.calls().into_iter().map(|call| format!("{} {}", call.provider, call.outcome)).collect()
    }
}

/// The journal of a step, in memory.
#[derive(Default)]
pub struct MemoryJournal {
    /// Calls so far.
    pub calls: std::sync::atomic::AtomicU8,
    /// Attempts that each call is said to have behind it.
    pub attempts_before: u32,
    /// Set: no call can be opened.
    pub is_broken: std::sync::atomic::AtomicBool,
    pub opened: parking_lot::Mutex<Vec<OpenCall>>,
    pub noted: parking_lot::Mutex<Vec<LedgerEntry>>,
}

impl MemoryJournal {
    /// The rows of attempts, in the order in which they were noted.
    pub fn rows(&self) -> Vec<LlmCall> {
        let row = |entry: &LedgerEntry| match entry {
            LedgerEntry::Call(call) => Some(LlmCall::clone(call)),
            _ => None,
        };
        self.noted.lock().iter().filter_map(row).collect()
    }

    /// What was charged for calls that have ended.
    pub fn settled(&self) -> Vec<(CallId, Vec<(Account, Amount)>)> {
        let settled = |entry: &LedgerEntry| match entry {
            LedgerEntry::Settle { call_id, charges } => Some((*call_id, charges.clone())),
            _ => None,
        };
        self.noted.lock().iter().filter_map(settled).collect()
    }
}

#[async_trait]
impl CallJournal for MemoryJournal {
    fn next_call_id(&self) -> CallId {
        CallId([1 + self.calls.fetch_add(1, std::sync::atomic::Ordering::AcqRel); 16])
    }

    async fn open(&self, call: OpenCall) -> Result<u32, NotDurable> {
        if self.is_broken.load(std::sync::atomic::Ordering::Acquire) {
            return Err(NotDurable::Closed);
        }
        self.opened.lock().push(call);
        Ok(self.attempts_before)
    }

    fn note(&self, entries: Vec<LedgerEntry>) {
        self.noted.lock().extend(entries);
    }
}
