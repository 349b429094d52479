//! What the server says, and how numbers and scopes are written in it.

use serde::{Deserialize, Serialize};

use crate::model::effect::Denial;
use crate::model::rule::Unit;
use crate::model::{Scope, Universe, Why};
use crate::units::{InstrumentId, format_decimal};

/// A scope on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScopeName {
    /// `firm`, `account`, `strategy`, `pair`, `instrument` or `session`.
    pub kind: String,
    /// Its name, see [`Universe::scope_name`].
    pub name: String,
}

impl ScopeName {
    /// The scope's kind and name.
    #[must_use]
    pub fn of(scope: Scope, universe: &Universe) -> ScopeName {
        ScopeName { kind: scope.kind().name().to_owned(), name: universe.scope_name(scope) }
    }
}

/// The mode of one scope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScopeMode {
    /// `firm`, `account`, `strategy`, `instrument` or `session`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// `normal`, `reduce_only` or `halted`.
    pub mode: String,
    /// Since when, on the halt page's counter.
    pub epoch: u64,
}

/// Bounds that a client should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WireLimits {
    /// The largest message that a client may send.
    pub message_bytes_max: usize,
    /// How many answers are kept for a reconnect.
    pub answers_kept: usize,
    /// A connection that says nothing (not even a pong) for this long is closed.
    pub idle_ms: u64,
}

/// An answer to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerdictMessage {
    /// Number of the answer in its session, from 1, per run of the server.
    pub out: u64,
    /// The request's sequence.
    pub seq: u64,
    /// The request's id; empty if it had none that could be read.
    pub id: String,
    /// `new`, `replace` or `cancel`.
    pub kind: String,
    /// `admit` or `deny`.
    pub verdict: String,
    /// One bit per rule that was checked, in hexadecimal.
    pub checks: String,
    /// Of a denial: the rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Of a denial: what was wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Of a denial: where the limit stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<ScopeName>,
    /// Of a denial: what was observed, a decimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<String>,
    /// Of a denial: what would have been allowed, a decimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    /// Of a denial: what both are counted in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
}

impl VerdictMessage {
    /// Adds the denial. `instrument` is the order's: quantities and prices are shown in its units.
    #[must_use]
    pub fn denied(mut self, denial: &Denial, instrument: InstrumentId, universe: &Universe) -> VerdictMessage {
        let (unit, observed, limit) = VerdictMessage::numbers(denial, instrument, universe);
        self.verdict = "deny".to_owned();
        self.rule = Some(denial.rule.name().to_owned());
        self.why = Some(denial.why.name().to_owned());
        self.scope = Some(ScopeName::of(denial.scope, universe));
        self.observed = Some(observed);
        self.limit = Some(limit);
        self.unit = Some(unit.to_owned());
        self
    }

    /// The unit of a denial's numbers, what was observed and what would have been allowed.
    #[must_use]
    pub fn numbers(denial: &Denial, instrument: InstrumentId, universe: &Universe) -> (&'static str, String, String) {
        let spec = universe.instruments.get(instrument.0 as usize);
        // Missing and stale inputs are told by their age, whatever the rule counts in.
        let (unit, scale) = match denial.why {
            Why::Breach | Why::Unrepresentable => match denial.rule.unit() {
                Unit::Qty => ("qty", spec.map_or(0, |i| i.qty_scale)),
                Unit::Px => ("px", spec.map_or(0, |i| i.px_scale)),
                Unit::Notional => ("notional", universe.base_scale),
                Unit::Bps => ("bps", 0),
                Unit::Count => ("count", 0),
                Unit::Nanos => ("nanos", 0),
                Unit::Seq => ("seq", 0),
                Unit::Mode => ("mode", 0),
                Unit::None => ("none", 0),
            },
            Why::ReferenceMissing | Why::ReferenceStale | Why::FxMissing | Why::FxStale | Why::VolumeMissing => {
                ("nanos", 0)
            }
        };
        (unit, format_decimal(denial.observed, scale), format_decimal(denial.limit, scale))
    }
}

/// A message from the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Server {
    /// The answer to `hello`.
    Welcome {
        /// The session's name.
        session: String,
        /// This run of the server: answers of another run have other numbers.
        run: u64,
        /// The next event expected.
        next_seq: u64,
        /// Answers follow from this number on.
        out_from: u64,
        /// The last answer given so far.
        out: u64,
        /// Whether every answer after the one named in `hello` follows.
        resumed: bool,
        /// The halt page's state; the `mode` message that follows tells it.
        page: u64,
        /// Bounds.
        limits: WireLimits,
    },
    /// See [`VerdictMessage`].
    Verdict(VerdictMessage),
    /// Everything up to `seq` was taken.
    Applied {
        /// The last contiguous sequence taken.
        seq: u64,
    },
    /// Please send again.
    Resend {
        /// From this sequence on.
        from: u64,
    },
    /// Modes that changed, or at connect all that are not normal.
    Mode {
        /// The halt page's state that this completes.
        page: u64,
        /// The scopes.
        scopes: Vec<ScopeMode>,
    },
    /// Wanted: a cancel of this order, because a scope of it is halted.
    Cancel {
        /// The order's id as the client wrote it.
        id: String,
        /// The session that the order is of, if it is not this one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        session: Option<String>,
        /// The halted scope.
        scope: ScopeName,
        /// Which attempt this is, from 1.
        attempt: u8,
    },
    /// Wanted: a cancel of every order of this session in a scope that is halted.
    MassCancel {
        /// The halted scope.
        scope: ScopeName,
    },
    /// Wanted: that the venue cancels what is left, because the connection to it is cut.
    DisconnectRequest {
        /// The halted scope.
        scope: ScopeName,
    },
    /// A message could not be read.
    Error {
        /// Its sequence, if that could be read.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seq: Option<u64>,
        /// The field.
        field: String,
        /// Its value, shortened.
        value: String,
        /// The rule that it broke.
        rule: String,
    },
    /// The tables behind the indices of `haltline.v1.bin`: position is index.
    Names {
        /// Accounts.
        accounts: Vec<String>,
        /// Strategies.
        strategies: Vec<String>,
        /// Instruments.
        instruments: Vec<InstrumentName>,
        /// Currencies.
        currencies: Vec<String>,
        /// Sessions.
        sessions: Vec<String>,
        /// Rules.
        rules: Vec<String>,
    },
}

/// An instrument in [`Server::Names`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstrumentName {
    /// Its name.
    pub name: String,
    /// Decimal places of a price.
    pub px_scale: u8,
    /// Decimal places of a quantity.
    pub qty_scale: u8,
}

impl Server {
    /// The tables of `universe`.
    #[must_use]
    pub fn names(universe: &Universe) -> Server {
        Server::Names {
            accounts: universe.accounts.iter().map(|a| a.name.clone()).collect(),
            strategies: universe.strategies.iter().map(|s| s.name.clone()).collect(),
            instruments: universe
                .instruments
                .iter()
                .map(|i| InstrumentName { name: i.name.clone(), px_scale: i.px_scale, qty_scale: i.qty_scale })
                .collect(),
            currencies: universe.currencies.iter().map(|c| c.name.clone()).collect(),
            sessions: universe.sessions.iter().map(|s| s.name.clone()).collect(),
            rules: crate::model::Rule::ALL.iter().map(|r| r.name().to_owned()).collect(),
        }
    }

    /// The message as JSON text.
    #[must_use]
    pub fn encode(&self) -> String {
        // Strings, integers and lists: nothing in here can fail to be written.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a message of the server's: the client's side.
    ///
    /// # Errors
    /// What serde says of it.
    pub fn decode(text: &str) -> Result<Server, String> {
        serde_json::from_str(text).map_err(|e| e.to_string())
    }
}
