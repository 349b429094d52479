//! What people see of the [`Fleet`]: its lines of the preflight page, its sessions, the manifest beside what was seen.

use std::collections::{BTreeMap, BTreeSet};

use super::{Demand, Fleet, Here, Instance, Measured, build_of};
use crate::guard::door::{ManifestView, PartView, SessionRow, StrategyView};
use crate::guard::manifest::{Manifest, Part, Strategy, hex};
use crate::guard::preflight::Check;
use crate::kill::words::rfc3339;
use crate::model::claim::is_set;
use crate::model::{Claim, SessionKind};

impl Fleet {
    /// The fleet's lines of the preflight page.
    #[must_use]
    pub fn checks(&self, now: u64) -> Vec<Check> {
        let mut checks = vec![match (&self.demand, &self.refused) {
            (Demand::Off, _) => Check::note("manifest", "attestation is off: any build may come"),
            (Demand::Interlock, _) => {
                Check::note("manifest", "none is configured: only changes during an incident count")
            }
            (Demand::Manifest(Err(why)), _) => Check::of("manifest", &[format!("none is in force: {why}")], ""),
            (Demand::Manifest(Ok(manifest)), Some(why)) => {
                Check::of("manifest", &[format!("version {} is in force; refused: {why}", manifest.version)], "")
            }
            (Demand::Manifest(Ok(manifest)), None) => {
                let at = self.taken_at.map_or_else(String::new, rfc3339);
                Check::of("manifest", &[], format!("version {}, taken {at}", manifest.version))
            }
        }];
        let named = |at: usize, reason: &String| format!("session {}: {reason}", self.universe.sessions[at].name);
        let about = |flags: bool| -> Vec<String> {
            let all = self.instances.iter().enumerate();
            let all = all.flat_map(|(at, instance)| instance.reasons.iter().map(move |reason| (at, reason)));
            all.filter(|(_, reason)| is_about_flags(reason) == flags).map(|(at, reason)| named(at, reason)).collect()
        };
        let present = self.instances.iter().filter(|instance| instance.is_present()).count();
        let judged = if self.is_on() { "nothing stands against any of them" } else { "nobody looks at what they run" };
        checks.push(Check::of("builds", &about(false), format!("{present} sessions are connected, {judged}")));
        let set: BTreeSet<&str> = self
            .instances
            .iter()
            .filter_map(Instance::here)
            .flat_map(|here| here.claim.flags().iter().filter(|(_, value)| is_set(value)).map(|(name, _)| &**name))
            .collect();
        let set = if set.is_empty() { "none".to_owned() } else { Vec::from_iter(set).join(", ") };
        checks.push(Check::of("flags", &about(true), format!("set: {set}")));
        let missing: Vec<String> =
            self.missing().iter().map(|(strategy, name)| format!("{name} of strategy {strategy} is missing")).collect();
        checks.push(match self.manifest() {
            None => Check::note("instances", "no manifest says who is expected"),
            Some(_) => Check::of("instances", &missing, "all that are expected are connected"),
        });
        let asleep: Vec<String> =
            self.asleep(now).iter().map(|(what, since)| format!("{what} since {}", rfc3339(*since))).collect();
        // What is asleep does not trade; nothing says that it should.
        checks.push(match asleep.is_empty() {
            true => Check::of("dormant", &[], "nothing has to be woken"),
            false => Check::note("dormant", format!("to be woken before it is used: {}", asleep.join("; "))),
        });
        checks
    }

    /// Sessions as people see them.
    #[must_use]
    pub fn rows(&self) -> Vec<SessionRow> {
        let row = |(at, instance): (usize, &Instance)| {
            let spec = &self.universe.sessions[at];
            let here = instance.shown();
            let claim = here.map(|here| &here.claim);
            let said = |part: fn(&Claim) -> Option<&str>| claim.and_then(part).map(str::to_owned);
            let (digest, not_measured) = match here.map(|here| &here.measured) {
                Some(Measured::Digest(digest)) => (Some(hex(digest)), None),
                Some(Measured::Not(why)) => (None, Some(why.clone())),
                None => (None, None),
            };
            let verdict = match (instance.is_present(), self.is_judged(at)) {
                (false, _) => "absent",
                (true, _) if !self.is_on() => "off",
                (true, false) => "not_judged",
                (true, true) if instance.reasons.is_empty() => "approved",
                (true, true) => "quarantined",
            };
            SessionRow {
                name: spec.name.clone(),
                kind: match spec.kind {
                    SessionKind::Ask => "ask",
                    SessionKind::Observe => "observe",
                    SessionKind::Reference => "reference",
                    SessionKind::Orders => "orders",
                },
                transport: here.map(|here| here.way.name()),
                connected: instance.is_present(),
                from: here.map(|here| here.from.clone()),
                build_claimed: said(Claim::build),
                build: here.and_then(|here| self.known_build(here)),
                digest,
                not_measured,
                config_hash: said(Claim::config_hash),
                flags: claim.map_or_else(BTreeMap::new, |claim| claim.flags().iter().cloned().collect()),
                host: said(Claim::host),
                verdict,
                reasons: instance.reasons.clone(),
                to_approve: (verdict == "quarantined").then(|| self.to_approve(at)).flatten(),
                since: (instance.since > 0).then(|| rfc3339(instance.since)),
                last_event: (instance.last_event > 0).then(|| rfc3339(instance.last_event)),
            }
        };
        self.instances.iter().enumerate().map(row).collect()
    }

    /// The manifest as people see it.
    #[must_use]
    pub fn manifest_view(&self, now: u64) -> ManifestView {
        let strategies = self.manifest().map_or_else(Vec::new, |manifest| {
            manifest.strategies.iter().map(|strategy| self.strategy_view(manifest, strategy, now)).collect()
        });
        ManifestView {
            attestation: self.attestation(),
            version: self.manifest().map(|manifest| manifest.version),
            digest: self.manifest().map(|manifest| hex(&manifest.digest)),
            loaded_at: self.taken_at.map(rfc3339),
            refused: self.refused.clone(),
            version_floor: self.floor().map_or(0, |(version, _)| version),
            strategies,
        }
    }

    fn strategy_view(&self, manifest: &Manifest, strategy: &Strategy, now: u64) -> StrategyView {
        let seen = |part: &Part| {
            let said = strategy.exercised.get(part).copied();
            said.max(self.memory.last_exercised(&strategy.name, &part.to_string()))
        };
        let live = |is: &dyn Fn(&Here) -> bool| -> Vec<String> {
            let names = strategy.instances.iter().filter(|name| {
                let id = self.universe.session(name);
                let instance = id.map(|id| &self.instances[usize::from(id.0)]);
                instance.and_then(Instance::here).is_some_and(is)
            });
            names.cloned().collect()
        };
        let view = |part: Part, name: String, detail: Option<String>, live: Vec<String>, sleeps: bool| PartView {
            name,
            detail,
            dormant: sleeps && self.dormant_since(manifest, strategy, &part, now).is_some(),
            last_exercised: seen(&part).map(rfc3339),
            live,
        };
        let builds = strategy.builds.iter().map(|build| {
            let live = live(&|here| build_of(strategy, here) == Some(&build.id));
            view(Part::Build(build.id.clone()), build.id.clone(), build.digest.map(|d| hex(&d)), live, false)
        });
        let paths = strategy.paths.iter().map(|way| {
            let live = live(&|here| here.way == *way);
            view(Part::Path(*way), way.name().to_owned(), None, live, true)
        });
        let flags = strategy.flags.iter().map(|flag| {
            let reads = |here: &Here| build_of(strategy, here).is_some_and(|id| flag.builds.iter().any(|b| b == id));
            let sets = |here: &Here| here.claim.flags().iter().any(|(name, value)| *name == flag.name && is_set(value));
            let live = live(&|here| reads(here) && sets(here));
            view(Part::Flag(flag.name.clone()), flag.name.clone(), Some(flag.meaning.clone()), live, true)
        });
        StrategyView {
            name: strategy.name.clone(),
            dormant: self.dormant_since(manifest, strategy, &Part::Strategy, now).is_some(),
            last_exercised: seen(&Part::Strategy).map(rfc3339),
            instances: strategy.instances.clone(),
            missing: strategy.instances.iter().filter(|name| !self.is_here(name)).cloned().collect(),
            builds: builds.collect(),
            paths: paths.collect(),
            flags: flags.collect(),
        }
    }
}

/// Reasons about flags begin with the word.
fn is_about_flags(reason: &str) -> bool {
    reason.starts_with("flag ")
}
