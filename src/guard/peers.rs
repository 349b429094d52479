//! Instances among their peers: one whose rate of orders, fills or rejects is far above that of the others that do the
//! same, or far above its own at that time of day, is warned about and then halted. Pure: the time is an argument.
//!
//! Two things an instance is held against:
//!
//! - **its peers**: sessions of the same kind and with the same strategies. With at least [`PeerOptions::peers_min`] of
//!   them, their median, and their median absolute deviation for how far they lie apart anyway. The one that runs away is
//!   not among its own peers, so it cannot hide by being large. Who is halted or not connected is nobody's peer: its
//!   rate of nothing would make outliers of those that go on.
//! - **itself**: the highest rate of each half hour of the day, learned over days. Each day moves it by a tenth at most,
//!   and a reference that moves by a hundredth at most remembers where it began: a slow drift is not learned as normal
//!   without being told.
//!
//! Of rejects there is also the share of an instance's own orders, over a longer time: [`super::shares`].
//!
//! Rates below [`PeerOptions::rate_min`] are nobody's concern: a quiet instance that sends ten orders has done nothing. One that
//! goes silent while its peers trade is told and never halted: [`super::quiet`].

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::quiet::{Far, Quiet, QuietOptions};
use super::shares::{Part, ShareOptions, Shares, odds_of, share_of};
use crate::kill::words::rfc3339;

/// What is counted of an instance since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Orders and replaces sent.
    pub orders: u64,
    /// Fills.
    pub fills: u64,
    /// Rejects of the venue.
    pub rejects: u64,
    /// It is not connected, or something is halted that could keep it from trading: its silence says nothing.
    pub excused: bool,
    /// It is not connected, or its own session is halted: it cannot send, so the others are not held against its rate.
    pub away: bool,
}

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Orders and replaces.
    Orders,
    /// Fills.
    Fills,
    /// Rejects.
    Rejects,
    /// Rejects, as a part of the orders that were sent.
    RejectShare,
}

impl Measure {
    /// All.
    pub const ALL: [Measure; 4] = [Measure::Orders, Measure::Fills, Measure::Rejects, Measure::RejectShare];
    /// Those that are rates; they come first.
    pub const RATES: [Measure; 3] = [Measure::Orders, Measure::Fills, Measure::Rejects];

    /// Its word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Measure::Orders => "orders",
            Measure::Fills => "fills",
            Measure::Rejects => "rejects",
            Measure::RejectShare => "reject_share",
        }
    }

    /// What is counted for it.
    pub(super) const fn of(self, counts: &Counts) -> u64 {
        match self {
            Measure::Orders => counts.orders,
            Measure::Fills => counts.fills,
            Measure::Rejects | Measure::RejectShare => counts.rejects,
        }
    }

    /// So much of it, in words; shares are said of odds.
    fn amount(self, value: f64) -> String {
        match self {
            Measure::Orders | Measure::Fills | Measure::Rejects => format!("{value:.1} {} a second", self.name()),
            Measure::RejectShare => format!("{:.1}% of its orders rejected", 100.0 * share_of(value)),
        }
    }

    /// The same without the word for it.
    fn bare(self, value: f64) -> String {
        match self {
            Measure::Orders | Measure::Fills | Measure::Rejects => format!("{value:.1}"),
            Measure::RejectShare => format!("{:.1}%", 100.0 * share_of(value)),
        }
    }
}

/// When an instance is far away. Rates are per second, over [`PeerOptions::window`]; of shares it is the odds that are so many times
/// others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerOptions {
    /// What rates are taken over.
    pub window: Duration,
    /// Lower rates are never too high, per second: orders, fills, rejects.
    pub rate_min: [u32; Measure::RATES.len()],
    /// When shares of rejects are looked at.
    pub share: ShareOptions,
    /// So many times the peers' median is far.
    pub warn_factor: u32,
    /// So many times it is so far that the instance is halted.
    pub halt_factor: u32,
    /// And so many deviations from it, in either case.
    pub deviations: u32,
    /// The fewest peers that say anything.
    pub peers_min: usize,
    /// How long it has to be so. Longer than `window`: a burst is in every rate for that long.
    pub hold: Duration,
    /// Whether an instance is halted at all.
    pub halts: bool,
    /// So many times its own highest rate at that time of day is far.
    pub own_factor: u32,
    /// The fewest days that say anything of a time of day.
    pub days_min: u32,
    /// So many times where it began is a drift.
    pub drift_factor: u32,
    /// When silence is told.
    pub quiet: QuietOptions,
}

impl Default for PeerOptions {
    fn default() -> PeerOptions {
        PeerOptions {
            window: Duration::from_secs(1),
            rate_min: [200, 200, 50],
            share: ShareOptions::default(),
            warn_factor: 4,
            halt_factor: 8,
            deviations: 10,
            peers_min: 3,
            hold: Duration::from_secs(2),
            halts: true,
            own_factor: 5,
            days_min: 3,
            drift_factor: 2,
            quiet: QuietOptions::default(),
        }
    }
}

/// An instance that is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Its session's name.
    pub name: String,
    /// Instances of one group do the same: they are each other's peers.
    pub group: usize,
}

/// What an instance is far away from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Against {
    /// Its peers: so many, with this median and this median absolute deviation.
    Peers {
        /// How many.
        count: usize,
        /// Their median, per second.
        median: f64,
        /// Their median absolute deviation, per second.
        mad: f64,
    },
    /// Itself: its highest rate at this time of day, over so many days.
    Itself {
        /// Per second.
        level: f64,
        /// How many.
        days: u32,
    },
}

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// An instance began to be far away, or so far that it has to be halted.
    Outlier {
        /// Which: its place among the instances.
        instance: usize,
        /// What of it.
        measure: Measure,
        /// How much, per second; of a share its odds.
        rate: f64,
        /// From what.
        against: Against,
        /// It is to be halted.
        halt: bool,
    },
    /// It is back.
    Back {
        /// Which.
        instance: usize,
        /// What of it.
        measure: Measure,
    },
    /// Its usual rate has moved far from where it began, a little every day.
    Drift {
        /// Which.
        instance: usize,
        /// What of it.
        measure: Measure,
        /// The usual rate now, per second.
        level: f64,
        /// Where it began (and has moved to since, slower).
        reference: f64,
    },
    /// It did as its peers, and is far below them now.
    Quiet {
        /// Which.
        instance: usize,
        /// What of it.
        measure: Measure,
        /// How much, per second.
        rate: f64,
        /// The median of its peers, per second.
        median: f64,
        /// How many they are.
        count: usize,
    },
    /// It does as its peers again, or they are quiet as well.
    Resumed {
        /// Which.
        instance: usize,
        /// What of it.
        measure: Measure,
    },
}

/// Half hours of a day.
const BUCKETS: usize = 48;
const BUCKET_NS: u64 = 1_800_000_000_000;
/// The most that a day moves what is usual.
const LEARN_PER_DAY: f64 = 0.1;
/// The most that a day moves the reference.
const REFERENCE_PER_DAY: f64 = 0.01;
/// What a median absolute deviation has to be multiplied by to be a standard deviation of a normal distribution.
pub(super) const MAD_TO_SIGMA: f64 = 1.4826;
/// Peers that all send the same lie so far apart at least, as a part of their median: nobody is that regular.
const SPREAD_MIN: f64 = 0.1;
/// Samples that are kept to take rates over.
const SAMPLES_MAX: usize = 256;

/// What is usual at one time of day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usual {
    /// The highest rate, per second.
    pub level: f64,
    /// Where that began, and has slowly followed since.
    pub reference: f64,
    /// Days that it was learned on.
    pub days: u32,
}

/// What is kept over a restart: by name of the instance, by measure, by half hour of the day (UTC).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SavedPeers {
    /// One for each instance.
    pub instances: Vec<(String, Vec<Vec<Usual>>)>,
}

#[derive(Clone, Debug)]
struct Watch {
    usual: [Usual; BUCKETS],
    /// The highest rate of this half hour so far, outside of alarms.
    highest: f64,
    /// The rate that was last seen.
    rate: f64,
    /// Since when it is far, and since when so far that it has to be halted.
    since: [Option<u64>; 2],
    warned: bool,
    halted: bool,
    drifted: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Peers {
    options: PeerOptions,
    instances: Vec<Instance>,
    watches: Vec<[Watch; Measure::ALL.len()]>,
    /// When each sample was taken (mono ns), and the counts of all instances.
    samples: std::collections::VecDeque<(u64, Vec<Counts>)>,
    /// Half hours since 1970 of the last sample.
    bucket: Option<u64>,
    quiet: Quiet,
    shares: Shares,
    /// Orders and rejects of each instance that its share was last taken of.
    parts: Vec<Part>,
}

/// One rate or share of an instance, and when it is far from what it is held against.
struct Seen {
    instance: usize,
    measure: Measure,
    /// What it is.
    value: f64,
    /// What is held against others, which is no more than that.
    held: f64,
    /// What is never too high, for a warning and for a halt.
    least: [f64; 2],
    /// How long it has to be far, for a warning and for a halt, in ns.
    hold: [u64; 2],
}

impl Peers {
    /// Nothing is known of anybody yet.
    #[must_use]
    pub fn new(options: PeerOptions, instances: Vec<Instance>) -> Peers {
        let watch = Watch {
            usual: [Usual::default(); BUCKETS],
            highest: 0.0,
            rate: 0.0,
            since: [None; 2],
            warned: false,
            halted: false,
            drifted: false,
        };
        let watches = instances.iter().map(|_| core::array::from_fn(|_| watch.clone())).collect();
        let far = Far { factor: options.warn_factor, peers_min: options.peers_min };
        let quiet = Quiet::new(options.quiet.clone(), far, instances.len());
        let (shares, parts) = (Shares::new(&options.share), vec![Part::default(); instances.len()]);
        let samples = std::collections::VecDeque::new();
        Peers { options, instances, watches, samples, bucket: None, quiet, shares, parts }
    }

    /// Goes on from what was saved. Instances are found by their names; what is not a rate is left out.
    pub fn restore(&mut self, saved: &SavedPeers) {
        for (name, measures) in &saved.instances {
            let Some(at) = self.instances.iter().position(|instance| instance.name == *name) else { continue };
            for (watch, usual) in self.watches[at].iter_mut().zip(measures) {
                for (place, usual) in watch.usual.iter_mut().zip(usual) {
                    if usual.level.is_finite() && usual.reference.is_finite() && usual.level >= 0.0 {
                        *place = *usual;
                    }
                }
            }
        }
    }

    /// What is kept over a restart.
    #[must_use]
    pub fn saved(&self) -> SavedPeers {
        let of = |(instance, watches): (&Instance, &[Watch; Measure::ALL.len()])| {
            (instance.name.clone(), watches.iter().map(|watch| watch.usual.to_vec()).collect())
        };
        SavedPeers { instances: self.instances.iter().zip(&self.watches).map(of).collect() }
    }

    /// The instances, in the order of their counts.
    #[must_use]
    pub fn instances(&self) -> &[Instance] {
        &self.instances
    }

    /// Looks at the counts of all instances as they are at `mono` and `unix`, ns.
    pub fn sample(&mut self, mono: u64, unix: u64, counts: &[Counts]) -> Vec<Found> {
        let mut found = Vec::new();
        if counts.len() != self.instances.len() {
            return found;
        }
        self.turn_over(unix / BUCKET_NS, &mut found);
        for turn in self.quiet.sample(mono, &self.instances, counts) {
            let (instance, measure) = (turn.instance, turn.measure);
            found.push(match turn.quiet {
                Some((rate, median, count)) => Found::Quiet { instance, measure, rate, median, count },
                None => Found::Resumed { instance, measure },
            });
        }
        self.look_at_shares(mono, unix, counts, &mut found);
        let window = nanos(self.options.window).max(1);
        self.samples.push_back((mono, counts.to_vec()));
        // The newest sample that is at least a window old stays: rates are taken from it.
        while self.samples.len() > SAMPLES_MAX
            || self.samples.get(1).is_some_and(|s| mono.saturating_sub(s.0) >= window)
        {
            self.samples.pop_front();
        }
        let Some((since, before)) = self.samples.front() else { return found };
        let elapsed = mono.saturating_sub(*since);
        if elapsed < window {
            return found;
        }
        let all_rates = Measure::RATES.map(|measure| -> Vec<f64> {
            let per_second = |(now, then): (&Counts, &Counts)| {
                measure.of(now).saturating_sub(measure.of(then)) as f64 * 1e9 / elapsed as f64
            };
            counts.iter().zip(before).map(per_second).collect()
        });
        let away: Vec<bool> = counts.iter().zip(before).map(|(now, then)| now.away || then.away).collect();
        let hold = [nanos(self.options.hold); 2];
        for (measure, rates) in Measure::RATES.into_iter().zip(&all_rates) {
            let least = [f64::from(self.options.rate_min[measure as usize]); 2];
            for (instance, value) in rates.iter().copied().enumerate() {
                let against = self.against((instance, measure), rates, &away, unix);
                self.judge(&Seen { instance, measure, value, held: value, least, hold }, &against, mono, &mut found);
            }
        }
        found
    }

    /// Holds the share of rejects of each against those of the others.
    fn look_at_shares(&mut self, mono: u64, unix: u64, counts: &[Counts], found: &mut Vec<Found>) {
        let parts = self.shares.sample(mono, counts);
        let odds: Vec<f64> = parts.iter().map(|part| part.odds_as_peer()).collect();
        let silent: Vec<bool> =
            parts.iter().zip(counts).map(|(part, counts)| counts.away || part.orders == 0).collect();
        let ShareOptions { window, rejects_min, .. } = self.options.share;
        let (hold, least) = (nanos(self.options.hold), self.options.share.least());
        // A burst of rejects is in every count for as long as the window.
        let hold = [hold, hold.max(nanos(window)).saturating_add(1)];
        let measure = Measure::RejectShare;
        for (instance, part) in parts.iter().enumerate() {
            let held = if part.rejects < u64::from(rejects_min) { 0.0 } else { part.lowest_odds() };
            let against = self.against((instance, measure), &odds, &silent, unix);
            let value = odds_of(part.share());
            self.judge(&Seen { instance, measure, value, held, least, hold }, &against, mono, found);
        }
        self.parts = parts;
    }

    /// A person has let an instance trade again: what it does is looked at anew, and if it is still far it is halted again.
    pub fn rearmed(&mut self, instance: usize) {
        for watch in self.watches.get_mut(instance).into_iter().flatten() {
            watch.since = [None; 2];
            watch.halted = false;
        }
    }

    /// Instances that are far away, and those of them that were halted for it.
    #[must_use]
    pub fn far(&self) -> (u64, u64) {
        let count = |is: fn(&Watch) -> bool| self.watches.iter().filter(|all| all.iter().any(is)).count() as u64;
        (count(|watch| watch.warned), count(|watch| watch.halted))
    }

    /// Instances that are far below their peers.
    #[must_use]
    pub fn quiet(&self) -> u64 {
        self.quiet.count()
    }

    /// What `GET /v1/peers` shows.
    #[must_use]
    pub fn to_json(&self, unix: u64) -> Value {
        let place = (unix / BUCKET_NS) as usize % BUCKETS;
        let round = |rate: f64| (rate * 100.0).round() / 100.0;
        let measure = |at: usize, measure: Measure, watch: &Watch| {
            let usual = watch.usual[place];
            let value = json!({
                "per_second": round(watch.rate), "usual": round(usual.level), "began_at": round(usual.reference),
                "days": usual.days, "far": watch.warned, "halted": watch.halted, "drifted": watch.drifted,
                "pace": self.quiet.pace(at, measure).name(),
            });
            (measure.name().to_owned(), value)
        };
        let percent = |odds: f64| round(100.0 * share_of(odds));
        let share = |part: &Part, watch: &Watch| {
            let usual = watch.usual[place];
            json!({
                "percent": round(100.0 * part.share()), "orders": part.orders, "rejects": part.rejects,
                "usual_percent": percent(usual.level), "began_at_percent": percent(usual.reference), "days": usual.days,
                "far": watch.warned, "halted": watch.halted, "drifted": watch.drifted,
            })
        };
        let one = |(at, instance): (usize, &Instance)| {
            let all = Measure::RATES.iter().zip(&self.watches[at]);
            let measures = all.map(|(of, watch)| measure(at, *of, watch)).collect::<serde_json::Map<_, _>>();
            let peers = self.instances.iter().filter(|i| i.group == instance.group && i.name != instance.name);
            json!({ "session": instance.name, "peers": peers.map(|p| &p.name).collect::<Vec<_>>(), "rates": measures,
                "reject_share": share(&self.parts[at], &self.watches[at][Measure::RejectShare as usize]) })
        };
        json!({
            "at": rfc3339(unix),
            "window_ms": u64::try_from(self.options.window.as_millis()).unwrap_or(u64::MAX),
            "quiet_window_ms": u64::try_from(self.options.quiet.window.as_millis()).unwrap_or(u64::MAX),
            "share_window_ms": u64::try_from(self.options.share.window.as_millis()).unwrap_or(u64::MAX),
            "instances": self.instances.iter().enumerate().map(one).collect::<Vec<_>>(),
        })
    }

    /// What the rate of an instance in a measure is held against: bounds for a warning and for a halt, and of what. `away`:
    /// who was so at either end of the window.
    fn against(
        &self,
        (instance, measure): (usize, Measure),
        rates: &[f64],
        away: &[bool],
        unix: u64,
    ) -> Vec<(f64, f64, Against)> {
        let options = &self.options;
        let mut all = Vec::new();
        let group = self.instances[instance].group;
        let mut peers: Vec<f64> = (0..rates.len())
            .filter(|other| *other != instance && self.instances[*other].group == group && !away[*other])
            .map(|other| rates[other])
            .collect();
        if peers.len() >= options.peers_min {
            let median = median(&mut peers);
            let mut apart: Vec<f64> = peers.iter().map(|rate| (rate - median).abs()).collect();
            let mad = self::median(&mut apart);
            let spread = (mad * MAD_TO_SIGMA).max(median * SPREAD_MIN);
            let deviates = median + f64::from(options.deviations) * spread;
            let bound = |factor: u32| (median * f64::from(factor)).max(deviates);
            let peers = Against::Peers { count: peers.len(), median, mad };
            all.push((bound(options.warn_factor), bound(options.halt_factor), peers));
        }
        let usual = self.watches[instance][measure as usize].usual[(unix / BUCKET_NS) as usize % BUCKETS];
        if usual.days >= options.days_min {
            let warn = usual.level * f64::from(options.own_factor);
            // Its own past alone warns twice as early as it halts.
            all.push((warn, 2.0 * warn, Against::Itself { level: usual.level, days: usual.days }));
        }
        all
    }

    fn judge(&mut self, seen: &Seen, against: &[(f64, f64, Against)], mono: u64, found: &mut Vec<Found>) {
        let Seen { instance, measure, value: rate, held, least, hold } = *seen;
        let halts = self.options.halts;
        let watch = &mut self.watches[instance][measure as usize];
        watch.rate = rate;
        let beyond = |step: usize| {
            let is = |(warn, stop, _): &&(f64, f64, Against)| held > least[step] && held > [*warn, *stop][step];
            against.iter().find(is).map(|(.., against)| *against)
        };
        let mut long = [None; 2];
        for (step, since) in watch.since.iter_mut().enumerate() {
            let far = beyond(step);
            *since = far.and(Some(since.unwrap_or(mono)));
            long[step] = far.filter(|_| since.is_some_and(|since| mono.saturating_sub(since) >= hold[step]));
        }
        if watch.since[0].is_none() {
            // What is far is not usual: the highest is only learned of what is not.
            watch.highest = watch.highest.max(held);
            watch.halted = false;
            if core::mem::take(&mut watch.warned) {
                found.push(Found::Back { instance, measure });
            }
        }
        if let Some(against) = long[1].filter(|_| halts && !watch.halted) {
            (watch.warned, watch.halted) = (true, true);
            found.push(Found::Outlier { instance, measure, rate, against, halt: true });
        } else if let Some(against) = long[0].filter(|_| !watch.warned) {
            watch.warned = true;
            found.push(Found::Outlier { instance, measure, rate, against, halt: false });
        }
    }

    /// Learns from the half hour that is over.
    fn turn_over(&mut self, bucket: u64, found: &mut Vec<Found>) {
        let before = self.bucket.replace(bucket);
        let Some(before) = before.filter(|before| *before != bucket) else { return };
        let place = before as usize % BUCKETS;
        for (instance, watches) in self.watches.iter_mut().enumerate() {
            for (measure, watch) in Measure::ALL.into_iter().zip(watches) {
                let highest = core::mem::take(&mut watch.highest);
                let usual = &mut watch.usual[place];
                // A half hour without anything says nothing of those with something.
                if highest == 0.0 {
                    continue;
                }
                if usual.days < self.options.days_min.max(1) {
                    // The first days only begin: what they have in common is their highest.
                    usual.level = usual.level.max(highest);
                    usual.reference = usual.level;
                } else {
                    usual.level +=
                        (highest - usual.level).clamp(-LEARN_PER_DAY * usual.level, LEARN_PER_DAY * usual.level);
                    let most = REFERENCE_PER_DAY * usual.reference;
                    usual.reference += (usual.level - usual.reference).clamp(-most, most);
                }
                usual.days = usual.days.saturating_add(1);
                // Few rejects more are many times as few.
                let little = match measure {
                    Measure::Orders | Measure::Fills | Measure::Rejects => 0.0,
                    Measure::RejectShare => self.options.share.least()[0],
                };
                let far = usual.level > (usual.reference * f64::from(self.options.drift_factor)).max(little);
                if far && !watch.drifted {
                    let (level, reference) = (usual.level, usual.reference);
                    found.push(Found::Drift { instance, measure, level, reference });
                }
                watch.drifted = far;
            }
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The middle of `values`, or between the two in the middle; 0 of none.
pub(super) fn median(values: &mut [f64]) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len() % 2 == 1 { values[half] } else { f64::midpoint(values[half - 1], values[half]) }
}

impl Found {
    /// In words, with the numbers; `names` of the instances.
    #[must_use]
    pub fn text(&self, instances: &[Instance]) -> String {
        let name = |at: &usize| instances.get(*at).map_or("?", |instance| instance.name.as_str());
        match self {
            Found::Outlier { instance, measure, rate, against, .. } => {
                let of = match against {
                    Against::Peers { count, median, mad } => {
                        let (median, mad) = (measure.bare(*median), measure.bare(*mad));
                        format!("{count} peers have {median} (median; deviation {mad})")
                    }
                    Against::Itself { level, days } => {
                        let level = measure.bare(*level);
                        format!("at this time of day it had at most {level} on {days} days")
                    }
                };
                format!("session {} has {}; {of}", name(instance), measure.amount(*rate))
            }
            Found::Back { instance, measure } => {
                format!("session {} is back among its peers in {}", name(instance), measure.name().replace('_', " "))
            }
            Found::Drift { instance, measure, level, reference } => format!(
                "session {} has drifted: usually {} at this time of day, {} where it began",
                name(instance),
                measure.amount(*level),
                measure.bare(*reference)
            ),
            Found::Quiet { instance, measure, rate, median, count } => format!(
                "session {} has {rate:.1} {} a second, and did as its peers before; {count} peers have {median:.1} (median)",
                name(instance),
                measure.name()
            ),
            Found::Resumed { instance, measure } => {
                format!("session {} is no longer far below its peers in {}", name(instance), measure.name())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const SECOND: u64 = 1_000 * MS;
    const DAY: u64 = 86_400 * SECOND;
    /// 14:00 UTC of some day.
    const MORNING: u64 = 20_000 * DAY + 14 * 3_600 * SECOND;

    fn peers(count: usize, options: PeerOptions) -> Peers {
        let instance = |n| Instance { name: format!("gw-{n}"), group: 0 };
        Peers::new(options, (0..count).map(instance).collect())
    }

    /// Numbers that look random, the same in every run.
    struct Noise(u64);

    impl Noise {
        fn below(&mut self, n: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % n
        }
    }

    struct Run {
        peers: Peers,
        counts: Vec<Counts>,
        noise: Noise,
        now: u64,
    }

    impl Run {
        fn new(count: usize, options: PeerOptions) -> Run {
            Run { peers: peers(count, options), counts: vec![Counts::default(); count], noise: Noise(7), now: MORNING }
        }

        /// A quarter of a second in which each sends its rate, up to half more or less. What was found.
        fn quarter(&mut self, rates: &[u64]) -> Vec<Found> {
            self.now += 250 * MS;
            for (counts, rate) in self.counts.iter_mut().zip(rates) {
                let orders = rate / 8 + self.noise.below(rate / 4 + 1);
                counts.orders += orders;
                counts.fills += orders / 2;
            }
            self.peers.sample(self.now, self.now, &self.counts)
        }

        fn seconds(&mut self, seconds: usize, rates: &[u64]) -> Vec<Found> {
            (0..4 * seconds).flat_map(|_| self.quarter(rates)).collect()
        }
    }

    #[test]
    fn the_eighth_of_eight_is_warned_about_and_halted_within_seconds_and_no_other() {
        let mut run = Run::new(8, PeerOptions::default());
        assert_eq!(run.seconds(60, &[100; 8]), []);
        let mut rates = [100; 8];
        rates[7] = 1_500;
        let found = run.seconds(4, &rates);
        let halt = found.iter().find(|f| matches!(f, Found::Outlier { halt: true, .. }));
        let Some(Found::Outlier { instance: 7, measure: Measure::Orders, rate, against, .. }) = halt else {
            panic!("{found:?}")
        };
        assert!(*rate > 200.0 && matches!(against, Against::Peers { count: 7, .. }));
        assert!(found.iter().all(|f| matches!(f, Found::Outlier { instance: 7, .. })), "{found:?}");
        let text = found[0].text(run.peers.instances());
        assert!(text.contains("session gw-7 has") && text.contains("7 peers have"), "{text}");
        // Let on while it still runs away, it is halted again.
        run.peers.rearmed(7);
        let again = run.seconds(4, &rates);
        assert!(again.iter().any(|f| matches!(f, Found::Outlier { instance: 7, halt: true, .. })), "{again:?}");
        // Otherwise it is said once; then that it is back.
        assert!(run.seconds(5, &rates).iter().all(|f| !matches!(f, Found::Outlier { measure: Measure::Orders, .. })));
        let back = run.seconds(5, &[100; 8]);
        assert!(back.contains(&Found::Back { instance: 7, measure: Measure::Orders }), "{back:?}");
    }

    #[test]
    fn a_burst_a_quiet_instance_and_a_busy_market_are_no_outliers() {
        let mut run = Run::new(8, PeerOptions::default());
        assert_eq!(run.seconds(30, &[100; 8]), []);
        // Half a second of everything.
        let mut burst = [100; 8];
        burst[3] = 2_000;
        assert_eq!(run.quarter(&burst), []);
        assert_eq!(run.seconds(10, &[100; 8]), []);
        // All of them ten times as busy.
        assert_eq!(run.seconds(30, &[1_000; 8]), []);
        // One that wakes among those that sleep, below what is anybody's concern.
        let mut lone = [0; 8];
        lone[2] = 120;
        assert_eq!(run.seconds(30, &lone), []);
    }

    #[test]
    fn eight_healthy_ones_with_waves_of_their_own_are_never_far_in_six_hours() {
        let mut run = Run::new(8, PeerOptions::default());
        let mut found = Vec::new();
        let mut mood = [100u64; 8];
        for quarter in 0..6 * 3_600 * 4 {
            if quarter % 40 == 0 {
                // Every ten seconds each is up to three times as busy, by itself.
                mood = core::array::from_fn(|_| 100 + run.noise.below(200));
            }
            found.extend(run.quarter(&mood));
        }
        assert_eq!(found, []);
    }

    impl Run {
        /// A quarter of a second in which each sends an order if `sends` says so of it, and has it rejected if it says that.
        fn single(&mut self, mut sends: impl FnMut(&mut Noise, usize) -> (bool, bool)) -> Vec<Found> {
            self.now += 250 * MS;
            for (instance, counts) in self.counts.iter_mut().enumerate() {
                let (order, rejected) = sends(&mut self.noise, instance);
                counts.orders += u64::from(order);
                counts.rejects += u64::from(order && rejected);
                counts.fills += u64::from(order && !rejected);
            }
            self.peers.sample(self.now, self.now, &self.counts)
        }
    }

    #[test]
    fn one_whose_few_orders_are_all_rejected_is_warned_about_and_halted_if_that_goes_on() {
        let mut run = Run::new(8, PeerOptions::default());
        // One order in four seconds each; of the others one in fifty is rejected.
        let go_on = |run: &mut Run, seconds: u64, all: bool| -> Vec<Found> {
            let step =
                |noise: &mut Noise, instance| (noise.below(16) == 0, (all && instance == 7) || noise.below(50) == 0);
            (0..4 * seconds).flat_map(|_| run.single(step)).collect()
        };
        assert_eq!(go_on(&mut run, 600, false), []);
        let found = go_on(&mut run, 60, true);
        let [Found::Outlier { instance: 7, measure: Measure::RejectShare, halt: false, .. }] = found[..] else {
            panic!("{found:?}")
        };
        let text = found[0].text(run.peers.instances());
        assert!(text.contains("of its orders rejected; 7 peers have"), "{text}");
        let found = go_on(&mut run, 120, true);
        assert!(
            matches!(found[..], [Found::Outlier { instance: 7, measure: Measure::RejectShare, halt: true, .. }]),
            "{found:?}"
        );
        let shown = run.peers.to_json(run.now);
        let share = &shown["instances"][7]["reject_share"];
        assert_eq!((&share["percent"], &share["halted"]), (&json!(100.0), &json!(true)), "{share}");
        // Put right, it is back within the window.
        let back = go_on(&mut run, 120, false);
        assert_eq!(back, [Found::Back { instance: 7, measure: Measure::RejectShare }]);
    }

    #[test]
    fn a_burst_of_rejects_halts_nobody_and_one_that_hits_all_is_nobodys() {
        let mut run = Run::new(8, PeerOptions::default());
        let steady = |run: &mut Run, quarters: u64| -> Vec<Found> {
            (0..quarters).flat_map(|_| run.single(|noise, _| (noise.below(4) == 0, false))).collect()
        };
        assert_eq!(steady(&mut run, 400), []);
        // An instrument closes: one has forty orders rejected in ten seconds and goes on with others.
        let mut found: Vec<Found> = (0..40).flat_map(|_| run.single(|_, instance| (true, instance == 3))).collect();
        found.extend(steady(&mut run, 1_000));
        assert!(found.iter().all(|f| !matches!(f, Found::Outlier { halt: true, .. })), "{found:?}");
        // The venue closes: everybody's are rejected, for minutes.
        let found: Vec<Found> = (0..1_000).flat_map(|_| run.single(|noise, _| (noise.below(4) == 0, true))).collect();
        assert_eq!(found, []);
    }

    #[test]
    fn healthy_ones_with_rejects_now_and_then_are_never_far_whatever_they_send() {
        // One order in so many quarters of a second, and one reject in so many orders.
        for (order, reject) in [(1, 5), (2, 10), (8, 20), (40, 10), (120, 5), (240, 3)] {
            let mut run = Run::new(8, PeerOptions::default());
            // One of them is ten times as busy as the others, one sends nothing.
            let step = |noise: &mut Noise, instance: usize| {
                let one_in = if instance == 0 { (order / 10).max(1) } else { order };
                (instance != 7 && noise.below(one_in) == 0, noise.below(reject) == 0)
            };
            let found: Vec<Found> = (0..3_600 * 4).flat_map(|_| run.single(step)).collect();
            assert_eq!(found, [], "one order in {order}, one reject in {reject}");
        }
    }

    #[test]
    fn too_few_rejects_and_too_few_peers_with_orders_say_nothing() {
        let mut run = Run::new(8, PeerOptions::default());
        let few = |noise: &mut Noise, instance: usize| (noise.below(80) == 0, instance == 7);
        // Three in a minute, all rejected.
        let found: Vec<Found> = (0..240).flat_map(|_| run.single(few)).collect();
        assert!(run.counts[7].rejects < 5 && found.is_empty(), "{found:?}");
        // Two peers with orders are too few, whatever the silent ones would seem to have.
        let mut run = Run::new(8, PeerOptions::default());
        let found: Vec<Found> = (0..1_000).flat_map(|_| run.single(|_, at| (at > 4, at == 7))).collect();
        assert!(found.iter().all(|f| !matches!(f, Found::Outlier { measure: Measure::RejectShare, .. })), "{found:?}");
    }

    #[test]
    fn two_are_too_few_to_be_peers_and_other_groups_are_none() {
        let mut run = Run::new(2, PeerOptions::default());
        assert_eq!(run.seconds(30, &[50, 5_000]), []);
        let instance = |n: usize| Instance { name: format!("gw-{n}"), group: n % 2 };
        let mut run = Run::new(8, PeerOptions::default());
        run.peers = Peers::new(PeerOptions::default(), (0..8).map(instance).collect());
        // The odd ones are all busy: they are each other's peers.
        assert_eq!(run.seconds(30, &[50, 2_000, 50, 2_000, 50, 2_000, 50, 2_000]), []);
    }

    #[test]
    fn who_is_away_is_nobodys_peer_and_those_that_go_on_are_no_outliers() {
        let mut run = Run::new(8, PeerOptions::default());
        assert_eq!(run.seconds(10, &[500; 8]), []);
        // Five of eight are halted: of the three that go on each has two peers, which are too few.
        let mut rates = [0; 8];
        rates[5..].fill(500);
        run.counts[..5].iter_mut().for_each(|counts| counts.away = true);
        assert_eq!(run.seconds(10, &rates), []);
        // They are back, and send as before: in the first second after it their rate is still that of one who is away.
        run.counts.iter_mut().for_each(|counts| counts.away = false);
        assert_eq!(run.seconds(10, &[500; 8]), []);
        // Three peers that are there are enough.
        run.counts[..4].iter_mut().for_each(|counts| counts.away = true);
        let found = run.seconds(6, &[0, 0, 0, 0, 50, 50, 50, 5_000]);
        let halt = found.iter().find(|f| matches!(f, Found::Outlier { halt: true, .. }));
        assert!(
            matches!(halt, Some(Found::Outlier { instance: 7, against: Against::Peers { count: 3, .. }, .. })),
            "{found:?}"
        );
    }

    /// Goes through `days` mornings of which each lasts some seconds with the rate that `rate` says.
    fn mornings(run: &mut Run, days: u64, rate: impl Fn(u64) -> u64) -> Vec<(u64, Found)> {
        let mut found = Vec::new();
        for day in 0..days {
            run.now = MORNING + day * DAY;
            found.extend(run.seconds(10, &[rate(day)]).into_iter().map(|f| (day, f)));
            run.now = MORNING + day * DAY + 3_600 * SECOND;
            found.extend(run.quarter(&[0]).into_iter().map(|f| (day, f)));
        }
        found
    }

    #[test]
    fn one_without_peers_is_held_against_its_own_mornings() {
        let mut run = Run::new(1, PeerOptions::default());
        assert_eq!(mornings(&mut run, 5, |_| 100), []);
        let saved = serde_json::to_string(&run.peers.saved()).unwrap();
        let mut next = Run::new(1, PeerOptions::default());
        next.peers.restore(&serde_json::from_str(&saved).unwrap());
        next.now = MORNING + 6 * DAY;
        let found = next.seconds(10, &[1_500]);
        assert!(matches!(found[0], Found::Outlier { against: Against::Itself { days: 5, .. }, .. }), "{found:?}");
        assert!(found.iter().any(|f| matches!(f, Found::Outlier { halt: true, .. })), "{found:?}");
        // In the afternoon nothing is known of it.
        let mut other = Run::new(1, PeerOptions::default());
        other.peers.restore(&serde_json::from_str(&saved).unwrap());
        other.now = MORNING + 6 * DAY + 5 * 3_600 * SECOND;
        assert_eq!(other.seconds(10, &[1_500]), []);
    }

    #[test]
    fn a_past_of_too_few_days_says_nothing_and_one_of_enough_warns_before_it_halts() {
        for (days, rate, said) in [(2, 3_000, vec![]), (3, 1_000, vec![false]), (3, 3_000, vec![true])] {
            let mut run = Run::new(1, PeerOptions::default());
            assert_eq!(mornings(&mut run, days, |_| 100), []);
            run.now = MORNING + days * DAY;
            let found = run.seconds(10, &[rate]);
            let orders = found.iter().filter_map(|found| match found {
                Found::Outlier { measure: Measure::Orders, halt, .. } => Some(*halt),
                _ => None,
            });
            assert_eq!(orders.collect::<Vec<_>>(), said, "{rate} after {days} days: {found:?}");
        }
    }

    #[test]
    fn peers_that_lie_far_apart_make_nobody_far_who_has_a_few_times_their_median() {
        let mut run = Run::new(8, PeerOptions::default());
        assert_eq!(run.seconds(60, &[50, 100, 300, 400, 900, 1_600, 2_000, 2_400]), []);
    }

    #[test]
    fn a_slow_drift_is_not_learned_as_normal_without_being_told() {
        let mut run = Run::new(1, PeerOptions::default());
        // Five percent more every day: after a month more than four times as much.
        let found = mornings(&mut run, 30, |day| (200.0 * 1.05f64.powi(day as i32)) as u64);
        let drift = found.iter().find(|(_, f)| matches!(f, Found::Drift { measure: Measure::Orders, .. }));
        let Some((day, Found::Drift { level, reference, .. })) = drift else { panic!("{found:?}") };
        assert!((10..30).contains(day) && level > &(2.0 * reference), "day {day}: {level} of {reference}");
        // One wild day moves it by a tenth.
        let mut run = Run::new(1, PeerOptions { own_factor: 1_000, ..PeerOptions::default() });
        mornings(&mut run, 10, |day| if day == 8 { 5_000 } else { 200 });
        let place = (MORNING / BUCKET_NS) as usize % BUCKETS;
        let usual = run.peers.watches[0][0].usual[place];
        assert!(usual.level < 350.0, "{usual:?}");
    }

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!((median(&mut []), median(&mut [3.0]), median(&mut [4.0, 1.0])), (0.0, 3.0, 2.5));
        assert_eq!(median(&mut [9.0, 1.0, 5.0]), 5.0);
    }
}
