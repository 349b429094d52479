//! What instances run, against the real service: measured executables, the signed manifest, the minority, flags with two
//! meanings, changes during an incident. Every control is shown alone.

use std::io::Read as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

use haltline::app::measure::digest_of;
use haltline::guard::manifest::hex;
use serde_json::{Value, json};

use crate::gate::PATIENT;
use crate::gateways::{Running, UNLIMITED, examples};
use crate::support::{Daemon, Gateway, PATIENCE, block_on, config, haltline, token};

const SESSIONS: [&str; 3] = ["gw-1", "gw-2", "gw-3"];

/// A service with three instances of strategy `alpha`, a manifest that is still to be made, and gates.
pub struct Fleet {
    daemon: Option<Daemon>,
    memory: tempfile::TempDir,
    /// Where the manifest lies.
    pub files: PathBuf,
}

pub fn run(args: &[&str], dir: &Path) -> Output {
    haltline(args).current_dir(dir).output().unwrap()
}

#[track_caller]
pub fn done(out: Output) -> String {
    assert!(out.status.success(), "{out:?}");
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

/// Makes the configuration with these limits, and a section `[guard.attestation]` with what may follow it.
fn prepare(dir: &Path, gates: &Path, limits: &str, attestation: &str) {
    let mut more = format!("{limits}\n[gate]\ndir = \"{}\"\n{PATIENT}", gates.display());
    for name in &SESSIONS[1..] {
        let hash = blake3::hash(token(name).as_bytes()).to_hex();
        more += &format!("[sessions.{name}]\nkind = \"ask\"\nstrategies = [\"alpha\"]\ntoken_hash = \"{hash}\"\n");
    }
    more += attestation;
    let text =
        config(&dir.join("state"), &more).replacen("kind = \"ask\"", "kind = \"ask\"\nstrategies = [\"alpha\"]", 1);
    std::fs::write(dir.join("haltline.toml"), text).unwrap();
    for name in SESSIONS {
        std::fs::write(dir.join(format!("{name}.token")), token(name)).unwrap();
    }
    done(run(&["init", "--config", "haltline.toml"], dir));
}

impl Fleet {
    /// With a manifest that `make` (further arguments of `manifest make`) makes.
    fn with_manifest(make: &[&str]) -> Fleet {
        let dir = tempfile::tempdir().unwrap();
        let key = done(run(&["manifest", "keygen", "secret"], dir.path()));
        publish(dir.path(), None, make);
        Fleet::start(dir, &format!("[guard.attestation]\nmanifest = \"manifest.toml\"\nkey = \"{key}\"\n"))
    }

    pub fn start(dir: tempfile::TempDir, attestation: &str) -> Fleet {
        Fleet::limited(dir, UNLIMITED, attestation)
    }

    /// As [`Fleet::start`], with these limits.
    pub fn limited(dir: tempfile::TempDir, limits: &str, attestation: &str) -> Fleet {
        let memory = tempfile::Builder::new().prefix("haltline-").tempdir_in("/dev/shm").unwrap();
        prepare(dir.path(), &memory.path().join("gate"), limits, attestation);
        let files = dir.path().to_owned();
        Fleet { daemon: Some(Daemon::run(dir)), memory, files }
    }

    pub fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().unwrap()
    }

    /// Kills the service and starts it again.
    pub fn restart(&mut self) {
        let dir = self.daemon.take().unwrap().sigkill();
        self.daemon = Some(Daemon::run(dir));
    }

    /// Starts `program`, a build of the example gateway, as `session`. The venue takes orders and never answers.
    fn gateway(&self, program: &Path, session: &str, claim: &str) -> Running {
        let venue = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = venue.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            let (mut gateway, _) = venue.accept().unwrap();
            let mut bytes = [0; 4096];
            while gateway.read(&mut bytes).is_ok_and(|n| n > 0) {}
        });
        let mut command = Command::new(program);
        command.arg(self.memory.path().join("gate/gate.sock")).arg(session);
        command.arg(self.files.join(format!("{session}.token"))).args([&address, "alpha", "ACME", claim]);
        Running::start(&mut command)
    }

    /// Names what waits for a person's approval at `session`.
    fn tag(&self, session: &str) -> String {
        self.row(session)["to_approve"]["tag"].as_str().unwrap().to_owned()
    }

    pub fn row(&self, session: &str) -> Value {
        let rows = self.daemon().get("vera", "/v1/sessions");
        rows["sessions"].as_array().unwrap().iter().find(|row| row["name"] == session).unwrap().clone()
    }

    /// The reasons that stand against `session`, which has to be quarantined and halted for them.
    #[track_caller]
    fn reasons(&self, session: &str) -> String {
        let row = self.row(session);
        assert_eq!(row["verdict"], "quarantined", "{row}");
        assert_eq!(self.daemon().mode("session", session), "halted");
        row["reasons"].to_string()
    }

    /// Asks to re-arm a scope as it is now; the status and the answer.
    pub fn rearm(&self, kind: &str, name: &str) -> (u16, Value) {
        let state = self.daemon().get("rita", "/v1/state");
        let halts = state["halts"].as_array().unwrap();
        let halt = halts.iter().find(|h| h["scope"]["kind"] == kind && h["scope"]["name"] == name).unwrap();
        let body = json!({ "scope": halt["scope"], "epoch": halt["epoch"], "reason": "looked at it", "wait_ms": 5000 });
        self.daemon().ask("rita", "POST", "/v1/rearm", Some(&body))
    }

    #[track_caller]
    pub fn rearm_refused(&self, kind: &str, name: &str, why: &str) {
        let (status, problem) = self.rearm(kind, name);
        assert_eq!((status, &problem["title"]), (409, &json!("Held")), "{problem}");
        assert!(problem["why"].as_str().unwrap().contains(why), "{why:?} is not in {problem}");
    }

    /// The preflight's code and page. Asked again while the engine is late, which is a line of it as well.
    pub fn preflight(&self) -> (Option<i32>, Value) {
        let begin = Instant::now();
        loop {
            let out = self.daemon().haltline(&["preflight", "--config", "haltline.toml", "--json"]);
            let page: Option<Value> = serde_json::from_slice(&out.stdout).ok();
            if let Some(page) = page.filter(|page| line(page, "engine")["outcome"] == "pass") {
                return (out.status.code(), page);
            }
            assert!(begin.elapsed() < PATIENCE, "{out:?}");
        }
    }
}

/// The line of `page` called `name`.
pub fn line<'p>(page: &'p Value, name: &str) -> &'p Value {
    page["checks"].as_array().unwrap().iter().find(|check| check["name"] == name).unwrap()
}

/// Makes and signs the next version of the manifest in `dir`.
pub fn publish(dir: &Path, base: Option<&str>, make: &[&str]) {
    let mut args = vec!["manifest", "make", "--out", "manifest.toml", "--strategy", "alpha"];
    args.extend(base.into_iter().flat_map(|base| ["--base", base]));
    args.extend(make);
    done(run(&args, dir));
    done(run(&["manifest", "sign", "manifest.toml", "--key", "secret"], dir));
}

/// Two builds of the example gateway that differ by a byte.
fn builds(dir: &Path) -> [PathBuf; 2] {
    let old = std::fs::read(examples().join("gateway")).unwrap();
    let new = [&old[..], b"\n"].concat();
    [("old", old), ("new", new)].map(|(name, bytes)| {
        let path = dir.join(name);
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        path
    })
}

const ALL: [&str; 8] = ["--instance", "gw-1", "--instance", "gw-2", "--instance", "gw-3", "--path", "gate"];

/// Link 4: one server missed the deployment. Both builds are approved; that they differ is what is wrong.
#[test]
fn a_server_that_missed_the_deployment_is_named_and_the_others_go_on() {
    let programs = tempfile::tempdir().unwrap();
    let [old, new] = builds(programs.path());
    let (one, two) = (format!("router 1={}", old.display()), format!("router 2={}", new.display()));
    let fleet = Fleet::with_manifest(&[&ALL[..], &["--build", &one, "--build", &two]].concat());
    let (status, page) = fleet.preflight();
    assert_eq!((status, &line(&page, "instances")["outcome"]), (Some(3), &json!("fail")), "{page}");
    assert!(line(&page, "instances")["text"].to_string().contains("gw-2 of strategy alpha is missing"), "{page}");

    let first = fleet.gateway(&new, "gw-1", "router 2");
    first.until(|line| line == "open");
    let second = fleet.gateway(&new, "gw-2", "router 2");
    second.until(|line| line == "open");
    // It says that it is the new one; what counts is the file that runs.
    let late = fleet.gateway(&old, "gw-3", "router 1");
    late.until(|line| line.starts_with("closed"));
    let reasons = fleet.reasons("gw-3");
    assert!(reasons.contains("it runs router 1, 2 of 3 instances of strategy alpha run router 2"), "{reasons}");
    assert_eq!(
        (fleet.row("gw-1")["verdict"].clone(), fleet.row("gw-2")["verdict"].clone()),
        (json!("approved"), json!("approved"))
    );
    let row = fleet.row("gw-3");
    assert_eq!(row["digest"], hex(&digest_of(&old).unwrap()), "{row}");
    assert_eq!(row["from"], format!("pid {}", late.child.id()));
    fleet.rearm_refused("session", "gw-3", "of the minority");
    let (status, page) = fleet.preflight();
    assert_eq!((status, &line(&page, "builds")["outcome"]), (Some(3), &json!("fail")), "{page}");

    // Put right, it comes back: the reason is gone, and a person lifts the halt.
    drop(late);
    fleet.daemon().until("it has gone", |_| fleet.row("gw-3")["connected"] == false);
    let fixed = fleet.gateway(&new, "gw-3", "router 2");
    fixed.until(|line| line.starts_with("closed"));
    fleet.daemon().until("it is approved", |_| fleet.row("gw-3")["verdict"] == "approved");
    let (status, answer) = fleet.rearm("session", "gw-3");
    assert_eq!(status, 200, "{answer}");
    fixed.until(|line| line == "open");
    // What was critical wants an answer before the day is opened.
    assert_eq!(line(&fleet.preflight().1, "alerts")["outcome"], "fail");
    for alert in fleet.daemon().get("vera", "/v1/alerts")["alerts"].as_array().unwrap() {
        let path = format!("/v1/alerts/{}/ack", alert["id"].as_str().unwrap());
        fleet.daemon().ask("rita", "POST", &path, Some(&json!({ "reason": "seen" })));
    }
    let (status, page) = fleet.preflight();
    assert_eq!((status, &page["may_open"]), (Some(0), &json!(true)), "{page:#}");
}

/// Link 1: code that nobody approved, under the name of code that is.
#[test]
fn an_executable_that_is_not_in_the_manifest_sends_nothing_whatever_it_says() {
    let programs = tempfile::tempdir().unwrap();
    let [old, new] = builds(programs.path());
    let fleet = Fleet::with_manifest(&[&ALL[..], &["--build", &format!("router 2={}", new.display())]].concat());
    let imposter = fleet.gateway(&old, "gw-1", "router 2");
    imposter.until(|line| line.starts_with("closed"));
    imposter.until(|line| line == "denied 1000");
    let reasons = fleet.reasons("gw-1");
    let digest = hex(&digest_of(&old).unwrap());
    assert!(reasons.contains(&digest) && reasons.contains("which it calls router 2"), "{reasons}");
    fleet.rearm_refused("session", "gw-1", "no approved build");
    let approve = json!({ "tag": "0123456789abcdef", "reason": "let it be" });
    let (status, problem) = fleet.daemon().ask("rita", "POST", "/v1/sessions/gw-1/approve", Some(&approve));
    assert_eq!(status, 409, "what the manifest says is not one person's to set aside: {problem}");
    let scrape = fleet.daemon().get("vera", "/metrics").as_str().unwrap().to_owned();
    assert!(scrape.contains("haltline_instances_quarantined 1"), "{scrape}");
}

/// Says hello as a build that is known by its word alone.
pub async fn say(fleet: &Fleet, session: &str, build: &str, flags: &Value) -> Gateway {
    let hello = json!({ "type": "hello", "build": build, "flags": flags, "host": "here" });
    Gateway::connect_saying(fleet.daemon(), session, hello).await.0
}

/// Hangs up, and waits until it is known at the door.
pub fn gone(fleet: &Fleet, gateway: Gateway) {
    drop(gateway);
    fleet.daemon().until("it has gone", |_| fleet.row("gw-1")["connected"] == false);
}

/// Link 3: a flag that was used for something else before. Nothing else is wrong: both builds are approved, and may differ.
#[test]
fn one_flag_with_two_live_meanings_stops_both() {
    let websocket = ["--instance", "gw-1", "--instance", "gw-2", "--instance", "gw-3", "--path", "websocket"];
    let dir = tempfile::tempdir().unwrap();
    let key = done(run(&["manifest", "keygen", "secret"], dir.path()));
    publish(dir.path(), None, &[&websocket[..], &["--build", "r1", "--flag", "mode=power peg"]].concat());
    publish(dir.path(), Some("manifest.toml"), &["--build", "r2", "--flag", "mode=retail liquidity"]);
    let text = std::fs::read_to_string(dir.path().join("manifest.toml")).unwrap();
    let text = text.replace("mixed_builds = false", "mixed_builds = true");
    std::fs::write(dir.path().join("manifest.toml"), text).unwrap();
    done(run(&["manifest", "sign", "manifest.toml", "--key", "secret"], dir.path()));
    let fleet = Fleet::start(dir, &format!("[guard.attestation]\nmanifest = \"manifest.toml\"\nkey = \"{key}\"\n"));
    block_on(async {
        let mut new = say(&fleet, "gw-1", "r2", &json!({ "mode": "on" })).await;
        assert_eq!(new.buy("1", 1).await["verdict"], "admit");
        let mut old = say(&fleet, "gw-2", "r1", &json!({})).await;
        let reasons = fleet.reasons("gw-1");
        assert!(reasons.contains("flag mode has two live meanings"), "{reasons}");
        assert_eq!(fleet.reasons("gw-2"), reasons);
        for gateway in [&mut new, &mut old] {
            let verdict = gateway.buy("2", 1).await;
            assert_eq!((&verdict["verdict"], &verdict["rule"]), (&json!("deny"), &json!("mode")), "{verdict}");
        }
        let (_, page) = fleet.preflight();
        assert_eq!(line(&page, "flags")["outcome"], "fail", "{page}");
        // A flag that is not in the manifest is one nobody has thought about.
        let _unknown = say(&fleet, "gw-3", "r2", &json!({ "rlp": "on" })).await;
        assert!(fleet.reasons("gw-3").contains("flag rlp is not one that build r2 may read"));
    });
}

/// Link 13: the fix that spread the fault. No manifest: only the change is wrong.
#[test]
fn a_change_during_an_incident_waits_also_over_a_restart_of_haltline() {
    let mut fleet = Fleet::start(tempfile::tempdir().unwrap(), "[guard.attestation]\n");
    block_on(async {
        drop(say(&fleet, "gw-1", "r2", &json!({ "rlp": "on" })).await);
        drop(say(&fleet, "gw-2", "r2", &json!({ "rlp": "on" })).await);
        fleet
            .daemon()
            .until("both have gone", |_| ["gw-1", "gw-2"].iter().all(|name| fleet.row(name)["connected"] == false));
        fleet.daemon().kill("strategy", "beta", "a runaway on server 8");
        // The rollback of the first one.
        let _rolled = say(&fleet, "gw-1", "r1", &json!({ "rlp": "on" })).await;
        let reasons = fleet.reasons("gw-1");
        for part in ["build r2 (", " → r1 (", "strategy beta is halted", "a runaway on server 8"] {
            assert!(reasons.contains(part), "{part:?} is not in {reasons}");
        }
        // What a person sees of it, and how it is approved.
        assert!(fleet.row("gw-1")["to_approve"]["changes"][0].as_str().unwrap().contains("build r2 ("));
        let state = fleet.daemon().get("vera", "/v1/state");
        let halts = state["halts"].as_array().unwrap();
        let cause = &halts.iter().find(|halt| halt["scope"]["name"] == "gw-1").unwrap()["causes"][0];
        assert_eq!(cause["actor"], "attestation", "{cause}");
        assert!(cause["reason"].as_str().unwrap().contains("approve the change"), "{cause}");
        let out = fleet.daemon().haltline(&["sessions", "--config", "haltline.toml", "--text"]);
        let said = String::from_utf8(out.stdout).unwrap();
        assert!(said.contains("gw-1 is quarantined: it changed during an incident"), "{said}");
        assert!(said.contains(&format!("haltline approve gw-1 --tag {} --reason", fleet.tag("gw-1"))), "{said}");
        // As it was before is no change; without its flag it is one.
        let same = say(&fleet, "gw-2", "r2", &json!({ "rlp": "on" })).await;
        assert_eq!(fleet.row("gw-2")["verdict"], "approved");
        drop(same);
        fleet.daemon().until("it has gone", |_| fleet.row("gw-2")["connected"] == false);
        let _flag = say(&fleet, "gw-2", "r2", &json!({})).await;
        assert!(fleet.reasons("gw-2").contains("flag rlp on → not said"));
    });
    // A crash may come between a halt and its cause on disk; then it is known no more whose halt it is.
    let latch = fleet.files.join("state/latch");
    fleet.daemon().until("both halts are latched with their causes", |_| {
        std::fs::read_to_string(&latch).is_ok_and(|text| text.matches("\"attestation\"").count() >= 2)
    });
    fleet.restart();
    block_on(async {
        let _again = say(&fleet, "gw-1", "r1", &json!({ "rlp": "on" })).await;
        assert!(fleet.reasons("gw-1").contains(" → r1 ("));
        fleet.rearm_refused("session", "gw-1", "close the incident, or approve the change");
        assert_eq!(
            fleet.daemon().ask("olaf", "POST", "/v1/sessions/gw-1/approve", Some(&json!({ "reason": "x" }))).0,
            403
        );
        assert_eq!(fleet.daemon().ask("rita", "POST", "/v1/sessions/gw-1/approve", Some(&json!({}))).0, 422);
        let tag = fleet.tag("gw-1");
        std::fs::write(fleet.files.join("rita.token"), token("rita")).unwrap();
        let url = format!("http://{}", fleet.daemon().http);
        let approve =
            ["approve", "gw-1", "--tag", &tag, "--reason", "the old build was looked at", "--json", "--url", &url];
        let out = fleet.daemon().haltline(&[&approve[..], &["--token-file", "rita.token"]].concat());
        let answer: Value = serde_json::from_slice(&out.stdout).unwrap();
        assert!(out.status.success() && answer["approved"].as_str().unwrap().contains(" → r1 ("), "{out:?}");
        assert_eq!(fleet.row("gw-1")["to_approve"], Value::Null);
        assert_eq!(fleet.daemon().mode("session", "gw-1"), "halted", "approved is not re-armed");
        assert_eq!(fleet.rearm("session", "gw-1").0, 200);
        // The other one waits for the incident to be over.
        let _flag = say(&fleet, "gw-2", "r2", &json!({})).await;
        fleet.rearm_refused("session", "gw-2", "strategy beta");
        assert_eq!(fleet.rearm("strategy", "beta").0, 200);
        fleet.daemon().until("it is approved", |_| fleet.row("gw-2")["verdict"] == "approved");
        assert_eq!(fleet.rearm("session", "gw-2").0, 200);
    });
    let journal = fleet.files.clone();
    let dir = fleet.daemon.take().unwrap().terminate().1;
    let audit = run(&["audit", "state", "--format", "jsonl"], &journal);
    let audit = String::from_utf8(audit.stdout).unwrap();
    for part in ["\"quarantine\"", "\"approve_build\"", "the old build was looked at"] {
        assert!(audit.contains(part), "{part} is not in the journal:\n{audit}");
    }
    drop(dir);
}

/// Between the look and the approval somebody deploys once more.
#[test]
fn an_approval_is_of_what_was_looked_at_and_not_of_what_came_since() {
    let fleet = Fleet::start(tempfile::tempdir().unwrap(), "[guard.attestation]\n");
    let approve = |body: &Value| fleet.daemon().ask("rita", "POST", "/v1/sessions/gw-1/approve", Some(body));
    block_on(async {
        gone(&fleet, say(&fleet, "gw-1", "r1", &json!({})).await);
        fleet.daemon().kill("strategy", "beta", "a runaway on server 8");
        let fix = say(&fleet, "gw-1", "r2", &json!({})).await;
        let looked_at = fleet.tag("gw-1");
        gone(&fleet, fix);
        let _other = say(&fleet, "gw-1", "r3", &json!({})).await;
        let (status, problem) = approve(&json!({ "reason": "r2 was looked at" }));
        assert_eq!((status, &problem["field"]), (422, &json!("tag")), "{problem}");
        let (status, problem) = approve(&json!({ "tag": looked_at, "reason": "r2 was looked at" }));
        assert_eq!((status, &problem["type"]), (409, &json!("urn:haltline:problem:changed")), "{problem}");
        assert_eq!(problem["to_approve"], fleet.row("gw-1")["to_approve"], "{problem}");
        assert!(problem["to_approve"]["changes"][0].as_str().unwrap().contains("→ r3"), "{problem}");
        assert_eq!(fleet.row("gw-1")["verdict"], "quarantined");
        let (status, done) = approve(&json!({ "tag": fleet.tag("gw-1"), "reason": "r3 as well" }));
        assert_eq!(status, 200, "{done}");
        assert_eq!(fleet.row("gw-1")["verdict"], "approved");
    });
}

/// While an instance waits, incidents come and go around it: the audit has one record of it.
#[test]
fn a_quarantine_is_recorded_once_and_again_when_it_is_another() {
    let fleet = Fleet::start(tempfile::tempdir().unwrap(), "[guard.attestation]\n");
    let records = || {
        let list = fleet.daemon().get("rita", "/v1/audit?action=quarantine&scope=session:gw-1")["entries"].clone();
        let mut list: Vec<Value> = list.as_array().unwrap().clone();
        list.sort_by_key(|entry| entry["at"].as_str().unwrap().to_owned());
        list.iter().map(|entry| entry["outcome"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    block_on(async {
        gone(&fleet, say(&fleet, "gw-1", "r1", &json!({})).await);
        fleet.daemon().kill("strategy", "beta", "a runaway on server 8");
        let fix = say(&fleet, "gw-1", "r2", &json!({})).await;
        for (n, scope) in ["gw-2", "gw-3"].into_iter().enumerate() {
            fleet.daemon().kill("session", scope, "to be sure");
            fleet
                .daemon()
                .until("it is told of both", |_| fleet.reasons("gw-1").contains(&format!("and {} more", n + 1)));
        }
        fleet.daemon().until("it is recorded", |_| !records().is_empty());
        gone(&fleet, fix);
        let same = say(&fleet, "gw-1", "r2", &json!({})).await;
        fleet.daemon().until("its return is recorded", |_| records().len() >= 3);
        assert_eq!(records(), ["done", "over", "done"]);
        gone(&fleet, same);
        let _other = say(&fleet, "gw-1", "r3", &json!({})).await;
        fleet.daemon().until("the other one is recorded", |_| records().len() >= 5);
        assert_eq!(records(), ["done", "over", "done", "over", "done"]);
    });
}

/// An incident that opened meanwhile gives the reason other words; what it is about is the same.
#[test]
fn a_quarantine_is_the_same_one_after_a_restart_whatever_its_words_are_then() {
    let mut fleet = Fleet::start(tempfile::tempdir().unwrap(), "[guard.attestation]\n");
    let epoch = |fleet: &Fleet| {
        let state = fleet.daemon().get("vera", "/v1/state");
        let halts = state["halts"].as_array().unwrap();
        halts.iter().find(|halt| halt["scope"]["name"] == "gw-1").unwrap()["epoch"].clone()
    };
    let (before, reasons) = block_on(async {
        gone(&fleet, say(&fleet, "gw-1", "r1", &json!({})).await);
        fleet.daemon().kill("strategy", "beta", "a runaway on server 8");
        let _fix = say(&fleet, "gw-1", "r2", &json!({})).await;
        let reasons = fleet.reasons("gw-1");
        fleet.daemon().kill("session", "gw-2", "to be sure");
        (epoch(&fleet), reasons)
    });
    fleet.restart();
    block_on(async {
        let same = say(&fleet, "gw-1", "r2", &json!({})).await;
        let words = fleet.reasons("gw-1");
        assert!(words != reasons && words.contains("and 1 more"), "{words}");
        assert_eq!(epoch(&fleet), before, "it was pressed again");
        // Another change is another one, also after a restart.
        drop(same);
    });
    fleet.restart();
    block_on(async {
        let _other = say(&fleet, "gw-1", "r3", &json!({})).await;
        assert_ne!(epoch(&fleet), before);
    });
    // Nor is a person's halt the quarantine of before.
    fleet.restart();
    for (kind, name) in [("strategy", "beta"), ("session", "gw-2"), ("session", "gw-1")] {
        assert_eq!(fleet.rearm(kind, name).0, 200);
    }
    fleet.daemon().kill("session", "gw-1", "it runs away");
    fleet.restart();
    let by_hand = epoch(&fleet);
    block_on(async {
        let _same = say(&fleet, "gw-1", "r3", &json!({})).await;
        assert_ne!(epoch(&fleet), by_hand, "{}", fleet.reasons("gw-1"));
    });
}

/// The incident is the instance's own halt: no re-arm could end it before the change is approved.
#[test]
fn a_change_of_an_instance_that_is_halted_itself_waits_for_an_approval() {
    let fleet = Fleet::start(tempfile::tempdir().unwrap(), "[guard.attestation]\n");
    block_on(async {
        gone(&fleet, say(&fleet, "gw-1", "r1", &json!({})).await);
        fleet.daemon().kill("session", "gw-1", "it runs away");
        let mut fixed = say(&fleet, "gw-1", "r2", &json!({})).await;
        let reasons = fleet.reasons("gw-1");
        assert!(reasons.contains("build r1 (") && reasons.contains("it runs away"), "{reasons}");
        fleet.rearm_refused("session", "gw-1", "approve the change");
        assert!(!reasons.contains("close the incident"), "nobody could: {reasons}");
        let approve = json!({ "tag": fleet.tag("gw-1"), "reason": "the fix was looked at" });
        assert_eq!(fleet.daemon().ask("rita", "POST", "/v1/sessions/gw-1/approve", Some(&approve)).0, 200);
        assert_eq!(fixed.buy("1", 1).await["rule"], "mode", "approved is not re-armed");
        assert_eq!(fleet.rearm("session", "gw-1").0, 200);
        assert_eq!(fixed.buy("2", 1).await["verdict"], "admit");
    });
}

#[test]
fn a_manifest_that_is_not_signed_or_goes_back_changes_nothing() {
    let websocket = ["--instance", "gw-1", "--path", "websocket", "--build", "r1"];
    let fleet = Fleet::with_manifest(&websocket);
    let (daemon, dir) = (fleet.daemon(), fleet.files.as_path());
    let version = || daemon.get("vera", "/v1/manifest")["version"].clone();
    let reload = || daemon.ask("rita", "POST", "/v1/manifest/reload", Some(&json!({ "reason": "new build" })));
    assert_eq!(version(), 1);
    let file = dir.join("manifest.toml");
    let keep = |name: &str| {
        std::fs::copy(&file, dir.join(name)).unwrap();
        std::fs::copy(dir.join("manifest.toml.sig"), dir.join(format!("{name}.sig"))).unwrap();
    };
    let put = |name: &str| {
        std::fs::copy(dir.join(name), &file).unwrap();
        std::fs::copy(dir.join(format!("{name}.sig")), dir.join("manifest.toml.sig")).unwrap();
    };
    keep("one.toml");
    publish(dir, Some("manifest.toml"), &["--build", "r2"]);
    keep("two.toml");
    let out = run(&["manifest", "diff", "one.toml", "two.toml", "--json"], dir);
    let said: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    assert!(said["differences"].to_string().contains("build r2"), "{said}");
    assert_eq!(run(&["manifest", "diff", "one.toml", "one.toml"], dir).status.code(), Some(0));

    // One build more, that nobody signed.
    let tampered = std::fs::read_to_string(&file).unwrap().replace("id = \"r2\"", "id = \"r3\"");
    std::fs::write(&file, tampered).unwrap();
    let (status, problem) = reload();
    assert_eq!(status, 409, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("signature is not the key's"), "{problem}");
    assert_eq!(version(), 1);
    let key = daemon.dir.path().join("haltline.toml");
    let key = std::fs::read_to_string(key).unwrap();
    let key = key.split_once("key = \"").unwrap().1.split('"').next().unwrap();
    assert_eq!(run(&["manifest", "verify", "manifest.toml", "--key", key], dir).status.code(), Some(1));
    put("two.toml");
    assert_eq!(run(&["manifest", "verify", "manifest.toml", "--key", key], dir).status.code(), Some(0));
    let below = run(&["manifest", "verify", "manifest.toml", "--key", key, "--not-below", "3"], dir);
    assert_eq!(below.status.code(), Some(1));

    // By the signal, as by the request.
    daemon.signal("HUP");
    daemon.until("it is taken", |_| version() == 2);
    put("one.toml");
    let (status, problem) = reload();
    assert_eq!(status, 409, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("must not go back behind 2"), "{problem}");
    let (_, page) = fleet.preflight();
    assert_eq!(line(&page, "manifest")["outcome"], "fail", "{page}");
    assert_eq!(daemon.ask("olaf", "POST", "/v1/manifest/reload", Some(&json!({ "reason": "x" }))).0, 403);

    // Nor at a start: then there is none, and nobody is let in.
    let mut fleet = fleet;
    fleet.restart();
    let view = fleet.daemon().get("vera", "/v1/manifest");
    assert_eq!((&view["version"], &view["version_floor"]), (&Value::Null, &json!(2)), "{view}");
    block_on(async {
        let _gateway = say(&fleet, "gw-1", "r1", &json!({})).await;
        assert!(fleet.reasons("gw-1").contains("no valid manifest"));
    });
}

#[test]
fn a_strategy_that_nobody_used_for_years_is_halted_until_it_is_woken() {
    let dir = tempfile::tempdir().unwrap();
    let key = done(run(&["manifest", "keygen", "secret"], dir.path()));
    let make = ["--instance", "gw-1", "--path", "websocket", "--build", "r1", "--dormant-after-days", "30"];
    publish(dir.path(), None, &make);
    let file = dir.path().join("manifest.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let approved = text.lines().find(|line| line.starts_with("approved_at")).unwrap().to_owned();
    std::fs::write(&file, text.replace(&approved, "approved_at = 2003-01-02T09:30:00Z")).unwrap();
    done(run(&["manifest", "sign", "manifest.toml", "--key", "secret"], dir.path()));
    let fleet = Fleet::start(dir, &format!("[guard.attestation]\nmanifest = \"manifest.toml\"\nkey = \"{key}\"\n"));
    fleet.daemon().until("it is halted", |daemon| daemon.mode("strategy", "alpha") == "halted");
    fleet.rearm_refused("strategy", "alpha", "dormant, last used 2003-01-02");
    block_on(async {
        let _gateway = say(&fleet, "gw-1", "r1", &json!({})).await;
        assert!(fleet.reasons("gw-1").contains("order path websocket of strategy alpha is dormant"));
    });
    std::fs::write(fleet.files.join("rita.token"), token("rita")).unwrap();
    let url = format!("http://{}", fleet.daemon().http);
    let wake = |strategy: &str| {
        let args = ["wake", strategy, "--reason", "it is wanted again", "--url", &url, "--token-file", "rita.token"];
        fleet.daemon().haltline(&args)
    };
    assert_eq!(wake("gamma").status.code(), Some(4), "there is none");
    assert_eq!(
        fleet.daemon().haltline(&["wake", "alpha", "--reason", "x", "--config", "haltline.toml"]).status.code(),
        Some(4)
    );
    let out = wake("alpha");
    assert!(out.status.success(), "{out:?}");
    assert!(String::from_utf8_lossy(&out.stdout).contains("strategy, path:websocket"), "{out:?}");
    assert_eq!(fleet.rearm("strategy", "alpha").0, 200);
    assert_eq!(wake("alpha").status.code(), Some(4), "it is awake");
}

#[test]
fn the_process_behind_a_loopback_websocket_is_measured_and_a_wrong_hello_is_named() {
    let fleet = Fleet::start(tempfile::tempdir().unwrap(), "[guard.attestation]\n");
    block_on(async {
        let _gateway = say(&fleet, "gw-1", "r1", &json!({ "rlp": "on" })).await;
        let row = fleet.row("gw-1");
        let own = hex(&digest_of(&std::env::current_exe().unwrap()).unwrap());
        assert_eq!((&row["digest"], &row["transport"]), (&json!(own), &json!("websocket")), "{row}");
        assert_eq!(row["from"], format!("pid {}", std::process::id()));
        assert_eq!(
            (&row["build_claimed"], &row["flags"]["rlp"], &row["host"]),
            (&json!("r1"), &json!("on"), &json!("here"))
        );
    });
    block_on(async {
        for (hello, field, value) in [
            (json!({ "type": "hello", "flags": { "rlp": true } }), "flags", "rlp"),
            (json!({ "type": "hello", "flag": {} }), "message", "flag"),
            (json!({ "type": "hello", "config_hash": "none" }), "config_hash", "none"),
        ] {
            let error = Gateway::dial(fleet.daemon(), "gw-2", hello).await.next().await;
            assert_eq!((&error["type"], &error["field"]), (&json!("error"), &json!(field)), "{error}");
            assert_eq!(error["value"], value, "{error}");
        }
    });
    // Off, and said to be.
    let off = Fleet::start(tempfile::tempdir().unwrap(), "");
    assert_eq!(off.daemon().get("vera", "/v1/manifest")["attestation"], "off");
    assert_eq!(off.daemon().get("vera", "/v1/state")["attestation"], "off");
    let (status, page) = off.preflight();
    assert_eq!((status, &line(&page, "manifest")["outcome"]), (Some(0), &json!("note")), "{page:#}");
    block_on(async {
        let _gateway = say(&off, "gw-1", "whatever", &json!({})).await;
        assert_eq!(off.row("gw-1")["verdict"], "off");
    });
}
