//! HOT: the executions of the day, so that none is booked twice and each can be taken back.

use crate::model::Side;
use crate::model::save::{saved_state, saved_value};
use crate::ring::huge::{Populated, advise, populate};
use crate::risk::index::{IdIndex, hash};
use crate::units::{ExecId, OrdId, SessionId};

/// One execution.
#[derive(Clone, Copy, Debug)]
pub struct Exec {
    /// Its id within the session.
    pub id: ExecId,
    /// The order that it was reported for.
    pub order: OrdId,
    /// Quantity.
    pub qty: i64,
    /// Price.
    pub px: i64,
    /// Its pair's slot.
    pub pair: u32,
    /// The day that it was booked on.
    pub day: u32,
    /// Whose.
    pub session: SessionId,
    /// Bought or sold.
    pub side: Side,
    /// Taken back.
    pub busted: bool,
}

/// See the module.
#[derive(Debug)]
pub struct ExecTable {
    index: IdIndex,
    ring: Vec<Exec>,
    oldest: usize,
    capacity: usize,
    day: u32,
}

saved_value!(Exec { id, order, qty, px, pair, day, session, side, busted });
saved_state!(ExecTable { index, ring, oldest, day } derived { capacity });

/// What became of an insertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It is remembered.
    Remembered,
    /// It is remembered in place of one of an earlier day.
    Replacing(SessionId, ExecId),
    /// There was no room: a duplicate of it would not be seen.
    NotRemembered,
}

#[inline]
fn key_hash(session: SessionId, id: ExecId) -> u32 {
    hash(id.0, u64::from(session.0) | 1 << 32)
}

impl ExecTable {
    /// A table of `capacity` executions.
    #[must_use]
    pub fn new(capacity: usize) -> ExecTable {
        let capacity = capacity.max(1);
        let ring = Vec::with_capacity(capacity);
        advise(&ring);
        ExecTable { index: IdIndex::new(capacity), ring, oldest: 0, capacity, day: 0 }
    }

    /// Takes the memory of the whole table now. See [`populate`].
    ///
    /// # Errors
    ///
    /// As [`populate`].
    pub fn prefault(&self) -> Populated {
        Ok(self.index.prefault()? + populate(&self.ring)?)
    }

    /// The execution with this id.
    #[must_use]
    pub fn find(&self, session: SessionId, id: ExecId) -> Option<u32> {
        self.index.find(key_hash(session, id), |slot| {
            let exec = &self.ring[slot as usize];
            exec.id == id && exec.session == session
        })
    }

    /// The execution in `slot`.
    #[must_use]
    pub fn get(&self, slot: u32) -> &Exec {
        &self.ring[slot as usize]
    }

    /// Whether the execution in `slot` was booked on the present day.
    #[must_use]
    pub fn is_of_today(&self, slot: u32) -> bool {
        self.ring[slot as usize].day == self.day
    }

    /// Marks the execution in `slot` as taken back.
    pub fn bust(&mut self, slot: u32) {
        self.ring[slot as usize].busted = true;
    }

    /// Adds an execution that is not in the table.
    pub fn insert(&mut self, mut exec: Exec) -> Inserted {
        exec.day = self.day;
        let h = key_hash(exec.session, exec.id);
        if self.ring.len() < self.capacity {
            let slot = self.ring.len() as u32;
            if self.index.insert(h, slot).is_err() {
                return Inserted::NotRemembered;
            }
            self.ring.push(exec);
            return Inserted::Remembered;
        }
        if !self.index.has_room(h) {
            return Inserted::NotRemembered;
        }
        let (slot, outcome) = {
            let old = self.ring[self.oldest];
            if old.day == self.day {
                return Inserted::NotRemembered;
            }
            let slot = self.oldest;
            self.index.remove(key_hash(old.session, old.id), slot as u32);
            self.ring[slot] = exec;
            self.oldest = (self.oldest + 1) % self.capacity;
            (slot, Inserted::Replacing(old.session, old.id))
        };
        match self.index.insert(h, slot as u32) {
            Ok(()) => outcome,
            Err(_) => Inserted::NotRemembered,
        }
    }

    /// Whether one more would be remembered.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.ring.len() < self.capacity || self.ring[self.oldest].day != self.day
    }

    /// Executions of before may give way from now on.
    pub fn new_day(&mut self) {
        self.day += 1;
    }

    /// How many are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ring.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// The place in the index that a look-up starts at: to be prefetched.
    #[must_use]
    pub fn home(&self, session: SessionId, id: ExecId) -> &u64 {
        self.index.home_entry(key_hash(session, id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec(id: u64) -> Exec {
        Exec {
            id: ExecId(id),
            order: OrdId(1),
            qty: 1,
            px: 1,
            pair: 0,
            day: 0,
            session: SessionId(0),
            side: Side::Buy,
            busted: false,
        }
    }

    #[test]
    fn only_another_days_executions_give_way() {
        let mut table = ExecTable::new(2);
        assert_eq!(table.insert(exec(1)), Inserted::Remembered);
        assert_eq!(table.insert(exec(2)), Inserted::Remembered);
        assert!(!table.has_room());
        assert_eq!(table.insert(exec(3)), Inserted::NotRemembered);
        table.new_day();
        assert!(table.has_room());
        assert_eq!(table.insert(exec(3)), Inserted::Replacing(SessionId(0), ExecId(1)));
        assert_eq!(table.find(SessionId(0), ExecId(1)), None);
        assert!(table.find(SessionId(0), ExecId(2)).is_some());
    }
}
