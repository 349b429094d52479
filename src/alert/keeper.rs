//! The thread `haltline-alerts`: lets time pass for alerts, halts what nobody answered for, writes down what is open.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

use crate::alert::store::{self, Found};
use crate::duty::Clock;
use crate::kill::alerts::{Alerts, MustHalt, Raise, Saved};
use crate::kill::audit::{Audit, Entry};
use crate::kill::switch::{Stop, Switch};
use crate::kill::words::ScopeName;
use crate::model::Scope;

/// How often the loop looks at the time.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Counts of alerts that are open are written down this often, if nothing else is to be written: in rounds of the loop.
const COUNTS_EVERY: u32 = 50;

/// What the thread works with.
pub struct KeeperParts {
    /// The alert centre.
    pub alerts: Arc<Alerts>,
    /// What an escalation may halt.
    pub switch: Arc<Switch>,
    /// Where that is recorded.
    pub audit: Arc<Audit>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The file of [`store`].
    pub path: PathBuf,
}

/// Puts what an earlier run saved into `alerts`. If the file is damaged there is an alert about that instead: who had
/// answered what is then not known.
pub fn restore(alerts: &Alerts, path: &std::path::Path, now_unix: u64) {
    match store::load::<Saved>(path) {
        Found::None => alerts.restore(Saved::default(), now_unix),
        Found::Intact(saved) => alerts.restore(*saved, now_unix),
        Found::Damaged(why) => {
            tracing::error!(event = "alerts", "{why}");
            alerts.restore(Saved::default(), now_unix);
            let text = format!("which alerts were open before the restart is not known: {why}");
            alerts.raise(Raise::new(now_unix, "alerts", "alerts_lost", text).critical());
        }
    }
}

/// A place to wake the thread: give the waker to [`Alerts::on_change`].
#[must_use]
pub fn bell() -> (Sender<()>, Receiver<()>) {
    crossbeam_channel::bounded(1)
}

/// Loops until `stop`, then writes once more.
pub fn run(parts: &KeeperParts, woken: &Receiver<()>, stop: &AtomicBool) {
    let mut keeper = Keeper { parts, written: None, failing: false };
    for round in 1u32.. {
        let stopping = stop.load(Ordering::Acquire);
        if !stopping {
            // A time-out is as good as a change: time has passed.
            let _ = woken.recv_timeout(LOOK_EVERY);
        }
        for halt in parts.alerts.tick(parts.clock.now()) {
            keeper.halt(&halt);
        }
        keeper.write(stopping || round.is_multiple_of(COUNTS_EVERY));
        if stopping {
            return;
        }
    }
}

struct Keeper<'a> {
    parts: &'a KeeperParts,
    /// The change up to which everything is on disk.
    written: Option<u64>,
    failing: bool,
}

impl Keeper<'_> {
    fn halt(&self, halt: &MustHalt) {
        let parts = self.parts;
        let universe = parts.switch.universe();
        // What cannot be halted by itself, or is not in the configuration any more: the firm.
        let scope = halt.scope.as_ref().and_then(|name| name.find(universe)).unwrap_or(Scope::Firm);
        let press = |scope| parts.switch.press(scope, Stop::Halted, "alerts", &halt.reason, parts.clock.now());
        let pressed = press(scope).map(|receipt| (scope, receipt));
        let pressed = pressed.or_else(|_| press(Scope::Firm).map(|receipt| (Scope::Firm, receipt)));
        let Ok((scope, receipt)) = pressed else { return };
        let name = ScopeName::of(universe, scope);
        tracing::error!(event = "escalated", alert = halt.number, scope = %name, "{}", halt.reason);
        let detail = format!("mode halted, epoch {}, receipt {}", receipt.word.epoch, receipt.id);
        parts.audit.record(Entry::new("alerts", "kill").on(name).because(&halt.reason).detail(detail));
    }

    /// Writes if there is something new, or if it is time to write the counts.
    fn write(&mut self, counts: bool) {
        let seq = self.parts.alerts.last_seq();
        if self.written == Some(seq) && !counts {
            return;
        }
        // The number before the content: what changes in between is written again.
        let saved = self.parts.alerts.saved(self.parts.clock.now().unix.0);
        match store::save(&self.parts.path, &saved) {
            Ok(()) => {
                self.written = Some(seq);
                if core::mem::take(&mut self.failing) {
                    tracing::warn!(event = "alerts", "alerts are written down again");
                    let at = self.parts.clock.now().unix.0;
                    self.parts.alerts.resolve(at, "alerts", "alerts_not_saved", None);
                }
            }
            Err(error) => {
                self.written = None;
                if !core::mem::replace(&mut self.failing, true) {
                    tracing::error!(event = "alerts", %error, "alerts cannot be written down");
                    let text = format!("{}: {error}: a restart would forget who answered", self.parts.path.display());
                    let at = self.parts.clock.now().unix.0;
                    self.parts.alerts.raise(Raise::new(at, "alerts", "alerts_not_saved", text));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kill::alerts::{LastResort, Policy};
    use crate::kill::testing::{TestClock, switch};
    use crate::model::Mode;
    use crate::units::StrategyId;

    const MINUTE: u64 = 60_000_000_000;

    struct World {
        parts: KeeperParts,
        clock: Arc<TestClock>,
        lines: Receiver<String>,
        _dir: tempfile::TempDir,
    }

    fn world(escalate_to: LastResort) -> World {
        let clock = TestClock::new();
        let (switch, _jobs) = switch(clock.clone());
        let dir = tempfile::tempdir().unwrap();
        let (to, lines) = crossbeam_channel::unbounded();
        let policy = Policy { escalate_after: Some(Duration::from_secs(300)), escalate_to, ..Policy::default() };
        let parts = KeeperParts {
            alerts: Arc::new(Alerts::new(policy)),
            switch: Arc::new(switch),
            audit: Arc::new(Audit::new(Some(to), clock.clone())),
            clock: clock.clone(),
            path: store::path(dir.path()),
        };
        World { parts, clock, lines, _dir: dir }
    }

    impl World {
        /// One round of the loop, as at the end of a run.
        fn round(&self) {
            run(&self.parts, &bell().1, &AtomicBool::new(true));
        }

        fn mode(&self, scope: Scope) -> Mode {
            self.parts.switch.page().get(self.parts.switch.universe().slot(scope).unwrap()).mode
        }
    }

    #[test]
    fn what_nobody_answers_halts_its_scope_with_the_alert_as_its_cause() {
        let world = world(LastResort::Halt);
        let alpha = Scope::Strategy(StrategyId(0));
        let name = ScopeName::of(world.parts.switch.universe(), alpha);
        let raise = Raise::new(world.clock.now().unix.0, "signature", "power_peg", "97 texts");
        world.parts.alerts.raise(raise.on(name).critical());
        world.round();
        world.clock.advance(4 * MINUTE);
        world.round();
        assert_eq!(world.mode(alpha), Mode::Normal);
        world.clock.advance(MINUTE);
        world.round();
        assert_eq!((world.mode(alpha), world.mode(Scope::Firm)), (Mode::Halted, Mode::Normal));
        let halts = world.parts.switch.halts();
        assert_eq!(halts[0].causes[0].actor, "alerts");
        assert!(halts[0].causes[0].reason.contains("power_peg"), "{}", halts[0].causes[0].reason);
        let entry: Entry = serde_json::from_str(&world.lines.try_recv().unwrap()).unwrap();
        assert_eq!((entry.actor.as_str(), entry.action.as_str()), ("alerts", "kill"));
    }

    #[test]
    fn an_alert_about_something_that_cannot_be_halted_halts_the_firm() {
        let world = world(LastResort::Halt);
        let gone = ScopeName { kind: "session".into(), name: "of an older configuration".into() };
        let raise = Raise::new(world.clock.now().unix.0, "signature", "power_peg", "97 texts");
        world.parts.alerts.raise(raise.on(gone).critical());
        world.round();
        world.clock.advance(5 * MINUTE);
        world.round();
        assert_eq!(world.mode(Scope::Firm), Mode::Halted);
    }

    #[test]
    fn alerts_and_answers_are_found_again_and_a_damaged_file_is_an_alert() {
        let world = world(LastResort::None);
        let at = world.clock.now().unix.0;
        for name in ["answered", "open"] {
            world.parts.alerts.raise(Raise::new(at, "signature", name, "text").critical());
        }
        world.parts.alerts.acknowledge(1, "alice", "looking", at).unwrap();
        world.round();
        let next = Alerts::default();
        restore(&next, &world.parts.path, at);
        assert_eq!(next.blocking().iter().map(|a| a.name.as_str()).collect::<Vec<_>>(), ["open"]);
        assert_eq!(next.get(1).unwrap().acknowledged.unwrap().by, "alice");

        std::fs::write(&world.parts.path, "nonsense").unwrap();
        let after = Alerts::default();
        restore(&after, &world.parts.path, at);
        assert_eq!(after.blocking()[0].name, "alerts_lost");
    }

    #[test]
    fn a_disk_that_refuses_is_an_alert_until_it_takes_again() {
        let mut world = world(LastResort::None);
        let good = core::mem::replace(&mut world.parts.path, "/nonexistent/alerts.json".into());
        world.round();
        let failing = &world.parts.alerts.newest(1)[0];
        assert_eq!((failing.name.as_str(), failing.resolved_at), ("alerts_not_saved", None));
        // The same keeper goes on.
        let bad = core::mem::replace(&mut world.parts.path, good);
        let mut keeper = Keeper { parts: &world.parts, written: None, failing: true };
        keeper.write(true);
        assert!(world.parts.alerts.newest(1)[0].resolved_at.is_some() && !bad.exists());
    }
}
