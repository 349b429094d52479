//! A lane: records of 64 bytes from one writer to one reader, in two processes that may die at any instruction.
//!
//! Writing and reading a record take no lock, no memory and no system call.
//!
//! # Layout
//!
//! `places` (a power of two) records of eight words. Word 2 of a record is its stamp: its position in the stream,
//! from 1, never reused. The record at position `p` lies at place `(p - 1) % places`. A check of 32 bits over
//! all other bits lies in bits 32..48 of word 0 and bits 16..32 of word 1.
//!
//! The reader says how far it is in a word of its own, the cursor.
//!
//! # Synchronization
//!
//! The writer stores every word but the stamp, and then the stamp (release): a writer that dies in between has
//! written nothing. The reader loads the stamp (acquire); what it finds is the position it waits for, or what was
//! there a lap ago, or the lane is damaged. It copies the record before it looks at it, checks the copy, and only then moves
//! the cursor (release), which the writer loads (acquire) before it writes over the place.
//!
//! A reader that restarts begins behind the cursor; it may get the last record a second time, never lose one. A
//! writer that restarts begins behind the last stamp. Neither believes what the other side could have written: a
//! cursor beyond what was written, or more than a lap behind, is damage.

use crate::ring::shm::Words;
use crate::ring::sync::Ordering;

/// Words of a record.
pub const RECORD_WORDS: usize = 8;
/// The word that holds the stamp.
pub const STAMP: usize = 2;

/// A record as words, in the byte order of the machine.
pub type Record = [u64; RECORD_WORDS];

const CHECK_0: u64 = 0x0000_FFFF_0000_0000;
const CHECK_1: u64 = 0x0000_0000_FFFF_0000;

/// The other side has written what it cannot have meant. Nothing more is taken from the lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// The position that was looked at.
    pub position: u64,
    /// What is wrong.
    pub what: Damage,
    /// The word that is wrong.
    pub found: u64,
}

/// Kinds of [`Damaged`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// A stamp that is neither the next position nor the one a lap ago.
    Stamp,
    /// The check does not fit the record.
    Check,
    /// A cursor outside of what was written.
    Cursor,
}

impl Damage {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Damage::Stamp => "stamp",
            Damage::Check => "check",
            Damage::Cursor => "cursor",
        }
    }
}

/// 32 bits that change when any bit of `record` outside the check itself does.
///
/// Each step maps one to one, so a change of one word always changes the 64-bit state; two halves of it are folded into 32 bits, which
/// leaves 1 chance in 2^32 that damage is not seen.
#[inline]
#[must_use]
pub fn check_of(record: &Record) -> u32 {
    const K: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut even = 0x243F_6A88_85A3_08D3 ^ (record[0] & !CHECK_0);
    let mut odd = 0x1319_8A2E_0370_7344 ^ (record[1] & !CHECK_1);
    even = even.wrapping_mul(K).rotate_left(29) ^ record[2];
    odd = odd.wrapping_mul(K).rotate_left(29) ^ record[3];
    even = even.wrapping_mul(K).rotate_left(29) ^ record[4];
    odd = odd.wrapping_mul(K).rotate_left(29) ^ record[5];
    even = even.wrapping_mul(K).rotate_left(29) ^ record[6];
    odd = odd.wrapping_mul(K).rotate_left(29) ^ record[7];
    let all = (even.wrapping_mul(K).rotate_left(32) ^ odd).wrapping_mul(K);
    (all ^ (all >> 32)) as u32
}

#[inline]
pub(crate) fn with_check(mut record: Record, check: u32) -> Record {
    record[0] = record[0] & !CHECK_0 | u64::from(check & 0xFFFF) << 32;
    record[1] = record[1] & !CHECK_1 | u64::from(check >> 16) << 16;
    record
}

#[inline]
fn check_in(record: &Record) -> u32 {
    ((record[0] & CHECK_0) >> 32) as u32 | ((record[1] & CHECK_1) as u32)
}

/// The writing end.
#[derive(Debug)]
pub struct Writer {
    places: Words,
    cursor: Words,
    mask: u64,
    /// The position of the next record.
    next: u64,
    /// The cursor as last seen.
    read: u64,
}

/// The reading end.
#[derive(Debug)]
pub struct Reader {
    places: Words,
    cursor: Words,
    mask: u64,
    /// The position of the next record.
    next: u64,
}

/// The place of position `p`, and the stamp that it had a lap ago.
#[inline(always)]
fn place(mask: u64, p: u64) -> (usize, u64) {
    let before = p.saturating_sub(mask + 1);
    (((p.wrapping_sub(1)) & mask) as usize * RECORD_WORDS, before)
}

impl Writer {
    /// The writing end of the lane over `places` (a power of two of records) whose reader's cursor is the first word of
    /// `cursor`. Goes on behind the last record that is there.
    ///
    /// # Errors
    /// If the cursor is impossible.
    ///
    /// # Panics
    /// If `places` is not a power of two of records, or `cursor` has no word.
    pub fn resume(places: Words, cursor: Words) -> Result<Writer, Damaged> {
        let count = (places.len() / RECORD_WORDS) as u64;
        assert!(count.is_power_of_two() && places.len().is_multiple_of(RECORD_WORDS) && !cursor.is_empty());
        let mask = count - 1;
        let read = cursor[0].load(Ordering::Acquire);
        if read > u64::MAX / 2 {
            return Err(Damaged { position: read, what: Damage::Cursor, found: read });
        }
        let mut next = read + 1;
        while next <= read + count && places[place(mask, next).0 + STAMP].load(Ordering::Acquire) == next {
            next += 1;
        }
        Ok(Writer { places, cursor, mask, next, read })
    }

    /// How many records the lane holds.
    #[must_use]
    pub const fn places(&self) -> usize {
        self.mask as usize + 1
    }

    /// The position of the next record: one more than were ever written.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.next
    }

    /// How many records fit now.
    ///
    /// # Errors
    /// If the reader's cursor is impossible.
    pub fn room(&mut self) -> Result<u64, Damaged> {
        // SYNC lane cursor: pairs with the store in `Reader::pop`; what lies before it has been copied.
        let read = self.cursor[0].load(Ordering::Acquire);
        if read < self.read || read >= self.next {
            return Err(Damaged { position: self.next, what: Damage::Cursor, found: read });
        }
        self.read = read;
        Ok(self.mask + 1 - (self.next - 1 - read))
    }

    /// Writes `record` (its stamp and check are set here); `Ok(None)` if there is no room, else its position.
    ///
    /// # Errors
    /// If the reader's cursor is impossible.
    #[inline]
    pub fn push(&mut self, mut record: Record) -> Result<Option<u64>, Damaged> {
        let position = self.next;
        if position - self.read > self.mask + 1 && self.room()? == 0 {
            return Ok(None);
        }
        record[STAMP] = position;
        let record = with_check(record, check_of(&record));
        let (at, _) = place(self.mask, position);
        let words = &self.places[at..at + RECORD_WORDS];
        for (i, (word, value)) in words.iter().zip(record).enumerate() {
            if i != STAMP {
                word.store(value, Ordering::Relaxed);
            }
        }
        // SYNC lane stamp: pairs with the load in `Reader::pop`.
        words[STAMP].store(position, Ordering::Release);
        self.next += 1;
        Ok(Some(position))
    }
}

impl Reader {
    /// The reading end. The next record is the one behind `read`, whatever the cursor says, which is set to it.
    ///
    /// # Panics
    /// If `places` is not a power of two of records, or `cursor` has no word.
    #[must_use]
    pub fn behind(places: Words, cursor: Words, read: u64) -> Reader {
        let count = (places.len() / RECORD_WORDS) as u64;
        assert!(count.is_power_of_two() && places.len().is_multiple_of(RECORD_WORDS) && !cursor.is_empty());
        cursor[0].store(read, Ordering::Release);
        Reader { places, cursor, mask: count - 1, next: read + 1 }
    }

    /// The reading end, where the cursor says that it is.
    ///
    /// # Panics
    /// As [`Reader::behind`].
    #[must_use]
    pub fn resume(places: Words, cursor: Words) -> Reader {
        let read = cursor[0].load(Ordering::Acquire).min(u64::MAX / 2);
        Reader::behind(places, cursor, read)
    }

    /// The position of the next record.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.next
    }

    /// Whether a record, or damage, waits.
    #[inline]
    #[must_use]
    pub fn has_next(&self) -> bool {
        let (at, before) = place(self.mask, self.next);
        self.places[at + STAMP].load(Ordering::Acquire) != before
    }

    /// The low byte of the next record's first word, if there is a record: what kind it is, before it is taken and checked.
    #[must_use]
    pub fn next_kind(&self) -> Option<u8> {
        let (at, _) = place(self.mask, self.next);
        // SYNC lane stamp: pairs with the store in `Writer::push`.
        let there = self.places[at + STAMP].load(Ordering::Acquire) == self.next;
        there.then(|| self.places[at].load(Ordering::Relaxed) as u8)
    }

    /// The position of the last record that waits, if the next one does.
    #[must_use]
    pub fn last(&self) -> u64 {
        let (mut last, mut step) = (self.next, self.mask.div_ceil(2));
        while step > 0 {
            let further = last + step;
            if self.places[place(self.mask, further).0 + STAMP].load(Ordering::Relaxed) == further {
                last = further;
            }
            step /= 2;
        }
        last
    }

    /// A copy of the next record, if there is one. Its place stays taken until [`Reader::release`].
    ///
    /// # Errors
    /// If what is there cannot have been written by an honest writer; it will not go away.
    #[inline]
    pub fn take(&mut self) -> Result<Option<Record>, Damaged> {
        let position = self.next;
        let (at, before) = place(self.mask, position);
        let words = &self.places[at..at + RECORD_WORDS];
        // SYNC lane stamp: pairs with the store in `Writer::push`.
        let stamp = words[STAMP].load(Ordering::Acquire);
        if stamp != position {
            if stamp == before {
                return Ok(None);
            }
            return Err(Damaged { position, what: Damage::Stamp, found: stamp });
        }
        let mut record = [0; RECORD_WORDS];
        for (value, word) in record.iter_mut().zip(words) {
            *value = word.load(Ordering::Relaxed);
        }
        record[STAMP] = stamp;
        if check_in(&record) != check_of(&record) {
            return Err(Damaged { position, what: Damage::Check, found: u64::from(check_in(&record)) });
        }
        self.next += 1;
        Ok(Some(record))
    }

    /// Everything that was taken is done with: the writer may write over it, and a reader that restarts does not see it again.
    #[inline]
    pub fn release(&mut self) {
        // SYNC lane cursor: pairs with the load in `Writer::room`.
        self.cursor[0].store(self.next - 1, Ordering::Release);
    }

    /// Takes and releases the next record, if there is one.
    ///
    /// # Errors
    /// As [`Reader::take`].
    #[inline]
    pub fn pop(&mut self) -> Result<Option<Record>, Damaged> {
        let record = self.take()?;
        if record.is_some() {
            self.release();
        }
        Ok(record)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn lane(places: usize) -> (Words, Words) {
        (Words::heap(places * RECORD_WORDS), Words::heap(1))
    }

    fn record(n: u64) -> Record {
        [n << 48 | n & 0xFFFF, n << 48, 0, n, n * 3, n * 5, n * 7, !n]
    }

    fn same(a: &Record, b: &Record) -> bool {
        (0..RECORD_WORDS).all(|i| {
            let kept = match i {
                0 => !CHECK_0,
                1 => !CHECK_1,
                STAMP => 0,
                _ => u64::MAX,
            };
            a[i] & kept == b[i] & kept
        })
    }

    #[test]
    fn records_arrive_in_order_and_full_is_said() {
        let (places, cursor) = lane(4);
        let mut writer = Writer::resume(places.clone(), cursor.clone()).unwrap();
        let mut reader = Reader::resume(places, cursor);
        let mut sent = 0;
        for n in 0..100 {
            while writer.push(record(sent)).unwrap().is_some() {
                sent += 1;
            }
            assert_eq!(sent, n + 4);
            assert!(reader.has_next());
            assert!(same(&reader.pop().unwrap().unwrap(), &record(n)));
        }
        for n in 100..sent {
            assert!(same(&reader.pop().unwrap().unwrap(), &record(n)));
        }
        assert_eq!(reader.pop(), Ok(None));
        assert!(!reader.has_next());
    }

    #[test]
    fn the_last_that_waits_is_found_wherever_it_is() {
        for places in [1, 2, 8] {
            let (words, cursor) = lane(places);
            let mut writer = Writer::resume(words.clone(), cursor.clone()).unwrap();
            let mut reader = Reader::resume(words, cursor);
            for n in 0..40 {
                for waiting in 1..=places as u64 {
                    writer.push(record(n)).unwrap().unwrap();
                    assert_eq!(reader.last(), reader.position() + waiting - 1);
                }
                while reader.pop().unwrap().is_some() {}
                if n % 3 == 0 {
                    writer.push(record(n)).unwrap().unwrap();
                    reader.pop().unwrap().unwrap();
                }
            }
        }
    }

    #[test]
    fn threads_lose_tear_and_repeat_nothing() {
        let rounds = if cfg!(miri) { 60 } else { 300_000 };
        let (places, cursor) = lane(8);
        let mut writer = Writer::resume(places.clone(), cursor.clone()).unwrap();
        let mut reader = Reader::resume(places, cursor);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for n in 0..rounds {
                    while writer.push(record(n)).unwrap().is_none() {
                        std::thread::yield_now();
                    }
                }
            });
            for n in 0..rounds {
                let got = loop {
                    match reader.pop().unwrap() {
                        Some(got) => break got,
                        None => std::thread::yield_now(),
                    }
                };
                assert!(same(&got, &record(n)));
                assert_eq!(got[STAMP], n + 1);
            }
        });
    }

    #[test]
    fn either_side_may_die_between_any_two_stores() {
        // A writer that dies after `k` of its eight stores, at each place of two laps; then a new one, and a new reader.
        for already in 0..8 {
            for stores in 0..=RECORD_WORDS {
                let (places, cursor) = lane(4);
                let mut writer = Writer::resume(places.clone(), cursor.clone()).unwrap();
                let mut reader = Reader::resume(places.clone(), cursor.clone());
                for n in 0..already {
                    writer.push(record(n)).unwrap().unwrap();
                    reader.pop().unwrap().unwrap();
                }
                // The stores of `push`, the stamp last, by hand.
                let position = writer.position();
                let mut dying = record(already);
                dying[STAMP] = position;
                let dying = with_check(dying, check_of(&dying));
                let at = place(3, position).0;
                let order = [0, 1, 3, 4, 5, 6, 7, STAMP];
                for &i in &order[..stores] {
                    places[at + i].store(dying[i], Ordering::Release);
                }
                let whole = stores == RECORD_WORDS;
                let mut reader = Reader::resume(places.clone(), cursor.clone());
                assert_eq!(reader.take().unwrap().is_some(), whole, "{already} {stores}");
                let mut reader = Reader::resume(places.clone(), cursor.clone());
                let mut writer = Writer::resume(places.clone(), cursor.clone()).unwrap();
                assert_eq!(writer.position(), position + u64::from(whole));
                if !whole {
                    writer.push(record(already)).unwrap().unwrap();
                }
                assert!(same(&reader.pop().unwrap().unwrap(), &record(already)));
                assert_eq!(reader.pop(), Ok(None));
                // A reader that died before it moved the cursor gets the record again: twice, never lost.
                let mut again = Reader::behind(places, cursor, already);
                assert!(same(&again.take().unwrap().unwrap(), &record(already)));
            }
        }
    }

    #[test]
    fn every_flipped_bit_of_a_waiting_record_is_damage() {
        for word in 0..RECORD_WORDS {
            for bit in (0..64).step_by(if cfg!(miri) { 21 } else { 1 }) {
                let (places, cursor) = lane(4);
                let mut writer = Writer::resume(places.clone(), cursor.clone()).unwrap();
                writer.push(record(77)).unwrap().unwrap();
                places[word].fetch_xor(1 << bit, Ordering::Relaxed);
                let mut reader = Reader::resume(places, cursor);
                // Bit 0 of the first stamp makes it 0: as if it had never been written. Nothing is let through.
                let silent = word == STAMP && bit == 0;
                match reader.pop() {
                    Ok(None) => assert!(silent),
                    Ok(Some(_)) => panic!("word {word} bit {bit} was let through"),
                    Err(damaged) => assert_eq!(damaged.position, 1),
                }
            }
        }
    }

    #[test]
    fn impossible_cursors_are_damage() {
        let (places, cursor) = lane(4);
        let mut writer = Writer::resume(places.clone(), cursor.clone()).unwrap();
        for n in 0..4 {
            writer.push(record(n)).unwrap().unwrap();
        }
        for bad in [5, 1 << 40, u64::MAX] {
            cursor[0].store(bad, Ordering::Relaxed);
            assert_eq!(writer.push(record(9)).unwrap_err().what, Damage::Cursor);
        }
        cursor[0].store(2, Ordering::Relaxed);
        assert_eq!(writer.room(), Ok(2));
        cursor[0].store(1, Ordering::Relaxed);
        assert_eq!(writer.room().unwrap_err().what, Damage::Cursor, "it went back");
        cursor[0].store(u64::MAX, Ordering::Relaxed);
        assert!(Writer::resume(places, cursor).is_err());
    }
}
