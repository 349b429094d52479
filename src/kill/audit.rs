//! Who did what, when, from where, with which reason, and what came of it: control records, on their way to the journal.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::Sender;
use serde::{Deserialize, Serialize};

use crate::duty::Clock;
use crate::kill::words::{ScopeName, TEXT_MAX};

/// One control record. Its JSON is one line of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When, Unix ns.
    pub at: u64,
    /// Who: a principal, `signal`, `engine`, `haltline`, or `?` where nobody was recognised.
    pub actor: String,
    /// From where: an address, or empty for this machine's own doing.
    #[serde(default)]
    pub from: String,
    /// `kill`, `confirmed`, `rearm`, `approve`, `ack`, `limits`, `auth`, `trip`, `start`, `stop`.
    pub action: String,
    /// On what, where it is about a scope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<ScopeName>,
    /// In the actor's words.
    #[serde(default)]
    pub reason: String,
    /// `done`, `pending`, or `refused: ` and why.
    pub outcome: String,
    /// What it changed, or what it was about.
    #[serde(default)]
    pub detail: String,
}

impl Entry {
    /// A record of something that was done.
    #[must_use]
    pub fn new(actor: &str, action: &str) -> Entry {
        Entry {
            at: 0,
            actor: actor.to_owned(),
            from: String::new(),
            action: action.to_owned(),
            scope: None,
            reason: String::new(),
            outcome: "done".to_owned(),
            detail: String::new(),
        }
    }

    /// With its scope.
    #[must_use]
    pub fn on(mut self, scope: ScopeName) -> Entry {
        self.scope = Some(scope);
        self
    }

    /// With the actor's reason.
    #[must_use]
    pub fn because(mut self, reason: &str) -> Entry {
        self.reason = reason.chars().take(TEXT_MAX).collect();
        self
    }

    /// With what it changed.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Entry {
        self.detail = detail.into();
        self
    }

    /// From this address.
    #[must_use]
    pub fn from(mut self, from: impl ToString) -> Entry {
        self.from = from.to_string();
        self
    }

    /// With this outcome.
    #[must_use]
    pub fn outcome(mut self, outcome: impl Into<String>) -> Entry {
        self.outcome = outcome.into();
        self
    }

    /// Refused.
    #[must_use]
    pub fn refused(self, why: &str) -> Entry {
        self.outcome(format!("refused: {why}"))
    }
}

/// Takes control records from any thread. Never waits: what finds no room is counted.
pub struct Audit {
    to: Option<Sender<String>>,
    clock: Arc<dyn Clock>,
    dropped: AtomicU64,
    /// The second, and how many refusals came in it: of people who are known, and of others.
    refusals: Mutex<(u64, [u32; 2])>,
}

/// Refused attempts that are recorded per second; more are counted, and told with the next. Somebody who guesses tokens
/// shall not fill the disk, nor keep what a known person was refused out of it: those are counted by themselves.
const REFUSALS_PER_SECOND: u32 = 50;

impl Audit {
    /// Records go to `to`; without it nowhere.
    #[must_use]
    pub fn new(to: Option<Sender<String>>, clock: Arc<dyn Clock>) -> Audit {
        Audit { to, clock, dropped: AtomicU64::new(0), refusals: Mutex::default() }
    }

    /// Records `entry` as of now.
    pub fn record(&self, entry: Entry) {
        let Some(to) = &self.to else { return };
        let now = self.clock.now();
        if entry.outcome.starts_with("refused") && !self.refusal_passes(now.mono.0 / 1_000_000_000, entry.actor == "?")
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let mut entry = Entry { at: now.unix.0, ..entry };
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            entry.detail = format!("{} ({dropped} records before this one were not kept)", entry.detail);
        }
        // Strings and numbers always have a JSON form.
        let sent = serde_json::to_string(&entry).is_ok_and(|line| to.try_send(line).is_ok());
        if !sent {
            self.dropped.fetch_add(dropped + 1, Ordering::Relaxed);
        }
    }

    /// Records that are not in the journal since the last one that is.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn refusal_passes(&self, second: u64, unknown: bool) -> bool {
        let mut count = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if count.0 != second {
            *count = (second, [0; 2]);
        }
        let count = &mut count.1[usize::from(unknown)];
        *count = count.saturating_add(1);
        *count <= REFUSALS_PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kill::testing::TestClock;

    #[test]
    fn guessed_tokens_do_not_fill_the_journal_and_are_counted() {
        let (to, lines) = crossbeam_channel::bounded(1_000);
        let clock = TestClock::new();
        let audit = Audit::new(Some(to), clock.clone());
        for _ in 0..500 {
            audit.record(Entry::new("?", "auth").refused("unauthorized"));
        }
        assert_eq!(lines.len(), REFUSALS_PER_SECOND as usize);
        // What is done is recorded whatever else goes on, and what somebody was refused; it tells what is missing.
        audit.record(Entry::new("mallory", "rearm").refused("same person"));
        audit.record(Entry::new("olaf", "kill"));
        let [refused, last] = [lines.iter().nth(50), lines.iter().next()].map(|line| line.unwrap());
        let [refused, last] = [refused, last].map(|line| serde_json::from_str::<Entry>(&line).unwrap());
        assert_eq!((refused.actor.as_str(), last.actor.as_str()), ("mallory", "olaf"));
        assert!(refused.detail.contains("450 records"), "{}", refused.detail);
        clock.advance(2_000_000_000);
        audit.record(Entry::new("?", "auth").refused("unauthorized"));
        assert_eq!(lines.len(), 1);
    }

    #[test]
    fn a_full_channel_is_waited_for_by_nobody() {
        let (to, lines) = crossbeam_channel::bounded(1);
        let audit = Audit::new(Some(to), TestClock::new());
        for _ in 0..3 {
            audit.record(Entry::new("olaf", "kill"));
        }
        assert_eq!((lines.len(), audit.dropped()), (1, 2));
    }
}
