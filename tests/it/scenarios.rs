//! Examples, each with the behaviour as its name. Every one is run against the engine and against the
//! oracle: the first is the test, the second keeps the oracle honest on cases worked out by hand.
//!
//! Base unit: cents. Quantities are whole unless the instrument says otherwise.

use std::sync::Arc;

use haltline::engine::Command;
use haltline::engine::core::{Engine, Sizing};
use haltline::engine::published::Published;
use haltline::limits::{DuplicateLimit, Gauge, LimitTable, RateKind, RateLimit, RateOf, SideRule};
use haltline::model::universe::{AccountSpec, CurrencySpec, StrategySpec};
use haltline::model::{
    Action, AnomalyKind, Effects, Event, EventKind, InstrumentSpec, Mode, OrdType, Rule, Scope, ScopeKind, SessionKind,
    SessionSpec, Side, Target, Universe, Why,
};
use haltline::units::{
    AccountId, CurrencyId, InstrumentId, MonoNanos, Now, OrdId, Px, Qty, REPRESENTABLE_MAX, SessionId, StrategyId,
    UnixNanos,
};

use crate::oracle::{Deny, Oracle, Outcome};

const GW: SessionId = SessionId(0);
const DROP: SessionId = SessionId(1);
const REF: SessionId = SessionId(2);
const GW2: SessionId = SessionId(3);
const OMS: SessionId = SessionId(4);
const OMS2: SessionId = SessionId(5);

const S0: StrategyId = StrategyId(0);
const S1: StrategyId = StrategyId(1);
const S2: StrategyId = StrategyId(2);

/// Shares at 0.01 USD.
const ACME: InstrumentId = InstrumentId(0);
/// A future worth 50 USD a point.
const ES: InstrumentId = InstrumentId(1);
/// Shares in EUR.
const SAP: InstrumentId = InstrumentId(2);
/// Price in 0.01 USD, quantity in satoshi.
const BTC: InstrumentId = InstrumentId(3);
/// Price in 10^-8 USD, quantity in whole tokens.
const TOKEN: InstrumentId = InstrumentId(4);
/// May trade below zero.
const SPREAD: InstrumentId = InstrumentId(5);

const SECOND: u64 = 1_000_000_000;

enum Subject {
    Engine(Box<Engine>, Box<Effects>),
    Oracle(Box<Oracle>),
}

struct World {
    subject: Subject,
    universe: Arc<Universe>,
    table: LimitTable,
    now: Now,
    seq: [u64; 6],
    execs: u64,
}

fn universe() -> Universe {
    let instrument = |name: &str, currency, px_scale, qty_scale, multiplier, adv| InstrumentSpec {
        name: name.into(),
        currency: CurrencyId(currency),
        px_scale,
        qty_scale,
        multiplier,
        negative_px: false,
        average_daily_volume: adv,
        initial_reference: None,
    };
    let session = |name: &str, kind, strategies| SessionSpec { name: name.into(), kind, strategies };
    let strategy = |name: &str, account| StrategySpec { name: name.into(), account: AccountId(account) };
    Universe::new(
        2,
        ["USD", "EUR"].map(|n| CurrencySpec { name: n.into(), initial_rate: None }).to_vec(),
        vec![
            session("gw", SessionKind::Ask, Vec::new()),
            session("drop", SessionKind::Observe, Vec::new()),
            session("ref", SessionKind::Reference, Vec::new()),
            session("gw2", SessionKind::Ask, vec![S0]),
            session("oms", SessionKind::Orders, Vec::new()),
            session("oms2", SessionKind::Orders, vec![S1]),
        ],
        ["main", "other"].map(|n| AccountSpec { name: n.into() }).to_vec(),
        vec![strategy("s0", 0), strategy("s1", 0), strategy("s2", 1)],
        vec![
            instrument("ACME", 0, 2, 0, (1, 0), Some(Qty(10_000))),
            instrument("ES", 0, 2, 0, (50, 0), None),
            instrument("SAP", 1, 2, 0, (1, 0), Some(Qty(10_000))),
            instrument("BTC", 0, 2, 8, (1, 0), Some(Qty(1 << 50))),
            instrument("TOKEN", 0, 8, 0, (1, 0), Some(Qty(1 << 60))),
            InstrumentSpec { negative_px: true, ..instrument("SPREAD", 0, 2, 0, (1, 0), Some(Qty(10_000))) },
        ],
    )
}

/// An order of strategy 0 in ACME at 10.00 by the asking session; change what differs.
fn order(id: u64, side: Side, qty: i64) -> Event {
    let mut e = Event::new(EventKind::New, GW, 0);
    e.id = OrdId(id);
    e.side = side;
    e.qty = Qty(qty);
    e.px = Px(1_000);
    e
}

fn buy(id: u64, qty: i64) -> Event {
    order(id, Side::Buy, qty)
}

fn sell(id: u64, qty: i64) -> Event {
    order(id, Side::Sell, qty)
}

fn report(kind: EventKind, id: u64) -> Event {
    let mut e = Event::new(kind, GW, 0);
    e.id = OrdId(id);
    e
}

fn replace(old: u64, id: u64, qty: i64, px: i64) -> Event {
    Event { ref_id: old, qty: Qty(qty), px: Px(px), ..report(EventKind::Replace, id) }
}

fn sliding(of: RateOf, count: u32, window_ns: u64) -> RateLimit {
    RateLimit { of, kind: RateKind::Sliding, count, window_ns, action: Action::Deny }
}

impl World {
    fn start() -> (Arc<Universe>, LimitTable, Now) {
        let universe = Arc::new(universe());
        let table = LimitTable::unlimited(&universe);
        (universe, table, Now { mono: MonoNanos(10 * SECOND), unix: UnixNanos(1_700_000_000 * SECOND) })
    }

    fn engine() -> World {
        let (universe, table, now) = World::start();
        let sizing =
            Sizing { working_orders: 64, remembered_orders: 64, execs: 128, pairs: 18, recent_orders: 64, parents: 16 };
        let engine = Engine::new(universe.clone(), Arc::new(table.clone()), sizing, now);
        let subject = Subject::Engine(Box::new(engine), Box::new(Effects::new()));
        World { subject, universe, table, now, seq: [1; 6], execs: 0 }
    }

    fn oracle() -> World {
        let (universe, table, now) = World::start();
        let sizing =
            Sizing { working_orders: 64, remembered_orders: 64, execs: 128, pairs: 18, recent_orders: 64, parents: 16 };
        let oracle = Oracle::new(universe.clone(), Arc::new(table.clone()), sizing, now);
        World { subject: Subject::Oracle(Box::new(oracle)), universe, table, now, seq: [1; 6], execs: 0 }
    }

    /// Sends an event as the next of its session's stream.
    fn send(&mut self, mut e: Event) -> Outcome {
        e.seq = self.seq[usize::from(e.session.0)];
        self.seq[usize::from(e.session.0)] += 1;
        self.send_as_it_is(e)
    }

    fn send_as_it_is(&mut self, e: Event) -> Outcome {
        match &mut self.subject {
            Subject::Engine(engine, effects) => {
                effects.clear();
                engine.step(self.now, &e, effects);
                crate::oracle_test::outcome(effects)
            }
            Subject::Oracle(oracle) => oracle.step(self.now, &e),
        }
    }

    fn command(&mut self, command: Command) {
        match &mut self.subject {
            Subject::Engine(engine, effects) => {
                effects.clear();
                engine.command(self.now, command, effects);
            }
            Subject::Oracle(oracle) => {
                oracle.command(self.now, &command);
            }
        }
    }

    fn tick(&mut self) -> Outcome {
        match &mut self.subject {
            Subject::Engine(engine, effects) => {
                effects.clear();
                engine.tick(self.now, effects);
                crate::oracle_test::outcome(effects)
            }
            Subject::Oracle(oracle) => oracle.tick(self.now),
        }
    }

    fn wait(&mut self, ns: u64) {
        self.now.mono.0 += ns;
        self.now.unix.0 += ns;
    }

    /// Puts changed limits in force.
    fn limit(&mut self, change: impl FnOnce(&mut LimitTable, &Universe)) {
        self.table.generation += 1;
        change(&mut self.table, &self.universe);
        self.command(Command::SetLimits(Arc::new(self.table.clone())));
    }

    fn max(&mut self, scope: Scope, gauge: Gauge, limit: i64, action: Action) {
        self.limit(|t, u| {
            let limits = t.edit(u, scope);
            limits.max[gauge as usize] = limit;
            limits.action[gauge.rule() as usize] = action;
        });
    }

    fn rate(&mut self, scope: Scope, rate: RateLimit) {
        self.limit(|t, u| t.edit(u, scope).rates.push(rate));
    }

    fn set_mode(&mut self, scope: Scope, mode: Mode) {
        self.command(Command::Mode { scope, mode, epoch: 1 });
    }

    fn mode(&mut self, scope: Scope) -> Mode {
        let slot = self.universe.slot(scope).expect("a scope with a mode");
        match &mut self.subject {
            Subject::Engine(engine, _) => {
                let published = Published::new(&self.universe);
                engine.show_scope(self.now, slot, &published);
                published.scope(slot).expect("it was shown").mode
            }
            Subject::Oracle(oracle) => oracle.mode(slot),
        }
    }

    fn gauge(&mut self, scope: Scope, gauge: Gauge) -> i64 {
        let slot = self.universe.slot(scope).expect("a scope that is shown");
        match &mut self.subject {
            Subject::Engine(engine, _) => {
                let published = Published::new(&self.universe);
                engine.show_scope(self.now, slot, &published);
                published.scope(slot).expect("it was shown").gauges[gauge as usize]
            }
            Subject::Oracle(oracle) => oracle.gauges(self.now, slot)[gauge as usize],
        }
    }

    /// The position in an instrument, from what is published: with no leaves, long less short is twice it.
    fn position(&mut self, i: InstrumentId) -> i64 {
        let scope = Scope::Instrument(i);
        (self.gauge(scope, Gauge::PositionLong) - self.gauge(scope, Gauge::PositionShort)) / 2
    }

    fn mark(&mut self, i: InstrumentId, px: i64) -> Outcome {
        let mut e = Event::new(EventKind::Mark, REF, 0);
        e.instrument = i;
        e.px = Px(px);
        self.send(e)
    }

    fn fx(&mut self, currency: u32, px: i64) -> Outcome {
        let mut e = Event::new(EventKind::Fx, REF, 0);
        e.instrument = InstrumentId(currency);
        e.px = Px(px);
        self.send(e)
    }

    /// A fill of `id` with a fresh exec id.
    fn fill(&mut self, id: u64, qty: i64, px: i64) -> Outcome {
        self.execs += 1;
        let exec = self.execs;
        self.send(fill(id, exec, qty, px))
    }

    #[track_caller]
    fn admitted(&mut self, e: Event) {
        assert_eq!(self.send(e).verdict, Some(None));
    }

    #[track_caller]
    fn denied(&mut self, e: Event, rule: Rule) -> Deny {
        let out = self.send(e);
        let Some(Some(deny)) = out.verdict else { panic!("expected a denial by {}, got {out:?}", rule.name()) };
        assert_eq!(deny.rule, rule, "{deny:?}");
        deny
    }

    #[track_caller]
    fn denied_why(&mut self, e: Event, rule: Rule, why: Why) {
        let deny = self.denied(e, rule);
        assert_eq!(deny.why, why, "{deny:?}");
    }
}

fn fill(id: u64, exec: u64, qty: i64, px: i64) -> Event {
    Event { ref_id: exec, qty: Qty(qty), px: Px(px), ..report(EventKind::Fill, id) }
}

macro_rules! scenarios {
    ($($name:ident($w:ident) $body:block)*) => {
        $(fn $name($w: &mut World) $body)*
        mod engine {
            $(#[test] fn $name() { super::$name(&mut super::World::engine()); })*
        }
        mod oracle {
            $(#[test] fn $name() { super::$name(&mut super::World::oracle()); })*
        }
    };
}

mod conserve;

const HALT_OWN: Action = Action::Halt(Target::Own);
const PAIR: Scope = Scope::Pair(S0, ACME);
const STRATEGY: Scope = Scope::Strategy(S0);

scenarios! {
    // ---------------------------------------------------------------- nothing set, unlimited, zero

    unset_is_zero(w) {
        w.limit(|t, u| {
            let generation = t.generation;
            *t = LimitTable::closed(u);
            t.generation = generation;
        });
        w.mark(ACME, 1_000);
        let out = w.send(buy(1, 1));
        assert!(matches!(out.verdict, Some(Some(_))), "{out:?}");
        assert_eq!(w.gauge(Scope::Firm, Gauge::Working), 0);
    }

    unlimited_is_a_word_and_admits(w) {
        w.mark(ACME, 1_000);
        w.admitted(buy(1, 1_000_000));
    }

    // ---------------------------------------------------------------- reduce-only and modes

    reduce_only_denies_order_that_opens_from_flat(w) {
        w.set_mode(STRATEGY, Mode::ReduceOnly);
        let deny = w.denied(sell(1, 1), Rule::Mode);
        assert_eq!((deny.scope, deny.observed), (STRATEGY, 1));
    }

    reduce_only_denies_order_that_crosses_zero(w) {
        w.admitted(buy(1, 10));
        w.fill(1, 10, 1_000);
        w.set_mode(STRATEGY, Mode::ReduceOnly);
        w.denied(sell(2, 11), Rule::Mode);
        w.admitted(sell(3, 10));
    }

    reduce_only_counts_the_leaves_that_reduce_already(w) {
        w.admitted(buy(1, 10));
        w.fill(1, 10, 1_000);
        w.set_mode(Scope::Firm, Mode::ReduceOnly);
        w.admitted(sell(2, 6));
        w.denied(sell(3, 5), Rule::Mode);
        w.admitted(sell(4, 4));
    }

    reduce_only_lets_a_short_be_bought_back(w) {
        w.admitted(sell(1, 10));
        w.fill(1, 10, 1_000);
        w.set_mode(Scope::Account(AccountId(0)), Mode::ReduceOnly);
        w.denied(sell(2, 1), Rule::Mode);
        w.denied(buy(3, 11), Rule::Mode);
        w.admitted(buy(4, 10));
    }

    halted_denies_even_a_reduction(w) {
        w.admitted(buy(1, 10));
        w.fill(1, 10, 1_000);
        w.set_mode(Scope::Instrument(ACME), Mode::Halted);
        let deny = w.denied(sell(2, 5), Rule::Mode);
        assert_eq!((deny.scope, deny.observed), (Scope::Instrument(ACME), 2));
        w.admitted(Event { instrument: ES, ..buy(3, 1) });
    }

    the_most_severe_mode_of_the_scopes_wins(w) {
        w.set_mode(Scope::Firm, Mode::ReduceOnly);
        w.set_mode(Scope::Session(GW), Mode::Halted);
        assert_eq!(w.denied(buy(1, 1), Rule::Mode).scope, Scope::Session(GW));
    }

    cancel_passes_in_every_mode(w) {
        w.admitted(buy(1, 10));
        for mode in [Mode::Normal, Mode::ReduceOnly, Mode::Halted] {
            w.set_mode(Scope::Firm, mode);
            w.admitted(Event { ref_id: 1, ..report(EventKind::Cancel, 2) });
        }
    }

    cancel_of_an_unknown_order_passes(w) {
        w.admitted(Event { ref_id: 77, ..report(EventKind::Cancel, 2) });
    }

    replace_is_denied_while_halted(w) {
        w.admitted(buy(1, 10));
        w.set_mode(Scope::Firm, Mode::Halted);
        w.denied(replace(1, 2, 5, 1_000), Rule::Mode);
    }

    replace_that_only_shrinks_passes_in_reduce_only(w) {
        w.admitted(buy(1, 10));
        w.set_mode(Scope::Firm, Mode::ReduceOnly);
        w.denied(replace(1, 2, 11, 1_000), Rule::Mode);
        w.admitted(replace(1, 3, 9, 1_000));
    }

    // ---------------------------------------------------------------- rates

    cap_of_20_admits_20_in_any_window(w) {
        w.rate(STRATEGY, sliding(RateOf::Orders, 20, SECOND));
        let mut times = Vec::new();
        for n in 0..200u64 {
            if w.send(buy(n + 1, 1)).verdict == Some(None) {
                times.push(w.now.mono.0);
                // Keep the table of orders small.
                w.send(report(EventKind::Canceled, n + 1));
            }
            w.wait(SECOND / 50);
        }
        // 4 seconds: 20 at once in each.
        assert_eq!(times.len(), 80);
        for (n, t) in times.iter().enumerate() {
            let within = times[n..].iter().filter(|x| **x - t < SECOND).count();
            assert!(within <= 20, "{within} in a window");
        }
    }

    an_order_leaves_its_window_exactly_at_its_end(w) {
        w.rate(STRATEGY, sliding(RateOf::Orders, 1, 1_000));
        w.admitted(buy(1, 1));
        w.wait(999);
        w.denied(buy(2, 1), Rule::OrderRate);
        w.wait(1);
        w.admitted(buy(3, 1));
    }

    two_windows_reserve_all_or_none(w) {
        w.rate(STRATEGY, sliding(RateOf::Orders, 30, 1_000 * SECOND));
        w.rate(Scope::Firm, sliding(RateOf::Orders, 10, SECOND));
        for n in 1..=500 {
            let _ = w.send(buy(n, 1));
        }
        // Had the denied ones burned the long window, nothing would be left in it.
        for n in 1..=10 {
            w.send(report(EventKind::Canceled, n));
        }
        w.wait(SECOND);
        for n in 501..=510 {
            w.admitted(buy(n, 1));
        }
        w.wait(SECOND);
        for n in 511..=520 {
            w.admitted(buy(n, 1));
        }
        w.wait(SECOND);
        assert_eq!(w.denied(buy(521, 1), Rule::OrderRate).scope, STRATEGY);
    }

    an_order_denied_for_another_reason_consumes_no_rate(w) {
        w.rate(STRATEGY, sliding(RateOf::Orders, 2, SECOND));
        w.limit(|t, u| t.edit(u, STRATEGY).order_qty = 10);
        for n in 1..=50 {
            w.denied(buy(n, 11), Rule::OrderQty);
        }
        w.admitted(buy(51, 10));
        w.admitted(buy(52, 10));
        w.denied(buy(53, 10), Rule::OrderRate);
    }

    rate_zero_means_none(w) {
        w.rate(Scope::Firm, sliding(RateOf::Orders, 0, SECOND));
        w.denied(buy(1, 1), Rule::OrderRate);
        w.wait(10 * SECOND);
        w.denied(buy(2, 1), Rule::OrderRate);
    }

    cell_rate_admits_its_burst_and_then_one_per_interval(w) {
        let limit =
            RateLimit { kind: RateKind::Gcra { burst: 3 }, ..sliding(RateOf::Orders, 10, SECOND) };
        w.rate(STRATEGY, limit);
        for n in 1..=3 {
            w.admitted(buy(n, 1));
        }
        w.denied(buy(4, 1), Rule::OrderRate);
        w.wait(SECOND / 10 - 1);
        w.denied(buy(5, 1), Rule::OrderRate);
        w.wait(1);
        w.admitted(buy(6, 1));
        w.denied(buy(7, 1), Rule::OrderRate);
    }

    messages_count_cancels_but_never_deny_them(w) {
        w.rate(Scope::Session(GW), sliding(RateOf::Messages, 3, SECOND));
        w.admitted(buy(1, 1));
        for n in 2..=9 {
            w.admitted(Event { ref_id: 1, ..report(EventKind::Cancel, n) });
        }
        w.denied(buy(10, 1), Rule::MessageRate);
    }

    cancel_rate_over_its_limit_latches_and_still_passes(w) {
        let limit = RateLimit { action: HALT_OWN, ..sliding(RateOf::Cancels, 2, SECOND) };
        w.rate(Scope::Session(GW), limit);
        w.admitted(buy(1, 1));
        let cancel = |n| Event { ref_id: 1, ..report(EventKind::Cancel, n) };
        w.admitted(cancel(2));
        w.admitted(cancel(3));
        let out = w.send(cancel(4));
        assert_eq!(out.verdict, Some(None));
        assert_eq!(out.trips, [(Scope::Session(GW), Mode::Halted, Rule::CancelRate)]);
    }

    denials_escalate_to_halt(w) {
        let limit = RateLimit { action: HALT_OWN, ..sliding(RateOf::Denials, 3, SECOND) };
        w.rate(STRATEGY, limit);
        w.limit(|t, u| t.edit(u, STRATEGY).order_qty = 10);
        for n in 1..=3 {
            assert_eq!(w.send(buy(n, 11)).trips, []);
        }
        assert_eq!(w.send(buy(4, 11)).trips, [(STRATEGY, Mode::Halted, Rule::Denials)]);
        w.denied(buy(5, 1), Rule::Mode);
    }

    denials_that_left_the_window_do_not_escalate(w) {
        let limit = RateLimit { action: HALT_OWN, ..sliding(RateOf::Denials, 1, 100) };
        w.rate(STRATEGY, limit);
        w.limit(|t, u| t.edit(u, STRATEGY).order_qty = 10);
        for n in 1..=10 {
            assert_eq!(w.send(buy(n, 11)).trips, []);
            w.wait(100);
        }
    }

    // ---------------------------------------------------------------- one order

    order_quantity_may_reach_its_limit_but_not_pass_it(w) {
        w.limit(|t, u| t.edit(u, Scope::Firm).order_qty = 100);
        w.admitted(buy(1, 100));
        let deny = w.denied(buy(2, 101), Rule::OrderQty);
        assert_eq!((deny.scope, deny.observed, deny.limit), (Scope::Firm, 101, 100));
    }

    the_most_restrictive_scope_wins(w) {
        w.limit(|t, u| {
            t.edit(u, Scope::Firm).order_qty = 100;
            t.edit(u, PAIR).order_qty = 5;
        });
        assert_eq!(w.denied(buy(1, 6), Rule::OrderQty).scope, PAIR);
        w.admitted(Event { instrument: ES, ..buy(2, 6) });
    }

    order_value_uses_the_contract_multiplier(w) {
        // 4 × 5,000.00 × 50 = 1,000,000.00.
        w.limit(|t, u| t.edit(u, Scope::Firm).order_notional = 100_000_000);
        w.admitted(Event { instrument: ES, px: Px(500_000), ..buy(1, 4) });
        let deny = w.denied(Event { instrument: ES, px: Px(500_025), ..buy(2, 4) }, Rule::OrderNotional);
        assert_eq!(deny.observed, 100_005_000);
    }

    satoshi_are_valued_exactly(w) {
        // 0.00000001 BTC at 100,000.00 is a tenth of a cent: counted as a whole one.
        w.limit(|t, u| t.edit(u, Scope::Firm).order_notional = 0);
        let deny = w.denied(Event { instrument: BTC, px: Px(10_000_000), ..buy(1, 1) }, Rule::OrderNotional);
        assert_eq!(deny.observed, 1);
        // 21 million BTC at 100,000.00: 2.1 trillion.
        let all = Event { instrument: BTC, px: Px(10_000_000), ..buy(2, 2_100_000_000_000_000) };
        assert_eq!(w.denied(all, Rule::OrderNotional).observed, 210_000_000_000_000);
    }

    tokens_by_the_trillion_are_valued_exactly(w) {
        // 3 trillion at 0.00001234: 37,020,000.00.
        w.limit(|t, u| t.edit(u, Scope::Firm).order_notional = 3_701_999_999);
        let deny = w.denied(
            Event { instrument: TOKEN, px: Px(1_234), ..buy(1, 3_000_000_000_000) },
            Rule::OrderNotional,
        );
        assert_eq!(deny.observed, 3_702_000_000);
    }

    overflow_is_a_denial(w) {
        w.limit(|t, u| t.edit(u, Scope::Firm).order_notional = REPRESENTABLE_MAX - 1);
        let huge = Event { px: Px(REPRESENTABLE_MAX), ..buy(1, REPRESENTABLE_MAX) };
        w.denied_why(huge, Rule::OrderNotional, Why::Unrepresentable);
        w.denied(Event { qty: Qty(i64::MAX), ..buy(2, 1) }, Rule::Malformed);
        w.denied(Event { px: Px(i64::MIN), ..buy(3, 1) }, Rule::Malformed);
    }

    participation_is_measured_against_the_volume(w) {
        // 1% of 10,000.
        w.limit(|t, u| t.edit(u, Scope::Firm).order_participation = 100);
        w.admitted(buy(1, 100));
        assert_eq!(w.denied(buy(2, 101), Rule::OrderParticipation).observed, 101);
        w.denied_why(Event { instrument: ES, ..buy(3, 1) }, Rule::OrderParticipation, Why::VolumeMissing);
    }

    impossible_orders_are_malformed(w) {
        w.denied(buy(1, 0), Rule::Malformed);
        w.denied(buy(2, -5), Rule::Malformed);
        w.denied(buy(0, 5), Rule::Malformed);
        w.denied(Event { px: Px(0), ..buy(3, 1) }, Rule::Malformed);
        w.denied(Event { flags: Event::MALFORMED, ..buy(4, 1) }, Rule::Malformed);
        w.admitted(Event { px: Px(-3_763), instrument: SPREAD, ..buy(5, 1) });
    }

    unknown_strategy_account_or_instrument_is_denied(w) {
        w.denied(Event { strategy: StrategyId::UNKNOWN, ..buy(1, 1) }, Rule::UnknownEntity);
        w.denied(Event { account: AccountId::UNKNOWN, ..buy(2, 1) }, Rule::UnknownEntity);
        w.denied(Event { instrument: InstrumentId::UNKNOWN, ..buy(3, 1) }, Rule::UnknownEntity);
    }

    id_reuse_is_denied(w) {
        w.admitted(buy(1, 1));
        w.denied(buy(1, 1), Rule::DuplicateId);
        w.send(report(EventKind::Canceled, 1));
        w.denied(buy(1, 1), Rule::DuplicateId);
        // Another session's ids are its own.
        w.admitted(Event { session: GW2, ..buy(1, 1) });
    }

    id_of_a_denied_order_is_free(w) {
        w.limit(|t, u| t.edit(u, STRATEGY).order_qty = 10);
        w.denied(buy(1, 11), Rule::OrderQty);
        w.admitted(buy(1, 10));
    }

    // ---------------------------------------------------------------- references, collar

    market_order_without_reference_is_denied(w) {
        let market = Event { ord_type: OrdType::Market, px: Px(0), ..buy(1, 1) };
        w.denied_why(market, Rule::Collar, Why::ReferenceMissing);
        w.mark(ACME, 1_000);
        w.admitted(Event { id: OrdId(2), ..market });
    }

    collar_denies_beyond_its_bound_and_admits_on_it(w) {
        w.mark(ACME, 1_000);
        w.limit(|t, u| t.edit(u, Scope::Instrument(ACME)).collar = 950);
        w.admitted(Event { px: Px(1_095), ..buy(1, 1) });
        w.admitted(Event { px: Px(905), ..buy(2, 1) });
        let deny = w.denied(Event { px: Px(1_096), ..buy(3, 1) }, Rule::Collar);
        assert_eq!((deny.observed, deny.limit), (1_096, 1_095));
        let deny = w.denied(Event { px: Px(904), ..sell(4, 1) }, Rule::Collar);
        assert_eq!((deny.observed, deny.limit), (904, 905));
    }

    armed_collar_without_reference_denies(w) {
        w.limit(|t, u| t.edit(u, Scope::Firm).collar = 950);
        w.denied_why(buy(1, 1), Rule::Collar, Why::ReferenceMissing);
    }

    stale_reference_denies_and_a_fresh_one_readmits(w) {
        w.limit(|t, u| {
            t.edit(u, Scope::Firm).collar = 950;
            t.set_reference_age(ACME, SECOND);
        });
        w.mark(ACME, 1_000);
        w.wait(SECOND);
        w.admitted(buy(1, 1));
        w.wait(1);
        let deny = w.denied(buy(2, 1), Rule::Collar);
        assert_eq!((deny.why, deny.observed, deny.limit), (Why::ReferenceStale, 1_000_000_001, 1_000_000_000));
        w.mark(ACME, 1_000);
        w.admitted(buy(3, 1));
    }

    market_order_counts_at_the_worst_price_of_its_collar(w) {
        w.mark(ACME, 1_000);
        w.limit(|t, u| {
            t.edit(u, Scope::Firm).collar = 1_000;
            t.edit(u, Scope::Firm).order_notional = 10_999;
        });
        let market = Event { ord_type: OrdType::Market, px: Px(0), ..buy(1, 10) };
        assert_eq!(w.denied(market, Rule::OrderNotional).observed, 11_000);
        w.admitted(Event { qty: Qty(9), ..market });
    }

    fx_missing_denies_foreign_but_not_base(w) {
        w.mark(ACME, 1_000);
        w.mark(SAP, 1_000);
        w.max(Scope::Firm, Gauge::Gross, 1_000_000, Action::Deny);
        w.admitted(buy(1, 1));
        w.denied_why(Event { instrument: SAP, ..buy(2, 1) }, Rule::GrossExposure, Why::FxMissing);
        w.fx(1, 11_000_000_000);
        w.admitted(Event { instrument: SAP, ..buy(3, 10) });
        // 10.00 and 10 × 10.00 × 1.1.
        assert_eq!(w.gauge(Scope::Firm, Gauge::Gross), 1_000 + 11_000);
    }

    exposure_limit_without_reference_denies(w) {
        w.max(STRATEGY, Gauge::NetLong, 1_000_000, Action::Deny);
        w.denied_why(buy(1, 1), Rule::NetLong, Why::ReferenceMissing);
    }

    // ---------------------------------------------------------------- duplicates

    duplicate_rule_clears_after_its_window(w) {
        w.limit(|t, u| t.edit(u, STRATEGY).duplicate = Some(DuplicateLimit { count: 2, window_ns: 1_000 }));
        w.admitted(buy(1, 5));
        w.admitted(buy(2, 5));
        w.denied(buy(3, 5), Rule::DuplicateOrder);
        w.admitted(buy(4, 6));
        w.admitted(sell(5, 5));
        w.wait(999);
        w.denied(buy(6, 5), Rule::DuplicateOrder);
        w.wait(1);
        w.admitted(buy(7, 5));
    }

    // ---------------------------------------------------------------- positions and exposures

    working_orders_count_towards_position(w) {
        w.max(PAIR, Gauge::PositionLong, 10, Action::Deny);
        w.admitted(buy(1, 6));
        let deny = w.denied(buy(2, 5), Rule::PositionLong);
        assert_eq!((deny.scope, deny.observed, deny.limit), (PAIR, 11, 10));
        w.admitted(buy(3, 4));
        w.denied(buy(4, 1), Rule::PositionLong);
        w.admitted(sell(5, 100));
    }

    sell_leaves_do_not_make_room_for_buys(w) {
        w.max(PAIR, Gauge::PositionLong, 10, Action::Deny);
        w.admitted(sell(1, 10));
        w.admitted(buy(2, 10));
        w.denied(buy(3, 1), Rule::PositionLong);
    }

    working_orders_count_towards_exposure(w) {
        w.mark(ACME, 1_000);
        w.max(STRATEGY, Gauge::Gross, 10_000, Action::Deny);
        w.admitted(buy(1, 6));
        assert_eq!(w.denied(buy(2, 5), Rule::GrossExposure).observed, 11_000);
        w.admitted(buy(3, 4));
    }

    short_cannot_escape_a_gross_cap(w) {
        w.mark(ACME, 1_000);
        w.mark(ES, 1_000);
        w.max(Scope::Account(AccountId(0)), Gauge::Gross, 10_000, Action::Deny);
        w.admitted(buy(1, 5));
        w.fill(1, 5, 1_000);
        // A short in the other instrument adds, it does not net.
        w.denied(Event { instrument: ES, strategy: S1, ..sell(2, 1) }, Rule::GrossExposure);
        w.denied(Event { strategy: S1, ..sell(3, 6) }, Rule::GrossExposure);
        w.admitted(Event { strategy: S1, ..sell(4, 5) });
    }

    gross_counts_both_sides_of_the_book(w) {
        w.mark(ACME, 1_000);
        w.admitted(buy(1, 10));
        w.admitted(sell(2, 10));
        assert_eq!(w.gauge(STRATEGY, Gauge::Gross), 20_000);
        assert_eq!(w.gauge(STRATEGY, Gauge::NetLong), 10_000);
        assert_eq!(w.gauge(STRATEGY, Gauge::NetShort), 10_000);
    }

    exposure_is_summed_per_account_and_instrument(w) {
        w.mark(ACME, 1_000);
        w.admitted(buy(1, 1));
        w.admitted(Event { strategy: S1, ..buy(2, 2) });
        w.admitted(Event { strategy: S2, account: AccountId(1), ..buy(3, 4) });
        assert_eq!(w.gauge(Scope::Account(AccountId(0)), Gauge::Gross), 3_000);
        assert_eq!(w.gauge(Scope::Account(AccountId(1)), Gauge::Gross), 4_000);
        assert_eq!(w.gauge(Scope::Instrument(ACME), Gauge::Gross), 7_000);
        assert_eq!(w.gauge(Scope::Firm, Gauge::Gross), 7_000);
    }

    working_order_count_is_limited(w) {
        w.max(Scope::Session(GW), Gauge::Working, 2, Action::Deny);
        w.admitted(buy(1, 1));
        w.admitted(buy(2, 1));
        w.denied(buy(3, 1), Rule::WorkingOrders);
        w.send(report(EventKind::Expired, 1));
        w.admitted(buy(4, 1));
    }

    lowering_a_limit_below_use_denies_increase_but_admits_reduction(w) {
        w.mark(ACME, 1_000);
        w.max(STRATEGY, Gauge::Gross, 100_000, Action::Deny);
        w.admitted(buy(1, 50));
        w.fill(1, 50, 1_000);
        w.max(STRATEGY, Gauge::Gross, 10_000, Action::Deny);
        w.denied(buy(2, 1), Rule::GrossExposure);
        w.admitted(sell(3, 50));
    }

    raising_a_limit_readmits(w) {
        w.max(PAIR, Gauge::PositionLong, 10, Action::Deny);
        w.denied(buy(1, 11), Rule::PositionLong);
        w.max(PAIR, Gauge::PositionLong, 11, Action::Deny);
        w.admitted(buy(2, 11));
    }

    day_participation_counts_traded_and_open(w) {
        // 10% of 10,000.
        w.max(Scope::Instrument(ACME), Gauge::DayQty, 1_000, Action::Deny);
        w.admitted(buy(1, 600));
        w.fill(1, 600, 1_000);
        w.admitted(sell(2, 400));
        w.denied(Event { strategy: S1, ..buy(3, 1) }, Rule::DayParticipation);
        w.send(report(EventKind::Canceled, 2));
        w.admitted(Event { strategy: S1, ..buy(4, 400) });
        w.command(Command::NewDay);
        assert_eq!(w.gauge(Scope::Instrument(ACME), Gauge::DayQty), 400);
    }

    // ---------------------------------------------------------------- replaces

    replaced_order_counts_once(w) {
        w.admitted(buy(1, 10));
        w.send(report(EventKind::Ack, 1));
        w.admitted(replace(1, 2, 12, 1_000));
        w.send(Event { kind: EventKind::Replaced, ..replace(1, 2, 12, 1_000) });
        assert_eq!(w.gauge(Scope::Firm, Gauge::Working), 1);
        assert_eq!(w.gauge(Scope::Instrument(ACME), Gauge::PositionLong), 12);
    }

    pending_replace_counts_the_worse(w) {
        w.max(PAIR, Gauge::PositionLong, 12, Action::Deny);
        w.admitted(buy(1, 10));
        w.denied(replace(1, 2, 13, 1_000), Rule::PositionLong);
        // Going down: the old quantity counts until the venue has confirmed.
        w.admitted(replace(1, 3, 4, 1_000));
        w.denied(buy(4, 3), Rule::PositionLong);
        w.send(Event { kind: EventKind::Replaced, ..replace(1, 3, 4, 1_000) });
        w.admitted(buy(5, 8));
    }

    rejected_replace_restores_the_old(w) {
        w.admitted(buy(1, 10));
        w.admitted(replace(1, 2, 15, 1_000));
        assert_eq!(w.gauge(Scope::Instrument(ACME), Gauge::PositionLong), 15);
        w.send(Event { ref_id: 1, ..report(EventKind::CancelRejected, 2) });
        assert_eq!(w.gauge(Scope::Instrument(ACME), Gauge::PositionLong), 10);
    }

    a_second_replace_waits_for_the_first(w) {
        w.admitted(buy(1, 10));
        w.admitted(replace(1, 2, 11, 1_000));
        w.denied(replace(1, 3, 12, 1_000), Rule::UnknownOrder);
        w.denied(replace(99, 4, 12, 1_000), Rule::UnknownOrder);
    }

    replace_below_what_is_filled_is_malformed(w) {
        w.admitted(buy(1, 10));
        w.fill(1, 6, 1_000);
        w.denied(replace(1, 2, 6, 1_000), Rule::Malformed);
        w.admitted(replace(1, 3, 7, 1_000));
    }

    fill_on_the_replaced_id_finds_its_successor(w) {
        w.admitted(buy(1, 10));
        w.admitted(replace(1, 2, 20, 1_000));
        w.send(Event { kind: EventKind::Replaced, ..replace(1, 2, 20, 1_000) });
        w.fill(1, 5, 1_000);
        w.fill(2, 5, 1_000);
        assert_eq!(w.position(ACME), 2 * 10 / 2 + 10 / 2);
        assert_eq!(w.gauge(Scope::Instrument(ACME), Gauge::PositionLong), 20);
    }

    // ---------------------------------------------------------------- fills

    partial_fill_moves_leaves_into_the_position(w) {
        w.max(PAIR, Gauge::PositionLong, 10, Action::Deny);
        w.admitted(buy(1, 10));
        w.fill(1, 4, 1_000);
        assert_eq!(w.gauge(Scope::Instrument(ACME), Gauge::PositionLong), 10);
        assert_eq!(w.gauge(Scope::Instrument(ACME), Gauge::PositionShort), -4);
        w.denied(buy(2, 1), Rule::PositionLong);
        w.fill(1, 6, 1_000);
        assert_eq!(w.gauge(Scope::Firm, Gauge::Working), 0);
        assert_eq!(w.position(ACME), 10);
    }

    duplicate_fill_is_booked_once(w) {
        w.admitted(buy(1, 10));
        w.send(fill(1, 7, 4, 1_000));
        let out = w.send(fill(1, 7, 4, 1_000));
        assert_eq!(out.anomalies, [AnomalyKind::DuplicateExec]);
        assert_eq!(w.gauge(Scope::Instrument(ACME), Gauge::PositionShort), -4);
        assert_eq!(w.gauge(Scope::Firm, Gauge::Executions), 1);
    }

    unknown_fill_counts(w) {
        let out = w.send(Event { side: Side::Sell, ..fill(55, 1, 4, 1_000) });
        assert_eq!(out.anomalies, [AnomalyKind::UnknownFill]);
        assert_eq!(w.position(ACME), -4);
        assert_eq!(w.gauge(Scope::Session(GW), Gauge::Executions), 1);
    }

    late_fill_after_halt_is_booked(w) {
        w.admitted(buy(1, 10));
        w.set_mode(Scope::Firm, Mode::Halted);
        w.send(report(EventKind::Canceled, 1));
        let out = w.fill(1, 10, 1_000);
        assert_eq!(out.anomalies, [AnomalyKind::LateFill]);
        assert_eq!(w.position(ACME), 10);
        assert_eq!(w.gauge(Scope::Firm, Gauge::Working), 0);
    }

    overfill_is_booked_in_full(w) {
        w.admitted(buy(1, 10));
        let out = w.fill(1, 13, 1_000);
        assert_eq!(out.anomalies, [AnomalyKind::Overfill]);
        assert_eq!(w.position(ACME), 13);
        assert_eq!(w.gauge(Scope::Firm, Gauge::Working), 0);
    }

    bust_restores_position(w) {
        w.mark(ACME, 1_000);
        w.admitted(buy(1, 10));
        w.send(fill(1, 1, 4, 1_100));
        assert_eq!(w.gauge(STRATEGY, Gauge::Loss), 400);
        w.send(Event { ref_id: 2, ..report(EventKind::Bust, 1) });
        assert_eq!(w.gauge(STRATEGY, Gauge::Loss), 0);
        assert_eq!(w.gauge(Scope::Instrument(ACME), Gauge::PositionShort), 0);
        assert_eq!(w.gauge(Scope::Instrument(ACME), Gauge::PositionLong), 10);
        assert_eq!(w.gauge(Scope::Instrument(ACME), Gauge::DayQty), 10);
        let again = w.send(Event { ref_id: 3, ..report(EventKind::Bust, 1) });
        assert_eq!(again.anomalies, [AnomalyKind::UnknownExec]);
    }

    correction_replaces_quantity_and_price(w) {
        w.mark(ACME, 1_000);
        w.admitted(buy(1, 10));
        w.send(fill(1, 1, 10, 1_100));
        w.send(Event { ref_id: 2, qty: Qty(8), px: Px(1_050), ..report(EventKind::Correct, 1) });
        assert_eq!(w.position(ACME), 8);
        assert_eq!(w.gauge(STRATEGY, Gauge::Loss), 400);
    }

    fill_that_names_nothing_known_halts_its_session(w) {
        let out = w.send(Event { strategy: StrategyId::UNKNOWN, ..fill(55, 1, 4, 1_000) });
        assert_eq!(out.anomalies, [AnomalyKind::UnbookableFill]);
        assert_eq!(w.mode(Scope::Session(GW)), Mode::Halted);
    }

    unsolicited_cancel_releases_exposure(w) {
        w.max(PAIR, Gauge::PositionLong, 10, Action::Deny);
        w.admitted(buy(1, 10));
        w.denied(buy(2, 10), Rule::PositionLong);
        let out = w.send(report(EventKind::Canceled, 1));
        assert_eq!(out.anomalies, [AnomalyKind::UnsolicitedCancel]);
        w.admitted(buy(3, 10));
    }

    pending_cancel_still_counts(w) {
        w.max(PAIR, Gauge::PositionLong, 10, Action::Deny);
        w.admitted(buy(1, 10));
        w.admitted(Event { ref_id: 1, ..report(EventKind::Cancel, 2) });
        w.denied(buy(3, 1), Rule::PositionLong);
        assert_eq!(w.send(report(EventKind::Canceled, 1)).anomalies, []);
        w.admitted(buy(4, 10));
    }

    ack_of_a_done_order_brings_nothing_back(w) {
        w.admitted(buy(1, 10));
        w.send(report(EventKind::Rejected, 1));
        assert_eq!(w.send(report(EventKind::Ack, 1)).anomalies, [AnomalyKind::StateMismatch]);
        assert_eq!(w.gauge(Scope::Firm, Gauge::Working), 0);
        assert_eq!(w.gauge(Scope::Instrument(ACME), Gauge::PositionLong), 0);
    }

    // ---------------------------------------------------------------- repeated automation

    repeated_executions_need_a_rearm(w) {
        w.max(STRATEGY, Gauge::Executions, 3, HALT_OWN);
        w.admitted(buy(1, 100));
        for _ in 0..3 {
            assert_eq!(w.fill(1, 1, 1_000).trips, []);
        }
        assert_eq!(w.fill(1, 1, 1_000).trips, [(STRATEGY, Mode::Halted, Rule::RepeatedExecutions)]);
        w.wait(1_000 * SECOND);
        w.denied(buy(2, 1), Rule::Mode);
        w.set_mode(STRATEGY, Mode::Normal);
        assert_eq!(w.gauge(STRATEGY, Gauge::Executions), 0);
        w.admitted(buy(3, 1));
    }

    repeated_orders_need_a_rearm(w) {
        w.max(STRATEGY, Gauge::Orders, 2, HALT_OWN);
        w.admitted(buy(1, 1));
        w.admitted(buy(2, 1));
        let out = w.send(buy(3, 1));
        assert_eq!(out.trips, [(STRATEGY, Mode::Halted, Rule::RepeatedOrders)]);
        w.command(Command::NewDay);
        w.denied(buy(4, 1), Rule::Mode);
        w.set_mode(STRATEGY, Mode::Normal);
        w.admitted(buy(5, 1));
    }

    // ---------------------------------------------------------------- losses

    daily_loss_trips_on_a_mark(w) {
        w.mark(ACME, 1_000);
        w.max(STRATEGY, Gauge::Loss, 999, HALT_OWN);
        w.admitted(buy(1, 10));
        w.fill(1, 10, 1_000);
        assert_eq!(w.mark(ACME, 901).trips, []);
        assert_eq!(w.mark(ACME, 900).trips, [(STRATEGY, Mode::Halted, Rule::DailyLoss)]);
        assert_eq!(w.gauge(STRATEGY, Gauge::Loss), 1_000);
    }

    a_loss_over_its_limit_denies_new_risk_but_not_the_way_out(w) {
        w.mark(ACME, 1_000);
        w.max(STRATEGY, Gauge::Loss, 999, Action::Deny);
        w.admitted(buy(1, 10));
        w.fill(1, 10, 1_000);
        assert_eq!(w.mark(ACME, 900).trips, []);
        w.denied(Event { px: Px(900), ..buy(2, 1) }, Rule::DailyLoss);
        w.admitted(Event { px: Px(900), ..sell(3, 10) });
    }

    drawdown_is_measured_from_the_high_water_mark(w) {
        w.mark(ACME, 1_000);
        w.max(STRATEGY, Gauge::Drawdown, 500, HALT_OWN);
        w.admitted(buy(1, 10));
        w.fill(1, 10, 1_000);
        w.mark(ACME, 1_100);
        assert_eq!(w.mark(ACME, 1_050).trips, []);
        assert_eq!(w.mark(ACME, 1_049).trips, [(STRATEGY, Mode::Halted, Rule::Drawdown)]);
        // In profit all the same.
        assert_eq!(w.gauge(STRATEGY, Gauge::Loss), -490);
        w.set_mode(STRATEGY, Mode::Normal);
        assert_eq!(w.gauge(STRATEGY, Gauge::Drawdown), 0);
    }

    loss_velocity_sees_a_fast_fall_and_not_a_slow_one(w) {
        w.limit(|t, u| t.edit(u, STRATEGY).loss_window_ns = 16_000);
        w.max(STRATEGY, Gauge::LossVelocity, 500, HALT_OWN);
        w.mark(ACME, 1_000);
        w.admitted(buy(1, 10));
        w.fill(1, 10, 1_000);
        // 10 a slice of 1,000 ns: 170 in the window.
        for px in (900..1_000).rev() {
            w.wait(1_000);
            assert_eq!(w.mark(ACME, px).trips, []);
        }
        assert_eq!(w.gauge(STRATEGY, Gauge::LossVelocity), 170);
        assert_eq!(w.gauge(STRATEGY, Gauge::Loss), 1_000);
        assert_eq!(w.mark(ACME, 860).trips, [(STRATEGY, Mode::Halted, Rule::LossVelocity)]);
    }

    new_day_starts_the_loss_from_the_present_marks(w) {
        w.mark(ACME, 1_000);
        w.admitted(buy(1, 10));
        w.fill(1, 10, 1_000);
        w.mark(ACME, 900);
        assert_eq!(w.gauge(Scope::Firm, Gauge::Loss), 1_000);
        w.command(Command::NewDay);
        assert_eq!(w.gauge(Scope::Firm, Gauge::Loss), 0);
        assert_eq!(w.gauge(Scope::Firm, Gauge::Drawdown), 0);
        assert_eq!(w.position(ACME), 10);
        w.mark(ACME, 890);
        assert_eq!(w.gauge(Scope::Firm, Gauge::Loss), 100);
    }

    realised_loss_stays_after_the_position_is_closed(w) {
        w.mark(ACME, 1_000);
        w.admitted(buy(1, 10));
        w.fill(1, 10, 1_100);
        w.admitted(sell(2, 10));
        w.fill(2, 10, 1_000);
        w.mark(ACME, 5_000);
        assert_eq!(w.gauge(Scope::Firm, Gauge::Loss), 1_000);
    }

    // ---------------------------------------------------------------- permissions

    restricted_instrument_is_denied(w) {
        w.limit(|t, _| t.restrict(ACME, true));
        w.denied(buy(1, 1), Rule::Restricted);
        w.admitted(Event { instrument: ES, ..buy(2, 1) });
    }

    strategy_may_trade_only_what_it_is_permitted(w) {
        w.limit(|t, _| t.permit(S0, Some(vec![ES])));
        w.denied(buy(1, 1), Rule::Permission);
        w.admitted(Event { instrument: ES, ..buy(2, 1) });
        w.admitted(Event { strategy: S1, ..buy(3, 1) });
    }

    session_may_trade_only_its_strategies(w) {
        w.denied(Event { session: GW2, strategy: S1, ..buy(1, 1) }, Rule::Permission);
        w.admitted(Event { session: GW2, ..buy(2, 1) });
    }

    strategy_trades_for_its_own_account_only(w) {
        w.denied(Event { account: AccountId(1), ..buy(1, 1) }, Rule::Permission);
    }

    long_only_is_judged_by_quantity(w) {
        w.limit(|t, u| t.edit(u, STRATEGY).sides = SideRule::LongOnly);
        w.denied(sell(1, 1), Rule::SidePermission);
        w.admitted(buy(2, 10));
        w.denied(sell(3, 1), Rule::SidePermission);
        w.fill(2, 10, 1_000);
        w.admitted(sell(4, 6));
        let deny = w.denied(sell(5, 5), Rule::SidePermission);
        assert_eq!((deny.observed, deny.limit), (11, 10));
        w.admitted(sell(6, 4));
    }

    // ---------------------------------------------------------------- streams

    gap_denies_until_resent(w) {
        w.admitted(buy(1, 1));
        let ahead = Event { seq: 5, ..buy(2, 1) };
        let out = w.send_as_it_is(ahead);
        assert!(matches!(out.verdict, Some(Some(Deny { rule: Rule::StreamGap, .. }))), "{out:?}");
        assert_eq!((out.resend, out.anomalies), (Some(2), vec![AnomalyKind::SeqGap]));
        assert_eq!(w.gauge(Scope::Firm, Gauge::Working), 1);
        let out = w.send_as_it_is(Event { seq: 2, ..buy(3, 1) });
        assert_eq!((out.verdict, out.anomalies), (Some(None), vec![AnomalyKind::SeqGapClosed]));
    }

    event_received_twice_changes_nothing(w) {
        w.admitted(buy(1, 1));
        let out = w.send_as_it_is(Event { seq: 1, ..buy(1, 1) });
        assert_eq!((out.verdict, out.anomalies), (None, vec![AnomalyKind::DuplicateSeq]));
        assert_eq!(w.gauge(Scope::Firm, Gauge::Working), 1);
    }

    reports_are_acknowledged_by_sequence(w) {
        w.admitted(buy(1, 1));
        assert_eq!(w.send(report(EventKind::Ack, 1)).applied, Some(2));
        assert_eq!(w.send(report(EventKind::Heartbeat, 0)).applied, Some(3));
    }

    heartbeat_loss_denies(w) {
        w.limit(|t, u| t.edit(u, Scope::Session(GW)).heartbeat_ns = SECOND as i64);
        w.send(report(EventKind::Heartbeat, 0));
        w.wait(SECOND);
        w.admitted(buy(1, 1));
        w.wait(SECOND + 1);
        w.denied(buy(2, 1), Rule::HeartbeatLoss);
        w.admitted(buy(3, 1));
    }

    silence_alone_halts_where_the_limit_says_so(w) {
        w.limit(|t, u| {
            let limits = t.edit(u, Scope::Session(GW));
            limits.heartbeat_ns = SECOND as i64;
            limits.action[Rule::HeartbeatLoss as usize] = HALT_OWN;
        });
        w.send(report(EventKind::Heartbeat, 0));
        w.wait(SECOND);
        assert_eq!(w.tick().trips, []);
        w.wait(1);
        assert_eq!(w.tick().trips, [(Scope::Session(GW), Mode::Halted, Rule::HeartbeatLoss)]);
    }

    clock_skew_denies_requests_and_takes_reports(w) {
        w.limit(|t, u| t.edit(u, Scope::Session(GW)).clock_skew_ns = 1_000);
        let at = |w: &World, by: i64| UnixNanos(w.now.unix.0.wrapping_add_signed(by));
        w.admitted(Event { sent_at: at(w, 1_000), ..buy(1, 1) });
        w.denied(Event { sent_at: at(w, 1_001), ..buy(2, 1) }, Rule::ClockSkew);
        w.denied(Event { sent_at: at(w, -1_001), ..buy(3, 1) }, Rule::ClockSkew);
        w.denied(buy(4, 1), Rule::ClockSkew);
        w.fill(1, 1, 1_000);
        assert_eq!(w.position(ACME), 1);
    }

    marks_come_from_reference_sessions_only(w) {
        let mut forged = Event::new(EventKind::Mark, GW, 0);
        forged.px = Px(1_000);
        assert_eq!(w.send(forged).anomalies, [AnomalyKind::BadReference]);
        w.denied(Event { ord_type: OrdType::Market, px: Px(0), ..buy(1, 1) }, Rule::Collar);
    }

    // ---------------------------------------------------------------- observed sessions

    observe_breach_halts(w) {
        w.max(STRATEGY, Gauge::Working, 1, Action::Deny);
        let observed = |id| Event { session: DROP, ..buy(id, 1) };
        assert_eq!(w.send(observed(1)).trips, []);
        let out = w.send(observed(2));
        assert_eq!(out.verdict, None);
        assert_eq!(out.trips, [(STRATEGY, Mode::Halted, Rule::WorkingOrders)]);
        // It was sent, so it counts.
        assert_eq!(w.gauge(STRATEGY, Gauge::Working), 2);
        w.denied(buy(3, 1), Rule::Mode);
    }

    observed_order_too_large_halts_its_session(w) {
        w.limit(|t, u| t.edit(u, Scope::Firm).order_qty = 10);
        let out = w.send(Event { session: DROP, ..buy(1, 11) });
        assert_eq!(out.trips, [(Scope::Session(DROP), Mode::Halted, Rule::OrderQty)]);
        assert_eq!(w.gauge(Scope::Instrument(ACME), Gauge::PositionLong), 11);
        w.admitted(buy(2, 1));
    }

    observed_market_order_without_reference_is_booked_and_halts(w) {
        let out = w.send(Event { session: DROP, ord_type: OrdType::Market, px: Px(0), ..buy(1, 11) });
        assert_eq!(out.trips, [(Scope::Session(DROP), Mode::Halted, Rule::Collar)]);
        assert_eq!(w.gauge(Scope::Firm, Gauge::Working), 1);
    }

    // ---------------------------------------------------------------- several breaches

    the_most_severe_action_is_named_and_every_latch_carried_out(w) {
        w.limit(|t, u| {
            let firm = t.edit(u, Scope::Firm);
            firm.order_qty = 10;
            let strategy = t.edit(u, STRATEGY);
            strategy.order_qty = 10;
            strategy.action[Rule::OrderQty as usize] = Action::ReduceOnly(Target::Own);
            let session = t.edit(u, Scope::Session(GW));
            session.order_qty = 10;
            session.action[Rule::OrderQty as usize] = Action::Halt(Target::Account);
        });
        let out = w.send(buy(1, 11));
        let Some(Some(deny)) = out.verdict else { panic!("{out:?}") };
        assert_eq!(deny.scope, Scope::Session(GW));
        let mut trips = out.trips;
        trips.sort();
        assert_eq!(
            trips,
            [
                (Scope::Account(AccountId(0)), Mode::Halted, Rule::OrderQty),
                (STRATEGY, Mode::ReduceOnly, Rule::OrderQty),
            ]
        );
    }

    a_latched_scope_does_not_trip_again(w) {
        w.limit(|t, u| {
            let strategy = t.edit(u, STRATEGY);
            strategy.order_qty = 10;
            strategy.action[Rule::OrderQty as usize] = HALT_OWN;
        });
        assert_eq!(w.send(buy(1, 11)).trips.len(), 1);
        assert_eq!(w.send(buy(2, 11)).trips, []);
    }

    pair_limit_halts_its_strategy(w) {
        w.limit(|t, u| {
            let pair = t.edit(u, PAIR);
            pair.order_qty = 10;
            pair.action[Rule::OrderQty as usize] = HALT_OWN;
        });
        assert_eq!(w.send(buy(1, 11)).trips, [(STRATEGY, Mode::Halted, Rule::OrderQty)]);
    }

    limits_of_one_kind_apply_to_every_scope_of_it(w) {
        w.limit(|t, _| t.edit_all(ScopeKind::Pair).order_qty = 3);
        w.denied(buy(1, 4), Rule::OrderQty);
        w.denied(Event { strategy: S1, ..buy(2, 4) }, Rule::OrderQty);
    }
}
