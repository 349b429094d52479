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

mod handshake;
mod pump;
mod read;
mod session;
mod talk;
mod write;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::duty::Clock;
use crate::engine::agent::{EdgePort, Wake};
use crate::engine::record::{Name, NameOf};
use crate::guard::door::{ArrivalId, Door};
use crate::guard::signatures::Text;
use crate::ingest::ws::handshake::connection;
use crate::ingest::ws::session::SessionState;
use crate::ingest::ws::write::Outbox;
use crate::kill::board::SessionBoard;
use crate::kill::names::OrderNames;
use crate::kill::page::{HaltPage, ModeWord};
use crate::model::{Event, Universe};
use crate::units::SessionId;
use crate::wire::Protocol;
use crate::wire::json::Server;

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
