//! A kill switch and budgets in memory; each tenant has its own budgets.

use std::sync::atomic::Ordering;

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::domain::{
    Account, Amount, Budget, CallId, ErrorKind, Nanousd, Reservation, TenantId, TenantScope, Timestamp,
};
use crate::http::{AccountState, BudgetSource, BudgetState, ControlPort, Failure, KillState, Switch};

use super::rooms::TestRooms;

/// 2026-11-23T00:00:00Z.
pub const TODAY: Timestamp = Timestamp(1_795_392_000_000_000);

/// What the switch and the budgets are.
#[derive(Default)]
pub struct Controls {
    pub switched: Mutex<Option<(Switch, String)>>,
    pub budgets: Mutex<Vec<(TenantId, BudgetState)>>,
}

impl TestRooms {
    /// Puts a reservation that nobody settled into the first account of the tenant's first budget.
    pub fn leave_behind(&self, tenant: &str, call_id: CallId, cost: Nanousd) {
        let tenant = TenantId::new(tenant).unwrap();
        let mut budgets = self.controls.budgets.lock();
        let (_, state) = budgets.iter_mut().find(|(owner, _)| *owner == tenant).unwrap();
        let account = &mut state.accounts[0];
        let amount = Amount { cost, tokens: 900, calls: 1 };
        let accounts = vec![account.account.clone()];
        account.reserved = account.reserved + amount;
        account.unresolved.push(Reservation { call_id, tenant, accounts, amount, made_at: TODAY });
    }
}

#[async_trait]
impl ControlPort for TestRooms {
    async fn kill_switch(&self) -> KillState {
        self.asked.control.fetch_add(1, Ordering::SeqCst);
        match &*self.controls.switched.lock() {
            None => KillState { is_on: false, reason: None, since: None },
            Some((to, reason)) => {
                let reason = (!reason.is_empty()).then(|| reason.clone());
                KillState { is_on: *to == Switch::On, reason, since: Some(TODAY) }
            }
        }
    }

    async fn set_kill_switch(&self, wanted: Switch, reason: String) -> Result<KillState, Failure> {
        *self.controls.switched.lock() = Some((wanted, reason));
        Ok(self.kill_switch().await)
    }

    async fn budgets(&self, scope: &TenantScope) -> Result<Vec<BudgetState>, Failure> {
        self.asked.control.fetch_add(1, Ordering::SeqCst);
        let budgets = self.controls.budgets.lock();
        Ok(budgets.iter().filter(|(owner, _)| *owner == scope.tenant).map(|(_, state)| state.clone()).collect())
    }

    async fn put_budget(&self, scope: &TenantScope, budget: Budget) -> Result<BudgetState, Failure> {
        self.asked.control.fetch_add(1, Ordering::SeqCst);
        let name = budget.scope.to_string().replace(":*", ":s-1");
        let account = Account { name, period: budget.period, since: TODAY };
        let spent = Amount { cost: Nanousd(310_000_000), tokens: 120_400, calls: 41 };
        let account = AccountState { account, spent, reserved: Amount::default(), unresolved: Vec::new() };
        let state = BudgetState { budget, source: BudgetSource::Stored, accounts: vec![account] };
        self.controls.budgets.lock().push((scope.tenant.clone(), state.clone()));
        Ok(state)
    }

    async fn resolve(&self, scope: &TenantScope, call: CallId, cost: Nanousd) -> Result<(), Failure> {
        self.asked.control.fetch_add(1, Ordering::SeqCst);
        let mut budgets = self.controls.budgets.lock();
        let own = budgets.iter_mut().filter(|(owner, _)| *owner == scope.tenant);
        for account in own.flat_map(|(_, state)| &mut state.accounts) {
            if let Some(place) = account.unresolved.iter().position(|one| one.call_id == call) {
                let reservation = account.unresolved.remove(place);
                account.reserved = account.reserved.saturating_sub(reservation.amount);
                account.spent = account.spent + Amount { cost, ..reservation.amount };
                return Ok(());
            }
        }
        Err(Failure::new(ErrorKind::NotFound))
    }
}
