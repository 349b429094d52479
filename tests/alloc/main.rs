//! Nothing that is HOT allocates: an allocator that counts, under a stream in which everything happens.
//!
//! A binary of its own, because it has an allocator of its own. The counters are per thread, so the test harness's
//! threads do not matter.
// An allocator cannot be written without it; everything is passed on to the system's.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use haltline::engine::Command;
use haltline::engine::cancels::link;
use haltline::engine::core::{Engine, Sizing};
use haltline::engine::published::Published;
use haltline::kill::page::HaltPage;
use haltline::limits::{
    DuplicateLimit, FanOutLimit, Gauge, LimitTable, ParentRule, RateKind, RateLimit, RateOf, ScopeLimits, SideRule,
};
use haltline::model::rule::applies;
use haltline::model::universe::{AccountSpec, CurrencySpec, StrategySpec};
use haltline::model::{
    Action, AnomalyKind, Effect, Effects, Event, EventKind, InstrumentSpec, Mode, OrdType, Rule, Scope, ScopeKind,
    SessionKind, SessionSpec, Side, Target, Universe,
};
use haltline::units::{
    AccountId, CurrencyId, InstrumentId, MonoNanos, Now, OrdId, Px, Qty, SessionId, StrategyId, UnixNanos,
};

/// Counts what the present thread asks for, and passes it on.
struct Counting;

thread_local! {
    /// Calls of any kind, and bytes asked for. Without a destructor or a lazy start, which would allocate themselves.
    static CALLS: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<u64> = const { Cell::new(0) };
}

fn count(bytes: usize) {
    CALLS.set(CALLS.get() + 1);
    BYTES.set(BYTES.get() + bytes as u64);
}

// SAFETY: every call goes unchanged to the system's allocator, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's duties are passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's duties are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: the caller's duties are passed on.
        unsafe { System.realloc(place, layout, size) }
    }
    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // Giving back costs as much as taking.
        count(0);
        // SAFETY: the caller's duties are passed on.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Calls of the allocator and bytes asked for during `work`, and what it returned.
fn counted<T>(work: impl FnOnce() -> T) -> ((u64, u64), T) {
    let before = (CALLS.get(), BYTES.get());
    let result = work();
    ((CALLS.get() - before.0, BYTES.get() - before.1), result)
}

const NOTHING: (u64, u64) = (0, 0);

const ASK: [u16; 2] = [0, 1];
const OBSERVE: u16 = 2;
const REFERENCE: u16 = 3;
const ORDERS: u16 = 4;
/// The strategies whose orders are held to parents.
const HELD: [(u16, ParentRule); 2] = [(5, ParentRule::Checked), (6, ParentRule::Required)];
/// The strategy of an account that nothing should be booked to, and that account.
const SUSPENSE: (u16, u16) = (7, 2);
const STRATEGIES: u64 = 8;
const INSTRUMENTS: u64 = 16;

fn account(strategy: u16) -> AccountId {
    AccountId(if strategy == SUSPENSE.0 { SUSPENSE.1 } else { strategy % 2 })
}

fn universe() -> Arc<Universe> {
    let session = |name: &str, kind| SessionSpec { name: name.into(), kind, strategies: vec![] };
    Arc::new(Universe::new(
        4,
        vec![
            CurrencySpec { name: "USD".into(), initial_rate: None },
            CurrencySpec { name: "EUR".into(), initial_rate: Some(Px(11_000_000_000)) },
        ],
        vec![
            session("gw-1", SessionKind::Ask),
            session("gw-2", SessionKind::Ask),
            session("copy", SessionKind::Observe),
            session("px", SessionKind::Reference),
            session("oms", SessionKind::Orders),
        ],
        (0..3).map(|i| AccountSpec { name: format!("a{i}") }).collect(),
        (0..STRATEGIES).map(|i| StrategySpec { name: format!("s{i}"), account: account(i as u16) }).collect(),
        (0..INSTRUMENTS)
            .map(|i| InstrumentSpec {
                name: format!("i{i}"),
                currency: CurrencyId((i % 2) as u16),
                px_scale: 2,
                qty_scale: 0,
                multiplier: (1, 0),
                negative_px: false,
                average_daily_volume: Some(Qty(5_000)),
                initial_reference: Some(Px(10_000)),
            })
            .collect(),
    ))
}

/// Every rule at every scope that it applies to, each with a warning ladder and close enough to be breached by some of
/// the stream, and with every kind of action.
fn limits(universe: &Universe) -> LimitTable {
    let mut table = LimitTable::unlimited(universe);
    for kind in ScopeKind::ALL {
        let limits: &mut ScopeLimits = table.edit_all(kind);
        let wide = match kind {
            ScopeKind::Firm => 100,
            ScopeKind::Account | ScopeKind::Session => 50,
            ScopeKind::Strategy | ScopeKind::Instrument => 6,
            ScopeKind::Pair => 1,
        };
        for rule in Rule::ALL.into_iter().filter(|&rule| applies(rule, kind)) {
            let action = match rule {
                Rule::Drawdown | Rule::HeartbeatLoss => Action::Halt(Target::Own),
                Rule::GrossExposure => Action::ReduceOnly(Target::Strategy),
                Rule::LossVelocity => Action::Halt(Target::Strategy),
                _ => Action::Deny,
            };
            limits.action[rule as usize] = action;
            let rate = |of, count| RateLimit { of, kind: RateKind::Sliding, count, window_ns: 1_000_000, action };
            let smooth = |of, count| RateLimit { kind: RateKind::Gcra { burst: count }, ..rate(of, count) };
            let max = match rule {
                Rule::GrossExposure => wide * 10_000_000_000,
                Rule::NetLong | Rule::NetShort => wide * 1_500_000_000,
                Rule::WorkingOrders => wide * 9,
                Rule::RepeatedOrders => wide,
                Rule::RepeatedExecutions => wide,
                Rule::DailyLoss => wide * 40_000_000,
                Rule::Drawdown => wide * 30_000_000,
                Rule::LossVelocity => wide * 15_000_000,
                Rule::PositionLong | Rule::PositionShort => wide * 800,
                Rule::DayParticipation => wide * 2_000,
                _ => 0,
            };
            if let Some(gauge) = Gauge::of(rule) {
                limits.max[gauge as usize] = max;
                continue;
            }
            match rule {
                Rule::OrderQty => limits.order_qty = 950,
                Rule::OrderNotional => limits.order_notional = 290_000_000,
                Rule::OrderParticipation => limits.order_participation = 560,
                Rule::Collar => limits.collar = 500,
                Rule::DuplicateOrder => limits.duplicate = Some(DuplicateLimit { count: 1, window_ns: 500_000 }),
                Rule::OrderRate => {
                    let count = wide as u32 / 2;
                    limits.rates.extend([rate(RateOf::Orders, count), smooth(RateOf::Orders, count)]);
                }
                Rule::MessageRate => limits.rates.push(smooth(RateOf::Messages, wide as u32 / 2)),
                Rule::CancelRate => limits.rates.push(rate(RateOf::Cancels, wide as u32)),
                Rule::Denials => limits
                    .rates
                    .push(RateLimit { action: Action::Halt(Target::Own), ..rate(RateOf::Denials, wide as u32 * 3) }),
                Rule::HeartbeatLoss => limits.heartbeat_ns = 400_000,
                Rule::ClockSkew => limits.clock_skew_ns = 1_000_000_000,
                Rule::Children => limits.children = 2 + wide.min(4),
                Rule::FanOut if matches!(kind, ScopeKind::Firm | ScopeKind::Account) => {
                    limits.fan_out = Some(FanOutLimit { count: wide as u32, window_ns: 1_000_000 });
                }
                Rule::OrphanFills => limits
                    .rates
                    .push(RateLimit { action: Action::Halt(Target::Own), ..rate(RateOf::Orphans, wide as u32 / 2) }),
                _ => {}
            }
        }
    }
    table.edit(universe, Scope::Strategy(StrategyId(3))).sides = SideRule::LongOnly;
    for (strategy, rule) in HELD {
        table.hold_to_parents(StrategyId(strategy), rule);
        let fan_out = Some(FanOutLimit { count: 1, window_ns: 1_000_000 });
        table.edit(universe, Scope::Strategy(StrategyId(strategy))).fan_out = fan_out;
    }
    table.suspend(AccountId(SUSPENSE.1), true);
    table.edit(universe, Scope::Account(AccountId(SUSPENSE.1))).suspense = 20_000_000;
    table.restrict(InstrumentId(15), true);
    table.permit(StrategyId(4), Some(vec![InstrumentId(0), InstrumentId(1)]));
    table.set_reference_age(InstrumentId(2), 5_000_000);
    table.set_fx_age(CurrencyId(1), 20_000_000);
    table
}

/// A small generator of numbers (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((u128::from(z ^ (z >> 31)) * u128::from(n)) >> 64) as u64
    }
    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

fn now(ns: u64) -> Now {
    Now { mono: MonoNanos(ns), unix: UnixNanos(1_800_000_000_000_000_000 + ns) }
}

const EVENTS: u64 = 100_000;
const STEP_NS: u64 = 5_000;
const BEGIN_NS: u64 = 1_000_000_000;

/// Events of every kind, in order and out of it, about orders that exist and some that do not.
struct Stream {
    random: Random,
    next_seq: [u64; 5],
    next_id: u64,
    live: Vec<Event>,
    fills: Vec<Event>,
    parents: Vec<Event>,
}

/// Beyond so many live orders the oldest ends.
const LIVE: usize = 300;

impl Stream {
    fn new() -> Stream {
        Stream {
            random: Random(11),
            next_seq: [1; 5],
            next_id: 100,
            live: Vec::new(),
            fills: Vec::new(),
            parents: Vec::new(),
        }
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        // Every other id is a text's number, which the engine gives back when it forgets it.
        self.next_id | if self.next_id.is_multiple_of(2) { OrdId::TEXT } else { 0 }
    }

    fn any_live(&mut self) -> Option<usize> {
        let count = self.live.len() as u64;
        (count > 0).then(|| self.random.below(count) as usize)
    }

    fn next(&mut self, time: Now) -> Event {
        let mut event = loop {
            if let Some(event) = self.make(time) {
                break event;
            }
        };
        event.sent_at = UnixNanos(time.unix.0 - if self.random.one_in(100) { 2_000_000_000 } else { 0 });
        let expected = &mut self.next_seq[usize::from(event.session.0)];
        event.seq = match self.random.below(300) {
            0 => *expected + 3,
            1 => expected.saturating_sub(1),
            _ => *expected,
        };
        *expected += u64::from(event.seq == *expected && event.kind != EventKind::Withdrawn);
        event
    }

    fn make(&mut self, time: Now) -> Option<Event> {
        if self.live.len() > LIVE {
            return Some(Event { kind: EventKind::Canceled, ..self.live.remove(0) });
        }
        let place = self.any_live();
        let of = |live: &[Event], kind| place.map(|at| Event { kind, ..live[at] });
        match self.random.below(100) {
            0..38 => Some(self.new_order()),
            38..48 => of(&self.live, EventKind::Ack),
            dice @ 48..60 => {
                let kind = match dice {
                    48..52 => EventKind::Replace,
                    52..55 => EventKind::Replaced,
                    55..59 => EventKind::Cancel,
                    _ => EventKind::CancelRejected,
                };
                let event = of(&self.live, kind)?;
                Some(Event { id: OrdId(self.id()), ref_id: event.id.0, qty: self.qty(), ..event })
            }
            dice @ 60..66 => {
                let kind = [EventKind::Canceled, EventKind::Expired, EventKind::Rejected][dice as usize % 3];
                let event = of(&self.live, kind)?;
                // One in four is reported twice.
                if !self.random.one_in(4) {
                    self.live.swap_remove(place?);
                }
                Some(event)
            }
            66..82 => {
                let event = of(&self.live, EventKind::Fill)?;
                let most = event.qty.0.max(1) as u64 + 20;
                let fill =
                    Event { ref_id: self.id(), qty: Qty(1 + self.random.below(most) as i64), px: self.px(), ..event };
                self.fills.push(fill);
                Some(fill)
            }
            dice @ 82..87 => {
                let recent = self.fills.len().min(500) as u64;
                let at = self.fills.len().checked_sub(1 + self.random.below(recent.max(1)) as usize)?;
                let fill = self.fills[at];
                let kind = match dice {
                    82 => return Some(fill),
                    83 | 84 => EventKind::Bust,
                    _ => EventKind::Correct,
                };
                Some(Event { kind, id: OrdId(fill.ref_id), ref_id: self.id(), px: self.px(), ..fill })
            }
            87..92 => {
                let session = if self.random.one_in(20) { OBSERVE } else { REFERENCE };
                let mut event = Event::new(EventKind::Mark, SessionId(session), 0);
                event.instrument = InstrumentId(self.random.below(INSTRUMENTS) as u32);
                event.px = self.px();
                Some(event)
            }
            92 => {
                let mut event = Event::new(EventKind::Fx, SessionId(REFERENCE), 0);
                event.instrument = InstrumentId(1);
                event.px = Px(10_500_000_000 + self.random.below(1_000_000_000) as i64);
                Some(event)
            }
            93 => of(&self.live, EventKind::Withdrawn),
            94 => {
                // Nothing that it could be booked to, or an order that nobody knows.
                let mut event = Event::new(EventKind::Fill, SessionId(OBSERVE), 0);
                event.strategy = StrategyId(self.random.below(STRATEGIES + 1) as u16);
                event.account = account(event.strategy.0);
                (event.id, event.ref_id) = (OrdId(self.id()), self.id());
                (event.qty, event.px) = (Qty(10), self.px());
                Some(event)
            }
            95..98 => Some(self.parent(time)),
            _ => Some(Event::new(EventKind::Heartbeat, SessionId(self.random.below(4) as u16), 0)),
        }
    }

    fn qty(&mut self) -> Qty {
        Qty(if self.random.one_in(20) { 1_000 } else { 1 + self.random.below(300) as i64 })
    }

    fn px(&mut self) -> Px {
        Px(9_700 + self.random.below(600) as i64)
    }

    /// A parent that is new, changed or over; sometimes one that there is already, or that is nobody's.
    fn parent(&mut self, time: Now) -> Event {
        let old = match self.parents.len() as u64 {
            // Sometimes there are more than the table holds.
            0..150 if self.random.below(5) < 2 => None,
            0 => None,
            open => Some(self.random.below(open) as usize),
        };
        let Some(old) = old else {
            let mut event = Event::new(EventKind::ParentNew, SessionId(ORDERS), 0);
            event.id = OrdId(if self.random.one_in(30) { 0 } else { self.id() });
            event.strategy = StrategyId(HELD[self.random.below(2) as usize].0);
            event.account = account(event.strategy.0);
            event.instrument = InstrumentId(self.random.below(INSTRUMENTS) as u32);
            event.side = if self.random.one_in(2) { Side::Buy } else { Side::Sell };
            (event.ord_type, event.px) =
                if self.random.one_in(2) { (OrdType::Limit, self.px()) } else { (OrdType::Market, Px(0)) };
            event.qty = Qty(50 + self.random.below(1_000) as i64);
            // The deadline.
            event.ref_id = if self.random.one_in(3) { time.unix.0 + self.random.below(20_000_000) } else { 0 };
            self.parents.push(event);
            return event;
        };
        if self.random.one_in(2) {
            return Event { kind: EventKind::ParentDone, ..self.parents.swap_remove(old) };
        }
        let kind = if self.random.one_in(10) { EventKind::ParentNew } else { EventKind::ParentReplace };
        Event { kind, qty: Qty(50 + self.random.below(1_000) as i64), ..self.parents[old] }
    }

    fn new_order(&mut self) -> Event {
        // The same again, now and then.
        if let Some(last) = self.live.last().copied().filter(|_| self.random.one_in(10)) {
            return Event { kind: EventKind::New, id: OrdId(self.id()), flags: 0, ..last };
        }
        let session = if self.random.one_in(12) { OBSERVE } else { ASK[self.random.below(2) as usize] };
        let mut event = Event::new(EventKind::New, SessionId(session), 0);
        let strategies = STRATEGIES + u64::from(self.random.one_in(50));
        event.strategy = StrategyId(self.random.below(strategies) as u16);
        event.account = account(event.strategy.0);
        event.instrument = InstrumentId(self.random.below(INSTRUMENTS) as u32);
        event.side = if self.random.one_in(2) { Side::Buy } else { Side::Sell };
        event.ord_type =
            [OrdType::Limit, OrdType::Limit, OrdType::Stop, OrdType::Market][self.random.below(4) as usize];
        event.qty = self.qty();
        if HELD.iter().any(|(strategy, _)| event.strategy.0 == *strategy) && !self.random.one_in(10) {
            let reach = self.parents.len().min(6) as u64;
            if reach > 0 {
                // One of the latest.
                let parent = self.parents[self.parents.len() - 1 - self.random.below(reach) as usize];
                event.ref_id = parent.id.0;
                (event.strategy, event.account) = (parent.strategy, parent.account);
                (event.instrument, event.side) = (parent.instrument, parent.side);
                event.qty = Qty(1 + self.random.below(100) as i64);
            }
        }
        event.px = match event.ord_type {
            OrdType::Market => Px(0),
            _ if self.random.one_in(20) => Px(12_000),
            _ => self.px(),
        };
        event.id = OrdId(if self.random.one_in(50) { 7 } else { self.id() });
        event.flags = if self.random.one_in(50) { Event::MALFORMED } else { 0 };
        event
    }

    /// An order that was let through, or was out already, is live.
    fn hear(&mut self, event: &Event, effects: &Effects) {
        let denied = effects.verdict().is_some_and(|verdict| verdict.denial.is_some());
        if event.kind == EventKind::New && !denied {
            self.live.push(*event);
        }
    }
}

/// What happened, in arrays: it is counted while nothing may allocate.
struct Seen {
    kinds: [u64; EventKind::ALL.len()],
    admitted: u64,
    denied: [u64; Rule::COUNT],
    trips: [u64; Rule::COUNT],
    warnings: [u64; Rule::COUNT],
    anomalies: [u64; AnomalyKind::COUNT],
    resends: u64,
    forgotten: [u64; 2],
    instructed: u64,
}

impl Seen {
    fn note(&mut self, effects: &Effects) {
        for effect in effects.as_slice() {
            match effect {
                Effect::Verdict(verdict) => match verdict.denial {
                    None => self.admitted += 1,
                    Some(denial) => self.denied[denial.rule as usize] += 1,
                },
                Effect::Applied { .. } => {}
                Effect::Resend { .. } => self.resends += 1,
                Effect::Trip(trip) => self.trips[trip.cause.rule as usize] += 1,
                Effect::Warn(warn) => self.warnings[warn.at.rule as usize] += 1,
                Effect::Anomaly(anomaly) => self.anomalies[anomaly.kind as usize] += 1,
                Effect::Instruct(_) => self.instructed += 1,
                Effect::OrderForgotten { .. } => self.forgotten[0] += 1,
                Effect::ExecForgotten { .. } => self.forgotten[1] += 1,
            }
        }
    }
}

#[test]
fn no_event_and_no_tick_allocates() {
    let universe = universe();
    let table = Arc::new(limits(&universe));
    let sizing = Sizing {
        working_orders: 400,
        remembered_orders: 256,
        execs: 2_048,
        pairs: 120,
        recent_orders: 256,
        parents: 64,
    };
    let mut engine = Engine::new(universe.clone(), table, sizing, now(BEGIN_NS));
    let published = Published::new(&universe);
    let mut stream = Stream::new();
    let mut pauses = 0;
    let mut effects = Effects::new();
    let mut seen = Seen {
        kinds: [0; EventKind::ALL.len()],
        admitted: 0,
        denied: [0; Rule::COUNT],
        trips: [0; Rule::COUNT],
        warnings: [0; Rule::COUNT],
        anomalies: [0; AnomalyKind::COUNT],
        resends: 0,
        forgotten: [0; 2],
        instructed: 0,
    };
    // There is no warm-up: the first event is as free as the last.
    for n in 0..EVENTS {
        // Now and then everybody is silent for too long.
        pauses += u64::from(n % 2_000 == 1_999) * 500_000;
        let time = now(BEGIN_NS + n * STEP_NS + pauses);
        let event = stream.next(time);
        effects.clear();
        let (cost, ()) = counted(|| engine.step(time, &event, &mut effects));
        assert_eq!(cost, NOTHING, "event {n} allocated (calls, bytes): {event:?}");
        seen.kinds[event.kind as usize - 1] += 1;
        seen.note(&effects);
        stream.hear(&event, &effects);
        if n % 20 == 0 {
            effects.clear();
            let (cost, _) = counted(|| engine.tick(time, &mut effects));
            assert_eq!(cost, NOTHING, "the tick after event {n} allocated (calls, bytes)");
            seen.note(&effects);
        }
        if n % 500 == 499 {
            // A halt with every session there, and the cancels that it brings, until somebody re-arms below.
            let event = Event {
                id: OrdId(link::THERE),
                ..Event::new(EventKind::Heartbeat, SessionId((n / 500 % 2) as u16), 0)
            };
            let halt = Command::Mode { scope: Scope::Firm, mode: Mode::Halted, epoch: n };
            effects.clear();
            let (cost, ()) = counted(|| engine.step(time, &event, &mut effects));
            assert_eq!(cost, NOTHING, "a session that comes after event {n} allocated (calls, bytes)");
            let (cost, ()) = counted(|| engine.command(time, halt, &mut effects));
            assert_eq!(cost, NOTHING, "the halt after event {n} allocated (calls, bytes)");
            for _ in 0..20 {
                effects.clear();
                let (cost, _) = counted(|| engine.sweep_cancels(time, &mut effects));
                assert_eq!(cost, NOTHING, "the cancels after event {n} allocated (calls, bytes)");
                seen.note(&effects);
            }
        }
        if n % 25 == 0 {
            // Somebody re-arms everything, so that there is flow again; and the engine shows itself.
            for slot in 0..universe.scope_count() {
                let scope = universe.scope_at(slot).unwrap();
                effects.clear();
                let command = Command::Mode { scope, mode: Mode::Normal, epoch: n };
                let (cost, ()) = counted(|| engine.command(time, command, &mut effects));
                assert_eq!(cost, NOTHING, "re-arming {scope:?} after event {n} allocated (calls, bytes)");
                seen.note(&effects);
                let (cost, ()) = counted(|| engine.show_scope(time, slot, &published));
                assert_eq!(cost, NOTHING, "showing {scope:?} after event {n} allocated (calls, bytes)");
            }
            let (cost, ()) = counted(|| engine.show_totals(&published));
            assert_eq!(cost, NOTHING, "showing the totals after event {n} allocated (calls, bytes)");
        }
        if n % 10_000 == 9_999 && n < 80_000 {
            effects.clear();
            let (cost, ()) = counted(|| engine.command(time, Command::NewDay, &mut effects));
            assert_eq!(cost, NOTHING, "the new day after event {n} allocated (calls, bytes)");
            seen.note(&effects);
        }
    }

    // A stream in which little happens would prove little.
    fn never(all: impl IntoIterator<Item = &'static str>, counts: &[u64]) -> Vec<&'static str> {
        all.into_iter().zip(counts).filter(|(_, count)| **count == 0).map(|(name, _)| name).collect()
    }
    let by_rule = |counts: &[u64]| never(Rule::ALL.map(Rule::name), counts);
    assert_eq!(never(EventKind::ALL.map(EventKind::name), &seen.kinds), [""; 0]);
    // A cancel rate and orphans never deny, the escalation denies by the mode that it latched, there is no journal here, and
    // no check is left out.
    assert_eq!(by_rule(&seen.denied), ["cancel_rate", "denials", "journal", "orphan_fills", "coverage"]);
    let anomalies = never(AnomalyKind::ALL.map(AnomalyKind::name), &seen.anomalies);
    assert_eq!(anomalies, ["unrepresentable", "effects_dropped", "damaged_lane", "coverage_gap"]);
    assert!(seen.trips[Rule::OrphanFills as usize] > 0, "{:?}", seen.trips);
    assert!(seen.trips.iter().filter(|n| **n > 0).count() > 20, "{:?}", seen.trips);
    assert!(seen.warnings.iter().filter(|n| **n > 0).count() > 12, "{:?}", seen.warnings);
    assert!(seen.admitted > 1_500 && seen.resends > 100, "{} admitted, {} resends", seen.admitted, seen.resends);
    assert!(seen.instructed > 100, "{} instructed", seen.instructed);
    assert!(seen.forgotten.iter().all(|n| *n > 100), "{:?}", seen.forgotten);
}

#[test]
fn raising_a_mode_does_not_allocate() {
    let page = HaltPage::new(1_000, 1);
    for round in 0..100 {
        for slot in 0..page.len() {
            let mode = if round % 2 == 0 { Mode::ReduceOnly } else { Mode::Halted };
            let (cost, word) = counted(|| page.raise(slot, mode));
            assert_eq!(cost, NOTHING, "(calls, bytes)");
            assert!(word.mode >= mode);
            let (cost, lowered) =
                counted(|| if round % 10 == 9 { page.lower(slot, word.epoch) } else { Ok(page.get(slot)) });
            assert_eq!(cost, NOTHING, "(calls, bytes)");
            assert!(lowered.is_ok());
        }
    }
}

#[test]
fn the_counter_counts() {
    let (cost, kept) = counted(|| vec![0u8; 100]);
    assert_eq!(cost, (1, 100));
    let (cost, ()) = counted(|| drop(kept));
    assert_eq!(cost, (1, 0));
    let (cost, _grown) = counted(|| {
        let mut list = Vec::with_capacity(1);
        list.extend([1u64, 2]);
        list
    });
    assert!(cost.0 == 2 && cost.1 >= 24, "{cost:?}");
}
