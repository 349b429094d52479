//! What was done so far and how long its stages took, for the metrics.

/// Upper bounds of the kill stages' buckets in ns; one more bucket holds the rest.
pub const STAGE_BOUNDS_NS: [u64; 18] = [
    1_000,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    1_000_000_000,
    5_000_000_000,
];

/// How long one stage of a kill took, over all presses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageTimes {
    /// Counts per bucket of [`STAGE_BOUNDS_NS`], not cumulative; the last holds what is beyond all bounds.
    pub counts: [u64; STAGE_BOUNDS_NS.len() + 1],
    /// Sum in ns.
    pub sum_ns: u64,
}

impl StageTimes {
    pub(super) fn add(&mut self, other: &StageTimes) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
    }

    pub(super) fn record(&mut self, ns: u64) {
        self.counts[STAGE_BOUNDS_NS.partition_point(|&bound| bound < ns)] += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }
}

/// What was done so far, for the metrics. Stages are measured from the moment the page was raised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Presses taken.
    pub presses: u64,
    /// Trips recorded.
    pub trips: u64,
    /// Scopes lowered.
    pub rearms: u64,
    /// Press to page: how long the raise itself took.
    pub raised: StageTimes,
    /// Raised to confirmed by a gate.
    pub gates: StageTimes,
    /// Raised to latch on disk.
    pub durable: StageTimes,
    /// Raised to written to a session.
    pub told: StageTimes,
    /// Raised to confirmed by a session.
    pub confirmed: StageTimes,
}
