//! Flood control: an operator can answer a handful of alerts, not a hundred. What comes faster than that is listed and
//! counted, and told in one summary.

use std::time::Duration;

use super::policy::Severity;

/// How much sooner the next critical one may be sent by itself than another.
const CRITICAL_FASTER: u64 = 10;

/// Two budgets: critical alerts have one of their own, so that a flood of warnings does not use it up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flood {
    critical: Budget,
    other: Budget,
}

impl Flood {
    pub(super) fn new(burst: u32, per: Duration) -> Flood {
        let per = u64::try_from(per.as_nanos()).unwrap_or(u64::MAX).max(1);
        let budget = |per| Budget { burst, left: burst, per, since: 0 };
        Flood { critical: budget((per / CRITICAL_FASTER).max(1)), other: budget(per) }
    }

    /// Whether an alert at `at` (Unix ns) is sent by itself.
    pub(super) fn admits(&mut self, severity: Severity, at: u64) -> bool {
        match severity {
            Severity::Critical => self.critical.take(at),
            Severity::Info | Severity::Warning => self.other.take(at),
        }
    }
}

/// `burst` at once, then one every `per` ns.
#[derive(Clone, Copy, Debug)]
struct Budget {
    burst: u32,
    left: u32,
    per: u64,
    since: u64,
}

impl Budget {
    fn take(&mut self, at: u64) -> bool {
        // A clock that was set back must not stop the refill until it has caught up.
        let more = at.saturating_sub(self.since) / self.per;
        if at < self.since || self.left == self.burst {
            self.since = at;
        } else {
            self.since += more * self.per;
            self.left = u32::try_from(more).unwrap_or(u32::MAX).saturating_add(self.left).min(self.burst);
        }
        let some = self.left > 0;
        self.left -= u32::from(some);
        some
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_handful_at_once_and_then_one_per_ten_minutes() {
        let mut flood = Flood::new(3, Duration::from_secs(600));
        let sent = (0..7_200).filter(|s| flood.admits(Severity::Warning, 1_000_000 * SECOND + s * SECOND)).count();
        // The last 600 s are not over.
        assert_eq!(sent, 3 + 11);
    }

    #[test]
    fn warnings_do_not_use_up_what_critical_ones_have() {
        let mut flood = Flood::new(2, Duration::from_secs(600));
        let at = 5 * SECOND;
        assert_eq!((0..50).filter(|_| flood.admits(Severity::Warning, at)).count(), 2);
        assert_eq!((0..50).filter(|_| flood.admits(Severity::Critical, at)).count(), 2);
        assert!(flood.admits(Severity::Critical, at + 60 * SECOND));
        assert!(!flood.admits(Severity::Warning, at + 60 * SECOND));
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_silence_alerts() {
        let mut flood = Flood::new(1, Duration::from_secs(600));
        assert!(flood.admits(Severity::Warning, 1_000_000 * SECOND));
        assert!(!flood.admits(Severity::Warning, 1_000 * SECOND));
        assert!(flood.admits(Severity::Warning, 1_600 * SECOND));
    }
}
