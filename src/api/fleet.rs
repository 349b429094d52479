//! The endpoints of the guard's fleet: who is connected with which build, the manifest, preflight; and what a person may decide
//! about them.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::auth::Role;
use crate::api::lanes::Lane;
use crate::api::problem::Problem;
use crate::api::routes::{AnyQuery, Api, Caller, Fields, Shared, answer, not_found, query_fields, read_fields};
use crate::api::schema;
use crate::guard::door::DeskRefused;
use crate::kill::audit::Entry;
use crate::kill::words::ScopeName;
use crate::model::Scope;

pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new()
        .routes(routes!(sessions))
        .routes(routes!(approve))
        .routes(routes!(manifest))
        .routes(routes!(reload))
        .routes(routes!(wake))
        .routes(routes!(preflight))
}

#[utoipa::path(
    get, path = "/v1/sessions", tag = "fleet",
    responses((status = 200, description = "Instances: connection, build, flags, verdict.", body = schema::Sessions))
)]
async fn sessions(State(api): Shared, caller: Caller, query: AnyQuery) -> Result<Response, Problem> {
    caller.0.needs(Role::Viewer)?;
    query_fields(query)?.finish()?;
    let rows = api.beside(Lane::Views, caller.name(), |parts| json!({ "sessions": parts.fleet.sessions() })).await?;
    Ok(answer(StatusCode::OK, &rows))
}

#[utoipa::path(
    get, path = "/v1/manifest", tag = "fleet",
    responses((status = 200, description = "The manifest in force.", body = schema::Manifest))
)]
async fn manifest(State(api): Shared, caller: Caller, query: AnyQuery) -> Result<Response, Problem> {
    caller.0.needs(Role::Viewer)?;
    query_fields(query)?.finish()?;
    let view = api.beside(Lane::Views, caller.name(), |parts| json!(parts.fleet.manifest())).await?;
    Ok(answer(StatusCode::OK, &view))
}

/// The page itself says whether the fleet may open; the status only that it could be made.
#[utoipa::path(
    get, path = "/v1/preflight", tag = "fleet",
    responses((status = 200, description = "Whether this fleet may open, and why not.", body = schema::Preflight))
)]
async fn preflight(State(api): Shared, caller: Caller, query: AnyQuery) -> Result<Response, Problem> {
    caller.0.needs(Role::Viewer)?;
    query_fields(query)?.finish()?;
    let page = api.beside(Lane::Views, caller.name(), |parts| json!(parts.fleet.preflight())).await?;
    Ok(answer(StatusCode::OK, &page))
}

/// Whose role has to count where `name` is about to be changed: its own, or the firm's where the configuration has no such scope, as
/// of a strategy that only the manifest knows.
fn place(api: &Api, name: &ScopeName) -> Scope {
    name.find(api.parts.switch.universe()).unwrap_or(Scope::Firm)
}

/// The reason, which whoever decides has to give.
fn reason(fields: &mut Fields, rule: &'static str) -> Result<String, Problem> {
    let reason = fields.text("reason")?.unwrap_or_default();
    if reason.trim().is_empty() {
        return Err(fields.wrong("reason", &reason.into(), rule));
    }
    Ok(reason)
}

#[utoipa::path(
    post, path = "/v1/sessions/{name}/approve", tag = "fleet",
    request_body = schema::ApproveBuild,
    params(("name" = String, Path, description = "The session's name.")),
    responses((status = 200, description = "What was looked at is approved.", body = schema::Approved),
        (status = 409, description = "It runs something else by now, which is in to_approve; or there is nothing to approve.",
            body = schema::ApproveConflict, content_type = "application/problem+json"),
        (status = 500, description = "It is approved, but a restart would not know of it."))
)]
async fn approve(
    State(api): Shared,
    caller: Caller,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    caller.may(&api, Role::Risk, "approve_build")?;
    let scope = ScopeName { kind: "session".to_owned(), name: name.clone() };
    caller.at(&api, "approve_build", place(&api, &scope))?;
    let mut fields = read_fields(&api, &headers, body).await?;
    let reason = reason(&mut fields, "an approval needs a reason")?;
    let tag = fields.text("tag")?.unwrap_or_default();
    if tag.is_empty() {
        let rule = "must be the tag of what was looked at: to_approve.tag of the session in GET /v1/sessions";
        return Err(fields.wrong("tag", &Value::Null, rule));
    }
    fields.finish()?;
    let (actor, entry) = (caller.0.name.clone(), caller.entry("approve_build").on(scope).because(&reason));
    let approve = move |parts: &crate::api::ApiParts| parts.fleet.approve(&name, &tag, &actor, &reason);
    let result = api.beside(Lane::Reloads, caller.name(), approve).await?;
    done(&api, entry, "approved", result)
}

#[utoipa::path(
    post, path = "/v1/wake", tag = "fleet",
    request_body = schema::Wake,
    responses((status = 200, description = "It is awake.", body = schema::Woken),
        (status = 404, description = "There is no such strategy or part."),
        (status = 500, description = "It is awake, but a restart would not know of it."))
)]
async fn wake(State(api): Shared, caller: Caller, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    caller.may(&api, Role::Risk, "wake")?;
    let mut fields = read_fields(&api, &headers, body).await?;
    let Some(strategy) = fields.text("strategy")? else {
        return Err(fields.wrong("strategy", &Value::Null, "must be the name of a strategy of the manifest"));
    };
    let scope = ScopeName { kind: "strategy".to_owned(), name: strategy.clone() };
    caller.at(&api, "wake", place(&api, &scope))?;
    let part = fields.text("part")?;
    let reason = reason(&mut fields, "to wake something needs a reason")?;
    fields.finish()?;
    let (actor, entry) = (caller.0.name.clone(), caller.entry("wake").on(scope).because(&reason));
    let wake = move |parts: &crate::api::ApiParts| parts.fleet.wake(&strategy, part.as_deref(), &actor, &reason);
    let result = api.beside(Lane::Reloads, caller.name(), wake).await?;
    done(&api, entry, "woken", result)
}

#[utoipa::path(
    post, path = "/v1/manifest/reload", tag = "fleet",
    request_body = schema::Reason,
    responses((status = 200, description = "The manifest was read again.", body = schema::ManifestVersion),
        (status = 404, description = "There is no manifest here."),
        (status = 500, description = "It is in force, but a restart would not know of it."))
)]
async fn reload(State(api): Shared, caller: Caller, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    caller.may(&api, Role::Risk, "manifest")?;
    // A manifest is of the whole fleet.
    caller.at(&api, "manifest", Scope::Firm)?;
    let mut fields = read_fields(&api, &headers, body).await?;
    let reason = reason(&mut fields, "a new manifest needs a reason")?;
    fields.finish()?;
    let (actor, entry) = (caller.0.name.clone(), caller.entry("manifest").because(&reason));
    let result = api.beside(Lane::Reloads, caller.name(), move |parts| parts.fleet.reload(&actor, &reason)).await?;
    match result {
        Ok(version) => {
            api.parts.audit.record(entry.detail(format!("version {version}")));
            Ok(answer(StatusCode::OK, &json!({ "version": version })))
        }
        Err(refused) => Err(refusal(&api, entry, refused)),
    }
}

fn done(api: &Api, entry: Entry, what: &str, result: Result<String, DeskRefused>) -> Result<Response, Problem> {
    match result {
        Ok(text) => {
            api.parts.audit.record(entry.detail(&text));
            Ok(answer(StatusCode::OK, &json!({ what: text })))
        }
        Err(refused) => Err(refusal(api, entry, refused)),
    }
}

fn refusal(api: &Api, entry: Entry, refused: DeskRefused) -> Problem {
    api.parts.audit.record(entry.refused(refused.text()));
    match refused {
        DeskRefused::Unknown(text) => not_found(text),
        DeskRefused::Conflict(text) => Problem::new(StatusCode::CONFLICT, "not-now", "Not now", text),
        DeskRefused::Changed(text, now) => {
            Problem::new(StatusCode::CONFLICT, "changed", "Changed", text).with("to_approve", json!(now))
        }
        DeskRefused::Failed(text) => {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            Problem::new(status, "not-written", "Done, but not written down", text)
        }
    }
}
