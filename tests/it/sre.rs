//! What lies under `config/` for whoever runs haltline, held against the real daemon and the real tools.

use std::collections::{BTreeMap, BTreeSet};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::Value;
use yaml_rust2::{Yaml, YamlLoader};

use crate::support::{Daemon, Gateway, LIMITS, PATIENCE, ask, block_on, config, haltline};

const RULES: &str = "prometheus/haltline.rules.yml";
const TESTS: &str = "prometheus/tests.yml";
const DASHBOARD: &str = "grafana/haltline.json";
const UNIT: &str = "systemd/haltline.service";
const CONTAINER: &str = "container/Containerfile";
const SIDECAR: &str = "kubernetes/sidecar.yaml";

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("config/{name}: {error}"))
}

fn yaml(name: &str) -> Vec<Yaml> {
    YamlLoader::load_from_str(&text(name)).unwrap_or_else(|error| panic!("config/{name}: {error}"))
}

/// The text of a field that has to be there.
fn word<'a>(value: &'a Yaml, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value:?}"))
}

fn list<'a>(value: &'a Yaml, key: &str) -> &'a [Yaml] {
    value[key].as_vec().map_or(&[], Vec::as_slice)
}

/// Runs a tool; what it printed, if it succeeded.
fn run(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let out = command.output().unwrap_or_else(|error| panic!("{name} does not start ({error}); tests/run installs it"));
    let said = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    if out.status.success() { Ok(said) } else { Err(said) }
}

/// All rules of the file.
fn rules() -> Vec<Yaml> {
    let file = yaml(RULES).remove(0);
    list(&file, "groups").iter().flat_map(|group| list(group, "rules").to_vec()).collect()
}

fn alerts() -> Vec<Yaml> {
    rules().into_iter().filter(|rule| !rule["alert"].is_badvalue()).collect()
}

#[test]
fn promtool_accepts_the_rules_and_their_tests_pass() {
    let said = run(Command::new("promtool").args(["check", "rules"]).arg(path(RULES))).unwrap();
    assert!(said.contains(&format!("{} rules found", rules().len())), "{said}");
    run(Command::new("promtool").args(["test", "rules"]).arg(path(TESTS))).unwrap();
}

#[test]
fn a_rule_that_never_fires_would_fail_its_test() {
    let dir = tempfile::tempdir().unwrap();
    let rules = text(RULES).replace("haltline_latch_durable == 0", "haltline_latch_durable == 2");
    std::fs::write(dir.path().join("haltline.rules.yml"), rules).unwrap();
    std::fs::copy(path(TESTS), dir.path().join("tests.yml")).unwrap();
    let said = run(Command::new("promtool").args(["test", "rules"]).arg(dir.path().join("tests.yml"))).unwrap_err();
    assert!(said.contains("HaltlineLatchNotDurable"), "{said}");
}

#[test]
fn every_alert_has_an_owner_a_summary_a_section_of_the_runbook_and_both_tests() {
    let tests = yaml(TESTS).remove(0);
    // Alert → whether it is tested to be silent, and to fire.
    let mut tested: BTreeMap<&str, (bool, bool)> = BTreeMap::new();
    for case in list(&tests, "tests").iter().flat_map(|test| list(test, "alert_rule_test")) {
        let entry = tested.entry(word(case, "alertname")).or_default();
        if list(case, "exp_alerts").is_empty() { entry.0 = true } else { entry.1 = true }
    }
    let runbook = text("runbook.md");
    let sections: BTreeSet<&str> = runbook.lines().filter_map(|line| line.strip_prefix("### Haltline")).collect();
    let mut named = BTreeSet::new();
    let alerts = alerts();
    for alert in &alerts {
        let name = word(alert, "alert");
        let (labels, annotations) = (&alert["labels"], &alert["annotations"]);
        assert!(["critical", "warning", "info"].contains(&word(labels, "severity")), "{name}");
        assert!(["risk", "sre"].contains(&word(labels, "owner")), "{name}");
        let summary = word(annotations, "summary");
        let place = summary.contains("{{ $labels.instance }}") || word(alert, "expr").starts_with("absent(");
        assert!(place, "{name} does not say where");
        // What is either so or not has no value to show.
        let shows = summary.contains("$value") || word(alert, "expr").contains("up{");
        assert!(shows, "{name} does not say how much");
        assert_eq!(word(annotations, "runbook"), format!("config/runbook.md#{}", name.to_lowercase()));
        assert_eq!(tested.get(name), Some(&(true, true)), "{name} has to be tested silent and firing");
        named.insert(name.strip_prefix("Haltline").unwrap());
    }
    assert_eq!(sections, named, "sections of the runbook, and alerts");
}

/// Names of series in an expression: `haltline_…` and `haltline:…`, each with the selector that follows it.
fn series(expr: &str) -> Vec<(String, String)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut found = Vec::new();
    for (at, _) in expr.match_indices("haltline") {
        let before = expr[..at].chars().next_back();
        let rest: String = expr[at..].chars().take_while(|c| is_name(*c)).collect();
        if rest.len() > "haltline".len() && !before.is_some_and(|c| is_name(c) || c == '"') {
            let after = &expr[at + rest.len()..];
            let selector = after.strip_prefix('{').and_then(|s| s.split_once('}')).map_or("", |(inside, _)| inside);
            found.push((rest, selector.to_owned()));
        }
    }
    found
}

/// Conditions of a selector on values that a scrape must have: label and one value each.
fn wanted(selector: &str) -> Vec<(String, String)> {
    let mut wanted = Vec::new();
    for condition in selector.split(", ").filter(|condition| !condition.is_empty()) {
        let Some((label, values)) = condition.split_once('=') else { panic!("{condition}") };
        let values = values.trim_start_matches('~').trim_matches('"');
        // `!=` wants nothing; job and instance are Prometheus's own.
        if !label.ends_with('!') && !["job", "instance"].contains(&label) {
            wanted.extend(values.split('|').map(|value| (label.to_owned(), value.to_owned())));
        }
    }
    wanted
}

/// Every expression of the rules and of the dashboard, with where it stands.
fn expressions() -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = rules()
        .iter()
        .map(|rule| (rule["alert"].as_str().or(rule["record"].as_str()).unwrap().into(), word(rule, "expr").into()))
        .collect();
    fn collect(value: &Value, all: &mut Vec<(String, String)>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    match value.as_str() {
                        Some(text) if ["expr", "definition", "query"].contains(&&**key) && text != "prometheus" => {
                            all.push((format!("the dashboard's {key}"), text.to_owned()));
                        }
                        Some(_) | None => collect(value, all),
                    }
                }
            }
            Value::Array(list) => list.iter().for_each(|value| collect(value, all)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let dashboard: Value = serde_json::from_str(&text(DASHBOARD)).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() > 20);
    collect(&dashboard, &mut all);
    all
}

/// A daemon with everything that has metrics of its own: gates, a journal, a session with an order.
fn complete_scrape() -> String {
    let dir = tempfile::tempdir().unwrap();
    let gate = tempfile::Builder::new().prefix("haltline-sre-").tempdir_in("/dev/shm").unwrap();
    let text = config(&dir.path().join("state"), &format!("[gate]\ndir = \"{}\"\n{LIMITS}", gate.path().display()));
    std::fs::write(dir.path().join("haltline.toml"), text).unwrap();
    let made = haltline(&["init", "--config", "haltline.toml"]).current_dir(dir.path()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let daemon = Daemon::run(dir);
    block_on(async {
        let (mut gateway, _) = Gateway::connect(&daemon, "gw-1").await;
        assert_eq!(gateway.buy("1", 1).await["verdict"], "admit");
    });
    match daemon.get("vera", "/metrics") {
        // What only a listener with TLS has comes from one.
        Value::String(text) => text + &crate::tls::scrape(),
        other => panic!("not a scrape: {other}"),
    }
}

#[test]
fn rules_and_dashboard_name_only_what_the_daemon_shows() {
    let scrape = complete_scrape();
    let samples: Vec<&str> = scrape.lines().filter(|line| !line.starts_with('#')).collect();
    let shown: BTreeSet<&str> = samples.iter().map(|line| line.split(['{', ' ']).next().unwrap()).collect();
    let recorded: BTreeSet<String> = rules().iter().filter_map(|rule| Some(rule["record"].as_str()?.into())).collect();
    let check = |name: &str, selector: &str| -> Result<(), String> {
        if recorded.contains(name) {
            return Ok(());
        }
        if !shown.contains(name) {
            return Err(format!("{name} is in no scrape"));
        }
        for (label, value) in wanted(selector) {
            let pair = format!("{label}=\"{value}\"");
            if !samples.iter().any(|line| line.starts_with(&format!("{name}{{")) && line.contains(&pair)) {
                return Err(format!("{name} has no {pair}"));
            }
        }
        Ok(())
    };
    let mut names = 0;
    for (place, expr) in expressions() {
        for (name, selector) in series(&expr) {
            check(&name, &selector).unwrap_or_else(|why| panic!("{place}: {why}"));
            names += 1;
        }
    }
    assert!(names > 90, "{names}");
    assert!(check("haltline_no_such_thing", "").is_err());
    assert!(check("haltline_anomalies_total", "kind=~\"seq_gap|no_such_kind\"").is_err());
}

#[test]
fn promtool_can_parse_every_query_of_the_dashboard() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = "groups:\n- name: dashboard\n  rules:\n".to_owned();
    for (at, (place, expr)) in expressions().iter().enumerate() {
        if place == "the dashboard's expr" {
            let expr = expr.replace("$__rate_interval", "1m").replace('\'', "''");
            file += &format!("  - record: q{at}\n    expr: '{expr}'\n");
        }
    }
    std::fs::write(dir.path().join("rules.yml"), file).unwrap();
    run(Command::new("promtool").args(["check", "rules"]).arg(dir.path().join("rules.yml"))).unwrap();
}

/// Plays the service manager.
struct Manager {
    socket: UnixDatagram,
}

impl Manager {
    fn hear(&self) -> String {
        let mut buffer = [0; 512];
        let length = self.socket.recv(&mut buffer).expect("something from the daemon in time");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    /// Hears until this comes.
    fn until(&self, wanted: &str) -> Vec<String> {
        let (begin, mut heard) = (Instant::now(), Vec::new());
        loop {
            heard.push(self.hear());
            if heard.last().unwrap().starts_with(wanted) {
                return heard;
            }
            assert!(begin.elapsed() < PATIENCE, "waited in vain for {wanted}: {heard:?}");
        }
    }

    /// Takes what is there without waiting.
    fn drain(&self) -> usize {
        self.socket.set_nonblocking(true).unwrap();
        let mut buffer = [0; 512];
        let mut count = 0;
        while self.socket.recv(&mut buffer).is_ok() {
            count += 1;
        }
        self.socket.set_nonblocking(false).unwrap();
        count
    }
}

#[test]
fn a_service_manager_hears_ready_watchdog_reload_and_the_end_and_nothing_of_a_stopped_process() {
    let name = format!("haltline-sre-{}", std::process::id());
    let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let manager = Manager { socket };
    let dir = Daemon::start(LIMITS).terminate().1;
    let notify = format!("@{name}");
    let daemon = Daemon::run_under(dir, &[("NOTIFY_SOCKET", &notify), ("WATCHDOG_USEC", "40000")]);
    let ready = manager.hear();
    assert!(ready.starts_with("READY=1\nSTATUS=serving: events at ws://"), "{ready}");
    // It does serve by then.
    assert_eq!(daemon.ask("vera", "GET", "/readyz", None).0, 200);
    manager.until("WATCHDOG=1");
    manager.until("WATCHDOG=1");

    daemon.signal("STOP");
    let stat = format!("/proc/{}/stat", daemon.pid());
    let begin = Instant::now();
    while !std::fs::read_to_string(&stat).unwrap().contains(") T ") {
        assert!(begin.elapsed() < PATIENCE, "it does not stop");
        std::thread::yield_now();
    }
    manager.drain();
    manager.socket.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
    let mut buffer = [0; 512];
    assert!(manager.socket.recv(&mut buffer).is_err(), "a stopped process feeds no watchdog");
    manager.socket.set_read_timeout(Some(PATIENCE)).unwrap();
    daemon.signal("CONT");
    manager.until("WATCHDOG=1");

    daemon.signal("HUP");
    manager.until("RELOADING=1\nMONOTONIC_USEC=");
    manager.until("READY=1");
    let (status, _dir) = {
        daemon.signal("TERM");
        let heard = manager.until("STOPPING=1");
        assert!(!heard.iter().any(|text| text.starts_with("READY")), "{heard:?}");
        daemon.terminate()
    };
    assert!(status.success());
    assert_eq!(manager.drain(), 0, "nothing comes after the end");
}

#[test]
fn a_service_manager_that_makes_no_sense_is_a_clear_error() {
    let dir = Daemon::start(LIMITS).terminate().1;
    for (variable, value) in [("NOTIFY_SOCKET", "run/notify"), ("WATCHDOG_USEC", "2s")] {
        let out = haltline(&["serve", "--config", "haltline.toml"])
            .env("NOTIFY_SOCKET", "@haltline-nobody")
            .env(variable, value)
            .current_dir(dir.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("{variable} = \"{value}\": must be")), "{said}");
    }
}

/// The values of a key of the unit.
fn of_unit<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

#[test]
fn systemd_finds_the_unit_valid_and_little_exposed() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        // Large, and not part of what haltline needs: tests/run says the same.
        eprintln!("SKIPPED: systemd-analyze is not installed (Debian package systemd): the unit was not checked");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let unit = dir.path().join("haltline.service");
    // The program lies elsewhere here.
    std::fs::write(&unit, text(UNIT).replace("/usr/bin/haltline", env!("CARGO_BIN_EXE_haltline"))).unwrap();
    let said = run(Command::new("systemd-analyze").arg("verify").arg(&unit)).unwrap();
    assert!(!said.contains("haltline.service"), "{said}");
    let security = ["security", "--offline=true", "--threshold=15", "--no-pager"];
    let said = run(Command::new("systemd-analyze").args(security).arg(&unit)).unwrap();
    assert!(said.contains("Overall exposure level for haltline.service"), "{said}");
    // The bound is one: without the hardening it is far above.
    std::fs::write(&unit, text(UNIT).replace("SystemCallFilter", "#").replace("CapabilityBoundingSet", "#")).unwrap();
    assert!(run(Command::new("systemd-analyze").args(security).arg(&unit)).is_err());
}

#[test]
fn the_unit_says_what_the_daemon_does() {
    let unit = text(UNIT);
    assert_eq!(of_unit(&unit, "Type"), ["notify"]);
    let [start] = of_unit(&unit, "ExecStart")[..] else { panic!("{unit}") };
    assert_eq!(start, "/usr/bin/haltline serve --config /etc/haltline/haltline.toml");
    assert_eq!(of_unit(&unit, "ConfigurationDirectory"), ["haltline"]);
    // A kill that finds haltline dead raises the page, and gateways of other users come to the socket beside it.
    assert_eq!(of_unit(&unit, "RuntimeDirectoryPreserve"), ["yes"]);
    assert_eq!(of_unit(&unit, "RuntimeDirectoryMode"), ["0755"]);
    // Of other users' ids only "nobody" would be seen.
    assert!(of_unit(&unit, "PrivateUsers").is_empty());
    assert_eq!(of_unit(&unit, "RestartPreventExitStatus"), ["78"]);
}

/// The pieces of the runbook's configuration for systemd, and of the manifest: what haltline makes of them.
fn check_config(text: &str) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("haltline.toml");
    std::fs::write(&file, text).unwrap();
    let out = haltline(&["check-config", "--json"]).arg(&file).output().unwrap();
    serde_json::from_slice(&out.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&out.stderr)))
}

#[test]
fn the_sidecar_names_what_there_is() {
    let documents = yaml(SIDECAR);
    let of_kind =
        |kind: &str| documents.iter().find(|d| word(d, "kind") == kind).unwrap_or_else(|| panic!("no {kind}"));
    let config = word(&of_kind("ConfigMap")["data"], "haltline.toml");
    assert_eq!(check_config(config)["ok"], true);
    let listen = |port: i64| config.contains(&format!("listen = \"0.0.0.0:{port}\""));
    let pod = &of_kind("StatefulSet")["spec"]["template"]["spec"];
    // A gate's end is seen by its process.
    assert_eq!(pod["shareProcessNamespace"].as_bool(), Some(true));
    let containers: Vec<&Yaml> = list(pod, "initContainers").iter().chain(list(pod, "containers")).collect();
    for container in &containers {
        let name = word(container, "name");
        let resources = &container["resources"];
        assert_eq!(resources["requests"], resources["limits"], "{name} is not guaranteed what it uses");
        assert!(!resources["limits"]["cpu"].is_badvalue() && !resources["limits"]["memory"].is_badvalue(), "{name}");
        let security = &container["securityContext"];
        assert_eq!(security["readOnlyRootFilesystem"].as_bool(), Some(true), "{name}");
        assert_eq!(security["allowPrivilegeEscalation"].as_bool(), Some(false), "{name}");
        assert_eq!(list(&security["capabilities"], "drop"), [Yaml::String("ALL".into())], "{name}");
    }
    let haltline = containers.iter().find(|c| word(c, "name") == "haltline").unwrap();
    assert_eq!(word(haltline, "restartPolicy"), "Always", "a sidecar: there before the gateway and after it");
    let args: Vec<&str> = list(haltline, "args").iter().map(|a| a.as_str().unwrap()).collect();
    assert_eq!(args, ["serve", "--config", "/etc/haltline/haltline.toml"]);
    assert!(list(haltline, "ports").iter().all(|port| listen(port["containerPort"].as_i64().unwrap())));
    // Everything that the configuration writes to is mounted, and not read-only.
    let mounts = list(haltline, "volumeMounts");
    for written in ["/var/lib/haltline/state", "/run/haltline/gate"] {
        assert!(config.contains(&format!("\"{written}\"")), "{written}");
        let mount = mounts.iter().find(|m| written.starts_with(word(m, "mountPath"))).unwrap();
        assert_ne!(mount["readOnly"].as_bool(), Some(true), "{written}");
    }
    let shared = |c: &Yaml| list(c, "volumeMounts").iter().any(|m| word(m, "name") == "shared");
    let gateway = list(pod, "containers").iter().find(|c| word(c, "name") == "gateway").unwrap();
    assert!(shared(gateway) && shared(haltline));
    let volume = list(pod, "volumes").iter().find(|v| word(v, "name") == "shared").unwrap();
    assert_eq!(word(&volume["emptyDir"], "medium"), "Memory");

    let daemon = Daemon::start(LIMITS);
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let http = &haltline[probe]["httpGet"];
        // As the kubelet asks: without a token.
        assert_eq!(ask(&daemon.http, "nobody", "GET", word(http, "path"), None).0, 200, "{probe}");
        assert_eq!(word(http, "port"), "http", "{probe}");
    }
}

#[test]
fn the_container_file_names_what_there_is() {
    let text = text(CONTAINER);
    let joined = text.replace("\\\n", " ");
    let lines: Vec<&str> = joined.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).collect();
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    // What is copied is enough for cargo to look for a target: it would complain of the manifest first.
    let context = tempfile::tempdir().unwrap();
    for copy in lines.iter().filter_map(|line| line.strip_prefix("COPY ")).filter(|copy| !copy.starts_with("--from")) {
        let mut names: Vec<&str> = copy.split(' ').collect();
        names.pop();
        for name in names {
            std::os::unix::fs::symlink(top.join(name), context.path().join(name)).unwrap();
        }
    }
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["check", "--offline", "--bin", "none-of-this-name"]).current_dir(context.path());
    let said = run(&mut cargo).unwrap_err();
    assert!(said.contains("no bin target named"), "{said}");
    let entry: Vec<String> = ["ENTRYPOINT ", "CMD "]
        .iter()
        .flat_map(|key| {
            let line = lines.iter().find_map(|line| line.strip_prefix(key)).unwrap();
            serde_json::from_str::<Vec<String>>(line).unwrap()
        })
        .collect();
    assert_eq!(entry, ["/usr/bin/haltline", "serve", "--config", "/etc/haltline/haltline.toml"]);
    assert!(lines.contains(&"USER 10001:10001"));

    // The health check, as a shell runs it, for a service that is well, halted, and not there.
    let health = lines.iter().find(|line| line.starts_with("HEALTHCHECK")).unwrap().split_once(" CMD ").unwrap().1;
    let daemon = Daemon::start(LIMITS);
    let program = Path::new(env!("CARGO_BIN_EXE_haltline"));
    let health = health.replace("/etc/haltline/haltline.toml", "haltline.toml");
    let healthy = |dir: &Path| {
        let found = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
        Command::new("sh").args(["-c", &health]).env("PATH", found).current_dir(dir).output().unwrap().status.success()
    };
    // The check waits only so long for an answer.
    daemon.until("it is well", |daemon| healthy(daemon.dir.path()));
    daemon.kill("firm", "", "a drill");
    daemon.until("a halt is no illness", |daemon| healthy(daemon.dir.path()));
    let dir = daemon.sigkill();
    assert!(!healthy(dir.path()));
}
