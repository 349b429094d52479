//! What both engines are given: one universe, one set of limits, one stream of orders, as text and numbers that
//! belong to neither.

use crate::common::Random;

/// An instrument: a share in dollars, price in cents, whole quantities.
#[derive(Clone, Debug)]
pub struct Listing {
    /// Its name.
    pub name: String,
    /// Whether the engines know a price for it: bid 99.99, ask 100.01, reference 100.00.
    pub priced: bool,
}

/// The limits that both engines have, each in its own terms. Money in whole dollars.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest quantity of one order. nautilus-risk: the instrument's `max_quantity`; haltline: `order_qty`.
    pub order_qty: i64,
    /// Smallest quantity of one order. nautilus-risk: the instrument's `min_quantity`; haltline has no such rule.
    pub order_qty_least: i64,
    /// Largest value of one order. nautilus-risk: `max_notional_per_order`; haltline: `order_notional`.
    pub order_notional: i64,
    /// What the account may have outstanding. nautilus-risk: the balance of a margin account at full margin and no
    /// leverage; haltline: `gross_exposure` of the account.
    pub funds: i64,
    /// New orders in `window_ns`. nautilus-risk: `max_order_submit`; haltline: `order_rate` of the firm, sliding.
    pub rate: u32,
    /// See `rate`.
    pub window_ns: u64,
    /// Distance from the reference in basis points: haltline's alone.
    pub collar: i64,
}

/// Instruments and limits.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The instruments.
    pub listings: Vec<Listing>,
    /// The limits.
    pub limits: Limits,
}

/// What an engine does with the orders of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Admits all.
    Admit,
    /// Denies all, for this reason.
    Deny(&'static str),
    /// Admits until a limit is used up, then denies for this reason.
    Limit(&'static str),
}

/// A class of orders: what sets them apart, and what each engine is known to do with them.
#[derive(Debug)]
pub struct Class {
    /// What sets them apart.
    pub name: &'static str,
    /// haltline: the rule, as it is called everywhere.
    pub ours: Expected,
    /// nautilus-risk: the reason without its numbers, see [`crate::theirs::reason`].
    pub theirs: Expected,
    /// Why the outcomes differ. Empty: they may not.
    pub why: &'static str,
}

/// Which way an order trades.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Buy,
    Sell,
}

/// One new order. Quantity and price are text, as a strategy would write them.
#[derive(Clone, Debug)]
pub struct Order {
    /// `cl_ord_id`.
    pub id: u64,
    /// The name of its instrument.
    pub instrument: String,
    /// Its side.
    pub side: Side,
    /// A whole number, most of the time.
    pub qty: String,
    /// The limit price; `None`: a market order.
    pub px: Option<String>,
}

/// What happens to an order that is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The venue accepts it and it is canceled, before anything else happens.
    Canceled,
    /// The venue accepts it; it works until everything is canceled.
    Working,
    /// The venue has not said anything yet.
    Unanswered,
    /// The venue accepts and fills it.
    Filled,
}

/// The state of trading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Normal,
    ReduceOnly,
    Halted,
}

/// One step of the stream.
#[derive(Clone, Debug)]
pub enum Step {
    /// A new order of a class.
    Order(&'static Class, Order, Fate),
    /// Everything that was admitted and is still live is canceled.
    CancelAll,
    /// A person changes the mode.
    Mode(Mode),
}

/// A step and when it happens, in nanoseconds since the beginning.
#[derive(Clone, Debug)]
pub struct Timed {
    pub at: u64,
    pub step: Step,
}

const SECOND: u64 = 1_000_000_000;

/// What the outcome table is made with.
pub const LIMITS: Limits = Limits {
    order_qty: 5_000,
    order_qty_least: 10,
    order_notional: 250_000,
    funds: 1_000_000,
    rate: 100,
    window_ns: SECOND,
    collar: 1_000,
};

use Expected::{Admit, Deny, Limit};

static FINE: Class = Class { name: "fine", ours: Admit, theirs: Admit, why: "" };
static QTY: Class = Class {
    name: "over max quantity",
    ours: Deny("order_qty"),
    theirs: Deny("quantity N invalid (> maximum trade size of N)"),
    why: "",
};
static QTY_LEAST: Class = Class {
    name: "under min quantity",
    ours: Admit,
    theirs: Deny("quantity N invalid (< minimum trade size of N)"),
    why: "haltline has no smallest quantity: a small order is the venue's business, not a risk",
};
static NOTIONAL: Class = Class {
    name: "over max notional",
    ours: Deny("order_notional"),
    theirs: Deny("NOTIONAL_EXCEEDS_MAX_PER_ORDER"),
    why: "",
};
static PX_PRECISION: Class = Class {
    name: "price too precise",
    ours: Deny("malformed"),
    theirs: Deny("price N invalid (precision N > N)"),
    why: "",
};
static PX_SIGN: Class =
    Class { name: "price zero or negative", ours: Deny("malformed"), theirs: Deny("price N invalid (<= N)"), why: "" };
static QTY_PRECISION: Class = Class {
    name: "quantity too precise",
    ours: Deny("malformed"),
    theirs: Deny("quantity N invalid (precision N > N)"),
    why: "",
};
static UNKNOWN: Class = Class {
    name: "unknown instrument",
    ours: Deny("unknown_entity"),
    theirs: Deny("Instrument for GONE.SIM not found"),
    why: "",
};
static USED_ID: Class = Class {
    name: "id used before",
    ours: Deny("duplicate_id"),
    theirs: Deny("refused by the cache, before the risk engine"),
    why: "",
};
static COLLAR: Class = Class {
    name: "price far from the market",
    ours: Deny("collar"),
    theirs: Admit,
    why: "nautilus-risk has no price collar",
};
static MARKET: Class = Class { name: "market order, price known", ours: Admit, theirs: Admit, why: "" };
static MARKET_BLIND: Class = Class {
    name: "market order, no price known",
    ours: Deny("order_notional"),
    theirs: Admit,
    why: "without a price nautilus-risk warns and skips its checks of value; haltline denies what it cannot value",
};
static RATE: Class =
    Class { name: "rate exceeded", ours: Limit("order_rate"), theirs: Limit("REJECTED BY THROTTLER"), why: "" };
static ADDS_UP: Class = Class {
    name: "adds up, venue answers",
    ours: Limit("gross_exposure"),
    theirs: Limit("MARGIN_EXCEEDS_FREE_BALANCE"),
    why: "",
};
static ADDS_UP_PENDING: Class = Class {
    name: "adds up before the venue answers",
    ours: Limit("gross_exposure"),
    theirs: Admit,
    why: "nautilus locks margin when the venue accepts; haltline counts an order before it gives the verdict",
};
static REDUCES: Class = Class { name: "reduce-only: reduces", ours: Admit, theirs: Admit, why: "" };
static INCREASES: Class = Class {
    name: "reduce-only: increases",
    ours: Deny("mode"),
    theirs: Deny("BUY when TradingState::REDUCING and LONG HELD.SIM"),
    why: "",
};
static CROSSES: Class = Class {
    name: "reduce-only: crosses zero",
    ours: Deny("mode"),
    theirs: Admit,
    why: "nautilus-risk looks at the side alone: any sell passes while long; haltline goes by quantity",
};
static CROSSES_TOGETHER: Class = Class {
    name: "reduce-only: crosses with what works",
    ours: Deny("mode"),
    theirs: Admit,
    why: "nautilus-risk looks at the side alone; haltline counts the sells that are working already",
};
static OPENS: Class = Class {
    name: "reduce-only: opens from flat",
    ours: Deny("mode"),
    theirs: Admit,
    why: "flat is neither long nor short, so nautilus-risk lets both sides pass; haltline: nothing to reduce",
};
static HALTED: Class = Class { name: "halted", ours: Deny("mode"), theirs: Deny("TradingState::HALTED"), why: "" };

/// Every class, in the order of the table.
pub static CLASSES: [&Class; 21] = [
    &FINE,
    &QTY,
    &QTY_LEAST,
    &NOTIONAL,
    &PX_PRECISION,
    &PX_SIGN,
    &QTY_PRECISION,
    &UNKNOWN,
    &USED_ID,
    &COLLAR,
    &MARKET,
    &MARKET_BLIND,
    &RATE,
    &ADDS_UP,
    &ADDS_UP_PENDING,
    &REDUCES,
    &INCREASES,
    &CROSSES,
    &CROSSES_TOGETHER,
    &OPENS,
    &HALTED,
];

/// Instruments traded without a position.
const PLAIN: u64 = 8;

/// The universe of the outcome table.
pub fn setup() -> Setup {
    let mut listings: Vec<Listing> = (0..PLAIN).map(|i| Listing { name: format!("A{i}"), priced: true }).collect();
    listings.push(Listing { name: "HELD".into(), priced: true });
    listings.push(Listing { name: "BLIND".into(), priced: false });
    Setup { listings, limits: LIMITS }
}

/// `cents` as dollars.
pub fn dollars(cents: i64) -> String {
    let sign = if cents < 0 { "-" } else { "" };
    format!("{sign}{}.{:02}", cents.abs() / 100, cents.abs() % 100)
}

/// Makes the stream.
struct Maker {
    random: Random,
    at: u64,
    next_id: u64,
    steps: Vec<Timed>,
}

impl Maker {
    /// A fine order of a random instrument: 100 to 1,000 at 99.00 to 101.00.
    fn fine(&mut self) -> Order {
        self.next_id += 1;
        Order {
            id: self.next_id,
            instrument: format!("A{}", self.random.below(PLAIN)),
            side: if self.random.below(2) == 0 { Side::Buy } else { Side::Sell },
            qty: (100 + self.random.below(901)).to_string(),
            px: Some(dollars(9_900 + self.random.below(201) as i64)),
        }
    }

    fn between(&mut self, from: i64, to: i64) -> i64 {
        from + self.random.below((to - from + 1) as u64) as i64
    }

    /// 20 to 40 ms later: well below the rate.
    fn slowly(&mut self) {
        self.at += 20_000_000 + self.random.below(20_000_000);
    }

    fn step(&mut self, step: Step) {
        self.steps.push(Timed { at: self.at, step });
    }

    fn order(&mut self, class: &'static Class, order: Order, fate: Fate) {
        self.step(Step::Order(class, order, fate));
    }
}

/// Turns a fine order into one of a class.
type Twist = fn(&mut Maker, &mut Order);

/// The classes that do not depend on what came before.
static ALONE: [(&Class, Twist); 11] = [
    (&FINE, |_, _| {}),
    (&QTY, |m, order| order.qty = m.between(LIMITS.order_qty + 1, 50_000).to_string()),
    (&QTY_LEAST, |m, order| order.qty = m.between(1, LIMITS.order_qty_least - 1).to_string()),
    // At 99.00 or more.
    (&NOTIONAL, |m, order| order.qty = m.between(2_600, LIMITS.order_qty).to_string()),
    (&PX_PRECISION, |_, order| order.px = order.px.take().map(|px| px + "5")),
    (&PX_SIGN, |m, order| order.px = Some(dollars(-m.between(0, 10_000)))),
    (&QTY_PRECISION, |_, order| order.qty += ".5"),
    (&UNKNOWN, |_, order| order.instrument = "GONE".into()),
    (&COLLAR, |m, order| {
        // 15% to 50% away, on the side that hurts.
        let away = m.between(1_500, 5_000);
        order.px = Some(dollars(if order.side == Side::Buy { 10_000 + away } else { 10_000 - away }));
    }),
    (&MARKET, |_, order| order.px = None),
    (&MARKET_BLIND, |_, order| {
        order.px = None;
        order.instrument = "BLIND".into();
    }),
];

/// The stream of the outcome table: `each` orders of every class that stands alone, in random order, then the classes that
/// depend on what came before.
pub fn stream(seed: u64, each: usize) -> Vec<Timed> {
    let mut m = Maker { random: Random(seed), at: SECOND, next_id: 0, steps: Vec::new() };
    let mut alone: Vec<(&'static Class, Twist)> =
        ALONE.iter().flat_map(|class| std::iter::repeat_n(*class, each)).collect();
    for i in (1..alone.len()).rev() {
        alone.swap(i, m.random.below(i as u64 + 1) as usize);
    }
    for (class, twist) in alone {
        m.slowly();
        let mut order = m.fine();
        twist(&mut m, &mut order);
        m.order(class, order, Fate::Canceled);
    }

    // An id that an order had which was admitted and is done.
    let used: Vec<u64> = m
        .steps
        .iter()
        .filter_map(|timed| match &timed.step {
            Step::Order(class, order, _) if class.name == FINE.name => Some(order.id),
            _ => None,
        })
        .collect();
    for id in used {
        m.slowly();
        let order = Order { id, ..m.fine() };
        m.order(&USED_ID, order, Fate::Canceled);
    }

    // Two and a half times the rate.
    m.at += 2 * SECOND;
    for _ in 0..10 * each {
        m.at += m.random.below(8_000_000);
        let order = m.fine();
        m.order(&RATE, order, Fate::Canceled);
    }

    // About 50,000 dollars each, of 1,000,000: first with a venue that answers, then with one that is silent.
    for (class, fate) in [(&ADDS_UP, Fate::Working), (&ADDS_UP_PENDING, Fate::Unanswered)] {
        m.at += 2 * SECOND;
        for _ in 0..each.max(30) {
            m.slowly();
            let order = Order { qty: "500".into(), ..m.fine() };
            m.order(class, order, fate);
        }
        m.step(Step::CancelAll);
    }

    // Long 500, then reduce-only.
    m.slowly();
    let held =
        |m: &mut Maker, side, qty: i64| Order { side, qty: qty.to_string(), instrument: "HELD".into(), ..m.fine() };
    let order = held(&mut m, Side::Buy, 500);
    m.order(&FINE, order, Fate::Filled);
    m.step(Step::Mode(Mode::ReduceOnly));
    for _ in 0..each {
        m.slowly();
        let qty = m.between(10, 500);
        let order = held(&mut m, Side::Sell, qty);
        m.order(&REDUCES, order, Fate::Canceled);
        m.slowly();
        let qty = m.between(10, 500);
        let order = held(&mut m, Side::Buy, qty);
        m.order(&INCREASES, order, Fate::Canceled);
        m.slowly();
        let qty = m.between(501, 1_500);
        let order = held(&mut m, Side::Sell, qty);
        m.order(&CROSSES, order, Fate::Canceled);
        m.slowly();
        let order = m.fine();
        m.order(&OPENS, order, Fate::Canceled);
        m.slowly();
        let order = held(&mut m, Side::Sell, 300);
        m.order(&REDUCES, order, Fate::Working);
        m.slowly();
        let qty = m.between(201, 500);
        let order = held(&mut m, Side::Sell, qty);
        m.order(&CROSSES_TOGETHER, order, Fate::Canceled);
        m.step(Step::CancelAll);
    }
    m.step(Step::Mode(Mode::Halted));
    for i in 0..each {
        m.slowly();
        // Reducing ones too.
        let order = if i % 2 == 0 { m.fine() } else { held(&mut m, Side::Sell, 100) };
        m.order(&HALTED, order, Fate::Canceled);
    }
    m.step(Step::Mode(Mode::Normal));
    for _ in 0..each {
        m.slowly();
        let order = m.fine();
        m.order(&FINE, order, Fate::Canceled);
    }
    m.steps
}
