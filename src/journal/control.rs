//! The control thread: takes what the engine reports (trips, warnings, anomalies) and sees to it that it is recorded,
//! latched, logged and shown. The engine never waits for it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

use crate::engine::agent::Notice;
use crate::engine::published::Published;
use crate::journal::incident::Incident;
use crate::journal::latch::EventsTaken;
use crate::kill::alerts::{Alerts, Raise, Severity};
use crate::kill::audit::{Audit, Entry};
use crate::kill::switch::Switch;
use crate::kill::words::{self, ScopeName};
use crate::model::effect::Denial;
use crate::model::{Anomaly, Effect, Mode, Scope, Trip, Universe, Warn};

/// What the control thread works with.
pub struct ControlParts<'a> {
    /// From the engine.
    pub notices: Receiver<Notice>,
    /// Where trips are recorded.
    pub switch: &'a Switch,
    /// Where alerts are kept for the API.
    pub alerts: &'a Alerts,
    /// Tells whether the engine has taken events.
    pub published: &'a Published,
    /// Where control records go.
    pub audit: &'a Audit,
    /// Who writes reports of trips and kills; `None`: nobody. Never waited for.
    pub incidents: Option<Sender<Incident>>,
    /// The durable flag for that.
    pub events_taken: &'a EventsTaken,
}

/// How often the loop looks round without a notice.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Warnings and anomalies of one name that are put into words per second; more are counted only. Trips always are.
const PER_SECOND: u32 = 10;

/// Loops until `stop`, then takes what is still in the channel. Returns once the flag that events were taken is on
/// disk, if any were, or could not be written: in that case with the error.
///
/// # Errors
/// The run must then not be ended as an orderly one: the next start has to know of the events.
pub fn run_control(parts: &ControlParts<'_>, stop: &AtomicBool) -> std::io::Result<()> {
    let mut gate = Gate::default();
    let mut seen = Confirmations::default();
    loop {
        let stopping = stop.load(Ordering::Acquire);
        if let Ok(first) = parts.notices.recv_timeout(if stopping { Duration::ZERO } else { LOOK_EVERY }) {
            take(parts, &mut gate, first);
            while let Ok(next) = parts.notices.try_recv() {
                take(parts, &mut gate, next);
            }
        }
        let (outside, now) = parts.switch.look();
        for scope in outside {
            let scope = ScopeName::of(parts.switch.universe(), scope);
            let text = format!("{scope} was raised on the halt page by another process");
            tracing::error!(event = "page", "{text}");
            let entry = Entry::new("halt page", "kill").on(scope.clone()).because("raised by another process");
            parts.audit.record(entry);
            parts.alerts.raise(Raise::new(now.unix.0, "page", "raised_outside", text).on(scope).critical().afresh());
        }
        seen.look(parts);
        let any = parts.published.events.iter().any(|count| count.get() > 0);
        let noted = if any { parts.events_taken.note() } else { Ok(()) };
        if stopping {
            return noted;
        }
        if let Err(error) = noted
            && gate.passes("events_taken", parts.published.last_round.get())
        {
            tracing::error!(%error, "could not write down that events were taken");
        }
    }
}

fn take(parts: &ControlParts<'_>, gate: &mut Gate, notice: Notice) {
    let universe = parts.switch.universe();
    let (at, mono) = (notice.at.unix.0, notice.at.mono.0);
    match notice.effect {
        Effect::Trip(trip) => {
            let receipt = parts.switch.record_trip(&trip, notice.at);
            let text = trip_text(universe, &trip);
            tracing::error!(event = "trip", rule = trip.cause.rule.name(), seq = trip.seq, "{text}");
            if let Some(incidents) = &parts.incidents {
                // Full: the log, the latch and the journal have it.
                let _ = incidents.try_send(Incident::Trip(trip, notice.at.unix, receipt));
            }
            let scope = ScopeName::of(universe, trip.scope);
            parts.audit.record(Entry::new("engine", "trip").on(scope.clone()).detail(&text));
            let raise = Raise::new(at, "trip", trip.cause.rule.name(), text);
            parts.alerts.raise(raise.on(scope).critical().afresh());
        }
        Effect::Warn(warn) => {
            let (name, scope) = (warn.at.rule.name(), ScopeName::of(universe, warn.at.scope));
            if gate.passes(name, mono) || !parts.alerts.again(at, "warn", name, Some(&scope), 1) {
                let text = warn_text(universe, &warn);
                tracing::warn!(event = "warn", rule = name, percent = warn.percent, "{text}");
                parts.alerts.raise(Raise::new(at, "warn", name, text).on(scope));
            }
        }
        Effect::Anomaly(anomaly) => {
            let (name, scope) = (anomaly.kind.name(), ScopeName::of(universe, Scope::Session(anomaly.session)));
            if gate.passes(name, mono) || !parts.alerts.again(at, "anomaly", name, Some(&scope), 1) {
                let text = anomaly_text(universe, &anomaly);
                tracing::warn!(event = "anomaly", kind = name, seq = anomaly.seq, "{text}");
                parts.alerts.raise(Raise::new(at, "anomaly", name, text).on(scope));
            }
        }
        // Answers to sessions go to the transports, not here.
        Effect::Verdict(_)
        | Effect::Applied { .. }
        | Effect::Resend { .. }
        | Effect::Instruct(_)
        | Effect::OrderForgotten { .. }
        | Effect::ExecForgotten { .. } => {}
    }
}

/// Kills that wait for their confirmation: that is recorded when it comes.
#[derive(Default)]
struct Confirmations {
    newest: u64,
    waiting: Vec<u64>,
}

/// Receipts looked at per round: more presses between two rounds are recorded as presses, not as confirmed.
const RECEIPTS: usize = 64;

impl Confirmations {
    fn look(&mut self, parts: &ControlParts<'_>) {
        let receipts = parts.switch.receipts(RECEIPTS);
        // A trip has its report already.
        for receipt in receipts.iter().rev().filter(|receipt| receipt.id > self.newest && !receipt.by_trip) {
            if let Some(incidents) = &parts.incidents {
                let _ = incidents.try_send(Incident::Kill(receipt.id));
            }
            let scope = ScopeName::of(parts.switch.universe(), receipt.scope);
            let did = match receipt.asked {
                Mode::ReduceOnly => format!("made {scope} reduce-only"),
                Mode::Halted | Mode::Normal => format!("halted {scope}"),
            };
            let reason = if receipt.reason.is_empty() { "no reason was given" } else { &receipt.reason };
            let text = format!("{} {did}: {reason}", receipt.actor);
            let at = receipt.pressed.unix.0;
            // A drill takes its halt back, and is a warning itself if it does not pass: of the press nobody has to think anything.
            let raise = match receipt.for_drill {
                true => Raise::new(at, "drill", "drill_pressed", text).severity(Severity::Info),
                false => Raise::new(at, "kill", "kill_pressed", text),
            };
            parts.alerts.raise(raise.on(scope).afresh());
        }
        self.waiting.extend(receipts.iter().map(|receipt| receipt.id).filter(|id| *id > self.newest));
        self.newest = receipts.iter().map(|receipt| receipt.id).max().unwrap_or(0).max(self.newest);
        self.waiting.retain(|id| match parts.switch.is_confirmed(*id) {
            Some(true) => {
                let scope = parts.switch.receipt(*id).map(|r| words::ScopeName::of(parts.switch.universe(), r.scope));
                let entry = Entry::new("haltline", "confirmed")
                    .detail(format!("receipt {id}: latch, every gate and every session"));
                parts.audit.record(match scope {
                    Some(scope) => entry.on(scope),
                    None => entry,
                });
                false
            }
            Some(false) => true,
            None => false,
        });
    }
}

/// Lets [`PER_SECOND`] of each name through per second.
#[derive(Default)]
struct Gate {
    /// By name: the second, and how many came in it.
    counts: HashMap<&'static str, (u64, u32)>,
}

impl Gate {
    fn passes(&mut self, name: &'static str, mono: u64) -> bool {
        let second = mono / 1_000_000_000;
        let entry = self.counts.entry(name).or_insert((second, 0));
        if entry.0 != second {
            *entry = (second, 0);
        }
        entry.1 += 1;
        entry.1 <= PER_SECOND
    }
}

fn scope_text(universe: &Universe, scope: Scope) -> String {
    words::ScopeName::of(universe, scope).to_string()
}

fn breach_text(universe: &Universe, at: &Denial) -> String {
    format!("{} ({})", use_text(universe, at), at.why.name())
}

fn use_text(universe: &Universe, at: &Denial) -> String {
    format!(
        "{} at {}: observed {} of {} {}",
        at.rule.name(),
        scope_text(universe, at.scope),
        words::value(universe, at.rule, at.scope, at.observed),
        words::value(universe, at.rule, at.scope, at.limit),
        words::unit(universe, at.rule, at.scope),
    )
}

fn trip_text(universe: &Universe, trip: &Trip) -> String {
    format!(
        "{} is {}: {}, by event {} of {}",
        scope_text(universe, trip.scope),
        trip.mode.name(),
        breach_text(universe, &trip.cause),
        trip.seq,
        scope_text(universe, Scope::Session(trip.session))
    )
}

fn warn_text(universe: &Universe, warn: &Warn) -> String {
    // Nothing is broken yet.
    format!("{} percent of {}", warn.percent, use_text(universe, &warn.at))
}

fn anomaly_text(universe: &Universe, anomaly: &Anomaly) -> String {
    format!(
        "{} at event {} of {}: id {}, detail {}",
        anomaly.kind.name(),
        anomaly.seq,
        scope_text(universe, Scope::Session(anomaly.session)),
        anomaly.id,
        anomaly.detail
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::latch::LatchStore;
    use crate::kill::testing::{TestClock, switch};
    use crate::model::{AnomalyKind, Rule, Why};
    use crate::units::{MonoNanos, Now, SessionId, StrategyId, UnixNanos};

    #[test]
    fn trip_gets_its_cause_and_an_anomaly_storm_does_not_push_it_out() {
        let (switch, _jobs) = switch(TestClock::new());
        let alpha = Scope::Strategy(StrategyId(0));
        let slot = switch.universe().slot(alpha).unwrap();
        let (send, notices) = crossbeam_channel::unbounded();
        let at = Now { mono: MonoNanos(9), unix: UnixNanos(1_000) };
        // As the engine does it: the page first, then the notice.
        switch.page().raise(slot, Mode::Halted);
        let cause = Denial { rule: Rule::GrossExposure, why: Why::Breach, scope: alpha, observed: 1234, limit: 1000 };
        let trip = Trip { scope: alpha, mode: Mode::Halted, cause, session: SessionId(0), seq: 77 };
        send.send(Notice { effect: Effect::Trip(trip), at }).unwrap();
        let anomaly = Anomaly { kind: AnomalyKind::LateFill, session: SessionId(1), seq: 5, id: 6, detail: 7 };
        for _ in 0..10_000 {
            send.send(Notice { effect: Effect::Anomaly(anomaly), at }).unwrap();
        }
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("state");
        LatchStore::init(&dir).unwrap();
        let store = LatchStore::open(&dir).unwrap();
        let events_taken = store.events_taken();
        let published = Published::new(switch.universe());
        published.events[0].add(1);
        let alerts = Alerts::default();
        let parts = ControlParts {
            notices,
            switch: &switch,
            alerts: &alerts,
            published: &published,
            audit: &Audit::new(None, TestClock::new()),
            incidents: None,
            events_taken: &events_taken,
        };
        run_control(&parts, &AtomicBool::new(true)).unwrap();

        let halts = switch.halts();
        assert_eq!(halts.len(), 1);
        let trip = halts[0].causes[0].trip.as_ref().unwrap();
        assert_eq!((trip.rule.as_str(), trip.seq), ("gross_exposure", 77));
        assert_eq!((trip.observed.as_str(), trip.limit.as_str(), trip.unit.as_str()), ("12.34", "10", "USD"));
        let listed = alerts.newest(1_000);
        let shown: Vec<_> = listed.iter().map(|alert| (alert.kind.as_str(), alert.count)).collect();
        assert_eq!(shown, [("anomaly", 10_000), ("trip", 1)]);
        assert_eq!(listed[1].scope, Some(ScopeName::of(switch.universe(), alpha)));
        drop(store);
        assert!(LatchStore::open(&dir).unwrap().previous_run().took_events);
    }
}
