//! Where the rows of a call go: into the ledger's queue, or to the step of durable work that the call belongs to.
//!
//! A call has one way for all of them. The settlement of a reservation must not overtake it on another.

use std::fmt;
use std::sync::Arc;

use crate::domain::{Amount, CallId, PromptVersion};
use crate::store::{CallJournal, LedgerEntry, LedgerQueue, OpenCall};

use super::GatewayError;
use super::budgets::Held;
use super::call::{CallContext, Core, payer};
use super::contract::ChatRequest;
use super::estimate::most_input_tokens;
use super::plan::Model;
use super::undo::Undo;

/// The journal of a step, as it travels with a call. Two are equal if they are the same journal.
#[derive(Clone)]
pub struct StepJournal(Arc<dyn CallJournal>);

impl StepJournal {
    pub fn new(journal: Arc<dyn CallJournal>) -> Self {
        Self(journal)
    }

    /// See [`CallJournal::next_call_id`].
    pub(super) fn next_call_id(&self) -> CallId {
        self.0.next_call_id()
    }
}

impl From<Arc<dyn CallJournal>> for StepJournal {
    fn from(journal: Arc<dyn CallJournal>) -> Self {
        Self(journal)
    }
}

impl PartialEq for StepJournal {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for StepJournal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StepJournal")
    }
}

/// Who takes the rows of one call.
#[derive(Clone)]
pub enum Rows {
    /// Nobody: there is no ledger.
    Dropped,
    Queue(LedgerQueue),
    Step(StepJournal),
}

impl Rows {
    /// The step's journal where there is one, else the ledger's queue, if that is there.
    pub fn of(journal: Option<&StepJournal>, ledger: Option<&LedgerQueue>) -> Self {
        match (journal, ledger) {
            (Some(journal), _) => Self::Step(journal.clone()),
            (None, Some(ledger)) => Self::Queue(ledger.clone()),
            (None, None) => Self::Dropped,
        }
    }

    /// Hands entries on; never waits.
    pub fn put(&self, entries: Vec<LedgerEntry>) {
        match self {
            _ if entries.is_empty() => {}
            Self::Dropped => {}
            Self::Queue(ledger) => {
                ledger.try_submit(entries);
            }
            Self::Step(journal) => journal.0.note(entries),
        }
    }
}

/// A call before its first attempt.
pub struct CallAhead<'a> {
    pub request: &'a ChatRequest,
    /// Asked first.
    pub model: &'a Model,
    pub prompt: Option<&'a PromptVersion>,
    /// The most that it can cost.
    pub amount: Amount,
}

/// Reserves what a call may cost, durably: in the ledger, or in the journal of its step together with the call itself.
/// Returns how many attempts were made under its id before.
pub async fn write_ahead(
    core: &Core,
    context: &CallContext,
    ahead: CallAhead<'_>,
) -> Result<(Option<Held>, u32), GatewayError> {
    let (tenant, payer, call_id) = (&context.scope.tenant, payer(context), ahead.request.call_id);
    let Some(StepJournal(journal)) = &context.journal else {
        return Ok((core.budgets.reserve(call_id, tenant, &payer, ahead.amount).await?, 0));
    };
    let held = core.budgets.hold((call_id, tenant), &payer, ahead.amount)?;
    let open = OpenCall {
        call_id,
        task: context.task.to_owned(),
        provider: ahead.model.provider.clone(),
        model: ahead.model.model.clone(),
        prompt: ahead.prompt.cloned(),
        input_tokens: most_input_tokens(ahead.request),
        output_tokens: u64::from(ahead.request.max_tokens),
        worst_case: ahead.amount,
        reservation: held.as_ref().map(|held| held.reservation.clone()),
    };
    let tell = |entries| journal.note(entries);
    let undo = Undo::new(&core.budgets, held.as_ref(), &tell);
    let attempts_before = journal.open(open).await.map_err(GatewayError::Ledger)?;
    undo.keep();
    Ok((held, attempts_before))
}
