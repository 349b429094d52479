//! The core's part of the way from halted to flat, without threads: whom it tells to cancel what, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use haltline::engine::Command;
use haltline::engine::cancels::link;
use haltline::engine::core::{Engine, Sizing};
use haltline::limits::{LimitTable, RateKind, RateLimit, RateOf, SessionCancel};
use haltline::model::cancel::{CancelState, Instruct, Instruction};
use haltline::model::rule::{Action, Target};
use haltline::model::save::{In, Out};
use haltline::model::universe::{AccountSpec, CurrencySpec, StrategySpec};
use haltline::model::{
    AnomalyKind, Effect, Effects, Event, EventKind, InstrumentSpec, Mode, OrdType, Scope, SessionKind, SessionSpec,
    Side, Universe,
};
use haltline::units::{
    AccountId, CurrencyId, InstrumentId, MonoNanos, Now, OrdId, Px, Qty, SessionId, StrategyId, UnixNanos,
};
use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;
const SIZING: Sizing =
    Sizing { working_orders: 4_096, remembered_orders: 64, execs: 256, pairs: 8, parents: 8, recent_orders: 16 };

/// The session that does not ask.
const OBSERVES: u16 = 2;

/// Three sessions, two accounts, three strategies (the last two of the second account), two instruments.
fn universe() -> Arc<Universe> {
    let kind = |n: u16| if n == OBSERVES { SessionKind::Observe } else { SessionKind::Ask };
    let session = |n: u16| SessionSpec { name: format!("gw-{n}"), kind: kind(n), strategies: vec![] };
    let strategy = |n: u16| StrategySpec { name: format!("s{n}"), account: AccountId(n.min(1)) };
    let instrument = |n: u16| InstrumentSpec {
        name: format!("i{n}"),
        currency: CurrencyId(0),
        px_scale: 2,
        qty_scale: 0,
        multiplier: (1, 0),
        negative_px: false,
        average_daily_volume: None,
        initial_reference: Some(Px(1000)),
    };
    Arc::new(Universe::new(
        2,
        vec![CurrencySpec { name: "USD".into(), initial_rate: None }],
        (0..3).map(session).collect(),
        (0..2).map(|n| AccountSpec { name: format!("a{n}") }).collect(),
        (0..3).map(strategy).collect(),
        (0..2).map(instrument).collect(),
    ))
}

struct World {
    engine: Engine,
    now: u64,
    seqs: [u64; 3],
    epoch: u64,
    /// What was told, in order.
    told: Vec<Instruction>,
    anomalies: Vec<AnomalyKind>,
    trips: Vec<Scope>,
}

impl World {
    fn new(edit: impl FnOnce(&mut LimitTable, &Universe)) -> World {
        let universe = universe();
        let mut limits = LimitTable::unlimited(&universe);
        edit(&mut limits, &universe);
        let mut world = World {
            engine: Engine::new(universe, Arc::new(limits), SIZING, at(SECOND)),
            now: SECOND,
            seqs: [0; 3],
            epoch: 0,
            told: Vec::new(),
            anomalies: Vec::new(),
            trips: Vec::new(),
        };
        world.engine.begin_run(at(SECOND));
        world
    }

    fn step(&mut self, event: Event) -> Effects {
        self.now += 1;
        let mut out = Effects::new();
        self.engine.step(at(self.now), &event, &mut out);
        self.hear(&out);
        out
    }

    fn hear(&mut self, out: &Effects) {
        for effect in out.as_slice() {
            match effect {
                Effect::Instruct(instruction) => self.told.push(*instruction),
                Effect::Anomaly(anomaly) => self.anomalies.push(anomaly.kind),
                Effect::Trip(trip) => self.trips.push(trip.scope),
                _ => {}
            }
        }
    }

    fn event(&mut self, kind: EventKind, session: u16, id: u64, ref_id: u64) -> Effects {
        self.seqs[usize::from(session)] += 1;
        let mut event = Event::new(kind, SessionId(session), self.seqs[usize::from(session)]);
        (event.id, event.ref_id, event.qty, event.px) = (OrdId(id), ref_id, Qty(10), Px(1000));
        self.step(event)
    }

    fn order(&mut self, session: u16, strategy: u16, instrument: u32, id: u64) {
        self.seqs[usize::from(session)] += 1;
        let mut event = Event::new(EventKind::New, SessionId(session), self.seqs[usize::from(session)]);
        (event.id, event.qty, event.px) = (OrdId(id), Qty(10), Px(1000));
        (event.strategy, event.account) = (StrategyId(strategy), AccountId(strategy.min(1)));
        (event.instrument, event.side, event.ord_type) = (InstrumentId(instrument), Side::Buy, OrdType::Limit);
        let out = self.step(event);
        assert!(out.verdict().is_none_or(|verdict| verdict.denial.is_none()));
    }

    fn link(&mut self, session: u16, how: u64) {
        let mut event = Event::new(EventKind::Heartbeat, SessionId(session), 0);
        event.id = OrdId(how);
        self.step(event);
    }

    fn mode(&mut self, scope: Scope, mode: Mode) {
        self.now += 1;
        self.epoch += 1;
        let mut out = Effects::new();
        self.engine.command(at(self.now), Command::Mode { scope, mode, epoch: self.epoch }, &mut out);
        self.hear(&out);
    }

    /// Takes steps of the round until nothing is due; returns what was told in them.
    fn sweep(&mut self) -> Vec<Instruction> {
        let before = self.told.len();
        for _ in 0..10_000 {
            self.now += 1;
            let mut out = Effects::new();
            if !self.engine.sweep_cancels(at(self.now), &mut out) {
                return self.told[before..].to_vec();
            }
            assert_eq!(out.dropped(), 0);
            self.hear(&out);
        }
        panic!("the round does not end");
    }

    fn pass(&mut self, ns: u64) {
        self.now += ns;
    }

    fn reload(&mut self) {
        let (universe, limits) = (self.engine.universe().clone(), self.engine.limits().clone());
        let mut bytes = Vec::new();
        let mut out = Out::new(&mut bytes);
        self.engine.save(&mut out);
        out.finish().unwrap();
        let hash = self.engine.state_hash();
        self.engine = Engine::load(universe, limits, SIZING, &mut In::new(&bytes)).unwrap();
        assert_eq!(self.engine.state_hash(), hash);
    }

    fn view(&self, scope: Scope) -> haltline::model::cancel::CancelView {
        self.engine.cancel_view(self.engine.universe().slot(scope).unwrap())
    }
}

fn at(ns: u64) -> Now {
    Now { mono: MonoNanos(ns), unix: UnixNanos(ns) }
}

/// The orders of cancels one by one, with their attempts.
fn ids(told: &[Instruction]) -> Vec<(u64, u8)> {
    told.iter()
        .filter_map(|instruction| match instruction.what {
            Instruct::Cancel { id, attempt, .. } if attempt > 0 => Some((id.0, attempt)),
            _ => None,
        })
        .collect()
}

#[test]
fn every_working_order_of_a_halted_scope_is_told_once_and_no_other() {
    let mut world = World::new(|_, _| ());
    world.link(0, link::THERE);
    for id in 1..=100 {
        world.order(0, (id % 3) as u16, (id % 2) as u32, id);
    }
    world.event(EventKind::Expired, 0, 3, 0);
    world.mode(Scope::Strategy(StrategyId(0)), Mode::Halted);
    let told = world.sweep();
    let expected: BTreeSet<u64> = (1..=100).filter(|id| id % 3 == 0 && *id != 3).collect();
    assert_eq!(ids(&told).into_iter().map(|(id, _)| id).collect::<BTreeSet<_>>(), expected);
    assert_eq!(told.len(), expected.len(), "once each");
    assert!(told.iter().all(|i| i.to == SessionId(0) && i.scope == Scope::Strategy(StrategyId(0))));
    let view = world.view(Scope::Strategy(StrategyId(0)));
    assert_eq!((view.at_halt, view.working, view.of(CancelState::Instructed), view.swept), (32, 32, 32, true));
    for (id, _) in ids(&told) {
        world.event(EventKind::Cancel, 0, 1_000 + id, id);
        world.event(EventKind::Canceled, 0, id, 0);
    }
    let view = world.view(Scope::Strategy(StrategyId(0)));
    assert_eq!((view.working, view.ended, view.states[1..].iter().sum::<u64>()), (0, [32, 0, 0], 0));
    assert!(world.anomalies.is_empty(), "{:?}", world.anomalies);
    assert!(world.sweep().is_empty());
}

#[test]
fn what_is_not_answered_is_repeated_then_given_up_and_a_disconnect_is_asked_for_once() {
    let mut world = World::new(|limits, _| {
        limits.cancel.attempts = 2;
        limits.cancel.retry_after_ns = 10 * SECOND;
    });
    world.link(0, link::THERE);
    world.order(0, 0, 0, 1);
    world.order(0, 0, 0, 2);
    world.mode(Scope::Firm, Mode::Halted);
    assert_eq!(ids(&world.sweep()), [(1, 1), (2, 1)]);
    world.pass(SECOND / 2);
    assert!(world.sweep().is_empty(), "it is not time yet");
    // The second is answered for by a request only; the venue never says anything.
    world.event(EventKind::Cancel, 0, 11, 2);
    assert_eq!(world.view(Scope::Firm).of(CancelState::Requested), 1);
    world.pass(SECOND);
    assert_eq!(ids(&world.sweep()), [(1, 2), (2, 2)]);
    world.pass(SECOND + 1);
    let told = world.sweep();
    assert_eq!(told.iter().map(|i| i.what).collect::<Vec<_>>(), [Instruct::Disconnect]);
    let view = world.view(Scope::Firm);
    assert_eq!((view.of(CancelState::Unanswered), view.in_progress(), view.instructions), (2, 0, [4, 0, 1]));
    // Slowly, and without another disconnect; what is unanswered stays so.
    world.pass(11 * SECOND);
    assert_eq!(ids(&world.sweep()), [(1, 3), (2, 3)]);
    assert_eq!(world.view(Scope::Firm).of(CancelState::Unanswered), 2);
    world.event(EventKind::Canceled, 0, 1, 0);
    assert_eq!((world.view(Scope::Firm).working, world.view(Scope::Firm).ended), (1, [1, 0, 0]));
}

#[test]
fn a_refused_cancel_is_told_as_refused_and_tried_again() {
    let mut world = World::new(|limits, _| limits.cancel.retry_after_ns = 5 * SECOND);
    world.link(0, link::THERE);
    world.order(0, 0, 0, 1);
    world.mode(Scope::Firm, Mode::Halted);
    world.sweep();
    world.event(EventKind::Cancel, 0, 11, 1);
    world.event(EventKind::CancelRejected, 0, 11, 1);
    let view = world.view(Scope::Firm);
    assert_eq!((view.of(CancelState::Refused), view.working, view.in_progress()), (1, 1, 0));
    world.pass(2 * SECOND);
    assert!(world.sweep().is_empty());
    world.pass(4 * SECOND);
    assert_eq!(ids(&world.sweep()), [(1, 2)]);
    assert_eq!(world.view(Scope::Firm).of(CancelState::Refused), 1, "refused until it is over");
    // The market was open after all.
    world.event(EventKind::Fill, 0, 1, 77);
    let view = world.view(Scope::Firm);
    assert_eq!((view.working, view.ended), (0, [0, 1, 0]));
    assert_eq!(world.engine.position(StrategyId(0), InstrumentId(0)), 10, "a fill that wins the race is booked");
}

#[test]
fn orders_of_a_session_that_is_gone_are_unknown_until_it_is_back() {
    let mut world = World::new(|_, _| ());
    world.link(0, link::THERE);
    world.order(0, 0, 0, 1);
    world.order(0, 0, 0, 2);
    world.mode(Scope::Firm, Mode::Halted);
    world.sweep();
    world.event(EventKind::Canceled, 0, 1, 0);
    world.link(0, link::GONE);
    assert_eq!(ids(&world.sweep()), []);
    let view = world.view(Scope::Firm);
    assert_eq!((view.of(CancelState::Unknown), view.in_progress()), (1, 0));
    world.pass(60 * SECOND);
    assert_eq!(ids(&world.sweep()), [], "nobody is there");
    world.link(0, link::THERE);
    assert_eq!(ids(&world.sweep()), [(2, 1)]);
}

#[test]
fn a_rearm_ends_the_cancels_of_its_scope_and_a_kill_begins_them_anew() {
    let mut world = World::new(|_, _| ());
    world.link(0, link::THERE);
    for id in 1..=200 {
        world.order(0, (id % 2) as u16, 0, id);
    }
    let scope = Scope::Strategy(StrategyId(1));
    world.mode(scope, Mode::Halted);
    let mut out = Effects::new();
    world.now += 1;
    assert!(world.engine.sweep_cancels(at(world.now), &mut out));
    world.hear(&out);
    let first = ids(&world.told).len();
    assert!((1..100).contains(&first), "{first} of 100 in one step");
    world.mode(scope, Mode::Normal);
    assert_eq!(world.sweep(), [], "nothing is canceled once trading is allowed again");
    assert_eq!(world.view(scope).states[1..].iter().sum::<u64>(), 0, "nothing is marked any more");
    world.pass(10 * SECOND);
    assert_eq!(world.sweep(), []);
    world.mode(scope, Mode::Halted);
    let told = world.sweep();
    assert_eq!(ids(&told).len(), 100, "all of them, also those that were told before");
    assert!(ids(&told).iter().all(|(_, attempt)| *attempt == 1));
    // Pressed once more while they are unanswered: everything anew.
    world.mode(scope, Mode::Halted);
    assert_eq!(ids(&world.sweep()).len(), 100);
}

#[test]
fn a_session_that_takes_it_is_told_once_per_scope_and_what_is_left_one_by_one() {
    let mut world = World::new(|_, _| ());
    world.link(0, link::MASS);
    world.link(1, link::THERE);
    for id in 1..=50 {
        world.order((id % 2) as u16, 0, 0, id);
    }
    world.mode(Scope::Firm, Mode::Halted);
    let told = world.sweep();
    assert_eq!(told.iter().filter(|i| i.what == Instruct::MassCancel).count(), 1);
    assert_eq!(told.iter().filter(|i| i.to == SessionId(0)).count(), 1);
    assert_eq!(ids(&told).len(), 25);
    for id in (2..50).step_by(2) {
        world.event(EventKind::Canceled, 0, id, 0);
    }
    assert!(world.anomalies.is_empty(), "a mass cancel is no surprise: {:?}", world.anomalies);
    for id in (1..50).step_by(2) {
        world.event(EventKind::Canceled, 1, id, 0);
    }
    world.pass(SECOND + 1);
    assert_eq!(ids(&world.sweep()), [(50, 2)], "what the mass cancel missed");
}

#[test]
fn a_replacement_that_wins_the_race_is_told_too() {
    let mut world = World::new(|_, _| ());
    world.link(0, link::THERE);
    world.order(0, 0, 0, 1);
    world.seqs[0] += 1;
    let mut replace = Event::new(EventKind::Replace, SessionId(0), world.seqs[0]);
    (replace.id, replace.ref_id, replace.qty, replace.px) = (OrdId(2), 1, Qty(20), Px(1000));
    (replace.strategy, replace.instrument) = (StrategyId(0), InstrumentId(0));
    assert_eq!(world.step(replace).verdict().unwrap().denial, None);
    world.mode(Scope::Firm, Mode::Halted);
    assert_eq!(ids(&world.sweep()), [(1, 1)]);
    world.event(EventKind::Replaced, 0, 2, 1);
    assert_eq!(ids(&world.sweep()), [(2, 1)]);
    world.event(EventKind::Canceled, 0, 2, 0);
    assert_eq!(world.view(Scope::Firm).working, 0);
}

#[test]
fn the_cancels_that_haltline_asks_for_do_not_count_towards_rates_and_others_do() {
    let limit = |of| RateLimit {
        of,
        kind: RateKind::Sliding,
        count: 3,
        window_ns: 60 * SECOND,
        action: Action::Halt(Target::Firm),
    };
    let mut world = World::new(|limits, universe| {
        let session = limits.edit(universe, Scope::Session(SessionId(0)));
        session.rates = vec![limit(RateOf::Cancels)];
    });
    world.link(0, link::THERE);
    for id in 1..=20 {
        world.order(0, 0, 0, id);
    }
    world.mode(Scope::Strategy(StrategyId(0)), Mode::Halted);
    for (id, _) in ids(&world.sweep()) {
        world.event(EventKind::Cancel, 0, 100 + id, id);
    }
    assert!(world.trips.is_empty(), "haltline has tripped a limit by its own doing");
    // Nobody asked for these.
    for id in 1..=4 {
        world.event(EventKind::Cancel, 0, 200 + id, id);
    }
    assert_eq!(world.trips, [Scope::Firm]);
}

#[test]
fn reduce_only_cancels_nothing_unless_it_is_configured_to() {
    for configured in [false, true] {
        let mut world = World::new(|limits, _| limits.cancel.in_reduce_only = configured);
        world.link(0, link::THERE);
        world.order(0, 0, 0, 1);
        world.mode(Scope::Firm, Mode::ReduceOnly);
        assert_eq!(ids(&world.sweep()).len(), usize::from(configured));
    }
}

#[test]
fn an_observed_order_that_comes_under_a_halt_is_told_too() {
    let mut world = World::new(|_, _| ());
    world.link(OBSERVES, link::THERE);
    world.order(OBSERVES, 0, 0, 1);
    world.mode(Scope::Strategy(StrategyId(0)), Mode::Halted);
    assert_eq!(ids(&world.sweep()), [(1, 1)]);
    world.event(EventKind::Canceled, OBSERVES, 1, 0);
    let flat = world.view(Scope::Strategy(StrategyId(0)));
    assert_eq!((flat.working, flat.swept), (0, true));
    // Its gateway does not obey, or the order had been on its way.
    world.order(OBSERVES, 0, 0, 2);
    world.order(OBSERVES, 1, 0, 3);
    assert_eq!(ids(&world.sweep()), [(2, 1)]);
}

#[test]
fn a_session_gone_for_longer_than_its_grace_is_halted_and_another_that_may_is_told_once() {
    let mut world = World::new(|limits, _| {
        limits.cancel.sessions = vec![SessionCancel { grace_ns: 3 * SECOND, via: Some(SessionId(1)) }];
    });
    world.link(0, link::THERE);
    world.link(1, link::THERE);
    world.order(0, 0, 0, 1);
    world.order(1, 0, 0, 2);
    world.link(0, link::GONE);
    world.sweep();
    world.pass(2 * SECOND);
    assert!(world.sweep().is_empty() && world.trips.is_empty(), "within its grace");
    world.pass(2 * SECOND);
    world.sweep();
    assert_eq!(world.trips, [Scope::Session(SessionId(0))]);
    // As the page would tell it.
    world.mode(Scope::Session(SessionId(0)), Mode::Halted);
    world.sweep();
    world.pass(5 * SECOND);
    world.sweep();
    let via: Vec<_> = world.told.iter().filter(|i| i.to == SessionId(1)).collect();
    assert_eq!(via.len(), 1, "{:?}", world.told);
    assert_eq!(via[0].what, Instruct::Cancel { of: SessionId(0), id: OrdId(1), attempt: 1 });
    let view = world.view(Scope::Session(SessionId(0)));
    assert_eq!((view.of(CancelState::Unknown), view.working), (1, 1), "asked for is not known to be done");
    world.link(0, link::THERE);
    assert_eq!(ids(&world.sweep()), [(1, 1)]);
}

#[test]
fn a_session_that_goes_without_orders_is_not_halted() {
    let mut world =
        World::new(|limits, _| limits.cancel.sessions = vec![SessionCancel { grace_ns: SECOND, via: None }]);
    world.link(0, link::THERE);
    world.order(0, 0, 0, 1);
    world.event(EventKind::Expired, 0, 1, 0);
    world.link(0, link::GONE);
    world.pass(10 * SECOND);
    world.sweep();
    assert!(world.trips.is_empty());
}

#[derive(Clone, Debug)]
enum Op {
    Order {
        session: u16,
        strategy: u16,
        instrument: u32,
    },
    End(usize),
    Request(usize),
    Refuse(usize),
    Fill(usize),
    Mode {
        scope: Scope,
        mode: Mode,
    },
    Link {
        session: u16,
        how: u64,
    },
    Sweep,
    Pass(u64),
    /// Goes on with an engine that is made of the saved state.
    Reload,
}

fn any_op() -> impl Strategy<Value = Op> {
    let scope = prop_oneof![
        Just(Scope::Firm),
        (0..2u16).prop_map(|n| Scope::Account(AccountId(n))),
        (0..3u16).prop_map(|n| Scope::Strategy(StrategyId(n))),
        (0..2u32).prop_map(|n| Scope::Instrument(InstrumentId(n))),
        (0..3u16).prop_map(|n| Scope::Session(SessionId(n))),
    ];
    prop_oneof![
        8 => (0..3u16, 0..3u16, 0..2u32).prop_map(|(session, strategy, instrument)| Op::Order { session, strategy, instrument }),
        2 => (0..64usize).prop_map(Op::End),
        2 => (0..64usize).prop_map(Op::Request),
        1 => (0..64usize).prop_map(Op::Refuse),
        1 => (0..64usize).prop_map(Op::Fill),
        2 => (scope, 0..3u8).prop_map(|(scope, mode)| Op::Mode { scope, mode: Mode::from_u8(mode) }),
        1 => (0..3u16, 0..3u64).prop_map(|(session, how)| Op::Link { session, how }),
        4 => Just(Op::Sweep),
        2 => (0..3 * SECOND).prop_map(Op::Pass),
        1 => Just(Op::Reload),
    ]
}

#[derive(Clone, Copy, Debug)]
struct Known {
    session: u16,
    strategy: u16,
    instrument: u32,
    attempt: u8,
    /// When it was last told.
    told_at: u64,
}

impl Known {
    /// Whether it has not been told since the last of the halts that it is under, or since its session came.
    fn is_fresh(&self, halted: &BTreeMap<usize, (Scope, u64)>, links: &[u64; 3]) -> bool {
        let since = halted.values().filter(|(scope, _)| self.is_in(*scope)).map(|(_, since)| *since).max();
        self.attempt == 0 || self.told_at < since.unwrap_or(u64::MAX).max(links[usize::from(self.session)])
    }

    fn is_halted(&self, halted: &BTreeMap<usize, (Scope, u64)>) -> bool {
        halted.values().any(|(scope, _)| self.is_in(*scope))
    }

    fn is_in(&self, scope: Scope) -> bool {
        match scope {
            Scope::Firm => true,
            Scope::Account(a) => a == AccountId(self.strategy.min(1)),
            Scope::Strategy(s) => s == StrategyId(self.strategy),
            Scope::Instrument(i) => i == InstrumentId(self.instrument),
            Scope::Session(s) => s == SessionId(self.session),
            Scope::Pair(..) => false,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Against a model that knows which orders work and which scopes are halted: what is told is a working order of a halted
    /// scope whose session is there, attempts count up one by one from a halt or a connection on, and after a whole round every
    /// such order has been told: since the last of the halts that are still in force, not of one that was re-armed before
    /// anybody was told.
    #[test]
    fn only_working_orders_of_halted_scopes_are_told_and_each_attempt_once(ops in prop::collection::vec(any_op(), 1..120)) {
        let mut world = World::new(|_, _| ());
        let mut orders: BTreeMap<u64, Known> = BTreeMap::new();
        let mut halted: BTreeMap<usize, (Scope, u64)> = BTreeMap::new();
        let mut links = [0; 3];
        let mut there = [false; 3];
        let mut mass = [false; 3];
        let (mut next, mut execution) = (1, 1);
        for op in ops {
            let nth = |n: usize| orders.iter().nth(n % orders.len().max(1)).map(|(id, known)| (*id, *known));
            match op {
                Op::Order { session, strategy, instrument } => {
                    let known = Known { session, strategy, instrument, attempt: 0, told_at: 0 };
                    if session == OBSERVES || !known.is_halted(&halted) {
                        world.seqs[usize::from(session)] += 1;
                        let mut event = Event::new(EventKind::New, SessionId(session), world.seqs[usize::from(session)]);
                        (event.id, event.qty, event.px) = (OrdId(next), Qty(10), Px(1000));
                        (event.strategy, event.account) = (StrategyId(strategy), AccountId(strategy.min(1)));
                        (event.instrument, event.ord_type) = (InstrumentId(instrument), OrdType::Limit);
                        if world.step(event).verdict().is_none_or(|verdict| verdict.denial.is_none()) {
                            orders.insert(next, known);
                        }
                        next += 1;
                    }
                }
                Op::End(n) => {
                    if let Some((id, known)) = nth(n) {
                        world.event(EventKind::Expired, known.session, id, 0);
                        orders.remove(&id);
                    }
                }
                Op::Request(n) => {
                    if let Some((id, known)) = nth(n) {
                        world.event(EventKind::Cancel, known.session, 1_000_000 + id, id);
                    }
                }
                Op::Refuse(n) => {
                    if let Some((id, known)) = nth(n) {
                        world.event(EventKind::CancelRejected, known.session, 1_000_000 + id, id);
                    }
                }
                Op::Fill(n) => {
                    if let Some((id, known)) = nth(n) {
                        execution += 1;
                        world.event(EventKind::Fill, known.session, id, execution);
                        orders.remove(&id);
                    }
                }
                Op::Mode { scope, mode } => {
                    world.mode(scope, mode);
                    let slot = world.engine.universe().slot(scope).unwrap();
                    if mode == Mode::Halted {
                        halted.insert(slot, (scope, world.now));
                    } else {
                        halted.remove(&slot);
                    }
                }
                Op::Link { session, how } => {
                    world.link(session, how);
                    there[usize::from(session)] = how != link::GONE;
                    mass[usize::from(session)] = how == link::MASS;
                    links[usize::from(session)] = world.now;
                }
                Op::Pass(ns) => world.pass(ns),
                Op::Reload => world.reload(),
                Op::Sweep => {
                    for told in world.sweep() {
                        prop_assert!(halted.values().any(|(scope, _)| *scope == told.scope), "{told:?} is not halted");
                        let by_mass = mass[usize::from(told.to.0)];
                        match told.what {
                            Instruct::Cancel { attempt: 0, of, id } => {
                                prop_assert!(!there[usize::from(of.0)] && orders.contains_key(&id.0));
                            }
                            Instruct::Cancel { of, id, attempt } => {
                                prop_assert!(there[usize::from(of.0)]);
                                let known = orders.get_mut(&id.0);
                                prop_assert!(known.is_some(), "{told:?} does not work");
                                let known = known.unwrap();
                                prop_assert!(known.is_in(told.scope) && of.0 == known.session, "{told:?} {known:?}");
                                let expected = if known.is_fresh(&halted, &links) { 1 } else { known.attempt + 1 };
                                prop_assert_eq!(attempt, expected);
                                (known.attempt, known.told_at) = (attempt, world.now);
                            }
                            Instruct::MassCancel => prop_assert!(by_mass),
                            Instruct::Disconnect => prop_assert!(there[usize::from(told.to.0)]),
                        }
                    }
                    for (id, known) in &mut orders {
                        let (is_there, by_mass) = (there[usize::from(known.session)], mass[usize::from(known.session)]);
                        if !is_there || !known.is_halted(&halted) {
                            known.attempt = 0;
                        } else if known.is_fresh(&halted, &links) {
                            prop_assert!(by_mass, "{id} was never told");
                            // The first time is by the scope.
                            (known.attempt, known.told_at) = (1, world.now);
                        }
                    }
                }
            }
            for slot in 0..world.engine.universe().scope_count() {
                let (view, scope) = (world.engine.cancel_view(slot), world.engine.universe().scope_at(slot).unwrap());
                let working = orders.values().filter(|known| known.is_in(scope)).count() as u64;
                prop_assert_eq!((view.working, view.states.iter().sum::<u64>()), (working, working), "{:?}", scope);
            }
        }
    }
}
