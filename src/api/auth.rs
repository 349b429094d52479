//! Who calls, and what they may do: bearer tokens, users of this machine, roles, and a look at where a browser request
//! came from.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode, header};
use subtle::{Choice, ConstantTimeEq};

use crate::api::login::Logins;
use crate::api::problem::Problem;
use crate::api::tls::CertificateNames;
use crate::kill::words::ScopeName;
use crate::metrics::{Sample, SampleKind, Source};
use crate::model::{Scope, Universe};
use crate::units::MonoNanos;

/// What a principal may do, ascending: each role may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Look.
    Viewer,
    /// Press.
    Operator,
    /// Re-arm, reload limits.
    Risk,
}

impl Role {
    /// The word for it in configs and errors.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Risk => "risk",
        }
    }

    /// The role called `word`.
    #[must_use]
    pub fn from_name(word: &str) -> Option<Role> {
        [Role::Viewer, Role::Operator, Role::Risk].into_iter().find(|role| role.name() == word)
    }
}

/// Somebody who may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The name that is recorded as the actor.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// Where they may do it.
    pub scopes: Scopes,
    /// BLAKE3 of the token's text.
    pub token_hash: [u8; 32],
}

/// Somebody who is known by a client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certified {
    /// What the certificate has to bear.
    pub by: CertificateBy,
    /// Whom it names.
    pub caller: Caller,
}

/// What of a certificate says who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateBy {
    /// Its whole subject, see [`CertificateNames::subject`].
    Subject(String),
    /// One of its alternative names.
    Alternative(String),
}

/// Where a role counts: everywhere, or for some scopes and what lies in them. Everybody may look at everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scopes(Option<Arc<[ScopeName]>>);

impl Scopes {
    /// Everywhere.
    pub const EVERYTHING: Scopes = Scopes(None);

    /// Only for these, and what lies in them.
    #[must_use]
    pub fn only(list: Vec<ScopeName>) -> Scopes {
        Scopes(Some(list.into()))
    }

    /// The scopes that the role is limited to; `None`: it is not.
    #[must_use]
    pub fn list(&self) -> Option<&[ScopeName]> {
        self.0.as_deref()
    }

    /// Whether the role counts for `scope`. In the firm lies everything, in an account its strategies, in a
    /// strategy its pairs; instruments and sessions lie in the firm alone. A name that is not known covers nothing.
    #[must_use]
    pub fn cover(&self, universe: &Universe, scope: Scope) -> bool {
        let Some(list) = &self.0 else { return true };
        let account_of = |strategy: crate::units::StrategyId| {
            universe.strategies.get(usize::from(strategy.0)).map(|spec| spec.account)
        };
        list.iter().filter_map(|name| name.find(universe)).any(|own| match own {
            Scope::Firm => true,
            Scope::Account(account) => match scope {
                Scope::Account(other) => other == account,
                Scope::Strategy(strategy) | Scope::Pair(strategy, _) => account_of(strategy) == Some(account),
                Scope::Firm | Scope::Instrument(_) | Scope::Session(_) => false,
            },
            Scope::Strategy(strategy) => match scope {
                Scope::Strategy(other) | Scope::Pair(other, _) => other == strategy,
                Scope::Firm | Scope::Account(_) | Scope::Instrument(_) | Scope::Session(_) => false,
            },
            Scope::Pair(..) | Scope::Instrument(_) | Scope::Session(_) => own == scope,
        })
    }
}

/// Whoever sent a request, once that is established.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The name that is recorded as the actor. One name is one person, whichever way they came.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// Where they may do it.
    pub scopes: Scopes,
}

/// Who may call over the local socket: the kernel says which user is at the other end, and nothing that the peer
/// sends can change that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalUsers {
    users: Vec<(u32, Caller)>,
}

impl LocalUsers {
    /// `trusted` are the service's own user and root, with their names: they always may kill, whatever `configured`
    /// says of them, since they could end the process as well. Of several entries for one user the first counts.
    #[must_use]
    pub fn new(configured: Vec<(u32, Caller)>, trusted: Vec<(u32, String)>) -> LocalUsers {
        let mut users = configured;
        for (uid, name) in trusted {
            match users.iter_mut().find(|(known, _)| *known == uid) {
                Some((_, caller)) if caller.role >= Role::Operator => {}
                Some((_, caller)) => (caller.role, caller.scopes) = (Role::Operator, Scopes::EVERYTHING),
                None => {
                    let (name, role, scopes) = (format!("local:{name}"), Role::Operator, Scopes::EVERYTHING);
                    users.push((uid, Caller { name, role, scopes }));
                }
            }
        }
        LocalUsers { users }
    }

    /// The caller whose user id is `uid`.
    ///
    /// # Errors
    /// 403 if the user is not one of them.
    pub fn caller(&self, uid: u32) -> Result<&Caller, Problem> {
        self.users.iter().find(|(known, _)| *known == uid).map(|(_, caller)| caller).ok_or_else(|| {
            tracing::warn!(event = "auth_failed", uid, "a user who is not configured came over the local socket");
            Problem::new(
                StatusCode::FORBIDDEN,
                "unknown-user",
                "Unknown user",
                format!("the user with uid {uid} is none of [[local.operators]], the service's own or root"),
            )
            .with("uid", uid)
        })
    }
}

/// Bytes of randomness in a token.
const TOKEN_BYTES: usize = 32;
/// Longer credentials are refused unread.
const TOKEN_TEXT_MAX: usize = 256;
/// Failures from one source before it is told to slow down.
const FREE_FAILURES: u32 = 5;
/// The first back-off; it doubles with each further failure.
const BACKOFF_NS: u64 = 1_000_000_000;
/// The longest.
const BACKOFF_MAX_NS: u64 = 60_000_000_000;
/// Sources that are remembered.
const SOURCES_MAX: usize = 1_024;

/// A new token of 256 random bits as hex, and the hex of its hash for the configuration.
///
/// # Errors
/// If the system gives no randomness.
pub fn new_token() -> Result<(String, String), getrandom::Error> {
    let mut bytes = [0u8; TOKEN_BYTES];
    getrandom::fill(&mut bytes)?;
    let token: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    let hash = hash_token(&token);
    Ok((token, blake3::Hash::from_bytes(hash).to_hex().to_string()))
}

/// The hash under which a token is kept.
#[must_use]
pub fn hash_token(token: &str) -> [u8; 32] {
    *blake3::hash(token.as_bytes()).as_bytes()
}

/// Parses the hex of a token's hash: 64 hex digits.
#[must_use]
pub fn parse_hash(hex: &str) -> Option<[u8; 32]> {
    blake3::Hash::from_hex(hex).ok().map(|hash| *hash.as_bytes())
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    last: MonoNanos,
}

/// What failures are counted by: where they come from, and what was tried. A token that was withdrawn is tried from
/// many places at once, a guess from one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Tried {
    /// See [`network`].
    From(IpAddr),
    /// The beginning of a wrong token's hash.
    Token([u8; 8]),
}

/// Where something comes from: an IPv4 address, or the /64 that an IPv6 address is in. Whoever has one has all of it.
pub(super) fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Knows the principals. A correct token is always taken, whatever else came from its source.
#[derive(Debug)]
pub struct Authenticator {
    principals: Vec<Principal>,
    certificates: Vec<Certified>,
    /// Who has logged in with a token, and has a cookie for it.
    pub(super) logins: Logins,
    failures: Mutex<HashMap<Tried, Failures>>,
    failed: AtomicU64,
}

impl Authenticator {
    /// Of several principals with the same token the first counts; the configuration refuses that.
    #[must_use]
    pub fn new(principals: Vec<Principal>) -> Authenticator {
        let (failures, failed) = (Mutex::new(HashMap::new()), AtomicU64::new(0));
        Authenticator { principals, certificates: Vec::new(), logins: Logins::default(), failures, failed }
    }

    /// With those who are known by a certificate.
    #[must_use]
    pub fn with_certificates(mut self, certificates: Vec<Certified>) -> Authenticator {
        self.certificates = certificates;
        self
    }

    /// Whom a client's certificate names: the first in the configuration whose name it bears. The handshake has
    /// shown that its authority is one of ours.
    pub(super) fn certified(&self, names: &CertificateNames) -> Option<Caller> {
        let bears = |certified: &&Certified| match &certified.by {
            CertificateBy::Subject(subject) => *subject == names.subject,
            CertificateBy::Alternative(name) => names.alternative.contains(name),
        };
        self.certificates.iter().find(bears).map(|certified| certified.caller.clone())
    }

    /// With logins that last this long.
    #[must_use]
    pub fn with_logins_for(mut self, span: Duration) -> Authenticator {
        self.logins = Logins::lasting(span);
        self
    }

    /// The caller, by the `Authorization` header.
    ///
    /// # Errors
    /// 401 without or with a wrong token; 429 with a wrong one from a source that has failed too often.
    pub fn caller(&self, headers: &HeaderMap, source: IpAddr, now: MonoNanos) -> Result<Caller, Problem> {
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return Err(unauthorized("an Authorization header with a bearer token is needed"));
        };
        let token = value
            .to_str()
            .ok()
            .and_then(|text| text.split_once(' '))
            .filter(|(scheme, token)| scheme.eq_ignore_ascii_case("bearer") && token.len() <= TOKEN_TEXT_MAX)
            .map(|(_, token)| token.trim());
        self.owner(token.unwrap_or_default(), source, now)
    }

    /// Whose token this is.
    ///
    /// # Errors
    /// As [`Authenticator::caller`].
    pub fn owner(&self, token: &str, source: IpAddr, now: MonoNanos) -> Result<Caller, Problem> {
        match self.find(token) {
            Some(p) => Ok(Caller { name: p.name.clone(), role: p.role, scopes: p.scopes.clone() }),
            None if self.failed(token, source, now) => Err(Problem::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too-many-failures",
                "Too many failures",
                "this token, or tokens from this source, were wrong too often; a correct one is still taken",
            )
            .header(header::RETRY_AFTER, "60")),
            None => Err(unauthorized("the token is not known")),
        }
    }

    /// Compares with every principal, each in constant time, so that the time taken tells nothing.
    fn find(&self, token: &str) -> Option<&Principal> {
        let hash = hash_token(token);
        let mut found = None;
        for principal in &self.principals {
            let same: Choice = principal.token_hash.ct_eq(&hash);
            if bool::from(same) && found.is_none() {
                found = Some(principal);
            }
        }
        found
    }

    /// Counts a failure; tells whether its source, or the token, is to slow down.
    fn failed(&self, token: &str, source: IpAddr, now: MonoNanos) -> bool {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let hash = hash_token(token);
        let mut short = [0; 8];
        short.copy_from_slice(&hash[..8]);
        let mut failures = self.lock();
        let mut slow = false;
        for tried in [Tried::From(network(source)), Tried::Token(short)] {
            slow |= count(&mut failures, tried, now);
        }
        slow
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Tried, Failures>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unauthorized(detail: &'static str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "Unauthorized", detail)
        .header(header::WWW_AUTHENTICATE, "Bearer")
}

/// Counts a failure of `tried`; tells whether it is to slow down.
fn count(failures: &mut HashMap<Tried, Failures>, tried: Tried, now: MonoNanos) -> bool {
    if failures.len() >= SOURCES_MAX
        && !failures.contains_key(&tried)
        && let Some(oldest) = failures.iter().min_by_key(|(_, f)| f.last).map(|(tried, _)| *tried)
    {
        failures.remove(&oldest);
    }
    let entry = failures.entry(tried).or_insert(Failures { count: 0, last: now });
    let over = entry.count.saturating_sub(FREE_FAILURES).min(16);
    let backoff = (BACKOFF_NS << over).min(BACKOFF_MAX_NS);
    if now.since(entry.last) > BACKOFF_MAX_NS {
        entry.count = 0;
    }
    let slow = entry.count >= FREE_FAILURES && now.since(entry.last) < backoff;
    entry.count = entry.count.saturating_add(1);
    entry.last = now;
    // One line per doubling: a brute force does not fill the log.
    if entry.count.is_power_of_two()
        && let Tried::From(source) = tried
    {
        tracing::warn!(event = "auth_failed", %source, count = entry.count, "a wrong token was refused");
    }
    slow
}

impl Source for Authenticator {
    fn samples(&self) -> Vec<Sample> {
        vec![Sample {
            name: "haltline_auth_failures_total",
            help: "Requests with a token that is not known.",
            kind: SampleKind::Counter,
            labels: vec![],
            value: self.failed.load(Ordering::Relaxed) as f64,
        }]
    }
}

impl Caller {
    /// Whether they have `role`.
    ///
    /// # Errors
    /// 403 that names the role that is needed.
    pub fn needs(&self, role: Role) -> Result<(), Problem> {
        if self.role >= role {
            return Ok(());
        }
        tracing::warn!(event = "forbidden", actor = self.name, needs = role.name(), "a request was refused");
        Err(Problem::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            "Forbidden",
            format!("this needs the role {}; {} has {}", role.name(), self.name, self.role.name()),
        )
        .with("role", role.name()))
    }

    /// Whether what they may do, they may do at `scope`.
    ///
    /// # Errors
    /// 403 that names the scopes that they have.
    pub fn covers(&self, universe: &Universe, scope: Scope) -> Result<(), Problem> {
        if self.scopes.cover(universe, scope) {
            return Ok(());
        }
        let own: Vec<String> = self.scopes.list().unwrap_or_default().iter().map(ToString::to_string).collect();
        let scope = ScopeName::of(universe, scope);
        tracing::warn!(event = "forbidden", actor = self.name, %scope, "a request was refused");
        let detail = format!("{} may not do this for {scope}, only for {}", self.name, own.join(", "));
        Err(Problem::new(StatusCode::FORBIDDEN, "other-scope", "Other scope", detail).with("scopes", own))
    }
}

/// Refuses what a web page of somebody else made a browser send.
///
/// # Errors
/// 403 if `Origin` is not our own or `Sec-Fetch-Site` says that the request comes from elsewhere.
pub fn same_origin(headers: &HeaderMap) -> Result<(), Problem> {
    let refuse = |detail: &str| Problem::new(StatusCode::FORBIDDEN, "cross-site", "Cross-site request", detail);
    if let Some(site) = headers.get("sec-fetch-site")
        && site != "same-origin"
        && site != "none"
    {
        return Err(refuse("Sec-Fetch-Site names another site"));
    }
    if let Some(origin) = headers.get(header::ORIGIN) {
        let host = headers.get(header::HOST).and_then(|h| h.to_str().ok());
        let origin = origin.to_str().ok();
        let own = origin.and_then(|o| o.strip_prefix("http://").or_else(|| o.strip_prefix("https://")));
        if own.is_none() || own != host {
            return Err(refuse("Origin is not this server"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn bearer(token: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}")).unwrap());
        headers
    }

    fn one() -> (Authenticator, String) {
        let (token, hash) = new_token().unwrap();
        let principal = Principal {
            name: "olga".into(),
            role: Role::Operator,
            scopes: Scopes::EVERYTHING,
            token_hash: parse_hash(&hash).unwrap(),
        };
        (Authenticator::new(vec![principal]), token)
    }

    #[test]
    fn tokens_are_long_random_and_found_by_their_hash() {
        let (auth, token) = one();
        assert_eq!(token.len(), 64);
        assert_ne!(token, new_token().unwrap().0);
        let source = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(auth.caller(&bearer(&token), source, MonoNanos(1)).unwrap().name, "olga");
        for wrong in ["", "x", &token[1..], &token.to_uppercase(), &format!("{token}0")] {
            assert!(auth.caller(&bearer(wrong), source, MonoNanos(1)).is_err(), "{wrong}");
        }
        let mut basic = HeaderMap::new();
        basic.insert(header::AUTHORIZATION, HeaderValue::from_str(&format!("Basic {token}")).unwrap());
        assert!(auth.caller(&basic, source, MonoNanos(1)).is_err());
    }

    #[test]
    fn wrong_tokens_slow_their_source_down_but_nobody_else_and_no_correct_one() {
        let (auth, token) = one();
        let (bad, other) = (IpAddr::from([127, 0, 0, 2]), IpAddr::from([127, 0, 0, 3]));
        let status = |source, token: &str, now| match auth.caller(&bearer(token), source, MonoNanos(now)) {
            Ok(_) => 200,
            Err(problem) => problem.status().as_u16(),
        };
        let seen: Vec<u16> = (0..8).map(|n| status(bad, "wrong", n)).collect();
        assert_eq!(seen, [401, 401, 401, 401, 401, 429, 429, 429]);
        assert_eq!(status(bad, &token, 9), 200);
        assert_eq!(status(other, "another", 9), 401);
        // The same wrong token from many places is as bad.
        assert_eq!(status(other, "wrong", 9), 429);
        assert_eq!(status(other, &token, 9), 200);
        assert_eq!(status(bad, "wrong", BACKOFF_MAX_NS * 2), 401);
    }

    #[test]
    fn an_ipv6_network_is_one_source() {
        let (auth, _) = one();
        let from = |host: u16, n: u64| {
            let source = IpAddr::from([0x2001, 0xdb8, 0, 7, 0, 0, 0, host]);
            auth.caller(&bearer(&format!("guess {n}")), source, MonoNanos(n)).unwrap_err().status().as_u16()
        };
        assert_eq!((0..6).map(|n| from(n as u16, n)).collect::<Vec<_>>(), [401, 401, 401, 401, 401, 429]);
    }

    #[test]
    fn a_role_for_some_scopes_counts_there_and_for_what_lies_in_them() {
        use crate::units::{AccountId, InstrumentId, SessionId, StrategyId};
        let universe = crate::kill::testing::universe();
        let named = |kind: &str, name: &str| ScopeName { kind: kind.into(), name: name.into() };
        let (alpha, beta) = (Scope::Strategy(StrategyId(0)), Scope::Strategy(StrategyId(1)));
        let pair = Scope::Pair(StrategyId(0), InstrumentId(0));
        let (es, gw) = (Scope::Instrument(InstrumentId(0)), Scope::Session(SessionId(0)));
        let all = [Scope::Firm, Scope::Account(AccountId(0)), alpha, beta, pair, es, gw];
        let covered = |scopes: Scopes| all.map(|scope| scopes.cover(&universe, scope));
        assert_eq!(covered(Scopes::EVERYTHING), [true; 7]);
        assert_eq!(covered(Scopes::only(vec![named("firm", "")])), [true; 7]);
        let account = Scopes::only(vec![named("account", "main")]);
        assert_eq!(covered(account), [false, true, true, true, true, false, false]);
        let some = Scopes::only(vec![named("strategy", "alpha"), named("session", "gw-1")]);
        assert_eq!(covered(some.clone()), [false, false, true, false, true, false, true]);
        assert_eq!(covered(Scopes::only(vec![named("strategy", "gone")])), [false; 7]);
        assert_eq!(covered(Scopes::only(vec![])), [false; 7]);
        let caller = Caller { name: "x".into(), role: Role::Risk, scopes: some };
        assert!(caller.covers(&universe, alpha).is_ok());
        assert_eq!(caller.covers(&universe, beta).unwrap_err().status(), StatusCode::FORBIDDEN);
    }

    #[test]
    fn sources_that_are_remembered_are_bounded() {
        let (auth, _) = one();
        for n in 0..SOURCES_MAX as u32 * 2 {
            let source = IpAddr::from(n.to_be_bytes());
            assert!(auth.caller(&bearer("wrong"), source, MonoNanos(u64::from(n))).is_err());
        }
        assert_eq!(auth.lock().len(), SOURCES_MAX);
    }

    #[test]
    fn requests_from_other_sites_are_refused() {
        let with = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, HeaderValue::from_static(value));
            }
            same_origin(&headers).is_ok()
        };
        assert!(with(&[]));
        assert!(with(&[("origin", "http://127.0.0.1:9"), ("host", "127.0.0.1:9"), ("sec-fetch-site", "same-origin")]));
        assert!(with(&[("sec-fetch-site", "none")]));
        assert!(!with(&[("origin", "http://evil.example"), ("host", "127.0.0.1:9")]));
        assert!(!with(&[("origin", "null"), ("host", "127.0.0.1:9")]));
        assert!(!with(&[("origin", "http://127.0.0.1:9")]));
        assert!(!with(&[("sec-fetch-site", "cross-site")]));
        assert!(!with(&[("sec-fetch-site", "same-site")]));
    }

    #[test]
    fn roles_ascend() {
        for (has, may) in [(Role::Viewer, 1), (Role::Operator, 2), (Role::Risk, 3)] {
            let caller = Caller { name: "x".into(), role: has, scopes: Scopes::EVERYTHING };
            let allowed = [Role::Viewer, Role::Operator, Role::Risk];
            assert_eq!(allowed.iter().filter(|r| caller.needs(**r).is_ok()).count(), may);
            assert_eq!(Role::from_name(has.name()), Some(has));
        }
    }

    #[test]
    fn local_users_are_known_by_uid_and_root_can_always_kill() {
        let caller = |name: &str, role| Caller { name: name.into(), role, scopes: Scopes::EVERYTHING };
        let configured = vec![
            (1001, caller("carol", Role::Risk)),
            (0, caller("admin", Role::Viewer)),
            (1001, caller("mallory", Role::Risk)),
        ];
        let users = LocalUsers::new(configured, vec![(0, "root".into()), (500, "haltline".into())]);
        assert_eq!(users.caller(1001), Ok(&caller("carol", Role::Risk)));
        assert_eq!(users.caller(0), Ok(&caller("admin", Role::Operator)));
        assert_eq!(users.caller(500), Ok(&caller("local:haltline", Role::Operator)));
        assert_eq!(users.caller(1002).unwrap_err().status(), StatusCode::FORBIDDEN);
    }
}
