//! HOT: rate limits on event time.
//!
//! A sliding limit keeps the last `count` times in a ring: one more is within the limit if the one
//! `count` back is a window or more ago. That is exact, and one load. GCRA keeps one theoretical arrival
//! time (TAT): emission interval `T = ceil(window / count)`; one more is within the limit if
//! `TAT ≤ now + (burst − 1) × T`; then `TAT = max(TAT, now) + T`.
//!
//! Reserving is two steps, so that several limits reserve all or none: [`Rates::fits`] looks,
//! [`Rates::record`] takes. What is not denied (a cancel, an observed order) is recorded even if it does not fit.

use crate::limits::{LimitTable, RateKind, RateLimit, RateOf};
use crate::model::save::{
    BadSave, In, Out, State, Value, restore_each, restore_places, save_each, save_places, saved_state,
};
use crate::ring::huge::{Populated, advise, populate};
use crate::ring::prefetch::lines;
use crate::units::MonoNanos;

/// What a limit is measured by: one cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Meter {
    /// Sliding: the next place in the ring. GCRA: the TAT.
    head: u64,
    /// Sliding: the window. GCRA: `T`.
    interval: u64,
    /// GCRA: how far the TAT may be ahead, `(burst − 1) × T`. Sliding: unused.
    ahead: u64,
    /// GCRA: how far the TAT is ahead from the first warning on; `u64::MAX`: no warning. Sliding: unused.
    warn_ahead: u64,
    /// Sliding: start of its ring. GCRA: unused.
    start: usize,
    /// Sliding: the time that one more has to be a window away from, once the ring is full.
    oldest: MonoNanos,
    count: u32,
    /// Sliding: how many places are in use.
    filled: u32,
    /// Sliding: how many of the last times must be within the window for the first warning; `u32::MAX`: none.
    warn_from: u32,
    of: RateOf,
    sliding: bool,
}

const _: () = assert!(size_of::<Meter>() == 64);

/// The rate limits of all scopes and their state.
#[derive(Debug)]
pub struct Rates {
    meters: Vec<Meter>,
    /// The limit behind each meter.
    limits: Vec<RateLimit>,
    times: Vec<MonoNanos>,
    /// First meter of each scope, and one past the last.
    starts: Vec<u32>,
}

/// A look at one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateView {
    /// The limit.
    pub limit: RateLimit,
    /// How much of it is used: times within the window, or GCRA's backlog in cells.
    pub used: i64,
    /// What `used` may be: `count`, or GCRA's `burst`.
    pub most: i64,
}

// What it is measured by follows from its limit.
saved_state!(Meter { head, oldest, filled } derived {
    interval, ahead, warn_ahead, start, count, warn_from, of, sliding
});

/// Meters and times are as many as the limits ask for.
impl State for Rates {
    fn keep(&self, out: &mut Out<'_>) {
        let Rates { meters, limits: _, times, starts } = self;
        Value::save(&starts.len(), out);
        save_each(meters, out);
        save_places(times, out);
    }

    fn restore(&mut self, input: &mut In<'_>) -> Result<(), BadSave> {
        let Rates { meters, limits: _, times, starts } = self;
        if usize::load(input)? != starts.len() {
            return Err(input.bad("there is another number of scopes"));
        }
        restore_each(meters, input)?;
        restore_places(times, input)
    }
}

impl Meter {
    /// Sliding: the place of the time that is `back` before the next, at most as many as are in use.
    #[inline]
    fn place(&self, back: u32) -> usize {
        let (head, back) = (self.head as usize, back as usize);
        self.start + if head >= back { head - back } else { head + self.count as usize - back }
    }
}

impl Rates {
    /// The meters of `table`, all unused.
    #[must_use]
    pub fn new(table: &LimitTable, scopes: usize) -> Rates {
        let mut rates =
            Rates { meters: Vec::new(), limits: Vec::new(), times: Vec::new(), starts: Vec::with_capacity(scopes + 1) };
        for slot in 0..scopes {
            rates.starts.push(rates.meters.len() as u32);
            let limits = table.at(slot);
            for limit in &limits.rates {
                let start = rates.times.len();
                let sliding = limit.kind == RateKind::Sliding;
                if sliding {
                    rates.times.resize(start + limit.count as usize, MonoNanos(0));
                }
                let first = limits.warn[limit.of.rule() as usize][0];
                let most = match limit.kind {
                    RateKind::Sliding => limit.count,
                    RateKind::Gcra { burst } => burst,
                };
                let warn_from = if first > 0 && most > 0 {
                    (u64::from(most) * u64::from(first)).div_ceil(100).max(1) as u32
                } else {
                    u32::MAX
                };
                let reaches_from = u64::from(warn_from).saturating_sub(1);
                let emission = limit.window_ns.div_ceil(u64::from(limit.count.max(1)));
                rates.meters.push(Meter {
                    head: 0,
                    interval: if sliding { limit.window_ns } else { emission },
                    ahead: u64::from(most.saturating_sub(1)).saturating_mul(emission),
                    warn_ahead: if warn_from == u32::MAX { u64::MAX } else { reaches_from.saturating_mul(emission) },
                    start,
                    oldest: MonoNanos(0),
                    count: limit.count,
                    filled: 0,
                    warn_from,
                    of: limit.of,
                    sliding,
                });
                rates.limits.push(*limit);
            }
        }
        rates.starts.push(rates.meters.len() as u32);
        advise(&rates.times);
        rates
    }

    /// Takes the memory of the whole table now. See [`populate`].
    ///
    /// # Errors
    ///
    /// As [`populate`].
    pub fn prefault(&self) -> Populated {
        populate(&self.times)
    }

    /// The meters of `table`, with the state of `self` where a scope has a limit of the same thing and kind in the
    /// same place. A sliding limit keeps its latest times, as many as both counts hold.
    #[must_use]
    pub fn carried_over(&self, table: &LimitTable, scopes: usize) -> Rates {
        let mut new = Rates::new(table, scopes);
        for slot in 0..scopes {
            for (to, from) in new.range(slot).zip(self.range(slot)) {
                let old = self.meters[from];
                let meter = &mut new.meters[to];
                if old.of != meter.of {
                    continue;
                }
                match (self.limits[from].kind, new.limits[to].kind) {
                    (RateKind::Sliding, RateKind::Sliding) => {
                        let keep = old.filled.min(meter.count);
                        for back in (1..=keep).rev() {
                            let place = meter.start + meter.head as usize;
                            new.times[place] = self.times[old.place(back)];
                            meter.head = (meter.head + 1) % u64::from(meter.count);
                        }
                        meter.filled = keep;
                        if keep > 0 {
                            // Meaningful once the ring is full; until then any place will do.
                            meter.oldest = new.times[meter.start + meter.head as usize];
                        }
                    }
                    (RateKind::Gcra { .. }, RateKind::Gcra { .. }) => meter.head = old.head,
                    (RateKind::Sliding, RateKind::Gcra { .. }) | (RateKind::Gcra { .. }, RateKind::Sliding) => {}
                }
            }
        }
        new
    }

    /// The meters of the scope at `slot`.
    #[inline]
    #[must_use]
    pub fn range(&self, slot: usize) -> core::ops::Range<usize> {
        self.starts[slot] as usize..self.starts[slot + 1] as usize
    }

    /// The limit behind `meter`.
    #[inline]
    #[must_use]
    pub fn limit(&self, meter: usize) -> &RateLimit {
        &self.limits[meter]
    }

    /// Whether one more now is within the limit.
    #[inline]
    #[must_use]
    pub fn fits(&self, meter: usize, now: MonoNanos) -> bool {
        let m = &self.meters[meter];
        if m.count == 0 {
            return false;
        }
        if m.sliding {
            m.filled < m.count || now.since(m.oldest) >= m.interval
        } else {
            m.head <= now.0.saturating_add(m.ahead)
        }
    }

    /// Counts one now. Returns whether the first warning level is reached (look closer with [`Rates::view`]).
    #[inline]
    pub fn record(&mut self, meter: usize, now: MonoNanos) -> bool {
        let m = &mut self.meters[meter];
        if m.count == 0 {
            return true;
        }
        if m.sliding {
            self.times[m.start + m.head as usize] = now;
            m.head += 1;
            if m.head == u64::from(m.count) {
                m.head = 0;
            }
            m.oldest = self.times[m.start + m.head as usize];
            m.filled = (m.filled + 1).min(m.count);
            m.filled >= m.warn_from && now.since(self.times[m.place(m.warn_from)]) < m.interval
        } else {
            m.head = m.head.max(now.0).saturating_add(m.interval);
            m.head - now.0 > m.warn_ahead
        }
    }

    /// Forgets what was counted so far.
    pub fn restart(&mut self, meter: usize) {
        let m = &mut self.meters[meter];
        m.head = 0;
        m.filled = 0;
    }

    /// How much is used now. A binary search for a sliding limit.
    #[must_use]
    pub fn view(&self, meter: usize, now: MonoNanos) -> RateView {
        let m = &self.meters[meter];
        let (used, most) = match self.limits[meter].kind {
            RateKind::Sliding => {
                // Times ascend from the oldest to the latest: find how many of the latest are within the window.
                let (mut within, mut beyond) = (0, m.filled + 1);
                while beyond - within > 1 {
                    let middle = within + (beyond - within) / 2;
                    if now.since(self.times[m.place(middle)]) < m.interval {
                        within = middle;
                    } else {
                        beyond = middle;
                    }
                }
                (i64::from(within), i64::from(m.count))
            }
            RateKind::Gcra { burst } => {
                let backlog = m.head.saturating_sub(now.0).div_ceil(m.interval);
                (i64::try_from(backlog).unwrap_or(i64::MAX), i64::from(burst))
            }
        };
        RateView { limit: self.limits[meter], used, most }
    }

    /// The meter's own memory: to be prefetched.
    #[inline]
    pub fn warm(&self, meter: usize) {
        if let Some(m) = self.meters.get(meter) {
            lines(m);
        }
    }

    /// The times that the next one at `meter` is compared with and stands beside: to be prefetched.
    #[inline]
    pub fn warm_times(&self, meter: usize) {
        let Some(m) = self.meters.get(meter).filter(|m| m.sliding) else { return };
        if let Some(time) = self.times.get(m.start + m.head as usize) {
            lines(time);
        }
        if m.filled >= m.warn_from
            && let Some(time) = self.times.get(m.place(m.warn_from))
        {
            lines(time);
        }
    }

    /// What `meter` counts.
    #[inline]
    #[must_use]
    pub fn of(&self, meter: usize) -> RateOf {
        self.meters[meter].of
    }
}
