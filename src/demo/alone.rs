//! Each control alone: the whole morning, in process, against an engine with one control armed.
//!
//! What the service's configuration arms is taken apart into pairs of rule and kind of scope. Each is put
//! into a table in which everything else is unlimited, and the morning runs against a fresh engine until
//! the control has fired and its effect is known, or the morning is over. Time is scenario time, so a
//! run takes as long as the engine needs for it and its outcome does not depend on the machine.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use super::gateway::{Gateway, MarketData, Route};
use super::knight::{HEALTHY, MORNING_NS};
use crate::engine::core::{Engine, Sizing};
use crate::limits::{Gauge, LimitTable, ScopeLimits, SideRule, UNLIMITED};
use crate::model::effect::Denial;
use crate::model::{Action, Effects, Event, EventKind, Mode, Rule, Scope, ScopeKind, Universe};
use crate::units::{CurrencyId, InstrumentId, MonoNanos, Now, StrategyId, UnixNanos};

/// One rule at one kind of scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// The rule.
    pub rule: Rule,
    /// Where its limit stands.
    pub scope: ScopeKind,
}

/// When a control fired first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fired {
    /// Rule, scope, observed value and limit, as the engine gave them.
    pub denial: Denial,
    /// Scenario time.
    pub at_ns: u64,
    /// How many orders the bad instance had asked for.
    pub order: u64,
    /// How many executions of the bad instance were out.
    pub executions_out: u64,
    /// The position that they had made, gross, in cents.
    pub gross_cents: i64,
    /// The same net: long less short.
    pub net_cents: i64,
}

/// What became of the bad flow after the control had fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The control did not fire all morning.
    Never,
    /// No more executions.
    Stopped {
        /// What was latched, if anything: otherwise every order was denied on its own.
        latched: Option<(Mode, Scope)>,
        /// The last execution, scenario time.
        last_ns: u64,
        /// Executions in all.
        executions: u64,
    },
    /// It goes on.
    GoesOn {
        /// At so many executions per second.
        executions_per_s: u64,
    },
}

/// One control's run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alone {
    /// Which control.
    pub control: Control,
    /// When it fired.
    pub fired: Option<Fired>,
    /// And then.
    pub outcome: Outcome,
    /// Whether orders of the healthy instances were denied as well.
    pub healthy_denied: bool,
}

/// Which sessions and strategies play in the morning.
#[derive(Clone, Debug)]
pub struct Cast {
    /// The healthy instances.
    pub healthy: Vec<String>,
    /// What they trade as.
    pub healthy_strategy: String,
    /// The instance that runs the old code.
    pub bad: String,
    /// What that code trades as.
    pub bad_strategy: String,
    /// The source of reference prices.
    pub market_data: String,
}

impl Default for Cast {
    fn default() -> Self {
        Cast {
            healthy: (1..=HEALTHY).map(|i| format!("smars-{i}")).collect(),
            healthy_strategy: "smars".to_owned(),
            bad: format!("smars-{}", HEALTHY + 1),
            bad_strategy: "power-peg".to_owned(),
            market_data: "market-data".to_owned(),
        }
    }
}

impl Cast {
    /// The healthy instances, then the bad one.
    ///
    /// # Errors
    /// If the universe lacks a name of the cast's or a symbol.
    pub fn gateways(&self, universe: &Universe, seed: u64) -> anyhow::Result<Vec<Gateway>> {
        let mut gateways = Vec::with_capacity(self.healthy.len() + 1);
        for (i, name) in self.healthy.iter().enumerate() {
            gateways.push(Gateway::healthy(Route::find(universe, name, &self.healthy_strategy)?, seed, i));
        }
        gateways.push(Gateway::old_code(Route::find(universe, &self.bad, &self.bad_strategy)?, seed));
        Ok(gateways)
    }

    /// The names of their sessions, in the same order.
    #[must_use]
    pub fn sessions(&self) -> Vec<String> {
        self.healthy.iter().chain([&self.bad]).cloned().collect()
    }
}

/// No execution for this long, scenario time, and the flow counts as stopped.
const QUIET_NS: u64 = 5_000_000_000;
/// How long a control that fired may take to stop the flow, scenario time.
const PATIENCE_NS: u64 = 60_000_000_000;
/// How often the engine is told that time has passed, scenario time.
const TICK_NS: u64 = 10_000_000;
/// The engine's clock at the open: not zero, so that a window may reach back before it.
const OPEN: Now = Now { mono: MonoNanos(100_000_000_000), unix: UnixNanos(1_343_827_800_000_000_000) };

/// Every scope of `kind`, pairs included.
fn scopes(universe: &Universe, kind: ScopeKind) -> Vec<Scope> {
    if kind == ScopeKind::Pair {
        let strategies = 0..universe.strategies.len() as u16;
        return strategies
            .flat_map(|s| {
                (0..universe.instruments.len() as u32).map(move |i| Scope::Pair(StrategyId(s), InstrumentId(i)))
            })
            .collect();
    }
    (0..universe.scope_count()).filter_map(|slot| universe.scope_at(slot)).filter(|s| s.kind() == kind).collect()
}

/// Whether `limits` limits anything by `rule`.
fn is_armed(limits: &ScopeLimits, rule: Rule) -> bool {
    match rule {
        Rule::OrderQty => limits.order_qty < UNLIMITED,
        Rule::OrderNotional => limits.order_notional < UNLIMITED,
        Rule::OrderParticipation => limits.order_participation < UNLIMITED,
        Rule::Collar => limits.collar < UNLIMITED,
        Rule::DuplicateOrder => limits.duplicate.is_some(),
        Rule::OrderRate | Rule::MessageRate | Rule::CancelRate | Rule::Denials => {
            limits.rates.iter().any(|r| r.of.rule() == rule)
        }
        Rule::HeartbeatLoss => limits.heartbeat_ns < UNLIMITED,
        Rule::ClockSkew => limits.clock_skew_ns < UNLIMITED,
        Rule::StreamGap => limits.action[rule as usize] != Action::Deny,
        Rule::SidePermission => limits.sides != SideRule::Both,
        Rule::PositionLong
        | Rule::PositionShort
        | Rule::DayParticipation
        | Rule::GrossExposure
        | Rule::NetLong
        | Rule::NetShort
        | Rule::WorkingOrders
        | Rule::RepeatedOrders
        | Rule::RepeatedExecutions
        | Rule::DailyLoss
        | Rule::Drawdown
        | Rule::LossVelocity => Gauge::of(rule).is_some_and(|gauge| limits.of(gauge) < UNLIMITED),
        // These have no number that a scope could be given.
        Rule::Malformed
        | Rule::Capacity
        | Rule::Mode
        | Rule::UnknownEntity
        | Rule::DuplicateId
        | Rule::UnknownOrder
        | Rule::Permission
        | Rule::Restricted => false,
    }
}

/// Limits in which only `rule` is as in `full`.
fn only(full: &ScopeLimits, rule: Rule) -> ScopeLimits {
    let mut limits = ScopeLimits::unlimited();
    limits.action[rule as usize] = full.action[rule as usize];
    limits.warn[rule as usize] = full.warn[rule as usize];
    limits.loss_window_ns = full.loss_window_ns;
    limits.rates = full.rates.iter().filter(|r| r.of.rule() == rule).copied().collect();
    if let Some(gauge) = Gauge::of(rule) {
        limits.max[gauge as usize] = full.of(gauge);
    }
    match rule {
        Rule::OrderQty => limits.order_qty = full.order_qty,
        Rule::OrderNotional => limits.order_notional = full.order_notional,
        Rule::OrderParticipation => limits.order_participation = full.order_participation,
        Rule::Collar => limits.collar = full.collar,
        Rule::DuplicateOrder => limits.duplicate = full.duplicate,
        Rule::HeartbeatLoss => limits.heartbeat_ns = full.heartbeat_ns,
        Rule::ClockSkew => limits.clock_skew_ns = full.clock_skew_ns,
        Rule::SidePermission => limits.sides = full.sides,
        _ => {}
    }
    limits
}

/// Every control that `limits` arms, in check order.
#[must_use]
pub fn armed(universe: &Universe, limits: &LimitTable) -> Vec<Control> {
    let by_kind = ScopeKind::ALL.map(|kind| (kind, scopes(universe, kind)));
    let mut controls = Vec::new();
    for rule in Rule::ALL {
        for (kind, scopes) in &by_kind {
            let is_armed = |s: &Scope| limits.scope(universe, *s).is_some_and(|l| is_armed(l, rule));
            if scopes.iter().any(is_armed) {
                controls.push(Control { rule, scope: *kind });
            }
        }
    }
    controls
}

/// A table in which `control` is as in `full` and everything else is unlimited.
#[must_use]
pub fn isolated(universe: &Universe, full: &LimitTable, control: Control) -> LimitTable {
    let mut table = LimitTable::unlimited(universe);
    for scope in scopes(universe, control.scope) {
        if let Some(limits) = full.scope(universe, scope).filter(|l| is_armed(l, control.rule)) {
            *table.edit(universe, scope) = only(limits, control.rule);
        }
    }
    for i in 0..universe.instruments.len() as u32 {
        table.set_reference_age(InstrumentId(i), full.reference_age(InstrumentId(i)));
    }
    for c in 0..universe.currencies.len() as u16 {
        table.set_fx_age(CurrencyId(c), full.fx_age(CurrencyId(c)));
    }
    table
}

/// The morning against an engine, in process.
struct Morning {
    engine: Engine,
    effects: Effects,
    /// The healthy instances, then the bad one.
    gateways: Vec<Gateway>,
    /// The last sequence number of each gateway, then that of the market data.
    seqs: Vec<u64>,
    market_data: MarketData,
    control: Control,
    fired: Option<Fired>,
    latched: Option<(Mode, Scope)>,
    healthy_denied: bool,
}

/// Runs the morning of `seed` with only `control` of `limits` armed.
///
/// # Errors
/// If the universe lacks a session, a strategy or a symbol of the scenario.
pub fn run(
    universe: &Arc<Universe>,
    limits: &LimitTable,
    control: Control,
    cast: &Cast,
    seed: u64,
) -> anyhow::Result<Alone> {
    let table = Arc::new(isolated(universe, limits, control));
    let gateways = cast.gateways(universe, seed)?;
    let sizing = Sizing {
        working_orders: 1 << 16,
        remembered_orders: 1 << 16,
        // Every execution of a whole morning: four million bad ones and less than one million others.
        execs: 5_000_000,
        ..Sizing::default()
    };
    let mut morning = Morning {
        engine: Engine::new(universe.clone(), table, sizing, OPEN),
        effects: Effects::new(),
        seqs: vec![0; gateways.len() + 1],
        gateways,
        market_data: MarketData::new(universe, &cast.market_data, seed)?,
        control,
        fired: None,
        latched: None,
        healthy_denied: false,
    };
    Ok(morning.run())
}

/// As [`run`] for each of `controls`, on all cores; `done` is told how many have been run.
///
/// # Errors
/// See [`run`].
pub fn run_all(
    universe: &Arc<Universe>,
    limits: &LimitTable,
    controls: &[Control],
    cast: &Cast,
    seed: u64,
    done: &(dyn Fn(u64) + Sync),
) -> anyhow::Result<Vec<Alone>> {
    let next = AtomicUsize::new(0);
    let finished = AtomicU64::new(0);
    let results: Mutex<Vec<(usize, anyhow::Result<Alone>)>> = Mutex::new(Vec::new());
    let work = || {
        while let Some((i, control)) = Some(next.fetch_add(1, Relaxed)).and_then(|i| Some((i, *controls.get(i)?))) {
            let result = run(universe, limits, control, cast, seed);
            results.lock().unwrap_or_else(PoisonError::into_inner).push((i, result));
            done(finished.fetch_add(1, Relaxed) + 1);
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores.min(controls.len()) {
            scope.spawn(work);
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(i, _)| *i);
    results.into_iter().map(|(_, result)| result).collect()
}

fn clock(at: u64) -> Now {
    Now { mono: MonoNanos(OPEN.mono.0 + at), unix: UnixNanos(OPEN.unix.0 + at) }
}

impl Morning {
    fn bad(&self) -> usize {
        self.gateways.len() - 1
    }

    fn run(&mut self) -> Alone {
        let bad = self.bad();
        let mut next_tick = 0;
        let mut end = MORNING_NS;
        // Executions of the bad instance at the start of the present quiet period, and when it began.
        let mut quiet = (0, 0);
        loop {
            let gateway = (0..self.gateways.len())
                .filter_map(|g| Some((self.gateways[g].next_at()?, g)))
                .min()
                .unwrap_or((u64::MAX, bad));
            let at = gateway.0.min(self.market_data.next_at()).min(next_tick);
            if at >= end {
                break;
            }
            if at == next_tick {
                next_tick += TICK_NS;
                self.effects.clear();
                self.engine.tick(clock(at), &mut self.effects);
                self.look(at);
            } else if at == self.market_data.next_at() {
                if let Some(mark) = self.market_data.poll(at) {
                    self.step(at, self.gateways.len(), mark);
                }
            } else if let Some(event) = self.gateways[gateway.1].poll(at) {
                self.step(at, gateway.1, event);
            }
            let executions = self.gateways[bad].tally().executions;
            if let Some(fired) = self.fired {
                if quiet.1 == 0 {
                    end = (fired.at_ns + PATIENCE_NS).min(MORNING_NS);
                }
                if quiet.1 == 0 || quiet.0 != executions {
                    quiet = (executions, at);
                } else if at - quiet.1 >= QUIET_NS {
                    break;
                }
            }
        }
        let tally = self.gateways[bad].tally();
        let outcome = match self.fired {
            None => Outcome::Never,
            Some(_) if tally.last_execution_ns + QUIET_NS <= end && quiet.0 == tally.executions => Outcome::Stopped {
                latched: self.latched,
                last_ns: tally.last_execution_ns,
                executions: tally.executions,
            },
            Some(fired) => Outcome::GoesOn {
                executions_per_s: (tally.executions - fired.executions_out) * 1_000_000_000
                    / (end - fired.at_ns).max(1),
            },
        };
        Alone { control: self.control, fired: self.fired, outcome, healthy_denied: self.healthy_denied }
    }

    fn step(&mut self, at: u64, source: usize, mut event: Event) {
        self.seqs[source] += 1;
        event.seq = self.seqs[source];
        event.sent_at = clock(at).unix;
        self.effects.clear();
        self.engine.step(clock(at), &event, &mut self.effects);
        if source < self.gateways.len()
            && let Some(verdict) = self.effects.verdict()
        {
            let denied = verdict.denial.map(|d| (d.rule, d.scope));
            self.healthy_denied |= denied.is_some() && source != self.bad();
            self.gateways[source].verdict(at, event.kind, event.id.0, denied);
        }
        self.look(at);
    }

    /// Looks for the control among the effects of a step.
    fn look(&mut self, at: u64) {
        let denied = self.effects.verdict().filter(|v| v.kind != EventKind::Cancel).and_then(|v| v.denial);
        let tripped = self.effects.trips().next().copied();
        if let Some(trip) = tripped {
            self.latched = self.latched.max(Some((trip.mode, trip.scope)));
        }
        let causes = denied.into_iter().chain(tripped.map(|t| t.cause));
        if self.fired.is_none()
            && let Some(denial) = causes.into_iter().find(|d| d.rule == self.control.rule)
        {
            let bad = self.bad();
            let (gross_cents, net_cents) = self.gateways[bad].exposure_cents(at);
            let tally = self.gateways[bad].tally();
            self.fired = Some(Fired {
                denial,
                at_ns: at,
                order: tally.attempts,
                executions_out: tally.executions,
                gross_cents,
                net_cents,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::gateway::tests::universe;
    use super::*;
    use crate::limits::{RateKind, RateLimit, RateOf};
    use crate::model::Target;

    fn rate(count: u32, action: Action) -> RateLimit {
        RateLimit { of: RateOf::Orders, kind: RateKind::Sliding, count, window_ns: 1_000_000_000, action }
    }

    fn run_with(control: Control, edit: impl FnOnce(&Universe, &mut LimitTable)) -> Alone {
        let universe = Arc::new(universe());
        let mut limits = LimitTable::unlimited(&universe);
        edit(&universe, &mut limits);
        assert_eq!(armed(&universe, &limits), vec![control]);
        run(&universe, &limits, control, &Cast::default(), 70_694).unwrap()
    }

    #[test]
    fn an_unlimited_table_arms_nothing_and_a_closed_one_all_that_applies() {
        let universe = universe();
        assert_eq!(armed(&universe, &LimitTable::unlimited(&universe)), vec![]);
        let closed = armed(&universe, &LimitTable::closed(&universe));
        for rule in Rule::ALL {
            for scope in ScopeKind::ALL {
                // A gap has an action but no number: closing leaves it as it is.
                let expected = crate::model::rule::applies(rule, scope) && rule != Rule::StreamGap;
                assert_eq!(closed.contains(&Control { rule, scope }), expected, "{rule:?} at {scope:?}");
            }
        }
    }

    #[test]
    fn isolating_keeps_one_rule_at_one_kind_of_scope() {
        let universe = universe();
        let full = LimitTable::closed(&universe);
        for control in armed(&universe, &full) {
            assert_eq!(armed(&universe, &isolated(&universe, &full, control)), vec![control]);
        }
    }

    #[test]
    fn a_halting_rate_stops_the_bad_instance_at_the_first_order_beyond_it() {
        let control = Control { rule: Rule::OrderRate, scope: ScopeKind::Session };
        let alone = run_with(control, |_, limits| {
            limits.edit_all(ScopeKind::Session).rates = vec![rate(300, Action::Halt(Target::Own))];
        });
        let fired = alone.fired.unwrap();
        // Order 301 comes 300 × 675 µs after the first, well within the second.
        assert_eq!((fired.order, fired.at_ns), (301, 300 * 675_000));
        assert!((299..=300).contains(&fired.executions_out));
        assert!(fired.gross_cents > 0 && fired.net_cents.abs() <= fired.gross_cents);
        let Outcome::Stopped { latched, executions, .. } = alone.outcome else { panic!("{:?}", alone.outcome) };
        assert_eq!((latched.unwrap().0, executions), (Mode::Halted, 300));
        assert!(!alone.healthy_denied);
    }

    #[test]
    fn a_denying_rate_only_slows_the_flow() {
        let control = Control { rule: Rule::OrderRate, scope: ScopeKind::Session };
        let alone = run_with(control, |_, limits| {
            limits.edit_all(ScopeKind::Session).rates = vec![rate(300, Action::Deny)];
        });
        let Outcome::GoesOn { executions_per_s } = alone.outcome else { panic!("{:?}", alone.outcome) };
        assert!((290..=310).contains(&executions_per_s), "{executions_per_s}");
    }

    #[test]
    fn a_gross_cap_stops_it_without_a_latch() {
        let control = Control { rule: Rule::GrossExposure, scope: ScopeKind::Firm };
        let alone = run_with(control, |_, limits| {
            limits.edit_all(ScopeKind::Firm).max[Gauge::Gross as usize] = 50_000_000_00;
        });
        let fired = alone.fired.unwrap();
        assert!((10_000_000_000..40_000_000_000).contains(&fired.at_ns), "{}", fired.at_ns);
        // The healthy instances hold the rest.
        assert!((40_000_000_00..=50_000_000_00).contains(&fired.gross_cents), "{}", fired.gross_cents);
    }

    #[test]
    fn a_run_is_the_same_every_time() {
        let run = || {
            run_with(Control { rule: Rule::RepeatedExecutions, scope: ScopeKind::Firm }, |_, limits| {
                let firm = limits.edit_all(ScopeKind::Firm);
                firm.max[Gauge::Executions as usize] = 5_000;
                firm.action[Rule::RepeatedExecutions as usize] = Action::Halt(Target::Own);
            })
        };
        assert_eq!(run(), run());
        assert!(run().healthy_denied, "a halt of the firm halts everybody");
    }
}
