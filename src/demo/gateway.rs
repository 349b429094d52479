//! A simulated gateway instance and its venue: no I/O, time is an argument.
//!
//! It turns the orders of a [`Knight`](super::knight) stream into events, waits for the verdict of each
//! request, lets the simulated venue answer what was admitted, and books what was executed. The live run
//! drives it over a WebSocket, the run of each control alone drives it against an engine in process.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::iter::Peekable;

use anyhow::{Context, ensure};

use super::knight::{Healthy, Market, OldCode, Order, Parent, Plan, SYMBOLS, symbol_name};
use crate::model::{Event, EventKind, Mode, Rule, Scope, Universe};
use crate::units::{AccountId, InstrumentId, OrdId, Px, Qty, SessionId, StrategyId};

/// How a gateway's orders are labelled: the indices of its names in the service's universe.
#[derive(Clone, Debug)]
pub struct Route {
    /// The gateway instance.
    pub session: SessionId,
    /// Whom it trades for.
    pub account: AccountId,
    /// What it trades as.
    pub strategy: StrategyId,
    symbols: Vec<Symbol>,
}

/// An instrument, and what a cent and a share are in its units.
#[derive(Clone, Copy, Debug)]
struct Symbol {
    instrument: InstrumentId,
    per_cent: i64,
    per_share: i64,
}

impl Route {
    /// The labels of the session called `session`: it trades the first strategy that it may trade.
    ///
    /// # Errors
    /// If the universe lacks the session, a strategy for it or a symbol, or cannot show a price in cents.
    pub fn find(universe: &Universe, session: &str) -> anyhow::Result<Route> {
        let id = universe.session(session).with_context(|| format!("the configuration has no session {session:?}"))?;
        // A session without a list may trade every strategy.
        let strategy = universe.sessions[usize::from(id.0)].strategies.first().copied().unwrap_or(StrategyId(0));
        let spec = universe.strategies.get(usize::from(strategy.0));
        let spec = spec.with_context(|| format!("session {session:?} has no strategy to trade"))?;
        Ok(Route { session: id, account: spec.account, strategy, symbols: symbols(universe)? })
    }

    /// What the order management side says of `parent`, but for its id and the session.
    #[must_use]
    pub fn parent(&self, parent: &Parent) -> Event {
        let symbol = self.symbols[parent.symbol];
        let mut event = Event::new(EventKind::ParentNew, self.session, 0);
        event.side = parent.side;
        event.account = self.account;
        event.strategy = self.strategy;
        event.instrument = symbol.instrument;
        event.qty = Qty(parent.qty * symbol.per_share);
        event
    }

    /// Whether a halt of `scope` halts every order of this gateway.
    #[must_use]
    pub fn is_covered_by(&self, scope: Scope) -> bool {
        match scope {
            Scope::Firm => true,
            Scope::Account(a) => a == self.account,
            Scope::Strategy(s) => s == self.strategy,
            Scope::Session(s) => s == self.session,
            Scope::Pair(..) | Scope::Instrument(_) => false,
        }
    }
}

fn symbols(universe: &Universe) -> anyhow::Result<Vec<Symbol>> {
    (0..SYMBOLS)
        .map(|s| {
            let name = symbol_name(s);
            let instrument =
                universe.instrument(&name).with_context(|| format!("the configuration has no instrument {name:?}"))?;
            let spec = &universe.instruments[instrument.0 as usize];
            ensure!(spec.px_scale >= 2, "instrument {name:?}: px_scale {} cannot show cents", spec.px_scale);
            Ok(Symbol {
                instrument,
                per_cent: 10i64.pow(u32::from(spec.px_scale) - 2),
                per_share: 10i64.pow(u32::from(spec.qty_scale)),
            })
        })
        .collect()
}

/// The market-data source: the marks of every symbol, once a second of scenario time.
#[derive(Debug)]
pub struct MarketData {
    session: SessionId,
    symbols: Vec<Symbol>,
    market: Market,
    next: usize,
    second: u64,
}

impl MarketData {
    /// A source that speaks as the session called `session`, with prices of `seed`.
    ///
    /// # Errors
    /// If the universe lacks the session or a symbol.
    pub fn new(universe: &Universe, session: &str, seed: u64) -> anyhow::Result<MarketData> {
        let id = universe.session(session).with_context(|| format!("the configuration has no session {session:?}"))?;
        Ok(MarketData { session: id, symbols: symbols(universe)?, market: Market::new(seed), next: 0, second: 0 })
    }

    /// When the next mark is due.
    #[must_use]
    pub fn next_at(&self) -> u64 {
        self.second * 1_000_000_000
    }

    /// The next mark, if it is due.
    pub fn poll(&mut self, now: u64) -> Option<Event> {
        if self.next_at() > now {
            return None;
        }
        self.market.advance(self.next_at());
        let symbol = self.symbols[self.next];
        let mut event = Event::new(EventKind::Mark, self.session, 0);
        event.instrument = symbol.instrument;
        event.px = Px(self.market.px_cents(self.next) * symbol.per_cent);
        self.next += 1;
        if self.next == SYMBOLS {
            (self.next, self.second) = (0, self.second + 1);
        }
        Some(event)
    }
}

/// What a gateway has counted.
#[derive(Clone, Debug)]
pub struct Tally {
    /// New orders that it asked for.
    pub attempts: u64,
    /// New orders that were admitted.
    pub admitted: u64,
    /// New orders and replaces that were denied.
    pub denied: u64,
    /// The same by rule.
    pub denied_by: [u64; Rule::COUNT],
    /// New orders that it did not even ask for, because it had been told of a halt.
    pub withheld: u64,
    /// Executions.
    pub executions: u64,
    /// Shares of those executions.
    pub shares: u64,
    /// When the first one was, scenario time.
    pub first_execution_ns: Option<u64>,
    /// When the last one was.
    pub last_execution_ns: u64,
    /// The first halt that covered the gateway, as it saw it.
    pub halt: Option<HaltSeen>,
    /// Shares held by symbol.
    position: Vec<i64>,
}

/// A halt as the gateway saw it: pushed to it, or named by a denial, whichever came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HaltSeen {
    /// When, scenario time.
    pub at_ns: u64,
    /// New orders asked for until then.
    pub attempts: u64,
    /// New orders admitted until then. Any more of them means that the halt leaks.
    pub admitted: u64,
    /// Executions until then. Orders already at the venue may still add to it.
    pub executions: u64,
}

/// See the module.
pub struct Gateway {
    route: Route,
    flow: Peekable<Box<dyn Iterator<Item = Order> + Send>>,
    market: Market,
    /// Stops asking while halted. The old code does not.
    obeys: bool,
    mode: Mode,
    timers: BinaryHeap<Reverse<(u64, u64, Step)>>,
    asked: HashMap<u64, Order>,
    live: HashMap<u64, Live>,
    tally: Tally,
}

/// An order at the venue.
#[derive(Clone, Copy, Debug)]
struct Live {
    order: Order,
    id: u64,
    px_cents: i64,
    filled: i64,
}

/// What happens next to an order at the venue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Ack,
    Rejected,
    /// An execution of so many shares.
    Fill(i64),
    /// The trader asks to cancel.
    Cancel,
    Canceled,
    /// The trader asks to replace.
    Replace,
    Replaced,
}

/// From the arrival of a request at the venue to its answer.
const VENUE_ANSWERS_AFTER_NS: u64 = 150_000;

/// Ids of order `n`: the order, its replacement, the request to cancel it. The first two also serve as
/// its exec ids, which are a name space of their own.
const IDS_PER_ORDER: u64 = 4;
const fn order_id(n: u64) -> u64 {
    n * IDS_PER_ORDER + 1
}
const fn number_of(id: u64) -> u64 {
    id.saturating_sub(1) / IDS_PER_ORDER
}

impl Gateway {
    /// The instance that runs the old code.
    #[must_use]
    pub fn old_code(route: Route, seed: u64) -> Gateway {
        Gateway::new(route, Box::new(OldCode::new(seed)), seed, false)
    }

    /// Healthy instance `index`, which is below [`HEALTHY`](super::knight::HEALTHY).
    #[must_use]
    pub fn healthy(route: Route, seed: u64, index: usize) -> Gateway {
        Gateway::new(route, Box::new(Healthy::new(seed, index)), seed, true)
    }

    /// The same, trading until `end_ns` of scenario time.
    #[cfg(test)]
    pub fn healthy_until(route: Route, seed: u64, index: usize, end_ns: u64) -> Gateway {
        Gateway::new(route, Box::new(Healthy::lasting(seed, index, end_ns)), seed, true)
    }

    fn new(route: Route, flow: Box<dyn Iterator<Item = Order> + Send>, seed: u64, obeys: bool) -> Gateway {
        Gateway {
            route,
            flow: flow.peekable(),
            market: Market::new(seed),
            obeys,
            mode: Mode::Normal,
            timers: BinaryHeap::new(),
            asked: HashMap::new(),
            live: HashMap::new(),
            tally: Tally {
                attempts: 0,
                admitted: 0,
                denied: 0,
                denied_by: [0; Rule::COUNT],
                withheld: 0,
                executions: 0,
                shares: 0,
                first_execution_ns: None,
                last_execution_ns: 0,
                halt: None,
                position: vec![0; SYMBOLS],
            },
        }
    }

    /// Its labels.
    #[must_use]
    pub fn route(&self) -> &Route {
        &self.route
    }

    /// The place of the order with `id`, or of the order that the request with `id` is about, in the stream, from 1.
    #[must_use]
    pub const fn order_number(id: u64) -> u64 {
        number_of(id) + 1
    }

    /// What it has counted.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// When it next has something to do by itself; `None`: only when a verdict arrives, if ever.
    #[must_use]
    pub fn next_at(&mut self) -> Option<u64> {
        let flow = self.flow.peek().map(|o| o.at_ns);
        let timer = self.timers.peek().map(|Reverse((at, _, _))| *at);
        flow.into_iter().chain(timer).min()
    }

    /// The next event that is due at `now`. Session and sequence numbers are the transport's to set.
    pub fn poll(&mut self, now: u64) -> Option<Event> {
        while let Some(at) = self.next_at().filter(|at| *at <= now) {
            let event = if self.flow.peek().is_some_and(|o| o.at_ns == at) {
                let order = self.flow.next()?;
                self.send(order)
            } else {
                let Reverse((at, n, step)) = self.timers.pop()?;
                self.advance(at, n, step)
            };
            if event.is_some() {
                return event;
            }
        }
        None
    }

    fn send(&mut self, order: Order) -> Option<Event> {
        if self.obeys && self.mode != Mode::Normal {
            self.tally.withheld += 1;
            return None;
        }
        self.tally.attempts += 1;
        let id = order_id(order.n);
        self.asked.insert(id, order);
        let mut event = self.event(EventKind::New, &order, id, order.parent);
        self.price(&mut event, &order, order.qty, order.px_cents);
        Some(event)
    }

    /// The verdict on request `id` of `kind`: admitted, or denied by `denied` at `scope`.
    pub fn verdict(&mut self, now: u64, kind: EventKind, id: u64, denied: Option<(Rule, Scope)>) {
        if let Some((rule, scope)) = denied
            && rule == Rule::Mode
            && self.route.is_covered_by(scope)
        {
            self.note_halt(now);
        }
        let n = number_of(id);
        if let Some((rule, _)) = denied {
            self.tally.denied += 1;
            self.tally.denied_by[rule as usize] += 1;
        }
        match (kind, denied) {
            (EventKind::New, None) => {
                let Some(order) = self.asked.remove(&id) else { return };
                self.tally.admitted += 1;
                self.live.insert(n, Live { order, id, px_cents: order.px_cents, filled: 0 });
                self.arrive(now, &order);
            }
            (EventKind::New, Some(_)) => {
                self.asked.remove(&id);
            }
            (EventKind::Replace, None) => self.after(now, VENUE_ANSWERS_AFTER_NS, n, Step::Replaced),
            // What may not be replaced is taken back.
            (EventKind::Replace, Some(_)) => self.after(now, 0, n, Step::Cancel),
            (EventKind::Cancel, _) => self.after(now, VENUE_ANSWERS_AFTER_NS, n, Step::Canceled),
            _ => {}
        }
    }

    /// Haltline wants the order with `id` canceled: the gateway that runs the old code can do that, too.
    pub fn cancel(&mut self, now: u64, id: u64) {
        self.after(now, 0, number_of(id), Step::Cancel);
    }

    /// The mode in force over all the gateway's orders, as it was pushed.
    pub fn mode(&mut self, now: u64, mode: Mode) {
        self.mode = mode;
        if mode != Mode::Normal {
            self.note_halt(now);
        }
    }

    fn note_halt(&mut self, now: u64) {
        let t = &mut self.tally;
        t.halt.get_or_insert(HaltSeen {
            at_ns: now,
            attempts: t.attempts,
            admitted: t.admitted,
            executions: t.executions,
        });
    }

    /// The venue has `order`.
    fn arrive(&mut self, now: u64, order: &Order) {
        let first = if order.plan == Plan::Reject { Step::Rejected } else { Step::Ack };
        self.after(now, VENUE_ANSWERS_AFTER_NS, order.n, first);
        match order.plan {
            Plan::Fill { fill_ns } => self.after(now, fill_ns, order.n, Step::Fill(order.qty)),
            Plan::TwoFills { first_ns, second_ns } => {
                self.after(now, first_ns, order.n, Step::Fill(order.qty / 2));
                self.after(now, second_ns, order.n, Step::Fill(order.qty - order.qty / 2));
            }
            Plan::FillThenCancel { fill_ns, cancel_ns } => {
                self.after(now, fill_ns, order.n, Step::Fill(order.qty / 3));
                self.after(now, cancel_ns, order.n, Step::Cancel);
            }
            Plan::ReplaceThenFill { replace_ns, .. } => self.after(now, replace_ns, order.n, Step::Replace),
            Plan::Reject => {}
        }
    }

    fn after(&mut self, now: u64, delay: u64, n: u64, step: Step) {
        self.timers.push(Reverse((now + delay, n, step)));
    }

    fn advance(&mut self, at: u64, n: u64, step: Step) -> Option<Event> {
        let live = *self.live.get(&n)?;
        let order = live.order;
        match step {
            Step::Ack => Some(self.event(EventKind::Ack, &order, live.id, 0)),
            Step::Rejected | Step::Canceled => {
                self.live.remove(&n);
                let kind = if step == Step::Rejected { EventKind::Rejected } else { EventKind::Canceled };
                Some(self.event(kind, &order, live.id, 0))
            }
            Step::Fill(qty) => {
                let exec_id = order_id(n) + u64::from(live.filled > 0);
                let mut event = self.event(EventKind::Fill, &order, live.id, exec_id);
                self.price(&mut event, &order, qty, live.px_cents);
                self.book(at, &order, qty);
                if live.filled + qty == order.qty {
                    self.live.remove(&n);
                } else {
                    self.live.insert(n, Live { filled: live.filled + qty, ..live });
                }
                Some(event)
            }
            Step::Cancel => Some(self.event(EventKind::Cancel, &order, order_id(n) + 2, live.id)),
            Step::Replace if self.obeys && self.mode != Mode::Normal => self.advance(at, n, Step::Cancel),
            Step::Replace => {
                let mut event = self.event(EventKind::Replace, &order, order_id(n) + 1, live.id);
                self.price(&mut event, &order, order.qty, order.px_cents + order.side.sign());
                Some(event)
            }
            Step::Replaced => {
                let (id, px_cents) = (order_id(n) + 1, order.px_cents + order.side.sign());
                let mut event = self.event(EventKind::Replaced, &order, id, live.id);
                self.price(&mut event, &order, order.qty, px_cents);
                self.live.insert(n, Live { id, px_cents, ..live });
                if let Plan::ReplaceThenFill { fill_ns, .. } = order.plan {
                    self.after(at, fill_ns, n, Step::Fill(order.qty));
                }
                Some(event)
            }
        }
    }

    fn book(&mut self, at: u64, order: &Order, qty: i64) {
        let t = &mut self.tally;
        t.executions += 1;
        t.shares += qty as u64;
        t.first_execution_ns.get_or_insert(at);
        t.last_execution_ns = at;
        t.position[order.symbol] += order.side.sign() * qty;
    }

    fn event(&self, kind: EventKind, order: &Order, id: u64, ref_id: u64) -> Event {
        let mut event = Event::new(kind, self.route.session, 0);
        event.side = order.side;
        event.account = self.route.account;
        event.strategy = self.route.strategy;
        event.instrument = self.route.symbols[order.symbol].instrument;
        event.id = OrdId(id);
        event.ref_id = ref_id;
        event
    }

    fn price(&self, event: &mut Event, order: &Order, qty: i64, px_cents: i64) {
        let symbol = self.route.symbols[order.symbol];
        event.qty = Qty(qty * symbol.per_share);
        event.px = Px(px_cents * symbol.per_cent);
    }

    /// The position that its executions made, at the reference prices of `now`: gross and net, in cents.
    pub fn exposure_cents(&mut self, now: u64) -> (i64, i64) {
        self.market.advance(now);
        let values = self.tally.position.iter().enumerate().map(|(s, held)| held * self.market.px_cents(s));
        values.fold((0, 0), |(gross, net), value| (gross + value.abs(), net + value))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::demo::knight::{FILL_AFTER_NS, PARENTS};
    use crate::model::universe::{AccountSpec, CurrencySpec, InstrumentSpec, SessionKind, SessionSpec, StrategySpec};
    use crate::units::CurrencyId;

    /// A universe as the demo's, without a file.
    pub(crate) fn universe() -> Universe {
        let session =
            |name: &str, kind, strategies: Vec<StrategyId>| SessionSpec { name: name.to_owned(), kind, strategies };
        let sessions =
            (1..=8).map(|i| session(&format!("smars-{i}"), SessionKind::Ask, vec![StrategyId(u16::from(i == 8))]));
        let instrument = |s| InstrumentSpec {
            name: symbol_name(s),
            currency: CurrencyId(0),
            px_scale: 4,
            qty_scale: 0,
            multiplier: (1, 0),
            negative_px: false,
            average_daily_volume: None,
            initial_reference: None,
        };
        Universe::new(
            2,
            vec![CurrencySpec { name: "USD".to_owned(), initial_rate: None }],
            sessions
                .chain([session("market-data", SessionKind::Reference, vec![])])
                .chain([session("oms", SessionKind::Orders, vec![StrategyId(1)])])
                .collect(),
            ["customers", "33"].map(|name| AccountSpec { name: name.to_owned() }).into(),
            vec![
                StrategySpec { name: "rlp".to_owned(), account: AccountId(0) },
                StrategySpec { name: "smars".to_owned(), account: AccountId(1) },
            ],
            (0..SYMBOLS).map(instrument).collect(),
        )
    }

    /// Runs `gateway` for `ns` with every request admitted at once; what it sent, and when.
    fn run_admitting(gateway: &mut Gateway, ns: u64) -> Vec<(u64, Event)> {
        let mut sent = Vec::new();
        while let Some(at) = gateway.next_at().filter(|at| *at <= ns) {
            while let Some(event) = gateway.poll(at) {
                if event.kind.is_request() {
                    gateway.verdict(at, event.kind, event.id.0, None);
                }
                sent.push((at, event));
            }
        }
        sent
    }

    fn bad() -> Gateway {
        Gateway::old_code(Route::find(&universe(), "smars-8").unwrap(), 1)
    }

    fn healthy() -> Gateway {
        Gateway::healthy(Route::find(&universe(), "smars-3").unwrap(), 1, 2)
    }

    #[test]
    fn a_child_is_filled_in_full_400_us_after_its_admission() {
        let mut gateway = bad();
        let sent = run_admitting(&mut gateway, 1_000_000_000);
        let at = |kind| -> HashMap<OrdId, (u64, Qty)> {
            sent.iter().filter(|(_, e)| e.kind == kind).map(|(at, e)| (e.id, (*at, e.qty))).collect()
        };
        let (orders, fills) = (at(EventKind::New), at(EventKind::Fill));
        assert!(fills.len() > 1_400);
        for (id, (filled_at, qty)) in &fills {
            assert_eq!((filled_at - FILL_AFTER_NS, *qty), orders[id]);
        }
        assert_eq!(gateway.tally().executions, fills.len() as u64);
    }

    #[test]
    fn a_denied_order_never_reaches_the_venue() {
        let mut gateway = bad();
        for _ in 0..PARENTS {
            let at = gateway.next_at().unwrap();
            let event = gateway.poll(at).unwrap();
            assert_eq!(event.kind, EventKind::New);
            gateway.verdict(at, event.kind, event.id.0, Some((Rule::OrderRate, Scope::Firm)));
        }
        assert_eq!((gateway.tally().denied, gateway.tally().executions), (PARENTS as u64, 0));
        assert_eq!(gateway.exposure_cents(0), (0, 0));
    }

    #[test]
    fn the_old_code_goes_on_asking_while_halted_and_the_healthy_do_not() {
        let (mut bad, mut good) = (bad(), healthy());
        bad.mode(0, Mode::Halted);
        good.mode(0, Mode::Halted);
        assert!(bad.poll(1_000_000_000).is_some());
        assert_eq!(good.poll(1_000_000_000), None);
        assert!(good.tally().withheld > 10);
        good.mode(1_000_000_000, Mode::Normal);
        assert!(good.poll(2_000_000_000).is_some());
    }

    #[test]
    fn a_halt_counts_from_the_push_or_the_denial_that_came_first() {
        let mut by_denial = bad();
        by_denial.verdict(5, EventKind::New, 1, Some((Rule::OrderRate, Scope::Firm)));
        assert_eq!(by_denial.tally().halt, None);
        by_denial.verdict(7, EventKind::New, 5, Some((Rule::Mode, Scope::Instrument(InstrumentId(3)))));
        assert_eq!(by_denial.tally().halt, None, "an instrument is not all of its flow");
        by_denial.verdict(9, EventKind::New, 9, Some((Rule::Mode, Scope::Session(SessionId(7)))));
        by_denial.mode(11, Mode::Halted);
        assert_eq!(by_denial.tally().halt.unwrap().at_ns, 9);
    }

    #[test]
    fn a_healthy_instance_sends_the_whole_mix_and_its_orders_end() {
        let mut gateway = healthy();
        let sent = run_admitting(&mut gateway, 60_000_000_000);
        for kind in [
            EventKind::New,
            EventKind::Ack,
            EventKind::Fill,
            EventKind::Cancel,
            EventKind::Canceled,
            EventKind::Replace,
            EventKind::Replaced,
            EventKind::Rejected,
        ] {
            assert!(sent.iter().any(|(_, e)| e.kind == kind), "{kind:?}");
        }
        assert!(gateway.live.len() < 60, "{} orders are still live", gateway.live.len());
        let mut execs = std::collections::HashSet::new();
        assert!(sent.iter().filter(|(_, e)| e.kind == EventKind::Fill).all(|(_, e)| execs.insert(e.ref_id)));
    }

    #[test]
    fn marks_cover_every_symbol_once_a_second() {
        let mut source = MarketData::new(&universe(), "market-data", 1).unwrap();
        let mut marks = Vec::new();
        while let Some(mark) = source.poll(2_999_999_999) {
            marks.push(mark);
        }
        assert_eq!(marks.len(), 3 * SYMBOLS);
        assert_eq!(source.next_at(), 3_000_000_000);
    }

    #[test]
    fn a_universe_that_cannot_show_cents_is_refused() {
        let mut universe = universe();
        universe.instruments[17].px_scale = 1;
        let error = Route::find(&universe, "smars-1").unwrap_err().to_string();
        assert!(error.contains("S017") && error.contains("px_scale"), "{error}");
    }
}
