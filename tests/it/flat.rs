//! From halted to flat, by the real program: gateways that obey, whose venue refuses or says nothing, that die, that race.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::mpsc;
use std::thread::JoinHandle;

use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::support::{Daemon, Gateway, LIMITS, PATIENCE, block_on, receipt_when, token};

/// What becomes of an order that a gateway is told to cancel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Venue {
    Cancels,
    Refuses,
    SaysNothing,
    /// An execution was faster.
    Fills,
    /// The gateway dies after so many instructions.
    Loses(usize),
    /// The gateway takes one instruction for all.
    CancelsAll,
}

/// What a gateway has heard.
#[derive(Debug, Default)]
struct Heard {
    cancels: usize,
    /// The orders of these.
    orders: BTreeSet<String>,
    mass_cancels: usize,
    disconnects: usize,
    /// Orders that it was told to cancel after it had been told that their strategy may trade again.
    late: Vec<String>,
}

/// A gateway on a thread of its own.
struct Running {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Heard>,
}

impl Running {
    /// Connects as `session`, has `orders` working, and does what it is told from then on.
    fn start(daemon: &Daemon, session: &'static str, orders: usize, venue: Venue) -> Running {
        let (ready, is_ready) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let ws = daemon.ws.clone();
        let thread = std::thread::spawn(move || {
            block_on(async move {
                let mass_cancel = u8::from(venue == Venue::CancelsAll);
                let hello = json!({ "type": "hello", "mass_cancel": mass_cancel });
                let (mut gateway, _) = Gateway::connect_to(&ws, session, hello).await;
                for n in 0..orders {
                    gateway.event(order(&format!("{session}/{n}"))).await;
                    gateway.event(json!({ "type": "ack", "id": format!("{session}/{n}") })).await;
                }
                let mut admitted = 0;
                while admitted < orders {
                    let verdict = gateway.verdict().await;
                    assert_eq!(verdict["verdict"], "admit", "{verdict}");
                    admitted += 1;
                }
                ready.send(()).unwrap();
                obey(&mut gateway, venue, (session, orders), stopped).await
            })
        });
        is_ready.recv_timeout(PATIENCE).expect("the orders to be admitted");
        Running { stop, thread }
    }

    fn stop(self) -> Heard {
        let _ = self.stop.send(());
        self.thread.join().unwrap()
    }
}

fn order(id: &str) -> Value {
    json!({
        "type": "new", "strategy": "alpha", "instrument": "ACME", "id": id, "side": "buy", "ord_type": "limit", "qty": 1,
        "px": "10.00",
    })
}

async fn obey(
    gateway: &mut Gateway,
    venue: Venue,
    (session, orders): (&str, usize),
    mut stopped: oneshot::Receiver<()>,
) -> Heard {
    let mut heard = Heard::default();
    let mut halted = true;
    // What it asks last: whatever it was told before the answer to that it has heard by then.
    let mut last = None;
    loop {
        let message = tokio::select! {
            message = gateway.next_if_open() => message.expect("an open connection"),
            _ = &mut stopped, if last.is_none() => {
                gateway.event(order(&format!("{session}/last"))).await;
                last = Some(gateway.seq);
                continue;
            }
        };
        match message["type"].as_str().unwrap() {
            "mode" => {
                for scope in message["scopes"].as_array().unwrap() {
                    if scope["kind"] == "strategy" {
                        halted = scope["mode"] == "halted";
                    }
                }
            }
            "cancel" => {
                let id = message["id"].as_str().unwrap().to_owned();
                heard.cancels += 1;
                heard.orders.insert(id.clone());
                if message["scope"]["kind"] == "strategy" && !halted {
                    heard.late.push(id.clone());
                }
                if venue == Venue::SaysNothing {
                    continue;
                }
                if matches!(venue, Venue::Loses(most) if heard.cancels > most) {
                    // What it said before it dies has arrived: of the rest nobody knows.
                    gateway.until_taken().await;
                    return heard;
                }
                let request = format!("cancel of {id}");
                gateway.event(json!({ "type": "cancel", "id": request, "orig_id": id })).await;
                gateway.event(outcome(venue, &id, &request, heard.cancels)).await;
            }
            "mass_cancel" => {
                heard.mass_cancels += 1;
                for n in 0..orders {
                    gateway.event(json!({ "type": "canceled", "id": format!("{session}/{n}") })).await;
                }
            }
            "disconnect_request" => heard.disconnects += 1,
            "verdict" if last.is_some_and(|last| message["seq"] == last) => return heard,
            _ => {}
        }
    }
}

fn outcome(venue: Venue, id: &str, request: &str, nth: usize) -> Value {
    match venue {
        Venue::Refuses => json!({ "type": "cancel_rejected", "id": request, "orig_id": id }),
        Venue::Fills => json!({
            "type": "fill", "strategy": "alpha", "instrument": "ACME", "side": "buy", "id": id,
            "exec_id": format!("x{nth}"), "qty": 1, "px": "10.00",
        }),
        Venue::Cancels | Venue::CancelsAll | Venue::SaysNothing | Venue::Loses(_) => {
            json!({ "type": "canceled", "id": id })
        }
    }
}

/// No rates, two more gateways, and cancels that are told once, however slow the gateways are to answer.
fn limits() -> String {
    limits_repeating("1h")
}

/// As [`limits`], with cancels that are told twice, this long after each other, if nothing comes of them.
fn limits_repeating(after: &str) -> String {
    let mut text =
        LIMITS.lines().filter(|line| !line.starts_with("order_rate")).fold(String::new(), |mut text, line| {
            let _ = writeln!(text, "{line}");
            text
        });
    for name in ["gw-2", "gw-3"] {
        let hash = blake3::hash(token(name).as_bytes()).to_hex();
        let _ = writeln!(text, "[sessions.{name}]\nkind = \"ask\"\ntoken_hash = \"{hash}\"");
    }
    text + &format!("[cancel]\nrepeat_after = \"{after}\"\nattempts = 2\nretry_after = \"1h\"\n")
}

/// The receipt's part about cancels, once it is `status`. What is left is named if the engine was not too late to be asked.
pub fn flat_when(daemon: &Daemon, receipt: &Value, status: &str) -> Value {
    let holds = |receipt: &Value| {
        let flat = &receipt["flat"];
        flat["status"] == status && (status != "remainder" || flat["remainder"].is_array())
    };
    receipt_when(&daemon.http, receipt.clone(), holds)["flat"].clone()
}

#[test]
fn a_kill_with_a_thousand_orders_in_three_sessions_ends_flat() {
    let daemon = Daemon::start(&limits());
    let gateways: Vec<Running> = [("gw-1", 334), ("gw-2", 333), ("gw-3", 333)]
        .map(|(session, orders)| Running::start(&daemon, session, orders, Venue::Cancels))
        .into();
    // In which sessions is known if the engine was not too late to be asked.
    let preview = |of: &str| {
        let path = format!("/v1/kill/preview?kind={of}");
        let shown = RefCell::default();
        daemon.until("all are shown", |daemon| {
            shown.replace(daemon.get("vera", &path));
            let shown: std::cell::Ref<'_, Value> = shown.borrow();
            shown["working_orders"] == 1_000 && shown["sessions_complete"] == true
        });
        shown.into_inner()
    };
    let all = preview("firm");
    assert_eq!(all["text"], "cancels 1000 working orders in 3 sessions; positions stay as they are");
    // Of any other scope as well, though far from all of its orders are named.
    let of_alpha = preview("strategy&name=alpha");
    assert_eq!(of_alpha["text"], all["text"], "{of_alpha}");
    assert_eq!(of_alpha["sessions"][0], json!({ "name": "gw-1", "working_orders": 334, "connected": true }));
    let receipt = daemon.kill("firm", "", "rehearsal");
    let flat = flat_when(&daemon, &receipt, "flat");
    assert_eq!((&flat["residual"], &flat["orders_at_halt"]), (&json!(0), &json!(1_000)), "{flat}");
    assert_eq!(flat["ended"], json!({ "canceled": 1_000, "filled": 0, "otherwise": 0 }));
    assert_eq!(flat["instructions"], json!({ "cancel": 1_000, "mass_cancel": 0, "disconnect": 0 }));
    assert!(flat["flat_ns"].as_u64().unwrap() >= flat["last_end_ns"].as_u64().unwrap(), "{flat}");
    let state = daemon.get("vera", "/v1/state");
    assert_eq!(state["halts"][0]["flat"]["residual"], 0, "{state}");
    assert_eq!(gateways.into_iter().map(|gateway| gateway.stop().cancels).sum::<usize>(), 1_000, "each order once");
}

#[test]
fn a_gateway_that_takes_it_is_told_once_for_all_its_orders() {
    let daemon = Daemon::start(&limits());
    let gateway = Running::start(&daemon, "gw-1", 300, Venue::CancelsAll);
    let receipt = daemon.kill("account", "main", "runaway");
    let flat = flat_when(&daemon, &receipt, "flat");
    assert_eq!(flat["instructions"], json!({ "cancel": 0, "mass_cancel": 1, "disconnect": 0 }), "{flat}");
    assert_eq!(flat["ended"]["canceled"], 300);
    let heard = gateway.stop();
    assert_eq!((heard.cancels, heard.mass_cancels), (0, 1));
    assert_eq!(daemon.get("vera", "/v1/state")["totals"]["anomalies"], json!({}), "it was asked for");
}

#[test]
fn the_command_line_waits_for_flat_and_fails_with_what_is_left() {
    let daemon = Daemon::start(&limits());
    let kill = |scope: &str| {
        let args = [
            "kill",
            "--config",
            "haltline.toml",
            "--json",
            "--timeout",
            "60000",
            "--wait-flat",
            "300",
            "--scope",
            scope,
        ];
        let out = daemon.haltline(&args);
        let said: Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|error| panic!("{error}: {out:?}"));
        (out.status.code(), said, String::from_utf8(out.stderr).unwrap())
    };
    let gateway = Running::start(&daemon, "gw-1", 30, Venue::Cancels);
    let (mut code, mut said, mut progress) = kill("session:gw-1");
    // It is flat then, though the disk may take longer than a press waits.
    while said["outcome"] == "unconfirmed" {
        (code, said, progress) = kill("session:gw-1");
    }
    assert_eq!((code, &said["outcome"], &said["flat"]["flat"]), (Some(0), &json!("confirmed"), &json!(true)), "{said}");
    assert!(progress.contains("FLAT after"), "{progress}");
    daemon.until("they are canceled", |d| {
        d.get("vera", "/metrics").to_string().contains("haltline_cancel_ended_total{how=\\\"canceled\\\"} 30")
    });
    let refusing = Running::start(&daemon, "gw-2", 2, Venue::Refuses);
    // The names are there if the engine was not too late to be asked; and the disk may take longer than a press waits.
    let begin = std::time::Instant::now();
    let (code, said, progress) = loop {
        let (code, said, progress) = kill("firm");
        let is_named = said["flat"]["why"].as_str().is_some_and(|why| why.contains("(refused)"));
        if is_named && said["outcome"] == "confirmed" || begin.elapsed() > PATIENCE {
            break (code, said, progress);
        }
    };
    assert_eq!(
        (code, &said["outcome"], &said["flat"]["flat"]),
        (Some(1), &json!("confirmed"), &json!(false)),
        "{said}"
    );
    let why = said["flat"]["why"].as_str().unwrap();
    assert!(why.contains("gw-2 gw-2/0 (refused)") && why.contains("gw-2/1"), "{why}");
    assert!(progress.contains("remainder: 2 of 2 orders work: 2 refused"), "{progress}");
    assert_eq!((gateway.stop().orders.len(), refusing.stop().orders.len()), (30, 2));
}

#[test]
fn what_the_venue_refuses_is_the_named_remainder() {
    let daemon = Daemon::start(&limits());
    let (one, two) =
        (Running::start(&daemon, "gw-1", 3, Venue::Refuses), Running::start(&daemon, "gw-2", 5, Venue::Cancels));
    let receipt = daemon.kill("strategy", "alpha", "runaway");
    let flat = flat_when(&daemon, &receipt, "remainder");
    assert_eq!((&flat["residual"], &flat["by_state"]["refused"]), (&json!(3), &json!(3)), "{flat}");
    let mut ids: Vec<&str> = Vec::new();
    for order in flat["remainder"].as_array().unwrap() {
        assert_eq!((&order["session"], &order["state"]), (&json!("gw-1"), &json!("refused")));
        ids.push(order["id"].as_str().unwrap());
    }
    ids.sort_unstable();
    assert_eq!(ids, ["gw-1/0", "gw-1/1", "gw-1/2"]);
    assert_eq!((one.stop().cancels, two.stop().cancels), (3, 5));
}

#[test]
fn a_venue_that_says_nothing_is_asked_again_and_then_to_be_cut_off() {
    let daemon = Daemon::start(&limits_repeating("200ms"));
    let gateway = Running::start(&daemon, "gw-1", 4, Venue::SaysNothing);
    let receipt = daemon.kill("firm", "", "runaway");
    let flat = flat_when(&daemon, &receipt, "remainder");
    assert_eq!((&flat["residual"], &flat["by_state"]["unanswered"]), (&json!(4), &json!(4)), "{flat}");
    assert_eq!(flat["instructions"], json!({ "cancel": 8, "mass_cancel": 0, "disconnect": 1 }));
    assert_eq!(flat["flat_ns"], Value::Null);
    let heard = gateway.stop();
    assert_eq!((heard.cancels, heard.disconnects), (8, 1));
}

#[test]
fn orders_of_a_session_that_dies_are_unknown_until_it_is_back() {
    let daemon = Daemon::start(&limits());
    let gateway = Running::start(&daemon, "gw-1", 10, Venue::Loses(4));
    let receipt = daemon.kill("firm", "", "runaway");
    let flat = flat_when(&daemon, &receipt, "remainder");
    assert_eq!((&flat["residual"], &flat["by_state"]["unknown"]), (&json!(6), &json!(6)), "{flat}");
    assert_eq!(flat["remainder"][0]["id"].as_str().unwrap().split('/').next(), Some("gw-1"), "by its own name");
    gateway.thread.join().unwrap();
    let gateway = Running::start(&daemon, "gw-1", 0, Venue::Cancels);
    let flat = flat_when(&daemon, &receipt, "flat");
    assert_eq!(flat["ended"]["canceled"], 10, "{flat}");
    assert_eq!(gateway.stop().cancels, 6);
}

#[test]
fn fills_that_are_faster_than_the_cancel_are_booked_and_counted() {
    let daemon = Daemon::start(&limits());
    let gateway = Running::start(&daemon, "gw-1", 20, Venue::Fills);
    let receipt = daemon.kill("firm", "", "runaway");
    let flat = flat_when(&daemon, &receipt, "flat");
    assert_eq!(flat["ended"], json!({ "canceled": 0, "filled": 20, "otherwise": 0 }), "{flat}");
    let state = daemon.get("vera", "/v1/state");
    assert_eq!(state["totals"]["events"]["fill"], 20, "{state}");
    daemon.until("the position is shown", |daemon| {
        daemon.get("vera", "/v1/kill/preview?kind=instrument&name=ACME")["net_long"] == "200"
    });
    gateway.stop();
}

#[test]
fn nothing_is_told_for_a_halt_that_the_gateway_knows_to_be_over() {
    let daemon = Daemon::start(&limits_repeating("200ms"));
    let gateway = Running::start(&daemon, "gw-1", 300, Venue::SaysNothing);
    let scope = json!({ "kind": "strategy", "name": "alpha" });
    for _ in 0..20 {
        let receipt = daemon.kill("strategy", "alpha", "race");
        let body = json!({ "scope": scope, "epoch": receipt["epoch"], "reason": "race", "wait_ms": 0 });
        let (status, rearmed) = daemon.ask("rita", "POST", "/v1/rearm", Some(&body));
        assert!(status == 200 || status == 202, "{rearmed}");
    }
    // The kill that comes last wins: all of them, once more.
    let receipt = daemon.kill("strategy", "alpha", "for good");
    let flat = flat_when(&daemon, &receipt, "remainder");
    assert_eq!(flat["by_state"]["unanswered"], 300, "{flat}");
    assert_eq!(flat["instructions"]["cancel"], 600);
    let heard = gateway.stop();
    assert_eq!(heard.late, Vec::<String>::new(), "canceled after trading was allowed again");
}

#[test]
fn a_restart_half_way_begins_the_cancels_again() {
    let daemon = Daemon::start(&limits());
    let gateway = Running::start(&daemon, "gw-1", 50, Venue::Loses(20));
    daemon.kill("firm", "", "runaway");
    gateway.thread.join().unwrap();
    let halt = |daemon: &Daemon| daemon.get("vera", "/v1/state")["halts"][0]["flat"].clone();
    // What it said last may not have been read yet, and would be lost with the process.
    daemon.until("what it canceled is booked", |daemon| halt(daemon)["ended"]["canceled"] == 20);
    let daemon = Daemon::run(daemon.sigkill());
    daemon.until("they are unknown", |daemon| halt(daemon)["by_state"]["unknown"] == 30);
    let gateway = Running::start(&daemon, "gw-1", 0, Venue::Cancels);
    daemon.until("it is flat", |daemon| halt(daemon)["status"] == "flat");
    assert_eq!(halt(&daemon)["ended"]["canceled"], 50, "{}", halt(&daemon));
    assert_eq!(gateway.stop().cancels, 30);
    let out = daemon.terminate().0;
    assert!(out.success());
}
