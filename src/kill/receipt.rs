//! What an operator gets for a press: when it was raised, who was told, who confirmed, whether the latch is on disk.
//!
//! A receipt grows: it can be read again, and says `confirmed` only when nothing is missing any more.

use std::collections::VecDeque;

use crate::kill::board::SessionBoard;
use crate::kill::gates::GateRow;
use crate::kill::page::ModeWord;
use crate::model::cancel::{CancelState, CancelView};
use crate::model::{Mode, Scope};
use crate::units::{Now, SessionId};

/// One session's part of a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionRow {
    /// Which session.
    pub session: SessionId,
    /// Whether it was connected when the page had been raised. Only those must confirm: a session that
    /// connects later is told the page's state before anything else.
    pub connected: bool,
    /// When the halt was written to its connection, in ns after the press.
    pub told_ns: Option<u64>,
    /// When it confirmed, in ns after the press.
    pub confirmed_ns: Option<u64>,
}

/// The proof of one press.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Never used twice, not even after a restart.
    pub id: u64,
    /// What was to be stopped.
    pub scope: Scope,
    /// How far.
    pub asked: Mode,
    /// The scope's word right after the raise: at least as severe as asked.
    pub word: ModeWord,
    /// [`HaltPage::changes`](crate::kill::page::HaltPage::changes) right after the raise.
    pub changes: u64,
    /// Which of all the causes that were recorded is this one's, see [`Snapshot::causes`](crate::kill::switch::Snapshot::causes).
    pub cause: u64,
    /// Whether the engine raised the page, not a person.
    pub by_trip: bool,
    /// Whether it was pressed for a drill, which takes it back.
    pub for_drill: bool,
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// When the press was received.
    pub pressed: Now,
    /// When the page showed it.
    pub raised: Now,
    /// When the latch was on disk, with the halt and its cause.
    pub durable: Option<Now>,
    /// Sessions of the scope that can send orders.
    pub sessions: Vec<SessionRow>,
    /// Gates on this host that were attached when the page had been raised.
    pub gates: Vec<GateRow>,
    /// Orders that were pending or working in the scope at the press, as last published.
    pub working_orders: Option<i64>,
    /// How far the cancels of this halt are: as last seen while it was the scope's latest. `None`: the engine has not begun.
    pub cancels: Option<CancelView>,
}

/// What is missing for `confirmed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The latch is not on disk.
    pub latch: bool,
    /// Connected sessions that have not confirmed.
    pub sessions: usize,
    /// Gates with threads that are inside since before the raise.
    pub gates: usize,
}

impl Receipt {
    /// What is missing; both nothing: the press is confirmed.
    #[must_use]
    pub fn missing(&self) -> Missing {
        Missing {
            latch: self.durable.is_none(),
            sessions: self.sessions.iter().filter(|s| s.connected && s.confirmed_ns.is_none()).count(),
            gates: self.gates.iter().filter(|g| g.confirmed_ns.is_none()).count(),
        }
    }

    /// Whether every gate and every connected session has confirmed and the latch is on disk.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.missing() == Missing { latch: false, sessions: 0, gates: 0 }
    }

    /// Takes what the engine shows of the scope's cancels, if it is of this halt. Once the scope is re-armed, or halted anew, the
    /// receipt keeps what it last saw.
    pub fn look_at_cancels(&mut self, shown: Option<CancelView>) {
        let Some(shown) = shown.filter(|shown| shown.epoch == self.word.epoch) else { return };
        match &mut self.cancels {
            // The halt is over: what trades from here on is not its remainder, and does not make it flat.
            Some(kept) if !shown.on => kept.on = false,
            cancels => *cancels = Some(shown),
        }
    }

    /// From the press to the last cancel, for a report: ns after the press where there is a time, and what happened then.
    #[must_use]
    pub fn cancel_timeline(&self) -> Vec<(Option<u64>, String)> {
        let Some(view) = self.cancels.filter(|view| view.at_halt > 0 || view.working > 0) else { return Vec::new() };
        let after = |at: u64| (at > 0).then(|| at.saturating_sub(self.pressed.mono.0));
        let [canceled, filled, otherwise] = view.ended;
        let told: u64 = view.instructions[..2].iter().sum();
        let mut rows = vec![(None, format!("{} orders worked, {told} instructions to cancel given", view.at_halt))];
        if canceled + filled + otherwise > 0 {
            let ended = format!("the last of these ended: {canceled} canceled, {filled} filled, {otherwise} otherwise");
            rows.push((after(view.last_end), ended));
        }
        match view.working {
            0 => rows.push((after(view.flat_at), "flat: no order works".to_owned())),
            left => {
                let states = CancelState::ALL.into_iter().filter(|state| view.of(*state) > 0);
                let states: Vec<String> = states.map(|s| format!("{} {}", view.of(s), s.name())).collect();
                rows.push((None, format!("{left} orders STILL WORK: {}", states.join(", "))));
            }
        }
        rows
    }

    /// Whether nothing that is missing will come by itself soon: it is confirmed, and every cancel has come to an end or is stuck.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        // Reduce-only cancels nothing where it is not configured to.
        let cancels = self.cancels.map_or(self.word.mode != Mode::Halted, |view| view.swept && view.in_progress() == 0);
        self.is_confirmed() && cancels
    }

    /// Looks at the gates again. `now` (monotonic ns) is read after a gate was found confirmed: late, never early. `confirmed`
    /// is called once per gate, with ns after the raise.
    pub fn look_at_gates(&mut self, now: impl Fn() -> u64, mut confirmed: impl FnMut(u64)) {
        for row in &mut self.gates {
            if row.look() {
                let at = now();
                row.confirmed_ns = Some(at.saturating_sub(self.pressed.mono.0));
                confirmed(at.saturating_sub(self.raised.mono.0));
            }
        }
    }

    /// Looks at the board again. `told` and `confirmed` are called once per stage that is new, with ns after the raise.
    ///
    /// The board holds each session's latest state only. If a session was told of a later change before we
    /// looked, that later time is taken: late, never early.
    pub fn look(&mut self, board: &SessionBoard, mut told: impl FnMut(u64), mut confirmed: impl FnMut(u64)) {
        for row in &mut self.sessions {
            if row.told_ns.is_some() && row.confirmed_ns.is_some() {
                continue;
            }
            let Some(view) = board.cell(usize::from(row.session.0)).map(|c| c.view()) else { continue };
            if row.told_ns.is_none() && view.told >= self.changes {
                row.told_ns = Some(view.told_at.saturating_sub(self.pressed.mono.0));
                told(view.told_at.saturating_sub(self.raised.mono.0));
            }
            if row.confirmed_ns.is_none() && view.confirmed >= self.changes {
                row.confirmed_ns = Some(view.confirmed_at.saturating_sub(self.pressed.mono.0));
                confirmed(view.confirmed_at.saturating_sub(self.raised.mono.0));
            }
        }
    }
}

/// The last receipts: bounded in number and in session rows.
#[derive(Debug, Default)]
pub struct Receipts {
    ring: VecDeque<Receipt>,
    rows: usize,
}

impl Receipts {
    /// The most receipts that are kept.
    pub const KEPT: usize = 1_000;
    /// The most session rows over all receipts; the newest receipt is kept whatever its size.
    pub const ROWS: usize = 1 << 18;

    /// Keeps `receipt`; the oldest go.
    pub fn push(&mut self, receipt: Receipt) {
        self.rows += receipt.sessions.len();
        self.ring.push_back(receipt);
        while self.ring.len() > Receipts::KEPT || (self.rows > Receipts::ROWS && self.ring.len() > 1) {
            if let Some(old) = self.ring.pop_front() {
                self.rows -= old.sessions.len();
            }
        }
    }

    /// The receipt with this id.
    pub fn get_mut(&mut self, id: u64) -> Option<&mut Receipt> {
        let at = self.ring.binary_search_by_key(&id, |r| r.id).ok()?;
        self.ring.get_mut(at)
    }

    /// All that are kept, oldest first.
    pub fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut Receipt> {
        self.ring.iter_mut()
    }
}
