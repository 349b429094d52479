//! What the switch remembers behind its lock: causes, receipts, re-arms, what is held. The page is not in here.

use std::collections::HashMap;

use crate::kill::page::HaltPage;
use crate::kill::rearm::{Age, Nonces, RearmPolicy, RearmRefused, RearmState, Rearms};
use crate::kill::receipt::Receipts;
use crate::kill::switch::{Cause, LatchEntry, LatchStatus, Tally};
use crate::model::Universe;
use crate::units::{MonoNanos, Now};

#[derive(Default)]
pub(super) struct Records {
    pub(super) next_id: u64,
    pub(super) causes: HashMap<usize, Vec<Cause>>,
    /// How many causes were recorded, kept or not.
    pub(super) recorded: u64,
    /// Since when each slot with causes has been cooling off: since the latest of them, kept or not.
    pub(super) cooling: HashMap<usize, Age>,
    /// The latest epoch of each slot that a cause was recorded for, kept or not.
    pub(super) explained: HashMap<usize, u64>,
    /// The epochs that had no cause at the last look, and when they were first seen.
    pub(super) unexplained: HashMap<usize, (u64, MonoNanos)>,
    /// [`HaltPage::changes`] at the last look.
    pub(super) looked_at: u64,
    pub(super) orphans: Vec<LatchEntry>,
    pub(super) receipts: Receipts,
    /// Receipts of trips: apart, so that many trips do not push a person's receipt out.
    pub(super) trips: Receipts,
    pub(super) rearms: Rearms,
    /// The slot that cannot be re-armed now.
    pub(super) held: Option<usize>,
    /// Others that cannot, by who holds them and by slot, and why.
    pub(super) holds: HashMap<&'static str, HashMap<usize, String>>,
    pub(super) nonces: Nonces,
    pub(super) last_drill: Option<(u64, Age)>,
    pub(super) latch: LatchStatus,
    pub(super) tally: Tally,
}

/// Causes kept per scope since it was last `Normal`: the first ones, and in the last place the latest. A machine's do not
/// push out a person's: where only those are left, the latest of a machine is one more.
pub(super) const CAUSES_KEPT: usize = 4;

/// Who halts without a person: the engine, haltline at its start, another process by the page, and the parts of the service
/// that watch. A signal and the kill file are a person's doing.
const MACHINES: [&str; 7] = ["engine", "haltline", "halt page", "attestation", "preflight", "guard", "alerts"];

impl Records {
    /// # Errors
    /// If what halts the scope at `slot` is still there.
    pub(super) fn is_held(&self, slot: usize) -> Result<(), RearmRefused> {
        if self.held == Some(slot) {
            return Err(RearmRefused::Held);
        }
        let mut why: Vec<String> = self.holds.values().filter_map(|slots| slots.get(&slot)).cloned().collect();
        if why.is_empty() {
            return Ok(());
        }
        // Holders come in no order; the answer is to be the same every time.
        why.sort();
        Err(RearmRefused::HeldBecause(why.join("; ")))
    }

    pub(super) fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Whether what halts `slot` is gone, and its time is over.
    pub(super) fn may_lower(&self, slot: usize, policy: &RearmPolicy, now: Now) -> Result<(), RearmRefused> {
        self.is_held(slot)?;
        let raised = self.cooling.get(&slot).map(|age| age.ns(now));
        policy.rules.may_lower(raised, self.last_drill.map(|(_, age)| age.ns(now)))
    }

    /// `at`: when the page was raised for it, or later. Returns which of all causes it is, counted from one.
    pub(super) fn add_cause(&mut self, slot: usize, cause: Cause, at: Now) -> u64 {
        self.recorded += 1;
        self.cooling.insert(slot, Age::new(at));
        let explained = self.explained.entry(slot).or_default();
        *explained = (*explained).max(cause.epoch);
        let causes = self.causes.entry(slot).or_default();
        let is_machine = |cause: &Cause| MACHINES.contains(&cause.actor.as_str());
        let by_machine = is_machine(&cause);
        // Those that were restored may be more.
        while causes.len() >= CAUSES_KEPT {
            let goes = match causes.iter().skip(1).rposition(is_machine) {
                Some(after_first) => after_first + 1,
                None if by_machine && causes.len() == CAUSES_KEPT => break,
                None => causes.len() - 1,
            };
            causes.remove(goes);
        }
        causes.push(cause);
        self.recorded
    }

    /// Gives the time of the last successful write to everything that it covers and that has none yet. A halt is covered with
    /// its cause only: whoever is told that it is on disk finds there why.
    pub(super) fn settle_durable(&mut self) {
        let (Some(durable), Some(at)) = (self.latch.durable_changes, self.latch.durable_at) else { return };
        let causes = self.latch.durable_causes;
        for receipt in self.receipts.iter_mut().chain(self.trips.iter_mut()) {
            if receipt.durable.is_none() && receipt.changes <= durable && receipt.cause <= causes {
                receipt.durable = Some(at);
                self.tally.durable.record(at.mono.since(receipt.raised.mono));
            }
        }
        for rearm in self.rearms.iter_mut() {
            if let RearmState::Lowered { changes, durable: on_disk @ None, .. } = &mut rearm.state
                && *changes <= durable
            {
                *on_disk = Some(at);
            }
        }
    }

    pub(super) fn age_rearms(&mut self, universe: &Universe, page: &HaltPage, now: Now) {
        for rearm in self.rearms.iter_mut().filter(|r| r.state == RearmState::Pending) {
            let epoch = universe.slot(rearm.scope).map(|slot| page.get(slot).epoch);
            if epoch != Some(rearm.word.epoch) {
                rearm.state = RearmState::Void;
            } else if now.mono >= rearm.expires {
                rearm.state = RearmState::Expired;
            }
        }
    }
}
