//! [`Switch`]: the one handle of the control plane. Pressing it stops flow at once; what proves it comes after.
//!
//! # Synchronization
//!
//! [`Switch::press`] raises the halt page before it takes any lock, and nothing that holds the lock waits for
//! a disk, a socket or the engine. The latch's writer is woken through a channel of one place: what it
//! writes is the page's present state, so one wake-up that is pending is enough, whatever was raised since.
//!
//! Causes are recorded after the raise, and the latch's writer is woken when they are: one write for both. A latch that is
//! written in between (for somebody else's halt, or because the writer looks by itself) has the halt without its cause; then the
//! receipt is not durable before the next write, which has both.

mod back;
mod cause;
mod durable;
mod records;
mod seen;
mod tally;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::duty::Clock;
use crate::kill::board::SessionBoard;
use crate::kill::gates::Gates;
use crate::kill::page::{HaltPage, ModeWord};
use crate::kill::rearm::{Age, RearmPolicy};
use crate::kill::receipt::{Receipt, SessionRow};
pub use crate::kill::switch::cause::{Cause, TripCause};
pub use crate::kill::switch::durable::{LatchEntry, LatchStatus, Snapshot};
use crate::kill::switch::records::Records;
pub use crate::kill::switch::seen::Halt;
pub use crate::kill::switch::tally::{STAGE_BOUNDS_NS, StageTimes, Tally};
use crate::kill::words::{self, ScopeName};
use crate::model::cancel::CancelView;
use crate::model::{Mode, Scope, Trip, Universe};
use crate::units::{Now, SessionId};

/// How far a press goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Only what reduces a position may pass, and cancels.
    ReduceOnly,
    /// Only cancels may pass.
    Halted,
}

impl Stop {
    /// The mode that it raises to.
    #[must_use]
    pub const fn mode(self) -> Mode {
        match self {
            Stop::ReduceOnly => Mode::ReduceOnly,
            Stop::Halted => Mode::Halted,
        }
    }
}

/// Wakes somebody who watches the page. Must not block.
pub type Waker = Box<dyn Fn() + Send + Sync>;

/// How far the cancels of the scope at a slot are, as the engine shows it.
pub type CancelsOf = Box<dyn Fn(usize) -> Option<CancelView> + Send + Sync>;

/// What a [`Switch`] is made of.
pub struct SwitchParts {
    /// The halt page, with the latched words restored.
    pub page: Arc<HaltPage>,
    /// The sessions.
    pub board: Arc<SessionBoard>,
    /// The gateways that have mapped the page.
    pub gates: Arc<Gates>,
    /// All names.
    pub universe: Arc<Universe>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Called after every change of the page: the transports and the engine.
    pub wakers: Vec<Waker>,
    /// How many orders are pending or working in the scope at a slot, as far as known.
    pub working: Box<dyn Fn(usize) -> Option<i64> + Send + Sync>,
    /// Where two people are needed.
    pub policy: RearmPolicy,
    /// Causes of the restored words, by slot.
    pub causes: Vec<(usize, Vec<Cause>)>,
    /// Latched halts of scopes that `universe` does not have.
    pub orphans: Vec<LatchEntry>,
}

/// The shared handle. Every method may be called from any thread and in every state.
pub struct Switch {
    page: Arc<HaltPage>,
    board: Arc<SessionBoard>,
    gates: Arc<Gates>,
    universe: Arc<Universe>,
    clock: Arc<dyn Clock>,
    wakers: Vec<Waker>,
    working: Box<dyn Fn(usize) -> Option<i64> + Send + Sync>,
    policy: RearmPolicy,
    latch_jobs: Sender<()>,
    progressed: Mutex<Vec<Waker>>,
    cancels: OnceLock<CancelsOf>,
    records: Mutex<Records>,
}

/// The scope cannot be halted: it does not exist, or is a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownScope;

impl Switch {
    /// The switch, and where the latch's writer hears that there is something to write.
    #[must_use]
    pub fn new(parts: SwitchParts) -> (Switch, Receiver<()>) {
        let (latch_jobs, jobs) = bounded(1);
        let now = parts.clock.now();
        // What is stamped later than now was stamped by a clock that has been put back since: how long ago it was is not known, so
        // the whole time counts from here.
        let cooling = |causes: &[Cause]| {
            causes.iter().map(|cause| cause.at).max().and_then(|at| Age::of_stamp(at, now)).unwrap_or(Age::new(now))
        };
        let records = Records {
            cooling: parts.causes.iter().map(|(slot, causes)| (*slot, cooling(causes))).collect(),
            // Every press uses an epoch of its own, so ids that start here stay below the next start's.
            next_id: parts.page.next_epoch(),
            explained: parts.causes.iter().map(|(slot, _)| (*slot, parts.page.get(*slot).epoch)).collect(),
            causes: parts.causes.into_iter().collect(),
            orphans: parts.orphans,
            ..Records::default()
        };
        let switch = Switch {
            page: parts.page,
            board: parts.board,
            gates: parts.gates,
            universe: parts.universe,
            clock: parts.clock,
            wakers: parts.wakers,
            working: parts.working,
            policy: parts.policy,
            latch_jobs,
            progressed: Mutex::default(),
            cancels: OnceLock::new(),
            records: Mutex::new(records),
        };
        (switch, jobs)
    }

    /// From here on receipts tell how far the cancels are. The first call counts.
    pub fn watch_cancels(&self, cancels: CancelsOf) {
        let _ = self.cancels.set(cancels);
    }

    /// How far the cancels of `scope` are now.
    #[must_use]
    pub fn cancels(&self, scope: Scope) -> Option<CancelView> {
        self.universe.slot(scope).and_then(|slot| self.cancels.get()?(slot))
    }

    /// The halt page.
    #[must_use]
    pub fn page(&self) -> &HaltPage {
        &self.page
    }

    /// The sessions.
    #[must_use]
    pub fn board(&self) -> &SessionBoard {
        &self.board
    }

    /// The gateways that have mapped the page.
    #[must_use]
    pub fn gates(&self) -> &Gates {
        &self.gates
    }

    /// All names.
    #[must_use]
    pub fn universe(&self) -> &Universe {
        &self.universe
    }

    /// Where two people are needed.
    #[must_use]
    pub fn policy(&self) -> RearmPolicy {
        self.policy
    }

    /// Raises `scope` to at least `stop`, tells everybody, and returns the receipt as it is right after.
    ///
    /// The page is raised before anything else is done; what follows takes no time that depends on a disk, a
    /// network or the engine. `pressed` is when the press was received.
    ///
    /// # Errors
    /// [`UnknownScope`], with nothing raised.
    pub fn press(
        &self,
        scope: Scope,
        stop: Stop,
        actor: &str,
        reason: &str,
        pressed: Now,
    ) -> Result<Receipt, UnknownScope> {
        self.press_from(scope, stop, (actor, reason), false, pressed).map(|(receipt, _)| receipt)
    }

    /// Halts `scope` for a drill, as [`Switch::press`] does; returns the mode as well that the scope was raised from: of two presses
    /// at once one finds the other's.
    ///
    /// # Errors
    /// [`UnknownScope`].
    pub fn press_for_drill(
        &self,
        scope: Scope,
        actor: &str,
        reason: &str,
        pressed: Now,
    ) -> Result<(Receipt, Mode), UnknownScope> {
        self.press_from(scope, Stop::Halted, (actor, reason), true, pressed)
    }

    fn press_from(
        &self,
        scope: Scope,
        stop: Stop,
        (actor, reason): (&str, &str),
        for_drill: bool,
        pressed: Now,
    ) -> Result<(Receipt, Mode), UnknownScope> {
        let slot = self.universe.slot(scope).ok_or(UnknownScope)?;
        let (word, before) = self.page.raise_from(slot, stop.mode());
        let changes = self.page.changes();
        // Before anybody is woken: who is quick confirms before the last waker returns.
        let raised = self.clock.now();
        // Gates first: they need nobody to be woken.
        let mut tally = Tally::default();
        let mut receipt = self.begin_receipt(scope, stop.mode(), word, changes, pressed, raised);
        let confirm = |receipt: &mut Receipt, tally: &mut Tally| {
            receipt.look_at_gates(|| self.clock.now().mono.0, |ns| tally.gates.record(ns));
        };
        confirm(&mut receipt, &mut tally);
        self.wake_all();
        // A send takes some microseconds: most gates that were inside have left by now.
        confirm(&mut receipt, &mut tally);

        let sessions = self.rows(scope);
        let working_orders = (self.working)(slot);
        let (actor, reason) = (words::clean(actor), words::clean(reason));
        let reason = if reason.is_empty() { "none given".to_owned() } else { reason };
        let cause = Cause {
            mode: stop.mode(),
            epoch: word.epoch,
            at: pressed.unix.0,
            actor: actor.clone(),
            reason: reason.clone(),
            trip: None,
        };
        let mut records = self.lock();
        let cause = records.add_cause(slot, cause, pressed);
        let id = records.take_id();
        receipt = Receipt { id, cause, for_drill, actor, reason, sessions, working_orders, ..receipt };
        confirm(&mut receipt, &mut tally);
        records.tally.gates.add(&tally.gates);
        records.tally.presses += 1;
        records.tally.raised.record(raised.mono.since(pressed.mono));
        records.receipts.push(receipt.clone());
        // The writer may have been faster than we: then nobody else would tell this receipt.
        records.settle_durable();
        let receipt = records.receipts.get_mut(id).cloned().unwrap_or(receipt);
        drop(records);
        self.ask_for_latch();
        Ok((receipt, before))
    }

    /// A receipt of which nothing but the raise is known, whose gates are being waited for from now on.
    fn begin_receipt(
        &self,
        scope: Scope,
        asked: Mode,
        word: ModeWord,
        changes: u64,
        pressed: Now,
        raised: Now,
    ) -> Receipt {
        let only = match scope {
            Scope::Session(session) => Some(session),
            Scope::Firm | Scope::Account(_) | Scope::Strategy(_) | Scope::Pair(..) | Scope::Instrument(_) => None,
        };
        let gates = self.gates.begin(only);
        Receipt {
            id: 0,
            scope,
            asked,
            word,
            changes,
            cause: 0,
            by_trip: false,
            for_drill: false,
            actor: String::new(),
            reason: String::new(),
            pressed,
            raised,
            durable: None,
            sessions: Vec::new(),
            gates,
            working_orders: None,
            cancels: None,
        }
    }

    /// Sessions of `scope` that can send orders.
    fn rows(&self, scope: Scope) -> Vec<SessionRow> {
        let mut rows = Vec::new();
        for (index, spec) in self.universe.sessions.iter().enumerate() {
            let session = SessionId(index as u16);
            let concerned = match scope {
                Scope::Session(only) => only == session,
                Scope::Firm | Scope::Account(_) | Scope::Strategy(_) | Scope::Pair(..) | Scope::Instrument(_) => true,
            };
            if concerned && spec.kind.trades() {
                let connected = self.board.cell(index).is_some_and(|c| c.view().connected);
                rows.push(SessionRow { session, connected, told_ns: None, confirmed_ns: None });
            }
        }
        rows
    }

    /// Tells everybody who watches the page that it changed. The engine calls this after it raised the page
    /// by itself. Never blocks.
    pub fn page_changed(&self) {
        self.wake_all();
        self.ask_for_latch();
    }

    fn wake_all(&self) {
        for wake in &self.wakers {
            wake();
        }
    }

    /// Full means that a wake-up is pending, and the writer looks at the page only after taking it. A writer
    /// that is gone is seen in the status: nothing becomes durable any more.
    fn ask_for_latch(&self) {
        let _ = self.latch_jobs.try_send(());
    }

    /// Records why the engine raised the page, and begins a receipt for it. The page itself was raised by the engine, before
    /// it told of it: what the receipt says of gates and sessions is counted from then, and is late rather than early. Returns the
    /// receipt's id, if there is something to have one for.
    pub fn record_trip(&self, trip: &Trip, at: Now) -> Option<u64> {
        let slot = self.universe.slot(trip.scope)?;
        let word = self.page.get(slot);
        let changes = self.page.changes();
        let mut receipt = self.begin_receipt(trip.scope, trip.mode, word, changes, at, at);
        receipt.sessions = self.rows(trip.scope);
        receipt.working_orders = (self.working)(slot);
        let universe = &self.universe;
        let (rule, place) = (trip.cause.rule, trip.cause.scope);
        let detail = TripCause {
            rule: rule.name().to_owned(),
            why: trip.cause.why.name().to_owned(),
            at: ScopeName::of(universe, place),
            observed: words::value(universe, rule, place, trip.cause.observed),
            limit: words::value(universe, rule, place, trip.cause.limit),
            unit: words::unit(universe, rule, place),
            session: universe.scope_name(Scope::Session(trip.session)),
            seq: trip.seq,
        };
        let cause = Cause {
            mode: trip.mode,
            epoch: word.epoch,
            at: at.unix.0,
            actor: "engine".to_owned(),
            reason: format!("{} at {}", detail.rule, detail.at),
            trip: Some(detail),
        };
        let mut records = self.lock();
        records.tally.trips += 1;
        let mut id = None;
        // Lowered in the meantime by somebody who had seen it: there is no halt to give a cause for.
        if word.mode != Mode::Normal {
            receipt.id = records.take_id();
            id = Some(receipt.id);
            receipt.by_trip = true;
            receipt.actor.clone_from(&cause.actor);
            receipt.reason.clone_from(&cause.reason);
            receipt.look_at_gates(|| self.clock.now().mono.0, |ns| records.tally.gates.record(ns));
            receipt.cause = records.add_cause(slot, cause, at);
            records.trips.push(receipt);
            records.settle_durable();
        }
        drop(records);
        self.ask_for_latch();
        id
    }

    fn lock(&self) -> MutexGuard<'_, Records> {
        // What a panicking thread left behind is at worst a cause that is missing; the page is not in here.
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
