//! Calls to language models that belong to a step of durable work.
//!
//! Their rows commit together with the step, not through the ledger's queue: a step that is recorded has its costs,
//! and a call that a crash interrupted is known, counted and made again under the same id.

use async_trait::async_trait;

use crate::domain::{Amount, CallId, PromptVersion, Reservation};

use super::{LedgerEntry, NotDurable};

/// A call that is about to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenCall {
    pub call_id: CallId,
    /// What the call is for, as the ledger names it.
    pub task: String,
    /// The first model that will be asked.
    pub provider: String,
    pub model: String,
    pub prompt: Option<PromptVersion>,
    /// Most tokens that the prompt can have and that the model may write.
    pub input_tokens: u64,
    pub output_tokens: u64,
    /// The most that the call can cost with every retry and fallback.
    pub worst_case: Amount,
    /// `None`: no budget concerns it.
    pub reservation: Option<Reservation>,
}

/// Where the calls of one step are kept.
#[async_trait]
pub trait CallJournal: Send + Sync {
    /// The id of the step's next call: the same for the same call of the same step, whichever attempt makes it.
    fn next_call_id(&self) -> CallId;

    /// Writes down that the call is about to be made, with its reservation; durable on return. Returns how many
    /// attempts of this call are in the ledger already, so that numbers go on from there. An error forbids the call.
    async fn open(&self, call: OpenCall) -> Result<u32, NotDurable>;

    /// Takes the rows and the settlement of a call that has ended, to be committed with the step, however that ends.
    fn note(&self, entries: Vec<LedgerEntry>);
}
