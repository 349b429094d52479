//! Alerts: the list, one of them, and the answer of a person.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde_json::json;

use crate::api::auth::Role;
use crate::api::problem::Problem;
use crate::api::routes::{
    AnyQuery, Api, Caller, NUMBER_MAX, Shared, answer, not_found, parse_id, query_fields, read_fields,
};
use crate::api::schema;
use crate::kill::alerts::{AckRefused, Alert, Filter, Severity, State as AlertState};
use crate::kill::words::{ScopeName, rfc3339};
use crate::model::Scope;

/// The most alerts of one answer.
const COUNT_MAX: usize = 1_000;

/// `GET /v1/alerts?state=&open=&severity=&owner=&kind=&name=&scope_kind=&scope_name=&before=&count=`: newest first. `next` is
/// the `before` of the next page.
#[utoipa::path(
    get, path = "/v1/alerts", tag = "alerts",
    params(
        ("state" = Option<schema::AlertState>, Query, description = "Only in this state."),
        ("open" = Option<bool>, Query, description = "Only those that are not over."),
        ("severity" = Option<schema::Severity>, Query, description = "At least that bad."),
        ("owner" = Option<String>, Query, description = "Only of this owner."),
        ("kind" = Option<String>, Query, description = "Only of this kind."),
        ("name" = Option<String>, Query, description = "Only of this name."),
        ("scope_kind" = Option<String>, Query, description = "Only about a scope of this kind."),
        ("scope_name" = Option<String>, Query, description = "Only about the scope of this name."),
        ("before" = Option<u64>, Query, description = "`next` of an earlier answer."),
        ("count" = Option<u64>, Query, maximum = 1000, description = "At most this many; 100.")
    ),
    responses((status = 200, description = "Alerts, the newest first.", body = schema::Alerts))
)]
pub(super) async fn list(State(api): Shared, caller: Caller, query: AnyQuery) -> Result<Response, Problem> {
    caller.needs(Role::Viewer)?;
    let mut fields = query_fields(query)?;
    let mut filter = Filter::default();
    if let Some(word) = fields.text("state")? {
        let state = AlertState::ALL.into_iter().find(|state| state.name() == word);
        let rule = "must be firing, escalated, acknowledged or resolved";
        filter.state = Some(state.ok_or_else(|| fields.wrong("state", &word.into(), rule))?);
    }
    filter.open = match fields.text("open")?.as_deref() {
        None | Some("false") => false,
        Some("true" | "") => true,
        Some(other) => return Err(fields.wrong("open", &other.into(), "must be true or false")),
    };
    if let Some(word) = fields.text("severity")? {
        let rule = "must be info, warning or critical: at least that bad";
        filter.severity = Some(Severity::named(&word).ok_or_else(|| fields.wrong("severity", &word.into(), rule))?);
    }
    (filter.owner, filter.kind, filter.name) = (fields.text("owner")?, fields.text("kind")?, fields.text("name")?);
    let (kind, name) = (fields.text("scope_kind")?, fields.text("scope_name")?);
    filter.scope = match (kind, name) {
        (None, None) => None,
        (Some(kind), name) => Some(ScopeName { kind, name: name.unwrap_or_default() }),
        (None, Some(name)) => return Err(fields.wrong("scope_name", &name.into(), "needs a scope_kind as well")),
    };
    let whole = "must be the next of an earlier answer";
    filter.before = fields.query_number("before", whole, NUMBER_MAX)?.map(|before| before as u64);
    let rule = "must be a whole number up to 1000";
    let count = fields.query_number("count", rule, COUNT_MAX)?.unwrap_or(100);
    fields.finish()?;
    let list = api.parts.alerts.list(&filter, count);
    let next = (list.len() == count).then(|| list.last().map(|alert| alert.number)).flatten();
    let standing = api.parts.alerts.standing();
    Ok(answer(
        StatusCode::OK,
        &json!({
            "at": rfc3339(api.parts.clock.now().unix.0),
            "alerts": list.iter().map(Alert::to_json).collect::<Vec<_>>(),
            "next": next,
            "unacknowledged_critical": standing.unanswered,
            "blocks_open": !api.parts.alerts.blocking().is_empty(),
        }),
    ))
}

/// `GET /v1/alerts/{id}`.
#[utoipa::path(
    get, path = "/v1/alerts/{id}", tag = "alerts",
    params(("id" = String, Path, description = "The alert's id.")),
    responses((status = 200, description = "The alert.", body = schema::Alert))
)]
pub(super) async fn one(State(api): Shared, caller: Caller, Path(id): Path<String>) -> Result<Response, Problem> {
    caller.needs(Role::Viewer)?;
    let alert = api.parts.alerts.get(parse_id(&id)?).ok_or_else(|| refused(&AckRefused::Unknown))?;
    Ok(answer(StatusCode::OK, &alert.to_json()))
}

/// `POST /v1/alerts/{id}/ack` with `{reason}`: the caller looks at it.
#[utoipa::path(
    post, path = "/v1/alerts/{id}/ack", tag = "alerts",
    request_body = schema::Reason,
    params(("id" = String, Path, description = "The alert's id.")),
    responses((status = 200, description = "It is yours now.", body = schema::Alert))
)]
pub(super) async fn acknowledge(
    State(api): Shared,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    caller.may(&api, Role::Operator, "ack")?;
    let number = parse_id(&id)?;
    let mut fields = read_fields(&api, &headers, body).await?;
    let reason = fields.text("reason")?.unwrap_or_default();
    fields.finish()?;
    // An answer may be what a re-arm of the scope waits for. One that is about no scope, or about one that the configuration no
    // longer has, concerns the firm.
    if let Some(alert) = api.parts.alerts.get(number) {
        let scope = alert.scope.and_then(|scope| scope.find(api.parts.switch.universe()));
        caller.at(&api, "ack", scope.unwrap_or(Scope::Firm))?;
    }
    let taken = api.parts.alerts.acknowledge(number, caller.name(), &reason, api.parts.clock.now().unix.0);
    let mut entry = caller.entry("ack").because(&reason).detail(format!("alert {number}"));
    if let Some(alert) = api.parts.alerts.get(number) {
        entry = entry.detail(format!("alert {number}, {} {}, {} times", alert.kind, alert.name, alert.count));
        if let Some(scope) = alert.scope {
            entry = entry.on(scope);
        }
    }
    api.parts.audit.record(match &taken {
        Ok(_) => entry,
        Err(refused) => entry.refused(&format!("{refused:?}")),
    });
    let alert = taken.map_err(|why| refused(&why))?;
    tracing::warn!(event = "ack", alert = number, name = alert.name, actor = caller.name(), reason, "acknowledged");
    Ok(answer(StatusCode::OK, &alert.to_json()))
}

fn refused(why: &AckRefused) -> Problem {
    let conflict = |kind, title, detail: String| Problem::new(StatusCode::CONFLICT, kind, title, detail);
    match why {
        AckRefused::Unknown => not_found("no alert with this id is remembered"),
        AckRefused::NoReason => Problem::field("reason", &"".into(), "an acknowledgement needs a reason"),
        AckRefused::Already(by) => {
            conflict("acknowledged", "Acknowledged", format!("{by} has acknowledged it already")).with("by", by.clone())
        }
        AckRefused::Resolved => conflict("resolved", "Resolved", "the alert is over".to_owned()),
    }
}

/// Refuses a re-arm of a scope that an unanswered critical alert is about, where that is configured.
pub(super) fn may_rearm(api: &Api, scope: &ScopeName) -> Result<(), Problem> {
    match api.parts.alerts.holding(scope) {
        None => Ok(()),
        Some(number) => Err(Problem::new(
            StatusCode::CONFLICT,
            "unacknowledged",
            "Unacknowledged alert",
            format!("alert {number} about {scope} is critical, and nobody has acknowledged it"),
        )
        .with("alert", number.to_string())),
    }
}
