//! How the journal is doing: written by the journal's thread and the engine's, read by any.
//!
//! # Synchronization
//!
//! Every field has one writing thread and stands for itself; none tells anything about another but `synced`, which
//! is raised after the sync that it tells of (release) and read before what waited for it goes out (acquire).

use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex;

use crate::engine::published::{Counter, Latency};

/// See the module.
#[derive(Debug, Default)]
pub struct Durability {
    synced: AtomicU64,
    /// Unix ns since when the journal cannot be written; 0 if it can.
    failed_since: AtomicU64,
    /// Why.
    error: Mutex<Option<String>>,
    /// Cells that found no room although it had been asked for: our own bug. The engine's thread only.
    pub lost: Counter,
    /// Cells recorded. The engine's thread only.
    pub recorded: Counter,
    /// 1 while new flow is denied because the journal is behind. The engine's thread only.
    pub behind: Counter,
    /// Cells that the ring holds.
    pub capacity: Counter,
    /// Cells written to segments.
    pub written: Counter,
    /// Bytes written to segments.
    pub bytes: Counter,
    /// Groups written.
    pub groups: Counter,
    /// Segments begun.
    pub segments: Counter,
    /// Syncs that succeeded.
    pub syncs: Counter,
    /// Writes and syncs that failed.
    pub failures: Counter,
    /// Signed checkpoints written.
    pub checkpoints: Counter,
    /// How long a sync took.
    pub sync_latency: Latency,
}

/// How the journal is doing, in one word and its explanation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalState {
    /// Unix ns since when it cannot be written; `None` if it can.
    pub failed_since: Option<u64>,
    /// Why it cannot.
    pub error: Option<String>,
    /// New flow is denied because of it.
    pub denies_new_flow: bool,
    /// Cells recorded and not on disk yet.
    pub waiting: u64,
    /// How many may wait before nothing more is taken in.
    pub capacity: u64,
}

impl Durability {
    /// Cells before this number survive a power loss.
    #[inline]
    #[must_use]
    pub fn synced(&self) -> u64 {
        self.synced.load(Ordering::Acquire)
    }

    /// Everything before `position` is on disk. The journal's thread only.
    pub fn set_synced(&self, position: u64) {
        self.synced.store(position, Ordering::Release);
    }

    /// The journal could not be written at `unix` ns; the first of several counts as the begin.
    pub fn failed(&self, unix: u64, error: &str) {
        let _ = self.failed_since.compare_exchange(0, unix.max(1), Ordering::Relaxed, Ordering::Relaxed);
        if let Ok(mut place) = self.error.lock() {
            *place = Some(error.to_owned());
        }
    }

    /// It can be written again.
    pub fn recovered(&self) {
        self.failed_since.store(0, Ordering::Relaxed);
        if let Ok(mut place) = self.error.lock() {
            *place = None;
        }
    }

    /// What is shown.
    #[must_use]
    pub fn state(&self) -> JournalState {
        let since = self.failed_since.load(Ordering::Relaxed);
        JournalState {
            failed_since: (since != 0).then_some(since),
            error: self.error.lock().ok().and_then(|error| error.clone()),
            denies_new_flow: self.behind.get() != 0,
            waiting: self.recorded.get().saturating_sub(self.synced()),
            capacity: self.capacity.get(),
        }
    }
}
