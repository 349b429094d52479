//! HOT: no I/O, lock, allocation, logging, formatting, clock or syscall; every loop bounded.
//!
//! Coverage: which checks an order has to pass, and which ran. Each part of judging notes its own bits where it is done; what
//! has to run follows from the limits alone. An order for which the two differ is denied, whatever its type: the control that
//! a path was forgotten in is the one that nobody misses.

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

/// The checks that a request has to pass, of those that its scopes' limits ask for.
#[inline]
pub(super) const fn mandatory(limited: u64, held: bool, replace: bool, reduces: bool) -> u64 {
    let of_parent = if held { limited | PARENT } else { limited & !(PARENT | CHILDREN) };
    (of_parent | ALWAYS) & applicable(replace, reduces)
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
        let limited = profiles.iter().fold(0, |bits, &p| bits | self.hot(p).mandatory);
        let held = is_held(self.scopes[slots[2]].parents, r.parent != 0, r.replace);
        j.missing = mandatory(limited, held, r.replace, r.reduces) & !j.checks;
        if j.missing != 0 {
            let cause = Denial {
                rule: Rule::Coverage,
                why: Why::Breach,
                scope: Scope::Session(r.session),
                observed: i64::from(j.missing.trailing_zeros()),
                limit: 0,
            };
            j.breach(cause, Action::Deny);
        }
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
