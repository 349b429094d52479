//! What a new order costs each engine, with few and with many orders working.
//!
//! Timed is one call per order: haltline's `Engine::step` of a `new`, which judges *and* books it, and nautilus-risk's
//! `RiskEngine::execute` of a `SubmitOrder`, which judges it and sends it on. Making the events, orders and commands, putting
//! orders into nautilus's cache, and taking all of it out again so that the number of working orders stays what it is, is done
//! before and after, untimed; rows that say so include nautilus's booking. The engines take turns, so that what else runs
//! on the machine hits all.

use std::time::Instant;

use haltline::model::{Event, EventKind};
use nautilus_common::messages::execution::TradingCommand;
use nautilus_model::orders::{Order as _, OrderAny};

use crate::common::{Args, CpuTimer, Figure, Random, Report};
use crate::orders::{LIMITS, Limits, Listing, Order, Setup, Side, dollars};
use crate::ours::{Armed, Haltline, report};
use crate::theirs::{Account, Nautilus, Outbox};

/// Time between orders in ns: half of the rate that both limit.
const GAP: u64 = 20_000;
/// Orders that are made ready at once. Few beside those that work, for they are in nautilus's cache while they wait.
const TURN: usize = 100;
/// Turns of one engine before the next one has its turns. The first does not count: it finds the caches full of the others.
const BLOCK: usize = 11;

/// A working set.
#[derive(Clone, Copy, Debug)]
struct Load {
    instruments: usize,
    /// Working orders of each instrument.
    working: usize,
    /// Blocks that are timed, in full and with `--quick`.
    blocks: (usize, usize),
}

const LOADS: [Load; 4] = [
    Load { instruments: 1, working: 0, blocks: (50, 5) },
    Load { instruments: 1_000, working: 10, blocks: (50, 5) },
    Load { instruments: 100, working: 100, blocks: (20, 2) },
    Load { instruments: 10, working: 1_000, blocks: (5, 1) },
];

impl Load {
    fn label(&self) -> String {
        let (i, w) = (self.instruments, self.working);
        if w == 0 { "nothing working".into() } else { format!("{i} x {w} working") }
    }

    fn setup(&self) -> Setup {
        // Nothing is to be breached. The most dollars that nautilus's 64-bit money can hold is nine thousand million.
        let limits = Limits { funds: 8_000_000_000, rate: 1_000, window_ns: 1_000 * GAP / 2, collar: 1_000, ..LIMITS };
        let listings = (0..self.instruments).map(|i| Listing { name: format!("I{i}"), priced: true }).collect();
        Setup { listings, limits }
    }
}

/// Orders that both admit.
struct Source {
    random: Random,
    instruments: u64,
    next_id: u64,
}

impl Source {
    fn new(load: &Load) -> Source {
        Source { random: Random(11), instruments: load.instruments as u64, next_id: 0 }
    }

    fn on(&mut self, instrument: u64) -> Order {
        self.next_id += 1;
        Order {
            id: self.next_id,
            instrument: format!("I{instrument}"),
            side: if self.random.below(2) == 0 { Side::Buy } else { Side::Sell },
            qty: (100 + self.random.below(901)).to_string(),
            px: Some(dollars(9_900 + self.random.below(201) as i64)),
        }
    }

    fn next(&mut self) -> Order {
        let instrument = self.random.below(self.instruments);
        self.on(instrument)
    }

    /// The orders that work before anything is timed, those of different instruments mixed as they would be.
    fn working(&mut self, load: &Load) -> Vec<Order> {
        let each = |i| std::iter::repeat_n(i, load.working);
        let mut instruments: Vec<u64> = (0..load.instruments as u64).flat_map(each).collect();
        for i in (1..instruments.len()).rev() {
            instruments.swap(i, self.random.below(i as u64 + 1) as usize);
        }
        instruments.into_iter().map(|i| self.on(i)).collect()
    }
}

/// ns of `call`.
fn time(call: impl FnOnce()) -> u64 {
    let begin = Instant::now();
    call();
    begin.elapsed().as_nanos() as u64
}

/// What reading the clock costs, to be taken off.
fn clock() -> u64 {
    (0..10_000).map(|_| time(|| {})).min().unwrap_or(0)
}

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    /// The engine judges a new order. haltline books it with that.
    Submit,
    /// The order gets into the engine's tables and is judged. For haltline the same as `Submit`.
    Book,
    /// All that becomes of an order: booked, judged, accepted, canceled.
    Life,
}

/// An engine that takes turns. Only `call` is timed.
trait Timed {
    /// Makes what `call` needs for the orders of a turn. All of them have to be admitted.
    fn prepare(&mut self, call: Call, turn: &[Order]);
    /// What is timed, for the order at place `i` of the turn.
    fn call(&mut self, call: Call, i: usize);
    /// After each call: the order at place `i` is done.
    fn settle(&mut self, call: Call, i: usize);
    /// After the turn: everything is as it was before it.
    fn finish(&mut self);
}

/// haltline.
struct Ours {
    engine: Haltline,
    at: u64,
    working: i64,
    /// Of the turn: new, ack, canceled.
    events: Vec<[Event; 3]>,
}

impl Ours {
    fn new(load: &Load, armed: Armed, working: &[Order]) -> Ours {
        let mut engine = Haltline::new(&load.setup(), armed, working.len());
        let mut at = 1_000_000_000;
        for order in working {
            at += GAP;
            let event = engine.event(order);
            let denial = engine.step(at, event).verdict().and_then(|verdict| verdict.denial);
            assert!(denial.is_none(), "{order:?}: {denial:?}");
            engine.step(at, report(EventKind::Ack, order.id));
        }
        assert_eq!(engine.working(), working.len() as i64);
        Ours { engine, at, working: working.len() as i64, events: Vec::new() }
    }
}

impl Timed for Ours {
    fn prepare(&mut self, _: Call, turn: &[Order]) {
        self.at += GAP * turn.len() as u64;
        self.events.clear();
        self.events.extend(turn.iter().map(|order| {
            [self.engine.event(order), report(EventKind::Ack, order.id), report(EventKind::Canceled, order.id)]
        }));
    }

    fn call(&mut self, call: Call, i: usize) {
        let [new, ack, canceled] = self.events[i];
        self.engine.step(self.at, new);
        if call == Call::Life {
            self.engine.step(self.at, ack);
            self.engine.step(self.at, canceled);
        }
    }

    fn settle(&mut self, call: Call, i: usize) {
        if call != Call::Life {
            let before = self.engine.working();
            self.engine.step(self.at, self.events[i][2]);
            assert_eq!(self.engine.working(), before - 1, "an order was denied");
        }
    }

    fn finish(&mut self) {
        assert_eq!(self.engine.working(), self.working);
    }
}

/// nautilus-risk.
struct Theirs {
    engine: Nautilus,
    at: u64,
    orders: Vec<OrderAny>,
    /// Of the turn; taken by the call.
    ready: Vec<Option<(OrderAny, TradingCommand)>>,
}

impl Theirs {
    fn new(load: &Load, account: Account, working: &[Order]) -> Theirs {
        let engine = Nautilus::new(&load.setup(), account);
        for order in working {
            let order = engine.order(order);
            engine.add(order.clone()).expect("a new id");
            engine.submitted(&order);
            engine.accepted(&order);
        }
        assert_eq!(engine.working(), working.len());
        Theirs { engine, at: 1_000_000_000, orders: Vec::new(), ready: Vec::new() }
    }
}

impl Timed for Theirs {
    fn prepare(&mut self, call: Call, turn: &[Order]) {
        self.at += GAP * turn.len() as u64;
        self.engine.advance(self.at);
        self.orders = turn.iter().map(|order| self.engine.order(order)).collect();
        self.ready = self.orders.iter().map(|order| Some((order.clone(), self.engine.command(order)))).collect();
        if call == Call::Submit {
            for order in &self.orders {
                self.engine.add(order.clone()).expect("a new id");
            }
        }
    }

    fn call(&mut self, call: Call, i: usize) {
        let (order, command) = self.ready[i].take().expect("called once");
        if call != Call::Submit {
            self.engine.add(order).expect("a new id");
        }
        self.engine.execute(command);
        if call == Call::Life {
            let order = &self.orders[i];
            self.engine.submitted(order);
            self.engine.accepted(order);
            self.engine.canceled(order);
        }
    }

    fn settle(&mut self, _: Call, _: usize) {}

    fn finish(&mut self) {
        let Outbox { admitted, denied } = self.engine.taken();
        assert!(admitted.len() == self.orders.len() && denied.is_empty(), "{denied:?}");
        for order in &self.orders {
            self.engine.purge(order.client_order_id());
        }
    }
}

/// ns per order of one engine.
#[derive(Default)]
struct Times {
    /// Each order timed by itself, sorted.
    each: Vec<u64>,
    /// Whole turns, without a clock in between: the mean, in processor time.
    row: f64,
}

impl Times {
    fn at(&self, percentile: f64) -> f64 {
        self.each[((self.each.len() - 1) as f64 * percentile / 100.0).round() as usize] as f64
    }

    fn figure(&self, name: String, floor: Option<(&str, &Times)>) -> Figure {
        Figure {
            name,
            unit: "ns/order",
            value: self.at(50.0),
            percentiles: [50.0, 99.0].map(|p| (p, self.at(p))).to_vec(),
            floor: floor.map(|(name, times)| (name.to_owned(), times.at(50.0))),
        }
    }
}

/// One turn of `subject`: the ns of each order, or of all together in a row, by whether `each`.
fn turn(subject: &mut dyn Timed, call: Call, orders: &[Order], clock: u64, each: bool) -> Vec<u64> {
    subject.prepare(call, orders);
    let spent = if each {
        let timed = |i| {
            let ns = time(|| subject.call(call, i)).saturating_sub(clock);
            subject.settle(call, i);
            ns
        };
        (0..orders.len()).map(timed).collect()
    } else {
        let begin = CpuTimer::start();
        (0..orders.len()).for_each(|i| subject.call(call, i));
        let ns = begin.elapsed().as_nanos() as u64;
        (0..orders.len()).for_each(|i| subject.settle(call, i));
        vec![ns]
    };
    subject.finish();
    spent
}

/// `blocks` blocks of `call` through every one of `subjects`.
fn measure(subjects: &mut [&mut dyn Timed], source: &mut Source, call: Call, blocks: usize) -> Vec<Times> {
    let clock = clock();
    let mut times: Vec<Times> = subjects.iter().map(|_| Times::default()).collect();
    // One block more to begin with: memory is touched and branches are learned before it counts.
    for block in 0..=blocks {
        let orders: Vec<Vec<Order>> = (0..2 * BLOCK).map(|_| (0..TURN).map(|_| source.next()).collect()).collect();
        for (subject, times) in subjects.iter_mut().zip(&mut times) {
            for (n, orders) in orders.iter().enumerate() {
                let each = n < BLOCK;
                let spent = turn(*subject, call, orders, clock, each);
                if block > 0 && n % BLOCK > 0 {
                    if each { times.each.extend(spent) } else { times.row += spent[0] as f64 }
                }
            }
        }
    }
    for times in &mut times {
        times.row /= (blocks * (BLOCK - 1) * TURN) as f64;
        times.each.sort_unstable();
    }
    times
}

/// Resident bytes of this process.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.trim().trim_end_matches(" kB").trim().parse::<f64>().unwrap_or(0.0) * 1024.0
}

/// Bytes per working order: what the process grows by, less what it grows by without orders.
fn memory(report: &mut Report) {
    let load = Load { instruments: 1_000, working: 100, blocks: (0, 0) };
    let orders = Source::new(&load).working(&load);
    // Nothing is dropped in between: memory that one gives back would be used by the next, and not be seen.
    let start = resident();
    let theirs_empty = Theirs::new(&load, Account::Margin, &[]);
    let one = resident();
    let theirs = Theirs::new(&load, Account::Margin, &orders);
    let two = resident();
    let ours_empty = Ours::new(&load, Armed::Every, &[]);
    let three = resident();
    let ours = Ours::new(&load, Armed::Every, &orders);
    let four = resident();
    drop((theirs_empty, theirs, ours_empty, ours));
    let theirs = ((two - one) - (one - start)) / orders.len() as f64;
    let ours = ((four - three) - (three - two)) / orders.len() as f64;
    let label = format!("{} working orders", orders.len());
    report.value(format!("haltline, memory per working order, {label}"), "bytes", ours);
    report.against(format!("nautilus-risk, memory per working order, {label}"), "bytes", theirs, ("haltline", ours));
}

/// Every figure, or those of one working set.
pub fn run(report: &mut Report, args: Args) {
    if args.only.is_none() {
        memory(report);
    }
    for (_, load) in (1..).zip(LOADS).filter(|(n, _)| args.only.is_none_or(|only| only == *n)) {
        let label = load.label();
        let blocks = if args.quick { load.blocks.1 } else { load.blocks.0 };
        let mut source = Source::new(&load);
        // These have the first ids.
        let working = source.working(&load);
        let mut same = Ours::new(&load, Armed::Same, &working);
        let mut every = Ours::new(&load, Armed::Every, &working);
        let mut margin = Theirs::new(&load, Account::Margin, &working);
        let mut cash = Theirs::new(&load, Account::Cash, &working);
        let names = ["haltline, same limits", "haltline, every limit", "nautilus-risk, margin", "nautilus-risk, cash"];
        let mut subjects: [&mut dyn Timed; 4] = [&mut same, &mut every, &mut margin, &mut cash];
        let submit = measure(&mut subjects, &mut source, Call::Submit, blocks);
        for (i, (name, times)) in names.into_iter().zip(&submit).enumerate() {
            let floor = (i >= 2).then_some((names[0], &submit[0]));
            report.add(times.figure(format!("{name}, {label}"), floor));
        }
        for (i, (name, times)) in names.into_iter().zip(&submit).enumerate() {
            let name = format!("{name}, mean, {label}");
            match i {
                0 | 1 => report.value(name, "ns/order", times.row),
                _ => report.against(name, "ns/order", times.row, (names[0], submit[0].row)),
            }
        }
        report.value(format!("margin ÷ every limit, {label}"), "×", submit[2].at(50.0) / submit[1].at(50.0));
        for (call, what) in [(Call::Book, "with booking"), (Call::Life, "new to canceled")] {
            let mut subjects: [&mut dyn Timed; 2] = [&mut every, &mut margin];
            let times = measure(&mut subjects, &mut source, call, blocks.div_ceil(2));
            report.add(times[0].figure(format!("{}, {what}, {label}", names[1]), None));
            report.add(times[1].figure(format!("{}, {what}, {label}", names[2]), Some((names[1], &times[0]))));
        }
    }
}
