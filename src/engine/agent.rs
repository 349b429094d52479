//! The engine's thread: one loop that takes events and commands, steps the core and hands effects on.
//!
//! Order within a round: the halt page first (a kill is never behind an event), then commands, then a
//! batch of events from each port, then time. An event is taken from a port only while the port's
//! effect ring has room for everything one step can produce, so effects are never lost and the engine
//! never waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender};

use crate::duty::{Clock, Idle, Idler};
use crate::engine::command::{Command, LaneChange};
use crate::engine::core::Engine;
use crate::engine::lanes::{Broken, LanePort};
use crate::engine::published::Published;
use crate::kill::page::{HaltPage, ModeWord};
use crate::model::effect::{Anomaly, AnomalyKind, Denial};
use crate::model::record::BadField;
use crate::model::{Effect, Effects, Event, Mode, Rule, Scope, Trip, Universe, Why};
use crate::ring::bell::Bell;
use crate::units::{MonoNanos, Now, SessionId};

/// An event and when the edge received it.
#[derive(Clone, Copy, Debug)]
pub struct Inbound {
    /// The event.
    pub event: Event,
    /// The edge's clock reading at its receipt.
    pub received: MonoNanos,
}

/// Something for the control thread: a trip, a warning or an anomaly, and when it happened.
#[derive(Clone, Copy, Debug)]
pub struct Notice {
    /// [`Effect::Trip`], [`Effect::Warn`] or [`Effect::Anomaly`].
    pub effect: Effect,
    /// When.
    pub at: Now,
}

/// Called by the engine when it has put effects into a port's ring. Must not block.
pub trait Wake: Send {
    /// There may be effects to take.
    fn wake(&self);
}

/// A transport's end of a port: events in, effects out.
#[derive(Debug)]
pub struct EdgePort {
    /// Where the edge puts events, in the order of each session's stream.
    pub events: rtrb::Producer<Inbound>,
    /// Where it takes verdicts and acknowledgements.
    pub effects: rtrb::Consumer<Effect>,
    /// Rung after events were put in.
    pub engine: Arc<Bell>,
}

/// The engine's end of a port.
pub struct EnginePort {
    events: rtrb::Consumer<Inbound>,
    effects: rtrb::Producer<Effect>,
    wake: Box<dyn Wake>,
}

/// Makes the two ends of a port. `capacity` events may wait on the way in.
#[must_use]
pub fn port(capacity: usize, engine: Arc<Bell>, wake: Box<dyn Wake>) -> (EdgePort, EnginePort) {
    let (event_in, event_out) = rtrb::RingBuffer::new(capacity);
    let (effect_in, effect_out) = rtrb::RingBuffer::new(capacity + (BATCH + 1) * Effects::CAPACITY);
    (
        EdgePort { events: event_in, effects: effect_out, engine },
        EnginePort { events: event_out, effects: effect_in, wake },
    )
}

/// What a test's stand-in for the engine needs of a port.
#[cfg(test)]
impl EnginePort {
    pub(crate) fn next_event(&mut self) -> Option<Inbound> {
        self.events.pop().ok()
    }
    pub(crate) fn waiting(&self) -> usize {
        self.events.slots()
    }
    pub(crate) fn answer(&mut self, effect: Effect) -> bool {
        self.effects.push(effect).is_ok()
    }
    pub(crate) fn has_room(&self) -> bool {
        self.effects.slots() >= Effects::CAPACITY
    }
    pub(crate) fn wake(&self) {
        self.wake.wake();
    }
}

/// What an [`EngineAgent`] is made of.
pub struct AgentParts {
    /// The core.
    pub engine: Engine,
    /// All names.
    pub universe: Arc<Universe>,
    /// The halt page: read every round, raised at a trip.
    pub page: Arc<HaltPage>,
    /// Where the state is shown.
    pub published: Arc<Published>,
    /// The transports.
    pub ports: Vec<EnginePort>,
    /// Gateways on this host that come and go.
    pub lane_changes: Receiver<LaneChange>,
    /// How late the engine may be and still renew the lease of the gates, in ns.
    pub lease_lag_ns: u64,
    /// Instructions.
    pub commands: Receiver<Command>,
    /// Trips, warnings and anomalies go here. Never waited for.
    pub notices: Sender<Notice>,
    /// Called after the page was raised by a trip: everyone who watches it is woken.
    pub page_raised: Box<dyn Wake>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// The single writer of risk state.
pub struct EngineAgent {
    engine: Engine,
    shell: Shell,
    batch: Vec<Inbound>,
    show_next: usize,
    last_tick: MonoNanos,
}

/// Everything around the core.
struct Shell {
    universe: Arc<Universe>,
    page: Arc<HaltPage>,
    published: Arc<Published>,
    ports: Vec<EnginePort>,
    lanes: Vec<LanePort>,
    lane_changes: Receiver<LaneChange>,
    lease_lag_ns: u64,
    lease_renewed: MonoNanos,
    commands: Receiver<Command>,
    notices: Sender<Notice>,
    page_raised: Box<dyn Wake>,
    clock: Arc<dyn Clock>,
    /// The page as the core knows it.
    seen: Vec<ModeWord>,
    seen_changes: u64,
    effects: Effects,
    /// An acknowledgement that waits for the next one to replace it.
    applied: Option<(SessionId, u64)>,
    sampled: u64,
}

/// Who gets what a step says.
#[derive(Clone, Copy, Debug)]
enum Out {
    /// Nobody outside: a command or time did it.
    Nobody,
    /// A transport's port.
    Port(usize),
    /// A gateway's lane.
    Lane(usize),
}

/// The most events taken from one port in one round.
const BATCH: usize = 256;
/// Scopes shown per round: with nothing else to do, and with.
const SHOW_PER_ROUND: [usize; 2] = [32, 4];
/// How often time alone moves the engine.
const TICK_NS: u64 = 1_000_000;

impl EngineAgent {
    /// An agent that has done nothing yet. The page's present words reach the core in its first round.
    #[must_use]
    pub fn new(parts: AgentParts) -> EngineAgent {
        let shell = Shell {
            lanes: Vec::with_capacity(parts.universe.sessions.len()),
            seen: vec![ModeWord::default(); parts.page.len()],
            seen_changes: u64::MAX,
            effects: Effects::new(),
            applied: None,
            sampled: 0,
            universe: parts.universe,
            page: parts.page,
            published: parts.published,
            ports: parts.ports,
            lane_changes: parts.lane_changes,
            lease_lag_ns: parts.lease_lag_ns,
            lease_renewed: MonoNanos(0),
            commands: parts.commands,
            notices: parts.notices,
            page_raised: parts.page_raised,
            clock: parts.clock,
        };
        EngineAgent {
            engine: parts.engine,
            shell,
            batch: Vec::with_capacity(BATCH),
            show_next: 0,
            last_tick: MonoNanos(0),
        }
    }

    /// Loops until `stop` is set and nothing is left to take. `bell` is the one that the ports ring.
    pub fn run(mut self, idle: Idle, bell: &Bell, stop: &AtomicBool) {
        let mut idler = Idler::new(idle);
        loop {
            let work = self.do_work();
            if work == 0 && stop.load(Ordering::Acquire) {
                return;
            }
            let shell = &self.shell;
            idler.after(work, bell, || {
                shell.ports.iter().any(|p| !p.events.is_empty())
                    || shell.lanes.iter().any(LanePort::has_next)
                    || !shell.lane_changes.is_empty()
                    || !shell.commands.is_empty()
                    || shell.page.changes() != shell.seen_changes
                    || stop.load(Ordering::Acquire)
            });
        }
    }

    /// One round. Returns how many inputs it took.
    pub fn do_work(&mut self) -> usize {
        let now = self.shell.clock.now();
        let mut work = self.shell.take_page(&mut self.engine, now) + self.shell.take_commands(&mut self.engine, now);
        work += self.shell.take_lane_changes(&self.engine);
        self.show_lag(now);
        for port in 0..self.shell.ports.len() {
            work += self.take_events(port, now);
        }
        for lane in 0..self.shell.lanes.len() {
            work += self.take_lane(lane, now);
        }
        if now.mono.since(self.last_tick) >= TICK_NS {
            self.last_tick = now.mono;
            self.shell.effects.clear();
            self.engine.tick(now, &mut self.shell.effects);
            self.shell.hand_on(&self.engine, Out::Nobody, now);
        }
        self.shell.renew_lease(now);
        self.show(now, work);
        work
    }

    fn take_events(&mut self, port: usize, now: Now) -> usize {
        let EngineAgent { engine, shell, batch, .. } = self;
        let end = &mut shell.ports[port];
        let waiting = end.events.slots();
        if port == 0 {
            shell.published.queue_depth.set(waiting as u64);
        }
        // Everything that the batch can produce must find room in the port's effect ring.
        let room = (end.effects.slots() / Effects::CAPACITY).saturating_sub(1);
        let Ok(chunk) = end.events.read_chunk(BATCH.min(waiting).min(room)) else { return 0 };
        batch.clear();
        let (first, second) = chunk.as_slices();
        batch.extend_from_slice(first);
        batch.extend_from_slice(second);
        chunk.commit_all();
        let mut effects_out = 0;
        engine.step_batch(
            batch,
            |inbound| &inbound.event,
            |engine, inbound| effects_out += shell.step(engine, Out::Port(port), inbound, now),
        );
        effects_out += shell.flush_applied(Out::Port(port));
        if effects_out > 0 {
            shell.ports[port].wake.wake();
        }
        batch.len()
    }

    fn take_lane(&mut self, lane: usize, now: Now) -> usize {
        let EngineAgent { engine, shell, batch, .. } = self;
        batch.clear();
        let taken = shell.lanes[lane].take(BATCH, now.mono, batch);
        if !batch.is_empty() {
            engine.step_batch(
                batch,
                |inbound| &inbound.event,
                |engine, inbound| {
                    shell.step(engine, Out::Lane(lane), inbound, now);
                },
            );
            shell.applied = None;
            // Not before everything is decided: an engine that dies finds the events again.
            shell.lanes[lane].release();
        }
        if let Err(broken) = taken {
            shell.break_lane(lane, broken, now);
        }
        batch.len()
    }

    /// Shows how late the engine is. An event that finds no room for its effects is not taken, but its age counts.
    fn show_lag(&self, now: Now) {
        let heads = self.shell.ports.iter().filter_map(|port| port.events.peek().ok());
        let heads = heads.map(|inbound| inbound.received);
        let lanes = self.shell.lanes.iter().filter_map(LanePort::waiting_since);
        let oldest = heads.chain(lanes).map(|received| now.mono.since(received)).max();
        self.shell.published.input_lag_ns.set(oldest.unwrap_or(0));
    }

    fn show(&mut self, now: Now, work: usize) {
        let shown = &self.shell.published;
        shown.progress.add(1);
        shown.last_round.set(now.mono.0);
        self.shell.page.show_round(now.mono.0, shown.input_lag_ns.get());
        self.engine.show_totals(shown);
        let scopes = self.shell.seen.len();
        for _ in 0..SHOW_PER_ROUND[usize::from(work > 0)].min(scopes) {
            self.engine.show_scope(now, self.show_next, shown);
            self.show_next = (self.show_next + 1) % scopes;
        }
    }
}

impl Shell {
    fn take_page(&mut self, engine: &mut Engine, now: Now) -> usize {
        let changes = self.page.changes();
        if changes == self.seen_changes {
            return 0;
        }
        self.seen_changes = changes;
        let mut work = 0;
        for slot in 0..self.seen.len() {
            let word = self.page.get(slot);
            if word != self.seen[slot]
                && let Some(scope) = self.universe.scope_at(slot)
            {
                self.seen[slot] = word;
                self.effects.clear();
                let command = Command::Mode { scope, mode: word.mode, epoch: word.epoch };
                engine.command(now, command, &mut self.effects);
                self.hand_on(engine, Out::Nobody, now);
                work += 1;
            }
        }
        work
    }

    fn take_commands(&mut self, engine: &mut Engine, now: Now) -> usize {
        let mut work = 0;
        while let Ok(command) = self.commands.try_recv() {
            self.effects.clear();
            engine.command(now, command, &mut self.effects);
            self.hand_on(engine, Out::Nobody, now);
            work += 1;
        }
        work
    }

    /// Steps one event; returns how many effects went to the port.
    fn step(&mut self, engine: &mut Engine, out: Out, inbound: &Inbound, now: Now) -> usize {
        // A kill that was raised during this batch comes before its next event.
        if self.page.changes() != self.seen_changes {
            self.take_page(engine, now);
        }
        self.effects.clear();
        self.sampled += 1;
        if self.sampled.is_multiple_of(64) {
            let before = self.clock.now();
            engine.step(now, &inbound.event, &mut self.effects);
            let spent = self.clock.now().mono.since(before.mono);
            self.published.decision_latency.record(spent);
        } else {
            engine.step(now, &inbound.event, &mut self.effects);
        }
        self.published.events[inbound.event.kind as usize - 1].add(1);
        self.published.event_latency.record(now.mono.since(inbound.received));
        self.hand_on(engine, out, now)
    }

    /// Hands the effects of one step on; returns how many went to the port.
    fn hand_on(&mut self, engine: &Engine, out: Out, now: Now) -> usize {
        if self.effects.has_lost_trips() {
            self.raise_what_is_latched(engine);
        }
        let mut sent = 0;
        for i in 0..self.effects.as_slice().len() {
            let effect = self.effects.as_slice()[i];
            match effect {
                Effect::Trip(trip) => {
                    // SYNC trip: the page first, then everything that tells of it.
                    if let Some(slot) = self.universe.slot(trip.scope) {
                        self.page.raise(slot, trip.mode);
                        self.page_raised.wake();
                    }
                    self.published.trips[trip.cause.rule as usize].add(1);
                    self.notify(effect, now);
                }
                Effect::Warn(warn) => {
                    self.published.warnings[warn.at.rule as usize].add(1);
                    self.notify(effect, now);
                }
                Effect::Anomaly(anomaly) => {
                    self.published.anomalies[anomaly.kind as usize].add(1);
                    self.notify(effect, now);
                }
                Effect::Applied { session, seq } => {
                    if self.applied.is_some_and(|(last, _)| last != session) {
                        sent += self.flush_applied(out);
                    }
                    self.applied = Some((session, seq));
                }
                Effect::Verdict(verdict) => {
                    match verdict.denial {
                        None => self.published.admitted.add(1),
                        Some(denial) => self.published.denied[denial.rule as usize].add(1),
                    }
                    // A verdict acknowledges what came before it in its session, unless that is missing.
                    match self.applied {
                        Some((last, _)) if last == verdict.session && verdict.is_taken() => self.applied = None,
                        _ => sent += self.flush_applied(out),
                    }
                    sent += self.send(out, effect, now);
                }
                Effect::Resend { .. } | Effect::OrderForgotten { .. } | Effect::ExecForgotten { .. } => {
                    sent += self.send(out, effect, now);
                }
            }
        }
        sent
    }

    /// More scopes tripped at once than a step can list (a rate moved, or many sessions fell silent): the page is
    /// raised to what the core has.
    fn raise_what_is_latched(&self, engine: &Engine) {
        for slot in 0..self.page.len() {
            let latched = self.universe.scope_at(slot).and_then(|scope| engine.mode(scope)).unwrap_or_default();
            if latched > self.page.get(slot).mode {
                self.page.raise(slot, latched);
            }
        }
        self.page_raised.wake();
    }

    fn flush_applied(&mut self, out: Out) -> usize {
        match (self.applied.take(), out) {
            (Some((session, seq)), Out::Port(port)) => self.push(port, Effect::Applied { session, seq }),
            // The cursor of a lane says what was taken.
            (Some(_), Out::Lane(_) | Out::Nobody) | (None, _) => 0,
        }
    }

    /// `take_events` and `take_lane` made sure of the room; a command or a tick has no effects for anybody outside.
    fn send(&mut self, out: Out, effect: Effect, now: Now) -> usize {
        match (out, effect) {
            (Out::Nobody, _) => 0,
            (Out::Port(port), effect) => self.push(port, effect),
            (Out::Lane(lane), Effect::Verdict(verdict)) => {
                if let Err(broken) = self.lanes[lane].answer(&verdict) {
                    self.break_lane(lane, broken, now);
                }
                1
            }
            // Positions have no gaps: the stream is not the one that the engine knows, and would never go on.
            (Out::Lane(lane), Effect::Resend { from, .. }) => {
                self.break_lane(lane, Broken::BadField(BadField { field: "sequence", value: from }), now);
                0
            }
            // Numbers need not be forgotten.
            (Out::Lane(_), _) => 0,
        }
    }

    fn push(&mut self, port: usize, effect: Effect) -> usize {
        usize::from(self.ports[port].effects.push(effect).is_ok())
    }

    fn take_lane_changes(&mut self, engine: &Engine) -> usize {
        let mut work = 0;
        while let Ok(change) = self.lane_changes.try_recv() {
            match change {
                LaneChange::Add(lane) => {
                    self.lanes.retain(|other| other.session() != lane.session());
                    self.lanes.push(lane);
                }
                // Who asked may have given up.
                LaneChange::Expected { session, reply } => drop(reply.try_send(engine.expected(session))),
            }
            work += 1;
        }
        work
    }

    /// What a session's gateway wrote cannot be relied on any more: the session halts, the others go on.
    fn break_lane(&mut self, lane: usize, broken: Broken, now: Now) {
        let session = self.lanes[lane].session();
        self.lanes[lane].give_up();
        let found = match broken {
            Broken::Damaged(damaged) => damaged.found,
            Broken::BadField(bad) => bad.value,
        };
        let found = i64::try_from(found).unwrap_or(i64::MAX);
        let scope = Scope::Session(session);
        if let Some(slot) = self.universe.slot(scope) {
            // SYNC trip: the page first, then everything that tells of it.
            self.page.raise(slot, Mode::Halted);
            self.page_raised.wake();
        }
        let cause = Denial { rule: Rule::Malformed, why: Why::Breach, scope, observed: found, limit: 0 };
        self.published.trips[Rule::Malformed as usize].add(1);
        self.notify(Effect::Trip(Trip { scope, mode: Mode::Halted, cause, session, seq: 0 }), now);
        self.published.anomalies[AnomalyKind::DamagedLane as usize].add(1);
        self.notify(
            Effect::Anomaly(Anomaly { kind: AnomalyKind::DamagedLane, session, seq: 0, id: 0, detail: found }),
            now,
        );
    }

    /// Lets gates go on for another span, if the engine keeps up.
    fn renew_lease(&mut self, now: Now) {
        let span = self.page.lease_span();
        if span == 0
            || now.mono.since(self.lease_renewed) < span / 16
            || self.published.input_lag_ns.get() > self.lease_lag_ns
        {
            return;
        }
        // From the round's begin, which is before anything that it did.
        self.lease_renewed = now.mono;
        self.page.renew_lease(now.mono.0.saturating_add(span));
    }

    fn notify(&self, effect: Effect, now: Now) {
        if self.notices.try_send(Notice { effect, at: now }).is_err() {
            self.published.notices_dropped.add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::core::Sizing;
    use crate::kill::testing::{TestClock, universe};
    use crate::limits::LimitTable;
    use crate::model::rule::{Action, Target};
    use crate::model::{EventKind, Mode, Rule, Scope, ScopeKind, SessionKind, SessionSpec};

    struct NoWake;
    impl Wake for NoWake {
        fn wake(&self) {}
    }

    /// An agent, a transport's end of its port, and what keeps its channels open.
    fn agent(universe: Universe, limits: LimitTable, clock: &Arc<TestClock>) -> (EngineAgent, EdgePort, impl Sized) {
        let universe = Arc::new(universe);
        let sizing = Sizing { working_orders: 16, remembered_orders: 16, execs: 16, pairs: 16, recent_orders: 16 };
        let (edge, end) = port(1_024, Bell::new(), Box::new(NoWake));
        let (commands_in, commands) = crossbeam_channel::bounded(1);
        let (notices, notices_out) = crossbeam_channel::bounded(16);
        let agent = EngineAgent::new(AgentParts {
            engine: Engine::new(universe.clone(), Arc::new(limits), sizing, clock.now()),
            page: Arc::new(HaltPage::new(universe.scope_count(), 1)),
            published: Arc::new(Published::new(&universe)),
            universe,
            ports: vec![end],
            lane_changes: crossbeam_channel::never(),
            lease_lag_ns: 0,
            commands,
            notices,
            page_raised: Box::new(NoWake),
            clock: clock.clone(),
        });
        (agent, edge, (commands_in, notices_out))
    }

    #[test]
    fn what_was_taken_before_a_gap_is_acknowledged() {
        let clock = TestClock::new();
        let limits = LimitTable::closed(&universe());
        let (mut agent, mut edge, _channels) = agent(universe(), limits, &clock);
        for (kind, seq) in [(EventKind::Heartbeat, 1), (EventKind::Cancel, 5)] {
            let event = Event::new(kind, SessionId(0), seq);
            edge.events.push(Inbound { event, received: clock.now().mono }).unwrap();
        }
        agent.do_work();
        let said: Vec<Effect> = core::iter::from_fn(|| edge.effects.pop().ok()).collect();
        let applied = Effect::Applied { session: SessionId(0), seq: 1 };
        assert!(said.contains(&applied), "{said:?}");
    }

    #[test]
    fn trips_beyond_what_one_step_can_list_reach_the_page() {
        let clock = TestClock::new();
        let sessions = 3 * Effects::CAPACITY as u16;
        let names = universe();
        let session = |n| SessionSpec { name: format!("gw-{n}"), kind: SessionKind::Ask, strategies: vec![] };
        let universe = Universe::new(
            2,
            names.currencies.clone(),
            (0..sessions).map(session).collect(),
            names.accounts.clone(),
            names.strategies.clone(),
            names.instruments.clone(),
        );
        let mut limits = LimitTable::unlimited(&universe);
        let silence = limits.edit_all(ScopeKind::Session);
        silence.heartbeat_ns = 1_000_000_000;
        silence.action[Rule::HeartbeatLoss as usize] = Action::Halt(Target::Own);
        let (mut agent, mut edge, _channels) = agent(universe, limits, &clock);
        for s in 0..sessions {
            let event = Event::new(EventKind::Heartbeat, SessionId(s), 1);
            edge.events.push(Inbound { event, received: clock.now().mono }).unwrap();
        }
        while agent.do_work() > 0 {}
        clock.advance(2_000_000_000);
        agent.do_work();
        let halted = |s: &u16| {
            let slot = agent.shell.universe.slot(Scope::Session(SessionId(*s))).unwrap();
            agent.shell.page.get(slot).mode == Mode::Halted
        };
        assert_eq!((0..sessions).filter(halted).count(), usize::from(sessions), "a halt that is on no page is lost");
    }

    #[test]
    fn input_lag_is_the_age_of_what_waited_longest() {
        let universe = Arc::new(universe());
        let clock = TestClock::new();
        let published = Arc::new(Published::new(&universe));
        let (mut edges, ports): (Vec<_>, Vec<_>) = (0..2).map(|_| port(8, Bell::new(), Box::new(NoWake))).unzip();
        let sizing = Sizing { working_orders: 4, remembered_orders: 4, execs: 4, pairs: 4, recent_orders: 4 };
        let table = Arc::new(LimitTable::closed(&universe));
        let (_to_engine, commands) = crossbeam_channel::bounded(1);
        let (notices, _notices) = crossbeam_channel::bounded(1);
        let mut agent = EngineAgent::new(AgentParts {
            engine: Engine::new(universe.clone(), table, sizing, clock.now()),
            page: Arc::new(HaltPage::new(universe.scope_count(), 1)),
            universe,
            published: published.clone(),
            ports,
            lane_changes: crossbeam_channel::never(),
            lease_lag_ns: 0,
            commands,
            notices,
            page_raised: Box::new(NoWake),
            clock: clock.clone(),
        });
        let event = |session, seq| Event::new(EventKind::Heartbeat, SessionId(session), seq);
        edges[1].events.push(Inbound { event: event(0, 1), received: clock.now().mono }).unwrap();
        clock.advance(7_000_000);
        edges[0].events.push(Inbound { event: event(1, 1), received: clock.now().mono }).unwrap();
        edges[1].events.push(Inbound { event: event(0, 2), received: clock.now().mono }).unwrap();
        clock.advance(1_000_000);
        assert_eq!(agent.do_work(), 3);
        let lag = published.input_lag_ns.get();
        assert!((8_000_000..8_001_000).contains(&lag), "{lag} ns");
        assert_eq!(agent.do_work(), 0);
        assert_eq!(published.input_lag_ns.get(), 0, "nothing waits");
    }
}
