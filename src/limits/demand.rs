//! Checks that are demanded of every order of a scope, and orders for which no limit gives them anything to compare with.

use crate::limits::hot::HotProfile;
use crate::limits::table::{LimitTable, ParentRule};
use crate::model::{Rule, Scope, Universe};
use crate::units::{InstrumentId, StrategyId};

const PARENT: u64 = 1 << Rule::ParentQty as u64 | 1 << Rule::ParentState as u64 | 1 << Rule::ParentPx as u64;
const OF_SESSIONS: u64 = 1 << Rule::HeartbeatLoss as u64 | 1 << Rule::ClockSkew as u64;

/// Whether `rule` can be demanded: it judges orders, and only where a limit stands. What needs none always runs; a suspense
/// account is one that should have no orders at all.
#[must_use]
pub const fn is_demandable(rule: Rule) -> bool {
    match rule {
        Rule::OrderQty
        | Rule::OrderNotional
        | Rule::OrderParticipation
        | Rule::Collar
        | Rule::DuplicateOrder
        | Rule::PositionLong
        | Rule::PositionShort
        | Rule::DayParticipation
        | Rule::GrossExposure
        | Rule::NetLong
        | Rule::NetShort
        | Rule::WorkingOrders
        | Rule::OrderRate
        | Rule::MessageRate
        | Rule::RepeatedOrders
        | Rule::RepeatedExecutions
        | Rule::DailyLoss
        | Rule::Drawdown
        | Rule::LossVelocity
        | Rule::HeartbeatLoss
        | Rule::ClockSkew
        | Rule::ParentQty
        | Rule::ParentState
        | Rule::ParentPx
        | Rule::Children
        | Rule::FanOut => true,
        Rule::Malformed
        | Rule::Capacity
        | Rule::Mode
        | Rule::UnknownEntity
        | Rule::DuplicateId
        | Rule::UnknownOrder
        | Rule::Permission
        | Rule::Restricted
        | Rule::SidePermission
        | Rule::StreamGap
        | Rule::CancelRate
        | Rule::Denials
        | Rule::Journal
        | Rule::OrphanFills
        | Rule::Suspense
        | Rule::Coverage => false,
    }
}

/// The rules of `bits`, in check order.
pub fn rules_of(bits: u64) -> impl Iterator<Item = Rule> {
    Rule::ALL.into_iter().filter(move |rule| bits >> *rule as u64 & 1 == 1)
}

/// What is demanded of a strategy's orders in an instrument and limited by none of their scopes but perhaps their session:
/// every one of them would be denied where the session does not limit it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Whose orders.
    pub strategy: StrategyId,
    /// In what.
    pub instrument: InstrumentId,
    /// A bit per rule.
    pub rules: u64,
}

/// Every gap that `table` has among what its strategies may trade.
pub fn gaps<'a>(universe: &'a Universe, table: &'a LimitTable) -> impl Iterator<Item = Gap> + 'a {
    let hot = table.hot();
    let at = |scope| universe.slot(scope).map(|slot| &hot[table.slot_index(slot) as usize]);
    let demands = hot.iter().any(|profile| profile.demanded != 0);
    let strategies = if demands { universe.strategies.len() } else { 0 };
    (0..strategies).map(|s| StrategyId(s as u16)).flat_map(move |strategy| {
        let account = Scope::Account(universe.strategies[usize::from(strategy.0)].account);
        let wide = [at(Scope::Firm), at(account), at(Scope::Strategy(strategy))];
        let off = table.scope(universe, Scope::Strategy(strategy)).map_or(0, |limits| limits.parent_off);
        let children = 1 << Rule::Children as u64;
        let stands = move |limited: u64| match table.parents(strategy) {
            ParentRule::Ignored => limited & !(PARENT | children),
            // Of orders that name none the rest is denied, which is what was asked for.
            ParentRule::Checked | ParentRule::Required => limited | PARENT & !off,
        };
        (0..universe.instruments.len()).map(|i| InstrumentId(i as u32)).filter_map(move |instrument| {
            if !table.is_permitted(strategy, instrument) {
                return None;
            }
            let pair = hot.get(table.pair_index(strategy, instrument) as usize);
            let all = wide.into_iter().chain([pair, at(Scope::Instrument(instrument))]).flatten();
            let fold = |(limited, demanded), p: &HotProfile| (limited | p.mandatory, demanded | p.demanded);
            let (limited, demanded) = all.fold((0, 0), fold);
            let rules = demanded & !OF_SESSIONS & !stands(limited);
            (rules != 0).then_some(Gap { strategy, instrument, rules })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::overlay::tests::universe;

    #[test]
    fn a_gap_is_what_is_demanded_and_limited_by_nobody() {
        let universe = universe(&[0, 0]);
        let mut table = LimitTable::unlimited(&universe);
        assert_eq!(gaps(&universe, &table).count(), 0, "nothing is demanded");
        let demanded = 1 << Rule::Collar as u64 | 1 << Rule::ParentQty as u64 | 1 << Rule::ClockSkew as u64;
        table.edit(&universe, Scope::Firm).demanded = demanded;
        let all = universe.strategies.len() * universe.instruments.len();
        assert_eq!(gaps(&universe, &table).count(), all);
        let first = StrategyId(0);
        table.hold_to_parents(first, ParentRule::Required);
        table.edit(&universe, Scope::Strategy(first)).collar = 500;
        assert!(gaps(&universe, &table).all(|gap| gap.strategy != first), "the session is not asked");
        table.edit(&universe, Scope::Strategy(first)).parent_off = 1 << Rule::ParentQty as u64;
        let gap = gaps(&universe, &table).find(|gap| gap.strategy == first).unwrap();
        assert_eq!(rules_of(gap.rules).collect::<Vec<_>>(), [Rule::ParentQty]);
        table.permit(first, Some(vec![]));
        assert!(gaps(&universe, &table).all(|gap| gap.strategy != first), "it trades nothing");
    }
}
