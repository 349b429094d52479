//! [`LimitTable`]: one [`ScopeLimits`] per scope, shared between scopes that are alike.

use std::collections::HashMap;
use std::sync::OnceLock;

use crate::limits::cancel::CancelPolicy;
use crate::limits::hot::HotProfile;
use crate::model::rule::{Action, Rule, default_action};
use crate::model::scope::{Scope, ScopeKind};
use crate::model::universe::Universe;
use crate::units::{AccountId, CurrencyId, InstrumentId, REPRESENTABLE_MAX, StrategyId};

/// How "unlimited" compares. What is beyond it cannot be represented and is denied all the same.
pub const UNLIMITED: i64 = REPRESENTABLE_MAX;

/// The most rate limits that one scope may have.
pub const MAX_RATES: usize = 8;

/// A running sum of a scope that a limit bounds. All scopes have the same list; where a rule does not
/// apply (see [`crate::model::rule::applies`]) the gauge is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Gauge {
    /// [`Rule::GrossExposure`].
    Gross = 0,
    /// [`Rule::NetLong`].
    NetLong = 1,
    /// [`Rule::NetShort`].
    NetShort = 2,
    /// [`Rule::WorkingOrders`].
    Working = 3,
    /// [`Rule::RepeatedOrders`].
    Orders = 4,
    /// [`Rule::RepeatedExecutions`].
    Executions = 5,
    /// [`Rule::DailyLoss`].
    Loss = 6,
    /// [`Rule::Drawdown`].
    Drawdown = 7,
    /// [`Rule::LossVelocity`].
    LossVelocity = 8,
    /// [`Rule::PositionLong`].
    PositionLong = 9,
    /// [`Rule::PositionShort`].
    PositionShort = 10,
    /// [`Rule::DayParticipation`]: quantity traded today plus leaves. Its limit is in basis points.
    DayQty = 11,
}

impl Gauge {
    /// How many there are.
    pub const COUNT: usize = 12;
    /// Every gauge.
    pub const ALL: [Gauge; Gauge::COUNT] = [
        Gauge::Gross,
        Gauge::NetLong,
        Gauge::NetShort,
        Gauge::Working,
        Gauge::Orders,
        Gauge::Executions,
        Gauge::Loss,
        Gauge::Drawdown,
        Gauge::LossVelocity,
        Gauge::PositionLong,
        Gauge::PositionShort,
        Gauge::DayQty,
    ];

    /// The rule that bounds it.
    #[must_use]
    pub const fn rule(self) -> Rule {
        match self {
            Gauge::Gross => Rule::GrossExposure,
            Gauge::NetLong => Rule::NetLong,
            Gauge::NetShort => Rule::NetShort,
            Gauge::Working => Rule::WorkingOrders,
            Gauge::Orders => Rule::RepeatedOrders,
            Gauge::Executions => Rule::RepeatedExecutions,
            Gauge::Loss => Rule::DailyLoss,
            Gauge::Drawdown => Rule::Drawdown,
            Gauge::LossVelocity => Rule::LossVelocity,
            Gauge::PositionLong => Rule::PositionLong,
            Gauge::PositionShort => Rule::PositionShort,
            Gauge::DayQty => Rule::DayParticipation,
        }
    }

    /// The gauge that `rule` bounds, if it bounds one.
    #[must_use]
    pub fn of(rule: Rule) -> Option<Gauge> {
        Gauge::ALL.into_iter().find(|g| g.rule() == rule)
    }
}

/// What a rate counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RateOf {
    /// `new`.
    Orders,
    /// `new`, `replace` and `cancel`.
    Messages,
    /// `cancel`.
    Cancels,
    /// Denials by any rule.
    Denials,
    /// Fills of no known order, of one that is over, or beyond its leaves.
    Orphans,
}

impl RateOf {
    /// The rule that it belongs to.
    #[must_use]
    pub const fn rule(self) -> Rule {
        match self {
            RateOf::Orders => Rule::OrderRate,
            RateOf::Messages => Rule::MessageRate,
            RateOf::Cancels => Rule::CancelRate,
            RateOf::Denials => Rule::Denials,
            RateOf::Orphans => Rule::OrphanFills,
        }
    }
}

/// How a rate is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RateKind {
    /// Never more than `count` in any window `(t - window, t]`. Exact; costs 8 bytes per `count`.
    Sliding,
    /// Generic cell rate algorithm (ITU-T I.371): `count` per window sustained, up to `burst` at once.
    /// Any one window sees at most `count + burst`. Costs 8 bytes.
    Gcra {
        /// How many may come at once, at least 1.
        burst: u32,
    },
}

/// One rate limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RateLimit {
    /// What is counted.
    pub of: RateOf,
    /// How.
    pub kind: RateKind,
    /// How many per window; 0: none.
    pub count: u32,
    /// The window in nanoseconds, at least 1.
    pub window_ns: u64,
    /// What a breach does. A cancel is never denied: only the latching part of the action applies to it.
    pub action: Action,
}

/// At most `count` orders with the same strategy, instrument, side, type, price and quantity in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DuplicateLimit {
    /// How many are let through, 0 to [`DuplicateLimit::MAX_COUNT`].
    pub count: u32,
    /// The window in nanoseconds, at least 1.
    pub window_ns: u64,
}

impl DuplicateLimit {
    /// The largest `count`.
    pub const MAX_COUNT: u32 = 16;
}

/// At most `count` new orders in a window for each parent that is open in the scope, and for none if none is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FanOutLimit {
    /// How many per parent.
    pub count: u32,
    /// The window in nanoseconds, at least 1. It is measured in sevenths: up to one seventh more is looked back on.
    pub window_ns: u64,
}

/// Whether the orders of a strategy are held against parents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ParentRule {
    /// They are not: a parent id is carried, and not looked up.
    #[default]
    Ignored = 0,
    /// An order that names a parent is.
    Checked = 1,
    /// Every order has to name one.
    Required = 2,
}

impl ParentRule {
    /// Every rule.
    pub const ALL: [ParentRule; 3] = [ParentRule::Ignored, ParentRule::Checked, ParentRule::Required];

    /// The word for it in configs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            ParentRule::Ignored => "ignored",
            ParentRule::Checked => "checked",
            ParentRule::Required => "required",
        }
    }
}

/// Which sides may be traded. Judged by quantity, never by a label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SideRule {
    /// Both.
    #[default]
    Both,
    /// `long_only` or `no_short`: a sell may not take the position, less all sell leaves, below zero.
    LongOnly,
    /// No sells.
    BuyOnly,
    /// No buys.
    SellOnly,
}

/// Up to five percentages, ascending, the unused ones 0.
pub type WarnLevels = [u8; 5];

/// Everything that applies at one scope.
#[derive(Clone, Debug, PartialEq)]
pub struct ScopeLimits {
    /// Limits of the gauges, in their rule's unit; [`UNLIMITED`] where none.
    pub max: [i64; Gauge::COUNT],
    /// Quantity of one order.
    pub order_qty: i64,
    /// Value of one order, base units.
    pub order_notional: i64,
    /// Quantity of one order in basis points of average daily volume.
    pub order_participation: i64,
    /// Distance from the reference price in basis points of it. A price may lie on the bound.
    pub collar: i64,
    /// Rate limits; several of one kind all apply.
    pub rates: Vec<RateLimit>,
    /// Duplicate orders; `None`: unlimited.
    pub duplicate: Option<DuplicateLimit>,
    /// The window of [`Rule::LossVelocity`] in nanoseconds.
    pub loss_window_ns: u64,
    /// Sides that may be traded: strategy, pair, instrument.
    pub sides: SideRule,
    /// Longest silence in nanoseconds: session.
    pub heartbeat_ns: i64,
    /// Largest clock skew in nanoseconds, either way: session.
    pub clock_skew_ns: i64,
    /// Children of one parent.
    pub children: i64,
    /// Bits of those of [`Rule::ParentQty`], [`Rule::ParentState`] and [`Rule::ParentPx`] that are written out as unlimited.
    pub parent_off: u64,
    /// New orders against open parents; `None`: unlimited.
    pub fan_out: Option<FanOutLimit>,
    /// Gross exposure of a suspense account, base units; [`UNLIMITED`] of every other account.
    pub suspense: i64,
    /// A bit per rule that every order here has to be judged by, whoever limits it: one that nothing limits is denied.
    pub demanded: u64,
    /// What a breach does, per rule (for rates see [`RateLimit::action`]).
    pub action: [Action; Rule::COUNT],
    /// Utilisation at which a warning is raised, per rule.
    pub warn: [WarnLevels; Rule::COUNT],
}

impl ScopeLimits {
    /// Warning levels where none are written.
    pub const DEFAULT_WARN: WarnLevels = [50, 75, 85, 90, 95];

    /// Nothing is limited.
    #[must_use]
    pub fn unlimited() -> ScopeLimits {
        ScopeLimits {
            max: [UNLIMITED; Gauge::COUNT],
            order_qty: UNLIMITED,
            order_notional: UNLIMITED,
            order_participation: UNLIMITED,
            collar: UNLIMITED,
            rates: Vec::new(),
            duplicate: None,
            loss_window_ns: 60_000_000_000,
            sides: SideRule::Both,
            heartbeat_ns: UNLIMITED,
            clock_skew_ns: UNLIMITED,
            children: UNLIMITED,
            parent_off: 0,
            fan_out: None,
            suspense: UNLIMITED,
            demanded: 0,
            action: Rule::ALL.map(default_action),
            warn: [ScopeLimits::DEFAULT_WARN; Rule::COUNT],
        }
    }

    /// Every rule that [applies](crate::model::rule::applies) at `kind` is zero: what nothing written means.
    #[must_use]
    pub fn closed(kind: ScopeKind) -> ScopeLimits {
        let mut limits = ScopeLimits::unlimited();
        for rule in Rule::ALL {
            if crate::model::rule::applies(rule, kind) {
                limits.close(rule);
            }
        }
        limits
    }

    /// Makes `rule` zero. A rule without a number stays as it is, and [`Rule::Suspense`], which is for some accounts only.
    pub fn close(&mut self, rule: Rule) {
        if let Some(gauge) = Gauge::of(rule) {
            self.max[gauge as usize] = 0;
            return;
        }
        let rate = |of| RateLimit { of, kind: RateKind::Sliding, count: 0, window_ns: 1, action: Action::Deny };
        match rule {
            Rule::OrderQty => self.order_qty = 0,
            Rule::OrderNotional => self.order_notional = 0,
            Rule::OrderParticipation => self.order_participation = 0,
            Rule::Collar => self.collar = 0,
            Rule::DuplicateOrder => self.duplicate = Some(DuplicateLimit { count: 0, window_ns: 1 }),
            Rule::OrderRate => self.rates.push(rate(RateOf::Orders)),
            Rule::MessageRate => self.rates.push(rate(RateOf::Messages)),
            Rule::CancelRate => self.rates.push(rate(RateOf::Cancels)),
            Rule::Denials => self.rates.push(rate(RateOf::Denials)),
            Rule::OrphanFills => self.rates.push(rate(RateOf::Orphans)),
            Rule::Children => self.children = 0,
            Rule::FanOut => self.fan_out = Some(FanOutLimit { count: 0, window_ns: 1 }),
            Rule::HeartbeatLoss => self.heartbeat_ns = 0,
            Rule::ClockSkew => self.clock_skew_ns = 0,
            _ => {}
        }
    }

    /// The limit of a gauge.
    #[must_use]
    pub fn of(&self, gauge: Gauge) -> i64 {
        self.max[gauge as usize]
    }
}

/// All limits. Immutable once the engine has it; a change is a new table.
#[derive(Clone, Debug)]
pub struct LimitTable {
    /// Counts up with every change; the engine refreshes a scope when it next touches it.
    pub generation: u32,
    profiles: Vec<ScopeLimits>,
    /// Profile of each scope, by [`Universe::slot`].
    slots: Vec<u32>,
    pair_exact: HashMap<(StrategyId, InstrumentId), u32>,
    pair_strategy: Vec<Option<u32>>,
    pair_instrument: Vec<Option<u32>>,
    pair_default: u32,
    /// On the restricted list, by instrument.
    restricted: Vec<bool>,
    /// Instruments that a strategy may trade, sorted; `None`: all.
    permitted: Vec<Option<Vec<InstrumentId>>>,
    /// Whether orders are held against parents, by strategy.
    parents: Vec<ParentRule>,
    /// Whether nothing should be booked to it, by account.
    suspense: Vec<bool>,
    /// Longest age of a reference price in ns, by instrument.
    reference_age_ns: Vec<u64>,
    /// Longest age of an FX rate in ns, by currency.
    fx_age_ns: Vec<u64>,
    /// What becomes of working orders of a halted scope.
    pub cancel: CancelPolicy,
    /// Made from `profiles` when first asked for.
    hot: OnceLock<Vec<HotProfile>>,
}

impl LimitTable {
    /// Nothing is limited, and no reference ever stale.
    #[must_use]
    pub fn unlimited(universe: &Universe) -> LimitTable {
        LimitTable::build(universe, |_| ScopeLimits::unlimited())
    }

    /// Every rule is zero at every scope: what an empty configuration means.
    #[must_use]
    pub fn closed(universe: &Universe) -> LimitTable {
        LimitTable::build(universe, ScopeLimits::closed)
    }

    fn build(universe: &Universe, profile: impl Fn(ScopeKind) -> ScopeLimits) -> LimitTable {
        let slots =
            (0..universe.scope_count()).map(|slot| universe.scope_at(slot).map_or(0, |s| s.kind() as u32)).collect();
        LimitTable {
            generation: 1,
            profiles: ScopeKind::ALL.into_iter().map(profile).collect(),
            slots,
            pair_exact: HashMap::new(),
            pair_strategy: vec![None; universe.strategies.len()],
            pair_instrument: vec![None; universe.instruments.len()],
            pair_default: ScopeKind::Pair as u32,
            restricted: vec![false; universe.instruments.len()],
            permitted: vec![None; universe.strategies.len()],
            parents: vec![ParentRule::Ignored; universe.strategies.len()],
            suspense: vec![false; universe.accounts.len()],
            reference_age_ns: vec![u64::MAX; universe.instruments.len()],
            fx_age_ns: vec![u64::MAX; universe.currencies.len()],
            cancel: CancelPolicy::default(),
            hot: OnceLock::new(),
        }
    }

    /// The limits of every scope of `kind` that has none of its own. Call before [`LimitTable::edit`].
    pub fn edit_all(&mut self, kind: ScopeKind) -> &mut ScopeLimits {
        self.hot = OnceLock::new();
        &mut self.profiles[kind as usize]
    }

    /// The limits of one scope, made its own (a copy of the present ones) the first time.
    ///
    /// # Panics
    /// If `scope` is not in `universe`, which must be the one that the table was made for.
    pub fn edit(&mut self, universe: &Universe, scope: Scope) -> &mut ScopeLimits {
        self.hot = OnceLock::new();
        let shared = ScopeKind::ALL.len() as u32;
        let place: &mut u32 = match scope {
            Scope::Pair(s, i) => {
                let present = self.pair_index(s, i);
                self.pair_exact.entry((s, i)).or_insert(present)
            }
            _ => &mut self.slots[universe.slot(scope).expect("a scope of this universe")],
        };
        // A pair may still point at the profile of its strategy's or instrument's wildcard.
        let own = *place >= shared
            && !self.pair_strategy.contains(&Some(*place))
            && !self.pair_instrument.contains(&Some(*place));
        if !own {
            let copy = self.profiles[*place as usize].clone();
            *place = self.profiles.len() as u32;
            self.profiles.push(copy);
        }
        let index = *place as usize;
        &mut self.profiles[index]
    }

    /// The limits of every pair of `strategy` without limits of its own (`strategy/*`).
    pub fn edit_pairs_of_strategy(&mut self, strategy: StrategyId) -> &mut ScopeLimits {
        self.hot = OnceLock::new();
        let slot = usize::from(strategy.0);
        let index = match self.pair_strategy[slot] {
            Some(index) => index,
            None => {
                let copy = self.profiles[self.pair_default as usize].clone();
                self.profiles.push(copy);
                self.profiles.len() as u32 - 1
            }
        };
        self.pair_strategy[slot] = Some(index);
        &mut self.profiles[index as usize]
    }

    /// The limits of every pair in `instrument` that neither the pair nor the strategy has (`*/instrument`).
    pub fn edit_pairs_of_instrument(&mut self, instrument: InstrumentId) -> &mut ScopeLimits {
        self.hot = OnceLock::new();
        let slot = instrument.0 as usize;
        let index = match self.pair_instrument[slot] {
            Some(index) => index,
            None => {
                let copy = self.profiles[self.pair_default as usize].clone();
                self.profiles.push(copy);
                self.profiles.len() as u32 - 1
            }
        };
        self.pair_instrument[slot] = Some(index);
        &mut self.profiles[index as usize]
    }

    /// Puts `instrument` on the restricted list, or takes it off.
    pub fn restrict(&mut self, instrument: InstrumentId, restricted: bool) {
        self.restricted[instrument.0 as usize] = restricted;
    }

    /// Lets `strategy` trade `instruments` only; `None`: all.
    pub fn permit(&mut self, strategy: StrategyId, instruments: Option<Vec<InstrumentId>>) {
        self.permitted[usize::from(strategy.0)] = instruments.map(|mut list| {
            list.sort_unstable();
            list
        });
    }

    /// Holds the orders of `strategy` against parents, or not.
    pub fn hold_to_parents(&mut self, strategy: StrategyId, rule: ParentRule) {
        self.parents[usize::from(strategy.0)] = rule;
    }

    /// Makes `account` one that nothing should be booked to. [`ScopeLimits::suspense`] is its limit.
    pub fn suspend(&mut self, account: AccountId, suspense: bool) {
        self.suspense[usize::from(account.0)] = suspense;
    }

    /// Sets the longest age of a reference price; `u64::MAX`: any.
    pub fn set_reference_age(&mut self, instrument: InstrumentId, ns: u64) {
        self.reference_age_ns[instrument.0 as usize] = ns;
    }

    /// Sets the longest age of an FX rate; `u64::MAX`: any. The base currency has none.
    pub fn set_fx_age(&mut self, currency: CurrencyId, ns: u64) {
        self.fx_age_ns[usize::from(currency.0)] = ns;
    }

    /// The hot parts, by profile index. Computed at the first call: make it before the engine does.
    #[must_use]
    pub fn hot(&self) -> &[HotProfile] {
        self.hot.get_or_init(|| self.profiles.iter().map(HotProfile::of).collect())
    }

    /// The profile index of the scope at dense place `slot`.
    #[inline]
    #[must_use]
    pub fn slot_index(&self, slot: usize) -> u32 {
        self.slots[slot]
    }

    /// The limits of the scope at dense place `slot` (see [`Universe::slot`]).
    #[inline]
    #[must_use]
    pub fn at(&self, slot: usize) -> &ScopeLimits {
        &self.profiles[self.slots[slot] as usize]
    }

    /// The profile that a pair has: itself, `strategy/*`, `*/instrument`, `*`, in this order.
    #[must_use]
    pub fn pair_index(&self, strategy: StrategyId, instrument: InstrumentId) -> u32 {
        if let Some(&index) = self.pair_exact.get(&(strategy, instrument)) {
            return index;
        }
        self.pair_strategy[usize::from(strategy.0)]
            .or(self.pair_instrument[instrument.0 as usize])
            .unwrap_or(self.pair_default)
    }

    /// The profile at `index` (from [`LimitTable::pair_index`]).
    #[inline]
    #[must_use]
    pub fn profile(&self, index: u32) -> &ScopeLimits {
        &self.profiles[index as usize]
    }

    /// The limits of a pair.
    #[must_use]
    pub fn pair(&self, strategy: StrategyId, instrument: InstrumentId) -> &ScopeLimits {
        self.profile(self.pair_index(strategy, instrument))
    }

    /// The limits at `scope`; `None` if it is not in `universe`.
    #[must_use]
    pub fn scope(&self, universe: &Universe, scope: Scope) -> Option<&ScopeLimits> {
        match scope {
            Scope::Pair(s, i) => (usize::from(s.0) < universe.strategies.len()
                && (i.0 as usize) < universe.instruments.len())
            .then(|| self.pair(s, i)),
            _ => universe.slot(scope).map(|slot| self.at(slot)),
        }
    }

    /// Whether `instrument` is on the restricted list.
    #[inline]
    #[must_use]
    pub fn is_restricted(&self, instrument: InstrumentId) -> bool {
        self.restricted[instrument.0 as usize]
    }

    /// Whether `strategy` may trade `instrument`.
    #[inline]
    #[must_use]
    pub fn is_permitted(&self, strategy: StrategyId, instrument: InstrumentId) -> bool {
        match &self.permitted[usize::from(strategy.0)] {
            None => true,
            Some(list) => list.binary_search(&instrument).is_ok(),
        }
    }

    /// Whether orders of `strategy` are held against parents.
    #[inline]
    #[must_use]
    pub fn parents(&self, strategy: StrategyId) -> ParentRule {
        self.parents[usize::from(strategy.0)]
    }

    /// Whether nothing should be booked to `account`.
    #[inline]
    #[must_use]
    pub fn is_suspense(&self, account: AccountId) -> bool {
        self.suspense[usize::from(account.0)]
    }

    /// The longest age of a reference price in ns.
    #[inline]
    #[must_use]
    pub fn reference_age(&self, instrument: InstrumentId) -> u64 {
        self.reference_age_ns[instrument.0 as usize]
    }

    /// The longest age of an FX rate in ns.
    #[inline]
    #[must_use]
    pub fn fx_age(&self, currency: CurrencyId) -> u64 {
        self.fx_age_ns[usize::from(currency.0)]
    }

    /// Pairs with limits of their own, in no particular order.
    pub fn exact_pairs(&self) -> impl Iterator<Item = (StrategyId, InstrumentId)> + '_ {
        self.pair_exact.keys().copied()
    }
}
