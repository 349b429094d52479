//! The forms of requests and answers, as the OpenAPI document shows them, and as a client in Rust reads them.
//!
//! Requests are read field by field, so that a fault is told with its field, value and rule; these types say what
//! there is. Answers may grow members that are not listed here.

mod fleet;
mod history;
mod kill;
mod limits;
mod state;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use fleet::*;
pub use history::*;
pub use kill::*;
pub use limits::*;
pub use state::*;

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
    pub name: Option<String>,
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

/// Kinds of scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScopeKind {
    /// Everything.
    Firm,
    /// An account with its strategies.
    Account,
    /// A strategy.
    Strategy,
    /// A strategy in an instrument.
    Pair,
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
    /// The id of the latest cause, where the configuration wants it acknowledged.
    pub acknowledge: Option<String>,
    /// A number from `GET /v1/rearm/nonce`, where the configuration wants one.
    pub nonce: Option<String>,
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

/// A login has ended: nothing is left to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Ended {}

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
    #[schema(pattern = r"^-?[0-9]+(\.[0-9]+)?$")]
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
    #[schema(pattern = r"^-?[0-9]+(\.[0-9]+)?$")]
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
    #[schema(min_items = 1, max_items = 64)]
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

/// What is to be woken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Wake {
    /// The strategy.
    pub strategy: String,
    /// Only this order path or flag of it: `path:gate`, `flag:rlp`.
    pub part: Option<String>,
    /// Why; not empty.
    #[schema(min_length = 1)]
    pub reason: String,
}
