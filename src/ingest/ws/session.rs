//! What a session keeps from one connection to the next, and how a connection becomes the session's and ceases to be.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use crate::engine::cancels::link;
use crate::guard::door::ArrivalId;
use crate::ingest::intern::Names;
use crate::ingest::ws::{Conn, Edge, End, IngestOptions, count};
use crate::model::{Event, EventKind, Mode, Verdict};
use crate::units::{InstrumentId, OrdId, SessionId, StrategyId};
use crate::wire::hello::Hello;
use crate::wire::json::{Server, WireLimits};
use crate::wire::{MESSAGE_BYTES_MAX, Protocol};

/// A numbered answer, kept for a reconnect.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) out: u64,
    pub(super) verdict: Verdict,
    /// The id as the client wrote it, if it was a text.
    pub(super) text: Option<Rc<str>>,
    pub(super) strategy: StrategyId,
    pub(super) instrument: InstrumentId,
    /// The page as it was seen when this was first queued.
    pub(super) page: u64,
}

/// What an unanswered request was about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    pub(super) seq: u64,
    pub(super) strategy: StrategyId,
    pub(super) instrument: InstrumentId,
}

/// What a session keeps from one connection to the next.
pub(super) struct SessionState {
    pub(super) conn: Option<Rc<Conn>>,
    /// The latest that was announced at the door: what was found out there is about that one.
    pub(super) arrival: ArrivalId,
    /// The next event to be taken: moves on exactly as the engine's own count will.
    pub(super) next_seq: u64,
    /// The page was last seen to change before this event: it and what follows are judged by the page as it is told.
    pub(super) judged_from: u64,
    /// Everything up to here was acknowledged by the engine.
    pub(super) applied: u64,
    pub(super) pending: VecDeque<Pending>,
    pub(super) kept: VecDeque<Kept>,
    pub(super) kept_by_seq: HashMap<u64, u64>,
    /// The number of the last answer.
    pub(super) out: u64,
    pub(super) orders: Names,
    pub(super) execs: Names,
}

impl SessionState {
    pub(super) fn new(next_seq: u64, options: &IngestOptions, started_s: u64) -> SessionState {
        SessionState {
            conn: None,
            arrival: ArrivalId::default(),
            next_seq,
            judged_from: next_seq,
            applied: next_seq - 1,
            pending: VecDeque::new(),
            kept: VecDeque::new(),
            kept_by_seq: HashMap::new(),
            out: 0,
            orders: Names::new(options.order_texts_max, started_s),
            execs: Names::new(options.exec_texts_max, started_s),
        }
    }

    pub(super) fn keep(&mut self, kept: Kept, bound: usize) {
        if self.kept.len() >= bound.max(1)
            && let Some(old) = self.kept.pop_front()
            && self.kept_by_seq.get(&old.verdict.seq) == Some(&old.out)
        {
            self.kept_by_seq.remove(&old.verdict.seq);
        }
        self.kept_by_seq.insert(kept.verdict.seq, kept.out);
        self.kept.push_back(kept);
    }

    /// Where answer `out` is kept.
    pub(super) fn kept_at(&self, out: u64) -> Option<usize> {
        let first = self.kept.front()?.out;
        let index = usize::try_from(out.checked_sub(first)?).ok()?;
        (index < self.kept.len()).then_some(index)
    }
}

impl Edge {
    /// Makes `conn` the session's connection and queues what it has to know first.
    pub(super) fn attach(&self, conn: &Rc<Conn>, session: SessionId, hello: Hello) {
        let mut hub = self.hub.borrow_mut();
        let hub = &mut *hub;
        // SYNC connected: before the page is looked at. A press that does not see it raised the page before that, so
        // that nothing is admitted here which it does not wait for.
        if let Some(cell) = self.board.cell(usize::from(session.0)) {
            cell.set_connected(true);
        }
        self.look_at_page(hub);
        let kept_bound = self.options.answers_kept;
        let s = &mut hub.sessions[usize::from(session.0)];
        if let Some(old) = s.conn.replace(conn.clone()) {
            count(&self.stats.taken_over, 1);
            old.end(End::TakenOver);
        }
        let same_run = hello.run == 0 || hello.run == self.run;
        let oldest = s.kept.front().map_or(s.out + 1, |k| k.out);
        let wanted = if same_run && hello.out <= s.out { hello.out + 1 } else { oldest };
        let resumed = wanted >= oldest && same_run && hello.out <= s.out;
        let out_from = wanted.max(oldest);
        let name = self.universe.sessions.get(usize::from(session.0)).map_or("", |x| &x.name);
        self.send(
            conn,
            &Server::Welcome {
                session: name.to_owned(),
                run: self.run,
                next_seq: s.next_seq,
                out_from,
                out: s.out,
                resumed,
                page: hub.seen_changes,
                limits: WireLimits {
                    message_bytes_max: MESSAGE_BYTES_MAX,
                    answers_kept: kept_bound,
                    idle_ms: self.options.idle_timeout.as_millis() as u64,
                },
            },
        );
        if conn.protocol == Protocol::Bin {
            self.send_text(conn, self.names.clone());
        }
        let not_normal = (0..hub.words.len()).filter(|slot| hub.words[*slot].mode != Mode::Normal);
        self.send_modes(conn, session, hub.seen_changes, &hub.words, not_normal);
        if let Some(first) = s.kept_at(out_from) {
            for kept in s.kept.iter_mut().skip(first) {
                // A client that remembers this run has not seen this answer, so an order that it would admit was not
                // sent. One that started anew may have sent it before: the engine goes on counting it.
                let page = kept.page;
                if let Some(event) = self.withhold(kept, |slot, _| hub.changed_at[slot] <= page)
                    && hello.run == self.run
                {
                    hub.withdrawn.push_back(event);
                }
                self.send_verdict(conn, kept);
                count(&self.stats.replayed, 1);
            }
        }
        {
            let mut outbox = conn.outbox.borrow_mut();
            outbox.applied = s.applied;
            outbox.applied_sent = 0;
        }
        hub.withdrawn.push_back(link_event(session, if hello.mass_cancel { link::MASS } else { link::THERE }));
        self.push_withdrawn(hub);
    }

    /// The connection is gone.
    pub(super) fn detach(&self, conn: &Rc<Conn>, session: SessionId) {
        let mut hub = self.hub.borrow_mut();
        let hub = &mut *hub;
        let s = &mut hub.sessions[usize::from(session.0)];
        if s.conn.as_ref().is_some_and(|c| Rc::ptr_eq(c, conn)) {
            s.conn = None;
            hub.withdrawn.push_back(link_event(session, link::GONE));
            if let Some(cell) = self.board.cell(usize::from(session.0)) {
                cell.set_connected(false);
            }
            self.push_withdrawn(hub);
        }
        self.door.leave(session, conn.arrival);
    }
}

/// Tells the engine that a session has come or gone. As what is withdrawn it has no place in the session's stream.
fn link_event(session: SessionId, how: u64) -> Event {
    Event { id: OrdId(how), ..Event::new(EventKind::Heartbeat, session, 0) }
}
