//! The guard: texts and rates at the real service, and the flow of the demo's healthy instances for hours of their time.

use haltline::demo::knight::{HEALTHY, Healthy, MORNING_NS, OldCode, Order, Plan};
use haltline::guard::peers::{Counts, Found, Instance, Measure, PeerOptions, Peers};
use haltline::guard::quiet::QuietOptions;
use serde_json::{Value, json};

use crate::support::{Daemon, Gateway, LIMITS, block_on, token};

const QUARTER_NS: u64 = 250_000_000;

/// What an instance has sent by the end of each quarter of a second.
fn flow(orders: impl Iterator<Item = Order>) -> Vec<Counts> {
    let mut quarters = vec![Counts::default(); (MORNING_NS / QUARTER_NS) as usize + 8];
    let mut at = |ns: u64, count: &dyn Fn(&mut Counts)| {
        if let Some(quarter) = quarters.get_mut((ns / QUARTER_NS) as usize) {
            count(quarter);
        }
    };
    for order in orders {
        let now = order.at_ns;
        at(now, &|c| c.orders += 1);
        match order.plan {
            Plan::Fill { fill_ns } => at(now + fill_ns, &|c| c.fills += 1),
            Plan::TwoFills { first_ns, second_ns } => {
                at(now + first_ns, &|c| c.fills += 1);
                at(now + second_ns, &|c| c.fills += 1);
            }
            Plan::FillThenCancel { fill_ns, .. } => at(now + fill_ns, &|c| c.fills += 1),
            Plan::ReplaceThenFill { replace_ns, fill_ns } => {
                at(now + replace_ns, &|c| c.orders += 1);
                at(now + replace_ns + fill_ns, &|c| c.fills += 1);
            }
            Plan::Reject => at(now, &|c| c.rejects += 1),
        }
    }
    let mut sum = Counts::default();
    for quarter in &mut quarters {
        sum.orders += quarter.orders;
        sum.fills += quarter.fills;
        sum.rejects += quarter.rejects;
        *quarter = sum;
    }
    quarters
}

fn watch(instances: &[Vec<Counts>], options: PeerOptions) -> Vec<(u64, Found)> {
    let named = (0..instances.len()).map(|n| Instance { name: format!("gw-{n}"), group: 0 }).collect();
    let mut peers = Peers::new(options, named);
    let mut found = Vec::new();
    for quarter in 0..instances[0].len() {
        let now = 1_343_827_800_000_000_000 + quarter as u64 * QUARTER_NS;
        let counts: Vec<Counts> = instances.iter().map(|flow| flow[quarter]).collect();
        found.extend(peers.sample(now, now, &counts).into_iter().map(|f| (quarter as u64 * QUARTER_NS, f)));
    }
    found
}

#[test]
fn the_seven_healthy_instances_are_never_far_from_each_other_in_hours_of_the_demo() {
    for seed in 1..=5 {
        let healthy: Vec<Vec<Counts>> = (0..HEALTHY).map(|n| flow(Healthy::new(seed, n))).collect();
        assert!(healthy.iter().all(|flow| flow.last().unwrap().orders > 60_000), "they trade all the morning");
        assert_eq!(watch(&healthy, PeerOptions::default()), [], "seed {seed}");
        // Not because they are too quiet to be looked at; but a lone reject among none is always far.
        let quiet = QuietOptions { count_min: 1, ..QuietOptions::default() };
        let options = PeerOptions { rate_min: [1, 1, 50], quiet, ..PeerOptions::default() };
        assert_eq!(watch(&healthy, options), [], "seed {seed}");
    }
}

#[test]
fn a_healthy_one_that_stops_while_the_others_trade_is_told_within_minutes_and_only_that_one() {
    let minute = 60_000_000_000;
    let stops = |n: usize| move |order: &Order| n != 3 || order.at_ns < 20 * minute;
    let instances: Vec<Vec<Counts>> = (0..HEALTHY).map(|n| flow(Healthy::new(1, n).take_while(stops(n)))).collect();
    let found = watch(&instances, PeerOptions::default());
    let [(at, Found::Quiet { instance: 3, measure: Measure::Orders, count: 6, .. })] = found[..] else {
        panic!("{found:?}")
    };
    assert!((20 * minute..23 * minute).contains(&at), "{at} ns");
}

#[test]
fn the_eighth_is_halted_three_seconds_after_the_open_and_only_the_eighth() {
    let mut instances: Vec<Vec<Counts>> = (0..HEALTHY).map(|n| flow(Healthy::new(1, n))).collect();
    instances.push(flow(OldCode::new(1).take_while(|order| order.at_ns < 60_000_000_000)));
    let found = watch(&instances, PeerOptions::default());
    let halted: Vec<_> = found.iter().filter(|(_, f)| matches!(f, Found::Outlier { halt: true, .. })).collect();
    let (at, Found::Outlier { instance, measure: Measure::Orders, rate, .. }) = halted[0] else { panic!("{found:?}") };
    assert_eq!(*instance, HEALTHY);
    assert!(*at <= 3_500_000_000 && *rate > 1_000.0, "{at} ns, {rate}");
    assert!(found.iter().all(|(_, f)| match f {
        Found::Outlier { instance, .. }
        | Found::Back { instance, .. }
        | Found::Drift { instance, .. }
        | Found::Quiet { instance, .. }
        | Found::Resumed { instance, .. } => *instance == HEALTHY,
    }));
}

#[test]
fn a_text_that_was_never_seen_is_one_alert_until_a_person_answers_and_known_after_a_restart() {
    let section = "[guard.signatures]\nlearn = \"0s\"\nowner = \"desk\"\n";
    let daemon = Daemon::start(&(section.to_owned() + LIMITS));
    let say = |daemon: &Daemon, count: usize| {
        block_on(async {
            let (mut gateway, _) = Gateway::connect(daemon, "gw-1").await;
            for n in 0..count {
                gateway.send(json!({ "type": "text", "text": format!("SMARS[{n}]: Power Peg disabled") })).await;
            }
            // What was said before is with the guard when an order has its answer.
            assert_eq!(gateway.buy("1", 1).await["verdict"], "admit");
        });
    };
    say(&daemon, 97);
    let alert = |d: &Daemon| d.get("vera", "/v1/alerts?kind=signature&severity=critical")["alerts"][0].clone();
    daemon.until("all were counted", |d| alert(d)["count"] == 97);
    let first = alert(&daemon);
    assert_eq!((&first["owner"], &first["scope"]["name"]), (&json!("desk"), &json!("gw-1")), "{first}");
    assert!(first["text"].as_str().unwrap().contains("Power Peg disabled"), "{first}");
    let shown = daemon.get("vera", "/v1/signatures");
    assert_eq!(shown["signatures"][0]["template"], "<*>: Power Peg disabled", "{shown}");
    assert_eq!(shown["signatures"][0]["known"], false);
    assert_eq!(daemon.get("vera", "/v1/alerts")["blocks_open"], true);
    let path = format!("/v1/alerts/{}/ack", first["id"].as_str().unwrap());
    assert_eq!(daemon.ask("olaf", "POST", &path, Some(&json!({ "reason": "a known message" }))).0, 200);
    daemon.until("it is known", |d| d.get("vera", "/v1/signatures")["signatures"][0]["known"] == true);

    let (status, dir) = daemon.terminate();
    assert!(status.success());
    let daemon = Daemon::run(dir);
    let shown = daemon.get("vera", "/v1/signatures");
    assert_eq!((&shown["signatures"][0]["known"], &shown["signatures"][0]["count"]), (&json!(true), &json!(97)));
}

/// Sessions like `gw-1`.
fn more_gateways() -> String {
    let one = |n: usize| {
        let hash = blake3::hash(token(&format!("gw-{n}")).as_bytes()).to_hex();
        format!("[sessions.gw-{n}]\nkind = \"ask\"\ntoken_hash = \"{hash}\"\n")
    };
    (2..=5).map(one).collect()
}

#[test]
fn an_instance_far_from_its_peers_is_halted_with_the_numbers_as_its_cause() {
    let section = "[guard.peers]\nwindow = \"2s\"\nhold = \"2500ms\"\norders_min = 2\n";
    let limits = LIMITS.replace("count = 50", "count = 100_000");
    let daemon = Daemon::start(&(section.to_owned() + &limits + &more_gateways()));
    block_on(async {
        // Who is not connected is nobody's peer: the others are there, and quiet.
        let mut others = Vec::new();
        for name in ["gw-2", "gw-3", "gw-4", "gw-5"] {
            others.push(Gateway::connect(&daemon, name).await);
        }
        let (mut gateway, _) = Gateway::connect(&daemon, "gw-1").await;
        let denial = runs_away(&mut gateway).await;
        assert_eq!(denial["rule"], "mode", "{denial}");
        drop(others);
    });
    assert_eq!(daemon.mode("session", "gw-1"), "halted");
    assert_eq!(daemon.mode("firm", ""), "normal");
    let cause = first_cause(&daemon);
    let reason = cause["reason"].as_str().unwrap();
    assert_eq!(cause["actor"], "guard");
    assert!(reason.contains("session gw-1 has") && reason.contains("4 peers have 0.0"), "{reason}");
    let alerts = daemon.get("vera", "/v1/alerts?kind=peer&severity=critical");
    assert_eq!(alerts["alerts"][0]["name"], "outlier_orders", "{alerts}");
    let peers = daemon.get("vera", "/v1/peers");
    let of = |name: &str| -> Value {
        let list = peers["instances"].as_array().unwrap();
        list.iter().find(|instance| instance["session"] == name).unwrap().clone()
    };
    assert_eq!(of("gw-1")["peers"], json!(["gw-2", "gw-3", "gw-4", "gw-5"]));
    assert_eq!(of("gw-2")["rates"]["orders"]["far"], false);
}

/// Five sessions of one kind, of which one is there, with what each sent at every time of day on five days.
fn with_baseline(section: &str, level: f64) -> Daemon {
    use haltline::alert::store;
    use haltline::guard::peers::{SavedPeers, Usual};
    use haltline::guard::watch::SavedWatch;

    let limits = LIMITS.replace("count = 50", "count = 100_000");
    let daemon = Daemon::start(&(section.to_owned() + &limits + &more_gateways()));
    let (status, dir) = daemon.terminate();
    assert!(status.success());
    let path = store::guard_path(&dir.path().join("state"));
    let store::Found::Intact(mut saved) = store::load::<SavedWatch>(&path) else { panic!("written at its end") };
    assert_eq!(saved.peers.instances.len(), 5);
    let usual = vec![Usual { level, reference: level / 2.0, days: 5 }; 48];
    saved.peers = SavedPeers { instances: vec![("gw-1".to_owned(), vec![usual; 3])] };
    store::save(&path, &*saved).unwrap();
    Daemon::run(dir)
}

/// Why the first scope that is halted is: the page is raised, and denies, before its cause is known.
fn first_cause(daemon: &Daemon) -> Value {
    let cause = || daemon.get("vera", "/v1/state")["halts"][0]["causes"][0].clone();
    daemon.until("the cause is known", |_| cause().is_object());
    cause()
}

/// Sends orders that are canceled at once, until one is denied; the denial.
async fn runs_away(gateway: &mut Gateway) -> Value {
    let begin = std::time::Instant::now();
    // Far more than what is far. What works is bounded, and so is what waits for the disk: as fast as it can, an instance
    // may come to the end of either before it is halted.
    let mut pace = tokio::time::interval(core::time::Duration::from_millis(2));
    for n in 1.. {
        pace.tick().await;
        // Some at once, so that a busy machine counts many in a short time as well.
        for more in 1..5 {
            let id = format!("{n}/{more}");
            gateway
                .event(json!({
                    "type": "new", "strategy": "alpha", "instrument": "ACME", "id": id, "side": "buy",
                    "ord_type": "limit", "qty": 1, "px": "10.00",
                }))
                .await;
            gateway.event(json!({ "type": "canceled", "id": id })).await;
        }
        let verdict = gateway.buy(&n.to_string(), 1).await;
        if verdict["verdict"] != "admit" {
            return verdict;
        }
        gateway.event(json!({ "type": "canceled", "id": n.to_string() })).await;
        assert!(begin.elapsed() < crate::support::PATIENCE, "nobody halts it");
    }
    unreachable!("numbers do not end")
}

#[test]
fn an_instance_far_from_its_own_baseline_of_days_before_is_halted_and_the_baseline_is_shown() {
    let section = "[guard.peers]\nwindow = \"2s\"\nhold = \"2500ms\"\norders_min = 2\npeers_min = 100\n";
    // A rate that even a busy machine is far above.
    let daemon = with_baseline(section, 0.2);
    let rates = |daemon: &Daemon| daemon.get("vera", "/v1/peers")["instances"][0]["rates"]["orders"].clone();
    let shown = rates(&daemon);
    assert_eq!((&shown["usual"], &shown["began_at"], &shown["days"]), (&json!(0.2), &json!(0.1), &json!(5)), "{shown}");
    block_on(async {
        let (mut gateway, _) = Gateway::connect(&daemon, "gw-1").await;
        let denial = runs_away(&mut gateway).await;
        assert_eq!(denial["rule"], "mode", "{denial}");
    });
    let cause = first_cause(&daemon);
    let reason = cause["reason"].as_str().unwrap();
    assert!(reason.contains("at this time of day it had at most 0.2 on 5 days"), "{reason}");
    // What was learned is not lost, and what was far is not learned from.
    let (_, dir) = daemon.terminate();
    let daemon = Daemon::run(dir);
    let shown = rates(&daemon);
    assert!(shown["usual"].as_f64().unwrap() <= 0.22 && shown["days"].as_u64().unwrap() >= 5, "{shown}");
}

#[test]
fn an_instance_that_goes_silent_while_its_peers_trade_is_told_and_not_halted() {
    // So few and so long that a busy machine comes to it: all send in turn, so none is ever an order behind another.
    let section = "[guard.peers]\nquiet = \"2s\"\nquiet_min = 2\nhalts = false\norders_min = 1_000_000\n";
    let limits = LIMITS.replace("count = 50", "count = 100_000");
    let daemon = Daemon::start(&(section.to_owned() + &limits + &more_gateways()));
    let pace = |daemon: &Daemon, session: &str| {
        let peers = daemon.get("vera", "/v1/peers");
        let list = peers["instances"].as_array().unwrap().clone();
        list.into_iter().find(|one| one["session"] == session).unwrap()["rates"]["orders"]["pace"].clone()
    };
    let quiet = |daemon: &Daemon| daemon.get("vera", "/v1/alerts?kind=peer&open=true")["alerts"].clone();
    block_on(async {
        let mut gateways = Vec::new();
        for n in 1..=5 {
            gateways.push(Gateway::connect(&daemon, &format!("gw-{n}")).await.0);
        }
        // The last one is a standby.
        let mut n = 0;
        let mut trade = async |senders: core::ops::Range<usize>, until: &dyn Fn() -> bool| {
            let begin = std::time::Instant::now();
            while !until() {
                for at in senders.clone().cycle().take(10 * senders.len()) {
                    let gateway = &mut gateways[at];
                    n += 1;
                    assert_eq!(gateway.buy(&n.to_string(), 1).await["verdict"], "admit");
                    gateway.event(json!({ "type": "canceled", "id": n.to_string() })).await;
                }
                assert!(begin.elapsed() < crate::support::PATIENCE, "{}", daemon.get("vera", "/v1/peers"));
            }
        };
        trade(0..4, &|| pace(&daemon, "gw-1") == "usual").await;
        assert_eq!((pace(&daemon, "gw-5"), quiet(&daemon)), (json!("unknown"), json!([])));
        trade(1..4, &|| pace(&daemon, "gw-1") == "quiet").await;
        let alerts = quiet(&daemon);
        assert_eq!(alerts.as_array().unwrap().len(), 1, "{alerts}");
        let alert = &alerts[0];
        assert_eq!((&alert["name"], &alert["severity"]), (&json!("quiet_orders"), &json!("warning")), "{alert}");
        assert_eq!(alert["scope"]["name"], "gw-1");
        assert_eq!(daemon.mode("session", "gw-1"), "normal", "silence halts nobody");
        trade(0..4, &|| pace(&daemon, "gw-1") == "usual").await;
    });
}
