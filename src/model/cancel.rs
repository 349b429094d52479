//! How far the cancels of a halted scope are: what the engine shows, and receipts tell.

use crate::model::effect::Effect;
use crate::model::scope::Scope;
use crate::units::{OrdId, SessionId};

/// Where the cancel of an order is that haltline wants canceled.
///
/// ```text
///             sweep, session there            cancel request
/// (working) ───────────────────▶ Instructed ─────────────────▶ Requested      from each: canceled, filled,
///     │                            │  ▲  │ attempts used up     │  │         expired, rejected ▶ (over)
///     │ session gone               │  │  └────▶ Unanswered ◀────┘  │
///     └───────▶ Unknown ◀──────────┘  │           │   cancel_rejected
///                 └─── there again ───┘           └───────▶ Refused ◀┘   both are tried again, slowly
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CancelState {
    /// Nobody has been told to cancel it.
    #[default]
    Untold = 0,
    /// Its session was told.
    Instructed = 1,
    /// Its session has asked the venue.
    Requested = 2,
    /// The venue refused the cancel: a closed market, say, or an order that is being filled.
    Refused = 3,
    /// Told as often as configured, without a result.
    Unanswered = 4,
    /// Its session is not there: what becomes of the order at the venue is not known.
    Unknown = 5,
}

impl CancelState {
    /// Every state; the position is the number.
    pub const ALL: [CancelState; 6] = [
        CancelState::Untold,
        CancelState::Instructed,
        CancelState::Requested,
        CancelState::Refused,
        CancelState::Unanswered,
        CancelState::Unknown,
    ];
    /// How many there are.
    pub const COUNT: usize = CancelState::ALL.len();

    /// The word for it on every surface.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            CancelState::Untold => "untold",
            CancelState::Instructed => "instructed",
            CancelState::Requested => "requested",
            CancelState::Refused => "refused",
            CancelState::Unanswered => "unanswered",
            CancelState::Unknown => "unknown",
        }
    }

    /// The state with number `n`.
    #[must_use]
    pub fn from_u8(n: u8) -> Option<CancelState> {
        CancelState::ALL.get(usize::from(n)).copied()
    }
}

/// The id of a heartbeat by which a session says that it takes [`Instruct::MassCancel`].
pub const TAKES_MASS_CANCEL: u64 = 2;

/// What haltline tells a session to do about orders that work under a halt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Who is told.
    pub to: SessionId,
    /// The halted scope that it is for. Whoever passes it on looks whether it is still halted.
    pub scope: Scope,
    /// What to do.
    pub what: Instruct,
}

/// See [`Instruction`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instruct {
    /// Cancel one order.
    Cancel {
        /// The session that the order is of: nearly always the one that is told.
        of: SessionId,
        /// The order's id within that session.
        id: OrdId,
        /// Which attempt this is, from 1. 0: nobody can be told now, and the order's name is kept for the report.
        attempt: u8,
    },
    /// Cancel every order of the scope.
    MassCancel,
    /// Let the connection to the venue be cut, so that the venue cancels what is left: cancels are not answered.
    Disconnect,
}

/// How far the cancels of one scope are, as the engine last showed it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CancelView {
    /// Whether the scope is one whose orders are canceled now.
    pub on: bool,
    /// The epoch of the halt that the counts are of; 0 before the first.
    pub epoch: u64,
    /// Whether every order that worked when the halt reached the engine has been looked at.
    pub swept: bool,
    /// Orders that were pending or working when the halt reached the engine.
    pub at_halt: u64,
    /// Orders that are pending or working now: the residual.
    pub working: u64,
    /// Of those, how many are in each [`CancelState`]; those that were never told are the rest.
    pub states: [u64; CancelState::COUNT],
    /// Instructions given since the halt: one by one, in mass, and asking for a disconnect.
    pub instructions: [u64; 3],
    /// Orders that were being canceled and ended: canceled, filled, or in another way (expired, rejected, replaced).
    pub ended: [u64; 3],
    /// When the last of them ended, monotonic ns; 0: none has.
    pub last_end: u64,
    /// When the scope was first seen without a working order since the halt, monotonic ns; 0: it was not, or has some again.
    pub flat_at: u64,
}

impl CancelView {
    /// Nothing was halted yet.
    pub const NONE: CancelView = CancelView {
        on: false,
        epoch: 0,
        swept: false,
        at_halt: 0,
        working: 0,
        states: [0; CancelState::COUNT],
        instructions: [0; 3],
        ended: [0; 3],
        last_end: 0,
        flat_at: 0,
    };

    /// Words that one is written in.
    pub const WORDS: usize = 8 + CancelState::COUNT + 6;

    /// As words.
    #[must_use]
    pub fn to_words(&self) -> [u64; CancelView::WORDS] {
        let mut words = [0; CancelView::WORDS];
        let fixed = [
            u64::from(self.on),
            self.epoch,
            u64::from(self.swept),
            self.at_halt,
            self.working,
            self.last_end,
            self.flat_at,
            0,
        ];
        let all = fixed.into_iter().chain(self.states).chain(self.instructions).chain(self.ended);
        words.iter_mut().zip(all).for_each(|(word, value)| *word = value);
        words
    }

    /// Of words that [`CancelView::to_words`] made.
    #[must_use]
    pub fn from_words(w: &[u64; CancelView::WORDS]) -> CancelView {
        let at = |from: usize, i: usize| w[8 + from + i];
        CancelView {
            on: w[0] != 0,
            epoch: w[1],
            swept: w[2] != 0,
            at_halt: w[3],
            working: w[4],
            last_end: w[5],
            flat_at: w[6],
            states: core::array::from_fn(|i| at(0, i)),
            instructions: core::array::from_fn(|i| at(CancelState::COUNT, i)),
            ended: core::array::from_fn(|i| at(CancelState::COUNT + 3, i)),
        }
    }

    /// How many are in `state`.
    #[must_use]
    pub const fn of(&self, state: CancelState) -> u64 {
        self.states[state as usize]
    }

    /// Orders that may end without anything else being done: not told yet, told, or asked for.
    #[must_use]
    pub fn in_progress(&self) -> u64 {
        let stuck = [CancelState::Refused, CancelState::Unanswered, CancelState::Unknown];
        self.working.saturating_sub(stuck.into_iter().map(|state| self.of(state)).sum())
    }
}

impl From<Instruction> for Effect {
    fn from(instruction: Instruction) -> Effect {
        Effect::Instruct(instruction)
    }
}
