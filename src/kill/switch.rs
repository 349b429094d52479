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

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};
use serde::{Deserialize, Serialize};

use crate::duty::Clock;
use crate::kill::board::SessionBoard;
use crate::kill::gates::Gates;
use crate::kill::page::{HaltPage, ModeWord};
use crate::kill::rearm::{Age, Nonces, Rearm, RearmAsk, RearmPolicy, RearmRefused, RearmState, Rearms};
use crate::kill::receipt::{Receipt, Receipts, SessionRow};
use crate::kill::words::{self, ScopeName, mode_word};
use crate::model::cancel::CancelView;
use crate::model::{Mode, Scope, Trip, Universe};
use crate::units::{MonoNanos, Now, SessionId};

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

/// The breach behind a trip, in words: it has to be readable after a restart with another configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TripCause {
    /// The rule.
    pub rule: String,
    /// What was wrong: `breach`, `reference_missing` …
    pub why: String,
    /// The scope at which the limit stands.
    pub at: ScopeName,
    /// What was observed, in `unit`.
    pub observed: String,
    /// What was allowed, in `unit`.
    pub limit: String,
    /// What the two are counted in.
    pub unit: String,
    /// The session whose event did it.
    pub session: String,
    /// That event's sequence; 0 if time alone did it.
    pub seq: u64,
}

/// Why a scope is not `Normal`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cause {
    /// The mode that was asked for.
    #[serde(with = "mode_word")]
    pub mode: Mode,
    /// The epoch that the raise began.
    pub epoch: u64,
    /// When, Unix ns.
    pub at: u64,
    /// Who: a principal, `engine` for a trip, `haltline` for what it did by itself at start.
    pub actor: String,
    /// Why, in the actor's words.
    pub reason: String,
    /// The breach, if it was a trip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trip: Option<TripCause>,
}

impl Cause {
    /// Names it: sixteen digits that whoever re-arms says, to show that this is the cause that was looked at.
    #[must_use]
    pub fn id(&self) -> String {
        let what = (self.epoch, self.at, &self.actor, &self.reason, self.mode.name());
        blake3::hash(format!("{what:?}").as_bytes()).to_hex()[..16].to_owned()
    }
}

/// One halt as the latch keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatchEntry {
    /// Which scope.
    pub scope: ScopeName,
    /// Its mode.
    #[serde(with = "mode_word")]
    pub mode: Mode,
    /// The epoch at which it got it.
    pub epoch: u64,
    /// The first causes since it was last `Normal`, and the latest.
    pub causes: Vec<Cause>,
}

/// What the latch has to hold now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// [`HaltPage::changes`] before the words were read: everything up to it is in `entries`.
    pub changes: u64,
    /// How many causes were recorded by then, over all scopes: those of halts up to here are in `entries`.
    pub causes: u64,
    /// Beyond every epoch in `entries`.
    pub next_epoch: u64,
    /// Every scope that is not `Normal`, and halts of scopes that the configuration no longer has.
    pub entries: Vec<LatchEntry>,
}

/// How the latch's writer is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LatchStatus {
    /// [`HaltPage::changes`] up to which everything is on disk; `None` before the first write.
    pub durable_changes: Option<u64>,
    /// [`Snapshot::causes`] up to which everything is on disk.
    pub durable_causes: u64,
    /// When that was.
    pub durable_at: Option<Now>,
    /// Why the last write failed; `None` if it did not.
    pub error: Option<String>,
    /// Writes that succeeded.
    pub writes: u64,
    /// Writes that failed.
    pub failures: u64,
}

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

/// Upper bounds of the kill stages' buckets in ns; one more bucket holds the rest.
pub const STAGE_BOUNDS_NS: [u64; 18] = [
    1_000,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    1_000_000_000,
    5_000_000_000,
];

/// How long one stage of a kill took, over all presses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageTimes {
    /// Counts per bucket of [`STAGE_BOUNDS_NS`], not cumulative; the last holds what is beyond all bounds.
    pub counts: [u64; STAGE_BOUNDS_NS.len() + 1],
    /// Sum in ns.
    pub sum_ns: u64,
}

impl StageTimes {
    fn add(&mut self, other: &StageTimes) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
    }

    fn record(&mut self, ns: u64) {
        self.counts[STAGE_BOUNDS_NS.partition_point(|&bound| bound < ns)] += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }
}

/// What was done so far, for the metrics. Stages are measured from the moment the page was raised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Presses taken.
    pub presses: u64,
    /// Trips recorded.
    pub trips: u64,
    /// Scopes lowered.
    pub rearms: u64,
    /// Press to page: how long the raise itself took.
    pub raised: StageTimes,
    /// Raised to confirmed by a gate.
    pub gates: StageTimes,
    /// Raised to latch on disk.
    pub durable: StageTimes,
    /// Raised to written to a session.
    pub told: StageTimes,
    /// Raised to confirmed by a session.
    pub confirmed: StageTimes,
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

#[derive(Default)]
struct Records {
    next_id: u64,
    causes: HashMap<usize, Vec<Cause>>,
    /// How many causes were recorded, kept or not.
    recorded: u64,
    /// Since when each slot with causes has been cooling off: since the latest of them, kept or not.
    cooling: HashMap<usize, Age>,
    /// The latest epoch of each slot that a cause was recorded for, kept or not.
    explained: HashMap<usize, u64>,
    /// The epochs that had no cause at the last look, and when they were first seen.
    unexplained: HashMap<usize, (u64, MonoNanos)>,
    /// [`HaltPage::changes`] at the last look.
    looked_at: u64,
    orphans: Vec<LatchEntry>,
    receipts: Receipts,
    /// Receipts of trips: apart, so that many trips do not push a person's receipt out.
    trips: Receipts,
    rearms: Rearms,
    /// The slot that cannot be re-armed now.
    held: Option<usize>,
    /// Others that cannot, by who holds them and by slot, and why.
    holds: HashMap<&'static str, HashMap<usize, String>>,
    nonces: Nonces,
    last_drill: Option<(u64, Age)>,
    latch: LatchStatus,
    tally: Tally,
}

/// How long a word on the page may be without a cause. Ours have one some microseconds later, trips as soon as the control
/// thread has been told of them.
const CAUSE_WITHIN_NS: u64 = 200_000_000;

/// Causes kept per scope since it was last `Normal`: the first ones, and in the last place the latest. A machine's do not
/// push out a person's: where only those are left, the latest of a machine is one more.
const CAUSES_KEPT: usize = 4;

/// Who halts without a person: the engine, haltline at its start, another process by the page, and the parts of the service
/// that watch. A signal and the kill file are a person's doing.
const MACHINES: [&str; 7] = ["engine", "haltline", "halt page", "attestation", "preflight", "guard", "alerts"];

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

    /// Refuses every re-arm of `scope` until this is called again, because what halts it is still there. `None`: nothing
    /// is held any more. It raises nothing: that comes before it, and who calls it looks at the page afterwards, since a
    /// re-arm may have come in between.
    pub fn hold(&self, scope: Option<Scope>) {
        let slot = scope.and_then(|scope| self.universe.slot(scope));
        self.lock().held = slot;
    }

    /// Refuses every re-arm of the scopes in `holds`, each with its reason, until `holder` calls this again: what halts them is still
    /// there. Holders do not see each other's. Nothing is raised: hold first, then raise, and a re-arm that came in between is undone
    /// by the raise.
    pub fn hold_because(&self, holder: &'static str, holds: Vec<(Scope, String)>) {
        let slots = holds.into_iter().filter_map(|(scope, why)| Some((self.universe.slot(scope)?, why)));
        let slots = slots.collect();
        self.lock().holds.insert(holder, slots);
    }

    /// A nonce for a re-arm of `actor`'s, made of `random`.
    #[must_use]
    pub fn nonce(&self, actor: &str, random: [u8; 16], now: Now) -> String {
        self.lock().nonces.give(&words::clean(actor), random, now)
    }

    /// The switch was just rehearsed with success, in a drill that began at `began`.
    pub fn rehearsed(&self, began: Now) {
        self.lock().last_drill = Some((began.unix.0, Age::new(began)));
    }

    /// An earlier run has rehearsed the switch with success, as its stamp says at `unix` (ns). The latest of those that are told
    /// counts; whether this one may: one that is later than now says nothing of when it was.
    pub fn rehearsed_before(&self, unix: u64, now: Now) -> bool {
        let Some(age) = Age::of_stamp(unix, now) else { return false };
        let mut records = self.lock();
        if records.last_drill.is_none_or(|(_, last)| last.ns(now) > age.ns(now)) {
            records.last_drill = Some((unix, age));
        }
        true
    }

    /// When the switch was last rehearsed with success, Unix ns, by the clock as it is now, and how long ago that is, in ns.
    #[must_use]
    pub fn last_drill(&self, now: Now) -> Option<(u64, u64)> {
        let (unix, age) = self.lock().last_drill?;
        let ago = age.ns(now);
        // The clock was put back since: the stamp would be in the future.
        let unix = if unix > now.unix.0 { now.unix.0.saturating_sub(ago) } else { unix };
        Some((unix, ago))
    }

    /// Asks to lower `scope`, whose halt has `epoch`, naming no cause and with no nonce. See [`Switch::ask_rearm_with`].
    ///
    /// # Errors
    /// See [`RearmRefused`].
    pub fn ask_rearm(
        &self,
        scope: Scope,
        epoch: u64,
        actor: &str,
        reason: &str,
        now: Now,
    ) -> Result<Rearm, RearmRefused> {
        self.ask_rearm_with(RearmAsk { scope, epoch, actor, reason, acknowledge: None, nonce: None }, now)
    }

    /// Whether a re-arm of `scope` would be taken, and whether it would lower the scope at once: what has to be in force
    /// before that is prepared only then. `agrees`: it is the second person's.
    ///
    /// # Errors
    /// See [`RearmRefused`].
    pub fn would_lower(&self, scope: Scope, epoch: u64, agrees: bool, now: Now) -> Result<bool, RearmRefused> {
        let slot = self.universe.slot(scope).ok_or(RearmRefused::UnknownScope)?;
        let word = self.page.get(slot);
        if word.mode == Mode::Normal {
            return Err(RearmRefused::NotHalted);
        }
        if word.epoch != epoch {
            return Err(RearmRefused::Superseded(word));
        }
        let records = self.lock();
        records.may_lower(slot, &self.policy, now)?;
        Ok(agrees || !self.policy.two_people[scope.kind() as usize])
    }

    /// Asks to lower a scope. Where one person suffices it is lowered at once.
    ///
    /// # Errors
    /// See [`RearmRefused`].
    pub fn ask_rearm_with(&self, ask: RearmAsk<'_>, now: Now) -> Result<Rearm, RearmRefused> {
        let RearmAsk { scope, epoch, actor, reason, acknowledge, nonce } = ask;
        let slot = self.universe.slot(scope).ok_or(RearmRefused::UnknownScope)?;
        let (actor, reason) = (words::clean(actor), words::clean(reason));
        if reason.is_empty() {
            return Err(RearmRefused::NoReason);
        }
        let word = self.page.get(slot);
        if word.mode == Mode::Normal {
            return Err(RearmRefused::NotHalted);
        }
        if word.epoch != epoch {
            return Err(RearmRefused::Superseded(word));
        }
        let mut records = self.lock();
        match nonce {
            Some(nonce) => records.nonces.take(&actor, nonce, now)?,
            None if self.policy.rules.nonce => return Err(RearmRefused::BadNonce),
            None => {}
        }
        records.may_lower(slot, &self.policy, now)?;
        let causes = records.causes.get(&slot).map_or(&[][..], Vec::as_slice);
        self.policy.rules.is_acknowledged(causes, acknowledge)?;
        records.age_rearms(&self.universe, &self.page, now);
        let waiting = records
            .rearms
            .iter_mut()
            .find(|r| r.state == RearmState::Pending && r.scope == scope && r.word.epoch == epoch && r.actor == actor);
        if let Some(waiting) = waiting {
            return Ok(waiting.clone());
        }
        records.rearms.make_room()?;
        let mut rearm = Rearm {
            id: records.take_id(),
            scope,
            word,
            actor: actor.clone(),
            reason: reason.clone(),
            at: now,
            expires: MonoNanos(now.mono.0.saturating_add(self.policy.expiry_ns)),
            state: RearmState::Pending,
        };
        if self.policy.two_people[scope.kind() as usize] {
            records.rearms.push(rearm.clone());
            return Ok(rearm);
        }
        rearm.state = self.lower(&mut records, slot, epoch, actor, reason, now)?;
        records.rearms.push(rearm.clone());
        drop(records);
        self.page_changed();
        Ok(rearm)
    }

    /// A second person agrees to request `id`: the scope is lowered, unless it was raised since.
    ///
    /// # Errors
    /// See [`RearmRefused`].
    pub fn agree_rearm(&self, id: u64, actor: &str, reason: &str, now: Now) -> Result<Rearm, RearmRefused> {
        let (actor, reason) = (words::clean(actor), words::clean(reason));
        if reason.is_empty() {
            return Err(RearmRefused::NoReason);
        }
        let mut records = self.lock();
        records.age_rearms(&self.universe, &self.page, now);
        let rearm = records.rearms.get_mut(id).ok_or(RearmRefused::UnknownRequest)?;
        if rearm.state != RearmState::Pending {
            return Err(RearmRefused::NotPending(rearm.state.clone()));
        }
        if rearm.actor == actor {
            return Err(RearmRefused::SamePerson);
        }
        let (scope, epoch) = (rearm.scope, rearm.word.epoch);
        let slot = self.universe.slot(scope).ok_or(RearmRefused::UnknownScope)?;
        records.may_lower(slot, &self.policy, now)?;
        let lowered = self.lower(&mut records, slot, epoch, actor, reason, now);
        let rearm = records.rearms.get_mut(id).ok_or(RearmRefused::UnknownRequest)?;
        rearm.state = match &lowered {
            Ok(state) => state.clone(),
            Err(_) => RearmState::Void,
        };
        let rearm = rearm.clone();
        lowered?;
        drop(records);
        self.page_changed();
        Ok(rearm)
    }

    /// Lowers what a drill has raised: only while the scope has the epoch of that very press, so that whatever was raised
    /// since stays. It needs no second person: the scope was normal, and is as it was before.
    ///
    /// # Errors
    /// [`RearmRefused::Superseded`], [`RearmRefused::Held`] or [`RearmRefused::HeldBecause`]: it stays halted.
    pub fn end_drill(&self, scope: Scope, receipt: u64, actor: &str, now: Now) -> Result<(), RearmRefused> {
        let slot = self.universe.slot(scope).ok_or(RearmRefused::UnknownScope)?;
        let mut records = self.lock();
        records.is_held(slot)?;
        let press = records.receipts.get_mut(receipt).filter(|r| r.scope == scope && !r.by_trip);
        let epoch = press.ok_or(RearmRefused::UnknownRequest)?.word.epoch;
        self.lower(&mut records, slot, epoch, words::clean(actor), "the drill is over".to_owned(), now)?;
        drop(records);
        self.page_changed();
        Ok(())
    }

    fn lower(
        &self,
        records: &mut Records,
        slot: usize,
        epoch: u64,
        by: String,
        reason: String,
        at: Now,
    ) -> Result<RearmState, RearmRefused> {
        self.page.lower(slot, epoch).map_err(|superseded| RearmRefused::Superseded(superseded.now))?;
        let changes = self.page.changes();
        // A kill that follows may have recorded its cause already: only what belongs to this halt goes.
        if let Some(causes) = records.causes.get_mut(&slot) {
            causes.retain(|cause| cause.epoch > epoch);
            if causes.is_empty() {
                records.causes.remove(&slot);
                records.cooling.remove(&slot);
            }
        }
        if slot == 0 {
            // The firm was halted because of them (see `latch`); with its re-arm they are dealt with.
            records.orphans.clear();
        }
        records.tally.rearms += 1;
        Ok(RearmState::Lowered { by, reason, at, changes, durable: None })
    }

    /// All re-arms that are remembered, newest first.
    #[must_use]
    pub fn rearms(&self, now: Now) -> Vec<Rearm> {
        let mut records = self.lock();
        records.age_rearms(&self.universe, &self.page, now);
        records.rearms.iter_mut().rev().map(|r| r.clone()).collect()
    }

    /// The re-arm with this id.
    #[must_use]
    pub fn rearm(&self, id: u64, now: Now) -> Option<Rearm> {
        let mut records = self.lock();
        records.age_rearms(&self.universe, &self.page, now);
        records.rearms.get_mut(id).map(|r| r.clone())
    }

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

    fn raised_words(&self) -> Vec<(usize, Scope, ModeWord)> {
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

    /// What the latch has to hold now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        // Before the words: whatever was counted by then is in them.
        let changes = self.page.changes();
        let words = self.raised_words();
        // After the words: an epoch is taken before it is written into a word.
        let next_epoch = self.page.next_epoch();
        let records = self.lock();
        let causes = records.recorded;
        let mut entries: Vec<LatchEntry> = words
            .into_iter()
            .map(|(slot, scope, word)| LatchEntry {
                scope: ScopeName::of(&self.universe, scope),
                mode: word.mode,
                epoch: word.epoch,
                causes: records.causes.get(&slot).cloned().unwrap_or_default(),
            })
            .collect();
        entries.extend(records.orphans.iter().cloned());
        Snapshot { changes, causes, next_epoch, entries }
    }

    /// The latch's writer reports: `snapshot` is on disk since `at`.
    pub fn latch_written(&self, snapshot: &Snapshot, at: Now) {
        let mut records = self.lock();
        records.latch.durable_changes = Some(snapshot.changes);
        records.latch.durable_causes = snapshot.causes;
        records.latch.durable_at = Some(at);
        records.latch.error = None;
        records.latch.writes += 1;
        records.settle_durable();
        drop(records);
        for progressed in self.progressed.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            progressed();
        }
    }

    /// Has `waker` called too whenever something has become durable. It must not call this.
    pub fn on_progress(&self, waker: Waker) {
        self.progressed.lock().unwrap_or_else(PoisonError::into_inner).push(waker);
    }

    /// The latch's writer reports that it could not write.
    pub fn latch_failed(&self, error: String) {
        let mut records = self.lock();
        records.latch.error = Some(error);
        records.latch.failures += 1;
    }

    /// How the latch's writer is doing.
    #[must_use]
    pub fn latch(&self) -> LatchStatus {
        self.lock().latch.clone()
    }

    /// Whether the page as it is now is on disk.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        let changes = self.page.changes();
        self.lock().latch.durable_changes.is_some_and(|durable| durable >= changes)
    }

    /// As [`Switch::is_durable`], for a thread that panics and may hold the lock itself: then it is not known, so no.
    #[must_use]
    pub fn is_known_durable(&self) -> bool {
        let changes = self.page.changes();
        match self.records.try_lock() {
            Ok(records) => records.latch.durable_changes.is_some_and(|durable| durable >= changes),
            Err(_) => false,
        }
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

    fn lock(&self) -> MutexGuard<'_, Records> {
        // What a panicking thread left behind is at worst a cause that is missing; the page is not in here.
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Records {
    /// # Errors
    /// If what halts the scope at `slot` is still there.
    fn is_held(&self, slot: usize) -> Result<(), RearmRefused> {
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

    fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Whether what halts `slot` is gone, and its time is over.
    fn may_lower(&self, slot: usize, policy: &RearmPolicy, now: Now) -> Result<(), RearmRefused> {
        self.is_held(slot)?;
        let raised = self.cooling.get(&slot).map(|age| age.ns(now));
        policy.rules.may_lower(raised, self.last_drill.map(|(_, age)| age.ns(now)))
    }

    /// `at`: when the page was raised for it, or later. Returns which of all causes it is, counted from one.
    fn add_cause(&mut self, slot: usize, cause: Cause, at: Now) -> u64 {
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
    fn settle_durable(&mut self) {
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

    fn age_rearms(&mut self, universe: &Universe, page: &HaltPage, now: Now) {
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

#[cfg(test)]
mod tests;
