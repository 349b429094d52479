//! HOT: high-water mark and loss velocity of one scope.

use crate::model::save::saved_value;
use crate::units::MonoNanos;

/// How many slices a window is cut into.
pub const SLICES: u64 = 16;
const KEPT: usize = SLICES as usize + 1;

/// See the module. All values in base units.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct LossTrack {
    /// Largest profit since the day, the start or the last re-arm.
    pub high: i64,
    /// Largest profit in all slices.
    best: i64,
    /// The same in the present slice.
    present: i64,
    /// Number of the present slice.
    slice: u64,
    /// Largest profit in each of the last slices, by slice number modulo their count. The present one's place is not kept.
    slices: [i64; KEPT],
}

saved_value!(LossTrack { high, best, present, slice, slices });

impl LossTrack {
    /// A track that begins now at `pnl`.
    #[must_use]
    pub fn begin(now: MonoNanos, window_ns: u64, pnl: i64) -> LossTrack {
        LossTrack { high: pnl, best: pnl, present: pnl, slice: number(now, window_ns), slices: [pnl; KEPT] }
    }

    /// Lets time pass while the profit is `pnl`.
    pub fn advance(&mut self, now: MonoNanos, window_ns: u64, pnl: i64) {
        let present = number(now, window_ns);
        if present <= self.slice {
            return;
        }
        self.slices[(self.slice % KEPT as u64) as usize] = self.present;
        let steps = (present - self.slice).min(KEPT as u64);
        for step in 1..=steps {
            // Beyond a whole round only the last KEPT slices matter, and `pnl` held in all of them.
            let n = present - steps + step;
            self.slices[(n % KEPT as u64) as usize] = pnl;
        }
        self.slice = present;
        self.present = pnl;
        self.best = self.slices.iter().fold(pnl, |a, &b| a.max(b));
    }

    /// When the present slice ends.
    #[must_use]
    pub fn slice_end(&self, window_ns: u64) -> MonoNanos {
        MonoNanos((self.slice + 1).saturating_mul((window_ns / SLICES).max(1)))
    }

    /// The profit is `pnl` from now on. Call [`LossTrack::advance`] with the old one first.
    #[inline]
    pub fn set(&mut self, pnl: i64) {
        self.high = self.high.max(pnl);
        self.present = self.present.max(pnl);
        self.best = self.best.max(pnl);
    }

    /// The part that changes within a slice: to be prefetched.
    #[inline]
    #[must_use]
    pub const fn front(&self) -> &i64 {
        &self.high
    }

    /// How far `pnl` is below the largest profit of the window.
    #[inline]
    #[must_use]
    pub fn velocity(&self, pnl: i64) -> i64 {
        self.best.saturating_sub(pnl).max(0)
    }
}

fn number(now: MonoNanos, window_ns: u64) -> u64 {
    now.0 / (window_ns / SLICES).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_what_is_older_than_its_window() {
        let mut track = LossTrack::begin(MonoNanos(0), 160, 0);
        track.advance(MonoNanos(5), 160, 0);
        track.set(100);
        track.advance(MonoNanos(20), 160, 100);
        track.set(40);
        assert_eq!(track.velocity(40), 60);
        // Slice 2 saw 100 at its begin; it leaves the window with slice 19.
        track.advance(MonoNanos(189), 160, 40);
        assert_eq!(track.velocity(40), 60);
        track.advance(MonoNanos(190), 160, 40);
        assert_eq!(track.velocity(40), 0);
        assert_eq!(track.high, 100);
    }
}
