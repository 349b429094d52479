//! The other side of being far: an instance that has gone silent, or is hardly filled, while those that do the same go on. It is
//! told, and never halts anybody: what sends nothing harms nobody, but its orders may be stuck, or its prices off.
//!
//! Orders and fills are counted over [`QuietOptions::window`], longer than the rates of [`super::peers`]: a rate of some orders
//! a second is nothing in many a second. Who is far below the median of its peers twice in a row is told. Far is in proportion:
//! a part of the median, and further than the peers lie apart among themselves, each as a logarithm, so that two of
//! eight that are silent do not hide each other.
//!
//! What is not told, since it would be told every day of healthy instances:
//!
//! - one that has not yet sent as its peers do in this run: a standby, or one that trades something else;
//! - one that is not connected or may not trade, and anybody while anything but another session is halted;
//! - rejects, of which few are good, and anything of instances without enough peers: alone, silence is a quiet market.
//!
//! No I/O; time is an argument.

use core::time::Duration;

use super::peers::{Counts, Instance, MAD_TO_SIGMA, Measure, median};

/// When silence is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuietOptions {
    /// What is counted over.
    pub window: Duration,
    /// Where the median of its peers is less in a window, nothing is said of an instance.
    pub count_min: u32,
}

impl Default for QuietOptions {
    fn default() -> QuietOptions {
        QuietOptions { window: Duration::from_secs(60), count_min: 100 }
    }
}

/// How far is far, the same for both sides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Far {
    /// A part of the median of so much is far.
    pub factor: u32,
    /// The fewest peers that say anything.
    pub peers_min: usize,
}

/// So many deviations of the peers from their median are far, as logarithms; that it is so twice in a row adds to it.
const DEVIATIONS: f64 = 5.0;
/// So many windows in a row.
const WINDOWS: u32 = 2;
/// What can be far below; rejects cannot.
const MEASURES: [Measure; 2] = [Measure::Orders, Measure::Fills];

/// Whether an instance sends as its peers do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// It was not seen to in this run: nothing is expected of it.
    #[default]
    Unknown,
    /// It does, or nothing can be said at present.
    Usual,
    /// It did, and is far below them.
    Quiet,
}

impl Pace {
    /// Its word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Pace::Unknown => "unknown",
            Pace::Usual => "usual",
            Pace::Quiet => "quiet",
        }
    }
}

/// A change of pace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Turn {
    pub instance: usize,
    pub measure: Measure,
    /// It went quiet, with this many against the median of so many peers, per second; `None`: it is back, or they are quiet too.
    pub quiet: Option<(f64, f64, usize)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct One {
    pace: Pace,
    low: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Quiet {
    options: QuietOptions,
    far: Far,
    ones: Vec<[One; MEASURES.len()]>,
    /// When the window began (mono ns), and the counts then.
    begun: Option<(u64, Vec<Counts>)>,
    /// Who was excused at any time in the window.
    excused: Vec<bool>,
}

impl Quiet {
    pub fn new(options: QuietOptions, far: Far, instances: usize) -> Quiet {
        let ones = vec![[One::default(); MEASURES.len()]; instances];
        Quiet { options, far, ones, begun: None, excused: vec![false; instances] }
    }

    /// How an instance does in `measure`.
    pub fn pace(&self, instance: usize, measure: Measure) -> Pace {
        let place = MEASURES.iter().position(|of| *of == measure);
        let one = place.zip(self.ones.get(instance)).map(|(place, ones)| ones[place]);
        one.map_or(Pace::Unknown, |one| one.pace)
    }

    /// How many are quiet.
    pub fn count(&self) -> u64 {
        self.ones.iter().filter(|ones| ones.iter().any(|one| one.pace == Pace::Quiet)).count() as u64
    }

    /// Looks at the counts of all `instances` at `mono`, ns.
    pub fn sample(&mut self, mono: u64, instances: &[Instance], counts: &[Counts]) -> Vec<Turn> {
        for (excused, counts) in self.excused.iter_mut().zip(counts) {
            *excused |= counts.excused;
        }
        let Some((begun, before)) = &self.begun else {
            self.begin(mono, counts);
            return Vec::new();
        };
        let elapsed = mono.saturating_sub(*begun);
        if elapsed < u64::try_from(self.options.window.as_nanos()).unwrap_or(u64::MAX) {
            return Vec::new();
        }
        // The service stood still, or the host slept: who sent what meanwhile is no question of peers.
        let stood_still = elapsed / 2 >= u64::try_from(self.options.window.as_nanos()).unwrap_or(u64::MAX);
        let mut turns = Vec::new();
        if !stood_still {
            let counted: Vec<[f64; MEASURES.len()]> = counts
                .iter()
                .zip(before)
                .map(|(now, then)| MEASURES.map(|m| m.of(now).saturating_sub(m.of(then)) as f64))
                .collect();
            let per_second = 1e9 / elapsed as f64;
            for instance in 0..counted.len() {
                self.judge(instance, instances, &counted, per_second, &mut turns);
            }
        }
        self.begin(mono, counts);
        turns
    }

    fn begin(&mut self, mono: u64, counts: &[Counts]) {
        self.begun = Some((mono, counts.to_vec()));
        for (excused, counts) in self.excused.iter_mut().zip(counts) {
            *excused = counts.excused;
        }
    }

    fn judge(
        &mut self,
        instance: usize,
        instances: &[Instance],
        counted: &[[f64; MEASURES.len()]],
        per_second: f64,
        turns: &mut Vec<Turn>,
    ) {
        let group = instances[instance].group;
        let is_peer = |other: &usize| *other != instance && instances[*other].group == group && !self.excused[*other];
        let peers: Vec<usize> = (0..counted.len()).filter(is_peer).collect();
        let excused = self.excused[instance];
        for (at, measure) in MEASURES.into_iter().enumerate() {
            let own = counted[instance][at];
            let mut theirs: Vec<f64> = peers.iter().map(|peer| counted[*peer][at]).collect();
            let middle = median(&mut theirs);
            // Nothing can be said of who is excused, nor of anybody while all are quiet.
            let says = !excused && peers.len() >= self.far.peers_min && middle >= f64::from(self.options.count_min);
            let is_far = says && far_below(own, &theirs, middle, self.far);
            // Without orders there are no fills: that is told once.
            let is_low = is_far && (at == 0 || self.ones[instance][0].low == 0);
            let one = &mut self.ones[instance][at];
            if is_low {
                one.low += 1;
                if one.low >= WINDOWS && one.pace == Pace::Usual {
                    one.pace = Pace::Quiet;
                    let quiet = Some((own * per_second, middle * per_second, peers.len()));
                    turns.push(Turn { instance, measure, quiet });
                }
            } else {
                one.low = 0;
                if one.pace == Pace::Quiet {
                    one.pace = Pace::Usual;
                    turns.push(Turn { instance, measure, quiet: None });
                }
                if says && !is_far {
                    one.pace = Pace::Usual;
                }
            }
        }
    }
}

/// Whether `own` is far below `middle`, the median of `theirs`. One more everywhere: nothing has no logarithm.
fn far_below(own: f64, theirs: &[f64], middle: f64, far: Far) -> bool {
    let apart = |count: f64| ((middle + 1.0) / (count + 1.0)).ln();
    let mut spread: Vec<f64> = theirs.iter().map(|count| apart(*count).abs()).collect();
    let spread = median(&mut spread) * MAD_TO_SIGMA * DEVIATIONS;
    apart(own) > f64::from(far.factor).ln().max(spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const FAR: Far = Far { factor: 4, peers_min: 3 };

    struct Run {
        quiet: Quiet,
        instances: Vec<Instance>,
        counts: Vec<Counts>,
        now: u64,
        noise: u64,
        /// Who is not filled.
        unfilled: Option<usize>,
        /// Who is excused for one second of each minute.
        pauses: Option<usize>,
    }

    impl Run {
        fn new(count: usize) -> Run {
            let instances = (0..count).map(|n| Instance { name: format!("gw-{n}"), group: 0 }).collect();
            let quiet = Quiet::new(QuietOptions::default(), FAR, count);
            Run {
                quiet,
                instances,
                counts: vec![Counts::default(); count],
                now: 0,
                noise: 7,
                unfilled: None,
                pauses: None,
            }
        }

        fn below(&mut self, n: u64) -> u64 {
            self.noise = self.noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.noise >> 33) % n
        }

        /// Minutes in which each sends so many orders a minute, up to a third more or less, half of which are filled.
        fn minutes(&mut self, minutes: usize, orders: &[u64]) -> Vec<Turn> {
            let mut turns = Vec::new();
            for _ in 0..minutes * 60 {
                self.now += SECOND;
                if let Some(at) = self.pauses {
                    self.counts[at].excused = self.now / SECOND % 60 == 30;
                }
                for (at, orders) in orders.iter().enumerate() {
                    // In sixtieths, so that little is not nothing.
                    let sent = orders * 2 / 3 + self.below(orders * 2 / 3 + 1);
                    let sent = sent / 60 + u64::from(self.below(60) < sent % 60);
                    self.counts[at].orders += sent;
                    self.counts[at].fills += if self.unfilled == Some(at) { 0 } else { sent.div_ceil(2) };
                }
                turns.extend(self.quiet.sample(self.now, &self.instances, &self.counts));
            }
            turns
        }
    }

    impl Run {
        /// So many seconds in which each sends exactly so many orders, all of them filled, and a look at their end.
        fn exactly(&mut self, seconds: u64, orders: [u64; 4]) -> Vec<Turn> {
            self.now += seconds * SECOND;
            for (at, orders) in orders.into_iter().enumerate() {
                self.counts[at].orders += orders;
                self.counts[at].fills += if self.unfilled == Some(at) { 0 } else { orders };
            }
            self.quiet.sample(self.now, &self.instances, &self.counts)
        }

        /// Four that have begun, and sent two hundred orders each in a window.
        fn of_four() -> Run {
            let mut run = Run::new(4);
            assert_eq!(run.exactly(1, [0; 4]), []);
            assert_eq!(run.exactly(60, [200; 4]), []);
            run
        }
    }

    const NONE_OF_FOUR: [u64; 4] = [0, 200, 200, 200];

    fn quiet_ones(turns: &[Turn]) -> Vec<(usize, Measure)> {
        turns.iter().filter(|turn| turn.quiet.is_some()).map(|turn| (turn.instance, turn.measure)).collect()
    }

    #[test]
    fn one_that_goes_silent_while_its_peers_trade_is_told_once_and_told_to_be_back() {
        let mut run = Run::new(8);
        assert_eq!(run.minutes(10, &[600; 8]), []);
        let mut orders = [600; 8];
        orders[3] = 0;
        let turns = run.minutes(10, &orders);
        assert_eq!(quiet_ones(&turns), [(3, Measure::Orders)], "{turns:?}");
        let (own, middle, peers) = turns[0].quiet.unwrap();
        assert!(own < 1.0 && (5.0..15.0).contains(&middle) && peers == 7, "{turns:?}");
        assert_eq!((run.quiet.count(), run.quiet.pace(3, Measure::Orders)), (1, Pace::Quiet));
        let back = run.minutes(3, &[600; 8]);
        assert_eq!(back, [Turn { instance: 3, measure: Measure::Orders, quiet: None }]);
        assert_eq!(run.quiet.count(), 0);
    }

    #[test]
    fn silence_is_told_at_the_end_of_its_second_window_in_a_row_with_what_it_was() {
        let mut run = Run::of_four();
        assert_eq!(run.exactly(60, NONE_OF_FOUR), [], "one window is none");
        assert_eq!(run.exactly(60, [200; 4]), []);
        assert_eq!(run.exactly(60, NONE_OF_FOUR), [], "nor are two that are not in a row");
        let per_second = 1e9 / 60e9;
        let quiet = Some((30.0 * per_second, 200.0 * per_second, 3));
        assert_eq!(run.exactly(30, [0, 100, 100, 100]), [], "the window is not over");
        assert_eq!(run.exactly(30, [30, 100, 100, 100]), [Turn { instance: 0, measure: Measure::Orders, quiet }]);
        assert_eq!(run.quiet.pace(0, Measure::Rejects), Pace::Unknown, "of those nothing is known");
    }

    #[test]
    fn who_is_quiet_while_its_peers_are_as_well_is_back_once_and_still_told_later() {
        let mut run = Run::of_four();
        let told = [(0, Measure::Orders)];
        assert_eq!(run.exactly(60, NONE_OF_FOUR), []);
        assert_eq!(quiet_ones(&run.exactly(60, NONE_OF_FOUR)), told);
        assert_eq!(run.exactly(60, [0; 4]), [Turn { instance: 0, measure: Measure::Orders, quiet: None }]);
        assert_eq!((run.exactly(60, [0; 4]), run.quiet.pace(0, Measure::Orders)), (vec![], Pace::Usual));
        assert_eq!(run.exactly(60, NONE_OF_FOUR), []);
        assert_eq!(quiet_ones(&run.exactly(60, NONE_OF_FOUR)), told);
    }

    #[test]
    fn nothing_is_expected_of_who_was_not_seen_to_do_it() {
        let begun = || {
            let mut run = Run::new(4);
            assert_eq!(run.exactly(1, [0; 4]), []);
            run
        };
        // A market with few orders shows of nobody how they do.
        let mut run = begun();
        for orders in [[0, 50, 50, 50], NONE_OF_FOUR, NONE_OF_FOUR, NONE_OF_FOUR] {
            assert_eq!(run.exactly(60, orders), []);
        }
        assert_eq!(run.quiet.pace(0, Measure::Orders), Pace::Unknown);
        // Nor does silence show how often somebody is filled.
        let mut run = begun();
        run.unfilled = Some(0);
        for orders in [NONE_OF_FOUR, NONE_OF_FOUR, [200; 4], [200; 4], [200; 4]] {
            assert_eq!(run.exactly(60, orders), []);
        }
    }

    #[test]
    fn a_window_that_took_twice_as_long_says_nothing() {
        for (seconds, told) in [(119, vec![(0, Measure::Orders)]), (120, vec![])] {
            let mut run = Run::of_four();
            assert_eq!(run.exactly(60, NONE_OF_FOUR), []);
            assert_eq!(quiet_ones(&run.exactly(seconds, NONE_OF_FOUR)), told, "{seconds} s");
        }
    }

    #[test]
    fn a_hundred_orders_of_three_peers_are_enough_and_no_fewer_of_either() {
        for (median, told) in [(100, vec![(0, Measure::Orders)]), (99, vec![])] {
            let mut run = Run::of_four();
            assert_eq!(run.exactly(60, [0, median, median, median]), []);
            assert_eq!(quiet_ones(&run.exactly(60, [0, median, median, median])), told, "{median} orders");
        }
        // Who is excused is no peer, whatever it still sends.
        let mut run = Run::of_four();
        run.counts[3].excused = true;
        assert_eq!(run.exactly(60, NONE_OF_FOUR), []);
        assert_eq!(run.exactly(60, NONE_OF_FOUR), []);
        assert_eq!(run.exactly(60, NONE_OF_FOUR), []);
    }

    #[test]
    fn far_is_a_part_of_the_median_and_further_than_peers_lie_apart() {
        // All the same: less than a quarter, one more everywhere.
        assert!(far_below(24.0, &[103.0; 3], 103.0, FAR) && !far_below(25.0, &[103.0; 3], 103.0, FAR));
        // Half and twice the median: five deviations are a 170th.
        let apart = [499.0, 499.0, 999.0, 1_999.0, 1_999.0];
        assert!(far_below(4.0, &apart, 999.0, FAR) && !far_below(5.0, &apart, 999.0, FAR));
    }

    #[test]
    fn two_that_are_silent_do_not_hide_each_other() {
        let mut run = Run::new(8);
        run.minutes(5, &[600; 8]);
        let turns = run.minutes(5, &[600, 0, 600, 600, 600, 600, 0, 600]);
        assert_eq!(quiet_ones(&turns), [(1, Measure::Orders), (6, Measure::Orders)]);
    }

    #[test]
    fn one_that_sends_and_is_hardly_filled_is_told() {
        let mut run = Run::new(6);
        run.minutes(5, &[600; 6]);
        run.unfilled = Some(2);
        let turns = run.minutes(5, &[600; 6]);
        assert_eq!(quiet_ones(&turns), [(2, Measure::Fills)]);
        assert_eq!(run.quiet.pace(2, Measure::Orders), Pace::Usual);
    }

    #[test]
    fn a_standby_a_quiet_market_and_who_may_not_trade_are_not_told() {
        let mut run = Run::new(8);
        let mut orders = [600; 8];
        orders[0] = 0;
        assert_eq!(run.minutes(10, &orders), [], "it has never sent anything");
        assert_eq!(run.minutes(10, &[600; 8]), []);
        // The day ends for all of them; one sends its last order later.
        assert_eq!(run.minutes(10, &[0, 0, 0, 0, 90, 0, 0, 0]), []);
        assert_eq!(run.minutes(10, &[600; 8]), []);
        run.counts[5].excused = true;
        orders = [600; 8];
        orders[5] = 0;
        assert_eq!(run.minutes(10, &orders), []);
        // Excused they are nobody's peers either: of three nothing is said.
        (4..8).for_each(|at| run.counts[at].excused = true);
        run.counts[3].excused = true;
        assert_eq!(run.minutes(10, &[600, 600, 0, 0, 0, 0, 0, 0]), []);
    }

    #[test]
    fn a_window_in_which_one_was_excused_says_nothing_and_those_after_it_do() {
        let mut run = Run::new(8);
        run.minutes(5, &[600; 8]);
        let mut orders = [600; 8];
        orders[3] = 0;
        run.pauses = Some(3);
        assert_eq!(run.minutes(10, &orders), []);
        run.pauses = None;
        run.counts[3].excused = false;
        assert_eq!(quiet_ones(&run.minutes(5, &orders)), [(3, Measure::Orders)]);
    }

    #[test]
    fn a_market_with_few_orders_and_a_group_of_its_own_say_nothing() {
        let mut run = Run::new(8);
        run.minutes(5, &[600; 8]);
        let mut orders = [40; 8];
        orders[3] = 0;
        assert_eq!(run.minutes(10, &orders), []);
        // What half of them do comes to its end, the others go on with theirs.
        let mut run = Run::new(8);
        run.instances[4..].iter_mut().for_each(|instance| instance.group = 1);
        run.minutes(5, &[600; 8]);
        assert_eq!(run.minutes(10, &[600, 600, 600, 600, 0, 0, 0, 0]), []);
    }

    #[test]
    fn what_a_host_that_slept_missed_is_nobodys_silence() {
        let mut run = Run::new(4);
        run.minutes(5, &[600; 4]);
        // One's reports are taken in before those of the others.
        for _ in 0..5 {
            run.now += 600 * SECOND;
            (1..4).for_each(|at| run.counts[at].orders += 6_000);
            assert_eq!(run.quiet.sample(run.now, &run.instances, &run.counts), []);
        }
    }

    #[test]
    fn healthy_ones_with_moods_of_their_own_are_never_quiet_in_days() {
        for seed in 0..10 {
            let mut run = Run::new(8);
            run.noise = seed;
            let mut mood = [300u64; 8];
            let mut turns = Vec::new();
            for _ in 0..24 * 60 {
                // Each is up to three times as busy as another, by itself, and the market has waves.
                let market = 60 + run.below(1_200);
                mood = core::array::from_fn(|at| (mood[at] + market + run.below(market)) / 2);
                turns.extend(run.minutes(1, &mood));
            }
            assert_eq!(turns, [], "seed {seed}");
        }
    }
}
