//! A client of [`ws`](crate::ingest::ws): for the demo, the benches and the tests.
//!
//! [`Memory`] holds what survives a connection: events that are not acknowledged yet, the next sequence, the
//! last answer seen. [`connect`] with the same memory goes on where the last connection ended; no event is
//! lost or sent twice, no answer is given out twice. The two halves may live in two tasks.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderValue, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Bytes, Error as WsError, Message, Utf8Bytes};

use crate::model::{Claim, Event, EventKind, Rule, Universe, Verdict};
use crate::units::InstrumentId;
use crate::wire::hello::{self, Hello};
use crate::wire::json::{self, ScopeMode, ScopeName, Server, VerdictMessage};
use crate::wire::{MESSAGE_BYTES_MAX, Protocol, bin};

/// Where to connect, and as whom.
#[derive(Clone)]
pub struct Endpoint {
    /// `ws://host:port/path`.
    pub url: String,
    /// The session's bearer token.
    pub token: String,
    /// Which subprotocol to speak.
    pub protocol: Protocol,
    /// The server's names: turns indices into text and back.
    pub universe: Arc<Universe>,
    /// What to say of oneself.
    pub claim: Claim,
    /// Whether whoever hears [`Reply::MassCancel`] does it. If not, orders are named one by one.
    pub mass_cancel: bool,
}

/// Why a connection could not be made or does not go on.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server refused the handshake with this HTTP status.
    #[error("the server refused the connection with status {0}")]
    Refused(u16),
    /// The connection failed.
    #[error("the connection failed")]
    Connection(#[source] Box<WsError>),
    /// The server ended the connection.
    #[error("the server ended the connection: {0}")]
    Closed(String),
    /// The server said something that the protocol does not know.
    #[error("the server broke the protocol: {0}")]
    Protocol(String),
    /// The server expects an event that was acknowledged and is held no longer.
    #[error("the server expects event {expected}, the oldest one held is {oldest}")]
    Lost {
        /// What it expects.
        expected: u64,
        /// What there is.
        oldest: u64,
    },
    /// Too many events wait for their acknowledgement.
    #[error("{0} events wait for their acknowledgement")]
    Full(usize),
}

impl From<WsError> for ClientError {
    fn from(e: WsError) -> ClientError {
        match e {
            WsError::Http(response) => ClientError::Refused(response.status().as_u16()),
            e => ClientError::Connection(Box::new(e)),
        }
    }
}

#[derive(Debug)]
struct State {
    /// Events without acknowledgement, by sequence, without gaps.
    held: VecDeque<Event>,
    capacity: usize,
    next_seq: u64,
    /// The last event written to the present connection.
    written: u64,
    out: u64,
    run: u64,
}

impl State {
    fn acknowledge(&mut self, seq: u64) {
        while self.held.front().is_some_and(|e| e.seq <= seq) {
            self.held.pop_front();
        }
    }

    /// Where in `held` the first event after `seq` is.
    fn after(&self, seq: u64) -> usize {
        self.held.front().map_or(0, |e| (seq + 1).saturating_sub(e.seq) as usize)
    }
}

/// What a session's client remembers from one connection to the next. Clones share it.
#[derive(Clone, Debug)]
pub struct Memory(Arc<Mutex<State>>);

impl Memory {
    /// Nothing sent, nothing seen. At most `capacity` events may wait for their acknowledgement.
    #[must_use]
    pub fn new(capacity: usize) -> Memory {
        Memory(Arc::new(Mutex::new(State {
            held: VecDeque::new(),
            capacity: capacity.max(1),
            next_seq: 1,
            written: 0,
            out: 0,
            run: 0,
        })))
    }

    /// How many events wait for their acknowledgement.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        self.state().held.len()
    }

    /// The sequence that the next event gets.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.state().next_seq
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change to the state is complete in itself, so a panic elsewhere leaves it usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the server says of a new connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The session's name.
    pub session: String,
    /// The next event that the server expects.
    pub next_seq: u64,
    /// Whether no answer was lost.
    pub resumed: bool,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The request's sequence.
    pub seq: u64,
    /// The request's id.
    pub id: u64,
    /// Which request.
    pub kind: EventKind,
    /// `None`: admitted.
    pub denied: Option<Denied>,
    /// `false`: something before it is missing. It acknowledges nothing and is sent again in its turn.
    pub taken: bool,
}

/// Why a request was denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// The rule.
    pub rule: Rule,
    /// Where the limit stands.
    pub scope: ScopeName,
    /// What was observed, a decimal.
    pub observed: String,
    /// What would have been allowed, a decimal.
    pub limit: String,
}

/// What a [`Receiver`] hands out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The answer to a request. Each is given out once.
    Verdict(Answered),
    /// Events up to here were taken.
    Applied(u64),
    /// Modes that changed. Has been confirmed already.
    Modes {
        /// The halt page's state.
        page: u64,
        /// The scopes.
        scopes: Vec<ScopeMode>,
    },
    /// Haltline wants an order canceled, because `scope` is halted: send a `cancel` for it.
    Cancel {
        /// The order.
        id: u64,
        /// The session that the order is of, if it is another one.
        session: Option<String>,
        /// The halted scope.
        scope: ScopeName,
        /// Which attempt this is, from 1.
        attempt: u8,
    },
    /// The same for every order of this session in `scope`.
    MassCancel {
        /// The halted scope.
        scope: ScopeName,
    },
    /// Cancels stay unanswered: cut the connection to the venue, so that it cancels what is left.
    Disconnect {
        /// The halted scope.
        scope: ScopeName,
    },
    /// Something that was sent could not be read.
    Error {
        /// Its sequence, if that could be read.
        seq: Option<u64>,
        /// Field, value and rule.
        what: String,
    },
}

type Socket = WebSocketStream<TcpStream>;

struct Writer {
    sink: SplitSink<Socket, Message>,
    memory: Memory,
    protocol: Protocol,
    universe: Arc<Universe>,
}

impl Writer {
    /// Writes every event that is held and was not written to this connection, then flushes once.
    async fn write_held(&mut self) -> Result<(), ClientError> {
        loop {
            let frames = self.next_frames();
            if frames.is_empty() {
                break;
            }
            for frame in frames {
                self.sink.feed(frame).await?;
            }
        }
        Ok(self.sink.flush().await?)
    }

    fn next_frames(&mut self) -> Vec<Message> {
        let mut state = self.memory.state();
        let from = state.after(state.written);
        let batch: Vec<Event> = state.held.iter().skip(from).take(MESSAGE_BYTES_MAX / bin::RECORD).copied().collect();
        let Some(last) = batch.last() else { return Vec::new() };
        state.written = last.seq;
        drop(state);
        match self.protocol {
            Protocol::Json => {
                batch.iter().map(|e| Message::Text(Utf8Bytes::from(json::encode_event(e, &self.universe)))).collect()
            }
            Protocol::Bin => {
                let bytes: Vec<u8> = batch.iter().flat_map(bin::encode_event).collect();
                vec![Message::Binary(Bytes::from(bytes))]
            }
        }
    }
}

type SharedWriter = Arc<tokio::sync::Mutex<Writer>>;

/// The half that sends.
pub struct Sender {
    writer: SharedWriter,
    memory: Memory,
}

impl Sender {
    /// Gives `event` the next sequence and puts it into the queue; [`Sender::flush`] sends it.
    ///
    /// # Errors
    /// [`ClientError::Full`]: nothing happened; take answers first.
    pub fn queue(&mut self, mut event: Event) -> Result<u64, ClientError> {
        let mut state = self.memory.state();
        if state.held.len() >= state.capacity {
            return Err(ClientError::Full(state.held.len()));
        }
        event.seq = state.next_seq;
        state.next_seq += 1;
        state.held.push_back(event);
        Ok(event.seq)
    }

    /// Sends what is queued, in as few writes as there can be. To be awaited to its end: if it is dropped
    /// on the way, what it had taken up is sent again only after a reconnect.
    ///
    /// # Errors
    /// If the connection fails. The events are still held: connect again with the same memory.
    pub async fn flush(&mut self) -> Result<(), ClientError> {
        self.writer.lock().await.write_held().await
    }
}

type Writing = Pin<Box<dyn Future<Output = Result<(), ClientError>> + Send>>;

/// The half that receives. It must be polled for modes to be confirmed and lost events to be sent again.
pub struct Receiver {
    stream: SplitStream<Socket>,
    writer: SharedWriter,
    memory: Memory,
    universe: Arc<Universe>,
    /// A write that this half has to make, under way. Reading goes on meanwhile.
    writing: Option<Writing>,
    /// What else it has to write: a confirmation, or everything from a sequence on.
    to_confirm: Option<u64>,
    to_resend: Option<u64>,
    /// The events that were held when the connection began are still to be written.
    to_begin: bool,
    /// Replies that were not handed out yet, verdicts with their numbers.
    ready: VecDeque<(u64, Reply)>,
}

/// Connects, says what `memory` knows, and sends again what the server has not taken.
///
/// # Errors
/// See [`ClientError`].
pub async fn connect(endpoint: &Endpoint, memory: &Memory) -> Result<(Sender, Receiver, Welcome), ClientError> {
    let mut request = endpoint.url.as_str().into_client_request()?;
    let address = {
        let uri = request.uri();
        let host = uri.host().unwrap_or("").trim_matches(['[', ']']).to_owned();
        (host, uri.port_u16().unwrap_or(80))
    };
    let token = HeaderValue::from_str(&format!("Bearer {}", endpoint.token))
        .map_err(|_| ClientError::Protocol("the token cannot stand in a header".to_owned()))?;
    request.headers_mut().insert(header::AUTHORIZATION, token);
    let protocol = HeaderValue::from_static(endpoint.protocol.name());
    request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    let stream = TcpStream::connect((address.0.as_str(), address.1)).await.map_err(WsError::from)?;
    stream.set_nodelay(true).map_err(WsError::from)?;
    let config = WebSocketConfig::default();
    let (socket, _) = tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await?;
    let (mut sink, mut stream) = socket.split();
    let hello = {
        let state = memory.state();
        Hello { out: state.out, run: state.run, mass_cancel: endpoint.mass_cancel, claim: endpoint.claim.clone() }
    };
    sink.send(Message::Text(Utf8Bytes::from(hello::encode(&hello)))).await?;
    let welcome = loop {
        match stream.next().await {
            Some(Ok(Message::Text(text))) => match Server::decode(&text).map_err(ClientError::Protocol)? {
                Server::Welcome { session, run, next_seq, out_from, resumed, .. } => {
                    take_welcome(memory, run, next_seq, out_from)?;
                    break Welcome { session, next_seq, resumed };
                }
                _ => return Err(ClientError::Protocol("something came before welcome".to_owned())),
            },
            Some(Ok(Message::Close(frame))) => return Err(closed(frame.as_ref().map(|f| f.reason.as_str()))),
            Some(Ok(_)) => {}
            Some(Err(e)) => return Err(e.into()),
            None => return Err(closed(None)),
        }
    };
    let universe = endpoint.universe.clone();
    let writer = Writer { sink, memory: memory.clone(), protocol: endpoint.protocol, universe: universe.clone() };
    let writer = Arc::new(tokio::sync::Mutex::new(writer));
    let receiver = Receiver {
        stream,
        writer: writer.clone(),
        memory: memory.clone(),
        universe,
        writing: None,
        to_confirm: None,
        // What the server has not taken is sent while answers are being read.
        to_begin: true,
        to_resend: None,
        ready: VecDeque::new(),
    };
    Ok((Sender { writer, memory: memory.clone() }, receiver, welcome))
}

fn closed(reason: Option<&str>) -> ClientError {
    ClientError::Closed(reason.unwrap_or("without a reason").to_owned())
}

fn take_welcome(memory: &Memory, run: u64, next_seq: u64, out_from: u64) -> Result<(), ClientError> {
    let mut state = memory.state();
    if run != state.run {
        state.out = out_from.saturating_sub(1);
        state.run = run;
    }
    match state.held.front().map(|e| e.seq) {
        Some(oldest) if next_seq < oldest => return Err(ClientError::Lost { expected: next_seq, oldest }),
        Some(_) => {}
        None => state.next_seq = next_seq,
    }
    state.written = next_seq - 1;
    Ok(())
}

impl Receiver {
    /// The next reply.
    ///
    /// # Errors
    /// When the connection ends; connect again with the same memory.
    pub async fn next(&mut self) -> Result<Reply, ClientError> {
        loop {
            if let Some((out, reply)) = self.ready.pop_front() {
                if self.is_news(out, &reply) {
                    return Ok(reply);
                }
                continue;
            }
            self.start_writing();
            let message = match &mut self.writing {
                None => self.stream.next().await,
                Some(writing) => tokio::select! {
                    written = writing => {
                        self.writing = None;
                        written?;
                        continue;
                    }
                    message = self.stream.next() => message,
                },
            };
            match message {
                Some(Ok(Message::Text(text))) => self.take_text(&text)?,
                Some(Ok(Message::Binary(bytes))) => {
                    let records = bin::records(&bytes).map_err(|p| ClientError::Protocol(format!("{p:?}")))?;
                    for record in records {
                        let answer = bin::decode_answer(record).map_err(|p| ClientError::Protocol(format!("{p:?}")))?;
                        self.take_answer(&answer);
                    }
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(frame))) => return Err(closed(frame.as_ref().map(|f| f.reason.as_str()))),
                Some(Err(e)) => return Err(e.into()),
                None => return Err(closed(None)),
            }
        }
    }

    fn start_writing(&mut self) {
        if self.writing.is_some() {
            return;
        }
        let (confirm, resend) = (self.to_confirm.take(), self.to_resend.take());
        if confirm.is_none() && resend.is_none() && !std::mem::take(&mut self.to_begin) {
            return;
        }
        let writer = self.writer.clone();
        self.writing = Some(Box::pin(async move {
            let mut writer = writer.lock().await;
            if let Some(page) = confirm {
                writer.sink.feed(Message::Text(Utf8Bytes::from(json::encode_mode_ack(page)))).await?;
            }
            if let Some(from) = resend {
                let mut state = writer.memory.state();
                state.written = state.written.min(from - 1);
            }
            writer.write_held().await
        }));
    }

    fn take_text(&mut self, text: &str) -> Result<(), ClientError> {
        match Server::decode(text).map_err(ClientError::Protocol)? {
            Server::Welcome { .. } => return Err(ClientError::Protocol("a second welcome".to_owned())),
            Server::Names { .. } => {}
            Server::Verdict(verdict) => self.take_verdict(verdict)?,
            Server::Applied { seq } => self.take_answer(&bin::Answer::Applied { seq }),
            Server::Resend { from } => self.take_answer(&bin::Answer::Resend { from }),
            Server::Mode { page, scopes } => {
                self.to_confirm = Some(page);
                self.ready.push_back((0, Reply::Modes { page, scopes }));
            }
            // This client's ids are numbers.
            Server::Cancel { id, session, scope, attempt } => {
                let id =
                    id.parse().map_err(|_| ClientError::Protocol(format!("a cancel of an unknown order {id:?}")))?;
                self.ready.push_back((0, Reply::Cancel { id, session, scope, attempt }));
            }
            Server::MassCancel { scope } => self.ready.push_back((0, Reply::MassCancel { scope })),
            Server::DisconnectRequest { scope } => self.ready.push_back((0, Reply::Disconnect { scope })),
            Server::Error { seq, field, value, rule } => {
                self.ready.push_back((0, Reply::Error { seq, what: format!("{field} \"{value}\" {rule}") }));
            }
        }
        Ok(())
    }

    fn take_answer(&mut self, answer: &bin::Answer) {
        match answer {
            bin::Answer::Applied { seq } => {
                self.ready.push_back((0, Reply::Applied(*seq)));
            }
            bin::Answer::Resend { from } => self.to_resend = Some((*from).max(1)),
            bin::Answer::Verdict { out, seq, id, kind, denial, checks } => {
                let denied = denial.as_ref().map(|d| {
                    // The instrument is the request's; it is held until this very answer.
                    let state = self.memory.state();
                    let at = state.after(seq.saturating_sub(1));
                    let instrument = state.held.get(at).map_or(InstrumentId::UNKNOWN, |e| e.instrument);
                    let (_, observed, limit) = VerdictMessage::numbers(d, instrument, &self.universe);
                    Denied { rule: d.rule, scope: ScopeName::of(d.scope, &self.universe), observed, limit }
                });
                let taken = *checks != Verdict::GAP_CHECKS;
                let answered = Answered { seq: *seq, id: *id, kind: *kind, denied, taken };
                self.ready.push_back((*out, Reply::Verdict(answered)));
            }
        }
    }

    fn take_verdict(&mut self, v: VerdictMessage) -> Result<(), ClientError> {
        let bad = |what: &str| ClientError::Protocol(format!("a verdict without {what}"));
        let kind = EventKind::ALL.into_iter().find(|k| k.name() == v.kind).ok_or_else(|| bad("a kind"))?;
        let denied = match v.verdict.as_str() {
            "admit" => None,
            "deny" => Some(Denied {
                rule: v.rule.as_deref().and_then(Rule::from_name).ok_or_else(|| bad("a rule"))?,
                scope: v.scope.ok_or_else(|| bad("a scope"))?,
                observed: v.observed.unwrap_or_default(),
                limit: v.limit.unwrap_or_default(),
            }),
            _ => return Err(bad("admit or deny")),
        };
        // This client's ids are numbers; one that the server could not read is empty.
        let checks = u64::from_str_radix(&v.checks, 16).map_err(|_| bad("its checks"))?;
        let taken = checks != Verdict::GAP_CHECKS;
        let answered = Answered { seq: v.seq, id: v.id.parse().unwrap_or(0), kind, denied, taken };
        self.ready.push_back((v.out, Reply::Verdict(answered)));
        Ok(())
    }

    /// Remembers a reply at the moment at which it is handed out: one that is lost with this receiver comes
    /// again on the next connection. `false` if it was handed out before.
    fn is_news(&self, out: u64, reply: &Reply) -> bool {
        let mut state = self.memory.state();
        match reply {
            Reply::Applied(seq) => state.acknowledge(*seq),
            Reply::Modes { .. }
            | Reply::Cancel { .. }
            | Reply::MassCancel { .. }
            | Reply::Disconnect { .. }
            | Reply::Error { .. } => {}
            Reply::Verdict(answered) => {
                if answered.taken {
                    state.acknowledge(answered.seq);
                }
                if out <= state.out {
                    return false;
                }
                state.out = out;
            }
        }
        true
    }
}
