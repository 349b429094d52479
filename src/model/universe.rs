//! Everything that has a name: sessions, accounts, strategies, instruments, currencies.
//!
//! Built once, at start, from the configuration. Names become dense indices, so that the engine works
//! with arrays.

use std::collections::HashMap;

use crate::model::scope::Scope;
use crate::units::{AccountId, CurrencyId, InstrumentId, Px, Qty, SessionId, StrategyId};

/// What a session is trusted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionKind {
    /// Orders get a verdict before they are sent on.
    Ask,
    /// Orders are reported after they were sent: a breach trips.
    Observe,
    /// Sends marks and FX rates, no orders.
    Reference,
    /// The order management side: sends parent orders, and nothing that trades.
    Orders,
}

impl SessionKind {
    /// Every kind.
    pub const ALL: [SessionKind; 4] =
        [SessionKind::Ask, SessionKind::Observe, SessionKind::Reference, SessionKind::Orders];

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            SessionKind::Ask => "ask",
            SessionKind::Observe => "observe",
            SessionKind::Reference => "reference",
            SessionKind::Orders => "orders",
        }
    }

    /// Whether it can send orders that trade.
    #[must_use]
    pub const fn trades(self) -> bool {
        match self {
            SessionKind::Ask | SessionKind::Observe => true,
            SessionKind::Reference | SessionKind::Orders => false,
        }
    }
}

/// A gateway instance, a price source or an order management system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionSpec {
    /// Its name.
    pub name: String,
    /// What it may send.
    pub kind: SessionKind,
    /// Strategies that it may trade (`Orders`: send parents of); empty: all.
    pub strategies: Vec<StrategyId>,
}

/// An account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountSpec {
    /// Its name.
    pub name: String,
}

/// A strategy. It trades for exactly one account; to trade for two, make it two strategies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StrategySpec {
    /// Its name.
    pub name: String,
    /// Whom it trades for.
    pub account: AccountId,
}

/// A currency.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrencySpec {
    /// ISO code or any other name.
    pub name: String,
    /// A rate known at start (see [`crate::model::Event::FX_SCALE`]); its age counts from the start.
    pub initial_rate: Option<Px>,
}

/// An instrument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstrumentSpec {
    /// Its name.
    pub name: String,
    /// What its price is in.
    pub currency: CurrencyId,
    /// Decimal places of a price, 0 to 12.
    pub px_scale: u8,
    /// Decimal places of a quantity, 0 to 12.
    pub qty_scale: u8,
    /// Contract multiplier: mantissa and decimal places. Positive.
    pub multiplier: (i64, u8),
    /// Whether zero and negative prices make sense (spreads, power, oil in April 2020).
    pub negative_px: bool,
    /// Average daily volume; `None`: participation limits deny.
    pub average_daily_volume: Option<Qty>,
    /// A reference price known at start; its age counts from the start.
    pub initial_reference: Option<Px>,
}

/// All names and what they stand for. Immutable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Universe {
    /// Decimal places of the firm's base unit, 0 to 8.
    pub base_scale: u8,
    /// Currencies; index 0 is the base currency.
    pub currencies: Vec<CurrencySpec>,
    /// Sessions by [`SessionId`].
    pub sessions: Vec<SessionSpec>,
    /// Accounts by [`AccountId`].
    pub accounts: Vec<AccountSpec>,
    /// Strategies by [`StrategyId`].
    pub strategies: Vec<StrategySpec>,
    /// Instruments by [`InstrumentId`].
    pub instruments: Vec<InstrumentSpec>,
    names: Names,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Names {
    currencies: HashMap<String, CurrencyId>,
    sessions: HashMap<String, SessionId>,
    accounts: HashMap<String, AccountId>,
    strategies: HashMap<String, StrategyId>,
    instruments: HashMap<String, InstrumentId>,
}

impl Universe {
    /// The most sessions, accounts or strategies that a universe may hold.
    pub const MAX_SMALL: usize = 16_384;
    /// The most instruments.
    pub const MAX_INSTRUMENTS: usize = 1 << 20;
    /// The most strategy × instrument combinations: an index of 4 bytes each is kept.
    pub const MAX_PAIRS: usize = 1 << 28;

    /// Puts the parts together. The caller (the configuration) has checked names and cross-references.
    ///
    /// # Panics
    /// If a part is larger than its bound, a name is used twice, or a cross-reference points nowhere:
    /// that is a fault of the caller's.
    #[must_use]
    pub fn new(
        base_scale: u8,
        currencies: Vec<CurrencySpec>,
        sessions: Vec<SessionSpec>,
        accounts: Vec<AccountSpec>,
        strategies: Vec<StrategySpec>,
        instruments: Vec<InstrumentSpec>,
    ) -> Universe {
        assert!(base_scale <= 8 && !currencies.is_empty());
        assert!(currencies.len() <= Universe::MAX_SMALL && sessions.len() <= Universe::MAX_SMALL);
        assert!(accounts.len() <= Universe::MAX_SMALL && strategies.len() <= Universe::MAX_SMALL);
        assert!(instruments.len() <= Universe::MAX_INSTRUMENTS);
        assert!(strategies.len() * instruments.len() <= Universe::MAX_PAIRS);
        assert!(strategies.iter().all(|s| usize::from(s.account.0) < accounts.len()));
        assert!(instruments.iter().all(|i| usize::from(i.currency.0) < currencies.len()));
        assert!(sessions.iter().flat_map(|s| &s.strategies).all(|s| usize::from(s.0) < strategies.len()));
        fn index<I: Copy>(names: impl Iterator<Item = String>, make: impl Fn(usize) -> I) -> HashMap<String, I> {
            let mut map = HashMap::new();
            for (i, name) in names.enumerate() {
                assert!(map.insert(name, make(i)).is_none(), "a name is used twice");
            }
            map
        }
        let names = Names {
            currencies: index(currencies.iter().map(|s| s.name.clone()), |i| CurrencyId(i as u16)),
            sessions: index(sessions.iter().map(|s| s.name.clone()), |i| SessionId(i as u16)),
            accounts: index(accounts.iter().map(|s| s.name.clone()), |i| AccountId(i as u16)),
            strategies: index(strategies.iter().map(|s| s.name.clone()), |i| StrategyId(i as u16)),
            instruments: index(instruments.iter().map(|s| s.name.clone()), |i| InstrumentId(i as u32)),
        };
        Universe { base_scale, currencies, sessions, accounts, strategies, instruments, names }
    }

    /// The currency called `name`.
    #[must_use]
    pub fn currency(&self, name: &str) -> Option<CurrencyId> {
        self.names.currencies.get(name).copied()
    }
    /// The session called `name`.
    #[must_use]
    pub fn session(&self, name: &str) -> Option<SessionId> {
        self.names.sessions.get(name).copied()
    }
    /// The account called `name`.
    #[must_use]
    pub fn account(&self, name: &str) -> Option<AccountId> {
        self.names.accounts.get(name).copied()
    }
    /// The strategy called `name`.
    #[must_use]
    pub fn strategy(&self, name: &str) -> Option<StrategyId> {
        self.names.strategies.get(name).copied()
    }
    /// The instrument called `name`.
    #[must_use]
    pub fn instrument(&self, name: &str) -> Option<InstrumentId> {
        self.names.instruments.get(name).copied()
    }

    /// How many scopes there are besides the pairs: the firm, then accounts, strategies, instruments, sessions.
    #[must_use]
    pub fn scope_count(&self) -> usize {
        1 + self.accounts.len() + self.strategies.len() + self.instruments.len() + self.sessions.len()
    }

    /// The dense place of `scope` among [`Universe::scope_count`]; `None` for a pair or an unknown id.
    #[must_use]
    pub fn slot(&self, scope: Scope) -> Option<usize> {
        let (base, index, len) = match scope {
            Scope::Firm => (0, 0, 1),
            Scope::Account(a) => (1, usize::from(a.0), self.accounts.len()),
            Scope::Strategy(s) => (1 + self.accounts.len(), usize::from(s.0), self.strategies.len()),
            Scope::Instrument(i) => {
                (1 + self.accounts.len() + self.strategies.len(), i.0 as usize, self.instruments.len())
            }
            Scope::Session(s) => (
                1 + self.accounts.len() + self.strategies.len() + self.instruments.len(),
                usize::from(s.0),
                self.sessions.len(),
            ),
            Scope::Pair(..) => return None,
        };
        (index < len).then_some(base + index)
    }

    /// The scope at dense place `slot`.
    #[must_use]
    pub fn scope_at(&self, slot: usize) -> Option<Scope> {
        let mut rest = slot;
        if rest == 0 {
            return Some(Scope::Firm);
        }
        rest -= 1;
        if rest < self.accounts.len() {
            return Some(Scope::Account(AccountId(rest as u16)));
        }
        rest -= self.accounts.len();
        if rest < self.strategies.len() {
            return Some(Scope::Strategy(StrategyId(rest as u16)));
        }
        rest -= self.strategies.len();
        if rest < self.instruments.len() {
            return Some(Scope::Instrument(InstrumentId(rest as u32)));
        }
        rest -= self.instruments.len();
        (rest < self.sessions.len()).then_some(Scope::Session(SessionId(rest as u16)))
    }

    /// The name of `scope`: `""` for the firm, `strategy/instrument` for a pair, `?` for an unknown id.
    #[must_use]
    pub fn scope_name(&self, scope: Scope) -> String {
        let strategy = |s: StrategyId| self.strategies.get(usize::from(s.0)).map_or("?", |x| &x.name);
        let instrument = |i: InstrumentId| self.instruments.get(i.0 as usize).map_or("?", |x| &x.name);
        match scope {
            Scope::Firm => String::new(),
            Scope::Account(a) => self.accounts.get(usize::from(a.0)).map_or("?", |x| &x.name).to_owned(),
            Scope::Strategy(s) => strategy(s).to_owned(),
            Scope::Pair(s, i) => format!("{}/{}", strategy(s), instrument(i)),
            Scope::Instrument(i) => instrument(i).to_owned(),
            Scope::Session(s) => self.sessions.get(usize::from(s.0)).map_or("?", |x| &x.name).to_owned(),
        }
    }

    /// The scope of `kind` called `name` (see [`Universe::scope_name`]).
    #[must_use]
    pub fn scope_named(&self, kind: &str, name: &str) -> Option<Scope> {
        match kind {
            "firm" if name.is_empty() => Some(Scope::Firm),
            "account" => self.account(name).map(Scope::Account),
            "strategy" => self.strategy(name).map(Scope::Strategy),
            "instrument" => self.instrument(name).map(Scope::Instrument),
            "session" => self.session(name).map(Scope::Session),
            "pair" => {
                let (s, i) = name.split_once('/')?;
                Some(Scope::Pair(self.strategy(s)?, self.instrument(i)?))
            }
            _ => None,
        }
    }
}
