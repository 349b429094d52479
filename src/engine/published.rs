//! What the engine shows of itself: read by `/metrics` and the API, never waited for.
//!
//! # Synchronization
//!
//! One writer, the engine's thread. Counters are plain loads and stores of relaxed atomics. The cells of
//! one scope change together and are read under a sequence lock made of atomics only: a reader that met
//! a writer tries again, a writer never waits.

use core::sync::atomic::{AtomicI64, AtomicU64, Ordering, fence};

use crate::engine::cancel_board::CancelBoard;
use crate::limits::{Gauge, MAX_RATES};
use crate::model::effect::Denial;
use crate::model::{AnomalyKind, EventKind, Mode, Rule, Scope, Universe};
use crate::units::SessionId;

/// Upper bounds of the latency buckets in nanoseconds; one more bucket holds the rest.
pub const LATENCY_BOUNDS_NS: [u64; 16] = [
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    5_000_000,
    25_000_000,
    100_000_000,
    1_000_000_000,
];

/// A counter with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. The engine's thread only.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }
    /// Sets the value. The engine's thread only.
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }
    /// The value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A latency histogram with one writer and fixed buckets ([`LATENCY_BOUNDS_NS`]).
#[derive(Debug, Default)]
pub struct Latency {
    buckets: [Counter; LATENCY_BOUNDS_NS.len() + 1],
    sum_ns: Counter,
}

impl Latency {
    /// Records one value. The engine's thread only.
    pub fn record(&self, ns: u64) {
        let at = LATENCY_BOUNDS_NS.partition_point(|&bound| bound < ns);
        self.buckets[at].add(1);
        self.sum_ns.add(ns);
    }
    /// Counts per bucket (not cumulative; the last holds what is beyond all bounds), and the sum in ns.
    #[must_use]
    pub fn read(&self) -> ([u64; LATENCY_BOUNDS_NS.len() + 1], u64) {
        let mut counts = [0; LATENCY_BOUNDS_NS.len() + 1];
        for (count, bucket) in counts.iter_mut().zip(&self.buckets) {
            *count = bucket.get();
        }
        (counts, self.sum_ns.get())
    }
}

/// A scope as the engine last showed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScopeView {
    /// Its gauges, in their rule's unit; [`Gauge::DayQty`] in quantity units.
    pub gauges: [i64; Gauge::COUNT],
    /// How much of each rate limit is used: in the order of [`crate::limits::ScopeLimits::rates`].
    pub rates: [i64; MAX_RATES],
    /// The scope's own mode, as the engine has it.
    pub mode: Mode,
}

const WORDS: usize = Gauge::COUNT + MAX_RATES + 1;

#[derive(Debug)]
#[repr(align(64))]
struct Cell {
    version: AtomicU64,
    words: [AtomicI64; WORDS],
}

/// How much of what a session has sent.
#[derive(Debug, Default)]
pub struct InstanceCounts {
    /// Orders and replaces, whatever became of them.
    pub orders: Counter,
    /// Fills.
    pub fills: Counter,
    /// Rejects of the venue.
    pub rejects: Counter,
}

impl InstanceCounts {
    /// Counts an event. The engine's thread only.
    #[inline]
    pub fn count(&self, kind: EventKind) {
        match kind {
            EventKind::New | EventKind::Replace => self.orders.add(1),
            EventKind::Fill => self.fills.add(1),
            EventKind::Rejected | EventKind::CancelRejected => self.rejects.add(1),
            _ => {}
        }
    }
}

/// What one session's flow has come to.
#[derive(Debug, Default)]
pub struct SessionFlow {
    /// New orders admitted.
    pub admitted: Counter,
    /// Denials by anything but a mode or the journal, anomalies, and trips that its events made.
    pub breaches: Counter,
    /// Orders that the venue rejected.
    pub rejects: Counter,
}

/// Everything that the engine publishes.
#[derive(Debug)]
pub struct Published {
    /// Counts by session.
    pub instances: Box<[InstanceCounts]>,
    scopes: Box<[Cell]>,
    /// Events taken, by kind (index: wire number - 1).
    pub events: [Counter; EventKind::ALL.len()],
    /// What each session's flow has come to, by [`SessionId`].
    pub sessions: Box<[SessionFlow]>,
    /// Denials by a limit of the scope, and trips of it, by [`Universe::slot`]; a pair's count for its strategy.
    pub breaches: Box<[Counter]>,
    /// Requests admitted.
    pub admitted: Counter,
    /// Requests denied, by the rule that the verdict names.
    pub denied: [Counter; Rule::COUNT],
    /// Trips, by rule.
    pub trips: [Counter; Rule::COUNT],
    /// Warnings, by rule.
    pub warnings: [Counter; Rule::COUNT],
    /// Anomalies, by kind.
    pub anomalies: [Counter; AnomalyKind::COUNT],
    /// Notices that found the channel to the control thread full.
    pub notices_dropped: Counter,
    /// Rounds of the engine's loop: stands still if the engine does.
    pub progress: Counter,
    /// Monotonic time of the last round in ns.
    pub last_round: Counter,
    /// Orders that are pending or working.
    pub working_orders: Counter,
    /// Orders remembered after they were done.
    pub remembered_orders: Counter,
    /// Exec ids remembered.
    pub remembered_execs: Counter,
    /// Pairs in use.
    pub pairs: Counter,
    /// Parents known, with those that are over and remembered.
    pub parents: Counter,
    /// Parents that take children.
    pub parents_open: Counter,
    /// Pairs that wait for their revaluation after a mark or a rate moved.
    pub revaluations_pending: Counter,
    /// Events waiting in front of the engine when it last looked.
    pub queue_depth: Counter,
    /// How long the oldest event in front of the engine had waited since its receipt when it last looked, in ns of
    /// the service's clock; 0 if none waited.
    pub input_lag_ns: Counter,
    /// Generation of the limits in force.
    pub limits_generation: Counter,
    /// From receipt at the edge to the decision, every event.
    pub event_latency: Latency,
    /// The decision itself, one event in 64.
    pub decision_latency: Latency,
    /// How far the cancels after a halt are.
    pub cancels: CancelBoard,
}

impl Published {
    /// Nothing published yet.
    #[must_use]
    pub fn new(universe: &Universe) -> Published {
        let cell = || Cell { version: AtomicU64::new(0), words: core::array::from_fn(|_| AtomicI64::new(0)) };
        Published {
            instances: universe.sessions.iter().map(|_| InstanceCounts::default()).collect(),
            scopes: (0..universe.scope_count()).map(|_| cell()).collect(),
            events: Default::default(),
            sessions: universe.sessions.iter().map(|_| SessionFlow::default()).collect(),
            breaches: (0..universe.scope_count()).map(|_| Counter::default()).collect(),
            admitted: Counter::default(),
            denied: core::array::from_fn(|_| Counter::default()),
            trips: core::array::from_fn(|_| Counter::default()),
            warnings: core::array::from_fn(|_| Counter::default()),
            anomalies: core::array::from_fn(|_| Counter::default()),
            notices_dropped: Counter::default(),
            progress: Counter::default(),
            last_round: Counter::default(),
            working_orders: Counter::default(),
            remembered_orders: Counter::default(),
            remembered_execs: Counter::default(),
            pairs: Counter::default(),
            parents: Counter::default(),
            parents_open: Counter::default(),
            revaluations_pending: Counter::default(),
            queue_depth: Counter::default(),
            input_lag_ns: Counter::default(),
            limits_generation: Counter::default(),
            event_latency: Latency::default(),
            decision_latency: Latency::default(),
            cancels: CancelBoard::new(universe.scope_count()),
        }
    }

    /// Shows the scope at `slot`. The engine's thread only.
    pub fn show(&self, slot: usize, view: &ScopeView) {
        let Some(cell) = self.scopes.get(slot) else { return };
        let version = cell.version.load(Ordering::Relaxed);
        // SYNC scope: odd while words change; pairs with the fence and the second load in `scope`.
        cell.version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        let values = view.gauges.iter().chain(&view.rates).copied().chain([view.mode as i64]);
        for (word, value) in cell.words.iter().zip(values) {
            word.store(value, Ordering::Relaxed);
        }
        cell.version.store(version.wrapping_add(2), Ordering::Release);
    }

    /// Counts a denial of a session's request. The engine's thread only.
    pub fn denial(&self, universe: &Universe, session: SessionId, denial: &Denial) {
        // Of a halt, or of a disk that is behind, the session is not the cause.
        if matches!(denial.rule, Rule::Mode | Rule::Journal) {
            return;
        }
        self.breach(universe, session, denial.scope);
    }

    /// Counts something at `scope` that a clean stream has none of. The engine's thread only.
    pub fn breach(&self, universe: &Universe, session: SessionId, scope: Scope) {
        if let Some(flow) = self.sessions.get(usize::from(session.0)) {
            flow.breaches.add(1);
        }
        let scope = match scope {
            Scope::Pair(strategy, _) => Scope::Strategy(strategy),
            other => other,
        };
        if let Some(counter) = universe.slot(scope).and_then(|slot| self.breaches.get(slot)) {
            counter.add(1);
        }
    }

    /// The scope at `slot` as last shown; `None` if there is no such slot.
    #[must_use]
    pub fn scope(&self, slot: usize) -> Option<ScopeView> {
        let cell = self.scopes.get(slot)?;
        loop {
            let before = cell.version.load(Ordering::Acquire);
            let mut words = [0i64; WORDS];
            for (value, word) in words.iter_mut().zip(&cell.words) {
                *value = word.load(Ordering::Relaxed);
            }
            fence(Ordering::Acquire);
            if before % 2 == 0 && cell.version.load(Ordering::Relaxed) == before {
                let mut view = ScopeView { gauges: [0; Gauge::COUNT], rates: [0; MAX_RATES], mode: Mode::Normal };
                view.gauges.copy_from_slice(&words[..Gauge::COUNT]);
                view.rates.copy_from_slice(&words[Gauge::COUNT..Gauge::COUNT + MAX_RATES]);
                view.mode = Mode::from_u8(words[WORDS - 1] as u8);
                return Some(view);
            }
            core::hint::spin_loop();
        }
    }
}
