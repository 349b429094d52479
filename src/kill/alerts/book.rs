//! [`Book`]: what becomes of every alert. Pure: the time is an argument, and what is to be done comes back as a value.
//!
//! ```text
//!            raise                 acknowledge              quiet for resolve_after
//!   (none) ────────▶ firing ─────────────────▶ acknowledged ───────────▶ resolved
//!                      │  ▲                       ▲   │
//!          escalate_after │ fresh (a new trip)    │   │ fresh: somebody has to look again
//!                      ▼  └───────────────────────│───┘
//!                  escalated ─────────────────────┘
//! ```
//!
//! A critical alert leaves `firing` or `escalated` by an acknowledgement only. Others are resolved when they were quiet.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::flood::Flood;
use super::policy::{LastResort, Policy, Severity};
use crate::kill::words::{ScopeName, clean, rfc3339};
use crate::units::Now;

/// How many alerts are kept. Those that nobody has to do anything about any more go first.
pub const KEPT: usize = 1_024;
/// How many changes wait for those who deliver them.
pub const CHANGES_KEPT: usize = 1_024;
/// The kind and the name of the alert that sums up what flood control does not send.
const STORM: (&str, &str) = ("flood", "alert_storm");

/// Where an alert stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nobody has answered.
    Firing,
    /// Nobody has answered in time: the next owner has it, too.
    Escalated,
    /// Somebody looks at it.
    Acknowledged,
    /// It is over.
    Resolved,
}

impl State {
    /// All, in the order of their lives.
    pub const ALL: [State; 4] = [State::Firing, State::Escalated, State::Acknowledged, State::Resolved];

    /// Its word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            State::Firing => "firing",
            State::Escalated => "escalated",
            State::Acknowledged => "acknowledged",
            State::Resolved => "resolved",
        }
    }

    /// Whether nobody has answered yet.
    #[must_use]
    pub const fn is_unanswered(self) -> bool {
        match self {
            State::Firing | State::Escalated => true,
            State::Acknowledged | State::Resolved => false,
        }
    }
}

/// Who looks at an alert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledgement {
    /// The person, as the audit has it.
    pub by: String,
    /// What they said.
    pub reason: String,
    /// When, Unix ns.
    pub at: u64,
}

/// One alert: everything of one kind and name about one scope, as long as it lasts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// Its id. Counts from 1, over restarts too.
    pub number: u64,
    /// Where it comes from: `trip`, `warn`, `anomaly`, `page`, `signature` …
    pub kind: String,
    /// The rule's, the anomaly's or the signature's name.
    pub name: String,
    /// What it is about; `None`: haltline itself.
    pub scope: Option<ScopeName>,
    /// How bad.
    pub severity: Severity,
    /// Who has to answer: the last of `owners`.
    pub owner: String,
    /// Everybody who was told, in their order.
    pub owners: Vec<String>,
    /// Where to read what to do.
    pub runbook: String,
    /// What happened first, in one sentence.
    pub first_text: String,
    /// What happened last.
    pub text: String,
    /// How often.
    pub count: u64,
    /// When first, Unix ns.
    pub at: u64,
    /// When last, Unix ns.
    pub last_at: u64,
    /// Where it stands.
    pub state: State,
    /// Times that it was escalated since it last began to fire.
    pub escalations: u32,
    /// How long nobody has answered since the last of them, ns.
    pub unanswered_ns: u64,
    /// Who looks at it.
    pub acknowledged: Option<Acknowledgement>,
    /// When it was over, Unix ns.
    pub resolved_at: Option<u64>,
    /// Flood control does not send it by itself: it is listed, and counted in the summary.
    pub summed_up: bool,
}

impl Alert {
    /// Whether it is critical and nobody has answered.
    #[must_use]
    pub fn is_unanswered_critical(&self) -> bool {
        self.severity == Severity::Critical && self.state.is_unanswered()
    }
}

/// What happened to an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// It began to fire, or did so again.
    Fired,
    /// Nobody answered.
    Escalated,
    /// Somebody did.
    Acknowledged,
    /// It is over.
    Resolved,
}

impl What {
    /// Its word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            What::Fired => "fired",
            What::Escalated => "escalated",
            What::Acknowledged => "acknowledged",
            What::Resolved => "resolved",
        }
    }
}

/// A change of an alert, to be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Counts from 1 without gaps, over restarts too: with the instance's name it is the same change for ever.
    pub seq: u64,
    /// When, Unix ns.
    pub at: u64,
    /// What.
    pub what: What,
    /// The alert right after it.
    pub alert: Alert,
}

/// Something to be alerted about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raise {
    /// When, Unix ns.
    pub at: u64,
    /// Where it comes from; see [`Alert::kind`].
    pub kind: String,
    /// Its name, which limits, owners and severities go by.
    pub name: String,
    /// What it is about; `None`: haltline itself.
    pub scope: Option<ScopeName>,
    /// How bad, unless the configuration says otherwise.
    pub severity: Severity,
    /// Who owns it, unless the configuration names somebody.
    pub owner: Option<String>,
    /// What happened, in one sentence.
    pub text: String,
    /// How often.
    pub count: u64,
    /// Each is an event of its own: it fires again even if somebody looks at an earlier one.
    pub fresh: bool,
}

impl Raise {
    /// A warning at `at` (Unix ns).
    #[must_use]
    pub fn new(at: u64, kind: &str, name: &str, text: impl Into<String>) -> Raise {
        Raise {
            at,
            kind: kind.to_owned(),
            name: name.to_owned(),
            scope: None,
            severity: Severity::Warning,
            owner: None,
            text: text.into(),
            count: 1,
            fresh: false,
        }
    }

    /// About this scope.
    #[must_use]
    pub fn on(mut self, scope: ScopeName) -> Raise {
        self.scope = Some(scope);
        self
    }

    /// Of this severity.
    #[must_use]
    pub fn severity(mut self, severity: Severity) -> Raise {
        self.severity = severity;
        self
    }

    /// Critical.
    #[must_use]
    pub fn critical(self) -> Raise {
        self.severity(Severity::Critical)
    }

    /// Owned by `owner`, unless the configuration names somebody.
    #[must_use]
    pub fn owner(mut self, owner: impl Into<String>) -> Raise {
        self.owner = Some(owner.into());
        self
    }

    /// An event of its own: see [`Raise::fresh`].
    #[must_use]
    pub fn afresh(mut self) -> Raise {
        self.fresh = true;
        self
    }
}

/// Why an acknowledgement was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AckRefused {
    /// No such alert is remembered.
    Unknown,
    /// There has to be a reason.
    NoReason,
    /// This person has it.
    Already(String),
    /// It is over.
    Resolved,
}

/// The last step of an escalation: a halt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MustHalt {
    /// Because of this alert.
    pub number: u64,
    /// What to halt; `None`: the firm.
    pub scope: Option<ScopeName>,
    /// Why, in one sentence.
    pub reason: String,
}

/// What has been counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Alerts that began to fire, by severity.
    pub fired: [u64; Severity::ALL.len()],
    /// Steps of escalation.
    pub escalations: u64,
    /// Acknowledgements.
    pub acknowledgements: u64,
    /// Alerts that flood control summed up instead of sending each.
    pub summed_up: u64,
    /// Alerts that found no room at all; the summary counts them.
    pub overflowed: u64,
    /// Changes that were dropped before they were delivered everywhere.
    pub changes_dropped: u64,
}

/// What survives a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// When, Unix ns.
    pub at: u64,
    /// When the first alert of all was counted, Unix ns: numbers that begin anew do not mean the same alerts.
    pub born: u64,
    /// The next alert's number.
    pub next_number: u64,
    /// The next change's number.
    pub next_seq: u64,
    /// Alerts that are not over.
    pub alerts: Vec<Alert>,
    /// Changes that may not have been told everywhere.
    pub changes: Vec<Change>,
    /// Up to where each receiver has been told.
    pub told: Vec<(String, u64)>,
}

type Key = (String, String, Option<ScopeKey>);
type ScopeKey = (String, String);

fn key(kind: &str, name: &str, scope: Option<&ScopeName>) -> Key {
    (kind.to_owned(), name.to_owned(), scope.map(|s| (s.kind.clone(), s.name.clone())))
}

/// See the module.
#[derive(Debug)]
pub struct Book {
    policy: Policy,
    /// By number, ascending.
    alerts: VecDeque<Alert>,
    open: HashMap<Key, u64>,
    born: u64,
    next_number: u64,
    changes: VecDeque<Change>,
    next_seq: u64,
    /// Up to where each receiver has been told.
    told: Vec<(String, u64)>,
    flood: Flood,
    /// Critical ones in the summary that is open.
    storm_criticals: u64,
    storm_sent_at: u64,
    ticked: Option<u64>,
    tally: Tally,
}

impl Book {
    /// An empty one.
    #[must_use]
    pub fn new(policy: Policy) -> Book {
        let flood = Flood::new(policy.flood_burst, policy.flood_per);
        Book {
            policy,
            alerts: VecDeque::new(),
            open: HashMap::new(),
            born: 0,
            next_number: 1,
            changes: VecDeque::new(),
            next_seq: 1,
            told: Vec::new(),
            flood,
            storm_criticals: 0,
            storm_sent_at: 0,
            ticked: None,
            tally: Tally::default(),
        }
    }

    /// Goes on from what an earlier run saved; the default if there is none. Time that has passed since counts towards an escalation, but only towards
    /// the next one: nobody could be told in between.
    pub fn restore(&mut self, saved: Saved, now_unix: u64) {
        let away = now_unix.saturating_sub(saved.at);
        let limit = self.policy.escalate_after.map_or(u64::MAX, nanos);
        self.born = if saved.born == 0 { now_unix } else { saved.born };
        self.next_number = saved.next_number.max(1);
        self.next_seq = saved.next_seq.max(1);
        self.told = saved.told;
        self.changes = saved.changes.into();
        for mut alert in saved.alerts {
            if alert.state.is_unanswered() {
                alert.unanswered_ns = alert.unanswered_ns.saturating_add(away).min(limit.max(alert.unanswered_ns));
            }
            self.next_number = self.next_number.max(alert.number + 1);
            self.open.insert(key(&alert.kind, &alert.name, alert.scope.as_ref()), alert.number);
            self.alerts.push_back(alert);
        }
        self.alerts.make_contiguous().sort_by_key(|alert| alert.number);
    }

    /// What has to survive a restart.
    #[must_use]
    pub fn saved(&self, at: u64) -> Saved {
        // Without receivers nobody waits for a change.
        let told = self.told.iter().map(|(_, seq)| *seq).min();
        Saved {
            at,
            born: self.born,
            next_number: self.next_number,
            next_seq: self.next_seq,
            alerts: self.alerts.iter().filter(|alert| alert.state != State::Resolved).cloned().collect(),
            changes: self.changes.iter().filter(|change| told.is_some_and(|seq| change.seq > seq)).cloned().collect(),
            told: self.told.clone(),
        }
    }

    /// What is configured.
    #[must_use]
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Takes an alert: a new one, or one more of one that is open. Its number; `None` if there was no room for it, which is
    /// counted and in the summary.
    pub fn raise(&mut self, raise: Raise) -> Option<u64> {
        let severity = self.policy.severity(&raise.name, raise.severity);
        let known = key(&raise.kind, &raise.name, raise.scope.as_ref());
        let at = raise.at;
        if let Some(number) = self.open.get(&known).copied() {
            self.repeat(number, raise, severity);
            return Some(number);
        }
        if self.alerts.len() >= KEPT && !self.make_room() {
            self.tally.overflowed += 1;
            self.sum_up(at, severity, &raise.name);
            return None;
        }
        let sent = self.flood.admits(severity, at);
        let name = raise.name.clone();
        let number = self.enter(known, raise, severity, !sent);
        if sent {
            self.tell(at, What::Fired, number);
        } else {
            self.sum_up(at, severity, &name);
        }
        Some(number)
    }

    /// Counts further occurrences of an alert that is open, without a word about them. Whether there is one.
    pub fn again(&mut self, at: u64, kind: &str, name: &str, scope: Option<&ScopeName>, count: u64) -> bool {
        let Some(number) = self.open.get(&key(kind, name, scope)).copied() else { return false };
        let Some(alert) = self.get_mut(number) else { return false };
        alert.count = alert.count.saturating_add(count);
        alert.last_at = alert.last_at.max(at);
        true
    }

    /// What it was about is over. A critical one that nobody has acknowledged stays.
    pub fn resolve(&mut self, at: u64, kind: &str, name: &str, scope: Option<&ScopeName>) {
        let Some(number) = self.open.get(&key(kind, name, scope)).copied() else { return };
        if self.get(number).is_some_and(|alert| !alert.is_unanswered_critical()) {
            self.end(number, at);
        }
    }

    /// A person says that they look at it. To acknowledge the summary is to acknowledge everything that it stands for.
    ///
    /// # Errors
    /// See [`AckRefused`].
    pub fn acknowledge(&mut self, number: u64, by: &str, reason: &str, at: u64) -> Result<Alert, AckRefused> {
        let (by, reason) = (clean(by), clean(reason));
        let alert = self.get(number).ok_or(AckRefused::Unknown)?;
        if reason.is_empty() {
            return Err(AckRefused::NoReason);
        }
        match (alert.state, &alert.acknowledged) {
            (State::Resolved, _) => return Err(AckRefused::Resolved),
            (State::Acknowledged, Some(before)) => return Err(AckRefused::Already(before.by.clone())),
            (State::Firing | State::Escalated | State::Acknowledged, _) => {}
        }
        let storm = (alert.kind.as_str(), alert.name.as_str()) == STORM;
        let also = |alert: &Alert| storm && alert.summed_up && alert.state.is_unanswered();
        let mut numbers: Vec<u64> = self.alerts.iter().filter(|alert| also(alert)).map(|alert| alert.number).collect();
        numbers.push(number);
        for number in numbers {
            let Some(alert) = self.get_mut(number) else { continue };
            alert.state = State::Acknowledged;
            alert.acknowledged = Some(Acknowledgement { by: by.clone(), reason: reason.clone(), at });
            alert.unanswered_ns = 0;
            let summed_up = alert.summed_up;
            self.tally.acknowledgements += 1;
            if !summed_up {
                self.tell(at, What::Acknowledged, number);
            }
        }
        self.get(number).cloned().ok_or(AckRefused::Unknown)
    }

    /// Lets time pass: escalates what nobody answers, ends what has been quiet. What has to be halted.
    pub fn tick(&mut self, now: Now) -> Vec<MustHalt> {
        let elapsed = self.ticked.map_or(0, |before| now.mono.0.saturating_sub(before));
        self.ticked = Some(now.mono.0);
        let resolve_after = nanos(self.policy.resolve_after);
        let (mut due, mut quiet) = (Vec::new(), Vec::new());
        for alert in &mut self.alerts {
            let unanswered = alert.is_unanswered_critical();
            if unanswered {
                alert.unanswered_ns = alert.unanswered_ns.saturating_add(elapsed);
                if self.policy.escalate_after.is_some_and(|after| alert.unanswered_ns >= nanos(after)) {
                    due.push(alert.number);
                }
            } else if alert.state != State::Resolved {
                let heard = alert.last_at.max(alert.acknowledged.as_ref().map_or(0, |ack| ack.at));
                if now.unix.0.saturating_sub(heard) >= resolve_after {
                    quiet.push(alert.number);
                }
            }
        }
        for number in quiet {
            self.end(number, now.unix.0);
        }
        due.into_iter().filter_map(|number| self.escalate(number, now.unix.0)).collect()
    }

    /// The alert of this number.
    #[must_use]
    pub fn get(&self, number: u64) -> Option<&Alert> {
        let at = self.alerts.binary_search_by_key(&number, |alert| alert.number).ok()?;
        self.alerts.get(at)
    }

    /// All that are kept, newest first.
    pub fn newest(&self) -> impl Iterator<Item = &Alert> {
        self.alerts.iter().rev()
    }

    /// Changes after `seq`, oldest first.
    pub fn changes_after(&self, seq: u64) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(move |change| change.seq > seq)
    }

    /// The number of the last change; 0: none yet.
    #[must_use]
    pub const fn last_seq(&self) -> u64 {
        self.next_seq - 1
    }

    /// Up to where `receiver` has been told. One that was never heard of begins with what happens from now on.
    pub fn receiver(&mut self, receiver: &str) -> u64 {
        if let Some((_, seq)) = self.told.iter().find(|(name, _)| name == receiver) {
            return *seq;
        }
        let seq = self.last_seq();
        self.told.push((receiver.to_owned(), seq));
        seq
    }

    /// Forgets receivers that are not among `receivers`: nothing is kept for them.
    pub fn keep_receivers(&mut self, receivers: &[String]) {
        self.told.retain(|(name, _)| receivers.contains(name));
    }

    /// `receiver` has been told everything up to `seq`.
    pub fn was_told(&mut self, receiver: &str, seq: u64) {
        if let Some((_, told)) = self.told.iter_mut().find(|(name, _)| name == receiver) {
            *told = seq.max(*told);
        }
    }

    /// See [`Saved::born`].
    #[must_use]
    pub const fn born(&self) -> u64 {
        self.born
    }

    /// What has been counted.
    #[must_use]
    pub const fn tally(&self) -> Tally {
        self.tally
    }

    fn get_mut(&mut self, number: u64) -> Option<&mut Alert> {
        let at = self.alerts.binary_search_by_key(&number, |alert| alert.number).ok()?;
        self.alerts.get_mut(at)
    }

    fn enter(&mut self, known: Key, raise: Raise, severity: Severity, summed_up: bool) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        let usual = raise.owner.as_deref().unwrap_or(&self.policy.owner);
        let configured = self.policy.owner_of(&raise.name, raise.scope.as_ref());
        let owner = if configured == self.policy.owner { usual } else { configured }.to_owned();
        let text = clean(&raise.text);
        let runbook = self.policy.runbook_of(&raise.kind);
        self.tally.fired[severity as usize] += 1;
        self.open.insert(known, number);
        self.alerts.push_back(Alert {
            number,
            kind: raise.kind,
            name: raise.name,
            scope: raise.scope,
            severity,
            owners: vec![owner.clone()],
            owner,
            runbook,
            first_text: text.clone(),
            text,
            count: raise.count,
            at: raise.at,
            last_at: raise.at,
            state: State::Firing,
            escalations: 0,
            unanswered_ns: 0,
            acknowledged: None,
            resolved_at: None,
            summed_up,
        });
        number
    }

    fn repeat(&mut self, number: u64, raise: Raise, severity: Severity) {
        let Some(alert) = self.get_mut(number) else { return };
        alert.count = alert.count.saturating_add(raise.count);
        alert.last_at = alert.last_at.max(raise.at);
        alert.text = clean(&raise.text);
        let worse = severity > alert.severity;
        alert.severity = alert.severity.max(severity);
        if !worse && !raise.fresh {
            return;
        }
        let severity = alert.severity;
        let sent = self.flood.admits(severity, raise.at);
        if let Some(alert) = self.get_mut(number) {
            alert.summed_up = !sent;
            // While nobody has answered, the escalation goes on: another event must not put it off.
            if alert.state == State::Acknowledged {
                alert.state = State::Firing;
                alert.acknowledged = None;
                alert.escalations = 0;
                alert.unanswered_ns = 0;
                alert.owners.truncate(1);
                alert.owner.clone_from(&alert.owners[0]);
            }
        }
        self.tally.fired[severity as usize] += 1;
        if sent {
            self.tell(raise.at, What::Fired, number);
        } else {
            self.sum_up(raise.at, severity, &raise.name);
        }
    }

    /// Makes the summary, or counts one more in it.
    fn sum_up(&mut self, at: u64, severity: Severity, name: &str) {
        self.tally.summed_up += 1;
        let known = key(STORM.0, STORM.1, None);
        let open = self.open.get(&known).copied();
        if open.is_none() {
            self.storm_criticals = 0;
        }
        self.storm_criticals += u64::from(severity == Severity::Critical);
        let count = open.and_then(|number| self.get(number)).map_or(0, |alert| alert.count) + 1;
        let text = format!(
            "{count} alerts, {} of them critical, came faster than one by one can be answered: they are listed and \
             not sent each; the last is {name}",
            self.storm_criticals
        );
        let raise = Raise::new(at, STORM.0, STORM.1, text).severity(severity);
        let number = match open {
            None => {
                // The summary itself always finds room: the oldest has to go for it.
                if self.alerts.len() >= KEPT && !self.make_room() {
                    self.drop_oldest();
                }
                let number = self.enter(known, raise, severity, false);
                self.storm_sent_at = at;
                self.tell(at, What::Fired, number);
                return;
            }
            Some(number) => number,
        };
        let per = nanos(self.policy.flood_per);
        let Some(alert) = self.get_mut(number) else { return };
        alert.count = count;
        alert.last_at = alert.last_at.max(at);
        alert.text = clean(&raise.text);
        let worse = severity > alert.severity;
        let answered = alert.state == State::Acknowledged && severity == Severity::Critical;
        if worse || (answered && at.saturating_sub(self.storm_sent_at) >= per) {
            if let Some(alert) = self.get_mut(number) {
                alert.severity = alert.severity.max(severity);
                alert.state = State::Firing;
                alert.acknowledged = None;
                alert.unanswered_ns = 0;
            }
            self.storm_sent_at = at;
            self.tell(at, What::Fired, number);
        }
    }

    fn escalate(&mut self, number: u64, at: u64) -> Option<MustHalt> {
        let (chain, last) = (self.policy.escalation.len(), self.policy.escalate_to);
        // Where there is nobody else it is told once more to the same owner.
        let steps = (chain + usize::from(last != LastResort::None)).max(1);
        let next = self.get(number).and_then(|alert| self.policy.escalation.get(alert.escalations as usize)).cloned();
        let alert = self.get_mut(number)?;
        alert.unanswered_ns = 0;
        let step = alert.escalations as usize;
        if step >= steps {
            return None;
        }
        alert.escalations += 1;
        alert.state = State::Escalated;
        let halts = step >= chain && last != LastResort::None;
        if let Some(owner) = next {
            alert.owner.clone_from(&owner);
            alert.owners.push(owner);
        }
        let summed_up = alert.summed_up;
        let must = halts.then(|| MustHalt {
            number,
            scope: if last == LastResort::Halt { alert.scope.clone() } else { None },
            reason: format!(
                "alert {number} ({}) since {} was answered by nobody: {}",
                alert.name,
                rfc3339(alert.at),
                alert.text
            ),
        });
        self.tally.escalations += 1;
        if !summed_up || must.is_some() {
            self.tell(at, What::Escalated, number);
        }
        must
    }

    fn end(&mut self, number: u64, at: u64) {
        let Some(alert) = self.get_mut(number) else { return };
        alert.state = State::Resolved;
        alert.resolved_at = Some(at);
        let summed_up = alert.summed_up;
        let known = key(&alert.kind, &alert.name, alert.scope.as_ref());
        self.open.remove(&known);
        if !summed_up {
            self.tell(at, What::Resolved, number);
        }
    }

    fn tell(&mut self, at: u64, what: What, number: u64) {
        let Some(alert) = self.get(number).cloned() else { return };
        if self.changes.len() >= CHANGES_KEPT
            && let Some(gone) = self.changes.pop_front()
            && self.told.iter().any(|(_, seq)| *seq < gone.seq)
        {
            self.tally.changes_dropped += 1;
        }
        self.changes.push_back(Change { seq: self.next_seq, at, what, alert });
        self.next_seq += 1;
    }

    /// Drops what can be missed best. False: everything that is kept waits for a person.
    fn make_room(&mut self) -> bool {
        let wanted = |alert: &Alert| match (alert.state, alert.is_unanswered_critical()) {
            (State::Resolved, _) => 0,
            (State::Acknowledged, _) => 1,
            (State::Firing | State::Escalated, false) => 2,
            (State::Firing | State::Escalated, true) => 3,
        };
        // The oldest of the least wanted: `min_by_key` takes the first of equals.
        let least = self.alerts.iter().enumerate().min_by_key(|(_, alert)| wanted(alert));
        let Some((at, _)) = least.filter(|(_, alert)| wanted(alert) < 3) else { return false };
        self.remove(at);
        true
    }

    fn drop_oldest(&mut self) {
        self.tally.overflowed += 1;
        self.remove(0);
    }

    fn remove(&mut self, at: usize) {
        if let Some(gone) = self.alerts.remove(at)
            && gone.state != State::Resolved
        {
            self.open.remove(&key(&gone.kind, &gone.name, gone.scope.as_ref()));
        }
    }
}

fn nanos(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
