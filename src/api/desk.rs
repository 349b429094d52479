//! Limits for a while and for good: overrides, what-if, the file, probation. What they do is the desk's ([`LimitsDesk`]); this is
//! its face over HTTP.
//!
//! | Endpoint | Role | |
//! |---|---|---|
//! | `GET /v1/overrides` | viewer | all that are remembered, newest first, and whether they are on disk |
//! | `POST /v1/overrides` | risk | `{scope, rule, window_ns?, limit, for_seconds, reason, etag?}` → 201 in force, 202 waits for a second person |
//! | `POST /v1/overrides/{id}/approve` | risk, another person | `{reason}` |
//! | `DELETE /v1/overrides/{id}` | risk | `{reason}`; of one that lowers 202, where raising needs two people |
//! | `POST /v1/limits/what-if` | viewer | `{changes: [{scope, rule, window_ns?, limit}]}` or, for the role risk, `{text}` |
//! | `GET /v1/limits/file` | risk | the configuration as it stands, with its `ETag` |
//! | `PUT /v1/limits` | risk | `{text, reason}`, `If-Match`: checked, written to the file and in force, or none of it |
//! | `GET /v1/probation` | viewer | which scopes may use a fraction only |
//! | `POST /v1/probation/{kind}/{name}/promote` | risk | `{reason}`; `/v1/probation/firm/promote` for the firm |
//!
//! `ETag` names the limits in effect, file and overrides. `If-Match` with another one is answered 412, so that two officers
//! cannot overwrite each other; whatever raises a limit has to have one (428). For an override the field `etag` says the same.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::api::ApiParts;
use crate::api::auth::Role;
use crate::api::lanes::Lane;
use crate::api::problem::Problem;
use crate::api::routes::{
    AnyQuery, Api, Caller, Fields, Shared, answer, not_found, parse_id, query_fields, read_fields,
};
use crate::api::schema;
use crate::guard::overrides::{Ask, Override, Place, Refused, State as Standing, parse_value};
use crate::guard::ramp::Probation;
use crate::kill::rearm::{Nonces, RearmRefused};
use crate::kill::words::{ScopeName, rfc3339, unit, value};
use crate::limits::UNLIMITED;
use crate::limits::compare::Difference;
use crate::model::{Rule, Scope, Universe};
use crate::units::Now;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// What somebody would change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proposal {
    /// Single numbers.
    Numbers(Vec<(Place, i64)>),
    /// The whole configuration.
    Text(String),
}

/// A limit that would change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WouldBe {
    /// Which, from what is in force to what would be.
    pub difference: Difference,
    /// What is in use now in the same unit, where that is known.
    pub observed: Option<i64>,
}

/// Why the desk refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeskRefused {
    /// See [`Refused`].
    Override(Refused),
    /// The text is no configuration, or changes what only a restart can change.
    Violations(Vec<String>),
    /// The limits in effect are others than the caller looked at; these are theirs now.
    Changed(String),
    /// The caller did not say what it looked at.
    NotSaid,
    /// Not in this way, and what would be one.
    NotThisWay(String),
    /// The scope is not on probation.
    NotOnProbation(String),
    /// It could not be done: a disk, or the engine.
    Failed(String),
}

/// Who changes limits for a while. Every method may block for a second; none is called on a thread that takes kills.
pub trait LimitsDesk: Send + Sync {
    /// Names the limits in effect.
    fn etag(&self) -> String;
    /// All overrides that are remembered, newest first.
    fn overrides(&self) -> Vec<Override>;
    /// All probations.
    fn probations(&self) -> Vec<Probation>;
    /// Whether what is in force would be after a restart.
    fn is_durable(&self) -> bool;
    /// Asks for an override. `etag`: the limits that the caller looked at.
    ///
    /// # Errors
    /// See [`DeskRefused`].
    fn ask(&self, ask: &Ask, etag: Option<&str>) -> Result<Override, DeskRefused>;
    /// A second person agrees.
    ///
    /// # Errors
    /// See [`DeskRefused`].
    fn agree(&self, id: u64, actor: &str, reason: &str) -> Result<Override, DeskRefused>;
    /// Takes an override back.
    ///
    /// # Errors
    /// See [`DeskRefused`].
    fn remove(&self, id: u64, actor: &str, reason: &str) -> Result<Override, DeskRefused>;
    /// Ends the probation of a scope.
    ///
    /// # Errors
    /// See [`DeskRefused`].
    fn promote(&self, scope: &ScopeName, actor: &str, reason: &str) -> Result<Vec<Probation>, DeskRefused>;
    /// Whether a scope that is re-armed goes on probation.
    fn has_probation(&self) -> bool;
    /// Puts a scope on probation that is about to be re-armed. When this returns the engine judges by it.
    ///
    /// # Errors
    /// Why it could not be done: the scope has to stay as it is.
    fn before_rearm(&self, scope: Scope, epoch: u64, actor: &str) -> Result<(), String>;
    /// What a change would do, without doing it.
    ///
    /// # Errors
    /// See [`DeskRefused`].
    fn what_if(&self, proposal: &Proposal) -> Result<Vec<WouldBe>, DeskRefused>;
    /// The text of the configuration, without overrides.
    fn text(&self) -> String;
    /// Puts another configuration in the file and in force: the new generation of limits.
    ///
    /// # Errors
    /// See [`DeskRefused`].
    fn replace(&self, text: &str, actor: &str, reason: &str, etag: Option<&str>) -> Result<u32, DeskRefused>;
}

pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new()
        .routes(routes!(ask, list))
        .routes(routes!(remove))
        .routes(routes!(agree))
        .routes(routes!(what_if))
        .routes(routes!(file))
        .routes(routes!(replace))
        .routes(routes!(probations))
        .routes(routes!(promote_firm))
        .routes(routes!(promote))
}

fn refused(refused: DeskRefused) -> Problem {
    let problem = |status, kind, title, detail: String| Problem::new(status, kind, title, detail);
    match refused {
        DeskRefused::Override(why) => {
            let text = why.to_string();
            let field = |field: &str| Problem::field(field, &Value::Null, &text);
            match why {
                Refused::NoReason => field("reason"),
                Refused::NoSuchLimit => field("rule"),
                Refused::WhichWindow(all) => field("window_ns").with("windows_ns", all),
                Refused::OutOfRange { .. } => field("limit"),
                Refused::TooLong(_) => field("for_seconds"),
                Refused::AboveCeiling(_) => {
                    problem(StatusCode::FORBIDDEN, "above-ceiling", "Above the ceiling", text).with("field", "limit")
                }
                Refused::TooMany => problem(StatusCode::TOO_MANY_REQUESTS, "too-many", "Too many", text),
                Refused::Unknown => not_found(text),
                Refused::NotPending => problem(StatusCode::CONFLICT, "not-pending", "Not pending", text),
                Refused::NotActive => problem(StatusCode::CONFLICT, "not-active", "Not in force", text),
                Refused::SamePerson => problem(StatusCode::FORBIDDEN, "same-person", "Same person", text),
                Refused::Void => problem(StatusCode::CONFLICT, "void", "Void", text),
            }
        }
        DeskRefused::Violations(violations) => {
            let detail = "the text is no valid successor of the configuration; nothing has changed".to_owned();
            problem(StatusCode::UNPROCESSABLE_ENTITY, "invalid-limits", "Invalid limits", detail)
                .with("violations", violations)
        }
        DeskRefused::Changed(now) => {
            let detail = "the limits have changed since they were looked at: look again".to_owned();
            problem(StatusCode::PRECONDITION_FAILED, "limits-changed", "Limits changed", detail).with("etag", now)
        }
        DeskRefused::NotSaid => {
            let detail =
                "what raises a limit names the limits it was decided on: If-Match with the ETag of GET /v1/limits";
            problem(StatusCode::PRECONDITION_REQUIRED, "if-match-needed", "If-Match needed", detail.to_owned())
        }
        DeskRefused::NotOnProbation(why) => not_found(why),
        DeskRefused::NotThisWay(why) => problem(StatusCode::FORBIDDEN, "not-this-way", "Not in this way", why),
        DeskRefused::Failed(why) => problem(StatusCode::SERVICE_UNAVAILABLE, "not-done", "Could not be done", why)
            .header(header::RETRY_AFTER, "1"),
    }
}

/// With the `ETag` of the limits as they are.
fn tagged(mut response: Response, etag: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(&format!("\"{etag}\"")) {
        response.headers_mut().insert(header::ETAG, value);
    }
    response
}

/// The tag in `If-Match`. A star matches anything, so it says nothing.
fn if_match(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(header::IF_MATCH)?.to_str().ok()?.trim();
    let tag = text.strip_prefix("W/").unwrap_or(text).trim_matches('"');
    (tag != "*" && !tag.is_empty()).then(|| tag.to_owned())
}

fn desk(api: &Api) -> Result<Arc<dyn LimitsDesk>, Problem> {
    api.parts.desk.clone().ok_or_else(|| not_found("limits cannot be changed here"))
}

impl Api {
    /// Has the desk do something beside the thread that takes kills.
    async fn at_the_desk<T: Send + 'static>(
        self: &Arc<Self>,
        who: &str,
        call: impl FnOnce(&dyn LimitsDesk) -> Result<T, DeskRefused> + Send + 'static,
    ) -> Result<(T, String), Problem> {
        let desk = desk(self)?;
        let done = self
            .beside(Lane::Limits, who, move |_| {
                let done = call(&*desk);
                (done, desk.etag())
            })
            .await?;
        Ok((done.0.map_err(refused)?, done.1))
    }
}

/// An override as people see it.
pub(super) fn shown(universe: &Universe, one: &Override, now: Now) -> Value {
    let place = one.place(universe);
    let number = |n: i64| match place {
        _ if n >= UNLIMITED => "unlimited".to_owned(),
        Some(place) => value(universe, place.rule, place.scope, n),
        None => n.to_string(),
    };
    let (status, ended) = match &one.state {
        Standing::Pending => ("pending", None),
        Standing::Active => ("active", None),
        Standing::Ended(how) => ("ended", Some(how.name())),
    };
    let at = |unix: u64| (unix > 0).then(|| rfc3339(unix));
    json!({
        "id": one.id.to_string(),
        "status": status,
        "ended": ended,
        "scope": one.scope,
        "rule": one.rule,
        "window_ns": one.window_ns,
        "limit": number(one.value),
        "configured": number(one.configured),
        "unit": place.map(|place| unit(universe, place.rule, place.scope)),
        "raises": one.raises,
        "by": one.by,
        "reason": one.reason,
        "asked_at": rfc3339(one.asked),
        "agreed_by": one.agreed_by,
        "agreed_reason": one.agreed_reason,
        "since": at(one.since),
        "until": at(one.until),
        "seconds_left": (status != "ended").then(|| one.left_ns(now).div_ceil(1_000_000_000)),
        "removal": one.removal.as_ref().map(|r| json!({ "by": r.actor, "reason": r.reason })),
    })
}

fn rule(fields: &mut Fields) -> Result<Rule, Problem> {
    let name = fields.text("rule")?;
    let found = name.as_deref().and_then(Rule::from_name);
    found.ok_or_else(|| fields.wrong("rule", &name.into(), "must be the name of a rule, such as gross_exposure"))
}

/// Which limit, and the number that it is to have.
fn place_and_value(api: &Api, fields: &mut Fields) -> Result<(Place, i64), Problem> {
    let universe = api.parts.switch.universe();
    let scope = fields.any_scope(api)?;
    let rule = rule(fields)?;
    let window_ns = fields.number("window_ns", "must be a whole number of nanoseconds", u64::MAX)?;
    let place = Place { scope, rule, window_ns };
    let written = fields.take("limit");
    let text = match &written {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_i64() || number.is_u64() => number.to_string(),
        Value::Number(_) | Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
            return Err(fields.wrong("limit", &written, "must be a decimal in quotes, or a whole number"));
        }
    };
    match parse_value(universe, &place, &text) {
        Ok(value) => Ok((place, value)),
        Err(rule) => Err(fields.wrong("limit", &written, &rule)),
    }
}

#[utoipa::path(
    get, path = "/v1/overrides", tag = "limits",
    responses((status = 200, description = "Overrides.", body = schema::Overrides),
        (status = 404, description = "Limits cannot be changed here, or there is none of this name or id."))
)]
async fn list(State(api): Shared, caller: Caller, query: AnyQuery) -> Result<Response, Problem> {
    caller.0.needs(Role::Viewer)?;
    query_fields(query)?.finish()?;
    let desk = desk(&api)?;
    let (universe, now) = (api.parts.switch.universe(), api.parts.clock.now());
    let list: Vec<Value> = desk.overrides().iter().map(|o| shown(universe, o, now)).collect();
    let active = list.iter().filter(|o| o["status"] == "active").count();
    let etag = desk.etag();
    let body = json!({ "overrides": list, "active": active, "durable": desk.is_durable(), "etag": etag });
    Ok(tagged(answer(StatusCode::OK, &body), &etag))
}

fn show_one(api: &Api, one: &Override, etag: &str, done: StatusCode) -> Response {
    let waits = one.state == Standing::Pending || one.removal.is_some();
    let status = if waits { StatusCode::ACCEPTED } else { done };
    let body = shown(api.parts.switch.universe(), one, api.parts.clock.now());
    tagged(answer(status, &body), etag)
}

#[utoipa::path(
    post, path = "/v1/overrides", tag = "limits",
    request_body = schema::OverrideAsk,
    responses((status = 201, description = "It is in force.", body = schema::Override),
        (status = 202, description = "It waits for a second person.", body = schema::Override),
        (status = 412, description = "The limits are others by now."),
        (status = 428, description = "It raises a limit, and does not say which limits it was decided on."),
        (status = 404, description = "Limits cannot be changed here, or there is none of this name or id."))
)]
async fn ask(State(api): Shared, caller: Caller, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    caller.may(&api, Role::Risk, "override")?;
    let mut fields = read_fields(&api, &headers, body).await?;
    let (place, value) = place_and_value(&api, &mut fields)?;
    caller.at(&api, "override", place.scope)?;
    let seconds_rule = "must be a whole number of seconds, at least 1";
    let seconds = fields.number("for_seconds", seconds_rule, u64::MAX / 1_000_000_000)?;
    let Some(seconds) = seconds.filter(|s| *s > 0) else {
        return Err(fields.wrong("for_seconds", &seconds.into(), seconds_rule));
    };
    let reason = fields.text("reason")?.unwrap_or_default();
    let etag = fields.text("etag")?.or_else(|| if_match(&headers));
    fields.finish()?;
    let actor = caller.0.name.clone();
    let ask = Ask { place, value, for_ns: seconds * 1_000_000_000, actor, reason: reason.clone() };
    let entry = caller.entry("override").on(ScopeName::of(api.parts.switch.universe(), place.scope)).because(&reason);
    let result = api.at_the_desk(caller.name(), move |desk| desk.ask(&ask, etag.as_deref())).await;
    api.parts.audit.record(match &result {
        Ok((one, _)) => entry.detail(describe(&api, one)).outcome(outcome(one)),
        Err(problem) => entry.refused(problem.detail()),
    });
    let (one, etag) = result?;
    Ok(show_one(&api, &one, &etag, StatusCode::CREATED))
}

fn outcome(one: &Override) -> &'static str {
    if one.state == Standing::Pending || one.removal.is_some() { "pending" } else { "done" }
}

fn describe(api: &Api, one: &Override) -> String {
    let shown = shown(api.parts.switch.universe(), one, api.parts.clock.now());
    let word = |key: &str| shown[key].as_str().unwrap_or("-").to_owned();
    format!(
        "override {}: {} {} instead of {} {}, until {}",
        one.id,
        one.rule,
        word("limit"),
        word("configured"),
        word("unit"),
        word("until")
    )
}

/// What the second person and the one who takes it back have in common.
async fn decide(
    api: &Arc<Api>,
    caller: &Caller,
    action: &str,
    (id, headers, body): (String, HeaderMap, Body),
    call: impl FnOnce(&dyn LimitsDesk, u64, &str, &str) -> Result<Override, DeskRefused> + Send + 'static,
) -> Result<Response, Problem> {
    caller.may(api, Role::Risk, action)?;
    let id = parse_id(&id)?;
    let known = desk(api)?.overrides().into_iter().find(|one| one.id == id);
    let known = known.ok_or_else(|| refused(DeskRefused::Override(Refused::Unknown)))?;
    // One of a scope that the configuration no longer has concerns the firm.
    caller.at(api, action, known.scope.find(api.parts.switch.universe()).unwrap_or(Scope::Firm))?;
    let mut fields = read_fields(api, &headers, body).await?;
    let reason = fields.text("reason")?.unwrap_or_default();
    fields.finish()?;
    let entry = caller.entry(action).because(&reason);
    let actor = caller.0.name.clone();
    let result = api.at_the_desk(caller.name(), move |desk| call(desk, id, &actor, &reason)).await;
    api.parts.audit.record(match &result {
        Ok((one, _)) => entry.on(one.scope.clone()).detail(describe(api, one)).outcome(outcome(one)),
        Err(problem) => entry.detail(format!("override {id}")).refused(problem.detail()),
    });
    let (one, etag) = result?;
    Ok(show_one(api, &one, &etag, StatusCode::OK))
}

#[utoipa::path(
    post, path = "/v1/overrides/{id}/approve", tag = "limits",
    request_body = schema::Reason,
    params(("id" = String, Path, description = "The override's id.")),
    responses((status = 200, description = "It is in force.", body = schema::Override),
        (status = 202, description = "It waits.", body = schema::Override),
        (status = 404, description = "Limits cannot be changed here, or there is none of this name or id."))
)]
async fn agree(
    State(api): Shared,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    decide(&api, &caller, "override_approve", (id, headers, body), |desk, id, actor, reason| {
        desk.agree(id, actor, reason)
    })
    .await
}

#[utoipa::path(
    delete, path = "/v1/overrides/{id}", tag = "limits",
    request_body = schema::Reason,
    params(("id" = String, Path, description = "The override's id.")),
    responses((status = 200, description = "It is over.", body = schema::Override),
        (status = 202, description = "It waits for a second person.", body = schema::Override),
        (status = 404, description = "Limits cannot be changed here, or there is none of this name or id."))
)]
async fn remove(
    State(api): Shared,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    decide(&api, &caller, "override_end", (id, headers, body), |desk, id, actor, reason| desk.remove(id, actor, reason))
        .await
}

#[utoipa::path(
    post, path = "/v1/limits/what-if", tag = "limits",
    request_body = schema::WhatIf,
    responses((status = 200, description = "What would be above its limits.", body = schema::WouldBe),
        (status = 404, description = "Limits cannot be changed here, or there is none of this name or id."))
)]
async fn what_if(State(api): Shared, caller: Caller, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    caller.0.needs(Role::Viewer)?;
    let mut fields = read_fields(&api, &headers, body).await?;
    let text = fields.text("text")?;
    let changes = fields.take("changes");
    fields.finish()?;
    let proposal = match (text, changes) {
        (Some(text), Value::Null) => {
            // A configuration is read and built for it, which takes its time.
            caller.0.needs(Role::Risk)?;
            Proposal::Text(text)
        }
        (None, Value::Array(list)) if (1..=64).contains(&list.len()) => {
            let mut numbers = Vec::new();
            for change in list {
                let mut fields = Fields::of(change, "changes.")?;
                numbers.push(place_and_value(&api, &mut fields)?);
                fields.finish()?;
            }
            Proposal::Numbers(numbers)
        }
        (_, changes) => {
            return Err(fields.wrong("changes", &changes, "must be a list of 1 to 64 changes, or text a text"));
        }
    };
    let (rows, etag) = api.at_the_desk(caller.name(), move |desk| desk.what_if(&proposal)).await?;
    let universe = api.parts.switch.universe();
    let rows: Vec<Value> = rows.iter().map(|row| would_be(universe, row)).collect();
    let above = rows.iter().filter(|row| row["above"] == true).count();
    Ok(tagged(answer(StatusCode::OK, &json!({ "changes": rows, "above": above })), &etag))
}

fn would_be(universe: &Universe, row: &WouldBe) -> Value {
    let Difference { scope, rule, window_ns, old, new } = row.difference;
    let number = |n: i64| if n >= UNLIMITED { "unlimited".to_owned() } else { value(universe, rule, scope, n) };
    let ratio = |limit: i64| {
        let observed = row.observed.filter(|_| limit < UNLIMITED)?;
        Some((observed.max(0) as f64 / limit.max(1) as f64 * 10_000.0).round() / 100.0)
    };
    json!({
        "scope": ScopeName::of(universe, scope),
        "rule": rule.name(),
        "window_ns": window_ns,
        "now": number(old),
        "would_be": number(new),
        "unit": unit(universe, rule, scope),
        "raises": new > old,
        "observed": row.observed.map(|o| value(universe, rule, scope, o)),
        "utilisation_percent": ratio(old),
        "would_be_percent": ratio(new),
        "above": row.observed.is_some_and(|o| new < UNLIMITED && o > new),
    })
}

#[utoipa::path(
    get, path = "/v1/limits/file", tag = "limits",
    responses((status = 200, description = "The configuration's text.", body = String, content_type = "application/toml"),
        (status = 404, description = "Limits cannot be changed here, or there is none of this name or id."))
)]
async fn file(State(api): Shared, caller: Caller, query: AnyQuery) -> Result<Response, Problem> {
    caller.may(&api, Role::Risk, "limits_file")?;
    caller.at(&api, "limits_file", Scope::Firm)?;
    query_fields(query)?.finish()?;
    let desk = desk(&api)?;
    let mut response = desk.text().into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/toml; charset=utf-8"));
    Ok(tagged(response, &desk.etag()))
}

#[utoipa::path(
    put, path = "/v1/limits", tag = "limits",
    request_body = schema::ReplaceLimits,
    params(("if-match" = String, Header, description = "The ETag that the change was made from.")),
    responses((status = 200, description = "Written, and in force.", body = schema::Generation),
        (status = 412, description = "Somebody else has changed the limits."),
        (status = 428, description = "If-Match is missing."),
        (status = 404, description = "Limits cannot be changed here, or there is none of this name or id."))
)]
async fn replace(State(api): Shared, caller: Caller, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    caller.may(&api, Role::Risk, "limits")?;
    caller.at(&api, "limits", Scope::Firm)?;
    let mut fields = read_fields(&api, &headers, body).await?;
    let text = fields.text("text")?;
    let reason = fields.text("reason")?.unwrap_or_default();
    fields.finish()?;
    let Some(text) = text else {
        return Err(fields.wrong("text", &Value::Null, "must be the whole configuration"));
    };
    if reason.trim().is_empty() {
        return Err(fields.wrong("reason", &reason.into(), "a change of limits needs a reason"));
    }
    let entry = caller.entry("limits").because(&reason);
    let (actor, etag) = (caller.0.name.clone(), if_match(&headers));
    let result =
        api.at_the_desk(caller.name(), move |desk| desk.replace(&text, &actor, &reason, etag.as_deref())).await;
    api.parts.audit.record(match &result {
        Ok((generation, _)) => entry.detail(format!("file written, generation {generation}")),
        Err(problem) => entry.refused(problem.detail()),
    });
    let (generation, etag) = result?;
    Ok(tagged(answer(StatusCode::OK, &json!({ "generation": generation })), &etag))
}

fn probation(one: &Probation, now: Now) -> Value {
    let (clean_ns, volume) = one.clean(now);
    json!({
        "id": one.id.to_string(),
        "scope": one.scope,
        "after": one.after.to_string(),
        "fraction_percent": f64::from(one.fraction_bps()) / 100.0,
        "step": one.step + 1,
        "steps": one.steps.bps.len(),
        "since": rfc3339(one.since),
        "by": one.by,
        "breaches": one.breaches,
        "clean_seconds": clean_ns / 1_000_000_000,
        "clean_seconds_needed": one.steps.clean_ns / 1_000_000_000,
        "clean_orders": volume,
        "clean_orders_needed": one.steps.clean_volume,
    })
}

/// The overrides in force, for `GET /v1/state`.
pub(super) fn active(parts: &ApiParts) -> Vec<Value> {
    let Some(desk) = &parts.desk else { return Vec::new() };
    let (universe, now) = (parts.switch.universe(), parts.clock.now());
    desk.overrides().iter().filter(|o| o.is_active()).map(|o| shown(universe, o, now)).collect()
}

/// Who is on probation, for `GET /v1/state`.
pub(super) fn on_probation(parts: &ApiParts) -> Vec<Value> {
    let Some(desk) = &parts.desk else { return Vec::new() };
    let now = parts.clock.now();
    desk.probations().iter().map(|p| probation(p, now)).collect()
}

#[utoipa::path(
    get, path = "/v1/probation", tag = "limits",
    responses((status = 200, description = "Scopes that may use a part of their limits.", body = schema::Probations),
        (status = 404, description = "Limits cannot be changed here, or there is none of this name or id."))
)]
async fn probations(State(api): Shared, caller: Caller, query: AnyQuery) -> Result<Response, Problem> {
    caller.0.needs(Role::Viewer)?;
    query_fields(query)?.finish()?;
    let desk = desk(&api)?;
    let now = api.parts.clock.now();
    let list: Vec<Value> = desk.probations().iter().map(|p| probation(p, now)).collect();
    Ok(tagged(answer(StatusCode::OK, &json!({ "probation": list, "durable": desk.is_durable() })), &desk.etag()))
}

#[utoipa::path(
    post, path = "/v1/probation/firm/promote", tag = "limits",
    request_body = schema::Reason,
    responses((status = 200, description = "It has all its limits again.", body = schema::Promoted),
        (status = 404, description = "It is not on probation."))
)]
async fn promote_firm(State(api): Shared, caller: Caller, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    promote_scope(&api, &caller, Some(Scope::Firm), &headers, body).await
}

#[utoipa::path(
    post, path = "/v1/probation/{kind}/{name}/promote", tag = "limits",
    request_body = schema::Reason,
    params(("kind" = String, Path, description = "The scope's kind."), ("name" = String, Path, description = "Its name.")),
    responses((status = 200, description = "It has all its limits again.", body = schema::Promoted))
)]
async fn promote(
    State(api): Shared,
    caller: Caller,
    Path((kind, name)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let scope = ScopeName { kind, name }.find(api.parts.switch.universe());
    promote_scope(&api, &caller, scope, &headers, body).await
}

async fn promote_scope(
    api: &Arc<Api>,
    caller: &Caller,
    scope: Option<Scope>,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    caller.may(api, Role::Risk, "promote")?;
    let scope = scope.ok_or_else(|| not_found("there is no such scope"))?;
    caller.at(api, "promote", scope)?;
    let mut fields = read_fields(api, headers, body).await?;
    let reason = fields.text("reason")?.unwrap_or_default();
    fields.finish()?;
    let name = ScopeName::of(api.parts.switch.universe(), scope);
    let entry = caller.entry("promote").on(name.clone()).because(&reason);
    let actor = caller.0.name.clone();
    let result = api.at_the_desk(caller.name(), move |desk| desk.promote(&name, &actor, &reason)).await;
    api.parts.audit.record(match &result {
        Ok((over, _)) => entry.detail(over.iter().map(|p| format!("after {}", p.after)).collect::<Vec<_>>().join(", ")),
        Err(problem) => entry.refused(problem.detail()),
    });
    let (over, etag) = result?;
    let now = api.parts.clock.now();
    let list: Vec<Value> = over.iter().map(|p| probation(p, now)).collect();
    Ok(tagged(answer(StatusCode::OK, &json!({ "promoted": list })), &etag))
}

/// `GET /v1/rearm/nonce`: a number that is good for one re-arm of the caller's.
#[utoipa::path(
    get, path = "/v1/rearm/nonce", tag = "re-arm",
    responses((status = 200, description = "A number for one re-arm.", body = schema::Nonce))
)]
pub(super) async fn nonce(State(api): Shared, caller: Caller, query: AnyQuery) -> Result<Response, Problem> {
    caller.may(&api, Role::Risk, "rearm")?;
    query_fields(query)?.finish()?;
    let mut random = [0; 16];
    if getrandom::fill(&mut random).is_err() {
        return Err(refused(DeskRefused::Failed("the system gave no randomness".to_owned())));
    }
    let nonce = api.parts.switch.nonce(&caller.0.name, random, api.parts.clock.now());
    let mut response = answer(StatusCode::OK, &json!({ "nonce": nonce, "seconds": Nonces::LASTS_NS / 1_000_000_000 }));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Before a scope is lowered, what it may use from then on is in force: the other way round it had everything for a moment.
pub(super) async fn prepare_rearm(
    api: &Arc<Api>,
    scope: Scope,
    epoch: u64,
    actor: &str,
    agrees: bool,
) -> Result<(), RearmRefused> {
    let Some(desk) = api.parts.desk.clone().filter(|desk| desk.has_probation()) else { return Ok(()) };
    if !api.parts.switch.would_lower(scope, epoch, agrees, api.parts.clock.now())? {
        return Ok(());
    }
    let for_desk = actor.to_owned();
    let busy = |problem: Problem| RearmRefused::NotPrepared(problem.detail().to_owned());
    let prepare = move |_: &ApiParts| desk.before_rearm(scope, epoch, &for_desk);
    let done = api.beside(Lane::Limits, actor, prepare).await.map_err(busy)?;
    done.map_err(RearmRefused::NotPrepared)
}

/// `GET /v1/limits` names the limits that it shows.
pub(super) fn tag_limits(api: &Api, response: Response) -> Response {
    match &api.parts.desk {
        Some(desk) => tagged(response, &desk.etag()),
        None => response,
    }
}
