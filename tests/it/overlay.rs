//! Limits for a while, on the real program: who may, when it ends, what a restart and a replay make of it.

use std::time::{Instant, SystemTime};

use serde_json::{Value, json};

use crate::support::{Daemon, Gateway, LIMITS, PATIENCE, ask, ask_with, block_on};

/// [`LIMITS`], with a limit of the firm's that two people have to agree to raise.
fn limits() -> String {
    LIMITS.replace("[limits.firm]\n", "[limits.firm]\nworking_orders = 100\n")
}

fn strategy() -> Value {
    json!({ "kind": "strategy", "name": "alpha" })
}

fn etag(daemon: &Daemon) -> Value {
    daemon.get("vera", "/v1/overrides")["etag"].clone()
}

/// Sets `order_qty` of alpha, which is 1,000.
fn qty(limit: u64, seconds: u64, etag: &Value) -> Value {
    json!({
        "scope": strategy(), "rule": "order_qty", "limit": limit, "for_seconds": seconds, "reason": "a large block",
        "etag": etag,
    })
}

fn firm(limit: u64, etag: &Value) -> Value {
    json!({
        "scope": { "kind": "firm", "name": "" }, "rule": "working_orders", "limit": limit, "for_seconds": 3600,
        "reason": "a busy day", "etag": etag,
    })
}

fn active(daemon: &Daemon) -> u64 {
    daemon.get("vera", "/v1/overrides")["active"].as_u64().unwrap()
}

/// The verdict on an order of alpha's, when the limits that the service says are in force have reached the engine.
fn buy(daemon: &Daemon, id: &str, qty: u64) -> Value {
    daemon.until("the engine has the limits", |d| {
        let limits = d.get("vera", "/v1/limits?kind=firm");
        d.get("vera", "/v1/state")["limits_generation"] == limits["generation"]
    });
    block_on(async {
        let (mut gateway, _) = Gateway::connect(daemon, "gw-1").await;
        gateway.buy(id, qty).await
    })
}

#[test]
fn an_override_is_in_force_is_seen_and_ends_by_itself() {
    let daemon = Daemon::start(LIMITS);
    assert_eq!(buy(&daemon, "1", 1_500)["limit"], "1000");
    let (status, one) = daemon.ask("rita", "POST", "/v1/overrides", Some(&qty(2_000, 3_600, &etag(&daemon))));
    assert_eq!((status, &one["status"], &one["limit"]), (201, &json!("active"), &json!("2000")), "{one}");
    assert_eq!(buy(&daemon, "2", 1_500)["verdict"], "admit");
    let metrics = daemon.get("vera", "/metrics").to_string();
    assert!(metrics.contains("haltline_overrides_active 1"), "{metrics}");
    let state = daemon.get("vera", "/v1/state").to_string();
    assert!(state.contains("override_begun") && state.contains("a large block"), "{state}");
    // Another one in its place, which ends while this test waits.
    let (status, one) = daemon.ask("rita", "POST", "/v1/overrides", Some(&qty(1_900, 1, &etag(&daemon))));
    assert_eq!(status, 201, "{one}");
    daemon.until("its time is over", |d| active(d) == 0);
    let verdict = buy(&daemon, "3", 1_500);
    assert_eq!((&verdict["rule"], &verdict["limit"]), (&json!("order_qty"), &json!("1000")));
    let list = daemon.get("vera", "/v1/overrides");
    let last = list["overrides"].as_array().unwrap().iter().find(|other| other["id"] == one["id"]);
    assert_eq!(last.unwrap()["ended"], "expired", "{list}");
}

#[test]
fn who_may_override_and_what_is_refused() {
    let daemon = Daemon::start(&(limits() + "\n[ceilings.strategy.alpha]\norder_qty = 3_000\n"));
    let now = etag(&daemon);
    let post = |who: &str, body: &Value| daemon.ask(who, "POST", "/v1/overrides", Some(body));
    assert_eq!(post("olaf", &qty(2_000, 3_600, &now)).0, 403);
    assert_eq!(post("rita", &qty(2_000, 3_600, &Value::Null)).0, 428, "a raise names what it was decided on");
    assert_eq!(post("rita", &qty(2_000, 3_600, &json!("other"))).0, 412);
    let (status, problem) = post("rita", &qty(3_001, 3_600, &now));
    assert_eq!((status, &problem["type"]), (403, &json!("urn:haltline:problem:above-ceiling")), "{problem}");
    let (status, problem) = post("rita", &qty(2_000, 86_400, &now));
    assert_eq!((status, &problem["field"]), (422, &json!("for_seconds")), "{problem}");
    let mut wrong = qty(2_000, 3_600, &now);
    wrong["rule"] = json!("heartbeat_loss");
    assert_eq!(post("rita", &wrong).1["field"], "rule");
    wrong["limit"] = json!("12.5");
    wrong["rule"] = json!("order_qty");
    assert_eq!(post("rita", &wrong).1["field"], "limit");
    assert_eq!(active(&daemon), 0);
    // What tightens needs no second look at anything.
    assert_eq!(post("rita", &qty(5, 3_600, &Value::Null)).0, 201);
    assert_eq!(buy(&daemon, "1", 6)["limit"], "5");
}

#[test]
fn raising_what_two_people_guard_takes_two_and_so_does_taking_a_cut_back() {
    let daemon = Daemon::start(&limits());
    let (status, one) = daemon.ask("rita", "POST", "/v1/overrides", Some(&firm(200, &etag(&daemon))));
    assert_eq!((status, &one["status"]), (202, &json!("pending")), "{one}");
    assert_eq!(active(&daemon), 0);
    let path = format!("/v1/overrides/{}", one["id"].as_str().unwrap());
    let approve =
        |who: &str, path: &str| daemon.ask(who, "POST", &format!("{path}/approve"), Some(&json!({ "reason": "seen" })));
    assert_eq!(approve("rita", &path).0, 403, "the same person twice");
    let (status, one) = approve("ruth", &path);
    assert_eq!((status, &one["status"], &one["agreed_by"]), (200, &json!("active"), &json!("ruth")), "{one}");
    // Down again by one person, which replaces it; and taking that back is a raise.
    let (status, cut) = daemon.ask("rita", "POST", "/v1/overrides", Some(&firm(50, &Value::Null)));
    assert_eq!(status, 201, "{cut}");
    assert_eq!(active(&daemon), 1);
    let path = format!("/v1/overrides/{}", cut["id"].as_str().unwrap());
    let back = json!({ "reason": "over" });
    assert_eq!(daemon.ask("rita", "DELETE", &path, Some(&back)).0, 202);
    assert_eq!(active(&daemon), 1);
    assert_eq!(approve("rita", &path).0, 403);
    assert_eq!(approve("ruth", &path).0, 200);
    assert_eq!(active(&daemon), 0);
}

#[test]
fn of_two_officers_who_looked_at_the_same_limits_one_has_to_look_again() {
    let daemon = Daemon::start(LIMITS);
    for round in 0..5 {
        let seen = etag(&daemon);
        let ask_for = |who: &'static str, limit: u64| {
            let (http, body) = (daemon.http.clone(), qty(limit, 3_600, &seen));
            std::thread::spawn(move || ask(&http, who, "POST", "/v1/overrides", Some(&body)).0)
        };
        let both = [ask_for("rita", 2_000 + round), ask_for("ruth", 3_000 + round)];
        let mut statuses = both.map(|thread| thread.join().unwrap());
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 412]);
    }
}

#[test]
fn a_halt_in_between_voids_a_raise_that_waits() {
    let daemon = Daemon::start(&limits());
    let (_, one) = daemon.ask("rita", "POST", "/v1/overrides", Some(&firm(200, &etag(&daemon))));
    let path = format!("/v1/overrides/{}/approve", one["id"].as_str().unwrap());
    daemon.kill("firm", "", "something is wrong");
    let (status, problem) = daemon.ask("ruth", "POST", &path, Some(&json!({ "reason": "seen" })));
    assert_eq!((status, &problem["type"]), (409, &json!("urn:haltline:problem:void")), "{problem}");
    assert_eq!(active(&daemon), 0);
}

#[test]
fn kills_while_limits_change_are_never_undone_by_it() {
    let daemon = Daemon::start(LIMITS);
    let http = daemon.http.clone();
    let changing = std::thread::spawn(move || {
        for n in 0..20u64 {
            let (status, now) = ask(&http, "vera", "GET", "/v1/overrides", None);
            assert_eq!(status, 200, "{now}");
            let (status, one) = ask(&http, "rita", "POST", "/v1/overrides", Some(&qty(2_000 + n, 3_600, &now["etag"])));
            assert_eq!(status, 201, "{one}");
        }
    });
    daemon.kill("strategy", "alpha", "stop");
    while !changing.is_finished() {
        assert_eq!(daemon.mode("strategy", "alpha"), "halted");
    }
    changing.join().unwrap();
    assert_eq!(buy(&daemon, "1", 1)["rule"], "mode");
}

#[test]
fn an_override_survives_a_crash_and_one_that_ends_meanwhile_does_not() {
    let daemon = Daemon::start(&limits());
    let (status, _) = daemon.ask("rita", "POST", "/v1/overrides", Some(&qty(2_000, 3_600, &etag(&daemon))));
    assert_eq!(status, 201);
    let short = json!({
        "scope": { "kind": "firm", "name": "" }, "rule": "working_orders", "limit": 3, "for_seconds": 1, "reason": "r",
    });
    assert_eq!(daemon.ask("rita", "POST", "/v1/overrides", Some(&short)).0, 201);
    let begun = SystemTime::now();
    let dir = daemon.sigkill();
    let begin = Instant::now();
    while begun.elapsed().is_ok_and(|gone| gone.as_secs() < 2) {
        assert!(begin.elapsed() < PATIENCE);
        std::thread::yield_now();
    }
    let daemon = Daemon::run(dir);
    assert_eq!(active(&daemon), 1);
    assert_eq!(daemon.mode("firm", ""), "normal", "positions are exact: the journal has the limits that applied");
    assert_eq!(buy(&daemon, "1", 1_500)["verdict"], "admit");
    assert_eq!(buy(&daemon, "2", 2_500)["limit"], "2000");
    // And through an orderly end.
    let daemon = Daemon::run(daemon.terminate().1);
    assert_eq!(buy(&daemon, "3", 2_500)["limit"], "2000");
}

#[test]
fn of_a_record_that_is_lost_nothing_that_loosens_survives() {
    let damage: [fn(&std::path::Path); 2] = [
        |path| std::fs::remove_file(path).unwrap(),
        |path| {
            let mut bytes = std::fs::read(path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(path, bytes).unwrap();
        },
    ];
    for damage in damage {
        let daemon = Daemon::start(&limits());
        let raised = daemon.ask("rita", "POST", "/v1/overrides", Some(&qty(2_000, 3_600, &etag(&daemon))));
        let cut = daemon.ask("rita", "POST", "/v1/overrides", Some(&firm(1, &Value::Null)));
        assert_eq!((raised.0, cut.0), (201, 201));
        let (_, dir) = daemon.terminate();
        damage(&dir.path().join("state/overlays.json"));
        let daemon = Daemon::run(dir);
        let list = daemon.get("vera", "/v1/overrides");
        assert_eq!(list["active"], 1, "{list}");
        assert_eq!(list["overrides"][0]["rule"], "working_orders");
        assert_eq!(buy(&daemon, "1", 1_500)["limit"], "1000");
        assert_eq!(buy(&daemon, "2", 1)["verdict"], "admit");
        assert_eq!(buy(&daemon, "3", 1)["rule"], "working_orders");
        assert!(daemon.get("vera", "/v1/state").to_string().contains("nothing that loosens"));
    }
}

#[test]
fn a_replay_comes_to_what_was_with_overrides_in_the_journal() {
    let daemon = Daemon::start(LIMITS);
    for (n, limit) in [2_000, 100, 5_000].into_iter().enumerate() {
        buy(&daemon, &format!("a{n}"), 900);
        assert_eq!(daemon.ask("rita", "POST", "/v1/overrides", Some(&qty(limit, 3_600, &etag(&daemon)))).0, 201);
        buy(&daemon, &format!("b{n}"), 1_900);
    }
    let (status, dir) = daemon.terminate();
    assert!(status.success());
    let out = crate::support::haltline(&["replay", "state", "--json"]).current_dir(dir.path()).output().unwrap();
    assert!(out.status.success(), "{out:?}");
    let found: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(found.to_string().contains("order_qty"), "{found}");
    // The next start replays it as well, and would halt if it came to something else.
    let daemon = Daemon::run(dir);
    assert_eq!(daemon.mode("firm", ""), "normal");
}

#[test]
fn a_reload_keeps_a_cut_and_ends_a_raise_of_what_it_changes() {
    let daemon = Daemon::start(&limits());
    assert_eq!(daemon.ask("rita", "POST", "/v1/overrides", Some(&qty(2_000, 3_600, &etag(&daemon)))).0, 201);
    assert_eq!(daemon.ask("rita", "POST", "/v1/overrides", Some(&firm(50, &Value::Null))).0, 201);
    let path = daemon.dir.path().join("haltline.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let reload = || daemon.ask("rita", "POST", "/v1/limits/reload", Some(&json!({ "reason": "new limits" }))).0;
    std::fs::write(&path, text.replace("working_orders = 100", "working_orders = 90")).unwrap();
    assert_eq!((reload(), active(&daemon)), (200, 2));
    std::fs::write(&path, text.replace("order_qty = 1_000", "order_qty = 500")).unwrap();
    assert_eq!((reload(), active(&daemon)), (200, 1));
    assert_eq!(buy(&daemon, "1", 501)["limit"], "500");
    let list = daemon.get("vera", "/v1/overrides").to_string();
    assert!(list.contains("file_changed"), "{list}");
}

#[test]
fn a_file_that_says_overlays_is_refused() {
    let daemon = Daemon::start(LIMITS);
    let path = daemon.dir.path().join("haltline.toml");
    let mut text = std::fs::read_to_string(&path).unwrap();
    text += "\n[[overlays]]\nid = 1\nkind = \"firm\"\nset = \"order_qty\"\nvalue = 5\n";
    std::fs::write(&path, text).unwrap();
    let out = daemon.haltline(&["check-config", "haltline.toml"]);
    assert_eq!(out.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&out.stderr).contains("running service"), "{out:?}");
}

#[test]
fn what_if_tells_who_would_be_above_and_changes_nothing() {
    let daemon = Daemon::start(&limits());
    for n in 0..3 {
        assert_eq!(buy(&daemon, &n.to_string(), 1)["verdict"], "admit");
    }
    let change = json!({ "changes": [{ "scope": { "kind": "firm" }, "rule": "working_orders", "limit": 2 }] });
    daemon.until("the firm is seen to be above", |d| {
        let (status, found) = d.ask("vera", "POST", "/v1/limits/what-if", Some(&change));
        assert_eq!(status, 200, "{found}");
        let row = &found["changes"][0];
        assert_eq!((&row["now"], &row["would_be"]), (&json!("100"), &json!("2")));
        found["above"] == 1 && row["observed"] == "3" && row["would_be_percent"] == 150.0
    });
    let text = std::fs::read_to_string(daemon.dir.path().join("haltline.toml")).unwrap();
    let text = json!({ "text": text.replace("order_qty = 1_000", "order_qty = 7") });
    assert_eq!(daemon.ask("vera", "POST", "/v1/limits/what-if", Some(&text)).0, 403);
    let (_, found) = daemon.ask("rita", "POST", "/v1/limits/what-if", Some(&text));
    let rows = found["changes"].as_array().unwrap();
    assert_eq!(rows.len(), 2, "alpha and beta: {found}");
    assert!(rows.iter().all(|row| row["rule"] == "order_qty" && row["would_be"] == "7"));
    assert_eq!(buy(&daemon, "after", 999)["verdict"], "admit");
}

#[test]
fn a_file_over_the_interface_needs_leave_a_tag_and_nothing_looser() {
    let daemon = Daemon::start(LIMITS);
    let path = daemon.dir.path().join("haltline.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let put = |daemon: &Daemon, tag: &str, text: &str| {
        let body = json!({ "text": text, "reason": "by hand" });
        let headers = if tag.is_empty() { String::new() } else { format!("If-Match: \"{tag}\"\r\n") };
        ask_with(&daemon.http, "rita", "PUT", "/v1/limits", &headers, Some(&body))
    };
    let tag = |daemon: &Daemon| etag(daemon).as_str().unwrap().to_owned();
    let less = text.replace("order_qty = 1_000", "order_qty = 7");
    assert_eq!(put(&daemon, &tag(&daemon), &less).0, 403, "this service does not write its file");
    let (_, dir) = daemon.terminate();
    let text = format!("{text}\n[limits_api]\nwrite = true\n");
    std::fs::write(&path, &text).unwrap();
    let daemon = Daemon::run(dir);
    let less = text.replace("order_qty = 1_000", "order_qty = 7");
    assert_eq!(put(&daemon, "", &less).0, 428);
    let seen = tag(&daemon);
    assert_eq!(put(&daemon, &seen, &text.replace("order_qty = 1_000", "order_qty = 1_001")).0, 403, "looser");
    assert_eq!(put(&daemon, &seen, &text.replace("order_qty = 1_000", "order_qty = -1")).0, 422);
    assert_eq!(put(&daemon, &seen, &less).0, 200);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), less);
    assert_eq!(put(&daemon, &seen, &text).0, 412, "somebody else was faster");
    assert_eq!(buy(&daemon, "1", 8)["limit"], "7");
}

#[test]
fn the_command_line_asks_lists_and_takes_back() {
    let daemon = Daemon::start(LIMITS);
    let token = daemon.dir.path().join("token");
    std::fs::write(&token, crate::support::token("rita")).unwrap();
    let url = format!("http://{}", daemon.http);
    let run = |args: &[&str]| {
        let mut command = crate::support::haltline(args);
        let out = command.args(["--text", "--url", &url, "--token-file"]).arg(&token).output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr))
    };
    let place = ["--scope", "strategy:alpha", "--rule", "order_qty", "--limit", "2000"];
    let (code, said) = run(&[&["limits", "what-if"], &place[..]].concat());
    assert_eq!((code, said.as_str()), (Some(0), "strategy alpha order_qty: 1000 → 2000 qty_units\n"));
    let (code, said) = run(&[&["limits", "override"], &place[..], &["--for", "30m", "--reason", "a block"]].concat());
    let left = said.split_once("in force for ").and_then(|(_, rest)| rest.split_once(" s more")?.0.parse::<u64>().ok());
    assert!(code == Some(0) && left.is_some_and(|left| (1..=1_800).contains(&left)), "{said}");
    let id = said.split(' ').next().unwrap().to_owned();
    let (code, said) = run(&["limits", "overrides"]);
    assert!(code == Some(0) && said.contains("2000 instead of 1000 qty_units (by rita: a block)"), "{said}");
    let (code, said) = run(&["limits", "overrides", "--end", &id, "--reason", "it is done"]);
    assert!(code == Some(0) && said.contains("over: removed"), "{said}");
    assert_eq!(run(&["limits", "probation"]), (Some(0), "nobody is on probation\n".to_owned()));
    let (code, said) = run(&["drill", "--reason", "r"]);
    assert!(code == Some(4) && said.contains("[drill]"), "none is configured: {said}");
    assert_eq!(active(&daemon), 0);
}

#[test]
fn a_new_build_has_a_fraction_until_it_is_promoted_also_over_a_restart() {
    use haltline::app::{self, StartOptions, config};
    use haltline::model::Scope;

    let dir = tempfile::tempdir().unwrap();
    let ramp = "[ramp]\nsteps = [\"10%\", \"50%\"]\nclean_for = \"1h\"\n";
    let text = crate::support::config(&dir.path().join("state"), &(ramp.to_owned() + LIMITS));
    let start = || {
        let loaded = config::load("test", &text).unwrap();
        app::start(loaded, StartOptions { any_port: true, ..StartOptions::default() }).unwrap()
    };
    let qty = |running: &app::Running| {
        let session = Scope::Session(running.universe.session("gw-1").unwrap());
        let limits = running.limits.read().unwrap();
        limits.scope(&running.universe, session).unwrap().order_qty
    };
    app::init_state_dir(&dir.path().join("state")).unwrap();
    let running = start();
    assert!(running.new_build("no session", "b2").is_err());
    running.new_build("gw-1", "b2").unwrap();
    // Of the session nothing is limited: it has a tenth of what the strategies have.
    assert_eq!(qty(&running), 100);
    running.stop().unwrap();
    let running = start();
    assert_eq!(qty(&running), 100);
    let http = running.http_addr.to_string();
    let (status, list) = ask(&http, "vera", "GET", "/v1/probation", None);
    assert_eq!((status, &list["probation"][0]["after"]), (200, &json!("the new build b2")), "{list}");
    let path = "/v1/probation/session/gw-1/promote";
    assert_eq!(ask(&http, "rita", "POST", path, Some(&json!({ "reason": "watched it" }))).0, 200);
    assert!(qty(&running) > 1_000);
    running.stop().unwrap();
}

#[test]
fn a_role_that_counts_for_one_scope_changes_no_other() {
    let drill =
        "[drill]\nsession = \"drill\"\nstrategy = \"alpha\"\ninstrument = \"ACME\"\n[sessions.drill]\nkind = \"ask\"\n";
    let (_, dir) = Daemon::start(&(drill.to_owned() + LIMITS)).terminate();
    let path = dir.path().join("haltline.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let rita = "name = \"rita\", role = \"risk\",";
    assert!(text.contains(rita));
    std::fs::write(&path, text.replace(rita, &format!("{rita} scopes = [\"strategy:beta\"],"))).unwrap();
    let daemon = Daemon::run(dir);
    let other = |method: &str, path: &str, body: &Value| {
        let (status, problem) = daemon.ask("rita", method, path, Some(body));
        assert_eq!((status, &problem["type"]), (403, &json!("urn:haltline:problem:other-scope")), "{path}: {problem}");
    };
    other("POST", "/v1/overrides", &qty(5, 3_600, &Value::Null));
    let (status, one) = daemon.ask("ruth", "POST", "/v1/overrides", Some(&qty(5, 3_600, &Value::Null)));
    assert_eq!(status, 201, "{one}");
    let reason = json!({ "reason": "r" });
    other("DELETE", &format!("/v1/overrides/{}", one["id"].as_str().unwrap()), &reason);
    other("POST", "/v1/probation/strategy/alpha/promote", &reason);
    other("POST", "/v1/drills", &reason);
    other("PUT", "/v1/limits", &json!({ "text": text, "reason": "r" }));
    let mut own = qty(5, 3_600, &Value::Null);
    own["scope"]["name"] = json!("beta");
    assert_eq!(daemon.ask("rita", "POST", "/v1/overrides", Some(&own)).0, 201);
    assert_eq!(active(&daemon), 2);
}
