//! Random universes, limits and streams: the engine and the oracle must agree after every event.
//!
//! `HALTLINE_ORACLE_EVENTS` says how many events to judge, `HALTLINE_SEED` runs one stream only,
//! `HALTLINE_ORACLE_ALL` goes on after a difference and lists every kind of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use haltline::engine::Command;
use haltline::engine::core::{Engine, Sizing};
use haltline::engine::published::Published;
use haltline::limits::{
    DuplicateLimit, FanOutLimit, Gauge, LimitTable, ParentRule, RateKind, RateLimit, RateOf, ScopeLimits, SideRule,
};
use haltline::model::rule::applies;
use haltline::model::universe::{AccountSpec, CurrencySpec, StrategySpec};
use haltline::model::{
    Action, AnomalyKind, Effect, Effects, Event, EventKind, InstrumentSpec, Mode, OrdType, Rule, Scope, ScopeKind,
    SessionKind, SessionSpec, Side, Target, Universe, Why,
};
use haltline::units::{
    AccountId, CurrencyId, InstrumentId, MonoNanos, Now, OrdId, Px, Qty, SessionId, StrategyId, UnixNanos,
};

use crate::oracle::money::{Factors, Round, value};
use crate::oracle::{Deny, Oracle, Outcome};

/// Events judged by default.
const EVENTS: u64 = 2_000_000;
/// Where time begins.
pub const START: u64 = 1_000_000_000;
pub const UNIX: u64 = 1_700_000_000_000_000_000;

/// Splitmix64 (public domain, S. Vigna): small, and the same everywhere.
pub struct Rng(pub u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
    fn percent(&mut self, p: u64) -> bool {
        self.below(100) < p
    }
    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize]
    }
}

/// One input. The sequence is relative to the one that is expected, so that inputs can be left out.
#[derive(Clone, Debug)]
pub enum Input {
    Event(Now, Event, i64),
    Command(Now, Command),
    Tick(Now),
}

pub struct Case {
    pub universe: Arc<Universe>,
    pub table: Arc<LimitTable>,
    pub sizing: Sizing,
    pub inputs: Vec<Input>,
}

/// What is switched on in one stream.
struct Swarm {
    rules: [bool; Rule::COUNT],
    latching: u64,
    rearm: u64,
    reload: u64,
    kinds: [bool; EventKind::ALL.len()],
    /// How often an order names a parent, in percent.
    parented: u64,
    edges: bool,
    gaps: bool,
    skew: bool,
    reuse: u64,
    again: u64,

    long_steps: bool,
    unknown: bool,
    markless: bool,
}

#[derive(Clone, Copy)]
struct Typical {
    px: i64,
    qty: i64,
    value: i64,
}

pub struct Maker {
    rng: Rng,
    swarm: Swarm,
    typical: Vec<Typical>,
    /// Now roughly, by instrument and currency.
    px: Vec<i64>,
    rate: Vec<i64>,
    universe: Arc<Universe>,
    /// What was last sent under an id.
    sent: BTreeMap<(u16, u64), Event>,
    execs: BTreeMap<u16, u64>,
    /// Parents as they were sent.
    parents: Vec<Event>,
    last_id: u64,
    /// Shape of the rates, kept over reloads.
    rate_shapes: Vec<Vec<RateLimit>>,
    generation: u32,
}

/// Rules that are demanded here and there, whether they are limited or not.
const DEMANDED: [Rule; 12] = [
    Rule::Collar,
    Rule::OrderQty,
    Rule::ParentQty,
    Rule::ParentPx,
    Rule::Children,
    Rule::FanOut,
    Rule::DuplicateOrder,
    Rule::OrderRate,
    Rule::MessageRate,
    Rule::GrossExposure,
    Rule::HeartbeatLoss,
    Rule::WorkingOrders,
];

const WINDOWS: [u64; 6] = [1, 7, 100, 1_000, 10_000, 100_000];

impl Maker {
    fn new(seed: u64) -> Maker {
        let mut rng = Rng(seed);
        let mut rules = [false; Rule::COUNT];
        let density = rng.pick(&[4, 8, 15, 35]);
        for rule in &mut rules {
            *rule = rng.percent(density);
        }
        let mut kinds = [true; EventKind::ALL.len()];
        for kind in EventKind::ALL {
            let core = matches!(kind, EventKind::New | EventKind::Mark | EventKind::Fx);
            kinds[kind as usize - 1] = if core { !rng.one_in(20) } else { !rng.one_in(4) };
        }
        let swarm = Swarm {
            rules,
            latching: rng.pick(&[0, 0, 3, 15, 60]),
            rearm: rng.pick(&[0, 3, 10, 30]),
            reload: rng.pick(&[0, 0, 1, 5]),
            kinds,
            parented: rng.pick(&[0, 50, 95]),
            edges: rng.one_in(8),
            gaps: rng.one_in(3),
            skew: rng.one_in(4),
            reuse: rng.pick(&[2, 10, 60]),
            again: rng.pick(&[2, 5, 20]),
            long_steps: rng.one_in(3),
            unknown: rng.one_in(3),
            markless: rng.one_in(4),
        };
        let (universe, typical) = universe(&mut rng, &swarm);
        let universe = Arc::new(universe);
        let px = typical.iter().map(|t| t.px).collect();
        let rate = universe.currencies.iter().map(|_| 10_000_000_000).collect();
        let mut maker = Maker {
            rng,
            swarm,
            typical,
            px,
            rate,
            sent: BTreeMap::new(),
            execs: BTreeMap::new(),
            parents: Vec::new(),
            last_id: 0,
            rate_shapes: vec![Vec::new(); universe.scope_count()],
            universe,
            generation: 0,
        };
        for slot in 0..maker.rate_shapes.len() {
            maker.rate_shapes[slot] = maker.rate_shape();
        }
        maker
    }

    fn rate_shape(&mut self) -> Vec<RateLimit> {
        let mut list = Vec::new();
        for of in [RateOf::Orders, RateOf::Messages, RateOf::Cancels, RateOf::Denials, RateOf::Orphans] {
            while self.swarm.rules[of.rule() as usize] && self.rng.percent(35) && list.len() < 8 {
                let kind = if self.rng.one_in(2) {
                    RateKind::Sliding
                } else {
                    RateKind::Gcra { burst: self.rng.pick(&[1, 2, 5]) }
                };
                let count = if self.rng.one_in(25) { 0 } else { self.rng.pick(&[1, 2, 3, 7, 20]) };
                list.push(RateLimit { of, kind, count, window_ns: self.rng.pick(&WINDOWS), action: Action::Deny });
            }
        }
        list
    }

    fn action(&mut self) -> Action {
        if !self.rng.percent(self.swarm.latching) {
            return Action::Deny;
        }
        let target = self.rng.pick(&[
            Target::Own,
            Target::Own,
            Target::Firm,
            Target::Account,
            Target::Strategy,
            Target::Instrument,
            Target::Session,
        ]);
        if self.rng.one_in(2) { Action::Halt(target) } else { Action::ReduceOnly(target) }
    }

    fn limits(&mut self, scope: Scope) -> ScopeLimits {
        let mut limits = ScopeLimits::unlimited();
        let kind = scope.kind();
        let typical = match scope {
            Scope::Pair(_, i) | Scope::Instrument(i) => self.typical[i.0 as usize],
            Scope::Firm | Scope::Account(_) | Scope::Strategy(_) | Scope::Session(_) => {
                self.rng.pick(&self.typical.clone())
            }
        };
        let wide = if kind == ScopeKind::Firm { 6 } else { 2 };
        for rule in Rule::ALL {
            if !applies(rule, kind) || !self.swarm.rules[rule as usize] || self.rng.percent(55) {
                continue;
            }
            limits.action[rule as usize] = self.action();
            if self.rng.one_in(40) {
                let rate = matches!(
                    rule,
                    Rule::OrderRate | Rule::MessageRate | Rule::CancelRate | Rule::Denials | Rule::OrphanFills
                );
                if !rate {
                    limits.close(rule);
                }
                continue;
            }
            let times = self.rng.pick(&[1, 2, 4, 8, 20]) * wide;
            match rule {
                Rule::OrderQty => limits.order_qty = typical.qty.saturating_mul(times),
                Rule::OrderNotional => limits.order_notional = typical.value.saturating_mul(times),
                Rule::OrderParticipation => limits.order_participation = self.rng.pick(&[1, 10, 100, 1_000, 5_000]),
                Rule::Collar => limits.collar = self.rng.pick(&[0, 1, 50, 300, 1_000, 12_000]),
                Rule::DuplicateOrder => {
                    limits.duplicate = Some(DuplicateLimit {
                        count: self.rng.pick(&[1, 2, 3, 16]),
                        window_ns: self.rng.pick(&WINDOWS),
                    });
                }
                Rule::PositionLong | Rule::PositionShort => {
                    limits.max[Gauge::of(rule).unwrap() as usize] = typical.qty.saturating_mul(times * 2);
                }
                Rule::DayParticipation => {
                    limits.max[Gauge::DayQty as usize] = self.rng.pick(&[10, 100, 1_000, 20_000]);
                }
                Rule::GrossExposure | Rule::NetLong | Rule::NetShort => {
                    limits.max[Gauge::of(rule).unwrap() as usize] = typical.value.saturating_mul(times * 2);
                }
                Rule::WorkingOrders => limits.max[Gauge::Working as usize] = times,
                Rule::RepeatedOrders | Rule::RepeatedExecutions => {
                    limits.max[Gauge::of(rule).unwrap() as usize] = times * 5;
                }
                Rule::DailyLoss | Rule::Drawdown | Rule::LossVelocity => {
                    let share = self.rng.pick(&[1, 3, 10, 100]);
                    limits.max[Gauge::of(rule).unwrap() as usize] = typical.value.saturating_mul(times) / share;
                }
                Rule::HeartbeatLoss => limits.heartbeat_ns = self.rng.pick(&[100, 1_000, 10_000, 1_000_000]),
                Rule::ClockSkew => limits.clock_skew_ns = self.rng.pick(&[10, 1_000]),
                Rule::Children => limits.children = self.rng.pick(&[1, 2, 3, 10]),
                Rule::FanOut => {
                    let (count, window_ns) = (self.rng.pick(&[1, 2, 5, 10]), self.rng.pick(&WINDOWS));
                    limits.fan_out = Some(FanOutLimit { count, window_ns });
                }
                Rule::Suspense => limits.suspense = typical.value.saturating_mul(times),
                Rule::StreamGap
                | Rule::ParentQty
                | Rule::ParentState
                | Rule::ParentPx
                | Rule::OrphanFills
                | Rule::Coverage
                | Rule::OrderRate
                | Rule::MessageRate
                | Rule::CancelRate
                | Rule::Denials
                | Rule::Malformed
                | Rule::Capacity
                | Rule::Mode
                | Rule::UnknownEntity
                | Rule::DuplicateId
                | Rule::UnknownOrder
                | Rule::Permission
                | Rule::Restricted
                | Rule::SidePermission
                | Rule::Journal => {}
            }
        }
        if self.swarm.rules[Rule::Coverage as usize] && self.rng.one_in(12) {
            limits.demanded = 1 << self.rng.pick(&DEMANDED) as u64;
        }
        limits.loss_window_ns = match self.universe.slot(scope) {
            // The same over reloads: a window of another length starts anew.
            Some(slot) => WINDOWS[slot % WINDOWS.len()],
            None => 1_000,
        };
        let sided = matches!(kind, ScopeKind::Strategy | ScopeKind::Pair | ScopeKind::Instrument);
        if sided && self.swarm.rules[Rule::SidePermission as usize] && self.rng.one_in(3) {
            limits.sides =
                self.rng.pick(&[SideRule::LongOnly, SideRule::LongOnly, SideRule::BuyOnly, SideRule::SellOnly]);
        }
        if let Some(slot) = self.universe.slot(scope) {
            for mut rate in self.rate_shapes[slot].clone() {
                rate.action = self.action();
                // Now and then a reload changes how many, or how they are counted.
                if self.rng.one_in(8) {
                    rate.count = self.rng.pick(&[0, 1, 2, 5, 20]);
                }
                if self.rng.one_in(20) {
                    rate.kind = RateKind::Sliding;
                }
                limits.rates.push(rate);
            }
        }
        limits
    }

    fn table(&mut self) -> Arc<LimitTable> {
        let universe = self.universe.clone();
        let mut table = LimitTable::unlimited(&universe);
        self.generation += 1;
        table.generation = self.generation;
        for slot in 0..universe.scope_count() {
            let scope = universe.scope_at(slot).unwrap();
            let limits = self.limits(scope);
            *table.edit(&universe, scope) = limits;
        }
        let (strategies, instruments) = (universe.strategies.len(), universe.instruments.len());
        for s in 0..strategies {
            let s = StrategyId(s as u16);
            if self.rng.one_in(4) {
                *table.edit_pairs_of_strategy(s) = self.limits(Scope::Pair(s, InstrumentId(0)));
            }
            if self.swarm.parented > 0 && !self.rng.one_in(3) {
                table.hold_to_parents(s, self.rng.pick(&[ParentRule::Checked, ParentRule::Required]));
            }
            for i in 0..instruments {
                let i = InstrumentId(i as u32);
                if self.rng.one_in(3) {
                    *table.edit(&universe, Scope::Pair(s, i)) = self.limits(Scope::Pair(s, i));
                }
            }
            if self.swarm.rules[Rule::Permission as usize] && self.rng.one_in(4) {
                let some = (0..instruments as u32).map(InstrumentId).filter(|_| self.rng.one_in(2)).collect();
                table.permit(s, Some(some));
            }
        }
        for i in 0..instruments {
            let i = InstrumentId(i as u32);
            if self.rng.one_in(5) {
                *table.edit_pairs_of_instrument(i) = self.limits(Scope::Pair(StrategyId(0), i));
            }
            if self.swarm.rules[Rule::Restricted as usize] && self.rng.one_in(5) {
                table.restrict(i, true);
            }
            if self.rng.one_in(3) {
                table.set_reference_age(i, self.rng.pick(&[0, 100, 10_000, 1_000_000]));
            }
        }
        for a in 0..universe.accounts.len() {
            table.suspend(AccountId(a as u16), self.swarm.rules[Rule::Suspense as usize] && self.rng.one_in(3));
        }
        for c in 0..universe.currencies.len() {
            if self.rng.one_in(3) {
                table.set_fx_age(CurrencyId(c as u16), self.rng.pick(&[0, 100, 10_000, 1_000_000]));
            }
        }
        Arc::new(table)
    }

    fn edge(&mut self) -> i64 {
        self.rng.pick(&[
            0,
            -1,
            1,
            i64::MAX,
            i64::MIN,
            (1 << 62) - 1,
            1 << 62,
            -(1 << 62),
            1 - (1 << 62),
            1 << 61,
            1 << 40,
            i64::MIN + 1,
        ])
    }

    fn price(&mut self, i: usize) -> i64 {
        if self.swarm.edges && self.rng.one_in(30) {
            return self.edge();
        }
        let px = self.px[i];
        let spread = (px.abs() / 50).max(1) as u64;
        match self.rng.below(12) {
            0 => px,
            1 => px + (self.rng.below(20 * spread) as i64) - 10 * spread as i64,
            2 if self.rng.one_in(10) => 0,
            3 if self.rng.one_in(10) => -px,
            _ => px + self.rng.below(spread * 2) as i64 - spread as i64,
        }
    }

    fn quantity(&mut self, i: usize) -> i64 {
        if self.swarm.edges && self.rng.one_in(30) {
            return self.edge();
        }
        let typical = self.typical[i].qty;
        match self.rng.below(10) {
            0 => typical * 5,
            1 => 1,
            2 if self.rng.one_in(10) => 0,
            3 => typical,
            4 => typical / 2 + 1,
            _ => 1 + self.rng.below(typical as u64 * 2) as i64,
        }
    }

    fn order_session(&mut self) -> Option<u16> {
        let list: Vec<u16> = (0..self.universe.sessions.len() as u16)
            .filter(|s| self.universe.sessions[usize::from(*s)].kind.trades())
            .collect();
        (!list.is_empty()).then(|| self.rng.pick(&list))
    }

    fn any_session(&mut self) -> u16 {
        self.rng.below(self.universe.sessions.len() as u64) as u16
    }

    /// An id that was sent by `session`, mostly.
    fn known_id(&mut self, session: u16) -> u64 {
        let list: Vec<u64> = self.sent.range((session, 0)..=(session, u64::MAX)).map(|((_, id), _)| *id).collect();
        if list.is_empty() || self.rng.one_in(25) {
            return 1 + self.rng.below(1_000);
        }
        // Mostly a recent one.
        let reach = if self.rng.one_in(3) { list.len() } else { list.len().min(12) };
        list[list.len() - 1 - self.rng.below(reach as u64) as usize]
    }

    /// An id for something new: mostly never used before, sometimes out of a small pool.
    fn id(&mut self) -> u64 {
        if self.rng.one_in(200) {
            0
        } else if self.rng.one_in(self.swarm.reuse) {
            1 + self.rng.below(20)
        } else {
            self.last_id += 1;
            self.last_id
        }
    }

    fn event(&mut self, now: Now) -> (Event, i64) {
        let kind = loop {
            let kind = match self.rng.below(100) {
                0..40 => EventKind::New,
                40..46 => EventKind::Replace,
                46..50 => EventKind::Cancel,
                50..56 => EventKind::Ack,
                56..60 => EventKind::Replaced,
                60..62 => EventKind::Canceled,
                62 => EventKind::Expired,
                63 => EventKind::Rejected,
                64..66 => EventKind::CancelRejected,
                66..82 => EventKind::Fill,
                82..84 => EventKind::Bust,
                84..86 => EventKind::Correct,
                86..94 => EventKind::Mark,
                94..97 => EventKind::Fx,
                97..99 => EventKind::Heartbeat,
                _ => EventKind::Withdrawn,
            };
            let kind = match self.rng.below(100) {
                0..8 if self.swarm.parented > 0 => EventKind::ParentNew,
                8..11 if self.swarm.parented > 0 => EventKind::ParentReplace,
                11..14 if self.swarm.parented > 0 => EventKind::ParentDone,
                _ => kind,
            };
            if self.swarm.kinds[kind as usize - 1] {
                break kind;
            }
            if self.rng.one_in(50) {
                break EventKind::Heartbeat;
            }
        };
        let reference = matches!(kind, EventKind::Mark | EventKind::Fx);
        let session = if self.rng.one_in(60) {
            Some(self.any_session())
        } else if reference {
            (0..self.universe.sessions.len() as u16)
                .find(|s| self.universe.sessions[usize::from(*s)].kind == SessionKind::Reference)
        } else if kind.is_parent() {
            (0..self.universe.sessions.len() as u16)
                .rfind(|s| self.universe.sessions[usize::from(*s)].kind == SessionKind::Orders)
        } else {
            self.order_session()
        };
        let session = session.unwrap_or_else(|| self.any_session());
        let mut e = Event::new(kind, SessionId(session), 0);
        e.sent_at = now.unix;
        if self.swarm.skew && self.rng.one_in(6) {
            let by = self.rng.pick(&[9, 10, 11, 999, 1_001, 5_000_000]);
            e.sent_at = if self.rng.one_in(4) {
                UnixNanos(0)
            } else if self.rng.one_in(2) {
                UnixNanos(now.unix.0 + by)
            } else {
                UnixNanos(now.unix.0 - by)
            };
        }
        let instruments = self.universe.instruments.len();
        match kind {
            EventKind::New => {
                let s = self.rng.below(self.universe.strategies.len() as u64) as u16;
                let i = self.rng.below(instruments as u64) as usize;
                e.strategy = StrategyId(s);
                e.account = self.universe.strategies[usize::from(s)].account;
                e.instrument = InstrumentId(i as u32);
                e.id = OrdId(self.id());
                e.side = if self.rng.one_in(2) { Side::Buy } else { Side::Sell };
                e.ord_type = self.rng.pick(&[
                    OrdType::Limit,
                    OrdType::Limit,
                    OrdType::Market,
                    OrdType::Stop,
                    OrdType::StopLimit,
                ]);
                e.qty = Qty(self.quantity(i));
                e.px = Px(if e.ord_type == OrdType::Market && !self.rng.one_in(8) { 0 } else { self.price(i) });
                if self.rng.percent(self.swarm.parented) {
                    self.name_parent(&mut e);
                }
                let again = self.known_id(session);
                if self.rng.one_in(self.swarm.again)
                    && let Some(old) = self.sent.get(&(session, again))
                {
                    e = Event { id: e.id, sent_at: e.sent_at, ..*old };
                    e.kind = kind;
                }
                if self.swarm.unknown {
                    match self.rng.below(60) {
                        0 => e.strategy = StrategyId(self.universe.strategies.len() as u16),
                        1 => e.account = AccountId(self.rng.below(4) as u16),
                        2 => e.instrument = InstrumentId::UNKNOWN,
                        3 => e.account = AccountId::UNKNOWN,
                        _ => {}
                    }
                }
                self.sent.insert((session, e.id.0), e);
            }
            EventKind::Replace | EventKind::Replaced => {
                let old = self.known_id(session);
                let known = self.sent.get(&(session, old)).copied().unwrap_or(e);
                let i = (known.instrument.0 as usize).min(instruments - 1);
                e.ref_id = old;
                e.id = OrdId(self.id());
                e.ord_type = if self.rng.one_in(4) { OrdType::Market } else { known.ord_type };
                e.side = known.side;
                e.strategy = known.strategy;
                e.account = known.account;
                e.instrument = known.instrument;
                e.qty = Qty(if self.rng.one_in(3) { known.qty.0 } else { self.quantity(i) });
                e.px = Px(if self.rng.one_in(3) { known.px.0 } else { self.price(i) });
                if kind == EventKind::Replace {
                    self.sent.insert((session, e.id.0), e);
                } else if !self.rng.one_in(6) {
                    // The newest replace of it, mostly as it was asked for.
                    let asked = self
                        .sent
                        .range((session, 0)..=(session, u64::MAX))
                        .find(|(_, x)| x.kind == EventKind::Replace && x.ref_id == old)
                        .map(|(_, x)| *x);
                    if let Some(asked) = asked {
                        e.id = asked.id;
                        if !self.rng.one_in(6) {
                            (e.qty, e.px) = (asked.qty, asked.px);
                        }
                    }
                }
            }
            EventKind::Cancel | EventKind::CancelRejected => {
                e.ref_id = self.known_id(session);
                e.id = OrdId(self.id());
                let asked = self
                    .sent
                    .range((session, 0)..=(session, u64::MAX))
                    .find(|(_, x)| x.kind == EventKind::Replace && x.ref_id == e.ref_id)
                    .map(|((_, id), _)| *id);
                if kind == EventKind::CancelRejected
                    && let Some(id) = asked
                {
                    e.id = OrdId(id);
                }
            }
            EventKind::Ack | EventKind::Canceled | EventKind::Expired | EventKind::Rejected | EventKind::Withdrawn => {
                e.id = OrdId(self.known_id(session));
                if kind == EventKind::Withdrawn {
                    // Haltline's own, or a gate's.
                    e.ref_id = self.rng.below(2);
                }
            }
            EventKind::Fill | EventKind::Bust | EventKind::Correct => {
                let last = *self.execs.entry(session).or_insert(0);
                let fresh = last + 1;
                self.execs.insert(session, fresh);
                e.ref_id = if self.rng.one_in(15) { 1 + self.rng.below(fresh) } else { fresh };
                if kind == EventKind::Fill {
                    e.id = OrdId(self.known_id(session));
                } else {
                    e.id = OrdId(1 + self.rng.below(fresh + 1));
                    if !self.rng.one_in(5) {
                        e.id = OrdId(fresh.saturating_sub(1 + self.rng.below(4)).max(1));
                    }
                }
                let known = self.sent.get(&(session, e.id.0)).copied();
                let i = known.map_or(0, |k| k.instrument.0 as usize).min(instruments - 1);
                if let Some(known) = known {
                    (e.side, e.strategy, e.account, e.instrument) =
                        (known.side, known.strategy, known.account, known.instrument);
                    e.qty = Qty(match self.rng.below(4) {
                        0 => known.qty.0,
                        1 => self.quantity(i),
                        _ => known.qty.0 / 3 + 1,
                    });
                } else {
                    e.strategy = StrategyId(self.rng.below(self.universe.strategies.len() as u64) as u16);
                    e.instrument = InstrumentId(i as u32);
                    e.qty = Qty(self.quantity(i));
                    if self.swarm.unknown && self.rng.one_in(10) {
                        e.strategy = StrategyId::UNKNOWN;
                    }
                }
                e.px = Px(self.price(i));
                // Fills at the edges would leave what can be represented in no time.
                if e.qty.0 > self.typical[i].qty * 10 && !self.rng.one_in(50) {
                    e.qty = Qty(self.typical[i].qty);
                }
            }
            EventKind::Mark => {
                let i = self.rng.below(instruments as u64) as usize;
                e.instrument = InstrumentId(i as u32);
                let step = (self.typical[i].px / self.rng.pick(&[5, 50, 500])).max(1) as u64;
                let moved = self.px[i] + self.rng.below(2 * step + 1) as i64 - step as i64;
                if moved > 0 || self.universe.instruments[i].negative_px {
                    self.px[i] = moved;
                }
                e.px = Px(if self.rng.one_in(100) { self.edge() } else { self.px[i] });
                if self.rng.one_in(200) {
                    e.instrument = InstrumentId(instruments as u32);
                }
                if e.px.0.unsigned_abs() > 1 << 50 && !self.swarm.edges {
                    e.px = Px(0);
                }
            }
            EventKind::Fx => {
                let currencies = self.universe.currencies.len() as u64;
                let c =
                    if self.rng.one_in(30) { self.rng.pick(&[0, currencies]) } else { 1 + self.rng.below(currencies) };
                let c = (if c >= currencies && !self.rng.one_in(30) { currencies - 1 } else { c }) as usize;
                e.instrument = InstrumentId(c as u32);
                if let Some(rate) = self.rate.get_mut(c) {
                    let next = *rate + self.rng.below(*rate as u64 / 10) as i64 - *rate / 20;
                    *rate = if self.rng.one_in(2) { next / 1_000_000 * 1_000_000 } else { next };
                    e.px = Px(*rate);
                }
                if self.rng.one_in(100) {
                    e.px = Px(self.rng.pick(&[0, -1, i64::MIN]));
                }
            }
            EventKind::Heartbeat => {}
            EventKind::ParentNew | EventKind::ParentReplace | EventKind::ParentDone => self.parent(&mut e),
        }
        if self.swarm.unknown && !matches!(kind, EventKind::Withdrawn | EventKind::Heartbeat) && self.rng.one_in(80) {
            e.flags = Event::MALFORMED;
        }
        if self.swarm.unknown && self.rng.one_in(300) {
            e.session = SessionId::UNKNOWN;
        }
        let delta = if self.swarm.gaps && self.rng.one_in(25) { self.rng.pick(&[-3, -1, 1, 2, 5]) } else { 0 };
        (e, delta)
    }

    /// Makes an order the child of a parent, mostly of one that it fits.
    fn name_parent(&mut self, e: &mut Event) {
        let reach = self.parents.len().min(8);
        if reach == 0 || self.rng.one_in(40) {
            e.ref_id = 1 + self.rng.below(50);
            return;
        }
        let parent = self.parents[self.parents.len() - 1 - self.rng.below(reach as u64) as usize];
        e.ref_id = parent.id.0;
        if self.rng.one_in(12) {
            return;
        }
        (e.strategy, e.account, e.instrument, e.side) =
            (parent.strategy, parent.account, parent.instrument, parent.side);
        let i = (parent.instrument.0 as usize).min(self.typical.len() - 1);
        e.qty = Qty(self.quantity(i));
        if e.ord_type != OrdType::Market {
            e.px = Px(if self.rng.one_in(3) { parent.px.0 } else { self.price(i) });
        }
        if parent.ord_type == OrdType::Limit && !self.rng.one_in(6) {
            e.ord_type = OrdType::Limit;
            e.px = parent.px;
        }
    }

    /// Fills in the event of a parent.
    fn parent(&mut self, e: &mut Event) {
        let i = self.rng.below(self.typical.len() as u64) as usize;
        let strategy = self.rng.below(self.universe.strategies.len() as u64) as u16;
        e.id = OrdId(if self.rng.one_in(60) { 0 } else { 1 + self.parents.len() as u64 });
        (e.strategy, e.instrument) = (StrategyId(strategy), InstrumentId(i as u32));
        e.side = if self.rng.one_in(2) { Side::Buy } else { Side::Sell };
        if !self.parents.is_empty() && (e.kind != EventKind::ParentNew || self.rng.one_in(15)) {
            let reach = self.parents.len().min(6) as u64;
            let old = self.parents[self.parents.len() - 1 - self.rng.below(reach) as usize];
            (e.id, e.strategy, e.instrument, e.side) = (old.id, old.strategy, old.instrument, old.side);
        }
        let spec = self.universe.strategies.get(usize::from(e.strategy.0));
        e.account = spec.map_or(AccountId::UNKNOWN, |spec| spec.account);
        let i = (e.instrument.0 as usize).min(self.typical.len() - 1);
        e.ord_type = if self.rng.one_in(2) { OrdType::Limit } else { OrdType::Market };
        e.px = Px(if e.ord_type == OrdType::Limit { self.price(i) } else { 0 });
        e.qty = Qty(self.typical[i].qty.saturating_mul(self.rng.pick(&[1, 3, 10, 100])));
        let soon = e.sent_at.0 + self.rng.pick(&[0, 50, 5_000]);
        e.ref_id = if self.rng.one_in(3) { soon } else { 0 };
        if self.swarm.unknown {
            match self.rng.below(40) {
                0 => e.strategy = StrategyId(self.universe.strategies.len() as u16),
                1 => e.account = AccountId(7),
                2 => e.instrument = InstrumentId::UNKNOWN,
                3 => e.ord_type = OrdType::Stop,
                4 => e.qty = Qty(0),
                _ => {}
            }
        }
        if e.kind == EventKind::ParentNew {
            self.parents.push(*e);
        }
    }

    pub fn case(seed: u64) -> Case {
        let mut maker = Maker::new(seed);
        let table = maker.table();
        let small = maker.rng.one_in(12);
        let sizing = Sizing {
            working_orders: if small { 6 } else { 4096 },
            remembered_orders: if maker.rng.one_in(6) { 3 } else { 4096 },
            execs: if small && maker.rng.one_in(2) { 40 } else { 4096 },
            pairs: 64,
            recent_orders: 4096,
            parents: 4096,
        };
        let length = maker.rng.pick(&[60, 300, 800, 1_500]);
        let (mut inputs, mut behind) = (Vec::new(), false);
        let (mut mono, slots) = (START, maker.universe.scope_count() as u64);
        for _ in 0..length {
            mono += match maker.rng.below(10) {
                0..3 => 0,
                3..5 => 1,
                5..8 => maker.rng.below(60),
                8 => maker.rng.below(1_000),
                _ if maker.swarm.long_steps => maker.rng.below(200_000),
                _ => 5,
            };
            let now = Now { mono: MonoNanos(mono), unix: UnixNanos(UNIX + mono) };
            if maker.rng.percent(maker.swarm.rearm) && maker.rng.one_in(3) {
                for slot in 0..slots {
                    let scope = maker.universe.scope_at(slot as usize).unwrap();
                    let epoch = inputs.len() as u64 + 1;
                    inputs.push(Input::Command(now, Command::Mode { scope, mode: Mode::Normal, epoch }));
                }
            } else if maker.rng.percent(maker.swarm.rearm) {
                let scope = maker.universe.scope_at(maker.rng.below(slots) as usize).unwrap();
                let mode =
                    if maker.rng.one_in(20) { maker.rng.pick(&[Mode::ReduceOnly, Mode::Halted]) } else { Mode::Normal };
                inputs.push(Input::Command(now, Command::Mode { scope, mode, epoch: inputs.len() as u64 + 1 }));
            }
            if maker.rng.below(400) < maker.swarm.reload {
                let table = maker.table();
                inputs.push(Input::Command(now, Command::SetLimits(table)));
            }
            if maker.rng.one_in(400) {
                inputs.push(Input::Command(now, Command::NewDay));
            }
            // Mostly not behind.
            if maker.rng.one_in(if behind { 20 } else { 600 }) {
                behind = !behind;
                inputs.push(Input::Command(now, Command::Behind(behind)));
            }
            if maker.rng.one_in(40) {
                inputs.push(Input::Tick(now));
            }
            let (event, delta) = maker.event(now);
            inputs.push(Input::Event(now, event, delta));
        }
        Case { universe: maker.universe, table, sizing, inputs }
    }
}

fn universe(rng: &mut Rng, swarm: &Swarm) -> (Universe, Vec<Typical>) {
    let base_scale = rng.pick(&[0, 2, 4, 8]);
    let currencies: Vec<CurrencySpec> = (0..1 + rng.below(3))
        .map(|n| CurrencySpec {
            name: format!("C{n}"),
            initial_rate: (n > 0 && !swarm.markless).then_some(Px(10_000_000_000)),
        })
        .collect();
    let accounts: Vec<AccountSpec> = (0..1 + rng.below(3)).map(|n| AccountSpec { name: format!("A{n}") }).collect();
    let strategies: Vec<StrategySpec> = (0..1 + rng.below(4))
        .map(|n| StrategySpec { name: format!("S{n}"), account: AccountId(rng.below(accounts.len() as u64) as u16) })
        .collect();
    let mut sessions = vec![SessionSpec { name: "ref".into(), kind: SessionKind::Reference, strategies: Vec::new() }];
    for n in 0..1 + rng.below(3) {
        sessions.push(SessionSpec {
            name: format!("G{n}"),
            kind: if rng.one_in(4) { SessionKind::Observe } else { SessionKind::Ask },
            strategies: if rng.one_in(8) {
                vec![StrategyId(rng.below(strategies.len() as u64) as u16)]
            } else {
                Vec::new()
            },
        });
    }
    for n in 0..if swarm.parented > 0 { 1 + rng.below(2) } else { 0 } {
        sessions.push(SessionSpec {
            name: format!("O{n}"),
            kind: SessionKind::Orders,
            strategies: if rng.one_in(8) { vec![StrategyId(0)] } else { Vec::new() },
        });
    }
    let mut instruments = Vec::new();
    let mut typical = Vec::new();
    for n in 0..1 + rng.below(5) {
        loop {
            let spec = InstrumentSpec {
                name: format!("I{n}"),
                currency: CurrencyId(rng.below(currencies.len() as u64) as u16),
                px_scale: rng.below(9) as u8,
                qty_scale: rng.below(9) as u8,
                multiplier: rng.pick(&[(1, 0), (1, 0), (50, 0), (25, 2), (1_000, 0), (7, 1)]),
                negative_px: rng.one_in(5),
                average_daily_volume: None,
                initial_reference: None,
            };
            let px = 10i64.pow(rng.below(9) as u32) * (1 + rng.below(99) as i64);
            let qty = 10i64.pow(rng.below(10) as u32) * (1 + rng.below(9) as i64);
            let foreign = spec.currency.0 != 0;
            let factors = Factors {
                multiplier: spec.multiplier,
                rate: if foreign { (10_000_000_000, 10) } else { (1, 0) },
                px_scale: spec.px_scale,
                qty_scale: spec.qty_scale,
                base_scale,
            };
            let places = spec.multiplier.1 + spec.px_scale + spec.qty_scale + if foreign { Event::FX_SCALE } else { 0 };
            let worth = value(i128::from(px) * i128::from(qty), &factors, Round::Up).unwrap_or(0);
            if (20..1_000_000_000_000).contains(&worth) && places.saturating_sub(base_scale) <= 18 {
                typical.push(Typical { px, qty, value: worth });
                instruments.push(InstrumentSpec {
                    average_daily_volume: (!rng.one_in(4)).then_some(Qty(qty * rng.pick(&[1, 100, 1_000]) + 7)),
                    initial_reference: (!swarm.markless).then_some(Px(px)),
                    ..spec
                });
                break;
            }
        }
    }
    (Universe::new(base_scale, currencies, sessions, accounts, strategies, instruments), typical)
}

/// What the engine did, in the oracle's terms.
pub fn outcome(effects: &Effects) -> Outcome {
    let mut out = Outcome::default();
    for effect in effects.as_slice() {
        match effect {
            Effect::Verdict(v) => {
                assert!(out.verdict.is_none(), "two verdicts");
                out.verdict = Some(v.denial.map(|d| Deny {
                    rule: d.rule,
                    why: d.why,
                    scope: d.scope,
                    observed: d.observed,
                    limit: d.limit,
                }));
            }
            Effect::Applied { seq, .. } => out.applied = Some(*seq),
            Effect::Resend { from, .. } => out.resend = Some(*from),
            Effect::Trip(t) => out.trips.push((t.scope, t.mode, t.cause.rule)),
            Effect::Anomaly(a) => out.anomalies.push(a.kind),
            Effect::Warn(_) | Effect::Instruct(_) | Effect::OrderForgotten { .. } | Effect::ExecForgotten { .. } => {}
        }
    }
    out
}

/// The worst mode per scope: in which order one event's trips of one scope came is not compared.
fn trips(out: &Outcome, named: bool) -> BTreeMap<Scope, (Mode, Option<Rule>)> {
    let mut map: BTreeMap<Scope, (Mode, Option<Rule>)> = BTreeMap::new();
    for (scope, mode, rule) in &out.trips {
        match map.get(scope) {
            Some((was, _)) if was >= mode => {}
            _ => {
                map.insert(*scope, (*mode, named.then_some(*rule)));
            }
        }
    }
    map
}

struct Difference {
    step: usize,
    class: String,
    text: String,
}

/// How often things happened.
struct Coverage {
    events: AtomicU64,
    streams: AtomicU64,
    lost: AtomicU64,
    admitted: AtomicU64,
    denied: [AtomicU64; Rule::COUNT],
    tripped: [AtomicU64; Rule::COUNT],
    why: [AtomicU64; 7],
    modes: [AtomicU64; 3],
    anomalies: [AtomicU64; AnomalyKind::COUNT],
}

impl Coverage {
    fn new() -> Coverage {
        let none = |_| AtomicU64::new(0);
        Coverage {
            events: none(0),
            streams: none(0),
            lost: none(0),
            admitted: none(0),
            denied: std::array::from_fn(none),
            tripped: std::array::from_fn(none),
            why: std::array::from_fn(none),
            modes: std::array::from_fn(none),
            anomalies: std::array::from_fn(none),
        }
    }

    fn count(&self, out: &Outcome) {
        let one = |a: &AtomicU64| {
            a.fetch_add(1, Ordering::Relaxed);
        };
        one(&self.events);
        match out.verdict {
            Some(Some(d)) => {
                one(&self.denied[d.rule as usize]);
                one(&self.why[d.why as usize]);
            }
            Some(None) => one(&self.admitted),
            None => {}
        }
        for (_, mode, rule) in &out.trips {
            one(&self.tripped[*rule as usize]);
            one(&self.modes[*mode as usize]);
        }
        for kind in &out.anomalies {
            one(&self.anomalies[*kind as usize]);
        }
    }

    fn show(&self) -> String {
        let get = |a: &AtomicU64| a.load(Ordering::Relaxed);
        let mut text = format!(
            "{} events in {} streams ({} beyond what is compared), {} admitted\n",
            get(&self.events),
            get(&self.streams),
            get(&self.lost),
            get(&self.admitted)
        );
        for rule in Rule::ALL {
            let n = rule as usize;
            let _ = writeln!(
                text,
                "  {:20} denied {:9}  tripped {:7}",
                rule.name(),
                get(&self.denied[n]),
                get(&self.tripped[n])
            );
        }
        for why in [
            Why::Breach,
            Why::ReferenceMissing,
            Why::ReferenceStale,
            Why::FxMissing,
            Why::FxStale,
            Why::VolumeMissing,
            Why::Unrepresentable,
        ] {
            let _ = writeln!(text, "  why {:16} {}", why.name(), get(&self.why[why as usize]));
        }
        for kind in AnomalyKind::ALL {
            let _ = writeln!(text, "  anomaly {:20} {}", kind.name(), get(&self.anomalies[kind as usize]));
        }
        text
    }
}

/// Runs both over the inputs.
fn run(case: &Case, inputs: &[Input], coverage: Option<&Coverage>) -> Result<(), Difference> {
    let start = Now { mono: MonoNanos(START), unix: UnixNanos(UNIX + START) };
    let mut oracle = Oracle::new(case.universe.clone(), case.table.clone(), case.sizing, start);
    let mut engine = Engine::new(case.universe.clone(), case.table.clone(), case.sizing, start);
    let published = Published::new(&case.universe);
    let mut effects = Effects::new();
    let slots = case.universe.scope_count();
    for (step, input) in inputs.iter().enumerate() {
        effects.clear();
        let (now, expected, shown) = match input {
            Input::Event(now, event, delta) => {
                let mut event = *event;
                if usize::from(event.session.0) < case.universe.sessions.len() {
                    let next = oracle.expected(event.session);
                    event.seq = next.saturating_add_signed(*delta);
                    if event.kind == EventKind::Withdrawn && event.ref_id == 0 {
                        event.seq = 0;
                    }
                    // A heartbeat without a sequence is haltline's own: a session came or went.
                    if event.kind == EventKind::Heartbeat {
                        event.seq = event.seq.max(1);
                    }
                }
                let expected = oracle.step(*now, &event);
                engine.step(*now, &event, &mut effects);
                (*now, expected, format!("{event:?}"))
            }
            Input::Command(now, command) => {
                let expected = oracle.command(*now, command);
                engine.command(*now, command.clone(), &mut effects);
                let shown = match command {
                    Command::SetLimits(_) => "SetLimits".to_owned(),
                    Command::Mode { .. } | Command::NewDay | Command::Behind(_) => format!("{command:?}"),
                };
                (*now, expected, shown)
            }
            Input::Tick(now) => {
                let expected = oracle.tick(*now);
                engine.tick(*now, &mut effects);
                (*now, expected, "Tick".to_owned())
            }
        };
        let got = outcome(&effects);
        if oracle.lost || got.anomalies.contains(&AnomalyKind::Unrepresentable) {
            // A sum left what can be represented: no more to compare, but nothing may panic.
            if let Some(coverage) = coverage {
                coverage.lost.fetch_add(1, Ordering::Relaxed);
            }
            for input in &inputs[step + 1..] {
                effects.clear();
                match input {
                    Input::Event(now, event, _) => engine.step(*now, event, &mut effects),
                    Input::Command(now, command) => engine.command(*now, command.clone(), &mut effects),
                    Input::Tick(now) => {
                        engine.tick(*now, &mut effects);
                    }
                }
            }
            return Ok(());
        }
        if let Some(coverage) = coverage {
            coverage.count(&expected);
        }
        let mut classes = Vec::new();
        let loose = |v: Option<Option<Deny>>| {
            // How full a table is and which field is wrong are the engine's to say.
            let numbers = |d: Deny| !matches!(d.rule, Rule::Capacity | Rule::Malformed);
            v.map(|d| d.map(|d| if numbers(d) { d } else { Deny { observed: 0, limit: 0, ..d } }))
        };
        if loose(expected.verdict) != loose(got.verdict) {
            let name = |v: Option<Option<Deny>>| match v {
                None => "none".to_owned(),
                Some(None) => "admit".to_owned(),
                Some(Some(d)) => format!("{}/{}@{}", d.rule.name(), d.why.name(), d.scope.kind().name()),
            };
            let (e, g) = (name(expected.verdict), name(got.verdict));
            let values = if e == g { " values" } else { "" };
            classes.push(format!("verdict: oracle {e}, engine {g}{values}"));
        }
        // Of several causes of one report's trip it is not said which is named.
        let named = match input {
            Input::Event(_, event, _) => event.kind.is_request(),
            Input::Command(..) | Input::Tick(_) => true,
        };
        let (a, b) = (trips(&expected, named), trips(&got, named));
        if a != b {
            let name = |t: &BTreeMap<Scope, (Mode, Option<Rule>)>, other: &BTreeMap<Scope, (Mode, Option<Rule>)>| {
                t.iter()
                    .filter(|(scope, x)| other.get(scope) != Some(x))
                    .map(|(scope, (mode, rule))| {
                        let rule = rule.map_or("", Rule::name);
                        format!("{rule}@{}={} ", scope.kind().name(), mode.name())
                    })
                    .collect::<String>()
            };
            classes.push(format!("trips: oracle {}, engine {}", name(&a, &b), name(&b, &a)));
        }
        if expected.applied != got.applied || expected.resend != got.resend {
            classes.push("stream effects".to_owned());
        }
        let sorted = |out: &Outcome| {
            let mut kinds: Vec<u8> = out.anomalies.iter().map(|k| *k as u8).collect();
            kinds.sort_unstable();
            kinds
        };
        if sorted(&expected) != sorted(&got) {
            classes.push(format!("anomalies: oracle {:?}, engine {:?}", expected.anomalies, got.anomalies));
        }
        let mut gauges = String::new();
        if classes.is_empty() && (step % 16 == 0 || step + 1 == inputs.len()) {
            for slot in 0..slots {
                engine.show_scope(now, slot, &published);
                let view = published.scope(slot).expect("a slot");
                let shown = oracle.gauges(now, slot);
                let scope = case.universe.scope_at(slot).expect("a slot");
                for gauge in Gauge::ALL {
                    let (o, e) = (shown[gauge as usize], view.gauges[gauge as usize]);
                    // A loss velocity is kept only where it is limited.
                    let kept = gauge != Gauge::LossVelocity || oracle.velocity_kept(slot);
                    if o != e && kept && gauges.is_empty() {
                        classes.push(format!("gauge {gauge:?}@{}", scope.kind().name()));
                        gauges = format!("{scope:?} {gauge:?}: oracle {o}, engine {e}");
                    }
                }
                let used = oracle.rates_used(slot);
                if view.rates[..used.len()] != used[..] && classes.is_empty() {
                    classes.push(format!("rates@{}", scope.kind().name()));
                    gauges = format!("{scope:?} oracle {used:?}, engine {:?}", view.rates);
                }
                if view.mode != oracle.mode(slot) && classes.is_empty() {
                    classes.push(format!("mode@{}", scope.kind().name()));
                }
            }
        }
        if classes.is_empty() && (step % 64 == 0 || step + 1 == inputs.len()) {
            for s in 0..case.universe.strategies.len() {
                for i in 0..case.universe.instruments.len() {
                    let (s, i) = (StrategyId(s as u16), InstrumentId(i as u32));
                    let known = engine.gauges(Scope::Pair(s, i)).unwrap_or([0; Gauge::COUNT]);
                    let shown = oracle.pair_gauges(s, i);
                    if known != shown && classes.is_empty() {
                        classes.push("pair gauges".to_owned());
                        gauges = format!("{s:?}/{i:?}: oracle {shown:?}, engine {known:?}");
                    }
                }
            }
        }
        if let Some(class) = classes.first() {
            let text = format!(
                "step {step}: {shown}\n  differ in: {}\n  oracle: {expected:?}\n  engine: {got:?}\n  {gauges}",
                classes.join("; ")
            );
            return Err(Difference { step, class: class.clone(), text });
        }
    }
    Ok(())
}

/// Leaves out whatever is not needed for a difference of the same class.
fn shrink(case: &Case, found: &Difference) -> Vec<Input> {
    let mut inputs = case.inputs[..=found.step].to_vec();
    let mut budget = 1_500;
    let mut chunk = inputs.len() / 2;
    while chunk > 0 && budget > 0 {
        let mut at = 0;
        while at < inputs.len() && budget > 0 {
            budget -= 1;
            let mut fewer = inputs.clone();
            fewer.drain(at..(at + chunk).min(fewer.len()));
            match run(case, &fewer, None) {
                Err(d) if d.class == found.class => {
                    fewer.truncate(d.step + 1);
                    inputs = fewer;
                }
                _ => at += chunk,
            }
        }
        chunk /= 2;
    }
    inputs
}

fn report(seed: u64, case: &Case, found: &Difference) -> String {
    let inputs = shrink(case, found);
    let mut text = format!("seed {seed}, {}\n", found.text);
    if let Err(d) = run(case, &inputs, None) {
        let _ = writeln!(text, "shrunk to {} inputs; {}", inputs.len(), d.text);
    }
    if found.class.starts_with("trips") {
        for slot in 0..case.universe.scope_count() {
            let scope = case.universe.scope_at(slot).expect("a slot");
            for rule in Rule::ALL.into_iter().filter(|r| found.class.contains(r.name())) {
                let mut shown = |scope: Scope| {
                    let tables = inputs.iter().filter_map(|i| match i {
                        Input::Command(_, Command::SetLimits(t)) => Some(t),
                        _ => None,
                    });
                    let table = tables.fold(&case.table, |_, t| t);
                    let limits = table.scope(&case.universe, scope).expect("a scope");
                    if let Some(g) = Gauge::of(rule)
                        && applies(rule, scope.kind())
                        && limits.of(g) != haltline::limits::UNLIMITED
                    {
                        let action = limits.action[rule as usize];
                        let _ = writeln!(text, "  {} {scope:?}: {} {action:?}", rule.name(), limits.of(g));
                    }
                };
                shown(scope);
                if let Scope::Strategy(s) = scope {
                    for i in 0..case.universe.instruments.len() {
                        shown(Scope::Pair(s, InstrumentId(i as u32)));
                    }
                }
            }
        }
    }
    let _ = writeln!(text, "universe: base scale {}", case.universe.base_scale);
    for s in &case.universe.sessions {
        let _ = writeln!(text, "  {s:?}");
    }
    for s in &case.universe.strategies {
        let _ = writeln!(text, "  {s:?}");
    }
    for s in &case.universe.instruments {
        let _ = writeln!(text, "  {s:?}");
    }
    for (n, input) in inputs.iter().enumerate().skip(inputs.len().saturating_sub(80)) {
        let _ = match input {
            Input::Event(now, e, delta) => writeln!(
                text,
                "  {n}: +{} {} {} {:?} G{} a{} s{} i{} id={} ref={} qty={} px={} flags={} seq{delta:+} sent{:+}",
                now.mono.0 - START,
                e.kind.name(),
                e.side.name(),
                e.ord_type,
                e.session.0,
                e.account.0,
                e.strategy.0,
                e.instrument.0,
                e.id.0,
                e.ref_id,
                e.qty.0,
                e.px.0,
                e.flags,
                i128::from(e.sent_at.0) - i128::from(now.unix.0)
            ),
            Input::Command(now, Command::SetLimits(_)) => writeln!(text, "  {n}: +{} SetLimits", now.mono.0 - START),
            Input::Command(now, c) => writeln!(text, "  {n}: +{} {c:?}", now.mono.0 - START),
            Input::Tick(now) => writeln!(text, "  {n}: +{} Tick", now.mono.0 - START),
        };
    }
    let _ = write!(text, "run it: HALTLINE_SEED={seed} cargo test --test it oracle_test -- --nocapture");
    text
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|v| v.replace('_', "").parse().ok())
}

#[test]
fn engine_and_oracle_agree_on_random_streams() {
    let coverage = Coverage::new();
    if let Some(seed) = number("HALTLINE_SEED") {
        let case = Maker::case(seed);
        if let Err(found) = run(&case, &case.inputs, Some(&coverage)) {
            panic!("{}", report(seed, &case, &found));
        }
        return;
    }
    let budget = number("HALTLINE_ORACLE_EVENTS").unwrap_or(EVENTS);
    let all = std::env::var_os("HALTLINE_ORACLE_ALL").is_some();
    let first = number("HALTLINE_ORACLE_FIRST").unwrap_or(1);
    let next = AtomicU64::new(first);
    let found: Mutex<BTreeMap<String, (u64, u64)>> = Mutex::new(BTreeMap::new());
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(2));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while coverage.events.load(Ordering::Relaxed) < budget {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let case = Maker::case(seed);
                    coverage.streams.fetch_add(1, Ordering::Relaxed);
                    if let Err(d) = run(&case, &case.inputs, Some(&coverage)) {
                        let mut found = found.lock().expect("no panic under the lock");
                        let entry = found.entry(d.class).or_insert((seed, 0));
                        entry.1 += 1;
                    }
                    if !all && !found.lock().expect("no panic under the lock").is_empty() {
                        return;
                    }
                }
            });
        }
    });
    println!("{}", coverage.show());
    let found = found.into_inner().expect("no panic under the lock");
    if !found.is_empty() {
        let mut text = String::new();
        for (class, (seed, times)) in &found {
            let _ = writeln!(text, "{times:6} × {class} (first seed {seed})");
        }
        let (seed, _) = found.values().max_by_key(|(_, times)| *times).expect("there is one");
        let case = Maker::case(*seed);
        if let Err(d) = run(&case, &case.inputs, None) {
            text.push_str(&report(*seed, &case, &d));
        }
        panic!("engine and oracle differ:\n{text}");
    }
    // What never happened was not tested. A short run cannot see everything.
    if budget >= EVENTS {
        let silent: Vec<&str> = Rule::ALL
            .into_iter()
            // A check that was left out would be a fault of the engine's: its own tests leave one out on purpose.
            .filter(|r| *r != Rule::Coverage)
            .filter(|r| {
                let n = *r as usize;
                coverage.denied[n].load(Ordering::Relaxed) + coverage.tripped[n].load(Ordering::Relaxed) == 0
            })
            .map(Rule::name)
            .collect();
        assert!(silent.is_empty(), "rules that never fired: {silent:?}");
    }
}
