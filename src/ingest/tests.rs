//! The transport against a stand-in for the engine that keeps the stream's contract and answers by script.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Bytes, Error as WsError, Message};

use crate::duty::SystemClock;
use crate::engine::agent::{EnginePort, Wake, port};
use crate::guard::door::OpenDoor;
use crate::ingest::client::{ClientError, Endpoint, Memory, Receiver, Reply, connect};
use crate::ingest::ws::{Authenticate, IngestOptions, IngestParts, IngestStats, IngestWake, run};
use crate::kill::board::SessionBoard;
use crate::kill::page::HaltPage;
use crate::model::cancel::{Instruct, Instruction};
use crate::model::effect::Denial;
use crate::model::universe::{AccountSpec, CurrencySpec, InstrumentSpec, SessionSpec, StrategySpec};
use crate::model::{Claim, Effect, Event, EventKind, Mode, Rule, Scope, SessionKind, Universe, Verdict, Why};
use crate::ring::bell::Bell;
use crate::units::{AccountId, CurrencyId, ExecId, InstrumentId, OrdId, Px, Qty, SessionId, StrategyId};
use crate::wire::json::Server;
use crate::wire::{Protocol, bin};

/// How long anything may take that has to happen: only a test that fails waits for so long.
const GUARD: Duration = Duration::from_secs(120);
/// Longer than any test.
const LONG: Duration = Duration::from_secs(3_600);

/// Times by which no client is given up for being slow: whoever is, may be so because the machine is.
fn patient() -> IngestOptions {
    IngestOptions {
        handshake_timeout: LONG,
        hello_timeout: LONG,
        door_timeout: LONG,
        idle_timeout: LONG,
        write_timeout: LONG,
        ..IngestOptions::default()
    }
}

fn universe() -> Arc<Universe> {
    let session = |name: &str, kind, strategies| SessionSpec { name: name.to_owned(), kind, strategies };
    Arc::new(Universe::new(
        2,
        vec![CurrencySpec { name: "USD".to_owned(), initial_rate: None }],
        vec![
            session("g1", SessionKind::Ask, vec![StrategyId(0)]),
            session("g2", SessionKind::Ask, vec![]),
            session("drop", SessionKind::Observe, vec![]),
        ],
        vec![AccountSpec { name: "acc".to_owned() }],
        vec![
            StrategySpec { name: "alpha".to_owned(), account: AccountId(0) },
            StrategySpec { name: "beta".to_owned(), account: AccountId(0) },
        ],
        vec![InstrumentSpec {
            name: "XYZ".to_owned(),
            currency: CurrencyId(0),
            px_scale: 2,
            qty_scale: 0,
            multiplier: (1, 0),
            negative_px: false,
            average_daily_volume: None,
            initial_reference: None,
        }],
    ))
}

/// Token of somebody at whom the transport stands still, until it may go on.
const STILL: &str = "stand still";

struct Tokens {
    stands: crossbeam_channel::Sender<()>,
    go_on: crossbeam_channel::Receiver<()>,
}

impl Authenticate for Tokens {
    fn session(&self, bearer: &str) -> Option<SessionId> {
        if bearer == STILL {
            self.stands.send(()).unwrap();
            self.go_on.recv().unwrap();
        }
        ["t1", "t2", "t3"].iter().position(|t| *t == bearer).map(|i| SessionId(i as u16))
    }
}

/// Denies what is larger than this.
const QTY_MAX: i64 = 1000;

struct FakeEngine {
    port: EnginePort,
    bell: Arc<Bell>,
    expected: [u64; 3],
    taken: Arc<Mutex<Vec<Event>>>,
    paused: Arc<AtomicBool>,
    /// It has seen that it is to pause, and is at no event.
    stands: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    refused: Arc<AtomicU64>,
    /// Events that are lost on their way.
    skip: Arc<AtomicU64>,
    /// Cancels of an order of g1 that are still to be told, because alpha was halted.
    cancels: Arc<AtomicU64>,
}

impl FakeEngine {
    fn run(mut self) {
        while !self.stop.load(Ordering::SeqCst) {
            let mut worked = false;
            self.stands.store(self.paused.load(Ordering::SeqCst), Ordering::SeqCst);
            while !self.paused.load(Ordering::SeqCst) && self.port.has_room() {
                let Some(inbound) = self.port.next_event() else { break };
                worked = true;
                // A session came or went: not part of its stream.
                if (inbound.event.kind, inbound.event.seq) == (EventKind::Heartbeat, 0) {
                    continue;
                }
                if self.skip.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_err() {
                    self.step(inbound.event);
                }
            }
            while self.port.has_room()
                && self.cancels.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
            {
                worked = true;
                let what = Instruct::Cancel { of: SessionId(0), id: OrdId(1), attempt: 1 };
                let scope = Scope::Strategy(StrategyId(0));
                assert!(self.port.answer(Effect::Instruct(Instruction { to: SessionId(0), scope, what })));
            }
            if worked {
                self.port.wake();
            }
            let paused = self.paused.clone();
            let port = &self.port;
            self.bell.nap(Duration::from_millis(1), || !paused.load(Ordering::SeqCst) && port.waiting() > 0);
        }
    }

    fn step(&mut self, event: Event) {
        let session = event.session;
        if event.kind == EventKind::Withdrawn {
            assert_eq!(event.seq, 0);
            self.taken.lock().unwrap().push(event);
            assert!(self.port.answer(Effect::OrderForgotten { session, id: event.id }));
            return;
        }
        let expected = &mut self.expected[usize::from(session.0)];
        let asks = event.kind.is_request() && session.0 < 2;
        let denied = |rule, observed, limit| {
            Some(Denial { rule, why: Why::Breach, scope: Scope::Strategy(event.strategy), observed, limit })
        };
        let verdict = |denial| {
            Effect::Verdict(Verdict { session, seq: event.seq, id: event.id, kind: event.kind, denial, checks: 7 })
        };
        if event.seq != *expected {
            self.refused.fetch_add(1, Ordering::SeqCst);
            if event.seq > *expected {
                assert!(self.port.answer(Effect::Resend { session, from: *expected }));
                if asks {
                    // A cancel may go out all the same.
                    let gap = denied(Rule::StreamGap, event.seq as i64, *expected as i64);
                    let denial = gap.filter(|_| event.kind != EventKind::Cancel);
                    let (seq, id, kind) = (event.seq, event.id, event.kind);
                    let checks = 1 << Rule::StreamGap as u64;
                    assert!(self.port.answer(Effect::Verdict(Verdict { session, seq, id, kind, denial, checks })));
                }
            }
            return;
        }
        *expected += 1;
        self.taken.lock().unwrap().push(event);
        let effect = if asks {
            verdict(if event.flags & Event::MALFORMED != 0 {
                denied(Rule::Malformed, 0, 0)
            } else if event.kind != EventKind::Cancel && event.qty.0 > QTY_MAX {
                denied(Rule::OrderQty, event.qty.0, QTY_MAX)
            } else {
                None
            })
        } else {
            Effect::Applied { session, seq: event.seq }
        };
        assert!(self.port.answer(effect));
        if event.kind == EventKind::Canceled {
            assert!(self.port.answer(Effect::OrderForgotten { session, id: event.id }));
        }
        if event.kind == EventKind::Bust {
            assert!(self.port.answer(Effect::ExecForgotten { session, id: ExecId(event.id.0) }));
        }
    }
}

struct Rig {
    address: SocketAddr,
    universe: Arc<Universe>,
    page: Arc<HaltPage>,
    board: Arc<SessionBoard>,
    wake: IngestWake,
    stats: Arc<IngestStats>,
    take_texts: crossbeam_channel::Receiver<crate::guard::signatures::Text>,
    taken: Arc<Mutex<Vec<Event>>>,
    paused: Arc<AtomicBool>,
    engine_stands: Arc<AtomicBool>,
    refused: Arc<AtomicU64>,
    skip: Arc<AtomicU64>,
    cancels: Arc<AtomicU64>,
    stands: crossbeam_channel::Receiver<()>,
    go_on: crossbeam_channel::Sender<()>,
    engine_stop: Arc<AtomicBool>,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

impl Rig {
    fn new(capacity: usize, options: IngestOptions) -> Rig {
        let universe = universe();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let page = Arc::new(HaltPage::new(universe.scope_count(), 1));
        let board = Arc::new(SessionBoard::new(universe.sessions.len()));
        let wake = IngestWake::default();
        let stats = Arc::new(IngestStats::default());
        let bell = Bell::new();
        let (edge, engine) = port(capacity, bell.clone(), Box::new(wake.clone()));
        let taken = Arc::new(Mutex::new(Vec::new()));
        let (paused, engine_stands, engine_stop) = (Arc::default(), Arc::default(), Arc::default());
        let (refused, skip, cancels) = (Arc::default(), Arc::default(), Arc::default());
        let fake = FakeEngine {
            port: engine,
            bell,
            expected: [1; 3],
            taken: taken.clone(),
            paused: Arc::clone(&paused),
            stands: Arc::clone(&engine_stands),
            stop: Arc::clone(&engine_stop),
            refused: Arc::clone(&refused),
            skip: Arc::clone(&skip),
            cancels: Arc::clone(&cancels),
        };
        let (stop, stopped) = watch::channel(false);
        let (tell_stands, stands) = crossbeam_channel::bounded(1);
        let (go_on, may_go_on) = crossbeam_channel::bounded(1);
        let (texts, take_texts) = crossbeam_channel::bounded(4);
        let parts = IngestParts {
            door: Arc::new(OpenDoor),
            universe: universe.clone(),
            page: page.clone(),
            board: board.clone(),
            port: edge,
            clock: Arc::new(SystemClock::new()),
            auth: Arc::new(Tokens { stands: tell_stands, go_on: may_go_on }),
            texts,
            listener,
            options,
            wake: wake.clone(),
            stop: stopped,
            stats: stats.clone(),
            next_seq: Vec::new(),
            names: Vec::new(),
            named: Arc::default(),
        };
        let threads = vec![
            std::thread::spawn(move || fake.run()),
            std::thread::spawn(move || run(parts).expect("the transport runs")),
        ];
        Rig {
            address,
            universe,
            page,
            board,
            wake,
            stats,
            take_texts,
            taken,
            paused,
            engine_stands,
            refused,
            skip,
            cancels,
            stands,
            go_on,
            engine_stop,
            stop,
            threads,
        }
    }

    fn endpoint(&self, token: &str, protocol: Protocol) -> Endpoint {
        Endpoint {
            url: format!("ws://{}/", self.address),
            token: token.to_owned(),
            protocol,
            universe: self.universe.clone(),
            claim: Claim::default(),
            mass_cancel: false,
        }
    }

    fn raise(&self, scope: Scope, mode: Mode) {
        self.page.raise(self.universe.slot(scope).unwrap(), mode);
        self.wake.wake();
    }

    /// Has the engine take nothing more until `paused` is false again.
    async fn pause(&self) {
        self.paused.store(true, Ordering::SeqCst);
        until(|| self.engine_stands.load(Ordering::SeqCst)).await;
    }

    fn taken(&self) -> Vec<Event> {
        self.taken.lock().unwrap().clone()
    }

    /// A bare connection, for what the client would not say.
    async fn raw(
        &self,
        token: &str,
        protocol: &str,
        origin: Option<&str>,
    ) -> Result<WebSocketStream<TcpStream>, WsError> {
        let mut request = format!("ws://{}/", self.address).into_client_request()?;
        let headers = request.headers_mut();
        if !token.is_empty() {
            headers.insert("Authorization", format!("Bearer {token}").parse().unwrap());
        }
        if !protocol.is_empty() {
            headers.insert("Sec-WebSocket-Protocol", protocol.parse().unwrap());
        }
        if let Some(origin) = origin {
            headers.insert("Origin", origin.parse().unwrap());
        }
        let stream = TcpStream::connect(self.address).await.unwrap();
        Ok(tokio_tungstenite::client_async(request, stream).await?.0)
    }

    /// A bare JSON connection of session g1 after its hello; welcome and the modes are read.
    async fn json(&self) -> WebSocketStream<TcpStream> {
        let mut ws = self.raw("t1", "haltline.v1.json", None).await.unwrap();
        say(&mut ws, r#"{"type":"hello"}"#).await;
        assert!(matches!(hear(&mut ws).await, Server::Welcome { .. }));
        assert!(matches!(hear(&mut ws).await, Server::Mode { .. }));
        ws
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.engine_stop.store(true, Ordering::SeqCst);
        let _ = self.stop.send(true);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() && !std::thread::panicking() {
                panic!("a thread of the rig panicked");
            }
        }
    }
}

async fn guard<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(GUARD, future).await.expect("it did not happen in time")
}

/// Waits for something that another thread does, bounded.
async fn until(what: impl Fn() -> bool) {
    guard(async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

async fn say(ws: &mut WebSocketStream<TcpStream>, text: &str) {
    ws.send(Message::text(text)).await.unwrap();
}

async fn hear(ws: &mut WebSocketStream<TcpStream>) -> Server {
    loop {
        match guard(ws.next()).await {
            Some(Ok(Message::Text(text))) => return Server::decode(&text).unwrap(),
            Some(Ok(Message::Ping(_))) => {}
            other => panic!("{other:?}"),
        }
    }
}

fn order(id: u64, qty: i64) -> Event {
    let mut event = Event::new(EventKind::New, SessionId(0), 0);
    event.id = OrdId(id);
    event.qty = Qty(qty);
    event.px = Px(1050);
    event
}

fn about(kind: EventKind, id: u64) -> Event {
    let mut event = Event::new(kind, SessionId(0), 0);
    event.id = OrdId(id);
    if kind == EventKind::Fill {
        event.ref_id = id + 1_000_000;
        event.qty = Qty(1);
        event.px = Px(1050);
    }
    if kind == EventKind::Cancel {
        event.ref_id = id - 1;
    }
    event
}

async fn verdict(receiver: &mut Receiver) -> crate::ingest::client::Answered {
    loop {
        if let Reply::Verdict(v) = guard(receiver.next()).await.unwrap() {
            return v;
        }
    }
}

#[tokio::test]
async fn both_protocols_ask_and_get_the_same_answers() {
    for protocol in [Protocol::Json, Protocol::Bin] {
        let rig = Rig::new(1024, patient());
        let memory = Memory::new(100);
        let (mut tx, mut rx, welcome) = guard(connect(&rig.endpoint("t1", protocol), &memory)).await.unwrap();
        assert_eq!((welcome.session.as_str(), welcome.next_seq, welcome.resumed), ("g1", 1, true));
        for event in [order(1, 100), about(EventKind::Ack, 1), order(2, 5000), about(EventKind::Cancel, 3)] {
            tx.queue(event).unwrap();
        }
        tx.queue(about(EventKind::Fill, 1)).unwrap();
        tx.flush().await.unwrap();
        let first = verdict(&mut rx).await;
        assert_eq!((first.seq, first.id, first.denied), (1, 1, None));
        let second = verdict(&mut rx).await;
        let denied = second.denied.unwrap();
        assert_eq!((second.seq, denied.rule), (3, Rule::OrderQty));
        assert_eq!((denied.scope.kind.as_str(), denied.scope.name.as_str()), ("strategy", "alpha"));
        assert_eq!((denied.observed.as_str(), denied.limit.as_str()), ("5000", "1000"));
        assert_eq!(verdict(&mut rx).await.kind, EventKind::Cancel);
        while memory.unacknowledged() > 0 {
            guard(rx.next()).await.unwrap();
        }
        let taken = rig.taken();
        assert_eq!(taken.iter().map(|e| e.seq).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        assert_eq!(taken[0].px, Px(1050));
        assert_eq!((taken[4].kind, taken[4].ref_id, taken[4].qty), (EventKind::Fill, 1_000_001, Qty(1)));
        assert!(taken.iter().all(|e| e.session == SessionId(0)));
    }
}

#[tokio::test]
async fn strangers_browsers_and_unknown_protocols_are_refused() {
    let options = IngestOptions { origins: vec!["http://localhost".to_owned()], ..patient() };
    let rig = Rig::new(64, options);
    for (token, protocol, origin, status) in [
        ("", "haltline.v1.json", None, 401),
        ("t9", "haltline.v1.json", None, 401),
        ("t1", "haltline.v1.json", Some("http://evil.example"), 403),
        ("t1", "haltline.v2.json", None, 400),
        ("t1", "", None, 400),
    ] {
        match guard(rig.raw(token, protocol, origin)).await {
            Err(WsError::Http(response)) => assert_eq!(response.status().as_u16(), status, "{token} {protocol}"),
            other => panic!("{other:?}"),
        }
    }
    assert!(guard(rig.raw("t1", "x, haltline.v1.bin", Some("http://localhost"))).await.is_ok());
    assert_eq!(rig.stats.refused_auth.load(Ordering::SeqCst), 2);
    assert_eq!(rig.stats.refused_origin.load(Ordering::SeqCst), 1);
    assert_eq!(rig.stats.refused_protocol.load(Ordering::SeqCst), 2);
    assert!(rig.taken().is_empty());
}

#[tokio::test]
async fn client_that_does_not_say_hello_in_time_is_closed() {
    let options = IngestOptions { hello_timeout: Duration::from_millis(20), ..patient() };
    let rig = Rig::new(64, options);
    let mut ws = guard(rig.raw("t1", "haltline.v1.json", None)).await.unwrap();
    assert!(matches!(guard(ws.next()).await, Some(Ok(Message::Close(_)))));
    // An event before hello is no hello.
    let rig = Rig::new(64, patient());
    let mut ws = guard(rig.raw("t1", "haltline.v1.json", None)).await.unwrap();
    say(&mut ws, r#"{"type":"heartbeat","seq":1}"#).await;
    assert!(matches!(guard(ws.next()).await, Some(Ok(Message::Close(_)))));
    assert!(rig.taken().is_empty());
}

#[tokio::test]
async fn a_session_that_a_gate_has_or_had_is_refused() {
    let rig = Rig::new(64, patient());
    let refused = async |count| {
        let mut ws = guard(rig.raw("t1", "haltline.v1.json", None)).await.unwrap();
        say(&mut ws, r#"{"type":"hello"}"#).await;
        assert!(matches!(guard(ws.next()).await, Some(Ok(Message::Close(_)))));
        assert_eq!(rig.stats.refused_gate.load(Ordering::SeqCst), count);
    };
    let cell = rig.board.cell(0).unwrap();
    cell.set_by_gate(true);
    refused(1).await;
    // Attached, never used, and gone.
    cell.set_by_gate(false);
    drop(rig.json().await);
    until(|| !cell.view().connected).await;
    // The engine is further than this transport knows: a fill with the next sequence would be taken for a repeated one.
    cell.set_was_by_gate();
    refused(2).await;
    assert!(rig.taken().is_empty());
}

#[tokio::test]
async fn connections_beyond_the_cap_are_refused() {
    let rig = Rig::new(64, IngestOptions { connections_max: 1, ..patient() });
    let _first = rig.json().await;
    assert!(guard(rig.raw("t2", "haltline.v1.json", None)).await.is_err());
    assert_eq!(rig.stats.refused_full.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn malformed_request_is_denied_and_the_stream_goes_on() {
    let rig = Rig::new(64, patient());
    let mut ws = rig.json().await;
    say(&mut ws, r#"{"type":"new","seq":1,"id":"a","strategy":"alpha","instrument":"XYZ","side":"buy","ord_type":"limit","qty":1.5,"px":"10"}"#).await;
    let Server::Error { seq, field, rule, .. } = hear(&mut ws).await else { panic!() };
    assert_eq!((seq, field.as_str()), (Some(1), "qty"));
    assert!(rule.contains("string"), "{rule}");
    let Server::Verdict(v) = hear(&mut ws).await else { panic!() };
    assert_eq!((v.seq, v.id.as_str(), v.rule.as_deref()), (1, "a", Some("malformed")));
    say(&mut ws, r#"{"type":"heartbeat","seq":2}"#).await;
    assert_eq!(hear(&mut ws).await, Server::Applied { seq: 2 });
}

#[tokio::test]
async fn malformed_report_is_not_taken_until_it_parses() {
    let rig = Rig::new(64, patient());
    let mut ws = rig.json().await;
    say(&mut ws, r#"{"type":"ack","seq":1,"id":"a","strategy":"nobody"}"#).await;
    assert!(matches!(hear(&mut ws).await, Server::Error { seq: Some(1), .. }));
    say(&mut ws, r#"{"type":"heartbeat","seq":2}"#).await;
    assert_eq!(hear(&mut ws).await, Server::Resend { from: 1 });
    say(&mut ws, r#"{"type":"ack","seq":1,"id":"a"}"#).await;
    say(&mut ws, r#"{"type":"heartbeat","seq":2}"#).await;
    while hear(&mut ws).await != (Server::Applied { seq: 2 }) {}
    assert_eq!(rig.taken().len(), 2);
    // Nothing that is no event at all takes a sequence, or the connection, away.
    for garbage in ["", "[]", "{", r#"{"type":"withdrawn","seq":3}"#, r#"{"seq":3}"#, r#"{"type":"heartbeat"}"#] {
        say(&mut ws, garbage).await;
        assert!(matches!(hear(&mut ws).await, Server::Error { seq: None, .. }), "{garbage}");
    }
    ws.send(Message::Binary(Bytes::from(vec![0; 64]))).await.unwrap();
    assert!(matches!(hear(&mut ws).await, Server::Error { .. }));
    say(&mut ws, r#"{"type":"heartbeat","seq":3}"#).await;
    assert_eq!(hear(&mut ws).await, Server::Applied { seq: 3 });
}

#[tokio::test]
async fn unknown_names_reach_the_engine_in_requests_and_fills() {
    let rig = Rig::new(64, patient());
    let mut ws = rig.json().await;
    say(&mut ws, r#"{"type":"new","seq":1,"id":1,"strategy":"x","instrument":"y","side":"buy","ord_type":"limit","qty":5,"px":"1.234567"}"#).await;
    say(&mut ws, r#"{"type":"fill","seq":2,"id":1,"exec_id":"e","strategy":"x","instrument":"y","side":"sell","qty":5,"px":"1"}"#).await;
    assert!(matches!(hear(&mut ws).await, Server::Verdict(_)));
    while hear(&mut ws).await != (Server::Applied { seq: 2 }) {}
    // What follows may be a withdrawal: an admission that cannot be placed is not given.
    for event in rig.taken().iter().filter(|e| e.kind != EventKind::Withdrawn) {
        assert_eq!((event.strategy, event.instrument), (StrategyId::UNKNOWN, InstrumentId::UNKNOWN));
        assert_eq!((event.flags, event.account), (0, AccountId::UNKNOWN));
    }
}

#[tokio::test]
async fn text_ids_come_back_as_they_were_and_never_collide() {
    let rig = Rig::new(64, patient());
    let mut ws = rig.json().await;
    let body = r#""strategy":"alpha","instrument":"XYZ","side":"buy","ord_type":"market","qty":"5""#;
    for (seq, id) in [(1, "\"7\""), (2, "\"07\""), (3, "\"A\\u002d7\""), (4, "7")] {
        say(&mut ws, &format!(r#"{{"type":"new","seq":{seq},"id":{id},{body}}}"#)).await;
        let Server::Verdict(v) = hear(&mut ws).await else { panic!() };
        assert_eq!(v.id, ["7", "07", "A-7", "7"][seq - 1]);
    }
    say(&mut ws, r#"{"type":"ack","seq":5,"id":"07"}"#).await;
    say(&mut ws, r#"{"type":"canceled","seq":6,"id":"07"}"#).await;
    while hear(&mut ws).await != (Server::Applied { seq: 6 }) {}
    // Forgotten: what comes late stands for nobody, and the id used anew is somebody else.
    say(&mut ws, r#"{"type":"ack","seq":7,"id":"07"}"#).await;
    say(&mut ws, &format!(r#"{{"type":"new","seq":8,"id":"07",{body}}}"#)).await;
    while !matches!(hear(&mut ws).await, Server::Verdict(v) if v.seq == 8 && v.id == "07") {}
    let ids: Vec<u64> = rig.taken().iter().map(|e| e.id.0).collect();
    assert_eq!((ids[0], ids[3]), (7, 7));
    assert!(ids[1] > OrdId::TEXT && ids[2] > OrdId::TEXT && ids[1] != ids[2]);
    assert_eq!((ids[4], ids[5]), (ids[1], ids[1]));
    assert_eq!(ids[6], OrdId::TEXT);
    assert_ne!(ids[7], ids[1]);
}

#[tokio::test]
async fn random_cuts_lose_and_repeat_nothing() {
    for (seed, protocol) in [(1, Protocol::Json), (2, Protocol::Bin), (3, Protocol::Bin)] {
        let rig = Rig::new(64, patient());
        let endpoint = rig.endpoint("t2", protocol);
        let memory = Memory::new(4096);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let total = 3000u64;
        let mut verdicts = Vec::new();
        let mut cuts = 0;
        while verdicts.len() < total as usize / 2 || memory.unacknowledged() > 0 {
            let (mut tx, mut rx, welcome) = guard(connect(&endpoint, &memory)).await.unwrap();
            assert!(welcome.resumed, "seed {seed}");
            let writes = rng.next_u32() % 8;
            for _ in 0..writes {
                for _ in 0..rng.next_u32() % 40 {
                    let seq = memory.next_seq();
                    if seq <= total {
                        let event = if seq.is_multiple_of(2) { order(seq, 10) } else { about(EventKind::Ack, seq) };
                        assert_eq!(tx.queue(event).unwrap(), seq);
                    }
                }
                tx.flush().await.unwrap();
            }
            let reads = rng.next_u32() % 60;
            for _ in 0..reads {
                if memory.unacknowledged() == 0 {
                    break;
                }
                if let Reply::Verdict(v) = guard(rx.next()).await.unwrap() {
                    verdicts.push(v.seq);
                }
            }
            cuts += 1;
            if cuts > 20 && memory.next_seq() > total {
                // The last connection stays until everything is said.
                while verdicts.len() < total as usize / 2 || memory.unacknowledged() > 0 {
                    if let Reply::Verdict(v) = guard(rx.next()).await.unwrap() {
                        verdicts.push(v.seq);
                    }
                }
            }
        }
        let taken: Vec<u64> = rig.taken().iter().map(|e| e.seq).collect();
        assert_eq!(taken, (1..=total).collect::<Vec<_>>(), "seed {seed}");
        assert_eq!(rig.refused.load(Ordering::SeqCst), 0, "seed {seed}: no gap, nothing twice");
        assert_eq!(verdicts, (1..=total / 2).map(|n| n * 2).collect::<Vec<_>>(), "seed {seed}");
        assert!(cuts > 20);
    }
}

#[tokio::test]
async fn answers_that_are_kept_no_longer_are_said_to_be_lost() {
    let rig = Rig::new(64, IngestOptions { answers_kept: 2, ..patient() });
    let mut ws = rig.json().await;
    let body = r#""strategy":"alpha","instrument":"XYZ","side":"buy","ord_type":"market","qty":"5""#;
    for seq in 1..=5 {
        say(&mut ws, &format!(r#"{{"type":"new","seq":{seq},"id":{seq},{body}}}"#)).await;
        hear(&mut ws).await;
    }
    // A request that is repeated gets its answer again while that is kept.
    say(&mut ws, &format!(r#"{{"type":"new","seq":5,"id":5,{body}}}"#)).await;
    assert!(matches!(hear(&mut ws).await, Server::Verdict(v) if v.out == 5 && v.seq == 5));
    drop(ws);
    for (hello, from, kept) in [(r#"{"type":"hello","out":1}"#, 4, false), (r#"{"type":"hello","out":3}"#, 4, true)] {
        let mut ws = rig.raw("t1", "haltline.v1.json", None).await.unwrap();
        say(&mut ws, hello).await;
        let Server::Welcome { next_seq, out, out_from, resumed, .. } = hear(&mut ws).await else { panic!() };
        assert_eq!((next_seq, out, out_from, resumed), (6, 5, from, kept));
        hear(&mut ws).await;
        assert!(matches!(hear(&mut ws).await, Server::Verdict(v) if v.out == 4));
        assert!(matches!(hear(&mut ws).await, Server::Verdict(v) if v.out == 5));
    }
    assert_eq!(rig.taken().len(), 5);
}

#[tokio::test]
async fn texts_go_to_the_guard_beside_the_sequence_and_what_finds_no_room_is_counted() {
    let rig = Rig::new(64, patient());
    let mut ws = rig.json().await;
    say(&mut ws, r#"{"type":"text","text":"Power Peg disabled"}"#).await;
    say(&mut ws, r#"{"type":"text","text":"a","source":"mail"}"#).await;
    assert!(matches!(hear(&mut ws).await, Server::Error { seq: None, field, .. } if field == "source"));
    // The next event is still the first.
    say(&mut ws, r#"{"type":"heartbeat","seq":1}"#).await;
    assert_eq!(hear(&mut ws).await, Server::Applied { seq: 1 });
    let text = rig.take_texts.try_recv().unwrap();
    assert_eq!((text.session, text.source, text.text.as_str()), (SessionId(0), "log", "Power Peg disabled"));
    for _ in 0..6 {
        say(&mut ws, r#"{"type":"text","text":"again"}"#).await;
    }
    say(&mut ws, r#"{"type":"heartbeat","seq":2}"#).await;
    assert_eq!(hear(&mut ws).await, Server::Applied { seq: 2 });
    assert_eq!((rig.take_texts.len(), rig.stats.log_texts_dropped.load(Ordering::SeqCst)), (4, 2));
}

#[tokio::test]
async fn new_connection_takes_over_from_the_old_one() {
    let rig = Rig::new(64, patient());
    let mut old = rig.json().await;
    let mut new = rig.json().await;
    loop {
        match guard(old.next()).await {
            Some(Ok(Message::Close(Some(frame)))) => {
                assert_eq!(frame.reason.as_str(), "the session connected anew");
                break;
            }
            Some(Ok(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    say(&mut new, r#"{"type":"heartbeat","seq":1}"#).await;
    assert_eq!(hear(&mut new).await, Server::Applied { seq: 1 });
    assert!(rig.board.cell(0).unwrap().view().connected);
    drop(new);
    until(|| !rig.board.cell(0).unwrap().view().connected).await;
}

#[tokio::test]
async fn slow_reader_is_dropped_and_shown_as_gone() {
    let options = IngestOptions { queue_messages_max: 500, ..patient() };
    let rig = Rig::new(4096, options);
    let mut ws = rig.raw("t1", "haltline.v1.bin", None).await.unwrap();
    say(&mut ws, r#"{"type":"hello"}"#).await;
    until(|| rig.board.cell(0).unwrap().view().connected).await;
    // Requests without end, and never a read.
    let mut seq = 0;
    let flood = async {
        loop {
            let mut frame = Vec::new();
            for _ in 0..1000 {
                seq += 1;
                let mut event = order(seq, 10);
                event.seq = seq;
                frame.extend_from_slice(&bin::encode_event(&event));
            }
            if ws.send(Message::Binary(Bytes::from(frame))).await.is_err() {
                return;
            }
        }
    };
    guard(flood).await;
    until(|| !rig.board.cell(0).unwrap().view().connected).await;
    until(|| rig.stats.dropped_slow.load(Ordering::SeqCst) == 1).await;
    // Somebody else is served as ever.
    let (mut tx, mut rx, _) = guard(connect(&rig.endpoint("t2", Protocol::Bin), &Memory::new(10))).await.unwrap();
    tx.queue(order(1, 1)).unwrap();
    tx.flush().await.unwrap();
    assert_eq!(verdict(&mut rx).await.denied, None);
}

#[tokio::test]
async fn silent_connection_is_closed() {
    let rig = Rig::new(64, IngestOptions { idle_timeout: Duration::from_millis(60), ..patient() });
    // Connected, but nothing of it is ever polled: no pong.
    let silent = rig.json().await;
    until(|| rig.stats.idle_closed.load(Ordering::SeqCst) == 1).await;
    drop(silent);
}

/// The longest time in which a client did nothing. One that stood still for long is rightly called silent, and nothing can be
/// said of the transport.
struct Pulse {
    last: Instant,
    longest: Duration,
}

impl Pulse {
    fn new() -> Pulse {
        Pulse { last: Instant::now(), longest: Duration::ZERO }
    }

    /// It does something.
    fn beat(&mut self) {
        let now = Instant::now();
        self.longest = self.longest.max(now - self.last);
        self.last = now;
    }

    /// What was since the last beat is not the client's.
    fn leave_out(&mut self) {
        self.last = Instant::now();
    }
}

/// Tries with longer and longer idle times until the client was quick enough by them: what was called silent then has to be.
async fn with_idle_time_to_spare(
    shortest: Duration,
    attempt: impl AsyncFn(Duration, &mut Pulse) -> Result<(), String>,
) {
    let mut idle = shortest;
    loop {
        let mut pulse = Pulse::new();
        match attempt(idle, &mut pulse).await {
            Ok(()) => return,
            // A third of it is between two pings.
            Err(what) => assert!(pulse.longest >= idle / 3 * 2, "after {:?} of {idle:?}: {what}", pulse.longest),
        }
        idle *= 2;
    }
}

#[tokio::test]
async fn connection_that_answers_pings_is_not_closed() {
    let attempt = async |idle_timeout, pulse: &mut Pulse| {
        let rig = Rig::new(64, IngestOptions { idle_timeout, ..patient() });
        let mut ws = rig.json().await;
        for _ in 0..10 {
            let heard = guard(ws.next()).await;
            pulse.beat();
            if !matches!(heard, Some(Ok(Message::Ping(_)))) {
                return Err(format!("{heard:?}"));
            }
        }
        match rig.stats.idle_closed.load(Ordering::SeqCst) {
            0 => Ok(()),
            _ => Err("closed".to_owned()),
        }
    };
    with_idle_time_to_spare(Duration::from_millis(60), attempt).await;
}

#[tokio::test]
async fn time_in_which_the_transport_stands_still_makes_nobody_silent() {
    let attempt = async |idle: Duration, pulse: &mut Pulse| {
        let rig = Rig::new(64, IngestOptions { idle_timeout: idle, ..patient() });
        let mut ws = rig.json().await;
        for seq in 1..=12 {
            let heartbeat = || Message::text(format!(r#"{{"type":"heartbeat","seq":{seq}}}"#));
            let standing = async {
                until(|| rig.stands.try_recv().is_ok()).await;
                pulse.beat();
                // Something has arrived when it goes on; or nothing, since no ping was sent that could be answered.
                let sent = if seq % 2 == 0 { ws.send(heartbeat()).await } else { Ok(()) };
                // The time that passes is what this is about; nothing is answered in it.
                std::thread::sleep(idle * 2);
                pulse.leave_out();
                rig.go_on.send(()).unwrap();
                sent
            };
            let (refused, sent) = tokio::join!(rig.raw(STILL, "haltline.v1.json", None), standing);
            assert!(refused.is_err());
            pulse.beat();
            sent.map_err(|e| format!("{seq}: {e}"))?;
            if seq % 2 == 1 {
                // The next ping is answered, and the one after it comes.
                for _ in 0..2 {
                    let heard = guard(ws.next()).await;
                    pulse.beat();
                    if !matches!(heard, Some(Ok(Message::Ping(_)))) {
                        return Err(format!("{seq}: {heard:?}"));
                    }
                }
                ws.send(heartbeat()).await.map_err(|e| format!("{seq}: {e}"))?;
            }
            loop {
                let heard = guard(ws.next()).await;
                pulse.beat();
                match heard {
                    Some(Ok(Message::Ping(_))) => {}
                    Some(Ok(Message::Text(text))) => {
                        assert_eq!(Server::decode(&text), Ok(Server::Applied { seq }));
                        break;
                    }
                    other => return Err(format!("{seq}: {other:?}")),
                }
            }
        }
        pulse.beat();
        if rig.stats.idle_closed.load(Ordering::SeqCst) > 0 {
            return Err("closed".to_owned());
        }
        // Who really is silent is closed all the same.
        until(|| rig.stats.idle_closed.load(Ordering::SeqCst) == 1).await;
        Ok(())
    };
    with_idle_time_to_spare(Duration::from_millis(90), attempt).await;
}

#[tokio::test]
async fn halt_is_pushed_to_whom_it_concerns_and_confirmed() {
    let rig = Rig::new(64, patient());
    let (one, two) = (Memory::new(10), Memory::new(10));
    let (_tx1, mut rx1, _) = guard(connect(&rig.endpoint("t1", Protocol::Json), &one)).await.unwrap();
    let (_tx2, mut rx2, _) = guard(connect(&rig.endpoint("t2", Protocol::Bin), &two)).await.unwrap();
    for rx in [&mut rx1, &mut rx2] {
        assert!(matches!(guard(rx.next()).await, Ok(Reply::Modes { scopes, .. }) if scopes.is_empty()));
    }
    rig.raise(Scope::Strategy(StrategyId(1)), Mode::Halted);
    let changes = rig.page.changes();
    let Ok(Reply::Modes { page, scopes }) = guard(rx1.next()).await else { panic!() };
    assert_eq!((page, scopes.len()), (changes, 0), "g1 does not trade beta, but knows how far the page is");
    let Ok(Reply::Modes { page, scopes }) = guard(rx2.next()).await else { panic!() };
    assert_eq!((page, scopes.len()), (changes, 1));
    assert_eq!((scopes[0].name.as_str(), scopes[0].mode.as_str()), ("beta", "halted"));
    // The confirmation is sent by whoever goes on receiving.
    let confirmed = |s: usize| rig.board.cell(s).unwrap().view().confirmed;
    let both = async {
        let _ = tokio::join!(rx1.next(), rx2.next());
    };
    tokio::select! {
        () = both => panic!("nothing more was to come"),
        () = until(|| confirmed(0) == changes && confirmed(1) == changes) => {}
    }
    let view = rig.board.cell(1).unwrap().view();
    assert!(view.told == changes && view.told_at > 0 && view.confirmed_at >= view.told_at);
    // Who connects later is told the state.
    drop((_tx2, rx2));
    let (_tx, mut rx, _) = guard(connect(&rig.endpoint("t2", Protocol::Json), &two)).await.unwrap();
    assert!(matches!(guard(rx.next()).await, Ok(Reply::Modes { scopes, .. }) if scopes.len() == 1));
}

#[tokio::test]
async fn cancels_of_a_halt_come_behind_the_word_of_it_however_fast_it_is_raised_and_lowered() {
    let rig = Rig::new(1024, patient());
    let mut ws = rig.json().await;
    let stop = Arc::new(AtomicBool::new(false));
    let (page, stopped) = (rig.page.clone(), stop.clone());
    let alpha = rig.universe.slot(Scope::Strategy(StrategyId(0))).unwrap();
    let flips = std::thread::spawn(move || {
        while !stopped.load(Ordering::SeqCst) {
            let word = page.raise(alpha, Mode::Halted);
            std::thread::yield_now();
            page.lower(alpha, word.epoch).unwrap();
            std::thread::yield_now();
        }
    });
    let (mut halted, mut modes, mut cancels) = (false, 0, 0);
    let begun = Instant::now();
    while modes < 1_000 || cancels < 1_000 {
        assert!(begun.elapsed() < GUARD, "{modes} modes and {cancels} cancels");
        // Those that come while alpha may trade are not told: nothing need be heard of some.
        rig.cancels.store(64, Ordering::SeqCst);
        rig.wake.wake();
        let Ok(heard) = tokio::time::timeout(Duration::from_millis(20), hear(&mut ws)).await else { continue };
        match heard {
            Server::Mode { scopes, .. } => {
                modes += 1;
                halted =
                    scopes.iter().find(|scope| scope.name == "alpha").map_or(halted, |alpha| alpha.mode == "halted");
            }
            Server::Cancel { .. } => {
                cancels += 1;
                assert!(halted, "cancel {cancels}, after {modes} modes");
            }
            other => panic!("{other:?}"),
        }
    }
    stop.store(true, Ordering::SeqCst);
    flips.join().unwrap();
}

#[tokio::test]
async fn page_that_was_not_told_cannot_be_confirmed() {
    let rig = Rig::new(64, patient());
    let mut ws = rig.json().await;
    say(&mut ws, r#"{"type":"mode_ack","page":99}"#).await;
    assert!(matches!(hear(&mut ws).await, Server::Error { field, .. } if field == "page"));
    assert_eq!(rig.board.cell(0).unwrap().view().confirmed, 0);
}

#[tokio::test]
async fn admission_decided_before_a_halt_is_withheld_after_it() {
    let rig = Rig::new(64, patient());
    let memory = Memory::new(10);
    let (mut tx, mut rx, _) = guard(connect(&rig.endpoint("t2", Protocol::Bin), &memory)).await.unwrap();
    assert!(matches!(guard(rx.next()).await, Ok(Reply::Modes { .. })));
    rig.pause().await;
    let mut other = order(2, 10);
    other.strategy = StrategyId(1);
    tx.queue(order(1, 10)).unwrap();
    tx.queue(other).unwrap();
    tx.queue(about(EventKind::Cancel, 3)).unwrap();
    tx.flush().await.unwrap();
    until(|| rig.stats.events.load(Ordering::SeqCst) == 3).await;
    rig.raise(Scope::Strategy(StrategyId(0)), Mode::Halted);
    assert!(matches!(guard(rx.next()).await, Ok(Reply::Modes { scopes, .. }) if scopes.len() == 1));
    rig.paused.store(false, Ordering::SeqCst);
    let first = verdict(&mut rx).await;
    let denied = first.denied.unwrap();
    assert_eq!((first.seq, denied.rule, denied.scope.name.as_str()), (1, Rule::Mode, "alpha"));
    assert_eq!(verdict(&mut rx).await.denied, None, "beta is not halted");
    assert_eq!(verdict(&mut rx).await.denied, None, "a cancel passes in every mode");
    until(|| rig.taken().iter().any(|e| e.kind == EventKind::Withdrawn)).await;
    let withdrawn: Vec<Event> = rig.taken().into_iter().filter(|e| e.kind == EventKind::Withdrawn).collect();
    assert_eq!((withdrawn.len(), withdrawn[0].id, withdrawn[0].session), (1, OrdId(1), SessionId(1)));
    assert_eq!(rig.stats.withdrawn.load(Ordering::SeqCst), 1);
}

/// Has an order admitted on a connection that is gone before its client has read the answer.
async fn admitted_unseen(rig: &Rig, endpoint: &Endpoint, memory: &Memory) {
    let (mut tx, mut rx, _) = guard(connect(endpoint, memory)).await.unwrap();
    assert!(matches!(guard(rx.next()).await, Ok(Reply::Modes { .. })));
    let said = rig.stats.bytes_out.load(Ordering::SeqCst);
    tx.queue(order(1, 10)).unwrap();
    tx.flush().await.unwrap();
    until(|| rig.stats.bytes_out.load(Ordering::SeqCst) > said).await;
    drop((tx, rx));
    until(|| !rig.board.cell(0).unwrap().view().connected).await;
}

#[tokio::test]
async fn admission_that_nobody_has_seen_is_not_replayed_under_a_halt() {
    let rig = Rig::new(64, patient());
    let memory = Memory::new(10);
    let endpoint = rig.endpoint("t1", Protocol::Json);
    admitted_unseen(&rig, &endpoint, &memory).await;
    rig.raise(Scope::Firm, Mode::Halted);
    let (_tx, mut rx, welcome) = guard(connect(&endpoint, &memory)).await.unwrap();
    assert_eq!((welcome.next_seq, welcome.resumed), (2, true));
    let v = verdict(&mut rx).await;
    assert_eq!((v.seq, v.denied.unwrap().rule), (1, Rule::Mode));
    until(|| rig.taken().last().is_some_and(|e| e.kind == EventKind::Withdrawn && e.id == OrdId(1))).await;
}

#[tokio::test]
async fn full_ring_holds_the_reader_back_and_loses_nothing() {
    let rig = Rig::new(8, patient());
    let memory = Memory::new(1000);
    let (mut tx, mut rx, _) = guard(connect(&rig.endpoint("t3", Protocol::Bin), &memory)).await.unwrap();
    rig.pause().await;
    for id in 1..=500 {
        tx.queue(order(id, 10)).unwrap();
    }
    tx.flush().await.unwrap();
    until(|| rig.stats.ring_full.load(Ordering::SeqCst) > 0).await;
    // That the session is there may still have a place of its own.
    assert!((7..=8).contains(&rig.stats.events.load(Ordering::SeqCst)));
    rig.paused.store(false, Ordering::SeqCst);
    while memory.unacknowledged() > 0 {
        guard(rx.next()).await.unwrap();
    }
    assert_eq!(rig.taken().iter().map(|e| e.seq).collect::<Vec<_>>(), (1..=500).collect::<Vec<_>>());
    assert_eq!(rig.refused.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn client_that_holds_too_much_is_told_so() {
    let rig = Rig::new(8, patient());
    let memory = Memory::new(2);
    let (mut tx, _rx, _) = guard(connect(&rig.endpoint("t1", Protocol::Bin), &memory)).await.unwrap();
    tx.queue(order(1, 1)).unwrap();
    tx.queue(order(2, 1)).unwrap();
    assert!(matches!(tx.queue(order(3, 1)), Err(ClientError::Full(2))));
    assert_eq!(memory.next_seq(), 3);
    assert!(matches!(connect(&rig.endpoint("t9", Protocol::Bin), &memory).await, Err(ClientError::Refused(401))));
}

#[tokio::test]
async fn cancel_behind_a_gap_passes_and_acknowledges_nothing() {
    let rig = Rig::new(64, patient());
    let mut ws = rig.json().await;
    say(&mut ws, r#"{"type":"cancel","seq":3,"id":"c","orig_id":"a"}"#).await;
    assert_eq!(hear(&mut ws).await, Server::Resend { from: 1 });
    assert!(matches!(hear(&mut ws).await, Server::Verdict(v) if v.seq == 3 && v.verdict == "admit"));
    // What is acknowledged is told to a new connection at the latest.
    let mut ws = rig.json().await;
    say(&mut ws, r#"{"type":"heartbeat","seq":1}"#).await;
    let acknowledged = loop {
        match hear(&mut ws).await {
            Server::Applied { seq } => break seq,
            Server::Verdict(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(acknowledged, 1, "what is missing would never be sent again");
}

#[tokio::test]
async fn client_holds_what_is_missing_when_a_cancel_behind_the_gap_is_answered() {
    let rig = Rig::new(64, patient());
    let memory = Memory::new(10);
    let (mut tx, mut rx, _) = guard(connect(&rig.endpoint("t2", Protocol::Bin), &memory)).await.unwrap();
    rig.skip.store(1, Ordering::SeqCst);
    tx.queue(about(EventKind::Ack, 1)).unwrap();
    tx.queue(about(EventKind::Cancel, 2)).unwrap();
    tx.flush().await.unwrap();
    let early = verdict(&mut rx).await;
    assert_eq!((early.seq, early.denied), (2, None));
    while memory.unacknowledged() > 0 {
        guard(rx.next()).await.unwrap();
    }
    let kinds: Vec<EventKind> = rig.taken().iter().map(|e| e.kind).collect();
    assert_eq!(kinds, [EventKind::Ack, EventKind::Cancel]);
}

#[tokio::test]
async fn press_while_a_session_connects_waits_for_its_confirmation() {
    let rig = Rig::new(1024, patient());
    let memory = Memory::new(40_000);
    let (mut tx, mut rx, _) = guard(connect(&rig.endpoint("t1", Protocol::Bin), &memory)).await.unwrap();
    for id in 1..=20_000 {
        tx.queue(order(id, 10)).unwrap();
    }
    let (flushed, ()) = tokio::join!(tx.flush(), async { while verdict(&mut rx).await.seq < 20_000 {} });
    flushed.unwrap();
    drop((tx, rx));
    until(|| !rig.board.cell(0).unwrap().view().connected).await;

    // All answers are said again to a client that remembers none: in the midst of that somebody presses.
    let (page, board, stats) = (rig.page.clone(), rig.board.clone(), rig.stats.clone());
    let replayed = stats.replayed.load(Ordering::SeqCst);
    let press = std::thread::spawn(move || {
        while stats.replayed.load(Ordering::SeqCst) < replayed + 10 {
            std::hint::spin_loop();
        }
        page.raise(0, Mode::Halted);
        board.cell(0).unwrap().view().connected
    });
    let mut ws = rig.json().await;
    assert!(matches!(hear(&mut ws).await, Server::Verdict(v) if v.verdict == "admit"));
    assert!(press.join().unwrap(), "its admissions leave after a press that did not ask for its confirmation");
}

#[tokio::test]
async fn client_that_does_not_know_what_it_sent_withdraws_nothing() {
    let rig = Rig::new(64, patient());
    let mut ws = rig.json().await;
    let order = r#"{"type":"new","seq":1,"strategy":"alpha","instrument":"XYZ","id":"a","side":"buy","ord_type":"limit","qty":1,"px":"10.00"}"#;
    say(&mut ws, order).await;
    assert!(matches!(hear(&mut ws).await, Server::Verdict(v) if v.verdict == "admit"));
    drop(ws);
    rig.raise(Scope::Firm, Mode::Halted);
    // It started anew: it may well have sent the order before.
    let mut ws = rig.json().await;
    assert!(matches!(hear(&mut ws).await, Server::Verdict(v) if v.verdict == "deny"));
    say(&mut ws, r#"{"type":"heartbeat","seq":2}"#).await;
    while !matches!(hear(&mut ws).await, Server::Applied { seq: 2 }) {}
    assert!(rig.taken().iter().all(|e| e.kind != EventKind::Withdrawn), "its exposure would be forgotten");
}

#[tokio::test]
async fn admission_that_nobody_has_seen_does_not_outlive_a_halt() {
    let rig = Rig::new(64, patient());
    let memory = Memory::new(10);
    let endpoint = rig.endpoint("t1", Protocol::Json);
    admitted_unseen(&rig, &endpoint, &memory).await;
    let slot = rig.universe.slot(Scope::Account(AccountId(0))).unwrap();
    let word = rig.page.raise(slot, Mode::Halted);
    rig.page.lower(slot, word.epoch).unwrap();
    rig.wake.wake();
    let (_tx, mut rx, _) = guard(connect(&endpoint, &memory)).await.unwrap();
    let v = verdict(&mut rx).await;
    assert_eq!((v.seq, v.denied.map(|d| d.rule)), (1, Some(Rule::Mode)));
    until(|| rig.taken().last().is_some_and(|e| e.kind == EventKind::Withdrawn && e.id == OrdId(1))).await;
}

#[tokio::test]
async fn admission_that_may_be_older_than_a_reduce_only_is_withheld_after_it() {
    let rig = Rig::new(64, patient());
    let memory = Memory::new(10);
    let (mut tx, mut rx, _) = guard(connect(&rig.endpoint("t2", Protocol::Bin), &memory)).await.unwrap();
    assert!(matches!(guard(rx.next()).await, Ok(Reply::Modes { .. })));
    rig.pause().await;
    tx.queue(order(1, 10)).unwrap();
    tx.flush().await.unwrap();
    until(|| rig.stats.events.load(Ordering::SeqCst) == 1).await;
    rig.raise(Scope::Strategy(StrategyId(0)), Mode::ReduceOnly);
    assert!(matches!(guard(rx.next()).await, Ok(Reply::Modes { scopes, .. }) if scopes.len() == 1));
    rig.paused.store(false, Ordering::SeqCst);
    let old = verdict(&mut rx).await;
    assert_eq!((old.seq, old.denied.map(|d| d.rule)), (1, Some(Rule::Mode)));
    until(|| rig.taken().last().is_some_and(|e| e.kind == EventKind::Withdrawn && e.id == OrdId(1))).await;
    // What is asked from then on is judged under it.
    tx.queue(order(2, 10)).unwrap();
    tx.flush().await.unwrap();
    assert_eq!(verdict(&mut rx).await.denied, None);
}
