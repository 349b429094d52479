//! The rules of [`super::attest`], one by one, and the minority as a property.

use std::sync::Arc;

use proptest::prelude::*;

use crate::guard::attest::{Demand, Fleet, Incident, Measured, Unsaved, majority};
use crate::guard::door::{ArrivalId, DeskRefused, ToApprove, Way};
use crate::guard::manifest::Manifest;
use crate::guard::memory::Memory;
use crate::model::universe::{AccountSpec, CurrencySpec, StrategySpec};
use crate::model::{Claim, Scope, SessionKind, SessionSpec, Universe};
use crate::units::{AccountId, SessionId, StrategyId};

const DAY: u64 = 86_400_000_000_000;
/// 2026-11-22T00:00:00Z.
const NOW: u64 = 1_795_305_600_000_000_000;

/// Strategies `alpha` and `beta`, instances `gw-0` … `gw-7` of alpha, `both` of all, `px` for references.
fn universe() -> Arc<Universe> {
    let session = |name: &str, kind, strategies: &[u16]| SessionSpec {
        name: name.into(),
        kind,
        strategies: strategies.iter().map(|s| StrategyId(*s)).collect(),
    };
    let mut sessions: Vec<SessionSpec> = (0..8).map(|n| session(&format!("gw-{n}"), SessionKind::Ask, &[0])).collect();
    sessions.push(session("both", SessionKind::Observe, &[]));
    sessions.push(session("px", SessionKind::Reference, &[]));
    let strategy = |name: &str| StrategySpec { name: name.into(), account: AccountId(0) };
    Arc::new(Universe::new(
        2,
        vec![CurrencySpec { name: "USD".into(), initial_rate: None }],
        sessions,
        vec![AccountSpec { name: "main".into() }],
        vec![strategy("alpha"), strategy("beta")],
        vec![],
    ))
}

fn digest(n: u8) -> [u8; 32] {
    [n; 32]
}

/// Builds r1 (digest 1, reads `mode` as "power peg") and r2 (digest 2, newer, reads it as "retail"), r3 known by its word.
fn manifest(settings: &str) -> Manifest {
    let hex = |n: u8| crate::guard::manifest::hex(&digest(n));
    let text = format!(
        r#"
version = 3
dormant_after_days = 30
[strategies.alpha]
instances = ["gw-0", "gw-1", "gw-2", "gw-3", "gw-4", "gw-5", "gw-6", "gw-7", "both"]
paths = ["gate", "websocket"]
exercised = {{ strategy = 2026-11-21T00:00:00Z, "path:gate" = 2026-11-21T00:00:00Z, "flag:old" = 2026-11-21T00:00:00Z }}
{settings}
[[strategies.alpha.builds]]
id = "r1"
digest = "{}"
approved_at = 2026-11-01T00:00:00Z
[[strategies.alpha.builds]]
id = "r2"
digest = "{}"
approved_at = 2026-11-20T00:00:00Z
ramp_hours = 72
config_hashes = ["aaaaaaaa", "bbbbbbbb"]
[[strategies.alpha.builds]]
id = "r3"
approved_at = 2026-11-10T00:00:00Z
[[strategies.alpha.flags]]
name = "mode"
meaning = "power peg"
builds = ["r1"]
[[strategies.alpha.flags]]
name = "mode"
meaning = "retail"
builds = ["r2"]
values = ["on", "off"]
[[strategies.alpha.flags]]
name = "old"
meaning = "a test of 2003"
builds = ["r1", "r2"]
"#,
        hex(1),
        hex(2)
    );
    Manifest::parse(text.as_bytes()).unwrap()
}

struct World {
    fleet: Fleet,
    ids: u64,
    now: u64,
    incidents: Vec<Incident>,
}

impl World {
    fn new(demand: Demand) -> World {
        World { fleet: Fleet::new(universe(), demand, Ok(Memory::default())), ids: 0, now: NOW, incidents: vec![] }
    }

    fn with(settings: &str) -> World {
        World::new(Demand::Manifest(Ok(manifest(settings))))
    }

    fn session(&self, name: &str) -> SessionId {
        self.fleet.universe().session(name).unwrap()
    }

    fn come(&mut self, name: &str, way: Way, claim: Claim, measured: Measured) -> ArrivalId {
        self.ids += 1;
        let (id, session) = (ArrivalId(self.ids), self.session(name));
        self.fleet.arrive(session, id, (way, claim, "pid 1".into()), measured, self.now);
        id
    }

    /// A gate whose executable is `n`, and that says nothing.
    fn gate(&mut self, name: &str, n: u8) -> ArrivalId {
        let claim = match n {
            2 => claim("", &[], Some("aaaaaaaa")),
            _ => Claim::default(),
        };
        self.come(name, Way::Gate, claim, Measured::Digest(digest(n)))
    }

    /// What stands against `name`.
    fn against(&mut self, name: &str) -> String {
        let scope = Scope::Session(self.session(name));
        let findings = self.fleet.judge(self.now, &self.incidents);
        findings.into_iter().find(|f| f.scope == scope).map_or_else(String::new, |f| f.reasons.join("; "))
    }

    /// What waits for a person at `name`, as of the last look.
    fn to_approve(&self, name: &str) -> Option<ToApprove> {
        self.fleet.rows().into_iter().find(|row| row.name == name).unwrap().to_approve
    }

    fn quarantined(&mut self) -> Vec<String> {
        let findings = self.fleet.judge(self.now, &self.incidents);
        findings.iter().map(|finding| self.fleet.universe().scope_name(finding.scope)).collect()
    }

    fn halt(&mut self) {
        self.incidents =
            vec![Incident { scope: Scope::Firm, text: "firm is halted since epoch 9, olaf: drill".into() }];
    }
}

fn claim(build: &str, flags: &[(&str, &str)], config: Option<&str>) -> Claim {
    let mut claim = Claim::of_build(build).unwrap();
    for (name, value) in flags {
        claim.add_flag(name, value).unwrap();
    }
    if let Some(hash) = config {
        claim.set_config_hash(hash).unwrap();
    }
    claim
}

#[track_caller]
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

#[test]
fn without_attestation_anybody_comes_and_without_a_valid_manifest_nobody() {
    let mut off = World::new(Demand::Off);
    off.gate("gw-0", 9);
    assert_eq!(off.against("gw-0"), "");
    assert_eq!(off.fleet.rows()[0].verdict, "off");
    let mut none = World::new(Demand::Manifest(Err("its signature is not the key's".into())));
    none.gate("gw-0", 1);
    none.gate("px", 1);
    says(&none.against("gw-0"), &["no valid manifest", "signature"]);
    assert_eq!(none.quarantined(), ["gw-0"], "who sends references is not judged");
    none.fleet.take_manifest(manifest(""), NOW);
    assert_eq!(none.against("gw-0"), "");
}

#[test]
fn only_an_approved_executable_passes_whatever_it_calls_itself() {
    let mut world = World::with("");
    world.gate("gw-0", 1);
    assert_eq!(world.against("gw-0"), "");
    world.come("gw-1", Way::Gate, claim("r1", &[], None), Measured::Digest(digest(9)));
    says(&world.against("gw-1"), &["sha256 0909", "which it calls r1", "no approved build of strategy alpha"]);
    world.come("gw-2", Way::Gate, claim("r2", &[], Some("aaaaaaaa")), Measured::Digest(digest(1)));
    says(&world.against("gw-2"), &["calls itself r2", "executable is that of r1"]);
    // Known by its word alone: a script, whose executable is its interpreter.
    let mut script = World::with("");
    script.come("gw-0", Way::WebSocket, claim("r3", &[], None), Measured::Digest(digest(9)));
    script.come("gw-1", Way::WebSocket, claim("r3", &[], None), Measured::Not("it is on another host".into()));
    script.come("gw-2", Way::WebSocket, Claim::default(), Measured::Not("it is on another host".into()));
    assert_eq!(script.against("gw-0") + &script.against("gw-1"), "");
    says(&script.against("gw-2"), &["its build is not known", "another host"]);
}

#[test]
fn a_word_suffices_only_where_the_manifest_says_so() {
    let far = || Measured::Not("it is on another host".into());
    let mut strict = World::with("");
    strict.come("gw-0", Way::WebSocket, claim("r1", &[], None), far());
    says(&strict.against("gw-0"), &["only its word", "another host"]);
    let mut lenient = World::with("claim_suffices = true");
    lenient.come("gw-0", Way::WebSocket, claim("r1", &[], None), far());
    lenient.come("gw-1", Way::WebSocket, claim("r9", &[], None), far());
    assert_eq!(lenient.against("gw-0"), "");
    says(&lenient.against("gw-1"), &["build r9 is not approved for strategy alpha"]);
    // What can be measured still counts.
    lenient.come("gw-2", Way::Gate, claim("r1", &[], None), Measured::Digest(digest(9)));
    says(&lenient.against("gw-2"), &["no approved build"]);
}

#[test]
fn every_strategy_that_an_instance_may_trade_has_to_list_it() {
    let mut world = World::with("");
    world.gate("both", 1);
    says(&world.against("both"), &["it may trade strategy beta, which is not in the manifest"]);
    let mut text = World::with("").fleet.manifest().unwrap().clone();
    text.strategies[0].instances.retain(|name| name != "gw-0");
    let mut world = World::new(Demand::Manifest(Ok(text)));
    world.gate("gw-0", 1);
    says(&world.against("gw-0"), &["strategy alpha, which does not list it as an instance"]);
}

#[test]
fn paths_configurations_and_flags_are_those_of_the_manifest() {
    let mut text = manifest("");
    text.strategies[0].paths = vec![Way::Gate];
    let mut world = World::new(Demand::Manifest(Ok(text)));
    world.come("gw-0", Way::WebSocket, Claim::default(), Measured::Digest(digest(1)));
    says(&world.against("gw-0"), &["does not list the order path websocket"]);

    let mut world = World::with("mixed_builds = true");
    world.come("gw-0", Way::Gate, claim("", &[], Some("cccccccc")), Measured::Digest(digest(2)));
    world.come("gw-1", Way::Gate, claim("", &[], None), Measured::Digest(digest(2)));
    world.come("gw-2", Way::Gate, claim("", &[("mode", "maybe")], Some("bbbbbbbb")), Measured::Digest(digest(2)));
    world.come("gw-3", Way::Gate, claim("", &[("mod", "on")], Some("bbbbbbbb")), Measured::Digest(digest(2)));
    world.come("gw-4", Way::Gate, claim("", &[("mode", "on")], Some("bbbbbbbb")), Measured::Digest(digest(2)));
    says(&world.against("gw-0"), &["configuration hash cccccccc is not approved for build r2"]);
    says(&world.against("gw-1"), &["configuration hash none is not approved"]);
    says(&world.against("gw-2"), &["flag mode = \"maybe\": the manifest allows on, off"]);
    says(&world.against("gw-3"), &["flag mod is not one that build r2 may read"]);
    assert_eq!(world.against("gw-4"), "");
}

#[test]
fn what_was_not_used_for_too_long_has_to_be_woken() {
    let mut world = World::with("");
    let old = claim("", &[("old", "on")], None);
    world.come("gw-0", Way::Gate, old.clone(), Measured::Digest(digest(1)));
    assert_eq!(world.against("gw-0"), "");
    // Thirty days after its last use, and not a moment before.
    world.now = NOW - DAY + 30 * DAY;
    assert_eq!(world.against("gw-0"), "");
    world.now += 1;
    says(&world.against("gw-0"), &["flag old of strategy alpha is dormant", "path gate of strategy alpha is dormant"]);
    let findings = world.fleet.judge(world.now, &[]);
    let strategy = findings.iter().find(|f| f.scope == Scope::Strategy(StrategyId(0))).unwrap();
    says(&strategy.reasons[0], &["dormant, last used 2026-11-21"]);
    // A report of a quarantined instance wakes nobody.
    world.fleet.event_seen(world.session("gw-0"), world.now);
    world.fleet.strategy_used(StrategyId(0), world.now);
    assert_eq!(world.quarantined(), ["gw-0", "alpha"]);

    assert_eq!(world.fleet.wake("alpha", Some("path:gate"), world.now), Ok("path:gate".into()));
    assert!(!world.against("gw-0").contains("path gate"));
    let all = world.fleet.wake("alpha", None, world.now).unwrap();
    assert_eq!(all, "strategy, path:websocket, flag:mode, flag:old");
    assert_eq!(world.quarantined(), [""; 0]);
    assert!(matches!(world.fleet.wake("alpha", None, world.now), Err(DeskRefused::Conflict(_))));
    assert!(matches!(world.fleet.wake("gamma", None, world.now), Err(DeskRefused::Unknown(_))));
    assert!(matches!(world.fleet.wake("alpha", Some("flag:no"), world.now), Err(DeskRefused::Unknown(_))));
    // A flag that is off is not used, and sleeps on without being in the way.
    world.now += 31 * DAY;
    world.fleet.wake("alpha", Some("strategy"), world.now).unwrap();
    world.fleet.wake("alpha", Some("path:gate"), world.now).unwrap();
    world.come("gw-1", Way::Gate, claim("", &[("old", "off")], None), Measured::Digest(digest(1)));
    assert_eq!(world.against("gw-1"), "");
}

#[test]
fn use_keeps_awake_what_is_used() {
    let mut world = World::with("");
    world.come("gw-0", Way::Gate, claim("r1", &[("old", "on")], None), Measured::Digest(digest(1)));
    for day in 1..100 {
        world.now = NOW + day * DAY;
        assert_eq!(world.quarantined(), [""; 0], "day {day}");
        world.fleet.event_seen(world.session("gw-0"), world.now);
    }
    assert!(world.fleet.unsaved() >= Unsaved::Times);
    let asleep: Vec<String> = world.fleet.asleep(world.now).into_iter().map(|(what, _)| what).collect();
    assert_eq!(asleep, ["alpha path:websocket", "alpha flag:mode"]);
}

#[test]
fn a_change_during_an_incident_waits_until_it_is_closed_or_approved() {
    let mut world = World::with("mixed_builds = true");
    let id = world.gate("gw-0", 3);
    world.fleet.leave(world.session("gw-0"), id, NOW);
    let first = world.come("gw-0", Way::Gate, claim("r3", &[], None), Measured::Digest(digest(3)));
    assert_eq!(world.against("gw-0"), "");
    world.fleet.leave(world.session("gw-0"), first, NOW);
    world.halt();
    let second = world.come("gw-0", Way::Gate, claim("r3", &[], None), Measured::Digest(digest(4)));
    says(
        &world.against("gw-0"),
        &["changed during an incident", "r3 (030303030303…) → r3 (04", "firm is halted", "olaf"],
    );
    // Back to what it was.
    world.fleet.leave(world.session("gw-0"), second, NOW);
    let third = world.come("gw-0", Way::Gate, claim("r3", &[], None), Measured::Digest(digest(3)));
    assert_eq!(world.against("gw-0"), "");
    // A flag is a change too.
    world.fleet.leave(world.session("gw-0"), third, NOW);
    world.come("gw-0", Way::Gate, claim("r3", &[("x", "1")], None), Measured::Digest(digest(3)));
    says(&world.against("gw-0"), &["flag x not said → 1"]);
    // The memory survives a restart, and with it what it was before.
    let memory = Memory::decode(&world.fleet.memory().encode()).unwrap();
    let fleet = Fleet::new(universe(), Demand::Interlock, Ok(memory));
    let mut again = World { fleet, ids: 0, now: NOW, incidents: world.incidents.clone() };
    again.come("gw-0", Way::Gate, claim("r3", &[], None), Measured::Digest(digest(4)));
    says(&again.against("gw-0"), &["changed during an incident"]);
    let tag = again.to_approve("gw-0").unwrap().tag;
    assert_eq!(again.fleet.approve("gw-0", &tag, NOW).unwrap(), "build r3 (030303030303…) → r3 (040404040404…)");
    assert_eq!((again.against("gw-0"), again.to_approve("gw-0")), (String::new(), None));
    assert!(matches!(again.fleet.approve("gw-0", &tag, NOW), Err(DeskRefused::Conflict(_))));
    assert!(matches!(again.fleet.approve("gw-1", &tag, NOW), Err(DeskRefused::Conflict(_))));
    assert!(matches!(again.fleet.approve("gw-9", &tag, NOW), Err(DeskRefused::Unknown(_))));
    // Somebody who was never seen has not changed; and when it is over, it is over.
    again.come("gw-1", Way::Gate, claim("r3", &[], None), Measured::Digest(digest(4)));
    again.come("gw-0", Way::Gate, claim("r3", &[], None), Measured::Digest(digest(5)));
    assert_eq!(again.quarantined(), ["gw-0"]);
    again.incidents.clear();
    assert_eq!(again.quarantined(), [""; 0]);
    again.halt();
    assert_eq!(again.quarantined(), [""; 0], "what it runs now is what it is known for");
}

#[test]
fn what_a_change_is_and_what_it_waits_for_is_named() {
    let mut world = World::new(Demand::Interlock);
    let come = |world: &mut World, name: &str, n: u8, flags: &[(&str, &str)]| {
        let measured = Measured::Digest(digest(n));
        let id = world.come(name, Way::Gate, claim(&format!("r{n}"), flags, None), measured);
        (id, world.against(name))
    };
    let (first, nothing) = come(&mut world, "gw-0", 3, &[]);
    assert_eq!(nothing, "");
    let incident = |scope, text: &str| Incident { scope, text: text.into() };
    let [own, other] = ["gw-0", "gw-1"].map(|name| Scope::Session(world.session(name)));
    world.incidents = vec![incident(Scope::Strategy(StrategyId(1)), "beta is halted")];
    world.fleet.leave(world.session("gw-0"), first, NOW);
    assert_eq!(come(&mut world, "gw-1", 4, &[]).1, "", "it was never seen");
    assert_eq!(come(&mut world, "gw-0", 3, &[]).1, "", "it is what it was");
    let (_, text) = come(&mut world, "gw-0", 4, &[]);
    let change = "build r3 (030303030303…) → r4 (040404040404…)";
    let ways = "close the incident, or approve the change";
    assert_eq!(text, format!("it changed during an incident ({change}; beta is halted): {ways}"));
    world.incidents.push(incident(other, "gw-1 is halted"));
    assert_eq!(
        world.against("gw-0"),
        format!("it changed during an incident ({change}; beta is halted and 1 more): {ways}")
    );
    world.incidents.push(incident(own, "gw-0 is halted"));
    assert_eq!(
        world.against("gw-0"),
        format!("it changed during an incident of its own ({change}; gw-0 is halted and 2 more): approve the change")
    );
    let (_, text) = come(&mut world, "gw-0", 4, &[("x", "1")]);
    assert!(text.contains(&format!("({change}, flag x not said → 1; gw-0")), "{text}");
    world.incidents.clear();
    assert_eq!(world.against("gw-0"), "");
}

#[test]
fn what_is_quarantined_is_not_what_it_is_known_for_whatever_a_later_manifest_says() {
    let mut without = manifest("mixed_builds = true");
    without.strategies[0].builds.retain(|build| build.id != "r2");
    without.strategies[0].flags.clear();
    let mut world = World::new(Demand::Manifest(Ok(without)));
    let old = world.gate("gw-0", 1);
    assert_eq!(world.against("gw-0"), "");
    world.fleet.leave(world.session("gw-0"), old, NOW);
    let swapped = world.gate("gw-0", 2);
    says(&world.against("gw-0"), &["no approved build"]);
    // Approved by a manifest while an incident is open: still a change, and going back is none.
    world.halt();
    world.fleet.take_manifest(manifest("mixed_builds = true"), NOW);
    says(&world.against("gw-0"), &["changed during an incident", "r1 (010101010101…) → r2"]);
    world.fleet.leave(world.session("gw-0"), swapped, NOW);
    world.gate("gw-0", 1);
    assert_eq!(world.against("gw-0"), "");
}

#[test]
fn a_memory_that_is_lost_lets_nobody_in_without_a_person() {
    let fleet = Fleet::new(universe(), Demand::Interlock, Err("fleet.json is damaged".into()));
    let mut world = World { fleet, ids: 0, now: NOW, incidents: vec![] };
    world.gate("gw-0", 1);
    says(&world.against("gw-0"), &["what it ran before is not known", "fleet.json is damaged"]);
    // Also after one more restart.
    let memory = Memory::decode(&world.fleet.memory().encode()).unwrap();
    let fleet = Fleet::new(universe(), Demand::Interlock, Ok(memory));
    let mut world = World { fleet, ids: 0, now: NOW, incidents: vec![] };
    world.gate("gw-0", 1);
    world.gate("gw-1", 1);
    world.quarantined();
    let what = world.to_approve("gw-0").unwrap();
    assert_eq!(what.changes, ["build not said (010101010101…)"]);
    // The other runs the very same; what was looked at is this one.
    assert!(matches!(world.fleet.approve("gw-1", &what.tag, NOW), Err(DeskRefused::Changed(..))));
    world.fleet.approve("gw-0", &what.tag, NOW).unwrap();
    assert_eq!(world.quarantined(), ["gw-1"]);
}

#[test]
fn what_is_approved_is_what_was_looked_at_and_nothing_that_came_in_between() {
    let mut world = World::new(Demand::Interlock);
    let come = |world: &mut World, before: Option<ArrivalId>, build: &str, n: u8, flag: &str| {
        if let Some(before) = before {
            world.fleet.leave(world.session("gw-0"), before, NOW);
        }
        let id = world.come("gw-0", Way::Gate, claim(build, &[("x", flag)], None), Measured::Digest(digest(n)));
        world.against("gw-0");
        (id, world.to_approve("gw-0"))
    };
    let (first, none) = come(&mut world, None, "r3", 3, "1");
    assert_eq!(none, None);
    world.halt();
    let (fix, looked_at) = come(&mut world, Some(first), "r3", 4, "1");
    let looked_at = looked_at.unwrap();
    let mut before = fix;
    // Other words for the same, and the same words for another: each is another step.
    for (build, n, flag) in [("r4", 4, "1"), ("r3", 5, "1"), ("r3", 4, "2")] {
        let (id, now) = come(&mut world, Some(before), build, n, flag);
        before = id;
        let refused = world.fleet.approve("gw-0", &looked_at.tag, NOW);
        let Err(DeskRefused::Changed(text, shown)) = refused else { panic!("{refused:?}") };
        assert_eq!(Some(&shown), now.as_ref());
        assert!(text.contains(&shown.tag) && text.contains(&shown.changes[0]), "{text}");
        says(&world.against("gw-0"), &["changed during an incident"]);
    }
    let (_, again) = come(&mut world, Some(before), "r3", 4, "1");
    assert_eq!(again.as_ref(), Some(&looked_at), "to come again with the same is no other step");
    world.fleet.approve("gw-0", &looked_at.tag, NOW).unwrap();
    assert_eq!(world.against("gw-0"), "");
}

#[test]
fn one_of_eight_that_missed_the_deployment_is_named_and_the_seven_go_on() {
    for late in 0..8 {
        let mut world = World::with("");
        // Whoever comes first.
        for n in (0..8).map(|n| (n + late) % 8) {
            world.gate(&format!("gw-{n}"), if n == late { 1 } else { 2 });
            world.fleet.judge(NOW, &[]);
        }
        let name = format!("gw-{late}");
        assert_eq!(world.quarantined(), [name.as_str()]);
        let why = world.against(&name);
        says(&why, &["of the minority", "it runs r1", "7 of 8 instances of strategy alpha run r2"]);
        // The old code reads the flag in its own way; but it stands already.
        assert!(!why.contains("two live meanings"), "{why}");
    }
}

#[test]
fn what_a_finding_is_about_stays_while_only_its_words_change() {
    let mut world = World::with("");
    let found = |world: &mut World, name: &str| {
        let scope = Scope::Session(world.session(name));
        let findings = world.fleet.judge(world.now, &world.incidents);
        let finding = findings.into_iter().find(|finding| finding.scope == scope).unwrap();
        (finding.causes, finding.reasons.join("; "))
    };
    // A minority of three, and of four.
    for name in ["gw-0", "gw-1"] {
        world.gate(name, 2);
    }
    world.gate("gw-2", 1);
    let of_three = found(&mut world, "gw-2");
    world.gate("gw-3", 2);
    let of_four = found(&mut world, "gw-2");
    assert_ne!(of_three.1, of_four.1);
    assert_eq!(of_three.0, of_four.0);
    // What it changed besides is another matter, the incidents that it waits for are not.
    world.halt();
    world.come("gw-0", Way::Gate, claim("", &[("old", "1")], Some("aaaaaaaa")), Measured::Digest(digest(2)));
    let one = found(&mut world, "gw-0");
    world
        .incidents
        .insert(0, Incident { scope: Scope::Strategy(StrategyId(1)), text: "strategy beta is halted".into() });
    let two = found(&mut world, "gw-0");
    assert!(one.1 != two.1 && two.1.contains("strategy beta is halted and 1 more"), "{}", two.1);
    assert_eq!(one.0, two.0);
    world.come("gw-0", Way::Gate, claim("", &[("old", "2")], Some("aaaaaaaa")), Measured::Digest(digest(2)));
    assert_ne!(found(&mut world, "gw-0").0, two.0);
}

#[test]
fn one_flag_with_two_live_meanings_stops_all_that_read_it() {
    let mut world = World::with("mixed_builds = true");
    world.gate("gw-0", 2);
    assert_eq!(world.quarantined(), [""; 0]);
    world.gate("gw-1", 1);
    world.come("gw-2", Way::Gate, claim("r3", &[], None), Measured::Digest(digest(9)));
    assert_eq!(world.quarantined(), ["gw-0", "gw-1"], "r3 does not read it");
    let why = world.against("gw-0");
    says(&why, &["flag mode has two live meanings", "\"power peg\" to gw-1", "\"retail\" to gw-0"]);
    assert!(world.fleet.checks(NOW).iter().any(|check| check.name == "flags" && check.text.contains("power peg")));
    world.fleet.leave(world.session("gw-1"), ArrivalId(2), NOW);
    assert_eq!(world.quarantined(), [""; 0]);
}

#[test]
fn who_connects_anew_is_judged_by_the_latest_and_stays_until_all_have_gone() {
    let mut world = World::with("");
    let first = world.gate("gw-0", 1);
    let second = world.gate("gw-0", 9);
    says(&world.against("gw-0"), &["no approved build"]);
    // The old connection ends after the new one has come.
    world.fleet.leave(world.session("gw-0"), first, NOW);
    says(&world.against("gw-0"), &["no approved build"]);
    world.fleet.leave(world.session("gw-0"), second, NOW);
    assert_eq!((world.against("gw-0"), world.fleet.rows()[0].verdict), (String::new(), "absent"));
    assert_eq!(world.fleet.missing().len(), 9);
}

#[test]
fn a_new_build_is_told_once_per_instance_until_its_ramp_is_over() {
    let mut world = World::with("");
    let mut come = |session: u16, now: u64, n: u8| -> Vec<String> {
        world.ids += 1;
        let measured = Measured::Digest(digest(n));
        let arrival = (Way::Gate, Claim::default(), String::new());
        let new = world.fleet.arrive(SessionId(session), ArrivalId(world.ids), arrival, measured, now);
        new.into_iter().map(|new| format!("{} {}", new.strategy, new.build)).collect()
    };
    assert_eq!(come(0, NOW, 1), ["alpha r1"], "never seen here");
    assert_eq!(come(0, NOW, 1), [""; 0]);
    assert_eq!(come(1, NOW, 1), [""; 0], "new to this instance, but not new");
    assert_eq!(come(0, NOW, 2), ["alpha r2"]);
    assert_eq!(come(0, NOW + 1, 2), [""; 0], "it is on its ramp already");
    assert_eq!(come(1, NOW + 3 * DAY - 1, 2), ["alpha r2"], "the ramp counts from the day that it came");
    assert_eq!(come(2, NOW + 3 * DAY, 2), [""; 0]);
    assert_eq!(come(3, NOW, 9), [""; 0], "what is not approved is not new, it is wrong");
}

#[test]
fn a_build_that_a_manifest_approves_while_it_is_there_is_new_and_stays_out_until_its_ramp_began() {
    let mut without = manifest("mixed_builds = true");
    without.strategies[0].builds.retain(|build| build.id != "r2");
    without.strategies[0].flags.clear();
    let mut world = World::new(Demand::Manifest(Ok(without)));
    world.gate("gw-0", 2);
    says(&world.against("gw-0"), &["no approved build"]);
    let new = world.fleet.take_manifest(manifest("mixed_builds = true"), NOW);
    assert_eq!(new.iter().map(|new| (new.session.0, &*new.build)).collect::<Vec<_>>(), [(0, "r2")]);
    world.fleet.not_ramped(&new[0], "the disk is full");
    says(&world.against("gw-0"), &["build r2 is new", "the disk is full"]);
    // As new as it was; once that has worked it is told no more.
    assert_eq!(world.fleet.take_manifest(manifest("mixed_builds = true"), NOW), new);
    assert_eq!(world.against("gw-0"), "");
    assert_eq!(world.fleet.take_manifest(manifest("mixed_builds = true"), NOW), []);
}

proptest! {
    /// Against a rule written down a second time: count, then the time of approval, then the place in the manifest.
    #[test]
    fn the_minority_is_who_does_not_run_what_most_run(
        runs in prop::collection::vec(0u8..4, 1..8),
        approved in prop::collection::vec(0u64..3, 4),
        order in Just((0..8usize).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let mut manifest = manifest("");
        let template = manifest.strategies[0].builds[0].clone();
        let builds = approved.iter().enumerate().map(|(n, at)| crate::guard::manifest::Build {
            id: format!("b{n}"),
            digest: Some(digest(n as u8)),
            approved_at: NOW - DAY + *at,
            ..template.clone()
        });
        manifest.strategies[0].builds = builds.collect();
        manifest.strategies[0].flags.clear();
        manifest.strategies[0].exercised.clear();
        manifest.dormant_after_ns = None;
        let count = |n: u8| runs.iter().filter(|run| **run == n).count();
        let winner = (0..4u8).max_by_key(|n| (count(*n), approved[usize::from(*n)], *n)).unwrap();
        let names = runs.iter().map(|n| ["b0", "b1", "b2", "b3"][usize::from(*n)]);
        prop_assert_eq!(majority(&manifest.strategies[0], names), Some(&*format!("b{winner}")));

        let mut world = World::new(Demand::Manifest(Ok(manifest)));
        for at in order.into_iter().filter(|at| *at < runs.len()) {
            world.come(&format!("gw-{at}"), Way::Gate, Claim::default(), Measured::Digest(digest(runs[at])));
        }
        let expected: Vec<String> =
            (0..runs.len()).filter(|at| runs[*at] != winner).map(|at| format!("gw-{at}")).collect();
        let quarantined = world.quarantined();
        prop_assert!(quarantined.len() < runs.len(), "never all of them");
        prop_assert_eq!(quarantined, expected);
    }
}
