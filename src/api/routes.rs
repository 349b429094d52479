//! The endpoints.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Path, Query, RawQuery, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use http_body_util::{BodyExt, Limited};
use serde_json::{Map, Value, json};
use tokio::sync::{Notify, watch};
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::ApiParts;
use crate::api::alerts;
use crate::api::auth::{self, Role, same_origin};
use crate::api::console;
use crate::api::flat;
use crate::api::fleet;
use crate::api::guard;
use crate::api::lanes::{Lane, Lanes};
use crate::api::openapi;
use crate::api::problem::Problem;
use crate::api::schema;
use crate::api::server::Line;
use crate::api::stream::{self, Hub};
use crate::api::view;
use crate::api::{desk, drills, login, reads};
use crate::kill::audit::Entry;
use crate::kill::rearm::{Rearm, RearmAsk, RearmRefused, RearmState};
use crate::kill::switch::Stop;
use crate::kill::words::ScopeName;
use crate::model::{Mode, Scope, ScopeKind};
use crate::units::{MonoNanos, Now};

/// The largest body that is read.
pub const BODY_MAX: usize = 64 * 1024;
/// How long a press or a re-arm waits for confirmation where the caller does not say.
const WAIT_MS: u64 = 250;
/// The longest that a caller may ask for.
const WAIT_MS_MAX: u64 = 5_000;
/// How often a wait looks.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// Idempotency keys that are remembered.
const KEYS_MAX: usize = 1_000;

/// When the request's head was read; a press counts from here.
#[derive(Clone, Copy)]
pub(super) struct Received(pub(super) Now);

/// Which door a request came through, and from whom: it decides how the caller is known.
#[derive(Clone, Copy, Debug)]
pub(super) enum Origin {
    /// Over the network, from this address: known by a token.
    Network(SocketAddr),
    /// Over the local socket, from this user: known by the kernel's word.
    Local(u32),
}

pub(super) struct Api {
    pub(super) parts: Arc<ApiParts>,
    keys: Mutex<VecDeque<PressKey>>,
    /// Something has become durable.
    progressed: Arc<Notify>,
    pub(super) lanes: Lanes,
    pub(super) stream: Hub,
}

struct PressKey {
    actor: String,
    /// BLAKE3 of the key: callers may choose long ones.
    key: [u8; 32],
    scope: Scope,
    stop: Stop,
    receipt: u64,
}

pub(super) type Shared = State<Arc<Api>>;

/// The endpoints for one door. Each has its own lanes: large answers for one do not hold up those for the other.
/// `stop` ends its streams.
pub(super) fn router(parts: Arc<ApiParts>, stop: watch::Receiver<bool>) -> Router {
    let progressed = Arc::new(Notify::new());
    let notify = progressed.clone();
    parts.switch.on_progress(Box::new(move || notify.notify_waiters()));
    let api = Arc::new(Api {
        stream: Hub::start(parts.clone(), stop),
        parts,
        progressed,
        keys: Mutex::default(),
        lanes: Lanes::default(),
    });
    let (router, document) = endpoints().split_for_parts();
    let router = router
        .merge(console::router())
        .fallback(async || not_found("there is nothing at this path"))
        .method_not_allowed_fallback(async || {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "Method not allowed",
                "this path does not take this method; see the Allow header",
            )
        })
        .with_state(api);
    router.merge(openapi::routes(&openapi::complete(document)))
}

/// Every endpoint, with what the document says of it.
pub(super) fn endpoints() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::with_openapi(openapi::Frame::openapi())
        .merge(desk::routes())
        .merge(drills::routes())
        .merge(fleet::routes())
        .routes(routes!(kill))
        .routes(routes!(kill_preview))
        .routes(routes!(kills))
        .routes(routes!(kill_by_id))
        .routes(routes!(rearm, rearms))
        .routes(routes!(desk::nonce))
        .routes(routes!(rearm_by_id))
        .routes(routes!(approve))
        .routes(routes!(state))
        .routes(routes!(stream::stream))
        .routes(routes!(reads::strategies))
        .routes(routes!(reads::incidents))
        .routes(routes!(reads::incident_by_id))
        .routes(routes!(reads::audit))
        .routes(routes!(login::login))
        .routes(routes!(login::logout))
        .routes(routes!(login::me))
        .routes(routes!(limits))
        .routes(routes!(reload))
        .routes(routes!(alerts::list))
        .routes(routes!(alerts::one))
        .routes(routes!(alerts::acknowledge))
        .routes(routes!(livez))
        .routes(routes!(readyz))
        .routes(routes!(metrics))
        .routes(routes!(guard::signatures))
        .routes(routes!(guard::peers))
}

pub(super) fn not_found(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not-found", "Not found", detail)
}

/// An authenticated caller. Every handler that takes one says which role it needs before anything else.
pub(super) struct Caller(pub(super) auth::Caller, String, Way);

/// How a caller is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// By the kernel's word.
    Local,
    /// By the token sent along.
    Token,
    /// By the cookie of a login, whose hash this is.
    Login([u8; 32]),
    /// By the certificate of the connection.
    Certificate,
}

impl Caller {
    /// Who calls.
    pub(super) fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether the caller has the role, for what is only looked at.
    pub(super) fn needs(&self, role: Role) -> Result<(), Problem> {
        self.0.needs(role)
    }

    /// Whether the caller has the role for `action`; a refusal is recorded.
    pub(super) fn may(&self, api: &Api, role: Role, action: &str) -> Result<(), Problem> {
        self.0.needs(role).inspect_err(|_| {
            api.parts.audit.record(self.entry(action).refused("the role does not allow it"));
        })
    }

    /// Whether what the caller's role allows, it allows at `scope`; a refusal is recorded. Everything that changes a scope
    /// asks this besides [`Caller::may`].
    pub(super) fn at(&self, api: &Api, action: &str, scope: Scope) -> Result<(), Problem> {
        let universe = api.parts.switch.universe();
        self.0.covers(universe, scope).inspect_err(|_| {
            let entry = self.entry(action).on(ScopeName::of(universe, scope));
            api.parts.audit.record(entry.refused("the role does not count for this scope"));
        })
    }

    /// The hash of the login that the caller is known by.
    pub(super) fn login(&self) -> Option<&[u8; 32]> {
        match &self.2 {
            Way::Login(hash) => Some(hash),
            Way::Local | Way::Token | Way::Certificate => None,
        }
    }

    /// How the caller is known, in a word.
    pub(super) fn way(&self) -> &'static str {
        match self.2 {
            Way::Local => "local",
            Way::Token => "token",
            Way::Login(_) => "login",
            Way::Certificate => "certificate",
        }
    }

    /// A control record of the caller's.
    pub(super) fn entry(&self, action: &str) -> Entry {
        Entry::new(&self.0.name, action).from(&self.1)
    }
}

impl FromRequestParts<Arc<Api>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Caller, Problem> {
        same_origin(&parts.headers)?;
        let (known, source) = match parts.extensions.get::<Origin>().copied() {
            // A token that is sent along says nothing here: whose request it is must not depend on two things.
            Some(Origin::Local(uid)) => {
                (api.parts.local.caller(uid).map(|caller| (caller.clone(), Way::Local)), format!("uid {uid}"))
            }
            Some(Origin::Network(peer)) => {
                let now = api.parts.clock.now().mono;
                (known(api, parts, peer, now), peer.ip().to_string())
            }
            None => return Err(not_found("it is not known where the request comes from")),
        };
        if known.is_err() {
            let what = format!("{} {}", parts.method, parts.uri.path());
            let entry = Entry::new("?", "auth").from(&source).detail(what);
            api.parts.audit.record(entry.refused("nobody that is known"));
        }
        let (caller, way) = known?;
        if let Some(line) = parts.extensions.get::<Line>() {
            line.is_known(&caller.name);
        }
        Ok(Caller(caller, source, way))
    }
}

/// Who asks over the network. A token that is sent counts before everything else, right or wrong; what a browser sends by
/// itself only for what a page of ours has asked for.
fn known(api: &Api, parts: &Parts, peer: SocketAddr, now: MonoNanos) -> Result<(auth::Caller, Way), Problem> {
    if !parts.headers.contains_key(header::AUTHORIZATION) {
        let login = api.parts.auth.logins.of(&parts.headers, now);
        let certified = || parts.extensions.get::<Line>()?.certified.clone();
        let by_itself = match login {
            Some((caller, hash)) => Some((caller, Way::Login(hash))),
            None => certified().map(|caller| (caller, Way::Certificate)),
        };
        if let Some(known) = by_itself {
            login::meant(&parts.method, &parts.headers)?;
            return Ok(known);
        }
    }
    api.parts.auth.caller(&parts.headers, peer.ip(), now).map(|caller| (caller, Way::Token))
}

/// The fields of a JSON object, taken one by one; what is left over is unknown.
pub(super) struct Fields {
    map: Map<String, Value>,
    /// What the fields belong to: empty, or `scope.`.
    prefix: &'static str,
}

impl Fields {
    pub(super) fn text(&mut self, name: &'static str) -> Result<Option<String>, Problem> {
        match self.map.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(name, &other, "must be a text")),
        }
    }

    pub(super) fn number(&mut self, name: &'static str, rule: &'static str, max: u64) -> Result<Option<u64>, Problem> {
        match self.map.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match whole(&value).filter(|n| *n <= max) {
                Some(number) => Ok(Some(number)),
                None => Err(self.wrong(name, &value, rule)),
            },
        }
    }

    pub(super) fn wait(&mut self) -> Result<Duration, Problem> {
        let wait = self.number("wait_ms", "must be a whole number from 0 to 5000", WAIT_MS_MAX)?;
        Ok(Duration::from_millis(wait.unwrap_or(WAIT_MS)))
    }

    /// The fields of `value`, which must be an object.
    pub(super) fn of(value: Value, prefix: &'static str) -> Result<Fields, Problem> {
        match value {
            Value::Object(map) => Ok(Fields { map, prefix }),
            other => Err(Problem::field(prefix.trim_end_matches('.'), &other, "must be a list of objects")),
        }
    }

    /// Whether `name` was sent.
    pub(super) fn has(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(|value| !value.is_null())
    }

    /// The value of any type at `name`.
    pub(super) fn take(&mut self, name: &str) -> Value {
        self.map.remove(name).unwrap_or(Value::Null)
    }

    /// The scope, which must be one that can be halted.
    pub(super) fn scope(&mut self, api: &Api) -> Result<Scope, Problem> {
        self.scope_among(api, &HALTABLE, KINDS)
    }

    /// The scope, which may also be a pair.
    pub(super) fn any_scope(&mut self, api: &Api) -> Result<Scope, Problem> {
        let all = ScopeKind::ALL.map(ScopeKind::name);
        self.scope_among(api, &all, "must be firm, account, strategy, pair, instrument or session")
    }

    fn scope_among(&mut self, api: &Api, kinds: &[&str], rule: &'static str) -> Result<Scope, Problem> {
        let value = self.map.remove("scope").unwrap_or(Value::Null);
        let Value::Object(map) = value else {
            return Err(self.wrong("scope", &value, "must be an object with kind and name"));
        };
        let mut inner = Fields { map, prefix: "scope." };
        let Some(kind) = inner.text("kind")? else {
            return Err(inner.wrong("kind", &Value::Null, rule));
        };
        let name = inner.text("name")?.unwrap_or_default();
        inner.finish()?;
        if !kinds.contains(&kind.as_str()) {
            return Err(inner.wrong("kind", &kind.into(), rule));
        }
        let scope = ScopeName { kind, name };
        scope.find(api.parts.switch.universe()).ok_or_else(|| {
            inner.wrong("name", &scope.name.into(), "must be the name of one in the configuration; the firm has none")
        })
    }

    pub(super) fn finish(&self) -> Result<(), Problem> {
        match self.map.iter().next() {
            None => Ok(()),
            Some((name, value)) => Err(self.wrong(name, value, "is not a field of this request")),
        }
    }

    pub(super) fn wrong(&self, name: &str, value: &Value, rule: &str) -> Problem {
        Problem::field(&format!("{}{name}", self.prefix), value, rule)
    }
}

/// A whole number. To JSON Schema `5.0` is one, and some libraries write it like this; beyond 2^53 it may have been another.
fn whole(value: &Value) -> Option<u64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let written = || value.as_f64().filter(|n| (0.0..=EXACT).contains(n) && n.fract() == 0.0).map(|n| n as u64);
    value.as_u64().or_else(written)
}

pub(super) const HALTABLE: [&str; 5] = ["firm", "account", "strategy", "instrument", "session"];
pub(super) const KINDS: &str = "must be firm, account, strategy, instrument or session";

/// Reads the body as a JSON object: bounded in size and in time.
pub(super) async fn read_fields(api: &Api, headers: &HeaderMap, body: Body) -> Result<Fields, Problem> {
    let too_large = || {
        Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body-too-large",
            "Body too large",
            format!("a body may have {BODY_MAX} bytes"),
        )
        .header(header::CONNECTION, "close")
    };
    let json = headers
        .get(header::CONTENT_TYPE)
        .and_then(|t| t.to_str().ok())
        .and_then(|t| t.split(';').next())
        .is_some_and(|t| t.trim().eq_ignore_ascii_case("application/json"));
    if !json {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "not-json",
            "Not JSON",
            "the content type must be application/json",
        )
        .with("field", "content-type"));
    }
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|l| l.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > BODY_MAX as u64) {
        return Err(too_large());
    }
    let read = tokio::time::timeout(api.parts.options.body_timeout, Limited::new(body, BODY_MAX).collect());
    let bytes = match read.await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => return Err(too_large()),
        Ok(Err(_)) => {
            return Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "body-incomplete",
                "Body incomplete",
                "the body could not be read to its end",
            ));
        }
        Err(_) => {
            return Err(Problem::new(
                StatusCode::REQUEST_TIMEOUT,
                "body-timeout",
                "Body too slow",
                "the body did not arrive in time",
            )
            .header(header::CONNECTION, "close"));
        }
    };
    let syntax = |detail: String| Problem::new(StatusCode::BAD_REQUEST, "bad-json", "Bad JSON", detail);
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(map)) => Ok(Fields { map, prefix: "" }),
        Ok(_) => Err(syntax("the body must be a JSON object".to_owned())),
        Err(error) => Err(syntax(error.to_string())),
    }
}

/// The largest number of a query: what the document calls `int64`.
pub(super) const NUMBER_MAX: usize = i64::MAX as usize;

/// Parameters of the query, taken one by one like [`Fields`].
pub(super) fn query_fields(query: Result<Query<HashMap<String, String>>, QueryRejection>) -> Result<Fields, Problem> {
    let Query(map) =
        query.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, "bad-query", "Bad query", error.to_string()))?;
    Ok(Fields { map: map.into_iter().map(|(name, value)| (name, Value::String(value))).collect(), prefix: "" })
}

impl Fields {
    /// A number written in a query.
    pub(super) fn query_number(
        &mut self,
        name: &'static str,
        rule: &'static str,
        max: usize,
    ) -> Result<Option<usize>, Problem> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        match text.parse().ok().filter(|n| *n <= max) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(name, &text.into(), rule)),
        }
    }
}

pub(super) type AnyQuery = Result<Query<HashMap<String, String>>, QueryRejection>;

pub(super) fn answer(status: StatusCode, body: &Value) -> Response {
    let mut response = (status, body.to_string()).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// `POST /v1/kill`. Nothing between the body and the raise waits for anything.
#[utoipa::path(
    post, path = "/v1/kill", tag = "kill",
    request_body = schema::Kill,
    params(("idempotency-key" = Option<String>, Header, description = "The same key again gets the same receipt while the halt holds.")),
    responses((status = 200, description = "The page is raised; the receipt says what is confirmed.", body = schema::Receipt))
)]
async fn kill(
    State(api): Shared,
    caller: Caller,
    received: Option<Extension<Received>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    caller.may(&api, Role::Operator, "kill")?;
    let pressed = received.map_or_else(|| api.parts.clock.now(), |Extension(Received(now))| now);
    let mut fields = read_fields(&api, &headers, body).await?;
    let scope = fields.scope(&api)?;
    let stop = match fields.text("mode")?.as_deref() {
        None | Some("halted") => Stop::Halted,
        Some("reduce_only") => Stop::ReduceOnly,
        Some(other) => return Err(fields.wrong("mode", &other.into(), "must be halted or reduce_only")),
    };
    let reason = fields.text("reason")?.unwrap_or_default();
    let wait = fields.wait()?;
    fields.finish()?;
    caller.at(&api, "kill", scope)?;

    let actor = &caller.0.name;
    let key = headers.get("idempotency-key").map(|k| *blake3::hash(k.as_bytes()).as_bytes());
    let id = match key.and_then(|key| api.pressed_before(actor, &key, scope, stop)) {
        Some(id) => id,
        None => {
            let receipt = api
                .parts
                .switch
                .press(scope, stop, actor, &reason, pressed)
                .map_err(|_| Problem::field("scope", &Value::Null, KINDS))?;
            if let Some(key) = key {
                api.remember(PressKey { actor: actor.clone(), key, scope, stop, receipt: receipt.id });
            }
            tracing::error!(
                event = "kill",
                scope = %ScopeName::of(api.parts.switch.universe(), scope),
                mode = receipt.word.mode.name(),
                epoch = receipt.word.epoch,
                actor = receipt.actor,
                reason = receipt.reason,
                "kill was pressed"
            );
            let (mode, epoch) = (receipt.word.mode.name(), receipt.word.epoch);
            let entry = caller.entry("kill").on(ScopeName::of(api.parts.switch.universe(), scope));
            let detail = format!("mode {mode}, epoch {epoch}, receipt {}", receipt.id);
            api.parts.audit.record(entry.because(&reason).detail(detail));
            receipt.id
        }
    };
    let until = tokio::time::Instant::now() + wait;
    loop {
        let mut progress = core::pin::pin!(api.progressed.notified());
        // Before the look: what happens after it is not missed.
        progress.as_mut().enable();
        if api.parts.switch.is_confirmed(id) != Some(false) || tokio::time::Instant::now() >= until {
            break;
        }
        tokio::select! {
            () = progress => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
    show_receipt(&api, id)
}

impl Api {
    /// The receipt of the same press by the same caller, if nothing has changed the scope since. If it has
    /// been raised or re-armed, the press counts as a new one: that receipt says nothing of a later halt, and a kill
    /// is rather pressed twice than not at all.
    fn pressed_before(&self, actor: &str, key: &[u8; 32], scope: Scope, stop: Stop) -> Option<u64> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let same =
            keys.iter().rev().find(|k| k.key == *key && k.actor == actor && k.scope == scope && k.stop == stop)?;
        let slot = self.parts.switch.universe().slot(scope)?;
        let receipt = self.parts.switch.receipt(same.receipt)?;
        (self.parts.switch.page().get(slot) == receipt.word).then_some(receipt.id)
    }

    fn remember(&self, press: PressKey) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.len() == KEYS_MAX {
            keys.pop_front();
        }
        keys.push_back(press);
    }
}

fn show_receipt(api: &Api, id: u64) -> Result<Response, Problem> {
    let switch = &api.parts.switch;
    let receipt = switch.receipt(id).ok_or_else(|| not_found("no kill with this id is remembered"))?;
    Ok(answer(StatusCode::OK, &view::receipt(&api.parts, &switch.latch(), &receipt)))
}

#[utoipa::path(
    get, path = "/v1/kills", tag = "kill",
    params(("count" = Option<u64>, Query, maximum = 1000, description = "At most this many; 50.")),
    responses((status = 200, description = "Receipts, the newest first.", body = schema::Kills))
)]
async fn kills(State(api): Shared, caller: Caller, query: AnyQuery) -> Result<Response, Problem> {
    caller.0.needs(Role::Viewer)?;
    let mut fields = query_fields(query)?;
    let count = fields.query_number("count", "must be a whole number up to 1000", 1_000)?.unwrap_or(50);
    fields.finish()?;
    let big = api.beside(Lane::Views, caller.name(), move |parts| {
        let latch = parts.switch.latch();
        let list = parts.switch.receipts(count);
        json!({ "kills": list.iter().map(|r| view::receipt(parts, &latch, r)).collect::<Vec<_>>() })
    });
    Ok(answer(StatusCode::OK, &big.await?))
}

pub(super) fn parse_id(id: &str) -> Result<u64, Problem> {
    id.parse().map_err(|_| not_found("an id is a whole number"))
}

#[utoipa::path(
    get, path = "/v1/kills/{id}", tag = "kill",
    params(("id" = String, Path, description = "The receipt's id.")),
    responses((status = 200, description = "The receipt as it is now.", body = schema::Receipt))
)]
async fn kill_by_id(State(api): Shared, caller: Caller, Path(id): Path<String>) -> Result<Response, Problem> {
    caller.0.needs(Role::Viewer)?;
    let id = parse_id(&id)?;
    let receipt = api.parts.switch.receipt(id).ok_or_else(|| not_found("no kill with this id is remembered"))?;
    let mut shown = view::receipt(&api.parts, &api.parts.switch.latch(), &receipt);
    // What is left is named as long as it can still be asked for. If nobody can say it now, the receipt is told without it.
    if receipt.cancels.is_some_and(|view| view.on && view.working > 0) {
        let scope = receipt.scope;
        let remainder = api.beside(Lane::Views, caller.name(), move |parts| flat::remainder(parts, scope)).await;
        shown["flat"]["remainder"] = remainder.unwrap_or(serde_json::Value::Null);
    }
    Ok(answer(StatusCode::OK, &shown))
}

/// `GET /v1/kill/preview`: the consequences, before anything is pressed.
#[utoipa::path(
    get, path = "/v1/kill/preview", tag = "kill",
    params(
        ("kind" = schema::HaltableKind, Query, description = "The scope's kind."),
        ("name" = Option<String>, Query, description = "Its name; the firm has none.")
    ),
    responses((status = 200, description = "What a kill would cancel, and where.", body = schema::KillPreview))
)]
async fn kill_preview(State(api): Shared, caller: Caller, query: AnyQuery) -> Result<Response, Problem> {
    caller.0.needs(Role::Viewer)?;
    let mut fields = query_fields(query)?;
    let kind = fields.text("kind")?;
    let name = fields.text("name")?.unwrap_or_default();
    fields.finish()?;
    let Some(kind) = kind.filter(|kind| HALTABLE.contains(&kind.as_str())) else {
        return Err(fields.wrong("kind", &Value::Null, KINDS));
    };
    let scope = ScopeName { kind, name }.find(api.parts.switch.universe()).ok_or_else(|| {
        fields.wrong("name", &Value::Null, "must be the name of one in the configuration; the firm has none")
    })?;
    let shown = api.beside(Lane::Views, caller.name(), move |parts| flat::preview(parts, scope)).await?;
    Ok(answer(StatusCode::OK, &shown))
}

fn refused(refused: RearmRefused) -> Problem {
    let conflict = |kind, title, detail: &str| Problem::new(StatusCode::CONFLICT, kind, title, detail);
    match refused {
        RearmRefused::UnknownScope => Problem::field("scope", &Value::Null, KINDS),
        RearmRefused::NoReason => Problem::field("reason", &"".into(), "a re-arm needs a reason"),
        RearmRefused::NotHalted => conflict("not-halted", "Not halted", "the scope is in mode normal"),
        RearmRefused::Superseded(now) => {
            conflict("superseded", "Superseded", "the halt has another epoch now: look at its causes again")
                .with("field", "epoch")
                .with("rule", "must be the epoch that the halt has now")
                .with("epoch", now.epoch)
                .with("mode", now.mode.name())
        }
        RearmRefused::UnknownRequest => not_found("no re-arm with this id is remembered"),
        RearmRefused::NotPending(state) => {
            let word = match state {
                RearmState::Pending => "pending",
                RearmState::Lowered { .. } => "lowered",
                RearmState::Void => "void",
                RearmState::Expired => "expired",
            };
            conflict("not-pending", "Not pending", "the request does not wait for anybody any more").with("state", word)
        }
        RearmRefused::SamePerson => Problem::new(
            StatusCode::FORBIDDEN,
            "same-person",
            "Same person",
            "the second person must be another one than the first",
        ),
        RearmRefused::Held => conflict(
            "held",
            "Held",
            "the kill file is there, or cannot be looked at: as long as that is so the scope stays halted",
        ),
        RearmRefused::HeldBecause(why) => {
            conflict("held", "Held", &format!("what halted the scope is still there: {why}")).with("why", why)
        }
        RearmRefused::CoolOff(left_ns) => {
            let seconds = left_ns.div_ceil(1_000_000_000);
            conflict(
                "cool-off",
                "Cool-off",
                &format!("it was halted so recently that it stays so for {seconds} s more"),
            )
            .with("seconds_left", seconds)
        }
        RearmRefused::NotAcknowledged(latest) => {
            Problem::field("acknowledge", &Value::Null, "must be the id of the latest cause of the halt")
                .with("latest", latest)
        }
        RearmRefused::DrillNeeded { within_ns, age_ns } => {
            let within = within_ns / 1_000_000_000;
            let ago = age_ns.map_or("never".to_owned(), |ns| format!("{} s ago", ns / 1_000_000_000));
            let detail = format!(
                "the switch must have been rehearsed within {within} s, and was {ago}: haltline drill, which goes \
                         under a halt as well, and lifts nothing of it"
            );
            conflict("drill-needed", "Drill needed", &detail)
        }
        RearmRefused::BadNonce => Problem::new(
            StatusCode::FORBIDDEN,
            "bad-nonce",
            "Bad nonce",
            "the request needs a nonce from GET /v1/rearm/nonce, which is good once, for its asker, for two minutes",
        ),
        RearmRefused::NotPrepared(why) => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-prepared", "Not prepared", why)
                .header(header::RETRY_AFTER, "1")
        }
        RearmRefused::TooMany => Problem::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too-many-requests",
            "Too many requests",
            "too many re-arms wait for a second person",
        ),
    }
}

/// Waits for the latch if the page was lowered, and shows where the re-arm is.
async fn show_rearm(api: &Api, rearm: Rearm, wait: Duration) -> Response {
    let switch = &api.parts.switch;
    let until = tokio::time::Instant::now() + wait;
    let mut now = rearm;
    loop {
        let waits = matches!(now.state, RearmState::Lowered { durable: None, .. });
        if !waits || tokio::time::Instant::now() >= until {
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
        match switch.rearm(now.id, api.parts.clock.now()) {
            Some(newer) => now = newer,
            None => break,
        }
    }
    let status = match now.state {
        RearmState::Lowered { durable: Some(_), .. } => StatusCode::OK,
        RearmState::Lowered { durable: None, .. } | RearmState::Pending => StatusCode::ACCEPTED,
        RearmState::Void | RearmState::Expired => StatusCode::CONFLICT,
    };
    answer(status, &view::rearm(switch, &now, api.parts.clock.now()))
}

#[utoipa::path(
    post, path = "/v1/rearm", tag = "re-arm",
    request_body = schema::Rearm,
    responses(
        (status = 200, description = "Done, and on disk.", body = schema::RearmState),
        (status = 202, description = "It waits for a second person, or for the disk.", body = schema::RearmState),
        (status = 409, description = "The halt has another epoch now, is none, or is held.")
    )
)]
async fn rearm(State(api): Shared, caller: Caller, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    caller.may(&api, Role::Risk, "rearm")?;
    let mut fields = read_fields(&api, &headers, body).await?;
    let scope = fields.scope(&api)?;
    let epoch_rule = "must be the epoch that the halt has now";
    let Some(epoch) = fields.number("epoch", epoch_rule, u64::MAX)? else {
        return Err(fields.wrong("epoch", &Value::Null, epoch_rule));
    };
    let reason = fields.text("reason")?.unwrap_or_default();
    let (acknowledge, nonce) = (fields.text("acknowledge")?, fields.text("nonce")?);
    let wait = fields.wait()?;
    fields.finish()?;
    caller.at(&api, "rearm", scope)?;
    alerts::may_rearm(&api, &ScopeName::of(api.parts.switch.universe(), scope))?;
    let prepared = desk::prepare_rearm(&api, scope, epoch, &caller.0.name, false).await;
    let now = api.parts.clock.now();
    let (acknowledge, nonce) = (acknowledge.as_deref(), nonce.as_deref());
    let ask = RearmAsk { scope, epoch, actor: &caller.0.name, reason: &reason, acknowledge, nonce };
    let asked = prepared.and_then(|()| api.parts.switch.ask_rearm_with(ask, now));
    log_rearm("asked", &caller.0.name, &reason, &asked);
    let entry = caller.entry("rearm").on(ScopeName::of(api.parts.switch.universe(), scope)).because(&reason);
    let request = asked.as_ref().map_or_else(|_| String::new(), |asked| format!(", request {}", asked.id));
    api.parts.audit.record(rearm_entry(entry.detail(format!("epoch {epoch}{request}")), &asked));
    Ok(show_rearm(&api, asked.map_err(refused)?, wait).await)
}

#[utoipa::path(
    post, path = "/v1/rearm/{id}/approve", tag = "re-arm",
    request_body = schema::Approve,
    params(("id" = String, Path, description = "The request's id.")),
    responses(
        (status = 200, description = "Done, and on disk.", body = schema::RearmState),
        (status = 202, description = "It waits for the disk.", body = schema::RearmState)
    )
)]
async fn approve(
    State(api): Shared,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    caller.may(&api, Role::Risk, "approve")?;
    let id = parse_id(&id)?;
    let mut fields = read_fields(&api, &headers, body).await?;
    let reason = fields.text("reason")?.unwrap_or_default();
    let wait = fields.wait()?;
    fields.finish()?;
    let now = api.parts.clock.now();
    let mut entry = caller.entry("approve").because(&reason);
    if let Some(asked) = api.parts.switch.rearm(id, now) {
        let scope = ScopeName::of(api.parts.switch.universe(), asked.scope);
        caller.at(&api, "approve", asked.scope)?;
        alerts::may_rearm(&api, &scope)?;
        entry = entry.on(scope);
    }
    let prepared = match api.parts.switch.rearm(id, now) {
        Some(Rearm { scope, word, state: RearmState::Pending, actor, .. }) if actor != caller.0.name => {
            desk::prepare_rearm(&api, scope, word.epoch, &caller.0.name, true).await
        }
        // The switch says why it is none.
        Some(_) | None => Ok(()),
    };
    let now = api.parts.clock.now();
    let agreed = prepared.and_then(|()| api.parts.switch.agree_rearm(id, &caller.0.name, &reason, now));
    log_rearm("agreed", &caller.0.name, &reason, &agreed);
    api.parts.audit.record(rearm_entry(entry.detail(format!("request {id}")), &agreed));
    Ok(show_rearm(&api, agreed.map_err(refused)?, wait).await)
}

fn rearm_entry(entry: Entry, result: &Result<Rearm, RearmRefused>) -> Entry {
    match result {
        Ok(rearm) => {
            let lowered = matches!(rearm.state, RearmState::Lowered { .. });
            entry.outcome(if lowered { "done" } else { "pending" })
        }
        Err(refused) => entry.refused(&format!("{refused:?}")),
    }
}

fn log_rearm(step: &str, actor: &str, reason: &str, result: &Result<Rearm, RearmRefused>) {
    match result {
        Ok(rearm) => tracing::warn!(
            event = "rearm",
            step,
            actor,
            reason,
            id = rearm.id,
            epoch = rearm.word.epoch,
            lowered = matches!(rearm.state, RearmState::Lowered { .. }),
            "re-arm was taken"
        ),
        Err(refused) => tracing::warn!(event = "rearm_refused", step, actor, reason, ?refused, "re-arm was refused"),
    }
}

#[utoipa::path(
    get, path = "/v1/rearm", tag = "re-arm",
    responses((status = 200, description = "Re-arms, the newest first.", body = schema::Rearms))
)]
async fn rearms(State(api): Shared, caller: Caller, query: AnyQuery) -> Result<Response, Problem> {
    caller.0.needs(Role::Viewer)?;
    query_fields(query)?.finish()?;
    let now = api.parts.clock.now();
    let list: Vec<Value> =
        api.parts.switch.rearms(now).iter().map(|r| view::rearm(&api.parts.switch, r, now)).collect();
    Ok(answer(StatusCode::OK, &json!({ "rearms": list })))
}

#[utoipa::path(
    get, path = "/v1/rearm/{id}", tag = "re-arm",
    params(("id" = String, Path, description = "The request's id.")),
    responses((status = 200, description = "Where it is.", body = schema::RearmState))
)]
async fn rearm_by_id(State(api): Shared, caller: Caller, Path(id): Path<String>) -> Result<Response, Problem> {
    caller.0.needs(Role::Viewer)?;
    let now = api.parts.clock.now();
    let rearm = api.parts.switch.rearm(parse_id(&id)?, now).ok_or_else(|| refused(RearmRefused::UnknownRequest))?;
    Ok(answer(StatusCode::OK, &view::rearm(&api.parts.switch, &rearm, now)))
}

#[utoipa::path(
    get, path = "/v1/state", tag = "state",
    responses((status = 200, description = "Modes, causes, sessions, totals.", body = schema::State))
)]
async fn state(State(api): Shared, caller: Caller, query: AnyQuery) -> Result<Response, Problem> {
    caller.0.needs(Role::Viewer)?;
    query_fields(query)?.finish()?;
    Ok(answer(StatusCode::OK, &api.beside(Lane::Views, caller.name(), view::state).await?))
}

#[utoipa::path(
    get, path = "/v1/limits", tag = "limits",
    params(
        ("kind" = Option<schema::ScopeKind>, Query, description = "Only scopes of this kind."),
        ("name" = Option<String>, Query, description = "Only the scope of this name; needs a kind."),
        ("all" = Option<bool>, Query, description = "Unlimited ones too."),
        ("rows" = Option<u64>, Query, maximum = 5000, description = "About this many; 1000."),
        ("from" = Option<u64>, Query, description = "`next` of an earlier answer.")
    ),
    responses((status = 200, description = "Limits with their use.", body = schema::Limits))
)]
async fn limits(State(api): Shared, caller: Caller, query: AnyQuery) -> Result<Response, Problem> {
    caller.0.needs(Role::Viewer)?;
    let mut fields = query_fields(query)?;
    let (kind, name, all) = (fields.text("kind")?, fields.text("name")?, fields.text("all")?);
    let rows = fields.query_number("rows", "must be a whole number up to 5000", 5_000)?.unwrap_or(1_000);
    let from = fields.query_number("from", "must be the next of an earlier answer", NUMBER_MAX)?.unwrap_or(0);
    fields.finish()?;
    let universe = api.parts.switch.universe();
    let kind = match kind {
        None => None,
        Some(word) => Some(ScopeKind::ALL.into_iter().find(|k| k.name() == word).ok_or_else(|| {
            fields.wrong("kind", &word.into(), "must be firm, account, strategy, pair, instrument or session")
        })?),
    };
    let scope = match (kind, name) {
        (_, None) => None,
        (None, Some(name)) => return Err(fields.wrong("name", &name.into(), "needs a kind as well")),
        (Some(kind), Some(name)) => Some(
            universe
                .scope_named(kind.name(), &name)
                .ok_or_else(|| fields.wrong("name", &name.into(), "must be the name of one in the configuration"))?,
        ),
    };
    let all = match all.as_deref() {
        None | Some("false") => false,
        Some("true" | "") => true,
        Some(other) => return Err(fields.wrong("all", &other.into(), "must be true or false")),
    };
    let query = view::LimitsQuery { kind, scope, all, rows, from };
    let big = api.beside(Lane::Views, caller.name(), move |parts| {
        let table = parts.limits.read().unwrap_or_else(PoisonError::into_inner).clone();
        view::limits(parts, &table, &query)
    });
    Ok(desk::tag_limits(&api, answer(StatusCode::OK, &big.await?)))
}

#[utoipa::path(
    post, path = "/v1/limits/reload", tag = "limits",
    request_body = schema::Reason,
    responses((status = 200, description = "New limits are in force.", body = schema::Generation))
)]
async fn reload(State(api): Shared, caller: Caller, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    caller.may(&api, Role::Risk, "limits")?;
    // A file is of the whole firm.
    caller.at(&api, "limits", Scope::Firm)?;
    let mut fields = read_fields(&api, &headers, body).await?;
    let reason = fields.text("reason")?.unwrap_or_default();
    fields.finish()?;
    if reason.trim().is_empty() {
        return Err(fields.wrong("reason", &reason.into(), "a change of limits needs a reason"));
    }
    let (actor, entry) = (caller.0.name.clone(), caller.entry("limits").because(&reason));
    let result = api.beside(Lane::Reloads, caller.name(), move |parts| (parts.reload)(&actor, &reason)).await?;
    api.parts.audit.record(match &result {
        Ok(generation) => entry.detail(format!("generation {generation}")),
        Err(violations) => entry.refused("the new limits are invalid").detail(violations.join("; ")),
    });
    match result {
        Ok(generation) => Ok(answer(StatusCode::OK, &json!({ "generation": generation }))),
        Err(violations) => Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid-limits",
            "Invalid limits",
            "the new limits are invalid; the old ones stay in force",
        )
        .with("violations", violations)),
    }
}

#[utoipa::path(
    get, path = "/livez", tag = "health",
    responses((status = 200, description = "This answers.", body = String, content_type = "text/plain"))
)]
async fn livez() -> &'static str {
    "ok\n"
}

/// Ready means that the engine moves. A halt is no reason not to be ready: it is the service doing its work.
#[utoipa::path(
    get, path = "/readyz", tag = "health",
    params(("verbose" = Option<String>, Query, description = "What was looked at, line by line.")),
    responses(
        (status = 200, description = "The engine moves.", body = String, content_type = "text/plain"),
        (status = 503, description = "It does not.", body = String, content_type = "text/plain")
    )
)]
async fn readyz(State(api): Shared, RawQuery(query): RawQuery) -> Response {
    let health = view::engine_health(&api.parts);
    let status = if health.stale { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    if query.as_deref().is_none_or(|q| q != "verbose" && !q.starts_with("verbose=")) {
        return (status, if health.stale { "not ready\n" } else { "ok\n" }).into_response();
    }
    let mark = |good: bool| if good { "+" } else { "-" };
    let firm = api.parts.switch.page().get(0).mode;
    let text = format!(
        "[{}]engine rounds {}, last {}\n[{}]latch {}\n[+]firm {}\n{}\n",
        mark(!health.stale),
        health.progress,
        health.last_round_age_ns.map_or_else(|| "never".to_owned(), |ns| format!("{} ms ago", ns / 1_000_000)),
        mark(api.parts.switch.is_durable()),
        if api.parts.switch.is_durable() { "durable" } else { "not durable" },
        match firm {
            Mode::Normal => "normal",
            Mode::ReduceOnly => "reduce_only",
            Mode::Halted => "halted (still ready)",
        },
        if health.stale { "not ready" } else { "ready" }
    );
    (status, text).into_response()
}

#[utoipa::path(
    get, path = "/metrics", tag = "health",
    responses((status = 200, description = "For Prometheus.", body = String, content_type = "text/plain"),
        (status = 401, description = "Beyond loopback a token is needed."))
)]
async fn metrics(State(api): Shared, MaybeCaller(caller): MaybeCaller) -> Result<Response, Problem> {
    // Who need not say who they are have one turn among them.
    let mut who = String::new();
    if api.parts.options.metrics_need_token {
        let caller = caller?;
        caller.0.needs(Role::Viewer)?;
        who = caller.0.name;
    }
    let text = api.beside(Lane::Scrapes, &who, |parts| (parts.render_metrics)()).await?;
    let mut response = text.into_response();
    let plain = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    Ok(response)
}

/// A caller where the configuration may do without.
struct MaybeCaller(Result<Caller, Problem>);

impl FromRequestParts<Arc<Api>> for MaybeCaller {
    type Rejection = core::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Self::Rejection> {
        if api.parts.options.metrics_need_token {
            return Ok(MaybeCaller(Caller::from_request_parts(parts, api).await));
        }
        Ok(MaybeCaller(Err(not_found("no token is needed"))))
    }
}
