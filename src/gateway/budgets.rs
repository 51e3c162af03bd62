//! Caps on spending: the worst case of a call is reserved before it, the truth is settled after it.
//!
//! What is spent and reserved never exceeds a limit: both are changed under one lock, and no call goes out before its
//! reservation is durable. Decisions are made in memory; the ledger holds the same, so that a restart goes on where
//! the process before it ended, with what that left reserved still counted.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::domain::{
    Account, Amount, Budget, BudgetAction, BudgetEvent, BudgetPeriod, BudgetScope, CallId, Nanousd, Payer, Reservation,
    TenantId, Timestamp,
};
use crate::store::{Ledger, LedgerEntry, LedgerQueue, StoreError};

use super::GatewayError;
use super::alerts::Alerts;
use super::limits::{alert_reached, limit_reached, over, period_end, period_start};
use super::lost::lost_call;
use super::undo::Undo;

/// Gives the time; budgets do not follow a clock that is set while the process runs.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Where a budget comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BudgetSource {
    /// The settings file; it cannot be changed over the wire, and is gone when it is taken out there.
    Config,
    /// Somebody, with `PUT /budgets/{scope}`; kept in the database.
    Stored,
}

/// A budget with everything that is counted against it.
#[derive(Debug, Clone, PartialEq)]
pub struct BudgetState {
    pub budget: Budget,
    pub source: BudgetSource,
    /// Those of the present period, by name.
    pub accounts: Vec<AccountState>,
}

/// One account of a budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountState {
    pub account: Account,
    pub spent: Amount,
    /// By calls under way, and by those that a crash left behind.
    pub reserved: Amount,
    /// What a crash left behind.
    pub unresolved: Vec<Reservation>,
}

/// All budgets of the process.
pub struct Budgets {
    book: Mutex<Book>,
    ledger: Option<(Arc<dyn Ledger>, LedgerQueue)>,
    alerts: Alerts,
    clock: Clock,
}

#[derive(Default)]
struct Book {
    rules: Vec<(Budget, BudgetSource)>,
    /// When a refusal of each rule was last written down.
    refusals: HashMap<(BudgetScope, BudgetPeriod), Instant>,
    /// The day on which ended periods were last taken out.
    swept: Timestamp,
    accounts: HashMap<Account, Entry>,
    /// Reservations of processes that did not live to settle them.
    orphans: HashMap<CallId, Reservation>,
    active: HashMap<CallId, (Vec<Account>, CancellationToken)>,
}

#[derive(Default)]
struct Entry {
    spent: Amount,
    reserved: Amount,
    is_alerted: bool,
}

/// The worst case of one call, reserved until it is settled.
#[derive(Debug)]
pub struct Held {
    pub reservation: Reservation,
    /// Cancelled when a budget of the call has nothing left.
    pub cut: CancellationToken,
}

/// Refusals of one budget that are written down, at most one in so long: a client in a loop must not fill the disk.
const REFUSAL_EVERY: Duration = Duration::from_secs(1);

impl Budgets {
    /// Budgets that are kept nowhere: for gateways without a ledger.
    pub fn in_memory(rules: Vec<Budget>, clock: Clock) -> Self {
        let rules = rules.into_iter().map(|budget| (budget, BudgetSource::Config)).collect();
        let book = Book { rules, ..Book::default() };
        Self { book: Mutex::new(book), ledger: None, alerts: Alerts::none(), clock }
    }

    /// The budgets of the settings and of the ledger, with what was spent and left reserved.
    pub async fn load(
        configured: Vec<Budget>,
        ledger: Arc<dyn Ledger>,
        queue: LedgerQueue,
        alerts: Alerts,
        clock: Clock,
    ) -> Result<Self, StoreError> {
        let now = clock();
        let mut book = Book::default();
        book.rules.extend(configured.into_iter().map(|budget| (budget, BudgetSource::Config)));
        book.rules.extend(ledger.budgets().await?.into_iter().map(|stored| (stored.budget, BudgetSource::Stored)));
        // A month's start is before its days'.
        for (account, spent) in ledger.spent(period_start(BudgetPeriod::Month, now)).await? {
            book.accounts.entry(account).or_default().spent = spent;
        }
        for reservation in ledger.reservations().await? {
            book.add_reserved(&reservation);
            book.orphans.insert(reservation.call_id, reservation);
        }
        book.mark_alerted();
        if !book.orphans.is_empty() {
            let calls = book.orphans.len();
            tracing::warn!(
                calls,
                "calls were under way when the last process ended; what they reserved counts until resolved"
            );
        }
        Ok(Self { book: Mutex::new(book), ledger: Some((ledger, queue)), alerts, clock })
    }

    /// Replaces the budgets of the settings; what was spent stays counted.
    pub fn configure(&self, configured: Vec<Budget>) {
        let mut book = self.book.lock();
        book.rules.retain(|(_, source)| *source == BudgetSource::Stored);
        book.rules.extend(configured.into_iter().map(|budget| (budget, BudgetSource::Config)));
        book.mark_alerted();
        book.cut_what_is_over();
    }

    /// Sets a budget at run time; one of the same scope and period that was set so is replaced.
    pub async fn put(self: &Arc<Self>, budget: Budget) -> Result<BudgetState, StoreError> {
        let this = Arc::clone(self);
        // On its own feet: what is stored must also hold if the one who asked has gone.
        let put = tokio::spawn(async move { this.put_now(budget).await });
        put.await.map_err(|_| StoreError::Closed)?
    }

    async fn put_now(&self, budget: Budget) -> Result<BudgetState, StoreError> {
        if let Some((ledger, _)) = &self.ledger {
            ledger.put_budget(budget.clone()).await?;
        }
        let mut book = self.book.lock();
        let same = |(old, source): &(Budget, BudgetSource)| {
            *source == BudgetSource::Stored && old.scope == budget.scope && old.period == budget.period
        };
        book.rules.retain(|rule| !same(rule));
        book.rules.push((budget.clone(), BudgetSource::Stored));
        book.mark_alerted();
        book.cut_what_is_over();
        Ok(book.state(&budget, BudgetSource::Stored, (self.clock)()))
    }

    /// How many reservations a crash left behind, and what they hold back.
    pub fn unresolved(&self) -> (usize, Nanousd) {
        let book = self.book.lock();
        (book.orphans.len(), book.orphans.values().map(|orphan| orphan.amount.cost).sum())
    }

    /// Every budget with its accounts of the present period.
    pub fn states(&self) -> Vec<BudgetState> {
        let (book, now) = (self.book.lock(), (self.clock)());
        book.rules.iter().map(|(budget, source)| book.state(budget, *source, now)).collect()
    }

    /// Reserves the worst case of a call against every budget that concerns it, durably; `None` if none does.
    pub async fn reserve(
        &self,
        call_id: CallId,
        tenant: &TenantId,
        payer: &Payer<'_>,
        amount: Amount,
    ) -> Result<Option<Held>, GatewayError> {
        let held = self.hold((call_id, tenant), payer, amount)?;
        if let (Some(one), Some((_, queue))) = (&held, &self.ledger) {
            let tell = |entries| {
                queue.try_submit(entries);
            };
            let undo = Undo::new(self, Some(one), &tell);
            let entry = LedgerEntry::Reserve(one.reservation.clone());
            queue.submit_durable(vec![entry]).await.map_err(GatewayError::Ledger)?;
            undo.keep();
        }
        Ok(held)
    }

    /// As [`Self::reserve`], in memory alone: whoever calls this makes it durable before the call goes out.
    pub fn hold(
        &self,
        (call_id, tenant): (CallId, &TenantId),
        payer: &Payer<'_>,
        amount: Amount,
    ) -> Result<Option<Held>, GatewayError> {
        let now = (self.clock)();
        let reserved = self.book.lock().reserve((call_id, tenant), payer, amount, now);
        reserved.map_err(|refusal| {
            if let (Some(event), Some((_, queue))) = (refusal.event, &self.ledger) {
                queue.try_submit(vec![LedgerEntry::BudgetEvent(event)]);
            }
            metrics::counter!("plumb_budget_refusals_total").increment(1);
            refusal.error
        })
    }

    /// Takes back what was held for a call that will not be made.
    pub fn release(&self, reservation: &Reservation) {
        let mut book = self.book.lock();
        book.active.remove(&reservation.call_id);
        for account in &reservation.accounts {
            let entry = book.accounts.entry(account.clone()).or_default();
            entry.reserved = entry.reserved.saturating_sub(reservation.amount);
        }
    }

    /// Settles a call with what it truly used. The entries returned belong into the ledger together with the rows of
    /// the call's attempts.
    pub fn settle(&self, held: &Held, used: Amount) -> Vec<LedgerEntry> {
        let reservation = &held.reservation;
        let mut book = self.book.lock();
        book.active.remove(&reservation.call_id);
        let mut entries = vec![LedgerEntry::Settle {
            call_id: reservation.call_id,
            charges: reservation.accounts.iter().map(|account| (account.clone(), used)).collect(),
        }];
        for account in &reservation.accounts {
            let entry = book.accounts.entry(account.clone()).or_default();
            entry.reserved = entry.reserved.saturating_sub(reservation.amount);
            entry.spent = entry.spent + used;
        }
        let at = (self.clock)();
        for (account, detail) in book.new_alerts(&reservation.accounts) {
            tracing::warn!(budget = account.name, detail, "a budget reached its alert");
            metrics::counter!("plumb_budget_alerts_total").increment(1);
            let (tenant, call_id) = (reservation.tenant.clone(), Some(reservation.call_id));
            let event = BudgetEvent { at, tenant, account, action: BudgetAction::Alert, call_id, detail };
            self.alerts.send(&event);
            entries.push(LedgerEntry::BudgetEvent(event));
        }
        book.cut_what_is_over();
        entries
    }

    /// Settles a reservation that a crash left behind with what it truly cost.
    pub async fn resolve(
        self: &Arc<Self>,
        tenant: &TenantId,
        call_id: CallId,
        cost: Nanousd,
    ) -> Result<Resolution, StoreError> {
        // Taken out first: of two at once only one may charge.
        let reservation = {
            let mut book = self.book.lock();
            match book.orphans.get(&call_id).filter(|orphan| orphan.tenant == *tenant) {
                None => return Ok(Resolution::Unknown),
                Some(orphan) if cost > orphan.amount.cost => return Ok(Resolution::TooMuch(orphan.amount.cost)),
                Some(_) => book.orphans.remove(&call_id).expect("it was there a moment ago, under the same lock"),
            }
        };
        let this = Arc::clone(self);
        // On its own feet: what is recorded must also be counted if the one who asked has gone.
        let resolved = tokio::spawn(async move { this.resolve_now(reservation, cost).await });
        resolved.await.map_err(|_| StoreError::Closed)?.map(|()| Resolution::Done)
    }

    async fn resolve_now(&self, reservation: Reservation, cost: Nanousd) -> Result<(), StoreError> {
        // Its tokens are not known either, so they count as reserved.
        let used = Amount { cost, ..reservation.amount };
        let mut entries = vec![LedgerEntry::Settle {
            call_id: reservation.call_id,
            charges: reservation.accounts.iter().map(|account| (account.clone(), used)).collect(),
        }];
        entries.push(LedgerEntry::Call(Box::new(lost_call(&reservation, cost))));
        entries.extend(reservation.accounts.iter().map(|account| {
            LedgerEntry::BudgetEvent(BudgetEvent {
                at: (self.clock)(),
                tenant: reservation.tenant.clone(),
                account: account.clone(),
                action: BudgetAction::Resolved,
                call_id: Some(reservation.call_id),
                detail: format!("a reservation of {} was resolved as {}", reservation.amount.cost, used.cost),
            })
        }));
        if let Some((ledger, _)) = &self.ledger
            && let Err(error) = ledger.record(entries).await
        {
            self.book.lock().orphans.insert(reservation.call_id, reservation);
            return Err(error);
        }
        let mut book = self.book.lock();
        for account in &reservation.accounts {
            let entry = book.accounts.entry(account.clone()).or_default();
            entry.reserved = entry.reserved.saturating_sub(reservation.amount);
            entry.spent = entry.spent + used;
        }
        Ok(())
    }
}

/// What became of a wish to resolve a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    Done,
    /// The tenant has no such reservation.
    Unknown,
    /// More than the call could cost, which is this.
    TooMuch(Nanousd),
}

/// A call that does not fit.
struct Refused {
    budget: Budget,
    account: Account,
    detail: String,
    now: Timestamp,
}

struct Refusal {
    error: GatewayError,
    event: Option<BudgetEvent>,
}

impl Book {
    fn reserve(
        &mut self,
        (call_id, tenant): (CallId, &TenantId),
        payer: &Payer<'_>,
        amount: Amount,
        now: Timestamp,
    ) -> Result<Option<Held>, Box<Refusal>> {
        self.sweep(now);
        self.make_again(call_id);
        // Two budgets may share an account (`tenant:acme` and `tenant:*`): it is charged once.
        let mut accounts = BTreeSet::new();
        for index in 0..self.rules.len() {
            let budget = &self.rules[index].0;
            let Some(name) = budget.scope.account(payer) else { continue };
            let account = Account { name, period: budget.period, since: period_start(budget.period, now) };
            let used = self.accounts.get(&account).map(|entry| entry.spent + entry.reserved).unwrap_or_default();
            if let Some(detail) = over(budget, used, amount) {
                let refused = Refused { budget: budget.clone(), account, detail, now };
                return Err(Box::new(self.refuse((call_id, tenant), payer, refused)));
            }
            accounts.insert(account);
        }
        if accounts.is_empty() {
            return Ok(None);
        }
        let (accounts, tenant) = (accounts.into_iter().collect(), tenant.clone());
        let reservation = Reservation { call_id, tenant, accounts, amount, made_at: now };
        self.add_reserved(&reservation);
        let cut = CancellationToken::new();
        self.active.insert(call_id, (reservation.accounts.clone(), cut.clone()));
        Ok(Some(Held { reservation, cut }))
    }

    fn refuse(&mut self, (call_id, tenant): (CallId, &TenantId), payer: &Payer<'_>, refused: Refused) -> Refusal {
        let Refused { budget, account, detail, now } = refused;
        let last = self.refusals.get(&(budget.scope.clone(), budget.period));
        let is_news = last.is_none_or(|last| last.elapsed() >= REFUSAL_EVERY);
        if is_news {
            self.refusals.insert((budget.scope.clone(), budget.period), Instant::now());
            tracing::warn!(budget = account.name, detail, "a call was refused by a budget");
        }
        // Of a budget that tenants share, none may learn what the others spent.
        let is_own = budget.scope.tenant.is_some() || budget.scope.session.is_some() || payer.key.is_none();
        let told = if is_own { detail.clone() } else { "too little is left for the call".to_owned() };
        let error = GatewayError::BudgetExceeded {
            budget: format!("{} per {}", budget.scope, budget.period.as_str()),
            detail: told,
            retry_after: period_end(budget.period, now),
        };
        let event = is_news.then(|| BudgetEvent {
            at: now,
            tenant: tenant.clone(),
            account,
            action: BudgetAction::Refused,
            call_id: Some(call_id),
            detail,
        });
        Refusal { error, event }
    }

    /// Takes out the accounts of periods that have ended, once a day.
    fn sweep(&mut self, now: Timestamp) {
        let today = period_start(BudgetPeriod::Day, now);
        if self.swept == today {
            return;
        }
        self.swept = today;
        let is_present = |account: &Account| account.since >= period_start(account.period, now);
        self.accounts.retain(|account, entry| is_present(account) || entry.reserved != Amount::default());
    }

    /// A call that a crash interrupted is made again under its id: whoever does that has counted the lost one as having
    /// done all it was allowed to, and so does this.
    fn make_again(&mut self, call_id: CallId) {
        let Some(lost) = self.orphans.remove(&call_id) else { return };
        for account in &lost.accounts {
            let entry = self.accounts.entry(account.clone()).or_default();
            entry.reserved = entry.reserved.saturating_sub(lost.amount);
            entry.spent = entry.spent + lost.amount;
        }
    }

    fn add_reserved(&mut self, reservation: &Reservation) {
        for account in &reservation.accounts {
            let entry = self.accounts.entry(account.clone()).or_default();
            entry.reserved = entry.reserved + reservation.amount;
        }
    }

    /// The budgets that an account belongs to.
    fn rules_of<'a>(&'a self, account: &'a Account) -> impl Iterator<Item = &'a Budget> {
        self.rules.iter().map(|(budget, _)| budget).filter(|budget| belongs(account, budget))
    }

    /// What has reached its alert already gives no new one.
    fn mark_alerted(&mut self) {
        let reached: Vec<Account> = self
            .accounts
            .iter()
            .filter(|(account, entry)| {
                self.rules_of(account).any(|budget| alert_reached(budget, entry.spent).is_some())
            })
            .map(|(account, _)| account.clone())
            .collect();
        for account in reached {
            self.accounts.entry(account).or_default().is_alerted = true;
        }
    }

    fn new_alerts(&mut self, accounts: &[Account]) -> Vec<(Account, String)> {
        let mut alerts = Vec::new();
        for account in accounts {
            let Some(entry) = self.accounts.get(account).filter(|entry| !entry.is_alerted) else { continue };
            let detail = self.rules_of(account).find_map(|budget| alert_reached(budget, entry.spent));
            if let Some(detail) = detail {
                self.accounts.entry(account.clone()).or_default().is_alerted = true;
                alerts.push((account.clone(), detail));
            }
        }
        alerts
    }

    /// Cuts the calls whose budgets have nothing left: a limit was lowered, or a server reported more than it was
    /// allowed to use.
    fn cut_what_is_over(&self) {
        let is_spent = |account: &Account| {
            let spent = self.accounts.get(account).map(|entry| entry.spent).unwrap_or_default();
            self.rules_of(account).any(|budget| limit_reached(budget, spent))
        };
        for (accounts, cut) in self.active.values() {
            if accounts.iter().any(is_spent) {
                cut.cancel();
            }
        }
    }

    fn state(&self, budget: &Budget, source: BudgetSource, now: Timestamp) -> BudgetState {
        let since = period_start(budget.period, now);
        let own = self.accounts.iter().filter(|(account, _)| account.since == since && belongs(account, budget));
        let mut accounts: Vec<AccountState> = own
            .map(|(account, entry)| AccountState {
                account: account.clone(),
                spent: entry.spent,
                reserved: entry.reserved,
                unresolved: self.orphans.values().filter(|orphan| orphan.accounts.contains(account)).cloned().collect(),
            })
            .collect();
        accounts.sort_by(|a, b| a.account.cmp(&b.account));
        BudgetState { budget: budget.clone(), source, accounts }
    }
}

fn belongs(account: &Account, budget: &Budget) -> bool {
    account.period == budget.period && budget.scope.covers(&account.name)
}
