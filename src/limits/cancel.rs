//! What becomes of working orders when their scope is halted, as it was configured.

use crate::model::Mode;
use crate::units::SessionId;

/// How working orders of a halted scope are canceled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CancelPolicy {
    /// Whether they are at all. If not, their venue or a person has to do it.
    pub after_halt: bool,
    /// Whether those of a scope that is reduce-only are canceled too, also the ones that reduce.
    pub in_reduce_only: bool,
    /// How long an instruction may be without a result before it is repeated, in ns.
    pub repeat_after_ns: u64,
    /// How often an order's session is instructed before it counts as unanswered, at least 1.
    pub attempts: u8,
    /// How long until a refused or unanswered order is tried again, in ns: the market may have opened.
    pub retry_after_ns: u64,
    /// By session; a session beyond the end has [`SessionCancel::default`].
    pub sessions: Vec<SessionCancel>,
}

/// What becomes of a session's orders when it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionCancel {
    /// How long it may be gone before it is halted and its orders are to be canceled, in ns; `u64::MAX`: any time.
    pub grace_ns: u64,
    /// Another session that may cancel its orders at the venue.
    pub via: Option<SessionId>,
}

impl Default for SessionCancel {
    fn default() -> SessionCancel {
        SessionCancel { grace_ns: u64::MAX, via: None }
    }
}

impl Default for CancelPolicy {
    fn default() -> CancelPolicy {
        CancelPolicy {
            after_halt: true,
            in_reduce_only: false,
            repeat_after_ns: 1_000_000_000,
            attempts: 3,
            retry_after_ns: 30_000_000_000,
            sessions: Vec::new(),
        }
    }
}

impl CancelPolicy {
    /// Whether the working orders of a scope in `mode` are canceled.
    #[must_use]
    pub const fn cancels_in(&self, mode: Mode) -> bool {
        match mode {
            Mode::Normal => false,
            Mode::ReduceOnly => self.after_halt && self.in_reduce_only,
            Mode::Halted => self.after_halt,
        }
    }

    /// What is said of `session`.
    #[must_use]
    pub fn session(&self, session: SessionId) -> SessionCancel {
        self.sessions.get(usize::from(session.0)).copied().unwrap_or_default()
    }
}
