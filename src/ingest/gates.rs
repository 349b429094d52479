//! Gateways on this host: hands out the shared memory, and notices when a gateway's process ends.
//!
//! One thread that waits in `poll(2)`: for new connections, for messages (see [`hello`]), and for the
//! ends of processes, by descriptors of the processes themselves. No event of an order passes through here: those go
//! from memory to memory.
//!
//! A connection that ends says little: the process may live on and still have the memory. Only when the process is gone is its
//! gate taken off the list; the page says which processes there are, also to the next run of haltline. The next process of that session gets the same region, and goes on where the lanes are.

use std::collections::HashMap;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use rustix::event::{PollFd, PollFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::duty::Clock;
use crate::engine::command::LaneChange;
use crate::engine::lanes::LanePort;
use crate::gate::hello::{self, Answer, ClaimOf, Request, TextSource, status};
use crate::gate::region::{GateKind, Region, RegionShape};
use crate::guard::door::{Arrival, ArrivalId, Door, Peer, Way};
use crate::guard::signatures::Text;
use crate::ingest::ws::Authenticate;
use crate::kill::board::SessionBoard;
use crate::kill::gates::{AttachedGate, Gates};
use crate::kill::page::{AttachedProcess, HaltPage};
use crate::model::claim::BadClaim;
use crate::model::universe::SessionKind;
use crate::model::{Claim, Scope, ScopeKind, Universe};
use crate::ring::barrier::heavy;
use crate::ring::bell::Bell;
use crate::ring::lane::{Reader, Writer};
use crate::ring::shm::Words;
use crate::ring::slots::{OWNER, SLOT_WORDS, STATE, outside};
use crate::units::{MonoNanos, SessionId};

/// How large the regions are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateOptions {
    /// Threads per gateway that can be inside at once, 1 to 1,024.
    pub slots: u32,
    /// Places of the event lane, a power of two up to 2^20.
    pub events: u32,
    /// Places of the verdict lane, likewise.
    pub verdicts: u32,
}

/// What the server is made of.
pub struct GateParts {
    /// Where gateways connect: listening, not blocking.
    pub listener: OwnedFd,
    /// The halt page, to be read only.
    pub page: OwnedFd,
    /// The same page, to note who is attached.
    pub halt_page: Arc<HaltPage>,
    /// Who was attached to the run before and lives.
    pub former: Vec<Former>,
    /// The engine's bell, and its memory.
    pub bell: Arc<Bell>,
    /// The memory of the bell.
    pub bell_fd: OwnedFd,
    /// All names.
    pub universe: Arc<Universe>,
    /// Who may be which session.
    pub auth: Arc<dyn Authenticate>,
    /// Who has to look at a gateway before it is attached.
    pub door: Arc<dyn Door>,
    /// Who is connected otherwise.
    pub board: Arc<SessionBoard>,
    /// Where attached gates are listed.
    pub gates: Arc<Gates>,
    /// To the engine.
    pub lane_changes: Sender<LaneChange>,
    /// Where log lines and reject texts go. Never waited for: what finds no room is refused.
    pub texts: Sender<Text>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Sizes.
    pub options: GateOptions,
}

/// The longest that the engine may take to say where a stream is.
const ENGINE_PATIENCE: Duration = Duration::from_millis(500);
/// How long a connection may be silent before it has attached.
const HELLO_NS: u64 = 5_000_000_000;
/// How long the look at what runs there may take: the first one reads the whole executable.
const LOOK_NS: u64 = 30_000_000_000;
/// Connections that have not attached. The one that has been silent for longest makes room for the next.
const STRANGERS: usize = 16;
/// Connections that are taken in one round.
const ACCEPTS: usize = 64;

struct Connection {
    /// Never used twice.
    key: u64,
    socket: OwnedFd,
    since: MonoNanos,
    /// What it has said of itself so far.
    claim: Claim,
    /// It is looked at before it is attached.
    waits: Option<Waiting>,
    attached: Option<SessionId>,
    /// The session has connected anew.
    replaced: bool,
}

/// Who wants to attach, until it was looked at.
struct Waiting {
    session: SessionId,
    name: String,
    kind: GateKind,
    peer: (u32, u32, OwnedFd),
    build: String,
    offered: Option<OwnedFd>,
    arrival: ArrivalId,
}

/// Tells the thread which connections were looked at, and wakes it.
struct Looked {
    keys: Sender<u64>,
    wake: OwnedFd,
}

impl Looked {
    fn tell(&self, key: u64) {
        // Neither can be full: there are fewer connections than places, and the counter does not overflow.
        let _ = self.keys.send(key);
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

/// A session's region, and who has it.
struct Place {
    region: Region,
    fd: OwnedFd,
    broken: Arc<AtomicBool>,
    gate: Arc<AttachedGate>,
    process: OwnedFd,
    gone: bool,
}

/// A process that can still be inside a gate of its own, beside the one that has the session's place.
#[derive(Debug)]
pub struct Former {
    gate: Arc<AttachedGate>,
    process: OwnedFd,
}

/// Lists in `gates` who was attached to the run before, by the page, and lives. Before anybody can press: such a gate opens
/// with the first lease.
///
/// # Errors
/// If the system cannot say whether such a process lives.
pub fn find_former(
    page: &HaltPage,
    universe: &Universe,
    board: &SessionBoard,
    gates: &Gates,
) -> std::io::Result<Vec<Former>> {
    use rustix::io::Errno;
    let mut former = Vec::new();
    let membarrier = heavy();
    for session in 0..universe.sessions.len() {
        let Some(noted) = page.attached(session) else { continue };
        let process = match i32::try_from(noted.pid).ok().and_then(rustix::process::Pid::from_raw) {
            Some(pid) => rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()),
            None => Err(Errno::SRCH),
        };
        let process = match process {
            Ok(process) => process,
            // A thread of another process may have the number now.
            Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => {
                page.note_attached(session, None);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        // After it was opened: what has the number now keeps it for as long as the descriptor is looked at.
        let began = began(noted.pid);
        let same = noted.began == 0 || began == 0 || noted.began == began;
        if !same || has_ended(&process) {
            page.note_attached(session, None);
            continue;
        }
        let gate = Arc::new(AttachedGate::unseen(SessionId(session as u16), noted.pid, membarrier));
        gates.add(gate.clone());
        if let Some(cell) = board.cell(session) {
            cell.set_by_gate(true);
        }
        former.push(Former { gate, process });
    }
    Ok(former)
}

/// When process `pid` began, in ticks after the boot; 0 if the system does not say.
fn began(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name, which may hold anything: state, parent and so on; the begin is field 22 of all.
    let behind = stat.rsplit_once(')').map_or("", |(_, behind)| behind);
    behind.split_whitespace().nth(19).and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// Listens at `path`. A socket that nobody answers at any more is replaced.
///
/// # Errors
/// If somebody answers there, or the system's.
pub fn listen(path: &Path, mode: u32) -> std::io::Result<OwnedFd> {
    let socket = || {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
    };
    let address = SocketAddrUnix::new(path)?;
    let listener = socket()?;
    if let Err(error) = rustix::net::bind(&listener, &address) {
        if error != rustix::io::Errno::ADDRINUSE {
            return Err(error.into());
        }
        // A haltline that stands, with many who wait at its door, answers nobody either, and is there.
        match rustix::net::connect(socket()?, &address) {
            Err(rustix::io::Errno::CONNREFUSED) => {}
            Ok(()) | Err(_) => {
                return Err(std::io::Error::new(std::io::ErrorKind::AddrInUse, "somebody serves there"));
            }
        }
        std::fs::remove_file(path)?;
        rustix::net::bind(&listener, &address)?;
    }
    rustix::fs::chmod(path, rustix::fs::Mode::from_raw_mode(mode))?;
    rustix::net::listen(&listener, 64)?;
    Ok(listener)
}

/// Serves until `stop`, which is looked at ten times a second.
///
/// # Errors
/// If the system's `poll` fails.
pub fn run(parts: GateParts, stop: &AtomicBool) -> std::io::Result<()> {
    let membarrier = heavy();
    if !membarrier {
        tracing::warn!(event = "gates", "no membarrier here: gates fence every order themselves");
    }
    let mut parts = parts;
    let former = std::mem::take(&mut parts.former);
    let (keys, looked_at) = crossbeam_channel::unbounded();
    let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
    let looked = Arc::new(Looked { keys, wake: rustix::event::eventfd(0, flags)? });
    let mut server = Server {
        parts,
        engine_patience: ENGINE_PATIENCE,
        membarrier,
        connections: Vec::new(),
        keys: 0,
        looked,
        looked_at,
        places: HashMap::new(),
        arrivals: HashMap::new(),
        former,
    };
    while !stop.load(Ordering::Acquire) {
        server.round()?;
    }
    Ok(())
}

struct Server {
    parts: GateParts,
    /// [`ENGINE_PATIENCE`].
    engine_patience: Duration,
    membarrier: bool,
    connections: Vec<Connection>,
    keys: u64,
    looked: Arc<Looked>,
    looked_at: Receiver<u64>,
    places: HashMap<SessionId, Place>,
    /// As which coming the door knows the process that has a session's place.
    arrivals: HashMap<SessionId, ArrivalId>,
    former: Vec<Former>,
}

impl Server {
    fn round(&mut self) -> std::io::Result<()> {
        let live: Vec<SessionId> = self.places.iter().filter(|(_, p)| !p.gone).map(|(&s, _)| s).collect();
        let (listening, ended, former_ended, spoke) = {
            let mut fds =
                vec![PollFd::new(&self.parts.listener, PollFlags::IN), PollFd::new(&self.looked.wake, PollFlags::IN)];
            fds.extend(live.iter().map(|s| PollFd::new(&self.places[s].process, PollFlags::IN)));
            fds.extend(self.former.iter().map(|f| PollFd::new(&f.process, PollFlags::IN)));
            fds.extend(self.connections.iter().map(|c| PollFd::new(&c.socket, PollFlags::IN)));
            let timeout = rustix::time::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            match rustix::event::poll(&mut fds, Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let said = |fd: &PollFd<'_>| !fd.revents().is_empty();
            let ended: Vec<SessionId> =
                live.iter().zip(&fds[2..]).filter(|(_, fd)| said(fd)).map(|(&s, _)| s).collect();
            let (former, connections) = fds[2 + live.len()..].split_at(self.former.len());
            let former_ended = former.iter().any(said);
            let spoke: Vec<bool> = connections.iter().map(said).collect();
            (said(&fds[0]), ended, former_ended, spoke)
        };
        // Ends first: a gateway that was started anew finds its place free.
        for session in ended {
            self.process_ended(session);
        }
        if former_ended {
            self.look_at_former();
        }
        let now = self.parts.clock.now().mono;
        for (at, spoke) in spoke.into_iter().enumerate().rev() {
            let waits = self.connections[at].waits.is_some();
            let patience = if waits { LOOK_NS } else { HELLO_NS };
            let silent = self.connections[at].attached.is_none() && now.since(self.connections[at].since) > patience;
            if silent && waits {
                let text = "what runs there could not be looked at in time".to_owned();
                self.answer(at, &Answer::Refused { status: status::UNAVAILABLE, text }, &[]);
            }
            if silent || (spoke && !self.hear(at)) {
                self.remove(at);
            }
        }
        self.take_looked_at();
        self.connections.retain(|connection| !connection.replaced);
        if listening {
            self.accept();
        }
        Ok(())
    }

    fn accept(&mut self) {
        for _ in 0..ACCEPTS {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let Ok(socket) = rustix::net::accept_with(&self.parts.listener, flags) else { return };
            // Who attaches does so at once. Attached gateways lose nothing to strangers, and there is one connection for each.
            let mut strangers = self.connections.iter_mut().enumerate().filter(|(_, c)| c.attached.is_none());
            let eldest = strangers.next().map(|(at, _)| at);
            if strangers.count() + 1 >= STRANGERS
                && let Some(at) = eldest
            {
                self.remove(at);
            }
            let since = self.parts.clock.now().mono;
            self.keys += 1;
            self.connections.push(Connection {
                key: self.keys,
                socket,
                since,
                claim: Claim::default(),
                waits: None,
                attached: None,
                replaced: false,
            });
        }
    }

    /// Closes connection `at`. One that waited did not come in.
    fn remove(&mut self, at: usize) {
        let connection = self.connections.remove(at);
        if let Some(waiting) = connection.waits {
            self.parts.door.leave(waiting.session, waiting.arrival);
        }
    }

    /// Attaches those that were looked at since.
    fn take_looked_at(&mut self) {
        let mut count = [0; 8];
        // Emptied first: what is told after this wakes the next round.
        let _ = rustix::io::read(&self.looked.wake, &mut count[..]);
        while let Ok(key) = self.looked_at.try_recv() {
            let Some(at) = self.connections.iter().position(|connection| connection.key == key) else { continue };
            let Some(waiting) = self.connections[at].waits.take() else { continue };
            if !self.finish_attach(at, waiting) {
                self.remove(at);
            }
        }
    }

    /// Whether a process that lives has or had a gate of `session`.
    fn has_gate(&self, session: SessionId) -> bool {
        self.places.get(&session).is_some_and(|place| !place.gone)
            || self.former.iter().any(|former| former.gate.session == session)
    }

    /// After the end of a process of `session`.
    fn show_gate(&mut self, session: SessionId) {
        if !self.has_gate(session) {
            self.set_by_gate(session, false);
            self.parts.halt_page.note_attached(usize::from(session.0), None);
            if let Some(arrival) = self.arrivals.remove(&session) {
                self.parts.door.leave(session, arrival);
            }
        }
    }

    fn look_at_former(&mut self) {
        let now = self.parts.clock.now().mono.0;
        let (ended, live): (Vec<_>, Vec<_>) = self.former.drain(..).partition(|former| has_ended(&former.process));
        self.former = live;
        for former in ended {
            former.gate.set_gone(now);
            self.parts.gates.remove(&former.gate);
            self.show_gate(former.gate.session);
        }
    }

    fn process_ended(&mut self, session: SessionId) {
        let Some(place) = self.places.get_mut(&session) else { return };
        place.gone = true;
        place.gate.set_gone(self.parts.clock.now().mono.0);
        self.parts.gates.remove(&place.gate);
        self.show_gate(session);
        // If the engine takes nothing now, what it tells the gateway's orders stays unanswered instead.
        let _ = self.send(LaneChange::Gone(session));
        let name = self.parts.universe.scope_name(Scope::Session(session));
        tracing::warn!(event = "gate_gone", session = name, "a gateway's process has ended");
    }

    fn set_by_gate(&self, session: SessionId, attached: bool) {
        if let Some(cell) = self.parts.board.cell(usize::from(session.0)) {
            cell.set_by_gate(attached);
        }
    }

    /// Takes one message of connection `at`. Returns whether it stays.
    fn hear(&mut self, at: usize) -> bool {
        let mut bytes = [0; hello::LEN + 1];
        let (len, offered) = match receive(&self.connections[at].socket, &mut bytes) {
            Ok(got) => got,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return true,
            Err(_) => return false,
        };
        if len == 0 {
            return false;
        }
        let request = match Request::decode(&bytes[..len]) {
            // Whoever asks waits for the answer.
            Ok(_) if self.connections[at].waits.is_some() => {
                Err("the message comes before the last one was answered".into())
            }
            Ok(request) => Ok(request),
            Err((field, what)) => Err(format!("the message's {field} {what}")),
        };
        let request = match request {
            Ok(request) => request,
            Err(text) => {
                self.answer(at, &Answer::Refused { status: status::MALFORMED, text }, &[]);
                return false;
            }
        };
        match request {
            Request::LookUp { kind, name } => {
                let answer = self.look_up(kind, &name, at);
                self.answer(at, &answer, &[])
            }
            Request::Text { source, text } => {
                let answer = self.take_text(at, source, text);
                self.answer(at, &answer, &[])
            }
            Request::Claim { what, name, value } => {
                let answer = self.take_claim(at, what, &name, &value);
                let goes_on = matches!(answer, Answer::Done(_));
                self.answer(at, &answer, &[]) && goes_on
            }
            Request::Attach { session, token, build } => {
                match self.begin_attach(at, &session, &token, build, offered) {
                    Ok(()) => true,
                    Err(refused) => self.refuse(at, &session, refused),
                }
            }
        }
    }

    fn refuse(&self, at: usize, session: &str, (status, text): (u16, String)) -> bool {
        tracing::warn!(event = "gate_refused", session, status, "{text}");
        self.answer(at, &Answer::Refused { status, text }, &[]);
        false
    }

    /// What a gateway says of itself before it attaches.
    fn take_claim(&mut self, at: usize, what: ClaimOf, name: &str, value: &str) -> Answer {
        let connection = &mut self.connections[at];
        let refused = |text| Answer::Refused { status: status::MALFORMED, text };
        if connection.attached.is_some() {
            return refused("a claim comes before the attach".into());
        }
        let taken = match (what, name) {
            (ClaimOf::Flag, _) => connection.claim.add_flag(name, value),
            (ClaimOf::ConfigHash, "") => connection.claim.set_config_hash(value),
            (ClaimOf::Host, "") => connection.claim.set_host(value),
            (ClaimOf::ConfigHash | ClaimOf::Host, _) => {
                Err(BadClaim { field: "name", rule: "must be empty, only a flag has one" })
            }
        };
        match taken {
            Ok(()) => Answer::Done([0; 8]),
            Err(BadClaim { field, rule }) => refused(format!("the claim's {field} {rule}")),
        }
    }

    /// Makes sure of who asks, and announces it at the door.
    fn begin_attach(
        &mut self,
        at: usize,
        name: &str,
        token: &str,
        build: String,
        offered: Option<OwnedFd>,
    ) -> Result<(), (u16, String)> {
        // The same words for a name that is not there and a token that is wrong: neither can be guessed.
        let session = self.parts.auth.session(token);
        let Some(session) = session.filter(|&s| self.parts.universe.session(name) == Some(s)) else {
            return Err((status::NOT_ALLOWED, format!("the token is not that of session {name:?}")));
        };
        let kind = match self.parts.universe.sessions[usize::from(session.0)].kind {
            SessionKind::Ask => GateKind::Ask,
            SessionKind::Observe => GateKind::Observe,
            SessionKind::Reference => {
                return Err((status::NOT_ALLOWED, format!("session {name:?} sends references, not orders")));
            }
            SessionKind::Orders => {
                return Err((status::NOT_ALLOWED, format!("session {name:?} sends parents, and no orders that trade")));
            }
        };
        let peer = rustix::net::sockopt::socket_peercred(&self.connections[at].socket)
            .map_err(|error| (status::UNAVAILABLE, format!("who asks cannot be found out: {error}")))?;
        let unwatched = |error| (status::UNAVAILABLE, format!("the asking process cannot be watched: {error}"));
        let flags = rustix::process::PidfdFlags::empty();
        let process = rustix::process::pidfd_open(peer.pid, flags).map_err(unwatched)?;
        let seen = process.try_clone().map_err(|error| (status::UNAVAILABLE, format!("no descriptor: {error}")))?;
        let pid = peer.pid.as_raw_nonzero().get().unsigned_abs();
        // Before the door: somebody who cannot come in says nothing about who is in.
        let place = self.places.get(&session).filter(|place| !place.gone && !has_ended(&place.process));
        if let Some(place) = place.filter(|place| place.gate.pid != pid) {
            return Err(in_use(name, place.gate.pid));
        }
        let mut claim = std::mem::take(&mut self.connections[at].claim);
        if !build.is_empty() {
            let bad = |BadClaim { field, rule }| (status::MALFORMED, format!("the message's {field} {rule}"));
            claim.set_build(&build).map_err(bad)?;
        }
        let (key, looked) = (self.connections[at].key, self.looked.clone());
        let arrival = Arrival { session, way: Way::Gate, claim, peer: Peer::Process { pid, process: seen } };
        let arrival = self.parts.door.arrive(arrival, Box::new(move || looked.tell(key)));
        let peer = (pid, peer.uid.as_raw(), process);
        let name = name.to_owned();
        self.connections[at].waits = Some(Waiting { session, name, kind, peer, build, offered, arrival });
        Ok(())
    }

    /// Attaches who was looked at. Returns whether the connection stays.
    fn finish_attach(&mut self, at: usize, waiting: Waiting) -> bool {
        let Waiting { session, name, kind, peer, build, offered, arrival } = waiting;
        match self.attach((session, &name, kind), peer, build, offered) {
            Ok(()) => {
                if let Some(before) = self.arrivals.insert(session, arrival) {
                    self.parts.door.leave(session, before);
                }
                for connection in &mut self.connections {
                    connection.replaced |= connection.attached == Some(session);
                }
                self.connections[at].attached = Some(session);
                self.connections[at].replaced = false;
                let place = &self.places[&session];
                let words = place.region.shape().words() as u64;
                let numbers = [u64::from(session.0), words, u64::from(self.membarrier), 0, 0, 0, 0, 0];
                let fds = [self.parts.page.as_fd(), place.fd.as_fd(), self.parts.bell_fd.as_fd()];
                self.answer(at, &Answer::Done(numbers), &fds)
            }
            Err(refused) => {
                self.parts.door.leave(session, arrival);
                self.refuse(at, &name, refused)
            }
        }
    }

    fn answer(&self, at: usize, answer: &Answer, fds: &[BorrowedFd<'_>]) -> bool {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        let bytes = answer.encode();
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        rustix::net::sendmsg(&self.connections[at].socket, &[IoSlice::new(&bytes)], &mut control, flags).is_ok()
    }

    /// Passes a log line or a reject text to the guard.
    fn take_text(&self, at: usize, source: TextSource, text: String) -> Answer {
        let refused = |status, text: &str| Answer::Refused { status, text: text.into() };
        let Some(session) = self.connections[at].attached else {
            return refused(status::NOT_ALLOWED, "attach first");
        };
        if text.trim().is_empty() {
            return refused(status::MALFORMED, "the message's text is blank");
        }
        let text = Text { at: self.parts.clock.now().unix.0, session, source: source.name(), text };
        match self.parts.texts.try_send(text) {
            Ok(()) => Answer::Done([0; 8]),
            Err(_) => refused(status::UNAVAILABLE, "the guard has no room for a text now"),
        }
    }

    fn look_up(&self, kind: u64, name: &str, at: usize) -> Answer {
        let refused = |status, text: String| Answer::Refused { status, text };
        if self.connections[at].attached.is_none() {
            return refused(status::NOT_ALLOWED, "attach first".into());
        }
        let kinds = [ScopeKind::Account, ScopeKind::Strategy, ScopeKind::Instrument, ScopeKind::Session];
        let Some(kind) = kinds.into_iter().find(|&k| k as u64 == kind) else {
            return refused(status::MALFORMED, format!("the scope kind {kind} must be 1, 2, 4 or 5"));
        };
        let id = match self.parts.universe.scope_named(kind.name(), name) {
            Some(Scope::Account(a)) => u64::from(a.0),
            Some(Scope::Strategy(s)) => u64::from(s.0),
            Some(Scope::Instrument(i)) => u64::from(i.0),
            Some(Scope::Session(s)) => u64::from(s.0),
            Some(Scope::Firm | Scope::Pair(..)) | None => {
                return refused(status::UNKNOWN, format!("there is no {} {name:?}", kind.name()));
            }
        };
        Answer::Done([id, 0, 0, 0, 0, 0, 0, 0])
    }

    fn attach(
        &mut self,
        (session, name, kind): (SessionId, &str, GateKind),
        peer: (u32, u32, OwnedFd),
        build: String,
        offered: Option<OwnedFd>,
    ) -> Result<(), (u16, String)> {
        if self.places.get(&session).is_some_and(|place| !place.gone && has_ended(&place.process)) {
            self.process_ended(session);
        }
        self.look_at_former();
        // SYNC by gate: before it is looked who is connected, see `ws::connection`.
        self.set_by_gate(session, true);
        let attached = self.take_place((session, name, kind), peer, build, offered);
        if attached.is_err() && !self.has_gate(session) {
            self.set_by_gate(session, false);
        }
        attached
    }

    /// Gives `process` the place of a session, if nobody else who lives has it.
    fn take_place(
        &mut self,
        (session, name, kind): (SessionId, &str, GateKind),
        (pid, uid, process): (u32, u32, OwnedFd),
        build: String,
        offered: Option<OwnedFd>,
    ) -> Result<(), (u16, String)> {
        if self.parts.board.cell(usize::from(session.0)).is_some_and(|c| c.view().connected) {
            return Err((status::IN_USE, format!("session {name:?} is connected over WebSocket")));
        }
        let mut returned = None;
        if let Some(former) = self.former.iter().find(|former| former.gate.session == session) {
            if former.gate.pid != pid {
                return Err(in_use(name, former.gate.pid));
            }
            // Whether it can go on there or not: these are the slots that it has been using.
            if former.gate.is_unseen()
                && let Some(fd) = &offered
                && let Ok(region) = self.read_region(session, kind, fd)
            {
                former.gate.come_back(region.slots());
                returned = Some(former.gate.clone());
            }
        }
        let make_gate = |region: &Region| {
            let slots = region.slots();
            Arc::new(AttachedGate::new(session, pid, uid, build, self.membarrier, slots))
        };
        let broken = self.places.get(&session).is_some_and(|place| place.broken.load(Ordering::Acquire));
        match self.places.get_mut(&session) {
            // Also where its lanes are broken: what it does is not known to be over.
            Some(place) if !place.gone && place.gate.pid != pid => return Err(in_use(name, place.gate.pid)),
            Some(place) if !place.gone && !broken => {
                let same = offered.as_ref().is_some_and(|fd| is_same(fd, &place.fd));
                return if same { Ok(()) } else { Err(in_use(name, pid)) };
            }
            Some(place) if place.gone && !broken => {
                // First: where the engine cannot be told, nobody has the place, and the next one may try.
                self.send(LaneChange::There(session))?;
                let Some(place) = self.places.get_mut(&session) else { return Err(in_use(name, pid)) };
                // Nobody has the slots any more.
                let slots = place.region.slots();
                for slot in 0..slots.len() / SLOT_WORDS {
                    let state = &slots[slot * SLOT_WORDS + STATE];
                    state.store(outside(state.load(Ordering::Relaxed)), Ordering::Relaxed);
                    slots[slot * SLOT_WORDS + OWNER].store(0, Ordering::Release);
                }
                place.gate = make_gate(&place.region);
                place.process = process;
                place.gone = false;
            }
            Some(_) | None => {
                let expected = self.expected(session)?;
                let (region, fd) = match offered {
                    Some(fd) => (self.take_over(session, kind, expected, &fd)?, fd),
                    None => self.make_region(session, kind, expected)?,
                };
                let base = region.shape().base;
                let events = Reader::behind(region.events(), region.event_cursor(), expected - 1 - base);
                let verdicts = Writer::resume(region.verdicts(), region.verdict_cursor())
                    .map_err(|_| (status::BAD_REGION, "the verdict lane is damaged".to_owned()))?;
                let broken = Arc::new(AtomicBool::new(false));
                let lane = LanePort::new(session, base, events, verdicts, broken.clone());
                self.send(LaneChange::Add(lane))?;
                let gate = make_gate(&region);
                let place = Place { region, fd, broken, gate, process, gone: false };
                if let Some(Place { gate, process, gone: false, .. }) = self.places.insert(session, place) {
                    // Its threads may be inside by the slots that it had before.
                    self.former.push(Former { gate, process });
                }
            }
        }
        let gate = self.places[&session].gate.clone();
        // Before the gateway hears that it is attached.
        self.parts.gates.add(gate);
        if let Some(same_slots) = returned {
            self.parts.gates.remove(&same_slots);
        }
        if let Some(cell) = self.parts.board.cell(usize::from(session.0)) {
            cell.set_was_by_gate();
        }
        let process = AttachedProcess { pid, began: began(pid) };
        self.parts.halt_page.note_attached(usize::from(session.0), Some(process));
        tracing::info!(event = "gate_attached", session = name, pid, uid, "a gateway has attached");
        Ok(())
    }

    fn send(&self, change: LaneChange) -> Result<(), (u16, String)> {
        self.parts
            .lane_changes
            .send_timeout(change, self.engine_patience)
            .map_err(|_| (status::UNAVAILABLE, "the engine takes nothing now".to_owned()))?;
        self.parts.bell.ring();
        Ok(())
    }

    /// The sequence that the engine expects next from `session`.
    fn expected(&self, session: SessionId) -> Result<u64, (u16, String)> {
        let (reply, answer) = crossbeam_channel::bounded(1);
        self.send(LaneChange::Expected { session, reply })?;
        answer
            .recv_timeout(self.engine_patience)
            .map_err(|_| (status::UNAVAILABLE, "the engine does not answer now".to_owned()))
    }

    fn shape(&self, session: SessionId, kind: GateKind, base: u64) -> RegionShape {
        let GateOptions { slots, events, verdicts } = self.parts.options;
        RegionShape { session, kind, base, events, verdicts, slots }
    }

    fn make_region(
        &self,
        session: SessionId,
        kind: GateKind,
        expected: u64,
    ) -> Result<(Region, OwnedFd), (u16, String)> {
        let shape = self.shape(session, kind, expected - 1);
        let (words, fd) = Words::sealed("haltline-gate", shape.words())
            .map_err(|error| (status::UNAVAILABLE, format!("no shared memory: {error}")))?;
        Ok((Region::make(words, shape), fd))
    }

    /// A region that a gateway brings, as far as its size and session go.
    fn read_region(&self, session: SessionId, kind: GateKind, fd: &OwnedFd) -> Result<Region, (u16, String)> {
        let bad = |text: String| (status::BAD_REGION, text);
        let words = Words::from_sealed(fd, self.shape(session, kind, 0).words()).map_err(|e| bad(e.to_string()))?;
        let region = Region::read(words).map_err(|field| bad(format!("the region's {field} is impossible")))?;
        if region.shape() != self.shape(session, kind, region.shape().base) {
            return Err(bad("the region is of another session or size".into()));
        }
        Ok(region)
    }

    /// A region from before haltline was restarted: it must be what this haltline would have made, and its stream where the
    /// engine is.
    fn take_over(
        &self,
        session: SessionId,
        kind: GateKind,
        expected: u64,
        fd: &OwnedFd,
    ) -> Result<Region, (u16, String)> {
        let bad = |text: String| (status::BAD_REGION, text);
        let region = self.read_region(session, kind, fd)?;
        let base = region.shape().base;
        let read = region.event_cursor()[0].load(Ordering::Acquire);
        let known = (expected - 1).checked_sub(base);
        // The engine is at the cursor, or before it by what it had decided and was killed before it had said so, or beyond by what
        // it had said and not written down. Only the first two can be gone on with.
        match known {
            Some(known) if known >= read && known - read <= u64::from(region.shape().events) => Ok(region),
            Some(_) | None => Err(bad(format!(
                "the engine expects event {expected}, the region goes on at {}",
                base.saturating_add(read).saturating_add(1)
            ))),
        }
    }
}

fn in_use(name: &str, pid: u32) -> (u16, String) {
    (status::IN_USE, format!("session {name:?} is attached by process {pid}, which lives"))
}

fn has_ended(process: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(process, PollFlags::IN)];
    let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|n| n > 0)
}

fn is_same(a: &OwnedFd, b: &OwnedFd) -> bool {
    match (rustix::fs::fstat(a), rustix::fs::fstat(b)) {
        (Ok(a), Ok(b)) => (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino),
        _ => false,
    }
}

/// One packet, and the first descriptor that came with it.
fn receive(socket: &OwnedFd, bytes: &mut [u8]) -> rustix::io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let got = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut control, flags)?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok((got.bytes, fds.into_iter().next()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::duty::SystemClock;
    use crate::guard::door::OpenDoor;
    use crate::kill::testing::universe;

    struct Nobody;
    impl Authenticate for Nobody {
        fn session(&self, _: &str) -> Option<SessionId> {
            None
        }
    }

    /// A server that tells the engine by `lane_changes`.
    fn server(dir: &Path, lane_changes: Sender<LaneChange>) -> Server {
        let descriptor = || rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        let universe = Arc::new(universe());
        let (keys, looked_at) = crossbeam_channel::unbounded();
        Server {
            // The engine comes in the end, however busy the machine is.
            engine_patience: Duration::from_secs(3_600),
            membarrier: false,
            connections: Vec::new(),
            keys: 0,
            looked: Arc::new(Looked { keys, wake: descriptor() }),
            looked_at,
            places: HashMap::new(),
            arrivals: HashMap::new(),
            former: Vec::new(),
            parts: GateParts {
                listener: listen(&dir.join("gate.sock"), 0o600).unwrap(),
                page: descriptor(),
                halt_page: Arc::new(HaltPage::new(universe.scope_count(), 1)),
                former: Vec::new(),
                bell: Bell::new(),
                bell_fd: descriptor(),
                board: Arc::new(SessionBoard::new(universe.sessions.len())),
                universe,
                auth: Arc::new(Nobody),
                door: Arc::new(OpenDoor),
                gates: Arc::default(),
                lane_changes,
                texts: crossbeam_channel::bounded(1).0,
                clock: Arc::new(SystemClock::new()),
                options: GateOptions { slots: 1, events: 64, verdicts: 64 },
            },
        }
    }

    #[test]
    fn a_place_that_the_engine_was_not_told_of_is_nobodys_and_the_next_one_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let (lane_changes, changes) = crossbeam_channel::bounded(0);
        let mut server = server(dir.path(), lane_changes);
        let session = SessionId(0);
        let process = || {
            let own = rustix::process::getpid();
            rustix::process::pidfd_open(own, rustix::process::PidfdFlags::empty()).unwrap()
        };
        let attach = |server: &mut Server, pid: u32| {
            server.attach((session, "gw-1", GateKind::Ask), (pid, 0, process()), String::new(), None)
        };
        // The engine takes so many changes, and then nothing.
        let takes = |changes: &Receiver<LaneChange>, count: usize| {
            let changes = changes.clone();
            std::thread::spawn(move || {
                let taken = changes.iter().take(count);
                taken.for_each(|change| {
                    if let LaneChange::Expected { reply, .. } = change {
                        reply.send(1).unwrap();
                    }
                });
            })
        };
        let engine = takes(&changes, 2);
        attach(&mut server, 7).unwrap();
        engine.join().unwrap();
        // For a while nobody takes anything.
        let patience = std::mem::replace(&mut server.engine_patience, Duration::from_millis(20));
        server.process_ended(session);
        let connected = |server: &Server| server.parts.board.cell(0).unwrap().view().by_gate;
        assert!(!server.has_gate(session) && !connected(&server));

        let (status, _) = attach(&mut server, 8).unwrap_err();
        server.engine_patience = patience;
        assert_eq!(status, status::UNAVAILABLE);
        assert!(!server.has_gate(session) && !connected(&server), "it says that somebody is there who is not");
        let engine = takes(&changes, 1);
        attach(&mut server, 9).unwrap();
        engine.join().unwrap();
        assert!(server.has_gate(session) && connected(&server));
        assert_eq!(server.places[&session].gate.pid, 9);
    }

    #[test]
    fn the_door_of_a_service_that_stands_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gate.sock");
        let standing = listen(&path, 0o600).unwrap();
        let mut waiting = Vec::new();
        let refused = loop {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
            match rustix::net::connect(&socket, &SocketAddrUnix::new(&path).unwrap()) {
                Ok(()) => waiting.push(socket),
                Err(error) => break error,
            }
        };
        assert_eq!(refused, rustix::io::Errno::AGAIN);
        assert!(listen(&path, 0o600).is_err(), "two serve, and gateways do not know which");
        drop((standing, waiting));
        assert!(listen(&path, 0o600).is_ok(), "nobody is there any more");
    }

    #[test]
    fn the_begin_of_a_process_is_known_and_stays() {
        let own = began(std::process::id());
        assert!(own > 0);
        assert_eq!((began(std::process::id()), began(u32::MAX)), (own, 0));
        assert!(began(1) <= own);
    }
}
