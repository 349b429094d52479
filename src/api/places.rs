//! The places for connections at one door: who gets one, and who loses theirs when there are none left.
//!
//! A connection that comes while all places are taken is looked at before anything is known of it, and there may be tens of
//! thousands of them in a second: nothing here looks at every connection unless one caller holds too many.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::api::auth::network;
use crate::api::routes::Origin;

/// Marks a connection as busy as long as a request is in progress on it, or it has a stream.
pub(super) struct Busy(Arc<Used>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.reasons.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a connection is used for. Requests on it come one after the other.
#[derive(Default)]
pub(super) struct Used {
    /// How many reasons there are not to take its place away.
    reasons: AtomicUsize,
    /// It is known who asks.
    known: AtomicBool,
    /// The body of the request is not all here.
    waits: AtomicBool,
    /// How often was read since the last request began, or was whole.
    reads: AtomicU32,
    /// Whose request was the last.
    owner: Mutex<Option<Owner>>,
    callers: Arc<Callers>,
}

impl Used {
    /// Keeps its place for the connection until dropped, as long as it is known whose it is.
    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        self.reasons.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }

    /// A request begins: its head is here.
    pub(super) fn begins(&self, waits: bool) {
        self.known.store(false, Ordering::Relaxed);
        self.waits.store(waits, Ordering::Relaxed);
        self.reads.store(0, Ordering::Relaxed);
    }

    /// The request is here as a whole.
    pub(super) fn is_whole(&self) {
        self.waits.store(false, Ordering::Relaxed);
        self.reads.store(0, Ordering::Relaxed);
    }

    /// How often was read from the connection since its last request began, or was whole.
    pub(super) fn reads(&self) -> u32 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Something was read from the connection.
    pub(super) fn has_read(&self) {
        self.reads.fetch_add(1, Ordering::Relaxed);
    }

    /// The request that is in progress is `caller`'s.
    pub(super) fn is_known(&self, caller: &str) {
        self.known.store(true, Ordering::Relaxed);
        let held = self.callers.of(caller);
        if !self.is_of(&held) {
            held.fetch_add(1, Ordering::Relaxed);
            *self.owner() = Some(Owner(held));
        }
    }

    /// Whether the last request was of the caller whose connections are `held`.
    fn is_of(&self, held: &Arc<AtomicUsize>) -> bool {
        self.owner().as_ref().is_some_and(|Owner(owner)| Arc::ptr_eq(owner, held))
    }

    /// How well its place is deserved; `None`: it is not taken away.
    fn rank(&self) -> Option<u8> {
        if self.reasons.load(Ordering::Relaxed) == 0 {
            return Some(0);
        }
        // Whoever asks without a name, or lets us wait for what they want, can do so from as many connections as there are.
        let earned = self.known.load(Ordering::Relaxed) && !self.waits.load(Ordering::Relaxed);
        (!earned).then_some(1)
    }

    fn owner(&self) -> MutexGuard<'_, Option<Owner>> {
        self.owner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts as one of the connections of its caller; until it is dropped.
struct Owner(Arc<AtomicUsize>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many connections each caller has. As many entries as there are names in the configuration at most.
#[derive(Default)]
struct Callers(Mutex<HashMap<String, Arc<AtomicUsize>>>);

impl Callers {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<AtomicUsize>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, caller: &str) -> Arc<AtomicUsize> {
        let mut callers = self.lock();
        if let Some(held) = callers.get(caller) {
            return held.clone();
        }
        callers.entry(caller.to_owned()).or_default().clone()
    }

    /// Who has most, if that is more than `share`.
    fn greediest(&self, share: usize) -> Option<Arc<AtomicUsize>> {
        let callers = self.lock();
        let most = callers.values().max_by_key(|held| held.load(Ordering::Relaxed))?;
        (most.load(Ordering::Relaxed) > share).then(|| most.clone())
    }
}

/// Where connections come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Source {
    Network(IpAddr),
    User(u32),
}

impl Source {
    pub(super) fn of(origin: Origin) -> Source {
        match origin {
            Origin::Network(peer) => Source::Network(network(peer.ip())),
            Origin::Local(uid) => Source::User(uid),
        }
    }
}

/// The places for connections.
pub(super) struct Places {
    connections: usize,
    reserved: usize,
    callers: Arc<Callers>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    next: u64,
    list: HashMap<u64, OpenConnection>,
    /// How many of them are served in full.
    in_full: usize,
    /// Which of them come from where; by number, so the oldest first.
    crowds: HashMap<Source, BTreeSet<u64>>,
    /// The sources of crowds of each size.
    sizes: BTreeMap<usize, BTreeSet<Source>>,
}

impl Open {
    fn crowd(&self, source: Source) -> usize {
        self.crowds.get(&source).map_or(0, BTreeSet::len)
    }

    fn add(&mut self, connection: OpenConnection) -> u64 {
        self.next += 1;
        self.in_full += usize::from(!connection.kill_only);
        self.change(connection.source, |crowd, number| crowd.insert(number), self.next);
        self.list.insert(self.next, connection);
        self.next
    }

    fn remove(&mut self, number: u64) -> Option<OpenConnection> {
        let gone = self.list.remove(&number)?;
        self.in_full -= usize::from(!gone.kill_only);
        self.change(gone.source, |crowd, number| crowd.remove(&number), number);
        // Its task may not be gone yet: it counts no more all the same.
        *gone.used.owner() = None;
        Some(gone)
    }

    fn change(&mut self, source: Source, change: impl FnOnce(&mut BTreeSet<u64>, u64) -> bool, number: u64) {
        let crowd = self.crowds.entry(source).or_default();
        let before = crowd.len();
        change(crowd, number);
        let after = crowd.len();
        if after == 0 {
            self.crowds.remove(&source);
        }
        if let Some(sources) = self.sizes.get_mut(&before) {
            sources.remove(&source);
            if sources.is_empty() {
                self.sizes.remove(&before);
            }
        }
        if after > 0 {
            self.sizes.entry(after).or_default().insert(source);
        }
    }

    /// Of the crowds with more than `beyond` the largest in which somebody can be asked to go: the oldest without a request,
    /// else with one that nobody known has sent whole. `in_full`: among those that are served in full.
    fn least_deserved(&self, beyond: usize, in_full: bool) -> Option<u64> {
        let of_size = |sources: &BTreeSet<Source>| {
            let of_crowd = |source| {
                let mut least: Option<(u8, u64)> = None;
                for number in self.crowds.get(source)? {
                    let one = self.list.get(number).filter(|one| !(in_full && one.kill_only));
                    match one.and_then(|one| one.used.rank()) {
                        // The first of the lowest rank is the oldest: there is none better.
                        Some(0) => return Some((0, *number)),
                        Some(rank) => least = least.or(Some((rank, *number))),
                        None => {}
                    }
                }
                least
            };
            sources.iter().filter_map(of_crowd).min().map(|(_, number)| number)
        };
        self.sizes.range(beyond + 1..).rev().find_map(|(_, sources)| of_size(sources))
    }

    /// The oldest connection that is served in full of the caller whose they are `held`; one without a request before others.
    fn of_caller(&self, held: &Arc<AtomicUsize>) -> Option<u64> {
        let theirs = self.list.iter().filter(|(_, one)| !one.kill_only);
        let theirs = theirs.filter(|(_, one)| one.used.is_of(held));
        theirs.map(|(number, one)| (one.used.reasons.load(Ordering::Relaxed) > 0, *number)).min().map(|(_, n)| n)
    }
}

struct OpenConnection {
    source: Source,
    used: Arc<Used>,
    kill_only: bool,
    task: Option<tokio::task::AbortHandle>,
}

/// A connection's place; free again when dropped.
pub(super) struct Place {
    pub(super) number: u64,
    pub(super) used: Arc<Used>,
    pub(super) kill_only: bool,
    places: Arc<Places>,
}

impl Places {
    pub(super) fn new(connections: usize, reserved: usize) -> Places {
        Places {
            connections: connections.max(1),
            reserved: reserved.max(1),
            callers: Arc::default(),
            open: Mutex::default(),
        }
    }

    /// A place for a new connection from `source`. If all are taken, somebody loses theirs: the caller with most of them, if
    /// those are more than a quarter; else, of the source that has most of them, the oldest without a request, else with one
    /// that nobody known has sent whole. Where the newcomer's source has fewer, that is so before the last ones are touched.
    /// `None` if nobody can be asked to go.
    pub(super) fn take(self: &Arc<Self>, source: Source) -> Option<Place> {
        let mut open = self.lock();
        if open.in_full >= self.connections {
            let greediest = self.callers.greediest((self.connections / 4).max(1));
            let is_full = open.list.len() >= self.connections + self.reserved;
            // One that is served in full makes room for one that is, if it is one too many of its caller's or its crowd is larger.
            let served = greediest
                .and_then(|held| open.of_caller(&held))
                .or_else(|| open.least_deserved(open.crowd(source) + 1, true));
            let away = match served {
                None if is_full => Some(open.least_deserved(0, false)?),
                away => away,
            };
            if let Some(number) = away
                && let Some(task) = open.remove(number).and_then(|c| c.task)
            {
                task.abort();
            }
        }
        let kill_only = open.in_full >= self.connections;
        let used = Arc::new(Used { callers: self.callers.clone(), ..Used::default() });
        let number = open.add(OpenConnection { source, used: used.clone(), kill_only, task: None });
        Some(Place { number, used, kill_only, places: self.clone() })
    }

    pub(super) fn set_task(&self, number: u64, task: tokio::task::AbortHandle) {
        if let Some(connection) = self.lock().list.get_mut(&number) {
            connection.task = Some(task);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(host: u8) -> Source {
        Source::of(Origin::Network((IpAddr::from([127, 0, 0, host]), 1).into()))
    }

    fn kept(places: &Places) -> Vec<u64> {
        let mut kept: Vec<u64> = places.lock().list.keys().copied().collect();
        kept.sort_unstable();
        kept
    }

    #[test]
    fn the_largest_crowd_makes_room_and_in_it_who_waits_for_nothing_and_nobody_who_is_known() {
        let places = Arc::new(Places::new(3, 2));
        let first = places.take(from(1)).unwrap();
        let crowd: Vec<Place> = (0..4).map(|_| places.take(from(2)).unwrap()).collect();
        assert_eq!(crowd.iter().map(|place| place.kill_only).collect::<Vec<_>>(), [false, false, true, true]);
        // Neither the eldest, which came alone, nor one with a request, as long as there is one without.
        let busy = crowd[0].used.busy();
        crowd[0].used.begins(true);
        let fresh = places.take(from(3)).unwrap();
        assert!(!fresh.kill_only, "those that are many are no reason not to serve others");
        assert_eq!(kept(&places), [1, 2, 4, 5, 6]);
        // A request counts for nothing before it is known who sent it, and before it is whole.
        let others: Vec<Busy> = crowd[2..].iter().map(|place| place.used.busy()).collect();
        crowd[2..].iter().zip(["c", "d"]).for_each(|(place, caller)| place.used.is_known(caller));
        crowd[0].used.is_known("a");
        let more = places.take(from(2)).unwrap();
        assert_eq!(kept(&places), [1, 4, 5, 6, 7]);
        // Who is known and has asked keeps the place, whoever comes.
        let all: Vec<Busy> = [&first, &fresh, &more].map(|place| place.used.busy()).into();
        [&first, &fresh, &more].iter().zip(["e", "f", "g"]).for_each(|(place, caller)| place.used.is_known(caller));
        assert!(places.take(from(4)).is_none());
        drop((busy, others, all));
        let last = places.take(from(4)).unwrap();
        assert_eq!(kept(&places), [1, 4, 5, 6, 8], "one of those that are most, and are served in full");
        drop(last);
        assert_eq!(kept(&places), [1, 4, 5, 6]);
    }

    #[test]
    fn a_caller_with_more_than_a_quarter_makes_room_although_it_is_known_and_down_to_that_only() {
        let places = Arc::new(Places::new(8, 2));
        let ask = |host: u8, caller: &str| {
            let place = places.take(from(host)).unwrap();
            let busy = place.used.busy();
            place.used.begins(false);
            place.used.is_known(caller);
            (place, busy)
        };
        // From everywhere, so that no source has many.
        let greedy: Vec<_> = (0..8).map(|host| ask(host, "greedy")).collect();
        let others: Vec<_> = (0..6).map(|n| ask(9, ["a", "b", "c", "d", "e", "f"][n])).collect();
        assert!(others.iter().all(|(place, _)| !place.kill_only));
        assert_eq!(kept(&places), [7, 8, 9, 10, 11, 12, 13, 14], "the oldest of the greedy one's went");
        assert!(ask(10, "z").0.kill_only, "nobody has too many now");
        drop((greedy, others));
        assert_eq!(kept(&places), [0; 0]);
        assert_eq!(places.callers.lock().values().map(|held| held.load(Ordering::Relaxed)).sum::<usize>(), 0);
    }
}
