//! The whole program from outside: what a gateway, an operator and an SRE see of it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::json;

use crate::support::{Daemon, Gateway, LIMITS, PATIENCE, TOLERATED, ask, block_on, haltline, token};

#[test]
fn a_halt_survives_sigkill() {
    let daemon = Daemon::start(LIMITS);
    let receipt = daemon.kill("strategy", "beta", "it sells what we do not have");
    assert_eq!(receipt["latch"]["durable"], true, "{receipt}");
    let daemon = Daemon::run(daemon.sigkill());
    assert_eq!(daemon.mode("strategy", "beta"), "halted");
    let state = daemon.get("vera", "/v1/state").to_string();
    assert!(state.contains("it sells what we do not have"), "the cause is kept: {state}");
}

#[test]
fn sigkill_at_any_moment_after_the_receipt_loses_no_halt() {
    // Round after round on the same directory: kill, and SIGKILL at once.
    let mut daemon = Daemon::start(LIMITS);
    for (kind, name) in
        [("strategy", "alpha"), ("session", "gw-1"), ("instrument", "ACME"), ("account", "main"), ("firm", "")]
    {
        let receipt = daemon.kill(kind, name, "again");
        assert_eq!(receipt["latch"]["durable"], true, "{receipt}");
        daemon = Daemon::run(daemon.sigkill());
        assert_eq!(daemon.mode(kind, name), "halted", "{kind} {name}");
    }
    assert_eq!(daemon.mode("strategy", "alpha"), "halted");
}

#[test]
fn without_a_journal_an_unclean_end_starts_halted_and_a_clean_one_without_events_does_not() {
    let (status, dir) = Daemon::start(LIMITS).terminate();
    assert!(status.success());
    let daemon = Daemon::run(without_journal(dir));
    assert_eq!(daemon.mode("firm", ""), "normal");
    let daemon = Daemon::run(daemon.sigkill());
    assert_eq!(daemon.mode("firm", ""), "halted");
}

fn without_journal(dir: tempfile::TempDir) -> tempfile::TempDir {
    let path = dir.path().join("haltline.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("[journal]", "[journal]\nenabled = false")).unwrap();
    dir
}

#[test]
fn positions_that_are_lost_with_a_restart_halt_the_firm() {
    let daemon = Daemon::run(without_journal(Daemon::start(LIMITS).terminate().1));
    block_on(async {
        let (mut gateway, _) = Gateway::connect(&daemon, "gw-1").await;
        assert_eq!(gateway.buy("1", 10).await["verdict"], "admit");
    });
    let (status, dir) = daemon.terminate();
    assert!(status.success());
    let daemon = Daemon::run(dir);
    assert_eq!(daemon.mode("firm", ""), "halted");
    assert!(daemon.get("vera", "/v1/state").to_string().contains("unknown after a restart"));
}

#[test]
fn a_latch_that_is_missing_or_damaged_starts_halted() {
    let daemon = Daemon::start(LIMITS);
    let (_, dir) = daemon.terminate();
    let latch = dir.path().join("state/latch");
    let good = std::fs::read(&latch).unwrap();
    std::fs::remove_file(&latch).unwrap();
    let daemon = Daemon::run(dir);
    assert_eq!(daemon.mode("firm", ""), "halted");
    let (_, dir) = daemon.terminate();
    std::fs::write(&latch, &good[..good.len() - 1]).unwrap();
    let daemon = Daemon::run(dir);
    assert_eq!(daemon.mode("firm", ""), "halted");
}

#[test]
fn a_state_directory_is_only_made_on_purpose() {
    let daemon = Daemon::start(LIMITS);
    let (_, dir) = daemon.terminate();
    let again = haltline(&["init", "--config", "haltline.toml"]).current_dir(dir.path()).output().unwrap();
    assert!(!again.status.success());
    std::fs::remove_dir_all(dir.path().join("state")).unwrap();
    let out = haltline(&["serve", "--config", "haltline.toml"]).current_dir(dir.path()).output().unwrap();
    assert!(!out.status.success());
    assert!(String::from_utf8_lossy(&out.stderr).contains("haltline init"), "{out:?}");
}

#[test]
fn two_services_cannot_share_a_state_directory() {
    let daemon = Daemon::start(LIMITS);
    let out = haltline(&["serve", "--config", "haltline.toml"]).current_dir(daemon.dir.path()).output().unwrap();
    assert!(!out.status.success());
    assert!(String::from_utf8_lossy(&out.stderr).contains("in use"), "{out:?}");
}

#[test]
fn a_breach_is_denied_and_a_rate_breach_halts_what_is_pushed_and_confirmed() {
    // A rate that counts however slowly this machine sends.
    let daemon = Daemon::start(&LIMITS.replace("per = \"1s\"", "per = \"1h\""));
    block_on(async {
        let (mut gateway, _) = Gateway::connect(&daemon, "gw-1").await;
        let verdict = gateway.buy("big", 1_001).await;
        assert_eq!(verdict["verdict"], "deny");
        assert_eq!(verdict["rule"], "order_qty");
        assert_eq!(verdict["observed"], "1001");
        assert_eq!(verdict["limit"], "1000");
        assert_eq!(verdict["scope"], json!({ "kind": "strategy", "name": "alpha" }));
        for n in 0..50 {
            assert_eq!(gateway.buy(&format!("o{n}"), 1).await["verdict"], "admit", "{n}");
        }
        let verdict = gateway.buy("one too many", 1).await;
        assert_eq!(verdict["rule"], "order_rate", "{verdict}");
        let halted = json!({ "kind": "strategy", "name": "alpha" });
        while !gateway
            .modes
            .iter()
            .any(|m| m["kind"] == halted["kind"] && m["name"] == "alpha" && m["mode"] == "halted")
        {
            gateway.next_of("mode").await;
        }
        let verdict = gateway.buy("after the halt", 1).await;
        assert_eq!(verdict["rule"], "mode", "{verdict}");
    });
    daemon.until("the halt is latched", |d| d.mode("strategy", "alpha") == "halted");
}

#[test]
fn a_kill_is_told_to_the_gateway_and_the_receipt_says_so() {
    let daemon = Daemon::start(LIMITS);
    block_on(async {
        let (mut gateway, _) = Gateway::connect(&daemon, "gw-1").await;
        assert_eq!(gateway.buy("1", 1).await["verdict"], "admit");
        let http = daemon.http.clone();
        let pressed = tokio::task::spawn_blocking(move || crate::support::kill(&http, "firm", "", "rehearsal"));
        while !gateway.modes.iter().any(|mode| mode["kind"] == "firm" && mode["mode"] == "halted") {
            gateway.next_of("mode").await;
        }
        // The receipt waits for the confirmation, which is on its way.
        let receipt = daemon.confirmed(pressed.await.unwrap());
        let text = receipt.to_string();
        assert!(text.contains("gw-1"), "{text}");
        assert_eq!(gateway.buy("2", 1).await["rule"], "mode");
    });
}

#[test]
fn a_gateway_that_comes_back_goes_on_where_it_was() {
    let daemon = Daemon::start(LIMITS);
    block_on(async {
        let (mut gateway, _) = Gateway::connect(&daemon, "gw-1").await;
        gateway.buy("1", 1).await;
        gateway.buy("2", 1).await;
        drop(gateway);
        let (mut gateway, welcome) = Gateway::connect(&daemon, "gw-1").await;
        assert_eq!(welcome["next_seq"], 3);
        assert_eq!(gateway.buy("2", 1).await["rule"], "duplicate_id");
        assert_eq!(gateway.buy("3", 1).await["verdict"], "admit");
    });
}

#[test]
fn rearming_the_firm_takes_two_people_and_the_right_epoch() {
    let daemon = Daemon::start(LIMITS);
    let receipt = daemon.kill("firm", "", "drill");
    let epoch = receipt["epoch"].as_u64().unwrap();
    let firm = json!({ "kind": "firm", "name": "" });
    let ask = |epoch| json!({ "scope": firm, "epoch": epoch, "reason": "the drill is over" });
    assert_eq!(daemon.ask("olaf", "POST", "/v1/rearm", Some(&ask(epoch))).0, 403);
    assert_eq!(daemon.ask("rita", "POST", "/v1/rearm", Some(&ask(epoch + 1))).0, 409);
    let (status, pending) = daemon.ask("rita", "POST", "/v1/rearm", Some(&ask(epoch)));
    assert_eq!(status, 202, "{pending}");
    assert_eq!(daemon.mode("firm", ""), "halted");
    let path = format!("/v1/rearm/{}/approve", pending["id"].as_str().unwrap());
    let reason = json!({ "reason": "seen" });
    assert!(daemon.ask("rita", "POST", &path, Some(&reason)).0 >= 400, "the same person twice");
    assert_eq!(daemon.mode("firm", ""), "halted");
    let (status, done) = daemon.ask("ruth", "POST", &path, Some(&reason));
    assert_eq!(status, 200, "{done}");
    assert_eq!(daemon.mode("firm", ""), "normal");
    let (status, dir) = daemon.terminate();
    assert!(status.success());
    assert_eq!(Daemon::run(dir).mode("firm", ""), "normal");
}

#[test]
fn sighup_takes_new_limits_and_keeps_the_old_ones_if_they_are_wrong() {
    let daemon = Daemon::start(LIMITS);
    let file = daemon.dir.path().join("haltline.toml");
    let generation = |d: &Daemon| d.get("vera", "/v1/state")["limits_generation"].clone();
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("order_qty = 1_000", "order_qty = 5")).unwrap();
    let before = generation(&daemon);
    daemon.signal("HUP");
    daemon.until("the new limits are in force", |d| generation(d) != before);
    block_on(async {
        let (mut gateway, _) = Gateway::connect(&daemon, "gw-1").await;
        assert_eq!(gateway.buy("1", 6).await["limit"], "5");
    });
    std::fs::write(&file, text.replace("order_qty = 1_000", "order_qty = -5")).unwrap();
    let (status, problem) = daemon.ask("rita", "POST", "/v1/limits/reload", Some(&json!({ "reason": "a wrong file" })));
    assert!(status >= 400, "{problem}");
    assert!(problem.to_string().contains("order_qty"), "{problem}");
    block_on(async {
        let (mut gateway, _) = Gateway::connect(&daemon, "gw-1").await;
        assert_eq!(gateway.buy("2", 6).await["limit"], "5");
    });
}

#[test]
fn sigusr1_halts_the_firm() {
    let daemon = Daemon::start(LIMITS);
    daemon.signal("USR1");
    daemon.until("the firm is halted", |d| d.mode("firm", "") == "halted");
}

#[test]
fn the_command_line_kills_and_tells_the_state() {
    let daemon = Daemon::start(LIMITS);
    let token = daemon.dir.path().join("token");
    std::fs::write(&token, crate::support::token("olaf")).unwrap();
    let url = format!("http://{}", daemon.http);
    let run = |args: &[&str]| haltline(args).args(["--url", &url, "--token-file"]).arg(&token).output().unwrap();
    let run = |args: &[&str], code: i32| {
        let begin = std::time::Instant::now();
        loop {
            let out = run(args);
            if out.status.code() == Some(code) {
                return;
            }
            // It waits only so long for an answer, and for the disk.
            assert!(begin.elapsed() < PATIENCE, "{args:?} does not end with {code}: {out:?}");
        }
    };
    run(&["state"], 0);
    run(&["kill", "--scope", "strategy:alpha", "--reason", "from a shell", "--timeout", "60000"], 0);
    assert_eq!(daemon.mode("strategy", "alpha"), "halted");
    run(&["state"], 3);
}

#[test]
fn a_kill_by_signal_does_not_wait_for_a_reload() {
    let daemon = Daemon::start(LIMITS);
    let path = daemon.dir.path().join("haltline.toml");
    std::fs::remove_file(&path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    daemon.signal("HUP");
    // Opened for writing as soon as the service reads it; and nothing comes.
    let stuck = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    daemon.signal("USR1");
    daemon.until("the firm is halted", |d| d.mode("firm", "") == "halted");
    drop(stuck);
}

#[test]
fn a_reload_that_read_an_older_file_does_not_undo_a_newer_one() {
    let daemon = Daemon::start(LIMITS);
    let path = daemon.dir.path().join("haltline.toml");
    let old = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    daemon.signal("HUP");
    let mut slow = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, old.replace("order_qty = 1_000", "order_qty = 7")).unwrap();
    let http = daemon.http.clone();
    let newer =
        std::thread::spawn(move || ask(&http, "rita", "POST", "/v1/limits/reload", Some(&json!({ "reason": "less" }))));
    // It either waits for the slow one or is over by now; its result must stand in both cases.
    let begin = std::time::Instant::now();
    while !newer.is_finished() && begin.elapsed() < std::time::Duration::from_millis(500) {
        std::thread::yield_now();
    }
    slow.write_all(old.as_bytes()).unwrap();
    drop(slow);
    assert_eq!(newer.join().unwrap().0, 200);
    daemon.until("both are in force", |d| d.get("vera", "/v1/state")["limits_generation"] == 3);
    block_on(async {
        let (mut gateway, _) = Gateway::connect(&daemon, "gw-1").await;
        let verdict = gateway.buy("1", 8).await;
        assert_eq!((&verdict["rule"], &verdict["limit"]), (&json!("order_qty"), &json!("7")));
    });
}

/// Receipts of presses for this reason.
fn presses(daemon: &Daemon, reason: &str) -> usize {
    let kills = daemon.get("vera", "/v1/kills");
    kills["kills"].as_array().unwrap().iter().filter(|kill| kill["reason"] == reason).count()
}

/// A script that dies, or a tool that closes its side as soon as it has sent everything.
#[test]
fn a_kill_whose_sender_hangs_up_at_once_is_taken_and_recorded() {
    let daemon = Daemon::start(LIMITS);
    let body = json!({ "scope": { "kind": "strategy", "name": "alpha" }, "reason": "gone at once" }).to_string();
    let head = format!(
        "POST /v1/kill HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
        body.len()
    );
    let auth = format!("Authorization: Bearer {}\r\n", token("olaf"));
    // Everything is there, the end as well, when the service first looks.
    daemon.signal("STOP");
    for round in 0..20 {
        let mut stream = TcpStream::connect(&daemon.http).unwrap();
        stream.write_all(format!("{head}{auth}\r\n{body}").as_bytes()).unwrap();
        if round % 2 == 0 {
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        } else {
            drop(stream);
        }
    }
    daemon.signal("CONT");
    daemon.until("every press is taken", |daemon| presses(daemon, "gone at once") == 20);
    assert_eq!(daemon.mode("strategy", "alpha"), "halted");
}

/// hyper drops what it is at when the sender hangs up: what is begun has to be on its own by then.
#[test]
fn a_kill_whose_sender_hangs_up_while_it_is_read_is_taken_and_recorded() {
    let daemon = Daemon::start(LIMITS);
    let body = json!({ "scope": { "kind": "strategy", "name": "alpha" }, "reason": "gone meanwhile" }).to_string();
    let head = format!(
        "POST /v1/kill HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Authorization: Bearer {}\r\nExpect: 100-continue\r\n\r\n",
        body.len(),
        token("olaf")
    );
    const ROUNDS: usize = 4;
    let (mut round, mut judged) = (0, 0);
    while judged < ROUNDS {
        round += 1;
        let begin = std::time::Instant::now();
        let mut stream = TcpStream::connect(&daemon.http).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        // It has begun, and waits for the body.
        let mut goes_on = [0; 25];
        if stream.read_exact(&mut goes_on).is_err() {
            assert!(begin.elapsed() > TOLERATED, "it hangs up");
            continue;
        }
        assert_eq!(&goes_on, b"HTTP/1.1 100 Continue\r\n\r\n");
        // The body and the end are both there when it looks again.
        daemon.signal("STOP");
        let _ = stream.write_all(body.as_bytes());
        if round % 2 == 0 {
            let _ = stream.shutdown(std::net::Shutdown::Write);
        } else {
            drop(stream);
        }
        // It waits for a body only so long: what took this thread longer is not known to have been in time.
        judged += usize::from(begin.elapsed() < TOLERATED);
        daemon.signal("CONT");
    }
    let sure = judged..=round;
    daemon.until("every press is taken", |daemon| sure.contains(&presses(daemon, "gone meanwhile")));
    daemon.until("every press is in the journal", |daemon| sure.contains(&recorded(daemon, "kill", "gone meanwhile")));
}

/// How many records of `action` the journal has for this reason.
fn recorded(daemon: &Daemon, action: &str, reason: &str) -> usize {
    let audit = daemon.get("rita", &format!("/v1/audit?action={action}"));
    audit["entries"].as_array().unwrap().iter().filter(|record| record["reason"] == reason).count()
}

#[test]
fn a_change_whose_caller_hangs_up_while_it_is_made_is_recorded() {
    let daemon = Daemon::start(LIMITS);
    let path = daemon.dir.path().join("haltline.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let body = json!({ "reason": "gone meanwhile" }).to_string();
    let request = format!(
        "POST /v1/limits/reload HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Authorization: Bearer {}\r\n\r\n{body}",
        body.len(),
        token("rita")
    );
    let mut stream = TcpStream::connect(&daemon.http).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    // Opened as soon as the service reads the limits: it is at it, and cannot go on.
    let mut slow = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    drop(stream);
    // The same thread answers this: it has seen the end of the other connection by then.
    for _ in 0..3 {
        assert_eq!(ask(&daemon.http, "vera", "GET", "/livez", None).0, 200);
    }
    slow.write_all(text.replace("order_qty = 1_000", "order_qty = 7").as_bytes()).unwrap();
    drop(slow);
    daemon.until("the limits are in force", |d| d.get("vera", "/v1/state")["limits_generation"] == 2);
    daemon.until("who changed them is in the journal", |daemon| recorded(daemon, "limits", "gone meanwhile") == 1);
}

/// Bytes of the process's memory that are there.
fn resident(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
fn the_memory_of_the_engines_tables_is_there_before_the_first_order() {
    let dir = Daemon::start(LIMITS).terminate().1;
    let path = dir.path().join("haltline.toml");
    // A hundred bytes each and more.
    let text = std::fs::read_to_string(&path).unwrap().replace("working_orders = 4_096", "working_orders = 524_288");
    std::fs::write(&path, &text).unwrap();
    let daemon = Daemon::run(dir);
    let asked_for = resident(&daemon);
    let dir = daemon.terminate().1;
    std::fs::write(&path, text.replace("[engine]", "[engine]\nprefault = false")).unwrap();
    let daemon = Daemon::run(dir);
    let not = resident(&daemon);
    assert!(asked_for > not + (32 << 20), "{asked_for} bytes, and {not} where it is taken when it is first used");
}
