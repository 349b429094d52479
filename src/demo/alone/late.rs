//! A line to haltline that is too slow for what the old code sends: as the firm's own monitor did, it would hear of the orders later
//! and later. Nothing in the morning makes haltline late by itself, so this is assumed for one run; its control is that of the
//! age of what is heard.

use std::collections::VecDeque;

use super::*;

/// The line carries an event in this time: 2,000 a second. The old code has an order, its acknowledgement and its execution
/// 1,481 times a second.
const PER_EVENT_NS: u64 = 500_000;
/// An order that is older than this when it is heard of is too old.
const TOO_OLD_NS: i64 = 250_000_000;

/// What is on its way over the line.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// When it was sent, and what.
    waiting: VecDeque<(u64, Event)>,
    /// When the line had carried the last one.
    free_at: u64,
}

impl Line {
    /// When the next event is through, if one is on its way.
    pub(super) fn next_at(&self) -> Option<u64> {
        self.waiting.front().map(|(sent, _)| self.free_at.max(*sent) + PER_EVENT_NS)
    }

    /// `event` is sent at `at`.
    pub(super) fn send(&mut self, at: u64, event: Event) {
        self.waiting.push_back((at, event));
    }

    /// What is through at `at`, which is [`Line::next_at`], and when it was sent.
    pub(super) fn take(&mut self, at: u64) -> Option<(u64, Event)> {
        self.free_at = at;
        self.waiting.pop_front()
    }
}

impl Trial {
    /// The age of what is heard, alone, where the bad instance's line is slow.
    ///
    /// # Errors
    /// See [`Trial::run_all`].
    pub fn late(&self) -> anyhow::Result<Alone> {
        let control = Control { rule: Rule::ClockSkew, scope: ScopeKind::Session };
        let mut table = LimitTable::unlimited(&self.universe);
        let limits = table.edit_all(ScopeKind::Session);
        limits.clock_skew_ns = TOO_OLD_NS;
        limits.action[Rule::ClockSkew as usize] = Action::Halt(Target::Own);
        let mut morning = Morning::new(&self.universe, Arc::new(table), &[control], &self.cast, self.seed)?;
        morning.line = Some(Line::default());
        Ok(morning.watch(control))
    }
}
