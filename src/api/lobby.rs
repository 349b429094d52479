//! Where connections wait that were accepted, until they get a place and a turn.
//!
//! The system hands connections over in the order in which they came, whoever they are from: behind a crowd, a kill would wait until
//! each of the crowd was served. Taking them all in costs little, serving them much. So they are taken in at once, and served in
//! turn by where they come from.

use std::collections::{HashMap, VecDeque};

use crate::api::places::Source;

/// Connections that may wait. Each is an open file; [`ApiOptions::files`](crate::api::ApiOptions::files) counts them.
pub(super) const WAITING_MAX: usize = 1_024;

/// Those that wait, by where they come from.
pub(super) struct Lobby<T> {
    waiting: HashMap<Source, VecDeque<T>>,
    /// Sources of which somebody waits, each once, in the order of their turns.
    turns: VecDeque<Source>,
    count: usize,
}

impl<T> Default for Lobby<T> {
    fn default() -> Lobby<T> {
        Lobby { waiting: HashMap::new(), turns: VecDeque::new(), count: 0 }
    }
}

impl<T> Lobby<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether one more may come in. If not, every source has one that waits, and who comes has to stand outside.
    pub(super) fn has_room(&self) -> bool {
        self.count < WAITING_MAX || self.waiting.len() < self.count
    }

    /// Lets one in. If there are too many then, the latest of the source that has most of them is turned away.
    pub(super) fn enter(&mut self, source: Source, one: T) {
        let of_source = self.waiting.entry(source).or_default();
        if of_source.is_empty() {
            self.turns.push_back(source);
        }
        of_source.push_back(one);
        self.count += 1;
        if self.count > WAITING_MAX
            && let Some(most) = self.waiting.values_mut().max_by_key(|of_source| of_source.len())
            && most.len() > 1
        {
            most.pop_back();
            self.count -= 1;
        }
    }

    /// Whose turn it is: of the source that has waited for the longest time for one, who came first.
    pub(super) fn next(&mut self) -> Option<(Source, T)> {
        let source = self.turns.pop_front()?;
        let of_source = self.waiting.get_mut(&source)?;
        let one = of_source.pop_front()?;
        self.count -= 1;
        if of_source.is_empty() {
            self.waiting.remove(&source);
        } else {
            self.turns.push_back(source);
        }
        Some((source, one))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_alone_waits_for_one_of_each_crowd_and_is_never_turned_away_for_it() {
        let mut lobby = Lobby::default();
        for n in 0..2 * WAITING_MAX {
            lobby.enter(Source::User(n as u32 % 2), n);
        }
        assert!(lobby.has_room(), "a crowd keeps nobody outside");
        lobby.enter(Source::User(7), usize::MAX);
        assert_eq!(lobby.count, WAITING_MAX);
        let turns: Vec<usize> = std::iter::from_fn(|| lobby.next()).map(|(_, n)| n).collect();
        assert_eq!(
            turns[..5],
            [0, 1, usize::MAX, 2, 3],
            "in turn, and those of one source in the order in which they came"
        );
        assert_eq!(turns.len(), WAITING_MAX);
        assert!(lobby.is_empty() && lobby.next().is_none());
        // Where nobody has more than one, who comes waits outside instead.
        for n in 0..WAITING_MAX {
            assert!(lobby.has_room());
            lobby.enter(Source::User(n as u32), n);
        }
        assert!(!lobby.has_room());
        assert!(lobby.next().is_some() && lobby.has_room());
    }
}
