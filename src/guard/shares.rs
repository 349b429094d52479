//! Which part of its own orders an instance has rejected. A rate of rejects a second says nothing of one that sends ten orders a
//! minute and has all of them rejected; its share does, and a busy one among quiet ones has more rejects and the same share.
//!
//! Shares are held against each other as odds: rejects for each order that was not rejected. Unlike a share, which ends at one, odds
//! can be any number of times those of somebody else. Of few orders little is known, and each is taken for the better:
//!
//! - of the one that is looked at, the lowest odds that its orders speak for: the lower end of the 95 % interval of its share (Wilson);
//! - of a peer, one reject and one order more than it had. One without orders says nothing, and is no peer.
//!
//! No I/O; time is an argument.

use core::time::Duration;
use std::collections::VecDeque;

use super::peers::Counts;

/// When a share is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareOptions {
    /// What orders and rejects are counted over. So long it has to be far until the instance is halted for it: a burst is in every
    /// count for that long.
    pub window: Duration,
    /// With fewer rejects in a window, nothing is said of an instance.
    pub rejects_min: u32,
    /// Lower shares are never too high, in basis points.
    pub share_min: u32,
}

impl Default for ShareOptions {
    fn default() -> ShareOptions {
        ShareOptions { window: Duration::from_secs(60), rejects_min: 5, share_min: 2_500 }
    }
}

impl ShareOptions {
    /// The odds that are too low for a warning and for a halt: who is halted for it has most of its orders rejected.
    pub(super) fn least(&self) -> [f64; 2] {
        let warn = odds_of(f64::from(self.share_min) / 10_000.0);
        [warn, warn.max(1.0)]
    }
}

/// The odds of a share below one.
pub(super) fn odds_of(share: f64) -> f64 {
    share / (1.0 - share).max(f64::EPSILON)
}

/// The share that has these odds.
pub(super) fn share_of(odds: f64) -> f64 {
    odds / (1.0 + odds)
}

/// Orders and rejects of one instance in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    pub orders: u64,
    pub rejects: u64,
}

/// How many deviations of a normal distribution hold 95 % of it.
const Z: f64 = 1.96;

impl Part {
    /// An order may have been sent before the window in which it is rejected.
    fn of_orders(self) -> f64 {
        self.orders.max(self.rejects) as f64
    }

    /// The share as it is; none without orders.
    pub fn share(self) -> f64 {
        if self.of_orders() == 0.0 { 0.0 } else { self.rejects as f64 / self.of_orders() }
    }

    /// The lowest odds that it speaks for.
    pub fn lowest_odds(self) -> f64 {
        let n = self.of_orders();
        if n == 0.0 {
            return 0.0;
        }
        let (p, z2) = (self.share(), Z * Z);
        let middle = p + z2 / (2.0 * n);
        let apart = Z * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
        odds_of(((middle - apart) / (1.0 + z2 / n)).max(0.0))
    }

    /// The odds that it is counted with as somebody's peer.
    pub fn odds_as_peer(self) -> f64 {
        (self.rejects as f64 + 1.0) / (self.of_orders() - self.rejects as f64 + 1.0)
    }
}

/// Samples that a window is made of: it may be longer by this part of it.
const STEPS: u32 = 60;

/// See the module.
#[derive(Debug)]
pub(super) struct Shares {
    window_ns: u64,
    /// When each sample was taken (mono ns), and the counts of all instances.
    samples: VecDeque<(u64, Vec<Counts>)>,
}

impl Shares {
    pub fn new(options: &ShareOptions) -> Shares {
        let window_ns = u64::try_from(options.window.as_nanos()).unwrap_or(u64::MAX).max(1);
        Shares { window_ns, samples: VecDeque::new() }
    }

    /// What each instance had in the window that ends at `mono` (ns), or since the first sample.
    pub fn sample(&mut self, mono: u64, counts: &[Counts]) -> Vec<Part> {
        let step = self.window_ns / u64::from(STEPS);
        if self.samples.back().is_none_or(|last| mono.saturating_sub(last.0) >= step) {
            self.samples.push_back((mono, counts.to_vec()));
        }
        // The newest sample that is at least a window old stays: counted is from it.
        while self.samples.get(1).is_some_and(|sample| mono.saturating_sub(sample.0) >= self.window_ns) {
            self.samples.pop_front();
        }
        let since = self.samples.front().map_or(counts, |(_, counts)| counts.as_slice());
        let part = |(now, then): (&Counts, &Counts)| Part {
            orders: now.orders.saturating_sub(then.orders),
            rejects: now.rejects.saturating_sub(then.rejects),
        };
        counts.iter().zip(since).map(part).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn part(orders: u64, rejects: u64) -> Part {
        Part { orders, rejects }
    }

    #[test]
    fn few_orders_speak_for_little_and_many_for_what_they_are() {
        let lowest = |orders, rejects| share_of(part(orders, rejects).lowest_odds());
        // As in any table of the interval.
        for (orders, rejects, share) in [(10, 10, 0.722), (5, 5, 0.566), (1, 1, 0.207), (100, 50, 0.404), (9, 0, 0.0)] {
            assert!(
                (lowest(orders, rejects) - share).abs() < 0.001,
                "{rejects} of {orders}: {}",
                lowest(orders, rejects)
            );
        }
        assert!((lowest(1_000_000, 250_000) - 0.25).abs() < 0.001);
        assert_eq!((part(0, 0).lowest_odds(), part(0, 0).share()), (0.0, 0.0));
        // What was sent before the window is rejected in it.
        assert_eq!(part(2, 3).share(), 1.0);
        assert!(part(0, 1_000_000).lowest_odds().is_finite());
        assert_eq!([part(9, 0), part(1, 1), part(99, 99)].map(Part::odds_as_peer), [0.1, 2.0, 100.0]);
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let mut shares = Shares::new(&ShareOptions::default());
        let mut counts = [Counts::default(); 2];
        let mut at = |second: u64, orders: u64, rejects: u64| {
            counts[1].orders += orders;
            counts[1].rejects += rejects;
            shares.sample(second * SECOND, &counts)[1]
        };
        assert_eq!(at(0, 5, 5), part(0, 0), "what was before the first sample is not known");
        assert_eq!(at(1, 10, 10), part(10, 10));
        assert_eq!(at(30, 7, 0), part(17, 10));
        assert_eq!(at(60, 0, 0), part(17, 10));
        assert_eq!(at(61, 0, 0), part(7, 0));
        assert_eq!(at(300, 0, 0), part(0, 0));
    }
}
