//! Logging in for a browser: a token once, then a cookie that no script can read.
//!
//! | Endpoint | |
//! |---|---|
//! | `POST /v1/login` | `{token}` → `{name, role, scopes, expires_at}` and a cookie `haltline_<port>` |
//! | `POST /v1/logout` | ends the login and its streams |
//! | `GET /v1/me` | who is asking, what they may do and where, and how they are known |
//!
//! A cookie is sent by the browser whatever page asks for it, so with one alone nothing can be changed: a request other
//! than GET or HEAD needs the header `X-Haltline` as well (with any value), which no form can send and a script of another
//! site may not. Logins are kept in memory: after a restart everybody logs in again. Each person has a few; who logs in
//! once more loses their own oldest, never somebody else's.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use serde_json::{Value, json};

use crate::api::auth::{self, Role, hash_token, new_token, same_origin};
use crate::api::problem::Problem;
use crate::api::routes::{AnyQuery, Caller, Origin, Shared, answer, query_fields, read_fields};
use crate::api::schema;
use crate::api::server::Line;
use crate::kill::audit::Entry;
use crate::kill::words::rfc3339;
use crate::units::{MonoNanos, Now};

/// How long a login lasts where the configuration says nothing.
pub const LASTS: Duration = Duration::from_secs(12 * 3_600);
/// Logins of one person at a time.
const PER_PERSON: usize = 16;
/// What the names of our cookies begin with; a browser sends those of every port of a host.
const COOKIE: &str = "haltline_";

/// Who has logged in.
#[derive(Debug)]
pub(super) struct Logins {
    lasts: Duration,
    /// By the hash of the cookie's value.
    list: Mutex<HashMap<[u8; 32], Login>>,
}

#[derive(Clone, Debug)]
struct Login {
    caller: auth::Caller,
    since: MonoNanos,
    expires: Now,
}

impl Default for Logins {
    fn default() -> Logins {
        Logins::lasting(LASTS)
    }
}

impl Logins {
    pub(super) fn lasting(lasts: Duration) -> Logins {
        Logins { lasts, list: Mutex::default() }
    }

    /// A login of `caller`: the cookie's value, and when it ends.
    fn begin(&self, caller: &auth::Caller, now: Now) -> Result<(String, Now), getrandom::Error> {
        let (cookie, _) = new_token()?;
        let span = u64::try_from(self.lasts.as_nanos()).unwrap_or(u64::MAX);
        let mut expires = now;
        expires.mono.0 = expires.mono.0.saturating_add(span);
        expires.unix.0 = expires.unix.0.saturating_add(span);
        let mut list = self.lock();
        list.retain(|_, login| login.expires.mono > now.mono);
        let own = list.iter().filter(|(_, login)| login.caller.name == caller.name);
        if own.clone().count() >= PER_PERSON
            && let Some(oldest) = own.min_by_key(|(_, login)| login.since).map(|(hash, _)| *hash)
        {
            list.remove(&oldest);
        }
        list.insert(hash_token(&cookie), Login { caller: caller.clone(), since: now.mono, expires });
        Ok((cookie, expires))
    }

    /// Whose cookie is among the headers, its hash, and when it ends.
    pub(super) fn of(&self, headers: &HeaderMap, now: MonoNanos) -> Option<(auth::Caller, [u8; 32])> {
        let list = self.lock();
        cookies(headers).map(hash_token).find_map(|hash| {
            let login = list.get(&hash).filter(|login| login.expires.mono > now)?;
            Some((login.caller.clone(), hash))
        })
    }

    /// Whether the login with this hash goes on.
    pub(super) fn goes_on(&self, hash: &[u8; 32], now: MonoNanos) -> bool {
        self.lock().get(hash).is_some_and(|login| login.expires.mono > now)
    }

    fn expires(&self, hash: &[u8; 32]) -> Option<Now> {
        self.lock().get(hash).map(|login| login.expires)
    }

    fn end(&self, hash: &[u8; 32]) {
        self.lock().remove(hash);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Login>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Values of cookies that may be ours.
fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let texts = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('=')).filter_map(|(name, value)| {
        // As long as those that we make: hashing is not for whatever somebody sends.
        (name.starts_with(COOKIE) && value.len() == 64).then_some(value)
    })
}

/// Refuses a change that a browser could have been made to ask for.
///
/// # Errors
/// 403 unless the request only looks, or carries the header that only a page of ours can add.
pub(super) fn meant(method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
    if method == Method::GET || method == Method::HEAD || headers.contains_key("x-haltline") {
        return Ok(());
    }
    let detail = "with a cookie or a certificate the header X-Haltline is needed too, which no other site can send";
    Err(Problem::new(StatusCode::FORBIDDEN, "header-missing", "Header missing", detail))
}

/// `POST /v1/login`.
#[utoipa::path(
    post, path = "/v1/login", tag = "login",
    request_body = schema::Login,
    responses((status = 200, description = "A cookie.", body = schema::Me))
)]
pub(super) async fn login(
    State(api): Shared,
    origin: Option<Extension<Origin>>,
    line: Option<Extension<Line>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    same_origin(&headers)?;
    let Some(Extension(Origin::Network(peer))) = origin else {
        let detail = "over the local socket the kernel says who asks: there is nothing to log in to";
        return Err(Problem::new(StatusCode::CONFLICT, "no-login", "No login", detail));
    };
    let mut fields = read_fields(&api, &headers, body).await?;
    let token = fields.text("token")?;
    fields.finish()?;
    let Some(token) = token else {
        return Err(fields.wrong("token", &Value::Null, "must be a text"));
    };
    let now = api.parts.clock.now();
    let source = peer.ip().to_string();
    let caller = api.parts.auth.owner(&token, peer.ip(), now.mono).inspect_err(|_| {
        let entry = Entry::new("?", "login").from(&source);
        api.parts.audit.record(entry.refused("nobody that is known"));
    })?;
    let failed = |_| {
        let detail = "the system gives no randomness";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no-randomness", "No randomness", detail)
    };
    let (cookie, expires) = api.parts.auth.logins.begin(&caller, now).map_err(failed)?;
    api.parts.audit.record(Entry::new(&caller.name, "login").from(&source));
    let secure = line.is_some_and(|Extension(line)| line.tls);
    let seconds = expires.mono.since(now.mono) / 1_000_000_000;
    let mut response = answer(StatusCode::OK, &who(&caller, "login", Some(expires)));
    set_cookie(&mut response, &headers, &cookie, seconds, secure);
    Ok(response)
}

/// `POST /v1/logout`.
#[utoipa::path(
    post, path = "/v1/logout", tag = "login",
    responses((status = 200, description = "The login has ended.", body = schema::Ended))
)]
pub(super) async fn logout(State(api): Shared, caller: Caller, headers: HeaderMap) -> Result<Response, Problem> {
    caller.0.needs(Role::Viewer)?;
    let Some(hash) = caller.login() else {
        let detail = "only who has logged in can log out";
        return Err(Problem::new(StatusCode::CONFLICT, "no-login", "No login", detail));
    };
    api.parts.auth.logins.end(hash);
    api.parts.audit.record(caller.entry("logout"));
    let mut response = answer(StatusCode::OK, &json!({}));
    set_cookie(&mut response, &headers, "", 0, false);
    Ok(response)
}

/// `GET /v1/me`.
#[utoipa::path(
    get, path = "/v1/me", tag = "login",
    responses((status = 200, description = "Who is asking.", body = schema::Me))
)]
pub(super) async fn me(State(api): Shared, caller: Caller, query: AnyQuery) -> Result<Response, Problem> {
    caller.0.needs(Role::Viewer)?;
    query_fields(query)?.finish()?;
    let expires = caller.login().and_then(|hash| api.parts.auth.logins.expires(hash));
    Ok(answer(StatusCode::OK, &who(&caller.0, caller.way(), expires)))
}

fn who(caller: &auth::Caller, way: &str, expires: Option<Now>) -> Value {
    json!({
        "name": caller.name, "role": caller.role.name(), "scopes": caller.scopes.list(), "way": way,
        "expires_at": expires.map(|at| rfc3339(at.unix.0)),
    })
}

/// The cookie is for this server and port, for requests from its own pages, and for no script.
fn set_cookie(response: &mut Response, headers: &HeaderMap, value: &str, seconds: u64, secure: bool) {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let port = host.rsplit_once(':').map(|(_, port)| port).filter(|port| port.bytes().all(|b| b.is_ascii_digit()));
    let secure = if secure { "; Secure" } else { "" };
    let port = port.unwrap_or_default();
    let cookie = format!("{COOKIE}{port}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::duty::Clock as _;
    use crate::kill::testing::TestClock;

    fn caller(name: &str) -> auth::Caller {
        auth::Caller { name: name.into(), role: Role::Operator, scopes: auth::Scopes::EVERYTHING }
    }

    fn with(cookie: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, HeaderValue::from_str(&format!("a=b; haltline_7402={cookie}; c=d")).unwrap());
        headers
    }

    #[test]
    fn logins_expire_and_are_bounded_per_person() {
        let (logins, clock) = (Logins::lasting(Duration::from_secs(60)), TestClock::new());
        let (olga, _) = logins.begin(&caller("olga"), clock.now()).unwrap();
        let rita: Vec<String> =
            (0..=PER_PERSON).map(|_| logins.begin(&caller("rita"), clock.now()).unwrap().0).collect();
        let name = |cookie: &str| logins.of(&with(cookie), clock.now().mono).map(|(caller, _)| caller.name);
        assert_eq!(name(&olga).as_deref(), Some("olga"), "somebody else's logins took nothing away");
        assert_eq!(name(&rita[0]), None, "her own oldest is gone");
        assert_eq!(name(&rita[1]).as_deref(), Some("rita"));
        assert_eq!(name(&rita[1].to_uppercase()), None);
        assert_eq!(name(""), None);
        let hash = hash_token(&olga);
        assert!(logins.goes_on(&hash, clock.now().mono));
        clock.advance(61_000_000_000);
        assert_eq!((name(&olga), logins.goes_on(&hash, clock.now().mono)), (None, false));
        logins.begin(&caller("olga"), clock.now()).unwrap();
        assert_eq!(logins.lock().len(), 1, "what has expired is not kept");
    }

    #[test]
    fn a_cookie_alone_changes_nothing() {
        let none = HeaderMap::new();
        assert!(meant(&Method::GET, &none).is_ok() && meant(&Method::HEAD, &none).is_ok());
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS] {
            assert!(meant(&method, &none).is_err(), "{method}");
        }
        let mut headers = HeaderMap::new();
        headers.insert("x-haltline", HeaderValue::from_static("1"));
        assert!(meant(&Method::POST, &headers).is_ok());
    }
}
