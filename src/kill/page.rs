//! HOT: no I/O, lock, allocation, logging, formatting, clock or syscall.
//!
//! The halt page: one word per scope, written by whoever presses kill, read by everybody.
//!
//! # Synchronization
//!
//! A word is `mode << 62 | epoch`. [`HaltPage::raise`] replaces it, by compare-and-swap, with the larger
//! of the two modes and a **new** epoch, from one counter for the whole page. So:
//!
//! - any number of threads may raise at once, and none is lost;
//! - a re-arm names the epoch that it was decided on and lowers by compare-and-swap from exactly that
//!   word: a kill that came in between, even one that changed no mode, has changed the epoch and wins.
//!
//! `raise` ends with `SeqCst`, as does every reader's look on the verdict path, so that a thread that was
//! told of a kill can give no later verdict that admits. After the words, `changes` counts up: who
//! polls it (one load) sees the words behind it.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::model::scope::Mode;

const EPOCH_BITS: u32 = 62;
const EPOCH_MASK: u64 = (1 << EPOCH_BITS) - 1;

/// A scope's mode and the epoch at which it got it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModeWord {
    /// The mode.
    pub mode: Mode,
    /// When, on the page's counter. Never used twice.
    pub epoch: u64,
}

impl ModeWord {
    const fn pack(self) -> u64 {
        (self.mode as u64) << EPOCH_BITS | (self.epoch & EPOCH_MASK)
    }
    const fn unpack(word: u64) -> ModeWord {
        let mode = match word >> EPOCH_BITS {
            0 => Mode::Normal,
            1 => Mode::ReduceOnly,
            _ => Mode::Halted,
        };
        ModeWord { mode, epoch: word & EPOCH_MASK }
    }
}

/// The mode words of all scopes, by [`Universe::slot`](crate::model::Universe::slot).
#[derive(Debug)]
pub struct HaltPage {
    words: Box<[AtomicU64]>,
    epoch: AtomicU64,
    changes: AtomicU64,
}

/// Why a mode was not lowered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superseded {
    /// What the word is now.
    pub now: ModeWord,
}

impl HaltPage {
    /// A page of `scopes` words, all `Normal`, whose next epoch is `first_epoch`.
    ///
    /// After a restart `first_epoch` must be beyond every epoch ever used.
    #[must_use]
    pub fn new(scopes: usize, first_epoch: u64) -> HaltPage {
        HaltPage {
            words: (0..scopes).map(|_| AtomicU64::new(0)).collect(),
            epoch: AtomicU64::new(first_epoch.max(1)),
            changes: AtomicU64::new(0),
        }
    }

    /// How many scopes it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Raises the scope at `slot` to at least `mode`, in a new epoch, and returns what it is now.
    ///
    /// Never lowers: raising a halted scope to reduce-only leaves it halted, with a new epoch.
    ///
    /// # Panics
    /// If `slot` is not on the page.
    pub fn raise(&self, slot: usize, mode: Mode) -> ModeWord {
        let mut epoch = self.epoch.fetch_add(1, Ordering::SeqCst);
        let word = &self.words[slot];
        let mut seen = word.load(Ordering::SeqCst);
        loop {
            let old = ModeWord::unpack(seen);
            // Of two raises at once the one that swaps last takes a new epoch: the word must change, or a re-arm
            // of the other would lower this one as well.
            if epoch <= old.epoch {
                epoch = self.epoch.fetch_add(1, Ordering::SeqCst);
            }
            let new = ModeWord { mode: old.mode.max(mode), epoch };
            // SYNC word: pairs with the load in `get`; a reader that sees it gives no verdict under the old mode.
            match word.compare_exchange_weak(seen, new.pack(), Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => {
                    // SYNC changes: pairs with `changes`; makes the word visible to who polls the counter.
                    self.changes.fetch_add(1, Ordering::SeqCst);
                    return new;
                }
                Err(now) => seen = now,
            }
        }
    }

    /// Lowers the scope at `slot` to `Normal`, if its word is still of `epoch`. A new epoch begins.
    ///
    /// # Errors
    /// [`Superseded`] if anything was raised since: the word stays as it is.
    ///
    /// # Panics
    /// If `slot` is not on the page.
    pub fn lower(&self, slot: usize, epoch: u64) -> Result<ModeWord, Superseded> {
        let word = &self.words[slot];
        let seen = word.load(Ordering::SeqCst);
        let old = ModeWord::unpack(seen);
        if old.epoch != epoch {
            return Err(Superseded { now: old });
        }
        let new = ModeWord { mode: Mode::Normal, epoch: self.epoch.fetch_add(1, Ordering::SeqCst) };
        match word.compare_exchange(seen, new.pack(), Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => {
                self.changes.fetch_add(1, Ordering::SeqCst);
                Ok(new)
            }
            Err(now) => Err(Superseded { now: ModeWord::unpack(now) }),
        }
    }

    /// Puts a latched word back at start, before any thread reads the page.
    ///
    /// # Panics
    /// If `slot` is not on the page.
    pub fn restore(&mut self, slot: usize, word: ModeWord) {
        *self.words[slot].get_mut() = word.pack();
        let epoch = self.epoch.get_mut();
        *epoch = (*epoch).max(word.epoch + 1);
        *self.changes.get_mut() += 1;
    }

    /// The word at `slot`; a slot that is not on the page is halted.
    #[inline]
    #[must_use]
    pub fn get(&self, slot: usize) -> ModeWord {
        match self.words.get(slot) {
            Some(word) => ModeWord::unpack(word.load(Ordering::SeqCst)),
            None => ModeWord { mode: Mode::Halted, epoch: 0 },
        }
    }

    /// How often the page was changed: a cheap thing to poll.
    #[inline]
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// The next epoch: beyond all that are in use.
    #[must_use]
    pub fn next_epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raise_never_lowers_and_always_changes_the_epoch() {
        let page = HaltPage::new(2, 1);
        let first = page.raise(0, Mode::Halted);
        let second = page.raise(0, Mode::ReduceOnly);
        assert_eq!(second.mode, Mode::Halted);
        assert!(second.epoch > first.epoch);
        assert_eq!(page.get(1), ModeWord::default());
        assert_eq!(page.get(7).mode, Mode::Halted);
    }

    #[test]
    fn kill_wins_against_a_rearm_decided_before_it() {
        let page = HaltPage::new(1, 1);
        let first = page.raise(0, Mode::Halted);
        page.raise(0, Mode::Halted);
        assert!(page.lower(0, first.epoch).is_err());
        assert_eq!(page.get(0).mode, Mode::Halted);
        let now = page.get(0);
        assert_eq!(page.lower(0, now.epoch).unwrap().mode, Mode::Normal);
        assert!(page.lower(0, now.epoch).is_err(), "a re-arm cannot be replayed");
    }

    #[test]
    fn every_raise_begins_an_epoch_of_its_own_also_when_two_press_at_once() {
        let page = HaltPage::new(1, 1);
        let press = || (0..200_000).map(|_| page.raise(0, Mode::Halted).epoch).collect::<Vec<_>>();
        let (mut all, others) = std::thread::scope(|scope| {
            let other = scope.spawn(press);
            (press(), other.join().unwrap())
        });
        all.extend(others);
        let presses = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), presses, "a re-arm of one press would undo another");
    }

    #[test]
    fn epochs_go_on_after_a_restart() {
        let mut page = HaltPage::new(1, 10);
        page.restore(0, ModeWord { mode: Mode::Halted, epoch: 41 });
        assert_eq!(page.get(0).mode, Mode::Halted);
        assert_eq!(page.raise(0, Mode::Normal).epoch, 42);
    }
}
