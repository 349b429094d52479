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
use crate::ring::huge::advise;
use crate::units::MonoNanos;

#[derive(Clone, Copy, Debug)]
struct Meter {
    limit: RateLimit,
    /// Sliding: start of its ring. GCRA: unused.
    start: usize,
    /// Sliding: the next place in the ring. GCRA: the TAT.
    head: u64,
    /// Sliding: how many places are in use.
    filled: u32,
    /// Sliding: how many of the last times must be within the window for the first warning; GCRA: how many cells of
    /// backlog. `u32::MAX`: none.
    warn_from: u32,
    /// GCRA: `T`.
    interval: u64,
    /// GCRA: how far the TAT may be ahead, `(burst − 1) × T`.
    ahead: u64,
}

/// The rate limits of all scopes and their state.
#[derive(Debug)]
pub struct Rates {
    meters: Vec<Meter>,
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

impl Meter {
    fn place(&self, back: u32) -> usize {
        // `back` = 1 is the latest.
        let count = u64::from(self.limit.count);
        self.start + ((self.head + count - u64::from(back)) % count) as usize
    }
}

impl Rates {
    /// The meters of `table`, all unused.
    #[must_use]
    pub fn new(table: &LimitTable, scopes: usize) -> Rates {
        let mut rates = Rates { meters: Vec::new(), times: Vec::new(), starts: Vec::with_capacity(scopes + 1) };
        for slot in 0..scopes {
            rates.starts.push(rates.meters.len() as u32);
            let limits = table.at(slot);
            for limit in &limits.rates {
                let start = rates.times.len();
                if limit.kind == RateKind::Sliding {
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
                let interval = limit.window_ns.div_ceil(u64::from(limit.count.max(1)));
                let ahead = u64::from(most.saturating_sub(1)).saturating_mul(interval);
                rates.meters.push(Meter { limit: *limit, start, head: 0, filled: 0, warn_from, interval, ahead });
            }
        }
        rates.starts.push(rates.meters.len() as u32);
        advise(&rates.times);
        rates
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
                if old.limit.of != meter.limit.of {
                    continue;
                }
                match (old.limit.kind, meter.limit.kind) {
                    (RateKind::Sliding, RateKind::Sliding) => {
                        let keep = old.filled.min(meter.limit.count);
                        for back in (1..=keep).rev() {
                            let place = meter.start + meter.head as usize;
                            new.times[place] = self.times[old.place(back)];
                            meter.head = (meter.head + 1) % u64::from(meter.limit.count);
                        }
                        meter.filled = keep;
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
        &self.meters[meter].limit
    }

    /// Whether one more now is within the limit.
    #[inline]
    #[must_use]
    pub fn fits(&self, meter: usize, now: MonoNanos) -> bool {
        let m = &self.meters[meter];
        if m.limit.count == 0 {
            return false;
        }
        match m.limit.kind {
            RateKind::Sliding => {
                m.filled < m.limit.count || now.since(self.times[m.start + m.head as usize]) >= m.limit.window_ns
            }
            RateKind::Gcra { .. } => m.head <= now.0.saturating_add(m.ahead),
        }
    }

    /// Counts one now. Returns whether the first warning level is reached (look closer with [`Rates::view`]).
    #[inline]
    pub fn record(&mut self, meter: usize, now: MonoNanos) -> bool {
        let m = &mut self.meters[meter];
        if m.limit.count == 0 {
            return true;
        }
        match m.limit.kind {
            RateKind::Sliding => {
                self.times[m.start + m.head as usize] = now;
                m.head += 1;
                if m.head == u64::from(m.limit.count) {
                    m.head = 0;
                }
                m.filled = (m.filled + 1).min(m.limit.count);
                m.filled >= m.warn_from && now.since(self.times[m.place(m.warn_from)]) < m.limit.window_ns
            }
            RateKind::Gcra { .. } => {
                m.head = m.head.max(now.0).saturating_add(m.interval);
                m.warn_from != u32::MAX && m.head - now.0 > u64::from(m.warn_from - 1).saturating_mul(m.interval)
            }
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
        let (used, most) = match m.limit.kind {
            RateKind::Sliding => {
                // Times ascend from the oldest to the latest: find how many of the latest are within the window.
                let (mut within, mut beyond) = (0, m.filled + 1);
                while beyond - within > 1 {
                    let middle = within + (beyond - within) / 2;
                    if now.since(self.times[m.place(middle)]) < m.limit.window_ns {
                        within = middle;
                    } else {
                        beyond = middle;
                    }
                }
                (i64::from(within), i64::from(m.limit.count))
            }
            RateKind::Gcra { burst } => {
                let backlog = m.head.saturating_sub(now.0).div_ceil(m.interval);
                (i64::try_from(backlog).unwrap_or(i64::MAX), i64::from(burst))
            }
        };
        RateView { limit: m.limit, used, most }
    }

    /// What `of` counts at `event_is`: whether a meter of this kind looks at it.
    #[inline]
    #[must_use]
    pub fn counts(&self, meter: usize, of: RateOf) -> bool {
        self.meters[meter].limit.of == of
    }
}
