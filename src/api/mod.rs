//! The HTTP API: kill, re-arm, state, limits, health, metrics. On threads and runtimes of its own, so that
//! neither a scrape nor a browser is in the way of the event streams.
//!
//! It has two doors, each with a thread and places of its own, so that a crowd at one keeps nobody out of the other:
//! TCP, where a caller is known by a bearer token, the cookie of a login or a client certificate, and a Unix socket, where the kernel says which user calls
//! ([`LocalUsers`]).
//!
//! | Endpoint | Role | |
//! |---|---|---|
//! | `POST /v1/kill` | operator | `{scope:{kind,name}, mode?, reason?, wait_ms?}` → a receipt; `mode` is `halted` or `reduce_only` |
//! | `GET /v1/kill/preview?kind=&name=` | viewer | what a kill of the scope would cancel: orders, sessions, exposure |
//! | `GET /v1/kills?count=`, `GET /v1/kills/{id}` | viewer | receipts as they are now, newest first |
//! | `POST /v1/rearm` | risk | `{scope, epoch, reason, wait_ms?}` → 200 done, 202 pending or lowered but not on disk |
//! | `POST /v1/rearm/{id}/approve` | risk, another person | `{reason, wait_ms?}` |
//! | `GET /v1/rearm`, `GET /v1/rearm/{id}` | viewer | re-arms, newest first |
//! | `GET /v1/state` | viewer | modes, causes, sessions, totals, engine, latch, alerts |
//! | `GET /v1/stream` | viewer | the same as it changes, see `api/stream` |
//! | `GET /v1/strategies?name=&rows=&from=` | viewer | each strategy with its limits and their use |
//! | `GET /v1/incidents?count=&before=`, `GET /v1/incidents/{id}` | viewer | reports of trips and kills, newest first |
//! | `GET /v1/audit?actor=&action=&scope=&since=&until=&refused=&count=&before=` | risk | who did what, newest first |
//! | `POST /v1/login`, `POST /v1/logout`, `GET /v1/me` | – / viewer | a cookie for a browser, see `api/login` |
//! | `GET /v1/limits?kind=&name=&all=&rows=&from=` | viewer | limits with their use; `next` is the `from` of the next page |
//! | `GET /v1/sessions` | viewer | who is connected with which build, and what stands against them |
//! | `POST /v1/sessions/{name}/approve` | risk | `{reason}`: what it runs now is approved although it changed during an incident |
//! | `GET /v1/manifest` | viewer | the manifest in force, with what is live, dormant or missing |
//! | `POST /v1/manifest/reload` | risk | `{reason}` → the version, or why it is refused |
//! | `POST /v1/wake` | risk | `{strategy, part?, reason}`: what is dormant is woken |
//! | `GET /v1/preflight` | viewer | whether this fleet may open |
//! | `POST /v1/limits/reload` | risk | `{reason}` → the new generation, or every violation |
//! | overrides, what-if, `PUT /v1/limits`, probation | viewer, risk | see [`desk`] |
//! | `GET /v1/rearm/nonce` | risk | a number that is good for one re-arm of the caller's |
//! | `POST /v1/drills`, `GET /v1/drills`, `GET /v1/drills/{id}` | risk, viewer | `{scope?, force?, reason}` → what the rehearsal showed, see [`drills`] |
//! | `GET /v1/alerts?state=&open=&severity=&owner=&kind=&name=&scope_kind=&scope_name=&before=&count=` | viewer | alerts, newest first; `next` is the `before` of the next page |
//! | `GET /v1/alerts/{id}` | viewer | one of them |
//! | `GET /v1/signatures?count=`, `GET /v1/peers` | viewer | what the guard has learned of texts and of rates |
//! | `POST /v1/alerts/{id}/ack` | operator | `{reason}` → the alert, which the caller looks at from now on |
//! | `GET /livez`, `GET /readyz?verbose` | – | |
//! | `GET /`, `GET /console/…` | – | the console: a page, no data |
//! | `GET /metrics` | – or viewer | see [`ApiOptions::metrics_need_token`] |
//! | `GET /v1/openapi.json`, `GET /docs` | – | all of this as an OpenAPI document, and a page that shows it |
//!
//! A body is `application/json`; a field that is not known is an error. `Idempotency-Key` makes a repeated press the
//! same one. Every error is `application/problem+json` (RFC 9457).

mod alerts;
pub mod auth;
mod console;
pub mod desk;
pub mod drills;
pub mod flat;
mod fleet;
mod guard;
mod lanes;
mod lobby;
mod login;
mod openapi;
mod paced;
mod places;
pub mod problem;
mod reads;
mod routes;
pub mod schema;
mod server;
mod stream;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_login;
#[cfg(test)]
mod tests_openapi;
#[cfg(test)]
mod tests_reads;
#[cfg(test)]
mod tests_stream;
#[cfg(test)]
mod tests_tls;
pub mod tls;
mod view;

use std::sync::{Arc, RwLock};
use std::time::Duration;

pub use auth::{Authenticator, Caller, CertificateBy, Certified, LocalUsers, Principal, Role, Scopes};
pub use login::LASTS as LOGIN_LASTS;
pub use reads::{AuditPage, AuditQuery, Files};
pub use routes::BODY_MAX;
pub use server::{run, run_local};

use crate::api::flat::ResidualAsker;
use crate::duty::Clock;
use crate::engine::durability::Durability;
use crate::engine::published::Published;
use crate::guard::door::FleetDesk;
use crate::guard::watch::Watch;
use crate::kill::alerts::Alerts;
use crate::kill::audit::Audit;
use crate::kill::switch::Switch;
use crate::limits::LimitTable;

/// Loads the limits anew on behalf of an actor, for a reason: the new generation, or every violation at once, with
/// the old limits still in force. May block.
pub type Reload = dyn Fn(&str, &str) -> Result<u32, Vec<String>> + Send + Sync;

/// Bounds of one door. The defaults are meant for production.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiOptions {
    /// The longest time from one request (or the connection) to the whole head of the next.
    pub header_timeout: Duration,
    /// The longest time that a body may take.
    pub body_timeout: Duration,
    /// How long what was sent over the network may stay unread or unacknowledged before the connection is given up.
    pub unanswered: Duration,
    /// Connections that are served in full.
    pub connections: usize,
    /// Further connections on which only a kill is taken, and on which there is one request only.
    pub reserved: usize,
    /// How long the engine may make no round before its figures are called stale and the service not ready.
    pub engine_stale_after: Duration,
    /// Whether `/metrics` needs a token: for an address that is not loopback.
    pub metrics_need_token: bool,
    /// How long open requests may go on after the stop.
    pub drain: Duration,
    /// Streams of live state at once.
    pub streams: usize,
    /// The shortest time between two events of a stream.
    pub stream_every: Duration,
    /// How long a client may leave its stream unread, once it is further behind than what is kept for it.
    pub stream_patience: Duration,
}

impl Default for ApiOptions {
    fn default() -> ApiOptions {
        ApiOptions {
            header_timeout: Duration::from_secs(3),
            body_timeout: Duration::from_secs(3),
            unanswered: Duration::from_secs(15),
            connections: 240,
            reserved: 16,
            engine_stale_after: Duration::from_secs(1),
            metrics_need_token: false,
            drain: Duration::from_secs(2),
            streams: 32,
            stream_every: Duration::from_millis(100),
            stream_patience: Duration::from_secs(5),
        }
    }
}

impl ApiOptions {
    /// Open files that the connections of a door may need, those that wait for a place included.
    #[must_use]
    pub const fn files(&self) -> usize {
        self.connections + self.reserved + lobby::WAITING_MAX
    }
}

/// What the API works with.
pub struct ApiParts {
    /// The switch.
    pub switch: Arc<Switch>,
    /// What the engine shows.
    pub published: Arc<Published>,
    /// The limits in force; whoever reloads them puts the new table here.
    pub limits: Arc<RwLock<Arc<LimitTable>>>,
    /// Who may call over the network.
    pub auth: Arc<Authenticator>,
    /// What the network door speaks; `None`: plain HTTP.
    pub tls: Option<Arc<tls::Tls>>,
    /// Who may call over the local socket.
    pub local: LocalUsers,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The last alerts.
    pub alerts: Arc<Alerts>,
    /// What looks at texts and rates; `None`: nobody does.
    pub watch: Option<Arc<Watch>>,
    /// Where control records go.
    pub audit: Arc<Audit>,
    /// How the journal is doing; `None`: there is none.
    pub journal: Option<Arc<Durability>>,
    /// Asks the engine which orders are left of a halted scope.
    pub residual: ResidualAsker,
    /// What happened, as far as it is kept.
    pub files: Files,
    /// Renders `/metrics`. May take long.
    pub render_metrics: Box<dyn Fn() -> String + Send + Sync>,
    /// `POST /v1/limits/reload`.
    pub reload: Box<Reload>,
    /// What instances run, and what the manifest says of it.
    pub fleet: Arc<dyn FleetDesk>,
    /// Who changes limits for a while; `None`: nobody, they are as configured.
    pub desk: Option<Arc<dyn desk::LimitsDesk>>,
    /// Who rehearses the switch; `None`: nobody.
    pub drills: Option<Arc<dyn drills::Drills>>,
    /// Bounds.
    pub options: ApiOptions,
}
