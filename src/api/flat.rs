//! From halted to flat, as people see it: how far the cancels of a halt are, what is left by name, what a kill would cancel.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use serde_json::{Value, json};

use crate::api::ApiParts;
use crate::engine::command::{Query, Residuals};
use crate::kill::names::OrderNames;
use crate::kill::receipt::Receipt;
use crate::kill::switch::Switch;
use crate::kill::words::{ScopeName, value};
use crate::limits::Gauge;
use crate::model::cancel::{CancelState, CancelView};
use crate::model::{Mode, Scope};
use crate::ring::bell::Bell;
use crate::units::SessionId;

/// The most orders that are named.
pub const NAMED_MAX: usize = 64;
/// How long the engine may take to say which orders are left.
const ENGINE_PATIENCE: Duration = Duration::from_millis(200);

/// Asks the engine which orders are left. Any thread but the engine's; waits up to a fifth of a second.
pub struct ResidualAsker {
    queries: Sender<Query>,
    bell: Arc<Bell>,
    named: Arc<OrderNames>,
}

impl ResidualAsker {
    /// Asks by `queries`, and rings `bell`; orders are called as `named` has them.
    #[must_use]
    pub fn new(queries: Sender<Query>, bell: Arc<Bell>, named: Arc<OrderNames>) -> ResidualAsker {
        ResidualAsker { queries, bell, named }
    }

    /// At most [`NAMED_MAX`] orders of the scope at `place` that are pending or working, and how many each of the first `sessions`
    /// has; 0: nobody counts, which is quicker. `None`: the engine did not answer.
    #[must_use]
    pub fn ask(&self, place: usize, sessions: usize) -> Option<Residuals> {
        let (reply, answer) = bounded(1);
        let residuals = Residuals { rows: Vec::with_capacity(NAMED_MAX), by_session: vec![0; sessions] };
        let query = Query { place, next: 0, answer: residuals, reply };
        self.queries.try_send(query).ok()?;
        self.bell.ring();
        answer.recv_timeout(ENGINE_PATIENCE).ok()
    }
}

/// What is left of a scope's orders, by name; `null` if the engine does not say.
pub(super) fn remainder(parts: &ApiParts, scope: Scope) -> Value {
    let universe = parts.switch.universe();
    let Some(left) = universe.slot(scope).and_then(|place| parts.residual.ask(place, 0)) else { return Value::Null };
    left.rows
        .iter()
        .map(|row| {
            json!({
                "session": universe.scope_name(Scope::Session(row.session)),
                "id": parts.residual.named.name(row.session, row.id),
                "state": row.state.name(),
                "attempts": row.attempts,
            })
        })
        .collect()
}

/// The word for how far the cancels are.
///
/// `flat`: no order works. `remainder`: what is left will not end by itself soon: refused, unanswered or unknown.
/// `re_armed`: the halt was over before all were canceled, and the rest is left alone.
fn status(view: &CancelView) -> &'static str {
    match (view.on, view.swept, view.working, view.in_progress()) {
        (_, true, 0, _) => "flat",
        (false, _, _, _) => "re_armed",
        (true, true, _, 0) => "remainder",
        (true, _, _, _) => "canceling",
    }
}

fn counts(view: &CancelView) -> Value {
    let states: serde_json::Map<String, Value> =
        CancelState::ALL.into_iter().map(|state| (state.name().to_owned(), view.of(state).into())).collect();
    let [cancels, mass, disconnects] = view.instructions;
    let [canceled, filled, otherwise] = view.ended;
    json!({
        "status": status(view),
        "orders_at_halt": view.at_halt,
        "residual": view.working,
        "in_progress": view.in_progress(),
        "by_state": states,
        "instructions": { "cancel": cancels, "mass_cancel": mass, "disconnect": disconnects },
        "ended": { "canceled": canceled, "filled": filled, "otherwise": otherwise },
    })
}

/// Whether the working orders of a scope in `mode` are canceled, by the configuration in force.
fn cancels_in(parts: &ApiParts, mode: Mode) -> bool {
    parts.limits.read().unwrap_or_else(PoisonError::into_inner).cancel.cancels_in(mode)
}

/// How far the cancels of a receipt's halt are. `flat_ns` counts from the press.
pub(super) fn flat(parts: &ApiParts, receipt: &Receipt) -> Value {
    let after = |at: u64| (at > 0).then(|| at.saturating_sub(receipt.pressed.mono.0));
    match &receipt.cancels {
        Some(view) => {
            let mut shown = counts(view);
            shown["flat_ns"] = after(view.flat_at).into();
            shown["last_end_ns"] = after(view.last_end).into();
            shown
        }
        None if cancels_in(parts, receipt.word.mode) => json!({ "status": "not_begun" }),
        // Reduce-only cancels nothing unless it is configured to, and a halt everything unless it is configured not to.
        None => json!({ "status": "not_canceled" }),
    }
}

/// The same for a halt in the state.
pub(super) fn halt_flat(switch: &Switch, scope: Scope) -> Value {
    match switch.cancels(scope).filter(|view| view.on) {
        Some(view) => counts(&view),
        None => json!({ "status": "not_canceled" }),
    }
}

/// What a kill of `scope` would do now.
pub(super) fn preview(parts: &ApiParts, scope: Scope) -> Value {
    let universe = parts.switch.universe();
    let slot = universe.slot(scope);
    let shown = slot.and_then(|slot| parts.published.scope(slot));
    let gauge = |gauge: Gauge| shown.map(|view| view.gauges[gauge as usize]);
    let money = |of: Gauge| gauge(of).map(|amount| value(universe, of.rule(), scope, amount));
    let working = gauge(Gauge::Working);
    // Only the engine knows which orders are whose. If it does not say, the firm's sessions are known still.
    let session_scope = |at: usize| Scope::Session(SessionId(at as u16));
    let asked = slot.and_then(|place| parts.residual.ask(place, universe.sessions.len()));
    let complete = asked.is_some() || scope == Scope::Firm;
    let working_in = |session: Scope| {
        let view = parts.published.scope(universe.slot(session)?)?;
        u32::try_from(view.gauges[Gauge::Working as usize]).ok()
    };
    let counts = match asked {
        Some(left) => left.by_session,
        None if scope == Scope::Firm => {
            (0..universe.sessions.len()).map(|at| working_in(session_scope(at)).unwrap_or(0)).collect()
        }
        None => Vec::new(),
    };
    let by_session: Vec<(String, u32)> = counts
        .iter()
        .enumerate()
        .filter(|(_, count)| **count > 0)
        .map(|(at, count)| (universe.scope_name(session_scope(at)), *count))
        .collect();
    let sessions: Vec<Value> = by_session
        .iter()
        .map(|(name, count)| {
            let view = universe.session(name).and_then(|id| parts.switch.board().cell(usize::from(id.0)));
            let there = view.map(crate::kill::board::SessionCell::view).is_some_and(|v| v.connected || v.by_gate);
            json!({ "name": name, "working_orders": count, "connected": there })
        })
        .collect();
    let cancels = cancels_in(parts, Mode::Halted);
    let text = working.map(|orders| {
        let (s, more) = (if orders == 1 { "" } else { "s" }, if complete { "" } else { " or more" });
        let n = by_session.len();
        let session = if n == 1 { "session" } else { "sessions" };
        let (does, stay) =
            if cancels { ("cancels", "positions stay") } else { ("cancels none of", "they and positions stay") };
        format!("{does} {orders} working order{s} in {n}{more} {session}; {stay} as they are")
    });
    json!({
        "scope": ScopeName::of(universe, scope),
        "mode": slot.map(|slot| parts.switch.page().get(slot).mode.name()),
        "working_orders": working,
        "sessions": sessions,
        "sessions_complete": complete,
        "cancels": { "halted": cancels, "reduce_only": cancels_in(parts, Mode::ReduceOnly) },
        "gross": money(Gauge::Gross),
        "net_long": money(Gauge::NetLong),
        "net_short": money(Gauge::NetShort),
        "unit": crate::kill::words::unit(universe, Gauge::Gross.rule(), scope),
        "text": text,
    })
}
