//! The command line at the real service: what a person reads, what a program gets, and the codes that it ends with.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::{Daemon, Gateway, LIMITS, PATIENCE, block_on, haltline, token};

/// A service, and a file with the token of each role.
fn desk() -> Daemon {
    let daemon = Daemon::start(LIMITS);
    for who in ["vera", "olaf", "rita"] {
        std::fs::write(daemon.dir.path().join(who), token(who)).unwrap();
    }
    daemon
}

fn said(out: &Output) -> String {
    String::from_utf8_lossy(&[out.stdout.clone(), out.stderr.clone()].concat()).into_owned()
}

/// Runs a command as `who`, over HTTP, until it ends with `code`; what it printed.
#[track_caller]
fn run(daemon: &Daemon, who: &str, args: &[&str], code: i32) -> String {
    let url = format!("http://{}", daemon.http);
    said(&daemon.haltline_until(&[args, &["--url", &url, "--token-file", who]].concat(), code))
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Runs the program in a terminal of its own, types `keys` once it has drawn `shows`, and gives what it drew and its exit code.
fn in_a_terminal(daemon: &Daemon, args: &[&str], shows: &str, keys: &str) -> (String, i32) {
    use std::io::{Read as _, Write as _};
    // util-linux's `script` makes the terminal, without a size; it ends with the code of what it ran.
    let program = [&["stty rows 40 cols 160; exec", env!("CARGO_BIN_EXE_haltline")], args].concat().join(" ");
    let mut child = Command::new("script")
        .args(["--quiet", "--return", "--flush", "--command", &program, "/dev/null"])
        .env("TERM", "xterm")
        .current_dir(daemon.dir.path())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("script does not start ({error}): it is of util-linux"));
    let (mut typed, mut out) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let (mut drawn, mut chunk) = (String::new(), [0; 4096]);
    let mut waits = !keys.is_empty();
    // What draws for ever without showing it would otherwise be waited for as long.
    let (done, ends) = std::sync::mpsc::channel::<()>();
    let pid = child.id().to_string();
    let watch = std::thread::spawn(move || {
        if ends.recv_timeout(PATIENCE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            let _ = Command::new("kill").args(["-KILL", &pid]).status();
        }
    });
    loop {
        match out.read(&mut chunk) {
            Ok(0) | Err(_) => break,
            Ok(n) => drawn += &String::from_utf8_lossy(&chunk[..n]),
        }
        if waits && drawn.contains(shows) {
            typed.write_all(keys.as_bytes()).unwrap();
            waits = false;
        }
    }
    let status = child.wait().unwrap();
    drop(done);
    watch.join().unwrap();
    (drawn, status.code().unwrap_or(-1))
}

#[test]
fn status_is_a_table_on_a_terminal_json_elsewhere_and_its_code_says_whether_anything_is_halted() {
    let daemon = desk();
    let calm = run(&daemon, "vera", &["status", "--text"], 0);
    assert!(calm.contains("SCOPE") && calm.contains("firm") && calm.contains("normal"), "{calm}");
    assert_eq!(parsed(&run(&daemon, "vera", &["status"], 0))["mode"], "normal", "not a terminal");
    daemon.kill("strategy", "alpha", "it buys and buys");
    // That nothing is left to cancel is known when the engine has looked.
    daemon.until("it is told in full", |daemon| {
        let halted = run(daemon, "vera", &["status", "--text"], 3);
        let row = halted.lines().find(|line| line.starts_with("strategy alpha")).unwrap_or_else(|| panic!("{halted}"));
        assert!(row.contains("halted") && row.contains("olaf: it buys and buys"), "{halted}");
        row.contains("flat")
    });
    let at = format!("--socket {}", daemon.socket().display());
    daemon.until("it is told in a terminal", |daemon| {
        let (drawn, code) = in_a_terminal(daemon, &["status", &at], "", "");
        // 5: it waits only so long for an answer.
        assert!(code == 5 || drawn.contains("strategy alpha") && !drawn.contains('{'), "{code}: {drawn}");
        code == 3
    });

    // Nobody there, somebody who may not, and a call that makes no sense have codes of their own.
    run(&daemon, "vera", &["kill", "--reason", "r"], 4);
    run(&daemon, "vera", &["status", "--no-such-thing"], 2);
    let out = daemon.haltline(&["status"]);
    assert_eq!(out.status.code(), Some(2), "{}", said(&out));
    let (_, dir) = daemon.terminate();
    let out = haltline(&["status", "--socket", "state/control.sock"]).current_dir(dir.path()).output().unwrap();
    assert_eq!(out.status.code(), Some(5), "{}", said(&out));
}

#[test]
fn sessions_tell_who_has_confirmed_and_limits_how_much_is_used() {
    let daemon = desk();
    block_on(async {
        let (mut gateway, _) = Gateway::connect(&daemon, "gw-1").await;
        assert_eq!(gateway.buy("1", 10).await["verdict"], "admit");
        // Its confirmation is on its way.
        daemon.until("it is told as confirmed", |daemon| {
            let text = run(daemon, "vera", &["sessions", "--text"], 0);
            let row = text.lines().find(|line| line.starts_with("gw-1")).unwrap_or_else(|| panic!("{text}"));
            let words: Vec<&str> = row.split_whitespace().collect();
            assert!(words.contains(&"connected"), "{text}");
            words.contains(&"confirmed")
        });
        let list = parsed(&run(&daemon, "vera", &["sessions"], 0));
        let names: Vec<&Value> = list["sessions"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
        assert!(names.contains(&&json!("gw-1")), "{list}");
        // It is there and does not read: a halt that it has not confirmed is told by the code.
        let press = json!({ "scope": { "kind": "firm" }, "reason": "r", "wait_ms": 0 });
        assert_eq!(daemon.ask("olaf", "POST", "/v1/kill", Some(&press)).0, 200);
        run(&daemon, "vera", &["sessions"], 3);
        drop(gateway);
    });
    let text = run(&daemon, "vera", &["limits", "show", "strategy", "--text"], 0);
    assert!(text.contains("order_qty") && text.contains("order_rate") && text.contains("1000"), "{text}");
    let list = parsed(&run(&daemon, "vera", &["limits", "show", "strategy:alpha"], 0));
    assert!(list["limits"].as_array().is_some_and(|rows| rows.len() == 2), "{list}");
    run(&daemon, "vera", &["limits", "show", "strategy:nobody"], 4);
    assert!(run(&daemon, "vera", &["limits", "show", "planet"], 2).contains("must be firm"));
}

#[test]
fn top_shows_the_live_state_in_a_terminal_until_q_and_nothing_elsewhere() {
    let daemon = desk();
    assert!(run(&daemon, "vera", &["top"], 2).contains("needs a terminal"));
    daemon.kill("strategy", "beta", "odd");
    let url = format!("http://{}", daemon.http);
    let (drawn, code) = in_a_terminal(&daemon, &["top", "--url", &url, "--token-file", "vera"], "beta", "q");
    assert_eq!(code, 0, "{drawn}");
    assert!(drawn.contains("beta") && drawn.contains("halted"), "{drawn}");
}

#[test]
fn completions_and_manual_pages_know_every_command_and_the_exit_codes() {
    let out = haltline(&["man"]).output().unwrap();
    let page = String::from_utf8(out.stdout).unwrap();
    for code in ["0", "1", "2", "3", "4", "5", "78"] {
        assert!(page.lines().any(|line| line.trim_start().starts_with(code)), "{code}: {page}");
    }
    let help = String::from_utf8(haltline(&["--help"]).output().unwrap().stdout).unwrap();
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1)
        .take_while(|line| line.starts_with("  "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(commands.len() > 15, "{commands:?}");
    for shell in ["bash", "zsh", "fish"] {
        let out = haltline(&["completions", shell]).output().unwrap();
        assert!(out.status.success());
        let script = String::from_utf8(out.stdout).unwrap();
        for command in commands.iter().filter(|command| **command != "help") {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
    // A shell takes the script.
    let script = haltline(&["completions", "bash"]).output().unwrap().stdout;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("haltline.bash"), script).unwrap();
    let takes = ["-c", "source haltline.bash && complete -p haltline"];
    let out = Command::new("bash").args(takes).current_dir(dir.path()).output().unwrap();
    assert!(out.status.success() && said(&out).contains("_haltline"), "{}", said(&out));
    assert_eq!(haltline(&["completions", "basic"]).output().unwrap().status.code(), Some(2));
}
