//! What the engine answers with.

use crate::model::cancel::Instruction;
use crate::model::event::EventKind;
use crate::model::rule::{Rule, Why};
use crate::model::scope::{Mode, Scope};
use crate::units::{ExecId, OrdId, SessionId};

/// The answer to a request of a session that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whose request.
    pub session: SessionId,
    /// The request's sequence; it also acknowledges everything before it, see [`Verdict::is_taken`].
    pub seq: u64,
    /// The request's id.
    pub id: OrdId,
    /// Which request.
    pub kind: EventKind,
    /// `None`: admitted.
    pub denial: Option<Denial>,
    /// One bit per [`Rule`]: the checks that ran.
    pub checks: u64,
}

impl Verdict {
    /// The checks of a request behind a gap, and of no other.
    pub const GAP_CHECKS: u64 = 1 << Rule::StreamGap as u64;

    /// Whether the request was taken from its stream. Behind a gap it is answered only (a cancel may even go out),
    /// acknowledges nothing and has to be sent again in its turn.
    #[must_use]
    pub const fn is_taken(&self) -> bool {
        self.checks != Verdict::GAP_CHECKS
    }
}

/// Why something was denied, tripped or warned of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The rule.
    pub rule: Rule,
    /// What was wrong with what it looked at.
    pub why: Why,
    /// The scope at which the limit stands.
    pub scope: Scope,
    /// What was observed, in the rule's unit (see [`Rule::unit`]).
    pub observed: i64,
    /// What would have been allowed, in the same unit.
    pub limit: i64,
}

/// A mode that the engine latched by itself. The halt page shows it before this is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trip {
    /// What is halted or made reduce-only.
    pub scope: Scope,
    /// To which mode.
    pub mode: Mode,
    /// Because of what.
    pub cause: Denial,
    /// The session whose event did it.
    pub session: SessionId,
    /// That event's sequence; 0 if time alone did it.
    pub seq: u64,
}

/// Utilisation of a limit passed a warning level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Warn {
    /// Rule, scope, observed value and limit.
    pub at: Denial,
    /// The level that was passed, in percent.
    pub percent: u8,
}

/// Something that should not happen in a healthy stream. Counted and alerted; never lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anomaly {
    /// What.
    pub kind: AnomalyKind,
    /// Whose stream.
    pub session: SessionId,
    /// Where in it.
    pub seq: u64,
    /// The order or execution, where there is one.
    pub id: u64,
    /// A number that says more, see the kind.
    pub detail: i64,
}

macro_rules! anomalies {
    ($($(#[$doc:meta])* $name:ident = $n:literal, $word:literal;)*) => {
        /// Kinds of [`Anomaly`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum AnomalyKind { $($(#[$doc])* $name = $n,)* }
        impl AnomalyKind {
            /// Every kind; the position is the number.
            pub const ALL: [AnomalyKind; AnomalyKind::COUNT] = [$(AnomalyKind::$name,)*];
            /// How many there are.
            pub const COUNT: usize = [$($n,)*].len();
            /// The word for it in logs and metrics.
            #[must_use]
            pub const fn name(self) -> &'static str { match self { $(AnomalyKind::$name => $word,)* } }
        }
    };
}

anomalies! {
    /// A fill of an order that the engine does not know. Booked by what the fill itself says. Detail: quantity.
    UnknownFill = 0, "unknown_fill";
    /// A fill of an order that was done. Booked. Detail: quantity.
    LateFill = 1, "late_fill";
    /// A fill beyond the order's leaves. Booked in full. Detail: the excess.
    Overfill = 2, "overfill";
    /// An exec id that was booked before. Not booked again. Detail: quantity.
    DuplicateExec = 3, "duplicate_exec";
    /// A bust or correction of an execution that is not known or was busted. Detail: quantity.
    UnknownExec = 4, "unknown_exec";
    /// A fill that names no known strategy or instrument: nothing it could be booked to. The session halts.
    UnbookableFill = 5, "unbookable_fill";
    /// The table of exec ids is full: booked, but a duplicate of it would not be seen. New orders are denied.
    ExecTableFull = 6, "exec_table_full";
    /// A report about an order that is not known.
    UnknownOrder = 7, "unknown_order";
    /// A report that does not fit the order's state: an ack of a done order, say.
    StateMismatch = 8, "state_mismatch";
    /// A cancel that was not asked for.
    UnsolicitedCancel = 9, "unsolicited_cancel";
    /// An event that was received before. Nothing is done. Detail: the sequence expected.
    DuplicateSeq = 10, "duplicate_seq";
    /// Events are missing. This one is not taken. Detail: the sequence expected.
    SeqGap = 11, "seq_gap";
    /// The missing events arrived. Detail: the sequence expected next.
    SeqGapClosed = 12, "seq_gap_closed";
    /// The event's time stamp is beyond the session's bound. Detail: skew in ns, positive if the sender is ahead.
    ClockSkew = 13, "clock_skew";
    /// The session was silent too long. Detail: ns.
    HeartbeatLoss = 14, "heartbeat_loss";
    /// A report with an impossible price or quantity, or of an entity not known. Not taken.
    MalformedReport = 15, "malformed_report";
    /// A mark or FX rate from a session that may not send one, or out of range. Not taken.
    BadReference = 16, "bad_reference";
    /// An observed order could not be put into the table of orders. Exposure is counted until the session is resolved.
    OrderTableFull = 17, "order_table_full";
    /// A sum could not be represented. It stays at the largest value, and its scope denies until a restart.
    Unrepresentable = 18, "unrepresentable";
    /// More effects than one step may have; the excess warnings and anomalies were counted, not listed. Detail: how many.
    EffectsDropped = 19, "effects_dropped";
    /// A halted session or strategy went on: an observed order after its scope was halted. Detail: the mode.
    OrderWhileHalted = 20, "order_while_halted";
    /// The shared memory of a session holds what no gateway can have meant. Nothing more is taken from it, and the session is
    /// halted. Detail: the word that is wrong.
    DamagedLane = 21, "damaged_lane";
    /// An event of a parent that cannot be taken: its id is in use, not known, over or another session's, or a field of it makes
    /// no sense. Children that name it are judged by what is known. Detail: quantity.
    ParentRefused = 22, "parent_refused";
    /// There is no room for one more parent: its children are denied. Detail: quantity.
    ParentTableFull = 23, "parent_table_full";
    /// The children of a parent have filled more than its quantity. Booked. Detail: the excess.
    ParentOverfill = 24, "parent_overfill";
    /// An order or an execution on a suspense account. Booked if it was let through. Detail: quantity.
    SuspenseActivity = 25, "suspense_activity";
    /// A check that the limits ask for did not run: the order was denied for that. Our own fault. Detail: a bit per rule.
    CoverageGap = 26, "coverage_gap";
}

/// One output of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Answer to a request.
    Verdict(Verdict),
    /// Everything up to `seq` was taken. Sent for events that get no verdict.
    Applied {
        /// Whose stream.
        session: SessionId,
        /// The last contiguous sequence taken.
        seq: u64,
    },
    /// Please send again from `from`.
    Resend {
        /// Whose stream.
        session: SessionId,
        /// The first sequence that is missing.
        from: u64,
    },
    /// A mode was latched.
    Trip(Trip),
    /// A warning level was passed.
    Warn(Warn),
    /// See [`AnomalyKind`].
    Anomaly(Anomaly),
    /// A session is told to cancel what works under a halt. It may leave before what it came of is durable: it admits nothing.
    Instruct(Instruction),
    /// The engine no longer remembers this order id: an edge that gave it a number may forget it.
    OrderForgotten {
        /// The session that the id belongs to.
        session: SessionId,
        /// The id.
        id: OrdId,
    },
    /// The engine no longer remembers this exec id.
    ExecForgotten {
        /// The session that the id belongs to.
        session: SessionId,
        /// The id.
        id: ExecId,
    },
}

/// The outputs of one step: a bounded list without allocation. When it is full, what does not fit is counted, and
/// trips among it are told by [`Effects::has_lost_trips`].
#[derive(Debug)]
pub struct Effects {
    list: [Effect; Effects::CAPACITY],
    len: usize,
    dropped: u32,
    lost_trips: bool,
}

impl Default for Effects {
    fn default() -> Self {
        Effects::new()
    }
}

impl Effects {
    /// The most effects that one step can have.
    pub const CAPACITY: usize = 96;
    /// Places that only trips, verdicts and stream effects may take.
    const RESERVED: usize = 48;

    /// An empty list.
    #[must_use]
    pub const fn new() -> Effects {
        const EMPTY: Effect = Effect::Applied { session: SessionId(0), seq: 0 };
        Effects { list: [EMPTY; Effects::CAPACITY], len: 0, dropped: 0, lost_trips: false }
    }

    /// Forgets everything, before a step.
    pub fn clear(&mut self) {
        self.len = 0;
        self.dropped = 0;
        self.lost_trips = false;
    }

    /// Adds `effect`. Warnings and anomalies give way when the list is nearly full, and are counted.
    pub fn push(&mut self, effect: Effect) {
        let bound = match effect {
            Effect::Warn(_) | Effect::Anomaly(_) => Effects::CAPACITY - Effects::RESERVED,
            _ => Effects::CAPACITY,
        };
        if self.len < bound {
            self.list[self.len] = effect;
            self.len += 1;
        } else {
            self.dropped += 1;
            self.lost_trips |= matches!(effect, Effect::Trip(_));
        }
    }

    /// Adds one effect of any kind as long as there is a place at all: for the note that others were dropped.
    pub fn push_last(&mut self, effect: Effect) {
        if self.len < Effects::CAPACITY {
            self.list[self.len] = effect;
            self.len += 1;
        }
    }

    /// Whether a trip found no place: the engine has latched a mode that no effect tells of.
    #[must_use]
    pub const fn has_lost_trips(&self) -> bool {
        self.lost_trips
    }

    /// How many effects found no place.
    #[must_use]
    pub const fn dropped(&self) -> u32 {
        self.dropped
    }

    /// The effects, in the order in which they were decided.
    #[must_use]
    pub fn as_slice(&self) -> &[Effect] {
        &self.list[..self.len]
    }

    /// The verdict, if the step gave one.
    #[must_use]
    pub fn verdict(&self) -> Option<&Verdict> {
        self.as_slice().iter().find_map(|e| match e {
            Effect::Verdict(v) => Some(v),
            _ => None,
        })
    }

    /// The trips of the step.
    pub fn trips(&self) -> impl Iterator<Item = &Trip> {
        self.as_slice().iter().filter_map(|e| match e {
            Effect::Trip(t) => Some(t),
            _ => None,
        })
    }
}
