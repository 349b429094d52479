//! The configuration file as it was written, all of it but the limits: checked key by key.

use core::net::{Ipv4Addr, SocketAddr};
use core::time::Duration;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use super::alerts::{self, AlertsText};
use super::attestation::{Guard, read_attestation, read_preflight};
use super::cancel;
use super::guard;
use super::reader::{Field, NAME_RULE, Reader, is_name};
use super::temporary::TemporaryText;
use super::violation::{Errors, Spot};
use super::{
    Auth, CertificateBy, Certified, EngineOptions, Gate, Group, Http, Ingest, Journal, Local, LocalOperator, Operator,
    Role, Scopes, Service, TlsFiles,
};
use crate::api::Caller;
use crate::duty::Idle;
use crate::engine::core::Sizing;
use crate::guard::watch::WatchOptions;
use crate::ingest::gates::GateOptions;
use crate::kill::words::ScopeName;
use crate::limits::CancelPolicy;
use crate::limits::ParentRule;
use crate::model::{Event, ScopeKind, SessionKind, Universe};
use crate::units::{Conversion, DecimalError, Px, Qty};

/// The longest age, window or time-out that can be configured.
pub(super) const WEEK_NS: u64 = 7 * 86_400_000_000_000;
/// The shortest one.
pub(super) const SHORTEST_NS: u64 = 1_000;
/// How old a price or rate may be where nothing is said.
const DEFAULT_AGE_NS: u64 = 5_000_000_000;
/// "Unlimited" as an age.
pub(super) const ANY_AGE: u64 = u64::MAX;

/// Sections of options: what they say counts from the start of the process on.
pub(super) const SECTIONS: [&str; 15] = [
    "service",
    "engine",
    "ingest",
    "gate",
    "http",
    "local",
    "auth",
    "journal",
    "overrides",
    "limits_api",
    "rearm",
    "drill",
    "ramp",
    "alerts",
    "guard",
];

/// A name that refers to something else in the file.
pub(super) type Reference = (String, Spot);

pub(super) struct CurrencyText {
    pub name: String,
    pub spot: Spot,
    pub rate: Option<i64>,
    pub max_age_ns: u64,
}

pub(super) struct AccountText {
    pub name: String,
    pub spot: Spot,
    pub suspense: bool,
}

pub(super) struct StrategyText {
    pub name: String,
    pub spot: Spot,
    pub account: Option<Reference>,
    /// `None`: all.
    pub instruments: Option<Vec<Reference>>,
    /// `None`: not written, see [`FileText::parents_of`].
    pub parents: Option<(ParentRule, Spot)>,
}

#[derive(Clone)]
pub(super) struct InstrumentText {
    pub name: String,
    pub spot: Spot,
    pub currency: Option<Reference>,
    pub px_scale: Option<u8>,
    pub qty_scale: Option<u8>,
    pub multiplier: Option<(i64, u8)>,
    pub negative_px: bool,
    pub average_daily_volume: Option<Qty>,
    pub reference: Option<Px>,
    pub reference_max_age_ns: u64,
    pub restricted: bool,
}

pub(super) struct SessionText {
    pub name: String,
    pub spot: Spot,
    pub kind: SessionKind,
    /// Empty: all.
    pub strategies: Vec<Reference>,
    pub token: Option<[u8; 32]>,
    pub cancel: cancel::SessionCancelText,
}

/// Where keys of `[local]` are written, as far as they are.
#[derive(Default)]
pub(super) struct LocalSpots {
    pub socket: Option<Spot>,
    pub group: Option<Spot>,
    pub kill_file: Option<Spot>,
    /// Scopes that operators are limited to.
    pub scopes: Vec<(ScopeName, Spot)>,
}

/// Everything but the limits.
pub(super) struct FileText {
    /// Where the sections of [`SECTIONS`] are written.
    pub section_spots: [Spot; SECTIONS.len()],
    pub service: Service,
    pub engine: EngineOptions,
    pub ingest: Ingest,
    pub gate: Option<Gate>,
    pub http: Http,
    pub local: Local,
    pub local_spots: LocalSpots,
    pub auth: Auth,
    pub journal: Journal,
    pub guard: Guard,
    /// Without what sessions say.
    pub cancel: CancelPolicy,
    pub temporary: TemporaryText,
    pub alerts: AlertsText,
    pub watch: WatchOptions,
    /// Where each of `auth.operators` is written.
    pub operator_spots: Vec<Spot>,
    /// Scopes that they are limited to.
    pub operator_scopes: Vec<(ScopeName, Spot)>,
    pub base_currency: String,
    /// `None`: refused, so nothing can be said about values.
    pub base_scale: Option<u8>,
    pub currencies: Vec<CurrencyText>,
    pub accounts: Vec<AccountText>,
    pub strategies: Vec<StrategyText>,
    pub instruments: Vec<InstrumentText>,
    pub sessions: Vec<SessionText>,
}

impl FileText {
    /// Reads every section but `[limits]`, which stays in `root` to be asked for.
    pub fn read<'a>(root: &mut Reader<'a>) -> FileText {
        let errors = root.errors;
        let service = root.need("service", "the section [service] with state_dir is needed").and_then(|f| f.table());
        let (service, base_currency, base_scale) = read_service(service);
        let engine = read_engine(root.table("engine"));
        let ingest = read_ingest(root.table("ingest"));
        let gate = root.table("gate").map(read_gate);
        let http = read_http(root.table("http"));
        let (local, local_spots) = read_local(root.table("local"));
        let mut operator_scopes = Vec::new();
        let (auth, operator_spots) = read_auth(root.table("auth"), &mut operator_scopes);
        let journal = read_journal(root.table("journal"));
        let cancel = cancel::read(root.table("cancel"));
        let temporary = TemporaryText::read(root);
        let alerts = alerts::read(root.table("alerts"));
        let (mut watch, mut guard) = (WatchOptions::default(), Guard::default());
        if let Some(mut table) = root.table("guard") {
            watch = guard::read(&mut table);
            guard.attestation = read_attestation(&mut table);
            guard.preflight_at = read_preflight(&mut table);
            table.finish();
        }

        let mut currencies = Vec::new();
        each_named(root, "currencies", |name, field, mut table| {
            let rate = table.get("rate").and_then(|f| {
                let rate = f.amount(Event::FX_SCALE)?;
                if rate == 0 {
                    f.refuse("a rate must be positive");
                }
                (rate > 0).then_some(rate)
            });
            let max_age_ns = read_age(&mut table, "max_age", None);
            if name == base_currency {
                field.refuse("is the base currency: its rate is 1 and never stale");
            } else {
                currencies.push(CurrencyText { name, spot: field.spot.clone(), rate, max_age_ns });
            }
            table.finish();
        });

        let mut accounts = Vec::new();
        each_named(root, "accounts", |name, field, mut table| {
            let suspense = table.get("suspense").and_then(|f| f.boolean()).unwrap_or(false);
            accounts.push(AccountText { name, spot: field.spot.clone(), suspense });
            table.finish();
        });

        let mut strategies = Vec::new();
        each_named(root, "strategies", |name, field, mut table| {
            let account = table.need("account", "a strategy trades for one account");
            let account = account.and_then(|f| reference(&f));
            let instruments = table.get("instruments").and_then(|f| references(&f));
            let rules = ParentRule::ALL.map(|rule| (rule.name(), rule));
            let parents = table.get("parents").and_then(|f| Some((f.word(&rules)?, f.spot)));
            strategies.push(StrategyText { name, spot: field.spot.clone(), account, instruments, parents });
            table.finish();
        });

        let instruments = read_instruments(root, &base_currency);

        let mut sessions = Vec::new();
        each_named(root, "sessions", |name, field, mut table| {
            let kinds = SessionKind::ALL.map(|kind| (kind.name(), kind));
            let kind = table.need("kind", "ask, observe, reference or orders").and_then(|f| f.word(&kinds));
            let mut listed = Vec::new();
            if let Some(f) = table.get("strategies") {
                listed = references(&f).unwrap_or_default();
                if kind == Some(SessionKind::Reference) {
                    f.refuse("a reference session trades no strategy");
                } else if f.as_array().is_some_and(|list| list.is_empty()) {
                    f.refuse("lists no strategy: leave it out to allow all, or leave out the session");
                }
            }
            let cancel = cancel::read_session(&mut table, kind);
            let token = match table.get("token_hash") {
                Some(f) => f.hash(),
                None => {
                    // Nobody else connects as the session that rehearses: it gets a token at every start.
                    let rehearses = temporary.drill.as_ref().is_some_and(|drill| drill.session == name);
                    if !auth.tokens_at_runtime && !rehearses {
                        errors.missing(&table.spot, "token_hash", "a session needs one (see `haltline token`)");
                    }
                    None
                }
            };
            // A kind that was refused stops the start; here it only has to be something.
            let kind = kind.unwrap_or(SessionKind::Reference);
            sessions.push(SessionText { name, spot: field.spot.clone(), kind, strategies: listed, token, cancel });
            table.finish();
        });

        let file = FileText {
            section_spots: SECTIONS.map(|section| root.key_spot(section)),
            service,
            engine,
            ingest,
            gate,
            http,
            local,
            local_spots,
            auth,
            journal,
            guard,
            cancel,
            temporary,
            alerts,
            watch,
            operator_spots,
            operator_scopes,
            base_currency,
            base_scale,
            currencies,
            accounts,
            strategies,
            instruments,
            sessions,
        };
        file.check(errors, &root.spot);
        file
    }

    /// What only shows when all sections are read.
    fn check(&self, errors: &Errors<'_>, root: &Spot) {
        let currencies: HashMap<&str, &CurrencyText> = self.currencies.iter().map(|c| (&*c.name, c)).collect();
        for instrument in &self.instruments {
            let Some((name, spot)) = &instrument.currency else { continue };
            let foreign = currencies.get(&**name);
            if *name != self.base_currency && foreign.is_none() {
                errors.at(spot, format!("no such currency; [currencies.{name}] would declare it"));
            } else {
                self.check_conversion(errors, instrument, foreign.copied());
            }
        }
        let accounts: HashSet<&str> = self.accounts.iter().map(|a| &*a.name).collect();
        let strategies: HashSet<&str> = self.strategies.iter().map(|s| &*s.name).collect();
        let instruments: HashSet<&str> = self.instruments.iter().map(|i| &*i.name).collect();
        for strategy in &self.strategies {
            if let Some((name, spot)) = &strategy.account
                && !accounts.contains(&**name)
            {
                errors.at(spot, format!("no such account; [accounts.{name}] would declare it"));
            }
            for (name, spot) in strategy.instruments.iter().flatten() {
                if !instruments.contains(&**name) {
                    errors.at(spot, format!("no such instrument; [instruments.{name}] would declare it"));
                }
            }
        }
        for session in &self.sessions {
            for (name, spot) in &session.strategies {
                if !strategies.contains(&**name) {
                    errors.at(spot, format!("no such strategy; [strategies.{name}] would declare it"));
                }
            }
        }

        cancel::check(&self.sessions, errors);
        for strategy in &self.strategies {
            if let Some((rule, spot)) = &strategy.parents
                && *rule != ParentRule::Ignored
                && !self.has_orders_for(&strategy.name)
            {
                let rule = "no session of kind \"orders\" may send its parents, so every order that is held to one would be \
                            denied";
                errors.at(spot, rule);
            }
        }

        for (scope, spot) in self.operator_scopes.iter().chain(&self.local_spots.scopes) {
            let ScopeName { kind, name } = scope;
            let (section, known) = match kind.as_str() {
                "account" => ("accounts", accounts.contains(&**name)),
                "strategy" => ("strategies", strategies.contains(&**name)),
                "instrument" => ("instruments", instruments.contains(&**name)),
                "session" => ("sessions", self.sessions.iter().any(|session| session.name == *name)),
                _ => continue,
            };
            if !known {
                errors.at(spot, format!("no such {kind}; [{section}.{name}] would declare it"));
            }
        }

        let takes_certificates = self.http.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        if !self.auth.certificates.is_empty() && !takes_certificates {
            let auth = SECTIONS.iter().position(|section| *section == "auth").unwrap_or(0);
            let spot = Spot { span: self.section_spots[auth].span.clone(), path: "auth".to_owned() };
            let rule = "are never asked for: http.tls.client_ca has to say whose certificates are taken";
            errors.missing(&spot, "certificates", rule);
        }

        self.check_local(errors);
        self.temporary.check(errors, self);

        // The same token for two would let one act as the other.
        let mut owners: HashMap<[u8; 32], &str> = HashMap::new();
        let operators =
            self.auth.operators.iter().zip(&self.operator_spots).map(|(o, spot)| (Some(o.hash), &*o.name, spot));
        let sessions = self.sessions.iter().map(|s| (s.token, &*s.name, &s.spot));
        for (hash, name, spot) in operators.chain(sessions) {
            if let Some(hash) = hash
                && let Some(other) = owners.insert(hash, name)
            {
                errors.at(spot, format!("{name} has the same token as {other}"));
            }
        }

        let sizes = [
            ("currencies", self.currencies.len() + 1, Universe::MAX_SMALL),
            ("accounts", self.accounts.len(), Universe::MAX_SMALL),
            ("strategies", self.strategies.len(), Universe::MAX_SMALL),
            ("sessions", self.sessions.len(), Universe::MAX_SMALL),
            ("instruments", self.instruments.len(), Universe::MAX_INSTRUMENTS),
        ];
        for (section, len, max) in sizes {
            if len > max {
                errors.missing(root, section, format!("{len} are too many: at most {max}"));
            }
        }
        let pairs = self.strategies.len().saturating_mul(self.instruments.len());
        if pairs > Universe::MAX_PAIRS {
            let max = Universe::MAX_PAIRS;
            errors.missing(
                root,
                "strategies",
                format!("{pairs} combinations of strategy and instrument: at most {max}"),
            );
        }
    }

    /// Whether a session may send parents of `strategy`.
    fn has_orders_for(&self, strategy: &str) -> bool {
        self.sessions
            .iter()
            .filter(|s| s.kind == SessionKind::Orders)
            .any(|s| s.strategies.is_empty() || s.strategies.iter().any(|(name, _)| name == strategy))
    }

    /// Whether orders of `strategy` are held against parents: if nothing is written, all are where parents are sent at all.
    pub fn parents_of(&self, strategy: &StrategyText) -> ParentRule {
        let unwritten = || if self.has_orders_for(&strategy.name) { ParentRule::Required } else { ParentRule::Ignored };
        strategy.parents.as_ref().map_or_else(unwritten, |(rule, _)| *rule)
    }

    /// The paths of `[local]`, where they depend on the state directory.
    fn check_local(&self, errors: &Errors<'_>) {
        let (local, state_dir) = (&self.local, &self.service.state_dir);
        let socket = local.socket_for(state_dir);
        let bytes = socket.as_os_str().len();
        if bytes > Local::SOCKET_PATH_MAX {
            let max = Local::SOCKET_PATH_MAX;
            let rule = format!("{} has {bytes} bytes: the path of a socket has at most {max}", socket.display());
            match &self.local_spots.socket {
                Some(spot) => errors.at(spot, rule),
                None => {
                    let service = Spot { span: self.section_spots[0].span.clone(), path: "local".to_owned() };
                    errors.missing(&service, "socket", rule);
                }
            }
        }
        // The state directory is its owner's alone: who can write there can undo a halt.
        if let Some(spot) = &self.local_spots.group
            && local.group.is_some()
            && socket.starts_with(state_dir)
        {
            let rule = "cannot reach a socket in state_dir, which only the service's user may enter: set local.socket";
            errors.at(spot, rule);
        }
        if let Some(spot) = &self.local_spots.kill_file
            && local.kill_file.as_ref() == Some(&socket)
        {
            errors.at(spot, "is the socket");
        }
    }

    /// Whether the universe can be built at all: the bounds that [`Universe::new`] insists on.
    pub fn fits(&self) -> bool {
        let small = [self.currencies.len() + 1, self.accounts.len(), self.strategies.len(), self.sessions.len()];
        small.into_iter().all(|len| len <= Universe::MAX_SMALL)
            && self.instruments.len() <= Universe::MAX_INSTRUMENTS
            && self.strategies.len() * self.instruments.len() <= Universe::MAX_PAIRS
    }

    /// A value in base units must be possible: at the rate that is known, and for another currency at a
    /// rate that uses all ten places, since such a one will come.
    fn check_conversion(&self, errors: &Errors<'_>, instrument: &InstrumentText, foreign: Option<&CurrencyText>) {
        let (Some(base), Some(px), Some(qty), Some(multiplier)) =
            (self.base_scale, instrument.px_scale, instrument.qty_scale, instrument.multiplier)
        else {
            return;
        };
        let works = |rate: (i64, u8)| Conversion::new(multiplier, rate, px, qty, base).is_some();
        let one = 10i64.pow(u32::from(Event::FX_SCALE));
        let works = match foreign {
            None => works((1, 0)),
            Some(currency) => {
                works((one + 1, Event::FX_SCALE)) && works((currency.rate.unwrap_or(one), Event::FX_SCALE))
            }
        };
        if !works {
            let rule = "its value cannot be represented in base units: fewer digits in multiplier, fewer places in \
                        px_scale or qty_scale, or more in base_scale";
            errors.at(&instrument.spot, rule);
        }
    }
}

fn read_service(table: Option<Reader<'_>>) -> (Service, String, Option<u8>) {
    let Some(mut table) = table else {
        return (Service { state_dir: PathBuf::new() }, "USD".into(), Some(4));
    };
    let state_dir = table.need("state_dir", "the directory of latch and journal (see `haltline init`)");
    let state_dir = state_dir.and_then(|f| {
        let text = f.string()?;
        if text.is_empty() {
            f.refuse("must not be empty");
        }
        Some(PathBuf::from(text))
    });
    let base_currency = table.get("base_currency").map_or(Some("USD".into()), |f| reference(&f).map(|(name, _)| name));
    let base_scale = read_scale(&mut table, "base_scale", 8, Some(4));
    table.finish();
    (Service { state_dir: state_dir.unwrap_or_default() }, base_currency.unwrap_or_else(|| "USD".into()), base_scale)
}

fn read_engine(table: Option<Reader<'_>>) -> EngineOptions {
    let Some(mut table) = table else { return EngineOptions::default() };
    let default = Sizing::default();
    let mut size = |key, default: usize| {
        let read = table.get(key).and_then(|f| f.integer(1, 1 << 27));
        read.map_or(default, |n| n as usize)
    };
    let sizing = Sizing {
        working_orders: size("working_orders", default.working_orders),
        remembered_orders: size("remembered_orders", default.remembered_orders),
        execs: size("execs", default.execs),
        pairs: size("pairs", default.pairs),
        recent_orders: size("recent_orders", default.recent_orders),
        parents: size("parents", default.parents),
    };
    let prefault = table.get("prefault").and_then(|f| f.boolean()).unwrap_or(EngineOptions::default().prefault);
    let (spin, nap) = match Idle::default() {
        Idle::Nap { spin, nap } => (spin, nap),
        Idle::Spin | Idle::Yield => (Duration::ZERO, Duration::ZERO),
    };
    let kind = table.get("idle").and_then(|f| f.word(&[("nap", 0u8), ("yield", 1), ("spin", 2)])).unwrap_or(0);
    let mut span = |key, default: Duration, max| match table.get(key) {
        None => default,
        Some(f) => {
            if kind != 0 {
                f.refuse("means something only with idle = \"nap\"");
            }
            f.duration(0, max).map_or(default, Duration::from_nanos)
        }
    };
    let (spin, nap) = (span("spin", spin, 1_000_000_000), span("nap", nap, 10_000_000));
    table.finish();
    let idle = match kind {
        0 => Idle::Nap { spin, nap },
        1 => Idle::Yield,
        _ => Idle::Spin,
    };
    EngineOptions { idle, sizing, prefault }
}

/// The address, and where it is written if other machines can reach it and may.
fn read_listen<'a>(table: &mut Reader<'a>, default_port: u16) -> (SocketAddr, Option<Field<'a>>) {
    let allow_remote = table.get("allow_remote").and_then(|f| f.boolean()).unwrap_or(false);
    let default = SocketAddr::from((Ipv4Addr::LOCALHOST, default_port));
    let Some(field) = table.get("listen") else { return (default, None) };
    let Some(listen) = field.socket() else { return (default, None) };
    if listen.ip().is_loopback() {
        return (listen, None);
    }
    if !allow_remote {
        field.refuse("can be reached from other machines: write allow_remote = true here if that is meant");
        return (listen, None);
    }
    (listen, Some(field))
}

fn read_ingest(table: Option<Reader<'_>>) -> Ingest {
    let Some(mut table) = table else { return Ingest::default() };
    let (listen, _) = read_listen(&mut table, Ingest::PORT);
    let max_connections = table.get("max_connections").and_then(|f| f.integer(1, 65_536));
    let max_connections = max_connections.map_or(Ingest::CONNECTIONS, |n| n as usize);
    let mut allowed_origins = Vec::new();
    for (origin, field) in table.get("allowed_origins").and_then(|f| f.strings()).unwrap_or_default() {
        let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
        if host.is_none_or(|host| host.is_empty() || host.contains(['/', '*', ' '])) {
            field.refuse("must be an origin such as https://console.example.com, without a path");
        }
        allowed_origins.push(origin.to_owned());
    }
    table.finish();
    Ingest { listen, max_connections, allowed_origins }
}

fn read_gate(mut table: Reader<'_>) -> Gate {
    let default = Gate::default();
    let dir = table.get("dir").and_then(|f| {
        let text = f.string()?;
        if !text.starts_with('/') {
            f.refuse("must be an absolute path: gateways go by it, too");
        }
        // A socket's path has 107 bytes.
        if text.len() > 96 {
            f.refuse("must not be longer than 96 bytes");
        }
        Some(PathBuf::from(text))
    });
    let socket_mode =
        table.get("socket_mode").and_then(|f| f.word(&[("owner", 0o600), ("group", 0o660), ("everybody", 0o666)]));
    let mut span = |key, default: Duration, max| {
        table
            .get(key)
            .and_then(|f| Some((f.duration(1_000_000, max)?, f)))
            .map_or((default, None), |(ns, f)| (Duration::from_nanos(ns), Some(f)))
    };
    let (lease, _) = span("lease", default.lease, 10_000_000_000);
    let (lag, lag_field) = span("lag", default.lag.min(lease), 10_000_000_000);
    if let Some(field) = lag_field
        && lag > lease
    {
        field.refuse("must not be longer than the lease");
    }
    let mut places = |key, default| {
        table.get(key).map_or(default, |f| {
            let places = f.integer(16, 1 << 20).map_or(default, |n| n as u32);
            if !places.is_power_of_two() {
                f.refuse("must be a power of two");
            }
            places
        })
    };
    let events = places("events", default.options.events);
    let verdicts = places("verdicts", default.options.verdicts);
    let slots = table.get("slots").and_then(|f| f.integer(1, 1024)).map_or(default.options.slots, |n| n as u32);
    table.finish();
    let options = GateOptions { slots, events, verdicts };
    Gate { dir, socket_mode: socket_mode.unwrap_or(default.socket_mode), lease, lag, options }
}

fn read_http(table: Option<Reader<'_>>) -> Http {
    let Some(mut table) = table else { return Http::default() };
    let (listen, remote) = read_listen(&mut table, Http::PORT);
    let insecure = table.get("insecure").and_then(|f| f.boolean()).unwrap_or(false);
    let tls = table.table("tls").map(|mut tls| {
        let mut path = |key, what| tls.need(key, what).and_then(|f| read_path(&f)).unwrap_or_default();
        let certificate = path("certificate", "the file of the server's certificate and those above it, PEM");
        let key = path("key", "the file of its private key, PEM");
        let client_ca = tls.get("client_ca").and_then(|f| read_path(&f));
        tls.finish();
        TlsFiles { certificate, key, client_ca }
    });
    if let Some(field) = remote
        && tls.is_none()
        && !insecure
    {
        field.refuse("would send tokens where others can read them: give it [http.tls], or write insecure = true here");
    }
    let streams = table.get("streams").and_then(|f| f.integer(0, 200)).map_or(Http::STREAMS, |n| n as usize);
    let every = table.get("stream_every").and_then(|f| f.duration(100_000_000, 1_000_000_000));
    table.finish();
    Http { listen, tls, streams, stream_every: every.map_or(Http::STREAM_EVERY, Duration::from_nanos) }
}

fn read_journal(table: Option<Reader<'_>>) -> Journal {
    let mut journal = Journal::default();
    let Some(mut table) = table else { return journal };
    let truth = |field: Option<Field<'_>>, default| field.and_then(|f| f.boolean()).unwrap_or(default);
    journal.enabled = truth(table.get("enabled"), journal.enabled);
    journal.durable_before_verdict = truth(table.get("durable_before_verdict"), journal.durable_before_verdict);
    if let Some(ns) = table.get("sync_window").and_then(|f| f.duration(100_000, 10_000_000_000)) {
        journal.sync_window = Duration::from_nanos(ns);
    }
    if let Some(ns) = table.get("grace").and_then(|f| f.duration(10_000_000, 3_600_000_000_000)) {
        journal.grace = Duration::from_nanos(ns);
    }
    if let Some(bytes) = table.get("segment_bytes").and_then(|f| f.integer(65_536, 1 << 34)) {
        journal.segment_bytes = bytes as u64;
    }
    if let Some(cells) = table.get("ring_cells").and_then(|f| f.integer(4_096, 1 << 28)) {
        journal.ring_cells = cells as u64;
    }
    if let Some(segments) = table.get("snapshot_segments").and_then(|f| f.integer(0, 1 << 20)) {
        journal.snapshot_segments = (segments > 0).then_some(segments as u64);
    }
    let most = 36_500 * 86_400_000_000_000;
    if let Some(keep) = table.get("keep").and_then(|f| f.duration_or_unlimited(1_000_000, most)) {
        journal.keep = keep.map(Duration::from_nanos);
    }
    let mut path = |key| {
        let field = table.get(key)?;
        let text = field.string()?;
        if text.is_empty() {
            field.refuse("must not be empty");
        }
        Some(PathBuf::from(text))
    };
    journal.ring_dir = path("ring_dir").unwrap_or(journal.ring_dir);
    journal.heads = path("heads");
    table.finish();
    journal
}

fn read_path(field: &Field<'_>) -> Option<PathBuf> {
    let text = field.string()?;
    if text.is_empty() || text.contains('\0') {
        field.refuse("must be the path of a file");
        return None;
    }
    Some(PathBuf::from(text))
}

fn read_local(table: Option<Reader<'_>>) -> (Local, LocalSpots) {
    let (mut local, mut spots) = (Local::default(), LocalSpots::default());
    let Some(mut table) = table else { return (local, spots) };
    let mut path = |key, spot: &mut Option<Spot>| {
        let field = table.get(key)?;
        *spot = Some(field.spot.clone());
        read_path(&field)
    };
    local.socket = path("socket", &mut spots.socket);
    local.kill_file = path("kill_file", &mut spots.kill_file);
    local.group = table.get("group").and_then(|f| {
        spots.group = Some(f.spot.clone());
        let name = f.string()?;
        match name.parse() {
            Ok(gid) => Some(Group::Gid(gid)),
            Err(_) if is_name(name) => Some(Group::Name(name.to_owned())),
            Err(_) => {
                f.refuse("must be the name of a group, or its number in quotes");
                None
            }
        }
    });
    for field in table.get("operators").and_then(|f| f.array()).unwrap_or_default() {
        let Some(mut entry) = field.table() else { continue };
        let uid = entry.need("uid", "which user of this machine").and_then(|f| {
            let uid = f.integer(0, i64::from(u32::MAX) - 1)? as u32;
            if uid == Local::UID_OF_ANYBODY {
                f.refuse("is what the kernel shows for every user whom it cannot name: that could be anybody");
            } else if local.operators.iter().any(|o| o.uid == uid) {
                f.refuse("is listed twice");
            }
            Some(uid)
        });
        let name = entry.need("name", "who that is").and_then(|f| reference(&f));
        let role = entry.need("role", "viewer, operator or risk").and_then(|f| f.word(&ROLES));
        let scopes = read_scopes(&mut entry, &mut spots.scopes);
        if let (Some(uid), Some((name, _)), Some(role)) = (uid, name, role) {
            local.operators.push(LocalOperator { uid, name, role, scopes });
        }
        entry.finish();
    }
    table.finish();
    (local, spots)
}

const ROLES: [(&str, Role); 3] =
    [(Role::Viewer.name(), Role::Viewer), (Role::Operator.name(), Role::Operator), (Role::Risk.name(), Role::Risk)];

/// The scopes that can be halted, so re-armed.
const HALTABLE: [(&str, ScopeKind); 5] = [
    ("firm", ScopeKind::Firm),
    ("account", ScopeKind::Account),
    ("strategy", ScopeKind::Strategy),
    ("instrument", ScopeKind::Instrument),
    ("session", ScopeKind::Session),
];

fn read_auth(table: Option<Reader<'_>>, scopes_read: &mut Vec<(ScopeName, Spot)>) -> (Auth, Vec<Spot>) {
    let mut auth = Auth::default();
    let mut spots = Vec::new();
    let Some(mut table) = table else { return (auth, spots) };
    auth.tokens_at_runtime = table.get("tokens_at_runtime").and_then(|f| f.boolean()).unwrap_or(false);
    for field in table.get("tokens").and_then(|f| f.array()).unwrap_or_default() {
        let Some(mut entry) = field.table() else { continue };
        let name = entry.need("name", "whose token it is").and_then(|f| reference(&f));
        let role = entry.need("role", "viewer, operator or risk").and_then(|f| f.word(&ROLES));
        let hash = entry.need("hash", "the token's hash (see `haltline token`)").and_then(|f| f.hash());
        let scopes = read_scopes(&mut entry, scopes_read);
        if let (Some((name, spot)), Some(role), Some(hash)) = (name, role, hash) {
            if auth.operators.iter().any(|o| o.name == name) {
                table.errors.at(&spot, "is used by another token: two people must have two names");
            }
            auth.operators.push(Operator { name, role, scopes, hash });
            spots.push(field.spot.clone());
        }
        entry.finish();
    }
    for field in table.get("certificates").and_then(|f| f.array()).unwrap_or_default() {
        let Some(mut entry) = field.table() else { continue };
        let text = |f: Field<'_>| f.string().map(str::to_owned).filter(|text| !text.is_empty());
        let subject = entry.get("subject").and_then(text).map(CertificateBy::Subject);
        let san = entry.get("san").and_then(text).map(CertificateBy::Alternative);
        let name = entry.need("name", "whose certificate it is").and_then(|f| reference(&f));
        let role = entry.need("role", "viewer, operator or risk").and_then(|f| f.word(&ROLES));
        let scopes = read_scopes(&mut entry, scopes_read);
        match (subject, san) {
            (Some(by), None) | (None, Some(by)) => {
                if auth.certificates.iter().any(|c| c.by == by) {
                    field.refuse("names a certificate that another entry names");
                }
                if let (Some((name, _)), Some(role)) = (name, role) {
                    auth.certificates.push(Certified { by, caller: Caller { name, role, scopes } });
                }
            }
            (None, None) | (Some(_), Some(_)) => {
                field.refuse("needs either subject, such as \"CN=alice,O=Desk\", or san, one of its alternative names");
            }
        }
        entry.finish();
    }
    if let Some(field) = table.get("two_person_rearm") {
        auth.two_person_rearm =
            field.array().unwrap_or_default().iter().filter_map(|kind| kind.word(&HALTABLE)).collect();
    }
    if let Some(ns) = table.get("rearm_expiry").and_then(|f| f.duration(1_000_000_000, 86_400_000_000_000)) {
        auth.rearm_expiry = Duration::from_nanos(ns);
    }
    if let Some(ns) = table.get("login_lifetime").and_then(|f| f.duration(60_000_000_000, WEEK_NS)) {
        auth.login_lifetime = Duration::from_nanos(ns);
    }
    table.finish();
    (auth, spots)
}

/// Scopes that a role is limited to, such as `["strategy:alpha"]`; all of them also go to `read`, with their places.
fn read_scopes(entry: &mut Reader<'_>, read: &mut Vec<(ScopeName, Spot)>) -> Scopes {
    let Some(field) = entry.get("scopes") else { return Scopes::EVERYTHING };
    let mut list = Vec::new();
    if field.as_array().is_some_and(|scopes| scopes.is_empty()) {
        field.refuse("lists no scope: leave it out to allow all");
    }
    for (text, field) in field.strings().unwrap_or_default() {
        let (kind, name) = text.split_once(':').unwrap_or((text, ""));
        let known = HALTABLE.iter().any(|(word, _)| *word == kind);
        if !known || (kind == "firm") != name.is_empty() {
            field.refuse("must be firm, account:NAME, strategy:NAME, instrument:NAME or session:NAME");
            continue;
        }
        let scope = ScopeName { kind: kind.to_owned(), name: name.to_owned() };
        read.push((scope.clone(), field.spot.clone()));
        list.push(scope);
    }
    Scopes::only(list)
}

/// Every table of `section`, whose keys are names.
fn each_named<'a>(root: &mut Reader<'a>, section: &'static str, mut each: impl FnMut(String, Field<'a>, Reader<'a>)) {
    let Some(section) = root.table(section) else { return };
    for (name, field) in section.entries() {
        if !is_name(name) {
            section.errors.at(&section.key_spot(name), NAME_RULE);
        }
        if let Some(table) = field.table() {
            each(name.to_owned(), field, table);
        }
    }
}

pub(super) fn reference(field: &Field<'_>) -> Option<Reference> {
    let name = field.string()?;
    if !is_name(name) {
        field.refuse(NAME_RULE);
        return None;
    }
    Some((name.to_owned(), field.spot.clone()))
}

fn references(field: &Field<'_>) -> Option<Vec<Reference>> {
    let list: Vec<Reference> = field.array()?.iter().filter_map(reference).collect();
    let mut seen = HashSet::new();
    for (name, spot) in &list {
        if !seen.insert(name) {
            field.errors.at(spot, "is listed twice");
        }
    }
    Some(list)
}

fn read_age(table: &mut Reader<'_>, key: &'static str, default: Option<Field<'_>>) -> u64 {
    let field = table.get(key).or_else(|| default.clone());
    match field.map(|f| f.duration_or_unlimited(SHORTEST_NS, WEEK_NS)) {
        None | Some(None) => DEFAULT_AGE_NS,
        Some(Some(None)) => ANY_AGE,
        Some(Some(Some(ns))) => ns,
    }
}

fn read_scale(table: &mut Reader<'_>, key: &'static str, max: i64, default: Option<u8>) -> Option<u8> {
    match table.get(key) {
        None => default,
        Some(f) => f.integer(0, max).map(|n| n as u8),
    }
}

/// The keys that `[instrument_defaults]` may have.
const DEFAULTED: [&str; 7] =
    ["currency", "px_scale", "qty_scale", "multiplier", "negative_px", "average_daily_volume", "reference_max_age"];

fn read_instruments(root: &mut Reader<'_>, base_currency: &str) -> Vec<InstrumentText> {
    let mut defaults: HashMap<&'static str, Field<'_>> = HashMap::new();
    if let Some(mut table) = root.table("instrument_defaults") {
        for key in DEFAULTED {
            if let Some(field) = table.get(key) {
                defaults.insert(key, field);
            }
        }
        table.finish();
    }
    let mut list = Vec::new();
    each_named(root, "instruments", |name, field, mut table| {
        list.push(read_instrument(name, &field.spot, &mut table, &defaults, base_currency));
        table.finish();
    });
    if let Some(field) = root.get("instrument_series") {
        let tables = field.as_array().unwrap_or_else(|| vec![field.clone()]);
        for field in tables {
            let Some(mut table) = field.table() else { continue };
            let prefix = table.need("prefix", "what the names begin with").and_then(|f| reference(&f));
            let count = table.need("count", "how many instruments there are");
            let count = count.and_then(|f| f.integer(1, Universe::MAX_INSTRUMENTS as i64));
            let width = table.get("width").map_or(Some(1), |f| f.integer(1, 8));
            let one = read_instrument(String::new(), &field.spot, &mut table, &defaults, base_currency);
            table.finish();
            let (Some((prefix, spot)), Some(count), Some(width)) = (prefix, count, width) else { continue };
            let last = count - 1;
            if !is_name(&format!("{prefix}{last:0width$}", width = width as usize)) {
                root.errors.at(&spot, NAME_RULE);
                continue;
            }
            // Larger than the bound in all: reported once, and not built.
            if list.len() + count as usize > Universe::MAX_INSTRUMENTS {
                field.refuse(format!("makes more than {} instruments", Universe::MAX_INSTRUMENTS));
                continue;
            }
            for n in 0..count {
                let name = format!("{prefix}{n:0width$}", width = width as usize);
                list.push(InstrumentText { name, ..one.clone() });
            }
        }
        let mut seen = HashSet::new();
        list.retain(|instrument: &InstrumentText| {
            let new = seen.insert(instrument.name.clone());
            if !new {
                root.errors.at(&instrument.spot, "makes an instrument that is declared already");
            }
            new
        });
    }
    list
}

fn read_instrument(
    name: String,
    spot: &Spot,
    table: &mut Reader<'_>,
    defaults: &HashMap<&'static str, Field<'_>>,
    base_currency: &str,
) -> InstrumentText {
    let errors = table.errors;
    let currency = match table.get("currency") {
        Some(f) => reference(&f),
        None => match defaults.get("currency") {
            Some(f) => reference(f),
            None => Some((base_currency.to_owned(), spot.clone())),
        },
    };
    let mut scale = |key| {
        let own = table.get(key);
        let Some(field) = own.as_ref().or(defaults.get(key)) else {
            errors.missing(&table.spot, key, "the decimal places are needed here or in [instrument_defaults]");
            return None;
        };
        field.integer(0, 12).map(|n| n as u8)
    };
    let (px_scale, qty_scale) = (scale("px_scale"), scale("qty_scale"));
    let own = table.get("multiplier");
    let multiplier = own.as_ref().or(defaults.get("multiplier")).map_or(Some((1, 0)), |f| {
        let parts = f.decimal()?.parts();
        match parts {
            Ok((mantissa, places)) if mantissa > 0 && places <= 12 => Some((mantissa, places)),
            Ok(_) => {
                f.refuse("must be positive and have at most 12 decimal places");
                None
            }
            Err(error) => {
                f.refuse(error.rule());
                None
            }
        }
    });
    let own = table.get("negative_px");
    let negative_px = own.as_ref().or(defaults.get("negative_px")).and_then(|f| f.boolean()).unwrap_or(false);
    let own = table.get("average_daily_volume");
    let average_daily_volume = own.as_ref().or(defaults.get("average_daily_volume")).and_then(|f| {
        let volume = f.decimal()?;
        let volume = f.amount_of(&volume, qty_scale?)?;
        if volume == 0 {
            f.refuse("must be positive; leave it out if it is not known");
        }
        (volume > 0).then_some(Qty(volume))
    });
    let reference_px = table.get("reference").and_then(|f| {
        let px = match f.decimal()?.at(px_scale?) {
            Ok(px) => px,
            Err(DecimalError::TooPrecise) => {
                f.refuse(format!("has more decimal places than px_scale = {}", px_scale?));
                return None;
            }
            Err(error) => {
                f.refuse(error.rule());
                return None;
            }
        };
        if px <= 0 && !negative_px {
            f.refuse("must be positive: negative_px is not set");
        }
        Some(Px(px))
    });
    let reference_max_age_ns = read_age(table, "reference_max_age", defaults.get("reference_max_age").cloned());
    let restricted = table.get("restricted").and_then(|f| f.boolean()).unwrap_or(false);
    InstrumentText {
        name,
        spot: spot.clone(),
        currency,
        px_scale,
        qty_scale,
        multiplier,
        negative_px,
        average_daily_volume,
        reference: reference_px,
        reference_max_age_ns,
        restricted,
    }
}
