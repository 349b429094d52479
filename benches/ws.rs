//! `cargo bench --bench ws`: the service over loopback TCP, from a client's socket to a client's socket.
//!
//! The real service runs in this process with its own threads (ingest, engine, API, control, latch); clients and
//! floors have threads of their own. Floors have the topology of what they are compared with: the client is the
//! same, the server is another thread with another single-threaded tokio runtime, messages have the same sizes.
//! Rounds of a figure and of its floors alternate, so that all of them meet the same noise.

mod common;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream as StdStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::{Args, Report, machine};
use futures_util::{FutureExt, SinkExt, StreamExt};
use haltline::api::auth::{hash_token, new_token};
use haltline::api::{Principal, Role, Scopes};
use haltline::app::config;
use haltline::app::service::{Running, StartOptions, init_state_dir, start};
use haltline::model::{Event, EventKind, Mode, OrdType, Scope, Side, Universe};
use haltline::units::{AccountId, InstrumentId, OrdId, Px, Qty, SessionId, StrategyId};
use haltline::wire::{MESSAGE_BYTES_MAX, Protocol, bin, json};
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Bytes, Message, Utf8Bytes};

/// Nothing here takes longer; a bench that hangs ends with a message instead.
const PATIENCE: Duration = Duration::from_secs(60);
const SESSIONS: usize = 8;
const INSTRUMENTS: u32 = 100;
const ROUNDS: usize = 10;
const IDLES: [&str; 3] = ["nap", "nap 200us", "spin"];

const CONFIG: &str = r#"
[service]
state_dir = "set-by-the-bench"
base_currency = "USD"
base_scale = 4
[engine]
IDLE
working_orders = 1_048_576
remembered_orders = 262_144
execs = 65_536
pairs = 4_096
recent_orders = 65_536
[ingest]
listen = "127.0.0.1:0"
[http]
listen = "127.0.0.1:0"
[auth]
tokens_at_runtime = true
two_person_rearm = []
[accounts.main]
[strategies.alpha]
account = "main"
[strategies.tripping]
account = "main"
[instrument_defaults]
px_scale = 2
qty_scale = 0
reference_max_age = "unlimited"
NAMES
[limits.firm]
gross_exposure = 900_000_000_000
net_long = 900_000_000_000
net_short = 900_000_000_000
others = "unlimited"
[limits.account."*"]
gross_exposure = 900_000_000_000
others = "unlimited"
[limits.strategy."*"]
order_qty = 1_000_000
order_notional = 1_000_000_000
collar = "50%"
working_orders = 1_000_000
gross_exposure = 900_000_000_000
order_rate = { count = 100_000_000, per = "1s", kind = "gcra", burst = 100_000 }
others = "unlimited"
[limits.strategy.tripping]
order_qty = { max = 1_000, action = "halt" }
[limits.pair."*"]
gross_exposure = 900_000_000_000
others = "unlimited"
[limits.instrument."*"]
gross_exposure = 900_000_000_000
others = "unlimited"
[limits.session."*"]
message_rate = { count = 100_000_000, per = "1s", kind = "gcra", burst = 100_000 }
working_orders = 1_000_000
others = "unlimited"
"#;

/// The service, with tokens made for it.
struct Service {
    running: Running,
    tokens: Vec<String>,
    operator: String,
    _dir: tempfile::TempDir,
}

impl Service {
    /// `idle`: a word for the engine's idle strategy; `nap 200us` also says for how long it spins first.
    fn start(idle: &str, session_kind: &str) -> Service {
        let idle = match idle.split_once(' ') {
            None => format!("idle = \"{idle}\""),
            Some((kind, spin)) => format!("idle = \"{kind}\"\nspin = \"{spin}\""),
        };
        let mut names: String =
            (0..SESSIONS).map(|i| format!("[sessions.gw-{i}]\nkind = \"{session_kind}\"\n")).collect();
        names.extend((0..INSTRUMENTS).map(|i| format!("[instruments.I{i:03}]\nreference = \"10.00\"\n")));
        let text = CONFIG.replace("IDLE", &idle).replace("NAMES", &names);
        let mut loaded = config::load("bench", &text).unwrap_or_else(|violations| panic!("{violations:?}"));
        let dir = tempfile::tempdir().expect("a directory for the latch");
        loaded.service.state_dir = dir.path().join("state");
        init_state_dir(&loaded.service.state_dir).expect("a new latch");
        let token = || new_token().expect("randomness").0;
        let tokens: Vec<String> = (0..SESSIONS).map(|_| token()).collect();
        let operator = token();
        let session_hashes: HashMap<String, [u8; 32]> =
            tokens.iter().enumerate().map(|(i, t)| (format!("gw-{i}"), hash_token(t))).collect();
        let principal = Principal {
            name: "bench".into(),
            role: Role::Operator,
            scopes: Scopes::EVERYTHING,
            token_hash: hash_token(&operator),
        };
        let options =
            StartOptions { session_hashes, principals: vec![principal], any_port: true, ..StartOptions::default() };
        let running = start(loaded, options).expect("the service starts");
        Service { running, tokens, operator, _dir: dir }
    }

    fn request(&self, session: usize, protocol: Protocol) -> Request {
        let mut request = format!("ws://{}/", self.running.ws_addr).into_client_request().expect("a request");
        let headers = request.headers_mut();
        headers.insert("authorization", format!("Bearer {}", self.tokens[session]).parse().expect("a header"));
        headers.insert("sec-websocket-protocol", protocol.name().parse().expect("a header"));
        request
    }

    /// Lowers `scope` and waits until that is on disk, so that no disk write runs into the next measurement.
    fn rearm(&self, scope: Scope) {
        let switch = &self.running.switch;
        let slot = switch.universe().slot(scope).expect("a scope of the bench");
        let since = Instant::now();
        while switch.page().get(slot).mode != Mode::Normal {
            let epoch = switch.page().get(slot).epoch;
            // It may have been raised anew in between; then it is lowered from there.
            let _ = switch.ask_rearm(scope, epoch, "bench", "next measurement", self.running.clock.now());
            assert!(since.elapsed() < PATIENCE, "the re-arm never came through");
        }
        self.settle();
    }

    fn settle(&self) {
        let since = Instant::now();
        while !self.running.switch.is_durable() {
            std::thread::sleep(Duration::from_micros(200));
            assert!(since.elapsed() < PATIENCE, "the latch never became durable");
        }
    }
}

/// Order number `n` of `session`.
fn order(session: usize, n: u64) -> Event {
    let mut event = Event::new(EventKind::New, SessionId(0), 0);
    event.strategy = StrategyId(0);
    event.account = AccountId(0);
    event.instrument = InstrumentId((n % u64::from(INSTRUMENTS)) as u32);
    event.side = if n.is_multiple_of(2) { Side::Buy } else { Side::Sell };
    event.ord_type = OrdType::Limit;
    event.id = OrdId((session as u64 + 1) << 40 | n);
    event.qty = Qty(100 + (n % 900) as i64);
    event.px = Px(990 + (n % 20) as i64);
    event
}

fn encode(event: &Event, protocol: Protocol, universe: &Universe) -> Message {
    match protocol {
        Protocol::Json => Message::Text(Utf8Bytes::from(json::encode_event(event, universe))),
        Protocol::Bin => Message::Binary(Bytes::copy_from_slice(&bin::encode_event(event))),
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("it takes too long") })
}

fn times() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds that fit")
}

fn record(times: &mut Histogram<u64>, since: Instant) {
    times.saturating_record(since.elapsed().as_nanos() as u64);
}

fn p50_us(times: &Histogram<u64>) -> f64 {
    times.value_at_quantile(0.5) as f64 / 1e3
}

// ---------------------------------------------------------------------------------------------- floors

/// A server on a thread and a runtime of its own that takes one connection after the other.
struct FloorServer {
    addr: SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FloorServer {
    fn start<F: Future<Output = ()>>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> FloorServer {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a listener");
        let addr = listener.local_addr().expect("an address");
        let (stop, mut stopped) = tokio::sync::oneshot::channel();
        let run = move || {
            bind("bench-floor", SERVER_CORE);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("a listener");
                loop {
                    tokio::select! {
                        _ = &mut stopped => return,
                        accepted = listener.accept() => {
                            let (stream, _) = accepted.expect("a connection");
                            stream.set_nodelay(true).expect("a socket");
                            tokio::select! {
                                _ = &mut stopped => return,
                                () = serve(stream) => {}
                            }
                        }
                    }
                }
            });
        };
        let thread = std::thread::Builder::new().name("bench-floor".into()).spawn(run).expect("a thread");
        FloorServer { addr, stop: Some(stop), thread: Some(thread) }
    }

    /// Reads `ask` bytes, writes `answer` bytes, without any protocol.
    fn tcp_echo(ask: usize, answer: usize) -> FloorServer {
        FloorServer::start(move |mut stream| async move {
            let (mut read, written) = (vec![0; ask], vec![7; answer]);
            while stream.read_exact(&mut read).await.is_ok() && stream.write_all(&written).await.is_ok() {}
        })
    }

    /// Answers every message with `answer`, with tungstenite alone.
    fn ws_echo(answer: Message) -> FloorServer {
        FloorServer::start(move |stream| {
            let answer = answer.clone();
            async move {
                let Ok(mut ws) = tokio_tungstenite::accept_async(stream).await else { return };
                while let Some(Ok(message)) = ws.next().await {
                    if message.is_close() || ws.send(answer.clone()).await.is_err() {
                        return;
                    }
                }
            }
        })
    }
}

impl Drop for FloorServer {
    fn drop(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The client's core and the server's, so that a figure and its floors are placed alike: left alone, the kernel puts
/// a pair on one core now and on two then, which changes a round trip by a factor of two.
const CLIENT_CORE: usize = 0;
const SERVER_CORE: usize = 1;

/// Binds the threads called `name` to `core`.
fn bind(name: &str, core: usize) {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(core);
    for task in std::fs::read_dir("/proc/self/task").expect("/proc").flatten() {
        if std::fs::read_to_string(task.path().join("comm")).unwrap_or_default().trim() == name {
            let id = task.file_name().to_str().and_then(|id| id.parse().ok()).and_then(rustix::process::Pid::from_raw);
            // A machine with one core, or one that does not let us: then it runs where it may.
            let _ = rustix::thread::sched_setaffinity(id, &cores);
        }
    }
}

/// Runs `client` on a thread on the client's core, with whatever serves it on the other one.
fn on_the_clients_core<T: Send>(client: impl FnOnce() -> T + Send) -> T {
    for server in ["haltline-ingest", "haltline-api", "bench-floor"] {
        bind(server, SERVER_CORE);
    }
    std::thread::scope(|scope| {
        let run = || {
            bind("bench-client", CLIENT_CORE);
            client()
        };
        let thread = std::thread::Builder::new().name("bench-client".into()).spawn_scoped(scope, run);
        thread.expect("a thread").join().expect("the client ends well")
    })
}

type Socket = WebSocketStream<TcpStream>;

async fn connect(addr: SocketAddr, request: Request) -> Socket {
    let stream = TcpStream::connect(addr).await.expect("a connection");
    stream.set_nodelay(true).expect("a socket");
    tokio_tungstenite::client_async(request, stream).await.expect("a WebSocket").0
}

async fn next(ws: &mut Socket) -> Message {
    loop {
        match ws.next().await.expect("an open connection").expect("a message") {
            Message::Ping(_) | Message::Pong(_) => {}
            message => return message,
        }
    }
}

fn is_verdict(message: &Message) -> bool {
    match message {
        Message::Text(text) => text.starts_with(r#"{"type":"verdict""#),
        Message::Binary(bytes) => bytes[0] == 1,
        _ => false,
    }
}

fn is_admission(message: &Message) -> bool {
    match message {
        Message::Text(text) => text.contains(r#""verdict":"admit""#),
        Message::Binary(bytes) => bytes.len() == bin::RECORD && bytes[2] == 1,
        _ => false,
    }
}

fn is_mode(message: &Message, mode: &str) -> bool {
    matches!(message, Message::Text(text) if text.starts_with(r#"{"type":"mode""#) && text.contains(mode))
}

/// Says hello and takes everything up to the first `mode`, which is the last of what a connection begins with.
async fn begin(service: &Service, session: usize, protocol: Protocol) -> Socket {
    let mut ws = connect(service.running.ws_addr, service.request(session, protocol)).await;
    ws.send(Message::text(r#"{"type":"hello"}"#)).await.expect("it takes hello");
    while !is_mode(&next(&mut ws).await, "") {}
    ws
}

/// One `tcp` round trip per turn.
async fn tcp_round(stream: &mut TcpStream, ask: &[u8], answer: &mut [u8], turns: usize, into: &mut Histogram<u64>) {
    for _ in 0..turns {
        let since = Instant::now();
        stream.write_all(ask).await.expect("a write");
        stream.read_exact(answer).await.expect("an answer");
        record(into, since);
    }
}

async fn ws_round(ws: &mut Socket, ask: &Message, turns: usize, into: &mut Histogram<u64>) {
    for _ in 0..turns {
        let ask = ask.clone();
        let since = Instant::now();
        ws.send(ask).await.expect("a write");
        next(ws).await;
        record(into, since);
    }
}

async fn floor_sockets(tcp: &FloorServer, ws: &FloorServer) -> (TcpStream, Socket) {
    let stream = TcpStream::connect(tcp.addr).await.expect("a connection");
    stream.set_nodelay(true).expect("a socket");
    let request = format!("ws://{}/", ws.addr).into_client_request().expect("a request");
    (stream, connect(ws.addr, request).await)
}

// ---------------------------------------------------------------------------------- 1. round trips

/// `new` → verdict, one at a time.
fn asks(report: &mut Report, idle: &str, protocol: Protocol, turns: usize) {
    let service = Service::start(idle, "ask");
    let (mut asked, mut tcp_times, mut ws_times) = (times(), times(), times());
    let measure = async {
        let mut ws = begin(&service, 0, protocol).await;
        let mut seq = 0;
        let mut next_order = |service: &Service| {
            seq += 1;
            let mut event = order(0, seq);
            event.seq = seq;
            encode(&event, protocol, &service.running.universe)
        };
        let ask = next_order(&service);
        ws.send(ask.clone()).await.expect("a write");
        let answer = next(&mut ws).await;
        assert!(is_verdict(&answer) && is_admission(&answer), "{answer:?}");

        let (tcp_server, ws_server) =
            (FloorServer::tcp_echo(ask.len(), answer.len()), FloorServer::ws_echo(answer.clone()));
        let (mut tcp, mut bare) = floor_sockets(&tcp_server, &ws_server).await;
        let (bytes, mut read) = (vec![1; ask.len()], vec![0; answer.len()]);
        for round in 0..=ROUNDS {
            tcp_round(&mut tcp, &bytes, &mut read, turns / ROUNDS, &mut tcp_times).await;
            ws_round(&mut bare, &ask, turns / ROUNDS, &mut ws_times).await;
            for _ in 0..turns / ROUNDS {
                let ask = next_order(&service);
                let since = Instant::now();
                ws.send(ask).await.expect("a write");
                let mut answer = next(&mut ws).await;
                while !is_verdict(&answer) {
                    answer = next(&mut ws).await;
                }
                record(&mut asked, since);
                assert!(is_admission(&answer), "{answer:?}");
            }
            if round == 0 {
                // Warm now.
                for t in [&mut asked, &mut tcp_times, &mut ws_times] {
                    t.reset();
                }
            }
        }
        drop((tcp, bare));
    };
    on_the_clients_core(|| block_on(measure));
    service.running.stop().expect("an orderly end");
    let what = format!("ask {}, engine {idle}: new -> verdict", name(protocol));
    report.times(&what, &asked, Some(("TCP echo", p50_us(&tcp_times))));
    report.against(format!("{what} (bare WebSocket)"), "µs", p50_us(&asked), ("WebSocket echo", p50_us(&ws_times)));
    report.times(format!("{what}: the TCP echo"), &tcp_times, None);
    report.times(format!("{what}: the WebSocket echo"), &ws_times, None);
}

/// An order that trips a halt → the `mode` frame that tells of it.
fn trips(report: &mut Report, idle: &str, protocol: Protocol, turns: usize) {
    let service = Service::start(idle, "ask");
    let tripping = service.running.universe.strategy("tripping").expect("the strategy");
    let (mut tripped, mut tcp_times, mut ws_times) = (times(), times(), times());
    let measure = async {
        let mut ws = begin(&service, 0, protocol).await;
        let mut seq = 0;
        let mut next_order = |service: &Service| {
            seq += 1;
            let mut event = order(0, seq);
            (event.seq, event.strategy, event.qty) = (seq, tripping, Qty(1_001));
            encode(&event, protocol, &service.running.universe)
        };
        let mut floors = None;
        for turn in 0..turns + turns / 10 {
            let ask = next_order(&service);
            let since = Instant::now();
            ws.send(ask.clone()).await.expect("a write");
            let mut verdicts = 0;
            let told = loop {
                let message = next(&mut ws).await;
                if is_mode(&message, r#""halted""#) {
                    break message;
                }
                verdicts += usize::from(is_verdict(&message));
            };
            record(&mut tripped, since);
            while verdicts == 0 {
                let message = next(&mut ws).await;
                verdicts += usize::from(is_verdict(&message));
                assert!(!is_admission(&message), "{message:?}");
            }
            service.rearm(Scope::Strategy(tripping));
            while !is_mode(&next(&mut ws).await, r#""normal""#) {}

            if floors.is_none() {
                let servers = (FloorServer::tcp_echo(ask.len(), told.len()), FloorServer::ws_echo(told.clone()));
                let sockets = floor_sockets(&servers.0, &servers.1).await;
                floors = Some((servers, sockets, vec![1; ask.len()], vec![0; told.len()]));
            }
            let Some((_, (tcp, bare), bytes, read)) = &mut floors else { continue };
            // The first of each round finds both sides asleep, as the order does.
            tokio::time::sleep(Duration::from_millis(1)).await;
            tcp_round(tcp, bytes, read, 1, &mut tcp_times).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
            ws_round(bare, &ask, 1, &mut ws_times).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
            if turn == turns / 10 {
                for t in [&mut tripped, &mut tcp_times, &mut ws_times] {
                    t.reset();
                }
            }
        }
        let (servers, sockets, ..) = floors.expect("a turn");
        drop(sockets);
        drop(servers);
    };
    on_the_clients_core(|| block_on(measure));
    service.running.stop().expect("an orderly end");
    let what = format!("halt {}, engine {idle}: order that trips -> mode frame", name(protocol));
    report.times(&what, &tripped, Some(("TCP echo after the same pause", p50_us(&tcp_times))));
    let floor = ("WebSocket echo after the same pause", p50_us(&ws_times));
    report.against(format!("{what} (bare WebSocket)"), "µs", p50_us(&tripped), floor);
}

fn name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Json => "JSON",
        Protocol::Bin => "binary",
    }
}

// ------------------------------------------------------------------------------ 2. sustained ingest

/// How the events of a stream are written.
#[derive(Clone, Copy)]
enum Form {
    /// One frame of text per event.
    Json,
    /// Frames of so many records.
    Records(usize),
}

impl Form {
    fn protocol(self) -> Protocol {
        match self {
            Form::Json => Protocol::Json,
            Form::Records(_) => Protocol::Bin,
        }
    }
    fn name(self) -> String {
        match self {
            Form::Json => "JSON".to_owned(),
            Form::Records(n) => format!("binary, {n} per frame"),
        }
    }
}

/// Appends a masked frame, as a client has to write it.
fn frame(out: &mut Vec<u8>, text: bool, payload: &[u8]) {
    const MASK: [u8; 4] = [0x5a, 0x17, 0xc3, 0x88];
    out.push(if text { 0x81 } else { 0x82 });
    match payload.len() {
        n @ 0..126 => out.push(0x80 | n as u8),
        n @ 126..0x1_0000 => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(n as u16).to_be_bytes());
        }
        n => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    out.extend(payload.iter().enumerate().map(|(i, b)| b ^ MASK[i % 4]));
}

/// `events` of `session` as the bytes of a connection, and how many frames that is: of four events one is new,
/// one an ack, one a cancel request, one its confirmation; 64 orders are working at any time.
fn stream(form: Form, session: usize, events: usize, universe: &Universe) -> (Vec<u8>, usize) {
    let (mut out, mut records, mut frames) = (Vec::new(), Vec::new(), 0);
    for i in 0..events as u64 {
        // Numbers of orders; those before the first are not known, and a stream has only a few of them.
        let n = i / 4 + 65;
        let mut event = order(session, n);
        match i % 4 {
            0 => {}
            1 => event.kind = EventKind::Ack,
            phase => {
                event = order(session, if n >= 129 { n - 64 } else { n });
                event.kind = if phase == 2 { EventKind::Cancel } else { EventKind::Canceled };
                if phase == 2 {
                    event.ref_id = event.id.0;
                    event.id = OrdId(event.id.0 | 1 << 39);
                }
            }
        }
        event.seq = i + 1;
        match form {
            Form::Json => {
                frame(&mut out, true, json::encode_event(&event, universe).as_bytes());
                frames += 1;
            }
            Form::Records(per_frame) => {
                records.extend_from_slice(&bin::encode_event(&event));
                if records.len() == per_frame * bin::RECORD || i + 1 == events as u64 {
                    frame(&mut out, false, &records);
                    frames += 1;
                    records.clear();
                }
            }
        }
    }
    (out, frames)
}

/// Reads frames from a server (never masked, never in pieces) until everything up to `last` is acknowledged.
fn read_until_acknowledged(mut stream: StdStream, last: u64) {
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let mut buffer: Vec<u8> = Vec::with_capacity(1 << 20);
    let (mut from, mut chunk) = (0, vec![0; 1 << 17]);
    loop {
        let rest = &buffer[from..];
        let frame = match rest {
            [op, n @ 0..126, payload @ ..] => Some((op & 15, usize::from(*n), payload, 2)),
            [op, 126, a, b, payload @ ..] => Some((op & 15, usize::from(u16::from_be_bytes([*a, *b])), payload, 4)),
            [op, 127, n0, n1, n2, n3, n4, n5, n6, n7, payload @ ..] => {
                let n = u64::from_be_bytes([*n0, *n1, *n2, *n3, *n4, *n5, *n6, *n7]) as usize;
                Some((op & 15, n, payload, 10))
            }
            _ => None,
        };
        match frame {
            Some((op, n, payload, head)) if payload.len() >= n => {
                let payload = &payload[..n];
                let seq = match op {
                    1 => text_seq(payload),
                    2 => payload
                        .chunks(bin::RECORD)
                        .next_back()
                        .map_or(0, |r| u64::from_le_bytes(r[24..32].try_into().expect("8 bytes"))),
                    8 => panic!("the server closed: {}", String::from_utf8_lossy(&payload[2..])),
                    _ => 0,
                };
                from += head + n;
                if seq >= last {
                    return;
                }
            }
            _ => {
                buffer.drain(..from);
                from = 0;
                let n = stream.read(&mut chunk).expect("an acknowledgement in time");
                assert!(n > 0, "the server ended the connection");
                buffer.extend_from_slice(&chunk[..n]);
            }
        }
    }
}

/// The sequence that a message acknowledges: verdicts and `applied` have one.
fn text_seq(payload: &[u8]) -> u64 {
    let text = std::str::from_utf8(payload).expect("text");
    assert!(!text.starts_with(r#"{"type":"error""#), "{text}");
    if !text.starts_with(r#"{"type":"applied""#) && !text.starts_with(r#"{"type":"verdict""#) {
        return 0;
    }
    let digits = text.split_once(r#""seq":"#).map_or("", |(_, rest)| rest);
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().unwrap_or(0)
}

/// What the thread called `name` has used of its processors: from the kernel, in nanoseconds.
fn cpu_of(name: &str) -> Duration {
    let mut spent = 0;
    for task in std::fs::read_dir("/proc/self/task").expect("/proc").flatten() {
        let read = |file| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        if read("comm").trim() == name {
            spent += read("schedstat").split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Duration::from_nanos(spent)
}

/// Connects, and leaves a plain socket on which frames can be written and read by hand.
fn shake_hands(addr: SocketAddr, request: Request, hello: bool) -> StdStream {
    let stream = StdStream::connect(addr).expect("a connection");
    stream.set_nodelay(true).expect("a socket");
    let (socket, _) = tungstenite::client(request, stream).expect("a WebSocket");
    // The server says nothing before `hello`, so nothing is lost with the buffer of `socket`.
    let mut stream = socket.get_ref().try_clone().expect("a socket");
    if hello {
        let mut bytes = Vec::new();
        frame(&mut bytes, true, br#"{"type":"hello"}"#);
        stream.write_all(&bytes).expect("it takes hello");
    }
    stream
}

/// Writes every stream, in turns of a buffer each, and waits until all is acknowledged. Returns how long it took.
fn pour(sockets: Vec<StdStream>, streams: &[(Vec<u8>, usize)], last: u64) -> Duration {
    const TURN: usize = 64 * 1024;
    let mut writers: Vec<StdStream> = sockets.iter().map(|s| s.try_clone().expect("a socket")).collect();
    let since = Instant::now();
    let readers: Vec<JoinHandle<()>> =
        sockets.into_iter().map(|s| std::thread::spawn(move || read_until_acknowledged(s, last))).collect();
    let longest = streams.iter().map(|(bytes, _)| bytes.len()).max().unwrap_or(0);
    for from in (0..longest).step_by(TURN) {
        for (writer, (bytes, _)) in writers.iter_mut().zip(streams) {
            if from < bytes.len() {
                writer.write_all(&bytes[from..bytes.len().min(from + TURN)]).expect("a write");
            }
        }
    }
    for reader in readers {
        reader.join().expect("everything is acknowledged");
    }
    since.elapsed()
}

/// A bare tungstenite server that reads and answers `frames` messages with one acknowledgement.
fn sink(frames: usize, last: u64) -> FloorServer {
    FloorServer::start(move |stream| async move {
        let config = WebSocketConfig::default().read_buffer_size(MESSAGE_BYTES_MAX);
        let Ok(mut ws) = tokio_tungstenite::accept_async_with_config(stream, Some(config)).await else { return };
        let mut left = frames;
        while left > 0 {
            let Some(Ok(_)) = ws.next().await else { return };
            left -= 1;
            // As many in one go as the service reads.
            for _ in 1..64 {
                match ws.next().now_or_never() {
                    Some(Some(Ok(_))) => left -= 1,
                    Some(_) => return,
                    None => break,
                }
            }
        }
        let _ = ws.send(Message::text(format!(r#"{{"type":"applied","seq":{last}}}"#))).await;
        let _ = ws.next().await;
    })
}

fn ingest(report: &mut Report, form: Form, kind: &str, connections: usize, events: usize) {
    let per_connection = events / connections;
    let last = per_connection as u64;
    let rounds = 3;
    let mut best: Option<(f64, f64, f64)> = None;
    let mut bare: Option<(f64, f64)> = None;
    for _ in 0..rounds {
        // A service of its own for every round: sequences and ids begin anew.
        let service = Service::start("nap", kind);
        let streams: Vec<(Vec<u8>, usize)> =
            (0..connections).map(|s| stream(form, s, per_connection, &service.running.universe)).collect();
        let sockets = (0..connections)
            .map(|s| shake_hands(service.running.ws_addr, service.request(s, form.protocol()), true))
            .collect();
        let before = (cpu_of("haltline-ingest"), cpu_of("haltline-engine"));
        let took = pour(sockets, &streams, last);
        let total = (per_connection * connections) as f64;
        let ingest_cpu = (cpu_of("haltline-ingest") - before.0).as_secs_f64();
        let engine_cpu = (cpu_of("haltline-engine") - before.1).as_secs_f64();
        service.running.stop().expect("an orderly end");
        let one = (total / took.as_secs_f64(), total / ingest_cpu, total / engine_cpu);
        best = Some(best.map_or(one, |b| (b.0.max(one.0), b.1.max(one.1), b.2.max(one.2))));

        let server = sink(streams[0].1, last);
        let request = format!("ws://{}/", server.addr).into_client_request().expect("a request");
        let socket = shake_hands(server.addr, request, false);
        let before = cpu_of("bench-floor");
        let took = pour(vec![socket], &streams[..1], last);
        let spent = (cpu_of("bench-floor") - before).as_secs_f64();
        drop(server);
        let one = (per_connection as f64 / took.as_secs_f64(), per_connection as f64 / spent);
        bare = Some(bare.map_or(one, |b| (b.0.max(one.0), b.1.max(one.1))));
    }
    let (Some((wall, ingest_core, engine_core)), Some((sink_wall, sink_core))) = (best, bare) else { return };
    let plural = if connections == 1 { "connection" } else { "connections" };
    let what = format!("ingest {}, {kind}, {connections} {plural}", form.name());
    let k = 1e3;
    report.against(what.clone(), "k/s", wall / k, ("tungstenite sink, 1 connection", sink_wall / k));
    let floor = ("sink per core", sink_core / k);
    report.against(format!("{what}: per core of the ingest thread"), "k/s", ingest_core / k, floor);
    report.value(format!("{what}: per core of the engine thread"), "k/s", engine_core / k);
}

// ---------------------------------------------------------------------------------------- 3. HTTP

struct Kill {
    request: Vec<u8>,
    firm: usize,
}

impl Kill {
    fn new(service: &Service, wait_ms: u64) -> Kill {
        let body = format!(r#"{{"scope":{{"kind":"strategy","name":"alpha"}},"reason":"bench","wait_ms":{wait_ms}}}"#);
        let request = format!(
            "POST /v1/kill HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            service.running.http_addr,
            service.operator,
            body.len()
        );
        let firm = service.running.universe.slot(Scope::Strategy(StrategyId(0))).expect("a slot");
        Kill { request: request.into_bytes(), firm }
    }
}

/// Reads one answer; returns its length.
fn read_answer(stream: &mut StdStream, buffer: &mut [u8]) -> usize {
    let mut n = 0;
    loop {
        n += stream.read(&mut buffer[n..]).expect("an answer in time");
        let text = std::str::from_utf8(&buffer[..n]).expect("text");
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        assert!(head.starts_with("HTTP/1.1 200"), "{text}");
        let length = head
            .to_ascii_lowercase()
            .split_once("content-length: ")
            .and_then(|(_, rest)| rest.split("\r\n").next().and_then(|n| n.parse::<usize>().ok()));
        if body.len() >= length.expect("a length") {
            return n;
        }
    }
}

fn http_socket(addr: SocketAddr) -> StdStream {
    let stream = StdStream::connect(addr).expect("a connection");
    stream.set_nodelay(true).expect("a socket");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream
}

fn echo(stream: &mut StdStream, ask: &[u8], answer: &mut [u8]) {
    stream.write_all(ask).expect("a write");
    stream.read_exact(answer).expect("an answer");
}

fn kills(report: &mut Report, turns: usize) {
    let service = Service::start("nap", "ask");
    let alpha = Scope::Strategy(StrategyId(0));
    let kill = Kill::new(&service, 0);
    let durable = Kill::new(&service, 5_000);
    let mut buffer = vec![0; 1 << 16];
    let mut kept = http_socket(service.running.http_addr);
    kept.write_all(&kill.request).expect("a write");
    let answer_len = read_answer(&mut kept, &mut buffer);
    service.rearm(alpha);
    let server = FloorServer::tcp_echo(kill.request.len(), answer_len);
    let mut answer = vec![0; answer_len];

    let mut all: [Histogram<u64>; 7] = std::array::from_fn(|_| times());
    let [kept_flag, kept_answer, fresh_flag, fresh_answer, kept_durable, kept_echo, fresh_echo] = &mut all;
    let page = service.running.switch.page();
    let see_flag = || {
        let since = Instant::now();
        // The check of the time comes seldom, so that it does not slow the look at the page.
        while !(0..4_096).any(|_| {
            std::hint::spin_loop();
            page.get(kill.firm).mode == Mode::Halted
        }) {
            assert!(since.elapsed() < PATIENCE, "the flag was never raised");
        }
    };
    let pause = || std::thread::sleep(Duration::from_millis(1));
    // The floor server takes one connection after the other, so each turn has its own.
    let mut turn = || {
        pause();
        let since = Instant::now();
        kept.write_all(&kill.request).expect("a write");
        see_flag();
        record(kept_flag, since);
        read_answer(&mut kept, &mut buffer);
        service.rearm(alpha);

        pause();
        let since = Instant::now();
        kept.write_all(&kill.request).expect("a write");
        read_answer(&mut kept, &mut buffer);
        record(kept_answer, since);
        service.rearm(alpha);

        pause();
        let since = Instant::now();
        let mut fresh = http_socket(service.running.http_addr);
        fresh.write_all(&kill.request).expect("a write");
        see_flag();
        record(fresh_flag, since);
        read_answer(&mut fresh, &mut buffer);
        service.rearm(alpha);

        pause();
        let since = Instant::now();
        let mut fresh = http_socket(service.running.http_addr);
        fresh.write_all(&kill.request).expect("a write");
        read_answer(&mut fresh, &mut buffer);
        record(fresh_answer, since);
        service.rearm(alpha);

        pause();
        let since = Instant::now();
        kept.write_all(&durable.request).expect("a write");
        read_answer(&mut kept, &mut buffer);
        record(kept_durable, since);
        service.rearm(alpha);

        pause();
        let since = Instant::now();
        let mut fresh = http_socket(server.addr);
        echo(&mut fresh, &kill.request, &mut answer);
        record(fresh_echo, since);
        pause();
        let since = Instant::now();
        echo(&mut fresh, &kill.request, &mut answer);
        record(kept_echo, since);
    };
    on_the_clients_core(|| (0..turns).for_each(|_| turn()));
    drop(server);
    drop(kept);
    service.running.stop().expect("an orderly end");
    let (kept_floor, fresh_floor) = (p50_us(kept_echo), p50_us(fresh_echo));
    let kept_floor = Some(("TCP echo, kept alive", kept_floor));
    let fresh_floor = Some(("TCP echo, fresh", fresh_floor));
    report.times("HTTP kill, kept alive: request -> flag seen", kept_flag, kept_floor);
    report.times("HTTP kill, kept alive: request -> answer (wait_ms 0)", kept_answer, kept_floor);
    report.times("HTTP kill, fresh: connect -> flag seen", fresh_flag, fresh_floor);
    report.times("HTTP kill, fresh: connect -> answer (wait_ms 0)", fresh_answer, fresh_floor);
    report.times("HTTP kill, kept alive: -> answer, latch on disk", kept_durable, None);
    report.times("TCP echo, kept alive", kept_echo, None);
    report.times("TCP echo, fresh", fresh_echo, None);
}

fn main() {
    let args = Args::parse();
    let includes = format!(
        "{}. Loopback TCP, client and service in one process, each on its own thread.\n\
         ask: the client's send (masking included, encoding not), the service's whole way to the verdict, the\n  \
         client's receipt of it (not parsed). halt: the same up to the mode frame; 1 ms of silence before each.\n\
         ingest: frames are made and masked beforehand; until the last event is acknowledged; best of 3; 'per core'\n  \
         counts the thread's processor time, the kernel's work for its sockets included; engine: nap.\n\
         HTTP: the client writes and spins on the halt page ('flag seen') or waits for the answer; 1 ms of silence\n  \
         before each; engine: nap. nap: the engine spins for 20 µs, then sleeps until woken; nap 200us: the same after 200.\n\
         ask, halt and HTTP: the client is bound to core 0, the thread that serves it (ingest, API, floor) to core 1;\n  \
         every other thread, the engine's among them, runs where the kernel puts it.",
        machine()
    );
    let mut report = Report::new("ws", args, &includes);
    // `--only=1`: asks, 2: ingest, 3: HTTP, 4: halts.
    let part = |n| args.only.is_none_or(|only| only == n);
    let scale = if args.quick { 10 } else { 1 };
    if part(1) {
        for idle in IDLES {
            for protocol in [Protocol::Json, Protocol::Bin] {
                asks(&mut report, idle, protocol, 20_000 / scale);
            }
        }
    }
    if part(4) {
        for idle in IDLES {
            for protocol in [Protocol::Json, Protocol::Bin] {
                trips(&mut report, idle, protocol, 500 / scale);
            }
        }
    }
    if part(2) {
        for connections in [1, SESSIONS] {
            ingest(&mut report, Form::Json, "observe", connections, 400_000 / scale);
            ingest(&mut report, Form::Records(1), "observe", connections, 400_000 / scale);
            ingest(&mut report, Form::Records(64), "observe", connections, 1_600_000 / scale);
        }
        ingest(&mut report, Form::Json, "ask", 1, 400_000 / scale);
        ingest(&mut report, Form::Records(64), "ask", 1, 400_000 / scale);
    }
    if part(3) {
        kills(&mut report, 1_000 / scale);
    }
    report.finish();
}
