//! Which sessions are there, and how much of the halt page each has been told and has confirmed.
//!
//! Written by the transports, read by the kill receipt and the metrics. What is pushed is the page's
//! state, not a list of messages: a session that confirms `changes` = n has seen everything that was
//! raised up to n.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// One session's part of the board.
#[derive(Debug, Default)]
pub struct SessionCell {
    connected: AtomicBool,
    by_gate: AtomicBool,
    was_by_gate: AtomicBool,
    told: AtomicU64,
    told_at: AtomicU64,
    confirmed: AtomicU64,
    confirmed_at: AtomicU64,
    last_seq: AtomicU64,
}

/// A session as the board shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionView {
    /// Whether it is connected over WebSocket.
    pub connected: bool,
    /// Whether a gate on this host has it.
    pub by_gate: bool,
    /// Whether a gate has had it since haltline was started: what it sent did not pass the transport, which does not know where
    /// the stream is.
    pub was_by_gate: bool,
    /// [`HaltPage::changes`](super::page::HaltPage::changes) as last written to its connection.
    pub told: u64,
    /// When, monotonic ns.
    pub told_at: u64,
    /// The same as last confirmed by it.
    pub confirmed: u64,
    /// When, monotonic ns.
    pub confirmed_at: u64,
    /// The last sequence that the edge took from it.
    pub last_seq: u64,
}

/// All sessions, by [`SessionId`](crate::units::SessionId).
#[derive(Debug)]
pub struct SessionBoard {
    cells: Box<[SessionCell]>,
}

impl SessionBoard {
    /// A board of `sessions` sessions, none connected.
    #[must_use]
    pub fn new(sessions: usize) -> SessionBoard {
        SessionBoard { cells: (0..sessions).map(|_| SessionCell::default()).collect() }
    }

    /// The session's cell.
    #[must_use]
    pub fn cell(&self, session: usize) -> Option<&SessionCell> {
        self.cells.get(session)
    }

    /// How many sessions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }
}

impl SessionCell {
    /// The transport has it, or has it no longer.
    pub fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::SeqCst);
    }
    /// What a gate sends for it is taken from now on.
    pub fn set_was_by_gate(&self) {
        self.was_by_gate.store(true, Ordering::SeqCst);
    }
    /// A gate on this host has it, or has it no longer.
    pub fn set_by_gate(&self, attached: bool) {
        self.by_gate.store(attached, Ordering::SeqCst);
    }
    /// The page's state `changes` was written to the connection at `at` (monotonic ns).
    pub fn set_told(&self, changes: u64, at: u64) {
        self.told_at.store(at, Ordering::Relaxed);
        self.told.store(changes, Ordering::SeqCst);
    }
    /// The session confirmed the page's state `changes` at `at` (monotonic ns). Never goes back.
    pub fn set_confirmed(&self, changes: u64, at: u64) {
        if changes > self.confirmed.load(Ordering::Relaxed) {
            self.confirmed_at.store(at, Ordering::Relaxed);
            self.confirmed.store(changes, Ordering::SeqCst);
        }
    }
    /// The edge took event `seq`.
    pub fn set_last_seq(&self, seq: u64) {
        self.last_seq.store(seq, Ordering::Relaxed);
    }
    /// What it shows.
    #[must_use]
    pub fn view(&self) -> SessionView {
        SessionView {
            connected: self.connected.load(Ordering::SeqCst),
            by_gate: self.by_gate.load(Ordering::SeqCst),
            was_by_gate: self.was_by_gate.load(Ordering::SeqCst),
            told: self.told.load(Ordering::SeqCst),
            told_at: self.told_at.load(Ordering::Relaxed),
            confirmed: self.confirmed.load(Ordering::SeqCst),
            confirmed_at: self.confirmed_at.load(Ordering::Relaxed),
            last_seq: self.last_seq.load(Ordering::Relaxed),
        }
    }
}
