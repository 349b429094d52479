//! `GET /v1/stream`: the state as it changes, as server-sent events.
//!
//! ```text
//! retry: 1000
//!
//! id: 1                      the number of the event, as `seq` in its data
//! event: state               first, once: everything
//! data: {"seq":1,"at":"…","at_ms":…,"engine":{…},"state":{… as GET /v1/state, without at, engine, sessions …,
//!        "flow":{…}},"sessions":[{"name":…},…],"scopes":[{"kind":…,"name":…},…]}
//!
//! id: 2
//! event: delta               at most every `stream_every`, at least every second: what changed, and the engine's age
//! data: {"seq":2,"at":"…","at_ms":…,"engine":{…},"set":{"totals":{…}},"sessions":[…],"scopes":[…],"gone":[…]}
//!
//! event: cut                 the last one: this client reads too slowly, and has to connect again
//! data: {"reason":"…","missed":40}
//!
//! event: bye                 the last one: haltline stops, or whose stream it is has logged out
//! data: {"reason":"…"}
//! ```
//!
//! - `seq` counts by one within a stream. Whoever misses one, or hears nothing for two seconds, knows that what is on
//!   the screen is old. A reconnect begins with a `state` again; `Last-Event-ID` is of no use to it.
//! - `at_ms` is Unix time in ms. `engine` is in every event: `stale` (it made no round for longer than it may), `progress`
//!   (rounds), `last_round_age_ns` (`null` before the first), `queue_depth`.
//! - In `set`, each key stands for the whole of that part of the state: replace it. `sessions` holds rows that changed, by
//!   `name`, `scopes` by `kind` and `name`: replace those rows; each is left out if nothing changed. `gone` names scopes
//!   to take away: instruments that are idle again.
//! - A row of `scopes`: `kind`, `name`, `mode` and `epoch` (its own), `in_force` (what applies to its orders: its own
//!   or the worse one of its account or the firm), `working` (orders), `warned` (the highest warning level that is passed, in
//!   percent), `worst` (its most used limit: `rule`, `percent`, `observed`, `limit`, `unit`, `action`; `null` if nothing
//!   bounded is used). Instruments are listed while they are used or not normal. Pairs are not, and rows beyond
//!   [`model::ROWS_MAX`] are counted in `state.scopes_left_off`; whatever is halted is in `state.halts` as well.
//! - `flow` is of the last second: `events_per_second`, `admitted_per_second`, `denied_per_second`, and `latency_ns`, from the
//!   receipt of an event to its verdict: `count`, and `p50` and `p99` as upper bounds (`null`: over a second), `null` if
//!   there was none.
//!
//! What is shown is computed once for all streams of a door, beside the thread that takes kills, and only while somebody
//! looks. A client has no memory of its own here but its place in a ring of events that all share.

mod hub;
pub(super) mod model;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::{Extension, response::IntoResponse};
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;

pub(super) use self::hub::Hub;
use self::hub::Joined;
use crate::api::auth::Role;
use crate::api::places::Busy;
use crate::api::problem::Problem;
use crate::api::routes::{AnyQuery, Api, Caller, Shared, query_fields};
use crate::api::schema;
use crate::api::server::Line;

/// `GET /v1/stream`.
#[utoipa::path(
    get, path = "/v1/stream", tag = "state",
    responses((status = 200, description = "The state as it changes: server-sent events `state` (data: `StreamState`), `delta` (`StreamDelta`), and at the \
            end `cut` or `bye` (`StreamEnd`).",
        body = schema::StreamEvent, content_type = "text/event-stream"))
)]
pub(super) async fn stream(
    State(api): Shared,
    caller: Caller,
    line: Option<Extension<Line>>,
    query: AnyQuery,
) -> Result<Response, Problem> {
    caller.0.needs(Role::Viewer)?;
    query_fields(query)?.finish()?;
    let busy = |detail| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too-many-streams", "Too many streams", detail)
            .header(header::RETRY_AFTER, "5")
    };
    let Some(Extension(line)) = line else { return Err(busy("there is no connection to stream to")) };
    let joined = api.stream.join(&caller.0.name, line.hangup.clone()).await.map_err(busy)?;
    let login = caller.login().copied();
    let reading = Reading { api: api.clone(), login, phase: Phase::First, joined, _busy: line.busy() };
    let mut response = Body::from_stream(futures_util::stream::unfold(reading, next)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // A proxy that collects events before it passes them on makes them old.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// One client's stream: where it is. Dropped with the connection.
struct Reading {
    api: Arc<Api>,
    /// The login that it is for, if it came with a cookie.
    login: Option<[u8; 32]>,
    phase: Phase,
    joined: Joined,
    /// A connection with a stream is in use: a flood of others does not push it out of its place.
    _busy: Busy,
}

impl Reading {
    fn has_logged_out(&self) -> bool {
        let parts = &self.api.parts;
        self.login.is_some_and(|hash| !parts.auth.logins.goes_on(&hash, parts.clock.now().mono))
    }
}

enum Phase {
    First,
    Live,
    Over,
}

async fn next(mut reading: Reading) -> Option<(Result<Bytes, Infallible>, Reading)> {
    let bytes = match reading.phase {
        Phase::First => {
            reading.phase = Phase::Live;
            reading.joined.first.clone()
        }
        Phase::Live => match reading.joined.frames.recv().await {
            Ok(_) if reading.has_logged_out() => {
                reading.phase = Phase::Over;
                last("bye", &json!({ "reason": "the login has ended" }))
            }
            Ok(frame) => {
                reading.joined.client.taken.store(frame.seq, Ordering::Relaxed);
                frame.bytes
            }
            Err(RecvError::Lagged(missed)) => {
                reading.phase = Phase::Over;
                last("cut", &json!({ "reason": "this client reads too slowly: connect again", "missed": missed }))
            }
            Err(RecvError::Closed) => {
                reading.phase = Phase::Over;
                last("bye", &json!({ "reason": "haltline stops" }))
            }
        },
        Phase::Over => return None,
    };
    Some((Ok(bytes), reading))
}

fn last(event: &str, data: &serde_json::Value) -> Bytes {
    Bytes::from(format!("event: {event}\ndata: {data}\n\n"))
}
