//! The engine's thread: one loop that takes events and commands, steps the core and hands effects on.
//!
//! Order within a round: the halt page first (a kill is never behind an event), then commands, then a
//! batch of events from each port, then time. An event is taken from a port only while the port's
//! effect ring has room for everything one step can produce, so effects are never lost and the engine
//! never waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender};

use crate::duty::{Bell, Clock, Idle, Idler};
use crate::engine::command::Command;
use crate::engine::core::Engine;
use crate::engine::published::Published;
use crate::kill::page::{HaltPage, ModeWord};
use crate::model::{Effect, Effects, Event, Universe};
use crate::units::{MonoNanos, Now};

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
    let (effect_in, effect_out) = rtrb::RingBuffer::new(capacity + 2 * Effects::CAPACITY);
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
    /// Instructions.
    pub commands: Receiver<Command>,
    /// Trips, warnings and anomalies go here. Never waited for.
    pub notices: Sender<Notice>,
    /// Called after the page was raised by a trip: everyone who watches it is woken.
    pub page_raised: Box<dyn Wake>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Wakes the engine.
    pub bell: Arc<Bell>,
}

/// The single writer of risk state.
pub struct EngineAgent {
    parts: AgentParts,
    /// The page as the core knows it.
    seen: Vec<ModeWord>,
    seen_changes: u64,
    effects: Effects,
    sampled: u64,
    show_next: usize,
    last_tick: MonoNanos,
}

/// The most events taken from one port in one round.
const BATCH: usize = 256;
/// Scopes shown per round.
const SHOW_PER_ROUND: usize = 32;
/// How often time alone moves the engine.
const TICK_NS: u64 = 1_000_000;

impl EngineAgent {
    /// An agent that has done nothing yet. The page's present words reach the core in its first round.
    #[must_use]
    pub fn new(parts: AgentParts) -> EngineAgent {
        let seen = vec![ModeWord::default(); parts.page.len()];
        EngineAgent {
            parts,
            seen,
            seen_changes: u64::MAX,
            effects: Effects::new(),
            sampled: 0,
            show_next: 0,
            last_tick: MonoNanos(0),
        }
    }

    /// Loops until `stop`, then takes what is still in the rings.
    pub fn run(mut self, idle: Idle, stop: &AtomicBool) {
        let mut idler = Idler::new(idle);
        let bell = self.parts.bell.clone();
        loop {
            let work = self.do_work();
            if work == 0 && stop.load(Ordering::Acquire) {
                return;
            }
            idler.after(work, &bell, || {
                self.parts.ports.iter().any(|p| !p.events.is_empty())
                    || !self.parts.commands.is_empty()
                    || self.parts.page.changes() != self.seen_changes
            });
        }
    }

    /// One round. Returns how many inputs it took.
    pub fn do_work(&mut self) -> usize {
        let now = self.parts.clock.now();
        let mut work = self.take_page(now) + self.take_commands(now);
        for port in 0..self.parts.ports.len() {
            work += self.take_events(port, now);
        }
        if now.mono.since(self.last_tick) >= TICK_NS {
            self.last_tick = now.mono;
            self.effects.clear();
            self.parts.engine.tick(now, &mut self.effects);
            self.hand_on(None, now);
        }
        self.show(now);
        work
    }

    fn take_page(&mut self, now: Now) -> usize {
        let changes = self.parts.page.changes();
        if changes == self.seen_changes {
            return 0;
        }
        self.seen_changes = changes;
        let mut work = 0;
        for slot in 0..self.seen.len() {
            let word = self.parts.page.get(slot);
            if word != self.seen[slot]
                && let Some(scope) = self.parts.universe.scope_at(slot)
            {
                self.seen[slot] = word;
                self.effects.clear();
                let command = Command::Mode { scope, mode: word.mode, epoch: word.epoch };
                self.parts.engine.command(now, command, &mut self.effects);
                self.hand_on(None, now);
                work += 1;
            }
        }
        work
    }

    fn take_commands(&mut self, now: Now) -> usize {
        let mut work = 0;
        while let Ok(command) = self.parts.commands.try_recv() {
            self.effects.clear();
            self.parts.engine.command(now, command, &mut self.effects);
            self.hand_on(None, now);
            work += 1;
        }
        work
    }

    fn take_events(&mut self, port: usize, now: Now) -> usize {
        let waiting = self.parts.ports[port].events.slots();
        if port == 0 {
            self.parts.published.queue_depth.set(waiting as u64);
        }
        let mut taken = 0;
        let mut effects_out = 0;
        while taken < BATCH.min(waiting) {
            // A kill that was raised during this batch comes before its next event.
            if self.parts.page.changes() != self.seen_changes {
                self.take_page(now);
            }
            let end = &mut self.parts.ports[port];
            if end.effects.slots() < Effects::CAPACITY {
                break;
            }
            let Ok(inbound) = end.events.pop() else { break };
            taken += 1;
            self.effects.clear();
            self.sampled += 1;
            if self.sampled.is_multiple_of(64) {
                let before = self.parts.clock.now();
                self.parts.engine.step(now, &inbound.event, &mut self.effects);
                let spent = self.parts.clock.now().mono.since(before.mono);
                self.parts.published.decision_latency.record(spent);
            } else {
                self.parts.engine.step(now, &inbound.event, &mut self.effects);
            }
            self.parts.published.events[inbound.event.kind as usize - 1].add(1);
            self.parts.published.event_latency.record(now.mono.since(inbound.received));
            effects_out += self.hand_on(Some(port), now);
        }
        if effects_out > 0 {
            self.parts.ports[port].wake.wake();
        }
        taken
    }

    /// Hands the effects of one step on; returns how many went to the port.
    fn hand_on(&mut self, port: Option<usize>, now: Now) -> usize {
        let mut sent = 0;
        let shown = &self.parts.published;
        for effect in self.effects.as_slice() {
            match effect {
                Effect::Trip(trip) => {
                    // SYNC trip: the page first, then everything that tells of it.
                    if let Some(slot) = self.parts.universe.slot(trip.scope) {
                        self.parts.page.raise(slot, trip.mode);
                        self.parts.page_raised.wake();
                    }
                    shown.trips[trip.cause.rule as usize].add(1);
                    if self.parts.notices.try_send(Notice { effect: *effect, at: now }).is_err() {
                        shown.notices_dropped.add(1);
                    }
                }
                Effect::Warn(_) | Effect::Anomaly(_) => {
                    match effect {
                        Effect::Warn(w) => shown.warnings[w.at.rule as usize].add(1),
                        Effect::Anomaly(a) => shown.anomalies[a.kind as usize].add(1),
                        _ => {}
                    }
                    if self.parts.notices.try_send(Notice { effect: *effect, at: now }).is_err() {
                        shown.notices_dropped.add(1);
                    }
                }
                Effect::Verdict(_)
                | Effect::Applied { .. }
                | Effect::Resend { .. }
                | Effect::OrderForgotten { .. }
                | Effect::ExecForgotten { .. } => {
                    if let Effect::Verdict(v) = effect {
                        match v.denial {
                            None => shown.admitted.add(1),
                            Some(d) => shown.denied[d.rule as usize].add(1),
                        }
                    }
                    // `take_events` made sure of the room; a command or a tick has no such effects.
                    if let Some(port) = port
                        && self.parts.ports[port].effects.push(*effect).is_ok()
                    {
                        sent += 1;
                    }
                }
            }
        }
        sent
    }

    fn show(&mut self, now: Now) {
        let shown = &self.parts.published;
        shown.progress.add(1);
        shown.last_round.set(now.mono.0);
        let engine = &mut self.parts.engine;
        engine.show_totals(shown);
        let scopes = self.seen.len();
        for _ in 0..SHOW_PER_ROUND.min(scopes) {
            engine.show_scope(now, self.show_next, shown);
            self.show_next = (self.show_next + 1) % scopes;
        }
    }
}
