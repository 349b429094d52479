//! What the configuration says of alerts: who owns one, how loud it is, what happens when nobody answers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::kill::words::ScopeName;

/// How bad it is, ascending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Somebody should look today.
    Warning,
    /// Somebody has to look now, and say so: it stays until it is acknowledged.
    Critical,
}

impl Severity {
    /// All, ascending.
    pub const ALL: [Severity; 3] = [Severity::Info, Severity::Warning, Severity::Critical];

    /// Its word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        }
    }

    /// The severity called `word`.
    #[must_use]
    pub fn named(word: &str) -> Option<Severity> {
        Severity::ALL.into_iter().find(|severity| severity.name() == word)
    }
}

/// What an escalation does after the last owner did not answer either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LastResort {
    /// Nothing more: it stays escalated.
    #[default]
    None,
    /// Halts the alert's scope; the firm if it has none.
    Halt,
    /// Halts the firm.
    HaltFirm,
}

impl LastResort {
    /// Its word in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            LastResort::None => "none",
            LastResort::Halt => "halt",
            LastResort::HaltFirm => "halt_firm",
        }
    }
}

/// Who owns the alerts of a name, of a scope, or of a name at a scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerOf {
    /// The rule's, anomaly's or other alert's name; `None`: any.
    pub name: Option<String>,
    /// The scope; `None`: any.
    pub scope: Option<ScopeName>,
    /// Who: a person, a desk, a rota.
    pub owner: String,
}

/// How alerts are treated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Who owns what nobody else does.
    pub owner: String,
    /// Owners of some. The one that says most about an alert counts; a name says more than a scope.
    pub owners: Vec<OwnerOf>,
    /// Severities other than the usual, by name.
    pub severities: Vec<(String, Severity)>,
    /// How long a critical one may be unacknowledged before the next owner gets it; `None`: for ever.
    pub escalate_after: Option<Duration>,
    /// The next owners, in their order.
    pub escalation: Vec<String>,
    /// What comes when the last of them has not answered for as long either.
    pub escalate_to: LastResort,
    /// Whether an unacknowledged critical one is a reason not to open.
    pub blocks_open: bool,
    /// Whether a scope stays halted until the critical ones about it are acknowledged.
    pub holds_rearm: bool,
    /// How long nothing may have been heard of an alert (a critical one must be acknowledged, too) before it is resolved.
    pub resolve_after: Duration,
    /// Where the runbook is: the address of the page, without an anchor.
    pub runbook: String,
    /// Alerts that may be sent one by one before flood control sums them up.
    pub flood_burst: u32,
    /// How long it takes until one more may be.
    pub flood_per: Duration,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            owner: "risk".to_owned(),
            owners: Vec::new(),
            severities: Vec::new(),
            escalate_after: Some(Duration::from_secs(900)),
            escalation: Vec::new(),
            escalate_to: LastResort::None,
            blocks_open: true,
            holds_rearm: false,
            resolve_after: Duration::from_secs(600),
            runbook: "config/runbook.md".to_owned(),
            flood_burst: 10,
            flood_per: Duration::from_secs(600),
        }
    }
}

impl Policy {
    /// The severity of alerts called `name`, which is `usual` unless the configuration says otherwise.
    #[must_use]
    pub fn severity(&self, name: &str, usual: Severity) -> Severity {
        self.severities.iter().find(|(of, _)| of == name).map_or(usual, |(_, severity)| *severity)
    }

    /// Who owns the alert.
    #[must_use]
    pub fn owner_of(&self, name: &str, scope: Option<&ScopeName>) -> &str {
        let fits = |of: &&OwnerOf| {
            of.name.as_deref().is_none_or(|n| n == name) && of.scope.as_ref().is_none_or(|s| Some(s) == scope)
        };
        let says = |of: &&OwnerOf| (of.name.is_some(), of.scope.is_some());
        self.owners.iter().filter(fits).max_by_key(says).map_or(&self.owner, |of| &of.owner)
    }

    /// The section of the runbook about alerts of `kind`.
    #[must_use]
    pub fn runbook_of(&self, kind: &str) -> String {
        let anchor = match kind {
            "trip" => "haltlinetripped",
            "page" => "haltlinescopehalted",
            "kill" => "haltlinekillpressed",
            "warn" => "haltlineutilisationhigh",
            "anomaly" => "what-comes-in",
            "delivery" => "haltlinealertdeliveryfailing",
            "signature" => "haltlinenewsignature",
            "guard" => "haltlineinstancequarantined",
            "peer" => "haltlineoutlier",
            _ => "alerts-of-haltline-itself",
        };
        format!("{}#{anchor}", self.runbook)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_is_who_was_named_for_most_of_it() {
        let scope = |name: &str| ScopeName { kind: "strategy".into(), name: name.into() };
        let of = |name: Option<&str>, scope: Option<ScopeName>, owner: &str| OwnerOf {
            name: name.map(Into::into),
            scope,
            owner: owner.into(),
        };
        let owners = vec![
            of(None, Some(scope("alpha")), "anna"),
            of(Some("gross_exposure"), None, "gerd"),
            of(Some("gross_exposure"), Some(scope("alpha")), "both"),
        ];
        let policy = Policy { owners, ..Policy::default() };
        assert_eq!(policy.owner_of("gross_exposure", Some(&scope("alpha"))), "both");
        assert_eq!(policy.owner_of("gross_exposure", Some(&scope("beta"))), "gerd");
        assert_eq!(policy.owner_of("order_rate", Some(&scope("alpha"))), "anna");
        assert_eq!(policy.owner_of("order_rate", None), "risk");
    }
}
