//! The WebSocket transport: one thread, one tokio runtime, one port to the engine.
//!
//! # A session and its connections
//!
//! A session outlives its connections. `SessionState` holds what must not be lost between two of them: the
//! next sequence expected, the numbered answers (a bounded ring), the text ids. A new connection of a session
//! takes over from the old one, so that a half-open TCP connection never locks a gateway out.
//!
//! ```text
//! socket ─▶ read ─▶ decode ─▶ intern ─▶ port.events ─▶ engine
//!   ▲                                                    │
//!   └─ flush ◀─ outbox (bounded) ◀─ pump ◀─ port.effects ┘   pump also looks at the halt page
//! ```
//!
//! Everything runs on one thread, and nothing is borrowed across an `await`.
//!
//! # Finality
//!
//! `pump` looks at the halt page for every admission that it queues, also for one that it queues again. If
//! the order's scope is halted by then, the client gets a denial by `mode`, and the engine a `withdrawn` for
//! the order (sequence 0, outside the session's stream). So an admission that is sent after a halt was
//! raised is of an order that was not in its scope. The same goes for reduce-only, if the request may have been
//! judged before it, and for what is queued again after a scope was raised, even if that was re-armed since: what
//! was asked before a halt is not admitted after it.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Message, Utf8Bytes};

use crate::duty::Clock;
use crate::engine::agent::{EdgePort, Inbound, Wake};
use crate::engine::cancels::link;
use crate::engine::record::{Name, NameOf};
use crate::guard::door::{Arrival, ArrivalId, Door, Peer, Way};
use crate::guard::signatures::Text;
use crate::ingest::intern::{NOBODY, Names, parent_number};
use crate::kill::board::SessionBoard;
use crate::kill::names::OrderNames;
use crate::kill::page::{HaltPage, ModeWord};
use crate::model::cancel::{Instruct, Instruction};
use crate::model::effect::Denial;
use crate::model::{Claim, Effect, Event, EventKind, Mode, Rule, Scope, SessionKind, Universe, Verdict, Why};
use crate::units::{ExecId, InstrumentId, OrdId, SessionId, StrategyId};
use crate::wire::hello::Hello;
use crate::wire::json::{Client, ScopeMode, ScopeName, Server, VerdictMessage, WireLimits};
use crate::wire::text::{self, TextMessage};
use crate::wire::{Draft, Fault, MESSAGE_BYTES_MAX, Problem, Protocol, bin, json};

/// Who a bearer token belongs to.
pub trait Authenticate: Send + Sync {
    /// The session that `bearer` is the token of. Compares in constant time.
    fn session(&self, bearer: &str) -> Option<SessionId>;
}

/// Bounds and times of the transport.
#[derive(Clone, Debug)]
pub struct IngestOptions {
    /// The most connections at once, those that are not authenticated yet included.
    pub connections_max: usize,
    /// How long a client may take for TCP and HTTP.
    pub handshake_timeout: Duration,
    /// How long it may take to say `hello`.
    pub hello_timeout: Duration,
    /// How long the look at what runs there may take: the first one reads the whole executable.
    pub door_timeout: Duration,
    /// A connection from which nothing came for this long, not even a pong, is closed. Pings go out three
    /// times as often. Time in which we stand still ourselves does not count.
    pub idle_timeout: Duration,
    /// How long a write may make no progress before the client counts as a slow reader.
    pub write_timeout: Duration,
    /// Answers kept per session for a reconnect.
    pub answers_kept: usize,
    /// The most messages that wait for one client; one more and it is dropped.
    pub queue_messages_max: usize,
    /// The most bytes that wait for one client.
    pub queue_bytes_max: usize,
    /// How long to look for the engine's answer before going to sleep.
    pub spin: Duration,
    /// Text order ids held per session.
    pub order_texts_max: usize,
    /// Text exec ids held per session.
    pub exec_texts_max: usize,
    /// Values of `Origin` that may connect. A gateway sends none; a browser always does.
    pub origins: Vec<String>,
}

impl Default for IngestOptions {
    fn default() -> Self {
        IngestOptions {
            connections_max: 256,
            handshake_timeout: Duration::from_secs(5),
            hello_timeout: Duration::from_secs(5),
            door_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(15),
            write_timeout: Duration::from_secs(2),
            answers_kept: 1 << 16,
            queue_messages_max: 1 << 17,
            queue_bytes_max: 32 << 20,
            spin: Duration::from_micros(10),
            order_texts_max: 1 << 21,
            exec_texts_max: 1 << 22,
            origins: Vec::new(),
        }
    }
}

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of the transport. Written by its thread, read by any.
        #[derive(Debug, Default)]
        pub struct IngestStats { $($(#[$doc])* pub $name: AtomicU64,)* }
    };
}

stats! {
    /// Connections now.
    connections,
    /// Connections accepted, in total.
    accepted,
    /// Refused: too many connections.
    refused_full,
    /// Refused: no token, or a wrong one.
    refused_auth,
    /// Refused: an `Origin` that is not listed.
    refused_origin,
    /// Refused: no subprotocol that we speak.
    refused_protocol,
    /// Refused: no handshake or no `hello` in time, or one that is no HTTP or no `hello`.
    refused_handshake,
    /// Refused: the session is attached by a gate on this host.
    refused_gate,
    /// Events passed to the engine.
    events,
    /// Events received again.
    duplicates,
    /// Messages answered with `error`.
    errors,
    /// Times a client was asked to send again.
    resends,
    /// Answers sent again after a reconnect or for a repeated request.
    replayed,
    /// Connections dropped because their client did not read.
    dropped_slow,
    /// Connections closed because the session connected anew.
    taken_over,
    /// Connections closed because nothing came.
    idle_closed,
    /// Payload bytes received.
    bytes_in,
    /// Payload bytes queued to be sent.
    bytes_out,
    /// `mode` messages queued.
    mode_pushes,
    /// Admissions withheld because of a halt.
    withdrawn,
    /// Instructions to cancel, one by one and in mass, and to disconnect, that were queued.
    instructions,
    /// Texts for which there was no room.
    texts_full,
    /// Log lines and reject texts passed to the guard.
    log_texts,
    /// Log lines and reject texts for which the guard had no room.
    log_texts_dropped,
    /// Times that a read waited because the engine's ring was full.
    ring_full,
}

fn count(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// Wakes the transport: given to the engine, and to whoever raises the halt page.
///
/// A wake-up of a thread that is awake costs a fence and a load.
#[derive(Clone, Debug, Default)]
pub struct IngestWake(Arc<WakeState>);

#[derive(Debug, Default)]
struct WakeState {
    asleep: AtomicBool,
    notify: Notify,
}

impl Wake for IngestWake {
    fn wake(&self) {
        // SYNC asleep: pairs with the fence in `arm`: either the transport sees what was put into the ring or
        // the page before this, or this sees it asleep.
        fence(Ordering::SeqCst);
        if self.0.asleep.load(Ordering::SeqCst) && self.0.asleep.swap(false, Ordering::SeqCst) {
            self.0.notify.notify_one();
        }
    }
}

impl IngestWake {
    /// Asks to be woken. What is there already must be looked at afterwards.
    fn arm(&self) {
        self.0.asleep.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }
    fn disarm(&self) {
        self.0.asleep.store(false, Ordering::SeqCst);
    }
}

/// What the transport is made of.
pub struct IngestParts {
    /// All names.
    pub universe: Arc<Universe>,
    /// The halt page.
    pub page: Arc<HaltPage>,
    /// Where connections and confirmations are shown.
    pub board: Arc<SessionBoard>,
    /// The way to the engine and back.
    pub port: EdgePort,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Who is who.
    pub auth: Arc<dyn Authenticate>,
    /// Who has to look at a session before it is let in.
    pub door: Arc<dyn Door>,
    /// Where log lines and reject texts go. Never waited for: what finds no room is counted.
    pub texts: crossbeam_channel::Sender<Text>,
    /// Where to listen.
    pub listener: TcpListener,
    /// Bounds and times.
    pub options: IngestOptions,
    /// The same that the engine's end of the port and the kill path have.
    pub wake: IngestWake,
    /// Turns true, or is dropped, when it is time to end.
    pub stop: watch::Receiver<bool>,
    /// Counters.
    pub stats: Arc<IngestStats>,
    /// By session, the next sequence that the engine expects; sessions beyond its end begin at 1.
    pub next_seq: Vec<u64>,
    /// Text ids of earlier runs that the engine remembers.
    pub names: Vec<Name>,
    /// Where the texts of orders that are to be canceled are kept for reports.
    pub named: Arc<OrderNames>,
}

/// Serves until `stop`; blocks its thread.
///
/// # Errors
/// If the runtime or the listener cannot be set up. A failed connection is no error.
pub fn run(parts: IngestParts) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, serve(parts))
}

async fn serve(parts: IngestParts) -> io::Result<()> {
    parts.listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(parts.listener)?;
    let mut stop = parts.stop;
    let wake = parts.wake;
    let unix_ns = parts.clock.now().unix.0;
    let sessions = parts.universe.sessions.len();
    let mut states: Vec<SessionState> = (0..sessions)
        .map(|s| {
            let next = parts.next_seq.get(s).copied().unwrap_or(1).max(1);
            SessionState::new(next, &parts.options, unix_ns / 1_000_000_000)
        })
        .collect();
    for name in &parts.names {
        let Some(state) = states.get_mut(usize::from(name.session.0)) else { continue };
        match name.of {
            NameOf::Order => state.orders.restore(name.text(), name.number),
            NameOf::Exec => state.execs.restore(name.text(), name.number),
        }
    }
    let edge = Rc::new(Edge {
        hub: RefCell::new(Hub {
            words: vec![ModeWord::default(); parts.page.len()],
            changed_at: vec![0; parts.page.len()],
            seen_changes: u64::MAX,
            sessions: states,
            port: parts.port,
            withdrawn: VecDeque::new(),
        }),
        names: Utf8Bytes::from(Server::names(&parts.universe).encode()),
        universe: parts.universe,
        page: parts.page,
        board: parts.board,
        clock: parts.clock,
        auth: parts.auth,
        door: parts.door,
        texts: parts.texts,
        options: parts.options,
        wake,
        stats: parts.stats,
        // Microseconds stay below 2^53, so that any JSON reader holds them exactly.
        run: unix_ns / 1_000,
        room: Notify::new(),
        stopping: Cell::new(false),
        named: parts.named,
    });
    edge.pump();
    let pump = {
        let edge = edge.clone();
        tokio::task::spawn_local(async move {
            loop {
                edge.wake.arm();
                if !edge.pump() {
                    edge.wake.0.notify.notified().await;
                }
                // Others run between two looks, however much there is to take.
                tokio::task::yield_now().await;
            }
        })
    };
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                if edge.stats.connections.load(Ordering::Relaxed) >= edge.options.connections_max as u64 {
                    count(&edge.stats.refused_full, 1);
                    continue;
                }
                let held = ConnectionCount::new(edge.stats.clone());
                let edge = edge.clone();
                tokio::task::spawn_local(async move {
                    let _held = held;
                    connection(&edge, stream).await;
                });
            }
            // Out of descriptors, or a client that went away: neither ends the service, but a pause keeps
            // the first from becoming a busy loop.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    edge.stopping.set(true);
    let conns: Vec<Rc<Conn>> = edge.hub.borrow().sessions.iter().filter_map(|s| s.conn.clone()).collect();
    for conn in conns {
        conn.end(End::Stopping);
    }
    let deadline = Instant::now() + Duration::from_secs(1);
    while edge.stats.connections.load(Ordering::Relaxed) > 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    pump.abort();
    for s in 0..sessions {
        if let Some(cell) = edge.board.cell(s) {
            cell.set_connected(false);
        }
    }
    Ok(())
}

struct ConnectionCount(Arc<IngestStats>);

impl ConnectionCount {
    fn new(stats: Arc<IngestStats>) -> ConnectionCount {
        count(&stats.connections, 1);
        ConnectionCount(stats)
    }
}

impl Drop for ConnectionCount {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a connection ends from our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    TakenOver,
    Slow,
    Stopping,
}

/// A connection as the hub sees it.
struct Conn {
    protocol: Protocol,
    outbox: RefCell<Outbox>,
    /// Something is in the outbox, or the connection is to end.
    ready: Notify,
    end: Cell<Option<End>>,
    /// Where the last gap began that the client was asked to fill.
    resend_asked: Cell<u64>,
    /// As which coming the door knows it.
    arrival: ArrivalId,
}

impl Conn {
    fn end(&self, why: End) {
        if self.end.get().is_none() {
            self.end.set(Some(why));
        }
        self.ready.notify_one();
    }
}

/// What waits to be written.
#[derive(Default)]
struct Outbox {
    frames: VecDeque<Message>,
    /// Records of a binary frame that is not closed yet.
    batch: Vec<u8>,
    bytes: usize,
    messages: usize,
    /// The last `applied` that was queued, and the one to be.
    applied_sent: u64,
    applied: u64,
    /// The page that the last queued `mode` tells.
    told: Option<u64>,
}

impl Outbox {
    fn text(&mut self, text: Utf8Bytes) {
        self.close_batch();
        self.bytes += text.len();
        self.messages += 1;
        self.frames.push_back(Message::Text(text));
    }

    fn record(&mut self, answer: &bin::Answer) {
        self.batch.extend_from_slice(&bin::encode_answer(answer));
        self.bytes += bin::RECORD;
        self.messages += 1;
        if self.batch.len() >= MESSAGE_BYTES_MAX {
            self.close_batch();
        }
    }

    fn close_batch(&mut self) {
        if !self.batch.is_empty() {
            self.frames.push_back(Message::Binary(Bytes::from(std::mem::take(&mut self.batch))));
        }
    }
}

/// A numbered answer, kept for a reconnect.
#[derive(Clone, Debug)]
struct Kept {
    out: u64,
    verdict: Verdict,
    /// The id as the client wrote it, if it was a text.
    text: Option<Rc<str>>,
    strategy: StrategyId,
    instrument: InstrumentId,
    /// The page as it was seen when this was first queued.
    page: u64,
}

/// What an unanswered request was about.
#[derive(Clone, Copy, Debug)]
struct Pending {
    seq: u64,
    strategy: StrategyId,
    instrument: InstrumentId,
}

/// What a session keeps from one connection to the next.
struct SessionState {
    conn: Option<Rc<Conn>>,
    /// The latest that was announced at the door: what was found out there is about that one.
    arrival: ArrivalId,
    /// The next event to be taken: moves on exactly as the engine's own count will.
    next_seq: u64,
    /// The page was last seen to change before this event: it and what follows are judged by the page as it is told.
    judged_from: u64,
    /// Everything up to here was acknowledged by the engine.
    applied: u64,
    pending: VecDeque<Pending>,
    kept: VecDeque<Kept>,
    kept_by_seq: HashMap<u64, u64>,
    /// The number of the last answer.
    out: u64,
    orders: Names,
    execs: Names,
}

impl SessionState {
    fn new(next_seq: u64, options: &IngestOptions, started_s: u64) -> SessionState {
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

    fn keep(&mut self, kept: Kept, bound: usize) {
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
    fn kept_at(&self, out: u64) -> Option<usize> {
        let first = self.kept.front()?.out;
        let index = usize::try_from(out.checked_sub(first)?).ok()?;
        (index < self.kept.len()).then_some(index)
    }
}

/// What all connections share and change.
struct Hub {
    port: EdgePort,
    sessions: Vec<SessionState>,
    /// The halt page as the sessions were told.
    words: Vec<ModeWord>,
    /// The page at which each word was last seen to change.
    changed_at: Vec<u64>,
    seen_changes: u64,
    /// Withdrawn orders, and sessions that came and went, that wait for room in the engine's ring.
    withdrawn: VecDeque<Event>,
}

/// What all connections share.
struct Edge {
    hub: RefCell<Hub>,
    names: Utf8Bytes,
    universe: Arc<Universe>,
    page: Arc<HaltPage>,
    board: Arc<SessionBoard>,
    clock: Arc<dyn Clock>,
    auth: Arc<dyn Authenticate>,
    door: Arc<dyn Door>,
    texts: crossbeam_channel::Sender<Text>,
    options: IngestOptions,
    wake: IngestWake,
    stats: Arc<IngestStats>,
    run: u64,
    /// Told when the engine has taken events, so that there is room.
    room: Notify,
    stopping: Cell<bool>,
    named: Arc<OrderNames>,
}

/// Effects taken in one go, so that connections get their turn.
const PUMP_BATCH: usize = 4096;
/// Messages read in one go before answers are written.
const READ_BATCH: usize = 64;

impl Edge {
    /// Takes what the engine and the halt page have for us. Returns whether there was anything.
    fn pump(&self) -> bool {
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

    fn push_withdrawn(&self, hub: &mut Hub) {
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
    fn withhold(&self, kept: &mut Kept, passes: impl Fn(usize, Mode) -> bool) -> Option<Event> {
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
    fn look_at_page(&self, hub: &mut Hub) -> bool {
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

    fn send_modes(
        &self,
        conn: &Conn,
        session: SessionId,
        page: u64,
        words: &[ModeWord],
        slots: impl Iterator<Item = usize>,
    ) {
        let scopes = slots
            .filter_map(|slot| Some((self.universe.scope_at(slot)?, words.get(slot)?)))
            .filter(|(scope, _)| concerns(&self.universe, session, *scope))
            .map(|(scope, word)| ScopeMode {
                kind: scope.kind().name().to_owned(),
                name: self.universe.scope_name(scope),
                mode: word.mode.name().to_owned(),
                epoch: word.epoch,
            })
            .collect();
        self.send(conn, &Server::Mode { page, scopes });
        conn.outbox.borrow_mut().told = Some(page);
        count(&self.stats.mode_pushes, 1);
    }

    fn send(&self, conn: &Conn, message: &Server) {
        self.send_text(conn, Utf8Bytes::from(message.encode()));
    }

    fn send_text(&self, conn: &Conn, text: Utf8Bytes) {
        count(&self.stats.bytes_out, text.len() as u64);
        conn.outbox.borrow_mut().text(text);
        self.sent(conn);
    }

    fn send_record(&self, conn: &Conn, answer: &bin::Answer) {
        count(&self.stats.bytes_out, bin::RECORD as u64);
        conn.outbox.borrow_mut().record(answer);
        self.sent(conn);
    }

    /// After something was queued: wakes the connection, or ends it if too much waits.
    fn sent(&self, conn: &Conn) {
        let (messages, bytes) = {
            let outbox = conn.outbox.borrow();
            (outbox.messages, outbox.bytes)
        };
        // The tables of names may be larger than the bound; nothing else alone is.
        if messages > self.options.queue_messages_max || bytes > self.options.queue_bytes_max + self.names.len() {
            conn.end(End::Slow);
        } else {
            conn.ready.notify_one();
        }
    }

    fn send_verdict(&self, conn: &Conn, kept: &Kept) {
        let v = &kept.verdict;
        match conn.protocol {
            Protocol::Bin => self.send_record(
                conn,
                &bin::Answer::Verdict {
                    out: kept.out,
                    seq: v.seq,
                    // A text cannot be: ids are numbers in this protocol. After a change of protocol it may.
                    id: if kept.text.is_some() { 0 } else { v.id.0 },
                    kind: v.kind,
                    denial: v.denial,
                    checks: v.checks,
                },
            ),
            Protocol::Json => {
                let id = match &kept.text {
                    Some(text) => text.to_string(),
                    None if v.id.0 == 0 || v.id.0 & OrdId::TEXT != 0 => String::new(),
                    None => v.id.0.to_string(),
                };
                let mut message = VerdictMessage {
                    out: kept.out,
                    seq: v.seq,
                    id,
                    kind: v.kind.name().to_owned(),
                    verdict: "admit".to_owned(),
                    checks: format!("{:x}", v.checks),
                    rule: None,
                    why: None,
                    scope: None,
                    observed: None,
                    limit: None,
                    unit: None,
                };
                if let Some(denial) = &v.denial {
                    message = message.denied(denial, kept.instrument, &self.universe);
                }
                self.send(conn, &Server::Verdict(message));
            }
        }
    }

    fn send_error(&self, conn: &Conn, seq: Option<u64>, problem: Problem) {
        count(&self.stats.errors, 1);
        let Problem { field, value, rule } = problem;
        self.send(conn, &Server::Error { seq, field: field.to_owned(), value, rule: rule.to_owned() });
    }

    /// Makes `conn` the session's connection and queues what it has to know first.
    fn attach(&self, conn: &Rc<Conn>, session: SessionId, hello: Hello) {
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
    fn detach(&self, conn: &Rc<Conn>, session: SessionId) {
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

    /// Passes an event to the engine if there is room. `false`: there is none, nothing happened.
    fn submit(&self, conn: &Conn, draft: &Draft<'_>) -> bool {
        let mut hub = self.hub.borrow_mut();
        let hub = &mut *hub;
        if !hub.withdrawn.is_empty() || hub.port.events.is_full() || hub.port.names.slots() < 2 {
            return false;
        }
        let mut event = draft.event;
        let session = event.session;
        let Some(s) = hub.sessions.get_mut(usize::from(session.0)) else { return true };
        let asks = self.universe.sessions.get(usize::from(session.0)).is_some_and(|x| x.kind == SessionKind::Ask);
        let fresh = event.seq == s.next_seq;
        let mut new = |of, number, text: &str| {
            // No id is longer, and there is room for the two of an event.
            let name = Name::new(session, of, number, text);
            let told = name.is_none_or(|name| hub.port.names.push(name).is_ok());
            debug_assert!(told && name.is_some());
        };
        if let Err(field) = intern(s, draft, &mut event, asks, fresh, &mut new) {
            count(&self.stats.texts_full, 1);
            let value = if field == "id" { draft.id.as_deref() } else { draft.ref_id.as_deref() };
            let problem = Problem::new(field, value.unwrap_or(""), "is one text id more than the session may have");
            self.send_error(conn, Some(event.seq), problem);
            event.flags |= Event::MALFORMED;
        }
        let received = self.clock.now().mono;
        // Checked above: there is room.
        if hub.port.events.push(Inbound { event, received }).is_err() {
            return false;
        }
        count(&self.stats.events, 1);
        if fresh {
            s.next_seq += 1;
            if asks && event.kind.is_request() {
                s.pending.push_back(Pending { seq: event.seq, strategy: event.strategy, instrument: event.instrument });
            }
            if let Some(cell) = self.board.cell(usize::from(session.0)) {
                cell.set_last_seq(event.seq);
            }
        } else if event.seq < s.next_seq {
            count(&self.stats.duplicates, 1);
            conn.outbox.borrow_mut().applied_sent = 0;
            conn.ready.notify_one();
            if let Some(index) = s.kept_by_seq.get(&event.seq).and_then(|out| s.kept_at(*out)) {
                // The client may have seen this answer and sent the order: it is not admitted once more
                // under a halt, but the engine goes on counting it.
                let kept = &mut s.kept[index];
                let page = kept.page;
                let _ = self.withhold(kept, |slot, _| hub.changed_at[slot] <= page);
                self.send_verdict(conn, kept);
                count(&self.stats.replayed, 1);
            }
        }
        true
    }

    /// As [`Edge::submit`], waiting for room. `false`: the connection is to end.
    async fn submit_all(&self, conn: &Conn, draft: &Draft<'_>) -> bool {
        loop {
            if conn.end.get().is_some() {
                return false;
            }
            if self.submit(conn, draft) {
                return true;
            }
            count(&self.stats.ring_full, 1);
            self.hub.borrow().port.engine.ring();
            self.wake.arm();
            if !self.pump() {
                // A duplicate has no effect that would wake us, hence the time-out.
                let _ = tokio::time::timeout(Duration::from_millis(1), self.room.notified()).await;
            } else {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Deals with one message. `false`: the connection is to end.
    async fn take_message(&self, conn: &Conn, session: SessionId, message: Message) -> bool {
        match message {
            Message::Text(text) => {
                count(&self.stats.bytes_in, text.len() as u64);
                match text::decode(&text) {
                    None => {}
                    Some(Ok(said)) => {
                        self.take_text(session, said);
                        return true;
                    }
                    Some(Err(problem)) => {
                        self.send_error(conn, None, problem);
                        return true;
                    }
                }
                match json::decode(&text, &self.universe, session) {
                    Ok(Client::Hello(_)) => {
                        let problem = Problem::new("type", "hello", "must be said once, first");
                        self.send_error(conn, None, problem);
                    }
                    Ok(Client::ModeAck { page }) => self.confirm(conn, session, page),
                    Ok(Client::Event(draft)) if conn.protocol == Protocol::Json => {
                        return self.submit_all(conn, &draft).await;
                    }
                    Err(fault) if conn.protocol == Protocol::Json => return self.take_fault(conn, *fault).await,
                    Ok(Client::Event(_)) | Err(_) => {
                        let problem = Problem::new("message", &text, "must be hello or mode_ack: events are binary");
                        self.send_error(conn, None, problem);
                    }
                }
                true
            }
            Message::Binary(bytes) => {
                count(&self.stats.bytes_in, bytes.len() as u64);
                if conn.protocol == Protocol::Json {
                    let problem = Problem::new("message", "", "must be text in this subprotocol");
                    self.send_error(conn, None, problem);
                    return true;
                }
                let records = match bin::records(&bytes) {
                    Ok(records) => records,
                    Err(problem) => {
                        self.send_error(conn, None, problem);
                        return true;
                    }
                };
                for record in records {
                    let goes_on = match bin::decode_event(record, &self.universe, session) {
                        Ok(event) => self.submit_all(conn, &Draft { event, id: None, ref_id: None }).await,
                        Err(fault) => self.take_fault(conn, *fault).await,
                    };
                    if !goes_on {
                        return false;
                    }
                }
                true
            }
            // tungstenite answers pings by itself.
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => true,
            Message::Close(_) => false,
        }
    }

    /// Passes a log line or a reject text to the guard. An order must never wait for one.
    fn take_text(&self, session: SessionId, said: TextMessage) {
        let TextMessage { source, text } = said;
        let text = Text { at: self.clock.now().unix.0, session, source, text };
        let counter = match self.texts.try_send(text) {
            Ok(()) => &self.stats.log_texts,
            Err(_) => &self.stats.log_texts_dropped,
        };
        count(counter, 1);
    }

    async fn take_fault(&self, conn: &Conn, fault: Fault<'_>) -> bool {
        self.send_error(conn, fault.draft.as_ref().map(|d| d.event.seq), fault.problem);
        match fault.draft {
            Some(mut draft) if draft.event.kind.is_request() => {
                draft.event.flags |= Event::MALFORMED;
                self.submit_all(conn, &draft).await
            }
            Some(_) | None => true,
        }
    }

    fn confirm(&self, conn: &Conn, session: SessionId, page: u64) {
        let Some(cell) = self.board.cell(usize::from(session.0)) else { return };
        // Nobody can confirm what he was not told.
        if page > cell.view().told || page > self.hub.borrow().seen_changes {
            let problem = Problem::new("page", &page.to_string(), "must be the page of a mode message that was sent");
            self.send_error(conn, None, problem);
        } else {
            cell.set_confirmed(page, self.clock.now().mono.0);
        }
    }
}

/// Tells the engine that a session has come or gone. As what is withdrawn it has no place in the session's stream.
fn link_event(session: SessionId, how: u64) -> Event {
    Event { id: OrdId(how), ..Event::new(EventKind::Heartbeat, session, 0) }
}

/// Whether `session` has to know about the mode of `scope`.
fn concerns(universe: &Universe, session: SessionId, scope: Scope) -> bool {
    let Some(spec) = universe.sessions.get(usize::from(session.0)) else { return true };
    match scope {
        Scope::Firm | Scope::Instrument(_) => true,
        Scope::Session(s) => s == session,
        Scope::Strategy(s) | Scope::Pair(s, _) => spec.strategies.is_empty() || spec.strategies.contains(&s),
        Scope::Account(a) => {
            spec.strategies.is_empty()
                || spec
                    .strategies
                    .iter()
                    .any(|s| universe.strategies.get(usize::from(s.0)).is_some_and(|x| x.account == a))
        }
    }
}

/// Gives the texts of `draft` their numbers in `event`. `fresh`: the engine will take it. `new` is told of each that got
/// one now.
///
/// # Errors
/// The field whose text found no room.
fn intern(
    s: &mut SessionState,
    draft: &Draft<'_>,
    event: &mut Event,
    asks: bool,
    fresh: bool,
    new: &mut dyn FnMut(NameOf, u64, &str),
) -> Result<(), &'static str> {
    let kind = event.kind;
    let mut tell = |of, names: &Names, before: usize, number: u64, text: &str| {
        if names.len() > before {
            new(of, number, text);
        }
    };
    let find = |names: &Names, text: &str| names.find(text).unwrap_or(NOBODY);
    if kind.is_parent() {
        event.id = draft.id.as_deref().map_or(event.id, |text| OrdId(parent_number(text)));
        return Ok(());
    }
    if let Some(text) = draft.ref_id.as_deref() {
        event.ref_id = match kind {
            EventKind::New => parent_number(text),
            EventKind::Fill | EventKind::Bust | EventKind::Correct if fresh => {
                // Without room it gets a number of its own: a fill is booked, if need be twice, never dropped.
                let before = s.execs.len();
                let number = s.execs.hold_once(text).unwrap_or_else(|_| s.execs.unnamed());
                tell(NameOf::Exec, &s.execs, before, number, text);
                number
            }
            EventKind::Fill | EventKind::Bust | EventKind::Correct => find(&s.execs, text),
            _ => find(&s.orders, text),
        };
    }
    if let Some(text) = draft.id.as_deref() {
        let before = s.orders.len();
        let held = match kind {
            EventKind::New | EventKind::Replace | EventKind::Cancel if asks && fresh => s.orders.hold(text),
            EventKind::New | EventKind::Replace if fresh => s.orders.hold_once(text),
            EventKind::Bust | EventKind::Correct => Ok(find(&s.execs, text)),
            _ => Ok(find(&s.orders, text)),
        };
        // A cancel is passed on in any case: it must reach the engine.
        match held {
            Ok(number) => {
                event.id = OrdId(number);
                tell(NameOf::Order, &s.orders, before, number, text);
            }
            Err(_) if kind == EventKind::Cancel => event.id = OrdId(NOBODY),
            Err(_) => return Err("id"),
        }
    }
    Ok(())
}

/// Who a handshake turned out to be from.
struct Admitted {
    session: SessionId,
    protocol: Protocol,
}

fn refusal(status: StatusCode, why: &str) -> ErrorResponse {
    let mut response = ErrorResponse::new(Some(why.to_owned()));
    *response.status_mut() = status;
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let (one, None) = (all.next()?, all.next()) else { return None };
    let (scheme, token) = one.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// Judges the headers of a handshake; counts what it refuses.
fn admit(edge: &Edge, headers: &HeaderMap) -> Result<Admitted, Box<ErrorResponse>> {
    let foreign = headers
        .get_all(header::ORIGIN)
        .iter()
        .any(|o| !edge.options.origins.iter().any(|listed| o.as_bytes() == listed.as_bytes()));
    if foreign {
        count(&edge.stats.refused_origin, 1);
        return Err(Box::new(refusal(StatusCode::FORBIDDEN, "Origin: must be one that the configuration lists")));
    }
    let Some(session) = bearer(headers)
        .and_then(|token| edge.auth.session(token))
        .filter(|s| usize::from(s.0) < edge.universe.sessions.len())
    else {
        count(&edge.stats.refused_auth, 1);
        let why = "Authorization: must be Bearer and the token of a session";
        return Err(Box::new(refusal(StatusCode::UNAUTHORIZED, why)));
    };
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let protocol =
        offered.filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).find_map(|p| Protocol::from_name(p.trim()));
    let Some(protocol) = protocol else {
        count(&edge.stats.refused_protocol, 1);
        let why = "Sec-WebSocket-Protocol: must offer haltline.v1.json or haltline.v1.bin";
        return Err(Box::new(refusal(StatusCode::BAD_REQUEST, why)));
    };
    Ok(Admitted { session, protocol })
}

/// A connection from its handshake to its end.
async fn connection(edge: &Rc<Edge>, stream: TcpStream) {
    // Without it a verdict may wait for the acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    let peer = match (stream.peer_addr(), stream.local_addr()) {
        (Ok(remote), Ok(local)) => Peer::Tcp { remote, local },
        (Err(_), _) | (_, Err(_)) => Peer::Unknown,
    };
    let config = WebSocketConfig::default()
        .read_buffer_size(MESSAGE_BYTES_MAX)
        .write_buffer_size(MESSAGE_BYTES_MAX)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let mut admitted = None;
    let mut refused = false;
    #[expect(clippy::result_large_err, reason = "the type is tungstenite's")]
    let judge = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        match admit(edge, request.headers()) {
            Ok(a) => {
                let name = HeaderValue::from_static(a.protocol.name());
                response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, name);
                admitted = Some(a);
                Ok(response)
            }
            Err(response) => {
                refused = true;
                Err(*response)
            }
        }
    };
    let shaken = tokio_tungstenite::accept_hdr_async_with_config(stream, judge, Some(config));
    let shaken = tokio::time::timeout(edge.options.handshake_timeout, shaken).await;
    let (Ok(Ok(mut ws)), Some(Admitted { session, protocol })) = (shaken, admitted) else {
        if !refused {
            count(&edge.stats.refused_handshake, 1);
        }
        return;
    };
    let hello = match tokio::time::timeout(edge.options.hello_timeout, hello(edge, &mut ws, session)).await {
        Ok(Ok(hello)) => hello,
        told => {
            count(&edge.stats.refused_handshake, 1);
            // What is wrong with it goes first: the reason of a close has no room for it.
            if let Ok(Err(Some(Problem { field, value, rule }))) = told {
                let error = Server::Error { seq: None, field: field.to_owned(), value, rule: rule.to_owned() };
                let say = ws.send(Message::Text(Utf8Bytes::from(error.encode())));
                let _ = tokio::time::timeout(Duration::from_millis(100), say).await;
            }
            let reason = "the first message must be hello, in time";
            close(&mut ws, CloseCode::Policy, reason).await;
            return;
        }
    };
    if edge.stopping.get() {
        return;
    }
    if let Some(reason) = has_gate(edge, session) {
        count(&edge.stats.refused_gate, 1);
        close(&mut ws, CloseCode::Policy, reason).await;
        return;
    }
    let Some(arrival) = pass_door(edge, session, &hello.claim, peer).await else {
        count(&edge.stats.refused_handshake, 1);
        close(&mut ws, CloseCode::Again, "what runs there could not be looked at in time").await;
        return;
    };
    if edge.stopping.get() {
        edge.door.leave(session, arrival);
        return;
    }
    // Another one came while this one was looked at: that is the one which counts at the door.
    if edge.hub.borrow().sessions[usize::from(session.0)].arrival != arrival {
        edge.door.leave(session, arrival);
        count(&edge.stats.taken_over, 1);
        close(&mut ws, CloseCode::Policy, "the session connected anew").await;
        return;
    }
    count(&edge.stats.accepted, 1);
    let conn = Rc::new(Conn {
        protocol,
        outbox: RefCell::default(),
        ready: Notify::new(),
        end: Cell::new(None),
        resend_asked: Cell::new(0),
        arrival,
    });
    edge.attach(&conn, session, hello);
    // SYNC by gate: a gate says that it comes before it looks who is connected, and we look again after we have said that we
    // are: one of the two sees the other, or both do, and both are refused.
    if let Some(reason) = has_gate(edge, session) {
        edge.detach(&conn, session);
        count(&edge.stats.refused_gate, 1);
        close(&mut ws, CloseCode::Policy, reason).await;
        return;
    }
    converse(edge, &mut ws, &conn, session).await;
    edge.detach(&conn, session);
    match conn.end.get() {
        Some(End::TakenOver) => close(&mut ws, CloseCode::Policy, "the session connected anew").await,
        Some(End::Slow) => count(&edge.stats.dropped_slow, 1),
        Some(End::Stopping) => close(&mut ws, CloseCode::Away, "the server ends").await,
        None => close(&mut ws, CloseCode::Normal, "").await,
    }
}

/// Announces `session` at the door and waits until it was looked at. `None`: it was not, in time.
async fn pass_door(edge: &Edge, session: SessionId, claim: &Claim, peer: Peer) -> Option<ArrivalId> {
    let (tell, looked_at) = tokio::sync::oneshot::channel();
    let arrival = Arrival { session, way: Way::WebSocket, claim: claim.clone(), peer };
    let id = edge.door.arrive(arrival, Box::new(move || _ = tell.send(())));
    edge.hub.borrow_mut().sessions[usize::from(session.0)].arrival = id;
    match tokio::time::timeout(edge.options.door_timeout, looked_at).await {
        Ok(Ok(())) => Some(id),
        Ok(Err(_)) | Err(_) => {
            edge.door.leave(session, id);
            None
        }
    }
}

/// Why `session` may not come in here, if a gate has it or had it.
fn has_gate(edge: &Edge, session: SessionId) -> Option<&'static str> {
    let view = edge.board.cell(usize::from(session.0))?.view();
    match (view.by_gate, view.was_by_gate) {
        (true, _) => Some("the session is attached by a gate on this host"),
        // What the gate sent did not come by here: the next sequence is not known, and events would be taken for repeated ones.
        (false, true) => Some("a gate on this host had the session: haltline has to be restarted first"),
        (false, false) => None,
    }
}

async fn close(ws: &mut WebSocketStream<TcpStream>, code: CloseCode, reason: &'static str) {
    let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
    // The peer may be gone or not read: a moment is all it gets.
    let _ = tokio::time::timeout(Duration::from_millis(100), ws.close(Some(frame))).await;
}

/// The first message; what is wrong with it, if it can be said.
async fn hello(edge: &Edge, ws: &mut WebSocketStream<TcpStream>, session: SessionId) -> Result<Hello, Option<Problem>> {
    loop {
        match ws.next().await.ok_or(None)? {
            Ok(Message::Text(text)) => {
                return match json::decode(&text, &edge.universe, session) {
                    Ok(Client::Hello(hello)) => Ok(hello),
                    Ok(Client::ModeAck { .. } | Client::Event(_)) => Err(None),
                    Err(fault) => Err(Some(fault.problem)),
                };
            }
            Ok(Message::Ping(_) | Message::Pong(_)) => {}
            Ok(Message::Binary(_) | Message::Close(_) | Message::Frame(_)) | Err(_) => return Err(None),
        }
    }
}

/// How many pings a connection leaves unanswered before it is closed.
const PINGS_PER_IDLE: u32 = 3;

/// Reads and writes until either side ends.
async fn converse(edge: &Edge, ws: &mut WebSocketStream<TcpStream>, conn: &Conn, session: SessionId) {
    let period = (edge.options.idle_timeout / PINGS_PER_IDLE).max(Duration::from_millis(1));
    let mut tick = tokio::time::interval(period);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // How many ticks in a row nothing was heard at.
    let mut silent = 0;
    loop {
        if conn.end.get().is_some() || !write_out(edge, ws, conn, session).await {
            return;
        }
        tokio::select! {
            // What has arrived is read before anybody is called silent.
            biased;
            message = ws.next() => {
                let Some(Ok(message)) = message else { return };
                // While we look for answers ourselves the engine need not wake us.
                edge.wake.disarm();
                let mut goes_on = edge.take_message(conn, session, message).await;
                for _ in 1..READ_BATCH {
                    if !goes_on {
                        break;
                    }
                    match ws.next().now_or_never() {
                        Some(Some(Ok(message))) => goes_on = edge.take_message(conn, session, message).await,
                        Some(Some(Err(_)) | None) => goes_on = false,
                        None => break,
                    }
                }
                edge.hub.borrow().port.engine.ring();
                spin(edge, session);
                edge.wake.arm();
                if edge.pump() {
                    // There may be more than one batch: the pump goes on.
                    edge.wake.0.notify.notify_one();
                }
                // Only now: a client that we kept waiting for room in the ring was not silent.
                silent = 0;
                if !goes_on {
                    // What was decided is still said, if the client listens.
                    if conn.end.get().is_none() {
                        write_out(edge, ws, conn, session).await;
                    }
                    return;
                }
            }
            () = conn.ready.notified() => {}
            due = tick.tick() => {
                // Whether a ping was answered can only be told if we listened. After a time in which we stood still (stopped, or
                // without a processor) what is in the socket may not even be known to us yet.
                let stood_still = due.elapsed() > period / 2;
                if !stood_still && silent == PINGS_PER_IDLE {
                    count(&edge.stats.idle_closed, 1);
                    return;
                }
                silent += u32::from(!stood_still);
                conn.outbox.borrow_mut().frames.push_back(Message::Ping(Bytes::new()));
            }
        }
    }
}

/// Looks for the engine's answers to what `session` asked, for a moment.
fn spin(edge: &Edge, session: SessionId) {
    let waits = || edge.hub.borrow().sessions.get(usize::from(session.0)).is_some_and(|s| !s.pending.is_empty());
    if edge.options.spin.is_zero() || !waits() {
        return;
    }
    let since = Instant::now();
    while waits() && since.elapsed() < edge.options.spin {
        if !edge.pump() {
            std::hint::spin_loop();
        }
    }
}

/// Writes what is queued and flushes once. `false`: the connection is to end.
async fn write_out(edge: &Edge, ws: &mut WebSocketStream<TcpStream>, conn: &Conn, session: SessionId) -> bool {
    loop {
        let applied = {
            let mut outbox = conn.outbox.borrow_mut();
            let outbox = &mut *outbox;
            (outbox.applied > outbox.applied_sent).then(|| {
                outbox.applied_sent = outbox.applied;
                outbox.applied
            })
        };
        if let Some(seq) = applied {
            match conn.protocol {
                Protocol::Json => edge.send(conn, &Server::Applied { seq }),
                Protocol::Bin => edge.send_record(conn, &bin::Answer::Applied { seq }),
            }
        }
        let (frames, told) = {
            let mut outbox = conn.outbox.borrow_mut();
            outbox.close_batch();
            outbox.bytes = 0;
            outbox.messages = 0;
            (std::mem::take(&mut outbox.frames), outbox.told.take())
        };
        if frames.is_empty() {
            return true;
        }
        let write = async {
            for frame in frames {
                ws.feed(frame).await?;
            }
            ws.flush().await
        };
        let mut write = std::pin::pin!(tokio::time::timeout(edge.options.write_timeout, write));
        let written = loop {
            tokio::select! {
                biased;
                written = &mut write => break written,
                () = conn.ready.notified() => {
                    if conn.end.get().is_some() {
                        return false;
                    }
                }
            }
        };
        match written {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return false,
            Err(_) => {
                conn.end(End::Slow);
                return false;
            }
        }
        if let Some(page) = told
            && let Some(cell) = edge.board.cell(usize::from(session.0))
        {
            cell.set_told(page, edge.clock.now().mono.0);
        }
    }
}
