//! Attestation at work: measures who comes, asks the [`Fleet`] what stands against whom, halts those sessions, and keeps
//! what has to survive a restart.
//!
//! One thread, `haltline-attest`. A session waits outside until it was looked at, and nothing else does. A quarantine is a halt like any
//! other, on the page, latched, with its cause and its receipt; what is particular about it is the hold: while the reason is there
//! nobody can re-arm the session.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use ed25519_dalek::VerifyingKey;

use crate::app::config::{Attestation, SignedFile};
use crate::app::day::{self, DayOpen};
use crate::app::measure::Measurer;
use crate::duty::Clock;
use crate::engine::published::{Published, ScopeView};
use crate::guard::attest::{Demand, Finding, Fleet, Incident, Measured, Unsaved};
use crate::guard::door::{
    Arrival, ArrivalId, DeskRefused, Door, FleetDesk, ManifestView, NewBuild, NewBuilds, SessionRow,
};
use crate::guard::manifest::Manifest;
use crate::guard::memory::Memory;
use crate::guard::preflight::{Check, Preflight};
use crate::journal::disk::sync_parent;
use crate::kill::alerts::{Alerts, Raise};
use crate::kill::audit::{Audit, Entry};
use crate::kill::switch::{Halt, Stop, Switch};
use crate::kill::words::{ScopeName, rfc3339};
use crate::limits::Gauge;
use crate::metrics::{Sample, SampleKind, Source};
use crate::model::{Mode, Scope, Universe};
use crate::units::{SessionId, StrategyId};

/// Who quarantines: the actor of its halts, and the holder of its holds.
pub(super) const ACTOR: &str = "attestation";
/// The file in the state directory that is kept over a restart.
const FILE: &str = "fleet.json";
/// How often it is looked whether something has fallen asleep, whether an incident is over, and who is at work.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often times of use are written down.
const SAVE_EVERY_NS: u64 = 60_000_000_000;
/// A halt with so many causes may have had others, which were not kept.
const CAUSES_SURE: usize = 4;

/// What it works with.
pub(super) struct AttestParts {
    pub switch: Arc<Switch>,
    pub clock: Arc<dyn Clock>,
    pub audit: Arc<Audit>,
    pub alerts: Arc<Alerts>,
    pub published: Arc<Published>,
    pub config: Option<Attestation>,
    pub state_dir: PathBuf,
    /// Haltline's own session, which rehearses the switch.
    pub own: Option<SessionId>,
    /// Where the preflight is required: what waits for it.
    pub day: Option<Arc<DayOpen>>,
    /// The rest of the preflight page.
    pub preflight: Box<dyn Fn() -> Vec<Check> + Send + Sync>,
}

/// The door of the service, and the desk behind it.
pub struct Attestor {
    parts: AttestParts,
    manifest: Option<SignedFile>,
    file: PathBuf,
    ids: AtomicU64,
    jobs: Sender<Job>,
    state: Mutex<State>,
    /// One at a time writes the file.
    writing: Mutex<()>,
    hooks: Mutex<Vec<Arc<dyn NewBuilds>>>,
    save_failures: AtomicU64,
    refused: AtomicU64,
}

struct State {
    fleet: Fleet,
    /// Scopes that something stands against, and what: see [`Finding::causes`].
    raised: HashMap<Scope, BTreeSet<String>>,
    /// Scopes of which it was recorded, in this run, that nothing stands against them any more.
    over: BTreeSet<String>,
    saved_at: u64,
    save_error: Option<String>,
}

/// What the thread is told.
pub(super) enum Job {
    Arrive(ArrivalId, Arrival, Box<dyn FnOnce() + Send>),
    Leave(SessionId, ArrivalId),
}

/// What was seen of a scope at the last look: only what grows by orders and reports, not what prices move.
#[derive(Clone, Copy, Default)]
struct Trace {
    seq: u64,
    counts: [i64; 4],
    rates: [i64; crate::limits::MAX_RATES],
}

impl Trace {
    fn of(seq: u64, view: Option<&ScopeView>) -> Trace {
        let Some(view) = view else { return Trace { seq, ..Trace::default() } };
        let counts = [Gauge::Working, Gauge::Orders, Gauge::Executions, Gauge::DayQty];
        Trace { seq, counts: counts.map(|gauge| view.gauges[gauge as usize]), rates: view.rates }
    }

    /// Whether something came since `before`. Rates and counts fall by themselves; only a rise is somebody's doing.
    fn shows_use_since(&self, before: &Trace) -> bool {
        self.seq > before.seq
            || self.counts.iter().zip(&before.counts).any(|(now, before)| now > before)
            || self.rates.iter().zip(&before.rates).any(|(now, before)| now > before)
    }
}

impl Attestor {
    /// Reads what was kept and the manifest. Neither can keep the service from starting, since a kill has to be possible: what is
    /// damaged or refused is said, and stands against every instance.
    pub(super) fn new(parts: AttestParts, universe: &Arc<Universe>) -> (Arc<Attestor>, Receiver<Job>) {
        let file = parts.state_dir.join(FILE);
        let memory = read_memory(&file);
        if let Err(why) = &memory {
            tracing::error!(event = "attestation", "{why}: every instance has to be approved");
            // Kept for whoever looks into it, and as the mark that something was lost until what is written says so.
            let _ = std::fs::rename(&file, beside(&file, "damaged"));
        }
        let manifest = parts.config.as_ref().and_then(|config| config.manifest.clone());
        let demand = match (&parts.config, &manifest) {
            (None, _) => Demand::Off,
            (Some(_), None) => Demand::Interlock,
            (Some(_), Some(_)) => Demand::Manifest(Err("none was read yet".to_owned())),
        };
        let mut fleet = Fleet::new(universe.clone(), demand, memory);
        if let Some(own) = parts.own {
            fleet.exempt(own);
        }
        let (jobs, take) = crossbeam_channel::unbounded();
        let state = State { fleet, raised: HashMap::new(), over: BTreeSet::new(), saved_at: 0, save_error: None };
        let attestor = Attestor {
            parts,
            manifest,
            file,
            ids: AtomicU64::new(1),
            jobs,
            state: Mutex::new(state),
            writing: Mutex::default(),
            hooks: Mutex::default(),
            save_failures: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        };
        if attestor.manifest.is_some()
            && let Err(why) = attestor.load()
        {
            tracing::error!(event = "manifest", "{why}: every instance is quarantined");
            attestor.alert("manifest_refused", why);
        }
        (Arc::new(attestor), take)
    }

    /// `hook` hears of new builds from now on. Before anybody is let in.
    pub fn on_new_build(&self, hook: Arc<dyn NewBuilds>) {
        self.hooks.lock().unwrap_or_else(PoisonError::into_inner).push(hook);
    }

    /// Reads the manifest again because of a signal, if there is one.
    pub(super) fn reload_by_signal(&self) {
        if self.manifest.is_some() {
            let entry = Entry::new("signal", "manifest").because("SIGHUP");
            self.parts.audit.record(match self.reload("signal", "SIGHUP") {
                Ok(version) => entry.detail(format!("version {version}")),
                Err(refused) => entry.refused(refused.text()),
            });
        }
    }

    /// Loops until `stop` is dropped.
    pub(super) fn run(&self, jobs: &Receiver<Job>, stop: &Receiver<()>) {
        let mut measurer = Measurer::default();
        let mut traces = Traces::new(self.parts.switch.universe());
        let mut next = Instant::now();
        loop {
            // Not only when nobody comes: a crowd must not keep what fell asleep awake.
            if Instant::now() >= next {
                self.look(&mut traces);
                if let Some(day) = &self.parts.day {
                    day.look(|| FleetDesk::preflight(self).checks);
                }
                next = Instant::now() + LOOK_EVERY;
            }
            let patience = next.saturating_duration_since(Instant::now());
            crossbeam_channel::select! {
                recv(jobs) -> job => match job {
                    Ok(job) => self.take(job, &mut measurer),
                    Err(_) => return,
                },
                recv(stop) -> _ => break,
                default(patience) => {}
            }
        }
        // An orderly end loses no time of use.
        let state = self.lock();
        if state.fleet.unsaved() > Unsaved::Nothing {
            let _ = self.save(state);
        }
    }

    fn take(&self, job: Job, measurer: &mut Measurer) {
        match job {
            Job::Arrive(id, arrival, looked_at) => {
                let (measured, from) = match self.parts.config {
                    Some(_) => measurer.measure(&arrival.peer),
                    None => (Measured::Not("attestation is off".to_owned()), arrival.peer.to_string()),
                };
                let now = self.parts.clock.now().unix.0;
                let mut state = self.lock();
                let Arrival { session, way, claim, .. } = arrival;
                let new = state.fleet.arrive(session, id, (way, claim, from), measured, now);
                self.tell(&mut state.fleet, &new);
                self.settle(&mut state);
                if state.fleet.unsaved() == Unsaved::Facts {
                    // What cannot be written is said, and told at the preflight; it does not keep anybody out.
                    let _ = self.save(state);
                } else {
                    drop(state);
                }
                looked_at();
            }
            Job::Leave(session, id) => {
                let now = self.parts.clock.now().unix.0;
                let mut state = self.lock();
                state.fleet.leave(session, id, now);
                self.settle(&mut state);
            }
        }
    }

    /// Before the rules are applied, which may let a session go, and before it is written down that the build is known: a
    /// crash in between tells it once more. What cannot be done stands against the session from now on.
    fn tell(&self, fleet: &mut Fleet, new: &[NewBuild]) {
        let hooks = self.hooks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for new in new {
            let session = self.parts.switch.universe().scope_name(Scope::Session(new.session));
            let (build, strategy) = (&new.build, &new.strategy);
            tracing::info!(event = "new_build", session, build, strategy, "an instance came with a new build");
            for why in hooks.iter().filter_map(|hook| hook.new_build(new).err()) {
                tracing::error!(event = "new_build", session, build, "its probation could not begin: {why}");
                fleet.not_ramped(new, &why);
            }
        }
    }

    /// Who was at work since the last look; whether anything fell asleep, or an incident is over.
    fn look(&self, traces: &mut Traces) {
        let now = self.parts.clock.now().unix.0;
        let mut state = self.lock();
        traces.look(&self.parts, &mut state.fleet, now);
        if !state.fleet.is_on() {
            return;
        }
        self.settle(&mut state);
        let due = match state.fleet.unsaved() {
            Unsaved::Nothing => false,
            Unsaved::Times => now.saturating_sub(state.saved_at) >= SAVE_EVERY_NS,
            Unsaved::Facts => true,
        };
        if due {
            let _ = self.save(state);
        }
    }

    /// Applies the rules, and makes the page and the holds agree with what comes of them.
    fn settle(&self, state: &mut State) {
        if !state.fleet.is_on() {
            return;
        }
        let now = self.parts.clock.now();
        let incidents = self.incidents();
        let findings = state.fleet.judge(now.unix.0, &incidents);
        // First: what is raised below can then not be re-armed in between.
        let holds = findings.iter().map(|finding| (finding.scope, finding.reasons.join("; "))).collect();
        self.parts.switch.hold_because(ACTOR, holds);
        for finding in &findings {
            self.quarantine(state, finding);
        }
        let universe = self.parts.switch.universe();
        let gone: Vec<Scope> =
            state.raised.keys().copied().filter(|scope| !findings.iter().any(|f| f.scope == *scope)).collect();
        for scope in gone {
            state.raised.remove(&scope);
            let name = ScopeName::of(universe, scope);
            state.over.insert(name.to_string());
            tracing::info!(event = "quarantine", scope = %name, "nothing stands against it any more: it can be re-armed");
            self.parts.alerts.resolve(self.parts.clock.now().unix.0, "guard", "quarantine", Some(&name));
            let entry = Entry::new(ACTOR, "quarantine").on(name);
            self.parts.audit.record(entry.outcome("over").detail("nothing stands against it any more"));
        }
    }

    fn quarantine(&self, state: &mut State, finding: &Finding) {
        let (scope, text) = (finding.scope, finding.reasons.join("; "));
        let universe = self.parts.switch.universe();
        let Some(slot) = universe.slot(scope) else { return };
        let halted = self.parts.switch.page().get(slot).mode == Mode::Halted;
        let known = state.raised.insert(scope, finding.causes.clone());
        // One quarantine is one record: other words for the same, such as a minority that has grown, are no other one.
        if halted && known.as_ref() == Some(&finding.causes) {
            return;
        }
        let name = ScopeName::of(universe, scope);
        let entry = Entry::new(ACTOR, "quarantine").on(name.clone()).because(&text);
        let was_over = state.over.remove(&name.to_string());
        // Nor is one from before a restart, whose halt is still there.
        let kept = state.fleet.was_quarantined_for(&name.to_string(), &finding.causes) && self.is_own_halt(scope);
        state.fleet.quarantined_for(name.to_string(), &finding.causes);
        if !halted || (known.is_none() && !kept) {
            // A session or strategy of the universe can be halted.
            if let Ok(receipt) = self.parts.switch.press(scope, Stop::Halted, ACTOR, &text, self.parts.clock.now()) {
                let detail = format!("epoch {}, receipt {}", receipt.word.epoch, receipt.id);
                self.parts.audit.record(entry.detail(detail));
            }
            tracing::error!(event = "quarantine", scope = %name, reason = text, "quarantined");
            let raise = Raise::new(self.parts.clock.now().unix.0, "guard", "quarantine", format!("{name}: {text}"));
            self.parts.alerts.raise(raise.on(name).critical());
        } else if known.is_some() {
            tracing::warn!(event = "quarantine", scope = %name, reason = text, "quarantined for another reason now");
            self.parts.audit.record(entry.detail("another reason"));
        } else if was_over {
            tracing::error!(event = "quarantine", scope = %name, reason = text, "quarantined again, and still halted");
            self.parts.audit.record(entry.detail("again, and still halted since it was before"));
            let raise = Raise::new(self.parts.clock.now().unix.0, "guard", "quarantine", format!("{name}: {text}"));
            self.parts.alerts.raise(raise.on(name).critical());
        }
    }

    /// Whether attestation is among those who halted `scope`.
    fn is_own_halt(&self, scope: Scope) -> bool {
        let halts = self.parts.switch.halts();
        let mut causes = halts.iter().filter(|halt| halt.scope == scope).flat_map(|halt| &halt.causes);
        causes.any(|cause| cause.actor == ACTOR)
    }

    /// Halts that are neither attestation's own nor that of a day that is not open yet: the builds of a day come in before it is.
    fn incidents(&self) -> Vec<Incident> {
        let universe = self.parts.switch.universe();
        let own = |halt: &Halt| {
            let causes = &halt.causes;
            let own = !causes.is_empty() && causes.iter().all(|cause| cause.actor == ACTOR);
            causes.len() < CAUSES_SURE && (own || day::is_of_the_day(halt))
        };
        let halts = self.parts.switch.halts();
        let open = halts.iter().filter(|halt| !own(halt)).map(|halt| {
            let (scope, mode, epoch) = (ScopeName::of(universe, halt.scope), halt.word.mode.name(), halt.word.epoch);
            let cause = halt.causes.iter().find(|cause| cause.actor != ACTOR);
            let why = cause.map_or_else(|| "no cause known".to_owned(), |c| format!("{}: {}", c.actor, c.reason));
            Incident { scope: halt.scope, text: format!("{scope} is {mode} since epoch {epoch}, {why}") }
        });
        open.collect()
    }

    fn alert(&self, name: &'static str, text: String) {
        self.parts.alerts.push(self.parts.clock.now().unix.0, "guard", name, text);
    }

    /// Reads the manifest and its signature from their files.
    fn load(&self) -> Result<u64, String> {
        let Some(SignedFile { path, key }) = &self.manifest else {
            return Err("no manifest is configured".to_owned());
        };
        let floor = self.lock().fleet.floor();
        let opened = read_manifest(path, key, floor);
        let now = self.parts.clock.now().unix.0;
        let mut state = self.lock();
        match opened {
            Ok(manifest) => {
                let version = manifest.version;
                // Somebody else may have taken a later one in between.
                if state.fleet.floor().is_some_and(|(floor, _)| version < floor) {
                    return Err(format!("{}: a later one was taken in between", path.display()));
                }
                let new = state.fleet.take_manifest(manifest, now);
                self.tell(&mut state.fleet, &new);
                self.settle(&mut state);
                // A version that is not written down could come back: it is in force, and it is said that it may.
                self.save(state).map_err(|why| format!("version {version} is in force, but {why}"))?;
                Ok(version)
            }
            Err(why) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                let why = format!("{}: {why}", path.display());
                state.fleet.refuse_manifest(why.clone());
                Err(why)
            }
        }
    }

    /// Writes down what is to be kept. The disk is waited for without the lock.
    fn save(&self, mut state: MutexGuard<'_, State>) -> Result<(), String> {
        let bytes = state.fleet.memory().encode();
        let unsaved = state.fleet.unsaved();
        state.fleet.saved();
        state.saved_at = self.parts.clock.now().unix.0;
        // In the order in which they were taken: the lock for writing is taken before the other is given back.
        let writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        drop(state);
        let written = write_atomically(&self.file, &bytes);
        if written.is_ok() {
            // What was lost is said in the file from now on. Mostly there is nothing to rename.
            let _ = std::fs::rename(beside(&self.file, "damaged"), beside(&self.file, "was-damaged"));
        }
        drop(writing);
        let mut state = self.lock();
        match written {
            Ok(()) => {
                state.save_error = None;
                Ok(())
            }
            Err(error) => {
                let why = format!("{} cannot be written: {error}", self.file.display());
                self.save_failures.fetch_add(1, Ordering::Relaxed);
                if state.save_error.is_none() {
                    tracing::error!(event = "attestation", "{why}");
                    self.alert("not_written", why.clone());
                }
                state.fleet.not_saved(unsaved);
                state.save_error = Some(why.clone());
                Err(why)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The manifest at `path`, if `key` has signed it.
///
/// # Errors
/// Why it is not taken, in words.
pub fn read_manifest(path: &Path, key: &[u8; 32], floor: Option<(u64, [u8; 32])>) -> Result<Manifest, String> {
    let key = VerifyingKey::from_bytes(key).map_err(|_| "the key is none".to_owned())?;
    let text = std::fs::read(path).map_err(|error| error.to_string())?;
    let beside = signature_path(path);
    let signature = std::fs::read_to_string(&beside).map_err(|error| format!("{}: {error}", beside.display()))?;
    Manifest::open(&text, &signature, &key, floor).map_err(|refused| refused.to_string())
}

/// Where the signature of the file at `path` is.
#[must_use]
pub fn signature_path(path: &Path) -> PathBuf {
    beside(path, "sig")
}

/// The path of a file beside the one at `path`, with the same name and `.ending` after it.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    PathBuf::from(name)
}

/// What was kept in `file`. Where there is none, there was none, unless a damaged one was put aside and nothing could be
/// written in its place.
///
/// # Errors
/// Why what was kept is lost.
fn read_memory(file: &Path) -> Result<Memory, String> {
    let damaged = beside(file, "damaged");
    match std::fs::read(file) {
        Ok(bytes) => Memory::decode(&bytes).map_err(|why| format!("{} is damaged: {why}", file.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match damaged.try_exists() {
            Ok(false) => Ok(Memory::default()),
            Ok(true) => Err(format!("{} was damaged, and nothing was written in its place", file.display())),
            Err(error) => Err(format!("{} cannot be looked at: {error}", damaged.display())),
        },
        Err(error) => Err(format!("{} cannot be read: {error}", file.display())),
    }
}

/// A new file, synced, in the place of the one at `path`: after a crash it is one or the other.
fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    sync_parent(path)
}

/// Who was at work.
struct Traces {
    sessions: Vec<Trace>,
    strategies: Vec<Trace>,
    begun: bool,
}

impl Traces {
    fn new(universe: &Universe) -> Traces {
        let traces = |len| vec![Trace::default(); len];
        Traces {
            sessions: traces(universe.sessions.len()),
            strategies: traces(universe.strategies.len()),
            begun: false,
        }
    }

    fn look(&mut self, parts: &AttestParts, fleet: &mut Fleet, now: u64) {
        let universe = fleet.universe().clone();
        let view = |scope| parts.published.scope(universe.slot(scope)?);
        // What is there at the first look was there before.
        let begun = std::mem::replace(&mut self.begun, true);
        for (at, before) in self.sessions.iter_mut().enumerate() {
            let session = SessionId(at as u16);
            let seq = parts.switch.board().cell(at).map_or(0, |cell| cell.view().last_seq);
            let trace = Trace::of(seq, view(Scope::Session(session)).as_ref());
            if begun && trace.shows_use_since(before) {
                fleet.event_seen(session, now);
            }
            *before = trace;
        }
        for (at, before) in self.strategies.iter_mut().enumerate() {
            let strategy = StrategyId(at as u16);
            let trace = Trace::of(0, view(Scope::Strategy(strategy)).as_ref());
            if begun && trace.shows_use_since(before) {
                fleet.strategy_used(strategy, now);
            }
            *before = trace;
        }
    }
}

impl Door for Attestor {
    fn arrive(&self, arrival: Arrival, looked_at: Box<dyn FnOnce() + Send>) -> ArrivalId {
        let id = ArrivalId(self.ids.fetch_add(1, Ordering::Relaxed));
        // The thread ends after the transports; should it be gone, the callback goes with the job, and nobody is let in.
        let _ = self.jobs.send(Job::Arrive(id, arrival, looked_at));
        id
    }

    fn leave(&self, session: SessionId, id: ArrivalId) {
        let _ = self.jobs.send(Job::Leave(session, id));
    }
}

impl FleetDesk for Attestor {
    fn attestation(&self) -> &'static str {
        self.lock().fleet.attestation()
    }

    fn sessions(&self) -> Vec<SessionRow> {
        self.lock().fleet.rows()
    }

    fn manifest(&self) -> ManifestView {
        let now = self.parts.clock.now().unix.0;
        self.lock().fleet.manifest_view(now)
    }

    fn preflight(&self) -> Preflight {
        let now = self.parts.clock.now().unix.0;
        let mut checks = {
            let state = self.lock();
            let mut checks = state.fleet.checks(now);
            if let Some(why) = &state.save_error {
                checks.push(Check::of("fleet_memory", std::slice::from_ref(why), ""));
            }
            checks
        };
        // Without the lock: files are read.
        checks.extend((self.parts.preflight)());
        Preflight::of(rfc3339(now), checks)
    }

    fn wake(&self, strategy: &str, part: Option<&str>, actor: &str, reason: &str) -> Result<String, DeskRefused> {
        let now = self.parts.clock.now().unix.0;
        let mut state = self.lock();
        let woken = state.fleet.wake(strategy, part, now)?;
        tracing::warn!(event = "wake", actor, reason, strategy, woken, "woken");
        self.settle(&mut state);
        self.save(state).map_err(DeskRefused::Failed)?;
        Ok(woken)
    }

    fn approve(&self, session: &str, tag: &str, actor: &str, reason: &str) -> Result<String, DeskRefused> {
        let now = self.parts.clock.now().unix.0;
        let mut state = self.lock();
        let approved = state.fleet.approve(session, tag, now)?;
        tracing::warn!(event = "approve", actor, reason, session, approved, "a change was approved");
        self.settle(&mut state);
        self.save(state).map_err(DeskRefused::Failed)?;
        Ok(approved)
    }

    fn reload(&self, actor: &str, reason: &str) -> Result<u64, DeskRefused> {
        if self.manifest.is_none() {
            return Err(DeskRefused::Conflict("no manifest is configured".to_owned()));
        }
        match self.load() {
            Ok(version) => {
                tracing::info!(event = "manifest", actor, reason, version, "a manifest was taken");
                Ok(version)
            }
            Err(why) => {
                tracing::error!(event = "manifest", actor, reason, "{why}: the one before stays in force");
                self.alert("manifest_refused", format!("{why}: the one before stays in force"));
                Err(DeskRefused::Conflict(why))
            }
        }
    }
}

impl Source for Attestor {
    fn samples(&self) -> Vec<Sample> {
        let now = self.parts.clock.now().unix.0;
        let state = self.lock();
        let fleet = &state.fleet;
        let age = fleet.taken_at().map_or(0.0, |at| now.saturating_sub(at) as f64 / 1e9);
        let version = fleet.manifest().map_or(0, |manifest| manifest.version) as f64;
        let failures = self.save_failures.load(Ordering::Relaxed) as f64;
        let refusals = self.refused.load(Ordering::Relaxed) as f64;
        let (gauge, counter) = (SampleKind::Gauge, SampleKind::Counter);
        let is = |truth: bool| f64::from(u8::from(truth));
        [
            ("haltline_attestation_on", "1 if attestation is configured.", gauge, is(fleet.is_on())),
            (
                "haltline_instances_quarantined",
                "Connected instances that something stands against: build, flag, dormancy, a change during an incident.",
                gauge,
                fleet.quarantined() as f64,
            ),
            (
                "haltline_instances_missing",
                "Instances that the manifest expects and that are not connected.",
                gauge,
                fleet.missing().len() as f64,
            ),
            (
                "haltline_dormant_parts",
                "Strategies, order paths and flags that have to be woken.",
                gauge,
                fleet.asleep(now).len() as f64,
            ),
            ("haltline_manifest_version", "Version of the manifest in force; 0: none.", gauge, version),
            ("haltline_manifest_age_seconds", "Since the manifest in force was taken; 0: none.", gauge, age),
            (
                "haltline_manifest_refused",
                "1 if the last manifest that was read was refused: the one before is in force.",
                gauge,
                is(fleet.refused().is_some()),
            ),
            ("haltline_manifest_refusals_total", "Manifests that were refused.", counter, refusals),
            ("haltline_fleet_memory_failures_total", "Times that the fleet's memory could not be written.", counter, failures),
        ]
        .map(|(name, help, kind, value)| Sample { name, help, kind, labels: vec![], value })
        .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memory_that_was_put_aside_is_lost_until_another_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        assert_eq!(read_memory(&file), Ok(Memory::default()));
        std::fs::write(beside(&file, "damaged"), "nonsense").unwrap();
        assert!(read_memory(&file).unwrap_err().contains("fleet.json was damaged, and nothing was written"));
        write_atomically(&file, &Memory::default().encode()).unwrap();
        assert_eq!(read_memory(&file), Ok(Memory::default()));
    }
}
