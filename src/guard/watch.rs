//! [`Watch`]: texts and rates in, alerts and halts out. What the thread `haltline-guard` calls with the service's time, and a
//! demo or a test with its own.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::peers::{Counts, Found, Instance, PeerOptions, Peers, SavedPeers};
use super::signatures::{Finding, SavedSignatures, SignatureOptions, Signatures, Text};
use crate::kill::alerts::{Alerts, Filter, KEPT, Raise, Severity, State};
use crate::kill::words::ScopeName;
use crate::model::{SessionKind, Universe};
use crate::units::{Now, SessionId};

/// What is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchOptions {
    /// Texts.
    pub signatures: SignatureOptions,
    /// Who owns alerts about texts, unless `[alerts.owners]` says otherwise.
    pub signatures_owner: Option<String>,
    /// Rates.
    pub peers: PeerOptions,
}

/// An instance that has to be halted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MustStop {
    /// Which session.
    pub session: SessionId,
    /// Why, with the numbers.
    pub reason: String,
}

/// What is kept over a restart.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SavedWatch {
    /// Signatures.
    pub signatures: SavedSignatures,
    /// Usual rates.
    pub peers: SavedPeers,
}

/// See the module. Every method may be called from any thread.
#[derive(Debug)]
pub struct Watch {
    signatures: Mutex<Signatures>,
    signatures_owner: Option<String>,
    peers: Mutex<Peers>,
    /// The session of each instance.
    instances: Vec<SessionId>,
    sessions: Vec<String>,
}

impl Watch {
    /// Sessions that send orders are instances; those of one kind with the same strategies are peers.
    #[must_use]
    pub fn new(options: WatchOptions, universe: &Universe) -> Watch {
        let names = universe.strategies.iter().map(|s| &s.name).chain(universe.instruments.iter().map(|i| &i.name));
        let sessions: Vec<String> = universe.sessions.iter().map(|s| s.name.clone()).collect();
        let names: HashSet<String> = names.chain(&sessions).cloned().collect();
        let (mut groups, mut watched, mut instances) = (Vec::new(), Vec::new(), Vec::new());
        for (at, spec) in universe.sessions.iter().enumerate() {
            match spec.kind {
                SessionKind::Reference | SessionKind::Orders => continue,
                SessionKind::Ask | SessionKind::Observe => {}
            }
            let mut strategies = spec.strategies.clone();
            strategies.sort_unstable();
            let does = (spec.kind, strategies);
            let group = groups.iter().position(|known| *known == does).unwrap_or_else(|| {
                groups.push(does);
                groups.len() - 1
            });
            watched.push(Instance { name: spec.name.clone(), group });
            instances.push(SessionId(at as u16));
        }
        Watch {
            signatures: Mutex::new(Signatures::new(options.signatures, sessions.clone(), names)),
            signatures_owner: options.signatures_owner,
            peers: Mutex::new(Peers::new(options.peers, watched)),
            instances,
            sessions,
        }
    }

    /// Goes on from what was saved.
    pub fn restore(&self, saved: SavedWatch) {
        self.peers().restore(&saved.peers);
        self.signatures().restore(saved.signatures);
    }

    /// What is kept over a restart.
    #[must_use]
    pub fn saved(&self) -> SavedWatch {
        SavedWatch { signatures: self.signatures().saved(), peers: self.peers().saved() }
    }

    /// The sessions whose counts [`Watch::sample`] takes, in its order.
    #[must_use]
    pub fn instances(&self) -> &[SessionId] {
        &self.instances
    }

    /// Looks at a text.
    pub fn take(&self, text: &Text, alerts: &Alerts) {
        let found = self.signatures().take(text);
        for finding in found {
            self.tell(finding, text.at, alerts);
        }
    }

    /// Lets time pass for texts: ends the time of learning, and takes what people have answered for as known.
    pub fn tick(&self, now: Now, alerts: &Alerts) {
        let (found, unknown) = {
            let mut signatures = self.signatures();
            (signatures.tick(now.unix.0), !signatures.unknown().is_empty())
        };
        if let Some(finding) = found {
            self.tell(finding, now.unix.0, alerts);
        }
        if unknown {
            let answered =
                Filter { state: Some(State::Acknowledged), kind: Some("signature".to_owned()), ..Filter::default() };
            for alert in alerts.list(&answered, KEPT) {
                self.signatures().answered(&alert.name);
            }
        }
    }

    /// Looks at the counts of all instances. Who has to be halted.
    pub fn sample(&self, now: Now, counts: &[Counts], alerts: &Alerts) -> Vec<MustStop> {
        let mut stops = Vec::new();
        let mut peers = self.peers();
        for found in peers.sample(now.mono.0, now.unix.0, counts) {
            let text = found.text(peers.instances());
            let raise = |instance: &usize, name: String| {
                let raise = Raise::new(now.unix.0, "peer", &name, text.clone());
                raise.on(self.scope(self.instances[*instance]))
            };
            match &found {
                Found::Outlier { instance, measure, halt, .. } => {
                    let raise = raise(instance, format!("outlier_{}", measure.name()));
                    if *halt {
                        alerts.raise(raise.critical().afresh());
                        stops.push(MustStop { session: self.instances[*instance], reason: text.clone() });
                    } else {
                        alerts.raise(raise);
                    }
                }
                Found::Back { instance, measure } => {
                    let scope = self.scope(self.instances[*instance]);
                    alerts.resolve(now.unix.0, "peer", &format!("outlier_{}", measure.name()), Some(&scope));
                }
                Found::Drift { instance, measure, .. } => {
                    alerts.raise(raise(instance, format!("drift_{}", measure.name())));
                }
                Found::Quiet { instance, measure, .. } => {
                    alerts.raise(raise(instance, format!("quiet_{}", measure.name())));
                }
                Found::Resumed { instance, measure } => {
                    let scope = self.scope(self.instances[*instance]);
                    alerts.resolve(now.unix.0, "peer", &format!("quiet_{}", measure.name()), Some(&scope));
                }
            }
        }
        stops
    }

    /// A person has let `session` trade again.
    pub fn rearmed(&self, session: SessionId) {
        if let Some(at) = self.instances.iter().position(|of| *of == session) {
            self.peers().rearmed(at);
        }
    }

    /// What `GET /v1/signatures` shows, at most `count` of them.
    #[must_use]
    pub fn signatures_json(&self, count: usize) -> Value {
        self.signatures().to_json(count)
    }

    /// What `GET /v1/peers` shows.
    #[must_use]
    pub fn peers_json(&self, now: Now) -> Value {
        self.peers().to_json(now.unix.0)
    }

    /// Signatures kept, those that nobody has answered for, texts looked at, texts dropped.
    #[must_use]
    pub fn counts(&self) -> [u64; 4] {
        let signatures = self.signatures();
        let (seen, dropped) = signatures.counts();
        [signatures.len() as u64, signatures.unknown().len() as u64, seen, dropped]
    }

    /// Instances that are far away now, and those of them that were halted for it.
    #[must_use]
    pub fn outliers(&self) -> (u64, u64) {
        self.peers().far()
    }

    /// Instances that are far below their peers now.
    #[must_use]
    pub fn quiet(&self) -> u64 {
        self.peers().quiet()
    }

    fn tell(&self, finding: Finding, at: u64, alerts: &Alerts) {
        let session = |name: &str| ScopeName { kind: "session".to_owned(), name: name.to_owned() };
        let raise = |name: &str, text: String| {
            let raise = Raise::new(at, "signature", name, text);
            match &self.signatures_owner {
                Some(owner) => raise.owner(owner),
                None => raise,
            }
        };
        alerts.raise(match finding {
            Finding::Unknown { name, session: of, severity, text } => {
                raise(&name, text).on(session(&of)).severity(severity)
            }
            Finding::Loud { name, session: of, text } => raise(&name, text).on(session(&of)).critical(),
            Finding::Flood { session: of, dropped } => {
                let text = format!("{dropped} texts in one second were not looked at: more than one session may send");
                raise("text_flood", text).on(self.scope(of))
            }
            Finding::Full => {
                let text = "no more kinds of text can be kept: a new one was not looked at".to_owned();
                raise("signatures_full", text).critical()
            }
            Finding::Learned { known } => {
                let text =
                    format!("{known} kinds of text were learned and count as known: GET /v1/signatures lists them");
                raise("texts_learned", text).severity(Severity::Info)
            }
        });
    }

    fn scope(&self, session: SessionId) -> ScopeName {
        let name = self.sessions.get(usize::from(session.0)).cloned().unwrap_or_default();
        ScopeName { kind: "session".to_owned(), name }
    }

    fn signatures(&self) -> MutexGuard<'_, Signatures> {
        self.signatures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn peers(&self) -> MutexGuard<'_, Peers> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kill::alerts::Policy;
    use crate::kill::testing::universe;
    use crate::units::{MonoNanos, UnixNanos};
    use std::time::Duration;

    const SECOND: u64 = 1_000_000_000;
    /// 12:01 UTC on 1 August 2012: 08:01 in New York.
    const MORNING: u64 = 1_343_822_460 * SECOND;

    #[test]
    fn the_97_mails_of_the_morning_are_one_critical_alert_that_escalates_before_the_open() {
        let universe = universe();
        let watch = Watch::new(WatchOptions::default(), &universe);
        let text = |at: u64, text: &str| Text { at, session: SessionId(0), source: "log", text: text.to_owned() };
        let policy = Policy {
            escalate_after: Some(Duration::from_secs(900)),
            escalation: vec!["head".into(), "cro".into()],
            escalate_to: crate::kill::alerts::LastResort::HaltFirm,
            ..Policy::default()
        };
        let alerts = Alerts::new(policy);
        // The days before, as every day.
        for n in 0..2_000u64 {
            let at = MORNING - 3 * 86_400 * SECOND + n * 60 * SECOND;
            watch.take(&text(at, &format!("order {n} of ES routed")), &alerts);
        }
        let before = alerts.last_seq();
        let mut halted_at = None;
        // From 08:01 to 09:30, one mail every 55 seconds, and orders are routed as usual.
        for second in 0..5_340u64 {
            let at = MORNING + second * SECOND;
            if second % 55 == 0 {
                let mail = format!("[{}] SMARS gateway 8: Power Peg disabled", second);
                watch.take(&text(at, &mail), &alerts);
            }
            if second % 60 == 0 {
                watch.take(&text(at, &format!("order {second} of BTC routed")), &alerts);
            }
            let now = Now { mono: MonoNanos(second * SECOND), unix: UnixNanos(at) };
            watch.tick(now, &alerts);
            if !alerts.tick(now).is_empty() {
                halted_at.get_or_insert(second);
            }
        }
        let listed = alerts.list(&Filter { severity: Some(Severity::Critical), ..Filter::default() }, 10);
        assert_eq!(listed.len(), 1, "{listed:?}");
        assert_eq!((listed[0].count, listed[0].at, listed[0].state), (98, MORNING, State::Escalated));
        assert!(alerts.blocking().len() == 1 && listed[0].text.contains("Power Peg"));
        // Told at once, to two more owners, and the firm is halted three quarters of an hour before the open.
        assert_eq!(halted_at, Some(2_700));
        let told = alerts.changes_after(before, 100);
        assert_eq!(told.iter().filter(|change| change.alert.severity == Severity::Critical).count(), 4);
    }

    #[test]
    fn what_a_person_answers_for_is_known_from_then_on() {
        let watch = Watch::new(WatchOptions::default(), &universe());
        let alerts = Alerts::default();
        let text = |second: u64, text: &str| Text {
            at: MORNING + second * SECOND,
            session: SessionId(0),
            source: "log",
            text: text.to_owned(),
        };
        let now = |second| Now { mono: MonoNanos(second * SECOND), unix: UnixNanos(MORNING + second * SECOND) };
        watch.take(&text(0, "usual"), &alerts);
        watch.tick(now(90_000), &alerts);
        watch.take(&text(90_001, "odd"), &alerts);
        let alert = alerts.blocking()[0].clone();
        alerts.acknowledge(alert.number, "alice", "a new build says this", MORNING + 90_002 * SECOND).unwrap();
        watch.tick(now(90_002), &alerts);
        watch.take(&text(90_003, "odd"), &alerts);
        assert_eq!(alerts.get(alert.number).unwrap().count, 1);
        assert_eq!(watch.counts(), [2, 0, 3, 0]);
    }
}
