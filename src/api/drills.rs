//! Drills over HTTP: `POST /v1/drills`, `GET /v1/drills`, `GET /v1/drills/{id}`. A drill halts a scope and takes the halt back, so it
//! needs the role of who re-arms.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde_json::{Value, json};

use crate::api::auth::Role;
use crate::api::lanes::Lane;
use crate::api::problem::Problem;
use crate::api::routes::{AnyQuery, Api, Caller, Shared, answer, not_found, parse_id, query_fields, read_fields};
use crate::api::schema;
use crate::kill::drill::Report;
use crate::kill::words::{ScopeName, rfc3339};
use crate::model::Scope;
use crate::units::SessionId;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// What somebody wants to rehearse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrillAsk {
    /// Which scope; `None`: the one that is made for it.
    pub scope: Option<Scope>,
    /// Even if the scope is trading.
    pub forced: bool,
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// Why a drill was not begun. Nothing was halted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DrillRefused {
    /// No reason was given.
    NoReason,
    /// No scope was named, and none is made for it.
    NoScope,
    /// The scope is not normal. Others of the session that rehearses are: these.
    NotNormal(Vec<ScopeName>),
    /// The scope is trading; how that is known.
    Trading(String),
    /// Another drill is under way.
    Busy,
}

/// Who rehearses.
pub trait Drills: Send + Sync {
    /// Rehearses the switch; takes up to some seconds.
    ///
    /// # Errors
    /// See [`DrillRefused`].
    fn run(&self, ask: &DrillAsk) -> Result<Report, DrillRefused>;
    /// What is halted where no scope is named.
    fn scope_made_for_it(&self) -> Option<Scope>;
    /// Haltline's own session, which is there for the time of a drill only.
    fn session(&self) -> Option<SessionId>;
    /// The last drills, newest first.
    fn list(&self) -> Vec<Report>;
}

pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(begin, list)).routes(routes!(by_id))
}

fn drills(api: &Api) -> Result<Arc<dyn Drills>, Problem> {
    api.parts.drills.clone().ok_or_else(|| not_found("nothing can be rehearsed here"))
}

fn refused(refused: &DrillRefused) -> Problem {
    let conflict = |kind, title, detail: String| Problem::new(StatusCode::CONFLICT, kind, title, detail);
    match refused {
        DrillRefused::NoReason => Problem::field("reason", &"".into(), "a drill needs a reason"),
        DrillRefused::NoScope => Problem::field(
            "scope",
            &Value::Null,
            "must be named: the configuration has no [drill] with a scope made for it",
        ),
        DrillRefused::NotNormal(others) => {
            let instead = match others.as_slice() {
                // Only where a drill is asked for is anybody stuck by this; leaving that out is a change that is recorded.
                [] => "and so is every other of the session that rehearses: if a re-arm needs a drill, take [rearm] \
                       drill_within out of the configuration and restart; every halt stays"
                    .to_owned(),
                others => {
                    let names = others.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                    format!("rehearse at another that the session is in: {names}; a wider halt stays in force")
                }
            };
            let detail = format!("the scope is halted or reduce-only itself: that is no rehearsal; {instead}");
            conflict("not-normal", "Not normal", detail)
        }
        DrillRefused::Trading(how) => conflict(
            "trading",
            "Trading",
            format!("the scope is trading ({how}): rehearse on another one, or force it"),
        ),
        DrillRefused::Busy => conflict("busy", "Busy", "another drill is under way".to_owned()),
    }
}

fn shown(report: &Report) -> Value {
    let mut shown = json!(report);
    shown["id"] = report.observed.id.to_string().into();
    shown["began_at"] = rfc3339(report.observed.id).into();
    shown
}

#[utoipa::path(
    post, path = "/v1/drills", tag = "drills",
    request_body = schema::DrillAsk,
    responses((status = 200, description = "What the rehearsal showed.", body = schema::Drill),
        (status = 404, description = "Nothing can be rehearsed here."))
)]
async fn begin(State(api): Shared, caller: Caller, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    caller.may(&api, Role::Risk, "drill")?;
    let mut fields = read_fields(&api, &headers, body).await?;
    let scope = if fields.has("scope") { Some(fields.scope(&api)?) } else { None };
    // One that is `null` is left out.
    fields.take("scope");
    let forced = match fields.take("force") {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) => true,
        other => return Err(fields.wrong("force", &other, "must be true or false")),
    };
    let drills = drills(&api)?;
    // Without any the drill says itself what is missing.
    if let Some(scope) = scope.or_else(|| drills.scope_made_for_it()) {
        caller.at(&api, "drill", scope)?;
    }
    let reason = fields.text("reason")?.unwrap_or_default();
    fields.finish()?;
    let mut entry = caller.entry("drill").because(&reason);
    if let Some(scope) = scope {
        entry = entry.on(ScopeName::of(api.parts.switch.universe(), scope));
    }
    let ask = DrillAsk { scope, forced, actor: caller.0.name.clone(), reason };
    let result = api.beside(Lane::Drills, caller.name(), move |_| drills.run(&ask)).await?;
    api.parts.audit.record(match &result {
        Ok(report) => {
            let words = if report.passed { "passed" } else { "not passed" };
            let detail = format!("drill {}: {words}; {}", report.observed.id, report.failed.join("; "));
            entry.on(report.observed.scope.clone()).detail(detail)
        }
        Err(why) => entry.refused(&format!("{why:?}")),
    });
    let report = result.map_err(|why| refused(&why))?;
    Ok(answer(StatusCode::OK, &shown(&report)))
}

#[utoipa::path(
    get, path = "/v1/drills", tag = "drills",
    responses((status = 200, description = "Drills.", body = schema::Drills),
        (status = 404, description = "Nothing can be rehearsed here."))
)]
async fn list(State(api): Shared, caller: Caller, query: AnyQuery) -> Result<Response, Problem> {
    caller.0.needs(Role::Viewer)?;
    query_fields(query)?.finish()?;
    let list: Vec<Value> = drills(&api)?.list().iter().map(shown).collect();
    let last = api.parts.switch.last_drill(api.parts.clock.now()).map(|(at, _)| rfc3339(at));
    Ok(answer(StatusCode::OK, &json!({ "drills": list, "last_passed": last })))
}

#[utoipa::path(
    get, path = "/v1/drills/{id}", tag = "drills",
    params(("id" = String, Path, description = "The drill's id.")),
    responses((status = 200, description = "The drill.", body = schema::Drill))
)]
async fn by_id(State(api): Shared, caller: Caller, Path(id): Path<String>) -> Result<Response, Problem> {
    caller.0.needs(Role::Viewer)?;
    let id = parse_id(&id)?;
    let list = drills(&api)?.list();
    let found = list.iter().find(|report| report.observed.id == id);
    Ok(answer(StatusCode::OK, &shown(found.ok_or_else(|| not_found("no drill with this id is remembered"))?)))
}
