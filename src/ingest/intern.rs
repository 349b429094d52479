//! Text ids to numbers and back, per session.
//!
//! A text gets a number of its own with the top bit set and keeps it while the engine may remember the id.
//! Texts are compared in full: two different ids never share a number. Numbers are not used twice in a run,
//! and runs begin at different numbers ([`Names::new`]).

use std::collections::HashMap;
use std::rc::Rc;

use crate::units::OrdId;

/// What a text is sent to the engine as that stands for nothing the engine can know. No id ever gets it.
pub const NOBODY: u64 = OrdId::TEXT;

/// The number of a parent's id that is no number itself: the first 63 bits of its BLAKE3, and the top bit set.
///
/// Gateways and the order management side have to mean the same by it, over every session and in every run, and nobody can
/// say when a gateway has named a parent for the last time: so it is not looked up but worked out. Two texts share a number
/// by chance once in 2^63; who makes such a pair on purpose can make both parents his own anyway.
#[must_use]
pub fn parent_number(text: &str) -> u64 {
    let hash = blake3::hash(text.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    OrdId::TEXT | u64::from_le_bytes(first)
}

/// No more texts can be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

#[derive(Debug)]
struct Entry {
    number: u64,
    /// How many things still need the text: requests without an answer, and the engine's memory.
    holds: u32,
}

/// The texts of one session: order ids or exec ids.
#[derive(Debug)]
pub struct Names {
    by_text: HashMap<Rc<str>, Entry>,
    by_number: HashMap<u64, Rc<str>>,
    next: u64,
    capacity: usize,
}

impl Names {
    /// An empty table for at most `capacity` texts, whose first number belongs to a process started at
    /// `started_s` (seconds since the Unix epoch): 2^31 numbers per second, so no later run comes near.
    #[must_use]
    pub fn new(capacity: usize, started_s: u64) -> Names {
        let next = OrdId::TEXT | ((started_s << 31 | 1) & (OrdId::TEXT - 1));
        Names { by_text: HashMap::new(), by_number: HashMap::new(), next, capacity }
    }

    /// Gives `text` the number that it had in an earlier run, in which the engine still remembers it. Held once.
    pub fn restore(&mut self, text: &str, number: u64) {
        let text: Rc<str> = text.into();
        self.by_number.insert(number, text.clone());
        self.by_text.insert(text, Entry { number, holds: 1 });
        // Numbers of this run begin beyond those of any before it, by the clock; a clock that went back is no excuse.
        self.next = self.next.max(number.saturating_add(1) | OrdId::TEXT);
    }

    /// The number of `text`, which gets one now if it has none. Held once more.
    ///
    /// # Errors
    /// [`Full`] if it is new and there is no room.
    pub fn hold(&mut self, text: &str) -> Result<u64, Full> {
        if let Some(entry) = self.by_text.get_mut(text) {
            entry.holds = entry.holds.saturating_add(1);
            return Ok(entry.number);
        }
        if self.by_text.len() >= self.capacity {
            return Err(Full);
        }
        let number = self.unnamed();
        let text: Rc<str> = text.into();
        self.by_number.insert(number, text.clone());
        self.by_text.insert(text, Entry { number, holds: 1 });
        Ok(number)
    }

    /// The number of `text` as [`Names::hold`] gives it, held only if it is new.
    ///
    /// # Errors
    /// [`Full`] if it is new and there is no room.
    pub fn hold_once(&mut self, text: &str) -> Result<u64, Full> {
        match self.find(text) {
            Some(number) => Ok(number),
            None => self.hold(text),
        }
    }

    /// A number that no text has or will have.
    pub fn unnamed(&mut self) -> u64 {
        let number = self.next;
        self.next = (self.next + 1) | OrdId::TEXT;
        number
    }

    /// The number of `text`, if it has one.
    #[must_use]
    pub fn find(&self, text: &str) -> Option<u64> {
        self.by_text.get(text).map(|e| e.number)
    }

    /// The text of `number`, if it has one.
    #[must_use]
    pub fn text(&self, number: u64) -> Option<&Rc<str>> {
        self.by_number.get(&number)
    }

    /// One that needed `number` needs it no longer; the last one takes the text with it.
    pub fn release(&mut self, number: u64) {
        let Some(text) = self.by_number.get(&number) else { return };
        if let Some(entry) = self.by_text.get_mut(text) {
            entry.holds = entry.holds.saturating_sub(1);
            if entry.holds == 0 {
                self.by_text.remove(&**text);
                self.by_number.remove(&number);
            }
        }
    }

    /// How many texts there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_text.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_text.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_texts_never_share_a_number() {
        let mut names = Names::new(100, 1_800_000_000);
        let a = names.hold("A").unwrap();
        let b = names.hold("a").unwrap();
        assert_ne!(a, b);
        assert_ne!(a, NOBODY);
        assert!(a & OrdId::TEXT != 0 && b & OrdId::TEXT != 0);
        assert_eq!(names.hold("A"), Ok(a));
        assert_eq!(names.text(b).unwrap().as_ref(), "a");
        // A text that comes back after it was forgotten is somebody else.
        names.release(b);
        assert_eq!(names.find("a"), None);
        assert_ne!(names.hold("a").unwrap(), b);
    }

    #[test]
    fn text_stays_while_anything_needs_it() {
        let mut names = Names::new(100, 0);
        let n = names.hold("A").unwrap();
        names.hold("A").unwrap();
        assert_eq!(names.hold_once("A"), Ok(n));
        names.release(n);
        assert_eq!(names.find("A"), Some(n));
        names.release(n);
        assert!(names.is_empty() && names.text(n).is_none());
        names.release(n);
    }

    #[test]
    fn full_is_said_and_changes_nothing() {
        let mut names = Names::new(1, 0);
        let n = names.hold("A").unwrap();
        assert_eq!(names.hold("B"), Err(Full));
        assert_eq!(names.hold("A"), Ok(n));
        assert_ne!(names.unnamed(), n);
        assert_eq!(names.len(), 1);
    }
}
