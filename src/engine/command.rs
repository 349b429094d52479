//! What people and the process itself tell the engine, as opposed to what a session reports.

use std::sync::Arc;

use crossbeam_channel::Sender;

use crate::engine::lanes::LanePort;
use crate::limits::LimitTable;
use crate::model::{Mode, Scope};
use crate::units::SessionId;

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
}

/// Something for the engine to do with its lanes.
#[derive(Debug)]
pub enum LaneChange {
    /// Takes from this one, too. If the session has one already, this takes its place.
    Add(LanePort),
    /// Says which sequence it expects next from this session.
    Expected {
        /// Which.
        session: SessionId,
        /// To whom. With room for one.
        reply: Sender<u64>,
    },
}
