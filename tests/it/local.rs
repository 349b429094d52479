//! Kill without the network: the local socket, the command line at it, the kill file.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Output;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Daemon, Gateway, LIMITS, PATIENCE, block_on, exchange, haltline, token};

/// What `kill --json` and the like printed.
fn said(out: &Output) -> Value {
    serde_json::from_slice(&out.stdout).unwrap_or_else(|error| panic!("{error}: {out:?}"))
}

/// One request over the local socket, as this process's user; the status and the body.
fn ask(socket: &Path, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let request = request(method, path, &body.to_string());
    let answer = exchange(
        || UnixStream::connect(socket),
        &request,
        |mut stream| {
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map(|_| answer)
        },
    );
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

fn request(method: &str, path: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// How long the command line waits at the socket, where a test is not about that: it may have to wait for this machine.
const WAITS: [&str; 2] = ["--timeout", "60000"];

fn is_root() -> bool {
    let root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    if !root {
        eprintln!("SKIPPED: only root can run a child as another user");
    }
    root
}

/// A directory that every user may enter.
fn open_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

#[test]
fn a_kill_over_the_local_socket_needs_no_token_and_names_the_user() {
    let daemon = Daemon::start(LIMITS);
    assert_eq!(std::fs::metadata(daemon.socket()).unwrap().mode() & 0o7777, 0o600);
    let args = ["kill", "--config", "haltline.toml", "--scope", "strategy:alpha", "--reason", "runaway"];
    let out = daemon.haltline_until(&[&args[..], &WAITS].concat(), 0);
    let said = said(&out);
    assert_eq!((&said["outcome"], &said["unconfirmed"]), (&json!("confirmed"), &json!([])), "{said}");
    assert_eq!((&said["tried"][0]["by"], &said["tried"][0]["result"]), (&json!("local_socket"), &json!("receipt")));
    assert!(said["receipt"]["actor"].as_str().unwrap().starts_with("local:"), "{said}");
    assert_eq!(said["receipt"]["reason"], "runaway");
    assert_eq!(daemon.mode("strategy", "alpha"), "halted");
    // At the other door nothing has changed: a token it is.
    let press = json!({ "scope": { "kind": "firm" } });
    assert_eq!(daemon.ask("nobody", "POST", "/v1/kill", Some(&press)).0, 401);
    assert_eq!(daemon.ask("olaf", "POST", "/v1/kill", Some(&press)).0, 200);
    let state = daemon.haltline_until(&["state", "--socket", "state/control.sock", "--text"], 3);
    let text = String::from_utf8(state.stdout).unwrap();
    assert!(text.contains("strategy alpha  halted ") && text.contains("runaway"), "{text}");
}

#[test]
fn the_socket_of_a_killed_service_is_replaced_and_an_orderly_end_takes_it_away() {
    let daemon = Daemon::start(LIMITS);
    let dir = daemon.sigkill();
    assert!(dir.path().join("state/control.sock").exists());
    let daemon = Daemon::run(dir);
    daemon.haltline_until(&[&["kill", "--config", "haltline.toml"][..], &WAITS].concat(), 0);
    let (status, dir) = daemon.terminate();
    assert!(status.success());
    assert!(!dir.path().join("state/control.sock").exists());
    let out = haltline(&["kill", "--config", "haltline.toml"]).current_dir(dir.path()).output().unwrap();
    assert_eq!(out.status.code(), Some(5), "{out:?}");
    assert_eq!((&said(&out)["outcome"], &said(&out)["receipt"]), (&json!("not_reached"), &Value::Null));
}

#[test]
fn an_error_at_start_does_not_make_the_last_run_an_unclean_one() {
    let (_, dir) = Daemon::start(LIMITS).terminate();
    let file = dir.path().join("haltline.toml");
    let good = std::fs::read_to_string(&file).unwrap();
    for wrong in ["[local]\nkill_file = \"none/KILL\"\n", "[local]\nsocket = \"none/s\"\n"] {
        std::fs::write(&file, format!("{good}{wrong}")).unwrap();
        let out = haltline(&["serve", "--config", "haltline.toml"]).current_dir(dir.path()).output().unwrap();
        assert_eq!(out.status.code(), Some(1), "{out:?}");
        assert!(String::from_utf8_lossy(&out.stderr).contains("none/"), "{out:?}");
    }
    std::fs::write(&file, good).unwrap();
    assert_eq!(Daemon::run(dir).mode("firm", ""), "normal");
}

#[test]
fn a_user_who_is_not_configured_is_refused_and_one_who_is_may_do_what_the_role_allows() {
    if !is_root() {
        return;
    }
    let dir = open_dir();
    // A copy, since the one that is tested may be out of their reach.
    let program = dir.path().join("program");
    std::fs::copy(env!("CARGO_BIN_EXE_haltline"), &program).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    // All of them are in the group, so that it is not the file's mode that refuses.
    let limits = format!(
        "{LIMITS}[local]\nsocket = \"s\"\ngroup = \"4242\"\n\
         operators = [{{ uid = 4001, name = \"rita\", role = \"risk\" }}, {{ uid = 4002, name = \"vic\", role = \"viewer\" }}]\n"
    );
    let daemon = Daemon::start_in(dir, &limits);
    let socket = daemon.dir.path().join("s");
    let made = std::fs::metadata(&socket).unwrap();
    assert_eq!((made.mode() & 0o7777, made.gid()), (0o660, 4242));
    let run = |uid: u32, args: &[&str]| {
        let mut command = std::process::Command::new(daemon.dir.path().join("program"));
        command.args(args).arg("--socket").arg(&socket).current_dir("/").uid(uid).gid(4242).output().unwrap()
    };
    let kill = [&["kill"][..], &WAITS].concat();
    let out = run(65_534, &kill);
    assert_eq!(out.status.code(), Some(4), "{out:?}");
    assert!(said(&out)["tried"][0]["text"].as_str().unwrap().contains("uid 65534"), "{out:?}");
    let out = run(4002, &kill);
    assert_eq!(out.status.code(), Some(4), "{out:?}");
    assert!(said(&out)["tried"][0]["text"].as_str().unwrap().contains("needs the role operator"), "{out:?}");
    assert_eq!(run(4002, &["state"]).status.code(), Some(0));
    assert_eq!(daemon.mode("firm", ""), "normal");
    // Who is not in the group does not even get in.
    let mut command = std::process::Command::new(daemon.dir.path().join("program"));
    let out = command.args(["kill", "--socket"]).arg(&socket).current_dir("/").uid(4001).gid(4001).output().unwrap();
    assert_eq!((out.status.code(), &said(&out)["tried"][0]["result"]), (Some(5), &json!("not_reached")), "{out:?}");

    // Rita at this machine and Rita with a token are one person.
    let begin = Instant::now();
    let out = loop {
        let out = run(4001, &[&["kill", "--reason", "drill"][..], &WAITS].concat());
        // 1: it is in force, and the disk has taken longer than a press waits.
        if out.status.code() != Some(1) || begin.elapsed() > PATIENCE {
            break out;
        }
    };
    assert_eq!((out.status.code(), &said(&out)["receipt"]["actor"]), (Some(0), &json!("rita")), "{out:?}");
    let epoch = said(&out)["receipt"]["epoch"].to_string();
    let asked = run(4001, &["rearm", "--scope", "firm", "--epoch", &epoch, "--reason", "over"]);
    assert_eq!((asked.status.code(), &said(&asked)["status"]), (Some(1), &json!("pending")), "{asked:?}");
    let id = said(&asked)["id"].as_str().unwrap().to_owned();
    let agree = json!({ "reason": "seen" });
    let (status, problem) = daemon.ask("rita", "POST", &format!("/v1/rearm/{id}/approve"), Some(&agree));
    assert_eq!(status, 403, "{problem}");
    assert_eq!(run(0, &["rearm", "--approve", &id, "--reason", "seen"]).status.code(), Some(4), "root is an operator");
    assert_eq!(daemon.mode("firm", ""), "halted");
    let ruth = daemon.dir.path().join("ruth.token");
    std::fs::write(&ruth, token("ruth")).unwrap();
    let url = format!("http://{}", daemon.http);
    let agreed =
        daemon.haltline(&["rearm", "--approve", &id, "--reason", "seen", "--url", &url, "--token-file", "ruth.token"]);
    assert_eq!((agreed.status.code(), &said(&agreed)["status"]), (Some(0), &json!("done")), "{agreed:?}");
    assert_eq!(daemon.mode("firm", ""), "normal");
    let list = run(4002, &["rearm", "--list", "--text"]);
    let text = String::from_utf8(list.stdout).unwrap();
    assert!(text.contains("RE-ARMED: ruth agreed"), "{text}");
}

#[test]
fn a_service_that_stands_still_is_told_from_one_that_confirms() {
    let daemon = Daemon::start(LIMITS);
    std::fs::write(daemon.dir.path().join("token"), token("olaf")).unwrap();
    daemon.signal("STOP");
    let url = format!("http://{}", daemon.http);
    let (begin, mut last) = (Instant::now(), Instant::now());
    let kill = ["kill", "--config", "haltline.toml", "--url", &url, "--token-file", "token"];
    let (out, said_then) = loop {
        let out = daemon.haltline(&kill);
        let said = said(&out);
        // On a busy machine it may not even have come to connect in the time that it has.
        if said["tried"].as_array().unwrap().iter().all(|rung| rung["result"] == "no_answer") {
            break (out, said);
        }
        assert!(begin.elapsed() < PATIENCE, "{said}");
        last = Instant::now();
    };
    // 500 ms at the socket, 2 s over HTTP.
    assert!(last.elapsed() >= Duration::from_millis(2_500), "{:?}", last.elapsed());
    assert_eq!(out.status.code(), Some(5), "{out:?}");
    assert_eq!(said_then["outcome"], "not_reached");
    for (n, by) in ["local_socket", "http"].iter().enumerate() {
        let rung = &said_then["tried"][n];
        assert_eq!((&rung["by"], &rung["result"]), (&json!(by), &json!("no_answer")), "{said_then}");
    }
    assert!(said_then["unconfirmed"].to_string().contains("may still take the kill"), "{said_then}");
    // And so it does: the request is in its socket, although whoever sent it has gone.
    daemon.signal("CONT");
    daemon.until("the kill is taken", |d| d.mode("firm", "") == "halted");
}

/// A service with a halt page in a file, and the directory in memory that it needs.
fn start_with_page() -> (Daemon, tempfile::TempDir) {
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let gate = format!("[gate]\ndir = \"{}\"\n", memory.path().join("gate").display());
    (Daemon::start(&format!("{LIMITS}{gate}")), memory)
}

/// The actors of the causes of a halt.
fn actors(daemon: &Daemon, kind: &str) -> Vec<String> {
    let state = daemon.get("vera", "/v1/state");
    let halts = state["halts"].as_array().unwrap();
    let halt = halts.iter().find(|h| h["scope"]["kind"] == kind);
    let causes = halt.and_then(|h| h["causes"].as_array()).into_iter().flatten();
    causes.map(|cause| cause["actor"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn when_nobody_answers_the_page_itself_is_raised_and_nothing_is_called_confirmed() {
    let (daemon, _memory) = start_with_page();
    daemon.signal("STOP");
    let begin = Instant::now();
    let stopped = loop {
        let args = ["kill", "--config", "haltline.toml", "--scope", "strategy:beta", "--timeout", "100"];
        let out = daemon.haltline_until(&args, 1);
        // As above.
        if said(&out)["tried"][0]["result"] != "not_reached" {
            break said(&out);
        }
        assert!(begin.elapsed() < PATIENCE, "{out:?}");
    };
    assert_eq!((&stopped["outcome"], &stopped["receipt"]), (&json!("raised"), &Value::Null));
    let results: Vec<_> = stopped["tried"].as_array().unwrap().iter().map(|r| (&r["by"], &r["result"])).collect();
    assert_eq!(results, [(&json!("local_socket"), &json!("no_answer")), (&json!("halt_page"), &json!("raised"))]);
    assert_eq!(stopped["page"]["mode"], "halted");
    assert!(stopped["unconfirmed"].to_string().contains("no answer from haltline"), "{stopped}");
    // It finds the page raised when it runs again; the request in its socket is taken as well.
    daemon.signal("CONT");
    daemon.until("it has a cause", |d| actors(d, "strategy").iter().any(|actor| actor.starts_with("local:")));
    assert_eq!(daemon.mode("strategy", "beta"), "halted");
}

#[test]
fn a_page_that_is_raised_while_nobody_serves_is_in_force_at_the_next_start() {
    let (daemon, memory) = start_with_page();
    let (status, dir) = daemon.terminate();
    assert!(status.success());
    let run = |args: &[&str]| haltline(args).current_dir(dir.path()).output().unwrap();
    let out = run(&["kill", "--config", "haltline.toml", "--scope", "strategy:nobody"]);
    assert_eq!(out.status.code(), Some(5), "{out:?}");
    let out = run(&["kill", "--config", "haltline.toml", "--scope", "strategy:beta", "--reason", "too late"]);
    assert_eq!((out.status.code(), &said(&out)["outcome"]), (Some(1), &json!("raised")), "{out:?}");
    // Nobody renews the lease any more: soon gates are closed anyway, and that is said too.
    let begin = Instant::now();
    while said(&run(&["kill", "--config", "haltline.toml", "--scope", "strategy:beta"]))["page"]["lease_ns"]
        != Value::Null
    {
        assert!(begin.elapsed() < PATIENCE, "the lease does not lapse");
    }
    // With a configuration that is in pieces the firm's word is still found.
    let file = dir.path().join("haltline.toml");
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, good.replace("[accounts.main]", "[accounts.other]")).unwrap();
    let out = run(&["kill", "--config", "haltline.toml", "--scope", "strategy:alpha"]);
    assert_eq!(out.status.code(), Some(5), "{out:?}");
    assert!(said(&out)["tried"][1]["text"].as_str().unwrap().contains("only --scope firm"), "{out:?}");
    let out = run(&["kill", "--config", "haltline.toml", "--text"]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(text.contains("firm: raised, NOT CONFIRMED") && text.contains("the lease has lapsed"), "{text}");
    std::fs::write(&file, good).unwrap();
    let daemon = Daemon::run(dir);
    assert_eq!((daemon.mode("strategy", "beta"), daemon.mode("firm", "")), ("halted".into(), "halted".into()));
    assert_eq!(
        (daemon.mode("strategy", "alpha"), actors(&daemon, "firm")),
        ("normal".into(), vec!["halt page".into()])
    );
    drop(memory);
}

#[test]
fn a_page_raised_past_a_service_that_runs_is_told_to_sessions_and_latched() {
    let (daemon, _memory) = start_with_page();
    block_on(async {
        let (mut gateway, _) = Gateway::connect(&daemon, "gw-1").await;
        assert_eq!(gateway.buy("1", 1).await["verdict"], "admit");
        let out = daemon.haltline(&["kill", "--config", "haltline.toml", "--direct"]);
        assert_eq!((out.status.code(), &said(&out)["outcome"]), (Some(1), &json!("raised")), "{out:?}");
        assert_eq!(gateway.buy("2", 1).await["rule"], "mode", "the engine looks before it admits");
        while !gateway.modes.iter().any(|m| m["kind"] == "firm" && m["mode"] == "halted") {
            gateway.next_of("mode").await;
        }
    });
    daemon.until("it has a cause", |d| actors(d, "firm") == ["halt page"]);
    let latch = daemon.dir.path().join("state/latch");
    daemon.until("it is on disk", |_| std::fs::read_to_string(&latch).unwrap().contains("halt page"));
}

#[test]
fn the_second_way_is_taken_when_the_first_fails() {
    let daemon = Daemon::start(LIMITS);
    std::fs::write(daemon.dir.path().join("token"), token("olaf")).unwrap();
    let url = format!("http://{}", daemon.http);
    let http = ["--url", &*url, "--token-file", "token"];
    let http = [&http[..], &WAITS].concat();
    let out = daemon.haltline_until(&[&["kill", "--socket", "nothing-here"][..], &http].concat(), 0);
    let said = said(&out);
    assert_eq!((&said["tried"][0]["result"], &said["tried"][1]["result"]), (&json!("not_reached"), &json!("receipt")));
    assert_eq!(said["receipt"]["actor"], "olaf");
    // A configuration that cannot be read takes nothing away from what is said beside it.
    daemon.haltline_until(&[&["kill", "--config", "no.toml"][..], &http].concat(), 0);
    let out = daemon.haltline(&["kill", "--config", "no.toml"]);
    assert_eq!(out.status.code(), Some(2), "{out:?}");
    assert!(String::from_utf8_lossy(&out.stderr).contains("cannot read no.toml"), "{out:?}");
    let nobody = ["kill", "--config", "haltline.toml", "--scope", "strategy:nobody"];
    let out = daemon.haltline(&[&nobody[..], &WAITS].concat());
    assert_eq!(out.status.code(), Some(4), "{out:?}");
    let out = daemon.haltline(&["kill", "--config", "haltline.toml", "--direct"]);
    assert_eq!(out.status.code(), Some(5), "without [gate] there is no page but the service's own: {out:?}");
}

#[test]
fn a_kill_is_taken_although_its_sender_hangs_up() {
    let daemon = Daemon::start(LIMITS);
    let body =
        json!({ "scope": { "kind": "strategy", "name": "beta" }, "reason": "hung up ".repeat(5_000) }).to_string();
    // Sent while the service cannot look: it finds the request and the end of the connection at once.
    daemon.signal("STOP");
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    stream.write_all(request("POST", "/v1/kill", &body).as_bytes()).unwrap();
    drop(stream);
    daemon.signal("CONT");
    daemon.until("the kill is taken", |d| d.mode("strategy", "beta") == "halted");
}

#[test]
fn the_kill_file_halts_what_it_names_and_holds_it() {
    let daemon = Daemon::start(&format!("{LIMITS}[local]\nkill_file = \"KILL\"\n"));
    let (file, new) = (daemon.dir.path().join("KILL"), daemon.dir.path().join("new"));
    std::fs::write(&new, "scope strategy:beta\nreason sells what we do not have\n").unwrap();
    std::fs::rename(&new, &file).unwrap();
    daemon.until("beta is halted", |d| d.mode("strategy", "beta") == "halted");
    assert_eq!(daemon.mode("firm", ""), "normal");
    let state = daemon.get("vera", "/v1/state");
    assert!(state.to_string().contains("sells what we do not have"), "{state}");
    let epoch = |d: &Daemon| d.get("vera", "/v1/state")["halts"][0]["epoch"].clone();
    let rearm = |d: &Daemon| {
        let scope = json!({ "kind": "strategy", "name": "beta" });
        let body = json!({ "scope": scope, "epoch": epoch(d), "reason": "fixed", "wait_ms": 5000 });
        d.ask("rita", "POST", "/v1/rearm", Some(&body))
    };
    let (status, problem) = rearm(&daemon);
    assert_eq!((status, &problem["type"]), (409, &json!("urn:haltline:problem:held")), "{problem}");
    std::fs::remove_file(&file).unwrap();
    daemon.until("it is held no more", |d| rearm(d).0 == 200);
    assert_eq!(daemon.mode("strategy", "beta"), "normal");
    std::fs::write(&file, "nonsense").unwrap();
    daemon.until("nonsense halts the firm", |d| d.mode("firm", "") == "halted");
}

#[test]
fn a_kill_file_that_is_there_at_start_is_obeyed_before_anybody_is_let_in() {
    let daemon = Daemon::start(&format!("{LIMITS}[local]\nkill_file = \"KILL\"\n"));
    let (status, dir) = daemon.terminate();
    assert!(status.success());
    std::fs::write(dir.path().join("KILL"), "").unwrap();
    let daemon = Daemon::run(dir);
    // At the first look, not some time later.
    assert_eq!(daemon.mode("firm", ""), "halted");
    let dir = daemon.sigkill();
    std::fs::remove_file(dir.path().join("KILL")).unwrap();
    let daemon = Daemon::run(dir);
    assert_eq!(daemon.mode("firm", ""), "halted", "that the file is gone re-arms nothing");
}

/// Presses over the socket, one connection each, and returns how long each took, sorted.
fn presses(socket: &Path, count: usize) -> Vec<Duration> {
    let body = json!({ "scope": { "kind": "strategy", "name": "alpha" }, "reason": "flood", "wait_ms": 0 });
    let mut times: Vec<Duration> = (0..count)
        .map(|_| {
            let begin = Instant::now();
            let (status, answer) = ask(socket, "POST", "/v1/kill", &body);
            assert_eq!(status, 200, "{answer}");
            begin.elapsed()
        })
        .collect();
    times.sort();
    times
}

/// Ends a flood also when a test fails: its threads are waited for.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_flood_at_the_network_leaves_local_kills_alone_and_a_local_one_those_over_the_network() {
    let daemon = Daemon::start(LIMITS);
    let (stop, opened) = (AtomicBool::new(false), AtomicU64::new(0));
    let p99 = |times: &[Duration]| times[times.len() * 99 / 100];
    let calm = p99(&presses(&daemon.socket(), 300));
    std::thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        for _ in 0..2 {
            scope.spawn(|| {
                // More than all places together, silent, and ever new ones.
                let mut held = std::collections::VecDeque::new();
                while !stop.load(Ordering::Relaxed) {
                    if let Ok(stream) = TcpStream::connect(&daemon.http) {
                        opened.fetch_add(1, Ordering::Relaxed);
                        held.push_back(stream);
                    }
                    if held.len() > 200 {
                        held.pop_front();
                    }
                }
            });
        }
        while opened.load(Ordering::Relaxed) < 600 {
            std::thread::yield_now();
        }
        let (before, begin) = (opened.load(Ordering::Relaxed), Instant::now());
        let mut times = Vec::new();
        // Until the flood has filled all places once more: whoever floods has to wait as well now and then.
        let during = loop {
            times.extend(presses(&daemon.socket(), 100));
            let during = opened.load(Ordering::Relaxed) - before;
            if during >= 300 || begin.elapsed() > PATIENCE {
                break during;
            }
        };
        times.sort();
        let (flooded, count) = (p99(&times), times.len());
        // Every press was answered, however long this machine took for it: the figures are for who reads them.
        eprintln!("p99 of a local kill: {calm:?} calm; {flooded:?} of {count} under {during} connections over TCP");
        assert!(during >= 300, "there was no flood");
    });
    // The other way round: all local places taken by silence, and more.
    let silent: Vec<UnixStream> = (0..400).map(|_| UnixStream::connect(daemon.socket()).unwrap()).collect();
    daemon.kill_confirmed("strategy", "beta", "at the other door");
    assert_eq!(presses(&daemon.socket(), 20).len(), 20, "nor do they keep a local kill out");
    drop(silent);
}
