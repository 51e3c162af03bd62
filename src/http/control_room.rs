//! Budgets and the kill switch, as the server speaks for them.

use async_trait::async_trait;

use crate::domain::{Budget, CallId, ErrorKind, Nanousd, Selector, TenantScope};
use crate::gateway::{Gateway, Resolution};
use crate::store::StoreError;

use super::ports::{BudgetSource, BudgetState, ControlPort, Failure, KillState, Switch};

/// The gateway's controls.
pub struct ControlRoom {
    pub gateway: Gateway,
}

#[async_trait]
impl ControlPort for ControlRoom {
    async fn kill_switch(&self) -> KillState {
        match self.gateway.kill_switch().killed() {
            Some(killed) => KillState { is_on: true, reason: Some(killed.reason), since: Some(killed.since) },
            None => KillState { is_on: false, reason: None, since: None },
        }
    }

    async fn set_kill_switch(&self, wanted: Switch, reason: String) -> Result<KillState, Failure> {
        let gateway = self.gateway.clone();
        let switched = tokio::task::spawn_blocking(move || match wanted {
            Switch::On => gateway.kill_switch().turn_on(&reason),
            Switch::Off => gateway.kill_switch().turn_off(),
        });
        match switched.await {
            Ok(Ok(())) => Ok(self.kill_switch().await),
            Ok(Err(error)) => {
                tracing::error!(%error, "the kill switch's file could not be changed");
                let detail = match wanted {
                    Switch::On => "the switch is on, but a restart would turn it off: its file could not be written",
                    Switch::Off => "the switch stays on: its file could not be removed",
                };
                Err(failure(ErrorKind::Internal, detail))
            }
            Err(_) => Err(failure(ErrorKind::Internal, "the switch could not be reached")),
        }
    }

    async fn budgets(&self, scope: &TenantScope) -> Result<Vec<BudgetState>, Failure> {
        let mut states: Vec<BudgetState> =
            self.gateway.budgets().states().into_iter().filter_map(|state| seen_by(scope, state)).collect();
        states.sort_by(|a, b| (&a.budget.scope, a.budget.period).cmp(&(&b.budget.scope, b.budget.period)));
        Ok(states)
    }

    async fn put_budget(&self, scope: &TenantScope, budget: Budget) -> Result<BudgetState, Failure> {
        let states = self.gateway.budgets().states();
        let configured = states.iter().any(|state| {
            state.source == BudgetSource::Config
                && state.budget.scope == budget.scope
                && state.budget.period == budget.period
        });
        if configured {
            return Err(failure(ErrorKind::Conflict, "the settings have a budget of this scope and period"));
        }
        let state = self.gateway.budgets().put(budget).await.map_err(|error| store_failure(&error))?;
        seen_by(scope, state).ok_or_else(|| failure(ErrorKind::Unprocessable, "the budget must name your tenant"))
    }

    async fn resolve(&self, scope: &TenantScope, call: CallId, cost: Nanousd) -> Result<(), Failure> {
        let resolved = self.gateway.budgets().resolve(&scope.tenant, call, cost).await;
        match resolved.map_err(|error| store_failure(&error))? {
            Resolution::Done => Ok(()),
            Resolution::Unknown => Err(failure(ErrorKind::NotFound, "no such reservation")),
            Resolution::TooMuch(most) => {
                let detail = format!("cost_usd is more than the call could cost, which is {}", most.usd());
                Err(failure(ErrorKind::Unprocessable, &detail))
            }
        }
    }
}

/// The part of a budget that a tenant may see. Where no keys are configured, the caller owns the server and sees all.
fn seen_by(scope: &TenantScope, mut state: BudgetState) -> Option<BudgetState> {
    if scope.key_id.is_some() {
        let own = Selector::One(scope.tenant.as_str().to_owned());
        let concerns = match &state.budget.scope.tenant {
            Some(tenant) => *tenant == Selector::Each || *tenant == own,
            // The accounts of sessions name their tenant, those of other shared budgets do not.
            None => state.budget.scope.session.is_some(),
        };
        if !concerns {
            return None;
        }
        let is_own = |name: &str| {
            name.parse::<crate::domain::BudgetScope>().is_ok_and(|account| account.tenant.as_ref() == Some(&own))
        };
        state.accounts.retain(|account| is_own(&account.account.name));
    }
    Some(state)
}

fn store_failure(error: &StoreError) -> Failure {
    tracing::error!(error = error as &dyn std::error::Error, "a budget could not be kept");
    Failure::new(error.kind())
}

fn failure(kind: ErrorKind, detail: &str) -> Failure {
    Failure { detail: Some(detail.to_owned()), ..Failure::new(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Account, Amount, BudgetPeriod, TenantId, Timestamp};
    use crate::http::ports::AccountState;

    fn state(scope: &str, accounts: &[&str]) -> BudgetState {
        let account = |name: &&str| AccountState {
            account: Account { name: (*name).to_owned(), period: BudgetPeriod::Total, since: Timestamp(0) },
            spent: Amount::default(),
            reserved: Amount::default(),
            unresolved: Vec::new(),
        };
        let budget = Budget {
            scope: scope.parse().unwrap(),
            period: BudgetPeriod::Total,
            limit: Some(Nanousd(1)),
            limit_tokens: None,
            limit_calls: None,
            alert_at: 0.5,
        };
        BudgetState { budget, source: BudgetSource::Config, accounts: accounts.iter().map(account).collect() }
    }

    #[test]
    fn a_key_sees_its_own_tenants_accounts_and_the_owner_of_a_server_without_keys_sees_all() {
        let owner = TenantScope::everything(TenantId::new("acme").unwrap());
        let keyed = TenantScope { key_id: Some("k1".into()), ..owner.clone() };
        let both = ["tenant:acme+session:s", "tenant:other+session:s"];
        let seen = |scope: &TenantScope, of: &str, accounts: &[&str]| {
            seen_by(scope, state(of, accounts)).map(|state| state.accounts.len())
        };

        assert_eq!(seen(&keyed, "session:*", &both), Some(1));
        assert_eq!(seen(&keyed, "tenant:*", &["tenant:acme", "tenant:other"]), Some(1));
        assert_eq!(seen(&keyed, "tenant:other", &["tenant:other"]), None);
        assert_eq!(seen(&keyed, "everything", &["everything"]), None);
        assert_eq!(seen(&owner, "session:*", &both), Some(2));
        assert_eq!(seen(&owner, "everything", &["everything"]), Some(1));
    }
}
