//! The thread `haltline-guard`: feeds texts and rates to [`Watch`], halts whom it names, keeps what it has learned.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use crate::alert::store::{self, Found};
use crate::duty::Clock;
use crate::engine::published::Published;
use crate::guard::peers::Counts;
use crate::guard::signatures::Text;
use crate::guard::watch::{MustStop, SavedWatch, Watch};
use crate::kill::alerts::{Alerts, Raise};
use crate::kill::audit::{Audit, Entry};
use crate::kill::board::SessionCell;
use crate::kill::switch::{Stop, Switch};
use crate::kill::words::ScopeName;
use crate::metrics::{Sample, SampleKind, Source};
use crate::model::{Mode, Scope};
use crate::units::SessionId;

/// Texts that may wait for the thread.
pub(super) const TEXTS: usize = 4_096;
/// How often rates are taken.
const SAMPLE_EVERY: Duration = Duration::from_millis(250);
/// How often what was learned is written down.
const SAVE_EVERY: Duration = Duration::from_secs(60);
/// Texts looked at before the time is looked at again.
const BATCH: usize = 1_024;

/// What the thread works with.
pub(super) struct GuardParts {
    pub watch: Arc<Watch>,
    pub texts: Receiver<Text>,
    pub published: Arc<Published>,
    pub alerts: Arc<Alerts>,
    pub switch: Arc<Switch>,
    pub audit: Arc<Audit>,
    pub clock: Arc<dyn Clock>,
    /// Where what was learned is kept.
    pub path: PathBuf,
}

/// Puts what an earlier run learned into `watch`. If that is damaged there is an alert, and it is learned anew.
pub(super) fn restore(watch: &Watch, alerts: &Alerts, path: &Path, now_unix: u64) {
    match store::load::<SavedWatch>(path) {
        Found::None => {}
        Found::Intact(saved) => watch.restore(*saved),
        Found::Damaged(why) => {
            tracing::error!(event = "guard", "{why}");
            let text = format!("what texts and rates are usual is learned anew: {why}");
            alerts.raise(Raise::new(now_unix, "guard", "baseline_lost", text).critical());
        }
    }
}

/// Loops until `stop`, then writes down what was learned.
pub(super) fn run(parts: &GuardParts, stop: &AtomicBool) {
    let mut stopped: Vec<SessionId> = Vec::new();
    let (mut sampled, mut saved, mut failing) = (None::<Instant>, Instant::now(), false);
    loop {
        let stopping = stop.load(Ordering::Acquire);
        if !stopping && let Ok(first) = parts.texts.recv_timeout(SAMPLE_EVERY / 4) {
            parts.watch.take(&first, &parts.alerts);
            for text in parts.texts.try_iter().take(BATCH) {
                parts.watch.take(&text, &parts.alerts);
            }
        }
        if sampled.is_none_or(|at| at.elapsed() >= SAMPLE_EVERY) {
            sampled = Some(Instant::now());
            look(parts, &mut stopped);
        }
        if stopping || saved.elapsed() >= SAVE_EVERY {
            saved = Instant::now();
            save(parts, &mut failing);
        }
        if stopping {
            return;
        }
    }
}

fn look(parts: &GuardParts, stopped: &mut Vec<SessionId>) {
    let now = parts.clock.now();
    let mode = |session: SessionId| {
        let slot = parts.switch.universe().slot(Scope::Session(session));
        slot.map_or(Mode::Normal, |slot| parts.switch.page().get(slot).mode)
    };
    stopped.retain(|session| {
        let rearmed = mode(*session) == Mode::Normal;
        if rearmed {
            parts.watch.rearmed(*session);
        }
        !rearmed
    });
    let universe = parts.switch.universe();
    // A halt of anything but a session may be what an instance waits for: which of them trade what is not known here.
    let others = (0..parts.switch.page().len()).filter(|slot| parts.switch.page().get(*slot).mode != Mode::Normal);
    let waits = others.filter_map(|slot| universe.scope_at(slot)).any(|scope| match scope {
        Scope::Session(_) => false,
        Scope::Firm | Scope::Account(_) | Scope::Strategy(_) | Scope::Pair(..) | Scope::Instrument(_) => true,
    });
    let count = |session: &SessionId| {
        let at = usize::from(session.0);
        let view = parts.switch.board().cell(at).map(SessionCell::view);
        let away = !view.is_some_and(|v| v.connected || v.by_gate) || mode(*session) != Mode::Normal;
        // What else is halted stops all of a group alike, or nobody knows whom of it: that excuses silence, but one that
        // runs away meanwhile is still held against the others.
        let excused = waits || away;
        parts.published.instances.get(at).map_or(Counts { excused, away, ..Counts::default() }, |counts| Counts {
            orders: counts.orders.get(),
            fills: counts.fills.get(),
            rejects: counts.rejects.get(),
            excused,
            away,
        })
    };
    let counts: Vec<Counts> = parts.watch.instances().iter().map(count).collect();
    for MustStop { session, reason } in parts.watch.sample(now, &counts, &parts.alerts) {
        if mode(session) == Mode::Halted {
            // Somebody else's halt does for now. Once that is lifted it is looked at anew like after one of ours.
            if !stopped.contains(&session) {
                stopped.push(session);
            }
            continue;
        }
        let Ok(receipt) = parts.switch.press(Scope::Session(session), Stop::Halted, "guard", &reason, now) else {
            continue;
        };
        stopped.push(session);
        let name = ScopeName::of(parts.switch.universe(), Scope::Session(session));
        tracing::error!(event = "outlier", scope = %name, "{reason}");
        let detail = format!("mode halted, epoch {}, receipt {}", receipt.word.epoch, receipt.id);
        parts.audit.record(Entry::new("guard", "kill").on(name).because(&reason).detail(detail));
    }
    parts.watch.tick(now, &parts.alerts);
}

fn save(parts: &GuardParts, failing: &mut bool) {
    match store::save(&parts.path, &parts.watch.saved()) {
        Ok(()) => *failing = false,
        Err(error) => {
            if !core::mem::replace(failing, true) {
                tracing::error!(event = "guard", %error, "what the guard has learned cannot be written down");
            }
            let text = format!("{}: {error}: a restart would learn what is usual anew", parts.path.display());
            parts.alerts.raise(Raise::new(parts.clock.now().unix.0, "guard", "baseline_not_saved", text));
        }
    }
}

/// The guard's numbers.
pub(super) struct GuardSource(pub Arc<Watch>);

impl Source for GuardSource {
    fn samples(&self) -> Vec<Sample> {
        let [kept, unknown, texts, dropped] = self.0.counts();
        let (far, halted) = self.0.outliers();
        let sample = |name, help, kind, value: u64| Sample { name, help, kind, labels: vec![], value: value as f64 };
        let (counter, gauge) = (SampleKind::Counter, SampleKind::Gauge);
        vec![
            sample("haltline_text_signatures", "Kinds of text that are kept.", gauge, kept),
            sample(
                "haltline_text_signatures_unknown",
                "Kinds of text that were never seen before, or come far too often, and that nobody has answered for.",
                gauge,
                unknown,
            ),
            sample("haltline_texts_total", "Log lines and reject texts that were looked at.", counter, texts),
            sample(
                "haltline_texts_dropped_total",
                "Log lines and reject texts that were not looked at because a session sent too many.",
                counter,
                dropped,
            ),
            sample("haltline_outliers", "Sessions far away from their peers or from their own usual rate.", gauge, far),
            sample("haltline_outliers_halted", "Those of them that the guard has halted for it.", gauge, halted),
            sample("haltline_outliers_quiet", "Sessions that have gone far below their peers.", gauge, self.0.quiet()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::watch::WatchOptions;
    use crate::kill::board::SessionBoard;
    use crate::kill::page::HaltPage;
    use crate::kill::rearm::RearmPolicy;
    use crate::kill::switch::SwitchParts;
    use crate::kill::testing::{TestClock, universe};
    use crate::model::{EventKind, SessionKind, SessionSpec, Universe};

    const BAD: SessionId = SessionId(3);

    struct World {
        parts: GuardParts,
        clock: Arc<TestClock>,
        audit: Receiver<String>,
        _dir: tempfile::TempDir,
    }

    /// Five instances of one kind, and a feed.
    fn world() -> World {
        let small = universe();
        let session = |n: usize| SessionSpec {
            name: format!("gw-{n}"),
            kind: if n == 5 { SessionKind::Reference } else { SessionKind::Ask },
            strategies: vec![],
        };
        let universe = Arc::new(Universe::new(
            small.base_scale,
            small.currencies.clone(),
            (0..6).map(session).collect(),
            small.accounts.clone(),
            small.strategies.clone(),
            small.instruments.clone(),
        ));
        let clock = TestClock::new();
        let (switch, _jobs) = Switch::new(SwitchParts {
            page: Arc::new(HaltPage::new(universe.scope_count(), 1)),
            board: Arc::new(SessionBoard::new(universe.sessions.len())),
            gates: Arc::default(),
            universe: universe.clone(),
            clock: clock.clone(),
            wakers: vec![],
            working: Box::new(|_| None),
            policy: RearmPolicy::default(),
            causes: vec![],
            orphans: vec![],
        });
        // Half of them over WebSocket, half by a gate.
        for at in 0..universe.sessions.len() {
            let cell = switch.board().cell(at).unwrap();
            if at % 2 == 0 { cell.set_connected(true) } else { cell.set_by_gate(true) }
        }
        let (to, audit) = crossbeam_channel::unbounded();
        let dir = tempfile::tempdir().unwrap();
        let parts = GuardParts {
            watch: Arc::new(Watch::new(WatchOptions::default(), &universe)),
            texts: crossbeam_channel::never(),
            published: Arc::new(Published::new(&universe)),
            alerts: Arc::default(),
            switch: Arc::new(switch),
            audit: Arc::new(Audit::new(Some(to), clock.clone())),
            clock: clock.clone(),
            path: dir.path().join("guard.json"),
        };
        World { parts, clock, audit, _dir: dir }
    }

    impl World {
        /// Nearly four seconds in which one instance sends `bad` orders a second and the others 40.
        fn go_on(&self, stopped: &mut Vec<SessionId>, bad: usize) {
            for _ in 0..15 {
                self.clock.advance(250_000_000);
                for (session, counts) in self.parts.published.instances.iter().enumerate() {
                    let per_second = if session == usize::from(BAD.0) { bad } else { 40 };
                    (0..per_second / 4).for_each(|_| counts.count(EventKind::New));
                }
                look(&self.parts, stopped);
            }
        }

        fn mode(&self, session: SessionId) -> Mode {
            let slot = self.parts.switch.universe().slot(Scope::Session(session)).unwrap();
            self.parts.switch.page().get(slot).mode
        }
    }

    #[test]
    fn who_runs_away_is_halted_and_halted_again_if_it_was_rearmed_and_still_does() {
        let (world, mut stopped) = (world(), Vec::new());
        world.go_on(&mut stopped, 40);
        assert!(stopped.is_empty());
        world.go_on(&mut stopped, 1_480);
        assert_eq!(stopped, [BAD]);
        let halts = world.parts.switch.halts();
        assert_eq!((halts.len(), halts[0].scope), (1, Scope::Session(BAD)));
        assert_eq!(halts[0].causes[0].actor, "guard");
        assert!(halts[0].causes[0].reason.contains("4 peers have 40.0"), "{}", halts[0].causes[0].reason);
        let entry: Entry = serde_json::from_str(&world.audit.try_recv().unwrap()).unwrap();
        assert_eq!((entry.actor.as_str(), entry.action.as_str()), ("guard", "kill"));
        // As long as it is halted it is not halted again.
        let epoch = halts[0].word.epoch;
        world.go_on(&mut stopped, 1_480);
        assert_eq!(world.parts.switch.halts()[0].word.epoch, epoch);

        let slot = world.parts.switch.universe().slot(Scope::Session(BAD)).unwrap();
        world.parts.switch.page().lower(slot, epoch).unwrap();
        world.go_on(&mut stopped, 1_480);
        assert_eq!((world.mode(BAD), stopped.as_slice()), (Mode::Halted, &[BAD][..]));
    }

    #[test]
    fn who_was_halted_already_is_looked_at_anew_when_that_is_over() {
        let (world, mut stopped) = (world(), Vec::new());
        world.go_on(&mut stopped, 40);
        let press = || world.parts.switch.press(Scope::Session(BAD), Stop::Halted, "olaf", "x", world.clock.now());
        let epoch = press().unwrap().word.epoch;
        world.go_on(&mut stopped, 1_480);
        assert_eq!((stopped.as_slice(), world.parts.switch.halts()[0].causes.len()), (&[BAD][..], 1));
        let slot = world.parts.switch.universe().slot(Scope::Session(BAD)).unwrap();
        world.parts.switch.page().lower(slot, epoch).unwrap();
        world.go_on(&mut stopped, 1_480);
        assert_eq!((world.mode(BAD), stopped.as_slice()), (Mode::Halted, &[BAD][..]));
        assert!(world.parts.switch.halts()[0].causes.iter().any(|cause| cause.actor == "guard"));
    }

    #[test]
    fn what_was_learned_is_written_at_the_end_and_damage_to_it_is_an_alert() {
        let world = world();
        let text = Text { at: world.clock.now().unix.0, session: BAD, source: "log", text: "hello".into() };
        world.parts.watch.take(&text, &world.parts.alerts);
        run(&world.parts, &AtomicBool::new(true));
        let next = Watch::new(WatchOptions::default(), world.parts.switch.universe());
        restore(&next, &world.parts.alerts, &world.parts.path, 1);
        assert_eq!(next.saved(), world.parts.watch.saved());
        assert!(world.parts.alerts.newest(10).is_empty());
        std::fs::write(&world.parts.path, "nonsense").unwrap();
        restore(&next, &world.parts.alerts, &world.parts.path, 1);
        assert_eq!(world.parts.alerts.blocking()[0].name, "baseline_lost");
    }
}
