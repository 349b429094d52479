//! False alarms: a real order flow through the engine and the guard as they are configured by default.
//!
//! `HALTLINE_FLOW=path` names the flow: rows of `id, timestamp, exchange.timestamp, price, volume, action, direction`, times in
//! milliseconds, volume what is left of the order in 1e-8 units, actions `created`, `changed` (less is left: a part was
//! executed), `deleted` (executed if nothing is left, else canceled). Nothing like it is part of this repository. It is
//! spread over eight instances by order id and goes round, shifted in time, for `HALTLINE_FLOW_HOURS` (36: a day in
//! which texts are learned, and half a day after it).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use haltline::app::config;
use haltline::engine::core::{Engine, Sizing};
use haltline::guard::attest::{Demand, Fleet, Measured};
use haltline::guard::door::{ArrivalId, Way};
use haltline::guard::manifest::Manifest;
use haltline::guard::memory::Memory;
use haltline::guard::peers::Counts;
use haltline::guard::signatures::Text;
use haltline::guard::watch::Watch;
use haltline::kill::alerts::{Alerts, Severity};
use haltline::model::{Claim, Effect, Effects, Event, EventKind, Rule, Side};
use haltline::units::{AccountId, InstrumentId, MonoNanos, Now, OrdId, Px, Qty, SessionId, StrategyId, UnixNanos};

const INSTANCES: u64 = 8;
const PRICES: SessionId = SessionId(INSTANCES as u16);
const SECOND: u64 = 1_000_000_000;
const QUARTER: u64 = SECOND / 4;
const HOUR: u64 = 3_600 * SECOND;
/// The engine's clock when it begins.
const START: u64 = 100 * SECOND;

/// Limits of the kinds that halt, as `config/haltline.toml` has them; the guard is not configured at all.
const CONFIG: &str = r#"
[service]
state_dir = "state"
base_currency = "USD"
base_scale = 4
[auth]
tokens_at_runtime = true
[accounts.main]
[strategies.flow]
account = "main"
[instruments.BTC-USD]
px_scale = 2
qty_scale = 8
reference_max_age = "unlimited"
[limits.firm]
others = "unlimited"
[limits.account."*"]
others = "unlimited"
[limits.strategy."*"]
collar = "5%"
duplicate_order = { count = 3, window = "1s" }
message_rate = { count = 500, per = "1s" }
denials = { count = 50, per = "10s", action = "halt" }
orphan_fills = { count = 5, per = "1h", action = "halt" }
fan_out = { count = 200, per = "1s" }
children = 2_000
others = "unlimited"
[limits.pair."*"]
others = "unlimited"
[limits.instrument."*"]
others = "unlimited"
[limits.session."*"]
order_rate = { count = 200, per = "1s", action = "halt" }
heartbeat_loss = { max = "10s", action = "halt" }
others = "unlimited"
[sessions.prices]
kind = "reference"
"#;

/// A row of the flow.
#[derive(Clone, Copy, Debug)]
struct Row {
    at_ms: u64,
    id: u64,
    px_cents: i64,
    left: i64,
    created: bool,
    deleted: bool,
    side: Side,
}

fn read(path: &str) -> Vec<Row> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("HALTLINE_FLOW={path}: {error}"));
    let row = |(number, line): (usize, &str)| {
        let wrong = |what: &str| -> ! { panic!("{path}, line {}: {what}: {line}", number + 2) };
        let fields: Vec<&str> = line.split(',').collect();
        let [id, at, _, px, left, action, direction] = fields[..] else { wrong("seven columns are needed") };
        let number = |text: &str, what: &str| text.parse().unwrap_or_else(|_| wrong(what));
        let (whole, part) = px.split_once('.').unwrap_or((px, "0"));
        let cents: i64 = format!("{part:0<2}")[..2].parse().unwrap_or_else(|_| wrong("price"));
        let px_cents = whole.parse::<i64>().unwrap_or_else(|_| wrong("price")) * 100 + cents;
        Row {
            at_ms: number(at, "timestamp"),
            id: number(id, "id"),
            px_cents,
            left: left.parse().unwrap_or_else(|_| wrong("volume")),
            created: action == "created",
            deleted: match action {
                "created" | "changed" => false,
                "deleted" => true,
                _ => wrong("action"),
            },
            side: match direction {
                "bid" => Side::Buy,
                "ask" => Side::Sell,
                _ => wrong("direction"),
            },
        }
    };
    let mut rows: Vec<Row> = text.lines().skip(1).enumerate().map(row).collect();
    rows.sort_by_key(|row| row.at_ms);
    rows
}

/// An order at the venue.
#[derive(Clone, Copy)]
struct Live {
    session: SessionId,
    left: i64,
    px_cents: i64,
    side: Side,
}

#[derive(Debug, Default)]
struct Totals {
    orders: u64,
    fills: u64,
    cancels: u64,
    denied: HashMap<&'static str, u64>,
    texts: u64,
    samples: u64,
    alarms: Vec<String>,
}

struct Flow {
    engine: Engine,
    effects: Effects,
    seqs: Vec<u64>,
    live: HashMap<u64, Live>,
    /// Orders that were denied or are over: what the recording has of them later is nothing here.
    over: HashSet<u64>,
    execs: u64,
    counts: Vec<Counts>,
    watch: Watch,
    alerts: Alerts,
    fleet: Fleet,
    next_look: u64,
    next_beat: u64,
    totals: Totals,
    begin_unix: u64,
}

impl Flow {
    fn new(first: &Row) -> Flow {
        let sessions: String = (0..INSTANCES).map(|n| format!("[sessions.gw-{n}]\nkind = \"ask\"\n")).collect();
        // The instances first: a session's id is its place.
        let text = CONFIG.replace("[sessions.prices]", &format!("{sessions}[sessions.prices]"));
        let loaded = config::load("flow.toml", &text).unwrap_or_else(|violations| panic!("{violations}"));
        let universe = loaded.universe.clone();
        assert_eq!(universe.session("prices"), Some(PRICES));
        let sizing = Sizing {
            working_orders: 1 << 17,
            remembered_orders: 1 << 16,
            execs: 1 << 21,
            pairs: 16,
            recent_orders: 1 << 16,
            parents: 16,
        };
        let begin_unix = first.at_ms * 1_000_000;
        let now = Now { mono: MonoNanos(START), unix: UnixNanos(begin_unix) };
        let names: Vec<String> = (0..INSTANCES).map(|n| format!("\"gw-{n}\"")).collect();
        let manifest = format!(
            "version = 1\ndormant_after_days = 30\n[strategies.flow]\ninstances = [{}]\npaths = [\"websocket\"]\n\
             [[strategies.flow.builds]]\nid = \"r1\"\napproved_at = 2015-04-29T00:00:00Z\n",
            names.join(", ")
        );
        let manifest = Manifest::parse(manifest.as_bytes()).unwrap();
        let mut fleet = Fleet::new(universe.clone(), Demand::Manifest(Ok(manifest)), Ok(Memory::default()));
        for n in 0..INSTANCES {
            let hello = (Way::WebSocket, Claim::of_build("r1").unwrap(), format!("host {n}"));
            let measured = Measured::Not("it is on another host".to_owned());
            fleet.arrive(SessionId(n as u16), ArrivalId(n + 1), hello, measured, begin_unix);
        }
        let mut flow = Flow {
            watch: Watch::new(loaded.watch.clone(), &universe),
            alerts: Alerts::new(loaded.alerts.policy.clone()),
            counts: vec![Counts::default(); universe.sessions.len()],
            seqs: vec![0; universe.sessions.len()],
            engine: Engine::new(universe, Arc::new(loaded.limits), sizing, now),
            effects: Effects::new(),
            live: HashMap::new(),
            over: HashSet::new(),
            execs: 0,
            fleet,
            next_look: 0,
            next_beat: 0,
            totals: Totals::default(),
            begin_unix,
        };
        flow.mark(0, first.px_cents);
        flow
    }

    fn now(&self, at: u64) -> Now {
        Now { mono: MonoNanos(START + at), unix: UnixNanos(self.begin_unix + at) }
    }

    /// Takes an event. Whether it was denied.
    fn step(&mut self, at: u64, mut event: Event) -> bool {
        let (now, session) = (self.now(at), usize::from(event.session.0));
        self.seqs[session] += 1;
        (event.seq, event.sent_at) = (self.seqs[session], now.unix);
        let counts = &mut self.counts[session];
        match event.kind {
            EventKind::New => counts.orders += 1,
            EventKind::Fill => counts.fills += 1,
            _ => {}
        }
        self.effects.clear();
        self.engine.step(now, &event, &mut self.effects);
        self.hear(at)
    }

    /// Looks at what the engine said.
    fn hear(&mut self, at: u64) -> bool {
        let mut denied = false;
        for effect in self.effects.as_slice() {
            match effect {
                Effect::Verdict(verdict) => {
                    if let Some(denial) = verdict.denial {
                        denied = true;
                        *self.totals.denied.entry(denial.rule.name()).or_default() += 1;
                    }
                }
                Effect::Anomaly(anomaly) => self.totals.alarms.push(format!("{at}: {anomaly:?}")),
                Effect::Trip(trip) => self.totals.alarms.push(format!("{at}: {trip:?}")),
                Effect::Warn(warn) => self.totals.alarms.push(format!("{at}: {warn:?}")),
                _ => {}
            }
        }
        denied
    }

    fn event(kind: EventKind, order: &Live, id: u64) -> Event {
        let mut event = Event::new(kind, order.session, 0);
        event.side = order.side;
        (event.account, event.strategy, event.instrument) = (AccountId(0), StrategyId(0), InstrumentId(0));
        event.id = OrdId(id);
        event.px = Px(order.px_cents);
        event
    }

    fn mark(&mut self, at: u64, px_cents: i64) {
        let mut event = Event::new(EventKind::Mark, PRICES, 0);
        (event.instrument, event.px) = (InstrumentId(0), Px(px_cents));
        self.step(at, event);
    }

    fn say(&mut self, at: u64, session: SessionId, text: String) {
        self.totals.texts += 1;
        self.watch.take(&Text { at: self.begin_unix + at, session, source: "log", text }, &self.alerts);
    }

    /// A row, in which `id` is the order's.
    fn row(&mut self, at: u64, id: u64, row: &Row) {
        let Some(mut order) = self.live.get(&id).copied() else {
            // What is first seen when something is left of it was there before the flow began.
            if row.left > 0 && !row.deleted && !self.over.contains(&id) {
                self.enter(at, id, row);
            }
            return;
        };
        let executed = order.left - row.left;
        let canceled = row.deleted && row.left > 0;
        if !canceled && executed > 0 {
            self.execs += 1;
            let mut fill = Flow::event(EventKind::Fill, &order, id);
            (fill.qty, fill.ref_id) = (Qty(executed), self.execs);
            self.totals.fills += 1;
            self.step(at, fill);
            self.mark(at, order.px_cents);
            self.say(at, order.session, format!("order {id} executed, {executed} at {}", order.px_cents));
            order.left = row.left;
            self.live.insert(id, order);
        }
        if row.deleted {
            self.live.remove(&id);
            self.over.insert(id);
            if canceled {
                self.cancel(at, id, &order);
            }
        }
    }

    fn enter(&mut self, at: u64, id: u64, row: &Row) {
        let session = SessionId((row.id % INSTANCES) as u16);
        let order = Live { session, left: row.left, px_cents: row.px_cents, side: row.side };
        let mut new = Flow::event(EventKind::New, &order, id);
        new.qty = Qty(row.left);
        self.totals.orders += 1;
        if self.step(at, new) {
            self.over.insert(id);
        } else {
            self.live.insert(id, order);
            self.step(at, Flow::event(EventKind::Ack, &order, id));
            self.say(at, session, format!("order {id} to {:?} {} is working", row.side, row.left));
        }
    }

    fn cancel(&mut self, at: u64, id: u64, order: &Live) {
        let mut cancel = Flow::event(EventKind::Cancel, order, id + 1);
        cancel.ref_id = id;
        self.totals.cancels += 1;
        self.step(at, cancel);
        self.step(at, Flow::event(EventKind::Canceled, order, id));
        self.say(at, order.session, format!("order {id} canceled"));
    }

    /// Lets time pass until `at`: heartbeats, and the guard's rounds.
    fn until(&mut self, at: u64) {
        while self.next_look <= at {
            let look = self.next_look;
            self.next_look += QUARTER;
            let now = self.now(look);
            self.effects.clear();
            self.engine.tick(now, &mut self.effects);
            self.hear(look);
            if self.next_beat <= look {
                self.next_beat += SECOND;
                for session in 0..self.seqs.len() {
                    self.step(look, Event::new(EventKind::Heartbeat, SessionId(session as u16), 0));
                }
            }
            let counts: Vec<Counts> =
                self.watch.instances().iter().map(|session| self.counts[usize::from(session.0)]).collect();
            self.totals.samples += 1;
            for stop in self.watch.sample(now, &counts, &self.alerts) {
                self.totals.alarms.push(format!("{look}: {stop:?}"));
            }
            self.watch.tick(now, &self.alerts);
            for must in self.alerts.tick(now) {
                self.totals.alarms.push(format!("{look}: {must:?}"));
            }
            if look.is_multiple_of(60 * SECOND) {
                (0..INSTANCES as u16).for_each(|n| self.fleet.event_seen(SessionId(n), now.unix.0));
                let findings = self.fleet.judge(now.unix.0, &[]);
                self.totals.alarms.extend(findings.iter().map(|finding| format!("{look}: {finding:?}")));
            }
        }
    }
}

fn flow_path() -> Option<String> {
    let path = std::env::var("HALTLINE_FLOW").ok();
    if path.is_none() {
        eprintln!("SKIPPED: HALTLINE_FLOW names no order flow: false alarms over a real one were not looked for");
    }
    path
}

#[test]
fn a_real_order_flow_has_no_false_alarm_from_the_default_settings() {
    let Some(path) = flow_path() else { return };
    let hours = std::env::var("HALTLINE_FLOW_HOURS").map_or(36, |hours| hours.parse().unwrap());
    let rows = read(&path);
    let (first, last) = (rows[0], rows[rows.len() - 1]);
    let mut flow = Flow::new(&first);
    let round = (last.at_ms - first.at_ms + 1_000) * 1_000_000;
    let (mut begin, mut rounds) = (0, 0u64);
    while begin < hours * HOUR {
        for row in &rows {
            let at = begin + (row.at_ms - first.at_ms) * 1_000_000;
            flow.until(at);
            flow.row(at, (rounds * 1_000_000_000 + row.id) * 2, row);
        }
        // What is left over is canceled, the next round has orders of its own: so slowly that it is no burst that the flow
        // does not have.
        let left: Vec<(u64, Live)> = flow.live.drain().collect();
        let mut at = begin + round;
        for (id, order) in left {
            at += 20_000_000;
            flow.until(at);
            flow.cancel(at, id, &order);
        }
        (begin, rounds) = (at + SECOND, rounds + 1);
    }
    let warnings = flow.alerts.newest(100).into_iter().filter(|alert| alert.severity > Severity::Info);
    flow.totals.alarms.extend(warnings.map(|alert| alert.text));
    let totals = &flow.totals;
    println!("{} hours of stream time, {rounds} rounds: {totals:?}", begin / HOUR);
    println!("working at the end: {}; texts known: {:?}", flow.live.len(), flow.watch.counts());
    assert_eq!(totals.alarms, [""; 0]);
    assert!(totals.orders > 10_000 && totals.fills > 100 && totals.cancels > 1_000, "{totals:?}");
    // A limit on the price is no alarm; what else denies would be.
    assert!(totals.denied.keys().all(|rule| *rule == Rule::Collar.name()), "{totals:?}");
}

#[test]
fn the_same_flow_hurried_does_not_make_one_instance_an_outlier() {
    let Some(path) = flow_path() else { return };
    let rows = read(&path);
    let first = rows[0];
    for speed in [10, 100, 1_000] {
        let loaded = Flow::new(&first);
        let (watch, alerts) = (loaded.watch, Alerts::default());
        let mut counts = vec![Counts::default(); INSTANCES as usize];
        let (mut look, mut most) = (0, 0);
        let mut before = counts.clone();
        for row in &rows {
            let at = (row.at_ms - first.at_ms) * 1_000_000 / speed;
            while look <= at {
                let now = Now { mono: MonoNanos(START + look), unix: UnixNanos(loaded.begin_unix + look) };
                assert_eq!(watch.sample(now, &counts, &alerts), [], "{speed} times as fast");
                if look.is_multiple_of(SECOND) {
                    let rates = counts.iter().zip(&before).map(|(now, then)| now.orders - then.orders);
                    most = most.max(rates.max().unwrap_or(0));
                    before.clone_from(&counts);
                }
                look += QUARTER;
            }
            let counts = &mut counts[(row.id % INSTANCES) as usize];
            counts.orders += u64::from(row.created);
            counts.fills += u64::from(!row.created && (!row.deleted || row.left == 0));
        }
        println!("{speed} times as fast: at most {most} orders a second of one instance, {} s", look / SECOND);
        assert_eq!(alerts.newest(10), [], "{speed} times as fast");
    }
}
