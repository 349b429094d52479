//! HOT: no I/O, lock, allocation, logging, formatting, clock or syscall.
//!
//! The halt page: one word per scope, written by whoever presses kill, read by everybody. It lies in a mapped file, so that
//! gates in other processes read the same words (see [`page_file`](crate::kill::page_file)), or on the heap.
//!
//! # Layout
//!
//! Version 1, 64-bit words in the byte order of the machine:
//!
//! ```text
//!   0  magic        0x4547_4150_544C_4148, "HALTPAGE"
//!   1  layout version (low half), words before the first mode word (high half)
//!   2  digest of all names, in their order: whose slots these are
//!   3  accounts (low half), strategies (high half)
//!   4  instruments (low half), sessions (high half)
//!   5  state: 1 in service, anything else: deny
//!  16  raised       scopes whose mode is not normal; never less than there are
//!  17  epoch        the next one
//!  18  changes      how often a word changed
//!  32  lease        CLOCK_MONOTONIC ns until which gates may admit
//!  33  lease span   ns from a renewal to the end of the lease; 0: no lease is kept, gates deny
//!  48  progress     rounds of the engine's loop
//!  49  round        CLOCK_MONOTONIC ns of the last one
//!  50  input lag    ns
//!  64  mode words   firm, accounts, strategies, instruments, sessions
//!   …  account of each strategy
//!   …  attached process of each session: process id (0: none), and when it began, in ticks after the boot
//! ```
//!
//! Words 16 to 18 change when somebody presses; 32 some dozen times a second; 48 to 50 all the time, and no gate reads them. Each
//! group has 128 bytes of its own.
//!
//! # Synchronization
//!
//! A mode word is `mode << 62 | epoch`. [`HaltPage::raise`] replaces it, by compare-and-swap, with the larger
//! of the two modes and a **new** epoch, from one counter for the whole page. So:
//!
//! - any number of threads, in any number of processes, may raise at once, and none is lost;
//! - a re-arm names the epoch that it was decided on and lowers by compare-and-swap from exactly that
//!   word: a kill that came in between, even one that changed no mode, has changed the epoch and wins.
//!
//! `raise` ends with `SeqCst`, as does every reader's look on the verdict path, so that a thread that was
//! told of a kill can give no later verdict that admits. After the words, `changes` counts up: who
//! polls it (one load) sees the words behind it.
//!
//! `raised` counts up *before* a word leaves `Normal` and down *after* it came back: a gate that finds it 0, on the right
//! side of the [barrier](crate::ring::barrier), needs to look at no word. A process that dies in between leaves it too
//! high, which costs gates a few loads until the file is made anew, and admits nothing.
//!
//! The lease is a word of its own that only the engine writes: a renewal can never undo a kill.

use crate::model::scope::Mode;
use crate::ring::shm::{View, Words};
use crate::ring::sync::Ordering;

const EPOCH_BITS: u32 = 62;
pub(super) const EPOCH_MASK: u64 = (1 << EPOCH_BITS) - 1;

/// Where things lie on the page, in words.
pub mod layout {
    /// The first word of every halt page.
    pub const MAGIC: u64 = 0x4547_4150_544C_4148;
    /// The version of this layout.
    pub const VERSION: u64 = 1;
    /// See the module's picture.
    pub const AT_VERSION: usize = 1;
    /// Digest of all names.
    pub const AT_DIGEST: usize = 2;
    /// Accounts and strategies.
    pub const AT_ACCOUNTS: usize = 3;
    /// Instruments and sessions.
    pub const AT_INSTRUMENTS: usize = 4;
    /// Whether the page is in service.
    pub const AT_STATE: usize = 5;
    /// How many scopes are not normal, at least.
    pub const AT_RAISED: usize = 16;
    /// The next epoch.
    pub const AT_EPOCH: usize = 17;
    /// How often a word changed.
    pub const AT_CHANGES: usize = 18;
    /// End of the lease.
    pub const AT_LEASE: usize = 32;
    /// Length of the lease.
    pub const AT_SPAN: usize = 33;
    /// Rounds of the engine.
    pub const AT_PROGRESS: usize = 48;
    /// Time of the last round.
    pub const AT_ROUND: usize = 49;
    /// Input lag.
    pub const AT_LAG: usize = 50;
    /// The firm's mode word.
    pub const AT_WORDS: usize = 64;
    /// [`AT_STATE`] of a page that is in service.
    pub const IN_SERVICE: u64 = 1;
    /// In [`AT_RAISED`] of a page that is out of service.
    pub const RETIRED_COUNT: u64 = 1 << 63;
    /// [`AT_STATE`] of a page that another has taken the place of: attach again.
    pub const RETIRED: u64 = 2;
}
use layout::*;

/// A scope's mode and the epoch at which it got it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModeWord {
    /// The mode.
    pub mode: Mode,
    /// When, on the page's counter. Never used twice.
    pub epoch: u64,
}

impl ModeWord {
    pub(crate) const fn pack(self) -> u64 {
        (self.mode as u64) << EPOCH_BITS | (self.epoch & EPOCH_MASK)
    }
    /// What a word of the page says.
    #[inline]
    #[must_use]
    pub const fn unpack(word: u64) -> ModeWord {
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
    pub(super) all: Words,
    pub(super) words: Words,
    /// Two words per session; none on the heap and for who opens the page from outside.
    pub(super) attached: Words,
}

/// A process that has mapped a session's gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachedProcess {
    /// Its id.
    pub pid: u32,
    /// When it began, in ticks after the boot; 0: not known. The same id with another begin is another process.
    pub began: u64,
}

/// Why a mode was not lowered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superseded {
    /// What the word is now.
    pub now: ModeWord,
}

impl HaltPage {
    /// A page of `scopes` words on the heap, all `Normal`, whose next epoch is `first_epoch`.
    ///
    /// After a restart `first_epoch` must be beyond every epoch ever used.
    #[must_use]
    pub fn new(scopes: usize, first_epoch: u64) -> HaltPage {
        let all = Words::heap(AT_WORDS + scopes);
        all[AT_EPOCH].store(first_epoch.max(1), Ordering::Relaxed);
        let words = all.part(AT_WORDS..AT_WORDS + scopes);
        HaltPage { attached: all.part(0..0), all, words }
    }

    /// The page in `all`, of which a model keeps a hold to do what nobody may.
    #[cfg(all(test, loom))]
    pub(crate) fn modelled(all: &Words, scopes: usize) -> HaltPage {
        HaltPage { all: all.clone(), words: all.part(AT_WORDS..AT_WORDS + scopes), attached: all.part(0..0) }
    }

    /// A look at the whole page, as a gate has it.
    #[must_use]
    pub fn view(&self) -> View {
        View::of(&self.all)
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
        self.raise_from(slot, mode).0
    }

    /// As [`HaltPage::raise`]; returns the mode as well that it was raised from, as one step.
    ///
    /// # Panics
    /// If `slot` is not on the page.
    pub fn raise_from(&self, slot: usize, mode: Mode) -> (ModeWord, Mode) {
        let word = &self.words[slot];
        // Before the word: who finds the count at 0 looks at no word.
        self.all[AT_RAISED].fetch_add(1, Ordering::SeqCst);
        let mut epoch = self.all[AT_EPOCH].fetch_add(1, Ordering::SeqCst);
        let mut seen = word.load(Ordering::SeqCst);
        loop {
            let old = ModeWord::unpack(seen);
            // Of two raises at once the one that swaps last takes a new epoch: the word must change, or a re-arm
            // of the other would lower this one as well.
            if epoch <= old.epoch {
                epoch = self.all[AT_EPOCH].fetch_add(1, Ordering::SeqCst);
            }
            let new = ModeWord { mode: old.mode.max(mode), epoch };
            // SYNC word: pairs with the load in `get`; a reader that sees it gives no verdict under the old mode.
            match word.compare_exchange_weak(seen, new.pack(), Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => {
                    // Counted by whoever raised it first, or not raised at all.
                    if old.mode != Mode::Normal || new.mode == Mode::Normal {
                        self.all[AT_RAISED].fetch_sub(1, Ordering::SeqCst);
                    }
                    // SYNC changes: pairs with `changes`; makes the word visible to who polls the counter.
                    self.all[AT_CHANGES].fetch_add(1, Ordering::SeqCst);
                    return (new, old.mode);
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
        let new = ModeWord { mode: Mode::Normal, epoch: self.all[AT_EPOCH].fetch_add(1, Ordering::SeqCst) };
        match word.compare_exchange(seen, new.pack(), Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => {
                if old.mode != Mode::Normal {
                    self.all[AT_RAISED].fetch_sub(1, Ordering::SeqCst);
                }
                self.all[AT_CHANGES].fetch_add(1, Ordering::SeqCst);
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
        let old = ModeWord::unpack(self.words[slot].swap(word.pack(), Ordering::SeqCst));
        match (old.mode == Mode::Normal, word.mode == Mode::Normal) {
            (true, false) => self.all[AT_RAISED].fetch_add(1, Ordering::SeqCst),
            (false, true) => self.all[AT_RAISED].fetch_sub(1, Ordering::SeqCst),
            (true, true) | (false, false) => 0,
        };
        self.all[AT_EPOCH].fetch_max(word.epoch + 1, Ordering::SeqCst);
        self.all[AT_CHANGES].fetch_add(1, Ordering::SeqCst);
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
        self.all[AT_CHANGES].load(Ordering::Acquire)
    }

    /// Lets gates admit until `until` (`CLOCK_MONOTONIC` ns). Never shortens. The engine's thread only.
    #[inline]
    pub fn renew_lease(&self, until: u64) {
        // One writer, so load and store lose nothing; no kill is ever in this word.
        if until > self.all[AT_LEASE].load(Ordering::Relaxed) {
            self.all[AT_LEASE].store(until, Ordering::Release);
        }
    }

    /// Until when gates may admit, `CLOCK_MONOTONIC` ns; 0 before the first renewal.
    #[must_use]
    pub fn lease(&self) -> u64 {
        self.all[AT_LEASE].load(Ordering::Acquire)
    }

    /// Length of the lease in ns; 0: none is kept.
    #[must_use]
    pub fn lease_span(&self) -> u64 {
        self.all[AT_SPAN].load(Ordering::Relaxed)
    }

    /// Makes this a page whose gates need a lease of `span_ns`. It is at its end until it is renewed.
    pub fn keep_lease(&self, span_ns: u64) {
        self.all[AT_LEASE].store(0, Ordering::SeqCst);
        self.all[AT_SPAN].store(span_ns, Ordering::SeqCst);
    }

    /// Shows a round of the engine at `now` (`CLOCK_MONOTONIC` ns) that was `lag` ns late. The engine's thread only.
    #[inline]
    pub fn show_round(&self, now: u64, lag: u64) {
        let progress = &self.all[AT_PROGRESS];
        progress.store(progress.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        self.all[AT_ROUND].store(now, Ordering::Relaxed);
        self.all[AT_LAG].store(lag, Ordering::Relaxed);
    }

    /// Writes down which process has `session`'s gate; `None`: none. For the run after this one, which the gates may outlive.
    pub fn note_attached(&self, session: usize, process: Option<AttachedProcess>) {
        let (Some(pid), Some(began)) = (self.attached.get(2 * session), self.attached.get(2 * session + 1)) else {
            return;
        };
        // Whoever dies in between leaves no process, or one whose begin fits.
        pid.store(0, Ordering::SeqCst);
        if let Some(process) = process {
            began.store(process.began, Ordering::SeqCst);
            pid.store(process.pid.into(), Ordering::SeqCst);
        }
    }

    /// Which process had `session`'s gate, as was last written down.
    #[must_use]
    pub fn attached(&self, session: usize) -> Option<AttachedProcess> {
        let pid = u32::try_from(self.attached.get(2 * session)?.load(Ordering::SeqCst)).ok().filter(|pid| *pid != 0)?;
        Some(AttachedProcess { pid, began: self.attached.get(2 * session + 1)?.load(Ordering::SeqCst) })
    }

    /// The next epoch: beyond all that are in use.
    #[must_use]
    pub fn next_epoch(&self) -> u64 {
        self.all[AT_EPOCH].load(Ordering::SeqCst)
    }
}

#[cfg(all(test, not(loom)))]
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
        let rounds = if cfg!(miri) { 30 } else { 200_000 };
        let press = || (0..rounds).map(|_| page.raise(0, Mode::Halted).epoch).collect::<Vec<_>>();
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
