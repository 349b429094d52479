//! The gateways that have mapped the halt page, and the proof that a kill has reached each of them.
//!
//! A kill raises the page, passes the heavy half of the [barrier](crate::ring::barrier) once for all gates, and looks at every
//! slot. A gate of which no slot was inside is confirmed there and then: each of its threads will see the page before its next
//! send. One with slots inside is confirmed when the last of them has left, or when its process is gone: then nothing of it can be
//! sent any more, and the receipt says that it died inside.
//!
//! A gateway lives on when haltline is restarted, and its gate opens with the first new lease, perhaps before it has connected
//! again. The page file names its process, so that a kill in between does not leave it out: nothing can be said of it until it
//! has come back with its slots, or has ended.
//!
//! The list is behind a lock that is held for as long as it takes to copy a pointer; the page is raised before it is taken.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use crate::ring::barrier::heavy;
use crate::ring::shm::Words;
use crate::ring::slots::{Held, SLOT_WORDS, STATE, begin_grace, is_held};
use crate::units::SessionId;

/// One gateway's process that has a session's region.
#[derive(Debug)]
pub struct AttachedGate {
    /// Whose region.
    pub session: SessionId,
    /// The process.
    pub pid: u32,
    /// The user that it runs as.
    pub uid: u32,
    /// What it calls itself.
    pub build: String,
    /// Whether it may rely on the kill's side of the barrier; if not, it fences itself.
    pub membarrier: bool,
    /// Not set: it was attached to the run before, and has not come back.
    slots: OnceLock<Words>,
    /// The state of each slot at its end: the next gateway of the session takes the slots over.
    last: OnceLock<Box<[u64]>>,
    gone: AtomicBool,
    /// Monotonic ns at which its end was seen.
    gone_at: AtomicU64,
}

impl AttachedGate {
    /// A gate that has just attached.
    #[must_use]
    pub fn new(session: SessionId, pid: u32, uid: u32, build: String, membarrier: bool, slots: Words) -> AttachedGate {
        let gate = AttachedGate { uid, build, ..AttachedGate::unseen(session, pid, membarrier) };
        gate.come_back(slots);
        gate
    }

    /// A gate that was attached when haltline's last run ended, and lives.
    #[must_use]
    pub const fn unseen(session: SessionId, pid: u32, membarrier: bool) -> AttachedGate {
        AttachedGate {
            session,
            pid,
            uid: 0,
            build: String::new(),
            membarrier,
            slots: OnceLock::new(),
            last: OnceLock::new(),
            gone: AtomicBool::new(false),
            gone_at: AtomicU64::new(0),
        }
    }

    /// It is attached to this run, with these slots. The first ones stay.
    pub fn come_back(&self, slots: Words) {
        let _ = self.slots.set(slots);
    }

    /// Whether it has not come back since haltline was restarted.
    #[must_use]
    pub fn is_unseen(&self) -> bool {
        self.slots.get().is_none()
    }

    /// Its process has ended, seen at `at` (monotonic ns). Before anybody else gets its slots.
    pub fn set_gone(&self, at: u64) {
        if let Some(slots) = self.slots.get() {
            let states =
                slots.iter().skip(STATE).step_by(SLOT_WORDS).map(|state| state.load(Ordering::Acquire)).collect();
            let _ = self.last.set(states);
        }
        self.gone_at.store(at, Ordering::Relaxed);
        self.gone.store(true, Ordering::SeqCst);
    }

    /// Whether its process has ended.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }

    /// The slots that are inside now. After [`heavy`].
    fn held(&self) -> Vec<Held> {
        let mut held = Vec::new();
        if let Some(slots) = self.slots.get() {
            begin_grace(slots, |h| held.push(h));
        }
        held
    }

    fn holds(&self, held: Held) -> bool {
        match (self.last.get(), self.slots.get()) {
            (Some(last), _) => last.get(usize::from(held.slot)) == Some(&held.state),
            (None, Some(slots)) => is_held(slots, held),
            (None, None) => false,
        }
    }
}

/// All gates.
#[derive(Debug, Default)]
pub struct Gates {
    list: RwLock<Arc<Vec<Arc<AttachedGate>>>>,
}

impl Gates {
    /// Adds a gate. Must be done before its gateway is told that it is attached: then a kill that does not find it here was
    /// raised before the gateway's first look at the page.
    pub fn add(&self, gate: Arc<AttachedGate>) {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        let mut new: Vec<_> = list.iter().filter(|g| !(g.session == gate.session && g.is_gone())).cloned().collect();
        new.push(gate);
        *list = Arc::new(new);
    }

    /// Removes a gate whose process has ended.
    pub fn remove(&self, gate: &Arc<AttachedGate>) {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        *list = Arc::new(list.iter().filter(|g| !Arc::ptr_eq(g, gate)).cloned().collect());
    }

    /// All that are there.
    #[must_use]
    pub fn all(&self) -> Arc<Vec<Arc<AttachedGate>>> {
        self.list.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Begins to wait for what was admitted before the page was raised. Call right after the raise, in the thread that raised.
    /// With `session`, only that session's gates are looked at.
    #[must_use]
    pub fn begin(&self, session: Option<SessionId>) -> Vec<GateRow> {
        let list = self.all();
        let mut rows = Vec::with_capacity(list.len());
        if list.is_empty() {
            return rows;
        }
        let reached = heavy();
        for gate in list.iter().filter(|g| session.is_none_or(|only| only == g.session)) {
            // Before its slots: those that come in between are looked at again.
            let unseen = gate.is_unseen();
            let held = gate.held();
            let (inside, unreached) = (held.len(), unseen || (gate.membarrier && !reached));
            rows.push(GateRow { gate: gate.clone(), held, inside, unreached, confirmed_ns: None, died_inside: 0 });
        }
        rows
    }
}

/// One gate's part of a receipt.
#[derive(Clone, Debug)]
pub struct GateRow {
    /// Which gate.
    pub gate: Arc<AttachedGate>,
    /// Slots that are still inside since before the raise.
    held: Vec<Held>,
    /// How many were inside at the raise.
    pub inside: usize,
    /// The system refused the barrier that the gate relies on, or the gate has not come back since haltline was restarted:
    /// nothing can be said of it until that has changed or its process is gone.
    pub unreached: bool,
    /// When nothing admitted before the raise could still be sent, in ns after the press.
    pub confirmed_ns: Option<u64>,
    /// How many of its threads were inside when its process ended: an order of theirs may or may not have been sent.
    pub died_inside: usize,
}

impl PartialEq for GateRow {
    fn eq(&self, other: &GateRow) -> bool {
        Arc::ptr_eq(&self.gate, &other.gate)
            && (self.inside, self.confirmed_ns, self.died_inside)
                == (other.inside, other.confirmed_ns, other.died_inside)
    }
}

impl Eq for GateRow {}

impl GateRow {
    /// Looks again. Returns whether it has become confirmed by this look; the caller then says when, reading the clock after it.
    pub fn look(&mut self) -> bool {
        if self.confirmed_ns.is_some() {
            return false;
        }
        // Before the slots: a process that is gone changes them no more.
        let gone = self.gate.is_gone();
        if self.unreached && !gone && !self.gate.is_unseen() && (heavy() || !self.gate.membarrier) {
            // It has come back since, or the system has changed its mind: who is outside now sees the raise.
            self.held = self.gate.held();
            self.inside = self.held.len();
            self.unreached = false;
        }
        self.held.retain(|&held| self.gate.holds(held));
        if gone {
            self.died_inside = self.held.len();
            return true;
        }
        self.held.is_empty() && !self.unreached
    }

    /// How many slots are still inside.
    #[must_use]
    pub fn still_inside(&self) -> usize {
        self.held.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::barrier::Fencing;
    use crate::ring::slots::Slot;

    fn gate(session: u16) -> (Arc<AttachedGate>, Words) {
        let slots = Words::heap(4 * SLOT_WORDS);
        (Arc::new(AttachedGate::new(SessionId(session), 1, 1, String::new(), false, slots.clone())), slots)
    }

    #[test]
    fn confirmed_is_who_was_outside_or_has_left() {
        let gates = Gates::default();
        let (one, one_slots) = gate(1);
        let (two, two_slots) = gate(2);
        let (mut idle, mut busy) =
            (Slot::claim(&one_slots, 1, Fencing::Fence).unwrap(), Slot::claim(&two_slots, 1, Fencing::Fence).unwrap());
        gates.add(one);
        gates.add(two);
        busy.enter();
        let mut rows = gates.begin(None);
        assert_eq!(rows.iter().map(|r| r.inside).collect::<Vec<_>>(), [0, 1]);
        assert!(rows[0].look() && !rows[1].look());
        idle.enter();
        assert_eq!(gates.begin(Some(SessionId(2))).len(), 1);
        busy.exit();
        busy.enter();
        assert!(rows[1].look(), "it left, and has entered after the raise");
        assert_eq!(rows[1].died_inside, 0);
    }

    #[test]
    fn who_died_inside_is_named_and_holds_nothing_up() {
        let gates = Gates::default();
        let (gate, slots) = gate(1);
        let mut slot = Slot::claim(&slots, 1, Fencing::Fence).unwrap();
        gates.add(gate.clone());
        slot.enter();
        let mut rows = gates.begin(None);
        assert!(!rows[0].look());
        gate.set_gone(7);
        assert!(rows[0].look());
        assert_eq!((rows[0].died_inside, rows[0].still_inside()), (1, 1));
        gates.remove(&gate);
        assert!(gates.begin(None).is_empty());
    }

    #[test]
    fn a_gate_that_the_barrier_does_not_reach_is_not_confirmed() {
        let gate = Arc::new(AttachedGate::new(SessionId(1), 1, 1, String::new(), true, Words::heap(SLOT_WORDS)));
        let row = |unreached| GateRow {
            gate: gate.clone(),
            held: vec![],
            inside: 0,
            unreached,
            confirmed_ns: None,
            died_inside: 0,
        };
        assert!(row(false).look());
        // The system is asked anew.
        assert_eq!(row(true).look(), heavy());
    }

    #[test]
    fn who_died_inside_is_named_also_when_the_next_gateway_has_its_slots() {
        let gates = Gates::default();
        let (gate, slots) = gate(1);
        let mut slot = Slot::claim(&slots, 1, Fencing::Fence).unwrap();
        gates.add(gate.clone());
        slot.enter();
        let mut rows = gates.begin(None);
        gate.set_gone(7);
        slot.exit();
        assert!(rows[0].look());
        assert_eq!(rows[0].died_inside, 1, "an order of it may or may not have been sent");
    }

    #[test]
    fn a_gate_of_the_run_before_is_not_confirmed_until_it_is_back_and_outside() {
        let gates = Gates::default();
        let slots = Words::heap(4 * SLOT_WORDS);
        let mut slot = Slot::claim(&slots, 1, Fencing::Fence).unwrap();
        slot.enter();
        let gate = Arc::new(AttachedGate::unseen(SessionId(1), 9, false));
        gates.add(gate.clone());
        let mut rows = gates.begin(None);
        assert!(!rows[0].look() && rows[0].unreached, "it may be inside");
        gate.come_back(slots);
        assert!(!rows[0].look());
        assert_eq!((rows[0].inside, rows[0].still_inside(), rows[0].unreached), (1, 1, false));
        slot.exit();
        assert!(rows[0].look());
        let unseen = Arc::new(AttachedGate::unseen(SessionId(1), 9, false));
        gates.add(unseen.clone());
        let mut rows = gates.begin(None);
        unseen.set_gone(5);
        assert!(rows[1].look(), "its process has ended");
    }
}
