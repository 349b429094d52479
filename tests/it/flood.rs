//! Crowds at the HTTP door of the real service, and how long a kill takes meanwhile.
//!
//! The figures are printed, and depend on the machine; that every single press is answered does not.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

use crate::support::{Daemon, LIMITS, PATIENCE, Patient, ask, exchange, token};

/// Presses per case and door: enough for a 99th percentile that is not the maximum.
const PRESSES: usize = 200;
/// Connections that each of the two that make a crowd holds at once: together far more than there are places.
const HELD: usize = 500;
/// What a crowd has to have done before the presses begin.
const CROWD: u64 = 1_200;

fn press<S: Patient>(connect: impl Fn() -> std::io::Result<S>, headers: &str) {
    let body = json!({ "scope": { "kind": "strategy", "name": "alpha" }, "reason": "flood", "wait_ms": 0 }).to_string();
    let request = format!(
        "POST /v1/kill HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n\
         {headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    // One whose place was taken away before it was heard would be closed, without an answer: that fails.
    let answer = exchange(connect, &request, |mut stream| {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    });
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
}

/// Presses from a new connection on, one after the other, and prints what they took.
fn presses(what: &str, press: impl Fn()) {
    let mut took: Vec<Duration> = (0..PRESSES)
        .map(|_| {
            let begin = Instant::now();
            press();
            begin.elapsed()
        })
        .collect();
    took.sort_unstable();
    let (p50, p99, max) = (took[PRESSES / 2], took[PRESSES * 99 / 100], took[PRESSES - 1]);
    println!("kill, {what}: p50 {p50:.1?}, p99 {p99:.1?}, max {max:.1?} of {PRESSES}");
}

fn at_both_doors(daemon: &Daemon, what: &str) {
    presses(&format!("{what}, over TCP"), || {
        press(|| TcpStream::connect(&daemon.http), &format!("Authorization: Bearer {}\r\n", token("olaf")));
    });
    presses(&format!("{what}, over the local socket"), || {
        press(|| UnixStream::connect(daemon.socket()), "");
    });
}

/// A connection from another address of this host than the one that presses; `None` if there was none to be had.
fn from_elsewhere(n: u64, to: SocketAddr) -> Option<TcpStream> {
    // Twenty addresses: none of them is many alone.
    let source = SocketAddr::from(([127, 0, 1, 1 + (n % 20) as u8], 0));
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).ok()?;
    bind(&socket, &source).ok()?;
    connect(&socket, &to).ok()?;
    let stream = TcpStream::from(socket);
    stream.set_nonblocking(true).ok()?;
    Some(stream)
}

/// Ends the crowd when dropped, so that a failure does not wait for it.
struct Until<'a>(&'a AtomicBool);

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Presses at both doors while two threads do `once` again and again; it is given a number of its own each time.
fn meanwhile<T>(daemon: &Daemon, what: &str, once: impl Fn(u64, &mut Vec<T>) + Sync) {
    let (over, done) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let _until = Until(&over);
        for _ in 0..2 {
            scope.spawn(|| {
                let mut kept = Vec::new();
                while !over.load(Ordering::Acquire) {
                    once(done.fetch_add(1, Ordering::Relaxed), &mut kept);
                }
            });
        }
        let begin = Instant::now();
        while done.load(Ordering::Relaxed) < CROWD {
            assert!(begin.elapsed() < PATIENCE, "the crowd does not come");
            std::thread::yield_now();
        }
        at_both_doors(daemon, what);
        // Who looks is served, too.
        let (status, state) = ask(&daemon.http, "vera", "GET", "/v1/state", None);
        assert_eq!((status, &state["mode"]), (200, &json!("normal")), "{what}: {state}");
    });
    println!("{what}: {} of them", done.load(Ordering::Relaxed));
}

/// Keeps as many connections as there may be, each of which sends `head` at first and `drip` again and again.
fn hold(n: u64, to: SocketAddr, kept: &mut Vec<TcpStream>, head: &[u8], drip: &[u8]) {
    if kept.len() < HELD
        && let Some(mut stream) = from_elsewhere(n, to)
        && stream.write_all(head).is_ok()
    {
        kept.push(stream);
    }
    if n.is_multiple_of(64) || kept.len() == HELD {
        // Those that the service has cut off make room for new ones.
        kept.retain_mut(|stream| stream.write_all(drip).is_ok());
    }
}

/// As many descriptors as the system lets us have.
fn more_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
}

#[test]
fn every_kill_gets_through_slow_requests_and_floods_of_connections_and_of_wrong_tokens() {
    more_descriptors();
    let daemon = Daemon::start(LIMITS);
    let to: SocketAddr = daemon.http.parse().unwrap();
    at_both_doors(&daemon, "alone");

    meanwhile(&daemon, "under a thousand slow heads", |n, kept| {
        hold(n, to, kept, b"GET /v1/state HTTP/1.1\r\nHost: x\r\n", b"X-Slow: 1\r\n");
    });
    // Nobody has to be known to send a token that does not come to an end.
    let head =
        b"POST /v1/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n{";
    meanwhile(&daemon, "under a thousand slow bodies", |n, kept| hold(n, to, kept, head, b" "));
    meanwhile(&daemon, "under a flood of connections", |n, _: &mut Vec<()>| drop(from_elsewhere(n, to)));
    // From elsewhere, and from where the presses come from: a correct token is taken all the same.
    meanwhile(&daemon, "under a flood of wrong tokens", |n, _: &mut Vec<()>| {
        let stream = if n.is_multiple_of(2) { from_elsewhere(n, to) } else { TcpStream::connect(to).ok() };
        let Some(mut stream) = stream else { return };
        let request = format!(
            "GET /v1/state HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer guess {}\r\n\r\n",
            n % 7
        );
        let _ = stream.set_nonblocking(false);
        let mut answer = String::new();
        if stream.write_all(request.as_bytes()).is_ok() && stream.read_to_string(&mut answer).is_ok() {
            // Empty where its place was taken away.
            let refused = ["HTTP/1.1 401", "HTTP/1.1 429", "HTTP/1.1 503", ""]
                .iter()
                .any(|head| if head.is_empty() { answer.is_empty() } else { answer.starts_with(head) });
            assert!(refused, "{answer}");
        }
    });

    // Nothing of it is left, and the end is an orderly one.
    let state: Value = daemon.get("vera", "/v1/state");
    assert_eq!(state["halts"][0]["scope"]["name"], "alpha");
    let scrape = daemon.get("vera", "/metrics").to_string();
    assert!(scrape.contains("haltline_auth_failures_total"), "{scrape}");
    let (status, _) = daemon.terminate();
    assert!(status.success(), "{status:?}");
}
