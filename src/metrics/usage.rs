//! How much of each limit is used, from the limit table and what the engine published.

use crate::engine::published::ScopeView;
use crate::limits::{Gauge, LimitTable, RateLimit, ScopeLimits, UNLIMITED, WarnLevels};
use crate::model::rule::applies;
use crate::model::{Action, Rule, Scope, Universe};

/// One limit at one scope.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// The rule.
    pub rule: Rule,
    /// The limit in the rule's unit; [`UNLIMITED`] where none.
    pub limit: i64,
    /// What is in use in the same unit; `None` if the limit is judged order by order, or nothing is known.
    pub observed: Option<i64>,
    /// What a breach does.
    pub action: Action,
    /// Warning levels in percent; unused ones 0.
    pub warn: WarnLevels,
    /// The rate limit that this is.
    pub rate: Option<RateLimit>,
    /// The window in ns, where the rule has one.
    pub window_ns: Option<u64>,
}

impl Usage {
    /// Observed / limit, at least 0. A limit of zero counts as one unit: nothing used is 0, anything more is over.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        if self.limit >= UNLIMITED {
            return None;
        }
        let observed = self.observed?;
        Some(observed.max(0) as f64 / self.limit.max(1) as f64)
    }
}

/// Calls `each` for every limit that can stand at `scope`, in the order of [`Rule`], rates last.
///
/// `view` is what the engine last showed of the scope, under the same generation of limits: rates are matched by
/// position. Pairs have none.
pub fn each_usage(
    universe: &Universe,
    table: &LimitTable,
    scope: Scope,
    view: Option<&ScopeView>,
    mut each: impl FnMut(Usage),
) {
    let Some(limits) = table.scope(universe, scope) else { return };
    for rule in Rule::ALL {
        if applies(rule, scope.kind())
            && let Some(limit) = number(limits, rule)
        {
            let window_ns = match rule {
                Rule::DuplicateOrder => limits.duplicate.map(|d| d.window_ns),
                Rule::LossVelocity => Some(limits.loss_window_ns),
                _ => None,
            };
            let observed = Gauge::of(rule).and_then(|gauge| observed(universe, scope, view?, gauge));
            let (action, warn) = (limits.action[rule as usize], limits.warn[rule as usize]);
            each(Usage { rule, limit, observed, action, warn, rate: None, window_ns });
        }
    }
    for (at, rate) in limits.rates.iter().enumerate() {
        let rule = rate.of.rule();
        each(Usage {
            rule,
            limit: i64::from(rate.count),
            observed: view.and_then(|v| v.rates.get(at).copied()),
            action: rate.action,
            warn: limits.warn[rule as usize],
            rate: Some(*rate),
            window_ns: Some(rate.window_ns),
        });
    }
}

/// The one number of `rule`, if it has one; rates are listed for themselves.
fn number(limits: &ScopeLimits, rule: Rule) -> Option<i64> {
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
        _ => None,
    }
}

fn observed(universe: &Universe, scope: Scope, view: &ScopeView, gauge: Gauge) -> Option<i64> {
    let value = view.gauges[gauge as usize];
    if gauge != Gauge::DayQty {
        return Some(value);
    }
    // Its limit is in basis points of the average daily volume, rounded up as the engine does.
    let Scope::Instrument(instrument) = scope else { return None };
    let volume = i128::from(universe.instruments.get(instrument.0 as usize)?.average_daily_volume?.0);
    let bps = (i128::from(value.max(0)) * 10_000 + volume - 1).checked_div(volume)?;
    Some(i64::try_from(bps).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kill::testing::universe;
    use crate::limits::{MAX_RATES, RateKind, RateOf};
    use crate::model::Mode;
    use crate::units::InstrumentId;

    #[test]
    fn usage_takes_each_limit_with_its_own_observation() {
        let universe = universe();
        let mut table = LimitTable::unlimited(&universe);
        let es = Scope::Instrument(InstrumentId(0));
        let limits = table.edit(&universe, es);
        limits.max[Gauge::PositionLong as usize] = 200;
        limits.max[Gauge::DayQty as usize] = 100;
        limits.rates.push(RateLimit {
            of: RateOf::Orders,
            kind: RateKind::Sliding,
            count: 10,
            window_ns: 1_000_000_000,
            action: Action::Deny,
        });
        let mut view = ScopeView { gauges: [0; Gauge::COUNT], rates: [0; MAX_RATES], mode: Mode::Normal };
        view.gauges[Gauge::PositionLong as usize] = 50;
        view.gauges[Gauge::DayQty as usize] = 5_001;
        view.rates[0] = 9;
        let mut ratios = Vec::new();
        each_usage(&universe, &table, es, Some(&view), |usage| {
            if let Some(ratio) = usage.ratio() {
                ratios.push((usage.rule, ratio));
            }
        });
        assert_eq!(
            ratios,
            [(Rule::PositionLong, 0.25), (Rule::DayParticipation, 0.51), (Rule::OrderRate, 0.9)],
            "5,001 of a volume of 1,000,000 is 51 basis points, rounded up"
        );
    }

    #[test]
    fn limit_of_zero_is_not_used_until_something_is() {
        let usage = |observed| Usage {
            rule: Rule::GrossExposure,
            limit: 0,
            observed: Some(observed),
            action: Action::Deny,
            warn: [0; 5],
            rate: None,
            window_ns: None,
        };
        assert_eq!(usage(0).ratio(), Some(0.0));
        assert_eq!(usage(-5).ratio(), Some(0.0));
        assert_eq!(usage(5).ratio(), Some(5.0));
    }
}
