//! Takes a reservation back that did not become durable, or whose caller left while it did.

use crate::domain::Reservation;
use crate::store::LedgerEntry;

use super::budgets::{Budgets, Held};

/// Takes back what is held when it is dropped, unless it is kept.
pub struct Undo<'a> {
    budgets: &'a Budgets,
    reservation: Option<&'a Reservation>,
    tell: Tell<'a>,
}

/// Is given what the ledger must know then.
pub type Tell<'a> = &'a (dyn Fn(Vec<LedgerEntry>) + Send + Sync);

impl<'a> Undo<'a> {
    pub fn new(budgets: &'a Budgets, held: Option<&'a Held>, tell: Tell<'a>) -> Self {
        Self { budgets, reservation: held.map(|held| &held.reservation), tell }
    }

    /// It is durable: nothing is taken back.
    pub fn keep(mut self) {
        self.reservation = None;
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        let Some(reservation) = self.reservation else { return };
        self.budgets.release(reservation);
        // It may have become durable after all; settling it with nothing takes it away.
        (self.tell)(vec![LedgerEntry::Settle { call_id: reservation.call_id, charges: Vec::new() }]);
    }
}
