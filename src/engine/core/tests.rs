//! What the core does beside what the scenarios and the oracle look at.

use super::*;
use crate::model::universe::{AccountSpec, CurrencySpec, InstrumentSpec, SessionSpec, StrategySpec};
use crate::model::{OrdType, Side};
use crate::units::{OrdId, Px, Qty};

/// More instruments in one currency than learn of a rate within a step.
fn many_in_euros() -> Arc<Universe> {
    let session = |name: &str, kind| SessionSpec { name: name.into(), kind, strategies: vec![] };
    let strategy = |name: &str| StrategySpec { name: name.into(), account: AccountId(0) };
    let instrument = |i: usize| InstrumentSpec {
        name: format!("i{i}"),
        currency: CurrencyId(1),
        px_scale: 2,
        qty_scale: 0,
        multiplier: (1, 0),
        negative_px: false,
        average_daily_volume: None,
        initial_reference: Some(Px(100)),
    };
    Arc::new(Universe::new(
        2,
        ["USD", "EUR"].map(|name| CurrencySpec { name: name.into(), initial_rate: None }).to_vec(),
        vec![session("gw", SessionKind::Ask), session("ref", SessionKind::Reference)],
        vec![AccountSpec { name: "a".into() }],
        vec![strategy("s0"), strategy("s1")],
        (0..4 * RATES_PER_STEP).map(instrument).collect(),
    ))
}

#[test]
fn rate_that_an_order_learns_first_revalues_the_other_pairs_of_its_instrument() {
    let universe = many_in_euros();
    let limits = Arc::new(LimitTable::unlimited(&universe));
    let sizing = Sizing { working_orders: 8, remembered_orders: 8, execs: 8, pairs: 8, recent_orders: 8, parents: 8 };
    let now = Now { mono: MonoNanos(1), unix: UnixNanos(1) };
    let mut engine = Engine::new(universe, limits, sizing, now);
    let mut out = Effects::new();
    let mut seq = [0; 2];
    let mut send = |engine: &mut Engine, mut event: Event| {
        seq[usize::from(event.session.0)] += 1;
        event.seq = seq[usize::from(event.session.0)];
        out.clear();
        engine.step(now, &event, &mut out);
    };
    let rate = |units: i64| Event {
        instrument: InstrumentId(1),
        px: Px(units * 10_000_000_000),
        ..Event::new(EventKind::Fx, SessionId(1), 0)
    };
    let order = |id: u64, strategy: u16| Event {
        id: OrdId(id),
        strategy: StrategyId(strategy),
        side: Side::Buy,
        ord_type: OrdType::Limit,
        qty: Qty(5),
        px: Px(100),
        ..Event::new(EventKind::New, SessionId(0), 0)
    };
    send(&mut engine, rate(1));
    for id in 1..=2 {
        send(&mut engine, order(id, id as u16 - 1));
    }
    send(&mut engine, rate(2));
    // Instruments learn from the last to the first: this order meets the new rate before the sweep does.
    send(&mut engine, order(3, 0));
    for _ in 0..4 {
        engine.tick(now, &mut Effects::new());
    }
    let gross = |scope| engine.gauges(scope).map(|g| g[Gauge::Gross as usize]);
    assert_eq!(gross(Scope::Strategy(StrategyId(1))), Some(2 * 5 * 100));
    assert_eq!(gross(Scope::Firm), Some(2 * 15 * 100));
}
