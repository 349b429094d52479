//! Probation: after a re-arm, and for a newly approved build, a scope may use a fraction of its limits until it has been clean
//! for a time and a volume, or a person promotes it. Time is an argument, nothing is read or written here.
//!
//! ```text
//!            clean for the time and the volume            the same at the last step
//!  begin ─▶ step 0 ──────────────▶ step 1 ──▶ … ──▶ step n ─────────────────────────▶ over: all of what is configured
//!             ▲                       │               │
//!             └──── a breach ─────────┴───────────────┘      promoted by a person, from any step ─▶ over
//! ```
//!
//! Only time that was watched counts, and in which the scope could trade: a restart or a halt begins the present step anew, and
//! keeps it.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::kill::words::ScopeName;
use crate::limits::overlay::{Change, Overlay, WHOLE_BPS};
use crate::model::Universe;
use crate::units::{MonoNanos, Now};

/// What it takes to get through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Steps {
    /// In basis points of what is configured, each step's; at least one.
    pub bps: Vec<u16>,
    /// How long without a breach at each step, in ns.
    pub clean_ns: u64,
    /// And how many orders admitted at each step.
    pub clean_volume: u64,
}

/// What a scope is on probation after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum After {
    /// A re-arm, of the halt with this epoch.
    Rearm(u64),
    /// A build that is new there, by its digest or name.
    Build(String),
    /// Found in the journal of another run, whose own record of it was lost.
    Lost,
}

impl After {
    fn is_like(&self, other: &After) -> bool {
        core::mem::discriminant(self) == core::mem::discriminant(other)
    }
}

impl core::fmt::Display for After {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            After::Rearm(epoch) => write!(f, "the re-arm of epoch {epoch}"),
            After::Build(build) => write!(f, "the new build {build}"),
            After::Lost => f.write_str("a probation whose record was lost"),
        }
    }
}

/// What a scope has done since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Orders admitted.
    pub admitted: u64,
    /// Denials, trips, anomalies and rejects: whatever a clean stream has none of.
    pub breaches: u64,
    /// It may not trade now: nothing is earned meanwhile, and what it was halted for may not be counted yet.
    pub halted: bool,
}

/// One scope on probation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probation {
    /// Never used twice, and by no override either.
    pub id: u64,
    /// Which scope.
    pub scope: ScopeName,
    /// After what.
    pub after: After,
    /// What it takes.
    pub steps: Steps,
    /// At which of them it is, from 0.
    pub step: usize,
    /// Since when, Unix ns.
    pub since: u64,
    /// Through whom: who re-armed, or `haltline`.
    pub by: String,
    /// Breaches that it began anew for.
    pub breaches: u64,
    /// Since when the present step has been clean.
    #[serde(skip)]
    clean_since: MonoNanos,
    /// Orders admitted in that time.
    #[serde(skip)]
    volume: u64,
    /// What was counted at the last look; `None`: it has not been looked at in this run.
    #[serde(skip)]
    last: Option<Counts>,
}

/// How a probation begins.
#[derive(Clone, Copy, Debug)]
pub struct Begin<'a> {
    /// Through whom.
    pub by: &'a str,
    /// When.
    pub now: Now,
    /// What the scope had done by then in this run, if that is known: whatever it breaches from the first order on counts.
    pub counts: Option<Counts>,
}

/// What a look at a probation came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// It goes on where it is.
    Stays,
    /// One step up.
    Up,
    /// Back to the first step, or the first step anew.
    Back,
    /// It is over: all of what is configured.
    Over,
}

impl Probation {
    /// The fraction that it may use now, in basis points.
    #[must_use]
    pub fn fraction_bps(&self) -> u16 {
        self.steps.bps.get(self.step).map_or(WHOLE_BPS, |bps| (*bps).min(WHOLE_BPS))
    }

    /// How long the present step has been clean, in ns, and with how many orders admitted.
    #[must_use]
    pub fn clean(&self, now: Now) -> (u64, u64) {
        (if self.last.is_some() { now.mono.since(self.clean_since) } else { 0 }, self.volume)
    }

    fn anew(&mut self, now: Now) {
        self.clean_since = now.mono;
        self.volume = 0;
    }

    /// Looks at what the scope has done by now.
    pub fn look(&mut self, counts: Counts, now: Now) -> Moved {
        let Some(last) = self.last.replace(counts) else {
            self.anew(now);
            return Moved::Stays;
        };
        // Counters that went back are another run's: what happened in between is not known.
        if counts.breaches != last.breaches || counts.admitted < last.admitted {
            self.breaches += 1;
            self.step = 0;
            self.anew(now);
            return Moved::Back;
        }
        if counts.halted {
            self.anew(now);
            return Moved::Stays;
        }
        self.volume = self.volume.saturating_add(counts.admitted - last.admitted);
        if now.mono.since(self.clean_since) < self.steps.clean_ns || self.volume < self.steps.clean_volume {
            return Moved::Stays;
        }
        self.step += 1;
        self.anew(now);
        if self.step < self.steps.bps.len() { Moved::Up } else { Moved::Over }
    }
}

/// All scopes on probation.
#[derive(Clone, Debug, Default)]
pub struct Probations {
    list: Vec<Probation>,
}

/// The most at once.
pub const PROBATIONS_MAX: usize = 64;

impl Probations {
    /// Puts a scope on probation, from the first step on. One of the same scope after the same kind of thing begins anew.
    /// Returns whether there was room: where not, the caller leaves the scope halted.
    pub fn begin(&mut self, id: u64, scope: ScopeName, after: After, steps: Steps, begin: Begin<'_>) -> bool {
        let Begin { by, now, counts } = begin;
        let others = self.list.iter().filter(|p| p.scope != scope || !p.after.is_like(&after)).count();
        if others >= PROBATIONS_MAX || steps.bps.is_empty() {
            return false;
        }
        self.list.retain(|p| p.scope != scope || !p.after.is_like(&after));
        self.list.push(Probation {
            id,
            scope,
            after,
            steps,
            step: 0,
            since: now.unix.0,
            by: by.to_owned(),
            breaches: 0,
            clean_since: now.mono,
            volume: 0,
            last: counts,
        });
        true
    }

    /// Takes up those of another run; what the scope may use does not grow by it.
    pub fn restore(&mut self, list: Vec<Probation>) {
        self.list.extend(list.into_iter().take(PROBATIONS_MAX));
    }

    /// All of them, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Probation> {
        self.list.iter()
    }

    /// A person promotes `scope`: what it is on probation after is over.
    pub fn promote(&mut self, scope: &ScopeName) -> Vec<Probation> {
        let (over, left) = core::mem::take(&mut self.list).into_iter().partition(|p| p.scope == *scope);
        self.list = left;
        over
    }

    /// Looks at all of them; returns those that moved, and how. `counts` is asked once per scope.
    pub fn look(&mut self, counts: impl Fn(&ScopeName) -> Counts, now: Now) -> Vec<(Probation, Moved)> {
        let mut seen: HashMap<String, Counts> = HashMap::new();
        let mut moved = Vec::new();
        self.list.retain_mut(|p| {
            let counts = *seen.entry(p.scope.to_string()).or_insert_with(|| counts(&p.scope));
            let how = p.look(counts, now);
            if how != Moved::Stays {
                moved.push((p.clone(), how));
            }
            how != Moved::Over
        });
        moved
    }

    /// What is over the configuration's limits. Scopes that `universe` does not have are left out.
    #[must_use]
    pub fn overlays(&self, universe: &Universe) -> Vec<Overlay> {
        let overlay = |p: &Probation| {
            let scope = p.scope.find(universe)?;
            Some(Overlay { id: p.id, scope, change: Change::Fraction(p.fraction_bps()) })
        };
        self.list.iter().filter_map(overlay).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kill::testing::universe;
    use crate::limits::overlay::in_effect;
    use crate::limits::{Gauge, LimitTable};
    use crate::model::Scope;
    use crate::units::{StrategyId, UnixNanos};

    const SECOND: u64 = 1_000_000_000;

    fn at(ns: u64) -> Now {
        Now { mono: MonoNanos(ns), unix: UnixNanos(ns) }
    }

    fn alpha() -> ScopeName {
        ScopeName { kind: "strategy".into(), name: "alpha".into() }
    }

    fn begun(bps: &[u16], clean_volume: u64) -> Probations {
        let mut all = Probations::default();
        let steps = Steps { bps: bps.to_vec(), clean_ns: 10 * SECOND, clean_volume };
        assert!(all.begin(
            1,
            alpha(),
            After::Build("b2".into()),
            steps,
            Begin { by: "haltline", now: at(0), counts: None }
        ));
        all
    }

    fn look(all: &mut Probations, admitted: u64, breaches: u64, seconds: u64) -> Option<Moved> {
        let counts = Counts { admitted, breaches, halted: false };
        all.look(|_| counts, at(seconds * SECOND)).first().map(|(_, how)| *how)
    }

    #[test]
    fn it_goes_up_when_both_time_and_volume_are_clean_and_ends_after_the_last_step() {
        let mut all = begun(&[1_000, 5_000], 3);
        assert_eq!(look(&mut all, 100, 7, 0), None, "what was before does not count");
        assert_eq!(look(&mut all, 102, 7, 10), None, "two orders are not three");
        assert_eq!(look(&mut all, 103, 7, 11), Some(Moved::Up));
        assert_eq!(all.iter().next().unwrap().fraction_bps(), 5_000);
        assert_eq!(look(&mut all, 110, 7, 20), None, "nine seconds at this step");
        assert_eq!(look(&mut all, 110, 7, 21), Some(Moved::Over));
        assert_eq!(all.iter().count(), 0);
    }

    #[test]
    fn a_breach_before_the_first_look_counts() {
        let mut all = Probations::default();
        let steps = Steps { bps: vec![1_000], clean_ns: 10 * SECOND, clean_volume: 0 };
        let counts = Some(Counts { admitted: 5, breaches: 2, halted: false });
        assert!(all.begin(1, alpha(), After::Rearm(1), steps, Begin { by: "rita", now: at(0), counts }));
        assert_eq!(look(&mut all, 5, 3, 0), Some(Moved::Back));
    }

    #[test]
    fn a_breach_goes_back_to_the_first_step() {
        let mut all = begun(&[1_000, 5_000], 0);
        look(&mut all, 0, 0, 0);
        assert_eq!(look(&mut all, 0, 0, 10), Some(Moved::Up));
        assert_eq!(look(&mut all, 0, 1, 15), Some(Moved::Back));
        assert_eq!(all.iter().next().unwrap().fraction_bps(), 1_000);
        assert_eq!(look(&mut all, 0, 1, 24), None, "clean since the breach only");
        assert_eq!(look(&mut all, 0, 1, 25), Some(Moved::Up));
    }

    #[test]
    fn a_halt_earns_nothing_and_its_trip_counts_whenever_it_is_seen() {
        let mut all = begun(&[1_000, 5_000], 3);
        look(&mut all, 0, 0, 0);
        // The orders that led to the trip are counted, the trip is not yet; the page is raised already.
        let halted = |admitted, breaches| move |_: &ScopeName| Counts { admitted, breaches, halted: true };
        assert_eq!(all.look(halted(50, 0), at(20 * SECOND)), []);
        assert_eq!(all.look(halted(50, 1), at(21 * SECOND)).first().map(|(_, how)| *how), Some(Moved::Back));
        assert_eq!(all.look(halted(50, 1), at(60 * SECOND)), []);
        // Re-armed: it begins here.
        assert_eq!(look(&mut all, 53, 1, 69), None, "nine seconds");
        assert_eq!(look(&mut all, 53, 1, 70), Some(Moved::Up));
    }

    #[test]
    fn a_restart_keeps_the_step_and_begins_its_time_anew() {
        let mut all = begun(&[1_000, 5_000], 0);
        look(&mut all, 0, 0, 0);
        look(&mut all, 0, 0, 10);
        let text = serde_json::to_string(&all.list).unwrap();
        let mut again = Probations::default();
        again.restore(serde_json::from_str(&text).unwrap());
        // The counters of the new run begin at nothing: that is no breach.
        assert_eq!(look(&mut again, 0, 0, 1_000), None);
        assert_eq!(again.iter().next().unwrap().fraction_bps(), 5_000);
        assert_eq!(look(&mut again, 0, 0, 1_009), None);
        assert_eq!(look(&mut again, 0, 0, 1_010), Some(Moved::Over));
    }

    #[test]
    fn a_person_promotes_everything_at_the_scope_and_nothing_else() {
        let mut all = begun(&[1_000], 0);
        let steps = Steps { bps: vec![2_500], clean_ns: 1, clean_volume: 0 };
        let begin = Begin { by: "rita", now: at(0), counts: None };
        assert!(all.begin(2, alpha(), After::Rearm(9), steps.clone(), begin));
        let firm = ScopeName { kind: "firm".into(), name: String::new() };
        assert!(all.begin(3, firm.clone(), After::Rearm(9), steps, begin));
        assert_eq!(all.promote(&alpha()).len(), 2);
        assert_eq!(all.iter().map(|p| p.scope.clone()).collect::<Vec<_>>(), [firm]);
        assert!(all.promote(&alpha()).is_empty());
    }

    /// Random streams of time, orders, breaches and restarts: never above what is configured, never up without a clean
    /// stretch, at the first step after every breach.
    #[test]
    fn whatever_happens_it_is_never_above_what_is_configured_and_never_up_unearned() {
        let universe = universe();
        let mut configured = LimitTable::unlimited(&universe);
        let scope = Scope::Strategy(StrategyId(0));
        configured.edit(&universe, scope).max[Gauge::Gross as usize] = 997;
        for seed in 0..200u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut random = |below: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % below
            };
            let volume = random(4);
            let mut all = begun(&[1_000, 2_500, 5_000], volume);
            let (mut now, mut counts, mut clean_from, mut orders) = (0, Counts::default(), None, 0);
            for _ in 0..200 {
                now += random(5 * SECOND);
                let breach = random(12) == 0;
                let admitted = random(3);
                counts.admitted += admitted;
                counts.breaches += u64::from(breach);
                if random(40) == 0 {
                    let text = serde_json::to_string(&all.list).unwrap();
                    all = Probations::default();
                    all.restore(serde_json::from_str(&text).unwrap());
                    (counts, clean_from) = (Counts::default(), None);
                }
                let before = all.iter().next().map(|p| p.step);
                let watched = clean_from.is_some();
                let moved = all.look(|_| counts, at(now)).first().map(|(_, how)| *how);
                orders += admitted;
                match (before, moved) {
                    (None, moved) => assert_eq!(moved, None),
                    (Some(_), Some(Moved::Back)) => assert!(watched && all.iter().next().unwrap().step == 0),
                    (Some(_), Some(Moved::Up | Moved::Over)) => {
                        assert!(!breach && now - clean_from.unwrap() >= 10 * SECOND && orders >= volume, "seed {seed}");
                    }
                    (Some(step), Some(Moved::Stays) | None) => {
                        assert!(!(breach && watched), "seed {seed}: a breach went by");
                        assert_eq!(all.iter().next().unwrap().step, step);
                    }
                }
                if moved.is_some() || !watched {
                    (clean_from, orders) = (Some(now), 0);
                }
                let made = in_effect(&configured, &universe, &all.overlays(&universe));
                let gross = made.scope(&universe, scope).unwrap().of(Gauge::Gross);
                let expected = all.iter().next().map_or(997, |p| 997 * i64::from(p.fraction_bps()) / 10_000);
                assert_eq!(gross, expected);
                assert!(gross <= 997);
            }
        }
    }
}
