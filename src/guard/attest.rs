//! [`Fleet`]: which instance runs what, by its word and by measurement, and what stands against it.
//!
//! # The rules, in this order
//!
//! 1. *Manifest.* Every strategy that the instance may trade by the configuration has to list it, its way in, its build, its
//!    configuration and each flag that it names. What is measured counts for more than what is claimed; where they disagree
//!    the instance stays out.
//! 2. *Dormant.* A way in or a set flag that was not used for longer than the manifest allows has to be woken. So has a strategy: that
//!    halts the strategy.
//! 3. *Interlock.* What differs from what the instance ran before, while an incident is open anywhere in the firm, waits until
//!    the incident is closed or a person approves it. Going back to what ran before it is no change. If the halt of its own session
//!    is an incident, only the approval is left: the one cannot be re-armed before the other is over.
//! 4. *Fleet.* Of the instances of one strategy that are there and have nothing against them so far, those that do not run
//!    the build that most of them run are the minority. Of several builds with the same number the one that was approved
//!    last stays, of those approved at once the one that the manifest lists last. A strategy with `mixed_builds` has no minority.
//! 5. *One flag, one meaning.* If builds of instances that are there and have nothing against them so far read one flag
//!    with different meanings, all that read it stop: which of them is right nobody here can know.
//!
//! A new build whose probation could not begin stays out as well, whatever the rules find.
//!
//! An instance that is not there has nothing against it: it is judged anew before it is let in. What an
//! instance is quarantined for is gone when these rules find nothing; the halt itself is lifted by a person.
//!
//! No I/O; time is an argument.

mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::guard::door::{ArrivalId, DeskRefused, NewBuild, ToApprove, Way};
use crate::guard::manifest::{Flag, Manifest, Part, Strategy, digest_of_hex, hex};
use crate::guard::memory::{Identity, Known, Memory, Taken};
use crate::kill::words::rfc3339;
use crate::model::claim::is_set;
use crate::model::{Claim, Scope, SessionKind, SessionSpec, Universe};
use crate::units::{SessionId, StrategyId};

/// What came of measuring an executable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Measured {
    /// Its SHA-256.
    Digest([u8; 32]),
    /// Why there is none.
    Not(String),
}

/// What is asked of instances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Nothing: attestation is off.
    Off,
    /// No manifest: only that nothing changes during an incident.
    Interlock,
    /// A manifest, which may be missing for this reason until one is taken.
    Manifest(Result<Manifest, String>),
}

/// A halt that is not attestation's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    /// What is halted.
    pub scope: Scope,
    /// What it is, in words: scope, epoch, cause.
    pub text: String,
}

/// What stands against a scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// An instance's session, or a strategy that is dormant.
    pub scope: Scope,
    /// Each reason is a sentence that names what it is about.
    pub reasons: Vec<String>,
    /// What the reasons are about: the same for as long as only their words change, such as how many others there are, or which of
    /// several incidents is the first.
    pub causes: BTreeSet<String>,
}

/// Why something stands against an instance.
#[derive(Clone, Debug)]
struct Reason {
    text: String,
    /// See [`Finding::causes`].
    cause: String,
}

impl Reason {
    fn about(cause: String, text: String) -> Reason {
        Reason { text, cause }
    }
}

impl From<String> for Reason {
    /// One whose words change with what it is about.
    fn from(text: String) -> Reason {
        Reason { cause: text.clone(), text }
    }
}

impl Finding {
    fn new(scope: Scope, reasons: &[Reason]) -> Finding {
        let causes = reasons.iter().map(|reason| reason.cause.clone()).collect();
        Finding { scope, reasons: reasons.iter().map(|reason| reason.text.clone()).collect(), causes }
    }
}

/// Somebody who came.
#[derive(Clone, Debug)]
struct Here {
    id: ArrivalId,
    way: Way,
    claim: Claim,
    measured: Measured,
    from: String,
}

#[derive(Clone, Debug, Default)]
struct Instance {
    /// Who is there, the latest last: who connects anew may come before the old connection has gone. The latest counts.
    arrivals: Vec<Here>,
    /// Who was there last, if nobody is.
    gone: Option<Here>,
    /// Since when somebody is there or nobody, Unix ns.
    since: u64,
    last_event: u64,
    reasons: Vec<String>,
    /// New builds whose probation could not begin, and why.
    unramped: BTreeMap<String, String>,
}

impl Instance {
    fn is_present(&self) -> bool {
        !self.arrivals.is_empty()
    }

    fn here(&self) -> Option<&Here> {
        self.arrivals.last()
    }

    fn shown(&self) -> Option<&Here> {
        self.here().or(self.gone.as_ref())
    }
}

/// How pressing it is to write the memory down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unsaved {
    /// Nothing changed.
    #[default]
    Nothing,
    /// Times of use: now and then.
    Times,
    /// What a restart must not forget.
    Facts,
}

/// See the module.
#[derive(Debug)]
pub struct Fleet {
    universe: Arc<Universe>,
    demand: Demand,
    taken_at: Option<u64>,
    refused: Option<String>,
    memory: Memory,
    instances: Vec<Instance>,
    dormant: Vec<(StrategyId, String)>,
    unsaved: Unsaved,
    /// Haltline's own session, which rehearses the switch.
    own: Option<SessionId>,
}

/// The strategies that `session` may trade; none if it sends no orders.
fn trades(universe: &Universe, session: SessionId) -> Vec<StrategyId> {
    let Some(spec) = universe.sessions.get(usize::from(session.0)) else { return Vec::new() };
    match spec.kind {
        SessionKind::Reference | SessionKind::Orders => Vec::new(),
        SessionKind::Ask | SessionKind::Observe if spec.strategies.is_empty() => {
            (0..universe.strategies.len()).map(|at| StrategyId(at as u16)).collect()
        }
        SessionKind::Ask | SessionKind::Observe => spec.strategies.clone(),
    }
}

fn sends_orders(kind: SessionKind) -> bool {
    match kind {
        SessionKind::Ask | SessionKind::Observe => true,
        SessionKind::Reference | SessionKind::Orders => false,
    }
}

impl Fleet {
    /// A fleet of which nobody is there. `memory`: what was kept, or why it is lost.
    #[must_use]
    pub fn new(universe: Arc<Universe>, demand: Demand, memory: Result<Memory, String>) -> Fleet {
        let instances = vec![Instance::default(); universe.sessions.len()];
        let (memory, unsaved) = match memory {
            Ok(memory) => (memory, Unsaved::Nothing),
            Err(why) => (Memory { lost: Some(why), ..Memory::default() }, Unsaved::Facts),
        };
        Fleet {
            universe,
            demand,
            taken_at: None,
            refused: None,
            memory,
            instances,
            dormant: Vec::new(),
            unsaved,
            own: None,
        }
    }

    /// `session` is haltline's own: it has a token that nobody else has, and no build but haltline's.
    pub fn exempt(&mut self, session: SessionId) {
        self.own = Some(session);
    }

    /// Whether what runs as the session at `at` is looked at.
    fn is_judged(&self, at: usize) -> bool {
        sends_orders(self.universe.sessions[at].kind) && self.own != Some(SessionId(at as u16))
    }

    /// All names.
    #[must_use]
    pub fn universe(&self) -> &Arc<Universe> {
        &self.universe
    }

    /// Whether anything is asked of instances.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.demand != Demand::Off
    }

    /// The same in a word or two.
    #[must_use]
    pub fn attestation(&self) -> &'static str {
        match &self.demand {
            Demand::Off => "off",
            Demand::Interlock => "interlock only",
            Demand::Manifest(_) => "on",
        }
    }

    /// The manifest in force.
    #[must_use]
    pub fn manifest(&self) -> Option<&Manifest> {
        match &self.demand {
            Demand::Manifest(Ok(manifest)) => Some(manifest),
            Demand::Off | Demand::Interlock | Demand::Manifest(Err(_)) => None,
        }
    }

    /// When the manifest in force was taken, Unix ns.
    #[must_use]
    pub fn taken_at(&self) -> Option<u64> {
        self.taken_at
    }

    /// Why the last manifest was refused; `None` if it was taken.
    #[must_use]
    pub fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// Version and digest of the latest manifest that was ever taken.
    #[must_use]
    pub fn floor(&self) -> Option<(u64, [u8; 32])> {
        let taken = self.memory.manifest.as_ref()?;
        Some((taken.version, digest_of_hex(&taken.digest)?))
    }

    /// What is to be kept over a restart.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Whether the latest quarantine of `scope`, of this run or an earlier one, was for these `causes`.
    #[must_use]
    pub fn was_quarantined_for(&self, scope: &str, causes: &BTreeSet<String>) -> bool {
        self.memory.quarantined.get(scope) == Some(causes)
    }

    /// `scope` is quarantined, for these `causes`: a restart is to know its halt again whatever the words are by then.
    pub fn quarantined_for(&mut self, scope: String, causes: &BTreeSet<String>) {
        if !self.was_quarantined_for(&scope, causes) {
            self.memory.quarantined.insert(scope, causes.clone());
            self.unsaved = Unsaved::Facts;
        }
    }

    /// How pressing it is to keep it; [`Fleet::saved`] when that was done.
    #[must_use]
    pub fn unsaved(&self) -> Unsaved {
        self.unsaved
    }

    /// The memory is on disk.
    pub fn saved(&mut self) {
        self.unsaved = Unsaved::Nothing;
    }

    /// It is not, after all: what was not saved is so still.
    pub fn not_saved(&mut self, unsaved: Unsaved) {
        self.unsaved = self.unsaved.max(unsaved);
    }

    /// `manifest` is in force from now (Unix ns) on. Returns the builds that are new by it with whoever is there already:
    /// they are to be told before the rules are applied, which may let go of them.
    pub fn take_manifest(&mut self, manifest: Manifest, now: u64) -> Vec<NewBuild> {
        self.memory.manifest = Some(Taken { version: manifest.version, digest: hex(&manifest.digest) });
        self.demand = Demand::Manifest(Ok(manifest));
        (self.taken_at, self.refused, self.unsaved) = (Some(now), None, Unsaved::Facts);
        (0..self.instances.len()).flat_map(|at| self.new_builds(SessionId(at as u16), now)).collect()
    }

    /// The probation of `new` could not begin. The build is as new as before, and its session is quarantined until it is told
    /// again, which is when it connects anew or a manifest is taken.
    pub fn not_ramped(&mut self, new: &NewBuild, why: &str) {
        let Some(instance) = self.instances.get_mut(usize::from(new.session.0)) else { return };
        let again = "connect it anew, or load the manifest again";
        let why = format!("build {} is new, and its probation could not begin ({why}): {again}", new.build);
        instance.unramped.insert(new.build.clone(), why);
        let name = &self.universe.sessions[usize::from(new.session.0)].name;
        if let Some(seen) = self.memory.first_seen.get_mut(name) {
            seen.remove(&new.build);
        }
        self.unsaved = Unsaved::Facts;
    }

    /// A manifest was refused for this reason: the one before stays in force, if there was one.
    pub fn refuse_manifest(&mut self, why: String) {
        if let Demand::Manifest(Err(missing)) = &mut self.demand {
            missing.clone_from(&why);
        }
        self.refused = Some(why);
    }

    /// `session` wants in. Judge before it is let in. Returns the approved builds that are new with it.
    pub fn arrive(
        &mut self,
        session: SessionId,
        id: ArrivalId,
        (way, claim, from): (Way, Claim, String),
        measured: Measured,
        now: u64,
    ) -> Vec<NewBuild> {
        let Some(instance) = self.instances.get_mut(usize::from(session.0)) else { return Vec::new() };
        if !instance.is_present() {
            instance.since = now;
        }
        let at = instance.arrivals.partition_point(|here| here.id < id);
        instance.arrivals.insert(at, Here { id, way, claim, measured, from });
        self.new_builds(session, now)
    }

    /// What came as `id` has gone.
    pub fn leave(&mut self, session: SessionId, id: ArrivalId, now: u64) {
        let Some(instance) = self.instances.get_mut(usize::from(session.0)) else { return };
        let Some(at) = instance.arrivals.iter().position(|here| here.id == id) else { return };
        let gone = instance.arrivals.remove(at);
        if !instance.is_present() {
            (instance.gone, instance.since) = (Some(gone), now);
            instance.reasons.clear();
        }
    }

    /// An event of `session` was seen. What has something against it wakes nothing.
    pub fn event_seen(&mut self, session: SessionId, now: u64) {
        let Some(instance) = self.instances.get_mut(usize::from(session.0)) else { return };
        instance.last_event = now;
        let Demand::Manifest(Ok(manifest)) = &self.demand else { return };
        let Some(here) = instance.here().filter(|_| instance.reasons.is_empty()) else { return };
        let traded = trades(&self.universe, session);
        for id in &traded {
            let Some(strategy) = strategy_of(manifest, &self.universe, *id) else { continue };
            self.memory.exercise(&strategy.name, &Part::Path(here.way).to_string(), now);
            if let Some(build) = build_of(strategy, here) {
                self.memory.exercise(&strategy.name, &Part::Build(build.to_owned()).to_string(), now);
            }
            for (name, _) in here.claim.flags().iter().filter(|(_, value)| is_set(value)) {
                self.memory.exercise(&strategy.name, &Part::Flag(name.clone()).to_string(), now);
            }
        }
        self.unsaved = self.unsaved.max(Unsaved::Times);
        if let [only] = traded[..] {
            self.strategy_used(only, now);
        }
    }

    /// `strategy` was used. One that is dormant is not woken by that.
    pub fn strategy_used(&mut self, strategy: StrategyId, now: u64) {
        let Demand::Manifest(Ok(manifest)) = &self.demand else { return };
        let Some(spec) = strategy_of(manifest, &self.universe, strategy) else { return };
        if self.dormant_since(manifest, spec, &Part::Strategy, now).is_none() {
            self.memory.exercise(&spec.name, "strategy", now);
            self.unsaved = self.unsaved.max(Unsaved::Times);
        }
    }

    /// When `part` was last used, by the manifest's word or by what was seen; at least when its newest build was approved.
    fn last_exercised(&self, strategy: &Strategy, part: &Part) -> u64 {
        let said = strategy.exercised.get(part).copied().unwrap_or(0);
        let seen = self.memory.last_exercised(&strategy.name, &part.to_string()).unwrap_or(0);
        match said.max(seen) {
            0 => strategy.newest_approval(),
            at => at,
        }
    }

    /// Since when `part` is unused, if that is for too long.
    fn dormant_since(&self, manifest: &Manifest, strategy: &Strategy, part: &Part, now: u64) -> Option<u64> {
        let at = self.last_exercised(strategy, part);
        manifest.dormant_after_ns.filter(|after| now.saturating_sub(at) > *after).map(|_| at)
    }

    fn new_builds(&mut self, session: SessionId, now: u64) -> Vec<NewBuild> {
        if let Some(instance) = self.instances.get_mut(usize::from(session.0)) {
            instance.unramped.clear();
        }
        let Demand::Manifest(Ok(manifest)) = &self.demand else { return Vec::new() };
        let Some(here) = self.instances.get(usize::from(session.0)).and_then(Instance::here) else {
            return Vec::new();
        };
        let name = &self.universe.sessions[usize::from(session.0)].name;
        let mut new = Vec::new();
        for id in trades(&self.universe, session) {
            let Some(strategy) = strategy_of(manifest, &self.universe, id) else { continue };
            let Some(build) = build_of(strategy, here).and_then(|id| strategy.build(id)) else { continue };
            if self.memory.first_seen.get(name).is_some_and(|seen| seen.contains_key(&build.id)) {
                continue;
            }
            let elsewhere = self.memory.first_seen.values().filter_map(|seen| seen.get(&build.id)).min().copied();
            let ends = |seen: u64| seen.max(build.approved_at).saturating_add(build.ramp_ns);
            self.memory.first_seen.entry(name.clone()).or_default().insert(build.id.clone(), now);
            self.unsaved = Unsaved::Facts;
            if elsewhere.is_none_or(|seen| now < ends(seen)) {
                let (strategy, id, ramp_ns) = (strategy.name.clone(), build.id.clone(), build.ramp_ns);
                new.push(NewBuild { session, strategy, build: id, approved_at: build.approved_at, ramp_ns });
            }
        }
        new
    }

    /// Applies the rules as of `now` (Unix ns), with these incidents open. The result is the whole of what stands against anybody.
    pub fn judge(&mut self, now: u64, incidents: &[Incident]) -> Vec<Finding> {
        let mut reasons: Vec<Vec<Reason>> = vec![Vec::new(); self.instances.len()];
        self.dormant.clear();
        if self.is_on() {
            for (at, reasons) in reasons.iter_mut().enumerate() {
                let session = SessionId(at as u16);
                if !self.instances[at].is_present() || !self.is_judged(at) {
                    continue;
                }
                let unramped = self.instances[at].unramped.iter();
                reasons
                    .extend(unramped.map(|(build, why)| Reason::about(format!("probation of {build}"), why.clone())));
                self.judge_alone(session, now, reasons);
                self.judge_change(session, incidents, reasons);
            }
            if let Demand::Manifest(Ok(manifest)) = &self.demand {
                let judged = Judged { fleet: self, manifest };
                judged.minorities(&mut reasons);
                judged.meanings(&mut reasons);
                self.dormant = judged.dormant_strategies(now);
            }
            for (at, _) in reasons.iter().enumerate().filter(|(_, reasons)| reasons.is_empty()) {
                self.remember(at, now);
            }
        }
        let mut findings = Vec::new();
        for (at, reasons) in reasons.into_iter().enumerate() {
            self.instances[at].reasons = reasons.iter().map(|reason| reason.text.clone()).collect();
            if !reasons.is_empty() {
                findings.push(Finding::new(Scope::Session(SessionId(at as u16)), &reasons));
            }
        }
        let dormant = self.dormant.iter();
        findings.extend(dormant.map(|(id, why)| Finding::new(Scope::Strategy(*id), &[why.clone().into()])));
        findings
    }

    /// Rules 1 and 2.
    fn judge_alone(&self, session: SessionId, now: u64, reasons: &mut Vec<Reason>) {
        let at = usize::from(session.0);
        if let Some(why) = &self.memory.lost
            && !self.memory.instances.contains_key(&self.universe.sessions[at].name)
        {
            let text = format!("what it ran before is not known, a person has to approve what it runs now: {why}");
            reasons.push(text.into());
        }
        let Some(here) = self.instances[at].here() else { return };
        let manifest = match &self.demand {
            Demand::Off | Demand::Interlock => return,
            Demand::Manifest(Err(why)) => {
                let text = format!("there is no valid manifest: {why}");
                reasons.push(Reason::about("no valid manifest".to_owned(), text));
                return;
            }
            Demand::Manifest(Ok(manifest)) => manifest,
        };
        let name = &self.universe.sessions[at].name;
        for id in trades(&self.universe, session) {
            let strategy_name = &self.universe.strategies[usize::from(id.0)].name;
            let Some(strategy) = strategy_of(manifest, &self.universe, id) else {
                let text = format!("it may trade strategy {strategy_name}, which is not in the manifest");
                reasons.push(text.into());
                continue;
            };
            if !strategy.instances.contains(name) {
                let text = format!(
                    "it may trade strategy {strategy_name}, which does not list it as an instance in the manifest"
                );
                reasons.push(text.into());
                continue;
            }
            if !strategy.paths.contains(&here.way) {
                let way = here.way.name();
                let text = format!("strategy {strategy_name} does not list the order path {way} in the manifest");
                reasons.push(text.into());
            }
            judge_build(strategy, here, reasons);
            self.judge_flags(manifest, strategy, here, now, reasons);
            if let Some(since) = self.dormant_since(manifest, strategy, &Part::Path(here.way), now) {
                let way = here.way.name();
                let text = format!(
                    "order path {way} of strategy {strategy_name} is dormant, last used {}: it has to be woken",
                    rfc3339(since)
                );
                reasons.push(text.into());
            }
        }
    }

    fn judge_flags(&self, manifest: &Manifest, strategy: &Strategy, here: &Here, now: u64, reasons: &mut Vec<Reason>) {
        let build = build_of(strategy, here);
        for (name, value) in here.claim.flags() {
            let known = strategy
                .flags
                .iter()
                .find(|flag| flag.name == *name && build.is_some_and(|build| flag.builds.iter().any(|id| id == build)));
            let Some(flag) = known else {
                let build = build.unwrap_or("which is not known");
                let text = format!(
                    "flag {name} is not one that build {build} may read for strategy {} by the manifest",
                    strategy.name
                );
                reasons.push(text.into());
                continue;
            };
            if !flag.values.is_empty() && !flag.values.contains(value) {
                let values = flag.values.join(", ");
                reasons.push(format!("flag {name} = {value:?}: the manifest allows {values}").into());
            }
            if is_set(value)
                && let Some(since) = self.dormant_since(manifest, strategy, &Part::Flag(name.clone()), now)
            {
                let text = format!(
                    "flag {name} of strategy {} is dormant, last used {}: it has to be woken",
                    strategy.name,
                    rfc3339(since)
                );
                reasons.push(text.into());
            }
        }
    }

    /// Rule 3.
    fn judge_change(&self, session: SessionId, incidents: &[Incident], reasons: &mut Vec<Reason>) {
        let at = usize::from(session.0);
        let Some(identity) = self.identity(at) else { return };
        let name = &self.universe.sessions[at].name;
        // Who was never seen has not changed; what is said of who is not known any more is rule 1's.
        let Some(known) = self.memory.instances.get(name) else { return };
        let changes = known.identity.changes(&identity);
        if let Some(incident) = incidents.first()
            && !changes.is_empty()
        {
            let more = match incidents.len() {
                1 => String::new(),
                n => format!(" and {} more", n - 1),
            };
            let changes = changes.join(", ");
            let own = incidents.iter().find(|incident| incident.scope == Scope::Session(session));
            // Incidents come and go while it waits: it waits for the same.
            let cause = format!("it changed during an incident ({changes})");
            let text = match own {
                // Its re-arm waits for this reason to be gone, and would itself be the end of the incident.
                Some(own) => {
                    format!(
                        "it changed during an incident of its own ({changes}; {}{more}): approve the change",
                        own.text
                    )
                }
                None => format!(
                    "it changed during an incident ({changes}; {}{more}): close the incident, or approve the change",
                    incident.text
                ),
            };
            reasons.push(Reason::about(cause, text));
        }
    }

    /// What nothing at all stands against is what the instance is known to run from now on. What is quarantined for any
    /// reason is not: another manifest could set it free in the middle of an incident, and it would be no change.
    fn remember(&mut self, at: usize, now: u64) {
        let Some(identity) = self.identity(at).filter(|_| self.is_judged(at)) else { return };
        let name = &self.universe.sessions[at].name;
        if self.memory.instances.get(name).is_none_or(|known| known.identity != identity) {
            self.memory.instances.insert(name.clone(), Known { identity, at: now });
            self.unsaved = Unsaved::Facts;
        }
    }

    /// What the instance is that is there.
    fn identity(&self, at: usize) -> Option<Identity> {
        let here = self.instances.get(at)?.here()?;
        let digest = match &here.measured {
            Measured::Digest(digest) => Some(hex(digest)),
            Measured::Not(_) => None,
        };
        let build = self.known_build(here).or_else(|| here.claim.build().map(str::to_owned));
        let flags = here.claim.flags().iter().cloned().collect();
        Some(Identity { build, digest, config_hash: here.claim.config_hash().map(str::to_owned), flags })
    }

    /// The id that the manifest has for what was measured.
    fn known_build(&self, here: &Here) -> Option<String> {
        let Measured::Digest(digest) = &here.measured else { return None };
        let builds = self.manifest()?.strategies.iter().flat_map(|strategy| &strategy.builds);
        builds.into_iter().find(|build| build.digest == Some(*digest)).map(|build| build.id.clone())
    }

    /// What the instance at `at` waits for a person to approve.
    fn to_approve(&self, at: usize) -> Option<ToApprove> {
        let identity = self.identity(at)?;
        let name = &self.universe.sessions.get(at)?.name;
        let known = self.memory.instances.get(name).map(|known| &known.identity);
        let changes = match known {
            Some(known) => known.changes(&identity),
            // Nothing to compare it with.
            None if self.memory.lost.is_some() => identity.in_words(),
            None => Vec::new(),
        };
        (!changes.is_empty()).then(|| ToApprove { tag: identity.tag(name, known), changes })
    }

    /// A person approves what `session` runs now, if that is what `tag` names: what was looked at.
    ///
    /// # Errors
    /// If it is not there, or there is nothing to approve: the other rules are not a person's to set aside. If what there is to
    /// approve is something else by now.
    pub fn approve(&mut self, session: &str, tag: &str, now: u64) -> Result<String, DeskRefused> {
        let id = self.universe.session(session);
        let id = id.ok_or_else(|| DeskRefused::Unknown(format!("there is no session {session:?}")))?;
        let at = usize::from(id.0);
        let Some(identity) = self.identity(at) else {
            return Err(DeskRefused::Conflict(format!(
                "session {session} is not there: what it will run is not known"
            )));
        };
        let Some(what) = self.to_approve(at) else {
            return Err(DeskRefused::Conflict(format!("session {session} has not changed: nothing to approve")));
        };
        if what.tag != tag {
            let why = format!(
                "what session {session} runs is not what was looked at, it is now: {what} (tag {}); nothing was approved",
                what.tag
            );
            return Err(DeskRefused::Changed(why, what));
        }
        self.memory.instances.insert(session.to_owned(), Known { identity, at: now });
        let unknown =
            |(at, spec): (usize, &SessionSpec)| self.is_judged(at) && !self.memory.instances.contains_key(&spec.name);
        if !self.universe.sessions.iter().enumerate().any(unknown) {
            self.memory.lost = None;
        }
        self.unsaved = Unsaved::Facts;
        Ok(what.to_string())
    }

    /// A person wakes `strategy`, or only the part that `part` names.
    ///
    /// # Errors
    /// If there is no such thing, or it is awake.
    pub fn wake(&mut self, strategy: &str, part: Option<&str>, now: u64) -> Result<String, DeskRefused> {
        let Some(manifest) = self.manifest() else {
            return Err(DeskRefused::Conflict("there is no manifest: nothing is dormant".to_owned()));
        };
        let Some(spec) = manifest.strategy(strategy) else {
            return Err(DeskRefused::Unknown(format!("strategy {strategy:?} is not in the manifest")));
        };
        let parts: Vec<Part> = match part {
            None => spec.sleepers().collect(),
            Some(word) => {
                let found = Part::parse(word).and_then(|part| spec.sleepers().find(|sleeper| *sleeper == part));
                let unknown = || format!("strategy {strategy} has no {word:?}: strategy, path:WAY and flag:NAME sleep");
                vec![found.ok_or_else(|| DeskRefused::Unknown(unknown()))?]
            }
        };
        let asleep: Vec<String> = parts
            .iter()
            .filter(|part| self.dormant_since(manifest, spec, part, now).is_some())
            .map(Part::to_string)
            .collect();
        if asleep.is_empty() {
            return Err(DeskRefused::Conflict(format!("nothing of that is dormant in strategy {strategy}")));
        }
        for part in &asleep {
            self.memory.exercise(strategy, part, now);
        }
        self.unsaved = Unsaved::Facts;
        Ok(asleep.join(", "))
    }

    /// What stands against `session` since the last [`Fleet::judge`].
    #[must_use]
    pub fn reasons(&self, session: SessionId) -> &[String] {
        self.instances.get(usize::from(session.0)).map_or(&[], |instance| &instance.reasons)
    }

    /// How many instances are quarantined.
    #[must_use]
    pub fn quarantined(&self) -> usize {
        self.instances.iter().filter(|instance| !instance.reasons.is_empty()).count()
    }

    /// Instances that a strategy of the manifest expects and that are not there, with the strategy. An instance that the configuration does
    /// not have is never there.
    #[must_use]
    pub fn missing(&self) -> Vec<(String, String)> {
        let strategies = self.manifest().map_or(&[][..], |manifest| &manifest.strategies);
        let mut missing = Vec::new();
        for strategy in strategies {
            for name in strategy.instances.iter().filter(|name| !self.is_here(name)) {
                missing.push((strategy.name.clone(), name.clone()));
            }
        }
        missing
    }

    fn is_here(&self, name: &str) -> bool {
        self.universe.session(name).is_some_and(|id| self.instances[usize::from(id.0)].is_present())
    }

    /// Every strategy, order path and flag that has to be woken: `alpha flag:rlp`, and since when it was not used.
    #[must_use]
    pub fn asleep(&self, now: u64) -> Vec<(String, u64)> {
        let Some(manifest) = self.manifest() else { return Vec::new() };
        let mut asleep = Vec::new();
        for strategy in &manifest.strategies {
            for part in strategy.sleepers() {
                if let Some(since) = self.dormant_since(manifest, strategy, &part, now) {
                    asleep.push((format!("{} {part}", strategy.name), since));
                }
            }
        }
        asleep
    }
}

fn strategy_of<'m>(manifest: &'m Manifest, universe: &Universe, id: StrategyId) -> Option<&'m Strategy> {
    manifest.strategy(&universe.strategies.get(usize::from(id.0))?.name)
}

/// The id of the build that `here` is for `strategy`: what its executable is, else what it calls itself; `None`: not an approved one.
fn build_of<'s>(strategy: &'s Strategy, here: &Here) -> Option<&'s str> {
    let claimed = here.claim.build();
    let build = match &here.measured {
        Measured::Digest(digest) => strategy
            .builds
            .iter()
            .find(|build| build.digest == Some(*digest))
            // One that is known by its word alone, such as a script whose executable is its interpreter.
            .or_else(|| strategy.build(claimed?).filter(|build| build.digest.is_none())),
        Measured::Not(_) => strategy.build(claimed?),
    };
    build.map(|build| &*build.id)
}

/// The build's part of rule 1.
fn judge_build(strategy: &Strategy, here: &Here, reasons: &mut Vec<Reason>) {
    let name = &strategy.name;
    let claimed = here.claim.build();
    let Some(build) = build_of(strategy, here).and_then(|id| strategy.build(id)) else {
        let text = match (&here.measured, claimed) {
            (Measured::Digest(digest), Some(claimed)) => format!(
                "its executable (sha256 {}, which it calls {claimed}) is no approved build of strategy {name}",
                hex(digest)
            ),
            (Measured::Digest(digest), None) => {
                format!("its executable (sha256 {}) is no approved build of strategy {name}", hex(digest))
            }
            (Measured::Not(_), Some(claimed)) => format!("build {claimed} is not approved for strategy {name}"),
            (Measured::Not(why), None) => format!("its build is not known: it does not say, and {why}"),
        };
        reasons.push(text.into());
        return;
    };
    match (&here.measured, claimed) {
        (Measured::Digest(_), Some(claimed)) if claimed != build.id => {
            reasons.push(format!("it calls itself {claimed}, and its executable is that of {}", build.id).into());
        }
        (Measured::Not(why), _) if build.digest.is_some() && !strategy.claim_suffices => {
            reasons.push(format!("that it is {} is only its word: {why}", build.id).into());
        }
        (Measured::Digest(_) | Measured::Not(_), _) => {}
    }
    if !build.config_hashes.is_empty() {
        let hash = here.claim.config_hash();
        if !hash.is_some_and(|hash| build.config_hashes.iter().any(|listed| listed == hash)) {
            let hash = hash.unwrap_or("none");
            reasons.push(format!("its configuration hash {hash} is not approved for build {}", build.id).into());
        }
    }
}

/// The rules that look at all instances.
struct Judged<'f> {
    fleet: &'f Fleet,
    manifest: &'f Manifest,
}

impl Judged<'_> {
    /// Instances of `strategy` that are there with nothing against them, and their builds.
    fn clean<'s>(&'s self, strategy: &'s Strategy, reasons: &[Vec<Reason>]) -> Vec<(usize, &'s str)> {
        let universe = &self.fleet.universe;
        let ids = strategy.instances.iter().filter_map(|name| universe.session(name));
        ids.map(|id| usize::from(id.0))
            .filter(|at| reasons[*at].is_empty())
            .filter_map(|at| Some((at, build_of(strategy, self.fleet.instances[at].here()?)?)))
            .collect()
    }

    /// Rule 4. All strategies are looked at before any instance is named, so that their order does not matter.
    fn minorities(&self, reasons: &mut [Vec<Reason>]) {
        let mut named = Vec::new();
        for strategy in self.manifest.strategies.iter().filter(|strategy| !strategy.mixed_builds) {
            let clean = self.clean(strategy, reasons);
            let Some(stays) = majority(strategy, clean.iter().map(|(_, build)| *build)) else { continue };
            let with = clean.iter().filter(|(_, build)| *build == stays).count();
            for (at, build) in clean.iter().filter(|(_, build)| *build != stays) {
                let fleet = format!("{with} of {} instances of strategy {} run {stays}", clean.len(), strategy.name);
                let cause = format!("it is of the minority of {}: it runs {build}", strategy.name);
                named.push((*at, Reason::about(cause, format!("it is of the minority: it runs {build}, {fleet}"))));
            }
        }
        for (at, why) in named {
            reasons[at].push(why);
        }
    }

    /// Rule 5.
    fn meanings(&self, reasons: &mut [Vec<Reason>]) {
        let mut readers: BTreeMap<&str, BTreeMap<&str, BTreeSet<usize>>> = BTreeMap::new();
        for strategy in &self.manifest.strategies {
            for (at, build) in self.clean(strategy, reasons) {
                let reads = |flag: &&Flag| flag.builds.iter().any(|id| id == build);
                for flag in strategy.flags.iter().filter(reads) {
                    readers.entry(&flag.name).or_default().entry(&flag.meaning).or_default().insert(at);
                }
            }
        }
        for (flag, meanings) in readers.iter().filter(|(_, meanings)| meanings.len() > 1) {
            let name = |at: &usize| self.fleet.universe.sessions[*at].name.clone();
            let one = |(meaning, at): (&&str, &BTreeSet<usize>)| {
                format!("{meaning:?} to {}", at.iter().map(name).collect::<Vec<_>>().join(", "))
            };
            let all = meanings.iter().map(one).collect::<Vec<_>>().join(" and ");
            let instances: BTreeSet<usize> = meanings.values().flatten().copied().collect();
            for at in instances {
                let cause = format!("flag {flag} has two live meanings");
                reasons[at].push(Reason::about(cause, format!("flag {flag} has two live meanings: {all}")));
            }
        }
    }

    /// Rule 2 for strategies that the configuration has.
    fn dormant_strategies(&self, now: u64) -> Vec<(StrategyId, String)> {
        let mut dormant = Vec::new();
        for strategy in &self.manifest.strategies {
            let since = self.fleet.dormant_since(self.manifest, strategy, &Part::Strategy, now);
            if let (Some(id), Some(since)) = (self.fleet.universe.strategy(&strategy.name), since) {
                dormant.push((id, format!("it is dormant, last used {}: it has to be woken", rfc3339(since))));
            }
        }
        dormant
    }
}

/// The build that stays where `builds` run; `None` if nothing runs.
#[must_use]
pub fn majority<'b>(strategy: &Strategy, builds: impl Iterator<Item = &'b str>) -> Option<&'b str> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for build in builds {
        *counts.entry(build).or_default() += 1;
    }
    let rank = |id: &str| {
        let place = strategy.builds.iter().position(|build| build.id == id);
        (place.map(|at| strategy.builds[at].approved_at), place)
    };
    counts.into_iter().max_by_key(|(id, count)| (*count, rank(id))).map(|(id, _)| id)
}
