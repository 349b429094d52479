//! A preflight that is required: the firm is halted when the day begins, and can be re-armed only while nothing fails on the page.

use serde_json::{Value, json};

use crate::attest::{Fleet, line, say};
use crate::support::{Daemon, Gateway, block_on};

/// A day that began half a day ago: none begins while a test runs.
fn required() -> String {
    let hours = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() / 3_600;
    format!("[guard]\npreflight_required = true\npreflight_at = \"{:02}:00\"\n", (hours + 12) % 24)
}

fn fleet() -> Fleet {
    let section = required() + "[guard.signatures]\nlearn = \"0s\"\n[guard.attestation]\n";
    Fleet::start(tempfile::tempdir().unwrap(), &section)
}

/// Two people re-arm the firm.
fn open(fleet: &Fleet) {
    let (status, asked) = fleet.rearm("firm", "");
    assert_eq!(status, 202, "{asked}");
    let path = format!("/v1/rearm/{}/approve", asked["id"].as_str().unwrap());
    let (status, answer) = fleet.daemon().ask("ruth", "POST", &path, Some(&json!({ "reason": "the page is good" })));
    assert_eq!(status, 200, "{answer}");
}

fn shown(daemon: &Daemon) -> Value {
    let page = daemon.get("vera", "/v1/preflight");
    line(&page, "open").clone()
}

#[test]
fn the_firm_stays_halted_until_the_preflight_passes_and_two_people_open_the_day() {
    let mut fleet = fleet();
    assert_eq!(fleet.daemon().mode("firm", ""), "halted");
    block_on(async {
        // The builds of the day come in while it is shut: that is no incident.
        drop(say(&fleet, "gw-1", "r1", &json!({})).await);
        fleet.daemon().until("it has gone", |_| fleet.row("gw-1")["connected"] == false);
        let mut gateway = say(&fleet, "gw-1", "r2", &json!({})).await;
        assert_eq!(fleet.row("gw-1")["verdict"], "approved");
        let denial = gateway.buy("1", 1).await;
        assert_eq!((&denial["verdict"], &denial["rule"]), (&json!("deny"), &json!("mode")), "{denial}");
        assert_eq!(fleet.preflight().0, Some(0), "{:#}", fleet.preflight().1);

        // A critical alert that nobody has answered keeps the day shut.
        gateway.send(json!({ "type": "text", "text": "SMARS: Power Peg disabled" })).await;
        fleet.daemon().until("it is told", |d| d.get("vera", "/v1/alerts")["blocks_open"] == true);
        fleet.daemon().until("it is held for it", |_| {
            let (status, problem) = fleet.rearm("firm", "");
            status == 409 && problem["why"].as_str().is_some_and(|why| why.contains("Power Peg disabled"))
        });
        assert_eq!(fleet.preflight().0, Some(3));
        let alerts = fleet.daemon().get("vera", "/v1/alerts?kind=signature");
        let path = format!("/v1/alerts/{}/ack", alerts["alerts"][0]["id"].as_str().unwrap());
        assert_eq!(fleet.daemon().ask("rita", "POST", &path, Some(&json!({ "reason": "known" }))).0, 200);
        fleet.daemon().until("it is held no more", |_| fleet.rearm("firm", "").0 == 202);
        let (status, page) = fleet.preflight();
        assert_eq!((status, &line(&page, "open")["outcome"]), (Some(0), &json!("note")), "{page:#}");
        assert_eq!(fleet.daemon().mode("firm", ""), "halted", "a page opens nothing");

        open(&fleet);
        assert_eq!(gateway.buy("2", 1).await["verdict"], "admit");
        fleet.daemon().until("it is seen", |daemon| shown(daemon)["outcome"] == "pass");
    });
    // Once a day, not once a start; what is not known of it counts as shut.
    fleet.restart();
    assert_eq!(
        (fleet.daemon().mode("firm", ""), shown(fleet.daemon())["outcome"].clone()),
        ("normal".into(), json!("pass"))
    );
    let path = fleet.files.join("state/day.json");
    std::fs::remove_file(&path).unwrap();
    fleet.restart();
    assert_eq!(fleet.daemon().mode("firm", ""), "halted");
    let state = fleet.daemon().get("vera", "/v1/state");
    assert_eq!(state["halts"][0]["causes"][0]["actor"], "preflight", "{state}");
}

#[test]
fn without_it_a_start_is_a_start() {
    let daemon = Daemon::start(crate::support::LIMITS);
    assert_eq!(daemon.mode("firm", ""), "normal");
    let page = daemon.get("vera", "/v1/preflight");
    assert!(page["checks"].as_array().unwrap().iter().all(|check| check["name"] != "open"), "{page}");
    block_on(async {
        let (mut gateway, _) = Gateway::connect(&daemon, "gw-1").await;
        assert_eq!(gateway.buy("1", 1).await["verdict"], "admit");
    });
}
