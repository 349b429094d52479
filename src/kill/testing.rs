//! A small world for tests of the control plane.

use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use crate::duty::Clock;
use crate::kill::board::SessionBoard;
use crate::kill::page::HaltPage;
use crate::kill::rearm::RearmPolicy;
use crate::kill::switch::{Switch, SwitchParts};
use crate::model::universe::{AccountSpec, CurrencySpec, StrategySpec};
use crate::model::{InstrumentSpec, SessionKind, SessionSpec, Universe};
use crate::units::{AccountId, CurrencyId, MonoNanos, Now, UnixNanos};

/// A clock that a test moves; every reading moves it by one ns. Its wall clock may be ahead by some ns.
#[derive(Debug)]
pub(crate) struct TestClock(AtomicU64, AtomicU64);

impl TestClock {
    pub(crate) fn new() -> Arc<TestClock> {
        Arc::new(TestClock(AtomicU64::new(5_000_000_000), AtomicU64::new(0)))
    }
    /// From now on the wall clock is ahead by so much, in ns.
    pub(crate) fn put_ahead(&self, ns: u64) {
        self.1.store(ns, Ordering::SeqCst);
    }
    pub(crate) fn advance(&self, ns: u64) {
        self.0.fetch_add(ns, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Now {
        let ns = self.0.fetch_add(1, Ordering::SeqCst);
        Now { mono: MonoNanos(ns), unix: UnixNanos(1_800_000_000_000_000_000 + ns + self.1.load(Ordering::SeqCst)) }
    }
}

/// One account, strategies `alpha` and `beta` (or more), instruments `ES` and `BTC` (or more), sessions `gw-1` (asks),
/// `gw-2` (observes), `px` (reference).
pub(crate) fn universe_of(strategies: usize, instruments: usize) -> Universe {
    let strategy = |n: usize| match n {
        0 => "alpha".to_owned(),
        1 => "beta".to_owned(),
        n => format!("s{n}"),
    };
    let instrument = |n: usize| match n {
        0 => "ES".to_owned(),
        1 => "BTC".to_owned(),
        n => format!("i{n}"),
    };
    let session = |name: &str, kind| SessionSpec { name: name.into(), kind, strategies: vec![] };
    Universe::new(
        2,
        vec![CurrencySpec { name: "USD".into(), initial_rate: None }],
        vec![
            session("gw-1", SessionKind::Ask),
            session("gw-2", SessionKind::Observe),
            session("px", SessionKind::Reference),
        ],
        vec![AccountSpec { name: "main".into() }],
        (0..strategies).map(|n| StrategySpec { name: strategy(n), account: AccountId(0) }).collect(),
        (0..instruments)
            .map(|n| InstrumentSpec {
                name: instrument(n),
                currency: CurrencyId(0),
                px_scale: 2,
                qty_scale: if n == 1 { 8 } else { 0 },
                multiplier: (1, 0),
                negative_px: false,
                average_daily_volume: (n == 0).then_some(crate::units::Qty(1_000_000)),
                initial_reference: None,
            })
            .collect(),
    )
}

pub(crate) fn universe() -> Universe {
    universe_of(2, 2)
}

/// A switch over [`universe`], and its latch jobs.
pub(crate) fn switch(clock: Arc<dyn Clock>) -> (Switch, crossbeam_channel::Receiver<()>) {
    switch_with(clock, Box::new(|slot| Some(slot as i64 + 10)))
}

/// As [`switch`], with another answer to how many orders work.
pub(crate) fn switch_with(
    clock: Arc<dyn Clock>,
    working: Box<dyn Fn(usize) -> Option<i64> + Send + Sync>,
) -> (Switch, crossbeam_channel::Receiver<()>) {
    let universe = Arc::new(universe());
    Switch::new(SwitchParts {
        page: Arc::new(HaltPage::new(universe.scope_count(), 1)),
        board: Arc::new(SessionBoard::new(universe.sessions.len())),
        gates: Arc::default(),
        universe,
        clock,
        wakers: vec![],
        working,
        policy: RearmPolicy::default(),
        causes: vec![],
        orphans: vec![],
    })
}
