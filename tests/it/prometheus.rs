//! The real `promtool` and a real Prometheus against the real service.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::{Daemon, Gateway, LIMITS, PATIENCE, ask, block_on};

/// A program of the Debian package `prometheus`. A test that cannot have it fails: it must not look as if it passed.
fn spawn(command: &mut Command) -> Child {
    let name = command.get_program().to_string_lossy().into_owned();
    command.spawn().unwrap_or_else(|error| {
        panic!("{name} does not start ({error}); it is in the Debian package `prometheus`, which tests/run installs")
    })
}

/// What `promtool check metrics` says of `scrape`: whether it passed, and everything it printed.
fn promtool(scrape: &str) -> (bool, String) {
    let mut child = spawn(
        Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped()),
    );
    // It reads everything before it prints anything.
    child.stdin.take().unwrap().write_all(scrape.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    (out.status.success(), String::from_utf8([out.stdout, out.stderr].concat()).unwrap())
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn scrape(daemon: &Daemon) -> String {
    match daemon.get("vera", "/metrics") {
        Value::String(text) => text,
        other => panic!("not a scrape: {other}"),
    }
}

#[test]
fn promtool_finds_nothing_to_say_about_a_scrape_during_traffic() {
    let daemon = Daemon::start(LIMITS);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            block_on(async {
                let (mut gateway, _) = Gateway::connect(&daemon, "gw-1").await;
                let mut orders = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    orders += 1;
                    // Admitted ones first, then denied ones, a trip, and denials in a halted scope.
                    gateway.buy(&orders.to_string(), 1 + 100 * orders).await;
                }
                orders
            })
        });
        // However this ends, the traffic ends too: a scope waits for its threads.
        let ends = SetOnDrop(&stop);
        let begin = Instant::now();
        for checked in 1.. {
            let text = scrape(&daemon);
            assert_eq!(promtool(&text), (true, String::new()), "{text}");
            let nothing_denied = text.contains("haltline_verdicts_total{verdict=\"deny\",rule=\"order_qty\"} 0");
            if checked >= 5 && !nothing_denied {
                break;
            }
            assert!(begin.elapsed() < PATIENCE, "no denial in {checked} scrapes");
        }
        drop(ends);
        assert!(traffic.join().unwrap() > 0);
    });
    let text = scrape(&daemon);
    for family in ["haltline_mode", "haltline_utilisation_ratio", "haltline_input_lag_seconds"] {
        assert!(text.contains(&format!("\n{family}")), "{family} is missing:\n{text}");
    }
}

#[test]
fn promtool_would_complain_about_a_bad_scrape() {
    let (passed, said) = promtool("# HELP orders Orders.\n# TYPE orders counter\norders 1\n");
    assert!(!passed && said.contains("_total"), "{said}");
}

/// A Prometheus with a configuration and a store of its own.
struct Prometheus {
    dir: tempfile::TempDir,
    child: Child,
    http: String,
}

impl Prometheus {
    /// Starts one that scrapes `target` every second: a scrape may take so long, and no longer than that.
    fn start(target: &str) -> Prometheus {
        let dir = tempfile::tempdir().unwrap();
        let config = json!({
            "global": { "scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s" },
            "rule_files": [concat!(env!("CARGO_MANIFEST_DIR"), "/config/prometheus/haltline.rules.yml")],
            "scrape_configs": [{ "job_name": "haltline", "static_configs": [{ "targets": [target] }] }],
        });
        // JSON is YAML.
        std::fs::write(dir.path().join("prometheus.yml"), config.to_string()).unwrap();
        let begin = Instant::now();
        loop {
            // It cannot be asked for the port that it was given. Should somebody else take this one first, Prometheus
            // ends, and another is tried.
            let http = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
            let log = std::fs::File::create(dir.path().join("log")).unwrap();
            let mut child = spawn(
                Command::new("prometheus")
                    .arg(format!("--config.file={}", dir.path().join("prometheus.yml").display()))
                    .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
                    .arg(format!("--web.listen-address={http}"))
                    .arg("--log.level=warn")
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(log),
            );
            while child.try_wait().unwrap().is_none() {
                if begin.elapsed() > PATIENCE {
                    let _ = child.kill();
                    panic!("Prometheus does not get ready:\n{}", read(&dir.path().join("log")));
                }
                if is_ready(&http) {
                    return Prometheus { dir, child, http };
                }
                std::thread::yield_now();
            }
            assert!(begin.elapsed() < PATIENCE, "Prometheus ends:\n{}", read(&dir.path().join("log")));
        }
    }

    /// The samples that `query` gives now: labels and value of each.
    fn query(&self, query: &str) -> Vec<(Value, f64)> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let (status, answer) = ask(&self.http, "vera", "GET", &format!("/api/v1/query?query={encoded}"), None);
        assert_eq!(status, 200, "{query}: {answer}");
        let samples = answer["data"]["result"].as_array().unwrap_or_else(|| panic!("{query}: {answer}"));
        samples
            .iter()
            .map(|sample| (sample["metric"].clone(), sample["value"][1].as_str().unwrap().parse().unwrap()))
            .collect()
    }

    /// Asks again until `query` gives one sample with this value; its labels.
    fn until(&self, query: &str, value: f64) -> Value {
        let begin = Instant::now();
        loop {
            let samples = self.query(query);
            if let [(labels, seen)] = &samples[..]
                && *seen == value
            {
                return labels.clone();
            }
            assert!(begin.elapsed() < PATIENCE, "waited in vain for {query} to be {value}: {samples:?}");
            std::thread::yield_now();
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("Prometheus's log:\n{}", read(&self.dir.path().join("log")));
        }
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn is_ready(http: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(http) else { return false };
    let mut answer = String::new();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET /-/ready HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n\r\n").is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.starts_with("HTTP/1.1 200")
}

#[test]
fn prometheus_sees_denials_a_halt_and_the_end_of_the_service() {
    let daemon = Daemon::start(LIMITS);
    let prometheus = Prometheus::start(&daemon.http);
    let denied = "haltline_verdicts_total{verdict=\"deny\",rule=\"order_qty\"}";
    let mode = |name: &str| format!("haltline_mode{{kind=\"strategy\",name=\"{name}\"}}");
    let labels = prometheus.until("haltline_build_info", 1.0);
    assert_eq!(labels["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(labels["job"], "haltline");
    prometheus.until(denied, 0.0);
    prometheus.until(&mode("beta"), 0.0);

    block_on(async {
        let (mut gateway, _) = Gateway::connect(&daemon, "gw-1").await;
        for n in 0..3 {
            assert_eq!(gateway.buy(&format!("big{n}"), 1_001).await["rule"], "order_qty");
        }
        for n in 0..2 {
            assert_eq!(gateway.buy(&format!("small{n}"), 1).await["verdict"], "admit");
        }
        prometheus.until(denied, 3.0);
        prometheus.until("haltline_verdicts_total{verdict=\"admit\"}", 2.0);
        prometheus.until("haltline_events_total{kind=\"new\"}", 5.0);
        prometheus.until("haltline_event_latency_seconds_count", 5.0);
        prometheus.until("histogram_quantile(0.5, haltline_event_latency_seconds_bucket) > bool 0", 1.0);
        prometheus.until("haltline_working_orders", 2.0);
        prometheus.until("haltline_sessions_connected", 1.0);
        prometheus.until("haltline_input_lag_seconds < bool 60", 1.0);
        let used = "haltline_utilisation_ratio{kind=\"strategy\",name=\"alpha\",rule=\"order_rate\"}";
        prometheus.until(&format!("{used} <= bool 1"), 1.0);
    });

    let halted = "ALERTS{alertname=\"HaltlineScopeHalted\",alertstate=\"firing\"}";
    assert!(prometheus.query(halted).is_empty());
    daemon.kill("strategy", "beta", "a drill");
    prometheus.until(&mode("beta"), 2.0);
    prometheus.until(&mode("alpha"), 0.0);
    let labels = prometheus.until(halted, 1.0);
    assert_eq!(
        (&labels["kind"], &labels["name"], &labels["severity"]),
        (&"strategy".into(), &"beta".into(), &"critical".into())
    );
    prometheus.until("haltline_scopes_raised{kind=\"strategy\",mode=\"halted\"}", 1.0);
    prometheus.until("haltline_kills_total", 1.0);
    prometheus.until("haltline_kill_stage_seconds_count{stage=\"durable\"}", 1.0);
    prometheus.until("up{job=\"haltline\"}", 1.0);
    daemon.sigkill();
    prometheus.until("up{job=\"haltline\"}", 0.0);
}
