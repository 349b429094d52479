//! What the stream shows: what was sent last, and what of it is different now.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, PoisonError};

use axum::body::Bytes;
use serde_json::{Map, Value, json};

use crate::api::{ApiParts, view};
use crate::engine::published::{LATENCY_BOUNDS_NS, ScopeView};
use crate::kill::page::ModeWord;
use crate::kill::words::{ScopeName, rfc3339, unit, value};
use crate::limits::{Gauge, LimitTable, UNLIMITED};
use crate::metrics::usage::{Usage, each_usage};
use crate::model::{Mode, Scope, ScopeKind};
use crate::units::Now;

/// The most rows of scopes.
pub(in crate::api) const ROWS_MAX: usize = 10_000;
/// An event goes out at least this often, in ns.
const AT_LEAST_NS: u64 = 1_000_000_000;
/// What `flow` is an average of, in ns.
const FLOW_NS: u64 = 1_000_000_000;

/// What all streams of a door have been told.
#[derive(Default)]
pub(super) struct Model {
    seq: u64,
    sent: Option<Sent>,
    /// The parts of the state, without those that are told apart.
    state: Map<String, Value>,
    sessions: BTreeMap<String, Value>,
    /// Rows of scopes by slot.
    rows: BTreeMap<usize, Row>,
    table: Option<Arc<LimitTable>>,
    /// Counters over the last second.
    flow: VecDeque<FlowPoint>,
}

/// When the last event was made, and how the engine was.
#[derive(Clone)]
struct Sent {
    at: Now,
    engine: Value,
}

/// A scope as it was shown, and what that was made of.
struct Row {
    made_of: (ScopeView, ModeWord, Mode),
    shown: Value,
}

#[derive(Clone)]
struct FlowPoint {
    at: u64,
    events: u64,
    admitted: u64,
    denied: u64,
    latency: [u64; LATENCY_BOUNDS_NS.len() + 1],
}

impl Model {
    /// The number of the last event.
    pub(super) fn seq(&self) -> u64 {
        self.seq
    }

    /// Looks at everything; an event if there is anything to tell, or has not been for a second.
    pub(super) fn tick(&mut self, parts: &ApiParts) -> Option<Bytes> {
        let now = parts.clock.now();
        let Value::Object(mut state) = view::state(parts) else { return None };
        state.remove("at");
        let engine = state.remove("engine").unwrap_or_default();
        let sessions = self.changed_sessions(state.remove("sessions"));
        let (scopes, gone, left_off) = self.changed_rows(parts);
        state.insert("scopes_left_off".into(), left_off.into());
        state.insert("flow".into(), self.flow(parts, now.mono.0));
        let set: Map<String, Value> =
            state.iter().filter(|(key, part)| self.state.get(*key) != Some(part)).map(clone).collect();
        self.state = state;

        let quiet = self.sent.as_ref().is_some_and(|sent| now.mono.0.saturating_sub(sent.at.mono.0) < AT_LEAST_NS);
        if quiet && set.is_empty() && sessions.is_empty() && scopes.is_empty() && gone.is_empty() {
            return None;
        }
        self.seq += 1;
        let mut data = head(self.seq, now, &engine);
        self.sent = Some(Sent { at: now, engine });
        if !set.is_empty() {
            data.insert("set".into(), set.into());
        }
        for (key, rows) in [("sessions", sessions), ("scopes", scopes), ("gone", gone)] {
            if !rows.is_empty() {
                data.insert(key.into(), rows.into());
            }
        }
        Some(event(self.seq, "delta", data))
    }

    /// Everything as of the last event: what a client begins with.
    pub(super) fn first(&self) -> Bytes {
        let Some(sent) = &self.sent else { return Bytes::new() };
        let mut data = head(self.seq, sent.at, &sent.engine);
        data.insert("state".into(), self.state.clone().into());
        data.insert("sessions".into(), self.sessions.values().cloned().collect());
        data.insert("scopes".into(), self.rows.values().map(|row| row.shown.clone()).collect());
        let mut bytes = b"retry: 1000\n\n".to_vec();
        bytes.extend(event(self.seq, "state", data));
        bytes.into()
    }

    fn changed_sessions(&mut self, sessions: Option<Value>) -> Vec<Value> {
        let Some(Value::Array(sessions)) = sessions else { return Vec::new() };
        let mut changed = Vec::new();
        for session in sessions {
            let name = session["name"].as_str().unwrap_or_default();
            if self.sessions.get(name) != Some(&session) {
                changed.push(session.clone());
                self.sessions.insert(name.to_owned(), session);
            }
        }
        changed
    }

    /// Rows that changed, names of those that are gone, and how many have no place.
    fn changed_rows(&mut self, parts: &ApiParts) -> (Vec<Value>, Vec<Value>, usize) {
        let table = parts.limits.read().unwrap_or_else(PoisonError::into_inner).clone();
        let same_limits = self.table.as_ref().is_some_and(|old| Arc::ptr_eq(old, &table));
        let universe = parts.switch.universe();
        let page = parts.switch.page();
        let mode_of = |scope: Scope| universe.slot(scope).map_or(Mode::Halted, |slot| page.get(slot).mode);
        let (mut changed, mut seen, mut left_off) = (Vec::new(), BTreeSet::new(), 0);
        for slot in 0..universe.scope_count() {
            let Some(scope) = universe.scope_at(slot) else { continue };
            let (Some(view), word) = (parts.published.scope(slot), page.get(slot)) else { continue };
            if scope.kind() == ScopeKind::Instrument && word.mode == Mode::Normal && is_idle(&view) {
                continue;
            }
            if seen.len() == ROWS_MAX {
                left_off += 1;
                continue;
            }
            seen.insert(slot);
            let above = match scope {
                Scope::Strategy(id) | Scope::Pair(id, _) => {
                    let account = universe.strategies.get(usize::from(id.0)).map(|s| Scope::Account(s.account));
                    account.map_or(Mode::Halted, mode_of)
                }
                Scope::Firm | Scope::Account(_) | Scope::Instrument(_) | Scope::Session(_) => Mode::Normal,
            };
            let in_force = word.mode.max(above).max(mode_of(Scope::Firm));
            let made_of = (view, word, in_force);
            if same_limits && self.rows.get(&slot).is_some_and(|row| row.made_of == made_of) {
                continue;
            }
            let shown = row(parts, &table, scope, &made_of);
            if self.rows.get(&slot).is_none_or(|row| row.shown != shown) {
                changed.push(shown.clone());
            }
            self.rows.insert(slot, Row { made_of, shown });
        }
        let mut gone = Vec::new();
        self.rows.retain(|slot, row| {
            let stays = seen.contains(slot);
            if !stays {
                gone.push(json!({ "kind": row.shown["kind"], "name": row.shown["name"] }));
            }
            stays
        });
        self.table = Some(table);
        (changed, gone, left_off)
    }

    fn flow(&mut self, parts: &ApiParts, now: u64) -> Value {
        let published = &parts.published;
        let point = FlowPoint {
            at: now,
            events: published.events.iter().map(|c| c.get()).sum(),
            admitted: published.admitted.get(),
            denied: published.denied.iter().map(|c| c.get()).sum(),
            latency: published.event_latency.read().0,
        };
        // The newest that is a second old stays, as what to compare with. After a pause nothing is.
        while self.flow.get(1).is_some_and(|next| now.saturating_sub(next.at) >= FLOW_NS) {
            self.flow.pop_front();
        }
        let shown = match self.flow.front() {
            Some(old) if point.at > old.at => between(old, &point),
            _ => between(&point, &point),
        };
        self.flow.push_back(point);
        shown
    }
}

fn clone((key, part): (&String, &Value)) -> (String, Value) {
    (key.clone(), part.clone())
}

fn head(seq: u64, at: Now, engine: &Value) -> Map<String, Value> {
    let mut data = Map::new();
    data.insert("seq".into(), seq.into());
    data.insert("at".into(), rfc3339(at.unix.0).into());
    data.insert("at_ms".into(), (at.unix.0 / 1_000_000).into());
    data.insert("engine".into(), engine.clone());
    data
}

fn event(seq: u64, name: &str, data: Map<String, Value>) -> Bytes {
    // JSON has no line breaks of its own: this is one line, as the format wants it.
    Bytes::from(format!("id: {seq}\nevent: {name}\ndata: {}\n\n", Value::Object(data)))
}

fn is_idle(view: &ScopeView) -> bool {
    view.mode == Mode::Normal && view.gauges.iter().chain(&view.rates).all(|used| *used == 0)
}

fn between(old: &FlowPoint, new: &FlowPoint) -> Value {
    let ns = (new.at - old.at).max(1);
    let rate = |new: u64, old: u64| {
        let per_second = u128::from(new.saturating_sub(old)) * 1_000_000_000 / u128::from(ns);
        u64::try_from(per_second).unwrap_or(u64::MAX)
    };
    let mut counts = [0; LATENCY_BOUNDS_NS.len() + 1];
    for (count, (new, old)) in counts.iter_mut().zip(new.latency.iter().zip(&old.latency)) {
        *count = new.saturating_sub(*old);
    }
    let total: u64 = counts.iter().sum();
    // The bound of the bucket that the share falls into; the last bucket has none.
    let quantile = |percent: u64| {
        let rank = (total * percent).div_ceil(100);
        let mut sum = 0;
        let at = counts.iter().position(|count| {
            sum += count;
            sum >= rank
        });
        at.and_then(|at| LATENCY_BOUNDS_NS.get(at))
    };
    json!({
        "events_per_second": rate(new.events, old.events),
        "admitted_per_second": rate(new.admitted, old.admitted),
        "denied_per_second": rate(new.denied, old.denied),
        "latency_ns": (total > 0).then(|| json!({ "count": total, "p50": quantile(50), "p99": quantile(99) })),
    })
}

fn row(
    parts: &ApiParts,
    table: &LimitTable,
    scope: Scope,
    (view, word, in_force): &(ScopeView, ModeWord, Mode),
) -> Value {
    let universe = parts.switch.universe();
    // Rates are matched by position, which only means something under the same limits.
    let same_generation = parts.published.limits_generation.get() == u64::from(table.generation);
    let mut worst: Option<(f64, Usage)> = None;
    let mut warned = 0;
    each_usage(universe, table, scope, Some(view), |usage| {
        if usage.rate.is_some() && !same_generation {
            return;
        }
        let Some(ratio) = usage.ratio() else { return };
        let percent = ratio * 100.0;
        let passed = usage.warn.iter().filter(|level| **level > 0 && percent >= f64::from(**level)).max();
        warned = warned.max(passed.copied().unwrap_or(0));
        if ratio > 0.0 && worst.as_ref().is_none_or(|(most, _)| ratio > *most) {
            worst = Some((ratio, usage));
        }
    });
    let worst = worst.map(|(ratio, usage)| {
        let shown = |number: i64| {
            if number >= UNLIMITED { "unlimited".to_owned() } else { value(universe, usage.rule, scope, number) }
        };
        json!({
            "rule": usage.rule.name(), "percent": (ratio * 1_000.0).round() / 10.0,
            "observed": usage.observed.map(shown), "limit": shown(usage.limit),
            "unit": unit(universe, usage.rule, scope), "action": view::action_value(usage.action),
        })
    });
    let ScopeName { kind, name } = ScopeName::of(universe, scope);
    json!({
        "kind": kind, "name": name, "mode": word.mode.name(), "epoch": word.epoch, "in_force": in_force.name(),
        "working": view.gauges[Gauge::Working as usize], "warned": (warned > 0).then_some(warned), "worst": worst,
    })
}
