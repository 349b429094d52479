//! The guard's part of the morning: the controls of [`crate::guard`] over the [story], wired as the service
//! wires them, with its threads' rounds as calls and scenario time as their clock.
//!
//! A control is alone if nothing else could speak: the manifest allows what the others would object to, no text or count is
//! shown to who is not asked. What a control finds is applied as the service applies it: a scope is halted.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use sha2::{Digest as _, Sha256};

use super::story::{self, Build, NEW_FLAG, OLD_FLAG, Plot, Step, StoryNs, clock_text, unix};
use crate::guard::attest::{Demand, Fleet, Incident, Measured};
use crate::guard::door::{ArrivalId, NewBuild, Way};
use crate::guard::manifest::{Manifest, hex};
use crate::guard::memory::Memory;
use crate::guard::peers::Counts;
use crate::guard::ramp::{After, Begin, Probations, Steps};
use crate::guard::signatures::Text;
use crate::guard::watch::{Watch, WatchOptions};
use crate::kill::alerts::{Alerts, Filter, Policy, Severity};
use crate::kill::words::ScopeName;
use crate::limits::overlay::Overlay;
use crate::model::{Claim, Scope, Universe};
use crate::units::{MonoNanos, Now, SessionId};

/// A control of the guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardControl {
    /// A build that is not approved.
    Manifest,
    /// A flag that was not used for a long time has to be woken.
    Dormant,
    /// One flag with two live meanings.
    Meanings,
    /// Of many instances one runs something else.
    Minority,
    /// A build that is new may use a fraction of its limits.
    Ramp,
    /// A kind of text that was never seen before.
    Signatures,
    /// Rates far from those of the peers.
    Peers,
    /// A change during an incident.
    Interlock,
    /// A person presses the switch, a minute after an alert.
    Press,
}

impl GuardControl {
    /// All, in the order of the links that they answer.
    pub const ALL: [GuardControl; 9] = [
        GuardControl::Manifest,
        GuardControl::Dormant,
        GuardControl::Meanings,
        GuardControl::Minority,
        GuardControl::Ramp,
        GuardControl::Signatures,
        GuardControl::Peers,
        GuardControl::Interlock,
        GuardControl::Press,
    ];
    /// Those that halt what they find: no person needs to be there, and no limit to be breached.
    pub const HALTING: [GuardControl; 7] = [
        GuardControl::Manifest,
        GuardControl::Dormant,
        GuardControl::Meanings,
        GuardControl::Minority,
        GuardControl::Signatures,
        GuardControl::Peers,
        GuardControl::Interlock,
    ];

    /// Its name in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            GuardControl::Manifest => "manifest",
            GuardControl::Dormant => "dormant_flag",
            GuardControl::Meanings => "flag_meanings",
            GuardControl::Minority => "fleet_minority",
            GuardControl::Ramp => "ramp",
            GuardControl::Signatures => "signatures",
            GuardControl::Peers => "peers",
            GuardControl::Interlock => "interlock",
            GuardControl::Press => "press",
        }
    }

    /// Whether it looks at what instances say of themselves when they come.
    const fn attests(self) -> bool {
        match self {
            GuardControl::Manifest
            | GuardControl::Dormant
            | GuardControl::Meanings
            | GuardControl::Minority
            | GuardControl::Ramp => true,
            GuardControl::Signatures | GuardControl::Peers | GuardControl::Interlock | GuardControl::Press => false,
        }
    }
}

/// How the service would be configured.
#[derive(Clone, Debug, Default)]
pub struct GuardSettings {
    /// `[alerts]`.
    pub policy: Policy,
    /// `[guard.signatures]` and `[guard.peers]`.
    pub watch: WatchOptions,
}

/// What the first control to fire said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Which; of several that look at instances, all of them together.
    pub control: GuardControl,
    /// When.
    pub at: StoryNs,
    /// What was found, in its words.
    pub text: String,
}

/// A halt that the guard asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Halt {
    /// When.
    pub at: StoryNs,
    /// Of what.
    pub scope: Scope,
    /// It belongs to the story: no control did it.
    pub of_story: bool,
}

/// A person takes so long from an alert to the switch.
pub const PRESS_AFTER: StoryNs = 60_000_000_000;
/// What a new build may use of its limits at first.
pub const RAMP_BPS: u16 = 1_000;

/// Texts, alerts and rates are looked at so often on the days before,
const LOOK_BEFORE: StoryNs = 60_000_000_000;
/// so often on the morning before the open, when nobody trades,
const LOOK_EARLY: StoryNs = 1_000_000_000;
/// and so often from the open on, as the service does.
const LOOK: StoryNs = 250_000_000;

/// What is approved, as the text of a manifest in which `controls` alone can object to something. `digests`: builds are known
/// by their executables rather than by their word.
///
/// # Panics
/// Never: a text can be written to.
#[must_use]
pub fn manifest_text(
    instances: &[String],
    strategies: &[String],
    controls: &[GuardControl],
    step: &ManifestStep,
) -> String {
    let on = |control| controls.contains(&control);
    let names = |list: &[&str]| list.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
    let (old, new) = (Build::Old.id(), Build::New.id());
    // The new build alone, once it is deployed, where a control is to object to the old one.
    let builds: &[&str] = match (step.deployed, on(GuardControl::Manifest)) {
        (false, _) => &[old],
        (true, true) => &[new],
        (true, false) => &[old, new],
    };
    let mut text = format!("version = {}\n", if step.deployed { 2 } else { 1 });
    if on(GuardControl::Dormant) {
        text += "dormant_after_days = 30\n";
    }
    for strategy in strategies {
        let all = instances.iter().map(String::as_str).collect::<Vec<_>>();
        let mixed = !on(GuardControl::Minority);
        let _ = write!(
            text,
            "[strategies.{strategy}]\ninstances = [{}]\npaths = [\"websocket\"]\nmixed_builds = {mixed}\n",
            names(&all)
        );
        for build in builds {
            let approved = if *build == old { "2012-07-02T12:00:00Z" } else { "2012-07-27T21:00:00Z" };
            let _ = writeln!(text, "[[strategies.{strategy}.builds]]\nid = \"{build}\"\napproved_at = {approved}");
            if on(GuardControl::Ramp) {
                text += "ramp_hours = 168\n";
            }
            if step.digests {
                let _ = writeln!(text, "digest = \"{}\"", hex(&executable(build)));
            }
        }
        let mut flag = |name: &str, meaning: &str, builds: &[&str]| {
            let _ = writeln!(
                text,
                "[[strategies.{strategy}.flags]]\nname = \"{name}\"\nmeaning = \"{meaning}\"\nbuilds = [{}]",
                names(builds)
            );
        };
        match builds {
            [_, _] if on(GuardControl::Meanings) => {
                flag(OLD_FLAG, "power peg", &[old]);
                flag(OLD_FLAG, "retail liquidity program", &[new]);
            }
            _ => flag(OLD_FLAG, "what the router does with a parent", builds),
        }
        if builds.contains(&new) {
            flag(NEW_FLAG, "retail liquidity program", &[new]);
        }
        if on(GuardControl::Dormant) {
            // It was last set when Power Peg was last used.
            let _ = writeln!(
                text,
                "[strategies.{strategy}.exercised]\nstrategy = 2012-07-25T20:00:00Z\n\"path:websocket\" = \
                 2012-07-25T20:00:00Z\n\"flag:{OLD_FLAG}\" = 2003-12-31T21:00:00Z"
            );
        }
    }
    text
}

/// Which manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManifestStep {
    /// The one that knows the new build.
    pub deployed: bool,
    /// Builds are known by their executables.
    pub digests: bool,
}

/// SHA-256 of what stands for the executable of `build`.
fn executable(build: &str) -> [u8; 32] {
    Sha256::digest(build.as_bytes()).into()
}

/// What an instance says of itself.
///
/// # Errors
/// If a name is none that may be said.
pub fn claim(build: Build, flag: &str, set: bool) -> anyhow::Result<Claim> {
    let wrong = |bad| anyhow!("{bad:?}");
    let mut claim = Claim::of_build(build.id()).map_err(wrong)?;
    claim.add_flag(flag, if set { "on" } else { "off" }).map_err(wrong)?;
    Ok(claim)
}

/// See the module.
pub struct Guard {
    controls: Vec<GuardControl>,
    universe: Arc<Universe>,
    /// The session of each instance of the story.
    sessions: Vec<SessionId>,
    /// The names of sessions and strategies.
    names: [Vec<String>; 2],
    fleet: Fleet,
    /// The manifest that comes with the deployment, until it has come.
    deployed: Option<Manifest>,
    watch: Watch,
    alerts: Alerts,
    steps: VecDeque<(StoryNs, Step)>,
    next_look: StoryNs,
    /// The last arrival of each instance, if it is there.
    here: Vec<Option<ArrivalId>>,
    arrivals: u64,
    halted: Vec<Scope>,
    incidents: Vec<Incident>,
    probations: Probations,
    /// Who is going to press the switch, and what for.
    press: Option<Press>,
    said: Option<Said>,
}

/// A person has seen an alert.
struct Press {
    /// When the switch is reached.
    at: StoryNs,
    scope: Scope,
    text: String,
}

impl Guard {
    /// `controls` over the story of `plot`, for the instances called `names`.
    ///
    /// # Errors
    /// If the universe lacks an instance, or has a name that no manifest can have.
    pub fn new(
        universe: &Arc<Universe>,
        names: &[String],
        controls: &[GuardControl],
        settings: &GuardSettings,
        plot: Plot,
    ) -> anyhow::Result<Guard> {
        let session = |name: &String| universe.session(name).with_context(|| format!("there is no session {name:?}"));
        let sessions = names.iter().map(session).collect::<anyhow::Result<Vec<_>>>()?;
        let strategies = universe.strategies.iter().map(|s| s.name.clone()).collect();
        let mut watch = settings.watch.clone();
        // What is halted by itself needs nobody to press.
        watch.peers.halts &= !controls.contains(&GuardControl::Press);
        let mut guard = Guard {
            controls: controls.to_vec(),
            universe: universe.clone(),
            here: vec![None; sessions.len()],
            sessions,
            names: [names.to_vec(), strategies],
            fleet: Fleet::new(universe.clone(), Demand::Off, Ok(Memory::default())),
            deployed: None,
            watch: Watch::new(watch, universe),
            alerts: Alerts::new(settings.policy.clone()),
            steps: plot.steps(),
            next_look: story::USUAL,
            arrivals: 0,
            halted: Vec::new(),
            incidents: Vec::new(),
            probations: Probations::default(),
            press: None,
            said: None,
        };
        if controls.iter().any(|c| c.attests()) {
            guard.deployed = Some(guard.manifest(true)?);
            guard.fleet = guard.fleet_of(Demand::Manifest(Ok(guard.manifest(false)?)));
        } else if controls.contains(&GuardControl::Interlock) {
            guard.fleet = guard.fleet_of(Demand::Interlock);
        }
        Ok(guard)
    }

    fn fleet_of(&self, demand: Demand) -> Fleet {
        Fleet::new(self.universe.clone(), demand, Ok(Memory::default()))
    }

    fn manifest(&self, deployed: bool) -> anyhow::Result<Manifest> {
        let [instances, strategies] = &self.names;
        // The ramp is tried where the word of an instance is all there is: see `word_of`.
        let step = ManifestStep { deployed, digests: !self.on(GuardControl::Ramp) };
        let text = manifest_text(instances, strategies, &self.controls, &step);
        Manifest::parse(text.as_bytes()).map_err(|faults| anyhow!("the manifest: {}", faults.join("; ")))
    }

    /// When it next has something to do.
    #[must_use]
    pub fn next_at(&self) -> StoryNs {
        self.steps.front().map_or(self.next_look, |(at, _)| self.next_look.min(*at))
    }

    /// What the first of its controls that fired said.
    #[must_use]
    pub fn said(&self) -> Option<&Said> {
        self.said.as_ref()
    }

    /// The alerts that it has raised.
    #[must_use]
    pub fn alerts(&self) -> &Alerts {
        &self.alerts
    }

    /// What stands over the limits for those on probation.
    #[must_use]
    pub fn probation(&self) -> Vec<Overlay> {
        self.probations.overlays(&self.universe)
    }

    /// Somebody else has halted something: an incident is open.
    pub fn incident(&mut self, scope: Scope, text: String) {
        self.incidents.push(Incident { scope, text });
    }

    /// Does what is due at `at`; `counts` of every session of the universe. Returns what has to be halted.
    pub fn advance(&mut self, at: StoryNs, counts: &[Counts]) -> Vec<Halt> {
        let mut halts = Vec::new();
        while let Some((_, step)) = self.steps.pop_front_if(|(due, _)| *due <= at) {
            self.step(at, step, &mut halts);
        }
        if self.next_look <= at {
            self.next_look = match at {
                0.. => at + LOOK,
                story::START..0 => (at + LOOK_EARLY).min(0),
                _ => (at + LOOK_BEFORE).min(story::START),
            };
            self.look(at, counts, &mut halts);
        }
        halts
    }

    fn on(&self, control: GuardControl) -> bool {
        self.controls.contains(&control)
    }

    fn now(at: StoryNs) -> Now {
        // Half a year of running before the open: the service's clock of the days before is not below zero.
        const RUNNING: u64 = 1 << 54;
        Now { mono: MonoNanos(RUNNING.saturating_add_signed(at)), unix: unix(at) }
    }

    /// What `instance` says that it runs. No ramp is needed where the old build is known for what it is: it is tried with a
    /// deployment that left the eighth server the name of the new build and not its file.
    fn word_of(&self, at: StoryNs, build: Build) -> Build {
        if self.on(GuardControl::Ramp) && at > story::DEPLOYMENT { Build::New } else { build }
    }

    /// Who comes with a build that is new there begins with a fraction. What ran before the deployment has served its time;
    /// nobody goes a step up before the open, since there is no order that could be clean.
    fn ramp(&mut self, at: StoryNs, new: &[NewBuild]) {
        if !self.on(GuardControl::Ramp) || at < story::DEPLOYMENT {
            return;
        }
        for new in new {
            let scope = ScopeName::of(&self.universe, Scope::Session(new.session));
            let steps = Steps { bps: vec![RAMP_BPS], clean_ns: 1_800_000_000_000, clean_volume: 1_000 };
            let begin = Begin { by: "haltline", now: Guard::now(at), counts: None };
            self.arrivals += 1;
            self.probations.begin(self.arrivals, scope, After::Build(new.build.clone()), steps, begin);
        }
    }

    fn step(&mut self, at: StoryNs, step: Step, halts: &mut Vec<Halt>) {
        match step {
            Step::Deploy => {
                if let Some(manifest) = self.deployed.take() {
                    let new = self.fleet.take_manifest(manifest, unix(at).0);
                    self.ramp(at, &new);
                    self.settle(at, halts);
                }
            }
            Step::Gone(instance) => {
                if let Some(id) = self.here[instance].take() {
                    self.fleet.leave(self.sessions[instance], id, unix(at).0);
                    self.settle(at, halts);
                }
            }
            Step::Hello { instance, build, flag, set } => {
                self.arrivals += 1;
                let id = ArrivalId(self.arrivals);
                self.here[instance] = Some(id);
                // Whoever could not be told apart would be kept out.
                let claim = claim(self.word_of(at, build), flag, set).unwrap_or_default();
                let hello = (Way::WebSocket, claim, format!("host {}", instance + 1));
                let measured = Measured::Digest(executable(build.id()));
                let new = self.fleet.arrive(self.sessions[instance], id, hello, measured, unix(at).0);
                self.ramp(at, &new);
                self.settle(at, halts);
            }
            Step::Text { instance, text } => {
                if self.on(GuardControl::Signatures) {
                    let text = Text { at: unix(at).0, session: self.sessions[instance], source: "log", text };
                    self.watch.take(&text, &self.alerts);
                    self.hear_of_texts(at);
                }
            }
            // Only for who needs an incident: nobody had a way to press.
            Step::Press(instance) => {
                if self.on(GuardControl::Interlock) {
                    let scope = Scope::Session(self.sessions[instance]);
                    let name = ScopeName::of(&self.universe, scope);
                    self.incident(scope, format!("{name} is halted since {}, a person", clock_text(at)));
                    halts.push(Halt { at, scope, of_story: true });
                }
            }
        }
    }

    /// What stands against anybody is a halt of it, as `app::attest` has it.
    fn settle(&mut self, at: StoryNs, halts: &mut Vec<Halt>) {
        if !self.fleet.is_on() {
            return;
        }
        let incidents = if self.on(GuardControl::Interlock) { &self.incidents[..] } else { &[] };
        for finding in self.fleet.judge(unix(at).0, incidents) {
            if self.halted.contains(&finding.scope) {
                continue;
            }
            let control = self.controls.iter().find(|c| c.attests() || **c == GuardControl::Interlock).copied();
            let name = ScopeName::of(&self.universe, finding.scope);
            let text = format!("{name}: {}", finding.reasons.join("; "));
            if let Some(control) = control {
                self.say(control, at, text);
            }
            self.halt(at, finding.scope, halts);
        }
    }

    fn look(&mut self, at: StoryNs, counts: &[Counts], halts: &mut Vec<Halt>) {
        let now = Guard::now(at);
        if self.on(GuardControl::Signatures) {
            self.watch.tick(now, &self.alerts);
            self.hear_of_texts(at);
        }
        if self.on(GuardControl::Peers) || self.on(GuardControl::Press) {
            let count = |session: &SessionId| counts.get(usize::from(session.0)).copied().unwrap_or_default();
            let counts: Vec<Counts> = self.watch.instances().iter().map(count).collect();
            for stop in self.watch.sample(now, &counts, &self.alerts) {
                let scope = Scope::Session(stop.session);
                self.incident(scope, format!("{}: {}", ScopeName::of(&self.universe, scope), stop.reason));
                self.say(GuardControl::Peers, at, stop.reason);
                self.halt(at, scope, halts);
            }
        }
        if self.on(GuardControl::Press) {
            self.look_for_a_person(at, halts);
        }
        for must in self.alerts.tick(now) {
            let scope = must.scope.and_then(|scope| scope.find(&self.universe)).unwrap_or(Scope::Firm);
            self.halt(at, scope, halts);
        }
    }

    /// The first alert that is about an instance has somebody halt that one.
    fn look_for_a_person(&mut self, at: StoryNs, halts: &mut Vec<Halt>) {
        if self.press.is_none() {
            let filter = Filter { severity: Some(Severity::Warning), ..Filter::default() };
            let first = self.alerts.list(&filter, usize::MAX).pop();
            self.press = first.and_then(|alert| {
                let scope = alert.scope.as_ref()?.find(&self.universe)?;
                let text = format!("a person, {} s after: {}", PRESS_AFTER / 1_000_000_000, alert.first_text);
                Some(Press { at: at + PRESS_AFTER, scope, text })
            });
        }
        if let Some(press) = self.press.take_if(|press| press.at <= at) {
            self.say(GuardControl::Press, at, press.text);
            self.halt(at, press.scope, halts);
        }
    }

    /// Signatures fire with the first critical alert about a text.
    fn hear_of_texts(&mut self, at: StoryNs) {
        if self.said.is_some() {
            return;
        }
        let kind = Some("signature".to_owned());
        let filter = Filter { kind, severity: Some(Severity::Critical), ..Filter::default() };
        if let Some(alert) = self.alerts.list(&filter, 1).pop() {
            self.say(GuardControl::Signatures, at, format!("alert to {}: {}", alert.owner, alert.first_text));
        }
    }

    fn say(&mut self, control: GuardControl, at: StoryNs, text: String) {
        self.said.get_or_insert(Said { control, at, text });
    }

    fn halt(&mut self, at: StoryNs, scope: Scope, halts: &mut Vec<Halt>) {
        if !self.halted.contains(&scope) {
            self.halted.push(scope);
            halts.push(Halt { at, scope, of_story: false });
        }
    }
}
