//! What a replay shows of a flow and its limits: verdicts, trips, and how close every limit came to being reached.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::engine::core::Engine;
use crate::journal::replay::{Input, Watch};
use crate::limits::{Gauge, LimitTable, ScopeLimits, UNLIMITED};
use crate::model::rule::applies;
use crate::model::{Effect, Event, EventKind, Rule, Scope, Trip, Universe, Warn};
use crate::units::{Now, UnixNanos};

/// A trip and when it was.
#[derive(Clone, Copy, Debug)]
pub struct TripSeen {
    /// When.
    pub at: UnixNanos,
    /// The record of the input that did it.
    pub cell: u64,
    /// The trip.
    pub trip: Trip,
}

/// The most that was seen of what a limit looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peak {
    /// In the rule's unit.
    pub observed: i64,
    /// When.
    pub at: UnixNanos,
    /// The record of the input that did it.
    pub cell: u64,
}

/// One limit and how close it came.
#[derive(Clone, Copy, Debug)]
pub struct Headroom {
    /// Where it stands.
    pub scope: Scope,
    /// Which.
    pub rule: Rule,
    /// What is allowed; at least [`UNLIMITED`] if anything is.
    pub limit: i64,
    /// The most that was seen.
    pub peak: Peak,
}

impl Headroom {
    /// Share of the limit that was used, in percent; `None` if it is unlimited.
    #[must_use]
    pub fn percent(&self) -> Option<f64> {
        (self.limit < UNLIMITED).then(|| self.peak.observed.max(0) as f64 * 100.0 / self.limit.max(1) as f64)
    }
}

/// A sample of the flow, for a plot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When.
    pub at: UnixNanos,
    /// Requests admitted and denied so far.
    pub admitted: u64,
    /// See `admitted`.
    pub denied: u64,
    /// The firm's gross exposure and loss, in base units.
    pub gross: i64,
    /// See `gross`.
    pub loss: i64,
}

/// See the module. Watches a replay.
pub struct Tally {
    universe: Arc<Universe>,
    /// The limits that everything is compared with: the last in force.
    limits: Arc<LimitTable>,
    /// The first and last reading.
    pub first: Option<Now>,
    /// See `first`.
    pub last: Now,
    /// Events by kind.
    pub events: [u64; EventKind::ALL.len()],
    /// Requests admitted.
    pub admitted: u64,
    /// Requests denied, by rule.
    pub denied: [u64; Rule::COUNT],
    /// The first trips; more are counted only.
    pub trips: Vec<TripSeen>,
    /// All trips.
    pub trips_total: u64,
    /// Near misses: the highest warning level of each limit that was not breached, and how often one was passed.
    pub warnings: BTreeMap<(Scope, Rule), (u8, u64)>,
    peaks: HashMap<(Scope, Rule), Peak>,
    /// Quantities of new orders by strategy and instrument scope, for percentiles.
    orders: HashMap<Scope, Vec<i64>>,
    rates: HashMap<Scope, Window>,
    /// At most a bounded number, evenly spread.
    pub samples: Vec<Sample>,
    every: u64,
    since: u64,
}

/// How many trips are listed.
const TRIPS: usize = 10_000;
/// The most samples.
const SAMPLES: usize = 1_000;
/// The most order sizes that are kept per scope: beyond it every second one is dropped, again and again.
const SIZES: usize = 65_536;

/// Orders within the last second, in steps of 100 ms.
#[derive(Clone, Copy, Default)]
struct Window {
    step: u64,
    counts: [u32; 10],
}

impl Window {
    fn add(&mut self, mono: u64) -> i64 {
        let step = mono / 100_000_000;
        for skipped in (self.step + 1..=step).take(10) {
            self.counts[(skipped % 10) as usize] = 0;
        }
        if step > self.step + 10 {
            self.counts = [0; 10];
        }
        self.step = self.step.max(step);
        self.counts[(self.step % 10) as usize] += 1;
        self.counts.iter().map(|n| i64::from(*n)).sum()
    }
}

impl Tally {
    /// A tally over `universe`, against `limits`.
    #[must_use]
    pub fn new(universe: Arc<Universe>, limits: Arc<LimitTable>) -> Tally {
        Tally {
            universe,
            limits,
            first: None,
            last: Now::default(),
            events: [0; EventKind::ALL.len()],
            admitted: 0,
            denied: [0; Rule::COUNT],
            trips: Vec::new(),
            trips_total: 0,
            warnings: BTreeMap::new(),
            peaks: HashMap::new(),
            orders: HashMap::new(),
            rates: HashMap::new(),
            samples: Vec::new(),
            every: 1,
            since: 0,
        }
    }

    /// From here on everything is compared with these.
    pub fn set_limits(&mut self, limits: &Arc<LimitTable>) {
        if !Arc::ptr_eq(&self.limits, limits) {
            self.limits = limits.clone();
        }
    }

    /// The limits that everything is compared with.
    #[must_use]
    pub fn limits(&self) -> &Arc<LimitTable> {
        &self.limits
    }

    /// All names.
    #[must_use]
    pub fn universe(&self) -> &Arc<Universe> {
        &self.universe
    }

    /// Every limit with a peak, the tightest first; unlimited ones behind, by peak.
    #[must_use]
    pub fn headroom(&self) -> Vec<Headroom> {
        let mut rows: Vec<Headroom> = self
            .peaks
            .iter()
            .filter_map(|((scope, rule), peak)| {
                let limit = limit_of(self.limits.scope(&self.universe, *scope)?, *rule)?;
                Some(Headroom { scope: *scope, rule: *rule, limit, peak: *peak })
            })
            .collect();
        rows.sort_by(|a, b| {
            let order = b.percent().unwrap_or(-1.0).total_cmp(&a.percent().unwrap_or(-1.0));
            order.then(b.peak.observed.cmp(&a.peak.observed)).then((a.scope, a.rule).cmp(&(b.scope, b.rule)))
        });
        rows
    }

    /// The peak of what `rule` looks at in `scope`.
    #[must_use]
    pub fn peak(&self, scope: Scope, rule: Rule) -> Option<Peak> {
        self.peaks.get(&(scope, rule)).copied()
    }

    /// Every scope and rule with a peak.
    pub fn peaks(&self) -> impl Iterator<Item = (Scope, Rule, Peak)> + '_ {
        self.peaks.iter().map(|((scope, rule), peak)| (*scope, *rule, *peak))
    }

    /// The quantity that so many per mille of the scope's new orders do not exceed; `None` if there was none.
    #[must_use]
    pub fn order_qty(&self, scope: Scope, per_mille: usize) -> Option<i64> {
        let mut sizes = self.orders.get(&scope)?.clone();
        sizes.sort_unstable();
        let at = (sizes.len() * per_mille / 1_000).min(sizes.len().checked_sub(1)?);
        Some(sizes[at])
    }

    fn note(&mut self, scope: Scope, rule: Rule, observed: i64, now: Now, cell: u64) {
        let fresh = Peak { observed, at: now.unix, cell };
        let peak = self.peaks.entry((scope, rule)).or_insert(fresh);
        if observed > peak.observed {
            *peak = fresh;
        }
    }

    fn look(&mut self, cell: u64, now: Now, event: &Event, engine: &Engine) {
        let Some(strategy) = self.universe.strategies.get(usize::from(event.strategy.0)) else { return };
        if event.instrument.0 as usize >= self.universe.instruments.len()
            || usize::from(event.session.0) >= self.universe.sessions.len()
        {
            return;
        }
        let scopes = [
            Scope::Firm,
            Scope::Account(strategy.account),
            Scope::Strategy(event.strategy),
            Scope::Pair(event.strategy, event.instrument),
            Scope::Instrument(event.instrument),
            Scope::Session(event.session),
        ];
        let volume = self.universe.instruments[event.instrument.0 as usize].average_daily_volume.map_or(0, |v| v.0);
        let bps = |qty: i64| {
            let bps = (i128::from(qty) * 10_000 + i128::from(volume) - 1).checked_div(i128::from(volume))?;
            i64::try_from(bps).ok()
        };
        for scope in scopes {
            let kind = scope.kind();
            let gauges = engine.gauges(scope);
            for gauge in Gauge::ALL {
                let rule = gauge.rule();
                let Some(value) = gauges.map(|gauges| gauges[gauge as usize]).filter(|_| applies(rule, kind)) else {
                    continue;
                };
                let value = if gauge == Gauge::DayQty { bps(value) } else { Some(value) };
                if let Some(value) = value {
                    self.note(scope, rule, value, now, cell);
                }
            }
            if event.kind != EventKind::New {
                continue;
            }
            self.note(scope, Rule::OrderQty, event.qty.0, now, cell);
            if let Some(value) = engine.order_value(event) {
                self.note(scope, Rule::OrderNotional, value, now, cell);
            }
            if let Some(bps) = bps(event.qty.0) {
                self.note(scope, Rule::OrderParticipation, bps, now, cell);
            }
            if applies(Rule::OrderRate, kind) {
                let count = self.rates.entry(scope).or_default().add(now.mono.0);
                self.note(scope, Rule::OrderRate, count, now, cell);
            }
            let sizes = self.orders.entry(scope).or_default();
            if sizes.len() >= SIZES {
                let mut keep = false;
                sizes.retain(|_| {
                    keep = !keep;
                    keep
                });
            }
            sizes.push(event.qty.0);
        }
    }

    fn sample(&mut self, now: Now, engine: &Engine) {
        self.since += 1;
        if self.since < self.every {
            return;
        }
        self.since = 0;
        let gauges = engine.gauges(Scope::Firm).unwrap_or([0; Gauge::COUNT]);
        self.samples.push(Sample {
            at: now.unix,
            admitted: self.admitted,
            denied: self.denied.iter().sum(),
            gross: gauges[Gauge::Gross as usize],
            loss: gauges[Gauge::Loss as usize],
        });
        if self.samples.len() >= SAMPLES {
            let mut keep = false;
            self.samples.retain(|_| {
                keep = !keep;
                keep
            });
            self.every *= 2;
        }
    }
}

impl Watch for Tally {
    fn input(&mut self, cell: u64, now: Now, input: Input<'_>, effects: &[Effect], engine: &Engine) {
        self.first.get_or_insert(now);
        self.last = now;
        for effect in effects {
            match effect {
                Effect::Verdict(v) => match v.denial {
                    None => self.admitted += 1,
                    Some(denial) => self.denied[denial.rule as usize] += 1,
                },
                Effect::Trip(trip) => {
                    self.trips_total += 1;
                    if self.trips.len() < TRIPS {
                        self.trips.push(TripSeen { at: now.unix, cell, trip: *trip });
                    }
                }
                Effect::Warn(Warn { at, percent }) => {
                    let entry = self.warnings.entry((at.scope, at.rule)).or_default();
                    *entry = (entry.0.max(*percent), entry.1 + 1);
                }
                Effect::Applied { .. }
                | Effect::Resend { .. }
                | Effect::Anomaly(_)
                | Effect::Instruct(_)
                | Effect::OrderForgotten { .. }
                | Effect::ExecForgotten { .. } => {}
            }
        }
        if let Input::Event(event) = input {
            self.events[event.kind as usize - 1] += 1;
            self.look(cell, now, event, engine);
            self.sample(now, engine);
        }
    }
}

/// The one number of `rule` in `limits`; for the order rate the one of a window of a second. `None` if it has none.
#[must_use]
pub fn limit_of(limits: &ScopeLimits, rule: Rule) -> Option<i64> {
    if let Some(gauge) = Gauge::of(rule) {
        return Some(limits.of(gauge));
    }
    match rule {
        Rule::OrderQty => Some(limits.order_qty),
        Rule::OrderNotional => Some(limits.order_notional),
        Rule::OrderParticipation => Some(limits.order_participation),
        Rule::OrderRate => {
            let of = limits.rates.iter().filter(|rate| rate.of.rule() == rule);
            let second = of.filter(|rate| rate.window_ns == 1_000_000_000).map(|rate| i64::from(rate.count)).min();
            Some(second.unwrap_or(UNLIMITED))
        }
        _ => None,
    }
}
