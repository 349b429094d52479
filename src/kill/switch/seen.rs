//! What is there: receipts as they are now, halts and their causes, and what another process has raised on the page.

use std::collections::{BTreeSet, HashMap};

use crate::kill::page::ModeWord;
use crate::kill::receipt::Receipt;
use crate::kill::switch::records::Records;
use crate::kill::switch::{Cause, LatchEntry, Switch, Tally};
use crate::model::{Mode, Scope};
use crate::units::Now;

/// A scope that is not `Normal`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Halt {
    /// Which.
    pub scope: Scope,
    /// Its word.
    pub word: ModeWord,
    /// Why; empty if the cause is not known (yet).
    pub causes: Vec<Cause>,
}

/// How long a word on the page may be without a cause. Ours have one some microseconds later, trips as soon as the control
/// thread has been told of them.
pub(super) const CAUSE_WITHIN_NS: u64 = 200_000_000;

impl Switch {
    /// The receipt with this id, as it is now.
    #[must_use]
    pub fn receipt(&self, id: u64) -> Option<Receipt> {
        let mut guard = self.lock();
        let Records { receipts, trips, tally, .. } = &mut *guard;
        let receipt = receipts.get_mut(id).or_else(|| trips.get_mut(id))?;
        self.look_again(receipt, tally);
        Some(receipt.clone())
    }

    /// Whether the press with this id is confirmed by now; `None` if no such receipt is kept.
    #[must_use]
    pub fn is_confirmed(&self, id: u64) -> Option<bool> {
        let mut guard = self.lock();
        let Records { receipts, trips, tally, .. } = &mut *guard;
        let receipt = receipts.get_mut(id).or_else(|| trips.get_mut(id))?;
        self.look_again(receipt, tally);
        Some(receipt.is_confirmed())
    }

    /// The newest `count` receipts of presses and of trips, newest first, as they are now.
    #[must_use]
    pub fn receipts(&self, count: usize) -> Vec<Receipt> {
        let mut guard = self.lock();
        let Records { receipts, trips, tally, .. } = &mut *guard;
        let mut newest: Vec<&mut Receipt> =
            receipts.iter_mut().rev().take(count).chain(trips.iter_mut().rev().take(count)).collect();
        newest.sort_by_key(|receipt| core::cmp::Reverse(receipt.id));
        newest
            .into_iter()
            .take(count)
            .map(|receipt| {
                self.look_again(receipt, tally);
                receipt.clone()
            })
            .collect()
    }

    fn look_again(&self, receipt: &mut Receipt, tally: &mut Tally) {
        receipt.look_at_gates(|| self.clock.now().mono.0, |ns| tally.gates.record(ns));
        receipt.look(&self.board, |ns| tally.told.record(ns), |ns| tally.confirmed.record(ns));
        receipt.look_at_cancels(self.cancels(receipt.scope));
    }

    /// Looks at the board for the newest receipts that are not confirmed, so that stages are measured even if
    /// nobody reads the receipt; and at the page for what another process has raised there. Returns the scopes of which the
    /// latter is certain by now, and the time. The control loop calls this now and then.
    pub fn look(&self) -> (Vec<Scope>, Now) {
        let mut guard = self.lock();
        let Records { receipts, trips, tally, .. } = &mut *guard;
        let newest = receipts.iter_mut().rev().take(16).chain(trips.iter_mut().rev().take(16));
        for receipt in newest {
            if receipt.is_confirmed() {
                receipt.look_at_cancels(self.cancels(receipt.scope));
            } else {
                self.look_again(receipt, tally);
            }
        }
        drop(guard);
        let now = self.clock.now();
        (self.look_outside(now), now)
    }

    /// Whoever raises the page from outside can wake nobody here and leaves no cause. What we raise ourselves has a cause soon
    /// after, so a word without one wakes everybody at once, and gets a cause if none has come.
    fn look_outside(&self, now: Now) -> Vec<Scope> {
        let changes = self.page.changes();
        let records = self.lock();
        if records.looked_at == changes && records.unexplained.is_empty() {
            return Vec::new();
        }
        drop(records);
        let words = self.raised_words();
        let (mut unexplained, mut outside, mut is_new) = (HashMap::new(), Vec::new(), false);
        let mut records = self.lock();
        records.looked_at = changes;
        for (slot, scope, word) in words {
            if records.explained.get(&slot).is_some_and(|epoch| *epoch >= word.epoch) {
                continue;
            }
            let since = match records.unexplained.get(&slot) {
                Some((epoch, since)) if *epoch == word.epoch => *since,
                Some(_) | None => {
                    is_new = true;
                    now.mono
                }
            };
            if now.mono.since(since) < CAUSE_WITHIN_NS {
                unexplained.insert(slot, (word.epoch, since));
                continue;
            }
            let cause = Cause {
                mode: word.mode,
                epoch: word.epoch,
                at: now.unix.0,
                actor: "halt page".to_owned(),
                reason: "raised on the halt page by another process, which left no reason".to_owned(),
                trip: None,
            };
            records.add_cause(slot, cause, now);
            outside.push(scope);
        }
        records.unexplained = unexplained;
        drop(records);
        // The second time for the latch, which is to have the cause too.
        if is_new || !outside.is_empty() {
            self.page_changed();
        }
        outside
    }

    /// Every scope that is not `Normal`, in the order of their slots.
    #[must_use]
    pub fn halts(&self) -> Vec<Halt> {
        let words = self.raised_words();
        let records = self.lock();
        words
            .into_iter()
            .map(|(slot, scope, word)| Halt {
                scope,
                word,
                causes: records.causes.get(&slot).cloned().unwrap_or_default(),
            })
            .collect()
    }

    pub(super) fn raised_words(&self) -> Vec<(usize, Scope, ModeWord)> {
        (0..self.page.len())
            .map(|slot| (slot, self.page.get(slot)))
            .filter(|(_, word)| word.mode != Mode::Normal)
            .filter_map(|(slot, word)| Some((slot, self.universe.scope_at(slot)?, word)))
            .collect()
    }

    /// Latched halts of scopes that the configuration no longer has.
    #[must_use]
    pub fn orphans(&self) -> Vec<LatchEntry> {
        self.lock().orphans.clone()
    }

    /// Gates that were inside at one of the halts whose receipts are kept, and have not been found outside or ended since.
    #[must_use]
    pub fn gates_unconfirmed(&self) -> usize {
        let mut guard = self.lock();
        let Records { receipts, trips, tally, .. } = &mut *guard;
        let mut processes = BTreeSet::new();
        for receipt in receipts.iter_mut().chain(trips.iter_mut()) {
            if receipt.missing().gates > 0 {
                self.look_again(receipt, tally);
            }
            let missing = receipt.gates.iter().filter(|row| row.confirmed_ns.is_none());
            processes.extend(missing.map(|row| (row.gate.session, row.gate.pid)));
        }
        processes.len()
    }

    /// What was done so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.lock().tally
    }
}
