//! The morning of 1 August 2012 as seeded streams of orders: no file, nothing kept but the present moment.
//!
//! What happened around the orders is in [`super::morning::story`].
//!
//! Sourced (SEC Release 34-70694, paragraphs 14 to 19, 21 and 23): eight servers of which one ran the old
//! code, 212 parent orders received before the open, 154 symbols of which 80 ended net long and 74 net
//! short, 4,000,000 executions of 397,000,000 shares in about 45 minutes. Assumed (the release does not
//! say): each symbol's price, the parents' quantities, an even rate, one execution per child order, and
//! what the healthy instances did. Prices lie between $5 and $80 and average near the $16.75 a share
//! that the release's totals come to ($3.5bn long, $3.15bn short, 397,000,000 shares).
//!
//! All times are nanoseconds of scenario time since the open.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::model::Side;

/// Symbols traded, called `S000` to `S153`.
pub const SYMBOLS: usize = 154;
/// The first so many symbols are bought by the old code, the rest sold.
pub const LONG_SYMBOLS: usize = 80;
/// Parent orders that the bad instance received before the open.
pub const PARENTS: usize = 212;
/// Child orders of the whole morning, each executed once.
pub const CHILDREN: u64 = 4_000_000;
/// Shares of all those executions together.
pub const SHARES: u64 = 397_000_000;
/// How long it went on.
pub const MORNING_NS: u64 = 2_700_000_000_000;
/// From a child's admission to its execution.
pub const FILL_AFTER_NS: u64 = 400_000;
/// Healthy gateway instances.
pub const HEALTHY: usize = 7;
/// What the firm lost, in dollars, at least ("over $440 million").
pub const REAL_LOSS_USD: i64 = 440_000_000;
/// The position that it was left with, in dollars: about $3.5bn long and $3.15bn short.
pub const REAL_GROSS_USD: i64 = 6_650_000_000;

const SECOND_NS: u64 = 1_000_000_000;

/// The name of symbol `symbol`.
#[must_use]
pub fn symbol_name(symbol: usize) -> String {
    format!("S{symbol:03}")
}

/// Which stream of random numbers belongs to whom: the streams of one seed are independent.
#[derive(Clone, Copy)]
enum Stream {
    Market,
    Parents,
    Healthy(usize),
}

fn rng(seed: u64, stream: Stream) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(match stream {
        Stream::Market => 0,
        Stream::Parents => 1,
        Stream::Healthy(i) => 2 + i as u64,
    });
    rng
}

/// A number below `n`; `n` must be positive.
fn below(rng: &mut ChaCha8Rng, n: u32) -> u32 {
    ((u64::from(rng.next_u32()) * u64::from(n)) >> 32) as u32
}

/// The reference prices of all symbols: a small random walk with one step a second.
///
/// Two markets with the same seed show the same prices at the same scenario time, however often they
/// are asked; so every simulated gateway carries its own.
#[derive(Clone, Debug)]
pub struct Market {
    rng: ChaCha8Rng,
    /// In hundredths of a cent.
    px: Vec<i64>,
    second: u64,
}

impl Market {
    /// Prices at the open.
    #[must_use]
    pub fn new(seed: u64) -> Market {
        let mut rng = rng(seed, Stream::Market);
        // Every symbol gets a rank of its own, so that the average price is nearly the same for every seed.
        let mut ranks: Vec<u64> = (0..SYMBOLS as u64).collect();
        for i in (1..ranks.len()).rev() {
            ranks.swap(i, below(&mut rng, i as u32 + 1) as usize);
        }
        // $5 + $75 × u^5 with u evenly spread: many cheap shares, few dear ones, $17.50 on average.
        let px = ranks
            .iter()
            .map(|&rank| {
                let permille = (rank * 1000 + u64::from(below(&mut rng, 1000))) / SYMBOLS as u64;
                let cents = 500 + 7_500 * permille.pow(5) / 1000u64.pow(5);
                cents as i64 * 100
            })
            .collect();
        Market { rng, px, second: 0 }
    }

    /// Lets the prices move on to scenario time `at_ns`; a time in the past changes nothing.
    pub fn advance(&mut self, at_ns: u64) {
        while self.second < at_ns / SECOND_NS {
            self.second += 1;
            for px in &mut self.px {
                // At most 2 basis points a second, either way.
                let bound = (*px / 5_000).max(1);
                *px += i64::from(below(&mut self.rng, 2 * bound as u32 + 1)) - bound;
                *px = (*px).max(10_000);
            }
        }
    }

    /// The price of `symbol` in cents.
    #[must_use]
    pub fn px_cents(&self, symbol: usize) -> i64 {
        self.px[symbol] / 100
    }
}

/// An order that the bad instance was given before the open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Its symbol.
    pub symbol: usize,
    /// Which way.
    pub side: Side,
    /// How many shares the customer asked for.
    pub qty: i64,
}

/// What happens to an order after it was admitted, if nobody interferes. Times count from the admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Working, then filled at once after `fill_ns`.
    Fill {
        /// When.
        fill_ns: u64,
    },
    /// Working, then half of it filled after `first_ns` and the rest after `second_ns`.
    TwoFills {
        /// The first half.
        first_ns: u64,
        /// The rest.
        second_ns: u64,
    },
    /// Working, a third filled after `fill_ns`, the rest canceled by its trader after `cancel_ns`.
    FillThenCancel {
        /// The partial fill.
        fill_ns: u64,
        /// The request to cancel.
        cancel_ns: u64,
    },
    /// Working, replaced after `replace_ns` by one at a price a cent better for the other side, then filled
    /// `fill_ns` after the replacement.
    ReplaceThenFill {
        /// The request to replace.
        replace_ns: u64,
        /// From the replacement to the fill.
        fill_ns: u64,
    },
    /// Rejected by the venue.
    Reject,
}

impl Plan {
    /// How much of an order of `qty` is filled in the end.
    #[must_use]
    pub const fn filled(self, qty: i64) -> i64 {
        match self {
            Plan::Fill { .. } | Plan::TwoFills { .. } | Plan::ReplaceThenFill { .. } => qty,
            Plan::FillThenCancel { .. } => qty / 3,
            Plan::Reject => 0,
        }
    }
}

/// One order that a gateway instance wants to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// When.
    pub at_ns: u64,
    /// Its number in the instance's stream, from 0.
    pub n: u64,
    /// Its parent's number from 1; 0: none.
    pub parent: u64,
    /// Its symbol.
    pub symbol: usize,
    /// Which way.
    pub side: Side,
    /// Shares.
    pub qty: i64,
    /// Limit price in cents.
    pub px_cents: i64,
    /// What becomes of it.
    pub plan: Plan,
}

/// The old code on the eighth instance: it sends children for 212 parents and never learns that a parent
/// is done, because the counter that would have told it was moved elsewhere years before.
#[derive(Clone, Debug)]
pub struct OldCode {
    parents: Vec<Parent>,
    market: Market,
    n: u64,
}

impl OldCode {
    /// The stream from the open on.
    #[must_use]
    pub fn new(seed: u64) -> OldCode {
        OldCode { parents: parents(seed), market: Market::new(seed), n: 0 }
    }

    /// When child `n` (from 0) is sent: evenly, 675 µs apart.
    #[must_use]
    pub const fn child_at_ns(n: u64) -> u64 {
        n * (MORNING_NS / CHILDREN)
    }

    /// How many shares child `n` (from 0) has: 99 or 100, which together come to [`SHARES`].
    #[must_use]
    pub const fn child_qty(n: u64) -> u64 {
        SHARES * (n + 1) / CHILDREN - SHARES * n / CHILDREN
    }
}

const _: () = assert!(MORNING_NS.is_multiple_of(CHILDREN), "the children are evenly spaced in whole nanoseconds");

/// The 212 parents, all received before the open.
#[must_use]
pub fn parents(seed: u64) -> Vec<Parent> {
    const QTY: [i64; 7] = [100, 200, 300, 500, 800, 1_000, 2_000];
    let mut rng = rng(seed, Stream::Parents);
    (0..PARENTS)
        .map(|p| {
            let symbol = if p < SYMBOLS { p } else { below(&mut rng, SYMBOLS as u32) as usize };
            let side = if symbol < LONG_SYMBOLS { Side::Buy } else { Side::Sell };
            Parent { symbol, side, qty: QTY[below(&mut rng, QTY.len() as u32) as usize] }
        })
        .collect()
}

impl Iterator for OldCode {
    type Item = Order;

    fn next(&mut self) -> Option<Order> {
        if self.n == CHILDREN {
            return None;
        }
        let n = self.n;
        self.n += 1;
        let at_ns = OldCode::child_at_ns(n);
        self.market.advance(at_ns);
        let number = (n % PARENTS as u64) as usize;
        let parent = self.parents[number];
        Some(Order {
            at_ns,
            n,
            parent: number as u64 + 1,
            symbol: parent.symbol,
            side: parent.side,
            qty: OldCode::child_qty(n) as i64,
            px_cents: self.market.px_cents(parent.symbol),
            plan: Plan::Fill { fill_ns: FILL_AFTER_NS },
        })
    }
}

/// One of the seven instances that did what they should: a few dozen orders a second over 22 symbols of
/// its own, turning round before a position grows.
#[derive(Clone, Debug)]
pub struct Healthy {
    rng: ChaCha8Rng,
    market: Market,
    first_symbol: usize,
    /// What it would hold if every order went as planned.
    inventory: [i64; Healthy::SYMBOLS],
    /// Orders sent per symbol: makes quantities that do not repeat soon.
    sent: [u64; Healthy::SYMBOLS],
    mean_gap_ns: u32,
    next_ns: u64,
    end_ns: u64,
    n: u64,
}

impl Healthy {
    /// Symbols that each instance trades.
    pub const SYMBOLS: usize = SYMBOLS / HEALTHY;
    /// The most orders per second that an instance sends on average over any longer time.
    pub const ORDERS_PER_S_MAX: u32 = 40;
    /// The fewest.
    pub const ORDERS_PER_S_MIN: u32 = 24;
    /// It sells what it is this long of in a symbol, or buys back.
    const INVENTORY_MAX: i64 = 600;

    /// The stream of instance `index`, which is below [`HEALTHY`], all the morning.
    #[must_use]
    pub fn new(seed: u64, index: usize) -> Healthy {
        Healthy::lasting(seed, index, MORNING_NS)
    }

    /// The same until `end_ns` of scenario time.
    #[must_use]
    pub fn lasting(seed: u64, index: usize, end_ns: u64) -> Healthy {
        let mut rng = rng(seed, Stream::Healthy(index));
        let spread = Healthy::ORDERS_PER_S_MAX - Healthy::ORDERS_PER_S_MIN + 1;
        let per_s = Healthy::ORDERS_PER_S_MIN + below(&mut rng, spread);
        let mean_gap_ns = SECOND_NS as u32 / per_s;
        let next_ns = u64::from(below(&mut rng, mean_gap_ns));
        Healthy {
            rng,
            market: Market::new(seed),
            first_symbol: index * Healthy::SYMBOLS,
            inventory: [0; Healthy::SYMBOLS],
            sent: [0; Healthy::SYMBOLS],
            mean_gap_ns,
            next_ns,
            end_ns,
            n: 0,
        }
    }

    fn plan(&mut self) -> Plan {
        let ms = |rng: &mut ChaCha8Rng, from: u32, to: u32| {
            u64::from(from * 1_000 + below(rng, (to - from) * 1_000)) * 1_000
        };
        match below(&mut self.rng, 100) {
            0..50 => Plan::Fill { fill_ns: ms(&mut self.rng, 2, 40) },
            50..65 => {
                let first_ns = ms(&mut self.rng, 2, 20);
                Plan::TwoFills { first_ns, second_ns: first_ns + ms(&mut self.rng, 2, 60) }
            }
            65..84 => {
                let fill_ns = ms(&mut self.rng, 2, 20);
                Plan::FillThenCancel { fill_ns, cancel_ns: fill_ns + ms(&mut self.rng, 50, 400) }
            }
            84..99 => {
                Plan::ReplaceThenFill { replace_ns: ms(&mut self.rng, 30, 200), fill_ns: ms(&mut self.rng, 2, 40) }
            }
            _ => Plan::Reject,
        }
    }
}

impl Iterator for Healthy {
    type Item = Order;

    fn next(&mut self) -> Option<Order> {
        let at_ns = self.next_ns;
        if at_ns >= self.end_ns {
            return None;
        }
        // Gaps between half and one and a half of the mean: no bursts.
        self.next_ns += u64::from(self.mean_gap_ns / 2 + below(&mut self.rng, self.mean_gap_ns));
        self.market.advance(at_ns);
        let own = below(&mut self.rng, Healthy::SYMBOLS as u32) as usize;
        let side = match self.inventory[own] {
            held if held >= Healthy::INVENTORY_MAX => Side::Sell,
            held if held <= -Healthy::INVENTORY_MAX => Side::Buy,
            _ if below(&mut self.rng, 2) == 0 => Side::Buy,
            _ => Side::Sell,
        };
        // 37 and 401 have no common factor: a symbol's quantity comes back after 401 of its orders only.
        let qty = 100 + (self.sent[own] * 37 % 401) as i64;
        self.sent[own] += 1;
        let plan = self.plan();
        self.inventory[own] += side.sign() * plan.filled(qty);
        let symbol = self.first_symbol + own;
        let n = self.n;
        self.n += 1;
        let px_cents = self.market.px_cents(symbol) - side.sign();
        Some(Order { at_ns, n, parent: 0, symbol, side, qty, px_cents, plan })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn the_whole_morning_has_exactly_the_sourced_totals() {
        let (mut children, mut shares) = (0u64, 0u64);
        for n in 0..CHILDREN {
            children += 1;
            shares += OldCode::child_qty(n);
        }
        assert_eq!((children, shares), (4_000_000, 397_000_000));
        assert!(OldCode::child_at_ns(CHILDREN - 1) < MORNING_NS);
    }

    #[test]
    fn the_stream_ends_after_its_last_child() {
        let mut stream = OldCode::new(1);
        stream.n = CHILDREN - 1;
        assert_eq!(stream.next().map(|o| o.n), Some(CHILDREN - 1));
        assert_eq!(stream.next(), None);
    }

    #[test]
    fn one_second_holds_1481_children() {
        let in_second = OldCode::new(7).take_while(|o| o.at_ns < SECOND_NS).count();
        assert!((1_481..=1_482).contains(&in_second), "{in_second}");
    }

    #[test]
    fn eighty_symbols_are_bought_and_seventy_four_sold() {
        let mut sides: HashMap<usize, Side> = HashMap::new();
        for order in OldCode::new(3).take(PARENTS) {
            assert_eq!(*sides.entry(order.symbol).or_insert(order.side), order.side);
        }
        let long = sides.values().filter(|s| **s == Side::Buy).count();
        assert_eq!((long, sides.len() - long), (80, 74));
    }

    #[test]
    fn a_seed_gives_one_morning_and_another_seed_another() {
        let first = |seed| {
            let bad: Vec<_> = OldCode::new(seed).take(3_000).collect();
            let good: Vec<_> = Healthy::new(seed, 4).take(3_000).collect();
            (bad, good)
        };
        assert_eq!(first(70_694), first(70_694));
        assert_ne!(first(70_694), first(70_695));
    }

    #[test]
    fn prices_do_not_depend_on_how_often_they_are_asked() {
        let (mut often, mut once) = (Market::new(5), Market::new(5));
        for ms in 0..90_000 {
            often.advance(ms * 1_000_000);
        }
        once.advance(89_999 * 1_000_000);
        assert_eq!(often.px, once.px);
    }

    #[test]
    fn prices_stay_near_where_they_opened() {
        for seed in 0..20 {
            let open = Market::new(seed);
            let cents: Vec<i64> = (0..SYMBOLS).map(|s| open.px_cents(s)).collect();
            assert!(cents.iter().all(|c| (500..=8_000).contains(c)));
            let average = cents.iter().sum::<i64>() / SYMBOLS as i64;
            assert!((1_600..=1_900).contains(&average), "{average}");
            let mut close = open.clone();
            close.advance(MORNING_NS);
            for (s, open) in cents.iter().enumerate() {
                assert!((close.px_cents(s) - open).abs() * 20 <= *open, "symbol {s} moved more than 5%");
            }
        }
    }

    #[test]
    fn a_healthy_instance_is_modest_all_morning() {
        for index in 0..HEALTHY {
            let mut held = [0i64; SYMBOLS];
            let mut last_seen: HashMap<(usize, Side, i64, i64), u64> = HashMap::new();
            let mut per_second: HashMap<u64, u32> = HashMap::new();
            for order in Healthy::new(70_694, index) {
                *per_second.entry(order.at_ns / SECOND_NS).or_default() += 1;
                held[order.symbol] += order.side.sign() * order.plan.filled(order.qty);
                assert!(held[order.symbol].abs() <= 1_100);
                let key = (order.symbol, order.side, order.qty, order.px_cents);
                if let Some(before) = last_seen.insert(key, order.at_ns) {
                    assert!(order.at_ns - before > 60 * SECOND_NS, "the same order again within a minute");
                }
            }
            assert!(per_second.values().all(|n| *n <= 2 * Healthy::ORDERS_PER_S_MAX));
            let total: u32 = per_second.values().sum();
            assert!((20..=45).contains(&(u64::from(total) * SECOND_NS / MORNING_NS)), "{total}");
        }
    }

    #[test]
    fn healthy_instances_share_no_symbol() {
        for a in 0..HEALTHY {
            let symbols = |i| Healthy::new(9, i).take(500).map(|o| o.symbol).collect::<std::collections::HashSet<_>>();
            for b in a + 1..HEALTHY {
                assert!(symbols(a).is_disjoint(&symbols(b)));
            }
        }
    }
}
