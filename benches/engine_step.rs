//! `cargo bench --bench engine_step`: what one event costs the engine.
//!
//! The stream is 40% `new`, 35% `canceled`, 15% `ack`, 10% `fill` over 1,000 strategies × 5,000
//! instruments, at a steady number of working orders, every limit armed and none breached. A figure
//! includes the step alone: not decoding, not the rings, not the clock. Whole-stream figures are processor time
//! of the thread. Floors are random loads in as
//! much memory as the engine has touched, measured in the same run.

mod common;

use std::sync::Arc;
use std::time::Instant;

use common::{Args, CpuTimer, Figure, Random, Report, load_floors, machine};
use haltline::engine::core::{Engine, Sizing};
use haltline::limits::{DuplicateLimit, Gauge, LimitTable, RateKind, RateLimit, RateOf, ScopeLimits};
use haltline::model::rule::applies;
use haltline::model::universe::{AccountSpec, CurrencySpec, InstrumentSpec, SessionSpec, StrategySpec};
use haltline::model::{
    Action, Effects, Event, EventKind, Mode, OrdType, Rule, ScopeKind, SessionKind, Side, Target, Universe,
};
use haltline::units::{
    AccountId, CurrencyId, InstrumentId, MonoNanos, Now, OrdId, Px, Qty, SessionId, StrategyId, UnixNanos,
};

const SESSIONS: u16 = 8;

fn universe(strategies: usize, instruments: usize) -> Arc<Universe> {
    let named = |prefix: &str, i: usize| format!("{prefix}{i}");
    Arc::new(Universe::new(
        4,
        vec![CurrencySpec { name: "USD".into(), initial_rate: None }],
        (0..usize::from(SESSIONS))
            .map(|i| SessionSpec { name: named("gw", i), kind: SessionKind::Ask, strategies: vec![] })
            .collect(),
        (0..10).map(|i| AccountSpec { name: named("a", i) }).collect(),
        (0..strategies).map(|i| StrategySpec { name: named("s", i), account: AccountId((i % 10) as u16) }).collect(),
        (0..instruments)
            .map(|i| InstrumentSpec {
                name: named("i", i),
                currency: CurrencyId(0),
                px_scale: 2,
                qty_scale: 0,
                multiplier: (1, 0),
                negative_px: false,
                average_daily_volume: Some(Qty(1 << 40)),
                initial_reference: Some(Px(10_000)),
            })
            .collect(),
    ))
}

/// Every rule at every scope that it applies to (`armed`: the first so many rules), far from being breached.
fn limits(universe: &Universe, armed: usize) -> LimitTable {
    let mut table = LimitTable::unlimited(universe);
    for kind in ScopeKind::ALL {
        let scope: &mut ScopeLimits = table.edit_all(kind);
        let rules = Rule::ALL.into_iter().filter(|&r| applies(r, kind)).take(armed);
        for rule in rules {
            if let Some(gauge) = Gauge::of(rule) {
                scope.max[gauge as usize] = 1 << 60;
                continue;
            }
            let halt = Action::Halt(Target::Own);
            let gcra = |of| RateLimit {
                of,
                kind: RateKind::Gcra { burst: 1_000_000 },
                count: 100_000_000,
                window_ns: 1_000_000_000,
                action: halt,
            };
            let sliding =
                |of| RateLimit { of, kind: RateKind::Sliding, count: 256, window_ns: 1_000_000, action: halt };
            let rate = |of| if kind == ScopeKind::Strategy { sliding(of) } else { gcra(of) };
            match rule {
                Rule::OrderQty => scope.order_qty = 1 << 40,
                Rule::OrderNotional => scope.order_notional = 1 << 60,
                Rule::OrderParticipation => scope.order_participation = 5_000,
                Rule::Collar => scope.collar = 1_000,
                Rule::DuplicateOrder => scope.duplicate = Some(DuplicateLimit { count: 16, window_ns: 1_000_000 }),
                Rule::OrderRate => scope.rates.push(rate(RateOf::Orders)),
                Rule::MessageRate => scope.rates.push(rate(RateOf::Messages)),
                Rule::CancelRate => scope.rates.push(rate(RateOf::Cancels)),
                Rule::Denials => scope.rates.push(rate(RateOf::Denials)),
                Rule::HeartbeatLoss => scope.heartbeat_ns = 1 << 60,
                _ => {}
            }
        }
    }
    table
}

struct World {
    engine: Engine,
    events: Vec<Event>,
    now: u64,
}

fn now(ns: u64) -> Now {
    Now { mono: MonoNanos(ns), unix: UnixNanos(ns) }
}

/// An engine with `working` orders, and a stream that keeps it there.
fn world(strategies: usize, instruments: usize, working: usize, armed: usize, stream: usize) -> World {
    let universe = universe(strategies, instruments);
    let sizing = Sizing {
        working_orders: working + working / 8 + 4096,
        remembered_orders: (working / 4).clamp(1_000, 1 << 20),
        execs: (working / 4).max(stream / 8),
        pairs: strategies * instruments,
        recent_orders: (working / 4).clamp(4_096, 1 << 20),
        parents: 1 << 12,
    };
    let table = Arc::new(limits(&universe, armed));
    let mut engine = Engine::new(universe, table, sizing, now(1_000_000_000));
    let mut random = Random(7);
    let mut seq = [0u64; SESSIONS as usize];
    let mut next_id = 1u64;
    let mut live: Vec<Event> = Vec::with_capacity(working + stream);
    let mut make = |kind: EventKind, of: Option<&Event>, random: &mut Random| {
        let session = of.map_or_else(|| SessionId(random.below(u64::from(SESSIONS)) as u16), |e| e.session);
        let place = &mut seq[usize::from(session.0)];
        *place += 1;
        let mut event = of.copied().unwrap_or_else(|| {
            let mut e = Event::new(kind, session, 0);
            e.strategy = StrategyId(random.below(strategies as u64) as u16);
            e.account = AccountId(e.strategy.0 % 10);
            e.instrument = InstrumentId(random.below(instruments as u64) as u32);
            e.side = if random.below(2) == 0 { Side::Buy } else { Side::Sell };
            e.ord_type = OrdType::Limit;
            e.qty = Qty(100 + random.below(900) as i64);
            e.px = Px(9_900 + random.below(200) as i64);
            e.id = OrdId(next_id);
            next_id += 1;
            e
        });
        event.kind = kind;
        event.seq = *place;
        event
    };
    let mut effects = Effects::new();
    let mut time = 1_000_000_000;
    for _ in 0..working {
        let event = make(EventKind::New, None, &mut random);
        live.push(event);
        time += 1_000;
        effects.clear();
        engine.step(now(time), &event, &mut effects);
        let verdict = effects.verdict().expect("a session that asks gets a verdict");
        assert!(verdict.denial.is_none(), "{verdict:?}");
    }
    let mut events = Vec::with_capacity(stream);
    while events.len() < stream {
        let dice = random.below(100);
        if dice < 40 || live.is_empty() {
            let event = make(EventKind::New, None, &mut random);
            live.push(event);
            events.push(event);
            continue;
        }
        let at = random.below(live.len() as u64) as usize;
        let order = live[at];
        if dice < 75 {
            events.push(make(EventKind::Canceled, Some(&order), &mut random));
            live.swap_remove(at);
        } else if dice < 90 {
            events.push(make(EventKind::Ack, Some(&order), &mut random));
        } else {
            let mut fill = make(EventKind::Fill, Some(&order), &mut random);
            fill.ref_id = events.len() as u64 + 1;
            if dice < 95 {
                fill.qty = Qty(order.qty.0 / 4);
                // What is left can still be canceled.
                live[at].qty = Qty(order.qty.0 - fill.qty.0);
            } else {
                live.swap_remove(at);
            }
            events.push(fill);
        }
    }
    World { engine, events, now: time }
}

/// ns per event, one after the other.
fn plain(world: &mut World) -> f64 {
    let mut effects = Effects::new();
    let mut time = world.now;
    let begin = CpuTimer::start();
    for event in &world.events {
        time += 1_000;
        effects.clear();
        world.engine.step(now(time), event, &mut effects);
    }
    let spent = begin.elapsed().as_nanos() as f64 / world.events.len() as f64;
    world.now = time;
    spent
}

/// Takes the memory of the tables, as the service does at its start, and the first part of the stream.
fn warm_up(world: &mut World) {
    world.engine.prefault().expect("memory for the tables");
    let rest = world.events.split_off(world.events.len() / 4);
    plain(world);
    world.events = rest;
}

/// ns per event in batches, each event's memory asked for ahead of its turn.
fn batched(world: &mut World) -> f64 {
    let mut effects = Effects::new();
    let mut time = world.now;
    let events = &world.events;
    let begin = CpuTimer::start();
    for batch in events.chunks(256) {
        world.engine.step_batch(
            batch,
            |event| event,
            |engine, event| {
                time += 1_000;
                effects.clear();
                engine.step(now(time), event, &mut effects);
            },
        );
    }
    let spent = begin.elapsed().as_nanos() as f64 / events.len() as f64;
    world.now = time;
    spent
}

/// Every event timed by itself, less the cost of reading the clock.
fn timed(world: &mut World) -> Vec<(EventKind, u64)> {
    let mut clock = u64::MAX;
    for _ in 0..10_000 {
        let a = Instant::now();
        clock = clock.min(a.elapsed().as_nanos() as u64);
    }
    let mut effects = Effects::new();
    let mut time = world.now;
    let mut times = Vec::with_capacity(world.events.len());
    for event in &world.events {
        time += 1_000;
        effects.clear();
        let begin = Instant::now();
        world.engine.step(now(time), event, &mut effects);
        let spent = begin.elapsed().as_nanos() as u64;
        times.push((event.kind, spent.saturating_sub(clock)));
    }
    world.now = time;
    times
}

fn percentile(sorted: &[u64], p: f64) -> f64 {
    if sorted.is_empty() {
        return 0.0;
    }
    sorted[((sorted.len() - 1) as f64 * p / 100.0).round() as usize] as f64
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or("0");
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().unwrap_or(0) * 1024
}

fn main() {
    let args = Args::parse();
    let includes = format!("one engine step, all limits armed; {}", machine());
    let mut report = Report::new("engine_step", args, &includes);
    let stream = if args.quick { 200_000 } else { 2_000_000 };
    let sizes: &[usize] = if args.quick { &[1_000, 10_000, 100_000] } else { &[1_000, 10_000, 1_000_000, 10_000_000] };
    for &working in sizes.iter().filter(|&&n| args.only.is_none_or(|only| only == n)) {
        // Few orders are spread over few pairs, or the pairs alone would leave the cache.
        let (strategies, instruments) = if working <= 1_000 { (10, 20) } else { (1_000, 5_000) };
        let label = format!("{working} working orders, {strategies} x {instruments}");
        let before = resident();
        let mut w = world(strategies, instruments, working, Rule::COUNT, stream);
        let touched = resident().saturating_sub(before).saturating_sub(w.events.len() * 64);
        let (dependent, independent) = load_floors(touched.max(1 << 16), stream.min(1_000_000));
        report.value(format!("dependent load, {label}"), "ns", dependent);
        report.value(format!("independent load, {label}"), "ns", independent);
        warm_up(&mut w);
        let cost = plain(&mut w);
        report.against(format!("step, one after the other, {label}"), "ns/event", cost, ("dependent load", dependent));
        drop(w);
        let mut w = world(strategies, instruments, working, Rule::COUNT, stream);
        warm_up(&mut w);
        let cost = batched(&mut w);
        report.against(format!("step, batched, {label}"), "ns/event", cost, ("dependent load", dependent));
        drop(w);
        let mut w = world(strategies, instruments, working, Rule::COUNT, stream);
        warm_up(&mut w);
        let times = timed(&mut w);
        let mut all: Vec<u64> = times.iter().map(|t| t.1).collect();
        all.sort_unstable();
        report.add(Figure {
            name: format!("step, each timed, {label}"),
            unit: "ns",
            value: percentile(&all, 50.0),
            percentiles: [50.0, 99.0, 99.9, 100.0].map(|p| (p, percentile(&all, p))).to_vec(),
            floor: Some(("dependent load".into(), dependent)),
        });
        for kind in [EventKind::New, EventKind::Canceled, EventKind::Ack, EventKind::Fill] {
            let mut of: Vec<u64> = times.iter().filter(|t| t.0 == kind).map(|t| t.1).collect();
            of.sort_unstable();
            report.add(Figure {
                name: format!("  {}, {label}", kind.name()),
                unit: "ns",
                value: percentile(&of, 50.0),
                percentiles: [50.0, 99.0, 99.9].map(|p| (p, percentile(&of, p))).to_vec(),
                floor: None,
            });
        }
        report.value(format!("memory per working order, {label}"), "bytes", touched as f64 / working as f64);
        assert_eq!(w.engine.mode(haltline::model::Scope::Firm), Some(Mode::Normal));
    }
    if args.only.is_some() {
        return report.finish();
    }
    // Growth with the number of rules, in a working set that does not change.
    let working = if args.quick { 10_000 } else { 100_000 };
    for armed in [0, 2, 5, Rule::COUNT] {
        let mut w = world(1_000, 5_000, working, armed, stream / 2);
        warm_up(&mut w);
        let cost = batched(&mut w);
        report.value(format!("step, batched, {working} working orders, {armed} rules per scope"), "ns/event", cost);
    }
    report.finish();
}
