//! The real program, killed and started again: what was decided is not lost.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::FutureExt as _;
use serde_json::{Value, json};

use crate::support::{Daemon, Gateway, block_on};

/// Stops nothing, and shows positions and working orders.
const LIMITS: &str = r#"
[limits.firm]
working_orders = 1_000_000
others = "unlimited"
[limits.account."*"]
others = "unlimited"
[limits.strategy."*"]
others = "unlimited"
[limits.pair."*"]
others = "unlimited"
[limits.instrument."*"]
position_long = 1_000_000_000
position_short = 1_000_000_000
others = "unlimited"
[limits.session."*"]
others = "unlimited"
"#;

/// A small generator, so that a failure can be run again.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// Orders as the gateway knows them.
#[derive(Clone, Debug, Default, PartialEq)]
struct Book {
    leaves: HashMap<String, u64>,
    position: u64,
}

#[derive(Clone, Debug)]
enum Sent {
    Buy(String, u64),
    Fill(String, u64),
    Cancel(String),
}

impl Book {
    fn take(&mut self, sent: &Sent) {
        match sent {
            Sent::Buy(id, qty) => {
                self.leaves.insert(id.clone(), *qty);
            }
            Sent::Fill(id, qty) => {
                self.position += qty;
                let left = self.leaves.get_mut(id).unwrap();
                *left -= qty;
                if *left == 0 {
                    self.leaves.remove(id);
                }
            }
            Sent::Cancel(id) => {
                self.leaves.remove(id);
            }
        }
    }

    fn next(&self, random: &mut Random, n: usize) -> Sent {
        let mut live: Vec<&String> = self.leaves.keys().collect();
        live.sort();
        if live.is_empty() || random.below(3) == 0 {
            // Texts, so that what they stand for has to survive as well.
            return Sent::Buy(format!("order {n}"), 1 + random.below(9));
        }
        let id = live[random.below(live.len() as u64) as usize].clone();
        match random.below(4) {
            0 => Sent::Cancel(id),
            _ => Sent::Fill(id.clone(), 1 + random.below(self.leaves[&id])),
        }
    }
}

async fn send(gateway: &mut Gateway, sent: &Sent, n: usize) {
    let message = match sent {
        Sent::Buy(id, qty) => json!({
            "type": "new", "strategy": "alpha", "instrument": "ACME", "id": id, "side": "buy", "ord_type": "limit",
            "qty": qty, "px": "10.00",
        }),
        Sent::Fill(id, qty) => json!({
            "type": "fill", "strategy": "alpha", "instrument": "ACME", "id": id, "side": "buy", "qty": qty,
            "px": "10.00", "exec_id": format!("fill {n}"),
        }),
        Sent::Cancel(id) => json!({ "type": "canceled", "id": id }),
    };
    gateway.event(message).await;
}

/// What the service shows: position, its leaves included; position turned round; working orders.
fn shown(daemon: &Daemon) -> [String; 3] {
    let limits = |kind: &str| daemon.get("vera", &format!("/v1/limits?kind={kind}"))["limits"].clone();
    let observed = |rows: &Value, rule: &str| {
        let row = rows.as_array().unwrap().iter().find(|row| row["rule"] == rule);
        row.and_then(|row| row["observed"].as_str()).unwrap_or("nothing").to_owned()
    };
    let instrument = limits("instrument");
    [
        observed(&instrument, "position_long"),
        observed(&instrument, "position_short"),
        observed(&limits("firm"), "working_orders"),
    ]
}

fn expected(book: &Book) -> [String; 3] {
    let leaves: u64 = book.leaves.values().sum();
    let short = if book.position == 0 { "0".to_owned() } else { format!("-{}", book.position) };
    [(book.position + leaves).to_string(), short, book.leaves.len().to_string()]
}

#[test]
fn positions_orders_and_sequences_are_exact_after_sigkill_at_random_moments() {
    let seed = std::env::var("HALTLINE_SEED").map_or(7, |seed| seed.parse().unwrap());
    let cycles = std::env::var("HALTLINE_CYCLES").map_or(15, |cycles| cycles.parse().unwrap());
    let mut random = Random(seed);
    let dir = Daemon::start(LIMITS).terminate().1;
    let path = dir.path().join("haltline.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("execs = 4_096", "execs = 1_000_000")).unwrap();
    let mut daemon = Daemon::run(dir);
    // Everything that was ever sent in its place in the stream; what was not taken is sent again, or something else.
    let mut taken: Vec<Sent> = Vec::new();
    let mut book = Book::default();
    for cycle in 0..cycles {
        let (mut ahead, mut answered) = (taken.clone(), 0);
        let killed = block_on(async {
            let (mut gateway, _) = Gateway::connect(&daemon, "gw-1").await;
            assert_eq!(gateway.seq as usize, taken.len(), "the stream goes on behind what was taken");
            let mut mine = book.clone();
            for _ in 0..random.below(400) {
                let next = mine.next(&mut random, ahead.len());
                mine.take(&next);
                send(&mut gateway, &next, ahead.len()).await;
                ahead.push(next);
                if random.below(8) == 0
                    && let Some(message) = gateway.next().now_or_never()
                    && message["type"] == "verdict"
                {
                    assert_eq!(message["verdict"], "admit", "{message}");
                    answered = answered.max(message["seq"].as_u64().unwrap());
                }
            }
            if random.below(3) == 0 {
                tokio::time::sleep(Duration::from_micros(random.below(3_000))).await;
            }
            daemon.sigkill()
        });
        daemon = Daemon::run(killed);
        assert_eq!(daemon.mode("firm", ""), "normal", "a killed process has lost nothing");
        let next_seq = block_on(async { Gateway::connect(&daemon, "gw-1").await.1["next_seq"].as_u64().unwrap() });
        assert!(next_seq > answered, "what was answered was taken: {answered} of {next_seq}");
        assert!((taken.len()..=ahead.len()).contains(&(next_seq as usize - 1)), "{next_seq} in cycle {cycle}");
        ahead.truncate(next_seq as usize - 1);
        for sent in &ahead[taken.len()..] {
            book.take(sent);
        }
        taken = ahead;
        daemon.until("positions are shown", |d| shown(d) == expected(&book));
    }
    assert!(taken.len() > 100, "{} events were taken", taken.len());
    // And the same after an orderly end.
    let (status, dir) = daemon.terminate();
    assert!(status.success());
    let daemon = Daemon::run(dir);
    daemon.until("positions are shown", |d| shown(d) == expected(&book));
    assert_eq!(daemon.mode("firm", ""), "normal");
}

/// The segments of the journal, oldest first.
fn segments(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(dir.join("state/journal"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "seg"))
        .collect();
    found.sort();
    found
}

/// A service that took some orders and ended in an orderly way.
fn with_orders() -> tempfile::TempDir {
    let daemon = Daemon::start(LIMITS);
    block_on(async {
        let (mut gateway, _) = Gateway::connect(&daemon, "gw-1").await;
        for n in 0..20 {
            assert_eq!(gateway.buy(&format!("order {n}"), 5).await["verdict"], "admit");
        }
    });
    daemon.terminate().1
}

#[test]
fn damage_in_the_middle_starts_halted_and_says_where() {
    let dir = with_orders();
    let path = segments(dir.path()).remove(0);
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let daemon = Daemon::run(dir);
    assert_eq!(daemon.mode("firm", ""), "halted");
    let state = daemon.get("vera", "/v1/state").to_string();
    assert!(state.contains("00000001.seg, byte ") && state.contains("record "), "{state}");
    // What was before the damage is kept, and the damaged journal too.
    let daemon = Daemon::run(daemon.terminate().1);
    assert_eq!(daemon.mode("firm", ""), "halted", "the latch has it now");
    let aside = std::fs::read_dir(daemon.dir.path().join("state")).unwrap();
    assert!(aside.into_iter().any(|e| e.unwrap().file_name().to_string_lossy().starts_with("journal.until-")));
}

#[test]
fn a_journal_whose_end_was_cut_off_starts_halted() {
    let dir = with_orders();
    let path = segments(dir.path()).pop().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 400]).unwrap();
    let daemon = Daemon::run(dir);
    assert_eq!(daemon.mode("firm", ""), "halted");
}

#[test]
fn a_run_of_another_boot_that_was_not_ended_starts_halted() {
    let daemon = Daemon::start(LIMITS);
    block_on(async {
        let (mut gateway, _) = Gateway::connect(&daemon, "gw-1").await;
        assert_eq!(gateway.buy("1", 5).await["verdict"], "admit");
    });
    let dir = daemon.sigkill();
    // As after a power loss: the ring was in memory.
    let ring = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|e| e == "ring"))
        .unwrap();
    std::fs::remove_file(ring).unwrap();
    let daemon = Daemon::run(dir);
    assert_eq!(daemon.mode("firm", ""), "halted");
    let state = daemon.get("vera", "/v1/state").to_string();
    assert!(state.contains("stopped without an orderly end"), "{state}");
}

#[test]
fn a_trip_whose_latch_was_not_written_is_latched_again() {
    let limits = LIMITS
        .replace("[limits.strategy.\"*\"]\n", "[limits.strategy.\"*\"]\norder_qty = { max = 10, action = \"halt\" }\n");
    let daemon = Daemon::start(&limits);
    let latch = daemon.dir.path().join("state/latch");
    let before = std::fs::read(&latch).unwrap();
    block_on(async {
        let (mut gateway, _) = Gateway::connect(&daemon, "gw-1").await;
        assert_eq!(gateway.buy("1", 11).await["verdict"], "deny");
    });
    let dir = daemon.sigkill();
    // As if the process had been killed before the latch got to disk.
    std::fs::write(&latch, before).unwrap();
    let daemon = Daemon::run(dir);
    assert_eq!(daemon.mode("strategy", "alpha"), "halted");
    let state = daemon.get("vera", "/v1/state").to_string();
    assert!(state.contains("order_qty of strategy alpha: observed 11 of 10"), "{state}");
}

#[test]
fn limits_changed_by_a_reload_and_by_a_restart_are_in_force_after_the_next() {
    let daemon = Daemon::start(LIMITS);
    let path = daemon.dir.path().join("haltline.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let with =
        |max: u64| text.replace("[limits.strategy.\"*\"]\n", &format!("[limits.strategy.\"*\"]\norder_qty = {max}\n"));
    std::fs::write(&path, with(7)).unwrap();
    daemon.signal("HUP");
    daemon.until("they are loaded", |d| d.get("vera", "/v1/state")["limits_generation"] == 2);
    let dir = daemon.sigkill();
    let daemon = Daemon::run(dir);
    assert_eq!(daemon.get("vera", "/v1/state")["limits_generation"], 2);
    let dir = daemon.sigkill();
    std::fs::write(&path, with(6)).unwrap();
    let daemon = Daemon::run(dir);
    daemon.until("they are in force", |d| d.get("vera", "/v1/state")["limits_generation"] == 3);
    block_on(async {
        let (mut gateway, _) = Gateway::connect(&daemon, "gw-1").await;
        assert_eq!(gateway.buy("1", 6).await["verdict"], "admit");
        assert_eq!(gateway.buy("2", 7).await["limit"], "6");
    });
    let daemon = Daemon::run(daemon.sigkill());
    daemon.until("they are in force", |d| d.get("vera", "/v1/state")["limits_generation"] == 3);
    assert_eq!(daemon.mode("firm", ""), "normal");
}

#[test]
fn verdicts_that_wait_for_the_disk_come_in_order() {
    let dir = Daemon::start(LIMITS).terminate().1;
    let path = dir.path().join("haltline.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("[journal]", "[journal]\ndurable_before_verdict = true")).unwrap();
    let daemon = Daemon::run(dir);
    block_on(async {
        let (mut gateway, _) = Gateway::connect(&daemon, "gw-1").await;
        for n in 1..=200 {
            send(&mut gateway, &Sent::Buy(format!("order {n}"), 1), n).await;
        }
        for n in 1..=200 {
            let verdict = gateway.verdict().await;
            assert_eq!((&verdict["seq"], &verdict["verdict"]), (&json!(n), &json!("admit")));
        }
    });
}
