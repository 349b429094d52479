//! HOT: no I/O, lock, allocation, logging, formatting, clock or syscall; every loop bounded.
//!
//! From halted to flat: has the working orders of halted scopes canceled by their sessions, follows each to its end, repeats
//! what is not answered. See [`CancelState`] for the life of one cancel.
//!
//! Orders are found by going round the table of orders, some slots a step (`LOOKED_AT_PER_STEP`), so that a halt of a million
//! orders does not hold up an event. A round is begun by whatever may have work for it (a halt, a re-arm, a session that comes
//! or goes, an order that is booked in a halted scope), and while orders are being canceled by time.
//!
//! A step of the round is an input like a tick: recorded with its time whenever it moved anything, so that a replay gives the
//! same instructions. A halt counts from when the engine has heard of it ([`Command::Mode`](crate::engine::Command::Mode)); one
//! that was re-armed in the meantime gives no instruction any more.
//!
//! A cancel that haltline asked for is not the strategy's doing: the first request that follows an instruction does not count
//! towards message and cancel rates, of any scope. Further ones do.

mod save;

use crate::engine::core::{Engine, clip};
use crate::limits::Gauge;
use crate::model::cancel::{CancelState, CancelView, Instruct, Instruction};
use crate::model::effect::Denial;
use crate::model::{Action, Effects, Event, EventKind, Mode, Rule, Scope, Target, Why};
use crate::risk::orders::Order;
use crate::units::{MonoNanos, Now, SessionId};

/// Slots of the table of orders that one step looks at.
const LOOKED_AT_PER_STEP: u64 = 1024;
/// Effects that one step has at most, besides a trip: far below what a step may list.
const EFFECTS_PER_STEP: usize = 32;
/// Halted scopes per session whose mass cancel is remembered; orders of further ones are canceled one by one.
const MASS_SCOPES: usize = 8;
/// The scopes that an order is in: firm, account, session, strategy, instrument, widest first.
const PLACES: usize = 5;

/// The numbers that a link event has as its id: who sends it says how the session is there.
pub mod link {
    /// It is gone.
    pub const GONE: u64 = 0;
    /// It is there.
    pub const THERE: u64 = 1;
    /// It is there, and can cancel all orders of a scope when it is told once.
    pub const MASS: u64 = crate::model::cancel::TAKES_MASS_CANCEL;
}

/// What is remembered of one order's cancel: beside the table of orders, so that nobody else pays for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// When it was last told, or got its state.
    pub at: MonoNanos,
    /// Where it is.
    pub state: CancelState,
    /// How often it was told.
    pub attempts: u8,
    /// An instruction whose request has not come yet.
    pub owed: bool,
}

impl Mark {
    /// Nobody has been told.
    const NONE: Mark = Mark { at: MonoNanos(0), state: CancelState::Untold, attempts: 0, owed: false };
}

/// One scope's halt, as far as its cancels go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Halt {
    /// The counts; `on`, `epoch`, `at_halt` and what was counted since. `working`, `states` and `swept` are filled in when shown.
    view: CancelView,
    /// When the halt reached the engine.
    since: MonoNanos,
    /// How many rounds must be over for the scope to be swept.
    swept_at: u64,
    /// The last epoch that the engine was told for the scope, halted or not.
    told_epoch: u64,
    states: [u32; CancelState::COUNT],
}

impl Halt {
    /// Nothing was halted yet.
    const NONE: Halt = Halt {
        view: CancelView::NONE,
        since: MonoNanos(0),
        swept_at: 0,
        told_epoch: 0,
        states: [0; CancelState::COUNT],
    };
}

/// A halted scope whose mass cancel a session was told: its dense place, counted from 1 (0: none), and since when it is halted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Told {
    place: u32,
    since: MonoNanos,
}

/// One session's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link {
    there: bool,
    mass: bool,
    /// When it went, or came.
    since: MonoNanos,
    /// Its grace has run out in this absence.
    lapsed: bool,
    /// It was asked to let its connection to the venue be cut.
    disconnect_asked: bool,
    told: [Told; MASS_SCOPES],
}

impl Link {
    /// Not there.
    const NONE: Link = Link {
        there: false,
        mass: false,
        since: MonoNanos(0),
        lapsed: false,
        disconnect_asked: false,
        told: [Told { place: 0, since: MonoNanos(0) }; MASS_SCOPES],
    };
}

/// What the core keeps of cancels.
#[derive(Debug)]
pub(super) struct Cancels {
    marks: Box<[Mark]>,
    halts: Box<[Halt]>,
    /// How many of them are on.
    on: u32,
    links: Box<[Link]>,
    /// The next slot, and how many are to be looked at still.
    cursor: u32,
    left: u64,
    /// Slots that there were when `left` was last brought up to date.
    slots: u32,
    /// Another round is to follow the present one.
    again: bool,
    /// Rounds that are over.
    rounds: u64,
    /// When the next round begins by itself, if any order is being canceled.
    round_at: MonoNanos,
    /// Orders with a mark that says something.
    marked: u64,
    /// When the next grace of a session runs out.
    lapse_at: MonoNanos,
    /// What the present step's event is: an order that ends ends by it.
    pub kind: EventKind,
    totals: Totals,
}

/// Counts since the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    instructions: [u64; 3],
    ended: [u64; 3],
}

const NEVER: MonoNanos = MonoNanos(u64::MAX);

impl Cancels {
    pub(super) fn new(orders: usize, scopes: usize, sessions: usize, now: MonoNanos) -> Cancels {
        let link = Link { since: now, ..Link::NONE };
        Cancels {
            marks: vec![Mark::NONE; orders].into_boxed_slice(),
            halts: vec![Halt::NONE; scopes].into_boxed_slice(),
            on: 0,
            links: vec![link; sessions].into_boxed_slice(),
            cursor: 0,
            left: 0,
            slots: 0,
            again: false,
            rounds: 0,
            round_at: NEVER,
            marked: 0,
            lapse_at: NEVER,
            kind: EventKind::Heartbeat,
            totals: Totals::default(),
        }
    }

    fn is_due(&self, now: MonoNanos) -> bool {
        self.left > 0 || (self.marked > 0 && now >= self.round_at) || now >= self.lapse_at
    }

    /// Words that two engines with the same inputs have in common.
    pub(super) fn digest(&self) -> [u64; 6] {
        let firm = &self.halts[0];
        let states =
            firm.states.iter().fold(0, |sum: u64, n| sum.wrapping_mul(1 << 20 | 7).wrapping_add(u64::from(*n)));
        [self.marked, self.left, self.rounds, firm.view.epoch, states, self.totals.instructions.iter().sum()]
    }
}

impl Engine {
    /// Whether a step of the round would do anything at `now`. If not, leaving it out is the same.
    #[must_use]
    pub fn cancels_are_due(&self, now: Now) -> bool {
        self.cancels.is_due(self.latest_mono().max(now.mono))
    }

    /// Takes one step of the round: instructs sessions, gives up what stays unanswered, lets graces run out. Returns whether
    /// anything came of it; it has to be recorded if so.
    pub fn sweep_cancels(&mut self, now: Now, out: &mut Effects) -> bool {
        if !self.cancels_are_due(now) {
            return false;
        }
        let now = self.begin(now);
        if now.mono >= self.cancels.lapse_at {
            self.let_graces_lapse(now, out);
        }
        if self.cancels.left == 0 && self.cancels.marked > 0 && now.mono >= self.cancels.round_at {
            self.begin_round();
        }
        // Orders that came since lie behind the others.
        let slots = self.orders.slots();
        if self.cancels.left > 0 {
            self.cancels.left += u64::from(slots - self.cancels.slots);
            self.cancels.slots = slots;
        }
        let mut looked_at = 0;
        while self.cancels.left > 0 && looked_at < LOOKED_AT_PER_STEP && out.as_slice().len() < EFFECTS_PER_STEP {
            looked_at += 1;
            let none = self.working == 0 || (self.cancels.marked == 0 && self.cancels.on == 0);
            if none {
                self.end_round();
                break;
            }
            let slot = if self.cancels.cursor < slots { self.cancels.cursor } else { 0 };
            self.cancels.cursor = slot + 1;
            self.look_at_order(slot, now.mono, out);
            self.cancels.left -= 1;
            if self.cancels.left == 0 {
                self.end_round();
            }
        }
        if self.cancels.left == 0 {
            let after = self.table.cancel.repeat_after_ns.max(1);
            self.cancels.round_at = MonoNanos(now.mono.0.saturating_add(after));
        }
        self.end(None, out);
        true
    }

    /// Everything is to be looked at once more: when the round that is under way is over, so that each comes to its end.
    fn begin_round(&mut self) {
        if self.cancels.left > 0 {
            self.cancels.again = true;
            return;
        }
        self.cancels.slots = self.orders.slots();
        self.cancels.left = u64::from(self.cancels.slots);
        if self.cancels.left == 0 {
            self.cancels.rounds += 1;
        }
    }

    /// The round is over, or there is nothing that it could find.
    fn end_round(&mut self) {
        self.cancels.left = 0;
        self.cancels.rounds += 1;
        if core::mem::take(&mut self.cancels.again) {
            self.begin_round();
        }
    }

    /// A run of the process begins: no session is there yet, and what they were told they may have lost.
    pub fn begin_run(&mut self, now: Now) {
        let now = self.begin(now);
        for session in 0..self.cancels.links.len() {
            self.set_link(SessionId(session as u16), link::GONE, now.mono);
        }
        self.begin_round();
    }

    /// A session has come or gone: `event` has one of [`link`]'s numbers as its id.
    pub(super) fn take_link(&mut self, now: Now, event: &Event) {
        self.set_link(event.session, event.id.0, now.mono);
        self.begin_round();
    }

    /// A session that is there says that it can cancel by scope.
    pub(super) fn take_mass(&mut self, session: SessionId) {
        if let Some(link) = self.cancels.links.get_mut(usize::from(session.0)) {
            link.mass = link.there;
        }
    }

    fn set_link(&mut self, session: SessionId, how: u64, now: MonoNanos) {
        let policy = self.table.cancel.session(session);
        let Some(link) = self.cancels.links.get_mut(usize::from(session.0)) else { return };
        *link = Link { there: how != link::GONE, mass: how == link::MASS, since: now, ..Link::NONE };
        if !link.there && policy.grace_ns != u64::MAX {
            let at = MonoNanos(now.0.saturating_add(policy.grace_ns));
            self.cancels.lapse_at = self.cancels.lapse_at.min(at);
        }
    }

    /// The mode of the scope at `slot` is `mode` now, since `epoch`.
    pub(super) fn take_halt(&mut self, slot: usize, mode: Mode, epoch: u64, now: MonoNanos) {
        let on = self.table.cancel.cancels_in(mode);
        let halt = &mut self.cancels.halts[slot];
        halt.told_epoch = epoch;
        if on == halt.view.on && (!on || epoch == halt.view.epoch) {
            return;
        }
        if !on {
            // What was counted stays to be read; what is marked is let alone by the round that begins here.
            halt.view.on = false;
            self.cancels.on -= 1;
            return self.begin_round();
        }
        let at_halt = u64::try_from(self.scopes[slot].gauges[Gauge::Working as usize]).unwrap_or(0);
        let states = halt.states;
        self.cancels.on += u32::from(!halt.view.on);
        *halt = Halt {
            view: CancelView { on: true, epoch, at_halt, ..CancelView::default() },
            since: now,
            // What is under way looks at the rest of the orders at once, and a whole round follows.
            swept_at: self.cancels.rounds + if self.cancels.left > 0 { 2 } else { 1 },
            told_epoch: epoch,
            states,
        };
        self.begin_round();
        for link in &mut self.cancels.links {
            link.disconnect_asked = false;
        }
    }

    /// What the limits say of cancels may have changed.
    pub(super) fn cancel_policy_changed(&mut self, now: MonoNanos) {
        for slot in 0..self.cancels.halts.len() {
            let (mode, epoch) = (self.scopes[slot].mode, self.cancels.halts[slot].told_epoch);
            self.take_halt(slot, mode, epoch, now);
        }
        self.cancels.lapse_at = now;
    }

    /// An order was booked, or took another's place: under a halt it is to be canceled like those before it.
    #[inline]
    pub(super) fn order_is_new(&mut self, slot: u32) {
        if self.cancels.on == 0 {
            return;
        }
        let places = self.places_of(self.orders.get(slot));
        if places.into_iter().any(|place| self.cancels.halts[place].view.on) {
            self.begin_round();
        }
    }

    /// The mark of the order in `slot`. While none is marked the table is left alone: it lies in memory that nobody asked for
    /// ahead.
    #[inline]
    fn mark(&self, slot: u32) -> Mark {
        if self.cancels.marked == 0 { Mark::NONE } else { self.cancels.marks[slot as usize] }
    }

    /// The order in `slot` is over, or another has taken its place.
    #[inline]
    pub(super) fn order_is_over(&mut self, slot: u32) {
        if self.mark(slot).state != CancelState::Untold {
            self.count_end(slot);
        }
    }

    fn count_end(&mut self, slot: u32) {
        let how = match self.cancels.kind {
            EventKind::Canceled => 0,
            EventKind::Fill | EventKind::Correct => 1,
            EventKind::New
            | EventKind::Replace
            | EventKind::Cancel
            | EventKind::Ack
            | EventKind::Replaced
            | EventKind::Expired
            | EventKind::Rejected
            | EventKind::CancelRejected
            | EventKind::Bust
            | EventKind::Mark
            | EventKind::Fx
            | EventKind::Heartbeat
            | EventKind::Withdrawn
            | EventKind::ParentNew
            | EventKind::ParentReplace
            | EventKind::ParentDone => 2,
        };
        let now = self.latest_mono();
        for place in self.places_of(self.orders.get(slot)) {
            let halt = &mut self.cancels.halts[place];
            if halt.view.on {
                halt.view.ended[how] += 1;
                halt.view.last_end = now.0;
            }
        }
        self.cancels.totals.ended[how] += 1;
        self.set_mark(slot, Mark::NONE);
    }

    /// The first cancel request for the order in `slot` that follows an instruction. Returns whether it is one.
    pub(super) fn takes_instructed_request(&mut self, slot: u32) -> bool {
        let mark = self.mark(slot);
        if !mark.owed {
            return false;
        }
        let state = match mark.state {
            CancelState::Instructed => CancelState::Requested,
            other => other,
        };
        self.set_mark(slot, Mark { state, owed: false, ..mark });
        true
    }

    /// Whether haltline has told a session to cancel the order in `slot`.
    pub(super) fn is_instructed(&self, slot: u32) -> bool {
        self.mark(slot).attempts > 0
    }

    /// The venue has refused to cancel the order in `slot`.
    pub(super) fn cancel_is_refused(&mut self, slot: u32) {
        let mark = self.mark(slot);
        if mark.attempts > 0 {
            // The time stays that of the instruction: a halt that was pressed anew since tells it anew.
            self.set_mark(slot, Mark { state: CancelState::Refused, owed: false, ..mark });
        }
    }

    /// How far the cancels of the scope at `slot` are.
    #[must_use]
    pub fn cancel_view(&self, slot: usize) -> CancelView {
        let Some(halt) = self.cancels.halts.get(slot) else { return CancelView::default() };
        let working = u64::try_from(self.scopes[slot].gauges[Gauge::Working as usize]).unwrap_or(0);
        let mut view = halt.view;
        view.working = working;
        view.swept = self.cancels.rounds >= halt.swept_at;
        view.states = halt.states.map(u64::from);
        view.states[CancelState::Untold as usize] = working.saturating_sub(view.states[1..].iter().sum());
        view
    }

    /// As [`Engine::cancel_view`], and notes when the scope was first seen flat. That is for who looks: no decision depends on it.
    pub(super) fn show_cancels(
        &mut self,
        slot: usize,
        now: MonoNanos,
        board: &crate::engine::cancel_board::CancelBoard,
    ) {
        let mut view = self.cancel_view(slot);
        if view.epoch == 0 {
            return;
        }
        if view.on {
            let at = &mut self.cancels.halts[slot].view.flat_at;
            *at = match (view.working, *at) {
                (0, 0) => now.0.max(1),
                (0, seen) => seen,
                (_, _) => 0,
            };
            view.flat_at = *at;
        }
        board.show(slot, &view);
    }

    /// Shows the sums over everything.
    pub(super) fn show_cancel_totals(&self, board: &crate::engine::cancel_board::CancelBoard) {
        let Totals { instructions, ended } = self.cancels.totals;
        for (counters, counts) in [(&board.instructions, instructions), (&board.ended, ended)] {
            counters.iter().zip(counts).for_each(|(counter, count)| counter.set(count));
        }
        let firm = &self.cancels.halts[0];
        for (counter, count) in board.states.iter().zip(firm.states) {
            counter.set(u64::from(count));
        }
    }

    /// Orders of the scope at `place` that are pending or working, from `from` on in the table, with the state of their cancel.
    /// Looks at `most` slots. Returns where to go on, or `None` behind the last slot. For reports: not part of any step.
    pub fn each_residual(
        &self,
        place: usize,
        from: u32,
        most: u32,
        mut take: impl FnMut(SessionId, crate::units::OrdId, Mark),
    ) -> Option<u32> {
        let end = self.orders.slots().min(from.saturating_add(most));
        for slot in from..end {
            let order = self.orders.get(slot);
            if order.is_live() && self.places_of(order).contains(&place) {
                take(order.session, order.id, self.cancels.marks[slot as usize]);
            }
        }
        (end < self.orders.slots()).then_some(end)
    }

    // --- one order --------------------------------------------------------------------------------

    /// The dense places of the scopes that `order` is in, widest first.
    fn places_of(&self, order: &Order) -> [usize; PLACES] {
        [
            0,
            1 + usize::from(self.accounts[usize::from(order.strategy.0)].0),
            self.session_base + usize::from(order.session.0),
            self.strategy_base + usize::from(order.strategy.0),
            self.instrument_base + order.instrument.0 as usize,
        ]
    }

    fn set_mark(&mut self, slot: u32, mark: Mark) {
        let before = core::mem::replace(&mut self.cancels.marks[slot as usize], mark).state;
        if before == mark.state {
            return;
        }
        for place in self.places_of(self.orders.get(slot)) {
            let states = &mut self.cancels.halts[place].states;
            for (state, more) in [(before, false), (mark.state, true)] {
                if state != CancelState::Untold {
                    let count = &mut states[state as usize];
                    *count = if more { *count + 1 } else { count.saturating_sub(1) };
                }
            }
        }
        match (before, mark.state) {
            (CancelState::Untold, _) => self.cancels.marked += 1,
            (_, CancelState::Untold) => self.cancels.marked -= 1,
            (_, _) => {}
        }
    }

    /// Does what is due for the order in `slot`, if there is one.
    fn look_at_order(&mut self, slot: u32, now: MonoNanos, out: &mut Effects) {
        let order = *self.orders.get(slot);
        if !order.is_live() {
            return;
        }
        let mut halted = None;
        let mut since = MonoNanos(0);
        for place in self.places_of(&order) {
            let halt = &self.cancels.halts[place];
            if halt.view.on {
                halted = halted.or(Some(place));
                since = since.max(halt.since);
            }
        }
        let mark = self.cancels.marks[slot as usize];
        let Some(scope) = halted.and_then(|place| self.universe.scope_at(place)) else {
            // Re-armed: it is left alone.
            if mark.state != CancelState::Untold {
                self.set_mark(slot, Mark::NONE);
            }
            return;
        };
        let Some(link) = self.cancels.links.get(usize::from(order.session.0)).copied() else { return };
        if link.there {
            self.instruct(slot, &order, mark, link, (scope, since), now, out);
        } else {
            self.leave_unknown(slot, &order, mark, link, (scope, since), now, out);
        }
    }

    /// The session of the order is there: tells it, if it is time.
    #[allow(clippy::too_many_arguments)]
    fn instruct(
        &mut self,
        slot: u32,
        order: &Order,
        mark: Mark,
        link: Link,
        (scope, since): (Scope, MonoNanos),
        now: MonoNanos,
        out: &mut Effects,
    ) {
        let policy = &self.table.cancel;
        // A halt that was pressed anew begins anew, and so does a session that was gone.
        let fresh = mark.at < since.max(link.since);
        let (due_after, keeps) = match mark.state {
            CancelState::Untold | CancelState::Unknown => (0, false),
            CancelState::Instructed | CancelState::Requested => (policy.repeat_after_ns, false),
            CancelState::Refused | CancelState::Unanswered => (policy.retry_after_ns, true),
        };
        if !fresh && now.since(mark.at) < due_after {
            return;
        }
        let begins = fresh || matches!(mark.state, CancelState::Untold | CancelState::Unknown);
        let attempts = if begins { 0 } else { mark.attempts };
        if !begins && !keeps && attempts >= policy.attempts.max(1) {
            self.set_mark(slot, Mark { state: CancelState::Unanswered, at: now, ..mark });
            return self.escalate(order.session, scope, out);
        }
        let state = if begins { CancelState::Instructed } else { mark.state };
        let attempt = attempts.saturating_add(1);
        self.set_mark(slot, Mark { at: now, state, attempts: attempt, owed: true });
        if begins && link.mass && self.tell_mass(order.session, scope, since, out) {
            return;
        }
        let what = Instruct::Cancel { of: order.session, id: order.id, attempt };
        self.tell(Instruction { to: order.session, scope, what }, out);
    }

    /// The session of the order is gone: what becomes of the order is not known. After the session's grace another one that may is
    /// told, once; what comes of it is known when the session is back.
    #[allow(clippy::too_many_arguments)]
    fn leave_unknown(
        &mut self,
        slot: u32,
        order: &Order,
        mark: Mark,
        link: Link,
        (scope, since): (Scope, MonoNanos),
        now: MonoNanos,
        out: &mut Effects,
    ) {
        let (of, id) = (order.session, order.id);
        let mut mark = mark;
        if mark.state != CancelState::Unknown || mark.at < since {
            mark = Mark { at: now, state: CancelState::Unknown, attempts: 0, owed: false };
            self.set_mark(slot, mark);
            let what = Instruct::Cancel { of, id, attempt: 0 };
            out.push(Instruction { to: of, scope, what }.into());
        }
        let policy = self.table.cancel.session(of);
        let Some(to) = policy.via.filter(|_| mark.attempts == 0) else { return };
        let via = self.cancels.links.get(usize::from(to.0));
        if via.is_some_and(|via| via.there) && now.since(link.since) >= policy.grace_ns {
            self.set_mark(slot, Mark { at: now, attempts: 1, ..mark });
            self.tell(Instruction { to, scope, what: Instruct::Cancel { of, id, attempt: 1 } }, out);
        }
    }

    /// Whether `session` has been told to cancel all of `scope`, by now.
    fn tell_mass(&mut self, session: SessionId, scope: Scope, since: MonoNanos, out: &mut Effects) -> bool {
        let Some(slot) = self.universe.slot(scope) else { return false };
        let now = Told { place: slot as u32 + 1, since };
        let told = &mut self.cancels.links[usize::from(session.0)].told;
        let known = told.iter().position(|told| told.place == now.place);
        let Some(at) = known.or_else(|| told.iter().position(|told| told.place == 0)) else { return false };
        if told[at] != now {
            told[at] = now;
            self.tell(Instruction { to: session, scope, what: Instruct::MassCancel }, out);
        }
        true
    }

    /// Asks the session, once, to let its connection to the venue be cut.
    fn escalate(&mut self, session: SessionId, scope: Scope, out: &mut Effects) {
        let asked = &mut self.cancels.links[usize::from(session.0)].disconnect_asked;
        if !core::mem::replace(asked, true) {
            self.tell(Instruction { to: session, scope, what: Instruct::Disconnect }, out);
        }
    }

    /// Gives an instruction, and counts it at the scopes that it is about.
    fn tell(&mut self, instruction: Instruction, out: &mut Effects) {
        let at = match instruction.what {
            Instruct::Cancel { .. } => 0,
            Instruct::MassCancel => 1,
            Instruct::Disconnect => 2,
        };
        self.cancels.totals.instructions[at] += 1;
        let session = self.session_base + usize::from(instruction.to.0);
        let scope = self.universe.slot(instruction.scope);
        let firm = if scope == Some(0) { None } else { Some(0) };
        let own = if scope == Some(session) { None } else { Some(session) };
        for place in [scope, firm, own].into_iter().flatten() {
            self.cancels.halts[place].view.instructions[at] += 1;
        }
        out.push(instruction.into());
    }

    /// Sessions that are to be canceled when they are gone: halts those that have been gone for longer than their grace with
    /// orders at the venue.
    fn let_graces_lapse(&mut self, now: Now, out: &mut Effects) {
        let mut next = NEVER;
        for session in 0..self.cancels.links.len() {
            let (id, link) = (SessionId(session as u16), self.cancels.links[session]);
            let grace = self.table.cancel.session(id).grace_ns;
            if link.there || link.lapsed || grace == u64::MAX {
                continue;
            }
            let gone = now.mono.since(link.since);
            if gone < grace || out.as_slice().len() >= EFFECTS_PER_STEP {
                let at = MonoNanos(link.since.0.saturating_add(grace)).max(MonoNanos(now.mono.0 + 1));
                next = next.min(at);
                continue;
            }
            self.cancels.links[session].lapsed = true;
            if self.scopes[self.session_base + session].gauges[Gauge::Working as usize] > 0 {
                let scope = Scope::Session(id);
                let (observed, limit) = (clip(gone), clip(grace));
                let cause = Denial { rule: Rule::HeartbeatLoss, why: Why::Breach, scope, observed, limit };
                let event = Event::new(EventKind::Heartbeat, id, 0);
                self.act(Action::Halt(Target::Own), cause, &self.targets_of(scope), Some(&event), out);
            }
        }
        self.cancels.lapse_at = next;
    }
}
