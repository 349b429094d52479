//! The rehearsal of the switch on the real program: what it proves, what it leaves, and that a real halt comes first.

use std::time::Instant;

use serde_json::{Value, json};

use crate::support::{Daemon, Gateway, LIMITS, PATIENCE, ask, block_on};

/// [`LIMITS`], and a session and a strategy that rehearse.
fn with_drill(more: &str) -> String {
    format!(
        "[drill]\nsession = \"drill\"\nstrategy = \"drill\"\ninstrument = \"ACME\"\n[strategies.drill]\naccount = \"main\"\n\
         [sessions.drill]\nkind = \"ask\"\nstrategies = [\"drill\"]\n{more}\n{LIMITS}"
    )
}

fn drill(daemon: &Daemon, body: &Value) -> (u16, Value) {
    daemon.ask("rita", "POST", "/v1/drills", Some(body))
}

/// Rehearses until it is passed: a step that this machine takes longer for than three seconds is called failed, and what a rehearsal
/// has sent may be shown after its end.
fn passed(daemon: &Daemon) -> Value {
    let begin = Instant::now();
    loop {
        let (status, report) = drill(daemon, &json!({ "reason": "monthly" }));
        if report["passed"] == true {
            assert_eq!(status, 200);
            return report;
        }
        let is_shown_late = status == 409 && report["type"] == "urn:haltline:problem:trading";
        assert!(status == 200 || is_shown_late, "{status}: {report:#}");
        assert!(begin.elapsed() < PATIENCE, "{report:#}");
    }
}

/// As [`passed`], with a gateway that obeys meanwhile; the report, and what the gateway was told.
pub async fn rehearsed(daemon: &Daemon, gateway: &mut Gateway, reason: &'static str) -> (Value, Vec<Value>) {
    let (begin, mut told) = (Instant::now(), Vec::new());
    loop {
        let http = daemon.http.clone();
        let ran = tokio::task::spawn_blocking(move || {
            ask(&http, "rita", "POST", "/v1/drills", Some(&json!({ "reason": reason })))
        });
        let mut ran = std::pin::pin!(ran);
        let (status, report) = loop {
            tokio::select! {
                ran = &mut ran => break ran.unwrap(),
                message = gateway.next_if_open() => told.push(message.expect("an open connection")),
            }
        };
        if report["passed"] == true {
            assert_eq!(status, 200);
            return (report, told);
        }
        let is_shown_late = status == 409 && report["type"] == "urn:haltline:problem:trading";
        assert!(status == 200 || is_shown_late, "{status}: {report:#}");
        assert!(begin.elapsed() < PATIENCE, "{report:#}");
    }
}

#[test]
fn a_drill_halts_denies_and_takes_it_back_and_files_the_evidence() {
    let daemon = Daemon::start(&with_drill(""));
    let metrics = daemon.get("vera", "/metrics").as_str().unwrap().to_owned();
    assert!(metrics.contains("haltline_drill_last_passed_timestamp_seconds 0\n"), "never rehearsed");
    let report = passed(&daemon);
    let observed = &report["observed"];
    assert_eq!((&observed["before"], &observed["after"]), (&json!("admitted"), &json!("admitted")));
    assert_eq!(observed["during"]["denied"]["rule"], "mode", "{report:#}");
    assert_eq!(observed["during"]["denied"]["at"], json!({ "kind": "strategy", "name": "drill" }));
    assert_eq!(observed["left"], "lowered");
    // No gateway was there to obey, and the drill says so.
    assert!(report["not_proved"].to_string().contains("gate obeys"), "{report:#}");
    assert_eq!(daemon.mode("strategy", "drill"), "normal");
    daemon.until("nothing of it is working", |d| d.get("vera", "/v1/state")["totals"]["working_orders"] == 0);
    let dir = daemon.dir.path().join("state/drills");
    let id = report["id"].as_str().unwrap();
    let page = std::fs::read_to_string(dir.join(format!("{id}.md"))).unwrap();
    assert!(page.contains("passed") && page.contains("rita") && page.contains("## Proved"), "{page}");
    assert!(dir.join(format!("{id}.json")).exists());
    assert_eq!(daemon.get("vera", &format!("/v1/drills/{id}")), report);
    // It is filed: nobody is asked to answer for what is as it should be.
    // But for a rehearsal that this machine was too slow for.
    let alerts = || {
        let all = daemon.get("vera", "/v1/alerts")["alerts"].as_array().unwrap().clone();
        all.into_iter().filter(|alert| alert["name"] != "drill_not_passed").collect::<Vec<_>>()
    };
    daemon.until("all of it is filed", |_| alerts().len() >= 2);
    for alert in alerts() {
        assert_eq!((&alert["kind"], &alert["severity"]), (&json!("drill"), &json!("info")), "{alert}");
    }
    // And again, and after a restart, with orders whose ids are new.
    passed(&daemon);
    let daemon = Daemon::run(daemon.terminate().1);
    assert_eq!(daemon.mode("strategy", "drill"), "normal");
    let list = daemon.get("vera", "/v1/drills");
    assert_eq!(list["drills"].as_array().unwrap().iter().filter(|one| one["passed"] == true).count(), 2, "{list}");
    assert!(list["last_passed"].is_string(), "{list}");
    passed(&daemon);
    let metrics = daemon.get("vera", "/metrics").as_str().unwrap().to_owned();
    assert!(!metrics.contains("haltline_drill_last_passed_timestamp_seconds 0\n"));
}

#[test]
fn a_gateway_that_is_connected_has_to_obey_too() {
    let daemon = Daemon::start(&with_drill(""));
    block_on(async {
        let (mut gateway, _) = Gateway::connect(&daemon, "gw-1").await;
        assert_eq!(gateway.buy("1", 1).await["verdict"], "admit");
        // It is told of the halt, and confirms.
        let (report, told) = rehearsed(&daemon, &mut gateway, "with company").await;
        assert!(told.iter().any(|message| message["type"] == "mode"), "{told:?}");
        assert_eq!(report["observed"]["sessions"], json!([1, 1]));
        // Its own strategy traded on.
        assert_eq!(gateway.buy("2", 1).await["verdict"], "admit");
    });
}

#[test]
fn what_is_no_rehearsal_is_refused_before_anything_is_halted() {
    let daemon = Daemon::start(&with_drill(""));
    let refused = |body: Value, status: u16, kind: &str| {
        let (got, problem) = drill(&daemon, &body);
        assert_eq!((got, &problem["type"]), (status, &json!(format!("urn:haltline:problem:{kind}"))), "{problem}");
    };
    assert_eq!(daemon.ask("olaf", "POST", "/v1/drills", Some(&json!({ "reason": "r" }))).0, 403);
    refused(json!({ "reason": " " }), 422, "invalid-field");
    block_on(async {
        let (mut gateway, _) = Gateway::connect(&daemon, "gw-1").await;
        assert_eq!(gateway.buy("1", 1).await["verdict"], "admit");
    });
    let alpha = json!({ "kind": "strategy", "name": "alpha" });
    daemon.until("its order is seen", |d| {
        drill(d, &json!({ "reason": "r", "scope": alpha })).1["type"] == "urn:haltline:problem:trading"
    });
    assert_eq!(daemon.mode("strategy", "alpha"), "normal");
    daemon.kill("strategy", "drill", "in earnest");
    refused(json!({ "reason": "r" }), 409, "not-normal");
    let detail = drill(&daemon, &json!({ "reason": "r" })).1["detail"].to_string();
    assert!(detail.contains("session drill, instrument ACME"), "where to rehearse instead: {detail}");
    assert_eq!(daemon.mode("strategy", "drill"), "halted");
}

#[test]
fn a_scope_that_the_session_does_not_reach_is_halted_and_not_called_proved() {
    let daemon = Daemon::start(&with_drill(""));
    let beta = json!({ "kind": "strategy", "name": "beta" });
    let (status, report) = drill(&daemon, &json!({ "reason": "r", "scope": beta }));
    assert_eq!((status, &report["passed"]), (200, &json!(false)), "{report:#}");
    assert_eq!(report["failed"], json!([]), "nothing failed, and nothing was shown: {report:#}");
    assert_eq!(daemon.mode("strategy", "beta"), "normal");
    assert_eq!(daemon.get("vera", "/v1/drills")["last_passed"], Value::Null);
    let alerts = daemon.get("vera", "/v1/alerts?name=drill_not_passed")["alerts"].clone();
    assert_eq!((&alerts[0]["severity"], &alerts[0]["state"]), (&json!("warning"), &json!("firing")), "{alerts}");
}

#[test]
fn a_real_kill_during_a_drill_wins_and_stays() {
    let daemon = Daemon::start(&with_drill(""));
    for _ in 0..5 {
        let http = daemon.http.clone();
        // Forced: the order of the drill before may be shown only now.
        let body = json!({ "reason": "a race", "force": true });
        let ran = std::thread::spawn(move || ask(&http, "rita", "POST", "/v1/drills", Some(&body)));
        // As soon as it is halted, or a little later: the kill has to win at any moment.
        while !ran.is_finished() && daemon.mode("strategy", "drill") == "normal" {}
        let receipt = daemon.kill("strategy", "drill", "in earnest");
        let (status, report) = ran.join().unwrap();
        assert_eq!(status, 200, "{report}");
        assert_eq!(daemon.mode("strategy", "drill"), "halted", "{report:#}");
        let ask = json!({
            "scope": { "kind": "strategy", "name": "drill" }, "epoch": receipt["epoch"], "reason": "over", "wait_ms": 5000,
        });
        let (status, done) = daemon.ask("rita", "POST", "/v1/rearm", Some(&ask));
        assert_eq!(status, 200, "{done}");
    }
}

#[test]
fn a_rearm_may_ask_for_a_drill_a_cause_a_nonce_and_time() {
    let rules = "[rearm]\nacknowledge = true\nnonce = true\ndrill_within = \"1h\"\ncool_off = \"2s\"\n";
    let daemon = Daemon::start(&with_drill(rules));
    let receipt = daemon.kill("strategy", "alpha", "it is wrong");
    let cause = || {
        let state = daemon.get("vera", "/v1/state");
        state["halts"][0]["causes"].as_array().unwrap().last().unwrap()["id"].clone()
    };
    let mut body = json!({
        "scope": { "kind": "strategy", "name": "alpha" }, "epoch": receipt["epoch"], "reason": "it is right",
    });
    let kind = |body: &Value| daemon.ask("rita", "POST", "/v1/rearm", Some(body)).1["type"].clone();
    let problem = |kind: &str| json!(format!("urn:haltline:problem:{kind}"));
    let nonce = || daemon.get("rita", "/v1/rearm/nonce")["nonce"].clone();
    assert_eq!(kind(&body), problem("bad-nonce"));
    // Just now: pressed again until this thread was not kept from asking for as long as that takes.
    let begin = Instant::now();
    loop {
        body["nonce"] = nonce();
        if kind(&body) == problem("cool-off") {
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "it is never too early");
        body["epoch"] = daemon.kill("strategy", "alpha", "it is wrong")["epoch"].clone();
    }
    assert_eq!(kind(&body), problem("bad-nonce"), "it was good once");
    daemon.until("it has cooled off", |_| {
        let mut again = body.clone();
        again["nonce"] = nonce();
        kind(&again) == problem("drill-needed")
    });
    passed(&daemon);
    body["nonce"] = nonce();
    assert_eq!(kind(&body), problem("invalid-field"), "the cause was not named");
    body["acknowledge"] = json!("0123456789abcdef");
    body["nonce"] = nonce();
    assert_eq!(kind(&body), problem("invalid-field"), "another cause");
    body["acknowledge"] = cause();
    body["nonce"] = json!("00000000000000000000000000000000");
    assert_eq!(kind(&body), problem("bad-nonce"));
    assert_eq!(daemon.mode("strategy", "alpha"), "halted");
    body["nonce"] = nonce();
    body["wait_ms"] = json!(5_000);
    let (status, done) = daemon.ask("rita", "POST", "/v1/rearm", Some(&body));
    assert_eq!(status, 200, "{done}");
    assert_eq!(daemon.mode("strategy", "alpha"), "normal");
}

#[test]
fn a_drill_that_is_stamped_later_than_now_never_counts_and_later_ones_do() {
    let daemon = Daemon::start(&with_drill("[rearm]\ndrill_within = \"1h\"\n"));
    let mut report = passed(&daemon);
    let (_, mut dir) = daemon.terminate();
    let drills = dir.path().join("state/drills");
    let mut old = report["id"].as_str().unwrap().to_owned();
    let unix = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let name = |id: &str, end: &str| drills.join(format!("{id}.{end}"));
    // As a clock would have stamped it that was some seconds ahead: further, if the start took until then.
    let mut by_ns = 4_000_000_000;
    let (daemon, ahead) = loop {
        let ahead = unix() + by_ns;
        let text = std::fs::read_to_string(name(&old, "json")).unwrap().replace(&old, &ahead.to_string());
        std::fs::remove_file(name(&old, "json")).unwrap();
        old = ahead.to_string();
        std::fs::write(name(&old, "json"), text).unwrap();
        let daemon = Daemon::run(dir);
        if unix() < ahead {
            break (daemon, ahead);
        }
        dir = daemon.terminate().1;
        by_ns *= 2;
    };
    let kill = |daemon: &Daemon| {
        let receipt = daemon.kill("strategy", "alpha", "it is wrong");
        json!({ "scope": receipt["scope"], "epoch": receipt["epoch"], "reason": "it is right", "wait_ms": 5_000 })
    };
    let last_passed = |daemon: &Daemon| daemon.get("vera", "/v1/drills")["last_passed"].clone();
    assert_eq!(last_passed(&daemon), Value::Null);
    let rearm = kill(&daemon);
    assert_eq!(daemon.ask("rita", "POST", "/v1/rearm", Some(&rearm)).1["title"], "Drill needed");
    // Nor once the clock is there.
    daemon.until("the clock is there", |_| unix() > ahead);
    let daemon = Daemon::run(daemon.terminate().1);
    assert_eq!((last_passed(&daemon), unix() > ahead), (Value::Null, true));
    report = passed(&daemon);
    assert_eq!(last_passed(&daemon), report["began_at"]);
    let daemon = Daemon::run(daemon.terminate().1);
    assert_eq!(last_passed(&daemon), report["began_at"]);
    let rearm = kill(&daemon);
    assert_eq!(daemon.ask("rita", "POST", "/v1/rearm", Some(&rearm)).0, 200);
}

/// The firm may have been halted for longer than a rehearsal is good for: then it is rehearsed under that halt, which nothing of it lifts.
#[test]
fn under_a_halt_of_the_firm_the_switch_is_rehearsed_at_a_scope_of_its_own_and_the_halt_stays() {
    let daemon = Daemon::start(&with_drill("[rearm]\ndrill_within = \"1h\"\n"));
    let receipt = daemon.kill("firm", "", "the weekend");
    let mut body =
        json!({ "scope": { "kind": "firm", "name": "" }, "epoch": receipt["epoch"], "reason": "it is right" });
    let (status, problem) = daemon.ask("rita", "POST", "/v1/rearm", Some(&body));
    assert_eq!((status, &problem["type"]), (409, &json!("urn:haltline:problem:drill-needed")), "{problem}");
    block_on(async {
        let (mut gateway, _) = Gateway::connect(&daemon, "gw-1").await;
        let (report, _) = rehearsed(&daemon, &mut gateway, "before it is re-armed").await;
        let observed = &report["observed"];
        assert_eq!((&observed["sessions"], &observed["engine"]), (&json!([1, 1]), &json!([true, true])), "{report:#}");
        let own = format!("{}", report["proved"]);
        assert!(own.contains("had the halt of strategy drill and gave it up"), "{own}");
        let verdict = gateway.buy("1", 1).await;
        assert_eq!((&verdict["verdict"], &verdict["rule"]), (&json!("deny"), &json!("mode")), "{verdict}");
    });
    let state = daemon.get("vera", "/v1/state");
    let halts = state["halts"].as_array().unwrap();
    assert_eq!((halts.len(), &halts[0]["epoch"]), (1, &receipt["epoch"]), "the very halt of before, and no other");
    body["wait_ms"] = json!(5_000);
    let (status, asked) = daemon.ask("rita", "POST", "/v1/rearm", Some(&body));
    assert_eq!(status, 202, "{asked}");
    let path = format!("/v1/rearm/{}/approve", asked["id"].as_str().unwrap());
    let agree = json!({ "reason": "seen", "wait_ms": 5_000 });
    assert_eq!(daemon.ask("ruth", "POST", &path, Some(&agree)).0, 200);
    assert_eq!(daemon.mode("firm", ""), "normal");
}

#[test]
fn after_a_rearm_the_scope_has_a_fraction_until_it_was_clean_or_somebody_promotes_it() {
    let probation = |long: &str| {
        let daemon =
            Daemon::start(&with_drill(&format!("[rearm]\nprobation = {{ fraction = \"25%\", for = \"{long}\" }}\n")));
        let receipt = daemon.kill("strategy", "alpha", "stop");
        let body = json!({
            "scope": receipt["scope"], "epoch": receipt["epoch"], "reason": "it is right", "wait_ms": 5_000,
        });
        let (status, done) = daemon.ask("rita", "POST", "/v1/rearm", Some(&body));
        assert_eq!(status, 200, "{done}");
        daemon
    };
    let on_probation = |daemon: &Daemon| daemon.get("vera", "/v1/probation")["probation"].as_array().unwrap().len();
    let has_all = |daemon: &Daemon| {
        daemon.until("the engine has all of it", |d| {
            d.get("vera", "/v1/state")["limits_generation"] == d.get("vera", "/v1/limits?kind=firm")["generation"]
        });
        block_on(async {
            let (mut gateway, _) = Gateway::connect(daemon, "gw-1").await;
            assert_eq!(gateway.buy("3", 1_000).await["verdict"], "admit");
        });
    };
    let daemon = probation("1s");
    daemon.until("it was clean for long enough", |daemon| on_probation(daemon) == 0);
    has_all(&daemon);

    let daemon = probation("1h");
    let list = daemon.get("vera", "/v1/probation");
    assert_eq!(list["probation"][0]["fraction_percent"], 25.0, "{list}");
    block_on(async {
        let (mut gateway, _) = Gateway::connect(&daemon, "gw-1").await;
        let verdict = gateway.buy("1", 251).await;
        assert_eq!((&verdict["rule"], &verdict["limit"]), (&json!("order_qty"), &json!("250")));
        assert_eq!(gateway.buy("2", 250).await["verdict"], "admit");
    });
    assert_eq!(on_probation(&daemon), 1);
    let path = "/v1/probation/strategy/alpha/promote";
    assert_eq!(daemon.ask("olaf", "POST", path, Some(&json!({ "reason": "fine" }))).0, 403);
    assert_eq!(daemon.ask("rita", "POST", path, Some(&json!({ "reason": "fine" }))).0, 200);
    assert_eq!(on_probation(&daemon), 0);
    has_all(&daemon);
}
