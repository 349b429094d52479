//! The alert centre: every trip, warning, anomaly and finding of the guard, who owns it, who has answered.
//!
//! [`Alerts`] is the handle that everybody shares: any thread raises, people acknowledge, the thread `haltline-alerts`
//! lets time pass, delivery reads. What becomes of an alert is decided in [`book`]. The lock is held for microseconds
//! and never over a disk or a socket.
//!
//! ```
//! use haltline::kill::alerts::{Alerts, Raise};
//!
//! let alerts = Alerts::default();
//! for second in 0..90 {
//!     alerts.raise(Raise::new(second, "signature", "power_peg_disabled", "a text that was never seen").critical());
//! }
//! // One alert, with its count; nothing opens until somebody has answered it.
//! assert_eq!(alerts.newest(10).len(), 1);
//! assert_eq!(alerts.blocking()[0].count, 90);
//! alerts.acknowledge(1, "alice", "looking at server 8", 91).unwrap();
//! assert!(alerts.blocking().is_empty());
//! ```

pub mod book;
mod flood;
pub mod policy;
mod show;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub use book::{AckRefused, Alert, Book, CHANGES_KEPT, Change, KEPT, MustHalt, Raise, Saved, State, Tally, What};
pub use policy::{LastResort, OwnerOf, Policy, Severity};

use crate::kill::words::ScopeName;
use crate::units::Now;

/// Wakes somebody who has to tell of a change. Must not block.
pub type AlertWaker = Box<dyn Fn() + Send + Sync>;

/// Which alerts to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// In this state.
    pub state: Option<State>,
    /// Not resolved.
    pub open: bool,
    /// At least as bad.
    pub severity: Option<Severity>,
    /// Of this owner.
    pub owner: Option<String>,
    /// Of this kind.
    pub kind: Option<String>,
    /// Of this name.
    pub name: Option<String>,
    /// About this scope.
    pub scope: Option<ScopeName>,
    /// Older than the one of this number.
    pub before: Option<u64>,
}

impl Filter {
    fn takes(&self, alert: &Alert) -> bool {
        self.state.is_none_or(|state| state == alert.state)
            && !(self.open && alert.state == State::Resolved)
            && self.severity.is_none_or(|severity| alert.severity >= severity)
            && self.owner.as_ref().is_none_or(|owner| alert.owners.contains(owner))
            && self.kind.as_ref().is_none_or(|kind| *kind == alert.kind)
            && self.name.as_ref().is_none_or(|name| *name == alert.name)
            && self.scope.as_ref().is_none_or(|scope| Some(scope) == alert.scope.as_ref())
            && self.before.is_none_or(|before| alert.number < before)
    }
}

/// How things stand, for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Alerts that are not over, by severity and by [`State`].
    pub open: [[u64; State::ALL.len()]; Severity::ALL.len()],
    /// Critical ones that nobody has answered.
    pub unanswered: u64,
    /// When the oldest of them began, Unix ns.
    pub oldest_unanswered: Option<u64>,
    /// Counts since the start.
    pub tally: Tally,
}

/// See the module.
pub struct Alerts {
    book: Mutex<Book>,
    wakers: Mutex<Vec<AlertWaker>>,
    /// The last change that the wakers were called for.
    woken: AtomicU64,
}

impl core::fmt::Debug for Alerts {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Alerts").field("book", &self.book).finish_non_exhaustive()
    }
}

impl Default for Alerts {
    fn default() -> Alerts {
        Alerts::new(Policy::default())
    }
}

impl Alerts {
    /// A centre without alerts.
    #[must_use]
    pub fn new(policy: Policy) -> Alerts {
        Alerts { book: Mutex::new(Book::new(policy)), wakers: Mutex::default(), woken: AtomicU64::new(0) }
    }

    /// Goes on from what an earlier run saved; see [`Book::restore`]. For a centre that is still empty.
    pub fn restore(&self, saved: Saved, now_unix: u64) {
        self.change(|book| book.restore(saved, now_unix));
    }

    /// Calls `wake` after every change that has to be told.
    pub fn on_change(&self, wake: AlertWaker) {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner).push(wake);
    }

    /// Takes an alert about haltline as a whole. What is a trip, a kill or a page that was raised outside is critical and an
    /// event of its own; everything else is a warning. [`Alerts::raise`] says more.
    pub fn push(&self, at: u64, kind: &'static str, name: &'static str, text: String) {
        let raise = Raise::new(at, kind, name, text);
        self.raise(match kind {
            "trip" | "page" => raise.critical().afresh(),
            _ => raise,
        });
    }

    /// Takes an alert; see [`Book::raise`].
    pub fn raise(&self, raise: Raise) -> Option<u64> {
        self.change(|book| book.raise(raise))
    }

    /// Counts more of an alert that is open; see [`Book::again`].
    pub fn again(&self, at: u64, kind: &str, name: &str, scope: Option<&ScopeName>, count: u64) -> bool {
        self.change(|book| book.again(at, kind, name, scope, count))
    }

    /// What it was about is over; see [`Book::resolve`].
    pub fn resolve(&self, at: u64, kind: &str, name: &str, scope: Option<&ScopeName>) {
        self.change(|book| book.resolve(at, kind, name, scope));
    }

    /// A person looks at it; see [`Book::acknowledge`].
    ///
    /// # Errors
    /// See [`AckRefused`].
    pub fn acknowledge(&self, number: u64, by: &str, reason: &str, at: u64) -> Result<Alert, AckRefused> {
        self.change(|book| book.acknowledge(number, by, reason, at))
    }

    /// Lets time pass; see [`Book::tick`].
    #[must_use]
    pub fn tick(&self, now: Now) -> Vec<MustHalt> {
        self.change(|book| book.tick(now))
    }

    /// The newest `count`, newest first.
    #[must_use]
    pub fn newest(&self, count: usize) -> Vec<Alert> {
        self.lock().newest().take(count).cloned().collect()
    }

    /// The newest `count` that `filter` takes, newest first.
    #[must_use]
    pub fn list(&self, filter: &Filter, count: usize) -> Vec<Alert> {
        self.lock().newest().filter(|alert| filter.takes(alert)).take(count).cloned().collect()
    }

    /// The alert of this number.
    #[must_use]
    pub fn get(&self, number: u64) -> Option<Alert> {
        self.lock().get(number).cloned()
    }

    /// What keeps the day from being opened: critical alerts that nobody has answered, if they are configured to. Newest
    /// first.
    #[must_use]
    pub fn blocking(&self) -> Vec<Alert> {
        let book = self.lock();
        if !book.policy().blocks_open {
            return Vec::new();
        }
        book.newest().filter(|alert| alert.is_unanswered_critical()).cloned().collect()
    }

    /// The critical alert about `scope` that has to be acknowledged before it is re-armed, if that is configured.
    #[must_use]
    pub fn holding(&self, scope: &ScopeName) -> Option<u64> {
        let book = self.lock();
        if !book.policy().holds_rearm {
            return None;
        }
        let about = |alert: &&Alert| alert.is_unanswered_critical() && alert.scope.as_ref() == Some(scope);
        book.newest().find(about).map(|alert| alert.number)
    }

    /// Changes after `seq`, oldest first, at most `count`.
    #[must_use]
    pub fn changes_after(&self, seq: u64, count: usize) -> Vec<Change> {
        self.lock().changes_after(seq).take(count).cloned().collect()
    }

    /// The number of the last change; 0: none yet.
    #[must_use]
    pub fn last_seq(&self) -> u64 {
        self.lock().last_seq()
    }

    /// Up to where `receiver` has been told; see [`Book::receiver`].
    #[must_use]
    pub fn receiver(&self, receiver: &str) -> u64 {
        self.lock().receiver(receiver)
    }

    /// Forgets all receivers but these.
    pub fn keep_receivers(&self, receivers: &[String]) {
        self.lock().keep_receivers(receivers);
    }

    /// `receiver` has been told everything up to `seq`.
    pub fn was_told(&self, receiver: &str, seq: u64) {
        self.lock().was_told(receiver, seq);
    }

    /// When these alerts were first counted; see [`Saved::born`].
    #[must_use]
    pub fn born(&self) -> u64 {
        self.lock().born()
    }

    /// What has to survive a restart.
    #[must_use]
    pub fn saved(&self, at: u64) -> Saved {
        self.lock().saved(at)
    }

    /// How things stand.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let book = self.lock();
        let mut standing = Standing { tally: book.tally(), ..Standing::default() };
        for alert in book.newest().filter(|alert| alert.state != State::Resolved) {
            standing.open[alert.severity as usize][alert.state as usize] += 1;
            if alert.is_unanswered_critical() {
                standing.unanswered += 1;
                standing.oldest_unanswered = Some(standing.oldest_unanswered.map_or(alert.at, |at| at.min(alert.at)));
            }
        }
        standing
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.lock().policy().clone()
    }

    /// Changes the book, and wakes whoever tells of changes if there is a new one.
    fn change<T>(&self, change: impl FnOnce(&mut Book) -> T) -> T {
        let (result, seq) = {
            let mut book = self.lock();
            let result = change(&mut book);
            (result, book.last_seq())
        };
        if self.woken.fetch_max(seq, Ordering::Relaxed) < seq {
            for wake in self.wakers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                wake();
            }
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
