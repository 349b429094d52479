//! The morning with the guard beside it: each control of the guard alone, everything together, and a path that goes round
//! haltline.
//!
//! The guard's own story begins days before the open; the orders begin with it. What the guard halts before the open is halted
//! when the orders begin.

use super::*;
use crate::demo::morning::guard::{Guard, GuardControl, Halt, RAMP_BPS, Said};
use crate::demo::morning::story::{StoryNs, clock_text};
use crate::guard::peers::Counts;
use crate::limits::demand::rules_of;
use crate::limits::overlay::in_effect;
use crate::limits::{RateKind, RateLimit, RateOf};
use crate::model::effect::Trip;
use crate::units::SessionId;

/// Orders a second that a strategy may send while the ramp is tried: a third more than the old code does.
const GENEROUS_PER_S: u32 = 2_000;

/// How far the bad instance had come at some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// When; negative before the open.
    pub at: StoryNs,
    /// Orders that it had asked for.
    pub order: u64,
    /// Its executions.
    pub executions_out: u64,
    /// The position that they had made, gross, in cents.
    pub gross_cents: i64,
    /// The same net.
    pub net_cents: i64,
}

/// What a control of the guard did alone, or everything together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardAlone {
    /// Which control of the guard, or the one of it that was first; `None`: a limit was.
    pub control: Option<GuardControl>,
    /// What was out when it fired.
    pub fired: Option<Moment>,
    /// What it said.
    pub text: String,
    /// What was halted, and when, in that order. Of what people did nothing.
    pub halted: Vec<(StoryNs, Scope)>,
    /// And then.
    pub outcome: Outcome,
    /// Orders of instances that were admitted after they were halted.
    pub admitted_after_halt: u64,
    /// Whether orders of the healthy instances were denied as well.
    pub healthy_denied: bool,
}

/// What was found out about every control.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Limits, in check order.
    pub limits: Vec<Alone>,
    /// Controls of the guard, in the order of their links.
    pub guard: Vec<GuardAlone>,
    /// All of both.
    pub together: GuardAlone,
    /// Coverage, where the path of the old code has none of the limits that are mandatory; `None`: none is.
    pub uncovered: Option<Alone>,
    /// What hears of executions alone, on a path that asks nobody: orphan fills, if they are limited.
    pub around: Option<Alone>,
    /// The age of what is heard, where the line of the bad instance is slow.
    pub late: Alone,
    /// Whether the collar was looked at for every order.
    pub covered: Covered,
}

impl Trial {
    /// What each control does alone, and all of them together. `done` is told how much is known, of how much.
    ///
    /// # Errors
    /// If the universe lacks a session, a strategy or a symbol of the scenario.
    pub fn run_all(&self, done: impl Fn(u64, u64)) -> anyhow::Result<Found> {
        let of = armed(&self.universe, &self.limits).len() as u64 + GuardControl::ALL.len() as u64;
        let mut guard = Vec::new();
        for control in GuardControl::ALL {
            done(guard.len() as u64, of);
            guard.push(self.guard_alone(control)?);
        }
        let together = self.together()?;
        let (around, uncovered, late) = (self.around()?, self.uncovered()?, self.late()?);
        let (limits, covered) = self.limits_alone(&|known, _| done(known + GuardControl::ALL.len() as u64, of))?;
        Ok(Found { limits, guard, together, uncovered, around, late, covered })
    }

    /// `control` of the guard alone, nothing limited; the ramp, which is a fraction of limits, over generous ones.
    ///
    /// # Errors
    /// See [`Trial::run_all`].
    pub fn guard_alone(&self, control: GuardControl) -> anyhow::Result<GuardAlone> {
        if control == GuardControl::Ramp {
            return self.ramp(true)?.watch_guard(Some(control));
        }
        self.guarded(&[], &[control])?.watch_guard(Some(control))
    }

    /// The morning under a rate of orders that the old code stays below, or under the fraction of it that new builds begin with.
    pub(super) fn ramp(&self, on_probation: bool) -> anyhow::Result<Morning> {
        let mut table = LimitTable::unlimited(&self.universe);
        table.edit_all(ScopeKind::Strategy).rates.push(RateLimit {
            of: RateOf::Orders,
            kind: RateKind::Sliding,
            count: GENEROUS_PER_S,
            window_ns: 1_000_000_000,
            action: Action::Halt(Target::Own),
        });
        let controls = [ScopeKind::Strategy, ScopeKind::Session].map(|scope| Control { rule: Rule::OrderRate, scope });
        let made = Morning::new(&self.universe, Arc::new(table.clone()), &controls, &self.cast, self.seed)?;
        let mut morning = self.beside(made, &[GuardControl::Ramp])?;
        morning.before_the_open();
        let overlays = morning.guard.as_ref().filter(|_| on_probation).map(|guarded| guarded.guard.probation());
        let mut begun = in_effect(&table, &self.universe, &overlays.unwrap_or_default());
        begun.generation += 1;
        morning.set_limits(Arc::new(begun));
        Ok(morning)
    }

    /// Coverage alone: what is mandatory is, and the strategy of the old code has no limit for any of it, as its path had
    /// none; the others have theirs. `None` if nothing is mandatory.
    ///
    /// # Errors
    /// See [`Trial::run_all`].
    pub fn uncovered(&self) -> anyhow::Result<Option<Alone>> {
        let old = Route::find(&self.universe, &self.cast.bad)?.strategy;
        let mut table = LimitTable::unlimited(&self.universe);
        let (mut controls, mut demanded) = (Vec::new(), 0);
        for scope in ScopeKind::ALL.into_iter().flat_map(|kind| scopes(&self.universe, kind)) {
            let bits = self.limits.scope(&self.universe, scope).map_or(0, |limits| limits.demanded);
            if bits == 0 {
                continue;
            }
            table.edit(&self.universe, scope).demanded = bits;
            demanded |= bits;
            let control = Control { rule: Rule::Coverage, scope: scope.kind() };
            if !controls.contains(&control) {
                controls.push(control);
            }
        }
        let Some(first) = controls.first().copied() else { return Ok(None) };
        let rules: Vec<Rule> = rules_of(demanded).chain([Rule::Coverage]).collect();
        for s in (0..self.universe.strategies.len() as u16).map(StrategyId).filter(|s| *s != old) {
            table.hold_to_parents(s, self.limits.parents(s));
            if let Some(full) = self.limits.scope(&self.universe, Scope::Strategy(s)) {
                *table.edit(&self.universe, Scope::Strategy(s)) = only(full, &rules);
            }
        }
        for i in (0..self.universe.instruments.len() as u32).map(InstrumentId) {
            table.set_reference_age(i, self.limits.reference_age(i));
        }
        let mut morning = Morning::new(&self.universe, Arc::new(table), &controls, &self.cast, self.seed)?;
        let alone = morning.watch(first);
        Ok(Some(Alone { control: morning.fired.map_or(first, |(control, _)| control), ..alone }))
    }

    /// All that `limits` arms, and all of the guard: until the first of them has fired and its effect is known.
    ///
    /// # Errors
    /// See [`Trial::run_all`].
    pub fn together(&self) -> anyhow::Result<GuardAlone> {
        self.guarded(&self.everything(), &GuardControl::HALTING)?.watch_guard(None)
    }

    /// Orphan fills alone, where the bad instance asks nobody and its executions are all that is heard of it; `None` if
    /// nothing limits them.
    ///
    /// # Errors
    /// See [`Trial::run_all`].
    pub fn around(&self) -> anyhow::Result<Option<Alone>> {
        let controls = armed(&self.universe, &self.limits);
        let Some(control) = controls.into_iter().find(|c| c.rule == Rule::OrphanFills) else { return Ok(None) };
        let mut morning = self.morning(&[control])?;
        morning.around = true;
        Ok(Some(morning.watch(control)))
    }

    /// All that is limited, and all that is mandatory.
    pub(super) fn everything(&self) -> Vec<Control> {
        let mut controls = armed(&self.universe, &self.limits);
        controls.extend(ScopeKind::ALL.map(|scope| Control { rule: Rule::Coverage, scope }));
        controls
    }

    pub(super) fn guarded(&self, limits: &[Control], guard: &[GuardControl]) -> anyhow::Result<Morning> {
        self.beside(self.morning(limits)?, guard)
    }

    /// `morning` with the guard's controls beside it.
    fn beside(&self, mut morning: Morning, guard: &[GuardControl]) -> anyhow::Result<Morning> {
        let guard = Guard::new(&self.universe, &self.cast.sessions(), guard, &self.settings, self.plot)?;
        let counts = self.universe.sessions.iter().map(|_| InstanceCounts::default()).collect();
        let admitted_at_halt = vec![None; morning.gateways.len()];
        morning.guard = Some(Guarded { guard, counts, epoch: 0, fired: None, halted: Vec::new(), admitted_at_halt });
        Ok(morning)
    }
}

/// The guard of a morning, and what came of it.
pub(super) struct Guarded {
    pub(super) guard: Guard,
    /// By session.
    counts: Vec<InstanceCounts>,
    epoch: u64,
    /// When its first control fired.
    pub(super) fired: Option<Moment>,
    halted: Vec<(StoryNs, Scope)>,
    /// Orders that each gateway had admitted when its session was halted.
    admitted_at_halt: Vec<Option<u64>>,
}

impl Guarded {
    /// When it next has something to do; what was due before the open is due with it.
    pub(super) fn next_at(&self) -> u64 {
        self.guard.next_at().max(0).cast_unsigned()
    }
}

impl Morning {
    /// Lets everything happen that happens before the open.
    pub(super) fn before_the_open(&mut self) {
        loop {
            let guard = self.guard.as_ref().map(|guarded| guarded.guard.next_at()).filter(|at| *at < 0);
            match (guard, self.parent_due()) {
                (Some(at), due) if due.is_none_or(|due| at <= due) => self.guard_round(at, story_clock(at)),
                (_, Some(_)) => self.tell_parent(),
                (_, None) => break,
            }
        }
    }

    fn moment(&mut self, at: StoryNs) -> Moment {
        let bad = self.bad();
        let (gross_cents, net_cents) = self.gateways[bad].exposure_cents(at.max(0).cast_unsigned());
        let tally = self.gateways[bad].tally();
        Moment { at, order: tally.attempts, executions_out: tally.executions, gross_cents, net_cents }
    }

    /// The guard does what is due at `at`, when the engine's clock shows `now`.
    pub(super) fn guard_round(&mut self, at: StoryNs, now: Now) {
        let Some(guarded) = &mut self.guard else { return };
        // Whose silence says nothing: who may not trade, and everybody before the open.
        let halted = |scope: Scope| self.latched.is_some_and(|(_, of)| of == scope || !matches!(of, Scope::Session(_)));
        let count = |(session, c): (usize, &InstanceCounts)| {
            let scope = Scope::Session(SessionId(session as u16));
            let latched = self.latched.is_some_and(|(_, of)| of == scope);
            let away = latched || guarded.halted.iter().any(|(_, of)| *of == scope);
            let excused = at < 0 || halted(scope) || away;
            Counts { orders: c.orders.get(), fills: c.fills.get(), rejects: c.rejects.get(), excused, away }
        };
        let counts: Vec<Counts> = guarded.counts.iter().enumerate().map(count).collect();
        let halts = guarded.guard.advance(at, &counts);
        let fires = guarded.fired.is_none() && guarded.guard.said().is_some();
        let moment = fires.then(|| self.moment(at));
        let Some(guarded) = &mut self.guard else { return };
        guarded.fired = guarded.fired.or(moment);
        for Halt { at, scope, of_story } in halts {
            guarded.epoch += 1;
            let mode = Mode::Halted;
            self.effects.clear();
            let command = Command::Mode { scope, mode, epoch: guarded.epoch };
            self.engine.command(now, command, &mut self.effects);
            if !of_story {
                guarded.halted.push((at, scope));
                self.latched = self.latched.or(Some((mode, scope)));
            }
            for (gateway, admitted) in self.gateways.iter().zip(&mut guarded.admitted_at_halt) {
                if gateway.route().is_covered_by(scope) {
                    admitted.get_or_insert(gateway.tally().admitted);
                }
            }
        }
    }

    /// Counts `event` of its session, as the service does for the guard.
    pub(super) fn count(&self, event: &Event) {
        if let Some(counts) = self.guard.as_ref().and_then(|g| g.counts.get(usize::from(event.session.0))) {
            counts.count(event.kind);
        }
    }

    /// A halt by a limit is an incident.
    pub(super) fn tell_guard_of(&mut self, trip: &Trip) {
        if let Some(guarded) = &mut self.guard {
            guarded.guard.incident(trip.scope, format!("{:?} is halted by {}", trip.scope, trip.cause.rule.name()));
        }
    }

    /// `event` of a gateway that asks nobody: its orders are at the venue at once, what is executed is told.
    pub(super) fn go_around(&mut self, at: u64, gateway: usize, event: Event) {
        if event.kind.is_request() {
            self.gateways[gateway].verdict(at, event.kind, event.id.0, None);
        } else if event.kind == EventKind::Fill {
            self.step(at, gateway, event);
        }
    }

    /// Runs the story and the orders until a control of the guard, or a limit if any is armed, has fired and its effect
    /// is known.
    fn watch_guard(mut self, alone: Option<GuardControl>) -> anyhow::Result<GuardAlone> {
        self.before_the_open();
        let fired = loop {
            let by_limit = self.fired.map(|(_, f)| Moment {
                at: f.at_ns.cast_signed(),
                order: f.order,
                executions_out: f.executions_out,
                gross_cents: f.gross_cents,
                net_cents: f.net_cents,
            });
            if let Some(moment) = self.guard.as_ref().and_then(|g| g.fired).or(by_limit) {
                break Some(moment);
            }
            let (at, due) = self.next();
            if at >= MORNING_NS {
                break None;
            }
            self.advance(at, &due);
        };
        let outcome = match fired {
            None => Outcome::Never,
            Some(moment) => self.outcome(moment.at.max(0).cast_unsigned(), moment.executions_out),
        };
        let Some(Guarded { guard, halted, admitted_at_halt, .. }) = &self.guard else {
            anyhow::bail!("a morning without a guard was to be guarded");
        };
        let admitted = self.gateways.iter().zip(admitted_at_halt);
        let mut halted = halted.clone();
        let (control, text) = match (guard.said(), self.fired) {
            // Its limit is breached, its fraction is why.
            (None, Some((control, fired))) if alone == Some(GuardControl::Ramp) => {
                halted.extend(self.latched.map(|(_, scope)| (fired.at_ns.cast_signed(), scope)));
                let (rule, Denial { observed, limit, .. }) = (control.rule.name(), fired.denial);
                let percent = RAMP_BPS / 100;
                (alone, format!("{rule} {observed} > {limit}, {percent}% of {GENEROUS_PER_S} per 1s: a new build"))
            }
            (Some(Said { control, text, .. }), _) => (Some(*control), text.clone()),
            (None, Some((control, _))) => (None, control.rule.name().to_owned()),
            (None, None) => (alone, String::new()),
        };
        Ok(GuardAlone {
            control,
            fired,
            text,
            halted,
            outcome,
            admitted_after_halt: admitted.filter_map(|(g, at)| Some(g.tally().admitted - (*at)?)).sum(),
            healthy_denied: self.healthy_denied,
        })
    }
}

impl Moment {
    /// When, as a clock in New York shows it.
    #[must_use]
    pub fn clock(&self) -> String {
        clock_text(self.at)
    }
}
