//! What one session's gateway and haltline share: slots, a lane of events to haltline, a lane of verdicts back.
//!
//! Made by haltline in a sealed memory file and handed over at the attach. Both sides can write all of it, so haltline
//! believes none of it: what a gateway spoils is its own session.
//!
//! # Layout
//!
//! Version 1, 64-bit words:
//!
//! ```text
//!   0  magic      0x4554_4147_544C_4148, "HALTGATE"
//!   1  layout version
//!   2  session (bits 0..16), kind (bits 16..24: 1 asks, 2 observes)
//!   3  base       an event at position p is number base + p of its session's stream
//!   4  places of the event lane (low half), of the verdict lane (high half)
//!   5  slots
//!  16  cursor of the event lane      (haltline's: events up to it are taken)
//!  32  cursor of the verdict lane    (the gateway's: verdicts up to it were read)
//!  33  answered                     (the gateway's: the last position whose verdict it has read)
//!  64  slots, 16 words each
//!   …  event lane, 8 words per place
//!   …  verdict lane, 8 words per place
//! ```

use crate::ring::lane::RECORD_WORDS;
use crate::ring::shm::Words;
use crate::ring::slots::SLOT_WORDS;
use crate::ring::sync::Ordering;
use crate::units::SessionId;

/// The first word.
pub const MAGIC: u64 = 0x4554_4147_544C_4148;
/// The version of the layout.
pub const VERSION: u64 = 1;
const AT_SESSION: usize = 2;
const AT_BASE: usize = 3;
const AT_PLACES: usize = 4;
const AT_SLOTS: usize = 5;
const AT_EVENT_CURSOR: usize = 16;
const AT_VERDICT_CURSOR: usize = 32;
const AT_ANSWERED: usize = 33;
const AT_BODY: usize = 64;

/// What the session may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum GateKind {
    /// Asks before it sends.
    Ask = 1,
    /// Checks the page, sends, and reports.
    Observe = 2,
}

/// How large a region is, and whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionShape {
    /// Whose it is.
    pub session: SessionId,
    /// What it may do.
    pub kind: GateKind,
    /// See the layout.
    pub base: u64,
    /// Places for events, a power of two.
    pub events: u32,
    /// Places for verdicts, a power of two.
    pub verdicts: u32,
    /// How many threads can be inside at once.
    pub slots: u32,
}

/// Most places of a lane: 64 MiB.
pub const MAX_PLACES: u32 = 1 << 20;
/// Most slots.
pub const MAX_SLOTS: u32 = 1024;

/// A region, on either side.
#[derive(Clone, Debug)]
pub struct Region {
    words: Words,
    shape: RegionShape,
}

impl RegionShape {
    /// How many words such a region has, in whole pages of the system.
    #[must_use]
    pub fn words(&self) -> usize {
        let body = self.slots as usize * SLOT_WORDS + (self.events as usize + self.verdicts as usize) * RECORD_WORDS;
        (AT_BODY + body).next_multiple_of(512)
    }

    fn is_possible(&self) -> bool {
        let lane = |places: u32| places.is_power_of_two() && places <= MAX_PLACES;
        lane(self.events) && lane(self.verdicts) && (1..=MAX_SLOTS).contains(&self.slots) && self.base <= u64::MAX / 4
    }
}

impl Region {
    /// Writes the header of a new region into `words`.
    ///
    /// # Panics
    /// If the shape is impossible or does not fit: haltline's own numbers.
    #[must_use]
    pub fn make(words: Words, shape: RegionShape) -> Region {
        assert!(shape.is_possible() && words.len() == shape.words());
        let put = |at: usize, value: u64| words[at].store(value, Ordering::Relaxed);
        put(1, VERSION);
        put(AT_SESSION, u64::from(shape.session.0) | (shape.kind as u64) << 16);
        put(AT_BASE, shape.base);
        put(AT_PLACES, u64::from(shape.events) | u64::from(shape.verdicts) << 32);
        put(AT_SLOTS, shape.slots.into());
        words[0].store(MAGIC, Ordering::Release);
        Region { words, shape }
    }

    /// Reads the header of a region that the other side may have written over.
    ///
    /// # Errors
    /// Which field is impossible.
    pub fn read(words: Words) -> Result<Region, &'static str> {
        if words.len() < AT_BODY {
            return Err("size");
        }
        let word = |at: usize| words[at].load(Ordering::Acquire);
        if word(0) != MAGIC {
            return Err("magic");
        }
        if word(1) != VERSION {
            return Err("layout version");
        }
        let kind = match word(AT_SESSION) >> 16 {
            1 => GateKind::Ask,
            2 => GateKind::Observe,
            _ => return Err("kind"),
        };
        let shape = RegionShape {
            session: SessionId(word(AT_SESSION) as u16),
            kind,
            base: word(AT_BASE),
            events: word(AT_PLACES) as u32,
            verdicts: (word(AT_PLACES) >> 32) as u32,
            slots: u32::try_from(word(AT_SLOTS)).map_err(|_| "slots")?,
        };
        if !shape.is_possible() || words.len() != shape.words() {
            return Err("size");
        }
        Ok(Region { words, shape })
    }

    /// Its shape, as it was made or read: not looked at again.
    #[must_use]
    pub const fn shape(&self) -> RegionShape {
        self.shape
    }

    /// The slots.
    #[must_use]
    pub fn slots(&self) -> Words {
        self.words.part(AT_BODY..self.events_at())
    }

    /// The places of the event lane.
    #[must_use]
    pub fn events(&self) -> Words {
        self.words.part(self.events_at()..self.verdicts_at())
    }

    /// The places of the verdict lane.
    #[must_use]
    pub fn verdicts(&self) -> Words {
        let at = self.verdicts_at();
        self.words.part(at..at + self.shape.verdicts as usize * RECORD_WORDS)
    }

    /// Haltline's cursor.
    #[must_use]
    pub fn event_cursor(&self) -> Words {
        self.words.part(AT_EVENT_CURSOR..AT_EVENT_CURSOR + 1)
    }

    /// The gateway's cursor.
    #[must_use]
    pub fn verdict_cursor(&self) -> Words {
        self.words.part(AT_VERDICT_CURSOR..AT_VERDICT_CURSOR + 1)
    }

    /// The last position whose verdict the gateway has read: one that comes again is not used again.
    #[must_use]
    pub fn answered(&self) -> Words {
        self.words.part(AT_ANSWERED..AT_ANSWERED + 1)
    }

    fn events_at(&self) -> usize {
        AT_BODY + self.shape.slots as usize * SLOT_WORDS
    }

    fn verdicts_at(&self) -> usize {
        self.events_at() + self.shape.events as usize * RECORD_WORDS
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const SHAPE: RegionShape =
        RegionShape { session: SessionId(7), kind: GateKind::Ask, base: 41, events: 8, verdicts: 16, slots: 3 };

    #[test]
    fn what_was_made_can_be_read() {
        let words = Words::heap(SHAPE.words());
        let made = Region::make(words.clone(), SHAPE);
        let read = Region::read(words).unwrap();
        assert_eq!(read.shape(), SHAPE);
        assert_eq!((read.slots().len(), read.events().len(), read.verdicts().len()), (48, 64, 128));
        made.verdicts()[127].store(5, Ordering::Relaxed);
        assert_eq!(read.verdicts()[127].load(Ordering::Relaxed), 5);
    }

    #[test]
    fn any_header_is_read_without_harm() {
        for word in 0..6 {
            for bit in 0..64 {
                let words = Words::heap(SHAPE.words());
                drop(Region::make(words.clone(), SHAPE));
                words[word].fetch_xor(1 << bit, Ordering::Relaxed);
                // Some other headers are possible, too: haltline goes by its own knowledge.
                match Region::read(words) {
                    Ok(region) => assert!(region.shape() != SHAPE && (2..6).contains(&word), "word {word} bit {bit}"),
                    Err(field) => assert!(!field.is_empty()),
                }
            }
        }
        assert!(Region::read(Words::heap(8)).is_err());
    }
}
