//! HOT: no I/O, lock, allocation, logging, formatting, clock or syscall; every loop bounded.
//!
//! Coverage: which checks an order has to pass, and which ran. Each part of judging notes its own bits where it is done; what
//! has to run follows from the limits alone: what is limited, and what is demanded whether it is limited or not. An order for
//! which the two differ is denied, whatever its type: the control that a path was forgotten in is the one that nobody misses.

use crate::engine::core::Engine;
use crate::engine::judge::{Judgement, Request};
use crate::limits::ParentRule;
use crate::model::effect::Denial;
use crate::model::{Action, Rule, Scope, Why};

const fn bits(rules: &[Rule]) -> u64 {
    let (mut bits, mut i) = (0, 0);
    while i < rules.len() {
        bits |= 1 << rules[i] as u64;
        i += 1;
    }
    bits
}

/// Whether the request can be what it says, and of whom.
pub(super) const ENTITY: u64 = bits(&[Rule::Malformed, Rule::UnknownEntity, Rule::UnknownOrder]);
/// The stream that it came in on, the clock, room.
pub(super) const STREAM: u64 =
    bits(&[Rule::Capacity, Rule::StreamGap, Rule::HeartbeatLoss, Rule::ClockSkew, Rule::Journal]);
/// Modes of its scopes.
pub(super) const MODE: u64 = bits(&[Rule::Mode]);
/// Who may trade what.
pub(super) const PERMISSION: u64 = bits(&[Rule::DuplicateId, Rule::Permission, Rule::Restricted, Rule::SidePermission]);
/// The order by itself.
pub(super) const QTY: u64 = bits(&[Rule::OrderQty]);
/// See [`QTY`].
pub(super) const NOTIONAL: u64 = bits(&[Rule::OrderNotional]);
/// See [`QTY`].
pub(super) const PARTICIPATION: u64 = bits(&[Rule::OrderParticipation]);
/// See [`QTY`].
pub(super) const COLLAR: u64 = bits(&[Rule::Collar]);
/// The same order again.
pub(super) const DUPLICATE: u64 = bits(&[Rule::DuplicateOrder]);
/// Its parent.
pub(super) const PARENT: u64 = bits(&[Rule::ParentQty, Rule::ParentState, Rule::ParentPx]);
/// How many the parent has, of a new order.
pub(super) const CHILDREN: u64 = bits(&[Rule::Children]);
/// Orders against parents.
pub(super) const FAN_OUT: u64 = bits(&[Rule::FanOut]);
/// What an order that reduces is exempt from.
pub(super) const RISK: u64 = bits(&[
    Rule::PositionLong,
    Rule::PositionShort,
    Rule::DayParticipation,
    Rule::GrossExposure,
    Rule::NetLong,
    Rule::NetShort,
    Rule::DailyLoss,
    Rule::Drawdown,
    Rule::LossVelocity,
    Rule::Suspense,
]);
/// Counts.
pub(super) const COUNTS: u64 = bits(&[Rule::WorkingOrders, Rule::RepeatedOrders, Rule::RepeatedExecutions]);
/// Rates.
pub(super) const RATES: u64 = bits(&[Rule::OrderRate, Rule::MessageRate]);
/// What a replace is not judged by.
const NEW_ONLY: u64 =
    DUPLICATE | CHILDREN | FAN_OUT | bits(&[Rule::WorkingOrders, Rule::RepeatedOrders, Rule::OrderRate]);
/// What needs no limit to be judged.
const ALWAYS: u64 = ENTITY | STREAM | MODE | PERMISSION;

const _: () = assert!(crate::model::record::RISK_CHECK & !RISK == 0);

/// What a request is judged by at most: those that its kind, or that it reduces, exempt it from are not among it.
pub(super) const fn applicable(replace: bool, reduces: bool) -> u64 {
    let mut rules = u64::MAX;
    if replace {
        rules &= !NEW_ONLY;
    }
    if reduces {
        rules &= !RISK;
    }
    rules
}

/// Whether an order is held against a parent.
pub(super) const fn is_held(rule: ParentRule, names_parent: bool, replace: bool) -> bool {
    match rule {
        ParentRule::Ignored => false,
        ParentRule::Checked => names_parent,
        // One that was let through before it had to name a parent has none that a replace could breach.
        ParentRule::Required => names_parent || !replace,
    }
}

/// What the limits of a request's scopes ask for, all of them together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// What is limited: [`HotProfile::mandatory`](crate::limits::HotProfile::mandatory).
    pub limited: u64,
    /// See [`ScopeLimits::demanded`](crate::limits::ScopeLimits::demanded).
    pub demanded: u64,
    /// It is held against a parent.
    pub held: bool,
    /// Rules about parents that are written out as unlimited.
    pub off: u64,
    pub replace: bool,
    pub reduces: bool,
}

impl Asked {
    #[inline]
    const fn stands(self) -> u64 {
        if self.held { self.limited | PARENT } else { self.limited & !(PARENT | CHILDREN) }
    }

    /// The checks that have to run and are not among `checks`.
    #[inline]
    pub const fn left_out(self, checks: u64) -> u64 {
        (self.stands() | ALWAYS) & applicable(self.replace, self.reduces) & !checks
    }

    /// The checks that are demanded, and that no limit gives anything to compare with.
    #[inline]
    pub const fn without_limit(self) -> u64 {
        self.demanded & applicable(self.replace, self.reduces) & !(self.stands() & !self.off)
    }
}

impl Engine {
    /// What of `rules` is done: everything, unless a test leaves something out.
    #[inline]
    pub(super) fn done(&self, rules: u64) -> u64 {
        #[cfg(test)]
        let rules = rules & !self.left_out;
        rules
    }

    /// Whether a test leaves a part of judging out.
    #[inline]
    pub(super) fn leaves_out(&self, rules: u64) -> bool {
        self.done(rules) != rules
    }

    /// Denies `r` if a check that it has to pass did not run. Last of all, when every part has noted what it did.
    pub(super) fn judge_coverage(&self, r: &Request, slots: &[usize; 6], profiles: &[u32; 6], j: &mut Judgement) {
        let asked = Asked {
            limited: profiles.iter().fold(0, |bits, &p| bits | self.hot(p).mandatory),
            demanded: profiles.iter().fold(0, |bits, &p| bits | self.hot(p).demanded),
            held: is_held(self.scopes[slots[2]].parents, r.parent != 0, r.replace),
            off: self.table.profile(profiles[2]).parent_off,
            replace: r.replace,
            reduces: r.reduces,
        };
        let (left_out, without_limit) = (asked.left_out(j.checks), asked.without_limit());
        j.missing = left_out | without_limit;
        if j.missing == 0 {
            return;
        }
        // A part of judging that forgot the path is nobody's policy: its session's. What is demanded is told where it is.
        let first = if left_out != 0 { left_out.trailing_zeros() } else { without_limit.trailing_zeros() };
        let at = profiles.iter().position(|&p| left_out == 0 && self.hot(p).demanded & 1 << first != 0);
        let scope = at.map_or(Scope::Session(r.session), |at| r.scopes()[at]);
        let cause = Denial { rule: Rule::Coverage, why: Why::Breach, scope, observed: i64::from(first), limit: 0 };
        j.breach(cause, Action::Deny);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::core::Sizing;
    use crate::limits::{DuplicateLimit, FanOutLimit, Gauge, LimitTable, RateKind, RateLimit, RateOf};
    use crate::model::universe::{
        AccountSpec, CurrencySpec, InstrumentSpec, SessionKind, SessionSpec, StrategySpec, Universe,
    };
    use crate::model::{AnomalyKind, Effect, Effects, Event, EventKind, Mode, OrdType, ScopeKind};
    use crate::units::{
        AccountId, CurrencyId, InstrumentId, MonoNanos, Now, OrdId, Px, Qty, SessionId, StrategyId, UnixNanos,
    };

    const ASKS: SessionId = SessionId(0);
    const SEES: SessionId = SessionId(1);
    const PRICES: SessionId = SessionId(2);
    const ORDERS: SessionId = SessionId(3);
    /// Every part of judging that can be left out by itself.
    const PARTS: [u64; 13] = [
        STREAM,
        MODE,
        PERMISSION,
        QTY,
        NOTIONAL,
        PARTICIPATION,
        COLLAR,
        DUPLICATE,
        PARENT,
        FAN_OUT,
        RISK,
        COUNTS,
        RATES,
    ];

    struct World {
        engine: Engine,
        seq: [u64; 4],
        out: Effects,
    }

    impl World {
        /// An engine whose limits ask for every check, with a price and a parent.
        fn new() -> World {
            let session = |name: &str, kind| SessionSpec { name: name.into(), kind, strategies: vec![] };
            let universe = Arc::new(Universe::new(
                2,
                vec![CurrencySpec { name: "USD".into(), initial_rate: None }],
                vec![
                    session("asks", SessionKind::Ask),
                    session("sees", SessionKind::Observe),
                    session("prices", SessionKind::Reference),
                    session("orders", SessionKind::Orders),
                ],
                vec![AccountSpec { name: "a".into() }],
                vec![StrategySpec { name: "s".into(), account: AccountId(0) }],
                vec![InstrumentSpec {
                    name: "i".into(),
                    currency: CurrencyId(0),
                    px_scale: 2,
                    qty_scale: 0,
                    multiplier: (1, 0),
                    negative_px: false,
                    average_daily_volume: Some(Qty(1_000_000)),
                    initial_reference: None,
                }],
            ));
            let mut table = LimitTable::unlimited(&universe);
            let limits = table.edit_all(ScopeKind::Strategy);
            limits.order_qty = 1_000;
            limits.order_notional = 1 << 40;
            limits.order_participation = 10_000;
            limits.collar = 1_000;
            limits.duplicate = Some(DuplicateLimit { count: 10, window_ns: 1_000 });
            limits.children = 10;
            limits.fan_out = Some(FanOutLimit { count: 10, window_ns: 1_000 });
            for gauge in Gauge::ALL {
                limits.max[gauge as usize] = 1 << 40;
            }
            for of in [RateOf::Orders, RateOf::Messages] {
                let (kind, action) = (RateKind::Sliding, Action::Deny);
                limits.rates.push(RateLimit { of, kind, count: 10, window_ns: 1_000, action });
            }
            let limits = table.edit_all(ScopeKind::Pair);
            for gauge in [Gauge::PositionLong, Gauge::PositionShort, Gauge::DayQty] {
                limits.max[gauge as usize] = 10_000;
            }
            table.hold_to_parents(StrategyId(0), ParentRule::Required);
            let sizing =
                Sizing { working_orders: 8, remembered_orders: 8, execs: 8, pairs: 8, recent_orders: 8, parents: 8 };
            let engine = Engine::new(universe, Arc::new(table), sizing, NOW);
            let mut world = World { engine, seq: [0; 4], out: Effects::new() };
            let mark = Event { px: Px(1_000), ..Event::new(EventKind::Mark, PRICES, 0) };
            world.send(mark);
            let parent = Event {
                id: OrdId(7),
                qty: Qty(500),
                ord_type: OrdType::Market,
                ..Event::new(EventKind::ParentNew, ORDERS, 0)
            };
            world.send(parent);
            assert!(world.anomalies().is_empty());
            world
        }

        fn send(&mut self, mut event: Event) {
            let seq = &mut self.seq[usize::from(event.session.0)];
            *seq += 1;
            event.seq = *seq;
            self.out.clear();
            self.engine.step(NOW, &event, &mut self.out);
        }

        fn anomalies(&self) -> Vec<AnomalyKind> {
            let kind = |effect: &Effect| if let Effect::Anomaly(a) = effect { Some(a.kind) } else { None };
            self.out.as_slice().iter().filter_map(kind).collect()
        }

        /// The checks of the verdict, and what it was denied by.
        fn verdict(&self) -> (u64, Option<Denial>) {
            let verdict = self.out.verdict().unwrap();
            (verdict.checks, verdict.denial)
        }
    }

    const NOW: Now = Now { mono: MonoNanos(1_000_000), unix: UnixNanos(1_000_000) };

    fn order(id: u64, ord_type: OrdType) -> Event {
        Event {
            id: OrdId(id),
            ref_id: 7,
            ord_type,
            qty: Qty(10),
            px: Px(if ord_type == OrdType::Market { 0 } else { 1_000 }),
            instrument: InstrumentId(0),
            ..Event::new(EventKind::New, ASKS, 0)
        }
    }

    fn replace(old: u64, id: u64, ord_type: OrdType) -> Event {
        Event { kind: EventKind::Replace, ref_id: old, qty: Qty(20), ..order(id, ord_type) }
    }

    const TYPES: [OrdType; 4] = [OrdType::Limit, OrdType::Market, OrdType::Stop, OrdType::StopLimit];

    #[test]
    fn every_check_that_is_asked_for_runs_for_every_type_of_order() {
        for ord_type in TYPES {
            let mut w = World::new();
            w.send(order(1, ord_type));
            let limited = PARTS.iter().fold(CHILDREN, |all, part| all | part) & !bits(&[Rule::Suspense]);
            let (checks, denial) = w.verdict();
            assert_eq!((denial, limited & !checks), (None, 0), "{ord_type:?}: {checks:x}");
            w.send(replace(1, 2, ord_type));
            let (checks, denial) = w.verdict();
            assert_eq!((denial, limited & applicable(true, false) & !checks), (None, 0), "{ord_type:?}: {checks:x}");
            assert_eq!(checks & NEW_ONLY, 0, "{ord_type:?}: {checks:x}");
        }
    }

    #[test]
    fn an_order_is_denied_if_any_check_that_is_asked_for_did_not_run() {
        for part in PARTS {
            for ord_type in TYPES {
                let mut w = World::new();
                w.engine.left_out = part;
                w.send(order(1, ord_type));
                let (checks, denial) = w.verdict();
                let denial = denial.unwrap_or_else(|| panic!("{ord_type:?} without {part:x} was admitted"));
                assert_eq!((denial.rule, checks & part), (Rule::Coverage, 0), "{ord_type:?} without {part:x}");
                assert_ne!(part & 1 << denial.observed, 0, "{ord_type:?}: it names a check that was left out");
                assert_eq!(w.anomalies(), [AnomalyKind::CoverageGap]);
                assert_eq!(w.engine.gauges(Scope::Firm).unwrap()[Gauge::Working as usize], 0, "nothing is booked");
            }
        }
    }

    #[test]
    fn a_replace_is_denied_if_a_check_that_it_has_to_pass_did_not_run() {
        for part in PARTS.into_iter().filter(|part| part & applicable(true, false) != 0) {
            let mut w = World::new();
            w.send(order(1, OrdType::Limit));
            w.engine.left_out = part;
            w.send(replace(1, 2, OrdType::Limit));
            let denial = w.verdict().1.unwrap_or_else(|| panic!("a replace without {part:x} was admitted"));
            assert_eq!(denial.rule, Rule::Coverage, "without {part:x}");
        }
    }

    #[test]
    fn a_check_that_nothing_asks_for_may_be_left_out() {
        let mut w = World::new();
        let mut table = LimitTable::unlimited(w.engine.universe());
        table.generation = 2;
        w.engine.command(NOW, crate::engine::Command::SetLimits(Arc::new(table)), &mut Effects::new());
        w.engine.left_out = !ALWAYS;
        for (id, ord_type) in (1..).zip(TYPES) {
            w.send(order(id, ord_type));
            assert_eq!(w.verdict().1, None, "{ord_type:?}");
        }
    }

    fn with_limits(edit: impl FnOnce(&mut LimitTable, &Universe)) -> World {
        let mut w = World::new();
        let universe = w.engine.universe().clone();
        let mut table = LimitTable::unlimited(&universe);
        table.generation = 2;
        edit(&mut table, &universe);
        w.engine.command(NOW, crate::engine::Command::SetLimits(Arc::new(table)), &mut Effects::new());
        w
    }

    #[test]
    fn what_is_demanded_and_limited_nowhere_is_denied_for_every_type_of_order_and_what_is_limited_anywhere_is_not() {
        let strategy = Scope::Strategy(StrategyId(0));
        let scopes = [
            Scope::Firm,
            Scope::Account(AccountId(0)),
            strategy,
            Scope::Pair(StrategyId(0), InstrumentId(0)),
            Scope::Instrument(InstrumentId(0)),
            Scope::Session(ASKS),
        ];
        for ord_type in TYPES {
            for demands in scopes {
                let mut w = with_limits(|t, u| t.edit(u, demands).demanded = 1 << Rule::Collar as u64);
                w.send(order(1, ord_type));
                let denial = w.verdict().1.unwrap_or_else(|| panic!("{ord_type:?} was admitted at {demands:?}"));
                let (found, number) = ((denial.rule, denial.scope, denial.observed), Rule::Collar as i64);
                assert_eq!(found, (Rule::Coverage, demands, number), "{ord_type:?}");
                assert_eq!(w.anomalies(), [AnomalyKind::CoverageGap]);
            }
            for limits in scopes {
                let mut w = with_limits(|t, u| {
                    t.edit(u, Scope::Firm).demanded = 1 << Rule::Collar as u64;
                    t.edit(u, limits).collar = 500;
                });
                w.send(order(1, ord_type));
                assert_eq!((w.verdict().1, w.anomalies()), (None, vec![]), "{ord_type:?}, {limits:?}");
            }
        }
    }

    #[test]
    fn a_parent_that_is_demanded_has_to_be_named_and_its_rule_not_be_off() {
        let demanded = PARENT | CHILDREN;
        let demand = |parents, off: &[Rule]| {
            let off = bits(off);
            with_limits(move |t, u| {
                t.hold_to_parents(StrategyId(0), parents);
                let limits = t.edit(u, Scope::Strategy(StrategyId(0)));
                (limits.demanded, limits.parent_off, limits.children) = (demanded, off, 10);
            })
        };
        let first = |w: &World| w.verdict().1.map(|denial| (denial.rule, denial.observed));
        let missing = |rule: Rule| Some((Rule::Coverage, rule as i64));
        let orphan = |id| Event { ref_id: 0, ..order(id, OrdType::Limit) };
        let mut w = demand(ParentRule::Checked, &[]);
        w.send(order(1, OrdType::Limit));
        assert_eq!(first(&w), None);
        w.send(orphan(2));
        assert_eq!(first(&w), missing(Rule::ParentQty), "it names none");
        let mut w = demand(ParentRule::Ignored, &[]);
        w.send(order(1, OrdType::Limit));
        assert_eq!(first(&w), missing(Rule::ParentQty), "it is not looked up");
        let mut w = demand(ParentRule::Required, &[Rule::ParentPx]);
        w.send(order(1, OrdType::Limit));
        assert_eq!(first(&w), missing(Rule::ParentPx), "it is off");
    }

    #[test]
    fn what_is_demanded_is_demanded_of_those_requests_that_it_judges() {
        let demanded = bits(&[Rule::OrderRate, Rule::GrossExposure, Rule::HeartbeatLoss]);
        let demand = |limits: fn(&mut crate::limits::ScopeLimits)| {
            with_limits(move |t, u| {
                limits(t.edit(u, Scope::Session(ASKS)));
                t.edit(u, Scope::Firm).max[Gauge::Gross as usize] = 1 << 40;
                t.edit(u, Scope::Firm).demanded = demanded;
            })
        };
        let mut w = demand(|l| l.heartbeat_ns = 1 << 40);
        w.send(order(1, OrdType::Limit));
        assert_eq!(w.verdict().1.map(|d| d.observed), Some(Rule::OrderRate as i64));
        let mut w = demand(|l| {
            let (of, kind, action) = (RateOf::Orders, RateKind::Sliding, Action::Deny);
            l.rates.push(RateLimit { of, kind, count: 10, window_ns: 1_000, action });
        });
        w.send(order(1, OrdType::Limit));
        assert_eq!(w.verdict().1.map(|d| d.observed), Some(Rule::HeartbeatLoss as i64), "silence is limited nowhere");
        // A replace makes no new order that a rate of them would count.
        let mut w = World::new();
        w.send(order(1, OrdType::Limit));
        let universe = w.engine.universe().clone();
        let mut table = LimitTable::unlimited(&universe);
        table.generation = 2;
        table.edit(&universe, Scope::Firm).demanded = 1 << Rule::OrderRate as u64;
        w.engine.command(NOW, crate::engine::Command::SetLimits(Arc::new(table)), &mut Effects::new());
        w.send(replace(1, 2, OrdType::Limit));
        assert_eq!(w.verdict().1, None);
        w.send(order(3, OrdType::Limit));
        assert_eq!(w.verdict().1.map(|d| d.rule), Some(Rule::Coverage));
    }

    #[test]
    fn an_observed_order_past_a_check_that_is_demanded_halts_its_session_and_nobody_else() {
        let mut w = with_limits(|t, u| t.edit(u, Scope::Firm).demanded = 1 << Rule::Collar as u64);
        w.send(Event { session: SEES, ..order(1, OrdType::Limit) });
        assert_eq!(w.anomalies(), [AnomalyKind::CoverageGap]);
        assert_eq!(w.engine.mode(Scope::Session(SEES)), Some(Mode::Halted));
        assert_eq!(w.engine.mode(Scope::Firm), Some(Mode::Normal));
        assert_eq!(w.engine.gauges(Scope::Firm).unwrap()[Gauge::Working as usize], 1, "it is out");
    }

    #[test]
    fn an_observed_order_that_was_not_checked_halts_its_session() {
        let mut w = World::new();
        w.engine.left_out = MODE;
        w.send(Event { session: SEES, ..order(1, OrdType::Limit) });
        assert_eq!(w.anomalies(), [AnomalyKind::CoverageGap]);
        assert_eq!(w.engine.mode(Scope::Session(SEES)), Some(Mode::Halted));
        assert_eq!(w.engine.mode(Scope::Firm), Some(Mode::Normal));
    }
}
