//! The desk: the one place where limits change while the service runs. The file, overrides and probation come together here,
//! and every change is one instruction to the engine, with the text that it is made of, so that journal, replay and the next
//! start have exactly what applied.
//!
//! ```text
//!  file ──reload──┐
//!  people ────────┼─▶ desk: configuration + overlays ──Limits{table, text}──▶ engine ─▶ journal
//!  time, breaches ┘      └─▶ overlays.json, before it loosens anything
//! ```
//!
//! What tightens is put in force even if it cannot be written down; what loosens only when it is on disk. The thread
//! `haltline-limits` ends what is over, and tries again what could not be done.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use crate::api::desk::{DeskRefused, LimitsDesk, Proposal, WouldBe};
use crate::app::config::{self, Loaded};
use crate::app::desk_file::{self, Saved};
use crate::app::desk_opening::{Opening, in_force};
use crate::duty::Clock;
use crate::engine::Instruction;
use crate::engine::published::Published;
use crate::guard::overrides::{Ask, Book, Override, State, View};
use crate::guard::ramp::{After, Begin, Counts, Moved, Probation, Probations, Steps};
use crate::kill::alerts::{Alerts, Raise};
use crate::kill::audit::{Audit, Entry};
use crate::kill::board::SessionCell;
use crate::kill::switch::Switch;
use crate::kill::words::{self, ScopeName};
use crate::limits::LimitTable;
use crate::limits::compare::{Difference, differences, looser_at};
use crate::limits::overlay::{Change, Overlay, in_effect, number, rate_of};
use crate::metrics::usage::each_usage;
use crate::metrics::{ReloadState, Sample, SampleKind, Source};
use crate::model::{Mode, Scope, Universe};
use crate::ring::bell::Bell;
use crate::units::{Now, SessionId, StrategyId};

/// How long the engine may take to accept new limits before that is called a failure: longer than a busy machine keeps it waiting, for
/// a new build whose limits it has not taken stays denied.
const HAND_OVER: Duration = Duration::from_secs(5);
/// How often the thread looks whether something is over.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// So many rejects of the venue count as one breach of a probation.
const REJECTS_PER_BREACH: u64 = 10;

/// What a desk is made of.
pub(super) struct DeskParts {
    /// The file that the service was started from.
    pub path: Option<PathBuf>,
    /// The configuration, without overlays.
    pub loaded: Loaded,
    /// What the start found.
    pub opening: Opening,
    /// The limits in effect, for whoever looks.
    pub limits: Arc<RwLock<Arc<LimitTable>>>,
    /// To the engine.
    pub commands: Sender<Instruction>,
    /// Wakes it.
    pub bell: Arc<Bell>,
    /// How the last reload went.
    pub state: Arc<ReloadState>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The modes.
    pub switch: Arc<Switch>,
    /// What the engine shows.
    pub published: Arc<Published>,
    /// For people who look.
    pub alerts: Arc<Alerts>,
    /// For the journal.
    pub audit: Arc<Audit>,
}

/// See the module.
pub(super) struct Desk {
    path: Option<PathBuf>,
    file: PathBuf,
    limits: Arc<RwLock<Arc<LimitTable>>>,
    commands: Sender<Instruction>,
    bell: Arc<Bell>,
    state: Arc<ReloadState>,
    clock: Arc<dyn Clock>,
    switch: Arc<Switch>,
    published: Arc<Published>,
    alerts: Arc<Alerts>,
    audit: Arc<Audit>,
    universe: Arc<Universe>,
    rearm: Option<config::Probation>,
    ramp: Option<config::Ramp>,
    /// Held from before the file is read until its limits are in force: who reads it later has the newer one, and is the
    /// later one to put it in force. Apart from `inner`: a file that cannot be read must not keep an override from ending.
    reloads: Mutex<()>,
    inner: Mutex<Inner>,
    shown: RwLock<Arc<Shown>>,
}

/// What changes together.
struct Inner {
    loaded: Loaded,
    book: Book,
    probations: Probations,
    /// Of the limits in force.
    generation: u32,
    /// The engine has not been told of the last change: it took no commands.
    untold: bool,
    /// What is in force is on disk.
    durable: bool,
}

/// What everybody may look at without waiting.
struct Shown {
    etag: String,
    text: Arc<str>,
    overrides: Vec<Override>,
    probations: Vec<Probation>,
    durable: bool,
}

impl Desk {
    /// The desk of a service whose engine has the limits that `parts.opening` came to, with generation
    /// `parts.loaded.limits.generation`.
    pub fn new(parts: DeskParts) -> Desk {
        let Opening { path: file, book, probations, notes, .. } = parts.opening;
        let now = parts.clock.now().unix.0;
        for note in &notes {
            tracing::warn!(event = "overlays", "{note}");
            parts.alerts.push(now, "limits", "overlays_at_start", note.clone());
            parts.audit.record(Entry::new("haltline", "override").detail(note));
        }
        let generation = parts.loaded.limits.generation;
        let inner = Inner { loaded: parts.loaded, book, probations, generation, untold: false, durable: true };
        let (_, text) = in_force(&inner.loaded, &inner.book, &inner.probations);
        let universe = inner.loaded.universe.clone();
        let (rearm, ramp) = (inner.loaded.rearm.probation, inner.loaded.ramp.clone());
        let shown = RwLock::new(Arc::new(inner.shown(&text)));
        let desk = Desk {
            path: parts.path,
            file,
            limits: parts.limits,
            commands: parts.commands,
            bell: parts.bell,
            state: parts.state,
            clock: parts.clock,
            switch: parts.switch,
            published: parts.published,
            alerts: parts.alerts,
            audit: parts.audit,
            universe,
            rearm,
            ramp,
            reloads: Mutex::new(()),
            inner: Mutex::new(inner),
            shown,
        };
        let mut inner = desk.lock();
        // What was dropped at the start must not come back at the next one.
        desk.save(&mut inner);
        desk.show(&inner);
        drop(inner);
        desk
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A change is made on copies and put in their place whole: what a panic left behind is the state before it.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shown(&self) -> Arc<Shown> {
        self.shown.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The file that the service was started from, the hash of the text that was last read from it, and the generation of the
    /// limits in force.
    pub fn configuration(&self) -> (Option<&Path>, [u8; 32], u32) {
        let inner = self.lock();
        (self.path.as_deref(), inner.loaded.hash, inner.generation)
    }

    /// Loads the limits anew: the new generation, or every violation, with the old limits still in force. Overrides go on,
    /// but for those that the file leaves no room for.
    pub fn reload(&self, actor: &str, reason: &str) -> Result<u32, Vec<String>> {
        let result = self.try_reload();
        match &result {
            Ok(generation) => {
                self.state.succeeded(self.clock.now().unix.0);
                tracing::info!(event = "reload", actor, reason, generation, "new limits are in force");
            }
            Err(violations) => {
                self.state.failed();
                for violation in violations {
                    tracing::error!(event = "reload", actor, reason, "{violation}");
                }
                tracing::error!(event = "reload", actor, reason, "the old limits stay in force");
            }
        }
        result
    }

    fn try_reload(&self) -> Result<u32, Vec<String>> {
        let Some(path) = &self.path else {
            return Err(vec!["this service was not started from a file".to_owned()]);
        };
        let _one_at_a_time = self.reloads.lock().unwrap_or_else(PoisonError::into_inner);
        let text = config::read_text(path).map_err(|error| vec![error.to_string()])?;
        let mut inner = self.lock();
        let new = successor(&inner.loaded, path, &text)?;
        self.take(&mut inner, new)
    }

    /// Puts another configuration in force, with the overlays that it leaves room for.
    fn take(&self, inner: &mut Inner, new: Loaded) -> Result<u32, Vec<String>> {
        let mut book = inner.book.clone();
        let over = book.reconcile(View {
            universe: &new.universe,
            configured: &new.limits,
            in_effect: &new.limits,
            ceilings: new.ceilings.as_ref(),
            epoch: 0,
        });
        let old = (std::mem::replace(&mut inner.loaded, new), std::mem::replace(&mut inner.book, book));
        if let Err(why) = self.put_in_force(inner) {
            (inner.loaded, inner.book) = old;
            return Err(vec![why]);
        }
        for one in &over {
            self.tell_ended(one);
        }
        if !over.is_empty() {
            self.save(inner);
            self.show(inner);
        }
        Ok(inner.generation)
    }

    /// Hands the limits of `inner` to the engine. On failure nothing has changed.
    fn put_in_force(&self, inner: &mut Inner) -> Result<(), String> {
        let (mut table, text) = in_force(&inner.loaded, &inner.book, &inner.probations);
        table.generation = inner.generation.wrapping_add(1);
        // What the engine reads is computed here, not on its thread.
        let _ = table.hot();
        let table = Arc::new(table);
        let instruction = Instruction::Limits { table: table.clone(), text };
        self.commands.send_timeout(instruction, HAND_OVER).map_err(|_| "the engine takes no commands".to_owned())?;
        self.bell.ring();
        inner.generation = table.generation;
        inner.loaded.limits.generation = table.generation;
        inner.untold = false;
        *self.limits.write().unwrap_or_else(PoisonError::into_inner) = table;
        self.show(inner);
        Ok(())
    }

    fn show(&self, inner: &Inner) {
        let (_, text) = in_force(&inner.loaded, &inner.book, &inner.probations);
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(inner.shown(&text));
    }

    /// Writes down what is in force; returns whether it could be.
    fn save(&self, inner: &mut Inner) -> bool {
        let saved = Saved::new(
            inner.book.next_id(),
            inner.book.active().cloned().collect(),
            inner.probations.iter().cloned().collect(),
        );
        // Where there is nothing and never was, there is nothing to write.
        let written = match saved.overrides.is_empty() && saved.probation.is_empty() && !self.file.exists() {
            true => Ok(()),
            false => desk_file::write(&self.file, &saved),
        };
        let was = std::mem::replace(&mut inner.durable, written.is_ok());
        // It is tried again all the time: the first failure is told, the metric shows the rest.
        if let (true, Err(error)) = (was, written) {
            tracing::error!(event = "overlays", %error, "cannot write {}", self.file.display());
        }
        inner.durable
    }

    /// Tries a change on copies of what `inner` has; it counts if it could be put in force, and, where it loosens
    /// anything, written down first.
    fn change<T>(
        &self,
        inner: &mut Inner,
        etag: Option<&str>,
        make: impl FnOnce(&mut Book, &mut Probations, &dyn Fn(Scope) -> u64) -> Result<(T, Loosens), DeskRefused>,
    ) -> Result<T, DeskRefused> {
        let now = self.shown().etag.clone();
        if etag.is_some_and(|etag| etag != now) {
            return Err(DeskRefused::Changed(now));
        }
        let old = (inner.book.clone(), inner.probations.clone());
        let epoch = |scope| self.epoch(scope);
        let made = make(&mut inner.book, &mut inner.probations, &epoch);
        let (made, loosens) = match made {
            Ok((made, loosens)) => (made, loosens),
            Err(why) => {
                // A request that turned out to be void is so from now on, and has changed no limit.
                self.show(inner);
                return Err(why);
            }
        };
        if loosens == Loosens::Something && etag.is_none() {
            (inner.book, inner.probations) = old;
            return Err(DeskRefused::NotSaid);
        }
        let before = overlays(&old.0, &old.1, &self.universe);
        if before == overlays(&inner.book, &inner.probations, &self.universe) {
            self.show(inner);
            return Ok(made);
        }
        let written = self.save(inner);
        let looser = {
            let before = in_effect(&inner.loaded.limits, &self.universe, &before);
            let (after, _) = in_force(&inner.loaded, &inner.book, &inner.probations);
            looser_at(&self.universe, &before, &after).is_some()
        };
        let done = match looser && !written {
            true => Err(format!("{} cannot be written", self.file.display())),
            false => self.put_in_force(inner),
        };
        if let Err(why) = done {
            (inner.book, inner.probations) = old;
            self.save(inner);
            self.show(inner);
            return Err(DeskRefused::Failed(why));
        }
        Ok(made)
    }

    /// A number that any halt or re-arm of what concerns `scope` changes: epochs only grow, and a re-arm changes the mode.
    fn epoch(&self, scope: Scope) -> u64 {
        let own = match scope {
            Scope::Pair(strategy, _) => Scope::Strategy(strategy),
            other => other,
        };
        let account = match own {
            Scope::Strategy(s) => self.universe.strategies.get(usize::from(s.0)).map(|s| Scope::Account(s.account)),
            _ => None,
        };
        let concerned = [Some(Scope::Firm), Some(own), account].into_iter().flatten();
        let word = |scope| self.universe.slot(scope).map(|slot| self.switch.page().get(slot));
        concerned.filter_map(word).map(|word| word.epoch.wrapping_mul(4) + word.mode as u64).fold(0, u64::wrapping_add)
    }

    /// Ends what is over, moves who is on probation, and does again what could not be done. `haltline-limits` calls this.
    pub fn look(&self) {
        let now = self.clock.now();
        let mut inner = self.lock();
        let before = overlays(&inner.book, &inner.probations, &self.universe);
        let over = inner.book.expire(now);
        let moved = inner.probations.look(|scope| self.counts(scope), now);
        let changed = before != overlays(&inner.book, &inner.probations, &self.universe);
        for one in &over {
            self.tell_ended(one);
        }
        for (one, how) in &moved {
            self.tell_moved(one, *how);
        }
        if changed || !moved.is_empty() || !inner.durable {
            self.save(&mut inner);
        }
        if changed || inner.untold {
            inner.untold = true;
            if let Err(why) = self.put_in_force(&mut inner) {
                tracing::error!(event = "overlays", "{why}: what is over is still in force");
            }
        } else if !over.is_empty() || !moved.is_empty() {
            self.show(&inner);
        }
    }

    /// What a scope has done since the start.
    fn counts(&self, scope: &ScopeName) -> Counts {
        let Some(scope) = scope.find(&self.universe) else { return Counts::default() };
        let halted = may_not_trade(&self.switch, scope);
        if let Scope::Session(session) = scope
            && let Some(flow) = self.published.sessions.get(usize::from(session.0))
        {
            let breaches = flow.breaches.get() + flow.rejects.get() / REJECTS_PER_BREACH;
            return Counts { admitted: flow.admitted.get(), breaches, halted };
        }
        let breaches = self.universe.slot(scope).and_then(|slot| self.published.breaches.get(slot));
        Counts { admitted: 0, breaches: breaches.map_or(0, |counter| counter.get()), halted }
    }

    /// Each change of limits is an event of its own.
    fn tell(&self, name: &str, scope: &ScopeName, text: &str) {
        self.alerts.raise(Raise::new(self.clock.now().unix.0, "limits", name, text).on(scope.clone()).afresh());
    }

    fn tell_ended(&self, one: &Override) {
        let State::Ended(how) = &one.state else { return };
        let text =
            format!("override {} of {} at {} by {} is over: {}", one.id, one.rule, one.scope, one.by, how.name());
        tracing::warn!(event = "override", "{text}");
        self.tell("override_ended", &one.scope, &text);
        self.audit.record(Entry::new("haltline", "override_end").on(one.scope.clone()).detail(text));
    }

    fn tell_begun(&self, one: &Override) {
        if !one.is_active() {
            return;
        }
        let number = |n| one.place(&self.universe).map(|p| words::value(&self.universe, p.rule, p.scope, n));
        let (to, from) = (number(one.value).unwrap_or_default(), number(one.configured).unwrap_or_default());
        let text = format!(
            "override {} by {}: {} at {} is {to} instead of {from} until {}: {}",
            one.id,
            one.by,
            one.rule,
            one.scope,
            words::rfc3339(one.until),
            one.reason
        );
        tracing::warn!(event = "override", "{text}");
        self.tell("override_begun", &one.scope, &text);
    }

    fn tell_moved(&self, one: &Probation, how: Moved) {
        let percent = f64::from(one.fraction_bps()) / 100.0;
        let text = match how {
            Moved::Stays => return,
            Moved::Up => format!("{} goes up to {percent}% of its limits, after {}", one.scope, one.after),
            Moved::Back => format!("{} goes back to {percent}% of its limits: it was not clean", one.scope),
            Moved::Over => format!("{} has all of its limits again: it was clean after {}", one.scope, one.after),
        };
        tracing::warn!(event = "probation", "{text}");
        self.tell("probation", &one.scope, &text);
        self.audit.record(Entry::new("haltline", "probation").on(one.scope.clone()).detail(text));
    }
}

/// Whether a caller asked for something that loosens a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loosens {
    Something,
    Nothing,
}

impl Inner {
    fn shown(&self, text: &str) -> Shown {
        Shown {
            etag: blake3::hash(text.as_bytes()).to_hex()[..32].to_owned(),
            text: self.loaded.text.clone(),
            overrides: self.book.iter().cloned().collect(),
            probations: self.probations.iter().cloned().collect(),
            durable: self.durable,
        }
    }
}

fn overlays(book: &Book, probations: &Probations, universe: &Universe) -> Vec<Overlay> {
    let overrides = book.overlays(universe).into_iter().map(|(overlay, _)| overlay);
    overrides.chain(probations.overlays(universe)).collect()
}

/// `text` as a successor of `old`, or what is wrong with it, line by line.
fn successor(old: &Loaded, path: &Path, text: &str) -> Result<Loaded, Vec<String>> {
    let file = path.display().to_string();
    config::reload(old, &file, text).map_err(|found| {
        let line =
            |v: &config::Violation| format!("{file}:{}:{}: {} = {}: {}", v.line, v.column, v.field, v.value, v.rule);
        found.list.iter().map(line).collect::<Vec<_>>()
    })
}

impl LimitsDesk for Desk {
    fn etag(&self) -> String {
        self.shown().etag.clone()
    }

    fn overrides(&self) -> Vec<Override> {
        self.shown().overrides.clone()
    }

    fn probations(&self) -> Vec<Probation> {
        // With their progress, which is no change of limits; who looks does not wait for one that is being made.
        match self.inner.try_lock() {
            Ok(inner) => inner.probations.iter().cloned().collect(),
            Err(_) => self.shown().probations.clone(),
        }
    }

    fn is_durable(&self) -> bool {
        self.shown().durable
    }

    fn ask(&self, ask: &Ask, etag: Option<&str>) -> Result<Override, DeskRefused> {
        self.look();
        let mut inner = self.lock();
        let now = self.clock.now();
        let loaded = inner.loaded.clone();
        let in_effect = self.limits.read().unwrap_or_else(PoisonError::into_inner).clone();
        let one = self.change(&mut inner, etag, |book, _, epoch| {
            let one = book.ask(ask, view(&loaded, &in_effect, epoch(ask.place.scope)), now);
            let one = one.map_err(DeskRefused::Override)?;
            let loosens = if one.raises { Loosens::Something } else { Loosens::Nothing };
            Ok((one, loosens))
        })?;
        drop(inner);
        self.tell_begun(&one);
        Ok(one)
    }

    fn agree(&self, id: u64, actor: &str, reason: &str) -> Result<Override, DeskRefused> {
        let one = self.decide(id, |book, view, now| book.agree(id, actor, reason, view, now))?;
        self.tell_begun(&one);
        self.tell_ended(&one);
        Ok(one)
    }

    fn remove(&self, id: u64, actor: &str, reason: &str) -> Result<Override, DeskRefused> {
        let one = self.decide(id, |book, view, now| book.remove(id, actor, reason, view, now))?;
        self.tell_ended(&one);
        Ok(one)
    }

    fn promote(&self, scope: &ScopeName, actor: &str, reason: &str) -> Result<Vec<Probation>, DeskRefused> {
        if reason.trim().is_empty() {
            return Err(DeskRefused::Override(crate::guard::overrides::Refused::NoReason));
        }
        let mut inner = self.lock();
        let over = self.change(&mut inner, None, |_, probations, _| {
            let over = probations.promote(scope);
            match over.is_empty() {
                true => Err(DeskRefused::NotOnProbation(format!("{scope} is not on probation"))),
                false => Ok((over, Loosens::Nothing)),
            }
        })?;
        drop(inner);
        let text = format!("{actor} promoted {scope}: it has all of its limits again");
        tracing::warn!(event = "probation", reason, "{text}");
        self.tell("probation", scope, &text);
        Ok(over)
    }

    fn has_probation(&self) -> bool {
        self.rearm.is_some()
    }

    fn before_rearm(&self, scope: Scope, epoch: u64, actor: &str) -> Result<(), String> {
        let Some(probation) = self.rearm else { return Ok(()) };
        let steps = Steps {
            bps: vec![probation.fraction_bps],
            clean_ns: u64::try_from(probation.clean_for.as_nanos()).unwrap_or(u64::MAX),
            clean_volume: 0,
        };
        self.put_on_probation(scope, After::Rearm(epoch), steps, actor)
    }

    fn what_if(&self, proposal: &Proposal) -> Result<Vec<WouldBe>, DeskRefused> {
        let inner = self.lock();
        let (loaded, probations, book) = (inner.loaded.clone(), inner.probations.clone(), inner.book.clone());
        drop(inner);
        let in_force = self.limits.read().unwrap_or_else(PoisonError::into_inner).clone();
        let over = overlays(&book, &probations, &self.universe);
        let would_be = match proposal {
            Proposal::Numbers(numbers) => {
                let mut over = over;
                for (place, value) in numbers {
                    let limits = loaded.limits.scope(&self.universe, place.scope);
                    let known = limits.and_then(|limits| number(limits, place.rule, place.window_ns));
                    let applies = crate::model::rule::applies(place.rule, place.scope.kind());
                    if known.is_none() || !applies {
                        return Err(DeskRefused::Override(crate::guard::overrides::Refused::NoSuchLimit));
                    }
                    let change = Change::Set { rule: place.rule, window_ns: place.window_ns, value: *value };
                    over.push(Overlay { id: 0, scope: place.scope, change });
                }
                in_effect(&loaded.limits, &self.universe, &over)
            }
            Proposal::Text(text) => {
                let path = self.path.clone().unwrap_or_else(|| PathBuf::from("the text"));
                let new = successor(&loaded, &path, text).map_err(DeskRefused::Violations)?;
                in_effect(&new.limits, &self.universe, &over)
            }
        };
        let found = differences(&self.universe, &in_force, &would_be);
        Ok(found.into_iter().map(|d| WouldBe { difference: d, observed: self.observed(&in_force, &d) }).collect())
    }

    fn text(&self) -> String {
        self.shown().text.to_string()
    }

    fn replace(&self, text: &str, actor: &str, reason: &str, etag: Option<&str>) -> Result<u32, DeskRefused> {
        let etag = etag.ok_or(DeskRefused::NotSaid)?;
        let _one_at_a_time = self.reloads.lock().unwrap_or_else(PoisonError::into_inner);
        let mut inner = self.lock();
        let now = self.shown().etag.clone();
        if etag != now {
            return Err(DeskRefused::Changed(now));
        }
        let path = match (&self.path, inner.loaded.limits_api.write) {
            (Some(path), true) => path,
            _ => {
                let why = "this service does not write its configuration file (limits_api.write is not set): deploy the \
                           text and reload, or use an override";
                return Err(DeskRefused::NotThisWay(why.to_owned()));
            }
        };
        // Somebody else may have edited the file since it was loaded: that would be lost.
        let on_disk = config::read_text(path).map_err(|error| DeskRefused::Failed(error.to_string()))?;
        if *on_disk != *inner.loaded.text {
            let why = format!("{} was changed since it was loaded: reload it first", path.display());
            return Err(DeskRefused::NotThisWay(why));
        }
        let new = successor(&inner.loaded, path, text).map_err(DeskRefused::Violations)?;
        if let Some(scope) = looser_at(&self.universe, &inner.loaded.limits, &new.limits)
            && !inner.loaded.auth.two_person_rearm.is_empty()
        {
            let why = format!(
                "it loosens something at {}, for which one person does not suffice: ask for an override, or deploy the file",
                ScopeName::of(&self.universe, scope)
            );
            return Err(DeskRefused::NotThisWay(why));
        }
        let old = inner.loaded.clone();
        let generation = self.take(&mut inner, new).map_err(|why| DeskRefused::Failed(why.join("; ")))?;
        if let Err(error) = desk_file::replace(path, text.as_bytes(), 0o600) {
            let why = format!("{} cannot be written: {error}", path.display());
            return Err(DeskRefused::Failed(match self.take(&mut inner, old) {
                Ok(_) => why,
                Err(more) => format!("{why}; and the limits before are not in force again: {}", more.join("; ")),
            }));
        }
        drop(inner);
        self.state.succeeded(self.clock.now().unix.0);
        tracing::warn!(event = "limits", actor, reason, generation, "the configuration file was written");
        Ok(generation)
    }
}

/// Whether anything keeps `scope` from trading that is known of it: nothing is earned by waiting.
fn may_not_trade(switch: &Switch, scope: Scope) -> bool {
    let universe = switch.universe();
    let raised = |scope| universe.slot(scope).is_some_and(|slot| switch.page().get(slot).mode != Mode::Normal);
    let strategy = |id: StrategyId| {
        let account = universe.strategies.get(usize::from(id.0)).map(|spec| Scope::Account(spec.account));
        raised(Scope::Strategy(id)) || account.is_some_and(raised)
    };
    let stopped = match scope {
        Scope::Firm | Scope::Account(_) | Scope::Instrument(_) => raised(scope),
        Scope::Strategy(id) => strategy(id),
        Scope::Pair(id, instrument) => strategy(id) || raised(Scope::Instrument(instrument)),
        Scope::Session(session) => {
            let view = switch.board().cell(usize::from(session.0)).map(SessionCell::view);
            raised(scope) || !view.is_some_and(|view| view.connected || view.by_gate)
        }
    };
    stopped || raised(Scope::Firm)
}

fn view<'a>(loaded: &'a Loaded, in_effect: &'a LimitTable, epoch: u64) -> View<'a> {
    let (universe, configured, ceilings) = (&*loaded.universe, &loaded.limits, loaded.ceilings.as_ref());
    View { universe, configured, in_effect, ceilings, epoch }
}

impl Desk {
    /// Puts a scope on probation; when this returns the engine judges by it.
    fn put_on_probation(&self, scope: Scope, after: After, steps: Steps, actor: &str) -> Result<(), String> {
        let mut inner = self.lock();
        let (now, name) = (self.clock.now(), ScopeName::of(&self.universe, scope));
        let text = format!("{name} may use {}% of its limits, after {after}", f64::from(steps.bps[0]) / 100.0);
        let begin = Begin { by: actor, now, counts: Some(self.counts(&name)) };
        let done = self.change(&mut inner, None, |book, probations, _| {
            let id = book.take_id();
            match probations.begin(id, name.clone(), after, steps, begin) {
                true => Ok(((), Loosens::Nothing)),
                false => Err(DeskRefused::Failed("too many scopes are on probation".to_owned())),
            }
        });
        done.map_err(|why| match why {
            DeskRefused::Failed(why) => why,
            other => format!("{other:?}"),
        })?;
        let generation = u64::from(inner.generation);
        drop(inner);
        self.tell("probation", &name, &text);
        self.audit.record(Entry::new(actor, "probation").on(name).detail(text));
        let begin = Instant::now();
        while self.published.limits_generation.get() < generation {
            if begin.elapsed() > HAND_OVER {
                return Err("the engine has not taken the limits of the probation".to_owned());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }

    /// A new build runs in a session: where a ramp is configured it begins at its first step. [`LimitsDesk`]'s callers need
    /// not know of it.
    ///
    /// # Errors
    /// Why it could not be done: the session has to stay denied.
    pub fn new_build(&self, session: SessionId, build: &str) -> Result<(), String> {
        let Some(ramp) = &self.ramp else { return Ok(()) };
        let steps = Steps {
            bps: ramp.steps_bps.clone(),
            clean_ns: u64::try_from(ramp.clean_for.as_nanos()).unwrap_or(u64::MAX),
            clean_volume: ramp.clean_volume,
        };
        self.put_on_probation(Scope::Session(session), After::Build(build.to_owned()), steps, "haltline")
    }

    /// What a second person and somebody who takes an override back have in common. Both name the override that they mean,
    /// whose number says what they looked at.
    fn decide(
        &self,
        id: u64,
        call: impl FnOnce(&mut Book, View<'_>, Now) -> Result<Override, crate::guard::overrides::Refused>,
    ) -> Result<Override, DeskRefused> {
        self.look();
        let mut inner = self.lock();
        let now = self.clock.now();
        let loaded = inner.loaded.clone();
        let in_effect = self.limits.read().unwrap_or_else(PoisonError::into_inner).clone();
        self.change(&mut inner, None, |book, _, epoch| {
            let scope = book.get(id).and_then(|o| o.scope.find(&loaded.universe)).unwrap_or(Scope::Firm);
            let one = call(book, view(&loaded, &in_effect, epoch(scope)), now).map_err(DeskRefused::Override)?;
            Ok((one, Loosens::Nothing))
        })
    }

    /// What is in use of a limit in the unit of its rule.
    fn observed(&self, in_force: &LimitTable, d: &Difference) -> Option<i64> {
        // Rates are matched by position, which only means something under the same limits.
        let shown = self.published.limits_generation.get() == u64::from(in_force.generation);
        if rate_of(d.rule).is_some() && !shown {
            return None;
        }
        let view = self.universe.slot(d.scope).and_then(|slot| self.published.scope(slot));
        let mut found = None;
        each_usage(&self.universe, in_force, d.scope, view.as_ref(), |usage| {
            let window = usage.rate.map(|rate| rate.window_ns);
            if usage.rule == d.rule && window == d.window_ns {
                found = usage.observed;
            }
        });
        found
    }
}

impl Source for Desk {
    fn samples(&self) -> Vec<Sample> {
        let shown = self.shown();
        let gauge = |name, help, value: usize| Sample {
            name,
            help,
            kind: SampleKind::Gauge,
            labels: Vec::new(),
            value: value as f64,
        };
        let active = shown.overrides.iter().filter(|o| o.is_active());
        let raises = active.clone().filter(|o| o.raises).count();
        let pending = shown.overrides.iter().filter(|o| o.state == State::Pending).count();
        vec![
            gauge("haltline_overrides_active", "Limits that have another number for a while.", active.count()),
            gauge("haltline_overrides_raising", "Active overrides that raise a limit.", raises),
            gauge("haltline_overrides_pending", "Overrides that wait for a second person.", pending),
            gauge("haltline_probations", "Scopes that may use a fraction of their limits.", shown.probations.len()),
            gauge(
                "haltline_overlays_durable",
                "1 if overrides and probation would be the same after a restart.",
                usize::from(shown.durable),
            ),
        ]
    }
}

/// Runs until `stop`.
pub(super) fn run(desk: &Desk, stop: &Receiver<()>) {
    loop {
        match stop.recv_timeout(LOOK_EVERY) {
            Err(RecvTimeoutError::Timeout) => desk.look(),
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kill::switch::Stop;
    use crate::kill::testing::{TestClock, switch};

    #[test]
    fn a_halted_account_or_a_session_that_is_not_there_earns_nothing() {
        let clock = TestClock::new();
        let (switch, _jobs) = switch(clock.clone());
        let (alpha, session) = (Scope::Strategy(StrategyId(0)), Scope::Session(SessionId(0)));
        assert!(!may_not_trade(&switch, alpha));
        let cell = switch.board().cell(0).unwrap();
        assert!(may_not_trade(&switch, session), "it is not connected");
        cell.set_by_gate(true);
        assert!(!may_not_trade(&switch, session));
        cell.set_by_gate(false);
        cell.set_connected(true);
        assert!(!may_not_trade(&switch, session));
        let account = Scope::Account(switch.universe().strategies[0].account);
        switch.press(account, Stop::Halted, "olaf", "x", clock.now()).unwrap();
        assert!(may_not_trade(&switch, alpha), "its account is halted");
        assert!(!may_not_trade(&switch, session), "it may trade for others");
        switch.press(Scope::Firm, Stop::Halted, "olaf", "x", clock.now()).unwrap();
        assert!(may_not_trade(&switch, session));
    }
}
