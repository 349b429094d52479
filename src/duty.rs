//! Threads as roles: clocks, idle strategies, and the bell that wakes a sleeper.

use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::units::{MonoNanos, Now, UnixNanos};

/// Where the time comes from. The engine never asks; whoever calls it does, once per batch.
pub trait Clock: Send + Sync {
    /// Both readings. `mono` never goes back.
    fn now(&self) -> Now;
}

/// The host's clocks, optionally run faster (for the demo).
#[derive(Debug)]
pub struct SystemClock {
    origin: Instant,
    unix_origin: u64,
    speed: u32,
}

impl SystemClock {
    /// Real time.
    #[must_use]
    pub fn new() -> SystemClock {
        SystemClock::faster(1)
    }

    /// Time that runs `speed` times as fast from now on; 0 counts as 1.
    #[must_use]
    pub fn faster(speed: u32) -> SystemClock {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
        SystemClock { origin: Instant::now(), unix_origin: unix, speed: speed.max(1) }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Now {
        let real = self.origin.elapsed().as_nanos() as u64;
        // From 1 s on, so that "ages ago" is never before the clock's zero.
        let mono = MonoNanos(1_000_000_000 + real * u64::from(self.speed));
        let unix = if self.speed == 1 {
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
        } else {
            self.unix_origin + real * u64::from(self.speed)
        };
        Now { mono, unix: UnixNanos(unix) }
    }
}

/// A clock that goes on from where another run's stood: its monotonic readings, which the journal keeps, never go back.
pub struct ContinuedClock {
    inner: Arc<dyn Clock>,
    ahead: u64,
}

impl ContinuedClock {
    /// `inner`, whose monotonic reading is `mono` now. If it is past that, it stays as it is.
    #[must_use]
    pub fn new(inner: Arc<dyn Clock>, mono: MonoNanos) -> ContinuedClock {
        let ahead = mono.since(inner.now().mono);
        ContinuedClock { inner, ahead }
    }
}

impl Clock for ContinuedClock {
    fn now(&self) -> Now {
        let Now { mono, unix } = self.inner.now();
        Now { mono: MonoNanos(mono.0.saturating_add(self.ahead)), unix }
    }
}

/// What a thread does when there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Burns its core: the lowest latency, for a core of its own.
    Spin,
    /// Spins, and lets others run between looks.
    Yield,
    /// Spins for `spin`, then sleeps until woken, at most `nap`. The default: fit for a machine of 2 cores.
    Nap {
        /// How long to spin after the last work.
        spin: Duration,
        /// The longest sleep.
        nap: Duration,
    },
}

impl Default for Idle {
    fn default() -> Self {
        Idle::Nap { spin: Duration::from_micros(20), nap: Duration::from_micros(500) }
    }
}

/// Wakes a thread that naps; costs one load when it does not.
#[derive(Debug, Default)]
pub struct Bell {
    asleep: AtomicBool,
    sleeper: OnceLock<Thread>,
}

impl Bell {
    /// A bell that nobody sleeps by yet.
    #[must_use]
    pub fn new() -> Arc<Bell> {
        Arc::default()
    }

    /// Wakes the sleeper, if it sleeps.
    pub fn ring(&self) {
        // SYNC bell: pairs with the fence in `nap`: either we see it asleep or it sees our work.
        core::sync::atomic::fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst)
            && self.asleep.swap(false, Ordering::SeqCst)
            && let Some(thread) = self.sleeper.get()
        {
            thread.unpark();
        }
    }

    /// Sleeps at most `longest`, unless `has_work`. Only the one thread that owns the bell calls this.
    pub fn nap(&self, longest: Duration, has_work: impl FnOnce() -> bool) {
        self.sleeper.get_or_init(std::thread::current);
        self.asleep.store(true, Ordering::SeqCst);
        core::sync::atomic::fence(Ordering::SeqCst);
        if !has_work() {
            std::thread::park_timeout(longest);
        }
        self.asleep.store(false, Ordering::SeqCst);
    }
}

/// Keeps count of idle rounds and does what [`Idle`] says.
#[derive(Debug)]
pub struct Idler {
    idle: Idle,
    idle_since: Option<Instant>,
    rounds: u32,
}

impl Idler {
    /// An idler that was just busy.
    #[must_use]
    pub const fn new(idle: Idle) -> Idler {
        Idler { idle, idle_since: None, rounds: 0 }
    }

    /// Call after every round of the loop, with how much work it did.
    pub fn after(&mut self, work: usize, bell: &Bell, has_work: impl FnOnce() -> bool) {
        if work > 0 {
            self.idle_since = None;
            self.rounds = 0;
            return;
        }
        match self.idle {
            Idle::Spin => core::hint::spin_loop(),
            Idle::Yield => std::thread::yield_now(),
            Idle::Nap { spin, nap } => {
                self.rounds += 1;
                // A clock reading costs more than a look at a ring: take one every 32 rounds.
                if self.rounds % 32 != 1 && self.idle_since.is_some() {
                    // Who waits for this core, perhaps for our own answer, goes first: where threads outnumber
                    // cores a spin would cost it more than it can save us.
                    std::thread::yield_now();
                    return;
                }
                let since = *self.idle_since.get_or_insert_with(Instant::now);
                if since.elapsed() < spin {
                    std::thread::yield_now();
                } else {
                    bell.nap(nap, has_work);
                    // Still idle after the nap: nap again at once instead of spinning anew.
                    self.rounds = 0;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn no_work_is_slept_over() {
        const ROUNDS: u64 = 100_000;
        // No machine is so busy that either side stands still for this long.
        let longest = Duration::from_secs(2);
        let (bell, sent, taken) = (Bell::default(), AtomicU64::new(0), AtomicU64::new(0));
        let slept = std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| {
                let mut slept = 0;
                for round in 1..=ROUNDS {
                    while sent.load(Ordering::Acquire) < round {
                        let begin = Instant::now();
                        bell.nap(longest, || sent.load(Ordering::Acquire) >= round);
                        slept += u32::from(begin.elapsed() >= longest);
                    }
                    taken.store(round, Ordering::Release);
                }
                slept
            });
            for round in 1..=ROUNDS {
                while taken.load(Ordering::Acquire) < round - 1 {
                    core::hint::spin_loop();
                }
                // So that it is just about to sleep.
                for _ in 0..round % 64 {
                    core::hint::spin_loop();
                }
                sent.store(round, Ordering::Release);
                bell.ring();
            }
            sleeper.join().unwrap()
        });
        assert_eq!(slept, 0, "it was rung for and slept to the end");
    }
}
