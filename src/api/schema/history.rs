//! Alerts, incidents and the audit.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{Mode, Scope};

/// An incident in the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Incident {
    /// Its id.
    pub id: String,
    /// When.
    pub at: String,
    /// `trip` or `kill`.
    pub what: String,
    /// Where.
    pub scope: Scope,
    /// Why.
    pub cause: IncidentCause,
}

/// Why something was halted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum IncidentCause {
    /// A limit tripped.
    Trip(IncidentTrip),
    /// Somebody killed.
    Kill(IncidentKill),
}

/// The breach of an incident.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IncidentTrip {
    /// The rule.
    pub rule: String,
    /// What was wrong: `breach`, `reference_missing` …
    pub why: String,
    /// Where the limit stands.
    pub limit_at: Scope,
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

/// The kill of an incident, as it was when the report was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IncidentKill {
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// What was asked for.
    pub mode: Mode,
    /// The halt's epoch.
    pub epoch: u64,
    /// The receipt's number.
    pub receipt: u64,
    /// Whether nothing was missing.
    pub confirmed: bool,
    /// Orders that were working.
    pub working_orders: Option<i64>,
}

/// Incidents, the newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Incidents {
    /// The incidents.
    pub incidents: Vec<Incident>,
    /// The `before` of the next page; `null`: that was the last.
    pub next: Option<String>,
}

/// The report of an incident.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IncidentReport {
    /// Its id.
    pub id: String,
    /// When.
    pub at: String,
    /// `trip` or `kill`.
    pub what: String,
    /// Where.
    pub scope: Scope,
    /// Why.
    pub cause: IncidentCause,
    /// Step by step.
    pub timeline: Vec<IncidentStep>,
    /// The last events of the scope before it, as the journal has them.
    pub events: Vec<IncidentEvent>,
    /// Whether the journal could be read that far.
    pub events_complete: bool,
    /// What was at stake.
    pub exposure: IncidentExposure,
    /// Orders that were pending or working.
    pub working_orders: IncidentWorking,
    /// The last control records, as the journal has them.
    #[schema(value_type = Vec<Object>)]
    pub operators: Vec<Map<String, Value>>,
    /// The version of haltline.
    pub build: String,
    /// BLAKE3 of the configuration.
    pub config: String,
}

/// One step of an incident.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IncidentStep {
    /// When; empty if it has not come.
    pub at: String,
    /// What.
    pub what: String,
}

/// An event before an incident.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IncidentEvent {
    /// When.
    pub at: String,
    /// Its place in the journal.
    pub record: u64,
    /// What.
    pub kind: String,
    /// Its sequence in its session.
    pub seq: u64,
    /// The order's `cl_ord_id`.
    pub id: String,
    /// `buy`, `sell` …
    pub side: String,
    /// The session.
    pub session: String,
    /// The strategy.
    pub strategy: String,
    /// The instrument.
    pub instrument: Option<String>,
    /// The quantity, exact.
    pub qty: String,
    /// The price, exact.
    pub px: String,
}

/// What was at stake, by gauge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IncidentExposure {
    /// As of when.
    pub as_of: String,
    /// Of the scope; `null` if that is not known.
    #[schema(value_type = Option<Object>)]
    pub scope: Option<Map<String, Value>>,
    /// Of the firm.
    #[schema(value_type = Option<Object>)]
    pub firm: Option<Map<String, Value>>,
}

/// Orders that were pending or working.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IncidentWorking {
    /// As of when.
    pub as_of: String,
    /// How many.
    pub count: Option<i64>,
    /// They themselves, as far as there is room for them.
    pub orders: Option<Vec<IncidentOrder>>,
    /// What to know about it.
    pub note: Option<String>,
}

/// An order that was pending or working.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IncidentOrder {
    /// Its `cl_ord_id`.
    pub id: String,
    /// The session.
    pub session: String,
    /// The strategy.
    pub strategy: String,
    /// The instrument.
    pub instrument: String,
    /// `buy`, `sell` …
    pub side: String,
    /// The quantity, exact.
    pub qty: String,
    /// What of it was filled.
    pub filled: String,
    /// What of it was left.
    pub leaves: String,
    /// The price that it counted with, exact.
    pub worst_px: String,
    /// `pending`, `working`, `replacement` or `done`.
    pub state: String,
    /// Whether a cancel of it was on its way.
    pub cancel_pending: bool,
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
    /// How bad.
    pub severity: Severity,
    /// Where it is.
    pub state: AlertState,
    /// Who owns it now.
    pub owner: String,
    /// All who were told, the first owner first.
    pub owners: Vec<String>,
    /// Where what to do is written.
    pub runbook: String,
    /// What happened last.
    pub text: String,
    /// What happened first.
    pub first_text: String,
    /// How often.
    pub count: u64,
    /// When first.
    pub at: String,
    /// When last.
    pub last_at: String,
    /// How often it went to the next owner.
    pub escalations: u64,
    /// Who looks at it.
    pub acknowledged: Option<Acknowledged>,
    /// When it was over.
    pub resolved_at: Option<String>,
    /// Whether receivers were told of it in a summary only.
    pub summed_up: bool,
    /// Whether it stays until a person answers.
    pub needs_acknowledgement: bool,
}

/// How bad an alert is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// To be known.
    Info,
    /// To be looked at.
    Warning,
    /// To be answered.
    Critical,
}

/// Where an alert is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AlertState {
    /// Nobody has answered.
    Firing,
    /// Nobody has answered, and the next owner was told.
    Escalated,
    /// Somebody looks at it.
    Acknowledged,
    /// It is over.
    Resolved,
}

/// Who looks at an alert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Acknowledged {
    /// Who.
    pub by: String,
    /// What they said.
    pub reason: String,
    /// When.
    pub at: String,
}

/// Alerts, the newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
