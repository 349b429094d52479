//! The API over real HTTP on loopback, with the agent loop around an engine and a real latch.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;
use crate::duty::{Idle, SystemClock};
use crate::engine::agent::{AgentParts, EngineAgent, Wake};
use crate::engine::core::{Engine, Sizing};
use crate::guard::door::{DeskRefused, FleetDesk, ManifestView, SessionRow};
use crate::guard::preflight::Preflight;
use crate::journal::latch::{LatchStore, run_latch};
use crate::kill::alerts::{Policy, Raise};
use crate::kill::board::SessionBoard;
use crate::kill::rearm::RearmPolicy;
use crate::kill::switch::{Stop, SwitchParts};
use crate::kill::testing::{TestClock, universe};
use crate::kill::words::ScopeName;
use crate::limits::Gauge;
use crate::model::{Mode, Scope, Universe};
use crate::ring::bell::Bell;
use crate::units::StrategyId;

pub(super) const ALPHA: Scope = Scope::Strategy(StrategyId(0));

/// How long anything may take that has to happen: only a test that fails waits for so long.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);
/// Longer than any test.
pub(super) const LONG: Duration = Duration::from_secs(3_600);

/// Bounds by which no client is given up for being slow: whoever is, may be so because the machine is.
pub(super) fn patient() -> ApiOptions {
    ApiOptions {
        header_timeout: LONG,
        body_timeout: LONG,
        unanswered: LONG,
        stream_patience: LONG,
        ..ApiOptions::default()
    }
}

/// What a test wants to be different.
pub(super) struct Setup {
    pub(super) universe: Universe,
    pub(super) engine: bool,
    pub(super) latch: bool,
    pub(super) options: ApiOptions,
    pub(super) files: Files,
    pub(super) tls: Option<Arc<tls::Tls>>,
    pub(super) render: Box<dyn Fn() -> String + Send + Sync>,
    pub(super) serve: Serve,
    pub(super) clock: Arc<dyn Clock>,
}

/// What serves, on a thread of its own.
pub(super) type Serve =
    Box<dyn FnOnce(TcpListener, Arc<ApiParts>, tokio::sync::watch::Receiver<bool>) -> std::io::Result<()> + Send>;

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            universe: universe(),
            engine: true,
            latch: true,
            options: patient(),
            files: Files::default(),
            tls: None,
            render: Box::new(|| "# nothing\n".to_owned()),
            serve: Box::new(run),
            clock: Arc::new(SystemClock::new()),
        }
    }
}

/// A whole control plane that lives as long as the test.
pub(super) struct World {
    pub(super) addr: SocketAddr,
    pub(super) switch: Arc<Switch>,
    pub(super) published: Arc<Published>,
    pub(super) alerts: Arc<Alerts>,
    pub(super) limits: Arc<RwLock<Arc<LimitTable>>>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) dir: PathBuf,
    auth: Arc<Authenticator>,
    pub(super) stop_api: tokio::sync::watch::Sender<bool>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    _tmp: tempfile::TempDir,
}

/// A fleet of which nothing is known.
struct NoFleet;

impl FleetDesk for NoFleet {
    fn attestation(&self) -> &'static str {
        "off"
    }
    fn sessions(&self) -> Vec<SessionRow> {
        Vec::new()
    }
    fn manifest(&self) -> ManifestView {
        ManifestView {
            attestation: "off",
            version: None,
            digest: None,
            loaded_at: None,
            refused: None,
            version_floor: 0,
            strategies: Vec::new(),
        }
    }
    fn preflight(&self) -> Preflight {
        Preflight::of(String::new(), Vec::new())
    }
    fn wake(&self, strategy: &str, _: Option<&str>, _: &str, _: &str) -> Result<String, DeskRefused> {
        Err(DeskRefused::Unknown(format!("no strategy {strategy}")))
    }
    fn approve(&self, session: &str, _: &str, _: &str, _: &str) -> Result<String, DeskRefused> {
        Err(DeskRefused::Conflict(format!("session {session} has not changed")))
    }
    fn reload(&self, _: &str, _: &str) -> Result<u64, DeskRefused> {
        Err(DeskRefused::Failed("the disk is full".to_owned()))
    }
}

struct NoWake;
impl Wake for NoWake {
    fn wake(&self) {}
}

const TOKENS: [(&str, &str, Role); 4] = [
    ("vera", "token-of-vera", Role::Viewer),
    ("olga", "token-of-olga", Role::Operator),
    ("rita", "token-of-rita", Role::Risk),
    ("sven", "token-of-sven", Role::Risk),
];

impl World {
    pub(super) fn new(setup: Setup) -> World {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("state");
        LatchStore::init(&dir).unwrap();
        let store = LatchStore::open(&dir).unwrap();
        let universe = Arc::new(setup.universe);
        let clock = setup.clock;
        let restored = store.restore(&universe, clock.now());
        let page = Arc::new(restored.page);
        let published = Arc::new(Published::new(&universe));
        let bell = Bell::new();
        let table = Arc::new(LimitTable::closed(&universe));
        let (shown, ring) = (published.clone(), bell.clone());
        let (switch, jobs) = Switch::new(SwitchParts {
            page: page.clone(),
            board: Arc::new(SessionBoard::new(universe.sessions.len())),
            gates: Arc::default(),
            universe: universe.clone(),
            clock: clock.clone(),
            wakers: vec![Box::new(move || ring.ring())],
            working: Box::new(move |slot| shown.scope(slot).map(|v| v.gauges[Gauge::Working as usize])),
            policy: RearmPolicy::default(),
            causes: restored.causes,
            orphans: restored.orphans,
        });
        let switch = Arc::new(switch);
        let (ask_engine, queries) = crossbeam_channel::bounded(1);
        let residual = ResidualAsker::new(ask_engine, bell.clone(), Arc::default());
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        if setup.latch {
            let (switch, clock, stop) = (switch.clone(), clock.clone(), stop.clone());
            threads.push(std::thread::spawn(move || {
                run_latch(store, &switch, &jobs, &clock, &stop);
            }));
        }
        if setup.engine {
            let sizing = Sizing {
                working_orders: 16,
                remembered_orders: 16,
                execs: 16,
                pairs: 16,
                recent_orders: 16,
                parents: 16,
            };
            let (_commands, commands) = crossbeam_channel::bounded(1);
            let (notices, _notices) = crossbeam_channel::bounded(1);
            let agent = EngineAgent::new(AgentParts {
                engine: Engine::new(universe.clone(), table.clone(), sizing, clock.now()),
                universe,
                page,
                published: published.clone(),
                ports: vec![],
                lane_changes: crossbeam_channel::never(),
                queries,
                lease_lag_ns: 0,
                commands,
                recorder: None,
                durable_before_verdict: false,
                grace_ns: 0,
                begin: None,
                notices,
                page_raised: Box::new(NoWake),
                clock: clock.clone(),
            });
            let stop = stop.clone();
            threads.push(std::thread::spawn(move || agent.run(Idle::default(), &bell, &stop)));
        }
        let alerts = Arc::new(Alerts::new(Policy { holds_rearm: true, ..Policy::default() }));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (stop_api, stopped) = tokio::sync::watch::channel(false);
        let limits = Arc::new(RwLock::new(table));
        let principals = TOKENS.map(|(name, token, role)| Principal {
            name: name.into(),
            role,
            scopes: Scopes::EVERYTHING,
            token_hash: auth::hash_token(token),
        });
        let mut principals = principals.to_vec();
        let only_alpha = ScopeName { kind: "strategy".into(), name: "alpha".into() };
        for (name, role) in [("oscar", Role::Operator), ("ravi", Role::Risk)] {
            let scopes = Scopes::only(vec![only_alpha.clone()]);
            let token_hash = auth::hash_token(&format!("token-of-{name}"));
            principals.push(Principal { name: name.into(), role, scopes, token_hash });
        }
        let certificates = vec![Certified {
            by: CertificateBy::Subject("CN=carol".into()),
            caller: Caller { name: "carol".into(), role: Role::Operator, scopes: Scopes::EVERYTHING },
        }];
        let auth = Arc::new(Authenticator::new(principals).with_certificates(certificates));
        let parts = ApiParts {
            fleet: Arc::new(NoFleet),
            switch: switch.clone(),
            published: published.clone(),
            limits: limits.clone(),
            auth: auth.clone(),
            tls: setup.tls,
            local: LocalUsers::default(),
            clock: clock.clone(),
            alerts: alerts.clone(),
            watch: None,
            audit: Arc::new(crate::kill::audit::Audit::new(None, clock.clone())),
            journal: None,
            residual,
            files: setup.files,
            render_metrics: setup.render,
            reload: Box::new(|_, reason| match reason {
                "good" => Ok(7),
                _ => Err(vec!["line 3: order_rate.count = -1: must be at least 0".to_owned()]),
            }),
            desk: None,
            drills: None,
            options: setup.options,
        };
        threads.push(std::thread::spawn(move || (setup.serve)(listener, Arc::new(parts), stopped).unwrap()));
        World { addr, switch, published, alerts, limits, clock, dir, auth, stop_api, stop, threads, _tmp: tmp }
    }

    pub(super) fn mode(&self, scope: Scope) -> Mode {
        self.switch.page().get(self.switch.universe().slot(scope).unwrap()).mode
    }

    pub(super) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    pub(super) fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let mut stream = self.connect();
        let length = if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n{length}{headers}\r\n", self.addr);
        // A server that answers before it has read everything may reset what is still being sent.
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
        Answer::read(&mut stream)
    }

    pub(super) fn get(&self, token: &str, path: &str) -> Answer {
        self.send("GET", path, &format!("authorization: Bearer {token}\r\n"), "")
    }

    pub(super) fn post(&self, token: &str, path: &str, body: Value) -> Answer {
        let headers = format!("authorization: Bearer {token}\r\ncontent-type: application/json\r\n");
        self.send("POST", path, &headers, &body.to_string())
    }

    /// How the re-arm that was `asked` for is when the page was lowered and that is on disk. The answer says it if the disk
    /// was quick enough.
    pub(super) fn rearmed(&self, asked: &Answer) -> Value {
        assert!([200, 202].contains(&asked.status), "{}", asked.text);
        let mut rearm = asked.json();
        assert_eq!(asked.status == 200, rearm["done"] == true, "{rearm}");
        let path = format!("/v1/rearm/{}", rearm["id"].as_str().unwrap());
        self.until("the re-arm is on disk", || {
            rearm = self.get("token-of-vera", &path).json();
            rearm["done"] == true
        });
        rearm
    }

    /// Waits for a condition that another thread brings about.
    pub(super) fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let start = Instant::now();
        while !done() {
            assert!(start.elapsed() < PATIENCE, "waited in vain for: {what}");
            std::thread::yield_now();
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let _ = self.stop_api.send(true);
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "a thread of the control plane panicked");
        }
    }
}

pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) text: String,
}

impl Answer {
    pub(super) fn read(stream: &mut TcpStream) -> Answer {
        let mut bytes = Vec::new();
        if let Err(error) = stream.read_to_end(&mut bytes) {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
        }
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        Answer { status, head: head.to_ascii_lowercase(), text: body.to_owned() }
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {} {:?}", self.head, self.text))
    }

    /// The answer is a problem of `kind` in the form of RFC 9457.
    #[track_caller]
    pub(super) fn problem(&self, status: u16, kind: &str) -> Value {
        assert_eq!(self.status, status, "{} {}", self.head, self.text);
        assert!(self.head.contains("content-type: application/problem+json"), "{}", self.head);
        let body = self.json();
        assert_eq!(body["type"], format!("urn:haltline:problem:{kind}"));
        assert_eq!(body["status"], status);
        for member in ["title", "detail"] {
            assert!(body[member].as_str().is_some_and(|t| !t.is_empty()), "{member}: {body}");
        }
        body
    }
}

pub(super) fn alpha() -> Value {
    json!({ "kind": "strategy", "name": "alpha" })
}

#[test]
fn kill_raises_the_page_and_its_receipt_grows_until_it_is_confirmed() {
    let world = World::new(Setup::default());
    let gw1 = world.switch.board().cell(0).unwrap();
    gw1.set_connected(true);
    let answer =
        world.post("token-of-olga", "/v1/kill", json!({ "scope": alpha(), "reason": "runaway", "wait_ms": 0 }));
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(world.mode(ALPHA), Mode::Halted);
    assert_eq!(world.mode(Scope::Firm), Mode::Normal);
    let receipt = answer.json();
    assert_eq!(receipt["status"], "unconfirmed");
    assert_eq!(receipt["missing"]["session_names"], json!(["gw-1"]));
    assert_eq!((&receipt["actor"], &receipt["reason"]), (&json!("olga"), &json!("runaway")));
    assert_eq!((&receipt["mode"], &receipt["working_orders"]), (&json!("halted"), &json!(0)));
    assert_eq!(receipt["sessions"][0]["status"], "unconfirmed");
    assert_eq!(receipt["sessions"][1]["status"], "not_connected");

    let now = world.clock.now().mono.0;
    gw1.set_told(world.switch.page().changes(), now);
    gw1.set_confirmed(world.switch.page().changes(), now + 1);
    let path = format!("/v1/kills/{}", receipt["id"].as_str().unwrap());
    let mut grown = Value::Null;
    world.until("the receipt is confirmed", || {
        grown = world.get("token-of-vera", &path).json();
        grown["status"] == "confirmed"
    });
    assert_eq!(grown["latch"]["durable"], true);
    assert!(grown["sessions"][0]["confirmed_ns"].as_u64() > grown["sessions"][0]["told_ns"].as_u64());
    assert_eq!(world.get("token-of-vera", "/v1/kills").json()["kills"][0], grown);
    // What the receipt says of the latch is true.
    let latch = std::fs::read_to_string(world.dir.join("latch")).unwrap();
    assert!(latch.contains("runaway") && latch.contains("alpha"), "{latch}");

    let state = world.get("token-of-vera", "/v1/state").json();
    assert_eq!(state["halts"][0]["scope"], alpha());
    assert_eq!(state["halts"][0]["causes"][0]["reason"], "runaway");
    assert_eq!(state["latch"]["durable"], true);
}

#[test]
fn kill_waits_for_confirmation_no_longer_than_asked() {
    let world = World::new(Setup::default());
    let wrong = |wait: Value| {
        let body = json!({ "scope": { "kind": "firm" }, "wait_ms": wait });
        world.post("token-of-olga", "/v1/kill", body).problem(422, "invalid-field")["field"].clone()
    };
    for wait in [json!(5_000.5), json!(-1.0), json!(5_001), json!(1e300), json!("5")] {
        assert_eq!(wrong(wait.clone()), "wait_ms", "{wait}");
    }
    // A whole number, however it is written.
    let answer = world.post("token-of-olga", "/v1/kill", json!({ "scope": { "kind": "firm" }, "wait_ms": 5_000.0 }));
    assert_eq!((answer.status, &answer.json()["reason"]), (200, &json!("none given")), "{}", answer.text);
    // Nobody is connected: with the latch on disk nothing is missing. A disk may take longer than anybody waits.
    let path = format!("/v1/kills/{}", answer.json()["id"].as_str().unwrap());
    world.until("the latch is on disk", || world.get("token-of-vera", &path).json()["status"] == "confirmed");
    assert_eq!(world.mode(Scope::Firm), Mode::Halted);
}

#[test]
fn kill_works_while_the_engine_stands_still_and_the_latch_cannot_be_written() {
    let world = World::new(Setup { engine: false, ..Setup::default() });
    // Whatever is renamed over a directory that is not empty fails, root or not.
    let latch = world.dir.join("latch");
    world.until("the first write", || world.switch.latch().writes > 0);
    std::fs::remove_file(&latch).unwrap();
    std::fs::create_dir_all(latch.join("in the way")).unwrap();
    let answer =
        world.post("token-of-olga", "/v1/kill", json!({ "scope": alpha(), "reason": "x", "wait_ms": 50 })).json();
    assert_eq!(world.mode(ALPHA), Mode::Halted);
    assert_eq!((&answer["status"], &answer["latch"]["durable"]), (&json!("unconfirmed"), &json!(false)));
    assert_eq!(answer["missing"]["latch"], true);
    let path = format!("/v1/kills/{}", answer["id"].as_str().unwrap());
    world.until("the failure is told", || world.get("token-of-vera", &path).json()["latch"]["status"] == "failed");
    let state = world.get("token-of-vera", "/v1/state").json();
    assert_eq!((&state["stale"], &state["latch"]["durable"]), (&json!(true), &json!(false)));
    assert_eq!(world.get("", "/readyz").status, 503);

    // The disk is well again: the same receipt becomes durable by itself.
    std::fs::remove_dir_all(&latch).unwrap();
    world.until("the latch is durable", || world.get("token-of-vera", &path).json()["latch"]["durable"] == true);
}

#[test]
fn same_idempotency_key_gets_the_same_receipt_as_long_as_the_halt_holds() {
    let world = World::new(Setup::default());
    let press = |key: &str, scope: Value| {
        let headers = format!(
            "authorization: Bearer token-of-olga\r\ncontent-type: application/json\r\nidempotency-key: {key}\r\n"
        );
        world.send("POST", "/v1/kill", &headers, &json!({ "scope": scope, "reason": "x" }).to_string()).json()
    };
    let first = press("a", alpha());
    assert_eq!(press("a", alpha())["id"], first["id"]);
    assert_eq!(world.switch.tally().presses, 1);
    assert_ne!(press("b", alpha())["id"], first["id"]);
    // The key again for something else: never a reason not to stop.
    assert_ne!(press("a", json!({ "kind": "firm" }))["id"], first["id"]);
    assert_eq!(world.mode(Scope::Firm), Mode::Halted);

    let slot = world.switch.universe().slot(ALPHA).unwrap();
    let epoch = world.switch.page().get(slot).epoch;
    world.switch.ask_rearm(ALPHA, epoch, "rita", "ok", world.clock.now()).unwrap();
    assert_eq!(world.mode(ALPHA), Mode::Normal);
    assert_ne!(press("a", alpha())["id"], first["id"]);
    assert_eq!(world.mode(ALPHA), Mode::Halted, "a press after the re-arm stops again");
}

#[test]
fn key_of_a_halt_that_was_rearmed_is_not_taken_for_a_later_one() {
    let world = World::new(Setup::default());
    let press = || {
        let headers = "authorization: Bearer token-of-olga\r\ncontent-type: application/json\r\nidempotency-key: a\r\n";
        world.send("POST", "/v1/kill", headers, &json!({ "scope": alpha(), "reason": "x" }).to_string()).json()
    };
    let first = press();
    let slot = world.switch.universe().slot(ALPHA).unwrap();
    let epoch = world.switch.page().get(slot).epoch;
    world.switch.ask_rearm(ALPHA, epoch, "rita", "ok", world.clock.now()).unwrap();
    world.switch.page().raise(slot, Mode::Halted);
    assert_ne!(press()["id"], first["id"], "what was confirmed is another halt");
}

#[test]
fn each_role_may_do_what_it_may_and_no_more() {
    let world = World::new(Setup::default());
    let kill = json!({ "scope": alpha(), "reason": "x", "wait_ms": 0 });
    let rearm = json!({ "scope": alpha(), "epoch": 0, "reason": "x" });
    let reason = json!({ "reason": "good" });
    let none = Value::Null;
    // The least role, and what somebody with it gets.
    let matrix: [(&str, &str, &Value, Role, u16); 11] = [
        ("GET", "/v1/state", &none, Role::Viewer, 200),
        ("GET", "/v1/limits", &none, Role::Viewer, 200),
        ("GET", "/v1/kills", &none, Role::Viewer, 200),
        ("GET", "/v1/kills/1", &none, Role::Viewer, 404),
        ("GET", "/v1/rearm", &none, Role::Viewer, 200),
        ("GET", "/v1/rearm/1", &none, Role::Viewer, 404),
        ("POST", "/v1/kill", &kill, Role::Operator, 200),
        ("POST", "/v1/rearm", &rearm, Role::Risk, 409),
        ("POST", "/v1/rearm/1/approve", &reason, Role::Risk, 404),
        ("POST", "/v1/limits/reload", &reason, Role::Risk, 200),
        ("POST", "/v1/limits/reload", &kill, Role::Risk, 422),
    ];
    for (method, path, body, least, status) in matrix {
        let send = |token: &str| match method {
            "GET" => world.get(token, path),
            _ => world.post(token, path, body.clone()),
        };
        // The first few get 401, then the source is told to slow down.
        assert!([401, 429].contains(&send("no such token").status), "{method} {path}");
        for (name, token, role) in TOKENS {
            let answer = send(token);
            if role >= least {
                assert_eq!(answer.status, status, "{name} {method} {path}: {}", answer.text);
            } else {
                answer.problem(403, "forbidden");
            }
        }
    }
    let unauthorized = world.send("GET", "/v1/state", "", "");
    unauthorized.problem(401, "unauthorized");
    assert!(unauthorized.head.contains("www-authenticate: bearer"));
    for open in ["/livez", "/readyz", "/readyz?verbose", "/metrics"] {
        world.until(open, || world.send("GET", open, "", "").status == 200);
    }
}

#[test]
fn many_wrong_tokens_do_not_keep_a_correct_one_out() {
    // They come right after each other, however long that takes.
    let world = World::new(Setup { clock: TestClock::new(), ..Setup::default() });
    let seen: Vec<u16> = (0..10).map(|_| world.get("wrong", "/v1/state").status).collect();
    assert!(seen.starts_with(&[401]) && seen.ends_with(&[429]), "{seen:?}");
    assert_eq!(crate::metrics::Source::samples(&*world.auth)[0].value, 10.0);
    let answer = world.post("token-of-olga", "/v1/kill", json!({ "scope": alpha(), "reason": "x" }));
    assert_eq!(answer.status, 200);
}

#[test]
fn firm_is_rearmed_by_two_people_and_done_means_durable() {
    let world = World::new(Setup::default());
    let firm = json!({ "kind": "firm" });
    let epoch =
        world.post("token-of-olga", "/v1/kill", json!({ "scope": firm, "reason": "x" })).json()["epoch"].clone();
    let ask = |token: &str, epoch: &Value| {
        world.post(token, "/v1/rearm", json!({ "scope": firm, "epoch": epoch, "reason": "checked" }))
    };
    let body = ask("token-of-rita", &json!(1)).problem(409, "superseded");
    assert_eq!((&body["field"], &body["epoch"]), (&json!("epoch"), &epoch));
    let asked = ask("token-of-rita", &epoch);
    assert_eq!((asked.status, &asked.json()["status"]), (202, &json!("pending")));
    let path = format!("/v1/rearm/{}/approve", asked.json()["id"].as_str().unwrap());
    let agree = |token: &str| world.post(token, &path, json!({ "reason": "seen", "wait_ms": 5_000 }));
    agree("token-of-rita").problem(403, "same-person");
    assert_eq!(world.mode(Scope::Firm), Mode::Halted);
    let done = world.rearmed(&agree("token-of-sven"));
    assert_eq!((&done["asked_by"], &done["agreed_by"]), (&json!("rita"), &json!("sven")));
    assert_eq!(world.mode(Scope::Firm), Mode::Normal);
    assert!(!std::fs::read_to_string(world.dir.join("latch")).unwrap().contains("firm"));
    assert_eq!(agree("token-of-sven").problem(409, "not-pending")["state"], "lowered");
    assert_eq!(world.get("token-of-vera", "/v1/rearm").json()["rearms"][0]["status"], "done");
}

#[test]
fn rearm_without_a_durable_latch_is_not_done() {
    let world = World::new(Setup { latch: false, ..Setup::default() });
    let receipt = world.switch.press(ALPHA, Stop::Halted, "olga", "x", world.clock.now()).unwrap();
    let body = json!({ "scope": alpha(), "epoch": receipt.word.epoch, "reason": "ok", "wait_ms": 20 });
    let answer = world.post("token-of-rita", "/v1/rearm", body);
    assert_eq!((answer.status, &answer.json()["status"]), (202, &json!("lowered")));
    assert_eq!(answer.json()["done"], false);
}

#[test]
fn bad_requests_are_problems_that_name_field_value_and_rule() {
    let world = World::new(Setup::default());
    let changes = world.switch.page().changes();
    let field = |body: Value, name: &str, value: Value| {
        let problem = world.post("token-of-olga", "/v1/kill", body).problem(422, "invalid-field");
        assert_eq!((&problem["field"], &problem["value"]), (&json!(name), &value), "{problem}");
        assert!(problem["rule"].is_string());
    };
    field(json!({}), "scope", Value::Null);
    field(json!({ "scope": "firm" }), "scope", json!("firm"));
    field(json!({ "scope": { "kind": "galaxy" } }), "scope.kind", json!("galaxy"));
    field(json!({ "scope": { "kind": "pair", "name": "alpha/ES" } }), "scope.kind", json!("pair"));
    field(json!({ "scope": { "kind": "strategy", "name": "gamma" } }), "scope.name", json!("gamma"));
    field(json!({ "scope": { "kind": "firm", "name": "x" } }), "scope.name", json!("x"));
    field(json!({ "scope": { "kind": "firm", "id": 1 } }), "scope.id", json!(1));
    field(json!({ "scope": alpha(), "mode": "normal" }), "mode", json!("normal"));
    field(json!({ "scope": alpha(), "wait_ms": 5_001 }), "wait_ms", json!(5_001));
    field(json!({ "scope": alpha(), "wait_ms": -1 }), "wait_ms", json!(-1));
    field(json!({ "scope": alpha(), "reason": 5 }), "reason", json!(5));
    field(json!({ "scope": alpha(), "reasons": "x" }), "reasons", json!("x"));
    let no_reason = json!({ "scope": alpha(), "epoch": 1, "reason": "" });
    world.switch.press(ALPHA, Stop::ReduceOnly, "olga", "x", world.clock.now()).unwrap();
    world.post("token-of-rita", "/v1/rearm", no_reason).problem(422, "invalid-field");
    assert_eq!(world.switch.page().changes(), changes + 1, "nothing else was raised");

    let headers = "authorization: Bearer token-of-olga\r\ncontent-type: application/json\r\n";
    for bad in ["{", "[]", "\"firm\"", "{\"scope\":{\"kind\":\"firm\"}} x", "\u{1}"] {
        world.send("POST", "/v1/kill", headers, bad).problem(400, "bad-json");
    }
    let typeless = "authorization: Bearer token-of-olga\r\n";
    world.send("POST", "/v1/kill", typeless, "{}").problem(415, "not-json");
    let large = "x".repeat(BODY_MAX + 1);
    world.send("POST", "/v1/kill", headers, &large).problem(413, "body-too-large");
    world.get("token-of-vera", "/v1/nothing").problem(404, "not-found");
    world.get("token-of-vera", "/v1/kills/abc").problem(404, "not-found");
    let method = world.get("token-of-vera", "/v1/kill");
    method.problem(405, "method-not-allowed");
    assert!(method.head.contains("allow: post"), "{}", method.head);
    world.get("token-of-vera", "/v1/limits?kind=galaxy").problem(422, "invalid-field");
    world.get("token-of-vera", "/v1/limits?name=alpha").problem(422, "invalid-field");
    world.get("token-of-vera", "/v1/limits?rows=many").problem(422, "invalid-field");
    world.get("token-of-vera", "/v1/state?x=1").problem(422, "invalid-field");
    let cross = "authorization: Bearer token-of-olga\r\norigin: http://evil.example\r\n";
    world.send("GET", "/v1/state", cross, "").problem(403, "cross-site");
    let refused = world.post("token-of-rita", "/v1/limits/reload", json!({ "reason": "bad" }));
    assert_eq!(refused.problem(422, "invalid-limits")["violations"].as_array().unwrap().len(), 1);
}

#[test]
fn chunked_body_beyond_the_bound_is_refused_too() {
    let world = World::new(Setup::default());
    let mut stream = world.connect();
    let head = format!(
        "POST /v1/kill HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer token-of-olga\r\n\
         content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
        world.addr
    );
    stream.write_all(head.as_bytes()).unwrap();
    let chunk = format!("1000\r\n{}\r\n", " ".repeat(0x1000));
    for _ in 0..17 {
        if stream.write_all(chunk.as_bytes()).is_err() {
            break;
        }
    }
    Answer::read(&mut stream).problem(413, "body-too-large");
}

#[test]
fn slow_head_is_cut_off_and_a_slow_body_is_told_so() {
    let short = Duration::from_millis(100);
    let options = ApiOptions { header_timeout: short, ..patient() };
    let world = World::new(Setup { options, ..Setup::default() });
    let mut silent = world.connect();
    let mut slow = world.connect();
    slow.write_all(b"POST /v1/kill HTTP/1.1\r\nhost: x\r\n").unwrap();
    // The server closes both; a read that ended by our own time-out would be another error.
    for stream in [&mut silent, &mut slow] {
        Answer::read(stream);
    }
    // Who is quick enough is served as ever.
    let kill = || world.post("token-of-olga", "/v1/kill", json!({ "scope": alpha() }));
    world.until("a kill comes in time", || kill().status == 200);

    let world = World::new(Setup { options: ApiOptions { body_timeout: short, ..patient() }, ..Setup::default() });
    let mut body = world.connect();
    body.write_all(
        b"POST /v1/kill HTTP/1.1\r\nhost: x\r\nauthorization: Bearer token-of-olga\r\n\
          content-type: application/json\r\ncontent-length: 10\r\n\r\n{",
    )
    .unwrap();
    Answer::read(&mut body).problem(408, "body-timeout");
    assert_eq!(world.mode(ALPHA), Mode::Normal);
}

#[test]
fn flood_of_connections_leaves_a_place_for_a_kill() {
    let options = ApiOptions { connections: 4, reserved: 2, ..patient() };
    let world = World::new(Setup { options, ..Setup::default() });
    let silent: Vec<TcpStream> = (0..4).map(|_| world.connect()).collect();
    // The places in full are taken: what else comes may only kill.
    world.get("token-of-vera", "/v1/state").problem(503, "too-many-connections");
    let kill = || world.post("token-of-olga", "/v1/kill", json!({ "scope": alpha(), "wait_ms": 0 }));
    assert_eq!(kill().status, 200);
    let more: Vec<TcpStream> = (0..40).map(|_| world.connect()).collect();
    assert_eq!(kill().status, 200, "the oldest silent connection makes room");
    drop((silent, more));
}

#[test]
fn requests_that_do_not_come_to_an_end_keep_others_out_of_nothing() {
    let options = ApiOptions { connections: 4, reserved: 2, ..patient() };
    let world = World::new(Setup { options, ..Setup::default() });
    // Logging in reads a body before it is known who sends it; a what-if of somebody who is known.
    let vera = "authorization: Bearer token-of-vera\r\n";
    let login = ("/v1/login", "");
    let slow: Vec<TcpStream> = [login, ("/v1/limits/what-if", vera), login, login]
        .iter()
        .map(|(path, headers)| {
            let mut stream = world.connect();
            let head = format!(
                "POST {path} HTTP/1.1\r\nhost: x\r\n{headers}content-type: application/json\r\n\
                 content-length: 64\r\nexpect: 100-continue\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).unwrap();
            let mut status = [0; 12];
            stream.read_exact(&mut status).unwrap();
            assert_eq!(&status, b"HTTP/1.1 100", "its body is waited for");
            stream
        })
        .collect();
    // From where they come from only a kill is taken; from elsewhere everything.
    world.get("token-of-vera", "/v1/state").problem(503, "too-many-connections");
    assert_eq!(world.post("token-of-olga", "/v1/kill", json!({ "scope": alpha() })).status, 200);
    let mut elsewhere = connect_from([127, 0, 0, 2], world.addr);
    let request = format!("GET /v1/state HTTP/1.1\r\nhost: x\r\n{vera}connection: close\r\n\r\n");
    elsewhere.write_all(request.as_bytes()).unwrap();
    assert_eq!(Answer::read(&mut elsewhere).status, 200);
    drop(slow);
}

/// A connection from another address of this host.
fn connect_from(source: [u8; 4], to: SocketAddr) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddr::from((source, 0))).unwrap();
    connect(&socket, &to).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn limits_show_their_use_page_by_page() {
    let world = World::new(Setup::default());
    {
        let mut table = LimitTable::unlimited(world.switch.universe());
        table.edit(world.switch.universe(), Scope::Firm).max[Gauge::Gross as usize] = 500_000_000;
        let limits = table.edit(world.switch.universe(), ALPHA);
        limits.max[Gauge::Working as usize] = 50;
        limits.order_qty = 100;
        *world.limits.write().unwrap() = Arc::new(table);
    }
    let all = world.get("token-of-vera", "/v1/limits").json();
    let rows = all["limits"].as_array().unwrap();
    assert_eq!(rows.len(), 3, "{all}");
    assert_eq!(
        (&rows[0]["rule"], &rows[0]["limit"], &rows[0]["unit"]),
        (&json!("gross_exposure"), &json!("5000000"), &json!("USD"))
    );
    assert_eq!(rows[0]["utilisation_percent"], 0.0);
    assert_eq!((&rows[1]["rule"], &rows[1]["observed"]), (&json!("order_qty"), &Value::Null));
    let page = world.get("token-of-vera", "/v1/limits?rows=1").json();
    assert_eq!(page["limits"].as_array().unwrap().len(), 1);
    let rest = world.get("token-of-vera", &format!("/v1/limits?from={}", page["next"])).json();
    assert_eq!(rest["limits"].as_array().unwrap(), &rows[1..]);
    let one = world.get("token-of-vera", "/v1/limits?kind=strategy&name=alpha").json();
    assert_eq!(one["limits"].as_array().unwrap(), &rows[1..]);
    let every = world.get("token-of-vera", "/v1/limits?kind=firm&all=true").json();
    assert!(every["limits"].as_array().unwrap().iter().any(|r| r["limit"] == "unlimited"));
}

#[test]
fn stop_ends_the_server_although_connections_are_open() {
    let world = World::new(Setup::default());
    let mut silent = world.connect();
    let mut kept_alive = world.connect();
    kept_alive.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut first = [0; 15];
    kept_alive.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    world.stop_api.send(true).unwrap();
    // Both are closed by the server, long before their own time-out.
    Answer::read(&mut silent);
    Answer::read(&mut kept_alive);
    assert!(TcpStream::connect(world.addr).is_err());
}

#[test]
fn ready_says_what_it_looked_at_and_a_halt_is_no_reason_not_to_be() {
    let world = World::new(Setup::default());
    world.switch.press(Scope::Firm, Stop::Halted, "olga", "x", world.clock.now()).unwrap();
    let mut answer = world.send("GET", "/readyz?verbose", "", "");
    world.until("the engine moves", || {
        answer = world.send("GET", "/readyz?verbose", "", "");
        answer.status == 200
    });
    assert!(answer.text.contains("[+]engine") && answer.text.contains("[+]firm halted"), "{}", answer.text);
}

#[test]
fn kill_does_not_wait_for_a_scrape_that_hangs() {
    let (go_on, wait) = crossbeam_channel::bounded::<()>(0);
    let render = Box::new(move || format!("{:?}\n", wait.recv()));
    let world = World::new(Setup { render, ..Setup::default() });
    let mut scrape = world.connect();
    scrape.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    assert_eq!(world.post("token-of-olga", "/v1/kill", json!({ "scope": alpha() })).status, 200);
    assert_eq!(world.mode(ALPHA), Mode::Halted);
    assert_eq!(world.get("token-of-vera", "/v1/state").status, 200, "nor does the state");
    // The scrape was there all the time: it takes what lets it go on.
    go_on.send(()).unwrap();
    assert_eq!(Answer::read(&mut scrape).status, 200);
}

#[test]
fn an_alert_is_listed_answered_by_a_person_and_not_answered_twice() {
    let world = World::new(Setup::default());
    let at = world.clock.now().unix.0;
    for name in ["power_peg", "other"] {
        world.alerts.raise(Raise::new(at, "signature", name, "text").critical());
    }
    world.alerts.raise(Raise::new(at, "warn", "order_rate", "80 percent"));
    let list = world.get("token-of-vera", "/v1/alerts?severity=critical").json();
    let ids: Vec<_> = list["alerts"].as_array().unwrap().iter().map(|a| a["id"].as_str().unwrap()).collect();
    assert_eq!(
        (ids, &list["unacknowledged_critical"], &list["blocks_open"]),
        (vec!["2", "1"], &json!(2), &json!(true))
    );
    let page = world.get("token-of-vera", "/v1/alerts?count=1&before=3").json();
    assert_eq!((&page["alerts"][0]["id"], &page["next"]), (&json!("2"), &json!(2)));

    assert_eq!(world.post("token-of-vera", "/v1/alerts/1/ack", json!({ "reason": "looking" })).status, 403);
    assert_eq!(world.post("token-of-olga", "/v1/alerts/1/ack", json!({})).status, 422);
    assert_eq!(world.post("token-of-olga", "/v1/alerts/9/ack", json!({ "reason": "looking" })).status, 404);
    let taken = world.post("token-of-olga", "/v1/alerts/1/ack", json!({ "reason": "looking" }));
    assert_eq!(taken.status, 200, "{}", taken.text);
    assert_eq!(taken.json()["acknowledged"]["by"], "olga");
    let twice = world.post("token-of-rita", "/v1/alerts/1/ack", json!({ "reason": "me too" }));
    assert_eq!((twice.status, &twice.json()["by"]), (409, &json!("olga")));
    let one = world.get("token-of-vera", "/v1/alerts/1").json();
    assert_eq!((&one["state"], &one["acknowledged"]["reason"]), (&json!("acknowledged"), &json!("looking")));
    for (query, field) in
        [("state=odd", "state"), ("open=2", "open"), ("scope_name=x", "scope_name"), ("nope=1", "nope")]
    {
        let answer = world.get("token-of-vera", &format!("/v1/alerts?{query}"));
        assert_eq!((answer.status, &answer.json()["field"]), (422, &json!(field)), "{}", answer.text);
    }
}

#[test]
fn a_scope_with_an_unanswered_critical_alert_is_not_rearmed_where_that_is_configured() {
    let world = World::new(Setup::default());
    let alpha = json!({ "kind": "strategy", "name": "alpha" });
    let receipt = world.post("token-of-olga", "/v1/kill", json!({ "scope": alpha, "reason": "odd" })).json();
    let scope = ScopeName { kind: "strategy".into(), name: "alpha".into() };
    let raise = Raise::new(world.clock.now().unix.0, "signature", "power_peg", "text").on(scope);
    let number = world.alerts.raise(raise.critical()).unwrap();
    let body = json!({ "scope": alpha, "epoch": receipt["epoch"], "reason": "all well" });
    let refused = world.post("token-of-rita", "/v1/rearm", body.clone());
    assert_eq!((refused.status, &refused.json()["alert"]), (409, &json!(number.to_string())), "{}", refused.text);
    world.alerts.acknowledge(number, "olga", "looking", 1).unwrap();
    let mut body = body;
    body["wait_ms"] = 5_000.into();
    let done = world.rearmed(&world.post("token-of-rita", "/v1/rearm", body));
    assert_eq!(done["status"], "done", "{done}");
    assert_eq!(world.mode(ALPHA), Mode::Normal);
}
