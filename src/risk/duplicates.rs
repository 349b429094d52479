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
    /// Number of the next one.
    next: u64,
    /// Its place: `next` modulo capacity.
    place: u32,
}

/// What was found of an order in the log.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    hash: u32,
    latest: Option<u32>,
}

impl DuplicateLog {
    /// A log of `capacity` orders.
    #[must_use]
    pub fn new(capacity: usize) -> DuplicateLog {
        let capacity = capacity.max(1);
        assert!(capacity < 1 << 30);
        let ring = Vec::with_capacity(capacity);
        advise(&ring);
        DuplicateLog { index: IdIndex::new(capacity), ring, capacity, next: 0, place: 0 }
    }

    /// Looks for orders like `what`.
    #[inline]
    #[must_use]
    pub fn look(&self, what: &Likeness) -> Look {
        let hash = what.hash();
        Look { hash, latest: self.index.find(hash, |slot| self.ring[slot as usize].what == *what) }
    }

    /// How many of the orders that `look` found are younger than `window_ns`, counted up to `most`.
    #[inline]
    #[must_use]
    pub fn count(&self, look: Look, now: MonoNanos, window_ns: u64, most: u32) -> u32 {
        let Some(mut slot) = look.latest else { return 0 };
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
    #[inline]
    #[must_use]
    pub fn has_room(&self, now: MonoNanos, window_ns: u64) -> bool {
        self.ring.len() < self.capacity || now.since(self.ring[self.place as usize].at) >= window_ns
    }

    /// Logs an order, forgetting the oldest if there is no room. `look` is that of [`DuplicateLog::look`] for `what`, and
    /// nothing was logged since.
    pub fn record(&mut self, what: Likeness, look: Look, now: MonoNanos) {
        let slot = self.place;
        let full = self.ring.len() == self.capacity;
        if full {
            let old = self.ring[slot as usize].what;
            // If a later one is alike, the index points to that one, and nothing is removed.
            self.index.remove(old.hash(), slot);
        }
        let before = match look.latest {
            Some(last) if !(full && last == slot) => {
                self.index.repoint(look.hash, last, slot);
                // The latest one lies at most a whole ring before this one.
                let age = if last < slot { slot - last } else { slot + self.capacity as u32 - last };
                self.next - u64::from(age)
            }
            _ => {
                // The index is at most half full; a refusal leaves this order unseen by later ones.
                let _ = self.index.insert(look.hash, slot);
                u64::MAX
            }
        };
        let recent = Recent { what, at: now, before };
        if full {
            self.ring[slot as usize] = recent;
        } else {
            self.ring.push(recent);
        }
        self.next += 1;
        self.place = if slot as usize + 1 == self.capacity { 0 } else { slot + 1 };
    }

    /// Where the oldest order stands, once one is forgotten with every new one.
    #[inline]
    #[must_use]
    pub fn oldest(&self) -> Option<usize> {
        (self.ring.len() == self.capacity).then_some(self.place as usize)
    }

    /// The order that will be forgotten `ahead` orders from now: to be prefetched.
    #[inline]
    #[must_use]
    pub fn to_forget(&self, ahead: usize) -> Option<&Likeness> {
        let at = self.oldest()? + ahead;
        let at = if at < self.capacity { at } else { at - self.capacity };
        self.ring.get(at).map(|old| &old.what)
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
            assert_eq!(log.count(log.look(&like(qty)), MonoNanos(now), 35, 16), expected, "step {step}");
            if x >> 63 == 0 {
                log.record(like(qty), log.look(&like(qty)), MonoNanos(now));
                all.push((qty, now));
            }
        }
    }
}
