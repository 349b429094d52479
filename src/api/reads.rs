//! What is read and not changed: strategies with their limits, incident reports, the audit.

use std::path::{Path as FilePath, PathBuf};
use std::sync::PoisonError;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use crate::api::auth::Role;
use crate::api::lanes::Lane;
use crate::api::problem::Problem;
use crate::api::routes::{AnyQuery, Caller, Fields, NUMBER_MAX, Shared, answer, not_found, query_fields};
use crate::api::schema;
use crate::api::{ApiParts, view};
use crate::kill::audit::Entry;
use crate::kill::words::{ScopeName, rfc3339};
use crate::limits::{Gauge, LimitTable, UNLIMITED};
use crate::metrics::usage::each_usage;
use crate::model::{Mode, Scope};
use crate::units::StrategyId;

/// Where what happened lies, as far as it is kept.
#[derive(Default)]
pub struct Files {
    /// The directory of incident reports; `None`: none are made.
    pub incidents: Option<PathBuf>,
    /// Reads the audit; `None`: there is no journal.
    pub audit: Option<Box<AuditLog>>,
}

/// Reads control records, the newest first. May take seconds.
pub type AuditLog = dyn Fn(&AuditQuery) -> Result<AuditPage, String> + Send + Sync;

/// Which control records to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditQuery {
    /// Only of this actor.
    pub actor: Option<String>,
    /// Only this action.
    pub action: Option<String>,
    /// Only on this scope.
    pub scope: Option<ScopeName>,
    /// Only from this time on: RFC 3339 in UTC without `Z`, cut off anywhere.
    pub since: Option<String>,
    /// Only before this time.
    pub until: Option<String>,
    /// Only what was refused.
    pub refused: bool,
    /// At most this many, and what else lies in the same group of the journal as the last.
    pub count: usize,
    /// Only from groups before this one.
    pub before: Option<u64>,
}

impl AuditQuery {
    /// Whether `entry` is one of those that are asked for.
    #[must_use]
    pub fn passes(&self, entry: &Entry) -> bool {
        // Times of one form and zone compare as text, and a beginning comes before what it begins.
        let at = rfc3339(entry.at);
        self.actor.as_ref().is_none_or(|actor| *actor == entry.actor)
            && self.action.as_ref().is_none_or(|action| *action == entry.action)
            && self.scope.as_ref().is_none_or(|scope| Some(scope) == entry.scope.as_ref())
            && self.since.as_deref().is_none_or(|since| *at >= *since)
            && self.until.as_deref().is_none_or(|until| *at < *until)
            && (!self.refused || entry.outcome.starts_with("refused"))
    }
}

/// Some control records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditPage {
    /// Each with the group of the journal that it is in, the newest first.
    pub entries: Vec<(u64, Entry)>,
    /// The `before` of what follows; `None`: that was the oldest.
    pub next: Option<u64>,
    /// What could not be read, in words.
    pub note: Option<String>,
}

/// `GET /v1/strategies`: every strategy with each of its limits that is not unlimited.
#[utoipa::path(
    get, path = "/v1/strategies", tag = "state",
    params(
        ("name" = Option<String>, Query, description = "Only this one."),
        ("rows" = Option<u64>, Query, maximum = 5000, description = "At most this many; 1000."),
        ("from" = Option<u64>, Query, description = "`next` of an earlier answer.")
    ),
    responses((status = 200, description = "Strategies with their limits.", body = schema::Strategies))
)]
pub(super) async fn strategies(State(api): Shared, caller: Caller, query: AnyQuery) -> Result<Response, Problem> {
    caller.0.needs(Role::Viewer)?;
    let mut fields = query_fields(query)?;
    let name = fields.text("name")?;
    let rows = fields.query_number("rows", "must be a whole number from 1 to 5000", 5_000)?.unwrap_or(1_000);
    let from = fields.query_number("from", "must be the next of an earlier answer", NUMBER_MAX)?.unwrap_or(0);
    fields.finish()?;
    let universe = api.parts.switch.universe();
    let (from, rows) = match name {
        None => (from, rows),
        Some(name) => match universe.strategy(&name) {
            Some(id) => (usize::from(id.0), 1),
            None => return Err(fields.wrong("name", &name.into(), "must be the name of a strategy")),
        },
    };
    let big = api.beside(Lane::Views, caller.name(), move |parts| {
        let table = parts.limits.read().unwrap_or_else(PoisonError::into_inner).clone();
        let universe = parts.switch.universe();
        let count = universe.strategies.len();
        let until = from.saturating_add(rows.max(1)).min(count);
        let list: Vec<Value> = (from..until).filter_map(|at| strategy(parts, &table, at)).collect();
        json!({
            "at": rfc3339(parts.clock.now().unix.0),
            "stale": view::engine_health(parts).stale,
            "generation": table.generation,
            "strategies": list,
            "next": (until < count && rows > 1).then_some(until),
        })
    });
    Ok(answer(StatusCode::OK, &big.await?))
}

fn strategy(parts: &ApiParts, table: &LimitTable, at: usize) -> Option<Value> {
    let universe = parts.switch.universe();
    let spec = universe.strategies.get(at)?;
    let scope = Scope::Strategy(StrategyId(u16::try_from(at).ok()?));
    let slot = universe.slot(scope)?;
    let shown = parts.published.scope(slot);
    let word = parts.switch.page().get(slot);
    let mode_of = |scope| universe.slot(scope).map_or(Mode::Halted, |slot| parts.switch.page().get(slot).mode);
    let in_force = word.mode.max(mode_of(Scope::Account(spec.account))).max(mode_of(Scope::Firm));
    let same_generation = parts.published.limits_generation.get() == u64::from(table.generation);
    let mut limits = Vec::new();
    each_usage(universe, table, scope, shown.as_ref(), |usage| {
        if usage.limit < UNLIMITED {
            limits.push(view::usage_value(parts, scope, usage, same_generation));
        }
    });
    Some(json!({
        "name": spec.name,
        "account": universe.scope_name(Scope::Account(spec.account)),
        "mode": word.mode.name(),
        "epoch": word.epoch,
        "in_force": in_force.name(),
        "working_orders": shown.map(|view| view.gauges[Gauge::Working as usize]),
        "limits": limits,
    }))
}

/// `GET /v1/incidents`: what happened, the newest first.
#[utoipa::path(
    get, path = "/v1/incidents", tag = "history",
    params(
        ("count" = Option<u64>, Query, maximum = 500, description = "At most this many; 50."),
        ("before" = Option<String>, Query, description = "`next` of an earlier answer.")
    ),
    responses((status = 200, description = "What happened, the newest first.", body = schema::Incidents),
        (status = 500, description = "Reports cannot be read."))
)]
pub(super) async fn incidents(State(api): Shared, caller: Caller, query: AnyQuery) -> Result<Response, Problem> {
    caller.0.needs(Role::Viewer)?;
    let mut fields = query_fields(query)?;
    let count = fields.query_number("count", "must be a whole number up to 500", 500)?.unwrap_or(50);
    let before = fields.text("before")?;
    fields.finish()?;
    let list = api.beside(Lane::Files, caller.name(), move |parts| {
        let Some(dir) = &parts.files.incidents else { return Ok(Vec::new()) };
        list_incidents(dir, count, before.as_deref())
    });
    let list = list.await?.map_err(|error| unreadable(&error))?;
    // Ids begin with the time: a full page ends where the next one begins.
    let next = (count > 0 && list.len() == count).then(|| list.last().map(|last| last["id"].clone()));
    Ok(answer(StatusCode::OK, &json!({ "incidents": list, "next": next })))
}

/// `GET /v1/incidents/{id}`: one report, whole.
#[utoipa::path(
    get, path = "/v1/incidents/{id}", tag = "history",
    params(("id" = String, Path, description = "The report's id.")),
    responses((status = 200, description = "The report, whole.", body = schema::IncidentReport),
        (status = 500, description = "Reports cannot be read."))
)]
pub(super) async fn incident_by_id(
    State(api): Shared,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    caller.0.needs(Role::Viewer)?;
    let none = || not_found("there is no incident report with this id");
    if !is_id(&id) {
        return Err(none());
    }
    let read =
        api.beside(Lane::Files, caller.name(), move |parts| Some(read_incident(parts.files.incidents.as_ref()?, &id)));
    match read.await? {
        Some(Ok(report)) => Ok(answer(StatusCode::OK, &report)),
        Some(Err(error)) if error.kind() != std::io::ErrorKind::NotFound => Err(unreadable(&error)),
        Some(Err(_)) | None => Err(none()),
    }
}

fn unreadable(error: &std::io::Error) -> Problem {
    let detail = format!("incident reports cannot be read: {error}");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "unreadable", "Unreadable", detail)
}

/// Names of directories that we make, and nothing that leads elsewhere.
fn is_id(id: &str) -> bool {
    let known = |b: u8| b.is_ascii_alphanumeric() || b"-_.:+".contains(&b);
    (1..=255).contains(&id.len()) && id.bytes().all(known) && !id.starts_with('.')
}

fn list_incidents(dir: &FilePath, count: usize, before: Option<&str>) -> std::io::Result<Vec<Value>> {
    let entries = match std::fs::read_dir(dir) {
        // Nothing has happened yet.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut ids: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    ids.retain(|id| is_id(id) && before.is_none_or(|before| **id < *before));
    ids.sort_unstable_by(|a, b| b.cmp(a));
    // One that is being written has no report yet.
    let reports = ids.into_iter().filter_map(|id| Some((read_incident(dir, &id).ok()?, id)));
    let short = |(report, id): (Value, String)| {
        json!({
            "id": id, "at": report["at"], "what": report["what"], "scope": report["scope"], "cause": report["cause"],
        })
    };
    Ok(reports.take(count).map(short).collect())
}

fn read_incident(dir: &FilePath, id: &str) -> std::io::Result<Value> {
    let text = std::fs::read(dir.join(id).join("incident.json"))?;
    serde_json::from_slice(&text).map_err(std::io::Error::from)
}

/// `GET /v1/audit`: who did what, the newest first.
#[utoipa::path(
    get, path = "/v1/audit", tag = "history",
    params(
        ("actor" = Option<String>, Query, description = "Only of this actor."),
        ("action" = Option<String>, Query, description = "Only this action."),
        ("scope" = Option<String>, Query, description = "Only on this scope: `firm`, `strategy:alpha` …"),
        ("since" = Option<String>, Query, description = "Only from this time on, RFC 3339 in UTC."),
        ("until" = Option<String>, Query, description = "Only before this time."),
        ("refused" = Option<bool>, Query, description = "Only what was refused."),
        ("count" = Option<u64>, Query, maximum = 1000, description = "About this many; 100."),
        ("before" = Option<u64>, Query, description = "`next` of an earlier answer.")
    ),
    responses((status = 200, description = "Who did what, the newest first.", body = schema::Audit),
        (status = 404, description = "There is no journal."),
        (status = 500, description = "It cannot be read."))
)]
pub(super) async fn audit(State(api): Shared, caller: Caller, query: AnyQuery) -> Result<Response, Problem> {
    caller.may(&api, Role::Risk, "audit")?;
    let mut fields = query_fields(query)?;
    let query = audit_query(&mut fields)?;
    if api.parts.files.audit.is_none() {
        return Err(not_found("nothing is kept: the journal is not enabled"));
    }
    let page = api.beside(Lane::Files, caller.name(), move |parts| match &parts.files.audit {
        Some(read) => read(&query),
        None => Ok(AuditPage::default()),
    });
    let page = page
        .await?
        .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "unreadable", "Unreadable", error))?;
    let row = |(group, entry): (u64, Entry)| {
        json!({
            "at": rfc3339(entry.at), "group": group, "actor": entry.actor, "from": entry.from, "action": entry.action,
            "scope": entry.scope, "reason": entry.reason, "outcome": entry.outcome, "detail": entry.detail,
        })
    };
    let entries: Vec<Value> = page.entries.into_iter().map(row).collect();
    let body = json!({ "entries": entries, "next": page.next, "note": page.note });
    Ok(answer(StatusCode::OK, &body))
}

fn audit_query(fields: &mut Fields) -> Result<AuditQuery, Problem> {
    let (actor, action, scope) = (fields.text("actor")?, fields.text("action")?, fields.text("scope")?);
    let scope = match scope {
        None => None,
        Some(text) => {
            let (kind, name) = text.split_once(':').unwrap_or((&text, ""));
            // What was done to a scope that the configuration no longer has was done all the same.
            let known = ["firm", "account", "strategy", "pair", "instrument", "session"].contains(&kind);
            if !known || (kind == "firm") != name.is_empty() {
                return Err(fields.wrong("scope", &text.into(), "must be firm, or a kind and a name: strategy:alpha"));
            }
            Some(ScopeName { kind: kind.to_owned(), name: name.to_owned() })
        }
    };
    let (since, until) = (time(fields, "since")?, time(fields, "until")?);
    let refused = match fields.text("refused")?.as_deref() {
        None | Some("false") => false,
        Some("true" | "") => true,
        Some(other) => return Err(fields.wrong("refused", &other.into(), "must be true or false")),
    };
    let count = fields.query_number("count", "must be a whole number up to 1000", 1_000)?.unwrap_or(100);
    let before = fields.query_number("before", "must be the next of an earlier answer", NUMBER_MAX)?;
    fields.finish()?;
    Ok(AuditQuery { actor, action, scope, since, until, refused, count, before: before.map(|n| n as u64) })
}

/// A time as [`AuditQuery::since`] has it: what is left out at its end is nothing, not zero.
fn time(fields: &mut Fields, name: &'static str) -> Result<Option<String>, Problem> {
    let Some(text) = fields.text(name)? else { return Ok(None) };
    const FORM: &[u8] = b"0000-00-00T00:00:00.000000000";
    let bare = text.strip_suffix('Z').unwrap_or(&text);
    let fits = bare.len() >= 10
        && bare.len() <= FORM.len()
        && bare.bytes().zip(FORM).all(|(b, form)| if *form == b'0' { b.is_ascii_digit() } else { b == *form });
    if !fits {
        return Err(fields.wrong(name, &text.clone().into(), "must be a time in UTC such as 2026-01-31T12:00:00Z"));
    }
    Ok(Some(bare.to_owned()))
}
