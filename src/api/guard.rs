//! What the guard has learned: kinds of text, and usual rates.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use crate::api::auth::Role;
use crate::api::problem::Problem;
use crate::api::routes::{AnyQuery, Caller, Shared, answer, not_found, query_fields};
use crate::api::schema;

/// The most signatures of one answer.
const COUNT_MAX: usize = 10_000;

/// `GET /v1/signatures?count=`: kinds of text, the one that came last first.
#[utoipa::path(
    get, path = "/v1/signatures", tag = "guard",
    params(("count" = Option<u64>, Query, maximum = 10000, description = "At most this many; 200.")),
    responses((status = 200, description = "Kinds of text that were seen.", body = schema::Signatures),
        (status = 404, description = "The guard is off."))
)]
pub(super) async fn signatures(State(api): Shared, caller: Caller, query: AnyQuery) -> Result<Response, Problem> {
    caller.needs(Role::Viewer)?;
    let mut fields = query_fields(query)?;
    let rule = "must be a whole number up to 10000";
    let count = fields.query_number("count", rule, COUNT_MAX)?.unwrap_or(200);
    fields.finish()?;
    let watch = api.parts.watch.as_ref().ok_or_else(off)?;
    Ok(answer(StatusCode::OK, &watch.signatures_json(count)))
}

/// `GET /v1/peers`: the rates of every instance, and what is usual for it at this time of day.
#[utoipa::path(
    get, path = "/v1/peers", tag = "guard",
    responses((status = 200, description = "What was learned of sessions' rates.", body = schema::Peers),
        (status = 404, description = "The guard is off."))
)]
pub(super) async fn peers(State(api): Shared, caller: Caller, query: AnyQuery) -> Result<Response, Problem> {
    caller.needs(Role::Viewer)?;
    query_fields(query)?.finish()?;
    let watch = api.parts.watch.as_ref().ok_or_else(off)?;
    Ok(answer(StatusCode::OK, &watch.peers_json(api.parts.clock.now())))
}

fn off() -> Problem {
    not_found("the guard does not run here")
}
