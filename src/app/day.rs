//! The day's open: with `[guard] preflight_required` the firm is halted at the beginning of every day, and cannot be re-armed
//! while the preflight page has a line that fails.
//!
//! ```text
//!  the day begins, or a start that does not know of an open ─▶ firm halted, held ──┬─ a line fails ─▶ held for that reason
//!                                          ▲                                       └─ none does ───▶ not held any more
//!                                          └──────── the next day ◀── open ◀── re-armed by persons ──┘
//! ```
//!
//! It is a halt like any other, latched and with its cause, and persons lift it as the configuration asks for: that the page has no
//! fault opens nothing by itself. Two things are particular: it is no incident to the interlock, since the builds of the day
//! come in while it stands, and it is no fault on the page. Of another day nothing is known that holds for this one, so
//! what is lost or damaged halts once more.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::alert::store::{self, Found};
use crate::app::preflight::is_dormant;
use crate::duty::Clock;
use crate::guard::preflight::{Check, Outcome};
use crate::kill::audit::{Audit, Entry};
use crate::kill::switch::{Halt, Stop, Switch};
use crate::kill::words::{ScopeName, rfc3339};
use crate::metrics::{Sample, SampleKind, Source};
use crate::model::{Mode, Scope};

/// Who halts: the actor of its cause, and the holder of its hold.
pub(super) const ACTOR: &str = "preflight";
/// The file in the state directory.
const FILE: &str = "day.json";
const DAY_NS: u64 = 86_400_000_000_000;
/// The line of the page about halts: that of the firm is what is to be lifted, the others are looked at here.
const HALTS: &str = "halts";

/// What it is made of.
pub(super) struct DayParts {
    pub switch: Arc<Switch>,
    pub clock: Arc<dyn Clock>,
    pub audit: Arc<Audit>,
    /// When a day begins: ns after midnight, UTC.
    pub begins_ns: u64,
    pub state_dir: PathBuf,
}

/// What is kept over a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Day {
    /// Days since 1970, each from its beginning; `None`: never looked.
    day: Option<u64>,
    /// When the firm was seen to be re-armed on it, Unix ns.
    opened: Option<u64>,
}

/// See the module. Any thread.
pub(super) struct DayOpen {
    parts: DayParts,
    file: PathBuf,
    state: Mutex<Day>,
}

impl DayOpen {
    /// Halts the firm if this day is not known to be open. Before anybody is let in.
    pub fn new(parts: DayParts) -> DayOpen {
        let file = parts.state_dir.join(FILE);
        let kept = match store::load::<Day>(&file) {
            Found::Intact(kept) => *kept,
            Found::None => Day::default(),
            Found::Damaged(why) => {
                tracing::error!(event = "day", "{why}: the day has to be opened again");
                Day::default()
            }
        };
        let day = DayOpen { parts, file, state: Mutex::new(kept) };
        let now = day.parts.clock.now();
        let mut state = day.lock();
        // A halt that was not latched before a crash is none: only what is seen to be re-armed in a run has been.
        if state.day != Some(day.day_of(now.unix.0)) || (state.opened.is_none() && !day.is_halted()) {
            day.shut(&mut state);
        } else if state.opened.is_none() {
            day.hold(Some("the preflight was not looked at yet".to_owned()));
        }
        drop(state);
        day
    }

    /// Looks whether another day has begun, or this one was opened. `page` makes the lines of the preflight page.
    pub fn look(&self, page: impl FnOnce() -> Vec<Check>) {
        let now = self.parts.clock.now().unix.0;
        let mut state = self.lock();
        if state.day != Some(self.day_of(now)) {
            self.shut(&mut state);
        }
        if state.opened.is_some() {
            return;
        }
        if !self.is_halted() {
            state.opened = Some(now);
            self.hold(None);
            self.save(*state);
            tracing::warn!(event = "day", "the day is open");
            let entry = Entry::new("haltline", "open").on(self.firm());
            self.parts.audit.record(entry.detail("the firm was re-armed with a preflight that passes"));
            return;
        }
        drop(state);
        // Without the lock: files are read. Only this thread looks, so nothing comes in between.
        let faults = self.faults(&page());
        self.hold((!faults.is_empty()).then(|| format!("the preflight does not pass: {}", faults.join("; "))));
    }

    /// The line of the page.
    pub fn check(&self) -> Check {
        match self.lock().opened {
            Some(at) => Check::of("open", &[], format!("the day was opened {}", rfc3339(at))),
            None => Check::note("open", "the firm is halted for the day: re-arm it when nothing fails on this page"),
        }
    }

    /// Whether `halt` is the day's, and nobody else's.
    pub fn is_own(&self, halt: &Halt) -> bool {
        self.lock().opened.is_none() && is_of_the_day(halt)
    }

    fn shut(&self, state: &mut Day) {
        let now = self.parts.clock.now();
        // First: what is raised below can then not be re-armed in between.
        self.hold(Some("the preflight of this day was not looked at yet".to_owned()));
        let day = self.day_of(now.unix.0);
        let begun = rfc3339(day.saturating_mul(DAY_NS).saturating_add(self.parts.begins_ns));
        let reason = format!("the day from {begun} on is not open yet: haltline preflight, then re-arm");
        // The firm can be halted. One that is halted for a day that was never opened is so already: once a day a cause that
        // says nothing new would only crowd out those that do.
        if !self.is_halted_for_a_day()
            && let Ok(receipt) = self.parts.switch.press(Scope::Firm, Stop::Halted, ACTOR, &reason, now)
        {
            let detail = format!("mode halted, epoch {}, receipt {}", receipt.word.epoch, receipt.id);
            self.parts.audit.record(Entry::new(ACTOR, "kill").on(self.firm()).because(&reason).detail(detail));
        }
        tracing::warn!(event = "day", "{reason}");
        *state = Day { day: Some(day), opened: None };
        self.save(*state);
    }

    /// What of the page keeps the firm from being re-armed.
    fn faults(&self, page: &[Check]) -> Vec<String> {
        let failed = page.iter().filter(|check| check.outcome >= Outcome::Fail && check.name != HALTS);
        let mut faults: Vec<String> = failed.map(|check| format!("{}: {}", check.name, check.text)).collect();
        let universe = self.parts.switch.universe();
        let halts = self.parts.switch.halts();
        let others = halts.iter().filter(|halt| halt.scope != Scope::Firm && !is_dormant(halt));
        faults.extend(others.map(|halt| format!("{} is halted", ScopeName::of(universe, halt.scope))));
        if page.is_empty() {
            faults.push("there is no page".to_owned());
        }
        faults
    }

    fn hold(&self, why: Option<String>) {
        let holds = why.into_iter().map(|why| (Scope::Firm, why)).collect();
        self.parts.switch.hold_because(ACTOR, holds);
    }

    /// What cannot be written is lost with the process: then the day has to be opened again.
    fn save(&self, state: Day) {
        if let Err(error) = store::save(&self.file, &state) {
            tracing::error!(event = "day", %error, "{} cannot be written: a restart would halt the firm", self.file.display());
        }
    }

    fn day_of(&self, unix: u64) -> u64 {
        unix.saturating_sub(self.parts.begins_ns) / DAY_NS
    }

    fn is_halted(&self) -> bool {
        let firm = self.parts.switch.universe().slot(Scope::Firm);
        firm.is_some_and(|slot| self.parts.switch.page().get(slot).mode != Mode::Normal)
    }

    fn is_halted_for_a_day(&self) -> bool {
        let halts = self.parts.switch.halts();
        let mut firm = halts.iter().filter(|halt| halt.scope == Scope::Firm && halt.word.mode == Mode::Halted);
        firm.any(|halt| halt.causes.iter().any(|cause| cause.actor == ACTOR))
    }

    fn firm(&self) -> ScopeName {
        ScopeName::of(self.parts.switch.universe(), Scope::Firm)
    }

    fn lock(&self) -> MutexGuard<'_, Day> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether nobody but the day's begin has halted the firm.
pub(super) fn is_of_the_day(halt: &Halt) -> bool {
    halt.scope == Scope::Firm && !halt.causes.is_empty() && halt.causes.iter().all(|cause| cause.actor == ACTOR)
}

impl Source for DayOpen {
    fn samples(&self) -> Vec<Sample> {
        let open = f64::from(u8::from(self.lock().opened.is_some()));
        let help = "1 if the firm was re-armed since the day began; only with a required preflight.";
        vec![Sample { name: "haltline_day_open", help, kind: SampleKind::Gauge, labels: vec![], value: open }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kill::testing::{TestClock, switch};
    use crate::units::StrategyId;

    const HOUR: u64 = 3_600_000_000_000;

    struct World {
        dir: tempfile::TempDir,
        clock: Arc<TestClock>,
        switch: Arc<Switch>,
    }

    impl World {
        fn new() -> World {
            let clock = TestClock::new();
            let (switch, _jobs) = switch(clock.clone());
            World { dir: tempfile::tempdir().unwrap(), clock, switch: Arc::new(switch) }
        }

        /// A day that begins so long before now.
        fn start(&self, since: u64) -> DayOpen {
            DayOpen::new(DayParts {
                switch: self.switch.clone(),
                clock: self.clock.clone(),
                audit: Arc::new(Audit::new(None, self.clock.clone())),
                begins_ns: (self.clock.now().unix.0 - since) % DAY_NS,
                state_dir: self.dir.path().to_owned(),
            })
        }

        fn mode(&self) -> Mode {
            let page = self.switch.page();
            page.get(self.switch.universe().slot(Scope::Firm).unwrap()).mode
        }

        fn rearm(&self) -> Result<(), String> {
            let halts = self.switch.halts();
            let epoch = halts.iter().find(|halt| halt.scope == Scope::Firm).unwrap().word.epoch;
            let now = self.clock.now();
            let asked =
                self.switch.ask_rearm(Scope::Firm, epoch, "rita", "opens", now).map_err(|e| format!("{e:?}"))?;
            if self.mode() != Mode::Normal {
                self.switch.agree_rearm(asked.id, "ruth", "opens", now).map_err(|e| format!("{e:?}"))?;
            }
            Ok(())
        }
    }

    fn good() -> Vec<Check> {
        vec![Check::of("builds", &[], "all"), Check::of(HALTS, &["firm is halted".to_owned()], "")]
    }

    fn bad() -> Vec<Check> {
        vec![Check::of("alerts", &["7 has no answer".to_owned()], "")]
    }

    #[test]
    fn a_day_begins_halted_and_is_rearmed_only_while_the_page_passes() {
        let world = World::new();
        let day = world.start(HOUR);
        assert_eq!(world.mode(), Mode::Halted);
        assert!(world.rearm().unwrap_err().contains("not looked at yet"));
        day.look(bad);
        assert!(world.rearm().unwrap_err().contains("7 has no answer"));
        assert!(day.is_own(&world.switch.halts()[0]));
        day.look(Vec::new);
        assert!(world.rearm().unwrap_err().contains("no page"));
        // What else is halted keeps the day shut, what else halts the firm does not: it is what is lifted.
        let gw = world.switch.universe().session("gw-1").unwrap();
        world.switch.press(Scope::Session(gw), Stop::Halted, "olaf", "x", world.clock.now()).unwrap();
        world.switch.press(Scope::Firm, Stop::Halted, "olaf", "x", world.clock.now()).unwrap();
        assert!(!day.is_own(&world.switch.halts()[0]), "it is olaf's as well");
        day.look(good);
        assert!(world.rearm().unwrap_err().contains("session gw-1 is halted"));
        let slot = world.switch.universe().slot(Scope::Session(gw)).unwrap();
        world.switch.page().lower(slot, world.switch.page().get(slot).epoch).unwrap();
        day.look(good);
        world.rearm().unwrap();
        day.look(|| panic!("nobody asks any more"));
        assert_eq!(day.check().outcome, Outcome::Pass);
        // Later on nothing of the page counts for a halt of the firm.
        world.switch.press(Scope::Firm, Stop::Halted, "olaf", "x", world.clock.now()).unwrap();
        day.look(bad);
        world.rearm().unwrap();
    }

    #[test]
    fn every_day_begins_anew_and_a_restart_on_the_same_does_not() {
        let world = World::new();
        let day = world.start(HOUR);
        day.look(good);
        world.rearm().unwrap();
        day.look(good);
        world.clock.advance(22 * HOUR);
        day.look(bad);
        assert_eq!(world.mode(), Mode::Normal);
        drop(day);
        let begun = 23 * HOUR;
        let day = world.start(begun);
        assert_eq!(world.mode(), Mode::Normal, "opened before the restart");
        world.clock.advance(HOUR);
        day.look(bad);
        assert_eq!(world.mode(), Mode::Halted);
        // Not latched before a crash: the page of the next run is not raised, and nobody has opened anything.
        let slot = world.switch.universe().slot(Scope::Firm).unwrap();
        world.switch.page().lower(slot, world.switch.page().get(slot).epoch).unwrap();
        drop(day);
        drop(world.start(24 * HOUR));
        assert_eq!(world.mode(), Mode::Halted);
    }

    #[test]
    fn days_that_nobody_opens_halt_once_and_hold_every_day() {
        let world = World::new();
        let day = world.start(HOUR);
        world.switch.press(Scope::Firm, Stop::Halted, "olaf", "runaway", world.clock.now()).unwrap();
        day.look(good);
        for _ in 0..9 {
            world.clock.advance(24 * HOUR);
            day.look(bad);
            assert!(world.rearm().unwrap_err().contains("7 has no answer"));
        }
        let halts = world.switch.halts();
        let actors: Vec<&str> = halts[0].causes.iter().map(|cause| cause.actor.as_str()).collect();
        assert_eq!(actors, [ACTOR, "olaf"]);
    }

    #[test]
    fn a_restart_before_the_open_looks_at_the_page_before_anybody_rearms() {
        let world = World::new();
        drop(world.start(HOUR));
        // The hold goes with the process.
        world.switch.hold_because(ACTOR, Vec::new());
        let day = world.start(HOUR);
        assert!(world.rearm().unwrap_err().contains("not looked at yet"));
        day.look(good);
        world.rearm().unwrap();
    }

    #[test]
    fn a_strategy_that_is_dormant_keeps_no_day_shut_and_one_that_a_person_halted_does() {
        for (actor, opens) in [(crate::app::attest::ACTOR, true), ("olaf", false)] {
            let world = World::new();
            let day = world.start(HOUR);
            let alpha = Scope::Strategy(StrategyId(0));
            world.switch.press(alpha, Stop::Halted, actor, "it is dormant", world.clock.now()).unwrap();
            day.look(good);
            assert_eq!(world.rearm().is_ok(), opens, "{actor}");
        }
    }

    #[test]
    fn what_is_not_known_of_the_day_halts_once_more() {
        let world = World::new();
        let day = world.start(HOUR);
        day.look(good);
        world.rearm().unwrap();
        day.look(good);
        drop(day);
        std::fs::write(world.dir.path().join(FILE), "nonsense").unwrap();
        let day = world.start(HOUR);
        assert_eq!(world.mode(), Mode::Halted);
        assert!(world.rearm().unwrap_err().contains("preflight"));
        drop(day);
    }
}
