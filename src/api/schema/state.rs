//! The state at one moment, and the events of its stream.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Action, Alert, Flat, Mode, Override, Probation, Scope};

/// How the engine is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Engine {
    /// It has made no round for longer than it may: whatever it shows is old.
    pub stale: bool,
    /// Rounds of its loop.
    pub progress: u64,
    /// Since its last round, in ns; `null` before the first.
    pub last_round_age_ns: Option<u64>,
    /// Events in front of it.
    pub queue_depth: u64,
}

/// Why a scope is halted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Cause {
    /// Names it: what a re-arm acknowledges.
    pub id: String,
    /// What was asked for.
    pub mode: Mode,
    /// The epoch that it began.
    pub epoch: u64,
    /// When.
    pub at: String,
    /// Who: `engine` for a trip.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// The breach, if it was a trip.
    pub trip: Option<Trip>,
}

/// The breach that tripped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Trip {
    /// The rule.
    pub rule: String,
    /// What was wrong: `breach`, `reference_missing` …
    pub why: String,
    /// Where the limit stands.
    pub at: Scope,
    /// What was observed, in `unit`.
    pub observed: String,
    /// What was allowed, in `unit`.
    pub limit: String,
    /// What the two are counted in.
    pub unit: String,
    /// The session whose event did it.
    pub session: String,
    /// That event's sequence; 0 if time alone did it.
    pub seq: u64,
}

/// A scope that is not normal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Halt {
    /// Which.
    pub scope: Scope,
    /// Its mode.
    pub mode: Mode,
    /// Its epoch.
    pub epoch: u64,
    /// How far the cancels of its orders are.
    pub flat: Flat,
    /// Why; empty if that is not known.
    pub causes: Vec<Cause>,
}

/// A halt of a scope that the configuration no longer has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Orphan {
    /// Which.
    pub scope: Scope,
    /// Its mode.
    pub mode: Mode,
    /// Its epoch.
    pub epoch: u64,
    /// Why.
    pub causes: Vec<Cause>,
}

/// A session in the state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StateSession {
    /// Its name.
    pub name: String,
    /// `ask`, `observe`, `reference` or `orders`.
    pub kind: String,
    /// Whether it is connected.
    pub connected: bool,
    /// The last sequence that was taken from it.
    pub last_seq: u64,
    /// Whether it has been told the halts as they are now.
    pub told: bool,
    /// Whether it has confirmed them.
    pub confirmed: bool,
    /// Haltline's own session: it is there for the time of a drill only.
    pub own: bool,
}

/// Counts since the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Totals {
    /// Events by kind.
    pub events: BTreeMap<String, u64>,
    /// Orders admitted.
    pub admitted: u64,
    /// Orders denied, by rule.
    pub denied: BTreeMap<String, u64>,
    /// Trips by rule.
    pub trips: BTreeMap<String, u64>,
    /// Warnings by rule.
    pub warnings: BTreeMap<String, u64>,
    /// Anomalies by kind.
    pub anomalies: BTreeMap<String, u64>,
    /// Orders that are pending or working now.
    pub working_orders: u64,
    /// What the engine had to say and nobody took.
    pub notices_dropped: u64,
}

/// Whether halts are on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StateLatch {
    /// All that are in force.
    pub durable: bool,
    /// Why not.
    pub error: Option<String>,
    /// Writes since the start.
    pub writes: u64,
    /// Those that failed.
    pub failures: u64,
    /// The last that did not.
    pub durable_at: Option<String>,
}

/// How the journal is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StateJournal {
    /// `ok`, `off`, or since when it fails.
    pub state: String,
    /// Why it fails.
    pub error: Option<String>,
    /// Whether new flow is denied because of that.
    pub denies_new_flow: Option<bool>,
    /// Cells that wait for the disk.
    pub waiting_cells: Option<u64>,
    /// Cells that there is room for.
    pub ring_cells: Option<u64>,
}

/// The state at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct State {
    /// When.
    pub at: String,
    /// Whether the engine stands still: then its figures are old.
    pub stale: bool,
    /// The firm's mode.
    pub mode: Mode,
    /// Every scope that is not normal.
    pub halts: Vec<Halt>,
    /// Halts of scopes that the configuration no longer has.
    pub orphans: Vec<Orphan>,
    /// Every session.
    pub sessions: Vec<StateSession>,
    /// Counts since the start.
    pub totals: Totals,
    /// How the engine is doing.
    pub engine: Engine,
    /// Whether halts are on disk.
    pub latch: StateLatch,
    /// How the journal is doing.
    pub journal: StateJournal,
    /// Generation of the limits that the engine uses.
    pub limits_generation: u64,
    /// Overrides in force.
    pub overrides: Vec<Override>,
    /// Who may use a part of the limits only.
    pub probation: Vec<Probation>,
    /// The last alerts, the newest first.
    pub alerts: Vec<Alert>,
    /// Whether what instances run is looked at: `on`, `interlock only` or `off`.
    pub attestation: String,
}

/// An event of the stream, as its lines say it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StreamEvent {
    /// The number of the event, as `seq` in its data; none at the end.
    pub id: Option<String>,
    /// What it is.
    pub event: StreamWord,
    /// JSON in one line: [`StreamState`], [`StreamDelta`] or [`StreamEnd`].
    pub data: String,
}

/// What an event of the stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StreamWord {
    /// Everything; the first one.
    State,
    /// What changed.
    Delta,
    /// The last one: this client reads too slowly.
    Cut,
    /// The last one: haltline stops, or the login has ended.
    Bye,
}

/// The first event of a stream: everything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StreamState {
    /// The number of the event.
    pub seq: u64,
    /// When.
    pub at: String,
    /// The same in Unix ms.
    pub at_ms: u64,
    /// How the engine is doing.
    pub engine: Engine,
    /// The parts of the state.
    pub state: StreamParts,
    /// Every session.
    pub sessions: Vec<StateSession>,
    /// Every scope that is shown.
    pub scopes: Vec<StreamScope>,
}

/// What changed since the event before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StreamDelta {
    /// The number of the event.
    pub seq: u64,
    /// When.
    pub at: String,
    /// The same in Unix ms.
    pub at_ms: u64,
    /// How the engine is doing.
    pub engine: Engine,
    /// Parts of the state that are to be replaced.
    pub set: Option<StreamParts>,
    /// Sessions that are to be replaced, by name.
    pub sessions: Option<Vec<StateSession>>,
    /// Scopes that are to be replaced, by kind and name.
    pub scopes: Option<Vec<StreamScope>>,
    /// Scopes that are to be taken away.
    pub gone: Option<Vec<Scope>>,
}

/// The last event of a stream, `cut` or `bye`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StreamEnd {
    /// Why it ends.
    pub reason: String,
    /// How many events were missed.
    pub missed: Option<u64>,
}

/// Parts of the state as in [`State`]: all of them at first, then those that changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StreamParts {
    /// See [`State`].
    pub stale: Option<bool>,
    /// See [`State`].
    pub mode: Option<Mode>,
    /// See [`State`].
    pub halts: Option<Vec<Halt>>,
    /// See [`State`].
    pub orphans: Option<Vec<Orphan>>,
    /// See [`State`].
    pub totals: Option<Totals>,
    /// See [`State`].
    pub latch: Option<StateLatch>,
    /// See [`State`].
    pub journal: Option<StateJournal>,
    /// See [`State`].
    pub limits_generation: Option<u64>,
    /// See [`State`].
    pub overrides: Option<Vec<Override>>,
    /// See [`State`].
    pub probation: Option<Vec<Probation>>,
    /// See [`State`].
    pub alerts: Option<Vec<Alert>>,
    /// See [`State`].
    pub attestation: Option<String>,
    /// Scopes that have no row.
    pub scopes_left_off: Option<u64>,
    /// What passed in the last second.
    pub flow: Option<Flow>,
}

/// What passed in the last second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Flow {
    /// Events.
    pub events_per_second: u64,
    /// Orders admitted.
    pub admitted_per_second: u64,
    /// Orders denied.
    pub denied_per_second: u64,
    /// From the receipt of an event to its verdict; `null` if there was none.
    pub latency_ns: Option<Latency>,
}

/// How long verdicts took, in ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Latency {
    /// Of how many.
    pub count: u64,
    /// Half took at most this; `null`: over a second.
    pub p50: Option<u64>,
    /// 99 of 100 took at most this; `null`: over a second.
    pub p99: Option<u64>,
}

/// A scope in the stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StreamScope {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its own mode.
    pub mode: Mode,
    /// Its own epoch.
    pub epoch: u64,
    /// The mode that applies to its orders.
    pub in_force: Mode,
    /// Orders that are pending or working.
    pub working: i64,
    /// The highest warning level that is passed, in percent.
    pub warned: Option<u8>,
    /// Its most used limit; `null` if nothing bounded is used.
    pub worst: Option<Worst>,
}

/// The most used limit of a scope.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Worst {
    /// The rule.
    pub rule: String,
    /// Use by limit.
    pub percent: f64,
    /// What is in use, in `unit`.
    pub observed: Option<String>,
    /// The limit, in `unit`.
    pub limit: String,
    /// What both are counted in.
    pub unit: String,
    /// What a breach does.
    pub action: Action,
}
