//! What the engine and the halt page have for the sessions. No admission is queued without a look at the page.

use crate::engine::agent::Inbound;
use crate::ingest::ws::session::Kept;
use crate::ingest::ws::{Edge, Hub, count};
use crate::model::cancel::{Instruct, Instruction};
use crate::model::effect::Denial;
use crate::model::{Effect, Event, EventKind, Mode, Rule, Scope, Verdict, Why};
use crate::units::{ExecId, InstrumentId, OrdId, SessionId, StrategyId};
use crate::wire::json::{ScopeName, Server};
use crate::wire::{Protocol, bin};

/// Effects taken in one go, so that connections get their turn.
const PUMP_BATCH: usize = 4096;

impl Edge {
    /// Takes what the engine and the halt page have for us. Returns whether there was anything.
    pub(super) fn pump(&self) -> bool {
        let mut hub = self.hub.borrow_mut();
        let hub = &mut *hub;
        let mut worked = self.look_at_page(hub);
        let mut taken = 0;
        while taken < PUMP_BATCH
            && let Ok(effect) = hub.port.effects.pop()
        {
            taken += 1;
            self.take_effect(hub, effect);
        }
        worked |= taken > 0;
        self.push_withdrawn(hub);
        if taken > 0 {
            self.room.notify_waiters();
        }
        worked
    }

    pub(super) fn push_withdrawn(&self, hub: &mut Hub) {
        let received = match hub.withdrawn.is_empty() {
            true => return,
            false => self.clock.now().mono,
        };
        while let Some(event) = hub.withdrawn.front() {
            if hub.port.events.push(Inbound { event: *event, received }).is_err() {
                break;
            }
            hub.withdrawn.pop_front();
        }
        hub.port.engine.ring();
    }

    fn take_effect(&self, hub: &mut Hub, effect: Effect) {
        match effect {
            Effect::Verdict(verdict) => self.take_verdict(hub, verdict),
            Effect::Applied { session, seq } => {
                let Some(s) = hub.sessions.get_mut(usize::from(session.0)) else { return };
                s.applied = s.applied.max(seq);
                if let Some(conn) = &s.conn {
                    let mut outbox = conn.outbox.borrow_mut();
                    outbox.applied = outbox.applied.max(seq);
                    conn.ready.notify_one();
                }
            }
            Effect::Resend { session, from } => {
                let Some(s) = hub.sessions.get_mut(usize::from(session.0)) else { return };
                // Every event behind a gap makes the engine ask. Once per gap and connection is enough, and
                // more would make the client send everything as often.
                if let Some(conn) = &s.conn
                    && conn.resend_asked.replace(from) != from
                {
                    count(&self.stats.resends, 1);
                    match conn.protocol {
                        Protocol::Json => self.send(conn, &Server::Resend { from }),
                        Protocol::Bin => self.send_record(conn, &bin::Answer::Resend { from }),
                    }
                }
            }
            Effect::OrderForgotten { session, id } => {
                if let Some(s) = hub.sessions.get_mut(usize::from(session.0)) {
                    s.orders.release(id.0);
                }
            }
            Effect::ExecForgotten { session, id: ExecId(id) } => {
                if let Some(s) = hub.sessions.get_mut(usize::from(session.0)) {
                    s.execs.release(id);
                }
            }
            Effect::Instruct(instruction) => self.take_instruction(hub, &instruction),
            // These go to the control thread and not into a port.
            Effect::Trip(_) | Effect::Warn(_) | Effect::Anomaly(_) => {}
        }
    }

    /// Tells a session what to cancel, unless the scope was re-armed in the meantime: nothing is canceled because of a halt that
    /// is over, by what the session was told before this. One that was raised again since is told first.
    fn take_instruction(&self, hub: &mut Hub, instruction: &Instruction) {
        let Instruction { to, scope, what } = *instruction;
        let text_of = |hub: &Hub, of: SessionId, id: OrdId| {
            hub.sessions.get(usize::from(of.0)).and_then(|s| s.orders.text(id.0)).cloned()
        };
        let id = match what {
            Instruct::Cancel { of, id, .. } => {
                let text = text_of(hub, of, id);
                if let Some(text) = &text {
                    self.named.note(of, id, text);
                }
                Some((of, id, text))
            }
            Instruct::MassCancel | Instruct::Disconnect => None,
        };
        self.look_at_page(hub);
        let told = |slot: usize| hub.words.get(slot).is_some_and(|word| word.mode != Mode::Normal);
        let halted = self.universe.slot(scope).is_some_and(told);
        let conn = hub.sessions.get(usize::from(to.0)).and_then(|s| s.conn.clone());
        let Some(conn) = conn.filter(|_| halted) else { return };
        let scope = ScopeName::of(scope, &self.universe);
        let message = match (what, id) {
            (Instruct::Cancel { attempt: 0, .. }, _) => return,
            (Instruct::Cancel { attempt, .. }, Some((of, id, text))) => {
                let session = (of != to).then(|| self.universe.scope_name(Scope::Session(of)));
                let id = text.map_or_else(|| id.0.to_string(), |text| text.to_string());
                Server::Cancel { id, session, scope, attempt }
            }
            (Instruct::MassCancel | Instruct::Cancel { .. }, _) => Server::MassCancel { scope },
            (Instruct::Disconnect, _) => Server::DisconnectRequest { scope },
        };
        count(&self.stats.instructions, 1);
        self.send(&conn, &message);
    }

    fn take_verdict(&self, hub: &mut Hub, verdict: Verdict) {
        let Some(s) = hub.sessions.get_mut(usize::from(verdict.session.0)) else { return };
        let not_taken = !verdict.is_taken();
        let mut about = None;
        if !not_taken {
            // The engine answers in the order of the stream; behind a gap nothing is pending.
            while let Some(p) = s.pending.front()
                && p.seq <= verdict.seq
            {
                about = s.pending.pop_front().filter(|p| p.seq == verdict.seq);
            }
            s.applied = s.applied.max(verdict.seq);
        }
        let text = s.orders.text(verdict.id.0).cloned();
        if !not_taken && (verdict.denial.is_some() || verdict.kind == EventKind::Cancel) {
            s.orders.release(verdict.id.0);
        }
        s.out += 1;
        let mut kept = Kept {
            out: s.out,
            verdict,
            text,
            strategy: about.map_or(StrategyId::UNKNOWN, |p| p.strategy),
            instrument: about.map_or(InstrumentId::UNKNOWN, |p| p.instrument),
            page: hub.seen_changes,
        };
        // What was asked before a reduce-only was seen may have been judged without it.
        let judged = verdict.seq >= s.judged_from;
        if let Some(event) = self.withhold(&mut kept, |_, mode| mode == Mode::Normal || judged) {
            hub.withdrawn.push_back(event);
        }
        if let Some(conn) = &s.conn {
            if !not_taken {
                // The verdict itself acknowledges.
                let mut outbox = conn.outbox.borrow_mut();
                outbox.applied = outbox.applied.max(verdict.seq);
                outbox.applied_sent = outbox.applied_sent.max(verdict.seq);
            }
            self.send_verdict(conn, &kept);
        }
        s.keep(kept, self.options.answers_kept);
    }

    /// If the answer admits an order one of whose scopes is halted by now, or does not pass, turns it into a denial
    /// and returns what the engine has to be told.
    pub(super) fn withhold(&self, kept: &mut Kept, passes: impl Fn(usize, Mode) -> bool) -> Option<Event> {
        let v = &mut kept.verdict;
        if v.denial.is_some() || v.kind == EventKind::Cancel {
            return None;
        }
        let strategy = self.universe.strategies.get(usize::from(kept.strategy.0));
        let scopes = [
            Some(Scope::Firm),
            strategy.map(|s| Scope::Account(s.account)),
            Some(Scope::Strategy(kept.strategy)),
            Some(Scope::Instrument(kept.instrument)),
            Some(Scope::Session(v.session)),
        ];
        // A scope that is on no page is halted: an admission that cannot be placed is not given.
        let (scope, mode) = scopes.into_iter().flatten().find_map(|scope| {
            let Some(slot) = self.universe.slot(scope) else { return Some((scope, Mode::Halted)) };
            let mode = self.page.get(slot).mode;
            // One that was raised and re-armed since: which mode it had is not known any more.
            (mode == Mode::Halted || !passes(slot, mode)).then_some((scope, mode.max(Mode::ReduceOnly)))
        })?;
        v.denial = Some(Denial {
            rule: Rule::Mode,
            why: Why::Breach,
            scope,
            observed: mode as i64,
            limit: Mode::Normal as i64,
        });
        count(&self.stats.withdrawn, 1);
        let mut event = Event::new(EventKind::Withdrawn, v.session, 0);
        event.id = v.id;
        event.strategy = kept.strategy;
        event.instrument = kept.instrument;
        event.account = strategy.map_or(event.account, |s| s.account);
        Some(event)
    }

    /// Tells every connected session what has changed on the halt page. Returns whether anything has.
    pub(super) fn look_at_page(&self, hub: &mut Hub) -> bool {
        // The counter first: what is raised behind it is seen twice rather than never.
        let changes = self.page.changes();
        if changes == hub.seen_changes {
            return false;
        }
        hub.seen_changes = changes;
        let mut changed = Vec::new();
        for (slot, seen) in hub.words.iter_mut().enumerate() {
            let word = self.page.get(slot);
            if word != *seen {
                *seen = word;
                hub.changed_at[slot] = changes;
                changed.push(slot);
            }
        }
        for (index, s) in hub.sessions.iter_mut().enumerate() {
            s.judged_from = s.next_seq;
            if let Some(conn) = &s.conn {
                self.send_modes(conn, SessionId(index as u16), changes, &hub.words, changed.iter().copied());
            }
        }
        true
    }
}
