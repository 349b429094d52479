//! The engine's thread: one loop that takes events and commands, steps the core and hands effects on.
//!
//! Order within a round: the halt page first (a kill is never behind an event), then commands, then a
//! batch of events from each port, then time. An event is taken from a port only while the port's
//! effect ring has room for everything one step can produce, so effects are never lost and the engine
//! never waits.
//!
//! With a [`Recorder`] every input is in the journal's ring before its effects go anywhere. While that ring has no room
//! nothing more is taken in, so nothing is admitted that is not recorded; the page is still raised by trips and kills,
//! whose effect at the edge does not depend on this thread. With `durable_before_verdict` effects for the ports wait here
//! until what they came of is on disk.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender};

use crate::duty::{Clock, Idle, Idler};
use crate::engine::cancels::link;
use crate::engine::command::{Command, Instruction, LaneChange, Query, Residual, Residuals};
use crate::engine::core::Engine;
use crate::engine::lanes::{Broken, LanePort};
use crate::engine::published::Published;
use crate::engine::record::{BlobKind, Name, Recorder};
use crate::kill::page::{HaltPage, ModeWord};
use crate::model::cancel::{self, Instruct};
use crate::model::effect::{Anomaly, AnomalyKind, Denial};
use crate::model::record::BadField;
use crate::model::{Effect, Effects, Event, EventKind, Mode, Rule, Scope, Trip, Universe, Why};
use crate::ring::bell::Bell;
use crate::units::{MonoNanos, Now, OrdId, SessionId};

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
    /// Where it tells of a text id that got a number, before the first event with that number.
    pub names: rtrb::Producer<Name>,
    /// Rung after events were put in.
    pub engine: Arc<Bell>,
}

/// The engine's end of a port.
pub struct EnginePort {
    events: rtrb::Consumer<Inbound>,
    effects: rtrb::Producer<Effect>,
    names: rtrb::Consumer<Name>,
    wake: Box<dyn Wake>,
    /// Effects that wait for the disk: up to which cell, and what. With [`AgentParts::durable_before_verdict`] only.
    held: VecDeque<(u64, Effect)>,
}

impl EnginePort {
    /// Whether an event of `session` waits.
    fn holds_of(&mut self, session: SessionId) -> bool {
        let waiting = self.events.slots();
        // Nothing is taken: the chunk is not committed.
        self.events.read_chunk(waiting).is_ok_and(|chunk| {
            let (first, second) = chunk.as_slices();
            first.iter().chain(second).any(|inbound| inbound.event.session == session)
        })
    }
}

/// Makes the two ends of a port. `capacity` events may wait on the way in.
#[must_use]
pub fn port(capacity: usize, engine: Arc<Bell>, wake: Box<dyn Wake>) -> (EdgePort, EnginePort) {
    let (event_in, event_out) = rtrb::RingBuffer::new(capacity);
    let (effect_in, effect_out) = rtrb::RingBuffer::new(capacity + (BATCH + 1) * Effects::CAPACITY);
    let (name_in, name_out) = rtrb::RingBuffer::new(2 * capacity.max(1));
    (
        EdgePort { events: event_in, effects: effect_out, names: name_in, engine },
        EnginePort { events: event_out, effects: effect_in, names: name_out, wake, held: VecDeque::new() },
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
    pub commands: Receiver<Instruction>,
    /// Questions about what is left of a halted scope's orders.
    pub queries: Receiver<Query>,
    /// Where inputs are recorded; `None`: nowhere.
    pub recorder: Option<Recorder>,
    /// Whether effects for the ports wait until what they came of survives a power loss.
    pub durable_before_verdict: bool,
    /// How long what is recorded may be not durable before new flow is denied, in ns.
    pub grace_ns: u64,
    /// What [`EngineAgent::run`] records first, and does.
    pub begin: Option<Begin>,
    /// Trips, warnings and anomalies go here. Never waited for.
    pub notices: Sender<Notice>,
    /// Called after the page was raised by a trip: everyone who watches it is woken.
    pub page_raised: Box<dyn Wake>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// The beginning of a run.
#[derive(Clone, Debug)]
pub struct Begin {
    /// The reading that it begins at: a new core was made with it.
    pub now: Now,
    /// The bytes of a [`BlobKind::Start`].
    pub start: Vec<u8>,
    /// Limits that are in force from here on, if they are others than the core was recovered with.
    pub limits: Option<Arc<crate::limits::LimitTable>>,
}

/// The single writer of risk state.
pub struct EngineAgent {
    engine: Engine,
    shell: Shell,
    begin: Option<Begin>,
    batch: Vec<Inbound>,
    show_next: usize,
    shown_at: MonoNanos,
    last_tick: MonoNanos,
    swept_at: MonoNanos,
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
    commands: Receiver<Instruction>,
    queries: Receiver<Query>,
    /// A question that is being answered.
    query: Option<Query>,
    /// Sessions whose lane broke and whose core has not heard of it.
    cut_off: Vec<SessionId>,
    /// By session, the port that it last came by.
    routes: Vec<Option<usize>>,
    /// Taken from `commands`, and there is no room to record it yet.
    put_off: Option<Instruction>,
    /// Taken from `lane_changes`, and events of its session wait in a port.
    put_off_lane: Option<LaneChange>,
    /// The end has begun: nothing more is taken from gateways.
    closing: bool,
    recorder: Option<Recorder>,
    hold: bool,
    grace_ns: u64,
    /// A cell that is not durable yet, as far as is known, and since when there are such: all before it is older.
    mark: (u64, MonoNanos),
    /// The core was told that the journal is behind.
    behind: bool,
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
/// A scope is shown for every this many ns: 50,000 a second, whether rounds are short or long.
const SHOW_NS: u64 = 20_000;
/// The most that one round shows: some microseconds' worth.
const SHOW_MAX: u64 = 32;
/// How long the cancels after a halt wait for a transport that takes nothing.
const SWEEP_PATIENCE_NS: u64 = 10_000_000;
/// Places of the table of orders that a question is answered of in one round.
const ANSWERED_PER_ROUND: u32 = 4096;
/// How often time alone moves the engine.
const TICK_NS: u64 = 1_000_000;

impl EngineAgent {
    /// An agent that has done nothing yet. The page's present words reach the core in its first round. For a recovered
    /// core the page has to be raised to its modes before: what the page does not show does not reach the core.
    #[must_use]
    pub fn new(mut parts: AgentParts) -> EngineAgent {
        if parts.durable_before_verdict && parts.recorder.is_some() {
            for port in &mut parts.ports {
                port.held.reserve_exact(port.effects.slots());
            }
        }
        let shell = Shell {
            lanes: Vec::with_capacity(parts.universe.sessions.len()),
            cut_off: Vec::with_capacity(parts.universe.sessions.len()),
            routes: vec![None; parts.universe.sessions.len()],
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
            queries: parts.queries,
            query: None,
            put_off: None,
            put_off_lane: None,
            closing: false,
            hold: parts.durable_before_verdict && parts.recorder.is_some(),
            grace_ns: parts.grace_ns,
            mark: (0, MonoNanos(0)),
            behind: parts.engine.is_behind(),
            recorder: parts.recorder,
            notices: parts.notices,
            page_raised: parts.page_raised,
            clock: parts.clock,
        };
        EngineAgent {
            engine: parts.engine,
            shell,
            begin: parts.begin,
            batch: Vec::with_capacity(BATCH),
            show_next: 0,
            shown_at: MonoNanos(0),
            last_tick: MonoNanos(0),
            swept_at: MonoNanos(0),
        }
    }

    /// Loops until `stop` is set and nothing is left to take. From then on nothing is taken from gateways, which never stop by
    /// themselves: what they send stays in their lanes, for the next run. `bell` is the one that the ports ring.
    pub fn run(mut self, idle: Idle, bell: &Bell, stop: &AtomicBool) {
        let mut idler = Idler::new(idle);
        self.begin();
        loop {
            self.shell.closing |= stop.load(Ordering::Acquire);
            let work = self.do_work();
            if work == 0 && stop.load(Ordering::Acquire) && !self.shell.holds_back() {
                self.finish();
                return;
            }
            let shell = &self.shell;
            idler.after(work, bell, || {
                shell.ports.iter().any(|p| !p.events.is_empty())
                    || shell.lanes.iter().any(LanePort::has_next)
                    || !shell.lane_changes.is_empty()
                    || !shell.commands.is_empty()
                    || !shell.queries.is_empty()
                    || shell.page.changes() != shell.seen_changes
                    || shell.held_is_durable()
                    || stop.load(Ordering::Acquire)
            });
        }
    }

    /// Records the beginning of the run: before anything else, so that a replay knows what to make of it.
    /// [`EngineAgent::run`] does it by itself.
    pub fn begin(&mut self) {
        let Some(Begin { now, start, limits }) = self.begin.take() else { return };
        if let Some(recorder) = &mut self.shell.recorder {
            recorder.blob(now, BlobKind::Start, &start);
        }
        self.engine.begin_run(now);
        self.shell.effects.clear();
        if let Some(table) = limits {
            self.engine.command(now, Command::SetLimits(table), &mut self.shell.effects);
        }
        self.shell.hand_on(&self.engine, Out::Nobody, now);
    }

    /// Records what a replay has to come to at the end. [`EngineAgent::run`] does it by itself.
    pub fn finish(&mut self) {
        let now = self.shell.clock.now();
        self.shell.check(&self.engine, now);
    }

    /// One round. Returns how many inputs it took.
    pub fn do_work(&mut self) -> usize {
        let now = self.shell.clock.now();
        let mut work = self.shell.release_held(now);
        // Before the page: a session that is re-armed once its gateway has attached anew has another lane by then.
        work += self.shell.take_lane_changes(&mut self.engine, now);
        work += self.shell.take_page(&mut self.engine, now) + self.shell.take_commands(&mut self.engine, now);
        self.shell.look_at_journal(&mut self.engine, now);
        self.show_lag(now);
        for port in 0..self.shell.ports.len() {
            work += self.take_events(port, now);
        }
        let lanes = if self.shell.closing { 0 } else { self.shell.lanes.len() };
        for lane in 0..lanes {
            work += self.take_lane(lane, now);
        }
        if now.mono.since(self.last_tick) >= TICK_NS && self.shell.recorder.as_mut().is_none_or(|r| r.fits(1)) {
            self.last_tick = now.mono;
            self.shell.effects.clear();
            if self.engine.tick(now, &mut self.shell.effects) {
                if let Some(recorder) = &mut self.shell.recorder {
                    recorder.tick(now);
                }
                self.shell.hand_on(&self.engine, Out::Nobody, now);
            }
        }
        work += self.sweep_cancels(now);
        work += self.shell.answer_query(&self.engine);
        if self.shell.recorder.as_ref().is_some_and(|r| r.check_is_due(now)) {
            self.shell.check(&self.engine, now);
        }
        self.shell.renew_lease(now);
        self.show(now);
        work
    }

    fn take_events(&mut self, port: usize, now: Now) -> usize {
        let EngineAgent { engine, shell, batch, .. } = self;
        let end = &mut shell.ports[port];
        let waiting = end.events.slots();
        if port == 0 {
            shell.published.queue_depth.set(waiting as u64);
        }
        // Everything that the batch can produce must find room in the port's effect ring, and the batch in the journal's.
        let free = end.effects.slots().saturating_sub(end.held.len());
        let mut room = (free / Effects::CAPACITY).saturating_sub(1);
        if let Some(recorder) = &mut shell.recorder {
            // SYNC names: a name was put in before the first event with it; `waiting` was read before this, so the names of
            // all events that are taken now are here.
            while recorder.fits(Name::CELLS_MAX)
                && let Ok(name) = end.names.pop()
            {
                recorder.name(&name);
            }
            room = if end.names.is_empty() { room.min(recorder.events_fit()) } else { 0 };
        } else {
            while end.names.pop().is_ok() {}
        }
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
        let most = shell.recorder.as_mut().map_or(BATCH, |recorder| recorder.events_fit().min(BATCH));
        let taken = shell.lanes[lane].take(most, now.mono, batch);
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

    /// Takes a step of the cancels after a halt. Not while the page has changed: a re-arm comes first. A transport that takes
    /// nothing holds the others up for a moment only; what finds no room is repeated like what is not answered.
    fn sweep_cancels(&mut self, now: Now) -> usize {
        let EngineAgent { engine, shell, swept_at, .. } = self;
        if !engine.cancels_are_due(now) || shell.page.changes() != shell.seen_changes {
            return 0;
        }
        let has_room = |port: &EnginePort| port.effects.slots() >= port.held.len() + Effects::CAPACITY;
        let waits = !shell.ports.iter().all(has_room) && now.mono.since(*swept_at) < SWEEP_PATIENCE_NS;
        if waits || shell.recorder.as_mut().is_some_and(|recorder| !recorder.fits(1)) {
            return 0;
        }
        *swept_at = now.mono;
        shell.effects.clear();
        if !engine.sweep_cancels(now, &mut shell.effects) {
            return 0;
        }
        if let Some(recorder) = &mut shell.recorder {
            recorder.sweep(now);
        }
        if shell.hand_on(engine, Out::Nobody, now) > 0 {
            shell.ports.iter().for_each(|port| port.wake.wake());
        }
        1
    }

    /// Shows how late the engine is. An event that finds no room for its effects is not taken, but its age counts.
    fn show_lag(&self, now: Now) {
        let heads = self.shell.ports.iter().filter_map(|port| port.events.peek().ok());
        let heads = heads.map(|inbound| inbound.received);
        let lanes = self.shell.lanes.iter().filter_map(LanePort::waiting_since);
        let oldest = heads.chain(lanes).map(|received| now.mono.since(received)).max();
        self.shell.published.input_lag_ns.set(oldest.unwrap_or(0));
    }

    fn show(&mut self, now: Now) {
        let shown = &self.shell.published;
        shown.progress.add(1);
        shown.last_round.set(now.mono.0);
        let host_now = self.shell.clock.host_ns(now.mono);
        self.shell.page.show_round(host_now, shown.input_lag_ns.get());
        self.engine.show_totals(shown);
        if let Some(recorder) = &self.shell.recorder {
            recorder.durability().recorded.set(recorder.position());
        }
        let scopes = self.shell.seen.len();
        let due = (now.mono.since(self.shown_at) / SHOW_NS).min(SHOW_MAX);
        if due > 0 {
            self.shown_at = now.mono;
        }
        for _ in 0..due.min(scopes as u64) {
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
        // Without room to record it the page waits, and with it everything that would have to obey it.
        if self.recorder.as_mut().is_some_and(|r| !r.page_fits()) {
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
                if let Some(recorder) = &mut self.recorder {
                    recorder.mode(now, scope, word.mode, word.epoch);
                }
                let command = Command::Mode { scope, mode: word.mode, epoch: word.epoch };
                engine.command(now, command, &mut self.effects);
                self.hand_on(engine, Out::Nobody, now);
                work += 1;
            }
        }
        // What a broken lane holds is not booked: its session stays halted until a gateway has attached anew.
        for lane in 0..self.lanes.len() {
            let session = Scope::Session(self.lanes[lane].session());
            let mode = self.universe.slot(session).map(|slot| self.page.get(slot).mode);
            if self.lanes[lane].is_broken() && mode.is_some_and(|mode| mode != Mode::Halted) {
                self.break_lane(lane, Broken::BadField(BadField { field: "lane", value: 0 }), now);
            }
        }
        work
    }

    fn take_commands(&mut self, engine: &mut Engine, now: Now) -> usize {
        let mut work = 0;
        while let Some(instruction) = self.put_off.take().or_else(|| self.commands.try_recv().ok()) {
            let cells = match &instruction {
                Instruction::Limits { text, .. } => Recorder::blob_cells(text.len()),
                Instruction::NewDay => 1,
            };
            if self.recorder.as_mut().is_some_and(|r| !r.fits(cells)) {
                self.put_off = Some(instruction);
                break;
            }
            let command = match instruction {
                Instruction::Limits { table, text } => {
                    if let Some(recorder) = &mut self.recorder {
                        recorder.blob(now, BlobKind::Limits, text.as_bytes());
                    }
                    Command::SetLimits(table)
                }
                Instruction::NewDay => {
                    if let Some(recorder) = &mut self.recorder {
                        recorder.new_day(now);
                    }
                    Command::NewDay
                }
            };
            self.effects.clear();
            engine.command(now, command, &mut self.effects);
            self.hand_on(engine, Out::Nobody, now);
            work += 1;
        }
        work
    }

    /// Tells the core when the journal falls further behind than its grace, and when it has caught up.
    fn look_at_journal(&mut self, engine: &mut Engine, now: Now) {
        let Some(recorder) = &mut self.recorder else { return };
        if recorder.is_durable(self.mark.0) {
            self.mark = (recorder.position(), now.mono);
        }
        let late = !recorder.is_durable(self.mark.0) && now.mono.since(self.mark.1) > self.grace_ns;
        if late != self.behind && recorder.fits(1) {
            self.behind = late;
            recorder.durability().behind.set(u64::from(late));
            recorder.behind(now, late);
            self.effects.clear();
            engine.command(now, Command::Behind(late), &mut self.effects);
            self.hand_on(engine, Out::Nobody, now);
        }
    }

    /// Whether anything waits here for room or for the disk.
    fn holds_back(&self) -> bool {
        self.put_off.is_some()
            || self.ports.iter().any(|port| !port.held.is_empty())
            || self.lanes.iter().any(LanePort::holds_back)
    }

    /// Records what a replay has to come to here.
    fn check(&mut self, engine: &Engine, now: Now) {
        if let Some(recorder) = &mut self.recorder
            && recorder.fits(1)
        {
            recorder.check(now, engine.state_hash());
        }
    }

    /// Whether something that waited for the disk is there now.
    fn held_is_durable(&self) -> bool {
        self.recorder.as_ref().is_some_and(|recorder| {
            self.ports.iter().any(|port| port.held.front().is_some_and(|(position, _)| recorder.is_durable(*position)))
                || self.lanes.iter().any(|lane| lane.can_release(|position| recorder.is_durable(position)))
        })
    }

    /// Lets go what waited for the disk and is there now; returns how much.
    fn release_held(&mut self, now: Now) -> usize {
        let mut released = 0;
        for lane in 0..self.lanes.len() {
            let Some(recorder) = &self.recorder else { return 0 };
            match self.lanes[lane].release_held(|position| recorder.is_durable(position)) {
                Ok(count) => released += count,
                Err(broken) => self.break_lane(lane, broken, now),
            }
        }
        let Some(recorder) = &self.recorder else { return 0 };
        for port in self.ports.iter_mut().filter(|port| !port.held.is_empty()) {
            let before = released;
            while let Some((position, effect)) = port.held.front()
                && recorder.is_durable(*position)
            {
                // Room was made sure of before the step.
                released += usize::from(port.effects.push(*effect).is_ok());
                port.held.pop_front();
            }
            if released > before {
                port.wake.wake();
            }
        }
        released
    }

    /// Steps one event; returns how many effects went to the port.
    fn step(&mut self, engine: &mut Engine, out: Out, inbound: &Inbound, now: Now) -> usize {
        // A kill that was raised during this batch comes before its next event.
        if self.page.changes() != self.seen_changes {
            self.take_page(engine, now);
        }
        if let (Out::Port(port), EventKind::Heartbeat, 0) = (out, inbound.event.kind, inbound.event.seq)
            && let Some(route) = self.routes.get_mut(usize::from(inbound.event.session.0))
        {
            *route = Some(port);
        }
        self.effects.clear();
        if let Some(recorder) = &mut self.recorder {
            recorder.event(now, &inbound.event);
        }
        self.sampled += 1;
        if self.sampled.is_multiple_of(64) {
            let before = self.clock.now();
            engine.step(now, &inbound.event, &mut self.effects);
            let spent = self.clock.now().mono.since(before.mono);
            self.published.decision_latency.record(spent);
        } else {
            engine.step(now, &inbound.event, &mut self.effects);
        }
        // That a session came or went is no event of its stream.
        if (inbound.event.kind, inbound.event.seq) == (EventKind::Heartbeat, 0) {
            return self.hand_on(engine, out, now);
        }
        self.published.events[inbound.event.kind as usize - 1].add(1);
        if let Some(counts) = self.published.instances.get(usize::from(inbound.event.session.0)) {
            counts.count(inbound.event.kind);
        }
        if inbound.event.kind == EventKind::Rejected
            && let Some(flow) = self.published.sessions.get(usize::from(inbound.event.session.0))
        {
            flow.rejects.add(1);
        }
        self.published.event_latency.record(now.mono.since(inbound.received));
        self.hand_on(engine, out, now)
    }

    /// Hands the effects of one step on; returns how many went to the port.
    fn hand_on(&mut self, engine: &Engine, out: Out, now: Now) -> usize {
        if let Some(recorder) = &mut self.recorder {
            recorder.publish(self.effects.as_slice());
        }
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
                    self.published.breach(&self.universe, trip.session, trip.scope);
                    self.notify(effect, now);
                }
                Effect::Warn(warn) => {
                    self.published.warnings[warn.at.rule as usize].add(1);
                    self.notify(effect, now);
                }
                Effect::Anomaly(anomaly) => {
                    if let (Out::Lane(lane), AnomalyKind::DuplicateSeq) = (out, anomaly.kind) {
                        self.break_foreign(lane, anomaly.seq, now);
                    }
                    self.published.anomalies[anomaly.kind as usize].add(1);
                    self.published.breach(&self.universe, anomaly.session, Scope::Session(anomaly.session));
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
                        None => {
                            self.published.admitted.add(1);
                            if verdict.kind == EventKind::New
                                && let Some(flow) = self.published.sessions.get(usize::from(verdict.session.0))
                            {
                                flow.admitted.add(1);
                            }
                        }
                        Some(denial) => {
                            self.published.denied[denial.rule as usize].add(1);
                            self.published.denial(&self.universe, verdict.session, &denial);
                        }
                    }
                    // A verdict acknowledges what came before it in its session, unless that is missing.
                    match self.applied {
                        Some((last, _)) if last == verdict.session && verdict.is_taken() => self.applied = None,
                        _ => sent += self.flush_applied(out),
                    }
                    sent += self.send(out, effect, now);
                }
                Effect::Instruct(instruction) => sent += self.instruct(&instruction, now),
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
                // Held until the disk has what it came of, where that is asked for.
                let position = self.recorder.as_ref().filter(|_| self.hold).map(Recorder::position);
                let answered = match position {
                    Some(position) => {
                        self.lanes[lane].hold(position, verdict);
                        Ok(())
                    }
                    None => self.lanes[lane].answer(&verdict),
                };
                if let Err(broken) = answered {
                    self.break_lane(lane, broken, now);
                }
                1
            }
            (Out::Lane(lane), Effect::Resend { from, .. }) => {
                self.break_foreign(lane, from, now);
                0
            }
            // Numbers need not be forgotten.
            (Out::Lane(_), _) => 0,
        }
    }

    fn push(&mut self, port: usize, effect: Effect) -> usize {
        let port = &mut self.ports[port];
        if self.hold
            && let Some(recorder) = &self.recorder
        {
            port.held.push_back((recorder.position(), effect));
            return 0;
        }
        usize::from(port.effects.push(effect).is_ok())
    }

    /// Passes an instruction on to its session: by its lane, or by the transport that it came by. It does not wait for the disk,
    /// since it admits nothing.
    fn instruct(&mut self, instruction: &cancel::Instruction, now: Now) -> usize {
        let names_only = matches!(instruction.what, Instruct::Cancel { attempt: 0, .. });
        let lane = self.lanes.iter().position(|lane| lane.session() == instruction.to && !lane.is_broken());
        let port = self.routes.get(usize::from(instruction.to.0)).copied().flatten();
        // A session that has not come yet in this run is named to the first transport.
        let port = port.or(names_only.then_some(0));
        let given = match (lane, port.and_then(|port| self.ports.get_mut(port))) {
            // Ids of a lane are numbers.
            (Some(_), _) if names_only => return 0,
            (Some(lane), _) => match self.lanes[lane].instruct(instruction) {
                Ok(given) => given,
                Err(broken) => {
                    self.break_lane(lane, broken, now);
                    false
                }
            },
            (None, Some(port)) => {
                let room = port.effects.slots() > port.held.len();
                room && port.effects.push(Effect::Instruct(*instruction)).is_ok()
            }
            (None, None) => names_only,
        };
        self.published.cancels.lost.add(u64::from(!given));
        usize::from(given && lane.is_none())
    }

    /// Answers a question about what is left, a part of it in each round. Nothing is allocated: the question brings its room.
    fn answer_query(&mut self, engine: &Engine) -> usize {
        if self.query.is_none() {
            self.query = self.queries.try_recv().ok();
        }
        let Some(query) = &mut self.query else { return 0 };
        let Residuals { rows, by_session } = &mut query.answer;
        let next = engine.each_residual(query.place, query.next, ANSWERED_PER_ROUND, |session, id, mark| {
            if rows.len() < rows.capacity() {
                rows.push(Residual { session, id, state: mark.state, attempts: mark.attempts });
            }
            if let Some(count) = by_session.get_mut(usize::from(session.0)) {
                *count += 1;
            }
        });
        match next {
            Some(next) if rows.len() < rows.capacity() || !by_session.is_empty() => query.next = next,
            Some(_) | None => {
                if let Some(Query { answer, reply, .. }) = self.query.take() {
                    // Who asked may have given up.
                    let _ = reply.try_send(answer);
                }
            }
        }
        1
    }

    /// Tells the core that the session of a lane has come or gone.
    fn link(&mut self, engine: &mut Engine, session: SessionId, how: u64, now: Now) {
        let mut event = Event::new(EventKind::Heartbeat, session, 0);
        event.id = OrdId(how);
        self.effects.clear();
        if let Some(recorder) = &mut self.recorder {
            recorder.event(now, &event);
        }
        engine.step(now, &event, &mut self.effects);
        self.hand_on(engine, Out::Nobody, now);
    }

    fn take_lane_changes(&mut self, engine: &mut Engine, now: Now) -> usize {
        let mut work = 0;
        while let Some(session) = self.cut_off.last().copied()
            && self.recorder.as_mut().is_none_or(|recorder| recorder.fits(2))
        {
            self.cut_off.pop();
            self.link(engine, session, link::GONE, now);
        }
        while let Some(change) = self.put_off_lane.take().or_else(|| self.lane_changes.try_recv().ok()) {
            // Where the stream is, is known when what a transport had taken of it is booked.
            if let LaneChange::Expected { session, .. } = &change
                && self.ports.iter_mut().any(|port| port.holds_of(*session))
            {
                self.put_off_lane = Some(change);
                break;
            }
            if self.recorder.as_mut().is_some_and(|recorder| !recorder.fits(2)) {
                self.put_off_lane = Some(change);
                break;
            }
            match change {
                LaneChange::Add(mut lane) => {
                    self.lanes.retain(|other| other.session() != lane.session());
                    if self.hold {
                        lane.reserve();
                    }
                    let session = lane.session();
                    self.lanes.push(lane);
                    self.link(engine, session, link::THERE, now);
                }
                LaneChange::There(session) => self.link(engine, session, link::THERE, now),
                LaneChange::Gone(session) => self.link(engine, session, link::GONE, now),
                // Who asked may have given up.
                LaneChange::Expected { session, reply } => drop(reply.try_send(engine.expected(session))),
            }
            work += 1;
        }
        work
    }

    /// Positions have no gaps and none comes twice: the stream is not the one that the engine knows, and what is in it would be
    /// lost.
    fn break_foreign(&mut self, lane: usize, seq: u64, now: Now) {
        if !self.lanes[lane].is_broken() {
            self.break_lane(lane, Broken::BadField(BadField { field: "sequence", value: seq }), now);
        }
    }

    /// What a session's gateway wrote cannot be relied on any more: the session halts, the others go on.
    fn break_lane(&mut self, lane: usize, broken: Broken, now: Now) {
        let session = self.lanes[lane].session();
        self.lanes[lane].give_up();
        if self.cut_off.len() < self.cut_off.capacity() {
            self.cut_off.push(session);
        }
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
            || self.closing
            || now.mono.since(self.lease_renewed) < span / 16
            || self.published.input_lag_ns.get() > self.lease_lag_ns
        {
            return;
        }
        // From the round's begin, which is before anything that it did.
        self.lease_renewed = now.mono;
        self.page.renew_lease(self.clock.host_ns(now.mono).saturating_add(span));
    }

    fn notify(&self, effect: Effect, now: Now) {
        if self.notices.try_send(Notice { effect, at: now }).is_err() {
            self.published.notices_dropped.add(1);
        }
    }
}

#[cfg(test)]
mod tests;
