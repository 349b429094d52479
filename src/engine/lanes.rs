//! HOT: no I/O, lock, allocation, logging, formatting, clock or syscall.
//!
//! The engine's end of the lanes that gateways on this host share with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::engine::agent::Inbound;
use crate::model::record::VerdictRecord;
use crate::model::{Event, Verdict};
use crate::ring::lane::{Damaged, Reader, Writer};
use crate::units::{MonoNanos, SessionId};

/// One session's lanes.
#[derive(Debug)]
pub struct LanePort {
    session: SessionId,
    base: u64,
    events: Reader,
    verdicts: Writer,
    /// Since when something waits, as far as the engine has seen.
    waiting_since: Option<MonoNanos>,
    broken: Arc<AtomicBool>,
}

/// What is wrong with a lane: nothing more is taken from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The memory is damaged.
    Damaged(Damaged),
    /// A record says something that does not exist.
    BadField(crate::model::record::BadField),
}

impl LanePort {
    /// The lanes of `session`, whose event at position `p` is number `base + p` of its stream. `broken` is set when nothing more
    /// is taken from them.
    #[must_use]
    pub const fn new(
        session: SessionId,
        base: u64,
        events: Reader,
        verdicts: Writer,
        broken: Arc<AtomicBool>,
    ) -> LanePort {
        LanePort { session, base, events, verdicts, waiting_since: None, broken }
    }

    /// Whose they are.
    #[must_use]
    pub const fn session(&self) -> SessionId {
        self.session
    }

    /// Whether there is something to take.
    #[must_use]
    pub fn has_next(&self) -> bool {
        !self.is_broken() && self.events.has_next()
    }

    /// Takes at most `most` events into `batch`, of which each may have a verdict, so as many as verdicts have room.
    ///
    /// # Errors
    /// If the lane is broken, once. What was taken before is in `batch`.
    pub fn take(&mut self, most: usize, now: MonoNanos, batch: &mut Vec<Inbound>) -> Result<(), Broken> {
        if self.is_broken() || !self.events.has_next() {
            self.waiting_since = None;
            return Ok(());
        }
        let room = match self.verdicts.room() {
            Ok(room) => usize::try_from(room).unwrap_or(usize::MAX),
            Err(damaged) => return self.breaks(Broken::Damaged(damaged)),
        };
        if room == 0 {
            // The gateway does not read its verdicts. That is its own standing still, not the engine's.
            self.waiting_since = None;
            return Ok(());
        }
        let received = self.waiting_since.unwrap_or(now);
        let most = most.min(room).min(batch.capacity() - batch.len());
        for _ in 0..most {
            let position = self.events.position();
            match self.events.take() {
                Ok(Some(record)) => match Event::from_record(&record, self.session, self.base + position) {
                    Ok(event) => batch.push(Inbound { event, received }),
                    Err(bad) => return self.breaks(Broken::BadField(bad)),
                },
                Ok(None) => break,
                Err(damaged) => return self.breaks(Broken::Damaged(damaged)),
            }
        }
        self.waiting_since = self.events.has_next().then_some(now);
        Ok(())
    }

    /// The events that were taken have been decided, and their verdicts given.
    pub fn release(&mut self) {
        if !self.is_broken() {
            self.events.release();
        }
    }

    /// Since when an event waits that could have been taken.
    #[must_use]
    pub const fn waiting_since(&self) -> Option<MonoNanos> {
        self.waiting_since
    }

    /// Gives `verdict`. `take` made sure of the room.
    ///
    /// # Errors
    /// If the lane is broken.
    pub fn answer(&mut self, verdict: &Verdict) -> Result<(), Broken> {
        let Verdict { session: _, seq, id, kind, denial, checks } = *verdict;
        let record = VerdictRecord { seq, id, kind, denial, checks }.to_record();
        match self.verdicts.push(record) {
            Ok(_) => Ok(()),
            Err(damaged) => self.breaks(Broken::Damaged(damaged)),
        }
    }

    fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Takes nothing more.
    pub fn give_up(&mut self) {
        self.broken.store(true, Ordering::Release);
        self.waiting_since = None;
    }

    fn breaks(&mut self, why: Broken) -> Result<(), Broken> {
        self.give_up();
        Err(why)
    }
}
