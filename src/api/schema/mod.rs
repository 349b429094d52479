//! The forms of requests and answers, as the OpenAPI document shows them, and as a client in Rust reads them.
//!
//! Requests are read field by field, so that a fault is told with its field, value and rule; these types say what
//! there is. Answers may grow members that are not listed here.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// A scope by its kind and name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Scope {
    /// `firm`, `account`, `strategy`, `pair`, `instrument` or `session`.
    pub kind: String,
    /// Its name; left out or empty for the firm.
    #[serde(default)]
    pub name: String,
}

/// A scope that can be halted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HaltableScope {
    /// What it is.
    pub kind: HaltableKind,
    /// Its name; left out or empty for the firm.
    #[serde(default)]
    pub name: String,
}

/// Kinds of scope that can be halted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HaltableKind {
    /// Everything.
    Firm,
    /// An account with its strategies.
    Account,
    /// A strategy.
    Strategy,
    /// An instrument.
    Instrument,
    /// A gateway instance.
    Session,
}

/// What may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Everything within the limits.
    Normal,
    /// What provably reduces a position, and cancels.
    ReduceOnly,
    /// Cancels.
    Halted,
}

/// How far a kill goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// What provably reduces a position may pass, and cancels.
    ReduceOnly,
    /// Cancels may pass.
    Halted,
}

/// What may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Look.
    Viewer,
    /// Press as well.
    Operator,
    /// Re-arm and change limits as well.
    Risk,
}

/// A press of the kill switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Kill {
    /// What to stop.
    pub scope: HaltableScope,
    /// How far; `halted` if it is left out.
    pub mode: Option<Stop>,
    /// Why, for the receipt and the audit.
    pub reason: Option<String>,
    /// How long to wait for confirmations before the answer, in ms; 250 if it is left out.
    #[schema(maximum = 5000)]
    pub wait_ms: Option<u64>,
}

/// A request to let a scope trade again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rearm {
    /// What to re-arm.
    pub scope: HaltableScope,
    /// The epoch of the halt that it was decided on.
    pub epoch: u64,
    /// Why; not empty.
    #[schema(min_length = 1)]
    pub reason: String,
    /// How long to wait for the disk before the answer, in ms.
    #[schema(maximum = 5000)]
    pub wait_ms: Option<u64>,
}

/// A second person's agreement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Approve {
    /// Why; not empty.
    #[schema(min_length = 1)]
    pub reason: String,
    /// How long to wait for the disk before the answer, in ms.
    #[schema(maximum = 5000)]
    pub wait_ms: Option<u64>,
}

/// A reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    /// Why; not empty.
    #[schema(min_length = 1)]
    pub reason: String,
}

/// A token to log in with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// The token.
    pub token: String,
}

/// Who is asking.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Me {
    /// The name that is recorded as the actor.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// Where they may do it; `null`: everywhere.
    pub scopes: Option<Vec<Scope>>,
    /// How they are known: `token`, `login`, `certificate` or `local`.
    pub way: String,
    /// When the login ends.
    pub expires_at: Option<String>,
}

/// What a kill has come to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Receipt {
    /// Its number.
    pub id: String,
    /// `confirmed` only if nothing is missing, else `unconfirmed`.
    pub status: String,
    /// What is missing.
    pub missing: Missing,
    /// Gates on this host, each with what it has confirmed.
    #[schema(value_type = Vec<Object>)]
    pub gates: Vec<Map<String, Value>>,
    /// What was stopped.
    pub scope: Scope,
    /// `press` or `trip`.
    pub by: String,
    /// What was asked for.
    pub asked: Mode,
    /// What it came to: never less than was asked for.
    pub mode: Mode,
    /// The halt's epoch, which a re-arm names.
    pub epoch: u64,
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// When it was pressed.
    pub pressed_at: String,
    /// When the page was raised.
    pub raised_at: String,
    /// From the press to the raise, in ns.
    pub raised_ns: u64,
    /// Whether the halt is on disk.
    #[schema(value_type = Object)]
    pub latch: Map<String, Value>,
    /// Sessions that the scope concerns, each with what it has confirmed.
    #[schema(value_type = Vec<Object>)]
    pub sessions: Vec<Map<String, Value>>,
    /// Orders that were working in the scope.
    pub working_orders: Option<i64>,
}

/// What a receipt lacks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Missing {
    /// The halt is not on disk.
    pub latch: bool,
    /// Connected sessions that have not confirmed.
    pub sessions: u64,
    /// Some of their names.
    pub session_names: Vec<String>,
    /// Gates that have not confirmed.
    pub gates: u64,
}

/// Receipts, the newest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Kills {
    /// The receipts.
    pub kills: Vec<Receipt>,
}

/// Where a re-arm is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RearmState {
    /// Its number.
    pub id: String,
    /// What is to be re-armed.
    pub scope: Scope,
    /// The epoch of the halt.
    pub epoch: u64,
    /// Its mode.
    pub mode: Mode,
    /// The first person.
    pub asked_by: String,
    /// Why.
    pub reason: String,
    /// When.
    pub asked_at: String,
    /// `pending`, `lowered` (not on disk yet), `done`, `void` or `expired`.
    pub status: String,
    /// Whether it is done, and on disk.
    pub done: bool,
    /// The second person.
    pub agreed_by: Option<String>,
    /// Until the request expires.
    pub expires_in_seconds: Option<u64>,
}

/// Re-arms, the newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rearms {
    /// The re-arms.
    pub rearms: Vec<RearmState>,
}

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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Cause {
    /// What was asked for.
    pub mode: Mode,
    /// The epoch that it began.
    pub epoch: u64,
    /// When.
    pub at: String,
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// A scope that is not normal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Halt {
    /// Which.
    pub scope: Scope,
    /// Its mode.
    pub mode: Mode,
    /// Its epoch.
    pub epoch: u64,
    /// Why; empty if that is not known.
    pub causes: Vec<Cause>,
}

/// A session in the state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StateSession {
    /// Its name.
    pub name: String,
    /// `ask`, `observe` or `reference`.
    pub kind: String,
    /// Whether it is connected.
    pub connected: bool,
    /// The last sequence that was taken from it.
    pub last_seq: u64,
    /// Whether it has been told the halts as they are now.
    pub told: bool,
    /// Whether it has confirmed them.
    pub confirmed: bool,
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
    pub orphans: Vec<Halt>,
    /// Every session.
    pub sessions: Vec<StateSession>,
    /// Counts since the start.
    #[schema(value_type = Object)]
    pub totals: Map<String, Value>,
    /// How the engine is doing.
    pub engine: Engine,
    /// Whether halts are on disk.
    #[schema(value_type = Object)]
    pub latch: Map<String, Value>,
    /// How the journal is doing.
    #[schema(value_type = Object)]
    pub journal: Map<String, Value>,
    /// Generation of the limits that the engine uses.
    pub limits_generation: u64,
}

/// One limit with its use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Limit {
    /// Where it stands.
    pub scope: Scope,
    /// The rule.
    pub rule: String,
    /// The limit in `unit`, exact; or `unlimited`.
    pub limit: String,
    /// What is in use, exact; `null` if it is judged order by order.
    pub observed: Option<String>,
    /// What both are counted in.
    pub unit: String,
    /// Use by limit.
    pub utilisation_percent: Option<f64>,
    /// What a breach does.
    #[schema(value_type = Object)]
    pub action: Map<String, Value>,
    /// Warning levels in percent.
    pub warn_percent: Vec<u8>,
}

/// Limits, a page of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Limits {
    /// When.
    pub at: String,
    /// Whether the engine stands still: then what is in use is old.
    pub stale: bool,
    /// Generation of the limits.
    pub generation: u32,
    /// The limits.
    pub limits: Vec<Limit>,
    /// The `from` of the next page; `null`: that was the last.
    pub next: Option<u64>,
}

/// A strategy with its limits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Strategy {
    /// Its name.
    pub name: String,
    /// Whom it trades for.
    pub account: String,
    /// Its own mode.
    pub mode: Mode,
    /// Its own epoch.
    pub epoch: u64,
    /// The mode that applies to its orders.
    pub in_force: Mode,
    /// Orders that are pending or working.
    pub working_orders: Option<i64>,
    /// Its limits that are not unlimited.
    pub limits: Vec<Limit>,
}

/// Strategies, a page of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Strategies {
    /// When.
    pub at: String,
    /// Whether the engine stands still: then what is in use is old.
    pub stale: bool,
    /// Generation of the limits.
    pub generation: u32,
    /// The strategies.
    pub strategies: Vec<Strategy>,
    /// The `from` of the next page; `null`: that was the last.
    pub next: Option<u64>,
}

/// The limits in force after a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Generation {
    /// Their generation.
    pub generation: u32,
}

/// An incident in the list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Incident {
    /// Its id.
    pub id: String,
    /// When.
    pub at: String,
    /// `trip` or `kill`.
    pub what: String,
    /// Where.
    pub scope: Scope,
}

/// Incidents, the newest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Incidents {
    /// The incidents.
    pub incidents: Vec<Incident>,
    /// The `before` of the next page; `null`: that was the last.
    pub next: Option<String>,
}

/// Who did what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// When.
    pub at: String,
    /// The group of the journal that it is in.
    pub group: u64,
    /// Who.
    pub actor: String,
    /// From where.
    pub from: String,
    /// What.
    pub action: String,
    /// On what.
    pub scope: Option<Scope>,
    /// Why.
    pub reason: String,
    /// `done`, `pending`, or `refused: ` and why.
    pub outcome: String,
    /// What it changed.
    pub detail: String,
}

/// Control records, the newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Audit {
    /// The records.
    pub entries: Vec<AuditEntry>,
    /// The `before` of the next page; `null`: that was the last.
    pub next: Option<u64>,
    /// What could not be read.
    pub note: Option<String>,
}

/// An alert.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Alert {
    /// Its number, as text.
    pub id: String,
    /// Its number.
    pub number: u64,
    /// What kind it is.
    pub kind: String,
    /// The rule or thing that it is about.
    pub name: String,
    /// The scope that it is about.
    pub scope: Option<Scope>,
    /// `info`, `warning` or `critical`.
    pub severity: String,
    /// `firing`, `escalated`, `acknowledged` or `resolved`.
    pub state: String,
    /// What happened last.
    pub text: String,
    /// How often.
    pub count: u64,
    /// When first.
    pub at: String,
    /// When last.
    pub last_at: String,
}

/// Alerts, the newest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Alerts {
    /// When.
    pub at: String,
    /// The alerts.
    pub alerts: Vec<Alert>,
    /// The `before` of the next page; `null`: that was the last.
    pub next: Option<u64>,
    /// Critical ones that nobody has acknowledged.
    pub unacknowledged_critical: u64,
    /// Whether they keep the open from happening.
    pub blocks_open: bool,
}

/// An error (RFC 9457). Members beyond these say what is needed to put it right: `field`, `value` and `rule` of what was
/// refused, `role`, `scopes`, `epoch` …
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `urn:haltline:problem:` and a stable name.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same for people.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What was wrong with this request.
    pub detail: String,
}

/// One limit with another number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Where it stands.
    pub scope: Scope,
    /// The rule.
    pub rule: String,
    /// Which of several rates, by its window in ns.
    pub window_ns: Option<u64>,
    /// The number that it is to have: a decimal.
    pub limit: String,
}

/// An override that is asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OverrideAsk {
    /// Where it stands.
    pub scope: Scope,
    /// The rule.
    pub rule: String,
    /// Which of several rates, by its window in ns.
    pub window_ns: Option<u64>,
    /// The number that it is to have: a decimal.
    pub limit: String,
    /// For how long.
    #[schema(minimum = 1)]
    pub for_seconds: u64,
    /// Why; not empty.
    #[schema(min_length = 1)]
    pub reason: String,
    /// The limits that it was decided on.
    pub etag: Option<String>,
}

/// Changes to look at: of some numbers, or the whole configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WhatIf {
    /// Up to 64 numbers.
    pub changes: Option<Vec<Change>>,
    /// Or a whole configuration.
    pub text: Option<String>,
}

/// Another configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplaceLimits {
    /// The whole of it.
    pub text: String,
    /// Why; not empty.
    #[schema(min_length = 1)]
    pub reason: String,
}

/// A drill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DrillAsk {
    /// Where; left out: the scope that is made for it.
    pub scope: Option<HaltableScope>,
    /// Even if it is trading.
    pub force: Option<bool>,
    /// Why; not empty.
    #[schema(min_length = 1)]
    pub reason: String,
}
