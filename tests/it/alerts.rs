//! Alerts of the real service: found again after a crash, answered by people over both doors.

use serde_json::json;

use crate::support::{Daemon, Gateway, LIMITS, block_on};

/// A rate that counts however slowly this machine sends.
fn limits() -> String {
    LIMITS.replace("per = \"1s\"", "per = \"1h\"")
}

/// Trips strategy alpha with an order rate that its limit does not allow.
fn trip(daemon: &Daemon) {
    block_on(async {
        let (mut gateway, _) = Gateway::connect(daemon, "gw-1").await;
        for n in 0..60 {
            gateway.buy(&format!("{}-{n}", daemon.pid()), 1).await;
        }
    });
    daemon.until("alpha is halted", |d| d.mode("strategy", "alpha") == "halted");
}

fn critical(daemon: &Daemon) -> serde_json::Value {
    daemon.get("vera", "/v1/alerts?severity=critical&open=true")
}

#[test]
fn a_trip_is_an_alert_that_survives_a_crash_until_a_person_answers() {
    let daemon = Daemon::start(&limits());
    trip(&daemon);
    daemon.until("there is an alert", |d| critical(d)["unacknowledged_critical"] == 1);
    let alert = critical(&daemon)["alerts"][0].clone();
    assert_eq!((&alert["name"], &alert["state"]), (&json!("order_rate"), &json!("firing")), "{alert}");
    assert_eq!(alert["scope"], json!({ "kind": "strategy", "name": "alpha" }));
    // It is on disk as soon as the thread that was woken has written it.
    let file = daemon.dir.path().join("state/alerts.json");
    daemon.until("it is written", |_| std::fs::read_to_string(&file).is_ok_and(|text| text.contains("\"critical\"")));

    let daemon = Daemon::run(daemon.sigkill());
    assert_eq!(critical(&daemon)["alerts"][0]["id"], alert["id"]);
    let waits = daemon.haltline_until(&["alerts", "--config", "haltline.toml", "--text"], 3);
    let said = String::from_utf8_lossy(&waits.stdout).into_owned();
    assert!(said.contains("order_rate strategy alpha") && said.contains("1 critical without an answer"), "{said}");

    let id = alert["id"].as_str().unwrap();
    let args = ["alerts", "--config", "haltline.toml", "--ack", id, "--reason", "a loop in alpha", "--json"];
    let acked = daemon.haltline(&args);
    assert_eq!(acked.status.code(), Some(0), "{}", String::from_utf8_lossy(&acked.stderr));
    assert_eq!(daemon.haltline(&args).status.code(), Some(4), "twice");
    assert_eq!(critical(&daemon)["blocks_open"], false);
    // The answer survives, too, and the audit has it.
    let (status, dir) = daemon.terminate();
    assert!(status.success());
    let daemon = Daemon::run(dir);
    let alert = critical(&daemon)["alerts"][0].clone();
    assert_eq!(
        (&alert["state"], &alert["acknowledged"]["reason"]),
        (&json!("acknowledged"), &json!("a loop in alpha"))
    );
    let audit = daemon.haltline(&["audit", "state"]);
    let audit = String::from_utf8_lossy(&audit.stdout).into_owned();
    assert!(audit.contains(" ack ") && audit.contains("a loop in alpha"), "{audit}");
}

#[test]
fn what_nobody_answers_is_escalated_and_halts_the_firm_where_that_is_configured() {
    let alerts = "[alerts]\nescalate_after = \"1s\"\nescalation = [\"head\"]\nescalate_to = \"halt_firm\"\n";
    let daemon = Daemon::start(&(alerts.to_owned() + &limits()));
    trip(&daemon);
    daemon.until("the firm is halted", |d| d.mode("firm", "") == "halted");
    let state = daemon.get("vera", "/v1/state");
    let firm = state["halts"].as_array().unwrap().iter().find(|halt| halt["scope"]["kind"] == "firm").unwrap();
    assert_eq!(firm["causes"][0]["actor"], "alerts");
    let alert = critical(&daemon)["alerts"][0].clone();
    assert_eq!((&alert["state"], &alert["owners"]), (&json!("escalated"), &json!(["risk", "head"])));
}
