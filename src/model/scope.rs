//! Scopes and the modes they can be in.

use crate::units::{AccountId, InstrumentId, SessionId, StrategyId};

/// What kind of thing a limit or a halt applies to, in the order in which they are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ScopeKind {
    /// Everything.
    Firm = 0,
    /// One account.
    Account = 1,
    /// One strategy.
    Strategy = 2,
    /// One strategy in one instrument. Limits apply here; halts do not.
    Pair = 3,
    /// One instrument, all strategies together.
    Instrument = 4,
    /// One gateway instance.
    Session = 5,
}

impl ScopeKind {
    /// Every kind, in check order.
    pub const ALL: [ScopeKind; 6] = [
        ScopeKind::Firm,
        ScopeKind::Account,
        ScopeKind::Strategy,
        ScopeKind::Pair,
        ScopeKind::Instrument,
        ScopeKind::Session,
    ];
    /// The word for it in configs, the API and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            ScopeKind::Firm => "firm",
            ScopeKind::Account => "account",
            ScopeKind::Strategy => "strategy",
            ScopeKind::Pair => "pair",
            ScopeKind::Instrument => "instrument",
            ScopeKind::Session => "session",
        }
    }
}

/// One scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Everything.
    Firm,
    /// One account.
    Account(AccountId),
    /// One strategy.
    Strategy(StrategyId),
    /// One strategy in one instrument.
    Pair(StrategyId, InstrumentId),
    /// One instrument.
    Instrument(InstrumentId),
    /// One gateway instance.
    Session(SessionId),
}

impl Scope {
    /// Its kind.
    #[must_use]
    pub const fn kind(self) -> ScopeKind {
        match self {
            Scope::Firm => ScopeKind::Firm,
            Scope::Account(_) => ScopeKind::Account,
            Scope::Strategy(_) => ScopeKind::Strategy,
            Scope::Pair(..) => ScopeKind::Pair,
            Scope::Instrument(_) => ScopeKind::Instrument,
            Scope::Session(_) => ScopeKind::Session,
        }
    }
}

/// What may pass in a scope, in ascending severity: the scopes of an order combine by `max`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Mode {
    /// Everything within the limits.
    #[default]
    Normal = 0,
    /// Cancels, and orders that provably reduce a position without crossing zero.
    ReduceOnly = 1,
    /// Cancels only.
    Halted = 2,
}

impl Mode {
    /// The mode with wire number `n`; anything unknown is `Halted`, the safe side.
    #[must_use]
    pub const fn from_u8(n: u8) -> Mode {
        match n {
            0 => Mode::Normal,
            1 => Mode::ReduceOnly,
            _ => Mode::Halted,
        }
    }
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Mode::Normal => "normal",
            Mode::ReduceOnly => "reduce_only",
            Mode::Halted => "halted",
        }
    }
}
