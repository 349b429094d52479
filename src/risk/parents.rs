//! HOT: the table of parents: what the order management side has asked for, and what its children make of it.
//!
//! `filled + leaves + new ≤ qty` is judged on these sums. They follow the children: an order that is let through adds its
//! leaves and one child, an execution moves leaves to `filled`, an end takes leaves off. A parent that is over or complete
//! is kept, so that its children are told from those of nobody; when there is no room, the one that was so first is
//! forgotten, unless children of it still have leaves. A parent that takes children is never forgotten.

use std::collections::VecDeque;

use crate::model::Side;
use crate::model::save::{saved_enum, saved_state, saved_value};
use crate::ring::huge::{Populated, advise, populate};
use crate::risk::index::{Full, IdIndex, hash};
use crate::units::{InstrumentId, SessionId, StrategyId};

/// Where a parent is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ParentState {
    /// The slot is free.
    Free,
    /// It takes children.
    Open,
    /// The same, but it was complete once and stands in the queue of those that may be forgotten: an execution that was
    /// taken back may have opened it again.
    Queued,
    /// The order management side says that it is over.
    Done,
}

/// One parent, 64 bytes: one cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Parent {
    /// Its id.
    pub id: u64,
    /// What its children may fill in all.
    pub qty: i64,
    /// What they have filled.
    pub filled: i64,
    /// What those that are live may still fill: pending replaces at their worse.
    pub leaves: i64,
    /// The worst price that a child may have; [`Parent::NO_PX`]: any.
    pub px: i64,
    /// Until when children may be sent, Unix ns; 0: no end.
    pub deadline: u64,
    /// How many children were let through or observed. Of a free slot the next free one.
    pub children: u32,
    /// What it trades.
    pub instrument: InstrumentId,
    /// For whom.
    pub strategy: StrategyId,
    /// The session that it came over: nobody else may change it.
    pub session: SessionId,
    /// The session that sent its first child; [`SessionId::UNKNOWN`] before.
    pub owner: SessionId,
    /// Which way.
    pub side: Side,
    /// See there.
    pub state: ParentState,
}

const _: () = assert!(size_of::<Parent>() == 64);

impl Parent {
    /// The price of a parent without a limit.
    pub const NO_PX: i64 = i64::MIN;

    const FREE: Parent = Parent {
        id: 0,
        qty: 0,
        filled: 0,
        leaves: 0,
        px: Parent::NO_PX,
        deadline: 0,
        children: 0,
        instrument: InstrumentId::UNKNOWN,
        strategy: StrategyId::UNKNOWN,
        session: SessionId::UNKNOWN,
        owner: SessionId::UNKNOWN,
        side: Side::Buy,
        state: ParentState::Free,
    };

    /// Whether it takes children and has something left for them.
    #[inline]
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self.state, ParentState::Open | ParentState::Queued) && self.filled < self.qty
    }

    /// Whether `px` is a price that a child may have.
    #[inline]
    #[must_use]
    pub const fn allows_px(&self, px: i64) -> bool {
        match self.side {
            Side::Buy => self.px == Parent::NO_PX || px <= self.px,
            Side::Sell => px >= self.px,
        }
    }

    /// What is filled or may be with `more` than now.
    #[inline]
    #[must_use]
    pub const fn with(&self, more: i64) -> i64 {
        self.filled.saturating_add(self.leaves).saturating_add(more)
    }
}

/// Sums over all parents that were ever known: what a digest of the state takes in their stead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParentTotals {
    /// Parents that take children.
    pub open: u64,
    /// Children.
    pub children: u64,
    /// Quantity filled, wrapping.
    pub filled: u64,
    /// Leaves, wrapping.
    pub leaves: u64,
}

/// See the module.
#[derive(Debug)]
pub struct ParentTable {
    index: IdIndex,
    slab: Vec<Parent>,
    capacity: usize,
    free: u32,
    len: usize,
    /// Slots that are complete or over, or were: the first to go.
    queue: VecDeque<u32>,
    totals: ParentTotals,
}

saved_enum!(ParentState { Free = 0, Open = 1, Queued = 2, Done = 3 });
saved_value!(Parent {
    id,
    qty,
    filled,
    leaves,
    px,
    deadline,
    children,
    instrument,
    strategy,
    session,
    owner,
    side,
    state
});
saved_value!(ParentTotals { open, children, filled, leaves });
saved_state!(ParentTable { index, slab, free, len, queue, totals } derived { capacity });

const NONE: u32 = u32::MAX;
/// How many of the queue an insertion looks at for one that may be forgotten.
const TRIES: usize = 64;

#[inline]
fn key_hash(id: u64) -> u32 {
    hash(id, 0x5bd1)
}

impl ParentTable {
    /// A table for `capacity` parents.
    #[must_use]
    pub fn new(capacity: usize) -> ParentTable {
        assert!(capacity < 1 << 30);
        let slab = Vec::with_capacity(capacity);
        advise(&slab);
        ParentTable {
            index: IdIndex::new(capacity),
            slab,
            capacity,
            free: NONE,
            len: 0,
            queue: VecDeque::with_capacity(capacity),
            totals: ParentTotals::default(),
        }
    }

    /// Takes the memory of the whole table now. See [`populate`].
    ///
    /// # Errors
    ///
    /// As [`populate`].
    pub fn prefault(&self) -> Populated {
        Ok(self.index.prefault()? + populate(&self.slab)?)
    }

    /// The parent with this id.
    #[inline]
    #[must_use]
    pub fn find(&self, id: u64) -> Option<u32> {
        self.index.find(key_hash(id), |slot| self.slab[slot as usize].id == id)
    }

    /// The parent in `slot`.
    #[inline]
    #[must_use]
    pub fn get(&self, slot: u32) -> &Parent {
        &self.slab[slot as usize]
    }

    /// Changes the parent in `slot`: not its id, and not to [`ParentState::Free`]. Returns by how much the count of open
    /// parents has changed.
    #[inline]
    pub fn change(&mut self, slot: u32, change: impl FnOnce(&mut Parent)) -> i32 {
        let parent = &mut self.slab[slot as usize];
        let before = *parent;
        change(parent);
        let (was, is) = (before.is_open(), parent.is_open());
        if before.state == ParentState::Open && !is {
            if parent.state == ParentState::Open {
                parent.state = ParentState::Queued;
            }
            self.queue.push_back(slot);
        }
        let totals = &mut self.totals;
        totals.children += u64::from(parent.children.wrapping_sub(before.children));
        totals.filled = totals.filled.wrapping_add((parent.filled as u64).wrapping_sub(before.filled as u64));
        totals.leaves = totals.leaves.wrapping_add((parent.leaves as u64).wrapping_sub(before.leaves as u64));
        totals.open = (totals.open + u64::from(is)) - u64::from(was);
        i32::from(is) - i32::from(was)
    }

    /// Adds a parent that takes children. The caller knows that its id is not in the table.
    ///
    /// # Errors
    /// [`Full`]: every parent that is known takes children, or has some that are live. The table is as it was.
    pub fn insert(&mut self, parent: Parent) -> Result<u32, Full> {
        debug_assert!(parent.state == ParentState::Open && parent.filled == 0 && parent.leaves == 0);
        if self.len == self.capacity && !self.forget_one() {
            return Err(Full);
        }
        let hash = key_hash(parent.id);
        if !self.index.has_room(hash) {
            return Err(Full);
        }
        let slot = if self.free == NONE {
            self.slab.push(parent);
            self.slab.len() as u32 - 1
        } else {
            let slot = self.free;
            self.free = self.slab[slot as usize].children;
            self.slab[slot as usize] = parent;
            slot
        };
        self.index.insert(hash, slot)?;
        self.len += 1;
        self.totals.open += u64::from(parent.is_open());
        Ok(slot)
    }

    /// Forgets the first of the queue that is over and has no live children.
    fn forget_one(&mut self) -> bool {
        for _ in 0..self.queue.len().min(TRIES) {
            let Some(slot) = self.queue.pop_front() else { return false };
            let parent = self.slab[slot as usize];
            if parent.is_open() || parent.leaves > 0 {
                self.queue.push_back(slot);
                continue;
            }
            self.index.remove(key_hash(parent.id), slot);
            self.slab[slot as usize] = Parent { children: self.free, ..Parent::FREE };
            self.free = slot;
            self.len -= 1;
            return true;
        }
        false
    }

    /// How many are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// See there.
    #[must_use]
    pub const fn totals(&self) -> ParentTotals {
        self.totals
    }

    /// The place in the index that a look-up of this id starts at: to be prefetched.
    #[inline]
    #[must_use]
    pub fn home(&self, id: u64) -> &u64 {
        self.index.home_entry(key_hash(id))
    }

    /// The slot that this id probably has: a guess to be prefetched.
    #[inline]
    #[must_use]
    pub fn likely(&self, id: u64) -> Option<u32> {
        self.index.likely(key_hash(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent(id: u64, qty: i64) -> Parent {
        Parent { id, qty, state: ParentState::Open, session: SessionId(0), ..Parent::FREE }
    }

    #[test]
    fn a_full_table_forgets_who_is_over_first_and_nobody_who_takes_children() {
        let mut table = ParentTable::new(3);
        let [a, b, c] = [1, 2, 3].map(|id| table.insert(parent(id, 10)).unwrap());
        assert_eq!(table.insert(parent(4, 10)), Err(Full), "all are open");
        table.change(b, |p| p.state = ParentState::Done);
        table.change(a, |p| p.filled = 10);
        table.insert(parent(4, 10)).unwrap();
        assert_eq!((table.find(2), table.find(1)), (None, Some(a)), "2 was over before 1 was complete");
        // A bust opened it again: it stays, though it stands in the queue.
        table.change(a, |p| p.filled = 5);
        assert_eq!(table.insert(parent(5, 10)), Err(Full));
        table.change(c, |p| {
            p.state = ParentState::Done;
            p.leaves = 3;
        });
        assert_eq!(table.insert(parent(5, 10)), Err(Full), "a child of 3 may still fill");
        table.change(c, |p| p.leaves = 0);
        table.insert(parent(5, 10)).unwrap();
        assert_eq!((table.find(3), table.find(1), table.len()), (None, Some(a), 3));
    }

    #[test]
    fn totals_are_the_sums_of_the_parents() {
        let mut table = ParentTable::new(8);
        let [a, b] = [1, 2].map(|id| table.insert(parent(id, 10)).unwrap());
        assert_eq!(table.change(a, |p| (p.leaves, p.children) = (7, 2)), 0);
        assert_eq!(table.change(a, |p| (p.leaves, p.filled) = (0, 12)), -1, "complete");
        assert_eq!(table.change(b, |p| p.leaves = 4), 0);
        assert_eq!(table.change(a, |p| p.filled = 9), 1, "an execution was taken back");
        assert_eq!(table.totals(), ParentTotals { open: 2, children: 2, filled: 9, leaves: 4 });
        assert_eq!(table.change(b, |p| p.state = ParentState::Done), -1);
        assert_eq!(table.totals().open, 1);
    }

    #[test]
    fn a_limit_price_bounds_buys_from_above_and_sells_from_below() {
        let buy = Parent { px: 100, ..parent(1, 1) };
        assert_eq!([99, 100, 101].map(|px| buy.allows_px(px)), [true, true, false]);
        let sell = Parent { side: Side::Sell, ..buy };
        assert_eq!([99, 100, 101].map(|px| sell.allows_px(px)), [false, true, true]);
        for side in [Side::Buy, Side::Sell] {
            assert!(Parent { side, ..parent(1, 1) }.allows_px(i64::MAX) && parent(1, 1).allows_px(i64::MIN));
        }
    }
}
