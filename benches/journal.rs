//! `cargo bench --bench journal`: what the journal costs, and how fast it is read again.
//!
//! The engine's agent takes a stream of 40% `new`, 35% `canceled`, 15% `ack`, 10% `fill` from a port, alternately
//! without a journal and with one on the disk of the temporary directory, written by its own thread. A figure includes
//! the port, the agent and the step, not decoding. Recovery reads the segments that the last run has written and
//! replays them; stepping is the same events from memory through another engine. Both begin with making that engine, whose
//! tables are as large as the stream (told apart: a start has tables of its configured size, whatever the journal holds).

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Args, CpuTimer, Random, Report, machine};
use haltline::duty::{Clock, SystemClock};
use haltline::engine::agent::{AgentParts, Begin, EngineAgent, Inbound, Wake, port};
use haltline::engine::core::{Engine, Sizing};
use haltline::engine::durability::Durability;
use haltline::engine::published::Published;
use haltline::engine::record::{Progress, Recorder};
use haltline::journal::disk::SystemDisk;
use haltline::journal::format::Tip;
use haltline::journal::replay::{Blind, Made, Replayer, replay_files};
use haltline::journal::run::RunStart;
use haltline::journal::writer::{Writer, WriterOptions, WriterParts};
use haltline::kill::page::HaltPage;
use haltline::limits::{Gauge, LimitTable};
use haltline::model::save::{In, Out};
use haltline::model::universe::{AccountSpec, CurrencySpec, InstrumentSpec, SessionSpec, StrategySpec};
use haltline::model::{Effects, Event, EventKind, ScopeKind, SessionKind, Side, Universe};
use haltline::ring::bell::Bell;
use haltline::ring::cells;
use haltline::units::{AccountId, CurrencyId, InstrumentId, Now, OrdId, Px, Qty, SessionId, StrategyId};

const STRATEGIES: u64 = 100;
const INSTRUMENTS: u64 = 1_000;
const WORKING: usize = 50_000;

struct NoWake;
impl Wake for NoWake {
    fn wake(&self) {}
}

fn universe() -> Arc<Universe> {
    let spec = |i: u64| InstrumentSpec {
        name: format!("i{i}"),
        currency: CurrencyId(0),
        px_scale: 2,
        qty_scale: 0,
        multiplier: (1, 0),
        negative_px: false,
        average_daily_volume: Some(Qty(1 << 40)),
        initial_reference: Some(Px(10_000)),
    };
    Arc::new(Universe::new(
        4,
        vec![CurrencySpec { name: "USD".into(), initial_rate: None }],
        vec![SessionSpec { name: "gw".into(), kind: SessionKind::Ask, strategies: vec![] }],
        vec![AccountSpec { name: "a".into() }],
        (0..STRATEGIES).map(|i| StrategySpec { name: format!("s{i}"), account: AccountId(0) }).collect(),
        (0..INSTRUMENTS).map(spec).collect(),
    ))
}

/// Gauges and sizes armed everywhere, far from being breached.
fn limits(universe: &Universe) -> LimitTable {
    let mut table = LimitTable::unlimited(universe);
    for kind in ScopeKind::ALL {
        let scope = table.edit_all(kind);
        for gauge in [Gauge::Gross, Gauge::NetLong, Gauge::NetShort, Gauge::Working, Gauge::Loss] {
            scope.max[gauge as usize] = 1 << 60;
        }
        scope.order_qty = 1 << 40;
        scope.order_notional = 1 << 60;
    }
    table
}

/// A stream that keeps about [`WORKING`] orders working.
fn stream(count: usize) -> Vec<Event> {
    let mut random = Random(7);
    let mut live: Vec<Event> = Vec::with_capacity(WORKING * 2);
    let (mut id, mut exec) = (0, 0);
    (1..=count as u64)
        .map(|seq| {
            let pick = random.below(100);
            if live.len() < WORKING || pick < 40 {
                id += 1;
                let mut event = Event::new(EventKind::New, SessionId(0), seq);
                event.strategy = StrategyId(random.below(STRATEGIES) as u16);
                event.instrument = InstrumentId(random.below(INSTRUMENTS) as u32);
                event.side = if random.below(2) == 0 { Side::Buy } else { Side::Sell };
                event.qty = Qty(100 + random.below(900) as i64);
                event.px = Px(9_900 + random.below(200) as i64);
                event.id = OrdId(id);
                live.push(event);
                return event;
            }
            let at = random.below(live.len() as u64) as usize;
            let mut event = live[at];
            event.seq = seq;
            event.kind = match pick {
                40..75 => EventKind::Canceled,
                75..90 => EventKind::Ack,
                _ => EventKind::Fill,
            };
            match event.kind {
                EventKind::Canceled => {
                    live.swap_remove(at);
                }
                EventKind::Fill => {
                    exec += 1;
                    event.ref_id = exec;
                    event.qty = Qty(1);
                }
                _ => {}
            }
            event
        })
        .collect()
}

struct World {
    universe: Arc<Universe>,
    limits: Arc<LimitTable>,
    sizing: Sizing,
    clock: Arc<SystemClock>,
    events: Vec<Event>,
}

impl World {
    fn engine(&self, now: Now) -> Engine {
        Engine::new(self.universe.clone(), self.limits.clone(), self.sizing, now)
    }

    /// Runs the stream through an agent; with a directory it is journalled there. Returns ns per event by the wall and
    /// by the thread's processor time, and bytes written.
    fn run(&self, dir: Option<&std::path::Path>) -> (f64, f64, u64) {
        let now = self.clock.now();
        let bell = Bell::new();
        let (mut edge, end) = port(1 << 14, bell, Box::new(NoWake));
        let (_commands, take_commands) = crossbeam_channel::bounded(1);
        let (notices, _notices) = crossbeam_channel::bounded(1 << 10);
        let durability = Arc::new(Durability::default());
        let stop = Arc::new(AtomicBool::new(false));
        let (mut recorder, mut begin, mut writer) = (None, None, None);
        if let Some(dir) = dir {
            let ring = std::path::Path::new("/dev/shm").join(format!("haltline-bench-{}.ring", std::process::id()));
            let (write, read) = cells::create(&ring, 1 << 20, [0; 16], [0; 16], 0).expect("a ring");
            // It lives as long as it is mapped.
            std::fs::remove_file(&ring).expect("the ring's name");
            recorder = Some(Recorder::new(write, durability.clone(), Progress::default(), self.universe.scope_count()));
            let start = RunStart { haltline: "bench".into(), boot: String::new(), host_mono: 0, config: "0".into() };
            begin = Some(Begin { now, start: start.encode(), limits: None });
            let (_audit, take_audit) = crossbeam_channel::bounded(1);
            let parts = WriterParts {
                dir: dir.to_owned(),
                disk: Box::new(SystemDisk),
                ring: read,
                audit: take_audit,
                durability: durability.clone(),
                clock: self.clock.clone(),
                key: ed25519_dalek::SigningKey::from_bytes(&[7; 32]),
                journal: [0; 16],
                tip: Tip::BEGIN,
                synced: Box::new(|| ()),
                heads: None,
                options: WriterOptions::default(),
            };
            let stop = stop.clone();
            writer = Some(std::thread::spawn(move || Writer::new(parts).run(&stop)));
        }
        let mut agent = EngineAgent::new(AgentParts {
            queries: crossbeam_channel::never(),
            engine: self.engine(now),
            universe: self.universe.clone(),
            page: Arc::new(HaltPage::new(self.universe.scope_count(), 1)),
            published: Arc::new(Published::new(&self.universe)),
            ports: vec![end],
            lane_changes: crossbeam_channel::never(),
            lease_lag_ns: 0,
            commands: take_commands,
            recorder,
            durable_before_verdict: false,
            grace_ns: u64::MAX,
            begin,
            notices,
            page_raised: Box::new(NoWake),
            clock: self.clock.clone(),
        });
        agent.begin();
        let (wall, cpu) = (Instant::now(), CpuTimer::start());
        let mut sent = 0;
        while sent < self.events.len() {
            let received = self.clock.now().mono;
            for event in &self.events[sent..(sent + 256).min(self.events.len())] {
                if edge.events.push(Inbound { event: *event, received }).is_err() {
                    break;
                }
                sent += 1;
            }
            agent.do_work();
            while edge.effects.pop().is_ok() {}
        }
        while agent.do_work() > 0 {
            while edge.effects.pop().is_ok() {}
        }
        let per_event = |time: Duration| time.as_nanos() as f64 / self.events.len() as f64;
        let (wall, cpu) = (per_event(wall.elapsed()), per_event(cpu.elapsed()));
        // The rest of the run's cells, as the service's end does it.
        agent.finish();
        stop.store(true, Ordering::Release);
        if let Some(writer) = writer {
            writer.join().expect("the writer").expect("the end of the journal");
        }
        (wall, cpu, durability.bytes.get())
    }
}

/// What an engine of nothing but working orders costs to restore: its bytes are hashed, as a start does, and loaded.
fn snapshot(report: &mut Report, universe: &Arc<Universe>, limits: &Arc<LimitTable>, working: usize) {
    let pairs = (STRATEGIES * INSTRUMENTS) as usize;
    let sizing = Sizing {
        working_orders: working,
        remembered_orders: 1 << 10,
        execs: 1 << 10,
        pairs,
        recent_orders: 1 << 10,
        parents: 16,
    };
    let now = SystemClock::new().now();
    let mut engine = Engine::new(universe.clone(), limits.clone(), sizing, now);
    let (mut random, mut effects) = (Random(9), Effects::new());
    for n in 1..=working as u64 {
        let mut event = Event::new(EventKind::New, SessionId(0), n);
        event.strategy = StrategyId(random.below(STRATEGIES) as u16);
        event.instrument = InstrumentId(random.below(INSTRUMENTS) as u32);
        (event.side, event.qty, event.px, event.id) = (Side::Buy, Qty(100), Px(10_000), OrdId(n));
        effects.clear();
        engine.step(now, &event, &mut effects);
    }
    assert_eq!(engine.working_orders(), working as u64, "all of them work");
    let mut bytes = Vec::new();
    let mut out = Out::new(&mut bytes);
    engine.save(&mut out);
    out.finish().expect("memory");
    drop(engine);
    let mut best = f64::MAX;
    for _ in 0..3 {
        let begin = CpuTimer::start();
        let hash = blake3::hash(&bytes);
        let mut input = In::new(&bytes);
        let engine = Engine::load(universe.clone(), limits.clone(), sizing, &mut input).expect("the same engine");
        best = best.min(begin.elapsed().as_nanos() as f64 / working as f64);
        assert!(engine.working_orders() == working as u64 && *hash.as_bytes() != [0; 32]);
    }
    report.value("snapshot, bytes per working order", "B", bytes.len() as f64 / working as f64);
    report.value("snapshot, restoring per working order", "ns", best);
}

fn main() {
    let args = Args::parse();
    let count = if args.quick { 400_000 } else { 4_000_000 };
    let mut report = Report::new("journal", args, &format!("{count} events, {WORKING} working; {}", machine()));
    let universe = universe();
    let world = World {
        limits: Arc::new(limits(&universe)),
        universe,
        sizing: Sizing {
            working_orders: count,
            remembered_orders: 1 << 16,
            execs: count,
            pairs: (STRATEGIES * INSTRUMENTS) as usize,
            recent_orders: 1 << 16,
            parents: 1 << 12,
        },
        clock: Arc::new(SystemClock::new()),
        events: stream(count),
    };
    let dir = tempfile::tempdir().expect("a directory");
    let mut best = [[f64::MAX; 2]; 2];
    let (mut bytes, mut last) = (0, dir.path().to_owned());
    for round in 0..3 {
        let (wall, cpu, _) = world.run(None);
        best[0] = [best[0][0].min(wall), best[0][1].min(cpu)];
        last = dir.path().join(format!("{round}"));
        std::fs::create_dir(&last).expect("a directory");
        let (wall, cpu, written) = world.run(Some(&last));
        best[1] = [best[1][0].min(wall), best[1][1].min(cpu)];
        bytes = written;
    }
    let [off, on] = best;
    report.against("journal on, per event", "ns", on[0], ("journal off", off[0]));
    report.against("journal on, per event, processor time", "ns", on[1], ("journal off", off[1]));
    report.against("events a second, on", "1/s", 1e9 / on[0], ("off", 1e9 / off[0]));
    report.value("bytes written per event", "B", bytes as f64 / count as f64);

    let [mut making, mut stepping, mut recovering] = [f64::MAX; 3];
    for _ in 0..3 {
        let now = world.clock.now();
        let begin = CpuTimer::start();
        let mut engine = world.engine(now);
        making = making.min(begin.elapsed().as_nanos() as f64 / count as f64);
        let mut effects = Effects::new();
        for batch in world.events.chunks(1024) {
            engine.step_batch(
                batch,
                |event| event,
                |engine, event| {
                    effects.clear();
                    engine.step(now, event, &mut effects);
                },
            );
        }
        stepping = stepping.min(begin.elapsed().as_nanos() as f64 / count as f64);
        // Its memory is what the next one gets, as it was what this one got.
        drop(engine);
        let make = |_: &str| {
            let limits = (*world.limits).clone();
            Ok(Made { universe: world.universe.clone(), limits, sizing: world.sizing })
        };
        let mut replayer = Replayer::new(&make);
        let begin = CpuTimer::start();
        replay_files(&last, &mut replayer, &mut Blind, |_, _| ()).expect("the journal can be replayed");
        recovering = recovering.min(begin.elapsed().as_nanos() as f64 / count as f64);
        let replayed = replayer.finish().expect("a run");
        assert_eq!(replayed.progress.events, count as u64, "every event is in the journal");
        assert!(replayed.checks > 0, "and the replay comes to the same");
    }
    report.against("recovery, per event", "ns", recovering, ("stepping from memory", stepping));
    report.value("recovery, events a second", "1/s", 1e9 / recovering);
    report.value("of either: making the engine, per event", "ns", making);
    let mut wall = f64::MAX;
    for _ in 0..3 {
        let make = |_: &str| {
            let limits = (*world.limits).clone();
            Ok(Made { universe: world.universe.clone(), limits, sizing: world.sizing })
        };
        let begin = Instant::now();
        replay_files(&last, &mut Replayer::new(&make), &mut Blind, |_, _| ()).expect("the journal can be replayed");
        wall = wall.min(begin.elapsed().as_nanos() as f64 / count as f64);
    }
    report.value("recovery, per event by the wall", "ns", wall);
    snapshot(&mut report, &world.universe, &world.limits, count / 4);
    report.finish();
}
