//! The real program, killed and started again: what was decided is not lost.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use haltline::journal::step::{HALT_RAISED, STEPS};
use serde_json::{Value, json};

use crate::support::{Daemon, Gateway, PATIENCE, SHOWN as LIMITS, block_on, haltline};

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
            // Mostly some of it is known to have been taken; the rest is on its way.
            let orders: Vec<u64> = (taken.len()..ahead.len())
                .filter(|n| matches!(ahead[*n], Sent::Buy(..)))
                .map(|n| n as u64 + 1)
                .collect();
            if random.below(3) > 0 && !orders.is_empty() {
                let until = orders[random.below(orders.len() as u64) as usize];
                while answered < until {
                    let message = gateway.next().await;
                    if message["type"] == "verdict" {
                        assert_eq!(message["verdict"], "admit", "{message}");
                        answered = answered.max(message["seq"].as_u64().unwrap());
                    }
                }
            }
            // Waits for nothing: this is the random moment at which it is killed.
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
    assert!(taken.len() > 20 * cycles, "{} events were taken in {cycles} cycles", taken.len());
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
fn a_kill_during_which_the_process_dies_at_any_step_of_the_latch_is_never_lost_once_it_was_confirmed() {
    use std::os::unix::process::ExitStatusExt as _;
    let mut in_force = 0;
    for step in STEPS.into_iter().filter(|step| step.starts_with("latch ")) {
        // The first is that of the start.
        for time in 2..=3 {
            let dir = Daemon::start(LIMITS).terminate().1;
            let mut daemon = Daemon::run_under(dir, &[("HALTLINE_ABORT_AT", &format!("{step}:{time}"))]);
            let scopes = [("strategy", "alpha"), ("strategy", "beta"), ("account", "main")];
            let confirmed = scopes.map(|(kind, name)| {
                let (scope, reason) = (format!("{kind}:{name}"), format!("{name} runs away"));
                let args = ["kill", "--config", "haltline.toml", "--scope", &scope, "--reason", &reason];
                daemon.haltline(&[&args[..], &["--timeout", "60000"]].concat()).status.code() == Some(0)
            });
            // A disk that took longer than a press waits may have got more than one with one write.
            while daemon.is_running() {
                daemon.haltline(&["kill", "--config", "haltline.toml", "--scope", "instrument:ACME"]);
            }
            let status = daemon.wait();
            assert_eq!(status.signal(), Some(6), "{step}:{time}: {status}");
            let dir = daemon.sigkill();
            // What was under way may have got there as well.
            let latch = std::fs::read_to_string(dir.path().join("state/latch")).unwrap();
            let latched = scopes.map(|(_, name)| latch.contains(&format!("\"{name}\"")));
            let daemon = Daemon::run(dir);
            let halted = scopes.map(|(kind, name)| daemon.mode(kind, name) == "halted");
            let why = format!("{step}:{time}: {confirmed:?} confirmed, {latched:?} in the latch, {halted:?} halted");
            assert!(confirmed.iter().zip(latched).all(|(confirmed, latched)| *confirmed <= latched), "{why}");
            // Not the halt alone: what is confirmed says why without the journal.
            let explained = scopes.map(|(_, name)| latch.contains(&format!("{name} runs away")));
            let all = confirmed.iter().zip(explained).all(|(confirmed, explained)| *confirmed <= explained);
            assert!(all, "{why}, {explained:?} with their causes");
            assert!(latched.iter().zip(halted).all(|(latched, halted)| *latched <= halted), "{why}");
            assert!(confirmed.contains(&false), "{why}");
            in_force += latched.iter().filter(|latched| **latched).count();
        }
    }
    assert!(in_force >= 3, "{in_force}");
}

/// The latch may be written between a halt and its cause. Whoever is told then that the halt is durable would find nothing after a
/// crash that says why.
#[test]
fn a_halt_that_is_on_disk_without_its_cause_is_not_confirmed_before_the_process_dies() {
    let holds = tempfile::tempdir().unwrap();
    let hold = |step: &str| std::fs::write(holds.path().join(step), "").unwrap();
    let dir = Daemon::start(LIMITS).terminate().1;
    let daemon = Daemon::run_under(dir, &[("HALTLINE_HOLD_IN", holds.path().to_str().unwrap())]);
    hold(HALT_RAISED);
    let latch = daemon.dir.path().join("state/latch");
    let latched = || std::fs::read_to_string(&latch).unwrap();
    let receipt = std::thread::scope(|scope| {
        let press = scope.spawn(|| {
            let scope = json!({ "kind": "strategy", "name": "alpha" });
            let body = json!({ "scope": scope, "reason": "it runs away", "wait_ms": 300 });
            daemon.ask("olaf", "POST", "/v1/kill", Some(&body))
        });
        let begin = Instant::now();
        while !latched().contains("\"alpha\"") {
            assert!(begin.elapsed() < PATIENCE, "the writer does not look by itself: {}", latched());
            std::thread::yield_now();
        }
        // What is written from now on gets no further than its new file.
        hold("latch written");
        std::fs::remove_file(holds.path().join(HALT_RAISED)).unwrap();
        press.join().unwrap()
    });
    let dir = daemon.sigkill();
    let latch = std::fs::read_to_string(dir.path().join("state/latch")).unwrap();
    assert!(latch.contains("\"alpha\"") && !latch.contains("it runs away"), "{latch}");
    let (status, receipt) = receipt;
    assert_eq!((status, &receipt["missing"]["latch"]), (200, &json!(true)), "{receipt}");
    assert_eq!(Daemon::run(dir).mode("strategy", "alpha"), "halted");
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

fn json_of(args: &[&str], dir: &std::path::Path) -> (Option<i32>, Value) {
    let output = haltline(args).current_dir(dir).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{args:?}: {text}\n{output:?}"));
    (output.status.code(), value)
}

#[test]
fn replay_comes_to_the_same_and_tells_what_other_limits_would_have_done() {
    let dir = with_orders();
    let (code, replay) = json_of(&["replay", "state", "--json"], dir.path());
    assert_eq!(code, Some(0));
    assert_eq!((&replay["was"]["admitted"], &replay["was"]["events"]["new"]), (&json!(20), &json!(20)));
    assert!(replay["checks"].as_u64().unwrap() > 0, "{replay}");
    assert_eq!(replay["end"], "ended in an orderly way");
    let text = std::fs::read_to_string(dir.path().join("haltline.toml")).unwrap();
    let tighter = text.replace(
        "[limits.strategy.\"*\"]\n",
        "[limits.strategy.\"*\"]\norder_qty = 4\ndenials = { count = 9, per = \"1h\", action = \"halt\" }\n",
    );
    std::fs::write(dir.path().join("tighter.toml"), tighter).unwrap();
    let args = ["replay", "state", "--config", "tighter.toml", "--json", "--html", "page.html"];
    let (_, replay) = json_of(&args, dir.path());
    assert_eq!(replay["was"]["admitted"], 20);
    let would = &replay["would"];
    assert_eq!((&would["admitted"], &would["denied"]["order_qty"]), (&json!(0), &json!(10)), "{would}");
    assert_eq!((&would["denied"]["mode"], &would["trips_total"]), (&json!(10), &json!(1)));
    assert_eq!(would["trips"][0]["rule"], "denials");
    let page = std::fs::read_to_string(dir.path().join("page.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("order_qty") && !page.contains("http"), "{page}");
    // What the flow would bear, and what is wrong with what there is.
    let (_, suggested) = json_of(&["limits", "suggest", "state", "--json", "--config", "tighter.toml"], dir.path());
    let of = |list: &str, what: &str, value: &str| -> Vec<Value> {
        suggested[list].as_array().unwrap().iter().filter(|row| row[what] == value).cloned().collect()
    };
    let quantity = of("proposals", "rule", "order_qty");
    let instrument = quantity.iter().find(|row| row["kind"] == "instrument").unwrap();
    assert_eq!((&instrument["peak"], &instrument["limit"]), (&json!("5"), &json!("10")));
    let tripped = of("findings", "finding", "tripped");
    assert_eq!(
        (&tripped[0]["rule"], &tripped[0]["scope"]["name"]),
        (&json!("order_qty"), &json!("alpha")),
        "{tripped:?}"
    );
    let loose = of("findings", "finding", "loose");
    assert!(loose.iter().any(|row| row["rule"] == "position_long"), "a billion for a hundred: {loose:?}");
    // With other names ids mean something else.
    let other = text.replace("[strategies.beta]", "[strategies.gamma]");
    std::fs::write(dir.path().join("other.toml"), other).unwrap();
    let output = haltline(&["replay", "state", "--config", "other.toml"]).current_dir(dir.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("other accounts, strategies"), "{output:?}");
}

#[test]
fn audit_lists_who_did_what_and_verify_finds_what_was_changed() {
    let daemon = Daemon::start(LIMITS);
    daemon.kill("strategy", "beta", "it sells, \"what\" we do not have");
    let (status, _) = daemon.ask("vera", "POST", "/v1/kill", Some(&json!({ "scope": { "kind": "firm" } })));
    assert_eq!(status, 403);
    let (status, _) = daemon.ask("nobody", "GET", "/v1/state", None);
    assert_eq!(status, 401);
    let epoch = daemon.get("vera", "/v1/state")["halts"][0]["epoch"].clone();
    let scope = json!({ "kind": "strategy", "name": "beta" });
    let body = json!({ "scope": scope, "epoch": epoch, "reason": "settled" });
    assert_eq!(daemon.ask("rita", "POST", "/v1/rearm", Some(&body)).0, 200);
    daemon.signal("HUP");
    daemon.until("they are loaded", |d| d.get("vera", "/v1/state")["limits_generation"] == 2);
    let dir = daemon.terminate().1;

    let list = |args: &[&str]| {
        let output = haltline(&["audit"]).args(args).arg("state").current_dir(dir.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let all: Vec<Value> =
        list(&["--format", "jsonl"]).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |action: &str| -> Vec<&Value> {
        all.iter().map(|line| &line["entry"]).filter(|entry| entry["action"] == action).collect()
    };
    let kills = of("kill");
    assert_eq!(
        (&kills[0]["actor"], &kills[0]["outcome"], &kills[0]["from"]),
        (&json!("olaf"), &json!("done"), &json!("127.0.0.1"))
    );
    assert!(kills[0]["detail"].as_str().unwrap().starts_with("mode halted, epoch "));
    assert_eq!(
        (&kills[1]["actor"], &kills[1]["outcome"]),
        (&json!("vera"), &json!("refused: the role does not allow it"))
    );
    assert_eq!(of("auth")[0]["actor"], "?");
    assert_eq!((&of("rearm")[0]["actor"], &of("rearm")[0]["reason"]), (&json!("rita"), &json!("settled")));
    assert_eq!((of("limits")[0]["actor"].clone(), of("start").len(), of("stop").len()), (json!("signal"), 1, 1));
    assert_eq!(of("confirmed").len(), 1);
    assert_eq!(list(&["--actor", "olaf"]).lines().count(), 1);
    assert_eq!(list(&["--refused"]).lines().count(), 2);
    assert_eq!(list(&["--scope", "strategy:beta", "--since", "2000"]).lines().count(), 3);
    assert_eq!(list(&["--until", "2000"]).lines().count(), 0);
    let csv = list(&["--format", "csv", "--action", "kill"]);
    assert!(csv.lines().nth(1).unwrap().contains("\"it sells, \"\"what\"\" we do not have\""), "{csv}");

    let (code, report) = json_of(&["audit", "verify", "state", "--json"], dir.path());
    assert_eq!((code, &report["ok"], &report["key"]), (Some(0), &json!(true), &json!(true)), "{report}");
    let head = report["head"].as_str().unwrap().to_owned();
    let path = segments(dir.path()).pop().unwrap();
    let good = std::fs::read(&path).unwrap();
    let mut bad = good.clone();
    let at = good.windows(4).position(|w| w == b"olaf").unwrap();
    bad[at..at + 4].copy_from_slice(b"vera");
    std::fs::write(&path, &bad).unwrap();
    let (code, report) = json_of(&["audit", "verify", "state", "--json"], dir.path());
    assert_eq!((code, &report["ok"]), (Some(1), &json!(false)));
    let fault = report["faults"][0].as_str().unwrap();
    assert!(fault.contains("byte ") && fault.contains("record "), "{fault}");
    // Cut off at a group, nothing is wrong with what is left, but for the head.
    std::fs::write(&path, &good).unwrap();
    let daemon = Daemon::run(dir);
    let dir = daemon.terminate().1;
    let (_, later) = json_of(&["audit", "verify", "state", "--json", "--head", &head], dir.path());
    assert_eq!(later["ok"], true, "an earlier head is in it: {later}");
    let last = later["head"].as_str().unwrap().to_owned();
    std::fs::remove_file(segments(dir.path()).pop().unwrap()).unwrap();
    let (_, cut) = json_of(&["audit", "verify", "state", "--json"], dir.path());
    assert_eq!(cut["ok"], true);
    let (code, cut) = json_of(&["audit", "verify", "state", "--json", "--head", &last], dir.path());
    assert_eq!((code, &cut["ok"]), (Some(1), &json!(false)), "{cut}");
}

/// A file system in memory that is full soon; taken away again when dropped.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    /// `None` where mounting is not allowed.
    fn mount(at: &std::path::Path, size: &str) -> Option<SmallDisk> {
        let args = ["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"];
        let done = std::process::Command::new("mount").args(args).arg(at).status().ok()?;
        done.success().then(|| SmallDisk(at.to_owned()))
    }

    fn resize(&self, size: &str) {
        let args = ["-o", &format!("remount,size={size}")];
        assert!(std::process::Command::new("mount").args(args).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_denies_new_flow_after_the_grace_takes_a_kill_and_goes_on_when_there_is_room() {
    let dir = Daemon::start(LIMITS).terminate().1;
    let path = dir.path().join("haltline.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace("segment_bytes = 1_048_576", "segment_bytes = 65_536");
    let text = text.replace("grace = \"1h\"", "grace = \"50ms\"");
    std::fs::write(&path, text).unwrap();
    let journal = dir.path().join("state/journal");
    let kept: Vec<_> = segments(dir.path()).into_iter().map(|p| (p.clone(), std::fs::read(p).unwrap())).collect();
    let Some(disk) = SmallDisk::mount(&journal, "256k") else {
        eprintln!("not run: a file system cannot be mounted here");
        return;
    };
    for (path, bytes) in kept {
        std::fs::write(path, bytes).unwrap();
    }
    let daemon = Daemon::run(dir);
    block_on(async {
        let (mut gateway, _) = Gateway::connect(&daemon, "gw-1").await;
        let mut n = 0;
        let denied = loop {
            n += 1;
            let verdict = gateway.buy(&format!("order {n}"), 1).await;
            assert!(n < 20_000, "the disk is never full");
            if verdict["verdict"] == "admit" {
                continue;
            }
            assert_eq!(verdict["rule"], "journal", "{verdict}");
            // One that is merely slow denies as well, for a while.
            let state = daemon.get("vera", "/v1/state")["journal"].clone();
            if state["state"].as_str().unwrap().starts_with("failed since ") {
                break state;
            }
        };
        let state = denied;
        assert_eq!((&state["denies_new_flow"], state["error"].is_string()), (&json!(true), true), "{state}");
        // What reports is taken all the same, and so is a kill: the latch is on another file system.
        send(&mut gateway, &Sent::Fill("order 1".into(), 1), n).await;
        let http = daemon.http.clone();
        let kill = tokio::task::spawn_blocking(move || crate::support::kill(&http, "strategy", "beta", "drill"));
        let confirmed = gateway.next_of("mode").await;
        assert_eq!(confirmed["scopes"][0]["mode"], "halted");
        // The confirmation is read while the press waits.
        let receipt = kill.await.unwrap();
        assert_eq!(receipt["latch"]["durable"], true, "{receipt}");
        disk.resize("4m");
        daemon.until("it is written again", |d| d.get("vera", "/v1/state")["journal"]["state"] == "ok");
        daemon.until("it has caught up", |d| d.get("vera", "/v1/state")["journal"]["denies_new_flow"] == false);
        let begin = std::time::Instant::now();
        while gateway.buy(&format!("after {n}"), 1).await["verdict"] != "admit" {
            n += 1;
            assert!(begin.elapsed() < PATIENCE, "it does not go on");
        }
    });
    // What was decided in the meantime is not lost.
    let before = shown(&daemon);
    let daemon = Daemon::run(daemon.sigkill());
    assert_eq!(daemon.mode("firm", ""), "normal");
    daemon.until("positions are shown", |d| shown(d) == before);
    let (code, report) = json_of(&["audit", "verify", "state", "--json"], daemon.dir.path());
    assert_eq!((code, &report["ok"]), (Some(0), &json!(true)), "{report}");
    drop((daemon, disk));
}

#[test]
fn a_report_follows_the_cancels_to_the_last_one() {
    let limits = LIMITS
        .replace("[limits.strategy.\"*\"]\n", "[limits.strategy.\"*\"]\norder_qty = { max = 10, action = \"halt\" }\n");
    let daemon = Daemon::start(&limits);
    let timeline = |daemon: &Daemon| -> Vec<String> {
        let dirs = std::fs::read_dir(daemon.dir.path().join("state/incidents")).into_iter().flatten();
        let files = dirs.map(|dir| std::fs::read_to_string(dir.unwrap().path().join("incident.json")));
        let reports: Vec<Value> = files.filter_map(|text| serde_json::from_str(&text.ok()?).ok()).collect();
        let rows = reports.iter().flat_map(|report| report["timeline"].as_array().unwrap());
        rows.map(|row| row["what"].as_str().unwrap().to_owned()).collect()
    };
    block_on(async {
        let (mut gateway, _) = Gateway::connect(&daemon, "gw-1").await;
        for id in ["1", "2", "3"] {
            assert_eq!(gateway.buy(id, 5).await["verdict"], "admit");
        }
        assert_eq!(gateway.buy("too large", 11).await["verdict"], "deny");
        for _ in 0..3 {
            let told = gateway.next_of("cancel").await;
            assert_eq!(told["scope"]["name"], "alpha", "{told}");
        }
        // The gateway takes its time.
        daemon.until("what is left is reported", |d| {
            timeline(d).iter().any(|row| row.starts_with("3 orders STILL WORK"))
        });
        for id in ["1", "2"] {
            gateway.event(json!({ "type": "canceled", "id": id })).await;
        }
        send(&mut gateway, &Sent::Fill("3".to_owned(), 5), 3).await;
        daemon.until("the end is added", |d| timeline(d).iter().any(|row| row == "flat: no order works"));
    });
    let rows = timeline(&daemon);
    assert_eq!(rows[0], "tripped: halted, page raised");
    for row in ["latch on disk", "session gw-1 confirmed", "the last of these ended: 2 canceled, 1 filled, 0 otherwise"]
    {
        assert!(rows.iter().any(|found| found == row), "{row}: {rows:?}");
    }
}

#[test]
fn a_trip_and_a_kill_leave_a_report() {
    let limits = LIMITS
        .replace("[limits.strategy.\"*\"]\n", "[limits.strategy.\"*\"]\norder_qty = { max = 10, action = \"halt\" }\n");
    let daemon = Daemon::start(&limits);
    let reports = |daemon: &Daemon| -> Vec<Value> {
        let dirs = std::fs::read_dir(daemon.dir.path().join("state/incidents")).into_iter().flatten();
        let files = dirs.map(|dir| std::fs::read_to_string(dir.unwrap().path().join("incident.json")));
        files.filter_map(|text| serde_json::from_str(&text.ok()?).ok()).collect()
    };
    block_on(async {
        let (mut gateway, _) = Gateway::connect(&daemon, "gw-1").await;
        assert_eq!(gateway.buy("fine", 5).await["verdict"], "admit");
        assert_eq!(gateway.buy("too large", 11).await["verdict"], "deny");
    });
    daemon.until("the trip is reported", |d| reports(d).len() == 1);
    let trip = reports(&daemon).remove(0);
    assert_eq!(
        (&trip["what"], &trip["scope"]["name"], &trip["cause"]["rule"]),
        (&json!("trip"), &json!("alpha"), &json!("order_qty"))
    );
    let events: Vec<&str> = trip["events"].as_array().unwrap().iter().map(|e| e["id"].as_str().unwrap()).collect();
    assert_eq!((events, &trip["events_complete"]), (vec!["fine", "too large"], &json!(true)), "{trip}");
    assert_eq!(trip["exposure"]["firm"]["working_orders"], "1");
    // What was working at the trip is added by a replay up to it.
    daemon.until("orders are listed", |d| reports(d)[0]["working_orders"]["orders"].is_array());
    let trip = reports(&daemon).remove(0);
    let working = &trip["working_orders"];
    assert_eq!((&working["count"], &working["orders"][0]["id"]), (&json!(1), &json!("fine")), "{working}");
    assert_eq!((&working["orders"][0]["leaves"], &working["orders"][0]["state"]), (&json!("5"), &json!("pending")));
    assert!(trip["exposure"]["as_of"].as_str().unwrap().starts_with("record "), "{trip}");
    assert_eq!(trip["exposure"]["scope"]["gross_exposure"], "50", "{trip}");
    daemon.kill("instrument", "ACME", "it is not ours");
    daemon.until("the kill is reported", |d| {
        let complete = |r: &Value| r["cause"]["confirmed"] == true && r["working_orders"]["orders"].is_array();
        reports(d).iter().any(|r| r["what"] == "kill" && complete(r))
    });
    let dirs = std::fs::read_dir(daemon.dir.path().join("state/incidents")).unwrap();
    let text: String =
        dirs.map(|dir| std::fs::read_to_string(dir.unwrap().path().join("incident.md")).unwrap()).collect();
    for part in
        ["it is not ours", "latch on disk", "# trip of strategy alpha", "too large", "limit: 10", "configuration "]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// The snapshots of the journal, oldest first.
fn snapshots(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let files = std::fs::read_dir(dir.join("state/journal")).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "snap")).collect();
    found.sort();
    found
}

fn flip(path: &std::path::Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = bytes.len() * 2 / 3;
    bytes[at] ^= 4;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_start_goes_on_from_a_snapshot_and_falls_back_from_a_damaged_one_but_never_to_less() {
    let dir = Daemon::start(LIMITS).terminate().1;
    let path = dir.path().join("haltline.toml");
    let text = std::fs::read_to_string(&path).unwrap().replace("execs = 4_096", "execs = 1_000_000");
    let often = "segment_bytes = 65_536\nsnapshot_segments = 1\nkeep = \"1ms\"";
    std::fs::write(&path, text.replace("segment_bytes = 1_048_576", often)).unwrap();
    let daemon = Daemon::run(dir);
    let (mut book, mut random, mut n) = (Book::default(), Random(3), 0);
    block_on(async {
        let (mut gateway, _) = Gateway::connect(&daemon, "gw-1").await;
        let begin = std::time::Instant::now();
        let begins = |dir: &std::path::Path| segments(dir).first().is_none_or(|path| path.ends_with("00000001.seg"));
        while begins(daemon.dir.path()) || snapshots(daemon.dir.path()).len() < 2 {
            assert!(begin.elapsed() < PATIENCE, "segments are never removed");
            for _ in 0..100 {
                let next = book.next(&mut random, n);
                book.take(&next);
                send(&mut gateway, &next, n).await;
                n += 1;
            }
            // An answer, so that it is known how far it has come.
            let last = Sent::Buy(format!("last {n}"), 1);
            book.take(&last);
            send(&mut gateway, &last, n).await;
            n += 1;
            while gateway.verdict().await["id"] != format!("last {}", n - 1) {}
        }
    });
    daemon.until("positions are shown", |d| shown(d) == expected(&book));
    let exact = |daemon: &Daemon| {
        assert_eq!(daemon.mode("firm", ""), "normal");
        daemon.until("positions are shown", |d| shown(d) == expected(&book));
        let next = block_on(async { Gateway::connect(daemon, "gw-1").await.1["next_seq"].as_u64().unwrap() });
        assert_eq!(next, n as u64 + 1, "the stream goes on behind what was taken");
    };
    let dir = daemon.sigkill();
    let (code, replay) = json_of(&["replay", "state", "--json", "--config", "haltline.toml"], dir.path());
    assert_eq!(code, Some(0));
    let from = replay["begins_behind"].as_str().unwrap();
    assert!(from.starts_with("the snapshot of "), "{from}");
    assert_eq!(replay["was"]["admitted"], replay["would"]["admitted"], "it has the orders of before");
    let daemon = Daemon::run(dir);
    exact(&daemon);
    let (status, dir) = daemon.terminate();
    assert!(status.success());
    let (code, report) = json_of(&["audit", "verify", "state", "--json"], dir.path());
    assert_eq!((code, &report["ok"]), (Some(0), &json!(true)), "{report}");
    assert!(report["snapshots"].as_u64().unwrap() >= 2, "{report}");
    assert!(report["notes"].to_string().contains("removed by configuration"), "{report}");

    flip(snapshots(dir.path()).last().unwrap());
    let (code, report) = json_of(&["audit", "verify", "state", "--json"], dir.path());
    assert_eq!((code, report["faults"].as_array().unwrap().len()), (Some(1), 1), "{report}");
    let daemon = Daemon::run(dir);
    exact(&daemon);
    let dir = daemon.sigkill();

    // Without a snapshot what is left of the journal says nothing about positions.
    for path in snapshots(dir.path()) {
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    }
    let daemon = Daemon::run(dir);
    assert_eq!(daemon.mode("firm", ""), "halted");
    let state = daemon.get("vera", "/v1/state").to_string();
    assert!(state.contains("the journal cannot be replayed"), "{state}");
}

#[test]
fn segments_that_somebody_removed_are_missed() {
    let dir = with_orders();
    let daemon = Daemon::run(dir);
    let dir = daemon.terminate().1;
    std::fs::remove_file(segments(dir.path()).remove(0)).unwrap();
    let (code, report) = json_of(&["audit", "verify", "state", "--json"], dir.path());
    assert_eq!(code, Some(1));
    assert!(report["faults"].to_string().contains("no record says that it was removed"), "{report}");
}

#[test]
fn a_lint_finds_limits_that_are_loose_tripped_denying_or_never_reached() {
    let dir = with_orders();
    let base = std::fs::read_to_string(dir.path().join("haltline.toml")).unwrap();
    let lint = |name: &str, text: String| {
        std::fs::write(dir.path().join(name), text).unwrap();
        let (code, value) = json_of(&["limits", "lint", name, "--journal", "state", "--json"], dir.path());
        let rows = value["findings"].as_array().unwrap().clone();
        assert_eq!(code, Some(i32::from(!rows.is_empty())), "the exit code tells");
        rows
    };
    let of = |rows: &[Value], finding: &str| -> Vec<String> {
        let rows = rows.iter().filter(|row| row["finding"] == finding);
        rows.map(|row| format!("{} {} {}", row["scope"]["kind"], row["rule"], row["text"]).replace('"', "")).collect()
    };
    // As in the tests' configuration: a million working orders for 20, a billion for a hundred.
    let rows = lint("wide.toml", base.clone());
    assert!(of(&rows, "loose").iter().any(|row| row.starts_with("firm working_orders 50000 times")), "{rows:?}");
    assert!(of(&rows, "tripped").is_empty() && of(&rows, "denied").is_empty(), "{rows:?}");
    // The desk allows an order for five million where 79,000 trade a day.
    let merrill = base.replace("[limits.instrument.\"*\"]\n", "[limits.instrument.\"*\"]\norder_qty = 5_000_000\n");
    let merrill = merrill.replace("[instruments.ACME]\n", "[instruments.ACME]\naverage_daily_volume = 79_000\n");
    let rows = lint("merrill.toml", merrill);
    // Other volumes are other names: this has to be told, not compared.
    assert!(rows.iter().any(|row| row["finding"] == "volume"), "{rows:?}");
    let text = of(&rows, "volume").concat();
    assert!(text.contains("an order for 5000000 of instrument ACME passes: 79000 trade a day"), "{text}");
    let tight = base.replace(
        "[limits.strategy.\"*\"]\n",
        "[limits.strategy.\"*\"]\nworking_orders = { max = 7, action = \"halt\" }\norder_qty = 90\n",
    );
    let tight = tight.replace("working_orders = 1_000_000", "working_orders = 5");
    let rows = lint("tight.toml", tight);
    assert!(of(&rows, "denied").iter().any(|row| row.contains("working_orders would have denied")), "{rows:?}");
    let unreachable = of(&rows, "unreachable");
    assert!(
        unreachable
            .iter()
            .any(|row| row == "strategy working_orders nothing can reach 7: working_orders of firm ends at 5"),
        "{rows:?}"
    );
    assert!(of(&rows, "loose").iter().any(|row| row.contains("order_qty 18 times")), "{rows:?}");
    let halting = base.replace(
        "[limits.strategy.\"*\"]\n",
        "[limits.strategy.\"*\"]\nworking_orders = { max = 7, action = \"halt\" }\n",
    );
    let rows = lint("halting.toml", halting);
    assert!(
        of(&rows, "tripped").iter().any(|row| row.contains("strategy working_orders would have tripped 1 time(s)")),
        "{rows:?}"
    );
}
