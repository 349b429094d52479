//! The configuration: TOML text in, everything that the process is built from out, or every violation at once.
//!
//! The text is read key by key (`reader`), so that one mistake does not hide the next; then relations
//! between sections are checked; then names become the [`Universe`] and limits the [`LimitTable`]. Nothing
//! downstream sees the text. Every key is explained in `config/haltline.toml`.
//!
//! There are no other sources (no environment, no includes): what is not in the file has the default that
//! the types here document.

mod alerts;
mod attestation;
mod cancel;
mod file;
mod guard;
mod limits;
mod print;
mod reader;
mod temporary;
mod violation;

#[cfg(test)]
mod tests;

use core::fmt;
use core::net::{Ipv4Addr, SocketAddr};
use core::time::Duration;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::DeTable;

pub use self::alerts::AlertsSection;
pub use self::attestation::{Attestation, Guard, SignedFile};
use self::file::FileText;
use self::limits::LimitText;
use self::reader::Reader;
pub use self::temporary::{
    Drill, LimitsApi, OVERLAY_BYTES, OVERLAYS_MAX, Overrides, Probation, Ramp, Rearm, Timed, with_overlays,
};
use self::temporary::{OverlayText, bind, build_ceilings, read_ceilings, read_overlays};
use self::violation::{Errors, Spot};
pub use self::violation::{Violation, Violations};
use crate::api::LOGIN_LASTS;
pub use crate::api::tls::TlsFiles;
pub use crate::api::{CertificateBy, Certified, Role, Scopes};
use crate::duty::Idle;
use crate::engine::core::Sizing;
use crate::guard::watch::WatchOptions;
use crate::ingest::gates::GateOptions;
use crate::limits::LimitTable;
use crate::model::universe::{AccountSpec, CurrencySpec, StrategySpec};
use crate::model::{InstrumentSpec, ScopeKind, SessionSpec, Universe};
use crate::units::{AccountId, CurrencyId, Px, StrategyId};

/// Section `[service]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Where latch and journal live. Relative to the directory that the process starts in.
    pub state_dir: PathBuf,
}

/// Section `[engine]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// What the engine's thread does without work.
    pub idle: Idle,
    /// How large its tables are.
    pub sizing: Sizing,
    /// Whether their memory is taken at the start, not at its first use. See [`Engine::prefault`](crate::engine::core::Engine::prefault).
    pub prefault: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions { idle: Idle::default(), sizing: Sizing::default(), prefault: true }
    }
}

/// Section `[ingest]`: the WebSocket listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingest {
    /// Address; loopback unless the file says `allow_remote`.
    pub listen: SocketAddr,
    /// The most connections at once.
    pub max_connections: usize,
    /// Values of the `Origin` header that are let in; a client without the header (not a browser) always is.
    pub allowed_origins: Vec<String>,
}

/// Section `[gate]`: gateways on this host. Without it there are none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// Where the halt page and the socket lie: on a file system in memory. `None`: `/dev/shm/haltline-` and a hash of the state
    /// directory's path.
    pub dir: Option<PathBuf>,
    /// Permissions of the socket: who may attach, if the token is right.
    pub socket_mode: u32,
    /// How long gates go on without hearing from the engine.
    pub lease: Duration,
    /// How late the engine may be and still let them.
    pub lag: Duration,
    /// Sizes of what each gateway shares with haltline.
    pub options: GateOptions,
}

impl Default for Gate {
    fn default() -> Self {
        Gate {
            dir: None,
            socket_mode: 0o600,
            lease: Duration::from_millis(100),
            lag: Duration::from_millis(20),
            options: GateOptions { slots: 64, events: 4096, verdicts: 4096 },
        }
    }
}

impl Gate {
    /// The directory of page and socket, for the state directory `state_dir`.
    #[must_use]
    pub fn dir(&self, state_dir: &Path) -> PathBuf {
        self.dir.clone().unwrap_or_else(|| {
            let state_dir = std::path::absolute(state_dir).unwrap_or_else(|_| state_dir.to_owned());
            let hash = blake3::hash(state_dir.as_os_str().as_encoded_bytes()).to_hex();
            Path::new("/dev/shm").join(format!("haltline-{}", &hash[..16]))
        })
    }

    /// The halt page in `dir`.
    #[must_use]
    pub fn page(dir: &Path) -> PathBuf {
        dir.join("page")
    }

    /// The socket in `dir`.
    #[must_use]
    pub fn socket(dir: &Path) -> PathBuf {
        dir.join("gate.sock")
    }
}

impl Ingest {
    /// The port where nothing is said.
    pub const PORT: u16 = 7401;
    /// The connections where nothing is said.
    pub const CONNECTIONS: usize = 1024;
}

impl Default for Ingest {
    fn default() -> Self {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, Ingest::PORT));
        Ingest { listen, max_connections: Ingest::CONNECTIONS, allowed_origins: Vec::new() }
    }
}

/// Section `[http]`: kill, re-arm, state, metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// Address; loopback unless the file says `allow_remote`.
    pub listen: SocketAddr,
    /// Section `[http.tls]`; without it plain HTTP is spoken, on loopback only unless the file says `insecure`.
    pub tls: Option<TlsFiles>,
    /// Streams of live state at once, per door.
    pub streams: usize,
    /// The shortest time between two events of a stream.
    pub stream_every: Duration,
}

impl Http {
    /// The port where nothing is said.
    pub const PORT: u16 = 7402;
    /// The streams where nothing is said.
    pub const STREAMS: usize = 32;
    /// The time between events where nothing is said.
    pub const STREAM_EVERY: Duration = Duration::from_millis(100);
}

impl Default for Http {
    fn default() -> Self {
        Http {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, Http::PORT)),
            tls: None,
            streams: Http::STREAMS,
            stream_every: Http::STREAM_EVERY,
        }
    }
}

/// Section `[local]`: kill, re-arm and state without the network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Local {
    /// The Unix socket, if it is not [`Loaded::control_socket`]'s default.
    pub socket: Option<PathBuf>,
    /// The group that may connect to it besides the service's own user.
    pub group: Option<Group>,
    /// Users who may call over the socket, besides the service's own and root.
    pub operators: Vec<LocalOperator>,
    /// While this file exists the firm is halted.
    pub kill_file: Option<PathBuf>,
}

impl Local {
    /// The name of the socket in the state directory where nothing is said.
    pub const SOCKET: &str = "control.sock";
    /// The most bytes that the path of a Unix socket may have.
    pub const SOCKET_PATH_MAX: usize = 107;
    /// What the kernel shows for a user whom it cannot name here (of another user namespace): it could be anybody.
    pub const UID_OF_ANYBODY: u32 = 65_534;

    /// The socket of a service whose state is in `state_dir`.
    fn socket_for(&self, state_dir: &Path) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| state_dir.join(Local::SOCKET))
    }
}

/// A group of users of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Group {
    /// By its number.
    Gid(u32),
    /// By its name in `/etc/group`.
    Name(String),
}

/// A user of this machine who may call over the local socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalOperator {
    /// Who, to the kernel.
    pub uid: u32,
    /// Who, to the audit. The same name at a token is the same person.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// Where they may do it.
    pub scopes: Scopes,
}

/// A person (or a program) with a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// Who: what the audit shows.
    pub name: String,
    /// What the token allows.
    pub role: Role,
    /// Where it allows it.
    pub scopes: Scopes,
    /// BLAKE3 of the token's text. The token itself is nowhere.
    pub hash: [u8; 32],
}

/// Section `[auth]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// Persons. May be empty: then nobody can use the HTTP interface.
    pub operators: Vec<Operator>,
    /// Persons who are known by the certificate of their connection.
    pub certificates: Vec<Certified>,
    /// Kinds of scope whose re-arm needs a second person. Firm unless said otherwise.
    pub two_person_rearm: Vec<ScopeKind>,
    /// How long the first person's re-arm waits for the second.
    pub rearm_expiry: Duration,
    /// How long a login over the console lasts.
    pub login_lifetime: Duration,
    /// Whether sessions may be without `token_hash`, because whoever starts the service supplies tokens.
    pub tokens_at_runtime: bool,
}

impl Auth {
    /// Where re-arming, and so raising a limit, needs a second person, by [`ScopeKind`].
    #[must_use]
    pub fn two_people(&self) -> [bool; ScopeKind::ALL.len()] {
        let mut two_people = [false; ScopeKind::ALL.len()];
        for kind in &self.two_person_rearm {
            two_people[*kind as usize] = true;
        }
        two_people
    }
}

impl Default for Auth {
    fn default() -> Self {
        Auth {
            operators: Vec::new(),
            certificates: Vec::new(),
            two_person_rearm: vec![ScopeKind::Firm],
            rearm_expiry: Duration::from_secs(600),
            login_lifetime: LOGIN_LASTS,
            tokens_at_runtime: false,
        }
    }
}

/// Section `[journal]`: what is recorded for recovery, replay and audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journal {
    /// Whether there is one. Without it positions are not known after a restart.
    pub enabled: bool,
    /// How long what was decided may wait for its sync: what a power loss can take, besides the sync's own time.
    pub sync_window: Duration,
    /// Whether verdicts wait until what they came of is on disk.
    pub durable_before_verdict: bool,
    /// How long the disk may fail before new flow is denied.
    pub grace: Duration,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Cells of 64 bytes that may wait for the disk. More are taken if there are many scopes.
    pub ring_cells: u64,
    /// Where the ring's file is made. It need only survive the process, so best in memory.
    pub ring_dir: PathBuf,
    /// A second place for the journal's heads: a file that a line is appended to at every checkpoint.
    pub heads: Option<PathBuf>,
    /// A snapshot is made after so many segments; `None`: none is made.
    pub snapshot_segments: Option<u64>,
    /// How long segments that snapshots stand for are kept; `None`: for ever.
    pub keep: Option<Duration>,
}

impl Default for Journal {
    fn default() -> Self {
        Journal {
            enabled: true,
            sync_window: Duration::from_millis(5),
            durable_before_verdict: false,
            grace: Duration::from_secs(1),
            segment_bytes: 64 << 20,
            ring_cells: 1 << 20,
            ring_dir: PathBuf::from("/dev/shm"),
            heads: None,
            snapshot_segments: Some(4),
            keep: None,
        }
    }
}

/// Something that is allowed and still worth a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The key or section that it is about.
    pub field: String,
    /// What is worth knowing.
    pub text: String,
}

/// A configuration without violations, in the form that the process is built from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// All names.
    pub universe: Arc<Universe>,
    /// All limits, generation 1.
    pub limits: LimitTable,
    /// State directory.
    pub service: Service,
    /// Engine thread and table sizes.
    pub engine: EngineOptions,
    /// WebSocket listener.
    pub ingest: Ingest,
    /// Section `[gate]`.
    pub gate: Option<Gate>,
    /// HTTP listener.
    pub http: Http,
    /// Local socket and kill file.
    pub local: Local,
    /// Persons and re-arming.
    pub auth: Auth,
    /// What is recorded, and where.
    pub journal: Journal,
    /// What looks at deployments.
    pub guard: Guard,
    /// Section `[overrides]`.
    pub overrides: Overrides,
    /// Section `[limits_api]`.
    pub limits_api: LimitsApi,
    /// Section `[rearm]`.
    pub rearm: Rearm,
    /// Section `[drill]`; `None`: there is no session to rehearse with.
    pub drill: Option<Drill>,
    /// Section `[ramp]`; `None`: new builds start with all that is configured.
    pub ramp: Option<Ramp>,
    /// What overrides may reach at most, if `[ceilings]` says.
    pub ceilings: Option<LimitTable>,
    /// The overlays that `limits` has over what is configured: only of a text that a service wrote.
    pub overlays: Vec<Timed>,
    /// Who owns alerts, what happens when nobody answers.
    pub alerts: AlertsSection,
    /// Sections `[guard.signatures]` and `[guard.peers]`.
    pub watch: WatchOptions,
    /// BLAKE3 of each session's token, by [`SessionId`](crate::units::SessionId). `None` only with
    /// [`Auth::tokens_at_runtime`]: such a session cannot connect until it is given one.
    pub session_tokens: Vec<Option<[u8; 32]>>,
    /// BLAKE3 of the text.
    pub hash: [u8; 32],
    /// The text: the journal keeps it, so that it can be replayed without any other file.
    pub text: Arc<str>,
    /// What is allowed and still worth a look.
    pub notes: Vec<Note>,
}

impl Loaded {
    /// The path of the local socket: `control.sock` in the state directory unless the file says otherwise.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.local.socket_for(&self.service.state_dir)
    }
}

/// Nanoseconds of a span of time such as `"250ms"`, as the file writes them.
#[must_use]
pub fn parse_span(text: &str) -> Option<u64> {
    reader::parse_duration(text)
}

/// The ways into a running service, as far as its file tells them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Doors {
    /// The path of the local socket.
    pub socket: Option<PathBuf>,
    /// The HTTP listener's address.
    pub http: Option<SocketAddr>,
    /// Whether TLS is spoken there.
    pub tls: bool,
    /// The file that halts the firm.
    pub kill_file: Option<PathBuf>,
    /// The file of the halt page, if gateways may map it.
    pub page: Option<PathBuf>,
}

/// The doors that the file at `path` names. A kill must not wait until somebody has put a limit right, so this looks at
/// nothing else: the file only has to be TOML.
///
/// # Errors
/// If the file cannot be read or is not TOML, in words.
pub fn doors(path: &Path) -> Result<Doors, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let file: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        format!("{} is not TOML: {}", path.display(), error.message().lines().next().unwrap_or_default())
    })?;
    let text = |section: &str, key: &str| file.get(section)?.get(key)?.as_str();
    let local = Local { socket: text("local", "socket").map(PathBuf::from), ..Local::default() };
    let socket = match text("service", "state_dir") {
        Some(state_dir) => Some(local.socket_for(Path::new(state_dir))),
        None => local.socket,
    };
    let gate = file.get("gate").map(|_| Gate { dir: text("gate", "dir").map(PathBuf::from), ..Gate::default() });
    let page = match (gate, text("service", "state_dir")) {
        (Some(gate), Some(state_dir)) => Some(Gate::page(&gate.dir(Path::new(state_dir)))),
        (Some(Gate { dir: Some(dir), .. }), None) => Some(Gate::page(&dir)),
        (Some(Gate { dir: None, .. }), None) | (None, _) => None,
    };
    let http = match text("http", "listen") {
        Some(listen) => listen.parse().ok(),
        None => Some(Http::default().listen),
    };
    let tls = file.get("http").is_some_and(|http| http.get("tls").is_some());
    Ok(Doors { socket, http, tls, kill_file: text("local", "kill_file").map(PathBuf::from), page })
}

/// Why there is no configuration.
#[derive(Debug)]
pub enum ConfigError {
    /// The file could not be read as text.
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It could, and is wrong.
    Invalid(Violations),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::Read { path, .. } => write!(f, "cannot read {}", path.display()),
            ConfigError::Invalid(violations) => violations.fmt(f),
        }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ConfigError::Read { source, .. } => Some(source),
            ConfigError::Invalid(_) => None,
        }
    }
}

/// Reads and checks the file at `path`.
///
/// # Errors
/// See [`ConfigError`].
pub fn read(path: &Path) -> Result<Loaded, ConfigError> {
    let text = read_text(path)?;
    load(&path.display().to_string(), &text).map_err(ConfigError::Invalid)
}

/// The text of the file at `path`.
///
/// # Errors
/// [`ConfigError::Read`] if it cannot be read or is not UTF-8.
pub fn read_text(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })
}

/// Checks `text`; `file` is its name in messages.
///
/// # Errors
/// Every violation.
pub fn load(file: &str, text: &str) -> Result<Loaded, Violations> {
    with_text(file, text, false, |read| finish(&read, text))
}

/// As [`load`], of a text that a service wrote: it may have overlays, and they are in the limits.
///
/// # Errors
/// Every violation.
pub fn load_in_effect(file: &str, text: &str) -> Result<Loaded, Violations> {
    with_text(file, text, true, |read| {
        let mut loaded = finish(&read, text)?;
        loaded.overlays = bind(read.errors, &loaded.universe, &read.overlays);
        let overlays: Vec<_> = loaded.overlays.iter().map(|timed| timed.overlay).collect();
        if !overlays.is_empty() {
            loaded.limits = crate::limits::overlay::in_effect(&loaded.limits, &loaded.universe, &overlays);
        }
        Some(loaded)
    })
}

/// Checks `text` as a successor of `old`: limits, the restricted list, permissions and ages may change,
/// nothing else. The result's limits have the next generation; hand it to the next reload as `old`.
///
/// # Errors
/// Every violation, among them every change that needs a restart.
pub fn reload(old: &Loaded, file: &str, text: &str) -> Result<Loaded, Violations> {
    with_text(file, text, false, |read| {
        let mut new = finish(&read, text)?;
        unchanged(read.errors, old, &new, read.file, read.root);
        new.limits.generation = old.limits.generation.wrapping_add(1);
        Some(new)
    })
}

/// The effective values of the configuration in `text`, as a file with every key written out. Loading it
/// gives the same configuration.
///
/// # Errors
/// Every violation.
pub fn effective(file: &str, text: &str) -> Result<String, Violations> {
    with_text(file, text, false, |read| {
        finish(&read, text)?;
        Some(print::effective(read.file, read.limits, read.ceilings))
    })
}

/// A text with all its sections read.
struct Read<'a> {
    errors: &'a Errors<'a>,
    file: &'a FileText,
    limits: &'a LimitText,
    ceilings: Option<&'a LimitText>,
    overlays: Vec<OverlayText>,
    root: &'a Spot,
}

/// Parses `text`, reads all sections, and lets `make` go on. Its result counts only without violations. `overlaid`: a
/// service wrote it, and may have appended overlays.
fn with_text<T>(
    file: &str,
    text: &str,
    overlaid: bool,
    make: impl FnOnce(Read<'_>) -> Option<T>,
) -> Result<T, Violations> {
    let errors = Errors::new(file, text);
    let (document, faults) = DeTable::parse_recoverable(text);
    for fault in &faults {
        let span = fault.span().unwrap_or(0..0);
        errors.at(&Spot { span, path: String::new() }, fault.message());
    }
    let mut made = None;
    // What the parser made up to go on would only give messages that follow from the first.
    if faults.is_empty() {
        let spot = Spot::default();
        let mut root = Reader::new(&errors, document.get_ref(), spot.clone());
        let file = FileText::read(&mut root);
        let limits = LimitText::read(&mut root, &file);
        let ceilings = read_ceilings(&mut root, &file);
        let overlays = read_overlays(&mut root, overlaid);
        root.finish();
        let ceilings = ceilings.as_ref();
        made = make(Read { errors: &errors, file: &file, limits: &limits, ceilings, overlays, root: &spot });
    }
    errors.finish()?;
    Ok(made.expect("nothing is left unmade without a violation"))
}

/// Makes everything of what was read. `None` if there is too much of something, which has been reported.
fn finish(read: &Read<'_>, text: &str) -> Option<Loaded> {
    let Read { errors, file, limits, ceilings, .. } = read;
    if !file.fits() {
        return None;
    }
    let universe = Arc::new(make_universe(file));
    let mut table = limits.build(errors, file, &universe);
    table.cancel = cancel::policy(file);
    let ceilings = build_ceilings(*ceilings, errors, file, &universe);
    file.alerts.check(errors, &universe);
    let mut notes = Vec::new();
    limits.notes(file, &mut notes);
    limits::coverage_notes(&universe, &table, &mut notes);
    auth_notes(file, &mut notes);
    let notes = compact(notes);
    Some(Loaded {
        universe,
        limits: table,
        service: file.service.clone(),
        engine: file.engine,
        ingest: file.ingest.clone(),
        gate: file.gate.clone(),
        http: file.http.clone(),
        local: file.local.clone(),
        auth: file.auth.clone(),
        journal: file.journal.clone(),
        guard: file.guard.clone(),
        overrides: file.temporary.overrides,
        limits_api: file.temporary.limits_api,
        rearm: file.temporary.rearm,
        drill: file.temporary.drill.clone(),
        ramp: file.temporary.ramp.clone(),
        ceilings,
        overlays: Vec::new(),
        alerts: file.alerts.section.clone(),
        watch: file.watch.clone(),
        session_tokens: file.sessions.iter().map(|s| s.token).collect(),
        hash: *blake3::hash(text.as_bytes()).as_bytes(),
        text: text.into(),
        notes,
    })
}

/// What was refused stands here as its zero: a table can still be made of it, to find what else is wrong.
fn make_universe(file: &FileText) -> Universe {
    let base = CurrencySpec { name: file.base_currency.clone(), initial_rate: None };
    let others = file.currencies.iter().map(|c| CurrencySpec { name: c.name.clone(), initial_rate: c.rate.map(Px) });
    let currencies: Vec<CurrencySpec> = std::iter::once(base).chain(others).collect();
    let mut accounts: Vec<AccountSpec> = file.accounts.iter().map(|a| AccountSpec { name: a.name.clone() }).collect();
    if accounts.is_empty() && !file.strategies.is_empty() {
        accounts.push(AccountSpec { name: String::new() });
    }
    // Positions by name; entries come in the order of their names.
    let account = |name: &str| file.accounts.binary_search_by(|a| (*a.name).cmp(name)).unwrap_or(0);
    let strategy = |name: &str| {
        let at = file.strategies.binary_search_by(|s| (*s.name).cmp(name)).ok();
        at.map(|at| StrategyId(at as u16))
    };
    let currency = |name: &str| file.currencies.binary_search_by(|c| (*c.name).cmp(name)).map_or(0, |at| at + 1);
    let account_of = |s: &file::StrategyText| AccountId(s.account.as_ref().map_or(0, |(name, _)| account(name)) as u16);
    let strategies = file.strategies.iter().map(|s| StrategySpec { name: s.name.clone(), account: account_of(s) });
    let strategies: Vec<StrategySpec> = strategies.collect();
    let session = |s: &file::SessionText| SessionSpec {
        name: s.name.clone(),
        kind: s.kind,
        strategies: s.strategies.iter().filter_map(|(name, _)| strategy(name)).collect(),
    };
    let instrument = |i: &file::InstrumentText| InstrumentSpec {
        name: i.name.clone(),
        currency: CurrencyId(i.currency.as_ref().map_or(0, |(name, _)| currency(name)) as u16),
        px_scale: i.px_scale.unwrap_or(0),
        qty_scale: i.qty_scale.unwrap_or(0),
        multiplier: i.multiplier.unwrap_or((1, 0)),
        negative_px: i.negative_px,
        average_daily_volume: i.average_daily_volume,
        initial_reference: i.reference,
    };
    Universe::new(
        file.base_scale.unwrap_or(0),
        currencies,
        file.sessions.iter().map(session).collect(),
        accounts,
        strategies,
        file.instruments.iter().map(instrument).collect(),
    )
}

/// One note for all places that the same is said of.
fn compact(notes: Vec<Note>) -> Vec<Note> {
    let mut kept: Vec<(Note, usize)> = Vec::new();
    let mut place: HashMap<String, usize> = HashMap::new();
    for note in notes {
        let at = *place.entry(note.text.clone()).or_insert(kept.len());
        match kept.get_mut(at) {
            Some((_, more)) => *more += 1,
            None => kept.push((note, 0)),
        }
    }
    let shown = |(mut note, more): (Note, usize)| {
        if more > 0 {
            note.field.push_str(&format!(" and {more} more"));
        }
        note
    };
    kept.into_iter().map(shown).collect()
}

fn auth_notes(file: &FileText, notes: &mut Vec<Note>) {
    if file.auth.tokens_at_runtime {
        return;
    }
    let mut push = |text: &str| notes.push(Note { field: "auth.tokens".into(), text: text.into() });
    let by_certificate = file.auth.certificates.iter().map(|c| c.caller.role);
    if file.auth.operators.iter().map(|o| o.role).chain(by_certificate).all(|role| role < Role::Operator) {
        push("nobody has the role operator or risk: nobody can kill over HTTP");
    }
    // One name is one person, with a token, a user id or both.
    let tokens = file.auth.operators.iter().map(|o| (&*o.name, o.role));
    let users = file.local.operators.iter().map(|o| (&*o.name, o.role));
    let certified = file.auth.certificates.iter().map(|c| (&*c.caller.name, c.caller.role));
    let persons: HashSet<&str> =
        tokens.chain(users).chain(certified).filter(|(_, role)| *role == Role::Risk).map(|(n, _)| n).collect();
    match persons.len() {
        0 => push("nobody has the role risk: nothing can be re-armed"),
        1 if !file.auth.two_person_rearm.is_empty() => {
            push("one person has the role risk: what needs two to re-arm cannot be re-armed");
        }
        _ => {}
    }
}

/// Reports everything that only a restart can change.
fn unchanged(errors: &Errors<'_>, old: &Loaded, new: &Loaded, file: &FileText, root: &Spot) {
    const RESTART: &str = "cannot change while running: it needs a restart";
    let (before, after) = (&old.universe, &new.universe);
    let base = |universe: &Universe| (universe.base_scale, universe.currencies[0].clone());
    let sections = [
        old.service != new.service || base(before) != base(after),
        old.engine != new.engine,
        old.ingest != new.ingest,
        old.gate != new.gate,
        old.http != new.http,
        old.local != new.local,
        old.auth != new.auth,
        old.journal != new.journal,
        old.overrides != new.overrides,
        old.limits_api != new.limits_api,
        old.rearm != new.rearm,
        old.drill != new.drill,
        old.ramp != new.ramp,
        old.alerts != new.alerts,
        old.watch != new.watch || old.guard != new.guard,
    ];
    for (spot, changed) in file.section_spots.iter().zip(sections) {
        if changed {
            errors.at(spot, RESTART);
        }
    }

    let gone = |section: &str, name: &str| {
        let spot = Spot { span: root.span.clone(), path: section.to_owned() };
        errors.missing(&spot, name, "was there before: to take it away needs a restart");
    };
    for currency in &before.currencies[1..] {
        if after.currency(&currency.name).is_none() {
            gone("currencies", &currency.name);
        }
    }
    for account in &before.accounts {
        if after.account(&account.name).is_none() {
            gone("accounts", &account.name);
        }
    }
    for strategy in &before.strategies {
        if after.strategy(&strategy.name).is_none() {
            gone("strategies", &strategy.name);
        }
    }
    for instrument in &before.instruments {
        if after.instrument(&instrument.name).is_none() {
            gone("instruments", &instrument.name);
        }
    }
    for session in &before.sessions {
        if after.session(&session.name).is_none() {
            gone("sessions", &session.name);
        }
    }

    let changed = |spot: &Spot, same: Option<bool>| match same {
        Some(true) => {}
        Some(false) => errors.at(spot, RESTART),
        None => errors.at(spot, "was not there before: to add it needs a restart"),
    };
    for text in &file.currencies {
        let same = before
            .currency(&text.name)
            .map(|id| before.currencies[usize::from(id.0)].initial_rate == text.rate.map(Px));
        changed(&text.spot, same);
    }
    for text in &file.accounts {
        changed(&text.spot, before.account(&text.name).map(|_| true));
    }
    for (text, strategy) in file.strategies.iter().zip(&after.strategies) {
        let account = |universe: &Universe, id: AccountId| universe.accounts[usize::from(id.0)].name.clone();
        let same = before.strategy(&text.name).map(|id| {
            account(before, before.strategies[usize::from(id.0)].account) == account(after, strategy.account)
        });
        changed(&text.spot, same);
    }
    for (text, instrument) in file.instruments.iter().zip(&after.instruments) {
        let currency = |universe: &Universe, id: CurrencyId| universe.currencies[usize::from(id.0)].name.clone();
        let same = before.instrument(&text.name).map(|id| {
            let was = &before.instruments[id.0 as usize];
            let moved = InstrumentSpec { currency: was.currency, ..instrument.clone() };
            *was == moved && currency(before, was.currency) == currency(after, instrument.currency)
        });
        changed(&text.spot, same);
    }
    for (at, (text, session)) in file.sessions.iter().zip(&after.sessions).enumerate() {
        let names = |universe: &Universe, spec: &SessionSpec| -> Vec<String> {
            spec.strategies.iter().map(|s| universe.strategies[usize::from(s.0)].name.clone()).collect()
        };
        let same = before.session(&text.name).map(|id| {
            let was = &before.sessions[usize::from(id.0)];
            was.kind == session.kind
                && names(before, was) == names(after, session)
                && (new.auth.tokens_at_runtime || old.session_tokens[usize::from(id.0)] == new.session_tokens[at])
        });
        changed(&text.spot, same);
    }
}
