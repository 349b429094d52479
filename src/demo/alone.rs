//! Each control alone: the whole morning, in process, against an engine with one control armed.
//!
//! What the service's configuration arms is taken apart into pairs of rule and kind of scope. Each is put
//! into a table in which everything else is unlimited, and the morning runs against a fresh engine until
//! the control has fired and its effect is known, or the morning is over. Time is scenario time, so a
//! run takes as long as the engine needs for it and its outcome does not depend on the machine.
//!
//! Most controls never fire by themselves, and each would need a whole morning to show it. They share
//! one: as long as nothing is denied and nothing trips, a morning with many controls armed is the morning
//! with any one of them armed. So the controls run together until one fires, that one is taken out, and
//! so on until the rest see the morning end ([`Trial::run_all`]).

mod guarded;
#[cfg(test)]
mod journalled;
mod late;
#[cfg(test)]
mod whole;

use std::sync::Arc;

pub use self::guarded::{Found, GuardAlone, Moment};
use super::gateway::{Gateway, MarketData, Route};
use super::knight::{HEALTHY, MORNING_NS};
use super::morning::guard::GuardSettings;
use super::morning::story::{OPEN_UNIX, Plot, START, StoryNs, parent_at};
use super::orders::Orders;
use crate::engine::command::Command;
use crate::engine::core::{Engine, Sizing};
use crate::engine::published::InstanceCounts;
use crate::limits::{Gauge, LimitTable, ParentRule, ScopeLimits, SideRule, UNLIMITED};
use crate::model::effect::Denial;
use crate::model::{Action, Effects, Event, EventKind, Mode, Rule, Scope, ScopeKind, Target, Universe};
use crate::units::{AccountId, CurrencyId, InstrumentId, MonoNanos, Now, StrategyId, UnixNanos};

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

/// Which sessions play in the morning.
#[derive(Clone, Debug)]
pub struct Cast {
    /// The healthy instances.
    pub healthy: Vec<String>,
    /// The instance that runs the old code.
    pub bad: String,
    /// The source of reference prices.
    pub market_data: String,
    /// The order management side.
    pub orders: String,
}

impl Default for Cast {
    fn default() -> Self {
        Cast {
            healthy: (1..=HEALTHY).map(|i| format!("smars-{i}")).collect(),
            bad: format!("smars-{}", HEALTHY + 1),
            market_data: "market-data".to_owned(),
            orders: "oms".to_owned(),
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
            gateways.push(Gateway::healthy(Route::find(universe, name)?, seed, i));
        }
        gateways.push(Gateway::old_code(Route::find(universe, &self.bad)?, seed));
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
/// The engine's clock at the open: it runs since the instances started for the day, and a window may reach back before that.
const OPEN: Now = Now { mono: MonoNanos(10_000_000_000_000), unix: UnixNanos(OPEN_UNIX) };
/// When the engine starts.
const BEGIN: Now = story_clock(START);

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
        Rule::Children => limits.children < UNLIMITED,
        Rule::FanOut => limits.fan_out.is_some(),
        Rule::Suspense => limits.suspense < UNLIMITED,
        Rule::OrderRate | Rule::MessageRate | Rule::CancelRate | Rule::Denials | Rule::OrphanFills => {
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
        // Whether a strategy is held to parents is no limit of its scope: see `armed`.
        Rule::ParentQty | Rule::ParentState | Rule::ParentPx => false,
        // These have no number that a scope could be given.
        Rule::Malformed
        | Rule::Capacity
        | Rule::Mode
        | Rule::UnknownEntity
        | Rule::DuplicateId
        | Rule::UnknownOrder
        | Rule::Permission
        | Rule::Restricted
        | Rule::Coverage
        | Rule::Journal => false,
    }
}

/// Limits in which only `rules` are as in `full`.
fn only(full: &ScopeLimits, rules: &[Rule]) -> ScopeLimits {
    let mut limits = ScopeLimits::unlimited();
    for rule in [Rule::ParentQty, Rule::ParentState, Rule::ParentPx].into_iter().filter(|rule| !rules.contains(rule)) {
        limits.parent_off |= 1 << rule as u64;
    }
    limits.loss_window_ns = full.loss_window_ns;
    limits.rates = full.rates.iter().filter(|r| rules.contains(&r.of.rule())).copied().collect();
    for &rule in rules {
        limits.action[rule as usize] = full.action[rule as usize];
        limits.warn[rule as usize] = full.warn[rule as usize];
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
            Rule::Children => limits.children = full.children,
            Rule::FanOut => limits.fan_out = full.fan_out,
            Rule::Suspense => limits.suspense = full.suspense,
            Rule::Coverage => limits.demanded = full.demanded,
            // A gauge, a rate or an action, and so done above; or nothing that a scope could be given.
            _ => {}
        }
    }
    limits
}

/// Every control that `limits` arms, in check order.
#[must_use]
pub fn armed(universe: &Universe, limits: &LimitTable) -> Vec<Control> {
    let by_kind = ScopeKind::ALL.map(|kind| (kind, scopes(universe, kind)));
    let held = |scope: &Scope, rule: Rule| {
        let Scope::Strategy(s) = scope else { return false };
        let is_on = limits.scope(universe, *scope).is_some_and(|l| l.parent_off & 1 << rule as u64 == 0);
        is_on && limits.parents(*s) != ParentRule::Ignored
    };
    let mut controls = Vec::new();
    for rule in Rule::ALL {
        for (kind, scopes) in &by_kind {
            let is_armed = |s: &Scope| match rule {
                Rule::ParentQty | Rule::ParentState | Rule::ParentPx => held(s, rule),
                _ => limits.scope(universe, *s).is_some_and(|l| is_armed(l, rule)),
            };
            if scopes.iter().any(is_armed) {
                controls.push(Control { rule, scope: *kind });
            }
        }
    }
    controls
}

/// A table in which `controls` are as in `full` and everything else is unlimited.
#[must_use]
pub fn isolated(universe: &Universe, full: &LimitTable, controls: &[Control]) -> LimitTable {
    let mut table = LimitTable::unlimited(universe);
    for kind in ScopeKind::ALL {
        let rules: Vec<Rule> = controls.iter().filter(|c| c.scope == kind).map(|c| c.rule).collect();
        if rules.is_empty() && kind != ScopeKind::Strategy {
            continue;
        }
        for scope in scopes(universe, kind) {
            if let Some(limits) = full.scope(universe, scope) {
                *table.edit(universe, scope) = only(limits, &rules);
            }
        }
    }
    // These are looked at for orders that are held to parents only.
    let of_parents = |c: &Control| {
        matches!(c.rule, Rule::ParentQty | Rule::ParentState | Rule::ParentPx | Rule::Children | Rule::FanOut)
    };
    if controls.iter().any(of_parents) {
        for s in (0..universe.strategies.len() as u16).map(StrategyId) {
            table.hold_to_parents(s, full.parents(s));
        }
    }
    if controls.iter().any(|c| c.rule == Rule::Suspense) {
        for a in (0..universe.accounts.len() as u16).map(AccountId) {
            table.suspend(a, full.is_suspense(a));
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

/// What the controls are tried on.
#[derive(Clone, Debug)]
pub struct Trial {
    /// All names.
    pub universe: Arc<Universe>,
    /// The limits that are taken apart.
    pub limits: Arc<LimitTable>,
    /// Who plays.
    pub cast: Cast,
    /// Which morning.
    pub seed: u64,
    /// What happened around the orders.
    pub plot: Plot,
    /// How the guard is configured.
    pub settings: GuardSettings,
}

impl Trial {
    fn morning(&self, controls: &[Control]) -> anyhow::Result<Morning> {
        let table = Arc::new(isolated(&self.universe, &self.limits, controls));
        Morning::new(&self.universe, table, controls, &self.cast, self.seed)
    }

    /// What each control that the limits arm does alone, in check order, and whether the collar was looked at for every order of a
    /// morning that nothing stopped. `done` is told how many are known, of how many.
    fn limits_alone(&self, done: &impl Fn(u64, u64)) -> anyhow::Result<(Vec<Alone>, Covered)> {
        let controls = armed(&self.universe, &self.limits);
        let (mut results, mut covered) = (Vec::new(), Covered::default());
        let mut rest = controls.clone();
        while !rest.is_empty() {
            done(results.len() as u64, controls.len() as u64);
            let mut morning = self.morning(&rest)?;
            match morning.first_to_fire(MORNING_NS) {
                Some(control) => {
                    // From here on it is alone: the others have changed nothing so far.
                    let mut table = isolated(&self.universe, &self.limits, &[control]);
                    table.generation += 1;
                    morning.set_limits(Arc::new(table));
                    results.push(morning.watch(control));
                    rest.retain(|c| *c != control);
                }
                None => {
                    let never =
                        |control| Alone { control, fired: None, outcome: Outcome::Never, healthy_denied: false };
                    results.extend(rest.drain(..).map(never));
                    covered = morning.covered;
                }
            }
        }
        // In check order, not in the order in which they fire.
        results.sort_by_key(|r| controls.iter().position(|c| *c == r.control));
        Ok((results, covered))
    }
}

/// For how many orders of the bad instance the collar was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Covered {
    /// Orders that were judged.
    pub orders: u64,
    /// Those for which the collar was not among the checks that ran.
    pub without_collar: u64,
}

/// The morning against an engine, in process.
struct Morning {
    engine: Engine,
    effects: Effects,
    /// The healthy instances, then the bad one.
    gateways: Vec<Gateway>,
    /// The last sequence number of each gateway, then those of the market data and of the order management side.
    seqs: Vec<u64>,
    market_data: MarketData,
    orders: Orders,
    /// How many parents have been told of: all of them before the open, at the times of the story.
    told: usize,
    next_tick: u64,
    controls: Vec<Control>,
    /// The first of them that fired.
    fired: Option<(Control, Fired)>,
    latched: Option<(Mode, Scope)>,
    healthy_denied: bool,
    covered: Covered,
    /// What the guard looks at beside the orders, if it does.
    guard: Option<guarded::Guarded>,
    /// The bad instance asks nobody: what it executes is all that is heard of it.
    around: bool,
    /// What the bad instance says comes over this; `None`: at once.
    line: Option<late::Line>,
    #[cfg(test)]
    anomalies: Vec<crate::model::Anomaly>,
    #[cfg(test)]
    tape: Option<journalled::Tape>,
}

const SIZING: Sizing = Sizing {
    working_orders: 1 << 16,
    remembered_orders: 1 << 16,
    // Every execution of a whole morning: four million bad ones and less than one million others.
    execs: 5_000_000,
    pairs: 1 << 20,
    parents: 1 << 12,
    recent_orders: 1 << 18,
};

/// What is due next.
enum Due {
    Parent,
    Tick,
    Mark,
    Order { gateway: usize },
    Line,
    Guard,
}

fn clock(at: u64) -> Now {
    Now { mono: MonoNanos(OPEN.mono.0 + at), unix: UnixNanos(OPEN.unix.0 + at) }
}

/// The engine's clock at a moment of the story; what was before the engine is there when it starts.
const fn story_clock(at: StoryNs) -> Now {
    let at = if at < START { START } else { at };
    Now {
        mono: MonoNanos(OPEN.mono.0.saturating_add_signed(at)),
        unix: UnixNanos(OPEN.unix.0.saturating_add_signed(at)),
    }
}

impl Morning {
    fn new(
        universe: &Arc<Universe>,
        table: Arc<LimitTable>,
        controls: &[Control],
        cast: &Cast,
        seed: u64,
    ) -> anyhow::Result<Morning> {
        let gateways = cast.gateways(universe, seed)?;
        let bad = Route::find(universe, &cast.bad)?;
        Ok(Morning {
            engine: Engine::new(universe.clone(), table, SIZING, BEGIN),
            effects: Effects::new(),
            seqs: vec![0; gateways.len() + 2],
            gateways,
            market_data: MarketData::new(universe, &cast.market_data, seed)?,
            orders: Orders::new(universe, &cast.orders, &bad, seed)?,
            told: 0,
            next_tick: 0,
            controls: controls.to_vec(),
            fired: None,
            latched: None,
            healthy_denied: false,
            covered: Covered::default(),
            guard: None,
            around: false,
            line: None,
            #[cfg(test)]
            anomalies: Vec::new(),
            #[cfg(test)]
            tape: None,
        })
    }

    fn bad(&self) -> usize {
        self.gateways.len() - 1
    }

    fn next(&mut self) -> (u64, Due) {
        if self.told < self.orders.parents().len() {
            return (0, Due::Parent);
        }
        let mut next = (self.next_tick, Due::Tick);
        if self.market_data.next_at() < next.0 {
            next = (self.market_data.next_at(), Due::Mark);
        }
        for (gateway, g) in self.gateways.iter_mut().enumerate() {
            if let Some(at) = g.next_at().filter(|at| *at < next.0) {
                next = (at, Due::Order { gateway });
            }
        }
        if let Some(at) = self.line.as_ref().and_then(late::Line::next_at).filter(|at| *at < next.0) {
            next = (at, Due::Line);
        }
        if let Some(at) = self.guard.as_ref().map(guarded::Guarded::next_at).filter(|at| *at <= next.0) {
            next = (at, Due::Guard);
        }
        next
    }

    fn advance(&mut self, at: u64, due: &Due) {
        match *due {
            Due::Parent => self.tell_parent(),
            Due::Tick => {
                self.next_tick += TICK_NS;
                self.effects.clear();
                #[cfg(test)]
                self.tape.iter_mut().for_each(|tape| tape.tick(clock(at)));
                self.engine.tick(clock(at), &mut self.effects);
                #[cfg(test)]
                self.tape.iter_mut().for_each(|tape| tape.done(clock(at), &self.effects, &self.engine));
                self.look(at);
            }
            Due::Mark => {
                if let Some(mark) = self.market_data.poll(at) {
                    self.step(at, self.gateways.len(), mark);
                }
            }
            Due::Line => {
                if let Some((sent, event)) = self.line.as_mut().and_then(|line| line.take(at)) {
                    let bad = self.bad();
                    self.take(clock(at), at, bad, Event { sent_at: clock(sent).unix, ..event });
                }
            }
            Due::Guard => self.guard_round(at.cast_signed(), clock(at)),
            Due::Order { gateway } => {
                let bad = self.bad();
                if let Some(event) = self.gateways[gateway].poll(at) {
                    if self.around && gateway == bad {
                        self.go_around(at, gateway, event);
                        return;
                    }
                    match &mut self.line {
                        Some(line) if gateway == bad => line.send(at, event),
                        _ => self.step(at, gateway, event),
                    }
                    let over = if gateway == bad { self.orders.hear(&event) } else { None };
                    if let Some(over) = over {
                        self.step(at, self.gateways.len() + 1, over);
                    }
                }
            }
        }
    }

    /// When the next parent is received, if there is one more.
    fn parent_due(&self) -> Option<StoryNs> {
        (self.told < self.orders.parents().len()).then(|| parent_at(self.told))
    }

    fn tell_parent(&mut self) {
        let now = story_clock(parent_at(self.told));
        let parent = Event { sent_at: now.unix, ..self.orders.parents()[self.told] };
        self.told += 1;
        self.take(now, 0, self.gateways.len() + 1, parent);
    }

    /// Runs until a control fires, `end` of scenario time at the latest.
    fn first_to_fire(&mut self, end: u64) -> Option<Control> {
        while self.fired.is_none() {
            let (at, due) = self.next();
            if at >= end {
                break;
            }
            self.advance(at, &due);
        }
        self.fired.map(|(control, _)| control)
    }

    fn set_limits(&mut self, table: Arc<LimitTable>) {
        let now = self.next().0;
        self.effects.clear();
        self.engine.command(clock(now), Command::SetLimits(table), &mut self.effects);
    }

    /// Runs until `control`, the only one armed, has fired and its effect is known.
    fn watch(&mut self, control: Control) -> Alone {
        self.first_to_fire(MORNING_NS);
        let Some((_, fired)) = self.fired else {
            return Alone { control, fired: None, outcome: Outcome::Never, healthy_denied: self.healthy_denied };
        };
        let outcome = self.outcome(fired.at_ns, fired.executions_out);
        Alone { control, fired: Some(fired), outcome, healthy_denied: self.healthy_denied }
    }

    /// Runs on from `since`, when something fired and `executions` were out, until it is known what comes of it.
    fn outcome(&mut self, since: u64, executions: u64) -> Outcome {
        let bad = self.bad();
        let end = since + PATIENCE_NS;
        loop {
            let (at, due) = self.next();
            let tally = self.gateways[bad].tally();
            if at >= tally.last_execution_ns.max(since) + QUIET_NS {
                let (last_ns, executions) = (tally.last_execution_ns, tally.executions);
                return Outcome::Stopped { latched: self.latched, last_ns, executions };
            }
            if at >= end {
                let more = tally.executions - executions;
                return Outcome::GoesOn { executions_per_s: more * 1_000_000_000 / PATIENCE_NS };
            }
            self.advance(at, &due);
        }
    }

    fn step(&mut self, at: u64, source: usize, event: Event) {
        self.take(clock(at), at, source, Event { sent_at: clock(at).unix, ..event });
    }

    /// The engine takes `event` when its clock shows `now`; for the gateways it is `at`, which is the open before the open.
    fn take(&mut self, now: Now, at: u64, source: usize, mut event: Event) {
        self.seqs[source] += 1;
        event.seq = self.seqs[source];
        self.effects.clear();
        #[cfg(test)]
        self.tape.iter_mut().for_each(|tape| tape.event(now, &event));
        self.engine.step(now, &event, &mut self.effects);
        self.count(&event);
        if source < self.gateways.len()
            && let Some(verdict) = self.effects.verdict()
        {
            if source == self.bad() && event.kind == EventKind::New {
                self.covered.orders += 1;
                self.covered.without_collar += u64::from(verdict.checks & 1 << Rule::Collar as u64 == 0);
            }
            let denied = verdict.denial.map(|d| (d.rule, d.scope));
            self.healthy_denied |= denied.is_some() && source != self.bad();
            self.gateways[source].verdict(at, event.kind, event.id.0, denied);
        }
        #[cfg(test)]
        self.tape.iter_mut().for_each(|tape| tape.done(now, &self.effects, &self.engine));
        self.look(at);
    }

    /// Looks for the control among the effects of a step.
    fn look(&mut self, at: u64) {
        let denied = self.effects.verdict().filter(|v| v.kind != EventKind::Cancel).and_then(|v| v.denial);
        let tripped = self.effects.trips().next().copied();
        #[cfg(test)]
        self.anomalies.extend(self.effects.as_slice().iter().filter_map(|e| match e {
            crate::model::Effect::Anomaly(anomaly) => Some(*anomaly),
            _ => None,
        }));
        if let Some(trip) = tripped {
            self.latched = self.latched.max(Some((trip.mode, trip.scope)));
            self.tell_guard_of(&trip);
        }
        let control = |d: &Denial| Control { rule: d.rule, scope: d.scope.kind() };
        let mut causes = denied.into_iter().chain(tripped.map(|t| t.cause));
        if self.fired.is_none()
            && let Some(denial) = causes.find(|d| self.controls.contains(&control(d)))
        {
            let bad = self.bad();
            let (gross_cents, net_cents) = self.gateways[bad].exposure_cents(at);
            let tally = self.gateways[bad].tally();
            let fired = Fired {
                denial,
                at_ns: at,
                order: tally.attempts,
                executions_out: tally.executions,
                gross_cents,
                net_cents,
            };
            self.fired = Some((control(&denial), fired));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::gateway::tests::universe;
    use super::*;
    use crate::limits::{FanOutLimit, RateKind, RateLimit, RateOf};

    fn rate(count: u32, action: Action) -> RateLimit {
        RateLimit { of: RateOf::Orders, kind: RateKind::Sliding, count, window_ns: 1_000_000_000, action }
    }

    fn trial(edit: impl FnOnce(&Universe, &mut LimitTable)) -> Trial {
        let universe = Arc::new(universe());
        let mut limits = LimitTable::unlimited(&universe);
        edit(&universe, &mut limits);
        Trial { universe, limits: Arc::new(limits), ..demo() }
    }

    fn run_with(control: Control, edit: impl FnOnce(&Universe, &mut LimitTable)) -> Alone {
        let trial = trial(edit);
        assert_eq!(armed(&trial.universe, &trial.limits), vec![control]);
        trial.morning(&[control]).unwrap().watch(control)
    }

    #[test]
    fn an_unlimited_table_arms_nothing_and_a_closed_one_all_that_applies() {
        let universe = universe();
        assert_eq!(armed(&universe, &LimitTable::unlimited(&universe)), vec![]);
        let closed = armed(&universe, &LimitTable::closed(&universe));
        for rule in Rule::ALL {
            for scope in ScopeKind::ALL {
                // What has an action and no number is left as it is by closing, and so are accounts that are none of suspense.
                let closes = !crate::model::rule::is_numberless(rule) && rule != Rule::Suspense;
                let expected = crate::model::rule::applies(rule, scope) && closes;
                assert_eq!(closed.contains(&Control { rule, scope }), expected, "{rule:?} at {scope:?}");
            }
        }
    }

    #[test]
    fn isolating_keeps_one_rule_at_one_kind_of_scope() {
        let universe = universe();
        let full = LimitTable::closed(&universe);
        for control in armed(&universe, &full) {
            assert_eq!(armed(&universe, &isolated(&universe, &full, &[control])), vec![control]);
        }
    }

    #[test]
    fn each_control_over_parents_stops_the_old_code_alone_and_in_the_order_of_its_links() {
        let (smars, account) = (StrategyId(1), AccountId(1));
        let trial = trial(|universe, limits| {
            limits.hold_to_parents(smars, ParentRule::Required);
            limits.suspend(account, true);
            limits.edit(universe, Scope::Strategy(smars)).children = 25;
            limits.edit(universe, Scope::Account(account)).suspense = 2_000_000 * 100;
            let bad = universe.session("smars-8").map(Scope::Session).unwrap();
            limits.edit(universe, bad).fan_out = Some(FanOutLimit { count: 20, window_ns: 1_000_000_000 });
        });
        let run = |rule, scope| {
            let control = Control { rule, scope };
            assert!(armed(&trial.universe, &trial.limits).contains(&control));
            let alone = trial.morning(&[control]).unwrap().watch(control);
            let fired = alone.fired.unwrap_or_else(|| panic!("{rule:?} did not fire"));
            assert_eq!(fired.denial.rule, rule);
            assert!(matches!(alone.outcome, Outcome::Stopped { latched: Some((Mode::Halted, _)), .. }), "{alone:?}");
            assert!(!alone.healthy_denied, "{alone:?}");
            println!("{} at {:?}: {fired:?}", rule.name(), scope);
            fired
        };
        // The first child beyond a parent is one of the second round.
        let excess = run(Rule::ParentQty, ScopeKind::Strategy);
        assert!((213..=424).contains(&excess.order), "{excess:?}");
        let after_done = run(Rule::ParentState, ScopeKind::Strategy);
        assert!(after_done.order >= excess.order && after_done.order < 900, "{after_done:?}");
        let suspense = run(Rule::Suspense, ScopeKind::Account);
        let fan_out = run(Rule::FanOut, ScopeKind::Session);
        let children = run(Rule::Children, ScopeKind::Strategy);
        assert_eq!(children.order, 25 * 212 + 1);
        let at = [excess, after_done, suspense, fan_out, children].map(|fired| fired.at_ns);
        assert!(at.is_sorted() && at[4] < 4_000_000_000, "{at:?}");
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
            limits.edit_all(ScopeKind::Firm).max[Gauge::Gross as usize] = 5_000_000_000;
        });
        let fired = alone.fired.unwrap();
        assert!((10_000_000_000..40_000_000_000).contains(&fired.at_ns), "{}", fired.at_ns);
        // The healthy instances hold the rest.
        assert!((4_000_000_000..=5_000_000_000).contains(&fired.gross_cents), "{}", fired.gross_cents);
    }

    #[test]
    fn streams_are_clean_and_fully_booked() {
        let universe = Arc::new(universe());
        let table = Arc::new(LimitTable::unlimited(&universe));
        let control = Control { rule: Rule::OrderRate, scope: ScopeKind::Firm };
        let mut morning = Morning::new(&universe, table, &[control], &Cast::default(), 3).unwrap();
        assert_eq!(morning.first_to_fire(30_000_000_000), None);
        assert_eq!(morning.anomalies, [], "the gateways report as a venue would");
        for gateway in &morning.gateways {
            assert!(gateway.tally().executions > 500 && gateway.tally().denied == 0);
        }
    }

    /// What the demo runs with.
    pub(super) fn demo() -> Trial {
        let loaded = crate::app::config::load("demo.toml", include_str!("../../config/demo.toml"));
        let loaded = loaded.unwrap_or_else(|violations| panic!("{violations}"));
        let settings = GuardSettings { policy: loaded.alerts.policy, watch: loaded.watch };
        let (limits, cast, plot) = (Arc::new(loaded.limits), Cast::default(), Plot::knight(70_694));
        Trial { universe: loaded.universe, limits, cast, seed: 70_694, plot, settings }
    }

    #[test]
    fn the_demo_configuration_stops_the_old_code_within_a_second() {
        for seed in 0..5 {
            let trial = Trial { seed, ..demo() };
            let controls = armed(&trial.universe, &trial.limits);
            let mut morning = trial.morning(&controls).unwrap();
            let alone = morning.watch(controls[0]);
            let Outcome::Stopped { last_ns, .. } = alone.outcome else { panic!("{:?}", alone.outcome) };
            assert!(last_ns < 1_000_000_000 && !alone.healthy_denied, "{alone:?}");
        }
    }

    #[test]
    fn the_demo_configuration_lets_the_healthy_trade_all_morning() {
        let trial = demo();
        let mut morning = trial.morning(&armed(&trial.universe, &trial.limits)).unwrap();
        morning.gateways.pop();
        assert_eq!(morning.first_to_fire(MORNING_NS), None);
        for healthy in &morning.gateways {
            assert!(healthy.tally().admitted > 50_000 && healthy.tally().denied == 0);
        }
    }

    #[test]
    fn together_until_one_fires_finds_what_each_finds_alone() {
        let trial = trial(|_, limits| {
            limits.edit_all(ScopeKind::Session).rates = vec![rate(300, Action::Deny)];
            limits.edit_all(ScopeKind::Strategy).rates = vec![rate(900, Action::Halt(Target::Session))];
            limits.edit_all(ScopeKind::Account).max[Gauge::Gross as usize] = 20_000_000_000;
            let firm = limits.edit_all(ScopeKind::Firm);
            firm.max[Gauge::Executions as usize] = 4_000;
            firm.action[Rule::RepeatedExecutions as usize] = Action::Halt(Target::Own);
        });
        let (together, covered) = trial.limits_alone(&|_, _| ()).unwrap();
        assert_eq!(covered, Covered::default(), "all of them fire: nobody sees the morning end");
        let controls = armed(&trial.universe, &trial.limits);
        assert_eq!(controls.len(), 4);
        let each: Vec<Alone> = controls.into_iter().map(|c| trial.morning(&[c]).unwrap().watch(c)).collect();
        assert_eq!(together, each);
        assert!(each.iter().all(|a| a.fired.is_some()));
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
