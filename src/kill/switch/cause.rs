//! Why a scope is halted, in words that are readable after a restart with another configuration.

use serde::{Deserialize, Serialize};

use crate::kill::words::{ScopeName, mode_word};
use crate::model::Mode;

/// The breach behind a trip, in words: it has to be readable after a restart with another configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TripCause {
    /// The rule.
    pub rule: String,
    /// What was wrong: `breach`, `reference_missing` …
    pub why: String,
    /// The scope at which the limit stands.
    pub at: ScopeName,
    /// What was observed, in `unit`.
    pub observed: String,
    /// What was allowed, in `unit`.
    pub limit: String,
    /// What the two are counted in.
    pub unit: String,
    /// The session whose event did it.
    pub session: String,
    /// That event's sequence; 0 if time alone did it.
    pub seq: u64,
}

/// Why a scope is not `Normal`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cause {
    /// The mode that was asked for.
    #[serde(with = "mode_word")]
    pub mode: Mode,
    /// The epoch that the raise began.
    pub epoch: u64,
    /// When, Unix ns.
    pub at: u64,
    /// Who: a principal, `engine` for a trip, `haltline` for what it did by itself at start.
    pub actor: String,
    /// Why, in the actor's words.
    pub reason: String,
    /// The breach, if it was a trip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trip: Option<TripCause>,
}

impl Cause {
    /// Names it: sixteen digits that whoever re-arms says, to show that this is the cause that was looked at.
    #[must_use]
    pub fn id(&self) -> String {
        let what = (self.epoch, self.at, &self.actor, &self.reason, self.mode.name());
        blake3::hash(format!("{what:?}").as_bytes()).to_hex()[..16].to_owned()
    }
}
