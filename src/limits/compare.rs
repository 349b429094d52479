//! What differs between two limit tables of one universe, and whether anything got looser.

use crate::limits::overlay::{number, rate_of, windows};
use crate::limits::table::{LimitTable, ScopeLimits, UNLIMITED};
use crate::model::rule::applies;
use crate::model::{Rule, Scope, Universe};
use crate::units::{AccountId, CurrencyId, InstrumentId, StrategyId};

/// One number that differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// At which scope.
    pub scope: Scope,
    /// Of which rule.
    pub rule: Rule,
    /// Of a rate: which window, in ns.
    pub window_ns: Option<u64>,
    /// Before; [`UNLIMITED`] where there was none.
    pub old: i64,
    /// After; [`UNLIMITED`] where there is none.
    pub new: i64,
}

/// Every number that differs, scope by scope; of pairs those that have limits of their own in either table.
#[must_use]
pub fn differences(universe: &Universe, old: &LimitTable, new: &LimitTable) -> Vec<Difference> {
    let mut found = Vec::new();
    for scope in scopes(universe, old, new) {
        let (Some(before), Some(after)) = (old.scope(universe, scope), new.scope(universe, scope)) else { continue };
        if before != after {
            each_number(scope, before, after, |difference| found.push(difference));
        }
    }
    found
}

fn scopes<'a>(
    universe: &'a Universe,
    old: &'a LimitTable,
    new: &'a LimitTable,
) -> impl Iterator<Item = Scope> + use<'a> {
    let slots = (0..universe.scope_count()).filter_map(|slot| universe.scope_at(slot));
    let mut pairs: Vec<_> = old.exact_pairs().chain(new.exact_pairs()).collect();
    pairs.sort_unstable();
    pairs.dedup();
    slots.chain(pairs.into_iter().map(|(s, i)| Scope::Pair(s, i)))
}

fn each_number(scope: Scope, before: &ScopeLimits, after: &ScopeLimits, mut each: impl FnMut(Difference)) {
    for rule in Rule::ALL.into_iter().filter(|rule| applies(*rule, scope.kind())) {
        let mut all: Vec<Option<u64>> = match rate_of(rule) {
            None => vec![None],
            Some(_) => windows(before, rule).chain(windows(after, rule)).map(Some).collect(),
        };
        all.sort_unstable();
        all.dedup();
        for window_ns in all {
            // A window that is not there limits nothing.
            let of = |limits| match window_ns {
                None => number(limits, rule, None),
                Some(_) => Some(number(limits, rule, window_ns).unwrap_or(UNLIMITED)),
            };
            if let (Some(old), Some(new)) = (of(before), of(after))
                && old != new
            {
                each(Difference { scope, rule, window_ns, old, new });
            }
        }
    }
}

/// The first scope at which `new` lets more through than `old`, or something that cannot be told from that: whatever
/// differs besides numbers that got smaller counts as looser. `None`: nothing is looser.
#[must_use]
pub fn looser_at(universe: &Universe, old: &LimitTable, new: &LimitTable) -> Option<Scope> {
    for scope in scopes(universe, old, new) {
        let (Some(before), Some(after)) = (old.scope(universe, scope), new.scope(universe, scope)) else {
            return Some(scope);
        };
        if before != after && !only_tighter(scope, before, after) {
            return Some(scope);
        }
    }
    for s in (0..universe.strategies.len()).map(|s| StrategyId(s as u16)) {
        if (new.parents(s) as u8) < old.parents(s) as u8 {
            return Some(Scope::Strategy(s));
        }
    }
    for a in (0..universe.accounts.len()).map(|a| AccountId(a as u16)) {
        if old.is_suspense(a) && !new.is_suspense(a) {
            return Some(Scope::Account(a));
        }
    }
    for i in 0..universe.instruments.len() {
        let id = InstrumentId(i as u32);
        if (old.is_restricted(id) && !new.is_restricted(id)) || new.reference_age(id) > old.reference_age(id) {
            return Some(Scope::Instrument(id));
        }
        for s in 0..universe.strategies.len() {
            let strategy = StrategyId(s as u16);
            if new.is_permitted(strategy, id) && !old.is_permitted(strategy, id) {
                return Some(Scope::Pair(strategy, id));
            }
            // Pairs without limits of their own: "strategy/*", "*/instrument", "*".
            let (before, after) = (old.pair_index(strategy, id), new.pair_index(strategy, id));
            let (before, after) = (old.profile(before), new.profile(after));
            if before != after && !only_tighter(Scope::Pair(strategy, id), before, after) {
                return Some(Scope::Pair(strategy, id));
            }
        }
    }
    let aged = |c: usize| new.fx_age(CurrencyId(c as u16)) > old.fx_age(CurrencyId(c as u16));
    (0..universe.currencies.len()).any(aged).then_some(Scope::Firm)
}

fn only_tighter(scope: Scope, before: &ScopeLimits, after: &ScopeLimits) -> bool {
    // A check that is demanded no longer, and only that: another one that is lets less through.
    let mut looser = before.demanded & !after.demanded != 0;
    each_number(scope, before, after, |d| looser |= d.new > d.old);
    // With the numbers of `after` in the place of its own, `before` has to be the same.
    let mut same = before.clone();
    same.max = after.max;
    same.order_qty = after.order_qty;
    same.order_notional = after.order_notional;
    same.order_participation = after.order_participation;
    same.collar = after.collar;
    same.heartbeat_ns = after.heartbeat_ns;
    same.clock_skew_ns = after.clock_skew_ns;
    same.children = after.children;
    same.suspense = after.suspense;
    same.demanded = after.demanded;
    if let (Some(before), Some(after)) = (&mut same.fan_out, &after.fan_out) {
        before.count = after.count;
    }
    if let (Some(before), Some(after)) = (&mut same.duplicate, &after.duplicate) {
        before.count = after.count;
    }
    if same.rates.len() == after.rates.len() {
        for (before, after) in same.rates.iter_mut().zip(&after.rates) {
            before.count = after.count;
        }
    }
    !looser && same == *after
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{Gauge, RateKind, RateLimit, RateOf};
    use crate::model::{Action, Target};

    const FIRM: Scope = Scope::Firm;

    fn universe() -> Universe {
        use crate::model::universe::{AccountSpec, CurrencySpec, InstrumentSpec, StrategySpec};
        let instrument = InstrumentSpec {
            name: "ACME".into(),
            currency: CurrencyId(0),
            px_scale: 2,
            qty_scale: 0,
            multiplier: (1, 0),
            negative_px: false,
            average_daily_volume: None,
            initial_reference: None,
        };
        Universe::new(
            2,
            vec![CurrencySpec { name: "USD".into(), initial_rate: None }],
            vec![],
            vec![AccountSpec { name: "main".into() }],
            vec![StrategySpec { name: "alpha".into(), account: AccountId(0) }],
            vec![instrument],
        )
    }

    #[test]
    fn every_number_that_differs_is_listed_with_both() {
        let universe = universe();
        let mut old = LimitTable::unlimited(&universe);
        let rate = |window_ns, count| {
            let (of, kind, action) = (RateOf::Orders, RateKind::Sliding, Action::Deny);
            RateLimit { of, kind, count, window_ns, action }
        };
        old.edit(&universe, FIRM).rates = vec![rate(1_000, 5)];
        old.edit(&universe, FIRM).collar = 7;
        let mut new = old.clone();
        new.edit(&universe, FIRM).max[Gauge::Gross as usize] = 9;
        new.edit(&universe, FIRM).rates = vec![rate(2_000, 5)];
        let of = |rule, window_ns, old, new| Difference { scope: FIRM, rule, window_ns, old, new };
        assert_eq!(
            differences(&universe, &old, &new),
            [
                of(Rule::GrossExposure, None, UNLIMITED, 9),
                of(Rule::OrderRate, Some(1_000), 5, UNLIMITED),
                of(Rule::OrderRate, Some(2_000), UNLIMITED, 5),
            ]
        );
        assert_eq!(looser_at(&universe, &old, &new), Some(FIRM), "one window is gone");
    }

    #[test]
    fn only_smaller_numbers_are_no_loosening() {
        let universe = universe();
        let mut old = LimitTable::unlimited(&universe);
        let (strategy, acme) = (StrategyId(0), InstrumentId(0));
        let pair = Scope::Pair(strategy, acme);
        old.edit(&universe, FIRM).max[Gauge::Gross as usize] = 9;
        old.restrict(acme, true);
        old.permit(strategy, Some(vec![]));
        old.set_reference_age(acme, 5);
        old.set_fx_age(CurrencyId(0), 5);
        type Edit = fn(&mut LimitTable, &Universe);
        let tighter: [Edit; 4] = [
            |t, u| t.edit(u, FIRM).demanded |= 1 << Rule::Collar as u64,
            |t, u| t.edit(u, FIRM).max[Gauge::Gross as usize] = 8,
            |t, u| t.edit(u, FIRM).order_qty = 8,
            |t, u| t.edit(u, Scope::Pair(StrategyId(0), InstrumentId(0))).order_qty = 8,
        ];
        let looser: [(Edit, Scope); 8] = [
            (|t, u| t.edit(u, FIRM).max[Gauge::Gross as usize] = 10, FIRM),
            (|t, u| t.edit(u, FIRM).max[Gauge::Gross as usize] = UNLIMITED, FIRM),
            (|t, u| t.edit(u, FIRM).action[Rule::GrossExposure as usize] = Action::Halt(Target::Own), FIRM),
            (|t, _| t.restrict(InstrumentId(0), false), Scope::Instrument(acme)),
            (|t, _| t.permit(StrategyId(0), None), pair),
            (|t, _| t.set_reference_age(InstrumentId(0), 6), Scope::Instrument(acme)),
            (|t, _| t.set_fx_age(CurrencyId(0), 6), FIRM),
            (|t, u| t.edit(u, FIRM).warn[0] = [1, 2, 3, 4, 5], FIRM),
        ];
        assert_eq!(looser_at(&universe, &old, &old.clone()), None);
        for edit in tighter {
            let mut new = old.clone();
            edit(&mut new, &universe);
            assert_eq!(looser_at(&universe, &old, &new), None);
            assert!(looser_at(&universe, &new, &old).is_some());
        }
        for (edit, at) in looser {
            let mut new = old.clone();
            edit(&mut new, &universe);
            assert_eq!(looser_at(&universe, &old, &new), Some(at));
        }
        // All pairs of an instrument, none of which has limits of its own.
        let mut wide = old.clone();
        wide.edit_pairs_of_instrument(acme).order_qty = 5;
        assert_eq!(looser_at(&universe, &wide, &old), Some(pair));
    }
}
