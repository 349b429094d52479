//! The authorised way back: who asked for which scope to be re-armed, in which epoch, and who agreed.
//!
//! ```text
//!            second person not needed
//!   ask ──────────────────────────────────▶ lowered ──▶ done (latch rewritten)
//!    │                                        ▲
//!    └─▶ pending ── another person agrees ────┘
//!           ├── the scope was raised again ──▶ void
//!           └── nobody agreed in time ───────▶ expired
//! ```

use std::collections::VecDeque;

use crate::kill::page::ModeWord;
use crate::model::{Scope, ScopeKind};
use crate::units::{MonoNanos, Now};

/// Where two people are needed, and how long the first may wait for the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RearmPolicy {
    /// By [`ScopeKind`].
    pub two_people: [bool; ScopeKind::ALL.len()],
    /// How long a request waits for the second person, in ns.
    pub expiry_ns: u64,
}

impl Default for RearmPolicy {
    fn default() -> RearmPolicy {
        let mut two_people = [false; ScopeKind::ALL.len()];
        two_people[ScopeKind::Firm as usize] = true;
        RearmPolicy { two_people, expiry_ns: 600_000_000_000 }
    }
}

/// Where a re-arm is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RearmState {
    /// Waits for a second person.
    Pending,
    /// The page was lowered.
    Lowered {
        /// Who agreed; the asker, where one person suffices.
        by: String,
        /// Why.
        reason: String,
        /// When.
        at: Now,
        /// [`HaltPage::changes`](crate::kill::page::HaltPage::changes) right after.
        changes: u64,
        /// When the latch without this halt was on disk. Until then a restart finds the scope halted.
        durable: Option<Now>,
    },
    /// The scope was raised again, or lowered by somebody else, before a second person agreed.
    Void,
    /// Nobody agreed in time.
    Expired,
}

/// One re-arm, from the request on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rearm {
    /// Never used twice, not even after a restart.
    pub id: u64,
    /// Which scope.
    pub scope: Scope,
    /// Its word when this was asked for: the epoch that is to be lowered.
    pub word: ModeWord,
    /// Who asked.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// When.
    pub at: Now,
    /// Until when a second person may agree.
    pub expires: MonoNanos,
    /// Where it is.
    pub state: RearmState,
}

/// Why a re-arm was refused. Nothing was lowered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RearmRefused {
    /// No such scope, or one that cannot be halted.
    UnknownScope,
    /// No reason was given.
    NoReason,
    /// The scope is not halted.
    NotHalted,
    /// The epoch named is not the one that the halt has now: somebody or something raised it again.
    Superseded(ModeWord),
    /// No request with this id.
    UnknownRequest,
    /// The request is not pending any more.
    NotPending(RearmState),
    /// The second person must be another one.
    SamePerson,
    /// What halts the scope is still there: see [`Switch::hold`](crate::kill::switch::Switch::hold).
    Held,
    /// Too many requests wait already.
    TooMany,
}

/// Requests that wait and those that are over: bounded, the oldest that is over goes first.
#[derive(Debug, Default)]
pub struct Rearms {
    list: VecDeque<Rearm>,
}

impl Rearms {
    /// The most requests that are kept.
    pub const KEPT: usize = 256;

    /// Makes sure that one more can be kept. Call before [`Rearms::push`], and before lowering anything.
    ///
    /// # Errors
    /// [`RearmRefused::TooMany`] if every place is taken by one that is still pending.
    pub fn make_room(&mut self) -> Result<(), RearmRefused> {
        if self.list.len() >= Rearms::KEPT {
            let over = self.list.iter().position(|r| r.state != RearmState::Pending).ok_or(RearmRefused::TooMany)?;
            self.list.remove(over);
        }
        Ok(())
    }

    /// Keeps `rearm`.
    pub fn push(&mut self, rearm: Rearm) {
        self.list.push_back(rearm);
    }

    /// The request with this id.
    pub fn get_mut(&mut self, id: u64) -> Option<&mut Rearm> {
        self.list.iter_mut().find(|r| r.id == id)
    }

    /// All that are kept, oldest first.
    pub fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut Rearm> {
        self.list.iter_mut()
    }
}
