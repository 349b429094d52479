//! The service's lines of the preflight page: limits, halts, clocks, disk, journal, latch, alerts, the engine itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::app::attest;
use crate::app::day::DayOpen;
use crate::app::desk::Desk;
use crate::duty::Clock;
use crate::engine::durability::Durability;
use crate::engine::published::Published;
use crate::guard::preflight::Check;
use crate::kill::alerts::Alerts;
use crate::kill::switch::{Halt, Switch};
use crate::kill::words::{ScopeName, rfc3339};
use crate::model::{AnomalyKind, Scope};

/// What the page is made from.
pub(super) struct PreflightParts {
    pub switch: Arc<Switch>,
    pub published: Arc<Published>,
    pub alerts: Arc<Alerts>,
    pub durability: Option<Arc<Durability>>,
    pub clock: Arc<dyn Clock>,
    /// Knows the configuration in force, and the file that it was read from.
    pub desk: Arc<Desk>,
    pub state_dir: PathBuf,
    pub segment_bytes: u64,
    /// Where the preflight is required.
    pub day: Option<Arc<DayOpen>>,
}

/// The engine's last round may be this old.
const ROUND_AGE_NS: u64 = 1_000_000_000;
/// Segments of the journal for which there has to be room on the disk.
const SEGMENTS_FREE: u64 = 8;
/// The part of the journal's ring that may wait for the disk.
const LAG_PERCENT: u64 = 50;

impl PreflightParts {
    /// Every line, in the order in which they are read. Reads files.
    pub(super) fn checks(&self) -> Vec<Check> {
        let mut checks = vec![
            self.limits(),
            self.halts(),
            self.engine(),
            self.latch(),
            self.journal(),
            self.disk(),
            self.clocks(),
            self.drill(),
            self.alerts(),
        ];
        checks.extend(self.day.as_ref().map(|day| day.check()));
        checks
    }

    /// What runs has to be what is in the file: the next restart would begin with that.
    fn limits(&self) -> Check {
        let (path, running, generation) = self.desk.configuration();
        let running = blake3::Hash::from_bytes(running);
        let Some(path) = path else {
            return Check::note("limits", format!("generation {generation}; not started from a file"));
        };
        let faults: Vec<String> = match std::fs::read(path) {
            Ok(bytes) if blake3::hash(&bytes) == running => Vec::new(),
            Ok(bytes) => vec![format!(
                "{} has hash {}, what runs has {}: reload it, or put it back",
                path.display(),
                blake3::hash(&bytes).to_hex(),
                running.to_hex()
            )],
            Err(error) => vec![format!("{} cannot be read: {error}", path.display())],
        };
        Check::of("limits", &faults, format!("generation {generation}, hash {}, as in the file", running.to_hex()))
    }

    fn halts(&self) -> Check {
        let universe = self.switch.universe();
        let halts = self.switch.halts();
        let counts = |halt: &&Halt| !is_dormant(halt) && !self.day.as_ref().is_some_and(|day| day.is_own(halt));
        let mut faults: Vec<String> = halts
            .iter()
            .filter(counts)
            .map(|halt| {
                let (scope, mode) = (ScopeName::of(universe, halt.scope), halt.word.mode.name());
                let cause = halt.causes.first().map_or_else(
                    || "no cause known".to_owned(),
                    |cause| format!("since {} by {}: {}", rfc3339(cause.at), cause.actor, cause.reason),
                );
                format!("{scope} is {mode}, {cause}")
            })
            .collect();
        let orphans = self.switch.orphans();
        faults.extend(orphans.iter().map(|halt| format!("{} is halted and not in the configuration", halt.scope)));
        let asleep =
            if halts.iter().any(is_dormant) { "none in force but of dormant strategies" } else { "none in force" };
        Check::of("halts", &faults, asleep)
    }

    fn engine(&self) -> Check {
        let last = self.published.last_round.get();
        let age = self.clock.now().mono.0.saturating_sub(last);
        let mut faults = Vec::new();
        if last == 0 || age > ROUND_AGE_NS {
            faults.push("the engine makes no rounds".to_owned());
        }
        let dropped = self.published.notices_dropped.get();
        if dropped > 0 {
            faults.push(format!("{dropped} notices of the engine found no room"));
        }
        Check::of("engine", &faults, format!("last round {} ms ago", age / 1_000_000))
    }

    fn latch(&self) -> Check {
        let fault = match (self.switch.latch().error, self.switch.is_durable()) {
            (Some(error), _) => vec![format!("cannot be written: {error}")],
            (None, false) => vec!["not on disk yet".to_owned()],
            (None, true) => Vec::new(),
        };
        Check::of("latch", &fault, "on disk")
    }

    fn journal(&self) -> Check {
        let Some(durability) = &self.durability else {
            return Check::note("journal", "there is none: positions are not known after a restart");
        };
        let state = durability.state();
        let mut faults = Vec::new();
        if let Some(since) = state.failed_since {
            let why = state.error.as_deref().unwrap_or("not said");
            faults.push(format!("cannot be written since {}: {why}", rfc3339(since)));
        }
        if state.denies_new_flow {
            faults.push("new flow is denied because it is behind".to_owned());
        }
        if state.waiting.saturating_mul(100) > state.capacity.saturating_mul(LAG_PERCENT) {
            faults.push(format!("{} of {} cells wait for the disk", state.waiting, state.capacity));
        }
        let lost = durability.lost.get();
        if lost > 0 {
            faults.push(format!("{lost} cells were lost"));
        }
        Check::of("journal", &faults, format!("{} of {} cells wait for the disk", state.waiting, state.capacity))
    }

    fn disk(&self) -> Check {
        let needed = self.segment_bytes.saturating_mul(SEGMENTS_FREE);
        match free_bytes(&self.state_dir) {
            Ok(free) => {
                let short = (free < needed).then(|| {
                    format!(
                        "{} has {free} bytes free; {SEGMENTS_FREE} segments take {needed}",
                        self.state_dir.display()
                    )
                });
                Check::of("disk", &Vec::from_iter(short), format!("{free} bytes free"))
            }
            Err(error) => Check::of("disk", &[format!("{}: {error}", self.state_dir.display())], ""),
        }
    }

    fn clocks(&self) -> Check {
        let counted = AnomalyKind::ALL.iter().zip(&self.published.anomalies);
        let skewed: u64 =
            counted.filter(|(kind, _)| **kind == AnomalyKind::ClockSkew).map(|(_, count)| count.get()).sum();
        let faults = (skewed > 0).then(|| format!("{skewed} events of this run were stamped by a clock that is off"));
        Check::of("clocks", &Vec::from_iter(faults), "no session's clock was seen to be off")
    }

    fn drill(&self) -> Check {
        let needed = self.switch.policy().rules.drill_within_ns;
        let Some((at, ago)) = self.switch.last_drill(self.clock.now()) else {
            let text = "none recorded: the switch was not rehearsed";
            return match needed {
                Some(_) => Check::of("drill", &[text.to_owned()], ""),
                None => Check::note("drill", text),
            };
        };
        let late = needed.is_some_and(|within| ago > within);
        let text = format!("the switch was last rehearsed {}", rfc3339(at));
        Check::of("drill", &Vec::from_iter(late.then(|| format!("{text}, which is too long ago"))), text)
    }

    fn alerts(&self) -> Check {
        let faults: Vec<String> = self
            .alerts
            .blocking()
            .iter()
            .map(|alert| format!("{} ({}) has no answer: {}", alert.number, alert.name, alert.text))
            .collect();
        Check::of("alerts", &faults, "nobody waits for an answer to a critical one")
    }
}

/// Whether a strategy is halted because it is dormant, and for nothing else. It does not trade, and nothing says that it should.
pub(super) fn is_dormant(halt: &Halt) -> bool {
    let strategy = match halt.scope {
        Scope::Strategy(_) => true,
        Scope::Firm | Scope::Account(_) | Scope::Session(_) | Scope::Pair(..) | Scope::Instrument(_) => false,
    };
    strategy && !halt.causes.is_empty() && halt.causes.iter().all(|cause| cause.actor == attest::ACTOR)
}

/// What an ordinary user may still write to the file system of `path`.
fn free_bytes(path: &Path) -> std::io::Result<u64> {
    let found = rustix::fs::statvfs(path)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}
