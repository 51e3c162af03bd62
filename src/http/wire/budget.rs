//! Budgets, what was spent from them, and reservations that nobody settled.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::{
    Account, Budget, BudgetPeriod, BudgetScope, Nanousd, Reservation, Selector, TenantId, Timestamp, TraceId,
};
use crate::http::ports::{AccountState, BudgetSource, BudgetState};
use crate::http::problem::FieldError;

use super::time;

/// Share of a limit at which an alert is sent where none is named: half-way there is time left to act.
const DEFAULT_ALERT_AT: f64 = 0.5;
/// Longest scope, in bytes: it is the key of a row and stands in log lines.
const SCOPE_MAX_BYTES: usize = 1_024;

/// A budget of the caller's tenant. At least one limit is required; each that is given holds.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"period": "day", "limit_usd": 2.5, "limit_calls": 1000}))]
pub(in crate::http) struct BudgetInput {
    pub period: PeriodBody,
    /// US dollars; kept in billionths.
    #[schema(minimum = 0)]
    pub limit_usd: Option<f64>,
    /// Input and output tokens together.
    pub limit_tokens: Option<u64>,
    /// Calls, cached ones included: the turns of a session, the steps of a task.
    pub limit_calls: Option<u64>,
    /// Share of a limit at which one alert is sent; 0.5 if left out.
    #[schema(minimum = 0, maximum = 1)]
    pub alert_at: Option<f64>,
}

/// When counting starts anew, in UTC; `total`: never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum PeriodBody {
    Day,
    Month,
    Total,
}

/// What a call cost whose process did not live to say it.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"cost_usd": 0.0042}))]
pub(in crate::http) struct ResolveInput {
    /// US dollars; 0 if the call was never made.
    #[schema(minimum = 0)]
    pub cost_usd: f64,
}

/// Every budget that concerns calls of the tenant, by scope and period.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct BudgetsBody {
    pub trace_id: String,
    pub budgets: Vec<BudgetBody>,
}

/// A budget with what was spent from it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"scope": "tenant:acme+session:*", "period": "day", "limit_usd": 2.5, "limit_tokens": null,
    "limit_calls": null, "alert_at": 0.5, "source": "stored", "accounts": [{"name": "tenant:acme+session:s-1",
    "since": "2026-11-23T00:00:00Z", "spent_usd": 0.31, "spent_tokens": 120_400, "spent_calls": 41,
    "reserved_usd": 0.02, "unresolved": []}]}))]
pub(in crate::http) struct BudgetBody {
    /// Absent inside a listing, which has its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// Dimensions joined by `+`; `*` is "each for itself".
    pub scope: String,
    pub period: PeriodBody,
    /// `null`: no limit of this kind.
    pub limit_usd: Option<f64>,
    pub limit_tokens: Option<u64>,
    pub limit_calls: Option<u64>,
    /// Share of a limit at which one alert is sent.
    pub alert_at: f64,
    pub source: SourceBody,
    /// Those of the present period, by name.
    pub accounts: Vec<AccountBody>,
}

/// `config`: the settings of the server, which the wire cannot change. `stored`: set with `PUT /budgets/{scope}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum SourceBody {
    Config,
    Stored,
}

/// One instance of a budget: the rule "each session" has one for every session.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct AccountBody {
    /// The scope with every `*` replaced.
    pub name: String,
    /// Start of the period; `null`: counted since ever.
    pub since: Option<String>,
    pub spent_usd: f64,
    /// Input and output tokens together.
    pub spent_tokens: u64,
    pub spent_calls: u64,
    /// The worst case of all calls that are not settled yet, `unresolved` included.
    pub reserved_usd: f64,
    /// Calls that a stopped process left behind. They count until they are resolved or the period ends.
    pub unresolved: Vec<UnresolvedBody>,
}

/// A call of which nobody knows what it cost.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct UnresolvedBody {
    /// For `POST /budgets/reservations/{call_id}/resolve`.
    #[schema(example = "cal_00112233445566778899aabbccddeeff")]
    pub call_id: String,
    /// The most it can have cost.
    pub cost_usd: f64,
    pub made_at: String,
}

/// The scope of a budget in a path, inside the caller's tenant: that is added where no tenant is named.
pub(in crate::http) fn own_scope(text: &str, tenant: &TenantId) -> Result<BudgetScope, FieldError> {
    let fault = |detail: String| FieldError::new("/scope", detail);
    if text.len() > SCOPE_MAX_BYTES || text.chars().any(char::is_control) {
        return Err(fault(format!("must be plain text of at most {SCOPE_MAX_BYTES} bytes")));
    }
    let mut scope: BudgetScope = text.parse().map_err(|error: crate::domain::InvalidScope| fault(error.to_string()))?;
    let is_everything = scope == BudgetScope::default();
    match &scope.tenant {
        None if !is_everything => scope.tenant = Some(Selector::One(tenant.as_str().to_owned())),
        Some(Selector::One(named)) if named == tenant.as_str() => {}
        Some(Selector::One(_)) => {
            return Err(fault("names another tenant; leave the tenant out, it is that of the key".to_owned()));
        }
        None | Some(Selector::Each) => {
            return Err(fault("spans all tenants; only the settings of the server hold such budgets".to_owned()));
        }
    }
    Ok(scope)
}

impl BudgetInput {
    /// The budget, or every fault, that of its scope first.
    pub(in crate::http) fn into_budget(
        self,
        scope: Result<BudgetScope, FieldError>,
    ) -> Result<Budget, Vec<FieldError>> {
        let mut faults = Vec::new();
        let scope = scope.map_err(|fault| faults.push(fault)).ok();
        let limit = self.limit_usd.and_then(|usd| amount("/limit_usd", usd).map_err(|fault| faults.push(fault)).ok());
        if self.limit_usd.is_none() && self.limit_tokens.is_none() && self.limit_calls.is_none() {
            faults.push(FieldError::new("", "give at least one of limit_usd, limit_tokens and limit_calls"));
        }
        let alert_at = self.alert_at.unwrap_or(DEFAULT_ALERT_AT);
        if !(0.0..=1.0).contains(&alert_at) {
            faults.push(FieldError::new("/alert_at", format!("is {alert_at}, from 0 to 1 is allowed")));
        }
        match scope {
            Some(scope) if faults.is_empty() => Ok(Budget {
                scope,
                period: self.period.into(),
                limit,
                limit_tokens: self.limit_tokens,
                limit_calls: self.limit_calls,
                alert_at,
            }),
            _ => Err(faults),
        }
    }
}

impl ResolveInput {
    pub(in crate::http) fn cost(self) -> Result<Nanousd, FieldError> {
        amount("/cost_usd", self.cost_usd)
    }
}

fn amount(pointer: &str, usd: f64) -> Result<Nanousd, FieldError> {
    let detail = || format!("is {usd}, an amount of dollars from 0 to 18 thousand million is allowed");
    Nanousd::from_usd(usd).ok_or_else(|| FieldError::new(pointer, detail()))
}

impl BudgetsBody {
    pub(in crate::http) fn new(trace: TraceId, budgets: Vec<BudgetState>) -> Self {
        let budgets = budgets.into_iter().map(|state| BudgetBody::new(None, state)).collect();
        Self { trace_id: trace.to_string(), budgets }
    }
}

impl BudgetBody {
    pub(in crate::http) fn new(trace: Option<TraceId>, state: BudgetState) -> Self {
        let BudgetState { budget, source, accounts } = state;
        Self {
            trace_id: trace.map(|trace| trace.to_string()),
            scope: budget.scope.to_string(),
            period: budget.period.into(),
            limit_usd: budget.limit.map(Nanousd::usd),
            limit_tokens: budget.limit_tokens,
            limit_calls: budget.limit_calls,
            alert_at: budget.alert_at,
            source: source.into(),
            accounts: accounts.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<AccountState> for AccountBody {
    fn from(state: AccountState) -> Self {
        let Account { name, period, since } = state.account;
        Self {
            name,
            since: begins(period, since),
            spent_usd: state.spent.cost.usd(),
            spent_tokens: state.spent.tokens,
            spent_calls: state.spent.calls,
            reserved_usd: state.reserved.cost.usd(),
            unresolved: state.unresolved.into_iter().map(Into::into).collect(),
        }
    }
}

fn begins(period: BudgetPeriod, since: Timestamp) -> Option<String> {
    match period {
        BudgetPeriod::Total => None,
        BudgetPeriod::Day | BudgetPeriod::Month => Some(time(since)),
    }
}

impl From<Reservation> for UnresolvedBody {
    fn from(reservation: Reservation) -> Self {
        Self {
            call_id: reservation.call_id.to_string(),
            cost_usd: reservation.amount.cost.usd(),
            made_at: time(reservation.made_at),
        }
    }
}

impl From<BudgetSource> for SourceBody {
    fn from(source: BudgetSource) -> Self {
        match source {
            BudgetSource::Config => Self::Config,
            BudgetSource::Stored => Self::Stored,
        }
    }
}

impl From<BudgetPeriod> for PeriodBody {
    fn from(period: BudgetPeriod) -> Self {
        match period {
            BudgetPeriod::Day => Self::Day,
            BudgetPeriod::Month => Self::Month,
            BudgetPeriod::Total => Self::Total,
        }
    }
}

impl From<PeriodBody> for BudgetPeriod {
    fn from(period: PeriodBody) -> Self {
        match period {
            PeriodBody::Day => Self::Day,
            PeriodBody::Month => Self::Month,
            PeriodBody::Total => Self::Total,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_stays_inside_the_tenant_of_the_key() {
        let acme = TenantId::new("acme").unwrap();
        let own = |text: &str| own_scope(text, &acme).map(|scope| scope.to_string()).map_err(|fault| fault.detail);

        assert_eq!(own("session:*").as_deref(), Ok("tenant:acme+session:*"));
        assert_eq!(own("task:answer+tenant:acme").as_deref(), Ok("tenant:acme+task:answer"));
        assert_eq!(own("tenant:acme").as_deref(), Ok("tenant:acme"));
        assert!(own("tenant:other+session:*").unwrap_err().contains("another tenant"));
        assert!(own("tenant:*").unwrap_err().contains("all tenants"));
        assert!(own("everything").unwrap_err().contains("all tenants"));
        assert!(own("").unwrap_err().contains("dimension:value"));
        assert!(own("session:a\nb").unwrap_err().contains("plain text"));
        assert!(own(&format!("session:{}", "a".repeat(1_024))).unwrap_err().contains("1024 bytes"));
    }

    #[test]
    fn a_budget_needs_a_limit_and_says_everything_that_is_wrong() {
        let input = BudgetInput {
            period: PeriodBody::Day,
            limit_usd: Some(-1.0),
            limit_tokens: None,
            limit_calls: None,
            alert_at: Some(1.5),
        };
        let everywhere = own_scope("everything", &TenantId::new("acme").unwrap());

        let faults = input.clone().into_budget(everywhere).unwrap_err();
        let pointers: Vec<_> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
        assert_eq!(pointers, ["/scope", "/limit_usd", "/alert_at"]);

        let unlimited = BudgetInput { limit_usd: None, alert_at: None, ..input.clone() };
        assert_eq!(unlimited.into_budget(Ok(BudgetScope::default())).unwrap_err()[0].pointer, "");
        let nothing_more = BudgetInput { limit_usd: Some(0.0), alert_at: None, ..input };
        let budget = nothing_more.into_budget(Ok(BudgetScope::default())).unwrap();
        assert_eq!((budget.limit, budget.alert_at), (Some(Nanousd(0)), 0.5));
    }
}
