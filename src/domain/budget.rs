//! Caps on spending, and what is counted against them.
//!
//! A [`Budget`] is a rule for many; an [`Account`] is one instance of it: the rule "each session, 1 dollar a day"
//! has an account for every session and day.

use serde::{Deserialize, Serialize};

use super::ledger::words;
use super::{CallId, Nanousd, TenantId, Timestamp};

/// Whom a budget counts together. A dimension is absent (all together), one value, or `*` (each for itself).
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BudgetScope {
    /// `None`: the whole server. Only the operator's configuration can set such budgets.
    pub tenant: Option<Selector>,
    pub task: Option<Selector>,
    pub session: Option<Selector>,
    pub key: Option<Selector>,
}

/// Which values of a dimension.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Selector {
    Each,
    One(String),
}

/// When counting starts anew (UTC).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BudgetPeriod {
    Day,
    Month,
    /// Never.
    Total,
}

words!(BudgetPeriod: Day = "day", Month = "month", Total = "total");

/// A cap. At least one of the limits is set; each that is set holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Budget {
    pub scope: BudgetScope,
    pub period: BudgetPeriod,
    pub limit: Option<Nanousd>,
    /// Input and output tokens together.
    pub limit_tokens: Option<u64>,
    /// Calls, cached ones included: the turns of a session, the steps of a task.
    pub limit_calls: Option<u64>,
    /// Share of a limit at which one alert is sent, from 0 to 1.
    pub alert_at: f64,
}

/// One instance of a budget in one period.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Account {
    /// The scope with every `*` replaced, in its text form (`tenant:acme+session:s-1`).
    pub name: String,
    pub period: BudgetPeriod,
    /// Start of the period; 0 for [`BudgetPeriod::Total`].
    pub since: Timestamp,
}

/// Money, tokens and calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    pub cost: Nanousd,
    pub tokens: u64,
    pub calls: u64,
}

impl std::ops::Add for Amount {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            cost: self.cost + other.cost,
            tokens: self.tokens.saturating_add(other.tokens),
            calls: self.calls.saturating_add(other.calls),
        }
    }
}

impl Amount {
    pub fn saturating_sub(self, other: Self) -> Self {
        Self {
            cost: self.cost.saturating_sub(other.cost),
            tokens: self.tokens.saturating_sub(other.tokens),
            calls: self.calls.saturating_sub(other.calls),
        }
    }
}

/// The worst case of a call that is under way, counted until it is settled. One that its process did not live to
/// settle counts until somebody resolves it or its period ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    pub call_id: CallId,
    pub tenant: TenantId,
    pub accounts: Vec<Account>,
    pub amount: Amount,
    pub made_at: Timestamp,
}

/// What a budget did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BudgetAction {
    /// The alert share was reached; once for each account.
    Alert,
    /// A call was refused.
    Refused,
    /// A running call was cut.
    Cut,
    /// A reservation that a crash left behind was resolved by hand.
    Resolved,
}

words!(BudgetAction: Alert = "alert", Refused = "refused", Cut = "cut", Resolved = "resolved");

/// A row of `budget_events`.
#[derive(Debug, Clone, PartialEq)]
pub struct BudgetEvent {
    pub at: Timestamp,
    pub tenant: TenantId,
    pub account: Account,
    pub action: BudgetAction,
    pub call_id: Option<CallId>,
    /// A sentence for people.
    pub detail: String,
}

/// On whose behalf a call is made, as budgets see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payer<'a> {
    pub tenant: &'a str,
    pub task: &'a str,
    pub session: Option<&'a str>,
    pub key: Option<&'a str>,
}

/// Why a text is no scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidScope {
    #[error("{part:?} is not dimension:value; dimensions are tenant, task, session and key, the value may be *")]
    Part { part: String },
    #[error("{dimension} is named twice")]
    Twice { dimension: String },
}

impl BudgetScope {
    /// The account of this budget that a call is counted in; `None` if the budget does not concern it.
    pub fn account(&self, payer: &Payer<'_>) -> Option<String> {
        let values = [Some(payer.tenant), Some(payer.task), payer.session, payer.key];
        let mut parts = Vec::new();
        if self.tenant.is_none() && self.session.is_some() {
            // Clients name their sessions, so two tenants may choose the same name.
            parts.push(format!("tenant:{}", escape(payer.tenant)));
        }
        for ((dimension, selector), value) in self.dimensions().into_iter().zip(values) {
            let Some(selector) = selector else { continue };
            let value = value?;
            if matches!(selector, Selector::One(wanted) if wanted != value) {
                return None;
            }
            parts.push(format!("{dimension}:{}", escape(value)));
        }
        Some(if parts.is_empty() { EVERYTHING.to_owned() } else { parts.join("+") })
    }

    /// True if the account of this name is one of this budget's.
    pub fn covers(&self, account: &str) -> bool {
        let Ok(account) = account.parse::<Self>() else { return false };
        let pairs = self.dimensions().into_iter().zip(account.dimensions());
        pairs.into_iter().all(|((dimension, wanted), (_, found))| match (wanted, found) {
            (None, None) | (Some(Selector::Each), Some(_)) => true,
            // The tenant stands in front of every session.
            (None, Some(_)) => dimension == "tenant" && self.session.is_some(),
            (Some(Selector::One(wanted)), Some(Selector::One(found))) => wanted == found,
            _ => false,
        })
    }

    fn dimensions(&self) -> [(&'static str, Option<&Selector>); 4] {
        let [tenant, task, session, key] = DIMENSIONS;
        [
            (tenant, self.tenant.as_ref()),
            (task, self.task.as_ref()),
            (session, self.session.as_ref()),
            (key, self.key.as_ref()),
        ]
    }
}

const DIMENSIONS: [&str; 4] = ["tenant", "task", "session", "key"];
const EVERYTHING: &str = "everything";

/// `dimension:value` joined by `+`, in a fixed order; `everything` if no dimension is named.
impl std::fmt::Display for BudgetScope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut between = "";
        for (dimension, selector) in self.dimensions() {
            match selector {
                None => continue,
                Some(Selector::Each) => write!(f, "{between}{dimension}:*")?,
                Some(Selector::One(value)) => write!(f, "{between}{dimension}:{}", escape(value))?,
            }
            between = "+";
        }
        if between.is_empty() { f.write_str(EVERYTHING) } else { Ok(()) }
    }
}

impl std::str::FromStr for BudgetScope {
    type Err = InvalidScope;

    fn from_str(text: &str) -> Result<Self, InvalidScope> {
        let mut scope = Self::default();
        if text == EVERYTHING {
            return Ok(scope);
        }
        for part in text.split('+') {
            let invalid = || InvalidScope::Part { part: part.to_owned() };
            let (dimension, value) = part.split_once(':').filter(|(_, value)| !value.is_empty()).ok_or_else(invalid)?;
            let place = match dimension {
                "tenant" => &mut scope.tenant,
                "task" => &mut scope.task,
                "session" => &mut scope.session,
                "key" => &mut scope.key,
                _ => return Err(invalid()),
            };
            if place.is_some() {
                return Err(InvalidScope::Twice { dimension: dimension.to_owned() });
            }
            *place = Some(if value == "*" { Selector::Each } else { Selector::One(unescape(value)) });
        }
        Ok(scope)
    }
}

// `+` joins the parts, so it must not stand in a value; a lone `*` is not a value.
fn escape(value: &str) -> String {
    if value == "*" { "%2A".to_owned() } else { value.replace('%', "%25").replace('+', "%2B") }
}

fn unescape(value: &str) -> String {
    value.replace("%2A", "*").replace("%2B", "+").replace("%25", "%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_reads_back_what_it_writes() {
        for text in ["everything", "tenant:acme", "task:answer+session:*", "tenant:*+key:a%2Bb", "session:%2A"] {
            assert_eq!(text.parse::<BudgetScope>().unwrap().to_string(), text);
        }
        assert!("".parse::<BudgetScope>().is_err());
        assert!("tenant".parse::<BudgetScope>().is_err());
        assert!("user:x".parse::<BudgetScope>().is_err());
        assert!("task:a+task:b".parse::<BudgetScope>().is_err());
    }

    #[test]
    fn a_budget_for_each_has_an_account_for_each_and_none_for_calls_it_does_not_concern() {
        let payer = Payer { tenant: "acme", task: "answer", session: Some("s+1"), key: None };
        let account = |scope: &str| scope.parse::<BudgetScope>().unwrap().account(&payer);

        assert_eq!(account("session:*").as_deref(), Some("tenant:acme+session:s%2B1"));
        assert_eq!(account("tenant:acme+task:*").as_deref(), Some("tenant:acme+task:answer"));
        assert_eq!(account("everything").as_deref(), Some("everything"));
        assert_eq!(account("tenant:other"), None);
        assert_eq!(account("key:*"), None);
        for scope in ["session:*", "tenant:acme+task:*", "everything", "session:s%2B1"] {
            let scope: BudgetScope = scope.parse().unwrap();
            assert!(scope.covers(&scope.account(&payer).unwrap()), "{scope}");
            assert!(!scope.covers("tenant:other+key:k"), "{scope}");
        }
    }
}
