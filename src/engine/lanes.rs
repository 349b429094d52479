//! HOT: no I/O, lock, allocation, logging, formatting, clock or syscall.
//!
//! The engine's end of the lanes that gateways on this host share with it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::engine::agent::Inbound;
use crate::model::cancel::Instruction;
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
    /// A position that waits, and since when it is known to: all before it have waited as long.
    mark: Option<(u64, MonoNanos)>,
    /// Verdicts that wait until what they came of, up to this position of the journal, is durable.
    held: VecDeque<(u64, Verdict)>,
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
    pub fn new(session: SessionId, base: u64, events: Reader, verdicts: Writer, broken: Arc<AtomicBool>) -> LanePort {
        LanePort { session, base, events, verdicts, mark: None, held: VecDeque::new(), broken }
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
            self.mark = None;
            return Ok(());
        }
        let room = match self.verdicts.room() {
            Ok(room) => usize::try_from(room).unwrap_or(usize::MAX).saturating_sub(self.held.len()),
            Err(damaged) => return self.breaks(Broken::Damaged(damaged)),
        };
        if room == 0 {
            // The gateway does not read its verdicts. That is its own standing still, not the engine's; what the disk holds up
            // is.
            if self.held.is_empty() {
                self.mark = None;
            } else {
                self.age(now);
            }
            return Ok(());
        }
        let mark = self.mark;
        let received = |position| mark.filter(|&(until, _)| position <= until).map_or(now, |(_, since)| since);
        let most = most.min(room).min(batch.capacity() - batch.len());
        for _ in 0..most {
            let position = self.events.position();
            match self.events.take() {
                Ok(Some(record)) => match Event::from_record(&record, self.session, self.base + position) {
                    Ok(event) => batch.push(Inbound { event, received: received(position) }),
                    Err(bad) => return self.breaks(Broken::BadField(bad)),
                },
                Ok(None) => break,
                Err(damaged) => return self.breaks(Broken::Damaged(damaged)),
            }
        }
        if self.events.has_next() {
            self.age(now);
        } else {
            self.mark = None;
        }
        Ok(())
    }

    /// What waits now has waited since `now`, unless it is known to have waited for longer.
    fn age(&mut self, now: MonoNanos) {
        if self.mark.is_none_or(|(until, _)| until < self.events.position()) {
            self.mark = Some((self.events.last(), now));
        }
    }

    /// The events that were taken have been decided, and their verdicts given.
    pub fn release(&mut self) {
        if !self.is_broken() {
            self.events.release();
        }
    }

    /// Since when an event waits that could have been taken.
    #[must_use]
    pub fn waiting_since(&self) -> Option<MonoNanos> {
        self.mark.map(|(_, since)| since)
    }

    /// Has room for as many verdicts as the lane may ever owe, so that holding them takes no memory later.
    pub fn reserve(&mut self) {
        self.held.reserve_exact(self.verdicts.places());
    }

    /// Keeps `verdict` back until the journal is durable up to `position`.
    pub fn hold(&mut self, position: u64, verdict: Verdict) {
        self.held.push_back((position, verdict));
    }

    /// Whether a verdict is held back that need not be, once the journal is durable up to what `is_durable` says.
    pub fn can_release(&self, is_durable: impl Fn(u64) -> bool) -> bool {
        self.held.front().is_some_and(|&(position, _)| is_durable(position))
    }

    /// Whether any verdict is held back.
    #[must_use]
    pub fn holds_back(&self) -> bool {
        !self.held.is_empty()
    }

    /// Gives the verdicts that need not be held back any longer; returns how many.
    ///
    /// # Errors
    /// If the lane is broken, once.
    pub fn release_held(&mut self, is_durable: impl Fn(u64) -> bool) -> Result<usize, Broken> {
        let mut released = 0;
        while self.can_release(&is_durable)
            && let Some((_, verdict)) = self.held.pop_front()
        {
            self.answer(&verdict)?;
            released += 1;
        }
        Ok(released)
    }

    /// Gives `verdict`. `take` made sure of the room. Nobody waits for the verdicts of a broken lane.
    ///
    /// # Errors
    /// If the lane is broken, once.
    pub fn answer(&mut self, verdict: &Verdict) -> Result<(), Broken> {
        if self.is_broken() {
            return Ok(());
        }
        let Verdict { session: _, seq, id, kind, denial, checks } = *verdict;
        let record = VerdictRecord { seq, id, kind, denial, checks }.to_record();
        match self.verdicts.push(record) {
            Ok(_) => Ok(()),
            Err(damaged) => self.breaks(Broken::Damaged(damaged)),
        }
    }

    /// Gives `instruction` if half of the lane stays free for verdicts: a gateway that reads no instructions goes on being heard.
    /// Returns whether there was room.
    ///
    /// # Errors
    /// If the lane is broken, once.
    pub fn instruct(&mut self, instruction: &Instruction) -> Result<bool, Broken> {
        if self.is_broken() {
            return Ok(false);
        }
        let pushed = match self.verdicts.room() {
            Ok(room) if room <= (self.held.len() + self.verdicts.places() / 2) as u64 => return Ok(false),
            Ok(_) => self.verdicts.push(instruction.to_record()),
            Err(damaged) => Err(damaged),
        };
        match pushed {
            Ok(place) => Ok(place.is_some()),
            Err(damaged) => self.breaks(Broken::Damaged(damaged)).map(|()| false),
        }
    }

    /// Whether nothing is taken from it any more.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Takes nothing more.
    pub fn give_up(&mut self) {
        self.broken.store(true, Ordering::Release);
        self.mark = None;
        self.held.clear();
    }

    fn breaks(&mut self, why: Broken) -> Result<(), Broken> {
        self.give_up();
        Err(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::EventKind;
    use crate::ring::lane::RECORD_WORDS;
    use crate::ring::shm::Words;
    use crate::units::OrdId;

    fn lane(places: usize) -> (Writer, LanePort) {
        let places = places * RECORD_WORDS;
        let (events, cursor) = (Words::heap(places), Words::heap(1));
        let writer = Writer::resume(events.clone(), cursor.clone()).unwrap();
        let verdicts = Writer::resume(Words::heap(places), Words::heap(1)).unwrap();
        (writer, LanePort::new(SessionId(0), 0, Reader::behind(events, cursor, 0), verdicts, Arc::default()))
    }

    fn put(writer: &mut Writer, count: usize) {
        for _ in 0..count {
            writer.push(Event::new(EventKind::Heartbeat, SessionId(0), 0).to_record()).unwrap().unwrap();
        }
    }

    #[test]
    fn what_is_not_taken_grows_older() {
        let (mut writer, mut port) = lane(8);
        let mut batch = Vec::with_capacity(16);
        let mut ages = |most, now, batch: &mut Vec<Inbound>| {
            batch.clear();
            port.take(most, MonoNanos(now), batch).unwrap();
            port.release();
            (batch.iter().map(|inbound| inbound.received.0).collect::<Vec<_>>(), port.waiting_since().map(|at| at.0))
        };
        put(&mut writer, 6);
        // The journal has no room: nothing is taken, and a lease must not be renewed for that.
        assert_eq!(ages(0, 10, &mut batch), (vec![], Some(10)));
        assert_eq!(ages(0, 20, &mut batch), (vec![], Some(10)));
        // A backlog is as old as when it was first seen, though something is taken of it in every round.
        assert_eq!(ages(2, 30, &mut batch), (vec![10, 10], Some(10)));
        put(&mut writer, 2);
        assert_eq!(ages(2, 40, &mut batch), (vec![10, 10], Some(10)));
        assert_eq!(ages(2, 50, &mut batch), (vec![10, 10], Some(50)), "all of the first backlog is taken");
        assert_eq!(ages(2, 60, &mut batch), (vec![50, 50], None));
    }

    #[test]
    fn what_the_disk_holds_up_grows_older_and_what_the_gateway_holds_up_does_not() {
        let (mut writer, mut port) = lane(2);
        let mut batch = Vec::with_capacity(16);
        let verdict =
            Verdict { session: SessionId(0), seq: 1, id: OrdId(1), kind: EventKind::New, denial: None, checks: 0 };
        put(&mut writer, 1);
        port.hold(5, verdict);
        port.hold(6, verdict);
        for now in [10, 20] {
            port.take(8, MonoNanos(now), &mut batch).unwrap();
            assert_eq!((batch.len(), port.waiting_since()), (0, Some(MonoNanos(10))));
        }
        // The disk has it, and nobody reads the verdicts.
        assert_eq!(port.release_held(|_| true), Ok(2));
        port.take(8, MonoNanos(30), &mut batch).unwrap();
        assert_eq!((batch.len(), port.waiting_since()), (0, None));
    }
}
