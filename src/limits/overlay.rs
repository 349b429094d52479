//! Overlays: changes that stand over a limit table for a while. The table of a configuration and a list of these make
//! the limits in effect; nothing else does, so that whoever has both comes to the same table.
//!
//! ```text
//! limits in effect at a scope = min( configured, or what an overlay sets ;  fraction of what is configured )
//! ```
//!
//! A fraction is of the configuration, never of an override: somebody on probation does not get more by a raise.

use crate::limits::table::{Gauge, LimitTable, RateKind, RateLimit, RateOf, ScopeLimits, UNLIMITED};
use crate::model::rule::applies;
use crate::model::{Action, Rule, Scope, Universe};
use crate::units::StrategyId;

/// The whole, in basis points.
pub const WHOLE_BPS: u16 = 10_000;

/// What an overlay does at its scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// Sets the one number of a limit. What a breach does, the warning levels and the window stay.
    Set {
        /// Of which rule.
        rule: Rule,
        /// Of a rate: which of its windows, in ns. `None` for every other rule.
        window_ns: Option<u64>,
        /// The number, in the rule's unit.
        value: i64,
    },
    /// Leaves this fraction, in basis points up to [`WHOLE_BPS`], of sizes, positions, exposures, working orders and
    /// rates, rounded down. Collars, silence, losses and what counts denials and cancels stay as they are: a tighter one would
    /// halt what has done nothing.
    Fraction(u16),
}

/// One overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Overlay {
    /// Whose it is: an override's or a probation's number.
    pub id: u64,
    /// At which scope.
    pub scope: Scope,
    /// What it does there.
    pub change: Change,
}

/// What of a scope is held at a time, as opposed to what flows: on probation more of it is denied, but having it is no
/// reason to halt.
const HELD: [Gauge; 6] =
    [Gauge::Gross, Gauge::NetLong, Gauge::NetShort, Gauge::Working, Gauge::PositionLong, Gauge::PositionShort];

/// The number of `rule` in `limits`; [`UNLIMITED`] where there is none. `None`: the rule has no number, or there is no
/// such window.
#[must_use]
pub fn number(limits: &ScopeLimits, rule: Rule, window_ns: Option<u64>) -> Option<i64> {
    if let Some(of) = rate_of(rule) {
        let window = window_ns?;
        return limits.rates.iter().find(|r| r.of == of && r.window_ns == window).map(|r| i64::from(r.count));
    }
    if window_ns.is_some() {
        return None;
    }
    if let Some(gauge) = Gauge::of(rule) {
        return Some(limits.of(gauge));
    }
    match rule {
        Rule::OrderQty => Some(limits.order_qty),
        Rule::OrderNotional => Some(limits.order_notional),
        Rule::OrderParticipation => Some(limits.order_participation),
        Rule::Collar => Some(limits.collar),
        Rule::DuplicateOrder => Some(limits.duplicate.map_or(UNLIMITED, |d| i64::from(d.count))),
        Rule::HeartbeatLoss => Some(limits.heartbeat_ns),
        Rule::ClockSkew => Some(limits.clock_skew_ns),
        Rule::Children => Some(limits.children),
        Rule::FanOut => Some(limits.fan_out.map_or(UNLIMITED, |f| i64::from(f.count))),
        // Of other accounts than those of suspense there is nothing to set.
        Rule::Suspense => Some(limits.suspense).filter(|limit| *limit != UNLIMITED),
        _ => None,
    }
}

/// The windows of `rule` in `limits`, in ns, if it is a rate.
pub fn windows(limits: &ScopeLimits, rule: Rule) -> impl Iterator<Item = u64> + '_ {
    limits.rates.iter().filter(move |r| r.of.rule() == rule).map(|r| r.window_ns)
}

/// What the rates of `rule` count; `None`: it is no rate.
#[must_use]
pub fn rate_of(rule: Rule) -> Option<RateOf> {
    [RateOf::Orders, RateOf::Messages, RateOf::Cancels, RateOf::Denials, RateOf::Orphans]
        .into_iter()
        .find(|of| of.rule() == rule)
}

fn set(limits: &mut ScopeLimits, rule: Rule, window_ns: Option<u64>, value: i64) {
    if let Some(of) = rate_of(rule) {
        // Bounded where it was asked for; a GCRA rate needs one at least, and its burst stays.
        let count = u32::try_from(value.max(0)).unwrap_or(u32::MAX);
        for rate in limits.rates.iter_mut().filter(|r| r.of == of && Some(r.window_ns) == window_ns) {
            put_count(rate, count);
        }
        return;
    }
    if let Some(gauge) = Gauge::of(rule) {
        limits.max[gauge as usize] = value;
        return;
    }
    match rule {
        Rule::OrderQty => limits.order_qty = value,
        Rule::OrderNotional => limits.order_notional = value,
        Rule::OrderParticipation => limits.order_participation = value,
        Rule::Collar => limits.collar = value,
        Rule::DuplicateOrder => {
            if let Some(duplicate) = &mut limits.duplicate {
                duplicate.count = u32::try_from(value.max(0)).unwrap_or(u32::MAX);
            }
        }
        Rule::HeartbeatLoss => limits.heartbeat_ns = value,
        Rule::ClockSkew => limits.clock_skew_ns = value,
        Rule::Children => limits.children = value,
        Rule::FanOut => {
            if let Some(fan_out) = &mut limits.fan_out {
                fan_out.count = u32::try_from(value.max(0)).unwrap_or(u32::MAX);
            }
        }
        Rule::Suspense => limits.suspense = value,
        _ => {}
    }
}

/// A rate of zero is a sliding one: the other kind divides by its count.
fn put_count(rate: &mut RateLimit, count: u32) {
    if count == 0 {
        rate.kind = RateKind::Sliding;
    }
    rate.count = count;
}

/// `value` in parts of `bps`, rounded down; unlimited stays so.
#[must_use]
pub fn fraction(value: i64, bps: u16) -> i64 {
    if value >= UNLIMITED {
        return value;
    }
    let part = i128::from(value.max(0)) * i128::from(bps.min(WHOLE_BPS)) / i128::from(WHOLE_BPS);
    // Not above `value`, which is one.
    i64::try_from(part).unwrap_or(value)
}

/// The configuration's table with `overlays` over it, of the same generation. Overlays of scopes or rules that `base` does
/// not have do nothing.
#[must_use]
pub fn in_effect(base: &LimitTable, universe: &Universe, overlays: &[Overlay]) -> LimitTable {
    let mut table = base.clone();
    for overlay in overlays {
        let Change::Set { rule, window_ns, value } = overlay.change else { continue };
        let known = base.scope(universe, overlay.scope).and_then(|limits| number(limits, rule, window_ns));
        if known.is_some() && applies(rule, overlay.scope.kind()) {
            set(table.edit(universe, overlay.scope), rule, window_ns, value);
        }
    }
    for overlay in overlays {
        let Change::Fraction(bps) = overlay.change else { continue };
        let Some(configured) = base.scope(universe, overlay.scope).cloned() else { continue };
        let whole = for_probation(base, universe, overlay.scope, configured);
        shrink(table.edit(universe, overlay.scope), &whole, bps);
    }
    table
}

/// The limits that a fraction at `scope` is a fraction of. A session often has none of its own: there the tightest of the
/// strategies that it may trade stands for them.
fn for_probation(base: &LimitTable, universe: &Universe, scope: Scope, own: ScopeLimits) -> ScopeLimits {
    let Scope::Session(session) = scope else { return own };
    let mut whole = own;
    let Some(spec) = universe.sessions.get(usize::from(session.0)) else { return whole };
    let all = || (0..universe.strategies.len()).map(|s| StrategyId(s as u16)).collect();
    let strategies: Vec<StrategyId> = if spec.strategies.is_empty() { all() } else { spec.strategies.clone() };
    // A quantity counts each instrument's own unit: one of another scale's would mean nothing here.
    let mut scales = universe.instruments.iter().map(|i| i.qty_scale);
    let first = scales.next();
    let one_scale = scales.all(|scale| Some(scale) == first);
    let limits = strategies.iter().filter_map(|s| base.scope(universe, Scope::Strategy(*s)));
    let limits: Vec<&ScopeLimits> = limits.collect();
    for rule in [Rule::OrderQty, Rule::OrderNotional, Rule::OrderParticipation, Rule::WorkingOrders] {
        if (rule == Rule::OrderQty && !one_scale) || number(&whole, rule, None) != Some(UNLIMITED) {
            continue;
        }
        let tightest = limits.iter().min_by_key(|l| number(l, rule, None));
        if let Some(tightest) = tightest {
            set(&mut whole, rule, None, number(tightest, rule, None).unwrap_or(UNLIMITED));
            whole.action[rule as usize] = tightest.action[rule as usize];
        }
    }
    for of in [RateOf::Orders, RateOf::Messages] {
        if whole.rates.iter().any(|r| r.of == of) {
            continue;
        }
        let of_strategy = |l: &&&ScopeLimits| l.rates.iter().any(|r| r.of == of);
        // The slowest by what it lets through in the long run.
        let pace = |l: &&&ScopeLimits| {
            let per_second = |r: &RateLimit| u128::from(r.count) * 1_000_000_000_000 / u128::from(r.window_ns.max(1));
            l.rates.iter().filter(|r| r.of == of).map(per_second).min()
        };
        if let Some(slowest) = limits.iter().filter(of_strategy).min_by_key(pace) {
            let room = crate::limits::MAX_RATES.saturating_sub(whole.rates.len());
            whole.rates.extend(slowest.rates.iter().filter(|r| r.of == of).take(room).copied());
        }
    }
    whole
}

/// Brings `limits` down to the part `bps` of `whole`, where they are above it.
fn shrink(limits: &mut ScopeLimits, whole: &ScopeLimits, bps: u16) {
    for gauge in HELD {
        let part = fraction(whole.of(gauge), bps);
        if part < limits.of(gauge) {
            limits.max[gauge as usize] = part;
            limits.action[gauge.rule() as usize] = Action::Deny;
        }
    }
    for rule in [Rule::OrderQty, Rule::OrderNotional, Rule::OrderParticipation] {
        let part = fraction(number(whole, rule, None).unwrap_or(UNLIMITED), bps);
        if number(limits, rule, None).is_some_and(|now| part < now) {
            set(limits, rule, None, part);
            limits.action[rule as usize] = whole.action[rule as usize];
        }
    }
    for rate in whole.rates.iter().filter(|r| matches!(r.of, RateOf::Orders | RateOf::Messages)) {
        let count = fraction(i64::from(rate.count), bps) as u32;
        let own = limits.rates.iter_mut().find(|r| r.of == rate.of && r.window_ns == rate.window_ns);
        match own {
            Some(own) if own.count <= count => {}
            Some(own) => shrink_rate(own, count, bps),
            // Lent by a strategy: the session has none of its own, and `for_probation` saw to the room.
            None => {
                let mut lent = *rate;
                shrink_rate(&mut lent, count, bps);
                limits.rates.push(lent);
            }
        }
    }
}

fn shrink_rate(rate: &mut RateLimit, count: u32, bps: u16) {
    if let RateKind::Gcra { burst } = rate.kind {
        // One is the least that this kind can have, and never more than was configured.
        rate.kind = RateKind::Gcra { burst: (fraction(i64::from(burst), bps) as u32).max(1) };
    }
    put_count(rate, count);
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::universe::{AccountSpec, CurrencySpec, StrategySpec};
    use crate::model::{InstrumentSpec, SessionKind, SessionSpec};
    use crate::units::{AccountId, CurrencyId, SessionId};

    const ALPHA: Scope = Scope::Strategy(StrategyId(0));
    const GW: Scope = Scope::Session(SessionId(0));

    /// Strategies `alpha` and `beta`, and an instrument per quantity scale.
    pub(in crate::limits) fn universe(scales: &[u8]) -> Universe {
        let instrument = |(n, scale): (usize, &u8)| InstrumentSpec {
            name: format!("i{n}"),
            currency: CurrencyId(0),
            px_scale: 2,
            qty_scale: *scale,
            multiplier: (1, 0),
            negative_px: false,
            average_daily_volume: None,
            initial_reference: None,
        };
        Universe::new(
            2,
            vec![CurrencySpec { name: "USD".into(), initial_rate: None }],
            vec![SessionSpec { name: "gw".into(), kind: SessionKind::Ask, strategies: vec![] }],
            vec![AccountSpec { name: "main".into() }],
            ["alpha", "beta"].map(|name| StrategySpec { name: name.into(), account: AccountId(0) }).into(),
            scales.iter().enumerate().map(instrument).collect(),
        )
    }

    fn rate(of: RateOf, count: u32, kind: RateKind) -> RateLimit {
        RateLimit { of, kind, count, window_ns: 1_000_000_000, action: Action::Halt(crate::model::Target::Own) }
    }

    fn table(universe: &Universe) -> LimitTable {
        let mut table = LimitTable::unlimited(universe);
        let alpha = table.edit(universe, ALPHA);
        alpha.max[Gauge::Gross as usize] = 1_001;
        alpha.action[Rule::GrossExposure as usize] = Action::Halt(crate::model::Target::Own);
        alpha.order_qty = 99;
        alpha.collar = 500;
        alpha.max[Gauge::Loss as usize] = 7_000;
        alpha.rates = vec![rate(RateOf::Orders, 50, RateKind::Sliding), rate(RateOf::Cancels, 40, RateKind::Sliding)];
        table
    }

    fn at<'t>(table: &'t LimitTable, universe: &Universe, scope: Scope) -> &'t ScopeLimits {
        table.scope(universe, scope).unwrap()
    }

    #[test]
    fn an_overlay_sets_one_number_and_nothing_else_anywhere() {
        let universe = universe(&[0]);
        let base = table(&universe);
        let set =
            |rule, window_ns, value| Overlay { id: 1, scope: ALPHA, change: Change::Set { rule, window_ns, value } };
        let over = [set(Rule::GrossExposure, None, 2_000), set(Rule::OrderRate, Some(1_000_000_000), 80)];
        let made = in_effect(&base, &universe, &over);
        let mut expected = at(&base, &universe, ALPHA).clone();
        expected.max[Gauge::Gross as usize] = 2_000;
        expected.rates[0].count = 80;
        assert_eq!(*at(&made, &universe, ALPHA), expected);
        for slot in 0..universe.scope_count() {
            if universe.scope_at(slot) != Some(ALPHA) {
                assert_eq!(made.at(slot), base.at(slot));
            }
        }
        // What the scope does not have is not made up.
        let none = in_effect(&base, &universe, &[set(Rule::OrderRate, Some(5), 80), set(Rule::StreamGap, None, 1)]);
        assert_eq!(at(&none, &universe, ALPHA), at(&base, &universe, ALPHA));
    }

    #[test]
    fn a_fraction_rounds_down_and_leaves_what_must_not_be_tighter() {
        let universe = universe(&[0]);
        let base = table(&universe);
        let made = in_effect(&base, &universe, &[Overlay { id: 1, scope: ALPHA, change: Change::Fraction(2_500) }]);
        let alpha = at(&made, &universe, ALPHA);
        assert_eq!((alpha.of(Gauge::Gross), alpha.order_qty), (250, 24));
        assert_eq!(alpha.action[Rule::GrossExposure as usize], Action::Deny, "what is held is no reason to halt");
        assert_eq!((alpha.rates[0].count, alpha.rates[1].count), (12, 40), "cancels are left alone");
        assert_eq!((alpha.collar, alpha.of(Gauge::Loss)), (500, 7_000));
        assert_eq!(alpha.of(Gauge::NetLong), UNLIMITED);
    }

    #[test]
    fn a_raise_gives_nothing_to_who_is_on_probation_and_a_cut_stays() {
        let universe = universe(&[0]);
        let base = table(&universe);
        let set = |value| Overlay {
            id: 1,
            scope: ALPHA,
            change: Change::Set { rule: Rule::OrderQty, window_ns: None, value },
        };
        let part = Overlay { id: 2, scope: ALPHA, change: Change::Fraction(5_000) };
        for (value, expected) in [(1_000, 49), (99, 49), (7, 7)] {
            for overlays in [[set(value), part], [part, set(value)]] {
                assert_eq!(at(&in_effect(&base, &universe, &overlays), &universe, ALPHA).order_qty, expected);
            }
        }
    }

    #[test]
    fn a_session_without_limits_has_the_tightest_of_its_strategies() {
        let universe_of = universe;
        let universe = universe_of(&[0, 0]);
        let mut base = table(&universe);
        let beta = base.edit(&universe, Scope::Strategy(StrategyId(1)));
        beta.order_qty = 60;
        beta.rates = vec![rate(RateOf::Orders, 30, RateKind::Gcra { burst: 3 })];
        let over = [Overlay { id: 1, scope: GW, change: Change::Fraction(1_000) }];
        let gw = at(&in_effect(&base, &universe, &over), &universe, GW).clone();
        assert_eq!(gw.order_qty, 6);
        assert_eq!(gw.rates, [rate(RateOf::Orders, 3, RateKind::Gcra { burst: 1 })]);
        // Quantities of unlike scale say nothing about each other.
        let mixed = universe_of(&[0, 8]);
        assert_eq!(at(&in_effect(&table(&mixed), &mixed, &over), &mixed, GW).order_qty, UNLIMITED);
    }

    #[test]
    fn no_fraction_is_above_what_is_configured() {
        for value in [0, 1, 2, 3, 999, 1 << 40, UNLIMITED - 1, UNLIMITED] {
            let mut before = 0;
            for bps in [0, 1, 999, 2_500, 9_999, WHOLE_BPS, u16::MAX] {
                let part = fraction(value, bps);
                assert!((before..=value).contains(&part), "{value} {bps}: {part}");
                before = part;
            }
            assert_eq!(fraction(value, WHOLE_BPS), value);
        }
    }

    #[test]
    fn a_rate_that_comes_down_to_nothing_lets_nothing_through() {
        let universe = universe(&[0]);
        let mut base = LimitTable::unlimited(&universe);
        base.edit(&universe, ALPHA).rates = vec![rate(RateOf::Orders, 3, RateKind::Gcra { burst: 2 })];
        let over = [Overlay { id: 1, scope: ALPHA, change: Change::Fraction(1_000) }];
        assert_eq!(
            at(&in_effect(&base, &universe, &over), &universe, ALPHA).rates,
            [rate(RateOf::Orders, 0, RateKind::Sliding)]
        );
    }
}
