//! What the layers above say to each other about who comes in: transports announce a session ([`Door`]), whoever acts on new
//! builds hears of them ([`NewBuilds`]), people look and decide ([`FleetDesk`]).

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use serde::Serialize;

use crate::guard::preflight::Preflight;
use crate::model::Claim;
use crate::units::SessionId;

/// The way by which the orders of a session come in: an order path of the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// Shared memory of a gate on this host.
    Gate,
    /// A WebSocket.
    WebSocket,
}

impl Way {
    /// Every way.
    pub const ALL: [Way; 2] = [Way::Gate, Way::WebSocket];

    /// The word for it in the manifest and in answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Way::Gate => "gate",
            Way::WebSocket => "websocket",
        }
    }

    /// The way called `word`.
    #[must_use]
    pub fn from_name(word: &str) -> Option<Way> {
        Way::ALL.into_iter().find(|way| way.name() == word)
    }
}

/// Who is at the other end, as far as the kernel says.
#[derive(Debug)]
pub enum Peer {
    /// A process of this host, by the credentials of its socket. The descriptor was made when the number was read: while it has not
    /// ended, the number is that process's.
    Process {
        /// Its number.
        pid: u32,
        /// The process itself, see pidfd_open(2).
        process: OwnedFd,
    },
    /// A TCP connection from `remote` to `local`. On loopback the process behind it can be found.
    Tcp {
        /// Their end.
        remote: SocketAddr,
        /// Our end.
        local: SocketAddr,
    },
    /// Nothing is known.
    Unknown,
}

impl core::fmt::Display for Peer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Peer::Process { pid, .. } => write!(f, "pid {pid}"),
            Peer::Tcp { remote, .. } => write!(f, "{remote}"),
            Peer::Unknown => f.write_str("?"),
        }
    }
}

/// A session that wants in.
#[derive(Debug)]
pub struct Arrival {
    /// Which.
    pub session: SessionId,
    /// By which way.
    pub way: Way,
    /// What it says of itself.
    pub claim: Claim,
    /// Who it is.
    pub peer: Peer,
}

/// One coming of one session; never used twice in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ArrivalId(pub u64);

/// Where transports announce sessions. Any thread; nothing waits.
pub trait Door: Send + Sync {
    /// A session wants in. `looked_at` is called once the halt page holds whatever has to be raised because of it, at once if there
    /// is nothing to find out; only then may the session be let in. It is let in either way: a quarantined one sends no orders
    /// past its halt, and its reports are booked. If nobody can look any more, `looked_at` is dropped without a call: then
    /// the session stays outside.
    fn arrive(&self, arrival: Arrival, looked_at: Box<dyn FnOnce() + Send>) -> ArrivalId;

    /// The session that came as `id` has gone, or did not come in after all. If it came again since, this says nothing.
    fn leave(&self, session: SessionId, id: ArrivalId);
}

/// A door that nobody watches: for parts of the service that run alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenDoor;

impl Door for OpenDoor {
    fn arrive(&self, _: Arrival, looked_at: Box<dyn FnOnce() + Send>) -> ArrivalId {
        looked_at();
        ArrivalId(0)
    }

    fn leave(&self, _: SessionId, _: ArrivalId) {}
}

/// An instance came for the first time with an approved build that is new: it was never seen here before, or is within
/// [`NewBuild::ramp_ns`] of its approval or of its first coming anywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewBuild {
    /// The instance.
    pub session: SessionId,
    /// The strategy whose manifest entry approves the build.
    pub strategy: String,
    /// The build's id in the manifest.
    pub build: String,
    /// When it was approved, Unix ns.
    pub approved_at: u64,
    /// How long after that it counts as new, ns; 0 if the manifest says nothing.
    pub ramp_ns: u64,
}

/// Hears of new builds, once per session and build: given to `Attestor::on_new_build`, called before the session is let in, or
/// let go by a manifest that approves what it runs already.
pub trait NewBuilds: Send + Sync {
    /// See the trait. It may take limits down and wait for the engine to know, and must not call back into the attestation.
    ///
    /// # Errors
    /// What could not be done: the session is quarantined for it.
    fn new_build(&self, new: &NewBuild) -> Result<(), String>;
}

/// What an instance waits for a person to approve, as it is at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ToApprove {
    /// Names it. Whoever approves says it, so that nothing else is approved than what was looked at.
    pub tag: String,
    /// What has changed since the instance was last known, each in words; or what it runs, if nothing is known of what it ran before.
    pub changes: Vec<String>,
}

impl core::fmt::Display for ToApprove {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.changes.join(", "))
    }
}

/// A session as people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SessionRow {
    /// Its name.
    pub name: String,
    /// `ask`, `observe` or `reference`.
    pub kind: &'static str,
    /// The way by which it came last; `None`: it has not come.
    pub transport: Option<&'static str>,
    /// Whether it is there.
    pub connected: bool,
    /// Where it came from: `pid 123` or an address.
    pub from: Option<String>,
    /// The build that it claims.
    pub build_claimed: Option<String>,
    /// The build that its executable is by the manifest.
    pub build: Option<String>,
    /// SHA-256 of its executable, as measured here.
    pub digest: Option<String>,
    /// Why nothing was measured; `None` if it was, or has not come.
    pub not_measured: Option<String>,
    /// The hash of its configuration that it claims.
    pub config_hash: Option<String>,
    /// The flags that it claims.
    pub flags: std::collections::BTreeMap<String, String>,
    /// The host that it claims.
    pub host: Option<String>,
    /// `approved`, `quarantined`, `off` (attestation is not configured), `not_judged` (it sends no orders) or `absent`.
    pub verdict: &'static str,
    /// Why it is quarantined.
    pub reasons: Vec<String>,
    /// What it waits for a person to approve.
    pub to_approve: Option<ToApprove>,
    /// Since when it is there or gone, RFC 3339.
    pub since: Option<String>,
    /// When an event of it was last seen, to the second, RFC 3339.
    pub last_event: Option<String>,
}

/// The manifest as people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ManifestView {
    /// Whether attestation is configured.
    pub attestation: &'static str,
    /// Its version; `None`: there is none.
    pub version: Option<u64>,
    /// SHA-256 of its text.
    pub digest: Option<String>,
    /// When it was taken, RFC 3339.
    pub loaded_at: Option<String>,
    /// Why the last try to load one was refused; the one before stays in force.
    pub refused: Option<String>,
    /// The version below which none is taken.
    pub version_floor: u64,
    /// What it says, by strategy, with what haltline saw itself.
    pub strategies: Vec<StrategyView>,
}

/// A strategy of the manifest, and when it was last exercised by the manifest's or haltline's own word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StrategyView {
    /// Its name.
    pub name: String,
    /// Whether it has to be woken.
    pub dormant: bool,
    /// RFC 3339.
    pub last_exercised: Option<String>,
    /// The instances expected, and which of them are missing.
    pub instances: Vec<String>,
    /// See `instances`.
    pub missing: Vec<String>,
    /// Approved builds.
    pub builds: Vec<PartView>,
    /// Order paths.
    pub paths: Vec<PartView>,
    /// Flags.
    pub flags: Vec<PartView>,
}

/// A build, order path or flag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartView {
    /// Its id or name.
    pub name: String,
    /// The digest of a build, the meaning of a flag.
    pub detail: Option<String>,
    /// Whether it has to be woken.
    pub dormant: bool,
    /// RFC 3339.
    pub last_exercised: Option<String>,
    /// Which connected instances run or set it.
    pub live: Vec<String>,
}

/// Why a request of a person was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeskRefused {
    /// There is no such thing.
    Unknown(String),
    /// There is, and it cannot be done.
    Conflict(String),
    /// What there is to approve is not what was looked at; in words, and as it is now.
    Changed(String, ToApprove),
    /// It is done, but could not be written down: a restart would not know of it.
    Failed(String),
}

impl DeskRefused {
    /// Why, in words.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            DeskRefused::Unknown(text)
            | DeskRefused::Conflict(text)
            | DeskRefused::Changed(text, _)
            | DeskRefused::Failed(text) => text,
        }
    }
}

/// What people ask of the guard's fleet. Any thread; may block for the disk.
pub trait FleetDesk: Send + Sync {
    /// Whether what instances run is looked at: `on`, `interlock only`, `off`.
    fn attestation(&self) -> &'static str;

    /// All sessions of the configuration.
    fn sessions(&self) -> Vec<SessionRow>;

    /// The manifest in force.
    fn manifest(&self) -> ManifestView;

    /// Whether this fleet may open.
    fn preflight(&self) -> Preflight;

    /// Wakes `strategy`, or only the order path or flag of it that `part` names (`path:gate`, `flag:rlp`). What is woken counts as
    /// exercised now; the halt that it was dormant under stays until it is re-armed.
    ///
    /// # Errors
    /// [`DeskRefused`].
    fn wake(&self, strategy: &str, part: Option<&str>, actor: &str, reason: &str) -> Result<String, DeskRefused>;

    /// Approves what `session` runs now although an incident was open when it changed, if that is what was looked at: what
    /// [`ToApprove::tag`] names. Its halt stays until it is re-armed.
    ///
    /// # Errors
    /// [`DeskRefused`].
    fn approve(&self, session: &str, tag: &str, actor: &str, reason: &str) -> Result<String, DeskRefused>;

    /// Reads the manifest again.
    ///
    /// # Errors
    /// Why it is refused; the one before stays in force.
    fn reload(&self, actor: &str, reason: &str) -> Result<u64, DeskRefused>;
}
