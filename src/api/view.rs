//! What the API shows, as JSON.

use serde::Serialize;
use serde_json::{Value, json};

use crate::api::ApiParts;
use crate::api::desk;
use crate::api::flat::{flat, halt_flat};
use crate::engine::durability::JournalState;
use crate::kill::rearm::{Rearm, RearmState};
use crate::kill::receipt::Receipt;
use crate::kill::switch::{Cause, LatchEntry, LatchStatus, Switch};
use crate::kill::words::{ScopeName, rfc3339, unit, value};
use crate::limits::{LimitTable, RateKind, UNLIMITED};
use crate::metrics::usage::{Usage, each_usage};
use crate::model::{Action, AnomalyKind, EventKind, Rule, Scope, ScopeKind, Target};
use crate::units::Now;

/// Names listed in an answer before it says "and more".
const NAMES_MAX: usize = 20;

/// A receipt. `status` is `confirmed` only if nothing is missing.
pub(super) fn receipt(parts: &ApiParts, latch: &LatchStatus, receipt: &Receipt) -> Value {
    let universe = parts.switch.universe();
    let missing = receipt.missing();
    let name = |row: &crate::kill::receipt::SessionRow| universe.scope_name(Scope::Session(row.session));
    let sessions: Vec<Value> = receipt
        .sessions
        .iter()
        .map(|row| {
            let by_gate = receipt.gates.iter().any(|gate| gate.gate.session == row.session);
            let status = match (row.confirmed_ns, row.told_ns, row.connected) {
                _ if by_gate => "gate",
                (Some(_), _, _) => "confirmed",
                (None, Some(_), true) => "told",
                (None, None, true) => "unconfirmed",
                (None, _, false) => "not_connected",
            };
            json!({ "name": name(row), "status": status, "told_ns": row.told_ns, "confirmed_ns": row.confirmed_ns })
        })
        .collect();
    let waiting: Vec<String> = receipt
        .sessions
        .iter()
        .filter(|row| row.connected && row.confirmed_ns.is_none())
        .take(NAMES_MAX)
        .map(name)
        .collect();
    let gates: Vec<Value> = receipt
        .gates
        .iter()
        .map(|row| {
            let status = match row.confirmed_ns {
                Some(_) if row.died_inside > 0 => "died_inside",
                Some(_) => "confirmed",
                None if row.unreached => "unreached",
                None => "inside",
            };
            json!({
                "session": universe.scope_name(Scope::Session(row.gate.session)), "pid": row.gate.pid,
                "build": row.gate.build, "status": status, "confirmed_ns": row.confirmed_ns,
                "inside_at_raise": row.inside, "still_inside": row.still_inside(), "died_inside": row.died_inside,
            })
        })
        .collect();
    let latch = match (receipt.durable, &latch.error) {
        (Some(at), _) => json!({
            "status": "durable", "durable": true,
            "durable_ns": at.mono.since(receipt.pressed.mono), "durable_at": rfc3339(at.unix.0),
        }),
        (None, Some(error)) => json!({ "status": "failed", "durable": false, "error": error }),
        (None, None) => json!({ "status": "pending", "durable": false }),
    };
    json!({
        "id": receipt.id.to_string(),
        "status": if receipt.is_confirmed() { "confirmed" } else { "unconfirmed" },
        "missing": {
            "latch": missing.latch, "sessions": missing.sessions, "session_names": waiting, "gates": missing.gates,
        },
        "gates": gates,
        "scope": ScopeName::of(universe, receipt.scope),
        "by": if receipt.by_trip { "trip" } else { "press" },
        "asked": receipt.asked.name(),
        "mode": receipt.word.mode.name(),
        "epoch": receipt.word.epoch,
        "actor": receipt.actor,
        "reason": receipt.reason,
        "pressed_at": rfc3339(receipt.pressed.unix.0),
        "pressed_monotonic_ns": receipt.pressed.mono.0,
        "raised_at": rfc3339(receipt.raised.unix.0),
        "raised_ns": receipt.raised.mono.since(receipt.pressed.mono),
        "latch": latch,
        "sessions": sessions,
        "working_orders": receipt.working_orders,
        "flat": flat(parts, receipt),
    })
}

/// A re-arm. `status` is `done` only once the latch without the halt is on disk.
pub(super) fn rearm(switch: &Switch, rearm: &Rearm, now: Now) -> Value {
    let mut shown = json!({
        "id": rearm.id.to_string(),
        "scope": ScopeName::of(switch.universe(), rearm.scope),
        "epoch": rearm.word.epoch,
        "mode": rearm.word.mode.name(),
        "asked_by": rearm.actor,
        "reason": rearm.reason,
        "asked_at": rfc3339(rearm.at.unix.0),
    });
    let more = match &rearm.state {
        RearmState::Pending => json!({
            "status": "pending", "done": false,
            "expires_in_seconds": rearm.expires.since(now.mono) / 1_000_000_000,
        }),
        RearmState::Lowered { by, reason, at, durable, .. } => json!({
            "status": if durable.is_some() { "done" } else { "lowered" },
            "done": durable.is_some(),
            "durable": durable.is_some(),
            "agreed_by": by,
            "agreed_reason": reason,
            "lowered_at": rfc3339(at.unix.0),
        }),
        RearmState::Void => json!({ "status": "void", "done": false }),
        RearmState::Expired => json!({ "status": "expired", "done": false }),
    };
    if let (Value::Object(shown), Value::Object(more)) = (&mut shown, more) {
        shown.extend(more);
    }
    shown
}

fn cause(cause: &Cause) -> Value {
    json!({
        "id": cause.id(), "mode": cause.mode.name(), "epoch": cause.epoch, "at": rfc3339(cause.at),
        "actor": cause.actor, "reason": cause.reason, "trip": cause.trip,
    })
}

fn orphan(entry: &LatchEntry) -> Value {
    json!({
        "scope": entry.scope, "mode": entry.mode.name(), "epoch": entry.epoch,
        "causes": entry.causes.iter().map(cause).collect::<Vec<_>>(),
    })
}

/// How the engine is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct EngineHealth {
    /// It has made no round for longer than the bound.
    pub(super) stale: bool,
    /// Rounds of its loop.
    pub(super) progress: u64,
    /// Since its last round; `None` before the first.
    pub(super) last_round_age_ns: Option<u64>,
    /// Events in front of it.
    pub(super) queue_depth: u64,
}

pub(super) fn engine_health(parts: &ApiParts) -> EngineHealth {
    let last = parts.published.last_round.get();
    let age = (last > 0).then(|| parts.clock.now().mono.0.saturating_sub(last));
    let bound = u64::try_from(parts.options.engine_stale_after.as_nanos()).unwrap_or(u64::MAX);
    EngineHealth {
        stale: age.is_none_or(|age| age > bound),
        progress: parts.published.progress.get(),
        last_round_age_ns: age,
        queue_depth: parts.published.queue_depth.get(),
    }
}

/// Modes, sessions, totals.
pub(super) fn state(parts: &ApiParts) -> Value {
    let switch = &parts.switch;
    let universe = switch.universe();
    let published = &parts.published;
    let changes = switch.page().changes();
    let halts: Vec<Value> = switch
        .halts()
        .iter()
        .map(|halt| {
            json!({
                "scope": ScopeName::of(universe, halt.scope),
                "mode": halt.word.mode.name(),
                "epoch": halt.word.epoch,
                "flat": halt_flat(switch, halt.scope),
                "causes": halt.causes.iter().map(cause).collect::<Vec<_>>(),
            })
        })
        .collect();
    let own = parts.drills.as_ref().and_then(|drills| drills.session());
    let sessions: Vec<Value> = universe
        .sessions
        .iter()
        .enumerate()
        .filter_map(|(index, spec)| {
            let view = switch.board().cell(index)?.view();
            let kind = spec.kind.name();
            Some(json!({
                "name": spec.name, "kind": kind, "connected": view.connected, "last_seq": view.last_seq,
                "told": view.told >= changes, "confirmed": view.confirmed >= changes,
                "own": own.is_some_and(|own| usize::from(own.0) == index),
            }))
        })
        .collect();
    let by_name = |names: &mut dyn Iterator<Item = (&'static str, u64)>| -> Value {
        Value::Object(names.filter(|(_, n)| *n > 0).map(|(name, n)| (name.to_owned(), n.into())).collect())
    };
    let events = by_name(&mut EventKind::ALL.iter().zip(&published.events).map(|(k, c)| (k.name(), c.get())));
    let denied = by_name(&mut Rule::ALL.iter().zip(&published.denied).map(|(r, c)| (r.name(), c.get())));
    let trips = by_name(&mut Rule::ALL.iter().zip(&published.trips).map(|(r, c)| (r.name(), c.get())));
    let warnings = by_name(&mut Rule::ALL.iter().zip(&published.warnings).map(|(r, c)| (r.name(), c.get())));
    let anomalies = by_name(&mut AnomalyKind::ALL.iter().zip(&published.anomalies).map(|(k, c)| (k.name(), c.get())));
    let latch = switch.latch();
    let alerts: Vec<Value> = parts.alerts.newest(50).iter().map(crate::kill::alerts::Alert::to_json).collect();
    let health = engine_health(parts);
    json!({
        "at": rfc3339(parts.clock.now().unix.0),
        "stale": health.stale,
        "mode": switch.page().get(0).mode.name(),
        "halts": halts,
        "orphans": switch.orphans().iter().map(orphan).collect::<Vec<_>>(),
        "sessions": sessions,
        "totals": {
            "events": events, "admitted": published.admitted.get(), "denied": denied, "trips": trips,
            "warnings": warnings, "anomalies": anomalies,
            "working_orders": published.working_orders.get(),
            "notices_dropped": published.notices_dropped.get(),
        },
        "engine": health,
        "latch": {
            "durable": switch.is_durable(), "error": latch.error,
            "writes": latch.writes, "failures": latch.failures,
            "durable_at": latch.durable_at.map(|at| rfc3339(at.unix.0)),
        },
        "journal": parts.journal.as_ref().map_or(json!({ "state": "off" }), |journal| journal_value(&journal.state())),
        "limits_generation": published.limits_generation.get(),
        "overrides": desk::active(parts),
        "probation": desk::on_probation(parts),
        "alerts": alerts,
        "attestation": parts.fleet.attestation(),
    })
}

fn journal_value(state: &JournalState) -> Value {
    let word = match state.failed_since {
        None => "ok".to_owned(),
        Some(since) => format!("failed since {}", rfc3339(since)),
    };
    json!({
        "state": word, "error": state.error, "denies_new_flow": state.denies_new_flow,
        "waiting_cells": state.waiting, "ring_cells": state.capacity,
    })
}

/// Which limits to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LimitsQuery {
    pub(super) kind: Option<ScopeKind>,
    pub(super) scope: Option<Scope>,
    /// Unlimited ones too.
    pub(super) all: bool,
    /// The most rows; a scope's rows are never split, so it may be a few more.
    pub(super) rows: usize,
    /// The first slot (or, for pairs, the first place in their order) to list.
    pub(super) from: usize,
}

pub(super) fn action_value(action: Action) -> Value {
    let target = |t: Target| t.name();
    match action {
        Action::Deny => json!({ "do": "deny" }),
        Action::ReduceOnly(t) => json!({ "do": "reduce_only", "scope": target(t) }),
        Action::Halt(t) => json!({ "do": "halt", "scope": target(t) }),
    }
}

/// Limits with their utilisation, scope by scope; `next` is where to go on.
pub(super) fn limits(parts: &ApiParts, table: &LimitTable, query: &LimitsQuery) -> Value {
    let universe = parts.switch.universe();
    let shown_generation = parts.published.limits_generation.get();
    let same_generation = shown_generation == u64::from(table.generation);
    let mut rows: Vec<Value> = Vec::new();
    let mut list = |scope: Scope| {
        let view = universe.slot(scope).and_then(|slot| parts.published.scope(slot));
        each_usage(universe, table, scope, view.as_ref(), |usage| {
            if query.all || usage.limit < UNLIMITED {
                rows.push(usage_value(parts, scope, usage, same_generation));
            }
        });
        rows.len() >= query.rows
    };
    let mut next = None;
    match (query.scope, query.kind) {
        (Some(scope), _) => {
            list(scope);
        }
        (None, Some(ScopeKind::Pair)) => {
            let mut pairs: Vec<_> = table.exact_pairs().collect();
            pairs.sort_unstable();
            for (at, (strategy, instrument)) in pairs.iter().enumerate().skip(query.from) {
                if list(Scope::Pair(*strategy, *instrument)) {
                    next = (at + 1 < pairs.len()).then_some(at + 1);
                    break;
                }
            }
        }
        (None, kind) => {
            for slot in query.from..universe.scope_count() {
                let Some(scope) = universe.scope_at(slot) else { continue };
                if kind.is_none_or(|kind| kind == scope.kind()) && list(scope) {
                    next = (slot + 1 < universe.scope_count()).then_some(slot + 1);
                    break;
                }
            }
        }
    }
    json!({
        "at": rfc3339(parts.clock.now().unix.0),
        "stale": engine_health(parts).stale,
        "generation": table.generation,
        "limits": rows,
        "next": next,
    })
}

pub(super) fn usage_value(parts: &ApiParts, scope: Scope, usage: Usage, same_generation: bool) -> Value {
    let universe = parts.switch.universe();
    let rule = usage.rule;
    // Rates are matched by position, which only means something under the same limits.
    let observed = usage.observed.filter(|_| usage.rate.is_none() || same_generation);
    let ratio = Usage { observed, ..usage }.ratio();
    let limit =
        if usage.limit >= UNLIMITED { "unlimited".to_owned() } else { value(universe, rule, scope, usage.limit) };
    let mut row = json!({
        "scope": ScopeName::of(universe, scope),
        "rule": rule.name(),
        "limit": limit,
        "observed": observed.map(|o| value(universe, rule, scope, o)),
        "unit": unit(universe, rule, scope),
        "utilisation_percent": ratio.map(|r| (r * 10_000.0).round() / 100.0),
        "action": action_value(usage.action),
        "warn_percent": usage.warn.iter().filter(|w| **w > 0).collect::<Vec<_>>(),
    });
    if let Some(window_ns) = usage.window_ns {
        row["window_ns"] = window_ns.into();
    }
    if let Some(rate) = usage.rate {
        match rate.kind {
            RateKind::Sliding => row["kind"] = "sliding".into(),
            RateKind::Gcra { burst } => {
                row["kind"] = "gcra".into();
                row["burst"] = burst.into();
            }
        }
    }
    row
}
