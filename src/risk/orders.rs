//! HOT: the table of orders: those that are live, and the last ones that were.

use crate::model::save::{saved_enum, saved_state, saved_value};
use crate::model::{OrdType, Side};
use crate::ring::huge::{Populated, advise, populate, populate_slice};
use crate::risk::index::{Full, IdIndex, Vacancy, hash};
use crate::units::{InstrumentId, OrdId, SessionId, StrategyId};

/// "No slot."
pub const NONE: u32 = u32::MAX;

/// Where an order is in its life.
///
/// ```text
///            ack               canceled, expired, filled
/// PendingNew ───▶ Working ──────────────────────────────▶ Done
///     └───── rejected, withdrawn, canceled, filled ───────▶ ▲
/// Replacement ── replaced: takes the order's place; the old id becomes Replaced and points to it
///     └───────── cancel_rejected, order done ──────────────▶ Done
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum OrderState {
    /// The slot is free.
    Free,
    /// Admitted or observed, not acknowledged yet.
    PendingNew,
    /// Working at the venue.
    Working,
    /// The new version of an order whose replace is pending; `link` is the order.
    Replacement,
    /// Over; kept for late fills and reused ids.
    Done,
    /// Was replaced; `link` is its successor.
    Replaced,
}

/// One order, 64 bytes: one cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Order {
    /// Its id within the session.
    pub id: OrdId,
    /// Total quantity.
    pub order_qty: i64,
    /// Filled so far.
    pub cum_qty: i64,
    /// The price that its exposure is valued at.
    pub worst_px: i64,
    /// The id of the parent that it counts towards; 0: none.
    pub parent: u64,
    /// Its pair's slot.
    pub pair: u32,
    /// Live: its pending replacement; `Replacement`: the order; `Replaced`: the successor; free: the next free slot.
    pub link: u32,
    /// Whose.
    pub session: SessionId,
    /// Its state.
    pub state: OrderState,
    /// Buy or sell.
    pub side: Side,
    /// Its type.
    pub ord_type: OrdType,
    /// Its pair's instrument and strategy: known before the pair's own memory is.
    pub instrument: InstrumentId,
    /// See `instrument`.
    pub strategy: StrategyId,
    /// A cancel request is on its way.
    pub pending_cancel: bool,
}

const _: () = assert!(size_of::<Order>() == 64);

impl Order {
    /// Whether it can still trade by what we know.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        matches!(self.state, OrderState::PendingNew | OrderState::Working)
    }

    /// What is left to trade: 0 unless live (or a pending replacement).
    #[must_use]
    pub fn leaves(&self) -> i64 {
        match self.state {
            OrderState::PendingNew | OrderState::Working | OrderState::Replacement => {
                (self.order_qty - self.cum_qty).max(0)
            }
            OrderState::Free | OrderState::Done | OrderState::Replaced => 0,
        }
    }

    /// Its leaves at its worst price, at least 0.
    #[must_use]
    pub fn raw(&self) -> i128 {
        (i128::from(self.leaves()) * i128::from(self.worst_px)).max(0)
    }
}

/// See the module.
#[derive(Debug)]
pub struct OrderTable {
    index: IdIndex,
    slab: Vec<Order>,
    free: u32,
    /// Slots that are `Done` or `Replaced`, oldest first: a ring.
    done: Box<[u32]>,
    done_head: usize,
    done_len: usize,
    live: usize,
    max_live: usize,
}

saved_enum!(OrderState { Free = 0, PendingNew = 1, Working = 2, Replacement = 3, Done = 4, Replaced = 5 });
saved_value!(Order {
    id,
    order_qty,
    cum_qty,
    worst_px,
    parent,
    pair,
    link,
    session,
    state,
    side,
    ord_type,
    instrument,
    strategy,
    pending_cancel
});
saved_state!(OrderTable { index, slab, free, done, done_head, done_len, live } derived { max_live });

const FREE: Order = Order {
    id: OrdId(0),
    order_qty: 0,
    cum_qty: 0,
    worst_px: 0,
    parent: 0,
    pair: NONE,
    link: NONE,
    session: SessionId(0),
    state: OrderState::Free,
    side: Side::Buy,
    ord_type: OrdType::Limit,
    instrument: InstrumentId::UNKNOWN,
    strategy: StrategyId::UNKNOWN,
    pending_cancel: false,
};

#[inline]
fn key_hash(session: SessionId, id: OrdId) -> u32 {
    hash(id.0, u64::from(session.0))
}

impl OrderTable {
    /// A table for `live` orders and pending replacements at once, and `remembered` that are over.
    #[must_use]
    pub fn new(live: usize, remembered: usize) -> OrderTable {
        let capacity = live + remembered;
        assert!(capacity < 1 << 30);
        let slab = Vec::with_capacity(capacity);
        advise(&slab);
        OrderTable {
            index: IdIndex::new(capacity),
            slab,
            free: NONE,
            done: vec![0; remembered].into_boxed_slice(),
            done_head: 0,
            done_len: 0,
            live: 0,
            max_live: live,
        }
    }

    /// Takes the memory of the whole table now. See [`populate`].
    ///
    /// # Errors
    ///
    /// As [`populate`].
    pub fn prefault(&self) -> Populated {
        Ok(self.index.prefault()? + populate(&self.slab)? + populate_slice(&self.done)?)
    }

    /// The order with this id, in whatever state it is.
    #[inline]
    #[must_use]
    pub fn find(&self, session: SessionId, id: OrdId) -> Option<u32> {
        self.index.find(key_hash(session, id), |slot| {
            let order = &self.slab[slot as usize];
            order.id == id && order.session == session
        })
    }

    /// The order with this id, or the last successor of it if it was replaced.
    #[must_use]
    pub fn find_current(&self, session: SessionId, id: OrdId) -> Option<u32> {
        let mut slot = self.find(session, id)?;
        // A chain is as long as the replaces that are remembered; each link was checked when it was made.
        for _ in 0..=self.done_len {
            let order = &self.slab[slot as usize];
            match order.state {
                OrderState::Replaced if order.link != NONE => slot = order.link,
                _ => return Some(slot),
            }
        }
        None
    }

    /// The order in `slot`.
    #[inline]
    #[must_use]
    pub fn get(&self, slot: u32) -> &Order {
        &self.slab[slot as usize]
    }

    /// The order in `slot`, to be changed. Its id, session and whether it is live are changed by the table only.
    #[inline]
    pub fn get_mut(&mut self, slot: u32) -> &mut Order {
        &mut self.slab[slot as usize]
    }

    /// Whether one more order with this id would find a place.
    #[must_use]
    pub fn has_room(&self, session: SessionId, id: OrdId) -> bool {
        self.live < self.max_live && self.index.has_room(key_hash(session, id))
    }

    /// The place for an order with this id, if the id is not in the table and there is room for it.
    #[inline]
    #[must_use]
    pub fn vacancy(&self, session: SessionId, id: OrdId) -> Option<Vacancy> {
        if self.live >= self.max_live {
            return None;
        }
        self.index.vacancy(key_hash(session, id), |slot| {
            let order = &self.slab[slot as usize];
            order.id == id && order.session == session
        })
    }

    /// Adds an order that is live or a pending replacement. The caller knows that the id is not in the table.
    ///
    /// # Errors
    /// [`Full`]: the table is as it was.
    pub fn insert(&mut self, order: Order) -> Result<u32, Full> {
        match self.vacancy(order.session, order.id) {
            Some(vacancy) => Ok(self.insert_at(vacancy, order)),
            None => Err(Full),
        }
    }

    /// Adds an order where [`OrderTable::vacancy`] found a place for it. The table was not changed since.
    #[inline]
    pub fn insert_at(&mut self, vacancy: Vacancy, order: Order) -> u32 {
        let slot = if self.free == NONE {
            self.slab.push(order);
            self.slab.len() as u32 - 1
        } else {
            let slot = self.free;
            self.free = self.slab[slot as usize].link;
            self.slab[slot as usize] = order;
            slot
        };
        self.index.fill(vacancy, slot);
        self.live += 1;
        slot
    }

    /// Ends the order in `slot`: it is remembered as `state`, and the oldest remembered one is forgotten if there
    /// are too many. Returns the forgotten one's session and id.
    pub fn finish(&mut self, slot: u32, state: OrderState, link: u32) -> Option<(SessionId, OrdId)> {
        let order = &mut self.slab[slot as usize];
        debug_assert!(order.is_live() || order.state == OrderState::Replacement);
        order.state = state;
        order.link = link;
        order.pending_cancel = false;
        self.live -= 1;
        let capacity = self.done.len();
        if capacity == 0 {
            return Some(self.forget(slot));
        }
        if self.done_len < capacity {
            // Nothing was forgotten yet, so that the ring begins at its first place.
            self.done[self.done_len] = slot;
            self.done_len += 1;
            return None;
        }
        let oldest = core::mem::replace(&mut self.done[self.done_head], slot);
        self.done_head += 1;
        if self.done_head == capacity {
            self.done_head = 0;
        }
        Some(self.forget(oldest))
    }

    fn forget(&mut self, slot: u32) -> (SessionId, OrdId) {
        let order = self.slab[slot as usize];
        self.index.remove(key_hash(order.session, order.id), slot);
        self.slab[slot as usize] = Order { link: self.free, ..FREE };
        self.free = slot;
        (order.session, order.id)
    }

    /// How many slots were ever used: each is below it.
    #[inline]
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.slab.len() as u32
    }

    /// Every order that can still trade, in no order that means anything. For those who have time: it looks at all.
    pub fn each_live(&self) -> impl Iterator<Item = &Order> {
        self.slab.iter().filter(|order| order.is_live())
    }

    /// How many orders and pending replacements are live.
    #[must_use]
    pub fn live(&self) -> usize {
        self.live
    }

    /// How many are remembered after their end.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.done_len
    }

    /// The slot that this id probably has: a guess to be prefetched.
    #[inline]
    #[must_use]
    pub fn likely(&self, session: SessionId, id: OrdId) -> Option<u32> {
        self.index.likely(key_hash(session, id))
    }

    /// The slot that the next order will probably get, or any other: to be prefetched.
    #[inline]
    #[must_use]
    pub fn next_free(&self) -> Option<&Order> {
        self.slab.get(self.free as usize)
    }

    /// Where the oldest remembered order stands, once an order is forgotten at every end.
    #[inline]
    #[must_use]
    pub fn oldest(&self) -> Option<usize> {
        (self.done_len == self.done.len()).then_some(self.done_head)
    }

    /// The slot of the order that will be forgotten `ahead` ends from now: to be prefetched.
    #[inline]
    #[must_use]
    pub fn slot_to_forget(&self, ahead: usize) -> Option<&u32> {
        let at = self.oldest()? + ahead;
        let at = if at < self.done.len() { at } else { at - self.done.len() };
        self.done.get(at)
    }

    /// The order that will be forgotten `ahead` ends from now: to be prefetched.
    #[inline]
    #[must_use]
    pub fn to_forget(&self, ahead: usize) -> Option<&Order> {
        self.slot_to_forget(ahead).and_then(|&slot| self.slab.get(slot as usize))
    }

    /// The place in the index that a look-up of this id starts at, and nothing else: to be prefetched.
    #[inline]
    #[must_use]
    pub fn home(&self, session: SessionId, id: OrdId) -> &u64 {
        self.index.home_entry(key_hash(session, id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(id: u64) -> Order {
        Order { id: OrdId(id), order_qty: 5, state: OrderState::PendingNew, ..FREE }
    }

    #[test]
    fn remembers_the_last_done_orders_only() {
        let mut table = OrderTable::new(4, 2);
        for id in 1..=3 {
            let slot = table.insert(order(id)).unwrap();
            let forgotten = table.finish(slot, OrderState::Done, NONE);
            assert_eq!(forgotten, (id == 3).then_some((SessionId(0), OrdId(1))));
        }
        assert_eq!(table.find(SessionId(0), OrdId(1)), None);
        assert!(table.find(SessionId(0), OrdId(2)).is_some());
        assert_eq!((table.live(), table.remembered()), (0, 2));
    }

    #[test]
    fn a_full_table_refuses_and_stays_as_it_was() {
        let mut table = OrderTable::new(2, 1);
        table.insert(order(1)).unwrap();
        table.insert(order(2)).unwrap();
        assert_eq!(table.insert(order(3)), Err(Full));
        assert_eq!(table.find(SessionId(0), OrdId(3)), None);
        assert!(!table.has_room(SessionId(0), OrdId(3)));
    }

    #[test]
    fn the_same_id_in_two_sessions_is_two_orders() {
        let mut table = OrderTable::new(4, 0);
        let a = table.insert(order(1)).unwrap();
        let b = table.insert(Order { session: SessionId(1), ..order(1) }).unwrap();
        assert_eq!(table.find(SessionId(0), OrdId(1)), Some(a));
        assert_eq!(table.find(SessionId(1), OrdId(1)), Some(b));
    }
}
