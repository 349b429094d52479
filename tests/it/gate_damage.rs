//! Bits flipped in everything that a gateway can write, under a running engine: nothing panics, nothing is decided that
//! was not asked, the session whose memory it is halts or stands still, and the others go on as if nothing had happened.
//!
//! What would have happened is told by a second engine that is given, without any lane, the same events.

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use haltline::duty::{Clock, Idle, SystemClock};
use haltline::engine::agent::{AgentParts, EngineAgent, Notice, Wake};
use haltline::engine::command::LaneChange;
use haltline::engine::core::{Engine, Sizing};
use haltline::engine::lanes::LanePort;
use haltline::engine::published::Published;
use haltline::gate::region::{GateKind, Region, RegionShape};
use haltline::kill::gates::{AttachedGate, Gates};
use haltline::kill::page::HaltPage;
use haltline::limits::{Gauge, LimitTable};
use haltline::model::effect::Denial;
use haltline::model::record::VerdictRecord;
use haltline::model::universe::{AccountSpec, CurrencySpec, StrategySpec};
use haltline::model::{
    Effects, Event, EventKind, InstrumentSpec, Mode, OrdType, Rule, Scope, ScopeKind, SessionKind, SessionSpec, Side,
    Universe,
};
use haltline::ring::bell::{BELL_WORDS, Bell};
use haltline::ring::lane::{Reader, Writer};
use haltline::ring::shm::Words;
use haltline::ring::slots::{SLOT_WORDS, Slot};
use haltline::ring::sync::Ordering;
use haltline::units::{AccountId, CurrencyId, MonoNanos, Now, OrdId, Px, Qty, SessionId, StrategyId, UnixNanos};

use crate::gate_race::Dice;
use crate::support::PATIENCE;

/// The session whose memory is damaged, and one strategy for each session.
const VICTIM: SessionId = SessionId(0);
const SESSIONS: u16 = 3;
const SLOTS: usize = 2;
const FLIPS: u64 = 1_000_000;

fn universe() -> Universe {
    let named = |prefix: &str, i: u16| format!("{prefix}{i}");
    Universe::new(
        2,
        vec![CurrencySpec { name: "USD".into(), initial_rate: None }],
        (0..SESSIONS)
            .map(|i| SessionSpec { name: named("gw", i), kind: SessionKind::Ask, strategies: vec![StrategyId(i)] })
            .collect(),
        (0..SESSIONS).map(|i| AccountSpec { name: named("a", i) }).collect(),
        (0..SESSIONS).map(|i| StrategySpec { name: named("s", i), account: AccountId(i) }).collect(),
        vec![InstrumentSpec {
            name: "ACME".into(),
            currency: CurrencyId(0),
            px_scale: 2,
            qty_scale: 0,
            multiplier: (1, 0),
            negative_px: false,
            average_daily_volume: None,
            initial_reference: Some(Px(1_000)),
        }],
    )
}

/// Quantity, and a long position that the fills reach now and then.
fn limits(universe: &Universe) -> LimitTable {
    let mut table = LimitTable::unlimited(universe);
    let strategies = table.edit_all(ScopeKind::Strategy);
    strategies.order_qty = 1_000;
    strategies.max[Gauge::NetLong as usize] = 3_000_000;
    table
}

const SIZING: Sizing =
    Sizing { working_orders: 64, remembered_orders: 1_024, execs: 1 << 22, pairs: 8, recent_orders: 64, parents: 64 };

fn at(ns: u64) -> Now {
    Now { mono: MonoNanos(ns), unix: UnixNanos(ns) }
}

/// Time that the test moves.
struct Hands(std::sync::atomic::AtomicU64);

impl Clock for Hands {
    fn now(&self) -> Now {
        at(self.0.load(Ordering::Relaxed))
    }
}

struct NoWake;
impl Wake for NoWake {
    fn wake(&self) {}
}

/// What a gateway does: new orders of which one is canceled and the next one filled, buying and selling in turn.
struct Flow {
    session: SessionId,
    dice: Dice,
    ids: u64,
    open: Option<Event>,
}

impl Flow {
    fn new(session: SessionId) -> Flow {
        Flow { session, dice: Dice(77 + u64::from(session.0)), ids: 0, open: None }
    }

    fn next(&mut self) -> Event {
        if let Some(open) = self.open.take() {
            let kind = if self.dice.below(2) == 0 { EventKind::Fill } else { EventKind::Canceled };
            // The engine takes what the venue says, whatever it had been asked.
            return Event { kind, ref_id: if kind == EventKind::Fill { open.id.0 } else { 0 }, ..open };
        }
        self.ids += 1;
        let mut new = Event::new(EventKind::New, self.session, 0);
        new.id = OrdId(u64::from(self.session.0) << 40 | self.ids);
        new.account = AccountId(self.session.0);
        new.strategy = StrategyId(self.session.0);
        new.side = if self.dice.below(2) == 0 { Side::Buy } else { Side::Sell };
        new.ord_type = OrdType::Limit;
        new.qty = Qty(1 + self.dice.below(1_200) as i64);
        new.px = Px(1_000);
        self.open = Some(new);
        new
    }
}

/// A gateway's ends of its region, and what it has sent that is not judged yet.
struct Gateway {
    session: SessionId,
    flow: Flow,
    words: Words,
    events: Writer,
    verdicts: Reader,
    base: u64,
    pushed: VecDeque<Event>,
    /// Verdicts that have to come, in this order.
    owed: VecDeque<VerdictRecord>,
    broken: Arc<AtomicBool>,
}

fn shape(session: SessionId, base: u64) -> RegionShape {
    RegionShape { session, kind: GateKind::Ask, base, events: 8, verdicts: 8, slots: SLOTS as u32 }
}

/// A new region of `session` whose stream goes on behind `base`: both ends of its lanes.
fn attach(session: SessionId, base: u64, flow: Flow) -> (Gateway, LanePort) {
    let shape = shape(session, base);
    let words = Words::heap(shape.words());
    let region = Region::make(words.clone(), shape);
    let broken = Arc::new(AtomicBool::new(false));
    let reader = Reader::resume(region.events(), region.event_cursor());
    let writer = Writer::resume(region.verdicts(), region.verdict_cursor()).unwrap();
    let port = LanePort::new(session, base, reader, writer, broken.clone());
    let events = Writer::resume(region.events(), region.event_cursor()).unwrap();
    let verdicts = Reader::resume(region.verdicts(), region.verdict_cursor());
    let (pushed, owed) = (VecDeque::new(), VecDeque::new());
    (Gateway { session, flow, words, events, verdicts, base, pushed, owed, broken }, port)
}

/// An engine behind lanes, and one without.
struct World {
    universe: Arc<Universe>,
    agent: EngineAgent,
    page: Arc<HaltPage>,
    published: Arc<Published>,
    hands: Arc<Hands>,
    lane_changes: Sender<LaneChange>,
    notices: Receiver<Notice>,
    _commands: Sender<haltline::engine::Instruction>,
    twin: Engine,
    effects: Box<Effects>,
}

fn world(clock: Option<Arc<dyn Clock>>) -> World {
    let universe = Arc::new(universe());
    let table = Arc::new(limits(&universe));
    let hands = Arc::new(Hands(1_000_000_000.into()));
    let clock = clock.unwrap_or_else(|| hands.clone());
    let page = Arc::new(HaltPage::new(universe.scope_count(), 1));
    let published = Arc::new(Published::new(&universe));
    let (lane_changes, lanes) = crossbeam_channel::unbounded();
    let (commands_in, commands) = crossbeam_channel::unbounded();
    let (notices_in, notices) = crossbeam_channel::bounded(1_024);
    let agent = EngineAgent::new(AgentParts {
        queries: crossbeam_channel::never(),
        engine: Engine::new(universe.clone(), table.clone(), SIZING, clock.now()),
        universe: universe.clone(),
        page: page.clone(),
        published: published.clone(),
        ports: vec![],
        lane_changes: lanes,
        lease_lag_ns: 0,
        commands,
        recorder: None,
        durable_before_verdict: false,
        grace_ns: 0,
        begin: None,
        notices: notices_in,
        page_raised: Box::new(NoWake),
        clock: clock.clone(),
    });
    let twin = Engine::new(universe.clone(), table, SIZING, clock.now());
    World {
        universe,
        agent,
        page,
        published,
        hands,
        lane_changes,
        notices,
        _commands: commands_in,
        twin,
        effects: Box::new(Effects::new()),
    }
}

impl World {
    fn judged(&self) -> u64 {
        EventKind::ALL.iter().map(|&kind| self.published.events[kind as usize - 1].get()).sum()
    }

    fn verdicts(&self) -> [u64; 2] {
        [self.published.admitted.get(), self.published.denied.iter().map(|c| c.get()).sum()]
    }

    /// What the twin says to the next event that `gateway` has pushed.
    fn twin_takes(&mut self, gateway: &mut Gateway) -> Option<Option<Denial>> {
        let event = gateway.pushed.pop_front().expect("the engine judged more than was pushed");
        self.effects.clear();
        self.twin.step(self.hands.now(), &event, &mut self.effects);
        let verdict = self.effects.verdict()?;
        let (seq, id, kind, denial, checks) = (verdict.seq, verdict.id, verdict.kind, verdict.denial, verdict.checks);
        gateway.owed.push_back(VerdictRecord { seq, id, kind, denial, checks });
        Some(denial)
    }

    fn mode(&self, session: SessionId) -> Mode {
        self.page.get(self.universe.slot(Scope::Session(session)).unwrap()).mode
    }

    fn lower(&self, session: SessionId) {
        let slot = self.universe.slot(Scope::Session(session)).unwrap();
        let word = self.page.get(slot);
        if word.mode != Mode::Normal {
            self.page.lower(slot, word.epoch).unwrap();
        }
    }
}

impl Gateway {
    /// Pushes up to `count` events. Whether the lane took them.
    fn push(&mut self, count: u64) -> bool {
        for _ in 0..count {
            if !matches!(self.events.room(), Ok(1..)) {
                return false;
            }
            let mut event = self.flow.next();
            let Ok(Some(position)) = self.events.push(event.to_record()) else { return false };
            event.seq = self.base + position;
            self.pushed.push_back(event);
        }
        true
    }

    /// Reads every verdict that has come. Whether they are the ones that are owed.
    fn read(&mut self) -> bool {
        while let Ok(Some(record)) = self.verdicts.pop() {
            let verdict = VerdictRecord::from_record(&record).expect("a verdict of an honest engine, behind its check");
            assert_eq!(Some(verdict), self.owed.pop_front(), "a verdict that nobody gave, of {:?}", self.session);
        }
        self.owed.is_empty()
    }
}

/// Flips `count` bits, or writes as many wild bytes, anywhere in `words`.
fn flip(words: &Words, dice: &mut Dice, count: u64) {
    for _ in 0..count {
        let word = &words[dice.below(words.len() as u64) as usize];
        let shift = dice.below(64);
        if dice.below(4) == 0 {
            word.fetch_xor((1 + dice.below(255)) << (shift & !7), Ordering::Relaxed);
        } else {
            word.fetch_xor(1 << shift, Ordering::Relaxed);
        }
    }
}

/// What a region uses of its words.
fn used(gateway: &Gateway) -> Words {
    gateway.words.part(0..64 + SLOTS * SLOT_WORDS + 16 * 8)
}

#[test]
fn a_million_flips_in_one_region_change_nothing_for_the_others() {
    let mut world = world(None);
    let mut dice = Dice(0x2545_F491);
    let gates = Gates::default();
    let mut gateways = Vec::new();
    let mut honest_slots = Vec::new();
    for session in (0..SESSIONS).map(SessionId) {
        let (gateway, port) = attach(session, 0, Flow::new(session));
        world.lane_changes.send(LaneChange::Add(port)).unwrap();
        let slots = Region::read(gateway.words.clone()).unwrap().slots();
        let gate = AttachedGate::new(session, 1, 1, String::new(), false, slots.clone());
        gates.add(Arc::new(gate));
        if session != VICTIM {
            honest_slots.push(Slot::claim(&slots, 1, haltline::ring::barrier::Fencing::Fence).unwrap());
        }
        gateways.push(gateway);
    }
    let (mut flips, mut rounds) = (0_u64, 0_u64);
    let (mut halted, mut stalled, mut harmless) = (0_u64, 0_u64, 0_u64);
    while flips < FLIPS {
        rounds += 1;
        world.hands.0.fetch_add(1_000_000, Ordering::Relaxed);
        let count = if dice.below(2) == 0 { 1 } else { 1 + dice.below(16) };
        let moment = dice.below(3);
        flips += count;
        if moment == 0 {
            flip(&used(&gateways[0]), &mut dice, count);
        }
        for gateway in &mut gateways {
            let pushed = gateway.push(1 + rounds % 3);
            assert!(pushed || gateway.session == VICTIM, "an honest lane is full or damaged");
        }
        if moment == 1 {
            flip(&used(&gateways[0]), &mut dice, count);
        }
        let (judged, verdicts) = (world.judged(), world.verdicts());
        world.agent.do_work();
        if moment == 2 {
            flip(&used(&gateways[0]), &mut dice, count);
        }

        // The others: all that they sent was judged, as it should be, and their verdicts are what the twin says.
        let mut told = [0; 2];
        let mut tell = |denial: Option<Option<Denial>>| {
            if let Some(denial) = denial {
                told[usize::from(denial.is_some())] += 1;
            }
        };
        let mut others = 0;
        for gateway in &mut gateways[1..] {
            while !gateway.pushed.is_empty() {
                tell(world.twin_takes(gateway));
                others += 1;
            }
            assert!(gateway.read(), "a verdict of an honest session is missing");
            assert_eq!(world.mode(gateway.session), Mode::Normal, "an honest session was halted");
        }
        // The victim: what was judged of it is the beginning of what it sent, and was judged as it should be.
        let taken = world.judged() - judged - others;
        assert!(taken <= gateways[0].pushed.len() as u64, "events that nobody sent were judged");
        for _ in 0..taken {
            tell(world.twin_takes(&mut gateways[0]));
        }
        let counted = world.verdicts();
        assert_eq!([counted[0] - verdicts[0], counted[1] - verdicts[1]], told, "decided otherwise than asked");

        // A kill at this moment is confirmed by the others, whatever the victim's slots say.
        if rounds.is_multiple_of(64) {
            for mut row in gates.begin(None) {
                assert!(row.look() || row.gate.session == VICTIM, "an honest gate is not confirmed");
            }
            for slot in &mut honest_slots {
                slot.enter();
                slot.exit();
            }
        }

        let victim = &mut gateways[0];
        let whole = victim.pushed.is_empty() && !victim.broken.load(Ordering::Relaxed);
        let reads = victim.read();
        match (world.mode(VICTIM), whole && reads) {
            (Mode::Halted, _) => halted += 1,
            (_, true) => {
                harmless += 1;
                // What lies in unused places, or was written over already, is carried along.
                continue;
            }
            // Nothing that was asked and not answered may be sent.
            (_, false) => stalled += 1,
        }
        // The gateway starts anew. First both ends look at what is left, as they would after a crash.
        if let Ok(region) = Region::read(victim.words.clone()) {
            let _ = Writer::resume(region.events(), region.event_cursor());
            let _ = Writer::resume(region.verdicts(), region.verdict_cursor());
            let mut reader = Reader::resume(region.verdicts(), region.verdict_cursor());
            let _ = reader.pop();
        }
        let next = world.twin.expected(VICTIM);
        // What the engine did not get did not happen.
        let mut flow = std::mem::replace(&mut victim.flow, Flow::new(VICTIM));
        if let Some(lost) = victim.pushed.front() {
            flow.open = (lost.kind != EventKind::New).then_some(Event { kind: EventKind::New, ref_id: 0, ..*lost });
        }
        let (gateway, port) = attach(VICTIM, next - 1, flow);
        *victim = gateway;
        world.lane_changes.send(LaneChange::Add(port)).unwrap();
        world.lower(VICTIM);
        while world.notices.try_recv().is_ok() {}
    }
    let shown = Published::new(&world.universe);
    for _ in 0..world.universe.scope_count() {
        world.agent.do_work();
    }
    let now = world.hands.now();
    for slot in 0..world.universe.scope_count() {
        world.twin.show_scope(now, slot, &shown);
        let (is, should) = (world.published.scope(slot).unwrap(), shown.scope(slot).unwrap());
        assert_eq!(is.gauges, should.gauges, "scope {slot}");
    }
    let limited = world.published.denied[Rule::NetLong as usize].get();
    println!("{flips} flips in {rounds} rounds: {halted} halted, {stalled} unanswered, {harmless} harmless");
    assert!(halted > 1_000 && stalled > 100 && harmless > 1_000 && limited > 100, "too little was tried: {limited}");
}

/// A gateway's end in a thread of its own that only the honest one uses.
fn ask(gateway: &mut Gateway, bell: &Bell) -> bool {
    let begin = Instant::now();
    let order = {
        let mut order = gateway.flow.next();
        if order.kind != EventKind::New {
            gateway.events.push(order.to_record()).unwrap().expect("room in an honest lane");
            order = gateway.flow.next();
        }
        order
    };
    gateway.events.push(order.to_record()).unwrap().expect("room in an honest lane");
    bell.ring();
    loop {
        if let Some(record) = gateway.verdicts.pop().expect("an honest lane is damaged") {
            let verdict = VerdictRecord::from_record(&record).unwrap();
            assert_eq!(verdict.id, order.id);
            let fat = verdict.denial.is_some_and(|d| d.rule == Rule::OrderQty);
            assert_eq!(fat, order.qty.0 > 1_000, "an honest order is judged otherwise than it is");
            return !fat;
        }
        assert!(begin.elapsed() < PATIENCE, "an honest session is not answered");
        std::thread::yield_now();
    }
}

#[test]
fn flips_while_the_engine_reads_and_in_the_bell_stop_nobody_else() {
    let world = world(Some(Arc::new(SystemClock::new())));
    let World { universe, agent, page, published, lane_changes, .. } = world;
    let bell_words = Words::heap(BELL_WORDS);
    let bell = Bell::over(bell_words.clone());
    let (mut honest, port) = attach(SessionId(1), 0, Flow::new(SessionId(1)));
    lane_changes.send(LaneChange::Add(port)).unwrap();
    let (mut victim, port) = attach(VICTIM, 0, Flow::new(VICTIM));
    lane_changes.send(LaneChange::Add(port)).unwrap();
    let target = Mutex::new(used(&victim));
    let (stop, enough, tried) = (AtomicBool::new(false), AtomicBool::new(false), AtomicBool::new(false));
    let slot = universe.slot(Scope::Session(VICTIM)).unwrap();
    let (mut asked, mut breaks) = (0_u64, 0_u64);
    let idle = Idle::Nap { spin: Duration::from_micros(5), nap: Duration::from_micros(500) };
    std::thread::scope(|scope| {
        let engine = scope.spawn(|| agent.run(idle, &bell, &stop));
        scope.spawn(|| {
            let mut dice = Dice(99);
            let mut flips = 0;
            // On a busy machine until the others had their turns, too.
            while flips < FLIPS || !tried.load(Ordering::Acquire) {
                let words = target.lock().unwrap().clone();
                for _ in 0..64 {
                    flip(&words, &mut dice, 1);
                    flip(&bell_words, &mut dice, 1);
                    flips += 2;
                }
                std::thread::yield_now();
            }
            enough.store(true, Ordering::Release);
        });
        while !enough.load(Ordering::Acquire) {
            ask(&mut honest, &bell);
            asked += 1;
            tried.store(asked > 100 && breaks > 10, Ordering::Release);
            victim.push(2);
            bell.ring();
            if page.get(slot).mode == Mode::Halted && victim.broken.load(Ordering::Acquire) {
                breaks += 1;
                let (reply, answer) = crossbeam_channel::bounded(1);
                lane_changes.send(LaneChange::Expected { session: VICTIM, reply }).unwrap();
                bell.ring();
                let next = answer.recv_timeout(PATIENCE).expect("the engine answers");
                let (gateway, port) = attach(VICTIM, next - 1, Flow::new(VICTIM));
                victim = gateway;
                lane_changes.send(LaneChange::Add(port)).unwrap();
                let word = page.get(slot);
                page.lower(slot, word.epoch).unwrap();
                *target.lock().unwrap() = used(&victim);
            }
        }
        ask(&mut honest, &bell);
        stop.store(true, Ordering::Release);
        bell.ring();
        engine.join().expect("the engine panicked");
    });
    println!("{asked} honest orders, {breaks} times the victim's lane broke");
    assert!(asked > 100 && breaks > 10, "too little was tried: {asked} {breaks}");
    assert!(published.trips[Rule::Malformed as usize].get() >= breaks, "a halt without a trip");
}
