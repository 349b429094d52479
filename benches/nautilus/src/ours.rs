//! haltline's side: the engine, given text through the JSON edge (outcomes) or events (cost).

use std::sync::Arc;

use haltline::engine::Command;
use haltline::engine::core::{Engine, Sizing};
use haltline::limits::{DuplicateLimit, Gauge, LimitTable, RateKind, RateLimit, RateOf, ScopeLimits};
use haltline::model::rule::applies;
use haltline::model::universe::{AccountSpec, CurrencySpec, InstrumentSpec, SessionSpec, StrategySpec};
use haltline::model::{
    Action, Effects, Event, EventKind, Mode, OrdType, Rule, Scope, ScopeKind, SessionKind, Side, Target, Universe,
};
use haltline::units::{AccountId, CurrencyId, MonoNanos, Now, OrdId, Px, Qty, SessionId, UnixNanos};
use haltline::wire::json::{self, Client};

use crate::orders::{self, Order, Setup};
use crate::outcome::{Answer, Outcome, Subject};

const GW: SessionId = SessionId(0);

/// Which limits are armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Armed {
    /// Those that nautilus-risk has too, and the collar.
    Same,
    /// These, and every other rule at every scope that it applies to, far from being breached.
    Every,
}

fn universe(setup: &Setup) -> Universe {
    let instruments = setup.listings.iter().map(|listing| InstrumentSpec {
        name: listing.name.clone(),
        currency: CurrencyId(0),
        px_scale: 2,
        qty_scale: 0,
        multiplier: (1, 0),
        negative_px: false,
        average_daily_volume: Some(Qty(1 << 40)),
        initial_reference: listing.priced.then_some(Px(10_000)),
    });
    Universe::new(
        2,
        vec![CurrencySpec { name: "USD".into(), initial_rate: None }],
        vec![SessionSpec { name: "gw".into(), kind: SessionKind::Ask, strategies: vec![] }],
        vec![AccountSpec { name: "main".into() }],
        vec![StrategySpec { name: "s".into(), account: AccountId(0) }],
        instruments.collect(),
    )
}

/// `rule` at `kind`, wide enough that nothing breaches it.
fn arm_wide(scope: &mut ScopeLimits, rule: Rule, kind: ScopeKind) {
    if let Some(gauge) = Gauge::of(rule) {
        scope.max[gauge as usize] = 1 << 60;
        return;
    }
    let halt = Action::Halt(Target::Own);
    let rate = |of| match kind {
        ScopeKind::Strategy => {
            RateLimit { of, kind: RateKind::Sliding, count: 256, window_ns: 1_000_000, action: halt }
        }
        _ => RateLimit {
            of,
            kind: RateKind::Gcra { burst: 1_000_000 },
            count: 100_000_000,
            window_ns: 1_000_000_000,
            action: halt,
        },
    };
    match rule {
        Rule::OrderQty => scope.order_qty = 1 << 40,
        Rule::OrderNotional => scope.order_notional = 1 << 60,
        Rule::OrderParticipation => scope.order_participation = 5_000,
        Rule::Collar => scope.collar = 5_000,
        Rule::DuplicateOrder => scope.duplicate = Some(DuplicateLimit { count: 16, window_ns: 1_000_000 }),
        Rule::OrderRate => scope.rates.push(rate(RateOf::Orders)),
        Rule::MessageRate => scope.rates.push(rate(RateOf::Messages)),
        Rule::CancelRate => scope.rates.push(rate(RateOf::Cancels)),
        Rule::Denials => scope.rates.push(rate(RateOf::Denials)),
        Rule::HeartbeatLoss => scope.heartbeat_ns = 1 << 60,
        // Always on, or (clock skew) in need of a sender's clock, which these orders do not have.
        _ => {}
    }
}

fn limits(universe: &Universe, setup: &Setup, armed: Armed) -> LimitTable {
    let mut table = LimitTable::unlimited(universe);
    if armed == Armed::Every {
        for kind in ScopeKind::ALL {
            let scope = table.edit_all(kind);
            for rule in Rule::ALL.into_iter().filter(|&rule| applies(rule, kind)) {
                arm_wide(scope, rule, kind);
            }
        }
    }
    let limits = &setup.limits;
    let instrument = table.edit_all(ScopeKind::Instrument);
    instrument.order_qty = limits.order_qty;
    // The base unit is the cent.
    instrument.order_notional = limits.order_notional * 100;
    instrument.collar = limits.collar;
    table.edit_all(ScopeKind::Account).max[Gauge::Gross as usize] = limits.funds * 100;
    table.edit_all(ScopeKind::Firm).rates.push(RateLimit {
        of: RateOf::Orders,
        kind: RateKind::Sliding,
        count: limits.rate,
        window_ns: limits.window_ns,
        action: Action::Deny,
    });
    table
}

fn now(ns: u64) -> Now {
    Now { mono: MonoNanos(ns), unix: UnixNanos(ns) }
}

/// A report on order `id`.
pub fn report(kind: EventKind, id: u64) -> Event {
    let mut event = Event::new(kind, GW, 0);
    event.id = OrdId(id);
    event
}

/// haltline's engine and its one session.
pub struct Haltline {
    engine: Engine,
    universe: Arc<Universe>,
    effects: Effects,
    seq: u64,
    execs: u64,
    epoch: u64,
}

impl Haltline {
    /// An engine with room for `orders` working orders.
    pub fn new(setup: &Setup, armed: Armed, orders: usize) -> Haltline {
        let universe = Arc::new(universe(setup));
        let table = Arc::new(limits(&universe, setup, armed));
        let sizing = Sizing {
            working_orders: orders + 4_096,
            remembered_orders: 8_192,
            execs: 4_096,
            pairs: setup.listings.len(),
            recent_orders: 8_192,
            parents: 1 << 12,
        };
        let engine = Engine::new(Arc::clone(&universe), table, sizing, now(0));
        Haltline { engine, universe, effects: Effects::new(), seq: 0, execs: 0, epoch: 0 }
    }

    /// The event of `order`, by the way of the JSON edge: what this cannot read is marked as the edge marks it.
    pub fn event(&self, order: &Order) -> Event {
        let (ord_type, px) = match &order.px {
            Some(px) => ("limit", format!(",\"px\":\"{px}\"")),
            None => ("market", String::new()),
        };
        let side = match order.side {
            orders::Side::Buy => "buy",
            orders::Side::Sell => "sell",
        };
        let text = format!(
            "{{\"type\":\"new\",\"seq\":1,\"id\":\"{}\",\"strategy\":\"s\",\"instrument\":\"{}\",\"side\":\"{side}\",\
             \"ord_type\":\"{ord_type}\",\"qty\":\"{}\"{px}}}",
            order.id, order.instrument, order.qty
        );
        match json::decode(&text, &self.universe, GW) {
            Ok(Client::Event(draft)) => draft.event,
            Ok(other) => panic!("a new order was read as {other:?}"),
            Err(fault) => {
                let draft = fault.draft.expect("the envelope is in order");
                Event { flags: draft.event.flags | Event::MALFORMED, ..draft.event }
            }
        }
    }

    /// Gives `event` its place in the session's stream, and lets the engine take one step.
    pub fn step(&mut self, at: u64, mut event: Event) -> &Effects {
        self.seq += 1;
        event.seq = self.seq;
        self.effects.clear();
        self.engine.step(now(at), &event, &mut self.effects);
        &self.effects
    }

    /// How many orders are pending or working.
    pub fn working(&self) -> i64 {
        self.engine.gauges(Scope::Firm).map_or(0, |gauges| gauges[Gauge::Working as usize])
    }
}

impl Subject for Haltline {
    fn submit(&mut self, at: u64, order: &Order) -> Outcome {
        let event = self.event(order);
        let effects = self.step(at, event);
        let verdict = effects.verdict().expect("a session that asks gets a verdict");
        match verdict.denial {
            None => Outcome::Admitted,
            Some(denial) => Outcome::Denied(denial.rule.name().to_owned()),
        }
    }

    fn answer(&mut self, at: u64, order: &Order, answer: Answer) {
        let mut event = match answer {
            Answer::Accepted => report(EventKind::Ack, order.id),
            Answer::Canceled => report(EventKind::Canceled, order.id),
            Answer::Filled => report(EventKind::Fill, order.id),
        };
        if answer == Answer::Filled {
            self.execs += 1;
            event.ref_id = self.execs;
            event.instrument = self.universe.instrument(&order.instrument).expect("what is filled is known");
            event.side = match order.side {
                orders::Side::Buy => Side::Buy,
                orders::Side::Sell => Side::Sell,
            };
            event.ord_type = OrdType::Limit;
            let px = order.px.as_deref().expect("a limit order");
            event.px = Px(haltline::units::parse_decimal(px, 2).expect("a price"));
            event.qty = Qty(order.qty.parse().expect("a quantity"));
        }
        self.step(at, event);
    }

    fn set_mode(&mut self, at: u64, mode: orders::Mode) {
        self.epoch += 1;
        let mode = match mode {
            orders::Mode::Normal => Mode::Normal,
            orders::Mode::ReduceOnly => Mode::ReduceOnly,
            orders::Mode::Halted => Mode::Halted,
        };
        self.effects.clear();
        let command = Command::Mode { scope: Scope::Firm, mode, epoch: self.epoch };
        self.engine.command(now(at), command, &mut self.effects);
    }
}
