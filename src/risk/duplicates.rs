//! HOT: the recent orders that the duplicate rule looks back on.

use crate::model::{OrdType, Side};
use crate::ring::huge::advise;
use crate::risk::index::{IdIndex, hash};
use crate::units::MonoNanos;

/// What makes two orders the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Likeness {
    /// Strategy index.
    pub strategy: u16,
    /// Order type.
    pub ord_type: OrdType,
    /// Side.
    pub side: Side,
    /// Instrument index.
    pub instrument: u32,
    /// Quantity.
    pub qty: i64,
    /// Price.
    pub px: i64,
}

impl Likeness {
    #[inline]
    fn hash(&self) -> u32 {
        let small = u64::from(self.instrument) << 32
            | u64::from(self.strategy) << 16
            | (self.ord_type as u64) << 8
            | self.side as u64;
        hash(self.qty as u64 ^ (self.px as u64).rotate_left(32), small)
    }
}

#[derive(Clone, Copy, Debug)]
struct Recent {
    what: Likeness,
    at: MonoNanos,
    /// Number of the one before that is alike; `u64::MAX`: none.
    before: u64,
}

/// A ring of recent orders, each chained to the last one like it.
#[derive(Debug)]
pub struct DuplicateLog {
    index: IdIndex,
    ring: Vec<Recent>,
    capacity: usize,
    /// Number of the next one; number modulo capacity is its place.
    next: u64,
}

impl DuplicateLog {
    /// A log of `capacity` orders.
    #[must_use]
    pub fn new(capacity: usize) -> DuplicateLog {
        let capacity = capacity.max(1);
        let ring = Vec::with_capacity(capacity);
        advise(&ring);
        DuplicateLog { index: IdIndex::new(capacity), ring, capacity, next: 0 }
    }

    fn latest(&self, what: &Likeness) -> Option<u32> {
        self.index.find(what.hash(), |slot| self.ring[slot as usize].what == *what)
    }

    /// How many orders like `what` are younger than `window_ns`, counted up to `most`.
    #[must_use]
    pub fn count(&self, what: &Likeness, now: MonoNanos, window_ns: u64, most: u32) -> u32 {
        let Some(mut slot) = self.latest(what) else { return 0 };
        let oldest = self.next - self.ring.len() as u64;
        let mut count = 0;
        while count < most {
            let recent = &self.ring[slot as usize];
            if now.since(recent.at) >= window_ns {
                break;
            }
            count += 1;
            if recent.before == u64::MAX || recent.before < oldest {
                break;
            }
            slot = (recent.before % self.capacity as u64) as u32;
        }
        count
    }

    /// Whether one more can be logged without forgetting one younger than `window_ns`.
    #[must_use]
    pub fn has_room(&self, now: MonoNanos, window_ns: u64) -> bool {
        self.ring.len() < self.capacity
            || now.since(self.ring[(self.next % self.capacity as u64) as usize].at) >= window_ns
    }

    /// Logs an order, forgetting the oldest if there is no room.
    pub fn record(&mut self, what: Likeness, now: MonoNanos) {
        let slot = (self.next % self.capacity as u64) as u32;
        if self.ring.len() == self.capacity {
            let old = self.ring[slot as usize].what;
            // If a later one is alike, the index points to that one, and nothing is removed.
            self.index.remove(old.hash(), slot);
        }
        let before = match self.latest(&what) {
            Some(last) => {
                self.index.repoint(what.hash(), last, slot);
                let age = (self.next - 1 - u64::from(last)) % self.capacity as u64;
                self.next - 1 - age
            }
            None => {
                // The index is at most half full; a refusal leaves this order unseen by later ones.
                let _ = self.index.insert(what.hash(), slot);
                u64::MAX
            }
        };
        let recent = Recent { what, at: now, before };
        if self.ring.len() < self.capacity {
            self.ring.push(recent);
        } else {
            self.ring[slot as usize] = recent;
        }
        self.next += 1;
    }

    /// The place in the index of the order that will be forgotten `ahead` orders from now: to be prefetched.
    #[inline]
    #[must_use]
    pub fn to_forget(&self, ahead: usize) -> Option<&u64> {
        if self.ring.len() < self.capacity {
            return None;
        }
        let at = (self.next + ahead as u64) % self.capacity as u64;
        self.ring.get(at as usize).map(|old| self.home(&old.what))
    }

    /// The place in the index that a look-up starts at: to be prefetched.
    #[must_use]
    pub fn home(&self, what: &Likeness) -> &u64 {
        self.index.home_entry(what.hash())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn like(qty: i64) -> Likeness {
        Likeness { strategy: 1, ord_type: OrdType::Limit, side: Side::Buy, instrument: 2, qty, px: 10 }
    }

    #[test]
    fn counts_like_a_list_of_everything() {
        let mut log = DuplicateLog::new(5);
        let mut all: Vec<(i64, u64)> = Vec::new();
        let mut x = 3u64;
        for step in 0..20_000u64 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let qty = (x >> 60) as i64 % 3;
            let now = step * 10;
            let kept = &all[all.len().saturating_sub(5)..];
            let expected = kept.iter().filter(|(q, at)| *q == qty && now - at < 35).count() as u32;
            assert_eq!(log.count(&like(qty), MonoNanos(now), 35, 16), expected, "step {step}");
            if x >> 63 == 0 {
                log.record(like(qty), MonoNanos(now));
                all.push((qty, now));
            }
        }
    }
}
