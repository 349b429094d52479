//! The last trips, warnings and anomalies, for whoever looks: a bounded list, the newest kept.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// One alert in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Alert {
    /// Counts from 1, without gaps: a reader sees whether it missed any.
    pub number: u64,
    /// When, Unix ns.
    pub at: u64,
    /// `trip`, `warn`, `anomaly`, or `page`: somebody outside raised the halt page.
    pub kind: &'static str,
    /// The rule's or the anomaly's name; `raised_outside`.
    pub name: &'static str,
    /// What happened, in one sentence.
    pub text: String,
}

/// How many alerts are kept.
pub const KEPT: usize = 256;

/// The list. Written by the control thread, read by the API.
#[derive(Debug, Default)]
pub struct Alerts {
    list: Mutex<(u64, VecDeque<Alert>)>,
}

impl Alerts {
    /// Adds an alert; the oldest goes when there are more than [`KEPT`].
    pub fn push(&self, at: u64, kind: &'static str, name: &'static str, text: String) {
        let mut list = self.lock();
        list.0 += 1;
        let number = list.0;
        if list.1.len() == KEPT {
            list.1.pop_front();
        }
        list.1.push_back(Alert { number, at, kind, name, text });
    }

    /// The newest `count`, newest first.
    #[must_use]
    pub fn newest(&self, count: usize) -> Vec<Alert> {
        self.lock().1.iter().rev().take(count).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, (u64, VecDeque<Alert>)> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_is_bounded_and_keeps_the_newest() {
        let alerts = Alerts::default();
        for n in 0..KEPT as u64 + 10 {
            alerts.push(n, "warn", "gross_exposure", n.to_string());
        }
        let newest = alerts.newest(usize::MAX);
        assert_eq!(newest.len(), KEPT);
        assert_eq!(newest[0].number, KEPT as u64 + 10);
        assert_eq!(newest[KEPT - 1].text, "10");
    }
}
