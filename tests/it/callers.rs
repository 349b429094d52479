//! One caller who asks for all that one can at the real service, and what is left for the others.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::json;

use crate::support::{Daemon, Gateway, LIMITS, PATIENCE, block_on, token};

/// Connections that the greedy caller holds or tries to: more than there are places.
const HELD: usize = 300;

/// A connection of the greedy caller's, on which there is always a request in progress.
struct Line(TcpStream);

impl Line {
    fn new(http: &str) -> Option<Line> {
        let stream = TcpStream::connect(http).ok()?;
        stream.set_nonblocking(true).ok()?;
        let mut line = Line(stream);
        (line.ask(20) && line.goes_on()).then_some(line)
    }

    /// Asks `times` more, behind what is asked already; `false`: it was closed.
    fn ask(&mut self, times: usize) -> bool {
        let request = format!("GET /v1/state HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n", token("vera"));
        self.0.write_all(request.repeat(times).as_bytes()).is_ok()
    }

    /// Takes what was answered, and asks again; `false`: it was closed.
    fn goes_on(&mut self) -> bool {
        let mut some = [0; 1 << 14];
        match self.0.read(&mut some) {
            Ok(0) => false,
            Ok(_) => self.ask(1),
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }
}

/// Holds what `vera` can hold until `over`; tells in `held` how many connections that were.
fn hold(http: &str, over: &AtomicBool, held: &AtomicUsize) {
    let mut lines: Vec<Line> = Vec::new();
    while !over.load(Ordering::Acquire) {
        lines.retain_mut(Line::goes_on);
        while lines.len() < HELD {
            let Some(line) = Line::new(http) else { break };
            lines.push(line);
        }
        held.fetch_max(lines.len(), Ordering::Release);
    }
}

#[test]
fn one_caller_who_holds_all_that_one_can_keeps_nobody_else_from_reading_and_acting() {
    let daemon = Daemon::start(&LIMITS.replace("per = \"1s\"", "per = \"1h\""));
    block_on(async {
        let (mut gateway, _) = Gateway::connect(&daemon, "gw-1").await;
        for n in 0..60 {
            gateway.buy(&format!("{n}"), 1).await;
        }
    });
    let alerts = |daemon: &Daemon| daemon.get("olaf", "/v1/alerts?severity=critical&open=true");
    daemon.until("there is an alert", |d| alerts(d)["unacknowledged_critical"] == 1);

    let (over, held) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let until = Until(&over);
        scope.spawn(|| hold(&daemon.http, &over, &held));
        let begin = Instant::now();
        while held.load(Ordering::Acquire) < HELD {
            assert!(begin.elapsed() < PATIENCE, "the crowd does not come");
            std::thread::yield_now();
        }
        for round in 0..5 {
            let receipt = daemon.kill("strategy", "beta", &format!("round {round}"));
            let state = daemon.get("olaf", "/v1/state");
            assert!(state["halts"].to_string().contains("beta"), "{state}");
            let scope = json!({ "kind": "strategy", "name": "beta" });
            let rearm = json!({ "scope": scope, "epoch": receipt["epoch"], "reason": "seen", "wait_ms": 5000 });
            let (status, rearmed) = daemon.ask("rita", "POST", "/v1/rearm", Some(&rearm));
            assert_eq!(status, 200, "{rearmed}");
        }
        let path = format!("/v1/alerts/{}/ack", alerts(&daemon)["alerts"][0]["id"].as_str().unwrap());
        let (status, acked) = daemon.ask("olaf", "POST", &path, Some(&json!({ "reason": "seen" })));
        assert_eq!(status, 200, "{acked}");
        drop(until);
    });
}

/// Ends the crowd when dropped, so that a failure does not wait for it.
struct Until<'a>(&'a AtomicBool);

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
