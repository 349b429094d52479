//! The example gateways in Rust, C and C++, flooding a stub venue through the real service's gate: after a kill was confirmed
//! no order leaves, by the venue's own capture.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Instant;

use serde_json::{Value, json};

use crate::gate::{Host, PATIENT};
use crate::support::cc::{Language, build};
use crate::support::{Daemon, Lines, PATIENCE, config, haltline, token};

/// Nothing is limited: what stops the flood is the switch.
pub const UNLIMITED: &str = r#"
[limits.firm]
others = "unlimited"
[limits.account."*"]
others = "unlimited"
[limits.strategy."*"]
others = "unlimited"
[limits.pair."*"]
others = "unlimited"
[limits.instrument."*"]
others = "unlimited"
[limits.session."*"]
others = "unlimited"
"#;

/// A service for a session `gw-1` of `kind`, with room for a flood.
fn host(kind: &str) -> Host {
    let dir = tempfile::Builder::new().prefix("haltline-").tempdir_in("/dev/shm").unwrap();
    let files = tempfile::tempdir().unwrap();
    // What closes is the switch, and what is to be canceled is told once, however late a gateway is.
    let gate = format!("dir = \"{}/gate\"\n{PATIENT}[cancel]\nrepeat_after = \"1h\"\n", dir.path().display());
    let more = format!("{UNLIMITED}\n[gate]\n{gate}");
    let text = config(&files.path().join("state"), &more)
        .replace("kind = \"ask\"", &format!("kind = \"{kind}\""))
        .replace("execs = 4_096", "execs = 1_048_576")
        .replace("remembered_orders = 1_024", "remembered_orders = 65_536");
    std::fs::write(files.path().join("haltline.toml"), text).unwrap();
    std::fs::write(files.path().join("token"), token("gw-1") + "\n").unwrap();
    let made = haltline(&["init", "--config", "haltline.toml"]).current_dir(files.path()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Host { daemon: Daemon::run(files), dir }
}

/// Builds the examples in Rust, as far as they are not, and returns where they are.
pub fn examples() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        let profile = test.parent().and_then(Path::parent).unwrap();
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--locked", "--quiet", "--examples", "--target-dir"]).arg(profile.parent().unwrap());
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        assert!(cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success());
        profile.join("examples")
    })
}

/// A process that ends with the test, and what it prints.
pub struct Running {
    pub child: Child,
    lines: Lines,
}

impl Running {
    pub fn start(command: &mut Command) -> Running {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = Lines::of(child.stdout.take().unwrap());
        Running { child, lines }
    }

    /// Reads on to a line for which `wanted` holds.
    pub fn until(&self, wanted: impl Fn(&str) -> bool) {
        let begin = Instant::now();
        let mut line = String::new();
        while !wanted(&line) {
            assert!(begin.elapsed() < PATIENCE, "waited in vain, last for {line:?}");
            line = self.lines.next();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Orders before each kill.
const ORDERS: usize = 1_000;

/// One order as the venue had it: when it was sent, by the gateway's clock inside the pass, and when received.
struct Captured {
    sent_ns: u64,
    received_ns: u64,
}

impl Captured {
    /// `None`: the gateway's connection was closed.
    fn of(line: &str) -> Option<Captured> {
        let line: Value = serde_json::from_str(line).unwrap();
        if line.get("closed").is_some() {
            return None;
        }
        Some(Captured {
            sent_ns: line["sent_ns"].as_u64().unwrap(),
            received_ns: line["received_ns"].as_u64().unwrap(),
        })
    }
}

/// When the gate was confirmed to have nothing on its way, in `CLOCK_MONOTONIC` ns. Checks the receipt.
fn confirmed_at(receipt: &Value, gateway: &Running) -> u64 {
    let gate = &receipt["gates"][0];
    assert_eq!((&gate["pid"], &gate["status"]), (&json!(gateway.child.id()), &json!("confirmed")), "{receipt}");
    receipt["pressed_monotonic_ns"].as_u64().unwrap() + gate["confirmed_ns"].as_u64().unwrap()
}

/// Re-arms whatever is halted until the gateway sends again. An observing gateway reports what it sent just before the halt when
/// the halt is in force, which halts its session, too.
fn rearm_until_open(daemon: &Daemon, gateway: &Running) {
    let begin = Instant::now();
    loop {
        for halt in daemon.get("rita", "/v1/state")["halts"].as_array().unwrap() {
            let rearm = json!({ "scope": halt["scope"], "epoch": halt["epoch"], "reason": "goes on" });
            // It may have been raised again since.
            let (code, body) = daemon.ask("rita", "POST", "/v1/rearm", Some(&rearm));
            assert!([200, 202, 409].contains(&code), "{code} {body}");
        }
        while let Some(line) = gateway.lines.next_now() {
            if line == "open" {
                return;
            }
        }
        assert!(begin.elapsed() < PATIENCE, "the gate stays closed: {}", daemon.get("rita", "/v1/state"));
    }
}

/// Runs the flood of one gateway and stops it twice.
fn no_order_leaves_after_the_confirmation(program: &Path, kind: &str) {
    let host = host(kind);
    let venue = Running::start(&mut Command::new(examples().join("venue")));
    let listening: Value = serde_json::from_str(&venue.lines.next()).unwrap();
    let mut command = Command::new(program);
    command.arg(host.socket()).arg("gw-1").arg(host.daemon.dir.path().join("token"));
    command.args([listening["listening"].as_str().unwrap(), "alpha", "ACME"]);
    let gateway = Running::start(&mut command);
    let mut captured = Vec::new();
    let capture = |orders: usize, captured: &mut Vec<Captured>| {
        captured.extend((0..orders).map(|_| Captured::of(&venue.lines.next()).unwrap()));
    };

    gateway.until(|line| line == "open");
    capture(ORDERS, &mut captured);
    let receipt = host.daemon.kill_confirmed("strategy", "alpha", "flood");
    let first = confirmed_at(&receipt, &gateway);
    gateway.until(|line| line.starts_with("closed: "));
    // It does not give up: a thousand tries later nothing has come through.
    gateway.until(|line| line == "denied 1000");
    // Of a halt that is over no more is counted.
    crate::flat::flat_when(&host.daemon, &receipt, "flat");
    let rearmed_after = clock();
    rearm_until_open(&host.daemon, &gateway);

    // From here to the next kill the flood goes on for at least as many orders.
    while captured.last().is_none_or(|order| order.sent_ns < rearmed_after) {
        capture(1, &mut captured);
    }
    capture(ORDERS, &mut captured);
    let receipt = host.daemon.kill_confirmed("firm", "", "enough");
    let second = confirmed_at(&receipt, &gateway);
    gateway.until(|line| line == "denied 1000");
    // What rests at the venue is canceled, too: some of it at the first kill.
    let path = format!("/v1/kills/{}", receipt["id"].as_str().unwrap());
    host.daemon.until("it is flat", |daemon| daemon.get("vera", &path)["flat"]["status"] == "flat");
    let canceled = |daemon: &Daemon| {
        let metrics = daemon.get("vera", "/metrics");
        let line = "haltline_cancel_ended_total{how=\"canceled\"} ";
        metrics.as_str().unwrap().lines().find_map(|row| row.strip_prefix(line)?.parse::<u64>().ok())
    };
    host.daemon.until("those that rested are counted", |daemon| canceled(daemon) >= Some(16));
    assert_eq!(canceled(&host.daemon), Some(16), "and no other");
    drop(gateway);
    while let Some(order) = Captured::of(&venue.lines.next()) {
        captured.push(order);
    }

    for order in &captured {
        let Captured { sent_ns, received_ns } = *order;
        assert!(received_ns >= sent_ns);
        assert!(
            sent_ns <= first || (rearmed_after <= sent_ns && sent_ns <= second),
            "sent {} ns after the confirmation of the first kill, {} before the re-arm",
            sent_ns - first,
            rearmed_after.saturating_sub(sent_ns)
        );
    }
    let before = |confirmed: u64| captured.iter().map(|o| o.sent_ns).filter(|&sent| sent <= confirmed).max().unwrap();
    println!(
        "{} ({kind}): {} orders captured; the last left {} and {} µs before the gate was confirmed",
        program.display(),
        captured.len(),
        (first - before(first)) / 1_000,
        (second - before(second)) / 1_000
    );
}

/// `CLOCK_MONOTONIC` in ns.
fn clock() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[test]
fn gateway_in_rust_sends_nothing_after_the_confirmation() {
    for kind in ["ask", "observe"] {
        no_order_leaves_after_the_confirmation(&examples().join("gateway"), kind);
    }
}

#[test]
fn gateway_in_c_sends_nothing_after_the_confirmation() {
    for kind in ["ask", "observe"] {
        no_order_leaves_after_the_confirmation(&build("tests/gateways/gateway.c", Language::C), kind);
    }
}

#[test]
fn gateway_in_cpp_sends_nothing_after_the_confirmation() {
    for kind in ["ask", "observe"] {
        no_order_leaves_after_the_confirmation(&build("tests/gateways/gateway.cpp", Language::Cpp), kind);
    }
}
