//! HOT: orders out against parents in, per scope: fan-out.
//!
//! Time is cut into sevenths of the window. The orders of the present one and of the seven before it are counted, so that
//! at least a whole window is looked back on. One more is within the limit if there are then at most `count` for each
//! parent that is open in the scope, and at most `count` if none is.
//!
//! A parent is open in the firm, its account and its strategy from the beginning, and in a session from the first child
//! that the session sent, as the first of all.

use crate::limits::LimitTable;
use crate::model::Universe;
use crate::model::save::{BadSave, In, Out, State, restore_each, save_each, saved_state};
use crate::units::MonoNanos;

/// How many parts are kept: those of a window, and the present one.
const PARTS: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
struct Fan {
    /// Length of a part in ns; 0: nothing is limited.
    part_ns: u64,
    /// The latest part that anything was counted in.
    part: u64,
    /// The window, to see whether it changed.
    window_ns: u64,
    /// How many per parent.
    count: u32,
    /// Parents that are open.
    open: u32,
    /// Orders in the latest part and those before it, at their number modulo the length.
    orders: [u32; PARTS],
}

const _: () = assert!(size_of::<Fan>() == 64);

impl Fan {
    /// Orders in the present part and as many before it as are kept.
    #[inline]
    fn orders_at(&self, part: u64) -> u64 {
        let gone = part.saturating_sub(self.part);
        let mut sum = 0;
        for back in 0..(PARTS as u64).saturating_sub(gone) {
            sum += u64::from(self.orders[(self.part.wrapping_sub(back) % PARTS as u64) as usize]);
        }
        sum
    }
}

/// The fan-out of every scope that can be limited by it.
#[derive(Debug)]
pub struct Fans {
    /// Firm, accounts and strategies, then sessions.
    list: Vec<Fan>,
    /// The first instrument's place among all scopes, and the first session's.
    gap: (usize, usize),
}

// What it is measured by follows from its limit.
saved_state!(Fan { part, open, orders } derived { part_ns, window_ns, count });

impl State for Fans {
    fn keep(&self, out: &mut Out<'_>) {
        let Fans { list, gap: _ } = self;
        save_each(list, out);
    }

    fn restore(&mut self, input: &mut In<'_>) -> Result<(), BadSave> {
        let Fans { list, gap: _ } = self;
        restore_each(list, input)
    }
}

impl Fans {
    /// Nothing counted, no parent open.
    #[must_use]
    pub fn new(universe: &Universe, table: &LimitTable) -> Fans {
        let first = 1 + universe.accounts.len() + universe.strategies.len();
        let gap = (first, first + universe.instruments.len());
        let empty = Fan { part_ns: 0, part: 0, window_ns: 0, count: 0, open: 0, orders: [0; PARTS] };
        let mut fans = Fans { list: vec![empty; first + universe.sessions.len()], gap };
        fans.set_limits(table);
        fans
    }

    /// The place of the scope at `slot`, which is no instrument.
    #[inline]
    fn place(&self, slot: usize) -> usize {
        debug_assert!(!(self.gap.0..self.gap.1).contains(&slot));
        if slot < self.gap.0 { slot } else { slot - (self.gap.1 - self.gap.0) }
    }

    /// From here on these limits apply. What was counted in a window of another length is forgotten.
    pub fn set_limits(&mut self, table: &LimitTable) {
        let gap = self.gap.1 - self.gap.0;
        for place in 0..self.list.len() {
            let slot = if place < self.gap.0 { place } else { place + gap };
            let limit = table.at(slot).fan_out;
            let fan = &mut self.list[place];
            let (count, window_ns) = limit.map_or((0, 0), |limit| (limit.count, limit.window_ns));
            if window_ns != fan.window_ns {
                (fan.part, fan.orders) = (0, [0; PARTS]);
            }
            fan.window_ns = window_ns;
            fan.part_ns = if limit.is_some() { window_ns.div_ceil(PARTS as u64 - 1).max(1) } else { 0 };
            fan.count = count;
        }
    }

    /// How many orders of the window there would be with one more at `slot`, and how many are allowed, if that is more.
    #[inline]
    #[must_use]
    pub fn excess(&self, slot: usize, now: MonoNanos) -> Option<(i64, i64)> {
        let fan = &self.list[self.place(slot)];
        if fan.part_ns == 0 {
            return None;
        }
        let orders = fan.orders_at(now.0 / fan.part_ns) + 1;
        let most = u64::from(fan.count) * u64::from(fan.open.max(1));
        (orders > most).then_some((orders as i64, most as i64))
    }

    /// Counts an order that is let through, or out already.
    #[inline]
    pub fn record(&mut self, slot: usize, now: MonoNanos) {
        let place = self.place(slot);
        let fan = &mut self.list[place];
        if fan.part_ns == 0 {
            return;
        }
        let part = now.0 / fan.part_ns;
        for gone in 1..=part.saturating_sub(fan.part).min(PARTS as u64) {
            fan.orders[((fan.part + gone) % PARTS as u64) as usize] = 0;
        }
        fan.part = fan.part.max(part);
        let now_at = &mut fan.orders[(fan.part % PARTS as u64) as usize];
        *now_at = now_at.saturating_add(1);
    }

    /// Parents at `slot` opened (positive) or are over.
    #[inline]
    pub fn opened(&mut self, slot: usize, by: i32) {
        let place = self.place(slot);
        let fan = &mut self.list[place];
        fan.open = fan.open.saturating_add_signed(by);
    }

    /// The count at `slot` starts anew: a person re-armed it.
    pub fn restart(&mut self, slot: usize) {
        if (self.gap.0..self.gap.1).contains(&slot) {
            return;
        }
        let place = self.place(slot);
        self.list[place].orders = [0; PARTS];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::FanOutLimit;
    use crate::model::{ScopeKind, universe as u};
    use crate::units::AccountId;

    fn fans(count: u32, window_ns: u64) -> (Fans, usize) {
        let universe = Universe::new(
            2,
            vec![u::CurrencySpec { name: "USD".into(), initial_rate: None }],
            vec![u::SessionSpec { name: "gw".into(), kind: u::SessionKind::Ask, strategies: vec![] }],
            vec![u::AccountSpec { name: "a".into() }],
            vec![u::StrategySpec { name: "s".into(), account: AccountId(0) }],
            Vec::new(),
        );
        let mut table = LimitTable::unlimited(&universe);
        table.edit_all(ScopeKind::Session).fan_out = Some(FanOutLimit { count, window_ns });
        (Fans::new(&universe, &table), 3)
    }

    #[test]
    fn every_open_parent_allows_as_many_orders_and_none_allows_as_many_as_one() {
        let (mut fans, slot) = fans(2, 800);
        let out = |fans: &mut Fans, most: usize| {
            for n in 0..most {
                assert_eq!(fans.excess(slot, MonoNanos(5)), None, "{n}");
                fans.record(slot, MonoNanos(5));
            }
            fans.excess(slot, MonoNanos(5))
        };
        assert_eq!(out(&mut fans, 2), Some((3, 2)));
        fans.opened(slot, 1);
        assert_eq!(fans.excess(slot, MonoNanos(5)), Some((3, 2)), "the first parent is what the least is for");
        fans.opened(slot, 2);
        assert_eq!(out(&mut fans, 4), Some((7, 6)));
        fans.opened(slot, -3);
        assert_eq!(fans.excess(slot, MonoNanos(5)), Some((7, 2)));
        fans.restart(slot);
        assert_eq!(fans.excess(slot, MonoNanos(5)), None);
        assert_eq!(fans.excess(0, MonoNanos(5)), None, "not limited for the firm");
    }

    #[test]
    fn what_is_older_than_the_window_and_a_seventh_is_not_counted() {
        let (mut fans, slot) = fans(3, 700);
        for at in [0, 350, 799] {
            fans.record(slot, MonoNanos(at));
        }
        // Parts of 100 ns: at 799 it is the eighth, and the first is still among those kept.
        assert_eq!(fans.excess(slot, MonoNanos(799)), Some((4, 3)));
        assert_eq!(fans.excess(slot, MonoNanos(800)), None, "a part later it is not");
        fans.record(slot, MonoNanos(800));
        assert_eq!(fans.excess(slot, MonoNanos(1_149)), None, "350 is gone by then");
        fans.record(slot, MonoNanos(1_149));
        assert_eq!(fans.excess(slot, MonoNanos(1_149)), Some((4, 3)));
        assert_eq!(fans.excess(slot, MonoNanos(1_000_000)), None);
        fans.record(slot, MonoNanos(1_000_000));
        assert_eq!(fans.list[3].orders.iter().sum::<u32>(), 1);
    }
}
