//! The collector: reads what is published at the moment of the scrape.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use crate::engine::published::{LATENCY_BOUNDS_NS, Latency};
use crate::kill::switch::{STAGE_BOUNDS_NS, StageTimes};
use crate::kill::words::clean;
use crate::metrics::usage::each_usage;
use crate::metrics::{MODE_SERIES_MAX, MetricsParts, SOURCE_SERIES_MAX, Sample, SampleKind, UTILISATION_SERIES_MAX};
use crate::model::cancel::CancelState;
use crate::model::{AnomalyKind, EventKind, Mode, Rule, Scope, ScopeKind};

/// Label values are kept this short.
const LABEL_MAX: usize = 128;
/// Instruments are shown from this utilisation on.
const INSTRUMENT_FROM: f64 = 0.5;

macro_rules! families {
    ($($id:ident = $name:literal $kind:ident $help:literal;)*) => {
        /// Every family that the collector makes itself.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        enum Family { $($id,)* }
        impl Family {
            const ALL: &'static [Family] = &[$(Family::$id,)*];
            const fn name(self) -> &'static str { match self { $(Family::$id => $name,)* } }
            const fn help(self) -> &'static str { match self { $(Family::$id => $help,)* } }
            const fn kind(self) -> MetricType { match self { $(Family::$id => MetricType::$kind,)* } }
        }
    };
}

families! {
    BuildInfo = "haltline_build_info" GAUGE "Always 1; the labels say what is running.";
    Started = "haltline_start_time_seconds" GAUGE "When the process made its metrics, Unix time.";
    Events = "haltline_events_total" COUNTER "Events that the engine took, by kind.";
    Verdicts = "haltline_verdicts_total" COUNTER
        "Verdicts given. A denial carries the rule that it names; an admission has the rule none.";
    Trips = "haltline_trips_total" COUNTER "Modes that the engine latched by itself, by rule.";
    Warnings = "haltline_warnings_total" COUNTER "Warning levels passed, by rule.";
    Anomalies = "haltline_anomalies_total" COUNTER "What should not happen in a healthy stream, by kind.";
    NoticesDropped = "haltline_notices_dropped_total" COUNTER
        "Trips, warnings and anomalies that found the channel to the control thread full.";
    Rounds = "haltline_engine_rounds_total" COUNTER "Rounds of the engine's loop; stands still if the engine does.";
    LastRound = "haltline_engine_last_round_age_seconds" GAUGE "Time since the engine's last round; NaN before the first.";
    QueueDepth = "haltline_queue_depth_events" GAUGE "Events waiting in front of the engine when it last looked.";
    InputLag = "haltline_input_lag_seconds" GAUGE
        "Age of the oldest event in front of the engine when it last looked; 0 if none waited.";
    WorkingOrders = "haltline_working_orders" GAUGE "Orders that are pending or working.";
    CancelOrders = "haltline_cancel_orders" GAUGE "Orders that are to be canceled after a halt, by where their cancel is.";
    CancelInstructions = "haltline_cancel_instructions_total" COUNTER
        "Instructions to sessions after a halt, by what they ask for.";
    CancelLost = "haltline_cancel_instructions_lost_total" COUNTER
        "Instructions that found no room on their way; they are repeated like those that are not answered.";
    CancelEnded = "haltline_cancel_ended_total" COUNTER "Orders that ended while they were to be canceled, by how.";
    RememberedOrders = "haltline_remembered_orders" GAUGE "Orders remembered after they were done.";
    RememberedExecs = "haltline_remembered_execs" GAUGE "Exec ids remembered.";
    Pairs = "haltline_pairs" GAUGE "Pairs of strategy and instrument in use.";
    Parents = "haltline_parents" GAUGE "Parent orders known, with those that are over and remembered.";
    ParentsOpen = "haltline_parents_open" GAUGE "Parent orders that take children and are not filled.";
    Revaluations = "haltline_revaluations_pending" GAUGE "Pairs that wait for revaluation after a mark or a rate moved.";
    LimitsGeneration = "haltline_limits_generation" GAUGE "Generation of the limits that the engine uses.";
    EventLatency = "haltline_event_latency_seconds" HISTOGRAM
        "From receipt at the edge to the decision, every event.";
    DecisionLatency = "haltline_decision_latency_seconds" HISTOGRAM "The decision itself, one event in 64.";
    ModeOf = "haltline_mode" GAUGE
        "Mode of a scope: 0 normal, 1 reduce_only, 2 halted. Instruments only where not normal.";
    ScopesRaised = "haltline_scopes_raised" GAUGE "Scopes that are not normal, by kind and mode.";
    Utilisation = "haltline_utilisation_ratio" GAUGE
        "Observed by limit, the highest of a rule at a scope. Instruments from one half on, or where not normal.";
    SeriesDropped = "haltline_series_dropped" GAUGE "Series left out of this scrape because there were too many.";
    Sessions = "haltline_sessions" GAUGE "Sessions in the configuration.";
    SessionsConnected = "haltline_sessions_connected" GAUGE "Sessions that a transport has.";
    SessionsUnconfirmed = "haltline_sessions_unconfirmed" GAUGE
        "Connected sessions that have not confirmed the halt page as it is now.";
    Gates = "haltline_gates" GAUGE "Gateways on this host that have mapped the halt page.";
    GatesUnconfirmed = "haltline_gates_unconfirmed" GAUGE
        "Gates that were inside at a halt, and of which nothing says that they have left or ended since.";
    Lease = "haltline_lease_seconds" GAUGE
        "What is left of the gates' lease; negative: lapsed, gates are closed. Without gates left out.";
    Kills = "haltline_kills_total" COUNTER "Presses of the kill switch.";
    TripsRecorded = "haltline_trips_recorded_total" COUNTER "Trips whose cause the control thread has recorded.";
    Rearms = "haltline_rearms_total" COUNTER "Scopes lowered by a re-arm.";
    KillStage = "haltline_kill_stage_seconds" HISTOGRAM
        "Stages of a kill: press to page raised; and from there to gate confirmed, latch durable, session told, session confirmed.";
    LatchDurable = "haltline_latch_durable" GAUGE "1 if the halt page as it is now is on disk.";
    LatchWrites = "haltline_latch_writes_total" COUNTER "Writes of the latch, by result.";
    ReloadOk = "haltline_config_last_reload_successful" GAUGE "1 if the last reload of the limits was taken.";
    ReloadAt = "haltline_config_last_reload_success_timestamp_seconds" GAUGE
        "When limits last came into force, Unix time.";
    Reloads = "haltline_config_reloads_total" COUNTER "Reloads of the limits, by result.";
}

/// See the module.
pub(super) struct HaltlineCollector {
    parts: MetricsParts,
    descs: Vec<Desc>,
    started_ns: u64,
}

impl HaltlineCollector {
    pub(super) fn new(parts: MetricsParts) -> Result<HaltlineCollector, prometheus::Error> {
        let desc = |family: &Family| Desc::new(family.name().into(), family.help().into(), vec![], HashMap::new());
        let descs = Family::ALL.iter().map(desc).collect::<Result<_, _>>()?;
        let started_ns = parts.clock.now().unix.0;
        Ok(HaltlineCollector { parts, descs, started_ns })
    }
}

impl Collector for HaltlineCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut page = Page::default();
        self.engine(&mut page);
        self.scopes(&mut page);
        self.control(&mut page);
        let mut families = page.families();
        self.sources(&mut families);
        families
    }
}

/// The scrape in the making: metrics by family.
#[derive(Default)]
struct Page {
    metrics: Vec<(Family, Metric)>,
}

impl Page {
    fn put(&mut self, family: Family, labels: &[(&'static str, &str)], value: f64) {
        self.metrics.push((family, plain(family.kind(), labels, value)));
    }

    fn put_histogram(
        &mut self,
        family: Family,
        labels: &[(&'static str, &str)],
        bounds: &[u64],
        counts: &[u64],
        sum_ns: u64,
    ) {
        let mut histogram = Histogram::default();
        let mut cumulative = 0;
        let mut buckets = Vec::with_capacity(bounds.len());
        for (bound, count) in bounds.iter().zip(counts) {
            cumulative += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(seconds(*bound));
            bucket.set_cumulative_count(cumulative);
            buckets.push(bucket);
        }
        histogram.set_bucket(buckets);
        histogram.set_sample_count(counts.iter().sum());
        histogram.set_sample_sum(seconds(sum_ns));
        let mut metric = Metric::from_label(pairs(labels));
        metric.set_histogram(histogram);
        self.metrics.push((family, metric));
    }

    fn families(mut self) -> Vec<MetricFamily> {
        self.metrics.sort_by_key(|(family, _)| *family);
        let mut families: Vec<(Family, Vec<Metric>)> = Vec::new();
        for (family, metric) in self.metrics {
            match families.last_mut() {
                Some((last, list)) if *last == family => list.push(metric),
                _ => families.push((family, vec![metric])),
            }
        }
        families.into_iter().map(|(f, metrics)| family_of(f.name(), f.help(), f.kind(), metrics)).collect()
    }
}

fn family_of(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn plain(kind: MetricType, labels: &[(&'static str, &str)], value: f64) -> Metric {
    let mut metric = Metric::from_label(pairs(labels));
    if kind == MetricType::COUNTER {
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    }
    metric
}

fn pairs(labels: &[(&'static str, &str)]) -> Vec<LabelPair> {
    let pair = |(name, value): &(&'static str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value(label(value));
        pair
    };
    labels.iter().map(pair).collect()
}

/// A label value without control characters and of bounded length. What had to be changed gets a part of its hash, so
/// that two different names stay different series.
fn label(value: &str) -> String {
    let mut text = clean(value);
    if text == value && text.len() <= LABEL_MAX {
        return text;
    }
    let hash = blake3::hash(value.as_bytes()).to_hex();
    let mut cut = text.len().min(LABEL_MAX - 17);
    while !text.is_char_boundary(cut) {
        cut -= 1;
    }
    text.truncate(cut);
    text + "~" + &hash[..16]
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

fn flag(on: bool) -> f64 {
    f64::from(u8::from(on))
}

impl HaltlineCollector {
    fn engine(&self, page: &mut Page) {
        let shown = &self.parts.published;
        page.put(Family::BuildInfo, &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
        page.put(Family::Started, &[], seconds(self.started_ns));
        for (kind, count) in EventKind::ALL.iter().zip(&shown.events) {
            page.put(Family::Events, &[("kind", kind.name())], count.get() as f64);
        }
        page.put(Family::Verdicts, &[("verdict", "admit"), ("rule", "none")], shown.admitted.get() as f64);
        for (at, rule) in Rule::ALL.iter().enumerate() {
            let name = rule.name();
            page.put(Family::Verdicts, &[("verdict", "deny"), ("rule", name)], shown.denied[at].get() as f64);
            page.put(Family::Trips, &[("rule", name)], shown.trips[at].get() as f64);
            page.put(Family::Warnings, &[("rule", name)], shown.warnings[at].get() as f64);
        }
        for (kind, count) in AnomalyKind::ALL.iter().zip(&shown.anomalies) {
            page.put(Family::Anomalies, &[("kind", kind.name())], count.get() as f64);
        }
        let last = shown.last_round.get();
        let age = if last == 0 { f64::NAN } else { seconds(self.parts.clock.now().mono.0.saturating_sub(last)) };
        for (family, value) in [
            (Family::NoticesDropped, shown.notices_dropped.get() as f64),
            (Family::Rounds, shown.progress.get() as f64),
            (Family::LastRound, age),
            (Family::QueueDepth, shown.queue_depth.get() as f64),
            (Family::InputLag, seconds(shown.input_lag_ns.get())),
            (Family::WorkingOrders, shown.working_orders.get() as f64),
            (Family::RememberedOrders, shown.remembered_orders.get() as f64),
            (Family::RememberedExecs, shown.remembered_execs.get() as f64),
            (Family::Pairs, shown.pairs.get() as f64),
            (Family::Parents, shown.parents.get() as f64),
            (Family::ParentsOpen, shown.parents_open.get() as f64),
            (Family::Revaluations, shown.revaluations_pending.get() as f64),
            (Family::LimitsGeneration, shown.limits_generation.get() as f64),
        ] {
            page.put(family, &[], value);
        }
        let cancels = &shown.cancels;
        for state in CancelState::ALL.into_iter().filter(|state| *state != CancelState::Untold) {
            page.put(Family::CancelOrders, &[("state", state.name())], cancels.states[state as usize].get() as f64);
        }
        for (what, count) in ["cancel", "mass_cancel", "disconnect"].into_iter().zip(&cancels.instructions) {
            page.put(Family::CancelInstructions, &[("what", what)], count.get() as f64);
        }
        page.put(Family::CancelLost, &[], cancels.lost.get() as f64);
        for (how, count) in ["canceled", "filled", "otherwise"].into_iter().zip(&cancels.ended) {
            page.put(Family::CancelEnded, &[("how", how)], count.get() as f64);
        }
        let mut latency = |family, latency: &Latency| {
            let (counts, sum_ns) = latency.read();
            page.put_histogram(family, &[], &LATENCY_BOUNDS_NS, &counts, sum_ns);
        };
        latency(Family::EventLatency, &shown.event_latency);
        latency(Family::DecisionLatency, &shown.decision_latency);
    }

    /// Modes and utilisation: what grows with the configuration.
    fn scopes(&self, page: &mut Page) {
        let (switch, shown) = (&self.parts.switch, &self.parts.published);
        let universe = switch.universe();
        let table = self.parts.limits.read().unwrap_or_else(PoisonError::into_inner).clone();
        let same_generation = shown.limits_generation.get() == u64::from(table.generation);
        let mut modes: Vec<(Mode, usize, Scope)> = Vec::new();
        let mut uses: Vec<(f64, usize, Scope, Rule)> = Vec::new();
        let mut raised = [[0u64; 3]; ScopeKind::ALL.len()];
        for slot in 0..universe.scope_count() {
            let Some(scope) = universe.scope_at(slot) else { continue };
            let mode = switch.page().get(slot).mode;
            raised[scope.kind() as usize][mode as usize] += 1;
            let always = match scope {
                Scope::Firm | Scope::Account(_) | Scope::Strategy(_) | Scope::Session(_) => true,
                Scope::Instrument(_) | Scope::Pair(..) => mode != Mode::Normal,
            };
            if always {
                modes.push((mode, slot, scope));
            }
            let first = uses.len();
            each_usage(universe, &table, scope, shown.scope(slot).as_ref(), |usage| {
                // Rates are matched by position, which only means something under the same limits.
                if usage.rate.is_some() && !same_generation {
                    return;
                }
                let Some(ratio) = usage.ratio().filter(|r| always || *r >= INSTRUMENT_FROM) else { return };
                match uses[first..].iter_mut().find(|(_, _, _, rule)| *rule == usage.rule) {
                    Some(same) => same.0 = same.0.max(ratio),
                    None => uses.push((ratio, slot, scope, usage.rule)),
                }
            });
        }
        let dropped_modes = modes.len().saturating_sub(MODE_SERIES_MAX);
        let dropped_uses = uses.len().saturating_sub(UTILISATION_SERIES_MAX);
        // The worst first; of equal ones those of the lower slot, so that a scrape shows the same as the one before.
        modes.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        uses.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.3.cmp(&b.3)));
        for (mode, _, scope) in modes.into_iter().take(MODE_SERIES_MAX) {
            let labels = [("kind", scope.kind().name()), ("name", &*universe.scope_name(scope))];
            page.put(Family::ModeOf, &labels, f64::from(mode as u8));
        }
        for (ratio, _, scope, rule) in uses.into_iter().take(UTILISATION_SERIES_MAX) {
            let labels = [("kind", scope.kind().name()), ("name", &*universe.scope_name(scope)), ("rule", rule.name())];
            page.put(Family::Utilisation, &labels, ratio);
        }
        for kind in ScopeKind::ALL {
            // A pair cannot be halted.
            if kind != ScopeKind::Pair {
                for mode in [Mode::ReduceOnly, Mode::Halted] {
                    let labels = [("kind", kind.name()), ("mode", mode.name())];
                    page.put(Family::ScopesRaised, &labels, raised[kind as usize][mode as usize] as f64);
                }
            }
        }
        page.put(Family::SeriesDropped, &[("family", Family::ModeOf.name())], dropped_modes as f64);
        page.put(Family::SeriesDropped, &[("family", Family::Utilisation.name())], dropped_uses as f64);
    }

    fn control(&self, page: &mut Page) {
        let switch = &self.parts.switch;
        let changes = switch.page().changes();
        let (mut connected, mut unconfirmed) = (0u32, 0u32);
        for view in (0..switch.board().len()).filter_map(|at| Some(switch.board().cell(at)?.view())) {
            connected += u32::from(view.connected);
            unconfirmed += u32::from(view.connected && view.confirmed < changes);
        }
        page.put(Family::Sessions, &[], switch.board().len() as f64);
        page.put(Family::SessionsConnected, &[], f64::from(connected));
        page.put(Family::SessionsUnconfirmed, &[], f64::from(unconfirmed));
        page.put(Family::Gates, &[], switch.gates().all().len() as f64);
        page.put(Family::GatesUnconfirmed, &[], switch.gates_unconfirmed() as f64);
        if switch.page().lease_span() > 0 {
            let left = switch.page().lease() as f64 - self.parts.clock.now().mono.0 as f64;
            page.put(Family::Lease, &[], left / 1e9);
        }

        let tally = switch.tally();
        page.put(Family::Kills, &[], tally.presses as f64);
        page.put(Family::TripsRecorded, &[], tally.trips as f64);
        page.put(Family::Rearms, &[], tally.rearms as f64);
        let mut stage = |name, times: &StageTimes| {
            page.put_histogram(Family::KillStage, &[("stage", name)], &STAGE_BOUNDS_NS, &times.counts, times.sum_ns);
        };
        stage("raised", &tally.raised);
        stage("gate", &tally.gates);
        stage("durable", &tally.durable);
        stage("told", &tally.told);
        stage("confirmed", &tally.confirmed);

        let latch = switch.latch();
        page.put(Family::LatchDurable, &[], flag(switch.is_durable()));
        page.put(Family::LatchWrites, &[("result", "ok")], latch.writes as f64);
        page.put(Family::LatchWrites, &[("result", "failed")], latch.failures as f64);

        let reload = &self.parts.reload;
        page.put(Family::ReloadOk, &[], flag(reload.successful.load(Ordering::Relaxed)));
        page.put(Family::ReloadAt, &[], seconds(reload.succeeded_at.load(Ordering::Relaxed)));
        page.put(Family::Reloads, &[("result", "ok")], reload.succeeded.load(Ordering::Relaxed) as f64);
        page.put(Family::Reloads, &[("result", "failed")], reload.failed.load(Ordering::Relaxed) as f64);
    }

    fn sources(&self, families: &mut Vec<MetricFamily>) {
        let mut dropped = 0;
        for source in &self.parts.sources {
            let samples = source.samples();
            dropped += samples.len().saturating_sub(SOURCE_SERIES_MAX);
            for sample in samples.iter().take(SOURCE_SERIES_MAX) {
                add_sample(families, sample);
            }
        }
        let left_out =
            plain(MetricType::GAUGE, &[("family", "sources")], f64::from(u32::try_from(dropped).unwrap_or(u32::MAX)));
        if let Some(family) = families.iter_mut().find(|f| f.name() == Family::SeriesDropped.name()) {
            family.mut_metric().push(left_out);
        }
    }
}

fn add_sample(families: &mut Vec<MetricFamily>, sample: &Sample) {
    let kind = match sample.kind {
        SampleKind::Counter => MetricType::COUNTER,
        SampleKind::Gauge => MetricType::GAUGE,
    };
    let labels: Vec<(&'static str, &str)> = sample.labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let metric = plain(kind, &labels, sample.value);
    match families.iter_mut().find(|family| family.name() == sample.name) {
        Some(family) => family.mut_metric().push(metric),
        None => families.push(family_of(sample.name, sample.help, kind, vec![metric])),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::{Arc, RwLock};

    use super::*;
    use crate::duty::Clock;
    use crate::engine::published::{Published, ScopeView};
    use crate::kill::board::SessionBoard;
    use crate::kill::page::HaltPage;
    use crate::kill::rearm::RearmPolicy;
    use crate::kill::switch::{Stop, Switch, SwitchParts};
    use crate::kill::testing::{TestClock, universe_of};
    use crate::limits::{Gauge as LimitGauge, LimitTable, MAX_RATES, RateKind, RateLimit, RateOf};
    use crate::metrics::{Metrics, ReloadState, Source};
    use crate::model::Action;
    use crate::units::{InstrumentId, StrategyId};

    struct Lag;
    impl Source for Lag {
        fn samples(&self) -> Vec<Sample> {
            let sample = |value: &str| Sample {
                name: "haltline_receipt_lag_seconds",
                help: "Age of the last event at its receipt.",
                kind: SampleKind::Gauge,
                labels: vec![("transport", value.to_owned())],
                value: 0.25,
            };
            vec![sample("ws"), sample("a\"b\\c\nd")]
        }
    }

    /// Parsed text format: per family its help, type and samples (name with labels → value).
    #[derive(Debug, Default)]
    struct Parsed {
        help: String,
        kind: String,
        samples: BTreeMap<String, f64>,
    }

    fn parse(text: &str) -> BTreeMap<String, Parsed> {
        let mut families: BTreeMap<String, Parsed> = BTreeMap::new();
        let mut current = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                current = name.to_owned();
                assert!(!families.contains_key(name), "{name} comes twice");
                families.entry(current.clone()).or_default().help = help.to_owned();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert_eq!(name, current, "the help comes first");
                families.get_mut(name).unwrap().kind = kind.to_owned();
            } else {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let family = families.get_mut(&current).unwrap();
                assert!(series.starts_with(&current), "{series} under {current}");
                let before = family.samples.insert(series.to_owned(), value.parse().unwrap());
                assert!(before.is_none(), "{series} comes twice");
            }
        }
        families
    }

    struct World {
        switch: Arc<Switch>,
        published: Arc<Published>,
        metrics: Metrics,
        clock: Arc<TestClock>,
    }

    fn world(strategies: usize, instruments: usize, edit: impl FnOnce(&mut LimitTable, &Switch)) -> World {
        let universe = Arc::new(universe_of(strategies, instruments));
        let clock = TestClock::new();
        let (switch, _) = Switch::new(SwitchParts {
            page: Arc::new(HaltPage::new(universe.scope_count(), 1)),
            board: Arc::new(SessionBoard::new(universe.sessions.len())),
            gates: Arc::default(),
            universe: universe.clone(),
            clock: clock.clone(),
            wakers: vec![],
            working: Box::new(|_| None),
            policy: RearmPolicy::default(),
            causes: vec![],
            orphans: vec![],
        });
        switch.page().keep_lease(100_000_000);
        let switch = Arc::new(switch);
        let mut table = LimitTable::unlimited(&universe);
        edit(&mut table, &switch);
        let published = Arc::new(Published::new(&universe));
        published.limits_generation.set(u64::from(table.generation));
        let metrics = Metrics::new(MetricsParts {
            published: published.clone(),
            switch: switch.clone(),
            limits: Arc::new(RwLock::new(Arc::new(table))),
            clock: clock.clone(),
            reload: Arc::new(ReloadState::loaded(1_000_000_000)),
            sources: vec![Arc::new(Lag)],
        })
        .unwrap();
        World { switch, published, metrics, clock }
    }

    #[test]
    fn every_family_has_help_and_type_and_a_good_name() {
        let world = world(2, 2, |_, _| {});
        let text = world.metrics.render();
        let families = parse(&text);
        let mut expected: BTreeSet<&str> = Family::ALL.iter().map(|f| f.name()).collect();
        // There is no limit, so nothing is used of any.
        expected.remove(Family::Utilisation.name());
        expected.insert("haltline_receipt_lag_seconds");
        assert_eq!(families.keys().map(String::as_str).collect::<BTreeSet<_>>(), expected);
        for (name, family) in &families {
            assert!(name.starts_with("haltline_"), "{name}");
            assert!(family.help.len() > 10 && family.help.ends_with('.'), "{name}: {}", family.help);
            assert_eq!(family.kind == "counter", name.ends_with("_total"), "{name} {}", family.kind);
            assert!(!family.samples.is_empty(), "{name}");
        }
    }

    #[test]
    fn numbers_are_those_that_were_published() {
        let world = world(2, 2, |table, switch| {
            let limits = table.edit(switch.universe(), Scope::Strategy(StrategyId(0)));
            limits.max[LimitGauge::Working as usize] = 40;
            let rate = |count| RateLimit {
                of: RateOf::Orders,
                kind: RateKind::Sliding,
                count,
                window_ns: 1,
                action: Action::Deny,
            };
            limits.rates = vec![rate(10), rate(100)];
        });
        let alpha = Scope::Strategy(StrategyId(0));
        let slot = world.switch.universe().slot(alpha).unwrap();
        let mut view = ScopeView { gauges: [0; LimitGauge::COUNT], rates: [0; MAX_RATES], mode: Mode::Normal };
        view.gauges[LimitGauge::Working as usize] = 10;
        view.rates[0] = 5;
        view.rates[1] = 90;
        world.published.show(slot, &view);
        world.published.denied[Rule::Collar as usize].add(3);
        world.published.input_lag_ns.set(1_500_000);
        for ns in [100, 300, 2_000_000_000] {
            world.published.event_latency.record(ns);
        }
        world.switch.board().cell(0).unwrap().set_connected(true);
        world.switch.press(alpha, Stop::Halted, "olga", "x", world.clock.now()).unwrap();
        let before = parse(&world.metrics.render());
        assert_eq!(before["haltline_latch_durable"].samples["haltline_latch_durable"], 0.0);
        assert_eq!(before["haltline_sessions_unconfirmed"].samples["haltline_sessions_unconfirmed"], 1.0);
        world.switch.latch_written(&world.switch.snapshot(), world.clock.now());

        let families = parse(&world.metrics.render());
        let value = |family: &str, series: &str| {
            *families[family].samples.get(series).unwrap_or_else(|| panic!("{series}: {:?}", families[family].samples))
        };
        let ratio = |rule| {
            value(
                "haltline_utilisation_ratio",
                &format!("haltline_utilisation_ratio{{kind=\"strategy\",name=\"alpha\",rule=\"{rule}\"}}"),
            )
        };
        assert_eq!((ratio("working_orders"), ratio("order_rate")), (0.25, 0.9), "the highest of two rates counts");
        assert_eq!(value("haltline_mode", "haltline_mode{kind=\"strategy\",name=\"alpha\"}"), 2.0);
        assert_eq!(value("haltline_mode", "haltline_mode{kind=\"firm\",name=\"\"}"), 0.0);
        assert_eq!(value("haltline_verdicts_total", "haltline_verdicts_total{verdict=\"deny\",rule=\"collar\"}"), 3.0);
        assert_eq!(value("haltline_input_lag_seconds", "haltline_input_lag_seconds"), 0.0015);
        let bucket = |le| {
            value("haltline_event_latency_seconds", &format!("haltline_event_latency_seconds_bucket{{le=\"{le}\"}}"))
        };
        assert_eq!((bucket("0.00000025"), bucket("0.0000005"), bucket("1"), bucket("+Inf")), (1.0, 2.0, 2.0, 3.0));
        assert_eq!(value("haltline_event_latency_seconds", "haltline_event_latency_seconds_count"), 3.0);
        assert_eq!(value("haltline_latch_durable", "haltline_latch_durable"), 1.0);
        assert_eq!(value("haltline_kills_total", "haltline_kills_total"), 1.0);
        let stage = "haltline_kill_stage_seconds_count{stage=\"durable\"}";
        assert_eq!(value("haltline_kill_stage_seconds", stage), 1.0);
    }

    #[test]
    fn series_are_bounded_and_the_most_used_are_kept() {
        let world = world(1_000, 10_000, |table, _| {
            for kind in [ScopeKind::Firm, ScopeKind::Strategy, ScopeKind::Instrument] {
                table.edit_all(kind).max = [1_000; LimitGauge::COUNT];
            }
        });
        let universe = world.switch.universe();
        for slot in 0..universe.scope_count() {
            let mut view = ScopeView { gauges: [100; LimitGauge::COUNT], rates: [0; MAX_RATES], mode: Mode::Normal };
            if universe.scope_at(slot) == Some(Scope::Instrument(InstrumentId(9_999))) {
                view.gauges[LimitGauge::PositionLong as usize] = 999;
            }
            world.published.show(slot, &view);
        }
        for instrument in 0..5_000 {
            let slot = universe.slot(Scope::Instrument(InstrumentId(instrument))).unwrap();
            world.switch.page().raise(slot, Mode::Halted);
        }
        // What this thread computes: how long it waits for a processor is no matter.
        let computed = || {
            let spent = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
            std::time::Duration::new(spent.tv_sec as u64, spent.tv_nsec as u32)
        };
        let start = computed();
        let text = world.metrics.render();
        let took = computed() - start;
        let families = parse(&text);
        let uses = &families["haltline_utilisation_ratio"].samples;
        assert_eq!(uses.len(), UTILISATION_SERIES_MAX);
        let most = "haltline_utilisation_ratio{kind=\"instrument\",name=\"i9999\",rule=\"position_long\"}";
        assert_eq!(uses[most], 0.999);
        let modes = &families["haltline_mode"].samples;
        assert_eq!(modes.len(), MODE_SERIES_MAX);
        assert!(modes.values().all(|mode| *mode == 2.0), "halted scopes are not pushed out by normal ones");
        let dropped = |family: &str| {
            families["haltline_series_dropped"].samples[&format!("haltline_series_dropped{{family=\"{family}\"}}")]
        };
        assert_eq!(dropped("haltline_mode"), (1 + 1 + 1_000 + 3 + 5_000 - MODE_SERIES_MAX) as f64);
        assert!(dropped("haltline_utilisation_ratio") > 10_000.0);
        assert!(text.len() < 1 << 20, "{} bytes", text.len());
        // Far beyond what it takes, so that a slow machine does not matter, and far below what it would take if every series
        // were compared with every other.
        assert!(took.as_secs() < 10, "{took:?}");
    }

    #[test]
    fn labels_are_bounded_and_stay_different() {
        assert_eq!(label("alpha"), "alpha");
        let (a, b) = (label(&("x".repeat(200) + "a")), label(&("x".repeat(200) + "b")));
        assert!(a.len() <= LABEL_MAX && b.len() <= LABEL_MAX);
        assert_ne!(a, b);
        assert_ne!(label("a\nb"), label("a b"));
        assert!(!label("a\nb").contains('\n'));
        assert!(label(&"ä".repeat(200)).len() <= LABEL_MAX);
    }
}
