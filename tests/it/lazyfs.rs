//! Power loss at the real service, its state on a file system that drops what was not synced:
//! [LazyFS](https://github.com/dsrhaslab/lazyfs). Its program is named by `HALTLINE_LAZYFS`; without it nothing is
//! tested here, and that is said. `power` has the same in process, at every step and over other losses too.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::oracle_test::Rng;
use crate::support::{Daemon, Gateway, PATIENCE, SHOWN as LIMITS, block_on, config, haltline};

/// The file system, mounted for as long as this lives.
struct LazyFs {
    child: Child,
    dir: tempfile::TempDir,
    /// Where it says what it has done. Open all the time: it would be killed by a pipe that nobody reads.
    done: Option<BufReader<std::fs::File>>,
}

impl LazyFs {
    fn mount(program: &str) -> LazyFs {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["mount", "root"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        let settings = format!(
            "[faults]\nfifo_path = {:?}\nfifo_path_completed = {:?}\n[cache]\napply_eviction = false\n\
             [cache.simple]\ncustom_size = \"0.2GB\"\nblocks_per_page = 1\n[filesystem]\n\
             log_all_operations = false\nlogfile = \"\"\n",
            at("faults"),
            at("done"),
        );
        std::fs::write(at("settings.toml"), settings).unwrap();
        let root = format!("subdir={}", at("root").display());
        let child = Command::new(program)
            .arg(at("mount"))
            .arg("--config-path")
            .arg(at("settings.toml"))
            .args(["-o", "allow_other", "-o", "modules=subdir", "-o", &root, "-f"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("HALTLINE_LAZYFS={program}: {error}"));
        let mut file_system = LazyFs { child, dir, done: None };
        let mount_point = file_system.mount_point();
        let is_mounted = || {
            let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
            mounts.contains(mount_point.to_str().unwrap())
        };
        let begin = Instant::now();
        while !is_mounted() || !file_system.dir.path().join("done").exists() {
            assert!(
                begin.elapsed() < PATIENCE,
                "{program} mounts nothing: is there /dev/fuse, and the right to mount?"
            );
            std::thread::park_timeout(Duration::from_millis(5));
        }
        let done = std::fs::File::open(file_system.dir.path().join("done")).unwrap();
        file_system.done = Some(BufReader::new(done));
        file_system
    }

    fn mount_point(&self) -> PathBuf {
        self.dir.path().join("mount")
    }

    /// Drops all that was not synced.
    fn lose_power(&mut self) {
        std::fs::write(self.dir.path().join("faults"), "lazyfs::clear-cache\n").unwrap();
        let mut line = String::new();
        self.done.as_mut().unwrap().read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "finished::clear-cache");
    }
}

impl Drop for LazyFs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.mount_point()).status();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A service with its state on `mount`, and the rest elsewhere.
fn start(mount: &Path, name: &str, durable: bool) -> Daemon {
    let dir = tempfile::tempdir().unwrap();
    let text = config(&mount.join(name), LIMITS)
        .replace(&format!("ring_dir = \"{}\"", mount.display()), &format!("ring_dir = \"{}\"", dir.path().display()))
        .replace("[journal]", &format!("[journal]\ndurable_before_verdict = {durable}"));
    let text = format!("{text}\n[local]\nsocket = \"{}\"\n", dir.path().join("control.sock").display());
    std::fs::write(dir.path().join("haltline.toml"), text).unwrap();
    let made = haltline(&["init", "--config", "haltline.toml"]).current_dir(dir.path()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Daemon::run(dir)
}

fn observed(daemon: &Daemon, kind: &str, rule: &str) -> u64 {
    let rows = daemon.get("vera", &format!("/v1/limits?kind={kind}"));
    let row = rows["limits"].as_array().unwrap().iter().find(|row| row["rule"] == rule);
    row.and_then(|row| row["observed"].as_str()).map_or(0, |n| n.parse().unwrap())
}

#[test]
fn a_power_loss_under_the_real_service_loses_no_admitted_order_and_no_confirmed_kill() {
    let Ok(program) = std::env::var("HALTLINE_LAZYFS") else {
        eprintln!("SKIPPED: power loss on LazyFS: HALTLINE_LAZYFS does not name its program");
        return;
    };
    let cycles: u64 = std::env::var("HALTLINE_POWER").map_or(12, |cycles| cycles.parse().unwrap());
    let mut file_system = LazyFs::mount(&program);
    let mut rng = Rng(1);
    let (mut lost, mut kept) = (0, 0);
    for cycle in 0..cycles {
        let daemon = start(&file_system.mount_point(), &format!("state-{cycle}"), true);
        let killed = cycle % 2 == 1;
        let (sent, answered) = block_on(async {
            let (mut gateway, _) = Gateway::connect(&daemon, "gw-1").await;
            let sent = 1 + rng.below(300);
            for n in 1..=sent {
                gateway
                    .event(json!({
                        "type": "new", "strategy": "alpha", "instrument": "ACME", "id": format!("order {n}"),
                        "side": "buy", "ord_type": "limit", "qty": 1, "px": "10.00",
                    }))
                    .await;
            }
            let mut answered = 0;
            for _ in 0..rng.below(sent + 1) {
                let verdict = gateway.verdict().await;
                assert_eq!(verdict["verdict"], "admit", "{verdict}");
                answered = verdict["seq"].as_u64().unwrap();
            }
            (sent, answered)
        });
        if killed {
            let receipt: Value = daemon.kill("strategy", "beta", "before the lights went out");
            assert_eq!(receipt["latch"]["durable"], true, "{receipt}");
        }
        let dir = daemon.sigkill();
        file_system.lose_power();
        // What was in memory is gone too.
        let ring = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
        for path in ring.filter(|path| path.extension().is_some_and(|e| e == "ring")) {
            std::fs::remove_file(path).unwrap();
        }
        let daemon = Daemon::run(dir);
        assert_eq!(daemon.mode("firm", ""), "halted", "after a power loss it starts halted");
        let working = observed(&daemon, "firm", "working_orders");
        let long = observed(&daemon, "instrument", "position_long");
        assert!((answered..=sent).contains(&working), "{working} working of {answered} answered and {sent} sent");
        assert_eq!(long, working, "as many shares as orders");
        assert!(!killed || daemon.mode("strategy", "beta") == "halted", "a kill that was confirmed is in force");
        kept += working;
        lost += sent - working;
        assert!(daemon.terminate().0.success());
    }
    eprintln!("{kept} orders kept and {lost} that nobody was answered lost, in {cycles} losses");
    assert!(kept > cycles, "{kept} kept");
}
