//! The real program as a child process, and plain clients for its two doors.

pub mod authority;
pub mod cc;
mod gateway;
mod lines;
pub mod openapi;
pub mod tls;

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub use gateway::Gateway;
pub use lines::Lines;

/// How long anything may take before a test fails. Nothing waits for this long when all is well, so it is far more than the
/// slowest machine needs.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Tokens of the test configuration, and the names they stand for.
pub const TOKENS: [(&str, &str); 6] = [
    ("vera", "viewer"),
    ("olaf", "operator"),
    ("rita", "risk"),
    ("ruth", "risk"),
    ("gw-1", "session"),
    ("feed", "session"),
];

/// The token of somebody in [`TOKENS`].
pub fn token(name: &str) -> String {
    blake3::hash(format!("token of {name}").as_bytes()).to_hex().to_string()
}

fn hash(name: &str) -> String {
    blake3::hash(token(name).as_bytes()).to_hex().to_string()
}

/// A configuration with two strategies, one stock and one gateway, on ports of the system's choice. A disk that is slow, as it may be
/// while tests run, denies nothing.
pub fn config(state_dir: &Path, limits: &str) -> String {
    let mut text = format!(
        r#"
[service]
state_dir = "{}"
base_currency = "USD"
[engine]
working_orders = 4_096
remembered_orders = 1_024
execs = 4_096
pairs = 64
recent_orders = 1_024
[ingest]
listen = "127.0.0.1:0"
[http]
listen = "127.0.0.1:0"
[journal]
segment_bytes = 1_048_576
ring_cells = 32_768
ring_dir = "{}"
grace = "1h"
[accounts.main]
[strategies.alpha]
account = "main"
[strategies.beta]
account = "main"
[instruments.ACME]
px_scale = 2
qty_scale = 0
reference = "10.00"
reference_max_age = "unlimited"
[sessions.gw-1]
kind = "ask"
token_hash = "{}"
[sessions.feed]
kind = "reference"
token_hash = "{}"
[auth]
two_person_rearm = ["firm"]
tokens = [
"#,
        state_dir.display(),
        state_dir.parent().unwrap().display(),
        hash("gw-1"),
        hash("feed"),
    );
    for (name, role) in TOKENS.iter().filter(|(_, role)| *role != "session") {
        writeln!(text, "  {{ name = \"{name}\", role = \"{role}\", hash = \"{}\" }},", hash(name)).unwrap();
    }
    text += "]\n";
    text += limits;
    text
}

/// Limits that stop nothing but a quantity over 1,000 and more than 50 orders a second of one strategy.
pub const LIMITS: &str = r#"
[limits.firm]
others = "unlimited"
[limits.account."*"]
others = "unlimited"
[limits.strategy."*"]
order_qty = 1_000
order_rate = { count = 50, per = "1s", action = "halt" }
others = "unlimited"
[limits.pair."*"]
others = "unlimited"
[limits.instrument."*"]
others = "unlimited"
[limits.session."*"]
others = "unlimited"
"#;

/// Limits that stop nothing, and show positions and working orders.
pub const SHOWN: &str = r#"
[limits.firm]
working_orders = 1_000_000
others = "unlimited"
[limits.account."*"]
others = "unlimited"
[limits.strategy."*"]
others = "unlimited"
[limits.pair."*"]
others = "unlimited"
[limits.instrument."*"]
position_long = 1_000_000_000
position_short = 1_000_000_000
others = "unlimited"
[limits.session."*"]
others = "unlimited"
"#;

/// A service with its files in a directory of its own.
pub struct Daemon {
    pub dir: tempfile::TempDir,
    child: Child,
    pub ws: String,
    pub http: String,
}

impl Daemon {
    /// Makes the files and the state directory, and starts.
    pub fn start(limits: &str) -> Daemon {
        Daemon::start_in(tempfile::tempdir().unwrap(), limits)
    }

    /// As [`Daemon::start`], in a directory that is known already.
    pub fn start_in(dir: tempfile::TempDir, limits: &str) -> Daemon {
        std::fs::write(dir.path().join("haltline.toml"), config(&dir.path().join("state"), limits)).unwrap();
        let made = haltline(&["init", "--config", "haltline.toml"]).current_dir(dir.path()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Daemon::run(dir)
    }

    /// Starts with the files that are there.
    pub fn run(dir: tempfile::TempDir) -> Daemon {
        Daemon::run_under(dir, &[])
    }

    /// As [`Daemon::run`], with these variables in its environment.
    pub fn run_under(dir: tempfile::TempDir, environment: &[(&str, &str)]) -> Daemon {
        let mut child = haltline(&["serve", "--config", "haltline.toml"])
            .envs(environment.iter().copied())
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let mut log = String::new();
        let (ws, http) = loop {
            let mut line = String::new();
            assert!(lines.read_line(&mut line).unwrap() > 0, "it ended before it served:\n{log}");
            log += &line;
            if let Some(rest) = line.strip_prefix("serving: events at ws://") {
                let (ws, http) = rest.trim().split_once(", people at ").unwrap();
                break (ws.to_owned(), http.split_once("://").unwrap().1.to_owned());
            }
        };
        // The pipe has to be emptied, or the service would wait for us to read its log.
        let path = dir.path().join("log");
        std::thread::spawn(move || {
            let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
            let _ = std::io::copy(&mut lines, &mut file);
        });
        Daemon { dir, child, ws, http }
    }

    /// The local socket.
    pub fn socket(&self) -> std::path::PathBuf {
        self.dir.path().join("state/control.sock")
    }

    /// The program with these arguments, in the service's directory.
    pub fn haltline(&self, args: &[&str]) -> std::process::Output {
        haltline(args).current_dir(self.dir.path()).output().unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        let done = Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status().unwrap();
        assert!(done.success());
    }

    /// Kills it without a warning and gives its files back.
    pub fn sigkill(mut self) -> tempfile::TempDir {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.into_dir()
    }

    /// Ends it in an orderly way.
    pub fn terminate(mut self) -> (ExitStatus, tempfile::TempDir) {
        self.signal("TERM");
        let status = self.wait();
        (status, self.into_dir())
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn wait(&mut self) -> ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begin.elapsed() < PATIENCE, "it did not end");
            std::thread::yield_now();
        }
    }

    fn into_dir(mut self) -> tempfile::TempDir {
        std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap())
    }

    /// One request as `who`; the status and the body as JSON (or as a string, if it is none). Every answer is held against the
    /// OpenAPI document.
    pub fn ask(&self, who: &str, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let reply = not_busy(|| openapi::send(&self.http, Some(who), method, path, "", body), |reply| reply.status);
        let document = openapi::Document::of(&self.http);
        if let Some(template) = document.template(method, path) {
            assert_eq!(document.complaints(method, template, &reply), [""; 0], "{}", reply.body);
        }
        let answer = (reply.status, serde_json::from_str(&reply.body).unwrap_or(Value::String(reply.body)));
        once_on_disk(&self.http, body, answer)
    }

    pub fn get(&self, who: &str, path: &str) -> Value {
        let (status, body) = self.ask(who, "GET", path, None);
        assert_eq!(status, 200, "{body}");
        body
    }

    /// The mode of a scope by `GET /v1/state`.
    pub fn mode(&self, kind: &str, name: &str) -> String {
        let state = self.get("vera", "/v1/state");
        let halts = state["halts"].as_array().unwrap();
        let halt = halts.iter().find(|h| h["scope"]["kind"] == kind && h["scope"]["name"] == name);
        halt.map_or("normal", |h| h["mode"].as_str().unwrap()).to_owned()
    }

    /// Asks again until `holds`.
    pub fn until(&self, what: &str, holds: impl Fn(&Daemon) -> bool) {
        let begin = Instant::now();
        while !holds(self) {
            assert!(begin.elapsed() < PATIENCE, "waited in vain until {what}; {}", self.get("vera", "/v1/state"));
            std::thread::yield_now();
        }
    }

    pub fn kill(&self, kind: &str, name: &str, reason: &str) -> Value {
        kill(&self.http, kind, name, reason)
    }

    /// As [`Daemon::kill`]; the receipt when everybody who has to confirm it has.
    pub fn kill_confirmed(&self, kind: &str, name: &str, reason: &str) -> Value {
        let receipt = self.kill(kind, name, reason);
        self.confirmed(receipt)
    }

    /// A receipt as it is when everybody who has to confirm it has: the press itself waits for no more than five seconds.
    pub fn confirmed(&self, receipt: Value) -> Value {
        receipt_when(&self.http, receipt, |receipt| receipt["status"] == "confirmed")
    }

    /// Runs the program in the service's directory until it ends with this code, as it may not if it, or the service, was kept from
    /// going on for longer than it waits.
    #[track_caller]
    pub fn haltline_until(&self, args: &[&str], code: i32) -> std::process::Output {
        let begin = Instant::now();
        loop {
            let out = self.haltline(args);
            if out.status.code() == Some(code) {
                return out;
            }
            assert!(begin.elapsed() < PATIENCE, "{args:?} does not end with {code}: {out:?}");
        }
    }
}

/// Presses kill as the operator and returns the receipt, once the halt is on disk.
pub fn kill(http: &str, kind: &str, name: &str, reason: &str) -> Value {
    let scope = json!({ "kind": kind, "name": name });
    let press = json!({ "scope": scope, "reason": reason, "wait_ms": 5000 });
    let (status, receipt) = ask(http, "olaf", "POST", "/v1/kill", Some(&press));
    assert_eq!(status, 200, "{receipt}");
    receipt_when(http, receipt, |receipt| receipt["latch"]["durable"] == true)
}

/// The receipt, looked at again until `holds` of it.
pub fn receipt_when(http: &str, mut receipt: Value, holds: impl Fn(&Value) -> bool) -> Value {
    let path = format!("/v1/kills/{}", receipt["id"].as_str().unwrap());
    let begin = Instant::now();
    while !holds(&receipt) {
        assert!(begin.elapsed() < PATIENCE, "waited in vain: {receipt}");
        receipt = ask(http, "vera", "GET", &path, None).1;
    }
    receipt
}

/// Asks again while the service says that it is busy, which it says of itself where this machine is.
fn not_busy<T>(ask: impl Fn() -> T, status: impl Fn(&T) -> u16) -> T {
    let begin = Instant::now();
    loop {
        let answer = ask();
        if status(&answer) != 503 || begin.elapsed() > PATIENCE {
            return answer;
        }
    }
}

/// A re-arm that was to wait for the disk and did so for as long as a request does, when it is there.
fn once_on_disk(http: &str, request: Option<&Value>, (status, answer): (u16, Value)) -> (u16, Value) {
    let waits = request.is_some_and(|request| request["wait_ms"] != 0);
    if !waits || status != 202 || answer["status"] != "lowered" {
        return (status, answer);
    }
    let path = format!("/v1/rearm/{}", answer["id"].as_str().unwrap());
    let begin = Instant::now();
    loop {
        let (_, now) = ask(http, "rita", "GET", &path, None);
        if now["status"] == "done" {
            return (200, now);
        }
        assert!(begin.elapsed() < PATIENCE, "never on disk: {now}");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            eprintln!("the service's log:\n{log}");
        }
    }
}

/// See [`Daemon::ask`].
pub fn ask(http: &str, who: &str, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
    ask_with(http, who, method, path, "", body)
}

/// As [`ask`], with more headers, each with its end of line.
pub fn ask_with(http: &str, who: &str, method: &str, path: &str, headers: &str, body: Option<&Value>) -> (u16, Value) {
    let answer = not_busy(|| ask_once(http, who, method, path, headers, body), |answer| answer.0);
    once_on_disk(http, body, answer)
}

fn ask_once(http: &str, who: &str, method: &str, path: &str, headers: &str, body: Option<&Value>) -> (u16, Value) {
    let body = body.map(Value::to_string).unwrap_or_default();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n{headers}Connection: close\r\n\r\n{body}",
        http,
        token(who),
        body.len()
    );
    let answer = exchange(
        || TcpStream::connect(http),
        &request,
        |mut stream| {
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map(|_| answer)
        },
    );
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let body =
        if head.to_ascii_lowercase().contains("transfer-encoding: chunked") { unchunk(body) } else { body.to_owned() };
    (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
}

/// A connection that can be waited at for [`PATIENCE`] and no longer.
pub trait Patient: Read + Write {
    fn be_patient(&self) -> std::io::Result<()>;
}

impl Patient for TcpStream {
    fn be_patient(&self) -> std::io::Result<()> {
        self.set_read_timeout(Some(PATIENCE))
    }
}

impl Patient for UnixStream {
    fn be_patient(&self) -> std::io::Result<()> {
        self.set_read_timeout(Some(PATIENCE))
    }
}

/// How long a connection may be there before a service that has not got its request is right to close it: a little less than its
/// three seconds.
pub const TOLERATED: Duration = Duration::from_millis(2_500);

/// Sends `request` on a connection of its own, in one piece, and gives what `read` has read. If this thread was kept from sending
/// for so long that the service was right to hang up on it, it tries again: a request that did not come is no request.
pub fn exchange<S: Patient>(
    connect: impl Fn() -> std::io::Result<S>,
    request: &str,
    read: impl Fn(S) -> std::io::Result<String>,
) -> String {
    loop {
        let begin = Instant::now();
        let sent = connect().and_then(|mut stream| {
            stream.be_patient()?;
            stream.write_all(request.as_bytes())?;
            Ok(stream)
        });
        let was_late = begin.elapsed() > TOLERATED;
        match sent.and_then(&read) {
            Ok(answer) if !answer.is_empty() => return answer,
            nothing => assert!(was_late, "no answer: {nothing:?}"),
        }
    }
}

fn unchunk(body: &str) -> String {
    let (mut rest, mut whole) = (body, String::new());
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        if size == 0 {
            break;
        }
        whole += &after[..size];
        rest = &after[size + 2..];
    }
    whole
}

/// The program, not started yet.
pub fn haltline(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_haltline"));
    command.args(args);
    command
}

/// Runs a test that needs the async runtime.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
