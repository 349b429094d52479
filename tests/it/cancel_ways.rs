//! Cancels at the real service by ways that are not one instruction an order to a session that is there: one for all over shared
//! memory, when a session has gone, and none at all for a drill.

use haltline::model::cancel::{Instruct, Instruction};
use haltline::model::{Event, EventKind, Scope};
use serde_json::{Value, json};

use crate::c_client::attached;
use crate::drill::rehearsed;
use crate::flat::flat_when;
use crate::gate::{Gateway as Gate, Host, PATIENT, until};
use crate::support::cc::Language;
use crate::support::{Daemon, Gateway, LIMITS, PATIENCE, block_on, config, haltline, token};

impl Gate {
    /// Orders that work, of this gateway's strategy or of another one.
    fn working(&mut self, strategy: &str, orders: usize) -> Vec<Event> {
        let strategy = self.gate.strategy(strategy).unwrap();
        let one = |gate: &mut Gate| {
            let order = Event { strategy, ..gate.order(1) };
            gate.asker.ask(&order, PATIENCE).map(drop).unwrap();
            gate.asker.report(&Event { kind: EventKind::Ack, ..order }).unwrap();
            order
        };
        (0..orders).map(|_| one(self)).collect()
    }

    fn canceled(&mut self, orders: &[Event]) {
        for order in orders {
            self.asker.report(&Event { kind: EventKind::Canceled, ..*order }).unwrap();
        }
    }

    fn next_instruction(&mut self) -> Instruction {
        let mut told = None;
        until("it is told", || {
            told = self.asker.instruction().unwrap();
            told.is_some()
        });
        told.unwrap()
    }
}

fn working_orders(daemon: &Daemon) -> Value {
    daemon.get("vera", "/v1/state")["totals"]["working_orders"].clone()
}

#[test]
fn a_gate_that_takes_it_is_told_once_for_all_and_then_for_what_it_left() {
    // Repeated when the test says so.
    let host = Host::start("[cancel]\nrepeat_after = \"1h\"\n");
    let mut gate = host.gateway();
    gate.asker.accept_mass_cancel().unwrap();
    let alpha = gate.working("alpha", 4);
    gate.working("beta", 2);
    let receipt = host.daemon.kill("strategy", "alpha", "runaway");
    let of = Scope::Strategy(gate.strategy);
    let told = gate.next_instruction();
    assert_eq!((told.scope, told.what), (of, Instruct::MassCancel));
    // The venue leaves one of them.
    gate.canceled(&alpha[..3]);
    host.daemon.until("three are canceled", |d| working_orders(d) == 3);
    let file = host.daemon.dir.path().join("haltline.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    // Once: there are three attempts in all, and the venue may take its time with the second.
    let soon = text.replace("repeat_after = \"1h\"", "repeat_after = \"1s\"\nattempts = 2\nretry_after = \"1h\"");
    std::fs::write(&file, soon).unwrap();
    let reload = json!({ "reason": "it takes too long" });
    let (status, reloaded) = host.daemon.ask("rita", "POST", "/v1/limits/reload", Some(&reload));
    assert_eq!(status, 200, "{reloaded}");
    let told = gate.next_instruction();
    let one = Instruct::Cancel { of: told.to, id: alpha[3].id, attempt: 2 };
    assert_eq!((told.scope, told.what), (of, one), "what is left is told one by one");
    gate.canceled(&alpha[3..]);
    let flat = flat_when(&host.daemon, &receipt, "flat");
    let told = &flat["instructions"];
    assert_eq!((&told["cancel"], &told["mass_cancel"]), (&json!(1), &json!(1)), "{flat}");
    assert_eq!(flat["ended"], json!({ "canceled": 4, "filled": 0, "otherwise": 0 }));
    // The other strategy's orders were nobody's to cancel.
    assert_eq!(working_orders(&host.daemon), 2);
    let more = gate.asker.instruction().unwrap();
    assert!(more.is_none_or(|more| more.what == Instruct::Disconnect), "{more:?}");
}

/// A service whose session `gw-1` is canceled when it is gone, by `gw-2`; `gw-3` is not.
fn with_cancel_on_disconnect(more: &str) -> Daemon {
    let dir = tempfile::tempdir().unwrap();
    let mut limits = LIMITS.to_owned();
    for name in ["gw-2", "gw-3"] {
        let hash = blake3::hash(token(name).as_bytes()).to_hex();
        limits += &format!("[sessions.{name}]\nkind = \"ask\"\ntoken_hash = \"{hash}\"\n");
    }
    let keys = "kind = \"ask\"\ncancel_on_disconnect = true\ndisconnect_grace = \"300ms\"\ncancel_via = \"gw-2\"\n";
    let text = config(&dir.path().join("state"), &(limits + more)).replacen("kind = \"ask\"\n", keys, 1);
    std::fs::write(dir.path().join("haltline.toml"), text).unwrap();
    let made = haltline(&["init", "--config", "haltline.toml"]).current_dir(dir.path()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Daemon::run(dir)
}

/// Connects, with these orders working.
async fn with_orders(daemon: &Daemon, session: &str, orders: usize) -> Gateway {
    let (mut gateway, _) = Gateway::connect(daemon, session).await;
    for n in 0..orders {
        let id = format!("{session}/{n}");
        assert_eq!(gateway.buy(&id, 1).await["verdict"], "admit");
        gateway.event(json!({ "type": "ack", "id": id })).await;
    }
    gateway
}

/// The halt of the session, if it is in force.
fn halt_of(daemon: &Daemon, session: &str) -> Option<Value> {
    let state = daemon.get("vera", "/v1/state");
    let halts = state["halts"].as_array().unwrap();
    halts.iter().find(|halt| halt["scope"] == json!({ "kind": "session", "name": session })).cloned()
}

#[test]
fn a_session_that_is_gone_is_halted_and_its_orders_are_canceled_by_the_one_that_may() {
    let daemon = with_cancel_on_disconnect("");
    let receipt = block_on(async {
        let one = with_orders(&daemon, "gw-1", 3).await;
        let mut two = with_orders(&daemon, "gw-2", 1).await;
        let three = with_orders(&daemon, "gw-3", 2).await;
        daemon.until("all work", |d| working_orders(d) == 6);
        // The one that is not to be canceled goes first: when the other is halted, it would have been.
        drop(three);
        drop(one);
        // The page comes first, then why.
        let cause = |halt: Value| halt["causes"][0]["trip"]["rule"].clone();
        daemon.until("it is halted", |d| halt_of(d, "gw-1").is_some_and(|halt| cause(halt) == "heartbeat_loss"));
        assert_eq!(halt_of(&daemon, "gw-3"), None, "nobody asked for it");
        let mut asked = Vec::new();
        while asked.len() < 3 {
            let told = two.next_of("cancel").await;
            assert_eq!((&told["session"], &told["scope"]["name"]), (&json!("gw-1"), &json!("gw-1")), "{told}");
            asked.push(told["id"].as_str().unwrap().to_owned());
        }
        asked.sort_unstable();
        assert_eq!(asked, ["gw-1/0", "gw-1/1", "gw-1/2"]);
        // Asked for is not done: until the session itself is back nobody knows, and it is said.
        let list = daemon.get("vera", "/v1/kills");
        let kills = list["kills"].as_array().unwrap();
        kills.iter().find(|kill| kill["scope"]["name"] == "gw-1").unwrap().clone()
    });
    let flat = flat_when(&daemon, &receipt, "remainder");
    assert_eq!((&flat["residual"], &flat["by_state"]["unknown"]), (&json!(3), &json!(3)), "{flat}");
    block_on(async {
        let (mut one, _) = Gateway::connect(&daemon, "gw-1").await;
        for n in 0..3 {
            one.event(json!({ "type": "canceled", "id": format!("gw-1/{n}") })).await;
        }
        daemon.until("it is flat", |d| halt_of(d, "gw-1").unwrap()["flat"]["status"] == "flat");
        // It is back, and stays halted until somebody re-arms it.
        let verdict = one.buy("again", 1).await;
        assert_eq!((&verdict["verdict"], &verdict["rule"]), (&json!("deny"), &json!("mode")), "{verdict}");
    });
    assert_eq!(working_orders(&daemon), 3, "the others' orders work on");
}

#[test]
fn a_gateway_on_shared_memory_whose_process_ends_is_halted_like_one_over_websocket() {
    let dir = tempfile::Builder::new().prefix("haltline-").tempdir_in("/dev/shm").unwrap();
    let gates = format!("[gate]\ndir = \"{}/gate\"\n{PATIENT}", dir.path().display());
    let host = Host { daemon: with_cancel_on_disconnect(&gates), dir };
    let mut gate = attached(&host, Language::C);
    for id in 1..=2 {
        gate.expect(&format!("ask 1 0 0 1 {id} 0 1 1000 600000"), "pass");
        gate.expect("asker_exit", "done");
    }
    host.daemon.until("both work", |d| working_orders(d) == 2);
    block_on(async {
        let (mut two, _) = Gateway::connect(&host.daemon, "gw-2").await;
        // Its process ends, and with it the gate: of a connection that ends the process may live on.
        drop(gate);
        for _ in 0..2 {
            let told = two.next_of("cancel").await;
            assert_eq!((&told["session"], &told["scope"]["kind"]), (&json!("gw-1"), &json!("session")), "{told}");
        }
    });
    assert_eq!(host.daemon.mode("session", "gw-1"), "halted");
}

#[test]
fn a_drill_cancels_nothing_and_is_refused_where_orders_work() {
    let drill = "[drill]\nsession = \"drill\"\nstrategy = \"drill\"\ninstrument = \"ACME\"\n[strategies.drill]\naccount = \"main\"\n\
                 [sessions.drill]\nkind = \"ask\"\nstrategies = [\"drill\"]\n";
    let daemon = Daemon::start(&format!("{drill}{LIMITS}"));
    let run = |body: Value| daemon.ask("rita", "POST", "/v1/drills", Some(&body));
    let told = block_on(async {
        let mut gateway = with_orders(&daemon, "gw-1", 3).await;
        daemon.until("they work", |d| working_orders(d) == 3);
        for scope in [
            json!({ "kind": "strategy", "name": "alpha" }),
            json!({ "kind": "instrument", "name": "ACME" }),
            json!({ "kind": "session", "name": "gw-1" }),
            json!({ "kind": "account", "name": "main" }),
            json!({ "kind": "firm", "name": "" }),
        ] {
            let (status, problem) = run(json!({ "reason": "weekly", "scope": scope }));
            assert_eq!((status, &problem["title"]), (409, &json!("Trading")), "{scope}: {problem}");
            assert!(problem["detail"].as_str().unwrap().contains("3 working orders"), "{problem}");
        }
        // Beside it the one that is made for it is rehearsed; this gateway has to obey that, too, so it is served meanwhile.
        let (_, told) = rehearsed(&daemon, &mut gateway, "weekly").await;
        // Everything that was told before the answer to this was told by now.
        gateway.buy("last", 1).await;
        told
    });
    let types: Vec<&str> = told.iter().map(|message| message["type"].as_str().unwrap()).collect();
    assert!(types.iter().all(|kind| ["mode", "applied", "verdict"].contains(kind)), "{types:?}");
    assert_eq!(working_orders(&daemon), 4, "no order was touched");
    assert_eq!(daemon.get("vera", "/v1/state")["halts"], json!([]));
    // Forced, it is a halt like any other while it lasts: what works is told to be canceled, and the evidence says it was forced.
    let (status, report) =
        run(json!({ "reason": "forced", "scope": { "kind": "strategy", "name": "alpha" }, "force": true }));
    assert_eq!((status, &report["observed"]["forced"]), (200, &json!(true)), "{report:#}");
    assert_eq!(daemon.mode("strategy", "alpha"), "normal");
}
