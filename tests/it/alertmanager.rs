//! Alerts of the real service at real receivers: Debian's Alertmanager, and a webhook that checks every signature.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::support::{Daemon, LIMITS, PATIENCE, ask};

/// A port that nothing else takes meanwhile: below those that the system gives to whoever asks for any.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let offset = std::process::id() as u16 % 100 * 100 + NEXT.fetch_add(1, Ordering::Relaxed) % 100;
        let port = 20_000 + offset;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A real Alertmanager with files of its own.
struct Alertmanager {
    _dir: tempfile::TempDir,
    child: Child,
    http: String,
}

impl Alertmanager {
    fn start(port: u16) -> Alertmanager {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("alertmanager.yml");
        std::fs::write(&config, "route:\n  receiver: nobody\nreceivers:\n- name: nobody\n").unwrap();
        let http = format!("127.0.0.1:{port}");
        let arg = |name: &str, value: &Path| format!("--{name}={}", value.display());
        let child = Command::new("prometheus-alertmanager")
            .arg(arg("config.file", &config))
            .arg(arg("storage.path", &dir.path().join("data")))
            .args([&format!("--web.listen-address={http}"), "--cluster.listen-address="])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("prometheus-alertmanager does not start ({error}); tests/run installs it"));
        let manager = Alertmanager { _dir: dir, child, http };
        let begin = Instant::now();
        while TcpStream::connect(&manager.http).is_err() {
            assert!(begin.elapsed() < PATIENCE, "Alertmanager does not listen");
            std::thread::yield_now();
        }
        manager
    }

    /// The alert of this name, if it is active.
    fn active(&self, name: &str) -> Option<Value> {
        let (status, list) = ask(&self.http, "nobody", "GET", "/api/v2/alerts", None);
        assert_eq!(status, 200, "{list}");
        list.as_array().unwrap().iter().find(|alert| alert["labels"]["alertname"] == name).cloned()
    }
}

impl Drop for Alertmanager {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn critical(daemon: &Daemon) -> Value {
    daemon.get("vera", "/v1/alerts?severity=warning&open=true&kind=kill")["alerts"][0].clone()
}

/// What `/metrics` says of `series`.
fn metric(daemon: &Daemon, series: &str) -> Option<f64> {
    let Value::String(scrape) = daemon.get("vera", "/metrics") else { panic!("not a scrape") };
    let line = scrape.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// An alert is with the receivers within a second of its event. A machine that stands still makes one late, and the next one not;
/// of one that is late with everything nothing can be said.
fn leaves_within_a_second(daemon: &Daemon, receivers: [&str; 2]) {
    let of =
        |series: &str, labels: &str| metric(daemon, &format!("haltline_alert_{series}{{{labels}}}")).unwrap_or(0.0);
    let delivered =
        || receivers.map(|name| of("deliveries_total", &format!("receiver=\"{name}\",result=\"delivered\"")));
    let scopes = [("strategy", "beta"), ("instrument", "ACME"), ("session", "gw-1"), ("firm", "")];
    let mut late = Vec::new();
    for (kind, name) in scopes {
        let before = delivered();
        daemon.kill(kind, name, "and one more");
        daemon.until("each receiver was told", |_| (0..2).all(|i| delivered()[i] > before[i]));
        let seconds = receivers.map(|name| of("delivery_latency_seconds", &format!("receiver=\"{name}\"")));
        if seconds.iter().all(|seconds| *seconds < 1.0) {
            println!("told after {seconds:?} s");
            return;
        }
        late.push(seconds);
    }
    let asked = (0..20).map(|_| {
        let begin = std::time::Instant::now();
        let _ = daemon.get("vera", "/v1/alerts");
        begin.elapsed()
    });
    let slowest = asked.max().unwrap();
    assert!(slowest > std::time::Duration::from_millis(100), "told after {late:?} s, and asked within {slowest:?}");
    println!("SKIPPED: how fast alerts are: {late:?} s where a question takes up to {slowest:?}");
}

#[test]
fn two_real_alertmanagers_have_an_alert_and_are_told_its_end() {
    let managers = [Alertmanager::start(free_port()), Alertmanager::start(free_port())];
    let receiver =
        |name: &str, manager: &Alertmanager| format!("{{ name = \"{name}\", url = \"http://{}\" }}", manager.http);
    let receivers = [receiver("am-1", &managers[0]), receiver("am-2", &managers[1])].join(", ");
    let keys = format!("timeout = \"60s\"\ninstance = \"eu-1\"\nalertmanagers = [{receivers}]\n");
    // It ends when everybody has seen it.
    let daemon = Daemon::start(&format!("[alerts]\nresolve_after = \"1h\"\n{keys}{LIMITS}"));
    daemon.kill("strategy", "alpha", "it buys and buys");
    for manager in &managers {
        daemon.until("the Alertmanager has it", |_| manager.active("kill_pressed").is_some());
        let alert = manager.active("kill_pressed").unwrap();
        let labels = &alert["labels"];
        assert_eq!((&labels["instance"], &labels["owner"]), (&json!("eu-1"), &json!("risk")), "{alert}");
        assert_eq!((&labels["scope_kind"], &labels["scope"]), (&json!("strategy"), &json!("alpha")));
        assert!(alert["annotations"]["summary"].as_str().unwrap().contains("it buys and buys"), "{alert}");
        assert!(alert["generatorURL"].as_str().unwrap().ends_with("/v1/alerts/1"), "{alert}");
    }
    leaves_within_a_second(&daemon, ["am-1", "am-2"]);
    let (status, dir) = daemon.terminate();
    assert!(status.success());
    let file = dir.path().join("haltline.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("resolve_after = \"1h\"", "resolve_after = \"2s\"")).unwrap();
    let daemon = Daemon::run(dir);
    daemon.until("it is over", |d| critical(d).is_null());
    for manager in &managers {
        daemon.until("the Alertmanager knows that it is over", |_| manager.active("kill_pressed").is_none());
    }
    daemon.until("nobody fails", |d| metric(d, "haltline_alert_receivers_failing") == Some(0.0));
}

#[test]
fn an_alertmanager_that_is_away_is_an_alert_itself_and_is_told_when_it_comes_back() {
    let port = free_port();
    let section = format!(
        "[alerts]\ntimeout = \"60s\"\nalertmanagers = [{{ name = \"am\", url = \"http://127.0.0.1:{port}\" }}]\n"
    );
    let daemon = Daemon::start(&(section + LIMITS));
    daemon.kill("strategy", "alpha", "while nobody can be told");
    let failing = |d: &Daemon| d.get("vera", "/v1/alerts?kind=delivery")["alerts"][0].clone();
    daemon.until("it is said that delivery fails", |d| failing(d)["state"] == "firing");
    assert!(failing(&daemon)["text"].as_str().unwrap().contains("do not reach am"));
    daemon.until("one fails", |d| metric(d, "haltline_alert_receivers_failing") == Some(1.0));
    assert_eq!(daemon.ask("vera", "GET", "/readyz", None).0, 200);

    let manager = Alertmanager::start(port);
    daemon.until("it is told", |_| manager.active("kill_pressed").is_some());
    daemon.until("delivery works again", |d| failing(d)["state"] == "resolved");
    daemon.until("nobody fails", |d| metric(d, "haltline_alert_receivers_failing") == Some(0.0));
}

const SECRET: &str = "a secret that is long enough";

/// How the webhook behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Takes,
    Fails,
    Stalls,
}

#[derive(Default)]
struct Seen {
    mood: Option<Mood>,
    /// Ids of all attempts, and what was taken.
    attempts: Vec<String>,
    taken: Vec<Value>,
}

/// A receiver on loopback that checks what the specification of Standard Webhooks asks for.
struct Hook {
    url: String,
    state: Arc<(Mutex<Seen>, Condvar)>,
}

impl Hook {
    fn start() -> Hook {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/in", listener.local_addr().unwrap());
        let state: Arc<(Mutex<Seen>, Condvar)> = Arc::default();
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = shared.clone();
                std::thread::spawn(move || serve(stream.unwrap(), &shared));
            }
        });
        let hook = Hook { url, state };
        hook.is(Mood::Takes);
        hook
    }

    fn is(&self, mood: Mood) {
        self.state.0.lock().unwrap().mood = Some(mood);
        self.state.1.notify_all();
    }

    /// Waits until `holds` of what was seen.
    fn until(&self, what: &str, holds: impl Fn(&Seen) -> bool) {
        let seen = self.state.0.lock().unwrap();
        let (seen, waited) = self.state.1.wait_timeout_while(seen, PATIENCE, |seen| !holds(seen)).unwrap();
        assert!(!waited.timed_out(), "waited in vain until {what}: {:?} {:?}", seen.attempts, seen.taken);
    }
}

fn serve(mut stream: TcpStream, state: &(Mutex<Seen>, Condvar)) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let (mut line, mut headers) = (String::new(), Vec::new());
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').unwrap();
            headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
        let header = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()).unwrap_or_default();
        let mut body = vec![0; header("content-length").parse().unwrap()];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let (id, timestamp) = (header("webhook-id"), header("webhook-timestamp"));
        let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.replace(' ', "-").as_bytes()).unwrap();
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(&body);
        let expected = haltline::alert::webhook::base64(&mac.finalize().into_bytes());
        let genuine = header("webhook-signature") == format!("v1,{expected}");
        let mut seen = state.0.lock().unwrap();
        seen.attempts.push(id);
        state.1.notify_all();
        seen = state.1.wait_while(seen, |seen| seen.mood == Some(Mood::Stalls)).unwrap();
        let status = match (genuine, seen.mood) {
            (false, _) => "401 Unauthorized",
            (true, Some(Mood::Takes)) => "204 No Content",
            (true, _) => "503 Service Unavailable",
        };
        // Who was let wait has gone by now, and sends it again: what cannot be answered is not taken.
        let answered = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").is_ok();
        if answered && status.starts_with("204") {
            seen.taken.push(serde_json::from_slice(&body).unwrap());
        }
        state.1.notify_all();
    }
}

#[test]
fn a_signed_webhook_misses_nothing_while_it_fails_stalls_and_over_a_restart() {
    let hook = Hook::start();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("secret"), SECRET.replace(' ', "-") + "\n").unwrap();
    let section = format!(
        "[alerts]\ntimeout = \"30s\"\nwebhooks = [{{ name = \"hook\", url = \"{}\", secret_file = \"secret\" }}]\n",
        hook.url
    );
    let daemon = Daemon::start_in(dir, &(section + LIMITS));
    let kinds = |seen: &Seen| -> Vec<(String, String)> {
        let word = |value: &Value| value.as_str().unwrap().to_owned();
        seen.taken.iter().map(|m| (word(&m["type"]), word(&m["alert"]["name"]))).collect()
    };
    let has = |seen: &Seen, what: &str, scope: &str| {
        seen.taken.iter().any(|m| m["type"] == what && m["alert"]["scope"]["name"] == scope)
    };
    daemon.kill("strategy", "alpha", "first");
    hook.until("it has the first", |seen| has(seen, "alert.fired", "alpha"));

    hook.is(Mood::Fails);
    daemon.kill("strategy", "beta", "second");
    hook.until("the second was tried twice", |seen| {
        let last = seen.attempts.last().cloned();
        seen.attempts.iter().filter(|id| Some(*id) == last.as_ref()).count() > 1
    });
    daemon.until("that is an alert", |d| !d.get("vera", "/v1/alerts?kind=delivery")["alerts"][0].is_null());
    hook.is(Mood::Stalls);
    let attempts = hook.state.0.lock().unwrap().attempts.len();
    hook.until("it was let wait", |seen| seen.attempts.len() > attempts);
    // Nobody waits for a webhook: neither a kill nor the list.
    daemon.kill("instrument", "ACME", "third");
    daemon.until("the third is listed", |d| {
        let list = d.get("vera", "/v1/alerts?kind=kill");
        list["alerts"].as_array().unwrap().len() == 3
    });

    // It ends without having told everything, and tells it after the start.
    let file = daemon.dir.path().join("state/alerts.json");
    daemon.until("it is written", |_| std::fs::read_to_string(&file).is_ok_and(|text| text.contains("third")));
    let dir = daemon.sigkill();
    hook.is(Mood::Takes);
    let daemon = Daemon::run(dir);
    hook.until("it has the third", |seen| has(seen, "alert.fired", "ACME") && has(seen, "alert.fired", "beta"));
    daemon
        .until("delivery works again", |d| d.get("vera", "/v1/alerts?kind=delivery&open=true")["alerts"][0].is_null());

    let seen = hook.state.0.lock().unwrap();
    // In order and without a gap; what came twice has the same id. One that was let wait is answered at any time.
    let mut by_id: Vec<(u64, String)> = Vec::new();
    for message in &seen.taken {
        let one = (message["seq"].as_u64().unwrap(), message["id"].as_str().unwrap().to_owned());
        if !by_id.contains(&one) {
            by_id.push(one);
        }
    }
    let seqs: Vec<u64> = by_id.iter().map(|(seq, _)| *seq).collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>(), "{:?}", kinds(&seen));
    assert!(by_id.iter().all(|(seq, id)| id.ends_with(&format!("-{seq}")) && id.starts_with("haltline-")));
}

#[test]
fn a_secret_that_is_missing_or_short_stops_the_start_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("secret"), "short\n").unwrap();
    let section =
        "[alerts]\nwebhooks = [{ name = \"hook\", url = \"http://127.0.0.1:1\", secret_file = \"secret\" }]\n";
    let text = crate::support::config(&dir.path().join("state"), &(section.to_owned() + LIMITS));
    std::fs::write(dir.path().join("haltline.toml"), text).unwrap();
    let run = |args: &[&str]| crate::support::haltline(args).current_dir(dir.path()).output().unwrap();
    assert!(run(&["init", "--config", "haltline.toml"]).status.success());
    let out = run(&["serve", "--config", "haltline.toml"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && said.contains("hook") && said.contains("at least 24 characters"), "{said}");
}
