//! Instances and what they run, the manifest, preflight; what the guard has learned of texts and rates.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Instances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Sessions {
    /// All of the configuration.
    pub sessions: Vec<Session>,
}

/// An instance: its connection, what it claims, what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Session {
    /// Its name.
    pub name: String,
    /// `ask`, `observe`, `reference` or `orders`.
    pub kind: String,
    /// The way by which it came last; `null`: it has not come.
    pub transport: Option<String>,
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
    /// Why nothing was measured.
    pub not_measured: Option<String>,
    /// The hash of its configuration that it claims.
    pub config_hash: Option<String>,
    /// The flags that it claims.
    pub flags: BTreeMap<String, String>,
    /// The host that it claims.
    pub host: Option<String>,
    /// `approved`, `quarantined`, `off`, `not_judged` or `absent`.
    pub verdict: String,
    /// Why it is quarantined.
    pub reasons: Vec<String>,
    /// What it waits for a person to approve.
    pub to_approve: Option<ToApprove>,
    /// Since when it is there or gone.
    pub since: Option<String>,
    /// When an event of it was last seen, to the second.
    pub last_event: Option<String>,
}

/// What an instance waits for a person to approve, as it is at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ToApprove {
    /// Names exactly this.
    pub tag: String,
    /// What has changed, or what it runs, each in words.
    pub changes: Vec<String>,
}

/// A person approves what an instance runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApproveBuild {
    /// What was looked at: `to_approve.tag` of the session.
    #[schema(min_length = 1)]
    pub tag: String,
    /// Why; not empty.
    #[schema(min_length = 1)]
    pub reason: String,
}

/// Why nothing was approved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApproveConflict {
    /// `urn:haltline:problem:changed`, or `urn:haltline:problem:not-now` if there is nothing to approve.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same for people.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is so.
    pub detail: String,
    /// What there is to approve now; left out if there is nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_approve: Option<ToApprove>,
}

/// The manifest in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Manifest {
    /// Whether attestation is configured.
    pub attestation: String,
    /// Its version; `null`: there is none.
    pub version: Option<u64>,
    /// SHA-256 of its text.
    pub digest: Option<String>,
    /// When it was taken.
    pub loaded_at: Option<String>,
    /// Why the last try to load one was refused.
    pub refused: Option<String>,
    /// The version below which none is taken.
    pub version_floor: u64,
    /// What it says, by strategy.
    pub strategies: Vec<ManifestStrategy>,
}

/// A strategy of the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ManifestStrategy {
    /// Its name.
    pub name: String,
    /// Whether it has to be woken.
    pub dormant: bool,
    /// When it was last used.
    pub last_exercised: Option<String>,
    /// The instances expected.
    pub instances: Vec<String>,
    /// Those of them that are missing.
    pub missing: Vec<String>,
    /// Approved builds.
    pub builds: Vec<ManifestPart>,
    /// Order paths.
    pub paths: Vec<ManifestPart>,
    /// Flags.
    pub flags: Vec<ManifestPart>,
}

/// A build, order path or flag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ManifestPart {
    /// Its id or name.
    pub name: String,
    /// The digest of a build, the meaning of a flag.
    pub detail: Option<String>,
    /// Whether it has to be woken.
    pub dormant: bool,
    /// When it was last used.
    pub last_exercised: Option<String>,
    /// Which connected instances run or set it.
    pub live: Vec<String>,
}

/// The version of a manifest that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ManifestVersion {
    /// The version.
    pub version: u64,
}

/// What was approved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Approved {
    /// In words.
    pub approved: String,
}

/// What was woken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Woken {
    /// In words.
    pub woken: String,
}

/// Whether this fleet may open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Preflight {
    /// Whether every check allows it.
    pub may_open: bool,
    /// When the page was made.
    pub at: String,
    /// All checks.
    pub checks: Vec<PreflightCheck>,
}

/// One line of the page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PreflightCheck {
    /// What was looked at.
    pub name: String,
    /// What came of it.
    pub outcome: PreflightOutcome,
    /// What was seen.
    pub text: String,
}

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PreflightOutcome {
    /// As it should be.
    Pass,
    /// Worth a look.
    Note,
    /// The fleet may not open.
    Fail,
}

/// Kinds of text that were seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Signatures {
    /// Whether the first ones are still being learned.
    pub learning: bool,
    /// Since when anything was.
    pub learning_since: Option<String>,
    /// How many are kept.
    pub kept: u64,
    /// How many can be.
    pub room_for: u64,
    /// Texts that were looked at.
    pub texts: u64,
    /// Texts that were not.
    pub texts_dropped: u64,
    /// The one that came last first.
    pub signatures: Vec<Signature>,
}

/// A kind of text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Signature {
    /// What alerts about it are called.
    pub name: String,
    /// What all of its texts have in common.
    pub template: String,
    /// From what kind of message.
    pub source: String,
    /// The session that sent it first.
    pub session: String,
    /// One of its texts.
    pub example: String,
    /// When first.
    pub first_at: String,
    /// When last.
    pub last_at: String,
    /// How often.
    pub count: u64,
    /// Whether it counts as usual.
    pub known: bool,
    /// Its highest rate.
    pub peak_per_minute: u64,
    /// Its rate now.
    pub this_minute: u64,
}

/// What was learned of sessions' rates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Peers {
    /// When.
    pub at: String,
    /// What rates are taken over.
    pub window_ms: u64,
    /// How long silence among peers is looked at for.
    pub quiet_window_ms: u64,
    /// How long rejects are counted for that are held against an instance's own orders.
    pub share_window_ms: u64,
    /// Sessions that send orders.
    pub instances: Vec<PeerInstance>,
}

/// A session among its peers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PeerInstance {
    /// Its name.
    pub session: String,
    /// Whom it is held against.
    pub peers: Vec<String>,
    /// Its rates by measure.
    pub rates: BTreeMap<String, PeerRate>,
    /// How much of what it sends is rejected.
    pub reject_share: PeerShare,
}

/// How much of a session's orders is rejected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PeerShare {
    /// Now, in percent.
    pub percent: f64,
    /// Orders that it sent in the time that is looked at.
    pub orders: u64,
    /// Rejects in that time.
    pub rejects: u64,
    /// At this time of day, in percent.
    pub usual_percent: f64,
    /// What that was at first, in percent.
    pub began_at_percent: f64,
    /// Days that it was learned on.
    pub days: u64,
    /// Whether it is far from the others.
    pub far: bool,
    /// Whether the session was halted for it.
    pub halted: bool,
    /// Whether what is usual has moved far from where it began.
    pub drifted: bool,
}

/// A rate of a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PeerRate {
    /// Now.
    pub per_second: f64,
    /// At this time of day.
    pub usual: f64,
    /// What that was at first.
    pub began_at: f64,
    /// Days that it was learned on.
    pub days: u64,
    /// Whether it is far from the others.
    pub far: bool,
    /// Whether the session was halted for it.
    pub halted: bool,
    /// Whether what is usual has moved far from where it began.
    pub drifted: bool,
    /// How it goes beside its peers: `unknown`, `usual` or `quiet`.
    pub pace: String,
}
