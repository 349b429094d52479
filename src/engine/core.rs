//! skeleton
use std::sync::Arc;

use crate::engine::command::Command;
use crate::engine::published::Published;
use crate::limits::LimitTable;
use crate::model::{Effects, Event, Universe};
use crate::units::Now;

/// How large the engine's tables are. All memory is taken at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizing {
    /// Orders pending or working at once.
    pub working_orders: usize,
    /// Done orders that are remembered, for late fills and id reuse.
    pub remembered_orders: usize,
    /// Exec ids that are remembered, for duplicates and busts.
    pub execs: usize,
    /// Pairs (strategy × instrument) that can be traded at once.
    pub pairs: usize,
    /// Recent orders that the duplicate rule can look back on.
    pub recent_orders: usize,
}

impl Default for Sizing {
    fn default() -> Self {
        Sizing {
            working_orders: 1 << 20,
            remembered_orders: 1 << 18,
            execs: 1 << 22,
            pairs: 1 << 20,
            recent_orders: 1 << 18,
        }
    }
}

/// The core.
pub struct Engine {}

impl Engine {
    /// An engine without orders or positions, every scope `Normal`.
    #[must_use]
    pub fn new(_universe: Arc<Universe>, _limits: Arc<LimitTable>, _sizing: Sizing, _now: Now) -> Engine {
        Engine {}
    }
    /// Takes one event.
    pub fn step(&mut self, _now: Now, _event: &Event, _out: &mut Effects) {}
    /// Takes one command.
    pub fn command(&mut self, _now: Now, _command: Command, _out: &mut Effects) {}
    /// Lets time pass: heartbeats, windows, revaluation.
    pub fn tick(&mut self, _now: Now, _out: &mut Effects) {}
    /// Shows totals.
    pub fn show_totals(&self, _published: &Published) {}
    /// Shows one scope.
    pub fn show_scope(&mut self, _now: Now, _slot: usize, _published: &Published) {}
}
