//! Wakes a thread that naps, from any thread and any process.
//!
//! # Synchronization
//!
//! An event count. The sleeper reads the count, says that it sleeps, passes a fence, looks once more for work, and then
//! waits in the kernel for as long as the count is what it read. Who brings work passes a fence after it and
//! looks whether anybody sleeps: either the sleeper sees the work, or it is seen sleeping and the count changes. A process that writes nonsense into a shared
//! bell can keep the sleeper from being woken, for one nap at most.

use std::sync::Arc;
use std::time::Duration;

use crate::ring::shm::Words;
use crate::ring::sync::{Ordering, fence};

/// The word whose low half is counted up.
pub(crate) const COUNT: usize = 0;
/// The word that says whether somebody sleeps.
pub(crate) const ASLEEP: usize = 16;
/// How many words a bell has.
#[cfg(not(loom))]
pub const BELL_WORDS: usize = 512;
/// How many words a bell has in a model, which pays for each.
#[cfg(loom)]
pub const BELL_WORDS: usize = ASLEEP + 1;

/// See the module.
#[derive(Debug)]
pub struct Bell {
    words: Words,
}

impl Default for Bell {
    fn default() -> Bell {
        Bell::over(Words::heap(BELL_WORDS))
    }
}

impl Bell {
    /// A bell of this process's own that nobody sleeps by yet.
    #[must_use]
    pub fn new() -> Arc<Bell> {
        Arc::default()
    }

    /// The bell in `words`, perhaps another process's.
    ///
    /// # Panics
    /// If there are fewer than [`BELL_WORDS`].
    #[must_use]
    pub fn over(words: Words) -> Bell {
        assert!(words.len() >= BELL_WORDS);
        Bell { words }
    }

    /// Wakes the sleeper, if it sleeps; costs a fence and a load when it does not.
    #[inline]
    pub fn ring(&self) {
        // SYNC bell: pairs with the fence in `nap`: either we see it asleep or it sees our work.
        fence(Ordering::SeqCst);
        if self.words[ASLEEP].load(Ordering::Relaxed) != 0 {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        let count = kernel::counter(&self.words);
        count.fetch_add(1, Ordering::SeqCst);
        kernel::wake(count);
    }

    /// Sleeps at most `longest`, unless `has_work`. Only the one thread that owns the bell calls this.
    pub fn nap(&self, longest: Duration, has_work: impl FnOnce() -> bool) {
        let count = kernel::counter(&self.words);
        let seen = count.load(Ordering::SeqCst);
        self.words[ASLEEP].store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if !has_work() {
            kernel::wait(count, seen, longest);
        }
        self.words[ASLEEP].store(0, Ordering::Relaxed);
    }
}

/// What the kernel does for a bell.
#[cfg(not(loom))]
mod kernel {
    use core::sync::atomic::AtomicU32;
    use std::time::Duration;

    use rustix::thread::futex;

    use crate::ring::shm::Words;

    pub(super) fn counter(words: &Words) -> &AtomicU32 {
        words.half(super::COUNT)
    }

    pub(super) fn wake(count: &AtomicU32) {
        // Nobody waiting is no fault: it woke by itself.
        let _ = futex::wake(count, futex::Flags::empty(), 1);
    }

    pub(super) fn wait(count: &AtomicU32, seen: u32, longest: Duration) {
        let longest = rustix::time::Timespec {
            tv_sec: i64::try_from(longest.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: longest.subsec_nanos().into(),
        };
        // Woken, rung before it slept, interrupted, or slept to the end: the caller looks for work in any case.
        let _ = futex::wait(count, futex::Flags::empty(), seen, Some(&longest));
    }
}

/// The model of it: sleeps until the count has changed, and never just to the end.
#[cfg(loom)]
mod kernel {
    use std::time::Duration;

    use crate::ring::shm::Words;
    use crate::ring::sync::{AtomicU64, Ordering};

    pub(super) fn counter(words: &Words) -> &AtomicU64 {
        &words[super::COUNT]
    }

    pub(super) fn wake(_count: &AtomicU64) {}

    pub(super) fn wait(count: &AtomicU64, seen: u64, _longest: Duration) {
        while count.load(Ordering::SeqCst) == seen {
            loom::thread::yield_now();
        }
    }
}

#[cfg(all(test, not(miri), not(loom)))]
mod tests {
    use core::sync::atomic::AtomicU64;
    use std::time::Instant;

    use super::*;

    /// The round in which either side says that it goes no further.
    const LAST: u64 = u64::MAX;

    #[test]
    fn no_work_is_slept_over() {
        const ROUNDS: u64 = 100_000;
        // No machine is so busy that either side stands still for this long.
        let longest = Duration::from_secs(120);
        // Where each handover takes a turn of the scheduler's, fewer have to do.
        let enough = Instant::now() + Duration::from_secs(20);
        let (bell, sent, taken) = (Bell::default(), AtomicU64::new(0), AtomicU64::new(0));
        let slept = std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| {
                let mut slept = false;
                for round in 1..=ROUNDS {
                    while sent.load(Ordering::Acquire) < round {
                        let begin = Instant::now();
                        bell.nap(longest, || sent.load(Ordering::Acquire) >= round);
                        slept |= begin.elapsed() >= longest;
                    }
                    if slept || sent.load(Ordering::Acquire) == LAST {
                        break;
                    }
                    taken.store(round, Ordering::Release);
                }
                taken.store(LAST, Ordering::Release);
                slept
            });
            for round in 1..=ROUNDS {
                let mut looks = 0;
                while taken.load(Ordering::Acquire) < round - 1 {
                    looks += 1;
                    // Where the other side waits for this core, a spin keeps it from taking anything.
                    if looks % 1_000 == 0 {
                        std::thread::yield_now();
                    }
                    core::hint::spin_loop();
                }
                if taken.load(Ordering::Acquire) == LAST || Instant::now() >= enough {
                    break;
                }
                // So that it is just about to sleep.
                for _ in 0..round % 64 {
                    core::hint::spin_loop();
                }
                sent.store(round, Ordering::Release);
                bell.ring();
            }
            sent.store(LAST, Ordering::Release);
            bell.ring();
            sleeper.join().unwrap()
        });
        assert!(!slept, "it was rung for and slept to the end");
    }
}
