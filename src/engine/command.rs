//! What people and the process itself tell the engine, as opposed to what a session reports.

use std::sync::Arc;

use crossbeam_channel::Sender;

use crate::engine::lanes::LanePort;
use crate::limits::LimitTable;
use crate::model::cancel::CancelState;
use crate::model::{Mode, Scope};
use crate::units::{OrdId, SessionId};

/// An instruction to the engine. Every one is journalled like an event.
#[derive(Clone, Debug)]
pub enum Command {
    /// The halt page shows this mode for this scope now. Raising and lowering both arrive this way; who
    /// may lower a mode was decided before the page was written.
    Mode {
        /// Which scope.
        scope: Scope,
        /// Its mode now.
        mode: Mode,
        /// The epoch at which it got it.
        epoch: u64,
    },
    /// From here on these limits apply. Counters and windows go on; a limit lowered below what is in use
    /// denies what would add to it.
    SetLimits(Arc<LimitTable>),
    /// A new trading day: daily loss, day volume and loss windows start anew from the present marks.
    NewDay,
    /// The journal is further behind than it may be (`true`), or no longer: while it is, new flow is denied.
    Behind(bool),
}

/// What the control plane sends to the engine's thread. Modes do not come this way: they are on the halt page.
#[derive(Clone, Debug)]
pub enum Instruction {
    /// [`Command::SetLimits`], and the text of the configuration that the table was made of, for the journal.
    Limits {
        /// The limits.
        table: Arc<LimitTable>,
        /// The whole configuration.
        text: Arc<str>,
    },
    /// [`Command::NewDay`].
    NewDay,
}

/// Something for the engine to do with its lanes.
#[derive(Debug)]
pub enum LaneChange {
    /// Takes from this one, too, and its session is there. If the session has one already, this takes its place.
    Add(LanePort),
    /// Another gateway has the session's lanes: it is there.
    There(SessionId),
    /// The session's gateway has ended.
    Gone(SessionId),
    /// Says which sequence it expects next from this session.
    Expected {
        /// Which.
        session: SessionId,
        /// To whom. With room for one.
        reply: Sender<u64>,
    },
}

/// An order that is pending or working.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Residual {
    /// Whose.
    pub session: SessionId,
    /// Its id.
    pub id: OrdId,
    /// Where its cancel is.
    pub state: CancelState,
    /// How often somebody was told to cancel it.
    pub attempts: u8,
}

/// Which orders of a scope are pending or working.
#[derive(Debug)]
pub struct Residuals {
    /// The first ones: as many as there is room for.
    pub rows: Vec<Residual>,
    /// How many each session has, by its number. Empty: nobody counts, and what is full is answered at once.
    pub by_session: Vec<u32>,
}

/// Asks which orders of a scope are pending or working. The engine answers in between, and changes nothing by it.
#[derive(Debug)]
pub struct Query {
    /// The scope's dense place.
    pub place: usize,
    /// Where to go on in the table of orders: 0 at first.
    pub next: u32,
    /// Where the answer is put: it has the room for it, and counts that are 0.
    pub answer: Residuals,
    /// To whom. With room for one.
    pub reply: Sender<Residuals>,
}
