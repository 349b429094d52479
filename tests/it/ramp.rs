//! A newly approved build at the real service: a fraction of what its strategy may, more of it when it was clean for a time and a
//! volume, back at a breach, all of it when a person says so.

use serde_json::{Value, json};

use crate::attest::{Fleet, done, publish, run, say};
use crate::support::{LIMITS, block_on, token};

/// What stands of `[ramp]` in the tests: the time is short, the volume has to come.
const RAMP: &str = "[ramp]\nsteps = [\"10%\", \"50%\"]\nclean_for = \"1s\"\nclean_volume = 3\n";

/// A fleet whose manifest approves `r1`; alpha may have 1,000 in one order, and more is met by `action`.
fn fleet(action: &str) -> Fleet {
    let dir = tempfile::tempdir().unwrap();
    let key = done(run(&["manifest", "keygen", "secret"], dir.path()));
    let instances = ["--instance", "gw-1", "--instance", "gw-2", "--instance", "gw-3", "--path", "websocket"];
    publish(dir.path(), None, &[&instances[..], &["--build", "r1", "--ramp-hours", "48"]].concat());
    let limits = LIMITS.replace("count = 50", "count = 10_000");
    let limits =
        limits.replace("order_qty = 1_000", &format!("order_qty = {{ max = 1_000, action = \"{action}\" }}")) + RAMP;
    Fleet::limited(dir, &limits, &format!("[guard.attestation]\nmanifest = \"manifest.toml\"\nkey = \"{key}\"\n"))
}

/// The session's probation; `Null`: it has all of its limits.
fn probation(fleet: &Fleet, session: &str) -> Value {
    let list = fleet.daemon().get("vera", "/v1/probation");
    let list = list["probation"].as_array().unwrap();
    list.iter().find(|one| one["scope"]["name"] == session).cloned().unwrap_or(Value::Null)
}

fn until_percent(fleet: &Fleet, session: &str, percent: f64) {
    fleet
        .daemon()
        .until(&format!("{session} may use {percent}%"), |_| probation(fleet, session)["fraction_percent"] == percent);
}

fn until_breaches(fleet: &Fleet, session: &str, breaches: u64) {
    fleet.daemon().until(&format!("{session} was seen to be not clean"), |_| {
        probation(fleet, session)["breaches"].as_u64() == Some(breaches)
    });
}

/// `haltline limits probation` of a person who may promote.
fn promote(fleet: &Fleet, scope: &str) -> std::process::Output {
    std::fs::write(fleet.files.join("rita.token"), token("rita")).unwrap();
    let url = format!("http://{}", fleet.daemon().http);
    let args = ["limits", "probation", "--promote", scope, "--reason", "watched it", "--url", &url];
    fleet.daemon().haltline(&[&args[..], &["--token-file", "rita.token"]].concat())
}

#[test]
fn a_new_build_begins_with_a_fraction_and_earns_the_rest_by_time_and_volume() {
    let fleet = fleet("deny");
    block_on(async {
        let mut gateway = say(&fleet, "gw-1", "r1", &json!({})).await;
        let first = probation(&fleet, "gw-1");
        assert_eq!(first["after"], "the new build r1", "{first}");
        assert_eq!((&first["fraction_percent"], &first["steps"]), (&json!(10.0), &json!(2)), "{first}");
        assert_eq!(fleet.daemon().get("vera", "/v1/state")["probation"][0]["scope"]["name"], "gw-1");
        // In force before its first order: a tenth of 1,000.
        let denial = gateway.buy("1", 101).await;
        assert_eq!((&denial["rule"], &denial["limit"]), (&json!("order_qty"), &json!("100")), "{denial}");
        assert_eq!(gateway.buy("2", 100).await["verdict"], "admit");
        // Time alone does not do; what was sent before the breach was seen counts for nothing.
        until_breaches(&fleet, "gw-1", 1);
        fleet
            .daemon()
            .until("more than a second was clean", |_| probation(&fleet, "gw-1")["clean_seconds"].as_u64() >= Some(2));
        assert_eq!(probation(&fleet, "gw-1")["fraction_percent"], 10.0);
        for id in ["3", "4", "5"] {
            assert_eq!(gateway.buy(id, 1).await["verdict"], "admit");
        }
        until_percent(&fleet, "gw-1", 50.0);
        assert_eq!(gateway.buy("6", 500).await["verdict"], "admit");
        // A breach takes it back to where it began.
        assert_eq!(gateway.buy("7", 501).await["limit"], "500");
        until_percent(&fleet, "gw-1", 10.0);
        assert_eq!(gateway.buy("8", 101).await["limit"], "100");
        until_breaches(&fleet, "gw-1", 3);
        // Clean through both steps: all of what is configured.
        for (step, percent) in [("a", 50.0), ("b", 100.0)] {
            for n in 0..4 {
                assert_eq!(gateway.buy(&format!("{step}{n}"), 1).await["verdict"], "admit");
            }
            match percent {
                100.0 => fleet.daemon().until("it is over", |_| probation(&fleet, "gw-1").is_null()),
                _ => until_percent(&fleet, "gw-1", percent),
            }
        }
        assert_eq!(gateway.buy("9", 1_000).await["verdict"], "admit");
        assert_eq!(gateway.buy("10", 1_001).await["limit"], "1000", "what the strategy may");
    });
}

#[test]
fn a_trip_halts_a_new_build_and_puts_it_back_and_a_person_promotes_it() {
    let mut fleet = fleet("halt");
    block_on(async {
        let mut gateway = say(&fleet, "gw-1", "r1", &json!({})).await;
        for n in 0..3 {
            assert_eq!(gateway.buy(&n.to_string(), 1).await["verdict"], "admit");
        }
        until_percent(&fleet, "gw-1", 50.0);
        // More than half of what the strategy may: the instance is halted, the strategy is not.
        assert_eq!(gateway.buy("3", 501).await["limit"], "500");
        assert_eq!(fleet.daemon().mode("session", "gw-1"), "halted");
        assert_eq!(fleet.daemon().mode("strategy", "alpha"), "normal");
        until_percent(&fleet, "gw-1", 10.0);
        until_breaches(&fleet, "gw-1", 1);
    });
    // Neither halt nor step is lost with the process.
    fleet.daemon().until("the halt is latched", |daemon| daemon.get("vera", "/v1/state")["latch"]["durable"] == true);
    fleet.restart();
    assert_eq!(fleet.daemon().mode("session", "gw-1"), "halted");
    block_on(async {
        let mut gateway = say(&fleet, "gw-1", "r1", &json!({})).await;
        assert_eq!(fleet.rearm("session", "gw-1").0, 200);
        assert_eq!(gateway.buy("4", 100).await["verdict"], "admit");
        assert_eq!(probation(&fleet, "gw-1")["fraction_percent"], 10.0, "re-armed is not promoted");
        assert_eq!(
            fleet.daemon().ask("olaf", "POST", "/v1/probation/session/gw-1/promote", Some(&json!({ "reason": "x" }))).0,
            403
        );
        let out = promote(&fleet, "session:gw-1");
        assert!(out.status.success(), "{out:?}");
        assert_eq!(gateway.buy("5", 1_000).await["verdict"], "admit");
        assert!(probation(&fleet, "gw-1").is_null());
        // Each instance earns its own.
        let second = say(&fleet, "gw-2", "r1", &json!({})).await;
        assert_eq!(probation(&fleet, "gw-2")["fraction_percent"], 10.0);
        drop((gateway, second));
        fleet
            .daemon()
            .until("both have gone", |_| ["gw-1", "gw-2"].iter().all(|name| fleet.row(name)["connected"] == false));
        // Known is known; the next build begins anew.
        assert_eq!(say(&fleet, "gw-1", "r1", &json!({})).await.buy("6", 1_000).await["verdict"], "admit");
        fleet.daemon().until("it has gone", |_| fleet.row("gw-1")["connected"] == false);
        publish(&fleet.files, Some("manifest.toml"), &["--build", "r2", "--ramp-hours", "48"]);
        let reload = json!({ "reason": "r2 was approved" });
        assert_eq!(fleet.daemon().ask("rita", "POST", "/v1/manifest/reload", Some(&reload)).0, 200);
        let mut next = say(&fleet, "gw-1", "r2", &json!({})).await;
        assert_eq!(probation(&fleet, "gw-1")["after"], "the new build r2");
        assert_eq!(next.buy("7", 101).await["limit"], "100");
    });
}
