//! HOT: the recent orders that the duplicate rule looks back on.

use crate::model::save::{Blank, saved_state, saved_value};
use crate::model::{OrdType, Side};
use crate::ring::huge::{Populated, advise_slice, populate_slice};
use crate::risk::index::hash;
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Recent {
    what: Likeness,
    at: MonoNanos,
    /// Number of the one before in the same bucket; 0: none.
    before: u64,
}

/// The latest order of those whose hashes begin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bucket {
    /// Its number; 0: none.
    latest: u64,
    at: MonoNanos,
}

/// A ring of recent orders, each chained to the one before in its bucket. Nothing is taken out of a chain: it ends at the
/// first one that is too old, or was overwritten since.
#[derive(Debug)]
pub struct DuplicateLog {
    buckets: Box<[Bucket]>,
    shift: u32,
    /// A power of two: number modulo its length is a place.
    ring: Box<[Recent]>,
    /// How many the log looks back on.
    capacity: u64,
    /// How many were logged: the number of the latest.
    latest: u64,
}

impl Blank for Recent {
    const BLANK: Recent = Recent {
        what: Likeness { strategy: 0, ord_type: OrdType::Limit, side: Side::Buy, instrument: 0, qty: 0, px: 0 },
        at: MonoNanos(0),
        before: 0,
    };
}

impl Blank for Bucket {
    const BLANK: Bucket = Bucket { latest: 0, at: MonoNanos(0) };
}

saved_value!(Likeness { strategy, ord_type, side, instrument, qty, px });
saved_value!(Recent { what, at, before });
saved_value!(Bucket { latest, at });
saved_state!(DuplicateLog { buckets, ring, latest } derived { shift, capacity });

/// The longest chain that is followed. A longer one within the window counts as a duplicate: it takes thousands of
/// different orders made to collide.
const MAX_CHAIN: u32 = 4096;

impl DuplicateLog {
    /// A log of `capacity` orders.
    #[must_use]
    pub fn new(capacity: usize) -> DuplicateLog {
        let capacity = capacity.max(1);
        let size = capacity.next_power_of_two();
        assert!(size <= 1 << 30, "a log holds at most 2^30 orders");
        let log = DuplicateLog {
            buckets: vec![Bucket::BLANK; size.max(2)].into_boxed_slice(),
            shift: 32 - size.max(2).trailing_zeros(),
            ring: vec![Recent::BLANK; size].into_boxed_slice(),
            capacity: capacity as u64,
            latest: 0,
        };
        advise_slice(&log.buckets);
        advise_slice(&log.ring);
        log
    }

    /// Takes the memory of the whole table now. See [`populate_slice`].
    ///
    /// # Errors
    ///
    /// As [`populate_slice`].
    pub fn prefault(&self) -> Populated {
        Ok(populate_slice(&self.buckets)? + populate_slice(&self.ring)?)
    }

    #[inline]
    fn place(&self, number: u64) -> usize {
        number as usize & (self.ring.len() - 1)
    }

    /// Where orders like `what` are found.
    #[inline]
    #[must_use]
    pub fn look(&self, what: &Likeness) -> Look {
        Look { bucket: what.hash() >> self.shift }
    }

    /// How many orders like `what` are younger than `window_ns`, counted up to `most`. `look` is that of `what`.
    #[inline]
    #[must_use]
    pub fn count(&self, what: &Likeness, look: Look, now: MonoNanos, window_ns: u64, most: u32) -> u32 {
        let bucket = &self.buckets[look.bucket as usize];
        // The time is in the bucket too, so that most orders are let through without a look at the ring.
        if bucket.latest == 0 || now.since(bucket.at) >= window_ns {
            return 0;
        }
        let oldest = self.latest.saturating_sub(self.capacity) + 1;
        let (mut number, mut count) = (bucket.latest, 0);
        for _ in 0..MAX_CHAIN {
            if number < oldest || count >= most {
                return count;
            }
            let recent = &self.ring[self.place(number)];
            if now.since(recent.at) >= window_ns {
                return count;
            }
            count += u32::from(recent.what == *what);
            number = recent.before;
        }
        most
    }

    /// Whether one more can be logged without forgetting one younger than `window_ns`.
    #[inline]
    #[must_use]
    pub fn has_room(&self, now: MonoNanos, window_ns: u64) -> bool {
        match self.latest.checked_sub(self.capacity) {
            Some(forgotten) => now.since(self.ring[self.place(forgotten + 1)].at) >= window_ns,
            None => true,
        }
    }

    /// Logs an order, forgetting the oldest if there is no room. `look` is that of `what`.
    #[inline]
    pub fn record(&mut self, what: Likeness, look: Look, now: MonoNanos) {
        self.latest += 1;
        let bucket = &mut self.buckets[look.bucket as usize];
        let before = core::mem::replace(bucket, Bucket { latest: self.latest, at: now }).latest;
        self.ring[self.place(self.latest)] = Recent { what, at: now, before };
    }

    /// Where the order that comes after `ahead` others will be logged, in place of the oldest by then: to be prefetched.
    #[inline]
    #[must_use]
    pub fn to_log(&self, ahead: u64) -> &impl Sized {
        &self.ring[self.place(self.latest + 1 + ahead)]
    }

    /// The bucket of `what`: to be prefetched.
    #[inline]
    #[must_use]
    pub fn home(&self, what: &Likeness) -> &impl Sized {
        &self.buckets[self.look(what).bucket as usize]
    }
}

/// Where orders of one likeness are found in the log.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    bucket: u32,
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
            assert_eq!(log.count(&like(qty), log.look(&like(qty)), MonoNanos(now), 35, 16), expected, "step {step}");
            if x >> 63 == 0 {
                log.record(like(qty), log.look(&like(qty)), MonoNanos(now));
                all.push((qty, now));
            }
        }
    }

    #[test]
    fn chain_beyond_its_bound_counts_as_duplicates() {
        let mut log = DuplicateLog::new(2 * MAX_CHAIN as usize);
        let asked = like(0);
        let bucket = log.look(&asked).bucket;
        let colliding = (1..).map(like).filter(|what| what.hash() >> log.shift == bucket);
        let colliding: Vec<Likeness> = colliding.take(MAX_CHAIN as usize).collect();
        for (n, what) in colliding.into_iter().enumerate() {
            assert_eq!(log.count(&asked, log.look(&asked), MonoNanos(1), 10, 3), 0, "after {n}");
            log.record(what, log.look(&what), MonoNanos(1));
        }
        assert_eq!(log.count(&asked, log.look(&asked), MonoNanos(1), 10, 3), 3);
        assert_eq!(log.count(&asked, log.look(&asked), MonoNanos(11), 10, 3), 0);
    }
}
