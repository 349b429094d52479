//! The gate against the real service: attach, ask, check, kill, stop, restart.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use haltline::duty::monotonic_ns;
use haltline::gate::hello::{TextSource, status};
use haltline::gate::page::Closed;
use haltline::gate::{Asker, AttachError, Denied, Gate};
use haltline::model::{Event, EventKind, Mode, OrdType, Rule, Scope, Side};
use haltline::units::{InstrumentId, OrdId, Px, Qty, SessionId, StrategyId};
use serde_json::json;

use crate::gate_faults::stop;
use crate::support::{Daemon, LIMITS, PATIENCE, token};

/// A service with a gate, whose shared files go with it.
pub struct Host {
    pub daemon: Daemon,
    pub dir: tempfile::TempDir,
}

/// A lease that outlasts any time for which a busy machine keeps the service waiting, for tests that are not about it.
pub const PATIENT: &str = "lease = \"10s\"\nlag = \"10s\"\n";

impl Host {
    /// With a lease that no test waits for.
    pub fn start(more: &str) -> Host {
        Host::leasing(PATIENT, more)
    }

    /// With `lease` as the keys of it.
    pub fn leasing(lease: &str, more: &str) -> Host {
        let dir = tempfile::Builder::new().prefix("haltline-").tempdir_in("/dev/shm").unwrap();
        let gate = format!("{LIMITS}\n[gate]\ndir = \"{}/gate\"\n{lease}{more}", dir.path().display());
        Host { daemon: Daemon::start(&gate), dir }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("gate/gate.sock")
    }

    /// Attaches; again if the engine was too late to be asked about it.
    pub fn attach(&self) -> Result<Gate, AttachError> {
        available(|| Gate::attach(&self.socket(), "gw-1", &token("gw-1"), "test 1", PATIENCE))
    }

    /// Attaches, and waits for the first lease.
    pub fn gateway(&self) -> Gateway {
        let gate = Arc::new(self.attach().unwrap());
        let (strategy, instrument) = (gate.strategy("alpha").unwrap(), gate.instrument("ACME").unwrap());
        let mut asker = gate.asker().unwrap();
        until("the lease is renewed", || asker.admit(strategy, instrument).is_ok());
        Gateway { gate, asker, strategy, instrument, ids: 0 }
    }
}

/// Tries again while haltline says that it cannot do it now.
fn available<T>(attempt: impl Fn() -> Result<T, AttachError>) -> Result<T, AttachError> {
    let begin = Instant::now();
    loop {
        match attempt() {
            Err(AttachError::Refused(status::UNAVAILABLE, _)) if begin.elapsed() < PATIENCE => {}
            result => return result,
        }
    }
}

pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::yield_now();
    }
}

pub struct Gateway {
    pub gate: Arc<Gate>,
    pub asker: Asker,
    pub strategy: StrategyId,
    pub instrument: InstrumentId,
    ids: u64,
}

impl Gateway {
    pub fn order(&mut self, qty: i64) -> Event {
        self.ids += 1;
        let mut order = Event::new(EventKind::New, SessionId(0), 0);
        order.id = OrdId(self.ids);
        order.strategy = self.strategy;
        order.instrument = self.instrument;
        order.side = Side::Buy;
        order.ord_type = OrdType::Limit;
        order.qty = Qty(qty);
        order.px = Px(1000);
        order
    }

    /// Asks until an order passes, where the lease is so short that it may lapse meanwhile: a busy machine keeps the service waiting.
    fn bought(&mut self, qty: i64) -> OrdId {
        let begin = Instant::now();
        loop {
            let order = self.order(qty);
            match self.asker.ask(&order, PATIENCE).map(drop) {
                Ok(()) => return order.id,
                Err(Denied::Closed(Closed::Lapsed { .. })) => {
                    assert!(begin.elapsed() < PATIENCE, "the gate stays closed")
                }
                Err(denied) => panic!("{denied:?}"),
            }
        }
    }

    /// Asks and drops the pass at once.
    pub fn buy(&mut self, qty: i64) -> Result<(), Denied> {
        let order = self.order(qty);
        self.asker.ask(&order, PATIENCE).map(drop)
    }
}

#[test]
fn orders_pass_or_are_denied_with_the_rule() {
    let host = Host::start("");
    let mut gateway = host.gateway();
    assert_eq!(gateway.buy(100), Ok(()));
    let Err(Denied::Verdict(denial)) = gateway.buy(1_001) else { panic!("a fat finger passed") };
    assert_eq!((denial.rule, denial.observed, denial.limit), (Rule::OrderQty, 1_001, 1_000));
    assert_eq!(denial.scope, Scope::Strategy(gateway.strategy));
    let working = |d: &Daemon, n: u32| {
        let metrics = d.get("vera", "/metrics");
        metrics.as_str().unwrap().lines().any(|line| line == format!("haltline_working_orders {n}"))
    };
    host.daemon.until("the order is counted", |d| working(d, 1));
    for (kind, exec) in [(EventKind::Ack, 0), (EventKind::Fill, 7)] {
        let event = Event { kind, id: OrdId(1), ref_id: exec, ..gateway.order(100) };
        gateway.asker.report(&event).unwrap();
    }
    host.daemon.until("the order is filled", |d| working(d, 0));
    assert!(matches!(gateway.gate.strategy("nobody"), Err(AttachError::Refused(status::UNKNOWN, _))));
}

#[test]
fn a_text_that_was_never_seen_is_an_alert_about_the_gates_session() {
    let host = Host::start("[guard.signatures]\nlearn = \"0s\"\n");
    let gate = host.attach().unwrap();
    gate.text(TextSource::Log, "SMARS: Power Peg disabled").unwrap();
    host.daemon.until("it is told", |d| d.get("vera", "/v1/alerts?kind=signature")["alerts"][0]["count"] == 1);
    let alert = host.daemon.get("vera", "/v1/alerts?kind=signature")["alerts"][0].clone();
    assert_eq!((&alert["severity"], &alert["scope"]["name"]), (&json!("critical"), &json!("gw-1")), "{alert}");
    assert!(alert["text"].as_str().unwrap().contains("Power Peg disabled"), "{alert}");
    assert!(matches!(gate.text(TextSource::Log, " "), Err(AttachError::Refused(status::MALFORMED, _))));
    assert!(gate.strategy("alpha").is_ok(), "a blank text ends nothing");
}

#[test]
fn a_kill_closes_the_gate_and_the_receipt_names_it() {
    let host = Host::start("");
    let mut gateway = host.gateway();
    gateway.buy(1).unwrap();
    let receipt = host.daemon.kill_confirmed("strategy", "alpha", "test");
    let row = &receipt["gates"][0];
    assert_eq!((row["session"].as_str(), row["status"].as_str()), (Some("gw-1"), Some("confirmed")), "{receipt}");
    assert_eq!(row["pid"], std::process::id());
    let closed = Closed::Mode {
        scope: Scope::Strategy(gateway.strategy),
        word: gateway.gate.page().word(Scope::Strategy(gateway.strategy)),
    };
    assert_eq!(gateway.asker.admit(gateway.strategy, gateway.instrument).map(drop), Err(closed));
    assert!(gateway.buy(1).is_err());
    let beta = gateway.gate.strategy("beta").unwrap();
    assert!(gateway.asker.admit(beta, gateway.instrument).is_ok(), "the other strategy goes on");
}

#[test]
fn a_pass_that_is_held_keeps_the_receipt_unconfirmed() {
    let host = Host::start("");
    let gateway = host.gateway();
    let mut checker = gateway.gate.checker().unwrap();
    let pass = checker.admit(gateway.strategy, gateway.instrument).unwrap();
    let press = json!({ "scope": { "kind": "firm", "name": "" }, "reason": "test", "wait_ms": 0 });
    let (_, receipt) = host.daemon.ask("olaf", "POST", "/v1/kill", Some(&press));
    assert_eq!((&receipt["status"], &receipt["missing"]["gates"]), (&json!("unconfirmed"), &json!(1)), "{receipt}");
    assert_eq!(receipt["gates"][0]["status"], "inside");
    drop(pass);
    let path = format!("/v1/kills/{}", receipt["id"].as_str().unwrap());
    host.daemon.until("the receipt is confirmed", |d| d.get("olaf", &path)["status"] == "confirmed");
}

#[test]
fn an_admission_from_before_a_halt_and_its_rearm_is_not_used() {
    let host = Host::start("");
    let mut gateway = host.gateway();
    let order = gateway.order(5);
    gateway.asker.submit(&order).unwrap();
    let mut answered = None;
    until("the verdict comes", || {
        answered = gateway.asker.poll().unwrap();
        answered.is_some()
    });
    let answered = answered.unwrap();
    assert_eq!(answered.verdict.denial, None);
    let receipt = host.daemon.kill("strategy", "alpha", "test");
    let rearm = json!({
        "scope": { "kind": "strategy", "name": "alpha" }, "epoch": receipt["epoch"], "reason": "over",
    });
    let (code, body) = host.daemon.ask("rita", "POST", "/v1/rearm", Some(&rearm));
    assert_eq!(code, 200, "{body}");
    assert_eq!(gateway.asker.pass(&answered).map(drop), Err(Denied::Closed(Closed::Changed)));
    // The order was withdrawn: nothing of it is counted.
    host.daemon.until("the order is not counted", |d| {
        let metrics = d.get("vera", "/metrics");
        metrics.as_str().unwrap().lines().any(|line| line == "haltline_working_orders 0")
    });
    assert_eq!(gateway.buy(1), Ok(()));
}

#[test]
fn a_frozen_haltline_closes_its_gates_within_the_lease() {
    const LEASE_NS: u64 = 50_000_000;
    let host = Host::leasing("lease = \"50ms\"\nlag = \"50ms\"\n", "");
    let mut gateway = host.gateway();
    let mut checker = gateway.gate.checker().unwrap();
    stop(host.daemon.pid());
    let frozen = monotonic_ns();
    // By the clock that the gate looks at, not by ours: this thread may be kept from looking for any time.
    let denied = loop {
        let now = monotonic_ns();
        match checker.admit_at(now, gateway.strategy, gateway.instrument).map(drop) {
            Ok(()) => assert!(now <= frozen + LEASE_NS, "open {} ns after it was frozen", now - frozen),
            Err(denied) => break denied,
        }
    };
    assert!(matches!(denied, Closed::Lapsed { .. }), "{denied:?}");
    host.daemon.signal("CONT");
    until("the gate opens", || gateway.asker.admit(gateway.strategy, gateway.instrument).is_ok());
    gateway.bought(1);
}

#[test]
fn a_kill_after_a_restart_is_not_confirmed_before_the_gates_of_the_run_before_are_back() {
    let host = Host::start("");
    let gateway = host.gateway();
    let Host { daemon, dir } = host;
    let host = Host { daemon: Daemon::run(daemon.sigkill()), dir };
    let mut checker = gateway.gate.checker().unwrap();
    // The gate has not connected, and opens: nobody but the page knows of it.
    until("the gate opens", || checker.admit(gateway.strategy, gateway.instrument).is_ok());
    let pass = checker.admit(gateway.strategy, gateway.instrument).unwrap();
    let press = json!({ "scope": { "kind": "strategy", "name": "alpha" }, "reason": "test", "wait_ms": 0 });
    let (_, receipt) = host.daemon.ask("olaf", "POST", "/v1/kill", Some(&press));
    assert_eq!((&receipt["status"], &receipt["missing"]["gates"]), (&json!("unconfirmed"), &json!(1)), "{receipt}");
    assert_eq!(
        (&receipt["gates"][0]["status"], &receipt["gates"][0]["pid"]),
        (&json!("unreached"), &json!(std::process::id()))
    );
    // Another gateway cannot take its place, and it comes back itself, whether it can go on there or not.
    let again = available(|| gateway.gate.reconnect(&host.socket(), "gw-1", &token("gw-1"), "test 1", PATIENCE));
    assert!(matches!(again, Ok(()) | Err(AttachError::Refused(status::BAD_REGION, _))), "{again:?}");
    let path = format!("/v1/kills/{}", receipt["id"].as_str().unwrap());
    host.daemon.until("it is seen to be inside", |d| d.get("olaf", &path)["gates"][0]["still_inside"] == 1);
    assert_eq!(host.daemon.get("olaf", &path)["status"], "unconfirmed");
    drop(pass);
    host.daemon.until("the receipt is confirmed", |d| d.get("olaf", &path)["status"] == "confirmed");
}

#[test]
fn strangers_and_second_gateways_are_refused() {
    let host = Host::start("");
    let attach = |session: &str, who: &str| Gate::attach(&host.socket(), session, &token(who), "", PATIENCE).err();
    assert!(matches!(attach("gw-1", "nobody"), Some(AttachError::Refused(status::NOT_ALLOWED, _))));
    assert!(matches!(attach("feed", "gw-1"), Some(AttachError::Refused(status::NOT_ALLOWED, _))));
    assert!(matches!(attach("feed", "feed"), Some(AttachError::Refused(status::NOT_ALLOWED, _))));
    let gateway = host.gateway();
    assert!(matches!(attach("gw-1", "gw-1"), Some(AttachError::Refused(status::IN_USE, _))));
    drop(gateway);
}

#[test]
fn the_page_can_be_read_and_not_written_by_a_gateway() {
    let host = Host::start("");
    let gateway = host.gateway();
    let page = host.dir.path().join("gate/page");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&page).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(gateway.gate.page().word(Scope::Firm).mode, Mode::Normal);
}

#[test]
fn a_haltline_that_was_killed_is_gone_on_with_where_it_was() {
    // Short enough that it is seen to lapse.
    let host = Host::leasing("lease = \"200ms\"\nlag = \"200ms\"\n", "");
    let mut gateway = host.gateway();
    let bought: Vec<OrdId> = (0..10).map(|_| gateway.bought(7)).collect();
    assert!(gateway.gate.is_connected());
    let Host { daemon, dir } = host;
    let files = daemon.sigkill();
    until("the connection ends", || !gateway.gate.is_connected());
    until("the gate closes", || gateway.asker.admit(gateway.strategy, gateway.instrument).is_err());
    // Reported while nobody serves: it waits in the lane.
    let fill = Event { kind: EventKind::Fill, id: bought[0], ref_id: 9, ..gateway.order(7) };
    gateway.asker.report(&fill).unwrap();

    let daemon = Daemon::run(files);
    assert_eq!(daemon.mode("firm", ""), "normal");
    let socket = dir.path().join("gate/gate.sock");
    available(|| gateway.gate.reconnect(&socket, "gw-1", &token("gw-1"), "test 2", PATIENCE)).unwrap();
    until("the gate opens", || gateway.asker.admit(gateway.strategy, gateway.instrument).is_ok());
    gateway.bought(7);
    let working = |n: u32| {
        let metrics = daemon.get("vera", "/metrics");
        metrics.as_str().unwrap().lines().any(|line| line == format!("haltline_working_orders {n}"))
    };
    until("all but the filled one are counted", || working(10));
    // A look-up goes over the new connection.
    assert_eq!(gateway.gate.strategy("alpha").unwrap(), gateway.strategy);
    let receipt = daemon.kill_confirmed("firm", "", "test");
    assert_eq!(receipt["gates"][0]["status"], "confirmed");
    assert!(gateway.buy(7).is_err());
}

#[test]
fn more_questions_than_answers_read_are_refused_and_none_is_lost() {
    let host = Host::start("events = 16\nverdicts = 64\n");
    let mut gateway = host.gateway();
    let (mut asked, mut answered, mut full) = (0, 0, false);
    until("the lane is full of unread answers", || {
        let order = gateway.order(1);
        match gateway.asker.submit(&order) {
            Ok(_) => asked += 1,
            Err(denied) => {
                assert_eq!(denied, Denied::Full);
                full = asked >= 16;
            }
        }
        full
    });
    until("every answer is read", || {
        answered += u32::from(gateway.asker.poll().unwrap().is_some());
        answered == asked
    });
    assert_eq!(gateway.buy(1), Ok(()));
}
