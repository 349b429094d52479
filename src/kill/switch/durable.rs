//! What the latch has to hold, and how far its writer is.

use std::sync::PoisonError;

use serde::{Deserialize, Serialize};

use crate::kill::switch::{Cause, Switch, Waker};
use crate::kill::words::{ScopeName, mode_word};
use crate::model::Mode;
use crate::units::Now;

/// One halt as the latch keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatchEntry {
    /// Which scope.
    pub scope: ScopeName,
    /// Its mode.
    #[serde(with = "mode_word")]
    pub mode: Mode,
    /// The epoch at which it got it.
    pub epoch: u64,
    /// The first causes since it was last `Normal`, and the latest.
    pub causes: Vec<Cause>,
}

/// What the latch has to hold now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// [`HaltPage::changes`](crate::kill::page::HaltPage::changes) before the words were read: everything up to it is in
    /// `entries`.
    pub changes: u64,
    /// How many causes were recorded by then, over all scopes: those of halts up to here are in `entries`.
    pub causes: u64,
    /// Beyond every epoch in `entries`.
    pub next_epoch: u64,
    /// Every scope that is not `Normal`, and halts of scopes that the configuration no longer has.
    pub entries: Vec<LatchEntry>,
}

/// How the latch's writer is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LatchStatus {
    /// [`HaltPage::changes`](crate::kill::page::HaltPage::changes) up to which everything is on disk; `None` before the first
    /// write.
    pub durable_changes: Option<u64>,
    /// [`Snapshot::causes`] up to which everything is on disk.
    pub durable_causes: u64,
    /// When that was.
    pub durable_at: Option<Now>,
    /// Why the last write failed; `None` if it did not.
    pub error: Option<String>,
    /// Writes that succeeded.
    pub writes: u64,
    /// Writes that failed.
    pub failures: u64,
}

impl Switch {
    /// What the latch has to hold now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        // Before the words: whatever was counted by then is in them.
        let changes = self.page.changes();
        let words = self.raised_words();
        // After the words: an epoch is taken before it is written into a word.
        let next_epoch = self.page.next_epoch();
        let records = self.lock();
        let causes = records.recorded;
        let mut entries: Vec<LatchEntry> = words
            .into_iter()
            .map(|(slot, scope, word)| LatchEntry {
                scope: ScopeName::of(&self.universe, scope),
                mode: word.mode,
                epoch: word.epoch,
                causes: records.causes.get(&slot).cloned().unwrap_or_default(),
            })
            .collect();
        entries.extend(records.orphans.iter().cloned());
        Snapshot { changes, causes, next_epoch, entries }
    }

    /// The latch's writer reports: `snapshot` is on disk since `at`.
    pub fn latch_written(&self, snapshot: &Snapshot, at: Now) {
        let mut records = self.lock();
        records.latch.durable_changes = Some(snapshot.changes);
        records.latch.durable_causes = snapshot.causes;
        records.latch.durable_at = Some(at);
        records.latch.error = None;
        records.latch.writes += 1;
        records.settle_durable();
        drop(records);
        for progressed in self.progressed.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            progressed();
        }
    }

    /// Has `waker` called too whenever something has become durable. It must not call this.
    pub fn on_progress(&self, waker: Waker) {
        self.progressed.lock().unwrap_or_else(PoisonError::into_inner).push(waker);
    }

    /// The latch's writer reports that it could not write.
    pub fn latch_failed(&self, error: String) {
        let mut records = self.lock();
        records.latch.error = Some(error);
        records.latch.failures += 1;
    }

    /// How the latch's writer is doing.
    #[must_use]
    pub fn latch(&self) -> LatchStatus {
        self.lock().latch.clone()
    }

    /// Whether the page as it is now is on disk.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        let changes = self.page.changes();
        self.lock().latch.durable_changes.is_some_and(|durable| durable >= changes)
    }

    /// As [`Switch::is_durable`], for a thread that panics and may hold the lock itself: then it is not known, so no.
    #[must_use]
    pub fn is_known_durable(&self) -> bool {
        let changes = self.page.changes();
        match self.records.try_lock() {
            Ok(records) => records.latch.durable_changes.is_some_and(|durable| durable >= changes),
            Err(_) => false,
        }
    }
}
