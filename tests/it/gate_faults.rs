//! Stopped, killed and starved, each side, at any moment: a gateway in a process of its own admits all the time, and notes in
//! shared memory when it last did, and whether it ever held a pass when a kill had been confirmed.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use haltline::duty::monotonic_ns;
use haltline::gate::page::Closed;
use haltline::gate::{Checker, Gate};
use haltline::kill::page::HaltPage;
use haltline::model::Mode;
use haltline::ring::shm::Words;
use haltline::ring::sync::{AtomicU64, Ordering};
use haltline::units::{InstrumentId, StrategyId};
use serde_json::{Value, json};

use crate::gate::{Host, until};
use crate::gate_race::{Dice, borrowed};
use crate::support::{Daemon, PATIENCE, token};

const THREADS: usize = 2;
const LEASE_NS: u64 = 60_000_000;
/// As late as it may be: on a busy machine the engine often is.
const CONFIG: &str = "lease = \"60ms\"\nlag = \"60ms\"\n";

/// The board. Odd: a kill has been confirmed and not been re-armed yet.
const CONFIRMED: usize = 0;
/// The gateway ends.
const STOP: usize = 16;
/// The first thread stays inside its next pass for as long as this is 1.
const HOLD: usize = 17;
/// It does.
const INSIDE: usize = 18;
/// Each thread's own.
const ADMITTED: usize = 0;
const DENIED: usize = 1;
const LATE: usize = 2;
/// The reading of the clock that the last admission was made with.
const LAST: usize = 3;
const PER_THREAD: usize = 16;
const THREADS_AT: usize = 32;
const BOARD_WORDS: usize = 512;

/// The gateway's process, when this test binary is started as such by [`Gateway::start`].
#[test]
#[ignore = "a child process of the tests of faults"]
fn gateway() {
    let Ok(told) = std::env::var("HALTLINE_FAULTS") else { return };
    let told: Vec<&str> = told.split(' ').collect();
    let [socket, pid, fd] = told[..] else { panic!("told {told:?}") };
    let board = borrowed(pid.parse().unwrap(), fd.parse().unwrap(), BOARD_WORDS);
    let gate = Gate::attach(socket.as_ref(), "gw-1", &token("gw-1"), "faults", PATIENCE).unwrap();
    let (strategy, instrument) = (gate.strategy("alpha").unwrap(), gate.instrument("ACME").unwrap());
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (checker, board) = (gate.checker().unwrap(), &board);
            scope.spawn(move || admit_until_stopped(checker, strategy, instrument, board, thread));
        }
    });
}

fn admit_until_stopped(
    mut checker: Checker,
    strategy: StrategyId,
    instrument: InstrumentId,
    board: &[AtomicU64],
    thread: usize,
) {
    let own = &board[THREADS_AT + thread * PER_THREAD..];
    let count = |at: usize| own[at].store(own[at].load(Ordering::Relaxed) + 1, Ordering::Release);
    while board[STOP].load(Ordering::Relaxed) == 0 {
        let now = monotonic_ns();
        match checker.admit_at(now, strategy, instrument) {
            Ok(pass) => {
                own[LAST].store(now, Ordering::Relaxed);
                while thread == 0 && board[HOLD].load(Ordering::Relaxed) == 1 {
                    board[INSIDE].store(1, Ordering::Release);
                    std::thread::yield_now();
                }
                // The send. What is read here was there while the pass was held.
                let confirmed = board[CONFIRMED].load(Ordering::Acquire);
                drop(pass);
                if confirmed % 2 == 1 {
                    count(LATE);
                }
                count(ADMITTED);
            }
            Err(Closed::Mode { .. } | Closed::Lapsed { .. }) => {
                count(DENIED);
                std::thread::yield_now();
            }
            Err(other) => panic!("{other:?}"),
        }
    }
}

struct Gateway {
    child: Child,
    board: Words,
    _board_fd: OwnedFd,
}

impl Gateway {
    fn start(host: &Host) -> Gateway {
        let (board, fd) = Words::sealed("board", BOARD_WORDS).unwrap();
        let told = format!("{} {} {}", host.socket().display(), std::process::id(), fd.as_raw_fd());
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "gate_faults::gateway", "--test-threads=1"])
            .env("HALTLINE_FAULTS", told)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Gateway { child, board, _board_fd: fd }
    }

    fn admitting(host: &Host) -> Gateway {
        let gateway = Gateway::start(host);
        gateway.goes_on(ADMITTED, 100);
        gateway
    }

    fn all(&self, what: usize) -> impl Iterator<Item = u64> + '_ {
        (0..THREADS).map(move |t| self.board[THREADS_AT + t * PER_THREAD + what].load(Ordering::Acquire))
    }

    /// Waits until every thread has counted `more`.
    fn goes_on(&self, what: usize, more: u64) {
        let before: Vec<u64> = self.all(what).collect();
        until("the gateway's threads go on", || self.all(what).zip(&before).all(|(now, then)| now >= then + more));
    }

    fn admitted(&self) -> u64 {
        self.all(ADMITTED).sum()
    }

    fn nothing_was_late(&self) {
        assert_eq!(self.all(LATE).sum::<u64>(), 0, "a pass was held after the confirmation");
    }

    fn confirm(&self) {
        self.board[CONFIRMED].fetch_add(1, Ordering::SeqCst);
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        &self.board[at]
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([format!("-{name}"), pid.to_string()]).status().unwrap().success());
}

/// Stops every thread of a process, and waits until they stand.
pub fn stop(pid: u32) {
    signal(pid, "STOP");
    until("every thread stands", || {
        std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().all(|task| {
            let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
            stat.rsplit(") ").next().unwrap().starts_with('T')
        })
    });
}

fn gate_row(receipt: &Value) -> &Value {
    &receipt["gates"][0]
}

/// Presses kill for the strategy; says what there is to say after at most `wait_ms`.
fn press(daemon: &Daemon, wait_ms: u64) -> Value {
    let scope = json!({ "kind": "strategy", "name": "alpha" });
    let press = json!({ "scope": scope, "reason": "test", "wait_ms": wait_ms });
    let (status, receipt) = daemon.ask("olaf", "POST", "/v1/kill", Some(&press));
    assert_eq!(status, 200, "{receipt}");
    receipt
}

fn when_confirmed(daemon: &Daemon, receipt: &Value) -> Value {
    let path = format!("/v1/kills/{}", receipt["id"].as_str().unwrap());
    daemon.until("the receipt is confirmed", |d| d.get("olaf", &path)["status"] == "confirmed");
    daemon.get("olaf", &path)
}

fn rearm(daemon: &Daemon, receipt: &Value) {
    let rearm = json!({ "scope": receipt["scope"], "epoch": receipt["epoch"], "reason": "over" });
    let (status, body) = daemon.ask("rita", "POST", "/v1/rearm", Some(&rearm));
    // 202: lowered, and the disk has not said so yet. Everything starves here.
    assert!(matches!(status, 200 | 202) && body["status"] != "pending", "{status} {body}");
}

#[test]
fn a_haltline_stopped_at_any_moment_closes_its_gates_within_the_lease() {
    let host = Host::leasing(CONFIG, "");
    let gateway = Gateway::admitting(&host);
    let mut dice = Dice(5);
    for _ in 0..10 {
        gateway.goes_on(ADMITTED, 1 + dice.below(5_000));
        stop(host.daemon.pid());
        let stopped = monotonic_ns();
        until("the lease is over", || monotonic_ns() > stopped + LEASE_NS);
        gateway.goes_on(DENIED, 100);
        let admitted = gateway.admitted();
        // The last renewal was before the stop: no admission was made with a clock beyond its end.
        for last in gateway.all(LAST) {
            assert!(last <= stopped + LEASE_NS, "{} ns after the stop", last - stopped);
        }
        gateway.goes_on(DENIED, 1_000);
        assert_eq!(gateway.admitted(), admitted, "it opened by itself");
        host.daemon.signal("CONT");
        gateway.goes_on(ADMITTED, 1);
    }
}

#[test]
fn a_halt_raised_on_the_page_of_a_stopped_haltline_holds_when_it_goes_on() {
    let host = Host::leasing(CONFIG, "");
    let gateway = Gateway::admitting(&host);
    stop(host.daemon.pid());
    HaltPage::open(&host.dir.path().join("gate/page"), None).unwrap().raise(0, Mode::Halted);
    gateway.goes_on(DENIED, 10);
    let admitted = gateway.admitted();
    host.daemon.signal("CONT");
    host.daemon.until("haltline has seen it", |d| d.mode("firm", "") == "halted");
    gateway.goes_on(DENIED, 1_000);
    assert_eq!(gateway.admitted(), admitted, "the gates opened under a halt");
}

#[test]
fn a_gateway_killed_inside_a_pass_is_named_and_holds_no_kill_up() {
    let host = Host::leasing(CONFIG, "");
    let mut gateway = Gateway::admitting(&host);
    gateway.word(HOLD).store(1, Ordering::Release);
    until("a thread is inside", || gateway.word(INSIDE).load(Ordering::Acquire) == 1);
    let receipt = press(&host.daemon, 0);
    assert_eq!(receipt["status"], "unconfirmed", "{receipt}");
    assert_eq!(gate_row(&receipt)["status"], "inside", "{receipt}");
    gateway.child.kill().unwrap();
    gateway.child.wait().unwrap();
    let receipt = when_confirmed(&host.daemon, &receipt);
    assert_eq!(gate_row(&receipt)["status"], "died_inside", "{receipt}");
    assert_eq!(gate_row(&receipt)["died_inside"], 1, "{receipt}");
    // The next one finds its slots free, and the halt in force.
    let gateway = Gateway::start(&host);
    gateway.goes_on(DENIED, 100);
    assert_eq!(gateway.admitted(), 0);
    rearm(&host.daemon, &receipt);
    gateway.goes_on(ADMITTED, 100);
    let receipt = when_confirmed(&host.daemon, &press(&host.daemon, 5_000));
    assert_eq!(gate_row(&receipt)["status"], "confirmed", "{receipt}");
}

/// Processes that take all the time there is.
struct Hogs(Vec<Child>);

impl Hogs {
    fn start(count: usize) -> Hogs {
        let hog = || Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        Hogs((0..count).map(|_| hog()).collect())
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        for hog in &mut self.0 {
            let _ = hog.kill();
            let _ = hog.wait();
        }
    }
}

#[test]
fn nothing_is_admitted_after_a_confirmation_while_all_are_starved_and_stopped_in_turn() {
    let host = Host::leasing(CONFIG, "");
    let gateway = Gateway::admitting(&host);
    let _hogs = Hogs::start(4);
    let mut dice = Dice(11);
    let (mut inside, begin) = (0, Instant::now());
    for round in 0..40 {
        gateway.goes_on(ADMITTED, 1 + dice.below(500));
        let (gateway_stands, haltline_stood) = (dice.below(2) == 0, dice.below(4) == 0);
        if gateway_stands {
            stop(gateway.child.id());
        }
        if haltline_stood {
            stop(host.daemon.pid());
            host.daemon.signal("CONT");
        }
        let mut receipt = press(&host.daemon, 200);
        if gateway_stands {
            if gate_row(&receipt)["status"] == "inside" {
                inside += 1;
                assert_eq!(receipt["status"], "unconfirmed", "{receipt}");
            } else {
                // It stands outside of every pass: what it does when it goes on comes after the confirmation.
                gateway.confirm();
            }
            signal(gateway.child.id(), "CONT");
        }
        if gateway.word(CONFIRMED).load(Ordering::Relaxed).is_multiple_of(2) {
            receipt = when_confirmed(&host.daemon, &receipt);
            gateway.confirm();
        }
        gateway.goes_on(DENIED, 20);
        gateway.nothing_was_late();
        gateway.confirm();
        rearm(&host.daemon, &receipt);
        if round >= 8 && begin.elapsed() > Duration::from_secs(20) {
            break;
        }
    }
    println!("{inside} kills found the gateway stopped inside a pass");
}

#[test]
fn a_haltline_killed_at_any_moment_leaves_its_gates_closed_until_somebody_rearms() {
    let mut host = Host::leasing(CONFIG, "");
    let mut dice = Dice(3);
    let mut gateway = Gateway::admitting(&host);
    for _ in 0..3 {
        gateway.goes_on(ADMITTED, 1 + dice.below(5_000));
        let receipt = press(&host.daemon, 5_000);
        let Host { daemon, dir } = host;
        let files = daemon.sigkill();
        let killed = monotonic_ns();
        gateway.goes_on(DENIED, 100);
        host = Host { daemon: Daemon::run(files), dir };
        assert_eq!(host.daemon.mode("strategy", "alpha"), "halted", "the halt is lost");
        let admitted = gateway.admitted();
        gateway.goes_on(DENIED, 1_000);
        assert_eq!(gateway.admitted(), admitted, "a restart opened the gates");
        for last in gateway.all(LAST) {
            assert!(last <= killed + LEASE_NS, "{} ns after its end", last - killed);
        }
        drop(gateway);
        gateway = Gateway::start(&host);
        gateway.goes_on(DENIED, 100);
        assert_eq!(gateway.admitted(), 0, "a new gateway found the gates open");
        let state = host.daemon.get("vera", "/v1/state");
        let halt = |kind: &str| {
            let halts = state["halts"].as_array().unwrap();
            halts.iter().find(|h| h["scope"]["kind"] == kind).unwrap_or_else(|| panic!("{kind}: {state}")).clone()
        };
        assert_eq!(halt("strategy")["epoch"], receipt["epoch"]);
        rearm(&host.daemon, &halt("strategy"));
        gateway.goes_on(ADMITTED, 100);
    }
}
