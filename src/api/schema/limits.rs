//! Limits with their use, strategies, overrides, what-if and probation.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Mode, Scope};

/// What a breach does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Action {
    /// What.
    #[serde(rename = "do")]
    pub does: ActionWord,
    /// To what, for other than `deny`: `this`, `strategy`, `account`, `firm` …
    pub scope: Option<String>,
}

/// What a breach does, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActionWord {
    /// Denies the order.
    Deny,
    /// Denies it, and lets only pass what reduces.
    ReduceOnly,
    /// Denies it, and halts.
    Halt,
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
    pub action: Action,
    /// Warning levels in percent.
    // As text it would be one of bytes.
    #[schema(value_type = Vec<u32>)]
    pub warn_percent: Vec<u8>,
    /// Of a rate: its window, in ns.
    pub window_ns: Option<u64>,
    /// Of a rate: how it counts.
    pub kind: Option<RateWord>,
    /// Of `gcra`: how many may come at once.
    pub burst: Option<u64>,
}

/// How a rate counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RateWord {
    /// Everything within the window.
    Sliding,
    /// Evenly, with a burst.
    Gcra,
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

/// The limits in force after a change of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Generation {
    /// Their generation.
    pub generation: u32,
}

/// One limit with another number for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Override {
    /// Its number.
    pub id: String,
    /// Where it is.
    pub status: OverrideStatus,
    /// How it ended: `expired`, `removed`, `replaced`, `file_changed`, `no_longer_possible`, `lapsed` or `void`.
    pub ended: Option<String>,
    /// Where the limit stands.
    pub scope: Scope,
    /// The rule.
    pub rule: String,
    /// Of a rate: which window, in ns.
    pub window_ns: Option<u64>,
    /// The number in force for a while, in `unit`.
    pub limit: String,
    /// What is configured, in `unit`.
    pub configured: String,
    /// What both are counted in; `null` if there is no such limit any more.
    pub unit: Option<String>,
    /// Whether it loosens.
    pub raises: bool,
    /// Who asked.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When.
    pub asked_at: String,
    /// The second person.
    pub agreed_by: Option<String>,
    /// What that one said.
    pub agreed_reason: Option<String>,
    /// Since when it is in force.
    pub since: Option<String>,
    /// Until when.
    pub until: Option<String>,
    /// How long it still is, or still waits.
    pub seconds_left: Option<u64>,
    /// Who wants it taken back, and waits for another person.
    pub removal: Option<OverrideRemoval>,
}

/// Where an override is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OverrideStatus {
    /// It waits for a second person.
    Pending,
    /// It is in force.
    Active,
    /// It is over.
    Ended,
}

/// Who wants an override taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OverrideRemoval {
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// Overrides, the newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Overrides {
    /// The overrides.
    pub overrides: Vec<Override>,
    /// How many are in force.
    pub active: u64,
    /// Whether what is in force would be after a restart.
    pub durable: bool,
    /// Names the limits in effect.
    pub etag: String,
}

/// A limit that would change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WouldChange {
    /// Where it stands.
    pub scope: Scope,
    /// The rule.
    pub rule: String,
    /// Of a rate: which window, in ns.
    pub window_ns: Option<u64>,
    /// The number in force, in `unit`.
    pub now: String,
    /// The number that would be, in `unit`.
    pub would_be: String,
    /// What they are counted in.
    pub unit: String,
    /// Whether it loosens.
    pub raises: bool,
    /// What is in use, in `unit`.
    pub observed: Option<String>,
    /// Use by the number in force.
    pub utilisation_percent: Option<f64>,
    /// Use by the number that would be.
    pub would_be_percent: Option<f64>,
    /// Whether what is in use would be above it.
    pub above: bool,
}

/// What a change would do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WouldBe {
    /// Every limit that would change.
    pub changes: Vec<WouldChange>,
    /// How many of them would be breached at once.
    pub above: u64,
}

/// A scope that may use a part of its limits only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Probation {
    /// Its number.
    pub id: String,
    /// Which.
    pub scope: Scope,
    /// After what.
    pub after: String,
    /// What it may use, in percent.
    pub fraction_percent: f64,
    /// At which step it is, from 1.
    pub step: u64,
    /// How many there are.
    pub steps: u64,
    /// Since when.
    pub since: String,
    /// Through whom.
    pub by: String,
    /// Breaches that it began anew for.
    pub breaches: u64,
    /// How long this step has been clean.
    pub clean_seconds: u64,
    /// How long it has to be.
    pub clean_seconds_needed: u64,
    /// Orders admitted in that time.
    pub clean_orders: u64,
    /// How many it takes.
    pub clean_orders_needed: u64,
}

/// Scopes on probation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Probations {
    /// The scopes.
    pub probation: Vec<Probation>,
    /// Whether a restart would find them on it.
    pub durable: bool,
}

/// Scopes that have all their limits again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Promoted {
    /// What they were on.
    pub promoted: Vec<Probation>,
}
