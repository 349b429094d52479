//! `cargo bench --bench gate`: what a gate costs its order threads, and how fast a kill reaches it.
//!
//! The real service runs in this process with its own threads; the gateway is another process (this program again), attached
//! over the local socket. The gateway is bound to core 0, what serves it to core 1: the engine, where it spins, the API and
//! the floors. Floors are measured in the same run, between the same two cores.

mod common;

use std::collections::HashMap;
use std::hint::black_box;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Args, Figure, Report, machine};
use haltline::api::auth::{hash_token, new_token};
use haltline::api::{Principal, Role, Scopes};
use haltline::app::config;
use haltline::app::service::{Running, StartOptions, init_state_dir, start};
use haltline::duty::monotonic_ns;
use haltline::gate::page::PageView;
use haltline::gate::{Denied, Gate};
use haltline::model::{Event, EventKind, Mode, OrdType, Scope, Side};
use haltline::ring::barrier::{Fencing, register};
use haltline::ring::shm::Words;
use haltline::ring::slots::{SLOT_WORDS, Slot};
use haltline::units::{AccountId, InstrumentId, OrdId, Px, Qty, SessionId, StrategyId};
use hdrhistogram::Histogram;

/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(60);
const GATEWAY_CORE: usize = 0;
const SERVER_CORE: usize = 1;
const ROLE: &str = "HALTLINE_BENCH_GATE";

const CONFIG: &str = r#"
[service]
state_dir = "set-by-the-bench"
base_currency = "USD"
[engine]
IDLE
working_orders = 1_048_576
remembered_orders = 262_144
execs = 65_536
pairs = 16_384
recent_orders = 65_536
[ingest]
listen = "127.0.0.1:0"
[http]
listen = "127.0.0.1:0"
[gate]
dir = "GATE"
[auth]
tokens_at_runtime = true
two_person_rearm = []
[sessions.gw]
kind = "ask"
[accounts.main]
[instruments.ACME]
px_scale = 2
qty_scale = 0
reference = "10.00"
reference_max_age = "unlimited"
STRATEGIES
[limits.firm]
gross_exposure = 900_000_000_000
others = "unlimited"
[limits.account."*"]
others = "unlimited"
[limits.strategy."*"]
order_qty = { max = 1_000, action = "halt" }
collar = "50%"
working_orders = 1_000_000
gross_exposure = 900_000_000_000
order_rate = { count = 100_000_000, per = "1s", kind = "gcra", burst = 100_000 }
others = "unlimited"
[limits.pair."*"]
others = "unlimited"
[limits.instrument."*"]
others = "unlimited"
[limits.session."*"]
others = "unlimited"
"#;

fn bind_thread(id: Option<rustix::process::Pid>, core: usize) {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(core);
    // A machine with one core, or one that does not let us: then it runs where it may.
    let _ = rustix::thread::sched_setaffinity(id, &cores);
}

/// Binds this process's threads of this name.
fn bind(name: &str, core: usize) {
    for task in std::fs::read_dir("/proc/self/task").expect("/proc").flatten() {
        if std::fs::read_to_string(task.path().join("comm")).unwrap_or_default().trim() == name {
            let id = task.file_name().to_str().and_then(|id| id.parse().ok()).and_then(rustix::process::Pid::from_raw);
            bind_thread(id, core);
        }
    }
}

fn times() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds that fit")
}

// ---------------------------------------------------------------------------------------- the service

struct Service {
    running: Option<Running>,
    token: String,
    operator: String,
    dir: tempfile::TempDir,
}

impl Service {
    fn start(idle: &str, strategies: usize) -> Service {
        // The page and the socket belong on a file system in memory.
        let dir = tempfile::Builder::new().prefix("haltline-bench-").tempdir_in("/dev/shm").expect("a directory");
        let names: String = (0..strategies).map(|i| format!("[strategies.s{i:05}]\naccount = \"main\"\n")).collect();
        let text = CONFIG
            .replace("IDLE", &format!("idle = \"{idle}\""))
            .replace("GATE", &dir.path().join("gate").display().to_string())
            .replace("STRATEGIES", &names);
        let mut loaded = config::load("bench", &text).unwrap_or_else(|violations| panic!("{violations:?}"));
        loaded.service.state_dir = dir.path().join("state");
        init_state_dir(&loaded.service.state_dir).expect("a new latch");
        let token = || new_token().expect("randomness").0;
        let (token, operator) = (token(), token());
        let principal = Principal {
            name: "bench".into(),
            role: Role::Operator,
            scopes: Scopes::EVERYTHING,
            token_hash: hash_token(&operator),
        };
        let options = StartOptions {
            session_hashes: HashMap::from([("gw".into(), hash_token(&token))]),
            principals: vec![principal],
            any_port: true,
            ..StartOptions::default()
        };
        let running = start(loaded, options).expect("the service starts");
        bind("haltline-api", SERVER_CORE);
        // One that naps runs where the kernel puts it: bound, it would take the API's turns.
        if idle == "spin" {
            bind("haltline-engine", SERVER_CORE);
        }
        Service { running: Some(running), token, operator, dir }
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("it runs until it is dropped")
    }

    /// A gateway's process that does `role`.
    fn gateway(&self, role: &str, more: &[String]) -> Gateway {
        let socket = self.dir.path().join("gate/gate.sock").display().to_string();
        Gateway::start([&[role.to_owned(), socket, self.token.clone()], more].concat())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop().expect("an orderly end");
        }
    }
}

/// The gateway's process, from outside.
struct Gateway {
    child: Child,
    input: Option<ChildStdin>,
    lines: BufReader<std::process::ChildStdout>,
}

impl Gateway {
    fn start(told: Vec<String>) -> Gateway {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .env(ROLE, told.join(" "))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program, again");
        let (input, output) = (child.stdin.take(), child.stdout.take().expect("its output"));
        Gateway { child, input, lines: BufReader::new(output) }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("the gateway's output");
        assert!(!line.is_empty(), "the gateway ended early");
        line.trim().to_owned()
    }

    /// The next figure's times in ns.
    fn times(&mut self) -> Histogram<u64> {
        let mut times = times();
        self.line().split(' ').for_each(|n| times.saturating_record(n.parse().expect("a time")));
        times
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Its input's end tells it to end.
        drop(self.input.take());
        let ended = self.child.wait();
        if !std::thread::panicking() {
            assert!(ended.expect("an end").success(), "the gateway failed");
        }
    }
}

// ------------------------------------------------------------------------------- the gateway's process

fn say(times: &[u64]) {
    let words: Vec<String> = times.iter().map(u64::to_string).collect();
    println!("{}", words.join(" "));
}

fn gateway(told: &str) {
    bind_thread(None, GATEWAY_CORE);
    let told: Vec<&str> = told.split(' ').collect();
    if told[0] == "echo" {
        return ping_pong_other_side(told[1].parse().expect("a process"), told[2].parse().expect("a descriptor"));
    }
    let attached = Gate::attach(told[1].as_ref(), "gw", told[2], "bench", PATIENCE).expect("it attaches");
    let gate = Arc::new(attached);
    let mut checker = gate.checker().expect("a slot");
    let since = Instant::now();
    while checker.admit(StrategyId(0), InstrumentId(0)).is_err() {
        assert!(since.elapsed() < PATIENCE, "the lease never comes");
        std::thread::yield_now();
    }
    let number = |at: usize| told[at].parse::<usize>().expect("a number");
    match told[0] {
        "admit" => admit_costs(&gate, number(3)),
        "ask" => ask_costs(&gate, number(3)),
        "flip" => flip_costs(&gate, number(3)),
        "http" => http_costs(&gate, number(3), told[4], told[5], told[6]),
        "idle" => {
            println!("ready");
            wait_for_the_end();
        }
        "load" => {
            println!("ready");
            let ended = Arc::new(AtomicBool::new(false));
            let flag = ended.clone();
            std::thread::spawn(move || {
                wait_for_the_end();
                flag.store(true, Ordering::Relaxed);
            });
            while !ended.load(Ordering::Relaxed) {
                black_box(checker.admit(StrategyId(0), InstrumentId(0)).is_ok());
            }
        }
        role => panic!("no role {role}"),
    }
}

fn wait_for_the_end() {
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest).expect("an input");
}

/// Times of `rounds` batches of `operation`, in picoseconds per operation.
fn per_operation(rounds: usize, mut operation: impl FnMut()) -> Vec<u64> {
    const BATCH: u64 = 1_000;
    (0..rounds)
        .map(|_| {
            let begin = Instant::now();
            (0..BATCH).for_each(|_| operation());
            begin.elapsed().as_nanos() as u64 * 1_000 / BATCH
        })
        .collect()
}

fn admit_costs(gate: &Arc<Gate>, rounds: usize) {
    let page = gate.page();
    let word = Words::heap(1);
    say(&per_operation(rounds, || {
        black_box(word[0].load(Ordering::Acquire));
    }));
    for fencing in [Fencing::Fence, register()] {
        let slots = Words::heap(SLOT_WORDS);
        let mut slot = Slot::claim(&slots, 1, fencing).expect("a slot");
        let check = |page: &PageView| page.check_modes(black_box(StrategyId(0)), black_box(InstrumentId(0)), false);
        say(&per_operation(rounds, || {
            slot.enter();
            black_box(check(page).is_ok());
            slot.exit();
        }));
        say(&per_operation(rounds, || {
            slot.enter();
            black_box(check(page).and_then(|()| page.check_lease(black_box(1))).is_ok());
            slot.exit();
        }));
    }
    let mut checker = gate.checker().expect("a slot");
    let now = monotonic_ns();
    say(&per_operation(rounds, || {
        black_box(checker.admit_at(black_box(now), black_box(StrategyId(0)), black_box(InstrumentId(0))).is_ok());
    }));
    say(&per_operation(rounds, || {
        black_box(checker.admit(black_box(StrategyId(0)), black_box(InstrumentId(0))).is_ok());
    }));
    say(&per_operation(rounds, || {
        black_box(monotonic_ns());
    }));
}

fn order(strategy: usize, id: u64, qty: i64) -> Event {
    let mut event = Event::new(EventKind::New, SessionId(0), 0);
    event.strategy = StrategyId(strategy as u16);
    event.account = AccountId(0);
    event.instrument = InstrumentId(0);
    event.side = if id.is_multiple_of(2) { Side::Buy } else { Side::Sell };
    event.ord_type = OrdType::Limit;
    event.id = OrdId(id);
    event.qty = Qty(qty);
    event.px = Px(1_000);
    event
}

fn ask_costs(gate: &Arc<Gate>, rounds: usize) {
    let mut asker = gate.asker().expect("the asker");
    let mut all = Vec::with_capacity(rounds);
    for id in 1..=rounds as u64 {
        let asked = order(0, id, 100);
        let begin = Instant::now();
        let passed = asker.ask(&asked, PATIENCE).map(drop);
        all.push(begin.elapsed().as_nanos() as u64);
        assert_eq!(passed, Ok::<(), Denied>(()));
        let done = Event { kind: EventKind::Canceled, ..asked };
        while asker.report(&done).is_err() {
            std::hint::spin_loop();
        }
    }
    say(&all[rounds / 10..]);
}

/// One strategy after the other breaches and is halted, seen in the page: every second one after 2 ms of silence, the others
/// just behind an order of theirs.
fn flip_costs(gate: &Arc<Gate>, strategies: usize) {
    let mut asker = gate.asker().expect("the asker");
    let mut all: [Vec<u64>; 2] = Default::default();
    for strategy in 1..strategies {
        let id = 2 * strategy as u64;
        // The latch of the one before is written meanwhile.
        std::thread::sleep(Duration::from_millis(2));
        if strategy % 2 == 1 {
            assert!(asker.ask(&order(strategy, id, 100), PATIENCE).is_ok(), "within its limits");
        }
        let fat = order(strategy, id + 1, 5_000);
        let begin = Instant::now();
        asker.submit(&fat).expect("room");
        while gate.page().word(Scope::Strategy(fat.strategy)).mode != Mode::Halted {
            std::hint::spin_loop();
        }
        all[strategy % 2].push(begin.elapsed().as_nanos() as u64);
        while !matches!(asker.poll(), Ok(Some(_))) {
            std::hint::spin_loop();
        }
    }
    all.iter().for_each(|times| say(&times[times.len() / 10..]));
}

fn socket(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).expect("a connection");
    stream.set_nodelay(true).expect("a socket");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream
}

/// Reads one answer; returns its length.
fn read_answer(stream: &mut TcpStream, buffer: &mut [u8]) -> usize {
    let mut n = 0;
    loop {
        n += stream.read(&mut buffer[n..]).expect("an answer in time");
        let text = std::str::from_utf8(&buffer[..n]).expect("text");
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        assert!(head.starts_with("HTTP/1.1 200"), "{text}");
        let head = head.to_ascii_lowercase();
        let length = head.split_once("content-length: ").and_then(|(_, rest)| rest.split("\r\n").next());
        if body.len() >= length.and_then(|n| n.parse::<usize>().ok()).expect("a length") {
            return n;
        }
    }
}

/// The gateway presses, so that one clock and one core see both ends: `turns` strategies over a connection that is kept,
/// and as many over fresh ones; the TCP echo after the same pauses.
fn http_costs(gate: &Arc<Gate>, turns: usize, http: &str, operator: &str, echo: &str) {
    let (http, echo): (SocketAddr, SocketAddr) = (http.parse().expect("http"), echo.parse().expect("echo"));
    let request = |strategy: usize| {
        let body = format!(r#"{{"scope":{{"kind":"strategy","name":"s{strategy:05}"}},"reason":"bench","wait_ms":0}}"#);
        let length = body.len();
        format!(
            "POST /v1/kill HTTP/1.1\r\nHost: {http}\r\nAuthorization: Bearer {operator}\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    };
    let see = |strategy: usize| {
        while gate.page().word(Scope::Strategy(StrategyId(strategy as u16))).mode != Mode::Halted {
            std::hint::spin_loop();
        }
    };
    let pause = || std::thread::sleep(Duration::from_millis(3));
    let mut buffer = vec![0; 1 << 16];
    let mut kept = socket(http);
    kept.write_all(&request(1)).expect("a write");
    read_answer(&mut kept, &mut buffer);
    let mut all: [Vec<u64>; 4] = Default::default();
    for turn in 0..turns {
        let (one, two) = (2 + 2 * turn, 3 + 2 * turn);
        let bytes = request(one);
        pause();
        let begin = Instant::now();
        kept.write_all(&bytes).expect("a write");
        see(one);
        all[0].push(begin.elapsed().as_nanos() as u64);
        read_answer(&mut kept, &mut buffer);
        let bytes = request(two);
        pause();
        let begin = Instant::now();
        let mut fresh = socket(http);
        fresh.write_all(&bytes).expect("a write");
        see(two);
        all[1].push(begin.elapsed().as_nanos() as u64);
        read_answer(&mut fresh, &mut buffer);
        drop(fresh);
        pause();
        let begin = Instant::now();
        let mut floor = socket(echo);
        floor.write_all(&bytes).expect("a write");
        floor.read_exact(&mut buffer[..bytes.len()]).expect("an echo");
        all[3].push(begin.elapsed().as_nanos() as u64);
        pause();
        let begin = Instant::now();
        floor.write_all(&bytes).expect("a write");
        floor.read_exact(&mut buffer[..bytes.len()]).expect("an echo");
        all[2].push(begin.elapsed().as_nanos() as u64);
    }
    all.iter().for_each(|times| say(times));
}

// ---------------------------------------------------------------------------------------------- floors

const PING: usize = 0;
const PONG: usize = 32;
const PING_WORDS: usize = 512;

fn ping_pong_other_side(pid: u32, fd: i32) {
    let path = format!("/proc/{pid}/fd/{fd}");
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).expect("the parent's memory");
    let words = Words::from_sealed(file, PING_WORDS).expect("its size");
    let mut seen = 0;
    while seen != u64::MAX {
        let now = words[PING].load(Ordering::Acquire);
        if now != seen {
            words[PONG].store(now, Ordering::Release);
            seen = now;
        }
    }
}

/// Round trips of one cache line each way between this process on the server's core and one on the gateway's.
fn ping_pong(rounds: u64) -> Histogram<u64> {
    let (words, fd) = Words::sealed("ping-pong", PING_WORDS).expect("memory");
    let other = Gateway::start(vec!["echo".into(), std::process::id().to_string(), fd.as_raw_fd().to_string()]);
    let mut all = times();
    let run = || {
        bind_thread(None, SERVER_CORE);
        for round in 1..=rounds {
            let begin = Instant::now();
            words[PING].store(round, Ordering::Release);
            while words[PONG].load(Ordering::Acquire) != round {
                std::hint::spin_loop();
            }
            // The first ones wait for the other process to start.
            if round > rounds / 10 {
                all.saturating_record(begin.elapsed().as_nanos() as u64);
            }
        }
        words[PING].store(u64::MAX, Ordering::Release);
    };
    std::thread::scope(|scope| scope.spawn(run).join().expect("the ping-pong"));
    drop(other);
    all
}

/// A TCP echo on a thread and a runtime of its own, on the server's core, as the API has them. Ends with the process.
fn tcp_echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("a listener");
    let addr = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        bind_thread(None, SERVER_CORE);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            while let Ok((mut stream, _)) = listener.accept().await {
                stream.set_nodelay(true).expect("a socket");
                let mut bytes = vec![0; 1 << 16];
                while let Ok(n @ 1..) = stream.read(&mut bytes).await {
                    if stream.write_all(&bytes[..n]).await.is_err() {
                        break;
                    }
                }
            }
        });
    });
    addr
}

// --------------------------------------------------------------------------------------------- figures

/// A distribution in `unit`s of `ns` nanoseconds.
fn add(report: &mut Report, name: &str, unit: &'static str, ns: f64, all: &Histogram<u64>, floor: Option<(&str, f64)>) {
    let at = |q| all.value_at_quantile(q) as f64 / ns;
    report.add(Figure {
        name: name.into(),
        unit,
        value: at(0.5),
        percentiles: vec![(10.0, at(0.1)), (50.0, at(0.5)), (99.0, at(0.99)), (99.9, at(0.999))],
        floor: floor.map(|(name, value)| (name.to_owned(), value)),
    });
}

fn admits(report: &mut Report, rounds: usize) {
    let service = Service::start("nap", 2);
    let mut gateway = service.gateway("admit", &[rounds.to_string()]);
    let bare = gateway.times();
    let floor = bare.value_at_quantile(0.5) as f64 / 1e3;
    add(report, "atomic load", "ns", 1e3, &bare, None);
    for name in [
        "admit, page only, fence",
        "admit, page and lease, fence",
        "admit, page only, membarrier",
        "admit, page and lease, membarrier",
        "admit_at (page, lease, time given)",
        "admit (page, lease, clock read)",
        "clock_gettime",
    ] {
        add(report, name, "ns", 1e3, &gateway.times(), Some(("atomic load", floor)));
    }
}

fn lanes(report: &mut Report, asks: usize, trips: usize) {
    let ping = ping_pong(asks as u64 * 10);
    let floor = Some(("ping-pong", ping.value_at_quantile(0.5) as f64));
    add(report, "ping-pong of two processes", "ns", 1.0, &ping, None);
    let service = Service::start("spin", trips);
    let asked = service.gateway("ask", &[asks.to_string()]).times();
    add(report, "ask: order -> verdict and pass, engine spins", "ns", 1.0, &asked, floor);
    drop(service);
    let service = Service::start("spin", trips);
    let mut gateway = service.gateway("flip", &[trips.to_string()]);
    let (silence, flow) = (gateway.times(), gateway.times());
    add(report, "breach in a flow: event -> page flip seen", "ns", 1.0, &flow, floor);
    add(report, "breach after silence: event -> page flip seen", "ns", 1.0, &silence, floor);
}

fn kills(report: &mut Report, kills: usize) {
    for (role, name) in
        [("idle", "kill -> gate confirmed, idle"), ("load", "kill -> gate confirmed, it admits all the time")]
    {
        let service = Service::start("nap", 2);
        let mut gateway = service.gateway(role, &[]);
        assert_eq!(gateway.line(), "ready");
        let switch = &service.running().switch;
        let slot = service.running().universe.slot(Scope::Strategy(StrategyId(0))).expect("a slot");
        let mut all = times();
        let run = || {
            bind_thread(None, SERVER_CORE);
            for _ in 0..kills {
                let begin = Instant::now();
                let word = switch.page().raise(slot, Mode::Halted);
                let mut rows = switch.gates().begin(None);
                assert_eq!(rows.len(), 1, "one gate is attached");
                while !rows.iter_mut().all(|row| row.look()) {
                    std::hint::spin_loop();
                }
                all.saturating_record(begin.elapsed().as_nanos() as u64);
                switch.page().lower(slot, word.epoch).expect("nobody else presses");
                let pause = Instant::now();
                while pause.elapsed() < Duration::from_micros(20) {
                    std::hint::spin_loop();
                }
            }
        };
        std::thread::scope(|scope| scope.spawn(run).join().expect("the kills"));
        report.times(name, &all, None);
    }
}

fn http(report: &mut Report, turns: usize) {
    let service = Service::start("nap", 2 * turns + 8);
    let more =
        [turns.to_string(), service.running().http_addr.to_string(), service.operator.clone(), tcp_echo().to_string()];
    let mut gateway = service.gateway("http", &more);
    let [kept, fresh, kept_echo, fresh_echo] = std::array::from_fn(|_| gateway.times());
    let p50 = |times: &Histogram<u64>| times.value_at_quantile(0.5) as f64 / 1e3;
    report.times("TCP echo, kept alive", &kept_echo, None);
    report.times("TCP echo, fresh", &fresh_echo, None);
    let floor = Some(("TCP echo, kept alive", p50(&kept_echo)));
    report.times("HTTP kill -> page flip seen, kept alive", &kept, floor);
    let floor = Some(("TCP echo, fresh", p50(&fresh_echo)));
    report.times("HTTP kill -> page flip seen, fresh", &fresh, floor);
}

fn main() {
    if let Ok(told) = std::env::var(ROLE) {
        return gateway(&told);
    }
    let args = Args::parse();
    let includes = format!(
        "{}. Two processes: the gateway on core 0, what serves it on core 1.\n\
         admit: batches of 1,000 in one thread; percentiles are of the batches' means. ask, breach: one at a time; the\n  \
         engine spins. kill -> confirmed: raise, barrier, look at the slots; 20 µs between. HTTP: 3 ms of silence before each.",
        machine()
    );
    let mut report = Report::new("gate", args, &includes);
    // `--only=1`: admits, 2: lanes, 3: kills, 4: HTTP.
    let part = |n| args.only.is_none_or(|only| only == n);
    let scale = if args.quick { 10 } else { 1 };
    if part(1) {
        admits(&mut report, 10_000 / scale);
    }
    if part(2) {
        lanes(&mut report, 100_000 / scale, 2_000 / scale);
    }
    if part(3) {
        kills(&mut report, 100_000 / scale);
    }
    if part(4) {
        http(&mut report, 1_000 / scale);
    }
    report.finish();
}
