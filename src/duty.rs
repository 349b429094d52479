//! Threads as roles: clocks and idle strategies.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::ring::bell::Bell;
use crate::units::{MonoNanos, Now, UnixNanos};

/// Where the time comes from. The engine never asks; whoever calls it does, once per batch.
pub trait Clock: Send + Sync {
    /// Both readings. `mono` never goes back.
    fn now(&self) -> Now;

    /// The host's `CLOCK_MONOTONIC`, in ns, at the moment of the reading `mono`: what other processes can compare with.
    fn host_ns(&self, mono: MonoNanos) -> u64 {
        mono.0
    }
}

/// The host's clocks, optionally run faster (for the demo).
#[derive(Debug)]
pub struct SystemClock {
    origin: u64,
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
        SystemClock { origin: monotonic_ns(), unix_origin: unix, speed: speed.max(1) }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Now {
        // The system's own monotonic clock, the same in every process: gates and receipts compare with it.
        let mono = monotonic_ns();
        let real = mono.saturating_sub(self.origin);
        let mono = MonoNanos(self.origin + real * u64::from(self.speed));
        let unix = if self.speed == 1 {
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
        } else {
            self.unix_origin + real * u64::from(self.speed)
        };
        Now { mono, unix: UnixNanos(unix) }
    }

    fn host_ns(&self, mono: MonoNanos) -> u64 {
        self.origin + mono.0.saturating_sub(self.origin) / u64::from(self.speed)
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds: never steps, the same for all processes of a host, stands while it is suspended.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // Counts from the boot of the machine: never negative.
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
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

    fn host_ns(&self, mono: MonoNanos) -> u64 {
        self.inner.host_ns(MonoNanos(mono.0.saturating_sub(self.ahead)))
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
    use super::*;

    #[test]
    fn a_lease_of_a_clock_that_runs_faster_is_not_longer_on_the_host() {
        let clock = SystemClock::faster(1_000);
        let began = monotonic_ns();
        while monotonic_ns() < began + 1_000_000 {
            std::hint::spin_loop();
        }
        let host = clock.host_ns(clock.now().mono);
        let after = monotonic_ns();
        assert!((began..=after).contains(&host), "{began} {host} {after}");
        let continued = ContinuedClock::new(Arc::new(SystemClock::new()), MonoNanos(u64::MAX / 2));
        let before = monotonic_ns();
        let host = continued.host_ns(continued.now().mono);
        assert!((before..=monotonic_ns()).contains(&host));
    }
}
