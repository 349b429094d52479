//! Receipts of kills, how far their cancels are, what a kill would do, and re-arms.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Mode, Scope};

/// What a kill has come to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Receipt {
    /// Its number.
    pub id: String,
    /// Whether anything is missing.
    pub status: ReceiptStatus,
    /// What is missing.
    pub missing: Missing,
    /// Gates on this host, each with what it has confirmed.
    pub gates: Vec<ReceiptGate>,
    /// What was stopped.
    pub scope: Scope,
    /// By what.
    pub by: KillBy,
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
    /// The same by the monotonic clock of this host, in ns.
    pub pressed_monotonic_ns: u64,
    /// When the page was raised.
    pub raised_at: String,
    /// From the press to the raise, in ns.
    pub raised_ns: u64,
    /// Whether the halt is on disk.
    pub latch: ReceiptLatch,
    /// Sessions that the scope concerns, each with what it has confirmed.
    pub sessions: Vec<ReceiptSession>,
    /// Orders that were working in the scope; `null` if that is not known.
    pub working_orders: Option<i64>,
    /// How far the cancels of its orders are.
    pub flat: Flat,
}

/// Whether a receipt lacks anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReceiptStatus {
    /// Nothing is missing.
    Confirmed,
    /// Something is.
    Unconfirmed,
}

/// What halted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum KillBy {
    /// A person, or what stands for one.
    Press,
    /// A limit.
    Trip,
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

/// A gate in a receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReceiptGate {
    /// Whose gate it is.
    pub session: String,
    /// Its process.
    pub pid: u32,
    /// The build that it claims.
    pub build: String,
    /// What is known of it.
    pub status: GateStatus,
    /// From the press to its confirmation, in ns.
    pub confirmed_ns: Option<u64>,
    /// Threads that were inside at the raise.
    pub inside_at_raise: u64,
    /// Those of them that still are.
    pub still_inside: u64,
    /// Those whose process ended inside: whether their order left is not known.
    pub died_inside: u64,
}

/// What is known of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GateStatus {
    /// Nobody holds a pass any more.
    Confirmed,
    /// Its process ended with a pass.
    DiedInside,
    /// It was attached to the run before, and has not come back.
    Unreached,
    /// Somebody still holds a pass.
    Inside,
}

/// Whether a halt is on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReceiptLatch {
    /// `durable`, `pending` or `failed`.
    pub status: LatchWord,
    /// Whether it is.
    pub durable: bool,
    /// From the press to the disk, in ns.
    pub durable_ns: Option<u64>,
    /// When.
    pub durable_at: Option<String>,
    /// Why it is not.
    pub error: Option<String>,
}

/// How far the latch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LatchWord {
    /// On disk.
    Durable,
    /// Not yet.
    Pending,
    /// The disk fails; it is tried again.
    Failed,
}

/// A session in a receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReceiptSession {
    /// Its name.
    pub name: String,
    /// What is known of it.
    pub status: SessionStatus,
    /// From the press until it was told, in ns.
    pub told_ns: Option<u64>,
    /// From the press until it confirmed, in ns.
    pub confirmed_ns: Option<u64>,
}

/// What is known of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SessionStatus {
    /// Its gate speaks for it.
    Gate,
    /// It said so.
    Confirmed,
    /// It was told.
    Told,
    /// It is connected, and was not told yet.
    Unconfirmed,
    /// It is not there.
    NotConnected,
}

/// How far the cancels of a halt are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Flat {
    /// In a word.
    pub status: FlatStatus,
    /// Orders that worked when the engine took the halt.
    pub orders_at_halt: Option<u64>,
    /// Orders that work still.
    pub residual: Option<u64>,
    /// Those of them that something is on its way for.
    pub in_progress: Option<u64>,
    /// All of them by what is known.
    pub by_state: Option<FlatStates>,
    /// What sessions were told.
    pub instructions: Option<FlatInstructions>,
    /// How orders ended.
    pub ended: Option<FlatEnded>,
    /// From the press until no order worked, in ns. Of a receipt only.
    pub flat_ns: Option<u64>,
    /// From the press until the last order ended, in ns. Of a receipt only.
    pub last_end_ns: Option<u64>,
    /// What is left, by name. Of one receipt only; `null` if the engine does not say.
    pub remainder: Option<Vec<Remainder>>,
}

/// How far the cancels of a halt are, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FlatStatus {
    /// No order works.
    Flat,
    /// What is left will not end by itself soon: refused, unanswered or unknown.
    Remainder,
    /// Cancels are on their way.
    Canceling,
    /// The halt was over before all were canceled, and the rest is left alone.
    ReArmed,
    /// The engine has not taken the halt yet.
    NotBegun,
    /// This mode cancels nothing.
    NotCanceled,
}

/// Orders that work still, by what is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FlatStates {
    /// Nobody was told yet.
    pub untold: u64,
    /// Their session was told.
    pub instructed: u64,
    /// Their session asked the venue.
    pub requested: u64,
    /// The venue refused.
    pub refused: u64,
    /// Nothing came back.
    pub unanswered: u64,
    /// Their session is not there.
    pub unknown: u64,
}

/// What sessions were told, in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FlatInstructions {
    /// To cancel one order.
    pub cancel: u64,
    /// To cancel all.
    pub mass_cancel: u64,
    /// To disconnect.
    pub disconnect: u64,
}

/// How orders ended, in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FlatEnded {
    /// Canceled.
    pub canceled: u64,
    /// Filled.
    pub filled: u64,
    /// Otherwise: rejected, expired.
    pub otherwise: u64,
}

/// An order that is left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Remainder {
    /// Its session.
    pub session: String,
    /// Its `cl_ord_id`.
    pub id: String,
    /// What is known of its cancel, as in [`FlatStates`].
    pub state: String,
    /// How often it was told.
    pub attempts: u64,
}

/// What a kill would do now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KillPreview {
    /// Of which scope.
    pub scope: Scope,
    /// Its mode as it is.
    pub mode: Option<Mode>,
    /// Orders that would be canceled; `null` if that is not known.
    pub working_orders: Option<i64>,
    /// Their sessions.
    pub sessions: Vec<PreviewSession>,
    /// Whether that is all of them, with exact numbers.
    pub sessions_complete: bool,
    /// Whether the configuration has working orders canceled.
    pub cancels: PreviewCancels,
    /// Gross exposure in `unit`.
    pub gross: Option<String>,
    /// Long in `unit`.
    pub net_long: Option<String>,
    /// Short in `unit`.
    pub net_short: Option<String>,
    /// What the amounts are counted in.
    pub unit: String,
    /// The same in a sentence.
    pub text: Option<String>,
}

/// Whether working orders are canceled, by how far a kill goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PreviewCancels {
    /// By a halt.
    pub halted: bool,
    /// By reduce-only.
    pub reduce_only: bool,
}

/// A session with orders that a kill would cancel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PreviewSession {
    /// Its name.
    pub name: String,
    /// How many.
    pub working_orders: u64,
    /// Whether it is there to be told.
    pub connected: bool,
}

/// Receipts, the newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
    /// Where it is.
    pub status: RearmStatus,
    /// Whether it is done, and on disk.
    pub done: bool,
    /// Whether it is on disk, once it was lowered.
    pub durable: Option<bool>,
    /// The second person.
    pub agreed_by: Option<String>,
    /// What that one said.
    pub agreed_reason: Option<String>,
    /// When the page was lowered.
    pub lowered_at: Option<String>,
    /// Until the request expires.
    pub expires_in_seconds: Option<u64>,
}

/// Where a re-arm is, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RearmStatus {
    /// It waits for a second person.
    Pending,
    /// The page is lowered; a restart would find it halted.
    Lowered,
    /// Lowered, and on disk.
    Done,
    /// Something was raised since.
    Void,
    /// Nobody agreed in time.
    Expired,
}

/// Re-arms, the newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rearms {
    /// The re-arms.
    pub rearms: Vec<RearmState>,
}

/// A number that is good for one re-arm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Nonce {
    /// The number.
    pub nonce: String,
    /// How long it is good.
    pub seconds: u64,
}

/// A page of drills, the newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Drills {
    /// The drills.
    pub drills: Vec<Drill>,
    /// When the last one was that passed.
    pub last_passed: Option<String>,
}

/// A drill, and what it is worth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Drill {
    /// Its number.
    pub id: String,
    /// When it began.
    pub began_at: String,
    /// What was observed.
    pub observed: DrillObserved,
    /// Whether it counts as a rehearsal.
    pub passed: bool,
    /// What it has shown.
    pub proved: Vec<String>,
    /// What it has not, and why.
    pub not_proved: Vec<String>,
    /// What went wrong.
    pub failed: Vec<String>,
}

/// What a drill observed, step by step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrillObserved {
    /// When it began, Unix ns.
    pub id: u64,
    /// What was halted.
    pub scope: Scope,
    /// Who rehearsed.
    pub by: String,
    /// Why.
    pub reason: String,
    /// Whether it was run although the scope was trading.
    pub forced: bool,
    /// An order before the halt.
    pub before: Judged,
    /// The receipt of the press.
    pub receipt: u64,
    /// From the press to the page showing it, in ns.
    pub raised_ns: u64,
    /// From the press to the latch being on disk, in ns.
    pub durable_ns: Option<u64>,
    /// Gates that were attached, and how many of them confirmed.
    pub gates: Vec<u64>,
    /// Sessions that were connected, and how many of them confirmed.
    pub sessions: Vec<u64>,
    /// Whether the session that rehearses was told of the halt of this very scope and confirmed it.
    pub told: bool,
    /// Whether the engine had taken the halt, and whether it had given it up again.
    pub engine: Vec<bool>,
    /// An order while it was halted.
    pub during: Judged,
    /// What became of the halt: `lowered`, `lowered_not_durable`, or `{"halted": why}`.
    pub left: WordOrWhy,
    /// An order after it.
    pub after: Judged,
    /// How long it took, in ns.
    pub took_ns: u64,
}

/// How an order was judged: `admitted`, `{"denied": {…}}` or `{"unknown": why}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Judged {
    /// It was admitted.
    Admitted,
    /// It was denied.
    Denied(Denied),
    /// There was no answer; why.
    Unknown(String),
}

/// By what an order was denied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Denied {
    /// The rule.
    pub rule: String,
    /// Where the limit, or the mode, stands.
    pub at: Scope,
}

/// A word, or a word with a reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum WordOrWhy {
    /// The word.
    Word(String),
    /// The word, and why.
    Why(BTreeMap<String, String>),
}
