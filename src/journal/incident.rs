//! Incident reports: a bundle per trip or kill, written by a thread beside the engine.
//!
//! ```text
//! incidents/<when>-<what>-<scope>/incident.json   for programs: everything below
//!                                 incident.md     for people
//!                                 incident.html   the same as a page
//! ```
//!
//! The events are the last of the scope in the journal's newest segments, up to the trip; so the report waits for the
//! journal, for half a second at most, and says if it could not have them. It is written once at once, and once more
//! when the halt is confirmed and its cancels have come to an end, or a second is over; cancels that take longer are followed, and
//! their end is added when it comes. Orders and exposure at the trip itself come from a [replay](crate::journal::at_trip) up to it:
//! they are added when no other report waits, and until then the report says so and has what was last shown.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use serde_json::{Value, json};

use crate::engine::durability::Durability;
use crate::engine::published::Published;
use crate::engine::record::{Name, NameOf, Record, cells_of, decode};
use crate::journal::at_trip::{Moment, ReplayParts, gauges, states_at};
use crate::journal::format::{GroupKind, Tip};
use crate::journal::reader::{Reader, segments};
use crate::kill::receipt::Receipt;
use crate::kill::switch::Switch;
use crate::kill::words::{self, ScopeName, rfc3339};
use crate::limits::Gauge;
use crate::model::{Event, EventKind, Scope, Trip, Universe};
use crate::ring::cells::Cell;
use crate::units::{SessionId, UnixNanos, format_decimal};

/// What a report is about.
#[derive(Clone, Copy, Debug)]
pub enum Incident {
    /// A limit tripped: when, and the id of its receipt.
    Trip(Trip, UnixNanos, Option<u64>),
    /// Somebody pressed: the receipt's id.
    Kill(u64),
}

/// What reports are made of.
pub struct IncidentParts {
    /// Where they go.
    pub dir: PathBuf,
    /// Where the segments are.
    pub journal: PathBuf,
    /// Receipts, sessions, names.
    pub switch: Arc<Switch>,
    /// Exposure and working orders.
    pub published: Arc<Published>,
    /// How far the journal is.
    pub durability: Arc<Durability>,
    /// BLAKE3 of the configuration, hex.
    pub config: String,
    /// What the orders and the exposure at the trip are replayed with.
    pub replay: ReplayParts,
}

/// Events of the scope in a report.
const EVENTS: usize = 100;
/// Control records in a report.
const RECORDS: usize = 20;
/// How long a report waits for the journal, and for the confirmation of a kill.
const WAIT: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(1)];
/// How long the cancels of a report are followed.
const FOLLOW: Duration = Duration::from_secs(600);
/// Reports whose cancels are followed at the same time: beyond that the oldest stay as they are.
const FOLLOWED: usize = 64;
/// Reports per minute: what trips at once beyond that is in the journal and the log.
const PER_MINUTE: usize = 20;

/// The thread's loop: until `stop`, and then what is still in the channel.
pub fn run_incidents(parts: &IncidentParts, incidents: &Receiver<Incident>, stop: &AtomicBool) {
    let mut recent: VecDeque<Instant> = VecDeque::new();
    let mut incomplete: Vec<Written> = Vec::new();
    let mut followed: VecDeque<Written> = VecDeque::new();
    loop {
        let stopping = stop.load(Ordering::Acquire);
        let wait = if stopping || !incomplete.is_empty() { Duration::ZERO } else { Duration::from_millis(50) };
        let Ok(incident) = incidents.recv_timeout(wait) else {
            followed.extend(complete(parts, core::mem::take(&mut incomplete)));
            followed.drain(..followed.len().saturating_sub(FOLLOWED));
            followed.retain_mut(|report| report.is_followed && !report.follow(parts, stopping));
            if stopping {
                return;
            }
            continue;
        };
        recent.retain(|at| at.elapsed() < Duration::from_secs(60));
        if recent.len() >= PER_MINUTE {
            tracing::warn!(event = "incident", ?incident, "too many incidents at once: no report for this one");
            continue;
        }
        recent.push_back(Instant::now());
        match report(parts, incident, stop) {
            Ok(report) => incomplete.extend(report),
            Err(error) => {
                tracing::error!(event = "incident", ?incident, %error, "an incident report could not be written");
            }
        }
    }
}

/// A report that is on disk, and may get more.
struct Written {
    incident: Incident,
    /// What its orders are looked for with.
    moment: Moment,
    scope: Scope,
    dir: PathBuf,
    body: Value,
    begun: Instant,
    /// The halt had not come to its end when it was last written.
    is_followed: bool,
}

impl Written {
    /// Looks whether the halt has come to its end, and writes that. Returns whether this was the last look.
    fn follow(&mut self, parts: &IncidentParts, stopping: bool) -> bool {
        let is_last = stopping || self.begun.elapsed() >= FOLLOW || is_settled(parts, self.incident);
        if is_last && let Some(timeline) = timeline(parts, self.incident) {
            self.body["timeline"] = timeline;
            if let Err(error) = write(&self.dir, &self.body) {
                tracing::error!(event = "incident", dir = %self.dir.display(), %error, "a report could not be completed");
            }
        }
        is_last
    }
}

impl Incident {
    fn receipt(self, parts: &IncidentParts) -> Option<Receipt> {
        match self {
            Incident::Trip(.., id) => parts.switch.receipt(id?),
            Incident::Kill(id) => parts.switch.receipt(id),
        }
    }
}

/// Whether nothing more will come of it soon.
fn is_settled(parts: &IncidentParts, incident: Incident) -> bool {
    incident.receipt(parts).is_none_or(|receipt| receipt.is_settled())
}

/// Adds orders and exposure to reports, all of them by one replay.
fn complete(parts: &IncidentParts, mut reports: Vec<Written>) -> Vec<Written> {
    if reports.is_empty() {
        return reports;
    }
    let moments: Vec<(Moment, Scope)> = reports.iter().map(|report| (report.moment, report.scope)).collect();
    let (states, missing) = match states_at(&parts.journal, &parts.replay, &moments) {
        Ok(states) => (states, "the journal does not have the input that did it".to_owned()),
        Err(why) => (Vec::new(), format!("the journal could not be replayed: {why}")),
    };
    let states = states.into_iter().chain(core::iter::repeat_with(|| None));
    for (Written { scope, dir, body, .. }, state) in reports.iter_mut().zip(states) {
        match state {
            Some(state) => state.tell(parts.switch.universe(), *scope, body),
            None => body["working_orders"]["note"] = missing.clone().into(),
        }
        if let Err(error) = write(dir, body) {
            tracing::error!(event = "incident", dir = %dir.display(), %error, "a report could not be completed");
        }
    }
    reports
}

fn report(parts: &IncidentParts, incident: Incident, stop: &AtomicBool) -> std::io::Result<Option<Written>> {
    let begun = Instant::now();
    let recorded = parts.durability.recorded.get();
    while parts.durability.synced() < recorded && begun.elapsed() < WAIT[0] {
        std::thread::park_timeout(Duration::from_millis(1));
    }
    let Some((dir, mut body)) = collect(parts, incident) else { return Ok(None) };
    write(&dir, &body)?;
    tracing::warn!(event = "incident", dir = %dir.display(), "an incident report was written");
    while !is_settled(parts, incident) && begun.elapsed() < WAIT[1] && !stop.load(Ordering::Acquire) {
        std::thread::park_timeout(Duration::from_millis(5));
    }
    let is_followed = !is_settled(parts, incident);
    if let Some((_, later)) = collect(parts, incident) {
        body = later;
        write(&dir, &body)?;
    }
    let at = match incident {
        Incident::Trip(trip, at, _) => Some((Moment::Trip(trip, at), trip.scope)),
        Incident::Kill(id) => {
            parts.switch.receipt(id).map(|receipt| (Moment::Mode(receipt.scope, receipt.word.epoch), receipt.scope))
        }
    };
    Ok(at.map(|(moment, scope)| Written { incident, moment, scope, dir, body, begun, is_followed }))
}

/// From the press, or the trip, to the last cancel.
fn timeline(parts: &IncidentParts, incident: Incident) -> Option<Value> {
    let universe = parts.switch.universe();
    let row = |at: String, what: String| json!({ "at": at, "what": what });
    let receipt = incident.receipt(parts);
    let mut timeline = match (incident, &receipt) {
        (Incident::Trip(trip, at, _), _) => {
            vec![row(rfc3339(at.0), format!("tripped: {}, page raised", trip.mode.name()))]
        }
        (Incident::Kill(_), Some(receipt)) => vec![
            row(rfc3339(receipt.pressed.unix.0), "pressed".to_owned()),
            row(rfc3339(receipt.raised.unix.0), "page raised".to_owned()),
        ],
        (Incident::Kill(_), None) => return None,
    };
    let Some(receipt) = receipt else { return Some(timeline.into()) };
    let after = |ns: u64| rfc3339(receipt.raised.unix.0.saturating_add(ns));
    match receipt.durable {
        Some(at) => timeline.push(row(rfc3339(at.unix.0), "latch on disk".to_owned())),
        None => timeline.push(row(String::new(), "latch not on disk yet".to_owned())),
    }
    for session in receipt.sessions.iter().filter(|s| s.connected) {
        let name = ScopeName::of(universe, Scope::Session(session.session)).name;
        match session.confirmed_ns {
            Some(ns) => timeline.push(row(after(ns), format!("session {name} confirmed"))),
            None => timeline.push(row(String::new(), format!("session {name} has NOT confirmed"))),
        }
    }
    for (ns, what) in receipt.cancel_timeline() {
        timeline.push(row(ns.map(after).unwrap_or_default(), what));
    }
    Some(timeline.into())
}

fn collect(parts: &IncidentParts, incident: Incident) -> Option<(PathBuf, Value)> {
    let universe = parts.switch.universe();
    let timeline = timeline(parts, incident)?;
    let (scope, at, what, cause) = match incident {
        Incident::Trip(trip, at, _) => {
            let c = &trip.cause;
            let cause = json!({
                "rule": c.rule.name(), "why": c.why.name(), "limit_at": ScopeName::of(universe, c.scope),
                "observed": words::value(universe, c.rule, c.scope, c.observed),
                "limit": words::value(universe, c.rule, c.scope, c.limit),
                "unit": words::unit(universe, c.rule, c.scope),
                "session": ScopeName::of(universe, Scope::Session(trip.session)).name, "seq": trip.seq,
            });
            (trip.scope, at.0, "trip", cause)
        }
        Incident::Kill(id) => {
            let receipt = parts.switch.receipt(id)?;
            let cause = json!({
                "actor": receipt.actor, "reason": receipt.reason, "mode": receipt.asked.name(),
                "epoch": receipt.word.epoch, "receipt": receipt.id, "confirmed": receipt.is_confirmed(),
                "working_orders": receipt.working_orders,
            });
            (receipt.scope, receipt.raised.unix.0, "kill", cause)
        }
    };
    let (events, records, complete) = tail(parts, scope, at);
    let exposure = |scope: Scope| -> Value {
        let view = universe.slot(scope).and_then(|slot| parts.published.scope(slot));
        gauges(universe, scope, view.map(|view| view.gauges))
    };
    let working = universe.slot(scope).and_then(|slot| parts.published.scope(slot));
    let working = working.map(|view| view.gauges[Gauge::Working as usize]);
    let name = ScopeName::of(universe, scope);
    let time = rfc3339(at).replace([':', '.'], "");
    let id = format!("{time}-{what}-{}", name.to_string().replace(' ', "-"));
    let body = json!({
        "id": id, "at": rfc3339(at), "what": what, "scope": name, "cause": cause, "timeline": timeline,
        "events": events, "events_complete": complete,
        "exposure": { "as_of": "this report", "scope": exposure(scope), "firm": exposure(Scope::Firm) },
        "working_orders": { "as_of": "this report", "count": working, "note": "the list follows" },
        "operators": records, "build": env!("CARGO_PKG_VERSION"), "config": parts.config,
    });
    Some((parts.dir.join(id), body))
}

/// The last events of the scope up to `at`, the last control records, and whether the journal could be read that far.
fn tail(parts: &IncidentParts, scope: Scope, at: u64) -> (Vec<Value>, Vec<Value>, bool) {
    let universe = parts.switch.universe();
    let (mut events, mut records) = (VecDeque::new(), VecDeque::new());
    let mut names: HashMap<(SessionId, NameOf, u64), Name> = HashMap::new();
    let read = (|| {
        let all = segments(&parts.journal).ok()?;
        let from = all.iter().rev().nth(1).or(all.last()).map(|(number, _)| *number)?;
        let mut reader = Reader::open(&parts.journal).ok()?;
        reader.skip_to(Tip { segment: from, ..Tip::BEGIN });
        let (mut bytes, mut now) = (Vec::new(), UnixNanos(0));
        while let Some(group) = reader.next_group().ok()? {
            if group.header.kind == GroupKind::Audit {
                let lines = String::from_utf8_lossy(&group.payload).into_owned();
                records.extend(lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()));
                records.drain(..records.len().saturating_sub(RECORDS));
            }
            if group.header.kind != GroupKind::Cells {
                continue;
            }
            let cells: Vec<Cell> = group.cells().collect();
            let mut place = 0;
            while place < cells.len() {
                let count = cells_of(&cells[place]).ok()? as usize;
                match decode(cells.get(place..place + count)?, &mut bytes).ok()? {
                    Record::Time(time) | Record::Tick(time) | Record::Sweep(time) => now = time.unix,
                    Record::Name(name) => {
                        names.insert((name.session, name.of, name.number), name);
                    }
                    // The cause itself may be of the reading at which it tripped.
                    Record::Event(event) if now.0 <= at && concerns(universe, scope, &event) => {
                        events.push_back((now, group.header.first + place as u64, event));
                        events.drain(..events.len().saturating_sub(EVENTS));
                    }
                    _ => {}
                }
                place += count;
            }
        }
        Some(())
    })();
    let complete = read.is_some() && parts.durability.state().failed_since.is_none();
    let shown = events.iter().map(|(now, cell, event)| event_value(universe, &names, *now, *cell, event)).collect();
    (shown, records.into(), complete)
}

fn concerns(universe: &Universe, scope: Scope, event: &Event) -> bool {
    // Made by haltline: a session came or went.
    if (event.kind, event.seq) == (EventKind::Heartbeat, 0) {
        return false;
    }
    match scope {
        Scope::Firm => true,
        Scope::Account(account) => event.account == account,
        Scope::Strategy(strategy) => event.strategy == strategy,
        Scope::Pair(strategy, instrument) => event.strategy == strategy && event.instrument == instrument,
        Scope::Instrument(instrument) => event.instrument == instrument && event.kind != EventKind::Fx,
        Scope::Session(session) => event.session == session && usize::from(session.0) < universe.sessions.len(),
    }
}

fn event_value(
    universe: &Universe,
    names: &HashMap<(SessionId, NameOf, u64), Name>,
    now: UnixNanos,
    cell: u64,
    e: &Event,
) -> Value {
    let spec = universe.instruments.get(e.instrument.0 as usize).filter(|_| e.kind != EventKind::Fx);
    let (qty_scale, px_scale) = spec.map_or((0, 0), |spec| (spec.qty_scale, spec.px_scale));
    let id = match names.get(&(e.session, NameOf::Order, e.id.0)) {
        Some(name) => name.text().to_owned(),
        None => e.id.0.to_string(),
    };
    json!({
        "at": rfc3339(now.0), "record": cell, "kind": e.kind.name(), "seq": e.seq, "id": id, "side": e.side.name(),
        "session": ScopeName::of(universe, Scope::Session(e.session)).name,
        "strategy": ScopeName::of(universe, Scope::Strategy(e.strategy)).name,
        "instrument": spec.map(|spec| spec.name.as_str()),
        "qty": format_decimal(e.qty.0, qty_scale), "px": format_decimal(e.px.0, px_scale),
    })
}

fn write(dir: &Path, body: &Value) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let text = markdown(body);
    let page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{0}</title><body><pre>{1}</pre></html>\n",
        escape(body["id"].as_str().unwrap_or_default()),
        escape(&text)
    );
    for (name, content) in [("incident.md", text), ("incident.html", page), ("incident.json", format!("{body:#}\n"))] {
        // Whole or not there: who waits for it does not read half of it. The JSON last: with it the bundle is complete.
        let new = dir.join(format!("{name}.new"));
        std::fs::write(&new, content)?;
        std::fs::rename(&new, dir.join(name))?;
    }
    Ok(())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The report for people. What others wrote (reasons, ids) stands in it as it is, without line breaks.
fn markdown(body: &Value) -> String {
    let text = |value: &Value| match value {
        Value::String(text) => text.replace(['\n', '\r', '|'], " "),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let mut out = String::new();
    // Writing to a string cannot fail.
    let scope = format!("{} {}", text(&body["scope"]["kind"]), text(&body["scope"]["name"]));
    let _ = writeln!(out, "# {} of {}\n\n{}\n\n## Cause\n", text(&body["what"]), scope.trim(), text(&body["at"]));
    for (key, value) in body["cause"].as_object().into_iter().flatten() {
        let value = match value.get("kind") {
            Some(kind) => format!("{} {}", text(kind), text(&value["name"])),
            None => text(value),
        };
        let _ = writeln!(out, "- {key}: {value}");
    }
    let _ = writeln!(out, "\n## Timeline\n");
    for row in body["timeline"].as_array().into_iter().flatten() {
        let _ = writeln!(out, "- {} {}", text(&row["at"]), text(&row["what"]));
    }
    let as_of = text(&body["exposure"]["as_of"]);
    let _ = writeln!(out, "\n## Exposure, as of {as_of}\n\n| | scope | firm |\n|---|---|---|");
    for (rule, value) in body["exposure"]["firm"].as_object().into_iter().flatten() {
        let _ = writeln!(out, "| {rule} | {} | {} |", text(&body["exposure"]["scope"][rule]), text(value));
    }
    let working = &body["working_orders"];
    let _ = writeln!(out, "\n## Working orders\n\n{} at {}", text(&working["count"]), text(&working["as_of"]));
    let orders = working["orders"].as_array().map_or(&[][..], Vec::as_slice);
    if !orders.is_empty() {
        let _ = writeln!(out, "\n| order | session | strategy | instrument | side | leaves | of | worst px | state |");
        let _ = writeln!(out, "|---|---|---|---|---|---|---|---|---|");
    }
    for o in orders {
        let keys = ["id", "session", "strategy", "instrument", "side", "leaves", "qty", "worst_px", "state"];
        let _ = writeln!(out, "| {} |", keys.map(|key| text(&o[key])).join(" | "));
    }
    if let Some(note) = working["note"].as_str() {
        let _ = writeln!(out, "\n{note}");
    }
    let whole = if body["events_complete"] == true { "" } else { " (the journal could not be read to the incident)" };
    let _ =
        writeln!(out, "\n## Last events{whole}\n\n| at | record | event | order | instrument | qty | px | session |");
    let _ = writeln!(out, "|---|---|---|---|---|---|---|---|");
    for e in body["events"].as_array().into_iter().flatten() {
        let cells = ["at", "record", "kind", "id", "instrument", "qty", "px", "session"].map(|key| text(&e[key]));
        let _ = writeln!(out, "| {} |", cells.join(" | "));
    }
    let _ = writeln!(out, "\n## Operators\n");
    for r in body["operators"].as_array().into_iter().flatten() {
        let at = rfc3339(r["at"].as_u64().unwrap_or(0));
        let row = ["actor", "action", "outcome", "detail", "reason"].map(|key| text(&r[key])).join(", ");
        let _ = writeln!(out, "- {at} {row}");
    }
    let _ = writeln!(out, "\nBuild {}, configuration {}.", text(&body["build"]), text(&body["config"]));
    out
}
